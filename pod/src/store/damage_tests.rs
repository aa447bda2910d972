//! A store whose files are cut short or flipped: it opens with all that was acked, or says that it does not.
//!
//! The files are copied while their owner lives, as a kill would leave them, damaged, and opened. What opens is compared,
//! row by row, with what had been committed.
#![allow(clippy::print_stdout, reason = "figures, and what was left out, are printed")]

use std::collections::BTreeMap;
use std::fs;

use rusqlite::types::Value;

use super::*;
use crate::id::{Seq, StreamId, TurnId, WorkId};
use crate::protocol::TurnResult;
use crate::store::fixture::{self, behind_the_back, new_child, pod, report, turn_ended};
use crate::store::thread::Store;
use crate::store::{EndTurn, HistoryItem, NewRun, Origin, OutputKind, Room, StartCause, TurnOutcome, Tx};

/// SQLite's: of a page, and of what the write-ahead log has before its first frame and before each page.
const PAGE: usize = 4096;
const LOG_HEADER: usize = 32;
const FRAME: usize = 24 + PAGE;

/// The files of a store, and what its tables held.
struct Kept {
    store: Vec<u8>,
    log: Option<Vec<u8>>,
    head: Vec<u8>,
    rows: BTreeMap<String, Vec<Vec<Value>>>,
}

/// What became of opening damaged files.
#[derive(Default, Debug)]
struct Count {
    refused: usize,
    refused_when_read: usize,
    whole: usize,
}

fn fill(tx: &Tx<'_>, step: u64) -> Result<(), StoreError> {
    let child = pod(&format!("child-{step}"), step + 1);
    tx.reserve_child(&new_child(&child))?;
    tx.delegate(WorkId(10_000 + step), &child, None, "part of it")?;
    tx.raise(&turn_ended(&pod("a", 1), WorkId(step)), Room::Ordinary)?;
    tx.set_watermark(StreamId(step + 1), &child.name, Seq(step + 1))?;
    tx.push_report(&report(step + 1))?;
    tx.stage_run(&NewRun { work: WorkId(step + 1), origin: Origin::Host, input: format!("do {step}") })?;
    if step.is_multiple_of(3) {
        tx.start_turn(StartCause::Wake)?;
        let turn = tx.turn_in("running")?.unwrap_or(TurnId(0));
        let said = HistoryItem::Output { output: OutputKind::Text, text: "lorem ipsum ".repeat(100) };
        tx.append_in(turn, None, &said)?;
        let outcome = TurnOutcome::Ended { result: TurnResult::Finished };
        tx.end_turn(&EndTurn { turn, outcome, compaction: None })?;
    }
    Ok(())
}

/// A store of some pages, half of it in the write-ahead log, or all of it in one file.
async fn kept(in_log: bool) -> Kept {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let mut options = fixture::options("a");
    // One after the other, so that there are as many commits as steps.
    options.limits.batch = 1;
    let store = Store::open(&path, options).unwrap();
    for step in 0..18 {
        store.write(move |tx| fill(tx, step)).await.unwrap();
        if step == 9 {
            let checkpoint = |reads: &crate::store::Reads<'_>| Ok(reads.conn.path().map(str::to_owned));
            let name = store.read(checkpoint).await.unwrap().unwrap();
            let _: i64 = Connection::open(name)
                .unwrap()
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
                .unwrap();
        }
    }
    if !in_log {
        store.close().await;
    }
    let log = fs::read(dir.path().join("store.db-wal")).ok().filter(|log| !log.is_empty());
    assert_eq!(log.is_some(), in_log);
    let (conn, _) = open_reader(&path).unwrap();
    let rows = rows(&conn).unwrap();
    assert!(rows["history"].len() > 40 && rows["inbox"].len() == 18, "too little to lose");
    Kept { store: fs::read(&path).unwrap(), log, head: fs::read(head::path_of(&path)).unwrap(), rows }
}

/// All rows of all tables, as whoever reads them would.
fn rows(conn: &Connection) -> Result<BTreeMap<String, Vec<Vec<Value>>>, StoreError> {
    let reads = crate::store::Reads::new(conn, UnixMillis(0));
    let mut cursor = 0;
    loop {
        let page = reads.history_after(cursor, 256)?;
        let Some(last) = page.last() else { break };
        cursor = last.seq;
    }
    let mut tables = BTreeMap::new();
    let mut names = guard::guarded(conn)?;
    names.push("history".to_owned());
    for table in names {
        let mut statement = conn.prepare(&format!("SELECT * FROM {table}"))?;
        let columns = statement.column_count();
        let found = statement.query_map([], |row| (0..columns).map(|column| row.get(column)).collect())?;
        tables.insert(table, found.collect::<rusqlite::Result<_>>()?);
    }
    Ok(tables)
}

