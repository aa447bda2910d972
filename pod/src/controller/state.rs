//! What a pod does next: a pure function of (state, input) to (state, effects).
//!
//! No I/O, no clock, no task. It decides, `actor` performs, and what was performed comes back as an input. Every
//! change that must last comes in twice: first as a method that asks to be admitted, then as the fact that its
//! transaction is committed. Only facts wake.
//!
//! Asked by `actor`; told by `notify_buffer` what is committed; `wake` below is the only place that starts a turn by
//! itself; a compaction starts when it is asked for. One file, though a long one: the table is one.

use crate::notify_buffer::Facts;
use crate::protocol::PodState;

/// A method as far as admission is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// Delegated or typed input.
    Run,
    /// A notice for the agent.
    Notify,
    /// A child's report.
    PodEvent,
    /// Go on after a pause or a block.
    Resume,
    /// Stop the turn so that it can go on later.
    Pause,
    /// Give the turn up.
    Cancel,
    /// End the pod; the turn is cancelled.
    ShutdownNow,
    /// End the pod; the turn may end first.
    ShutdownGraceful,
    /// What only reads: always answered.
    Read,
    /// A child says that it is ready.
    ChildReady,
    /// Start a child, or give work to one.
    Delegate,
    /// Make the context shorter.
    Compact,
    /// Let the context end at an earlier turn again.
    Rewind,
}

/// What the worker can do besides turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Abilities {
    /// It is told what children report.
    pub reads_reports: bool,
    /// It can make its context shorter.
    pub compacts: bool,
    /// What it knows can end earlier again.
    pub rewinds: bool,
}

/// How a worker's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TurnVerdict {
    /// The worker did what it was asked.
    Finished,
    /// A limit of the worker ended it.
    LimitReached,
    /// It can go on later.
    Paused,
    /// It undid itself.
    RolledBack,
    /// Someone gave it up.
    Cancelled,
    /// The pod's life ended under it.
    Interrupted,
    /// The worker failed.
    Errored,
}

/// Why a turn starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// A run is staged, or an inbox entry wakes.
    Wake,
    /// A paused turn goes on.
    Resume,
    /// Someone wants a shorter context. It is no turn that is paused, or blocks: afterwards the pod is what it was.
    Compact,
}

/// What a turn in flight is asked for; a later one is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// End so that you can go on later.
    Pause,
    /// End; your time, or that of the tree, is over. What was done counts, and the turn ends as one that has reached a limit.
    Limit,
    /// End; the work is given up.
    Cancel,
    /// End; the pod stops.
    Shutdown,
}

/// Why a method is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A turn runs, or is about to.
    AlreadyRunning,
    /// No turn runs.
    NotRunning,
    /// Nothing is paused.
    NotPaused,
    /// The pod is stopping.
    Stopping,
    /// The worker cannot do that, or not in the middle of what it does.
    Unable,
}

/// What admission says to a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Carry it out.
    Admit,
    /// It is already so: answer as if it had been carried out.
    Already,
    /// Refuse it, with the method's own rejection.
    Refuse(Refusal),
}

