//! The decision log in ZooKeeper. A coordinator's record and each batch are nodes; every write of a
//! coordinator checks the version of one node, the fence, and whoever takes over raises it. That a
//! coordinator lives, or is being recovered, is an ephemeral node. Relies on ZooKeeper doing a `multi`
//! as a whole, in the order in which a session sends; promises that nothing is written behind a fence.

mod decide;
mod nodes;
mod outcomes;
mod port;
mod removal;
mod takeover;

pub use port::ZookeeperDecisionLog;
