//! Leases in real PostgreSQL servers: under the conformance suite on the oldest, the usual and the
//! newest version, and what only this backend owes.

use std::time::Duration;

use async_trait::async_trait;
use onecommit::error::{ErrorKind, Result};
use onecommit::id::{Epoch, RelayId, ShardIndex};
use onecommit::lease::postgres::PostgresLease;
use onecommit::lease::{Lease, LeaseView};
use onecommit::outbox::postgres::print_sql;
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::conformance_lease::{self as conformance, LONG, SHARDS, SHORT, owner, taken, until};
use crate::nobody::Nobody;
use crate::outbox_postgres::{NEWEST, OLDEST, USUAL, server};
use crate::patience::{LIMIT, answered};

const FIRST: ShardIndex = ShardIndex(0);

/// A schema of its own with the outbox's tables, and a connection to look and meddle with.
struct Place {
    url: String,
    schema: String,
    client: tokio_postgres::Client,
}

impl Place {
    async fn new() -> Place {
        Place::on(USUAL).await
    }

    async fn on(variable: &str) -> Place {
        let url = server(variable);
        let schema = format!("lease_{}", Uuid::new_v4().simple());
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&print_sql(&schema, 0)).await.unwrap();
        Place { url, schema, client }
    }

    async fn connect(&self, url: &str, relay: RelayId, timeout: Duration) -> Result<PostgresLease> {
        PostgresLease::connect(&url.parse()?, &self.schema, SHARDS, relay, timeout).await
    }

    async fn relay(&self, timeout: Duration) -> (PostgresLease, RelayId) {
        let relay = RelayId::random();
        let mut lease = answered(async || self.connect(&self.url, relay, timeout).await).await;
        answered(async || lease.renew().await).await;
        (lease, relay)
    }

    /// Runs SQL in which `{s}` stands for the schema.
    async fn sql(&self, text: &str) {
        self.client.batch_execute(&text.replace("{s}", &self.schema)).await.unwrap();
    }

    async fn number(&self, text: &str) -> i64 {
        let rows = self.client.query(&text.replace("{s}", &self.schema), &[]).await.unwrap();
        rows[0].get(0)
    }
}

#[async_trait]
impl conformance::Place for Place {
    async fn open(&self, relay: RelayId, timeout: Duration) -> Result<Box<dyn Lease>> {
        Ok(Box::new(self.connect(&self.url, relay, timeout).await?))
    }
}