/// Everything that can happen to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A method asks to be admitted.
    Method(MethodKind),
    /// A transaction without a further meaning is committed: a report, a note, the staging of a request.
    Committed(Facts),
    /// The run's transaction is committed; it also lifted a block.
    RunCommitted(Facts),
    /// The run was not committed; its caller was told.
    RunAborted,
    /// The block is lifted in the store.
    Unblocked(Facts),
    /// The turn that was to start had nothing to do.
    TurnDeclined(Facts),
    /// The turn could not be started yet: its start was not committed, or there was no room for its last events.
    TurnPutOff(Facts),
    /// A bound of the tree refuses the turn that was to start; that the pod is blocked is committed, if it is.
    TurnRefused(Facts),
    /// The worker's future is over.
    TurnOver(TurnVerdict),
    /// The end of the turn is committed; `blocked` if it was one failure too many.
    TurnCommitted {
        /// What is committed.
        facts: Facts,
        /// Whether the pod is blocked now. The store has said so to the parent.
        blocked: bool,
    },
    /// The end of the turn cannot be committed, and the pod stops: its next life ends it.
    TurnLeft(Facts),
    /// The end of the paused turn is committed, or left to the next life of a pod that stops.
    AbandonCommitted(Facts),
    /// The rewind is committed; a paused turn was given up with it.
    RewindCommitted(Facts),
    /// The rewind was not committed; its caller was told.
    RewindAborted,
    /// Children are in the rewind's way and are being stopped: nothing of it is submitted.
    RewindStops,
    /// They are gone; its transaction is submitted again.
    RewindGoesOn,
    /// The inbox could be recorded without a turn.
    Recorded(Facts),
    /// The time of the next entry has come, or that of a blocked pod.
    Due,
    /// The time of the turn that runs, or of the tree, is over.
    TimeOver,
    /// No child is left, and none is being started.
    ChildrenGone,
}

/// What the shell must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Have the turn counted, if the tree counts turns, commit its start, then run the worker in a task of its own.
    StartTurn(Start),
    /// Ask the turn in flight to end.
    SignalTurn(Signal),
    /// Commit the end of the turn, with what is reported.
    CommitTurn(TurnVerdict),
    /// Commit that the paused turn is given up.
    AbandonPaused,
    /// Wait for the children of the rewind no longer, and say `RewindAborted`.
    AbortRewind,
    /// Commit the inbox to history, for a worker that reads none.
    Record,
    /// Lift the block in the store.
    Unblock,
    /// Look at what is committed, and say so.
    Look,
    /// Say `Due` at this time, in milliseconds since 1970. Replaces an earlier wish.
    WakeAt(u64),
    /// Say `Due` after the pause of a blocked pod.
    RestBlocked,
    /// Stop every child and say `ChildrenGone`.
    StopChildren(Signal),
    /// Raise `ShutDown`, await its delivery, exit.
    Finish,
}

/// The turn in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Turn {
    start: Start,
    /// What the pod is once it is over, if nothing else follows from its end.
    back: PodState,
    asked: Option<Signal>,
    /// The worker is over; its end is being committed.
    ending: Option<TurnVerdict>,
    /// What it was asked for while its end as paused was being committed: of the turn that goes on with it, or, if it
    /// is not gone on with, to be given up as soon as it is paused.
    next: Option<Signal>,
    /// A run is committed behind its end, which is not committed yet; or behind a compaction that it is to take the place of.
    followed: bool,
}

/// How far a rewind has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rewinding {
    /// Its transaction is submitted.
    Committing,
    /// Its children are being stopped.
    Stopping,
    /// The same, and it is not wanted any more.
    GivenUp,
}

/// How far the children are on their way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Children {
    Live,
    Stopping(Signal),
    Gone,
}

/// The whole state of a controller's decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    worker: Abilities,
    phase: PodState,
    facts: Facts,
    turn: Option<Turn>,
    /// A run was admitted and its transaction is under way.
    run_committing: bool,
    /// A resume was admitted: of the paused turn, or of a blocked pod.
    resuming: bool,
    abandoning: bool,
    /// A rewind was admitted.
    rewinding: Option<Rewinding>,
    recording: bool,
    /// The time for which a wish to be woken stands.
    wake_at: Option<u64>,
    /// That time has come, and what is due now is being looked at.
    looking: bool,
    children: Children,
    finishing: bool,
}

/// What one input leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// For a method: what admission says.
    pub verdict: Option<Verdict>,
    /// What to do, in this order.
    pub effects: Vec<Effect>,
}

impl Step {
    /// Whether a turn starts.
    pub fn woke(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::StartTurn(_)))
    }
}

