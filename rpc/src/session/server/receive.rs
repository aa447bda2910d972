//! What the client says.
//!
//! An id is looked up before anything about it is refused: a refusal of a repeat would deny what was applied.
//! Every refusal is kept as the id's answer. SPEC: PROTOCOL §4.2.
//!
//! Called by `io::server` for each frame, all frames of one read under one lock.

use std::time::{Duration, Instant};

use super::{Entry, Payload, Reply, Running, ServerLane, Stream, StreamOut, put_reply, put_resolution};
use crate::limits::{FIRST_IDS_MAX, PARKED_IDS};
use crate::session::Violation;
use crate::session::client::put_frame_with;
use crate::session::planted::Bug;
use crate::wire::header::{
    self, FailedCode, Frame, GoodbyeCode, Kind, NackCode, REVERSE, ResolutionCode, Tlvs, parse_ids, split_u32,
};

/// A request that a handler is to see. Exactly one [`answer`](ServerLane::answer) must follow.
#[derive(Clone, Copy, Debug)]
pub struct NewCall<'a> {
    /// Its id.
    pub id: u64,
    /// The method.
    pub method: u16,
    /// Its version.
    pub version: u16,
    /// When its handler is stopped.
    pub deadline: Instant,
    /// The TLVs of its header; they stand before the body.
    pub tlvs: Tlvs<'a>,
    /// The encoded request.
    pub body: &'a [u8],
}

/// What the driver does after a frame.
#[derive(Clone, Copy, Debug)]
pub enum Taken<'a> {
    /// Read on.
    Nothing,
    /// Hand it to a handler.
    Call(NewCall<'a>),
    /// The client is done with this connection.
    Closed,
    /// A newer connection has taken over: read no further, and say nothing.
    Fenced,
}

