//! A participant's database. Only what tells the backends apart is decided here; what else a
//! PostgreSQL URL may hold is its driver's business. No password is ever shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::value::suggest;
use crate::error::{Error, Result, redact};

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
    /// The URL as it was given, password included.
    Postgres(String),
}

const SQLITE: &str = "sqlite://";
const POSTGRES: [&str; 2] = ["postgresql://", "postgres://"];
/// What may stand behind the `?` of a PostgreSQL URL: what the driver knows, without TLS.
const PARAMETERS: [&str; 18] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslmode",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

impl FromStr for DatabaseUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text itself stays out of the error: it may hold a password.
        let refuse = |why: String| Error::invalid("parse database url", why);
        if let Some(path) = text.strip_prefix(SQLITE) {
            return parse_sqlite(path).map(DatabaseUrl::Sqlite).map_err(refuse);
        }
        if let Some(rest) = POSTGRES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
            check_postgres(rest).and_then(|()| check_parameters(rest)).map_err(refuse)?;
            return Ok(DatabaseUrl::Postgres(text.to_string()));
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

/// Refuses what libpq would read otherwise than it was meant, because then a piece of the password
/// stands where nobody looks for one, and would be shown: a bare `@` behind the host, a port that
/// is no number, white space.
fn check_postgres(rest: &str) -> Result<(), String> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_host = |host: &str| match host.rsplit_once(']') {
        Some((_, port)) => port.is_empty() || port.strip_prefix(':').is_some_and(is_port),
        None => host.split_once(':').is_none_or(|(_, port)| is_port(port)),
    };
    let blank = |c: char| c.is_whitespace() || c.is_control();
    if behind.contains('@') || rest.contains(blank) || !hosts.split(',').all(is_host) {
        return Err("not a URL that can be read without doubt: write %2F for / in a user's name or \
                    password, %3F for ?, %40 for @, %3A for :, %20 for a space; a port is a number"
            .to_string());
    }
    Ok(())
}

/// Refuses, by its name, what the driver would refuse without one, or could not keep: TLS.
fn check_parameters(rest: &str) -> Result<(), String> {
    let Some((_, parameters)) = rest.split_once('?') else { return Ok(()) };
    for parameter in parameters.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name == "sslmode" && !matches!(value, "disable" | "prefer") {
            return Err(format!(
                "sslmode={value} can't be kept: the connection to PostgreSQL is without TLS so far; write \
                 sslmode=disable where the network is trusted"
            ));
        }
        if !PARAMETERS.contains(&name) {
            return Err(format!(
                "{name} is no parameter that is understood here: {}",
                suggest(name, PARAMETERS.into_iter())
            ));
        }
    }
    Ok(())
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseUrl::Sqlite(path) => write!(f, "{SQLITE}/{}", path.display()),
            DatabaseUrl::Postgres(url) => f.write_str(&redact(url)),
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
            ["postgres://", "postgresql:///x?host=/tmp", "postgresql://u:p@[::1]:5432,b:1/x?sslmode=prefer"];
        for text in postgres {
            assert_eq!(url(text).unwrap(), DatabaseUrl::Postgres(text.to_string()));
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
            "postgresql://h/x?sslmode=require",
            "postgresql://h/x?sslrootcert=ca.pem",
            "postgresql://h/x?passwort=secret",
        ];
        for text in wrong {
            let message = url(text).unwrap_err().to_string();
            assert!(["expected", "write", "path only", "understood"].iter().any(|way| message.contains(way)));
            assert!(!message.contains("sec"), "{message}");
        }
    }
}
