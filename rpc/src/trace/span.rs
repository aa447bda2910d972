//! The two spans: that of a call and that of its handler.
//!
//! Neither exists when nobody listens and no context is there: then a call and a handler carry an empty pointer.
//!
//! Made by `client::call` and `io::server`; ended by the outcome, or by being dropped without one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Span;
use tracing::field::{Empty, display};

use super::context::TRACEPARENT_BYTES;
use super::{CURRENT, TraceContext, TraceError, propagator};
use crate::io::now;
use crate::session::client::Outcome;
use crate::session::server::Reply;
use crate::wire::header::{NackCode, TLV_TRACEPARENT, TLV_TRACESTATE, Tlvs, put_tlv};
use crate::wire::hello::ServiceInfo;

/// The span of a call, and the TLVs that its request takes along.
#[derive(Debug)]
pub(crate) struct CallSpan {
    span: Span,
    tlvs: Vec<u8>,
    ended: bool,
}

/// The span of a handler, and the context in which it runs.
#[derive(Debug)]
pub(crate) struct HandlerSpan {
    span: Span,
    context: TraceContext,
}

impl CallSpan {
    /// `given`: the context that the call was told to continue. `None`: nobody wants to know of this call.
    #[inline]
    pub(crate) fn begin(
        given: Option<TraceContext>,
        service: &'static str,
        method: &'static str,
        timeout: Duration,
    ) -> Option<Box<Self>> {
        let wanted = tracing::span_enabled!(target: "rpc", tracing::Level::DEBUG);
        if !wanted && given.is_none() && propagator().is_none() && CURRENT.with_borrow(Option::is_none) {
            return None;
        }
        Self::begin_wanted(given, service, method, timeout)
    }

    #[cold]
    fn begin_wanted(
        given: Option<TraceContext>,
        service: &'static str,
        method: &'static str,
        timeout: Duration,
    ) -> Option<Box<Self>> {
        let is_given = given.is_some();
        let parent = given.or_else(TraceContext::current);
        let span = tracing::debug_span!(
            target: "rpc", "call", otel.kind = "client", service, method, request_id = Empty,
            deadline_ms = milliseconds(timeout),
            trace_id = Empty, span_id = Empty, parent_span_id = Empty, outcome = Empty,
        );
        let recorded = !span.is_disabled();
        let known = match (propagator(), &parent) {
            (Some(propagator), Some(parent)) if recorded && is_given => {
                propagator.continue_from(&span, parent);
                propagator.context_of(&span)
            }
            (Some(propagator), _) if recorded => propagator.context_of(&span),
            (Some(propagator), _) if !is_given => propagator.context_of(&Span::current()),
            _ => None,
        };
        let context = match (known, &parent) {
            (Some(known), _) => known,
            (None, Some(parent)) if recorded => parent.child(),
            (None, Some(parent)) => parent.clone(),
            (None, None) if recorded => TraceContext::root(),
            (None, None) => return None,
        };
        record_ids(&span, &context, parent.as_ref());
        Some(Box::new(Self { span, tlvs: tlvs_of(&context), ended: false }))
    }

    /// What the request takes along.
    pub(crate) fn tlvs(&self) -> &[u8] {
        &self.tlvs
    }

    pub(crate) fn sent_as(&self, id: u64) {
        self.span.record("request_id", id);
    }

    pub(crate) fn end(&mut self, outcome: &Outcome) {
        self.ended = true;
        match outcome {
            Outcome::Ack(_) => self.span.record("outcome", "ack"),
            Outcome::Rejected(_) => self.span.record("outcome", "rejected"),
            Outcome::NotDelivered(why) => self.span.record("outcome", display(format_args!("not delivered: {why}"))),
            Outcome::Unknown(stage, cause) => {
                self.span.record("outcome", display(format_args!("unknown: {cause} (it was {stage})")))
            }
        };
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        if !self.ended {
            self.span.record("outcome", "dropped");
        }
    }
}

