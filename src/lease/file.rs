//! Leases in a SQLite file, for relays of one machine that have no server to keep them.
//!
//! Relies on the file's write lock: what a call reads can't change until it has written. Who lives
//! is decided by [`Beats`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::types::ToSql;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::beats::{Beats, LeaseRow, ReadAt, RelayRow, recorded};
use super::{Lease, LeaseView};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{Epoch, ParticipantName, RelayId, ShardIndex};
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{Blocking, OwnFile, begin, commit, open_own};

const FILE: OwnFile = OwnFile {
    name: "file of leases",
    application_id: i32::from_be_bytes(*b"ocls"),
    version: 1,
    sql: include_str!("file.sql"),
};

/// One relay's leases of one participant's shards, in a file.
pub struct FileLease {
    rows: Blocking<Rows>,
    path: PathBuf,
    timeout: Duration,
}

impl FileLease {
    /// Opens the file `path`; makes it, and its directory, where it is missing. A relay whose rows
    /// stand still for `timeout` counts as dead.
    pub fn open(
        path: impl AsRef<Path>,
        participant: ParticipantName,
        shards: u16,
        relay: RelayId,
        timeout: Duration,
    ) -> Result<Self> {
        const OPERATION: &str = "open leases";
        let path = path.as_ref().to_path_buf();
        // A renewal that waits longer comes too late anyhow.
        let busy_timeout = timeout / 2;
        let mut connection = open_own(&path, &FILE, busy_timeout, OPERATION, |_| Ok(()))?;
        let transaction = begin(&mut connection, OPERATION)?;
        let sql = "insert or ignore into lease (participant, shard) values (?1, ?2)";
        for shard in 0..shards {
            let row = params![participant.as_str(), shard];
            transaction
                .execute(sql, row)
                .map_err(|error| from_sqlite(OPERATION, error).with("file", path.display()))?;
        }
        failpoint!("lease.open.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("lease.open.after_commit")?;
        let beats = Beats::new(relay, timeout);
        let rows = Rows { connection, participant, shards, relay, beats, started: Instant::now() };
        Ok(FileLease { rows: Blocking::new(rows), path, timeout })
    }

    async fn call<R: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Rows) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        self.rows.call(operation, work).await.map_err(|error| error.with("file", self.path.display()))
    }
}

#[async_trait]
impl Lease for FileLease {
    async fn renew(&mut self) -> Result<LeaseView> {
        self.call("renew lease", Rows::renew).await
    }

    async fn look(&mut self) -> Result<LeaseView> {
        self.call("look at leases", |rows| rows.look()).await
    }

    async fn take(&mut self, shard: ShardIndex, above: Epoch) -> Result<Option<Epoch>> {
        self.call("take lease", move |rows| rows.take(shard, above)).await
    }

    async fn release(&mut self, shard: ShardIndex) -> Result<()> {
        self.call("release lease", move |rows| rows.release(shard)).await
    }

