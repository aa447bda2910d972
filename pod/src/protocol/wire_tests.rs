//! Every type of the wire: it reads as it was written, its bytes stay what they are, and whatever else arrives is an
//! error and no panic.

use bytes::BytesMut;
use rpc::wire::body;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::id::{CallId, Incarnation, NoteKey, PodId, Seq, StreamId, TurnId, WorkId};
use crate::scope::{Confined, Confinement, Permission, ScopeRule};

fn pod(name: &str) -> PodId {
    PodId::new(name.parse().unwrap(), Incarnation(300))
}

#[track_caller]
fn check<T: rpc::Wire + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, golden: &str) {
    let mut bytes = BytesMut::new();
    body::encode(value, &mut bytes).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden, "the bytes of a shipped type have changed: {value:?}");
    assert_eq!(&body::decode::<T>(&bytes).unwrap(), value);
    for cut in 0..bytes.len() {
        assert!(body::decode::<T>(&bytes[..cut]).is_err(), "{cut} bytes of {value:?} were taken for all");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(body::decode::<T>(&longer).is_err(), "a byte too many was not seen: {value:?}");
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // Another value, or an error; never a panic, and never the same.
        assert_ne!(body::decode::<T>(&flipped).ok().as_ref(), Some(value));
    }
}

fn events() -> Vec<PodEvent> {
    let (pod, work, turn) = (pod("b"), WorkId(1), TurnId(2));
    let rule = ScopeRule { target: "/tmp".into(), permission: Permission::Write, recursive: true };
    vec![
        PodEvent::TurnEnded { pod: pod.clone(), work, turn, result: TurnResult::LimitReached },
        PodEvent::Errored {
            pod: pod.clone(),
            work: Some(work),
            turn,
            kind: Some(FailureKind::Auth),
            message: "no".into(),
        },
        PodEvent::ShutDown { pod: pod.clone() },
        PodEvent::ScopeSubDelegated {
            pod: pod.clone(),
            parent_pod: pod.clone(),
            sub_pod: self::pod("c"),
            sub_socket: "/s".into(),
            scope: rpc::List::try_from(vec![rule]).unwrap(),
        },
        PodEvent::WorkSettled { pod: pod.clone(), work, result: WorkResult::Lost },
        PodEvent::Gap { pod, from: Seq(1), to: Seq(300) },
    ]
}

#[test]
fn requests_have_stable_bytes_and_survive_whatever_arrives() {
    check(&Run { work: WorkId(7), input: "go".into() }, "0702676f");
    check(&Notify { key: NoteKey(1), message: "hi".into(), auto_run: true }, "0102686901");
    check(&Subscribe { from: 251 }, "fbfb00");
    check(&Shutdown { mode: ShutdownMode::Graceful }, "01");
    check(&RewindTo { target: TurnId(3), expected_head: 251, children: RewindChildren::Stop }, "03fbfb0001");
    let spawn = SpawnPod {
        name: pod("b").name,
        worker: "{}".into(),
        input: Some("go".into()),
        scope: rpc::List::new(),
        detached: true,
        restart: RestartPolicy { kind: RestartKind::Transient, max: 3, within_ms: 60_000 },
    };
    check(&spawn, "0162027b7d0102676f00010103fb60ea");
    check(&SendToPod { key: WorkId(7), how: SendKind::FollowUp, text: "x".into() }, "07010178");
    let from = OutputCursor { entry: 3, byte: 4 };
    check(&ReadPodOutput { pod: pod("b").name, from, turn: Some(TurnId(2)), bytes_max: 300 }, "016203040102fb2c01");
    check(&StopPod { pod: pod("b").name, now: true, grace_ms: 300 }, "016201fb2c01");
    check(&ListPods { after: Some(pod("b").name), max: 9, live_only: true }, "0101620901");
    check(&ListVisiblePods { after: None, max: 9 }, "0009");
    check(&InspectPod { pod: pod("b").name }, "0162");
    check(&AttachOrRestorePod { pod: pod("b").name, limit_ms: 300 }, "0162fb2c01");
    check(&ListCompletions { prefix: "po".into(), kind: Some(CompletionKind::Worker) }, "02706f0101");
    let ready = ChildReady { pod: pod("b"), stream: StreamId(9), pid: 70_000, socket: "/s".into(), detached: true };
    check(&ready, "0162fb2c0109fc70110100022f7301");
    check(&Detach { child: pod("b") }, "0162fb2c01");
    for (event, golden) in events().into_iter().zip([
        "0162fb2c010905000162fb2c01010201",
        "0162fb2c010905010162fb2c010101020102026e6f",
        "0162fb2c010905020162fb2c01",
        "0162fb2c010905030162fb2c010162fb2c010163fb2c01022f7301042f746d700101",
        "0162fb2c010905040162fb2c010105",
        "0162fb2c010905050162fb2c0101fb2c01",
    ]) {
        check(&PodEventOffer { from: pod("b"), stream: StreamId(9), seq: Seq(5), event }, golden);
    }
}

