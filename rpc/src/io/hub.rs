//! What the connections of one server share: its lanes, its identity, and what it is doing.
//!
//! A lane outlives its connections; it is forgotten only when no handler runs and its retention has passed, which
//! is at least as long as any handshake may take. That order is what keeps an old Hello from finding a fresh lane. A lane whose
//! client has said that it is done goes sooner: at once if it had one connection only, for then there is no old Hello.
//! SPEC: PROTOCOL §4.6.
//!
//! Used by `accept`, by the connections of `server` and by responders.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::client::CallingCell;
use super::load::{LaneLoad, Load};
use super::reverse;
use super::shares::{Permit, Place, Shares};
use super::timer::now;
use super::{lock, wake_all};
use crate::id::{Incarnation, PeerId};
use crate::limits::Limits;
use crate::metrics::{LaneMetrics, ServerMetrics};
use crate::peer::Peer;
use crate::server::{Denial, Options, Pass, PeerPidfd, Policy};
use crate::service::clip;
use crate::session::client::Offer;
use crate::session::server::{Reply, ServerCounters, ServerLane};
use crate::sync::{AtomicU8, AtomicWaker, JoinSet, Mutex, Slip, slips};
use crate::wire::header::GoodbyeCode;
use crate::wire::hello::{Hello, ServiceInfo};

/// Requests are taken.
pub(crate) const SERVING: u8 = 0;
/// No further request is taken; what runs may end.
pub(crate) const DRAINING: u8 = 1;
/// Connections say goodbye and close.
pub(crate) const CLOSING: u8 = 2;

/// How often a full table is searched for lanes that may be forgotten. LIMIT: the search looks at each lane, and who
/// asks for it is not known yet.
const FULL_SWEEP_EVERY: Duration = Duration::from_millis(100);

/// Descriptors that connections leave to the handlers and to everything else in the process.
const DESCRIPTORS_KEPT: usize = 64;

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) limits: Arc<Limits>,
    pub(crate) policy: Policy,
    pub(crate) service: ServiceInfo,
    pub(crate) metrics: ServerMetrics,
    identity: (PeerId, Incarnation),
    lanes: Mutex<Lanes>,
    /// [`SERVING`], [`DRAINING`], [`CLOSING`].
    phase: AtomicU8,
    pub(crate) shares: Arc<Shares>,
    pub(crate) load: Arc<Load>,
    /// Something has become less: a connection, a running handler, unsent bytes. Told while draining.
    pub(crate) progress: Arc<Notify>,
    pub(crate) tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug, Default)]
struct Lanes {
    by_key: HashMap<LaneKey, Arc<ServingCell>>,
    /// When the full table was last searched.
    swept_at: Option<Instant>,
    /// What lanes had seen that are forgotten.
    forgotten: ServerCounters,
}

/// What an accepted Hello is given.
pub(super) struct Admitted {
    pub(super) cell: Arc<ServingCell>,
    pub(super) epoch: u64,
    /// What its connection may call; anything, if nothing was said.
    pub(super) pass: Option<Box<Pass>>,
}

/// Why a Hello was not accepted.
pub(super) enum Refused {
    Code(GoodbyeCode),
    /// With words for the peer.
    Said(GoodbyeCode, Denial),
}

impl From<GoodbyeCode> for Refused {
    fn from(code: GoodbyeCode) -> Self {
        Self::Code(code)
    }
}

/// A lane belongs to the process that connects, not only to the numbers that it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LaneKey {
    peer: PeerId,
    incarnation: Incarnation,
    lane: u32,
    process: Peer,
}

/// A lane, shared by its connections' drivers and its handlers.
#[derive(Debug)]
pub(crate) struct ServingCell {
    /// Its place in the hub; a client's lane, on which it answers, has none.
    key: Option<LaneKey>,
    /// `None`: nobody else is served here.
    pub(super) load: Option<LaneLoad>,
    pub(super) lane: Mutex<ServerLane>,
    pub(crate) metrics: LaneMetrics,
    /// On which calls go the other way.
    back: Back,
    /// Wakes the driver of the present connection.
    pub(super) driver: AtomicWaker,
    /// The hub's.
    progress: Arc<Notify>,
}

/// Where the handlers of a lane call the other side.
#[derive(Debug)]
enum Back {
    /// The other side has connected to us. Filled by the first Hello that offers a service.
    Accepted(OnceLock<Arc<CallingCell>>),
    /// We have connected to it, with this lane.
    Connected(Weak<CallingCell>),
}

