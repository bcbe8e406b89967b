//! Transactions over several databases: decided in the decision log, and settled by any node that
//! lives. Drives the protocol against the ports; what runs on the caller's own connections is said by a
//! [`Dialogue`], and sent by whoever has them.

mod caretaker;
mod decider;
mod dialogue;
mod forget;
mod held;
mod holder;
mod holdings;
mod identity;
mod known;
mod legacy;
mod locks;
mod member;
mod missing;
mod node;
mod recover;
mod registration;
mod resolve;
mod settings;
mod settle;
mod survey;
mod tally;
mod transaction;

pub use caretaker::{Caretaker, CoordinatorState, SeenBranch, SeenCoordinator};
pub use dialogue::{Ack, Answer, Dialogue, Failure, Finished, Message, Next, Options};
pub use forget::{Forgetting, GivenUp};
pub use holder::HeldLock;
pub use holdings::Holdings;
pub use identity::NewId;
pub use known::{Known, Seen, SeenState};
pub use member::Member;
pub use node::Node;
pub use resolve::{Prospect, Resolved};
pub use settings::CoordinatorSettings;
pub use survey::{Survey, Surveyed};
pub use tally::RecoveryTally;
pub use transaction::Transaction;
