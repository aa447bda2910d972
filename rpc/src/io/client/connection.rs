//! A client's connection: requests and the answers of its own handlers out, answers and the other side's calls in.
//!
//! Never waits for either direction, and never stops reading: a peer that makes it queue without end is given up. Decides
//! nothing about calls; why it ended is told to the driver, who draws the conclusions.
//!
//! Part of the driver `client`, made once it has dialled.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::{CallingCell, ConnectionEnd};
use crate::io::gate::Gate;
use crate::io::inbound::{Inbound, is_end, poll_write_all};
use crate::io::reverse::Serving;
use crate::io::serving::TURNS_MAX;
use crate::io::spin::Spin;
use crate::io::stream::Stream;
use crate::io::timer::{Timer, now};
use crate::io::{give_way, lock, wake_all};
use crate::limits::READ_TURN_BYTES;
use crate::outcome::Refusal;
use crate::peer::Peer;
use crate::session::client::{ClientLane, Next};
use crate::session::keepalive::{Keepalive, Pulse};
use crate::sync::Handle;
use crate::wire::frame::{Cut, cut};
use crate::wire::header;
use crate::wire::outgoing::Outgoing;

/// How long a connection that cannot be written to is read on. LIMIT: the end of a closed socket is there at once; only a
/// peer that closed nothing but its reading half makes us wait.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    PeerClosed,
    Goodbye,
    Drained,
    Unused,
    /// Our answers were left unread.
    Stalled,
    /// Nothing has come for two intervals, though it was asked for.
    Silent,
    Broken(io::Error),
    Violation(crate::session::Violation),
    FrameTooLarge(usize),
}

impl End {
    pub(super) fn told(&self, farewell: Option<Refusal>) -> ConnectionEnd {
        match self {
            Self::PeerClosed => ConnectionEnd::Closed,
            Self::Goodbye => ConnectionEnd::Goodbye(farewell.unwrap_or(Refusal::Draining)),
            Self::Drained => ConnectionEnd::Drained,
            Self::Unused => ConnectionEnd::Unused,
            Self::Stalled => ConnectionEnd::Stalled,
            Self::Silent => ConnectionEnd::Silent,
            Self::Broken(error) => ConnectionEnd::Broken(error.kind()),
            Self::Violation(violation) => ConnectionEnd::Violation(violation.clone()),
            Self::FrameTooLarge(bytes) => ConnectionEnd::FrameTooLarge(*bytes),
        }
    }
}

/// CANCEL SAFETY: all state is in the struct; a poll that is not repeated loses nothing but the connection.
pub(super) struct Connection {
    pub(super) stream: Stream,
    peer: Peer,
    /// What answers the other side's calls, if it has been here before; it is the present connection's from the Welcome on.
    pub(super) serving: Option<Serving>,
    inbound: Inbound,
    writing: Outgoing,
    timer: Timer,
    /// What answers the other side's calls wakes the driver through it.
    gate: Gate,
    wakers: Vec<Waker>,
    keepalive: Keepalive,
    /// The last write found no room for all.
    stalled: bool,
    /// The timer has gone off since the silence was last looked at.
    ticked: bool,
    pub(super) welcomed: bool,
    /// A write has failed, and until when the end of what the peer wrote is waited for.
    broken: Option<(io::Error, Instant)>,
    /// On a runtime with many threads a woken task runs right behind the one that woke it: without a turn at the back of
    /// the queue every request would be a write of its own.
    gathers: bool,
    gathered: bool,
    spin: Spin,
    /// What was read since the driver was last woken.
    read_bytes: usize,
}

