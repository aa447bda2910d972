//! What happens to a lane's connection: it opens, carries bytes away, is lost; and time passes.
//!
//! Proof of *not delivered* is made here and nowhere else: a frame that was voided before it was claimed, or that
//! ends behind the last byte which the kernel took. SPEC: PROTOCOL §4.3.
//!
//! Called by `io::client`.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    Claim, ClientLane, Link, Outcome, Progress, Role, State, StreamEnd, Untold, put_frame_with, remaining_ms, to_u64,
};
use crate::limits::{RELAX_AFTER, TICK, WAKERS_KEPT};
use crate::outcome::{Cause, NotDelivered, Stage};
use crate::session::planted::Bug;
use crate::wire::frame::{self, Cut, LENGTH_BYTES, Oversized};
use crate::wire::header::{self, DEADLINE_AT, FLOOR_AT, GoodbyeCode, Kind};
use crate::wire::hello::{Extras, Hello};
use crate::wire::outgoing::{Frames, Outgoing};

impl ClientLane {
    /// A connection is there: the next epoch begins with a Hello.
    pub fn connected(&mut self) {
        debug_assert!(self.link == Link::Down && self.claim.is_none(), "one live connection a lane");
        self.epoch = self.epoch.saturating_add(1);
        self.control.clear();
        self.welcomed = None;
        self.progress = Progress::default();
        let Role::Connecting { identity, service, serves, secret } = &self.role else { return };
        let hello = Hello::new(
            identity.peer,
            identity.incarnation,
            identity.lane,
            self.epoch,
            u32::try_from(self.limits.frame_bytes_max).unwrap_or(u32::MAX),
            self.limits.window,
            service.name,
            service.version,
        );
        let extras = Extras { secret: secret.as_deref(), serves: serves.as_ref() };
        let appended = frame::append(self.control.small(), usize::MAX, |out| {
            hello.put(out, service, extras);
            Ok::<(), Oversized>(())
        });
        debug_assert!(appended.is_ok(), "a Hello fits a u32");
        // Only a lane that no server has seen may send behind its Hello: repeats, resolves and ids above a floor wait
        // for the Welcome, which says whether the lane was resumed.
        self.link = Link::Opening { optimistic: self.epoch == 1 };
        self.counters.connections = self.counters.connections.saturating_add(1);
    }

    /// The connection is gone for good: both halves closed, nothing more can reach the peer over it.
    pub fn disconnected(&mut self) {
        self.link = Link::Down;
        self.control.clear();
        self.pong = None;
        self.claim = None;
        self.first_floor = None;
        let (written, out_base, progress) = (self.written, self.out_base, self.progress);
        let mut not_delivered = Vec::new();
        for (id, entry) in self.window.iter_mut() {
            if !matches!(entry.state, State::Sent) {
                continue;
            }
            if entry.end > written || (entry.end == written && self.planted.is(Bug::WholeFrameIsCut)) {
                not_delivered.push(id);
            } else {
                entry.stage = progress.stage(id, entry);
                entry.state = State::InDoubt;
            }
        }
        for id in not_delivered {
            self.finish(id, Outcome::NotDelivered(NotDelivered::ConnectionLost));
        }
        // What was claimed and not written is settled above; offsets go on behind it.
        self.written = out_base;
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for id in streams {
            let queued = self.window.get(id).is_some_and(|entry| matches!(entry.state, State::Queued));
            if !queued {
                self.end_stream(id, StreamEnd::Lost);
            }
        }
    }

    /// No connection could be made: what was never written is not delivered, what was is in doubt.
    pub fn unreachable(&mut self, why: &NotDelivered) {
        self.counters.unreachable = self.counters.unreachable.saturating_add(1);
        self.fail_open(why, Cause::ConnectionLost);
    }

    /// The client ends: every open call gets its outcome now, and no further one is taken.
    pub fn close_all(&mut self) {
        self.closed = true;
        let (why, cause) = self.why_closed();
        self.fail_open(&why, cause);
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for id in streams {
            self.end_stream(id, StreamEnd::Lost);
        }
        self.wakers.extend(self.blocked.drain(..));
    }

