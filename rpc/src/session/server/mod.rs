//! The server's half of a lane: which ids it took, what it answered, and what it has yet to write.
//!
//! Pure state. Never takes a request of an epoch that a newer one has ended; never evicts an answer to make room:
//! what does not fit is refused. Every call that it hands out gets exactly one [`answer`](ServerLane::answer).
//!
//! Driven by `io::server`; outlives its connections. What the driver and the handlers call is here; `receive` has
//! what the client says. Longer than most files: its struct has a score of fields that every method may touch, and halves of
//! it would have to show each other all of them.

mod receive;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

pub use self::receive::{NewCall, Taken};
use super::client::{put_frame, put_frame_with};
use super::payload::Payload;
use super::planted::{Bug, Planted};
use super::stream_out::StreamOut;
pub use super::stream_out::{Pushed, Slow};
use super::window::{Window, is_slack};
use crate::id::{Incarnation, PeerId};
use crate::limits::{
    BULK_BYTES, LARGE_BODY_BYTES, LARGE_FRAME_BYTES, LIST_KEPT, Limits, RELAX_AFTER, TICK, WAKERS_KEPT,
};
use crate::wire::body;
use crate::wire::frame::{self, Oversized};
use crate::wire::header::{
    self, EndCode, FailedCode, Gap, GoodbyeCode, Kind, LOSSY, NackCode, REVERSE, ResolutionCode,
};
use crate::wire::hello::Welcome;
use crate::wire::outgoing::{self, Frames, Outgoing};

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Applied.
    Ack(Payload),
    /// Not applied: rejected by the handler, or never shown to one.
    Nack(NackCode, Payload),
    /// In doubt.
    Failed(FailedCode),
}

/// What became of the requests that a server was sent: taken, repeated, refused and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// Requests handed to a handler.
    pub taken: u64,
    /// Repeats answered from memory, or attached to the running handler.
    pub repeats: u64,
    /// Requests refused before a handler saw them.
    pub refused: u64,
    /// Why.
    pub refusals: Refusals,
    /// Answers that came after their request had been given up.
    pub late_answers: u64,
    /// Requests whose trace context could not be read, in whole or in part; they were served all the same.
    pub bad_traces: u64,
}

/// Why requests were refused before a handler saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// There was too much to do.
    pub overloaded: u64,
    /// The server was draining.
    pub draining: u64,
    /// The deadline had passed.
    pub expired: u64,
    /// The method has another schema here.
    pub schema_mismatch: u64,
    /// Anything else.
    pub other: u64,
}

impl Refusals {
    fn plus(self, other: Self) -> Self {
        Self {
            overloaded: self.overloaded.saturating_add(other.overloaded),
            draining: self.draining.saturating_add(other.draining),
            expired: self.expired.saturating_add(other.expired),
            schema_mismatch: self.schema_mismatch.saturating_add(other.schema_mismatch),
            other: self.other.saturating_add(other.other),
        }
    }
}

impl ServerCounters {
    fn refuse(&mut self, code: NackCode) {
        self.refused = self.refused.saturating_add(1);
        let reason = match code {
            NackCode::Overloaded => &mut self.refusals.overloaded,
            NackCode::Draining => &mut self.refusals.draining,
            NackCode::Expired => &mut self.refusals.expired,
            NackCode::SchemaMismatch => &mut self.refusals.schema_mismatch,
            _ => &mut self.refusals.other,
        };
        *reason = reason.saturating_add(1);
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            taken: self.taken.saturating_add(other.taken),
            repeats: self.repeats.saturating_add(other.repeats),
            refused: self.refused.saturating_add(other.refused),
            refusals: self.refusals.plus(other.refusals),
            late_answers: self.late_answers.saturating_add(other.late_answers),
            bad_traces: self.bad_traces.saturating_add(other.bad_traces),
        }
    }
}

/// What a lane holds, for tests that bound it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Ids with an entry, parked ones included.
    pub ids: usize,
    /// Bytes of kept answers.
    pub answer_bytes: usize,
    /// Bytes queued for the present connection.
    pub out_bytes: usize,
    /// Open streams.
    pub streams: usize,
    /// Handlers whose ids are no longer held.
    pub unheld: usize,
}

