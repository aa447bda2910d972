//! P7 by exhaustion: a report raised at every point of a turn's life is in that turn's next request or starts the
//! next turn, in every phase, whatever fails; nothing is stranded and nothing loops.
//!
//! Around the state function stands a small model of what the shell and the store do: transactions commit in the order
//! in which they were submitted; what they made true reaches the state later, on two ways that overtake each other
//! (completions, and messages of the worker's own commits), and is merged by commit order. The explorer tries every
//! order of {report, method, commit, failed commit, completion, message, step of the worker, end of the children, crash}.
//! Whoever asks for a pause, a cancel or a resume is answered as by the shell, and each answer is compared with what the
//! model has made of it: an ack names a turn for which it is so, and behind a rejection nothing has happened.

use std::collections::{HashSet, VecDeque};

use super::*;
use crate::controller::answers::{Reply, Turns, Waiting};
use crate::id::TurnId;
use crate::notify_buffer::NotifyBuffer;
use crate::protocol::{ControlAck, ControlRejection, TurnCap};
use TurnVerdict as V;

/// Failures until the pod is blocked, as in the store's limits.
const ATTEMPTS: u32 = 3;
const ABLE: Abilities = Abilities { reads_reports: true, compacts: true, rewinds: true };
/// How long a blocked pod rests; far above every pause.
const REST: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Unseen,
    Staged,
    Seen,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    stage: Stage,
    /// The turn that it was staged for last.
    turn: u32,
    attempts: u32,
    not_before: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Open {
    No,
    Running,
    Paused,
}

/// The store, as far as the wake rule depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Model {
    now: u64,
    inbox: Vec<Entry>,
    runs: u64,
    /// Runs whose turn was started.
    ran: u64,
    open: Open,
    /// What was open when the compaction that runs began.
    under: Option<Open>,
    turn: u32,
    /// The one that was paused last.
    paused: u32,
    blocked_until: Option<u64>,
    told: bool,
    /// How often the parent was told that the pod is blocked.
    said: u32,
}

impl Model {
    fn facts(&self) -> Facts {
        let waiting = self.inbox.iter().filter(|entry| entry.stage != Stage::Seen).count() as u64;
        let first = self.inbox.iter().filter(|entry| entry.stage == Stage::Unseen).map(|entry| entry.not_before).min();
        let next_due_ms = self.blocked_until.or(first.filter(|at| *at > self.now));
        let wakes_due = first.is_some_and(|at| at <= self.now);
        Facts { runs_staged: self.runs, inbox: NotifyBuffer { waiting, wakes_due, next_due_ms } }
    }

    fn found(&self) -> PodState {
        match (self.open, self.blocked_until) {
            (Open::Running, _) => PodState::Running,
            // All runs here lift what is paused.
            (Open::Paused, _) if self.runs == 0 => PodState::Paused,
            (Open::Paused, _) => PodState::Idle,
            (Open::No, Some(_)) if self.runs == 0 => PodState::Blocked,
            (Open::No, _) => PodState::Idle,
        }
    }

    fn start(&mut self, start: Start) -> bool {
        assert_ne!(self.open, Open::Running, "two turns at a time");
        if start == Start::Compact {
            self.under = Some(self.open);
            self.open = Open::Running;
            self.turn += 1;
            return true;
        }
        let run = start == Start::Wake && self.runs > 0;
        let reports = self.open == Open::No && self.blocked_until.is_none() && self.facts().inbox.wakes_due;
        let wanted = match start {
            Start::Wake => run || reports,
            Start::Resume => self.open == Open::Paused,
            Start::Compact => false,
        };
        if wanted {
            if run {
                self.runs -= 1;
                self.ran += 1;
                self.unblock();
            }
            self.open = Open::Running;
            self.turn += 1;
            self.stage();
        }
        wanted
    }

    /// All that is due, for the next request.
    fn stage(&mut self) {
        for entry in &mut self.inbox {
            if entry.stage == Stage::Unseen && entry.not_before <= self.now {
                entry.stage = Stage::Staged;
                entry.turn = self.turn;
            }
        }
    }

    fn see(&mut self) {
        for entry in &mut self.inbox {
            if entry.stage == Stage::Staged {
                entry.stage = Stage::Seen;
            }
        }
    }

    /// Ends the turn, returns what it did not tell; whether the pod is blocked by it.
    fn end(&mut self, verdict: V) -> bool {
        assert_eq!(self.open, Open::Running, "a turn that does not run ends");
        if let Some(under) = self.under.take() {
            assert_ne!(verdict, V::Paused, "a compaction is paused");
            self.open = under;
            return false;
        }
        self.open = if verdict == V::Paused { Open::Paused } else { Open::No };
        if verdict == V::Paused {
            self.paused = self.turn;
        }
        let (mut returned, mut most) = (0, 0);
        for entry in &mut self.inbox {
            let rolled_back = verdict == V::RolledBack && entry.stage == Stage::Seen && entry.turn == self.turn;
            if entry.stage != Stage::Staged && !rolled_back {
                continue;
            }
            entry.stage = Stage::Unseen;
            entry.attempts += match verdict {
                V::Finished | V::LimitReached | V::Errored | V::Interrupted => 1,
                V::Paused | V::Cancelled | V::RolledBack => 0,
            };
            entry.not_before = match (verdict, entry.attempts) {
                (V::Paused, _) | (V::Interrupted, 1) => self.now,
                (_, attempts) => self.now + (1 << attempts),
            };
            returned += 1;
            most = most.max(entry.attempts);
        }
        let blocked = verdict != V::Paused && returned > 0 && most >= ATTEMPTS;
        if blocked {
            self.blocked_until = Some(self.now + REST);
            self.said += u32::from(!self.told);
            self.told = true;
        } else if returned == 0 && verdict == V::Finished {
            self.told = false;
        }
        blocked
    }

    /// Back to the very beginning: all that was told is told again.
    fn rewind(&mut self) {
        assert_ne!(self.open, Open::Running, "rewound in a turn");
        self.open = Open::No;
        for entry in self.inbox.iter_mut().filter(|entry| entry.stage == Stage::Seen) {
            entry.stage = Stage::Unseen;
            entry.not_before = self.now + 1;
        }
    }