impl Count {
    /// Opens the files with this main file and log. What opens holds what was acked.
    #[track_caller]
    fn open(&mut self, kept: &Kept, what: &str, store: Option<&[u8]>, log: Option<&[u8]>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let put =
            |name: &str, bytes: Option<&[u8]>| bytes.map(|bytes| fs::write(dir.path().join(name), bytes).unwrap());
        put("store.db", store);
        put("store.db-wal", log);
        put("store.db-head", Some(&kept.head));
        let conn = match open_writer(&path, &fixture::options("a")) {
            Ok(opened) => opened.conn,
            Err(error) => {
                let text = error.chain();
                assert!(text.contains("store.db"), "{what}: an error that names no file: {text}");
                self.refused += 1;
                return;
            }
        };
        match rows(&conn) {
            Ok(rows) => {
                for (table, kept) in &kept.rows {
                    assert_eq!(rows.get(table), Some(kept), "{what}: it opened, and `{table}` is not what was acked");
                }
                self.whole += 1;
            }
            Err(error) => {
                assert!(error.is_lasting(), "{what}: {}", error.chain());
                self.refused_when_read += 1;
            }
        }
    }
}

#[tokio::test]
async fn store_cut_short_at_any_page_is_refused_or_whole() {
    for in_log in [true, false] {
        let kept = kept(in_log).await;
        let mut count = Count::default();
        for page in 0..kept.store.len() / PAGE {
            let log = kept.log.as_deref();
            count.open(&kept, &format!("cut to {page} pages"), Some(&kept.store[..page * PAGE]), log);
            let middle = page * PAGE + PAGE / 3;
            count.open(&kept, &format!("cut within page {page}"), Some(&kept.store[..middle]), log);
        }
        count.open(&kept, "removed", None, kept.log.as_deref());
        println!("{} pages, log {in_log}: {count:?}", kept.store.len() / PAGE);
        // Of the pages that the log has anew, the file itself is not asked.
        assert!(count.refused > 0 && (in_log || count.whole == 0), "{count:?}");
    }
}

#[tokio::test]
async fn write_ahead_log_cut_short_at_any_frame_is_a_loss_that_is_said() {
    let kept = kept(true).await;
    let log = kept.log.clone().unwrap();
    let frames = (log.len() - LOG_HEADER) / FRAME;
    let mut count = Count::default();
    for frame in 0..frames {
        let end = LOG_HEADER + frame * FRAME;
        for end in [end, end + FRAME / 2] {
            count.open(&kept, &format!("log cut to {end} bytes"), Some(&kept.store), Some(&log[..end]));
        }
    }
    count.open(&kept, "log emptied", Some(&kept.store), Some(&[]));
    count.open(&kept, "log removed", Some(&kept.store), None);
    println!("{frames} frames: {count:?}");
    assert_eq!(count.whole + count.refused_when_read, 0, "{count:?}");
    count.open(&kept, "untouched", Some(&kept.store), Some(&log));
    assert_eq!(count.whole, 1);
}

/// Seeded: the same places every time.
fn random() -> impl FnMut(usize) -> usize {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    }
}

