//! The client's half of a lane: ids, open calls, doubts and streams.
//!
//! Pure state. Never says *not delivered* of bytes that the kernel may have taken; never sends an id twice to a
//! server that may have forgotten the first; never drops an open call without an outcome.
//!
//! Driven by `io::client`; called by `client`. The methods that callers use are here; `link` has what happens to the
//! connection, `receive` what the server says, `reverse` the lane on which the accepting side calls.
//! Longer than most files: what callers use is one list of methods over one table.

mod link;
mod receive;
mod reverse;

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

pub use self::receive::{Memory, Next};
pub use self::reverse::Offer;
use super::payload::Payload;
use super::planted::{Bug, Planted};
use super::stream_in::StreamIn;
pub use super::stream_in::{Arrival, StreamEnd};
use super::window::Window;
use crate::id::{Incarnation, PeerId};
use crate::limits::{BULK_BYTES, FIRST_IDS_MAX, LARGE_BODY_BYTES, Limits, PARKED_IDS};
use crate::outcome::{Cause, NotDelivered, Refusal, Stage};
use crate::request::MethodInfo;
use crate::wire::frame::{self, Oversized};
use crate::wire::header::{self, FLAGS_AT, IGNORABLE, KIND_AT, Kind, RequestHeader};
use crate::wire::hello::ServiceInfo;
use crate::wire::outgoing::{Frames, Outgoing};

/// Which lane this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneIdentity {
    /// The client.
    pub peer: PeerId,
    /// Its life.
    pub incarnation: Incarnation,
    /// The number of the lane.
    pub lane: u32,
}

/// How a call ended, before its types are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The ack's bytes.
    Ack(Payload),
    /// The rejection's bytes.
    Rejected(Payload),
    /// No handler saw it and none will.
    NotDelivered(NotDelivered),
    /// In doubt.
    Unknown(Stage, Cause),
}

/// A request to be queued.
#[derive(Clone, Copy, Debug)]
pub struct Submit<'a> {
    /// The method.
    pub method: u16,
    /// Its version.
    pub version: u16,
    /// The encoded request.
    pub body: &'a [u8],
    /// When the call ends at the latest.
    pub deadline: Instant,
    /// Whether it opens a stream.
    pub stream: bool,
    /// Further TLVs of its header, as [`put_tlv`](header::put_tlv) makes them.
    pub tlvs: &'a [u8],
}

/// Why a request was not queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// The window or the queue is full; it may have room later.
    Full,
    /// It can never be sent.
    Refused(NotDelivered),
}

/// What became of a client's connections: made, lost, not made; of answers that came late, and doubts that were resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCounters {
    /// Answers for ids that nobody waited for any more.
    pub late_answers: u64,
    /// Connections that were established.
    pub connections: u64,
    /// Calls resolved after a reconnect.
    pub resolved: u64,
    /// Connections that could not be made.
    pub unreachable: u64,
    /// Times that the lane was dropped because its server restarted: what was open then is unknown.
    pub restarted: u64,
    /// Times that a server which lives on had forgotten the lane: what was open then is unknown.
    pub forgotten: u64,
}

/// Large answers that a server keeps although nobody wants them any more. It learns that from the floor of a request or a Park,
/// which must be above them.
#[derive(Clone, Copy, Debug, Default)]
struct Untold {
    /// The id of the last of them.
    last: u64,
    /// Of all of them together; some may have been told since the last was added.
    bytes: usize,
}

impl Untold {
    /// The next request says it; for small ones nothing else does.
    fn add(&mut self, id: u64, outcome: &Outcome) {
        if let Outcome::Ack(payload) | Outcome::Rejected(payload) = outcome
            && payload.as_slice().len() >= LARGE_BODY_BYTES
        {
            self.join(Self { last: id, bytes: payload.as_slice().len() });
        }
    }

    fn join(&mut self, other: Self) {
        (self.last, self.bytes) = (self.last.max(other.last), self.bytes.saturating_add(other.bytes));
    }
}

