//! The writers: connections that are stepped one statement at a time, in any order. A statement is
//! waited for, or left running while others go on, so that commits, inserts and reads also meet
//! inside the server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use onecommit::Message;
use onecommit::outbox::postgres::Outbox;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::chance::Chance;
use super::ledger::{Key, Ledger, value};

const KEYS: usize = 12;
const PREPARED_MAX: usize = 20;

/// A transaction that has not ended.
struct Open {
    transaction: usize,
    messages: Vec<usize>,
    keys: Vec<usize>,
    savepoints: Vec<(usize, usize)>,
    steps_left: usize,
}

/// What a running statement means once it has ended well.
enum Meaning {
    Nothing,
    Committed(Open),
    RolledBack(Open),
    Prepared(String, Open),
}

struct Running {
    statement: JoinHandle<Result<(), tokio_postgres::Error>>,
    meaning: Meaning,
}

struct Writer {
    client: Arc<Client>,
    open: Option<Open>,
    running: Option<Running>,
}

/// All writers of one database, with the keys that they lock.
pub struct Writers {
    writers: Vec<Writer>,
    /// Per key: its holder's transaction, and the next place in its order.
    keys: Vec<(Option<usize>, u64)>,
    prepared: VecDeque<(String, Open)>,
    gid_prefix: String,
    /// Nobody writes many rows at once: windows stay small.
    pub quiet: bool,
    pub late_commits: usize,
    pub large_messages: usize,
}

impl Writers {
    pub async fn new(clients: Vec<Client>, gid_prefix: &str) -> Self {
        let writers = clients
            .into_iter()
            .map(|client| Writer { client: Arc::new(client), open: None, running: None })
            .collect();
        Writers {
            writers,
            keys: vec![(None, 0); KEYS],
            prepared: VecDeque::new(),
            gid_prefix: gid_prefix.to_string(),
            quiet: false,
            late_commits: 0,
            large_messages: 0,
        }
    }

    /// One statement on a random connection.
    pub async fn step(&mut self, chance: &mut Chance, ledger: &mut Ledger) {
        let index = chance.below(self.writers.len());
        if let Some(running) = &self.writers[index].running
            && !running.statement.is_finished()
            && chance.percent(80)
        {
            return;
        }
        self.join(index, ledger).await;
        match &self.writers[index].open {
            None if self.prepared.len() > PREPARED_MAX || chance.percent(5) => {
                self.end_prepared(index, chance).await;
            }
            None => self.begin(index, chance, ledger).await,
            Some(open) if open.steps_left == 0 => self.end(index, chance).await,
            Some(_) => self.go_on(index, chance, ledger).await,
        }
    }

    /// Ends everything, prepared transactions included.
    pub async fn finish(&mut self, chance: &mut Chance, ledger: &mut Ledger) {
        for index in 0..self.writers.len() {
            self.join(index, ledger).await;
            if self.writers[index].open.is_some() {
                self.end(index, chance).await;
                self.join(index, ledger).await;
            }
        }
        while !self.prepared.is_empty() {
            self.end_prepared(0, chance).await;
            self.join(0, ledger).await;
        }
    }

    /// Waits for every statement that still runs.
    pub async fn join_all(&mut self, ledger: &mut Ledger) {
        for index in 0..self.writers.len() {
            self.join(index, ledger).await;
        }
    }

    async fn join(&mut self, index: usize, ledger: &mut Ledger) {
        let Some(running) = self.writers[index].running.take() else { return };
        running.statement.await.expect("a writer").expect("a writer's statement");
        match running.meaning {
            Meaning::Nothing => {}
            Meaning::Committed(open) => {
                ledger.commit(open.transaction);
                self.release(&open.keys);
            }
            Meaning::RolledBack(open) => self.release(&open.keys),
            Meaning::Prepared(gid, open) => self.prepared.push_back((gid, open)),
        }
    }

    fn release(&mut self, keys: &[usize]) {
        for key in keys {
            self.keys[*key].0 = None;
        }
    }

    /// Starts a statement; waits for it unless it is to run beside others.
    async fn run(&mut self, index: usize, chance: &mut Chance, sql: String, meaning: Meaning) {
        let client = Arc::clone(&self.writers[index].client);
        let beside = chance.percent(40);
        // Spreads the statements over the time that a read takes; nothing depends on its length.
        let later = Duration::from_micros(if beside { chance.below(4000) as u64 } else { 0 });
        let mut statement = tokio::spawn(async move {
            tokio::time::sleep(later).await;
            client.batch_execute(&sql).await
        });
        if !beside {
            let ended = (&mut statement).await.expect("a writer");
            statement = tokio::spawn(async { ended });
        }
        self.writers[index].running = Some(Running { statement, meaning });
    }

