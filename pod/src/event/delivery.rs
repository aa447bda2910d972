//! The task that brings the outbox to the parent.
//!
//! Offers in order, several under way at once, over one connection, whose requests the parent takes up in the order in
//! which they were sent. What fails is offered again, from the first that the parent lacks, as a new request under the
//! same key; pauses grow up to two seconds. Rows that are gone or that the parent cannot take become a `Gap`. Ends only
//! when it is stopped, or when the parent says that this life is over.
//!
//! Started by `Reporter::start`.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rpc::{CallError, NotDelivered};

use crate::event::counters::count;
use crate::event::reporter::Shared;
use crate::id::{Seq, StreamId};
use crate::protocol::{EventAck, EventRejection, Method, PodEvent, PodEventOffer};
use crate::store::{OutboxRow, OutboxState};

/// LIMIT: offers under way at once: enough that a parent's group commits are full, few enough that a cut costs little.
const WINDOW: u32 = 64;
/// How long one offer may take. A parent that takes longer is asked again.
const OFFER_DEADLINE: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// LIMIT: the longest pause between offers: one attempt of each child every two seconds while a parent is away.
const PAUSE_MAX: Duration = Duration::from_secs(2);

type Answer = Result<EventAck, CallError<PodEventOffer>>;

/// What to do after a round of offers.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Everything was acknowledged: wait for more.
    Wait,
    /// Go on, with what follows the acknowledged, or with what the parent expects.
    GoOn(Option<Seq>),
    /// Try again after a pause.
    Pause,
    /// The parent does not know us: read the edge again, after a pause.
    ReadEdge,
    /// This life is over for the parent.
    GiveUp,
}

/// Offers until it is stopped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut head = shared.outbox.head();
    let mut pause = PAUSE_MIN;
    let mut from = None;
    let mut client = None;
    loop {
        head.borrow_and_update();
        let address = shared.edge.address();
        let connected = match client.take() {
            // Another parent than the last time is another connection.
            Some((at, client)) if address.as_ref() == Some(&at) => Some((at, client)),
            _ => address.map(|at| (at.clone(), rpc::Client::<Method>::new(&at))),
        };
        let next = match &connected {
            Some((_, client)) => tokio::select! {
                // CANCEL SAFETY: offers that are dropped are made again, by this life or the next, under the same keys.
                next = round(&shared, client, from) => next,
                () = shared.stop.notified() => return,
            },
            None => Next::ReadEdge,
        };
        client = connected;
        let wait = match next {
            Next::Wait => None,
            Next::GoOn(expected) => {
                from = expected;
                pause = PAUSE_MIN;
                continue;
            }
            Next::Pause => Some(pause),
            Next::ReadEdge => {
                client = None;
                Some(pause)
            }
            Next::GiveUp => return,
        };
        match wait {
            None => {
                pause = PAUSE_MIN;
                tokio::select! {
                    // CANCEL SAFETY: `changed` loses nothing when it is dropped.
                    changed = head.changed() => if changed.is_err() { return },
                    () = shared.stop.notified() => return,
                }
            }
            Some(wait) => {
                pause = (pause * 2).min(PAUSE_MAX);
                tokio::select! {
                    // CANCEL SAFETY: a timer has nothing to lose.
                    () = tokio::time::sleep(jittered(wait)) => {}
                    () = shared.stop.notified() => return,
                }
            }
        }
    }
}

/// Offers one page of the outbox.
async fn round(shared: &Shared, client: &rpc::Client<Method>, from: Option<Seq>) -> Next {
    let (rows, start, head) = match shared.outbox.page(from, WINDOW).await {
        Ok(page) => page,
        Err(error) => {
            tracing::warn!(target: "pod::event", error = %error.chain(), "the outbox cannot be read");
            return Next::Pause;
        }
    };
    let more = rows.len() == WINDOW as usize;
    let offers = plan(shared, rows, start, head);
    if offers.is_empty() {
        return Next::Wait;
    }
    crate::failpoint!("child_after_commit_before_send");
    let mut under_way = VecDeque::with_capacity(offers.len());
    for offer in offers {
        crate::witness!(
            serde_json::json!({"offered": {"stream": offer.stream, "seq": offer.seq, "event": offer.event}})
        );
        let (seq, gap) = (offer.seq, matches!(offer.event, PodEvent::Gap { .. }));
        count(&shared.counters.offers);
        if gap {
            count(&shared.counters.gaps);
        }
        let mut call = client.call(offer).deadline(OFFER_DEADLINE);
        // A call is sent when it is first polled: now, in the order of the stream.
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut call).poll(cx))).await;
        crate::failpoint!("child_after_send");
        under_way.push_back((seq, gap, call, first));
    }
    let mut acks = Vec::new();
    let mut next = if more { Next::GoOn(None) } else { Next::Wait };
    while let Some((seq, gap, call, first)) = under_way.pop_front() {
        let answer: Answer = match first {
            Poll::Ready(answer) => answer,
            Poll::Pending => call.await,
        };
        match answer {
            Ok(ack) => acks.push((seq, ack)),
            Err(error) => {
                // What was sent behind it cannot have been applied before it; dropped, it is offered again.
                under_way.clear();
                if !trim(shared, &acks).await {
                    return Next::Pause;
                }
                return after_failure(shared, seq, gap, start, error).await;
            }
        }
    }
    if !trim(shared, &acks).await {
        return Next::Pause;
    }
    if from.is_some() && next == Next::Wait {
        // Behind what the parent had expected there may be more that it lacks.
        next = Next::GoOn(None);
    }
    next
}

