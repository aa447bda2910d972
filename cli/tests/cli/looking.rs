//! `pod log` and `pod ls`, on pods that live and on pods that do not.

use crate::world::World;

#[tokio::test]
async fn ended_pods_are_listed_with_their_parent_and_logged() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "a=true"]).await.code, 0);
    let list = world.list().await;
    let names: Vec<_> = list.iter().map(|pod| (pod["name"].clone(), pod["parent"].clone())).collect();
    assert_eq!(names, [("a".into(), "run".into()), ("run".into(), serde_json::Value::Null)]);
    for pod in &list {
        assert_eq!((&pod["alive"], &pod["outbox"], &pod["undeliverable"]), (&false.into(), &0.into(), &0.into()));
    }
    let text = world.pod(&["ls"]).await;
    let line = text.stdout.lines().find(|line| line.starts_with("a ")).unwrap();
    assert!(line.contains("ended") && line.contains("run"), "{line}");

    let log = world.pod(&["log", "run"]).await;
    assert_eq!(log.code, 0);
    for words in ["child `a` was spawned", "work was given to `a`: true", "child `a` shut down"] {
        assert!(log.stdout.contains(words), "{}", log.stdout);
    }
    assert!(!log.stdout.contains('\u{1b}'), "colour without a terminal");
}

#[tokio::test]
async fn last_entries_are_those_that_the_limit_says() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "a=true"]).await.code, 0);
    let all = world.history("run").await;
    let last = world.pod(&["log", "run", "--json", "--limit", "2"]).await.records();
    assert_eq!(last, all[all.len() - 2..]);
    assert!(world.pod(&["log", "run", "--json", "--limit", "0"]).await.records().is_empty());
    assert_eq!(world.pod(&["log", "run", "--json", "--limit", "99999"]).await.records(), all);
}

#[tokio::test]
async fn living_pods_are_listed_with_their_process_and_say_what_they_do() {
    let world = World::new();
    let mut run = world.start(&["run", "--keep", "--child", "a=true"]);
    run.says("kept").await;
    let list = world.list().await;
    let parent = list.iter().find(|pod| pod["name"] == "run").unwrap();
    assert_eq!((&parent["alive"], &parent["pid"]), (&true.into(), &run.pid().into()));
    assert_eq!((&parent["state"], &parent["children_live"]), (&"idle".into(), &1.into()));
    let child = list.iter().find(|pod| pod["name"] == "a").unwrap();
    assert_eq!((&child["alive"], &child["parent"]), (&true.into(), &"run".into()));
    assert_eq!(world.history("run").await[0]["kind"], "life_started", "the log of a living pod");
    assert_eq!(world.pod(&["stop", "run"]).await.code, 0);
    assert_eq!(run.ended().await.code, 0);
}

#[tokio::test]
async fn figures_for_a_collector_say_of_each_pod_what_the_list_says() {
    let world = World::new();
    let nothing = world.pod(&["metrics"]).await;
    assert!(nothing.code == 0 && nothing.stdout.ends_with("# EOF\n"), "{nothing:?}");
    let mut run = world.start(&["run", "--keep", "--child", "a=true"]);
    run.says("kept").await;
    let figures = world.pod(&["metrics"]).await;
    assert_eq!(figures.code, 0, "{figures:?}");
    let found = |line: &str| figures.stdout.lines().any(|found| found == line);
    for line in [
        "# TYPE pod_outbox_pending gauge",
        "pod_alive{pod=\"run\",parent=\"\"} 1",
        "pod_answers{pod=\"a\",parent=\"run\"} 1",
        "pod_outbox_pending{pod=\"a\",parent=\"run\"} 0",
        "pod_children_live{pod=\"run\",parent=\"\"} 1",
        "pod_state{pod=\"run\",parent=\"\",state=\"idle\"} 1",
        "# EOF",
    ] {
        assert!(found(line), "`{line}` is not in: {}", figures.stdout);
    }
    // Killed, it says nothing any more; its store still does.
    run.signal(rustix::process::Signal::KILL);
    run.ended().await;
    let file = world.file("pods.prom", "old");
    let written = world.pod(&["metrics", "--out", &file]).await;
    assert!(written.code == 0 && written.stdout.is_empty(), "{written:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("pod_alive{pod=\"run\",parent=\"\"} 0\n") && text.ends_with("# EOF\n"), "{text}");
    assert!(!text.contains("pod_answers{pod=\"run\""), "{text}");
    world.pod(&["metrics", "--out", "/nonexistent/x"]).await.refused(2, &["/nonexistent/x", "cannot be written"]);
}

#[tokio::test]
async fn looking_makes_nothing() {
    let world = World::new();
    let list = world.pod(&["ls"]).await;
    assert_eq!((list.code, list.stdout.as_str()), (0, "no pods\n"));
    assert!(world.pod(&["ls", "--json"]).await.records().is_empty());
    world.pod(&["log", "a"]).await.refused(6, &["no pod `a`", "root", "does not exist", "--root"]);
    assert!(!world.root().exists());
}

#[tokio::test]
async fn name_that_is_unknown_is_answered_with_those_that_there_are() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "a=true"]).await.code, 0);
    for args in [&["log", "b"][..], &["send", "b", "x"], &["stop", "b"]] {
        world.pod(args).await.refused(6, &["no pod `b`", "`a`, `run`"]);
        assert!(!world.root().join("state/b").exists());
    }
}

#[tokio::test]
async fn store_that_is_no_store_is_named_and_left_alone() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "a=true"]).await.code, 0);
    let store = world.root().join("state/a/store.db");
    std::fs::remove_file(store.with_extension("db-wal")).ok();
    std::fs::write(&store, "not a database, but long enough to be taken for one".repeat(20)).unwrap();
    world.pod(&["log", "a"]).await.refused(70, &["history of `a`", "state/a/store.db"]);
    let list = world.pod(&["ls"]).await;
    assert_eq!(list.code, 0, "{list:?}");
    assert!(list.stdout.contains("the store of `a` cannot be read"), "{list:?}");
}
