use std::sync::atomic::{AtomicBool, Ordering};

use rpc::{Address, Calls, Responder, Server};

use super::*;
use crate::event::receive_event;
use crate::id::WorkId;
use crate::protocol::{EventRejection, Method, MethodCall, TurnResult};
use crate::store::fixture::{self, new_child, pod, turn_ended};
use crate::store::{EndTurn, NewRun, Origin, Reservation, StartCause, TurnOutcome};

const LONG: Duration = Duration::from_secs(20);

/// A parent that answers as the test says.
struct Stub {
    server: Server,
    calls: Calls<Method>,
}

impl Stub {
    async fn listen(name: &str) -> Self {
        let (server, calls) = rpc::serve_calls::<Method>(&Address::mem(name), 64).await.unwrap();
        Self { server, calls }
    }

    async fn offer(&mut self) -> (PodEventOffer, Responder<PodEventOffer>) {
        match tokio::time::timeout(LONG, self.calls.recv()).await {
            Ok(Some(MethodCall::PodEvent(offer, responder))) => (offer, responder),
            other => panic!("no offer but {other:?}"),
        }
    }

    /// Acks the offer that must come next.
    async fn acks(&mut self, seq: u64) -> PodEvent {
        let (offer, responder) = self.offer().await;
        assert_eq!(offer.seq, Seq(seq));
        responder.ack(ack(seq));
        offer.event
    }

    async fn rejects(&mut self, seq: u64, why: EventRejection) {
        let (offer, responder) = self.offer().await;
        assert_eq!(offer.seq, Seq(seq));
        responder.reject(why);
    }
}

/// A parent with a store, which answers as pods do.
struct Real {
    store: Store,
    server: Server,
    _dir: tempfile::TempDir,
}

impl Real {
    async fn listen(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("a.db"), fixture::options("a")).unwrap();
        let reserved = store.write(|tx| tx.reserve_child(&new_child(&pod("b", 1)))).await.unwrap();
        assert_eq!(reserved, Reservation::Reserved);
        let (server, mut calls) = rpc::serve_calls::<Method>(&Address::mem(name), 64).await.unwrap();
        let served = store.clone();
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let MethodCall::PodEvent(offer, responder) = call else { continue };
                let applied = receive_event(&served, &pod("b", 1), offer).await;
                responder.answer(applied.map(|applied| applied.ack(false)));
            }
        });
        Self { store, server, _dir: dir }
    }

    async fn told(&self) -> u64 {
        self.store.read(|reads| reads.inbox_waiting()).await.unwrap()
    }
}

struct Child {
    store: Store,
    _dir: tempfile::TempDir,
}

fn child() -> Child {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("b.db"), fixture::options("b")).unwrap();
    Child { store, _dir: dir }
}

fn reporter(child: &Child, name: &str) -> Reporter {
    Reporter::with_store(child.store.clone(), Edge::to(Address::mem(name)))
}

fn ack(seq: u64) -> EventAck {
    EventAck { disposition: Disposition::Applied, durable_seq: Seq(seq), woke: false }
}

fn event(work: u64) -> PodEvent {
    turn_ended(&pod("b", 1), WorkId(work))
}

async fn raise(reporter: &Reporter, count: u64) {
    for work in 1..=count {
        send_pod_event(reporter, event(work)).committed().await.unwrap().unwrap();
    }
}

async fn pending(child: &Child) -> u64 {
    child.store.read(|reads| Ok(reads.status_counts()?.outbox_pending)).await.unwrap()
}

#[tokio::test]
async fn without_a_parent_nothing_happens() {
    let child = child();
    for reporter in [Reporter::none(), Reporter::with_store(child.store.clone(), Edge::none())] {
        reporter.start();
        assert_eq!(send_pod_event(&reporter, event(1)).committed().await.unwrap(), None);
        let awaited = send_pod_event_awaited(&reporter, event(1), LONG).await.unwrap();
        assert_eq!(awaited, Delivery::NoParent);
        fire_and_forget(&reporter, event(1));
        assert_eq!(reporter.drain(LONG).await.pending, 0);
        reporter.stop().await;
    }
    assert_eq!(pending(&child).await, 0);
}

