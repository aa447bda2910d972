//! The events of this pod that its parent has not acknowledged.
//!
//! A row is written in the transaction of what it tells, with the stream's next number, and removed by the parent's
//! ack alone. What the parent cannot take stays as *undeliverable*, in nobody's way. Room for the last events of a turn
//! and of the process is kept back, so that what has begun can always be told.
//!
//! Filled by `turns`, `works` and `event`; emptied by `event::Reporter`; read by the parent when the pod has died.

use crate::id::{Incarnation, PodId, Seq, TurnId};
use crate::protocol::{PodEvent, Text, clip};
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::guard;
use crate::store::history::HistoryItem;
use crate::store::sql::{count, from_json, int, stored_word, to_json};
use crate::store::tx::{Reads, Tx};

/// Under which key `meta` has the newest event from before this life, until a parent has been met.
const UNMET: &str = "unmet_head";

/// LIMIT: how far a parent may be ahead of us. More events than a pod raises in its time; a larger claim is not believed.
const REWOUND_MAX: u64 = 1_000_000_000;

/// An event that awaits the parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its place in the stream.
    pub seq: Seq,
    /// When it was raised.
    pub at: UnixMillis,
    /// The event.
    pub event: PodEvent,
    /// Whether it can be delivered.
    pub state: OutboxState,
    /// How often it has been offered.
    pub offers: u64,
    /// What became of the last offer that failed.
    pub outcome: Option<String>,
}

/// Whether an event can be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxState {
    /// It awaits the parent.
    Pending,
    /// The parent cannot take it; kept and shown.
    Undeliverable,
}

/// Why an event cannot be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndeliverableReason {
    /// The life that offered it is over for the parent; a later life may offer it again.
    Stale,
    /// The parent cannot read it, or takes it for a contradiction.
    Unreadable,
    /// It is no longer as it was written; the parent was told of a gap.
    Damaged,
}

/// What a parent and its child found when the one said how far it has the other's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// What one expects of two stores that have grown together.
    Agreed,
    /// The parent has events that this store does not know of: it is an older copy of one that went further.
    WeAreOlder,
    /// The parent lacks events that it, or another parent, had acked.
    ParentIsOlder,
}

/// Which places of the outbox an event may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Any but those that are kept back.
    Ordinary,
    /// Also those that are kept back: it tells how something ended.
    Reserved,
}

stored_word!(OutboxState, "state of an event", Pending = "pending", Undeliverable = "undeliverable");
stored_word!(UndeliverableReason, "reason", Stale = "stale", Unreadable = "unreadable", Damaged = "damaged");

impl Reads<'_> {
    /// The newest event's place; 0 if none was ever raised.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn outbox_head(&self) -> Result<Seq, StoreError> {
        Ok(Seq(self.meta_number("next_seq")?.saturating_sub(1)))
    }

    /// The last event that the parent is known to have.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn outbox_acked(&self) -> Result<Seq, StoreError> {
        self.meta_number("acked_seq").map(Seq)
    }

    /// Up to `limit` events from `seq` on, in order, those that cannot be delivered included. A row that is not as it was
    /// written is one of those: what it said is not known any more, and a gap stands for it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn outbox_from(&self, seq: Seq, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        let sql = "SELECT seq, at, body, state, offers, outcome, sum = pod_sum(seq, at, kind, body) FROM outbox
                   WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
        let rows = self.all(sql, (seq, limit), |row| {
            let read = || -> rusqlite::Result<_> {
                let body: String = row.get(2)?;
                let offers = count(row.get(4)?);
                Ok((row.get(1)?, body, row.get(3)?, offers, row.get(5)?, row.get(6)?))
            };
            Ok((row.get::<_, Seq>(0)?, read()))
        })?;
        let rows = rows.into_iter().map(|(seq, read)| {
            let row = read.map_err(StoreError::from).and_then(|(at, body, state, offers, outcome, alike)| {
                self.as_written("an event", seq.0, alike)?;
                Ok(OutboxRow { seq, at, event: from_json("an event", &body)?, state, offers, outcome })
            });
            row.or_else(|error| self.illegible(seq, &error))
        });
        rows.collect()
    }

    /// What stands for an event that cannot be read any more.
    fn illegible(&self, seq: Seq, error: &StoreError) -> Result<OutboxRow, StoreError> {
        let Some(name) = self.one("SELECT value FROM meta WHERE key = 'pod'", [], |row| row.get(0))? else {
            return Err(error.clone());
        };
        tracing::error!(target: "pod::store", %seq, error = error.chain(), "an event in the outbox cannot be read; a gap stands for it");
        Ok(OutboxRow {
            seq,
            at: UnixMillis(0),
            event: PodEvent::Gap { pod: PodId::new(name, Incarnation(0)), from: seq, to: seq },
            state: OutboxState::Undeliverable,
            offers: 0,
            outcome: Some(error.chain()),
        })
    }

    /// Whether a turn may start: what it will have to tell has room.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn outbox_waiting(&self) -> Result<u64, StoreError> {
        // Counted by numbers, not by rows: it must not take longer as the outbox grows.
        Ok(self.outbox_head()?.0.saturating_sub(self.outbox_acked()?.0))
    }
}

