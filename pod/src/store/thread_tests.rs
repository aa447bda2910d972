use std::sync::mpsc as std_mpsc;

use super::*;
use crate::protocol::PodEvent;
use crate::store::fixture::{self, pod};
use crate::store::{Durability, HistoryItem, OutputKind, Room, StoreReader};

struct Opened {
    store: Store,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn opened(change: impl FnOnce(&mut StoreOptions)) -> Opened {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let mut options = fixture::options("a");
    change(&mut options);
    Opened { store: Store::open(&path, options).unwrap(), path, _dir: dir }
}

fn output(text: impl Into<String>) -> HistoryItem {
    HistoryItem::Output { output: OutputKind::Text, text: text.into() }
}

/// Keeps the writer busy until the returned sender is dropped.
fn hold(store: &Store) -> (std_mpsc::Sender<()>, Submitted<()>) {
    let (release, held) = std_mpsc::channel::<()>();
    let (started, start) = std_mpsc::channel();
    let job = store
        .submit(move |_| {
            let _ = started.send(());
            let _ = held.recv();
            Ok(())
        })
        .unwrap();
    start.recv().unwrap();
    (release, job)
}

#[tokio::test]
async fn submitted_transactions_run_in_their_order_and_in_one_commit() {
    let opened = opened(|_| {});
    let (release, first) = hold(&opened.store);
    let rest: Vec<_> = (0..200)
        .map(|n| opened.store.submit(move |tx| tx.append(None, None, &output(n.to_string()))).unwrap())
        .collect();
    assert_eq!(*opened.store.history_head().borrow(), 0);
    drop(release);
    first.await.unwrap();
    // Answered after the commit, which was one for all: the first answer finds the last entry committed.
    let head = opened.store.read(|reads| reads.history_head()).await.unwrap();
    assert_eq!(head, 200);
    for (n, submitted) in (1..).zip(rest) {
        assert_eq!(submitted.await.unwrap(), n);
    }
}

#[tokio::test]
async fn transaction_that_fails_takes_back_its_own_and_nothing_else() {
    let opened = opened(|_| {});
    let (release, held) = hold(&opened.store);
    let before = opened.store.submit(|tx| tx.append(None, None, &output("before"))).unwrap();
    let failing = opened
        .store
        .submit(|tx| {
            tx.append(None, None, &output("lost"))?;
            Err::<(), _>(StoreError::Contradiction("no".to_owned()))
        })
        .unwrap();
    let panicking: Submitted<()> = opened
        .store
        .submit(|tx| {
            tx.append(None, None, &output("lost too"))?;
            panic!("on purpose");
        })
        .unwrap();
    let after = opened.store.submit(|tx| tx.append(None, None, &output("after"))).unwrap();
    drop(release);
    held.await.unwrap();
    before.await.unwrap();
    assert!(matches!(failing.await, Err(StoreError::Contradiction(_))));
    assert!(matches!(panicking.await, Err(StoreError::Panicked(text)) if text == "on purpose"));
    after.await.unwrap();
    let rows = opened.store.read(|reads| reads.history_after(0, 10)).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.item.clone()).collect::<Vec<_>>(), [output("before"), output("after")]);
}

#[tokio::test]
async fn what_is_not_committed_is_seen_by_nobody() {
    let opened = opened(|_| {});
    let (release, held) = std_mpsc::channel::<()>();
    let (wrote, written) = tokio::sync::oneshot::channel();
    let submitted = opened
        .store
        .submit(move |tx| {
            tx.append(None, None, &output("x"))?;
            let _ = wrote.send(());
            let _ = held.recv();
            Ok(())
        })
        .unwrap();
    written.await.unwrap();
    assert_eq!(opened.store.read(|reads| reads.history_head()).await.unwrap(), 0);
    assert_eq!(*opened.store.history_head().borrow(), 0);
    drop(release);
    submitted.await.unwrap();
    assert_eq!(opened.store.read(|reads| reads.history_head()).await.unwrap(), 1);
    assert_eq!(*opened.store.history_head().borrow(), 1);
}

#[tokio::test]
async fn heads_tell_of_commits_to_history_and_outbox() {
    let opened = opened(|_| {});
    let (mut history, mut outbox) = (opened.store.history_head(), opened.store.outbox_head());
    let event = PodEvent::ShutDown { pod: pod("a", 1) };
    opened.store.write(move |tx| tx.raise(&event, Room::Ordinary)).await.unwrap();
    outbox.changed().await.unwrap();
    assert_eq!((*outbox.borrow_and_update(), history.has_changed().unwrap()), (Seq(1), false));
    opened.store.write(|tx| tx.append(None, None, &output("x"))).await.unwrap();
    history.changed().await.unwrap();
    assert_eq!((*history.borrow_and_update(), outbox.has_changed().unwrap()), (1, false));
}

