use super::*;
use crate::id::NoteKey;
use crate::store::fixture::{self, Memory, pod, report};
use crate::store::{HistoryRow, InboxId, NewRun};

fn run(work: u64) -> NewRun {
    NewRun { work: WorkId(work), origin: Origin::Host, input: format!("do {work}") }
}

#[track_caller]
fn started(start: TurnStart) -> StartedTurn {
    match start {
        TurnStart::Started(turn) => turn,
        other => panic!("no turn was started: {other:?}"),
    }
}

fn ended(turn: u64, result: TurnResult) -> EndTurn {
    EndTurn { turn: TurnId(turn), outcome: TurnOutcome::Ended { result }, compaction: None }
}

fn errored(turn: u64) -> EndTurn {
    let outcome = TurnOutcome::Errored { kind: Default::default(), message: "no network".to_owned() };
    EndTurn { turn: TurnId(turn), outcome, compaction: None }
}

fn history(store: &Memory) -> Vec<HistoryRow> {
    store.with(|tx| tx.history_after(0, 1000))
}

fn kinds(store: &Memory) -> Vec<&'static str> {
    history(store).iter().map(|row| row.item.kind()).collect()
}

fn events(store: &Memory) -> Vec<PodEvent> {
    store.with(|tx| Ok(tx.outbox_from(Seq(0), 1000)?.into_iter().map(|row| row.event).collect()))
}

#[test]
fn run_is_committed_with_its_turn_before_the_worker_hears_of_it() {
    let store = fixture::memory("a");
    let turn = store.with(|tx| {
        assert_eq!(tx.start_turn(StartCause::Wake)?, TurnStart::Nothing);
        tx.stage_run(&run(1))?;
        tx.push_report(&report(1))?;
        Ok(started(tx.start_turn(StartCause::Wake)?))
    });
    assert_eq!((turn.turn, turn.cause, turn.input.as_deref()), (TurnId(1), TurnCause::Run, Some("do 1")));
    assert_eq!((turn.reports.len(), turn.works), (1, vec![WorkId(1)]));
    assert_eq!(kinds(&store), ["turn_started", "user_input", "system_item"]);
    store.with(|tx| {
        assert_eq!(tx.control()?.state, PodState::Running);
        assert!(matches!(tx.start_turn(StartCause::Wake), Err(StoreError::Contradiction(_))), "two turns at once");
        Ok(())
    });
}

#[test]
fn delegated_turn_is_reported_and_its_work_settled_in_the_same_transaction() {
    let store = fixture::memory("a");
    let end = store.with(|tx| {
        tx.stage_run(&run(1))?;
        tx.start_turn(StartCause::Wake)?;
        tx.end_turn(&ended(1, TurnResult::Finished))
    });
    assert_eq!(end.events, [Seq(1), Seq(2)]);
    assert_eq!(end.settled, [(WorkId(1), WorkResult::Finished)]);
    let (pod, work, turn) = (pod("a", 1), WorkId(1), TurnId(1));
    let told = PodEvent::TurnEnded { pod: pod.clone(), work, turn, result: TurnResult::Finished };
    assert_eq!(events(&store), [told, PodEvent::WorkSettled { pod, work, result: WorkResult::Finished }]);
    assert!(store.try_with(|tx| tx.end_turn(&ended(1, TurnResult::Finished))).is_err(), "a turn ended twice");
}

#[test]
fn every_end_of_a_delegated_turn_is_reported_and_only_a_failure_as_an_error() {
    use TurnResult::{Cancelled, Finished, Interrupted, LimitReached, Paused, RolledBack};
    for result in [Finished, LimitReached, Paused, RolledBack, Cancelled, Interrupted] {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.stage_run(&run(1))?;
            tx.start_turn(StartCause::Wake)?;
            tx.end_turn(&ended(1, result))
        });
        let first = events(&store).remove(0);
        assert!(matches!(first, PodEvent::TurnEnded { result: told, .. } if told == result), "{result}: {first:?}");
    }
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.stage_run(&run(1))?;
        tx.start_turn(StartCause::Wake)?;
        tx.end_turn(&errored(1))
    });
    let told = events(&store);
    assert!(matches!(&told[0], PodEvent::Errored { message, .. } if &**message == "no network"), "{told:?}");
    assert!(matches!(told[1], PodEvent::WorkSettled { result: WorkResult::Failed, .. }), "{told:?}");
}

