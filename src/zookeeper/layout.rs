//! Whose it is that Onecommit keeps in ZooKeeper: the node `layout` with the version of it all and the
//! incarnation.
//! Relies on nobody else writing there; promises that nothing is used that another incarnation or
//! an unknown release has made.

use serde::{Deserialize, Serialize};
use zookeeper_client as zk;

use super::access::{expect_guarded, guard};
use super::connection::{Connection, Effect, ZookeeperSettings};
use super::paths::Paths;
use super::tree::{below, children};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{Incarnation, Namespace};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Layout {
    version: u32,
    incarnation: String,
}

/// Prepares ZooKeeper for a namespace. Nothing changes when that was done before for the same
/// incarnation; another one is refused. Nodes that anybody may change become the user's, where there is
/// one; returns how many.
pub async fn init(
    settings: &ZookeeperSettings,
    namespace: &Namespace,
    incarnation: Incarnation,
) -> Result<usize> {
    let operation = "prepare ZooKeeper";
    let paths = Paths::new(settings, namespace)?;
    let connection = Connection::open(settings).await?;
    connection.create_folders(operation, paths.root()).await.map_err(|error| not_allowed(error, &paths))?;
    let data = encode(incarnation)?;
    failpoint!("zookeeper.init.before_commit")?;
    let options = zk::CreateMode::Persistent.with_acls(connection.acls());
    let path = paths.layout();
    match connection.call(connection.client().create(&path, &data, &options)).await {
        Ok(_) => {}
        Err(zk::Error::NodeExists) => check_layout(&connection, &paths, incarnation).await?,
        Err(error) => {
            let error = connection.error(operation, Effect::Possible, error).with("path", path);
            return Err(not_allowed(error, &paths));
        }
    }
    failpoint!("zookeeper.init.after_commit")?;
    let guarded = if settings.user.is_some() { guard(&connection, &paths).await? } else { 0 };
    connection.close().await?;
    Ok(guarded)
}

/// A user without the right learns what to have made.
fn not_allowed(error: Error, paths: &Paths) -> Error {
    if error.kind() != ErrorKind::Configuration {
        return error;
    }
    let why = format!(
        "the node {} can't be made by this user: have it made by one who may, with all rights on it for \
         this user, and run this again",
        paths.root()
    );
    Error::new(ErrorKind::Configuration, error.operation(), why).caused_by(error)
}

/// The incarnation that ZooKeeper has for a namespace; None where it was never prepared.
pub async fn found_incarnation(
    settings: &ZookeeperSettings,
    namespace: &Namespace,
) -> Result<Option<Incarnation>> {
    let paths = Paths::new(settings, namespace)?;
    let connection = Connection::open(settings).await?;
    let found = read(&connection, &paths).await?.map(|data| decode(&paths, &data)).transpose()?;
    // Only read: the answer stands, whether or not the servers confirm the end of the session.
    drop(connection);
    Ok(found)
}

/// Whether any coordinator has a record in a namespace, whosever it is.
pub async fn has_coordinators(settings: &ZookeeperSettings, namespace: &Namespace) -> Result<bool> {
    let paths = Paths::new(settings, namespace)?;
    let connection = Connection::open(settings).await?;
    let found = children(&connection, &paths.all_coordinators()).await?;
    // Only read, as above.
    drop(connection);
    Ok(!found.is_empty())
}

/// Makes a namespace this incarnation's, whoever's it was. Refused while any relay or coordinator lives
/// there, or a dead coordinator has a record.
pub async fn adopt(
    settings: &ZookeeperSettings,
    namespace: &Namespace,
    incarnation: Incarnation,
) -> Result<()> {
    const OPERATION: &str = "adopt ZooKeeper";
    let paths = Paths::new(settings, namespace)?;
    let connection = Connection::open(settings).await?;
    let found = read(&connection, &paths).await?.map(|data| decode(&paths, &data)).transpose()?;
    if found.is_none_or(|found| found == incarnation) {
        connection.close().await?;
        return init(settings, namespace, incarnation).await.map(drop);
    }
    let living = living(&connection, &paths).await?;
    if !living.is_empty() {
        let why = "relays or coordinators of another installation live in this namespace: stop them, or use another \
                   namespace";
        return Err(refused(&paths, why).with("living", living.join(", ")));
    }
    expect_settled(&connection, &paths).await?;
    let (path, data) = (paths.layout(), encode(incarnation)?);
    failpoint!("zookeeper.adopt.before_commit")?;
    let written = connection.call(connection.client().set_data(&path, &data, None)).await;
    written.map_err(|error| connection.error(OPERATION, Effect::Possible, error).with("path", &path))?;
    failpoint!("zookeeper.adopt.after_commit")?;
    connection.close().await
}

/// Removes everything of a namespace, if it is this incarnation's. Refused while any relay or coordinator
/// lives there, or a dead coordinator has a record; idempotent.
pub async fn remove(
    settings: &ZookeeperSettings,
    namespace: &Namespace,
    incarnation: Incarnation,
) -> Result<()> {
    let paths = Paths::new(settings, namespace)?;
    let connection = Connection::open(settings).await?;
    let Some(data) = read(&connection, &paths).await? else { return connection.close().await };
    expect(&paths, Some(&data), incarnation)?;
    let living = living(&connection, &paths).await?;
    if !living.is_empty() {
        let why = "relays or coordinators of this namespace live: stop them, and run this again";
        return Err(refused(&paths, why).with("living", living.join(", ")));
    }
    expect_settled(&connection, &paths).await?;
    // The layout goes last: without it nobody could tell whose the rest is.
    let mut nodes = below(&connection, paths.root()).await?;
    nodes.reverse();
    nodes.retain(|path| *path != paths.layout());
    nodes.extend([paths.layout(), paths.root().to_string()]);
    for path in nodes {
        failpoint!("zookeeper.remove.before_commit")?;
        connection.delete("remove from ZooKeeper", &path).await?;
        failpoint!("zookeeper.remove.after_commit")?;
    }
    connection.close().await
}