#[tokio::test]
async fn bit_that_is_flipped_anywhere_is_found_or_means_nothing() {
    // More with `POD_FLIPS`.
    let flips: usize = std::env::var("POD_FLIPS").ok().and_then(|number| number.parse().ok()).unwrap_or(60);
    let mut next = random();
    for (in_log, flip_log) in [(false, false), (true, false), (true, true)] {
        let kept = kept(in_log).await;
        let mut count = Count::default();
        count.open(&kept, "untouched", Some(&kept.store), kept.log.as_deref());
        assert_eq!(count.whole, 1, "nothing was flipped: {count:?}");
        for _ in 0..flips {
            let (mut store, mut log) = (kept.store.clone(), kept.log.clone());
            let (name, bytes) = match &mut log {
                Some(log) if flip_log => ("log", log),
                _ => ("file", &mut store),
            };
            let bit = next(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            count.open(&kept, &format!("bit {bit} of the {name}"), Some(&store), log.as_deref());
        }
        println!("{flips} flips, in the log: {flip_log}: {count:?}");
        assert!(count.refused > 0, "{count:?}");
        // What stands in pages that the log has anew, or between rows, means nothing; in the log itself all is summed up.
        assert_eq!(count.whole > 1, !flip_log, "{count:?}");
    }
    // What the file says of itself, bit by bit.
    let kept = kept(false).await;
    let mut count = Count::default();
    for bit in (0..100 * 8).step_by(if flips > 100 { 1 } else { 13 }) {
        let mut store = kept.store.clone();
        store[bit / 8] ^= 1 << (bit % 8);
        count.open(&kept, &format!("bit {bit} of the header"), Some(&store), None);
    }
    println!("the header: {count:?}");
    assert!(count.refused > 0 && count.whole > 0, "{count:?}");
}

#[tokio::test]
async fn event_that_was_flipped_while_the_pod_runs_is_kept_and_shown_and_the_store_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = Store::open(&path, fixture::options("a")).unwrap();
    let raised = |tx: &Tx<'_>| {
        for work in 1..=3 {
            tx.raise(&turn_ended(&pod("a", 1), WorkId(work)), Room::Ordinary)?;
        }
        let flip = "UPDATE outbox SET body = replace(body, 'inished', 'inishee') WHERE seq = 2";
        behind_the_back(tx.conn, "outbox", flip);
        Ok(())
    };
    store.write(raised).await.unwrap();
    let states = |rows: &[crate::store::OutboxRow]| rows.iter().map(|row| (row.seq.0, row.state)).collect::<Vec<_>>();
    let rows = store.read(|reads| reads.outbox_from(Seq(1), 10)).await.unwrap();
    let (pending, gone) = (crate::store::OutboxState::Pending, crate::store::OutboxState::Undeliverable);
    assert_eq!(states(&rows), [(1, pending), (2, gone), (3, pending)]);
    assert!(rows[1].outcome.as_deref().unwrap().contains("not as it was written"));
    // A gap was offered in its place, and acked.
    store.write(|tx| tx.trim_outbox(Seq(3))).await.unwrap();
    store.write(|tx| tx.trim_outbox(Seq(3))).await.unwrap();
    store.close().await;
    drop(store);
    let store = Store::open(&path, fixture::options("a")).unwrap();
    assert_eq!(states(&store.read(|reads| reads.outbox_from(Seq(1), 10)).await.unwrap()), [(2, gone)]);
    let told = store.read(|reads| reads.history_after(0, 10)).await.unwrap();
    let told: Vec<_> = told.iter().filter(|row| row.item == HistoryItem::EventDamaged { seq: Seq(2) }).collect();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn event_that_was_flipped_is_not_mended_by_being_given_another_number() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.raise(&turn_ended(&pod("a", 1), WorkId(1)), Room::Ordinary)?;
        tx.begin_unmet()?;
        for work in 2..=3 {
            tx.raise(&turn_ended(&pod("a", 1), WorkId(work)), Room::Ordinary)?;
        }
        behind_the_back(tx.conn, "outbox", "UPDATE outbox SET at = at + 1 WHERE seq = 2");
        tx.set_meta_text("pod", Some("a"))?;
        tx.meet_parent(Seq(9))?;
        let rows = tx.outbox_from(Seq(10), 10)?;
        assert_eq!(rows[0].state, crate::store::OutboxState::Undeliverable);
        assert_eq!(rows[1].event, turn_ended(&pod("a", 1), WorkId(3)));
        assert_eq!(guard::differing(tx.conn, Extent::All)?, None);
        Ok(())
    });
}

#[test]
fn end_of_the_history_is_compared_as_far_as_a_bound_in_bytes_and_without_being_read() {
    let store = fixture::memory("a");
    store.with(|tx| {
        for _ in 0..12 {
            let text = "a".repeat(800 << 10);
            tx.append(None, None, &HistoryItem::Output { output: OutputKind::Text, text })?;
        }
        let last = "INSERT INTO history (at, kind, body, sum) VALUES (1, 'x', '{', pod_sum(1, 'x', NULL, NULL, '{'))";
        tx.run(last, [])?;
        assert_eq!(guard::differing(tx.conn, Extent::All)?, None, "what it means is for whoever reads it");
        for (seq, found) in [(1, false), (5, true), (13, true)] {
            tx.conn.execute_batch("SAVEPOINT s")?;
            tx.run("UPDATE history SET at = at + 1 WHERE seq = ?1", [seq])?;
            assert_eq!(guard::differing(tx.conn, Extent::All)?.is_some(), found, "entry {seq}");
            tx.conn.execute_batch("ROLLBACK TO s; RELEASE s")?;
        }
        tx.run("DELETE FROM history WHERE seq = 10", [])?;
        assert!(guard::differing(tx.conn, Extent::All)?.unwrap().contains("number 10"));
        Ok(())
    });
}

