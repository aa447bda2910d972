//! `kill -9` anywhere between a commit and its ack: each event is in history once, each life has one end, and every
//! piece of work is settled.

use std::time::Duration;

use pod::protocol::{LocalEvent, PodEvent};
use pod::{LostReason, PodController, SpawnPod, Terminal, TurnResult, WorkEnd, WorkResult, WorkerSpec};
use rustix::process::{Pid, Signal, kill_process};
use tests::world::{HostProcess, InTime as _, World, until};

use super::ends::scripted;
use crate::world;

/// After a parent was killed and started again: everything is told, settled and over, and nothing twice.
async fn assert_whole(world: &World, child: &str, events: usize) {
    world.at_rest("boss").await;
    let history = world.history("boss");
    history.assert_every_event_once_and_in_order();
    history.assert_one_terminal_a_life();
    let told = history.told_of(child);
    let mut distinct = told.clone();
    distinct.dedup();
    assert_eq!(told, distinct, "an event was told twice");
    assert!(told.len() >= events, "of {events} events that were committed, {told:?} was told");
    assert_eq!(history.terminals(child).len(), 1);
    assert!(!world.processes().iter().any(|pid| is_child(*pid)), "a child is left");
}

/// Whether a process of this world is a child, and not the parent.
fn is_child(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"POD_CHILD=")))
}

