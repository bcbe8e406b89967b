//! Where a reader of committed messages begins, on a real Kafka.

use onecommit::Message;
use std::time::{Duration, Instant};

use onecommit::delivery::kafka::KafkaReader;
use onecommit::delivery::{DeliveredMessage, ShardDelivery};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset};

use crate::conformance_delivery::{TIMES, commit_in_time};
use crate::delivery_kafka::{FIRST, Place, progress, properties, stored};
use crate::patience::{LIMIT, anew_blocking, answered_blocking};

/// One topic, and who delivers to it.
struct Topic {
    place: Place,
    shard: Box<dyn ShardDelivery>,
    partitions: i32,
    sent: i64,
}

impl Topic {
    fn new(partitions: u32) -> Self {
        let place = Place::new(partitions);
        let shard = place.open(FIRST, 1);
        Topic { place, shard, partitions: partitions.cast_signed(), sent: 0 }
    }

    /// Delivers the next message.
    fn deliver(&mut self) {
        self.deliver_around(|_| ()).expect("it is committed at once");
    }

    /// The same; `between` runs when it is written and not committed. `None` where that took too long.
    fn deliver_around<T>(&mut self, between: impl FnOnce(&Self) -> T) -> Option<T> {
        self.sent += 1;
        let partition = i32::try_from(self.sent).unwrap() % self.partitions;
        let value = Some(self.sent.to_string().into_bytes());
        let message = Message::from_parts(&self.place.topic, None, value, vec![], Some(partition)).unwrap();
        let began = Instant::now();
        self.shard.begin().unwrap();
        self.shard.send(&[stored(1, message)]).unwrap();
        let done = between(self);
        commit_in_time(&mut *self.shard, &progress(1, self.sent), began)?;
        Some(done)
    }

    fn open(&self, group: Option<&str>, from_beginning: bool) -> KafkaReader {
        answered_blocking(|| KafkaReader::open(&properties(&[]), &self.place.topic, group, from_beginning))
    }

    fn group(&self, name: &str) -> String {
        format!("{}.{name}", self.place.topic)
    }
}

fn next(reader: &mut KafkaReader) -> i64 {
    let DeliveredMessage { value, .. } = reader.next(LIMIT).unwrap().expect("a message within the limit");
    String::from_utf8(value.unwrap()).unwrap().parse().unwrap()
}

#[test]
fn what_comes_after_the_opening_is_read_and_what_was_before_is_not() {
    let topic = Topic::new(1);
    let config: ClientConfig = properties(&[("linger.ms", "0")]).into_iter().collect();
    let producer: BaseProducer = config.create().unwrap();
    let send = |number: i64| {
        let value = number.to_string();
        producer.send(BaseRecord::<str, str>::to(&topic.place.topic).payload(&value)).unwrap();
        producer.flush(LIMIT).unwrap();
    };
    // The producer is connected and fast, and this is done many times: a reader that asks for the end
    // later than at its opening gets away with it now and then.
    send(0);
    for number in 1..=20 {
        let mut reader = topic.open(None, false);
        send(number);
        assert_eq!(next(&mut reader), number);
    }
}

#[test]
fn a_new_group_begins_now_and_goes_on_there_though_it_has_read_nothing() {
    anew_blocking(TIMES, a_new_group_begins_now);
}

fn a_new_group_begins_now() -> Option<()> {
    let mut topic = Topic::new(1);
    // A cluster's first group waits for Kafka's topic of groups, longer than a transaction may be open.
    drop(topic.open(Some(&topic.group("none")), false));
    let first = topic.group("first");
    let mut reader = topic.deliver_around(|topic| topic.open(Some(&first), false))?;
    assert_eq!(next(&mut reader), 1);
    reader.commit().unwrap();
    drop(reader);

    let second = topic.group("second");
    drop(topic.open(Some(&second), false));
    topic.deliver();
    topic.deliver();
    for group in [&first, &second] {
        let mut reader = topic.open(Some(group), false);
        assert_eq!((next(&mut reader), next(&mut reader)), (2, 3), "{group}");
    }
    Some(())
}

#[test]
fn a_group_has_a_position_in_every_partition_from_its_first_opening() {
    let mut topic = Topic::new(2);
    let group = topic.group("g");
    topic.deliver();
    topic.deliver();
    let mut reader = topic.open(Some(&group), true);
    let first = next(&mut reader);
    reader.commit().unwrap();
    drop(reader);
    // The partition that was not come to yet was not begun at its end meanwhile.
    let second = next(&mut topic.open(Some(&group), false));
    assert_eq!(first + second, 1 + 2);
}

#[test]
fn who_joins_a_group_at_work_leaves_its_position_alone() {
    let mut topic = Topic::new(1);
    let group = topic.group("g");
    topic.deliver();
    let more =
        [("group.id", group.as_str()), ("auto.offset.reset", "earliest"), ("enable.auto.commit", "false")];
    let config: ClientConfig = properties(&more).into_iter().collect();
    let at_work: BaseConsumer = config.create().unwrap();
    at_work.subscribe(&[&topic.place.topic]).unwrap();
    let deadline = Instant::now() + LIMIT;
    while at_work.assignment().unwrap().count() == 0 {
        assert!(Instant::now() < deadline, "it did not join its group");
        let _ = at_work.poll(Duration::from_millis(10));
    }
    drop(topic.open(Some(&group), false));
    let stored = at_work.committed(LIMIT).unwrap();
    assert!(stored.elements().iter().all(|found| found.offset() == Offset::Invalid), "{stored:?}");
}
