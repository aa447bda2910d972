use super::*;
use crate::id::NoteKey;
use crate::protocol::{PodEvent, TurnResult};
use crate::store::fixture::{self, Memory, new_child, pod, report};
use crate::store::{EndTurn, NewRun, OutputKind, Reservation, StartCause, StartedTurn, TurnOutcome, TurnStart};

fn started(start: TurnStart) -> StartedTurn {
    match start {
        TurnStart::Started(turn) => turn,
        other => panic!("no turn was started: {other:?}"),
    }
}

fn end(tx: &Tx<'_>, turn: TurnId, result: TurnResult) -> Result<(), StoreError> {
    let outcome = TurnOutcome::Ended { result };
    tx.end_turn(&EndTurn { turn, outcome, compaction: None }).map(|_| ())
}

/// A turn with this input that says `said`, sees what it is told, and ends so.
fn turn(store: &Memory, number: u64, result: TurnResult) -> StartedTurn {
    store.with(|tx| {
        let origin = Origin::Host;
        tx.stage_run(&NewRun { work: WorkId(number), origin, input: format!("do {number}") })?;
        let turn = started(tx.start_turn(StartCause::Wake)?);
        tx.append_in(turn.turn, None, &said(number))?;
        let told: Vec<_> = turn.reports.iter().map(|report| report.id).collect();
        tx.mark_seen(turn.turn, &told)?;
        end(tx, turn.turn, result)?;
        Ok(turn)
    })
}

fn said(number: u64) -> HistoryItem {
    HistoryItem::Output { output: OutputKind::Text, text: format!("said {number}") }
}

/// What is said in the context, and the reports that are told in it.
fn context(store: &Memory) -> Vec<String> {
    let rows = store.with(|tx| tx.context_after(0, 1000));
    let texts = rows.iter().filter_map(|row| match &row.item {
        HistoryItem::Output { text, .. } => Some(text.clone()),
        HistoryItem::SystemItem(item) => Some(item.text().to_owned()),
        _ => None,
    });
    texts.collect()
}

fn rewind(store: &Memory, target: TurnId) -> RewindOutcome {
    store.with(|tx| {
        let expected_head = tx.context_head()?;
        tx.rewind(&Rewind { target, expected_head, by: Origin::Host })
    })
}

#[track_caller]
fn rewound(store: &Memory, target: TurnId) -> Rewound {
    match rewind(store, target) {
        RewindOutcome::Done(rewound) => rewound,
        other => panic!("not rewound: {other:?}"),
    }
}

fn compaction(summary: &str, upto: Option<u64>) -> Compaction {
    Compaction { summary: summary.to_owned(), upto }
}

#[test]
fn rewind_ends_the_context_before_its_target_and_removes_nothing_from_history() {
    let store = fixture::memory("a");
    let turns: Vec<_> = (1..=3).map(|number| turn(&store, number, TurnResult::Finished)).collect();
    let before = store.with(|tx| tx.history_head());
    let done = rewound(&store, turns[1].turn);
    assert_eq!((done.turns, done.input.as_deref(), done.returned), (2, Some("do 2"), 0));
    assert_eq!(context(&store), ["said 1"]);
    turn(&store, 4, TurnResult::Finished);
    assert_eq!(context(&store), ["said 1", "said 4"]);
    let rows = store.with(|tx| tx.history_after(0, 1000));
    assert!(rows.len() as u64 > before, "the history only grows");
    assert_eq!(rows.iter().filter(|row| row.item == said(3)).count(), 1);
    // Back behind what was rewound already, and once more over all of it.
    assert_eq!(rewound(&store, turns[0].turn).turns, 2);
    assert_eq!(context(&store), [""; 0]);
}

