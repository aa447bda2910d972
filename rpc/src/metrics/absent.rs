//! Without the feature: the same names, nothing behind them.
//!
//! Every type is empty and every function inlined away. Keeps the places that tell from saying twice what they tell.
//!
//! Stands in for `client` and `server`.

use crate::request::{MethodInfo, Request};
use crate::session::client::{LaneCounters, Outcome};
use crate::session::server::{Reply, ServerCounters};
use crate::wire::header::GoodbyeCode;
use crate::wire::hello::ServiceInfo;

#[derive(Debug)]
pub(crate) struct ClientMetrics;
#[derive(Debug)]
pub(crate) struct CallMetrics;
#[derive(Clone, Debug)]
pub(crate) struct ServerMetrics;
#[derive(Debug)]
pub(crate) struct LaneMetrics;
#[derive(Debug)]
pub(crate) struct HandlerMetrics;

#[expect(clippy::unused_self, reason = "the same shape as with the feature")]
impl ClientMetrics {
    #[inline]
    pub(crate) fn new(_: &'static str, _: &[MethodInfo]) -> Self {
        Self
    }
    #[inline]
    pub(crate) fn read(&self, _: usize) {}
    #[inline]
    pub(crate) fn wrote(&self, _: usize) {}
    #[inline]
    pub(crate) fn item(&self) {}
    #[inline]
    pub(crate) fn missed(&self, _: u64) {}
    #[inline]
    pub(crate) fn observe(&self, _: impl FnOnce() -> (LaneCounters, usize, usize)) {}
}

#[expect(clippy::unused_self, reason = "the same shape as with the feature")]
impl CallMetrics {
    #[inline]
    #[expect(clippy::extra_unused_type_parameters, reason = "the same shape as with the feature")]
    pub(crate) fn begin<R: Request>(_: &ClientMetrics, _: &'static str) -> Self {
        Self
    }
    #[inline]
    pub(crate) fn is_heard(&self) -> bool {
        false
    }
    #[inline]
    pub(crate) fn end(&mut self, _: &ClientMetrics, _: Option<&Outcome>) {}
}

#[expect(clippy::unused_self, reason = "the same shape as with the feature")]
impl ServerMetrics {
    #[inline]
    pub(crate) fn new(_: &ServiceInfo) -> Self {
        Self
    }
    #[inline]
    pub(crate) fn read(&self, _: usize) {}
    #[inline]
    pub(crate) fn wrote(&self, _: usize) {}
    #[inline]
    pub(crate) fn opened(&self) {}
    #[inline]
    pub(crate) fn closed(&self) {}
    #[inline]
    pub(crate) fn refused_connection(&self, _: GoodbyeCode) {}
    #[inline]
    pub(crate) fn lane(&self) -> LaneMetrics {
        LaneMetrics
    }
}

#[expect(clippy::unused_self, reason = "the same shape as with the feature")]
impl LaneMetrics {
    #[inline]
    pub(crate) fn begin(&self, _: u16, _: u16) -> HandlerMetrics {
        HandlerMetrics
    }
    #[inline]
    pub(crate) fn item(&self) {}
    #[inline]
    pub(crate) fn observe(&self, _: impl FnOnce() -> (ServerCounters, usize, usize)) {}
}

#[expect(clippy::unused_self, reason = "the same shape as with the feature")]
impl HandlerMetrics {
    #[inline]
    pub(crate) fn is_heard(&self) -> bool {
        false
    }
    #[inline]
    pub(crate) fn end(&self, _: &Reply) {}
}
