//! A row of the topic log, whose columns may hold anything that SQLite stores.

#![no_main]

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use onecommit::delivery::topic_log::{TopicLogDelivery, TopicLogReader};
use onecommit::delivery::{Delivery, DeliveryScope};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params};

#[derive(Arbitrary, Debug)]
enum Value<'a> {
    Null,
    Integer(i64),
    Small(u8),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(number),
            Value::Small(number) => ValueRef::Integer(number.into()),
            Value::Real(number) => ValueRef::Real(number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

struct Log {
    path: PathBuf,
    connection: Connection,
}

/// One for all inputs: to make one takes far longer than to read a row.
fn log() -> Log {
    let path = tempfile::tempdir_in("/dev/shm").unwrap().keep().join("topics.db");
    let scope = DeliveryScope { prefix: "p".into(), participant: "orders".parse().unwrap(), shards: 1 };
    let delivery = TopicLogDelivery::new(&path, scope);
    delivery.init().unwrap();
    delivery.create_topic("t", None).unwrap();
    let connection = Connection::open(&path).unwrap();
    Log { path, connection }
}

thread_local!(static LOG: RefCell<Log> = RefCell::new(log()));

fuzz_target!(|row: [Value<'_>; 6]| {
    LOG.with_borrow(|log| {
        let [offset, partition, key, value, headers, timestamp_ms] = &row;
        log.connection.execute("delete from message", ()).unwrap();
        let sql = "insert into message (topic, offset, partition, key, value, headers, timestamp_ms)
                   select id, ?1, ?2, ?3, ?4, ?5, ?6 from topic";
        if log.connection.execute(sql, params![offset, partition, key, value, headers, timestamp_ms]).is_ok()
        {
            let mut reader = TopicLogReader::open(&log.path, "t", None, true).unwrap();
            if let Ok(Some(_)) = reader.next(Duration::ZERO) {
                assert!(reader.next(Duration::ZERO).unwrap().is_none(), "it is read once");
            }
        }
    });
});