impl State {
    /// A pod as its store was found, in the state that its last life left: no turn survives a process.
    pub fn restored(worker: Abilities, found: PodState, facts: Facts) -> (Self, Step) {
        let phase = match found {
            // The store says so only of a pause that no run has lifted; one that waits behind it waits on.
            PodState::Paused => PodState::Paused,
            // And lifts a block.
            PodState::Blocked if facts.runs_staged == 0 => PodState::Blocked,
            _ => PodState::Idle,
        };
        let mut state = Self {
            worker,
            phase,
            facts,
            turn: None,
            run_committing: false,
            resuming: false,
            abandoning: false,
            rewinding: None,
            recording: false,
            wake_at: None,
            looking: false,
            children: Children::Live,
            finishing: false,
        };
        let mut step = Step::default();
        if phase == PodState::Blocked {
            step.effects.push(Effect::RestBlocked);
        }
        state.wake(&mut step);
        (state, step)
    }

    /// The state, as others may see it.
    pub fn phase(&self) -> PodState {
        self.phase
    }

    /// What the worker can do besides turns.
    pub fn worker(&self) -> Abilities {
        self.worker
    }

    /// Whether a run was admitted and is being committed: what is staged now comes behind it.
    pub fn run_committing(&self) -> bool {
        self.run_committing
    }

    /// What the last transaction saw.
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// The transition function.
    #[must_use]
    pub fn step(mut self, input: Input) -> (Self, Step) {
        let mut step = Step::default();
        match input {
            Input::Method(method) => step.verdict = Some(self.admit(method, &mut step)),
            Input::Committed(facts) => {
                self.looking = false;
                self.facts = facts;
            }
            Input::RunCommitted(facts) => {
                self.run_committing = false;
                let follows = |turn: &&mut Turn| turn.ending.is_some() || turn.start == Start::Compact;
                if let Some(turn) = self.turn.as_mut().filter(follows) {
                    turn.followed = true;
                }
                self.lift(facts, &[PodState::Blocked, PodState::Paused]);
            }
            Input::RunAborted => self.run_committing = false,
            Input::Unblocked(facts) => {
                self.resuming = false;
                self.lift(facts, &[PodState::Blocked]);
            }
            Input::TurnDeclined(facts) => self.turn_declined(facts, &mut step),
            Input::TurnPutOff(facts) => self.put_off(facts, &mut step),
            Input::TurnRefused(facts) => self.turn_refused(facts, &mut step),
            Input::TurnOver(verdict) => self.turn_over(verdict, &mut step),
            Input::TurnCommitted { facts, blocked } => self.turn_committed(facts, blocked, &mut step),
            Input::TurnLeft(facts) => {
                self.facts = facts;
                if self.phase == PodState::Stopping {
                    (self.turn, self.resuming) = (None, false);
                }
            }
            Input::AbandonCommitted(facts) => {
                self.abandoning = false;
                self.lift(facts, &[PodState::Paused]);
            }
            Input::RewindCommitted(facts) => {
                self.rewinding = None;
                self.lift(facts, &[PodState::Paused]);
            }
            Input::RewindAborted => self.rewinding = None,
            Input::RewindStops => {
                if self.rewinding == Some(Rewinding::Committing) {
                    self.rewinding = Some(Rewinding::Stopping);
                }
                if self.phase == PodState::Stopping {
                    self.abort_rewind(&mut step);
                }
            }
            Input::RewindGoesOn => {
                if self.rewinding == Some(Rewinding::Stopping) {
                    self.rewinding = Some(Rewinding::Committing);
                }
            }
            Input::Recorded(facts) => {
                self.recording = false;
                self.facts = facts;
            }
            Input::Due => {
                self.wake_at = None;
                self.looking = self.phase != PodState::Blocked;
                step.effects.push(if self.looking { Effect::Look } else { Effect::Unblock });
            }
            Input::TimeOver => {
                // One whose end is being committed has ended by itself.
                if self.turn.is_some_and(|turn| turn.ending.is_none()) {
                    _ = self.signal(Signal::Limit, &mut step);
                }
            }
            Input::ChildrenGone => self.children = Children::Gone,
        }
        self.wake(&mut step);
        (self, step)
    }

