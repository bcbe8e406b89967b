//! Named places at which a test can stop the process dead, let an operation fail, or hold it.
//! Without the feature `failpoints` nothing of it is compiled; the released wheel lacks it.
//!
//! `ONECOMMIT_FAILPOINTS="relay.committed=kill@3"` kills the process (SIGKILL, so that nothing is
//! flushed or unwound) at the third hit of that place; `=stop@N` pauses it (SIGSTOP) and
//! `=error@N` lets the operation fail. Every hit that acts first writes
//! `failpoint NAME hit` to the file named by `ONECOMMIT_FAILPOINTS_LOG`: the proof that it hit.

/// Names a place; see the module. Yields `Result<()>`.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {{
        #[cfg(feature = "failpoints")]
        let reached = $crate::failpoint::reach($name);
        #[cfg(not(feature = "failpoints"))]
        let reached: $crate::Result<()> = Ok(());
        reached
    }};
}

#[cfg(feature = "failpoints")]
pub use armed::reach;

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::HashMap;
    use std::io::Write;
    use std::process::Command;
    use std::sync::{Mutex, OnceLock};

    use crate::error::{Error, ErrorKind, Result};

    struct Point {
        action: String,
        hits_left: u32,
    }

    static POINTS: OnceLock<Mutex<HashMap<String, Point>>> = OnceLock::new();

    fn parse() -> Mutex<HashMap<String, Point>> {
        let text = std::env::var("ONECOMMIT_FAILPOINTS").unwrap_or_default();
        let mut points = HashMap::new();
        for entry in text.split(';').filter(|entry| !entry.is_empty()) {
            let (name, action) = entry.split_once('=').expect("failpoints: NAME=ACTION[@N]");
            let (action, nth) = action.split_once('@').unwrap_or((action, "1"));
            let hits_left = nth.parse().expect("failpoints: a number behind @");
            points.insert(name.to_string(), Point { action: action.to_string(), hits_left });
        }
        Mutex::new(points)
    }

    /// Acts where the environment asks for it.
    pub fn reach(name: &'static str) -> Result<()> {
        let mut points = POINTS.get_or_init(parse).lock().expect("failpoints never panic");
        let Some(point) = points.get_mut(name) else { return Ok(()) };
        point.hits_left = point.hits_left.saturating_sub(1);
        if point.hits_left > 0 {
            return Ok(());
        }
        let action = points.remove(name).expect("just seen").action;
        drop(points);
        if let Ok(path) = std::env::var("ONECOMMIT_FAILPOINTS_LOG") {
            let mut log = std::fs::OpenOptions::new().create(true).append(true).open(path);
            // In one piece: whoever waits for the line never reads half of it.
            let line = format!("failpoint {name} hit\n");
            let written = log.as_mut().map(|file| file.write_all(line.as_bytes()));
            written.expect("failpoints: log").expect("failpoints: log");
        }
        let signal = |flag: &str| {
            let pid = std::process::id().to_string();
            Command::new("kill").args([flag, &pid]).status().expect("failpoints: kill");
        };
        match action.as_str() {
            "kill" => signal("-KILL"),
            "stop" => signal("-STOP"),
            "error" => {
                return Err(
                    Error::new(ErrorKind::Failed, "failpoint", "made to fail").with("failpoint", name)
                );
            }
            other => panic!("failpoints: unknown action {other}"),
        }
        Ok(())
    }
}
