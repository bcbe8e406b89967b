//! What lies below a node, as it is listed.

use super::connection::Connection;
use crate::error::Result;

/// The names below a node; none where it is not there.
pub(super) async fn children(connection: &Connection, path: &str) -> Result<Vec<String>> {
    Ok(connection.names("look at ZooKeeper", path).await?.unwrap_or_default())
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
