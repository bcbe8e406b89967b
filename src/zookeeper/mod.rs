//! ZooKeeper: one session, how it is reached, and where a namespace keeps its things and whose they
//! are. Relies on ZooKeeper 3.6 or newer; promises that no call waits without a limit.

mod connection;
mod layout;
mod tls;
mod version;

pub use connection::ZookeeperSettings;
pub(crate) use connection::{Connection, Effect};
pub(crate) use layout::{Paths, check, expect};
pub use layout::{adopt, found_incarnation, init, remove};
pub use tls::ZookeeperTls;
pub use version::versions;