#[test]
fn turn_that_the_pod_starts_for_itself_is_silent() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.push_note(NoteKey(1), "hello", Origin::Host, true)?;
        let turn = started(tx.start_turn(StartCause::Wake)?);
        assert_eq!(turn.cause, TurnCause::Reports);
        tx.mark_seen(turn.turn, &[turn.reports[0].id])?;
        tx.end_turn(&ended(1, TurnResult::Finished))
    });
    assert_eq!(events(&store), []);
}

#[test]
fn turn_caused_by_a_report_carries_the_work_that_the_report_belongs_to() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.stage_run(&run(1))?;
        tx.start_turn(StartCause::Wake)?;
        let mut late = report(1);
        late.works = vec![WorkId(1)];
        tx.push_report(&late)?;
        let end = tx.end_turn(&ended(1, TurnResult::Finished))?;
        assert!(end.settled.is_empty(), "settled while a report of it is untold");
        let turn = started(tx.start_turn(StartCause::Wake)?);
        assert_eq!((turn.cause, &turn.works[..]), (TurnCause::Reports, &[WorkId(1)][..]));
        tx.mark_seen(turn.turn, &[turn.reports[0].id])?;
        let end = tx.end_turn(&ended(2, TurnResult::Finished))?;
        assert_eq!(end.settled, [(WorkId(1), WorkResult::Finished)]);
        Ok(())
    });
    assert_eq!(events(&store).len(), 3, "two turns and the work");
}

#[test]
fn report_that_arrives_while_a_turn_runs_is_in_its_next_request_or_starts_a_turn() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.stage_run(&run(1))?;
        let turn = started(tx.start_turn(StartCause::Wake)?);
        tx.push_report(&report(1))?;
        assert_eq!(tx.stage_reports(turn.turn, 10)?.len(), 1);
        tx.push_report(&report(2))?;
        let first: Vec<InboxId> = vec![InboxId(1)];
        tx.mark_seen(turn.turn, &first)?;
        tx.end_turn(&ended(1, TurnResult::Finished))?;
        let control = tx.control()?;
        assert_eq!((control.state, control.wakes_due), (PodState::Idle, true));
        assert_eq!(started(tx.start_turn(StartCause::Wake)?).reports.len(), 1);
        Ok(())
    });
}

#[test]
fn paused_pod_keeps_reports_and_resume_tells_them() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.stage_run(&run(1))?;
        tx.start_turn(StartCause::Wake)?;
        let end = tx.end_turn(&ended(1, TurnResult::Paused))?;
        assert!(end.settled.is_empty(), "paused work was settled");
        tx.push_report(&report(1))?;
        assert_eq!(tx.start_turn(StartCause::Wake)?, TurnStart::Nothing);
        let control = tx.control()?;
        assert_eq!((control.state, control.turn), (PodState::Paused, Some(TurnId(1))));
        let turn = started(tx.start_turn(StartCause::Resume)?);
        assert_eq!((turn.cause, turn.works, turn.reports.len()), (TurnCause::Resume, vec![WorkId(1)], 1));
        Ok(())
    });
}

#[test]
fn report_staged_in_a_turn_that_was_paused_is_told_by_the_one_that_resumes_it() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.stage_run(&run(1))?;
        tx.push_report(&report(1))?;
        tx.start_turn(StartCause::Wake)?;
        assert_eq!(tx.end_turn(&ended(1, TurnResult::Paused))?.returned, 1);
        let turn = started(tx.start_turn(StartCause::Resume)?);
        assert_eq!((turn.reports.len(), turn.reports[0].attempts), (1, 0));
        Ok(())
    });
}

