//! What a caller learns, over real sockets and in memory. Ack or timeout is always asserted.
//!
//! Long, because all of it is about one service and one small world, and each test is read by itself.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/proxy.rs"]
mod proxy;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use rpc::{Address, CallContext, CallError, Cause, Client, NotDelivered, Stage};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use proxy::Proxy;

#[derive(Serialize, Deserialize, rpc::Wire, Debug, PartialEq)]
struct Overflow;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64, rejection = Overflow)]
struct Add {
    a: u64,
    b: u64,
}

/// Does what it is told.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = rpc::Blob)]
struct Behave {
    how: String,
    bytes: rpc::Blob,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = u64, item = u64)]
struct Count {
    to: u64,
}

#[derive(rpc::Protocol)]
#[rpc(name = "bench", version = 1)]
enum Bench {
    Add(Add),
    Behave(Behave),
    #[rpc(stream)]
    Count(Count),
}

#[derive(Default)]
struct Works {
    applied: AtomicU64,
    dropped: AtomicU64,
    release: Notify,
    stop_spinning: AtomicBool,
}

#[derive(Clone, Default)]
struct Handler(Arc<Works>);

struct OnDrop(Arc<Works>);
impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// A panic's payload that panics when whoever has caught it lets it go.
struct PanicsAgain;
impl Drop for PanicsAgain {
    fn drop(&mut self) {
        std::panic::panic_any(Self);
    }
}

impl BenchHandler for Handler {
    async fn add(&self, m: Add) -> Result<u64, Overflow> {
        self.0.applied.fetch_add(1, Ordering::SeqCst);
        m.a.checked_add(m.b).ok_or(Overflow)
    }

    async fn behave(&self, m: Behave) -> Result<rpc::Blob, rpc::Never> {
        match m.how.as_str() {
            "panic" => panic!("as told"),
            "panic twice" => std::panic::panic_any(PanicsAgain),
            "panic later" => {
                tokio::task::yield_now().await;
                panic!("as told");
            }
            "hang" => {
                let _guard = OnDrop(self.0.clone());
                std::future::pending().await
            }
            "wait" => {
                self.0.release.notified().await;
                self.0.applied.fetch_add(1, Ordering::SeqCst);
                Ok(m.bytes)
            }
            "spin" => {
                std::future::poll_fn(|cx| match self.0.stop_spinning.load(Ordering::SeqCst) {
                    true => std::task::Poll::Ready(()),
                    false => {
                        cx.waker().wake_by_ref();
                        std::task::Poll::Pending
                    }
                })
                .await;
                Ok(m.bytes)
            }
            "apply" => {
                self.0.applied.fetch_add(1, Ordering::SeqCst);
                Ok(m.bytes)
            }
            "large" => Ok(rpc::Blob(vec![7; 5000].into())),
            "who" => {
                let context = CallContext::current().unwrap();
                Ok(rpc::Blob(context.peer.pid().unwrap().to_string().into_bytes().into()))
            }
            _ => Ok(m.bytes),
        }
    }

    async fn count(&self, m: Count, items: rpc::ItemSender<u64>) -> Result<u64, rpc::Never> {
        tokio::spawn(async move {
            for n in 0..m.to {
                if items.send(n).await.is_err() {
                    return;
                }
            }
        });
        Ok(m.to)
    }
}

fn behave(how: &str) -> Behave {
    Behave { how: how.into(), bytes: rpc::Blob(vec![1, 2, 3].into()) }
}

struct World {
    works: Arc<Works>,
    server: rpc::Server,
    client: Client<Bench>,
    _directory: Option<tempfile::TempDir>,
}

async fn unix() -> World {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("d/s"));
    world(address, Some(directory)).await
}

async fn world(address: Address, directory: Option<tempfile::TempDir>) -> World {
    let handler = Handler::default();
    let works = handler.0.clone();
    let server = rpc::serve::<Bench>(&address, handler).await.unwrap();
    World { works, server, client: Client::new(&address), _directory: directory }
}