/// The server's half of a lane.
#[derive(Debug)]
pub struct ServerLane {
    /// Shared by all lanes of a server.
    limits: Arc<Limits>,
    /// On every frame of this lane.
    flags: u8,
    /// The epoch whose Hello made this memory.
    born: u64,
    epoch: u64,
    attached: bool,
    detached_at: Option<Instant>,
    /// The client has said that it holds nothing of this lane any longer.
    done: bool,
    window: Window<Entry>,
    /// The floor of the first frame that had one. A client that knows no window yet counts from there.
    first_floor: Option<u64>,
    window_ids_max: u32,
    frame_bytes_max: usize,
    mismatched: Vec<(u16, u16)>,
    /// The highest id ever taken in this memory.
    taken_last: u64,
    received_told: u64,
    /// The highest id for which a handler has begun, and what the present connection was told of it.
    started_last: u64,
    started_told: u64,
    running: usize,
    /// Handlers whose ids the client no longer holds. Nobody waits for their answers, but they too run to their end, a
    /// Cancel or their deadline.
    unheld: Vec<(u64, Running)>,
    answer_bytes: usize,
    /// Bodies of the requests whose handlers have not ended.
    request_bytes: usize,
    /// Answers and control frames of the present connection.
    out: Outgoing,
    /// The last ping that has no answer yet, by its nonce. One is enough: who asks wants to hear that we are there.
    pong: Option<u64>,
    streams: BTreeMap<u64, Stream>,
    /// The stream that wrote last; the next one goes first.
    last_stream: u64,
    draining: bool,
    earliest: Option<Instant>,
    wakers: Vec<Waker>,
    counters: ServerCounters,
    planted: Planted,
}

#[derive(Debug)]
struct Stream {
    out: StreamOut,
    /// Items wait until the ack of the request that opens the stream is queued.
    acked: bool,
}

#[derive(Debug)]
enum Entry {
    Running(Running),
    Answered(Reply),
    /// Resolved as never seen: refused for good.
    Burnt,
}

#[derive(Debug)]
struct Running {
    deadline: Instant,
    /// Of its request's body.
    bytes: usize,
    /// Wakes the handler to be stopped.
    cancel: Option<Waker>,
}

impl ServerLane {
    /// A lane whose first Hello carries `epoch`. It must be [`attach`](Self::attach)ed.
    pub fn new(limits: impl Into<Arc<Limits>>, epoch: u64) -> Self {
        let limits = limits.into();
        Self {
            born: epoch,
            epoch: 0,
            attached: false,
            detached_at: None,
            done: false,
            window: Window::new(1),
            first_floor: None,
            window_ids_max: limits.window,
            frame_bytes_max: limits.frame_bytes_max,
            mismatched: Vec::new(),
            taken_last: 0,
            received_told: 0,
            started_last: 0,
            started_told: 0,
            running: 0,
            unheld: Vec::new(),
            answer_bytes: 0,
            request_bytes: 0,
            out: Outgoing::default(),
            pong: None,
            streams: BTreeMap::new(),
            last_stream: 0,
            draining: false,
            earliest: None,
            wakers: Vec::new(),
            counters: ServerCounters::default(),
            planted: Planted::default(),
            flags: 0,
            limits,
        }
    }

    /// The half of a lane on which the accepting side calls, kept by the connecting side for as long as the other's
    /// memory lives. It must be [`attach_reverse`](Self::attach_reverse)d.
    pub fn reverse(limits: impl Into<Arc<Limits>>) -> Self {
        Self { flags: REVERSE, ..Self::new(limits, 0) }
    }

    /// Plants a bug.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// Accepts a connection: intake from every lower epoch has ended when this returns, and Welcome is the first
    /// frame to be written. `None`: the epoch is not newer than the one accepted.
    pub fn attach(
        &mut self,
        epoch: u64,
        window: u32,
        frame_bytes_max: u32,
        server: (PeerId, Incarnation),
    ) -> Option<()> {
        self.take_over(epoch, window, frame_bytes_max)?;
        let welcome = Welcome {
            wire: crate::limits::WIRE_VERSION,
            born: self.born,
            peer: server.0,
            incarnation: server.1,
            frame_bytes_max: u32::try_from(self.limits.frame_bytes_max).unwrap_or(u32::MAX),
            window: self.limits.window,
        };
        let appended = frame::append(self.out.small(), usize::MAX, |out| {
            welcome.put(out);
            Ok::<(), Oversized>(())
        });
        debug_assert!(appended.is_ok(), "a Welcome fits a u32");
        self.say_draining();
        Some(())
    }

