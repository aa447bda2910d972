use std::path::Path;

use super::*;
use crate::event::receive_event;
use crate::id::WorkId;
use crate::protocol::{Disposition, LostReason, PodEventOffer};
use crate::store::fixture::{self, new_child, pod, turn_ended};
use crate::store::{HistoryItem, HistoryRow, NewChild, Reservation, Room, SystemItem};

const KILLED: EndOfLife = EndOfLife::Dead(LostReason::Killed { signal: 9 });

struct Family {
    _dir: tempfile::TempDir,
    parent: Store,
    child: Store,
}

/// A parent `a` and its child `b`, which has committed `events` events and sent none.
async fn family(events: u64) -> Family {
    let dir = tempfile::tempdir().unwrap();
    let parent = Store::open(dir.path().join("a.db"), fixture::options("a")).unwrap();
    let path = dir.path().join("b.db");
    let child = Store::open(&path, fixture::options("b")).unwrap();
    reserve(&parent, &path).await;
    let raise = move |tx: &Tx<'_>| {
        for work in 1..=events {
            tx.raise(&turn_ended(&pod("b", 1), WorkId(work)), Room::Ordinary)?;
        }
        Ok(())
    };
    child.write(raise).await.unwrap();
    Family { _dir: dir, parent, child }
}

async fn reserve(parent: &Store, path: &Path) {
    let new = NewChild { store: path.to_owned(), ..new_child(&pod("b", 1)) };
    assert_eq!(parent.write(move |tx| tx.reserve_child(&new)).await.unwrap(), Reservation::Reserved);
}

async fn history(store: &Store) -> Vec<HistoryRow> {
    store.read(|reads| reads.history_after(0, 10_000)).await.unwrap()
}

/// What the agent will be told, in order.
async fn told(store: &Store) -> Vec<LocalEvent> {
    store
        .write(|tx| {
            let staged = tx.stage_reports(crate::id::TurnId(1), 10_000)?;
            Ok(staged.into_iter().map(|report| report.item).collect::<Vec<_>>())
        })
        .await
        .unwrap()
        .into_iter()
        .map(|item| match item {
            SystemItem::Report { event, .. } => event,
            SystemItem::Note { .. } => panic!("a note"),
        })
        .collect()
}

#[tokio::test]
async fn killed_child_is_lost_after_all_that_it_had_committed_and_not_sent() {
    let family = family(600).await;
    // The child is not closed: its events are still in its write-ahead log, as after a kill.
    let end = settle_dead_child(&family.parent, &pod("b", 1), KILLED).await.unwrap();
    let lost = Terminal::Lost { reason: LostReason::Killed { signal: 9 } };
    assert_eq!((end.terminal, end.first, end.drained, end.ends.len()), (lost, true, 600, 600));
    let told = told(&family.parent).await;
    assert_eq!(told.len(), 601);
    for (event, work) in told.iter().zip(1..=600) {
        assert_eq!(*event, LocalEvent::Reported(turn_ended(&pod("b", 1), WorkId(work))));
    }
    assert!(matches!(told.last(), Some(LocalEvent::Lost { .. })));
    drop(family.child);
}

#[tokio::test]
async fn end_of_a_child_is_applied_once() {
    let family = family(1).await;
    let first = settle_dead_child(&family.parent, &pod("b", 1), KILLED).await.unwrap();
    let unobserved = EndOfLife::Dead(LostReason::Unobserved);
    let again = settle_dead_child(&family.parent, &pod("b", 1), unobserved).await.unwrap();
    assert_eq!((again.first, again.drained, again.terminal), (false, 0, first.terminal));
    let terminals = history(&family.parent).await;
    let terminals = terminals.iter().filter(|row| matches!(row.item, HistoryItem::ChildTerminal { .. })).count();
    assert_eq!((terminals, told(&family.parent).await.len()), (1, 2));
}

#[tokio::test]
async fn what_had_been_sent_is_not_applied_again() {
    let family = family(3).await;
    let offer = PodEventOffer {
        from: pod("b", 1),
        stream: family.child.stream(),
        seq: Seq(1),
        event: turn_ended(&pod("b", 1), WorkId(1)),
    };
    let applied = receive_event(&family.parent, &pod("b", 1), offer.clone()).await.unwrap();
    assert_eq!(applied.disposition, Disposition::Applied);
    // The ack was lost: the child's outbox still has it.
    let end = settle_dead_child(&family.parent, &pod("b", 1), KILLED).await.unwrap();
    assert_eq!(end.drained, 2);
    assert_eq!(told(&family.parent).await.len(), 4);
    let late = receive_event(&family.parent, &pod("b", 1), offer).await.unwrap();
    assert_eq!(late.disposition, Disposition::Duplicate);
}

