//! `pod send` and `pod stop`, and the exit code of each answer.

use pod::id::{Incarnation, PodId, PodName};
use pod::life_lock::LifeLock;
use pod::runtime_dir::Roots;
use rustix::process::Signal;

use crate::world::{Running, World, of_kind};

/// A pod that stays, and its child that is done.
async fn kept(world: &World) -> Running {
    let mut run = world.start(&["run", "--keep", "--child", "a=true"]);
    run.says("kept").await;
    run
}

#[tokio::test]
async fn work_is_accepted_once_under_its_key_and_committed() {
    let world = World::new();
    let run = kept(&world).await;
    let send = ["send", "run", "remember this", "--key", "00000000000000aa", "--json"];
    let first = world.pod(&send).await;
    assert_eq!(first.code, 0, "{first:?}");
    let again = world.pod(&send).await;
    assert_eq!(first.records(), again.records(), "another turn was given");
    let text = world.pod(&["send", "a", "again"]).await;
    assert!(text.code == 0 && text.stdout.starts_with("accepted: `a` does it in turn 2 (work "), "{text:?}");

    assert_eq!(world.pod(&["stop", "run"]).await.code, 0);
    run.ended().await;
    let history = world.history("run").await;
    let told: Vec<_> = of_kind(&history, "user_input").into_iter().filter(|e| e["text"] == "remember this").collect();
    assert_eq!(told.len(), 1);
}

#[tokio::test]
async fn note_is_queued_once_under_its_key() {
    let world = World::new();
    let run = kept(&world).await;
    let send = ["send", "run", "know this", "--notify", "--key", "00000000000000bb"];
    for _ in 0..2 {
        let sent = world.pod(&send).await;
        assert!(sent.code == 0 && sent.stdout.starts_with("queued: committed in the inbox of `run`"), "{sent:?}");
    }
    assert_eq!(world.pod(&["stop", "run"]).await.code, 0);
    run.ended().await;
    // A note that came just before the end waits in the inbox; it is in history at most once.
    let history = world.history("run").await;
    let notes = of_kind(&history, "system_item").into_iter().filter(|entry| entry["item"] == "note").count();
    assert!(notes <= 1, "{history:?}");
}

#[tokio::test]
async fn pod_that_is_busy_rejects_work() {
    let world = World::new();
    let mut run = world.start(&["run", "--child", "a=echo begun; exec sleep 600"]);
    run.says("work was given to `a`").await;
    world.until("`a` has begun", async || !of_kind(&world.history("a").await, "output").is_empty()).await;
    world.pod(&["send", "a", "more"]).await.refused(4, &["rejected", "is running"]);
    let json = world.pod(&["send", "a", "more", "--json"]).await;
    let error: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!((&error["type"], &error["exit"]), (&"error".into(), &4.into()));
    assert_eq!(world.pod(&["stop", "run", "--now"]).await.code, 0);
    assert_eq!(run.ended().await.code, 1);
}

#[tokio::test]
async fn pod_that_does_not_run_is_said_not_to() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "a=true"]).await.code, 0);
    for args in [&["send", "run", "x"][..], &["send", "a", "x", "--notify"], &["stop", "run"]] {
        world.pod(args).await.refused(6, &["does not run", "pod log"]);
    }
}

#[tokio::test]
async fn pod_that_lives_and_does_not_listen_is_not_delivered_to() {
    let world = World::new();
    std::fs::create_dir(world.root()).unwrap();
    private(&world.root());
    let name: PodName = "deaf".parse().unwrap();
    let paths = Roots::at(&world.root()).unwrap().pod(&name);
    paths.make_state_dir().unwrap();
    let held = LifeLock::acquire(&paths.life_lock(), &PodId::new(name, Incarnation(1))).unwrap();
    world.pod(&["send", "deaf", "x"]).await.refused(3, &["not delivered", "nothing listens", "safe to send it again"]);
    world.pod(&["stop", "deaf"]).await.refused(3, &["was not told to stop", &std::process::id().to_string()]);
    world.pod(&["log", "deaf"]).await.refused(6, &["`deaf`", "committed nothing yet"]);
    drop(held);
}

#[tokio::test]
async fn pod_that_does_not_answer_leaves_the_outcome_unknown() {
    let world = World::new();
    let run = kept(&world).await;
    run.stop().await;
    let asked = std::time::Instant::now();
    let sent = world.pod(&["send", "run", "x", "--timeout", "2s", "--key", "00000000000000cc"]).await;
    assert!(asked.elapsed() < std::time::Duration::from_secs(10), "the person was promised an answer after 2 s");
    sent.refused(5, &["unknown whether", "pod send run ... --key 00000000000000cc"]);
    let stop = world.pod(&["stop", "run", "--timeout", "300ms"]).await;
    stop.refused(5, &["still runs", &run.pid().to_string()]);
    let list = world.pod(&["ls"]).await;
    assert!(list.stdout.contains("no answer"), "{list:?}");
    run.signal(Signal::CONT);
    // The stop that was in doubt may have been taken up by now; then there is nobody left to stop.
    let stopped = world.pod(&["stop", "run"]).await.code;
    assert!([0, 3, 6].contains(&stopped), "{stopped}");
    run.ended().await;
}

#[tokio::test]
async fn stop_returns_when_the_process_is_gone_and_so_are_its_children() {
    let world = World::new();
    let run = kept(&world).await;
    let stop = world.pod(&["stop", "run", "--json"]).await;
    assert_eq!((stop.code, &stop.records()[0]["pid"]), (0, &run.pid().into()), "{stop:?}");
    assert!(world.list().await.iter().all(|pod| pod["alive"] == false));
    assert_eq!(run.ended().await.code, 0);
}

fn private(dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
}
