//! What became of the messages: a relay delivers them to Kafka, where each committed transaction's has to be
//! once, and no other one's.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use onecommit::config::Config;
use onecommit::service;
use tokio::sync::watch;

use crate::coordinator::Place;
use crate::patience::{LIMIT, answered, until};

const PAUSE: Duration = Duration::from_millis(50);

/// Has everything delivered, and compares the keys.
pub(super) async fn arrives(place: &Place, expected: BTreeSet<String>, failpoint: &str) {
    let (config, topic) = (config_of(place), place.topic().to_string());
    let topics = std::slice::from_ref(&topic);
    answered(async || service::init(&config, topics, Some(1), &|_| {}).await).await;
    let (stop, stopping) = watch::channel(false);
    let relayed = config.clone();
    let relay = tokio::spawn(async move { service::run_relays(&relayed, stopping).await });
    let (reading, count) = (config.clone(), expected.len());
    let arrived = tokio::task::spawn_blocking(move || read(&reading, &topic, count)).await.unwrap();
    let waiting = async || {
        let mut found = service::status(&config).await?.remove(0);
        found.errors.pop().map_or(Ok(found.shards), Err)
    };
    until("nothing waits", waiting, |shards| {
        shards.iter().all(|shard| shard.progress.as_ref().is_some_and(|(_, backlog)| backlog.messages == 0))
    })
    .await;
    stop.send_replace(true);
    tokio::time::timeout(LIMIT, relay).await.expect("the relay stops").unwrap().unwrap();
    assert_eq!(arrived, expected.into_iter().collect::<Vec<_>>(), "{failpoint}");
}

fn config_of(place: &Place) -> Config {
    let kafka = std::env::var("ONECOMMIT_TEST_KAFKA").expect("run under `python -m tests.servers run`");
    let text = place.configuration() + &format!("[kafka]\n\"bootstrap.servers\" = \"{kafka}\"\n");
    Config::from_toml(&text, []).unwrap()
}

/// The keys of all that a consumer sees, sorted, up to an end behind `expected` of them.
fn read(config: &Config, topic: &str, expected: usize) -> Vec<String> {
    let mut reader = service::open_reader(config, topic, None, true).unwrap();
    let (mut arrived, deadline) = (Vec::new(), Instant::now() + LIMIT);
    loop {
        match reader.next(PAUSE).unwrap() {
            None if reader.at_end() && (arrived.len() >= expected || Instant::now() > deadline) => break,
            None => {}
            Some(message) => arrived.push(String::from_utf8(message.key.unwrap()).unwrap()),
        }
    }
    arrived.sort();
    arrived
}
