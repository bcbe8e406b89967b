//! One session's entries, and its waits for those of others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use zookeeper_client as zk;

use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{CoordinatorId, TransactionId};
use crate::lock::{Entrant, LockSession};
use crate::protocol::decision::later_format;
use crate::protocol::lock::{Entry, Owner, Purpose, Queue, Wait};
use crate::zookeeper::{Connection, Effect, Node, Paths};

/// The first byte of an entry's content, which is for people (the machine and the process), and of a wait's note.
pub(super) const VERSION: u8 = 1;
/// How often a container that comes and goes meanwhile is tried.
const TRIES: u32 = 8;

pub(super) struct Session {
    pub(super) connection: Connection,
    pub(super) paths: Paths,
}

/// What came of one attempt to enter.
enum Entered {
    Yes,
    /// The container is not there, or it is there by now.
    Again {
        makes_container: bool,
    },
}

#[async_trait]
impl LockSession for Session {
    async fn enter(&self, queue: &Queue, entrant: &Entrant) -> Result<()> {
        let mut makes_container = false;
        for _ in 0..TRIES {
            match self.try_to_enter(queue, entrant, makes_container).await? {
                Entered::Yes => return Ok(()),
                Entered::Again { makes_container: makes } => makes_container = makes,
            }
        }
        let why = "the lock's container came and went at every attempt: try again";
        Err(Error::new(ErrorKind::Unreachable, "enter queue", why).with("name", &queue.name))
    }

    /// Read without a `sync`: this session has made its own entry, so it sees all that were made before.
    async fn entries(&self, queue: &Queue) -> Result<Vec<Entry>> {
        const OPERATION: &str = "look at queue";
        let names = self.connection.names(OPERATION, &self.paths.queue(queue)).await?.unwrap_or_default();
        let owners = names.iter().map(|name| owner(queue, name)).collect::<Result<Vec<Owner>>>()?;
        let paths: Vec<String> = owners.iter().map(|owner| self.paths.entry(queue, *owner)).collect();
        let found = self.connection.read(OPERATION, &paths).await?;
        let mut entries = Vec::new();
        for (owner, node) in owners.into_iter().zip(found) {
            // Gone since it was listed.
            let Some(node) = node else { continue };
            expect_known_format(&node)?;
            entries.push(Entry { number: node.created, owner });
        }
        Ok(entries)
    }

    async fn is_there(&self, queue: &Queue, entry: &Entry) -> Result<bool> {
        const OPERATION: &str = "look whether the lock is held";
        let path = self.paths.entry(queue, entry.owner);
        let failed = |error| self.connection.error(OPERATION, Effect::None, error).with("path", &path);
        // A server that was cut off from its leader shows what it last knew, when the leader has long ended this
        // session. This goes through the leader.
        self.connection.call(self.connection.client().sync(&path)).await.map_err(failed)?;
        let found = self.connection.call(self.connection.client().check_stat(&path)).await.map_err(failed)?;
        Ok(found.is_some_and(|found| {
            found.czxid == entry.number && found.ephemeral_owner == self.connection.session()
        }))
    }

    async fn wait_for_end(&self, queue: &Queue, entry: &Entry, until: Instant) -> Result<()> {
        const OPERATION: &str = "wait for lock";
        let path = self.paths.entry(queue, entry.owner);
        let failed = |error| self.connection.error(OPERATION, Effect::None, error).with("path", &path);
        let watch = self.connection.client().check_and_watch_stat(&path);
        let (found, gone) = self.connection.call(watch).await.map_err(failed)?;
        // A holder's that was made anew is another one.
        if found.is_none_or(|found| found.czxid != entry.number) {
            return Ok(());
        }
        let Owner::Transaction(id) = entry.owner else {
            let _ = tokio::time::timeout_at(until, gone.changed()).await;
            return Ok(());
        };
        // It is there from before the entry on, and goes with the record: not seen now, it is gone for good.
        let fence = self.connection.client().check_and_watch_stat(&self.paths.fence(id.coordinator));
        let (record, settled) = self.connection.call(fence).await.map_err(failed)?;
        if record.is_none() {
            return self.discard(&path).await;
        }
        tokio::select! {
            _ = gone.changed() => {}
            _ = settled.changed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
        Ok(())
    }

    async fn begin_wait(
        &self,
        transaction: TransactionId,
        queue: &Queue,
    ) -> Result<BTreeMap<TransactionId, Wait>> {
        self.note_wait(transaction, queue).await?;
        self.waits_from(transaction).await
    }

    async fn leave(&self, queue: &Queue, owner: Owner) -> Result<()> {
        let path = self.paths.entry(queue, owner);
        failpoint!("zookeeper_lock.leave.before_commit")?;
        self.connection.delete("leave queue", &path).await?;
        failpoint!("zookeeper_lock.leave.after_commit")
    }

    async fn end_waits(&self, transaction: TransactionId) -> Result<()> {
        self.forget_wait(transaction).await
    }

    async fn discard_leftovers(&self) -> Result<u64> {
        const OPERATION: &str = "look for entries of the dead";
        let folder = self.paths.all_queues(Purpose::Lock);
        let mut found: Vec<(CoordinatorId, String)> = Vec::new();
        for queue in self.connection.names(OPERATION, &folder).await?.unwrap_or_default() {
            let path = format!("{folder}/{queue}");
            for name in self.connection.names(OPERATION, &path).await?.unwrap_or_default() {
                if let Some(id) = transaction_of(&name) {
                    found.push((id.coordinator, format!("{path}/{name}")));
                }
            }
        }
        // Behind the entries: a record is there before them, and a coordinator that has lost it gets no other.
        let all = self.connection.names(OPERATION, &self.paths.all_coordinators()).await?;
        let recorded: BTreeSet<String> = all.unwrap_or_default().into_iter().collect();
        let mut discarded = 0;
        for (coordinator, path) in found {
            if !recorded.contains(&coordinator.to_string()) {
                self.discard(&path).await?;
                discarded += 1;
            }
        }
        Ok(discarded)
    }

    async fn position(&self) -> Result<i64> {
        let path = self.paths.all_queues(Purpose::Lock);
        failpoint!("zookeeper_lock.position.before_commit")?;
        let written = self.connection.call(self.connection.client().set_data(&path, &[], None)).await;
        let written = written.map_err(|error| {
            self.connection.error("look at the numbers of locks", Effect::Possible, error).with("path", path)
        })?;
        failpoint!("zookeeper_lock.position.after_commit")?;
        Ok(written.mzxid)
    }

    fn is_over(&self) -> bool {
        self.connection.is_over()
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.connection.timeout())
    }
}

