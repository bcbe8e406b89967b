//! Leases in two tables beside the outbox: `lease`, a row a shard, and `relay`, a row for each that
//! lives. Who lives is decided by the numbers that owners raise (see `beats`), never by a clock of
//! the server. Every operation is one statement in a transaction of its own, without session
//! state and named prepared statements, so that it works behind a pooler. Promises that a
//! connection that failed is never used again: the next operation opens another.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::beats::{Beats, LeaseRow, ReadAt, RelayRow, recorded};
use super::{Lease, LeaseView};
use crate::config::PostgresUrl;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{Epoch, RelayId, ShardIndex};
use crate::postgres::connect::{OwnedClient, Parameter, alone, connect, limits, within};
use crate::postgres::failure::is_conflict;
use crate::postgres::quoted;

/// Every request ends after this part of the timeout: an answer that comes later finds leases that
/// are about to be lost.
const REQUESTS_PER_TIMEOUT: u32 = 2;

/// A commit that an application's `synchronous_commit = off` left unflushed can vanish with a
/// crash, and the same epoch would be returned twice. Holds for the statement's own transaction.
const DURABLE: &str = "set_config('synchronous_commit', 'on', true) = 'on'";

/// What a statement that got no answer may have done.
#[derive(PartialEq, Eq)]
enum Effect {
    /// Nothing that matters: it reads, or may be done again.
    None,
    /// It may have taken effect.
    Possible,
}

/// One relay's leases of the shards of the outbox in one schema.
pub struct PostgresLease {
    url: PostgresUrl,
    schema: String,
    shards: u16,
    relay: RelayId,
    timeout: Duration,
    beats: Beats,
    origin: Instant,
    client: Option<OwnedClient>,
}

impl PostgresLease {
    /// Connects to the database at `url`, whose schema `onecommit init` has filled.
    pub async fn connect(
        url: &PostgresUrl,
        schema: &str,
        shards: u16,
        relay: RelayId,
        timeout: Duration,
    ) -> Result<Self> {
        let mut lease = PostgresLease {
            url: url.clone(),
            schema: quoted(schema),
            shards,
            relay,
            timeout,
            beats: Beats::new(relay, timeout),
            origin: Instant::now(),
            client: None,
        };
        lease.client = Some(lease.open().await?);
        Ok(lease)
    }

