//! The server's driver: one task a connection, which reads, polls handlers in place, and writes their answers.
//!
//! Takes all frames of one read under one lock, polls each handler once outside it, and writes all answers together.
//! What becomes of the handlers is `serving`'s, as in the other direction; they outlive the connection.
//!
//! Started by `accept`; drives `session::server`. Longer than most files: the turn of the driver is one state machine.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use super::gate::Gate;
use super::handlers::Pool;
use super::hub::{Admitted, CLOSING, Hub, Refused, SERVING, ServingCell};
use super::inbound::{Inbound, is_end, poll_write_all};
use super::reverse::Calling;
use super::serving::{FRAMES_MAX, Serving, TURNS_MAX};
use super::shares::Permit;
use super::spin::Spin;
use super::stream::Stream;
use super::timer::{Timer, now};
use super::{give_way, lock, wake_all};
use crate::limits::{READ_BYTES, STALL_PROGRESS_BYTES, WAKERS_KEPT};
use crate::peer::Peer;
use crate::request::DecodeFault;
use crate::responder::RawResponder;
use crate::server::{Denial, PeerPidfd};
use crate::service::Answer;
use crate::session::Violation;
use crate::session::client::put_frame;
use crate::session::keepalive::{Keepalive, Pulse};
use crate::session::server::Taken;
use crate::wire::frame::{Cut, cut};
use crate::wire::header::{self, GoodbyeCode, Kind};
use crate::wire::hello::{Hello, HelloError};
use crate::wire::outgoing::Outgoing;

/// How long a connection that cannot be written to is read on. LIMIT: the end of a closed socket is there at once; only a
/// peer that closed nothing but its reading half makes us wait.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug)]
#[expect(dead_code, reason = "read by the log line that prints it")]
enum End {
    Closed,
    Fenced,
    Refused(GoodbyeCode),
    Said(GoodbyeCode, Denial),
    Violation(Violation),
    /// Nothing has come for two intervals, though it was asked for.
    Silent,
    Broken(io::Error),
}

/// One connection. CANCEL SAFETY: all state is in the struct.
pub(crate) struct Connection<S, F> {
    stream: Stream,
    inbound: Inbound,
    timer: Timer,
    /// Handlers and other tasks wake the driver through it.
    gate: Gate,
    spin: Spin,
    core: Core<S, F>,
}

/// A connection without its socket.
struct Core<S, F> {
    hub: Arc<Hub>,
    peer: Peer,
    /// Until the socket is closed: handlers that outlive it are counted as such.
    connection: Option<Permit>,
    /// Until the Hello has been accepted.
    handshake: Option<Permit>,
    /// Of the peer, where the policy wants to see it, until the Hello has been judged.
    pidfd: Option<PeerPidfd>,
    serving: Serving<S, F>,
    writing: Outgoing,
    lane: Option<(Arc<ServingCell>, u64)>,
    /// Our calls, if the peer offers to answer any.
    calling: Option<Calling>,
    /// Whether bytes that the transport has not taken cannot have left.
    exact: bool,
    hello_by: Instant,
    /// Since when the peer has made no progress with what we wrote, and how many bytes it has taken since.
    stalled: Option<(Instant, usize)>,
    keepalive: Keepalive,
    /// The timer has gone off since the silence was last looked at.
    ticked: bool,
    /// A write has failed, and until when the end of what the peer wrote is waited for.
    broken: Option<(io::Error, Instant)>,
    /// Frames taken since the driver was last woken, of either direction.
    frames: usize,
    /// Whole frames are left of what was read: there was no room for what they may bring.
    kept: bool,
    /// Bytes that this connection was last said to hold.
    held_bytes: usize,
    /// The connection closes once this has been written.
    last_words: Option<GoodbyeCode>,
    wakers: Vec<Waker>,
}

