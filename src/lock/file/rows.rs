//! The rows of entries and waits, and this session's sign of life.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{CoordinatorId, HolderId, Incarnation, LockName, TransactionId};
use crate::lock::Entrant;
use crate::protocol::lock::{Entry, Owner, Purpose, Queue, Wait, transactions_ahead};
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{Life, Liveness, Place, begin, commit, open_decisions};

/// Entries of coordinators that have no record any more.
const SETTLED: &str = "coordinator is not null and coordinator not in (select id from coordinator)";

pub(super) struct Rows {
    connection: Connection,
    place: Arc<Place>,
    liveness: Liveness,
    session: Uuid,
    /// None once it is dropped.
    life: Option<Life>,
}

impl Rows {
    pub(super) fn open(file: &Path, sessions: &Path, incarnation: Incarnation) -> Result<(Self, Arc<Place>)> {
        const OPERATION: &str = "open locks";
        let (mut connection, place) = open_decisions(file, incarnation, OPERATION)?;
        let transaction = begin(&mut connection, OPERATION)?;
        let made = transaction.execute_batch(include_str!("locks.sql"));
        made.map_err(|error| from_sqlite(OPERATION, error))?;
        failpoint!("file_lock.open.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_lock.open.after_commit")?;
        let (place, session) = (Arc::new(place), Uuid::new_v4());
        let liveness = Liveness::open(sessions.to_path_buf())?;
        let life = liveness.claim(session)?;
        let rows = Rows { connection, place: Arc::clone(&place), liveness, session, life };
        Ok((rows, place))
    }

    pub(super) fn enter(&mut self, queue: &Queue, entrant: &Entrant) -> Result<()> {
        const OPERATION: &str = "enter queue";
        let failed = |error| from_sqlite(OPERATION, error);
        let (purpose, name, session) = (word(queue.purpose), queue.name.as_str(), self.session);
        let transaction = begin(&mut self.connection, OPERATION)?;
        let sql = format!("delete from lock_entry where {SETTLED}");
        transaction.execute(&sql, ()).map_err(failed)?;
        match entrant {
            Entrant::Transaction(id, fence) => {
                let sql = "select fence from coordinator where id = ?1";
                let coordinator = id.coordinator.0.as_bytes();
                let found = transaction.query_row(sql, [coordinator], |row| row.get(0)).optional();
                if found.map_err(failed)? != Some(fence.number) {
                    return Err(fenced(*id));
                }
                let sql = "insert or ignore into lock_entry (purpose, name, coordinator, transaction_no)
                           values (?1, ?2, ?3, ?4)";
                let row = params![purpose, name, coordinator, id.number.cast_signed()];
                transaction.execute(sql, row).map_err(failed)?;
            }
            Entrant::Holder(id) => {
                let sql = "insert or ignore into lock_entry (purpose, name, holder, session)
                           values (?1, ?2, ?3, ?4)";
                let row = params![purpose, name, id.0.as_bytes(), session.as_bytes()];
                transaction.execute(sql, row).map_err(failed)?;
            }
        }
        failpoint!("file_lock.enter.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_lock.enter.after_commit")?;
        self.place.check(ErrorKind::Unclear, OPERATION)
    }

    pub(super) fn entries(&mut self, queue: &Queue) -> Result<Vec<Entry>> {
        self.place.check(ErrorKind::Unreachable, "look at queue")?;
        self.counting(queue)
    }

