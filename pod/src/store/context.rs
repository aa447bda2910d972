//! What of the history the agent still knows: its context.
//!
//! The history only grows. A rewind, a turn that was rolled back, and a compaction each add an entry and say which earlier
//! ones no longer count; nothing is removed, and a rewind behind a compaction brings back what that had shortened.
//! Reports and notes that leave the context are to be told again in the same transaction; a compaction leaves what the
//! agent has not seen.
//!
//! Called by `turns` and `controller`; read by workers that make their request from what is committed.

use rusqlite::params;

use crate::id::{CallId, PodId, TurnId, WorkId};
use crate::protocol::WorkResult;
use crate::store::children::{ChildRow, Lifetime};
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::guard::ENTRY_AS_WRITTEN;
use crate::store::history::{HistoryItem, HistoryRow, Origin, ToolEnd, TurnCause};
use crate::store::sql::{count, from_json, int};
use crate::store::tx::{Reads, Tx};

/// LIMIT: a summary, in bytes: as long as the longest input, and as JSON it still fits a history entry.
pub const SUMMARY_BYTES_MAX: usize = crate::protocol::RUN_INPUT_BYTES_MAX;
/// LIMIT: children that a compaction names; with the longest names they take 40 KiB.
const CHILDREN_NAMED: usize = 256;
/// Whether the entry `h.seq` counts. Ranges do not overlap, so that the last one that begins before it tells.
pub(crate) const COUNTS: &str =
    "coalesce((SELECT last FROM left_out WHERE first <= h.seq ORDER BY first DESC LIMIT 1), 0) < h.seq";

/// A shorter context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// What the entries that it stands for come to; 1 byte to 128 KiB.
    pub summary: String,
    /// The last entry that it stands for; none for all that there are.
    pub upto: Option<u64>,
}

/// What stands for the oldest part of the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Where it stands in history.
    pub seq: u64,
    /// The last entry that it stands for.
    pub upto: u64,
    /// What they come to.
    pub text: String,
    /// The children that lived when it was made, as far as they fit.
    pub children: Vec<PodId>,
}

/// What there is to go back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewindTargets {
    /// The newest entry of the context: what a rewind expects it to be.
    pub head: u64,
    /// The newest first.
    pub targets: Vec<RewindTarget>,
    /// Whether there are older ones.
    pub more: bool,
}

/// The beginning of a turn: the context can end before it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewindTarget {
    /// Which turn.
    pub turn: TurnId,
    /// The entry with which it began.
    pub seq: u64,
    /// When.
    pub at: UnixMillis,
    /// Why.
    pub cause: TurnCause,
    /// What its user wanted, if a run started it.
    pub input: Option<String>,
    /// Reports and notes that would be told again.
    pub reports: u64,
    /// Children that live and were started since.
    pub children: Vec<PodId>,
}

/// A wish to go back.
#[derive(Clone, Debug)]
pub struct Rewind {
    /// The first turn that is not to count.
    pub target: TurnId,
    /// The newest entry of the context, as whoever asks has seen it.
    pub expected_head: u64,
    /// Who asks.
    pub by: Origin,
}

/// What became of it. Anything but `Done` has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewindOutcome {
    /// The context ends before the target again.
    Done(Rewound),
    /// Something was added since whoever asks has looked.
    HeadMoved {
        /// The newest entry of the context.
        head: u64,
    },
    /// The target is none, and why.
    NotEligible(String),
    /// These live and were started in the part that would no longer count.
    ChildrenLive(Vec<PodId>),
}

/// A rewind that is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// The first turn that does not count.
    pub target: TurnId,
    /// The entry with which it had begun.
    pub to: u64,
    /// The entry that says so: the newest of the context now.
    pub head: u64,
    /// Turns that no longer count.
    pub turns: u64,
    /// What the user of the target wanted, to be changed and said again.
    pub input: Option<String>,
    /// Reports and notes that are told again.
    pub returned: u64,
    /// The works that it settled: those of a paused turn.
    pub settled: Vec<(WorkId, WorkResult)>,
}

