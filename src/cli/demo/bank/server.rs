//! The PostgreSQL server that the bank is on: one that a person names, or a cluster of the demo's own,
//! made with the server programs of this machine. A server that merely runs here is left alone: nobody
//! has said that it is for this.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::runtime::Runtime;

use crate::cli::demo::folder::Folder;
use crate::cli::demo::process;
use crate::config::PostgresUrl;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::connect::connect;

const OPERATION: &str = "demo bank";
/// How long a fresh server may take to answer.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take to end; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// Where packages put the server programs, as a folder and what follows the version's name in it.
const PLACES: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr", "bin"),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/opt", "bin"),
];
const PROGRAMS: [&str; 2] = ["initdb", "postgres"];
/// The account that packages make for the server, which refuses to run as root.
const ACCOUNT: &str = "postgres";

/// A server, by the URL of one of its databases. One of the demo's own ends with this value.
pub(super) struct Server {
    url: String,
    /// What it is, for people.
    shown: String,
    /// Whether what is made there has to be removed.
    pub(super) is_given: bool,
    _own: Option<Cluster>,
}

impl Server {
    /// The one at `given`, or one of the demo's own.
    pub(super) fn find(runtime: &Runtime, given: Option<&str>) -> Result<Self> {
        if let Some(url) = given {
            let shown = url.parse::<PostgresUrl>()?.to_string();
            return Ok(Server { url: url.to_string(), shown, is_given: true, _own: None });
        }
        let programs = find_programs(&candidates()).ok_or_else(missing)?;
        let (cluster, url) = Cluster::start(runtime, &programs)?;
        let shown = format!("a PostgreSQL server of the demo's own ({})", programs.display());
        Ok(Server { url, shown, is_given: false, _own: Some(cluster) })
    }

