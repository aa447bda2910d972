//! What was seen to happen, counted: a simulator that never sees a thing says nothing about it.
//!
//! Names and numbers only.
//!
//! Filled by every actor, printed and required by the runner.

use std::collections::BTreeMap;
use std::fmt;

use rpc::session::client::Outcome;
use rpc::{Cause, NotDelivered, Stage};

/// What a thousand worlds must have shown at least once each.
pub const REQUIRED: &[&str] = &[
    "outcome: ack",
    "outcome: rejected",
    "outcome: not delivered",
    "outcome: unknown",
    "resolve: ack",
    "resolve: rejected",
    "resolve: not delivered",
    "resolve: unknown",
    "answer: applied",
    "answer: nacked",
    "answer: failed",
    "answer: running",
    "answer: never seen",
    "cause: Deadline",
    "cause: ConnectionLost",
    "cause: HandlerPanicked",
    "cause: ResponderDropped",
    "cause: Aborted",
    "cause: AnswerTooLarge",
    "cause: PeerRestarted",
    "cause: Forgotten",
    "cause: ClientClosed",
    "stage: Written",
    "stage: Received",
    "stage: Started",
    "why: NoListener",
    "why: TooLarge",
    "why: WindowFull",
    "why: NotWritten",
    "why: ConnectionLost",
    "why: ClientClosed",
    "why: Refused",
    "why: Overloaded",
    "why: Draining",
    "why: UnknownMethod",
    "why: SchemaMismatch",
    "why: BadBody",
    "why: Unauthorized",
    "why: Expired",
    "why: NeverSeen",
    "why: Unavailable",
    "refusal: stale epoch",
    "refusal: too many",
    "refusal: handshake timeout",
    "refusal: draining",
    "fault: cut, client first",
    "fault: cut, server first",
    "fault: cut, both",
    "fault: cut within a frame",
    "fault: stall",
    "fault: duplicate on its connection",
    "fault: duplicate on a later connection",
    "fault: server crash",
    "fault: client crash",
    "fault: client close",
    "fault: drain",
    "fault: mute",
    "server: restart",
    "server: repeat answered from memory",
    "server: fenced frame",
    "server: void skipped",
    "server: id parked",
    "server: lane forgotten",
    "server: lane resumed",
    "server: stalled connection closed",
    "server: handler without a connection",
    "server: handler outlives its id",
    "server: handler cancelled",
    "server: handler stopped by its deadline",
    "client: done",
    "client: dial refused",
    "client: caller waited for room",
    "client: late answer",
    "stream: opened",
    "stream: finished",
    "stream: lost",
    "stream: producer waited for credit",
    "stream: lossy item read",
    "stream: lossy item dropped",
    "stream: closed on a slow reader",
    "stream: too slow",
    "stream: told of lossless items missed",
    "stream: told of lossy items missed",
    "end: probe acked",
    "why: NotServed",
    "reverse: ack",
    "reverse: rejected",
    "reverse: not delivered",
    "reverse: unknown",
    "reverse: resolved by an ack",
    "reverse: stream finished",
    "reverse: connection lost with calls open",
    "reverse: memory taken up again",
    "reverse: memory replaced",
    "reverse: handlers stopped with their runtime",
    "reverse: probe sent",
];

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub(super) fn hit(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub(super) fn add(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// Counts what a caller was told.
    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        self.hit(match outcome {
            Outcome::Ack(_) => "outcome: ack",
            Outcome::Rejected(_) => "outcome: rejected",
            Outcome::NotDelivered(_) => "outcome: not delivered",
            Outcome::Unknown(..) => "outcome: unknown",
        });
        match outcome {
            Outcome::NotDelivered(why) => self.hit(why_name(why)),
            Outcome::Unknown(stage, cause) => {
                self.hit(match stage {
                    Stage::Received => "stage: Received",
                    Stage::Started => "stage: Started",
                    _ => "stage: Written",
                });
                self.hit(cause_name(*cause));
            }
            Outcome::Ack(_) | Outcome::Rejected(_) => {}
        }
    }

    /// Adds what another world has seen.
    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// How often `what` was seen.
    pub fn count(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// What of [`REQUIRED`] was never seen.
    pub fn missing(&self) -> Vec<&'static str> {
        REQUIRED.iter().copied().filter(|what| self.count(what) == 0).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in &self.0 {
            writeln!(f, "{count:>9}  {what}")?;
        }
        Ok(())
    }
}

fn why_name(why: &NotDelivered) -> &'static str {
    match why {
        NotDelivered::NoListener { .. } => "why: NoListener",
        NotDelivered::TooLarge { .. } => "why: TooLarge",
        NotDelivered::WindowFull { .. } => "why: WindowFull",
        NotDelivered::NotWritten => "why: NotWritten",
        NotDelivered::ConnectionLost => "why: ConnectionLost",
        NotDelivered::ClientClosed => "why: ClientClosed",
        NotDelivered::Refused(_) => "why: Refused",
        NotDelivered::Overloaded { .. } => "why: Overloaded",
        NotDelivered::Draining => "why: Draining",
        NotDelivered::UnknownMethod { .. } => "why: UnknownMethod",
        NotDelivered::SchemaMismatch { .. } => "why: SchemaMismatch",
        NotDelivered::BadBody(_) => "why: BadBody",
        NotDelivered::Unauthorized(_) => "why: Unauthorized",
        NotDelivered::Expired => "why: Expired",
        NotDelivered::NeverSeen => "why: NeverSeen",
        NotDelivered::NotServed => "why: NotServed",
        NotDelivered::Unavailable(_) => "why: Unavailable",
        _ => "why: other",
    }
}

fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Deadline => "cause: Deadline",
        Cause::ConnectionLost => "cause: ConnectionLost",
        Cause::HandlerPanicked => "cause: HandlerPanicked",
        Cause::ResponderDropped => "cause: ResponderDropped",
        Cause::Aborted => "cause: Aborted",
        Cause::AnswerTooLarge => "cause: AnswerTooLarge",
        Cause::PeerRestarted => "cause: PeerRestarted",
        Cause::Forgotten => "cause: Forgotten",
        Cause::ClientClosed => "cause: ClientClosed",
        _ => "cause: other",
    }
}
