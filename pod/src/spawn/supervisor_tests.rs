//! Lives that end, and what follows from that, in a real pod of this process; children are rows that a test fills.

use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::*;
use crate::fixture::{Puppet, SOON, within};
use crate::handle::{PodController, PodOptions};
use crate::id::{Incarnation, WorkId};
use crate::manifest::WorkerSpec;
use crate::protocol::{StopOutcome, StopPod};
use crate::runtime_dir::Roots;
use crate::store::{HistoryItem, NewChild, Own, Restart, RestartWhen, Store, StoreOptions};
use crate::tools::{Caller, stop_pod};

const KILLED: EndOfLife = EndOfLife::Dead(LostReason::Killed { signal: 9 });

fn child(roots: &Roots, name: &str, restart: Restart) -> NewChild {
    let pod = PodId { name: name.parse().unwrap(), incarnation: Incarnation::random() };
    let paths = roots.pod(&pod.name);
    NewChild {
        pod,
        worker: serde_json::to_string(&WorkerSpec::ledger()).unwrap(),
        lifetime: Lifetime::Detached,
        restart,
        restarted: false,
        socket: paths.socket(),
        store: paths.store(),
        runtime_dir: paths.runtime_dir().to_owned(),
        scope: Vec::new(),
    }
}

/// A child of `puppet`, which is a row and no process, and is to be started again whenever it ends.
async fn row_of(puppet: &Puppet, name: &str) -> ChildRow {
    let restart = Restart { when: RestartWhen::Always, max: 3, within_ms: 600_000 };
    let new = child(puppet.pod.roots(), name, restart);
    puppet.pod.roots().pod(&new.pod.name).make_state_dir().unwrap();
    let row = puppet.pod.commit(move |tx| {
        tx.reserve_child(&new)?;
        tx.child(&new.pod)
    });
    row.await.unwrap().unwrap()
}

async fn lives(puppet: &Puppet) -> Vec<ChildRow> {
    puppet.pod.store().read(|reads| reads.children()).await.unwrap()
}

/// Waits for a state that nothing tells of.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A process that has nothing to do with pods.
struct Stranger(std::process::Child);