#[test]
fn cancelled_turn_does_not_begin_again_at_once() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.push_report(&report(1))?;
        let turn = started(tx.start_turn(StartCause::Wake)?);
        tx.end_turn(&ended(turn.turn.0, TurnResult::Cancelled))?;
        assert_eq!(tx.start_turn(StartCause::Wake)?, TurnStart::Nothing);
        assert_eq!(tx.control()?.next_due, Some(tx.now().plus(1_000)));
        Ok(())
    });
    store.advance(1_000);
    store.with(|tx| Ok(started(tx.start_turn(StartCause::Wake)?)));
}

#[test]
fn process_that_dies_of_a_report_each_time_is_blocked_in_the_end() {
    let store = fixture::memory("a");
    store.with(|tx| tx.push_report(&report(1)));
    let mut lives = 0;
    while store.with(|tx| tx.recover()).control.state == PodState::Idle {
        lives += 1;
        assert!(lives < 20, "a report that kills its pod starts it for ever");
        store.advance(60_000);
        store.with(|tx| Ok(started(tx.start_turn(StartCause::Wake)?)));
    }
    assert_eq!(lives, 5);
}

#[test]
fn paused_turn_gives_way_to_a_run_and_its_work_is_settled() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.stage_run(&run(1))?;
        tx.start_turn(StartCause::Wake)?;
        tx.end_turn(&ended(1, TurnResult::Paused))?;
        tx.stage_run(&run(2))?;
        assert_eq!(started(tx.start_turn(StartCause::Wake)?).works, [WorkId(2)]);
        assert!(tx.start_turn(StartCause::Resume).is_err());
        Ok(())
    });
    let told = events(&store);
    assert!(
        matches!(told[1], PodEvent::WorkSettled { work: WorkId(1), result: WorkResult::Interrupted, .. }),
        "{told:?}"
    );
}

#[test]
fn report_on_which_every_turn_fails_ends_in_blocked_is_kept_and_said_once() {
    let store = fixture::memory("a");
    store.with(|tx| tx.push_report(&report(1)));
    let mut turns = 0;
    for _ in 0..100 {
        let start = store.with(|tx| tx.start_turn(StartCause::Wake));
        match start {
            TurnStart::Started(turn) => {
                turns += 1;
                store.with(|tx| tx.end_turn(&errored(turn.turn.0)));
            }
            _ => store.advance(1_000),
        }
    }
    assert_eq!(turns, 5);
    let control = store.with(|tx| tx.control());
    assert_eq!(control.state, PodState::Blocked);
    assert!(control.next_due.is_some());
    let told = events(&store);
    assert!(
        matches!(&told[..], [PodEvent::Errored { work: None, message, .. }] if message.contains("blocked after 5"))
    );

    // The timer: one more attempt, blocked again, and the parent is not told again.
    store.with(|tx| {
        tx.unblock()?;
        let turn = started(tx.start_turn(StartCause::Wake)?);
        assert!(tx.end_turn(&errored(turn.turn.0))?.blocked);
        Ok(())
    });
    assert_eq!(events(&store).len(), 1);

    // A run goes on at once, and is told what was kept.
    store.with(|tx| {
        tx.stage_run(&run(1))?;
        let turn = started(tx.start_turn(StartCause::Wake)?);
        assert_eq!((turn.reports.len(), tx.control()?.state), (1, PodState::Running));
        Ok(())
    });
    assert_eq!(kinds(&store).iter().filter(|kind| **kind == "system_item").count(), 1, "told in history twice");
}

