//! A report reaches the agent whatever the moment at which it comes, once, and never by luck.
//!
//! The worker of the parent does a step when the test says so; the child is a process. Every interleaving of the pure
//! controller is swept beside it; here the whole path is real.

use std::time::{Duration, Instant};

use pod::manifest::Limits;
use pod::protocol::{Pause, PodState, Resume};
use pod::store::{SystemItem, TurnCause, TurnOutcome};
use pod::{Child, PodController, PodHandle, SpawnPod, TurnEnd, TurnResult, WorkEnd, WorkResult, WorkerSpec};
use tests::world::{Cue, Gate, InTime as _, World, gated, until, workers};

use super::ends::scripted;
use crate::world;

/// A parent whose worker does as the gate says, and a child that has nothing to do yet.
async fn gated_boss(world: &World, limits: Limits) -> (PodHandle, Gate, Child) {
    let (workers, gate) = gated(workers());
    let options = world.options("boss", WorkerSpec::of_kind("gated")).workers(workers).limits(limits);
    let boss = PodController::spawn(options).await.unwrap();
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::command("true"))).await.unwrap();
    (boss, gate, child)
}

/// The child does something; returns when its two reports (turn ended, work settled) are committed and acked.
async fn reports(boss: &PodHandle, child: &Child) {
    let applied = || boss.children().iter().find(|line| line.pod == *child.id()).unwrap().applied;
    let before = applied();
    let work = child.run("go").await.unwrap();
    assert_eq!(work.settled().in_time().await, WorkResult::Finished);
    until("both reports are applied", || (applied() == before + 2).then_some(())).await;
}

fn texts(items: &[SystemItem]) -> Vec<&str> {
    items.iter().map(SystemItem::text).collect()
}

#[track_caller]
fn assert_both(items: &[SystemItem]) {
    let texts = texts(items);
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].contains("finished") && texts[1].contains("is over"), "{texts:?}");
}

