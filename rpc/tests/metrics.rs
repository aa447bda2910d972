//! What a recorder hears of calls, handlers, connections and streams. In a process of its own: a recorder is global.
#![cfg(feature = "metrics")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::StreamExt;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use rpc::{Address, CallError, Client, ItemSender, Never, Peer, Server};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

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

/// The same under another name, so that a second test counts for itself.
#[derive(rpc::Protocol)]
#[rpc(name = "queued", version = 1)]
enum Queued {
    Do(Do),
}

impl QueuedHandler for Doer {
    async fn r#do(&self, m: Do) -> Result<(), Refused> {
        CountedHandler::r#do(self, m).await
    }
}

#[derive(Clone, Default)]
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

    /// The recorder of this process.
    fn installed() -> Self {
        static HEARD: OnceLock<Heard> = OnceLock::new();
        HEARD
            .get_or_init(|| {
                let heard = Self::default();
                metrics::set_global_recorder(heard.clone()).unwrap();
                heard
            })
            .clone()
    }

    fn of(&self, name: &str, labels: &str) -> f64 {
        self.of_service("counted", name, labels)
    }

    fn of_service(&self, service: &str, name: &str, labels: &str) -> f64 {
        let labels = if labels.is_empty() { String::new() } else { format!(",{labels}") };
        self.0.lock().unwrap().get(&format!("rpc_{name}{{service={service}{labels}}}")).copied().unwrap_or(0.0)
    }

    /// Of all outcomes together.
    fn calls(&self, service: &str, side: &str) -> f64 {
        let of_these = format!("rpc_{side}_calls_total{{service={service},");
        self.0.lock().unwrap().iter().filter(|(key, _)| key.starts_with(&of_these)).map(|(_, value)| value).sum()
    }

    /// Waits until `name` of the service `queued` is what it is to be.
    async fn until(&self, name: &str, labels: &str, is: impl Fn(f64) -> bool) {
        let reached = tokio::time::timeout(Duration::from_secs(20), async {
            while !is(self.of_service("queued", name, labels)) {
                tokio::task::yield_now().await;
            }
        });
        assert!(reached.await.is_ok(), "{name} {labels}: {:#?}", self.0.lock().unwrap());
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
    let heard = Heard::installed();
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
    // Four with a handler's outcome, one dropped, one that opened a stream, two not delivered: each counted once.
    assert_eq!(heard.calls("counted", "client"), 8.0);
    assert_eq!(heard.calls("counted", "server"), 6.0, "no handler saw those that were not delivered");
    drop(client);
    drop(server);
    heard.expects("client_window_ids", "", 0.0).await;
    heard.expects("server_lanes", "", 0.0).await;
}

/// A stream whose reader and writer can be stopped.
struct Gate(DuplexStream, Arc<Mutex<Stopped>>);

#[derive(Default)]
struct Stopped {
    reads: bool,
    writes: bool,
    waiting: Vec<Waker>,
}

impl Stopped {
    fn set(gate: &Mutex<Self>, reads: bool, writes: bool) {
        let mut gate = gate.lock().unwrap();
        (gate.reads, gate.writes) = (reads, writes);
        gate.waiting.drain(..).for_each(Waker::wake);
    }
}

