//! The shell of the controller: it performs what `state` decides.
//!
//! Transactions are submitted without waiting between them and complete in the order in which they were submitted;
//! only what is committed changes the state, wakes, and is acked, in this order. Nothing here waits for a turn, a
//! child or an observer.
//!
//! One task a pod. Calls come from `calls` and `rewinding`, facts from the store, verdicts from `turn`. Every effect of the
//! state is performed here and nowhere else, which makes the file long.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use rpc::{Calls, Responder};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::answers::{Reply, Turns, Waiting};
use super::counting::{Counting, NotCounted};
use super::state::{Abilities, Effect, Input, Signal, Start, State, Step, TurnVerdict};
use super::time::{Patience, TurnTime};
use super::turn::{self, TurnInFlight, TurnOver};
use crate::event::{Delivery, send_pod_event_awaited};
use crate::handle::{Ordered, PodHandle, Shared};
use crate::id::TurnId;
use crate::notify_buffer::Facts;
use crate::protocol::{
    Compact, Compacting, ControlRejection, Method, PodEvent, PodState, ShutdownMode, TurnCap, TurnResult,
};
use crate::spawn::WorkEnd;
use crate::spawn::registry::Stop;
use crate::store::{
    Compaction, Control, EndTurn, EndedTurn, FailedStart, StartCause, StartedTurn, StoreError, TurnCause, TurnOutcome,
    TurnStart,
};
use crate::worker::{RewoundTo, Worker, WorkerError};

/// How long a child may take to end by itself when its parent stops.
const CHILD_GRACE: Duration = Duration::from_secs(20);
/// The wait for the ack of a pod's last event.
const LAST_EVENT: Duration = Duration::from_secs(5);
/// Between two attempts at something that the store refused. LIMIT: a full disk is no better in less.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// How long a pod that stops tries to commit the end of its turn. LIMIT: a child's parent waits 20 s before it signals.
const STOP_PATIENCE: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(10) };

/// What the controller hears besides calls.
pub(crate) enum Msg {
    /// Something was committed elsewhere in this pod.
    Facts(Ordered),
    /// The worker's turn is over.
    TurnOver(TurnOver),
    /// A child's life is over, or its start has failed.
    ChildEnded,
    /// This process was told to end.
    Stop(ShutdownMode),
}

/// What becomes of the state once a transaction has completed.
pub(super) type Completion = Box<dyn FnOnce(&mut Actor) + Send>;
pub(super) type Completing = Pin<Box<dyn Future<Output = Completion> + Send>>;

/// Tells whoever asked for a pause, a cancel or a resume what became of it.
pub(super) type Answer = Box<dyn FnOnce(Reply) + Send>;

/// What a worker had to say when its turn was over.
#[derive(Clone, Debug, Default)]
struct Said {
    failure: Option<WorkerError>,
    compaction: Option<Compaction>,
}

pub(crate) struct Actor {
    pub(super) shared: Shared,
    pub(super) handle: PodHandle,
    state: State,
    latest: Ordered,
    completing: FuturesOrdered<Completing>,
    /// What is tried again after a pause.
    later: FuturesUnordered<Completing>,
    worker: Option<Box<dyn Worker>>,
    in_flight: Option<TurnInFlight>,
    /// Whether it was a bound of the tree that has blocked the pod.
    pub(super) capped: bool,
    /// How many turns have begun in this life.
    pub(super) launched: u64,
    signal: watch::Sender<Option<Signal>>,
    /// When a turn that was asked to end is ended.
    patience: Option<Patience>,
    pub(super) time: TurnTime,
    /// When `Due` is said.
    due: Option<Instant>,
    stopping_children: bool,
    /// That the block is lifted is being committed.
    unblocking: bool,
    finish: bool,
    /// It was said that no turn is started because the parent has left too much unacknowledged.
    said_full: bool,
    /// Turns that are being counted, and those that were and have not begun.
    pub(super) counting: Counting,
    /// Kept for a commit that has to be tried again.
    verdict: Option<(TurnVerdict, Said)>,
    /// Whoever wanted the compaction that is about to start.
    pub(super) compacting: Option<Responder<Compact>>,
    /// What the worker has still to forget.
    pub(super) rewound: Option<RewoundTo>,
    /// Since when a pod that stops cannot commit.
    store_dead_since: Option<Instant>,
    /// The turn that is paused.
    pub(super) paused: Option<TurnId>,
    /// Whoever is told later what became of a pause, a cancel or a resume.
    pub(super) waiting: Waiting<Answer>,
    /// Dropped when the children of a rewind are waited for no longer.
    pub(super) abort_rewind: Option<oneshot::Sender<()>>,
}

