//! Files as the first versions have left them, made by their own statements.
#![allow(clippy::print_stdout, reason = "figures, and what was left out, are printed")]

use std::path::Path;

use super::*;
use crate::event::settle_dead_child;
use crate::id::{PodId, Seq, StreamId, TurnId, WorkId};
use crate::protocol::{LocalEvent, LostReason};
use crate::store::fixture::{self, new_child, pod, turn_ended};
use crate::store::open::{Opened, open_writer};
use crate::store::{
    EndOfLife, HistoryItem, NewChild, OutputKind, Reservation, Store, StoreReader, SystemItem, Terminal,
};

const STREAM: StreamId = StreamId(77);
const KILLED: EndOfLife = EndOfLife::Dead(LostReason::Killed { signal: 9 });

/// A store of the pod `b` as version `version` wrote it: a child of its own, a turn that said something, two events, of
/// which the parent has acked none.
fn old_file(path: &Path, version: usize) -> Connection {
    let mut conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "journal_mode", "WAL").unwrap();
    schema::make_old(&mut conn, version);
    conn.execute_batch(&format!(
        r#"INSERT INTO meta VALUES ('pod', 'b'), ('stream', '{STREAM}'), ('created_at', 5), ('next_seq', 3), ('next_turn', 2),
               ('acked_seq', 0);
           INSERT INTO turns (turn, state, started_at) VALUES (1, 'ended', 5);
           INSERT INTO history (at, kind, turn, body) VALUES
               (5, 'turn_started', 1, '{{"kind":"turn_started","cause":"run","works":[]}}'),
               (5, 'output', 1, '{{"kind":"output","output":"text","text":"said"}}');
           INSERT INTO children (name, incarnation, at, state, lifetime, worker, socket, store, runtime_dir, scope, terminal)
               VALUES ('c', '{}', 5, 'ended', 'tied', '{{}}', '/s', '/d', '/r', '[]', '{{"end":"shut_down"}}');
           INSERT INTO works (work, direction, state, at, input) VALUES ('{}', 'received', 'open', 5, 'do it');"#,
        pod("c", 3).incarnation,
        WorkId(9),
    ))
    .unwrap();
    for seq in 1..=2_u64 {
        let body = serde_json::to_string(&turn_ended(&pod("b", 1), WorkId(seq))).unwrap();
        let sql = "INSERT INTO outbox (seq, at, kind, body) VALUES (?1, 5, 'turn_ended', ?2)";
        conn.execute(sql, (Seq(seq), body)).unwrap();
    }
    conn
}

fn bytes(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("b.db")).unwrap()
}

#[test]
fn store_of_every_older_version_can_be_looked_at_and_stays_as_it_is() {
    for version in 1..usize::try_from(schema::VERSION).unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.db");
        drop(old_file(&path, version));
        let before = bytes(dir.path());
        let reader = StoreReader::open(&path).unwrap();
        assert_eq!((reader.identity().pod.as_str(), reader.identity().stream), ("b", STREAM), "version {version}");
        reader
            .look(|reads| {
                let counts = reads.status_counts()?;
                assert_eq!((counts.history, counts.outbox_pending, counts.children_total), (2, 2, 1));
                assert_eq!(reads.outbox_from(Seq(1), 9)?.len(), 2);
                assert_eq!(reads.children()?[0].terminal, Some(Terminal::ShutDown));
                assert_eq!(reads.works(crate::store::Direction::Received, false)?.len(), 1);
                let said = HistoryItem::Output { output: OutputKind::Text, text: "said".to_owned() };
                assert_eq!(reads.history_after(1, 9)?[0].item, said);
                assert_eq!(reads.context_after(0, 9)?.len(), 2);
                assert_eq!(reads.context_summary()?, None);
                assert!(reads.rewind_targets(9)?.targets.is_empty());
                assert_eq!(reads.control()?.turn, None);
                Ok(())
            })
            .unwrap();
        drop(reader);
        assert_eq!(bytes(dir.path()), before, "version {version} was changed by looking at it");
        // Its next owner brings it up to date, and loses nothing.
        let Opened { conn, identity, .. } = open_writer(&path, &fixture::options("b")).unwrap();
        assert_eq!(identity.stream, STREAM);
        let reads = crate::store::Reads::new(&conn, crate::store::UnixMillis(0));
        assert_eq!((reads.history_head().unwrap(), reads.outbox_from(Seq(1), 9).unwrap().len()), (2, 2));
    }
}