/// Whatever a test waits for comes within this, or the test fails.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("an outcome within its bound")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

#[tokio::test]
async fn ack_and_rejection_arrive_with_their_types() {
    for address in [None, Some(Address::mem("ack_and_rejection"))] {
        let w = match address {
            None => unix().await,
            Some(address) => world(address, None).await,
        };
        assert_eq!(soon(rpc::call(&w.client, Add { a: 1, b: 2 })).await.unwrap(), 3);
        let error = soon(rpc::call(&w.client, Add { a: u64::MAX, b: 2 })).await.unwrap_err();
        assert!(matches!(error, CallError::Rejected(Overflow)), "{error:?}");
    }
}

#[tokio::test]
async fn peer_of_a_call_is_the_process_that_the_kernel_names() {
    let w = unix().await;
    let pid = soon(w.client.call(behave("who"))).await.unwrap();
    assert_eq!(pid.0, std::process::id().to_string());
}

#[tokio::test]
async fn handler_that_panics_answers_at_once() {
    let w = unix().await;
    for how in ["panic", "panic later", "panic twice"] {
        let Err(CallError::Unknown(doubt)) = soon(w.client.call(behave(how)).deadline(Duration::from_secs(600))).await
        else {
            panic!("a panic is a doubt")
        };
        assert_eq!((doubt.cause(), doubt.stage()), (Cause::HandlerPanicked, Stage::Started));
    }
    assert_eq!(soon(rpc::call(&w.client, Add { a: 1, b: 2 })).await.unwrap(), 3, "the server lives on");
}

