//! What this process has logged: what a person is told whom nobody calls.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use crate::patience::until;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static BEGUN: Once = Once::new();

struct Kept;

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lines().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn lines() -> MutexGuard<'static, Vec<u8>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps warnings and errors from here on; those of other tests are among them.
pub(crate) fn keep() {
    BEGUN.call_once(|| {
        let kept = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN);
        kept.with_writer(|| Kept).init();
    });
}

/// Waits for a line with all of these words in it.
pub(crate) async fn told(words: &[&str]) -> String {
    let find = async || {
        let text = String::from_utf8_lossy(&lines()).into_owned();
        Ok(text.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_string))
    };
    until("a person is told", find, |line| line.is_some()).await.unwrap_or_default()
}
