//! `pod serve`, `spawn`, `steer`, `interrupt`, `output`, `inspect` and `restore`: pods that live by themselves, and after
//! their end again.

use pod::id::{Incarnation, PodId, PodName};
use pod::life_lock::LifeLock;
use pod::runtime_dir::{PodPaths, Roots};
use rustix::process::Signal;
use serde_json::Value;

use crate::world::{Running, World, of_kind};

/// Ends a pod that lives in the background when its test is over, however that ended.
pub(crate) struct Background<'w>(&'w World, &'static str);

impl<'w> Background<'w> {
    pub(crate) fn of(world: &'w World, name: &'static str) -> Self {
        Self(world, name)
    }
}

impl Drop for Background<'_> {
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    fn drop(&mut self) {
        let mut stop = std::process::Command::new(env!("CARGO_BIN_EXE_pod"));
        let _ = stop.args(["stop", self.1, "--now", "--root"]).arg(self.0.root()).output();
    }
}

/// The pod `boss`, which serves.
async fn boss(world: &World) -> Running {
    let mut boss = world.start(&["serve", "--name", "boss"]);
    boss.says("ready: `boss` is process").await;
    boss
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

async fn said(world: &World, name: &str, text: &str) {
    let said = async || {
        let history = world.history(name).await;
        of_kind(&history, "output").iter().any(|entry| entry["text"].as_str().is_some_and(|said| said.contains(text)))
    };
    world.until(&format!("`{name}` says {text}"), said).await;
}

fn paths(world: &World, name: &str) -> PodPaths {
    Roots::at(&world.root()).unwrap().pod(&name.parse().unwrap())
}

#[tokio::test]
async fn answers_of_commands_that_change_a_pod_are_records_for_programs() {
    let world = World::new();
    let _boss = boss(&world).await;
    let script = world.file("plan.toml", "runs = [[{ say = 'begun' }, { sleep_ms = 600000 }]]");
    let record = async |args: &[&str]| {
        let done = world.pod(&[args, &["--json"]].concat()).await;
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
        let mut records = done.records();
        assert_eq!(records.len(), 1, "{args:?}: {done:?}");
        records.remove(0)
    };
    let spawned = record(&["spawn", "boss", "a", "--script", &script]).await;
    assert_eq!(
        (&spawned["type"], &spawned["pod"], &spawned["parent"]),
        (&"spawned".into(), &"a".into(), &"boss".into())
    );
    assert!(spawned["incarnation"].is_string() && spawned["detached"] == false, "{spawned}");
    assert!(spawned["pid"].as_u64().is_some() && spawned["work"].is_string(), "{spawned}");
    said(&world, "a", "begun").await;
    let steered = record(&["steer", "a", "mind the gap", "--key", "00000000000000ab"]).await;
    assert_eq!((&steered["type"], &steered["key"]), (&"sent".into(), &"00000000000000ab".into()), "{steered}");
    assert!(steered["outcome"].is_object(), "{steered}");
    record(&["pause", "a"]).await;
    let resumed = record(&["resume", "a"]).await;
    assert_eq!(
        (&resumed["type"], &resumed["pod"], &resumed["state"]),
        (&"resumed".into(), &"a".into(), &"running".into())
    );
    let turn = resumed["turn"].clone();
    let cancelled = record(&["cancel", "a"]).await;
    assert_eq!(
        (&cancelled["type"], &cancelled["turn"], &cancelled["state"]),
        (&"cancelled".into(), &turn, &"idle".into())
    );
    let attached = record(&["restore", "a"]).await;
    assert_eq!((&attached["type"], &attached["pid"]), (&"attached".into(), &spawned["pid"]));
    record(&["stop", "a"]).await;
    let restored = record(&["restore", "a"]).await;
    assert_eq!((&restored["type"], &restored["pod"]), (&"restored".into(), &"a".into()));
    assert_ne!(restored["pid"], spawned["pid"]);
    let completions = record(&["completions", "bash"]).await;
    assert_eq!((&completions["type"], &completions["shell"]), (&"completions".into(), &"bash".into()));
    assert!(completions["script"].as_str().is_some_and(|script| script.contains("complete")), "{completions}");
}

#[tokio::test]
async fn child_is_spawned_steered_sent_more_interrupted_and_read() {
    let world = World::new();
    let boss = boss(&world).await;
    let script = "runs = [[{ say = 'begun' }, { read_reports = 1 }, { sleep_ms = 600000 }], [{ say = 'done' }]]";
    let script = world.file("plan.toml", script);
    let spawned =
        ok(&world, &["spawn", "boss", "digger", "--script", &script, "--write", "/tmp", "--deny", "/tmp/no"]).await;
    says(&spawned, &["spawned: `digger` is ready as process", "a child of `boss`", "it has its work"]);
    said(&world, "digger", "begun").await;
    let steered = ok(&world, &["steer", "digger", "mind the gap"]).await;
    says(&steered, &["`digger` steered: it is told with the next request of turn 1"]);
    said(&world, "digger", "mind the gap").await;
    world.pod(&["send", "digger", "later"]).await.refused(4, &["turn 1 is running"]);
    says(&ok(&world, &["send", "digger", "later", "--after"]).await, &["staged as turn 2", "when turn 1 has ended"]);

    let inspected = ok(&world, &["inspect", "digger"]).await;
    says(&inspected, &["holds its life lock", "`boss` (alive)", "running, turn 1", "scripted", "read and write /tmp"]);
    says(&inspected, &["1 runs staged", "schema", "it lives", "said: begun"]);
    says(&inspected, &["neither read nor write /tmp/no, and all below it", "`best-effort` was asked for"]);
    let record = world.pod(&["inspect", "digger", "--json"]).await.records().remove(0);
    assert_eq!((&record["type"], &record["parent"]["name"]), (&"inspected".into(), &"boss".into()));
    assert_eq!((&record["runs_staged"], &record["restore"]), (&1.into(), &"lives".into()));
    let in_force = pod::scope::kernel_confinement().word();
    let confined = serde_json::json!({
        "asked": "best-effort", "in_force": in_force, "scoped": true, "landlock_abi": pod::scope::kernel_landlock_abi(),
        "landlock_kernel": pod::scope::kernel_landlock_version(),
    });
    assert_eq!(record["confined"], confined);
    let listed = world.list().await;
    assert_eq!(listed.iter().find(|line| line["name"] == "digger").unwrap()["confined"], confined);

    let sent = world.pod(&["interrupt", "digger", "this instead", "--json"]).await.records().remove(0);
    let outcome = &sent["outcome"]["interrupted"];
    assert_eq!(
        (&outcome["turn"], &outcome["next"]["turn"], &outcome["next"]["ahead"]),
        (&1.into(), &3.into(), &1.into())
    );
    let both = async || {
        let history = world.history("digger").await;
        of_kind(&history, "output").iter().filter(|entry| entry["text"] == "done").count() == 2
    };
    world.until("both are done", both).await;
    world.pod(&["interrupt", "digger"]).await.refused(4, &["no turn runs", "pod send digger"]);

    let page = world.pod(&["output", "digger", "--json"]).await.records().remove(0);
    let entries = page["entries"].as_array().unwrap();
    assert_eq!(entries.iter().filter(|entry| entry["what"].get("turn_ended").is_some()).count(), 3, "{page}");
    let next = page["next"].as_str().unwrap();
    let shown = ok(&world, &["output", "digger", "--turn", "3"]).await;
    says(&shown, &["turn 3", "done", "finished", "it lives, and may say more; read on with --from"]);
    let rest = world.pod(&["output", "digger", "--from", next, "--json"]).await.records().remove(0);
    assert_eq!(rest["entries"].as_array().unwrap().len(), 0, "{rest}");

    world.pod(&["spawn", "boss", "digger", "--idle"]).await.refused(4, &["`digger` is taken", "pod inspect digger"]);
    boss.signal(Signal::INT);
    let ended = boss.ended().await;
    assert_eq!(ended.code, 0, "{ended:?}");
    says(&ended.stdout, &["stopped: `boss` has ended"]);
    // How each turn ended is known to the parent.
    let settled = world.history("boss").await;
    assert_eq!(of_kind(&settled, "work_settled").first().unwrap()["result"], "Cancelled");
}

#[tokio::test]
async fn pod_in_the_background_is_ready_when_the_command_returns_and_is_restored_from_what_is_recorded() {
    let world = World::new();
    let script = world.file("plan.toml", "runs = [[{ say = 'one' }], ['recall', { say = 'two' }]]");
    let _ended = Background(&world, "root");
    let ready = world.pod(&["serve", "--name", "root", "--script", &script, "--detach", "--json"]).await;
    let record = ready.records().remove(0);
    assert_eq!(
        (&record["type"], &record["background"], &record["worker"]),
        (&"ready".into(), &true.into(), &"scripted".into())
    );
    world.pod(&["serve", "--name", "root"]).await.refused(7, &["runs already", "pod stop root"]);
    says(&ok(&world, &["restore", "root"]).await, &["attached: `root` lived already"]);
    ok(&world, &["send", "root", "x"]).await;
    said(&world, "root", "one").await;
    ok(&world, &["stop", "root"]).await;
    says(
        &ok(&world, &["inspect", "root"]).await,
        &["ended: nobody", "none: it is a root", "from its recorded manifest"],
    );

    // The script is recorded, too: the file may go.
    std::fs::remove_file(&script).unwrap();
    says(&ok(&world, &["restore", "root"]).await, &["restored: `root` lives again as process"]);
    let first = pid(&world, "root").await;
    kill(first);
    world.until("it is dead", async || !alive(&world, "root").await).await;
    says(&ok(&world, &["restore", "root"]).await, &["restored: `root`"]);
    assert_ne!(pid(&world, "root").await, first);
    let history = world.history("root").await;
    assert_eq!(of_kind(&history, "life_started").len(), 3);
    assert_eq!(of_kind(&history, "output")[0]["text"], "one", "it goes on with its history");
    ok(&world, &["stop", "root"]).await;
}

async fn line(world: &World, name: &str) -> Value {
    world.list().await.into_iter().find(|pod| pod["name"] == name).unwrap()
}

async fn alive(world: &World, name: &str) -> bool {
    line(world, name).await["alive"] == true
}

async fn pid(world: &World, name: &str) -> i32 {
    i32::try_from(line(world, name).await["pid"].as_i64().unwrap()).unwrap()
}

fn kill(pid: i32) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn child_is_restored_by_its_parent_and_by_nobody_else() {
    let world = World::new();
    let serving = boss(&world).await;
    ok(&world, &["spawn", "boss", "a", "--command", "echo hello"]).await;
    said(&world, "a", "hello").await;
    ok(&world, &["stop", "a"]).await;
    let ended = async || {
        let record = world.pod(&["inspect", "boss", "--json"]).await.records().remove(0);
        record["children_live"] == 0
    };
    world.until("its parent knows of its end", ended).await;
    says(&ok(&world, &["inspect", "a"]).await, &["yes, by its parent `boss`: `pod restore a`"]);
    world.pod(&["serve", "--name", "a"]).await.refused(2, &["is a child of `boss`", "pod restore a"]);
    says(&ok(&world, &["restore", "a"]).await, &["restored: `a` lives again as process"]);
    says(&ok(&world, &["restore", "a"]).await, &["attached: `a` lived already"]);
    ok(&world, &["send", "a", "again"]).await;
    let twice = async || of_kind(&world.history("a").await, "output").len() == 2;
    world.until("it works as before", twice).await;
    ok(&world, &["stop", "boss"]).await;
    serving.ended().await;
    let refused = world.pod(&["restore", "a"]).await;
    refused.refused(4, &["`a` cannot be restored", "its parent `boss` does not run", "pod restore boss"]);
    // The root comes back, and what it had with it, on request.
    let _ended = Background(&world, "boss");
    ok(&world, &["restore", "boss"]).await;
    says(&ok(&world, &["restore", "a"]).await, &["restored: `a`"]);
    ok(&world, &["stop", "boss"]).await;
}

#[tokio::test]
async fn each_reason_why_a_pod_is_not_restored_is_told_apart() {
    let world = World::new();
    let serving = boss(&world).await;
    ok(&world, &["stop", "boss"]).await;
    serving.ended().await;
    let boss = paths(&world, "boss");
    let _ended = Background(&world, "boss");
    world.pod(&["restore", "nobody"]).await.refused(6, &["there is no pod `nobody`", "`boss`"]);

    let known = version(&boss, 99);
    world.pod(&["restore", "boss"]).await.refused(4, &["cannot be restored", "schema 99", "newer program"]);
    says(&ok(&world, &["inspect", "boss"]).await, &["cannot be read", "schema 99", "no: its store cannot be used"]);
    version(&boss, known);

    let life = PodId::new("boss".parse::<PodName>().unwrap(), Incarnation(7));
    let held = LifeLock::acquire(&boss.life_lock(), &life).unwrap();
    let pid = std::process::id().to_string();
    let deaf = world.pod(&["restore", "boss", "--timeout", "300ms"]).await;
    deaf.refused(10, &["`boss` was not ready within 300 ms", "it lives and does not answer"]);
    drop(held);
    let other = PodId::new("other".parse::<PodName>().unwrap(), Incarnation(7));
    let held = LifeLock::acquire(&boss.life_lock(), &other).unwrap();
    let locked = world.pod(&["restore", "boss", "--timeout", "300ms"]).await;
    locked.refused(7, &["`boss` is locked by process", &pid, "0000000000000007", "`other`"]);
    drop(held);

    world
        .pod(&["restore", "boss", "--timeout", "1ms"])
        .await
        .refused(10, &["was not ready within 0.001 s", "was ended"]);
    world.until("nothing of it is left", async || !alive(&world, "boss").await).await;

    let recorded = std::fs::read_to_string(boss.manifest()).unwrap();
    let gone = recorded
        .lines()
        .map(|line| if line.starts_with("directory") { "directory = \"/no/such/place\"" } else { line });
    std::fs::write(boss.manifest(), gone.collect::<Vec<_>>().join("\n")).unwrap();
    let exited = world.pod(&["restore", "boss"]).await;
    exited.refused(2, &["`boss` exited while it was starting", "it said: ", "/no/such/place", "cannot be entered"]);

    std::fs::write(boss.manifest(), recorded.replace("[worker]", "[wroker]")).unwrap();
    world.pod(&["restore", "boss"]).await.refused(4, &["cannot be restored", "`wroker`", "did you mean `worker`?"]);
    std::fs::remove_file(boss.manifest()).unwrap();
    world.pod(&["restore", "boss"]).await.refused(4, &["cannot be restored", "is not recorded"]);
    std::fs::write(boss.manifest(), recorded).unwrap();
}

/// The same reasons when a child's parent is asked, which tells them itself; one exit code each, whoever says it.
#[tokio::test]
async fn each_reason_why_a_child_is_not_restored_is_told_apart_by_its_parent_too() {
    let world = World::new();
    let mut serving = boss(&world).await;
    ok(&world, &["serve", "--name", "other", "--detach"]).await;
    let _other = Background(&world, "other");
    ok(&world, &["spawn", "boss", "a", "--idle"]).await;
    ok(&world, &["stop", "a"]).await;
    let by = async |pod: &str, by: &str| world.pod(&["restore", pod, "--by", by, "--timeout", "2s"]).await;
    by("nobody", "boss").await.refused(6, &["there is no pod `nobody`", "`a`"]);
    by("other", "boss").await.refused(11, &["`other` is not visible from here"]);
    by("a", "other").await.refused(11, &["`a` is not visible from here"]);

    let a = paths(&world, "a");
    let life = PodId::new("someone".parse::<PodName>().unwrap(), Incarnation(7));
    let held = LifeLock::acquire(&a.life_lock(), &life).unwrap();
    by("a", "boss").await.refused(7, &["`a` is locked by process", "0000000000000007"]);
    drop(held);

    // It cannot open its store, and ends while it is starting.
    let whole = std::fs::read(a.store()).unwrap();
    std::fs::write(a.store(), "this is a letter, and no database at all".repeat(50)).unwrap();
    let exited = world.pod(&["restore", "a", "--by", "boss"]).await;
    exited.refused(9, &["`a` exited while it was starting", "exited with code 1", "it said: ", "no database"]);
    std::fs::write(a.store(), whole).unwrap();

    ok(&world, &["restore", "a"]).await;
    let pid = world.list().await.iter().find(|line| line["name"] == "a").unwrap()["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let deaf = by("a", "boss").await;
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    deaf.refused(10, &["`a` was not ready within 2000 ms"]);
    ok(&world, &["restore", "a", "--by", "boss"]).await;

    ok(&world, &["stop", "boss"]).await;
    serving.says("stopped: `boss`").await;
    by("a", "boss").await.refused(6, &["`boss`"]);
}

#[tokio::test]
async fn child_that_is_just_stopping_is_restored_when_it_has_ended() {
    let world = World::new();
    let _serving = boss(&world).await;
    let script = world.file("plan.toml", "runs = [[{ say = 'begun' }, { sleep_ms = 3000 }]]");
    ok(&world, &["spawn", "boss", "slow", "--script", &script]).await;
    said(&world, "slow", "begun").await;
    let stopping = world.start(&["stop", "slow", "--json"]);
    world
        .until("it stops", async || {
            let lines = world.list().await;
            lines.iter().any(|line| line["name"] == "slow" && line["state"] == "stopping")
        })
        .await;
    says(&ok(&world, &["restore", "slow"]).await, &["restored: `slow` lives again"]);
    assert_eq!(stopping.ended().await.code, 0);
}

/// Makes the store one of that version of the tables; returns what it was.
fn version(paths: &PodPaths, new: u32) -> u32 {
    let store = rusqlite::Connection::open(paths.store()).unwrap();
    let old = store.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    store.pragma_update(None, "user_version", new).unwrap();
    store.execute("UPDATE sums SET sum = ?1 WHERE what = 'version'", [new]).unwrap();
    old
}

#[tokio::test]
async fn child_that_dies_before_it_is_ready_is_quoted_and_nothing_of_it_is_left() {
    let world = World::new();
    let boss = boss(&world).await;
    let bad = paths(&world, "bad");
    bad.make_state_dir().unwrap();
    std::fs::write(bad.store(), "this is a letter, and no database at all".repeat(50)).unwrap();
    let refused = world.pod(&["spawn", "boss", "bad", "--idle"]).await;
    refused.refused(4, &["`bad` ended before it was ready", "exited with code 1", "it said: ", "no database"]);
    assert!(!alive(&world, "bad").await && !bad.runtime_dir().exists());
    boss.signal(Signal::TERM);
    assert_eq!(boss.ended().await.code, 0);
}

#[tokio::test]
async fn commands_that_are_wrong_are_refused_before_anything_is_made() {
    let long = "x".repeat(20 * 1024);
    let table: &[(&[&str], i32, &[&str])] = &[
        (&["serve"], 2, &["--name", "--manifest"]),
        (&["serve", "--name", "The Boss"], 2, &["The Boss", "a-z"]),
        (&["serve", "--name", "a", "--worker", "leger"], 2, &["`leger`", "did you mean `ledger`?"]),
        (&["serve", "--name", "a", "--command", "x", "--script", "y"], 2, &["--command", "--script"]),
        (&["serve", "--name", "a", "--script", "/no/such/file"], 2, &["/no/such/file", "No such file"]),
        (&["serve", "--name", "a", "--timeout", "1s"], 2, &["--detach"]),
        (&["spawn", "a", "a"], 2, &["its parent's name"]),
        (&["spawn", "a", "b", "--write", "tmp"], 2, &["--write", "no absolute path", "/some/where"]),
        (&["spawn", "a", "b", "--worker", "comand"], 2, &["`comand`", "did you mean `command`?"]),
        (&["spawn", "a", "b"], 6, &["there is no pod `a`"]),
        (&["steer", "a", " "], 2, &["text is empty"]),
        (&["steer", "a", &long], 2, &["20480 bytes", "16384", "file"]),
        (&["steer", "a", "x"], 6, &["there is no pod `a`"]),
        (&["interrupt", "a", ""], 2, &["text is empty", "leave it out"]),
        (&["interrupt", "a", "--key", "00000000000000aa"], 2, &["TEXT"]),
        (&["send", "a", "x", "--notify", "--after"], 2, &["--notify", "--after"]),
        (&["output", "a", "--from", "x"], 2, &["`x` is no cursor"]),
        (&["output", "a", "--max-bytes", "9"], 2, &["256..=49152"]),
        (&["inspect", "a"], 6, &["there is no pod `a`"]),
        (&["restore", "a", "--timeout", "never"], 2, &["never", "90s"]),
    ];
    for (args, code, words) in table {
        let world = World::new();
        world.pod(args).await.refused(*code, words);
        assert!(!world.root().exists(), "{args:?} made something");
    }
    let world = World::new();
    let manifest = world.file("pod.toml", "[pod]\nname = \"a\"\nplace = \"/\"\n[worker]\nkind = \"ledger\"\n");
    world.pod(&["serve", "--manifest", &manifest]).await.refused(2, &["pod.toml, line 3", "`place`", "directory"]);
    assert!(!world.root().exists());
}

#[tokio::test]
async fn root_is_restored_whatever_the_stores_of_strangers_hold() {
    let world = World::new();
    let serving = boss(&world).await;
    ok(&world, &["stop", "boss"]).await;
    serving.ended().await;
    let _ended = Background(&world, "boss");
    for (name, what) in [("begun", ""), ("broken", "no database at all")] {
        let stranger = paths(&world, name);
        stranger.make_state_dir().unwrap();
        std::fs::write(stranger.store(), what).unwrap();
    }
    says(&ok(&world, &["restore", "boss"]).await, &["restored: `boss`"]);
    ok(&world, &["stop", "boss"]).await;
}

#[tokio::test]
async fn pod_that_a_program_of_another_one_has_started_in_the_background_is_none_of_its_programs() {
    let world = World::new();
    let _ended = Background(&world, "root");
    let line = "POD_LIFE=00000000000000ff \"$POD\" serve --name root --detach --json";
    let pid = world.shell("sh", line).await.records().remove(0)["pid"].clone();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("POD_LIFE="));
    ok(&world, &["stop", "root"]).await;
}

#[tokio::test]
async fn what_was_below_a_process_before_it_became_a_pod_is_left_alone_when_that_ends() {
    let world = World::new();
    let file = world.path("before");
    // As a container's entry point does it.
    let line = format!("sleep 60 >/dev/null 2>&1 & echo $! >'{}'; exec \"$POD\" serve --name r", file.display());
    let (served, before) = tokio::join!(world.shell("sh", &line), async {
        world.until("the pod answers", async || world.list().await.iter().any(|pod| pod["state"] == "idle")).await;
        let before: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        assert_eq!(world.pod(&["stop", "r"]).await.code, 0);
        rustix::process::Pid::from_raw(before).unwrap()
    });
    assert_eq!(served.code, 0, "{served:?}");
    // It is there, and ours to end.
    rustix::process::kill_process(before, rustix::process::Signal::KILL).unwrap();
}
