//! `[zookeeper]`: where relays share out their shards.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::value::Section;
use crate::error::Result;

/// How to reach ZooKeeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zookeeper {
    /// `host:port` of each server, separated by commas.
    pub servers: String,
    /// The path below which everything is kept; it begins with `/` and doesn't end with one.
    pub chroot: Option<String>,
    /// After this long without a sign of life a relay counts as dead.
    pub session_timeout_ms: u64,
    /// User for digest authentication; given exactly where the password is.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// Whether nodes that anybody may change are refused; there is a user then.
    pub require_acl: bool,
    /// None speaks without TLS.
    pub tls: Option<ZookeeperTls>,
}

/// What secures the connections; every file is in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZookeeperTls {
    /// The authorities that the servers' certificates are signed by.
    pub ca: PathBuf,
    /// The client's certificate and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one who needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Zookeeper {
    pub(super) fn build(section: &Section) -> Result<Self> {
        for (one, other) in [
            ("user", "password"),
            ("password", "user"),
            ("tls_cert", "tls_key"),
            ("tls_key", "tls_cert"),
            ("tls_cert", "tls_ca"),
        ] {
            if let (Some((_, origin)), None) = (section.given_text(one), section.given_text(other)) {
                return Err(section.refuse(one, &format!("{other} has to be given with it"), origin));
            }
        }
        let user = section.optional_text("user", check_user)?;
        let require_acl = section.flag("require_acl");
        if let (true, None, Some(origin)) = (require_acl, user, section.given_at("require_acl")) {
            let why =
                "user and password have to be given with it: without them anybody may change what is made";
            return Err(section.refuse("require_acl", why, origin));
        }
        let password = section.given_text("password").map(|(text, _)| Secret(text.to_string()));
        let file = |key| section.optional_text(key, check_file).map(|file| file.map(PathBuf::from));
        let identity = file("tls_cert")?.zip(file("tls_key")?);
        let tls = file("tls_ca")?.map(|ca| ZookeeperTls { ca, identity });
        let check = if tls.is_some() { check_named_servers } else { check_servers };
        Ok(Zookeeper {
            servers: section.checked_text("servers", check)?.to_string(),
            chroot: section.optional_text("chroot", check_chroot)?.map(str::to_string),
            session_timeout_ms: section.number("session_timeout_ms"),
            user: user.map(str::to_string),
            password,
            require_acl,
            tls,
        })
    }
}

fn check_servers(text: &str) -> Result<(), String> {
    if text.contains('/') {
        return Err(format!("{text:?} has a path: it belongs into chroot"));
    }
    let is_server = |server: &str| {
        let port = server.rsplit_once(':').filter(|_| !server.ends_with(']')).map(|(_, port)| port);
        !server.is_empty()
            && !server.starts_with(':')
            && !server.contains(char::is_whitespace)
            && port.is_none_or(|port| port.parse::<u16>().is_ok())
    };
    if !text.split(',').all(is_server) {
        return Err(format!("{text:?} is not host:port, or several with commas and no spaces"));
    }
    Ok(())
}

/// With TLS a server is known by its name: one that no certificate could be made for would end the client.
fn check_named_servers(text: &str) -> Result<(), String> {
    check_servers(text)?;
    let is_label = |label: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len())
            && label.chars().all(legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = |host: &str| {
        let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        let last = host.rsplit('.').next().unwrap_or(host);
        host.len() <= 253 && host.split('.').all(is_label) && !is_number(last)
    };
    let host = |server: &'_ str| match server.rsplit_once(':') {
        Some((host, _)) if !server.ends_with(']') => host.trim_matches(['[', ']']).to_string(),
        _ => server.trim_matches(['[', ']']).to_string(),
    };
    let wrong = text.split(',').map(host).find(|host| host.parse::<IpAddr>().is_err() && !is_name(host));
    wrong.map_or(Ok(()), |host| Err(format!("{host:?} is no host that a certificate can be made for")))
}

fn check_file(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("it is empty: give a file in PEM".to_string()) } else { Ok(()) }
}

fn check_chroot(text: &str) -> Result<(), String> {
    let is_step = |step: &str| !matches!(step, "" | "." | "..") && !step.contains('\0');
    match text.strip_prefix('/') {
        Some(path) if path.split('/').all(is_step) => Ok(()),
        _ => Err(format!("{text:?} is not a path like /shop: it begins with / and doesn't end with one")),
    }
}

fn check_user(text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains(':') {
        return Err(format!("{text:?} is not a user's name: it is empty or has a colon"));
    }
    Ok(())
}