impl Stranger {
    #[expect(clippy::disallowed_methods, reason = "a test")]
    fn new() -> Self {
        Self(std::process::Command::new("sleep").arg("60").spawn().unwrap())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_is_named_by_a_lock_and_bears_no_mark_of_the_life_is_not_taken_for_it_and_not_signalled() {
    let puppet = Puppet::new().await;
    let row = row_of(&puppet, "c").await;
    let shared = puppet.pod.shared().clone();
    let mut stranger = Stranger::new();
    // Somebody holds the lock, and the word in it is of a dead one whose number is another's by now.
    let path = puppet.pod.roots().pod(&row.pod.name).life_lock();
    let held = LifeLock::acquire(&path, &row.pod).unwrap();
    let word = Holder { pid: Some(stranger.0.id()), pod: Some(row.pod.clone()) };
    std::fs::write(&path, serde_json::to_string(&word).unwrap()).unwrap();
    assert_eq!(life_lock::probe(&path).unwrap(), Life::Held(word));
    let Ok(stop) = shared.registry.add(&row, || Ok::<_, std::convert::Infallible>(None));
    shared.registry.stop(&row.pod, Stop { now: true, grace: Duration::ZERO });
    let following = tokio::spawn(supervise_adopted(shared.clone(), row.clone(), stop));
    let stopping = |registry: &super::super::SpawnedPodRegistry| {
        registry.life(&row.pod).filter(|line| line.phase == ChildPhase::Stopping).map(drop)
    };
    within("its end is under way", shared.registry.until(stopping)).await;
    assert_eq!(shared.registry.sender(stranger.0.id()), None, "it may report as the child");
    // Before it looks again whether the lock is free it signals whom it knows.
    drop(held);
    within("its end", following).await.unwrap();
    assert_eq!(shared.registry.life(&row.pod).unwrap().pid, None, "somebody else's process was taken for it");
    assert!(stranger.0.try_wait().unwrap().is_none(), "somebody else's process was signalled");
}

async fn stop(puppet: &Puppet, name: &str) -> crate::protocol::Stopped {
    let request = StopPod { pod: name.parse().unwrap(), now: false, grace_ms: 1_000 };
    match within("the answer", stop_pod(&Caller::of_pod(&puppet.pod), request)).await.unwrap() {
        StopOutcome::Ended(stopped) => stopped,
        other => panic!("{other:?}"),
    }
}

/// A child that is about to be started again after its first end.
async fn due(puppet: &Puppet) -> ChildRow {
    let row = row_of(puppet, "c").await;
    let registry = &puppet.pod.shared().registry;
    let Ok(_) = registry.add(&row, || Ok::<_, std::convert::Infallible>(None));
    registry.phase(&row.pod, ChildPhase::Ready);
    bury_soon(puppet.pod.shared(), &row, KILLED).await;
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_stopped_while_its_restart_is_being_claimed_has_no_next_life() {
    let puppet = Puppet::new().await;
    let shared = puppet.pod.shared();
    // Whoever claims waits for whoever is in the middle of a transaction.
    let registry = Connection::open(puppet.pod.roots().registry()).unwrap();
    registry.execute_batch("BEGIN IMMEDIATE").unwrap();
    due(&puppet).await;
    until("it is being started again", async || shared.spawning.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    let stopped = stop(&puppet, "c").await;
    assert!(stopped.already && stopped.was_due, "{stopped:?}");
    registry.execute_batch("COMMIT").unwrap();
    until("the start has come to its end", async || shared.spawning.load(std::sync::atomic::Ordering::SeqCst) == 0)
        .await;
    assert_eq!(lives(&puppet).await.len(), 1, "it was started again after it was stopped");
    assert!(!stop(&puppet, "c").await.was_due);
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_stopped_in_the_pause_before_its_next_life_stays_ended() {
    let puppet = Puppet::new().await;
    let row = due(&puppet).await;
    let stopped = stop(&puppet, "c").await;
    assert!(stopped.already && stopped.was_due, "{stopped:?}");
    // However long the pause was.
    again(puppet.pod.shared().clone(), row, Duration::ZERO).await;
    assert_eq!(lives(&puppet).await.len(), 1, "it was started again after it was stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn child_that_is_stopped_between_the_reservation_of_its_next_life_and_its_process_is_ended_with_that() {
    for by_name in [true, false] {
        let puppet = Puppet::new().await;
        let first = row_of(&puppet, "c").await;
        // Whoever opens it to write waits for somebody who reads.
        let log = puppet.pod.roots().pod(&first.pod.name).stderr();
        mkfifo(&log);
        let shared = puppet.pod.shared().clone();
        let Ok(_) = shared.registry.add(&first, || Ok::<_, std::convert::Infallible>(None));
        shared.registry.phase(&first.pod, ChildPhase::Ready);
        bury_soon(&shared, &first, KILLED).await;
        until("its next life is reserved", async || lives(&puppet).await.len() == 2).await;
        let next = lives(&puppet).await.remove(1).pod;
        let child = super::super::Child { handle: puppet.pod.clone(), pod: first.pod.clone() };
        let pod = puppet.pod.clone();
        let stopping = tokio::spawn(async move {
            if by_name {
                let request = StopPod { pod: "c".parse().unwrap(), now: false, grace_ms: 1_000 };
                let outcome = stop_pod(&Caller::of_pod(&pod), request).await.unwrap();
                assert!(matches!(outcome, StopOutcome::Ended(_)), "{outcome:?}");
            } else {
                child.stop(Duration::from_secs(1)).await.unwrap();
            }
        });
        until("it is told before it is there", async || shared.registry.is_to_be_stopped(&next)).await;
        let open = read_without_waiting(&log);
        within("the stop", stopping).await.unwrap();
        let rows = lives(&puppet).await;
        assert!(rows.len() == 2 && rows.iter().all(|row| row.state == ChildState::Ended), "{rows:?}");
        assert!(puppet.pod.store().read(|reads| reads.restarts_due()).await.unwrap().is_empty(), "one more is due");
        assert!(!shared.registry.is_to_be_stopped(&next));
        drop(open);
    }
}

fn read_without_waiting(path: &Path) -> std::fs::File {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).unwrap();
    // Whoever quotes the log finds none, and does not wait for one.
    std::fs::remove_file(path).unwrap();
    file
}

#[expect(clippy::disallowed_methods, reason = "a test")]
fn mkfifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn detached_child_that_is_being_started_again_when_its_parent_stops_is_left_to_its_next_life() {
    let puppet = Puppet::new().await;
    let first = row_of(&puppet, "c").await;
    let log = puppet.pod.roots().pod(&first.pod.name).stderr();
    mkfifo(&log);
    let shared = puppet.pod.shared().clone();
    let Ok(_) = shared.registry.add(&first, || Ok::<_, std::convert::Infallible>(None));
    shared.registry.phase(&first.pod, ChildPhase::Ready);
    bury_soon(&shared, &first, KILLED).await;
    until("its next life is reserved", async || lives(&puppet).await.len() == 2).await;
    shared.phase.send_replace(PodState::Stopping);
    let _open = read_without_waiting(&log);
    until("that is over", async || lives(&puppet).await[1].state == ChildState::Ended).await;
    let due = puppet.pod.store().read(|reads| reads.restarts_due()).await.unwrap();
    assert_eq!(due.into_iter().map(|(dead, _)| dead).collect::<Vec<_>>(), [lives(&puppet).await[1].pod.clone()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn child_whose_next_life_has_begun_before_it_is_stopped_is_ended_with_that() {
    let puppet = Puppet::new().await;
    let first = due(&puppet).await;
    let handle = super::super::Child { handle: puppet.pod.clone(), pod: first.pod.clone() };
    // Children are started from `/bin/false`: each is started again, for a while.
    until("it has begun again", async || lives(&puppet).await.len() > 1).await;
    within("the stop", handle.stop(Duration::from_secs(1))).await.unwrap();
    let rows = lives(&puppet).await;
    assert!(rows.iter().all(|row| row.terminal.is_some()), "{rows:?}");
    assert!(puppet.pod.store().read(|reads| reads.restarts_due()).await.unwrap().is_empty(), "one more is due");
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_whose_process_cannot_be_started_is_one_of_those_that_are_counted_and_the_next_follows() {
    let puppet = Puppet::with(TempDir::new().unwrap(), true, false, Path::new("/nowhere/at/all")).await;
    let first = due(&puppet).await;
    let rows = || puppet.pod.store().read(|reads| reads.history_after(0, 1000));
    let exhausted = async || {
        let is_one = |row: &crate::store::HistoryRow| matches!(row.item, HistoryItem::RestartsExhausted { .. });
        rows().await.unwrap().iter().filter(|row| is_one(row)).count()
    };
    until("it stays ended", async || exhausted().await == 1).await;
    let lives = lives(&puppet).await;
    assert_eq!(lives.len(), 1 + usize::try_from(first.restart.max).unwrap(), "{lives:?}");
    let never = |row: &&ChildRow| matches!(row.terminal, Some(Terminal::NeverStarted { .. }));
    assert_eq!(lives.iter().filter(never).count(), lives.len() - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_that_is_impossible_is_given_up_and_its_parents_agent_is_told_why() {
    let puppet = Puppet::new().await;
    let row = due(&puppet).await;
    stays_ended(puppet.pod.shared(), &row, "its worker is unknown".into()).await;
    stays_ended(puppet.pod.shared(), &row, "once more".into()).await;
    let told = puppet.pod.store().read(|reads| reads.history_after(0, 1000)).await.unwrap();
    let untold = puppet.pod.store().read(|reads| reads.inbox_untold()).await.unwrap();
    let says = |text: &str| text.contains("its worker is unknown") && !text.contains("once more");
    let notes = untold.iter().filter(|item| says(item.text())).count()
        + told.iter().filter(|row| matches!(&row.item, HistoryItem::SystemItem(item) if says(item.text()))).count();
    assert!(notes >= 1, "{untold:?}");
    assert!(!told.iter().any(|row| matches!(row.item, HistoryItem::RestartsExhausted { .. })));
    assert_eq!(lives(&puppet).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_are_counted_within_the_time_of_the_policy_alone() {
    let puppet = Puppet::new().await;
    let restart = Restart { when: RestartWhen::Always, max: 2, within_ms: 60_000 };
    let ended_at = async |name: &'static str, ages_ms: [u64; 3]| {
        let lives = ages_ms.map(|age| (age, NewChild { restarted: true, ..child(puppet.pod.roots(), name, restart) }));
        let ended = puppet.pod.store().write(move |tx| {
            let mut last = None;
            for (age, new) in lives {
                tx.reserve_child(&new)?;
                tx.backdate_child(&new.pod, age)?;
                let row = tx.child(&new.pod)?;
                tx.end_life(row.as_ref().expect("it was reserved"))?;
                last = row;
            }
            Ok(last)
        });
        ended.await.unwrap().unwrap()
    };
    let next = async |row: ChildRow| {
        let shared = puppet.pod.shared().clone();
        let follow = move |tx: &Tx<'_>| what_follows(tx, &shared, &row, &Terminal::ShutDown);
        puppet.pod.store().write(follow).await.unwrap()
    };
    let old = ended_at("old", [200_000, 100_000, 1_000]).await;
    assert!(matches!(next(old).await, Next::Again(..)), "two of its three restarts were long ago");
    let new = ended_at("new", [50_000, 20_000, 1_000]).await;
    assert!(matches!(next(new).await, Next::TooOften));
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_cannot_be_started_nor_be_ended_at_once_is_ended_as_soon_as_that_can_be() {
    let roots = TempDir::new().unwrap();
    let puppet = Puppet::with(roots, true, false, Path::new("/nowhere/at/all")).await;
    // What a newer program has left there is to be read before the end is told.
    let name: crate::id::PodName = "c".parse().unwrap();
    let paths = puppet.pod.roots().pod(&name);
    paths.make_state_dir().unwrap();
    let own = Own { pod: PodId::new(name.clone(), Incarnation(9)), has_parent: true, reads_reports: true };
    let options = StoreOptions::new(own).owned_by(crate::store::Owner::Parent("puppet".parse().unwrap()));
    Store::open(paths.store(), options).unwrap().close().await;
    let theirs = Connection::open(paths.store()).unwrap();
    let version: i64 = theirs.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    crate::store::fixture::make_newer(&theirs);
    let spawn = || puppet.pod.spawn_pod(SpawnPod::new(name.clone(), WorkerSpec::ledger()));
    let refused = within("the answer", spawn()).await.unwrap_err();
    assert!(matches!(refused, SpawnError::Process { .. }), "{refused}");
    assert_eq!(lives(&puppet).await[0].state, ChildState::Reserved);
    theirs.execute_batch(&format!("DELETE FROM sums WHERE what = 'version'; PRAGMA user_version = {version}")).unwrap();
    drop(theirs);
    until("its end is told", async || lives(&puppet).await[0].state == ChildState::Ended).await;
    let row = lives(&puppet).await.remove(0);
    assert!(matches!(row.terminal, Some(Terminal::NeverStarted { .. })), "{row:?}");
    let again = within("the answer", spawn()).await.unwrap_err();
    assert!(matches!(again, SpawnError::Process { .. }), "its name is taken: {again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_never_gets_ready_is_ended_with_what_it_said_and_leaves_its_name_free() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("hangs");
    std::fs::write(&program, "#!/bin/sh\necho waiting for a licence >&2\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let puppet = Puppet::with(TempDir::new().unwrap(), true, false, &program).await;
    let mut spent = Vec::new();
    for life in 1..=2 {
        let spawn = SpawnPod::new("c".parse().unwrap(), WorkerSpec::ledger());
        let refused = within("the answer", puppet.pod.spawn_pod(spawn)).await.unwrap_err();
        assert!(matches!(refused, SpawnError::NotReady { .. }), "life {life}: {refused}");
        for words in ["pod `c` was not ready", "waiting for a licence", "stderr.log"] {
            assert!(refused.to_string().contains(words), "`{words}` is not in: {refused}");
        }
        until("its end is told", async || lives(&puppet).await.iter().all(|row| row.state == ChildState::Ended)).await;
        let rows = lives(&puppet).await;
        assert_eq!(rows.len(), life, "{rows:?}");
        let lost = |row: &ChildRow| matches!(row.terminal, Some(Terminal::Lost { reason: LostReason::Killed { .. } }));
        assert!(rows.iter().all(lost), "{rows:?}");
        spent.extend(rows.last().and_then(|row| row.pid));
    }
    for pid in spent {
        let mark = life_of(pid.cast_signed(), puppet.pod.roots());
        assert!(mark.is_none(), "process {pid} lives on");
    }
    let history = puppet.pod.store().read(|reads| reads.history_after(0, 1000)).await.unwrap();
    let terminals = history.iter().filter(|row| matches!(row.item, HistoryItem::ChildTerminal { .. })).count();
    assert_eq!(terminals, 2, "one a life");
    assert_eq!(puppet.pod.shared().registry.living(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn life_that_fails_to_begin_leaves_nobody_at_work_and_the_next_one_begins() {
    let dir = TempDir::new().unwrap();
    let roots = Roots::at(&dir.path().join("pods")).unwrap();
    let start = || {
        let options = PodOptions::new("r".parse().unwrap(), WorkerSpec::ledger());
        PodController::spawn(options.roots(roots.clone()).program("/bin/false"))
    };
    let pod = start().await.unwrap();
    let new = child(&roots, "c", Restart::default());
    let life = new.pod.clone();
    let given = pod.commit(move |tx| {
        tx.reserve_child(&new)?;
        tx.delegate(WorkId(7), &new.pod, None, "something")
    });
    given.await.unwrap();
    within("the end", pod.shutdown()).await;
    let store = roots.pod(&"r".parse().unwrap()).store();
    let set = |incarnation: &str| {
        let file = Connection::open(&store).unwrap();
        let sql = format!("UPDATE works SET incarnation = '{incarnation}'");
        crate::store::fixture::behind_the_back(&file, "works", &sql);
    };
    set("no incarnation");
    let paths = roots.pod(&life.name);
    paths.make_state_dir().unwrap();
    // It lives, as far as anybody can tell, and is followed.
    let held = LifeLock::acquire(&paths.life_lock(), &life).unwrap();
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let failed = within("the answer", start()).await.unwrap_err();
    assert!(matches!(failed, crate::handle::StartError::Store { .. }), "{failed}");
    until("nobody is at work", async || tasks() <= before).await;
    set(&life.incarnation.to_string());
    let mut pod = Err(failed);
    // What another test has just forked may hold the lock until its `exec`.
    let since = std::time::Instant::now();
    while pod.is_err() && since.elapsed() < SOON {
        pod = start().await;
    }
    let pod = pod.unwrap();
    drop(held);
    let ended = |lines: &[super::super::ChildStatus]| lines.iter().find_map(|line| line.terminal.clone());
    let terminal = within("the end of the child", pod.children_until(ended)).await;
    assert_eq!(terminal, Terminal::Lost { reason: LostReason::Unobserved });
    within("the end", pod.shutdown()).await;
    let reader = crate::store::StoreReader::open(&store).unwrap();
    let history = reader.look(|reads| reads.history_after(0, 1000)).unwrap();
    let terminals = history.iter().filter(|row| matches!(row.item, HistoryItem::ChildTerminal { .. })).count();
    assert_eq!(terminals, 1);
}