#[test]
fn store_that_a_person_let_be_analysed_is_whole() {
    let store = fixture::memory("a");
    store.with(|tx| {
        tx.push_report(&report(1))?;
        tx.conn.execute_batch("ANALYZE")?;
        assert_eq!(guard::differing(tx.conn, Extent::All)?, None);
        tx.conn.execute_batch("DROP INDEX inbox_open")?;
        assert!(guard::differing(tx.conn, Extent::All)?.is_some());
        Ok(())
    });
}

/// What the end of a dead child tells, whose files these are.
async fn end_told(kept: &Kept, what: &str, store: &[u8], log: Option<&[u8]>) -> (u64, bool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    fs::write(&path, store).unwrap();
    if let Some(log) = log {
        fs::write(dir.path().join("store.db-wal"), log).unwrap();
    }
    fs::write(head::path_of(&path), &kept.head).unwrap();
    let parent = Store::open(dir.path().join("parent.db"), fixture::options("parent")).unwrap();
    let child = crate::store::NewChild { store: path, ..new_child(&pod("a", 1)) };
    parent.write(move |tx| tx.reserve_child(&child)).await.unwrap();
    let killed = crate::store::EndOfLife::Dead(crate::protocol::LostReason::Killed { signal: 9 });
    let end = crate::event::settle_dead_child(&parent, &pod("a", 1), killed).await;
    let end = end.unwrap_or_else(|error| panic!("{what}: its end is not told: {}", error.chain()));
    assert!(end.first, "{what}");
    // What was told is what was committed.
    for event in &end.ends {
        let body = Value::Text(serde_json::to_string(event).unwrap());
        let whole = kept.rows["outbox"].iter().any(|row| row[3] == body);
        assert!(whole || !matches!(event, crate::protocol::PodEvent::TurnEnded { .. }), "{what}: {event:?}");
    }
    let history = parent.read(|reads| reads.history_after(0, 100)).await.unwrap();
    let unread = history.iter().any(|row| matches!(row.item, HistoryItem::ChildTerminal { unread: Some(_), .. }));
    (end.drained, unread)
}

#[tokio::test]
async fn end_of_a_dead_child_is_told_whichever_bit_of_its_files_was_flipped() {
    let flips: usize = std::env::var("POD_FLIPS").ok().and_then(|number| number.parse().ok()).unwrap_or(30);
    let mut next = random();
    for (in_log, flip_log) in [(false, false), (true, true)] {
        let kept = kept(in_log).await;
        let (events, unread) = end_told(&kept, "untouched", &kept.store, kept.log.as_deref()).await;
        assert!(events >= 18 && !unread, "{events}, {unread}");
        for _ in 0..flips {
            let (mut store, mut log) = (kept.store.clone(), kept.log.clone());
            let bytes = match &mut log {
                Some(log) if flip_log => log,
                _ => &mut store,
            };
            let bit = next(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            end_told(&kept, &format!("bit {bit}, in the log: {flip_log}"), &store, log.as_deref()).await;
        }
    }
    let kept = kept(false).await;
    let (events, _) = end_told(&kept, "untouched", &kept.store, None).await;
    // What the file says of itself, and all that it says of its version and whose it is.
    let header = (0..100 * 8).step_by(if flips > 100 { 1 } else { 13 });
    for bit in header.chain(60 * 8..64 * 8).chain(68 * 8..72 * 8) {
        let mut store = kept.store.clone();
        store[bit / 8] ^= 1 << (bit % 8);
        let told = end_told(&kept, &format!("bit {bit} of the header"), &store, None).await;
        if matches!(bit / 8, 60..=63 | 68..=71) {
            assert_eq!(told, (events, true), "bit {bit}");
        }
    }
}

#[test]
fn store_that_went_on_without_its_lost_commits_does_so_because_someone_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    drop(Store::open(&path, fixture::options("a")).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&path, fixture::options("a")).unwrap();
        store.write(|tx| tx.push_report(&report(1))).await.unwrap();
        store.close().await;
    });
    fs::write(&path, "").unwrap();
    let error = Store::open(&path, fixture::options("a")).unwrap_err();
    assert!(matches!(error, StoreError::CommitsLost { had: 1, has: 0, .. }), "{error}");
    assert!(error.to_string().contains("store.db-head"), "{error}");
    assert!(crate::store::StoreReader::was_whole(&path).is_err());
    fs::remove_file(head::path_of(&path)).unwrap();
    Store::open(&path, fixture::options("a")).unwrap();
}
