//! Which release the servers run, by their own word: `srvr`, which each answers unless its
//! `4lw.commands.whitelist` leaves it out. Nothing is known of the others.

use std::io::{Read, Write};

use super::connection::ZookeeperSettings;
use super::tls::{ZookeeperTls, reach};

const QUESTION: &[u8] = b"srvr";
const ANSWER: &str = "Zookeeper version: ";
const ANSWER_BYTES: u64 = 4_096;

/// Each server that says so with its version, as in `3.9.4`. Blocks.
pub fn versions(settings: &ZookeeperSettings) -> Vec<(String, String)> {
    let servers = settings.servers.split(',');
    servers.filter_map(|server| Some((server.to_string(), version(server, settings.tls.as_ref())?))).collect()
}

fn version(server: &str, tls: Option<&ZookeeperTls>) -> Option<String> {
    let (host, stream) = reach(server)?;
    let answer = match tls {
        None => ask(stream)?,
        Some(tls) => ask(tls.connector().ok()?.connect(host, stream).ok()?)?,
    };
    let version = answer.lines().find_map(|line| line.strip_prefix(ANSWER))?;
    version.split(['-', ',', ' ']).next().map(str::to_string)
}

fn ask(mut stream: impl Read + Write) -> Option<String> {
    stream.write_all(QUESTION).ok()?;
    let mut answer = Vec::new();
    // A server that is done cuts the connection off, which by TLS is an error.
    let _ = stream.take(ANSWER_BYTES).read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}
