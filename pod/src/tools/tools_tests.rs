//! The tools in a real pod of this process; children are rows and stores that a test fills.

use serde_json::{Value, json};

use super::*;
use crate::fixture::{Act, Puppet, Said};
use crate::id::{PodId, TurnId};
use crate::id::{Seq, StreamId};
use crate::protocol::{
    AttachOrRestorePod, CompletionKind, FindRejection, InspectPod, ListCompletions, ListVisiblePods, LostReason,
    Method, PodEvent, PodEventOffer, Restore, RestoreRejection, TurnResult,
};
use crate::protocol::{
    LifeEnd, ListPods, OutputCursor, OutputPage, PodState, Produced, ReadPodOutput, ReadRejection, SendKind,
    SendRejection, SendToPod, Sent, SpawnPod, SpawnRejection, StopOutcome, StopPod, StopRejection, TargetFault,
};
use crate::store::{
    EndOfLife, EndTurn, HistoryItem, NewRun, Origin, OutputKind, Own, StartCause, Store, StoreOptions, TurnOutcome,
    TurnStart,
};
use crate::worker::TurnEnd;

/// The store of the child `pod`, as its own process would have it.
fn store_of(puppet: &Puppet, pod: &PodId) -> Store {
    let paths = puppet.pod.roots().pod(&pod.name);
    paths.make_state_dir().unwrap();
    Store::open(paths.store(), StoreOptions::new(Own { pod: pod.clone(), has_parent: true, reads_reports: true }))
        .unwrap()
}

/// A turn of it that says these texts.
async fn turn(store: &Store, work: u64, says: &[&str]) {
    let says: Vec<String> = says.iter().map(|text| (*text).to_owned()).collect();
    let said = store.write(move |tx| {
        tx.stage_run(&NewRun { work: WorkId(work), origin: Origin::Host, input: "x".into() })?;
        let TurnStart::Started(turn) = tx.start_turn(StartCause::Wake)? else { panic!("no turn") };
        for text in says {
            tx.append_in(turn.turn, None, &HistoryItem::Output { output: OutputKind::Text, text })?;
        }
        let secret = HistoryItem::Output { output: OutputKind::Thinking, text: "hm".into() };
        tx.append_in(turn.turn, None, &secret)?;
        let outcome = TurnOutcome::Ended { result: TurnResult::Finished };
        tx.end_turn(&EndTurn { turn: turn.turn, outcome, compaction: None })
    });
    said.await.unwrap();
}

fn page(from: OutputCursor, bytes_max: u32) -> ReadPodOutput {
    ReadPodOutput { pod: "child".parse().unwrap(), from, turn: None, bytes_max }
}

