//! `pod demo`.

use crate::world::{World, of_kind, of_type, table_line};

#[tokio::test]
async fn demo_shows_every_end_and_what_it_proved() {
    let world = World::new();
    let demo = world.pod(&["demo"]).await;
    assert_eq!((demo.code, demo.stderr.as_str()), (0, ""), "{demo:?}");
    for (child, words) in [
        ("finishes", ["turn ended: finished", "finished"]),
        ("fails", ["errored: the command exited with code 3", "failed"]),
        ("killed", ["lost: killed by signal 9", "lost"]),
        ("delegates", ["turn ended: finished", "finished"]),
    ] {
        let line = table_line(&demo, child);
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    assert!(demo.stdout.contains("delegates > grandchild"), "{demo:?}");
    assert!(demo.stdout.contains("Proved"), "{demo:?}");

    // What it said stands in the history that it kept.
    let history = world.history("demo").await;
    let killed: Vec<_> =
        of_kind(&history, "child_terminal").into_iter().filter(|entry| entry["child"]["name"] == "killed").collect();
    assert_eq!(killed.len(), 1);
    assert_eq!(killed[0]["terminal"]["reason"]["signal"], 9);
    assert!(of_kind(&world.history("killed").await, "output").len() == 1, "it was not in the middle of its work");
    assert!(world.list().await.iter().all(|pod| pod["alive"] == false));
}

#[tokio::test]
async fn demo_is_the_same_a_second_time_and_in_json() {
    let world = World::new();
    assert_eq!(world.pod(&["demo"]).await.code, 0);
    let demo = world.pod(&["demo", "--json"]).await;
    assert_eq!(demo.code, 0, "{demo:?}");
    let records = demo.records();
    assert_eq!(of_type(&records, "work").len(), 5);
    let summary = records.last().unwrap();
    assert_eq!((&summary["works"], &summary["exit"]), (&5.into(), &0.into()));
    assert!(summary["proved"].is_string());
}

#[tokio::test]
async fn demo_that_has_no_time_says_what_is_missing() {
    let world = World::new();
    let demo = world.pod(&["demo", "--timeout", "1ms"]).await;
    assert_eq!(demo.code, 1, "{demo:?}");
    assert!(demo.stdout.contains("Not as it must be:") && demo.stdout.contains("within 0.001 s"), "{demo:?}");
    assert!(!demo.stdout.contains("Proved"), "{demo:?}");
}
