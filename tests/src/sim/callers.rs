//! Those who call: they submit, wait, lose patience, ask again or give a doubt up.
//!
//! Never late to be woken and often late to look: a caller's task may run long after its outcome is there. What it is
//! told goes to the ledger.
//!
//! Kept by `client`, whose lane they share.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rpc::session::client::{Arrival, ClientLane, Outcome, StreamEnd, Submit, SubmitError};
use rpc::wire::header::EndCode;
use rpc::{Cause, NotDelivered};

use super::env::{Env, Flag, TICK_US};
use super::knobs::{MISMATCHED, MISSING, PLAIN, STREAM, VERSION, WANTED};
use super::ledger::brief;
use super::streams::Reader;

/// One call and the task that made it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) token: usize,
    id: u64,
    method: u16,
    body: Vec<u8>,
    state: State,
    /// When it ends at the latest, in microseconds.
    due: u64,
    woken: Arc<Flag>,
    /// When its task looks, once it is woken.
    looks_at: u64,
    reader: Reader,
    /// The last call of a world, which must succeed.
    probe: bool,
    /// Asked again when nothing was wrong any more: that must be answered.
    sure: bool,
    /// The server's side calls.
    reverse: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not submitted: the lane was full.
    Blocked,
    Awaited,
    /// Told *unknown*.
    Doubted,
    Resolved,
    /// Acked, and reading its stream.
    Streaming,
    Over,
}

impl Call {
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// It was submitted, and has no outcome.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.state, State::Awaited | State::Resolved)
    }

    fn is_awaited(&self) -> bool {
        matches!(self.state, State::Blocked | State::Awaited | State::Resolved)
    }
}

/// Makes one more call.
pub(super) fn submit(env: &mut Env, lane: &mut ClientLane, calls: &mut Vec<Call>, probe: bool, reverse: bool) {
    let token = env.ledger.open();
    let method =
        if probe { PLAIN } else { env.random.choose(&[(60, PLAIN), (8, STREAM), (1, MISMATCHED), (1, MISSING)]) };
    let padding = if probe { 1 } else { env.random.choose(&[(50, 0), (20, 40), (10, 300), (1, 700)]) };
    let mut body = (token as u64).to_le_bytes().to_vec();
    body.resize(8 + padding, if probe { 1 } else { 0 });
    let timeout = match env.random.choose(&[(2, 0), (5, 1), (3, 2)]) {
        _ if probe => 2_000_000,
        0 => env.random.between(0, 4_000),
        1 => env.random.between(4_000, 40_000),
        _ => env.random.between(40_000, 150_000),
    };
    let mut call = Call {
        token,
        id: 0,
        method,
        body,
        state: State::Blocked,
        due: env.now + timeout,
        woken: Arc::default(),
        looks_at: 0,
        reader: Reader::default(),
        probe,
        sure: false,
        reverse,
    };
    try_submit(env, lane, &mut call);
    calls.push(call);
}

fn try_submit(env: &mut Env, lane: &mut ClientLane, call: &mut Call) {
    if let Err(why) = lane.check_offer(&WANTED, call.method, VERSION) {
        return learn(env, call, &Outcome::NotDelivered(why));
    }
    let deadline = env.at(call.due);
    let stream = call.method == STREAM;
    let request = Submit { method: call.method, version: VERSION, body: &call.body, deadline, stream, tlvs: &[] };
    // Every other body is queued as it is instead of being copied behind the frames before it.
    let shared = call.token.is_multiple_of(2).then(|| Bytes::copy_from_slice(&call.body));
    match lane.submit_body(request, shared) {
        Ok(id) => {
            call.id = id;
            call.state = State::Awaited;
            let bytes = call.body.len();
            let method = call.method;
            env.trace(|| format!("call {}: submitted as id {id}, method {method}, {bytes} bytes", call.token));
            // As a future does: the first poll follows at once.
            poll(env, lane, call);
        }
        Err(SubmitError::Full) if env.now < call.due => {
            env.coverage.hit("client: caller waited for room");
            lane.wait_for_room(deadline, &call.woken.waker());
        }
        Err(error) => {
            let why = match error {
                SubmitError::Full => NotDelivered::WindowFull { window: env.limits.window },
                SubmitError::Refused(why) => why,
            };
            learn(env, call, &Outcome::NotDelivered(why));
        }
    }
}