impl Actor {
    pub(crate) fn new(handle: PodHandle, worker: Box<dyn Worker>, found: Control, facts: Ordered) -> Self {
        let shared = handle.shared().clone();
        let abilities =
            Abilities { reads_reports: worker.reads_reports(), compacts: worker.compacts(), rewinds: worker.rewinds() };
        let (state, step) = State::restored(abilities, found.state, facts.facts);
        let mut actor = Self {
            shared,
            handle,
            state,
            latest: facts,
            completing: FuturesOrdered::new(),
            later: FuturesUnordered::new(),
            worker: Some(worker),
            in_flight: None,
            capped: false,
            launched: 0,
            signal: watch::Sender::new(None),
            patience: None,
            time: TurnTime::default(),
            due: None,
            stopping_children: false,
            unblocking: false,
            finish: false,
            said_full: false,
            counting: Counting::default(),
            verdict: None,
            compacting: None,
            rewound: None,
            store_dead_since: None,
            paused: found.turn.filter(|_| found.state == PodState::Paused),
            waiting: Waiting::default(),
            abort_rewind: None,
        };
        actor.shared.phase.send_replace(actor.state.phase());
        actor.perform(step);
        actor
    }

    /// Runs until the pod's last event is said. Until then every call is answered.
    pub(crate) async fn run(mut self, mut calls: Calls<Method>, mut messages: mpsc::Receiver<Msg>) {
        while !self.finish {
            let timer = [self.due, self.patience.map(|patience| patience.until)].into_iter().flatten().min();
            // However many calls there are: time passes.
            if timer.is_some_and(|at| at <= Instant::now()) {
                self.tick();
                continue;
            }
            // CANCEL SAFETY: each of these returns what it took or leaves it where it is.
            tokio::select! {
                biased;
                Some(complete) = self.completing.next() => complete(&mut self),
                Some(counted) = self.counting.next() => counted(&mut self),
                Some(again) = self.later.next() => again(&mut self),
                Some(over) = self.time.over() => over(&mut self),
                Some(message) = messages.recv() => self.hear(message),
                Some(call) = calls.recv(), if self.has_room() => self.serve(call),
                () = until(timer) => self.tick(),
            }
        }
        // What is submitted is carried out; whoever asked for it is told.
        drop(calls);
        while let Some(complete) = self.completing.next().await {
            complete(&mut self);
        }
        self.give_turns_back().await;
    }

    /// LIMIT: transactions under way; further calls wait in their queue.
    fn has_room(&self) -> bool {
        self.completing.len() < 512
    }

    /// Asks the state, and performs what follows.
    pub(super) fn step(&mut self, input: Input) -> Step {
        let (state, step) = self.state.step(input);
        let stops = state.phase() == PodState::Stopping && self.phase() != PodState::Stopping;
        if state.phase() != self.state.phase() {
            tracing::debug!(pod = %self.shared.id, from = %self.state.phase(), to = %state.phase(), "state");
        }
        self.state = state;
        self.shared.phase.send_replace(state.phase());
        self.perform(step.clone());
        if stops {
            self.stops();
        }
        step
    }

