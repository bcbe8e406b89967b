//! The application: threads that change accounts and publish in the same transactions, and roll
//! some of them back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use uuid::Uuid;

use super::stage::{Stage, TOPIC, failed_sql};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::outbox::sqlite;

const WRITERS: usize = 3;
const ACCOUNTS: u32 = 200;
/// Each transaction publishes 1 to this many messages.
const MESSAGES_MAX: u32 = 12;
/// One transaction in this many rolls back.
const ROLLBACK_ONE_IN: u32 = 8;
/// With this many messages waiting the writers rest: there is work in flight for every kill, and
/// an end to it.
const BACKLOG_MAX: i64 = 10_000;

#[derive(Default)]
struct Counters {
    stop: AtomicBool,
    published: AtomicU64,
    committed: AtomicU64,
    rolled_back: AtomicU64,
}

/// Running writers.
pub(super) struct Writers {
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Writers {
    pub(super) fn start(stage: &Stage) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let mut threads = Vec::new();
        for _ in 0..WRITERS {
            let (connection, counters) = (stage.database()?, Arc::clone(&counters));
            threads.push(std::thread::spawn(move || write(connection, &counters)));
        }
        Ok(Writers { counters, threads })
    }

    /// Messages of committed transactions so far.
    pub(super) fn published(&self) -> u64 {
        self.counters.published.load(Ordering::Relaxed)
    }

    /// Fails where a writer has ended by itself.
    pub(super) fn check(&self) -> Result<()> {
        if self.threads.iter().any(JoinHandle::is_finished) {
            return Err(Error::new(ErrorKind::Failed, "demo", "a writer has failed"));
        }
        Ok(())
    }

    /// Ends the writers; returns how many transactions were committed and rolled back.
    pub(super) fn stop(mut self) -> Result<(u64, u64)> {
        self.counters.stop.store(true, Ordering::SeqCst);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().map_err(|_| Error::new(ErrorKind::Failed, "demo", "a writer has failed"))??;
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok((count(&self.counters.committed), count(&self.counters.rolled_back)))
    }
}

/// A demo that fails elsewhere ends its writers too.
impl Drop for Writers {
    fn drop(&mut self) {
        self.counters.stop.store(true, Ordering::SeqCst);
    }
}

fn write(mut connection: Connection, counters: &Counters) -> Result<()> {
    while !counters.stop.load(Ordering::SeqCst) {
        if backlog(&connection)? > BACKLOG_MAX {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        transact(&mut connection, counters)?;
    }
    Ok(())
}

fn transact(connection: &mut Connection, counters: &Counters) -> Result<()> {
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed_sql)?;
    let messages = 1 + random() % MESSAGES_MAX;
    for _ in 0..messages {
        let account = random() % ACCOUNTS;
        let change = "insert into account (id, changes) values (?1, 1)
                      on conflict (id) do update set changes = changes + 1 returning changes";
        let changes: i64 = transaction
            .prepare_cached(change)
            .and_then(|mut change| change.query_row([account], |row| row.get(0)))
            .map_err(failed_sql)?;
        let (key, value) = (account.to_string(), format!("{{\"account\":{account},\"changes\":{changes}}}"));
        let id = sqlite::publish(&transaction, &Message::new(TOPIC, &key, &value)?)?;
        transaction
            .prepare_cached("insert into ledger (key, message_id) values (?1, ?2)")
            .and_then(|mut insert| insert.execute((key.as_bytes(), id.0.as_bytes())))
            .map_err(failed_sql)?;
    }
    if random().is_multiple_of(ROLLBACK_ONE_IN) {
        transaction.rollback().map_err(failed_sql)?;
        counters.rolled_back.fetch_add(1, Ordering::Relaxed);
    } else {
        transaction.commit().map_err(failed_sql)?;
        counters.committed.fetch_add(1, Ordering::Relaxed);
        counters.published.fetch_add(u64::from(messages), Ordering::Relaxed);
    }
    Ok(())
}

/// About how many messages wait: what is delivered is pruned.
fn backlog(connection: &Connection) -> Result<i64> {
    let sql = "select coalesce(max(id) - min(id), 0) from onecommit_outbox";
    connection
        .prepare_cached(sql)
        .and_then(|mut query| query.query_row([], |row| row.get(0)))
        .map_err(failed_sql)
}

fn random() -> u32 {
    Uuid::new_v4().as_fields().0
}
