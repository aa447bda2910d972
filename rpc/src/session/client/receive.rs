//! What the server says.
//!
//! Late answers, cancel races and unknown ids are normal: counted, never an error. Only a frame that no server may
//! send ends the connection.
//!
//! Called by `io::client` for each frame.

use std::time::Duration;

use super::{ClientLane, Link, Outcome, Payload, State, StreamEnd};
use crate::id::{Incarnation, PeerId};
use crate::limits::REASON_BYTES_MAX;
use crate::outcome::{Cause, NotDelivered, Refusal, Stage};
use crate::session::Violation;
use crate::session::planted::Bug;
use crate::wire::header::{
    self, EndCode, FailedCode, Frame, Gap, GoodbyeCode, Kind, LOSSY, NackCode, REVERSE, ResolutionCode, split_u32,
    split_u64,
};
use crate::wire::hello::Welcome;

/// The memory that the server has of this lane, and what it allows there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Who the server is, and which life.
    pub server: (PeerId, Incarnation),
    /// The epoch whose Hello made that memory.
    pub born: u64,
    /// How many ids the server keeps open.
    pub window: u32,
    /// The largest frame that it accepts, in bytes.
    pub frame_bytes_max: u32,
}

/// What the driver does after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read on.
    Continue,
    /// The connection is accepted, see [`memory`](ClientLane::memory): a lane in the other direction belongs to it. Read on.
    Welcomed,
    /// The server has said goodbye: close the connection.
    Close,
}

impl ClientLane {
    /// Takes one frame.
    ///
    /// # Errors
    /// [`Violation`]: the connection must be closed.
    pub fn handle_frame(&mut self, bytes: &[u8]) -> Result<Next, Violation> {
        let Some(frame) = header::parse(bytes)? else { return Ok(Next::Continue) };
        if frame.flags & REVERSE != self.flags {
            return Err(Violation::Unexpected("of the other direction"));
        }
        match frame.kind {
            Kind::Welcome | Kind::Goodbye if self.flags != 0 => {
                return Err(Violation::Unexpected("of a connection, in a lane of the other direction"));
            }
            Kind::Welcome => {
                self.welcome(&Welcome::parse(frame.body)?)?;
                return Ok(Next::Welcomed);
            }
            Kind::Goodbye => {
                self.goodbye(GoodbyeCode::from_number(frame.aux), frame.id, frame.body);
                return Ok(Next::Close);
            }
            _ if matches!(self.link, Link::Opening { .. } | Link::Down) => {
                return Err(Violation::Unexpected("before Welcome"));
            }
            Kind::Ack => self.answered(frame.id, Outcome::Ack(Payload::copy(frame.body))),
            Kind::Nack => {
                let outcome = self.nack(frame.id, NackCode::from_number(frame.aux), frame.body);
                self.answered(frame.id, outcome);
            }
            Kind::Failed => {
                let outcome = self.failed(frame.id, FailedCode::from_number(frame.aux));
                self.answered(frame.id, outcome);
            }
            Kind::Resolution => self.resolution(&frame)?,
            Kind::Received => {
                let started = if frame.body.is_empty() {
                    0
                } else {
                    split_u64(frame.body).ok_or(Violation::Malformed("Received"))?
                };
                self.raise_progress(frame.id, started);
            }
            Kind::Item => {
                if let Some(stream) = self.streams.get_mut(&frame.id) {
                    if !stream.push(frame.body, frame.flags & LOSSY != 0) {
                        return Err(Violation::Impossible("item without credit"));
                    }
                    self.wakers.extend(stream.waker());
                }
            }
            Kind::Resync => {
                let (cursor, missed) = Gap::parse(frame.body).ok_or(Violation::Malformed("Resync"))?;
                if let Some(stream) = self.streams.get_mut(&frame.id) {
                    stream.resync(cursor, missed);
                    self.wakers.extend(stream.waker());
                }
            }
            Kind::End => self.end_stream(frame.id, StreamEnd::Ended(EndCode::from_number(frame.aux))),
            Kind::Ping => self.pong = Some(frame.id),
            Kind::Drain => self.drain(frame.id),
            Kind::Pong | Kind::Void => {}
            Kind::Hello | Kind::Request | Kind::Cancel | Kind::Resolve | Kind::Credit | Kind::Park => {
                return Err(Violation::Unexpected("a client's frame"));
            }
        }
        Ok(Next::Continue)
    }