#[test]
fn rewind_to_what_has_moved_or_is_no_target_changes_nothing() {
    let store = fixture::memory("a");
    let (first, second) = (turn(&store, 1, TurnResult::Finished), turn(&store, 2, TurnResult::Finished));
    let seen = store.with(|tx| tx.rewind_targets(9));
    turn(&store, 3, TurnResult::Finished);
    let stale = Rewind { target: first.turn, expected_head: seen.head, by: Origin::Host };
    let head = store.with(|tx| tx.context_head());
    assert_eq!(store.with(|tx| tx.rewind(&stale)), RewindOutcome::HeadMoved { head });
    let compacted = store.with(|tx| {
        let turn = tx.start_compaction()?.turn;
        let outcome = TurnOutcome::Ended { result: TurnResult::Finished };
        tx.end_turn(&EndTurn { turn, outcome, compaction: Some(compaction("short", None)) })?;
        Ok(turn)
    });
    rewound(&store, second.turn);
    let before = store.with(|tx| tx.history_head());
    for (target, words) in
        [(second.turn, "does not count"), (compacted, "does not count"), (TurnId(77), "there was no turn 77")]
    {
        let RewindOutcome::NotEligible(why) = rewind(&store, target) else { panic!("{target}") };
        assert!(why.contains(words) || why.contains("made the context shorter"), "{why}");
    }
    assert_eq!(store.with(|tx| tx.history_head()), before);
    // Whatever is no turn's does not move it: a child's end, say.
    store.with(|tx| tx.append(None, None, &HistoryItem::Unblocked));
    assert_eq!(rewound(&store, first.turn).turns, 1);
}

#[test]
fn rewind_tells_again_all_that_was_told_in_the_part_that_no_longer_counts() {
    let store = fixture::memory("a");
    store.with(|tx| tx.push_report(&report(1)).map(|_| ()));
    let first = turn(&store, 1, TurnResult::Finished);
    store.with(|tx| {
        tx.push_report(&report(2))?;
        tx.push_note(NoteKey(1), "note", Origin::Host, true)
    });
    let second = turn(&store, 2, TurnResult::Finished);
    // Staged by a turn that fails, and so not seen.
    store.with(|tx| {
        tx.push_report(&report(3))?;
        let turn = started(tx.start_turn(StartCause::Wake)?);
        tx.end_turn(&EndTurn {
            turn: turn.turn,
            outcome: TurnOutcome::Errored { kind: Default::default(), message: "no".into() },
            compaction: None,
        })
    });
    assert_eq!(store.with(|tx| tx.inbox_waiting()), 1);
    let targets = store.with(|tx| tx.rewind_targets(9)).targets;
    let shown: Vec<_> = targets.iter().map(|target| (target.cause, target.input.as_deref(), target.reports)).collect();
    assert_eq!(
        shown,
        [(TurnCause::Reports, None, 0), (TurnCause::Run, Some("do 2"), 2), (TurnCause::Run, Some("do 1"), 3)]
    );
    assert_eq!(rewound(&store, second.turn).returned, 2);
    assert_eq!(store.with(|tx| tx.inbox_waiting()), 3);
    assert_eq!(context(&store), ["report 1", "said 1"]);
    store.advance(10_000);
    let third = turn(&store, 3, TurnResult::Finished);
    assert_eq!(third.reports.len(), 3, "told once more, each once");
    let mut told = context(&store);
    told.sort();
    assert_eq!(told, ["note", "report 1", "report 2", "report 3", "said 1", "said 3"]);
    assert_eq!(rewound(&store, first.turn).returned, 4);
}

#[test]
fn rewind_gives_a_paused_turn_up_and_its_work_is_settled_once() {
    let store = fixture::memory("a");
    let first = turn(&store, 1, TurnResult::Finished);
    let paused = turn(&store, 2, TurnResult::Paused);
    let done = rewound(&store, paused.turn);
    assert_eq!(done.settled, [(WorkId(2), WorkResult::Cancelled)]);
    assert_eq!(rewound(&store, first.turn).settled, [], "settled twice");
    let settled = store.with(|tx| tx.outbox_from(crate::id::Seq(0), 100)).into_iter().filter(|row| {
        matches!(&row.event, PodEvent::WorkSettled { work: WorkId(2), result: WorkResult::Cancelled, .. })
    });
    assert_eq!(settled.count(), 1);
}

