//! What observers are shown of the history: lines as they are sent, and what of a turn is open at one entry.
//!
//! Reads only. A line is put together from columns as it stands; nothing is parsed on its way.
//!
//! Read by `attach`, by no other.

use std::fmt::Write as _;

use crate::id::{CallId, TurnId, WorkId};
use crate::store::error::StoreError;
use crate::store::guard::{ENTRY_AS_WRITTEN, not_as_written};
use crate::store::history::HistoryItem;
use crate::store::sql::{count, from_json, int};
use crate::store::tx::Reads;

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
    /// long it is. It is at the end when it returns none.
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
        while let Some(row) = found.next()? {
            self.entry_as_written(count(row.get(0)?), row.get(6)?)?;
            let body = row.get_ref(5)?.as_str().map_err(rusqlite::Error::from)?;
            bytes += body.len();
            if bytes > bytes_max && !lines.is_empty() {
                break;
            }
            let (seq, at, expected) = (count(row.get(0)?), count(row.get(1)?), cursor + 1 + lines.len() as u64);
            if seq != expected && expected >= guarded {
                return Err(not_as_written("a history entry", expected));
            }
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
