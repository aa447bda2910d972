//! What a server counts.
//!
//! Handles are taken once, when the server is made. What a lane counts by itself is told when its driver runs, and
//! once more when the lane is forgotten.
//!
//! Told by `watch`, by the server's drivers and by its streams.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{increased, is_heard, moved};
use crate::io::{lock, now};
use crate::session::server::{Refusals, Reply, ServerCounters};
use crate::wire::header::{GoodbyeCode, NackCode};
use crate::wire::hello::ServiceInfo;

/// The handles of one server.
#[derive(Clone)]
pub(crate) struct ServerMetrics(Arc<Handles>);

struct Handles {
    /// There is a recorder.
    heard: bool,
    service: &'static str,
    methods: Vec<Method>,
    in_flight: Gauge,
    queue_bytes: Gauge,
    connections: Gauge,
    connections_total: Counter,
    lanes: Gauge,
    repeats: Counter,
    late_answers: Counter,
    bad_traces: Counter,
    refused: Refused,
    read: Counter,
    written: Counter,
    items: Counter,
}

struct Method {
    id: u16,
    version: u16,
    ack: Counter,
    rejected: Counter,
    not_taken: Counter,
    failed: Counter,
    seconds: Histogram,
}

struct Refused {
    overloaded: Counter,
    draining: Counter,
    expired: Counter,
    schema_mismatch: Counter,
    unknown_method: Counter,
    bad_body: Counter,
    unavailable: Counter,
    unauthorized: Counter,
    other: Counter,
}

/// One lane.
pub(crate) struct LaneMetrics {
    server: ServerMetrics,
    told: Mutex<Told>,
}

/// What the recorder knows of a lane.
#[derive(Default)]
struct Told {
    counters: ServerCounters,
    running: usize,
    queue_bytes: usize,
}

/// One handler; `None`: nobody listens.
#[derive(Debug)]
pub(crate) struct HandlerMetrics(Option<Handled>);

#[derive(Debug)]
struct Handled {
    server: ServerMetrics,
    method: usize,
    started: Instant,
}

impl ServerMetrics {
    pub(crate) fn new(info: &ServiceInfo) -> Self {
        let service = info.name;
        let methods = info.methods.iter().map(|method| {
            let calls = |outcome| counter!("rpc_server_calls_total", "service" => service, "method" => method.name, "outcome" => outcome);
            Method {
                id: method.id,
                version: method.version,
                ack: calls("ack"),
                rejected: calls("rejected"),
                not_taken: calls("not_taken"),
                failed: calls("failed"),
                seconds: histogram!("rpc_server_handler_seconds", "service" => service, "method" => method.name),
            }
        });
        let refused = |reason| counter!("rpc_server_refused_total", "service" => service, "reason" => reason);
        let in_flight = gauge!("rpc_server_in_flight", "service" => service);
        Self(Arc::new(Handles {
            heard: is_heard(&in_flight),
            service,
            methods: methods.collect(),
            in_flight,
            queue_bytes: gauge!("rpc_server_queue_bytes", "service" => service),
            connections: gauge!("rpc_server_connections", "service" => service),
            connections_total: counter!("rpc_server_connections_total", "service" => service),
            lanes: gauge!("rpc_server_lanes", "service" => service),
            repeats: counter!("rpc_server_repeats_total", "service" => service),
            late_answers: counter!("rpc_server_late_answers_total", "service" => service),
            bad_traces: counter!("rpc_server_bad_traces_total", "service" => service),
            refused: Refused {
                overloaded: refused("overloaded"),
                draining: refused("draining"),
                expired: refused("expired"),
                schema_mismatch: refused("schema_mismatch"),
                unknown_method: refused("unknown_method"),
                bad_body: refused("bad_body"),
                unavailable: refused("unavailable"),
                unauthorized: refused("unauthorized"),
                other: refused("other"),
            },
            read: counter!("rpc_server_bytes_total", "service" => service, "direction" => "in"),
            written: counter!("rpc_server_bytes_total", "service" => service, "direction" => "out"),
            items: counter!("rpc_server_stream_items_total", "service" => service),
        }))
    }

    #[inline]
    pub(crate) fn read(&self, bytes: usize) {
        if self.0.heard {
            self.0.read.increment(to_u64(bytes));
        }
    }

    #[inline]
    pub(crate) fn wrote(&self, bytes: usize) {
        if self.0.heard {
            self.0.written.increment(to_u64(bytes));
        }
    }

    /// A connection was taken in.
    pub(crate) fn opened(&self) {
        self.0.connections.increment(1.0);
        self.0.connections_total.increment(1);
    }

    /// It has ended.
    pub(crate) fn closed(&self) {
        self.0.connections.decrement(1.0);
    }

