//! Delivery to a real Kafka: what only this backend owes beside the conformance suite.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use onecommit::delivery::kafka::{KafkaDelivery, KafkaReader};
use onecommit::delivery::{Blame, DeliveredMessage, Delivery, DeliveryScope, Fault, ShardDelivery};
use onecommit::id::{BarrierId, Epoch, ShardIndex};
use onecommit::message::StoredMessage;
use onecommit::protocol::position::Position;
use onecommit::protocol::progress::{DatabaseIdentity, Progress};
use onecommit::{Error, ErrorKind, Message, MessageId};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::conformance_delivery::{self as conformance, commit};
use crate::patience::{LIMIT, answered_blocking};

pub(crate) const FIRST: ShardIndex = ShardIndex(0);
const SECOND: ShardIndex = ShardIndex(1);
const SHARDS: u16 = 2;
const PAUSE: Duration = Duration::from_millis(10);

fn server() -> String {
    std::env::var("ONECOMMIT_TEST_KAFKA").expect(
        "ONECOMMIT_TEST_KAFKA has to be the address of a Kafka broker: run the tests under \
         `python -m tests.servers run -- cargo test`",
    )
}

pub(crate) fn properties(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |(name, value): (&str, &str)| (name.to_string(), value.to_string());
    let servers = server();
    let all = [("bootstrap.servers", servers.as_str())].into_iter().chain(more.iter().copied());
    all.map(own).collect()
}

fn client_config(more: &[(&str, &str)]) -> ClientConfig {
    properties(more).into_iter().collect()
}

struct Kafka;

impl conformance::Backend for Kafka {
    fn delivery(&self, scope: DeliveryScope) -> Box<dyn Delivery> {
        Box::new(KafkaDelivery::new(properties(&[]), scope))
    }

    fn visible(&self, topic: &str) -> Vec<DeliveredMessage> {
        let mut reader = answered_blocking(|| KafkaReader::open(&properties(&[]), topic, None, true));
        let mut found = Vec::new();
        let deadline = Instant::now() + LIMIT;
        while !reader.at_end() {
            assert!(Instant::now() < deadline, "the end of {topic} was not reached");
            found.extend(reader.next(PAUSE).unwrap());
        }
        found
    }

    /// Kafka answers a commit before its markers are in the partitions.
    fn committed(&self, topic: &str) -> Vec<DeliveredMessage> {
        let consumer = |isolation| -> BaseConsumer {
            let config = client_config(&[("group.id", "onecommit.test"), ("isolation.level", isolation)]);
            config.create().unwrap()
        };
        let (committed, any) = (consumer("read_committed"), consumer("read_uncommitted"));
        let ends = |consumer: &BaseConsumer| -> Vec<i64> {
            let partitions = 0..partitions(topic);
            partitions.map(|number| consumer.fetch_watermarks(topic, number, LIMIT).unwrap().1).collect()
        };
        let deadline = Instant::now() + LIMIT;
        while ends(&committed) != ends(&any) {
            assert!(Instant::now() < deadline, "a transaction of {topic} stays open");
            std::thread::sleep(PAUSE);
        }
        self.visible(topic)
    }
}

fn partitions(topic: &str) -> i32 {
    let consumer: BaseConsumer = client_config(&[("group.id", "onecommit.test")]).create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT).unwrap();
    metadata.topics()[0].partitions().len() as i32
}

/// A scope with its progress topic, and a topic for messages.
pub(crate) struct Place {
    scope: DeliveryScope,
    pub(crate) topic: String,
}

impl Place {
    pub(crate) fn new(partitions: u32) -> Self {
        let place = Place::empty();
        place.init();
        answered_blocking(|| place.delivery(&[]).create_topic(&place.topic, Some(partitions)));
        place
    }

    /// Without any topic.
    fn empty() -> Self {
        let unique = MessageId::random();
        let (prefix, topic) = (format!("onecommit.test.{unique}"), format!("topic.{unique}"));
        let participant = "orders".parse().unwrap();
        Place { scope: DeliveryScope { prefix, participant, shards: SHARDS }, topic }
    }

    fn delivery(&self, more: &[(&str, &str)]) -> KafkaDelivery {
        KafkaDelivery::new(properties(more), self.scope.clone())
    }

    fn init(&self) {
        answered_blocking(|| self.delivery(&[]).init());
    }

    pub(crate) fn open(&self, shard: ShardIndex, epoch: i64) -> Box<dyn ShardDelivery> {
        answered_blocking(|| self.delivery(&[]).open(shard, Epoch(epoch)))
    }

