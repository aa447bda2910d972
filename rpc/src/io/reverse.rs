//! Calls of the accepting side, as both drivers see them: what the connecting side offers and answers, and what watches the
//! accepting side's calls while no connection does.
//!
//! A connection without an offer pays nothing for this. The two lanes of a connection have a lock each; where both are
//! held, the connecting side's lane was locked first.
//!
//! Part of the drivers `client` and `server`.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::client::CallingCell;
use super::hub::ServingCell;
use super::lock;
use super::serving::Answering;
use super::timer::{Timer, now};
use crate::id::{Incarnation, PeerId};
use crate::limits::Limits;
use crate::metrics::ServerMetrics;
use crate::peer::Peer;
use crate::service::Connect;
use crate::session::Violation;
use crate::session::client::{ClientLane, Memory};
use crate::session::server::{ServerLane, Taken};
use crate::sync::{Mutex, spawn};
use crate::wire::hello::ServiceInfo;
use crate::wire::outgoing::Outgoing;

/// The service that a client answers on its own connection, and what it knows of whom it has answered.
pub(crate) struct Offered {
    pub(crate) info: ServiceInfo,
    connect: Arc<dyn Connect>,
    limits: Limits,
    metrics: ServerMetrics,
    /// Outlives the client's driver: a memory of the server that comes again must find what it was answered.
    known: Mutex<Option<Known>>,
}

/// What belongs to one memory of the server.
struct Known {
    of: (PeerId, Incarnation, u64),
    cell: Arc<ServingCell>,
}

/// The handlers of an offered service, in the hands of a client's driver. Dropped, it stops them and answers for them.
pub(super) struct Serving {
    cell: Arc<ServingCell>,
    half: Box<dyn Answering>,
    epoch: u64,
}

impl Offered {
    pub(crate) fn new(info: ServiceInfo, connect: Arc<dyn Connect>, limits: Limits) -> Self {
        let metrics = ServerMetrics::new(&info);
        Self { info, connect, limits, metrics, known: Mutex::default() }
    }

    /// A connection was accepted: what answers on it. `serving` is what answered on the one before.
    pub(super) fn welcomed(
        &self,
        serving: Option<Serving>,
        memory: Memory,
        epoch: u64,
        peer: Peer,
        back: &Weak<CallingCell>,
    ) -> Serving {
        let of = (memory.server.0, memory.server.1, memory.born);
        let cell = {
            let mut known = lock(&self.known);
            match &*known {
                Some(known) if known.of == of => Arc::clone(&known.cell),
                _ => {
                    let lane = ServerLane::reverse(self.limits.clone());
                    let cell = Arc::new(ServingCell::of_client(lane, self.metrics.lane(), back.clone()));
                    *known = Some(Known { of, cell: Arc::clone(&cell) });
                    cell
                }
            }
        };
        // Whoever is to be woken by it is woken when the read that brought the Welcome has been taken.
        lock(&cell.lane).attach_reverse(epoch, memory.window, memory.frame_bytes_max);
        match serving {
            Some(mut serving) if Arc::ptr_eq(&serving.cell, &cell) => {
                serving.epoch = epoch;
                serving
            }
            former => {
                if let Some(former) = former {
                    former.run_out();
                }
                let half = self.connect.answering(peer, self.info.clone());
                Serving { cell, half, epoch }
            }
        }
    }
}

impl Serving {
    /// Who is to be woken when a handler, or an answer, has something to do.
    pub(super) fn register(&self, waker: &Waker) {
        self.cell.driver.register(waker);
        self.half.register(waker);
    }

    /// Polls the handlers that were woken. Returns whether any was.
    pub(super) fn poll_woken(&mut self) -> bool {
        self.half.poll_woken(&self.cell, self.epoch)
    }

    /// Stops handlers whose deadline has passed. Returns the next one.
    pub(super) fn expire(&self) -> Option<Instant> {
        self.cell.with(|lane| {
            if lane.poll_deadline().is_some() {
                lane.handle_timeout(now());
            }
            lane.poll_deadline()
        })
    }

    /// Appends what is to be written to `writing`; a producer for whom that makes room is woken.
    pub(super) fn transmit(&mut self, writing: &mut Outgoing) {
        self.cell.with(|lane| lane.poll_frames(self.epoch, writing));
    }

    pub(super) fn wants_transmit(&self) -> bool {
        lock(&self.cell.lane).wants_transmit(self.epoch)
    }

    /// Takes one frame, which ends at `end` of what was read.
    pub(super) fn take(&mut self, now: Instant, frame: &[u8], end: usize) -> Result<(), Violation> {
        match lock(&self.cell.lane).handle_frame(now, self.epoch, frame)? {
            Taken::Call(call) => self.half.queue(&call, end),
            Taken::Nothing | Taken::Closed | Taken::Fenced => {}
        }
        Ok(())
    }

    /// What was read has been taken: handlers start, and whoever waits for something is woken.
    pub(super) fn taken(&mut self, bytes: &[u8]) {
        self.cell.with(|_| ());
        self.half.start_queued(now(), &self.cell, self.epoch, bytes);
    }

