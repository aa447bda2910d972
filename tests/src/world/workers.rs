//! What the children of tests host besides the workers that are built in.
//!
//! Each does one thing that no worker does by itself, and writes down what came of it.

use std::time::Duration;

use futures::future::BoxFuture;
use pod::event::fire_and_forget;
use pod::id::{TurnId, WorkId};
use pod::protocol::{PodEvent, PodEventOffer};
use pod::{Method, SpawnPod, TurnContext, TurnEnd, TurnResult, Worker, WorkerError, WorkerSpec, Workers};

/// The workers that are built in, and these:
/// `raise` reports as many events as it is told, without waiting, and then writes down what became of them;
/// `offer` makes the offers that it is told to its parent `boss`, and writes down the answers;
/// `said` raises the events that it is told, awaited;
/// `chatter` prints as many KiB on standard error as it is told;
/// `deaf` ends no turn, whatever it is asked;
/// `grove` does as its input says, step by step;
/// `queasy` gives work to a child and fails on every report as long as the file `poison` is there.
pub fn workers() -> Workers {
    Workers::builtin()
        .with("raise", |_| Ok(Box::new(Raise)))
        .with("offer", |_| Ok(Box::new(Offer)))
        .with("said", |_| Ok(Box::new(Said)))
        .with("chatter", |_| Ok(Box::new(Chatter)))
        .with("deaf", |_| Ok(Box::new(Deaf)))
        .with(super::GROVE, |_| Ok(Box::new(super::grove::Grove)))
        .with("queasy", |_| Ok(Box::new(Queasy)))
}

struct Raise;
struct Offer;
struct Said;
struct Chatter;
struct Deaf;
struct Queasy;

impl Worker for Raise {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            let count: u64 = input(cx)?;
            let reporter = cx.pod().reporter().clone();
            for number in 1..=count {
                let (pod, turn) = (cx.pod().id().clone(), TurnId(number));
                let result = TurnResult::Finished;
                fire_and_forget(&reporter, PodEvent::TurnEnded { pod, work: WorkId(number), turn, result });
            }
            let drained = reporter.drain(Duration::from_secs(40)).await;
            let counts = reporter.counters().map(|counters| counters.now()).unwrap_or_default();
            cx.output(&format!(
                "acked {} failed {} pending {} applied {}",
                counts.forgotten_delivered, counts.forgotten_failed, drained.pending, counts.applied
            ))
            .await?;
            Ok(TurnEnd::Finished)
        })
    }
}

impl Worker for Offer {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            let offers: Vec<PodEventOffer> = input(cx)?;
            let boss = cx.pod().roots().pod(&super::place::named("boss")).socket();
            let client = rpc::Client::<Method>::new(&rpc::Address::unix(boss));
            for offer in offers {
                let answer = client.call(offer).await;
                cx.output(&format!("{answer:?}")).await?;
            }
            Ok(TurnEnd::Finished)
        })
    }
}

impl Worker for Said {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            let events: Vec<PodEvent> = input(cx)?;
            for event in events {
                let reporter = cx.pod().reporter();
                let delivery = pod::event::send_pod_event_awaited(reporter, event, Duration::from_secs(20)).await;
                cx.output(&format!("{delivery:?}")).await?;
            }
            Ok(TurnEnd::Finished)
        })
    }
}

impl Worker for Chatter {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            let kib: usize = input(cx)?;
            for _ in 0..kib {
                eprintln!("{}", "x".repeat(1023));
            }
            Ok(TurnEnd::Finished)
        })
    }
}

impl Worker for Deaf {
    fn turn<'a>(&'a mut self, _: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(std::future::pending())
    }
}

impl Worker for Queasy {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            if cx.input().is_some() {
                let leaf = SpawnPod::new(super::place::named("leaf"), WorkerSpec::command("true"));
                let failed = |error: &dyn std::error::Error| WorkerError::new(error.to_string());
                let leaf = cx.spawn_pod(leaf).await.map_err(|e| failed(&e))?;
                cx.delegate(&leaf.id().name, "be done").await.map_err(|e| failed(&e))?;
                return Ok(TurnEnd::Finished);
            }
            let items = cx.next_request().await?;
            let root = cx.pod().roots().moved_to().map(|root| root.join("poison"));
            if root.is_some_and(|poison| poison.exists()) {
                return Err(WorkerError::new("poisoned"));
            }
            cx.response_received().await?;
            for item in items {
                cx.output(item.text()).await?;
            }
            Ok(TurnEnd::Finished)
        })
    }
}

pub(super) fn input<T: serde::de::DeserializeOwned>(cx: &TurnContext) -> Result<T, WorkerError> {
    serde_json::from_str(cx.input().unwrap_or_default()).map_err(|error| WorkerError::new(error.to_string()))
}