    /// One that sends in one request what it is given at once, also where it waits for the processor in between. A
    /// batch's end is not held up by that.
    fn open_patient(&self, epoch: i64) -> Box<dyn ShardDelivery> {
        answered_blocking(|| self.delivery(&[("linger.ms", "100")]).open(FIRST, Epoch(epoch)))
    }

    /// Makes a topic as somebody else would.
    fn make(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            wanted = wanted.set(name, value);
        }
        let admin: AdminClient<DefaultClientContext> = client_config(&[]).create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = AdminOptions::new();
        let answers = runtime.block_on(admin.create_topics([&wanted], &options)).unwrap();
        answers.into_iter().for_each(|answer| drop(answer.unwrap()));
        assert!(!answered_blocking(|| self.delivery(&[]).create_topic(topic, None)), "waits for it");
    }

    /// Records of another producer in a shard's progress partition, given up: offsets without
    /// anything to read.
    fn leave_gap(&self, shard: ShardIndex, records: usize) {
        let id = format!("{}.gap", self.topic);
        let producer: BaseProducer = client_config(&[("transactional.id", &id)]).create().unwrap();
        producer.init_transactions(LIMIT).unwrap();
        producer.begin_transaction().unwrap();
        let topic = self.scope.progress_topic();
        for _ in 0..records {
            let record = BaseRecord::to(&topic).partition(i32::from(shard.0)).key("gap").payload("gap");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(LIMIT).unwrap();
        producer.abort_transaction(LIMIT).unwrap();
    }

    fn send(&self, messages: &[StoredMessage], more: &[(&str, &str)]) -> Vec<DeliveredMessage> {
        let mut shard = answered_blocking(|| self.delivery(more).open(FIRST, Epoch(1)));
        shard.begin().unwrap();
        shard.send(messages).unwrap();
        commit(&mut *shard, &progress(1, 1)).unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            let arrived = conformance::Backend::committed(&Kafka, &self.topic);
            if arrived.len() >= messages.len() || Instant::now() > deadline {
                assert_eq!(arrived.len(), messages.len());
                return arrived;
            }
        }
    }

    /// The partition of each key, when `partitioner` chooses.
    fn partitions_of(&self, keys: &[&str], partitioner: Option<&str>) -> BTreeMap<String, i32> {
        let message = |key: &&str| stored(1, Message::new(&self.topic, key, "x").unwrap());
        let messages: Vec<StoredMessage> = keys.iter().map(message).collect();
        let property = partitioner.map(|name| ("partitioner", name));
        let arrived = self.send(&messages, property.as_slice());
        let key = |message: &DeliveredMessage| String::from_utf8(message.key.clone().unwrap()).unwrap();
        arrived.iter().map(|message| (key(message), message.partition)).collect()
    }
}

pub(crate) fn stored(transaction: u64, message: Message) -> StoredMessage {
    let (message_id, created_at_ms) = (MessageId::random(), conformance::now_ms());
    StoredMessage { id: 1, message_id, transaction, created_at_ms, message }
}

pub(crate) fn progress(epoch: i64, last: i64) -> Progress {
    let (system, database) = ("7371".to_string(), "16384".to_string());
    let database = DatabaseIdentity { system, database, timeline: None };
    let birth = Progress::birth(Epoch(epoch), SHARDS, database, Position::Sequence { last });
    Progress { barrier: Some(BarrierId::random().0), ..birth }
}

