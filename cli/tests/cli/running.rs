//! `pod run`.

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{World, of_kind, of_type, table_line};

/// A child's work that lasts for as long as anybody waits, and is committed as begun.
const LONG: &str = "echo begun; exec sleep 600";

/// The reports of the child `name` in a history, of one kind of event.
fn reports<'a>(history: &'a [Value], name: &str, event: &str) -> Vec<&'a Value> {
    let items = of_kind(history, "system_item").into_iter();
    items.filter_map(|item| item["event"]["reported"].get(event)).filter(|event| event["pod"]["name"] == name).collect()
}

#[tokio::test]
async fn both_ends_are_shown_and_committed_and_a_failed_child_is_exit_1() {
    let world = World::new();
    let run = world.pod(&["run", "--child", "a=echo one | head -3", "--child", "b=exit 3"]).await;
    assert_eq!(run.code, 1, "{run:?}");
    let (a, b) = (table_line(&run, "a"), table_line(&run, "b"));
    assert!(a.contains("turn ended: finished") && a.contains(" 1 ") && a.ends_with(" ms"), "{a}");
    assert!(b.contains("errored: the command exited with code 3") && b.contains("failed"), "{b}");
    assert!(run.stdout.contains("the work of `b` ended as failed"), "{run:?}");

    let history = world.history("run").await;
    assert_eq!(reports(&history, "a", "TurnEnded").len(), 1);
    assert_eq!(reports(&history, "a", "WorkSettled").len(), 1);
    assert_eq!(reports(&history, "b", "Errored").len(), 1);
    assert_eq!(reports(&history, "b", "WorkSettled").len(), 1);
    assert_eq!(of_kind(&history, "work_settled").len(), 2);
    let terminals = of_kind(&history, "child_terminal");
    assert_eq!(terminals.len(), 2);
    assert!(terminals.iter().all(|entry| entry["terminal"]["end"] == "shut_down"), "{terminals:?}");
    // What the child said is in its own history.
    let said = world.history("a").await;
    assert!(of_kind(&said, "output").iter().any(|entry| entry["text"] == "one\n"), "{said:?}");
}

#[tokio::test]
async fn children_that_all_finish_are_exit_0_and_json_is_one_object_a_line() {
    let world = World::new();
    let run = world.pod(&["run", "--json", "--name", "boss", "--child", "a=true", "--child", "b=echo x"]).await;
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
    let records = run.records();
    let works = of_type(&records, "work");
    assert_eq!(works.len(), 2);
    for work in works {
        assert_eq!((&work["outcome"], &work["attempts"]), (&"Finished".into(), &1.into()), "{work}");
        assert!(work["time_to_ack_ms"].is_u64() && work["terminal_event"] == "turn ended: finished", "{work}");
    }
    let summary = records.last().unwrap();
    assert_eq!((&summary["type"], &summary["exit"], &summary["pod"]), (&"summary".into(), &0.into(), &"boss".into()));
    assert_eq!(summary["problems"], Value::Array(Vec::new()));
    // The entries that were shown are those that are committed.
    let shown: Vec<_> = of_type(&records, "entry").iter().map(|entry| entry["seq"].clone()).collect();
    let history = world.history("boss").await;
    let committed: Vec<_> = history.iter().map(|entry| entry["seq"].clone()).collect();
    assert_eq!(shown, committed[1..], "all but what stood there before the children");
}

#[tokio::test]
async fn name_that_has_run_before_goes_on_with_its_history_and_shows_only_what_is_new() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "a=exit 3"]).await.code, 1);
    let again = world.pod(&["run", "--json", "--child", "a=true"]).await;
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(of_type(&again.records(), "work").len(), 1);
    let history = world.history("run").await;
    assert_eq!(of_kind(&history, "life_started").len(), 2);
    assert_eq!(of_kind(&history, "work_settled").len(), 2);
}

#[tokio::test]
async fn work_that_a_killed_parent_left_open_is_settled_by_the_next_run() {
    let world = World::new();
    let mut first = world.start(&["run", "--child", &format!("a={LONG}")]);
    first.says("work was given to `a`").await;
    first.signal(Signal::KILL);
    assert_eq!(first.ended().await.code, -9);

    let second = world.pod(&["run", "--json", "--child", "a=true"]).await;
    assert_eq!(second.code, 1, "{second:?}");
    let records = second.records();
    let outcomes: Vec<_> = of_type(&records, "work").iter().map(|work| work["outcome"].clone()).collect();
    assert_eq!(outcomes.len(), 2, "{records:?}");
    assert_ne!(outcomes[0], "Finished");
    assert_eq!(outcomes[1], "Finished");
    let history = world.history("run").await;
    assert_eq!(of_kind(&history, "work_settled").len(), 2, "each once");
    assert_eq!(of_kind(&history, "child_terminal").len(), 2, "each life once");
}

