use super::*;
use crate::id::{TurnId, WorkId};
use crate::protocol::LostReason;
use crate::store::fixture::{self, Memory, new_child, pod, turn_ended};
use crate::store::{Direction, EndOfLife, NewRun, Origin, Reservation, StartCause};

const STREAM: StreamId = StreamId(0xb0b);

/// A parent `a` with the child `b` in its life 1.
fn parent() -> Memory {
    let store = fixture::memory("a");
    store.with(|tx| {
        assert_eq!(tx.reserve_child(&new_child(&pod("b", 1)))?, Reservation::Reserved);
        tx.child_ready(&pod("b", 1), STREAM)
    });
    store
}

fn offer(store: &Memory, from: &PodId, seq: u64, event: &PodEvent) -> Result<Applied, EventRejection> {
    store.with(|tx| apply_event_side_effects(tx, &Offer { from, stream: STREAM, seq: Seq(seq), event }))
}

fn kinds(store: &Memory) -> Vec<&'static str> {
    store.with(|tx| Ok(tx.history_after(0, 1000)?.iter().map(|row| row.item.kind()).collect()))
}

fn waiting(store: &Memory) -> u64 {
    store.with(|tx| tx.inbox_waiting())
}

#[test]
fn event_offered_twice_is_applied_once_and_acked_twice() {
    let (store, b) = (parent(), pod("b", 1));
    let event = turn_ended(&b, WorkId(1));
    let first = offer(&store, &b, 1, &event).unwrap();
    assert_eq!((first.disposition, first.durable_seq), (Disposition::Applied, Seq(1)));
    assert!(first.inbox.is_some());
    let again = offer(&store, &b, 1, &event).unwrap();
    assert_eq!(again, Applied::duplicate(Seq(1)));
    assert_eq!(waiting(&store), 1);
}

#[test]
fn event_out_of_order_is_answered_with_the_expected_one_and_changes_nothing() {
    let (store, b) = (parent(), pod("b", 1));
    let before = kinds(&store);
    let event = turn_ended(&b, WorkId(1));
    assert_eq!(offer(&store, &b, 3, &event), Err(EventRejection::OutOfOrder { expected: Seq(1) }));
    assert_eq!((kinds(&store), waiting(&store)), (before, 0));
    for seq in 1..=3 {
        offer(&store, &b, seq, &event).unwrap();
    }
    assert_eq!(waiting(&store), 3);
}

#[test]
fn gap_takes_the_places_of_what_is_missing_and_is_told() {
    let (store, b) = (parent(), pod("b", 1));
    let gap = |from, to| PodEvent::Gap { pod: pod("b", 1), from: Seq(from), to: Seq(to) };
    assert!(matches!(offer(&store, &b, 4, &gap(1, 3)), Err(EventRejection::Invalid { .. })));
    assert!(matches!(offer(&store, &b, 3, &gap(4, 3)), Err(EventRejection::Invalid { .. })));
    assert_eq!(offer(&store, &b, 3, &gap(2, 3)), Err(EventRejection::OutOfOrder { expected: Seq(1) }));
    assert_eq!(offer(&store, &b, 3, &gap(1, 3)).unwrap().durable_seq, Seq(3));
    assert_eq!(offer(&store, &b, 2, &turn_ended(&b, WorkId(1))).unwrap().disposition, Disposition::Duplicate);
    assert_eq!(offer(&store, &b, 4, &turn_ended(&b, WorkId(1))).unwrap().durable_seq, Seq(4));
    assert_eq!(waiting(&store), 2);
}

#[test]
fn strangers_stale_lives_and_liars_are_told_apart() {
    let (store, b) = (parent(), pod("b", 1));
    let of = |name, incarnation| turn_ended(&pod(name, incarnation), WorkId(1));
    assert_eq!(offer(&store, &pod("x", 1), 1, &of("x", 1)), Err(EventRejection::NotYourChild));
    let stale = EventRejection::StaleIncarnation { current: b.incarnation };
    assert_eq!(offer(&store, &pod("b", 9), 1, &of("b", 9)), Err(stale));
    assert!(matches!(offer(&store, &b, 1, &of("c", 1)), Err(EventRejection::Invalid { .. })), "another's name");
    assert!(matches!(offer(&store, &b, 0, &of("b", 1)), Err(EventRejection::Invalid { .. })), "no place 0");
    let other = Offer { from: &b, stream: StreamId(1), seq: Seq(1), event: &of("b", 1) };
    assert_eq!(store.with(|tx| apply_event_side_effects(tx, &other)), Err(EventRejection::NotYourChild));
    assert_eq!(waiting(&store), 0);
}

#[test]
fn shut_down_is_the_one_terminal_event_and_loses_open_work() {
    let (store, b) = (parent(), pod("b", 1));
    store.with(|tx| tx.delegate(WorkId(1), &b, None, "x"));
    let event = PodEvent::ShutDown { pod: b.clone() };
    offer(&store, &b, 1, &event).unwrap();
    offer(&store, &b, 1, &event).unwrap();
    let (row, works) = store.with(|tx| Ok((tx.child(&b)?.unwrap(), tx.works(Direction::Delegated, false)?)));
    assert_eq!((row.terminal, row.state), (Some(Terminal::ShutDown), ChildState::Ready), "its process may still live");
    assert_eq!(works[0].result, Some(WorkResult::Lost));
    assert_eq!(kinds(&store).iter().filter(|kind| **kind == "child_terminal").count(), 1);
}