/// Kafka's own test vectors for its producer's hash (`UtilsTest.testMurmur2`), and the empty key.
const MURMUR2: [(&str, i32); 7] = [
    ("21", -973932308),
    ("foobar", -790332482),
    ("a-little-bit-long-string", -985981536),
    ("a-little-bit-longer-string", -1486304829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ("abc", 479470107),
    ("", 275646681),
];

#[test]
fn kafka_conforms() {
    conformance::suite(&Kafka);
}

#[test]
fn keys_go_where_javas_producer_sends_them() {
    const PARTITIONS: u32 = 12;
    let place = Place::new(PARTITIONS);
    let found = place.partitions_of(&MURMUR2.map(|(key, _)| key), None);
    let javas = |hash: i32| (hash & 0x7fff_ffff) % PARTITIONS as i32;
    assert_eq!(found, MURMUR2.map(|(key, hash)| (key.to_string(), javas(hash))).into());
}

#[test]
fn another_partitioner_is_chosen_by_name() {
    const PARTITIONS: u32 = 97;
    // CRC-32's check value; and 32-bit FNV-1a, which librdkafka takes as a signed number's amount.
    let cases =
        [("consistent_random", 0xcbf4_3926_u32), ("fnv1a", 0xbb86_b11c_u32.cast_signed().unsigned_abs())];
    for (name, hash) in cases {
        let place = Place::new(PARTITIONS);
        let found = place.partitions_of(&["123456789"], Some(name));
        assert_eq!(found["123456789"], (hash % PARTITIONS) as i32, "{name}");
    }
    let place = Place::new(1);
    let error = place.delivery(&[("partitioner", "random")]).open(FIRST, Epoch(1)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("murmur2_random"), "{error}");
}

#[test]
fn keyless_messages_of_one_transaction_share_a_partition() {
    let place = Place::new(7);
    let keyless = |number: u64| {
        let value = number.to_string().into_bytes();
        Message::from_parts(&place.topic, None, Some(value), vec![], None).unwrap()
    };
    let messages: Vec<StoredMessage> = (0..60).map(|number| stored(number / 3, keyless(number))).collect();
    let mut used: BTreeMap<u64, BTreeSet<i32>> = BTreeMap::new();
    for message in place.send(&messages, &[]) {
        let number: u64 = String::from_utf8(message.value.unwrap()).unwrap().parse().unwrap();
        used.entry(number / 3).or_default().insert(message.partition);
    }
    assert!(used.len() == 20 && used.values().all(|partitions| partitions.len() == 1), "{used:?}");
    let all: BTreeSet<i32> = used.into_values().flatten().collect();
    assert!(all.len() > 3, "transactions are spread over the partitions: {all:?}");
}

#[test]
fn a_partition_that_is_asked_for_is_taken_and_one_that_is_not_there_is_the_messages_fault() {
    let place = Place::new(3);
    let to = |partition: i32| {
        let key = Some(b"same".to_vec());
        stored(1, Message::from_parts(&place.topic, key, None, vec![], Some(partition)).unwrap())
    };
    let arrived = place.send(&[to(2), to(0), to(1)], &[]);
    let found: BTreeSet<i32> = arrived.iter().map(|message| message.partition).collect();
    assert_eq!(found, BTreeSet::from([0, 1, 2]));

    let mut shard = place.open(FIRST, 2);
    shard.begin().unwrap();
    let wrong = to(3);
    let (index, fault) = shard.send(&[to(1), wrong.clone()]).unwrap().expect("no such partition");
    assert_eq!(index, 1);
    assert!(
        matches!(&fault, Fault::Message { message_id, reason }
            if *message_id == wrong.message_id && reason.contains("no partition 3")),
        "{fault:?}"
    );
    commit(&mut *shard, &progress(2, 2)).unwrap();
    assert_eq!(conformance::Backend::committed(&Kafka, &place.topic).len(), 4, "without the wrong one");
}

fn names_the_topic(error: &Error, place: &Place) {
    assert!(error.context().iter().any(|(name, value)| *name == "topic" && *value == place.topic), "{error}");
}

#[test]
fn a_missing_topic_is_its_own_fault_and_said_with_the_way_on() {
    let place = Place::empty();
    place.init();
    let message = stored(1, Message::new(&place.topic, "k", "v").unwrap());
    let mut shard = place.open(FIRST, 1);
    shard.begin().unwrap();
    let (_, fault) = shard.send(std::slice::from_ref(&message)).unwrap().expect("there is no such topic");
    let way_on = format!("onecommit init --topic {}", place.topic);
    assert!(
        matches!(&fault, Fault::Topic { topic, reason } if *topic == place.topic && reason.contains(&way_on)),
        "{fault:?}"
    );
    assert_eq!(shard.topic_fault(&place.topic).unwrap(), Some(fault));
    let unread = KafkaReader::open(&properties(&[]), &place.topic, None, true).err().unwrap();
    assert!(unread.to_string().contains("onecommit init --topic"), "{unread}");

    shard.abort(LIMIT).unwrap();
    answered_blocking(|| place.delivery(&[]).create_topic(&place.topic, None));
    assert_eq!(shard.topic_fault(&place.topic).unwrap(), None);
    assert_eq!(place.send(&[message], &[]).len(), 1);
}

#[test]
fn of_invalid_records_each_is_named_and_the_others_are_innocent() {
    let place = Place::empty();
    place.init();
    place.make(&place.topic, 1, &[("cleanup.policy", "compact")]);
    let keyed = |number: u64| stored(number, Message::new(&place.topic, "k", "v").unwrap());
    let keyless = |number: u64| {
        stored(number, Message::from_parts(&place.topic, None, Some(b"v".to_vec()), vec![], None).unwrap())
    };
    let messages = [keyed(1), keyless(2), keyed(3), keyless(4), keyed(5)];
    let mut shard = place.open_patient(1);
    shard.begin().unwrap();
    shard.send(&messages).unwrap();
    let error = commit(&mut *shard, &progress(1, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let Blame::These(faults) = shard.blame() else { panic!("{:?}", shard.blame()) };
    let named: BTreeSet<MessageId> = faults
        .iter()
        .map(|fault| match fault {
            Fault::Message { message_id, .. } => *message_id,
            Fault::Topic { .. } => panic!("{fault:?}"),
        })
        .collect();
    assert_eq!(named, BTreeSet::from([messages[1].message_id, messages[3].message_id]));
    assert_eq!(shard.renew().unwrap(), None, "no progress was committed");
    shard.begin().unwrap();
    shard.send(&[keyed(1), keyed(3), keyed(5)]).unwrap();
    commit(&mut *shard, &progress(1, 1)).unwrap();
    assert_eq!(conformance::Backend::committed(&Kafka, &place.topic).len(), 3);
}

#[test]
fn topics_can_be_used_as_soon_as_they_are_made() {
    let place = Place::empty();
    place.init();
    let mut shard = place.open(FIRST, 1);
    for number in 0..20 {
        let topic = format!("{}.{number}", place.topic);
        answered_blocking(|| place.delivery(&[]).create_topic(&topic, Some(5)));
        shard.begin().unwrap();
        shard.send(&[stored(1, Message::new(&topic, "k", "v").unwrap())]).unwrap();
        commit(&mut *shard, &progress(1, number)).unwrap();
        assert_eq!(partitions(&topic), 5);
    }
}

#[test]
fn what_is_too_large_fails_with_its_topic_and_nothing_of_the_batch_is_seen() {
    let place = Place::empty();
    place.init();
    place.make(&place.topic, 1, &[("max.message.bytes", "2000")]);
    let message = |bytes: usize| stored(1, Message::new(&place.topic, "k", vec![b'x'; bytes]).unwrap());
    // Refused by the broker, before and after the progress is sent. Nobody is named for a batch.
    for pause_ms in [0, 300] {
        let mut shard = place.open_patient(1);
        shard.begin().unwrap();
        assert_eq!(shard.send(&[message(10), message(3_000)]).unwrap(), None);
        std::thread::sleep(Duration::from_millis(pause_ms));
        let error = commit(&mut *shard, &progress(1, 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        names_the_topic(&error, &place);
        assert!(matches!(shard.blame(), Blame::Somebody { of_topic: false, .. }), "{:?}", shard.blame());
        shard.abort(LIMIT).unwrap();
        assert_eq!(shard.progress().unwrap(), None);
    }
    // Alone it is named.
    let large = message(3_000);
    let mut shard = place.open(FIRST, 1);
    shard.begin().unwrap();
    assert_eq!(shard.send(std::slice::from_ref(&large)).unwrap(), None);
    assert_eq!(shard.flush().unwrap_err().kind(), ErrorKind::Invalid);
    match shard.blame() {
        Blame::These(faults) => assert!(
            matches!(&faults[..], [Fault::Message { message_id, .. }] if *message_id == large.message_id),
            "{faults:?}"
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(shard.renew().unwrap(), None);
    // What librdkafka refuses by itself never gets into the transaction.
    shard.begin().unwrap();
    let (index, fault) = shard.send(&[message(15), message(2_000_000)]).unwrap().expect("too large");
    assert!(index == 1 && matches!(fault, Fault::Message { .. }), "{index} {fault:?}");
    shard.abort(LIMIT).unwrap();
    let mut shard = place.open(FIRST, 2);
    shard.begin().unwrap();
    shard.send(&[message(20)]).unwrap();
    commit(&mut *shard, &progress(2, 1)).unwrap();
    let arrived = conformance::Backend::committed(&Kafka, &place.topic);
    assert_eq!(arrived.iter().map(|message| message.value.as_ref().unwrap().len()).collect::<Vec<_>>(), [20]);
}

#[test]
fn progress_is_found_behind_hundreds_of_commits_and_gaps() {
    let place = Place::new(1);
    let mut shard = place.open(FIRST, 1);
    let mut times = Vec::new();
    for number in 0..300 {
        let record = progress(1, number);
        shard.begin().unwrap();
        shard.send(&[stored(1, Message::new(&place.topic, "k", "v").unwrap())]).unwrap();
        let began = Instant::now();
        commit(&mut *shard, &record).unwrap();
        times.push(began.elapsed());
        if number % 100 == 0 {
            assert_eq!(shard.progress().unwrap(), Some(record.clone()));
            place.leave_gap(FIRST, number as usize);
            assert_eq!(shard.progress().unwrap(), Some(record.clone()), "behind a gap of {number}");
        }
    }
    times.sort();
    let ms = |index: usize| times[index].as_secs_f64() * 1000.0;
    eprintln!("a commit took p50 {:.1} ms, p90 {:.1} ms, longest {:.1} ms", ms(150), ms(270), ms(299));
    let last = progress(1, 300);
    shard.begin().unwrap();
    commit(&mut *shard, &last).unwrap();
    // More than the first three steps back.
    place.leave_gap(FIRST, 3_000);
    assert_eq!(shard.progress().unwrap(), Some(last.clone()));
    assert_eq!(answered_blocking(|| place.delivery(&[]).peek(FIRST)), Some(last.clone()));
    drop(shard);
    assert_eq!(place.open(FIRST, 2).progress().unwrap(), Some(last));
}

#[test]
fn absence_of_progress_is_proved_by_reading_all_of_its_partition() {
    let place = Place::new(1);
    let mut shard = place.open(SECOND, 1);
    assert_eq!(shard.progress().unwrap(), None);
    place.leave_gap(SECOND, 200);
    place.leave_gap(FIRST, 1);
    assert_eq!(shard.progress().unwrap(), None);
    shard.begin().unwrap();
    commit(&mut *shard, &progress(1, 1)).unwrap();
    assert!(shard.progress().unwrap().is_some());
    assert_eq!(place.open(FIRST, 1).progress().unwrap(), None);
}

#[test]
fn a_progress_topic_that_is_not_there_is_no_proof_of_anything() {
    let place = Place::empty();
    let mut shard = place.open(FIRST, 1);
    let peeked = place.delivery(&[]).peek(FIRST);
    for outcome in [shard.progress(), peeked] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.to_string().contains("onecommit init"), "{error}");
        assert!(error.to_string().contains(&place.scope.progress_topic()), "{error}");
    }
}

#[test]
fn a_progress_topic_that_would_lose_progress_is_refused() {
    let place = Place::empty();
    let refused = |place: &Place, what: &str| {
        let error = place.delivery(&[]).init().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains(what), "{error}");
    };
    place.make(&place.scope.progress_topic(), 3, &[("cleanup.policy", "compact")]);
    refused(&place, "3 partitions");
    for policy in ["delete", "compact,delete"] {
        let place = Place::empty();
        place.make(&place.scope.progress_topic(), i32::from(SHARDS), &[("cleanup.policy", policy)]);
        refused(&place, "cleanup.policy=compact");
    }
    let place = Place::empty();
    place.make(&place.scope.progress_topic(), i32::from(SHARDS), &[("cleanup.policy", "compact")]);
    place.init();
}

#[test]
fn who_was_fenced_while_idle_commits_nothing_more() {
    let place = Place::new(1);
    let mut old = place.open(FIRST, 1);
    let born = progress(1, 0);
    old.begin().unwrap();
    commit(&mut *old, &born).unwrap();
    let mut new = place.open(FIRST, 2);
    for _ in 0..2 {
        let error = old.begin().and_then(|()| commit(&mut *old, &progress(1, 1))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    }
    assert_eq!(new.progress().unwrap(), Some(born));
    let next = progress(2, 2);
    new.begin().unwrap();
    commit(&mut *new, &next).unwrap();
    assert_eq!(new.progress().unwrap(), Some(next));
}

#[test]
fn who_is_fenced_while_sending_hears_of_it_then() {
    let place = Place::new(1);
    let message = || stored(1, Message::new(&place.topic, "k", "v").unwrap());
    let mut old = place.open(FIRST, 1);
    old.begin().unwrap();
    old.send(&[message()]).unwrap();
    let _new = place.open(FIRST, 2);
    let deadline = Instant::now() + LIMIT;
    let error = loop {
        assert!(Instant::now() < deadline, "it was never told");
        match old.send(&[message()]) {
            Ok(_) => std::thread::sleep(PAUSE),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(conformance::Backend::committed(&Kafka, &place.topic), []);
}