    /// What calls end with that a closed lane still has, or is given.
    pub(super) fn why_closed(&self) -> (NotDelivered, Cause) {
        match self.role {
            Role::Connecting { .. } => (NotDelivered::ClientClosed, Cause::ClientClosed),
            Role::Accepting(_) => (NotDelivered::ConnectionLost, Cause::ConnectionLost),
        }
    }

    /// Tells the server, as the last word of this connection, that nothing of this lane is held any longer.
    pub fn say_done(&mut self) {
        if matches!(self.link, Link::Up | Link::Opening { optimistic: true }) && !self.has_open() {
            put_frame_with(&mut self.control, Kind::Goodbye, 0, GoodbyeCode::Done.number(), 0, &[]);
        }
    }

    /// Asks the server whether it is there. Before the Welcome there is nobody to ask.
    pub fn ping(&mut self) {
        if matches!(self.link, Link::Up | Link::Draining { .. }) {
            if self.park_dirty {
                // The floor may have passed what only the Park lists.
                self.put_park();
            }
            let floor = self.window.floor();
            let appended = frame::append(self.control.small(), usize::MAX, |out| {
                header::put_ping(out, 0, floor);
                Ok::<(), Oversized>(())
            });
            debug_assert!(appended.is_ok(), "a ping fits a u32");
        }
    }

    /// The client is used again after its driver had ended with its runtime.
    pub fn reopen(&mut self) {
        self.closed = false;
    }