#[test]
fn answers_have_stable_bytes_and_survive_whatever_arrives() {
    check(&Accepted { turn: TurnId(1), work: WorkId(7) }, "0107");
    check(&Queued { woke: true }, "01");
    check(&EventAck { disposition: Disposition::Duplicate, durable_seq: Seq(5), woke: false }, "010500");
    check(&EventRejection::OutOfOrder { expected: Seq(3) }, "0003");
    check(&EventRejection::StaleIncarnation { current: Incarnation(2) }, "0202");
    check(&EventRejection::Unavailable { reason: "full".into() }, "040466756c6c");
    check(&RunRejection::AlreadyRunning { turn: TurnId(4) }, "0004");
    check(&RunRejection::Cap { cap: TurnCap::Turns { max: 9 } }, "040009");
    check(&ControlRejection::Cap { cap: TurnCap::WallTime { max_seconds: 9 } }, "060109");
    check(&NotifyRejection::Full { max: 9 }, "0009");
    check(&ControlAck { state: PodState::Paused, turn: Some(TurnId(3)), staged: true }, "02010301");
    check(&ControlRejection::NotPaused, "00");
    check(&Stopping { turn: None }, "00");
    check(&Compacting { turn: TurnId(3) }, "03");
    let target = RewindTarget { turn: TurnId(3), at_ms: 4, input: Some("go".into()), reports: 5, children: 6 };
    let targets = rpc::List::try_from(vec![target]).unwrap();
    check(&RewindTargets { head: 9, targets, more: true }, "090103040102676f050601");
    let rewound = Rewound {
        target: TurnId(3),
        head: 9,
        turns: 2,
        input: Some("go".into()),
        reports: 1,
        children_stopped: 4,
        children_detached: 5,
    };
    check(&RewindAck::Rewound(rewound), "000309020102676f010405");
    let reason = RewindRejection::Cancelled;
    check(&RewindAck::NotRewound { children_told: 3, children_stopped: 2, reason }, "01030205");
    check(&RewindRejection::HeadMoved { head: 7 }, "0107");
    let children = || rpc::List::try_from(vec![pod("b").name]).unwrap();
    check(&RewindRejection::ChildrenLive { count: 1, children: children() }, "0301010162");
    check(&RewindRejection::CannotDetach { count: 1, children: children() }, "0401010162");
    check(&Go { parent: pod("a"), watermark: Seq(2), config: "{}".into() }, "0161fb2c0102027b7d");
    check(&ChildRejection::Stopping, "02");
    check(&DetachRejection::Stopping, "01");
    let next = Next { turn: TurnId(2), work: WorkId(7), ahead: 0 };
    check(&Sent::Interrupted { turn: Some(TurnId(1)), next: Some(next) }, "02010101020700");
    check(&Sent::Steered { told: Told::NextRequest { turn: TurnId(1) } }, "000001");
    let end = LifeEnd::Killed { signal: 9 };
    let stopped =
        Stopped { pod: pod("b"), end, already: false, was_due: false, works_lost: 1, unread: None, returned: true };
    check(&StopOutcome::Ended(stopped), "000162fb2c0102120000010001");
    let piece = OutputPiece { from_byte: 0, text: "hi".into(), whole: true };
    let entry = OutputEntry { entry: 1, at_ms: 2, turn: None, counts: true, what: Produced::Text(piece) };
    let (entries, next) = ([entry].into(), OutputCursor::behind(1));
    check(
        &OutputPage { pod: pod("b").name, entries, next, more: false, live: true },
        "0162010102000100000268690102000001",
    );
    let line = PodLine {
        pod: pod("b"),
        phase: "ready".into(),
        pid: Some(7),
        since_ms: 4,
        works_open: 1,
        work: Some("x".into()),
        last_event: None,
        end: None,
        kept: kept(),
    };
    check(&PodPage { pods: [line].into(), more: false }, "010162fb2c0105726561647901070401010178000001020500");
    check(&SpawnRejection::Stopping, "05");
    let cap = SpawnCap::SpawnRate { max: 3, retry_after_ms: 300 };
    check(&SpawnRejection::Cap { name: pod("b").name, cap }, "0701620203fb2c01");
    let overlap = SpawnRejection::Overlap { name: pod("b").name, path: "/x".into(), holder: pod("a").name };
    check(&overlap, "080162022f780161");
    check(&SubscribeRejection::Ending, "04");
    check(&TargetFault::NotVisible { name: pod("b").name }, "010162");
    check(&Observed::Entries { first: 1, last: 2, lines: "{}\n{}\n".into() }, "000102067b7d0a7b7d0a");
    let piece = PieceInFlight { output: "text".into(), piece: 3, left_out: 4, text: "so".into() };
    let call = CallInFlight { call: CallId(5), tool: "look".into(), progress: Some("half".into()) };
    let in_flight = InFlight {
        after: 7,
        state: PodState::Running,
        turn: Some(TurnId(2)),
        pieces: rpc::List::try_from(vec![piece]).unwrap(),
        calls: rpc::List::try_from(vec![call]).unwrap(),
    };
    check(&Observed::InFlight(in_flight), "0107010102010474657874030402736f0105046c6f6f6b010468616c66");
    check(&Observed::CaughtUp { cursor: 3 }, "0203");
    check(&Observed::State { state: PodState::Paused }, "0302");
    let delta = Glimpse::Delta { turn: TurnId(2), output: "text".into(), piece: 3, at: 4, text: "so".into() };
    check(&delta, "00020474657874030402736f");
    check(&Glimpse::PieceOver { turn: TurnId(2), piece: 3 }, "010203");
    check(&Glimpse::Progress { turn: TurnId(2), call: CallId(5), text: "half".into() }, "0202050468616c66");
    check(&Glimpse::TurnOver { turn: TurnId(2) }, "0302");
    let visible = VisiblePod { pod: pod("b"), parent: pod("a").name, depth: 1, alive: true };
    check(&VisiblePage { pods: [visible].into(), more: false }, "010162fb2c010161010100");
    check(&Attached { pod: pod("b"), pid: Some(7), socket: "/s".into(), restored: true }, "0162fb2c010107022f7301");
    check(
        &RestoreRejection::Locked { name: pod("b").name, pid: Some(7), life: Some(pod("b")) },
        "0201620107010162fb2c01",
    );
    let word = Completion { kind: CompletionKind::Tool, word: "S".into(), about: "x".into() };
    check(&Completions { found: [word].into(), more: true }, "01020153017801");
    check(&report(), REPORT);
    let child = ChildStatus { pod: pod("b"), pid: Some(7), state: "ready".into(), socket: "/s".into(), kept: kept() };
    let status = PodStatus {
        pod: pod("a"),
        pid: 1,
        parent: None,
        worker: "ledger".into(),
        state: PodState::Running,
        turn: Some(TurnId(3)),
        started_at_ms: 4,
        history: 5,
        runs_staged: 6,
        inbox_waiting: 7,
        outbox_pending: 8,
        outbox_undeliverable: 9,
        outbox_acked: Seq(10),
        outbox_last_outcome: Some("no".into()),
        works_received_open: 11,
        works_delegated_open: 12,
        children_live: 13,
        children_total: 14,
        children: rpc::List::try_from(vec![child]).unwrap(),
        last_failure: Some(LastFailure { turn: TurnId(3), kind: FailureKind::Limit, message: "no".into() }),
        blocked_by: Some(TurnCap::Turns { max: 5 }),
        confined: CONFINED,
    };
    check(
        &status,
        "0161fb2c010100066c65646765720101030405060708090a01026e6f0b0c0d0e010162fb2c010107057265616479022f73010205010303026e6f0100050102010607",
    );
}

