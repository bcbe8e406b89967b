//! Leases in ZooKeeper. A relay that lives is an ephemeral node, and so is the ownership of a
//! shard; the shard's epoch is the data of a persistent node and is raised in the same transaction
//! that makes somebody the owner. Relies on ZooKeeper ending the sessions of the dead. Promises that
//! only what this very session holds counts as held, and that a lost session is replaced by
//! [`ZookeeperLease::renew`](super::Lease::renew).

mod port;
mod read;

pub use port::ZookeeperLease;