/// Refused while a coordinator has a record: what was decided of the branches that it has prepared stands
/// nowhere else.
async fn expect_settled(connection: &Connection, paths: &Paths) -> Result<()> {
    let dead = children(connection, &paths.all_coordinators()).await?;
    if dead.is_empty() {
        return Ok(());
    }
    let why = "dead coordinators have a record in this namespace, and branches of theirs may be prepared: let a \
               relay of their installation, or a program that opens onecommit there and makes no transaction, run \
               until it has settled what they left, and run this again";
    Err(refused(paths, why).with("dead", dead.join(", ")))
}

/// Who lives in the namespace: the relays of all participants, each as `relays/participant/relay`, and
/// the coordinators, with those that are being recovered, as `coordinators/id`.
async fn living(connection: &Connection, paths: &Paths) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let folder = paths.all_relays();
    for participant in children(connection, &folder).await? {
        let relays = children(connection, &format!("{folder}/{participant}")).await?;
        found.extend(relays.into_iter().map(|relay| format!("relays/{participant}/{relay}")));
    }
    let coordinators = children(connection, &paths.all_live()).await?;
    found.extend(coordinators.into_iter().map(|coordinator| format!("coordinators/{coordinator}")));
    Ok(found)
}

fn encode(incarnation: Incarnation) -> Result<Vec<u8>> {
    let layout = Layout { version: VERSION, incarnation: incarnation.to_string() };
    serde_json::to_vec(&layout)
        .map_err(|error| Error::new(ErrorKind::Failed, "prepare ZooKeeper", "layout").caused_by(error))
}

/// What a session begins with: refuses anything but the layout of this incarnation, and nodes that anybody
/// may change where the configuration asks for that.
pub(crate) async fn check(connection: &Connection, paths: &Paths, incarnation: Incarnation) -> Result<()> {
    check_layout(connection, paths, incarnation).await?;
    expect_guarded(connection, paths).await
}

/// The same for whoever serves any incarnation that ZooKeeper was prepared for.
pub(crate) async fn check_prepared(connection: &Connection, paths: &Paths) -> Result<()> {
    match read(connection, paths).await? {
        Some(data) => drop(decode(paths, &data)?),
        None => return Err(unprepared(paths)),
    }
    expect_guarded(connection, paths).await
}

/// Refuses anything but the layout of this incarnation.
pub(crate) async fn check_layout(
    connection: &Connection,
    paths: &Paths,
    incarnation: Incarnation,
) -> Result<()> {
    expect(paths, read(connection, paths).await?.as_deref(), incarnation)
}

/// The same for what was read of the node, None where there is none.
pub(crate) fn expect(paths: &Paths, data: Option<&[u8]>, incarnation: Incarnation) -> Result<()> {
    match data.map(|data| decode(paths, data)).transpose()? {
        Some(found) if found == incarnation => Ok(()),
        Some(found) => {
            let message = "ZooKeeper has this namespace for another incarnation: point [zookeeper] at the \
                           servers and the chroot that belong to this installation; or give the namespace \
                           to this one: `onecommit adopt` with the participant's name";
            Err(refused(paths, message).with("found", found).with("expected", incarnation))
        }
        None => Err(unprepared(paths)),
    }
}

fn unprepared(paths: &Paths) -> Error {
    let message = "ZooKeeper does not know this namespace: run `onecommit init`, or `onecommit \
                   adopt` with the participant's name; if it was there before, ask who emptied these \
                   servers, or whether they are the right ones";
    refused(paths, message)
}

async fn read(connection: &Connection, paths: &Paths) -> Result<Option<Vec<u8>>> {
    let path = paths.layout();
    let failed = |error| connection.error("read ZooKeeper layout", Effect::None, error).with("path", &path);
    // A server that lags behind its leader does not know yet what `init` has just made elsewhere.
    connection.call(connection.client().sync(&path)).await.map_err(failed)?;
    match connection.call(connection.client().get_data(&path)).await {
        Ok((data, _)) => Ok(Some(data)),
        Err(zk::Error::NoNode) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn decode(paths: &Paths, data: &[u8]) -> Result<Incarnation> {
    let layout: Layout = serde_json::from_slice(data)
        .map_err(|error| refused(paths, "not a layout that this release understands").caused_by(error))?;
    if layout.version != VERSION {
        let message = "made by another release: use one that understands this version of the layout";
        return Err(refused(paths, message).with("version", layout.version).with("understood", VERSION));
    }
    let incarnation = layout.incarnation.parse();
    incarnation.map_err(|error: Error| refused(paths, "its incarnation is no id").caused_by(error))
}

fn refused(paths: &Paths, message: &str) -> Error {
    Error::new(ErrorKind::Refused, "check ZooKeeper layout", message).with("path", paths.layout())
}