    /// Whether a method is admitted, and what follows at once. What has to be committed first follows as a fact.
    fn admit(&mut self, method: MethodKind, step: &mut Step) -> Verdict {
        use MethodKind as M;
        use PodState as P;
        match (method, self.phase) {
            (M::Notify | M::PodEvent | M::Read | M::ChildReady, _) => Verdict::Admit,
            (M::ShutdownNow, phase) => {
                self.stop();
                self.abort_rewind(step);
                let told = self.signal(Signal::Shutdown, step);
                let hastened = self.stop_children(Signal::Shutdown, step);
                let news = phase != P::Stopping || told == Verdict::Admit || hastened;
                if news { Verdict::Admit } else { Verdict::Already }
            }
            (M::ShutdownGraceful, P::Stopping) => Verdict::Already,
            (M::ShutdownGraceful, _) => {
                // The children are stopped when the turn is over: it may be waiting for them.
                self.stop();
                self.abort_rewind(step);
                Verdict::Admit
            }
            (M::Delegate, P::Stopping) => Verdict::Refuse(Refusal::Stopping),
            (M::Delegate, _) => Verdict::Admit,

            (M::Pause, P::Running) if self.compacting() => Verdict::Refuse(Refusal::Unable),
            (M::Pause, P::Running) => self.signal(Signal::Pause, step),
            (M::Pause, P::Stopping) => Verdict::Refuse(Refusal::Stopping),
            // It does not stay paused: it is given up, gives way, or is rewound.
            (M::Pause, P::Paused) if self.launching() => Verdict::Refuse(Refusal::AlreadyRunning),
            (M::Pause, P::Paused) => Verdict::Already,
            (M::Cancel, P::Running) => self.signal(Signal::Cancel, step),
            (M::Cancel, _) if self.abandoning || self.rewinding == Some(Rewinding::GivenUp) => Verdict::Already,
            // A graceful stop waits for its turn; a cancel ends the waiting.
            (M::Cancel, P::Stopping) => self.signal(Signal::Cancel, step),
            (M::Cancel, _) if self.rewinding == Some(Rewinding::Stopping) => {
                self.abort_rewind(step);
                Verdict::Admit
            }
            (M::Cancel, P::Paused) if !self.launching() => {
                self.abandon(step);
                Verdict::Admit
            }
            (M::Pause | M::Cancel, _) => Verdict::Refuse(Refusal::NotRunning),

            // From here on: what needs the worker for itself.
            (M::Run | M::Resume | M::Compact | M::Rewind, P::Stopping) => Verdict::Refuse(Refusal::Stopping),
            (M::Compact, _) if !self.worker.compacts => Verdict::Refuse(Refusal::Unable),
            (M::Rewind, _) if !self.worker.rewinds => Verdict::Refuse(Refusal::Unable),
            // Whoever is told that a turn has ended may know it before we do: it is committed behind that end. So is one
            // that comes when the paused turn is being given up.
            (M::Run, _) if self.takes_next() => {
                self.run_committing = true;
                Verdict::Admit
            }
            (M::Resume, P::Running) if self.is_ending_as_paused() && !self.launching() => {
                self.resuming = true;
                Verdict::Admit
            }
            (M::Run | M::Resume | M::Compact | M::Rewind, P::Running) => Verdict::Refuse(Refusal::AlreadyRunning),
            (M::Run | M::Resume | M::Compact | M::Rewind, _) if self.launching() => {
                Verdict::Refuse(Refusal::AlreadyRunning)
            }
            (M::Compact, _) => {
                self.start(Start::Compact, step);
                Verdict::Admit
            }
            (M::Rewind, _) => {
                self.rewinding = Some(Rewinding::Committing);
                Verdict::Admit
            }
            (M::Run, _) => {
                self.run_committing = true;
                Verdict::Admit
            }
            (M::Resume, P::Paused) => {
                self.resuming = true;
                Verdict::Admit
            }
            (M::Resume, P::Blocked) => {
                self.resuming = true;
                step.effects.push(Effect::Unblock);
                Verdict::Admit
            }
            (M::Resume, P::Idle) => Verdict::Refuse(Refusal::NotPaused),
        }
    }