#[tokio::test]
async fn events_are_offered_in_the_order_in_which_they_were_raised_and_removed_by_the_ack() {
    let (child, parent) = (child(), Real::listen("reporter-order").await);
    let reporter = reporter(&child, "reporter-order");
    reporter.start();
    // Nobody awaits in between: the places are taken in the caller.
    for work in 1..=300 {
        fire_and_forget(&reporter, event(work));
    }
    assert_eq!(reporter.drain(LONG).await.pending, 0);
    let counts = reporter.counters().unwrap().now();
    assert_eq!((counts.forgotten_delivered, counts.forgotten_failed, counts.raised), (300, 0, 300));
    assert_eq!((pending(&child).await, parent.told().await), (0, 300));
    let works = parent
        .store
        .write(|tx| {
            let staged = tx.stage_reports(crate::id::TurnId(1), 1000)?;
            Ok(staged.into_iter().map(|report| report.item.text().to_owned()).collect::<Vec<_>>())
        })
        .await
        .unwrap();
    for (text, work) in works.iter().zip(1..=300) {
        assert!(text.contains(&format!("work {}", WorkId(work))), "{work}: {text}");
    }
    reporter.stop().await;
    parent.server.drain().await;
}

#[tokio::test]
async fn awaited_report_returns_the_ack() {
    let (child, mut parent) = (child(), Stub::listen("reporter-awaited").await);
    let reporter = reporter(&child, "reporter-awaited");
    reporter.start();
    let (delivery, _) = tokio::join!(send_pod_event_awaited(&reporter, event(1), LONG), parent.acks(1));
    assert_eq!(delivery.unwrap(), Delivery::Acked(ack(1)));
    reporter.stop().await;
}

#[tokio::test]
async fn what_a_turns_end_commits_is_offered_without_being_raised() {
    let (child, mut parent) = (child(), Stub::listen("reporter-turn").await);
    let reporter = reporter(&child, "reporter-turn");
    reporter.start();
    let turn = child.store.write(|tx| {
        let accepted = tx.stage_run(&NewRun { work: WorkId(1), origin: Origin::Host, input: "x".to_owned() })?;
        tx.start_turn(StartCause::Wake)?;
        let outcome = TurnOutcome::Ended { result: TurnResult::Finished };
        tx.end_turn(&EndTurn { turn: accepted.accepted.turn, outcome, compaction: None })
    });
    turn.await.unwrap();
    assert!(matches!(parent.acks(1).await, PodEvent::TurnEnded { .. }));
    assert!(matches!(parent.acks(2).await, PodEvent::WorkSettled { .. }));
    assert_eq!(reporter.drain(LONG).await.pending, 0);
}

#[tokio::test]
async fn parent_that_is_away_gets_everything_when_it_comes() {
    let child = child();
    let reporter = reporter(&child, "reporter-away");
    reporter.start();
    let late = send_pod_event_awaited(&reporter, event(1), Duration::from_millis(300)).await;
    let Err(DeliveryError::Late { seq: Seq(1), last: Some(CallError::NotDelivered(_)) }) = late else {
        panic!("{late:?}");
    };
    assert!(late.unwrap_err().to_string().contains("event 1 was not acknowledged in time"));
    raise(&reporter, 2).await;
    let parent = Real::listen("reporter-away").await;
    assert_eq!(reporter.drain(LONG).await.pending, 0);
    assert_eq!(parent.told().await, 3);
}

#[tokio::test]
async fn offer_without_an_answer_is_made_again_under_its_key() {
    let (child, mut parent) = (child(), Stub::listen("reporter-unknown").await);
    let reporter = reporter(&child, "reporter-unknown");
    reporter.start();
    raise(&reporter, 1).await;
    let (first, responder) = parent.offer().await;
    drop(responder);
    let (second, responder) = parent.offer().await;
    assert_eq!(first, second);
    responder.ack(ack(1));
    assert_eq!(reporter.drain(LONG).await.pending, 0);
    assert_eq!(reporter.counters().unwrap().now().unknown, 1);
}

#[tokio::test]
async fn out_of_order_goes_on_at_what_is_expected_and_tells_a_gap_for_what_is_gone() {
    let (child, mut parent) = (child(), Stub::listen("reporter-gap").await);
    let reporter = reporter(&child, "reporter-gap");
    raise(&reporter, 4).await;
    child.store.write(|tx| tx.trim_outbox(Seq(3))).await.unwrap();
    reporter.start();
    // This parent was restored from an old copy: it has one event only.
    parent.rejects(4, EventRejection::OutOfOrder { expected: Seq(2) }).await;
    let gap = parent.acks(3).await;
    assert_eq!(gap, PodEvent::Gap { pod: pod("b", 1), from: Seq(2), to: Seq(3) });
    assert_eq!(parent.acks(4).await, event(4));
    assert_eq!(reporter.drain(LONG).await.pending, 0);
    assert_eq!(reporter.counters().unwrap().now().gaps, 1);
}