/// The client's half of a lane.
#[derive(Debug)]
pub struct ClientLane {
    limits: Limits,
    role: Role,
    /// On every frame of this lane.
    flags: u8,
    /// The most request bytes that one claim takes, a whole frame aside.
    claim_bytes_max: usize,
    link: Link,
    /// The number of the last connection; 0 before the first.
    epoch: u64,
    farewell: Option<Refusal>,
    /// The server that this lane has spoken to, if any: another one remembers none of our ids.
    server: Option<(PeerId, Incarnation)>,
    /// The epoch with which that server's memory of this lane began, and what became of the one before: it cannot be
    /// asked about ids that were written earlier.
    born: u64,
    forgotten: Cause,
    frame_bytes_max: usize,
    /// What both sides allow.
    window_ids_max: u32,
    /// Until a server has said what it allows: the floor of the first frame that is queued for it.
    first_floor: Option<u64>,
    /// How far the server says it has come with what the present connection has brought.
    progress: Progress,
    /// Whether anybody may be waiting for a stage.
    stages_watched: bool,
    /// The window of the server's Welcome, for the lane in the other direction.
    welcomed: Option<Memory>,
    window: Window<Entry>,
    next_id: u64,
    /// Frames that go before any request of the next claim.
    control: Outgoing,
    /// The last ping that has no answer yet, by its nonce. One is enough: who asks wants to hear that we are there.
    pong: Option<u64>,
    /// Requests that no writer has claimed. They may still be voided, and they survive a lost connection.
    out: Outgoing,
    /// How many frames in `out` are not voided.
    queued: usize,
    /// How many request bytes were ever claimed: the offset of `out`'s first byte.
    out_base: u64,
    /// The same without large bodies.
    small_base: u64,
    /// The lowest id whose frame may be in `out`.
    first_queued: u64,
    claim: Option<Claim>,
    /// How many request bytes the kernel has taken, of all that were claimed.
    written: u64,
    /// A lower bound of the next deadline; found exactly when it passes.
    earliest: Option<Instant>,
    streams: BTreeMap<u64, StreamIn>,
    /// Tasks that wait for room in the window.
    blocked: VecDeque<Waker>,
    /// Tasks to be woken once the lane is unlocked.
    wakers: Vec<Waker>,
    /// The list of parked ids has changed since the server was told.
    park_dirty: bool,
    /// Large answers that are let go here, and that the server keeps until it is told.
    untold: Untold,
    /// The last request that told it of some, and of which.
    teller: (u64, Untold),
    closed: bool,
    counters: LaneCounters,
    planted: Planted,
}

/// Whether this lane opens its connections.
#[derive(Debug)]
enum Role {
    /// It does: each begins with a Hello that says this.
    Connecting { identity: LaneIdentity, service: ServiceInfo, serves: Option<ServiceInfo>, secret: Option<Bytes> },
    /// It does not: it calls what the connecting side offers, if that is anything.
    Accepting(Option<Offer>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    /// Hello is on its way. Requests may follow at once if this server cannot know the lane yet.
    Opening {
        optimistic: bool,
    },
    Up,
    /// The server takes nothing above this id.
    Draining {
        last: u64,
    },
}

/// The highest ids that the server has taken up, and has begun a handler for, on the present connection.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    received: u64,
    started: u64,
}

impl Progress {
    /// How far a request is known to have come.
    fn stage(self, id: u64, entry: &Entry) -> Stage {
        match entry.state {
            State::Sent if id <= self.started => Stage::Started,
            State::Sent if id <= self.received => entry.stage.max(Stage::Received),
            _ => entry.stage,
        }
    }
}

/// What the writer holds: so many bytes of control frames, then requests up to this offset.
#[derive(Clone, Copy, Debug)]
struct Claim {
    control: usize,
    requests: usize,
}

#[derive(Debug)]
struct Entry {
    state: State,
    stage: Stage,
    /// The task waits for this stage too, not only for the outcome.
    watched: Option<Stage>,
    waker: Option<Waker>,
    deadline: Instant,
    /// Where its frame begins among all request bytes of this lane but large bodies.
    start: u64,
    /// Where it ends among all of them.
    end: u64,
    /// The connection on which it was first claimed; 0 before.
    epoch: u64,
}

#[derive(Debug)]
enum State {
    /// In `out`.
    Queued,
    /// Claimed by the writer of the present connection.
    Sent,
    /// Written on an earlier connection; to be resolved on the next.
    InDoubt,
    /// The outcome waits for its caller.
    Done(Outcome),
    /// Its caller was told *unknown* and may resolve it. The answer, should it still come.
    Doubt(Option<Outcome>),
    /// Resolving is useless: that server is gone or has forgotten.
    Lost(Cause),
}