    /// The accepting side has sent Welcome on the connection of `epoch`, whose number is ours.
    pub fn attach_reverse(&mut self, epoch: u64, window: u32, frame_bytes_max: u32) {
        if self.take_over(epoch, window, frame_bytes_max).is_some() {
            self.say_draining();
        }
    }

    fn take_over(&mut self, epoch: u64, window: u32, frame_bytes_max: u32) -> Option<()> {
        if epoch <= self.epoch {
            return None;
        }
        self.drop_connection();
        self.epoch = epoch;
        self.attached = true;
        self.detached_at = None;
        self.done = false;
        self.window_ids_max = self.limits.window.min(window.max(1));
        self.frame_bytes_max = self.limits.frame_bytes_max.min(usize::try_from(frame_bytes_max).unwrap_or(usize::MAX));
        // Said again with the answers to the first Resolves.
        (self.received_told, self.started_told) = (0, 0);
        Some(())
    }

    fn say_draining(&mut self) {
        if self.draining && self.attached {
            let less = u64::from(self.planted.is(Bug::DrainNamesTooLow));
            put_frame_with(&mut self.out, Kind::Drain, self.flags, 0, self.taken_last.saturating_sub(less), &[]);
        }
    }

    /// Methods whose schema differs between the two sides: refused one by one.
    pub fn set_mismatched(&mut self, mismatched: Vec<(u16, u16)>) {
        self.mismatched = mismatched;
    }

    /// The connection of `epoch` is gone. Handlers run on; streams end.
    pub fn detach(&mut self, epoch: u64, now: Instant) {
        if self.is_attached(epoch) {
            self.drop_connection();
            if self.planted.is(Bug::CancelOnLoss) {
                let ids: Vec<u64> = self.window.iter_mut().map(|(id, _)| id).collect();
                ids.into_iter().for_each(|id| self.stop(id, FailedCode::Aborted));
            }
            self.attached = false;
            self.detached_at = Some(now);
            // Nothing comes any more, and nobody looks after a lane that has nothing running.
            self.window.shrink();
            self.unheld.shrink_to(LIST_KEPT);
        }
    }

    /// Whether `epoch` is the lane's present connection.
    pub fn is_attached(&self, epoch: u64) -> bool {
        self.attached && self.epoch == epoch
    }

    /// Whether the lane has a connection.
    pub fn is_connected(&self) -> bool {
        self.attached
    }

    /// When a lane without connection and without running handlers may be forgotten.
    pub fn expires_at(&self) -> Option<Instant> {
        if self.attached || self.running > 0 {
            return None;
        }
        // INVARIANT: not before every older Hello of this lane would be refused by the clock. With epoch 1 there is none;
        // else each of them was accepted before this connection was.
        let keep = match (self.done, self.epoch) {
            (false, _) => self.limits.lane_retention.max(self.limits.handshake_timeout),
            (true, 1) => Duration::ZERO,
            (true, _) => self.limits.handshake_timeout,
        };
        self.detached_at.and_then(|at| at.checked_add(keep))
    }

    /// A handler's answer, or that it was stopped. Called exactly once for each [`NewCall`]; gives its permit back.
    pub fn answer(&mut self, id: u64, reply: Reply) {
        self.running = self.running.saturating_sub(1);
        let reply = self.fitting(reply);
        match &mut self.stream_of(id, &reply) {
            Some(stream) => stream.acked = true,
            None => self.close_stream(id),
        }
        let Some(entry @ Entry::Running(_)) = self.window.get_mut(id) else {
            // Given up by the client, cancelled or expired: it has its answer.
            if self.planted.is(Bug::PermitLeaked) {
                self.running = self.running.saturating_add(1);
            }
            if self.planted.is(Bug::DoubleSettle) && self.attached && self.window.get(id).is_some() {
                put_reply(&mut self.out, self.flags, id, &reply);
            }
            if let Some(at) = self.unheld.iter().position(|(unheld, _)| *unheld == id) {
                let (_, running) = self.unheld.swap_remove(at);
                self.request_bytes = self.request_bytes.saturating_sub(running.bytes);
                // Without a connection, and with its last handler gone, nobody would look again.
                if !self.attached && is_slack(self.unheld.len(), self.unheld.capacity()) {
                    self.unheld.shrink_to(LIST_KEPT);
                }
            }
            self.counters.late_answers = self.counters.late_answers.saturating_add(1);
            return;
        };
        if self.attached {
            put_reply(&mut self.out, self.flags, id, &reply);
        }
        self.answer_bytes = self.answer_bytes.saturating_add(reply.bytes());
        if let Entry::Running(running) = std::mem::replace(entry, Entry::Answered(reply)) {
            self.request_bytes = self.request_bytes.saturating_sub(running.bytes);
        }
    }

