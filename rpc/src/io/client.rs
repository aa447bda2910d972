//! The client's driver: one task that dials when somebody needs a connection, and carries bytes both ways.
//!
//! Never touches a call's outcome itself: it tells the lane what happened to the bytes. Ends when the last handle is
//! gone and nothing is open.
//!
//! Started by `client`; drives `session::client`. What it does while it is connected is `connection`'s. Longer than most
//! files: the lane's cell and its driver wake each other, and are read together.

mod connection;

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use self::connection::{Connection, End};
use super::load::BackLoad;
use super::reverse::{Offered, Serving};
use super::stream::Stream;
use super::timer::{Timer, now};
use super::{dial, lock, wake_all};
use crate::address::Address;
use crate::backoff::Backoff;
use crate::id::random_u64;
use crate::limits::Limits;
use crate::metrics::ClientMetrics;
use crate::outcome::{NotDelivered, Refusal};
use crate::peer::Peer;
use crate::session::client::ClientLane;
use crate::sync::{AtomicBool, AtomicUsize, AtomicWaker, Handle, Mutex, MutexGuard, Slip, slips};
use crate::transport::HandshakeFault;
use crate::wire::hello::ServiceInfo;

/// A lane, shared by its callers and its driver.
#[derive(Debug)]
pub(crate) struct CallingCell {
    lane: Mutex<ClientLane>,
    /// Wakes the driver.
    driver: AtomicWaker,
    driver_runs: AtomicBool,
    handles: AtomicUsize,
    /// Wakes what watches over calls of the accepting side while they have no connection; `None` where we connect.
    watch: Option<AtomicWaker>,
    /// Where the calls of the accepting side are counted; `None` where we connect.
    load: Option<BackLoad>,
    /// What we answer when the other side calls.
    offered: Option<Offered>,
    address: Address,
    /// The service's name.
    service: &'static str,
    metrics: ClientMetrics,
    /// Who was last connected to.
    server: Mutex<Option<Peer>>,
    limits: Limits,
    backoff: Backoff,
    last_end: Mutex<Option<ConnectionEnd>>,
}

/// Why a client had no connection any more, or got none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionEnd {
    /// The peer closed it, or died.
    #[error("the peer closed it")]
    Closed,
    /// The server said goodbye, with this reason.
    #[error("the server said goodbye: {0}")]
    Goodbye(Refusal),
    /// The server drains, and nothing was open any more.
    #[error("the server drains and nothing was open")]
    Drained,
    /// Nothing needed it any more.
    #[error("nothing needed it")]
    Unused,
    /// The peer left our answers unread.
    #[error("the peer left answers unread")]
    Stalled,
    /// The peer said nothing for two intervals, though it was asked whether it is there.
    #[error("the peer fell silent")]
    Silent,
    /// Reading or writing failed.
    #[error("it broke ({0})")]
    Broken(io::ErrorKind),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(crate::session::Violation),
    /// The peer announced a frame that is larger than allowed. In bytes.
    #[error("the peer announced a frame of {0} bytes")]
    FrameTooLarge(usize),
    /// None could be made.
    #[error("none could be made: {0}")]
    Unreachable(NotDelivered),
}

impl CallingCell {
    pub(crate) fn new(
        address: Address,
        lane: ClientLane,
        limits: Limits,
        backoff: Backoff,
        offered: Option<Offered>,
    ) -> Self {
        Self {
            service: lane.service(),
            metrics: ClientMetrics::new(lane.service(), lane.methods()),
            lane: Mutex::new(lane),
            driver: AtomicWaker::new(),
            driver_runs: AtomicBool::new(false),
            handles: AtomicUsize::new(1),
            watch: None,
            load: None,
            offered,
            server: Mutex::default(),
            address,
            limits,
            backoff,
            last_end: Mutex::new(None),
        }
    }

