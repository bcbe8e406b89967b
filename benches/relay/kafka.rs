//! Topics of a run, and the clock of both runs alike: from the first change of a topic's end to
//! the last, seen by asking the broker for the ends.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::Result;

/// Partitions of each topic that messages go to.
pub(crate) const PARTITIONS: i32 = 6;
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(4);
/// Nothing was written for this long: a run whose messages are all there has ended.
const QUIET: Duration = Duration::from_millis(600);
/// A run that is slower than this has failed.
const SLOWEST_PER_S: u64 = 2000;
const START_LIMIT: Duration = Duration::from_secs(120);

/// Makes a topic with the given properties; returns when its partitions answer.
pub(crate) fn create_topic(
    servers: &str,
    name: &str,
    partitions: i32,
    properties: &[(&str, &str)],
) -> Result<()> {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (property, value) in properties {
        topic = topic.set(property, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(REQUEST_LIMIT));
    let made = wait(admin(servers)?.create_topics([&topic], &options))?;
    made.into_iter().next().ok_or("no answer")?.map_err(|(_, code)| code)?;
    let (ends, began) = (consumer(servers, "read_uncommitted")?, Instant::now());
    for partition in 0..partitions {
        while let Err(error) = ends.fetch_watermarks(name, partition, REQUEST_LIMIT) {
            if began.elapsed() > REQUEST_LIMIT {
                return Err(error.into());
            }
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// Deletes topics; the broker gives their space back a little later.
pub(crate) fn delete_topics(servers: &str, names: &[&str]) -> Result<()> {
    let options = AdminOptions::new().operation_timeout(Some(REQUEST_LIMIT));
    wait(admin(servers)?.delete_topics(names, &options))?;
    Ok(())
}

fn admin(servers: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", servers).create()?)
}

/// librdkafka answers by a thread of its own, so any executor will do, on a thread that no
/// other executor holds.
fn wait<T: Send>(answer: impl Future<Output = std::result::Result<T, KafkaError>> + Send) -> Result<T> {
    let waited = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(answer))
        });
        thread.join()
    });
    Ok(waited.map_err(|_| "a request to Kafka panicked")???)
}

/// A consumer without a group's help.
pub(crate) fn consumer(servers: &str, isolation: &str) -> Result<BaseConsumer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        .create()?)
}

/// All partitions of a topic, at one offset.
pub(crate) fn partitions(topic: &str, offset: Offset) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, offset)?;
    }
    Ok(list)
}

/// When a topic's messages were written.
pub(crate) struct Written {
    pub(crate) first: Instant,
    pub(crate) last: Instant,
}

/// Waits until `messages` and the transactions' markers are written and nothing more comes.
/// `alive` fails where nothing will come any more; `changed` is called at each sight of more.
pub(crate) fn wait_until_written(
    servers: &str,
    topic: &str,
    messages: u64,
    mut alive: impl FnMut() -> Result<()>,
    mut changed: impl FnMut() -> Result<()>,
) -> Result<Written> {
    let ends = consumer(servers, "read_uncommitted")?;
    let began = Instant::now();
    let limit = START_LIMIT + Duration::from_secs(messages / SLOWEST_PER_S);
    let mut first = None;
    let (mut last, mut before) = (began, 0);
    loop {
        let now_written: i64 = ends
            .offsets_for_times(partitions(topic, Offset::End)?, REQUEST_LIMIT)?
            .elements()
            .iter()
            .map(|partition| partition.offset().to_raw().unwrap_or(0).max(0))
            .sum();
        let now = Instant::now();
        if now_written > before {
            first.get_or_insert(now);
            (last, before) = (now, now_written);
            changed()?;
        }
        let all = before >= i64::try_from(messages)?;
        if let (true, Some(first)) = (all && now - last > QUIET, first) {
            return Ok(Written { first, last });
        }
        if !all {
            alive()?;
        }
        if now - began > limit {
            return Err(format!("{before} of {messages} messages written in {limit:?}").into());
        }
        std::thread::sleep(LOOK);
    }
}

/// Counts what a `read_committed` consumer finds.
pub(crate) fn count_committed(servers: &str, topic: &str) -> Result<u64> {
    let consumer = consumer(servers, "read_committed")?;
    consumer.assign(&partitions(topic, Offset::Beginning)?)?;
    let mut ended = std::collections::BTreeSet::new();
    let mut count = 0;
    while ended.len() < PARTITIONS as usize {
        match consumer.poll(REQUEST_LIMIT) {
            Some(Ok(_)) => count += 1,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Err("the consumer got neither a message nor an end".into()),
        }
    }
    Ok(count)
}