impl Session {
    async fn try_to_enter(&self, queue: &Queue, entrant: &Entrant, makes_container: bool) -> Result<Entered> {
        const OPERATION: &str = "enter queue";
        let path = self.paths.entry(queue, entrant.owner());
        let failed = |error| self.connection.error(OPERATION, Effect::Possible, error).with("path", &path);
        let (writer, parts) = self.entry_writer(queue, entrant, makes_container).map_err(failed)?;
        failpoint!("zookeeper_lock.enter.before_commit")?;
        let entered = match self.connection.commit(writer).await {
            Ok(_) => Entered::Yes,
            Err(zk::MultiWriteError::OperationFailed { index, source }) => match (parts.get(index), source) {
                (Some(Part::Fence), zk::Error::BadVersion | zk::Error::NoNode) => {
                    return Err(fenced(entrant));
                }
                (Some(Part::Container), zk::Error::NodeExists) => Entered::Again { makes_container: false },
                // Its own, of which the answer was lost.
                (Some(Part::Entry), zk::Error::NodeExists) => Entered::Yes,
                (Some(Part::Entry), zk::Error::NoNode) => Entered::Again { makes_container: true },
                (_, source) => return Err(failed(source)),
            },
            Err(error) => return Err(failed(error.into())),
        };
        failpoint!("zookeeper_lock.enter.after_commit")?;
        Ok(entered)
    }

    fn entry_writer(
        &self,
        queue: &Queue,
        entrant: &Entrant,
        makes_container: bool,
    ) -> Result<(zk::MultiWriter<'_>, Vec<Part>), zk::Error> {
        let mut writer = self.connection.client().new_multi_writer();
        let (mut parts, mut mode) = (Vec::new(), zk::CreateMode::Ephemeral);
        if let Entrant::Transaction(_, fence) = entrant {
            // An ephemeral one would be gone before the branches of a holder that died are applied.
            mode = zk::CreateMode::Persistent;
            writer.add_check_version(&self.paths.fence(fence.coordinator), fence.number as i32)?;
            parts.push(Part::Fence);
        }
        let acls = || self.connection.acls();
        if makes_container {
            let container = zk::CreateMode::Container.with_acls(acls());
            writer.add_create(&self.paths.queue(queue), &[], &container)?;
            parts.push(Part::Container);
        }
        let path = self.paths.entry(queue, entrant.owner());
        writer.add_create(&path, &content(), &mode.with_acls(acls()))?;
        parts.push(Part::Entry);
        Ok((writer, parts))
    }

    /// Removes an entry that counts no more. Whoever finds it does, so that nobody has to be relied upon.
    async fn discard(&self, path: &str) -> Result<()> {
        failpoint!("zookeeper_lock.discard.before_commit")?;
        self.connection.delete("discard entry", path).await?;
        failpoint!("zookeeper_lock.discard.after_commit")
    }
}

/// A part of the request by which a queue is entered.
enum Part {
    Fence,
    Container,
    Entry,
}

fn content() -> Vec<u8> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut bytes = vec![VERSION];
    let whose = serde_json::json!({ "host": host, "pid": std::process::id() });
    bytes.extend_from_slice(whose.to_string().as_bytes());
    bytes
}

pub(super) fn expect_known_format(node: &Node) -> Result<()> {
    match node.data.first() {
        Some(version) if *version > VERSION => Err(later_format("look at queue", *version, VERSION)),
        _ => Ok(()),
    }
}

fn owner(queue: &Queue, name: &str) -> Result<Owner> {
    if let Some(id) = transaction_of(name) {
        return Ok(Owner::Transaction(id));
    }
    if let Some(id) = name.strip_prefix("h:").and_then(|id| id.parse().ok()) {
        return Ok(Owner::Holder(id));
    }
    let why = "there is something in this lock's queue that this release of onecommit does not know, so nobody can \
               say who holds it: find out who wrote it, and delete it";
    let error = Error::new(ErrorKind::Refused, "look at queue", why);
    Err(error.with("name", &queue.name).with("entry", name))
}

fn transaction_of(name: &str) -> Option<TransactionId> {
    name.strip_prefix("t:")?.parse().ok()
}

pub(super) fn fenced(entrant: &Entrant) -> Error {
    let why =
        "this transaction's coordinator has ended, or another node has taken over: run the transaction again";
    let error = Error::new(ErrorKind::Fenced, "enter queue", why);
    match entrant {
        Entrant::Transaction(id, _) => error.with("transaction", id),
        Entrant::Holder(id) => error.with("holder", id),
    }
}
