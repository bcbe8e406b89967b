//! Leases in ZooKeeper. A relay that lives is an ephemeral node, and so is the ownership of a
//! shard; the shard's epoch is the data of a persistent node and is raised in the same transaction
//! that makes somebody the owner. Relies on ZooKeeper (3.6 or newer) ending the sessions of the
//! dead. Promises that only what this very session holds counts as held, and that a lost session
//! is replaced by [`ZookeeperLease::renew`](Lease::renew).

mod connection;
mod layout;
mod port;
mod read;
mod tls;
mod version;

pub use self::connection::ZookeeperSettings;
pub use self::layout::{adopt, found_incarnation, init, remove};
pub use self::port::ZookeeperLease;
pub use self::tls::ZookeeperTls;
pub use self::version::versions;