#[test]
fn turn_that_is_paused_after_too_many_failures_is_paused_and_not_blocked() {
    let mut store = fixture::memory("a");
    store.options.limits.attempts = 1;
    store.with(|tx| tx.push_report(&report(1)));
    store.with(|tx| {
        let turn = started(tx.start_turn(StartCause::Wake)?).turn.0;
        assert!(tx.end_turn(&errored(turn))?.blocked);
        tx.unblock()
    });
    store.with(|tx| {
        let turn = started(tx.start_turn(StartCause::Wake)?).turn.0;
        let paused = tx.end_turn(&ended(turn, TurnResult::Paused))?;
        assert_eq!((paused.returned, paused.blocked), (1, false));
        assert_eq!(tx.control()?.state, PodState::Paused);
        // Nothing is left of a block that a resumed turn would not lift.
        let resumed = started(tx.start_turn(StartCause::Resume)?);
        tx.mark_seen(resumed.turn, &[resumed.reports[0].id])?;
        tx.end_turn(&ended(resumed.turn.0, TurnResult::Finished))?;
        assert_eq!(tx.control()?.state, PodState::Idle);
        Ok(())
    });
}

#[test]
fn work_that_waits_for_a_turn_which_a_bound_refuses_is_settled_and_what_waits_is_kept() {
    let store = fixture::memory("a");
    let work = WorkId(5);
    store.with(|tx| tx.stage_run(&NewRun { work, origin: Origin::Host, input: "do it".into() }));
    store.with(|tx| {
        let turn = started(tx.start_turn(StartCause::Wake)?).turn.0;
        // A child of that work reports, and the turn ends without having been told.
        tx.push_report(&report(1))?;
        tx.run("INSERT INTO inbox_works (inbox, work) SELECT id, ?1 FROM inbox", [work])?;
        assert!(tx.end_turn(&ended(turn, TurnResult::Finished))?.settled.is_empty(), "it waits for the report's turn");
        let cap = crate::protocol::TurnCap::Turns { max: 1 };
        assert_eq!(tx.block_by(cap)?, [(work, crate::protocol::WorkResult::LimitReached)]);
        assert_eq!(tx.block_by(cap)?, []);
        assert_eq!((tx.control()?.state, tx.inbox_waiting()?), (PodState::Blocked, 1));
        Ok(())
    });
}

#[test]
fn report_that_comes_while_a_bound_blocks_the_pod_is_kept_and_leaves_no_work_open() {
    let store = fixture::memory("a");
    let (work, cap) = (WorkId(5), crate::protocol::TurnCap::Turns { max: 1 });
    let limit = crate::protocol::WorkResult::LimitReached;
    let event = |work, end: fn(PodId, WorkId) -> PodEvent| end(pod("b", 1), work);
    let turn_ended = |pod, work| PodEvent::TurnEnded { pod, work, turn: TurnId(1), result: TurnResult::Finished };
    let settled = |pod, work| PodEvent::WorkSettled { pod, work, result: crate::protocol::WorkResult::Finished };
    store.with(|tx| {
        tx.reserve_child(&fixture::new_child(&pod("b", 1)))?;
        tx.stage_run(&NewRun { work, origin: Origin::Host, input: "do it".into() })?;
        let turn = started(tx.start_turn(StartCause::Wake)?).turn.0;
        tx.delegate(WorkId(21), &pod("b", 1), Some(work), "one")?;
        tx.delegate(WorkId(22), &pod("b", 1), Some(work), "other")?;
        assert!(tx.end_turn(&ended(turn, TurnResult::Finished))?.settled.is_empty(), "it waits for both");
        let mut seq = 0;
        let mut apply = |event: PodEvent| {
            seq += 1;
            let (from, stream) = (pod("b", 1), crate::id::StreamId(5));
            let offer = crate::event::Offer { from: &from, stream, seq: Seq(seq), event: &event };
            Ok::<_, StoreError>(crate::event::apply_event_side_effects(tx, &offer)?.unwrap().settled)
        };
        assert_eq!(apply(event(WorkId(21), turn_ended))?, []);
        assert_eq!(apply(event(WorkId(21), settled))?, []);
        // No turn will tell the agent; and the other one is open still.
        assert_eq!(tx.block_by(cap)?, []);
        assert_eq!(apply(event(WorkId(22), turn_ended))?, []);
        assert_eq!(apply(event(WorkId(22), settled))?, [(work, limit)], "it is left open by the bound");
        assert_eq!(
            (tx.control()?.state, tx.inbox_waiting()?, tx.control()?.next_due.is_some()),
            (PodState::Blocked, 4, true)
        );
        // What was kept is told when there may be turns again, and is nobody's then.
        tx.unblock()?;
        let told = started(tx.start_turn(StartCause::Wake)?);
        assert_eq!((told.cause, told.reports.len(), told.works), (TurnCause::Reports, 4, vec![]));
        Ok(())
    });
}

