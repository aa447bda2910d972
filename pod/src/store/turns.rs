//! Turns of the worker: what starts one, what it is told, and what its end makes true.
//!
//! At most one turn runs. A turn's end, what is reported of it, what it gives back and what it settles are one
//! transaction; so is what a new life finds and puts right.
//!
//! Called by `controller`.

use crate::id::{PodId, Seq, TurnId, WorkId};
use crate::protocol::{FailureKind, PodEvent, PodState, Text, TurnCap, TurnResult, WorkResult};
use crate::store::children::ChildRow;
use crate::store::clock::UnixMillis;
use crate::store::context::Compaction;
use crate::store::error::StoreError;
use crate::store::guard;
use crate::store::history::{HistoryItem, Origin, TurnCause, TurnOutcome};
use crate::store::inbox::{Return, StagedReport};
use crate::store::intents::Intent;
use crate::store::outbox::Room;
use crate::store::sql::{from_json, int, to_json};
use crate::store::status::Control;
use crate::store::tx::Tx;

/// How long a pod rests that a bound of its tree has blocked. LIMIT: bounds are raised by starting the root again, which the
/// pods below it outlive only if they are detached; each attempt is two entries of history.
const CAP_REST_MS: u64 = 3_600_000;

/// What a turn is to be started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartCause {
    /// A staged run, or else whatever the agent has to be told.
    Wake,
    /// A staged run, and nothing else.
    Run,
    /// The turn that was paused.
    Resume,
}

/// Whether a turn was started.
#[derive(Clone, Debug, PartialEq)]
pub enum TurnStart {
    /// It runs.
    Started(StartedTurn),
    /// There is nothing to start one for.
    Nothing,
    /// What a run was to do is no longer as it was written. Its turn has begun and has ended as failed, all in one; there may be
    /// others to be started.
    Failed(FailedStart),
    /// What it would have to report has no room: the parent has not acknowledged for very long.
    OutboxFull,
}

/// A turn that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct StartedTurn {
    /// Which.
    pub turn: TurnId,
    /// Why.
    pub cause: TurnCause,
    /// What its user wants, if a run started it.
    pub input: Option<String>,
    /// What it is told besides.
    pub reports: Vec<StagedReport>,
    /// The works that it is for.
    pub works: Vec<WorkId>,
    /// The works that are over because it takes the place of a paused turn.
    pub settled: Vec<(WorkId, WorkResult)>,
}

/// A turn that began and failed in one.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedStart {
    /// Why.
    pub message: String,
    /// The works that it was for.
    pub works: Vec<WorkId>,
    /// What its end has made true.
    pub ended: EndedTurn,
}

/// A turn that is over.
#[derive(Clone, Debug)]
pub struct EndTurn {
    /// Which.
    pub turn: TurnId,
    /// How it ended.
    pub outcome: TurnOutcome,
    /// The summary that it has made, if it was to make one.
    pub compaction: Option<Compaction>,
}

/// What a turn's end has made true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndedTurn {
    /// The events that the parent will be told, settled works included.
    pub events: Vec<Seq>,
    /// The works that are over.
    pub settled: Vec<(WorkId, WorkResult)>,
    /// Entries of the inbox that are to be told again.
    pub returned: u64,
    /// Whether the pod is blocked by it.
    pub blocked: bool,
}

/// What a new life found.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Turns that the last life's end had cut short.
    pub interrupted: Vec<TurnId>,
    /// What the controller begins with.
    pub control: Control,
    /// Children whose life is not known to be over.
    pub children: Vec<ChildRow>,
    /// What is still to be carried out.
    pub intents: Vec<Intent>,
}

struct Run {
    turn: TurnId,
    work: WorkId,
    origin: Origin,
    input: String,
}