/// The rest of a turn that has to tell nothing more.
async fn finish(gate: &mut Gate) {
    gate.respond().await;
    gate.cue(Cue::End(TurnEnd::Finished)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn report_to_an_idle_pod_starts_a_turn() {
    let world = world();
    let (boss, mut gate, child) = gated_boss(&world, Limits::default()).await;
    let (_, cause) = tokio::join!(reports(&boss, &child), gate.turn());
    assert_eq!(cause, TurnCause::Reports);
    // Both reports, be it that the second one came while the turn was starting.
    assert_both(&gate.request().await);
    finish(&mut gate).await;
    world.at_rest_with("boss", 1).await;
    assert!(gate.is_quiet(), "a second turn, for nothing");
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn report_to_a_running_pod_is_in_the_next_request_of_that_turn() {
    let world = world();
    let (boss, mut gate, child) = gated_boss(&world, Limits::default()).await;
    let work = boss.run("begin").await.unwrap();
    assert_eq!(gate.turn().await, TurnCause::Run);
    assert_eq!(gate.request().await, []);
    reports(&boss, &child).await;
    assert_both(&gate.request().await);
    finish(&mut gate).await;
    assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Finished));
    world.at_rest_with("boss", 1).await;
    assert_eq!(world.history("boss").turns().len(), 1);
    assert!(gate.is_quiet());
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn report_in_the_last_window_of_a_turn_starts_the_next_one() {
    let world = world();
    let (boss, mut gate, child) = gated_boss(&world, Limits::default()).await;
    boss.run("begin").await.unwrap();
    assert_eq!(gate.turn().await, TurnCause::Run);
    // The last request of this turn: from here on the worker looks no more.
    assert_eq!(gate.request().await, []);
    gate.respond().await;
    reports(&boss, &child).await;
    assert!(gate.is_quiet(), "a turn within a turn");
    gate.cue(Cue::End(TurnEnd::Finished)).await;
    assert_eq!(gate.turn().await, TurnCause::Reports);
    assert_both(&gate.request().await);
    finish(&mut gate).await;
    world.at_rest_with("boss", 1).await;
    assert_eq!(world.history("boss").turns().len(), 2);
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn report_that_races_with_the_end_of_a_turn_is_told_once() {
    /// Enough to pass over the few milliseconds that the child's way takes, in steps of the last of them.
    const RACES: usize = 40;
    const STEP: Duration = Duration::from_micros(400);
    let world = world();
    let (boss, mut gate, child) = gated_boss(&world, Limits::default()).await;
    for race in 0..RACES {
        boss.run("begin").await.unwrap();
        assert_eq!(gate.turn().await, TurnCause::Run, "race {race}");
        assert_eq!(gate.request().await, [], "race {race}");
        gate.respond().await;
        // The turn ends a step later each time: before the reports come, between them, and behind them.
        let end = async {
            let began = Instant::now();
            while began.elapsed() < STEP * u32::try_from(race).unwrap() {
                tokio::task::yield_now().await;
            }
            gate.cue(Cue::End(TurnEnd::Finished)).await;
        };
        tokio::join!(reports(&boss, &child), end);
        let mut told = 0;
        while told < 2 {
            assert_eq!(gate.turn().await, TurnCause::Reports, "race {race}");
            told += gate.request().await.len();
            finish(&mut gate).await;
        }
        assert_eq!(told, 2, "race {race}");
        world.at_rest_with("boss", 1).await;
    }
    let history = world.history("boss");
    history.assert_every_event_once_and_in_order();
    assert_eq!(history.told_of("a").len(), 2 * RACES);
    assert!(gate.is_quiet());
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn report_to_a_paused_pod_is_kept_and_told_on_resume() {
    let world = world();
    let (boss, mut gate, child) = gated_boss(&world, Limits::default()).await;
    boss.run("begin").await.unwrap();
    assert_eq!(gate.turn().await, TurnCause::Run);
    gate.cue(Cue::Obey).await;
    let client = world.client("boss");
    assert!(client.call(Pause).await.unwrap().staged);
    let state = || world.look("boss", |reads| reads.control()).state;
    until("it is paused", || (state() == PodState::Paused).then_some(())).await;
    reports(&boss, &child).await;
    assert!(gate.is_quiet(), "a paused pod has started a turn");
    assert_eq!((state(), world.counts("boss").inbox_waiting), (PodState::Paused, 2));
    client.call(Resume).await.unwrap();
    assert_eq!(gate.turn().await, TurnCause::Resume);
    assert_both(&gate.request().await);
    finish(&mut gate).await;
    world.at_rest_with("boss", 1).await;
    assert_eq!(world.history("boss").told_of("a").len(), 2);
    assert!(gate.is_quiet());
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn report_that_was_told_and_not_answered_is_told_again_and_stands_in_history_once() {
    let world = world();
    let (boss, mut gate, child) = gated_boss(&world, Limits::default()).await;
    tokio::join!(reports(&boss, &child), async {
        gate.turn().await;
    });
    assert_both(&gate.request().await);
    gate.cue(Cue::Fail("the line broke")).await;
    // After a pause; it is the worker's failure, not the reports'.
    assert_eq!(gate.turn().await, TurnCause::Reports);
    assert_both(&gate.request().await);
    finish(&mut gate).await;
    world.at_rest_with("boss", 1).await;
    let history = world.history("boss");
    assert_eq!(history.told_of("a").len(), 2, "told twice, happened once");
    history.assert_every_event_once_and_in_order();
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn report_on_which_every_turn_fails_blocks_the_pod_and_is_told_when_that_is_lifted() {
    let world = world();
    let attempts = 2;
    let (boss, mut gate, child) = gated_boss(&world, Limits { attempts, ..Limits::default() }).await;
    tokio::join!(reports(&boss, &child), async {
        assert_eq!(gate.turn().await, TurnCause::Reports);
    });
    assert_both(&gate.request().await);
    gate.cue(Cue::Fail("poisoned")).await;
    assert_eq!(gate.turn().await, TurnCause::Reports);
    assert_both(&gate.request().await);
    gate.cue(Cue::Fail("poisoned")).await;
    let control = || world.look("boss", |reads| reads.control());
    until("it is blocked", || (control().state == PodState::Blocked).then_some(())).await;
    let outcomes = world.history("boss").outcomes();
    assert_eq!(outcomes.len(), 2, "as many attempts as are allowed: {outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, TurnOutcome::Errored { .. })));
    assert_eq!(world.counts("boss").inbox_waiting, 2, "the reports are lost");
    // What comes now is kept, and starts nothing.
    reports(&boss, &child).await;
    assert!(gate.is_quiet(), "a blocked pod has started a turn");
    assert_eq!((control().state, world.counts("boss").inbox_waiting), (PodState::Blocked, 4));

    world.client("boss").call(Resume).await.unwrap();
    assert_eq!(gate.turn().await, TurnCause::Reports);
    let told = gate.request().await;
    assert_eq!(told.len(), 4, "{:?}", texts(&told));
    finish(&mut gate).await;
    world.at_rest_with("boss", 1).await;
    let history = world.history("boss");
    assert_eq!(history.told_of("a").len(), 4);
    history.assert_every_event_once_and_in_order();
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_blocked_says_so_once_to_its_parent_and_settles_its_work_when_it_is_resumed() {
    let world = world();
    let boss = world.boss().await;
    world.touch("poison");
    let queasy = boss.spawn_pod(SpawnPod::new("mid".parse().unwrap(), WorkerSpec::of_kind("queasy"))).await.unwrap();
    let work = queasy.run("go").await.unwrap();
    let state = || world.look("mid", |reads| reads.control()).state;
    // Five attempts, with growing pauses.
    until("it is blocked", || (state() == PodState::Blocked).then_some(())).await;
    let blocked = || {
        let told = world.history("boss").told_of("mid");
        told.iter().filter(|event| matches!(event, pod::protocol::PodEvent::Errored { work: None, .. })).count()
    };
    until("its parent is told", || (blocked() == 1).then_some(())).await;
    let failed = world.history("mid").outcomes();
    let failed = failed.iter().filter(|outcome| matches!(outcome, TurnOutcome::Errored { .. })).count();
    assert!((5..=7).contains(&failed), "{failed} attempts");
    // Tried again while nothing is better: blocked again, and not told again.
    world.client("mid").call(Resume).await.unwrap();
    until("it has failed again", || {
        let outcomes = world.history("mid").outcomes();
        let again = outcomes.iter().filter(|outcome| matches!(outcome, TurnOutcome::Errored { .. })).count();
        (again > failed && state() == PodState::Blocked).then_some(())
    })
    .await;
    until("all that it told is acked", || (world.counts("mid").outbox_pending == 0).then_some(())).await;
    assert_eq!(blocked(), 1, "its parent was told twice");
    assert!(world.history("boss").settled(work.id()).is_empty(), "work is settled that waits for a report");

    std::fs::remove_file(world.root().join("poison")).unwrap();
    world.client("mid").call(Resume).await.unwrap();
    assert_eq!(work.settled().in_time().await, WorkResult::Finished);
    let told = world.history("mid").outputs().concat();
    assert!(told.contains("finished") && told.contains("is over"), "the reports are lost: {told}");
    boss.shutdown().in_time().await;
    let history = world.history("boss");
    history.assert_every_event_once_and_in_order();
    assert_eq!(history.settled(work.id()), [WorkResult::Finished]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_to_a_worker_that_reads_none_stand_in_history_and_start_no_turn() {
    let world = world();
    let boss = PodController::spawn(world.options("boss", WorkerSpec::command("true"))).await.unwrap();
    let child = scripted(&boss, "a", "runs = [[]]").await;
    reports(&boss, &child).await;
    world.at_rest_with("boss", 1).await;
    let history = world.history("boss");
    assert_eq!((history.told_of("a").len(), history.turns().len()), (2, 0));
    boss.shutdown().in_time().await;
}
