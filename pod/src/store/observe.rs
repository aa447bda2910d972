//! What observers are shown of the history: lines as they are sent, and what of a turn is open at one entry.
//!
//! Reads only. A line is put together from columns as it stands; nothing is parsed on its way.
//!
//! Read by `attach`, by no other; whoever is shown nothing behind an entry asks here how far that goes.

use std::fmt::Write as _;

use crate::id::{CallId, TurnId, WorkId};
use crate::store::error::StoreError;
use crate::store::guard::{ENTRY_AS_WRITTEN, not_as_written};
use crate::store::history::HistoryItem;
use crate::store::sql::{count, from_json, int};
use crate::store::tx::Reads;

/// LIMIT: entries that are passed over in one look: each is a statement.
const HOLE_MAX: usize = 4096;

/// One entry as observers get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HistoryLine {
    pub(crate) seq: u64,
    /// What happened, by its name.
    pub(crate) kind: String,
    /// The same as [`HistoryRow::to_json_line`](crate::store::HistoryRow::to_json_line), with a line feed.
    pub(crate) line: String,
}

impl Reads<'_> {
    /// Entries after `cursor` up to `upto`, oldest first, about `bytes_max` of them: the next one if there is any, however
    /// long it is. It is at the end when it returns none. What stands before an entry that is damaged or missing is returned
    /// first, and that one is an error when it is the next.
    pub(crate) fn history_lines(
        &self,
        cursor: u64,
        upto: u64,
        bytes_max: usize,
    ) -> Result<Vec<HistoryLine>, StoreError> {
        let sql = format!(
            "SELECT seq, at, turn, work, kind, body, {ENTRY_AS_WRITTEN} FROM history
             WHERE seq > ?1 AND seq <= ?2 ORDER BY seq"
        );
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut found = statement.query((int(cursor), int(upto)))?;
        let (mut lines, mut bytes, guarded) = (Vec::new(), 0, self.history_guarded_from()?);
        loop {
            let row = match found.next() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(_) if !lines.is_empty() => break,
                Err(error) => return Err(error.into()),
            };
            let (seq, expected) = (count(row.get(0)?), cursor + 1 + lines.len() as u64);
            let in_order = match seq == expected || expected < guarded {
                true => self.entry_as_written(seq, row.get(6)?),
                false => Err(not_as_written("a history entry", expected)),
            };
            match in_order {
                Err(_) if !lines.is_empty() => break,
                in_order => in_order?,
            }
            let body = row.get_ref(5)?.as_str().map_err(rusqlite::Error::from)?;
            bytes += body.len();
            if bytes > bytes_max && !lines.is_empty() {
                break;
            }
            let at = count(row.get(1)?);
            let mut line = String::with_capacity(body.len() + 128);
            let _ = write!(line, "{{\"seq\":{seq},\"at\":{at}");
            if let Some(turn) = row.get::<_, Option<TurnId>>(2)? {
                let _ = write!(line, ",\"turn\":{turn}");
            }
            if let Some(work) = row.get::<_, Option<WorkId>>(3)? {
                let _ = write!(line, ",\"work\":\"{work}\"");
            }
            // The item is an object with at least its kind, so that something stands behind its brace.
            line.push(',');
            line.push_str(body.strip_prefix('{').unwrap_or(body));
            line.push('\n');
            lines.push(HistoryLine { seq, kind: row.get(4)?, line });
        }
        Ok(lines)
    }

    /// How far behind the entry `cursor` the history is damaged or has entries missing, and what is wrong with the first of them;
    /// none if the next entry can be read, or there is none yet. What stands behind that many entries may be no better: it is
    /// asked for by a look of its own.
    ///
    /// # Errors
    /// If the file cannot be read at all.
    pub fn history_hole(&self, cursor: u64) -> Result<Option<(u64, String)>, StoreError> {
        let (head, mut hole) = (self.history_head()?, None);
        for next in (cursor + 1..=head).take(HOLE_MAX) {
            let wrong = match self.history_lines(next - 1, next, 0) {
                Ok(lines) if !lines.is_empty() => break,
                Ok(_) => not_as_written("a history entry", next),
                Err(error) if error.is_lasting() => error,
                Err(error) => return Err(error),
            };
            let why = hole.map_or_else(|| wrong.chain(), |(_, why)| why);
            hole = Some((next, why));
        }
        Ok(hole)
    }

    /// The output and retry entries and the uses of tools of a turn after `cursor` up to `upto`: what has ended pieces in flight.
    pub(crate) fn piece_ends(
        &self,
        turn: TurnId,
        cursor: u64,
        upto: u64,
    ) -> Result<Vec<(u64, HistoryItem)>, StoreError> {
        let which = "seq > ?1 AND seq <= ?2 AND turn = ?3 AND kind IN ('output', 'retrying', 'tool_call')";
        let rows = self.entries(which, (int(cursor), int(upto), turn))?;
        rows.into_iter().map(|(seq, body)| Ok((seq, from_json("a history entry", &body)?))).collect()
    }

    /// The uses of tools of a turn that have no result, and of which tools.
    pub(crate) fn calls_open(&self, turn: TurnId) -> Result<Vec<(CallId, String)>, StoreError> {
        let open: Vec<CallId> = self.all("SELECT call FROM calls WHERE turn = ?1", [turn], |row| row.get(0))?;
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let which = "kind = 'tool_call' AND turn = ?1
                     AND seq >= (SELECT coalesce(max(history), 0) FROM turns WHERE turn = ?1)";
        let mut calls = Vec::new();
        for (_, body) in self.entries(which, [turn])? {
            if let HistoryItem::ToolCall { call, tool, .. } = from_json("a history entry", &body)?
                && open.contains(&call)
            {
                calls.push((call, tool));
            }
        }
        Ok(calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::TurnResult;
    use crate::store::fixture::{self, pod};
    use crate::store::{OutputKind, TurnOutcome, Usage};

    #[test]
    fn line_is_the_json_of_its_row_byte_for_byte() {
        let store = fixture::memory("a");
        store.with(|tx| {
            let text = "line\nfeed \u{20ac} \"quoted\" \u{1}".to_owned();
            let items = [
                HistoryItem::Output { output: OutputKind::Text, text },
                HistoryItem::Usage(Usage { input_tokens: 3, ..Usage::default() }),
                HistoryItem::TurnEnded { outcome: TurnOutcome::Ended { result: TurnResult::Finished } },
                HistoryItem::Unblocked,
                HistoryItem::LifeStarted { pod: pod("a", 1) },
                HistoryItem::ToolCall {
                    call: CallId(1),
                    tool: "t".into(),
                    arguments: serde_json::json!({"a": [1, {}]}),
                },
            ];
            for (number, item) in items.iter().enumerate() {
                let turn = (number % 2 == 0).then_some(TurnId(5));
                let work = (number % 3 == 0).then_some(WorkId(0xab));
                tx.append(turn, work, item)?;
            }
            let rows = tx.history_after(0, 100)?;
            let lines = tx.history_lines(0, 100, 1 << 20)?;
            assert_eq!((rows.len(), lines.len()), (items.len(), items.len()));
            for (row, line) in rows.iter().zip(&lines) {
                assert_eq!(line.line, format!("{}\n", row.to_json_line()?));
                assert_eq!((line.seq, line.kind.as_str()), (row.seq, row.item.kind()));
            }
            Ok(())
        });
    }

    #[test]
    fn what_stands_before_a_damaged_or_missing_entry_is_returned_and_then_that_one_is_an_error() {
        for spoil in
            ["UPDATE history SET body = replace(body, 'x', 'y') WHERE seq = 3", "DELETE FROM history WHERE seq = 3"]
        {
            let store = fixture::memory("a");
            store.with(|tx| {
                for _ in 0..5 {
                    tx.append(None, None, &HistoryItem::Output { output: OutputKind::Text, text: "x".to_owned() })?;
                }
                tx.run(spoil, [])?;
                let seqs = |cursor| {
                    let lines = tx.history_lines(cursor, 5, 1 << 20)?;
                    Ok::<_, StoreError>(lines.iter().map(|line| line.seq).collect::<Vec<_>>())
                };
                assert_eq!(seqs(0)?, [1, 2], "{spoil}");
                assert!(seqs(2).unwrap_err().to_string().contains("number 3"), "{spoil}");
                assert_eq!(seqs(3)?, [4, 5], "{spoil}");
                let (upto, why) = tx.history_hole(2)?.unwrap();
                assert!(upto == 3 && why.contains("number 3"), "{spoil}: {upto}: {why}");
                for cursor in [0, 1, 3, 5, 9] {
                    assert_eq!(tx.history_hole(cursor)?, None, "{spoil}: {cursor}");
                }
                Ok(())
            });
        }
    }

    #[test]
    fn page_is_bounded_in_bytes_and_never_empty_before_the_end() {
        let store = fixture::memory("a");
        store.with(|tx| {
            for _ in 0..5 {
                tx.append(None, None, &HistoryItem::Output { output: OutputKind::Text, text: "x".repeat(1000) })?;
            }
            let seqs = |cursor, upto, bytes| {
                tx.history_lines(cursor, upto, bytes).map(|l| l.iter().map(|l| l.seq).collect::<Vec<_>>())
            };
            assert_eq!(seqs(0, 9, 10)?, [1]);
            assert_eq!(seqs(1, 9, 2500)?, [2, 3]);
            assert_eq!(seqs(2, 4, 1 << 20)?, [3, 4]);
            assert!(seqs(5, 9, 10)?.is_empty());
            Ok(())
        });
    }
}
