//! `pod pause`, `resume`, `cancel`, `compact` and `rewind`: what becomes of a turn, and of what an agent knows.

use serde_json::Value;

use crate::world::{Running, World, of_kind};

/// A pod that stays, and its child `a` that has done its first run.
async fn kept(world: &World, script: &str) -> Running {
    let script = world.file("plan.toml", script);
    let mut run = world.start(&["run", "--keep", "--child-script", &format!("a={script}")]);
    run.says("kept").await;
    run
}

async fn said(world: &World, name: &str, text: &str) {
    let said = async || of_kind(&world.history(name).await, "output").iter().any(|entry| entry["text"] == text);
    world.until(&format!("`{name}` says {text}"), said).await;
}

async fn state(world: &World, name: &str, wanted: &str) {
    let is = async || world.list().await.iter().any(|pod| pod["name"] == name && pod["state"] == wanted);
    world.until(&format!("`{name}` is {wanted}"), is).await;
}

async fn work(world: &World, name: &str, input: &str) {
    let sent = world.pod(&["send", name, input]).await;
    assert_eq!(sent.code, 0, "{sent:?}");
    state(world, name, "idle").await;
}

async fn stopped(world: &World, run: Running) {
    assert_eq!(world.pod(&["stop", "run", "--now"]).await.code, 0);
    run.ended().await;
}

#[tokio::test]
async fn turn_is_paused_resumed_and_cancelled_and_each_command_returns_when_it_is_so() {
    let world = World::new();
    let script = "runs = [[{ say = 'begun' }, { sleep_ms = 600000 }], [{ say = 'on' }, { sleep_ms = 600000 }]]";
    let script = world.file("plan.toml", script);
    let mut run = world.start(&["run", "--keep", "--child-script", &format!("a={script}")]);
    run.says("work was given to `a`").await;
    said(&world, "a", "begun").await;
    world.pod(&["resume", "a"]).await.refused(4, &["turn 1 is running", "pod pause a"]);
    let paused = world.pod(&["pause", "a"]).await;
    assert!(
        paused.code == 0 && paused.stdout.starts_with("paused: turn 1 of `a` goes on with `pod resume a`"),
        "{paused:?}"
    );
    let again = world.pod(&["pause", "a"]).await;
    assert!(again.code == 0 && again.stdout.starts_with("paused already: turn 1 of `a`"), "{again:?}");
    let resumed = world.pod(&["resume", "a"]).await;
    assert!(resumed.code == 0 && resumed.stdout.starts_with("resumed: `a` goes on"), "{resumed:?}");
    said(&world, "a", "on").await;
    let asked = world.pod(&["pause", "a", "--no-wait"]).await;
    assert!(asked.code == 0 && asked.stdout.starts_with("asked: turn 2 of `a` is told to end"), "{asked:?}");
    state(&world, "a", "paused").await;
    let paused = world.pod(&["pause", "a", "--json"]).await.records();
    assert_eq!(paused, [serde_json::json!({ "type": "paused", "pod": "a", "turn": 2, "state": "paused" })]);
    let cancelled = world.pod(&["cancel", "a"]).await;
    assert!(cancelled.stdout.starts_with("cancelled: turn 2 of `a` has ended; the pod is idle"), "{cancelled:?}");
    for (command, words) in [
        ("pause", ["no turn is running", "pod log a"]),
        ("cancel", ["no turn is running", "pod log a"]),
        ("resume", ["is not paused", "pod send a"]),
    ] {
        world.pod(&[command, "a"]).await.refused(4, &words);
    }
    run.says("kept").await;
    stopped(&world, run).await;
    let settled = world.history("run").await;
    assert_eq!(of_kind(&settled, "work_settled").last().unwrap()["result"], "Cancelled");
}

