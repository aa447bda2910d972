//! What the agent has yet to be told: reports of children, and notes.
//!
//! An entry is *unseen*, then *staged* for a turn, in the transaction that commits it to history, then *seen*, with the
//! worker's first response. A turn that ends before that returns it, with an attempt more and a growing pause. It is
//! never removed unseen, and stands in history once. One that is no longer as it was written is set aside, and the agent is
//! told that something is missing: it would be in the way of every turn.
//!
//! Filled by `event::apply` and by notes, staged by `turns`.

use rusqlite::params;

use crate::id::{NoteKey, TurnId, WorkId};
use crate::protocol::WorkResult;
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::guard;
use crate::store::history::{EventKey, HistoryItem, Origin, SystemItem};
use crate::store::sql::{count, from_json, int, to_json};
use crate::store::tx::{Reads, Tx};

/// Whether a row is as it was written; nothing if it has no sum.
const AS_WRITTEN: &str = "sum = pod_sum(at, wakes, stream, seq, note, body)";

/// What the agent is told in the place of an entry that is damaged.
const MISSING: &str = "A report or note that was kept for you is damaged and cannot be told. Look at what your children \
                       have done since you last heard of them.";

/// An entry of the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboxId(pub u64);

/// An entry that is part of the worker's next request. It is in history already.
#[derive(Clone, Debug, PartialEq)]
pub struct StagedReport {
    /// Which.
    pub id: InboxId,
    /// In how many turns it has been without being seen.
    pub attempts: u32,
    /// What the agent is told.
    pub item: SystemItem,
    /// Where it stands in history.
    pub history_seq: u64,
}

/// What became of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteOutcome {
    /// It waits for the agent.
    Queued,
    /// It was queued before, under the same key.
    Duplicate,
    /// Too many wait.
    Full {
        /// How many may.
        max: u32,
    },
}

/// A report that is to be queued.
#[derive(Debug)]
pub(crate) struct NewReport {
    pub(crate) key: Option<EventKey>,
    pub(crate) item: SystemItem,
    pub(crate) wakes: bool,
    /// The works that we were given and that a turn about this report is for.
    pub(crate) works: Vec<WorkId>,
}

/// What becomes of entries that a turn had staged and that its worker has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Return {
    /// The turn failed on them, or ignored them: one attempt more, and a growing pause.
    Attempted,
    /// The process ended in the turn: one attempt more, for it may have been their doing; the first time without a
    /// pause, for most often it was not.
    Interrupted,
    /// The turn was cancelled: one attempt more, for a worker may cancel its turn itself, each time that it is told.
    Cancelled,
    /// The turn was paused: the one that resumes it is told at once.
    Paused,
    /// What the turn did does not count; also what its worker saw is to be told again, with an attempt more.
    RolledBack,
}

impl Reads<'_> {
    /// Entries that the agent has not seen, those of the running turn included.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn inbox_waiting(&self) -> Result<u64, StoreError> {
        self.number("SELECT count(*) FROM inbox WHERE state <> 'seen'", [])
    }

    /// What the history does not hold yet, in the order in which it will be told.
    ///
    /// # Errors
    /// If the file or an entry cannot be read.
    pub fn inbox_untold(&self) -> Result<Vec<SystemItem>, StoreError> {
        let sql = format!("SELECT id, body, {AS_WRITTEN} FROM inbox WHERE history IS NULL ORDER BY id");
        let rows = self.all(&sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get(2)?)))?;
        let read = rows.iter().map(|(id, body, alike)| {
            self.as_written("an inbox entry", count(*id), *alike)?;
            from_json("an inbox entry", body)
        });
        read.collect()
    }

    /// Whether an entry may start a turn now, and when the next one may.
    pub(crate) fn inbox_due(&self) -> Result<(bool, Option<UnixMillis>), StoreError> {
        let sql = "SELECT min(not_before) FROM inbox WHERE state = 'unseen' AND wakes = 1";
        let first: Option<UnixMillis> = self.one(sql, [], |row| row.get(0))?.flatten();
        Ok((first.is_some_and(|at| at <= self.now()), first.filter(|at| *at > self.now())))
    }
}