impl ServingCell {
    fn new(
        place: Option<(LaneKey, LaneLoad)>,
        lane: ServerLane,
        metrics: LaneMetrics,
        progress: Arc<Notify>,
        back: Back,
    ) -> Self {
        let (key, load) = place.unzip();
        Self { key, load, lane: Mutex::new(lane), metrics, back, driver: AtomicWaker::new(), progress }
    }

    /// The lane on which a client answers the calls that come back on its connection.
    pub(super) fn of_client(lane: ServerLane, metrics: LaneMetrics, connected: Weak<CallingCell>) -> Self {
        Self::new(None, lane, metrics, Arc::default(), Back::Connected(connected))
    }

    /// The lane on which the accepting side calls, if the other side has ever offered anything.
    pub(super) fn reverse(&self) -> Option<&Arc<CallingCell>> {
        match &self.back {
            Back::Accepted(back) => back.get(),
            Back::Connected(_) => None,
        }
    }

    /// What calls `service` at the other side of the connection. It says itself when that is not served there.
    pub(crate) fn back(&self, service: &ServiceInfo) -> Arc<CallingCell> {
        let back = match &self.back {
            Back::Accepted(back) => back.get().cloned(),
            Back::Connected(back) => back.upgrade().filter(|back| back.calls(service)),
        };
        back.unwrap_or_else(|| Arc::new(CallingCell::reverse(Limits::default(), None)))
    }

    /// Works on the lane, then wakes whoever has something to do because of it.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut ServerLane) -> T) -> T {
        let mut wakers = Vec::new();
        let result = {
            let mut lane = lock(&self.lane);
            let result = work(&mut lane);
            self.hold(&lane);
            lane.take_wakers(&mut wakers);
            result
        };
        wake_all(&mut wakers);
        result
    }

    /// Counts what the lane holds.
    pub(super) fn hold(&self, lane: &ServerLane) {
        if let Some(load) = &self.load {
            load.hold_lane(lane.held_bytes());
        }
    }

    /// Like [`with`](Self::with), from outside the driver: it has something to write now.
    pub(crate) fn with_driver<T>(&self, work: impl FnOnce(&mut ServerLane) -> T) -> T {
        if slips(Slip::WakesTooEarly) {
            self.driver.wake();
            return self.with(work);
        }
        let result = self.with(work);
        self.driver.wake();
        result
    }

    /// Tells the metrics what has become of the lane.
    #[inline]
    pub(super) fn observe(&self) {
        self.metrics.observe(|| {
            let lane = lock(&self.lane);
            (lane.counters(), lane.running(), lane.queued_bytes())
        });
    }

    /// The lane is over, and with it the calls in the other direction.
    fn end_reverse(&self) {
        if let Some(reverse) = self.reverse() {
            reverse.end();
        }
    }

    /// The answer of a handler that is no longer polled here.
    pub(crate) fn answer(&self, id: u64, reply: Reply) {
        if let Some(load) = &self.load {
            load.ended(std::iter::once(id));
        }
        let drained = self.with_driver(|lane| {
            lane.answer(id, reply);
            lane.is_drained()
        });
        if drained {
            // Without a connection there is no driver that could tell a server which waits for this one.
            self.progress.notify_waiters();
        }
    }
}

impl Hub {
    /// `descriptors`: whether each connection takes one.
    pub(crate) fn new(options: Options, service: ServiceInfo, descriptors: bool) -> Self {
        let Options { limits, policy, methods } = options;
        // A connection that could only be had by taking the last descriptor from a handler is refused instead.
        let table = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let table = table.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        let kept = DESCRIPTORS_KEPT.min(table / 4);
        let connections_max =
            if descriptors { limits.connections_max.min(table - kept) } else { limits.connections_max };
        let shares = Arc::new(Shares::new(connections_max, limits.handshakes_max, limits.lanes_max));
        let load = Arc::new(Load::new(&limits, &methods, now()));
        Self {
            limits: Arc::new(limits),
            policy,
            metrics: ServerMetrics::new(&service),
            service,
            identity: (PeerId::random(), Incarnation::random()),
            lanes: Mutex::default(),
            phase: AtomicU8::new(SERVING),
            shares,
            load,
            progress: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    pub(crate) fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    /// Goes on to `phase` and lets every driver notice.
    pub(crate) fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Release);
        for cell in self.lanes() {
            cell.with_driver(ServerLane::drain);
            if phase == CLOSING {
                cell.end_reverse();
            }
        }
    }

