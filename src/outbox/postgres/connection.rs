//! One connection of a relay: opened with a limit, checked to be the kind of server it has to be,
//! and watched for a crash of the server that neither an error nor a start time would show.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use crate::config::PostgresUrl;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::connect::{OwnedClient, Parameter, alone, connect, limits, within};
use crate::postgres::failure::from_postgres;
use crate::postgres::server::{DATABASE, SYSTEM, TIMELINE, fill_life};
use crate::protocol::progress::DatabaseIdentity;

/// A connection with the limits that hold for every request on it.
pub(super) struct Connection {
    pub(super) client: Arc<OwnedClient>,
    pub(super) schema: String,
    request_limit: Duration,
    life: Uuid,
}

/// A 64-bit transaction number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Xid8(pub(super) u64);

impl<'a> FromSql<'a> for Xid8 {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Xid8(u64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::XID8
    }
}

impl Connection {
    /// Connects and reads the server's life. `schema` is quoted already.
    pub(super) async fn open(url: &PostgresUrl, schema: &str, request_limit: Duration) -> Result<Self> {
        let client = connect(url, "onecommit relay", request_limit).await?;
        let client = Arc::new(client);
        let mut connection =
            Connection { client, schema: schema.to_string(), request_limit, life: Uuid::nil() };
        connection.refuse_standby().await?;
        connection.life = connection.read_life().await?;
        Ok(connection)
    }

    /// Runs a request within the limit.
    pub(super) async fn request<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        within(self.request_limit, operation, request).await
    }

    /// Limits that the server itself keeps for the open transaction.
    pub(super) fn limits(&self) -> String {
        limits(self.request_limit)
    }

    /// How long a request may take.
    pub(super) fn request_limit(&self) -> Duration {
        self.request_limit
    }

    /// Runs a query.
    pub(super) async fn query(
        &self,
        operation: &'static str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        self.request(operation, self.client.query_typed(sql, parameters)).await
    }

    /// Runs a statement in a transaction of its own, in one round trip.
    pub(super) async fn alone<T>(
        &self,
        operation: &'static str,
        begin: &str,
        statement: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        self.request(operation, alone(&self.client, begin, statement)).await
    }

    /// Runs SQL that returns nothing of interest.
    pub(super) async fn execute(&self, operation: &'static str, sql: &str) -> Result<()> {
        self.request(operation, self.client.batch_execute(sql)).await
    }

    /// Fails where the server crashed since the connection was opened. PostgreSQL recovers inside
    /// when one backend dies, with the same start time and the same identifier, and a pooler hides
    /// even the lost connection; positions from before are worth nothing then. The unlogged table
    /// is emptied by a crash and by nothing else.
    pub(super) fn check_life(&self, seen: Option<Uuid>) -> Result<()> {
        if seen == Some(self.life) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unreachable, "read outbox", "PostgreSQL crashed and came back"))
    }

    /// Which database this is.
    pub(super) async fn identity(&self) -> Result<DatabaseIdentity> {
        self.refuse_standby().await?;
        let sql = format!("select {SYSTEM}, {DATABASE}, {TIMELINE}");
        let row = self.request("read identity", self.client.query_typed_one(&sql, &[])).await?;
        let text =
            |index| row.try_get::<_, String>(index).map_err(|error| from_postgres("read identity", error));
        Ok(DatabaseIdentity { system: text(0)?, database: text(1)?, timeline: Some(text(2)?) })
    }

    async fn refuse_standby(&self) -> Result<()> {
        let request = self.client.query_typed_one("select pg_is_in_recovery()", &[]);
        let row = self.request("connect", request).await?;
        if row.try_get::<_, bool>(0).map_err(|error| from_postgres("connect", error))? {
            let why = "this PostgreSQL is a standby in recovery: its snapshots lack running transactions \
                       and messages would be lost; give the primary's address";
            // Not refused for good: in a failover the address may lead here before the promotion.
            return Err(Error::new(ErrorKind::Unreachable, "connect", why));
        }
        Ok(())
    }

    async fn read_life(&self) -> Result<Uuid> {
        let schema = &self.schema;
        self.execute("connect", &fill_life(schema)).await?;
        let sql = format!("select id from {schema}.server_life");
        let row = self.request("connect", self.client.query_typed_one(&sql, &[])).await?;
        row.try_get(0).map_err(|error| from_postgres("connect", error))
    }
}