#[tokio::test]
async fn full_queue_refuses_what_is_not_awaited_and_lets_the_rest_wait() {
    let opened = opened(|options| options.limits.queue = 2);
    let (release, held) = hold(&opened.store);
    let waiting: Vec<_> = (0..2).map(|_| opened.store.submit(|_| Ok(())).unwrap()).collect();
    assert!(matches!(opened.store.submit(|_| Ok(())), Err(StoreError::Overloaded { max: 2 })));
    let store = opened.store.clone();
    let patient = tokio::spawn(async move { store.write(|tx| tx.append(None, None, &output("x"))).await });
    tokio::task::yield_now().await;
    drop(release);
    held.await.unwrap();
    for submitted in waiting {
        submitted.await.unwrap();
    }
    assert_eq!(patient.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn closed_store_has_committed_what_it_took_and_takes_no_more() {
    let opened = opened(|_| {});
    let submitted = opened.store.submit(|tx| tx.append(None, None, &output("x"))).unwrap();
    opened.store.close().await;
    submitted.await.unwrap();
    assert!(matches!(opened.store.write(|_| Ok(())).await, Err(StoreError::Closed)));
    assert!(matches!(opened.store.read(|_| Ok(())).await, Err(StoreError::Closed)));
    let reader = StoreReader::open(&opened.path).unwrap();
    assert_eq!(reader.look(|reads| reads.history_head()).unwrap(), 1);
}

#[tokio::test]
async fn full_disk_is_told_to_all_whose_commit_it_was_and_what_was_committed_stays() {
    let opened = opened(|_| {});
    opened.store.write(|tx| tx.append(None, None, &output("kept"))).await.unwrap();
    let full = |tx: &Tx<'_>| {
        let pages: i64 = tx.conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        tx.conn.pragma_update(None, "max_page_count", pages + 2)?;
        Ok(())
    };
    opened.store.write(full).await.unwrap();
    let (release, held) = hold(&opened.store);
    let small = opened.store.submit(|tx| tx.append(None, None, &output("small"))).unwrap();
    let large = opened.store.submit(|tx| tx.append(None, None, &output("x".repeat(200_000)))).unwrap();
    drop(release);
    let (held, small, large) = (held.await, small.await, large.await);
    assert!(matches!(large, Err(StoreError::DiskFull)), "{large:?}");
    // Told the truth, whichever it is: committed, or not.
    let rows = opened.store.read(|reads| reads.history_after(0, 10)).await.unwrap();
    assert_eq!(rows.len(), if small.is_ok() { 2 } else { 1 }, "{held:?} {small:?}");
    assert_eq!(rows[0].item, output("kept"));
    let more_room = |tx: &Tx<'_>| Ok(tx.conn.pragma_update(None, "max_page_count", 1_000_000)?);
    opened.store.write(more_room).await.unwrap();
    opened.store.write(|tx| tx.append(None, None, &output("again"))).await.unwrap();
}

#[tokio::test]
async fn durability_decides_how_far_a_commit_goes() {
    for (durability, synchronous) in [(Durability::Process, 1), (Durability::Power, 2)] {
        let opened = opened(|options| options.durability = durability);
        let found: i64 = opened
            .store
            .write(|tx| Ok(tx.conn.pragma_query_value(None, "synchronous", |row| row.get(0))?))
            .await
            .unwrap();
        assert_eq!(found, synchronous, "{durability:?}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test starts itself again, to be killed")]
fn store_killed_with_a_transaction_open_has_what_was_committed_and_no_more() {
    // This test's own binary, started again, is the process that is killed.
    if let Ok(path) = std::env::var("POD_TEST_KILLED_STORE") {
        let store = Store::open(path, fixture::options("a")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            store.write(|tx| tx.append(None, None, &output("committed"))).await.unwrap();
            let _ = store
                .write(|tx| {
                    tx.append(None, None, &output("not committed"))?;
                    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                    Ok(())
                })
                .await;
        });
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let output_of_child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::thread::tests::store_killed_with_a_transaction_open_has_what_was_committed_and_no_more",
        ])
        .env("POD_TEST_KILLED_STORE", &path)
        .output()
        .unwrap();
    assert!(!output_of_child.status.success());
    let looked = |reads: &Reads<'_>| reads.history_after(0, 10);
    let rows = StoreReader::open(&path).unwrap().look(looked).unwrap();
    assert_eq!(rows.iter().map(|row| row.item.clone()).collect::<Vec<_>>(), [output("committed")]);
    Store::open(&path, fixture::options("a")).unwrap();
}
