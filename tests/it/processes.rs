//! Processes: what becomes of a child whose parent dies, and what a child may leave behind.

use pod::{SpawnPod, Terminal, WorkResult, WorkerSpec};
use tests::world::{Ask, HostProcess, InTime as _, until};

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
