//! The checker: what was in truth applied, and whether what callers are told agrees with it.
//!
//! Outside of every process: it survives crashes, and no actor reads it to decide anything. The first sentence that is
//! not true is kept; the world stops there.
//!
//! Told by `server` and `handlers` what they do, by `callers` what they learn, by `client` what was said to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rpc::session::client::Outcome;
use rpc::{Cause, Stage};

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which: `P1 answered`, `P2 honest`, `P3 once`, `ordered`, `streams`, `remembered`, `permits`, `fence`, `loss is no cancel`,
    /// `bounded`, `protocol`, `panic`.
    pub promise: &'static str,
    /// What was seen.
    pub text: String,
    /// When, in microseconds since the world began.
    pub at: u64,
}

/// Everything that is true.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    calls: Vec<Record>,
    /// The first answer that each memory gave for each id.
    answers: BTreeMap<(usize, u64), Answer>,
    /// The highest id that a handler of each memory has seen, repeats aside.
    seen_last: BTreeMap<usize, u64>,
    /// Memories that were forgotten, or died with their process.
    ended: BTreeSet<usize>,
    serial: u64,
    memories: usize,
    pub(super) server_lives: u64,
    pub(super) violation: Option<Violation>,
}

/// An answer as the wire carries it, in whichever frame.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Ack(Vec<u8>),
    Nack(u32, Vec<u8>),
    Failed(u32),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The number of the application is what tells two answers apart.
        let (name, code, body) = match self {
            Self::Ack(body) => ("Ack", 0, &body[..]),
            Self::Nack(code, body) => ("Nack", *code, &body[..]),
            Self::Failed(code) => ("Failed", *code, &[][..]),
        };
        write!(f, "{name}({code}, {} bytes: {:x?})", body.len(), body.get(..16).unwrap_or(body))
    }
}

/// How a handler can end besides by an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    Panicked,
    Dropped,
    TooLarge,
}

#[derive(Debug, Default)]
struct Record {
    /// The memories that took it up, whose handlers saw it, in which it was applied.
    taken: Vec<usize>,
    seen: Vec<usize>,
    /// Numbers of its applications and rejections; they are in the answers.
    applied: Vec<u64>,
    rejected: Vec<u64>,
    mishaps: Vec<Mishap>,
    /// The caller has dropped the call: its handler may be stopped.
    cancelled: bool,
    /// Its frame was said more than once.
    repeated: bool,
    told: Told,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Ack,
    Rejected,
    NotDelivered,
}

impl Ledger {
    /// A new call; its token is in its body.
    pub(super) fn open(&mut self) -> usize {
        self.calls.push(Record::default());
        self.calls.len() - 1
    }

    pub(super) fn violate(&mut self, at: u64, promise: &'static str, text: String) {
        self.violation.get_or_insert(Violation { promise, text, at });
    }

    /// A memory takes a request up.
    pub(super) fn taken(&mut self, at: u64, token: usize, memory: usize) {
        let Some(record) = self.calls.get_mut(token) else {
            return self.violate(at, "P2 honest", format!("call {token} was never made"));
        };
        let twice = record.taken.contains(&memory);
        record.taken.push(memory);
        if twice {
            self.violate(at, "P3 once", format!("call {token} was taken up twice by memory {memory}"));
        }
    }

    /// A handler sees a request: of those that were said only once, in the order in which they were sent.
    pub(super) fn seen(&mut self, at: u64, token: usize, memory: usize, id: u64) {
        let record = &mut self.calls[token];
        record.seen.push(memory);
        if record.told == Told::NotDelivered {
            return self.violate(
                at,
                "P2 honest",
                format!("call {token} was not delivered, and a handler saw it later"),
            );
        }
        if !record.repeated {
            let last = self.seen_last.entry(memory).or_default();
            if id < *last {
                let text = format!("memory {memory} showed id {id} to a handler after id {last}");
                return self.violate(at, "ordered", text);
            }
            *last = id;
        }
    }

    /// Its request is said once more.
    pub(super) fn repeated(&mut self, token: usize) {
        if let Some(record) = self.calls.get_mut(token) {
            record.repeated = true;
        }
    }

    /// A new memory; its name.
    pub(super) fn memory_begins(&mut self) -> usize {
        self.memories += 1;
        self.memories - 1
    }

    /// A memory was forgotten, or its process has died.
    pub(super) fn memory_ended(&mut self, memory: usize) {
        self.ended.insert(memory);
    }

    /// A request is applied; the number of this application.
    pub(super) fn applied(&mut self, at: u64, token: usize) -> u64 {
        self.serial += 1;
        let record = &mut self.calls[token];
        record.applied.push(self.serial);
        if let told @ (Told::NotDelivered | Told::Rejected) = record.told {
            self.violate(at, "P2 honest", format!("call {token} was {told:?}, and was applied later"));
        }
        self.serial
    }

    /// A handler says no; the number of this rejection.
    pub(super) fn rejected(&mut self, token: usize) -> u64 {
        self.serial += 1;
        self.calls[token].rejected.push(self.serial);
        self.serial
    }

