//! A pod's output as it comes, in whole lines: what is in flight first, and then no more of the entry that holds it than
//! was not shown already.
//!
//! Prints lines only, so that what is typed beside it is never cut in two by half a line. What was shown and is then
//! committed otherwise, or not at all, is said to be so. Control characters of pods are not passed on.
//!
//! Used by `attach`.

use std::collections::BTreeMap;

use pod::attach::{EntryHead, Watch};
use pod::id::{CallId, PodName};
use pod::protocol::PodState;
use pod::store::{HistoryItem, HistoryRow, OutputKind};

use crate::entry;
use crate::failure::Failure;
use crate::output::{Output, Tone};

/// LIMIT: bytes of a piece that are remembered to be compared with its entry; a longer piece is not shown again.
const SHOWN_BYTES_MAX: usize = 1 << 20;

/// LIMIT: bytes of a line that does not end; what is longer is printed in parts.
const LINE_BYTES_MAX: usize = 4 << 10;

/// What was shown of what is in flight.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    shown: BTreeMap<String, Shown>,
    progress: BTreeMap<CallId, String>,
    state: Option<PodState>,
}

/// Of one kind of output.
#[derive(Debug, Default)]
struct Shown {
    /// Which piece.
    piece: u64,
    /// How far the piece was taken over.
    upto: u64,
    /// What was taken over and is not in an entry yet.
    text: String,
    /// The end of it that is no whole line and was not printed.
    line: String,
    /// Whether something was left out, so that it cannot be compared.
    torn: bool,
}

impl Screen {
    /// Shows what is new of what is in flight.
    pub(crate) fn in_flight(&mut self, watch: &Watch, output: &mut Output) -> Result<(), Failure> {
        let picture = watch.picture();
        for piece in &picture.pieces {
            let shown = self.shown.entry(piece.output.clone()).or_default();
            if shown.piece != piece.number {
                let before = std::mem::take(shown);
                shown.piece = piece.number;
                print(&before.line, &piece.output, output)?;
            }
            let end = piece.left_out.saturating_add(piece.text.len() as u64);
            if shown.upto < piece.left_out {
                let missing = piece.left_out.saturating_sub(shown.upto);
                shown.torn = true;
                shown.upto = piece.left_out;
                output.line(
                    output.paint(Tone::Faint, &format!("-- {missing} bytes are left out; they come with their entry")),
                )?;
            }
            let known = usize::try_from(shown.upto.saturating_sub(piece.left_out)).unwrap_or(usize::MAX);
            let Some(new) = piece.text.get(known..).filter(|new| !new.is_empty()) else { continue };
            output.record(&serde_json::json!({
                "type": "delta", "turn": picture.turn, "output": piece.output, "piece": piece.number, "at": shown.upto,
                "text": new,
            }))?;
            shown.upto = end;
            shown.torn |= shown.text.len().saturating_add(new.len()) > SHOWN_BYTES_MAX;
            if !shown.torn {
                shown.text.push_str(new);
            }
            shown.line.push_str(new);
            if shown.line.len() > LINE_BYTES_MAX {
                let long = std::mem::take(&mut shown.line);
                print(&long, &piece.output, output)?;
            }
            if let Some(at) = shown.line.rfind('\n') {
                let whole: String = shown.line.drain(..=at).collect();
                print(&whole, &piece.output, output)?;
            }
        }
        for call in &picture.calls {
            let Some(progress) = &call.progress else { continue };
            if self.progress.get(&call.call) != Some(progress) {
                self.progress.insert(call.call, progress.clone());
                let words = format!("-- {} (call {}): {}", call.tool, call.call, clean(progress));
                output.line(output.paint(Tone::Faint, &words))?;
                output.record(&serde_json::json!({
                    "type": "progress", "turn": picture.turn, "call": call.call, "tool": call.tool, "text": progress,
                }))?;
            }
        }
        Ok(())
    }

