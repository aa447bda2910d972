//! One call: encoded, submitted, awaited; cancelled when it is dropped.
//!
//! Never sent before it is polled, never without a deadline; sent again only as its `retry` allows.
//!
//! Made by `client`; its id and its outcome are the lane's.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Opened;
use super::doubt::Of;
use super::retry::{Covers, Next, Retry, Retrying};
use crate::context::CallContext;
use crate::io::client::CallingCell;
use crate::io::now;
use crate::limits::LARGE_BODY_BYTES;
use crate::outcome::{CallError, NotDelivered, Stage};
use crate::request::{Request, StreamRequest};
use crate::session::client::{Outcome, Submit, SubmitError};
use crate::stream::ItemStream;
use crate::trace::TraceContext;
use crate::watch::CallWatch;
use crate::wire::body;
use crate::wire::hello::ServiceInfo;

/// A call that has been prepared. It is sent when it is first polled; dropped before its end, it is cancelled.
#[must_use = "a call is sent when it is awaited"]
pub struct Call<R: Request> {
    open: OpenCall,
    /// Until it needs to be sent no more.
    request: Option<R>,
    /// What it does about a failure. `None` costs nothing.
    retrying: Option<Box<Retrying>>,
    /// The end that [`reached`](Self::reached) has met, for the caller who awaits the call.
    ended: Option<Box<(u64, Outcome)>>,
}

/// The part of a call that does not depend on its types.
struct OpenCall {
    cell: Arc<CallingCell>,
    service: &'static ServiceInfo,
    timeout: Duration,
    /// The call that is being served where this one was made ends by then, and so does this one.
    until: Option<Instant>,
    deadline: Option<Instant>,
    id: Option<u64>,
    /// An id whose outcome is unknown, which nobody has been told yet.
    doubted: Option<u64>,
    /// Whether the ack opens a stream. One that nobody [opens](Call::open) is dropped with the ack.
    stream: bool,
    attempts: u32,
    /// How far it had come when it ended.
    stage: Option<Stage>,
    watch: CallWatch,
}

impl<R: Request> Call<R> {
    pub(super) fn new(cell: Arc<CallingCell>, service: &'static ServiceInfo, request: R) -> Self {
        let timeout = cell.limits().deadline_default;
        let watch = CallWatch::Unsent(None);
        let until = CallContext::current().map(|context| context.deadline);
        let stage = None;
        let open = OpenCall {
            cell,
            service,
            timeout,
            until,
            deadline: None,
            id: None,
            doubted: None,
            stream: R::OPENS_STREAM,
            attempts: 0,
            stage,
            watch,
        };
        Self { open, request: Some(request), retrying: None, ended: None }
    }

    /// Ends the call after `timeout`, counted from its first poll. A longer one than the client's largest is cut to it.
    /// All attempts of a call that is [retried](Self::retry) share it.
    ///
    /// A call that is made while a handler is polled ends by the handler's own deadline at the latest: whoever waits for the
    /// handler waits no longer than that, so nothing behind it should. That holds through every further hop. A task that
    /// a handler spawns says it with [`within`](Self::within); [`detached`](Self::detached) opts out.
    pub fn deadline(mut self, timeout: Duration) -> Self {
        self.open.timeout = timeout.min(self.open.cell.limits().deadline_max);
        self
    }

    /// Ends the call by the deadline of `context` at the latest, as if it were made by the handler that serves that call.
    pub fn within(mut self, context: &CallContext) -> Self {
        self.open.until = Some(context.deadline);
        self
    }

    /// The call outlives the handler that makes it: only its own deadline ends it. Dropped with its handler, it is
    /// cancelled all the same; spawn it to let it go on.
    pub fn detached(mut self) -> Self {
        self.open.until = None;
        self
    }

