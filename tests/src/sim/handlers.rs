//! What the service does with a request: at once, later, never, wrongly.
//!
//! A handler runs until it answers, its deadline passes or its call is cancelled; the loss of a connection does not
//! concern it. Each gives exactly one answer to its lane, as `rpc`'s drivers do.
//!
//! Started and polled by `server`; applies to the ledger.

use std::sync::Arc;

use rpc::session::payload::Payload;
use rpc::session::server::{NewCall, Reply, ServerLane};
use rpc::wire::header::{FailedCode, NackCode};

use super::env::{Env, Flag, TICK_US};
use super::knobs::{MISSING, STREAM};
use super::ledger::{Mishap, read_token, write_answer};
use super::streams::Producer;

/// A handler that has not ended.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) token: usize,
    id: u64,
    deadline: u64,
    stopped: Arc<Flag>,
    /// When it goes on, and what it does then.
    at: u64,
    last: Last,
}

/// What a handler does last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    ApplyAndAck,
    /// It was applied when the handler began.
    Ack(u64),
    Reject,
    Panic,
    ApplyAndPanic,
    DropResponder,
    /// The service stops its own work.
    Abort,
    AckTooLarge,
    Never,
}

/// The handlers and producers that one lane memory keeps busy.
#[derive(Debug, Default)]
pub(super) struct Handlers {
    pub(super) running: Vec<Handler>,
    producers: Vec<Producer>,
}

impl Handlers {
    /// Shows a request to its handler, which is polled once.
    pub(super) fn start(&mut self, env: &mut Env, lane: &mut ServerLane, memory: usize, call: NewCall<'_>) {
        let (token, id) = (read_token(call.body), call.id);
        let probe = call.body.get(8) == Some(&1);
        if let Some(reply) = refusal(env, call.method, probe) {
            env.trace(|| format!("memory {memory}: id {id}, call {token}: refused"));
            return lane.answer(id, reply);
        }
        env.trace(|| format!("memory {memory}: id {id}, call {token}: a handler sees it"));
        env.ledger.seen(env.now, token, memory, id);
        if call.method == STREAM {
            self.producers.push(Producer::new(token, id));
        }
        let later = env.now + env.random.choose(&[(5, 500), (3, 6_000), (1, 40_000)]);
        let (at, last) = if probe {
            (env.now, Last::ApplyAndAck)
        } else {
            let last = env.random.choose(&[
                (52, Last::ApplyAndAck),
                (12, Last::Ack(0)),
                (10, Last::Reject),
                (3, Last::Panic),
                (3, Last::ApplyAndPanic),
                (3, Last::DropResponder),
                (2, Last::Abort),
                (2, Last::AckTooLarge),
                (5, Last::Never),
            ]);
            let at_once = last != Last::Never && env.random.per_mille(600);
            (if at_once { env.now } else { env.random.between(env.now, later) }, last)
        };
        let last = match last {
            Last::Ack(_) => Last::Ack(env.ledger.applied(env.now, token)),
            other => other,
        };
        let deadline = env.micros(call.deadline);
        let handler = Handler { token, id, deadline, stopped: Arc::default(), at, last };
        if at <= env.now && last != Last::Never {
            let reply = handler.finish(env);
            lane.answer(id, reply);
        } else {
            lane.on_cancel(id, &handler.stopped.waker());
            self.running.push(handler);
        }
    }

    /// Polls what was woken: by a cancel, or by what it waited for.
    pub(super) fn poll(&mut self, env: &mut Env, lane: &mut ServerLane, memory: usize) {
        let mut at = 0;
        while let Some(handler) = self.running.get(at) {
            let due = env.now >= handler.at && handler.last != Last::Never;
            if !(handler.stopped.take() || due) {
                at += 1;
                continue;
            }
            // As a driver does: whose call is no longer wanted is dropped, not polled.
            if lane.is_running(handler.id) {
                if !due {
                    at += 1;
                    continue;
                }
                let handler = self.running.remove(at);
                let reply = handler.finish(env);
                env.trace(|| format!("memory {memory}: id {}, call {}: {:?}", handler.id, handler.token, handler.last));
                lane.answer(handler.id, reply);
            } else {
                let handler = self.running.remove(at);
                env.trace(|| format!("memory {memory}: id {}, call {}: stopped", handler.id, handler.token));
                if env.now < handler.deadline {
                    env.coverage.hit("server: handler cancelled");
                    env.ledger.stopped_early(env.now, handler.token);
                } else {
                    env.coverage.hit("server: handler stopped by its deadline");
                }
                lane.answer(handler.id, Reply::Failed(FailedCode::Aborted));
            }
        }
        self.producers.retain_mut(|producer| producer.poll(env, lane));
    }