impl Entry {
    /// It has come to `stage` at least. Gives the task that waited for that.
    fn raise(&mut self, stage: Stage) -> Option<Waker> {
        self.stage = self.stage.max(stage);
        if self.watched.is_some_and(|watched| watched <= self.stage) {
            self.watched = None;
            return self.waker.take();
        }
        None
    }
}

impl ClientLane {
    /// A lane that has never been connected.
    pub fn new(identity: LaneIdentity, service: ServiceInfo, limits: Limits) -> Self {
        Self::in_role(Role::Connecting { identity, service, serves: None, secret: None }, limits)
    }

    /// Offers a service for the calls of the other side, from the next connection on.
    pub fn offer(&mut self, offered: ServiceInfo) {
        if let Role::Connecting { serves, .. } = &mut self.role {
            *serves = Some(offered);
            // Answers of the other direction share the connection: they are not to wait behind all that is queued.
            self.claim_bytes_max = BULK_BYTES;
        }
    }

    /// Shows a secret in each Hello, from the next connection on.
    pub fn show_secret(&mut self, shown: Bytes) {
        if let Role::Connecting { secret, .. } = &mut self.role {
            *secret = Some(shown);
        }
    }

    fn in_role(role: Role, mut limits: Limits) -> Self {
        // No server is bound to take more.
        limits.parked_max = limits.parked_max.min(PARKED_IDS);
        Self {
            frame_bytes_max: limits.frame_bytes_max,
            window_ids_max: limits.window,
            first_floor: None,
            limits,
            role,
            flags: 0,
            claim_bytes_max: usize::MAX,
            progress: Progress::default(),
            stages_watched: false,
            welcomed: None,
            link: Link::Down,
            epoch: 0,
            farewell: None,
            server: None,
            born: 0,
            forgotten: Cause::Forgotten,
            window: Window::new(1),
            next_id: 1,
            control: Outgoing::default(),
            pong: None,
            out: Outgoing::default(),
            queued: 0,
            out_base: 0,
            small_base: 0,
            first_queued: 1,
            claim: None,
            written: 0,
            earliest: None,
            streams: BTreeMap::new(),
            blocked: VecDeque::new(),
            wakers: Vec::new(),
            park_dirty: false,
            untold: Untold::default(),
            teller: (0, Untold::default()),
            closed: false,
            counters: LaneCounters::default(),
            planted: Planted::default(),
        }
    }

    /// Plants a bug.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// Queues a request and gives it its id.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was queued and no id was used.
    pub fn submit(&mut self, request: Submit<'_>) -> Result<u64, SubmitError> {
        self.submit_body(request, None)
    }

    /// Like [`submit`](Self::submit); a body that is given is sent in place of the borrowed one, and not copied.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was queued and no id was used.
    pub fn submit_body(&mut self, request: Submit<'_>, body: Option<Bytes>) -> Result<u64, SubmitError> {
        if self.closed {
            return Err(SubmitError::Refused(self.why_closed().0));
        }
        if let Link::Draining { .. } = self.link {
            return Err(SubmitError::Refused(NotDelivered::Draining));
        }
        self.make_room()?;
        let header = RequestHeader {
            flags: self.flags,
            id: self.next_id,
            floor: if self.planted.is(Bug::FloorOverOpenIds) { self.next_id } else { self.window.floor() },
            method: request.method,
            version: request.version,
            // Stamped when the frame is claimed.
            remaining_ms: 0,
            credit: request.stream.then_some((self.limits.stream_items, self.limits.stream_bytes)),
        };
        let start = self.small_base.saturating_add(to_u64(self.out.small_len()));
        let header = |out: &mut BytesMut| header::put_request_with(out, &header, request.tlvs);
        match body {
            Some(body) => self.out.append_large(self.frame_bytes_max, header, body),
            None => frame::append(self.out.small(), self.frame_bytes_max, |out| {
                header(out);
                out.extend_from_slice(request.body);
                Ok(())
            }),
        }
        .map_err(|e| SubmitError::Refused(NotDelivered::TooLarge { bytes: e.bytes, max: e.max }))?;
        let entry = Entry {
            state: State::Queued,
            stage: Stage::Written,
            watched: None,
            waker: None,
            deadline: request.deadline,
            start,
            end: self.out_base.saturating_add(to_u64(self.out.len())),
            epoch: 0,
        };
        let inserted = self.window.insert(self.next_id, entry, self.window_span());
        debug_assert!(inserted, "make_room has made room");
        if request.stream {
            self.streams.insert(self.next_id, StreamIn::new(self.limits.stream_items, self.limits.stream_bytes));
        }
        if self.is_new() {
            self.first_floor.get_or_insert(self.window.floor());
        }
        self.queued = self.queued.saturating_add(1);
        self.expect_by(request.deadline);
        let id = self.next_id;
        if self.untold.bytes > 0 && self.window.floor() > self.untold.last {
            self.teller = (id, std::mem::take(&mut self.untold));
        }
        self.next_id = self.next_id.saturating_add(1);
        Ok(id)
    }