#[test]
fn rewind_with_live_children_of_that_part_is_refused_and_names_them() {
    let store = fixture::memory("a");
    let (early, late) = (pod("early", 1), pod("late", 1));
    assert_eq!(store.with(|tx| tx.reserve_child(&new_child(&early))), Reservation::Reserved);
    let first = turn(&store, 1, TurnResult::Finished);
    store.with(|tx| tx.reserve_child(&new_child(&late)).map(|_| ()));
    assert_eq!(rewind(&store, first.turn), RewindOutcome::ChildrenLive(vec![late.clone()]));
    assert_eq!(store.with(|tx| tx.rewind_targets(9)).targets[0].children[..], *std::slice::from_ref(&late));
    assert_eq!(context(&store), ["said 1"]);
    store.with(|tx| {
        tx.set_terminal(&late, &crate::store::Terminal::ShutDown, None)?;
        let row = tx.child(&late)?.unwrap();
        tx.end_life(&row)
    });
    rewound(&store, first.turn);
}

#[test]
fn rolled_back_turn_is_no_part_of_the_context_and_its_reports_are_told_again() {
    let store = fixture::memory("a");
    turn(&store, 1, TurnResult::Finished);
    store.with(|tx| tx.push_report(&report(1)).map(|_| ()));
    turn(&store, 2, TurnResult::RolledBack);
    assert_eq!(context(&store), ["said 1"]);
    assert_eq!(store.with(|tx| tx.inbox_waiting()), 1);
    let rows = store.with(|tx| tx.history_after(0, 1000));
    let marks = rows.iter().filter(|row| matches!(row.item, HistoryItem::Rewound { by: None, returned: 1, .. }));
    assert_eq!(marks.count(), 1);
    store.advance(10_000);
    turn(&store, 3, TurnResult::Finished);
    assert_eq!(context(&store), ["said 1", "report 1", "said 3"]);
}

#[test]
fn compaction_stands_for_what_was_seen_and_a_rewind_behind_it_brings_that_back() {
    let store = fixture::memory("a");
    let first = turn(&store, 1, TurnResult::Finished);
    let second = turn(&store, 2, TurnResult::Finished);
    store.with(|tx| {
        tx.reserve_child(&new_child(&pod("b", 3)))?;
        let turn = tx.start_compaction()?.turn;
        tx.append_in(turn, None, &said(99))?;
        let outcome = TurnOutcome::Ended { result: TurnResult::Finished };
        let ended = tx.end_turn(&EndTurn { turn, outcome, compaction: Some(compaction("one and two", None)) })?;
        assert_eq!((ended.events, ended.settled), (vec![], vec![]), "a compaction is nobody's work");
        Ok(())
    });
    let summary = store.with(|tx| tx.context_summary()).unwrap();
    assert_eq!((summary.text.as_str(), &summary.children[..]), ("one and two", &[pod("b", 3)][..]));
    assert_eq!(context(&store), [""; 0]);
    turn(&store, 3, TurnResult::Finished);
    assert_eq!(context(&store), ["said 3"]);
    store.with(|tx| {
        tx.set_terminal(&pod("b", 3), &crate::store::Terminal::ShutDown, None)?;
        let row = tx.child(&pod("b", 3))?.unwrap();
        tx.end_life(&row)
    });
    rewound(&store, second.turn);
    assert_eq!(context(&store), ["said 1"]);
    assert_eq!(store.with(|tx| tx.context_summary()), None);
    rewound(&store, first.turn);
}

#[test]
fn compaction_that_failed_leaves_the_context_as_it_was() {
    let store = fixture::memory("a");
    turn(&store, 1, TurnResult::Finished);
    let paused = turn(&store, 2, TurnResult::Paused);
    for outcome in [
        TurnOutcome::Errored { kind: Default::default(), message: "no".into() },
        TurnOutcome::Ended { result: TurnResult::Cancelled },
        TurnOutcome::Ended { result: TurnResult::Interrupted },
    ] {
        store.with(|tx| {
            let turn = tx.start_compaction()?.turn;
            tx.append_in(turn, None, &said(99))?;
            tx.end_turn(&EndTurn { turn, outcome, compaction: None })
        });
        assert_eq!(context(&store), ["said 1", "said 2"]);
    }
    let control = store.with(|tx| tx.control());
    assert_eq!((control.state, control.turn), (crate::protocol::PodState::Paused, Some(paused.turn)));
    let summary = compaction(&"x".repeat(SUMMARY_BYTES_MAX + 1), None);
    assert!(matches!(store.try_with(|tx| tx.compact(TurnId(1), &summary)), Err(StoreError::TooLarge { .. })));
    let summary = compaction(&"\u{1}".repeat(SUMMARY_BYTES_MAX), None);
    store.with(|tx| tx.compact(TurnId(1), &summary));
}

