//! Work: what this pod was given, and what it has given to its children.
//!
//! A work that was received is settled once, in the transaction that makes its last condition true: no run of it is
//! staged, no turn of it is open, no report that belongs to it is untold, and nothing that was delegated for it is
//! open. A work that was delegated is settled by its child's word, or lost with its child.
//!
//! Written by `turns`, `children` and `event`.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::id::{PodId, PodName, TurnId, WorkId};
use crate::protocol::{Accepted, PodEvent, WorkResult, clip};
use crate::store::clock::UnixMillis;
use crate::store::context::COUNTS;
use crate::store::error::StoreError;
use crate::store::history::{HistoryItem, Origin};
use crate::store::outbox::Room;
use crate::store::sql::{from_json, stored_word, to_json};
use crate::store::tx::{Reads, Tx};

/// LIMIT: how much of a work's input tables show, in bytes. The whole input is in the history of whoever received it.
const SUMMARY_BYTES_MAX: usize = 200;

/// One work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkRow {
    /// Which.
    pub work: WorkId,
    /// Whose it is to do.
    pub direction: Direction,
    /// When it was received or delegated.
    pub at: UnixMillis,
    /// When it was settled.
    pub settled_at: Option<UnixMillis>,
    /// The child that has it, if it was delegated, and the life that it was given to.
    pub child: Option<PodId>,
    /// The work of ours that it serves.
    pub belongs_to: Option<WorkId>,
    /// What it is, in short.
    pub input: String,
    /// The turn that it was accepted as. A delegated work without one may never have reached its child.
    pub turn: Option<TurnId>,
    /// How it ended; none while it is open.
    pub result: Option<WorkResult>,
}

/// Whose a work is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ours.
    Received,
    /// A child's.
    Delegated,
}

/// How a child was asked for a work, and is asked again as long as it is not known whether it has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GivenAs {
    /// As a run: what is paused gives way to it.
    #[default]
    Run,
    /// To be done when what runs, or is paused, is over.
    FollowUp,
}

/// A run that was accepted.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// The work that it is.
    pub work: WorkId,
    /// Who asked.
    pub origin: Origin,
    /// What to do.
    pub input: String,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagedRun {
    /// What its sender is told.
    pub accepted: Accepted,
    /// Whether the work was known: nothing was then staged.
    pub duplicate: bool,
}

stored_word!(GivenAs, "way to give work", Run = "run", FollowUp = "follow_up");
stored_word!(Direction, "direction", Received = "received", Delegated = "delegated");

