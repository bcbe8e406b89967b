//! What `init` makes and a connection checks: tables that are as they must be, under any schema's
//! name, with rights that suffice; and errors that say what is wrong without a secret in them.

use onecommit::id::Epoch;
use onecommit::outbox::OutboxSource;
use onecommit::outbox::postgres::{Limits, PostgresSource, print_sql};
use onecommit::{Error, ErrorKind, Message};

use super::{Place, REQUEST_LIMIT, SHARD, USUAL, connect, unique};
use crate::conformance_outbox::{drain, ids, installation, numbered};
use crate::nobody::Nobody;

#[tokio::test]
async fn init_goes_on_where_the_tables_were_made_by_hand() {
    let place = Place::new().await;
    place.sql(&print_sql(&place.schema, 0)).await;
    assert_eq!(place.source().found().await.unwrap(), None);
    let error = place.source().connect().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let mut wanted = installation();
    wanted.shards = 256;
    for _ in 0..2 {
        assert_eq!(place.source().init(&wanted).await.unwrap(), wanted);
    }
    assert_eq!(place.number("select count(*) from {s}.shard").await, 256);
    assert_eq!(print_sql(&place.schema, 3), "", "nothing is to be done behind this release's version");
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_inits_at_once_one_is_first_and_the_others_agree() {
    let place = Place::new().await;
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let source = place.source();
        running.spawn(async move { source.init(&installation()).await.unwrap() });
    }
    let found = running.join_all().await;
    assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
    assert_eq!(place.source().found().await.unwrap().as_ref(), Some(&found[0]));
    place.drop().await;
}

#[tokio::test]
async fn another_version_of_the_tables_is_left_alone() {
    let place = Place::ready().await;
    place.sql("update {s}.installation set schema_version = 99").await;
    for error in [
        place.source().init(&installation()).await.unwrap_err(),
        place.source().found().await.unwrap_err(),
        place.source().connect().await.err().unwrap(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("version 99, this release works with 1 to 3"), "{error}");
    }
    place.drop().await;
}

#[tokio::test]
async fn any_name_of_a_schema_is_quoted() {
    for name in ["My-Schema \"x\"", "sélect", "select"] {
        // Cut so that PostgreSQL does not have to.
        let mut place = Place::named(USUAL, &format!("{name}{}", &unique()[..20])).await;
        place.source().init(&installation()).await.unwrap();
        let transaction = place.client.transaction().await.unwrap();
        let publishing = onecommit::Outbox::in_schema(&place.schema);
        let first = publishing.publish_many(&transaction, &numbered(0..3)).await.unwrap();
        transaction.commit().await.unwrap();
        place.sql("select {s}.publish('numbers', '3', 'x')").await;
        let mut outbox = place.relay(Epoch(1)).await;
        let chunks = drain(&mut outbox).await;
        assert_eq!(ids(&chunks)[..3], first);
        assert_eq!(ids(&chunks).len(), 4);
        let last = chunks.last().unwrap();
        let (position, barrier) = (last.position.clone(), last.barrier.id);
        let delivered = onecommit::outbox::Delivered { shard: SHARD, epoch: Epoch(1), position, barrier };
        assert_eq!(outbox.prune(&[delivered], 100).await.unwrap().messages, 4);
        place.drop().await;
    }
}

#[tokio::test]
async fn tables_that_would_lose_or_reorder_messages_are_refused() {
    let changes = [
        "alter sequence {s}.outbox_id_seq cache 32",
        "alter table {s}.outbox alter column xid drop default",
        "alter table {s}.outbox alter column xid set default '7'",
        "alter table {s}.outbox drop column xid;
         alter table {s}.outbox add column xid xid8 not null default pg_current_xact_id()",
        "alter table {s}.outbox alter column id drop identity",
        "insert into {s}.outbox (topic) values ('t'), ('t'); select setval('{s}.outbox_id_seq', 1)",
    ];
    for change in changes {
        let place = Place::ready().await;
        place.source().connect().await.unwrap();
        place.sql(change).await;
        let error = place.source().connect().await.err().unwrap_or_else(|| panic!("{change}"));
        assert_eq!(error.kind(), ErrorKind::Refused, "{change}: {error}");
        assert!(error.to_string().contains("changed by hand"), "{error}");
        place.drop().await;
    }
}

#[tokio::test]
async fn a_role_without_rights_is_told_so() {
    let place = Place::ready().await;
    let role = unique();
    place.sql(&format!("create role {role} login")).await;
    let url = place.url.replace("postgres@", &format!("{role}@"));
    assert_ne!(url, place.url, "the server's address names the user postgres");
    let (client, source) = (connect(&url).await, place.source_at(&url));
    let message = Message::new("t", "k", "v").unwrap();
    for error in [
        source.connect().await.err().unwrap(),
        source.found().await.unwrap_err(),
        source.init(&installation()).await.unwrap_err(),
        place.publishing().publish(&client, &message).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert!(error.to_string().contains("lacks a right"), "{error}");
        assert!(error.to_string().contains("permission denied"), "{error}");
    }
    // What a publisher needs.
    place
        .sql(&format!("grant usage on schema {{s}} to {role}; grant insert on {{s}}.outbox to {role}"))
        .await;
    let id = place.publishing().publish(&client, &message).await.unwrap();
    assert_eq!(place.read_all().await[0].message_id, id);
    place.sql(&format!("drop owned by {role}; drop role {role}")).await;
    place.drop().await;
}

#[tokio::test]
async fn no_error_shows_a_password() {
    let nobody = Nobody::new().await;
    let closed = nobody.address;
    let place = Place::new().await;
    let with_password = place.url.replace("postgres@", "postgres:secret-1@");
    let (server, _) = with_password.rsplit_once('/').unwrap();
    let cases = [
        (format!("{server}/there_is_none"), ErrorKind::Configuration, "no such database"),
        (with_password.clone(), ErrorKind::Configuration, "onecommit init"),
        (format!("postgresql://app:secret-1@{closed}/db"), ErrorKind::Unreachable, "connection"),
        (format!("postgresql://{closed}/db?user=a&password=secret-1"), ErrorKind::Unreachable, "connection"),
    ];
    for (url, kind, what) in cases {
        let source = place.source_at(&url);
        let error: Error = source.connect().await.err().unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        for shown in [error.to_string(), format!("{error:?}"), format!("{source:?}")] {
            assert!(!shown.contains("secret-1"), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgresql://app:secret-1@{}/db", silent.local_addr().unwrap());
    let url = url.parse().unwrap();
    let request_limit = REQUEST_LIMIT / 600;
    let limits = Limits::default();
    let source = PostgresSource { url, schema: "onecommit".to_string(), request_limit, limits };
    let error = source.connect().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("within 100 ms") && error.to_string().contains("app:***@"), "{error}");
}
