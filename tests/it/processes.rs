//! Processes: what becomes of a child whose parent dies, and what a child may leave behind.

use std::time::Duration;

use pod::protocol::{Shutdown, ShutdownMode, Status};
use pod::store::HistoryItem;
use pod::{
    ChildPhase, LostReason, Restart, RestartWhen, SpawnPod, Terminal, TurnResult, WorkEnd, WorkResult, WorkerSpec,
};
use rustix::process::{Pid, Signal, kill_process};
use tests::world::{Ask, HostProcess, InTime as _, World, until};

use crate::world;

#[tokio::test(flavor = "multi_thread")]
async fn child_whose_parent_dies_before_its_go_ends_in_good_order_and_is_not_lost() {
    let world = world();
    let mut boss = HostProcess::start(&world, "boss", Some("parent_after_ready_before_go")).await.unwrap();
    let spawn = Ask::Spawn { name: "a".parse().unwrap(), worker: WorkerSpec::command("true") };
    boss.ask(spawn).await.expect_err("it dies before its child may begin");
    boss.wait().await;
    world.deserted().await;
    assert_eq!(world.counts("a").outbox_pending, 1, "its last word is not kept");
    let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
    world.at_rest("boss").await;
    let history = world.history("boss");
    assert_eq!((history.terminals("a"), history.losses("a")), (vec![Terminal::ShutDown], vec![]));
    history.assert_every_event_once_and_in_order();
    again.ask(Ask::Shutdown).await.unwrap();
    assert!(again.wait().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_child_prints_is_kept_within_bounds_while_it_runs_and_over_its_lives() {
    const MIB: u64 = 1 << 20;
    let world = world();
    let boss = world.boss().await;
    let length = |name: &str| std::fs::metadata(world.root().join("state/a").join(name)).map_or(0, |file| file.len());
    for life in 1..=2 {
        let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::of_kind("chatter"))).await.unwrap();
        let said = std::fs::read_to_string(world.root().join("state/a/stderr.log")).unwrap();
        assert_eq!(said.matches(&format!("incarnation {}", child.id().incarnation)).count(), 1, "{said}");
        let work = child.run("3000").await.unwrap();
        assert_eq!(work.settled().in_time().await, WorkResult::Finished);
        until("what is too much is given up", || {
            (length("stderr.log") <= MIB && (1..=MIB).contains(&length("stderr.log.1"))).then_some(())
        })
        .await;
        // It prints into the new file.
        let before = length("stderr.log");
        assert_eq!(child.run("1").await.unwrap().settled().in_time().await, WorkResult::Finished);
        assert_eq!(length("stderr.log"), before + 1024, "life {life}");
        child.stop(std::time::Duration::from_secs(20)).in_time().await.unwrap();
    }
    boss.shutdown().in_time().await;
    assert_eq!(
        std::fs::read_dir(world.root().join("state/a"))
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("stderr") })
            .count(),
        2
    );
}

const UNOBSERVED: Terminal = Terminal::Lost { reason: LostReason::Unobserved };

