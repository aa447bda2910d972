//! Only the process that a parent started may report as that child.

use pod::id::{Seq, StreamId};
use pod::protocol::{ChildReady, PodEvent, PodEventOffer};
use pod::{WorkId, WorkerSpec};
use tests::world::{Ask, HostProcess, InTime as _, World};

use crate::world;

/// What the child `a` would offer next: right in everything but in who says it.
fn forgery(world: &World) -> PodEventOffer {
    let row = world.look("boss", |reads| reads.child_by_name(&"a".parse().unwrap())).unwrap();
    let stream = row.stream.unwrap();
    let next = world.look("boss", |reads| reads.watermark(stream)).0 + 1;
    let event = PodEvent::ShutDown { pod: row.pod.clone() };
    PodEventOffer { from: row.pod, stream, seq: Seq(next), event }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_of_a_childs_own_tool_is_refused_and_logged() {
    let world = world();
    let mut boss = HostProcess::start(&world, "boss", None).await.unwrap();
    let host = env!("CARGO_BIN_EXE_host_pod");
    // The tool is told by the work what to forge: its pod's life is not known before.
    let command = format!("'{host}' forge \"$PODS_ROOT/run/boss/pod.sock\" \"$POD_INPUT\"");
    boss.spawn("a", WorkerSpec::command(command)).await;
    let forged = forgery(&world);
    let work: WorkId = boss.run("a", &serde_json::to_string(&forged).unwrap()).await.unwrap();
    assert_eq!(boss.ask(Ask::Ended { work }).await.unwrap(), "TurnEnded(Finished)");
    let said = world.history("a").outputs().concat();
    assert!(said.contains("Err(Rejected(NotYourChild))"), "{said}");
    // The child's own next event, at the very place that was to be taken, is applied.
    world.at_rest_with("boss", 1).await;
    let history = world.history("boss");
    history.assert_every_event_once_and_in_order();
    let kinds: Vec<_> = history.told().iter().map(|(_, event)| event.kind()).collect();
    assert_eq!(kinds, ["turn_ended", "work_settled"]);
    assert!(history.terminals("a").is_empty());
    let log = boss.log();
    let line = log.lines().find(|line| line.contains("refused")).unwrap_or_else(|| panic!("nothing logged: {log}"));
    assert!(line.contains("WARN") && line.contains(&forged.from.to_string()), "{line}");
    boss.ask(Ask::Shutdown).await.unwrap();
    assert!(boss.wait().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_nobody_started_is_neither_heard_as_a_child_nor_taken_for_one() {
    let world = world();
    let mut boss = HostProcess::start(&world, "boss", None).await.unwrap();
    boss.spawn("a", WorkerSpec::command("true")).await;
    // This process: of the same user, and no child of the boss.
    let refused = world.client("boss").call(forgery(&world)).await;
    assert!(format!("{refused:?}").contains("Rejected(NotYourChild)"), "{refused:?}");
    let stranger = ChildReady {
        pod: forgery(&world).from,
        stream: StreamId::random(),
        pid: std::process::id(),
        socket: "/nowhere".into(),
        detached: false,
    };
    let refused = world.client("boss").call(stranger).await;
    assert!(format!("{refused:?}").contains("Rejected(NotYourChild)"), "{refused:?}");
    // The parent itself reports as nobody, either: there is no such child.
    let mut nobody = forgery(&world);
    nobody.from = pod::PodId::new("nobody".parse().unwrap(), pod::id::Incarnation::random());
    let refused = world.client("boss").call(nobody).await;
    assert!(format!("{refused:?}").contains("Rejected(NotYourChild)"), "{refused:?}");
    let work = boss.run("a", "go").await.unwrap();
    assert_eq!(boss.ask(Ask::Ended { work }).await.unwrap(), "TurnEnded(Finished)");
    boss.ask(Ask::Shutdown).await.unwrap();
    boss.wait().await;
    let history = world.history("boss");
    history.assert_every_event_once_and_in_order();
    history.assert_one_terminal_a_life();
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_heard_again_by_the_next_life_of_its_parent_is_known_by_its_life_lock() {
    let world = world();
    let mut boss = HostProcess::start(&world, "boss", Some("parent_after_commit_before_ack")).await.unwrap();
    let pid = boss.spawn("a", WorkerSpec::command("true")).await;
    let _ = boss.run("a", "go").await;
    boss.wait().await;
    // It is still there: for some seconds it tries to say its last words.
    assert!(world.processes().contains(&pid));
    let mut again = HostProcess::start(&world, "boss", None).await.unwrap();
    let refused = world.client("boss").call(forgery(&world)).await;
    assert!(refused.is_err(), "a stranger reported for the child: {refused:?}");
    world.at_rest("boss").await;
    assert_eq!(world.counts("a").outbox_pending, 0, "the child's own words were refused");
    assert_eq!(world.history("boss").terminals("a"), [pod::Terminal::ShutDown]);
    again.ask(Ask::Shutdown).await.unwrap();
    again.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_and_its_programs_inherit_no_descriptor_and_programs_are_not_told_what_their_pod_is() {
    let world = world();
    // Open in this process, and not said to be kept from what it starts.
    let kept = std::fs::File::create(world.root().join("not-yours")).unwrap();
    rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty()).unwrap();
    let boss = world.boss().await;
    let command = "echo told: ${POD_CHILD-nothing}; ls -l /proc/$PPID/fd /proc/$$/fd";
    let child = boss.spawn_pod(pod::SpawnPod::new("a".parse().unwrap(), WorkerSpec::command(command))).await.unwrap();
    let work = child.run("go").await.unwrap();
    assert_eq!(work.settled().in_time().await, pod::WorkResult::Finished);
    let said = world.history("a").outputs().concat();
    assert!(said.contains("told: nothing") && said.contains("store.db"), "{said}");
    assert!(!said.contains("not-yours"), "{said}");
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn name_of_a_dead_parents_child_is_nobody_elses_before_its_end_is_told_nor_after() {
    let world = world();
    let mut p = HostProcess::start(&world, "p", None).await.unwrap();
    p.spawn("b", WorkerSpec::command("true")).await;
    let work = p.run("b", "go").await.unwrap();
    p.ask(Ask::Ended { work }).await.unwrap();
    p.kill().await;
    world.deserted().await;
    let (left, stream) = (world.counts("b").outbox_pending, world.stream("b"));
    assert!(left > 0, "it has kept nothing for its parent");

    let mut q = HostProcess::start(&world, "q", None).await.unwrap();
    let spawn = || Ask::Spawn { name: "b".parse().unwrap(), worker: WorkerSpec::command("true") };
    let refused = q.ask(spawn()).await.expect_err("the parent is dead, and its child's name is not free");
    assert!(refused.contains("`b` is a child of pod `p`") && refused.contains("pod restore b"), "{refused}");
    let root = pod::PodController::spawn(world.options("b", WorkerSpec::ledger())).await.unwrap_err();
    assert!(
        matches!(&root, pod::StartError::Store { source: pod::store::StoreError::OtherParent { .. }, .. }),
        "{root:?}"
    );
    assert_eq!((world.counts("b").outbox_pending, world.stream("b")), (left, stream));

    let mut p = HostProcess::start(&world, "p", None).await.unwrap();
    world.at_rest("p").await;
    let history = world.history("p");
    history.assert_every_event_once_and_in_order();
    let kinds: Vec<_> = history.told().iter().map(|(_, event)| event.kind()).collect();
    assert!(!kinds.contains(&"gap"), "{kinds:?}");
    assert_eq!((history.terminals("b"), history.losses("b")), (vec![pod::Terminal::ShutDown], vec![]));

    // Its end is told; its history is p's all the same.
    let refused = q.ask(spawn()).await.expect_err("the child was buried by its parent, and belongs to it");
    assert!(refused.contains("`b` is a child of pod `p`"), "{refused}");
    assert!(world.history("q").told().is_empty(), "q was told of another's child");
    p.spawn("b", WorkerSpec::command("true")).await;
    assert_eq!(world.stream("b"), stream);
    for mut host in [p, q] {
        host.ask(Ask::Shutdown).await.unwrap();
        assert!(host.wait().await.success());
    }
    world.history("p").assert_every_event_once_and_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn children_of_a_pod_that_another_ones_program_has_started_are_none_of_its_programs() {
    let world = world();
    let mark = [("POD_LIFE", "00000000000000ff")];
    let mut boss = HostProcess::start_hosting(&world, "boss", "ledger", &mark).await.unwrap();
    let child = boss.spawn("a", WorkerSpec::command("true")).await;
    let environment = |pid: u32| std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let is_marked = |pid| String::from_utf8_lossy(&environment(pid)).contains("POD_LIFE=");
    assert_eq!((is_marked(boss.pid()), is_marked(child)), (true, false));
    boss.ask(Ask::Shutdown).await.unwrap();
    assert!(boss.wait().await.success());
}
