//! What is counted for the [`metrics`](https://docs.rs/metrics) facade, with the feature `metrics`.
//!
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `rpc_client_calls_total` | counter | service, method, outcome | calls that ended: `ack`, `rejected`, `not_delivered`, `unknown`, or `dropped` by their caller |
//! | `rpc_client_ack_seconds` | histogram | service, method | from a call's first poll to its ack |
//! | `rpc_client_in_flight` | gauge | service | calls that were polled and have not ended |
//! | `rpc_client_queue_bytes` | gauge | service | bytes that wait for the writer |
//! | `rpc_client_window_ids` | gauge | service | ids that the windows cover |
//! | `rpc_client_connections_total` | counter | service | connections that were made |
//! | `rpc_client_reconnects_total` | counter | service | of these, those that were not a lane's first |
//! | `rpc_client_unreachable_total` | counter | service | connections that could not be made |
//! | `rpc_client_lanes_lost_total` | counter | service, cause | times that a lane was dropped by its server: `restarted`, `forgotten` |
//! | `rpc_client_late_answers_total` | counter | service | answers that nobody waited for any more |
//! | `rpc_client_resolved_total` | counter | service | calls resolved after a reconnect |
//! | `rpc_client_bytes_total` | counter | service, direction | bytes `in` and `out`, framing included |
//! | `rpc_client_stream_items_total` | counter | service | items that a reader took from a stream |
//! | `rpc_client_stream_items_missed_total` | counter | service | items that a reader was told it had missed |
//! | `rpc_server_calls_total` | counter | service, method, outcome | handlers that ended: `ack`, `rejected`, `not_taken`, `failed` (stopped, panicked, or no answer) |
//! | `rpc_server_handler_seconds` | histogram | service, method | from the request's arrival to its handler's answer |
//! | `rpc_server_in_flight` | gauge | service | handlers that have not ended |
//! | `rpc_server_queue_bytes` | gauge | service | bytes of answers that wait to be written |
//! | `rpc_server_connections` | gauge | service | connections that are open |
//! | `rpc_server_connections_total` | counter | service | connections that were taken in |
//! | `rpc_server_connections_refused_total` | counter | service, reason | connections that were told goodbye before they had a lane |
//! | `rpc_server_lanes` | gauge | service | lanes that are remembered |
//! | `rpc_server_repeats_total` | counter | service | requests that had been taken before |
//! | `rpc_server_refused_total` | counter | service, reason | requests that no handler saw |
//! | `rpc_server_late_answers_total` | counter | service | answers of handlers whose request had been given up |
//! | `rpc_server_bad_traces_total` | counter | service | requests whose trace context could not be read |
//! | `rpc_server_bytes_total` | counter | service, direction | bytes `in` and `out`, framing included |
//! | `rpc_server_stream_items_total` | counter | service | items that a producer sent |
//!
//! The recorder must be installed before a client or server is made: their handles are taken from it then, once per
//! method, and nothing is looked up per call. Where there is none, that is noticed then, once, and a call costs a few
//! branches (`rpc/benches/observe.sh` counts the instructions); with one, two clock reads on each side and what the recorder
//! does. Without the feature it costs nothing at all: the types of this module are empty. A recorder that keeps no state of
//! its own (a unit struct) is noticed by its gauges: one that takes counters and no gauge is taken for none.
//!
//! Calls on the lane of a connection that somebody else opened (calls back) are counted by the name of the service that
//! they call; what that lane itself counts, bytes and connections aside, stands under the empty name.
//!
//! Never decides anything, and holds no lock of a session while it tells the recorder. Gauges are changed, not set: the
//! clients of one service add up, and what ends takes its share back. Told by `watch`, the drivers and the streams.

#[cfg(not(feature = "metrics"))]
mod absent;
#[cfg(feature = "metrics")]
mod client;
#[cfg(feature = "metrics")]
mod server;

#[cfg(not(feature = "metrics"))]
pub(crate) use self::absent::{CallMetrics, ClientMetrics, HandlerMetrics, LaneMetrics, ServerMetrics};
#[cfg(feature = "metrics")]
pub(crate) use self::client::{CallMetrics, ClientMetrics};
#[cfg(feature = "metrics")]
pub(crate) use self::server::{HandlerMetrics, LaneMetrics, ServerMetrics};

/// Whether a recorder listens to what has `gauge` among its handles. The facade does not say; but a handle of no recorder
/// never asks for its value.
#[cfg(feature = "metrics")]
fn is_heard(gauge: &metrics::Gauge) -> bool {
    struct Asked<'a>(&'a std::cell::Cell<bool>);
    impl metrics::IntoF64 for Asked<'_> {
        fn into_f64(self) -> f64 {
            self.0.set(true);
            0.0
        }
    }
    let asked = std::cell::Cell::new(false);
    gauge.increment(Asked(&asked));
    // A recorder that drops this gauge may take the others; the one that stands in for none has no state.
    asked.get() || metrics::with_recorder(|recorder| size_of_val(recorder) > 0)
}

/// Adds what a gauge has grown by since it was last told.
#[cfg(feature = "metrics")]
fn moved(gauge: &metrics::Gauge, told: &mut usize, now: usize) {
    if *told != now {
        // Counts far below 2^53 each: nothing is lost.
        #[expect(clippy::cast_precision_loss, reason = "gauges are f64")]
        let (before, after) = (*told as f64, now as f64);
        gauge.increment(after - before);
        *told = now;
    }
}

#[cfg(feature = "metrics")]
fn increased(counter: &metrics::Counter, told: &mut u64, now: u64) {
    if now > *told {
        counter.increment(now - *told);
        *told = now;
    }
}
