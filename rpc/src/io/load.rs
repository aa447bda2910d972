//! How much a server is doing, for whom, and how soon there will be room again.
//!
//! Handlers that have not ended, and the bytes that lanes hold for them: for the whole server, for each holder (a process,
//! or another user) by the rule of `shares`, and for methods that have a limit of their own. What is beyond them is shed
//! before its body is decoded, with the time in which as many handlers ended lately as run now (Little's law): no clock is
//! read and nothing is stored for a single call.
//!
//! Asked by `serving` once a batch; made by `hub`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::lock;
use super::shares::{Permit, room};
use crate::limits::{Limits, WAKERS_KEPT};
use crate::sync::{AtomicU64, AtomicUsize, Mutex};

/// The least and the most that a caller is told to wait. LIMIT: less than a millisecond is no pause; after a second the
/// world may have changed.
const RETRY_MIN: Duration = Duration::from_millis(1);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How often rates are measured, at most, and how old a measurement may be to be added to. LIMIT: long enough to see a few
/// hundred calls, short enough to be about now.
const RATE_EVERY: Duration = Duration::from_millis(50);
const RATE_OLD: Duration = Duration::from_secs(1);

/// Held bytes are counted in pages: small calls cost no shared counter. LIMIT: a page a lane is not seen.
const PAGE: usize = 4096;

/// What a whole server is doing.
#[derive(Debug)]
pub(crate) struct Load {
    running_max: usize,
    bytes_max: usize,
    all: Doing,
    ended: Rate,
    methods: Vec<MethodLoad>,
    measured_at: Mutex<Instant>,
    started: Instant,
    /// When rates may be measured next, in ms after `started`.
    measure_from: AtomicU64,
}

/// Running handlers, and bytes held.
#[derive(Debug, Default)]
pub(crate) struct Doing {
    running: AtomicUsize,
    bytes: AtomicUsize,
}

/// A method with a limit of its own.
#[derive(Debug)]
struct MethodLoad {
    method: (u16, u16),
    running_max: usize,
    running: AtomicUsize,
    ended: Rate,
}

/// How many ended, and how many did per second when it was last measured.
#[derive(Debug, Default)]
struct Rate {
    ended: AtomicUsize,
    measured: AtomicUsize,
    per_second: AtomicUsize,
}

/// The part of a lane's calls in the other direction: they outlive its connections, and so does what is counted for them.
#[derive(Debug)]
pub(super) struct BackLoad {
    load: Arc<Load>,
    doing: Arc<Doing>,
    bytes: AtomicUsize,
}

/// One lane's part in the load of its server.
#[derive(Debug)]
pub(crate) struct LaneLoad {
    load: Arc<Load>,
    permit: Permit,
    /// Calls of methods that have a limit, by id and by place in `methods`.
    limited: Mutex<Vec<(u64, usize)>>,
    lane_bytes: AtomicUsize,
}

impl Load {
    pub(crate) fn new(limits: &Limits, methods: &[((u16, u16), usize)], now: Instant) -> Self {
        let method = |&(method, running_max): &((u16, u16), usize)| MethodLoad {
            method,
            running_max,
            running: AtomicUsize::new(0),
            ended: Rate::default(),
        };
        Self {
            running_max: limits.running_max,
            bytes_max: limits.held_bytes_max,
            all: Doing::default(),
            ended: Rate::default(),
            methods: methods.iter().map(method).collect(),
            measured_at: Mutex::new(now),
            started: now,
            measure_from: AtomicU64::new(0),
        }
    }

    /// Handlers that have not ended.
    pub(crate) fn running(&self) -> usize {
        self.all.running.load(Ordering::Relaxed)
    }

    /// Bytes that lanes hold, to a page each.
    pub(crate) fn held_bytes(&self) -> usize {
        self.all.bytes.load(Ordering::Relaxed)
    }

    /// A holder holds `after` bytes of what was `before`.
    fn shift(&self, holder: &Doing, before: usize, after: usize) {
        for bytes in [&self.all.bytes, &holder.bytes] {
            if after > before {
                bytes.fetch_add(after - before, Ordering::Relaxed);
            } else {
                bytes.fetch_sub(before - after, Ordering::Relaxed);
            }
        }
    }

