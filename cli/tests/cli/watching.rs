//! `pod log --follow`, `pod events`, `pod tree` and `pod attach`: pods that are watched, and talked to beside it.

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{Running, World, of_kind, of_type};

/// A pod that stays, and its child that is done.
async fn kept(world: &World) -> Running {
    let mut run = world.start(&["run", "--keep", "--child", "a=true"]);
    run.says("kept").await;
    run
}

async fn ended(world: &World, run: Running) {
    assert_eq!(world.pod(&["stop", "run"]).await.code, 0);
    run.ended().await;
}

#[tokio::test]
async fn log_that_follows_shows_what_is_committed_and_goes_on_in_the_next_life() {
    let world = World::new();
    let run = kept(&world).await;
    let mut log = world.start(&["log", "run", "--follow", "--json"]);
    log.says("work_settled").await;
    assert_eq!(world.pod(&["send", "run", "the first life"]).await.code, 0);
    log.says("the first life").await;
    ended(&world, run).await;
    log.says("\"alive\":false").await;
    let run = kept(&world).await;
    log.says("\"alive\":true").await;
    assert_eq!(world.pod(&["send", "run", "the second life"]).await.code, 0);
    log.says("the second life").await;
    ended(&world, run).await;
    log.says("\"alive\":false").await;
    log.signal(Signal::INT);
    let done = log.ended().await;
    assert_eq!(done.code, 0, "{done:?}");
    // Every entry once, in order, and no other: what the store has.
    let shown: Vec<Value> = done.records().into_iter().filter(|record| record["seq"].is_u64()).collect();
    assert_eq!(shown, world.history("run").await);
}

#[tokio::test]
async fn log_that_follows_to_the_end_of_a_pod_ends_with_it() {
    let world = World::new();
    let run = kept(&world).await;
    let log = world.start(&["log", "run", "--follow", "--until-end", "--from", "3", "--json"]);
    ended(&world, run).await;
    let done = log.ended().await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.records(), world.history("run").await[2..]);
    // Of one that does not run, that is at once.
    let text = world.pod(&["log", "a", "--follow", "--until-end"]).await;
    assert!(text.code == 0 && text.stdout.contains("turn ended: finished"), "{text:?}");
    world.pod(&["log", "a", "--until-end"]).await.refused(2, &["--follow"]);
    world.pod(&["log", "a", "--from", "1", "--limit", "1"]).await.refused(2, &["--from", "--limit"]);
}

#[tokio::test]
async fn log_that_follows_a_dead_pod_says_that_it_waits() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "a=true"]).await.code, 0);
    let mut log = world.start(&["log", "a", "--follow"]);
    log.says("`a` does not run; waiting for its next life").await;
    log.signal(Signal::TERM);
    assert_eq!(log.ended().await.code, 0);
}

#[tokio::test]
async fn events_say_what_was_told_and_what_was_applied() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "a=true"]).await.code, 0);
    let above = world.pod(&["events", "run", "--json"]).await;
    assert_eq!(above.code, 0, "{above:?}");
    let above = above.records();
    let applied: Vec<_> = of_type(&above, "applied").iter().map(|event| event["key"]["seq"].as_u64()).collect();
    assert!(applied.len() >= 2 && applied.is_sorted(), "{above:?}");
    assert!(of_type(&above, "applied").iter().all(|event| event["child"] == "a"));
    let below = world.pod(&["events", "a", "--json"]).await.records();
    let outbox = of_type(&below, "outbox")[0].clone();
    assert!(outbox["raised"].as_u64().unwrap() >= 2, "{outbox}");
    for limit in [0, 1, 2] {
        let last = world.pod(&["events", "run", "--limit", &limit.to_string(), "--json"]).await.records();
        assert_eq!(of_type(&last, "applied"), of_type(&above, "applied")[applied.len() - limit..]);
    }
    let text = world.pod(&["events", "run"]).await.stdout;
    assert!(text.contains("from its children, each applied once:") && text.contains("`a` ended a turn"), "{text}");
    world.pod(&["events", "nobody"]).await.refused(6, &["no pod `nobody`"]);
}

