//! Publishing into PostgreSQL: from Rust in few round trips, and by the SQL functions that every
//! other language and every trigger uses.

use onecommit::message::{Header, StoredMessage};
use onecommit::{ErrorKind, Message, MessageId};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{NEWEST, OLDEST, Place, USUAL};

fn header(name: &str, value: Option<&str>) -> Header {
    (name.to_string(), value.map(|text| text.as_bytes().to_vec()))
}

fn text(bytes: Option<&[u8]>) -> Option<&str> {
    bytes.map(|bytes| std::str::from_utf8(bytes).unwrap())
}

/// Counts the statements that insert.
const COUNT_STATEMENTS: &str = "create table {s}.statement ();
    create function {s}.count() returns trigger language plpgsql as $$
    begin insert into {s}.statement default values; return null; end $$;
    create trigger count after insert on {s}.outbox for each statement execute function {s}.count()";

#[tokio::test]
async fn many_messages_take_few_statements_and_keep_their_order() {
    let mut place = Place::ready().await;
    place.sql(COUNT_STATEMENTS).await;
    let publishing = place.publishing();
    let message = |number: usize| {
        let value = vec![b'x'; number % 7];
        let message = Message::new("t", number.to_string(), value).unwrap();
        if number.is_multiple_of(3) { message.header("n", number.to_string()).unwrap() } else { message }
    };
    let messages: Vec<Message> = (0..1_201).map(message).collect();
    let transaction = place.client.transaction().await.unwrap();
    let mut ids = publishing.publish_many(&transaction, &messages).await.unwrap();
    ids.push(publishing.publish(&transaction, &messages[0]).await.unwrap());
    assert_eq!(publishing.publish_many(&transaction, &[]).await.unwrap(), []);
    transaction.commit().await.unwrap();

    assert_eq!(place.number("select count(*) from {s}.statement").await, 4, "500, 500, 201 and 1");
    let found = place.read_all().await;
    assert_eq!(found.iter().map(|stored| stored.message_id).collect::<Vec<_>>(), ids);
    let published = messages.iter().chain(&messages[..1]);
    assert!(found.iter().map(|stored| &stored.message).eq(published));
    assert!(found.iter().all(|stored| stored.transaction == found[0].transaction));
    place.drop().await;
}

#[tokio::test]
async fn large_messages_take_statements_of_their_own() {
    let place = Place::ready().await;
    place.sql(COUNT_STATEMENTS).await;
    let megabytes = [3, 4, 2, 9, 1];
    let messages = megabytes.map(|size| Message::new("t", "k", vec![7; size << 20]).unwrap());
    let ids = place.publishing().publish_many(&place.client, &messages).await.unwrap();
    assert_eq!(place.number("select count(*) from {s}.statement").await, 4, "3 + 4, 2, 9 and 1");
    let found = place.read_all().await;
    assert_eq!(found.iter().map(|stored| stored.message_id).collect::<Vec<_>>(), ids);
    assert_eq!(found.iter().map(|stored| stored.message.size() >> 20).collect::<Vec<_>>(), megabytes);
    place.drop().await;
}

#[tokio::test]
async fn publishing_where_init_was_not_run_says_so() {
    let place = Place::new().await;
    let message = Message::new("orders", "k", "v").unwrap();
    let one = place.publishing().publish(&place.client, &message).await.unwrap_err();
    let many = place.publishing().publish_many(&place.client, &[message]).await.unwrap_err();
    for error in [one, many] {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("onecommit init"), "{error}");
    }
}

/// Calls a function; returns the message that it published, as a relay reads it.
async fn call(place: &Place, call: &str, parameters: &[&(dyn ToSql + Sync)]) -> StoredMessage {
    let sql = place.text(&format!("select {{s}}.{call}"));
    let id: Uuid = place.client.query_one(&sql, parameters).await.unwrap().get(0);
    let last = place.read_all().await.pop().unwrap();
    assert_eq!(last.message_id, MessageId(id));
    last
}

#[tokio::test]
async fn sql_publishes_every_content_on_every_version() {
    for variable in [OLDEST, USUAL, NEWEST] {
        sql_publishes_every_content(Place::ready_on(variable).await).await;
    }
}

