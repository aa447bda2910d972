//! What is to be seen while a tree runs: a line for each child, redrawn in place on a terminal; otherwise a line for
//! each thing that happens; in JSON each committed entry.
//!
//! Shows the account of committed history, nothing that a process merely believes. Lines are cut to the terminal, so
//! that none wraps and the next redraw finds the first one again.

use std::time::{SystemTime, UNIX_EPOCH};

use pod::store::{HistoryItem, HistoryRow, SystemItem, Terminal};
use serde::Serialize;

use crate::account::{Account, Life};
use crate::describe::{describe, terminal_line};
use crate::failure::Failure;
use crate::output::{Output, Tone, one_line};

/// LIMIT: children with a line of their own; the screen has few more.
const LINES_MAX: usize = 20;

/// The lines of a tree that runs.
#[derive(Debug)]
pub(crate) struct Live {
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    /// `drawn` lines stand above the cursor and are ours.
    Redraw {
        columns: usize,
        drawn: usize,
    },
    Lines,
    Json,
}

#[derive(Serialize)]
struct Entry<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    row: &'a HistoryRow,
}

impl Live {
    pub(crate) fn new(output: &Output) -> Self {
        let mode = match output.terminal_columns() {
            _ if output.is_json() => Mode::Json,
            Some(columns) => Mode::Redraw { columns, drawn: 0 },
            None => Mode::Lines,
        };
        Self { mode }
    }

    /// Shows an entry that was committed.
    pub(crate) fn entry(&mut self, output: &mut Output, row: &HistoryRow) -> Result<(), Failure> {
        match self.mode {
            Mode::Json => output.record(&Entry { r#type: "entry", row }),
            Mode::Lines if concerns_children(&row.item) => output.line(describe(&row.item)),
            Mode::Lines | Mode::Redraw { .. } => Ok(()),
        }
    }

    /// Shows how all children are, where lines can be redrawn.
    pub(crate) fn redraw(&mut self, output: &mut Output, account: &Account) -> Result<(), Failure> {
        let Mode::Redraw { columns, drawn } = &mut self.mode else { return Ok(()) };
        let mut lines: Vec<String> =
            account.lives.iter().take(LINES_MAX).map(|life| child_line(output, account, life, *columns)).collect();
        if account.lives.len() > LINES_MAX {
            lines.push(format!("and {} more", account.lives.len() - LINES_MAX));
        }
        // Back to the first of our lines; each is cleared before it is written.
        let mut text = if *drawn > 0 { format!("\u{1b}[{drawn}A") } else { String::new() };
        for line in &lines {
            text.push_str("\r\u{1b}[2K");
            text.push_str(line);
            text.push('\n');
        }
        *drawn = lines.len();
        output.raw(&text)
    }
}

/// Name, mark, what it does, since when, and for what; never wider than the terminal.
fn child_line(output: &Output, account: &Account, life: &Life, columns: usize) -> String {
    let work = account.works_of(&life.pod).last();
    let (tone, word) = match (&life.terminal, work) {
        (Some(Terminal::ShutDown), None) => (Tone::Plain, "shut down".to_owned()),
        (Some(Terminal::ShutDown), Some(_)) | (None, _) => match work {
            None if life.ready => (Tone::Plain, "ready".to_owned()),
            None => (Tone::Faint, "starting".to_owned()),
            Some(work) => match (&work.result, &work.end) {
                (None, None) => (Tone::Plain, "at work".to_owned()),
                (None, Some(end)) => (Tone::Plain, end.to_string()),
                (Some(result), end) => {
                    let tone = if result.is_success() { Tone::Good } else { Tone::Bad };
                    (tone, end.as_ref().map_or_else(|| result.to_string(), ToString::to_string))
                }
            },
        },
        (Some(terminal), _) => (Tone::Bad, terminal_line(terminal)),
    };
    let since = work.map_or(life.since, |work| work.since);
    let until = work.and_then(|work| work.settled_at).map_or_else(now_ms, |at| at.0);
    let tenths = until.saturating_sub(since.0) / 100;
    let name = one_line(life.pod.name.as_str(), 16);
    let head = format!("{name:<16}  {:>6}  ", format!("{}.{} s", tenths / 10, tenths % 10));
    let word = one_line(&word, columns.saturating_sub(head.chars().count() + 1));
    // Two spaces before it, and the last column stays free: some terminals wrap when it is written.
    let room = columns.saturating_sub(head.chars().count() + word.chars().count() + 3);
    let input = work.map(|work| one_line(&work.input, room)).unwrap_or_default();
    format!("{head}{}  {}", output.paint(tone, &word), output.paint(Tone::Faint, &input))
}

/// What a person who waits for children wants to see: not the parent's own turns.
fn concerns_children(item: &HistoryItem) -> bool {
    match item {
        HistoryItem::SystemItem(SystemItem::Report { event, .. }) => event.kind() != "work_settled",
        HistoryItem::ChildSpawned { .. }
        | HistoryItem::ChildReady { .. }
        | HistoryItem::ChildTerminal { .. }
        | HistoryItem::WorkDelegated { .. }
        | HistoryItem::WorkSettled { child: Some(_), .. }
        | HistoryItem::Blocked { .. } => true,
        _ => false,
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::tests::{account, delegated, pod_id, report, settled, spawned, terminal, turn_ended};
    use pod::protocol::{LostReason, WorkResult};

    #[test]
    fn line_of_a_child_says_how_it_is_and_never_wraps() {
        let a = pod_id("a-name-that-is-longer-than-its-column", 1);
        let reason = LostReason::Killed { signal: 9 };
        let rows = [
            (spawned(&a), "starting"),
            (delegated(&a, 5), "at work"),
            (report(1, turn_ended(&a, 5)), "turn ended: finished"),
            (settled(&a, 5, WorkResult::Finished), "turn ended: finished"),
            (terminal(&a, Terminal::Lost { reason }), "was lost: killed by signal 9"),
        ];
        for count in 1..=rows.len() {
            let account = account(&rows[..count].iter().map(|(row, _)| row.clone()).collect::<Vec<_>>());
            for columns in 40..90 {
                let line = child_line(&Output::new(true), &account, &account.lives[0], columns);
                let line = line.trim_end();
                assert!(line.chars().count() < columns, "{columns}: {line}");
                assert!(columns < 60 || line.contains(rows[count - 1].1), "{line}");
            }
        }
    }
}
