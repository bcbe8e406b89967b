//! A process that is measured: what the kernel says of its CPU seconds and its memory, and its end.
//! From `/proc`, so that it may be asked while it runs.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::Result;

/// The kernel's unit of CPU time in `/proc`; 100 a second on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A relay's or a poller's process; killed when dropped.
pub(crate) struct Process {
    what: &'static str,
    child: Child,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(what: &'static str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().map_err(|error| format!("the {what} does not start: {error}"))?;
        Ok(Process { what, child })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails where it has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the {} ended by itself: {status}", self.what).into()),
        }
    }

    /// Waits until it has said a line, on an output that is piped.
    pub(crate) fn wait_line(&mut self) -> Result<()> {
        let output = self.child.stdout.take().ok_or("its output is not piped")?;
        let mut said = String::new();
        if BufReader::new(output).read_line(&mut said)? == 0 {
            return Err(format!("the {} ended by itself", self.what).into());
        }
        Ok(())
    }

    /// CPU seconds so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.pid())
    }

    /// The most memory that was ever resident, in megabytes.
    pub(crate) fn peak_rss_mb(&self) -> Result<f64> {
        peak_rss_mb(self.pid())
    }

    /// Stops it as people do; it has to end with code 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.pid().to_string()).status()?;
        let began = Instant::now();
        while began.elapsed() < STOP_LIMIT {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the {} ended with {status}", self.what).into()),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        Err(format!("the {} did not stop", self.what).into())
    }
}

/// The project's own Python, which has what `make .venv/ready` installs, in the project's folder.
pub(crate) fn python() -> Command {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(project.join(".venv/bin/python"));
    command.current_dir(project);
    command
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU seconds, user and system, of all threads so far.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    Ok(ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?, 2)? / TICKS_PER_SECOND)
}

/// CPU seconds of all processes of this name, and of those that they have started and that have ended.
pub(crate) fn cpu_seconds_of_all(name: &str) -> Result<f64> {
    let mut seconds = 0.0;
    for entry in fs::read_dir("/proc")? {
        // One that is no process, or that has ended since.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
        if stat
            .split_once('(')
            .and_then(|(_, rest)| rest.rsplit_once(')'))
            .is_some_and(|(one, _)| one == name)
        {
            seconds += ticks(&stat, 4)? / TICKS_PER_SECOND;
        }
    }
    Ok(seconds)
}

/// The first of: user, system, and both of children that have ended.
fn ticks(stat: &str, fields: usize) -> Result<f64> {
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15.
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
    let ticks: std::result::Result<Vec<f64>, _> =
        rest.split_whitespace().skip(11).take(fields).map(str::parse).collect();
    Ok(ticks?.iter().sum())
}

/// The most memory that was ever resident, in megabytes of 1,000,000 bytes.
pub(crate) fn peak_rss_mb(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no VmHWM")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}