    /// THE wake function: called after every input and every turn end, and the only place that starts a turn without being asked.
    fn wake(&mut self, step: &mut Step) {
        if !self.worker.reads_reports && !self.recording && self.facts.inbox.wakes_due {
            self.recording = true;
            step.effects.push(Effect::Record);
        }
        match self.phase {
            // What waits is kept until it is known what the agent still knows; until what was given up is so, for nothing that
            // comes then is to be about another turn; and until a run that was admitted is committed or not, for it would
            // otherwise be behind that turn, and wait if that pauses.
            PodState::Idle if self.rewinding.is_some() || self.abandoning || self.run_committing => {}
            PodState::Idle if self.facts.may_wake(self.worker.reads_reports) => self.start(Start::Wake, step),
            PodState::Paused if self.resuming => {
                self.resuming = false;
                self.start(Start::Resume, step);
            }
            // What was due when `Due` was said is not known yet: to ask again for the same time would be answered at once.
            PodState::Idle if !self.looking => {
                let next = self.facts.inbox.next_due_ms.filter(|_| self.worker.reads_reports);
                if let Some(at) = next.filter(|at| self.wake_at != Some(*at)) {
                    self.wake_at = Some(at);
                    step.effects.push(Effect::WakeAt(at));
                }
            }
            PodState::Stopping if self.turn.is_none() => {
                self.stop_children(Signal::Pause, step);
                let committing = self.run_committing || self.abandoning || self.rewinding.is_some();
                if self.children == Children::Gone && !committing && !self.finishing {
                    self.finishing = true;
                    step.effects.push(Effect::Finish);
                }
            }
            PodState::Idle | PodState::Paused | PodState::Blocked | PodState::Running | PodState::Stopping => {}
        }
    }

    fn start(&mut self, start: Start, step: &mut Step) {
        // INVARIANT: one turn at a time.
        debug_assert!(self.turn.is_none() && !self.abandoning);
        let back = if start == Start::Compact { self.phase } else { PodState::Idle };
        self.phase = PodState::Running;
        self.turn = Some(Turn { start, back, asked: None, ending: None, next: None, followed: false });
        self.wake_at = None;
        step.effects.push(Effect::StartTurn(start));
    }

    /// A stronger wish replaces a weaker one; asking again is no error. A turn whose end is being committed hears none;
    /// only what is to be paused may still be wished otherwise.
    fn signal(&mut self, signal: Signal, step: &mut Step) -> Verdict {
        use TurnVerdict as V;
        let Some(turn) = &mut self.turn else { return Verdict::Refuse(Refusal::NotRunning) };
        match (turn.ending, signal) {
            (None, _) if turn.asked >= Some(signal) => Verdict::Already,
            (None, _) => {
                turn.asked = Some(signal);
                step.effects.push(Effect::SignalTurn(signal));
                Verdict::Admit
            }
            (Some(_), Signal::Shutdown) => Verdict::Already,
            (Some(V::Paused), _) if turn.next >= Some(signal) => Verdict::Already,
            (Some(V::Paused), Signal::Pause) if !self.resuming => Verdict::Already,
            (Some(V::Paused), _) => {
                turn.next = Some(signal);
                Verdict::Admit
            }
            (Some(V::Cancelled | V::Interrupted), Signal::Cancel) => Verdict::Already,
            (Some(_), _) => Verdict::Refuse(Refusal::NotRunning),
        }
    }

