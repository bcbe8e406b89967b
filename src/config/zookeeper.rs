//! `[zookeeper]`: where relays share out their shards.

use std::fmt;

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
        for (one, other) in [("user", "password"), ("password", "user")] {
            if let (Some((_, origin)), None) = (section.given_text(one), section.given_text(other)) {
                return Err(section.refuse(one, &format!("{other} has to be given with it"), origin));
            }
        }
        let user = section.optional_text("user", check_user)?;
        let password = section.given_text("password").map(|(text, _)| Secret(text.to_string()));
        Ok(Zookeeper {
            servers: section.checked_text("servers", check_servers)?.to_string(),
            chroot: section.optional_text("chroot", check_chroot)?.map(str::to_string),
            session_timeout_ms: section.number("session_timeout_ms"),
            user: user.map(str::to_string),
            password,
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
