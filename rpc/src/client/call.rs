//! One call: encoded, submitted, awaited; cancelled when it is dropped.
//!
//! Never sent before it is polled, never without a deadline.
//!
//! Made by `client`; its id and its outcome are the lane's.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::doubt::typed;
use crate::io::client::LaneCell;
use crate::io::now;
use crate::outcome::{CallError, NotDelivered};
use crate::request::{Request, StreamRequest};
use crate::session::client::{Outcome, Submit, SubmitError};
use crate::stream::ItemStream;
use crate::trace::TraceContext;
use crate::watch::CallWatch;
use crate::wire::body;

thread_local! {
    /// Where requests are encoded before the lane is locked. Taken out while it is in use: a `Serialize` that calls is
    /// given another one.
    static SCRATCH: Cell<BytesMut> = Cell::new(BytesMut::new());
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
    watch: CallWatch,
}

impl<R: Request> Call<R> {
    pub(super) fn new(cell: Arc<LaneCell>, request: R) -> Self {
        let timeout = cell.limits().deadline_default;
        let open = OpenCall { cell, timeout, deadline: None, id: None, stream: false, watch: CallWatch::Unsent(None) };
        Self { open, request: Some(request), _request: PhantomData }
    }

    /// Ends the call after `timeout`, counted from its first poll. A longer one than the client's largest is cut to it.
    pub fn deadline(mut self, timeout: Duration) -> Self {
        self.open.timeout = timeout.min(self.open.cell.limits().deadline_max);
        self
    }

    /// The call continues this trace, not the one around it. Given [`TraceContext::root`], it begins one though nobody
    /// listens here.
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.open.watch = CallWatch::Unsent(Some(Box::new(context)));
        self
    }

    /// Calls, and reads the stream that the ack opens.
    pub(super) async fn into_stream(mut self) -> Result<(R::Ack, ItemStream<R::Item>), CallError<R>>
    where
        R: StreamRequest,
    {
        self.open.stream = true;
        let ack = poll_fn(|cx| Pin::new(&mut self).poll(cx)).await?;
        let id = self.open.id.take().unwrap_or_default();
        Ok((ack, ItemStream::new(Arc::clone(&self.open.cell), id)))
    }

    fn submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotDelivered>> {
        let Some(request) = &self.request else { return Poll::Ready(Ok(())) };
        self.open.watch.begin::<R>(&self.open.cell, self.open.timeout);
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
                Poll::Ready(Err(why)) => {
                    let outcome = Outcome::NotDelivered(why);
                    this.open.watch.end(&this.open.cell, &outcome);
                    return Poll::Ready(typed(outcome, 0, &this.open.cell, this.open.timeout));
                }
                Poll::Ready(Ok(())) => {}
            }
        }
        let Some(id) = this.open.id else { return Poll::Pending };
        let outcome = std::task::ready!(this.open.cell.with(|lane| lane.poll_outcome(id, cx)));
        this.open.watch.end(&this.open.cell, &outcome);
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
        let tlvs = self.watch.tlvs();
        let request = Submit { method: R::ID, version: R::VERSION, body, deadline, stream: self.stream, tlvs };
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
                self.watch.sent_as(id);
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
        self.watch.dropped(&self.cell);
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

impl<R: Request> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &R::NAME).field("id", &self.open.id).finish_non_exhaustive()
    }
}
