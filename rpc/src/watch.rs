//! What those who watch are told of a call and of its handler: the span, and the metrics.
//!
//! Never keeps a call alive and never changes an outcome. Where nobody watches it holds an empty pointer.
//!
//! Above `trace` and `metrics`; told by `client::call`, `io::handlers` and `responder`.

use std::sync::Arc;
use std::time::Duration;

use crate::io::client::CallingCell;
use crate::metrics::{CallMetrics, HandlerMetrics};
use crate::request::Request;
use crate::session::client::Outcome;
use crate::session::server::Reply;
use crate::trace::{CallSpan, HandlerSpan, TraceContext};

/// Of a call. As small as can be, because calls are moved about.
#[derive(Debug)]
pub(crate) enum CallWatch {
    /// It was not polled yet. The trace that it was told to continue.
    Unsent(Option<Box<TraceContext>>),
    /// It was; `None`: nobody wants it.
    Sent(Option<Box<WatchedCall>>),
}

#[derive(Debug)]
pub(crate) struct WatchedCall {
    /// `None`: nobody wants it, or the call has ended.
    span: Option<Box<CallSpan>>,
    metrics: CallMetrics,
}

impl CallWatch {
    /// The call of an `R` is polled for the first time; said again, it changes nothing.
    pub(crate) fn begin<R: Request>(&mut self, cell: &CallingCell, service: &'static str, timeout: Duration) {
        if let Self::Unsent(given) = self {
            let given = given.take().map(|given| *given);
            let span = CallSpan::begin(given, service, R::NAME, timeout);
            let metrics = CallMetrics::begin::<R>(cell.metrics(), service);
            let wanted = span.is_some() || metrics.is_heard();
            *self = Self::Sent(wanted.then(|| Box::new(WatchedCall { span, metrics })));
        }
    }

    /// The TLVs that the request takes along.
    pub(crate) fn tlvs(&self) -> &[u8] {
        match self {
            Self::Sent(Some(watched)) => watched.span.as_deref().map_or(&[], CallSpan::tlvs),
            _ => &[],
        }
    }

    pub(crate) fn sent_as(&self, id: u64) {
        if let Self::Sent(Some(watched)) = self
            && let Some(span) = &watched.span
        {
            span.sent_as(id);
        }
    }

    #[inline]
    pub(crate) fn end(&mut self, cell: &CallingCell, outcome: &Outcome) {
        if let Self::Sent(Some(watched)) = self {
            watched.end(cell, Some(outcome));
        }
    }

    /// The call is dropped, perhaps after its end.
    #[inline]
    pub(crate) fn dropped(&mut self, cell: &CallingCell) {
        if let Self::Sent(Some(watched)) = self {
            watched.end(cell, None);
        }
    }
}

impl WatchedCall {
    /// A span that is dropped with its call says so itself.
    #[inline(never)]
    fn end(&mut self, cell: &CallingCell, outcome: Option<&Outcome>) {
        self.metrics.end(cell.metrics(), outcome);
        let Some(outcome) = outcome else { return };
        // The driver may have nothing more to do for long.
        cell.observe();
        if let Some(mut span) = self.span.take() {
            span.end(outcome);
        }
    }
}

/// Of a handler. One pointer, because handlers are moved about; `None`: nobody wants it.
#[derive(Clone, Debug)]
pub(crate) struct HandlerWatch(Option<Arc<Watched>>);

#[derive(Debug)]
struct Watched {
    span: Option<Arc<HandlerSpan>>,
    metrics: HandlerMetrics,
}

impl HandlerWatch {
    #[inline]
    pub(crate) fn new(span: Option<Arc<HandlerSpan>>, metrics: HandlerMetrics) -> Self {
        let wanted = span.is_some() || metrics.is_heard();
        Self(wanted.then(|| Arc::new(Watched { span, metrics })))
    }

    /// Its span, if somebody wants one.
    pub(crate) fn span(&self) -> Option<&HandlerSpan> {
        self.0.as_ref()?.span.as_deref()
    }

    /// Polls the handler.
    pub(crate) fn scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        match self.span() {
            None => poll(),
            Some(span) => span.scope(poll),
        }
    }

    /// It was answered.
    #[inline]
    pub(crate) fn end(&self, reply: &Reply) {
        if let Some(watched) = &self.0 {
            watched.end(reply);
        }
    }
}

impl Watched {
    #[inline(never)]
    fn end(&self, reply: &Reply) {
        self.metrics.end(reply);
        if let Some(span) = &self.span {
            span.end(reply);
        }
    }
}