#[tokio::test]
async fn events_of_a_child_whose_parent_is_halted_wait_and_are_told_later() {
    let world = World::new();
    let run = kept(&world).await;
    run.stop().await;
    let work = world.pod(&["send", "a", "again"]).await;
    assert_eq!(work.code, 0, "{work:?}");
    let pending = async || {
        let events = world.pod(&["events", "a", "--json"]).await.records();
        let outbox = of_type(&events, "outbox")[0].clone();
        (outbox["pending"].as_u64().unwrap(), of_type(&events, "event").len() as u64)
    };
    world.until("its end waits for the parent", async || pending().await.0 > 0).await;
    let (waiting, shown) = pending().await;
    assert_eq!(waiting, shown);
    // The list and the figures count the same.
    let listed = world.list().await;
    let listed = listed.iter().find(|pod| pod["name"] == "a").unwrap();
    assert_eq!((&listed["outbox"], &listed["undeliverable"]), (&waiting.into(), &0.into()));
    let text = world.pod(&["ls"]).await.stdout;
    let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let at = columns(text.lines().next().unwrap()).iter().rposition(|word| word == "outbox").unwrap();
    let heads = columns(text.lines().next().unwrap()).len();
    let line = columns(text.lines().find(|line| line.starts_with("a ")).unwrap());
    assert_eq!(line[line.len() - (heads - at)], waiting.to_string(), "{text}");
    let figures = world.pod(&["metrics"]).await.stdout;
    assert!(figures.contains(&format!("pod_outbox_pending{{pod=\"a\",parent=\"run\"}} {waiting}\n")), "{figures}");
    let mut follow = world.start(&["events", "a", "--follow"]);
    follow.says("pending").await;
    run.signal(Signal::CONT);
    follow.says("acked up to").await;
    follow.signal(Signal::INT);
    assert_eq!(follow.ended().await.code, 0);
    world.until("it is acked", async || pending().await == (0, 0)).await;
    ended(&world, run).await;
}

#[tokio::test]
async fn tree_shows_children_below_their_parent_and_what_each_does() {
    let world = World::new();
    let run = kept(&world).await;
    let tree = world.pod(&["tree"]).await;
    let lines: Vec<&str> = tree.stdout.lines().collect();
    assert!(lines[1].starts_with("run ") && lines[1].contains("alive") && lines[1].contains("idle"), "{tree:?}");
    assert!(lines[2].starts_with("\u{2514}\u{2500} a ") && lines[2].contains("alive"), "{tree:?}");
    let nodes = world.pod(&["tree", "a", "--json"]).await.records();
    assert_eq!((nodes.len(), &nodes[0]["name"], &nodes[0]["parent"]), (1, &"a".into(), &"run".into()));
    let mut watch = world.start(&["tree", "--watch", "--json"]);
    watch.says("\"name\":\"a\"").await;
    ended(&world, run).await;
    watch.says("\"end\":\"shut down\"").await;
    watch.signal(Signal::INT);
    assert_eq!(watch.ended().await.code, 0);
    let text = world.pod(&["tree", "run"]).await.stdout;
    assert!(text.contains("shut down") && !text.contains('\u{1b}'), "{text}");
    world.pod(&["tree", "nobody"]).await.refused(6, &["no pod `nobody`"]);
}

#[tokio::test]
async fn tree_of_no_pods_makes_nothing() {
    let world = World::new();
    let tree = world.pod(&["tree"]).await;
    assert_eq!((tree.code, tree.stdout.as_str()), (0, "no pods\n"));
    assert!(!world.root().exists());
}

#[tokio::test]
async fn line_is_work_where_the_pod_rests_and_a_note_where_it_works() {
    let world = World::new();
    let mut run = world.start(&["run", "--keep", "--child", "a=true"]);
    run.says("kept").await;
    let mut attach = world.start_typing(&["attach", "a"]);
    attach.says("-- attached to `a`, idle").await;
    attach.types("first\n").await;
    attach.says("-- accepted: `a` does it in turn 2").await;
    attach.says("turn ended: finished").await;
    attach.hangs_up();
    let done = attach.ended().await;
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.ends_with("-- detached from `a`, which goes on\n"), "{done:?}");
    assert_eq!(of_kind(&world.history("a").await, "user_input").len(), 2);
    ended(&world, run).await;

    let mut run = world.start(&["run", "--child", "b=echo begun; exec sleep 600"]);
    run.says("work was given to `b`").await;
    let mut attach = world.start_typing(&["attach", "b", "--json"]);
    attach.says("begun").await;
    attach.says("\"attached\"").await;
    attach.types("know this\n").await;
    // A command reads nothing while it runs, and nobody says that it will.
    attach.says("\"recorded\"").await;
    assert_eq!(world.pod(&["stop", "run", "--now"]).await.code, 0);
    attach.says("\"ended\"").await;
    let done = attach.ended().await;
    assert_eq!(done.code, 0, "{done:?}");
    let sent = done.records();
    let sent = of_type(&sent, "sent")[0];
    assert_eq!(sent["outcome"], "recorded");
    assert!(sent["said"].as_str().unwrap().contains("is not told"), "{sent}");
    run.ended().await;
}