impl<S, F> Connection<S, F>
where
    S: Fn(u16, u16, &[u8], RawResponder) -> Result<F, DecodeFault> + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    /// Serves a connection, which `accept` has counted, to its end; handlers that still run then are polled on without
    /// it.
    ///
    /// Not an `async fn`, which would keep its arguments beside what they were moved into for as long as it runs: a
    /// connection has its place in memory once.
    pub(crate) fn run(
        hub: Arc<Hub>,
        stream: Stream,
        peer: Peer,
        hello_by: Instant,
        (connection, handshake): (Permit, Permit),
        start: S,
        pool: Arc<Pool<F>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let spoken_to = hub.policy.may_speak(peer);
        let peer = hub.policy.known_as(peer);
        let serving = Serving::new(peer, hub.service.clone(), Some(Arc::clone(&hub)), start, pool);
        hub.metrics.opened();
        let core = Core {
            hub,
            peer,
            connection: Some(connection),
            handshake: Some(handshake),
            pidfd: None,
            serving,
            writing: Outgoing::default(),
            lane: None,
            calling: None,
            exact: stream.proves_unsent(),
            hello_by,
            stalled: None,
            keepalive: Keepalive::default(),
            ticked: false,
            broken: None,
            frames: 0,
            kept: false,
            held_bytes: 0,
            last_words: None,
            wakers: Vec::new(),
        };
        let (inbound, timer, gate) = (Inbound::default(), Timer::default(), Gate::default());
        let spin = Spin::new(core.hub.limits.spin);
        let mut connection = Self { stream, inbound, timer, gate, spin, core };
        if connection.core.hub.policy.pidfds {
            connection.core.pidfd = connection.stream.pidfd(peer);
        }
        if !spoken_to {
            tracing::warn!(%peer, "refused a connection");
            connection.core.say_goodbye(GoodbyeCode::Unauthorized);
        }
        async move {
            let end = poll_fn(|cx| connection.poll(cx)).await;
            tracing::debug!(peer = ?connection.core.peer, ?end, "connection ended");
            // Its handlers may take as long as they like, and what they hold is all that is counted then.
            drop((connection.stream, connection.inbound));
            let core = &mut connection.core;
            (core.writing, core.wakers) = (Outgoing::default(), Vec::new());
            core.connection = None;
            core.detach();
            if let Some((cell, epoch)) = core.lane.clone() {
                core.serving.run_out(&cell, epoch, &mut connection.timer).await;
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.gate.get_up(cx.waker());
        self.core.serving.register(self.gate.waker());
        self.core.frames = 0;
        for _ in 0..TURNS_MAX {
            match self.poll_turn(cx) {
                Poll::Ready(Ok(())) if self.core.frames >= FRAMES_MAX => break,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {
                    self.core.rest();
                    if self.core.hold(self.inbound.held_bytes()) || self.spin.rest(cx, &mut self.stream, || true) {
                        continue;
                    }
                    if self.gate.rest() {
                        return Poll::Pending;
                    }
                    self.core.serving.register(self.gate.waker());
                }
            }
        }
        // A peer that lets it never rest is counted, too.
        self.core.rest();
        self.core.hold(self.inbound.held_bytes());
        give_way(cx);
        Poll::Pending
    }

    /// Handlers, then one write, then one read. `Ready(Ok)`: there may be more to do.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let polled = self.core.poll_handlers();
        let due = self.core.prepare_write(self.gate.waker())?;
        if self.core.broken.is_none()
            && let Poll::Ready(Err(error)) = self.core.poll_write(cx, &mut self.stream)
        {
            self.core.broken = Some((error, now() + LAST_WORDS_TIMEOUT));
        }
        if let Some((_, by)) = &self.core.broken {
            // What the peer wrote before it went is taken all the same. Nothing to read for now does not mean that nothing
            // is there; the end of the stream does.
            let by = *by;
            self.core.discard();
            let read = self.poll_read(cx)?;
            // A peer that closed nothing but its reading half may write for ever.
            let over = now() >= by;
            if read.is_ready() && !over {
                return Poll::Ready(Ok(()));
            }
            if over || self.core.last_words.is_some() {
                return Poll::Ready(Err(self.core.broken.take().map_or(End::Closed, |(error, _)| End::Broken(error))));
            }
            let due = [due, Some(by)].into_iter().flatten().min();
            let more = polled || self.timer.poll(cx, due).is_ready();
            return if more { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let wants_write = self.core.wants_write();
        let all_sent = self.core.writing.is_empty() && !self.stream.wants_flush();
        if let (Some(code), true, false) = (self.core.last_words, all_sent, wants_write) {
            return Poll::Ready(Err(End::Refused(code)));
        }
        let read = if self.core.may_read() {
            self.poll_read(cx)?
        } else {
            // Whom we do not listen to is not silent.
            self.core.keepalive.heard();
            Poll::Pending
        };
        if read.is_ready() || polled || wants_write || self.core.poll_silence()? {
            return Poll::Ready(Ok(()));
        }
        let stalled = self.core.stalled.and_then(|(at, _)| at.checked_add(self.core.hub.limits.stall_timeout));
        let due = [due, stalled, self.core.keepalive.poll_deadline()].into_iter().flatten().min();
        self.core.ticked = self.timer.poll(cx, due).is_ready();
        if self.core.ticked { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let core = &mut self.core;
        let kept = std::mem::take(&mut core.kept);
        let take = |bytes: &[u8]| {
            let taken = core.take(bytes);
            core.hub.metrics.read(taken.0);
            taken
        };
        let read = if kept {
            Poll::Ready(Ok(Some(self.inbound.take_kept(take))))
        } else {
            self.inbound.poll_read(cx, &mut self.stream, take)
        };
        if self.inbound.has_heard() {
            core.keepalive.heard();
        }
        let read = match ready!(read) {
            Ok(Some(result)) => result,
            Ok(None) => Err(End::Closed),
            Err(error) if is_end(&error) => Err(End::Closed),
            Err(error) => Err(End::Broken(error)),
        };
        Poll::Ready(match read {
            Err(End::Violation(violation)) => {
                tracing::warn!(peer = ?core.peer, %violation, "a peer broke the protocol");
                core.say_goodbye(GoodbyeCode::Violation);
                Ok(())
            }
            Err(End::Refused(code)) => {
                core.say_goodbye(code);
                Ok(())
            }
            Err(End::Said(code, denial)) => {
                tracing::warn!(peer = ?core.peer, %denial, "denied a connection");
                core.deny(code, &denial);
                Ok(())
            }
            other => other,
        })
    }
}

impl<S, F> Core<S, F>
where
    S: Fn(u16, u16, &[u8], RawResponder) -> Result<F, DecodeFault> + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    fn poll_handlers(&mut self) -> bool {
        self.lane.as_ref().is_some_and(|(cell, epoch)| self.serving.poll_woken(cell, *epoch))
    }

    /// Timers, and the next batch to write. Returns when something falls due next.
    fn prepare_write(&mut self, waker: &Waker) -> Result<Option<Instant>, End> {
        if self.hub.phase() == CLOSING {
            self.say_goodbye(GoodbyeCode::Draining);
        }
        if self.stalled.is_some_and(|(at, _)| now().saturating_duration_since(at) >= self.hub.limits.stall_timeout) {
            // It does not read; there is no use in telling it.
            return Err(End::Refused(GoodbyeCode::Stalled));
        }
        let Some((cell, epoch)) = &self.lane else {
            if now() >= self.hello_by {
                self.say_goodbye(GoodbyeCode::HandshakeTimeout);
            }
            return Ok(Some(self.hello_by));
        };
        let mut lane = lock(&cell.lane);
        if !lane.is_attached(*epoch) {
            return Err(End::Fenced);
        }
        // Under the lock: a connection that has been fenced must not take the place of its successor's waker.
        cell.driver.register(waker);
        if let Some(due) = lane.poll_deadline() {
            let now = now();
            if now >= due {
                lane.handle_timeout(now);
                cell.hold(&lane);
            }
        }
        let fresh = self.writing.is_empty();
        if fresh && lane.poll_frames(*epoch, &mut self.writing) {
            // What has left it is the connection's.
            cell.hold(&lane);
        }
        let due = lane.poll_deadline();
        lane.take_wakers(&mut self.wakers);
        drop(lane);
        wake_all(&mut self.wakers);
        cell.observe();
        let Some(calling) = &mut self.calling else { return Ok(due) };
        let theirs = calling.transmit(waker, &mut self.writing, fresh);
        Ok([due, theirs].into_iter().flatten().min())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        if self.writing.is_empty() && !stream.wants_flush() {
            return Poll::Pending;
        }
        let before = self.writing.len();
        let written = poll_write_all(cx, stream, &mut self.writing, |bytes| {
            self.hub.metrics.wrote(bytes);
            if let Some(calling) = &mut self.calling {
                calling.transmitted(bytes);
            }
        });
        let taken = before - self.writing.len();
        if self.stalled.is_some() && taken > 0 {
            // There is room again: the peer reads, and our ping may be behind what it reads.
            self.keepalive.heard();
        }
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        self.stalled = match self.stalled {
            // A reader that takes a byte now and then makes no progress.
            Some((since, so_far)) if so_far + taken < STALL_PROGRESS_BYTES => Some((since, so_far + taken)),
            _ => Some((now(), 0)),
        };
        written
    }

    /// Asks a peer that has been silent for long; one that was asked and stays silent is given up. Returns whether there is
    /// something to write.
    fn poll_silence(&mut self) -> Result<bool, End> {
        if !(self.keepalive.is_at_rest() || std::mem::take(&mut self.ticked)) {
            return Ok(false);
        }
        let Some((cell, _)) = &self.lane else { return Ok(false) };
        let mut lane = lock(&cell.lane);
        let open = lane.has_open() || self.calling.as_ref().is_some_and(Calling::has_open);
        if self.keepalive.is_at_rest() && !open {
            return Ok(false);
        }
        let limits = &self.hub.limits;
        match self.keepalive.poll(now(), open, limits.keepalive, limits.keepalive_timeout) {
            Pulse::Quiet => Ok(false),
            Pulse::Ask => {
                lane.ping();
                Ok(true)
            }
            Pulse::Dead => Err(End::Silent),
        }
    }

    fn wants_write(&self) -> bool {
        self.writing.is_empty()
            && (self.lane.as_ref().is_some_and(|(cell, epoch)| lock(&cell.lane).wants_transmit(*epoch))
                || self.calling.as_ref().is_some_and(Calling::wants_transmit))
    }

    /// A peer that leaves its answers unread first loses intake.
    fn may_read(&self) -> bool {
        if self.last_words.is_some() || self.writing.is_empty() {
            return self.last_words.is_none();
        }
        let answers = self.lane.as_ref().map_or(0, |(cell, _)| lock(&cell.lane).queued_bytes());
        let control = self.calling.as_ref().map_or(0, Calling::control_bytes);
        answers.saturating_add(control) < self.out_bytes_max()
    }

    /// With nothing queued there is always room: a limit of zero would be no connection at all.
    fn out_bytes_max(&self) -> usize {
        self.hub.limits.out_bytes_max.max(1)
    }

    /// Takes what a read brought: the Hello if it is the first, then requests, all under one lock, then their handlers.
    /// Stops early where a frame could bring more than there is room for: a few bytes can ask for a large answer again.
    fn take(&mut self, bytes: &[u8]) -> (usize, Result<(), End>) {
        let mut consumed = 0;
        if self.lane.is_none() {
            match self.take_hello(bytes) {
                Ok(0) => return (0, Ok(())),
                Ok(hello_bytes) => consumed = hello_bytes,
                Err(end) => return (bytes.len(), Err(end)),
            }
        }
        let Some((cell, epoch)) = self.lane.clone() else { return (bytes.len(), Ok(())) };
        let now = now();
        let result = {
            let mut lane = lock(&cell.lane);
            let result = loop {
                match cut(bytes.get(consumed..).unwrap_or_default(), self.hub.limits.frame_bytes_max) {
                    Cut::Frame { frame, consumed: frame_bytes } => {
                        if lane.queued_bytes() >= self.out_bytes_max() {
                            self.kept = true;
                            break Ok(());
                        }
                        self.frames += 1;
                        let end = consumed + frame_bytes;
                        if let (true, Some(calling)) = (header::is_reverse(frame), &mut self.calling) {
                            match calling.take(frame, &mut self.wakers) {
                                Ok(()) => consumed = end,
                                Err(violation) => break Err(End::Violation(violation)),
                            }
                            continue;
                        }
                        match lane.handle_frame(now, epoch, frame) {
                            Ok(Taken::Nothing) => {}
                            Ok(Taken::Call(call)) => self.serving.queue(&call, end),
                            Ok(Taken::Closed) => break Err(End::Closed),
                            Ok(Taken::Fenced) => break Err(End::Fenced),
                            Err(violation) => break Err(End::Violation(violation)),
                        }
                        consumed = end;
                    }
                    Cut::Incomplete { .. } => break Ok(()),
                    Cut::TooLarge { .. } => break Err(End::Refused(GoodbyeCode::FrameTooLarge)),
                }
            };
            cell.hold(&lane);
            lane.take_wakers(&mut self.wakers);
            result
        };
        wake_all(&mut self.wakers);
        self.serving.start_queued(now, &cell, epoch, bytes);
        (consumed, result)
    }

    /// Bytes of the Hello at the front, 0 if it is not whole yet.
    fn take_hello(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let (frame, consumed) = match cut(bytes, self.hub.limits.handshake_bytes_max) {
            Cut::Frame { frame, consumed } => (frame, consumed),
            Cut::Incomplete { .. } => return Ok(0),
            Cut::TooLarge { .. } => return Err(End::Refused(GoodbyeCode::NotThisProtocol)),
        };
        // The timer alone is not enough: a Hello that was read late, though it arrived in time, could belong to a lane
        // that has been forgotten since.
        if now() >= self.hello_by {
            return Err(End::Refused(GoodbyeCode::HandshakeTimeout));
        }
        let hello = match header::parse(frame) {
            Ok(Some(frame)) if frame.kind == Kind::Hello => Hello::parse(frame.body),
            _ => return Err(End::Refused(GoodbyeCode::NotThisProtocol)),
        };
        let hello = hello.map_err(|error| {
            End::Refused(match error {
                HelloError::Magic => GoodbyeCode::NotThisProtocol,
                HelloError::Malformed => GoodbyeCode::Violation,
            })
        })?;
        let pidfd = self.pidfd.take();
        let admitted =
            self.hub.admit(&hello, self.peer, pidfd.as_ref(), self.hello_by).map_err(|refused| match refused {
                Refused::Code(code) => End::Refused(code),
                Refused::Said(code, denial) => End::Said(code, denial),
            });
        let Admitted { cell, epoch, pass } = admitted?;
        self.serving.keep_to(pass);
        self.calling = cell.reverse().map(|cell| Calling::new(Arc::clone(cell), epoch, self.exact));
        self.lane = Some((cell, epoch));
        self.handshake = None;
        Ok(consumed)
    }

    /// Nothing can be written any more: what the peer is still heard for queues nothing.
    fn discard(&self) {
        if let Some((cell, epoch)) = &self.lane {
            cell.with(|lane| lane.discard(*epoch));
        }
    }

    /// Nothing to do for now.
    fn rest(&mut self) {
        self.serving.rest();
        self.wakers.shrink_to(WAKERS_KEPT);
        if self.hub.phase() != SERVING {
            self.hub.progress.notify_waiters();
        }
    }
}

impl<S, F> Core<S, F> {
    /// Counts what the connection holds while it waits. A peer that fills its share with the fronts of large frames, which
    /// it does not finish, loses its connection: `true` then, and there are last words to write.
    fn hold(&mut self, partial: usize) -> bool {
        let Some(load) = self.lane.as_ref().and_then(|(cell, _)| cell.load.as_ref()) else { return false };
        if let Some(calling) = &self.calling {
            calling.hold();
        }
        let held = partial.saturating_add(self.writing.held_bytes());
        self.held_bytes = load.hold_connection(self.held_bytes, held);
        if partial <= READ_BYTES || self.last_words.is_some() || load.has_room_for_bytes() {
            return false;
        }
        tracing::warn!(peer = ?self.peer, partial, "a peer holds more than its share in frames that it does not finish");
        self.say_goodbye(GoodbyeCode::TooMany);
        true
    }

    /// Queues the last frame of this connection, behind what is already to be written.
    fn say_goodbye(&mut self, code: GoodbyeCode) {
        if self.last_words.is_some() {
            return;
        }
        self.last_words = Some(code);
        match &self.lane {
            // On this connection only: a newer one of the lane goes on.
            Some((cell, epoch)) => cell.with(|lane| {
                if lane.is_attached(*epoch) {
                    lane.goodbye(code);
                }
            }),
            None => {
                self.hub.metrics.refused_connection(code);
                put_frame(&mut self.writing, Kind::Goodbye, code.number(), 0, &[]);
            }
        }
    }

    /// A peer that has no lane is told why it gets none.
    fn deny(&mut self, code: GoodbyeCode, denial: &Denial) {
        self.last_words = Some(code);
        put_frame(&mut self.writing, Kind::Goodbye, code.number(), 0, denial.reason());
    }

    fn detach(&mut self) {
        if let Some(calling) = &mut self.calling {
            calling.detach();
        }
        if let Some((cell, epoch)) = &self.lane {
            cell.with(|lane| lane.detach(*epoch, now()));
            cell.observe();
            if let Some(load) = &cell.load {
                self.held_bytes = load.hold_connection(self.held_bytes, 0);
            }
            self.hub.forget_if_over(cell);
        }
        self.hub.progress.notify_waiters();
    }
}

impl<S, F> Drop for Core<S, F> {
    fn drop(&mut self) {
        self.detach();
        self.hub.metrics.closed();
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