    fn welcome(&mut self, welcome: &Welcome) -> Result<(), Violation> {
        if !matches!(self.link, Link::Opening { .. }) {
            return Err(Violation::Unexpected("Welcome"));
        }
        if welcome.born == 0 || welcome.born > self.epoch {
            return Err(Violation::Impossible("epoch of birth"));
        }
        self.link = Link::Up;
        let theirs = usize::try_from(welcome.frame_bytes_max).unwrap_or(usize::MAX);
        self.frame_bytes_max = self.limits.frame_bytes_max.min(theirs);
        let server = (welcome.peer, welcome.incarnation);
        let (window, frame_bytes_max) = (welcome.window, welcome.frame_bytes_max);
        self.welcomed = Some(Memory { server, born: welcome.born, window, frame_bytes_max });
        let restarted = self.server.replace(server).is_some_and(|known| known != server);
        let cause = if restarted { Cause::PeerRestarted } else { Cause::Forgotten };
        if self.born < welcome.born {
            if self.born > 0 {
                let dropped = if restarted { &mut self.counters.restarted } else { &mut self.counters.forgotten };
                *dropped = dropped.saturating_add(1);
            }
            (self.born, self.forgotten) = (welcome.born, cause);
        }
        if !self.planted.is(Bug::WrongIncarnation) {
            self.forget_before(welcome.born, cause);
        }
        self.allow(welcome.window);
        if self.epoch > 1 {
            // The list of parked ids may have been lost with the last connection; without it the floor of the next
            // request would close them. It goes before everything else.
            if !self.planted.is(Bug::ParkNotRepeated) {
                self.put_park();
            }
            self.resolve_in_doubt();
        }
        Ok(())
    }

    /// What the server of the present connection remembers; `None` before its Welcome.
    pub fn memory(&self) -> Option<Memory> {
        self.welcomed
    }

    /// Asks what became of every id that was written on an earlier connection.
    pub(super) fn resolve_in_doubt(&mut self) {
        let mut ids = Vec::new();
        for (id, entry) in self.window.iter_mut() {
            if matches!(entry.state, State::InDoubt) {
                ids.push(id);
            }
        }
        for id in ids {
            self.put_control(Kind::Resolve, 0, id, &[]);
        }
    }

    /// What was first written before this memory was born may have been applied in one that is gone: asking would
    /// bring *never seen* for something applied. Whether the lane was resumed is not enough to know, because the
    /// Welcome that said so may have been lost.
    fn forget_before(&mut self, born: u64, cause: Cause) {
        let mut ids = Vec::new();
        for (id, entry) in self.window.iter_mut() {
            if entry.epoch == 0 || entry.epoch >= born {
                continue;
            }
            match entry.state {
                State::InDoubt => ids.push((id, entry.stage)),
                State::Doubt(None) => entry.state = State::Lost(cause),
                State::Queued | State::Sent | State::Done(_) | State::Doubt(Some(_)) | State::Lost(_) => {}
            }
        }
        for (id, stage) in ids {
            self.finish(id, Outcome::Unknown(stage, cause));
        }
    }

    /// An answer to what was not asked yet is none: its frame would be sent all the same.
    fn answered(&mut self, id: u64, outcome: Outcome) {
        if self.window.get(id).is_some_and(|entry| matches!(entry.state, State::Queued)) {
            self.counters.late_answers = self.counters.late_answers.saturating_add(1);
        } else {
            if id < self.next_id && self.window.get(id).is_none() {
                // Its caller has gone while it was on its way.
                self.untold.add(id, &outcome);
            }
            self.finish(id, outcome);
        }
    }

    fn nack(&self, id: u64, code: NackCode, body: &[u8]) -> Outcome {
        let text = || String::from_utf8_lossy(body).into_owned();
        let (method, version) = (0, 0);
        Outcome::NotDelivered(match code {
            NackCode::Rejected => return Outcome::Rejected(Payload::copy(body)),
            // `client` knows which method it called and fills it in.
            NackCode::UnknownMethod => NotDelivered::UnknownMethod { method, version },
            NackCode::SchemaMismatch => NotDelivered::SchemaMismatch { method, version },
            NackCode::BadBody => NotDelivered::BadBody(text()),
            NackCode::Unauthorized => NotDelivered::Unauthorized(text()),
            NackCode::Overloaded => NotDelivered::Overloaded {
                retry_after: split_u32(body).map(|(ms, _)| Duration::from_millis(u64::from(ms))),
            },
            NackCode::WindowFull => NotDelivered::WindowFull { window: self.limits.window },
            NackCode::Draining => NotDelivered::Draining,
            NackCode::Expired => NotDelivered::Expired,
            NackCode::Burnt => NotDelivered::NeverSeen,
            NackCode::Unavailable => NotDelivered::Unavailable(text()),
            // A reason of a later version; it is the server's word all the same.
            NackCode::Other(code) => {
                NotDelivered::Unavailable(format!("reason {code}, unknown to this version (id {id})"))
            }
        })
    }

    fn failed(&self, id: u64, code: FailedCode) -> Outcome {
        let stage = self.stage(id).unwrap_or(Stage::Started).max(Stage::Started);
        let cause = match code {
            FailedCode::Panicked => Cause::HandlerPanicked,
            FailedCode::Dropped => Cause::ResponderDropped,
            FailedCode::Aborted | FailedCode::Other(_) => Cause::Aborted,
            FailedCode::Deadline => Cause::Deadline,
            FailedCode::AnswerTooLarge => Cause::AnswerTooLarge,
        };
        Outcome::Unknown(stage, cause)
    }