/// Carries bytes between a pod's socket and whoever connects to its name, until it is told to break all connections.
async fn between(socket: std::path::PathBuf, mut breaks: tokio::sync::mpsc::Receiver<()>) {
    let real = socket.with_extension("real");
    std::fs::rename(&socket, &real).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test that stands between a pod and who talks to it")]
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let mut carried = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (mut theirs, real) = (accepted.unwrap().0, real.clone());
                carried.spawn(async move {
                    let mut ours = tokio::net::UnixStream::connect(real).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut theirs, &mut ours).await;
                });
            }
            told = breaks.recv() => match told {
                Some(()) => carried.abort_all(),
                None => return,
            },
        }
    }
}

#[tokio::test]
async fn connection_that_breaks_is_no_end_of_the_pod_and_is_made_again() {
    let world = World::new();
    let run = kept(&world).await;
    let (breaks, told) = tokio::sync::mpsc::channel(1);
    let between = tokio::spawn(between(world.root().join("run/a/pod.sock"), told));
    let mut attach = world.start_typing(&["attach", "a"]);
    attach.says("-- attached to `a`, idle").await;
    breaks.send(()).await.unwrap();
    attach.says("attached again, behind entry").await;
    attach.types("and now?\n").await;
    attach.says("-- accepted: `a` does it").await;
    attach.says("turn ended: finished").await;
    ended(&world, run).await;
    let done = attach.ended().await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.stdout.matches("has ended").count(), 1, "{done:?}");
    let shown = done.stdout.lines().filter(|line| line.contains("told by") && line.contains("and now?")).count();
    assert_eq!(shown, 1, "{done:?}");
    drop(breaks);
    between.await.unwrap();
}

#[tokio::test]
async fn entry_that_is_damaged_is_said_to_be_passed_over_once_and_what_comes_behind_it_is_shown() {
    let world = World::new();
    let run = kept(&world).await;
    let mut first = world.start(&["attach", "a", "--read-only", "--limit", "100", "--json"]);
    first.says("\"attached\"").await;
    // Two entries of one turn, and one that is gone altogether.
    let history = world.history("a").await;
    let damaged = of_kind(&history, "turn_started")[0]["seq"].as_u64().unwrap();
    let spoil = rusqlite::Connection::open(world.root().join("state/a/store.db")).unwrap();
    spoil.busy_timeout(crate::world::PATIENCE).unwrap();
    spoil
        .execute("UPDATE history SET body = replace(body, 'turn', 'torn') WHERE seq = ?1", [damaged.cast_signed()])
        .unwrap();
    drop(spoil);
    let mut attach = world.start_typing(&["attach", "a", "--limit", "100", "--json"]);
    attach.says("\"not_shown\"").await;
    attach.says("\"attached\"").await;
    attach.types("and now?\n").await;
    attach.says("\"accepted\"").await;
    ended(&world, run).await;
    let done = attach.ended().await;
    let records = done.records();
    // Before or behind the word that it was accepted.
    assert!(of_kind(&records, "user_input").iter().any(|entry| entry["text"] == "and now?"), "{done:?}");
    let hole = of_type(&records, "not_shown");
    assert_eq!(hole.len(), 1, "{done:?}");
    assert_eq!((hole[0]["first"].as_u64(), hole[0]["last"].as_u64()), (Some(damaged), Some(damaged)), "{done:?}");
    assert!(hole[0]["why"].as_str().unwrap().contains("damaged"), "{done:?}");
    let shown: Vec<u64> = records.iter().filter_map(|record| record["seq"].as_u64()).collect();
    let head = *shown.last().unwrap();
    let whole: Vec<u64> = (1..=head).filter(|seq| *seq != damaged).collect();
    assert_eq!(shown, whole, "{done:?}");
    assert_eq!((of_type(&records, "attached_again").len(), done.code), (0, 70), "{done:?}");
    // Who had been shown it before misses nothing.
    let done = first.ended().await;
    assert_eq!((of_type(&done.records(), "not_shown").len(), done.code), (0, 0), "{done:?}");
    // Of one that is dead it is no other.
    world.pod(&["attach", "a"]).await.refused(6, &["does not run", "pod log a"]);
}