async fn sql_publishes_every_content(place: Place) {
    let nothing = async |call_text: &str| call(&place, call_text, &[]).await.message;

    let usual = nothing("publish('order.paid', '42', '{\"total\": 100}')").await;
    assert_eq!(usual, Message::new("order.paid", "42", r#"{"total": 100}"#).unwrap());
    let tombstone = nothing("publish('a', 'ä', null)").await;
    assert_eq!((text(tombstone.key()), tombstone.value()), (Some("ä"), None));
    let keyless = nothing("publish('a', null, '')").await;
    assert_eq!((keyless.key(), text(keyless.value())), (None, Some("")));
    let empty = nothing("publish('a', '', null, '{}')").await;
    assert_eq!((text(empty.key()), empty.headers()), (Some(""), &[][..]));
    let bytes = nothing("publish_bytes('a', '\\x00ff', '\\x01', null, 7)").await;
    assert_eq!(bytes.key(), Some(&b"\x00\xff"[..]));
    assert_eq!((bytes.value(), bytes.partition()), (Some(&b"\x01"[..]), Some(7)));
    let headers =
        nothing("publish('a', 'k', 'v', '{\"b\": \"\", \"a\": \"1\", \"ä\": null, \"n\": 2}')").await;
    let mut found = headers.headers().to_vec();
    found.sort();
    let expected = [header("a", Some("1")), header("b", Some("")), header("n", Some("2")), header("ä", None)];
    assert_eq!(found, expected);
    let named = nothing("publish(value => 'v', partition => 1, key => 'k', topic => 't')").await;
    assert_eq!(
        named,
        Message::from_parts("t", Some(b"k".into()), Some(b"v".into()), vec![], Some(1)).unwrap()
    );

    let parameters: [&(dyn ToSql + Sync); 3] = [&"typed", &"k", &None::<String>];
    assert_eq!(call(&place, "publish($1, $2, $3)", &parameters).await.message.topic(), "typed");
    place.sql("set search_path = ''; set standard_conforming_strings = off").await;
    assert_eq!(nothing("publish('anywhere', 'k', 'v')").await.topic(), "anywhere");
    let longest = "t".repeat(249);
    assert_eq!(nothing(&format!("publish('{longest}', 'k', 'v')")).await.topic(), longest);
    place.drop().await;
}

#[tokio::test]
async fn sql_refuses_what_kafka_could_never_take() {
    let place = Place::ready().await;
    let long = format!("publish('{}', 'k', 'v')", "x".repeat(250));
    let refused = [
        ("publish(null, 'k', 'v')", "NULL is not a Kafka topic name"),
        ("publish('', 'k', 'v')", "'' is not a Kafka topic name"),
        ("publish('..', 'k', 'v')", "'..' is not"),
        ("publish('a b', 'k', 'v')", "'a b' is not"),
        ("publish(E'a\\n', 'k', 'v')", "is not a Kafka topic name"),
        ("publish('ä', 'k', 'v')", "'ä' is not"),
        (long.as_str(), "is not a Kafka topic name"),
        ("publish('t', 'k', 'v', null, -1)", "0 or more, not -1"),
        ("publish('t', 'k', 'v', '[]')", "JSON object of names and text values, not array"),
        ("publish('t', 'k', 'v', '\"a\"')", "not string"),
        ("publish('t', 'k', 'v', '{\"\": \"x\"}')", "header's name is not empty"),
        ("publish('t', 'k', 'v', '{\"Onecommit-Id\": \"x\"}')", "does not start with onecommit-"),
        ("publish_bytes('t', '', '', '{\"onecommit-x\": null}')", "does not start with onecommit-"),
    ];
    for (call, why) in refused {
        let error = place.client.query(&place.text(&format!("select {{s}}.{call}")), &[]).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "22023", "{call}");
        assert!(error.message().starts_with("onecommit: ") && error.message().contains(why), "{error}");
    }
    assert_eq!(place.number("select count(*) from {s}.outbox").await, 0);
    place.drop().await;
}

#[tokio::test]
async fn a_trigger_publishes_with_the_change_that_fired_it() {
    let place = Place::ready().await;
    place
        .sql(
            "create table {s}.orders (id int primary key, total int);
             create function {s}.announce() returns trigger language plpgsql as $$
             begin
               perform {s}.publish('order.changed', new.id::text, to_jsonb(new)::text);
               return new;
             end $$;
             create trigger announce after insert or update on {s}.orders
               for each row execute function {s}.announce()",
        )
        .await;
    place.sql("insert into {s}.orders values (1, 10), (2, 20)").await;
    place.sql("begin; insert into {s}.orders values (3, 30); rollback").await;
    place
        .sql(
            "begin; update {s}.orders set total = 11 where id = 1; savepoint undone;
             update {s}.orders set total = 12 where id = 1; rollback to undone; commit",
        )
        .await;
    let found = place.read_all().await;
    let values: Vec<&str> = found.iter().filter_map(|stored| text(stored.message.value())).collect();
    let expected = [r#"{"id": 1, "total": 10}"#, r#"{"id": 2, "total": 20}"#, r#"{"id": 1, "total": 11}"#];
    assert_eq!(values, expected);
    assert_eq!(found[0].transaction, found[1].transaction);
    place.drop().await;
}