    /// The call continues this trace, not the one around it. Given [`TraceContext::root`], it begins one though nobody
    /// listens here.
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.open.watch = CallWatch::Unsent(Some(Box::new(context)));
        self
    }

    /// What to do about a failure before the deadline. A policy that may apply a request twice is taken for
    /// [`Idempotent`](crate::Idempotent) requests only.
    ///
    /// A call that pauses between two attempts belongs to the runtime in which it was polled.
    pub fn retry<S: Covers<R>>(mut self, retry: Retry<S>) -> Self {
        self.retrying = Retrying::new(&retry, self.open.cell.backoff()).map(Box::new);
        self
    }

    /// How many times the request was sent, or tried to be: 0 before the call is first polled, more than 1 only with a
    /// [`Retry`].
    pub fn attempts(&self) -> u32 {
        self.open.attempts
    }

    /// How far the request is known to have come; `None` while it has not been handed to the writer. Of a call that is
    /// [retried](Self::retry), the present attempt.
    ///
    /// Learnt from what arrives anyway, at no further system call, and therefore sometimes late: nothing is sent only
    /// to tell it.
    pub fn stage(&self) -> Option<Stage> {
        match self.open.id {
            Some(id) => self.open.cell.with(|lane| lane.progress(id)).or(self.open.stage),
            None => self.open.stage,
        }
    }

    /// Sends the call, and waits until the request is known to have come to `stage`, or the call has ended. `false`:
    /// it has ended and had not come that far. The outcome is still there for whoever awaits the call then.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing: the call goes on when it is polled next.
    pub async fn reached(&mut self, stage: Stage) -> bool {
        poll_fn(|cx| {
            if self.has_ended() {
                return Poll::Ready(self.open.stage >= Some(stage));
            }
            if let Poll::Ready(end) = self.poll_end(cx) {
                if let (id, Outcome::Unknown(..)) = &end {
                    self.open.doubted = Some(*id);
                }
                self.ended = Some(Box::new(end));
                return Poll::Ready(self.open.stage >= Some(stage));
            }
            let Some(id) = self.open.id else { return Poll::Pending };
            self.open.cell.with(|lane| {
                if lane.progress(id) >= Some(stage) {
                    return Poll::Ready(true);
                }
                lane.watch_stage(id, stage);
                Poll::Pending
            })
        })
        .await
    }

    /// Calls a method whose ack opens a stream, and reads the stream. Awaited instead, such a call drops its stream.
    ///
    /// # Errors
    /// [`CallError`], like any call.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call, like any call, and ends the stream if it was opened.
    pub async fn open(mut self) -> Opened<R>
    where
        R: StreamRequest,
    {
        let ack = poll_fn(|cx| self.poll_outcome(cx)).await?;
        let id = self.open.id.take().unwrap_or_default();
        Ok((ack, ItemStream::new(Arc::clone(&self.open.cell), id)))
    }

    fn submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(u64, Watched), NotDelivered>> {
        let Some(request) = &self.request else { return Poll::Pending };
        self.open.watch.begin::<R>(&self.open.cell, self.open.service.name, self.open.timeout);
        let open = &mut self.open;
        let submitted = body::encode_in_scratch(request, |encoded| match encoded {
            Ok(bytes) if bytes.len() >= LARGE_BODY_BYTES => {
                let body = body::keep_encoded(bytes);
                open.submit::<R>(cx, &[], Some(body))
            }
            Ok(bytes) => open.submit::<R>(cx, bytes, None),
            Err(error) => Poll::Ready(Err(NotDelivered::Encode(error.to_string()))),
        });
        if submitted.is_ready() {
            self.open.attempts = self.open.attempts.saturating_add(1);
            if self.retrying.is_none() {
                self.request = None;
            }
        }
        submitted
    }

    /// How one attempt ended, under which id.
    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<(u64, Outcome)> {
        let id = match self.open.id {
            Some(id) => id,
            None => match ready!(self.submit(cx)) {
                Ok((_, Watched(true))) => return Poll::Pending,
                Ok((id, Watched(false))) => id,
                Err(why) => return Poll::Ready((0, Outcome::NotDelivered(why))),
            },
        };
        let outcome = ready!(self.open.cell.with(|lane| lane.poll_outcome(id, cx)));
        let stream = self.open.stream && matches!(outcome, Outcome::Ack(_));
        if !stream {
            // Closed by the lane, or the doubt's from here on.
            self.open.id = None;
        }
        Poll::Ready((id, outcome))
    }

    /// How the last attempt ended, under which id.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<(u64, Outcome)> {
        loop {
            if let Some(retrying) = &mut self.retrying
                && ready!(retrying.poll_pause(cx)) == Some(Next::Resolve)
            {
                self.open.resolve();
            }
            let (id, outcome) = ready!(self.poll_attempt(cx));
            self.open.stage = stage_of(&outcome);
            let next = match &mut self.retrying {
                None => Next::End,
                Some(retrying) => {
                    let now = now();
                    retrying.after(&outcome, self.open.attempts, now, self.open.deadline.unwrap_or(now))
                }
            };
            match next {
                Next::End => {
                    self.request = None;
                    return Poll::Ready((id, outcome));
                }
                Next::Resolve => self.open.id = Some(id),
                Next::Repeat => {
                    self.open.release(id, &outcome);
                    self.open.stage = None;
                }
            }
            tracing::debug!(method = R::NAME, attempt = self.open.attempts, ?outcome, ?next, "a call goes on");
        }
    }

    /// Its outcome is there, or was already taken.
    fn has_ended(&self) -> bool {
        self.ended.is_some() || (self.request.is_none() && self.open.id.is_none())
    }

    /// What the call resolves to. The stream that it has opened is open.
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Result<R::Ack, CallError<R>>> {
        let (id, outcome) = match self.ended.take() {
            Some(ended) => {
                // From here on the doubt holds its id.
                self.open.doubted = None;
                *ended
            }
            None => ready!(self.poll_end(cx)),
        };
        Poll::Ready(self.end(id, outcome))
    }

    fn end(&mut self, id: u64, outcome: Outcome) -> Result<R::Ack, CallError<R>> {
        let lost = self.retrying.as_ref().and_then(|retrying| retrying.lost);
        match lost {
            Some((stage, cause)) if !matches!(outcome, Outcome::Ack(_)) => {
                self.open.watch.end(&self.open.cell, &Outcome::Unknown(stage, cause));
            }
            _ => self.open.watch.end(&self.open.cell, &outcome),
        }
        let OpenCall { cell, timeout, attempts, .. } = &self.open;
        Of { cell, timeout: *timeout, attempts: *attempts, lost }.typed(outcome, id)
    }
}

