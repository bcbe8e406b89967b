//! PostgreSQL's driver as the outbox and the leases use it: how it is connected to, how long a
//! request may take, and what its errors mean.

#[cfg(feature = "relay")]
mod cancel;
#[cfg(feature = "relay")]
pub(crate) mod connect;
pub(crate) mod failure;
#[cfg(feature = "relay")]
mod password;
#[cfg(feature = "relay")]
mod tls;

/// An identifier in SQL, quoted.
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