/// Lets one call's task run, or its owner change its mind.
pub(super) fn act(env: &mut Env, lane: &mut ClientLane, call: &mut Call) {
    match call.state {
        State::Blocked | State::Awaited | State::Resolved => {
            if env.stormy && env.random.below(10_000) < env.knobs.abandon {
                return abandon(env, lane, call);
            }
            let spurious = env.random.per_mille(20);
            if !(call.woken.is_set() && env.now >= call.looks_at || spurious) {
                return;
            }
            call.woken.take();
            if call.state == State::Blocked {
                try_submit(env, lane, call);
            } else {
                poll(env, lane, call);
            }
        }
        State::Doubted => {
            if env.stormy && env.random.per_mille(800) {
                return;
            }
            if env.stormy && env.random.per_mille(500) {
                env.trace(|| format!("call {}: doubt given up", call.token));
                give_up(env, call);
                lane.release(call.id);
                call.state = State::Over;
            } else {
                let timeout = if env.stormy { env.random.between(0, 60_000) } else { 1_000_000 };
                call.due = env.now + timeout;
                call.sure = !env.stormy;
                env.trace(|| format!("call {}: resolve id {}", call.token, call.id));
                lane.resolve(call.id, env.at(call.due));
                call.state = State::Resolved;
                poll(env, lane, call);
            }
        }
        State::Streaming => read_items(env, lane, call),
        State::Over => {}
    }
}

/// The call's task is dropped, with whatever it holds.
fn abandon(env: &mut Env, lane: &mut ClientLane, call: &mut Call) {
    env.trace(|| format!("call {}: abandoned", call.token));
    match call.state {
        State::Awaited => {
            env.ledger.cancelled(call.token);
            lane.abandon(call.id);
        }
        // A dropped `resolve` drops its doubt.
        State::Resolved | State::Doubted => {
            give_up(env, call);
            lane.release(call.id);
        }
        State::Streaming => lane.drop_stream(call.id),
        State::Blocked | State::Over => {}
    }
    call.state = State::Over;
}

/// A doubt is dropped: only what would open a stream is stopped by that.
fn give_up(env: &mut Env, call: &Call) {
    if call.method == STREAM {
        env.ledger.cancelled(call.token);
    }
}

fn poll(env: &mut Env, lane: &mut ClientLane, call: &mut Call) {
    let waker = call.woken.waker();
    let Poll::Ready(outcome) = lane.poll_outcome(call.id, &mut Context::from_waker(&waker)) else { return };
    let resolved = call.state == State::Resolved;
    learn(env, call, &outcome);
    if resolved && call.reverse && matches!(outcome, Outcome::Ack(_)) {
        env.coverage.hit("reverse: resolved by an ack");
    }
    if resolved {
        env.coverage.hit(match outcome {
            Outcome::Ack(_) => "resolve: ack",
            Outcome::Rejected(_) => "resolve: rejected",
            Outcome::NotDelivered(_) => "resolve: not delivered",
            Outcome::Unknown(..) => "resolve: unknown",
        });
        match outcome {
            // The handler's own deadline is an answer; ours would be silence.
            Outcome::Unknown(_, Cause::Deadline) if call.sure && env.now >= call.due => {
                let text = format!("call {}: no answer to a resolve although nothing was wrong any more", call.token);
                env.ledger.violate(env.now, "P1 answered", text);
            }
            // In calm, asking once must be enough.
            Outcome::Unknown(..) if call.sure => {
                give_up(env, call);
                lane.release(call.id);
                call.state = State::Over;
            }
            _ => {}
        }
    }
    if call.state == State::Streaming && resolved {
        // Nobody reads a stream whose connection is gone.
        lane.drop_stream(call.id);
        call.state = State::Over;
    }
}

