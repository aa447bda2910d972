//! What a store has lost, and whether that is said: after it was closed in good order, and after a kill.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::store::fixture::{self, report};
use crate::store::thread::Store;
use crate::store::{HistoryItem, HistoryRow, StoreReader};

const PAGE: usize = 4096;

async fn open(path: &Path) -> Store {
    Store::open(path, fixture::options("a")).unwrap()
}

/// A commit for each of `reports`.
async fn commit(store: &Store, reports: std::ops::RangeInclusive<u64>) {
    for number in reports {
        store.write(move |tx| tx.push_report(&report(number))).await.unwrap();
    }
}

async fn history(store: &Store) -> Vec<HistoryRow> {
    store.read(|reads| reads.history_after(0, 100)).await.unwrap()
}

/// The files of a store as a kill would leave them now, in a directory of their own.
fn killed(path: &Path) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    let copy = dir.path().join(path.file_name().unwrap());
    (dir, copy)
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

#[track_caller]
fn refused(path: &Path, what: &str) {
    let error = Store::open(path, fixture::options("a")).unwrap_err();
    assert!(matches!(error, StoreError::CommitsLost { .. }), "{what}: {}", error.chain());
}

#[tokio::test]
async fn store_that_was_closed_is_refused_without_what_it_had_also_after_the_machine_was_started_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&path).await;
    commit(&store, 1..=3).await;
    store.close().await;
    let older = fs::read(&path).unwrap();
    let store = open(&path).await;
    commit(&store, 4..=6).await;
    store.close().await;
    assert!(!log_of(&path).exists(), "the log stays behind");
    let whole = fs::read(&path).unwrap();

    head::write_as_before_a_boot(&path);
    for (bytes, what) in [(&older[..], "yesterday's copy"), (&[], "emptied")] {
        fs::write(&path, bytes).unwrap();
        refused(&path, what);
        assert!(StoreReader::was_whole(&path).is_err());
    }
    fs::remove_file(&path).unwrap();
    refused(&path, "removed");
    fs::write(&path, whole).unwrap();
    let store = open(&path).await;
    assert_eq!(store.read(|reads| reads.inbox_waiting()).await.unwrap(), 6);
    assert_eq!(history(&store).await, []);
}

#[tokio::test]
async fn store_that_somebody_reads_while_it_is_closed_is_as_safe() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&path).await;
    commit(&store, 1..=3).await;
    // What follows cannot be written back while this moment is looked at.
    let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    conn.execute_batch("BEGIN").unwrap();
    conn.query_row("SELECT count(*) FROM meta", [], |_| Ok(())).unwrap();
    commit(&store, 4..=6).await;
    store.close().await;
    let log = fs::read(log_of(&path)).unwrap();
    assert!(log.len() > PAGE, "nothing stands in the log alone");
    let (_dir, copy) = killed(&path);
    head::write_as_before_a_boot(&copy);
    fs::write(log_of(&copy), &log[..log.len() - PAGE / 2]).unwrap();
    refused(&copy, "a log that was cut behind a close");
    fs::write(log_of(&copy), &log).unwrap();
    open(&copy).await;
    drop(conn);
}

#[tokio::test]
async fn commits_that_a_machine_took_along_are_missed_in_the_history_and_their_head_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&path).await;
    commit(&store, 1..=3).await;
    store.close().await;
    let store = open(&path).await;
    commit(&store, 4..=6).await;
    let (_dir, copy) = killed(&path);
    let log = fs::read(log_of(&copy)).unwrap();
    fs::write(log_of(&copy), &log[..log.len() - PAGE / 2]).unwrap();
    // The same machine still runs: nothing explains it.
    refused(&copy, "a log that was cut");

    head::write_as_before_a_boot(&copy);
    let error = StoreReader::open(&copy).unwrap().check().unwrap_err();
    assert!(matches!(error, StoreError::WentDown { had: 6, has: 5, .. }), "{error}");
    let store = open(&copy).await;
    assert_eq!(store.read(|reads| reads.inbox_waiting()).await.unwrap(), 5);
    let said: Vec<_> = history(&store).await.into_iter().map(|row| row.item).collect();
    assert_eq!(said, [HistoryItem::CommitsLost { from: 6, to: 6 }]);
    let evidence = fs::read_to_string(head::lost_path_of(&copy)).unwrap();
    assert!(evidence.contains(&format!("{:020}", 6)), "{evidence}");
    commit(&store, 7..=8).await;
    store.close().await;
    // It is said once.
    let store = open(&copy).await;
    assert_eq!(history(&store).await.len(), 1);
    StoreReader::open(&copy).unwrap().check().unwrap();
    store.close().await;

    // What had been synced does not go with a machine: this one is an older copy.
    let (_dir, copy) = killed(&path);
    head::write_as_before_a_boot(&copy);
    fs::remove_file(log_of(&copy)).unwrap();
    open(&copy).await;
    let (_dir, copy) = killed(&path);
    head::write_as_before_a_boot(&copy);
    fs::remove_file(log_of(&copy)).unwrap();
    fs::write(&copy, "").unwrap();
    refused(&copy, "emptied");
}

#[tokio::test]
async fn store_whose_head_is_damaged_says_what_to_do_about_the_head() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&path).await;
    commit(&store, 1..=3).await;
    store.close().await;
    let head = head::path_of(&path);
    fs::write(&head, "what is this?").unwrap();
    let error = Store::open(&path, fixture::options("a")).unwrap_err();
    assert!(matches!(error, StoreError::HeadUnreadable { .. }), "{error}");
    assert!(StoreReader::open(&path).unwrap().check().is_err());
    fs::remove_file(&head).unwrap();
    let store = open(&path).await;
    assert_eq!(store.read(|reads| reads.inbox_waiting()).await.unwrap(), 3);
    // Whoever is let go only writes its head later.
    store.close().await;
    // Made, and never written before the machine went down.
    fs::write(&head, [0; 200]).unwrap();
    assert_eq!(open(&path).await.read(|reads| reads.inbox_waiting()).await.unwrap(), 3);
}
