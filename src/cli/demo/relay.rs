//! The relay, as a process of its own that is killed again and again. A kill counts only where it
//! is proved to have hit a relay with work in flight: that very process had delivered, and after
//! its death committed messages were undelivered.

use std::ffi::OsString;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use uuid::Uuid;

use super::process;
use super::stage::{Stage, failed_sql};
use crate::delivery::{Delivery as _, topic_log::TopicLogDelivery};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, ShardIndex};
use crate::protocol::position::Position;

const SHARD: ShardIndex = ShardIndex(0);
/// How long a fresh relay may take to deliver.
const START_LIMIT: Duration = Duration::from_secs(120);
/// A kill comes at a random moment within this after the first delivery.
const KILL_WITHIN_MS: u32 = 150;
const PAUSE: Duration = Duration::from_millis(5);

/// The relay's process, and how often it was killed with work in flight.
pub(super) struct KilledRelay<'a> {
    program: &'a [OsString],
    stage: &'a Stage,
    delivery: TopicLogDelivery,
    database: Connection,
    child: Child,
    started: Instant,
    kill_at: Option<Instant>,
    epoch_before: Epoch,
    pub(super) kills: u32,
}

impl<'a> KilledRelay<'a> {
    pub(super) fn start(program: &'a [OsString], stage: &'a Stage) -> Result<Self> {
        Ok(KilledRelay {
            program,
            stage,
            delivery: TopicLogDelivery::new(stage.topic_log(), stage.scope()?),
            database: stage.database()?,
            child: spawn(program, stage)?,
            started: Instant::now(),
            kill_at: None,
            epoch_before: Epoch::ZERO,
            kills: 0,
        })
    }

    /// Goes on a little: waits until the relay delivers, then for a random moment, then kills it
    /// and starts the next one, until there were `kills`.
    pub(super) fn step(&mut self, kills: u32) -> Result<()> {
        self.check()?;
        std::thread::sleep(PAUSE);
        if self.kills >= kills {
            return Ok(());
        }
        match self.kill_at {
            None if self.delivered_by()? > self.epoch_before && self.delivered()? < self.newest()? => {
                let wait = Uuid::new_v4().as_fields().0 % KILL_WITHIN_MS;
                self.kill_at = Some(Instant::now() + Duration::from_millis(u64::from(wait)));
                Ok(())
            }
            None if self.started.elapsed() > START_LIMIT => {
                let said = std::fs::read_to_string(self.stage.relay_log()).unwrap_or_default();
                Err(Error::new(ErrorKind::Failed, "demo", "the relay does not deliver")
                    .with(process::LOG, said))
            }
            Some(at) if Instant::now() >= at => self.kill(),
            _ => Ok(()),
        }
    }

    /// Fails where the relay has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        process::check(&mut self.child, "relay", &self.stage.relay_log())
    }

    fn kill(&mut self) -> Result<()> {
        // What is committed later proves nothing: it did not wait when the relay died.
        let waiting_up_to = self.newest()?;
        process::kill(&mut self.child)?;
        self.epoch_before = self.delivered_by()?;
        self.kills += u32::from(self.delivered()? < waiting_up_to);
        self.child = spawn(self.program, self.stage)?;
        self.started = Instant::now();
        self.kill_at = None;
        Ok(())
    }

    /// The epoch of the relay that delivered last; a birth record is no delivery.
    fn delivered_by(&self) -> Result<Epoch> {
        let progress = self.delivery.peek(SHARD)?;
        Ok(progress.filter(|found| found.barrier.is_some()).map_or(Epoch::ZERO, |found| Epoch(found.epoch)))
    }

    /// Up to which message all are delivered.
    fn delivered(&self) -> Result<i64> {
        Ok(match self.delivery.peek(SHARD)?.map(|progress| progress.position) {
            Some(Position::Sequence { last }) => last,
            _ => 0,
        })
    }

    /// The newest committed message that is still in the outbox; 0 where none is.
    fn newest(&self) -> Result<i64> {
        let sql = "select coalesce(max(id), 0) from onecommit_outbox";
        self.database.query_row(sql, [], |row| row.get(0)).map_err(failed_sql)
    }
}

impl Drop for KilledRelay<'_> {
    fn drop(&mut self) {
        let _ = process::kill(&mut self.child);
    }
}

fn spawn(program: &[OsString], stage: &Stage) -> Result<Child> {
    let log = stage.relay_log();
    process::start(program, &stage.config_file, &["relay"], &log, Stdio::null(), Stdio::null())
}
