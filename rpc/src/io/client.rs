//! The client's driver: one task that dials when somebody needs a connection, and carries bytes both ways.
//!
//! Never touches a call's outcome itself: it tells the lane what happened to the bytes. Ends when the last handle is
//! gone and nothing is open.
//!
//! Started by `client`; drives `session::client`.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::task::AtomicWaker;

use super::inbound::{Inbound, is_end, poll_write_all};
use super::stream::Stream;
use super::timer::{Timer, now};
use super::{dial, lock, wake_all};
use crate::address::Address;
use crate::backoff::Backoff;
use crate::id::random_u64;
use crate::limits::Limits;
use crate::metrics::ClientMetrics;
use crate::outcome::NotDelivered;
use crate::session::client::{ClientLane, Next};
use crate::transport::HandshakeFault;
use crate::wire::frame::{Cut, cut};

/// Turns of a driver before it lets other tasks run.
const TURNS_MAX: usize = 32;
/// How long a connection that cannot be written to is read on. LIMIT: the end of a closed socket is there at once; only a
/// peer that closed nothing but its reading half makes us wait.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// A lane, shared by its callers and its driver.
#[derive(Debug)]
pub(crate) struct LaneCell {
    lane: Mutex<ClientLane>,
    /// Wakes the driver.
    driver: AtomicWaker,
    driver_runs: AtomicBool,
    handles: AtomicUsize,
    address: Address,
    /// The service's name.
    service: &'static str,
    metrics: ClientMetrics,
    limits: Limits,
    backoff: Backoff,
}