/// What to offer: the rows that can be delivered, and gaps in place of what is missing between them.
fn plan(shared: &Shared, rows: Vec<OutboxRow>, start: Seq, head: Seq) -> VecDeque<PodEventOffer> {
    let whole = rows.len() < WINDOW as usize;
    let (pod, stream) = (&shared.own, shared.outbox.stream());
    let offer = |seq, event| PodEventOffer { from: pod.clone(), stream, seq, event };
    let gap = |from: Seq, to: Seq| offer(to, PodEvent::Gap { pod: pod.clone(), from, to });
    let mut offers = VecDeque::new();
    let mut expected = start;
    let mut last = Seq(start.0.saturating_sub(1));
    for row in rows {
        last = row.seq;
        if row.state == OutboxState::Undeliverable {
            continue;
        }
        if row.seq > expected {
            offers.push_back(gap(expected, before(row.seq)));
        }
        offers.push_back(offer(row.seq, row.event));
        expected = row.seq.next();
    }
    // At the end of the page: what cannot be delivered, or, at the end of the outbox, what is no longer there.
    let end = if whole { head } else { last };
    if end >= expected {
        offers.push_back(gap(expected, end));
    }
    offers
}

fn before(seq: Seq) -> Seq {
    Seq(seq.0.saturating_sub(1))
}

/// Takes what the parent has out of the outbox, and then tells who waits for it: what is delivered is not pending.
async fn trim(shared: &Shared, acks: &[(Seq, EventAck)]) -> bool {
    let Some(durable) = acks.iter().map(|(_, ack)| ack.durable_seq).max() else { return true };
    crate::witness!(serde_json::json!({"acked": {"stream": shared.outbox.stream(), "durable": durable}}));
    crate::failpoint!("child_after_ack_before_trim");
    let trimmed = shared.outbox.trim(durable).await;
    crate::failpoint!("child_after_trim");
    if let Err(error) = &trimmed {
        // The parent has it all the same. It is offered again, and will be a duplicate.
        tracing::warn!(target: "pod::event", error = %error.chain(), "the outbox cannot be trimmed");
    }
    shared.acked(acks, durable);
    trimmed.is_ok()
}

/// What a failed offer of `seq` means for the rest.
async fn after_failure(shared: &Shared, seq: Seq, gap: bool, start: Seq, error: CallError<PodEventOffer>) -> Next {
    let counters = &shared.counters;
    let outcome = error.to_string();
    let next = match &error {
        CallError::Rejected(EventRejection::OutOfOrder { expected }) => {
            count(&counters.out_of_order);
            // From there on, unless that is where we began: then the parent contradicts itself.
            if *expected == start { Next::Pause } else { Next::GoOn(Some(*expected)) }
        }
        CallError::Rejected(EventRejection::NotYourChild) => {
            count(&counters.rejected);
            Next::ReadEdge
        }
        CallError::Rejected(EventRejection::StaleIncarnation { .. }) => {
            count(&counters.rejected);
            tracing::error!(target: "pod::event", own = %shared.own, outcome, "the parent says that this life is over");
            return give_up(shared, None, seq, &outcome, Next::GiveUp).await;
        }
        CallError::Rejected(EventRejection::Invalid { .. }) => {
            count(&counters.rejected);
            if !gap {
                return give_up(shared, Some(seq), seq, &outcome, Next::GoOn(None)).await;
            }
            Next::Pause
        }
        CallError::Rejected(EventRejection::Unavailable { .. }) => {
            count(&counters.rejected);
            Next::Pause
        }
        CallError::NotDelivered(why) => {
            count(&counters.not_delivered);
            let unreadable =
                matches!(why, NotDelivered::BadBody(_) | NotDelivered::TooLarge { .. } | NotDelivered::Encode(_));
            if unreadable && !gap {
                return give_up(shared, Some(seq), seq, &outcome, Next::GoOn(None)).await;
            }
            Next::Pause
        }
        CallError::Unknown(_) => {
            count(&counters.unknown);
            Next::Pause
        }
    };
    tracing::debug!(target: "pod::event", %seq, outcome, "an offer failed; the event is kept");
    shared.failed(seq, error);
    if let Err(error) = shared.outbox.note(seq, outcome).await {
        tracing::warn!(target: "pod::event", error = %error.chain(), "the outcome of an offer cannot be noted");
    }
    next
}

/// Marks one event, or all, as undeliverable.
async fn give_up(shared: &Shared, which: Option<Seq>, seq: Seq, outcome: &str, next: Next) -> Next {
    tracing::error!(target: "pod::event", %seq, outcome, "the parent cannot take the event; it is kept and shown");
    match shared.outbox.give_up(which, outcome.to_owned()).await {
        Ok(()) => {
            shared.gave_up(seq, outcome);
            next
        }
        Err(error) => {
            tracing::warn!(target: "pod::event", error = %error.chain(), "an undeliverable event cannot be marked");
            Next::Pause
        }
    }
}

/// `pause`, shorter by up to a quarter, so that a thousand children do not come back in one instant.
fn jittered(pause: Duration) -> Duration {
    let parts = u32::try_from(StreamId::random().0 % 256).unwrap_or(0);
    pause - pause / 4 * parts / 256
}
