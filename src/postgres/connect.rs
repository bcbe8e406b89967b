//! Connections and requests that end within a limit: a server that froze never answers, and without
//! the limit a shard would wait for it for ever. What is given up ends on the server, too.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use postgres_openssl::{MakeTlsConnector, TlsStream};
use tokio::sync::oneshot;
use tokio_postgres::config::{Host, SslMode as TryTls};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Connection, Socket};

use super::cancel::Cancelling;
use super::failure::{from_postgres, is_about_tls};
use super::{password, tls};
use crate::config::{PostgresUrl, SslMode};
use crate::error::{Error, ErrorKind, Result};

/// A value with the type that the statement gives it: nothing is prepared, so nothing is asked.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// What the driver gives.
type Connected = (Client, Connection<Socket, TlsStream<Socket>>);

const OPERATION: &str = "connect";
/// A transaction of ours that waits for its relay longer than this, or than a third of what an answer may take where
/// that is more, is ended: between its statements nothing else is done, so the relay is paused or cut off.
const IDLE_LIMIT_MS: u128 = 3000;
/// Makes the commit of the open transaction wait for its flush, whatever the session's setting; one
/// that waits for standbys, too, stays.
pub(crate) const DURABLE: &str = "select set_config('synchronous_commit', 'on', true) \
    where current_setting('synchronous_commit') in ('off', 'local')";
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
pub(crate) async fn connect(url: &PostgresUrl, application: &str, limit: Duration) -> Result<OwnedClient> {
    connect_with(url, application, None, limit).await
}

/// Connects as the URL says, and takes on another role from the first word on. What is set so belongs to
/// the connection itself and can't be left behind in one that others use; a pooler that can't pass it
/// on refuses the connection.
pub(crate) async fn connect_as(
    url: &PostgresUrl,
    application: &str,
    role: &str,
    limit: Duration,
) -> Result<OwnedClient> {
    connect_with(url, application, Some(role), limit).await
}

async fn connect_with(
    url: &PostgresUrl,
    application: &str,
    role: Option<&str>,
    limit: Duration,
) -> Result<OwnedClient> {
    let connected = async {
        let mut config = driver_config(url, limit)?;
        config.application_name(application);
        if let Some(role) = role {
            let options = [config.get_options().unwrap_or_default(), &role_option(role)].join(" ");
            config.options(options);
        }
        let found = password::find(&config)?;
        if let Some(password) = &found.password {
            config.password(password);
        }
        let tls = tls::connector(url.tls())?;
        let connected = in_turn(config.clone(), url.tls().mode, &tls).await;
        let (client, driver) = connected.map_err(|error| {
            let error = from_postgres(OPERATION, error);
            found.ignored.into_iter().fold(error, |error, why| error.with("password file", why))
        })?;
        Ok((client, driver, config, tls))
    };
    let connected = limited(limit, OPERATION, connected).await;
    let (client, driver, config, tls) = connected.map_err(|error| error.with("url", url))?;
    let (_dropped, dropped) = oneshot::channel();
    let cancelling = Cancelling { token: client.cancel_token(), config, tls };
    tokio::spawn(drive(driver, cancelling, dropped, limit));
    Ok(OwnedClient { client, _dropped })
}

fn driver_config(url: &PostgresUrl, limit: Duration) -> Result<Config> {
    // The driver's own message may quote the address with its password: it is not kept.
    let parsed = url.for_driver().parse::<Config>();
    let mut config =
        parsed.map_err(|_| Error::new(ErrorKind::Configuration, OPERATION, "not a PostgreSQL address"))?;
    let given = config.get_connect_timeout().copied();
    config.connect_timeout(given.map_or(limit, |given| given.min(limit)));
    if let Some(timeout) = url.tcp_user_timeout() {
        config.tcp_user_timeout(timeout);
    }
    if config.get_hosts().is_empty() {
        // Otherwise the driver would have no name for TLS.
        for address in config.get_hostaddrs().to_vec() {
            config.host(address.to_string());
        }
    }
    Ok(config)
}

/// The server's command-line option for a role: white space ends an option, a backslash keeps it.
fn role_option(role: &str) -> String {
    let mut option = "-c role=".to_string();
    for c in role.chars() {
        if c.is_ascii_whitespace() || c == '\\' || c == '\x0b' {
            option.push('\\');
        }
        option.push(c);
    }
    option
}

/// Tries with and without TLS, in the order of the mode. Where both fail, the error of the try with TLS
/// is told: it is what the server's settings are about.
async fn in_turn(
    mut config: Config,
    mode: SslMode,
    tls: &MakeTlsConnector,
) -> std::result::Result<Connected, tokio_postgres::Error> {
    // On a Unix socket there is none, whatever the mode.
    let sockets_only = config.get_hosts().iter().all(|host| !matches!(host, Host::Tcp(_)));
    let (first, second) = match mode {
        _ if sockets_only => (TryTls::Disable, None),
        SslMode::Disable => (TryTls::Disable, None),
        SslMode::Allow => (TryTls::Disable, Some(TryTls::Require)),
        SslMode::Prefer => (TryTls::Prefer, Some(TryTls::Disable)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (TryTls::Require, None),
    };
    let refused = match config.ssl_mode(first).connect(tls.clone()).await {
        Err(error) if is_about_tls(&error) => error,
        done => return done,
    };
    match second {
        None => Err(refused),
        Some(second) => match config.ssl_mode(second).connect(tls.clone()).await {
            Err(error) if second == TryTls::Require => Err(error),
            Err(_) => Err(refused),
            connected => connected,
        },
    }
}

/// Runs the driver's half of a connection until it ends, or until the session is dropped.
async fn drive(
    driver: impl Future<Output = std::result::Result<(), tokio_postgres::Error>>,
    cancelling: Cancelling,
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
        let cancelled = tokio::time::timeout(limit, cancelling.cancel()).await;
        tracing::debug!(?cancelled, "a request to PostgreSQL was given up");
        let _ = tokio::time::timeout(limit, driver).await;
    }
}

/// Limits that the server itself keeps for the open transaction. A relay that was cut off or paused
/// leaves its transaction open and a shard's row locked; its successors would wait behind it.
pub(crate) fn limits(request_limit: Duration) -> String {
    let ms = request_limit.as_millis();
    format!(
        "set local idle_in_transaction_session_timeout = {}; \
         set local lock_timeout = {}; set local statement_timeout = {ms}",
        IDLE_LIMIT_MS.max(ms / 3),
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