#[test]
fn compaction_in_a_turn_drops_nothing_that_is_not_seen() {
    let store = fixture::memory("a");
    store.with(|tx| tx.push_report(&report(1)).map(|_| ()));
    // Told by a turn that fails: it waits, and stands in history.
    store.with(|tx| {
        let turn = started(tx.start_turn(StartCause::Wake)?);
        let outcome = TurnOutcome::Errored { kind: Default::default(), message: "no".into() };
        tx.end_turn(&EndTurn { turn: turn.turn, outcome, compaction: None })
    });
    store.with(|tx| {
        tx.push_report(&report(2))?;
        tx.stage_run(&NewRun { work: WorkId(1), origin: Origin::Host, input: "x".into() })?;
        let turn = started(tx.start_turn(StartCause::Wake)?);
        assert_eq!(turn.reports.len(), 1, "the other one rests");
        tx.append_in(turn.turn, None, &said(1))?;
        tx.compact(turn.turn, &compaction("short", None))?;
        Ok(())
    });
    assert_eq!(context(&store), ["report 2", "said 1"], "told and not seen yet, and all behind it");
    store.advance(10_000);
    store.with(|tx| {
        let turn = tx.turn_in("running")?.unwrap();
        assert_eq!(tx.stage_reports(turn, 10)?.len(), 1);
        Ok(())
    });
    assert_eq!(context(&store), ["report 2", "said 1", "report 1"], "written again, behind the summary");
}

#[test]
fn use_of_a_tool_has_one_result_whatever_becomes_of_its_turn() {
    let store = fixture::memory("a");
    let open = store.with(|tx| {
        tx.stage_run(&NewRun { work: WorkId(1), origin: Origin::Host, input: "x".into() })?;
        let turn = started(tx.start_turn(StartCause::Wake)?).turn;
        for call in 1..=3 {
            tx.begin_call(turn, None, CallId(call), "look", &serde_json::json!({}))?;
        }
        tx.end_call(turn, None, CallId(2), ToolEnd::Done, "seen")?;
        Ok(turn)
    });
    let twice = store.try_with(|tx| tx.end_call(open, None, CallId(2), ToolEnd::Done, "again"));
    assert!(matches!(twice, Err(StoreError::Contradiction(_))), "{twice:?}");
    // The next life finds it running.
    store.with(|tx| tx.recover().map(|_| ()));
    let rows = store.with(|tx| tx.history_after(0, 1000));
    let ends: Vec<_> = rows
        .iter()
        .filter_map(|row| match &row.item {
            HistoryItem::ToolResult { call, how, .. } => Some((call.0, *how)),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [(2, ToolEnd::Done), (1, ToolEnd::Abandoned), (3, ToolEnd::Abandoned)]);
    let late = store.try_with(|tx| tx.begin_call(open, None, CallId(4), "look", &serde_json::json!({})));
    assert!(matches!(late, Err(StoreError::Contradiction(_))), "a use that nobody would end: {late:?}");
    assert!(matches!(store.try_with(|tx| tx.append_in(open, None, &said(1))), Err(StoreError::Contradiction(_))));
}

fn failed(tx: &Tx<'_>, turn: TurnId) -> Result<(), StoreError> {
    let outcome = TurnOutcome::Errored { kind: Default::default(), message: "no".into() };
    tx.end_turn(&EndTurn { turn, outcome, compaction: None }).map(|_| ())
}

#[test]
fn report_that_was_told_before_the_turn_that_is_rolled_back_stands_in_the_context_once() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.push_report(&report(1))?;
        let turn = started(tx.start_turn(StartCause::Wake)?).turn;
        failed(tx, turn)
    });
    assert_eq!(context(&store), ["report 1"]);
    store.advance(10_000);
    turn(&store, 2, TurnResult::RolledBack);
    assert_eq!(context(&store), ["report 1"]);
    store.advance(10_000);
    assert_eq!(turn(&store, 3, TurnResult::Finished).reports.len(), 1);
    assert_eq!(context(&store), ["report 1", "said 3"]);
}

