//! What the controller decides by, and what people are shown: read from the tables, never kept beside them.
//!
//! Used by `controller` (wake rule, status) and by `pod ls`.

use serde::{Deserialize, Serialize};

use crate::id::{Seq, TurnId};
use crate::protocol::{FailureKind, PodState, TurnCap, TurnResult, clip};
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::history::TurnOutcome;
use crate::store::sql::{from_json, int, to_json};
use crate::store::turns::{blocked_until, state_of};
use crate::store::tx::{Reads, Tx};
use crate::store::works::Direction;

/// What decides whether a turn starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Running, paused, blocked or idle; a pod that stops is not told from here.
    pub state: PodState,
    /// The turn that runs or is paused.
    pub turn: Option<TurnId>,
    /// Runs that wait for their turn.
    pub runs_staged: u64,
    /// Whether something that may start a turn waits in the inbox and is due.
    pub wakes_due: bool,
    /// When to look again: something becomes due then, or a blocked pod may try again.
    pub next_due: Option<UnixMillis>,
}

/// The figures of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusCounts {
    /// Entries of its history.
    pub history: u64,
    /// Runs that wait for their turn.
    pub runs_staged: u64,
    /// Entries that the agent has not seen.
    pub inbox_waiting: u64,
    /// Events that await the parent.
    pub outbox_pending: u64,
    /// Events that the parent cannot take.
    pub outbox_undeliverable: u64,
    /// The last event that the parent is known to have.
    pub outbox_acked: Seq,
    /// What became of the last offer, if it failed.
    pub outbox_last_outcome: Option<String>,
    /// Received works that are open.
    pub works_received_open: u64,
    /// Delegated works that are open.
    pub works_delegated_open: u64,
    /// Children's lives that are not over.
    pub children_live: u64,
    /// All children's lives.
    pub children_total: u64,
    /// How the worker failed last; none, if a turn has finished since.
    pub last_failure: Option<TurnFailure>,
    /// The bound of its tree that has blocked it.
    pub blocked_by: Option<TurnCap>,
}

/// A failure of the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnFailure {
    /// In which turn.
    pub turn: TurnId,
    /// What kind it was.
    pub kind: FailureKind,
    /// The beginning of what the worker said.
    pub message: String,
}

/// LIMIT: how much of a failure's message the status shows, in bytes; all of it stands in history.
const FAILURE_BYTES_MAX: usize = 256;

impl Tx<'_> {
    /// The run of `turn` takes the place of what is paused now, or will be when what runs now is: also if this process dies before it
    /// starts. One that is to wait for the pause to end does not; nor does it take the place of what comes in between and is paused.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn lift_with(&self, turn: TurnId) -> Result<(), StoreError> {
        let lifted = self.turn_in("paused")?.or(self.turn_in("running")?);
        self.set_meta_number("lifting_run", turn.0)?;
        self.set_meta_number("lifted_turn", lifted.unwrap_or(TurnId(0)).0)
    }

    /// Keeps how the worker failed last, until a turn finishes.
    pub(crate) fn note_outcome(&self, turn: TurnId, outcome: &TurnOutcome) -> Result<(), StoreError> {
        match outcome {
            TurnOutcome::Errored { kind, message } => {
                let message = clip(message, FAILURE_BYTES_MAX).into_owned();
                let failure = to_json("the last failure", &TurnFailure { turn, kind: *kind, message })?;
                self.set_meta_text("last_failure", Some(&failure))
            }
            TurnOutcome::Ended { result: TurnResult::Finished } => self.set_meta_text("last_failure", None),
            TurnOutcome::Ended { .. } => Ok(()),
        }
    }
}

impl Reads<'_> {
    /// What decides whether a turn starts.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn control(&self) -> Result<Control, StoreError> {
        let (running, paused) = (self.turn_in("running")?, self.turn_in("paused")?);
        let until = blocked_until(self.meta_number("blocked_until")?);
        let (wakes_due, inbox_due) = self.inbox_due()?;
        // Accepted to be done instead of what is paused, and not started yet.
        let lifting = self.meta_number("lifting_run")?;
        let lifted = self.meta_number("lifted_turn")?;
        // A store that was written before this was kept says it of whatever is paused.
        let any = !self.exists("SELECT 1 FROM meta WHERE key = 'lifted_turn'", [])?;
        let is_lifted = paused.is_some_and(|turn| any || turn.0 == lifted)
            && self.exists("SELECT 1 FROM runs WHERE turn = ?1", [int(lifting)])?;
        Ok(Control {
            state: state_of(running, paused.filter(|_| !is_lifted), until.is_some()),
            turn: running.or(paused),
            runs_staged: self.number("SELECT count(*) FROM runs", [])?,
            wakes_due,
            next_due: until.or(inbox_due),
        })
    }

    /// The figures of the pod.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn status_counts(&self) -> Result<StatusCounts, StoreError> {
        let undeliverable = "SELECT count(*) FROM outbox WHERE state = 'undeliverable'";
        Ok(StatusCounts {
            history: self.history_head()?,
            runs_staged: self.number("SELECT count(*) FROM runs", [])?,
            inbox_waiting: self.inbox_waiting()?,
            outbox_pending: self.number("SELECT count(*) FROM outbox WHERE state = 'pending'", [])?,
            outbox_undeliverable: self.number(undeliverable, [])?,
            outbox_acked: self.outbox_acked()?,
            outbox_last_outcome: self.meta_text("last_outcome")?,
            works_received_open: self.works_open(Direction::Received)?,
            works_delegated_open: self.works_open(Direction::Delegated)?,
            children_live: self.number("SELECT count(*) FROM children WHERE state <> 'ended'", [])?,
            children_total: self.number("SELECT count(*) FROM children", [])?,
            last_failure: self
                .meta_text("last_failure")?
                .map(|text| from_json("the last failure", &text))
                .transpose()?,
            blocked_by: self.blocked_by()?,
        })
    }

    /// The bound of the tree that has blocked the pod.
    pub(crate) fn blocked_by(&self) -> Result<Option<TurnCap>, StoreError> {
        self.meta_text("blocked_by")?.map(|text| from_json("a bound", &text)).transpose()
    }

    /// The turn that is in `state`; at most one is in each of those that are not `ended`.
    pub(crate) fn turn_in(&self, state: &str) -> Result<Option<TurnId>, StoreError> {
        let sql = "SELECT max(turn) FROM turns WHERE state = ?1 AND state <> 'ended'";
        self.one(sql, [state], |row| row.get(0)).map(Option::flatten)
    }

    pub(crate) fn is_blocked(&self) -> Result<bool, StoreError> {
        Ok(blocked_until(self.meta_number("blocked_until")?).is_some())
    }
}