    /// The next time at which [`handle_timeout`](Self::handle_timeout) has something to do. It may be early.
    pub fn poll_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Ends every call whose deadline has passed. Gives memory back that is not needed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return;
        }
        let (mut due, progress) = (Vec::new(), self.progress);
        let mut earliest: Option<Instant> = None;
        for (id, entry) in self.window.iter_mut() {
            if !matches!(entry.state, State::Queued | State::Sent | State::InDoubt) {
                continue;
            }
            if entry.deadline <= now {
                entry.stage = progress.stage(id, entry);
                due.push((id, matches!(entry.state, State::Queued), entry.stage));
            } else {
                earliest = Some(earliest.map_or(entry.deadline, |e| e.min(entry.deadline)));
            }
        }
        // A full table of nearby deadlines must not make a scan per call: one tick at least lies between two scans.
        self.earliest = earliest.map(|e| e.max(now.checked_add(TICK).unwrap_or(e)));
        if self.planted.is(Bug::LostTimer) {
            self.earliest = None;
        }
        for (id, queued, stage) in due {
            if !queued && self.planted.is(Bug::WrittenIsNotDelivered) {
                self.finish(id, Outcome::NotDelivered(NotDelivered::NotWritten));
            }
            if queued {
                self.void(id);
                self.finish(id, Outcome::NotDelivered(NotDelivered::NotWritten));
            } else {
                self.finish(id, Outcome::Unknown(stage, Cause::Deadline));
            }
        }
        self.wakers.extend(self.blocked.drain(..));
        // Each call has a deadline, so this comes after each burst.
        if self.window.relax() {
            self.expect_by(now.checked_add(RELAX_AFTER).unwrap_or(now));
        }
        self.blocked.shrink_to(WAKERS_KEPT);
        self.wakers.shrink_to(WAKERS_KEPT);
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) has anything.
    pub fn wants_transmit(&self) -> bool {
        let control = !self.control.is_empty() || self.pong.is_some() || self.park_is_due();
        self.claim.is_none() && (control || (self.may_send() && self.queued > 0))
    }

    /// Whether the driver has something to do: bytes to write, or a connection to open for them.
    pub fn wants_driver(&self) -> bool {
        self.wants_transmit() || (self.link == Link::Down && self.queued > 0)
    }

    /// Hands everything that may be sent to the writer, control frames first, in `into`, which must be empty. Deadlines are
    /// stamped here. [`transmitted`](Self::transmitted) says how much of it the kernel has taken.
    pub fn poll_transmit(&mut self, now: Instant, into: &mut BytesMut) -> bool {
        let mut frames = Outgoing::default();
        let any = self.poll_frames(now, &mut frames);
        frames.flatten_into(into);
        any
    }

    /// Like [`poll_transmit`](Self::poll_transmit), behind what is there, and without copying large bodies.
    pub fn poll_frames(&mut self, now: Instant, into: &mut Outgoing) -> bool {
        if !self.wants_transmit() {
            return false;
        }
        if self.park_is_due() {
            self.put_park();
        }
        if let Some(nonce) = self.pong.take() {
            put_frame_with(&mut self.control, Kind::Pong, self.flags, 0, nonce, &[]);
        }
        let control = self.control.len();
        let requests = if self.may_send() { self.out.whole_frames(self.claim_bytes_max) } else { 0 };
        if requests > 0 {
            self.stamp(now, requests);
        }
        if requests >= self.limits.queued_bytes_max {
            // The queue has room again.
            self.wakers.extend(self.blocked.drain(..));
        }
        into.append(&mut self.control);
        if requests > 0 {
            let small = self.out.small_len();
            let mut claimed = Outgoing::default();
            self.out.transfer(requests, &mut claimed);
            self.small_base = self.small_base.saturating_add(to_u64(small.saturating_sub(self.out.small_len())));
            if self.planted.is(Bug::ReplayOutOfOrder) && self.epoch > 1 {
                last_frame_first(&mut claimed);
            }
            into.append(&mut claimed);
        }
        self.out_base = self.out_base.saturating_add(to_u64(requests));
        self.claim = Some(Claim { control, requests });
        if self.queued == 0 && !self.out.is_empty() {
            // Nothing but voids is left behind a bounded claim.
            self.drop_out();
        }
        true
    }

    /// The kernel has taken `bytes` more of what was claimed.
    pub fn transmitted(&mut self, bytes: usize) {
        let Some(claim) = &mut self.claim else { return };
        let of_control = claim.control.min(bytes);
        let of_requests = bytes.saturating_sub(of_control).min(claim.requests);
        claim.control = claim.control.saturating_sub(of_control);
        claim.requests = claim.requests.saturating_sub(of_requests);
        self.written = self.written.saturating_add(to_u64(of_requests));
        if claim.control == 0 && claim.requests == 0 {
            self.claim = None;
        }
    }

    /// Whether the server said that it takes no more and nothing is open any longer: the connection can go.
    pub fn is_drained(&mut self) -> bool {
        matches!(self.link, Link::Draining { .. })
            && self.streams.is_empty()
            && !self.window.iter_mut().any(|(_, entry)| matches!(entry.state, State::Sent | State::InDoubt))
    }

    pub(super) fn put_park(&mut self) {
        while self.parks_for_untold() && self.window.park_front(self.limits.parked_max) {}
        if self.window.floor() > self.untold.last {
            self.untold = Untold::default();
        }
        self.park_dirty = false;
        let mut body = BytesMut::new();
        for (id, entry) in self.window.parked() {
            if !matches!(entry.state, State::Lost(_)) {
                body.extend_from_slice(&id.to_le_bytes());
            }
        }
        put_frame_with(&mut self.control, Kind::Park, self.flags, 0, self.window.floor(), &body);
    }

    fn park_is_due(&self) -> bool {
        // An idle client makes no request that would say it.
        let untold = self.untold.bytes > 0 && (self.window.floor() > self.untold.last || self.parks_for_untold());
        (self.park_dirty || untold) && self.link == Link::Up
    }

    fn may_send(&self) -> bool {
        matches!(self.link, Link::Up | Link::Opening { optimistic: true })
    }

    /// Writes what remains of each deadline into the queued frames among the first `bytes`, and marks them as handed
    /// over.
    fn stamp(&mut self, now: Instant, bytes: usize) {
        let claimed = self.out_base.saturating_add(to_u64(bytes));
        let (small_base, out, epoch) = (self.small_base, self.out.small(), self.epoch);
        let (mut first_queued, mut queued) = (self.next_id, self.queued);
        for (id, entry) in self.window.ring_from(self.first_queued) {
            if !matches!(entry.state, State::Queued) {
                continue;
            }
            if entry.end > claimed {
                first_queued = id;
                break;
            }
            queued = queued.saturating_sub(1);
            let at = usize::try_from(entry.start.saturating_sub(small_base)).unwrap_or(usize::MAX);
            let place = at.saturating_add(LENGTH_BYTES).saturating_add(DEADLINE_AT);
            if let Some(place) = out.get_mut(place..).and_then(|tail| tail.first_chunk_mut::<4>()) {
                *place = remaining_ms(entry.deadline, now).to_le_bytes();
            }
            entry.state = State::Sent;
            entry.epoch = epoch;
            self.wakers.extend(entry.raise(Stage::Written));
        }
        self.first_queued = first_queued;
        self.queued = queued;
        // What was queued can be parked from here on: there may be room for those who wait.
        self.wake_blocked_if_room();
    }

    /// The other side allows `window` ids from here on. What is queued has its id and its floor by what was allowed before;
    /// where it is too far above that floor now it is taken back.
    pub(super) fn allow(&mut self, window: u32) {
        self.window_ids_max = self.limits.window.min(window.max(1));
        let (span, small_base, first) = (u64::from(window), self.small_base, self.epoch == 1);
        let mut beyond = Vec::new();
        for id in self.first_queued..self.next_id {
            let Some(entry) = self.window.get(id) else { continue };
            if !matches!(entry.state, State::Queued) || (first && self.is_among_first(id)) {
                continue;
            }
            let at = usize::try_from(entry.start.saturating_sub(small_base)).unwrap_or(usize::MAX);
            let place = at.saturating_add(LENGTH_BYTES).saturating_add(FLOOR_AT);
            let floor = self.out.small().get(place..).and_then(|tail| tail.first_chunk::<8>());
            if floor.is_none_or(|floor| id >= u64::from_le_bytes(*floor).saturating_add(span)) {
                beyond.push(id);
            }
        }
        for id in beyond {
            self.void(id);
            self.finish(id, Outcome::NotDelivered(NotDelivered::WindowFull { window }));
            self.end_stream(id, StreamEnd::Lost);
        }
        self.wake_blocked_if_room();
    }

    pub(super) fn fail_open(&mut self, why: &NotDelivered, cause: Cause) {
        let (mut open, progress) = (Vec::new(), self.progress);
        for (id, entry) in self.window.iter_mut() {
            match entry.state {
                State::Queued => open.push((id, Outcome::NotDelivered(why.clone()))),
                State::Sent | State::InDoubt => {
                    entry.stage = progress.stage(id, entry);
                    open.push((id, Outcome::Unknown(entry.stage, cause)));
                }
                State::Done(_) | State::Doubt(_) | State::Lost(_) => {}
            }
        }
        for (id, outcome) in open {
            self.finish(id, outcome);
            self.end_stream(id, StreamEnd::Lost);
        }
        // No writer has them: every frame in `out` belongs to a call that has its outcome now.
        self.drop_out();
        self.first_queued = self.next_id;
        self.wakers.extend(self.blocked.drain(..));
    }

    /// The server has taken up everything that we sent it up to `received`, and begun a handler for all up to `started`.
    pub(super) fn raise_progress(&mut self, received: u64, started: u64) {
        self.progress.received = self.progress.received.max(received);
        self.progress.started = self.progress.started.max(started);
        if !std::mem::take(&mut self.stages_watched) {
            return;
        }
        let progress = self.progress;
        for (id, entry) in self.window.iter_mut() {
            self.wakers.extend(entry.raise(progress.stage(id, entry)));
            self.stages_watched |= entry.watched.is_some();
        }
    }
}

/// For [`Bug::ReplayOutOfOrder`].
fn last_frame_first(claimed: &mut Outgoing) {
    let (mut last, mut at) = (0, 0_usize);
    let mut frames = BytesMut::new();
    claimed.flatten_into(&mut frames);
    while let Cut::Frame { consumed, .. } = frame::cut(frames.get(at..).unwrap_or_default(), usize::MAX) {
        last = at;
        at = at.saturating_add(consumed);
    }
    let mut turned = frames.split_off(last);
    turned.unsplit(frames);
    claimed.push_whole(turned.freeze());
}