async fn parent_of(dir: &Path) -> Store {
    let parent = Store::open(dir.join("a.db"), fixture::options("a")).unwrap();
    let new = NewChild { store: dir.join("b.db"), ..new_child(&pod("b", 1)) };
    assert_eq!(parent.write(move |tx| tx.reserve_child(&new)).await.unwrap(), Reservation::Reserved);
    parent
}

async fn told(parent: &Store) -> Vec<LocalEvent> {
    let staged = parent.write(|tx| tx.stage_reports(TurnId(1), 100)).await.unwrap();
    let events = staged.into_iter().filter_map(|report| match report.item {
        SystemItem::Report { event, .. } => Some(event),
        SystemItem::Note { .. } => None,
    });
    events.collect()
}

#[tokio::test]
async fn events_of_a_dead_child_of_an_older_version_are_applied_before_its_end() {
    for version in 1..usize::try_from(schema::VERSION).unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let parent = parent_of(dir.path()).await;
        // Not closed: what it has committed is in its write-ahead log.
        let _open = old_file(&dir.path().join("b.db"), version);
        let end = settle_dead_child(&parent, &pod("b", 1), KILLED).await.unwrap();
        assert_eq!((end.drained, end.first), (2, true), "version {version}");
        let told = told(&parent).await;
        assert_eq!(told.len(), 3);
        assert_eq!(told[1], LocalEvent::Reported(turn_ended(&pod("b", 1), WorkId(2))));
        assert!(matches!(told[2], LocalEvent::Lost { .. }));
    }
}

#[tokio::test]
async fn dead_child_of_a_newer_version_is_not_buried_before_its_store_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let parent = parent_of(dir.path()).await;
    let theirs = old_file(&dir.path().join("b.db"), 1);
    fixture::make_newer(&theirs);
    let error = settle_dead_child(&parent, &pod("b", 1), KILLED).await.unwrap_err();
    assert!(matches!(&error, StoreError::NotYet { pod, .. } if *pod == fixture::pod("b", 1)), "{error}");
    for words in ["pod b", "its end is not told", "use the newer program"] {
        assert!(error.chain().contains(words), "`{words}` is not in: {}", error.chain());
    }
    let live: Vec<PodId> =
        parent.read(|reads| reads.live_children()).await.unwrap().into_iter().map(|c| c.pod).collect();
    assert_eq!(live, [pod("b", 1)], "it was buried");
    assert_eq!(told(&parent).await, []);
    // The newer program takes over.
    theirs.execute_batch("DROP TABLE sums; PRAGMA user_version = 1").unwrap();
    let end = settle_dead_child(&parent, &pod("b", 1), KILLED).await.unwrap();
    assert_eq!((end.drained, told(&parent).await.len()), (2, 3));
}

#[test]
fn many_turns_of_a_first_version_are_looked_up_and_not_searched_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.db");
    let old = old_file(&path, 1);
    old.execute_batch(
        r#"WITH RECURSIVE n(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
           INSERT INTO turns (turn, state, started_at) SELECT n, 'ended', 5 FROM n;
           WITH RECURSIVE n(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
           INSERT INTO history (at, kind, turn, body)
               SELECT 5, 'turn_started', n, '{"kind":"turn_started","cause":"reports","works":[]}' FROM n;"#,
    )
    .unwrap();
    drop(old);
    let started = std::time::Instant::now();
    let Opened { conn, .. } = open_writer(&path, &fixture::options("b")).unwrap();
    println!("20 000 turns were migrated in {:?}", started.elapsed());
    // A search for each would look at 400 million rows: a minute, where this takes a fraction of a second.
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
    let found: i64 =
        conn.query_row("SELECT count(*) FROM turns WHERE history IS NOT NULL", [], |row| row.get(0)).unwrap();
    assert_eq!(found, 20_000);
}
