//! Rows that are damaged while the pod runs: what was to be told or done with them, and that everything else goes on.

use tempfile::TempDir;

use super::*;
use crate::fixture::{Act, Puppet, Said, within};
use crate::id::{NoteKey, TurnId, WorkId};
use crate::protocol::{Method, PodState, SendKind, SendToPod, Sent, WorkResult};
use crate::store::fixture::{self, Memory, behind_the_back, new_child, pod, report};
use crate::store::thread::Store;
use crate::store::{
    Compaction, EndOfLife, EndTurn, HistoryItem, NewRun, Origin, OutputKind, Reads, StartCause, SystemItem, TurnCause,
    TurnOutcome, TurnStart, Tx,
};
use crate::worker::TurnEnd;

async fn kinds(store: &Store) -> Vec<&'static str> {
    let rows = store.read(|reads| reads.history_after(0, 1000)).await.unwrap();
    rows.iter().map(|row| row.item.kind()).collect()
}

#[tokio::test]
async fn report_that_was_flipped_while_the_pod_runs_is_in_no_turns_way_and_the_agent_is_told_that_it_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = Store::open(&path, fixture::options("a")).unwrap();
    let queue = |tx: &Tx<'_>| {
        for number in 1..=3 {
            tx.push_report(&report(number))?;
        }
        tx.push_note(NoteKey(4), "look", Origin::Host, true)?;
        tx.run("INSERT INTO inbox_works (inbox, work) VALUES (2, ?1)", [WorkId(77)])?;
        behind_the_back(tx.conn, "inbox", "UPDATE inbox SET body = replace(body, 'report 2', 'report 7') WHERE id = 2");
        behind_the_back(tx.conn, "inbox", "UPDATE inbox SET wakes = 0 WHERE id = 3");
        Ok(())
    };
    store.write(queue).await.unwrap();
    let TurnStart::Started(turn) = store.write(|tx| tx.start_turn(StartCause::Wake)).await.unwrap() else {
        panic!("no turn")
    };
    let told: Vec<&str> = turn.reports.iter().map(|report| report.item.text()).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!((told[0], told[1]), ("report 1", "look"));
    assert!(told[2..].iter().all(|text| text.contains("is damaged")), "{told:?}");
    assert_eq!(turn.works, [], "a work that is not known is no turn's");
    let outcome = TurnOutcome::Ended { result: crate::protocol::TurnResult::Finished };
    let (end, seen) = (EndTurn { turn: turn.turn, outcome, compaction: None }, turn.reports.clone());
    let finish = move |tx: &Tx<'_>| {
        tx.mark_seen(end.turn, &seen.iter().map(|report| report.id).collect::<Vec<_>>())?;
        tx.end_turn(&end)
    };
    store.write(finish).await.unwrap();
    assert_eq!(store.read(|reads| reads.inbox_waiting()).await.unwrap(), 0);
    let told = kinds(&store).await;
    assert_eq!(told.iter().filter(|kind| **kind == "report_damaged").count(), 2, "{told:?}");
    store.close().await;
    // What was wrong is known, and kept; a next life begins.
    let store = Store::open(&path, fixture::options("a")).unwrap();
    let kept = "SELECT count(*) FROM inbox WHERE body LIKE '%report 7%' AND state = 'seen'";
    assert_eq!(store.read(|reads| reads.number(kept, [])).await.unwrap(), 1);
    assert_eq!(store.write(|tx| tx.start_turn(StartCause::Wake)).await.unwrap(), TurnStart::Nothing);
}

#[test]
fn report_that_was_flipped_is_filed_as_damaged_for_a_worker_that_reads_none() {
    let mut store = fixture::memory("a");
    store.with(|tx| {
        tx.push_report(&report(1))?;
        tx.push_report(&report(2))?;
        behind_the_back(tx.conn, "inbox", "UPDATE inbox SET body = replace(body, 'report 1', 'report 7')");
        Ok(())
    });
    store.options.own.reads_reports = false;
    store.with(|tx| {
        tx.file_unread()?;
        assert_eq!(tx.inbox_waiting()?, 0);
        let told: Vec<_> = tx.history_after(0, 9)?.into_iter().map(|row| row.item).collect();
        assert_eq!(told[0], HistoryItem::ReportDamaged { entry: 1 });
        assert!(matches!(&told[1], HistoryItem::SystemItem(SystemItem::Report { text, .. }) if text == "report 2"));
        assert_eq!(guard::differing(tx.conn, Extent::All)?, None);
        Ok(())
    });
}

