//! A view that is painted again and again in the same place: on a terminal it replaces the one before,
//! elsewhere it follows it, with an empty line in between.

use std::io::IsTerminal as _;

use super::output::Output;
use crate::error::Result;

/// To the upper left corner, and clear what is there; what was above before is left alone.
const HOME: &str = "\x1b[H\x1b[J";

pub(super) struct Screen {
    repaints: bool,
    painted: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Screen { repaints: std::io::stdout().is_terminal(), painted: false }
    }

    pub(super) fn paint(&mut self, lines: &[String], output: Output) -> Result<()> {
        let view = lines.join("\n");
        let before = match (self.repaints, std::mem::replace(&mut self.painted, true)) {
            (true, _) => HOME,
            (false, true) => "\n",
            (false, false) => "",
        };
        // In one piece: a screen that is empty for a moment flickers.
        output.line(&format!("{before}{view}"))
    }
}