impl Tx<'_> {
    /// Starts a turn, if there is one to start: commits its beginning, its input, and what it is told.
    ///
    /// # Errors
    /// `Contradiction` if a turn runs; else if it cannot be written.
    pub fn start_turn(&self, cause: StartCause) -> Result<TurnStart, StoreError> {
        if let Some(turn) = self.turn_in("running")? {
            return Err(StoreError::Contradiction(format!("turn {turn} is running")));
        }
        let paused = self.turn_in("paused")?;
        let run = match cause {
            StartCause::Wake | StartCause::Run => self.oldest_run()?,
            StartCause::Resume => None,
        };
        let run = match run.transpose() {
            Ok(run) => run,
            Err(_) if !self.outbox_has_room(Room::Ordinary)? => return Ok(TurnStart::OutboxFull),
            Err(turn) => return self.fail_run(turn).map(TurnStart::Failed),
        };
        let cause = match (cause, &run) {
            (StartCause::Wake | StartCause::Run, Some(_)) => TurnCause::Run,
            (StartCause::Wake, None) if paused.is_none() && !self.is_blocked()? && self.inbox_due()?.0 => {
                TurnCause::Reports
            }
            (StartCause::Resume, _) if paused.is_some() => TurnCause::Resume,
            _ => return Ok(TurnStart::Nothing),
        };
        if !self.outbox_has_room(Room::Ordinary)? {
            return Ok(TurnStart::OutboxFull);
        }
        if run.is_some() {
            self.unblock()?;
        }
        self.begin(cause, run, paused).map(TurnStart::Started)
    }

    fn begin(&self, cause: TurnCause, run: Option<Run>, paused: Option<TurnId>) -> Result<StartedTurn, StoreError> {
        let turn = match &run {
            Some(run) => run.turn,
            None => TurnId(self.take_number("next_turn")?),
        };
        self.open_turn(turn, cause)?;
        if let Some(paused) = paused {
            // A paused turn goes on in this one, or gives way to it.
            self.run("UPDATE turns SET state = 'ended' WHERE turn = ?1", [paused])?;
            if cause == TurnCause::Resume {
                self.run(
                    "INSERT INTO turn_works (turn, work) SELECT ?1, work FROM turn_works WHERE turn = ?2",
                    (turn, paused),
                )?;
            }
        }
        if let Some(run) = &run {
            self.run("DELETE FROM runs WHERE turn = ?1", [turn])?;
            self.run("INSERT INTO turn_works (turn, work) VALUES (?1, ?2)", (turn, run.work))?;
        }
        let works = self.turn_works(turn)?;
        self.turn_began(turn, cause, works)?;
        let input = match run {
            Some(run) => {
                let item = HistoryItem::UserInput { origin: run.origin, text: run.input.clone() };
                self.append(Some(turn), Some(run.work), &item)?;
                Some(run.input)
            }
            None => None,
        };
        let reports = self.stage_reports(turn, self.limits().reports_per_request)?;
        // Giving way to another turn may have been a work's last condition.
        let settled = self.settle_works()?;
        Ok(StartedTurn { turn, cause, input, reports, works: self.turn_works(turn)?, settled })
    }

    /// What `turn` was to do is damaged: it ends as soon as it has begun.
    fn fail_run(&self, turn: TurnId) -> Result<FailedStart, StoreError> {
        let message = format!("what turn {turn} was to do is damaged in the store: send it again");
        tracing::error!(target: "pod::store", %turn, "a run is no longer as it was written; its turn fails");
        self.run("DELETE FROM runs WHERE turn = ?1", [turn])?;
        guard::sum_up(self.conn, "runs")?;
        self.open_turn(turn, TurnCause::Run)?;
        // What is paused gives way to it, as to any run: it is not gone on with.
        self.run("UPDATE turns SET state = 'ended' WHERE state = 'paused'", [])?;
        // By its turn: what the run itself says is not to be believed.
        self.run(
            "INSERT INTO turn_works (turn, work) SELECT ?1, work FROM works WHERE turn = ?1 AND direction = 'received'",
            [turn],
        )?;
        let works = self.turn_works(turn)?;
        self.turn_began(turn, TurnCause::Run, works.clone())?;
        self.append(Some(turn), works.first().copied(), &HistoryItem::RunDamaged { turn })?;
        let outcome = TurnOutcome::Errored { kind: FailureKind::Other, message: message.clone() };
        let ended = self.end_turn(&EndTurn { turn, outcome, compaction: None })?;
        Ok(FailedStart { message, works, ended })
    }

    /// Starts a turn that does nothing but make the context shorter. It is told nothing, is for no work, and leaves a
    /// paused turn as it is.
    ///
    /// # Errors
    /// `Contradiction` if a turn runs; else if it cannot be written.
    pub fn start_compaction(&self) -> Result<StartedTurn, StoreError> {
        if let Some(turn) = self.turn_in("running")? {
            return Err(StoreError::Contradiction(format!("turn {turn} is running")));
        }
        let (turn, cause) = (TurnId(self.take_number("next_turn")?), TurnCause::Compact);
        self.open_turn(turn, cause)?;
        self.turn_began(turn, cause, Vec::new())?;
        Ok(StartedTurn { turn, cause, input: None, reports: Vec::new(), works: Vec::new(), settled: Vec::new() })
    }

    fn open_turn(&self, turn: TurnId, cause: TurnCause) -> Result<(), StoreError> {
        let sql = "INSERT INTO turns (turn, state, started_at, cause) VALUES (?1, 'running', ?2, ?3)";
        self.run(sql, (turn, self.now(), cause))?;
        Ok(())
    }

    fn turn_began(&self, turn: TurnId, cause: TurnCause, works: Vec<WorkId>) -> Result<(), StoreError> {
        let seq = self.append(Some(turn), works.first().copied(), &HistoryItem::TurnStarted { cause, works })?;
        self.run("UPDATE turns SET history = ?2 WHERE turn = ?1", (turn, int(seq)))?;
        Ok(())
    }

    /// Ends the turn that runs: history, what the parent is told of it, what was staged and not seen, what it settles.
    ///
    /// # Errors
    /// `Contradiction` if it does not run; else if it cannot be written: the turn is then still running for the store.
    pub fn end_turn(&self, end: &EndTurn) -> Result<EndedTurn, StoreError> {
        let paused = end.outcome == TurnOutcome::Ended { result: TurnResult::Paused };
        let state = if paused { "paused" } else { "ended" };
        let sql = "UPDATE turns SET state = ?2, ended_at = ?3 WHERE turn = ?1 AND state = 'running'";
        if self.run(sql, (end.turn, state, self.now()))? == 0 {
            return Err(StoreError::Contradiction(format!("turn {} is not running", end.turn)));
        }
        let head = self.outbox_head()?;
        let works = self.turn_works(end.turn)?;
        self.abandon_calls(end.turn)?;
        if let Some(compaction) = &end.compaction {
            self.compact(end.turn, compaction)?;
        }
        let item = HistoryItem::TurnEnded { outcome: end.outcome.clone() };
        let ended_at = self.append(Some(end.turn), works.first().copied(), &item)?;
        for work in works {
            self.report_turn(end, work)?;
        }
        self.note_outcome(end.turn, &end.outcome)?;
        let (returned, attempts) = self.return_reports(end.turn, how_to_return(&end.outcome))?;
        let compacting = self.leave_compaction_out(end.turn, ended_at, end.compaction.is_some())?;
        if end.outcome == (TurnOutcome::Ended { result: TurnResult::RolledBack }) {
            self.roll_back(end.turn, returned)?;
        }
        // A paused turn waits for its resume as it is.
        let blocked = !paused && returned > 0 && attempts >= self.limits().attempts;
        if blocked {
            self.block(end)?;
        } else if !compacting && returned == 0 && end.outcome == (TurnOutcome::Ended { result: TurnResult::Finished }) {
            self.set_meta_text("blocked_told", None)?;
        }
        let settled = self.settle_works()?;
        self.prune()?;
        let events = (head.0 + 1..=self.outbox_head()?.0).map(Seq).collect();
        crate::failpoint!("turn_end_before_commit");
        Ok(EndedTurn { events, settled, returned, blocked })
    }

    /// Gives the paused turn up, if it is `only` or anyone's: it ends as cancelled, and is reported like any other. Returns
    /// the works that this settles. Nothing to do if none is paused.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn abandon_paused(&self, only: Option<TurnId>) -> Result<Vec<(WorkId, WorkResult)>, StoreError> {
        let paused = self.turn_in("paused")?.filter(|turn| only.is_none_or(|only| only == *turn));
        let Some(turn) = paused else { return Ok(Vec::new()) };
        // Within this transaction it runs for one more moment, so that it ends as every turn does.
        self.run("UPDATE turns SET state = 'running' WHERE turn = ?1", [turn])?;
        let outcome = TurnOutcome::Ended { result: TurnResult::Cancelled };
        Ok(self.end_turn(&EndTurn { turn, outcome, compaction: None })?.settled)
    }

    fn report_turn(&self, end: &EndTurn, work: WorkId) -> Result<(), StoreError> {
        let (pod, turn) = (self.own().pod.clone(), end.turn);
        let (event, result) = match &end.outcome {
            TurnOutcome::Ended { result } => {
                (PodEvent::TurnEnded { pod, work, turn, result: *result }, WorkResult::from(*result))
            }
            TurnOutcome::Errored { kind, message } => {
                let (kind, message) = (Some(*kind), Text::clipped(message));
                (PodEvent::Errored { pod, work: Some(work), turn, kind, message }, WorkResult::Failed)
            }
        };
        self.set_last_result(work, result)?;
        self.raise(&event, Room::Reserved)?;
        Ok(())
    }

    /// No turn is started until a run, a resume or the timer; the parent is told once.
    fn block(&self, end: &EndTurn) -> Result<(), StoreError> {
        let (kind, reason) = match &end.outcome {
            TurnOutcome::Errored { kind, message } => (Some(*kind), message.clone()),
            TurnOutcome::Ended { result } => {
                (None, format!("turns end without telling the agent its reports ({result})"))
            }
        };
        let until = self.now().plus(self.limits().pause_max_ms);
        self.set_meta_number("blocked_until", until.0)?;
        self.append(Some(end.turn), None, &HistoryItem::Blocked { reason: reason.clone(), cap: None })?;
        if self.meta_text("blocked_told")?.is_none() {
            self.set_meta_text("blocked_told", Some("yes"))?;
            let message = Text::clipped(format!("blocked after {} attempts: {reason}", self.limits().attempts));
            let event = PodEvent::Errored { pod: self.own().pod.clone(), work: None, turn: end.turn, kind, message };
            self.raise(&event, Room::Reserved)?;
        }
        Ok(())
    }

    /// A bound of the tree refuses the turn that was to tell the agent what waits: none is started until a run, a resume or the
    /// timer; the parent is told once. What waits is kept, but no work waits for it any more, nor for what comes until the pod is
    /// unblocked: a turn that may never come would leave it open for ever. Returns the works that are settled by that. Nothing to do if a turn runs or is paused, or a run is
    /// staged.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn block_by(&self, cap: TurnCap) -> Result<Vec<(WorkId, WorkResult)>, StoreError> {
        // A run was counted when it was taken: it is started, and told what waits.
        let goes_on = self.exists("SELECT 1 FROM runs", [])?;
        if goes_on || self.turn_in("running")?.is_some() || self.turn_in("paused")?.is_some() {
            return Ok(Vec::new());
        }
        self.set_meta_number("blocked_until", self.now().plus(CAP_REST_MS).0)?;
        let sql = "SELECT DISTINCT w.work FROM works w JOIN inbox_works iw ON iw.work = w.work
                   JOIN inbox i ON i.id = iw.inbox AND i.state <> 'seen'
                   WHERE w.direction = 'received' AND w.state = 'open'";
        let waiting: Vec<WorkId> = self.all(sql, [], |row| row.get(0))?;
        for work in &waiting {
            self.set_last_result(*work, WorkResult::LimitReached)?;
            self.run("DELETE FROM inbox_works WHERE work = ?1", [work])?;
        }
        let settled = if waiting.is_empty() { Vec::new() } else { self.settle_works()? };
        if self.blocked_by()? == Some(cap) {
            return Ok(settled);
        }
        self.set_meta_text("blocked_by", Some(&to_json("a bound", &cap)?))?;
        let reason = cap.to_string();
        self.append(None, None, &HistoryItem::Blocked { reason: reason.clone(), cap: Some(cap) })?;
        if self.meta_text("blocked_told")?.is_none() {
            self.set_meta_text("blocked_told", Some("yes"))?;
            let (kind, message) = (Some(FailureKind::Limit), Text::clipped(format!("blocked: {reason}")));
            // Of no turn: none was started.
            let (pod, turn) = (self.own().pod.clone(), TurnId(0));
            self.raise(&PodEvent::Errored { pod, work: None, turn, kind, message }, Room::Reserved)?;
        }
        Ok(settled)
    }

    /// Turns may be started again, and what waited for its pause need not wait. Nothing to do if the pod is not blocked.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn unblock(&self) -> Result<(), StoreError> {
        if self.is_blocked()? {
            self.set_meta_text("blocked_until", None)?;
            self.set_meta_text("blocked_by", None)?;
            self.run("UPDATE inbox SET not_before = 0 WHERE state = 'unseen'", [])?;
            self.append(None, None, &HistoryItem::Unblocked)?;
        }
        Ok(())
    }

    /// Puts right what the last life left behind. Once, at the start of a life, before anything else.
    ///
    /// # Errors
    /// If it cannot be written: the pod must then not start.
    pub fn recover(&self) -> Result<Recovery, StoreError> {
        let pod: PodId = self.own().pod.clone();
        self.append(None, None, &HistoryItem::LifeStarted { pod })?;
        self.begin_unmet()?;
        self.revive_outbox()?;
        let mut interrupted = Vec::new();
        while let Some(turn) = self.turn_in("running")? {
            let outcome = TurnOutcome::Ended { result: TurnResult::Interrupted };
            self.end_turn(&EndTurn { turn, outcome, compaction: None })?;
            interrupted.push(turn);
        }
        if self.blocked_by()?.is_some() {
            // It may have been raised since; if not, the next turn finds it where it was.
            self.unblock()?;
        }
        if !self.own().reads_reports {
            // What was kept for a worker that an earlier life hosted.
            self.file_unread()?;
        }
        self.settle_works_given_away()?;
        self.settle_works()?;
        Ok(Recovery {
            interrupted,
            control: self.control()?,
            children: self.live_children()?,
            intents: self.intents()?,
        })
    }

    /// The run that was staged first; its turn alone, if it is no longer as it was written.
    fn oldest_run(&self) -> Result<Option<Result<Run, TurnId>>, StoreError> {
        let sql = "SELECT turn, work, origin, input, sum = pod_sum(turn, work, at, origin, input) FROM runs
                   ORDER BY turn LIMIT 1";
        self.one(sql, [], |row| {
            let turn = row.get::<_, TurnId>(0)?;
            let read = || -> Result<Run, StoreError> {
                self.as_written("a run", turn.0, row.get(4)?)?;
                let origin = from_json("an origin", &row.get::<_, String>(2)?)?;
                Ok(Run { turn, work: row.get(1)?, origin, input: row.get(3)? })
            };
            Ok(read().map_err(|_| turn))
        })
    }

    fn turn_works(&self, turn: TurnId) -> Result<Vec<WorkId>, StoreError> {
        let sql = "SELECT tw.work FROM turn_works tw JOIN works w ON w.work = tw.work WHERE tw.turn = ?1
                   ORDER BY w.at, tw.work";
        self.all(sql, [int(turn.0)], |row| row.get(0))
    }
}

/// What becomes of entries that were staged and not seen.
fn how_to_return(outcome: &TurnOutcome) -> Return {
    match outcome {
        TurnOutcome::Errored { .. } => Return::Attempted,
        TurnOutcome::Ended { result } => match result {
            TurnResult::Finished | TurnResult::LimitReached => Return::Attempted,
            TurnResult::Interrupted => Return::Interrupted,
            TurnResult::Paused => Return::Paused,
            TurnResult::Cancelled => Return::Cancelled,
            TurnResult::RolledBack => Return::RolledBack,
        },
    }
}

/// What is blocked until when; used by the reads of `status`.
pub(crate) fn blocked_until(number: u64) -> Option<UnixMillis> {
    (number != 0).then_some(UnixMillis(number))
}

/// The state that the store's facts amount to.
pub(crate) fn state_of(running: Option<TurnId>, paused: Option<TurnId>, blocked: bool) -> PodState {
    match (running, paused, blocked) {
        (Some(_), _, _) => PodState::Running,
        (None, Some(_), _) => PodState::Paused,
        (None, None, true) => PodState::Blocked,
        (None, None, false) => PodState::Idle,
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
