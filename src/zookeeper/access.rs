//! Who may change what a namespace keeps: which of its nodes are anybody's, how they become one user's, and
//! the refusal to use them.
//!
//! Every node is looked at, and not the topmost alone: ZooKeeper hands no rights down, and a decision that
//! anybody may write could be put in the place of ours, or taken away. Relies on nobody being able to add nodes
//! below one that is guarded, so that it is enough to look when a session is opened.

use futures_util::future::join_all;
use zookeeper_client as zk;

use super::connection::{Connection, Effect, ZookeeperSettings};
use super::paths::Paths;
use super::tree::below;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::Namespace;

const OPERATION: &str = "look at rights in ZooKeeper";
/// Questions that are under way at the same time.
const ASKED_AT_ONCE: usize = 64;
/// As many nodes are named in an error.
const NAMED: usize = 3;
/// While nodes are guarded, programs that have no user yet may add others, for as long as a folder is anybody's.
const ROUNDS: u32 = 5;

/// The nodes of a namespace that anybody may change, from the top down; none where it is not there.
pub async fn exposed_nodes(settings: &ZookeeperSettings, namespace: &Namespace) -> Result<Vec<String>> {
    let paths = Paths::new(settings, namespace)?;
    let connection = Connection::open(settings).await?;
    let found = exposed(&connection, &paths).await?;
    // Only read: the answer stands, whether or not the servers confirm the end of the session.
    drop(connection);
    Ok(found)
}

/// Refuses nodes that anybody may change, where the configuration asks for that.
pub(super) async fn expect_guarded(connection: &Connection, paths: &Paths) -> Result<()> {
    if !connection.requires_acl() {
        return Ok(());
    }
    let exposed = exposed(connection, paths).await?;
    let Some(first) = exposed.first() else { return Ok(()) };
    let (count, named) = (exposed.len(), exposed[..exposed.len().min(NAMED)].join(", "));
    let why = format!(
        "[zookeeper] require_acl is true, and anybody may change {count} nodes, {named} among them: have all programs \
         and relays use [zookeeper] user and password, and run `onecommit init`, which gives the nodes to that user"
    );
    Err(Error::new(ErrorKind::Refused, OPERATION, why).with("path", first))
}

/// Gives every node that anybody may change to this session's user; returns how many there were.
pub(super) async fn guard(connection: &Connection, paths: &Paths) -> Result<usize> {
    let mut guarded = 0;
    for _ in 0..ROUNDS {
        // From the top down: what is below a guarded folder is made by nobody else any more.
        let exposed = exposed(connection, paths).await?;
        if exposed.is_empty() {
            return Ok(guarded);
        }
        let mine = [zk::Acl::new(zk::Permission::ALL, zk::AuthId::authed())];
        for path in exposed {
            failpoint!("zookeeper.guard.before_commit")?;
            match connection.call(connection.client().set_acl(&path, &mine, None)).await {
                Ok(_) => guarded += 1,
                Err(zk::Error::NoNode) => {}
                Err(error) => {
                    let error = connection.error("guard nodes in ZooKeeper", Effect::Possible, error);
                    return Err(error.with("path", path));
                }
            }
            failpoint!("zookeeper.guard.after_commit")?;
        }
    }
    let why = "nodes that anybody may change come again and again: stop the programs and relays that have no \
               [zookeeper] user and password, and run this again";
    Err(Error::new(ErrorKind::Refused, "guard nodes in ZooKeeper", why).with("path", paths.root()))
}

async fn exposed(connection: &Connection, paths: &Paths) -> Result<Vec<String>> {
    let mut all = vec![paths.root().to_string()];
    all.extend(below(connection, paths.root()).await?);
    let mut exposed = Vec::new();
    for page in all.chunks(ASKED_AT_ONCE) {
        let asked = page.iter().map(|path| connection.call(connection.client().get_acl(path)));
        for (path, answer) in page.iter().zip(join_all(asked).await) {
            match answer {
                Ok((acls, _)) if acls.iter().any(lets_anybody_change) => exposed.push(path.clone()),
                Ok(_) | Err(zk::Error::NoNode) => {}
                Err(error) => {
                    return Err(connection.error(OPERATION, Effect::None, error).with("path", path));
                }
            }
        }
    }
    Ok(exposed)
}

fn lets_anybody_change(acl: &zk::Acl) -> bool {
    use zk::Permission;
    let changes = [Permission::WRITE, Permission::CREATE, Permission::DELETE, Permission::ADMIN];
    acl.scheme() == "world" && changes.into_iter().any(|right| acl.permission().has(right))
}