    async fn begin(&mut self, index: usize, chance: &mut Chance, ledger: &mut Ledger) {
        let steps_left = match chance.below(20) {
            0..13 => chance.between(1, 5),
            13..19 => chance.between(8, 30),
            _ => chance.between(60, 200),
        };
        let (messages, keys, savepoints) = (Vec::new(), Vec::new(), Vec::new());
        let transaction = ledger.begin_transaction();
        let open = Open { transaction, messages, keys, savepoints, steps_left };
        self.writers[index].open = Some(open);
        // Sometimes the transaction's number is far older than its messages' ids.
        let draw = if chance.percent(30) { "; select pg_current_xact_id()" } else { "" };
        self.run(index, chance, format!("begin{draw}"), Meaning::Nothing).await;
    }

    async fn end(&mut self, index: usize, chance: &mut Chance) {
        let Some(open) = self.writers[index].open.take() else { return };
        let (sql, meaning) = match chance.below(100) {
            0..70 => ("commit".to_string(), Meaning::Committed(open)),
            70..85 => ("rollback".to_string(), Meaning::RolledBack(open)),
            _ => {
                let gid = format!("{}-{}", self.gid_prefix, open.transaction);
                (format!("prepare transaction '{gid}'"), Meaning::Prepared(gid, open))
            }
        };
        self.run(index, chance, sql, meaning).await;
    }

    async fn end_prepared(&mut self, index: usize, chance: &mut Chance) {
        if self.prepared.is_empty() {
            return;
        }
        let which = chance.below(self.prepared.len());
        let Some((gid, open)) = self.prepared.remove(which) else { return };
        let (verb, meaning) = if chance.percent(75) {
            self.late_commits += 1;
            ("commit", Meaning::Committed(open))
        } else {
            ("rollback", Meaning::RolledBack(open))
        };
        self.run(index, chance, format!("{verb} prepared '{gid}'"), meaning).await;
    }

    async fn go_on(&mut self, index: usize, chance: &mut Chance, ledger: &mut Ledger) {
        let Some(open) = &mut self.writers[index].open else { return };
        open.steps_left -= 1;
        match chance.below(100) {
            0..15 => self.lock_key(index, chance).await,
            15..55 => self.insert(index, chance, ledger, 1).await,
            55..68 => self.publish(index, chance, ledger).await,
            68..71 if !self.quiet => {
                let rows = *chance.pick(&[100, 400, 3000]);
                self.insert(index, chance, ledger, rows).await;
            }
            71..74 => self.subtransactions(index, chance, ledger).await,
            74..80 => self.fail_and_go_on(index).await,
            80..90 => self.savepoint(index, chance).await,
            _ => self.roll_back_to_savepoint(index, chance, ledger).await,
        }
    }

    /// Locks a free key, by a row or by an advisory lock; the latter draws no transaction number.
    async fn lock_key(&mut self, index: usize, chance: &mut Chance) {
        let key = chance.below(KEYS);
        let Some(open) = &mut self.writers[index].open else { return };
        if self.keys[key].0.is_some() {
            return;
        }
        self.keys[key].0 = Some(open.transaction);
        open.keys.push(key);
        let sql = if key.is_multiple_of(2) {
            format!("update locks set n = n + 1 where key = {key}")
        } else {
            format!("select pg_advisory_xact_lock({key})")
        };
        self.run(index, chance, sql, Meaning::Nothing).await;
    }

    /// Notes `count` messages in the ledger, as one statement writes them; returns the first
    /// number, the key as SQL and the value's length.
    fn note(
        &mut self,
        index: usize,
        chance: &mut Chance,
        ledger: &mut Ledger,
        count: usize,
    ) -> (usize, Key, Option<usize>) {
        let first = ledger.next_number();
        let open = self.writers[index].open.as_mut().expect("a transaction");
        let length = match chance.below(100) {
            0..5 => None,
            5..85 => Some(chance.between(12, 300)),
            85..97 => Some(chance.between(300, 4500)),
            _ if count == 1 => Some(chance.between(4000, 3_000_000)),
            _ => Some(5000),
        };
        self.large_messages += usize::from(length.is_some_and(|length| length > 4096));
        let free = format!("free-{}", chance.below(40));
        let held = (!open.keys.is_empty()).then(|| *chance.pick(&open.keys));
        let mut key = match (chance.below(10), held) {
            (0..6, Some(held)) => Key::Locked(held, 0),
            (6, _) => Key::None,
            (7, _) => Key::Free(String::new()),
            _ => Key::Free(free),
        };
        for _ in 0..count {
            if let Key::Locked(held, place) = &mut key {
                self.keys[*held].1 += 1;
                *place = self.keys[*held].1;
            }
            open.messages.push(ledger.write(open.transaction, key.clone(), length));
        }
        (first, key, length)
    }

