//! What a client counts.
//!
//! Handles are taken once, when the client is made. Never looks one up per call, and does nothing where nobody listens.
//!
//! Told by `watch`, by the client's driver and by its streams.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{increased, is_heard, moved};
use crate::io::{lock, now};
use crate::request::{MethodInfo, Request};
use crate::session::client::{LaneCounters, Outcome};

/// The handles of one client.
pub(crate) struct ClientMetrics {
    /// There is a recorder.
    heard: bool,
    methods: Vec<Method>,
    in_flight: Gauge,
    queue_bytes: Gauge,
    window_ids: Gauge,
    connections: Counter,
    reconnects: Counter,
    unreachable: Counter,
    restarted: Counter,
    forgotten: Counter,
    late_answers: Counter,
    resolved: Counter,
    read: Counter,
    written: Counter,
    items: Counter,
    missed: Counter,
    told: Mutex<Told>,
}

struct Method {
    id: u16,
    version: u16,
    ack: Counter,
    rejected: Counter,
    not_delivered: Counter,
    unknown: Counter,
    dropped: Counter,
    ack_seconds: Histogram,
}

/// What the recorder knows of the lane.
#[derive(Default)]
struct Told {
    counters: LaneCounters,
    reconnects: u64,
    queue_bytes: usize,
    window_ids: usize,
}

/// One call; `None` once it has ended, or if nobody listens.
#[derive(Debug)]
pub(crate) struct CallMetrics(Option<Begun>);

#[derive(Debug)]
struct Begun {
    method: usize,
    /// Of the service and of the method.
    names: (&'static str, &'static str),
    at: Instant,
}

impl Method {
    fn new(service: &'static str, name: &'static str, (id, version): (u16, u16)) -> Self {
        let calls =
            |outcome| counter!("rpc_client_calls_total", "service" => service, "method" => name, "outcome" => outcome);
        Self {
            id,
            version,
            ack: calls("ack"),
            rejected: calls("rejected"),
            not_delivered: calls("not_delivered"),
            unknown: calls("unknown"),
            dropped: calls("dropped"),
            ack_seconds: histogram!("rpc_client_ack_seconds", "service" => service, "method" => name),
        }
    }
}

impl ClientMetrics {
    pub(crate) fn new(name: &'static str, methods: &[MethodInfo]) -> Self {
        let methods = methods.iter().map(|method| Method::new(name, method.name, (method.id, method.version)));
        let in_flight = gauge!("rpc_client_in_flight", "service" => name);
        Self {
            heard: is_heard(&in_flight),
            methods: methods.collect(),
            in_flight,
            queue_bytes: gauge!("rpc_client_queue_bytes", "service" => name),
            window_ids: gauge!("rpc_client_window_ids", "service" => name),
            connections: counter!("rpc_client_connections_total", "service" => name),
            reconnects: counter!("rpc_client_reconnects_total", "service" => name),
            unreachable: counter!("rpc_client_unreachable_total", "service" => name),
            restarted: counter!("rpc_client_lanes_lost_total", "service" => name, "cause" => "restarted"),
            forgotten: counter!("rpc_client_lanes_lost_total", "service" => name, "cause" => "forgotten"),
            late_answers: counter!("rpc_client_late_answers_total", "service" => name),
            resolved: counter!("rpc_client_resolved_total", "service" => name),
            read: counter!("rpc_client_bytes_total", "service" => name, "direction" => "in"),
            written: counter!("rpc_client_bytes_total", "service" => name, "direction" => "out"),
            items: counter!("rpc_client_stream_items_total", "service" => name),
            missed: counter!("rpc_client_stream_items_missed_total", "service" => name),
            told: Mutex::default(),
        }
    }

    #[inline]
    pub(crate) fn read(&self, bytes: usize) {
        if self.heard {
            self.read.increment(to_u64(bytes));
        }
    }

    #[inline]
    pub(crate) fn wrote(&self, bytes: usize) {
        if self.heard {
            self.written.increment(to_u64(bytes));
        }
    }

    pub(crate) fn item(&self) {
        self.items.increment(1);
    }

