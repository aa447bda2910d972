//! What people are shown, who may speak as a child, and who is waited for.

use std::convert::Infallible;

use super::*;
use crate::id::{Seq, StreamId, TurnId};
use crate::store::{ChildState, Lifetime};

fn row(name: &str, incarnation: u64) -> ChildRow {
    ChildRow {
        pod: crate::store::fixture::pod(name, incarnation),
        at: UnixMillis(1),
        pid: None,
        state: ChildState::Reserved,
        lifetime: Lifetime::Tied,
        restart: crate::store::Restart::default(),
        restarted: false,
        moved_to: None,
        worker: String::new(),
        socket: "/s".into(),
        store: "/db".into(),
        runtime_dir: "/r".into(),
        scope: Vec::new(),
        stream: None::<StreamId>,
        terminal: None,
    }
}

/// A registry with one child, `a`, whose process is 10.
fn with_child() -> (SpawnedPodRegistry, PodId, watch::Receiver<Option<Stop>>) {
    let registry = SpawnedPodRegistry::default();
    let Ok(stop) = registry.add(&row("a", 1), || Ok::<_, Infallible>(Some(10)));
    (registry, row("a", 1).pod, stop)
}

fn turn_ended(pod: &PodId, work: u64, result: TurnResult) -> PodEvent {
    PodEvent::TurnEnded { pod: pod.clone(), work: WorkId(work), turn: TurnId(1), result }
}

fn settled(pod: &PodId, work: u64, result: WorkResult) -> PodEvent {
    PodEvent::WorkSettled { pod: pod.clone(), work: WorkId(work), result }
}

const KILLED: Terminal = Terminal::Lost { reason: LostReason::Killed { signal: 9 } };

#[test]
fn sender_is_a_child_whose_process_is_not_reaped() {
    let (registry, pod, _stop) = with_child();
    assert_eq!(registry.sender(10), Some(pod.clone()));
    assert_eq!(registry.sender(11), None);
    assert!(!registry.is_unidentified(&pod));
    registry.reaped(&pod);
    assert_eq!(registry.sender(10), None, "its number may be anybody's");
    assert!(!registry.is_unidentified(&pod), "it is dead, and no child of an earlier life");

    let adopted = ChildRow { pid: Some(12), ..row("b", 1) };
    let Ok(_stop) = registry.add(&adopted, || Ok::<_, Infallible>(None));
    assert_eq!(registry.sender(12), None, "a stored number is nobody");
    assert!(registry.is_unidentified(&adopted.pod));
    assert!(!registry.is_unidentified(&row("b", 2).pod), "another life of the name");
    registry.ended(&adopted.pod, &Terminal::ShutDown);
    assert!(!registry.is_unidentified(&adopted.pod));
}

#[test]
fn child_that_was_not_started_leaves_no_line() {
    let registry = SpawnedPodRegistry::default();
    assert!(registry.add(&row("a", 1), || Err("no process")).is_err());
    assert!(registry.children().is_empty() && !registry.watch().has_changed().unwrap());
}

#[test]
fn child_that_has_ended_is_not_waited_for_whatever_comes_late() {
    let (registry, pod, _stop) = with_child();
    assert_eq!(registry.living(), 1);
    registry.ended(&pod, &KILLED);
    assert_eq!(registry.living(), 0);
    let _late = registry.delegated(&pod, WorkId(1), "late");
    registry.phase(&pod, ChildPhase::Ready);
    registry.refused(&pod, WorkId(1));
    registry.offered(&pod, &turn_ended(&pod, 1, TurnResult::Finished), Disposition::Duplicate, Duration::ZERO);
    assert_eq!((registry.living(), registry.children()[0].phase), (0, ChildPhase::Ended));
    assert_eq!(registry.stop_all(Stop { now: true, grace: Duration::ZERO }), 0);
}

#[test]
fn child_that_is_left_to_the_next_life_is_not_waited_for() {
    let (registry, pod, _stop) = with_child();
    registry.leave(&pod);
    assert_eq!((registry.living(), registry.children()[0].terminal.clone()), (0, None));
}

#[test]
fn child_of_an_earlier_life_that_comes_when_all_were_told_to_end_is_left_and_not_waited_for() {
    let registry = SpawnedPodRegistry::default();
    let adopt = |name: &str| {
        let Ok(stop) = registry.add(&row(name, 1), || Ok::<_, Infallible>(None));
        stop
    };
    let _before = adopt("before");
    assert_eq!(registry.living(), 1);
    registry.stop_all(Stop { now: true, grace: Duration::ZERO });
    let _behind = adopt("behind");
    assert_eq!(registry.living(), 1, "nobody tells it to end");
    // One of our own is, by whoever has started it.
    let Ok(_own) = registry.add(&row("own", 1), || Ok::<_, Infallible>(Some(10)));
    assert_eq!(registry.living(), 2);
}