    /// Every lane, connected or not.
    pub(crate) fn lanes(&self) -> Vec<Arc<ServingCell>> {
        lock(&self.lanes).by_key.values().cloned().collect()
    }

    /// Forgets lanes that have been without a connection for long enough.
    pub(crate) fn sweep(&self, now: Instant) {
        let gone = lock(&self.lanes).sweep(now);
        gone.iter().for_each(|cell| cell.end_reverse());
    }

    /// Forgets this lane, if it may be forgotten by now.
    pub(super) fn forget_if_over(&self, cell: &ServingCell) {
        let over = || lock(&cell.lane).expires_at().is_some_and(|at| at <= now());
        if over() {
            let mut lanes = lock(&self.lanes);
            // Again, and under the lock of all lanes: a new connection may just have been attached.
            let forgotten = over();
            if forgotten {
                lanes.forget(cell);
            }
            drop(lanes);
            if forgotten {
                cell.end_reverse();
            }
        }
    }

    /// What all lanes have seen, forgotten ones included.
    pub(crate) fn counters(&self) -> ServerCounters {
        let lanes = lock(&self.lanes);
        lanes.by_key.values().fold(lanes.forgotten, |sum, cell| sum.plus(lock(&cell.lane).counters()))
    }

    /// Judges a Hello, which is to be accepted before `hello_by`, and attaches its connection to its lane.
    pub(super) fn admit(
        &self,
        hello: &Hello<'_>,
        peer: Peer,
        pidfd: Option<&PeerPidfd>,
        hello_by: Instant,
    ) -> Result<Admitted, Refused> {
        let wire = crate::limits::WIRE_VERSION;
        if hello.wire_min > wire || hello.wire_max < wire {
            let said = format!("wire versions {} to {} are offered, {wire} is spoken", hello.wire_min, hello.wire_max);
            return Err(Refused::Said(GoodbyeCode::WireVersion, said.into()));
        }
        if hello.service != self.service.name || hello.service_version != self.service.version {
            let said = format!(
                "`{}` in version {} is asked for, `{}` in version {} is served",
                clip(hello.service),
                hello.service_version,
                self.service.name,
                self.service.version
            );
            return Err(Refused::Said(GoodbyeCode::Service, said.into()));
        }
        let phase = self.phase();
        if phase == CLOSING {
            return Err(GoodbyeCode::Draining.into());
        }
        if hello.epoch == 0 {
            // No lane may be made that no Hello could ever be attached to: it would stay for good.
            return Err(GoodbyeCode::Violation.into());
        }
        // No lock is held: this is the user's code.
        let denied = |denial| Refused::Said(GoodbyeCode::Unauthorized, denial);
        let pass = self.policy.admits(hello, peer, pidfd).map_err(denied)?;
        let mut over = Vec::new();
        let attached = self.attach(hello, peer, phase, hello_by, &mut over);
        // Wakes the tasks of users: no lock is held.
        over.iter().for_each(|calling| calling.end());
        let (cell, attached) = attached?;
        // Wakes the connection that has been fenced. The phase may have changed after it was looked at; `enter` has
        // told the lanes that were there.
        cell.with_driver(|lane| {
            if self.phase() != SERVING {
                lane.drain();
            }
        });
        if let Some(calling) = cell.reverse() {
            // Wakes whoever learns something by the new connection.
            calling.with(|_| ());
        }
        attached.map(|()| Admitted { cell, epoch: hello.epoch, pass }).ok_or(GoodbyeCode::StaleEpoch.into())
    }

