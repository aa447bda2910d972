//! Calling: a client, its calls, and what to do about a doubt.
//!
//! Types begin here: below are bytes. No call is sent twice by the client itself, and none ends without an outcome.
//!
//! Above `session::client`, whose driver is `io::client`.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::address::Address;
use crate::id::{Incarnation, PeerId};
use crate::io::client::LaneCell;
use crate::io::now;
use crate::limits::Limits;
use crate::outcome::{CallError, Cause, NotDelivered, Stage};
use crate::request::{Has, Protocol, Request, StreamRequest};
use crate::service::Service;
use crate::session::client::{ClientLane, LaneCounters, LaneIdentity, Outcome, Submit, SubmitError};
use crate::stream::ItemStream;
use crate::wire::body;

thread_local! {
    /// Where requests are encoded before the lane is locked. Taken out while it is in use: a `Serialize` that calls is
    /// given another one.
    static SCRATCH: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// A client of one service at one address: one lane, one connection, opened when it is first needed.
///
/// Cheap to clone; clones share the lane. The connection is opened again when it was lost and somebody needs it. Needs
/// a tokio runtime with I/O and time when the first call is polled.
pub struct Client<P> {
    cell: Arc<LaneCell>,
    _protocol: PhantomData<fn() -> P>,
}

/// A call that has been prepared. It is sent when it is first polled; dropped before its end, it is cancelled.
#[must_use = "a call is sent when it is awaited"]
pub struct Call<R: Request> {
    open: OpenCall,
    request: Option<R>,
    _request: PhantomData<fn(R)>,
}

/// The part of a call that does not depend on its types.
struct OpenCall {
    cell: Arc<LaneCell>,
    timeout: Duration,
    deadline: Option<Instant>,
    id: Option<u64>,
    stream: bool,
}

/// An outcome that is not known. The server keeps what it knows of the request until this is resolved or dropped.
#[must_use = "a doubt can be resolved"]
pub struct Doubt<R> {
    /// `None` once resolved or where nothing is left to ask.
    id: Option<u64>,
    cell: Arc<LaneCell>,
    timeout: Duration,
    stage: Stage,
    cause: Cause,
    _request: PhantomData<fn(R)>,
}

/// Calls `client`'s service, with the default deadline. The same as `client.call(request)`.
///
/// # Errors
/// [`CallError`]: not delivered, rejected, or in doubt.
///
/// # Cancel safety
/// Dropping the future cancels the call: the request is taken back if it was not written, else its handler is stopped.
/// Whether it had been applied by then stays unknown.
pub async fn call<P: Has<R>, R: Request>(client: &Client<P>, request: R) -> Result<R::Ack, CallError<R>> {
    client.call(request).await
}

impl<P: Protocol> Client<P> {
    /// A client with the default limits. Connects when it is first used.
    pub fn new(address: &Address) -> Self {
        Self::with_limits(address, Limits::default())
    }

    /// A client with limits of its own.
    pub fn with_limits(address: &Address, limits: Limits) -> Self {
        let identity = LaneIdentity { peer: PeerId::random(), incarnation: Incarnation::random(), lane: 0 };
        let lane = ClientLane::new(identity, Service::<P>::INFO, limits.clone());
        Self { cell: Arc::new(LaneCell::new(address.clone(), lane, limits)), _protocol: PhantomData }
    }

    /// Prepares a call.
    pub fn call<R: Request>(&self, request: R) -> Call<R>
    where
        P: Has<R>,
    {
        Call {
            open: OpenCall {
                cell: Arc::clone(&self.cell),
                timeout: self.cell.limits().deadline_default,
                deadline: None,
                id: None,
                stream: false,
            },
            request: Some(request),
            _request: PhantomData,
        }
    }

    /// Calls a method whose ack opens a stream.
    ///
    /// # Errors
    /// [`CallError`], like any call.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call, like any call, and ends the stream if it was opened.
    pub async fn open<R: StreamRequest>(&self, request: R) -> Result<(R::Ack, ItemStream<R::Item>), CallError<R>>
    where
        P: Has<R>,
    {
        let mut call = self.call(request);
        call.open.stream = true;
        let ack = poll_fn(|cx| Pin::new(&mut call).poll(cx)).await?;
        let id = call.open.id.take().unwrap_or_default();
        Ok((ack, ItemStream::new(Arc::clone(&self.cell), id)))
    }

    /// Where this client connects to.
    pub fn address(&self) -> &Address {
        self.cell.address()
    }

    /// What its lane has seen.
    pub fn counters(&self) -> LaneCounters {
        self.cell.with(|lane| lane.counters())
    }
}

impl<R: Request> Call<R> {
    /// Ends the call after `timeout`, counted from its first poll. A longer one than the client's largest is cut to it.
    pub fn deadline(mut self, timeout: Duration) -> Self {
        self.open.timeout = timeout.min(self.open.cell.limits().deadline_max);
        self
    }

    fn submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotDelivered>> {
        let Some(request) = &self.request else { return Poll::Ready(Ok(())) };
        let mut bytes = SCRATCH.take();
        bytes.clear();
        let submitted = match body::encode(request, &mut bytes) {
            Ok(()) => self.open.submit::<R>(cx, &bytes),
            Err(error) => Poll::Ready(Err(NotDelivered::Encode(error.to_string()))),
        };
        if bytes.capacity() > crate::limits::READ_BYTES {
            bytes = BytesMut::new();
        }
        SCRATCH.set(bytes);
        if submitted.is_ready() {
            self.request = None;
        }
        submitted
    }
}

impl<R: Request> Future for Call<R> {
    type Output = Result<R::Ack, CallError<R>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.open.id.is_none() {
            match this.submit(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(why)) => return Poll::Ready(Err(CallError::NotDelivered(why))),
                Poll::Ready(Ok(())) => {}
            }
        }
        let Some(id) = this.open.id else { return Poll::Pending };
        let outcome = std::task::ready!(this.open.cell.with(|lane| lane.poll_outcome(id, cx)));
        let stream = this.open.stream && matches!(outcome, Outcome::Ack(_));
        if !stream {
            // Closed by the lane, or the doubt's from here on.
            this.open.id = None;
        }
        Poll::Ready(typed(outcome, id, &this.open.cell, this.open.timeout))
    }
}

