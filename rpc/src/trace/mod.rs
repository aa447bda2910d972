//! Spans of calls and of their handlers, joined across processes by W3C trace context.
//!
//! A call opens the span `call`, its handler the span `handle`, both of target `rpc` and level DEBUG, with the fields
//! `otel.kind`, `service`, `method`, `request_id`, `deadline_ms`, `trace_id`, `span_id`, `parent_span_id` and, once it
//! is known, `outcome`. The trace context of the call travels with the request, so the handler's `trace_id` is the
//! call's and its `parent_span_id` the call's `span_id`, on whatever machine it runs. What the handler calls goes on
//! with it, through any depth.
//!
//! # Who begins a trace
//! - A call continues the context that it was given ([`Call::trace`](crate::Call::trace)), else the one around it:
//!   that of the handler that makes it, or of [`TraceContext::scope`].
//! - Without either a call begins a trace if a subscriber wants its span, and else travels without one.
//! - A context that arrives where no subscriber wants the span is handed on as it is.
//!
//! What is set is set where the handler itself is polled. A task that it spawns takes the context along:
//! ```
//! # async fn work() {}
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let _ =
//! match rpc::TraceContext::current() {
//!     Some(context) => tokio::spawn(context.scope(work())),
//!     None => tokio::spawn(work()),
//! }
//! # .await; }
//! ```
//!
//! # OpenTelemetry and others
//! This crate knows no exporter. Whoever has one says with [`set_propagator`] how a context is found for a span, and how
//! a span is told which context it continues. With `tracing-opentelemetry` both are a few lines:
//! ```ignore
//! impl rpc::trace::Propagator for OpenTelemetry {
//!     fn context_of(&self, span: &tracing::Span) -> Option<rpc::TraceContext> {
//!         let context = span.context().span().span_context().clone();
//!         let (trace, span) = (u128::from_be_bytes(context.trace_id().to_bytes()), u64::from_be_bytes(context.span_id().to_bytes()));
//!         rpc::TraceContext::from_parts(trace, span, context.is_sampled())
//!     }
//!     fn continue_from(&self, span: &tracing::Span, parent: &rpc::TraceContext) {
//!         let parent = SpanContext::new(parent.trace_id().into(), parent.span_id().into(), flags(parent), true, state(parent));
//!         span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
//!     }
//! }
//! ```
//!
//! # Cost
//! With no subscriber and no context a call looks at three words of memory more, and its handler at two; nothing is
//! allocated, formatted or sent.
//!
//! Never an error: a context that arrives and cannot be read is ignored and counted
//! ([`ServerCounters::bad_traces`](crate::ServerCounters)). Never keeps a call alive. Used by `client` and `io`; `context` has the
//! values.

mod context;
mod span;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::sync::OnceLock;

pub use self::context::{TraceContext, TraceError};
pub(crate) use self::span::{CallSpan, HandledCall, HandlerSpan, parse_tlvs};

thread_local! {
    /// The context of what runs on this thread now.
    static CURRENT: RefCell<Option<TraceContext>> = const { RefCell::new(None) };
}

static PROPAGATOR: OnceLock<Box<dyn Propagator>> = OnceLock::new();

/// Joins the spans of this crate to those of another tracing library.
pub trait Propagator: Send + Sync {
    /// The context under which `span` is known there, to be sent with a call. `None`: it is not known, and the context
    /// of this crate is sent.
    fn context_of(&self, span: &tracing::Span) -> Option<TraceContext>;

    /// `span`, a handler's or a call's that was given a context, continues `parent`. Told before the span is entered.
    fn continue_from(&self, span: &tracing::Span, parent: &TraceContext);
}

/// A propagator was already set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a propagator was already set")]
pub struct PropagatorSet;

/// Sets the propagator of this process, once for its life.
///
/// # Errors
/// [`PropagatorSet`]: the first one stays.
pub fn set_propagator(propagator: impl Propagator + 'static) -> Result<(), PropagatorSet> {
    PROPAGATOR.set(Box::new(propagator)).map_err(|_| PropagatorSet)
}

fn propagator() -> Option<&'static dyn Propagator> {
    PROPAGATOR.get().map(|propagator| &**propagator)
}

impl TraceContext {
    /// The context of the handler, or of the [`scope`](Self::scope), that runs on this thread now.
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Runs `future` in this context: its calls continue the trace.
    ///
    /// # Cancel safety
    /// That of `future`.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| self.enter(|| future.as_mut().poll(cx))).await
    }

    /// Runs `work` in this context.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Restore(Option<TraceContext>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        work()
    }
}