    /// Gives a connection to its lane, which is made if there is none; whether it was new enough for it. Calls in the other
    /// direction that end by that are to be ended by the caller: those of the lanes that were `over`.
    fn attach(
        &self,
        hello: &Hello<'_>,
        peer: Peer,
        phase: u8,
        hello_by: Instant,
        over: &mut Vec<Arc<CallingCell>>,
    ) -> Result<(Arc<ServingCell>, Option<()>), GoodbyeCode> {
        let key = LaneKey { peer: hello.peer, incarnation: hello.incarnation, lane: hello.lane, process: peer };
        let mismatched = self.mismatched(hello);
        let mut lanes = lock(&self.lanes);
        let now = now();
        // Under the lock: who is late may find that the lane of a newer Hello has come and gone meanwhile, and with it the
        // memory that would have refused this one.
        if now >= hello_by {
            return Err(GoodbyeCode::HandshakeTimeout);
        }
        let known = lanes.by_key.get(&key).cloned();
        let cell = match known {
            Some(cell) => cell,
            // One that is remembered may come to hear what became of its calls; it is told that we drain.
            None if phase != SERVING => return Err(GoodbyeCode::Draining),
            None => {
                let permit = self.lane_permit(&mut lanes, peer, now, over).ok_or(GoodbyeCode::TooMany)?;
                let load = LaneLoad::new(Arc::clone(&self.load), permit);
                let lane = ServerLane::new(Arc::clone(&self.limits), hello.epoch);
                let (progress, back) = (Arc::clone(&self.progress), Back::Accepted(OnceLock::new()));
                let metrics = self.metrics.lane();
                let cell = Arc::new(ServingCell::new(Some((key, load)), lane, metrics, progress, back));
                lanes.by_key.insert(key, Arc::clone(&cell));
                cell
            }
        };
        // Under the lock of all lanes: a lane that `sweep` is about to forget must not get a connection.
        let mut lane = lock(&cell.lane);
        let attached = lane.attach(hello.epoch, hello.window, hello.frame_bytes_max, self.identity);
        if attached.is_some() {
            lane.set_mismatched(mismatched);
            self.attach_reverse(&cell, hello);
        }
        drop(lane);
        Ok((cell, attached))
    }

    /// The lane of our own calls has the connections of the other one. Called under its lock, so that no two Hellos cross.
    fn attach_reverse(&self, cell: &ServingCell, hello: &Hello<'_>) {
        let Back::Accepted(back) = &cell.back else { return };
        let offer: Option<Offer> = hello.serves().map(Offer::from);
        if offer.is_some() && back.get().is_none() {
            let calling =
                Arc::new(CallingCell::reverse(Limits::clone(&self.limits), cell.load.as_ref().map(LaneLoad::back)));
            lock(&self.tasks).spawn(reverse::watch(Arc::clone(&calling)));
            let _ = back.set(calling);
        }
        if let Some(calling) = back.get() {
            calling.lock().attach_reverse(hello.epoch, hello.window, hello.frame_bytes_max, offer);
        }
    }

    /// A place for one more lane of `peer`; looks for lanes that are over before it refuses. Their calls go to `over`.
    fn lane_permit(
        &self,
        lanes: &mut Lanes,
        peer: Peer,
        now: Instant,
        over: &mut Vec<Arc<CallingCell>>,
    ) -> Option<Permit> {
        if let Some(permit) = self.shares.take(peer, Place::Lane) {
            return Some(permit);
        }
        if lanes.swept_at.is_some_and(|at| now.saturating_duration_since(at) < FULL_SWEEP_EVERY) {
            return None;
        }
        lanes.swept_at = Some(now);
        let gone = lanes.sweep(now);
        over.extend(gone.iter().filter_map(|cell| cell.reverse().cloned()));
        // Their places are free from here on.
        drop(gone);
        self.shares.take(peer, Place::Lane)
    }

    /// Methods that both sides have, with different types.
    fn mismatched(&self, hello: &Hello<'_>) -> Vec<(u16, u16)> {
        hello
            .methods()
            .filter(|claim| {
                self.service.methods.iter().any(|ours| {
                    (ours.id, ours.version) == (claim.id, claim.version) && ours.fingerprint != claim.fingerprint
                })
            })
            .map(|claim| (claim.id, claim.version))
            .collect()
    }
}

impl Lanes {
    /// Returns the lanes that it has forgotten; their calls in the other direction are to be ended.
    fn sweep(&mut self, now: Instant) -> Vec<Arc<ServingCell>> {
        let mut gone = Vec::new();
        let forgotten = &mut self.forgotten;
        self.by_key.retain(|_, cell| {
            let lane = lock(&cell.lane);
            let keep = lane.expires_at().is_none_or(|at| now < at);
            if !keep {
                *forgotten = forgotten.plus(lane.counters());
                gone.push(Arc::clone(cell));
            }
            keep
        });
        gone
    }

    fn forget(&mut self, cell: &ServingCell) {
        let Some(key) = &cell.key else { return };
        // A lane that was forgotten may have a successor of the same key by now: that one stays.
        if self.by_key.get(key).is_some_and(|known| std::ptr::eq(&**known, cell)) {
            self.by_key.remove(key);
            self.forgotten = self.forgotten.plus(lock(&cell.lane).counters());
        }
    }
}