// The request is only read; nothing in a call is pinned.
impl<R: Request> Unpin for Call<R> {}

impl OpenCall {
    fn submit<R: Request>(&mut self, cx: &mut Context<'_>, body: &[u8]) -> Poll<Result<(), NotDelivered>> {
        self.cell.ensure_driver();
        let now = now();
        let timeout = self.timeout;
        let deadline = *self.deadline.get_or_insert_with(|| now.checked_add(timeout).unwrap_or(now));
        let request = Submit { method: R::ID, version: R::VERSION, body, deadline, stream: self.stream };
        let submitted = self.cell.with(|lane| {
            let submitted = lane.submit(request);
            if submitted == Err(SubmitError::Full) && now < deadline {
                lane.wait_for_room(deadline, cx.waker());
            }
            submitted
        });
        match submitted {
            Ok(id) => {
                self.id = Some(id);
                Poll::Ready(Ok(()))
            }
            Err(SubmitError::Full) if now < deadline => Poll::Pending,
            Err(SubmitError::Full) => Poll::Ready(Err(NotDelivered::WindowFull { window: self.cell.limits().window })),
            Err(SubmitError::Refused(why)) => Poll::Ready(Err(why)),
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.cell.with(|lane| {
                lane.abandon(id);
                // Also that of a call which has ended, where the ack that opened it could not be read.
                lane.drop_stream(id);
            });
        }
        self.cell.nudge_if_unused();
    }
}

impl<R: Request> Doubt<R> {
    /// How far the request is known to have come.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Why the outcome is in doubt.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Asks the server what became of the request: connects again if need be, and waits for the handler if it still
    /// runs, at most as long as the call was given.
    ///
    /// # Errors
    /// `NotDelivered` is the server's word that it never saw the request and now never will take it; `Unknown` again
    /// if it cannot be reached, has restarted, or its handler was stopped.
    ///
    /// # Cancel safety
    /// Dropping the future gives the doubt up, as dropping the doubt does; the handler runs on.
    pub async fn resolve(mut self) -> Result<R::Ack, CallError<R>> {
        let Some(id) = self.id else { return Err(CallError::Unknown(self)) };
        self.cell.ensure_driver();
        let now = now();
        let deadline = now.checked_add(self.timeout).unwrap_or(now);
        self.cell.with(|lane| lane.resolve(id, deadline));
        self.cell.nudge();
        let outcome = poll_fn(|cx| self.cell.with(|lane| lane.poll_outcome(id, cx))).await;
        self.id = None;
        // An ack that is found this late has no reader for the stream that it may have opened.
        self.cell.with(|lane| lane.drop_stream(id));
        typed(outcome, id, &self.cell, self.timeout)
    }
}

impl<R> Drop for Doubt<R> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.cell.with(|lane| lane.release(id));
        }
        self.cell.nudge_if_unused();
    }
}

impl<P> Clone for Client<P> {
    fn clone(&self) -> Self {
        self.cell.add_handle();
        Self { cell: Arc::clone(&self.cell), _protocol: PhantomData }
    }
}

impl<P> Drop for Client<P> {
    fn drop(&mut self) {
        self.cell.drop_handle();
    }
}

impl<P: Protocol> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("service", &P::NAME)
            .field("address", self.cell.address())
            .finish_non_exhaustive()
    }
}

impl<R: Request> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &R::NAME).field("id", &self.open.id).finish_non_exhaustive()
    }
}

impl<R> fmt::Debug for Doubt<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doubt").field("stage", &self.stage).field("cause", &self.cause).finish_non_exhaustive()
    }
}

impl<R> fmt::Display for Doubt<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (it was {})", self.cause, self.stage)
    }
}

/// Gives an outcome its types.
fn typed<R: Request>(
    outcome: Outcome,
    id: u64,
    cell: &Arc<LaneCell>,
    timeout: Duration,
) -> Result<R::Ack, CallError<R>> {
    let doubt = |id, stage, cause| {
        CallError::Unknown(Doubt { id, cell: Arc::clone(cell), timeout, stage, cause, _request: PhantomData })
    };
    // The answer is here and cannot be read: asking again would bring the same bytes.
    let unreadable = || doubt(None, Stage::Started, Cause::AnswerUnreadable);
    match outcome {
        Outcome::Ack(payload) => body::decode(payload.as_slice()).map_err(|_| unreadable()),
        Outcome::Rejected(payload) => Err(match body::decode(payload.as_slice()) {
            Ok(rejection) => CallError::Rejected(rejection),
            Err(_) => unreadable(),
        }),
        Outcome::NotDelivered(why) => Err(CallError::NotDelivered(match why {
            NotDelivered::UnknownMethod { .. } => NotDelivered::UnknownMethod { method: R::ID, version: R::VERSION },
            NotDelivered::SchemaMismatch { .. } => NotDelivered::SchemaMismatch { method: R::ID, version: R::VERSION },
            why => why,
        })),
        Outcome::Unknown(stage, cause) => Err(doubt(Some(id), stage, cause)),
    }
}
