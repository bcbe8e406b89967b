//! The read path of the PostgreSQL outbox as a property: whatever writers and relays do, every
//! committed message is read exactly once by the relay that owns its shard, in the order of its
//! key, and no prune removes one that was not delivered.
//!
//! `ONECOMMIT_TEST_SEED` runs one seed again, `ONECOMMIT_TEST_ROUNDS` sets the number of random
//! ones. The numbers drawn depend on the seed alone, but what is drawn with them also on which
//! statements have ended by then: two runs of one seed are alike, and not the same.

mod backlog;
mod chance;
mod database;
mod edges;
mod ledger;
mod plans;
mod relays;
mod writers;

use std::time::SystemTime;

use chance::Chance;
use database::{Database, connect};
use ledger::Ledger;
use relays::{Counts, Relays};
use writers::Writers;

const FIXED_SEEDS: [u64; 3] = [1, 2, 3];
const STEPS: usize = 1200;
/// At most so many more, until every situation has come up: a table is not emptied in every round, as
/// that takes one relay with all shards that may empty it, and a lock that is free in time.
const MORE_ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_committed_message_is_read_exactly_once_and_in_order() {
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    let mut random = Chance::new(now.as_nanos() as u64);
    let mut seeds = match variable("ONECOMMIT_TEST_SEED") {
        Some(seed) => vec![seed],
        None => FIXED_SEEDS.to_vec(),
    };
    let rounds = variable("ONECOMMIT_TEST_ROUNDS").unwrap_or(1);
    seeds.extend((0..rounds).map(|_| random.next()));
    let mut all = Counts::default();
    for seed in seeds {
        all.add(&shown_round(seed).await);
    }
    if variable("ONECOMMIT_TEST_SEED").is_none() {
        for _ in 0..MORE_ROUNDS {
            if !all.are_all_met() {
                all.add(&shown_round(random.next()).await);
            }
        }
        assert!(all.are_all_met(), "a situation never came up: {all:?}");
    }
}

async fn shown_round(seed: u64) -> Counts {
    eprintln!("ONECOMMIT_TEST_SEED={seed}");
    let counts = round(seed).await;
    eprintln!("{counts:?}");
    counts
}

async fn round(seed: u64) -> Counts {
    let mut chance = Chance::new(seed);
    let database = Database::create().await;
    let shards = *chance.pick(&[1, 2, 3, 4, 4]);
    database.init(shards).await;
    let locks = "create table locks as select key, 0 as n from generate_series(0, 99) key";
    database.client.batch_execute(locks).await.expect("locks");
    // A table that was emptied at once has another file.
    let file = "select pg_relation_filenode('onecommit.outbox')::bigint";
    let first_file = database.count(file).await;
    let mut clients = Vec::new();
    for index in 0..12 {
        let writer = connect(&database.url).await;
        if index % 3 > 0 {
            writer.batch_execute("set synchronous_commit = off").await.expect("set");
        }
        clients.push(writer);
    }
    let mut ledger = Ledger::default();
    let mut writers = Writers::new(clients, &database.name).await;
    let mut relays = Relays::new(database.source(), chance.between(1, 3), shards, &mut chance).await;
    for step in 0..STEPS {
        writers.quiet = step / 100 % 2 == 1;
        for _ in 0..chance.between(0, if writers.quiet { 2 } else { 4 }) {
            writers.step(&mut chance, &mut ledger).await;
        }
        for _ in 0..if writers.quiet { 3 } else { 1 } {
            relays.step(&mut chance, &ledger).await;
        }
        if step % 300 == 0 {
            writers.join_all(&mut ledger).await;
            let (backlog, settled) = relays.backlog_and_settled().await;
            assert_eq!(backlog as usize + settled, ledger.committed_messages(), "backlog");
        }
        if step % 400 == 399 {
            // For a moment nothing is open and all is delivered: a relay with every shard empties the table.
            writers.finish(&mut chance, &mut ledger).await;
            relays.finish(&mut chance, &ledger).await;
            relays.prune_all(&mut chance).await;
        }
    }
    let emptied = database.count(file).await != first_file;
    writers.finish(&mut chance, &mut ledger).await;
    let deliveries = relays.finish(&mut chance, &ledger).await;
    ledger.check(&deliveries);
    relays.prune_all(&mut chance).await;
    assert_eq!(database.count("select count(*) from onecommit.outbox").await, 0, "left after pruning");
    let mut counts = relays.counts;
    counts.emptied = usize::from(emptied);
    counts.messages = ledger.committed_messages();
    counts.late_commits = writers.late_commits;
    counts.large_messages = writers.large_messages;
    drop((writers, relays));
    database.drop().await;
    counts
}
