//! The file's rows, and this session's part in who is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::sql::{
    self, Contents, bytes, contents, expect_fence, fence_of, fenced, insert, keep, stored, update,
};
use crate::decision_log::{Fence, Legacy, Registered};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{CoordinatorId, Incarnation, TransactionId};
use crate::protocol::batch::{Answer, Request};
use crate::protocol::decision::{Outcome, Record, encode_batch};
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{Life, Liveness, Place, begin, commit, open_decisions};

/// A coordinator's own fence, as long as nobody has taken over.
const OWNERS: i64 = 0;

pub(super) struct Rows {
    pub(super) connection: Connection,
    pub(super) place: Arc<Place>,
    pub(super) liveness: Liveness,
    /// What ends with this session.
    lives: BTreeMap<CoordinatorId, Life>,
}

impl Rows {
    pub(super) fn open(file: &Path, locks: &Path, incarnation: Incarnation) -> Result<(Self, Arc<Place>)> {
        const OPERATION: &str = "open decision log";
        let (connection, place) = open_decisions(file, incarnation, OPERATION)?;
        let place = Arc::new(place);
        let liveness = Liveness::open(locks.to_path_buf())?;
        let rows = Rows { connection, place: Arc::clone(&place), liveness, lives: BTreeMap::new() };
        Ok((rows, place))
    }

    pub(super) fn register(&mut self, coordinator: CoordinatorId, record: &Record) -> Result<Fence> {
        const OPERATION: &str = "register coordinator";
        let was_held = self.lives.contains_key(&coordinator);
        if !self.hold(coordinator)? {
            return Err(fenced(OPERATION, coordinator));
        }
        let transaction = begin(&mut self.connection, OPERATION)?;
        match fence_of(&transaction, coordinator, OPERATION)? {
            None => insert(&transaction, coordinator, record, OWNERS, OPERATION)?,
            // Its own, of which the answer was lost; what counts is what it writes now.
            Some(OWNERS) if was_held => update(&transaction, coordinator, record, OPERATION)?,
            Some(_) => return Err(fenced(OPERATION, coordinator)),
        }
        failpoint!("file_log.register.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_log.register.after_commit")?;
        self.place.check(ErrorKind::Unclear, OPERATION)?;
        Ok(Fence { coordinator, number: OWNERS })
    }

    pub(super) fn record(&mut self, fence: Fence, record: &Record) -> Result<()> {
        const OPERATION: &str = "write coordinator's record";
        let transaction = begin(&mut self.connection, OPERATION)?;
        expect_fence(&transaction, fence, OPERATION)?;
        update(&transaction, fence.coordinator, record, OPERATION)?;
        failpoint!("file_log.record.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_log.record.after_commit")?;
        self.place.check(ErrorKind::Unclear, OPERATION)
    }

    /// Any error says that no clear answer came.
    pub(super) fn decide(&mut self, fence: Fence, request: &Request) -> Result<Answer> {
        const OPERATION: &str = "decide";
        let failed = |error| from_sqlite(OPERATION, error);
        let transaction = begin(&mut self.connection, OPERATION)?;
        if fence_of(&transaction, fence.coordinator, OPERATION)? != Some(fence.number) {
            return Ok(Answer::Fenced);
        }
        let id = bytes(&fence.coordinator);
        if !request.entries.is_empty() {
            let sql = "insert or ignore into decision (coordinator, batch, bytes) values (?1, ?2, ?3)";
            let batch = encode_batch(request.entries.iter().map(|entry| entry.bytes.as_slice()));
            let row = params![id, stored(request.batch), batch];
            if transaction.execute(sql, row).map_err(failed)? == 0 {
                return Ok(Answer::Exists);
            }
        }
        for batch in &request.delete {
            let sql = "delete from decision where coordinator = ?1 and batch = ?2";
            if transaction.execute(sql, params![id, stored(*batch)]).map_err(failed)? == 0 {
                return Ok(Answer::Missing(*batch));
            }
        }
        failpoint!("file_log.decide.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_log.decide.after_commit")?;
        // What went into a file that nobody can read any more is no decision.
        self.place.check(ErrorKind::Unclear, OPERATION)?;
        Ok(Answer::Done)
    }

    pub(super) fn coordinators(&mut self) -> Result<Vec<Registered>> {
        const OPERATION: &str = "look at coordinators";
        let failed = |error| from_sqlite(OPERATION, error);
        self.place.check(ErrorKind::Unreachable, OPERATION)?;
        let mut statement =
            self.connection.prepare_cached("select id from coordinator order by id").map_err(failed)?;
        let ids = statement.query_map((), |row| Ok(CoordinatorId(Uuid::from_bytes(row.get(0)?))));
        let ids: Vec<CoordinatorId> = ids.and_then(Iterator::collect).map_err(failed)?;
        let registered =
            |coordinator| Ok(Registered { coordinator, is_live: self.liveness.is_live(coordinator.0)? });
        ids.into_iter().map(registered).collect()
    }

    pub(super) fn is_taken_over(&mut self, coordinator: CoordinatorId) -> Result<bool> {
        let fence = fence_of(&self.connection, coordinator, "look at fence")?;
        Ok(fence.is_some_and(|number| number != OWNERS))
    }

