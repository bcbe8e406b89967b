//! Connections and requests that end within a limit: a server that froze never answers, and without
//! the limit a shard would wait for it for ever.

use std::future::Future;
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls};

use super::failure::from_postgres;
use crate::error::{Error, ErrorKind, Result, redact};

/// A value with the type that the statement gives it: nothing is prepared, so nothing is asked.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Connects within `limit`; the driver's half runs until the client is dropped.
pub(crate) async fn connect(url: &str, application: &str, limit: Duration) -> Result<Client> {
    const OPERATION: &str = "connect";
    let located = |error: Error| error.with("url", redact(url));
    // The driver's own message may quote the address with its password: it is not kept.
    let mut config: tokio_postgres::Config = url
        .parse()
        .map_err(|_| located(Error::new(ErrorKind::Configuration, OPERATION, "not a PostgreSQL address")))?;
    config.application_name(application).connect_timeout(limit);
    let (client, driver) = within(limit, OPERATION, config.connect(NoTls)).await.map_err(located)?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "a connection to PostgreSQL ended");
        }
    });
    Ok(client)
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