    /// The handler of `id` has begun. Handlers of a lane begin in the order of their ids, so all below it have, too. Told
    /// with what is written next; nothing is written for it alone.
    pub fn started(&mut self, id: u64) {
        self.started_last = self.started_last.max(id.min(self.taken_last));
    }

    /// Whether the handler of `id` should go on.
    pub fn is_running(&self, id: u64) -> bool {
        matches!(self.window.get(id), Some(Entry::Running(_))) || self.unheld.iter().any(|(unheld, _)| *unheld == id)
    }

    /// Wakes `waker` when the handler of `id` is to stop.
    pub fn on_cancel(&mut self, id: u64, waker: &Waker) {
        let unheld = self.unheld.iter_mut().find(|(unheld, _)| *unheld == id).map(|(_, running)| running);
        match (self.window.get_mut(id), unheld) {
            (Some(Entry::Running(running)), _) | (_, Some(running)) => running.cancel = Some(waker.clone()),
            _ => self.wakers.push(waker.clone()),
        }
    }

    /// Handlers that have not ended.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Bytes that this lane holds for its calls: bodies of running requests, kept answers, what is to be written, items of
    /// streams, and what is remembered of each id, with the room that is kept for more.
    pub fn held_bytes(&self) -> usize {
        let unheld = self.unheld.capacity().saturating_mul(size_of::<(u64, Running)>());
        let wakers = self.wakers.capacity().saturating_mul(size_of::<Waker>());
        let entries = self.window.held_bytes().saturating_add(unheld).saturating_add(wakers);
        let items = self.streams.values().map(|stream| stream.out.held_bytes());
        let calls = [self.request_bytes, self.answer_bytes, self.out.len(), entries];
        calls.into_iter().chain(items).fold(0, usize::saturating_add)
    }

    /// What this lane holds in memory.
    #[cfg(feature = "testing")]
    pub fn remembered(&self) -> Remembered {
        Remembered {
            ids: self.window.iter().count(),
            answer_bytes: self.answer_bytes,
            out_bytes: self.out.len(),
            streams: self.streams.len(),
            unheld: self.unheld.len(),
        }
    }