#[test]
fn run_that_was_flipped_fails_its_turn_and_its_work_and_the_next_one_is_started() {
    for flip in [
        "UPDATE runs SET input = 'do evil' WHERE turn = 1",
        "UPDATE runs SET work = 'no work' WHERE turn = 1",
        "UPDATE runs SET origin = '' WHERE turn = 1",
    ] {
        let store = fixture::memory("a");
        store.with(|tx| {
            for work in 1..=2 {
                let input = format!("do {work}");
                tx.stage_run(&NewRun { work: WorkId(work), origin: Origin::Host, input })?;
            }
            behind_the_back(tx.conn, "runs", flip);
            Ok(())
        });
        let TurnStart::Failed(failed) = store.with(|tx| tx.start_turn(StartCause::Wake)) else { panic!("{flip}") };
        assert_eq!(failed.works, [WorkId(1)], "{flip}");
        assert_eq!(failed.ended.settled, [(WorkId(1), WorkResult::Failed)], "{flip}");
        assert_eq!(failed.ended.events.len(), 2, "its end, and that its work is settled");
        assert!(failed.message.contains("turn 1") && failed.message.contains("send it again"), "{}", failed.message);
        let TurnStart::Started(next) = store.with(|tx| tx.start_turn(StartCause::Wake)) else { panic!("{flip}") };
        assert_eq!((next.turn, next.input.as_deref(), &next.works[..]), (TurnId(2), Some("do 2"), &[WorkId(2)][..]));
        store.with(|tx| {
            let told: Vec<_> = tx.history_after(0, 9)?.iter().map(|row| row.item.kind()).collect();
            assert_eq!(told[..4], ["turn_started", "run_damaged", "turn_ended", "work_settled"], "{flip}");
            assert_eq!(guard::differing(tx.conn, Extent::All)?, None, "{flip}");
            Ok(())
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_whose_staged_work_was_flipped_says_that_it_failed_and_goes_on() {
    let mut puppet = Puppet::at(TempDir::new().unwrap(), true, false).await;
    let first = puppet.pod.run("do it").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    for (key, text) in [(7, "then this"), (8, "and that")] {
        let request = SendToPod { key: WorkId(key), how: SendKind::FollowUp, text: text.into() };
        let sent = within("an answer", client.call(request)).await.unwrap();
        assert!(matches!(sent, Sent::Staged { .. }), "{sent:?}");
    }
    let flip = |tx: &Tx<'_>| {
        behind_the_back(tx.conn, "runs", "UPDATE runs SET input = 'do evil' WHERE input = 'then this'");
        Ok(())
    };
    puppet.pod.commit(flip).await.unwrap();
    puppet.act(Act::End(TurnEnd::Finished)).await;
    within("its end", first.ended()).await;
    // The one behind it starts, in which its worker is told nothing of what is damaged.
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    let works = puppet.pod.store().read(|reads| reads.works(crate::store::Direction::Received, false)).await.unwrap();
    let result = |key| works.iter().find(|row| row.work == WorkId(key)).unwrap().result;
    assert_eq!((result(7), result(8)), (Some(WorkResult::Failed), Some(WorkResult::Finished)));
    within("the end", puppet.pod.shutdown()).await;
}

/// A store with one of each entry that something other than the history itself is read for.
fn read_for_something() -> Memory {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.stage_run(&NewRun { work: WorkId(1), origin: Origin::Host, input: "wanted".into() })?;
        let TurnStart::Started(turn) = tx.start_turn(StartCause::Wake)? else { panic!("no turn") };
        tx.reserve_child(&new_child(&pod("lives", 1)))?;
        tx.reserve_child(&new_child(&pod("ended", 1)))?;
        crate::event::end_child(tx, &pod("ended", 1), EndOfLife::NeverStarted { reason: "x".into() }, None)?;
        let said = HistoryItem::Output { output: OutputKind::Text, text: "said".into() };
        tx.append_in(turn.turn, None, &said)?;
        let outcome = TurnOutcome::Ended { result: crate::protocol::TurnResult::Finished };
        let compaction = Some(Compaction { summary: "in short".into(), upto: None });
        tx.end_turn(&EndTurn { turn: turn.turn, outcome, compaction })?;
        tx.push_report(&report(1))?;
        Ok(())
    });
    store
}

#[test]
fn no_read_of_an_entry_or_report_tells_what_was_not_written() {
    type Look = fn(&Reads<'_>) -> Result<(), StoreError>;
    let cases: [(&str, &str, Look); 9] = [
        ("history", "compacted", |reads| reads.context_summary().map(drop)),
        ("history", "user_input", |reads| reads.rewind_targets(9).map(drop)),
        ("history", "child_spawned", |reads| reads.rewind_targets(9).map(drop)),
        ("history", "output", |reads| reads.produced_from(0, 9).map(drop)),
        ("history", "output", |reads| reads.piece_ends(TurnId(1), 0, 99).map(drop)),
        ("history", "output", |reads| {
            let mut cursor = 0;
            while let Some(last) = reads.history_lines(cursor, 99, 1 << 20)?.last() {
                cursor = last.seq;
            }
            Ok(())
        }),
        ("history", "child_terminal", |reads| reads.life_end(&pod("ended", 1)).map(drop)),
        ("history", "output", |reads| reads.context_after(0, 99).map(drop)),
        ("inbox", "", |reads| reads.inbox_untold().map(drop)),
    ];
    for (number, (table, kind, look)) in cases.into_iter().enumerate() {
        let store = read_for_something();
        if number == 7 {
            // What a summary stands for is not read.
            store.with(|tx| tx.run("DELETE FROM compactions", []));
        }
        store.with(|tx| look(tx).map_err(|error| panic!("{kind}, untouched: {}", error.chain())));
        let which = if table == "history" { format!("WHERE kind = '{kind}'") } else { String::new() };
        store.with(|tx| {
            behind_the_back(tx.conn, table, &format!("UPDATE {table} SET at = at + 1 {which}"));
            Ok(())
        });
        let told = store.try_with(|tx| look(tx)).unwrap_err();
        assert!(told.chain().contains("is not as it was written"), "{number}, {kind}: {}", told.chain());
    }
}
