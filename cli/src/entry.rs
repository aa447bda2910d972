//! One entry of a history as a line for people.
//!
//! Used by `log` and `attach`.

use pod::store::HistoryRow;

use crate::describe::{describe, time, tone};
use crate::failure::Failure;
use crate::output::{Output, Tone};

/// Prints an entry: a line for people, or its JSON.
pub(crate) fn print(output: &mut Output, row: &HistoryRow) -> Result<(), Failure> {
    if output.is_json() {
        return output.record(row);
    }
    let head = head(output, row);
    output.line(format!("{head}  {}", output.paint(tone(&row.item), &describe(&row.item))))
}

/// Its place, its time and its turn.
pub(crate) fn head(output: &Output, row: &HistoryRow) -> String {
    let turn = row.turn.map_or_else(String::new, |turn| format!("turn {turn}"));
    output.paint(Tone::Faint, &format!("{:>5}  {}  {turn:<8}", row.seq, time(row.at)))
}

/// An entry from the line of JSON that the pod sent.
pub(crate) fn parse(line: &str) -> Result<HistoryRow, Failure> {
    serde_json::from_str(line).map_err(|error| {
        Failure::internal("the pod sent an entry that this program cannot read; it may be a newer one").because(error)
    })
}
