//! The assembly floor: builds adapters from the configuration, and starts and stops them in order.
//! The only place that knows every backend.

mod build;
mod doctor;
mod init;
mod look;
mod observed;
mod reader;
mod relay;
mod status;

pub use build::scope;
pub use doctor::{Finding, Findings, Severity, doctor};
pub use init::{InitReport, ParticipantReport, init};
pub use observed::{Observed, Reason};
pub use reader::{Reader, open_reader};
pub use relay::{run_observed, run_relays};
pub use status::{ParticipantStatus, ShardStatus, status};