    /// The next time at which [`handle_timeout`](Self::handle_timeout) has something to do. It may be early.
    pub fn poll_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Stops every handler whose deadline has passed and answers in its place. Gives memory back that is not needed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return;
        }
        let mut due = Vec::new();
        let mut earliest: Option<Instant> = None;
        for (id, entry) in self.window.iter_mut() {
            let Entry::Running(Running { deadline, .. }) = entry else { continue };
            if *deadline <= now {
                due.push(id);
            } else {
                earliest = Some(earliest.map_or(*deadline, |e| e.min(*deadline)));
            }
        }
        for (id, Running { deadline, .. }) in &self.unheld {
            if *deadline <= now {
                due.push(*id);
            } else {
                earliest = Some(earliest.map_or(*deadline, |e| e.min(*deadline)));
            }
        }
        self.earliest = earliest.map(|e| e.max(now.checked_add(TICK).unwrap_or(e)));
        if self.planted.is(Bug::LostHandlerTimer) {
            self.earliest = None;
        }
        for id in due {
            self.stop(id, FailedCode::Deadline);
        }
        self.relax(now);
    }

    /// Gives back what a burst needed and nothing needs any more.
    fn relax(&mut self, now: Instant) {
        if self.window.relax() {
            self.look_by(now.checked_add(RELAX_AFTER).unwrap_or(now));
        }
        if is_slack(self.unheld.len(), self.unheld.capacity()) {
            self.unheld.shrink_to(LIST_KEPT);
        }
        self.wakers.shrink_to(WAKERS_KEPT);
    }

    /// Looks soon whether memory that is not used now is needed at all.
    fn look_if_slack(&mut self, now: Instant) {
        if self.window.is_slack() {
            self.look_by(now.checked_add(RELAX_AFTER).unwrap_or(now));
        }
    }

    fn look_by(&mut self, at: Instant) {
        self.earliest = Some(self.earliest.map_or(at, |earliest| earliest.min(at)));
    }

    /// Asks the client whether it is there.
    pub fn ping(&mut self) {
        if self.attached {
            let appended = frame::append(self.out.small(), usize::MAX, |out| {
                header::put_ping(out, 0, 0);
                Ok::<(), Oversized>(())
            });
            debug_assert!(appended.is_ok(), "a ping fits a u32");
        }
    }

    /// Whether handlers run or streams are open.
    pub fn has_open(&self) -> bool {
        self.running > 0 || !self.streams.is_empty()
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) has anything.
    pub fn wants_transmit(&self, epoch: u64) -> bool {
        self.is_attached(epoch) && self.has_frames()
    }

    /// Hands what is to be written to the writer: all answers and control frames, then a bounded share of stream
    /// items.
    pub fn poll_transmit(&mut self, epoch: u64, into: &mut BytesMut) -> bool {
        let mut frames = Outgoing::default();
        let any = self.poll_frames(epoch, &mut frames);
        frames.flatten_into(into);
        any
    }

    /// Like [`poll_transmit`](Self::poll_transmit), behind what is there, and without copying large bodies.
    pub fn poll_frames(&mut self, epoch: u64, into: &mut Outgoing) -> bool {
        if !self.wants_transmit(epoch) {
            return false;
        }
        if let Some(nonce) = self.pong.take() {
            put_frame_with(&mut self.out, Kind::Pong, self.flags, 0, nonce, &[]);
        }
        let news = self.taken_last > self.received_told || self.started_last > self.started_told;
        if news && self.running > 0 && !self.out.is_empty() {
            let started = self.started_last.to_le_bytes();
            let body: &[u8] = if self.started_last > 0 { &started } else { &[] };
            put_frame_with(&mut self.out, Kind::Received, self.flags, 0, self.taken_last, body);
            (self.received_told, self.started_told) = (self.taken_last, self.started_last);
        }
        into.append(&mut self.out);
        self.transmit_items(into);
        true
    }

    /// Bytes of answers that the kernel has not taken; above a bound the driver takes up no further request.
    pub fn queued_bytes(&self) -> usize {
        self.out.len()
    }

    /// Takes no further request: says so with the last id taken, and ends the streams.
    pub fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.say_draining();
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            self.end_stream(id, EndCode::Aborted);
        }
    }

    /// Whether every handler has ended and everything has been handed to the writer.
    pub fn is_drained(&self) -> bool {
        self.running == 0 && (!self.attached || !self.has_frames())
    }

    /// The last frame of this connection.
    pub fn goodbye(&mut self, code: GoodbyeCode) {
        if self.attached {
            put_frame(&mut self.out, Kind::Goodbye, code.number(), self.taken_last, &[]);
        }
    }

    /// Room for one more lossless item of the stream `id`? `Err`: nobody can be given it.
    pub fn poll_stream_ready(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Result<(), StreamGone>> {
        match self.streams.get_mut(&id) {
            Some(_) if self.planted.is(Bug::ItemWithoutCredit) => Poll::Ready(Ok(())),
            Some(stream) if !stream.out.is_over() => stream.out.poll_ready(cx).map(Ok),
            _ => Poll::Ready(Err(StreamGone)),
        }
    }

    /// Queues an item: a whole frame made by [`item_frame`](Self::item_frame). A stream that closes because its reader
    /// is too slow ends here.
    pub fn push_item(&mut self, id: u64, frame: Bytes, body_bytes: usize, lossy: bool) -> Result<Pushed, StreamGone> {
        let stream = self.streams.get_mut(&id).ok_or(StreamGone)?;
        if self.planted.is(Bug::ItemLost) && stream.out.cursor() == 2 {
            return Ok(Pushed::Queued);
        }
        let over = stream.out.is_over();
        if self.planted.is(Bug::ItemWithoutCredit) {
            stream.out.grant(1, u32::try_from(body_bytes).unwrap_or(u32::MAX));
        }
        let pushed = stream.out.push(frame, body_bytes, lossy);
        match pushed {
            Pushed::Closed if over => return Err(StreamGone),
            Pushed::Closed => self.end_stream(id, EndCode::TooSlow),
            Pushed::Queued | Pushed::Dropped => {}
        }
        Ok(pushed)
    }

    /// What [`item_frame`](Self::item_frame) must know of this lane: the flags of its frames, and the largest size.
    pub fn item_format(&self) -> (u8, usize) {
        (self.flags, self.frame_bytes_max)
    }

    /// What happens when the reader of the stream `id` does not keep up.
    pub fn set_slow(&mut self, id: u64, policy: Slow) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.out.set_policy(policy);
        }
    }

    /// Items of the stream `id` so far, dropped ones included, and those dropped; `None` once it is gone.
    pub fn stream_position(&self, id: u64) -> Option<(u64, Gap)> {
        self.streams.get(&id).map(|stream| (stream.out.cursor(), stream.out.missed()))
    }

    /// An item as a frame; `put` appends its bytes.
    ///
    /// # Errors
    /// What `put` fails with; or the frame is larger than both sides agreed on.
    pub fn item_frame<E: From<Oversized>>(
        id: u64,
        lossy: bool,
        (flags, frame_bytes_max): (u8, usize),
        put: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        let mut out = outgoing::spare();
        let framed = frame::append(&mut out, frame_bytes_max, |out| {
            header::put_common(out, Kind::Item, flags | if lossy { LOSSY } else { 0 }, 0, id);
            put(out)
        });
        if out.capacity() < LARGE_FRAME_BYTES {
            return framed.map(|()| out.freeze());
        }
        let framed = framed.map(|()| body::keep_encoded(&mut out));
        outgoing::keep_spare(out);
        framed
    }

    /// The producer of the stream `id` is done.
    pub fn end_stream(&mut self, id: u64, code: EndCode) {
        let mut out = BytesMut::new();
        put_frame_with(&mut out, Kind::End, self.flags, code.number(), id, &[]);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.out.end(out.freeze());
            self.wakers.extend(stream.out.waker());
        }
    }

    /// The largest frame that both sides accept, in bytes.
    pub fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    /// Tasks to wake. Call it before unlocking, wake after.
    pub fn take_wakers(&mut self, into: &mut Vec<Waker>) {
        into.append(&mut self.wakers);
        if !self.attached {
            // Nobody looks after a lane without a connection.
            self.wakers.shrink_to(WAKERS_KEPT);
        }
    }

    /// A request came with a trace context that cannot be read.
    pub fn ignored_trace(&mut self) {
        self.counters.bad_traces = self.counters.bad_traces.saturating_add(1);
    }

    /// What this lane has seen.
    pub fn counters(&self) -> ServerCounters {
        self.counters
    }

    /// Stops the handler of `id` and answers in its place.
    fn stop(&mut self, id: u64, code: FailedCode) {
        if let Some(at) = self.unheld.iter().position(|(unheld, _)| *unheld == id) {
            let (_, running) = self.unheld.swap_remove(at);
            self.request_bytes = self.request_bytes.saturating_sub(running.bytes);
            self.wakers.extend(running.cancel);
            self.close_stream(id);
        }
        let Some(entry @ Entry::Running(_)) = self.window.get_mut(id) else { return };
        if let Entry::Running(running) = std::mem::replace(entry, Entry::Answered(Reply::Failed(code))) {
            self.request_bytes = self.request_bytes.saturating_sub(running.bytes);
            self.wakers.extend(running.cancel);
        }
        if self.attached {
            put_reply(&mut self.out, self.flags, id, &Reply::Failed(code));
        }
        self.close_stream(id);
    }

    fn stream_of(&mut self, id: u64, reply: &Reply) -> Option<&mut Stream> {
        match reply {
            Reply::Ack(_) => self.streams.get_mut(&id),
            Reply::Nack(..) | Reply::Failed(_) => None,
        }
    }

    fn close_stream(&mut self, id: u64) {
        if let Some(mut stream) = self.streams.remove(&id) {
            self.wakers.extend(stream.out.waker());
        }
    }

    /// An answer that does not fit a frame is no answer: the caller learns that the outcome is in doubt, and why.
    fn fitting(&self, reply: Reply) -> Reply {
        let bytes = reply.bytes().saturating_add(header::COMMON_BYTES).saturating_add(4);
        if bytes <= self.frame_bytes_max {
            return reply;
        }
        match reply {
            // What was refused stays refused; only its text is lost.
            Reply::Nack(code, _) if code != NackCode::Rejected => Reply::Nack(code, Payload::EMPTY),
            _ => Reply::Failed(FailedCode::AnswerTooLarge),
        }
    }

    fn has_frames(&self) -> bool {
        !self.out.is_empty() || self.pong.is_some() || self.streams.values().any(Stream::is_ready)
    }

    /// What waits for the connection of `epoch` cannot be written any more. Answers are kept all the same.
    pub fn discard(&mut self, epoch: u64) {
        if self.is_attached(epoch) {
            self.out.clear();
            self.pong = None;
        }
    }

    fn drop_connection(&mut self) {
        self.out.clear();
        self.pong = None;
        for (_, mut stream) in std::mem::take(&mut self.streams) {
            self.wakers.extend(stream.out.waker());
        }
    }

    /// Items of all ready streams in turn, whole frames, up to a bound.
    fn transmit_items(&mut self, into: &mut Outgoing) {
        let bound = into.len().saturating_add(BULK_BYTES);
        loop {
            let after = self.last_stream.saturating_add(1);
            let next = self.streams.range(after..).chain(self.streams.range(..after)).find(|(_, s)| s.is_ready());
            let Some(id) = next.map(|(id, _)| *id) else { return };
            self.last_stream = id;
            let Some(stream) = self.streams.get_mut(&id) else { return };
            match stream.out.next_frame() {
                Some(frame) if frame.len() >= LARGE_BODY_BYTES => into.push_whole(frame),
                Some(frame) => into.small().extend_from_slice(&frame),
                None => {}
            }
            self.wakers.extend(stream.out.ready_waker());
            if stream.out.is_done() {
                self.streams.remove(&id);
            }
            if into.len() >= bound {
                return;
            }
        }
    }
}