    /// Measures the rates if it is time.
    fn measure(&self, now: Instant) {
        let ms = |instant: Instant| {
            u64::try_from(instant.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
        };
        if ms(now) < self.measure_from.load(Ordering::Relaxed) {
            return;
        }
        let mut measured_at = lock(&self.measured_at);
        let passed = now.saturating_duration_since(*measured_at);
        if passed < RATE_EVERY {
            return;
        }
        *measured_at = now;
        self.measure_from.store(ms(now + RATE_EVERY), Ordering::Relaxed);
        for rate in self.methods.iter().map(|method| &method.ended).chain([&self.ended]) {
            rate.measure(passed);
        }
    }
}

impl BackLoad {
    /// The calls hold so many bytes now. Called under their lane's lock.
    pub(super) fn hold(&self, bytes: usize) {
        let before = self.bytes.load(Ordering::Relaxed);
        let after = pages(bytes);
        if before != after {
            self.bytes.store(after, Ordering::Relaxed);
            self.load.shift(&self.doing, before, after);
        }
    }
}

impl Drop for BackLoad {
    fn drop(&mut self) {
        self.load.shift(&self.doing, self.bytes.load(Ordering::Relaxed), 0);
    }
}

impl Rate {
    fn measure(&self, passed: Duration) {
        let ended = self.ended.load(Ordering::Relaxed);
        let before = self.measured.swap(ended, Ordering::Relaxed);
        // A pause is not slowness.
        if passed <= RATE_OLD {
            let ms = usize::try_from(passed.as_millis()).unwrap_or(usize::MAX).max(1);
            self.per_second.store(ended.wrapping_sub(before).saturating_mul(1000) / ms, Ordering::Relaxed);
        }
    }

    /// The time in which as many end as are running now.
    fn time_for(&self, running: usize) -> Duration {
        let per_second = self.per_second.load(Ordering::Relaxed);
        if per_second == 0 {
            return RETRY_MAX;
        }
        let micros = u64::try_from(running.saturating_mul(1_000_000) / per_second).unwrap_or(u64::MAX);
        Duration::from_micros(micros).clamp(RETRY_MIN, RETRY_MAX)
    }
}

impl LaneLoad {
    pub(super) fn new(load: Arc<Load>, permit: Permit) -> Self {
        Self { load, permit, limited: Mutex::default(), lane_bytes: AtomicUsize::new(0) }
    }

    /// Room for `wanted` more handlers; returns for how many, and the others are to be [shed](Self::retry_after). Each
    /// that has room must be [ended](Self::ended) once.
    pub(super) fn take(&self, wanted: usize, now: Instant) -> usize {
        let (load, holder) = (&self.load, self.permit.doing());
        load.measure(now);
        if !self.has_room_for_bytes() {
            return 0;
        }
        // Both are claimed before they are compared: two threads may each see the other's and shed too much, never too
        // little.
        let all = load.all.running.fetch_add(wanted, Ordering::Relaxed);
        let own = holder.running.fetch_add(wanted, Ordering::Relaxed);
        let granted = wanted.min(room(own, load.running_max.saturating_sub(all)));
        let back = wanted.saturating_sub(granted);
        if back > 0 {
            load.all.running.fetch_sub(back, Ordering::Relaxed);
            holder.running.fetch_sub(back, Ordering::Relaxed);
        }
        granted
    }

    /// Room in the limit of a call's own method; `Err` says when there may be some.
    pub(super) fn enter(&self, id: u64, method: (u16, u16)) -> Result<(), Duration> {
        let Some(at) = self.load.methods.iter().position(|limited| limited.method == method) else { return Ok(()) };
        let limited = &self.load.methods[at];
        let before = limited.running.fetch_add(1, Ordering::Relaxed);
        if before >= limited.running_max {
            limited.running.fetch_sub(1, Ordering::Relaxed);
            return Err(limited.ended.time_for(before));
        }
        lock(&self.limited).push((id, at));
        Ok(())
    }

