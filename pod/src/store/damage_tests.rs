//! A store whose files are cut short or flipped: it opens with all that was acked, or says that it does not.
//!
//! The files are copied while their owner lives, as a kill would leave them, damaged, and opened. What opens is compared,
//! row by row, with what had been committed.

use std::collections::BTreeMap;
use std::fs;

use rusqlite::types::Value;

use super::*;
use crate::id::{Seq, StreamId, TurnId, WorkId};
use crate::protocol::TurnResult;
use crate::store::fixture::{self, new_child, pod, report, turn_ended};
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
        drop(store);
        // Whoever closes it last writes the log back; its threads may not have.
        let conn = Connection::open(&path).unwrap();
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
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
            Ok((conn, _)) => conn,
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

#[tokio::test]
async fn bit_that_is_flipped_anywhere_is_found_or_means_nothing() {
    // Seeded: the same places every time. More with `POD_FLIPS`.
    let flips: usize = std::env::var("POD_FLIPS").ok().and_then(|number| number.parse().ok()).unwrap_or(60);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    for (in_log, flip_log) in [(false, false), (true, false), (true, true)] {
        let kept = kept(in_log).await;
        let mut count = Count::default();
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
}

#[tokio::test]
async fn event_that_was_flipped_is_not_offered_but_kept_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store.db"), fixture::options("a")).unwrap();
    let raised = |tx: &Tx<'_>| {
        for work in 1..=3 {
            tx.raise(&turn_ended(&pod("a", 1), WorkId(work)), Room::Ordinary)?;
        }
        // As the medium would: nobody sums that up.
        tx.run("UPDATE outbox SET body = replace(body, 'Finished', 'Cancelled') WHERE seq = 2", [])
    };
    assert_eq!(store.write(raised).await.unwrap(), 1, "{:?}", turn_ended(&pod("a", 1), WorkId(1)));
    let rows = store.read(|reads| reads.outbox_from(Seq(1), 10)).await.unwrap();
    let states: Vec<_> = rows.iter().map(|row| (row.seq.0, row.state)).collect();
    let (pending, gone) = (crate::store::OutboxState::Pending, crate::store::OutboxState::Undeliverable);
    assert_eq!(states, [(1, pending), (2, gone), (3, pending)]);
    assert!(rows[1].outcome.as_deref().unwrap().contains("not as it was written"));
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