/// The caller has its outcome.
fn learn(env: &mut Env, call: &mut Call, outcome: &Outcome) {
    env.trace(|| format!("call {}: told {}", call.token, brief(outcome)));
    env.ledger.told(env.now, call.token, outcome);
    call.state = match outcome {
        Outcome::Ack(_) if call.method == STREAM => State::Streaming,
        Outcome::Unknown(..) => State::Doubted,
        _ => State::Over,
    };
    if call.state == State::Streaming {
        env.coverage.hit("stream: opened");
    }
    if call.probe {
        match outcome {
            Outcome::Ack(_) => env.coverage.hit("end: probe acked"),
            other => {
                let text = format!("a call was told {} although nothing was wrong any more", brief(other));
                env.ledger.violate(env.now, "P1 answered", text);
            }
        }
    }
    env.coverage.outcome(outcome);
    if call.reverse {
        env.coverage.hit(match outcome {
            Outcome::Ack(_) => "reverse: ack",
            Outcome::Rejected(_) => "reverse: rejected",
            Outcome::NotDelivered(_) => "reverse: not delivered",
            Outcome::Unknown(..) => "reverse: unknown",
        });
    }
}

fn read_items(env: &mut Env, lane: &mut ClientLane, call: &mut Call) {
    if env.stormy && env.random.per_mille(20) {
        return abandon(env, lane, call);
    }
    let waker = call.woken.waker();
    match lane.poll_item(call.id, &mut Context::from_waker(&waker)) {
        Poll::Pending => {}
        Poll::Ready(Ok(arrival)) => {
            match &arrival {
                Arrival::Item(_) => {}
                Arrival::Lossy(_) => env.coverage.hit("stream: lossy item read"),
                Arrival::Resync { missed, .. } => env.coverage.hit(if missed.lossless > 0 {
                    "stream: told of lossless items missed"
                } else {
                    "stream: told of lossy items missed"
                }),
            }
            if let Err(wrong) = call.reader.takes(call.token, &arrival) {
                env.ledger.violate(env.now, "streams", format!("the reader of call {} {wrong}", call.token));
            }
        }
        Poll::Ready(Err(end)) => {
            env.trace(|| format!("call {}: stream over, {:?}: {end:?}", call.token, call.reader));
            env.coverage.hit(match end {
                StreamEnd::Ended(EndCode::Finished) if call.reverse => "reverse: stream finished",
                StreamEnd::Ended(EndCode::Finished) => "stream: finished",
                StreamEnd::Ended(EndCode::TooSlow) => "stream: too slow",
                StreamEnd::Ended(_) => "stream: aborted",
                StreamEnd::Lost => "stream: lost",
            });
            if let Err(wrong) = call.reader.ends(call.token, end) {
                env.ledger.violate(env.now, "streams", format!("the stream of call {} {wrong}", call.token));
            }
            lane.drop_stream(call.id);
            call.state = State::Over;
        }
    }
}

/// Nobody waits for room in a lane that holds nothing, neither ids nor bytes; unless it waits for its first Welcome.
pub(super) fn check_room(env: &mut Env, lane: &mut ClientLane, calls: &[Call]) {
    let forgotten = calls.iter().find(|call| call.state == State::Blocked && !call.woken.is_set());
    if let Some(call) = forgotten
        && !lane.has_open()
        && !lane.wants_connection()
        && !lane.waits_for_welcome()
    {
        let text = format!("call {} waits for room, and nobody has told it that there is some", call.token);
        env.ledger.violate(env.now, "P1 answered", text);
    }
}

/// Every call that is waited for must be woken in time.
pub(super) fn check_in_time(env: &mut Env, calls: &mut [Call]) {
    for call in calls {
        if !call.is_awaited() {
            continue;
        }
        if call.woken.is_set() {
            if call.looks_at == 0 {
                let delay = if env.random.per_mille(env.knobs.hasty) { 0 } else { env.random.between(0, 3_000) };
                let nap = if env.random.per_mille(30) { 30_000 } else { 0 };
                call.looks_at = env.now + if env.stormy { delay + nap } else { 0 };
            }
        } else {
            call.looks_at = 0;
            if env.now > call.due + TICK_US {
                let text =
                    format!("call {} ({:?}) had no outcome at its deadline, {} us", call.token, call.state, call.due);
                env.ledger.violate(env.now, "P1 answered", text);
            }
        }
    }
}
