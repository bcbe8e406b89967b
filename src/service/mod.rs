//! The assembly floor: builds adapters from the configuration, and starts and stops them in order.
//! The only place that knows every backend.

mod adopt;
mod alone;
mod build;
mod dead_letters;
mod doctor;
mod emptied;
mod exposed;
mod follow;
mod init;
mod installed;
mod limits;
mod look;
mod membership;
mod node;
mod nodes;
mod observed;
mod presence;
mod reader;
mod recover;
mod relay;
mod relay_id;
mod remove;
mod settings;
mod status;

pub use adopt::{Found, FoundShard, FoundZookeeper, adopt, look_before_adopting};
pub use build::scope;
pub use dead_letters::{Answer, Of, Owned, ask, dead_letter, dead_letters, declare_topic};
pub use doctor::{Finding, Findings, Severity, doctor};
pub use exposed::{Exposed, exposed};
pub use follow::Following;
pub use init::{InitReport, ParticipantReport, init};
pub use membership::{GroupView, Membership};
pub use node::{open_caretaker, open_node};
pub use nodes::{NodeEvent, Nodes, NodesWatcher, SeenNode, UnseenRelay, nodes};
pub use observed::{Observed, Reason};
pub use presence::{LockFacts, NodeFacts};
pub use reader::{Reader, open_reader};
pub use relay::{run_observed, run_relays};
pub use remove::{Removal, look_before_removing, remove, undelivered};
pub use settings::{SettingChanged, SettingsChange, SettingsView, SettingsWatcher, change_setting, settings};
pub use status::{ParticipantStatus, ShardStatus, status, survey};