impl<R: Request> Future for Call<R> {
    type Output = Result<R::Ack, CallError<R>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let outcome = ready!(this.poll_outcome(cx));
        this.open.drop_stream();
        Poll::Ready(outcome)
    }
}

// The request is only read; nothing in a call is pinned.
impl<R: Request> Unpin for Call<R> {}

impl OpenCall {
    /// Submits `body`, or the `large` one in its place.
    fn submit<R: Request>(
        &mut self,
        cx: &mut Context<'_>,
        body: &[u8],
        large: Option<Bytes>,
    ) -> Poll<Result<(u64, Watched), NotDelivered>> {
        let now = now();
        let deadline = *self.deadline.get_or_insert_with(|| {
            let deadline = now.checked_add(self.timeout).unwrap_or(now);
            self.until.map_or(deadline, |until| until.min(deadline))
        });
        let tlvs = self.watch.tlvs();
        let request = Submit { method: R::ID, version: R::VERSION, body, deadline, stream: self.stream, tlvs };
        let submitted = self.cell.with_driver(|lane| {
            lane.check_offer(self.service, R::ID, R::VERSION).map_err(SubmitError::Refused)?;
            let submitted = lane.submit_body(request, large);
            if submitted == Err(SubmitError::Full) && now < deadline {
                lane.wait_for_room(deadline, cx.waker());
            }
            // While the lock is held: to ask for the outcome would take it once more for each call.
            submitted.map(|id| (id, Watched(lane.watch_outcome(id, cx.waker()))))
        });
        match submitted {
            Ok((id, watched)) => {
                self.id = Some(id);
                self.watch.sent_as(id);
                Poll::Ready(Ok((id, watched)))
            }
            Err(SubmitError::Full) if now < deadline => Poll::Pending,
            Err(SubmitError::Full) => Poll::Ready(Err(NotDelivered::WindowFull { window: self.cell.limits().window })),
            Err(SubmitError::Refused(why)) => Poll::Ready(Err(why)),
        }
    }
}

impl OpenCall {
    /// Asks what became of the attempt whose outcome was unknown.
    fn resolve(&self) {
        let (Some(id), Some(deadline)) = (self.id, self.deadline) else { return };
        self.cell.with_driver(|lane| lane.resolve(id, deadline));
        self.cell.nudge();
    }

    /// Nobody will read the stream that the ack has opened.
    fn drop_stream(&mut self) {
        if let Some(id) = self.id.take() {
            self.cell.with(|lane| lane.drop_stream(id));
        }
    }

    /// Nothing is left to ask about an attempt that is followed by another one.
    fn release(&self, id: u64, outcome: &Outcome) {
        if matches!(outcome, Outcome::Unknown(..)) {
            self.cell.with(|lane| lane.release(id));
        }
    }
}

/// Whether the caller is woken when the outcome is there; if not, it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watched(bool);

/// How far a request has come that ended so.
fn stage_of(outcome: &Outcome) -> Option<Stage> {
    match outcome {
        Outcome::Ack(_) | Outcome::Rejected(_) => Some(Stage::Started),
        Outcome::Unknown(stage, _) => Some(*stage),
        Outcome::NotDelivered(_) => None,
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
            self.cell.observe();
        }
        if let Some(id) = self.doubted {
            self.cell.with(|lane| lane.release(id));
        }
        self.cell.nudge_if_unused();
    }
}

impl<R: Request> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &R::NAME)
            .field("id", &self.open.id)
            .field("attempts", &self.open.attempts)
            .finish_non_exhaustive()
    }
}
