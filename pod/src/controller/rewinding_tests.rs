//! Compaction and rewind in a real pod of this process: store, sockets and calls are real, the worker is a script.

use rpc::CallError;
use tempfile::TempDir;

use crate::fixture::within;
use crate::handle::{PodController, PodHandle, PodOptions};
use crate::id::{CallId, TurnId};
use crate::manifest::WorkerSpec;
use crate::protocol::*;
use crate::runtime_dir::Roots;
use crate::spawn::WorkEnd;
use crate::store::{HistoryItem, OutputKind, ToolEnd, Usage};
use crate::worker::{LiveItem, Workers};

struct World {
    pod: PodHandle,
    client: rpc::Client<Method>,
    dir: TempDir,
    spec: WorkerSpec,
}

impl World {
    async fn with(spec: WorkerSpec) -> Self {
        Self::at(TempDir::new().unwrap(), spec).await
    }

    async fn script(text: &str) -> Self {
        Self::with(WorkerSpec::scripted(text, "the script").unwrap()).await
    }

    async fn at(dir: TempDir, spec: WorkerSpec) -> Self {
        Self::starting(dir, spec, "/bin/false").await
    }

    /// `program` is what its children are started from.
    async fn starting(dir: TempDir, spec: WorkerSpec, program: impl Into<std::path::PathBuf>) -> Self {
        let options = PodOptions::new("scripted".parse().unwrap(), spec.clone())
            .workers(Workers::builtin())
            .roots(Roots::at(&dir.path().join("pods")).unwrap())
            .program(program);
        let pod = PodController::spawn(options).await.unwrap();
        Self { client: rpc::Client::new(&pod.address()), pod, dir, spec }
    }

    /// The next life of the same pod.
    async fn again(self) -> Self {
        within("the end of the pod", self.pod.shutdown()).await;
        Self::at(self.dir, self.spec).await
    }

    async fn run(&self) -> WorkEnd {
        let work = self.pod.run("do it").await.unwrap();
        let end = within("the end", work.ended()).await;
        self.state(PodState::Idle).await;
        end
    }

    async fn state(&self, wanted: PodState) {
        let mut phase = self.pod.shared().phase.subscribe();
        within(&format!("the state {wanted}"), phase.wait_for(|phase| *phase == wanted)).await.unwrap();
    }

    async fn history(&self) -> Vec<HistoryItem> {
        let rows = self.pod.store().read(|reads| reads.history_after(0, 1000)).await.unwrap();
        rows.into_iter().map(|row| row.item).collect()
    }

    async fn said(&self) -> Vec<String> {
        let texts = self.history().await.into_iter().filter_map(|item| match item {
            HistoryItem::Output { output: OutputKind::Text, text } => Some(text),
            _ => None,
        });
        texts.collect()
    }

    async fn targets(&self) -> RewindTargets {
        self.client.call(ListRewindTargets).await.unwrap()
    }