    fn resolution(&mut self, frame: &Frame<'_>) -> Result<(), Violation> {
        let id = frame.id;
        let malformed = Violation::Malformed("Resolution");
        let outcome = match ResolutionCode::from_number(frame.aux) {
            ResolutionCode::Applied => Outcome::Ack(Payload::copy(frame.body)),
            ResolutionCode::Nacked => {
                let (code, body) = split_u32(frame.body).ok_or(malformed)?;
                self.nack(id, NackCode::from_number(code), body)
            }
            ResolutionCode::Failed => {
                let (code, _) = split_u32(frame.body).ok_or(malformed)?;
                self.failed(id, FailedCode::from_number(code))
            }
            ResolutionCode::Running => {
                if let Some(entry) = self.window.get_mut(id)
                    && matches!(entry.state, State::InDoubt)
                {
                    entry.state = State::Sent;
                    // Whether a handler has begun is said by the Received that follows.
                    self.wakers.extend(entry.raise(Stage::Received));
                    // Its bytes are long written; what the next connection writes says nothing about it.
                    entry.end = 0;
                }
                return Ok(());
            }
            ResolutionCode::NeverSeen => Outcome::NotDelivered(NotDelivered::NeverSeen),
            ResolutionCode::Forgotten | ResolutionCode::Other(_) => {
                Outcome::Unknown(self.stage(id).unwrap_or(Stage::Written), Cause::Forgotten)
            }
        };
        self.counters.resolved = self.counters.resolved.saturating_add(1);
        self.answered(id, outcome);
        Ok(())
    }

    /// The server takes nothing above `last`: what we sent above it was not delivered, by its word.
    fn drain(&mut self, last: u64) {
        self.link = Link::Draining { last };
        self.not_taken_above(last, &NotDelivered::Draining);
    }

    fn goodbye(&mut self, code: GoodbyeCode, last: u64, reason: &[u8]) {
        self.farewell = Some(refusal(code));
        let why = match code {
            GoodbyeCode::Done | GoodbyeCode::Draining => NotDelivered::Draining,
            GoodbyeCode::Unauthorized if !reason.is_empty() => NotDelivered::Unauthorized(text(reason)),
            GoodbyeCode::Service | GoodbyeCode::WireVersion if !reason.is_empty() => {
                NotDelivered::Incompatible { refusal: refusal(code), said: text(reason) }
            }
            other => NotDelivered::Refused(refusal(other)),
        };
        self.not_taken_above(last, &why);
        if let Link::Opening { .. } = self.link {
            // Refused: what is still queued would be refused on the next connection too.
            let doubts = Cause::ConnectionLost;
            self.fail_open(&why, doubts);
        }
    }

    /// By the word of the peer's transport, none of what was written on this connection has been read: its own handshake
    /// has failed. Before [`disconnected`](Self::disconnected), and only where no Welcome has come.
    pub fn never_admitted(&mut self, why: &NotDelivered) {
        if let Link::Opening { .. } = self.link {
            self.not_taken_above(0, why);
            self.fail_open(why, Cause::ConnectionLost);
        }
    }

    /// Frames above `last` that were or will be sent on this epoch are not taken up; those of earlier epochs stay in
    /// doubt.
    fn not_taken_above(&mut self, last: u64, why: &NotDelivered) {
        let mut ids = Vec::new();
        let epoch = self.epoch;
        for (id, entry) in self.window.iter_mut() {
            let older_too = self.planted.is(Bug::DrainCoversOlderIds);
            let of_this_connection = entry.epoch == 0 || entry.epoch == epoch || older_too;
            let open = matches!(entry.state, State::Queued | State::Sent)
                || (older_too && matches!(entry.state, State::InDoubt));
            if id > last && of_this_connection && open {
                ids.push((id, matches!(entry.state, State::Queued)));
            }
        }
        for (id, queued) in ids {
            if queued {
                self.void(id);
            }
            self.finish(id, Outcome::NotDelivered(why.clone()));
            self.end_stream(id, StreamEnd::Lost);
        }
    }
}

/// The front of what a peer says.
fn text(reason: &[u8]) -> String {
    let reason = reason.get(..REASON_BYTES_MAX).unwrap_or(reason);
    String::from_utf8_lossy(reason).into_owned()
}

fn refusal(code: GoodbyeCode) -> Refusal {
    match code {
        GoodbyeCode::NotThisProtocol => Refusal::NotThisProtocol,
        GoodbyeCode::WireVersion => Refusal::WireVersion,
        GoodbyeCode::Service => Refusal::Service,
        GoodbyeCode::StaleEpoch => Refusal::StaleEpoch,
        GoodbyeCode::Unauthorized => Refusal::Unauthorized,
        GoodbyeCode::TooMany => Refusal::TooMany,
        GoodbyeCode::Done | GoodbyeCode::Draining => Refusal::Draining,
        GoodbyeCode::HandshakeTimeout => Refusal::HandshakeTimeout,
        GoodbyeCode::FrameTooLarge => Refusal::FrameTooLarge,
        GoodbyeCode::Violation => Refusal::Violation,
        GoodbyeCode::Stalled => Refusal::Stalled,
        GoodbyeCode::Other(code) => Refusal::Other(code),
    }
}
