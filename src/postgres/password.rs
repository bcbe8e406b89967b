//! The password of a connection whose URL has none, as libpq finds it: `PGPASSWORD`, then the password
//! file. Looked up for each connection, so that a new password counts. Never shown.

use std::path::{Path, PathBuf};

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::error::{Error, ErrorKind, Result};

/// What a host that is a Unix socket's folder is called in the file, if it is the usual one.
const LOCAL: &str = "localhost";
const USUAL_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const PORT: u16 = 5432;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) password: Option<Vec<u8>>,
    /// Why a password file was left aside, for the case that the server asks for a password.
    pub(super) ignored: Option<String>,
}

/// Looks where libpq looks. The driver takes one password for all hosts of a URL: where the file has
/// several for them, nothing is guessed.
pub(super) fn find(config: &Config) -> Result<Found> {
    if config.get_password().is_some() {
        return Ok(Found::default());
    }
    if let Some(password) = std::env::var_os("PGPASSWORD").filter(|password| !password.is_empty()) {
        return Ok(Found { password: Some(password.into_encoded_bytes()), ignored: None });
    }
    let (named, file) = match std::env::var_os("PGPASSFILE").filter(|path| !path.is_empty()) {
        Some(path) => (true, PathBuf::from(path)),
        None => match std::env::home_dir() {
            Some(home) => (false, home.join(".pgpass")),
            None => return Ok(Found::default()),
        },
    };
    match read(&file) {
        Ok(contents) => Ok(Found { password: one_for_all(config, &contents, &file)?, ignored: None }),
        Err(_) if !named && !file.exists() => Ok(Found::default()),
        Err(why) => Ok(Found { password: None, ignored: Some(format!("{}: {why}", file.display())) }),
    }
}

fn read(file: &Path) -> std::result::Result<Vec<u8>, String> {
    let found = std::fs::metadata(file).map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("it is no file".to_string());
    }
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::mode(&found) & 0o077 != 0 {
        return Err("it is left aside, because others may read it: chmod 600".to_string());
    }
    std::fs::read(file).map_err(|error| error.to_string())
}

fn one_for_all(config: &Config, contents: &[u8], file: &Path) -> Result<Option<Vec<u8>>> {
    let Some(user) = config.get_user().map(str::to_string).or_else(system_user) else { return Ok(None) };
    let database = config.get_dbname().unwrap_or(&user).to_string();
    let mut passwords = addresses(config)
        .into_iter()
        .map(|(host, port)| line_for(contents, [&host, &port, &database, &user]))
        .collect::<Vec<_>>();
    passwords.dedup();
    if passwords.len() > 1 {
        let why =
            "the password file has different passwords for the hosts of one url: give them one password";
        return Err(Error::new(ErrorKind::Configuration, "connect", why).with("file", file.display()));
    }
    Ok(passwords.pop().flatten())
}

fn system_user() -> Option<String> {
    ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok())
}

fn addresses(config: &Config) -> Vec<(String, String)> {
    let name = |host: &Host| match host {
        Host::Tcp(host) => host.clone(),
        #[cfg(unix)]
        Host::Unix(folder) => match folder.to_str() {
            Some(folder) if USUAL_FOLDERS.contains(&folder) => LOCAL.to_string(),
            _ => folder.display().to_string(),
        },
    };
    let ports = config.get_ports();
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(PORT).to_string();
    config.get_hosts().iter().enumerate().map(|(at, host)| (name(host), port(at))).collect()
}

/// The password of the first line that fits.
fn line_for(contents: &[u8], wanted: [&str; 4]) -> Option<Vec<u8>> {
    let lines = contents.split(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"#")).find_map(|line| {
        let mut rest = line.strip_suffix(b"\r").unwrap_or(line);
        for text in wanted {
            let (field, is_any, behind) = field(rest)?;
            if !is_any && field != text.as_bytes() {
                return None;
            }
            rest = behind?;
        }
        Some(field(rest)?.0).filter(|password| !password.is_empty())
    })
}

/// A field without its escapes, whether it is a bare `*`, and what follows behind its colon.
type Field<'a> = (Vec<u8>, bool, Option<&'a [u8]>);

fn field(text: &[u8]) -> Option<Field<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b':' => return Some((found, &text[..at] == b"*", Some(&text[at + 1..]))),
            b'\\' if at + 1 < text.len() => {
                found.push(text[at + 1]);
                at += 1;
            }
            byte => found.push(*byte),
        }
        at += 1;
    }
    Some((found, text == b"*", None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(contents: &str, url: &str) -> Result<Option<String>> {
        let config: Config = url.parse().unwrap();
        let found = one_for_all(&config, contents.as_bytes(), Path::new("pass"))?;
        Ok(found.map(|password| String::from_utf8(password).unwrap()))
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let file =
            "# h:5432:x:u:comment\n\nh:5432:x:u:on\\:e\\\\\r\n*:*:y:*:two\nlocalhost:*:*:u:three\n*:*:*:u:";
        let cases = [
            ("postgresql://u@h/x", Some("on:e\\")),
            ("postgresql://u@h:5433/x", None),
            ("postgresql://v@other:1/y", Some("two")),
            ("postgresql://u@%2Fvar%2Frun%2Fpostgresql/z", Some("three")),
            ("postgresql://u@/z?host=/tmp", Some("three")),
            ("postgresql://u@%2Felsewhere/z", None),
            ("postgresql://x@h,h:1/y", Some("two")),
        ];
        for (url, wanted) in cases {
            assert_eq!(password(file, url).unwrap().as_deref(), wanted, "{url}");
        }
        assert_eq!(password("*:*:*:*:*", "postgresql://u@h/x").unwrap().as_deref(), Some("*"));
        assert_eq!(password("h:5432:x", "postgresql://u@h/x").unwrap(), None);
    }

    #[test]
    fn hosts_with_different_passwords_are_refused() {
        let error = password("a:*:*:*:secret\n*:*:*:*:hidden", "postgresql://u@a,b/x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(!error.to_string().contains("secret") && !error.to_string().contains("hidden"));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_open_to_others_is_left_aside() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "*:*:*:*:secret").unwrap();
        let set =
            |mode| std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o640);
        assert!(read(file.path()).unwrap_err().contains("chmod 600"));
        set(0o600);
        assert_eq!(read(file.path()).unwrap(), b"*:*:*:*:secret");
        assert!(read(Path::new("/")).unwrap_err().contains("no file"));
    }
}
