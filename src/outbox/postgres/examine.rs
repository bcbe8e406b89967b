//! What a person wants to know of the database before it goes wrong: read once, judged elsewhere.
//! Nothing is changed, and every question is bounded.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Row};

use super::port::PostgresSource;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::connect::{Parameter, alone, connect, limits, within};
use crate::postgres::quoted;

const OPERATION: &str = "examine database";
/// Rows at either end of the outbox whose topics are looked at.
const TOPIC_ROWS: u32 = 5_000;
/// At most so many of each kind are told.
const TOLD: u32 = 5;

/// What was found in one database and its server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PostgresFacts {
    /// `server_version_num`, 150006 for 15.6.
    pub version: i32,
    /// The same for people.
    pub version_text: String,
    /// Whether it is a standby.
    pub standby: bool,
    /// How far its clock is ahead of this machine's, in milliseconds, and how inexact that is.
    pub clock_ahead_ms: i64,
    /// The time that the answer took.
    pub clock_inexact_ms: i64,
    /// Settings as this role has them, by name.
    pub settings: Vec<(String, String)>,
    /// The role.
    pub role: String,
    /// Whether it sees what other roles' sessions do.
    pub sees_sessions: bool,
    /// Rights that a relay needs and that are missing: `DELETE on onecommit.outbox`.
    pub missing_rights: Vec<String>,
    /// Connections open and the most that there can be.
    pub connections: (i64, i64),
    /// The outbox's table.
    pub table: TableFacts,
    /// Transactions that have been open for long.
    pub long_transactions: Vec<LongTransaction>,
    /// Prepared transactions of this database.
    pub prepared: Vec<PreparedTransaction>,
    /// Replication slots that keep dead rows.
    pub slots: Vec<SlotFacts>,
    /// Topics at either end of the outbox, each with the age of its oldest message in milliseconds.
    pub topics: Vec<(String, u64)>,
}

/// The outbox's table and its statistics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableFacts {
    /// Its name with its schema's, quoted for SQL.
    pub name: String,
    /// Rows that are there, by the statistics.
    pub live: i64,
    /// Rows that are dead and not removed yet.
    pub dead: i64,
    /// Bytes of the table, with what is stored beside it.
    pub table_bytes: i64,
    /// Bytes of its indexes.
    pub index_bytes: i64,
    /// When autovacuum last ended here, in seconds before now; None where it never did.
    pub vacuumed_before_s: Option<i64>,
    /// Whether autovacuum is switched off for this very table.
    pub autovacuum_off: bool,
}

/// A transaction that has been open for long.
#[derive(Clone, Debug, PartialEq)]
pub struct LongTransaction {
    /// Its backend.
    pub pid: i32,
    /// Who, and with which program.
    pub who: String,
    /// `active`, `idle in transaction`, ….
    pub state: String,
    /// For how long.
    pub age_s: i64,
}

/// A prepared transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedTransaction {
    /// Its name.
    pub name: String,
    /// Who prepared it.
    pub owner: String,
    /// How long ago.
    pub age_s: i64,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotFacts {
    /// Its name.
    pub name: String,
    /// Whether somebody reads from it.
    pub active: bool,
    /// How many transactions ago the oldest was that it still keeps rows for.
    pub age: i64,
}

const SETTINGS: &str = "fsync, full_page_writes, synchronous_commit, autovacuum, track_counts, \
                        default_transaction_read_only";