#[tokio::test(flavor = "multi_thread")]
async fn parent_killed_between_commit_and_ack_has_each_event_once_when_it_is_back_at_once() {
    for time in 1..=3 {
        let world = world();
        let point = format!("parent_after_commit_before_ack:{time}");
        let mut boss = HostProcess::start(&world, "boss", Some(&point)).await.unwrap();
        boss.spawn("a", WorkerSpec::command("echo hi")).await;
        // It may die before it can say that the work was accepted. The third event is the child's last one.
        let _ = boss.run("a", "go").await;
        if time == 3 {
            until("both events of the work are acked", || (world.counts("a").outbox_acked.0 == 2).then_some(())).await;
            let _ = boss.ask(tests::world::Ask::Stop { child: "a".parse().unwrap(), grace_ms: 20_000 }).await;
        }
        boss.wait().await;
        let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
        assert_whole(&world, "a", 3).await;
        let history = world.history("boss");
        assert_eq!(history.terminals("a"), [Terminal::ShutDown], "time {time}: it told its end itself");
        again.ask(tests::world::Ask::Shutdown).await.unwrap();
        assert!(again.wait().await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parent_killed_between_commit_and_ack_has_each_event_once_when_it_is_back_after_its_child_has_gone() {
    let world = world();
    let mut boss = HostProcess::start(&world, "boss", Some("parent_after_commit_before_ack")).await.unwrap();
    boss.spawn("a", WorkerSpec::command("echo hi")).await;
    let _ = boss.run("a", "go").await;
    boss.wait().await;
    world.deserted().await;
    assert!(world.counts("a").outbox_pending > 0, "somebody has acked what nobody was there to ack");
    let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
    assert_whole(&world, "a", 3).await;
    assert_eq!(world.history("boss").terminals("a"), [Terminal::ShutDown], "its last event was in its store");
    again.ask(tests::world::Ask::Shutdown).await.unwrap();
    assert!(again.wait().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn child_killed_between_commit_and_send_is_lost_after_what_it_had_committed() {
    let world = world();
    let boss = world.boss().await;
    world.arm("a", "child_after_commit_before_send");
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::command("echo hi"))).await.unwrap();
    let work = child.run("go").await.unwrap();
    let reason = LostReason::Killed { signal: 9 };
    assert_eq!(child.terminal().in_time().await.unwrap(), Terminal::Lost { reason });
    assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Finished), "what it had committed counts");
    assert_eq!(work.settled().in_time().await, WorkResult::Finished);
    assert_eq!(boss.children()[0].offers, 0, "it was killed before it could send");
    world.at_rest("boss").await;
    let history = world.history("boss");
    history.assert_every_event_once_and_in_order();
    history.assert_one_terminal_a_life();
    let kinds: Vec<_> = history.told().iter().map(|(_, event)| event.kind()).collect();
    assert_eq!(kinds, ["turn_ended", "work_settled", "lost"]);
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parent_and_child_killed_lose_nothing_and_tell_nothing_twice() {
    // The parent dies at the first of the two events; the child before it can offer them again.
    for point in ["child_after_commit_before_send", "child_after_commit_before_send:2"] {
        let world = world();
        let mut boss = HostProcess::start(&world, "boss", Some("parent_after_commit_before_ack")).await.unwrap();
        world.arm("a", point);
        boss.spawn("a", WorkerSpec::command("echo hi")).await;
        let _ = boss.run("a", "go").await;
        if point.ends_with(":2") {
            boss.wait().await;
        } else {
            until("the child has died", || (!world.processes().iter().any(|pid| is_child(*pid))).then_some(())).await;
            boss.kill().await;
        }
        world.deserted().await;
        let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
        assert_whole(&world, "a", 2).await;
        let history = world.history("boss");
        let kinds: Vec<_> = history.told().iter().map(|(_, event)| event.kind()).collect();
        // The second time it may have committed its last word already; then that is its end.
        let terminal = if point.ends_with(":2") { kinds[2] } else { "lost" };
        assert_eq!(kinds, ["turn_ended", "work_settled", terminal], "{point}");
        assert!(["lost", "shut_down"].contains(&terminal), "{point}: {terminal}");
        again.ask(tests::world::Ask::Shutdown).await.unwrap();
        assert!(again.wait().await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_halted_when_its_parent_dies_ends_in_good_order_and_is_not_lost() {
    let world = world();
    let mut boss = HostProcess::start(&world, "boss", None).await.unwrap();
    let child = boss.spawn("a", WorkerSpec::command("echo hi")).await;
    // Whoever has ended a turn has been taken up for certain; until it knows that, a child whose parent dies gives up.
    let work = boss.run("a", "go").await.unwrap();
    boss.ask(tests::world::Ask::Ended { work }).await.unwrap();
    // It is its parent's to reap until that is dead; afterwards its number is its own as long as it is halted.
    tests::world::halt(child).await;
    boss.kill().await;
    // The kernel hangs up a halted process whose parent dies, and continues it.
    let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
    world.at_rest("boss").await;
    assert_eq!(world.history("boss").terminals("a"), [Terminal::ShutDown]);
    again.ask(tests::world::Ask::Shutdown).await.unwrap();
    assert!(again.wait().await.success());
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parent_killed_in_mid_work_finds_its_work_settled_and_its_children_gone() {
    let world = world();
    let mut boss = HostProcess::start(&world, "boss", None).await.unwrap();
    let worker = WorkerSpec::scripted("runs = [[{say = 'began'}, {sleep_ms = 600000}]]", "script").unwrap();
    boss.spawn("a", worker).await;
    let work = boss.run("a", "go").await.unwrap();
    until("the turn runs", || world.history("a").outputs().contains(&"began").then_some(())).await;
    boss.kill().await;
    let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
    assert_whole(&world, "a", 2).await;
    let history = world.history("boss");
    assert_eq!(history.ends_of(work), [WorkEnd::TurnEnded(TurnResult::Interrupted)]);
    assert_eq!(history.settled(work), [WorkResult::Interrupted]);
    again.ask(tests::world::Ask::Shutdown).await.unwrap();
    assert!(again.wait().await.success());
    world.deserted().await;
}

const WITH_A_LEAF: &str = "runs = [[{spawn = {name = 'leaf', worker = {kind = 'command', command = 'WAIT'}}}, \
                           {run = {child = 'leaf', input = 'go'}}]]";

#[tokio::test(flavor = "multi_thread")]
async fn work_through_a_grandchild_is_settled_only_after_the_grandchilds() {
    let world = world();
    let boss = world.boss().await;
    let script = WITH_A_LEAF.replace("'WAIT'", &format!("'''{}'''", World::waits_for("go")));
    let mid = scripted(&boss, "mid", &script).await;
    let work = mid.run("go").await.unwrap();
    assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Finished), "its own turn waits for nobody");
    // Everything that the turn had to tell is here; the work is open all the same, for the leaf's is.
    until("the end of the turn is acked", || (world.counts("mid").outbox_pending == 0).then_some(())).await;
    assert_eq!(world.counts("mid").works_delegated_open, 1);
    assert_eq!((world.counts("boss").works_delegated_open, world.history("boss").settled(work.id()).len()), (1, 0));
    world.touch("go");
    assert_eq!(work.settled().in_time().await, WorkResult::Finished);
    boss.settled().in_time().await.unwrap();
    world.at_rest_with("boss", 1).await;
    assert_eq!(world.history("boss").settled(work.id()), [WorkResult::Finished]);
    let first = |work: pod::WorkId, history: &tests::world::History| {
        let settled = |row: &pod::store::HistoryRow| {
            row.work == Some(work) && matches!(row.item, pod::store::HistoryItem::WorkSettled { .. })
        };
        history.0.iter().find(|row| settled(row)).map(|row| row.at)
    };
    let of_leaf = world.look("mid", |reads| reads.works(pod::store::Direction::Delegated, false))[0].work;
    let (leaf, root) = (first(of_leaf, &world.history("mid")), first(work.id(), &world.history("boss")));
    assert!(leaf.is_some() && leaf <= root, "{leaf:?} {root:?}");
    boss.shutdown().in_time().await;
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_killed_in_mid_work_takes_its_works_and_its_own_children_with_it() {
    let world = world();
    let boss = world.boss().await;
    let script = WITH_A_LEAF.replace("'WAIT'", &format!("'''{}'''", World::waits_for("never")));
    let mid = scripted(&boss, "mid", &script).await;
    let work = mid.run("go").await.unwrap();
    let leaf = until("the leaf works", || {
        let running = world.look("mid", |reads| reads.works_open(pod::store::Direction::Delegated)) == 1;
        running.then(|| world.look("mid", |reads| reads.children())[0].pid).flatten()
    })
    .await;
    // The pod, its child, and the program that this one runs.
    until("the program of the leaf runs", || (world.processes().len() >= 3).then_some(())).await;
    assert!(world.processes().contains(&leaf));
    let pid = boss.children()[0].pid.unwrap();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let reason = LostReason::Killed { signal: 9 };
    assert_eq!(mid.terminal().in_time().await.unwrap(), Terminal::Lost { reason });
    assert_eq!(work.settled().in_time().await, WorkResult::Lost);
    boss.settled().in_time().await.unwrap();
    world.at_rest("boss").await;
    let history = world.history("boss");
    assert_eq!((history.terminals("mid"), history.losses("mid")), (vec![Terminal::Lost { reason }], vec![reason]));
    assert_eq!(history.settled(work.id()), [WorkResult::Lost]);
    // Nobody is left of the whole branch: neither the grandchild nor what it ran.
    world.deserted().await;
    let told = world.look("leaf", |reads| reads.outbox_from(pod::id::Seq(1), 100));
    let kinds: Vec<_> = told.iter().map(|row| row.event.kind()).collect();
    assert_eq!(kinds, ["turn_ended", "work_settled", "shut_down"], "the leaf keeps what nobody takes any more");
    assert!(!history.told().iter().any(|(_, event)| matches!(event, LocalEvent::Reported(PodEvent::ShutDown { .. }))));
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_work_that_waits_for_a_child_is_settled_when_that_child_is_killed() {
    let world = world();
    let script = "runs = [[{spawn = {name = 'a', worker = {kind = 'scripted', runs = [['kill']]}}}, \
                  {run = {child = 'a', input = 'go'}}]]";
    let worker = WorkerSpec::scripted(script, "script").unwrap();
    let boss = PodController::spawn(world.options("boss", worker)).await.unwrap();
    let work = boss.run("go").await.unwrap();
    let settled = tokio::time::timeout(Duration::from_secs(30), work.settled()).await.expect("it is settled in time");
    assert_eq!(settled, WorkResult::Finished, "its own last turn finished");
    let delegated = world.look("boss", |reads| reads.works(pod::store::Direction::Delegated, false));
    assert_eq!(delegated.iter().map(|row| row.result).collect::<Vec<_>>(), [Some(WorkResult::Lost)]);
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_killed_in_mid_work_leaves_no_program_of_its_own_behind() {
    let world = world();
    let boss = world.boss().await;
    let worker = WorkerSpec::command(World::waits_for("never"));
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), worker)).await.unwrap();
    let work = child.run("go").await.unwrap();
    until("its program runs", || (world.processes().len() >= 2).then_some(())).await;
    let pid = boss.children()[0].pid.unwrap();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(child.terminal().in_time().await.unwrap(), Terminal::Lost { reason: LostReason::Killed { signal: 9 } });
    assert_eq!(work.settled().in_time().await, WorkResult::Lost);
    world.deserted().await;
    boss.shutdown().in_time().await;
}
