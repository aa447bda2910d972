//! What those who watch are told of a call and of its handler: the span, and the metrics.
//!
//! Never keeps a call alive and never changes an outcome. Where nobody watches it holds an empty pointer.
//!
//! Above `trace` and `metrics`; told by `client::call`, `io::handlers` and `responder`.

use std::sync::Arc;
use std::time::Duration;

use crate::io::client::LaneCell;
use crate::metrics::{CallMetrics, HandlerMetrics};
use crate::request::Request;
use crate::session::client::Outcome;
use crate::session::server::Reply;
use crate::trace::{CallSpan, HandlerSpan, TraceContext};

/// Of a call.
#[derive(Debug)]
pub(crate) enum CallWatch {
    /// It was not polled yet. The trace that it was told to continue.
    Unsent(Option<Box<TraceContext>>),
    /// It was.
    Sent {
        /// `None`: nobody wants it.
        span: Option<Box<CallSpan>>,
        metrics: CallMetrics,
    },
}

impl CallWatch {
    /// The call of an `R` is polled for the first time; said again, it changes nothing.
    pub(crate) fn begin<R: Request>(&mut self, cell: &LaneCell, service: &'static str, timeout: Duration) {
        if let Self::Unsent(given) = self {
            let given = given.take().map(|given| *given);
            let span = CallSpan::begin(given, service, R::NAME, timeout);
            *self = Self::Sent { span, metrics: CallMetrics::begin::<R>(cell.metrics(), service) };
        }
    }

    /// The TLVs that the request takes along.
    pub(crate) fn tlvs(&self) -> &[u8] {
        match self {
            Self::Sent { span: Some(span), .. } => span.tlvs(),
            _ => &[],
        }
    }

    pub(crate) fn sent_as(&self, id: u64) {
        if let Self::Sent { span: Some(span), .. } = self {
            span.sent_as(id);
        }
    }

    pub(crate) fn end(&mut self, cell: &LaneCell, outcome: &Outcome) {
        if let Self::Sent { span, metrics } = self {
            metrics.end(cell.metrics(), Some(outcome));
            // The driver may have nothing more to do for long.
            cell.observe();
            if let Some(mut span) = span.take() {
                span.end(outcome);
            }
        }
    }

    /// The call is dropped, perhaps after its end.
    pub(crate) fn dropped(&mut self, cell: &LaneCell) {
        if let Self::Sent { metrics, .. } = self {
            metrics.end(cell.metrics(), None);
        }
    }
}

/// Of a handler.
#[derive(Clone, Debug)]
pub(crate) struct HandlerWatch {
    /// `None`: nobody wants it.
    pub(crate) span: Option<Arc<HandlerSpan>>,
    pub(crate) metrics: HandlerMetrics,
}

impl HandlerWatch {
    /// Polls the handler.
    pub(crate) fn scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        match &self.span {
            None => poll(),
            Some(span) => span.scope(poll),
        }
    }

    /// It was answered.
    pub(crate) fn end(&self, reply: &Reply) {
        self.metrics.end(reply);
        if let Some(span) = &self.span {
            span.end(reply);
        }
    }
}