    pub(super) fn phase(&self) -> PodState {
        self.state.phase()
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn turn(&self) -> Option<crate::id::TurnId> {
        self.in_flight.as_ref().map(|turn| turn.turn)
    }

    pub(super) fn turns(&self) -> Turns {
        Turns { in_flight: self.turn(), paused: self.paused }
    }

    /// What is committed, as of the newest commit that we have heard of: completions and messages come on two ways.
    pub(super) fn facts(&mut self, ordered: Ordered) -> Facts {
        if ordered.order > self.latest.order {
            self.latest = ordered;
        }
        self.latest.facts
    }

    /// Submits a transaction; `then` runs when it is committed, or with the reason why it was not. In order.
    pub(super) fn submit<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&crate::store::Tx<'_>) -> Result<T, StoreError> + Send + 'static,
        then: impl FnOnce(&mut Self, Result<(T, Ordered), StoreError>) + Send + 'static,
    ) {
        let submitted = self.shared.store.submit(self.shared.looking(work));
        let completing: Completing = match submitted {
            Ok(submitted) => Box::pin(async move {
                let result = submitted.await;
                Box::new(move |actor: &mut Self| then(actor, result)) as Completion
            }),
            Err(error) => {
                Box::pin(std::future::ready(Box::new(move |actor: &mut Self| then(actor, Err(error))) as Completion))
            }
        };
        self.completing.push_back(completing);
    }