    /// The outcome of `id`, once. After an outcome other than `Unknown` the id is closed; after `Unknown` it stays
    /// open for [`resolve`](Self::resolve) until [`release`](Self::release).
    pub fn poll_outcome(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(entry) = self.window.get_mut(id) else {
            // Not reachable from `client`, which polls an id no more once it has its outcome.
            return Poll::Ready(Outcome::Unknown(Stage::Written, Cause::Forgotten));
        };
        if !matches!(entry.state, State::Done(_)) {
            match &mut entry.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let State::Done(outcome) = std::mem::replace(&mut entry.state, State::Doubt(None)) else {
            return Poll::Pending;
        };
        self.untold.add(id, &outcome);
        match &outcome {
            Outcome::Unknown(_, cause @ (Cause::PeerRestarted | Cause::Forgotten)) => entry.state = State::Lost(*cause),
            // Its memory ended while the outcome waited for its caller.
            Outcome::Unknown(..) if entry.epoch < self.born => entry.state = State::Lost(self.forgotten),
            Outcome::Unknown(..) => {}
            Outcome::Ack(_) => self.close(id),
            Outcome::Rejected(_) | Outcome::NotDelivered(_) => {
                self.end_stream(id, StreamEnd::Lost);
                self.streams.remove(&id);
                self.close(id);
            }
        }
        Poll::Ready(outcome)
    }

    /// Wakes `waker` when the outcome of `id` is there. `false`: it is there.
    pub fn watch_outcome(&mut self, id: u64, waker: &Waker) -> bool {
        let Some(entry) = self.window.get_mut(id).filter(|entry| !matches!(entry.state, State::Done(_))) else {
            return false;
        };
        entry.waker = Some(waker.clone());
        true
    }

    /// How far `id`, whose outcome is not known yet, has come; `None` while its frame waits for the writer.
    pub fn progress(&self, id: u64) -> Option<Stage> {
        let entry = self.window.get(id)?;
        (!matches!(entry.state, State::Queued)).then(|| self.progress.stage(id, entry))
    }

    /// The task that waits for the outcome of `id` is woken also when it has come to `stage`.
    pub fn watch_stage(&mut self, id: u64, stage: Stage) {
        if let Some(entry) = self.window.get_mut(id) {
            entry.watched = Some(stage);
            self.stages_watched = true;
        }
    }

    /// Waits for room in the window, until `deadline`.
    pub fn wait_for_room(&mut self, deadline: Instant, waker: &Waker) {
        self.expect_by(deadline);
        if !self.blocked.iter().any(|known| known.will_wake(waker)) {
            self.blocked.push_back(waker.clone());
        }
    }

    /// Whether one more request would be queued now; woken when that may have changed.
    pub fn poll_room(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        // What refuses a request for good is the request's to say.
        if self.closed || self.make_room().is_ok() {
            return Poll::Ready(());
        }
        self.wait_for_room(deadline, cx.waker());
        Poll::Pending
    }

    /// The caller has gone. A frame that nobody claimed is voided, anything else is cancelled at the server.
    pub fn abandon(&mut self, id: u64) {
        let Some(entry) = self.window.get(id) else { return };
        // What was voided is not voided again.
        let leaks = self.planted.is(Bug::IdLeaked) && !matches!(entry.state, State::Queued);
        match entry.state {
            State::Queued => self.void(id),
            // In doubt, and about to be asked for by the call that is dropped: its handler may run.
            State::Sent | State::InDoubt | State::Doubt(None) => self.put_control(Kind::Cancel, 0, id, &[]),
            State::Done(_) | State::Doubt(Some(_)) | State::Lost(_) => self.drop_stream(id),
        }
        self.let_go(id);
        self.streams.remove(&id);
        if !leaks {
            self.close(id);
        }
    }

    /// Asks again what became of an id whose outcome was unknown. The answer comes by
    /// [`poll_outcome`](Self::poll_outcome), by `deadline`.
    pub fn resolve(&mut self, id: u64, deadline: Instant) {
        // Before the Welcome nothing is asked: it may say that there is nobody left to ask.
        let connected = matches!(self.link, Link::Up | Link::Draining { .. });
        let (closed, ended) = (self.closed, self.why_closed().1);
        let Some(entry) = self.window.get_mut(id) else { return };
        let stage = entry.stage;
        entry.deadline = deadline;
        entry.state = match std::mem::replace(&mut entry.state, State::InDoubt) {
            State::Doubt(Some(outcome)) => State::Done(outcome),
            State::Doubt(None) if closed => State::Done(Outcome::Unknown(stage, ended)),
            State::Doubt(None) => State::InDoubt,
            State::Lost(cause) => State::Done(Outcome::Unknown(stage, cause)),
            other => other,
        };
        if matches!(entry.state, State::InDoubt) {
            self.expect_by(deadline);
            if connected {
                self.put_control(Kind::Resolve, 0, id, &[]);
            }
        }
    }

    /// Gives an unresolved doubt up: the server may forget the id. Its handler runs on, unless it is to open a stream:
    /// nobody could read that.
    pub fn release(&mut self, id: u64) {
        self.drop_stream(id);
        self.let_go(id);
        self.close(id);
    }

    /// The next item of the stream that `id` opened, or word that some are missing.
    pub fn poll_item(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Result<Arrival, StreamEnd>> {
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Err(StreamEnd::Lost)) };
        let item = stream.poll_item(cx);
        if let Some((items, bytes)) = stream.refill(self.limits.stream_items, self.limits.stream_bytes) {
            self.put_control(Kind::Credit, items, id, &bytes.to_le_bytes());
        }
        item
    }

