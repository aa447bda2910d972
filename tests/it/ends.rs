//! Every way in which a turn or a life can end is reported, as what it was; only delegated work is reported.

use std::time::Duration;

use futures::future::join_all;
use pod::protocol::{Cancel, LocalEvent, Notify, PodEvent, PodState, Resume, Run, Shutdown, ShutdownMode};
use pod::store::{Direction, HistoryItem, TurnCause};
use pod::{
    Child, ChildPhase, LostReason, PodHandle, RunError, SpawnPod, Terminal, TurnResult, WorkEnd, WorkResult, WorkerSpec,
};
use rustix::process::{Pid, Signal, kill_process};
use tests::world::{InTime as _, until};

use crate::world;

pub(crate) async fn scripted(boss: &PodHandle, name: &str, script: &str) -> Child {
    let worker = WorkerSpec::scripted(script, name).unwrap();
    boss.spawn_pod(SpawnPod::new(name.parse().unwrap(), worker)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_which_a_turn_ends_is_reported_as_what_it_was() {
    use TurnResult as R;
    let world = world();
    let boss = world.boss().await;
    let ended = WorkEnd::TurnEnded;
    let errored = |message: &str| WorkEnd::Errored { message: message.to_owned() };
    let table = [
        ("finished", "{say = 'x'}", ended(R::Finished), Some(WorkResult::Finished)),
        ("limit", "'limit'", ended(R::LimitReached), Some(WorkResult::LimitReached)),
        ("rolled-back", "'roll_back'", ended(R::RolledBack), Some(WorkResult::Cancelled)),
        ("cancelled", "'cancel'", ended(R::Cancelled), Some(WorkResult::Cancelled)),
        ("failed", "{fail = 'no disk'}", errored("no disk"), Some(WorkResult::Failed)),
        ("panicked", "{panic = 'no luck'}", errored("the worker panicked: no luck"), Some(WorkResult::Failed)),
        // Paused work is not over.
        ("paused", "'pause'", ended(R::Paused), None),
    ];
    join_all(table.map(|(name, step, expected, result)| {
        let (world, boss) = (&world, &boss);
        async move {
            let child = scripted(boss, name, &format!("runs = [[{step}]]")).await;
            let work = child.run("go").await.unwrap();
            assert_eq!(work.ended().in_time().await, expected, "{name}");
            if let Some(result) = result {
                assert_eq!(work.settled().in_time().await, result, "{name}");
            }
            until(&format!("`{name}` has been told"), || {
                let history = world.history("boss");
                let settled = result.is_none() || history.told_of(name).len() == 2;
                (!history.ends_of(work.id()).is_empty() && settled).then_some(())
            })
            .await;
            let history = world.history("boss");
            assert_eq!(history.ends_of(work.id()), [expected], "{name}");
            assert_eq!(history.settled(work.id()), result.into_iter().collect::<Vec<_>>(), "{name}");
        }
    }))
    .await;
    boss.shutdown().in_time().await;
    // A paused turn's work is over with the pod that had it.
    let history = world.history("boss");
    history.assert_one_terminal_a_life();
    assert_eq!(history.terminals("paused"), [Terminal::ShutDown]);
    assert_eq!(world.counts("boss").works_delegated_open, 0, "the paused work is still open");
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn turn_that_is_cut_short_by_the_end_of_its_pod_is_reported_as_interrupted() {
    let world = world();
    let boss = world.boss().await;
    let child = scripted(&boss, "a", "runs = [[{say = 'began'}, {sleep_ms = 600000}]]").await;
    let work = child.run("go").await.unwrap();
    until("the turn runs", || world.history("a").outputs().contains(&"began").then_some(())).await;
    world.client("a").call(Shutdown { mode: ShutdownMode::Now }).await.unwrap();
    assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Interrupted));
    assert_eq!(work.settled().in_time().await, WorkResult::Interrupted);
    assert_eq!(child.terminal().in_time().await.unwrap(), Terminal::ShutDown);
    boss.shutdown().in_time().await;
    assert_eq!(world.history("boss").terminals("a"), [Terminal::ShutDown]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_is_reported_as_cancelled_and_never_as_an_error() {
    let world = world();
    let boss = world.boss().await;
    let sleeps = scripted(&boss, "sleeps", "runs = [[{say = 'began'}, {sleep_ms = 600000}]]").await;
    let command = SpawnPod::new("command".parse().unwrap(), WorkerSpec::command("echo began; sleep 600"));
    let command = boss.spawn_pod(command).await.unwrap();
    for child in [sleeps, command] {
        let name = child.id().name.as_str();
        let work = child.run("go").await.unwrap();
        until("the turn runs", || world.history(name).outputs().iter().any(|o| o.contains("began")).then_some(()))
            .await;
        let ack = world.client(name).call(Cancel).await.unwrap();
        assert!(ack.staged, "{name}: the running turn was told");
        assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Cancelled), "{name}");
        assert_eq!(work.settled().in_time().await, WorkResult::Cancelled, "{name}");
        // It takes work again: a cancelled turn is no block.
        until("it is idle again", || (world.look(name, |reads| reads.control()).state == PodState::Idle).then_some(()))
            .await;
    }
    boss.shutdown().in_time().await;
    let errors = |(_, event): &(_, &LocalEvent)| matches!(event, LocalEvent::Reported(PodEvent::Errored { .. }));
    assert_eq!(world.history("boss").told().iter().filter(|told| errors(told)).count(), 0);
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_does_not_end_its_turn_is_ended_and_reported_as_cancelled() {
    let world = world();
    let boss = world.boss().await;
    let deaf = SpawnPod::new("deaf".parse().unwrap(), WorkerSpec::of_kind("deaf"));
    let deaf = boss.spawn_pod(deaf).await.unwrap();
    let work = deaf.run("go").await.unwrap();
    world.client("deaf").call(Cancel).await.unwrap();
    let cancelled = tokio::time::timeout(Duration::from_secs(30), work.ended()).await.expect("its pod has patience");
    assert_eq!(cancelled, WorkEnd::TurnEnded(TurnResult::Cancelled));
    // A new worker is made for the next turn.
    let again = deaf.run("again").await.unwrap();
    assert_ne!(again.id(), work.id());
    boss.shutdown().in_time().await;
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_delegated_work_is_reported() {
    let world = world();
    let boss = world.boss().await;
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::ledger())).await.unwrap();
    let note = Notify { key: pod::id::NoteKey::random(), message: "by the way".into(), auto_run: true };
    assert!(world.client("a").call(note).await.unwrap().woke, "an idle pod starts a turn for it");
    world.at_rest("a").await;
    let own = world.history("a");
    assert_eq!(own.turns().iter().map(|(_, cause)| *cause).collect::<Vec<_>>(), [TurnCause::Reports]);
    assert_eq!(own.outcomes().len(), 1);
    assert_eq!(world.look("a", |reads| reads.outbox_head()).0, 0, "a turn of its own was reported");

    // What somebody gives it directly is work like any other, and its parent learns of it.
    let work = pod::WorkId::random();
    world.client("a").call(Run { work, input: "do it".into() }).await.unwrap();
    until("its parent was told", || (!world.history("boss").ends_of(work).is_empty()).then_some(())).await;
    boss.shutdown().in_time().await;
    let history = world.history("boss");
    assert_eq!(history.ends_of(work), [WorkEnd::TurnEnded(TurnResult::Finished)]);
    assert_eq!(child.id().name.as_str(), "a");
    history.assert_every_event_once_and_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn turn_that_a_report_starts_is_reported_when_it_belongs_to_somebodys_work() {
    let world = world();
    let boss = world.boss().await;
    let script = "runs = [[{spawn = {name = 'leaf', worker = {kind = 'command', command = 'true'}}}, \
                  {run = {child = 'leaf', input = 'go'}}]]";
    let mid = scripted(&boss, "mid", script).await;
    let work = mid.run("go").await.unwrap();
    assert_eq!(work.settled().in_time().await, WorkResult::Finished);
    world.at_rest_with("boss", 1).await;
    let causes: Vec<_> = world.history("mid").turns().into_iter().map(|(_, cause)| cause).collect();
    assert!(causes.contains(&TurnCause::Reports), "the leaf's reports started no turn: {causes:?}");
    // Its own turn, and each that a report of the leaf started: all carry the work.
    let ends = world.history("boss").ends_of(work.id());
    assert_eq!(ends.len(), causes.len(), "turns of the work: {causes:?}, reported: {ends:?}");
    assert_eq!(world.history("boss").settled(work.id()), [WorkResult::Finished]);
    boss.shutdown().in_time().await;
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_exits_by_itself_is_lost_with_its_code() {
    let world = world();
    let boss = world.boss().await;
    let child = scripted(&boss, "a", "runs = [[{exit = 3}]]").await;
    // It may have gone before its word that it takes the work has left.
    let given = child.run("go").await;
    let work = match &given {
        Ok(work) => work.id(),
        Err(RunError::Unknown { work, .. }) => *work,
        Err(other) => panic!("{other}"),
    };
    let reason = LostReason::Exited { code: 3 };
    assert_eq!(child.terminal().in_time().await.unwrap(), Terminal::Lost { reason });
    if let Ok(work) = given {
        assert_eq!(work.ended().in_time().await, WorkEnd::Lost(reason));
        assert_eq!(work.settled().in_time().await, WorkResult::Lost);
    }
    world.at_rest("boss").await;
    let history = world.history("boss");
    assert_eq!((history.losses("a"), history.settled(work)), (vec![reason], vec![WorkResult::Lost]));
    history.assert_one_terminal_a_life();
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_die_in_the_same_instant_are_each_reported_once() {
    const CHILDREN: usize = 64;
    let world = world();
    let boss = world.boss().await;
    let mut works = Vec::new();
    let names: Vec<String> = (0..CHILDREN).map(|number| format!("c{number:02}")).collect();
    for names in names.chunks(8) {
        let started = names.iter().map(|name| async {
            let child = scripted(&boss, name, "runs = [[{sleep_ms = 600000}]]").await;
            let work = child.run("go").await.unwrap();
            (name.clone(), child, work)
        });
        works.extend(join_all(started).await);
    }
    let pids: Vec<Pid> =
        boss.children().iter().map(|line| Pid::from_raw(line.pid.unwrap().cast_signed()).unwrap()).collect();
    assert_eq!(pids.len(), CHILDREN);
    // They are children of this process and not reaped before they are dead: the numbers are theirs.
    pids.iter().for_each(|pid| kill_process(*pid, Signal::KILL).unwrap());
    let reason = LostReason::Killed { signal: 9 };
    for (name, child, work) in &works {
        assert_eq!(child.terminal().in_time().await.unwrap(), Terminal::Lost { reason }, "{name}");
        assert_eq!(work.ended().in_time().await, WorkEnd::Lost(reason), "{name}");
    }
    boss.settled().in_time().await.unwrap();
    world.at_rest("boss").await;
    let history = world.history("boss");
    history.assert_one_terminal_a_life();
    for (name, _, work) in &works {
        assert_eq!(history.losses(name), [reason], "{name}");
        assert_eq!(history.settled(work.id()), [WorkResult::Lost], "{name}");
    }
    assert!(boss.children().iter().all(|line| line.phase == ChildPhase::Ended));
    boss.shutdown().in_time().await;
    world.deserted().await;
}

/// What a test does to a pod whose turn does not end by itself.
#[derive(Clone, Copy, PartialEq)]
enum Poke {
    Nothing,
    Resume,
    Cancel,
    End,
}

/// Does it, once the pod has come that far.
async fn poke(world: &tests::world::World, name: &str, poke: Poke) {
    let state = |wanted| async move {
        let is = || (world.look(name, |reads| reads.control()).state == wanted).then_some(());
        until(&format!("`{name}` is {wanted}"), is).await;
    };
    match poke {
        Poke::Nothing => {}
        Poke::Resume => {
            state(PodState::Paused).await;
            world.client(name).call(Resume).await.unwrap();
        }
        Poke::Cancel => {
            state(PodState::Paused).await;
            world.client(name).call(Cancel).await.unwrap();
        }
        Poke::End => {
            let began = || world.history(name).outputs().contains(&"began").then_some(());
            until(&format!("`{name}` has begun"), began).await;
            world.client(name).call(Shutdown { mode: ShutdownMode::Now }).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_which_a_turn_ends_settles_its_work_once_at_each_depth() {
    use TurnResult as R;
    let world = world();
    let boss = world.boss().await;
    let ended = |results: &[R]| results.iter().copied().map(WorkEnd::TurnEnded).collect::<Vec<_>>();
    let table = [
        ("finished", "[{say = 'x'}]", Poke::Nothing, ended(&[R::Finished]), WorkResult::Finished),
        ("limit", "['limit']", Poke::Nothing, ended(&[R::LimitReached]), WorkResult::LimitReached),
        ("resumed", "['pause'], [{say = 'on'}]", Poke::Resume, ended(&[R::Paused, R::Finished]), WorkResult::Finished),
        ("given-up", "['pause']", Poke::Cancel, ended(&[R::Paused, R::Cancelled]), WorkResult::Cancelled),
        ("undone", "['roll_back']", Poke::Nothing, ended(&[R::RolledBack]), WorkResult::Cancelled),
        ("cancelled", "['cancel']", Poke::Nothing, ended(&[R::Cancelled]), WorkResult::Cancelled),
        ("cut", "[{say = 'began'}, {sleep_ms = 600000}]", Poke::End, ended(&[R::Interrupted]), WorkResult::Interrupted),
        (
            "failed",
            "[{fail = 'no'}]",
            Poke::Nothing,
            vec![WorkEnd::Errored { message: "no".into() }],
            WorkResult::Failed,
        ),
    ];
    // One after another: three processes each.
    for (name, runs, what, ends, result) in table {
        let near = scripted(&boss, &format!("near-{name}"), &format!("runs = [{runs}]")).await;
        let work = near.run("go").await.unwrap();
        poke(&world, near.id().name.as_str(), what).await;
        assert_eq!(work.settled().in_time().await, result, "{name}");
        // The same below a pod that only passes it on.
        let (mid, far) = (format!("mid-{name}"), format!("far-{name}"));
        let script = format!(
            "runs = [[{{spawn = {{name = '{far}', worker = {{kind = 'scripted', runs = [{runs}]}}}}}}, \
             {{run = {{child = '{far}', input = 'go'}}}}, {{say = 'given'}}]]"
        );
        let above = scripted(&boss, &mid, &script).await.run("go").await.unwrap();
        until("it is given", || world.history(&mid).outputs().contains(&"given").then_some(())).await;
        let far_work = world.look(&mid, |reads| reads.works(Direction::Delegated, false))[0].work;
        poke(&world, &far, what).await;
        // What it came to is that of its own last turn; and it is not over before the other is.
        assert_eq!(above.settled().in_time().await, WorkResult::Finished, "{name}");
        for (pod, work) in [("boss", work.id()), (mid.as_str(), far_work)] {
            let history = world.history(pod);
            // A pod that was stopped in its turn is told of before its last event is.
            assert_eq!(
                (history.ends_of(work), history.settled(work)),
                (ends.clone(), vec![result]),
                "{name}, at {pod}"
            );
        }
        let history = world.history("boss");
        assert_eq!(history.settled(above.id()), [WorkResult::Finished], "{name}");
        for child in [near.id().name.as_str(), &mid] {
            if boss.child(&child.parse().unwrap()).is_some() {
                boss.stop_pod(&child.parse().unwrap(), Duration::from_secs(20)).in_time().await.unwrap();
            }
        }
    }
    boss.shutdown().in_time().await;
    world.history("boss").assert_every_event_once_and_in_order();
    world.deserted().await;
}

/// LIMIT: processes below each other; deep enough that no level is the first, the last, or next to one of them.
const DEPTH: usize = 8;

/// The keys of a worker at `depth`, which gives its work on to the one below it.
fn gives_on(depth: usize) -> String {
    if depth == DEPTH {
        return "runs = [[{say = 'done'}]]".to_owned();
    }
    let below = format!("d{}", depth + 1);
    format!(
        "runs = [[{{spawn = {{name = '{below}', worker = {{kind = 'scripted', {}}}}}}}, \
         {{run = {{child = '{below}', input = 'go'}}}}, {{say = 'given'}}]]",
        gives_on(depth + 1)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_given_on_again_and_again_is_settled_at_each_level_once_and_behind_the_one_below() {
    let world = world();
    let boss = world.boss().await;
    let top = scripted(&boss, "d1", &gives_on(1)).await;
    let work = top.run("go").await.unwrap();
    assert_eq!(work.settled().in_time().await, WorkResult::Finished);
    for depth in 1..=DEPTH {
        let history = world.history(&format!("d{depth}"));
        let of = |item: &HistoryItem| match item {
            HistoryItem::WorkSettled { result, child } => Some((*result, child.as_ref().map(ToString::to_string))),
            _ => None,
        };
        let settled: Vec<_> = history.0.iter().filter_map(|row| of(&row.item)).collect();
        let below = (depth < DEPTH).then(|| (WorkResult::Finished, Some(format!("d{}", depth + 1))));
        let expected: Vec<_> = below.into_iter().chain([(WorkResult::Finished, None)]).collect();
        assert_eq!(settled, expected, "at depth {depth}");
        let open = world.look(&format!("d{depth}"), |reads| {
            Ok(reads.works_open(Direction::Received)? + reads.works_open(Direction::Delegated)?)
        });
        assert_eq!(open, 0, "at depth {depth}");
    }
    assert_eq!(world.history("boss").settled(work.id()), [WorkResult::Finished]);
    boss.shutdown().in_time().await;
    world.deserted().await;
}