    pub(super) fn mishap(&mut self, token: usize, mishap: Mishap) {
        self.calls[token].mishaps.push(mishap);
    }

    /// The caller has dropped its call.
    pub(super) fn cancelled(&mut self, token: usize) {
        self.calls[token].cancelled = true;
    }

    /// A handler was stopped before its deadline.
    pub(super) fn stopped_early(&mut self, at: u64, token: usize) {
        if !self.calls[token].cancelled {
            self.violate(
                at,
                "loss is no cancel",
                format!("the handler of call {token} was stopped though nobody cancelled it"),
            );
        }
    }

    /// A memory has answered `id` over the wire.
    pub(super) fn answered(&mut self, at: u64, memory: usize, id: u64, answer: &Answer) {
        let first = self.answers.entry((memory, id)).or_insert_with(|| answer.clone());
        if first != answer {
            let text = format!("memory {memory} answered id {id} with {first:?} and then with {answer:?}");
            self.violate(at, "P3 once", text);
        }
    }

    /// A caller is told what became of its call.
    pub(super) fn told(&mut self, at: u64, token: usize, outcome: &Outcome) {
        let record = &mut self.calls[token];
        let told = match outcome {
            Outcome::Ack(_) => Told::Ack,
            Outcome::Rejected(_) => Told::Rejected,
            Outcome::NotDelivered(_) => Told::NotDelivered,
            Outcome::Unknown(..) => Told::Nothing,
        };
        let wrong = if record.told != Told::Nothing {
            Some("it had its outcome already")
        } else {
            match outcome {
                Outcome::Ack(payload) => {
                    let known = read_answer(payload.as_slice(), token).is_some_and(|n| record.applied.contains(&n));
                    (!known).then_some("it was not applied like that")
                }
                Outcome::Rejected(payload) => {
                    let known = read_answer(payload.as_slice(), token).is_some_and(|n| record.rejected.contains(&n));
                    if !record.applied.is_empty() {
                        Some("it was applied")
                    } else {
                        (!known).then_some("no handler rejected it like that")
                    }
                }
                Outcome::NotDelivered(_) => (!record.seen.is_empty()).then_some("a handler saw it"),
                Outcome::Unknown(stage, cause) => record.contradicts(*stage, *cause, self.server_lives),
            }
        };
        record.told = told;
        let gone = matches!(outcome, Outcome::Unknown(_, Cause::Forgotten | Cause::PeerRestarted));
        if gone && !record.taken.is_empty() && !record.taken.iter().all(|memory| self.ended.contains(memory)) {
            let text = format!("call {token} was told {}, and the memory that took it lives", brief(outcome));
            return self.violate(at, "remembered", text);
        }
        if let Some(wrong) = wrong {
            self.violate(at, "P2 honest", format!("call {token} was told {}, but {wrong}", brief(outcome)));
        }
    }
}

impl Record {
    /// What an `Unknown` says of stage and cause must be so, too.
    fn contradicts(&self, stage: Stage, cause: Cause, server_lives: u64) -> Option<&'static str> {
        let lacks = |mishap| !self.mishaps.contains(&mishap);
        match cause {
            _ if stage > Stage::Written && self.taken.is_empty() => Some("no server took it up"),
            Cause::HandlerPanicked if lacks(Mishap::Panicked) => Some("no handler of it panicked"),
            Cause::ResponderDropped if lacks(Mishap::Dropped) => Some("no responder of it was dropped"),
            Cause::AnswerTooLarge if lacks(Mishap::TooLarge) => Some("no answer of it was too large"),
            Cause::PeerRestarted if server_lives < 2 => Some("no server restarted"),
            _ => None,
        }
    }
}

/// The body of an ack or a rejection: which call, and which of its applications or rejections.
pub(super) fn write_answer(token: usize, serial: u64, padding: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(16 + padding);
    body.extend_from_slice(&(token as u64).to_le_bytes());
    body.extend_from_slice(&serial.to_le_bytes());
    body.resize(16 + padding, 0x5a);
    body
}

fn read_answer(body: &[u8], token: usize) -> Option<u64> {
    let (first, rest) = body.split_first_chunk::<8>()?;
    let (second, _) = rest.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*first) == token as u64).then_some(u64::from_le_bytes(*second))
}

/// The token at the front of a request's body.
pub(super) fn read_token(body: &[u8]) -> usize {
    body.first_chunk::<8>()
        .map_or(usize::MAX, |bytes| usize::try_from(u64::from_le_bytes(*bytes)).unwrap_or(usize::MAX))
}

/// An outcome without its bytes.
pub(super) fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ack(payload) => format!("Ack of {} bytes", payload.as_slice().len()),
        Outcome::Rejected(_) => "Rejected".to_owned(),
        Outcome::NotDelivered(why) => format!("NotDelivered({why:?})"),
        Outcome::Unknown(stage, cause) => format!("Unknown({stage:?}, {cause:?})"),
    }
}