#[tokio::test]
async fn event_that_the_parent_cannot_take_is_kept_and_not_in_the_way() {
    let (child, mut parent) = (child(), Stub::listen("reporter-invalid").await);
    let reporter = reporter(&child, "reporter-invalid");
    raise(&reporter, 3).await;
    reporter.start();
    parent.acks(1).await;
    parent.rejects(2, EventRejection::Invalid { reason: "no".into() }).await;
    // What was sent behind it was answered by nobody, or out of order.
    let gap = loop {
        let (offer, responder) = parent.offer().await;
        if matches!(offer.event, PodEvent::Gap { .. }) {
            responder.ack(ack(2));
            break offer;
        }
        responder.reject(EventRejection::OutOfOrder { expected: Seq(2) });
    };
    assert_eq!(gap.event, PodEvent::Gap { pod: pod("b", 1), from: Seq(2), to: Seq(2) });
    assert_eq!(parent.acks(3).await, event(3));
    assert_eq!(reporter.drain(LONG).await.pending, 0);
    let counts = child.store.read(|reads| reads.status_counts()).await.unwrap();
    assert_eq!((counts.outbox_undeliverable, counts.outbox_acked), (1, Seq(3)));
}

#[tokio::test]
async fn life_that_is_over_for_the_parent_stops_offering_and_says_so() {
    let (child, mut parent) = (child(), Stub::listen("reporter-stale").await);
    let reporter = reporter(&child, "reporter-stale");
    raise(&reporter, 2).await;
    reporter.start();
    parent.rejects(1, EventRejection::StaleIncarnation { current: pod("b", 2).incarnation }).await;
    assert_eq!(reporter.drain(LONG).await.pending, 0);
    let counts = child.store.read(|reads| reads.status_counts()).await.unwrap();
    assert_eq!(counts.outbox_undeliverable, 2);
    assert!(counts.outbox_last_outcome.unwrap().contains("StaleIncarnation"));
    child.store.write(|tx| tx.recover()).await.unwrap();
    assert_eq!(pending(&child).await, 2, "the next life tries again");
}

#[tokio::test]
async fn parent_that_does_not_know_us_makes_us_read_the_edge_again() {
    let (child, mut old) = (child(), Stub::listen("reporter-edge-old").await);
    let moved = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&moved);
    let edge = Edge::read_by(move || {
        Some(Address::mem(if seen.load(Ordering::SeqCst) { "reporter-edge-new" } else { "reporter-edge-old" }))
    });
    let reporter = Reporter::with_store(child.store.clone(), edge);
    raise(&reporter, 1).await;
    reporter.start();
    let mut new = Stub::listen("reporter-edge-new").await;
    let (_, responder) = old.offer().await;
    moved.store(true, Ordering::SeqCst);
    responder.reject(EventRejection::NotYourChild);
    new.acks(1).await;
    assert_eq!(reporter.drain(LONG).await.pending, 0);
    drop(old.server);
}

#[tokio::test]
async fn parent_that_cannot_commit_is_asked_again() {
    let (child, mut parent) = (child(), Stub::listen("reporter-unavailable").await);
    let reporter = reporter(&child, "reporter-unavailable");
    raise(&reporter, 1).await;
    reporter.start();
    parent.rejects(1, EventRejection::Unavailable { reason: "disk full".into() }).await;
    parent.acks(1).await;
    assert_eq!(reporter.drain(LONG).await.pending, 0);
}

#[tokio::test]
async fn events_left_by_one_life_are_offered_by_the_next() {
    let (child, parent) = (child(), Real::listen("reporter-lives").await);
    raise(&reporter(&child, "nobody-listens-here"), 3).await;
    let next = reporter(&child, "reporter-lives");
    next.start();
    assert_eq!(next.drain(LONG).await.pending, 0);
    assert_eq!(parent.told().await, 3);
}

#[tokio::test]
async fn reporter_without_a_store_delivers_too() {
    let parent = Real::listen("reporter-memory").await;
    let reporter = Reporter::in_memory(pod("b", 1), Edge::to(Address::mem("reporter-memory")));
    reporter.start();
    raise(&reporter, 100).await;
    let last = send_pod_event_awaited(&reporter, PodEvent::ShutDown { pod: pod("b", 1) }, LONG).await.unwrap();
    assert!(matches!(last, Delivery::Acked(EventAck { durable_seq: Seq(101), .. })), "{last:?}");
    assert_eq!(parent.told().await, 101);
}

#[tokio::test(start_paused = true)]
async fn forgotten_report_that_fails_is_counted_and_kept() {
    let reporter = Reporter::in_memory(pod("b", 1), Edge::to(Address::mem("reporter-forgotten")));
    reporter.start();
    fire_and_forget(&reporter, event(1));
    assert_eq!(reporter.drain(FORGET_AFTER * 2).await.pending, 1);
    let counts = reporter.counters().unwrap().now();
    assert_eq!((counts.forgotten_failed, counts.forgotten_delivered), (1, 0));
    assert!(counts.not_delivered > 1, "{counts:?}");
}
