//! What it means when PostgreSQL fails or does not answer.

use crate::error::{Error, ErrorKind};

/// What a statement that got no answer may have done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that matters: it reads, or may be done again.
    None,
    /// It may have taken effect.
    Possible,
}

pub(super) fn silent(operation: &'static str, effect: Effect) -> Error {
    let (kind, message) = match effect {
        Effect::None => (
            ErrorKind::Unreachable,
            "PostgreSQL does not answer: start it, or correct the participant's url in the configuration",
        ),
        Effect::Possible => {
            (ErrorKind::Unclear, "PostgreSQL did not confirm it: what is stored there has to be read again")
        }
    };
    Error::new(kind, operation, message)
}

pub(super) fn describe(operation: &'static str, effect: Effect, error: tokio_postgres::Error) -> Error {
    let (kind, message) = match error.code().map_or("", |code| code.code()) {
        "42P01" | "3F000" | "42703" => {
            (ErrorKind::Configuration, "the outbox's tables are not in this database: run `onecommit init`")
        }
        "25006" => {
            (ErrorKind::Refused, "this PostgreSQL is read-only, a standby perhaps: give the primary's url")
        }
        "28P01" | "28000" => (ErrorKind::Configuration, "PostgreSQL refused the user or the password"),
        "3D000" => (ErrorKind::Configuration, "there is no such database"),
        "42501" => (ErrorKind::Configuration, "this user lacks a right in the schema"),
        // Conflicts with others' transactions, and a server short of something: nothing was done.
        "40001" | "40P01" | "55P03" | "53100" | "53200" | "53300" => {
            (ErrorKind::Unreachable, "PostgreSQL could not do it now")
        }
        code if code.is_empty() || code.starts_with("08") || code.starts_with("57P") => {
            return silent(operation, effect).caused_by(error);
        }
        _ => (ErrorKind::Failed, "PostgreSQL reported an error"),
    };
    Error::new(kind, operation, message).caused_by(error)
}