impl Connection {
    pub(super) fn new(stream: Stream, serving: Option<Serving>, spin: Duration) -> Self {
        Self {
            peer: stream.peer().unwrap_or(Peer::Unproven),
            stream,
            serving,
            inbound: Inbound::default(),
            writing: Outgoing::default(),
            timer: Timer::default(),
            gate: Gate::default(),
            wakers: Vec::new(),
            keepalive: Keepalive::default(),
            stalled: false,
            ticked: false,
            welcomed: false,
            broken: None,
            gathers: Handle::current().wakes_ahead(),
            gathered: false,
            spin: Spin::new(spin),
            read_bytes: 0,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, cell: &Arc<CallingCell>) -> Poll<End> {
        cell.driver.register(cx.waker());
        if self.serving.is_some() || !self.welcomed {
            self.gate.get_up(cx.waker());
        }
        if self.gathers && !std::mem::replace(&mut self.gathered, true) {
            let gather = {
                let lane = lock(&cell.lane);
                lane.wants_transmit() && lane.has_company()
            };
            if gather {
                // To the back of the queue, once: callers that are ready now put their requests into the same write.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.gathered = false;
        self.read_bytes = 0;
        for _ in 0..TURNS_MAX {
            match self.poll_turn(cx, cell) {
                Poll::Ready(Ok(())) if self.read_bytes >= READ_TURN_BYTES => break,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {
                    self.serving.iter_mut().for_each(Serving::rest);
                    if self.spin.rest(cx, &mut self.stream, || lock(&cell.lane).has_open()) {
                        continue;
                    }
                    if self.serving.is_none() || self.gate.rest() {
                        return Poll::Pending;
                    }
                }
            }
        }
        give_way(cx);
        Poll::Pending
    }

    /// Handlers, one write and one read. `Ready(Ok)`: there may be more to do.
    fn poll_turn(&mut self, cx: &mut Context<'_>, cell: &Arc<CallingCell>) -> Poll<Result<(), End>> {
        let mut deadline = None;
        let mut finished = None;
        let mut polled = false;
        let fresh = self.writing.is_empty();
        if let Some(serving) = &mut self.serving {
            serving.register(self.gate.waker());
            polled = serving.poll_woken();
        }
        let unused = cell.handles.load(Ordering::Acquire) == 0;
        let answered = unused && self.answers_are_over();
        {
            let mut lane = lock(&cell.lane);
            if lane.poll_deadline().is_some() || lane.wants_transmit() {
                let now = now();
                lane.handle_timeout(now);
                if self.writing.is_empty() {
                    lane.poll_frames(now, &mut self.writing);
                    if !self.stream.proves_unsent() {
                        // It may send in part what it will say that it did not take. SPEC: PROTOCOL §4.3.
                        lane.transmitted(self.writing.len());
                    }
                }
                deadline = lane.poll_deadline();
            }
            // A Cancel of the last call goes out first: the server waits for that handler. One that may call us ends the
            // connection itself.
            let all_sent = self.writing.is_empty() && !self.stream.wants_flush();
            if lane.is_drained() && all_sent && self.serving.is_none() {
                finished = Some(End::Drained);
            } else if unused && !lane.has_open() && all_sent && answered {
                lane.say_done();
                lane.poll_frames(now(), &mut self.writing);
                finished = Some(End::Unused);
            }
            lane.take_wakers(&mut self.wakers);
        }
        wake_all(&mut self.wakers);
        if let Some(serving) = &mut self.serving {
            let due = serving.expire();
            deadline = [deadline, due].into_iter().flatten().min();
            if fresh && finished.is_none() {
                serving.transmit(&mut self.writing);
            }
        }
        if let Some(end) = finished {
            // Best effort: a server that is not told forgets the lane later.
            let _ = poll_write_all(cx, &mut self.stream, &mut self.writing, |_| {});
            return Poll::Ready(Err(end));
        }
        let writes = !self.writing.is_empty() || self.stream.wants_flush();
        if self.broken.is_none() && writes {
            let exact = self.stream.proves_unsent();
            let transmitted = |bytes| {
                cell.metrics.wrote(bytes);
                if exact {
                    lock(&cell.lane).transmitted(bytes);
                }
            };
            let before = self.writing.len();
            let written = poll_write_all(cx, &mut self.stream, &mut self.writing, transmitted);
            if self.stalled && self.writing.len() < before {
                // There is room again: the peer reads, and our ping may be behind what it reads.
                self.keepalive.heard();
            }
            self.stalled = written.is_pending();
            if let Poll::Ready(Err(error)) = written {
                self.broken = Some((error, now() + LAST_WORDS_TIMEOUT));
            }
        }
        let wrote = self.broken.is_none() && self.writing.is_empty();
        // A peer that is gone may have left answers, and a Goodbye: they are read first. Nothing to read for now does
        // not mean that nothing is there; the end of the stream does. One that closed nothing but its reading half may
        // write for ever.
        let read = self.poll_read(cx, cell)?;
        let broken_by = self.broken.as_ref().map(|(_, by)| *by);
        let over = broken_by.is_some_and(|by| now() >= by);
        if read.is_ready() && !over {
            return Poll::Ready(Ok(()));
        }
        if over {
            return Poll::Ready(Err(self.broken.take().map_or(End::PeerClosed, |(error, _)| End::Broken(error))));
        }
        // Only after all that had come was read: it may have come while we were stopped ourselves.
        if self.poll_silence(cell)? {
            return Poll::Ready(Ok(()));
        }
        let due = [deadline, broken_by, self.keepalive.poll_deadline()].into_iter().flatten().min();
        let answers = || self.serving.as_ref().is_some_and(Serving::wants_transmit);
        // What was written may have been the last thing that an unused client waited for.
        let more = wrote && ((unused && writes) || lock(&cell.lane).wants_transmit() || answers());
        self.ticked = self.timer.poll(cx, due).is_ready();
        if more || polled || self.ticked { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Asks a server that has been silent for long; one that was asked and stays silent is given up. Returns whether there
    /// is something to write.
    fn poll_silence(&mut self, cell: &CallingCell) -> Result<bool, End> {
        if !(self.keepalive.is_at_rest() || std::mem::take(&mut self.ticked)) {
            return Ok(false);
        }
        let mut lane = lock(&cell.lane);
        // A client that the other side may call wants to be reachable.
        let open = lane.has_open() || self.serving.is_some();
        if self.keepalive.is_at_rest() && !open {
            return Ok(false);
        }
        match self.keepalive.poll(now(), open, cell.limits.keepalive, cell.limits.keepalive_timeout) {
            Pulse::Quiet => Ok(false),
            Pulse::Ask => {
                lane.ping();
                Ok(true)
            }
            Pulse::Dead => Err(End::Silent),
        }
    }

    /// Whether nobody waits for what we answer any longer; once nobody uses this client, no further call is taken.
    fn answers_are_over(&self) -> bool {
        self.serving.as_ref().is_none_or(|serving| {
            serving.drain();
            serving.is_drained()
        })
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, cell: &Arc<CallingCell>) -> Poll<Result<(), End>> {
        let (wakers, welcomed) = (&mut self.wakers, &mut self.welcomed);
        let (serving, peer, read_bytes) = (&mut self.serving, self.peer, &mut self.read_bytes);
        let read = self.inbound.poll_read(cx, &mut self.stream, |bytes| {
            let taken = {
                let mut lane = lock(&cell.lane);
                let taken = take_frames(cell, &mut lane, serving, peer, bytes);
                *welcomed = *welcomed || (taken.0 > 0 && taken.1.is_ok());
                lane.take_wakers(wakers);
                taken
            };
            wake_all(wakers);
            *read_bytes = read_bytes.saturating_add(taken.0);
            cell.metrics.read(taken.0);
            if let Some(serving) = serving {
                serving.taken(bytes);
            }
            taken
        });
        if self.inbound.has_heard() {
            self.keepalive.heard();
        }
        cell.observe();
        match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(result))) => Poll::Ready(result),
            Poll::Ready(Ok(None)) => Poll::Ready(Err(End::PeerClosed)),
            Poll::Ready(Err(error)) if is_end(&error) => Poll::Ready(Err(End::PeerClosed)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(End::Broken(error))),
        }
    }
}

fn take_frames(
    cell: &Arc<CallingCell>,
    lane: &mut ClientLane,
    serving: &mut Option<Serving>,
    peer: Peer,
    bytes: &[u8],
) -> (usize, Result<(), End>) {
    let mut consumed = 0;
    let end = loop {
        match cut(bytes.get(consumed..).unwrap_or_default(), cell.limits.frame_bytes_max) {
            Cut::Frame { frame, consumed: frame_bytes } => {
                consumed += frame_bytes;
                // We never stop reading, or both sides could; so a peer that makes us queue without end is given up.
                let answers = serving.as_ref().map_or(0, Serving::queued_bytes);
                if answers.saturating_add(lane.control_bytes()) > cell.limits.unread_bytes_max() {
                    break Err(End::Stalled);
                }
                if let (true, Some(serving), true) =
                    (header::is_reverse(frame), serving.as_mut(), lane.memory().is_some())
                {
                    match serving.take(now(), frame, consumed) {
                        Ok(()) => continue,
                        Err(violation) => break Err(End::Violation(violation)),
                    }
                }
                match lane.handle_frame(frame) {
                    Ok(Next::Continue) => {}
                    Ok(Next::Welcomed) => {
                        if let (Some(offered), Some(memory)) = (&cell.offered, lane.memory()) {
                            let back = Arc::downgrade(cell);
                            *serving = Some(offered.welcomed(serving.take(), memory, lane.epoch(), peer, &back));
                        }
                    }
                    Ok(Next::Close) => break Err(End::Goodbye),
                    Err(violation) => break Err(End::Violation(violation)),
                }
            }
            Cut::Incomplete { .. } => break Ok(()),
            Cut::TooLarge { announced } => break Err(End::FrameTooLarge(announced)),
        }
    };
    (consumed, end)
}
