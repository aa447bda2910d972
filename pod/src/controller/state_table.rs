//! The state table, whole: every input in every situation that a pod can be in, each cell asserted.
//!
//! A row is an input; its cells are groups of situations that answer alike, and every situation stands in one group.
//! A new variant of an input does not compile until it is listed in `every_input`, and fails until it has a row.
//! Rows are written for facts by which nothing waits; `check` asks each of them again with facts that wake.

use super::*;
use Effect as E;
use MethodKind as M;
use TurnVerdict as V;

const SAME: Option<PodState> = None;
const IDLE: Option<PodState> = Some(PodState::Idle);
const RUNNING: Option<PodState> = Some(PodState::Running);
const PAUSED: Option<PodState> = Some(PodState::Paused);
const BLOCKED: Option<PodState> = Some(PodState::Blocked);
const STOPPING: Option<PodState> = Some(PodState::Stopping);

const ADMIT: Option<Verdict> = Some(Verdict::Admit);
const ALREADY: Option<Verdict> = Some(Verdict::Already);
const BUSY: Option<Verdict> = Some(Verdict::Refuse(Refusal::AlreadyRunning));
const NO_TURN: Option<Verdict> = Some(Verdict::Refuse(Refusal::NotRunning));
const NO_PAUSE: Option<Verdict> = Some(Verdict::Refuse(Refusal::NotPaused));
const UNABLE: Option<Verdict> = Some(Verdict::Refuse(Refusal::Unable));
const CLOSED: Option<Verdict> = Some(Verdict::Refuse(Refusal::Stopping));
/// What is no method has no verdict.
const FACT: Option<Verdict> = None;

/// A worker that can do all.
const ABLE: Abilities = Abilities { reads_reports: true, compacts: true, rewinds: true };

/// Nothing waits.
const QUIET: Facts = facts(0, false, None);
/// An entry that may start a turn is due.
const DUE: Facts = facts(0, true, None);
/// An entry that may start a turn is due at 9.
const LATER: Facts = facts(0, false, Some(9));
/// A run is staged.
const RUN: Facts = facts(1, false, None);

const fn facts(runs_staged: u64, wakes_due: bool, next_due_ms: Option<u64>) -> Facts {
    let waiting = (wakes_due || next_due_ms.is_some()) as u64;
    Facts { runs_staged, inbox: crate::notify_buffer::NotifyBuffer { waiting, wakes_due, next_due_ms } }
}

/// The phases, and within them what makes an answer differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Idle,
    /// A run is being committed.
    Taking,
    Running,
    /// Asked to pause.
    Pausing,
    /// Asked to give up.
    Cancelling,
    /// The worker is over; its end is being committed.
    Ending,
    /// The same, and a run is being committed behind it.
    EndingTaking,
    /// The same, and it is committed: it waits for this end.
    EndingFollowed,
    /// The worker is over; that it is paused is being committed.
    EndingPaused,
    /// The same, and a run is committed behind it.
    EndingGivesWay,
    /// The same, and what is to be paused was given up meanwhile.
    EndingGivenUp,
    /// The same, and it is to be gone on with.
    EndingResumed,
    Paused,
    /// Paused, and a run is being committed.
    GivingWay,
    /// Paused, and the paused turn is being given up.
    GivingUp,
    /// The same, and a run is committed that waits for it.
    GivingUpFollowed,
    Blocked,
    /// Blocked, and a resume is lifting that.
    Lifting,
    /// Idle, paused or blocked, and the context is being made shorter.
    Compacting,
    CompactingPaused,
    CompactingBlocked,
    /// Idle, paused or blocked, and a rewind is under way.
    Rewinding,
    RewindingPaused,
    RewindingBlocked,
    /// Idle or paused, and children are being stopped for a rewind.
    Stops,
    StopsPaused,
    /// The same, and the rewind was given up.
    StopsGivenUp,
    /// Stopping gracefully: a turn runs.
    LastTurn,
    /// Stopping: the turn is told so, and the children.
    Interrupted,
    /// Stopping gracefully: the end of the last turn is being committed.
    LastCommit,
    /// Stopping gracefully: that the last turn is paused is being committed.
    LastPaused,
    /// The same, committed, and it is being given up.
    LastGivingUp,
    /// Stopping gracefully: no turn is left, the children end.
    LastChildren,
    /// Nothing is left but to say so.
    Finished,
}

const ALL: [Is; 34] = [
    Is::Idle,
    Is::Taking,
    Is::Running,
    Is::Pausing,
    Is::Cancelling,
    Is::Ending,
    Is::EndingTaking,
    Is::EndingFollowed,
    Is::EndingPaused,
    Is::EndingGivesWay,
    Is::EndingGivenUp,
    Is::EndingResumed,
    Is::Paused,
    Is::GivingWay,
    Is::GivingUp,
    Is::GivingUpFollowed,
    Is::Blocked,
    Is::Lifting,
    Is::Compacting,
    Is::CompactingPaused,
    Is::CompactingBlocked,
    Is::Rewinding,
    Is::RewindingPaused,
    Is::RewindingBlocked,
    Is::Stops,
    Is::StopsPaused,
    Is::StopsGivenUp,
    Is::LastTurn,
    Is::Interrupted,
    Is::LastCommit,
    Is::LastPaused,
    Is::LastGivingUp,
    Is::LastChildren,
    Is::Finished,
];
const RESTING: [Is; 3] = [Is::Idle, Is::Taking, Is::GivingUpFollowed];
const ENDINGS: [Is; 7] = [
    Is::Ending,
    Is::EndingTaking,
    Is::EndingFollowed,
    Is::EndingPaused,
    Is::EndingGivesWay,
    Is::EndingGivenUp,
    Is::EndingResumed,
];
const WITH_TURN: [Is; 10] = [
    Is::Running,
    Is::Pausing,
    Is::Cancelling,
    Is::Ending,
    Is::EndingTaking,
    Is::EndingFollowed,
    Is::EndingPaused,
    Is::EndingGivesWay,
    Is::EndingGivenUp,
    Is::EndingResumed,
];
const ALL_PAUSED: [Is; 3] = [Is::Paused, Is::GivingWay, Is::GivingUp];
const ALL_BLOCKED: [Is; 2] = [Is::Blocked, Is::Lifting];
const COMPACTING: [Is; 3] = [Is::Compacting, Is::CompactingPaused, Is::CompactingBlocked];
/// Whose transaction is submitted.
const REWINDS: [Is; 3] = [Is::Rewinding, Is::RewindingPaused, Is::RewindingBlocked];
const REWINDING: [Is; 6] =
    [Is::Rewinding, Is::RewindingPaused, Is::RewindingBlocked, Is::Stops, Is::StopsPaused, Is::StopsGivenUp];