    fn counting(&self, queue: &Queue) -> Result<Vec<Entry>> {
        let failed = |error| from_sqlite("look at queue", error);
        let sql = format!(
            "select number, coordinator, transaction_no, holder, session from lock_entry
             where purpose = ?1 and name = ?2 and not ({SETTLED}) order by number"
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(failed)?;
        let rows = statement.query_map(params![word(queue.purpose), queue.name.as_str()], |row| {
            let id = |at| row.get::<_, Option<[u8; 16]>>(at).map(|id| id.map(Uuid::from_bytes));
            let number = row.get::<_, Option<i64>>(2)?;
            Ok((row.get(0)?, id(1)?.zip(number), id(3)?, id(4)?))
        });
        let rows: rusqlite::Result<Vec<_>> = rows.and_then(Iterator::collect);
        let mut entries = Vec::new();
        for (number, transaction, holder, session) in rows.map_err(failed)? {
            let owner = match (transaction, holder, session) {
                (Some((coordinator, number)), ..) => {
                    let (coordinator, number) = (CoordinatorId(coordinator), number.cast_unsigned());
                    Owner::Transaction(TransactionId { coordinator, number })
                }
                (None, Some(holder), Some(session)) if self.liveness.is_live(session)? => {
                    Owner::Holder(HolderId(holder))
                }
                _ => continue,
            };
            entries.push(Entry { number, owner });
        }
        Ok(entries)
    }

    pub(super) fn begin_wait(
        &mut self,
        waiting: TransactionId,
        queue: &Queue,
    ) -> Result<BTreeMap<TransactionId, Wait>> {
        const OPERATION: &str = "note wait";
        let transaction = begin(&mut self.connection, OPERATION)?;
        let sql = "insert or replace into lock_wait (coordinator, transaction_no, name) values (?1, ?2, ?3)";
        let row =
            params![waiting.coordinator.0.as_bytes(), waiting.number.cast_signed(), queue.name.as_str()];
        transaction.execute(sql, row).map_err(|error| from_sqlite(OPERATION, error))?;
        failpoint!("file_lock.note_wait.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_lock.note_wait.after_commit")?;
        let (mut waits, mut open) = (BTreeMap::new(), vec![waiting]);
        while let Some(id) = open.pop() {
            if waits.contains_key(&id) {
                continue;
            }
            let Some(wait) = self.wait_of(id)? else { continue };
            open.extend(&wait.ahead);
            waits.insert(id, wait);
        }
        Ok(waits)
    }

    /// None where it does not wait.
    fn wait_of(&self, waiting: TransactionId) -> Result<Option<Wait>> {
        const OPERATION: &str = "look at wait";
        let sql = "select began, name from lock_wait where coordinator = ?1 and transaction_no = ?2";
        let row = params![waiting.coordinator.0.as_bytes(), waiting.number.cast_signed()];
        let found = self.connection.query_row(sql, row, |row| Ok((row.get(0)?, row.get(1)?))).optional();
        let found: Option<(i64, String)> = found.map_err(|error| from_sqlite(OPERATION, error))?;
        let Some((began, name)) = found else { return Ok(None) };
        let name: LockName = name.parse()?;
        let entries = self.counting(&Queue { purpose: Purpose::Lock, name })?;
        Ok(Some(Wait { began, ahead: transactions_ahead(&entries, waiting) }))
    }

    pub(super) fn leave(&mut self, queue: &Queue, owner: Owner) -> Result<()> {
        const OPERATION: &str = "leave queue";
        let transaction = begin(&mut self.connection, OPERATION)?;
        let (purpose, name) = (word(queue.purpose), queue.name.as_str());
        let left = match owner {
            Owner::Transaction(id) => {
                let sql = "delete from lock_entry where purpose = ?1 and name = ?2 and coordinator = ?3
                           and transaction_no = ?4";
                let (coordinator, number) = (id.coordinator.0, id.number.cast_signed());
                transaction.execute(sql, params![purpose, name, coordinator.as_bytes(), number])
            }
            Owner::Holder(id) => {
                let sql = "delete from lock_entry where holder = ?1";
                transaction.execute(sql, [id.0.as_bytes()])
            }
        };
        left.map_err(|error| from_sqlite(OPERATION, error))?;
        failpoint!("file_lock.leave.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_lock.leave.after_commit")
    }

    pub(super) fn end_waits(&mut self, waiting: TransactionId) -> Result<()> {
        const OPERATION: &str = "forget wait";
        let transaction = begin(&mut self.connection, OPERATION)?;
        let sql = "delete from lock_wait where coordinator = ?1 and transaction_no = ?2";
        let row = params![waiting.coordinator.0.as_bytes(), waiting.number.cast_signed()];
        transaction.execute(sql, row).map_err(|error| from_sqlite(OPERATION, error))?;
        failpoint!("file_lock.forget_wait.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_lock.forget_wait.after_commit")
    }

    pub(super) fn position(&self) -> Result<i64> {
        let sql = "select seq from sqlite_sequence where name = 'lock_entry'";
        let found = self.connection.query_row(sql, (), |row| row.get(0)).optional();
        let found = found.map_err(|error| from_sqlite("look at the numbers of locks", error))?;
        Ok(found.unwrap_or(0))
    }

    pub(super) fn discard_leftovers(&mut self) -> Result<u64> {
        const OPERATION: &str = "look for entries of the dead";
        let failed = |error| from_sqlite(OPERATION, error);
        let dead = self.dead_sessions()?;
        let transaction = begin(&mut self.connection, OPERATION)?;
        let sql = format!("delete from lock_wait where {SETTLED}");
        transaction.execute(&sql, ()).map_err(failed)?;
        let sql = format!("delete from lock_entry where {SETTLED}");
        let mut discarded = transaction.execute(&sql, ()).map_err(failed)?;
        for session in dead {
            let sql = "delete from lock_entry where session = ?1";
            discarded += transaction.execute(sql, [session.as_bytes()]).map_err(failed)?;
        }
        failpoint!("file_lock.discard.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_lock.discard.after_commit")?;
        for old in self.liveness.old()? {
            // Of a process that was killed; nobody uses its id again.
            if let Some(life) = self.liveness.claim(old)? {
                life.remove();
            }
        }
        Ok(discarded as u64)
    }

    /// A session that has ended never lives again.
    fn dead_sessions(&self) -> Result<Vec<Uuid>> {
        let failed = |error| from_sqlite("look for entries of the dead", error);
        let sql = "select distinct session from lock_entry where session is not null";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let sessions = statement.query_map((), |row| row.get(0).map(Uuid::from_bytes));
        let sessions: rusqlite::Result<Vec<Uuid>> = sessions.and_then(Iterator::collect);
        let mut dead = Vec::new();
        for session in sessions.map_err(failed)? {
            if !self.liveness.is_live(session)? {
                dead.push(session);
            }
        }
        Ok(dead)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if let Some(life) = self.life.take() {
            life.remove();
        }
    }
}

fn word(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Lock => "lock",
        Purpose::Leader => "leader",
    }
}

fn fenced(transaction: TransactionId) -> Error {
    let why = "this transaction's coordinator has ended, or another process has taken over: run the transaction again";
    Error::new(ErrorKind::Fenced, "enter queue", why).with("transaction", transaction)
}