/// What a relay does with each table; the sequence is read.
const RIGHTS: [(&str, &[&str]); 10] = [
    ("outbox", &["SELECT", "DELETE"]),
    ("installation", &["SELECT"]),
    ("shard", &["SELECT", "UPDATE"]),
    ("barrier", &["SELECT", "INSERT", "DELETE"]),
    ("lease", &["SELECT", "INSERT", "UPDATE"]),
    ("relay", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("server_life", &["SELECT", "INSERT"]),
    ("set_aside", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("held_topic", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("dead_topic", &["SELECT"]),
];

impl PostgresSource {
    /// Looks at the server, the role's rights, the outbox's table and whatever holds vacuum back. The
    /// outbox must be set up. Transactions younger than `ordinary` are left out.
    pub async fn examine(&self, ordinary: Duration) -> Result<PostgresFacts> {
        let client = connect(&self.url, "onecommit doctor", self.request_limit).await?;
        // Nothing is set for the session: behind a pooler it would be the application's next.
        let begin = format!("begin read only; {}", limits(self.request_limit));
        let ask = Ask { client: &client, limit: self.request_limit, begin, schema: quoted(&self.schema) };
        let mut facts = ask.server().await?;
        ask.clock(&mut facts).await?;
        facts.missing_rights = ask.missing_rights(&self.schema).await?;
        facts.table = ask.table().await?;
        facts.long_transactions = ask.long_transactions(ordinary).await?;
        facts.prepared = ask.prepared().await?;
        facts.slots = ask.slots().await?;
        if facts.missing_rights.is_empty() {
            facts.topics = ask.topics().await?;
        }
        Ok(facts)
    }
}

struct Ask<'a> {
    client: &'a Client,
    limit: Duration,
    begin: String,
    schema: String,
}

impl Ask<'_> {
    async fn rows(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        let asking = alone(self.client, &self.begin, self.client.query_typed(sql, parameters));
        within(self.limit, OPERATION, asking).await
    }

    async fn row(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row> {
        let none = || Error::new(ErrorKind::Failed, OPERATION, "PostgreSQL answered without a row");
        self.rows(sql, parameters).await?.into_iter().next().ok_or_else(none)
    }

    async fn server(&self) -> Result<PostgresFacts> {
        let row = self
            .row(
                "select current_setting('server_version_num')::int, current_setting('server_version'),
                   pg_is_in_recovery(), current_user::text,
                   pg_has_role(current_user, 'pg_read_all_stats', 'usage'),
                   (select count(*) from pg_stat_activity where backend_type = 'client backend'),
                   current_setting('max_connections')::bigint",
                &[],
            )
            .await?;
        let names: Vec<String> = SETTINGS.split(", ").map(str::to_string).collect();
        let settings = "select name, reset_val from pg_settings where name = any($1) order by name";
        let settings = self.rows(settings, &[(&names, Type::TEXT_ARRAY)]).await?;
        Ok(PostgresFacts {
            version: get(&row, 0)?,
            version_text: get(&row, 1)?,
            standby: get(&row, 2)?,
            role: get(&row, 3)?,
            sees_sessions: get(&row, 4)?,
            connections: (get(&row, 5)?, get(&row, 6)?),
            settings: settings.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect::<Result<_>>()?,
            ..PostgresFacts::default()
        })
    }

    /// The server's clock was read somewhere between asking and the answer.
    async fn clock(&self, facts: &mut PostgresFacts) -> Result<()> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let (asked, row) =
            (now(), self.row("select (extract(epoch from clock_timestamp()) * 1000)::bigint", &[]).await?);
        let answered = now();
        let here = i64::try_from(asked.midpoint(answered)).unwrap_or(i64::MAX);
        facts.clock_ahead_ms = get::<i64>(&row, 0)?.saturating_sub(here);
        facts.clock_inexact_ms = i64::try_from(answered.saturating_sub(asked)).unwrap_or(i64::MAX);
        Ok(())
    }

    async fn missing_rights(&self, schema: &str) -> Result<Vec<String>> {
        let mut objects = Vec::new();
        let mut rights = Vec::new();
        for (table, needed) in RIGHTS {
            for right in needed {
                objects.push(format!("{}.{table}", self.schema));
                rights.push((*right).to_string());
            }
        }
        let parameters: [Parameter<'_>; 4] = [
            (&schema, Type::TEXT),
            (&objects, Type::TEXT_ARRAY),
            (&rights, Type::TEXT_ARRAY),
            (&format!("{}.outbox_id_seq", self.schema), Type::TEXT),
        ];
        // Without the right to look into the schema nothing in it can be named.
        let sql = "select 'USAGE on schema ' || $1 where not has_schema_privilege($1, 'USAGE')
                   union all
                   select r || ' on ' || o from unnest($2, $3) as needed(o, r)
                     where has_schema_privilege($1, 'USAGE') and to_regclass(o) is not null
                       and not has_table_privilege(o, r)
                   union all
                   select 'SELECT on ' || $4
                     where has_schema_privilege($1, 'USAGE') and not has_sequence_privilege($4, 'SELECT')
                   union all
                   select 'EXECUTE on function pg_control_system()'
                     where not has_function_privilege('pg_control_system()', 'EXECUTE')";
        self.rows(sql, &parameters).await?.iter().map(|row| get(row, 0)).collect()
    }

    async fn table(&self) -> Result<TableFacts> {
        let sql = "select coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0), pg_table_size(c.oid),
                     pg_indexes_size(c.oid), extract(epoch from now() - s.last_autovacuum)::bigint,
                     coalesce('autovacuum_enabled=false' = any(c.reloptions)
                       or 'autovacuum_enabled=off' = any(c.reloptions), false)
                   from pg_class c left join pg_stat_all_tables s on s.relid = c.oid
                   where c.relname = 'outbox' and c.relnamespace = to_regnamespace($1)";
        let row = self.row(sql, &[(&self.schema, Type::TEXT)]).await?;
        Ok(TableFacts {
            name: format!("{}.outbox", self.schema),
            live: get(&row, 0)?,
            dead: get(&row, 1)?,
            table_bytes: get(&row, 2)?,
            index_bytes: get(&row, 3)?,
            vacuumed_before_s: get(&row, 4)?,
            autovacuum_off: get(&row, 5)?,
        })
    }

    async fn long_transactions(&self, ordinary: Duration) -> Result<Vec<LongTransaction>> {
        let sql = format!(
            "select pid, concat_ws(', ', usename, nullif(application_name, '')), coalesce(state, '?'),
               extract(epoch from clock_timestamp() - xact_start)::bigint
             from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()
               and (backend_xid is not null or backend_xmin is not null)
               and xact_start < clock_timestamp() - interval '{} s' order by xact_start limit {TOLD}",
            ordinary.as_secs()
        );
        let decode = |row: &Row| {
            Ok(LongTransaction {
                pid: get(row, 0)?,
                who: get(row, 1)?,
                state: get(row, 2)?,
                age_s: get(row, 3)?,
            })
        };
        self.rows(&sql, &[]).await?.iter().map(decode).collect()
    }

    async fn prepared(&self) -> Result<Vec<PreparedTransaction>> {
        let sql = format!(
            "select gid, owner::text, extract(epoch from clock_timestamp() - prepared)::bigint
             from pg_prepared_xacts where database = current_database() order by prepared limit {TOLD}"
        );
        let decode = |row: &Row| {
            Ok(PreparedTransaction { name: get(row, 0)?, owner: get(row, 1)?, age_s: get(row, 2)? })
        };
        self.rows(&sql, &[]).await?.iter().map(decode).collect()
    }

    async fn slots(&self) -> Result<Vec<SlotFacts>> {
        let sql = format!(
            "select slot_name::text, active, age(xmin)::bigint from pg_replication_slots
             where xmin is not null order by age(xmin) desc limit {TOLD}"
        );
        let decode =
            |row: &Row| Ok(SlotFacts { name: get(row, 0)?, active: get(row, 1)?, age: get(row, 2)? });
        self.rows(&sql, &[]).await?.iter().map(decode).collect()
    }

    async fn topics(&self) -> Result<Vec<(String, u64)>> {
        let end = |order: &str| {
            format!(
                "(select topic, created_at from {}.outbox order by id {order} limit {TOPIC_ROWS})",
                self.schema
            )
        };
        let sql = format!(
            "select topic, greatest(0, extract(epoch from clock_timestamp() - min(created_at)) * 1000)::bigint
             from ({} union all {}) o group by topic order by topic limit 100",
            end("asc"),
            end("desc")
        );
        let rows = self.rows(&sql, &[]).await?;
        let decode = |row: &Row| Ok((get(row, 0)?, u64::try_from(get::<i64>(row, 1)?).unwrap_or(0)));
        rows.iter().map(decode).collect()
    }
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T> {
    row.try_get(index).map_err(|error| {
        Error::new(ErrorKind::Failed, OPERATION, "PostgreSQL answered with something else").caused_by(error)
    })
}