#[test]
fn stop_asked_later_only_hastens() {
    let (registry, pod, stop) = with_child();
    let seconds = Duration::from_secs;
    registry.stop(&pod, Stop { now: false, grace: seconds(20) });
    registry.stop(&pod, Stop { now: true, grace: seconds(30) });
    assert_eq!(*stop.borrow(), Some(Stop { now: true, grace: seconds(20) }));
    assert_eq!(registry.stop_all(Stop { now: false, grace: seconds(1) }), 1);
    assert_eq!(*stop.borrow(), Some(Stop { now: true, grace: seconds(1) }));
}

#[test]
fn work_is_followed_from_its_delegation_to_its_settling() {
    let (registry, pod, _stop) = with_child();
    let progress = registry.delegated(&pod, WorkId(1), "part");
    assert_eq!(registry.children()[0].phase, ChildPhase::Working);
    let ended = turn_ended(&pod, 1, TurnResult::LimitReached);
    registry.offered(&pod, &ended, Disposition::Applied, Duration::from_millis(3));
    registry.offered(&pod, &ended, Disposition::Duplicate, Duration::from_millis(5));
    registry.offered(&pod, &settled(&pod, 1, WorkResult::LimitReached), Disposition::Applied, Duration::ZERO);
    let end = Some(WorkEnd::TurnEnded(TurnResult::LimitReached));
    let known = progress.borrow().clone();
    assert_eq!((known.end, known.result), (end.clone(), Some(WorkResult::LimitReached)));
    let line = &registry.children()[0];
    assert_eq!((line.phase, line.applied, line.offers), (ChildPhase::Ready, 2, 3));
    assert_eq!((&line.work_end, line.work_result), (&end, Some(WorkResult::LimitReached)));
    assert!(registry.lock().works.is_empty(), "what is settled is forgotten");
}

#[test]
fn work_of_a_dead_child_is_lost_unless_it_had_ended() {
    let (registry, pod, _stop) = with_child();
    let ended = registry.delegated(&pod, WorkId(1), "ended");
    let open = registry.delegated(&pod, WorkId(2), "open");
    registry.drained(&pod, &[turn_ended(&pod, 1, TurnResult::Finished)]);
    for (work, result) in [(1, WorkResult::Finished), (2, WorkResult::Lost)] {
        registry.work_lost(WorkId(work), &KILLED, result);
        registry.settled(&[(WorkId(work), result)]);
    }
    registry.ended(&pod, &KILLED);
    assert_eq!(ended.borrow().end, Some(WorkEnd::TurnEnded(TurnResult::Finished)));
    assert_eq!(open.borrow().end, Some(WorkEnd::Lost(LostReason::Killed { signal: 9 })));
    assert_eq!(registry.children()[0].work_end, Some(WorkEnd::Lost(LostReason::Killed { signal: 9 })));
}

#[test]
fn work_of_our_own_keeps_the_end_of_its_own_turn() {
    let registry = SpawnedPodRegistry::default();
    let progress = registry.expect(WorkId(1));
    registry.own_turn_ended(WorkId(1), WorkEnd::TurnEnded(TurnResult::Finished));
    registry.own_turn_ended(WorkId(1), WorkEnd::TurnEnded(TurnResult::Cancelled));
    assert_eq!(progress.borrow().end, Some(WorkEnd::TurnEnded(TurnResult::Finished)));
    assert!(progress.has_changed().is_ok());
    registry.forget_works();
    assert!(progress.has_changed().is_err(), "nothing more will be heard of it");
}

#[test]
fn line_shows_the_newest_life_of_a_name() {
    let (registry, pod, _stop) = with_child();
    registry.ended(&pod, &Terminal::ShutDown);
    let Ok(_stop) = registry.add(&row("a", 2), || Ok::<_, Infallible>(Some(11)));
    assert_eq!(registry.child(&pod.name).unwrap().pod, row("a", 2).pod);
    registry.offered(
        &pod,
        &PodEvent::Gap { pod: pod.clone(), from: Seq(1), to: Seq(1) },
        Disposition::Applied,
        Duration::ZERO,
    );
    assert_eq!(registry.child(&pod.name).unwrap().applied, 0);
}

#[test]
fn number_that_was_given_to_a_later_child_stays_that_ones_when_the_earlier_is_buried() {
    let (registry, pod, _stop) = with_child();
    registry.reaped(&pod);
    let later = row("b", 1);
    let Ok(_later) = registry.add(&later, || Ok::<_, Infallible>(Some(10)));
    registry.ended(&pod, &KILLED);
    assert_eq!(registry.sender(10), Some(later.pod.clone()), "its events would be nobody's");
    registry.reaped(&later.pod);
    assert_eq!(registry.sender(10), None);
}

#[test]
fn child_that_is_stopped_after_its_end_is_known_to_be_unwanted() {
    let (registry, pod, _stop) = with_child();
    registry.phase(&pod, ChildPhase::Ready);
    registry.ended(&pod, &KILLED);
    assert_eq!(registry.course(&pod), (false, true));
    assert!(!registry.stop(&pod, Stop { now: true, grace: Duration::ZERO }));
    assert_eq!(registry.course(&pod), (true, true), "it would be started again");
}