/// A boss in a process of its own with the detached child `a`, whose work ends when the file `go` is there.
async fn with_detached_child(world: &World) -> (HostProcess, u32, pod::WorkId) {
    let mut boss = HostProcess::start(world, "boss", None).await.unwrap();
    let pid = boss.spawn_detached("a", WorkerSpec::command(World::waits_for("go"))).await;
    let work = boss.run("a", "wait").await.unwrap();
    until("its program runs", || (world.processes().len() >= 3).then_some(())).await;
    (boss, pid, work)
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_child_outlives_its_parent_and_reports_to_its_next_life_once_and_in_order() {
    let world = world();
    let (boss, pid, work) = with_detached_child(&world).await;
    boss.kill().await;
    world.touch("go");
    until("it has something to tell", || (world.counts("a").outbox_pending == 2).then_some(())).await;
    assert!(world.processes().contains(&pid), "it has ended with its parent");
    let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
    world.at_rest_with("boss", 1).await;
    let history = world.history("boss");
    assert_eq!(history.ends_of(work), [WorkEnd::TurnEnded(TurnResult::Finished)]);
    assert_eq!(history.settled(work), [WorkResult::Finished]);
    assert_eq!((history.terminals("a"), history.losses("a")), (vec![], vec![]));
    // It works for the new life, and knows whose child it is.
    until("it knows its parent", || (world.counts("a").outbox_pending == 0).then_some(())).await;
    let second = again.run("a", "once more").await.unwrap();
    assert_eq!(again.ask(Ask::Ended { work: second }).await.unwrap(), "TurnEnded(Finished)");
    let boss = world.client("boss").call(Status).await.unwrap();
    let ready = until("it has found its parent", || {
        let rows = world.look("boss", |reads| reads.children());
        (rows[0].pid == Some(pid)).then_some(())
    });
    ready.await;
    let mut known = world.client("a").call(Status).await.unwrap();
    while known.parent.as_ref() != Some(&boss.pod) {
        tokio::task::yield_now().await;
        known = world.client("a").call(Status).await.unwrap();
    }
    // Told to end, it ends: its process is nobody's child here, and still no stranger.
    again.ask(Ask::Stop { child: "a".parse().unwrap(), grace_ms: 30_000 }).await.unwrap();
    let history = world.history("boss");
    assert_eq!((history.terminals("a"), history.losses("a")), (vec![Terminal::ShutDown], vec![]));
    history.assert_every_event_once_and_in_order();
    history.assert_one_terminal_a_life();
    again.ask(Ask::Shutdown).await.unwrap();
    assert!(again.wait().await.success());
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_of_a_parent_ends_tied_children_and_leaves_detached_ones_whose_end_is_unobserved() {
    let world = world();
    let (mut boss, pid, work) = with_detached_child(&world).await;
    boss.spawn("b", WorkerSpec::command("true")).await;
    boss.ask(Ask::Shutdown).await.unwrap();
    assert!(boss.wait().await.success());
    assert_eq!(world.history("boss").terminals("b"), [Terminal::ShutDown]);
    assert!(world.processes().contains(&pid), "the detached child was stopped");
    assert_eq!((world.history("boss").terminals("a"), world.counts("boss").children_live), (vec![], 1));
    // It belongs to init now, or to a subreaper; as long as it runs its number is its own.
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
    world.at_rest("boss").await;
    let history = world.history("boss");
    assert_eq!(history.terminals("a"), [UNOBSERVED]);
    assert_eq!(history.settled(work), [WorkResult::Lost]);
    history.assert_one_terminal_a_life();
    again.ask(Ask::Shutdown).await.unwrap();
    again.wait().await;
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_child_that_is_told_to_end_while_its_parent_is_away_has_its_own_last_word() {
    let world = world();
    let (boss, pid, work) = with_detached_child(&world).await;
    boss.kill().await;
    world.client("a").call(Shutdown { mode: ShutdownMode::Now }).await.unwrap();
    until("it has ended", || (!world.processes().contains(&pid)).then_some(())).await;
    let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
    world.at_rest("boss").await;
    let history = world.history("boss");
    assert_eq!((history.terminals("a"), history.losses("a")), (vec![Terminal::ShutDown], vec![]));
    assert_eq!(history.ends_of(work), [WorkEnd::TurnEnded(TurnResult::Interrupted)]);
    history.assert_every_event_once_and_in_order();
    again.ask(Ask::Shutdown).await.unwrap();
    again.wait().await;
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_child_that_does_not_end_when_it_is_told_to_is_ended_by_its_descriptor() {
    let world = world();
    let (boss, pid, _) = with_detached_child(&world).await;
    boss.kill().await;
    let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
    tests::world::halt(pid).await;
    let stop = Ask::Stop { child: "a".parse().unwrap(), grace_ms: 100 };
    assert_eq!(again.ask(stop).await.unwrap(), format!("{UNOBSERVED:?}"));
    again.ask(Ask::Shutdown).await.unwrap();
    again.wait().await;
    // Nor is anything left of what it ran.
    world.deserted().await;
}

fn exhausted(world: &World) -> usize {
    let rows = world.history("boss").0;
    rows.iter().filter(|row| matches!(row.item, HistoryItem::RestartsExhausted { .. })).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_fails_is_started_again_until_it_has_failed_too_often() {
    let world = world();
    let boss = world.boss().await;
    let restart = Restart { when: RestartWhen::OnFailure, max: 2, within_ms: 600_000 };
    let worker = WorkerSpec::scripted("runs = [['kill']]", "script").unwrap();
    let spawn = SpawnPod::new("a".parse().unwrap(), worker).restart(restart);
    let mut child = boss.spawn_pod(spawn).await.unwrap();
    for life in 1..=3 {
        // It may die before it can say that it has taken the work.
        let _ = child.run("die").await;
        let killed = Terminal::Lost { reason: LostReason::Killed { signal: 9 } };
        assert_eq!(child.terminal().in_time().await.unwrap(), killed, "life {life}");
        if life < 3 {
            let (name, old) = (child.id().name.clone(), child.id().clone());
            let next = boss.children_until(|lines| {
                lines
                    .iter()
                    .any(|line| line.pod.name == name && line.pod != old && line.phase == ChildPhase::Ready)
                    .then_some(())
            });
            next.in_time().await;
            child = boss.child(&name).unwrap();
            assert_ne!(*child.id(), old);
        }
    }
    until("it stays ended", || (exhausted(&world) == 1).then_some(())).await;
    world.at_rest("boss").await;
    let history = world.history("boss");
    history.assert_one_terminal_a_life();
    history.assert_every_event_once_and_in_order();
    assert_eq!((history.terminals("a").len(), history.losses("a").len()), (3, 3));
    let told = |row: &pod::store::HistoryRow| matches!(&row.item, HistoryItem::SystemItem(item) if item.text().contains("after 2 restarts"));
    assert_eq!(history.0.iter().filter(|row| told(row)).count(), 1, "its agent was not told, once");
    assert!(boss.children().iter().all(|line| line.phase == ChildPhase::Ended));
    boss.shutdown().in_time().await;
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_that_was_due_when_the_parent_was_killed_is_carried_out_by_its_next_life_or_told() {
    for lifetime in [pod::Lifetime::Detached, pod::Lifetime::Tied] {
        let world = world();
        let mut boss = HostProcess::start(&world, "boss", Some("burial_after_commit")).await.unwrap();
        let restart = Restart { when: RestartWhen::OnFailure, max: 3, within_ms: 600_000 };
        let spawn = Ask::SpawnAs { name: "a".parse().unwrap(), worker: WorkerSpec::ledger(), lifetime, restart };
        let pid = boss.ask(spawn).await.unwrap().as_u64().unwrap();
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
        boss.wait().await;
        assert_eq!(world.history("boss").terminals("a").len(), 1, "its parent has died before it knew");
        let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
        if lifetime == pod::Lifetime::Detached {
            world.at_rest_with("boss", 1).await;
            let next = until("it lives again", || {
                let rows = world.look("boss", |reads| reads.live_children());
                rows.into_iter().find(|row| row.state == pod::store::ChildState::Ready && row.restarted)
            });
            assert_eq!(next.await.lifetime, lifetime);
            again.ask(Ask::Stop { child: "a".parse().unwrap(), grace_ms: 30_000 }).await.unwrap();
        } else {
            // It would have ended with its parent.
            let told = |row: &pod::store::HistoryRow| matches!(&row.item, HistoryItem::SystemItem(item) if item.text().contains("`a` had ended and was to be started again"));
            until("its parent is told", || world.history("boss").0.iter().any(told).then_some(())).await;
            assert_eq!(world.look("boss", |reads| reads.children()).len(), 1);
        }
        again.ask(Ask::Shutdown).await.unwrap();
        assert!(again.wait().await.success());
        world.history("boss").assert_one_terminal_a_life();
        world.deserted().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_its_parent_stops_is_not_started_again_whatever_its_policy() {
    let world = world();
    let boss = world.boss().await;
    let restart = Restart { when: RestartWhen::Always, ..Restart::default() };
    let spawn = SpawnPod::new("a".parse().unwrap(), WorkerSpec::ledger()).restart(restart);
    let child = boss.spawn_pod(spawn).await.unwrap();
    // Told to end by somebody else, it is started again.
    world.client("a").call(Shutdown { mode: ShutdownMode::Now }).await.unwrap();
    assert_eq!(child.terminal().in_time().await.unwrap(), Terminal::ShutDown);
    let next = boss
        .children_until(|lines| lines.iter().find(|line| line.phase == ChildPhase::Ready).map(|line| line.pod.clone()));
    assert_ne!(next.in_time().await, *child.id());
    boss.stop_pod(&child.id().name, Duration::from_secs(20)).in_time().await.unwrap();
    boss.shutdown().in_time().await;
    assert_eq!(world.history("boss").terminals("a"), [Terminal::ShutDown, Terminal::ShutDown]);
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "descriptors and zombies are counted in a process of its own")]
async fn many_ends_leave_no_zombie_and_no_descriptor() {
    let mut ends = tokio::process::Command::new(env!("CARGO_BIN_EXE_ends"));
    ends.args(["--sequential", "24", "--children", "8", "--depth", "4", "--rounds", "2", "--burst", "16"])
        .kill_on_drop(true);
    let done = tokio::time::timeout(Duration::from_secs(180), ends.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    eprintln!("{said}");
    assert!(done.status.success() && !said.contains("WRONG"), "{}: {said}", done.status);
}
