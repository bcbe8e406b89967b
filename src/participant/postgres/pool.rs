//! Connections of a participant's own: few, and those who wait for one wait within a limit. Promises
//! that a connection on which anything went wrong is never used again, and that each has found the
//! server out of recovery and its life with an id.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::instance::get;
use crate::config::PostgresUrl;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::connect::{OwnedClient, connect, connect_as, within};
use crate::postgres::server::fill_life;

const OPERATION: &str = "connect";
const APPLICATION: &str = "onecommit coordinator";

/// At most so many connections, and while one of them needs another role, a second one beside it.
pub(super) struct Pool {
    url: PostgresUrl,
    /// Quoted.
    schema: String,
    connections: usize,
    request_limit: Duration,
    places: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

/// A connection, and whose it is.
pub(super) struct Connection {
    pub(super) client: OwnedClient,
    login: String,
    is_superuser: bool,
}

/// One that nobody else uses. It is closed when it is dropped, unless it is put back.
pub(super) struct Taken<'a> {
    connection: Connection,
    pool: &'a Pool,
    _place: SemaphorePermit<'a>,
}

impl Pool {
    pub(super) fn new(url: PostgresUrl, schema: String, connections: usize, request_limit: Duration) -> Self {
        let places = Semaphore::new(connections);
        Pool { url, schema, connections, request_limit, places, idle: Mutex::default() }
    }

    /// Takes a connection, or opens one.
    pub(super) async fn take(&self) -> Result<Taken<'_>> {
        let place = self.place().await?;
        let connection = match self.idle() {
            Some(connection) => connection,
            None => self.open().await.map_err(|error| error.with("url", &self.url))?,
        };
        Ok(Taken { connection, pool: self, _place: place })
    }

    /// Opens one under another role, for one use. Only the role that has prepared a branch, or a
    /// superuser, may end it; COMMIT PREPARED can't stand in a transaction, where `set local role`
    /// would do; and a plain SET ROLE, behind a pooler, would stay on a server's connection that the
    /// application uses next.
    pub(super) async fn open_as(&self, role: &str) -> Result<OwnedClient> {
        connect_as(&self.url, APPLICATION, role, self.request_limit).await
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>> {
        let waited = tokio::time::timeout(self.request_limit, self.places.acquire()).await;
        waited.ok().and_then(|place| place.ok()).ok_or_else(|| {
            let why = format!(
                "all {} connections of Onecommit's own to this database have been busy for {} ms",
                self.connections,
                self.request_limit.as_millis()
            );
            Error::new(ErrorKind::Unreachable, OPERATION, why).with("url", &self.url)
        })
    }

    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.client.is_closed());
        idle.pop()
    }

    async fn open(&self) -> Result<Connection> {
        let client = connect(&self.url, APPLICATION, self.request_limit).await?;
        let sql = "select pg_is_in_recovery(), current_user::text,
                   coalesce((select rolsuper from pg_roles where rolname = current_user), false)";
        let row = within(self.request_limit, OPERATION, client.query_typed_one(sql, &[])).await?;
        if get::<bool>(OPERATION, &row, 0)? {
            let why = "this PostgreSQL is a standby in recovery, which lists no prepared transaction at all: \
                       give the primary's address";
            // Not refused for good: in a failover the address may lead here before the promotion.
            return Err(Error::new(ErrorKind::Unreachable, OPERATION, why));
        }
        let fill = fill_life(&self.schema);
        within(self.request_limit, OPERATION, client.batch_execute(&fill)).await?;
        let (login, is_superuser) = (get(OPERATION, &row, 1)?, get(OPERATION, &row, 2)?);
        Ok(Connection { client, login, is_superuser })
    }
}

impl Connection {
    /// Whether it may end what `role` has prepared.
    pub(super) fn may_end_for(&self, role: &str) -> bool {
        self.is_superuser || self.login == role
    }
}

impl Taken<'_> {
    /// Lets others use it. Not so after an error: it may have left a transaction open.
    pub(super) fn put_back(self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(self.connection);
    }
}

impl Deref for Taken<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}
