//! A PostgreSQL URL, with the meaning that libpq gives it. The driver knows most keys, and reads one
//! otherwise than libpq; TLS it does not know beyond whether to try it. Those keys are taken out here
//! and become types; a key that is known to neither is refused by its name. No password is ever shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::value::suggest;
use crate::error::{Error, Result, redact};

/// Where a PostgreSQL database is and how to connect to it. Shown with its password replaced by `***`.
///
/// ```
/// use onecommit::config::{PostgresUrl, SslMode};
///
/// let url: PostgresUrl = "postgresql://app:secret@db/orders?sslmode=verify-full&sslrootcert=ca.pem".parse()?;
/// assert_eq!(url.tls().mode, SslMode::VerifyFull);
/// assert!(!url.to_string().contains("secret"));
/// # Ok::<(), onecommit::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    given: String,
    for_driver: String,
    tls: Tls,
    tcp_user_timeout: Option<Duration>,
}

/// Whether a connection is encrypted, and what the server has to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// libpq's `sslmode`.
    pub mode: SslMode,
    /// The authorities that a server's certificate may be signed by: `sslrootcert`.
    pub roots: Roots,
    /// The client's certificate, `sslcert`; None for `~/.postgresql/postgresql.crt` where it is there.
    pub certificate: Option<PathBuf>,
    /// Its private key, `sslkey`; None for `~/.postgresql/postgresql.key`.
    pub key: Option<PathBuf>,
}

/// libpq's `sslmode`. Only the last two know whom they talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Without TLS.
    Disable,
    /// With TLS where the server refuses to go without.
    Allow,
    /// With TLS where the server has it.
    Prefer,
    /// With TLS; the server's certificate is checked where there are root certificates.
    Require,
    /// With TLS and a certificate that one of the root certificates has signed.
    VerifyCa,
    /// The same, made for the host of the URL.
    VerifyFull,
}

/// Which root certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those of `~/.postgresql/root.crt`, where it is there.
    Default,
    /// Those that the system trusts.
    System,
    /// Those of a file.
    File(PathBuf),
}

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];
const MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

/// What a key of the URL may have as its value.
enum Value {
    Text,
    Number,
    OneOf(&'static [&'static str]),
}

/// What may stand behind the `?`, by libpq's names.
const KEYS: [(&str, Value); 21] = [
    ("user", Value::Text),
    ("password", Value::Text),
    ("dbname", Value::Text),
    ("options", Value::Text),
    ("application_name", Value::Text),
    ("host", Value::Text),
    ("hostaddr", Value::Text),
    ("port", Value::Text),
    ("connect_timeout", Value::Number),
    ("tcp_user_timeout", Value::Number),
    ("keepalives", Value::Number),
    ("keepalives_idle", Value::Number),
    ("keepalives_interval", Value::Number),
    ("keepalives_count", Value::Number),
    ("target_session_attrs", Value::OneOf(&["any", "read-write", "read-only"])),
    ("channel_binding", Value::OneOf(&["disable", "prefer", "require"])),
    ("load_balance_hosts", Value::OneOf(&["disable", "random"])),
    ("sslmode", Value::OneOf(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])),
    ("sslrootcert", Value::Text),
    ("sslcert", Value::Text),
    ("sslkey", Value::Text),
];

impl PostgresUrl {
    /// Whether `text` begins as a PostgreSQL URL does.
    pub(super) fn is_meant_by(text: &str) -> bool {
        SCHEMES.iter().any(|scheme| text.starts_with(scheme))
    }

    /// How the connection is secured.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// How long what was sent may stay unconfirmed by the network before the connection is given up.
    pub fn tcp_user_timeout(&self) -> Option<Duration> {
        self.tcp_user_timeout
    }

    /// What the driver reads of the URL; a password in it is in it here, too.
    pub(crate) fn for_driver(&self) -> &str {
        &self.for_driver
    }
}