#[test]
fn pod_whose_run_is_staged_is_not_blocked_by_a_bound_and_the_run_is_told_what_waits() {
    let store = fixture::memory("a");
    let (work, cap) = (WorkId(5), crate::protocol::TurnCap::Turns { max: 1 });
    store.with(|tx| {
        tx.stage_run(&NewRun { work, origin: Origin::Host, input: "do it".into() })?;
        let turn = started(tx.start_turn(StartCause::Wake)?).turn.0;
        tx.push_report(&report(1))?;
        tx.run("INSERT INTO inbox_works (inbox, work) SELECT id, ?1 FROM inbox", [work])?;
        tx.end_turn(&ended(turn, TurnResult::Finished))?;
        tx.stage_run(&run(6))?;
        assert_eq!(tx.block_by(cap)?, []);
        assert_eq!(tx.control()?.state, PodState::Idle);
        let next = started(tx.start_turn(StartCause::Wake)?);
        assert_eq!((next.reports.len(), next.works), (1, vec![work, WorkId(6)]));
        Ok(())
    });
}

#[test]
fn paused_turn_gives_way_to_a_run_that_is_damaged_and_what_waits_is_told_then() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.stage_run(&run(1))?;
        let turn = started(tx.start_turn(StartCause::Wake)?).turn.0;
        tx.end_turn(&ended(turn, TurnResult::Paused))?;
        let staged = tx.stage_run(&run(2))?;
        tx.lift_with(staged.accepted.turn)?;
        tx.push_report(&report(1))?;
        tx.run("UPDATE runs SET input = 'something else'", [])?;
        let TurnStart::Failed(failed) = tx.start_turn(StartCause::Wake)? else { panic!("a damaged run was started") };
        assert_eq!(failed.ended.settled.len(), 2, "{:?}", failed.ended.settled);
        assert_eq!((tx.control()?.state, tx.control()?.turn), (PodState::Idle, None));
        assert_eq!(started(tx.start_turn(StartCause::Wake)?).cause, TurnCause::Reports);
        Ok(())
    });
}

#[test]
fn worker_that_ignores_its_reports_is_blocked_rather_than_started_for_ever() {
    let store = fixture::memory("a");
    store.with(|tx| tx.push_report(&report(1)));
    let mut turns = 0;
    while store.with(|tx| tx.control()).state == PodState::Idle {
        if let TurnStart::Started(turn) = store.with(|tx| tx.start_turn(StartCause::Wake)) {
            turns += 1;
            assert!(turns < 20, "a report that is ignored starts turns for ever");
            store.with(|tx| tx.end_turn(&ended(turn.turn.0, TurnResult::Finished)));
        }
        store.advance(10_000);
    }
    assert_eq!(turns, 5);
}