    pub(crate) fn missed(&self, items: u64) {
        self.missed.increment(items);
    }

    /// Tells what has changed of the lane: its counters, bytes that wait, ids that its window covers.
    #[inline(always)]
    pub(crate) fn observe(&self, lane: impl FnOnce() -> (LaneCounters, usize, usize)) {
        // Not even the lane's lock is paid for where nobody listens.
        #[inline(never)]
        fn tell(metrics: &ClientMetrics, lane: impl FnOnce() -> (LaneCounters, usize, usize)) {
            // Whoever looks at the lane last must be the last to tell.
            let told = lock(&metrics.told);
            metrics.tell(told, lane());
        }
        if self.heard {
            tell(self, lane);
        }
    }

    fn tell(&self, mut told: MutexGuard<'_, Told>, (counters, queue_bytes, window_ids): (LaneCounters, usize, usize)) {
        let reconnects = counters.connections.saturating_sub(1);
        increased(&self.reconnects, &mut told.reconnects, reconnects);
        increased(&self.connections, &mut told.counters.connections, counters.connections);
        increased(&self.unreachable, &mut told.counters.unreachable, counters.unreachable);
        increased(&self.restarted, &mut told.counters.restarted, counters.restarted);
        increased(&self.forgotten, &mut told.counters.forgotten, counters.forgotten);
        increased(&self.late_answers, &mut told.counters.late_answers, counters.late_answers);
        increased(&self.resolved, &mut told.counters.resolved, counters.resolved);
        moved(&self.queue_bytes, &mut told.queue_bytes, queue_bytes);
        moved(&self.window_ids, &mut told.window_ids, window_ids);
    }
}

impl Drop for ClientMetrics {
    fn drop(&mut self) {
        let mut told = std::mem::take(&mut *lock(&self.told));
        moved(&self.queue_bytes, &mut told.queue_bytes, 0);
        moved(&self.window_ids, &mut told.window_ids, 0);
    }
}

impl CallMetrics {
    /// `service`: which is called; that of `client`, unless it calls back.
    #[inline]
    pub(crate) fn begin<R: Request>(client: &ClientMetrics, service: &'static str) -> Self {
        Self(client.heard.then(|| Begun::new(client, (R::ID, R::VERSION), (service, R::NAME))))
    }

    /// Whether there is a recorder.
    #[inline]
    pub(crate) fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    /// `None`: it was dropped. The second end of a call is none.
    #[inline(always)]
    pub(crate) fn end(&mut self, client: &ClientMetrics, outcome: Option<&Outcome>) {
        if let Some(begun) = self.0.take() {
            begun.end(client, outcome);
        }
    }
}

impl Begun {
    #[inline(never)]
    fn new(client: &ClientMetrics, called: (u16, u16), names: (&'static str, &'static str)) -> Self {
        client.in_flight.increment(1.0);
        let method = client.methods.iter().position(|method| (method.id, method.version) == called);
        Self { method: method.unwrap_or(usize::MAX), names, at: now() }
    }

    #[inline(never)]
    fn end(&self, client: &ClientMetrics, outcome: Option<&Outcome>) {
        client.in_flight.decrement(1.0);
        let (service, name) = self.names;
        // One lane calls back to whatever service is there, so its handles cannot be taken beforehand.
        let looked_up;
        let method = match client.methods.get(self.method) {
            Some(method) => method,
            None => {
                looked_up = Method::new(service, name, (0, 0));
                &looked_up
            }
        };
        match outcome {
            Some(Outcome::Ack(_)) => {
                method.ack.increment(1);
                method.ack_seconds.record(now().saturating_duration_since(self.at));
            }
            Some(Outcome::Rejected(_)) => method.rejected.increment(1),
            Some(Outcome::NotDelivered(_)) => method.not_delivered.increment(1),
            Some(Outcome::Unknown(..)) => method.unknown.increment(1),
            None => method.dropped.increment(1),
        }
    }
}

impl std::fmt::Debug for ClientMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientMetrics").finish_non_exhaustive()
    }
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