impl FromStr for PostgresUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text itself stays out of the error: it may hold a password.
        parse(text).map_err(|why| Error::invalid("parse database url", why))
    }
}

fn parse(text: &str) -> Result<PostgresUrl, String> {
    let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
    let rest = rest.ok_or("expected postgresql://user@host/database")?;
    check_shape(rest)?;
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let given = Given::read(query)?;
    let tls = given.tls()?;
    check_hosts(address, &given, &tls)?;
    let kept = given.for_driver();
    let question_mark = if kept.is_empty() { "" } else { "?" };
    Ok(PostgresUrl {
        given: text.to_string(),
        for_driver: format!("{}{address}{question_mark}{kept}", SCHEMES[0]),
        tls,
        // In libpq these are milliseconds, for the driver seconds; 0 is the system's own.
        tcp_user_timeout: given.number("tcp_user_timeout").filter(|ms| *ms > 0).map(Duration::from_millis),
    })
}

/// Refuses what libpq would read otherwise than it was meant, because then a piece of the password
/// stands where nobody looks for one, and would be shown: a bare `@` behind the host, a port that
/// is no number, white space.
fn check_shape(rest: &str) -> Result<(), String> {
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

/// libpq would go to the Unix socket of its own build where no host is given.
fn check_hosts(address: &str, given: &Given<'_>, tls: &Tls) -> Result<(), String> {
    let authority = address.split('/').next().unwrap_or(address);
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let has_host = !hosts.is_empty() || given.text("host").is_some();
    if !has_host && given.text("hostaddr").is_none() {
        return Err("there is no host: write it behind //, or ?host=/var/run/postgresql for a Unix socket"
            .to_string());
    }
    if !has_host && tls.mode == SslMode::VerifyFull {
        return Err("sslmode=verify-full compares the host with the server's certificate: write it, \
                    hostaddr alone is not enough"
            .to_string());
    }
    Ok(())
}

/// The keys behind the `?`, as written.
struct Given<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Given<'a> {
    fn read(query: &'a str) -> Result<Self, String> {
        let mut given = Given(Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let Some((key, kind)) = KEYS.iter().find(|(key, _)| *key == name) else {
                let near = suggest(name, KEYS.iter().map(|(key, _)| *key));
                return Err(format!("{name} is no parameter that is understood here: {near}"));
            };
            if given.text(key).is_some() {
                return Err(format!("{key} is given twice: write one of them"));
            }
            check_value(key, kind, value)?;
            given.0.push((key, value));
        }
        Ok(given)
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }

    fn path(&self, key: &str) -> Result<Option<PathBuf>, String> {
        let decode = |text| percent_decode_str(text).decode_utf8().map(|path| PathBuf::from(&*path));
        let path = self.text(key).filter(|text| !text.is_empty()).map(decode);
        path.transpose().map_err(|_| format!("{key} is not UTF-8 text"))
    }

    fn tls(&self) -> Result<Tls, String> {
        let roots = match self.path("sslrootcert")? {
            None => Roots::Default,
            Some(path) if path.as_os_str() == "system" => Roots::System,
            Some(path) => Roots::File(path),
        };
        let wanted = self.text("sslmode").and_then(|name| MODES.iter().find(|(mode, _)| *mode == name));
        let mode = match (wanted, &roots) {
            (None, Roots::System) => SslMode::VerifyFull,
            (None, _) => SslMode::Prefer,
            (Some((name, mode)), Roots::System) if *mode != SslMode::VerifyFull => {
                return Err(format!(
                    "sslmode={name} with sslrootcert=system would let anybody in who has any certificate at \
                     all: write sslmode=verify-full"
                ));
            }
            (Some((_, mode)), _) => *mode,
        };
        Ok(Tls { mode, roots, certificate: self.path("sslcert")?, key: self.path("sslkey")? })
    }

    fn for_driver(&self) -> String {
        let kept = self.0.iter().filter_map(|(key, value)| match *key {
            "sslmode" | "sslrootcert" | "sslcert" | "sslkey" | "tcp_user_timeout" => None,
            "keepalives_count" => Some(format!("keepalives_retries={value}")),
            key => Some(format!("{key}={value}")),
        });
        kept.collect::<Vec<_>>().join("&")
    }
}