    /// The URL of a database of the server; None for the one that was given.
    pub(super) fn url_of(&self, database: Option<&str>) -> String {
        database.map_or_else(|| self.url.clone(), |name| with_database(&self.url, name))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The URL with another database.
fn with_database(url: &str, database: &str) -> String {
    let (address, query) = url.split_once('?').map_or((url, None), |(url, query)| (url, Some(query)));
    let start = address.find("://").map_or(0, |at| at + 3);
    let end = address[start..].find('/').map_or(address.len(), |at| start + at);
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    format!("{}/{database}{query}", &address[..end])
}

fn missing() -> Error {
    let why = "there is no PostgreSQL to show it on: no server programs (initdb and postgres) in PATH, nor where packages \
               put them. Install them (`apt install postgresql`, `dnf install postgresql-server`, `brew install \
               postgresql`): the demo makes a server of its own in a temporary folder. Or name a server with \
               --postgres postgresql://USER@HOST/postgres: one with max_prepared_transactions above 0, on which this \
               user may create databases";
    Error::new(ErrorKind::Configuration, OPERATION, why)
}

/// Folders in which the programs may be, the likeliest first.
fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::env::var_os("PATH").iter().flat_map(|path| std::env::split_paths(path)).collect();
    for (folder, below) in PLACES {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let mut versions: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        // The newest first: 17, 16, …, 9.6.
        versions.sort_by_key(|path| std::cmp::Reverse(version(path)));
        found
            .extend(versions.into_iter().filter(|path| version(path).is_some()).map(|path| path.join(below)));
    }
    found.push(PathBuf::from("/usr/local/pgsql/bin"));
    found
}

/// The version in a folder's name: `17`, `pgsql-17`, `postgresql@17`.
fn version(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let number = name.strip_prefix("pgsql-").or_else(|| name.strip_prefix("postgresql@")).unwrap_or(name);
    number.parse().ok()
}

fn find_programs(folders: &[PathBuf]) -> Option<PathBuf> {
    let has_all = |folder: &&PathBuf| PROGRAMS.iter().all(|program| folder.join(program).is_file());
    folders.iter().find(has_all).cloned()
}

/// A server of the demo's own, which only this user reaches: by a socket in a folder of its own.
struct Cluster {
    server: Child,
    // Goes behind the server.
    _folder: Folder,
}

impl Cluster {
    fn start(runtime: &Runtime, programs: &Path) -> Result<(Self, String)> {
        let folder = Folder::make()?;
        let account = account()?;
        if let Some((user, group)) = account {
            chown(folder.path(), Some(user), Some(group)).map_err(failed)?;
        }
        let (data, log) = (folder.path().join("data"), folder.path().join("postgres.log"));
        let run = |program: &str| -> Result<Command> {
            let mut command = Command::new(programs.join(program));
            if let Some((user, group)) = account {
                command.uid(user).gid(group);
            }
            let log = File::options().create(true).append(true).open(&log).map_err(failed)?;
            // Ctrl-C is for the demo, which ends the server in order.
            command.current_dir(folder.path()).process_group(0).env("LC_ALL", "C");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            Ok(command)
        };
        let mut initdb = run("initdb")?;
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]);
        let is_made = initdb.status().map_err(failed)?.success();
        if !is_made {
            return Err(refused("initdb has failed", &log));
        }
        let mut postgres = run("postgres")?;
        postgres.arg("-D").arg(&data).args(["-c", "max_prepared_transactions=50", "-c", "listen_addresses="]);
        postgres.arg("-c").arg(format!("unix_socket_directories={}", folder.path().display()));
        let socket = folder.path().display().to_string().replace('/', "%2F");
        let url = format!("postgresql://postgres@{socket}/postgres");
        let mut cluster = Cluster { server: postgres.spawn().map_err(failed)?, _folder: folder };
        cluster.wait(runtime, &url.parse()?, &log)?;
        Ok((cluster, url))
    }

    fn wait(&mut self, runtime: &Runtime, url: &PostgresUrl, log: &Path) -> Result<()> {
        let began = Instant::now();
        while runtime.block_on(connect(url, OPERATION, REQUEST_LIMIT)).is_err() {
            process::check(&mut self.server, "server", log)?;
            if began.elapsed() > START_LIMIT {
                return Err(refused("the server does not answer", log));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Killed it would leave its shared memory behind.
        let _ = kill_process(Pid::from_child(&self.server), Signal::INT);
        let began = Instant::now();
        while began.elapsed() < STOP_LIMIT {
            if !matches!(self.server.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = process::kill(&mut self.server);
    }
}

/// The user and group to run the server as; None for this process's own.
fn account() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd").map_err(failed)?;
    account_in(&accounts).map(Some).ok_or_else(|| {
        let why = format!(
            "PostgreSQL refuses to run as root, and there is no user {ACCOUNT} to run it as: run the demo as another \
             user, or name a server with --postgres URL"
        );
        Error::new(ErrorKind::Configuration, OPERATION, why)
    })
}

fn account_in(accounts: &str) -> Option<(u32, u32)> {
    let mut fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.first() == Some(&ACCOUNT))?;
    Some((found.get(2)?.parse().ok()?, found.get(3)?.parse().ok()?))
}

fn refused(why: &str, log: &Path) -> Error {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let why = format!("{why}: name a server of your own with --postgres URL");
    Error::new(ErrorKind::Failed, OPERATION, why).with(process::LOG, said)
}

fn failed(error: std::io::Error) -> Error {
    let why = "a server of the demo's own could not be started: name one with --postgres URL";
    Error::new(ErrorKind::Failed, OPERATION, why).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_of_the_same_server() {
        for (given, wanted) in [
            ("postgresql://app@db/postgres", "postgresql://app@db/demo"),
            ("postgresql://app:pass@db:5433", "postgresql://app:pass@db:5433/demo"),
            ("postgres://db/x?sslmode=require", "postgres://db/demo?sslmode=require"),
            ("postgresql://db?sslmode=require", "postgresql://db/demo?sslmode=require"),
        ] {
            assert_eq!(with_database(given, "demo"), wanted);
        }
    }

    #[test]
    fn the_programs_are_found_where_both_are() {
        let folder = tempfile::tempdir().unwrap();
        let [empty, half, whole] = ["empty", "half", "whole"].map(|name| folder.path().join(name));
        for path in [&empty, &half, &whole] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::write(half.join("initdb"), "").unwrap();
        for program in PROGRAMS {
            std::fs::write(whole.join(program), "").unwrap();
        }
        assert_eq!(find_programs(&[empty.clone(), half.clone(), whole.clone()]), Some(whole));
        assert_eq!(find_programs(&[empty, half]), None);
        assert!(missing().to_string().contains("--postgres"));
    }

    #[test]
    fn versions_and_accounts_are_read() {
        let versions =
            ["17", "pgsql-16", "postgresql@15", "9.6", "share"].map(|name| version(Path::new(name)));
        assert_eq!(versions, [Some(17), Some(16), Some(15), None, None]);
        assert_eq!(
            account_in("root:x:0:0::/root:/bin/sh\npostgres:x:101:104::/:/bin/sh\n"),
            Some((101, 104))
        );
        assert_eq!(account_in("root:x:0:0::/root:/bin/sh\n"), None);
    }
}