#[tokio::test]
async fn child_that_had_committed_its_shut_down_is_not_lost() {
    let family = family(1).await;
    let last = PodEvent::ShutDown { pod: pod("b", 1) };
    family.child.write(move |tx| tx.raise(&last, Room::Reserved)).await.unwrap();
    let end = settle_dead_child(&family.parent, &pod("b", 1), KILLED).await.unwrap();
    assert_eq!(end.terminal, Terminal::ShutDown);
    assert!(!told(&family.parent).await.iter().any(|event| matches!(event, LocalEvent::Lost { .. })));
}

#[tokio::test]
async fn events_that_are_gone_from_a_dead_childs_store_become_a_gap() {
    let family = family(5).await;
    family.child.write(|tx| tx.run("DELETE FROM outbox WHERE seq IN (1, 2, 4)", [])).await.unwrap();
    settle_dead_child(&family.parent, &pod("b", 1), KILLED).await.unwrap();
    let told = told(&family.parent).await;
    let gap = |from, to| LocalEvent::Reported(PodEvent::Gap { pod: pod("b", 1), from: Seq(from), to: Seq(to) });
    assert_eq!((&told[0], &told[2], told.len()), (&gap(1, 2), &gap(4, 4), 5));
}

#[tokio::test]
async fn events_that_were_acked_to_a_parent_whose_store_is_now_older_become_a_gap() {
    for (events, acked) in [(5, 5), (5, 3), (0, 0)] {
        let family = family(events).await;
        family.child.write(move |tx| tx.trim_outbox(Seq(acked))).await.unwrap();
        let end = settle_dead_child(&family.parent, &pod("b", 1), KILLED).await.unwrap();
        assert_eq!(end.drained, events - acked);
        let told = told(&family.parent).await;
        let gap = LocalEvent::Reported(PodEvent::Gap { pod: pod("b", 1), from: Seq(1), to: Seq(acked) });
        let gaps = told.iter().filter(|event| event.kind() == "gap").collect::<Vec<_>>();
        assert_eq!(gaps, if acked > 0 { vec![&gap] } else { vec![] });
        assert!(matches!(told.last(), Some(LocalEvent::Lost { .. })), "the end comes last: {told:?}");
        let stream = family.child.stream();
        assert_eq!(family.parent.read(move |reads| reads.watermark(stream)).await.unwrap(), Seq(events));
    }
}

#[tokio::test]
async fn child_that_was_ready_and_whose_store_is_gone_is_lost_and_that_is_said() {
    let family = family(1).await;
    let stream = family.child.stream();
    family.parent.write(move |tx| tx.child_ready(&pod("b", 1), stream)).await.unwrap();
    std::fs::remove_file(family._dir.path().join("b.db")).unwrap();
    settle_dead_child(&family.parent, &pod("b", 1), KILLED).await.unwrap();
    let unread = history(&family.parent).await.into_iter().find_map(|row| match row.item {
        HistoryItem::ChildTerminal { unread, .. } => unread,
        _ => None,
    });
    assert!(unread.is_some_and(|why| why.contains("b.db") && why.contains("gone")));
}

#[tokio::test]
async fn child_that_died_before_it_made_a_store_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let parent = Store::open(dir.path().join("a.db"), fixture::options("a")).unwrap();
    for (name, make) in [("none.db", false), ("empty.db", true)] {
        let path = dir.path().join(name);
        if make {
            std::fs::write(&path, "").unwrap();
        }
        reserve(&parent, &path).await;
        let end = settle_dead_child(&parent, &pod("b", 1), KILLED).await.unwrap();
        assert!(end.first && end.drained == 0, "{end:?}");
        parent.write(|tx| tx.run("DELETE FROM children", [])).await.unwrap();
    }
    let rows = history(&parent).await;
    assert!(!rows.iter().any(|row| matches!(&row.item, HistoryItem::ChildTerminal { unread: Some(_), .. })));
}

