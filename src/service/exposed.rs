//! The nodes in ZooKeeper that anybody may change: for whoever is to be warned of them.

use super::build;
use crate::config::Config;
use crate::error::Result;
use crate::zookeeper;

/// As many nodes are named to a person.
const NAMED: usize = 3;

/// How many nodes of this namespace anybody may change, and the topmost of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposed {
    /// How many there are.
    pub nodes: usize,
    /// The first few of them, from the top down.
    pub examples: Vec<String>,
}

/// Looks at every node; None where nothing is kept in ZooKeeper. Changes nothing.
pub async fn exposed(config: &Config) -> Result<Option<Exposed>> {
    let Some(settings) = build::zookeeper(config) else { return Ok(None) };
    let mut found = zookeeper::exposed_nodes(&settings, &config.namespace).await?;
    let nodes = found.len();
    found.truncate(NAMED);
    Ok(Some(Exposed { nodes, examples: found }))
}

impl Exposed {
    /// What is wrong, in words; None where nothing is.
    pub fn warning(&self) -> Option<String> {
        let named = self.examples.join(", ");
        (self.nodes > 0).then(|| format!("anybody may change {} nodes, {named} among them", self.nodes))
    }

    /// The way on.
    pub const TODO: &str = "set [zookeeper] user and password for all programs and relays, and run `onecommit init`, which gives the \
         nodes to that user; then require_acl = true";
}
