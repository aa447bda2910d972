//! One trace over two hops: what a subscriber sees of calls and handlers.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc::{Address, CallError, Client, TraceContext};
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

#[derive(Serialize, Deserialize, rpc::Wire, Debug, PartialEq)]
struct Refused;

/// Does as it is told, if need be at the next one, and says in which trace.
#[derive(Clone, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = String, rejection = Refused)]
struct Do {
    what: String,
}

#[derive(rpc::Protocol)]
#[rpc(name = "hop", version = 1)]
enum Hop {
    Do(Do),
}

struct Doer {
    next: Option<Client<Hop>>,
}

impl HopHandler for Doer {
    async fn r#do(&self, m: Do) -> Result<String, Refused> {
        match (m.what.as_str(), &self.next) {
            ("panic", _) => panic!("as told"),
            ("reject", _) => Err(Refused),
            ("back", _) => {
                let caller = rpc::CallContext::current().unwrap().caller::<Hop>().unwrap();
                Ok(caller.call(told("say")).await.unwrap())
            }
            ("next", Some(next)) => Ok(next.call(told("say")).await.unwrap()),
            ("next in a task", Some(next)) => {
                let call = next.call(told("say"));
                let context = TraceContext::current().unwrap();
                Ok(tokio::spawn(context.scope(call)).await.unwrap().unwrap())
            }
            _ => {
                // Also after it was pending.
                tokio::task::yield_now().await;
                Ok(TraceContext::current().unwrap().to_string())
            }
        }
    }
}

fn told(what: &str) -> Do {
    Do { what: what.into() }
}

type Fields = BTreeMap<&'static str, String>;

/// The spans that were closed, with their fields.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Fields>>>);

struct Text<'a>(&'a mut Fields);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        if span.metadata().target() == "rpc" {
            let mut fields = Fields::from([("name", span.name().into())]);
            attributes.record(&mut Text(&mut fields));
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(fields) = context.span(id).unwrap().extensions_mut().get_mut::<Fields>() {
            values.record(&mut Text(fields));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if let Some(fields) = context.span(&id).unwrap().extensions_mut().remove::<Fields>() {
            self.0.lock().unwrap().push(fields);
        }
    }
}

impl Seen {
    fn listen() -> (Self, DefaultGuard) {
        let seen = Self::default();
        let guard = tracing::subscriber::set_default(Registry::default().with(seen.clone()));
        (seen, guard)
    }

    /// Handlers close their spans when their slots are cleared, which is after their answers.
    async fn expect(&self, count: usize) -> Vec<Fields> {
        let seen = tokio::time::timeout(Duration::from_secs(20), async {
            while self.0.lock().unwrap().len() < count {
                tokio::task::yield_now().await;
            }
        });
        assert!(seen.await.is_ok(), "{count} spans, not {:#?}", self.0.lock().unwrap());
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn the<'a>(spans: &'a [Fields], name: &str, at: usize) -> &'a Fields {
    spans.iter().filter(|span| span["name"] == name).nth(at).unwrap()
}

/// A server whose handlers call another one.
async fn two_hops(name: &str) -> (Client<Hop>, [rpc::Server; 2]) {
    let (near, far) = (Address::mem(format!("{name}-near")), Address::mem(format!("{name}-far")));
    let last = rpc::serve::<Hop>(&far, Doer { next: None }).await.unwrap();
    let first = rpc::serve::<Hop>(&near, Doer { next: Some(Client::new(&far)) }).await.unwrap();
    (Client::new(&near), [first, last])
}

#[tokio::test]
async fn trace_of_two_hops_is_one_and_each_span_has_its_parent() {
    for what in ["next", "next in a task"] {
        let (seen, _guard) = Seen::listen();
        let (client, _servers) = two_hops(&format!("trace-{}", what.len())).await;
        let ack = client.call(told(what)).deadline(Duration::from_secs(7)).await.unwrap();
        let spans = seen.expect(4).await;
        let inner = ["handle", "call"].map(|name| the(&spans, name, 0));
        let outer = ["handle", "call"].map(|name| the(&spans, name, 1));
        let chain = [outer[1], outer[0], inner[1], inner[0]];
        assert!(!chain[0].contains_key("parent_span_id"), "nobody called the first one");
        for pair in chain.windows(2) {
            assert_eq!(pair[1]["trace_id"], pair[0]["trace_id"]);
            assert_eq!(pair[1]["parent_span_id"], pair[0]["span_id"], "{pair:#?}");
        }
        for span in chain {
            assert_eq!((&*span["service"], &*span["method"], &*span["outcome"]), ("hop", "do", "ack"), "{span:?}");
            assert_eq!(span["request_id"], "1");
        }
        assert_eq!(chain.map(|span| &*span["otel.kind"]), ["client", "server", "client", "server"]);
        assert_eq!(chain[0]["deadline_ms"], "7000");
        assert!(chain[1]["deadline_ms"].parse::<u64>().unwrap() <= 7000);
        // The last handler ran in its own span's context.
        assert!(ack.contains(&chain[3]["span_id"]) && ack.contains(&chain[3]["trace_id"]), "{ack}");
    }
}