    /// Runs `later` after a pause, in this task and in nobody's way.
    fn after(&mut self, pause: Duration, later: impl FnOnce(&mut Self) + Send + 'static) {
        self.later.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            Box::new(later) as Completion
        }));
    }

    /// Does `later` when its future is over, in this task and in nobody's way.
    pub(super) fn later(&mut self, later: Completing) {
        self.later.push(later);
    }

    pub(super) fn worker_rewinds(&self) -> bool {
        self.state.worker().rewinds
    }

    pub(super) fn worker_reads_reports(&self) -> bool {
        self.state.worker().reads_reports
    }

    pub(super) fn run_committing(&self) -> bool {
        self.state.run_committing()
    }

    fn hear(&mut self, message: Msg) {
        match message {
            Msg::Facts(ordered) => {
                let facts = self.facts(ordered);
                self.step(Input::Committed(facts));
            }
            Msg::TurnOver(over) => self.turn_over(over),
            Msg::ChildEnded => self.look_for_children(),
            Msg::Stop(mode) => {
                self.step(Input::Method(super::calls::shutdown_kind(mode)));
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.step(Input::Due);
        }
        let Some(patience) = self.patience else { return };
        self.patience = patience.at(now);
        if self.patience.is_none() {
            let signal = patience.signal;
            // A turn whose start is not committed yet has as long from then on.
            self.patience = self.in_flight.is_none().then(|| Patience::new(signal, now));
            if let Some((turn, Some(task))) = self.in_flight.as_ref().map(|turn| (turn.turn, turn.task.clone())) {
                tracing::warn!(pod = %self.shared.id, %turn, "the worker did not end its turn when it was asked to; it is ended");
                task.abort();
                let verdict = if signal == Signal::Pause { TurnVerdict::Paused } else { TurnVerdict::Cancelled };
                self.turn_over(TurnOver { turn, verdict, failure: None, compaction: None, worker: None });
            }
        }
    }

    fn perform(&mut self, step: Step) {
        for effect in step.effects {
            match effect {
                Effect::StartTurn(start) => self.start_turn(start),
                Effect::SignalTurn(signal) => {
                    self.signal.send_replace(Some(signal));
                    self.patience = Some(Patience::new(signal, Instant::now()));
                }
                Effect::CommitTurn(verdict) => self.commit_turn(verdict),
                Effect::AbandonPaused => self.abandon_paused(self.paused),
                Effect::AbortRewind => drop(self.abort_rewind.take()),
                Effect::Record => self.look_then(
                    |tx| tx.file_unread(),
                    |actor, facts| {
                        actor.step(Input::Recorded(facts));
                    },
                ),
                Effect::Unblock => self.unblock(),
                Effect::Look => self.look_then(
                    |_| Ok(()),
                    |actor, facts| {
                        actor.step(Input::Committed(facts));
                    },
                ),
                Effect::WakeAt(at_ms) => self.due = Some(at(at_ms)),
                Effect::RestBlocked => {
                    let until = self.latest.facts.inbox.next_due_ms.map_or(Instant::now() + RETRY_EVERY * 120, at);
                    self.due = Some(until);
                }
                Effect::StopChildren(signal) => {
                    self.stopping_children = true;
                    self.shared.registry.stop_all(Stop { now: signal == Signal::Shutdown, grace: CHILD_GRACE });
                    self.look_for_children();
                }
                Effect::Finish => {
                    let shared = self.shared.clone();
                    self.later.push(Box::pin(async move {
                        farewell(&shared).await;
                        Box::new(|actor: &mut Self| actor.finish = true) as Completion
                    }));
                }
            }
        }
    }

    fn unblock(&mut self) {
        self.unblocking = true;
        self.submit(
            |tx| tx.unblock(),
            |actor, done| {
                actor.unblocking = false;
                match done {
                    Ok(((), ordered)) => {
                        let facts = actor.facts(ordered);
                        actor.step(Input::Unblocked(facts));
                        give(actor.waiting.lifted(actor.phase()));
                    }
                    Err(error) => {
                        actor.complain("lift the block", &error);
                        if actor.phase() == PodState::Stopping {
                            // Nobody tries it again.
                            let reason = super::calls::reason(&error);
                            give(actor.waiting.not_lifted(&ControlRejection::Unavailable { reason }));
                        }
                        actor.due = Some(Instant::now() + RETRY_EVERY);
                    }
                }
            },
        );
    }

    /// The pod stops: whoever waits for what is not tried any more is told so, now.
    fn stops(&mut self) {
        self.stop_counting();
        if !self.unblocking {
            give(self.waiting.not_lifted(&ControlRejection::Stopping));
        }
    }

    fn look_then(
        &mut self,
        look: impl FnOnce(&crate::store::Tx<'_>) -> Result<(), StoreError> + Send + 'static,
        then: impl FnOnce(&mut Self, Facts) + Send + 'static,
    ) {
        self.submit(look, |actor, looked| match looked {
            Ok(((), ordered)) => {
                let facts = actor.facts(ordered);
                then(actor, facts);
            }
            Err(error) => {
                actor.complain("look at what is committed", &error);
                actor.after(RETRY_EVERY, |actor| {
                    let facts = actor.latest.facts;
                    then(actor, facts);
                });
            }
        });
    }

    fn look_for_children(&mut self) {
        if self.stopping_children && self.shared.children_gone() {
            self.stopping_children = false;
            // Not from within a step: its effects are being performed.
            self.completing.push_back(Box::pin(std::future::ready(Box::new(|actor: &mut Self| {
                actor.step(Input::ChildrenGone);
            }) as Completion)));
        }
    }

    fn start_turn(&mut self, start: Start) {
        self.signal = watch::Sender::new(None);
        // What an earlier one was asked for, that did not start, is nothing to this one.
        self.patience = None;
        let cause = match start {
            Start::Wake => StartCause::Wake,
            Start::Resume => StartCause::Resume,
            Start::Compact => return self.start_compaction(),
        };
        if cause == StartCause::Wake && self.latest.facts.runs_staged > 0 {
            // It was counted when it was taken.
            return self.submit_start(StartCause::Run, false);
        }
        self.counted(None, move |actor, counted| actor.turn_counted(cause, counted));
    }

    fn turn_counted(&mut self, cause: StartCause, counted: Result<bool, NotCounted>) {
        match counted {
            Ok(counted) => self.submit_start(cause, counted),
            Err(NotCounted::Cap(cap)) if cause == StartCause::Wake && self.phase() != PodState::Stopping => {
                tracing::warn!(pod = %self.shared.id, %cap, "no turn is started");
                self.submit(
                    move |tx| tx.block_by(cap),
                    move |actor, blocked| match blocked {
                        Ok((settled, ordered)) => {
                            let facts = actor.facts(ordered);
                            actor.shared.registry.settled(&settled);
                            actor.refused(facts, cap);
                        }
                        Err(error) => {
                            actor.complain("commit that the pod is blocked", &error);
                            actor.put_off();
                        }
                    },
                );
            }
            Err(NotCounted::Cap(cap)) => self.refused(self.latest.facts, cap),
            Err(NotCounted::Unavailable(reason)) => {
                tracing::error!(pod = %self.shared.id, reason = &*reason, "failed to count a turn");
                self.put_off();
            }
            // It is not started in this life, and the next one starts it.
            Err(NotCounted::Stopping) => self.put_off_now(),
        }
    }

    fn refused(&mut self, facts: Facts, cap: TurnCap) {
        self.step(Input::TurnRefused(facts));
        self.tell_not_started(Some(cap));
        if self.phase() == PodState::Blocked {
            self.capped = true;
            self.go_on_when_counted();
        }
    }

    /// A pod that is blocked need not rest any longer.
    pub(super) fn may_go_on(&mut self) {
        self.due = None;
        self.step(Input::Due);
    }

    /// `counted`: for this very start.
    fn submit_start(&mut self, cause: StartCause, counted: bool) {
        self.submit(
            move |tx| tx.start_turn(cause),
            move |actor, started| match started {
                Ok((TurnStart::Started(started), ordered)) => {
                    actor.facts(ordered);
                    actor.said_full = false;
                    // One that came with a run was counted with it.
                    actor.uncounted(counted && started.cause == TurnCause::Run);
                    actor.launch(started);
                }
                Ok((TurnStart::Nothing, ordered)) => {
                    actor.uncounted(counted);
                    let facts = actor.facts(ordered);
                    actor.step(Input::TurnDeclined(facts));
                    actor.not_started();
                }
                Ok((TurnStart::Failed(FailedStart { message, works, ended }), ordered)) => {
                    actor.uncounted(counted);
                    for work in works {
                        actor.shared.registry.own_turn_ended(work, WorkEnd::Errored { message: message.clone() });
                    }
                    actor.shared.registry.settled(&ended.settled);
                    let facts = actor.facts(ordered);
                    actor.step(Input::TurnDeclined(facts));
                    actor.not_started();
                }
                Ok((TurnStart::OutboxFull, ordered)) => {
                    actor.uncounted(counted);
                    actor.facts(ordered);
                    if !std::mem::replace(&mut actor.said_full, true) {
                        tracing::warn!(pod = %actor.shared.id, "no turn is started until the parent acknowledges some of the many events that it was offered");
                    }
                    actor.put_off();
                }
                Err(error) => {
                    actor.uncounted(counted);
                    actor.complain("start a turn", &error);
                    actor.put_off();
                }
            },
        );
    }

    /// Whoever wanted it is told when it has begun, or that it has not: it is not tried again.
    fn start_compaction(&mut self) {
        self.submit(
            |tx| tx.start_compaction(),
            |actor, started| {
                let responder = actor.compacting.take();
                match started {
                    Ok((started, ordered)) => {
                        actor.facts(ordered);
                        let turn = started.turn;
                        actor.launch(started);
                        if let Some(responder) = responder {
                            responder.ack(Compacting { turn });
                        }
                    }
                    Err(error) => {
                        actor.complain("start a compaction", &error);
                        let facts = actor.latest.facts;
                        actor.step(Input::TurnDeclined(facts));
                        actor.not_started();
                        if let Some(responder) = responder {
                            responder.reject(ControlRejection::Unavailable { reason: super::calls::reason(&error) });
                        }
                    }
                }
            },
        );
    }

    fn launch(&mut self, started: StartedTurn) {
        let (made, rewound) = match self.worker.take() {
            Some(worker) => (Ok(worker), self.rewound.take()),
            None => (self.shared.make_worker(), None),
        };
        // One that is made anew knows what is committed.
        self.rewound = None;
        if started.cause != TurnCause::Compact {
            // It goes on in this one, or has given way to it.
            self.paused = None;
        }
        // Whoever waits for work that has given way to it is told.
        self.shared.registry.settled(&started.settled);
        give(self.waiting.launched(self.phase(), started.turn));
        self.watch_time(started.turn);
        self.launched += 1;
        self.capped &= started.cause == TurnCause::Compact;
        self.in_flight = Some(turn::start(self.handle.clone(), made, started, rewound, self.signal.subscribe()));
    }

    fn put_off(&mut self) {
        self.after(RETRY_EVERY, Self::put_off_now);
    }

    fn put_off_now(&mut self) {
        let facts = self.latest.facts;
        self.step(Input::TurnPutOff(facts));
        self.not_started();
    }

    /// The turn that was to start did not: whoever asked something of it is not left waiting for the next attempt.
    fn not_started(&mut self) {
        self.tell_not_started(None);
    }

    fn tell_not_started(&mut self, cap: Option<TurnCap>) {
        if !self.state.is_starting() {
            self.patience = None;
        }
        give(self.waiting.not_started(&self.state, cap));
    }

    fn turn_over(&mut self, over: TurnOver) {
        // A worker that was ended may have spoken in that very moment: its turn is over already, and another may run.
        let Some(turn) = self.in_flight.as_mut().filter(|turn| turn.turn == over.turn && turn.task.is_some()) else {
            return;
        };
        // Kept until it is committed, so that whoever asks is told its number.
        turn.task = None;
        self.patience = None;
        self.time.forget();
        self.shared.live.over(over.turn);
        self.worker = over.worker;
        self.verdict = Some((over.verdict, Said { failure: over.failure, compaction: over.compaction }));
        self.step(Input::TurnOver(over.verdict));
    }

    fn commit_turn(&mut self, verdict: TurnVerdict) {
        let Some(turn) = self.turn() else { return };
        let said = self.verdict.take().map(|(_, said)| said).unwrap_or_default();
        // A summary counts only if the turn that made it was neither cancelled nor interrupted.
        let compaction = said.compaction.clone().filter(|_| verdict == TurnVerdict::Finished);
        let end = EndTurn { turn, outcome: outcome(verdict, said.failure.clone()), compaction };
        self.submit(
            move |tx| tx.end_turn(&end).map(|ended| (ended, end)),
            move |actor, ended| match ended {
                Ok(((ended, end), ordered)) => actor.turn_committed(&end, &ended, ordered),
                Err(error) => {
                    // It still runs for the store: nothing is told, and nothing else starts, until this is committed.
                    actor.complain("commit the end of a turn", &error);
                    if actor.stops_without_its_store() {
                        return actor.leave_turn(turn, &error);
                    }
                    actor.verdict = Some((verdict, said));
                    actor.after(RETRY_EVERY, move |actor| actor.commit_turn(verdict));
                }
            },
        );
    }

    /// Whether the pod has tried for long enough to commit the last of what it has to, now that it stops.
    fn stops_without_its_store(&mut self) -> bool {
        self.phase() == PodState::Stopping
            && self.store_dead_since.get_or_insert_with(Instant::now).elapsed() > STOP_PATIENCE
    }

    /// The end of the turn cannot be committed and the pod stops: for the store it runs, and the next life ends it.
    fn leave_turn(&mut self, turn: TurnId, error: &StoreError) {
        tracing::error!(pod = %self.shared.id, %turn, "the end of a turn is left to the next life, which ends it as interrupted");
        self.in_flight = None;
        // It is not paused, and so not given up either: whoever waits for that is told.
        let reason = super::calls::reason(error);
        give(self.waiting.not_given_up(&ControlRejection::Unavailable { reason }));
        let facts = self.latest.facts;
        self.step(Input::TurnLeft(facts));
        self.not_started();
    }

    fn turn_committed(&mut self, end: &EndTurn, ended: &EndedTurn, ordered: Ordered) {
        let works = self.in_flight.take().map(|turn| turn.works).unwrap_or_default();
        tracing::debug!(pod = %self.shared.id, turn = %end.turn, outcome = ?end.outcome, events = ?ended.events, "turn ended");
        let how = match &end.outcome {
            TurnOutcome::Ended { result } => WorkEnd::TurnEnded(*result),
            TurnOutcome::Errored { message, .. } => WorkEnd::Errored { message: message.clone() },
        };
        for work in works {
            self.shared.registry.own_turn_ended(work, how.clone());
        }
        self.shared.registry.settled(&ended.settled);
        if end.outcome == (TurnOutcome::Ended { result: TurnResult::Paused }) {
            self.paused = Some(end.turn);
        }
        let facts = self.facts(ordered);
        self.step(Input::TurnCommitted { facts, blocked: ended.blocked });
        if self.phase() == PodState::Stopping {
            // Nothing goes on in this life.
            self.not_started();
        }
    }

    fn abandon_paused(&mut self, turn: Option<TurnId>) {
        self.submit(
            move |tx| tx.abandon_paused(turn),
            move |actor, done| match done {
                Ok((settled, ordered)) => {
                    actor.shared.registry.settled(&settled);
                    actor.paused = actor.paused.filter(|paused| Some(*paused) != turn);
                    let facts = actor.facts(ordered);
                    actor.step(Input::AbandonCommitted(facts));
                    give(actor.waiting.given_up(actor.phase(), turn));
                }
                Err(error) => {
                    actor.complain("give the paused turn up", &error);
                    if actor.stops_without_its_store() {
                        let facts = actor.latest.facts;
                        actor.step(Input::AbandonCommitted(facts));
                        let reason = super::calls::reason(&error);
                        return give(actor.waiting.not_given_up(&ControlRejection::Unavailable { reason }));
                    }
                    actor.after(RETRY_EVERY, move |actor| actor.abandon_paused(turn));
                }
            },
        );
    }

    pub(super) fn complain(&self, doing: &str, error: &StoreError) {
        tracing::error!(pod = %self.shared.id, error = error.chain(), "failed to {doing}");
    }
}

/// Gives each its answer.
pub(super) fn give(replies: impl IntoIterator<Item = (Answer, Reply)>) {
    replies.into_iter().for_each(|(answer, reply)| answer(reply));
}

/// The last event of this life is awaited, bounded; what the parent has not acked stays in the outbox.
async fn farewell(shared: &Shared) {
    let until = Instant::now() + LAST_EVENT;
    let event = PodEvent::ShutDown { pod: shared.id.clone() };
    match send_pod_event_awaited(&shared.reporter, event, LAST_EVENT).await {
        Ok(Delivery::Acked(_) | Delivery::NoParent) => {}
        Err(error) => {
            tracing::warn!(pod = %shared.id, %error, "the parent has not acknowledged our end; it will read it from our store")
        }
    }
    // Reports that nobody waits for have their outcomes told, too.
    shared.reporter.drain(until.saturating_duration_since(Instant::now())).await;
    shared.reporter.stop().await;
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn at(at_ms: u64) -> Instant {
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    // One millisecond more: what is due at `at_ms` is due for the store then, whose clock counts whole ones.
    Instant::now() + Duration::from_millis(at_ms.saturating_sub(now_ms) + 1)
}

fn outcome(verdict: TurnVerdict, failure: Option<WorkerError>) -> TurnOutcome {
    let result = match verdict {
        TurnVerdict::Finished => TurnResult::Finished,
        TurnVerdict::LimitReached => TurnResult::LimitReached,
        TurnVerdict::Paused => TurnResult::Paused,
        TurnVerdict::RolledBack => TurnResult::RolledBack,
        TurnVerdict::Cancelled => TurnResult::Cancelled,
        TurnVerdict::Interrupted => TurnResult::Interrupted,
        TurnVerdict::Errored => {
            let failure = failure.unwrap_or_else(|| WorkerError::new("the worker failed without a word"));
            return TurnOutcome::Errored { kind: failure.kind(), message: failure.to_string() };
        }
    };
    TurnOutcome::Ended { result }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;