    /// Shows an entry, but for what was shown of it in flight.
    pub(crate) fn entry(&mut self, row: &HistoryRow, output: &mut Output) -> Result<(), Failure> {
        match &row.item {
            HistoryItem::Output { output: kind, text } => return self.output(*kind, text, row, output),
            HistoryItem::Retrying { .. } | HistoryItem::TurnEnded { .. } | HistoryItem::TurnStarted { .. } => {
                self.given_up(output)?;
            }
            HistoryItem::ToolResult { call, .. } => {
                self.progress.remove(call);
            }
            _ => {}
        }
        entry::print(output, row)
    }

    /// An entry was printed by somebody else: what it holds is in flight no more.
    pub(crate) fn passed(&mut self, head: &EntryHead) {
        match head.kind.as_str() {
            "output" => {
                let word = head.output.as_ref().and_then(|word| word.as_str()).unwrap_or_default();
                self.shown.remove(word);
            }
            "retrying" | "turn_started" | "turn_ended" => *self = Self { state: self.state, ..Self::default() },
            _ => {}
        }
    }

    fn output(&mut self, kind: OutputKind, text: &str, row: &HistoryRow, output: &mut Output) -> Result<(), Failure> {
        let word = serde_json::to_value(kind).ok();
        let word = word.as_ref().and_then(|word| word.as_str()).unwrap_or("text");
        let Some(shown) = self.shown.get_mut(word).filter(|shown| !shown.text.is_empty() || shown.torn) else {
            return say(text, word, row, output);
        };
        if !shown.torn && shown.text.starts_with(text) {
            // All of it was shown, but for what is no whole line yet.
            shown.text.drain(..text.len());
            if shown.text.is_empty() {
                let line = std::mem::take(&mut shown.line);
                print(&line, word, output)?;
            }
            return Ok(());
        }
        let before = std::mem::take(shown);
        if !before.torn && text.starts_with(&before.text) {
            let rest = text.get(before.text.len()..).unwrap_or_default();
            return print(&format!("{}{rest}", before.line), word, output);
        }
        print(&before.line, word, output)?;
        output.line(output.paint(Tone::Faint, "-- committed, in place of what was shown:"))?;
        say(text, word, row, output)
    }

    /// What was in flight does not count.
    fn given_up(&mut self, output: &mut Output) -> Result<(), Failure> {
        for (word, before) in std::mem::take(&mut self.shown) {
            print(&before.line, &word, output)?;
            if !before.text.is_empty() || before.torn {
                output
                    .line(output.paint(Tone::Doubtful, "-- what was shown last was given up and is not committed"))?;
            }
        }
        self.progress.clear();
        Ok(())
    }

    /// Says what the pod does, if that is more than its entries say.
    pub(crate) fn state(
        &mut self,
        name: &PodName,
        state: Option<PodState>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let before = std::mem::replace(&mut self.state, state);
        let Some(state) = state.filter(|state| Some(*state) != before) else { return Ok(()) };
        output.record(&serde_json::json!({ "type": "state", "pod": name, "state": state.to_string() }))?;
        if matches!(state, PodState::Paused | PodState::Blocked | PodState::Stopping) {
            output.line(output.paint(Tone::Doubtful, &format!("-- `{name}` is {state}")))?;
        }
        Ok(())
    }

    /// Shows what is no whole line yet, before something else is said.
    pub(crate) fn flush(&mut self, output: &mut Output) -> Result<(), Failure> {
        for (word, shown) in &mut self.shown {
            let line = std::mem::take(&mut shown.line);
            print(&line, word, output)?;
        }
        Ok(())
    }
}

/// Output of which nothing was shown before.
fn say(text: &str, word: &str, row: &HistoryRow, output: &mut Output) -> Result<(), Failure> {
    let head = entry::head(output, row);
    output.line(format!("{head}  {word}"))?;
    print(text, word, output)
}

/// Lines of a pod's text, each marked by its kind.
fn print(text: &str, word: &str, output: &mut Output) -> Result<(), Failure> {
    let (mark, tone) = match word {
        "text" => ("|", Tone::Plain),
        "stderr" => ("!", Tone::Doubtful),
        _ => ("~", Tone::Faint),
    };
    for line in text.lines() {
        output.line(output.paint(tone, &format!("{mark} {}", clean(line))))?;
    }
    Ok(())
}

/// Text without what could steer a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}