/// The driver would not say which value it does not take.
fn check_value(key: &str, kind: &Value, value: &str) -> Result<(), String> {
    match kind {
        Value::Number if value.parse::<u32>().is_err() => {
            Err(format!("{key}: expected a whole number, not below 0"))
        }
        Value::OneOf(known) if !known.contains(&value) => {
            Err(format!("{key}={value} is not understood here: {}", suggest(value, known.iter().copied())))
        }
        _ => Ok(()),
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.given))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> PostgresUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn tls_is_what_libpq_means() {
        let tls = |query: &str| url(&format!("postgresql://h/x?{query}")).tls;
        let plain = Tls { mode: SslMode::Prefer, roots: Roots::Default, certificate: None, key: None };
        assert_eq!(url("postgresql://h/x").tls, plain);
        for (name, mode) in MODES {
            assert_eq!(tls(&format!("sslmode={name}")), Tls { mode, ..plain.clone() });
        }
        let full = tls("sslrootcert=/ca%20s.pem&sslcert=c.pem&sslkey=k.pem&sslmode=verify-full");
        assert_eq!((full.mode, full.roots), (SslMode::VerifyFull, Roots::File("/ca s.pem".into())));
        assert_eq!((full.certificate, full.key), (Some("c.pem".into()), Some("k.pem".into())));
        let system = Tls { mode: SslMode::VerifyFull, roots: Roots::System, ..plain };
        assert_eq!(tls("sslrootcert=system"), system);
    }

    #[test]
    fn the_driver_reads_what_is_left() {
        let text =
            "postgres://u:p%40@h:1,[::1]/x?sslmode=require&keepalives_count=3&sslkey=k&connect_timeout=2";
        let driver = "postgresql://u:p%40@h:1,[::1]/x?keepalives_retries=3&connect_timeout=2";
        assert_eq!(url(text).for_driver(), driver);
        assert_eq!(url("postgresql://h/x?sslmode=disable").for_driver(), "postgresql://h/x");
        let timeout = |text| url(text).tcp_user_timeout();
        assert_eq!(timeout("postgresql://h/x?tcp_user_timeout=1500"), Some(Duration::from_millis(1500)));
        assert_eq!(timeout("postgresql://h/x?tcp_user_timeout=0"), None);
    }

    #[test]
    fn what_can_not_be_meant_is_refused_by_name() {
        let cases = [
            ("?sslmode=verify_full", "did you mean verify-full?"),
            ("?sslmode=require&sslrootcert=system", "write sslmode=verify-full"),
            ("?sslrootcerts=ca.pem", "did you mean sslrootcert?"),
            ("?passfile=secret", "passfile is no parameter"),
            ("?sslcrl=x", "sslcrl is no parameter"),
            ("?keepalives_retries=1", "keepalives_retries is no parameter"),
            ("?keepalives_idle=soon", "keepalives_idle: expected a whole number"),
            ("?target_session_attrs=primary", "known are any, read-write, read-only"),
            ("?user=a&user=b", "user is given twice"),
            ("?sslcert=%ff", "sslcert is not UTF-8"),
        ];
        for (query, why) in cases {
            let message = format!("postgresql://h/x{query}").parse::<PostgresUrl>().unwrap_err().to_string();
            assert!(message.contains(why), "{query}: {message}");
        }
        for (text, why) in [
            ("postgresql:///x", "there is no host"),
            ("postgresql://u:secret@/x?user=v", "there is no host"),
            ("postgresql:///x?hostaddr=127.0.0.1&sslmode=verify-full", "hostaddr alone"),
        ] {
            let message = text.parse::<PostgresUrl>().unwrap_err().to_string();
            assert!(message.contains(why) && !message.contains("secret"), "{message}");
        }
    }
}