impl AsyncRead for Gate {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut gate = self.1.lock().unwrap();
        if gate.reads {
            gate.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        drop(gate);
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut gate = self.1.lock().unwrap();
        if gate.writes {
            gate.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        drop(gate);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn gauges_tell_what_is_queued_and_in_flight_while_it_is() {
    let heard = Heard::installed();
    let (ours, theirs) = tokio::io::duplex(256);
    let gate = Arc::<Mutex<Stopped>>::default();
    let doer = Doer::default();
    let server = Server::builder::<Queued>(doer.clone()).start();
    server.serve_stream(theirs, Peer::own());
    let client = Client::<Queued>::new(&Address::stream("a gate", Gate(ours, Arc::clone(&gate))));
    client.call(told("do")).await.unwrap();
    let zero = |value| value == 0.0;

    // Handlers hold.
    let calls: Vec<_> = (0..3).map(|_| tokio::spawn(client.call(told("wait")))).collect();
    heard.until("client_in_flight", "", |value| value == 3.0).await;
    heard.until("server_in_flight", "", |value| value == 3.0).await;
    assert_eq!(heard.of_service("queued", "client_window_ids", ""), 3.0);

    // Nobody reads the answers: what the pipe does not hold is queued, and in flight to the client only.
    Stopped::set(&gate, true, false);
    let more: Vec<_> = (0..100).map(|_| tokio::spawn(client.call(told("do")))).collect();
    heard.until("server_calls_total", "method=do,outcome=ack", |value| value == 101.0).await;
    heard.until("server_queue_bytes", "", |value| value > 0.0).await;
    assert_eq!(heard.of_service("queued", "client_in_flight", ""), 103.0);
    assert_eq!(heard.of_service("queued", "server_in_flight", ""), 3.0);
    Stopped::set(&gate, false, false);
    for call in more {
        call.await.unwrap().unwrap();
    }
    heard.until("server_queue_bytes", "", zero).await;

    // Nothing leaves: the first request is in the writer's hands, the others wait behind it.
    Stopped::set(&gate, false, true);
    let late: Vec<_> = (0..2).map(|_| tokio::spawn(client.call(told("do")))).collect();
    heard.until("client_in_flight", "", |value| value == 5.0).await;
    let later = tokio::spawn(client.call(told("do")));
    heard.until("client_queue_bytes", "", |value| value > 0.0).await;
    Stopped::set(&gate, false, false);
    for call in late.into_iter().chain([later]) {
        call.await.unwrap().unwrap();
    }
    doer.0.notify_waiters();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    for gauge in
        ["client_in_flight", "server_in_flight", "client_queue_bytes", "server_queue_bytes", "client_window_ids"]
    {
        heard.until(gauge, "", zero).await;
    }

    // A doubt that is resolved later was one outcome, not two; its handler's answer is late, and no second one.
    let Err(CallError::Unknown(doubt)) = client.call(told("wait")).deadline(Duration::from_millis(20)).await else {
        panic!("a doubt");
    };
    assert!(doubt.resolve().await.is_err(), "it was stopped");
    assert_eq!(heard.calls("queued", "client"), 108.0);
    assert_eq!(heard.of_service("queued", "client_calls_total", "method=do,outcome=unknown"), 1.0);
    assert_eq!(heard.calls("queued", "server"), 108.0);
    assert_eq!(heard.of_service("queued", "server_calls_total", "method=do,outcome=failed"), 1.0);
}

/// Gives its handles to `Heard`, all of them or all but gauges.
struct Partly<const GAUGES: bool>;

struct Stateful(Partly<false>, #[expect(dead_code, reason = "a recorder that has a state")] u8);

/// What the recorders of the next test have heard.
static PARTLY: OnceLock<Heard> = OnceLock::new();

fn partly() -> &'static Heard {
    PARTLY.get_or_init(Heard::default)
}

impl<const GAUGES: bool> Recorder for Partly<GAUGES> {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, data: &Metadata<'_>) -> Counter {
        partly().register_counter(key, data)
    }
    fn register_gauge(&self, key: &Key, data: &Metadata<'_>) -> Gauge {
        if GAUGES { partly().register_gauge(key, data) } else { Gauge::noop() }
    }
    fn register_histogram(&self, key: &Key, data: &Metadata<'_>) -> Histogram {
        partly().register_histogram(key, data)
    }
}

impl Recorder for Stateful {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, data: &Metadata<'_>) -> Counter {
        self.0.register_counter(key, data)
    }
    fn register_gauge(&self, key: &Key, data: &Metadata<'_>) -> Gauge {
        self.0.register_gauge(key, data)
    }
    fn register_histogram(&self, key: &Key, data: &Metadata<'_>) -> Histogram {
        self.0.register_histogram(key, data)
    }
}

#[tokio::test]
async fn recorder_without_a_state_and_one_without_gauges_are_heard() {
    let recorders: [(&str, &'static dyn Recorder); 2] =
        [("stateless", &Partly::<true>), ("no-gauges", &Stateful(Partly, 0))];
    for (calls, (name, recorder)) in (1..).zip(recorders) {
        let address = Address::mem(name);
        let (client, _server) = {
            // Handles are taken when a client or server is made; that is on this thread.
            let _here = metrics::set_default_local_recorder(recorder);
            (Client::<Counted>::new(&address), rpc::serve::<Counted>(&address, Doer::default()).await.unwrap())
        };
        client.call(told("do")).await.unwrap();
        for side in ["client", "server"] {
            assert_eq!(partly().calls("counted", side), f64::from(calls), "{name}, {side}");
        }
    }
}