#[tokio::test]
async fn child_whose_store_cannot_be_read_is_lost_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let parent = Store::open(dir.path().join("a.db"), fixture::options("a")).unwrap();
    let path = dir.path().join("b.db");
    std::fs::write(&path, "no database at all, but long enough to be taken for one".repeat(20)).unwrap();
    reserve(&parent, &path).await;
    settle_dead_child(&parent, &pod("b", 1), KILLED).await.unwrap();
    let rows = history(&parent).await;
    let unread = rows.iter().find_map(|row| match &row.item {
        HistoryItem::ChildTerminal { unread, .. } => unread.clone(),
        _ => None,
    });
    assert!(unread.unwrap().contains("no database"));
}

#[tokio::test]
async fn child_that_was_never_started_has_its_end_but_is_not_told_as_lost() {
    let family = family(0).await;
    let never = EndOfLife::NeverStarted { reason: "no such program".to_owned() };
    let end = settle_dead_child(&family.parent, &pod("b", 1), never).await.unwrap();
    assert!(matches!(end.terminal, Terminal::NeverStarted { .. }));
    assert_eq!(told(&family.parent).await.len(), 0);
    let next = family.parent.write(|tx| tx.reserve_child(&new_child(&pod("b", 2)))).await.unwrap();
    assert_eq!(next, Reservation::Reserved, "the name is free");
}

#[tokio::test]
async fn event_that_arrived_while_the_dead_childs_store_was_read_is_applied_once() {
    let family = family(2).await;
    let stream = family.child.stream();
    let rows = family.child.read(|reads| reads.outbox_from(Seq(1), 10)).await.unwrap();
    for expected in [2, 0] {
        let rows = rows.clone();
        let applied = family.parent.write(move |tx| apply_left(tx, &pod("b", 1), stream, &rows, Seq(0))).await.unwrap();
        assert_eq!(applied.count, expected);
    }
    assert_eq!(told(&family.parent).await.len(), 2);
}

/// What the history says that could not be read of the dead child.
async fn unread(store: &Store) -> Option<String> {
    history(store).await.into_iter().find_map(|row| match row.item {
        HistoryItem::ChildTerminal { unread, .. } => unread,
        _ => None,
    })
}

fn dead_sector() -> Failed {
    let source = std::sync::Arc::new(std::io::Error::from_raw_os_error(5));
    StoreError::Io { doing: "read", path: "b.db".into(), source }.into()
}

#[tokio::test(start_paused = true)]
async fn child_whose_store_is_on_a_dead_sector_is_lost_after_some_attempts_and_that_is_said() {
    static ASKED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let family = family(2).await;
    let never = |_: &ChildRow| {
        ASKED.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Err(dead_sector())
    };
    let end = settle(&family.parent, &pod("b", 1), KILLED, never, |_, _, _| Ok(())).await.unwrap().0;
    assert!(end.first && end.drained == 0, "{end:?}");
    assert_eq!(ASKED.load(std::sync::atomic::Ordering::SeqCst), ATTEMPTS);
    assert!(unread(&family.parent).await.unwrap().contains("os error 5"));
}

#[tokio::test(start_paused = true)]
async fn store_that_can_be_read_at_the_second_attempt_is_read() {
    static ASKED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let family = family(2).await;
    let at_first = |row: &ChildRow| match ASKED.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => Err(dead_sector()),
        _ => open_left(row),
    };
    let end = settle(&family.parent, &pod("b", 1), KILLED, at_first, |_, _, _| Ok(())).await.unwrap().0;
    assert_eq!((end.drained, unread(&family.parent).await), (2, None));
}

#[tokio::test]
async fn own_store_is_read_while_a_dead_childs_cannot_be() {
    let family = family(2).await;
    family.child.close().await;
    let path = family._dir.path().join("b.db");
    drop(family.child);
    let holder = rusqlite::Connection::open(&path).unwrap();
    // Readers wait for whoever holds a file without a write-ahead log. Its last connections may still be on their way out.
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while holder.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get::<_, String>(0)).is_err() {
        assert!(std::time::Instant::now() < until, "it is never let go");
        tokio::task::yield_now().await;
    }
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let us = async {
        for _ in 0..100 {
            family.parent.read(|reads| reads.history_head()).await.unwrap();
        }
        holder.execute_batch("COMMIT").unwrap();
    };
    let life = pod("b", 1);
    let (end, ()) = tokio::join!(settle_dead_child(&family.parent, &life, KILLED), us);
    assert_eq!(end.unwrap().drained, 2);
}