#[tokio::test]
async fn trace_that_was_given_is_continued_by_the_span() {
    let (seen, _guard) = Seen::listen();
    let (client, _servers) = two_hops("given").await;
    let root = TraceContext::root();
    client.call(told("say")).trace(root.clone()).await.unwrap();
    let spans = seen.expect(2).await;
    let call = the(&spans, "call", 0);
    assert_eq!(call["trace_id"], format!("{:032x}", root.trace_id()));
    assert_eq!(call["parent_span_id"], format!("{:016x}", root.span_id()));
}

#[tokio::test]
async fn outcome_is_recorded_on_both_spans() {
    let (seen, _guard) = Seen::listen();
    let (client, _servers) = two_hops("outcomes").await;
    let outcomes = |spans: &[Fields]| ["call", "handle"].map(|name| the(spans, name, 0)["outcome"].clone());

    assert!(matches!(client.call(told("reject")).await, Err(CallError::Rejected(Refused))));
    assert_eq!(outcomes(&seen.expect(2).await), ["rejected", "rejected"]);
    assert!(matches!(client.call(told("panic")).await, Err(CallError::Unknown(_))));
    assert_eq!(
        outcomes(&seen.expect(2).await),
        ["unknown: the handler panicked (it was started)", "unknown: Panicked"]
    );
    let nobody = Client::<Hop>::new(&Address::mem("outcomes-nobody"));
    assert!(matches!(nobody.call(told("say")).await, Err(CallError::NotDelivered(_))));
    let outcome = seen.expect(1).await[0]["outcome"].clone();
    assert!(outcome.starts_with("not delivered: nothing listens"), "{outcome}");

    let mut call = client.call(told("say"));
    assert!(futures::poll!(&mut call).is_pending());
    drop(call);
    assert_eq!(seen.expect(1).await[0]["outcome"], "dropped");
}

#[tokio::test]
async fn actor_that_answers_later_has_the_trace_of_its_call() {
    let (seen, _guard) = Seen::listen();
    let address = Address::mem("traced-actor");
    let (_server, mut calls) = rpc::serve_calls::<Hop>(&address, 1).await.unwrap();
    let client = Client::<Hop>::new(&address);
    let actor = async {
        let Some(HopCall::Do(request, responder)) = calls.recv().await else { panic!("no call") };
        assert_eq!(request.what, "say");
        let context = responder.trace().unwrap().clone();
        responder.ack(context.to_string());
    };
    let (ack, ()) = futures::join!(client.call(told("say")), actor);
    let spans = seen.expect(2).await;
    let (call, handle) = (the(&spans, "call", 0), the(&spans, "handle", 0));
    assert_eq!(handle["parent_span_id"], call["span_id"]);
    assert_eq!(handle["outcome"], "ack", "its span lasts until it is answered");
    assert!(ack.unwrap().contains(&handle["span_id"]));
}

#[tokio::test]
async fn call_back_on_the_same_connection_continues_the_trace() {
    let (seen, _guard) = Seen::listen();
    let address = Address::mem("trace-back");
    let _server = rpc::serve::<Hop>(&address, Doer { next: None }).await.unwrap();
    let client = Client::<Hop>::builder(&address).serves::<Hop>(Doer { next: None }).build();
    client.call(told("back")).await.unwrap();
    let spans = seen.expect(4).await;
    let chain = [the(&spans, "call", 1), the(&spans, "handle", 1), the(&spans, "call", 0), the(&spans, "handle", 0)];
    for pair in chain.windows(2) {
        assert_eq!(pair[1]["trace_id"], pair[0]["trace_id"]);
        assert_eq!(pair[1]["parent_span_id"], pair[0]["span_id"], "{pair:#?}");
    }
    assert_eq!(chain.map(|span| (&*span["service"], &*span["outcome"])), [("hop", "ack"); 4]);
}