    /// The runtime under them ends: each is dropped, and answered for.
    pub(super) fn stop_all(&mut self, env: &mut Env, lane: &mut ServerLane) {
        for handler in self.running.drain(..) {
            env.coverage.hit("reverse: handlers stopped with their runtime");
            lane.answer(handler.id, Reply::Failed(FailedCode::Aborted));
        }
        self.producers.clear();
    }

    /// No handler runs past its deadline: it is at least told to stop.
    pub(super) fn check_deadlines(&self, env: &mut Env) {
        for handler in &self.running {
            if env.now > handler.deadline + 2 * TICK_US && !handler.stopped.is_set() {
                let text =
                    format!("the handler of call {} runs past its deadline, {} us", handler.token, handler.deadline);
                env.ledger.violate(env.now, "bounded", text);
            }
        }
    }

    /// When the next of them goes on by itself.
    pub(super) fn due(&self, now: u64) -> Option<u64> {
        self.running.iter().filter(|h| h.last != Last::Never && h.at > now).map(|h| h.at).min()
    }
}

impl Handler {
    /// The end of a handler that nobody stopped.
    fn finish(&self, env: &mut Env) -> Reply {
        let padding = env.random.choose(&[(6, 0), (2, 30), (1, 200)]);
        let ack = |env: &mut Env, serial| {
            let body = write_answer(self.token, serial, padding);
            env.trace(|| format!("call {}: applied as {serial}", self.token));
            Reply::Ack(Payload::copy(&body))
        };
        let mishap = |env: &mut Env, mishap, code| {
            env.ledger.mishap(self.token, mishap);
            Reply::Failed(code)
        };
        match self.last {
            Last::ApplyAndAck => {
                let serial = env.ledger.applied(env.now, self.token);
                ack(env, serial)
            }
            Last::Ack(serial) => ack(env, serial),
            Last::Reject => {
                let body = write_answer(self.token, env.ledger.rejected(self.token), padding);
                Reply::Nack(NackCode::Rejected, Payload::copy(&body))
            }
            Last::Panic => mishap(env, Mishap::Panicked, FailedCode::Panicked),
            Last::ApplyAndPanic => {
                env.ledger.applied(env.now, self.token);
                mishap(env, Mishap::Panicked, FailedCode::Panicked)
            }
            Last::DropResponder | Last::Never => mishap(env, Mishap::Dropped, FailedCode::Dropped),
            Last::Abort => Reply::Failed(FailedCode::Aborted),
            Last::AckTooLarge => {
                let serial = env.ledger.applied(env.now, self.token);
                env.ledger.mishap(self.token, Mishap::TooLarge);
                let body = write_answer(self.token, serial, env.limits.frame_bytes_max);
                Reply::Ack(Payload::copy(&body))
            }
        }
    }
}

/// What is refused before a handler sees it.
fn refusal(env: &mut Env, method: u16, probe: bool) -> Option<Reply> {
    let nack = |code, text: &[u8]| Some(Reply::Nack(code, Payload::copy(text)));
    if method == MISSING {
        return nack(NackCode::UnknownMethod, b"");
    }
    if probe {
        return None;
    }
    match env.random.choose(&[(200, 0), (2, 1), (2, 2), (2, 3), (2, 4)]) {
        1 => nack(NackCode::BadBody, b"simulated"),
        2 => nack(NackCode::Unauthorized, b"simulated"),
        3 => nack(NackCode::Unavailable, b"simulated"),
        4 => nack(NackCode::Overloaded, &7_u32.to_le_bytes()),
        _ => None,
    }
}
