//! The procedures of docs/OPERATIONS.md, and `pod doctor`, as people use them.

use crate::world::{World, of_type};

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_pods_that_have_run_and_exits_with_0() {
    let world = World::new();
    let before = world.pod(&["doctor"]).await;
    assert_eq!(before.code, 0, "{before:?}");
    assert!(before.stdout.contains("does not exist yet") && !world.root().exists(), "{before:?}");
    assert_eq!(world.pod(&["run", "--child", "a=true"]).await.code, 0);
    let done = world.pod(&["doctor"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    for words in ["pidfd", "Landlock", "2 pods, of which 0 live: nothing is wrong"] {
        assert!(done.stdout.contains(words), "`{words}`: {done:?}");
    }
    let records = world.pod(&["doctor", "--json"]).await.records();
    let facts = of_type(&records, "fact");
    for name in ["openat2", "Landlock", "confinement", "registry"] {
        assert!(facts.iter().any(|fact| fact["name"] == name), "no `{name}` in {facts:?}");
    }
    let summary = of_type(&records, "summary");
    assert_eq!((&summary[0]["open"], &summary[0]["pods"]), (&0.into(), &2.into()), "{records:?}");
}

#[tokio::test]
async fn doctor_names_what_is_wrong_mends_what_it_may_and_its_exit_code_tells() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "a=true"]).await.code, 0);
    let state = world.root().join("state/a");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    let left = world.root().join("run/a");
    std::fs::create_dir(&left).unwrap();
    std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(left.join("life"), "0000000000000001").unwrap();
    let found = world.pod(&["doctor"]).await;
    assert_eq!(found.code, 8, "{found:?}");
    for words in ["state/a", "mode 755", "chmod 700", "run/a", "a dead life has left it", "2 to be seen to, 0 mended"] {
        assert!(found.stdout.contains(words), "`{words}`: {}", found.stdout);
    }
    let mended = world.pod(&["doctor", "--fix", "--json"]).await;
    assert_eq!(mended.code, 0, "{mended:?}");
    let records = mended.records();
    // And the root's life, which is over, is no longer in the registry.
    assert_eq!(of_type(&records, "summary")[0]["mended"], 3);
    assert!(of_type(&records, "finding").iter().any(|found| found["check"] == "registry"), "{records:?}");
    assert!(!left.exists());
    assert_eq!(world.pod(&["doctor"]).await.code, 0);

    std::fs::remove_file(state.join("store.db-wal")).ok();
    std::fs::write(state.join("store.db"), "no store, but long enough to be taken for one".repeat(20)).unwrap();
    let found = world.pod(&["doctor", "--fix", "--json"]).await;
    assert_eq!(found.code, 8, "{found:?}");
    let records = found.records();
    let finding = of_type(&records, "finding")[0];
    assert_eq!((&finding["check"], &finding["severity"]), (&"store".into(), &"problem".into()), "{finding}");
}

#[tokio::test]
async fn doctor_leaves_pods_that_live_alone() {
    let world = World::new();
    let mut run = world.start(&["run", "--keep", "--child", "a=true"]);
    run.says("kept").await;
    let done = world.pod(&["doctor", "--fix"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("2 pods, of which 2 live: nothing is wrong"), "{done:?}");
    let list = world.list().await;
    assert!(list.iter().all(|pod| pod["state"] == "idle"), "{list:?}");
    assert_eq!(world.pod(&["stop", "run"]).await.code, 0);
    assert_eq!(run.ended().await.code, 0);
}

#[tokio::test]
async fn tree_that_was_backed_up_moved_and_restored_goes_on() {
    let world = World::new();
    let world = &world;
    let run = |root: std::path::PathBuf| async move {
        let done = world.pod_below(&root, &["run", "--json", "--child", "a=echo done", "--child", "b=true"]).await;
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(of_type(&done.records(), "work").len() % 2, 0);
    };
    run(world.root()).await;
    let script = format!(
        "set -e; cd {}; cp -a root/state backup
         $POD doctor >/dev/null; mkdir -m 700 moved; mv root/state moved/state",
        world.path(".").display()
    );
    let done = world.shell("bash", &script).await;
    assert_eq!(done.code, 0, "{done:?}");
    // Moved: it goes on with its history.
    run(world.path("moved")).await;
    let lives =
        |done: crate::world::Done| done.records().iter().filter(|entry| entry["kind"] == "life_started").count();
    assert_eq!(lives(world.pod_below(&world.path("moved"), &["log", "a", "--json"]).await), 2);
    // Restored: it is what it was, and goes on.
    let script = format!("set -e; cd {}; rm -rf moved/state; cp -a backup moved/state", world.path(".").display());
    assert_eq!(world.shell("bash", &script).await.code, 0);
    let doctor = world.pod_below(&world.path("moved"), &["doctor"]).await;
    assert_eq!(doctor.code, 0, "{doctor:?}");
    assert_eq!(lives(world.pod_below(&world.path("moved"), &["log", "a", "--json"]).await), 1);
    run(world.path("moved")).await;
    // Only the child is restored: it says that it is older, and its work is done all the same.
    let script =
        format!("set -e; cd {}; rm -rf moved/state/a; cp -a backup/a moved/state/a", world.path(".").display());
    assert_eq!(world.shell("bash", &script).await.code, 0);
    run(world.path("moved")).await;
    let log = world.pod_below(&world.path("moved"), &["log", "a"]).await;
    assert!(log.stdout.contains("this store is an older copy"), "{}", log.stdout);
    let log = world.pod_below(&world.path("moved"), &["log", "run"]).await;
    assert!(log.stdout.contains("its store is an older copy"), "{}", log.stdout);
}
