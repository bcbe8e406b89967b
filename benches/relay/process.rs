//! What the kernel says of a process: CPU seconds used and the most memory ever resident. From
//! `/proc`, so that a process may be asked while it runs.

use std::fs;

use crate::Result;

/// The kernel's unit of CPU time in `/proc`; 100 a second on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds, user and system, of all threads so far.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
    let ticks: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<std::result::Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// The most memory that was ever resident, in megabytes of 1,000,000 bytes.
pub(crate) fn peak_rss_mb(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no VmHWM")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}