fn kept() -> Kept {
    Kept { detached: true, restart: RestartKind::Permanent, restarts: 5 }
}

const REPORT: &str = "016101010700000001030001066c656467657200010102010607010162fb2c01057265616479010701020501020107000300017801020304050608000901090400066f7574707574022f64fb2c010300010162";

const CONFINED: Confined = Confined {
    asked: Confinement::BestEffort,
    in_force: Confinement::Required,
    scoped: true,
    landlock_abi: 6,
    landlock_kernel: 7,
};

fn report() -> PodReport {
    PodReport {
        name: pod("a").name,
        life: Some(LifeHolder { pid: Some(7), incarnation: None }),
        parent: None,
        state: PodState::Idle,
        turn: Some(TurnId(3)),
        blocked_by: None,
        worker: Some("ledger".into()),
        scope: rpc::List::new(),
        confined: Some(CONFINED),
        children: [ChildOf { pod: pod("b"), state: "ready".into(), pid: Some(7), kept: kept() }].into(),
        children_live: 1,
        children_total: 2,
        works: [OpenWork { work: WorkId(7), child: None, since_ms: 3, turn: None, input: "x".into() }].into(),
        works_received_open: 1,
        works_delegated_open: 2,
        runs_staged: 3,
        inbox_waiting: 4,
        outbox_pending: 5,
        outbox_undeliverable: 6,
        outbox_acked: Seq(8),
        outbox_last_outcome: None,
        history: 9,
        last: [LastEntry { seq: 9, at_ms: 4, turn: None, kind: "output".into() }].into(),
        store: StoreFacts { path: "/d".into(), bytes: 300, schema: 3, unreadable: None },
        restore: Restore::ByParent { parent: pod("b").name },
    }
}

#[test]
fn loss_of_a_child_cannot_be_said_over_the_wire() {
    // The events are numbered 0 to 5; whatever a peer may mean by 6, it is not understood.
    let mut bytes = BytesMut::new();
    body::encode(&PodEvent::ShutDown { pod: pod("b") }, &mut bytes).unwrap();
    assert_eq!(bytes[0], 2);
    bytes[0] = 6;
    assert!(body::decode::<PodEvent>(&bytes).is_err());
    assert_eq!(events().len(), 6);
}

#[test]
fn name_and_text_from_a_peer_are_checked() {
    let mut bytes = BytesMut::new();
    body::encode("../../etc", &mut bytes).unwrap();
    assert!(body::decode::<crate::id::PodName>(&bytes).is_err());
    assert!(body::decode::<Text<8>>(&bytes).is_err());
    assert!(body::decode::<Text<9>>(&bytes).is_ok());
}
