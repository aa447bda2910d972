//! A disk without space, at every write in turn: a small file system of its own, filled up to a few pages.
//!
//! The tests start their own binary again in a mount namespace; where that is not allowed, they fail, unless
//! `POD_TEST_NO_MOUNTS` says that nothing can be known here of full disks.
#![allow(clippy::print_stdout, reason = "figures, and what was left out, are printed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::event::receive_event;
use crate::fixture::{Act, Puppet, Said, within};
use crate::id::{Seq, StreamId, TurnId, WorkId};
use crate::protocol::{Disposition, EventRejection, Method, PodEventOffer, PodState, Run, Status, TurnResult};
use crate::spawn::WorkEnd;
use crate::store::fixture::{self, new_child, pod, turn_ended};
use crate::store::{HistoryItem, TurnCause};
use crate::worker::TurnEnd;

const MOUNTED: &str = "POD_TEST_SMALL_DISK";
/// Set by whoever knows that this machine allows no mount namespaces.
const NO_MOUNTS: &str = "POD_TEST_NO_MOUNTS";
const BYTES: u64 = 4 << 20;

/// A small file system. What takes its space is `ballast`.
struct Disk(PathBuf);

/// Runs `test` once more with a small file system of its own. There is one only in that second run.
#[expect(clippy::disallowed_methods, reason = "the test starts itself again, with a file system of its own")]
fn small_disk(test: &str) -> Option<Disk> {
    if let Ok(dir) = std::env::var(MOUNTED) {
        return Some(Disk(dir.into()));
    }
    let dir = TempDir::new().unwrap();
    let script =
        format!("mount -t tmpfs -o size={BYTES} none \"$1\" || exit 99; \"$2\" --exact \"$3\" --nocapture; exit $?");
    let run = Command::new("unshare")
        // With processes of its own: those outside cannot be looked at from in there, and so might be anybody's.
        .args(["-rmpf", "--mount-proc", "sh", "-c", &script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(MOUNTED, dir.path())
        .output();
    match run {
        Ok(run) if run.status.success() => {
            let said = String::from_utf8_lossy(&run.stdout).into_owned();
            assert!(said.contains("1 passed"), "the test did not run: {said}");
            println!("{said}");
        }
        // 1: `unshare` itself was refused; 99: the mount was; a test that fails says 101.
        Ok(run) if matches!(run.status.code(), Some(1 | 99)) => {
            let why = String::from_utf8_lossy(&run.stderr).into_owned();
            skip(&format!("no mount namespace here: {why}"));
        }
        Ok(run) => panic!("{}\n{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr)),
        Err(error) => skip(&format!("no `unshare` here: {error}")),
    }
    None
}

/// A test that was left out is no test that has passed.
#[track_caller]
fn skip(why: &str) {
    let said = std::env::var_os(NO_MOUNTS).is_some();
    assert!(said, "nothing is known of full disks, {why}\nset {NO_MOUNTS}=1 if this machine allows no mounts");
    println!("SKIPPED, as {NO_MOUNTS} says: nothing is known of full disks, {why}");
}

impl Disk {
    fn free(&self) -> u64 {
        let free = rustix::fs::statvfs(&self.0).unwrap();
        free.f_bavail * free.f_bsize
    }

    /// Waits until what was removed is no longer open anywhere, and so has given its space back.
    fn wait_for(&self, free: u64) {
        while self.free() < free {
            std::thread::yield_now();
        }
    }

    /// Leaves so many bytes.
    fn leave(&self, bytes: u64) {
        let taken = self.free().saturating_sub(bytes);
        fs::write(self.0.join("ballast"), vec![1; usize::try_from(taken).unwrap()]).unwrap();
    }

    fn release(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

/// What one run through a store's life met.
#[derive(Default)]
struct Met {
    full: u32,
}

impl Met {
    fn is_full(&mut self, disk: &Disk, text: &str) {
        assert!(text.contains("the disk is full"), "{text}");
        self.full += 1;
        assert_eq!(self.full, 1, "full again, with all the space there is: {text}");
        disk.release();
    }
}

const EVENTS: u64 = 3;

/// A store is made, told of a child and its events, and opened again, with `bytes` to spare. Whether they were enough.
async fn live_with(disk: &Disk, bytes: u64, checkpoints: bool) -> bool {
    let dir = TempDir::new_in(&disk.0).unwrap();
    let path = dir.path().join("store.db");
    let mut met = Met::default();
    disk.leave(bytes);
    let store = match Store::open(&path, fixture::options("a")) {
        Ok(store) => store,
        Err(error) => {
            met.is_full(disk, &error.chain());
            Store::open(&path, fixture::options("a")).unwrap()
        }
    };
    if checkpoints {
        // Every commit is written back to the file at once, which grows then.
        let often = |tx: &Tx<'_>| Ok(tx.conn.query_row("PRAGMA wal_autocheckpoint = 1", [], |_| Ok(()))?);
        store.write(often).await.unwrap();
    }
    let child = pod("b", 1);
    let reserve = |tx: &Tx<'_>| tx.reserve_child(&new_child(&pod("b", 1)));
    if let Err(error) = store.write(reserve).await {
        met.is_full(disk, &error.chain());
        store.write(reserve).await.unwrap();
    }
    for seq in 1..=EVENTS {
        let event = turn_ended(&child, WorkId(seq));
        let offer = PodEventOffer { from: child.clone(), stream: StreamId(5), seq: Seq(seq), event };
        let applied = match receive_event(&store, &child, offer.clone()).await {
            Ok(applied) => applied,
            Err(EventRejection::Unavailable { reason }) => {
                // Refused, and nothing of it is there; what was committed before is, and can be read.
                let seen =
                    store.read(|reads| Ok((reads.watermark(StreamId(5))?, reads.inbox_waiting()?))).await.unwrap();
                assert_eq!(seen, (Seq(seq - 1), seq - 1));
                met.is_full(disk, reason.as_str());
                receive_event(&store, &child, offer.clone()).await.unwrap()
            }
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!((applied.disposition, applied.durable_seq), (Disposition::Applied, Seq(seq)));
        let again = receive_event(&store, &child, offer).await;
        match again {
            Ok(again) => assert_eq!(again.disposition, Disposition::Duplicate),
            Err(EventRejection::Unavailable { reason }) => met.is_full(disk, reason.as_str()),
            Err(other) => panic!("{other:?}"),
        }
    }
    store.close().await;
    drop(store);
    let store = match Store::open(&path, fixture::options("a")) {
        Ok(store) => store,
        Err(error) => {
            met.is_full(disk, &error.chain());
            Store::open(&path, fixture::options("a")).unwrap()
        }
    };
    if met.full == 0 {
        disk.release();
    }
    let staged = store.write(|tx| tx.stage_reports(TurnId(1), 100)).await.unwrap();
    assert_eq!(staged.len() as u64, EVENTS, "acked and lost, or applied twice");
    store.close().await;
    met.full == 0
}

#[test]
fn full_disk_at_any_write_is_said_and_costs_nothing_that_was_acked() {
    let Some(disk) = small_disk("store::thread::full::full_disk_at_any_write_is_said_and_costs_nothing_that_was_acked")
    else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let empty = disk.free();
    for checkpoints in [false, true] {
        let mut pages = 0;
        while !{
            disk.wait_for(empty);
            runtime.block_on(live_with(&disk, pages * 4096, checkpoints))
        } {
            pages += 1;
            assert!(pages * 4096 < BYTES / 2, "never enough");
        }
        println!("written back at once: {checkpoints}; each of 0 to {pages} free pages was too few at another write");
        assert!(pages > 40, "the disk was never full");
    }
}

#[test]
fn pod_on_a_full_disk_answers_goes_on_when_there_is_space_and_can_be_stopped() {
    let Some(disk) =
        small_disk("store::thread::full::pod_on_a_full_disk_answers_goes_on_when_there_is_space_and_can_be_stopped")
    else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut puppet = Puppet::at(TempDir::new_in(&disk.0).unwrap(), true, false).await;
        let work = puppet.pod.run("do it").await.unwrap();
        puppet.expect(Said::Started(TurnCause::Run)).await;
        let note = |tx: &Tx<'_>| tx.push_note(crate::id::NoteKey(1), "look", crate::store::Origin::Host, false);
        puppet.pod.commit(note).await.unwrap();
        disk.leave(0);
        // The worker's own commit fails, and with it the turn; its end cannot be committed either.
        let client = rpc::Client::<Method>::new(&puppet.pod.address());
        let refused = client.call(Run { work: WorkId(7), input: "x".into() }).await;
        assert!(refused.is_err(), "{refused:?}");
        puppet.act(Act::Request).await;
        for _ in 0..3 {
            let status = within("an answer", client.call(Status)).await.unwrap();
            assert_eq!(status.state, PodState::Running, "it is not said to be over before that is committed");
        }
        disk.release();
        let end = within("the end of the turn", work.ended()).await;
        let WorkEnd::Errored { message } = &end else { panic!("{end:?}") };
        assert!(message.contains("the disk is full"), "{message}");
        puppet.state(PodState::Idle).await;

        // And once more; now it is to stop, and cannot commit what it should.
        let _work = puppet.pod.run("again").await.unwrap();
        puppet.expect(Said::Started(TurnCause::Run)).await;
        disk.leave(0);
        puppet.pod.request_stop(crate::protocol::ShutdownMode::Now);
        puppet.act(Act::End(TurnEnd::Cancelled)).await;
        within("the end of the pod, although its disk is full", puppet.pod.wait()).await;
        disk.release();
        let puppet = puppet.again(true).await;
        let rows = puppet.pod.store().read(|reads| reads.history_after(0, 1000)).await.unwrap();
        let ends: Vec<_> = rows
            .iter()
            .filter_map(|row| match &row.item {
                HistoryItem::TurnEnded { outcome } => Some(outcome.clone()),
                _ => None,
            })
            .collect();
        let ended = |result| crate::store::TurnOutcome::Ended { result };
        assert_eq!(ends.len(), 2, "{ends:?}");
        assert_eq!(ends[1], ended(TurnResult::Interrupted));
    });
}

#[test]
fn sentence_about_a_full_disk_says_what_to_do() {
    let error = StoreError::io("open", Path::new("x"), std::io::ErrorKind::StorageFull.into());
    assert!(error.to_string().contains("free some space"), "{error}");
}