    /// Runs one statement, on a new connection where there is none that works.
    async fn query(
        &mut self,
        operation: &'static str,
        effect: Effect,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.open().await?,
        };
        let limit = self.request_limit();
        let begin = format!("begin; {}", limits(limit));
        let request = alone(&client, &begin, client.query_typed(sql, parameters));
        let error = match within(limit, operation, request).await {
            Ok(rows) => {
                self.client = Some(client);
                return Ok(rows);
            }
            Err(error)
                if error.kind() == ErrorKind::Unreachable
                    && effect == Effect::Possible
                    && !is_conflict(&error) =>
            {
                let why = "PostgreSQL did not confirm it: what is stored there has to be read again";
                Error::new(ErrorKind::Unclear, operation, why).caused_by(error)
            }
            Err(error) => error,
        };
        Err(error.with("url", &self.url).with("schema", &self.schema))
    }

    async fn open(&self) -> Result<OwnedClient> {
        connect(&self.url, "onecommit relay lease", self.request_limit()).await
    }

    /// Reads a row a shard, also of those that have none yet, and one for each relay but this one.
    fn everybody_else(&self) -> String {
        format!(
            "select n, l.owner, coalesce(l.epoch, 0), coalesce(l.beat, 0)
             from generate_series(0, $2 - 1) n left join {0}.lease l on l.shard = n
             union all select null, id, null, beat from {0}.relay where id <> $1
             order by 1",
            self.schema
        )
    }

    async fn read_shard(&mut self, operation: &'static str, shard: ShardIndex) -> Result<(LeaseRow, ReadAt)> {
        let sql = format!("select shard, owner, epoch, beat from {}.lease where shard = $1", self.schema);
        let asked = self.origin.elapsed();
        let number = i32::from(shard.0);
        let rows = self.query(operation, Effect::None, &sql, &[(&number, Type::INT4)]).await?;
        let at = ReadAt { asked, answered: self.origin.elapsed() };
        match rows.first().map(decode).transpose()? {
            Some(Found::Lease(row)) => Ok((row, at)),
            _ => {
                let message = "the shard has no row in the table lease: the next renewal adds it";
                Err(Error::new(ErrorKind::Unreachable, operation, message)
                    .with("shard", shard)
                    .with("schema", &self.schema))
            }
        }
    }

    /// Changes the owner and the epoch where the row is still as it was read; whether it was.
    async fn write_shard(
        &mut self,
        operation: &'static str,
        seen: &LeaseRow,
        owner: Option<RelayId>,
        epoch: Epoch,
    ) -> Result<bool> {
        let sql = format!(
            "update {}.lease set owner = $1, epoch = $2, beat = beat + 1
             where shard = $3 and owner is not distinct from $4 and epoch = $5 and beat = $6 and {DURABLE}
             returning shard",
            self.schema
        );
        let (owner, seen_owner) = (owner.map(|relay| relay.0), seen.owner.map(|relay| relay.0));
        let number = i32::from(seen.shard.0);
        let values: [Parameter<'_>; 6] = [
            (&owner, Type::UUID),
            (&epoch.0, Type::INT8),
            (&number, Type::INT4),
            (&seen_owner, Type::UUID),
            (&seen.epoch.0, Type::INT8),
            (&seen.beat, Type::INT8),
        ];
        let written = self.query(operation, Effect::Possible, &sql, &values).await;
        Ok(!written.map_err(|error| error.with("shard", seen.shard))?.is_empty())
    }

    /// Removes the rows of relays that are long dead, so that the table stays small.
    async fn remove(&mut self, gone: &[RelayRow]) -> Result<()> {
        let sql = format!(
            "delete from {}.relay r using unnest($1, $2) gone(id, beat)
             where r.id = gone.id and r.beat = gone.beat",
            self.schema
        );
        let (ids, beats): (Vec<Uuid>, Vec<i64>) = gone.iter().map(|row| (row.id.0, row.beat)).unzip();
        let values: [Parameter<'_>; 2] = [(&ids, Type::UUID_ARRAY), (&beats, Type::INT8_ARRAY)];
        failpoint!("postgres_lease.remove.before_commit")?;
        self.query("remove dead relays", Effect::Possible, &sql, &values).await?;
        failpoint!("postgres_lease.remove.after_commit")
    }

    fn request_limit(&self) -> Duration {
        self.timeout / REQUESTS_PER_TIMEOUT
    }
}

#[async_trait]
impl Lease for PostgresLease {
    async fn renew(&mut self) -> Result<LeaseView> {
        // What is read here is from before the raised numbers: only those of others matter.
        let sql = format!(
            "with me as (insert into {0}.relay as r (id, beat) values ($1, 1)
                         on conflict (id) do update set beat = r.beat + 1),
                  mine as (update {0}.lease set beat = beat + 1 where owner = $1),
                  missing as (insert into {0}.lease (shard)
                              select n from generate_series(0, $2 - 1) n
                              where not exists (select from {0}.lease where shard = n)
                              on conflict do nothing)
             {1}",
            self.schema,
            self.everybody_else()
        );
        failpoint!("postgres_lease.renew.before_commit")?;
        let asked = self.origin.elapsed();
        let (relay, shards) = (self.relay.0, i32::from(self.shards));
        let values: [Parameter<'_>; 2] = [(&relay, Type::UUID), (&shards, Type::INT4)];
        let rows = self.query("renew lease", Effect::None, &sql, &values).await?;
        let at = ReadAt { asked, answered: self.origin.elapsed() };
        failpoint!("postgres_lease.renew.after_commit")?;
        let (leases, mut relays) = split(&rows)?;
        relays.push(RelayRow { id: self.relay, beat: 0 });
        let (view, gone) = self.beats.view(&leases, &relays, at);
        if !gone.is_empty()
            && let Err(error) = self.remove(&gone).await
        {
            tracing::warn!(%error, "dead relays' rows could not be removed; tried again later");
        }
        Ok(view)
    }