    fn unblock(&mut self) {
        if self.blocked_until.take().is_some() {
            self.inbox.iter_mut().for_each(|entry| entry.not_before = 0);
        }
    }
}

/// A transaction that is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Tx {
    Report,
    Run,
    Start(Start),
    End(V),
    /// Of this turn alone.
    Abandon(Option<u32>),
    /// A bound of the tree refuses another turn.
    Block,
    /// One that finds its target, and one that does not.
    Rewind(bool),
    Unblock,
    Look,
    /// The worker's: its next request, and the first answer to it.
    Request,
    Response,
}

/// What a worker does in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Act {
    Request,
    Response,
    Over(V),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Worker {
    None,
    /// Its next act.
    At(usize),
    /// It waits for its own transaction, then goes on there.
    Waits(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    state: State,
    model: Model,
    order: u64,
    /// The newest commit that the shell has heard of.
    latest: (u64, Facts),
    submitted: VecDeque<Tx>,
    /// What is committed and has not reached the state: the facts, of what, and whether it started, or blocked.
    completions: VecDeque<(u64, Facts, Tx, bool)>,
    /// The same of the worker's, and its verdict.
    messages: VecDeque<(u64, Facts, Option<V>)>,
    worker: Worker,
    asked: Option<Signal>,
    turns: u32,
    /// A start failed and is tried again after a pause.
    put_off: bool,
    timer: Option<u64>,
    /// The timer fired: how often, for a pod that rests.
    rests: u32,
    stopping_children: bool,
    finished: bool,
    // What is still to happen to this world.
    reports: u32,
    methods: VecDeque<MethodKind>,
    accepted: u64,
    hiccups: u32,
    crashes: u32,
    /// Whether a rewind finds its target.
    rewinds: bool,
    rewound: bool,
    /// How often children are found in the way of a rewind.
    in_the_way: u32,
    /// Children are being stopped for a rewind; true if it is not wanted any more.
    going_back: Option<bool>,
    /// A cancel was taken of what runs or is paused: it does not stay paused.
    cancelled: bool,
    /// Commits other than starts that fail once; those that are tried again.
    failures: u32,
    retrying: Vec<Tx>,
    /// The end of the turn was left to the next life.
    left: bool,
    /// Turns that the tree has left, if it counts them; whether one is counted and has not begun, and whether that is of the
    /// start that is submitted; what is being counted.
    budget: Option<u32>,
    counted: bool,
    permit: bool,
    counting: Option<Start>,
    taking: bool,
    /// Whether the time of the tree is still to be over.
    time: bool,
    /// Whether methods may come after the timer has fired: without, none finds a pod that rests.
    unhurried: bool,
    /// What the shell knows of turns.
    in_flight: Option<u32>,
    paused: Option<u32>,
    waiting: Waiting<MethodKind>,
    came: Came,
}

/// What came of pauses, cancels and resumes, and what was said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Came {
    /// Turns that ended because somebody wanted them to, and those that go on with a paused one.
    cancelled: Vec<u32>,
    resumed: Vec<u32>,
    /// The turns that acks name; none, if the number was not known.
    cancels: Vec<Option<u32>>,
    resumes: Vec<Option<u32>>,
    /// Paused turns that gave way to a run.
    gave_way: Vec<u32>,
}

impl World {
    fn new(reports: u32, methods: &[MethodKind]) -> Self {
        let model = Model {
            now: 1,
            inbox: Vec::new(),
            runs: 0,
            ran: 0,
            open: Open::No,
            under: None,
            turn: 0,
            paused: 0,
            blocked_until: None,
            told: false,
            said: 0,
        };
        let facts = model.facts();
        Self {
            state: State::restored(ABLE, PodState::Idle, facts).0,
            model,
            order: 0,
            latest: (0, facts),
            submitted: VecDeque::new(),
            completions: VecDeque::new(),
            messages: VecDeque::new(),
            worker: Worker::None,
            asked: None,
            turns: 0,
            put_off: false,
            timer: None,
            rests: 0,
            stopping_children: false,
            finished: false,
            reports,
            methods: methods.iter().copied().collect(),
            accepted: 0,
            hiccups: 0,
            crashes: 0,
            rewinds: true,
            rewound: false,
            in_the_way: 0,
            going_back: None,
            cancelled: false,
            failures: 0,
            retrying: Vec::new(),
            left: false,
            budget: None,
            counted: false,
            permit: false,
            counting: None,
            taking: false,
            time: false,
            unhurried: false,
            in_flight: None,
            paused: None,
            waiting: Waiting::default(),
            came: Came::default(),
        }
    }

    /// Whoever asked is answered. What an ack says is so by then.
    fn answer(&mut self, replies: impl IntoIterator<Item = (MethodKind, Reply)>) {
        for (method, reply) in replies {
            let Ok(ControlAck { turn, staged, .. }) = reply else {
                // Of whoever is told that nothing has changed, nothing is expected.
                self.cancelled &= method != MethodKind::Cancel;
                continue;
            };
            let turn = turn.map(|turn| u32::try_from(turn.0).unwrap());
            match method {
                MethodKind::Cancel => {
                    let over = turn.is_some_and(|turn| self.is_over(turn));
                    assert!(staged || over, "given up as {turn:?}, it is said: {self:?}");
                    self.came.cancels.push(turn);
                }
                MethodKind::Resume => {
                    let goes_on = turn.is_some_and(|turn| self.came.resumed.contains(&turn));
                    let lifted = turn.is_none() && self.model.blocked_until.is_none();
                    assert!(staged || goes_on || lifted, "gone on with as {turn:?}, it is said: {self:?}");
                    self.came.resumes.push(turn);
                }
                MethodKind::Pause => {
                    let paused = self.model.open == Open::Paused && turn == Some(self.model.paused);
                    assert!(staged || paused, "{turn:?} is paused, it is said: {self:?}");
                }
                other => panic!("{other:?} is not answered so"),
            }
        }
    }

