//! The assembly floor: builds adapters from the configuration, and starts and stops them in order.
//! The only place that knows every backend.

mod adopt;
mod alone;
mod build;
mod init;
mod reader;
mod relay;
mod remove;
mod status;

pub use adopt::{Found, FoundShard, FoundZookeeper, adopt, look_before_adopting};
pub use build::scope;
pub use init::{InitReport, ParticipantReport, init};
pub use reader::{Reader, open_reader};
pub use relay::run_relays;
pub use remove::{Removal, look_before_removing, remove, undelivered};
pub use status::{ParticipantStatus, ShardStatus, status};
