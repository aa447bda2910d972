//! What a server refuses because it has too much to do, and what it says then.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rpc::{Address, CallError, Client, Limits, NotDelivered, Server};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
struct Slow;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = ())]
struct Quick;

#[derive(rpc::Protocol)]
#[rpc(name = "works", version = 1)]
enum Works {
    Slow(Slow),
    Quick(Quick),
}

/// Slow calls wait for a permit.
struct Handler(Arc<Semaphore>);

impl WorksHandler for Handler {
    async fn slow(&self, _: Slow) -> Result<(), rpc::Never> {
        // Closed: the test is over. A panic costs this call only.
        self.0.acquire().await.unwrap().forget();
        Ok(())
    }

    async fn quick(&self, _: Quick) -> Result<(), rpc::Never> {
        Ok(())
    }
}

struct World {
    release: Arc<Semaphore>,
    _server: Server,
    client: Client<Works>,
}

async fn world(name: &str, set_up: impl FnOnce(rpc::ServerBuilder<Works>) -> rpc::ServerBuilder<Works>) -> World {
    let release = Arc::new(Semaphore::new(0));
    let builder = set_up(Server::builder::<Works>(Handler(Arc::clone(&release))));
    let server = builder.serve(&Address::mem(name)).await.unwrap();
    let client = Client::new(server.address());
    World { release, _server: server, client }
}

#[track_caller]
fn retry_after<R: rpc::Request>(result: Result<R::Ack, CallError<R>>) -> Duration {
    match result {
        Err(CallError::NotDelivered(NotDelivered::Overloaded { retry_after: Some(after) })) => after,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("`{}` was taken", R::NAME),
    }
}

#[tokio::test]
async fn method_beyond_its_limit_is_shed_with_a_time_and_others_work() {
    let w = world("method limit", |builder| builder.method_limit::<Slow>(4)).await;
    let calls = join_all((0..10).map(|_| w.client.call(Slow)));
    let others = async {
        w.client.call(Quick).await.unwrap();
        w.release.add_permits(4);
    };
    let (results, ()) = tokio::join!(calls, others);
    let (acks, shed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((acks.len(), shed.len()), (4, 6));
    for result in shed {
        assert!((1..=1000).contains(&retry_after(result).as_millis()));
    }
    // Each that has ended made room for one.
    w.release.add_permits(4);
    assert!(join_all((0..4).map(|_| w.client.call(Slow))).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn retry_after_follows_how_fast_handlers_end() {
    let w = world("retry after", |builder| builder.method_limit::<Slow>(10)).await;
    let feed = async {
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            w.release.add_permits(1);
        }
        w.release.close();
    };
    // Fourteen callers for ten places: some are always shed.
    let callers = (0..14).map(|_| async {
        let mut said = Vec::new();
        loop {
            match w.client.call(Slow).await {
                Ok(()) => {}
                Err(CallError::Unknown(_)) => return said,
                refused => said.push(retry_after(refused)),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let (said, ()) = tokio::join!(join_all(callers), feed);
    let said = said.concat();
    assert_eq!(said.iter().max(), Some(&Duration::from_secs(1)), "nothing has ended yet: the longest time");
    // Ten run and two hundred end in a second.
    let last = said.last().unwrap();
    assert!((Duration::from_millis(40)..=Duration::from_millis(60)).contains(last), "{said:?}");
}

#[tokio::test]
async fn one_process_is_shed_at_its_share_of_the_running_handlers() {
    let limits = Limits { running_max: 10, ..Limits::default() };
    let w = world("share", |builder| builder.limits(limits)).await;
    let calls = join_all((0..20).map(|_| w.client.call(Slow)));
    let others = async {
        // Also another client of the same process: it is the process that has its share.
        let second = Client::<Works>::new(w.client.address());
        retry_after(second.call(Quick).await);
        w.release.add_permits(8);
    };
    let (results, ()) = tokio::join!(calls, others);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 8, "four fifths of ten");
    for result in results.into_iter().filter(Result::is_err) {
        retry_after(result);
    }
    w.client.call(Quick).await.unwrap();
}

#[tokio::test]
async fn actor_sheds_with_the_time_that_it_names() {
    let address = Address::mem("actor sheds");
    let (_server, mut calls) = Server::actor::<Works>().serve_calls(&address, 8).await.unwrap();
    let client = Client::<Works>::new(&address);
    let actor = async {
        let Some(WorksCall::Slow(_, responder)) = calls.recv().await else { panic!("a slow call") };
        responder.overloaded(Duration::from_millis(1234));
    };
    let (result, ()) = tokio::join!(client.call(Slow), actor);
    assert_eq!(retry_after(result), Duration::from_millis(1234));
}