#[test]
fn recovery_reports_the_turn_that_was_cut_short_and_tells_its_reports_again() {
    let mut store = fixture::memory("a");
    store.with(|tx| {
        tx.stage_run(&run(1))?;
        tx.push_report(&report(1))?;
        tx.start_turn(StartCause::Wake)?;
        tx.stage_run(&run(2))
    });
    store.options.own.pod = pod("a", 2);
    let recovery = store.with(|tx| tx.recover());
    assert_eq!(recovery.interrupted, [TurnId(1)]);
    assert_eq!((recovery.control.state, recovery.control.runs_staged), (PodState::Idle, 1));
    let told = events(&store);
    let interrupted = |event: &PodEvent| matches!(event, PodEvent::TurnEnded { result: TurnResult::Interrupted, .. });
    assert!(interrupted(&told[0]), "{told:?}");
    assert_eq!(told[0].pod(), &pod("a", 2), "the life that reports it");
    let again = store.with(|tx| tx.recover());
    assert_eq!(again.interrupted, []);
    let turn = store.with(|tx| Ok(started(tx.start_turn(StartCause::Wake)?)));
    assert_eq!((turn.turn, turn.reports.len(), turn.reports[0].attempts), (TurnId(2), 1, 1));
}

#[test]
fn recovery_files_what_was_kept_for_a_reader_when_the_next_worker_reads_none() {
    let mut store = fixture::memory("a");
    store.with(|tx| {
        tx.push_report(&report(1))?;
        let turn = started(tx.start_turn(StartCause::Wake)?).turn.0;
        // It rests: nothing is due, so nobody would ask.
        tx.end_turn(&errored(turn))
    });
    store.options.own.reads_reports = false;
    let control = store.with(|tx| tx.recover()).control;
    assert_eq!((control.wakes_due, control.next_due), (false, None));
    assert_eq!(store.with(|tx| tx.inbox_waiting()), 0);
}

#[test]
fn transaction_given_up_in_the_middle_leaves_nothing() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.stage_run(&run(1))?;
        tx.push_report(&report(1))?;
        tx.start_turn(StartCause::Wake)
    });
    let before = (history(&store), events(&store), store.with(|tx| tx.control()));
    let given_up: Result<(), _> = store.try_with(|tx| {
        tx.end_turn(&ended(1, TurnResult::Finished))?;
        Err(StoreError::Closed)
    });
    given_up.unwrap_err();
    assert_eq!((history(&store), events(&store), store.with(|tx| tx.control())), before);
}

#[test]
fn turn_without_room_for_its_report_is_not_started() {
    let mut store = fixture::memory("a");
    store.options.limits.outbox = 3;
    store.options.limits.outbox_reserve = 2;
    store.with(|tx| {
        tx.raise(&PodEvent::ShutDown { pod: pod("a", 1) }, Room::Ordinary)?;
        tx.stage_run(&run(1))?;
        assert_eq!(tx.start_turn(StartCause::Wake)?, TurnStart::OutboxFull);
        tx.trim_outbox(Seq(1))?;
        started(tx.start_turn(StartCause::Wake)?);
        tx.end_turn(&ended(1, TurnResult::Finished))
    });
}

#[test]
fn report_on_which_every_turn_is_undone_or_cancelled_ends_in_blocked() {
    for result in [TurnResult::RolledBack, TurnResult::Cancelled] {
        let store = fixture::memory("a");
        store.with(|tx| tx.push_report(&report(1)));
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(turns < 20, "a report is told for ever, and every turn {result}");
            let over = store.with(|tx| {
                let turn = started(tx.start_turn(StartCause::Wake)?);
                // The worker has answered, or not: a rollback takes that back.
                let seen: Vec<_> = turn.reports.iter().map(|report| report.id).collect();
                tx.mark_seen(turn.turn, if result == TurnResult::RolledBack { &seen } else { &[] })?;
                tx.end_turn(&ended(turn.turn.0, result))
            });
            if over.blocked {
                break;
            }
            store.advance(300_000);
        }
        assert_eq!(turns, 5, "{result}");
        assert_eq!(store.with(|tx| tx.inbox_waiting()), 1, "it is kept");
    }
}