#[tokio::test]
async fn log_that_is_followed_from_beyond_its_end_says_how_far_it_goes() {
    let world = World::new();
    let run = kept(&world).await;
    world.pod(&["log", "a", "--follow", "--from", "5000"]).await.refused(4, &["has entries up to", "--from"]);
    ended(&world, run).await;
}

#[tokio::test]
async fn output_is_shown_as_it_comes_and_once() {
    let world = World::new();
    let gate = world.path("gate");
    let command = format!("echo one; while [ ! -e {} ]; do sleep 0.05; done; echo two", gate.display());
    let mut run = world.start(&["run", "--child", &format!("a={command}")]);
    run.says("work was given to `a`").await;
    let mut attach = world.start(&["attach", "a", "--read-only", "--limit", "100"]);
    attach.says("| one").await;
    std::fs::write(&gate, "").unwrap();
    attach.says("| two").await;
    run.ended().await;
    let done = attach.ended().await;
    assert_eq!(done.code, 0, "{done:?}");
    for line in ["| one", "| two"] {
        assert_eq!(done.stdout.lines().filter(|shown| *shown == line).count(), 1, "{done:?}");
    }
    assert!(done.stdout.contains("-- `a` has ended"), "{done:?}");
}

#[tokio::test]
async fn what_is_shown_in_flight_is_not_shown_again_when_it_is_committed() {
    let world = World::new();
    let script = world.file(
        "script.toml",
        "runs = [[{ think_delta = \"one\\ntwo\\nthr\" }, { read_reports = 1 }, { think_delta = \"ee\" }, { think = \"one\\ntwo\\nthree\\n\" },
                  { delta = \"wrong\\n\" }, { say = \"right\\n\" }]]",
    );
    let mut run = world.start(&["run", "--child-script", &format!("a={script}")]);
    run.says("work was given to `a`").await;
    let mut attach = world.start(&["attach", "a", "--read-only", "--limit", "100"]);
    attach.says("~ two").await;
    assert!(of_kind(&world.history("a").await, "output").is_empty(), "it is in flight");
    // Who comes later is shown it, too.
    let mut later = world.start(&["attach", "a", "--read-only", "--limit", "0"]);
    later.says("~ two").await;
    assert_eq!(world.pod(&["send", "a", "go on", "--notify"]).await.code, 0);
    for mut attach in [attach, later] {
        attach.says("turn ended").await;
        attach.signal(Signal::INT);
        let done = attach.ended().await;
        for line in ["~ one", "~ two", "~ three", "| right", "-- committed, in place of what was shown:"] {
            assert_eq!(done.stdout.lines().filter(|shown| *shown == line).count(), 1, "`{line}`: {done:?}");
        }
    }
    run.ended().await;
}

#[tokio::test]
async fn line_that_a_dead_pod_did_not_take_is_said_to_be_not_delivered() {
    let world = World::new();
    let run = kept(&world).await;
    let pid = world.list().await.iter().find(|pod| pod["name"] == "a").unwrap()["pid"].as_u64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let mut attach = world.start_typing(&["attach", "a"]);
    attach.says("-- attached").await;
    // Halted, so that nothing of it is answered, and then killed with the lines unanswered.
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    // More than are read ahead: some stand in the pipe yet.
    let lines: Vec<String> = (0..300).map(|number| format!("line {number}")).collect();
    attach.types(&format!("{}\n", lines.join("\n"))).await;
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    let done = attach.ended().await;
    let fate =
        |line: &String| done.stdout.lines().filter(|shown| shown.ends_with(&format!(": {line}"))).collect::<Vec<_>>();
    for (number, line) in lines.iter().enumerate() {
        let fates = fate(line);
        assert_eq!(fates.len(), 1, "`{line}` has its sentence: {done:?}");
        // The first was on its way.
        assert!(number == 0 || fates[0].starts_with("-- not delivered"), "{fates:?}");
    }
    assert!([3, 5].contains(&done.code), "{done:?}");
    ended(&world, run).await;
    world.pod(&["attach", "a"]).await.refused(6, &["does not run", "pod log a"]);
}
