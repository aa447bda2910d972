//! What tools and discovery ask of a store: what was produced, who is below, how a life ended.
//!
//! Reads only.
//!
//! Used by `tools` and `discovery`.

use crate::id::{PodId, PodName};
use crate::protocol::{LifeEnd, LostReason};
use crate::store::children::Terminal;
use crate::store::context::COUNTS;
use crate::store::error::StoreError;
use crate::store::guard::ENTRY_AS_WRITTEN;
use crate::store::history::{HistoryItem, HistoryRow};
use crate::store::sql::{count, from_json, int};
use crate::store::tx::Reads;

/// LIMIT: how much of a history is in memory for one page of output, in bytes of JSON: four of the largest outputs, or many.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// A pod below a child, as the child has told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescendantRow {
    /// Who.
    pub pod: PodId,
    /// Whose child it is.
    pub parent: PodId,
}

/// How a life ended, and what went wrong when its last events were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifeEndRow {
    /// How.
    pub terminal: Terminal,
    /// Why its last events could not be read.
    pub unread: Option<String>,
}

impl From<&Terminal> for LifeEnd {
    fn from(terminal: &Terminal) -> Self {
        match terminal {
            Terminal::ShutDown => Self::ShutDown,
            Terminal::Lost { reason: LostReason::Exited { code } } => Self::Exited { code: *code },
            Terminal::Lost { reason: LostReason::Killed { signal } } => Self::Killed { signal: *signal },
            Terminal::Lost { reason: LostReason::Unobserved } => Self::Unobserved,
            Terminal::NeverStarted { .. } => Self::NeverStarted,
        }
    }
}