impl Reads<'_> {
    /// The newest entry that belongs to the agent's context or changes it; 0 if there is none.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn context_head(&self) -> Result<u64, StoreError> {
        let sql = "SELECT seq FROM history WHERE turn IS NOT NULL OR kind = 'rewound' ORDER BY seq DESC LIMIT 1";
        Ok(self.one(sql, [], |row| row.get::<_, i64>(0))?.map_or(0, count))
    }

    /// What stands for the oldest part of the context, if it was made shorter.
    ///
    /// # Errors
    /// If the file or the entry cannot be read.
    pub fn context_summary(&self) -> Result<Option<Summary>, StoreError> {
        let sql = format!(
            "SELECT c.seq, h.body, {ENTRY_AS_WRITTEN} FROM compactions c JOIN history h ON h.seq = c.seq
             ORDER BY c.seq DESC LIMIT 1"
        );
        let found = self.one(&sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get(2)?)))?;
        let Some((seq, body, alike)) = found else { return Ok(None) };
        self.entry_as_written(count(seq), alike)?;
        match from_json("a history entry", &body)? {
            HistoryItem::Compacted { upto, summary, children, .. } => {
                Ok(Some(Summary { seq: count(seq), upto, text: summary, children }))
            }
            other => Err(StoreError::Contradiction(format!("entry {seq} is no compaction but a {}", other.kind()))),
        }
    }

    /// Up to `limit` entries of the context after `cursor`, oldest first, and no more than about 4 MiB of them: what was
    /// said, done and told in turns that count, behind what the summary stands for. It ends where this returns none.
    ///
    /// # Errors
    /// If the file or an entry cannot be read.
    pub fn context_after(&self, cursor: u64, limit: u32) -> Result<Vec<HistoryRow>, StoreError> {
        let upto =
            self.one("SELECT upto FROM compactions ORDER BY seq DESC LIMIT 1", [], |row| row.get::<_, i64>(0))?;
        let from = cursor.max(upto.map_or(0, count));
        let sql = format!(
            "SELECT seq, at, turn, work, body, kind, {ENTRY_AS_WRITTEN} FROM history h
             WHERE seq > ?1 AND turn IS NOT NULL AND kind <> 'compacted' AND {COUNTS} ORDER BY seq LIMIT ?2"
        );
        self.page(&sql, (int(from), limit))
    }

    /// What there is to go back to: the beginnings of turns that count, of no resumed turn and not of the running one.
    ///
    /// # Errors
    /// If the file or an entry cannot be read.
    pub fn rewind_targets(&self, limit: u32) -> Result<RewindTargets, StoreError> {
        let sql = format!(
            "SELECT h.turn, h.history, h.started_at, h.cause FROM
                 (SELECT turn, history, history AS seq, started_at, cause, state FROM turns) h
             WHERE h.history IS NOT NULL AND h.state <> 'running' AND h.cause IN ('run', 'reports') AND {COUNTS}
                 AND h.history > ?2
             ORDER BY h.history DESC LIMIT ?1"
        );
        let mut found = self.all(&sql, [int(u64::from(limit) + 1), int(self.told_apart_from()?)], |row| {
            Ok((row.get::<_, TurnId>(0)?, row.get::<_, i64>(1)?, row.get::<_, UnixMillis>(2)?, row.get(3)?))
        })?;
        let more = found.len() > usize::try_from(limit).unwrap_or(usize::MAX);
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let oldest = found.last().map_or(0, |(_, seq, ..)| count(*seq));
        let (children, told) = (self.live_children_since(oldest)?, self.told_since(oldest)?);
        let mut targets = Vec::with_capacity(found.len());
        for (turn, seq, at, cause) in found {
            let seq = count(seq);
            targets.push(RewindTarget {
                turn,
                seq,
                at,
                cause,
                input: self.input_at(seq)?,
                reports: told.iter().filter(|place| **place >= seq).count() as u64,
                children: children.iter().filter(|(place, _)| *place >= seq).map(|(_, pod)| pod.clone()).collect(),
            });
        }
        Ok(RewindTargets { head: self.context_head()?, targets, more })
    }

    /// What the user wanted of the turn that began with the entry `seq`.
    fn input_at(&self, seq: u64) -> Result<Option<String>, StoreError> {
        let sql = format!("SELECT body, {ENTRY_AS_WRITTEN} FROM history WHERE seq = ?1 AND kind = 'user_input'");
        let seq = seq.saturating_add(1);
        let found = self.one(&sql, [int(seq)], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
        let Some((body, alike)) = found else { return Ok(None) };
        self.entry_as_written(seq, alike)?;
        match from_json("a history entry", &body)? {
            HistoryItem::UserInput { text, .. } => Ok(Some(text)),
            _ => Ok(None),
        }
    }

    /// The children that live and whose lives began behind the entry `seq`, each with the entry that says so.
    fn live_children_since(&self, seq: u64) -> Result<Vec<(u64, PodId)>, StoreError> {
        let live = self.live_children()?;
        if live.is_empty() {
            return Ok(Vec::new());
        }
        let spawned = self.entries("seq > ?1 AND kind = 'child_spawned'", [int(seq)])?;
        let mut children = Vec::new();
        for (seq, body) in spawned {
            if let HistoryItem::ChildSpawned { child, .. } = from_json("a history entry", &body)?
                && live.iter().any(|row| row.pod == child)
            {
                children.push((seq, child));
            }
        }
        Ok(children)
    }

    /// Where what the agent has seen in turns since the entry `seq` was told: the latest turn of each counts.
    fn told_since(&self, seq: u64) -> Result<Vec<u64>, StoreError> {
        let sql = "SELECT max(coalesce(i.history, 0), t.history) FROM inbox i JOIN turns t ON t.turn = i.turn
                   WHERE i.state = 'seen' AND max(coalesce(i.history, 0), t.history) >= ?1";
        Ok(self.all(sql, [int(seq)], |row| row.get::<_, i64>(0))?.into_iter().map(count).collect())
    }
}