#[tokio::test]
async fn turn_that_does_not_end_in_time_is_said_to_run_on() {
    let world = World::new();
    // The shell hears no SIGTERM; its group is killed after the worker's grace, which is longer than we wait.
    let mut run = world.start(&["run", "--child", "a=trap '' TERM; echo begun; while :; do sleep 0.1; done"]);
    run.says("work was given to `a`").await;
    said(&world, "a", "begun\n").await;
    let asked = world.pod(&["cancel", "a", "--timeout", "100ms"]).await;
    asked.refused(5, &["turn 1 of `a` was told to end and still runs after 0.1 s", "pod stop a --now"]);
    assert_eq!(run.ended().await.code, 1);
}

#[tokio::test]
async fn context_is_made_shorter_and_the_summary_is_shown() {
    let world = World::new();
    let run = kept(&world, "summary = \"it did\\nits work\"\nruns = [[{ say = 'x' }], ['recall']]").await;
    let compacted = world.pod(&["compact", "a"]).await;
    assert_eq!(compacted.code, 0, "{compacted:?}");
    let line = compacted.stdout.trim_end();
    assert!(line.starts_with("compacted: what `a` knows up to entry ") && line.ends_with("comes to: it did its work"));
    let records = world.pod(&["compact", "a", "--json"]).await.records();
    assert_eq!((&records[0]["type"], &records[0]["turn"]), (&"compacted".into(), &3.into()));
    assert_eq!(records[0]["summary"], "it did\nits work");
    work(&world, "a", "what do you know").await;
    said(&world, "a", "recalled: it did\nits work, and 2 entries").await;
    let log = world.pod(&["log", "a"]).await.stdout;
    assert!(log.contains("turn began, to make the context shorter") && log.contains("context made shorter"), "{log}");
    // Whoever hosts the ledger keeps nothing but its book.
    world.pod(&["compact", "run"]).await.refused(4, &["not possible now", "worker `ledger` keeps nothing"]);
    stopped(&world, run).await;
}

#[tokio::test]
async fn compaction_that_fails_or_is_cancelled_changes_nothing_and_says_so() {
    let world = World::new();
    let script = "summary = 'short'\non_compact = [{ sleep_ms = 600000 }]";
    let run = kept(&world, script).await;
    let told = world.pod(&["compact", "a", "--no-wait"]).await;
    assert!(told.code == 0 && told.stdout.starts_with("asked: `a` makes its context shorter in turn 2"), "{told:?}");
    world.pod(&["compact", "a"]).await.refused(4, &["turn 2 is running", "pod cancel a"]);
    world.pod(&["pause", "a"]).await.refused(4, &["being made shorter", "cancel it"]);
    let waiting = world.start(&["cancel", "a"]);
    assert_eq!(waiting.ended().await.code, 0);
    let late = world.pod(&["compact", "a", "--timeout", "100ms"]).await;
    late.refused(5, &["still makes its context shorter", "pod cancel a"]);
    assert_eq!(world.pod(&["cancel", "a"]).await.code, 0);
    assert!(of_kind(&world.history("a").await, "compacted").is_empty());
    stopped(&world, run).await;

    let world = World::new();
    let run = kept(&world, "summary = 'short'\non_compact = [{ fail = 'no model' }]").await;
    world.pod(&["compact", "a"]).await.refused(1, &["the context of `a` stays as it was: no model"]);
    stopped(&world, run).await;
}