#[tokio::test]
async fn deadline_of_a_silent_handler_is_a_doubt_and_stops_the_handler() {
    let w = unix().await;
    let Err(CallError::Unknown(doubt)) = soon(w.client.call(behave("hang")).deadline(Duration::from_millis(50))).await
    else {
        panic!("a deadline is a doubt")
    };
    assert_eq!(doubt.cause(), Cause::Deadline);
    until("the handler is dropped", || w.works.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn dropped_call_stops_its_handler() {
    let w = unix().await;
    let call = w.client.call(behave("hang"));
    assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err());
    until("the handler is dropped", || w.works.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn nobody_listening_is_not_delivered_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d/none");
    for address in [Address::unix(&path), Address::mem("nobody")] {
        let client = Client::<Bench>::new(&address);
        let error = soon(rpc::call(&client, Add { a: 1, b: 2 })).await.unwrap_err();
        let CallError::NotDelivered(NotDelivered::NoListener { .. }) = &error else { panic!("{error:?}") };
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn request_that_fits_no_frame_is_not_delivered_and_harms_no_other() {
    let w = unix().await;
    let large = Behave { how: String::new(), bytes: rpc::Blob(vec![0; 2 << 20].into()) };
    let (large, small) = tokio::join!(w.client.call(large), w.client.call(Add { a: 1, b: 1 }));
    assert!(matches!(large, Err(CallError::NotDelivered(NotDelivered::TooLarge { max: 1_048_576, .. }))), "{large:?}");
    assert_eq!(small.unwrap(), 2);
}

#[tokio::test]
async fn answer_larger_than_declared_is_a_doubt_that_says_so() {
    let w = unix().await;
    let Err(CallError::Unknown(doubt)) = soon(w.client.call(behave("large"))).await else { panic!("a doubt") };
    assert_eq!(doubt.cause(), Cause::AnswerTooLarge);
}

#[tokio::test]
async fn body_of_half_a_mebibyte_arrives_whole() {
    let w = unix().await;
    let bytes = vec![9; 1 << 19];
    let sent = Behave { how: "wait".into(), bytes: rpc::Blob(bytes.into()) };
    let call = tokio::spawn(w.client.call(sent));
    w.works.release.notify_one();
    let Err(CallError::Unknown(doubt)) = soon(call).await.unwrap() else { panic!("the ack is too large on purpose") };
    assert_eq!(doubt.cause(), Cause::AnswerTooLarge);
    assert_eq!(w.works.applied.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn thousands_of_calls_at_once_are_all_answered() {
    let w = unix().await;
    let calls = (0..5000_u64).map(|n| w.client.call(Add { a: n, b: 1 }));
    let sums = soon(futures::future::join_all(calls)).await;
    for (n, sum) in sums.into_iter().enumerate() {
        assert_eq!(sum.unwrap(), n as u64 + 1);
    }
    assert_eq!(w.works.applied.load(Ordering::SeqCst), 5000);
}

#[tokio::test]
async fn slow_call_does_not_hold_the_window_of_the_others() {
    let w = unix().await;
    let mut slow = std::pin::pin!(w.client.call(behave("wait")));
    assert!(futures::poll!(slow.as_mut()).is_pending());
    for round in 0..4 {
        let calls = (0..1000_u64).map(|n| w.client.call(Add { a: n, b: round }));
        for sum in soon(futures::future::join_all(calls)).await {
            sum.unwrap();
        }
    }
    w.works.release.notify_one();
    assert_eq!(soon(slow).await.unwrap().0, &[1, 2, 3][..]);
}

#[tokio::test]
async fn stream_delivers_every_item_in_order_and_ends() {
    let w = unix().await;
    let (to, items) = soon(w.client.open(Count { to: 10_000 })).await.unwrap();
    let items: Vec<u64> = soon(items.map(Result::unwrap).collect()).await;
    assert_eq!(to, 10_000);
    assert!(items.iter().copied().eq(0..10_000));
}

#[tokio::test]
async fn unread_stream_delays_no_call() {
    let w = unix().await;
    let (_, unread) = soon(w.client.open(Count { to: u64::MAX })).await.unwrap();
    for n in 0..100 {
        assert_eq!(soon(rpc::call(&w.client, Add { a: n, b: 0 })).await.unwrap(), n);
    }
    drop(unread);
}

#[tokio::test]
async fn drain_lets_the_running_handler_end_and_takes_nothing_more() {
    let w = unix().await;
    let World { works, server, client, .. } = w;
    let waiting = tokio::spawn(client.call(behave("wait")));
    until("the handler waits", || client.counters().connections == 1).await;
    assert_eq!(soon(rpc::call(&client, Add { a: 1, b: 1 })).await.unwrap(), 2);
    let drained = tokio::spawn(server.drain());
    let refused = soon(async {
        loop {
            match rpc::call(&client, Add { a: 1, b: 1 }).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(matches!(refused, CallError::NotDelivered(NotDelivered::Draining)), "{refused:?}");
    works.release.notify_one();
    assert_eq!(soon(waiting).await.unwrap().unwrap().0, &[1, 2, 3][..]);
    soon(drained).await.unwrap();
    let asked = Instant::now();
    let gone = soon(rpc::call(&client, Add { a: 1, b: 1 })).await.unwrap_err();
    assert!(matches!(gone, CallError::NotDelivered(NotDelivered::NoListener { .. })), "{gone:?}");
    assert!(asked.elapsed() < Duration::from_secs(5), "an idle driver notices a call at once, not at its deadline");
}

#[tokio::test]
async fn actor_answers_later_and_a_forgotten_responder_answers_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("d/s"));
    let (server, mut calls) = rpc::serve_calls::<Bench>(&address, 8).await.unwrap();
    let client = Client::<Bench>::new(&address);
    let actor = tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            match call {
                BenchCall::Add(m, responder) => responder.ack(m.a + m.b),
                BenchCall::Behave(m, responder) => assert!(m.how.is_empty(), "{responder:?} is dropped here"),
                BenchCall::Count(m, responder, items) => {
                    responder.ack(m.to);
                    items.send(1).await.unwrap();
                }
            }
        }
    });
    assert_eq!(soon(rpc::call(&client, Add { a: 1, b: 2 })).await.unwrap(), 3);
    let Err(CallError::Unknown(doubt)) = soon(client.call(behave("")).deadline(Duration::from_secs(600))).await else {
        panic!("a doubt")
    };
    assert_eq!(doubt.cause(), Cause::ResponderDropped);
    let (_, items) = soon(client.open(Count { to: 1 })).await.unwrap();
    assert_eq!(soon(items.collect::<Vec<_>>()).await, [Ok(1)]);
    actor.abort();
    let _ = actor.await;
    let error = soon(rpc::call(&client, Add { a: 1, b: 2 })).await.unwrap_err();
    assert!(matches!(error, CallError::NotDelivered(NotDelivered::Unavailable(_))), "{error:?}");
    drop(server);
}

#[tokio::test]
async fn queue_of_any_size_takes_calls() {
    for queue in [0, 1, usize::MAX] {
        let address = Address::mem(format!("queue_of_{queue}"));
        let (_server, mut calls) = rpc::serve_calls::<Bench>(&address, queue).await.unwrap();
        let client = Client::<Bench>::new(&address);
        let sums = futures::future::join_all((0..3).map(|n| client.call(Add { a: n, b: 1 })));
        let actor = async {
            for _ in 0..3 {
                let Some(BenchCall::Add(m, responder)) = calls.recv().await else { panic!("a sum is asked for") };
                responder.ack(m.a + m.b);
            }
        };
        let (sums, ()) = soon(futures::future::join(sums, actor)).await;
        assert_eq!(sums.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [1, 2, 3]);
    }
}

#[tokio::test]
async fn server_that_goes_in_mid_call_is_a_doubt_and_resolving_says_so_again() {
    let w = unix().await;
    let World { server, client, _directory, .. } = w;
    let call = tokio::spawn(client.call(behave("hang")));
    assert_eq!(soon(rpc::call(&client, Add { a: 1, b: 1 })).await.unwrap(), 2);
    drop(server);
    let Err(CallError::Unknown(doubt)) = soon(call).await.unwrap() else { panic!("a doubt") };
    assert_eq!(doubt.cause(), Cause::ConnectionLost);
    let Err(CallError::Unknown(doubt)) = soon(doubt.resolve()).await else { panic!("still a doubt") };
    assert_eq!(doubt.cause(), Cause::ConnectionLost);
    // Another life of the server remembers nothing, and says so.
    let address = client.address().clone();
    let _next = rpc::serve::<Bench>(&address, Handler::default()).await.unwrap();
    let Err(CallError::Unknown(doubt)) = soon(doubt.resolve()).await else { panic!("still a doubt") };
    assert_eq!(doubt.cause(), Cause::PeerRestarted);
    assert_eq!(soon(rpc::call(&client, Add { a: 1, b: 1 })).await.unwrap(), 2, "the client goes on");
}

#[tokio::test]
async fn another_service_at_the_address_is_refused_by_name() {
    #[derive(rpc::Protocol)]
    #[rpc(name = "other", version = 1)]
    enum Other {
        Add(Add),
    }
    let w = unix().await;
    let other = Client::<Other>::new(w.client.address());
    let error = soon(rpc::call(&other, Add { a: 1, b: 1 })).await.unwrap_err();
    let CallError::NotDelivered(NotDelivered::Incompatible { refusal, said }) = error else { panic!("{error:?}") };
    assert_eq!(refusal, rpc::Refusal::Service);
    assert_eq!(said, "`other` in version 1 is asked for, `bench` in version 1 is served");
}

#[tokio::test]
async fn second_server_of_an_address_is_told_who_holds_it() {
    let w = unix().await;
    let error = rpc::serve::<Bench>(w.server.address(), Handler::default()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    assert_eq!(soon(rpc::call(&w.client, Add { a: 1, b: 2 })).await.unwrap(), 3, "the first one is unharmed");
}

#[tokio::test]
async fn handler_without_a_connection_runs_on_and_ends_by_its_deadline() {
    let w = unix().await;
    let address = w.client.address().clone();
    // A client in a runtime of its own: when that goes, its connection does, without a cancel.
    let calling = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::<Bench>::new(&address);
            // Leaked, so that dropping it does not cancel.
            let call = Box::leak(Box::new(client.call(behave("hang")).deadline(Duration::from_millis(300))));
            assert!(futures::poll!(call).is_pending());
            while client.counters().connections == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            rpc::call(&client, Add { a: 1, b: 1 }).await.unwrap();
        });
    });
    tokio::task::spawn_blocking(move || calling.join().unwrap()).await.unwrap();
    until("the handler is stopped", || w.works.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn answer_of_a_handler_that_lost_its_connection_reaches_the_next_one() {
    let w = unix().await;
    let mut proxy = Proxy::to(w.server.address(), false);
    let client = Client::<Bench>::new(&proxy.address);
    let waiting = tokio::spawn(client.call(behave("wait")).deadline(Duration::from_secs(600)));
    until("the handler's connection", || client.counters().connections == 1).await;
    soon(rpc::call(&client, Add { a: 1, b: 1 })).await.unwrap();
    proxy.close().await;
    proxy.open();
    until("the next connection", || client.counters().connections == 2).await;
    soon(rpc::call(&client, Add { a: 1, b: 1 })).await.unwrap();
    w.works.release.notify_one();
    // Not by the timer of its deadline.
    assert_eq!(soon(waiting).await.unwrap().unwrap().0, &[1, 2, 3][..]);
}

#[tokio::test]
async fn orphaned_handler_that_wakes_itself_leaves_the_thread_to_others() {
    let w = unix().await;
    let mut proxy = Proxy::to(w.server.address(), false);
    let client = Client::<Bench>::new(&proxy.address);
    let spinning = tokio::spawn(client.call(behave("spin")).deadline(Duration::from_secs(600)));
    until("the handler's connection", || client.counters().connections == 1).await;
    soon(rpc::call(&client, Add { a: 0, b: 0 })).await.unwrap();
    proxy.close().await;
    proxy.open();
    until("the next connection", || client.counters().connections == 2).await;
    soon(rpc::call(&client, Add { a: 0, b: 0 })).await.unwrap();
    w.works.release.notify_one();
    w.works.stop_spinning.store(true, Ordering::SeqCst);
    assert_eq!(soon(spinning).await.unwrap().unwrap().0, &[1, 2, 3][..]);
}

#[tokio::test]
async fn address_of_a_drained_server_is_free() {
    let w = unix().await;
    let address = w.server.address().clone();
    w.server.drain().await;
    let next = rpc::serve::<Bench>(&address, Handler::default()).await.unwrap();
    assert_eq!(soon(rpc::call(&w.client, Add { a: 1, b: 2 })).await.unwrap(), 3);
    soon(next.drain()).await;
}

#[tokio::test]
async fn drain_ends_with_the_last_answer_of_an_actor_also_without_its_connection() {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("d/s"));
    let (server, mut calls) = rpc::serve_calls::<Bench>(&address, 8).await.unwrap();
    let mut proxy = Proxy::to(&address, false);
    let client = Client::<Bench>::new(&proxy.address);
    let _call = tokio::spawn(client.call(Add { a: 1, b: 2 }));
    let Some(BenchCall::Add(_, responder)) = soon(calls.recv()).await else { panic!("the call") };
    proxy.close().await;
    until("the connection is gone", || server.connections() == 0).await;
    let drained = tokio::spawn(server.drain());
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    responder.ack(3);
    soon(drained).await.unwrap();
}

#[tokio::test]
async fn drain_leaves_a_peer_behind_that_does_not_read() {
    let w = unix().await;
    let proxy = Proxy::to(w.server.address(), true);
    let client = Client::<Bench>::new(&proxy.address);
    let calls: Vec<_> = (0..1000)
        .map(|_| tokio::spawn(client.call(Behave { how: "apply".into(), bytes: rpc::Blob(vec![7; 4000].into()) })))
        .collect();
    // More than its socket holds.
    until("answers that are not read", || w.works.applied.load(Ordering::SeqCst) >= 60).await;
    soon(w.server.drain()).await;
    drop(calls);
}

#[tokio::test]
async fn call_dropped_while_its_server_drains_stops_its_handler() {
    let w = unix().await;
    let World { works, server, client, .. } = w;
    let hanging = tokio::spawn(client.call(behave("hang")).deadline(Duration::from_secs(600)));
    until("the handler's connection", || client.counters().connections == 1).await;
    soon(rpc::call(&client, Add { a: 1, b: 1 })).await.unwrap();
    let drained = tokio::spawn(server.drain());
    while soon(rpc::call(&client, Add { a: 1, b: 1 })).await.is_ok() {
        tokio::task::yield_now().await;
    }
    hanging.abort();
    until("the handler is dropped", || works.dropped.load(Ordering::SeqCst) == 1).await;
    soon(drained).await.unwrap();
}

#[tokio::test]
async fn connection_goes_with_the_last_call_when_its_client_went_first() {
    let w = unix().await;
    let mut call = Box::pin(w.client.call(behave("wait")).deadline(Duration::from_secs(600)));
    drop(w.client);
    assert!(futures::poll!(call.as_mut()).is_pending());
    until("the connection", || w.server.connections() == 1).await;
    w.works.release.notify_one();
    assert_eq!(soon(call).await.unwrap().0, &[1, 2, 3][..]);
    until("the connection is closed", || w.server.connections() == 0).await;
}

#[tokio::test]
async fn connection_beyond_the_cap_is_refused_with_its_reason() {
    for address in [None, Some(Address::mem("connection_beyond_the_cap"))] {
        let directory = tempfile::tempdir().unwrap();
        let address = address.unwrap_or_else(|| Address::unix(directory.path().join("d/s")));
        let limits = rpc::Limits { connections_max: 1, ..rpc::Limits::default() };
        let _server = rpc::serve_with::<Bench>(&address, Handler::default(), limits).await.unwrap();
        let (first, second) = (Client::<Bench>::new(&address), Client::<Bench>::new(&address));
        assert_eq!(soon(rpc::call(&first, Add { a: 1, b: 2 })).await.unwrap(), 3);
        let error = soon(rpc::call(&second, Add { a: 1, b: 2 })).await.unwrap_err();
        let too_many = NotDelivered::Refused(rpc::Refusal::TooMany);
        assert!(matches!(&error, CallError::NotDelivered(why) if *why == too_many), "{error:?}");
    }
}

#[tokio::test]
async fn hello_of_an_impossible_epoch_leaves_no_lane_behind() {
    use rpc::wire::{frame, header::Kind, hello::Hello, hello::ServiceInfo};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("d/s"));
    let limits = rpc::Limits { lanes_max: 1, ..rpc::Limits::default() };
    let _server = rpc::serve_with::<Bench>(&address, Handler::default(), limits).await.unwrap();
    let mut bytes = bytes::BytesMut::new();
    let info = ServiceInfo { name: "bench", version: 1, methods: &[] };
    frame::append(&mut bytes, 4096, |out| {
        let (peer, incarnation) = (rpc::PeerId::random(), rpc::Incarnation::random());
        Hello::new(peer, incarnation, 0, 0, 1 << 20, 1024, "bench", 1).put(
            out,
            &info,
            rpc::wire::hello::Extras::default(),
        );
        Ok::<(), frame::Oversized>(())
    })
    .unwrap();
    let mut stray = tokio::net::UnixStream::connect(address.path().unwrap()).await.unwrap();
    stray.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    soon(stray.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer.get(4), Some(&Kind::Goodbye.number()));
    let client = Client::<Bench>::new(&address);
    assert_eq!(soon(rpc::call(&client, Add { a: 1, b: 2 })).await.unwrap(), 3);
}

#[tokio::test]
async fn two_producers_of_one_stream_are_both_woken() {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("d/s"));
    let (_server, mut calls) = rpc::serve_calls::<Bench>(&address, 8).await.unwrap();
    let client = Client::<Bench>::new(&address);
    let opened = tokio::spawn(async move { client.open(Count { to: 1 }).await.map(|(_, items)| (client, items)) });
    let Some(BenchCall::Count(_, responder, items)) = soon(calls.recv()).await else { panic!("the call") };
    responder.ack(1);
    let items = Arc::new(items);
    for _ in 0..2 {
        let items = items.clone();
        tokio::spawn(async move {
            for n in 0..1000 {
                items.send(n).await.unwrap();
            }
        });
    }
    drop(items);
    let (_client, stream) = soon(opened).await.unwrap().unwrap();
    assert_eq!(soon(stream.map(Result::unwrap).count()).await, 2000);
}