    /// When a call that was shed may be tried again.
    pub(super) fn retry_after(&self) -> Duration {
        self.load.ended.time_for(self.load.running())
    }

    /// The handlers of these calls have ended.
    pub(super) fn ended(&self, ids: impl ExactSizeIterator<Item = u64>) {
        let count = ids.len();
        for running in [&self.load.all.running, &self.permit.doing().running] {
            // INVARIANT: one end for each start. A service that answers a call twice must not make room that is not there.
            let before = running.fetch_sub(count, Ordering::Relaxed);
            if before < count {
                running.fetch_add(count - before, Ordering::Relaxed);
            }
        }
        self.load.ended.ended.fetch_add(count, Ordering::Relaxed);
        if self.load.methods.is_empty() {
            return;
        }
        let mut limited = lock(&self.limited);
        for id in ids {
            if let Some(at) = limited.iter().position(|(known, _)| *known == id) {
                let (_, method) = limited.swap_remove(at);
                let method = &self.load.methods[method];
                method.running.fetch_sub(1, Ordering::Relaxed);
                method.ended.ended.fetch_add(1, Ordering::Relaxed);
            }
        }
        if limited.is_empty() {
            limited.shrink_to(WAKERS_KEPT);
        }
    }

    /// What counts the calls in the other direction.
    pub(super) fn back(&self) -> BackLoad {
        BackLoad { load: Arc::clone(&self.load), doing: self.permit.shared_doing(), bytes: AtomicUsize::new(0) }
    }

    /// The lane holds so many bytes now. Called under the lane's lock.
    pub(super) fn hold_lane(&self, bytes: usize) {
        let before = self.lane_bytes.load(Ordering::Relaxed);
        let after = pages(bytes);
        if before != after {
            self.lane_bytes.store(after, Ordering::Relaxed);
            self.shift(before, after);
        }
    }

    /// A connection of the lane holds `bytes` now, and held `before` when it last said so. Returns what to say next time.
    pub(super) fn hold_connection(&self, before: usize, bytes: usize) -> usize {
        let after = pages(bytes);
        if before != after {
            self.shift(before, after);
        }
        after
    }

    /// Whether the whole server and this lane's holder have room for more bytes.
    pub(super) fn has_room_for_bytes(&self) -> bool {
        let free = self.load.bytes_max.saturating_sub(self.load.held_bytes());
        room(self.permit.doing().bytes.load(Ordering::Relaxed), free) > 0
    }