/// What a page says, text by text.
fn texts(page: &OutputPage) -> Vec<String> {
    let entries = page.entries.iter().map(|entry| match &entry.what {
        Produced::Text(piece) | Produced::Stderr(piece) => piece.text.to_string(),
        Produced::TurnEnded { how } => format!("[{how}]"),
        Produced::Rewound { from } => format!("[rewound from {from}]"),
    });
    entries.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_read_piece_by_piece_without_a_gap_and_a_cursor_reads_what_came_since() {
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    let caller = Caller::of_pod(&puppet.pod);
    let empty = read_pod_output(&caller, page(OutputCursor::default(), 1000)).await.unwrap();
    assert!(empty.entries.is_empty() && !empty.more, "it has not come that far");
    let store = store_of(&puppet, &child);
    let long = "\u{20ac}".repeat(1000);
    turn(&store, 1, &["short", &long]).await;

    let (mut cursor, mut read, mut pages) = (OutputCursor::default(), Vec::new(), 0);
    loop {
        let got = read_pod_output(&caller, page(cursor, 256)).await.unwrap();
        assert!(got.entries.iter().all(|entry| entry.counts));
        read.extend(texts(&got));
        (cursor, pages) = (got.next, pages + 1);
        assert!(pages < 100, "it does not come to an end: {cursor}");
        if !got.more {
            break;
        }
    }
    assert_eq!(read.concat(), format!("short{long}[finished]"), "in {pages} pages");
    assert!(pages >= 12, "{pages} pages of 256 bytes");
    // Later, with the cursor that was kept: only what is new.
    let nothing = read_pod_output(&caller, page(cursor, 1000)).await.unwrap();
    assert!(nothing.entries.is_empty() && nothing.next == cursor);
    turn(&store, 2, &["again"]).await;
    let more = read_pod_output(&caller, page(cursor, 1000)).await.unwrap();
    assert_eq!(texts(&more), ["again", "[finished]"]);
    let second = ReadPodOutput { turn: Some(TurnId(2)), ..page(OutputCursor::default(), 1000) };
    assert_eq!(texts(&read_pod_output(&caller, second).await.unwrap()), ["again", "[finished]"]);

    let beyond = OutputCursor { entry: 900, byte: 0 };
    assert!(matches!(read_pod_output(&caller, page(beyond, 1000)).await, Err(ReadRejection::BadCursor { .. })));
    let within_a_character = OutputCursor { entry: more.entries[0].entry, byte: 99 };
    assert!(matches!(
        read_pod_output(&caller, page(within_a_character, 1000)).await,
        Err(ReadRejection::BadCursor { .. })
    ));
    let future = ReadPodOutput { turn: Some(TurnId(9)), ..page(OutputCursor::default(), 1000) };
    assert_eq!(read_pod_output(&caller, future).await, Err(ReadRejection::NoSuchTurn { turn: TurnId(9) }));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_outputs_come_in_pages_of_bounded_length_with_none_left_out() {
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    let store = store_of(&puppet, &child);
    let numbers: Vec<String> = (0..700).map(|n| format!("{n},")).collect();
    turn(&store, 1, &numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let caller = Caller::of_pod(&puppet.pod);
    let (mut cursor, mut read) = (OutputCursor::default(), String::new());
    loop {
        let got = read_pod_output(&caller, page(cursor, u32::MAX)).await.unwrap();
        read.push_str(&texts(&got).concat());
        cursor = got.next;
        if !got.more {
            break;
        }
    }
    assert_eq!(read, format!("{}[finished]", numbers.concat()));
}

#[tokio::test(flavor = "multi_thread")]
async fn page_for_a_model_keeps_its_cursor_however_much_is_escaped() {
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    let store = store_of(&puppet, &child);
    turn(&store, 1, &[&"\u{1}".repeat(40_000)]).await;
    let caller = Caller::of_pod(&puppet.pod);
    let text = dispatch(&caller, "ReadPodOutput", json!({ "pod": "child", "max_bytes": 49152 })).await.unwrap();
    assert!(text.len() <= crate::worker::TOOL_TEXT_BYTES_MAX, "{} bytes", text.len());
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["more"], true);
    let cursor = value["next"].as_str().unwrap();
    let rest = dispatch(&caller, "ReadPodOutput", json!({ "pod": "child", "cursor": cursor })).await.unwrap();
    assert!(rest.contains("\"entries\":[{"), "{}", crate::protocol::clip(&rest, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_mean_no_child_are_told_apart() {
    let puppet = Puppet::new().await;
    puppet.adopt_this_process("child").await;
    let other = puppet.pod.roots().pod(&"other".parse().unwrap());
    other.make_state_dir().unwrap();
    std::fs::write(other.life_lock(), "").unwrap();
    let caller = Caller::of_pod(&puppet.pod);
    let stop = async |name: &str| {
        stop_pod(&caller, StopPod { pod: name.parse().unwrap(), now: true, grace_ms: 0 }).await.unwrap_err()
    };
    let missing = stop("nobody").await;
    assert!(matches!(missing, StopRejection::Target(TargetFault::Missing { .. })));
    assert!(missing.to_string().contains("there is no pod `nobody`; there are `child`"), "{missing}");
    let foreign = stop("other").await;
    assert!(matches!(foreign, StopRejection::Target(TargetFault::NotVisible { .. })), "{foreign}");
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_has_ended_is_listed_told_about_and_sent_nothing() {
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    let caller = Caller::of_pod(&puppet.pod);
    let live = list_pods(&caller, ListPods { live_only: true, max: 100, after: None }).await.unwrap();
    assert_eq!((live.pods.len(), live.pods[0].phase.as_str(), live.pods[0].end), (1, "starting", None));
    let work = puppet.pod.commit({
        let child = child.clone();
        move |tx| tx.delegate(WorkId(5), &child, None, "dig")
    });
    work.await.unwrap();
    crate::event::settle_dead_child(puppet.pod.store(), &child, EndOfLife::Dead(LostReason::Killed { signal: 9 }))
        .await
        .unwrap();
    let all = list_pods(&caller, ListPods { max: 100, ..ListPods::default() }).await.unwrap();
    let line = &all.pods[0];
    assert_eq!(
        (line.end, line.works_open, line.work.as_deref()),
        (Some(LifeEnd::Killed { signal: 9 }), 0, Some("dig"))
    );
    assert!(list_pods(&caller, ListPods { live_only: true, max: 100, after: None }).await.unwrap().pods.is_empty());
    let behind = ListPods { after: Some(child.name.clone()), max: 100, live_only: false };
    assert!(list_pods(&caller, behind).await.unwrap().pods.is_empty());

    let stopped = stop_pod(&caller, StopPod { pod: child.name.clone(), now: true, grace_ms: 0 }).await.unwrap();
    let StopOutcome::Ended(stopped) = stopped else { panic!("{stopped:?}") };
    assert_eq!((stopped.end, stopped.already, stopped.works_lost), (LifeEnd::Killed { signal: 9 }, true, 1));
    let request = SendToPod { key: WorkId(8), how: SendKind::FollowUp, text: "x".into() };
    let sent = send_to_pod(&caller, &child.name, request).await.unwrap_err();
    assert!(matches!(sent, SendRejection::Target(TargetFault::Ended { .. })));
    for word in ["killed by signal 9", "AttachOrRestorePod", "ReadPodOutput"] {
        assert!(sent.to_string().contains(word), "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn right_of_a_child_that_ended_while_the_registry_was_held_is_told_as_kept_and_comes_back_by_itself() {
    let puppet = Puppet::new().await;
    let child = crate::store::fixture::pod("child", 7);
    let place = tempfile::tempdir().unwrap();
    let asked = [crate::scope::ScopeRule::below(place.path().to_str().unwrap(), crate::scope::Permission::Write)];
    let (roots, member) = (puppet.pod.roots().clone(), &puppet.pod.shared().member);
    member.claim(&child, &roots.pod(&child.name), "puppet", &asked).await.unwrap().keep();
    assert_eq!(puppet.adopt_this_process("child").await, child);
    crate::event::settle_dead_child(puppet.pod.store(), &child, EndOfLife::Dead(LostReason::Exited { code: 0 }))
        .await
        .unwrap();
    let caller = Caller::of_pod(&puppet.pod);
    let registry = crate::registry::Registry::at(&roots);
    let stopped_process = rusqlite::Connection::open(registry.path()).unwrap();
    stopped_process.execute_batch("BEGIN IMMEDIATE").unwrap();
    let told = stop_pod(&caller, StopPod { pod: child.name.clone(), now: true, grace_ms: 0 }).await.unwrap();
    assert!(matches!(&told, StopOutcome::Ended(stopped) if !stopped.returned), "{told:?}");
    drop(stopped_process);
    let returned = async {
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
        while registry.pods().unwrap().iter().any(|row| row.pod == child) || !puppet.pod.scope().lent_to().is_empty() {
            looks.tick().await;
        }
    };
    crate::fixture::within("the right is back", returned).await;
    let told = stop_pod(&caller, StopPod { pod: child.name.clone(), now: true, grace_ms: 0 }).await.unwrap();
    assert!(matches!(&told, StopOutcome::Ended(stopped) if stopped.returned), "{told:?}");
}

/// A pod with a child, which has told of one of its own, and a pod that is nobody's.
async fn family() -> (Puppet, PodId, PodId) {
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    let grandchild = crate::store::fixture::pod("grandchild", 9);
    let event = PodEvent::ScopeSubDelegated {
        pod: child.clone(),
        parent_pod: child.clone(),
        sub_pod: grandchild.clone(),
        sub_socket: "/s".into(),
        scope: rpc::List::new(),
    };
    let offer = PodEventOffer { from: child.clone(), stream: StreamId(5), seq: Seq(1), event };
    rpc::Client::<Method>::new(&puppet.pod.address()).call(offer).await.unwrap();
    for name in ["grandchild", "stranger"] {
        let paths = puppet.pod.roots().pod(&name.parse().unwrap());
        paths.make_state_dir().unwrap();
        std::fs::write(paths.life_lock(), "").unwrap();
    }
    (puppet, child, grandchild)
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_sees_itself_and_what_is_below_it_and_nothing_else() {
    let (puppet, child, grandchild) = family().await;
    let caller = Caller::of_pod(&puppet.pod);
    let page = list_visible_pods(&caller, ListVisiblePods { max: 100, after: None }).await.unwrap();
    let seen: Vec<_> =
        page.pods.iter().map(|pod| (pod.pod.clone(), pod.parent.as_str(), pod.depth, pod.alive)).collect();
    assert_eq!(seen, [(child.clone(), "puppet", 1, false), (grandchild.clone(), "child", 2, false)]);
    let first = list_visible_pods(&caller, ListVisiblePods { max: 1, after: None }).await.unwrap();
    assert!(first.pods.len() == 1 && first.more);
    let rest = ListVisiblePods { max: 1, after: Some(child.name.clone()) };
    let rest = list_visible_pods(&caller, rest).await.unwrap();
    assert!(rest.pods.len() == 1 && !rest.more);

    let inspect = async |name: &str| inspect_pod(&caller, InspectPod { pod: name.parse().unwrap() }).await;
    let own = inspect("puppet").await.unwrap();
    assert_eq!(own.life.unwrap().pid, Some(std::process::id()));
    assert_eq!((own.restore, own.children_live, own.children[0].pod.clone()), (Restore::Lives, 1, child.clone()));
    assert_eq!(own.last.last().unwrap().seq, own.history);
    let below = inspect("grandchild").await.unwrap();
    assert!(matches!(below.restore, Restore::No { .. }) && below.life.is_none(), "{below:?}");
    let foreign = inspect("stranger").await;
    assert!(matches!(foreign, Err(FindRejection::Target(TargetFault::NotVisible { .. }))), "{foreign:?}");
    let missing = inspect("nobody").await;
    assert!(matches!(missing, Err(FindRejection::Target(TargetFault::Missing { .. }))), "{missing:?}");
    // What is done to children is done to children: a child of a child has a parent of its own.
    let stop = stop_pod(&caller, StopPod { pod: grandchild.name, now: true, grace_ms: 0 }).await.unwrap_err();
    assert!(stop.to_string().contains("no child of this pod but of `child`"), "{stop}");
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_completed_with_what_can_be_meant() {
    let (puppet, ..) = family().await;
    let caller = Caller::of_pod(&puppet.pod);
    let words = async |prefix: &str, kind| {
        let found = list_completions(&caller, ListCompletions { prefix: prefix.into(), kind }).await.unwrap();
        found.found.iter().map(|found| found.word.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(words("", Some(CompletionKind::Pod)).await, ["child", "grandchild", "puppet"]);
    assert_eq!(words("pup", None).await, ["puppet", "puppet"], "the pod, and the worker of this test");
    assert_eq!(words("S", Some(CompletionKind::Tool)).await, ["SendToPod", "SpawnPod", "StopPod"]);
    assert_eq!(words("x", None).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_cannot_be_reached_or_restored_says_why_in_a_way_of_its_own() {
    let (puppet, child, _) = family().await;
    let caller = Caller::of_pod(&puppet.pod);
    let restore = async |name: &str, limit_ms| {
        let request = AttachOrRestorePod { pod: name.parse().unwrap(), limit_ms };
        attach_or_restore_pod(&caller, request).await.unwrap_err()
    };
    let missing = restore("nobody", 100).await;
    assert!(matches!(missing, RestoreRejection::Target(TargetFault::Missing { .. })), "{missing}");
    let foreign = restore("stranger", 100).await;
    assert!(matches!(foreign, RestoreRejection::Target(TargetFault::NotVisible { .. })), "{foreign}");
    // It lives, and nothing listens.
    let since = std::time::Instant::now();
    let deaf = restore("child", 300).await;
    assert!(matches!(deaf, RestoreRejection::TimedOut { limit_ms: 300, .. }), "{deaf}");
    assert!(since.elapsed() >= std::time::Duration::from_millis(300), "given up after {:?}", since.elapsed());
    let end = EndOfLife::Dead(LostReason::Killed { signal: 9 });
    crate::event::settle_dead_child(puppet.pod.store(), &child, end).await.unwrap();
    let unknown = restore("child", 1000).await;
    assert!(matches!(unknown, RestoreRejection::NotRestorable { .. }), "what it hosted was not recorded: {unknown}");
    let paths = puppet.pod.roots().pod(&child.name);
    paths.make_state_dir().unwrap();
    let other = PodId { incarnation: crate::id::Incarnation(8), ..child };
    let lock = crate::life_lock::LifeLock::acquire(&paths.life_lock(), &other).unwrap();
    let locked = restore("child", 1000).await;
    let said = locked.to_string();
    assert!(said.contains(&format!("process {}", std::process::id())) && said.contains("0000000000000008"), "{said}");
    assert!(matches!(locked, RestoreRejection::Locked { pid: Some(_), life: Some(_), .. }));
    drop(lock);

    // Children are started from `/bin/false`.
    let failed = spawn_pod(
        &caller,
        SpawnPod {
            name: "brief".parse().unwrap(),
            worker: r#"{"kind":"ledger"}"#.into(),
            input: None,
            scope: rpc::List::new(),
            detached: false,
            restart: Default::default(),
        },
    );
    failed.await.unwrap_err();
    let exited = restore("brief", 20_000).await;
    assert!(matches!(exited, RestoreRejection::Exited { .. }) && exited.to_string().contains("code 1"), "{exited}");
}

/// A child of this process's pod that has ended, and could be started: from `/bin/false`.
async fn ended_child(puppet: &Puppet) -> AttachOrRestorePod {
    let spawn = SpawnPod {
        name: "brief".parse().unwrap(),
        worker: r#"{"kind":"ledger"}"#.into(),
        input: None,
        scope: rpc::List::new(),
        detached: false,
        restart: Default::default(),
    };
    let pod = spawn.name.clone();
    spawn_pod(&Caller::of_pod(&puppet.pod), spawn).await.unwrap_err();
    AttachOrRestorePod { pod, limit_ms: 20_000 }
}

async fn lives(puppet: &Puppet) -> usize {
    puppet.pod.store().read(|reads| reads.children()).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_stop_and_word_of_a_turn_that_is_over_change_nothing() {
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    let request = ended_child(&puppet).await;
    let before = lives(&puppet).await;
    let over = Caller { turn: Some(TurnId(7)), ..Caller::of_pod(&puppet.pod) };
    let restored = attach_or_restore_pod(&over, request).await.unwrap_err();
    assert!(matches!(restored, RestoreRejection::Refused { .. }), "{restored}");
    assert_eq!(lives(&puppet).await, before);
    let stop = StopPod { pod: child.name.clone(), now: true, grace_ms: 0 };
    let stopped = stop_pod(&over, stop).await.unwrap_err();
    assert!(matches!(stopped, StopRejection::Unavailable { .. }), "{stopped}");
    let phase = puppet.pod.children().into_iter().find(|line| line.pod == child).unwrap().phase;
    assert_eq!(phase, crate::spawn::ChildPhase::Starting, "it was told to end");
    for how in [SendKind::Steer, SendKind::Interrupt] {
        let request = SendToPod { key: WorkId::random(), how, text: "x".into() };
        let sent = send_to_pod(&over, &child.name, request).await.unwrap_err();
        // Nothing listens there: had it been sent, it would not have been delivered.
        assert!(!sent.to_string().contains("could not be reached"), "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_that_runs_out_of_time_before_it_is_begun_begins_nothing_later() {
    let puppet = Puppet::new().await;
    let request = AttachOrRestorePod { limit_ms: 100, ..ended_child(&puppet).await };
    let before = lives(&puppet).await;
    let registry = crate::registry::Registry::at(puppet.pod.roots());
    let stopped_process = rusqlite::Connection::open(registry.path()).unwrap();
    stopped_process.execute_batch("BEGIN IMMEDIATE").unwrap();
    let late = attach_or_restore_pod(&Caller::of_pod(&puppet.pod), request).await.unwrap_err();
    assert!(matches!(late, RestoreRejection::TimedOut { limit_ms: 100, .. }), "{late}");
    drop(stopped_process);
    let shared = puppet.pod.shared().clone();
    let over = async {
        while shared.spawning.load(std::sync::atomic::Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    crate::fixture::within("what was begun is over", over).await;
    assert_eq!(lives(&puppet).await, before, "a life was begun for nobody");
    let claimed = async {
        while registry.pods().unwrap().iter().any(|row| row.pod.name.as_str() == "brief") {
            tokio::task::yield_now().await;
        }
    };
    crate::fixture::within("its claim is given back", claimed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_does_not_answer_yet_is_asked_until_it_does() {
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    puppet.pod.shared().registry.phase(&child, crate::spawn::ChildPhase::Ready);
    let paths = puppet.pod.roots().pod(&child.name);
    paths.make_state_dir().unwrap();
    paths.claim(&child).unwrap();
    let caller = Caller::of_pod(&puppet.pod);
    let request = AttachOrRestorePod { pod: child.name.clone(), limit_ms: 30_000 };
    let attaching = tokio::spawn(async move { attach_or_restore_pod(&caller, request).await });
    let address = rpc::Address::unix(paths.socket());
    let (_server, mut calls) = rpc::serve_calls::<Method>(&address, 16).await.unwrap();
    let status = |life: &PodId, state| {
        let own = puppet.pod.status();
        let pod = life.clone();
        async move { crate::PodStatus { pod, state, ..own.await.unwrap() } }
    };
    let other = PodId { incarnation: crate::id::Incarnation(99), ..child.clone() };
    // It says nothing, is somebody else, is stopping; and then it answers.
    let mut answers = 0;
    while answers < 4 {
        let call = crate::fixture::within("it is asked", calls.recv()).await.unwrap();
        let crate::protocol::MethodCall::Status(_, responder) = call else { continue };
        match answers {
            0 => responder.not_taken("not yet"),
            1 => responder.ack(status(&other, PodState::Idle).await),
            2 => responder.ack(status(&child, PodState::Stopping).await),
            _ => responder.ack(status(&child, PodState::Idle).await),
        }
        answers += 1;
    }
    let attached = crate::fixture::within("the answer", attaching).await.unwrap().unwrap();
    assert_eq!((attached.pod, attached.restored), (child, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_of_a_child_is_told_though_it_cannot_be_recorded() {
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    let paths = puppet.pod.roots().pod(&child.name);
    paths.make_state_dir().unwrap();
    paths.claim(&child).unwrap();
    let (_server, mut calls) = rpc::serve_calls::<Method>(&rpc::Address::unix(paths.socket()), 16).await.unwrap();
    let store = rusqlite::Connection::open(puppet.pod.roots().pod(&puppet.pod.id().name).store()).unwrap();
    let full = "CREATE TRIGGER full BEFORE UPDATE ON works BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    store.execute_batch(full).unwrap();
    let (caller, name) = (Caller::of_pod(&puppet.pod), child.name.clone());
    let send = |key| {
        let (caller, name) = (caller.clone(), name.clone());
        let request = SendToPod { key, how: SendKind::FollowUp, text: "dig".into() };
        tokio::spawn(async move { send_to_pod(&caller, &name, request).await })
    };
    let (taken, refused) = (WorkId(21), WorkId(22));
    for work in [taken, refused] {
        let sending = send(work);
        let responder = loop {
            match crate::fixture::within("it is sent", calls.recv()).await.unwrap() {
                crate::protocol::MethodCall::SendToPod(sent, responder) if sent.key == work => break responder,
                // What was sent before is sent again meanwhile.
                crate::protocol::MethodCall::SendToPod(_, responder) => responder.not_taken("later"),
                other => panic!("{other:?}"),
            }
        };
        if work == taken {
            responder.ack(Sent::Staged { turn: TurnId(5), work, behind: None, ahead: 0 });
        } else {
            responder.reject(SendRejection::Full { max: 64 });
        }
        let told = crate::fixture::within("the answer", sending).await.unwrap();
        match told {
            Ok(Sent::Staged { turn: TurnId(5), .. }) if work == taken => {}
            Err(SendRejection::Unknown { key, cause }) if key == refused => {
                assert!(cause.contains("64 are waiting") && cause.contains("disk full"), "{cause}");
            }
            other => panic!("{other:?}"),
        }
    }
    store.execute_batch("DROP TRIGGER full").unwrap();
    // There is space again: both are asked about until it is known.
    let known = async {
        loop {
            let works = puppet.pod.store().read(|reads| reads.works(crate::store::Direction::Delegated, true)).await;
            let works = works.unwrap();
            if works.len() == 2 && works.iter().all(|work| work.turn.is_some()) {
                break;
            }
            let Ok(Some(crate::protocol::MethodCall::SendToPod(sent, responder))) =
                tokio::time::timeout(std::time::Duration::from_millis(20), calls.recv()).await
            else {
                continue;
            };
            responder.ack(Sent::Staged { turn: TurnId(5), work: sent.key, behind: None, ahead: 0 });
        }
    };
    crate::fixture::within("what became of both is recorded", known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_not_started_is_refused_with_a_reason_of_its_own_and_nothing_stays_open() {
    // Children are started from `/bin/false`.
    let puppet = Puppet::new().await;
    let caller = Caller::of_pod(&puppet.pod);
    let spawn = |worker: &str| SpawnPod {
        name: "child".parse().unwrap(),
        worker: worker.into(),
        input: Some("work".into()),
        scope: rpc::List::new(),
        detached: false,
        restart: Default::default(),
    };
    let wrong = spawn_pod(&caller, spawn(r#"{"kind":"leger"}"#)).await.unwrap_err();
    assert!(
        matches!(wrong, SpawnRejection::Worker { .. }) && wrong.to_string().contains("did you mean `ledger`"),
        "{wrong}"
    );
    let garbled = spawn_pod(&caller, spawn("{")).await.unwrap_err();
    assert!(matches!(garbled, SpawnRejection::Worker { .. }), "{garbled}");
    let dead = spawn_pod(&caller, spawn(r#"{"kind":"ledger"}"#)).await.unwrap_err();
    assert!(matches!(dead, SpawnRejection::Exited { .. }) && dead.to_string().contains("code 1"), "{dead}");
    let open = puppet.pod.store().read(|reads| reads.works_open(crate::store::Direction::Delegated)).await.unwrap();
    assert_eq!(open, 0);
    puppet.adopt_this_process("taken").await;
    let taken = SpawnPod { name: "taken".parse().unwrap(), ..spawn(r#"{"kind":"ledger"}"#) };
    let taken = spawn_pod(&caller, taken).await.unwrap_err();
    assert!(matches!(taken, SpawnRejection::NameTaken { .. }), "{taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_its_tree_or_its_scope_does_not_allow_is_refused_by_a_pod_with_what_is_in_the_way() {
    use crate::handle::{PodController, PodOptions};
    use crate::manifest::{Limits, WorkerSpec};
    use crate::protocol::SpawnCap;
    use crate::registry::{Claim, Origin, Registry};
    use crate::scope::{Confinement, Permission, Rules, ScopeRule};

    let limits = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        limits
    };
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().canonicalize().unwrap().join("x").to_str().unwrap().to_owned();
    std::fs::create_dir(&place).unwrap();
    let rule = |permission| vec![ScopeRule::below(place.as_str(), permission)];
    let ask = async |limits: Limits, reads: bool, asked: Vec<ScopeRule>, times: usize| {
        let root = tempfile::tempdir().unwrap();
        let roots = crate::runtime_dir::Roots::at(&root.path().join("r")).unwrap();
        // Children are started from `/bin/false`: one that is not refused dies.
        let name = "root".parse().unwrap();
        let options = PodOptions::new(name, WorkerSpec::ledger()).roots(roots.clone()).program("/bin/false");
        let options = options.limits(limits).confinement(Confinement::Off);
        let options = if reads { options.scope(rule(Permission::Read)) } else { options };
        let pod = PodController::spawn(options).await.unwrap();
        // Another root writes there.
        let other = PodId { name: "other".parse().unwrap(), incarnation: crate::id::Incarnation(9) };
        let paths = roots.pod(&other.name);
        paths.make_state_dir().unwrap();
        let _lives = crate::life_lock::LifeLock::acquire(&paths.life_lock(), &other).unwrap();
        let scoped = Some(Rules::new(&rule(Permission::Write)).unwrap());
        let (confinement, state_dir) = (Confinement::Off, paths.state_dir().to_owned());
        let origin = Origin::Root { limits: Limits::default().tree(), scope: scoped, confinement };
        let claim = Claim { pod: other, worker: "ledger".into(), state_dir, origin };
        Registry::at(&roots).claim(&claim, crate::store::Clock::System.now()).unwrap();
        let client = rpc::Client::<Method>::new(&pod.address());
        let began = std::time::Instant::now();
        let mut last = None;
        for time in 0.. {
            let request = SpawnPod {
                name: format!("child{time}").parse().unwrap(),
                worker: r#"{"kind":"ledger"}"#.into(),
                input: None,
                scope: rpc::List::try_from(asked.clone()).unwrap(),
                detached: false,
                restart: Default::default(),
            };
            let Err(rpc::CallError::Rejected(why)) = client.call(request).await else { panic!("it was started") };
            // Of a bound in time, until it is over.
            let dies = matches!(why, SpawnRejection::Exited { .. });
            last = Some(why);
            if !dies || (times > 0 && time + 1 >= times) || began.elapsed() > std::time::Duration::from_secs(60) {
                break;
            }
        }
        pod.shutdown().await;
        last.unwrap()
    };
    let cap = |refused: &SpawnRejection| match refused {
        SpawnRejection::Cap { cap, .. } => *cap,
        other => panic!("{other}"),
    };
    let none = Vec::<ScopeRule>::new;
    let refused = ask(limits(|limits| limits.depth = 0), false, none(), 1).await;
    assert_eq!(cap(&refused), SpawnCap::Depth { max: 0 });
    let refused = ask(limits(|limits| limits.pods = 1), false, none(), 1).await;
    assert_eq!(cap(&refused), SpawnCap::Pods { max: 1 });
    let refused = ask(limits(|limits| limits.spawns_per_minute = 1), false, none(), 2).await;
    assert!(matches!(cap(&refused), SpawnCap::SpawnRate { max: 1, retry_after_ms: 1..=60_000 }), "{refused}");
    let refused = ask(limits(|limits| limits.tree_seconds = 1), false, none(), 0).await;
    assert_eq!(cap(&refused), SpawnCap::WallTime { max_seconds: 1 });
    assert!(refused.to_string().contains("limits.tree_seconds"), "{refused}");
    let refused = ask(Limits::default(), false, rule(Permission::Write), 1).await;
    let SpawnRejection::Overlap { path, holder, .. } = &refused else { panic!("{refused}") };
    assert_eq!((path.as_str(), holder.as_str()), (place.as_str(), "other"));
    let refused = ask(Limits::default(), true, rule(Permission::Write), 1).await;
    let SpawnRejection::NotGiven { path, wanted, has, .. } = &refused else { panic!("{refused}") };
    assert_eq!((path.as_str(), *wanted, *has), (place.as_str(), Permission::Write, Permission::Read));
    let refused = ask(Limits::default(), false, vec![ScopeRule::below("not/absolute", Permission::Read)], 1).await;
    assert!(matches!(refused, SpawnRejection::Rule { .. }), "{refused}");
}

#[test]
fn right_that_a_model_denies_is_a_deny_and_one_that_is_both_is_refused() {
    let told = |right: Value| {
        let input = json!({ "name": "a", "worker": { "kind": "ledger" }, "scope": [right] });
        SpawnPod::try_from(serde_json::from_value::<SpawnPodInput>(input).unwrap())
    };
    let permission = |right| told(right).unwrap().scope.iter().map(|rule| rule.permission).collect::<Vec<_>>();
    use crate::scope::Permission::{Deny, Read, Write};
    assert_eq!(permission(json!({ "path": "/x", "deny": true })), [Deny]);
    assert_eq!(permission(json!({ "path": "/x", "write": true })), [Write]);
    assert_eq!(permission(json!({ "path": "/x" })), [Read]);
    assert!(told(json!({ "path": "/x", "write": true, "deny": true })).unwrap_err().contains("one of the two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn use_of_a_tool_stands_in_history_with_its_one_result_also_if_it_is_refused() {
    let mut puppet = Puppet::new().await;
    puppet.pod.notify("go").await.unwrap();
    puppet.expect(Said::Started(crate::store::TurnCause::Reports)).await;
    for (name, arguments) in [
        ("ListPods", json!({})),
        ("StopPod", json!({ "pod": "nobody" })),
        ("StopPod", json!({ "pood": "nobody" })),
        ("Fly", Value::Null),
    ] {
        puppet.act(Act::Use(name, arguments.to_string().leak())).await;
        puppet.expect(Said::Answered).await;
    }
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    let rows = puppet.pod.store().read(|reads| reads.history_after(0, 1000)).await.unwrap();
    let uses = rows.iter().filter_map(|row| match &row.item {
        HistoryItem::ToolCall { call, tool, .. } => Some(format!("{call} {tool}")),
        HistoryItem::ToolResult { call, how, text, .. } => {
            Some(format!("{call} {how:?} {}", crate::protocol::clip(text, 60)))
        }
        _ => None,
    });
    let uses: Vec<String> = uses.collect();
    let expected = [
        "1 ListPods",
        "1 Done {\"pods\":[],\"more\":false}",
        "2 StopPod",
        "2 Failed there is no pod `nobody`",
        "3 StopPod",
        "3 Failed StopPod: unknown key `pood`, did you mean `pod`?; known h...",
        "4 Fly",
        "4 Failed there is no tool `Fly`; there are SpawnPod, SendToPod, Re...",
    ];
    assert_eq!(uses, expected);
}

/// What a model is told that it may say is what the tool takes.
#[test]
fn parameters_are_a_schema_of_what_the_tool_is_told() {
    let samples = [
        json!({
            "name": "a", "worker": { "kind": "ledger" }, "input": "x", "scope": [{ "path": "/", "write": true, "recursive": true }],
            "lifetime": "detached", "restart": { "when": "transient", "max": 3, "within_seconds": 60 },
        }),
        json!({ "pod": "a", "how": "follow_up", "text": "x" }),
        json!({ "pod": "a", "cursor": "1", "turn": 1, "max_bytes": 256 }),
        json!({ "pod": "a", "now": true, "grace_seconds": 1 }),
        json!({ "after": "a", "max": 1, "live_only": true }),
        json!({ "after": "a", "max": 1 }),
        json!({ "pod": "a" }),
        json!({ "pod": "a", "limit_seconds": 1 }),
    ];
    assert_eq!(samples.len(), ALL.len());
    for (tool, sample) in ALL.iter().zip(samples) {
        let schema: Value = serde_json::from_str(tool.parameters).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        let said: Vec<&String> = sample.as_object().unwrap().keys().collect();
        assert_eq!(properties.keys().collect::<Vec<_>>(), said, "{}", tool.name);
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        assert!(required.iter().all(|key| properties.contains_key(key.as_str().unwrap())), "{}", tool.name);
        let parsed = match tool.name {
            "SpawnPod" => told::<SpawnPodInput>(tool.name, sample).map(|input| json!(input)),
            "SendToPod" => told::<SendToPodInput>(tool.name, sample).map(|input| json!(input)),
            "ReadPodOutput" => told::<ReadPodOutputInput>(tool.name, sample).map(|input| json!(input)),
            "StopPod" => told::<StopPodInput>(tool.name, sample).map(|input| json!(input)),
            "ListPods" => told::<ListPodsInput>(tool.name, sample).map(|input| json!(input)),
            "ListVisiblePods" => told::<ListVisiblePodsInput>(tool.name, sample).map(|input| json!(input)),
            "InspectPod" => told::<InspectPodInput>(tool.name, sample).map(|input| json!(input)),
            "AttachOrRestorePod" => told::<AttachOrRestorePodInput>(tool.name, sample).map(|input| json!(input)),
            other => panic!("{other} has no sample"),
        };
        assert_eq!(
            parsed.unwrap().as_object().unwrap().keys().collect::<Vec<_>>(),
            properties.keys().collect::<Vec<_>>()
        );
    }
}
