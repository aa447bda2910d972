//! What a recorder hears of calls, handlers, connections and streams. In a process of its own: a recorder is global.
#![cfg(feature = "metrics")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use rpc::{Address, CallError, Client, ItemSender, Never};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Wire, Debug, PartialEq)]
struct Refused;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = (), rejection = Refused)]
struct Do {
    what: String,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = (), item = u64)]
struct Count {
    to: u64,
}

#[derive(rpc::Protocol)]
#[rpc(name = "counted", version = 1)]
enum Counted {
    Do(Do),
    #[rpc(stream)]
    Count(Count),
}

#[derive(Default)]
struct Doer(Arc<tokio::sync::Notify>);

impl CountedHandler for Doer {
    async fn r#do(&self, m: Do) -> Result<(), Refused> {
        match m.what.as_str() {
            "reject" => Err(Refused),
            "panic" => panic!("as told"),
            "wait" => {
                self.0.notified().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn count(&self, m: Count, items: ItemSender<u64>) -> Result<(), Never> {
        tokio::spawn(async move {
            for n in 0..m.to {
                items.send(n).await.unwrap();
            }
            drop(items);
        });
        Ok(())
    }
}

/// Adds up what it hears, under `name{label=value,..}`.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<BTreeMap<String, f64>>>);

struct One {
    key: String,
    heard: Heard,
}

impl One {
    fn add(&self, value: f64) {
        *self.heard.0.lock().unwrap().entry(self.key.clone()).or_default() += value;
    }
}

impl CounterFn for One {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }
    fn absolute(&self, _: u64) {
        unreachable!("counters are only incremented");
    }
}

impl GaugeFn for One {
    fn increment(&self, value: f64) {
        self.add(value);
    }
    fn decrement(&self, value: f64) {
        self.add(-value);
    }
    fn set(&self, _: f64) {
        unreachable!("gauges are only moved");
    }
}

impl HistogramFn for One {
    fn record(&self, value: f64) {
        assert!((0.0..60.0).contains(&value), "{value} s");
        self.add(1.0);
    }
}

impl Heard {
    fn one(&self, key: &Key) -> Arc<One> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(One { key: format!("{}{{{}}}", key.name(), labels.join(",")), heard: self.clone() })
    }

    fn of(&self, name: &str, labels: &str) -> f64 {
        let labels = if labels.is_empty() { String::new() } else { format!(",{labels}") };
        self.0.lock().unwrap().get(&format!("rpc_{name}{{service=counted{labels}}}")).copied().unwrap_or(0.0)
    }

    async fn expects(&self, name: &str, labels: &str, value: f64) {
        let reached = tokio::time::timeout(Duration::from_secs(20), async {
            while self.of(name, labels) != value {
                tokio::task::yield_now().await;
            }
        });
        assert!(reached.await.is_ok(), "{name} {labels} is not {value}: {:#?}", self.0.lock().unwrap());
    }
}

impl Recorder for Heard {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.one(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.one(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.one(key))
    }
}

fn told(what: &str) -> Do {
    Do { what: what.into() }
}

#[tokio::test]
async fn recorder_hears_of_every_outcome_and_of_all_that_is_open() {
    let heard = Heard::default();
    metrics::set_global_recorder(heard.clone()).unwrap();
    let address = Address::mem("metrics");
    let doer = Doer::default();
    let release = Arc::clone(&doer.0);
    let server = rpc::serve::<Counted>(&address, doer).await.unwrap();
    let client = Client::<Counted>::new(&address);

    client.call(told("do")).await.unwrap();
    client.call(told("do")).await.unwrap();
    assert!(matches!(client.call(told("reject")).await, Err(CallError::Rejected(Refused))));
    assert!(matches!(client.call(told("panic")).await, Err(CallError::Unknown(_))));
    for (outcome, client, server) in
        [("ack", 2.0, 2.0), ("rejected", 1.0, 1.0), ("unknown", 1.0, 0.0), ("failed", 0.0, 1.0)]
    {
        let labels = format!("method=do,outcome={outcome}");
        assert_eq!(heard.of("client_calls_total", &labels), client, "{outcome}");
        assert_eq!(heard.of("server_calls_total", &labels), server, "{outcome}");
    }
    assert_eq!(heard.of("client_ack_seconds", "method=do"), 2.0, "the time to ack is that of acks");
    assert_eq!(heard.of("server_handler_seconds", "method=do"), 4.0);

    // In flight, and over again when it is dropped.
    let mut waits = Box::pin(async { client.call(told("wait")).await });
    assert!(futures::poll!(&mut waits).is_pending());
    heard.expects("client_in_flight", "", 1.0).await;
    heard.expects("server_in_flight", "", 1.0).await;
    assert_eq!(heard.of("client_window_ids", ""), 1.0);
    drop(waits);
    heard.expects("client_in_flight", "", 0.0).await;
    heard.expects("server_in_flight", "", 0.0).await;
    assert_eq!(heard.of("client_calls_total", "method=do,outcome=dropped"), 1.0);

    let (_, items) = client.open(Count { to: 5 }).await.unwrap();
    assert_eq!(items.count().await, 5);
    assert_eq!(heard.of("client_stream_items_total", ""), 5.0);
    assert_eq!(heard.of("server_stream_items_total", ""), 5.0);

    heard.expects("server_queue_bytes", "", 0.0).await;
    for (name, labels) in [("client_connections_total", ""), ("server_connections_total", ""), ("server_lanes", "")] {
        assert_eq!(heard.of(name, labels), 1.0, "{name}");
    }
    // Framing and handshake are in it; what one side wrote the other has read.
    heard.expects("server_bytes_total", "direction=in", heard.of("client_bytes_total", "direction=out")).await;
    heard.expects("client_bytes_total", "direction=in", heard.of("server_bytes_total", "direction=out")).await;
    assert!(heard.of("client_bytes_total", "direction=in") > 7.0 * 20.0);

    // A server that is gone.
    release.notify_waiters();
    server.drain().await;
    assert!(matches!(client.call(told("do")).await, Err(CallError::NotDelivered(_))));
    assert_eq!(heard.of("client_calls_total", "method=do,outcome=not_delivered"), 1.0);
    heard.expects("server_connections", "", 0.0).await;
    heard.expects("server_lanes", "", 0.0).await;

    // And is there again, and overloaded.
    let none = rpc::Limits { request_bytes_max: 0, ..rpc::Limits::default() };
    let server = rpc::serve_with::<Counted>(&address, Doer::default(), none).await.unwrap();
    assert!(matches!(client.call(told("do")).await, Err(CallError::NotDelivered(_))));
    heard.expects("client_reconnects_total", "", 1.0).await;
    heard.expects("server_refused_total", "reason=overloaded", 1.0).await;
    assert_eq!(server.counters().refusals.overloaded, 1);
    drop(client);
    drop(server);
    heard.expects("client_window_ids", "", 0.0).await;
    heard.expects("server_lanes", "", 0.0).await;
}
