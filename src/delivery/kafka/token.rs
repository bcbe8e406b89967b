//! Tokens for SASL/OAUTHBEARER: what a command of the user's prints. It is run when the first client asks,
//! and again when most of a token's life is over; all clients of one delivery share what it printed.
//! Promises that no token and no other word of the command is ever part of an error or a log line.

use std::ffi::CString;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::config::TOKEN_COMMAND;
use crate::error::{Error, ErrorKind, Result};

const SHELL: &str = "/bin/sh";
/// How long the command may run, and how much it may print.
const RUN_LIMIT: Duration = Duration::from_secs(10);
const OUTPUT_BYTES: u64 = 65_536;
/// A token counts as good for no longer: what librdkafka is told must fit in its clock.
const LIFE_MAX: Duration = Duration::from_secs(365 * 86_400);
/// While the token of before is still good, the command is not run again sooner after it has failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// What a shell ends with where the command can't be run, or is not there.
const NO_COMMAND: [Option<i32>; 2] = [Some(126), Some(127)];

/// One token, as a client takes it.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) value: CString,
    pub(super) expires_at_ms: i64,
    /// When another one is to be asked for.
    pub(super) renew_at: Instant,
}

/// The command, and what it printed last.
pub(super) struct Tokens {
    command: String,
    run_limit: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    failed: Option<(Instant, Failure)>,
}

/// What the command printed, and how it ended.
type Answer = (Vec<u8>, ExitStatus);
/// Why there is no token; never what the command printed.
type Failure = (ErrorKind, String);

impl Tokens {
    pub(super) fn new(command: String) -> Self {
        Tokens { command, run_limit: RUN_LIMIT, state: Mutex::default() }
    }

    /// A token that is good now. Waits for the command where it has to be run.
    pub(super) fn get(&self) -> Result<Token> {
        let asked = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = state.token.as_ref().filter(|token| asked < token.renew_at) {
            return Ok(token.clone());
        }
        // Who waited for somebody else's run shares what came of it.
        if let Some((_, failure)) = state.failed.as_ref().filter(|(at, _)| *at > asked) {
            return Err(error(failure));
        }
        match self.run() {
            Ok(token) => {
                *state = State { token: Some(token.clone()), failed: None };
                Ok(token)
            }
            Err(failure) => {
                let error = error(&failure);
                let is_told = state.failed.replace((Instant::now(), failure)).is_some();
                let Some(token) = state.token.as_mut().filter(|token| now_ms() < token.expires_at_ms) else {
                    return Err(error);
                };
                if !is_told {
                    tracing::warn!(%error, "Kafka's token can't be renewed: the one of before is used");
                }
                token.renew_at = Instant::now() + RETRY_PAUSE;
                Ok(token.clone())
            }
        }
    }

    fn run(&self) -> Result<Token, Failure> {
        let (began, began_ms) = (Instant::now(), now_ms());
        let (pid, answer) = start(&self.command).map_err(|error| {
            (ErrorKind::Configuration, format!("`{TOKEN_COMMAND}` can't be run by {SHELL}: {error}"))
        })?;
        let unreachable = |why: &str| (ErrorKind::Unreachable, format!("`{TOKEN_COMMAND}` {why}"));
        let Ok(answer) = answer.recv_timeout(self.run_limit) else {
            // What it started belongs to its group. An error says that all of it has ended meanwhile.
            let _ = kill_process_group(pid, Signal::KILL);
            let why = format!("took longer than {} s and was ended", self.run_limit.as_secs());
            return Err(unreachable(&why));
        };
        let (printed, status) =
            answer.map_err(|error| unreachable(&format!("could not be read: {error}")))?;
        if printed.len() as u64 > OUTPUT_BYTES {
            return Err(unreachable(&format!("printed more than {OUTPUT_BYTES} bytes")));
        }
        if !status.success() {
            let kind = if NO_COMMAND.contains(&status.code()) {
                ErrorKind::Configuration
            } else {
                ErrorKind::Unreachable
            };
            return Err((kind, format!("`{TOKEN_COMMAND}` failed with {status}: run it by hand to see why")));
        }
        let (value, life) = read(&printed).map_err(unreachable)?;
        let life_ms = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
        Ok(Token {
            value,
            expires_at_ms: began_ms.saturating_add(life_ms),
            renew_at: began + life.mul_f64(0.8),
        })
    }
}

/// Starts the command in a process group of its own. What it printed comes once it has ended.
fn start(command_line: &str) -> io::Result<(Pid, Receiver<io::Result<Answer>>)> {
    let mut command = Command::new(SHELL);
    command.arg("-c").arg(command_line);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).spawn()?;
    let pid = Pid::from_child(&child);
    let (sender, receiver) = channel();
    let wait = move || {
        let mut printed = Vec::new();
        let output =
            child.stdout.take().map(|output| output.take(OUTPUT_BYTES + 1).read_to_end(&mut printed));
        let answer = output.transpose().and_then(|_| child.wait()).map(|status| (printed, status));
        // Nobody listens any more where it took too long.
        let _ = sender.send(answer);
    };
    thread::Builder::new().name("token command".to_string()).spawn(wait)?;
    Ok((pid, receiver))
}

/// What a token endpoint answers (RFC 6749): the token, and for how long it is good.
fn read(printed: &[u8]) -> Result<(CString, Duration), &'static str> {
    let answer: Value = serde_json::from_slice(printed)
        .map_err(|_| "did not print JSON: run it by hand to see what it does")?;
    let token = answer["access_token"].as_str().unwrap_or_default();
    // Of any other character librdkafka would complain with the token in its words.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("printed no `access_token`, or one that is no token");
    }
    let life = &answer["expires_in"];
    // Some write the number as a text.
    let seconds = life.as_u64().or_else(|| life.as_str()?.parse().ok()).filter(|seconds| *seconds > 0);
    let seconds = seconds.ok_or("printed no `expires_in`: for how many seconds the token is good")?;
    let value = CString::new(token).map_err(|_| "printed a token with NUL")?;
    Ok((value, Duration::from_secs(seconds).min(LIFE_MAX)))
}

fn error((kind, why): &Failure) -> Error {
    Error::new(*kind, "get token for Kafka", why)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
