//! Standard output: lines for people, or one JSON object a line for programs.
//!
//! Colour where `style` says, redrawing only on a terminal, neither in JSON. Text of pods is shown without its control
//! characters: what a child says must not steer the terminal of whoever looks at it.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;
use crate::style;
pub(crate) use crate::style::Tone;

/// Where a command writes.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
    /// The columns of the terminal, if it is one.
    columns: Option<usize>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let columns = || {
            let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
            // A terminal that does not know its width says 0.
            Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
        };
        let terminal = !json && io::stdout().is_terminal();
        Self { json, colour: !json && style::on_stdout(), columns: terminal.then(columns).flatten() }
    }

    /// One for people, on a terminal with so many columns if it is one.
    #[cfg(test)]
    pub(crate) fn on_terminal(columns: Option<usize>) -> Self {
        Self { json: false, colour: false, columns }
    }

    /// Whether this is for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// The columns that lines may have: those of the terminal. A file or a pipe has no bound.
    pub(crate) fn columns(&self) -> Option<usize> {
        self.columns
    }

    /// The columns of the terminal, if lines can be redrawn on it.
    pub(crate) fn terminal_columns(&self) -> Option<usize> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        self.columns.filter(|columns| *columns >= 40 && !dumb)
    }

    /// The rows of the terminal, if lines can be redrawn on it.
    pub(crate) fn terminal_rows(&self) -> Option<usize> {
        self.terminal_columns()?;
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(usize::from(size.ws_row)).filter(|rows| *rows > 2)
    }

    /// One line for people; nothing in JSON.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.raw(&format!("{}\n", text.as_ref())) }
    }

    /// One JSON line for programs; nothing for people.
    pub(crate) fn record(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let line = serde_json::to_string(value)
            .map_err(|error| Failure::internal("a line of JSON cannot be made").because(error))?;
        self.raw(&format!("{line}\n"))
    }

    /// Bytes as they are: whole lines, or what redraws them.
    pub(crate) fn raw(&mut self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::output)
    }

    /// `text` in its tone.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if self.colour { tone.paint(text) } else { text.to_owned() }
    }
}

/// `text` on one line and without control characters, at most `chars` long.
pub(crate) fn one_line(text: &str, chars: usize) -> String {
    let mut line = String::new();
    for (count, c) in text.trim_end().chars().enumerate() {
        if count == chars {
            // The last place says that there is more.
            if line.pop().is_some() {
                line.push('\u{2026}');
            }
            break;
        }
        line.push(if c.is_control() { ' ' } else { c });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_pod_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\r\nc\n", 80), "a [2Jb  c");
    }

    #[test]
    fn text_is_cut_at_its_bound_and_says_so() {
        assert_eq!(one_line("abcdef", 6), "abcdef");
        assert_eq!(one_line("abcdefg", 6), "abcde\u{2026}");
        assert_eq!(one_line("abc", 0), "");
        assert_eq!(one_line("\u{e9}\u{e9}\u{e9}", 2), "\u{e9}\u{2026}");
    }
}