#[tokio::test]
async fn agent_goes_back_and_is_told_what_it_had_been_asked() {
    let world = World::new();
    let run = kept(&world, "runs = [[{ say = 'one' }], [{ say = 'two' }], [{ say = 'three' }]]").await;
    work(&world, "a", "the second thing").await;
    let list = world.pod(&["rewind", "a"]).await;
    assert_eq!(list.code, 0, "{list:?}");
    let line = |turn: &str| list.stdout.lines().find(|line| line.split_whitespace().next() == Some(turn));
    assert!(line("2").is_some_and(|line| line.ends_with("the second thing")), "{list:?}");
    let targets = world.pod(&["rewind", "a", "--json"]).await.records();
    assert_eq!(targets.iter().map(|target| &target["turn"]).collect::<Vec<_>>(), [&Value::from(2), &Value::from(1)]);
    let head = targets[0]["head"].to_string();
    assert!(list.stdout.contains(&format!("--expect {head}")), "{list:?}");
    work(&world, "a", "a third thing").await;
    let stale = world.pod(&["rewind", "a", "--to", "2", "--expect", &head]).await;
    stale.refused(4, &["nothing was applied", "the context has grown to entry", "pod rewind a"]);
    world.pod(&["rewind", "a", "--to", "99"]).await.refused(4, &["there was no turn 99", "`pod rewind a` lists"]);
    let back = world.pod(&["rewind", "a", "--to", "2"]).await;
    assert_eq!(back.code, 0, "{back:?}");
    for words in ["knows nothing since turn 2; 2 turns do not count", "it had been asked: the second thing"] {
        assert!(back.stdout.contains(words), "{back:?}");
    }
    world.pod(&["rewind", "a", "--to", "3"]).await.refused(4, &["turn 3 does not count any more"]);
    work(&world, "a", "another second thing").await;
    let outputs: Vec<_> =
        of_kind(&world.history("a").await, "output").iter().map(|entry| entry["text"].clone()).collect();
    assert_eq!(outputs, ["one", "two", "three", "two"], "the script goes on from where it is, and history keeps all");
    let json = world.pod(&["rewind", "a", "--to", "1", "--json"]).await.records();
    assert_eq!((&json[0]["type"], &json[0]["turns"], &json[0]["reports"]), (&"rewound".into(), &2.into(), &0.into()));
    assert!(world.pod(&["log", "a"]).await.stdout.contains("rewound by user"));
    let empty = world.pod(&["rewind", "a"]).await;
    assert!(empty.code == 0 && empty.stdout.contains("nothing that `a` could go back to"), "{empty:?}");
    stopped(&world, run).await;
}

#[tokio::test]
async fn rewind_with_live_children_does_what_was_chosen_and_nothing_silently() {
    let world = World::new();
    let script = "runs = [[{ say = 'one' }], [{ spawn = { name = 'b', worker = { kind = 'ledger' } } }]]";
    let run = kept(&world, script).await;
    work(&world, "a", "start a child").await;
    let alive = async || world.list().await.iter().any(|pod| pod["name"] == "b" && pod["alive"] == true);
    assert!(alive().await);
    let targets = world.pod(&["rewind", "a", "--json"]).await.records();
    assert_eq!(targets[0]["children"], 1);
    let live = ["rewind", "a", "--to", "2"];
    world.pod(&live).await.refused(4, &["1 of its children live", "`b`", "--children stop"]);
    assert!(alive().await);
    assert!(of_kind(&world.history("a").await, "rewound").is_empty());
    let stop = world.pod(&[&live[..], &["--children", "stop"]].concat()).await;
    assert!(stop.code == 0 && stop.stdout.contains("stopped: 1 of its children"), "{stop:?}");
    assert!(!alive().await);
    let history = world.history("a").await;
    assert_eq!(of_kind(&history, "child_terminal").len(), 1);
    assert_eq!(of_kind(&history, "rewound").len(), 1);
    // That it ended is news: it is told.
    world
        .until("`a` is told of the end of `b`", async || {
            of_kind(&world.history("a").await, "system_item").iter().any(|item| item["item"] == "report")
        })
        .await;
    state(&world, "a", "idle").await;
    stopped(&world, run).await;
}