#[test]
fn late_shut_down_of_an_old_life_leaves_the_new_one_alone() {
    let (store, old, new) = (parent(), pod("b", 1), pod("b", 2));
    store.with(|tx| {
        let dead = EndOfLife::Dead(LostReason::Unobserved);
        crate::event::end_child(tx, &old, dead, Some("its store was away".to_owned()))?;
        tx.reserve_child(&new_child(&new))?;
        tx.child_ready(&new, STREAM)?;
        tx.delegate(WorkId(7), &new, None, "x")
    });
    let told = waiting(&store);
    // The new life offers what the old one had left.
    offer(&store, &new, 1, &PodEvent::ShutDown { pod: old.clone() }).unwrap();
    let (row, open) = store.with(|tx| Ok((tx.child(&new)?.unwrap(), tx.works_open(Direction::Delegated)?)));
    assert_eq!((row.state, row.terminal, open), (ChildState::Ready, None, 1));
    assert_eq!(waiting(&store), told, "a second terminal event was told of the old life");
    assert_eq!(kinds(&store).last(), Some(&"control_event"), "it was dropped");
}

#[test]
fn events_of_a_life_that_is_over_are_duplicates_or_stale() {
    let (store, b) = (parent(), pod("b", 1));
    offer(&store, &b, 1, &turn_ended(&b, WorkId(1))).unwrap();
    store.with(|tx| crate::event::end_child(tx, &b, EndOfLife::Dead(LostReason::Unobserved), None));
    let late = offer(&store, &b, 1, &turn_ended(&b, WorkId(1))).unwrap();
    assert_eq!(late.disposition, Disposition::Duplicate);
    let stale = EventRejection::StaleIncarnation { current: b.incarnation };
    assert_eq!(offer(&store, &b, 2, &turn_ended(&b, WorkId(1))), Err(stale));
}

#[test]
fn sub_delegation_is_recorded_told_on_once_and_never_shown_to_the_agent() {
    let (store, b) = (parent(), pod("b", 1));
    let event = PodEvent::ScopeSubDelegated {
        pod: b.clone(),
        parent_pod: b.clone(),
        sub_pod: pod("c", 1),
        sub_socket: "/run/c.sock".into(),
        scope: rpc::List::default(),
    };
    assert!(offer(&store, &b, 1, &event).unwrap().inbox.is_none());
    offer(&store, &b, 1, &event).unwrap();
    offer(&store, &b, 2, &event).unwrap();
    let (head, told) = store.with(|tx| Ok((tx.outbox_head()?, tx.outbox_from(Seq(1), 9)?)));
    assert_eq!((head, waiting(&store)), (Seq(1), 0));
    assert_eq!(told[0].event.pod(), &pod("a", 1), "it is our own event");
    let PodEvent::ScopeSubDelegated { parent_pod, sub_pod, .. } = &told[0].event else { panic!("{told:?}") };
    assert_eq!((parent_pod, sub_pod), (&b, &pod("c", 1)));
}

#[test]
fn work_of_ours_is_settled_when_the_agent_was_told_how_its_part_ended() {
    let (store, b) = (parent(), pod("b", 1));
    store.with(|tx| {
        tx.stage_run(&NewRun { work: WorkId(1), origin: Origin::Host, input: "x".to_owned() })?;
        tx.start_turn(StartCause::Wake)?;
        tx.delegate(WorkId(2), &b, Some(WorkId(1)), "part")?;
        tx.end_turn(&crate::store::EndTurn {
            turn: TurnId(1),
            outcome: crate::store::TurnOutcome::Ended { result: crate::protocol::TurnResult::Finished },
            compaction: None,
        })
    });
    let settled = PodEvent::WorkSettled { pod: b.clone(), work: WorkId(2), result: WorkResult::Failed };
    let applied = offer(&store, &b, 1, &settled).unwrap();
    assert!(applied.settled.is_empty(), "settled before the agent was told");
    assert_eq!(store.with(|tx| tx.works_open(Direction::Received)), 1);
    assert_eq!(store.with(|tx| tx.works(Direction::Delegated, false))[0].result, Some(WorkResult::Failed));
}

#[test]
fn work_is_settled_at_once_where_nobody_reads_reports() {
    let mut store = parent();
    store.options.own.reads_reports = false;
    let b = pod("b", 1);
    store.with(|tx| {
        tx.stage_run(&NewRun { work: WorkId(1), origin: Origin::Host, input: "x".to_owned() })?;
        tx.start_turn(StartCause::Wake)?;
        tx.delegate(WorkId(2), &b, Some(WorkId(1)), "part")?;
        tx.end_turn(&crate::store::EndTurn {
            turn: TurnId(1),
            outcome: crate::store::TurnOutcome::Ended { result: crate::protocol::TurnResult::Finished },
            compaction: None,
        })
    });
    let settled = PodEvent::WorkSettled { pod: b.clone(), work: WorkId(2), result: WorkResult::Failed };
    let applied = offer(&store, &b, 1, &settled).unwrap();
    assert_eq!(applied.settled, [(WorkId(1), WorkResult::Finished)]);
}

#[test]
fn event_given_up_in_the_middle_can_be_offered_again() {
    let (store, b) = (parent(), pod("b", 1));
    let before = (kinds(&store), waiting(&store));
    let event = PodEvent::ShutDown { pod: b.clone() };
    let given_up: Result<(), _> = store.try_with(|tx| {
        let offer = Offer { from: &b, stream: STREAM, seq: Seq(1), event: &event };
        apply_event_side_effects(tx, &offer)?.unwrap();
        Err(StoreError::Closed)
    });
    given_up.unwrap_err();
    assert_eq!((kinds(&store), waiting(&store)), before);
    assert_eq!(offer(&store, &b, 1, &event).unwrap().disposition, Disposition::Applied);
}