impl Tx<'_> {
    /// Raises an event of this pod. `None` without a parent, who alone is told.
    ///
    /// # Errors
    /// `OutboxFull` if there is no room for it.
    pub fn raise(&self, event: &PodEvent, room: Room) -> Result<Option<Seq>, StoreError> {
        if !self.own().has_parent {
            return Ok(None);
        }
        if !self.outbox_has_room(room)? {
            return Err(StoreError::OutboxFull { max: self.limits().outbox });
        }
        let seq = Seq(self.take_number("next_seq")?);
        let body = to_json("an event", event)?;
        let sql = "INSERT INTO outbox (seq, at, kind, body, sum) VALUES (?1, ?2, ?3, ?4, pod_sum(?1, ?2, ?3, ?4))";
        self.run(sql, (seq, self.now(), event.kind(), body))?;
        Ok(Some(seq))
    }

    pub(crate) fn outbox_has_room(&self, room: Room) -> Result<bool, StoreError> {
        let limits = self.limits();
        let max = match room {
            Room::Ordinary => limits.outbox.saturating_sub(limits.outbox_reserve),
            Room::Reserved => limits.outbox,
        };
        Ok(self.outbox_waiting()? < max)
    }

    /// A life begins: what is raised from here on is new to any parent.
    pub(crate) fn begin_unmet(&self) -> Result<(), StoreError> {
        self.set_meta_number(UNMET, self.outbox_head()?.0)
    }

    /// This life offers its events to a parent that it has not met: how far that one has come shows in its answers.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn forego_meeting(&self) -> Result<(), StoreError> {
        self.set_meta_text(UNMET, None)
    }

    /// The parent says that it has our events up to `watermark`. To be called before anything is offered to it.
    ///
    /// Where the two contradict each other, one of the stores is an older copy, and that is told, here and to the parent. A
    /// number that the parent has seen is never used for another event: what this life has raised so far gets numbers
    /// behind it. What the parent lacks and we no longer have becomes a gap.
    ///
    /// # Errors
    /// If it cannot be written: nothing may then be offered.
    pub fn meet_parent(&self, watermark: Seq) -> Result<Meeting, StoreError> {
        let unmet = self.one("SELECT value FROM meta WHERE key = ?1", [UNMET], |row| row.get::<_, i64>(0))?;
        self.forego_meeting()?;
        let (ours, acked) = (unmet.map(count), self.outbox_acked()?);
        let ahead = ours.map_or(0, |ours| watermark.0.saturating_sub(ours));
        let meeting = match ours {
            Some(ours) if ahead > 0 && ahead <= REWOUND_MAX => {
                self.renumber_outbox(ours, ahead)?;
                self.append(None, None, &HistoryItem::OlderThanParent { ours: Seq(ours), parent: watermark })?;
                let message = format!(
                    "its store is an older copy: it knows nothing of what it had reported as events {} to {watermark}",
                    Seq(ours).next()
                );
                let (pod, message) = (self.own().pod.clone(), Text::clipped(message));
                self.raise(
                    &PodEvent::Errored { pod, work: None, turn: TurnId(0), kind: None, message },
                    Room::Reserved,
                )?;
                Meeting::WeAreOlder
            }
            _ if watermark < acked => {
                // Offered from there on, and what is gone as the gap that it is: at once, not with the next event.
                self.set_meta_number("acked_seq", watermark.0)?;
                self.append(None, None, &HistoryItem::NewerThanParent { ours: acked, parent: watermark })?;
                Meeting::ParentIsOlder
            }
            _ => Meeting::Agreed,
        };
        self.trim_outbox(watermark)?;
        Ok(meeting)
    }

    /// Moves the events behind `from` by `by` places, and those that follow.
    fn renumber_outbox(&self, from: u64, by: u64) -> Result<(), StoreError> {
        self.set_damaged_aside(from, u64::MAX)?;
        // By way of negative numbers: no row takes the place of one that is still to be moved.
        self.run("UPDATE outbox SET seq = -(seq + ?2) WHERE seq > ?1", (int(from), int(by)))?;
        let sum = "CASE WHEN reason IS 'damaged' THEN sum ELSE pod_sum(-seq, at, kind, body) END";
        self.run(&format!("UPDATE outbox SET seq = -seq, sum = {sum} WHERE seq < 0"), [])?;
        self.set_meta_number("next_seq", self.meta_number("next_seq")?.saturating_add(by))
    }

    /// The parent has everything up to `durable`. Undeliverable events stay to be seen.
    ///
    /// # Errors
    /// If it cannot be written; the events are then offered again, and are duplicates.
    pub fn trim_outbox(&self, durable: Seq) -> Result<(), StoreError> {
        self.set_damaged_aside(0, durable.0)?;
        self.run("DELETE FROM outbox WHERE seq <= ?1 AND state = 'pending'", [durable])?;
        let head = self.outbox_head()?;
        if durable > head && durable.0 - head.0 <= REWOUND_MAX {
            // The parent has what we never raised: this file is an older copy of one that went further. Numbers go on
            // behind it, or else everything that we raise would pass for a duplicate.
            tracing::error!(target: "pod::store", parent = %durable, ours = %head, "the store is older than its parent knows");
            self.set_meta_number("next_seq", durable.next().0)?;
        }
        let acked = self.outbox_acked()?.max(durable.min(self.outbox_head()?));
        self.set_meta_number("acked_seq", acked.0)?;
        crate::failpoint!("child_in_trim_before_commit");
        self.set_meta_text("last_outcome", None)
    }

    /// Events behind `from` and up to `upto` that are no longer as they were written are kept to be seen, and never taken for
    /// what they were. The table is summed up anew: that they differ is known now, and stands in the history.
    fn set_damaged_aside(&self, from: u64, upto: u64) -> Result<(), StoreError> {
        let sql = "SELECT seq FROM outbox WHERE seq > ?1 AND seq <= ?2 AND reason IS NOT 'damaged'
                   AND (state NOT IN ('pending', 'undeliverable') OR sum IS NOT pod_sum(seq, at, kind, body))";
        let damaged: Vec<i64> = self.all(sql, (int(from), int(upto)), |row| row.get(0))?;
        if damaged.is_empty() {
            return Ok(());
        }
        for seq in damaged {
            let kept = "UPDATE outbox SET state = 'undeliverable', reason = ?2, outcome = ?3 WHERE seq = ?1";
            self.run(kept, (seq, UndeliverableReason::Damaged, "it is not as it was written"))?;
            self.append(None, None, &HistoryItem::EventDamaged { seq: Seq(count(seq)) })?;
        }
        Ok(guard::sum_up(self.conn, "outbox")?)
    }

    /// This life is over for the parent: nothing of what waits can be delivered by it. A later life tries again.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn mark_stale(&self, outcome: &str) -> Result<(), StoreError> {
        let sql = "UPDATE outbox SET state = 'undeliverable', reason = 'stale', outcome = ?1 WHERE state = 'pending'";
        self.run(sql, [&*clip(outcome, 256)])?;
        self.set_meta_text("last_outcome", Some(&clip(outcome, 256)))
    }

    /// An offer of `seq` failed; the event is kept and offered again.
    ///
    /// # Errors
    /// If it cannot be written; nobody but a reader of tables misses it.
    pub fn note_offer(&self, seq: Seq, outcome: &str) -> Result<(), StoreError> {
        let outcome = clip(outcome, 256);
        self.run("UPDATE outbox SET offers = offers + 1, outcome = ?2 WHERE seq = ?1", (seq, &*outcome))?;
        self.set_meta_text("last_outcome", Some(&outcome))
    }

    /// The parent cannot take `seq`; the events behind it go on.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn mark_undeliverable(&self, seq: Seq, why: UndeliverableReason, outcome: &str) -> Result<(), StoreError> {
        let sql = "UPDATE outbox SET state = 'undeliverable', reason = ?2, offers = offers + 1, outcome = ?3
                   WHERE seq = ?1";
        self.run(sql, (seq, why, &*clip(outcome, 256)))?;
        self.set_meta_text("last_outcome", Some(&clip(outcome, 256)))
    }

    /// A new life may offer again what an old one could not.
    pub(crate) fn revive_outbox(&self) -> Result<(), StoreError> {
        let sql = "UPDATE outbox SET state = 'pending', reason = NULL WHERE reason = 'stale' AND seq > ?1";
        self.run(sql, [int(self.outbox_acked()?.0)])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{self, pod};

    fn event() -> PodEvent {
        PodEvent::ShutDown { pod: pod("a", 1) }
    }

    #[test]
    fn numbers_go_on_after_a_trim() {
        let store = fixture::memory("a");
        store.with(|tx| {
            assert_eq!(tx.raise(&event(), Room::Ordinary)?, Some(Seq(1)));
            assert_eq!(tx.raise(&event(), Room::Ordinary)?, Some(Seq(2)));
            tx.trim_outbox(Seq(2))?;
            assert_eq!(tx.raise(&event(), Room::Ordinary)?, Some(Seq(3)));
            let left = tx.outbox_from(Seq(0), 10)?;
            assert_eq!(left.iter().map(|row| row.seq).collect::<Vec<_>>(), [Seq(3)]);
            Ok(())
        });
    }

    #[test]
    fn without_a_parent_nothing_is_raised() {
        let mut store = fixture::memory("a");
        store.options.own.has_parent = false;
        store.with(|tx| {
            assert_eq!(tx.raise(&event(), Room::Reserved)?, None);
            assert_eq!(tx.outbox_head()?, Seq(0));
            Ok(())
        });
    }

    #[test]
    fn outbox_full_refuses_ordinary_events_and_keeps_room_for_the_last() {
        let mut store = fixture::memory("a");
        store.options.limits.outbox = 3;
        store.options.limits.outbox_reserve = 1;
        store.with(|tx| {
            tx.raise(&event(), Room::Ordinary)?;
            tx.raise(&event(), Room::Ordinary)?;
            assert!(matches!(tx.raise(&event(), Room::Ordinary), Err(StoreError::OutboxFull { max: 3 })));
            assert_eq!(tx.raise(&event(), Room::Reserved)?, Some(Seq(3)));
            assert!(tx.raise(&event(), Room::Reserved).is_err());
            tx.trim_outbox(Seq(2))?;
            assert_eq!(tx.raise(&event(), Room::Ordinary)?, Some(Seq(4)));
            Ok(())
        });
    }

    #[test]
    fn undeliverable_event_survives_the_trim_and_stale_ones_are_offered_by_the_next_life() {
        let store = fixture::memory("a");
        store.with(|tx| {
            for _ in 0..3 {
                tx.raise(&event(), Room::Ordinary)?;
            }
            tx.mark_undeliverable(Seq(1), UndeliverableReason::Unreadable, "bad body")?;
            tx.mark_undeliverable(Seq(3), UndeliverableReason::Stale, "stale")?;
            tx.trim_outbox(Seq(2))?;
            tx.revive_outbox()?;
            let left = tx.outbox_from(Seq(0), 10)?;
            let left: Vec<_> = left.iter().map(|row| (row.seq, row.state)).collect();
            assert_eq!(left, [(Seq(1), OutboxState::Undeliverable), (Seq(3), OutboxState::Pending)]);
            Ok(())
        });
    }

    #[test]
    fn store_that_is_older_than_its_parent_knows_goes_on_behind_what_the_parent_has() {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.raise(&event(), Room::Ordinary)?;
            tx.trim_outbox(Seq(99))?;
            assert_eq!(tx.raise(&event(), Room::Ordinary)?, Some(Seq(100)));
            Ok(())
        });
    }

    fn raise(tx: &Tx<'_>, events: u64) -> Result<(), StoreError> {
        (0..events).try_for_each(|_| tx.raise(&event(), Room::Ordinary).map(|_| ()))
    }

    fn places(tx: &Tx<'_>) -> Result<Vec<u64>, StoreError> {
        Ok(tx.outbox_from(Seq(0), 100)?.iter().map(|row| row.seq.0).collect())
    }

    #[test]
    fn event_of_a_restored_store_never_has_a_number_that_its_parent_has_seen() {
        // Events before the copy, those raised by the life that meets its parent, and how far the parent has come.
        for (before, raised, parent) in [(8, 2, 9), (8, 2, 10), (8, 2, 20), (8, 0, 20), (0, 3, 1)] {
            let store = fixture::memory("a");
            store.with(|tx| {
                raise(tx, before)?;
                tx.trim_outbox(Seq(before.saturating_sub(3)))?;
                tx.begin_unmet()?;
                raise(tx, raised)?;
                assert_eq!(tx.meet_parent(Seq(parent))?, Meeting::WeAreOlder);
                // All that this life has raised, and that it says what it is; nothing of what the parent has.
                let expected: Vec<u64> = (parent + 1..=parent + raised + 1).collect();
                assert_eq!((places(tx)?, tx.outbox_acked()?), (expected, Seq(parent)), "{before} {raised} {parent}");
                let last = tx.outbox_from(Seq(parent + raised + 1), 1)?;
                assert!(matches!(&last[0].event, PodEvent::Errored { work: None, message, .. } if message.contains("older copy")));
                assert_eq!(tx.raise(&event(), Room::Ordinary)?, Some(Seq(parent + raised + 2)));
                assert_eq!(tx.meet_parent(Seq(parent))?, Meeting::Agreed, "said twice");
                Ok(())
            });
        }
    }

    #[test]
    fn parent_that_lacks_what_was_acked_is_offered_it_as_a_gap_at_once() {
        let store = fixture::memory("a");
        store.with(|tx| {
            raise(tx, 9)?;
            tx.trim_outbox(Seq(9))?;
            tx.begin_unmet()?;
            assert_eq!(tx.meet_parent(Seq(4))?, Meeting::ParentIsOlder);
            assert_eq!((tx.outbox_acked()?, tx.outbox_head()?, places(tx)?), (Seq(4), Seq(9), vec![]));
            let told = tx.history_after(0, 10)?;
            assert_eq!(told[0].item, HistoryItem::NewerThanParent { ours: Seq(9), parent: Seq(4) });
            Ok(())
        });
    }

    #[test]
    fn stores_that_have_grown_together_agree() {
        for (parent, left) in [(5, vec![6, 7, 8, 9]), (8, vec![9]), (6, vec![7, 8, 9])] {
            let store = fixture::memory("a");
            store.with(|tx| {
                raise(tx, 8)?;
                tx.trim_outbox(Seq(5))?;
                tx.begin_unmet()?;
                raise(tx, 1)?;
                assert_eq!(tx.meet_parent(Seq(parent))?, Meeting::Agreed);
                assert_eq!((places(tx)?, tx.history_head()?), (left, 0));
                Ok(())
            });
        }
    }

    #[test]
    fn life_that_offered_before_it_met_its_parent_renumbers_nothing() {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.begin_unmet()?;
            tx.forego_meeting()?;
            raise(tx, 3)?;
            assert_eq!(tx.meet_parent(Seq(2))?, Meeting::Agreed);
            assert_eq!(places(tx)?, [3]);
            Ok(())
        });
    }

    #[test]
    fn claim_of_a_parent_that_cannot_be_true_changes_no_number() {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.raise(&event(), Room::Ordinary)?;
            tx.trim_outbox(Seq(u64::MAX))?;
            assert_eq!(tx.raise(&event(), Room::Ordinary)?, Some(Seq(2)));
            Ok(())
        });
    }
}