impl Reads<'_> {
    /// What was produced, from the entry `from` on: outputs, ends of turns, and what says that some of them no longer count;
    /// each with whether it counts. At most `limit`, and no more than about 1 MiB; at least one, if there is any.
    ///
    /// # Errors
    /// If the file or an entry cannot be read.
    pub fn produced_from(&self, from: u64, limit: u32) -> Result<Vec<(HistoryRow, bool)>, StoreError> {
        let sql = format!(
            "SELECT seq, at, turn, work, body, {COUNTS}, {ENTRY_AS_WRITTEN} FROM history h
             WHERE seq >= ?1 AND kind IN ('output', 'turn_ended', 'rewound') ORDER BY seq LIMIT ?2"
        );
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut found = statement.query((int(from), limit))?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = found.next()? {
            self.entry_as_written(count(row.get(0)?), row.get(6)?)?;
            let body: String = row.get(4)?;
            bytes += body.len();
            if bytes > PAGE_BYTES_MAX && !rows.is_empty() {
                break;
            }
            let item: HistoryItem = from_json("a history entry", &body)?;
            let entry =
                HistoryRow { seq: count(row.get(0)?), at: row.get(1)?, turn: row.get(2)?, work: row.get(3)?, item };
            rows.push((entry, row.get(5)?));
        }
        Ok(rows)
    }

    /// The version of the file's tables.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn schema(&self) -> Result<u32, StoreError> {
        let found = self.number("SELECT user_version FROM pragma_user_version", [])?;
        Ok(u32::try_from(found).unwrap_or(u32::MAX))
    }

    /// The entry with which a turn began; none, if it has not.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn turn_began_at(&self, turn: crate::id::TurnId) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT history FROM turns WHERE turn = ?1 AND history IS NOT NULL";
        Ok(self.one(sql, [turn], |row| row.get::<_, i64>(0))?.map(count))
    }

    /// The pods below the children, as far as the children have told, newest first.
    ///
    /// # Errors
    /// If the file or a row cannot be read.
    pub fn descendants(&self) -> Result<Vec<DescendantRow>, StoreError> {
        let sql = "SELECT name, incarnation, parent_name, parent_incarnation FROM descendants ORDER BY at DESC, name";
        self.all(sql, [], |row| {
            let (pod, parent) = (PodId::new(row.get(0)?, row.get(1)?), PodId::new(row.get(2)?, row.get(3)?));
            Ok(DescendantRow { pod, parent })
        })
    }

    /// Whose child the newest life of `name` below the children is.
    ///
    /// # Errors
    /// If the file or the row cannot be read.
    pub fn descendant(&self, name: &PodName) -> Result<Option<DescendantRow>, StoreError> {
        let sql = "SELECT name, incarnation, parent_name, parent_incarnation FROM descendants
                   WHERE name = ?1 ORDER BY at DESC LIMIT 1";
        self.one(sql, [name], |row| {
            let (pod, parent) = (PodId::new(row.get(0)?, row.get(1)?), PodId::new(row.get(2)?, row.get(3)?));
            Ok(DescendantRow { pod, parent })
        })
    }

    /// How a child's life ended, if it has.
    ///
    /// # Errors
    /// If the file or the entry cannot be read.
    pub fn life_end(&self, pod: &PodId) -> Result<Option<LifeEndRow>, StoreError> {
        let Some(terminal) = self.child(pod)?.and_then(|row| row.terminal) else { return Ok(None) };
        // The newest first: whoever asks does so behind the end.
        let sql = format!(
            "SELECT body, seq, {ENTRY_AS_WRITTEN} FROM history WHERE kind = 'child_terminal' ORDER BY seq DESC"
        );
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            self.entry_as_written(count(row.get(1)?), row.get(2)?)?;
            let body: String = row.get(0)?;
            if let HistoryItem::ChildTerminal { child, unread, .. } = from_json("a history entry", &body)?
                && child == *pod
            {
                return Ok(Some(LifeEndRow { terminal, unread }));
            }
        }
        Ok(Some(LifeEndRow { terminal, unread: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{TurnId, WorkId};
    use crate::protocol::TurnResult;
    use crate::store::fixture::{self, Memory};
    use crate::store::{
        Compaction, EndTurn, NewRun, Origin, OutputKind, Rewind, RewindOutcome, StartCause, TurnOutcome, TurnStart,
    };

    fn turn(store: &Memory, number: u64) -> TurnId {
        store.with(|tx| {
            tx.stage_run(&NewRun { work: WorkId(number), origin: Origin::Host, input: "x".into() })?;
            let TurnStart::Started(turn) = tx.start_turn(StartCause::Wake)? else { panic!("no turn") };
            let said = HistoryItem::Output { output: OutputKind::Text, text: format!("said {number}") };
            tx.append_in(turn.turn, None, &said)?;
            let outcome = TurnOutcome::Ended { result: TurnResult::Finished };
            tx.end_turn(&EndTurn { turn: turn.turn, outcome, compaction: None })?;
            Ok(turn.turn)
        })
    }

    /// Kinds, and whether they count.
    fn produced(store: &Memory, from: u64) -> Vec<(u64, &'static str, bool)> {
        let rows = store.with(|tx| tx.produced_from(from, 100));
        rows.into_iter().map(|(row, counts)| (row.seq, row.item.kind(), counts)).collect()
    }

    #[test]
    fn cursor_in_what_was_produced_survives_a_compaction_and_a_rewind_and_what_was_rewound_is_said() {
        let store = fixture::memory("a");
        let first = turn(&store, 1);
        let read = produced(&store, 0);
        assert_eq!(read.iter().map(|row| (row.1, row.2)).collect::<Vec<_>>(), [("output", true), ("turn_ended", true)]);
        let cursor = read.last().unwrap().0 + 1;
        let second = turn(&store, 2);
        store.with(|tx| tx.compact(second, &Compaction { summary: "s".into(), upto: None }));
        let more = produced(&store, cursor);
        assert_eq!(
            more.iter().map(|row| row.1).collect::<Vec<_>>(),
            ["output", "turn_ended"],
            "nothing twice, nothing missed"
        );
        let behind = more.last().unwrap().0 + 1;
        store.with(|tx| {
            let expected_head = tx.context_head()?;
            let outcome = tx.rewind(&Rewind { target: second, expected_head, by: Origin::Host })?;
            assert!(matches!(outcome, RewindOutcome::Done(_)), "{outcome:?}");
            Ok(())
        });
        // Whoever had read on learns that what it has read no longer counts, and since where.
        let news = produced(&store, behind);
        assert_eq!(news.iter().map(|row| row.1).collect::<Vec<_>>(), ["rewound"]);
        let began = store.with(|tx| tx.turn_began_at(second)).unwrap();
        let all = produced(&store, 0);
        assert!(all.iter().all(|(seq, kind, counts)| *kind == "rewound" || *counts == (*seq < began)), "{all:?}");
        assert!(store.with(|tx| tx.turn_began_at(first)).unwrap() < began);
        assert_eq!(store.with(|tx| tx.turn_began_at(TurnId(99))), None);
    }
}
