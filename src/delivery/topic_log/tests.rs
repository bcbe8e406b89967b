//! Whatever is delivered comes back as it was; whatever a file holds is read or refused.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::types::Value;
use rusqlite::{Connection, params};
use tempfile::TempDir;
use uuid::Uuid;

use super::{TopicLogDelivery, TopicLogReader};
use crate::delivery::{Delivery as _, DeliveryScope};
use crate::error::{ErrorKind, Result};
use crate::id::{Epoch, MessageId, ShardIndex};
use crate::message::{Header, ID_HEADER, Message, StoredMessage};
use crate::protocol::position::Position;
use crate::protocol::progress::{DatabaseIdentity, Progress};
use crate::sqlite::headers::encode;

const TOPIC: &str = "t";

fn log() -> (TempDir, PathBuf, TopicLogDelivery) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("topics.db");
    let scope = DeliveryScope { prefix: "p".into(), participant: "orders".parse().unwrap(), shards: 1 };
    let delivery = TopicLogDelivery::new(&path, scope);
    delivery.init().unwrap();
    (directory, path, delivery)
}

fn deliver(delivery: &TopicLogDelivery, messages: &[StoredMessage]) -> Result<()> {
    let database = DatabaseIdentity { system: "s".into(), database: "main".into(), timeline: None };
    let progress = Progress::birth(Epoch(1), 1, database, Position::Sequence { last: 1 });
    let mut shard = delivery.open(ShardIndex(0), Epoch(1))?;
    shard.begin()?;
    shard.send(messages)?;
    shard.seal(&progress)?;
    shard.commit()
}

type Parts = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<Header>, Option<i32>, i64);

fn stored(parts: &[Parts]) -> Vec<StoredMessage> {
    let one = |(id, (key, value, headers, partition, at)): (i64, &Parts)| {
        let (key, value) = (key.clone().map(Into::into), value.clone().map(Into::into));
        let message = Message::stored(TOPIC, key, value, headers.clone(), *partition);
        let message_id = MessageId(Uuid::from_u128(id as u128));
        StoredMessage { id, message_id, transaction: 1, created_at_ms: *at, message }
    };
    (1..).zip(parts).map(one).collect()
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        (0i64..9).prop_map(Value::Integer),
        Just(Value::Integer(i64::MAX)),
        any::<f64>().prop_map(Value::Real),
        ".{0,8}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..24).prop_map(Value::Blob),
        any::<(String, Option<Vec<u8>>)>()
            .prop_map(|header| encode(&[header]).map_or(Value::Null, Value::Blob)),
    ]
}

#[test]
fn a_topic_whose_offsets_are_at_their_end_is_refused() {
    let (_directory, path, delivery) = log();
    deliver(&delivery, &stored(&[(None, None, Vec::new(), None, 0)])).unwrap();
    let change = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    change(&format!("update message set offset = {}", i64::MAX));
    let mut reader = TopicLogReader::open(&path, TOPIC, None, true).unwrap();
    let error = reader.next(Duration::ZERO).unwrap_err();
    assert!(error.kind() == ErrorKind::Refused, "{error}");
    change("delete from message");
    for next in [i64::MAX, i64::MIN] {
        change(&format!("update topic set next_offset = {next}"));
        let error = deliver(&delivery, &stored(&[(None, None, Vec::new(), None, 0)])).unwrap_err();
        assert!(error.kind() == ErrorKind::Refused, "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_message_comes_back_as_it_was(parts in prop::collection::vec(any::<Parts>(), 1..6)) {
        let (_directory, path, delivery) = log();
        deliver(&delivery, &stored(&parts)).unwrap();
        let mut reader = TopicLogReader::open(&path, TOPIC, None, true).unwrap();
        for (number, (key, value, headers, partition, at)) in parts.into_iter().enumerate() {
            let found = reader.next(Duration::ZERO).unwrap().unwrap();
            let id = MessageId(Uuid::from_u128(number as u128 + 1)).to_string().into_bytes();
            let headers = [headers, vec![(ID_HEADER.to_string(), Some(id))]].concat();
            prop_assert_eq!((found.offset, found.partition), (number as i64, partition.unwrap_or(0)));
            let found = (found.key, found.value, found.headers, found.timestamp_ms);
            prop_assert_eq!(found, (key, value, headers, at));
        }
        prop_assert!(reader.next(Duration::ZERO).unwrap().is_none());
    }

    #[test]
    fn whatever_a_row_holds_is_read_or_refused(values in prop::collection::vec(value(), 6)) {
        let (_directory, path, delivery) = log();
        delivery.create_topic(TOPIC, None).unwrap();
        let [offset, partition, key, value, headers, at] = values.try_into().unwrap();
        let sql = "insert into message (topic, offset, partition, key, value, headers, timestamp_ms)
                   select id, ?1, ?2, ?3, ?4, ?5, ?6 from topic";
        let row = params![offset, partition, key, value, headers, at];
        // A column that is NULL where none may be is what SQLite itself refuses.
        prop_assume!(Connection::open(&path).unwrap().execute(sql, row).is_ok());
        let mut reader = TopicLogReader::open(&path, TOPIC, None, true).unwrap();
        if let Ok(Some(_)) = reader.next(Duration::ZERO) {
            prop_assert!(reader.next(Duration::ZERO).unwrap().is_none(), "it is read once");
        }
    }

    #[test]
    fn whatever_a_topic_holds_is_appended_to_or_refused(next in value()) {
        let (_directory, path, delivery) = log();
        delivery.create_topic(TOPIC, None).unwrap();
        let changed = Connection::open(&path).unwrap().execute("update topic set next_offset = ?1", [next]);
        prop_assume!(changed.is_ok());
        let _ = deliver(&delivery, &stored(&[(None, None, Vec::new(), None, 0)]));
    }
}