async fn conforms(variable: &str) {
    let fresh = async || Box::new(Place::on(variable).await) as Box<dyn conformance::Place>;
    conformance::suite(fresh).await;
    conformance::a_paused_owner_comes_back_to_nothing(&*fresh().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_leases_conform() {
    conforms(USUAL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_in_the_oldest_postgresql_conform() {
    conforms(OLDEST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_in_the_newest_postgresql_conform() {
    conforms(NEWEST).await;
}

#[tokio::test]
async fn a_silent_relay_loses_its_shards_and_never_gets_them_back_by_itself() {
    let place = Place::new().await;
    let (mut silent, silent_relay) = place.relay(LONG).await;
    let (mut other, other_relay) = place.relay(SHORT).await;
    let before = silent.take(FIRST, Epoch(7)).await.unwrap().unwrap();
    assert_eq!(before, Epoch(8));
    let view = answered(async || other.renew().await).await;
    assert_eq!(owner(&view, FIRST), Some(silent_relay));
    // However long ago the other one has looked, this one has shown since that it lives.
    silent.renew().await.unwrap();
    assert_eq!(answered(async || other.take(FIRST, Epoch::ZERO).await).await, None);

    let dead = |view: &LeaseView| view.live == [other_relay] && owner(view, FIRST).is_none();
    until("the silent one is dead", &mut other, dead).await;
    assert!(taken(&mut other, Epoch::ZERO).await > before);

    let view = silent.renew().await.unwrap();
    assert_eq!(owner(&view, FIRST), Some(other_relay));
    assert_eq!(silent.take(FIRST, Epoch::ZERO).await.unwrap(), None);
    silent.release(FIRST).await.unwrap();
    silent.leave().await.unwrap();
    let view = answered(async || other.renew().await).await;
    assert_eq!((view.live.clone(), owner(&view, FIRST)), (vec![other_relay], Some(other_relay)));
}

#[tokio::test]
async fn of_two_that_take_at_the_same_time_one_succeeds() {
    let place = Place::new().await;
    let ((mut one, _), (mut two, _)) = (place.relay(LONG).await, place.relay(LONG).await);
    for shard in (0..SHARDS).map(ShardIndex) {
        let (one, two) = tokio::join!(one.take(shard, Epoch::ZERO), two.take(shard, Epoch::ZERO));
        let taken = (one.unwrap(), two.unwrap());
        assert!(matches!(taken, (Some(Epoch(1)), None) | (None, Some(Epoch(1)))), "{taken:?}");
    }
}

#[tokio::test]
async fn a_lost_connection_is_replaced_and_loses_no_lease() {
    let place = Place::new().await;
    let (mut lease, relay) = place.relay(LONG).await;
    let (mut other, _) = place.relay(LONG).await;
    lease.take(FIRST, Epoch::ZERO).await.unwrap().unwrap();
    place
        .sql(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where query like '%{s}%' and application_name = 'onecommit relay lease'",
        )
        .await;
    until("it keeps its shard", &mut lease, |view| owner(view, FIRST) == Some(relay)).await;
    until("the other one sees it", &mut other, |view| owner(view, FIRST) == Some(relay)).await;
    assert_eq!(lease.take(FIRST, Epoch::ZERO).await.unwrap(), Some(Epoch(2)));
}

#[tokio::test]
async fn who_only_looks_is_not_among_the_living() {
    let place = Place::new().await;
    let (mut lease, relay) = place.relay(LONG).await;
    lease.take(FIRST, Epoch::ZERO).await.unwrap().unwrap();
    let mut observer = place.connect(&place.url, RelayId::random(), LONG).await.unwrap();
    let view = observer.look().await.unwrap();
    assert_eq!((view.live.clone(), owner(&view, FIRST)), (vec![relay], Some(relay)));
    assert_eq!(lease.renew().await.unwrap().live, [relay]);
}

#[tokio::test]
async fn rows_of_dead_relays_are_removed_and_missing_shards_are_added() {
    let place = Place::new().await;
    let timeout = Duration::from_secs(1);
    let (mut lease, relay) = place.relay(timeout).await;
    place.sql("insert into {s}.relay select gen_random_uuid(), n from generate_series(1, 100) n").await;
    place.sql("delete from {s}.lease where shard > 2").await;
    until("they are seen", &mut lease, |view| view.live.len() == 101).await;
    until("they are dead", &mut lease, |view| view.live == [relay]).await;
    let emptied = async {
        while place.number("select count(*) from {s}.relay").await > 1 {
            answered(async || lease.renew().await).await;
        }
    };
    tokio::time::timeout(LIMIT, emptied).await.unwrap();
    assert_eq!(place.number("select count(*) from {s}.lease").await, i64::from(SHARDS));
}

#[tokio::test]
async fn an_epoch_is_on_disk_before_it_is_returned() {
    let place = Place::new().await;
    place
        .sql(
            "create function {s}.durable() returns trigger language plpgsql as $$ begin
               if current_setting('synchronous_commit') <> 'on' then raise 'not flushed'; end if;
               return null;
             end $$;
             create constraint trigger durable after update of owner, epoch on {s}.lease
             deferrable initially deferred for each row execute function {s}.durable()",
        )
        .await;
    let unflushed = format!("{}?options=-c%20synchronous_commit%3Doff", place.url);
    let mut lease = place.connect(&unflushed, RelayId::random(), LONG).await.unwrap();
    lease.renew().await.unwrap();
    lease.take(FIRST, Epoch::ZERO).await.unwrap().unwrap();
    lease.release(FIRST).await.unwrap();
    lease.take(FIRST, Epoch::ZERO).await.unwrap().unwrap();
    lease.leave().await.unwrap();
}

#[tokio::test]
async fn a_statement_that_lost_a_conflict_surely_did_nothing() {
    let place = Place::new().await;
    let repeatable =
        format!("{}?options=-c%20default_transaction_isolation%3Drepeatable%5C%20read", place.url);
    let mut lease = place.connect(&repeatable, RelayId::random(), LONG).await.unwrap();
    lease.renew().await.unwrap();
    place.sql("begin; update {s}.lease set beat = beat where shard = 0").await;
    let taking = tokio::spawn(async move { (lease.take(FIRST, Epoch::ZERO).await, lease) });
    let waits = "select count(*) from pg_stat_activity where query like '%{s}%' and wait_event_type = 'Lock'";
    let blocked = async {
        while place.number(waits).await == 0 {
            // Within one transaction the first look would be shown again and again.
            place.sql("select pg_stat_clear_snapshot()").await;
        }
    };
    tokio::time::timeout(LIMIT, blocked).await.unwrap();
    place.sql("commit").await;
    let (taken, mut lease) = taking.await.unwrap();
    let error = taken.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("a conflict with other transactions"), "{error}");
    assert_eq!(lease.take(FIRST, Epoch::ZERO).await.unwrap(), Some(Epoch(1)), "it was not taken");
}

#[tokio::test]
async fn what_stands_in_the_way_is_said() {
    let place = Place::new().await;
    let relay = RelayId::random();

    let url = place.url.parse().unwrap();
    let mut unprepared = PostgresLease::connect(&url, "nothing_here", 1, relay, LONG).await.unwrap();
    let error = unprepared.renew().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("onecommit init"), "{error}");

    let read_only = format!("{}?options=-c%20default_transaction_read_only%3Don", place.url);
    let mut lease = place.connect(&read_only, relay, LONG).await.unwrap();
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::Unreachable);

    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = Nobody::new().await;
    for address in [silent.local_addr().unwrap(), nobody.address] {
        let away = format!("postgresql://app:secret@{address}/db");
        let error = place.connect(&away, relay, SHORT).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.to_string().contains("app:***@127.0.0.1"), "{error}");
    }
}
