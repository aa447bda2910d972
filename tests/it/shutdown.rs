//! How pods end: told to, signalled, or told by a parent that ends; and how they do not start.

use std::time::{Duration, Instant};

use pod::protocol::{LocalEvent, LostReason, PodEvent, PodState, Shutdown, ShutdownMode, Status};
use pod::scope::{Permission, ScopeRule};
use pod::store::HistoryItem;
use pod::{PodController, SpawnError, SpawnPod, StartError, Terminal, TurnResult, WorkEnd, WorkResult, WorkerSpec};
use rustix::process::{Pid, Signal, kill_process};
use tests::world::{Ask, HostProcess, InTime as _, World, until};

use super::ends::scripted;
use crate::world;

#[tokio::test(flavor = "multi_thread")]
async fn stop_pod_reaches_the_child_and_its_shut_down_is_its_only_end() {
    let world = world();
    let boss = world.boss().await;
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::command("true"))).await.unwrap();
    let work = child.run("go").await.unwrap();
    work.settled().in_time().await;
    let began = Instant::now();
    // Only after this time would it be signalled: what ends it is the method.
    let terminal = boss.stop_pod(&child.id().name, Duration::from_secs(600)).in_time().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(terminal, Terminal::ShutDown);
    world.at_rest("boss").await;
    let history = world.history("boss");
    assert_eq!((history.terminals("a"), history.losses("a").len()), (vec![Terminal::ShutDown], 0));
    let kinds: Vec<_> = history.told().iter().map(|(_, event)| event.kind()).collect();
    assert_eq!(kinds, ["turn_ended", "work_settled", "shut_down"]);
    assert_eq!(world.counts("a").outbox_pending, 0, "its last event was awaited");
    world.deserted().await;

    // Its name is free again, and its stream goes on in the next life.
    let again = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::command("true"))).await.unwrap();
    assert_ne!(again.id(), child.id());
    assert_eq!(again.run("go").await.unwrap().settled().in_time().await, WorkResult::Finished);
    boss.shutdown().in_time().await;
    let history = world.history("boss");
    history.assert_every_event_once_and_in_order();
    history.assert_one_terminal_a_life();
    assert_eq!(history.terminals("a").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_has_left_its_group_is_dead_when_what_its_pod_wrote_is_given_to_another() {
    let world = world();
    let boss = world.boss().await;
    let place = world.root().canonicalize().unwrap().join("place");
    std::fs::create_dir(&place).unwrap();
    let place = place.display().to_string();
    let rule = || vec![ScopeRule::below(&*place, Permission::Write)];
    // Its turn ends, and the pod cleanly with it; the writer stays, for a minute at most.
    let command = format!(
        "setsid sh -c 'echo $$ >{place}/writer; exec sleep 60' </dev/null >/dev/null 2>&1 &
         until [ -s {place}/writer ]; do sleep 0.05; done; exit 0"
    );
    let spawn = SpawnPod::new("a".parse().unwrap(), WorkerSpec::command(command));
    let child = boss.spawn_pod(spawn.scope(rule())).await.unwrap();
    assert_eq!(child.run("go").await.unwrap().settled().in_time().await, WorkResult::Finished);
    let writer = until("the writer runs", || {
        std::fs::read_to_string(format!("{place}/writer")).ok()?.trim().parse::<i32>().ok()
    })
    .await;
    // A zombie shows no environment.
    let writes = || std::fs::read(format!("/proc/{writer}/environ")).is_ok_and(|environment| !environment.is_empty());
    assert!(writes());
    let terminal = boss.stop_pod(&child.id().name, Duration::from_secs(600)).in_time().await.unwrap();
    assert_eq!(terminal, Terminal::ShutDown);
    let sibling = SpawnPod::new("b".parse().unwrap(), WorkerSpec::command("true")).scope(rule());
    let sibling = boss.spawn_pod(sibling).await;
    assert!(!writes(), "two write the same place");
    sibling.unwrap();
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_hears_neither_its_parent_nor_sigterm_is_killed_with_its_programs_and_has_one_end() {
    let world = world();
    let boss = world.boss().await;
    let command = "trap '' TERM; echo $$ >&2; sleep 600 & wait; sleep 600";
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::command(command))).await.unwrap();
    let work = child.run("go").await.unwrap();
    let running = until("its programs run", || Some(world.processes()).filter(|pids| pids.len() >= 3)).await;
    let leader = boss.children()[0].pid.unwrap();
    kill_process(Pid::from_raw(leader.cast_signed()).unwrap(), Signal::STOP).unwrap();
    let terminal = child.stop(Duration::from_millis(200)).in_time().await.unwrap();
    let reason = LostReason::Killed { signal: 9 };
    assert_eq!(terminal, Terminal::Lost { reason });
    assert_eq!(work.ended().in_time().await, WorkEnd::Lost(reason));
    world.at_rest("boss").await;
    assert_eq!(world.history("boss").terminals("a").len(), 1);
    let left: Vec<_> = world.processes().into_iter().filter(|pid| running.contains(pid)).collect();
    assert!(left.is_empty(), "{left:?} of {running:?} live on");
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_works_longer_than_its_stop_may_take_is_interrupted_and_still_says_its_last_word() {
    let world = world();
    let boss = world.boss().await;
    let child = scripted(&boss, "a", "runs = [[{say = 'began'}, {sleep_ms = 600000}]]").await;
    let work = child.run("go").await.unwrap();
    until("the turn runs", || world.history("a").outputs().contains(&"began").then_some(())).await;
    let terminal = child.stop(Duration::from_millis(200)).in_time().await.unwrap();
    assert_eq!(terminal, Terminal::ShutDown);
    assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Interrupted));
    assert_eq!(work.settled().in_time().await, WorkResult::Interrupted);
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn graceful_stop_lets_the_turn_of_a_child_end() {
    let world = world();
    let boss = world.boss().await;
    let worker = WorkerSpec::command(World::waits_for("go"));
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), worker)).await.unwrap();
    let work = child.run("go").await.unwrap();
    until("its program runs", || (world.processes().len() >= 2).then_some(())).await;
    let stopping = tokio::spawn({
        let child = child.clone();
        async move { child.stop(Duration::from_secs(600)).await }
    });
    until("it stops", || {
        boss.children().first().is_some_and(|line| line.phase == pod::ChildPhase::Stopping).then_some(())
    })
    .await;
    let refused = child.run("more").await.expect_err("a pod that stops takes no work");
    assert!(format!("{refused:?}").contains("Stopping"), "{refused:?}");
    world.touch("go");
    assert_eq!(stopping.in_time().await.unwrap().unwrap(), Terminal::ShutDown);
    assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Finished));
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_parent_with_its_children_and_leaves_nothing() {
    let world = world();
    let mut boss = HostProcess::start(&world, "boss", None).await.unwrap();
    for name in ["a", "b", "c"] {
        boss.spawn(name, WorkerSpec::command("true")).await;
    }
    let script = "runs = [[{spawn = {name = 'leaf', worker = {kind = 'ledger'}}}]]";
    boss.spawn("mid", WorkerSpec::scripted(script, "script").unwrap()).await;
    let work = boss.run("mid", "go").await.unwrap();
    boss.ask(Ask::Ended { work }).await.unwrap();
    assert_eq!(world.sockets().len(), 6, "{:?}", world.sockets());
    boss.signal(Signal::TERM);
    let status = boss.wait().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(world.processes(), [0_u32; 0], "a process is left");
    assert_eq!(world.sockets(), Vec::<std::path::PathBuf>::new(), "a socket is left");
    let history = world.history("boss");
    history.assert_one_terminal_a_life();
    history.assert_every_event_once_and_in_order();
    for child in ["a", "b", "c", "mid"] {
        assert_eq!(history.terminals(child), [Terminal::ShutDown], "{child}");
    }
    assert_eq!(world.history("mid").terminals("leaf"), [Terminal::ShutDown]);
    assert_eq!(world.counts("boss").works_delegated_open, 0);
}

