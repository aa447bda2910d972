//! How children are kept: restarted, detached, adopted; and how all of it is stopped.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::world::{Running, World, of_kind, of_type};

/// A world in which nothing runs when its test is over, however that ended: a detached pod is nobody's to wait for.
struct Swept(World);

impl std::ops::Deref for Swept {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl Drop for Swept {
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    fn drop(&mut self) {
        let mut stop = std::process::Command::new(env!("CARGO_BIN_EXE_pod"));
        let _ = stop.args(["stop", "--all", "--detached", "--now", "--root"]).arg(self.0.root()).output();
    }
}

/// The pod `name`, which serves.
async fn serving(world: &World, name: &'static str) -> Running {
    let mut pod = world.start(&["serve", "--name", name]);
    pod.says(&format!("ready: `{name}` is process")).await;
    pod
}

async fn ok(world: &World, args: &[&str]) -> String {
    let done = world.pod(args).await;
    assert_eq!(done.code, 0, "{args:?}: {done:?}");
    done.stdout
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// What `pod ls` says of `name`, once there is such a pod.
async fn listed(world: &World, name: &str) -> Value {
    world.list().await.into_iter().find(|line| line["name"] == name).unwrap_or_default()
}

fn kill(line: &Value) {
    let pid = line["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).unwrap())).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[tokio::test]
async fn child_that_is_to_be_restarted_lives_again_until_it_is_stopped_and_that_is_shown() {
    let world = Swept(World::new());
    let boss = serving(&world, "boss").await;
    let args = ["spawn", "boss", "a", "--restart", "permanent", "--restart-max", "9", "--restart-within", "1h"];
    says(&ok(&world, &args).await, &["a child of `boss` (tied, permanent)"]);
    let first = listed(&world, "a").await;
    assert_eq!(first["kept"], json!({ "detached": false, "restart": "permanent", "restarts": 0 }));
    kill(&first);
    let again = async || {
        let now = listed(&world, "a").await;
        now["alive"] == true && now["state"] == "idle" && now["pid"] != first["pid"]
    };
    world.until("it lives again", again).await;
    assert_eq!(listed(&world, "a").await["kept"]["restarts"], 1);
    for (args, words) in [
        (&["ls"][..], "tied, permanent, 1 restart"),
        (&["tree"], "a (tied, permanent, 1 restart)"),
        (&["inspect", "a"], "tied, permanent, 1 restart: it ends with it"),
        (&["inspect", "boss"], "tied, permanent, 1 restart"),
    ] {
        says(&ok(&world, args).await, &[words]);
    }
    // Its parent stops it, and so knows that this is meant.
    says(&ok(&world, &["stop", "a"]).await, &["is gone"]);
    says(&ok(&world, &["stop", "boss"]).await, &["is gone"]);
    boss.ended().await;
    let history = world.history("boss").await;
    assert_eq!(of_kind(&history, "child_spawned").len(), 2, "it was started again after it was stopped: {history:?}");
    assert_eq!(of_kind(&history, "child_terminal").len(), 2);
}

#[tokio::test]
async fn child_that_is_stopped_before_its_parent_has_started_it_again_stays_ended() {
    let world = Swept(World::new());
    // One start a minute: the next life is due, and waits for as long.
    let text = "[pod]\nname = \"boss\"\n[worker]\nkind = \"ledger\"\n[limits]\nspawns_per_minute = 1\n";
    let manifest = world.file("boss.toml", text);
    let mut boss = world.start(&["serve", "--manifest", &manifest]);
    boss.says("ready: `boss` is process").await;
    ok(&world, &["spawn", "boss", "a", "--restart", "permanent"]).await;
    kill(&listed(&world, "a").await);
    let ended = async || of_kind(&world.history("boss").await, "child_terminal").len() == 1;
    world.until("its end is known", ended).await;
    says(&ok(&world, &["stop", "a"]).await, &["has ended (", "`boss` does not start it again"]);
    // There is nothing more to be stopped.
    world.pod(&["stop", "a"]).await.refused(6, &["`a` does not run"]);
    ok(&world, &["stop", "boss"]).await;
    boss.ended().await;
    let history = world.history("boss").await;
    assert_eq!(of_kind(&history, "child_spawned").len(), 1, "it was started again after it was stopped: {history:?}");
}

#[tokio::test]
async fn all_pods_are_stopped_and_a_detached_child_only_if_that_is_asked_for() {
    let world = Swept(World::new());
    let (boss, other) = (serving(&world, "boss").await, serving(&world, "other").await);
    ok(&world, &["spawn", "boss", "tied", "--restart", "permanent"]).await;
    says(&ok(&world, &["spawn", "boss", "free", "--detached"]).await, &["a child of `boss` (detached)"]);
    let below = ok(&world, &["stop", "--all", "boss", "--json"]).await;
    let records: Vec<Value> = below.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut stopped: Vec<&str> = of_type(&records, "stopped").iter().map(|pod| pod["pod"].as_str().unwrap()).collect();
    stopped.sort_unstable();
    assert_eq!(stopped, ["boss", "tied"], "{below}");
    assert_eq!(of_type(&records, "left_running")[0]["pod"], "free");
    let sum = json!({ "type": "stopped_all", "stopped": 2, "left_running": 1, "still_running": 0, "exit": 0 });
    assert_eq!(records.last(), Some(&sum));
    assert_eq!(boss.ended().await.code, 0);

    let text = ok(&world, &["stop", "--all"]).await;
    let left = "is a detached child of `boss`; --detached ends it, too";
    says(&text, &["stopped: `other` is gone", "left running: `free`", left, "1 stopped, 1 left running"]);
    assert_eq!(other.ended().await.code, 0);
    assert_eq!(listed(&world, "free").await["alive"], true);
    says(&ok(&world, &["stop", "--all", "--detached"]).await, &["stopped: `free` is gone", "1 stopped"]);
    says(&ok(&world, &["stop", "--all"]).await, &["no pod runs"]);
    assert!(world.list().await.iter().all(|line| line["alive"] == false));
    world.pod(&["stop", "--detached", "free"]).await.refused(2, &["--all"]);
    world.pod(&["stop"]).await.refused(2, &["NAME"]);
}

#[tokio::test]
async fn pod_that_begins_while_all_are_being_stopped_is_stopped_behind_them() {
    let world = Swept(World::new());
    let gate = world.path("gate").display().to_string();
    let command = format!("while [ ! -e {gate} ]; do sleep 0.02; done");
    let mut busy = world.start(&["serve", "--name", "busy", "--command", &command]);
    busy.says("ready: `busy` is process").await;
    ok(&world, &["send", "busy", "go"]).await;
    world.until("it works", async || listed(&world, "busy").await["state"] == "running").await;
    let stop = world.start(&["stop", "--all", "--timeout", "60s"]);
    // Its turn may end first.
    world.until("it is told", async || listed(&world, "busy").await["state"] == "stopping").await;
    let late = serving(&world, "late").await;
    std::fs::write(&gate, "").unwrap();
    let done = stop.ended().await;
    assert_eq!(done.code, 0, "{done:?}");
    says(&done.stdout, &["stopped: `busy` is gone", "stopped: `late` is gone", "2 stopped"]);
    busy.ended().await;
    late.ended().await;
}

#[tokio::test]
async fn detached_child_of_a_parent_that_lives_ends_before_it_and_its_parent_knows_how() {
    let world = Swept(World::new());
    let boss = serving(&world, "boss").await;
    ok(&world, &["spawn", "boss", "free", "--detached", "--restart", "permanent"]).await;
    ok(&world, &["stop", "--all", "--detached"]).await;
    boss.ended().await;
    let history = world.history("boss").await;
    let ends = of_kind(&history, "child_terminal");
    assert_eq!((ends.len(), &ends[0]["terminal"]["end"]), (1, &"shut_down".into()), "{history:?}");
}

#[tokio::test]
async fn pod_that_does_not_end_is_said_and_in_the_exit_code_and_keeps_no_other_from_ending() {
    let world = Swept(World::new());
    let (halted, other) = (serving(&world, "halted").await, serving(&world, "other").await);
    halted.stop().await;
    let done = world.pod(&["stop", "--all", "--timeout", "3s"]).await;
    // The call lies in its socket: it may hear of it.
    assert_eq!(done.code, 5, "{done:?}");
    says(&done.stdout, &["stopped: `other` is gone"]);
    says(&done.stderr, &["1 stopped, 1 not: `halted`"]);
    assert!(!done.stderr.contains("it was not told to"), "{done:?}");
    assert_eq!(other.ended().await.code, 0);
    halted.signal(Signal::CONT);
    // Told or not told, it may be ending now, and say so in whatever way.
    world.until("it is gone", async || world.pod(&["stop", "halted"]).await.code == 6).await;
    halted.ended().await;
}

#[tokio::test]
async fn detached_child_that_does_not_end_keeps_its_own_parent_from_being_told_and_no_stranger() {
    let world = Swept(World::new());
    let (above, stranger) = (serving(&world, "above").await, serving(&world, "stranger").await);
    ok(&world, &["spawn", "above", "halted", "--detached", "--worker", "ledger"]).await;
    let pid = listed(&world, "halted").await["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let done = world.pod(&["stop", "--all", "--detached", "--timeout", "3s"]).await;
    assert_eq!(done.code, 5, "{done:?}");
    says(&done.stdout, &["stopped: `stranger` is gone"]);
    says(&done.stderr, &["1 stopped, 2 not", "`above`: it was not told to: first those below it are to be gone"]);
    assert!(!done.stderr.contains("`halted`: it was not told to"), "{done:?}");
    assert_eq!(stranger.ended().await.code, 0);
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    world.until("all are gone", async || world.pod(&["stop", "--all", "--detached"]).await.code == 0).await;
    above.ended().await;
}

#[tokio::test]
async fn wrong_words_about_keeping_a_child_are_named_with_the_right_ones_and_nothing_is_made() {
    let world = Swept(World::new());
    let boss = serving(&world, "boss").await;
    let spawn = async |rest: &[&str]| world.pod(&[&["spawn", "boss", "a"], rest].concat()).await;
    spawn(&["--restart", "permament"]).await.refused(2, &["permament", "permanent"]);
    spawn(&["--restart", "permanent", "--restart-max", "0"]).await.refused(2, &["--restart-max", "1..=1024"]);
    spawn(&["--restart-max", "3"]).await.refused(2, &["--restart"]);
    spawn(&["--restart", "transient", "--restart-within", "soon"]).await.refused(2, &["--restart-within"]);
    spawn(&["--detatched"]).await.refused(2, &["--detached"]);
    let script = world
        .file("plan.toml", "runs = [[{ spawn = { name = 'b', worker = { kind = 'ledger' }, lifetiem = 'tied' } }]]");
    spawn(&["--script", &script]).await.refused(2, &["lifetiem", "did you mean `lifetime`?"]);
    assert!(!world.root().join("state/a").exists(), "something was made of it");
    let manifest = |child: &str| format!("[pod]\nname = \"run\"\n[worker]\nkind = \"ledger\"\n[[child]]\n{child}\n");
    let run = async |child: &str| {
        let file = world.file("run.toml", &manifest(child));
        world.pod(&["run", "--manifest", &file, "--child", "a=true"]).await
    };
    run("name = \"a\"\nrestrat = {}").await.refused(2, &["restrat", "did you mean `restart`?"]);
    run("name = \"a\"\nrestart = { when = \"transient\", max = 0 }").await.refused(2, &["[[child]] `a`", "0 restarts"]);
    run("name = \"b\"\nlifetime = \"detached\"").await.refused(2, &["child `b`", "there is none", "--child"]);
    ok(&world, &["stop", "boss"]).await;
    boss.ended().await;
}

#[tokio::test]
async fn children_of_a_run_are_kept_as_its_manifest_says() {
    let world = Swept(World::new());
    let text = "[pod]\nname = \"run\"\n[worker]\nkind = \"ledger\"\n[[child]]\nname = \"a\"\nlifetime = \"detached\"\n\
                restart = { when = \"transient\", max = 7, within_seconds = 90 }\n";
    let manifest = world.file("run.toml", text);
    ok(&world, &["run", "--manifest", &manifest, "--child", "a=true", "--child", "b=true"]).await;
    // The run is over, and has ended what is tied to it.
    let (a, b) = (listed(&world, "a").await, listed(&world, "b").await);
    assert_eq!((&a["alive"], &b["alive"]), (&true.into(), &false.into()));
    assert_eq!(a["kept"], json!({ "detached": true, "restart": "transient", "restarts": 0 }));
    assert_eq!(b["kept"], json!({ "detached": false, "restart": "temporary", "restarts": 0 }));
    ok(&world, &["stop", "a"]).await;
}

#[tokio::test]
async fn child_of_a_dead_pod_is_adopted_with_its_work_and_that_is_told() {
    let world = Swept(World::new());
    let (old, new) = (serving(&world, "old").await, serving(&world, "new").await);
    let gate = world.path("gate").display().to_string();
    let command = format!("while [ ! -e {gate} ]; do sleep 0.02; done");
    ok(&world, &["spawn", "old", "a", "--detached", "--command", &command]).await;
    let refused = world.pod(&["adopt", "a", "--from", "old", "--to", "new"]).await;
    refused.refused(4, &["`a` stays a child of `old`", "its parent lives"]);
    old.signal(Signal::KILL);
    old.ended().await;
    let done = world.pod(&["adopt", "a", "--from", "old", "--to", "new", "--json"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let mut adopted = done.records().remove(0);
    let incarnation = adopted["incarnation"].take();
    assert!(incarnation.as_str().is_some_and(|life| life.len() == 16), "{done:?}");
    let golden = json!({
        "type": "adopted", "child": "a", "incarnation": null, "from": "old", "to": "new", "watermark": 0, "works": 1,
    });
    assert_eq!(adopted, golden);
    // It learns of it within seconds.
    world.until("it says whose it is", async || listed(&world, "a").await["parent"] == "new").await;
    let a = listed(&world, "a").await;
    assert_eq!((&a["alive"], &a["kept"]["detached"]), (&true.into(), &true.into()));
    // Once more is as good as once, and another pod's it is not.
    says(&ok(&world, &["adopt", "a", "--from", "old", "--to", "new"]).await, &["adopted: `a` is a child of `new` now"]);
    world.pod(&["adopt", "b", "--from", "old", "--to", "new"]).await.refused(4, &["no child `b`"]);
    std::fs::write(&gate, "").unwrap();
    let settled = async || !of_kind(&world.history("new").await, "work_settled").is_empty();
    world.until("its work is settled at its new parent", settled).await;
    ok(&world, &["stop", "--all", "--detached"]).await;
    new.ended().await;
}

#[tokio::test]
async fn failure_of_a_grandchilds_work_is_in_the_exit_code_of_the_run() {
    for (step, leaf, expected) in
        [("run", "exit 3", 1), ("run_and_wait", "exit 3", 1), ("run", "exit 0", 0), ("run", "kill -9 $PPID", 1)]
    {
        let world = Swept(World::new());
        let below = |name: &str, worker: String| {
            format!(
                "[{{ spawn = {{ name = '{name}', worker = {worker} }} }}, {{ {step} = {{ child = '{name}', input = 'go' }} }}]"
            )
        };
        let leaf_worker = format!("{{ kind = 'command', command = '{leaf}' }}");
        let mid = format!("{{ kind = 'scripted', runs = [{}] }}", below("leaf", leaf_worker));
        let script = world.file("plan.toml", &format!("runs = [{}]", below("mid", mid)));
        let done = world.pod(&["run", "--child-script", &format!("top={script}")]).await;
        assert_eq!(done.code, expected, "{step} `{leaf}`: {done:?}");
        assert_eq!(done.stdout.contains("- the work of `top > mid > leaf` ended as"), expected == 1, "{done:?}");
    }
}

#[tokio::test]
async fn tree_is_restored_from_the_top_downwards_with_those_that_lived_and_goes_on_past_a_failure() {
    let world = Swept(World::new());
    ok(&world, &["serve", "--name", "boss", "--detach"]).await;
    let script = "runs = [[{ spawn = { name = 'leaf', worker = { kind = 'ledger' } } }]]";
    let script = world.file("plan.toml", script);
    ok(&world, &["spawn", "boss", "mid", "--script", &script]).await;
    world.until("the leaf lives", async || listed(&world, "leaf").await["alive"] == true).await;
    for name in ["broken", "stopped", "free"] {
        let kept: &[&str] = if name == "free" { &["--detached"] } else { &[] };
        ok(&world, &[&["spawn", "boss", name], kept].concat()).await;
    }
    ok(&world, &["stop", "stopped"]).await;
    // Something happens behind that.
    ok(&world, &["send", "boss", "a note", "--notify"]).await;
    let told = async || world.history("boss").await.iter().any(|entry| entry.to_string().contains("a note"));
    world.until("it is told", told).await;
    ok(&world, &["stop", "boss"]).await;
    // Its store is no store any more.
    std::fs::write(world.root().join("state/broken/store.db"), "not a database, and long enough to be looked at")
        .unwrap();

    let done = world.pod(&["restore", "boss", "--tree", "--json"]).await;
    assert_ne!(done.code, 0, "{done:?}");
    let records = done.records();
    let order: Vec<(&str, &str)> =
        records.iter().map(|line| (line["type"].as_str().unwrap(), line["pod"].as_str().unwrap())).collect();
    assert_eq!(order.first(), Some(&("restored", "boss")), "{order:?}");
    for expected in [("restored", "mid"), ("restored", "leaf"), ("attached", "free"), ("not_restored", "broken")] {
        assert!(order.contains(&expected), "{expected:?} is not in {order:?}");
    }
    assert!(!order.iter().any(|(_, pod)| *pod == "stopped"), "{order:?}");
    let at = |name: &str| order.iter().position(|(_, pod)| *pod == name);
    assert!(at("mid") < at("leaf"), "{order:?}");
    let sum = records.last().unwrap();
    assert_eq!((&sum["live"], &sum["failed"], &sum["exit"]), (&4.into(), &1.into(), &done.code.into()), "{sum}");
    assert_eq!(listed(&world, "leaf").await["alive"], true);
    let again = world.pod(&["restore", "boss", "--tree"]).await;
    says(
        &again.stdout,
        &["attached: `boss` lived already", "attached: `leaf` lived already", "4 live, 1 not restored"],
    );

    // Killed, and all below it: whoever was not known to be dead is brought back as well.
    kill(&listed(&world, "boss").await);
    let gone = async |name: &str| listed(&world, name).await["alive"] == false;
    world.until("the tied ones have gone", async || gone("mid").await && gone("leaf").await).await;
    let done = world.pod(&["restore", "boss", "--tree"]).await;
    says(
        &done.stdout,
        &["restored: `boss` lives again", "restored: `mid` lives again", "restored: `leaf` lives again"],
    );
    // What is stopped while its parent lives stays so, though nothing has happened behind it.
    ok(&world, &["stop", "mid"]).await;
    let done = world.pod(&["restore", "boss", "--tree"]).await;
    assert!(done.stdout.contains("`boss` lived already") && !done.stdout.contains("`mid`"), "{done:?}");
    ok(&world, &["stop", "--all", "--detached"]).await;
}