#[test]
fn report_whose_place_a_rewind_brings_back_is_not_written_again() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.push_report(&report(1))?;
        let turn = started(tx.start_turn(StartCause::Wake)?).turn;
        failed(tx, turn)
    });
    let second = turn(&store, 2, TurnResult::Finished);
    store.with(|tx| {
        let turn = tx.start_compaction()?.turn;
        let outcome = TurnOutcome::Ended { result: TurnResult::Finished };
        tx.end_turn(&EndTurn { turn, outcome, compaction: Some(compaction("short", None)) })
    });
    // Behind the summary it is written anew.
    store.advance(10_000);
    turn(&store, 3, TurnResult::Finished);
    assert_eq!(context(&store), ["report 1", "said 3"]);
    // Without the summary the first place counts again, and is the only one.
    rewound(&store, second.turn);
    assert_eq!(context(&store), ["report 1"]);
    store.advance(10_000);
    assert_eq!(turn(&store, 4, TurnResult::Finished).reports.len(), 1);
    assert_eq!(context(&store), ["report 1", "said 4"]);
}

#[test]
fn summary_that_a_compaction_made_before_it_failed_does_not_stand() {
    let store = fixture::memory("a");
    turn(&store, 1, TurnResult::Finished);
    store.with(|tx| {
        let turn = tx.start_compaction()?.turn;
        tx.compact(turn, &compaction("half way", None))?;
        failed(tx, turn)
    });
    assert_eq!(store.with(|tx| tx.context_summary()), None);
    assert_eq!(context(&store), ["said 1"]);
}

#[test]
fn summary_ends_before_a_use_of_a_tool_whose_result_stands_behind_it() {
    let use_tool = |tx: &Tx<'_>, turn, call| tx.begin_call(turn, None, CallId(call), "look", &serde_json::json!({}));
    let result = |tx: &Tx<'_>, turn, call| tx.end_call(turn, None, CallId(call), ToolEnd::Done, "seen");
    let store = fixture::memory("a");
    let (turn, places) = store.with(|tx| {
        tx.stage_run(&NewRun { work: WorkId(1), origin: Origin::Host, input: "x".into() })?;
        let turn = started(tx.start_turn(StartCause::Wake)?).turn;
        let mut places = Vec::new();
        // used 1, used 2, result 1, said, result 2, used 3, said
        for step in 0..7 {
            match step {
                0 => _ = use_tool(tx, turn, 1)?,
                1 => _ = use_tool(tx, turn, 2)?,
                2 => result(tx, turn, 1)?,
                4 => result(tx, turn, 2)?,
                5 => _ = use_tool(tx, turn, 3)?,
                _ => _ = tx.append_in(turn, None, &said(step))?,
            }
            places.push(tx.history_head()?);
        }
        Ok((turn, places))
    });
    let before = places[0] - 1;
    let ends = [(0, before), (1, before), (2, before), (3, before), (4, places[4]), (5, places[4]), (6, places[4])];
    for (wanted, expected) in ends {
        let summary = compaction("short", Some(places[wanted]));
        let upto = store.with(|tx| {
            tx.compact(turn, &summary)?;
            Ok(tx.context_summary()?.unwrap().upto)
        });
        assert_eq!(upto, expected, "asked to end at step {wanted}");
    }
    // All that there is: the open use stays.
    store.with(|tx| tx.compact(turn, &compaction("short", None)).map(|_| ()));
    assert_eq!(store.with(|tx| tx.context_summary()).unwrap().upto, places[4]);
}