#[tokio::test]
async fn sigterm_stops_the_tree_in_order_and_is_no_success() {
    let world = World::new();
    let mut run = world.start(&["run", "--child", &format!("a={LONG}"), "--child", "b=true"]);
    run.says("work of `b` is settled").await;
    run.signal(Signal::TERM);
    let run = run.ended().await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("it was stopped before all work was settled"), "{run:?}");
    let history = world.history("run").await;
    let terminals = of_kind(&history, "child_terminal");
    assert_eq!(terminals.len(), 2);
    assert!(terminals.iter().all(|entry| entry["terminal"]["end"] == "shut_down"), "{terminals:?}");
    assert!(world.list().await.iter().all(|pod| pod["alive"] == false));
}

#[tokio::test]
async fn timeout_stops_the_tree_and_says_what_was_open() {
    let world = World::new();
    let run = world.pod(&["run", "--timeout", "700ms", "--child", &format!("a={LONG}")]).await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("not all work was settled within 0.7 s"), "{run:?}");
    let line = table_line(&run, "a");
    assert!(line.contains("turn ended: ") && !line.contains("finished") && line.ends_with(" ms"), "{run:?}");
    assert!(world.list().await.iter().all(|pod| pod["alive"] == false));
}

#[tokio::test]
async fn child_that_follows_a_script_delegates_and_its_grandchild_is_in_the_table() {
    let world = World::new();
    let script = world.file(
        "plan.toml",
        "runs = [[{ spawn = { name = \"leaf\", worker = { kind = \"command\", command = \"true\" } } },
                  { run_and_wait = { child = \"leaf\", input = \"a part\" } }]]",
    );
    let run = world.pod(&["run", "--child-script", &format!("a={script}"), "--json"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    let records = run.records();
    let children: Vec<_> = of_type(&records, "work").iter().map(|work| work["child"].clone()).collect();
    assert_eq!(children, ["a", "a > leaf"]);
}

#[tokio::test]
async fn parent_is_what_its_manifest_says() {
    let world = World::new();
    let manifest = world.file(
        "pod.toml",
        "[pod]\nname = \"boss\"\ndurability = \"power\"\n[worker]\nkind = \"ledger\"\n[limits]\nchildren = 1\n",
    );
    let one = world.pod(&["run", "--manifest", &manifest, "--child", "a=true"]).await;
    assert_eq!(one.code, 0, "{one:?}");
    assert!(!world.history("boss").await.is_empty());
    let mut two = world.start(&["run", "--manifest", &manifest, "--child", "b=sleep 600", "--child", "c=sleep 600"]);
    // One of them is refused at once; the other would sleep.
    two.says("work was given to").await;
    assert_eq!(world.pod(&["stop", "boss", "--now"]).await.code, 0);
    let two = two.ended().await;
    assert_eq!(two.code, 1, "{two:?}");
    assert!(two.stdout.contains("1 children live already") && two.stdout.contains("limits.children"), "{two:?}");
    assert_eq!(of_kind(&world.history("boss").await, "child_spawned").len(), 2, "one of each run");
}

#[tokio::test]
async fn second_pod_of_a_name_is_told_who_holds_it() {
    let world = World::new();
    let mut first = world.start(&["run", "--keep", "--child", "a=true"]);
    first.says("kept").await;
    let pid = first.pid().to_string();
    let second = world.pod(&["run", "--child", "b=true"]).await;
    second.refused(7, &["pod `run` runs already", &pid, "pod stop run", "--name"]);
    assert!(!world.root().join("state/b").exists(), "something was made for the second");
    assert_eq!(world.pod(&["stop", "run"]).await.code, 0);
    let first = first.ended().await;
    assert_eq!(first.code, 0, "{first:?}");
}

#[tokio::test]
async fn exit_code_tells_how_the_work_ended_whatever_ended_it() {
    let ends = [
        ("[{ say = 'x' }]", None, 0, "Finished"),
        ("['limit']", None, 1, "LimitReached"),
        ("['roll_back']", None, 1, "Cancelled"),
        ("['cancel']", None, 1, "Cancelled"),
        ("[{ fail = 'no' }]", None, 1, "Failed"),
        ("[{ exit = 3 }]", None, 1, "Lost"),
        ("['pause'], [{ say = 'on' }]", Some("resume"), 0, "Finished"),
        ("['pause']", Some("cancel"), 1, "Cancelled"),
        ("[{ sleep_ms = 600000 }]", Some("stop"), 1, "Interrupted"),
    ];
    for (runs, command, code, outcome) in ends {
        let world = World::new();
        let script = world.file("plan.toml", &format!("runs = [{runs}]"));
        let run = world.start(&["run", "--json", "--child-script", &format!("a={script}")]);
        if let Some(command) = command {
            let wanted = if command == "stop" { "running" } else { "paused" };
            let state = async || world.list().await.iter().any(|pod| pod["name"] == "a" && pod["state"] == wanted);
            world.until(&format!("`a` is {wanted}"), state).await;
            let args: &[&str] = if command == "stop" { &["stop", "a", "--now"] } else { &[command, "a"] };
            let done = world.pod(args).await;
            assert_eq!(done.code, 0, "{runs}: {done:?}");
        }
        let run = run.ended().await;
        assert_eq!(run.code, code, "{runs}: {run:?}");
        let settled = world.history("run").await;
        let settled = of_kind(&settled, "work_settled");
        assert_eq!(settled.len(), 1, "{runs}");
        assert_eq!(settled[0]["result"], outcome, "{runs}");
    }
}