/// A parent that is stopped (not dead) with its child `a`, which is told to end and has said its last word by then.
async fn last_word_to_a_stopped_parent(world: &World) -> (HostProcess, u32) {
    let mut boss = HostProcess::start(world, "boss", None).await.unwrap();
    let pid = boss.spawn("a", WorkerSpec::command("true")).await;
    // Its parent's *go* has arrived: before that it answers nobody.
    world.client("a").call(Status).await.unwrap();
    boss.halt().await;
    world.client("a").call(Shutdown { mode: ShutdownMode::Now }).await.unwrap();
    until("its last word is committed", || (world.counts("a").outbox_pending == 1).then_some(())).await;
    (boss, pid)
}

#[tokio::test(flavor = "multi_thread")]
async fn last_event_of_a_child_is_awaited_before_its_process_ends() {
    let world = world();
    let (mut boss, pid) = last_word_to_a_stopped_parent(&world).await;
    assert!(world.processes().contains(&pid), "it has gone without an ack");
    boss.signal(Signal::CONT);
    world.at_rest("boss").await;
    assert_eq!(world.counts("a").outbox_pending, 0, "it was not acked");
    assert_eq!(world.history("boss").terminals("a"), [Terminal::ShutDown]);
    boss.ask(Ask::Shutdown).await.unwrap();
    boss.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_event_of_a_child_is_awaited_for_a_bounded_time_and_read_from_its_store_then() {
    let world = world();
    let began = Instant::now();
    let (mut boss, pid) = last_word_to_a_stopped_parent(&world).await;
    until("it ends all the same", || (!world.processes().contains(&pid)).then_some(())).await;
    assert!((5..20).contains(&began.elapsed().as_secs()), "after {:?}", began.elapsed());
    assert_eq!(world.counts("a").outbox_pending, 1, "nobody was there to ack it");
    boss.signal(Signal::CONT);
    world.at_rest("boss").await;
    let history = world.history("boss");
    assert_eq!((history.terminals("a"), history.losses("a").len()), (vec![Terminal::ShutDown], 0));
    history.assert_every_event_once_and_in_order();
    boss.ask(Ask::Shutdown).await.unwrap();
    boss.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_to_a_child_is_a_graceful_end_that_its_parent_is_told() {
    let world = world();
    let boss = world.boss().await;
    let child = scripted(&boss, "a", "runs = [[]]").await;
    let pid = boss.children()[0].pid.unwrap();
    // It is a child of this process that has not been reaped.
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(child.terminal().in_time().await.unwrap(), Terminal::ShutDown);
    boss.shutdown().in_time().await;
    assert!(world.history("boss").losses("a").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_spawns_while_its_parent_stops_leaves_no_process() {
    let world = world();
    let boss = world.boss().await;
    let script = "runs = [[{say = 'began'}, {spawn = {name = 'l1', worker = {kind = 'ledger'}}}, \
                  {spawn = {name = 'l2', worker = {kind = 'ledger'}}}, {spawn = {name = 'l3', worker = {kind = 'ledger'}}}]]";
    let mid = scripted(&boss, "mid", script).await;
    mid.run("go").await.unwrap();
    until("the turn runs", || world.history("mid").outputs().contains(&"began").then_some(())).await;
    boss.shutdown().in_time().await;
    world.deserted().await;
    assert_eq!(world.history("boss").terminals("mid"), [Terminal::ShutDown]);
    world.history("mid").assert_one_terminal_a_life();
    assert_eq!(world.sockets(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn second_pod_of_a_name_is_told_who_holds_it_and_the_first_is_unharmed() {
    let world = world();
    let mut first = HostProcess::start(&world, "boss", None).await.unwrap();
    first.spawn("a", WorkerSpec::command("true")).await;
    match PodController::spawn(world.options("boss", WorkerSpec::ledger())).await {
        Err(StartError::HeldBy { name, pid, .. }) => {
            assert_eq!((name.as_str(), pid), ("boss", Some(first.pid())));
        }
        other => panic!("{other:?}"),
    }
    let refused = HostProcess::start(&world, "boss", None).await.unwrap_err();
    assert!(refused.contains("`boss` runs already") && refused.contains(&first.pid().to_string()), "{refused}");
    // Nor does a child get the name.
    let other = PodController::spawn(world.options("other", WorkerSpec::ledger())).await.unwrap();
    let taken = other.spawn_pod(SpawnPod::new("boss".parse().unwrap(), WorkerSpec::ledger())).await.unwrap_err();
    assert!(matches!(taken, SpawnError::NameTaken { .. }), "{taken:?}");
    assert!(taken.to_string().contains(&first.pid().to_string()), "{taken}");
    other.shutdown().in_time().await;

    let work = first.run("a", "go").await.expect("the first goes on");
    first.ask(Ask::Ended { work }).await.unwrap();
    let status = world.client("boss").call(pod::protocol::Status).await.unwrap();
    assert_eq!((status.pid, status.children_live), (first.pid(), 1));
    first.ask(Ask::Shutdown).await.unwrap();
    assert!(first.wait().await.success());
    // Free again.
    let boss = world.boss().await;
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_with_a_bad_worker_leaves_nothing_behind() {
    let world = world();
    let boss = world.boss().await;
    let before = world.history("boss").0.len();
    for (worker, word) in [
        (WorkerSpec::of_kind("comand"), "command"),
        (WorkerSpec::of_kind("command"), "argv"),
        (WorkerSpec::scripted("runs = [[{sey = 'x'}]]", "script").unwrap(), "say"),
    ] {
        let error = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), worker)).await.unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(matches!(error, SpawnError::Worker { .. }) && error.to_string().contains("`a`"), "{error:?}");
        assert!(source.contains(word), "no remedy: {source}");
    }
    assert_eq!(world.history("boss").0.len(), before, "something was recorded");
    assert_eq!((world.counts("boss").children_total, boss.children().len()), (0, 0));
    let pods = |dir: &str| {
        let entries = std::fs::read_dir(world.root().join(dir)).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir()).count()
    };
    assert_eq!((pods("state"), pods("run")), (1, 1), "there is nothing but the boss");
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_whose_program_is_missing_has_one_end_and_its_name_is_free_again() {
    let world = world();
    let options = world.options("boss", WorkerSpec::ledger()).program(world.root().join("nothing-here"));
    let boss = PodController::spawn(options).await.unwrap();
    for _ in 0..2 {
        let spawn = SpawnPod::new("a".parse().unwrap(), WorkerSpec::ledger());
        let error = boss.spawn_pod(spawn).await.unwrap_err();
        assert!(matches!(error, SpawnError::Process { .. }) && error.to_string().contains("nothing-here"), "{error:?}");
    }
    let history = world.history("boss");
    history.assert_one_terminal_a_life();
    assert!(matches!(history.terminals("a")[..], [Terminal::NeverStarted { .. }, Terminal::NeverStarted { .. }]));
    assert_eq!(history.losses("a").len(), 0, "what never lived is not lost");
    assert_eq!(world.sockets().len(), 1);
    assert_eq!(world.counts("boss").children_live, 0);
    boss.shutdown().in_time().await;
    assert_eq!(std::fs::read_dir(world.root().join("run")).unwrap().count(), 0, "a runtime directory is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_dies_before_it_is_ready_is_quoted_and_has_one_end() {
    let world = world();
    let boss = world.boss().await;
    world.equip("a", &[("DIE_SAYING", "the disk is on fire")]);
    let error = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::ledger())).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, SpawnError::DiedEarly { .. }), "{error:?}");
    assert!(text.contains("`a`") && text.contains("code 7") && text.contains("the disk is on fire"), "{text}");
    world.at_rest("boss").await;
    let history = world.history("boss");
    history.assert_one_terminal_a_life();
    assert_eq!(history.terminals("a").len(), 1);
    // The next one lives.
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::ledger())).await.unwrap();
    assert_eq!(child.run("go").await.unwrap().settled().in_time().await, WorkResult::Finished);
    boss.shutdown().in_time().await;
    world.history("boss").assert_one_terminal_a_life();
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_ends_says_so_in_its_state_and_takes_no_new_child() {
    let world = world();
    let boss = world.boss().await;
    boss.shutdown().in_time().await;
    // Twice is as good as once.
    boss.shutdown().in_time().await;
    let late = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::ledger())).await.unwrap_err();
    assert!(matches!(late, SpawnError::Stopping { .. }), "{late:?}");
    assert_eq!(world.look("boss", |reads| reads.control()).state, PodState::Idle, "nothing is left to be done");
    let stopped = |row: &pod::store::HistoryRow| matches!(&row.item, HistoryItem::SystemItem(item) if item.text().contains("stopped"));
    assert!(!world.history("boss").0.iter().any(stopped));
    let told = world.history("boss");
    assert!(!told.told().iter().any(|(_, event)| matches!(event, LocalEvent::Reported(PodEvent::ShutDown { .. }))));
    assert_eq!(world.sockets().len(), 0);
}
