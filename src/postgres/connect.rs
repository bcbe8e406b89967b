//! Connections and requests that end within a limit: a server that froze never answers, and without
//! the limit a shard would wait for it for ever. What is given up ends on the server, too.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Client, NoTls};

use super::cancel::cancel;
use super::failure::from_postgres;
use crate::error::{Error, ErrorKind, Result, redact};

/// A value with the type that the statement gives it: nothing is prepared, so nothing is asked.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A transaction of ours that waits for its relay longer than this is ended: between its statements
/// nothing else is done, so the relay is paused or cut off.
const IDLE_LIMIT_MS: u32 = 3000;
/// A connection that is dropped with nothing under way ends well within this.
const FAREWELL_LIMIT: Duration = Duration::from_millis(100);

/// A connection. When it is dropped it is over: a request still under way is cancelled on the server,
/// and the socket closed. Otherwise its backend would stay for as long as it waits for a lock, or for a
/// synchronous standby that is dead (there the server's own limits do not hold), and each try would
/// leave another behind, until the application could not connect any more.
pub(crate) struct OwnedClient {
    client: Client,
    _dropped: oneshot::Sender<()>,
}

impl Deref for OwnedClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for OwnedClient {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// Connects within `limit`.
pub(crate) async fn connect(url: &str, application: &str, limit: Duration) -> Result<OwnedClient> {
    const OPERATION: &str = "connect";
    let located = |error: Error| error.with("url", redact(url));
    // The driver's own message may quote the address with its password: it is not kept.
    let mut config: tokio_postgres::Config = url
        .parse()
        .map_err(|_| located(Error::new(ErrorKind::Configuration, OPERATION, "not a PostgreSQL address")))?;
    config.application_name(application).connect_timeout(limit);
    let (client, driver) = within(limit, OPERATION, config.connect(NoTls)).await.map_err(located)?;
    let (_dropped, dropped) = oneshot::channel();
    tokio::spawn(drive(driver, (client.cancel_token(), config), dropped, limit));
    Ok(OwnedClient { client, _dropped })
}

/// Runs the driver's half of a connection until it ends, or until the session is dropped.
async fn drive(
    driver: impl Future<Output = std::result::Result<(), tokio_postgres::Error>>,
    (token, config): (CancelToken, tokio_postgres::Config),
    dropped: oneshot::Receiver<()>,
    limit: Duration,
) {
    let mut driver = std::pin::pin!(driver);
    tokio::select! {
        ended = &mut driver => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
            return;
        }
        _ = dropped => {}
    }
    if tokio::time::timeout(FAREWELL_LIMIT, &mut driver).await.is_err() {
        let cancelled = tokio::time::timeout(limit, cancel(&token, &config)).await;
        tracing::debug!(?cancelled, "a request to PostgreSQL was given up");
        let _ = tokio::time::timeout(limit, driver).await;
    }
}

/// Limits that the server itself keeps for the open transaction. A relay that was cut off or paused
/// leaves its transaction open and a shard's row locked; its successors would wait behind it.
pub(crate) fn limits(request_limit: Duration) -> String {
    let ms = request_limit.as_millis();
    format!(
        "set local idle_in_transaction_session_timeout = {IDLE_LIMIT_MS}; \
         set local lock_timeout = {}; set local statement_timeout = {ms}",
        ms / 2
    )
}

/// Runs `begin`, a statement and `commit` in one round trip, so that the transaction is never held
/// open while anything else is waited for.
pub(crate) async fn alone<T>(
    client: &Client,
    begin: &str,
    statement: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> std::result::Result<T, tokio_postgres::Error> {
    // Biased: they are sent in this order.
    let all = async {
        tokio::try_join!(biased; client.batch_execute(begin), statement, client.batch_execute("commit"))
    };
    all.await.map(|(_, answer, _)| answer)
}

/// Runs a driver's request within a limit.
pub(crate) async fn within<T>(
    limit: Duration,
    operation: &'static str,
    request: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    let converted = async { request.await.map_err(|error| from_postgres(operation, error)) };
    limited(limit, operation, converted).await
}

/// Runs several requests within a limit.
pub(crate) async fn limited<T>(
    limit: Duration,
    operation: &'static str,
    requests: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(limit, requests).await.unwrap_or_else(|_| {
        let why = format!(
            "PostgreSQL did not answer within {} ms: start it, or correct the participant's url in the \
             configuration",
            limit.as_millis()
        );
        Err(Error::new(ErrorKind::Unreachable, operation, why))
    })
}