    fn stop(&mut self) {
        // That the block is lifted may still be committed; if it is not, nobody tries it again.
        self.resuming &= self.phase != PodState::Blocked;
        self.phase = PodState::Stopping;
    }

    fn abandon(&mut self, step: &mut Step) {
        self.abandoning = true;
        step.effects.push(Effect::AbandonPaused);
    }

    /// What is committed already stays so.
    fn abort_rewind(&mut self, step: &mut Step) {
        if self.rewinding == Some(Rewinding::Stopping) {
            self.rewinding = Some(Rewinding::GivenUp);
            step.effects.push(Effect::AbortRewind);
        }
    }

    /// Stops the children, or hastens their stop: `Pause` lets their turns end, `Shutdown` does not. Whether that is news.
    fn stop_children(&mut self, how: Signal, step: &mut Step) -> bool {
        let news = self.children < Children::Stopping(how);
        if news {
            self.children = Children::Stopping(how);
            step.effects.push(Effect::StopChildren(how));
        }
        news
    }

    /// The turn is wanted all the same, from where it was to start; and so is what it was asked for meanwhile.
    fn put_off(&mut self, facts: Facts, step: &mut Step) {
        if self.compacting() {
            // Whoever wanted it was told.
            return self.turn_declined(facts, step);
        }
        self.facts = facts;
        let Some(turn) = self.turn.take() else { return };
        if self.phase == PodState::Running {
            self.resuming = turn.start == Start::Resume;
            self.phase = if self.resuming { PodState::Paused } else { PodState::Idle };
        }
        self.wake(step);
        if let (Some(asked), true) = (turn.asked, self.turn.is_some()) {
            self.signal(asked, step);
        }
    }

    fn turn_over(&mut self, verdict: TurnVerdict, step: &mut Step) {
        use TurnVerdict as V;
        let Some(turn) = &mut self.turn else { return };
        if turn.ending.is_some() {
            return;
        }
        // A worker that ends because it was asked to says so in its own way; what it was asked for says what it means.
        let verdict = match (verdict, turn.asked) {
            (V::Paused, None | Some(Signal::Pause)) if turn.start == Start::Compact => V::Cancelled,
            (V::Cancelled | V::Paused | V::Errored, Some(Signal::Shutdown)) => V::Interrupted,
            (V::Paused | V::Errored, Some(Signal::Cancel)) => V::Cancelled,
            (V::Cancelled | V::Paused | V::Errored, Some(Signal::Limit)) => match turn.start {
                // It is no turn that was for anything: its context is what it was.
                Start::Compact => V::Cancelled,
                Start::Wake | Start::Resume => V::LimitReached,
            },
            (V::Cancelled, Some(Signal::Pause)) => V::Paused,
            (verdict, _) => verdict,
        };
        turn.ending = Some(verdict);
        step.effects.push(Effect::CommitTurn(verdict));
    }

    fn turn_committed(&mut self, facts: Facts, blocked: bool, step: &mut Step) {
        self.facts = facts;
        let Some((turn, verdict)) = self.turn.and_then(|turn| Some((turn, turn.ending?))) else { return };
        self.turn = None;
        // A pod that stops goes on with nothing.
        self.resuming &= self.phase != PodState::Stopping;
        if verdict == TurnVerdict::Paused && turn.next == Some(Signal::Cancel) && !self.resuming {
            self.abandon(step);
        }
        if self.phase == PodState::Stopping {
            return;
        }
        self.phase = match verdict {
            // A run that was accepted behind this end lifts whatever it leaves, as if it had come a moment later.
            _ if turn.followed => PodState::Idle,
            TurnVerdict::Paused => PodState::Paused,
            _ if blocked => PodState::Blocked,
            _ => turn.back,
        };
        self.rest_blocked(step);
        if let (Some(next), true) = (turn.next, self.resuming) {
            self.wake(step);
            self.signal(next, step);
        }
    }