impl ServerLane {
    /// Takes one frame that arrived on the connection of `epoch`.
    ///
    /// # Errors
    /// [`Violation`]: the connection must be closed.
    pub fn handle_frame<'a>(&mut self, now: Instant, epoch: u64, bytes: &'a [u8]) -> Result<Taken<'a>, Violation> {
        if !self.is_attached(epoch) && !self.planted.is(Bug::NoFence) {
            return Ok(Taken::Fenced);
        }
        let Some(frame) = header::parse(bytes)? else { return Ok(Taken::Nothing) };
        if frame.flags & REVERSE != self.flags {
            return Err(Violation::Unexpected("of the other direction"));
        }
        match frame.kind {
            Kind::Request => return self.request(now, &frame),
            Kind::Void => self.raise_floor(now, &frame)?,
            Kind::Cancel => {
                self.cancel(frame.id);
            }
            Kind::Resolve => self.resolve(frame.id),
            Kind::Park => self.park(now, &frame)?,
            Kind::Credit => {
                let (bytes, _) = split_u32(frame.body).ok_or(Violation::Malformed("Credit"))?;
                if let Some(stream) = self.streams.get_mut(&frame.id) {
                    self.wakers.extend(stream.out.grant(frame.aux, bytes));
                }
            }
            Kind::Ping => {
                self.raise_floor(now, &frame)?;
                self.pong = Some(frame.id);
            }
            Kind::Goodbye if self.flags == 0 => {
                self.done = GoodbyeCode::from_number(frame.aux) == GoodbyeCode::Done;
                return Ok(Taken::Closed);
            }
            Kind::Pong => {}
            _ => return Err(Violation::Unexpected("a server's frame, or a second Hello")),
        }
        Ok(Taken::Nothing)
    }

    fn request<'a>(&mut self, now: Instant, frame: &Frame<'a>) -> Result<Taken<'a>, Violation> {
        self.raise_floor(now, frame)?;
        let id = frame.id;
        let span_max = self.span_max(id);
        if self.planted.is(Bug::RefusalBeforeLookup)
            && let Some(code) = self.refusal(frame, span_max)
        {
            put_reply(&mut self.out, self.flags, id, &Reply::Nack(code, Payload::EMPTY));
            return Ok(Taken::Nothing);
        }
        if let Some(entry) = self.window.get(id) {
            self.counters.repeats = self.counters.repeats.saturating_add(1);
            match entry {
                Entry::Answered(reply) => put_reply(&mut self.out, self.flags, id, reply),
                Entry::Burnt => put_reply(&mut self.out, self.flags, id, &Reply::Nack(NackCode::Burnt, Payload::EMPTY)),
                // Its answer will follow.
                Entry::Running(_) => {}
            }
            return Ok(Taken::Nothing);
        }
        if self.planted.is(Bug::ForgottenFloor) && id < self.window.floor() {
            let deadline = now.checked_add(self.limits.deadline_max).unwrap_or(now);
            self.unheld.push((id, Running { deadline, bytes: 0, cancel: None }));
            self.running = self.running.saturating_add(1);
            let (method, version, tlvs, body) = (frame.method, frame.version, frame.tlvs, frame.body);
            return Ok(Taken::Call(NewCall { id, method, version, deadline, tlvs, body }));
        }
        if id < self.window.floor() {
            put_frame_with(&mut self.out, Kind::Resolution, self.flags, ResolutionCode::Forgotten.number(), id, &[]);
            return Ok(Taken::Nothing);
        }
        if self.planted.is(Bug::EvictedAnswer) && self.answer_bytes >= self.limits.answer_bytes_max {
            let oldest = self.window.iter_mut().find(|(_, entry)| matches!(entry, Entry::Answered(_)));
            if let Some(Entry::Answered(reply)) = oldest.map(|(id, _)| id).and_then(|id| self.window.remove(id)) {
                self.answer_bytes = self.answer_bytes.saturating_sub(reply.bytes());
            }
        }
        if let Some(code) = self.refusal(frame, span_max) {
            self.counters.refuse(code);
            let reply = Reply::Nack(code, Payload::EMPTY);
            put_reply(&mut self.out, self.flags, id, &reply);
            if !self.window.insert(id, Entry::Answered(reply), span_max) {
                // A refusal that cannot be kept could be contradicted by a repeat.
                return Err(Violation::Impossible("id beyond the window"));
            }
            return Ok(Taken::Nothing);
        }
        let remaining = Duration::from_millis(u64::from(frame.aux)).min(self.limits.deadline_max);
        let deadline = now.checked_add(remaining).unwrap_or(now);
        let bytes = frame.body.len();
        if !self.window.insert(id, Entry::Running(Running { deadline, bytes, cancel: None }), span_max) {
            return Err(Violation::Impossible("id beyond the window"));
        }
        if let Some((items, bytes)) = frame.tlvs.credit() {
            let queue_max = (self.limits.stream_items, self.limits.stream_bytes);
            self.streams
                .insert(id, Stream { out: StreamOut::new(id, self.flags, (items, bytes), queue_max), acked: false });
        }
        self.taken_last = self.taken_last.max(id);
        self.request_bytes = self.request_bytes.saturating_add(bytes);
        self.running = self.running.saturating_add(1);
        self.look_by(deadline);
        self.counters.taken = self.counters.taken.saturating_add(1);
        if self.planted.is(Bug::AckBeforeApply) {
            put_reply(&mut self.out, self.flags, id, &Reply::Ack(Payload::EMPTY));
        }
        let (method, version, tlvs, body) = (frame.method, frame.version, frame.tlvs, frame.body);
        Ok(Taken::Call(NewCall { id, method, version, deadline, tlvs, body }))
    }

    /// Why this request, which is no repeat, is not taken.
    fn refusal(&self, frame: &Frame<'_>, span_max: usize) -> Option<NackCode> {
        let opens_stream = frame.tlvs.credit().is_some();
        if self.draining {
            Some(NackCode::Draining)
        } else if frame.aux == 0 {
            Some(NackCode::Expired)
        } else if self.mismatched.contains(&(frame.method, frame.version)) {
            Some(NackCode::SchemaMismatch)
        } else if self.running >= self.running_max(span_max)
            || self.answer_bytes >= self.limits.answer_bytes_max
            || self.request_bytes >= self.limits.request_bytes_max
            || (opens_stream && self.streams.len() >= self.limits.streams_max)
            // The connecting side never stops reading, or both could; so it must not take up what it cannot answer.
            || (self.flags != 0 && self.out.len() >= self.limits.answer_bytes_max)
        {
            Some(NackCode::Overloaded)
        } else {
            None
        }
    }

    /// How many ids the window may cover if it is to hold `id`.
    fn span_max(&self, id: u64) -> usize {
        let first = self.first_floor.is_some_and(|floor| id < floor.saturating_add(u64::from(FIRST_IDS_MAX)));
        let window = if first { self.limits.window.max(FIRST_IDS_MAX) } else { self.limits.window };
        usize::try_from(window).unwrap_or(usize::MAX)
    }

    /// How many handlers run at once: a client that parks its oldest calls goes on.
    fn running_max(&self, span_max: usize) -> usize {
        let window = usize::try_from(self.limits.window).unwrap_or(usize::MAX);
        span_max.max(window.saturating_add(self.limits.parked_max.max(PARKED_IDS)))
    }

    fn raise_floor(&mut self, now: Instant, frame: &Frame<'_>) -> Result<(), Violation> {
        if matches!(frame.kind, Kind::Request | Kind::Void) && (frame.id == 0 || frame.floor > frame.id) {
            return Err(Violation::Impossible("floor above the request"));
        }
        let (window, mut gone) =
            (&mut self.window, Gone { answer_bytes: &mut self.answer_bytes, unheld: &mut self.unheld });
        self.first_floor.get_or_insert(frame.floor);
        window.raise(frame.floor, |id, entry| gone.take(id, entry));
        self.look_if_slack(now);
        Ok(())
    }

    fn cancel(&mut self, id: u64) {
        self.stop(id, FailedCode::Aborted);
        self.close_stream(id);
    }

    fn resolve(&mut self, id: u64) {
        let below_floor = id < self.window.floor();
        let entry = self.window.get(id);
        put_resolution(&mut self.out, self.flags, id, entry, below_floor);
        if self.planted.is(Bug::ResolveWithoutRefusal) {
            return;
        }
        if entry.is_none() && !below_floor {
            // From now on it is refused, even if it is still on its way behind this very frame.
            let span_max = self.span_max(id);
            self.window.insert(id, Entry::Burnt, span_max);
        }
    }

    fn park(&mut self, now: Instant, frame: &Frame<'_>) -> Result<(), Violation> {
        let parked_max = self.limits.parked_max.max(PARKED_IDS);
        let keep: Vec<u64> =
            parse_ids(frame.body).ok_or(Violation::Malformed("Park"))?.take(parked_max.saturating_add(1)).collect();
        if keep.len() > parked_max {
            return Err(Violation::Impossible("number of parked ids"));
        }
        let (window, mut gone) =
            (&mut self.window, Gone { answer_bytes: &mut self.answer_bytes, unheld: &mut self.unheld });
        window.park(&keep, || Entry::Burnt, |id, entry| gone.take(id, entry));
        // Now every id that the client may resolve fits the window, so that it can be burnt; and no id that has just
        // been let go lies at or above the floor, where a repeat of it would be taken as new.
        window.raise(frame.id, |id, entry| gone.take(id, entry));
        self.look_if_slack(now);
        Ok(())
    }
}

/// What becomes of entries that the client no longer holds.
struct Gone<'a> {
    answer_bytes: &'a mut usize,
    unheld: &'a mut Vec<(u64, Running)>,
}

impl Gone<'_> {
    fn take(&mut self, id: u64, entry: Entry) {
        match entry {
            Entry::Answered(reply) => *self.answer_bytes = self.answer_bytes.saturating_sub(reply.bytes()),
            // To give a doubt up is no cancel.
            Entry::Running(running) => self.unheld.push((id, running)),
            Entry::Burnt => {}
        }
    }
}
