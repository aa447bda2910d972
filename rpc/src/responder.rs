//! Answering exactly once, from wherever the work is done.
//!
//! A responder that is dropped answers too: its caller learns at once that the outcome is in doubt. An answer that
//! comes after its request was given up is counted and forgotten.
//!
//! Given to handlers and actors by `service`; what they say goes to `session::server`.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::context::CallContext;
use crate::io::hub::ServingCell;
use crate::request::{Protocol, Request};
use crate::service::{clip, overloaded, reply_of};
use crate::session::payload::Payload;
use crate::session::server::Reply;
use crate::stream::ItemSender;
use crate::trace::{HandlerSpan, TraceContext};
use crate::watch::HandlerWatch;
use crate::wire::header::{FailedCode, NackCode};

/// The untyped means to answer one call; what generated code is given.
pub struct RawResponder {
    cell: Arc<ServingCell>,
    context: CallContext,
    watch: HandlerWatch,
    /// The method and its version.
    #[cfg(feature = "tower")]
    method: (u16, u16),
}

/// The obligation to answer one call. Dropping it answers *in doubt*.
#[must_use = "dropping a responder tells the caller that the outcome is in doubt"]
pub struct Responder<R: Request> {
    /// `None` once answered.
    raw: Option<RawResponder>,
    context: CallContext,
    _request: PhantomData<fn(R)>,
}

/// A call that somebody is about to begin with.
pub(crate) struct Begin {
    cell: Arc<ServingCell>,
    id: u64,
}

impl Begin {
    /// It is begun with: its caller learns that with what is written next.
    pub(crate) fn now(self) {
        self.cell.with(|lane| lane.started(self.id));
    }
}

impl RawResponder {
    /// `method`: which one was called, and its version.
    pub(crate) fn new(
        cell: Arc<ServingCell>,
        context: CallContext,
        watch: HandlerWatch,
        #[cfg_attr(not(feature = "tower"), expect(unused_variables, reason = "read by layers"))] method: (u16, u16),
    ) -> Self {
        Self {
            cell,
            context,
            watch,
            #[cfg(feature = "tower")]
            method,
        }
    }

    #[cfg(feature = "tower")]
    pub(crate) fn method(&self) -> (u16, u16) {
        self.method
    }

    /// The responder of a request whose answer will come from elsewhere.
    pub fn into_responder<R: Request>(self) -> Responder<R> {
        Responder { context: self.context, raw: Some(self), _request: PhantomData }
    }

    /// The sending end of the stream that this call opens.
    pub fn items<T, L>(&self) -> ItemSender<T, L> {
        ItemSender::new(Arc::clone(&self.cell), self.context.request_id.0)
    }

    /// What says, later and elsewhere, that the call is begun with.
    pub(crate) fn begin(&self) -> Begin {
        Begin { cell: Arc::clone(&self.cell), id: self.context.request_id.0 }
    }

    /// A client for the other side of the connection that brought this call; see [`CallContext::caller`].
    pub fn caller<Q: Protocol>(&self) -> Client<Q> {
        Client::calling_back(&self.cell)
    }

    /// Who called, under which id, and until when.
    pub fn context(&self) -> &CallContext {
        &self.context
    }
}

impl<R: Request> Responder<R> {
    /// Applied.
    pub fn ack(self, ack: R::Ack) {
        self.answer(Ok(ack));
    }

    /// Not applied.
    pub fn reject(self, rejection: R::Rejection) {
        self.answer(Err(rejection));
    }

    /// Applied or not.
    pub fn answer(mut self, result: Result<R::Ack, R::Rejection>) {
        self.reply(reply_of::<R>(result));
    }

    /// No part of the request was looked at, and none will be: the caller may send it again. `why` is cut at 256 bytes.
    pub fn not_taken(mut self, why: &str) {
        self.reply(Reply::Nack(NackCode::Unavailable, Payload::copy(clip(why).as_bytes())));
    }

    /// The request was not looked at because we have too much to do; it may be tried again `after` that long.
    pub fn overloaded(mut self, after: Duration) {
        self.reply(overloaded(after));
    }

    /// Who called, under which id, and until when.
    pub fn context(&self) -> &CallContext {
        &self.context
    }

    /// The trace that the call belongs to, for whoever answers it elsewhere; see [`TraceContext::scope`].
    pub fn trace(&self) -> Option<&TraceContext> {
        self.raw.as_ref()?.watch.span().map(HandlerSpan::context)
    }

    /// A client for the other side of the connection that brought this call; see [`CallContext::caller`]. `None` once
    /// answered.
    pub fn caller<Q: Protocol>(&self) -> Option<Client<Q>> {
        self.raw.as_ref().map(RawResponder::caller)
    }

    /// Whether nobody waits for the answer any more: the call was cancelled or its deadline has passed.
    pub fn is_cancelled(&self) -> bool {
        self.raw.as_ref().is_none_or(|raw| !raw.cell.with(|lane| lane.is_running(self.context.request_id.0)))
    }

    fn reply(&mut self, reply: Reply) {
        if let Some(raw) = self.raw.take() {
            raw.watch.end(&reply);
            raw.cell.answer(self.context.request_id.0, reply);
        }
    }
}

impl<R: Request> Drop for Responder<R> {
    fn drop(&mut self) {
        self.reply(Reply::Failed(FailedCode::Dropped));
    }
}

impl<R: Request> fmt::Debug for Responder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("method", &R::NAME).field("context", &self.context).finish_non_exhaustive()
    }
}

impl fmt::Debug for RawResponder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawResponder").field("context", &self.context).finish_non_exhaustive()
    }
}
