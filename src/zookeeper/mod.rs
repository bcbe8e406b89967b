//! ZooKeeper: one session, how it is reached, and where a namespace keeps its things and whose they
//! are. Relies on ZooKeeper 3.6 or newer; promises that no call waits without a limit.

mod access;
mod connection;
mod layout;
mod nodes;
mod paths;
mod tls;
mod tree;
mod version;

pub use access::exposed_nodes;
pub use connection::ZookeeperSettings;
pub(crate) use connection::{Connection, Effect};
pub use layout::{adopt, found_incarnation, has_coordinators, init, remove};
pub(crate) use layout::{check, check_layout, check_prepared, expect};
pub(crate) use nodes::Node;
pub(crate) use paths::Paths;
pub use tls::ZookeeperTls;
pub use version::versions;