impl Tx<'_> {
    /// Lets the context end before the turn `target` again. What is paused is given up; what the agent was told since is
    /// told again.
    ///
    /// # Errors
    /// `Contradiction` if a turn runs; else if it cannot be written.
    pub fn rewind(&self, rewind: &Rewind) -> Result<RewindOutcome, StoreError> {
        self.go_back(rewind, |_| true)
    }

    /// The same, and children that go on without this pod anyway, because they were started so, stand in no way: the agent
    /// no longer knows them.
    ///
    /// # Errors
    /// As for [`rewind`](Self::rewind).
    pub fn rewind_detaching(&self, rewind: &Rewind) -> Result<RewindOutcome, StoreError> {
        self.go_back(rewind, |child| child.lifetime == Lifetime::Tied)
    }

    fn go_back(&self, rewind: &Rewind, in_the_way: impl Fn(&ChildRow) -> bool) -> Result<RewindOutcome, StoreError> {
        if let Some(turn) = self.turn_in("running")? {
            return Err(StoreError::Contradiction(format!("turn {turn} is running")));
        }
        let head = self.context_head()?;
        if head != rewind.expected_head {
            return Ok(RewindOutcome::HeadMoved { head });
        }
        let to = match self.eligible(rewind.target)? {
            Ok(to) => to,
            Err(reason) => return Ok(RewindOutcome::NotEligible(reason)),
        };
        let mut children = Vec::new();
        for (_, pod) in self.live_children_since(to)? {
            if self.child(&pod)?.is_some_and(|row| in_the_way(&row)) {
                children.push(pod);
            }
        }
        if !children.is_empty() {
            return Ok(RewindOutcome::ChildrenLive(children));
        }
        // What has ended already does not come back behind it.
        self.forego_restarts_since(to)?;
        let (input, target) = (self.input_at(to)?, rewind.target);
        let sql = format!(
            "SELECT count(*) FROM (SELECT history AS seq, cause FROM turns) h
             WHERE h.seq >= ?1 AND h.cause <> 'compact' AND {COUNTS}"
        );
        let turns = self.number(&sql, [int(to)])?;
        // Before the paused turn ends: no work is settled while a report of it is to be told again.
        let returned = self.return_told(to)?;
        let mut settled = self.abandon_paused(None)?;
        let head = self.leave_out(to, &HistoryItem::Rewound { to, target, by: Some(rewind.by.clone()), returned })?;
        // What was told for a work whose run does not count any more is told again for its own sake: nobody finishes it.
        self.run(
            "DELETE FROM inbox_works WHERE work IN
                 (SELECT w.work FROM works w JOIN turns t ON t.turn = w.turn
                  WHERE w.direction = 'received' AND w.state = 'open' AND t.history >= ?1)",
            [int(to)],
        )?;
        settled.extend(self.settle_works()?);
        Ok(RewindOutcome::Done(Rewound { target, to, head, turns, input, returned, settled }))
    }

    /// The entry with which `turn` began, or why nobody can go back to it.
    fn eligible(&self, turn: TurnId) -> Result<Result<u64, String>, StoreError> {
        let sql = format!(
            "SELECT h.seq, h.cause, {COUNTS} FROM (SELECT turn, history AS seq, cause FROM turns) h WHERE h.turn = ?1"
        );
        let found = self.one(&sql, [turn], |row| {
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<TurnCause>>(1)?, row.get::<_, bool>(2)?))
        })?;
        Ok(match found {
            None => Err(format!("there was no turn {turn}")),
            Some((Some(seq), ..)) if count(seq) <= self.told_apart_from()? => {
                Err(format!("turn {turn} is too long ago: what was told since could not be told again"))
            }
            Some((Some(seq), Some(TurnCause::Run | TurnCause::Reports), true)) => Ok(count(seq)),
            Some((_, Some(TurnCause::Compact), _)) => Err(format!("turn {turn} made the context shorter")),
            Some((_, Some(TurnCause::Resume), _)) => Err(format!("turn {turn} went on with an earlier one")),
            Some(_) => Err(format!("turn {turn} does not count any more")),
        })
    }

    /// What the agent has seen in turns since the entry `to`, or what stands there, waits to be told again.
    fn return_told(&self, to: u64) -> Result<u64, StoreError> {
        let sql = "SELECT id FROM inbox WHERE state <> 'unseen' AND turn IS NOT NULL
                   AND (history >= ?1 OR turn IN (SELECT turn FROM turns WHERE history >= ?1))";
        let ids = self.all(sql, [int(to)], |row| row.get::<_, i64>(0))?;
        for id in &ids {
            // After a pause, as for a rollback: whoever goes back may want to say something else first.
            let sql = "UPDATE inbox SET state = 'unseen', turn = NULL, not_before = ?2 WHERE id = ?1";
            self.run(sql, (id, self.now().plus(self.limits().pause_first_ms)))?;
            // What is settled stays so: it is told again for its own sake.
            let sql = "DELETE FROM inbox_works WHERE inbox = ?1
                       AND work IN (SELECT work FROM works WHERE state = 'settled')";
            self.run(sql, [id])?;
        }
        // What stands in the part that no longer counts is written again when it is told again.
        self.run("UPDATE inbox SET history = NULL WHERE state = 'unseen' AND history >= ?1", [int(to)])?;
        Ok(ids.len() as u64)
    }

    /// The turn has undone itself: it is no part of the context.
    pub(crate) fn roll_back(&self, turn: TurnId, returned: u64) -> Result<(), StoreError> {
        if let Some(to) = self.began_at(turn)? {
            self.leave_out(to, &HistoryItem::Rewound { to, target: turn, by: None, returned })?;
        }
        Ok(())
    }

    /// A turn that makes the context shorter is no part of it, however it ended; unless it came to its end as it was
    /// `meant`, neither are the summaries that it had made on its way. Whether this was one.
    pub(crate) fn leave_compaction_out(&self, turn: TurnId, last: u64, meant: bool) -> Result<bool, StoreError> {
        let sql = "INSERT INTO left_out (first, last)
                   SELECT history, ?2 FROM turns WHERE turn = ?1 AND cause = 'compact' AND history IS NOT NULL";
        let compacting = self.run(sql, (turn, int(last)))? > 0;
        if let (true, false, Some(first)) = (compacting, meant, self.began_at(turn)?) {
            self.run("DELETE FROM compactions WHERE seq >= ?1", [int(first)])?;
        }
        Ok(compacting)
    }

    /// Where the inbox entry `id` stands in what the agent still knows, if it does: at `history`, or where it was told
    /// before a summary that does not stand any more.
    pub(crate) fn place_in_context(&self, id: i64, history: Option<i64>) -> Result<Option<u64>, StoreError> {
        let sql = format!(
            "SELECT max(h.seq) FROM (SELECT ?2 AS seq UNION ALL SELECT history FROM told WHERE inbox = ?1) h
             WHERE h.seq > coalesce((SELECT upto FROM compactions ORDER BY seq DESC LIMIT 1), 0) AND {COUNTS}"
        );
        Ok(self.one(&sql, (id, history), |row| row.get::<_, Option<i64>>(0))?.flatten().map(count))
    }

    pub(crate) fn began_at(&self, turn: TurnId) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT history FROM turns WHERE turn = ?1 AND history IS NOT NULL";
        Ok(self.one(sql, [turn], |row| row.get::<_, i64>(0))?.map(count))
    }

    /// Nothing from the entry `first` to the one that says so, `mark`, counts. Returns the mark's place.
    fn leave_out(&self, first: u64, mark: &HistoryItem) -> Result<u64, StoreError> {
        let last = self.append(None, None, mark)?;
        self.run("DELETE FROM left_out WHERE first >= ?1", [int(first)])?;
        self.run("INSERT INTO left_out (first, last) VALUES (?1, ?2)", (int(first), int(last)))?;
        self.run("DELETE FROM compactions WHERE seq >= ?1", [int(first)])?;
        Ok(last)
    }

    /// Lets a summary stand for what the agent has seen. What it has been told in `turn` and has not seen yet, and all
    /// behind that, stays as it is. Returns where the summary stands.
    ///
    /// # Errors
    /// `TooLarge` for a summary of more than [`SUMMARY_BYTES_MAX`]; else if it cannot be written.
    pub fn compact(&self, turn: TurnId, compaction: &Compaction) -> Result<u64, StoreError> {
        let bytes = compaction.summary.len();
        if bytes > SUMMARY_BYTES_MAX {
            return Err(StoreError::TooLarge { what: "a summary", bytes, max: SUMMARY_BYTES_MAX });
        }
        let head = self.history_head()?;
        let staged = "SELECT min(history) FROM inbox WHERE state = 'staged' AND history IS NOT NULL";
        let staged: Option<i64> = self.one(staged, [], |row| row.get(0))?.flatten();
        let seen = staged.map_or(head, |first| count(first).saturating_sub(1));
        let upto = self.before_open_calls(compaction.upto.unwrap_or(head).min(head).min(seen))?;
        // What was given back unseen is written again when it is told again: behind the summary. Where it stands before it
        // is kept: a rewind may bring that back.
        let given_back = "state = 'unseen' AND history <= ?1";
        let sql =
            format!("INSERT OR IGNORE INTO told (inbox, history) SELECT id, history FROM inbox WHERE {given_back}");
        self.run(&sql, [int(upto)])?;
        self.run(&format!("UPDATE inbox SET history = NULL WHERE {given_back}"), [int(upto)])?;
        let live = self.live_children()?;
        let children_total = live.len() as u64;
        let children: Vec<PodId> = live.into_iter().rev().take(CHILDREN_NAMED).map(|row| row.pod).collect();
        let summary = compaction.summary.clone();
        let item = HistoryItem::Compacted { upto, summary, children, children_total };
        let seq = self.append(Some(turn), None, &item)?;
        self.run("INSERT INTO compactions (seq, upto) VALUES (?1, ?2)", (int(seq), int(upto)))?;
        Ok(seq)
    }

    /// The last entry up to `upto` behind which no result stands whose use of a tool stands before it: a summary that ended
    /// between the two would tear them apart.
    fn before_open_calls(&self, upto: u64) -> Result<u64, StoreError> {
        let sql = "SELECT turn FROM history WHERE seq <= ?1 AND turn IS NOT NULL ORDER BY seq DESC LIMIT 1";
        let Some(turn) = self.one(sql, [int(upto)], |row| row.get::<_, TurnId>(0))? else { return Ok(upto) };
        let began = self.began_at(turn)?;
        // A use and its result stand in one turn, so that those of the turn in which the summary ends tell.
        let which = "seq BETWEEN ?1 AND ?2 AND turn = ?3 AND kind IN ('tool_call', 'tool_result')";
        let rows = self.entries(which, (int(began.unwrap_or(1)), int(upto), turn))?;
        let (mut first_open, mut uses) = (u64::MAX, Vec::new());
        for (seq, body) in rows {
            match from_json("a history entry", &body)? {
                HistoryItem::ToolCall { call, .. } => uses.push((call, seq, u64::MAX)),
                HistoryItem::ToolResult { call, .. } => {
                    uses.iter_mut().filter(|(used, ..)| *used == call).for_each(|(.., result)| *result = seq);
                }
                _ => {}
            }
        }
        // Backwards: what is not taken in leaves out every use whose result stands behind it.
        for (_, used, result) in uses.into_iter().rev() {
            if result >= first_open || result == u64::MAX {
                first_open = used;
            }
        }
        Ok(upto.min(first_open.saturating_sub(1)))
    }

    /// A use of a tool begins: it is in history before the tool does anything.
    ///
    /// # Errors
    /// `Contradiction` if the turn is over, `TooLarge` for arguments that fit no history entry; else if it cannot be written.
    pub fn begin_call(
        &self,
        turn: TurnId,
        work: Option<WorkId>,
        call: CallId,
        tool: &str,
        arguments: &serde_json::Value,
    ) -> Result<u64, StoreError> {
        self.running(turn)?;
        let item = HistoryItem::ToolCall { call, tool: tool.to_owned(), arguments: arguments.clone() };
        let seq = self.append(Some(turn), work, &item)?;
        self.run("INSERT INTO calls (turn, call) VALUES (?1, ?2)", (turn, call))?;
        Ok(seq)
    }

    /// A use of a tool has ended.
    ///
    /// # Errors
    /// `Contradiction` if it has ended before; else if it cannot be written.
    pub fn end_call(
        &self,
        turn: TurnId,
        work: Option<WorkId>,
        call: CallId,
        how: ToolEnd,
        text: &str,
    ) -> Result<(), StoreError> {
        let (text, structured, attachments) = (text.to_owned(), None, Vec::new());
        let item = HistoryItem::ToolResult { call, how, text, structured, attachments };
        self.end_call_with(turn, work, call, &item)
    }

    /// The same with all that there is to say: `item` is its result.
    ///
    /// # Errors
    /// `Contradiction` if it has ended before, `TooLarge` for a result that fits no history entry; else if it cannot be
    /// written.
    pub fn end_call_with(
        &self,
        turn: TurnId,
        work: Option<WorkId>,
        call: CallId,
        item: &HistoryItem,
    ) -> Result<(), StoreError> {
        if self.run("DELETE FROM calls WHERE turn = ?1 AND call = ?2", params![turn, call])? == 0 {
            return Err(StoreError::Contradiction(format!("call {call} of turn {turn} is not open")));
        }
        self.append(Some(turn), work, item)?;
        Ok(())
    }

    /// Nobody waits for the use any more. Nothing to do if it has a result.
    pub(crate) fn abandon_call(&self, turn: TurnId, work: Option<WorkId>, call: CallId) -> Result<(), StoreError> {
        if self.exists("SELECT 1 FROM calls WHERE turn = ?1 AND call = ?2", params![turn, call])? {
            self.end_call(turn, work, call, ToolEnd::Abandoned, "it was given up before it had a result")?;
        }
        Ok(())
    }

    /// The turn ends: what it had under way has a result, too.
    pub(crate) fn abandon_calls(&self, turn: TurnId) -> Result<(), StoreError> {
        let open = self.all("SELECT call FROM calls WHERE turn = ?1 ORDER BY call", [turn], |row| row.get(0))?;
        for call in open {
            self.end_call(turn, None, call, ToolEnd::Abandoned, "the turn ended first")?;
        }
        Ok(())
    }

    /// Appends an entry to a turn that runs.
    ///
    /// # Errors
    /// `Contradiction` if the turn is over: a worker that was ended says nothing more.
    pub fn append_in(&self, turn: TurnId, work: Option<WorkId>, item: &HistoryItem) -> Result<u64, StoreError> {
        self.running(turn)?;
        self.append(Some(turn), work, item)
    }

    /// # Errors
    /// `Contradiction` if the turn is over.
    pub(crate) fn running(&self, turn: TurnId) -> Result<(), StoreError> {
        match self.turn_in("running")? {
            Some(running) if running == turn => Ok(()),
            _ => Err(StoreError::Contradiction(format!("turn {turn} is over"))),
        }
    }
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