    async fn rewind(&self, target: TurnId, expected_head: u64) -> Result<Rewound, RewindRejection> {
        let children = RewindChildren::Refuse;
        match within("the answer", self.client.call(RewindTo { target, expected_head, children })).await {
            Ok(RewindAck::Rewound(rewound)) => Ok(rewound),
            Ok(other) => panic!("{other:?}"),
            Err(CallError::Rejected(rejection)) => Err(rejection),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, CallError<Compact>>) -> ControlRejection {
    match answer {
        Err(CallError::Rejected(rejection)) => rejection,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_leaves_a_summary_that_later_lives_know() {
    let world = World::script("runs = [[{ say = 'a' }], ['recall']]\nsummary = 'all of it'").await;
    world.run().await;
    let turn = world.client.call(Compact).await.unwrap().turn;
    assert_eq!(turn, TurnId(2));
    world.state(PodState::Idle).await;
    assert_eq!(world.client.call(Compact).await.unwrap().turn, TurnId(3));
    world.state(PodState::Idle).await;
    world.run().await;
    // The turn's beginning and its input are all that stands behind the summary.
    assert_eq!(world.said().await, ["a", "recalled: all of it, and 2 entries"]);
    let world = world.again().await;
    world.run().await;
    world.run().await;
    let last = world.said().await.pop().unwrap();
    assert!(last.starts_with("recalled: all of it, and"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_answered_while_the_context_is_made_shorter() {
    let world = World::script("summary = 'short'\non_compact = [{ sleep_ms = 600000 }]").await;
    world.run().await;
    let turn = world.client.call(Compact).await.unwrap().turn;
    let status = world.client.call(Status).await.unwrap();
    assert_eq!((status.state, status.turn), (PodState::Running, Some(turn)));
    assert_eq!(refused(world.client.call(Compact).await), ControlRejection::AlreadyRunning { turn });
    let run = world.client.call(Run { work: crate::id::WorkId(7), input: "x".into() }).await;
    assert!(matches!(run, Err(CallError::Rejected(RunRejection::AlreadyRunning { turn: busy })) if busy == turn));
    let pause = world.client.call(Pause).await;
    assert!(matches!(pause, Err(CallError::Rejected(ControlRejection::Invalid { .. }))), "{pause:?}");
    let targets = world.targets().await;
    assert_eq!(world.rewind(TurnId(1), targets.head).await, Err(RewindRejection::AlreadyRunning { turn }));
    assert!(!world.pod.notify("kept").await.unwrap().woke);
    world.client.call(Cancel).await.unwrap();
    world.state(PodState::Idle).await;
    let history = world.history().await;
    let is_summary = |item: &&HistoryItem| matches!(item, HistoryItem::Compacted { .. });
    assert_eq!(history.iter().filter(is_summary).count(), 0, "cancelled, and yet made");
    // What has waited is told now.
    let mut head = world.pod.store().history_head();
    within("the note", async {
        while !world.said().await.iter().any(|text| text == "kept") {
            head.changed().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_of_a_compaction_that_never_starts_is_refused_and_ends_no_later_turn() {
    // Longer than a turn that was asked to end may take.
    let world = World::script("runs = [[{ sleep_ms = 1500 }, { say = 'done' }]]\nsummary = 'short'").await;
    let refuse = "CREATE TRIGGER held BEFORE INSERT ON turns BEGIN SELECT RAISE(ABORT, 'held by a test'); END";
    world.pod.store().write(move |tx| tx.run(refuse, [])).await.unwrap();
    // Until the cancel is there, the store gets to nothing.
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let store = world.pod.store().clone();
    let holding = tokio::spawn(async move { store.write(move |_| Ok(gone.recv().is_err())).await });
    let mut compacting = std::pin::pin!(world.client.call(Compact));
    assert!(futures::poll!(&mut compacting).is_pending());
    world.state(PodState::Running).await;
    let mut cancelling = std::pin::pin!(world.client.call(Cancel));
    assert!(futures::poll!(&mut cancelling).is_pending());
    // Asked behind it, and answered without the store.
    let pause = world.client.call(Pause).await;
    assert!(matches!(pause, Err(CallError::Rejected(ControlRejection::Invalid { .. }))), "{pause:?}");
    drop(go);
    assert!(within("the store", holding).await.unwrap().unwrap());
    assert!(matches!(refused(within("the answer", compacting).await), ControlRejection::Unavailable { .. }));
    let cancelled = within("the answer", cancelling).await;
    assert!(matches!(cancelled, Err(CallError::Rejected(ControlRejection::NotRunning))), "{cancelled:?}");
    world.pod.store().write(|tx| tx.run("DROP TRIGGER held", [])).await.unwrap();
    assert_eq!(world.run().await, WorkEnd::TurnEnded(TurnResult::Finished));
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_turn_survives_a_compaction_and_goes_on() {
    let world = World::script("runs = [['pause'], [{ say = 'on' }]]\nsummary = 'short'").await;
    let work = world.pod.run("do it").await.unwrap();
    within("the pause", work.ended()).await;
    world.state(PodState::Paused).await;
    world.client.call(Compact).await.unwrap();
    world.state(PodState::Paused).await;
    world.client.call(Resume).await.unwrap();
    assert_eq!(within("the end", work.settled()).await, WorkResult::Finished);
    assert_eq!(world.said().await, ["on"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_of_a_compaction_of_a_paused_pod_is_done_next_and_a_steer_waits_for_the_resume() {
    let script = "runs = [['pause'], [{ say = 'instead' }]]\nsummary = 's'\non_compact = [{ sleep_ms = 600000 }]";
    let world = World::script(script).await;
    let work = world.pod.run("do it").await.unwrap();
    within("the pause", work.ended()).await;
    world.state(PodState::Paused).await;
    let compaction = world.client.call(Compact).await.unwrap().turn;
    let send = |key, how| {
        let request = SendToPod { key: crate::id::WorkId(key), how, text: "x".into() };
        world.client.call(request)
    };
    let steered = within("the answer", send(7, SendKind::Steer)).await.unwrap();
    assert_eq!(steered, Sent::Steered { told: Told::Later { state: PodState::Paused } });
    let Sent::Interrupted { turn, next } = within("the answer", send(8, SendKind::Interrupt)).await.unwrap() else {
        panic!()
    };
    assert_eq!((turn, next.map(|next| next.ahead)), (Some(compaction), Some(0)));
    assert_eq!(within("the end of what was paused", work.settled()).await, WorkResult::Interrupted);
    world.state(PodState::Idle).await;
    assert_eq!(world.said().await[0], "instead");
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_cannot_is_named_and_nothing_is_changed() {
    let world = World::with(WorkerSpec::command("true")).await;
    world.run().await;
    let before = world.history().await;
    let ControlRejection::Invalid { reason } = refused(world.client.call(Compact).await) else { panic!() };
    assert!(reason.contains("worker `command` keeps nothing"), "{reason}");
    let Err(CallError::Rejected(RewindRejection::NotEligible { reason })) = world.client.call(ListRewindTargets).await
    else {
        panic!()
    };
    assert!(reason.contains("worker `command` cannot forget"), "{reason}");
    assert!(matches!(world.rewind(TurnId(1), 0).await, Err(RewindRejection::NotEligible { .. })));
    assert_eq!(world.history().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn rewind_goes_back_in_the_script_and_in_its_context() {
    let world = World::script("runs = [[{ say = 'a' }], [{ say = 'b' }], ['recall']]").await;
    world.run().await;
    world.run().await;
    let seen = world.targets().await;
    let turns: Vec<_> = seen.targets.iter().map(|target| (target.turn, target.input.as_deref())).collect();
    assert_eq!(turns, [(TurnId(2), Some("do it")), (TurnId(1), Some("do it"))]);
    assert!(matches!(world.rewind(TurnId(9), seen.head).await, Err(RewindRejection::NotEligible { .. })));
    world.run().await;
    let head = world.targets().await.head;
    assert_eq!(world.rewind(TurnId(2), seen.head).await, Err(RewindRejection::HeadMoved { head }));
    let rewound = world.rewind(TurnId(2), head).await.unwrap();
    assert_eq!((rewound.turns, rewound.input.as_deref(), rewound.reports), (2, Some("do it"), 0));
    assert_eq!(world.rewind(TurnId(1), head).await, Err(RewindRejection::HeadMoved { head: rewound.head }));
    world.run().await;
    world.run().await;
    // Of the first run four entries, of the second one and this one's beginning.
    assert_eq!(
        world.said().await,
        ["a", "b", "recalled: nothing, and 10 entries", "b", "recalled: nothing, and 10 entries"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn report_that_a_rewind_removes_is_told_again_without_being_asked() {
    let world = World::script("").await;
    world.pod.notify("a note").await.unwrap();
    let mut head = world.pod.store().history_head();
    let told = async |times: usize| {
        let mut head = head.clone();
        within("the note", async {
            while world.said().await.len() < times {
                head.changed().await.unwrap();
            }
        })
        .await;
        world.state(PodState::Idle).await;
    };
    told(1).await;
    let seen = world.targets().await;
    assert_eq!((seen.targets[0].input.as_ref(), seen.targets[0].reports), (None, 1));
    assert_eq!(world.rewind(seen.targets[0].turn, seen.head).await.unwrap().reports, 1);
    told(2).await;
    assert_eq!(world.said().await, ["a note", "a note"]);
    head.mark_unchanged();
}

#[tokio::test(flavor = "multi_thread")]
async fn rewind_of_a_paused_turn_settles_its_work_as_cancelled() {
    let world = World::script("runs = [['pause']]").await;
    let work = world.pod.run("do it").await.unwrap();
    world.state(PodState::Paused).await;
    let seen = world.targets().await;
    world.rewind(TurnId(1), seen.head).await.unwrap();
    assert_eq!(within("the end", work.settled()).await, WorkResult::Cancelled);
    world.state(PodState::Idle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn turn_of_an_agent_is_told_whole_what_lasts_in_history_and_the_rest_to_eyes() {
    let world = World::script(
        "runs = [[
            { think_delta = 'hm' }, { think = 'hm, yes' }, { delta = 'lo' },
            { retry = { attempt = 1, after_ms = 1, reason = 'overloaded' } },
            { delta = 'he' }, { delta = 'llo' }, { say = 'hello' },
            { usage = { input_tokens = 9, output_tokens = 2 } },
            { tool = { name = 'look', arguments = { at = 'x' }, progress = ['half'], result = 'seen' } },
            { tool = { name = 'touch', fails = 'no' } },
            { continue = 'cut at 2 tokens' }, { compact = 'short' }, { say = 'done' },
        ]]",
    )
    .await;
    let (before, mut live) = world.pod.live();
    assert_eq!(before, crate::worker::InFlight::default());
    world.run().await;
    let mut seen = Vec::new();
    loop {
        match within("what is shown", live.next()).await.unwrap() {
            LiveItem::Delta { text, piece, at, .. } => seen.push(format!("{piece}+{at} {text}")),
            LiveItem::PieceOver { piece, committed, .. } => seen.push(format!("{piece} {committed}")),
            LiveItem::Progress { call, text, .. } => seen.push(format!("call {call} {text}")),
            LiveItem::TurnOver { .. } => break,
            LiveItem::Missed => panic!("missed"),
        }
    }
    assert_eq!(
        seen,
        ["1+0 hm", "1 true", "2+0 lo", "2 false", "3+0 he", "3+2 llo", "3 true", "call 1 half"],
        "a piece that is repeated does not count"
    );
    let output = |kind, text: &str| HistoryItem::Output { output: kind, text: text.to_owned() };
    let result = |call, how, text: &str| {
        let (call, text, structured, attachments) = (CallId(call), text.to_owned(), None, Vec::new());
        HistoryItem::ToolResult { call, how, text, structured, attachments }
    };
    let of_the_turn = world.history().await.into_iter().skip_while(|item| item.kind() != "user_input").skip(1);
    let expected = [
        output(OutputKind::Thinking, "hm, yes"),
        HistoryItem::Retrying { attempt: 1, after_ms: 1, reason: "overloaded".into() },
        output(OutputKind::Text, "hello"),
        HistoryItem::Usage(Usage::new(9, 2)),
        HistoryItem::ToolCall { call: CallId(1), tool: "look".into(), arguments: serde_json::json!({"at": "x"}) },
        result(1, ToolEnd::Done, "seen"),
        HistoryItem::ToolCall { call: CallId(2), tool: "touch".into(), arguments: serde_json::json!({}) },
        result(2, ToolEnd::Failed, "no"),
        HistoryItem::Continuing { reason: "cut at 2 tokens".into() },
    ];
    let of_the_turn: Vec<_> = of_the_turn.collect();
    assert_eq!(of_the_turn[..expected.len()], expected);
    assert!(matches!(&of_the_turn[expected.len()], HistoryItem::Compacted { summary, .. } if summary == "short"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tool_that_is_used_when_its_turn_is_cancelled_has_its_one_result() {
    let tool = "runs = [[{ tool = { name = 'wait', progress = ['begun', 'never'], pause_ms = 1 } }]]";
    let world = World::script(&tool.replace("pause_ms = 1", "pause_ms = 600000")).await;
    let work = world.pod.run("do it").await.unwrap();
    // It is shown when it is committed.
    within("the use", async {
        while world.pod.live().0.calls.get(&CallId(1)).is_none_or(|call| call.tool != "wait") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(world.history().await.iter().any(|item| item.kind() == "tool_call"));
    world.client.call(Cancel).await.unwrap();
    assert_eq!(within("the end", work.ended()).await, WorkEnd::TurnEnded(TurnResult::Cancelled));
    let results: Vec<_> = world.history().await.into_iter().filter(|item| item.kind() == "tool_result").collect();
    assert!(matches!(&results[..], [HistoryItem::ToolResult { how: ToolEnd::Abandoned, .. }]), "{results:?}");
    assert!(world.pod.live().0.calls.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_answers_and_starts_no_turn_while_children_are_stopped_for_a_rewind() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("stubborn");
    std::fs::write(&program, "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.05; done\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let spec = WorkerSpec::scripted("runs = [[{ say = 'a' }]]", "the script").unwrap();
    let world = World::starting(dir, spec, program).await;
    world.run().await;
    let pod = world.pod.clone();
    let spawn = crate::SpawnPod::new("child".parse().unwrap(), WorkerSpec::ledger());
    let spawning = tokio::spawn(async move { pod.spawn_pod(spawn).await });
    let started = |lines: &[crate::ChildStatus]| lines.iter().any(|line| line.pid.is_some()).then_some(());
    within("the child", world.pod.children_until(started)).await;
    let seen = world.targets().await;
    assert_eq!(seen.targets[0].children, 1);
    let (client, target) = (world.client.clone(), seen.targets[0].turn);
    let request = RewindTo { target, expected_head: seen.head, children: RewindChildren::Stop };
    let rewinding = tokio::spawn(async move { client.call(request).await });
    let stopping =
        |lines: &[crate::ChildStatus]| lines.iter().any(|line| line.phase == crate::ChildPhase::Stopping).then_some(());
    within("the stop", world.pod.children_until(stopping)).await;
    assert_eq!(world.client.call(Status).await.unwrap().state, PodState::Idle);
    let run = world.client.call(Run { work: crate::id::WorkId(7), input: "x".into() }).await;
    let Err(CallError::Rejected(RunRejection::AlreadyRunning { turn: TurnId(0) })) = run else { panic!("{run:?}") };
    assert!(!world.pod.notify("kept").await.unwrap().woke, "told in the middle of a rewind");
    let RewindAck::Rewound(rewound) = within("the rewind", rewinding).await.unwrap().unwrap() else { panic!() };
    assert_eq!((rewound.children_stopped, rewound.turns), (1, 1));
    assert!(within("the child's end", spawning).await.unwrap().is_err());
    let mut head = world.pod.store().history_head();
    within("what was kept", async {
        while !world.said().await.iter().any(|text| text == "kept") {
            head.changed().await.unwrap();
        }
    })
    .await;
}

/// A pod with one turn behind it and, started since, children that are this very process: nobody can end them.
async fn with_endless(names: &[&str]) -> (World, RewindTo) {
    let world = World::script("runs = [[{ say = 'a' }]]").await;
    world.run().await;
    for name in names {
        crate::fixture::adopt_this_process(&world.pod, name).await;
    }
    let seen = world.targets().await;
    let request = RewindTo { target: seen.targets[0].turn, expected_head: seen.head, children: RewindChildren::Stop };
    (world, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn rewind_that_waits_for_a_child_that_does_not_end_is_given_up_by_a_cancel_and_the_pod_works_on() {
    let (world, request) = with_endless(&["child"]).await;
    let client = world.client.clone();
    let rewinding = tokio::spawn(async move { client.call(request).await });
    // Until its children are being stopped there is nothing to cancel.
    let ack = within("the cancel", async {
        loop {
            match world.client.call(Cancel).await {
                Ok(ack) => break ack,
                Err(CallError::Rejected(ControlRejection::NotRunning)) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert_eq!((ack.state, ack.turn, ack.staged), (PodState::Idle, None, true));
    // It was told to end, and that stands: only *that* it does not wait for it is said.
    let answer = within("the answer", rewinding).await.unwrap().unwrap();
    let reason = RewindRejection::Cancelled;
    assert_eq!(answer, RewindAck::NotRewound { children_told: 1, children_stopped: 0, reason });
    assert!(world.history().await.iter().all(|item| item.kind() != "rewound"));
    world.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rewind_that_has_told_a_child_to_end_never_says_that_nothing_was_applied() {
    let (world, request) = with_endless(&["one", "other"]).await;
    let client = world.client.clone();
    let rewinding = tokio::spawn(async move { client.call(request).await });
    // One of them ends when it is told to: its line says so, as after a burial.
    let one = world.pod.child(&"one".parse().unwrap()).unwrap().id().clone();
    within("the stop", async {
        while world.pod.shared().registry.asked_to_stop(&one).is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    world.pod.shared().registry.ended(&one, &crate::Terminal::ShutDown);
    within("the cancel", async {
        while world.client.call(Cancel).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = within("the answer", rewinding).await.unwrap().unwrap();
    assert_eq!(
        answer,
        RewindAck::NotRewound { children_told: 2, children_stopped: 1, reason: RewindRejection::Cancelled }
    );
    world.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_has_said_that_it_goes_on_is_not_ended_by_a_pod_that_stops_before_it_has_recorded_that() {
    let world = World::script("runs = [[{ say = 'a' }]]").await;
    world.run().await;
    let mut goes_on = crate::fixture::Played::of(&world.pod, "goes-on").await;
    let mut says_nothing = crate::fixture::Played::of(&world.pod, "says-nothing").await;
    let full =
        "CREATE TRIGGER held BEFORE UPDATE OF lifetime ON children BEGIN SELECT RAISE(ABORT, 'held by a test'); END";
    world.pod.store().write(move |tx| tx.run(full, [])).await.unwrap();
    let seen = world.targets().await;
    let request = RewindTo { target: seen.targets[0].turn, expected_head: seen.head, children: RewindChildren::Detach };
    let client = world.client.clone();
    let rewinding = tokio::spawn(async move { client.call(request).await });
    let asked = |call| match call {
        MethodCall::Detach(_, responder) => Some(responder),
        _ => None,
    };
    let unanswered = says_nothing.call(asked).await;
    goes_on.call(asked).await.ack(());
    let detached = |lines: &[crate::ChildStatus]| {
        let is_it = |line: &&crate::ChildStatus| line.lifetime == crate::Lifetime::Detached;
        lines.iter().find(is_it).map(|line| line.pod.clone())
    };
    assert_eq!(within("its line", world.pod.children_until(detached)).await, goes_on.pod);
    world.pod.request_stop(ShutdownMode::Now);
    let answer = within("the answer", rewinding).await.unwrap().unwrap();
    let reason = RewindRejection::Stopping;
    assert_eq!(answer, RewindAck::NotRewound { children_told: 1, children_stopped: 0, reason });
    let registry = &world.pod.shared().registry;
    assert_eq!(registry.asked_to_stop(&goes_on.pod), None, "it was told to end, though it had said that it goes on");
    assert!(registry.asked_to_stop(&says_nothing.pod).is_some());
    registry.ended(&says_nothing.pod, &crate::Terminal::ShutDown);
    world.pod.shared().child_ended().await;
    drop(unanswered);
    within("the end of the pod", world.pod.wait()).await;
}