    /// A connection was told goodbye before it had a lane. Rare enough to look the counter up.
    pub(crate) fn refused_connection(&self, code: GoodbyeCode) {
        let reason = match code {
            GoodbyeCode::Done => "done",
            GoodbyeCode::NotThisProtocol => "not_this_protocol",
            GoodbyeCode::WireVersion => "wire_version",
            GoodbyeCode::Service => "service",
            GoodbyeCode::StaleEpoch => "stale_epoch",
            GoodbyeCode::Unauthorized => "unauthorized",
            GoodbyeCode::TooMany => "too_many",
            GoodbyeCode::Draining => "draining",
            GoodbyeCode::HandshakeTimeout => "handshake_timeout",
            GoodbyeCode::FrameTooLarge => "frame_too_large",
            GoodbyeCode::Violation => "violation",
            GoodbyeCode::Stalled => "stalled",
            GoodbyeCode::Other(_) => "other",
        };
        counter!("rpc_server_connections_refused_total", "service" => self.0.service, "reason" => reason).increment(1);
    }

    /// A lane was made.
    pub(crate) fn lane(&self) -> LaneMetrics {
        self.0.lanes.increment(1.0);
        LaneMetrics { server: self.clone(), told: Mutex::default() }
    }
}

impl LaneMetrics {
    /// A handler is about to begin.
    #[inline]
    pub(crate) fn begin(&self, id: u16, version: u16) -> HandlerMetrics {
        HandlerMetrics(self.server.0.heard.then(|| Handled::new(&self.server, (id, version))))
    }

    pub(crate) fn item(&self) {
        self.server.0.items.increment(1);
    }

    /// Tells what has changed of the lane: its counters, handlers that run, bytes that wait.
    #[inline(always)]
    pub(crate) fn observe(&self, lane: impl FnOnce() -> (ServerCounters, usize, usize)) {
        // Not even the lane's lock is paid for where nobody listens.
        #[inline(never)]
        fn tell(metrics: &LaneMetrics, lane: impl FnOnce() -> (ServerCounters, usize, usize)) {
            // Whoever looks at the lane last must be the last to tell.
            let told = lock(&metrics.told);
            metrics.tell(told, lane());
        }
        if self.server.0.heard {
            tell(self, lane);
        }
    }

    fn tell(&self, mut told: MutexGuard<'_, Told>, (counters, running, queue_bytes): (ServerCounters, usize, usize)) {
        let server = &*self.server.0;
        let was = &mut told.counters;
        increased(&server.repeats, &mut was.repeats, counters.repeats);
        increased(&server.late_answers, &mut was.late_answers, counters.late_answers);
        increased(&server.bad_traces, &mut was.bad_traces, counters.bad_traces);
        let (refused, was, now) = (&server.refused, &mut was.refusals, counters.refusals);
        let Refusals { overloaded, draining, expired, schema_mismatch, other } = now;
        increased(&refused.overloaded, &mut was.overloaded, overloaded);
        increased(&refused.draining, &mut was.draining, draining);
        increased(&refused.expired, &mut was.expired, expired);
        increased(&refused.schema_mismatch, &mut was.schema_mismatch, schema_mismatch);
        increased(&refused.other, &mut was.other, other);
        moved(&server.in_flight, &mut told.running, running);
        moved(&server.queue_bytes, &mut told.queue_bytes, queue_bytes);
    }
}

impl Drop for LaneMetrics {
    fn drop(&mut self) {
        let (server, mut told) = (&*self.server.0, std::mem::take(&mut *lock(&self.told)));
        moved(&server.in_flight, &mut told.running, 0);
        moved(&server.queue_bytes, &mut told.queue_bytes, 0);
        server.lanes.decrement(1.0);
    }
}

impl HandlerMetrics {
    /// Whether there is a recorder.
    #[inline]
    pub(crate) fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    /// What the handler, or whoever answers in its place, said.
    #[inline]
    pub(crate) fn end(&self, reply: &Reply) {
        if let Some(handled) = &self.0 {
            handled.end(reply);
        }
    }
}

impl Handled {
    #[inline(never)]
    fn new(server: &ServerMetrics, called: (u16, u16)) -> Self {
        let method = server.0.methods.iter().position(|method| (method.id, method.version) == called);
        Self { server: server.clone(), method: method.unwrap_or(usize::MAX), started: now() }
    }

    #[inline(never)]
    fn end(&self, reply: &Reply) {
        let server = &*self.server.0;
        if let Reply::Nack(code, _) = reply {
            let refused = &server.refused;
            match code {
                NackCode::Rejected => {}
                NackCode::Overloaded => refused.overloaded.increment(1),
                NackCode::UnknownMethod => refused.unknown_method.increment(1),
                NackCode::BadBody => refused.bad_body.increment(1),
                NackCode::Unavailable => refused.unavailable.increment(1),
                NackCode::Unauthorized => refused.unauthorized.increment(1),
                _ => refused.other.increment(1),
            }
        }
        let Some(method) = server.methods.get(self.method) else { return };
        match reply {
            Reply::Ack(_) => method.ack.increment(1),
            Reply::Nack(NackCode::Rejected, _) => method.rejected.increment(1),
            Reply::Nack(..) => method.not_taken.increment(1),
            Reply::Failed(_) => method.failed.increment(1),
        }
        method.seconds.record(now().saturating_duration_since(self.started));
    }
}

impl fmt::Debug for ServerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerMetrics").field("service", &self.0.service).finish_non_exhaustive()
    }
}

impl fmt::Debug for LaneMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneMetrics").finish_non_exhaustive()
    }
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