    pub(super) fn take_over(&mut self, coordinator: CoordinatorId) -> Result<Option<Legacy>> {
        let was_held = self.lives.contains_key(&coordinator);
        if !self.hold(coordinator)? {
            return Ok(None);
        }
        let legacy = self.fence_off(coordinator, was_held);
        if !was_held && !matches!(legacy, Ok(Some(_))) {
            self.lives.remove(&coordinator);
        }
        legacy
    }

    fn fence_off(&mut self, coordinator: CoordinatorId, was_held: bool) -> Result<Option<Legacy>> {
        const OPERATION: &str = "take over";
        let failed = |error| from_sqlite(OPERATION, error);
        let transaction = begin(&mut self.connection, OPERATION)?;
        let number = match fence_of(&transaction, coordinator, OPERATION)? {
            None => return Ok(None),
            // Registered in this very session.
            Some(OWNERS) if was_held => return Ok(None),
            Some(number) => number + 1,
        };
        let sql = "update coordinator set fence = ?2 where id = ?1";
        transaction.execute(sql, params![bytes(&coordinator), number]).map_err(failed)?;
        let Some((record, batches)) = contents(&transaction, coordinator, OPERATION)? else {
            return Ok(None);
        };
        failpoint!("file_log.take_over.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_log.take_over.after_commit")?;
        self.place.check(ErrorKind::Unclear, OPERATION)?;
        Ok(Some(Legacy { fence: Fence { coordinator, number }, record, batches }))
    }

    pub(super) fn adopt_orphan(
        &mut self,
        coordinator: CoordinatorId,
        record: &Record,
    ) -> Result<Option<Fence>> {
        let was_held = self.lives.contains_key(&coordinator);
        if !self.hold(coordinator)? {
            return Ok(None);
        }
        let fence = self.make_orphan(coordinator, record, was_held);
        if !was_held && !matches!(fence, Ok(Some(_))) {
            self.lives.remove(&coordinator);
        }
        fence
    }

    fn make_orphan(
        &mut self,
        coordinator: CoordinatorId,
        record: &Record,
        was_held: bool,
    ) -> Result<Option<Fence>> {
        const OPERATION: &str = "adopt orphan";
        let transaction = begin(&mut self.connection, OPERATION)?;
        if let Some(number) = fence_of(&transaction, coordinator, OPERATION)? {
            // Its own, of which the answer was lost.
            let found = contents(&transaction, coordinator, OPERATION)?;
            let is_own = was_held && number > OWNERS && found.is_some_and(|(found, _)| found == *record);
            return Ok(is_own.then_some(Fence { coordinator, number }));
        }
        // Never an owner's, so that whoever finds it knows that a recoverer made the record.
        let number = OWNERS + 1;
        insert(&transaction, coordinator, record, number, OPERATION)?;
        failpoint!("file_log.adopt_orphan.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_log.adopt_orphan.after_commit")?;
        self.place.check(ErrorKind::Unclear, OPERATION)?;
        Ok(Some(Fence { coordinator, number }))
    }

    pub(super) fn let_go(&mut self, coordinator: CoordinatorId) {
        self.lives.remove(&coordinator);
    }

    pub(super) fn remove(
        &mut self,
        fence: Fence,
        batches: &[u64],
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<()> {
        const OPERATION: &str = "remove coordinator";
        let failed = |error| from_sqlite(OPERATION, error);
        let id = bytes(&fence.coordinator);
        let transaction = begin(&mut self.connection, OPERATION)?;
        // Removed before, and the answer was lost.
        if fence_of(&transaction, fence.coordinator, OPERATION)?.is_none() {
            return Ok(());
        }
        expect_fence(&transaction, fence, OPERATION)?;
        let named: BTreeSet<u64> = batches.iter().copied().collect();
        let left = sql::batches(&transaction, fence.coordinator, OPERATION)?;
        if let Some(batch) = left.iter().find(|batch| !named.contains(batch)) {
            let why = "there is a batch of decisions that was not settled: take over again, and read it";
            let error = Error::new(ErrorKind::Failed, OPERATION, why).with("batch", batch);
            return Err(error.with("coordinator", fence.coordinator));
        }
        for sql in ["delete from decision where coordinator = ?1", "delete from coordinator where id = ?1"] {
            transaction.execute(sql, [id]).map_err(failed)?;
        }
        keep(&transaction, outcomes, OPERATION)?;
        failpoint!("file_log.remove.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_log.remove.after_commit")?;
        if let Some(life) = self.lives.remove(&fence.coordinator) {
            life.remove();
        }
        self.place.check(ErrorKind::Unclear, OPERATION)
    }

    pub(super) fn look(&mut self, coordinator: CoordinatorId) -> Result<Option<Contents>> {
        const OPERATION: &str = "look at coordinator";
        // Both are read as of one moment.
        let transaction = self.connection.transaction().map_err(|error| from_sqlite(OPERATION, error))?;
        contents(&transaction, coordinator, OPERATION)
    }

    /// Whether this session is alive for a coordinator, from before or from now on.
    fn hold(&mut self, coordinator: CoordinatorId) -> Result<bool> {
        if !self.lives.contains_key(&coordinator) {
            let Some(life) = self.liveness.claim(coordinator.0)? else { return Ok(false) };
            self.lives.insert(coordinator, life);
        }
        Ok(true)
    }
}