    /// Bytes of answers that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        lock(&self.cell.lane).queued_bytes()
    }

    /// Takes no further request.
    pub(super) fn drain(&self) {
        self.cell.with(ServerLane::drain);
    }

    /// Whether every handler has ended and every answer was handed to the writer.
    pub(super) fn is_drained(&self) -> bool {
        lock(&self.cell.lane).is_drained()
    }

    /// Nothing to do for now.
    pub(super) fn rest(&mut self) {
        self.half.rest();
    }

    /// The connection has ended.
    pub(super) fn detach(&self) {
        self.cell.with(|lane| lane.detach(self.epoch, now()));
    }

    /// The handlers run to their ends without this driver.
    pub(super) fn run_out(mut self) {
        if self.half.running() > 0 {
            spawn(async move { self.half.run_out(&self.cell, self.epoch).await });
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.half.abort(&self.cell);
    }
}

/// Ends the accepting side's calls by their deadlines while they have no connection, until their lane is over. One task for
/// each lane whose client offers a service.
pub(super) async fn watch(cell: Arc<CallingCell>) {
    struct Ends(Arc<CallingCell>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.end();
        }
    }
    let watched = Ends(cell);
    let mut timer = Timer::default();
    poll_fn(|cx| poll_watch(&watched.0, cx, &mut timer)).await;
}

fn poll_watch(cell: &CallingCell, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<()> {
    cell.register_watch(cx.waker());
    loop {
        let (over, connected, due) = cell.with(|lane| {
            if !lane.is_connected() && lane.poll_deadline().is_some() {
                lane.handle_timeout(now());
            }
            (lane.is_closed(), lane.is_connected(), lane.poll_deadline())
        });
        if over {
            return Poll::Ready(());
        }
        // With a connection, its driver has the clock.
        if connected || timer.poll(cx, due).is_pending() {
            return Poll::Pending;
        }
    }
}

/// The accepting side's calls, in the hands of a connection's driver.
pub(super) struct Calling {
    pub(super) cell: Arc<CallingCell>,
    epoch: u64,
    /// Bytes of the batch being written that are not these calls', and go first.
    ahead: usize,
    /// Whether bytes that the transport has not taken cannot have left.
    exact: bool,
    wakers: Vec<Waker>,
}

impl Calling {
    pub(super) fn new(cell: Arc<CallingCell>, epoch: u64, exact: bool) -> Self {
        Self { cell, epoch, ahead: 0, exact, wakers: Vec::new() }
    }

    /// Timers, and what goes behind `writing`, if that is `fresh`. Returns when something falls due next.
    pub(super) fn transmit(&mut self, waker: &Waker, writing: &mut Outgoing, fresh: bool) -> Option<Instant> {
        self.present(|calling, lane| {
            // Under the lock: a connection that has been superseded must not take the place of its successor's waker.
            calling.cell.register(waker);
            if lane.poll_deadline().is_some() || lane.wants_transmit() {
                let now = now();
                lane.handle_timeout(now);
                if fresh {
                    calling.ahead = writing.len();
                    lane.poll_frames(now, writing);
                    if !calling.exact {
                        lane.transmitted(writing.len() - calling.ahead);
                    }
                }
            } else if fresh {
                calling.ahead = writing.len();
            }
            lane.poll_deadline()
        })?
    }

    /// Whether calls or streams are open.
    pub(super) fn has_open(&self) -> bool {
        self.cell.lock().has_open()
    }

    /// Bytes of frames that wait to be written and are no requests: what the other side can make grow.
    pub(super) fn control_bytes(&self) -> usize {
        self.cell.lock().control_bytes()
    }

    /// Counts what the calls hold.
    pub(super) fn hold(&self) {
        self.cell.hold(&self.cell.lock());
    }

    pub(super) fn wants_transmit(&self) -> bool {
        let lane = self.cell.lock();
        lane.is_attached(self.epoch) && lane.wants_transmit()
    }

    /// The kernel has taken `bytes` more of the batch.
    pub(super) fn transmitted(&mut self, bytes: usize) {
        let ahead = self.ahead.min(bytes);
        self.ahead -= ahead;
        if bytes > ahead && self.exact {
            self.present(|_, lane| lane.transmitted(bytes - ahead));
        }
    }

    /// Takes one frame; one of a connection that was superseded is not heard.
    pub(super) fn take(&mut self, frame: &[u8], wakers: &mut Vec<Waker>) -> Result<(), Violation> {
        let mut lane = self.cell.lock();
        if lane.is_attached(self.epoch) {
            lane.handle_frame(frame)?;
            lane.take_wakers(wakers);
        }
        Ok(())
    }

    /// The connection has ended, both halves of it.
    pub(super) fn detach(&mut self) {
        self.present(|calling, lane| lane.detach_reverse(calling.epoch));
        self.cell.wake_watch();
    }

    /// Works on the lane, if this is still its connection.
    fn present<T>(&mut self, work: impl FnOnce(&mut Self, &mut ClientLane) -> T) -> Option<T> {
        let cell = Arc::clone(&self.cell);
        let mut wakers = std::mem::take(&mut self.wakers);
        let result = {
            let mut lane = cell.lock();
            let result = lane.is_attached(self.epoch).then(|| work(self, &mut lane));
            lane.take_wakers(&mut wakers);
            result
        };
        super::wake_all(&mut wakers);
        self.wakers = wakers;
        result
    }
}

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offered").field("service", &self.info.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CALLING_BYTES;

    #[test]
    fn lane_of_our_own_calls_costs_no_more_than_is_counted_for_it() {
        let cell = Arc::new(CallingCell::reverse(Limits::default(), None));
        // Counters of both `Arc`s, and what the runtime adds to a task.
        let counters = 256;
        let bytes = size_of::<CallingCell>() + size_of_val(&watch(cell)) + counters;
        assert!(bytes * 3 / 2 <= CALLING_BYTES, "{bytes} bytes");
    }
}