    async fn leave(&mut self) -> Result<()> {
        self.call("leave", Rows::leave).await
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

struct Rows {
    connection: Connection,
    participant: ParticipantName,
    shards: u16,
    relay: RelayId,
    beats: Beats,
    started: Instant,
}

impl Rows {
    fn renew(&mut self) -> Result<LeaseView> {
        const OPERATION: &str = "renew lease";
        let failed = |error| from_sqlite(OPERATION, error);
        let (participant, me) = (self.participant.as_str(), self.relay.0.as_bytes().as_slice());
        let transaction = begin(&mut self.connection, OPERATION)?;
        let sql = "insert into relay (participant, id, beat) values (?1, ?2, 1)
                   on conflict (participant, id) do update set beat = beat + 1";
        transaction.execute(sql, params![participant, me]).map_err(failed)?;
        let sql = "update lease set beat = beat + 1 where participant = ?1 and owner = ?2";
        transaction.execute(sql, params![participant, me]).map_err(failed)?;
        let at = now(self.started);
        let leases = lease_rows(&transaction, participant, 0..self.shards)?;
        let relays = relay_rows(&transaction, participant)?;
        let (view, gone) = self.beats.view(&leases, &relays, at);
        for relay in gone {
            let sql = "delete from relay where participant = ?1 and id = ?2 and beat = ?3";
            let row: [&dyn ToSql; 3] = [&participant, &relay.id.0.as_bytes().as_slice(), &relay.beat];
            transaction.execute(sql, row).map_err(failed)?;
        }
        failpoint!("lease.renew.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("lease.renew.after_commit")?;
        Ok(view)
    }

    fn look(&self) -> Result<LeaseView> {
        let participant = self.participant.as_str();
        let leases = lease_rows(&self.connection, participant, 0..self.shards)?;
        Ok(recorded(self.relay, &leases, &relay_rows(&self.connection, participant)?))
    }

    fn take(&mut self, shard: ShardIndex, above: Epoch) -> Result<Option<Epoch>> {
        const OPERATION: &str = "take lease";
        let (participant, me) = (self.participant.as_str(), self.relay.0.as_bytes().as_slice());
        let transaction = begin(&mut self.connection, OPERATION)?;
        let at = now(self.started);
        let rows = lease_rows(&transaction, participant, shard.0..shard.0.saturating_add(1))?;
        let row = rows.first().ok_or_else(|| {
            let why = "there is no such shard among the leases";
            Error::new(ErrorKind::Failed, OPERATION, why).with("shard", shard)
        })?;
        if !self.beats.may_take(row, at) {
            return Ok(None);
        }
        let epoch = row.next_epoch(above);
        // The beat goes on: whoever watches the row sees a new owner, and not one standing still.
        let sql = "update lease set owner = ?3, epoch = ?4, beat = beat + 1
                   where participant = ?1 and shard = ?2";
        let taken = transaction.execute(sql, params![participant, shard.0, me, epoch.0]);
        taken.map_err(|error| from_sqlite(OPERATION, error))?;
        failpoint!("lease.take.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("lease.take.after_commit")?;
        Ok(Some(epoch))
    }

    fn release(&mut self, shard: ShardIndex) -> Result<()> {
        const OPERATION: &str = "release lease";
        let (participant, me) = (self.participant.as_str(), self.relay.0.as_bytes().as_slice());
        let transaction = begin(&mut self.connection, OPERATION)?;
        let sql = "update lease set owner = null where participant = ?1 and shard = ?2 and owner = ?3";
        let released = transaction.execute(sql, params![participant, shard.0, me]);
        released.map_err(|error| from_sqlite(OPERATION, error))?;
        failpoint!("lease.release.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("lease.release.after_commit")
    }

    fn leave(&mut self) -> Result<()> {
        const OPERATION: &str = "leave";
        let failed = |error| from_sqlite(OPERATION, error);
        let (participant, me) = (self.participant.as_str(), self.relay.0.as_bytes().as_slice());
        let transaction = begin(&mut self.connection, OPERATION)?;
        let sql = "update lease set owner = null where participant = ?1 and owner = ?2";
        transaction.execute(sql, params![participant, me]).map_err(failed)?;
        let sql = "delete from relay where participant = ?1 and id = ?2";
        transaction.execute(sql, params![participant, me]).map_err(failed)?;
        failpoint!("lease.leave.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("lease.leave.after_commit")
    }
}

/// Taken while the write lock is held, so that asking and answering are one moment.
fn now(started: Instant) -> ReadAt {
    let now = started.elapsed();
    ReadAt { asked: now, answered: now }
}

fn lease_rows(
    connection: &Connection,
    participant: &str,
    shards: std::ops::Range<u16>,
) -> Result<Vec<LeaseRow>> {
    let sql = "select shard, owner, epoch, beat from lease
               where participant = ?1 and shard >= ?2 and shard < ?3 order by shard";
    let failed = |error| from_sqlite("read leases", error);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let rows = statement.query_map(params![participant, shards.start, shards.end], |row| {
        Ok(LeaseRow {
            shard: ShardIndex(row.get(0)?),
            owner: row.get::<_, Option<[u8; 16]>>(1)?.map(|id| RelayId(Uuid::from_bytes(id))),
            epoch: Epoch(row.get(2)?),
            beat: row.get(3)?,
        })
    });
    rows.and_then(Iterator::collect).map_err(failed)
}

fn relay_rows(connection: &Connection, participant: &str) -> Result<Vec<RelayRow>> {
    let sql = "select id, beat from relay where participant = ?1 order by id";
    let failed = |error| from_sqlite("read leases", error);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let rows = statement.query_map([participant], |row| {
        Ok(RelayRow { id: RelayId(Uuid::from_bytes(row.get(0)?)), beat: row.get(1)? })
    });
    rows.and_then(Iterator::collect).map_err(failed)
}