    /// The reader of a stream has gone.
    pub fn drop_stream(&mut self, id: u64) {
        // One that the server has ended is nothing to it any more.
        if self.streams.remove(&id).is_some_and(|stream| !stream.is_over()) {
            self.put_control(Kind::Cancel, 0, id, &[]);
        }
    }

    /// Tasks to wake. Call it before unlocking, wake after.
    pub fn take_wakers(&mut self, into: &mut Vec<Waker>) {
        into.append(&mut self.wakers);
    }

    /// Whether anybody waits for something that needs a connection.
    pub fn wants_connection(&mut self) -> bool {
        self.queued > 0 || self.window.iter_mut().any(|(_, entry)| matches!(entry.state, State::InDoubt))
    }

    /// Whether more than one id is open: then there may be more to write in a moment.
    pub fn has_company(&self) -> bool {
        self.window.span() > 1
    }

    /// Whether calls, doubts or streams are open.
    pub fn has_open(&mut self) -> bool {
        !self.streams.is_empty() || self.window.iter_mut().next().is_some()
    }

    /// What this lane has seen.
    pub fn counters(&self) -> LaneCounters {
        self.counters
    }

    /// Bytes that wait for the writer and are no requests.
    pub fn control_bytes(&self) -> usize {
        self.control.len()
    }

    /// Bytes that this lane holds: what waits for the writer, items that wait for their readers, and what is remembered of
    /// each id, with the room that is kept for more. Not the large answers among these: whoever called is about to take them.
    pub fn held_bytes(&self) -> usize {
        let items = self.streams.values().map(StreamIn::held_bytes);
        items.fold(self.queued_bytes().saturating_add(self.window.held_bytes()), usize::saturating_add)
    }

    /// Bytes that wait for the writer.
    pub fn queued_bytes(&self) -> usize {
        self.control.len().saturating_add(self.out.len())
    }

    /// Ids that the window covers.
    pub fn window_ids(&self) -> usize {
        self.window.span()
    }

    /// The number of the lane among those of its client.
    pub fn number(&self) -> u32 {
        match &self.role {
            Role::Connecting { identity, .. } => identity.lane,
            Role::Accepting(_) => 0,
        }
    }

    /// How many calls and doubts are open.
    pub fn open(&mut self) -> usize {
        self.window.iter_mut().count()
    }