impl LaneCell {
    pub(crate) fn new(address: Address, lane: ClientLane, limits: Limits, backoff: Backoff) -> Self {
        Self {
            service: lane.service(),
            metrics: ClientMetrics::new(lane.service(), lane.methods()),
            lane: Mutex::new(lane),
            driver: AtomicWaker::new(),
            driver_runs: AtomicBool::new(false),
            handles: AtomicUsize::new(1),
            address,
            limits,
            backoff,
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The name of the service that it calls.
    pub(crate) fn service(&self) -> &'static str {
        self.service
    }

    pub(crate) fn metrics(&self) -> &ClientMetrics {
        &self.metrics
    }

    /// Tells the metrics what has become of the lane.
    fn observe(&self) {
        self.metrics.observe(|| {
            let lane = lock(&self.lane);
            (lane.counters(), lane.queued_bytes(), lane.window_ids())
        });
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
        let (result, transmit) = {
            let mut lane = lock(&self.lane);
            let (before, due) = (lane.wants_driver(), lane.poll_deadline());
            let result = work(&mut lane);
            lane.take_wakers(&mut wakers);
            // The driver looks at everything when it runs: it needs a wake only for what is new.
            let sooner = lane.poll_deadline().is_some_and(|now| due.is_none_or(|due| now < due));
            (result, sooner || (!before && lane.wants_driver()))
        };
        wake_all(&mut wakers);
        if transmit {
            self.driver.wake();
        }
        result
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

    /// Starts the driver, unless it runs.
    ///
    /// # Panics
    /// Outside a tokio runtime, like every tokio function that needs one.
    pub(crate) fn ensure_driver(self: &Arc<Self>) {
        if self.driver_runs.load(Ordering::Acquire) {
            return;
        }
        let runtime = tokio::runtime::Handle::current();
        if !self.driver_runs.swap(true, Ordering::AcqRel) {
            self.with(ClientLane::reopen);
            runtime.spawn(drive(DriverGuard(Arc::clone(self))));
        }
    }
}

/// Whatever ends the driver, a dying runtime included, gives every open call its outcome.
struct DriverGuard(Arc<LaneCell>);

impl Drop for DriverGuard {
    fn drop(&mut self) {
        self.0.with(|lane| {
            lane.disconnected();
            lane.close_all();
        });
        self.0.observe();
        self.0.driver_runs.store(false, Ordering::Release);
    }
}

enum Dialled {
    Connected(Stream),
    Failed(NotDelivered),
    /// Nobody waits for it any more.
    Unwanted,
}

async fn drive(guard: DriverGuard) {
    let cell = &guard.0;
    let mut timer = Timer::default();
    let mut redial = Redial { backoff: cell.backoff, lost: 0, not_before: None };
    loop {
        if !poll_fn(|cx| poll_wanted(cell, cx, &mut timer)).await {
            return;
        }
        match dial_while_wanted(cell, &mut timer, redial.not_before).await {
            Dialled::Unwanted => {}
            Dialled::Failed(why) => {
                redial.not_before = None;
                cell.with(|lane| lane.unreachable(&why));
            }
            Dialled::Connected(stream) => {
                cell.with(ClientLane::connected);
                cell.observe();
                let started = now();
                let mut connection = Connection::new(stream);
                let end = poll_fn(|cx| connection.poll(cx, cell)).await;
                let welcomed = connection.welcomed;
                tracing::debug!(address = %cell.address, ?end, "connection ended");
                // Both halves are closed before the lane draws conclusions from it.
                drop(connection);
                let fault = match &end {
                    End::Broken(error) if !welcomed => HandshakeFault::of(error),
                    _ => None,
                };
                if let Some(fault) = fault {
                    // The peer's transport has refused ours before any of our frames: with TLS 1.3 we learn it late.
                    let why = NotDelivered::Handshake { address: cell.address.clone(), fault };
                    cell.with(|lane| lane.never_admitted(&why));
                }
                cell.with(ClientLane::disconnected);
                if welcomed {
                    redial.lost(started);
                } else {
                    // A listener that takes connections and drops them is none; it would be dialled for ever.
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
    not_before: Option<Instant>,
}

impl Redial {
    fn lost(&mut self, started: Instant) {
        let now = now();
        if now.saturating_duration_since(started) >= self.backoff.max {
            self.lost = 0;
        }
        self.not_before = now.checked_add(self.backoff.pause(self.lost, random_u64()));
        self.lost = self.lost.saturating_add(1);
    }
}

/// `true`: a connection is wanted. `false`: the client is gone.
fn poll_wanted(cell: &LaneCell, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<bool> {
    cell.driver.register(cx.waker());
    loop {
        let (wanted, open, deadline) = cell.with(|lane| {
            lane.handle_timeout(now());
            (lane.wants_connection(), lane.has_open(), lane.poll_deadline())
        });
        if wanted {
            return Poll::Ready(true);
        }
        if !open && cell.handles.load(Ordering::Acquire) == 0 {
            return Poll::Ready(false);
        }
        if timer.poll(cx, deadline).is_pending() {
            return Poll::Pending;
        }
    }
}

async fn dial_while_wanted(cell: &LaneCell, timer: &mut Timer, not_before: Option<Instant>) -> Dialled {
    let attempt = async {
        if let Some(not_before) = not_before {
            tokio::time::sleep_until(not_before.into()).await;
        }
        dial::dial(&cell.address).await
    };
    let mut attempt = std::pin::pin!(attempt);
    poll_fn(|cx| {
        if let Poll::Ready(dialled) = attempt.as_mut().poll(cx) {
            return Poll::Ready(match dialled {
                Ok(stream) => Dialled::Connected(stream),
                Err(why) => Dialled::Failed(why),
            });
        }
        cell.driver.register(cx.waker());
        loop {
            let (wanted, deadline) = cell.with(|lane| {
                lane.handle_timeout(now());
                (lane.wants_connection(), lane.poll_deadline())
            });
            if !wanted {
                return Poll::Ready(Dialled::Unwanted);
            }
            if timer.poll(cx, deadline).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Why a connection ended.
#[derive(Debug)]
#[expect(dead_code, reason = "read by the log line that prints it")]
enum End {
    PeerClosed,
    Goodbye,
    Drained,
    Unused,
    Broken(io::Error),
    Violation(crate::session::Violation),
    FrameTooLarge(usize),
}

/// CANCEL SAFETY: all state is in the struct; a poll that is not repeated loses nothing but the connection.
struct Connection {
    stream: Stream,
    inbound: Inbound,
    writing: BytesMut,
    timer: Timer,
    wakers: Vec<Waker>,
    welcomed: bool,
    /// A write has failed, and until when the end of what the peer wrote is waited for.
    broken: Option<(io::Error, Instant)>,
}

impl Connection {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            inbound: Inbound::default(),
            writing: BytesMut::new(),
            timer: Timer::default(),
            wakers: Vec::new(),
            welcomed: false,
            broken: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, cell: &LaneCell) -> Poll<End> {
        cell.driver.register(cx.waker());
        for _ in 0..TURNS_MAX {
            match self.poll_turn(cx, cell) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One write and one read. `Ready(Ok)`: there may be more to do.
    fn poll_turn(&mut self, cx: &mut Context<'_>, cell: &LaneCell) -> Poll<Result<(), End>> {
        let mut deadline = None;
        let mut finished = None;
        let unused = cell.handles.load(Ordering::Acquire) == 0;
        {
            let mut lane = lock(&cell.lane);
            if lane.poll_deadline().is_some() || lane.wants_transmit() {
                let now = now();
                lane.handle_timeout(now);
                if self.writing.is_empty() {
                    lane.poll_transmit(now, &mut self.writing);
                    if !self.stream.proves_unsent() {
                        // It may send in part what it will say that it did not take. SPEC: PROTOCOL §4.3.
                        lane.transmitted(self.writing.len());
                    }
                }
                deadline = lane.poll_deadline();
            }
            // A Cancel of the last call goes out first: the server waits for that handler.
            let all_sent = self.writing.is_empty() && !self.stream.wants_flush();
            if lane.is_drained() && all_sent {
                finished = Some(End::Drained);
            } else if unused && !lane.has_open() && all_sent {
                lane.say_done();
                lane.poll_transmit(now(), &mut self.writing);
                finished = Some(End::Unused);
            }
            lane.take_wakers(&mut self.wakers);
        }
        wake_all(&mut self.wakers);
        if let Some(end) = finished {
            // Best effort: a server that is not told forgets the lane later.
            let _ = poll_write_all(cx, &mut self.stream, &mut self.writing, |_| {});
            return Poll::Ready(Err(end));
        }
        if self.broken.is_none() && (!self.writing.is_empty() || self.stream.wants_flush()) {
            let exact = self.stream.proves_unsent();
            let transmitted = |bytes| {
                cell.metrics.wrote(bytes);
                if exact {
                    lock(&cell.lane).transmitted(bytes);
                }
            };
            if let Poll::Ready(Err(error)) = poll_write_all(cx, &mut self.stream, &mut self.writing, transmitted) {
                self.broken = Some((error, now() + LAST_WORDS_TIMEOUT));
            }
        }
        let wrote = self.broken.is_none() && self.writing.is_empty();
        if let Poll::Ready(read) = self.poll_read(cx, cell) {
            return Poll::Ready(read);
        }
        // A peer that is gone may have left answers, and a Goodbye: they are read first. Nothing to read for now does
        // not mean that nothing is there; the end of the stream does.
        let broken_by = self.broken.as_ref().map(|(_, by)| *by);
        if broken_by.is_some_and(|by| now() >= by) {
            return Poll::Ready(Err(self.broken.take().map_or(End::PeerClosed, |(error, _)| End::Broken(error))));
        }
        let due = [deadline, broken_by].into_iter().flatten().min();
        let more = wrote && lock(&cell.lane).wants_transmit();
        if more || self.timer.poll(cx, due).is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, cell: &LaneCell) -> Poll<Result<(), End>> {
        let (wakers, welcomed) = (&mut self.wakers, &mut self.welcomed);
        let read = self.inbound.poll_read(cx, &mut self.stream, |bytes| {
            let mut lane = lock(&cell.lane);
            let taken = take_frames(&mut lane, bytes, cell.limits.frame_bytes_max);
            *welcomed = *welcomed || (taken.0 > 0 && taken.1.is_ok());
            lane.take_wakers(wakers);
            drop(lane);
            cell.metrics.read(taken.0);
            taken
        });
        wake_all(&mut self.wakers);
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

fn take_frames(lane: &mut ClientLane, bytes: &[u8], frame_bytes_max: usize) -> (usize, Result<(), End>) {
    let mut rest = bytes;
    loop {
        match cut(rest, frame_bytes_max) {
            Cut::Frame { frame, consumed } => {
                rest = rest.get(consumed..).unwrap_or_default();
                match lane.handle_frame(frame) {
                    Ok(Next::Continue | Next::Welcomed) => {}
                    Ok(Next::Close) => return (bytes.len() - rest.len(), Err(End::Goodbye)),
                    Err(violation) => return (bytes.len() - rest.len(), Err(End::Violation(violation))),
                }
            }
            Cut::Incomplete { .. } => return (bytes.len() - rest.len(), Ok(())),
            Cut::TooLarge { announced } => return (bytes.len() - rest.len(), Err(End::FrameTooLarge(announced))),
        }
    }
}