#[tokio::test]
async fn call_behind_a_window_of_slow_ones_is_sent_once_they_can_be_parked() {
    let w = unix().await;
    let client = Client::<Bench>::with_limits(w.client.address(), rpc::Limits { window: 16, ..rpc::Limits::default() });
    let slow: Vec<_> = (0..16).map(|_| tokio::spawn(client.call(behave("wait")))).collect();
    let asked = Instant::now();
    let fast = soon(client.call(Add { a: 1, b: 2 }).deadline(Duration::from_secs(15))).await;
    assert_eq!(fast.unwrap(), 3);
    assert!(asked.elapsed() < Duration::from_secs(10), "it did not wait for its deadline");
    drop(slow);
}

#[tokio::test]
async fn requests_that_run_hold_no_more_than_their_budget() {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("d/s"));
    let limits = rpc::Limits { request_bytes_max: 100_000, ..rpc::Limits::default() };
    let handler = Handler::default();
    let works = handler.0.clone();
    let _server = rpc::serve_with::<Bench>(&address, handler, limits).await.unwrap();
    let client = Client::<Bench>::new(&address);
    let heavy = || Behave { how: "wait".into(), bytes: rpc::Blob(vec![1; 60_000].into()) };
    let (first, second) = (tokio::spawn(client.call(heavy())), tokio::spawn(client.call(heavy())));
    let refused = soon(async {
        loop {
            match client.call(Add { a: 1, b: 1 }).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    });
    let refused = refused.await;
    assert!(matches!(refused, CallError::NotDelivered(NotDelivered::Overloaded { .. })), "{refused:?}");
    works.release.notify_waiters();
    // Too large to be acked, on purpose: what counts is that they have ended.
    for call in [first, second] {
        assert!(matches!(soon(call).await.unwrap(), Err(CallError::Unknown(_))));
    }
    assert_eq!(soon(client.call(Add { a: 1, b: 1 })).await.unwrap(), 2, "their bytes are given back");
}