    /// Why the server said goodbye the last time, if it ever did.
    pub fn farewell(&self) -> Option<Refusal> {
        self.farewell
    }

    /// The methods of the service that it calls; none where that is not one service.
    pub fn methods(&self) -> &'static [MethodInfo] {
        match &self.role {
            Role::Connecting { service, .. } => service.methods,
            _ => &[],
        }
    }

    /// The name of the service that it calls.
    pub fn service(&self) -> &'static str {
        match &self.role {
            Role::Connecting { service, .. } => service.name,
            // Whoever calls names it.
            Role::Accepting(_) => "reverse",
        }
    }

    /// The number of the last connection; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How far `id` is known to have come.
    pub fn stage(&self, id: u64) -> Option<Stage> {
        self.window.get(id).map(|entry| self.progress.stage(id, entry))
    }

    fn window_span(&self) -> usize {
        usize::try_from(self.window_ids_max).unwrap_or(usize::MAX)
    }

    /// Whether no server has ever said what it allows.
    fn is_new(&self) -> bool {
        self.born == 0 && matches!(self.role, Role::Connecting { .. })
    }

    /// Whether nothing more is queued before the first Welcome: it has as many ids as every server takes behind a Hello.
    #[cfg(feature = "testing")]
    pub fn waits_for_welcome(&self) -> bool {
        self.is_new() && !self.is_among_first(self.next_id)
    }

    /// Whether every server takes `id` behind the first Hello, whatever its window.
    pub(super) fn is_among_first(&self, id: u64) -> bool {
        self.first_floor.is_none_or(|floor| id < floor.saturating_add(u64::from(FIRST_IDS_MAX)))
    }

    /// Room for one more id: parks what is old and still open, if it must.
    fn make_room(&mut self) -> Result<(), SubmitError> {
        if self.out.len() >= self.limits.queued_bytes_max {
            return Err(SubmitError::Full);
        }
        if self.is_new() && !self.is_among_first(self.next_id) {
            return Err(SubmitError::Full);
        }
        if self.window.span() < self.window_span() {
            return Ok(());
        }
        // A frame that waits in `out` carries its own floor; parking it before it is sent would cross the Park frame
        // and the request.
        while self.link == Link::Up
            && self.window.floor() < self.first_queued
            && self.window.park_front(self.limits.parked_max)
        {
            self.park_dirty = true;
            // A server that has restarted may allow fewer ids than are open: one place is then not enough.
            if self.window.span() < self.window_span() {
                return Ok(());
            }
        }
        Err(SubmitError::Full)
    }

    /// Nobody takes the answer of `id` any more; it may be here already.
    fn let_go(&mut self, id: u64) {
        if let Some(State::Done(outcome) | State::Doubt(Some(outcome))) = self.window.get(id).map(|entry| &entry.state)
        {
            self.untold.add(id, outcome);
        }
    }

    /// Whether open ids are to be parked so that the server is told of large answers behind them: while it is not, a
    /// call that takes long would have it keep all that end after it.
    fn parks_for_untold(&self) -> bool {
        self.untold.bytes >= self.limits.answer_bytes_max / 4
            && self.window.floor() <= self.untold.last
            && self.window.floor() < self.first_queued
            && self.window.parked().count() < self.limits.parked_max
    }

    fn close(&mut self, id: u64) {
        if self.window.parked().any(|(parked, _)| parked == id) {
            self.park_dirty = true;
        }
        self.window.remove(id);
        self.window.trim();
        self.wake_blocked_if_room();
    }

    /// Wakes as many of those who wait as there may be room for, first come, first served: a thousand of them, woken by every
    /// call that ends, would do nothing else. One that does not use its turn costs the others no more than time: when
    /// half of the window is free, all are woken.
    pub(super) fn wake_blocked_if_room(&mut self) {
        if self.blocked.is_empty() {
            return;
        }
        let new = self.is_new() && !self.is_among_first(self.next_id);
        if new || self.out.len() >= self.limits.queued_bytes_max {
            return;
        }
        let may_park = self.link == Link::Up
            && self.window.floor() < self.first_queued
            && self.window.parked().count() < self.limits.parked_max;
        let free = self.window_span().saturating_sub(self.window.span());
        let all = free.saturating_mul(2) >= self.window_span();
        let turns = if all { usize::MAX } else { free.saturating_add(usize::from(may_park)) };
        self.wakers.extend(self.blocked.drain(..turns.min(self.blocked.len())));
    }

    fn finish(&mut self, id: u64, outcome: Outcome) {
        let Some(entry) = self.window.get_mut(id) else { return };
        match &mut entry.state {
            State::Queued | State::Sent | State::InDoubt => {
                if self.planted.is(Bug::LostWakeup) && matches!(entry.state, State::InDoubt) {
                    entry.waker = None;
                }
                entry.state = State::Done(outcome);
                self.wakers.extend(entry.waker.take());
            }
            State::Doubt(late) => {
                late.get_or_insert(outcome);
                self.counters.late_answers = self.counters.late_answers.saturating_add(1);
            }
            State::Done(_) | State::Lost(_) => {
                self.counters.late_answers = self.counters.late_answers.saturating_add(1);
                // It is not kept here, and nobody will take it.
                self.untold.add(id, &outcome);
            }
        }
    }

    /// Takes a frame back that no writer has claimed: the peer will skip it.
    fn void(&mut self, id: u64) {
        if id == self.teller.0 {
            self.untold.join(std::mem::take(&mut self.teller.1));
        }
        let Some(entry) = self.window.get(id) else { return };
        debug_assert!(entry.start >= self.small_base, "a claimed frame cannot be voided");
        let at = usize::try_from(entry.start.saturating_sub(self.small_base)).unwrap_or(usize::MAX);
        let frame_at = at.saturating_add(frame::LENGTH_BYTES);
        let out = self.out.small();
        if let Some(kind) = out.get_mut(frame_at.saturating_add(KIND_AT)) {
            *kind = Kind::Void.number();
        }
        if let Some(flags) = out.get_mut(frame_at.saturating_add(FLAGS_AT)) {
            *flags = IGNORABLE | self.flags;
        }
        self.queued = self.queued.saturating_sub(1);
        if self.queued == 0 {
            // Nothing but voids: nobody dials, or writes, for them.
            self.drop_out();
        }
    }

    /// Forgets the frames that no writer has claimed; every call that they belong to has its outcome. What is still
    /// being written counts as written from here on, as far as these bytes go: that makes a doubt of what could have been
    /// proved, never the other way round.
    fn drop_out(&mut self) {
        let bytes = to_u64(self.out.len());
        self.small_base = self.small_base.saturating_add(to_u64(self.out.small_len()));
        self.out_base = self.out_base.saturating_add(bytes);
        self.written = self.written.saturating_add(bytes);
        self.out.clear();
        self.queued = 0;
        if self.link == Link::Down {
            self.first_floor = None;
        }
        self.wakers.extend(self.blocked.drain(..));
    }

    fn end_stream(&mut self, id: u64, end: StreamEnd) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.end(end);
            self.wakers.extend(stream.waker());
        }
    }

    /// Queues a control frame. While there is no connection there is nobody to tell: what matters is said again by
    /// Hello, Park and Resolve.
    fn put_control(&mut self, kind: Kind, aux: u32, id: u64, body: &[u8]) {
        if matches!(self.link, Link::Up | Link::Draining { .. } | Link::Opening { optimistic: true }) {
            put_frame_with(&mut self.control, kind, self.flags, aux, id, body);
        }
    }

    fn expect_by(&mut self, deadline: Instant) {
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }
}

/// Appends a frame that has only the common header. Control frames are small: none is ever too large.
pub(crate) fn put_frame(out: &mut impl Frames, kind: Kind, aux: u32, id: u64, body: &[u8]) {
    put_frame_with(out, kind, 0, aux, id, body);
}

/// [`put_frame`], with flags.
pub(crate) fn put_frame_with(out: &mut impl Frames, kind: Kind, flags: u8, aux: u32, id: u64, body: &[u8]) {
    let appended = frame::append(out.small(), usize::MAX, |out| {
        header::put_common(out, kind, flags, aux, id);
        out.extend_from_slice(body);
        Ok::<(), Oversized>(())
    });
    debug_assert!(appended.is_ok(), "a control frame fits a u32");
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// The remaining time in whole milliseconds, at least 1 while anything remains: 0 would mean *expired*.
fn remaining_ms(deadline: Instant, now: Instant) -> u32 {
    let remaining: Duration = deadline.saturating_duration_since(now);
    u32::try_from(remaining.as_micros().div_ceil(1000)).unwrap_or(u32::MAX)
}
