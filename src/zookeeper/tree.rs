//! What lies below a node, as it is listed.

use zookeeper_client as zk;

use super::connection::{Connection, Effect};
use crate::error::Result;

/// The names below a node; none where it is not there.
pub(super) async fn children(connection: &Connection, path: &str) -> Result<Vec<String>> {
    match connection.call(connection.client().list_children(path)).await {
        Ok(found) => Ok(found),
        Err(zk::Error::NoNode) => Ok(Vec::new()),
        Err(error) => Err(connection.error("look at ZooKeeper", Effect::None, error).with("path", path)),
    }
}

/// All nodes below one, each behind those above it.
pub(super) async fn below(connection: &Connection, root: &str) -> Result<Vec<String>> {
    let (mut found, mut at) = (Vec::new(), 0);
    let mut open = root.to_string();
    loop {
        found.extend(children(connection, &open).await?.into_iter().map(|name| format!("{open}/{name}")));
        let Some(next) = found.get(at) else { break };
        open.clone_from(next);
        at += 1;
    }
    Ok(found)
}