const ALL_STOPPING: [Is; 7] =
    [Is::LastTurn, Is::Interrupted, Is::LastCommit, Is::LastPaused, Is::LastGivingUp, Is::LastChildren, Is::Finished];

/// A pod in that situation, reached by inputs only.
fn pod(is: Is) -> State {
    let method = Input::Method;
    let inputs: (Is, &[Input]) = match is {
        Is::Idle => return State::restored(ABLE, PodState::Idle, QUIET).0,
        Is::Taking => (Is::Idle, &[method(M::Run)]),
        Is::Running => (Is::Idle, &[Input::Committed(DUE), Input::Committed(QUIET)]),
        Is::Pausing => (Is::Running, &[method(M::Pause)]),
        Is::Cancelling => (Is::Running, &[method(M::Cancel)]),
        Is::Ending => (Is::Running, &[Input::TurnOver(V::Finished)]),
        Is::EndingTaking => (Is::Ending, &[method(M::Run)]),
        Is::EndingFollowed => (Is::EndingTaking, &[Input::RunCommitted(QUIET)]),
        Is::EndingPaused => (Is::Running, &[Input::TurnOver(V::Paused)]),
        Is::EndingGivesWay => (Is::EndingPaused, &[method(M::Run), Input::RunCommitted(QUIET)]),
        Is::EndingGivenUp => (Is::EndingPaused, &[method(M::Cancel)]),
        Is::EndingResumed => (Is::EndingPaused, &[method(M::Resume)]),
        Is::Paused => (Is::Running, &[Input::TurnOver(V::Paused), committed(QUIET, false)]),
        Is::GivingWay => (Is::Paused, &[method(M::Run)]),
        Is::GivingUp => (Is::Paused, &[method(M::Cancel)]),
        Is::GivingUpFollowed => (Is::GivingUp, &[method(M::Run), Input::RunCommitted(QUIET)]),
        Is::Blocked => (Is::Running, &[Input::TurnOver(V::Errored), committed(QUIET, true)]),
        Is::Lifting => (Is::Blocked, &[method(M::Resume)]),
        Is::Compacting => (Is::Idle, &[method(M::Compact)]),
        Is::CompactingPaused => (Is::Paused, &[method(M::Compact)]),
        Is::CompactingBlocked => (Is::Blocked, &[method(M::Compact)]),
        Is::Rewinding => (Is::Idle, &[method(M::Rewind)]),
        Is::RewindingPaused => (Is::Paused, &[method(M::Rewind)]),
        Is::RewindingBlocked => (Is::Blocked, &[method(M::Rewind)]),
        Is::Stops => (Is::Rewinding, &[Input::RewindStops]),
        Is::StopsPaused => (Is::RewindingPaused, &[Input::RewindStops]),
        Is::StopsGivenUp => (Is::Stops, &[method(M::Cancel)]),
        Is::LastTurn => (Is::Running, &[method(M::ShutdownGraceful)]),
        Is::Interrupted => (Is::Running, &[method(M::ShutdownNow)]),
        Is::LastCommit => (Is::Ending, &[method(M::ShutdownGraceful)]),
        Is::LastPaused => (Is::EndingPaused, &[method(M::ShutdownGraceful)]),
        Is::LastGivingUp => (Is::LastPaused, &[method(M::Cancel), committed(QUIET, false)]),
        Is::LastChildren => (Is::Idle, &[method(M::ShutdownGraceful)]),
        Is::Finished => (Is::Idle, &[method(M::ShutdownNow), Input::ChildrenGone]),
    };
    inputs.1.iter().fold(pod(inputs.0), |state, input| state.step(*input).0)
}

const fn committed(facts: Facts, blocked: bool) -> Input {
    Input::TurnCommitted { facts, blocked }
}

/// The list of a type's variants; leaving one out does not compile.
macro_rules! every {
    ($type:ident: $($variant:ident)*) => {{
        fn _listed(value: $type) {
            match value { $($type::$variant => {})* }
        }
        [$($type::$variant),*]
    }};
}

/// The same for inputs: a pattern, and all that is tried of it.
macro_rules! inputs {
    ($($pattern:pat => $examples:expr,)*) => {{
        fn _listed(input: Input) {
            match input { $($pattern => {})* }
        }
        let mut all: Vec<Input> = Vec::new();
        $(all.extend($examples);)*
        all
    }};
}

/// Every input, with facts by which nothing waits.
fn every_input() -> Vec<Input> {
    let methods = every!(M: Run Notify PodEvent Resume Pause Cancel ShutdownNow ShutdownGraceful Read ChildReady Delegate
            Compact Rewind);
    let verdicts = every!(V: Finished LimitReached Paused RolledBack Cancelled Interrupted Errored);
    inputs! {
        Input::Method(_) => methods.map(Input::Method),
        Input::Committed(_) => [Input::Committed(QUIET)],
        Input::RunCommitted(_) => [Input::RunCommitted(QUIET)],
        Input::RunAborted => [Input::RunAborted],
        Input::Unblocked(_) => [Input::Unblocked(QUIET)],
        Input::TurnDeclined(_) => [Input::TurnDeclined(QUIET)],
        Input::TurnPutOff(_) => [Input::TurnPutOff(QUIET)],
        Input::TurnRefused(_) => [Input::TurnRefused(QUIET)],
        Input::TurnOver(_) => verdicts.map(Input::TurnOver),
        Input::TurnCommitted { .. } => [committed(QUIET, false), committed(QUIET, true)],
        Input::TurnLeft(_) => [Input::TurnLeft(QUIET)],
        Input::AbandonCommitted(_) => [Input::AbandonCommitted(QUIET)],
        Input::RewindCommitted(_) => [Input::RewindCommitted(QUIET)],
        Input::RewindAborted => [Input::RewindAborted],
        Input::RewindStops => [Input::RewindStops],
        Input::RewindGoesOn => [Input::RewindGoesOn],
        Input::Recorded(_) => [Input::Recorded(QUIET)],
        Input::Due => [Input::Due],
        Input::TimeOver => [Input::TimeOver],
        Input::ChildrenGone => [Input::ChildrenGone],
    }
}

/// The same input with other facts, if it brings facts.
fn bringing(input: Input, facts: Facts) -> Option<Input> {
    match input {
        Input::Committed(_) => Some(Input::Committed(facts)),
        Input::RunCommitted(_) => Some(Input::RunCommitted(facts)),
        Input::Unblocked(_) => Some(Input::Unblocked(facts)),
        Input::TurnDeclined(_) => Some(Input::TurnDeclined(facts)),
        // It also asks again for what was asked for; a test of its own says how.
        Input::TurnPutOff(_) => None,
        Input::TurnRefused(_) => Some(Input::TurnRefused(facts)),
        Input::TurnCommitted { blocked, .. } => Some(committed(facts, blocked)),
        Input::AbandonCommitted(_) => Some(Input::AbandonCommitted(facts)),
        Input::Recorded(_) => Some(Input::Recorded(facts)),
        Input::RewindCommitted(_) => Some(Input::RewindCommitted(facts)),
        Input::Method(_)
        // Said of a pod that stops alone.
        | Input::TurnLeft(_)
        | Input::RunAborted
        | Input::RewindAborted
        | Input::RewindStops
        | Input::RewindGoesOn
        | Input::TurnOver(_)
        | Input::Due
        | Input::TimeOver
        | Input::ChildrenGone => None,
    }
}