impl HandlerSpan {
    /// `parent`: the context that came with the request. `None`: nobody wants to know of this handler.
    #[inline]
    pub(crate) fn begin(parent: Option<TraceContext>, service: &ServiceInfo, call: &HandledCall) -> Option<Arc<Self>> {
        if parent.is_none() && !tracing::span_enabled!(target: "rpc", tracing::Level::DEBUG) {
            return None;
        }
        Self::begin_wanted(parent, service, call)
    }

    #[cold]
    fn begin_wanted(parent: Option<TraceContext>, service: &ServiceInfo, call: &HandledCall) -> Option<Arc<Self>> {
        let known = service.methods.iter().find(|known| (known.id, known.version) == (call.method, call.version));
        let span = tracing::debug_span!(
            target: "rpc", parent: None, "handle", otel.kind = "server", service = service.name,
            method = known.map_or("unknown", |known| known.name), request_id = call.id,
            deadline_ms = milliseconds(call.deadline.saturating_duration_since(now())),
            trace_id = Empty, span_id = Empty, parent_span_id = Empty, outcome = Empty,
        );
        let recorded = !span.is_disabled();
        if let (true, Some(propagator), Some(parent)) = (recorded, propagator(), &parent) {
            propagator.continue_from(&span, parent);
        }
        let known = propagator().filter(|_| recorded).and_then(|propagator| propagator.context_of(&span));
        let context = match (known, &parent) {
            (Some(known), _) => known,
            (None, Some(parent)) if recorded => parent.child(),
            (None, Some(parent)) => parent.clone(),
            (None, None) if recorded => TraceContext::root(),
            (None, None) => return None,
        };
        record_ids(&span, &context, parent.as_ref());
        Some(Arc::new(Self { span, context }))
    }

    pub(crate) fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Polls the handler as this span and in its context.
    pub(crate) fn scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.span.in_scope(|| self.context.enter(poll))
    }

    pub(crate) fn end(&self, reply: &Reply) {
        match reply {
            Reply::Ack(_) => self.span.record("outcome", "ack"),
            Reply::Nack(NackCode::Rejected, _) => self.span.record("outcome", "rejected"),
            Reply::Nack(code, _) => self.span.record("outcome", display(format_args!("not taken: {code:?}"))),
            Reply::Failed(code) => self.span.record("outcome", display(format_args!("unknown: {code:?}"))),
        };
    }
}

/// Which call a handler serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandledCall {
    pub(crate) id: u64,
    pub(crate) method: u16,
    pub(crate) version: u16,
    pub(crate) deadline: Instant,
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn record_ids(span: &Span, context: &TraceContext, parent: Option<&TraceContext>) {
    if span.is_disabled() {
        return;
    }
    span.record("trace_id", display(format_args!("{:032x}", context.trace_id())));
    span.record("span_id", display(format_args!("{:016x}", context.span_id())));
    // The same span as its parent's is one that only a propagator knows; it has the parent there.
    if let Some(parent) = parent {
        span.record("parent_span_id", display(format_args!("{:016x}", parent.span_id())));
    }
}

fn tlvs_of(context: &TraceContext) -> Vec<u8> {
    let text = context.to_string();
    let mut tlvs = Vec::with_capacity(TRACEPARENT_BYTES.saturating_add(context.state().len()).saturating_add(8));
    put_tlv(&mut tlvs, TLV_TRACEPARENT, text.as_bytes());
    if !context.state().is_empty() {
        put_tlv(&mut tlvs, TLV_TRACESTATE, context.state().as_bytes());
    }
    tlvs
}

/// The context that a request brings, and whether there was one that could not be read, in whole or in part. A
/// tracestate that is bad costs itself only.
pub(crate) fn parse_tlvs(tlvs: Tlvs<'_>) -> (Option<TraceContext>, bool) {
    let Some(text) = tlvs.find(TLV_TRACEPARENT) else { return (None, tlvs.find(TLV_TRACESTATE).is_some()) };
    let Ok(context) = TraceContext::from_bytes(text) else { return (None, true) };
    let Some(state) = tlvs.find(TLV_TRACESTATE) else { return (Some(context), false) };
    let state = std::str::from_utf8(state).map_err(|_| TraceError::State);
    match state.and_then(|state| context.clone().with_state(state)) {
        Ok(whole) => (Some(whole), false),
        Err(_) => (Some(context), true),
    }
}
