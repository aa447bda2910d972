//! Detaching: a child that would have ended with its parent is told to go on, and both agree about it, whoever dies when.

use pod::protocol::{ListRewindTargets, PodState, RewindAck, RewindChildren, RewindTo, Run, Status};
use pod::store::HistoryItem;
use pod::{Lifetime, LostReason, Terminal, WorkId, WorkerSpec};
use rpc::CallError;
use tests::world::{Ask, HostProcess, InTime as _, World, until};

use crate::world;

/// A parent with one turn behind it, and, started since, the tied child `a` with its process.
async fn with_tied_child(world: &World, environment: &[(&str, &str)]) -> (HostProcess, u32, RewindTo) {
    let mut boss = HostProcess::start_hosting(world, "boss", "scripted", environment).await.unwrap();
    let client = world.client("boss");
    client.call(Run { work: WorkId(1), input: "begin".into() }).await.unwrap();
    while client.call(Status).await.unwrap().state != PodState::Idle {
        tokio::task::yield_now().await;
    }
    let pid = boss.spawn("a", WorkerSpec::command("true")).await;
    let seen = client.call(ListRewindTargets).await.unwrap();
    assert_eq!(seen.targets[0].children, 1);
    let target = seen.targets[0].turn;
    (boss, pid, RewindTo { target, expected_head: seen.head, children: RewindChildren::Detach })
}

fn lifetime(world: &World) -> Lifetime {
    world.look("boss", |reads| reads.children())[0].lifetime
}

fn told(world: &World, pod: &str) -> usize {
    world.history(pod).0.iter().filter(|row| matches!(row.item, HistoryItem::ChildDetached { .. })).count()
}

/// The next life of the parent has the child, which works for it and ends when it is told to.
async fn goes_on(world: &World, pid: u32) {
    assert!(world.processes().contains(&pid), "it has ended with its parent");
    let mut again = HostProcess::start_hosting(world, "boss", "scripted", &[]).await.unwrap();
    until("it is found again, as what it is", || (lifetime(world) == Lifetime::Detached).then_some(())).await;
    let work = again.run("a", "once more").await.unwrap();
    assert_eq!(again.ask(Ask::Ended { work }).await.unwrap(), "TurnEnded(Finished)");
    assert_eq!((told(world, "boss"), told(world, "a")), (1, 1));
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
async fn rewind_that_detaches_a_tied_child_leaves_it_its_edge_and_it_outlives_its_parent() {
    let world = world();
    let (mut boss, pid, request) = with_tied_child(&world, &[]).await;
    let RewindAck::Rewound(rewound) = world.client("boss").call(request).in_time().await.unwrap() else { panic!() };
    assert_eq!((rewound.children_detached, rewound.children_stopped, rewound.turns), (1, 0, 1));
    assert_eq!((lifetime(&world), told(&world, "boss"), told(&world, "a")), (Lifetime::Detached, 1, 1));
    // It is supervised as before, and its events come.
    let work = boss.run("a", "go on").await.unwrap();
    assert_eq!(boss.ask(Ask::Ended { work }).await.unwrap(), "TurnEnded(Finished)");
    boss.kill().await;
    goes_on(&world, pid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parent_that_dies_before_it_has_recorded_a_detached_child_learns_it_from_that_child() {
    let world = world();
    let armed = [("POD_FAILPOINT", "parent_child_detached_before_record"), ("POD_FAILPOINT_POD", "boss")];
    let (mut boss, pid, request) = with_tied_child(&world, &armed).await;
    let answer = world.client("boss").call(request).in_time().await;
    assert!(matches!(answer, Err(CallError::Unknown(_))), "{answer:?}");
    boss.wait().await;
    assert_eq!((lifetime(&world), told(&world, "a")), (Lifetime::Tied, 1));
    goes_on(&world, pid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_dies_before_it_has_said_that_it_is_detached_has_its_one_end() {
    let world = world();
    world.arm("a", "child_detached_before_ack");
    let (mut boss, _, request) = with_tied_child(&world, &[]).await;
    let RewindAck::Rewound(rewound) = world.client("boss").call(request).in_time().await.unwrap() else { panic!() };
    // It stands in nobody's way any more, and goes on nowhere.
    assert_eq!((rewound.children_detached, rewound.children_stopped), (0, 0));
    let history = world.history("boss");
    let killed = Terminal::Lost { reason: LostReason::Killed { signal: 9 } };
    assert_eq!(history.terminals("a"), [killed]);
    history.assert_one_terminal_a_life();
    boss.ask(Ask::Shutdown).await.unwrap();
    assert!(boss.wait().await.success());
    world.deserted().await;
}