    async fn insert(&mut self, index: usize, chance: &mut Chance, ledger: &mut Ledger, count: usize) {
        let (first, key, length) = self.note(index, chance, ledger, count);
        let sql = format!(
            "insert into onecommit.outbox (message_id, topic, key, value)
             select {} from generate_series({first}, {}) n",
            row(&key, length),
            first + count - 1
        );
        self.run(index, chance, sql, Meaning::Nothing).await;
    }

    /// More of them than the 64 that a backend shows in its snapshots' list.
    async fn subtransactions(&mut self, index: usize, chance: &mut Chance, ledger: &mut Ledger) {
        let count = if self.quiet { 3 } else { *chance.pick(&[3, 20, 90]) };
        let (first, key, length) = self.note(index, chance, ledger, count);
        let sql = format!(
            "do $$ begin for n in {first}..{} loop begin
               insert into onecommit.outbox (message_id, topic, key, value) select {};
               exception when division_by_zero then null; end; end loop; end $$",
            first + count - 1,
            row(&key, length)
        );
        self.run(index, chance, sql, Meaning::Nothing).await;
    }

    /// As an application in Rust does it.
    async fn publish(&mut self, index: usize, chance: &mut Chance, ledger: &mut Ledger) {
        self.join(index, ledger).await;
        let (number, key, length) = self.note(index, chance, ledger, 1);
        let value = length.map(|length| value(number, length));
        let headers = vec![("a".to_string(), Some(vec![0])), ("a".to_string(), None)];
        let message = Message::from_parts("orders", key.bytes(), value, headers, None).expect("valid");
        let client = Arc::clone(&self.writers[index].client);
        let id = Outbox::new().publish(&*client, &message).await.expect("publish");
        ledger.name(number, id.0);
    }

    async fn fail_and_go_on(&mut self, index: usize) {
        let writer = &self.writers[index];
        let client = &writer.client;
        client.batch_execute("savepoint failing").await.expect("savepoint");
        client.batch_execute("insert into onecommit.outbox (topic) values (null)").await.expect_err("NULL");
        client.batch_execute("rollback to savepoint failing").await.expect("rollback to");
    }

    async fn savepoint(&mut self, index: usize, chance: &mut Chance) {
        let Some(open) = &mut self.writers[index].open else { return };
        open.savepoints.push((open.messages.len(), open.keys.len()));
        let sql = format!("savepoint s{}", open.savepoints.len());
        self.run(index, chance, sql, Meaning::Nothing).await;
    }

    /// The keys locked behind the savepoint are free again, and are not published to any more.
    async fn roll_back_to_savepoint(&mut self, index: usize, chance: &mut Chance, ledger: &mut Ledger) {
        let Some(open) = &mut self.writers[index].open else { return };
        if open.savepoints.is_empty() {
            return;
        }
        let which = chance.below(open.savepoints.len());
        let (messages, keys) = open.savepoints[which];
        open.savepoints.truncate(which + 1);
        ledger.undo(&open.messages.split_off(messages));
        let freed = open.keys.split_off(keys);
        let client = Arc::clone(&self.writers[index].client);
        let sql = format!("rollback to savepoint s{}", which + 1);
        client.batch_execute(&sql).await.expect("rollback to savepoint");
        self.release(&freed);
    }
}

/// The columns of message `n` in SQL.
fn row(key: &Key, length: Option<usize>) -> String {
    let key = key.bytes().map_or("null::bytea".to_string(), |key| {
        format!("convert_to('{}', 'UTF8')", String::from_utf8(key).expect("text"))
    });
    let value = length.map_or("null::bytea".to_string(), |length| {
        format!("convert_to(lpad(n::text, {length}, 'x'), 'UTF8')")
    });
    format!("lpad(to_hex(n), 32, '0')::uuid, 'orders', {key}, {value}")
}
