//! A participant's database: which backend it is, and where. No password is ever shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::postgres_url::PostgresUrl;
use crate::error::{Error, Result};

/// Where a participant is. Shown with its password replaced by `***`.
///
/// ```
/// use onecommit::config::DatabaseUrl;
///
/// let url: DatabaseUrl = "postgresql://app:secret@db/orders".parse()?;
/// assert_eq!(url.to_string(), "postgresql://app:***@db/orders");
/// let file: DatabaseUrl = "sqlite:////var/lib/app.db".parse()?;
/// assert_eq!(file, DatabaseUrl::Sqlite("/var/lib/app.db".into()));
/// # Ok::<(), onecommit::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file; a relative one begins at the directory in which the process was started.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server.
    Postgres(PostgresUrl),
}

const SQLITE: &str = "sqlite://";

impl FromStr for DatabaseUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text itself stays out of the error: it may hold a password.
        let refuse = |why: String| Error::invalid("parse database url", why);
        if let Some(path) = text.strip_prefix(SQLITE) {
            return parse_sqlite(path).map(DatabaseUrl::Sqlite).map_err(refuse);
        }
        if PostgresUrl::is_meant_by(text) {
            return text.parse().map(DatabaseUrl::Postgres);
        }
        Err(refuse(unknown_scheme(text)))
    }
}

fn unknown_scheme(text: &str) -> String {
    let expected = "expected postgresql://user@host/database or sqlite:///file.db";
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    match text.split_once("://") {
        Some((scheme, _)) if scheme.starts_with("postgres") && scheme.contains('+') => {
            "a driver's name has no place here: write postgresql://".to_string()
        }
        Some((scheme, _)) if scheme.chars().all(legal) => format!("{expected}, found {scheme}://"),
        _ => expected.to_string(),
    }
}

fn parse_sqlite(path: &str) -> Result<PathBuf, String> {
    let Some(path) = path.strip_prefix('/') else {
        return Err("write sqlite:///file.db for a relative path, sqlite:////dir/file.db for an \
                    absolute one"
            .to_string());
    };
    if path.is_empty() || path == ":memory:" || path.ends_with('/') {
        return Err(
            "expected a file behind sqlite:///; in memory nothing would outlive the process".to_string()
        );
    }
    if path.contains(['?', '#', '\0']) {
        return Err("a SQLite URL is a path only, without ? and #".to_string());
    }
    Ok(PathBuf::from(path))
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseUrl::Sqlite(path) => write!(f, "{SQLITE}/{}", path.display()),
            DatabaseUrl::Postgres(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_urls_say_what_they_mean() {
        let url = |text: &str| text.parse::<DatabaseUrl>();
        assert_eq!(url("sqlite:///a/b.db").unwrap(), DatabaseUrl::Sqlite(PathBuf::from("a/b.db")));
        assert_eq!(url("sqlite:////a/b.db").unwrap(), DatabaseUrl::Sqlite(PathBuf::from("/a/b.db")));
        let postgres =
            ["postgres://h", "postgresql:///x?host=/tmp", "postgresql://u:p@[::1]:5432,b:1/x?sslmode=prefer"];
        for text in postgres {
            assert_eq!(url(text).unwrap(), DatabaseUrl::Postgres(text.parse().unwrap()));
        }
        for text in ["sqlite:///a.db", "sqlite:////a.db", "postgresql://u@h:1/x"] {
            assert_eq!(url(text).unwrap().to_string(), text);
        }
        let wrong = [
            "",
            "orders.db",
            "mysql://h/x",
            "host=h password=secret",
            "postgresql+psycopg://u:secret@h/x",
            "sqlite://a.db",
            "sqlite:///",
            "sqlite:///:memory:",
            "sqlite:///a/",
            "sqlite:///a.db?mode=ro",
            "postgresql://u:secret",
            "postgresql://u:sec/ret@h/x",
            "postgresql://h/x?password=a secret",
            "postgres://",
            "postgresql://h/x?sslcrl=secret.pem",
            "postgresql://h/x?passwort=secret",
        ];
        for text in wrong {
            let message = url(text).unwrap_err().to_string();
            assert!(["expected", "write", "path only", "understood"].iter().any(|way| message.contains(way)));
            assert!(!message.contains("sec"), "{message}");
        }
    }
}