impl Reads<'_> {
    /// The works of one direction, oldest first; all, or only those that are open.
    ///
    /// # Errors
    /// If the file or a row cannot be read.
    pub fn works(&self, direction: Direction, open_only: bool) -> Result<Vec<WorkRow>, StoreError> {
        self.works_where("direction = ?1 AND (state = 'open' OR NOT ?2)", (direction, open_only))
    }

    /// The works that were given to this life of a child, oldest first.
    ///
    /// # Errors
    /// If the file or a row cannot be read.
    pub fn works_of(&self, child: &PodId) -> Result<Vec<WorkRow>, StoreError> {
        let condition = "direction = 'delegated' AND child = ?1 AND incarnation = ?2";
        self.works_where(condition, (&child.name, child.incarnation))
    }

    fn works_where(&self, condition: &str, params: impl rusqlite::Params) -> Result<Vec<WorkRow>, StoreError> {
        let sql = format!(
            "SELECT work, direction, at, settled_at, child, incarnation, belongs_to, input, turn, result FROM works
             WHERE {condition} ORDER BY at, work"
        );
        let rows = self.all(&sql, params, |row| {
            let child: Option<PodName> = row.get(4)?;
            let row_without_result = WorkRow {
                work: row.get(0)?,
                direction: row.get(1)?,
                at: row.get(2)?,
                settled_at: row.get(3)?,
                child: match (child, row.get(5)?) {
                    (Some(name), Some(incarnation)) => Some(PodId::new(name, incarnation)),
                    _ => None,
                },
                belongs_to: row.get(6)?,
                input: clip(row.get_ref(7)?.as_str()?, SUMMARY_BYTES_MAX).into_owned(),
                turn: row.get(8)?,
                result: None,
            };
            Ok((row_without_result, row.get::<_, Option<String>>(9)?))
        })?;
        let rows = rows.into_iter().map(|(row, result)| {
            let result = result.map(|text| from_json("a work's result", &text)).transpose()?;
            Ok(WorkRow { result, ..row })
        });
        rows.collect()
    }

    /// How many works of one direction are open.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn works_open(&self, direction: Direction) -> Result<u64, StoreError> {
        self.number("SELECT count(*) FROM works WHERE direction = ?1 AND state = 'open'", [direction])
    }

    /// The whole input of a delegated work that is open and not known to have arrived, and how it was given: what is to be sent
    /// again.
    pub(crate) fn delegated_input(&self, work: WorkId) -> Result<Option<(GivenAs, String)>, StoreError> {
        let sql = "SELECT given_as, input FROM works
                   WHERE work = ?1 AND direction = 'delegated' AND state = 'open' AND turn IS NULL";
        self.one(sql, [work], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// What the sender of a run was told, if it was taken on before.
    ///
    /// # Errors
    /// `Contradiction` if the work is one that this pod has delegated; else if the file cannot be read.
    pub fn accepted_run(&self, work: WorkId) -> Result<Option<Accepted>, StoreError> {
        let known = self.one("SELECT direction, turn FROM works WHERE work = ?1", [work], |row| {
            Ok((row.get::<_, Direction>(0)?, row.get::<_, Option<TurnId>>(1)?))
        })?;
        match known {
            None => Ok(None),
            Some((Direction::Received, Some(turn))) => Ok(Some(Accepted { turn, work })),
            Some(_) => Err(StoreError::Contradiction(format!("work {work} was delegated by this pod"))),
        }
    }

    /// The work of ours that a delegated one serves.
    pub(crate) fn belongs_to(&self, delegated: WorkId) -> Result<Option<WorkId>, StoreError> {
        let sql = "SELECT belongs_to FROM works WHERE work = ?1 AND direction = 'delegated'";
        self.one(sql, [delegated], |row| row.get(0)).map(Option::flatten)
    }
}

impl Tx<'_> {
    /// Takes a run on: its work, its turn and its input. The same work again is told the same turn.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn stage_run(&self, run: &NewRun) -> Result<StagedRun, StoreError> {
        if let Some(accepted) = self.accepted_run(run.work)? {
            return Ok(StagedRun { accepted, duplicate: true });
        }
        let turn = TurnId(self.take_number("next_turn")?);
        let origin = to_json("an origin", &run.origin)?;
        self.run(
            "INSERT INTO works (work, direction, state, at, origin, input, turn)
             VALUES (?1, 'received', 'open', ?2, ?3, ?4, ?5)",
            params![run.work, self.now(), origin, &*clip(&run.input, SUMMARY_BYTES_MAX), turn],
        )?;
        self.run(
            "INSERT INTO runs (turn, work, at, origin, input, sum)
             VALUES (?1, ?2, ?3, ?4, ?5, pod_sum(?1, ?2, ?3, ?4, ?5))",
            params![turn, run.work, self.now(), origin, run.input],
        )?;
        Ok(StagedRun { accepted: Accepted { turn, work: run.work }, duplicate: false })
    }

    /// Records that `child` is about to be given `work`. Before it is sent: work that is under way is never unknown.
    ///
    /// # Errors
    /// `Contradiction` if the work is known already, or if `child` is not alive.
    pub fn delegate(
        &self,
        work: WorkId,
        child: &PodId,
        belongs_to: Option<WorkId>,
        input: &str,
    ) -> Result<(), StoreError> {
        self.delegate_as(GivenAs::Run, work, child, belongs_to, input)
    }

    /// The same for what may be asked for otherwise than as a run.
    pub(crate) fn delegate_as(
        &self,
        given_as: GivenAs,
        work: WorkId,
        child: &PodId,
        belongs_to: Option<WorkId>,
        input: &str,
    ) -> Result<(), StoreError> {
        let alive = self.child(child)?.is_some_and(|row| row.terminal.is_none());
        if !alive {
            return Err(StoreError::Contradiction(format!("pod {child} has ended and takes no work")));
        }
        if self.exists("SELECT 1 FROM works WHERE work = ?1", [work])? {
            return Err(StoreError::Contradiction(format!("work {work} exists already")));
        }
        self.run(
            "INSERT INTO works (work, direction, state, at, child, incarnation, belongs_to, input, given_as)
             VALUES (?1, 'delegated', 'open', ?2, ?3, ?4, ?5, ?6, ?7)",
            params![work, self.now(), child.name, child.incarnation, belongs_to, input, given_as],
        )?;
        let input = clip(input, SUMMARY_BYTES_MAX).into_owned();
        let item = HistoryItem::WorkDelegated { child: child.clone(), input };
        self.append(None, Some(work), &item)?;
        Ok(())
    }

    /// The child has accepted the work as its turn `turn`.
    ///
    /// # Errors
    /// If it cannot be written: the work is then sent once more, and is a duplicate.
    pub fn delegation_accepted(&self, work: WorkId, turn: TurnId) -> Result<(), StoreError> {
        self.run("UPDATE works SET turn = ?2 WHERE work = ?1 AND direction = 'delegated'", (work, turn))?;
        Ok(())
    }

    /// The child did not take the work, or is known never to have been asked. Returns the works of ours that this settles.
    ///
    /// # Errors
    /// If it cannot be written.
    #[must_use = "whoever waits for a work that this settles has to be told"]
    pub fn delegation_refused(&self, work: WorkId) -> Result<Vec<(WorkId, WorkResult)>, StoreError> {
        let sql = "SELECT child FROM works WHERE work = ?1 AND direction = 'delegated'";
        match self.one(sql, [work], |row| row.get::<_, PodName>(0))? {
            Some(child) => {
                self.settle_delegated(work, &child, WorkResult::Refused)?;
                self.settle_works()
            }
            None => Ok(Vec::new()),
        }
    }

    /// A delegated work is over. False if it was over already, or is not that child's.
    pub(crate) fn settle_delegated(
        &self,
        work: WorkId,
        child: &PodName,
        result: WorkResult,
    ) -> Result<bool, StoreError> {
        // Of what is over, tables show the beginning; the rest of its input is in the history of whoever had it.
        let sql = "UPDATE works SET state = 'settled', settled_at = ?3, result = ?4, input = substr(input, 1, 200)
                   WHERE work = ?1 AND child = ?2 AND direction = 'delegated' AND state = 'open'";
        let first = self.run(sql, (work, child, self.now(), to_json("a result", &result)?))? == 1;
        if first {
            let item = HistoryItem::WorkSettled { result, child: Some(child.clone()) };
            self.append(None, Some(work), &item)?;
        }
        Ok(first)
    }

    /// All open works of a child's life are over. Returns the works of ours that they served.
    pub(crate) fn settle_delegated_to(&self, child: &PodId, result: WorkResult) -> Result<Vec<WorkId>, StoreError> {
        let sql = "SELECT work, belongs_to FROM works
                   WHERE child = ?1 AND incarnation = ?2 AND direction = 'delegated' AND state = 'open'";
        let open = self.all(sql, (&child.name, child.incarnation), |row| {
            Ok((row.get::<_, WorkId>(0)?, row.get::<_, Option<WorkId>>(1)?))
        })?;
        let mut served = Vec::new();
        for (work, belongs_to) in open {
            self.settle_delegated(work, &child.name, result)?;
            served.extend(belongs_to.filter(|work| !served.contains(work)));
        }
        Ok(served)
    }

    /// Settles every received work whose last condition has become true, and tells the parent, once. Part of every
    /// transaction that can make one true.
    ///
    /// # Errors
    /// If it cannot be written, or if the parent cannot be told.
    pub fn settle_works(&self) -> Result<Vec<(WorkId, WorkResult)>, StoreError> {
        // A work whose run was rolled back or rewound is not finished by what is done about its reports afterwards.
        let sql = format!(
            "SELECT w.work, w.last_result,
                    coalesce((SELECT {COUNTS} FROM (SELECT turn, history AS seq FROM turns) h
                              WHERE h.turn = w.turn AND h.seq IS NOT NULL), 1)
             FROM works w
             WHERE w.direction = 'received' AND w.state = 'open'
               AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.work = w.work)
               AND NOT EXISTS (SELECT 1 FROM turn_works tw JOIN turns t ON t.turn = tw.turn
                               WHERE tw.work = w.work AND t.state <> 'ended')
               AND NOT EXISTS (SELECT 1 FROM inbox_works iw JOIN inbox i ON i.id = iw.inbox
                               WHERE iw.work = w.work AND i.state <> 'seen')
               AND NOT EXISTS (SELECT 1 FROM works d WHERE d.belongs_to = w.work AND d.state = 'open')
             ORDER BY w.at, w.work"
        );
        let due = self.all(&sql, [], |row| {
            Ok((row.get::<_, WorkId>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, bool>(2)?))
        })?;
        let mut settled = Vec::with_capacity(due.len());
        for (work, last, counts) in due {
            let last = last.map(|text| from_json("a work's last result", &text)).transpose()?;
            let result = last.filter(|_| counts).unwrap_or(WorkResult::Cancelled);
            let sql = "UPDATE works SET state = 'settled', settled_at = ?2, result = ?3 WHERE work = ?1";
            self.run(sql, (work, self.now(), to_json("a result", &result)?))?;
            self.append(None, Some(work), &HistoryItem::WorkSettled { result, child: None })?;
            let event = PodEvent::WorkSettled { pod: self.own().pod.clone(), work, result };
            self.raise(&event, Room::Reserved)?;
            settled.push((work, result));
        }
        Ok(settled)
    }

    /// What a turn that was for `work` came to.
    pub(crate) fn set_last_result(&self, work: WorkId, result: WorkResult) -> Result<(), StoreError> {
        let sql = "UPDATE works SET last_result = ?2 WHERE work = ?1 AND state = 'open'";
        self.run(sql, (work, to_json("a result", &result)?))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Seq;
    use crate::store::fixture::{self, new_child, pod};

    fn run(work: u64) -> NewRun {
        NewRun { work: WorkId(work), origin: Origin::Host, input: "do it".to_owned() }
    }

    #[test]
    fn run_sent_twice_is_staged_once_and_told_the_same_turn() {
        let store = fixture::memory("a");
        store.with(|tx| {
            let first = tx.stage_run(&run(5))?;
            let again = tx.stage_run(&run(5))?;
            assert!(!first.duplicate && again.duplicate);
            assert_eq!(first.accepted, again.accepted);
            assert_eq!(tx.number("SELECT count(*) FROM runs", [])?, 1);
            assert_eq!(tx.stage_run(&run(6))?.accepted.turn, TurnId(2));
            Ok(())
        });
    }

    #[test]
    fn work_with_an_open_descendant_is_settled_when_that_is_over_and_once() {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.reserve_child(&new_child(&pod("b", 1)))?;
            tx.stage_run(&run(1))?;
            tx.delegate(WorkId(2), &pod("b", 1), Some(WorkId(1)), "part")?;
            tx.run("DELETE FROM runs", [])?;
            assert!(tx.settle_works()?.is_empty(), "settled while a descendant is open");
            assert!(tx.settle_delegated(WorkId(2), &pod("b", 1).name, WorkResult::Finished)?);
            assert!(!tx.settle_delegated(WorkId(2), &pod("b", 1).name, WorkResult::Finished)?);
            assert_eq!(tx.settle_works()?.len(), 1);
            assert!(tx.settle_works()?.is_empty(), "settled twice");
            assert_eq!(tx.outbox_head()?, Seq(1));
            Ok(())
        });
    }

    #[test]
    fn work_is_not_settled_by_another_child() {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.reserve_child(&new_child(&pod("b", 1)))?;
            tx.delegate(WorkId(2), &pod("b", 1), None, "part")?;
            assert!(!tx.settle_delegated(WorkId(2), &pod("c", 1).name, WorkResult::Finished)?);
            assert_eq!(tx.works_open(Direction::Delegated)?, 1);
            Ok(())
        });
    }

    #[test]
    fn work_for_a_child_that_has_ended_or_with_a_known_id_is_refused() {
        let store = fixture::memory("a");
        let delegate = |child: PodId| store.try_with(|tx| tx.delegate(WorkId(2), &child, None, "part"));
        assert!(delegate(pod("b", 1)).is_err());
        store.with(|tx| tx.reserve_child(&new_child(&pod("b", 1))));
        delegate(pod("b", 1)).unwrap();
        assert!(delegate(pod("b", 1)).unwrap_err().to_string().contains("exists already"));
    }

    #[test]
    fn delegated_work_keeps_its_input_while_it_may_have_to_be_sent_again() {
        let store = fixture::memory("a");
        let input = "x".repeat(5000);
        store.with(|tx| {
            tx.reserve_child(&new_child(&pod("b", 1)))?;
            tx.delegate(WorkId(2), &pod("b", 1), None, &input)?;
            let row = &tx.works(Direction::Delegated, true)?[0];
            assert_eq!((row.turn, row.input.len()), (None, SUMMARY_BYTES_MAX));
            assert_eq!(tx.delegated_input(WorkId(2))?, Some((GivenAs::Run, input.clone())));
            tx.delegation_accepted(WorkId(2), TurnId(4))?;
            assert_eq!(tx.delegated_input(WorkId(2))?, None, "it has arrived");
            assert_eq!(tx.works(Direction::Delegated, true)?[0].turn, Some(TurnId(4)));
            tx.settle_delegated(WorkId(2), &pod("b", 1).name, WorkResult::Finished)?;
            assert_eq!(tx.delegated_input(WorkId(2))?, None);
            Ok(())
        });
    }

    #[test]
    fn refused_delegation_settles_what_waited_for_it() {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.reserve_child(&new_child(&pod("b", 1)))?;
            tx.delegate(WorkId(2), &pod("b", 1), None, "part")?;
            tx.delegation_refused(WorkId(2))?;
            assert_eq!(tx.works(Direction::Delegated, false)?[0].result, Some(WorkResult::Refused));
            Ok(())
        });
    }
}
