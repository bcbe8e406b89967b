//! PostgreSQL's driver as all of Onecommit uses it: how it is connected to, how long a request may
//! take, what its errors mean, and what tells one server from another.

#[cfg(feature = "relay")]
mod cancel;
#[cfg(feature = "relay")]
pub(crate) mod connect;
pub(crate) mod failure;
#[cfg(feature = "relay")]
mod password;
#[cfg(feature = "relay")]
pub(crate) mod server;
#[cfg(feature = "relay")]
mod tls;

/// An identifier in SQL, quoted.
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A text in SQL, quoted; the same whatever `standard_conforming_strings` says.
#[cfg(feature = "relay")]
pub(crate) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