    async fn look(&mut self) -> Result<LeaseView> {
        let (sql, relay, shards) = (self.everybody_else(), self.relay.0, i32::from(self.shards));
        let values: [Parameter<'_>; 2] = [(&relay, Type::UUID), (&shards, Type::INT4)];
        let rows = self.query("look at leases", Effect::None, &sql, &values).await?;
        let (leases, relays) = split(&rows)?;
        Ok(recorded(self.relay, &leases, &relays))
    }

    async fn take(&mut self, shard: ShardIndex, above: Epoch) -> Result<Option<Epoch>> {
        let (seen, at) = self.read_shard("take shard", shard).await?;
        if !self.beats.may_take(&seen, at) {
            return Ok(None);
        }
        let epoch = seen.next_epoch(above);
        failpoint!("postgres_lease.take.before_commit")?;
        let taken = self.write_shard("take shard", &seen, Some(self.relay), epoch).await?;
        failpoint!("postgres_lease.take.after_commit")?;
        Ok(taken.then_some(epoch))
    }

    async fn release(&mut self, shard: ShardIndex) -> Result<()> {
        let (seen, _) = self.read_shard("release shard", shard).await?;
        if seen.owner != Some(self.relay) {
            return Ok(());
        }
        failpoint!("postgres_lease.release.before_commit")?;
        // Another relay may have taken it meanwhile; then it is not this one's to give up.
        self.write_shard("release shard", &seen, None, seen.epoch).await?;
        failpoint!("postgres_lease.release.after_commit")
    }

    async fn leave(&mut self) -> Result<()> {
        let sql = format!(
            "with freed as (update {0}.lease set owner = null where owner = $1 and {DURABLE})
             delete from {0}.relay where id = $1",
            self.schema
        );
        let relay = self.relay.0;
        failpoint!("postgres_lease.leave.before_commit")?;
        self.query("leave relays", Effect::Possible, &sql, &[(&relay, Type::UUID)]).await?;
        failpoint!("postgres_lease.leave.after_commit")?;
        self.client = None;
        Ok(())
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// The rows of `lease`, and those of `relay`, which have no shard.
fn split(rows: &[Row]) -> Result<(Vec<LeaseRow>, Vec<RelayRow>)> {
    let (mut leases, mut relays) = (Vec::new(), Vec::new());
    for row in rows {
        match decode(row)? {
            Found::Lease(row) => leases.push(row),
            Found::Relay(row) => relays.push(row),
        }
    }
    Ok((leases, relays))
}

enum Found {
    Lease(LeaseRow),
    Relay(RelayRow),
}

fn decode(row: &Row) -> Result<Found> {
    let wrong = |error| {
        let message = "a row is not what `onecommit init` and relays write: find out who did";
        Error::new(ErrorKind::Refused, "read leases", message).caused_by(error)
    };
    let shard: Option<i32> = row.try_get(0).map_err(wrong)?;
    let relay: Option<Uuid> = row.try_get(1).map_err(wrong)?;
    let epoch: Option<i64> = row.try_get(2).map_err(wrong)?;
    let beat: i64 = row.try_get(3).map_err(wrong)?;
    let shard = shard.map(u16::try_from).transpose();
    match (shard, relay.map(RelayId), epoch.map(Epoch)) {
        (Ok(Some(shard)), owner, Some(epoch)) => {
            Ok(Found::Lease(LeaseRow { shard: ShardIndex(shard), owner, epoch, beat }))
        }
        (Ok(None), Some(id), None) => Ok(Found::Relay(RelayRow { id, beat })),
        _ => {
            let message = "a row of the table lease has no possible shard: delete it";
            Err(Error::new(ErrorKind::Refused, "read leases", message))
        }
    }
}