#[tokio::test]
async fn rewind_that_detaches_says_so_and_the_child_goes_on_when_its_parent_ends() {
    let world = World::new();
    let script = "runs = [[{ say = 'one' }], [{ spawn = { name = 'b', worker = { kind = 'ledger' } } }]]";
    let run = kept(&world, script).await;
    work(&world, "a", "start a child").await;
    let back = world.pod(&["rewind", "a", "--to", "2", "--children", "detach"]).await;
    assert!(back.code == 0 && back.stdout.contains("detached: 1 of its children, which go on"), "{back:?}");
    for pod in ["a", "b"] {
        assert_eq!(of_kind(&world.history(pod).await, "child_detached").len(), 1, "{pod}");
        assert!(world.pod(&["log", pod]).await.stdout.contains("`b` goes on when its parent ends"), "{pod}");
    }
    stopped(&world, run).await;
    assert!(world.list().await.iter().any(|pod| pod["name"] == "b" && pod["alive"] == true));
    assert_eq!(world.pod(&["stop", "b"]).await.code, 0);
}

#[tokio::test]
async fn pod_that_cannot_be_steered_is_named_with_the_reason() {
    let world = World::new();
    let run = {
        let mut run = world.start(&["run", "--keep", "--child", "a=true"]);
        run.says("kept").await;
        run
    };
    world.pod(&["rewind", "a"]).await.refused(4, &["worker `command` cannot forget what it knows"]);
    world.pod(&["compact", "a"]).await.refused(4, &["worker `command` keeps nothing that could be made shorter"]);
    stopped(&world, run).await;
    for command in ["pause", "resume", "cancel", "compact", "rewind"] {
        world.pod(&[command, "a"]).await.refused(6, &["pod `a` does not run", "pod log a"]);
        world.pod(&[command, "nobody"]).await.refused(6, &["there is no pod `nobody`"]);
        world.pod(&[command, "A b"]).await.refused(2, &["A b"]);
    }
    for (args, word) in [
        (&["rewind", "a", "--to", "x"][..], "whole number"),
        (&["rewind", "a", "--children", "stop"], "--to"),
        (&["rewind", "a", "--expect", "3"], "--to"),
        (&["rewind", "a", "--to", "1", "--children", "eat"], "refuse, stop, detach"),
        (&["pause", "a", "--timeout", "soon"], "soon"),
    ] {
        world.pod(args).await.refused(2, &[word]);
    }
}

/// What `a` has produced from `from` on, in pages of the smallest size; at most so many pages. And the place behind it.
async fn read(world: &World, from: &str, pages: usize) -> (String, String) {
    let (mut text, mut from) = (String::new(), from.to_owned());
    for _ in 0..pages {
        let page =
            world.pod(&["output", "a", "--from", &from, "--max-bytes", "256", "--json"]).await.records().remove(0);
        let entries = page["entries"].as_array().unwrap();
        let said = entries.iter().filter_map(|entry| entry["what"]["text"]["text"].as_str());
        text.extend(said);
        page["next"].as_str().unwrap().clone_into(&mut from);
        if page["more"] != true {
            break;
        }
    }
    (text, from)
}

#[tokio::test]
async fn place_in_the_middle_of_an_output_stays_good_over_a_compaction_a_rewind_and_a_restart() {
    let world = World::new();
    let long: String = (0..200).map(|number| format!("{number:04}.")).collect();
    let script =
        format!("summary = 'short'\nruns = [[{{ say = '{long}' }}], [{{ say = 'two' }}], [{{ say = 'three' }}]]");
    let run = kept(&world, &script).await;
    let (begun, place) = read(&world, "0", 1).await;
    assert!(long.starts_with(&begun) && !begun.is_empty() && begun.len() < long.len(), "{begun}");
    assert!(place.contains('+'), "no place within an entry: {place}");
    let whole = async |what: &str, behind: &str| {
        let (rest, _) = read(&world, &place, 20).await;
        assert_eq!(begun.clone() + &rest, format!("{long}{behind}"), "after {what}");
    };
    work(&world, "a", "the second thing").await;
    assert_eq!(world.pod(&["compact", "a"]).await.code, 0);
    whole("a compaction", "two").await;
    work(&world, "a", "the third thing").await;
    assert_eq!(world.pod(&["rewind", "a", "--to", "2"]).await.code, 0);
    whole("a rewind", "twothree").await;
    stopped(&world, run).await;
    whole("its end", "twothree").await;
}
