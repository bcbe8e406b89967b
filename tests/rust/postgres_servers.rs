//! PostgreSQL servers of a test's own, which it stops, promotes and restores: started and steered by the
//! same program that the tests in Python use.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// They end with this.
pub(crate) struct Servers {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Servers {
    pub(crate) fn new() -> Servers {
        let mut command = Command::new("python3");
        command.args(["-m", "tests.e2e.postgres_by_line"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (commands, answers) = (process.stdin.take(), process.stdout.take().unwrap());
        Servers { process, commands, answers: BufReader::new(answers) }
    }

    /// What comes of a command (`tests/e2e/postgres_by_line.py`): of one that starts a server its url.
    pub(crate) fn say(&mut self, command: &str) -> String {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let given = answer.trim_end().strip_prefix("done");
        given.unwrap_or_else(|| panic!("{command}: {answer}")).trim().to_string()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.process.wait();
    }
}
