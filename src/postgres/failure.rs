//! What an error of PostgreSQL means to the caller.

use tokio_postgres::error::SqlState;

use crate::error::{Error, ErrorKind};

/// Serialization failure, deadlock, lock timeout.
pub(crate) const CONFLICTS: [&str; 3] = ["40001", "40P01", "55P03"];

/// Turns a driver's error into ours; `operation` says what was being done.
pub(crate) fn from_postgres(operation: &'static str, error: tokio_postgres::Error) -> Error {
    let (kind, what) = match error.code() {
        None => without_code(&error),
        Some(code) => meaning(code),
    };
    Error::new(kind, operation, what).caused_by(error)
}

/// Whether `error` says that PostgreSQL rolled the statement back for another transaction's sake: then
/// it surely changed nothing. Not so of a shutdown or a cancellation, which may come behind a commit.
#[cfg(feature = "relay")]
pub(crate) fn is_conflict(error: &Error) -> bool {
    code(error).is_some_and(|code| CONFLICTS.contains(&code))
}

/// PostgreSQL's code (SQLSTATE) for what went wrong, where it has said so.
#[cfg(feature = "relay")]
pub(crate) fn code(error: &Error) -> Option<&str> {
    let source = std::error::Error::source(error)?;
    Some(source.downcast_ref::<tokio_postgres::Error>()?.code()?.code())
}

/// Whether the same connection could have gone otherwise with, or without, TLS. Not so of a wrong
/// password: that is sent once.
#[cfg(feature = "relay")]
pub(crate) fn is_about_tls(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
        || error.code().is_none()
            && (chain(error).contains("TLS handshake") || chain(error).contains("SSL routines"))
}

/// What the driver's own error means, by its text: it gives no other sign. A connection that merely broke
/// may work the next time; what a certificate or a setting is the reason for does not go away by itself.
fn without_code(error: &tokio_postgres::Error) -> (ErrorKind, &'static str) {
    let text = chain(error);
    let has = |part: &str| text.contains(part);
    let why = CERTIFICATES.iter().find(|(parts, _)| parts.iter().all(|part| has(part)));
    match why {
        Some((_, why)) => (ErrorKind::Configuration, why),
        None if has("SSL routines") && !has("unexpected eof") => {
            (ErrorKind::Configuration, "no TLS connection to PostgreSQL could be agreed on")
        }
        None if has("invalid configuration") || has("authentication error") => {
            (ErrorKind::Configuration, "PostgreSQL can't be connected to with this url")
        }
        None => (ErrorKind::Unreachable, "the connection to PostgreSQL failed"),
    }
}

fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// By what the driver's or OpenSSL's text has in it; the first that fits.
const CERTIFICATES: [(&[&str], &str); 9] = [
    (
        &["password missing"],
        "PostgreSQL asks for a password: give it in PGPASSWORD, in a password file (PGPASSFILE, ~/.pgpass), or \
         in the url",
    ),
    (
        &["server does not support TLS"],
        "this PostgreSQL has no TLS: switch ssl on there; or, where the network is trusted, write \
         sslmode=disable",
    ),
    (
        &["certificate verify failed", "mismatch"],
        "the server's certificate was made for another host than the url names: correct the url's host, or have \
         the certificate made for it",
    ),
    (&["certificate verify failed", "has expired"], "the server's certificate has expired: have it renewed"),
    (
        &["certificate verify failed", "not yet valid"],
        "the server's certificate is not valid yet: look at the clocks of both machines",
    ),
    (
        &["certificate verify failed"],
        "none of the root certificates has signed the server's certificate: correct sslrootcert, or the host if \
         it is somebody else's server",
    ),
    (
        &["alert certificate expired"],
        "PostgreSQL refused the client certificate: it has expired; renew sslcert",
    ),
    (
        &["alert certificate required"],
        "PostgreSQL asks for a client certificate: write sslcert=FILE and sslkey=FILE into the url",
    ),
    (
        &["alert unknown ca"],
        "PostgreSQL refused the client certificate: no authority that it knows (ssl_ca_file) has signed sslcert",
    ),
];

fn meaning(code: &SqlState) -> (ErrorKind, &'static str) {
    match code.code() {
        "42P01" | "3F000" | "42703" | "42883" => (
            ErrorKind::Configuration,
            "Onecommit's tables are not in this database, or are of an earlier release: run `onecommit init`",
        ),
        "28P01" => (ErrorKind::Configuration, "PostgreSQL refused the user or the password"),
        "28000" => (
            ErrorKind::Configuration,
            "PostgreSQL does not let this user in this way (pg_hba.conf): with another user, TLS (sslmode), or \
             a client certificate (sslcert)",
        ),
        "3D000" => (ErrorKind::Configuration, "there is no such database"),
        "42501" => (ErrorKind::Configuration, "this user lacks a right"),
        // Not refused for good: in a failover the address may lead here before the promotion.
        "25006" => (
            ErrorKind::Unreachable,
            "this PostgreSQL is read-only, a standby perhaps: give the primary's address",
        ),
        // Crashed, shutting down or starting up; too many connections; disk full.
        "57P01" | "57P02" | "57P03" | "53200" | "53300" => {
            (ErrorKind::Unreachable, "PostgreSQL is not available now")
        }
        "53100" => (ErrorKind::Unreachable, "PostgreSQL's disk is full"),
        // Cancelled by a limit of ours, or its connection ended by one.
        "57014" | "25P03" => (ErrorKind::Unreachable, "it took longer than Onecommit's limits allow"),
        conflict if CONFLICTS.contains(&conflict) => {
            (ErrorKind::Unreachable, "a conflict with other transactions")
        }
        class if class.starts_with("08") => (ErrorKind::Unreachable, "the connection to PostgreSQL failed"),
        _ => (ErrorKind::Failed, "PostgreSQL reported an error"),
    }
}