impl Stream {
    fn is_ready(&self) -> bool {
        self.acked && self.out.has_frames()
    }
}

impl Reply {
    /// Bytes that keeping it costs beyond its entry.
    fn bytes(&self) -> usize {
        match self {
            Self::Ack(payload) | Self::Nack(_, payload) => payload.as_slice().len(),
            Self::Failed(_) => 0,
        }
    }
}

/// The reader of a stream has gone, or its connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamGone;

fn put_reply(out: &mut Outgoing, flags: u8, id: u64, reply: &Reply) {
    match reply {
        Reply::Ack(Payload::Shared(body)) if body.len() >= LARGE_BODY_BYTES => {
            let header = |out: &mut BytesMut| header::put_common(out, Kind::Ack, flags, 0, id);
            let appended = out.append_large(usize::MAX, header, body.clone());
            debug_assert!(appended.is_ok(), "an ack that was kept fits a frame");
        }
        Reply::Ack(payload) => put_frame_with(out, Kind::Ack, flags, 0, id, payload.as_slice()),
        Reply::Nack(code, payload) => put_frame_with(out, Kind::Nack, flags, code.number(), id, payload.as_slice()),
        Reply::Failed(code) => put_frame_with(out, Kind::Failed, flags, code.number(), id, &[]),
    }
}