    fn is_over(&self, turn: u32) -> bool {
        self.came.cancelled.contains(&turn) || self.came.gave_way.contains(&turn)
    }

    /// What happened is what was acked, and no more.
    fn compare(&self) {
        let named = |named: &[Option<u32>], turn: u32| named.contains(&Some(turn)) || named.contains(&None);
        for turn in &self.came.cancelled {
            assert!(named(&self.came.cancels, *turn), "turn {turn} was cancelled, and nobody was told: {self:?}");
        }
        for turn in &self.came.resumed {
            assert!(named(&self.came.resumes, *turn), "turn {turn} was resumed, and nobody was told: {self:?}");
        }
        let paused = (self.model.open == Open::Paused).then_some(self.model.paused);
        assert!(paused.is_none() || !self.came.cancels.contains(&paused), "its cancel was acked: {self:?}");
        assert_eq!(self.waiting.len(), 0, "somebody is never answered: {self:?}");
    }

    fn not_started(&mut self) {
        let replies = self.waiting.not_started(&self.state, None);
        self.answer(replies);
    }

    /// The tree counts a turn, or says that there is none left.
    fn count(&mut self) -> bool {
        if std::mem::take(&mut self.counted) {
            return true;
        }
        let left = self.budget.unwrap_or(0).checked_sub(1);
        self.budget = left.or(self.budget);
        left.is_some()
    }

    /// The start that was counted needed no count, or was none.
    fn spare(&mut self) {
        self.counted |= std::mem::take(&mut self.permit);
    }

    fn counted(&mut self) {
        let Some(start) = self.counting.take() else { return };
        if self.count() {
            self.permit = true;
            return self.submitted.push_back(Tx::Start(start));
        }
        if start == Start::Wake && self.state.phase() != PodState::Stopping {
            return self.submitted.push_back(Tx::Block);
        }
        self.refused(self.latest.1);
    }

    fn refused(&mut self, facts: Facts) {
        self.feed(Input::TurnRefused(facts));
        let replies = self.waiting.not_started(&self.state, Some(TurnCap::Turns { max: 1 }));
        self.answer(replies);
    }