    /// The calls of the accepting side. Their driver is that of the connection which the other side has opened.
    pub(super) fn reverse(limits: Limits, load: Option<BackLoad>) -> Self {
        let lane = ClientLane::reverse(limits.clone());
        let watch = Some(AtomicWaker::new());
        Self {
            watch,
            load,
            handles: AtomicUsize::new(0),
            ..Self::new(Address::mem("caller"), lane, limits, Backoff::default(), None)
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ClientLane> {
        lock(&self.lane)
    }

    /// Whether it calls that service.
    pub(super) fn calls(&self, service: &ServiceInfo) -> bool {
        self.service == service.name && lock(&self.lane).calls(service)
    }

    /// Who is to be woken when there is something for the driver.
    pub(super) fn register(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// Who watches while there is no driver.
    pub(super) fn register_watch(&self, waker: &Waker) {
        if let Some(watch) = &self.watch {
            watch.register(waker);
        }
    }

    pub(super) fn wake_watch(&self) {
        if let Some(watch) = &self.watch {
            watch.wake();
        }
    }

    /// The lane of the accepting side's calls is over: each of them gets its outcome.
    pub(super) fn end(&self) {
        self.with(ClientLane::end_reverse);
        self.wake_watch();
    }

    /// Who is, or last was, at the other end.
    pub(crate) fn server(&self) -> Option<Peer> {
        *lock(&self.server)
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn metrics(&self) -> &ClientMetrics {
        &self.metrics
    }

    /// Tells the metrics what has become of the lane.
    #[inline]
    pub(crate) fn observe(&self) {
        self.metrics.observe(|| {
            let lane = lock(&self.lane);
            (lane.counters(), lane.queued_bytes(), lane.window_ids())
        });
    }

    /// Why the last connection ended, or could not be made.
    pub(crate) fn last_end(&self) -> Option<ConnectionEnd> {
        lock(&self.last_end).clone()
    }

    fn ended(&self, end: ConnectionEnd) {
        *lock(&self.last_end) = Some(end);
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.backoff
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn drop_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.driver.wake();
        }
    }

    /// Works on the lane, then wakes whoever has something to do because of it.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut ClientLane) -> T) -> T {
        let mut wakers = Vec::new();
        let seen = slips(Slip::LooksOutsideLock).then(|| lock(&self.lane).wants_driver());
        let (result, transmit, watched) = {
            let mut lane = lock(&self.lane);
            let (before, due) = (seen.unwrap_or_else(|| lane.wants_driver()), lane.poll_deadline());
            let result = work(&mut lane);
            self.hold(&lane);
            lane.take_wakers(&mut wakers);
            // The driver looks at everything when it runs: it needs a wake only for what is new.
            let sooner = lane.poll_deadline().is_some_and(|now| due.is_none_or(|due| now < due));
            let watched = self.watch.is_some() && !lane.is_connected();
            (result, sooner || (!before && lane.wants_driver()), watched)
        };
        wake_all(&mut wakers);
        if transmit {
            self.driver.wake();
            if watched {
                self.wake_watch();
            }
        }
        result
    }

    /// Counts what the lane holds.
    pub(super) fn hold(&self, lane: &ClientLane) {
        if let Some(load) = &self.load {
            hold_in(load, lane);
        }
    }

    /// Wakes the driver although nothing is to be written yet: a connection is needed, or a deadline came nearer.
    pub(crate) fn nudge(&self) {
        self.driver.wake();
    }

    /// The last handle may be gone already: then the driver only waited for this call or doubt.
    pub(crate) fn nudge_if_unused(&self) {
        if self.handles.load(Ordering::Acquire) == 0 {
            self.driver.wake();
        }
    }

    /// The lane has no driver from here on.
    fn close(&self, lane: &mut ClientLane) {
        lane.disconnected();
        lane.close_all();
        // Under the lock: whoever finds the lane closed finds that it has no driver.
        self.driver_runs.store(false, Ordering::Release);
    }

    /// Works on the lane like [`with`](Self::with), and sees to it that a driver is there for it: one that is starting
    /// or ending is told from one that runs under the same lock, so that what `work` has put there is not overlooked.
    ///
    /// # Panics
    /// Outside a tokio runtime, like every tokio function that needs one.
    pub(crate) fn with_driver<T>(self: &Arc<Self>, work: impl FnOnce(&mut ClientLane) -> T) -> T {
        let mut work = Some(work);
        loop {
            let driven = self.watch.is_some() || self.driver_runs.load(Ordering::Acquire);
            let runtime = if driven { None } else { Some(Handle::current()) };
            let mut starts = false;
            let result = self.with(|lane| {
                if self.watch.is_none() && !self.driver_runs.load(Ordering::Acquire) {
                    // Without a runtime at hand: it has ended since, and the next round has one.
                    runtime.as_ref()?;
                    self.driver_runs.store(true, Ordering::Release);
                    lane.reopen();
                    starts = true;
                }
                work.take().map(|work| work(lane))
            });
            if let (true, Some(runtime)) = (starts, runtime) {
                runtime.spawn(drive(DriverGuard { cell: Arc::clone(self), ended: false }));
            }
            if let Some(result) = result {
                return result;
            }
        }
    }
}

/// Not part of the code of every call: only servers count what their calls hold.
#[cold]
fn hold_in(load: &BackLoad, lane: &ClientLane) {
    load.hold(lane.held_bytes());
}

/// Whatever ends the driver, a dying runtime included, gives every open call its outcome.
struct DriverGuard {
    cell: Arc<CallingCell>,
    ended: bool,
}

impl DriverGuard {
    /// Ends the driver, unless somebody has something for it after all.
    fn end_if_unused(&mut self) -> bool {
        if slips(Slip::EndsOutsideLock) {
            return true;
        }
        self.ended = self.cell.with(|lane| {
            let unused = !lane.has_open() && self.cell.handles.load(Ordering::Acquire) == 0;
            if unused {
                self.cell.close(lane);
            }
            unused
        });
        self.ended
    }
}

impl Drop for DriverGuard {
    fn drop(&mut self) {
        if !self.ended {
            self.cell.with(|lane| self.cell.close(lane));
        }
        self.cell.observe();
    }
}

enum Dialled {
    Connected(Stream),
    Failed(NotDelivered),
    /// Nobody waits for it any more.
    Unwanted,
}

async fn drive(mut guard: DriverGuard) {
    let cell = &Arc::clone(&guard.cell);
    let mut redial = Redial { backoff: cell.backoff, lost: 0, pause: None, not_before: None };
    let mut idle = Idle { cell, timer: Timer::default(), serving: None, stay: None };
    loop {
        if !poll_fn(|cx| idle.poll_wanted(cx)).await {
            if !guard.end_if_unused() {
                continue;
            }
            // Handlers outlive the client.
            idle.serving.into_iter().for_each(Serving::run_out);
            return;
        }
        match idle.dial_while_wanted(redial.not_before()).await {
            Dialled::Unwanted => {}
            Dialled::Failed(why) => {
                redial.forget_pause();
                if idle.stay.is_some() {
                    // Calls fail at once and pause nobody; only a client that others call dials again by itself.
                    redial.again();
                }
                cell.ended(ConnectionEnd::Unreachable(why.clone()));
                cell.with(|lane| lane.unreachable(&why));
            }
            Dialled::Connected(stream) => {
                *lock(&cell.server) = stream.peer().ok();
                cell.with(ClientLane::connected);
                cell.observe();
                let started = now();
                let mut connection = Connection::new(stream, idle.serving.take(), cell.limits.spin);
                let end = poll_fn(|cx| connection.poll(cx, cell)).await;
                tracing::debug!(address = %cell.address, ?end, "connection ended");
                cell.ended(end.told(lock(&cell.lane).farewell()));
                let Connection { stream, welcomed, serving, .. } = connection;
                // Both halves are closed before the lanes draw conclusions from it.
                drop(stream);
                let fault = match &end {
                    End::Broken(error) if !welcomed => {
                        HandshakeFault::of(error).filter(HandshakeFault::is_the_servers_word)
                    }
                    _ => None,
                };
                if let Some(fault) = fault {
                    // The peer's transport has refused ours before any of our frames: with TLS 1.3 we learn it late.
                    let why = NotDelivered::Handshake { address: cell.address.clone(), fault };
                    cell.with(|lane| lane.never_admitted(&why));
                }
                cell.with(ClientLane::disconnected);
                serving.iter().for_each(Serving::detach);
                idle.serving = serving;
                if welcomed {
                    redial.lost(started);
                    idle.stay = cell.offered.as_ref().and_then(|_| now().checked_add(cell.limits.lane_retention));
                } else {
                    // A listener that takes connections and drops them is none; it would be dialled for ever.
                    if idle.stay.is_some() {
                        redial.again();
                    }
                    cell.with(|lane| lane.unreachable(&NotDelivered::ConnectionLost));
                }
            }
        }
    }
}

/// When a lost connection may be dialled again. A service that restarts loses all its clients at one moment; they must
/// not come back at one moment.
struct Redial {
    backoff: Backoff,
    /// How many connections were lost, one soon after the other.
    lost: u32,
    /// Since when, and after how many, it is to be paused; how long is only drawn once somebody wants to dial.
    pause: Option<(Instant, u32)>,
    not_before: Option<Instant>,
}

impl Redial {
    /// It was lost, or could not be made, and somebody waits for it all the same.
    fn again(&mut self) {
        self.pause = Some((now(), self.lost));
        self.lost = self.lost.saturating_add(1);
    }

    /// When it may be dialled; `None`: at once.
    fn not_before(&mut self) -> Option<Instant> {
        if let Some((since, lost)) = self.pause.take() {
            self.not_before = since.checked_add(self.backoff.pause(lost, random_u64()));
        }
        self.not_before
    }

    /// The pause is over, or nothing is to be waited for.
    fn forget_pause(&mut self) {
        (self.pause, self.not_before) = (None, None);
    }

    fn lost(&mut self, started: Instant) {
        if now().saturating_duration_since(started) >= self.backoff.max {
            self.lost = 0;
        }
        self.again();
    }
}

/// A driver without a connection.
struct Idle<'a> {
    cell: &'a Arc<CallingCell>,
    timer: Timer,
    /// Handlers that the other side has called; they run on.
    serving: Option<Serving>,
    /// Until when the other side may remember us, and we want to be reachable for it.
    stay: Option<Instant>,
}

impl Idle<'_> {
    /// `true`: a connection is wanted. `false`: the client is gone.
    fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let (wanted, open, due) = self.poll_turn(cx);
            if wanted {
                return Poll::Ready(true);
            }
            if !open && self.cell.handles.load(Ordering::Acquire) == 0 {
                return Poll::Ready(false);
            }
            if self.timer.poll(cx, due).is_pending() {
                return Poll::Pending;
            }
        }
    }

    async fn dial_while_wanted(&mut self, not_before: Option<Instant>) -> Dialled {
        let address = &self.cell.address;
        let attempt = async {
            if let Some(not_before) = not_before {
                tokio::time::sleep_until(not_before.into()).await;
            }
            dial::dial(address).await
        };
        let mut attempt = std::pin::pin!(attempt);
        poll_fn(|cx| {
            if let Poll::Ready(dialled) = attempt.as_mut().poll(cx) {
                return Poll::Ready(match dialled {
                    Ok(stream) => Dialled::Connected(stream),
                    Err(why) => Dialled::Failed(why),
                });
            }
            loop {
                let (wanted, _, due) = self.poll_turn(cx);
                if !wanted {
                    return Poll::Ready(Dialled::Unwanted);
                }
                if self.timer.poll(cx, due).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Timers, and the handlers that run. Whether a connection is wanted, whether anything is open, and what falls due next.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> (bool, bool, Option<Instant>) {
        self.cell.driver.register(cx.waker());
        let mut of_handlers = None;
        if let Some(serving) = &mut self.serving {
            serving.register(cx.waker());
            if serving.poll_woken() {
                cx.waker().wake_by_ref();
            }
            of_handlers = serving.expire();
        }
        let now = now();
        if self.stay.is_some_and(|until| until <= now) {
            self.stay = None;
        }
        let (needed, open, due) = self.cell.with(|lane| {
            lane.handle_timeout(now);
            (lane.wants_connection(), lane.has_open(), lane.poll_deadline())
        });
        let reachable = self.stay.is_some() && self.cell.handles.load(Ordering::Acquire) > 0;
        let due = [due, of_handlers, self.stay].into_iter().flatten().min();
        (needed || reachable, open, due)
    }
}