    /// A pod that is blocked now waits, unless there is what it waits for: work that was staged behind its turn.
    fn rest_blocked(&mut self, step: &mut Step) {
        match self.phase {
            PodState::Blocked if self.facts.runs_staged > 0 => self.phase = PodState::Idle,
            PodState::Blocked => step.effects.push(Effect::RestBlocked),
            _ => {}
        }
    }

    /// What is paused stays so, or is given up if somebody has asked for that; what waits in the inbox is kept.
    fn turn_refused(&mut self, facts: Facts, step: &mut Step) {
        self.facts = facts;
        self.resuming = false;
        let Some(turn) = self.turn.take() else { return };
        let paused = turn.start == Start::Resume;
        if paused && turn.asked == Some(Signal::Cancel) {
            self.abandon(step);
        }
        if self.phase == PodState::Running {
            self.phase = if paused { PodState::Paused } else { PodState::Blocked };
            self.rest_blocked(step);
        }
    }

    fn turn_declined(&mut self, facts: Facts, step: &mut Step) {
        self.facts = facts;
        self.resuming = false;
        let back = self.turn.take().map_or(PodState::Idle, |turn| turn.back);
        if self.phase == PodState::Running {
            self.phase = back;
            self.rest_blocked(step);
        }
    }

    /// What is committed allows a pod in one of `from` to start a turn.
    fn lift(&mut self, facts: Facts, from: &[PodState]) {
        self.facts = facts;
        if from.contains(&self.phase) {
            self.phase = PodState::Idle;
        }
    }

    /// Whether a turn is about to start, so that nothing else may ask for one.
    fn launching(&self) -> bool {
        let taken = self.turn.is_some_and(|turn| turn.followed || turn.next == Some(Signal::Cancel));
        self.run_committing || self.resuming || self.abandoning || taken || self.rewinding.is_some()
    }

    /// Whether a run can be committed behind the end of a turn that is being committed: nothing else wants the worker.
    fn takes_next(&self) -> bool {
        let over = match self.phase {
            PodState::Running => self.turn.is_some_and(|turn| turn.ending.is_some()),
            PodState::Paused => self.abandoning,
            PodState::Idle | PodState::Blocked | PodState::Stopping => false,
        };
        // There is one that is next already.
        let followed = self.run_committing || self.turn.is_some_and(|turn| turn.followed);
        over && !followed && !self.resuming && self.rewinding.is_none()
    }

    /// Whether the end of a turn that can be gone on with is being committed.
    fn is_ending_as_paused(&self) -> bool {
        self.turn.is_some_and(|turn| turn.ending == Some(TurnVerdict::Paused))
    }

    /// Whether what is paused, or is about to be, is given up: a cancel of it is answered when that is committed.
    pub fn is_giving_up(&self) -> bool {
        self.abandoning || (!self.resuming && self.turn.is_some_and(|turn| turn.next == Some(Signal::Cancel)))
    }

    /// Whether a turn is wanted and its worker is not over.
    pub fn is_starting(&self) -> bool {
        self.phase == PodState::Running && self.turn.is_some_and(|turn| turn.ending.is_none())
    }

    /// Whether a resume waits for the turn that goes on.
    pub fn is_resuming(&self) -> bool {
        self.resuming
    }

    /// Whether the rewind that is under way is not wanted any more.
    pub fn is_rewind_given_up(&self) -> bool {
        self.rewinding == Some(Rewinding::GivenUp)
    }

    /// What the pod is again once the context is shorter; none, if nothing makes it so.
    pub fn behind_compaction(&self) -> Option<PodState> {
        self.turn.filter(|turn| turn.start == Start::Compact).map(|turn| turn.back)
    }

    fn compacting(&self) -> bool {
        self.turn.is_some_and(|turn| turn.start == Start::Compact)
    }
}

#[cfg(test)]
#[path = "state_table.rs"]
mod table;

#[cfg(test)]
#[path = "state_sweep.rs"]
mod sweep;