    /// The next transaction is not committed.
    fn fail(&mut self) {
        self.failures -= 1;
        match self.submitted.pop_front() {
            Some(tx @ (Tx::End(_) | Tx::Abandon(_))) => self.retrying.push(tx),
            Some(Tx::Run) => {
                self.accepted -= 1;
                self.feed(Input::RunAborted);
            }
            Some(Tx::Unblock) => {
                self.timer = Some(self.model.now);
                if self.state.phase() == PodState::Stopping {
                    let why = ControlRejection::Unavailable { reason: "full".into() };
                    let replies = self.waiting.not_lifted(&why);
                    self.answer(replies);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// A pod that stops tries nothing for ever.
    fn leave(&mut self) {
        let why = ControlRejection::Unavailable { reason: "full".into() };
        let replies = self.waiting.not_given_up(&why);
        self.answer(replies);
        self.cancelled = false;
        let facts = self.latest.1;
        match self.retrying.pop() {
            Some(Tx::End(_)) => {
                (self.left, self.in_flight) = (true, None);
                self.feed(Input::TurnLeft(facts));
                self.not_started();
            }
            _ => _ = self.feed(Input::AbandonCommitted(facts)),
        }
    }

    fn feed(&mut self, input: Input) -> Option<Verdict> {
        let (state, step) = self.state.step(input);
        let stops = state.phase() == PodState::Stopping && self.state.phase() != PodState::Stopping;
        self.state = state;
        self.perform(&step);
        if stops {
            self.stop();
        }
        step.verdict
    }

    /// Whoever waits for what is not done in a pod that stops is told so.
    fn stop(&mut self) {
        if self.counting.take().is_some() {
            self.feed(Input::TurnPutOff(self.latest.1));
            self.not_started();
        }
        if std::mem::take(&mut self.taking) {
            self.feed(Input::RunAborted);
        }
        let is_unblock = |tx: &Tx| matches!(tx, Tx::Unblock);
        if !self.submitted.iter().chain(self.completions.iter().map(|(_, _, tx, _)| tx)).any(is_unblock) {
            let replies = self.waiting.not_lifted(&ControlRejection::Stopping);
            self.answer(replies);
        }
    }

    fn perform(&mut self, step: &Step) {
        for effect in &step.effects {
            match *effect {
                Effect::StartTurn(start) => {
                    assert!(!self.finished, "a turn after the end");
                    self.asked = None;
                    let with_run = start == Start::Wake && self.latest.1.runs_staged > 0;
                    if self.budget.is_none() || start == Start::Compact || with_run {
                        self.submitted.push_back(Tx::Start(start));
                    } else {
                        self.counting = Some(start);
                    }
                }
                Effect::SignalTurn(signal) => self.asked = Some(signal),
                Effect::CommitTurn(verdict) => self.submitted.push_back(Tx::End(verdict)),
                Effect::AbandonPaused => self.submitted.push_back(Tx::Abandon(self.paused)),
                Effect::AbortRewind => {
                    assert_eq!(self.going_back, Some(false), "what is not waited for is given up");
                    self.going_back = Some(true);
                }
                Effect::Unblock => self.submitted.push_back(Tx::Unblock),
                Effect::Look => self.submitted.push_back(Tx::Look),
                Effect::WakeAt(at) => self.timer = Some(at),
                Effect::RestBlocked => self.timer = self.latest.1.inbox.next_due_ms,
                Effect::StopChildren(_) => self.stopping_children = true,
                Effect::Finish => {
                    assert!(!self.finished && !self.stopping_children, "finished twice, or before the children");
                    assert!(self.left || self.model.open != Open::Running, "finished in a turn");
                    self.finished = true;
                }
                Effect::Record => panic!("the sweep's worker reads reports"),
            }
        }
    }

    /// What the shell knows once it has heard of this commit, too.
    fn merged(&mut self, order: u64, facts: Facts) -> Facts {
        if order > self.latest.0 {
            self.latest = (order, facts);
        }
        self.latest.1
    }

    fn commit(&mut self) {
        let Some(tx) = self.submitted.pop_front() else { return };
        let mut flag = false;
        match tx {
            Tx::Report => {
                self.model.inbox.push(Entry { stage: Stage::Unseen, turn: 0, attempts: 0, not_before: 0 });
            }
            Tx::Run => {
                self.model.runs += 1;
                self.model.unblock();
            }
            Tx::Start(start) => {
                let paused = (self.model.open == Open::Paused).then_some(self.model.paused);
                let runs = self.model.runs;
                flag = self.model.start(start);
                if flag && start != Start::Compact && self.budget.is_some() && self.model.runs == runs {
                    assert!(std::mem::take(&mut self.permit), "a turn that nobody has counted: {self:?}");
                }
                match start {
                    Start::Resume if flag => self.came.resumed.push(self.model.turn),
                    Start::Wake if flag => self.came.gave_way.extend(paused),
                    _ => {}
                }
                // What was cancelled is over; unless it is this one, which is told so.
                self.cancelled &= start != Start::Wake || self.asked.is_some();
            }
            Tx::End(verdict) => {
                if verdict == V::Cancelled && self.asked == Some(Signal::Cancel) {
                    self.came.cancelled.push(self.model.turn);
                }
                flag = self.model.end(verdict);
            }
            Tx::Abandon(turn) if self.model.open == Open::Paused && turn == Some(self.model.paused) => {
                self.model.open = Open::No;
                self.came.cancelled.push(self.model.paused);
            }
            Tx::Rewind(found) => {
                flag = found;
                if found && self.in_the_way == 0 {
                    self.model.rewind();
                }
            }
            Tx::Abandon(_) | Tx::Look => {}
            Tx::Block => {
                assert_eq!(self.model.open, Open::No, "blocked in a turn");
                self.model.blocked_until = Some(self.model.now + REST);
                self.model.said += u32::from(!self.model.told);
                self.model.told = true;
            }
            Tx::Unblock => self.model.unblock(),
            Tx::Request => self.model.stage(),
            Tx::Response => self.model.see(),
        }
        self.order += 1;
        let facts = self.model.facts();
        match (tx, self.worker) {
            (Tx::Request | Tx::Response, Worker::Waits(next)) => {
                self.worker = Worker::At(next);
                self.messages.push_back((self.order, facts, None));
            }
            _ => self.completions.push_back((self.order, facts, tx, flag)),
        }
    }

    fn complete(&mut self) {
        let Some((order, facts, tx, flag)) = self.completions.pop_front() else { return };
        let facts = self.merged(order, facts);
        let input = match (tx, flag) {
            (Tx::Start(start), true) => {
                self.spare();
                self.worker = Worker::At(0);
                self.turns += u32::from(start != Start::Compact);
                self.paused = self.paused.filter(|_| start == Start::Compact);
                self.in_flight = Some(self.model.turn);
                let replies = self.waiting.launched(self.state.phase(), TurnId(u64::from(self.model.turn)));
                return self.answer(replies);
            }
            (Tx::Start(_), false) => {
                self.spare();
                self.feed(Input::TurnDeclined(facts));
                return self.not_started();
            }
            (Tx::End(verdict), blocked) => {
                let turn = self.in_flight.take();
                if verdict == V::Paused {
                    self.paused = turn;
                }
                self.feed(Input::TurnCommitted { facts, blocked });
                if self.state.phase() == PodState::Stopping {
                    self.not_started();
                }
                return;
            }
            (Tx::Run, _) => Input::RunCommitted(facts),
            (Tx::Rewind(_), true) if self.in_the_way > 0 => {
                self.in_the_way -= 1;
                self.going_back = Some(false);
                Input::RewindStops
            }
            (Tx::Rewind(_), true) => {
                self.paused = None;
                Input::RewindCommitted(facts)
            }
            (Tx::Rewind(_), false) => Input::RewindAborted,
            (Tx::Abandon(turn), _) => {
                self.paused = self.paused.filter(|paused| Some(*paused) != turn);
                self.feed(Input::AbandonCommitted(facts));
                let replies = self.waiting.given_up(self.state.phase(), turn.map(|turn| TurnId(u64::from(turn))));
                return self.answer(replies);
            }
            (Tx::Block, _) => return self.refused(facts),
            (Tx::Unblock, _) => {
                self.feed(Input::Unblocked(facts));
                let replies = self.waiting.lifted(self.state.phase());
                return self.answer(replies);
            }
            (Tx::Report | Tx::Look | Tx::Request | Tx::Response, _) => Input::Committed(facts),
        };
        self.feed(input);
    }

    fn hear(&mut self) {
        match self.messages.pop_front() {
            Some((_, _, Some(verdict))) => self.feed(Input::TurnOver(verdict)),
            Some((order, facts, None)) => {
                let facts = self.merged(order, facts);
                self.feed(Input::Committed(facts))
            }
            None => None,
        };
    }

    fn work(&mut self, plan: &Plan) {
        let Worker::At(at) = self.worker else { return };
        let compacting = [Act::Over(plan.compaction)];
        let acts = if self.model.under.is_some() { &compacting } else { plan.turn(self.turns) };
        let act = match self.asked {
            Some(Signal::Pause) => Act::Over(V::Paused),
            Some(_) => Act::Over(V::Cancelled),
            None => acts[at],
        };
        let tx = match act {
            Act::Request => Tx::Request,
            Act::Response => Tx::Response,
            Act::Over(verdict) => {
                self.worker = Worker::None;
                return self.messages.push_back((0, Facts::default(), Some(verdict)));
            }
        };
        self.worker = Worker::Waits(at + 1);
        self.submitted.push_back(tx);
    }

    /// The process dies and the next life begins.
    fn crash(&mut self) {
        self.crashes -= 1;
        // The store's thread may or may not have got to what was submitted: this world is one in which it had not.
        let mut next = Self { model: self.model.clone(), ..Self::new(self.reports, self.methods.make_contiguous()) };
        if next.model.open == Open::Running {
            next.model.end(V::Interrupted);
        }
        let facts = next.model.facts();
        (next.turns, next.order, next.latest) = (self.turns, self.order + 1, (self.order + 1, facts));
        (next.crashes, next.hiccups, next.accepted) = (self.crashes, self.hiccups, self.model.runs + self.model.ran);
        let (state, step) = State::restored(ABLE, next.model.found(), facts);
        next.paused = (next.model.open == Open::Paused).then_some(next.model.paused);
        (next.rewinds, next.rewound, next.budget) = (self.rewinds, self.rewound, self.budget);
        next.state = state;
        next.perform(&step);
        *self = next;
    }

    /// Every next world. The timer fires when nothing else can happen: it is slow.
    fn next(&self, plan: &Plan) -> Vec<Self> {
        let mut worlds = Vec::new();
        let mut push = |possible: bool, change: &dyn Fn(&mut Self)| {
            if possible {
                let mut world = self.clone();
                change(&mut world);
                worlds.push(world);
            }
        };
        push(self.reports > 0 && !self.finished, &|world| {
            world.reports -= 1;
            assert_eq!(world.feed(Input::Method(MethodKind::PodEvent)), Some(Verdict::Admit));
            world.submitted.push_back(Tx::Report);
        });
        push(!self.methods.is_empty() && !self.finished, &|world| {
            let Some(method) = world.methods.pop_front() else { return };
            let before = world.state.phase();
            let verdict = world.feed(Input::Method(method));
            let answered = matches!(method, MethodKind::Cancel | MethodKind::Pause | MethodKind::Resume);
            if answered && !matches!(verdict, Some(Verdict::Refuse(_))) {
                let number = |turn: u32| TurnId(u64::from(turn));
                let turns = Turns { in_flight: world.in_flight.map(number), paused: world.paused.map(number) };
                let state = world.state;
                let reply = world.waiting.admitted(method, before, &state, turns, method);
                world.answer(reply);
            }
            match (verdict, method) {
                (Some(Verdict::Admit), MethodKind::Run) if world.budget.is_some() => world.taking = true,
                (Some(Verdict::Admit), MethodKind::Run) => {
                    world.accepted += 1;
                    world.submitted.push_back(Tx::Run);
                }
                (Some(Verdict::Admit), MethodKind::Rewind) => {
                    world.submitted.push_back(Tx::Rewind(world.rewinds));
                    world.rewound = true;
                }
                (Some(Verdict::Admit | Verdict::Already), MethodKind::Cancel)
                    if !world.state.is_rewind_given_up() && !world.state.compacting() =>
                {
                    world.cancelled = true;
                }
                _ => {}
            }
        });
        // The children that were in the way are gone, or nobody waits for that.
        push(self.going_back.is_some(), &|world| match world.going_back.take() {
            Some(false) => {
                world.feed(Input::RewindGoesOn);
                world.submitted.push_back(Tx::Rewind(world.rewinds));
            }
            _ => {
                world.feed(Input::RewindAborted);
            }
        });
        push(self.counting.is_some(), &Self::counted);
        push(self.taking, &|world| {
            world.taking = false;
            if world.count() {
                world.accepted += 1;
                world.submitted.push_back(Tx::Run);
            } else {
                world.feed(Input::RunAborted);
            }
        });
        push(!self.submitted.is_empty(), &Self::commit);
        let starts = matches!(self.submitted.front(), Some(Tx::Start(_)));
        push(starts && self.hiccups > 0, &|world| {
            world.hiccups -= 1;
            world.submitted.pop_front();
            world.put_off = true;
            world.spare();
        });
        push(self.put_off, &|world| {
            world.put_off = false;
            let compacting = world.state.compacting();
            let facts = world.latest.1;
            // A compaction is not tried again: its caller was told.
            world.feed(if compacting { Input::TurnDeclined(facts) } else { Input::TurnPutOff(facts) });
            world.not_started();
        });
        let fails = matches!(self.submitted.front(), Some(Tx::End(_) | Tx::Abandon(_) | Tx::Run | Tx::Unblock));
        push(fails && self.failures > 0, &Self::fail);
        push(!self.retrying.is_empty(), &|world| {
            let again = world.retrying.pop();
            world.submitted.extend(again);
        });
        let stops = self.state.phase() == PodState::Stopping;
        push(!self.retrying.is_empty() && stops, &Self::leave);
        push(!self.completions.is_empty(), &Self::complete);
        push(!self.messages.is_empty(), &Self::hear);
        push(matches!(self.worker, Worker::At(_)), &|world| world.work(plan));
        push(self.stopping_children, &|world| {
            world.stopping_children = false;
            world.feed(Input::ChildrenGone);
        });
        push(self.time && self.in_flight.is_some() && !self.finished, &|world| {
            world.time = false;
            world.feed(Input::TimeOver);
        });
        push(self.crashes > 0 && !self.finished, &Self::crash);
        let resting = self.state.phase() == PodState::Blocked && self.rests == plan.rests;
        let at = self.timer.filter(|_| !resting && !self.finished);
        let is_slow = self.quiet() || (self.unhurried && self.is_at_rest());
        push(is_slow && at.is_some(), &|world| {
            world.rests += u32::from(world.state.phase() == PodState::Blocked);
            world.model.now = world.model.now.max(at.unwrap_or(0));
            world.timer = None;
            world.feed(Input::Due);
        });
        worlds
    }

    /// Nothing is under way and nothing more will come from outside.
    fn quiet(&self) -> bool {
        self.is_at_rest() && self.reports == 0 && self.methods.is_empty()
    }

    /// Nothing is under way.
    fn is_at_rest(&self) -> bool {
        let under_way = !self.submitted.is_empty() || !self.completions.is_empty() || !self.messages.is_empty();
        !under_way
            && self.worker == Worker::None
            && !self.put_off
            && self.retrying.is_empty()
            && self.counting.is_none()
            && !self.taking
            && self.going_back.is_none()
            && !self.stopping_children
    }

    fn all(&self, wanted: impl Fn(&Entry) -> bool) -> bool {
        self.model.inbox.iter().all(wanted)
    }
}

/// The worker's turns, the last for all that follow, and how often a blocked pod is tried again.
#[derive(Clone, Debug)]
struct Plan {
    turns: Vec<Vec<Act>>,
    rests: u32,
    /// How a compaction ends by itself.
    compaction: V,
}

impl Plan {
    fn new(turns: &[&[Act]]) -> Self {
        Self { turns: turns.iter().map(|turn| turn.to_vec()).collect(), rests: 1, compaction: V::Finished }
    }

    fn turn(&self, number: u32) -> &[Act] {
        let at = (number.max(1) as usize - 1).min(self.turns.len() - 1);
        &self.turns[at]
    }
}

/// Visits every reachable world once; hands those in which nothing more can happen to `judge`.
#[track_caller]
fn sweep(start: World, plan: &Plan, judge: impl Fn(&World)) -> usize {
    let reports = start.reports as usize;
    let mut seen = HashSet::new();
    let mut open = vec![start];
    let mut ends = 0;
    while let Some(world) = open.pop() {
        assert!(world.turns < 30 && world.order < 120, "it loops: {world:?}");
        if !seen.insert(world.clone()) {
            continue;
        }
        let next = world.next(plan);
        if next.is_empty() {
            ends += 1;
            assert!(world.model.inbox.len() <= reports);
            // Of what was accepted, all was started; but a stop starts nothing, and a later life has it then.
            let lost = world.accepted - world.model.ran - world.model.runs;
            assert!(lost == 0 && (world.finished || world.model.runs == 0), "a run is stranded: {world:?}");
            let staged = world.left || world.all(|entry| entry.stage != Stage::Staged);
            assert!(staged, "staged for no turn: {world:?}");
            assert!(!world.cancelled || world.model.open != Open::Paused, "a cancel was taken and is lost: {world:?}");
            assert!(!world.state.is_resuming(), "a resume is stuck: {world:?}");
            assert_eq!(world.finished, world.state.phase() == PodState::Stopping, "{world:?}");
            world.compare();
            if world.state.phase() != PodState::Stopping {
                assert_eq!(world.state.phase(), world.model.found(), "the store has another idea: {world:?}");
            }
            judge(&world);
        }
        open.extend(next);
    }
    assert!(ends > 0);
    seen.len()
}

#[track_caller]
fn told(world: &World) {
    assert!(world.all(|entry| entry.stage == Stage::Seen), "stranded: {world:?}");
    assert_eq!((world.state.phase(), world.model.said), (PodState::Idle, 0), "{world:?}");
}

#[track_caller]
fn told_or_kept(world: &World) {
    match world.state.phase() {
        PodState::Idle => told(world),
        PodState::Paused | PodState::Stopping => {}
        other => panic!("{other}: {world:?}"),
    }
}

const GOOD: &[Act] = &[Act::Request, Act::Response, Act::Request, Act::Response, Act::Over(V::Finished)];

/// A turn that ends so, at three different moments.
fn ending(verdict: V) -> [Vec<Act>; 3] {
    let over = Act::Over(verdict);
    [vec![over], vec![Act::Request, over], vec![Act::Request, Act::Response, Act::Request, over]]
}

#[test]
fn report_at_every_point_of_a_good_turn_is_told() {
    let plan = Plan::new(&[GOOD]);
    let worlds = sweep(World::new(2, &[MethodKind::Run]), &plan, told);
    assert!(worlds > 1_000, "{worlds}");
    sweep(World::new(3, &[]), &plan, told);
}

#[test]
fn report_at_every_point_of_a_failing_turn_is_told_by_a_later_one() {
    for verdict in [V::Errored, V::LimitReached, V::RolledBack, V::Cancelled, V::Interrupted, V::Finished] {
        for first in ending(verdict) {
            sweep(World::new(2, &[MethodKind::Run]), &Plan::new(&[&first, GOOD]), told);
        }
    }
}

#[test]
fn report_at_every_point_of_a_paused_turn_is_kept_and_opens_the_resumed_one() {
    for first in ending(V::Paused) {
        let plan = Plan::new(&[&first, GOOD]);
        sweep(World::new(2, &[MethodKind::Run]), &plan, |world| match world.state.phase() {
            PodState::Paused => assert!(world.all(|entry| entry.attempts == 0), "{world:?}"),
            _ => told(world),
        });
        for lifts in [MethodKind::Resume, MethodKind::Run, MethodKind::Cancel] {
            sweep(World::new(2, &[MethodKind::Run, lifts]), &plan, told_or_kept);
        }
    }
}

#[test]
fn report_and_every_method_at_every_point_lose_nothing() {
    use MethodKind::{Cancel, Pause, Resume, Run, ShutdownGraceful, ShutdownNow};
    for methods in [
        [Run, Pause, Resume],
        [Run, Cancel, Run],
        [Pause, Cancel, Run],
        [Run, ShutdownNow, Run],
        [Run, ShutdownGraceful, Cancel],
        [ShutdownGraceful, ShutdownNow, Resume],
    ] {
        sweep(World::new(2, &methods), &Plan::new(&[GOOD]), |world| {
            told_or_kept(world);
            let stops = methods.contains(&ShutdownNow) || methods.contains(&ShutdownGraceful);
            assert_eq!(world.finished, stops, "{world:?}");
        });
    }
}

#[test]
fn report_on_which_every_turn_fails_blocks_says_so_once_and_is_kept() {
    let mut plan = Plan::new(&[&[Act::Request, Act::Over(V::Errored)]]);
    for rests in 0..3 {
        plan.rests = rests;
        sweep(World::new(2, &[]), &plan, |world| {
            assert_eq!((world.state.phase(), world.model.said), (PodState::Blocked, 1), "{world:?}");
            assert!(world.all(|entry| entry.stage == Stage::Unseen), "{world:?}");
            let most = world.model.inbox.iter().map(|entry| entry.attempts).max();
            assert_eq!(most, Some(ATTEMPTS + rests), "one attempt for each turn: {world:?}");
            assert!(world.turns <= 2 * ATTEMPTS + rests, "{world:?}");
        });
    }
}

#[test]
fn blocked_pod_is_lifted_by_run_resume_and_time() {
    let bad: &[Act] = &[Act::Request, Act::Over(V::Errored)];
    let plan = Plan::new(&[bad, bad, bad, GOOD]);
    let lifted = |world: &World| {
        assert!(world.all(|entry| entry.stage == Stage::Seen), "{world:?}");
        assert_eq!(world.state.phase(), PodState::Idle, "{world:?}");
        assert!(world.model.said <= 1, "{world:?}");
    };
    for methods in [&[][..], &[MethodKind::Resume], &[MethodKind::Run], &[MethodKind::Resume, MethodKind::Run]] {
        let mut world = World::new(1, methods);
        (world.hiccups, world.unhurried) = (1, true);
        sweep(world, &plan, lifted);
    }
}

#[test]
fn start_that_fails_once_at_every_point_is_made_up_for() {
    use MethodKind::{Cancel, Pause, Resume, Run, ShutdownNow};
    for methods in [&[Run][..], &[Run, Pause, Resume], &[Run, Cancel], &[Run, ShutdownNow]] {
        let mut world = World::new(1, methods);
        world.hiccups = 2;
        sweep(world, &Plan::new(&[GOOD]), told_or_kept);
    }
}

#[test]
fn life_that_ends_at_every_point_loses_no_report_and_no_run() {
    use MethodKind::{Pause, Run, ShutdownGraceful};
    for methods in [&[][..], &[Run], &[Run, Pause, Run], &[ShutdownGraceful]] {
        let mut world = World::new(1, methods);
        world.crashes = 2;
        sweep(world, &Plan::new(&[GOOD]), told_or_kept);
    }
}

#[test]
fn compaction_at_every_point_loses_nothing_and_leaves_the_pod_what_it_was() {
    use MethodKind::{Cancel, Compact, Pause, Resume, Run, ShutdownGraceful, ShutdownNow};
    for compaction in [V::Finished, V::Errored] {
        let mut plan = Plan::new(&[GOOD]);
        plan.compaction = compaction;
        for methods in [
            &[Compact][..],
            &[Run, Compact, Cancel],
            &[Run, Pause, Compact],
            &[Compact, Pause, Run],
            &[Compact, ShutdownNow],
        ] {
            let mut world = World::new(1, methods);
            world.hiccups = 1;
            sweep(world, &plan, told_or_kept);
        }
        sweep(World::new(1, &[Compact, ShutdownGraceful, Cancel]), &plan, told_or_kept);
        let paused = Plan { turns: vec![vec![Act::Request, Act::Over(V::Paused)], GOOD.to_vec()], ..plan.clone() };
        sweep(World::new(1, &[Run, Compact, Resume]), &paused, told_or_kept);
        let bad = Plan { turns: vec![vec![Act::Request, Act::Over(V::Errored)]], ..plan.clone() };
        sweep(World::new(1, &[Compact, Compact]), &bad, |world| {
            assert_eq!((world.state.phase(), world.model.said), (PodState::Blocked, 1), "{world:?}");
        });
        let mut world = World::new(1, &[Run, Compact]);
        world.crashes = 1;
        sweep(world, &plan, told_or_kept);
    }
}

#[test]
fn cancel_and_resume_at_every_point_of_a_turn_that_pauses_are_not_lost() {
    use MethodKind::{Cancel, Pause, Resume, Run, ShutdownGraceful, ShutdownNow};
    for first in ending(V::Paused) {
        // What goes on pauses once more: only what is cancelled is not paused at the end.
        let plan = Plan::new(&[&first, &first, GOOD]);
        for methods in [
            &[Run, Cancel][..],
            &[Run, Pause, Cancel],
            &[Run, Resume, Cancel],
            &[Run, Cancel, ShutdownGraceful],
            &[Run, Cancel, ShutdownNow],
            &[Run, ShutdownGraceful, Cancel],
        ] {
            sweep(World::new(1, methods), &plan, |world| match world.state.phase() {
                PodState::Idle => told(world),
                PodState::Paused => assert!(world.all(|entry| entry.attempts == 0), "{world:?}"),
                PodState::Stopping => {}
                other => panic!("{other}: {world:?}"),
            });
        }
    }
}

#[test]
fn run_at_every_point_of_an_end_is_taken_and_started() {
    use MethodKind::{Cancel, Run};
    for verdict in [V::Finished, V::Paused, V::Errored, V::Cancelled] {
        for first in ending(verdict) {
            for methods in [&[Run, Run][..], &[Run, Cancel, Run]] {
                sweep(World::new(1, methods), &Plan::new(&[&first, GOOD]), told_or_kept);
            }
        }
    }
}

#[test]
fn end_that_is_refused_by_the_store_at_every_point_costs_no_run_and_no_answer() {
    use MethodKind::{Cancel, Pause, Resume, Run, ShutdownGraceful};
    for verdict in [V::Finished, V::Paused, V::Errored] {
        let first = &ending(verdict)[1];
        for methods in [
            &[Run, Run][..],
            &[Run, Cancel, Run],
            &[Run, Resume, Cancel],
            &[Run, Pause, Cancel],
            &[Run, Cancel, Cancel],
            &[Run, Run, Cancel],
            &[Run, Cancel, ShutdownGraceful],
        ] {
            let mut world = World::new(1, methods);
            world.failures = 2;
            sweep(world, &Plan::new(&[first, GOOD]), told_or_kept);
        }
    }
    // The failure that blocks, and runs that come behind it.
    let bad: &[Act] = &[Act::Request, Act::Over(V::Errored)];
    for methods in [&[Run][..], &[Resume], &[Resume, Run]] {
        let mut world = World::new(1, methods);
        (world.failures, world.unhurried) = (2, true);
        let mut plan = Plan::new(&[bad, bad, bad, GOOD]);
        plan.rests = 4;
        sweep(world, &plan, |world| {
            assert!(world.all(|entry| entry.stage == Stage::Seen), "{world:?}");
            assert_eq!(world.state.phase(), PodState::Idle, "{world:?}");
        });
    }
}

#[test]
fn time_of_the_tree_that_is_over_at_every_point_of_a_turn_ends_it_and_strands_nothing() {
    use MethodKind::{Cancel, Pause, Resume, Run, ShutdownGraceful};
    for methods in [&[Run][..], &[Run, Pause], &[Run, Cancel], &[Run, Resume], &[Run, ShutdownGraceful]] {
        for first in ending(V::Finished).into_iter().chain(ending(V::Paused)) {
            let mut world = World::new(1, methods);
            world.time = true;
            sweep(world, &Plan::new(&[&first, GOOD]), told_or_kept);
        }
    }
}

#[test]
fn resume_of_a_blocked_pod_that_stops_before_it_is_tried_again_is_answered() {
    use MethodKind::{Resume, Run, ShutdownGraceful, ShutdownNow};
    let bad: &[Act] = &[Act::Request, Act::Over(V::Errored)];
    for methods in [&[Resume, ShutdownNow][..], &[Resume, ShutdownGraceful], &[Resume, Run, ShutdownGraceful]] {
        let mut world = World::new(1, methods);
        (world.failures, world.unhurried) = (2, true);
        // Every world is one in which nobody waits at its end.
        sweep(world, &Plan::new(&[bad, bad, bad, GOOD]), |world| assert!(world.finished, "{world:?}"));
    }
}

#[test]
fn turns_of_a_tree_that_counts_them_are_started_as_often_as_it_says_and_what_is_not_told_is_kept() {
    use MethodKind::{Cancel, Pause, Resume, Run, ShutdownGraceful};
    let short: &[Act] = &[Act::Request, Act::Response, Act::Over(V::Finished)];
    let paused: &[Act] = &[Act::Request, Act::Over(V::Paused)];
    for budget in 0..3 {
        for (methods, plan) in [
            (&[][..], Plan::new(&[short])),
            (&[Run], Plan::new(&[short])),
            (&[Run, Run], Plan::new(&[short])),
            (&[Run, Resume], Plan::new(&[paused, short])),
            (&[Run, Resume, Cancel], Plan::new(&[paused, short])),
            (&[Run, Resume, Pause], Plan::new(&[paused, short])),
            (&[Run, ShutdownGraceful], Plan::new(&[short])),
        ] {
            let mut world = World::new(2, methods);
            (world.budget, world.hiccups) = (Some(budget), 1);
            sweep(world, &plan, |world| {
                assert!(world.turns <= budget, "{world:?}");
                match world.state.phase() {
                    PodState::Idle => assert!(world.all(|entry| entry.stage == Stage::Seen), "{world:?}"),
                    // Nothing else fails here: it is the bound.
                    PodState::Blocked => assert!(world.budget == Some(0) && world.model.said > 0, "{world:?}"),
                    PodState::Paused | PodState::Stopping => {}
                    other => panic!("{other}: {world:?}"),
                }
            });
        }
        let mut world = World::new(1, &[Run]);
        (world.budget, world.crashes) = (Some(budget), 1);
        sweep(world, &Plan::new(&[short]), |world| assert!(world.turns <= budget, "{world:?}"));
    }
}

#[test]
fn answers_at_every_point_of_a_turn_that_pauses_say_what_comes_of_it() {
    use MethodKind::{Cancel, Compact, Pause, Resume, Run, ShutdownGraceful, ShutdownNow};
    for first in ending(V::Paused) {
        let plan = Plan::new(&[&first, &first, GOOD]);
        for methods in [
            &[Run, Resume, Cancel, ShutdownGraceful][..],
            &[Run, Resume, Cancel, ShutdownNow],
            &[Run, Resume, Pause, ShutdownGraceful],
            &[Run, Cancel, Run, Cancel],
            &[Run, Compact, Cancel, Run],
        ] {
            let mut world = World::new(0, methods);
            (world.hiccups, world.failures) = (1, 1);
            sweep(world, &plan, told_or_kept);
        }
    }
}

#[test]
fn rewind_whose_children_are_stopped_holds_nothing_up_for_ever() {
    use MethodKind::{Cancel, Rewind, Run, ShutdownGraceful, ShutdownNow};
    for in_the_way in [1, 2] {
        for methods in [
            &[Rewind][..],
            &[Rewind, Cancel, Run],
            &[Run, Rewind, Cancel],
            &[Rewind, ShutdownNow],
            &[Rewind, ShutdownGraceful],
        ] {
            let mut world = World::new(1, methods);
            world.in_the_way = in_the_way;
            sweep(world, &Plan::new(&[GOOD]), told_or_kept);
        }
    }
}

#[test]
fn rewind_at_every_point_returns_what_was_told_and_strands_nothing() {
    use MethodKind::{Cancel, Pause, Resume, Rewind, Run, ShutdownGraceful, ShutdownNow};
    for finds in [true, false] {
        for methods in [
            &[Rewind][..],
            &[Run, Rewind, Run],
            &[Run, Pause, Rewind],
            &[Rewind, Resume, Cancel],
            &[Rewind, ShutdownNow],
            &[Rewind, ShutdownGraceful],
            &[Rewind, Rewind],
        ] {
            let mut world = World::new(2, methods);
            world.rewinds = finds;
            sweep(world, &Plan::new(&[GOOD]), told_or_kept);
        }
        let mut world = World::new(1, &[Run, Rewind]);
        (world.rewinds, world.crashes) = (finds, 1);
        sweep(world, &Plan::new(&[GOOD]), told_or_kept);
        let mut world = World::new(1, &[Run, Rewind]);
        world.rewinds = finds;
        let paused = Plan::new(&[&[Act::Request, Act::Response, Act::Over(V::Paused)], GOOD]);
        sweep(world, &paused, |world| match world.state.phase() {
            PodState::Paused => assert!(!world.rewound || !finds, "{world:?}"),
            _ => told(world),
        });
    }
}