#[tokio::test]
async fn stage_of_a_queued_call_is_received_until_it_is_taken_out() {
    for address in [None, Some(Address::mem("stage_of_a_queued_call"))] {
        let directory = tempfile::tempdir().unwrap();
        let address = address.unwrap_or_else(|| Address::unix(directory.path().join("d/s")));
        let (_server, mut calls) = rpc::serve_calls::<Bench>(&address, 8).await.unwrap();
        let client = Client::<Bench>::new(&address);
        let add = || client.call(Add { a: 1, b: 2 });
        let short = Duration::from_millis(500);
        let actor = async {
            let Some(BenchCall::Add(_, held)) = calls.recv().await else { panic!("the first call") };
            let Some(BenchCall::Add(_, second)) = calls.recv().await else { panic!("the second call") };
            second.ack(3);
            held
        };
        // The first is taken out and held, the second acked, the third stays in the queue: the ack tells of all three.
        let (first, second, third, _held) =
            soon(async { tokio::join!(add().deadline(short), add(), add().deadline(short), actor) }).await;
        assert_eq!(second.unwrap(), 3);
        let Err(CallError::Unknown(first)) = first else { panic!("a doubt") };
        let Err(CallError::Unknown(third)) = third else { panic!("a doubt") };
        assert_eq!((first.stage(), first.cause()), (Stage::Started, Cause::Deadline));
        assert_eq!((third.stage(), third.cause()), (Stage::Received, Cause::Deadline));
    }
}