fn put_resolution(out: &mut Outgoing, flags: u8, id: u64, entry: Option<&Entry>, below_floor: bool) {
    if let Some(Entry::Answered(Reply::Ack(Payload::Shared(ack)))) = entry
        && ack.len() >= LARGE_BODY_BYTES
    {
        let applied = ResolutionCode::Applied.number();
        let header = |out: &mut BytesMut| header::put_common(out, Kind::Resolution, flags, applied, id);
        let appended = out.append_large(usize::MAX, header, ack.clone());
        debug_assert!(appended.is_ok(), "an ack that was kept fits a frame");
        return;
    }
    let mut body = BytesMut::new();
    let code = match entry {
        Some(Entry::Answered(Reply::Ack(payload))) => {
            body.extend_from_slice(payload.as_slice());
            ResolutionCode::Applied
        }
        Some(Entry::Answered(Reply::Nack(code, payload))) => {
            body.extend_from_slice(&code.number().to_le_bytes());
            body.extend_from_slice(payload.as_slice());
            ResolutionCode::Nacked
        }
        Some(Entry::Answered(Reply::Failed(code))) => {
            body.extend_from_slice(&code.number().to_le_bytes());
            ResolutionCode::Failed
        }
        Some(Entry::Running(_)) => ResolutionCode::Running,
        None if below_floor => ResolutionCode::Forgotten,
        Some(Entry::Burnt) | None => ResolutionCode::NeverSeen,
    };
    put_frame_with(out, Kind::Resolution, flags, code.number(), id, &body);
}