#[test]
fn work_whose_run_is_rewound_is_not_finished_by_what_is_told_of_it_afterwards() {
    let store = fixture::memory("a");
    // An old child, so that the rewind is not refused; the work's only open condition is what that child does for it.
    store.with(|tx| tx.reserve_child(&new_child(&pod("b", 1))).map(|_| ()));
    let first = turn(&store, 1, TurnResult::Finished);
    let delegating = store.with(|tx| {
        tx.stage_run(&NewRun { work: WorkId(2), origin: Origin::Host, input: "x".into() })?;
        let turn = started(tx.start_turn(StartCause::Wake)?).turn;
        tx.delegate(WorkId(50), &pod("b", 1), Some(WorkId(2)), "part")?;
        end(tx, turn, TurnResult::Finished)?;
        let mut told = report(1);
        told.works = vec![WorkId(2)];
        tx.push_report(&told)?;
        Ok(turn)
    });
    assert_eq!(rewound(&store, delegating).settled, [], "its child still works for it");
    store.advance(10_000);
    let told = store.with(|tx| {
        let turn = started(tx.start_turn(StartCause::Wake)?);
        tx.mark_seen(turn.turn, &turn.reports.iter().map(|report| report.id).collect::<Vec<_>>())?;
        end(tx, turn.turn, TurnResult::Finished)?;
        Ok(turn)
    });
    assert_eq!((told.reports.len(), &told.works[..]), (1, &[][..]), "it is told for its own sake");
    let settled = store.with(|tx| {
        let mut told = report(2);
        told.works = vec![WorkId(2)];
        tx.push_report(&told)?;
        tx.settle_delegated(WorkId(50), &pod("b", 1).name, WorkResult::Finished)?;
        let turn = started(tx.start_turn(StartCause::Wake)?);
        tx.mark_seen(turn.turn, &turn.reports.iter().map(|report| report.id).collect::<Vec<_>>())?;
        let outcome = TurnOutcome::Ended { result: TurnResult::Finished };
        Ok(tx.end_turn(&EndTurn { turn: turn.turn, outcome, compaction: None })?.settled)
    });
    assert_eq!(settled, [(WorkId(2), WorkResult::Cancelled)]);
    // And with nothing open, the rewind itself settles it.
    let reported = store.with(|tx| {
        tx.stage_run(&NewRun { work: WorkId(3), origin: Origin::Host, input: "x".into() })?;
        let turn = started(tx.start_turn(StartCause::Wake)?).turn;
        let mut told = report(3);
        told.works = vec![WorkId(3)];
        tx.push_report(&told)?;
        end(tx, turn, TurnResult::Finished)?;
        Ok(turn)
    });
    assert_eq!(rewound(&store, reported).settled, [(WorkId(3), WorkResult::Cancelled)]);
    rewound(&store, first.turn);
}

#[test]
fn rewind_that_detaches_is_stopped_by_tied_children_and_by_no_others() {
    let store = fixture::memory("a");
    let first = turn(&store, 1, TurnResult::Finished);
    let (tied, detached) = (pod("tied", 1), pod("detached", 1));
    let wish = |tx: &Tx<'_>| {
        Ok::<_, StoreError>(Rewind { target: first.turn, expected_head: tx.context_head()?, by: Origin::Host })
    };
    store.with(|tx| {
        tx.reserve_child(&new_child(&tied))?;
        let lifetime = crate::store::Lifetime::Detached;
        tx.reserve_child(&crate::store::NewChild { lifetime, ..new_child(&detached) })?;
        let both = RewindOutcome::ChildrenLive(vec![tied.clone(), detached.clone()]);
        assert_eq!(tx.rewind(&wish(tx)?)?, both);
        assert_eq!(tx.rewind_detaching(&wish(tx)?)?, RewindOutcome::ChildrenLive(vec![tied.clone()]));
        tx.end_life(&tx.child(&tied)?.unwrap())?;
        assert_eq!(tx.rewind(&wish(tx)?)?, RewindOutcome::ChildrenLive(vec![detached.clone()]));
        let RewindOutcome::Done(done) = tx.rewind_detaching(&wish(tx)?)? else { panic!("not rewound") };
        assert_eq!(done.target, first.turn);
        assert_eq!(tx.live_children()?.len(), 1, "it lives on");
        Ok(())
    });
}
