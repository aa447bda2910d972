//! Another tracing library beside ours. In a process of its own: a propagator is set once.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Mutex;

use rpc::{Address, Client, Never, TraceContext, trace};
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = String)]
struct Say;

#[derive(rpc::Protocol)]
#[rpc(name = "say", version = 1)]
enum Speech {
    Say(Say),
}

struct Speaker;

impl SpeechHandler for Speaker {
    async fn say(&self, _: Say) -> Result<String, Never> {
        Ok(TraceContext::current().map_or("none".into(), |context| context.to_string()))
    }
}

/// What the other library knows: spans by their names, and what they continue.
struct Other;

static CONTINUED: Mutex<Vec<(String, TraceContext)>> = Mutex::new(Vec::new());

fn known_as(span_id: u64) -> TraceContext {
    TraceContext::from_parts(7, span_id, true).unwrap()
}

impl trace::Propagator for Other {
    fn context_of(&self, span: &tracing::Span) -> Option<TraceContext> {
        match span.metadata()?.name() {
            "mine" => Some(known_as(1)),
            "call" => Some(known_as(2)),
            "handle" => Some(known_as(3)),
            _ => None,
        }
    }

    fn continue_from(&self, span: &tracing::Span, parent: &TraceContext) {
        let name = span.metadata().unwrap().name().to_owned();
        CONTINUED.lock().unwrap().push((name, parent.clone()));
    }
}

#[tokio::test]
async fn propagator_gives_the_context_that_is_sent_and_is_told_what_arrives() {
    trace::set_propagator(Other).unwrap();
    assert_eq!(trace::set_propagator(Other), Err(trace::PropagatorSet));
    let address = Address::mem("propagator");
    let server = rpc::serve::<Speech>(&address, Speaker).await.unwrap();
    let client = Client::<Speech>::new(&address);
    {
        let _guard = tracing::subscriber::set_default(Registry::default());
        assert_eq!(client.call(Say).await.unwrap(), known_as(3).to_string());
        assert_eq!(*CONTINUED.lock().unwrap(), [("handle".to_owned(), known_as(2))]);
    }
    // Here only the caller's own span is wanted: its context is sent as it is.
    let only_mine = tracing_subscriber::filter::filter_fn(|metadata| metadata.target() != "rpc");
    let _guard = tracing::subscriber::set_default(Registry::default().with(only_mine));
    let call = client.call(Say);
    let ack = tracing::Instrument::instrument(call, tracing::info_span!("mine")).await.unwrap();
    assert_eq!(ack, known_as(1).to_string());
    drop(server);
}
