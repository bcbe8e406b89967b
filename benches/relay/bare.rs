//! The bare producer: two transactional producers of rdkafka, messages ready in memory, the same
//! batches as the relay's and one small record beside each. It runs in a process of its own, so
//! that its CPU time is its own.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use onecommit::id::ShardIndex;
use onecommit::protocol::slot::{shard_of, slot};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::backlog::{VALUE_BYTES, key};
use crate::run::{Run, check_count};
use crate::{Result, Servers, kafka, process};

const SHARDS: u16 = 2;
const BATCH_MESSAGES: usize = 5000;
/// As long as the relay's progress record.
const PROGRESS_BYTES: usize = 300;
const LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// So many are in memory; where there are more, the same ones are sent again.
const READY_MESSAGES: u64 = 1_000_000;

/// What one producer sends.
#[derive(Default)]
struct Load {
    ready: Vec<(String, Vec<u8>)>,
    count: usize,
}

/// One run, with a process of its own.
pub(crate) fn measure(servers: &Servers, messages: u64) -> Result<Run> {
    let topic = format!("bare-{}", uuid::Uuid::new_v4());
    kafka::create_topic(&servers.kafka, &topic, kafka::PARTITIONS, &[])?;
    kafka::create_topic(&servers.kafka, &progress_topic(&topic), i32::from(SHARDS), &[])?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--bare", &topic, "--messages", &messages.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let alive = || Ok(());
    let written = kafka::wait_until_written(&servers.kafka, &topic, messages, alive, || Ok(()));
    if written.is_err() {
        let _ = child.kill();
    }
    let mut said = String::new();
    child.stdout.take().ok_or("no output")?.read_to_string(&mut said)?;
    let status = child.wait()?;
    let written = written?;
    if !status.success() {
        return Err("the bare producer failed".into());
    }
    let [cpu_s, peak_rss_mb] = said
        .split_whitespace()
        .map(str::parse)
        .collect::<std::result::Result<Vec<f64>, _>>()?
        .try_into()
        .map_err(|_| "the bare producer said something else")?;
    check_count(servers, &topic, messages)?;
    kafka::delete_topics(&servers.kafka, &[&topic, &progress_topic(&topic)])?;
    let delivered_s = (written.last - written.first).as_secs_f64();
    Ok(Run { messages, delivered_s, cpu_s, peak_rss_mb, pruned_s: None })
}

fn progress_topic(topic: &str) -> String {
    format!("{topic}-progress")
}

/// The process: produces, and prints its CPU seconds since the messages were ready.
pub(crate) fn run(servers: &Servers, topic: &str, messages: u64) -> Result<()> {
    let mut shards: Vec<Load> = (0..SHARDS).map(|_| Load::default()).collect();
    for n in 0..messages {
        let key = key(n);
        let shard = shard_of(slot(Some(key.as_bytes()), 0), SHARDS);
        let load = &mut shards[usize::from(shard.0)];
        load.count += 1;
        if n < READY_MESSAGES {
            let value = format!("{n:016}").into_bytes().into_iter().cycle().take(VALUE_BYTES).collect();
            load.ready.push((key, value));
        }
    }
    let pid = std::process::id();
    let before = process::cpu_seconds(pid)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SHARDS)
            .zip(&shards)
            .map(|(shard, load)| scope.spawn(move || produce(servers, topic, ShardIndex(shard), load)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a producer panicked")?)
    })?;
    println!("{} {}", process::cpu_seconds(pid)? - before, process::peak_rss_mb(pid)?);
    Ok(())
}

fn produce(servers: &Servers, topic: &str, shard: ShardIndex, load: &Load) -> Result<()> {
    let progress = progress_topic(topic);
    // The settings of the relay's own producers.
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &servers.kafka)
        .set("transactional.id", format!("{topic}-{shard}"))
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("batch.num.messages", "1000")
        .set("queue.buffering.max.kbytes", "32768")
        .set("delivery.report.only.error", "true")
        .set("partitioner", "murmur2_random")
        .create()?;
    producer.init_transactions(LIMIT)?;
    let (mut ready, mut left) = (load.ready.iter().cycle(), load.count);
    while left > 0 {
        producer.begin_transaction()?;
        let batch = left.min(BATCH_MESSAGES);
        left -= batch;
        for (key, value) in ready.by_ref().take(batch) {
            send(&producer, BaseRecord::to(topic).key(key).payload(value))?;
        }
        let record = [b'x'; PROGRESS_BYTES];
        let place = format!("main/{shard}");
        let record = BaseRecord::to(&progress).partition(i32::from(shard.0)).key(&place).payload(&record);
        send(&producer, record)?;
        commit(&producer)?;
    }
    Ok(())
}

fn send<P: rdkafka::message::ToBytes + ?Sized>(
    producer: &BaseProducer,
    mut record: BaseRecord<'_, String, P>,
) -> Result<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(20));
                record = back;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// rdkafka's `commit_transaction` looks every 100 ms whether all is sent, which nobody who measured
/// it would accept: it is called when nothing is left to send.
fn commit(producer: &BaseProducer) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while producer.in_flight_count() > 0 {
        if Instant::now() > deadline {
            return Err("the bare producer's messages were not taken".into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(producer.commit_transaction(LIMIT)?)
}
