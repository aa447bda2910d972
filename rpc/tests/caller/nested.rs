//! Calls made by handlers: they end with the call that is being served.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc::{Address, CallContext, CallError, Cause, Client};
use serde::{Deserialize, Serialize};

use crate::support::{soon, until};

/// Goes on for `hops` more servers, and waits for ever at the last.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
struct Pass {
    hops: u32,
    detached: bool,
}

#[derive(rpc::Protocol)]
#[rpc(name = "chain", version = 1)]
enum Chain {
    Pass(Pass),
}

#[derive(Default)]
struct Seen {
    contexts: Vec<CallContext>,
    dropped: usize,
}

struct Hop {
    next: Option<Client<Chain>>,
    seen: Arc<Mutex<Seen>>,
}

struct OnDrop(Arc<Mutex<Seen>>);
impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.lock().unwrap().dropped += 1;
    }
}

impl ChainHandler for Hop {
    async fn pass(&self, m: Pass) -> Result<(), rpc::Never> {
        let _dropped = OnDrop(self.seen.clone());
        self.seen.lock().unwrap().contexts.push(CallContext::current().unwrap());
        if let (Some(next), true) = (&self.next, m.hops > 0) {
            let call = next.call(Pass { hops: m.hops - 1, detached: m.detached });
            // Given more time than there is, and less in no case.
            let call = call.deadline(Duration::from_secs(600));
            let _ = if m.detached { call.detached().await } else { call.await };
        } else {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// Three servers, each of which calls the next.
struct World {
    client: Client<Chain>,
    seen: Vec<Arc<Mutex<Seen>>>,
    _servers: Vec<rpc::Server>,
}

async fn chain(name: &str) -> World {
    let (mut next, mut seen, mut servers) = (None, Vec::new(), Vec::new());
    for hop in (0..3).rev() {
        let address = Address::mem(format!("{name}-{hop}"));
        let here = Arc::<Mutex<Seen>>::default();
        let handler = Hop { next: next.take(), seen: here.clone() };
        servers.push(rpc::serve::<Chain>(&address, handler).await.unwrap());
        seen.insert(0, here);
        next = Some(Client::new(&address));
    }
    World { client: next.unwrap(), seen, _servers: servers }
}

#[tokio::test(start_paused = true)]
async fn deadline_of_a_call_holds_for_the_calls_that_its_handlers_make() {
    let w = chain("inherits").await;
    let asked = tokio::time::Instant::now();
    let outcome = w.client.call(Pass { hops: 2, detached: false }).deadline(Duration::from_secs(3)).await;
    let Err(CallError::Unknown(doubt)) = outcome else { panic!("nobody answers: {outcome:?}") };
    assert_eq!(doubt.cause(), Cause::Deadline);
    assert!(asked.elapsed() <= Duration::from_millis(3010), "{:?}", asked.elapsed());
    let by = (asked + Duration::from_millis(3010)).into_std();
    for (hop, seen) in w.seen.iter().enumerate() {
        let deadline = seen.lock().unwrap().contexts[0].deadline;
        assert!(deadline <= by, "hop {hop} was given {:?} too much", deadline - by);
    }
    until("every handler is stopped", || w.seen.iter().all(|seen| seen.lock().unwrap().dropped == 1)).await;
    assert!(asked.elapsed() <= Duration::from_millis(3100), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn detached_call_keeps_its_own_deadline() {
    let w = chain("detached").await;
    let asked = tokio::time::Instant::now();
    let call = w.client.call(Pass { hops: 1, detached: true }).deadline(Duration::from_secs(3));
    assert!(call.await.is_err());
    let deadline = w.seen[1].lock().unwrap().contexts[0].deadline;
    assert!(deadline >= (asked + Duration::from_secs(599)).into_std());
}

#[tokio::test(start_paused = true)]
async fn call_of_a_spawned_task_inherits_by_the_context_that_it_was_given() {
    let address = Address::mem("within");
    let seen = Arc::<Mutex<Seen>>::default();
    let _server = rpc::serve::<Chain>(&address, Hop { next: None, seen: seen.clone() }).await.unwrap();
    let client = Client::<Chain>::new(&address);
    let waiting = tokio::spawn(client.call(Pass { hops: 0, detached: false }).deadline(Duration::from_secs(3)));
    until("the handler has begun", || !seen.lock().unwrap().contexts.is_empty()).await;
    let started = tokio::time::Instant::now();
    let call = client.call(Pass { hops: 0, detached: false }).within(&seen.lock().unwrap().contexts[0]);
    assert!(matches!(call.await, Err(CallError::Unknown(_))));
    assert!(started.elapsed() <= Duration::from_secs(3));
    assert!(waiting.await.unwrap().is_err());
}

#[tokio::test]
async fn cancel_goes_through_every_hop() {
    let w = chain("cancelled").await;
    let mut call = w.client.call(Pass { hops: 2, detached: false }).deadline(Duration::from_secs(600));
    assert!(futures::poll!(&mut call).is_pending());
    soon(async {
        tokio::select! {
            _ = &mut call => panic!("nobody answers"),
            () = until("the last hop is reached", || w.seen[2].lock().unwrap().contexts.len() == 1) => {}
        }
    })
    .await;
    assert!(w.seen.iter().all(|seen| seen.lock().unwrap().dropped == 0));
    drop(call);
    until("every handler is dropped", || w.seen.iter().all(|seen| seen.lock().unwrap().dropped == 1)).await;
}