    fn shift(&self, before: usize, after: usize) {
        self.load.shift(self.permit.doing(), before, after);
    }
}

impl Drop for LaneLoad {
    fn drop(&mut self) {
        self.shift(self.lane_bytes.load(Ordering::Relaxed), 0);
    }
}

/// Whole pages. What is below one is part of the lane's own size.
fn pages(bytes: usize) -> usize {
    bytes / PAGE * PAGE
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::id::{Incarnation, PeerId};
    use crate::io::client::CallingCell;
    use crate::io::shares::{Place, Shares};
    use crate::peer::{Peer, Process};
    use crate::session::client::Submit;
    use crate::wire::header::COMMON_BYTES;
    use crate::wire::hello::{Extras, Hello, ServiceInfo};

    fn limits() -> Limits {
        Limits { running_max: 100, held_bytes_max: 1 << 20, ..Limits::default() }
    }

    fn lane(load: &Arc<Load>, shares: &Arc<Shares>, pid: i32) -> LaneLoad {
        let peer = Peer::Process(Process { pid: Some(pid), ..Process::own() });
        LaneLoad::new(Arc::clone(load), shares.take(peer, Place::Lane).unwrap())
    }

    fn two_lanes(methods: &[((u16, u16), usize)]) -> (Instant, LaneLoad, LaneLoad) {
        let now = Instant::now();
        let load = Arc::new(Load::new(&limits(), methods, now));
        let shares = Arc::new(Shares::new(10, 10, 10));
        (now, lane(&load, &shares, 1), lane(&load, &shares, 2))
    }

    #[test]
    fn one_process_cannot_take_all_handlers() {
        let (now, greedy, other) = two_lanes(&[]);
        assert_eq!(greedy.take(1000, now), 80);
        assert_eq!(greedy.take(1, now), 0);
        assert_eq!(other.take(1000, now), 16);
        greedy.ended((0..80_u32).map(u64::from));
        assert_eq!(greedy.load.running(), 16);
        assert_eq!(greedy.take(1, now), 1);
    }

    #[test]
    fn one_process_cannot_take_all_bytes() {
        let (now, greedy, other) = two_lanes(&[]);
        greedy.hold_lane(900 << 10);
        assert_eq!((greedy.take(1, now), other.take(1, now)), (0, 1));
        let held = other.hold_connection(0, 200 << 10);
        assert_eq!(other.take(1, now), 0, "nothing is free");
        other.hold_connection(held, 0);
        greedy.hold_lane(0);
        assert_eq!((greedy.take(1, now), other.take(1, now)), (1, 1));
        greedy.hold_lane(64 << 10);
        let load = Arc::clone(&greedy.load);
        drop(greedy);
        assert_eq!(load.held_bytes(), 0, "a lane that is gone holds nothing");
    }

    #[test]
    fn retry_after_is_the_time_in_which_as_many_ended_as_run_now() {
        let (now, lane, _) = two_lanes(&[]);
        assert_eq!(lane.retry_after(), RETRY_MAX, "nothing has ended yet");
        assert_eq!(lane.take(50, now), 50);
        // 25 in 100 ms.
        lane.ended((0..25_u32).map(u64::from));
        lane.take(0, now + Duration::from_millis(100));
        assert_eq!(lane.retry_after(), Duration::from_millis(100));
        // A pause says nothing about how fast handlers are.
        lane.take(0, now + Duration::from_secs(60));
        assert_eq!(lane.retry_after(), Duration::from_millis(100));
    }

    #[test]
    fn method_with_a_limit_is_full_alone() {
        let (_, lane, other) = two_lanes(&[((7, 1), 2)]);
        assert_eq!((lane.enter(1, (7, 1)), other.enter(1, (7, 1))), (Ok(()), Ok(())));
        assert_eq!(lane.enter(2, (7, 1)), Err(RETRY_MAX));
        assert_eq!(lane.enter(3, (8, 1)), Ok(()));
        lane.take(1, Instant::now());
        lane.ended([1].into_iter());
        assert_eq!(other.enter(4, (7, 1)), Ok(()));
    }

    #[test]
    fn calls_of_the_accepting_side_are_counted_for_as_long_as_they_wait_without_a_connection() {
        let mut hello = BytesMut::new();
        let service = ServiceInfo { name: "back", version: 1, methods: &[] };
        let extras = Extras { serves: Some(&service), ..Extras::default() };
        Hello::new(PeerId([1; 16]), Incarnation(1), 0, 1, 1 << 20, 4, "forth", 1).put(&mut hello, &service, extras);
        let offer = Hello::parse(&hello[COMMON_BYTES..]).unwrap().serves().unwrap().into();

        let (now, ours, _other) = two_lanes(&[]);
        let load = Arc::clone(&ours.load);
        let calling = CallingCell::reverse(limits(), Some(ours.back()));
        calling.with(|lane| lane.attach_reverse(1, 4, 1 << 20, Some(offer)));
        calling.with(|lane| lane.detach_reverse(1));
        let deadline = now + Duration::from_secs(1);
        let body = [7; 100 << 10];
        let submit = Submit { method: 1, version: 1, body: &body, deadline, stream: false, tlvs: &[] };
        calling.with(|lane| lane.submit(submit)).unwrap();
        // Their lane's own memory may be gone by now; somebody still holds the calls.
        drop(ours);
        assert!(load.held_bytes() >= body.len(), "{}", load.held_bytes());
        calling.with(|lane| lane.handle_timeout(deadline));
        assert!(load.held_bytes() < body.len() / 2, "{}", load.held_bytes());
        drop(calling);
        assert_eq!(load.held_bytes(), 0);
    }
}