type Cell<'a> = (&'a [&'a [Is]], Option<Verdict>, &'a [Effect], Option<PodState>);

#[derive(Default)]
struct Table {
    rows: Vec<Input>,
}

impl Table {
    #[track_caller]
    fn row(&mut self, input: Input, cells: &[Cell<'_>]) {
        let listed = cells.iter().flat_map(|cell| cell.0.concat());
        let mut missing = ALL.to_vec();
        for is in listed {
            let at = missing.iter().position(|other| *other == is);
            missing.remove(at.unwrap_or_else(|| panic!("{input:?}: {is:?} stands in two groups")));
        }
        assert!(missing.is_empty(), "{input:?} says nothing of {missing:?}");
        for (group, verdict, effects, next) in cells {
            for is in group.concat() {
                check(is, input, *verdict, effects, next.unwrap_or(pod(is).phase()));
            }
        }
        self.rows.push(input);
    }
}

/// One cell; and the wake rule over it: whatever leaves a pod idle starts what waits, and nothing else does.
#[track_caller]
fn check(is: Is, input: Input, verdict: Option<Verdict>, effects: &[Effect], next: PodState) {
    let asked = |input: Input| {
        let (state, step) = pod(is).step(input);
        (step.verdict, step.effects, state.phase())
    };
    assert_eq!(asked(input), (verdict, effects.to_vec(), next), "{input:?} in {is:?}");
    // What the agent still knows is not known yet: it is told nothing.
    let after = pod(is).step(input).0;
    let held = after.rewinding.is_some() || after.abandoning || after.run_committing;
    for (facts, effect, then) in [
        (DUE, E::StartTurn(Start::Wake), PodState::Running),
        (RUN, E::StartTurn(Start::Wake), PodState::Running),
        (LATER, E::WakeAt(9), PodState::Idle),
    ] {
        let Some(input) = bringing(input, facts) else { continue };
        // A staged run is what a blocked pod waits for.
        let lifts = facts.runs_staged > 0 && effects.contains(&E::RestBlocked);
        let woken = (next == PodState::Idle || lifts) && !held;
        let effects = effects.iter().copied().filter(|effect| !(lifts && *effect == E::RestBlocked));
        let effects: Vec<Effect> = effects.chain(woken.then_some(effect)).collect();
        let state = if woken {
            then
        } else if lifts {
            PodState::Idle
        } else {
            next
        };
        assert_eq!(asked(input), (verdict, effects, state), "{input:?} in {is:?}");
    }
}

#[test]
fn table_every_input_in_every_situation() {
    let mut table = Table::default();
    methods_for_the_worker(&mut table);
    methods_for_everyone(&mut table);
    turn_results(&mut table);
    facts_of_turns(&mut table);
    facts_of_the_pod(&mut table);
    let missing: Vec<Input> = every_input().into_iter().filter(|input| !table.rows.contains(input)).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}

#[test]
fn turn_that_runs_when_the_time_of_its_tree_is_over_has_reached_a_limit_unless_somebody_ended_it() {
    let over = |is: Is, inputs: &[Input], verdict: V| {
        let state = inputs.iter().fold(pod(is), |state, input| state.step(*input).0);
        state.step(Input::TurnOver(verdict)).1.effects
    };
    for said in [V::Cancelled, V::Paused, V::Errored, V::LimitReached] {
        assert_eq!(over(Is::Running, &[Input::TimeOver], said), [E::CommitTurn(V::LimitReached)], "{said:?}");
        // Weaker than a cancel, stronger than a pause.
        assert_eq!(over(Is::Pausing, &[Input::TimeOver], said), [E::CommitTurn(V::LimitReached)], "{said:?}");
    }
    assert_eq!(over(Is::Running, &[Input::TimeOver], V::Finished), [E::CommitTurn(V::Finished)]);
    for is in COMPACTING {
        assert_eq!(over(is, &[Input::TimeOver], V::Cancelled), [E::CommitTurn(V::Cancelled)], "{is:?}");
    }
    let cancelled = [E::CommitTurn(V::Cancelled)];
    assert_eq!(over(Is::Cancelling, &[Input::TimeOver], V::Paused), cancelled);
    assert_eq!(over(Is::Running, &[Input::TimeOver, Input::Method(M::Cancel)], V::Paused), cancelled);
    let interrupted = [E::CommitTurn(V::Interrupted)];
    assert_eq!(over(Is::Running, &[Input::TimeOver, Input::Method(M::ShutdownNow)], V::Cancelled), interrupted);
    assert_eq!(pod(Is::Running).step(Input::TimeOver).0.step(Input::Method(M::Pause)).1.verdict, ALREADY);
}

fn methods_for_the_worker(table: &mut Table) {
    let launching = [Is::Taking, Is::GivingWay, Is::GivingUp, Is::GivingUpFollowed, Is::Lifting];
    let running = [Is::Running, Is::Pausing, Is::Cancelling];
    // Whoever is told that a turn is over may know it before the pod does.
    let free = [Is::Idle, Is::Ending, Is::EndingPaused, Is::EndingGivenUp, Is::Paused, Is::GivingUp, Is::Blocked];
    let taken = [
        Is::Taking,
        Is::EndingTaking,
        Is::EndingFollowed,
        Is::EndingGivesWay,
        Is::EndingResumed,
        Is::GivingWay,
        Is::GivingUpFollowed,
        Is::Lifting,
    ];
    table.row(
        Input::Method(M::Run),
        &[
            (&[&free], ADMIT, &[], SAME),
            (&[&taken, &running, &COMPACTING, &REWINDING], BUSY, &[], SAME),
            (&[&ALL_STOPPING], CLOSED, &[], SAME),
        ],
    );
    table.row(
        Input::Method(M::Compact),
        &[
            (&[&[Is::Idle, Is::Paused, Is::Blocked]], ADMIT, &[E::StartTurn(Start::Compact)], RUNNING),
            (&[&launching, &WITH_TURN, &COMPACTING, &REWINDING], BUSY, &[], SAME),
            (&[&ALL_STOPPING], CLOSED, &[], SAME),
        ],
    );
    table.row(
        Input::Method(M::Rewind),
        &[
            (&[&[Is::Idle, Is::Paused, Is::Blocked]], ADMIT, &[], SAME),
            (&[&launching, &WITH_TURN, &COMPACTING, &REWINDING], BUSY, &[], SAME),
            (&[&ALL_STOPPING], CLOSED, &[], SAME),
        ],
    );
    let other_ends =
        [Is::Ending, Is::EndingTaking, Is::EndingFollowed, Is::EndingGivesWay, Is::EndingGivenUp, Is::EndingResumed];
    table.row(
        Input::Method(M::Resume),
        &[
            (&[&[Is::Idle]], NO_PAUSE, &[], SAME),
            (&[&launching, &running, &other_ends, &COMPACTING, &REWINDING], BUSY, &[], SAME),
            (&[&[Is::EndingPaused]], ADMIT, &[], SAME),
            (&[&[Is::Paused]], ADMIT, &[E::StartTurn(Start::Resume)], RUNNING),
            (&[&[Is::Blocked]], ADMIT, &[E::Unblock], SAME),
            (&[&ALL_STOPPING], CLOSED, &[], SAME),
        ],
    );
    let rests = [Is::Rewinding, Is::RewindingBlocked, Is::Stops, Is::StopsGivenUp];
    let pausing = [Is::Pausing, Is::Cancelling, Is::EndingPaused, Is::EndingGivesWay, Is::EndingGivenUp, Is::Paused];
    let ended = [Is::Ending, Is::EndingTaking, Is::EndingFollowed];
    table.row(
        Input::Method(M::Pause),
        &[
            (&[&RESTING, &ALL_BLOCKED, &rests, &ended], NO_TURN, &[], SAME),
            (&[&COMPACTING], UNABLE, &[], SAME),
            (&[&[Is::Running]], ADMIT, &[E::SignalTurn(Signal::Pause)], SAME),
            // Of the turn that goes on with it.
            (&[&[Is::EndingResumed]], ADMIT, &[], SAME),
            (&[&pausing], ALREADY, &[], SAME),
            // It is paused, and does not stay so.
            (&[&[Is::GivingWay, Is::GivingUp, Is::RewindingPaused, Is::StopsPaused]], BUSY, &[], SAME),
            (&[&ALL_STOPPING], CLOSED, &[], SAME),
        ],
    );
    let without = [Is::Taking, Is::GivingWay, Is::LastChildren, Is::Finished];
    // How it ended is decided.
    let decided = [Is::Ending, Is::EndingTaking, Is::EndingFollowed, Is::LastCommit];
    let to_be_paused = [Is::EndingPaused, Is::EndingGivesWay, Is::EndingResumed, Is::LastPaused];
    let given_up = [
        Is::Cancelling,
        Is::EndingGivenUp,
        Is::GivingUp,
        Is::GivingUpFollowed,
        Is::StopsGivenUp,
        Is::Interrupted,
        Is::LastGivingUp,
    ];
    table.row(
        Input::Method(M::Cancel),
        &[
            (&[&[Is::Idle], &without, &decided, &ALL_BLOCKED, &REWINDS], NO_TURN, &[], SAME),
            (&[&[Is::Running, Is::Pausing, Is::LastTurn], &COMPACTING], ADMIT, &[E::SignalTurn(Signal::Cancel)], SAME),
            (&[&to_be_paused], ADMIT, &[], SAME),
            (&[&[Is::Paused]], ADMIT, &[E::AbandonPaused], SAME),
            (&[&[Is::Stops, Is::StopsPaused]], ADMIT, &[E::AbortRewind], SAME),
            (&[&given_up], ALREADY, &[], SAME),
        ],
    );
}

fn methods_for_everyone(table: &mut Table) {
    for kept in [M::Notify, M::PodEvent, M::Read, M::ChildReady] {
        table.row(Input::Method(kept), &[(&[&ALL], ADMIT, &[], SAME)]);
    }
    table.row(
        Input::Method(M::Delegate),
        &[
            (&[&RESTING, &WITH_TURN, &ALL_PAUSED, &ALL_BLOCKED, &COMPACTING, &REWINDING], ADMIT, &[], SAME),
            (&[&ALL_STOPPING], CLOSED, &[], SAME),
        ],
    );
    let (now, gently) = (E::StopChildren(Signal::Shutdown), E::StopChildren(Signal::Pause));
    let told = E::SignalTurn(Signal::Shutdown);
    let hastened = [Is::LastCommit, Is::LastPaused, Is::LastGivingUp, Is::LastChildren];
    let resting = [&RESTING[..], &ALL_PAUSED, &ALL_BLOCKED, &REWINDS, &[Is::StopsGivenUp]].concat();
    let stops = [Is::Stops, Is::StopsPaused];
    table.row(
        Input::Method(M::ShutdownNow),
        &[
            (&[&resting, &ENDINGS, &hastened], ADMIT, &[now], STOPPING),
            (&[&stops], ADMIT, &[E::AbortRewind, now], STOPPING),
            (&[&[Is::Running, Is::Pausing, Is::Cancelling, Is::LastTurn], &COMPACTING], ADMIT, &[told, now], STOPPING),
            (&[&[Is::Interrupted, Is::Finished]], ALREADY, &[], SAME),
        ],
    );
    table.row(
        Input::Method(M::ShutdownGraceful),
        &[
            (&[&resting], ADMIT, &[gently], STOPPING),
            (&[&stops], ADMIT, &[E::AbortRewind, gently], STOPPING),
            // The turn may end first, and may be waiting for its children.
            (&[&WITH_TURN, &COMPACTING], ADMIT, &[], STOPPING),
            (&[&ALL_STOPPING], ALREADY, &[], SAME),
        ],
    );
}

fn turn_results(table: &mut Table) {
    let none = [
        &RESTING[..],
        &ALL_PAUSED,
        &ALL_BLOCKED,
        &REWINDING,
        &ENDINGS,
        &[Is::LastCommit, Is::LastPaused, Is::LastGivingUp, Is::LastChildren, Is::Finished],
    ];
    // The worker's word; what it means in a turn that was asked for nothing, to pause, to give up, to make way.
    let meanings = [
        (V::Finished, [V::Finished, V::Finished, V::Finished, V::Finished]),
        (V::LimitReached, [V::LimitReached, V::LimitReached, V::LimitReached, V::LimitReached]),
        (V::Paused, [V::Paused, V::Paused, V::Cancelled, V::Interrupted]),
        (V::RolledBack, [V::RolledBack, V::RolledBack, V::RolledBack, V::RolledBack]),
        (V::Cancelled, [V::Cancelled, V::Paused, V::Cancelled, V::Interrupted]),
        (V::Interrupted, [V::Interrupted, V::Interrupted, V::Interrupted, V::Interrupted]),
        (V::Errored, [V::Errored, V::Errored, V::Cancelled, V::Interrupted]),
    ];
    for (said, [plain, pausing, cancelling, interrupted]) in meanings {
        table.row(
            Input::TurnOver(said),
            &[
                (&none, FACT, &[], SAME),
                (&[&[Is::Running, Is::LastTurn]], FACT, &[E::CommitTurn(plain)], SAME),
                // There is no compaction that could be gone on with.
                (&[&COMPACTING], FACT, &[E::CommitTurn(if said == V::Paused { V::Cancelled } else { plain })], SAME),
                (&[&[Is::Pausing]], FACT, &[E::CommitTurn(pausing)], SAME),
                (&[&[Is::Cancelling]], FACT, &[E::CommitTurn(cancelling)], SAME),
                (&[&[Is::Interrupted]], FACT, &[E::CommitTurn(interrupted)], SAME),
            ],
        );
    }
}

fn facts_of_turns(table: &mut Table) {
    let gently = E::StopChildren(Signal::Pause);
    let stopped = [Is::Interrupted, Is::LastGivingUp, Is::LastChildren, Is::Finished];
    for input in [Input::TurnDeclined(QUIET), Input::TurnPutOff(QUIET)] {
        table.row(
            input,
            &[
                (&[&RESTING, &ALL_PAUSED, &ALL_BLOCKED, &REWINDING, &stopped], FACT, &[], SAME),
                (&[&WITH_TURN, &[Is::Compacting]], FACT, &[], IDLE),
                (&[&[Is::CompactingPaused]], FACT, &[], PAUSED),
                (&[&[Is::CompactingBlocked]], FACT, &[E::RestBlocked], BLOCKED),
                (&[&[Is::LastTurn, Is::LastCommit, Is::LastPaused]], FACT, &[gently], SAME),
            ],
        );
    }
    for (blocked, effects, next) in [(false, &[][..], IDLE), (true, &[E::RestBlocked][..], BLOCKED)] {
        let others = [Is::Running, Is::Pausing, Is::Cancelling, Is::LastTurn];
        table.row(
            committed(QUIET, blocked),
            &[
                (&[&RESTING, &ALL_PAUSED, &ALL_BLOCKED, &others, &stopped, &COMPACTING, &REWINDING], FACT, &[], SAME),
                (&[&[Is::Ending, Is::EndingTaking]], FACT, effects, next),
                (&[&[Is::EndingFollowed, Is::EndingGivesWay]], FACT, &[], IDLE),
                (&[&[Is::EndingPaused]], FACT, &[], PAUSED),
                (&[&[Is::EndingGivenUp]], FACT, &[E::AbandonPaused], PAUSED),
                (&[&[Is::EndingResumed]], FACT, &[E::StartTurn(Start::Resume)], RUNNING),
                (&[&[Is::LastCommit, Is::LastPaused]], FACT, &[gently], SAME),
            ],
        );
    }
    table.row(
        Input::TurnRefused(QUIET),
        &[
            (&[&RESTING, &ALL_PAUSED, &ALL_BLOCKED, &REWINDING, &stopped], FACT, &[], SAME),
            (&[&WITH_TURN, &COMPACTING], FACT, &[E::RestBlocked], BLOCKED),
            (&[&[Is::LastTurn, Is::LastCommit, Is::LastPaused]], FACT, &[gently], SAME),
        ],
    );
    table.row(
        Input::TurnLeft(QUIET),
        &[
            (&[&RESTING, &WITH_TURN, &ALL_PAUSED, &ALL_BLOCKED, &COMPACTING, &REWINDING], FACT, &[], SAME),
            (&[&[Is::LastGivingUp, Is::LastChildren, Is::Finished, Is::Interrupted]], FACT, &[], SAME),
            (&[&[Is::LastTurn, Is::LastCommit, Is::LastPaused]], FACT, &[gently], SAME),
        ],
    );
    // A rewind has given up what was paused; what is blocked stays so.
    for input in [Input::AbandonCommitted(QUIET), Input::RewindCommitted(QUIET)] {
        table.row(
            input,
            &[
                (&[&RESTING, &WITH_TURN, &ALL_BLOCKED, &ALL_STOPPING, &COMPACTING], FACT, &[], SAME),
                (&[&[Is::Rewinding, Is::RewindingBlocked, Is::Stops, Is::StopsGivenUp]], FACT, &[], SAME),
                (&[&ALL_PAUSED, &[Is::RewindingPaused, Is::StopsPaused]], FACT, &[], IDLE),
            ],
        );
    }
}

fn facts_of_the_pod(table: &mut Table) {
    let rests = [Is::Rewinding, Is::Stops, Is::StopsGivenUp];
    for input in [
        Input::Committed(QUIET),
        Input::Recorded(QUIET),
        Input::RunAborted,
        Input::RewindAborted,
        Input::RewindStops,
        Input::RewindGoesOn,
    ] {
        table.row(input, &[(&[&ALL], FACT, &[], SAME)]);
    }
    table.row(
        Input::RunCommitted(QUIET),
        &[
            (&[&RESTING, &WITH_TURN, &ALL_STOPPING, &COMPACTING, &rests], FACT, &[], SAME),
            (&[&ALL_PAUSED, &ALL_BLOCKED], FACT, &[], IDLE),
            (&[&[Is::RewindingPaused, Is::RewindingBlocked, Is::StopsPaused]], FACT, &[], IDLE),
        ],
    );
    let rests = [Is::Rewinding, Is::RewindingPaused, Is::Stops, Is::StopsPaused, Is::StopsGivenUp];
    table.row(
        Input::Unblocked(QUIET),
        &[
            (&[&RESTING, &WITH_TURN, &ALL_PAUSED, &ALL_STOPPING, &COMPACTING, &rests], FACT, &[], SAME),
            (&[&ALL_BLOCKED, &[Is::RewindingBlocked]], FACT, &[], IDLE),
        ],
    );
    table.row(
        Input::Due,
        &[
            (&[&RESTING, &WITH_TURN, &ALL_PAUSED, &ALL_STOPPING, &COMPACTING, &rests], FACT, &[E::Look], SAME),
            (&[&ALL_BLOCKED, &[Is::RewindingBlocked]], FACT, &[E::Unblock], SAME),
        ],
    );
    let ending_or_cancelled = [&ENDINGS[..], &[Is::Cancelling]].concat();
    let without = [Is::Interrupted, Is::LastCommit, Is::LastPaused, Is::LastGivingUp, Is::LastChildren, Is::Finished];
    table.row(
        Input::TimeOver,
        &[
            (&[&RESTING, &ALL_PAUSED, &ALL_BLOCKED, &REWINDING, &ending_or_cancelled, &without], FACT, &[], SAME),
            (&[&[Is::Running, Is::Pausing, Is::LastTurn], &COMPACTING], FACT, &[E::SignalTurn(Signal::Limit)], SAME),
        ],
    );
    // Of those that stop, one has nothing else left.
    let others = [Is::LastTurn, Is::Interrupted, Is::LastCommit, Is::LastPaused, Is::LastGivingUp, Is::Finished];
    table.row(
        Input::ChildrenGone,
        &[
            (&[&RESTING, &WITH_TURN, &ALL_PAUSED, &ALL_BLOCKED, &others], FACT, &[], SAME),
            (&[&COMPACTING, &REWINDING], FACT, &[], SAME),
            (&[&[Is::LastChildren]], FACT, &[E::Finish], SAME),
        ],
    );
}

/// Feeds inputs to a pod and expects what the last of them leads to.
#[track_caller]
fn play(state: State, inputs: &[Input], effects: &[Effect], next: Option<PodState>) -> State {
    let mut step = Step::default();
    let mut state = state;
    for input in inputs {
        (state, step) = state.step(*input);
    }
    assert_eq!((step.effects, Some(state.phase())), (effects.to_vec(), next), "{inputs:?}");
    state
}

#[test]
fn run_admitted_holds_the_slot_until_it_is_committed_or_not() {
    for is in [Is::Idle, Is::Paused, Is::Blocked] {
        let taking = pod(is).step(Input::Method(M::Run)).0;
        assert_eq!(taking.step(Input::Method(M::Run)).1.verdict, BUSY, "{is:?}");
        let free = taking.step(Input::RunAborted).0;
        assert_eq!(free.step(Input::Method(M::Run)).1.verdict, ADMIT, "{is:?}");
        play(taking, &[Input::RunCommitted(RUN)], &[E::StartTurn(Start::Wake)], RUNNING);
    }
}

#[test]
fn resume_and_cancel_of_a_paused_turn_are_used_up_by_what_they_cause() {
    let paused_again = [Input::Method(M::Resume), Input::TurnOver(V::Paused), committed(DUE, false)];
    let paused = play(pod(Is::Paused), &paused_again, &[], PAUSED);
    assert_eq!(paused.step(Input::Method(M::Resume)).1.verdict, ADMIT);
    let idle = play(pod(Is::GivingUp), &[Input::AbandonCommitted(QUIET)], &[], IDLE);
    assert_eq!(idle.step(Input::Method(M::Run)).1.verdict, ADMIT);
    let lifted = play(pod(Is::Lifting), &[Input::Unblocked(QUIET)], &[], IDLE);
    assert_eq!(lifted.step(Input::Method(M::Run)).1.verdict, ADMIT);
}

#[test]
fn run_committed_while_stopping_never_starts_and_is_waited_for() {
    let stopping = play(pod(Is::Taking), &[Input::Method(M::ShutdownNow), Input::ChildrenGone], &[], STOPPING);
    play(stopping, &[Input::RunCommitted(RUN)], &[E::Finish], STOPPING);
    play(stopping, &[Input::RunAborted], &[E::Finish], STOPPING);
}

#[test]
fn compaction_leaves_the_pod_what_it_was_and_starts_what_has_waited() {
    let over = [Input::TurnOver(V::Finished), committed(DUE, false)];
    let wake = E::StartTurn(Start::Wake);
    play(pod(Is::Compacting), &over, &[wake], RUNNING);
    play(pod(Is::CompactingPaused), &over, &[], PAUSED);
    play(pod(Is::CompactingBlocked), &over, &[E::RestBlocked], BLOCKED);
    for is in [Is::Compacting, Is::CompactingPaused, Is::CompactingBlocked] {
        let cancelled = [Input::Method(M::Cancel), Input::TurnOver(V::Errored)];
        play(pod(is), &cancelled, &[E::CommitTurn(V::Cancelled)], RUNNING);
        let stopped = [Input::Method(M::ShutdownNow), Input::TurnOver(V::Errored)];
        play(pod(is), &stopped, &[E::CommitTurn(V::Interrupted)], STOPPING);
        let last = [Input::Method(M::ShutdownGraceful), Input::TurnOver(V::Finished), committed(DUE, false)];
        play(pod(is), &last, &[E::StopChildren(Signal::Pause)], STOPPING);
    }
    // Work that is to be done in its place lifts what is below it.
    for is in [Is::CompactingPaused, Is::CompactingBlocked] {
        let instead = [Input::RunCommitted(RUN), Input::TurnOver(V::Cancelled), committed(RUN, false)];
        play(pod(is), &instead, &[wake], RUNNING);
    }
    // It is used up: what follows is an ordinary turn.
    let idle = play(pod(Is::Compacting), &[Input::TurnOver(V::Errored), committed(QUIET, false)], &[], IDLE);
    let paused = [Input::Committed(DUE), Input::TurnOver(V::Paused), committed(QUIET, false)];
    play(idle, &paused, &[], PAUSED);
}

#[test]
fn rewind_holds_what_waits_until_it_is_committed_or_not() {
    let wake = E::StartTurn(Start::Wake);
    for is in [Is::Rewinding, Is::RewindingPaused] {
        let holding = pod(is).step(Input::Committed(DUE)).0;
        assert!(holding.turn.is_none(), "{is:?}");
        play(holding, &[Input::RewindCommitted(DUE)], &[wake], RUNNING);
    }
    play(pod(Is::Rewinding), &[Input::Committed(DUE), Input::RewindAborted], &[wake], RUNNING);
    play(pod(Is::RewindingPaused), &[Input::Committed(DUE), Input::RewindAborted], &[], PAUSED);
    // Its time comes while children are being stopped.
    play(pod(Is::RewindingBlocked), &[Input::Due, Input::Unblocked(DUE)], &[], IDLE);
    let stopping = [Input::Method(M::ShutdownNow), Input::ChildrenGone];
    let stopping = play(pod(Is::Rewinding), &stopping, &[], STOPPING);
    play(stopping, &[Input::RewindCommitted(DUE)], &[E::Finish], STOPPING);
    play(stopping, &[Input::RewindAborted], &[E::Finish], STOPPING);
}

#[test]
fn cancel_of_what_is_being_paused_gives_it_up_as_soon_as_it_is() {
    let paused = committed(QUIET, false);
    let giving_up = play(pod(Is::EndingGivenUp), &[paused], &[E::AbandonPaused], PAUSED);
    assert!(giving_up.is_giving_up());
    play(giving_up, &[Input::AbandonCommitted(DUE)], &[E::StartTurn(Start::Wake)], RUNNING);
    // The pod's end waits for it.
    let gently = E::StopChildren(Signal::Pause);
    let stopping = [Input::Method(M::ShutdownGraceful), paused];
    let stopping = play(pod(Is::EndingGivenUp), &stopping, &[E::AbandonPaused, gently], STOPPING);
    let alone = play(stopping, &[Input::ChildrenGone], &[], STOPPING);
    play(alone, &[Input::AbandonCommitted(QUIET)], &[E::Finish], STOPPING);
    // What was asked for last counts: the turn that goes on is told.
    let told = |signal| [E::StartTurn(Start::Resume), E::SignalTurn(signal)];
    for (method, signal) in [(M::Cancel, Signal::Cancel), (M::Pause, Signal::Pause)] {
        play(pod(Is::EndingResumed), &[Input::Method(method), paused], &told(signal), RUNNING);
    }
    // And if nothing goes on, because the pod stops, it is given up.
    let stopping = [Input::Method(M::Cancel), Input::Method(M::ShutdownGraceful), paused];
    play(pod(Is::EndingResumed), &stopping, &[E::AbandonPaused, gently], STOPPING);
}

#[test]
fn run_behind_the_end_of_a_turn_is_the_next_whatever_the_end_was() {
    let wake = E::StartTurn(Start::Wake);
    let run = Input::Method(M::Run);
    for (verdict, blocked) in [(V::Finished, false), (V::Errored, true), (V::Paused, false)] {
        let taking = [Input::TurnOver(verdict), run, committed(QUIET, blocked), Input::RunCommitted(RUN)];
        play(pod(Is::Running), &taking, &[wake], RUNNING);
        // Not committed: the pod is what it would have been.
        let state = taking[..3].iter().fold(pod(Is::Running), |state, input| state.step(*input).0);
        let state = state.step(Input::RunAborted).0;
        assert_eq!(state.step(run).1.verdict, ADMIT, "{verdict:?}");
    }
    // There is one that is next; whoever comes then is as late as behind one that was taken by an idle pod.
    let staged = play(pod(Is::EndingTaking), &[Input::RunCommitted(RUN)], &[], RUNNING);
    assert_eq!(staged.step(run).1.verdict, BUSY);
    // Something else waits, too: one turn for both.
    let waits = play(pod(Is::EndingTaking), &[committed(DUE, false)], &[], IDLE);
    play(waits, &[Input::RunCommitted(RUN)], &[wake], RUNNING);
    play(waits, &[Input::RunAborted], &[wake], RUNNING);
    // While what is paused is being given up, whichever is committed first.
    let gives_up = pod(Is::GivingUp).step(run).0;
    let idle = play(gives_up, &[Input::AbandonCommitted(QUIET)], &[], IDLE);
    play(idle, &[Input::RunCommitted(RUN)], &[wake], RUNNING);
    let waits = play(gives_up, &[Input::RunCommitted(RUN)], &[], IDLE);
    assert!(waits.is_giving_up());
    play(waits, &[Input::AbandonCommitted(RUN)], &[wake], RUNNING);
}

#[test]
fn run_that_is_committed_before_the_end_it_follows_is_the_next_whatever_the_end_was() {
    // The end was refused by the store, and is committed by a later attempt.
    let run = [Input::Method(M::Run), Input::RunCommitted(RUN)];
    for (verdict, blocked) in [(V::Finished, false), (V::Errored, true), (V::Paused, false)] {
        let ending = pod(Is::Running).step(Input::TurnOver(verdict)).0;
        let followed = run.iter().fold(ending, |state, input| state.step(*input).0);
        assert_eq!(followed.step(Input::Method(M::Resume)).1.verdict, BUSY, "{verdict:?}: it gives way");
        play(followed, &[committed(RUN, blocked)], &[E::StartTurn(Start::Wake)], RUNNING);
    }
    // What is to be paused is given up first.
    let given_up = run.iter().fold(pod(Is::EndingGivenUp), |state, input| state.step(*input).0);
    let gives_up = play(given_up, &[committed(RUN, false)], &[E::AbandonPaused], IDLE);
    play(gives_up, &[Input::AbandonCommitted(RUN)], &[E::StartTurn(Start::Wake)], RUNNING);
    // Work that was staged behind a turn that blocks the pod, or behind a compaction of a blocked one.
    play(pod(Is::Ending), &[committed(RUN, true)], &[E::StartTurn(Start::Wake)], RUNNING);
    let compacted = [Input::TurnOver(V::Finished), committed(RUN, false)];
    play(pod(Is::CompactingBlocked), &compacted, &[E::StartTurn(Start::Wake)], RUNNING);
}

#[test]
fn turn_that_is_left_to_the_next_life_is_not_given_up_in_this_one() {
    let stopping = [Input::TurnOver(V::Paused), Input::Method(M::Cancel), Input::Method(M::ShutdownNow)];
    let stopping = stopping.iter().fold(pod(Is::Running), |state, input| state.step(*input).0);
    assert!(stopping.is_giving_up());
    let left = play(stopping, &[Input::TurnLeft(QUIET)], &[], STOPPING);
    assert!(!left.is_giving_up());
    play(left, &[Input::ChildrenGone], &[E::Finish], STOPPING);
}

#[test]
fn rewind_is_given_up_by_a_cancel_and_by_the_end_of_the_pod_but_not_when_it_is_submitted() {
    for is in [Is::Stops, Is::StopsPaused] {
        let on = pod(is).step(Input::RewindGoesOn).0;
        assert_eq!(on.step(Input::Method(M::Cancel)).1.verdict, NO_TURN, "{is:?}");
        let again = on.step(Input::RewindStops).0.step(Input::Method(M::Cancel)).0;
        assert!(again.is_rewind_given_up(), "{is:?}");
        let over = again.step(Input::RewindAborted).0;
        assert_eq!(over.step(Input::Method(M::Run)).1.verdict, ADMIT, "{is:?}");
    }
    let stopping = play(pod(Is::Rewinding), &[Input::Method(M::ShutdownNow), Input::ChildrenGone], &[], STOPPING);
    let given_up = play(stopping, &[Input::RewindStops], &[E::AbortRewind], STOPPING);
    play(given_up, &[Input::RewindAborted], &[E::Finish], STOPPING);
}

#[test]
fn worker_that_can_do_neither_is_asked_for_neither() {
    let unable = Abilities { compacts: false, rewinds: false, ..ABLE };
    for found in [PodState::Idle, PodState::Paused, PodState::Blocked, PodState::Running] {
        let state = State::restored(unable, found, QUIET).0;
        for method in [M::Compact, M::Rewind] {
            let (after, step) = state.step(Input::Method(method));
            assert_eq!((step.verdict, step.effects, after), (UNABLE, Vec::new(), state), "{method:?} when {found}");
        }
    }
}

#[test]
fn finish_is_said_once_and_only_without_turn_and_children() {
    let turn_left = play(pod(Is::LastTurn), &[Input::ChildrenGone], &[], STOPPING);
    let ending = play(turn_left, &[Input::TurnOver(V::Finished)], &[E::CommitTurn(V::Finished)], STOPPING);
    let over = play(ending, &[committed(DUE, false)], &[E::Finish], STOPPING);
    play(over, &[Input::ChildrenGone], &[], STOPPING);
    play(over, &[Input::Method(M::ShutdownNow)], &[], STOPPING);
    play(over, &[Input::Committed(DUE)], &[], STOPPING);
}

#[test]
fn turn_put_off_starts_from_where_it_was_with_what_it_was_asked_for() {
    let start = |cause| E::StartTurn(cause);
    play(pod(Is::Running), &[Input::TurnPutOff(DUE)], &[start(Start::Wake)], RUNNING);
    let told = [start(Start::Wake), E::SignalTurn(Signal::Pause)];
    play(pod(Is::Pausing), &[Input::TurnPutOff(RUN)], &told, RUNNING);
    play(pod(Is::Running), &[Input::TurnPutOff(LATER)], &[E::WakeAt(9)], IDLE);

    let resumed = pod(Is::Paused).step(Input::Method(M::Resume)).0;
    let again = play(resumed, &[Input::TurnPutOff(DUE)], &[start(Start::Resume)], RUNNING);
    let cancelled = [Input::Method(M::Cancel), Input::TurnPutOff(QUIET)];
    play(again, &cancelled, &[start(Start::Resume), E::SignalTurn(Signal::Cancel)], RUNNING);
    let stopping = [Input::Method(M::ShutdownGraceful), Input::TurnPutOff(DUE)];
    play(again, &stopping, &[E::StopChildren(Signal::Pause)], STOPPING);
}

#[test]
fn turn_that_a_bound_of_the_tree_refuses_blocks_or_leaves_what_is_paused_as_it_was() {
    let blocked = play(pod(Is::Running), &[Input::TurnRefused(DUE)], &[E::RestBlocked], BLOCKED);
    play(blocked, &[Input::Committed(DUE)], &[], BLOCKED);
    play(blocked, &[Input::Due], &[E::Unblock], BLOCKED);
    play(blocked, &[Input::Method(M::Run), Input::RunCommitted(RUN)], &[E::StartTurn(Start::Wake)], RUNNING);
    // Work that was taken behind it was counted: it starts.
    play(pod(Is::Running), &[Input::TurnRefused(RUN)], &[E::StartTurn(Start::Wake)], RUNNING);
    let resumed = pod(Is::Paused).step(Input::Method(M::Resume)).0;
    let paused = play(resumed, &[Input::TurnRefused(DUE)], &[], PAUSED);
    assert_eq!(paused.step(Input::Method(M::Resume)).1.verdict, ADMIT);
    let cancelled = [Input::Method(M::Cancel), Input::TurnRefused(QUIET)];
    let gives_up = play(resumed, &cancelled, &[E::AbandonPaused], PAUSED);
    assert!(gives_up.is_giving_up());
    let stopping = [Input::Method(M::ShutdownGraceful), Input::TurnRefused(DUE)];
    play(resumed, &stopping, &[E::StopChildren(Signal::Pause)], STOPPING);
}

#[test]
fn signal_later_and_stronger_replaces_and_a_weaker_one_is_moot() {
    let cancel = [Input::Method(M::Pause), Input::Method(M::Cancel)];
    let cancelled = play(pod(Is::Running), &cancel, &[E::SignalTurn(Signal::Cancel)], RUNNING);
    let over = cancelled.step(Input::Method(M::Pause)).0;
    play(over, &[Input::TurnOver(V::Paused)], &[E::CommitTurn(V::Cancelled)], RUNNING);
}

#[test]
fn wish_to_be_woken_is_said_once_for_each_time_and_again_after_a_look() {
    let idle = play(pod(Is::Idle), &[Input::Committed(LATER)], &[E::WakeAt(9)], IDLE);
    play(idle, &[Input::Committed(LATER)], &[], IDLE);
    play(idle, &[Input::Committed(facts(0, false, Some(7)))], &[E::WakeAt(7)], IDLE);
    let looking = play(idle, &[Input::Due], &[E::Look], IDLE);
    // Early by the store's clock: the look says so, and the wish stands again.
    play(looking, &[Input::Committed(LATER)], &[E::WakeAt(9)], IDLE);
    play(looking, &[Input::Committed(DUE)], &[E::StartTurn(Start::Wake)], RUNNING);
    // A turn in between does not leave the pod deaf.
    let ended = [Input::Committed(RUN), Input::TurnOver(V::Finished), committed(LATER, false)];
    play(idle, &ended, &[E::WakeAt(9)], IDLE);
}

#[test]
fn worker_that_reads_none_has_reports_recorded_and_no_turn() {
    let (deaf, step) = State::restored(Abilities { reads_reports: false, ..ABLE }, PodState::Idle, DUE);
    assert_eq!((deaf.phase(), step.effects), (PodState::Idle, vec![E::Record]));
    play(deaf, &[Input::Committed(DUE)], &[], IDLE);
    play(deaf, &[Input::Recorded(DUE)], &[E::Record], IDLE);
    let quiet = play(deaf, &[Input::Recorded(QUIET)], &[], IDLE);
    play(quiet, &[Input::Committed(LATER)], &[], IDLE);
    let running = play(quiet, &[Input::Committed(RUN)], &[E::StartTurn(Start::Wake)], RUNNING);
    play(running, &[Input::Committed(DUE)], &[E::Record], RUNNING);
}

#[test]
fn restored_pod_goes_on_where_its_store_is() {
    let wake = E::StartTurn(Start::Wake);
    let cells: &[(PodState, Facts, &[Effect], Option<PodState>)] = &[
        (PodState::Idle, QUIET, &[], IDLE),
        (PodState::Idle, DUE, &[wake], RUNNING),
        (PodState::Idle, RUN, &[wake], RUNNING),
        (PodState::Idle, LATER, &[E::WakeAt(9)], IDLE),
        // No turn and no stop survives a process.
        (PodState::Running, QUIET, &[], IDLE),
        (PodState::Stopping, DUE, &[wake], RUNNING),
        (PodState::Paused, QUIET, &[], PAUSED),
        (PodState::Paused, DUE, &[], PAUSED),
        // Staged behind the paused turn, and waits for it. One that lifts the pause is found by the store, which says idle.
        (PodState::Paused, RUN, &[], PAUSED),
        (PodState::Blocked, DUE, &[E::RestBlocked], BLOCKED),
        (PodState::Blocked, LATER, &[E::RestBlocked], BLOCKED),
        // Accepted behind the end that blocked it.
        (PodState::Blocked, RUN, &[wake], RUNNING),
    ];
    for (found, facts, effects, next) in cells {
        let (state, step) = State::restored(ABLE, *found, *facts);
        assert_eq!((&step.effects[..], Some(state.phase())), (*effects, *next), "{found:?} with {facts:?}");
    }
}