impl Tx<'_> {
    /// Queues a note for the agent, once for each key.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn push_note(&self, key: NoteKey, text: &str, origin: Origin, wakes: bool) -> Result<NoteOutcome, StoreError> {
        if self.exists("SELECT 1 FROM inbox WHERE note = ?1", [key])? {
            return Ok(NoteOutcome::Duplicate);
        }
        let max = self.limits().notes_waiting;
        let sql = "SELECT count(*) FROM inbox WHERE state <> 'seen' AND note IS NOT NULL";
        if self.number(sql, [])? >= u64::from(max) {
            return Ok(NoteOutcome::Full { max });
        }
        let item = SystemItem::Note { key, origin, text: text.to_owned() };
        let id = self.insert_note(key, &item, wakes)?;
        self.file_unless_read(id, None, item)?;
        Ok(NoteOutcome::Queued)
    }

    fn insert_note(&self, key: NoteKey, item: &SystemItem, wakes: bool) -> Result<u64, StoreError> {
        self.run(
            "INSERT INTO inbox (at, state, wakes, note, body, sum)
             VALUES (?1, 'unseen', ?2, ?3, ?4, pod_sum(?1, ?2, NULL, NULL, ?3, ?4))",
            (self.now(), wakes, key, to_json("a note", item)?),
        )?;
        Ok(count(self.conn.last_insert_rowid()))
    }

    /// Queues a report. Its key, if it has one, was checked against the watermark in the same transaction.
    pub(crate) fn push_report(&self, report: &NewReport) -> Result<InboxId, StoreError> {
        self.run(
            "INSERT INTO inbox (at, state, wakes, stream, seq, body, sum)
             VALUES (?1, 'unseen', ?2, ?3, ?4, ?5, pod_sum(?1, ?2, ?3, ?4, NULL, ?5))",
            params![
                self.now(),
                report.wakes,
                report.key.map(|key| key.stream),
                report.key.map(|key| key.seq),
                to_json("a report", &report.item)?,
            ],
        )?;
        let id = InboxId(count(self.conn.last_insert_rowid()));
        // A bound of the tree refuses the turn that would be told: it is kept for one that may come, and no work waits for that.
        let is_waited_for = self.blocked_by()?.is_none();
        for work in &report.works {
            if is_waited_for {
                self.run("INSERT OR IGNORE INTO inbox_works (inbox, work) VALUES (?1, ?2)", (int(id.0), work))?;
            } else {
                self.set_last_result(*work, WorkResult::LimitReached)?;
            }
        }
        self.file_unless_read(id.0, report.works.first().copied(), report.item.clone())?;
        Ok(id)
    }

    /// A worker that is told nothing makes nobody wait: what it would be told is in history, and counts as seen.
    fn file_unless_read(&self, id: u64, work: Option<WorkId>, item: SystemItem) -> Result<(), StoreError> {
        if !self.own().reads_reports {
            let seq = self.append(None, work, &HistoryItem::SystemItem(item))?;
            self.run("UPDATE inbox SET state = 'seen', history = ?2 WHERE id = ?1", (int(id), int(seq)))?;
        }
        Ok(())
    }

    /// Files what waits, for a worker that is told nothing: it is in history then, and counts as seen.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file_unread(&self) -> Result<(), StoreError> {
        self.set_damaged_reports_aside(UnixMillis(u64::MAX), u32::MAX)?;
        let sql = format!("SELECT id, history, body, {AS_WRITTEN} FROM inbox WHERE state = 'unseen' ORDER BY id");
        let rows = self.all(&sql, [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, String>(2)?, row.get(3)?))
        })?;
        for (id, history, body, alike) in rows {
            self.as_written("an inbox entry", count(id), alike)?;
            let seq = match history {
                Some(seq) => count(seq),
                None => {
                    let item: SystemItem = from_json("an inbox entry", &body)?;
                    self.append(None, self.first_work(id)?, &HistoryItem::SystemItem(item))?
                }
            };
            self.run("UPDATE inbox SET state = 'seen', history = ?2 WHERE id = ?1", (id, int(seq)))?;
        }
        self.settle_works().map(|_| ())
    }

    /// Entries that are due at `now` and no longer as they were written are kept to be seen, and never told for what they
    /// were: their place in the history says that they are damaged, and a note tells the agent that something is missing.
    /// The table is summed up anew: that they differ is known now.
    fn set_damaged_reports_aside(&self, now: UnixMillis, max: u32) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT id FROM (SELECT id, {AS_WRITTEN} AS alike FROM inbox
                             WHERE state = 'unseen' AND not_before <= ?1 ORDER BY id LIMIT ?2)
             WHERE alike IS NOT 1"
        );
        let damaged: Vec<i64> = self.all(&sql, (now, max), |row| row.get(0))?;
        for id in &damaged {
            let entry = count(*id);
            tracing::error!(target: "pod::store", entry, "an entry of the inbox is no longer as it was written; the agent is told that it is missing");
            let seq = self.append(None, self.first_work(*id)?, &HistoryItem::ReportDamaged { entry })?;
            self.run("UPDATE inbox SET state = 'seen', turn = NULL, history = ?2 WHERE id = ?1", (id, int(seq)))?;
            if self.own().reads_reports {
                let (key, origin, text) = (NoteKey::random(), Origin::Host, MISSING.to_owned());
                let note = self.insert_note(key, &SystemItem::Note { key, origin, text }, true)?;
                let sql = "INSERT INTO inbox_works (inbox, work) SELECT ?1, work FROM inbox_works WHERE inbox = ?2";
                self.run(sql, (int(note), id))?;
            }
        }
        if !damaged.is_empty() {
            guard::sum_up(self.conn, "inbox")?;
        }
        Ok(())
    }

    /// Stages what is due for `turn`: each entry is in history before the worker is told. Returns them, oldest first,
    /// and adds the works that they belong to to the turn's.
    ///
    /// # Errors
    /// If it cannot be written; nothing is then staged.
    pub fn stage_reports(&self, turn: TurnId, max: u32) -> Result<Vec<StagedReport>, StoreError> {
        self.set_damaged_reports_aside(self.now(), max)?;
        let sql = format!(
            "SELECT id, attempts, history, body, {AS_WRITTEN} FROM inbox
             WHERE state = 'unseen' AND not_before <= ?1 ORDER BY id LIMIT ?2"
        );
        let rows = self.all(&sql, (self.now(), max), |row| {
            let body = row.get::<_, String>(3)?;
            Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, Option<i64>>(2)?, body, row.get(4)?))
        })?;
        let mut staged = Vec::with_capacity(rows.len());
        for (id, attempts, history, body, alike) in rows {
            self.as_written("an inbox entry", count(id), alike)?;
            let item: SystemItem = from_json("an inbox entry", &body)?;
            self.run(
                "INSERT OR IGNORE INTO turn_works (turn, work) SELECT ?1, work FROM inbox_works WHERE inbox = ?2",
                (turn, id),
            )?;
            // An entry that was returned is in history already: it is told again, but it happened once.
            let history_seq = match self.place_in_context(id, history)? {
                Some(seq) => seq,
                None => self.append(Some(turn), self.first_work(id)?, &HistoryItem::SystemItem(item.clone()))?,
            };
            let sql = "UPDATE inbox SET state = 'staged', turn = ?2, history = ?3 WHERE id = ?1";
            self.run(sql, (id, turn, int(history_seq)))?;
            staged.push(StagedReport { id: InboxId(count(id)), attempts, item, history_seq });
        }
        Ok(staged)
    }

    /// The worker has answered a request that held these entries.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn mark_seen(&self, turn: TurnId, entries: &[InboxId]) -> Result<(), StoreError> {
        for entry in entries {
            let sql = "UPDATE inbox SET state = 'seen' WHERE id = ?1 AND turn = ?2 AND state = 'staged'";
            self.run(sql, (int(entry.0), turn))?;
        }
        Ok(())
    }

    /// Gives back what `turn` had staged. Returns how many entries, and the most attempts that one of them has had.
    pub(crate) fn return_reports(&self, turn: TurnId, how: Return) -> Result<(u64, u32), StoreError> {
        let staged = match how {
            Return::RolledBack => "state IN ('staged', 'seen')",
            Return::Attempted | Return::Interrupted | Return::Cancelled | Return::Paused => "state = 'staged'",
        };
        let sql = format!("SELECT id, attempts FROM inbox WHERE turn = ?1 AND {staged}");
        let rows = self.all(&sql, [turn], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?)))?;
        let mut most = 0;
        for (id, attempts) in &rows {
            let more = how != Return::Paused;
            let attempts = attempts.saturating_add(u32::from(more));
            most = most.max(attempts);
            let pause = match how {
                Return::Paused => 0,
                Return::Interrupted if attempts == 1 => 0,
                _ => self.pause_after(attempts.max(1)),
            };
            let not_before = self.now().plus(pause);
            let sql = "UPDATE inbox SET state = 'unseen', turn = NULL, attempts = ?2, not_before = ?3 WHERE id = ?1";
            self.run(sql, (id, attempts, not_before))?;
        }
        if let (Return::RolledBack, Some(began)) = (how, self.began_at(turn)?) {
            // What a rollback takes out of the agent's context is written to history again when it is told again. What an
            // earlier turn was told already stays where it stands.
            self.run("UPDATE inbox SET history = NULL WHERE state = 'unseen' AND history >= ?1", [int(began)])?;
        }
        Ok((rows.len() as u64, most))
    }

    /// How long an entry rests after `attempts` failures.
    fn pause_after(&self, attempts: u32) -> u64 {
        let doubled = 1_u64.checked_shl(attempts.saturating_sub(1)).unwrap_or(u64::MAX);
        self.limits().pause_first_ms.saturating_mul(doubled).min(self.limits().pause_max_ms)
    }

    fn first_work(&self, inbox: i64) -> Result<Option<WorkId>, StoreError> {
        self.one("SELECT min(work) FROM inbox_works WHERE inbox = ?1", [inbox], |row| row.get(0)).map(Option::flatten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{self, report};

    #[test]
    fn note_sent_twice_is_queued_once() {
        let store = fixture::memory("a");
        store.with(|tx| {
            assert_eq!(tx.push_note(NoteKey(1), "x", Origin::Host, true)?, NoteOutcome::Queued);
            assert_eq!(tx.push_note(NoteKey(1), "x", Origin::Host, true)?, NoteOutcome::Duplicate);
            assert_eq!(tx.inbox_waiting()?, 1);
            Ok(())
        });
    }

    #[test]
    fn inbox_full_refuses_the_next_note_but_no_report() {
        let mut store = fixture::memory("a");
        store.options.limits.notes_waiting = 1;
        store.with(|tx| {
            tx.push_note(NoteKey(1), "x", Origin::Host, true)?;
            assert_eq!(tx.push_note(NoteKey(2), "y", Origin::Host, true)?, NoteOutcome::Full { max: 1 });
            tx.push_report(&report(1))?;
            assert_eq!(tx.inbox_waiting()?, 2);
            Ok(())
        });
    }

    #[test]
    fn report_returned_and_staged_again_stands_in_history_once() {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.push_report(&report(1))?;
            let first = tx.stage_reports(TurnId(1), 10)?;
            assert_eq!(first.len(), 1);
            assert!(tx.stage_reports(TurnId(1), 10)?.is_empty(), "staged twice in one turn");
            assert_eq!(tx.return_reports(TurnId(1), Return::Attempted)?, (1, 1));
            Ok(())
        });
        store.with(|tx| {
            assert!(tx.stage_reports(TurnId(2), 10)?.is_empty(), "told again without a pause");
            Ok(())
        });
        store.advance(1_000);
        store.with(|tx| {
            let again = tx.stage_reports(TurnId(2), 10)?;
            assert_eq!((again[0].attempts, again[0].history_seq), (1, 1));
            assert_eq!(tx.history_head()?, 1);
            Ok(())
        });
    }

    #[test]
    fn report_seen_is_not_returned() {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.push_report(&report(1))?;
            tx.push_report(&report(2))?;
            let staged = tx.stage_reports(TurnId(1), 10)?;
            tx.mark_seen(TurnId(1), &[staged[0].id])?;
            assert_eq!(tx.return_reports(TurnId(1), Return::Attempted)?, (1, 1));
            assert_eq!(tx.inbox_waiting()?, 1);
            Ok(())
        });
    }

    #[test]
    fn worker_that_reads_no_reports_has_them_in_history_at_once() {
        let mut store = fixture::memory("a");
        store.options.own.reads_reports = false;
        store.with(|tx| {
            tx.push_report(&report(1))?;
            tx.push_note(NoteKey(1), "x", Origin::Host, true)?;
            assert_eq!((tx.inbox_waiting()?, tx.history_head()?), (0, 2));
            assert_eq!(tx.inbox_due()?, (false, None));
            Ok(())
        });
    }

    #[test]
    fn inbox_left_for_a_reader_is_filed_for_a_worker_that_reads_none() {
        let mut store = fixture::memory("a");
        store.with(|tx| {
            tx.push_report(&report(1))?;
            tx.push_report(&report(2))?;
            tx.stage_reports(TurnId(1), 1)?;
            tx.return_reports(TurnId(1), Return::Attempted).map(|_| ())
        });
        store.options.own.reads_reports = false;
        store.with(|tx| {
            tx.file_unread()?;
            tx.file_unread()?;
            assert_eq!((tx.inbox_waiting()?, tx.inbox_due()?, tx.history_head()?), (0, (false, None), 2));
            Ok(())
        });
    }

    #[test]
    fn rollback_tells_again_also_what_was_seen() {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.push_report(&report(1))?;
            let staged = tx.stage_reports(TurnId(1), 10)?;
            tx.mark_seen(TurnId(1), &[staged[0].id])?;
            assert_eq!(tx.return_reports(TurnId(1), Return::RolledBack)?.0, 1);
            Ok(())
        });
        store.advance(1_000);
        store.with(|tx| {
            assert_eq!(tx.stage_reports(TurnId(2), 10)?[0].attempts, 1);
            Ok(())
        });
    }

    #[test]
    fn pause_grows_and_ends_at_its_bound() {
        let store = fixture::memory("a");
        store.with(|tx| {
            let pauses = [1, 2, 3, 20, 200].map(|attempts| tx.pause_after(attempts));
            assert_eq!(pauses, [1_000, 2_000, 4_000, 300_000, 300_000]);
            Ok(())
        });
    }
}
