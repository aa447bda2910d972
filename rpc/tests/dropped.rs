//! Every future of the API, dropped after its n-th poll, for all n until it ends by itself: nothing is left behind.
//!
//! The tables are tiny, so that an id, a permit or a place in the window that leaked would soon be missed by the calls
//! that follow. In memory, with the clock paused, and once over a socket: a poll follows each round of the runtime.
//!
//! Long, because all futures are swept in one way against one service, so that none is forgotten: a test for each.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::Permissions;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rpc::{
    Address, Blob, CallContext, CallError, Client, ItemSender, Limits, Never, Retry, Server, Stage, StreamError,
    ValueError,
};
use serde::{Deserialize, Serialize};

/// More polls than any of these futures takes, unless it never ends.
const POLLS_MAX: usize = 80;
/// How often each is dropped at the same place: more often than the tables have room.
const TIMES: usize = 4;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u32)]
struct Work {
    /// How often the handler yields; `None` is for ever.
    yields: Option<u32>,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = (), item = u32)]
struct Count {
    to: u32,
    /// After how many polls each `send` is dropped and made again.
    polls: u32,
}

/// A value as a stream.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = (), item = Blob)]
struct Fetch {
    /// After how many polls `send_value` is dropped.
    polls: u32,
}

/// Calls the caller back; answers whether that call had ended by itself.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 4, ack = bool)]
struct Turn {
    /// After how many polls the call back is dropped.
    polls: u32,
}

#[derive(rpc::Protocol)]
#[rpc(name = "dropped", version = 1)]
enum Jobs {
    Work(Work),
    #[rpc(stream)]
    Count(Count),
    #[rpc(stream)]
    Fetch(Fetch),
    Turn(Turn),
}

/// A few chunks.
fn value() -> Vec<u8> {
    (0..150_000_u32).map(|n| n.to_le_bytes()[0]).collect()
}

#[derive(Clone, Default)]
struct Handler {
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler {
    fn begins(&self) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(&self.running))
    }
}

impl JobsHandler for Handler {
    async fn work(&self, m: Work) -> Result<u32, Never> {
        let _running = self.begins();
        let Some(yields) = m.yields else { std::future::pending().await };
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        Ok(yields)
    }

    async fn count(&self, m: Count, items: ItemSender<u32>) -> Result<(), Never> {
        let running = self.begins();
        tokio::spawn(async move {
            let _running = running;
            for n in 0..m.to {
                // A dropped send has sent nothing; once it has ended it is not made again.
                let mut polls = m.polls as usize;
                loop {
                    match after(polls, items.send(n)).await {
                        Some(Ok(())) => break,
                        Some(Err(_)) => return,
                        // Its reader neither reads nor goes: that is for the test to find.
                        None if polls > 1000 => return,
                        None => polls += 1,
                    }
                    tokio::task::yield_now().await;
                }
            }
        });
        Ok(())
    }

    async fn fetch(&self, m: Fetch, items: ItemSender<Blob>) -> Result<(), Never> {
        let running = self.begins();
        tokio::spawn(async move {
            let _running = running;
            let value = value();
            let _ = after(m.polls as usize, items.send_value(&value)).await;
        });
        Ok(())
    }

    async fn turn(&self, m: Turn) -> Result<bool, Never> {
        let _running = self.begins();
        let caller: Client<Jobs> = CallContext::current().unwrap().caller().unwrap();
        let call = async move { after(m.polls as usize, caller.call(Work { yields: Some(3) })).await.is_some() };
        // In a task, where a poll follows each round, too.
        Ok(tokio::spawn(call).await.unwrap())
    }
}

/// Polls a future so many times, once a round of the runtime, then drops it at once. `None`: it had not ended.
fn after<F: Future>(polls: usize, future: F) -> impl Future<Output = Option<F::Output>> {
    Dropped { future: Some(Box::pin(future)), polls }
}

struct Dropped<F> {
    future: Option<Pin<Box<F>>>,
    polls: usize,
}

impl<F: Future> Future for Dropped<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polls = self.polls;
        if let (Some(future), true) = (&mut self.future, polls > 0) {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                self.future = None;
                return Poll::Ready(Some(output));
            }
            self.polls -= 1;
            if self.polls > 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.future = None;
        Poll::Ready(None)
    }
}

struct World {
    handler: Handler,
    server: Server,
    client: Client<Jobs>,
}

fn limits() -> Limits {
    Limits { window: 3, parked_max: 1, streams_max: 2, stream_items: 2, ..Limits::default() }
}

async fn world(name: &str) -> World {
    let (handler, address) = (Handler::default(), Address::mem(name));
    let server = rpc::serve_with::<Jobs>(&address, handler.clone(), limits()).await.unwrap();
    World { handler, server, client: Client::with_limits(&address, limits()) }
}

impl World {
    /// Nothing runs any more, and as many calls as the window has room for are answered at once.
    async fn is_as_new(&self) {
        tokio::time::timeout(Duration::from_secs(2), async {
            while self.handler.running.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("a handler whose caller has gone is stopped");
        let call = || self.client.call(Work { yields: Some(1) }).deadline(Duration::from_secs(1));
        let (a, b, c) = futures::join!(call(), call(), call());
        assert!(matches!((&a, &b, &c), (Ok(1), Ok(1), Ok(1))), "{a:?} {b:?} {c:?}");
    }
}

/// Drops what `make` makes after 0 polls, 1, 2, ... until it ends by itself.
async fn sweep<F: Future>(what: &str, world: &World, mut make: impl FnMut() -> F, ends: bool) {
    for polls in 0..POLLS_MAX {
        let mut ended = 0;
        for _ in 0..TIMES {
            ended += usize::from(after(polls, make()).await.is_some());
        }
        world.is_as_new().await;
        if ended == TIMES {
            assert!(polls > 1, "{what}: it was never dropped on its way");
            return;
        }
    }
    assert!(!ends, "{what} does not end within {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn call_dropped_after_any_poll_leaves_nothing() {
    let w = world("dropped_call").await;
    for yields in [Some(0), Some(5), None] {
        sweep("a call", &w, || w.client.call(Work { yields }), yields.is_some()).await;
    }
    // The client's first call ever, whose connection is not there yet.
    for polls in 0..POLLS_MAX {
        let client = Client::<Jobs>::with_limits(w.client.address(), limits());
        if after(polls, client.call(Work { yields: Some(2) })).await.is_some() {
            return;
        }
        assert_eq!(client.call(Work { yields: Some(3) }).await.unwrap(), 3);
    }
    panic!("a first call does not end");
}

#[tokio::test(start_paused = true)]
async fn resolve_dropped_after_any_poll_leaves_nothing() {
    let w = world("dropped_resolve").await;
    for polls in 0..POLLS_MAX {
        let mut ended = 0;
        for _ in 0..TIMES {
            let call = w.client.call(Work { yields: None }).deadline(Duration::from_millis(5));
            let Err(CallError::Unknown(doubt)) = call.await else { panic!("its handler never ends") };
            ended += usize::from(after(polls, doubt.resolve()).await.is_some());
        }
        w.is_as_new().await;
        if ended == TIMES {
            return assert!(polls > 1, "it was never dropped on its way");
        }
    }
    panic!("a doubt is not resolved within {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn open_dropped_after_any_poll_leaves_no_stream() {
    let w = world("dropped_open").await;
    sweep("open", &w, || w.client.open(Count { to: 9, polls: 99 }), true).await;
}

#[tokio::test(start_paused = true)]
async fn wait_for_a_stage_dropped_after_any_poll_leaves_the_call_as_it_was() {
    let w = world("dropped_reached").await;
    for polls in 0..POLLS_MAX {
        let mut ended = 0;
        for _ in 0..TIMES {
            let mut call = w.client.call(Work { yields: Some(9) });
            ended += usize::from(after(polls, call.reached(Stage::Started)).await.is_some());
            assert_eq!(call.await.unwrap(), 9, "it goes on");
        }
        if ended == TIMES {
            assert!(polls > 1, "it was never dropped on its way");
            break;
        }
        assert!(polls < POLLS_MAX - 1, "a stage is not reached");
    }
    // The call goes with it.
    let reached = || {
        let mut call = w.client.call(Work { yields: None });
        async move { call.reached(Stage::Started).await }
    };
    // Nothing tells it before the handler ends.
    sweep("reached", &w, reached, false).await;
    // Its end is met by the wait, and then by nobody.
    let doubted = || {
        let mut call = w.client.call(Work { yields: None }).deadline(Duration::ZERO);
        async move { call.reached(Stage::Started).await }
    };
    for polls in 0..POLLS_MAX {
        after(polls, doubted()).await;
    }
    w.is_as_new().await;
}

#[tokio::test(start_paused = true)]
async fn value_dropped_after_any_poll_leaves_no_stream() {
    let w = world("dropped_value").await;
    let fetch = || async {
        let ((), items) = w.client.open(Fetch { polls: 999 }).await.unwrap();
        assert_eq!(items.value(1 << 20).await.unwrap(), value());
    };
    sweep("value", &w, fetch, true).await;
}

#[tokio::test(start_paused = true)]
async fn value_whose_sending_was_dropped_is_whole_or_none() {
    let w = world("dropped_send_value").await;
    for polls in 0..POLLS_MAX as u32 {
        let mut whole = 0;
        for _ in 0..TIMES {
            let ((), items) = w.client.open(Fetch { polls }).await.unwrap();
            match items.value(1 << 20).await {
                Ok(received) => {
                    assert!(received == value(), "{} bytes after {polls} polls", received.len());
                    whole += 1;
                }
                Err(ValueError::Incomplete(StreamError::Aborted)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        w.is_as_new().await;
        if whole == TIMES {
            return assert!(polls > 1, "it was never dropped on its way");
        }
    }
    panic!("a value is not sent within {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn call_with_retry_dropped_after_any_poll_leaves_nothing() {
    let w = world("dropped_retry").await;
    let policy = Retry::not_delivered().and_resolve();
    for yields in [Some(5), None] {
        sweep("a call", &w, || w.client.call(Work { yields }).retry(policy), yields.is_some()).await;
    }
    // In the pause after an attempt, and in a resolve: nobody is there, and nobody comes.
    let nobody = Address::mem("dropped_retry_nobody");
    let client = Client::<Jobs>::with_limits(&nobody, limits());
    for polls in 0..POLLS_MAX {
        let ended = after(polls, client.call(Work { yields: Some(1) }).retry(policy)).await;
        assert!(ended.is_none(), "it waits for its service: {ended:?}");
    }
    let server = rpc::serve_with::<Jobs>(&nobody, Handler::default(), limits()).await.unwrap();
    World { handler: Handler::default(), server, client }.is_as_new().await;
}

#[tokio::test(start_paused = true)]
async fn call_back_dropped_after_any_poll_leaves_nothing() {
    let (here, there, address) = (Handler::default(), Handler::default(), Address::mem("dropped_back"));
    let server = rpc::serve_with::<Jobs>(&address, there.clone(), limits()).await.unwrap();
    let client = Client::<Jobs>::builder(&address).limits(limits()).serves::<Jobs>(here.clone()).build();
    let w = World { handler: there, server, client };
    // There and back, through two drivers that give way to others.
    for polls in 0..4 * POLLS_MAX as u32 {
        let mut ended = 0;
        for _ in 0..TIMES {
            ended += usize::from(w.client.call(Turn { polls }).await.unwrap());
        }
        w.is_as_new().await;
        // As many the other way as there is room for, and none is left running.
        let turn = || w.client.call(Turn { polls: 999 });
        let (a, b, c) = futures::join!(turn(), turn(), turn());
        assert!(matches!((&a, &b, &c), (Ok(true), Ok(true), Ok(true))), "{a:?} {b:?} {c:?}");
        tokio::time::timeout(Duration::from_secs(2), async {
            while here.running.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("a handler whose caller has gone is stopped");
        if ended == TIMES {
            return assert!(polls > 1, "it was never dropped on its way");
        }
    }
    panic!("a call back does not end ");
}

#[cfg(feature = "tower")]
#[tokio::test(start_paused = true)]
async fn call_through_tower_dropped_after_any_poll_leaves_nothing() {
    use tower::{ServiceBuilder, ServiceExt};

    let w = world("dropped_tower").await;
    for yields in [Some(5), None] {
        let call = || {
            let layers = ServiceBuilder::new().concurrency_limit(1).timeout(Duration::from_secs(3600));
            layers.service(w.client.clone()).oneshot(Work { yields })
        };
        sweep("a call through tower", &w, call, yields.is_some()).await;
    }
}

/// Rounds that look at sockets, each of them.
#[test]
fn calls_and_streams_over_a_socket_dropped_after_any_poll_leave_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let (handler, address) = (Handler::default(), Address::unix(folder.path().join("dropped")));
        let server = rpc::serve_with::<Jobs>(&address, handler.clone(), limits()).await.unwrap();
        let w = World { handler, server, client: Client::with_limits(&address, limits()) };
        sweep("a call", &w, || w.client.call(Work { yields: Some(5) }), true).await;
        sweep("a call that never ends", &w, || w.client.call(Work { yields: None }), false).await;
        sweep("open", &w, || w.client.open(Count { to: 9, polls: 99 }), true).await;
        let read = || async {
            let ((), mut items) = w.client.open(Count { to: 5, polls: 99 }).await.unwrap();
            while let Some(event) = items.event().await {
                event.unwrap();
            }
        };
        sweep("a stream", &w, read, true).await;
    });
}

#[tokio::test(start_paused = true)]
async fn item_whose_read_was_dropped_is_still_there() {
    let w = world("dropped_event").await;
    for polls in 0..12 {
        let ((), mut items) = w.client.open(Count { to: 9, polls: 99 }).await.unwrap();
        let mut expected = 0;
        let mut polls = polls;
        loop {
            match after(polls, items.event()).await {
                None => polls += 1,
                Some(None) => break,
                Some(Some(event)) => {
                    assert!(matches!(event.unwrap(), rpc::Event::Item(n) if n == expected));
                    expected += 1;
                }
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(expected, 9, "none is lost, none comes twice");
    }
    // The reader goes in the middle.
    for items in 0..4 {
        let ((), mut stream) = w.client.open(Count { to: 9, polls: 99 }).await.unwrap();
        for _ in 0..items {
            stream.event().await.unwrap().unwrap();
        }
    }
    w.is_as_new().await;
}

#[tokio::test(start_paused = true)]
async fn item_whose_send_was_dropped_was_not_sent() {
    let w = world("dropped_send").await;
    for polls in 0..6 {
        let ((), mut items) = w.client.open(Count { to: 9, polls }).await.unwrap();
        for expected in 0..9 {
            // Slow enough for every send to wait.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            let event = items.event().await.expect("an item").unwrap();
            assert!(matches!(event, rpc::Event::Item(n) if n == expected), "{event:?} is not {expected}");
        }
        assert!(items.event().await.is_none());
    }
    w.is_as_new().await;
}

#[tokio::test(start_paused = true)]
async fn call_whose_recv_was_dropped_is_still_queued() {
    let address = Address::mem("dropped_recv");
    let (_server, mut calls) = rpc::serve_calls_with::<Jobs>(&address, 4, limits()).await.unwrap();
    let client = Client::<Jobs>::with_limits(&address, limits());
    for polls in 0..12 {
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.call(Work { yields: Some(7) }).await.map_err(|error| error.to_string()) }
        });
        let mut polls = polls;
        let taken = loop {
            match after(polls, calls.recv()).await {
                Some(taken) => break taken.expect("the server is there"),
                None => polls += 1,
            }
            tokio::task::yield_now().await;
        };
        let JobsCall::Work(work, responder) = taken else { panic!("that was not called") };
        responder.ack(work.yields.unwrap());
        assert_eq!(call.await.unwrap(), Ok(7));
        assert!(calls.try_recv().is_none(), "once");
    }
}

#[tokio::test(start_paused = true)]
async fn serve_dropped_after_any_poll_leaves_the_address_free() {
    for polls in 0..POLLS_MAX {
        let address = Address::mem("dropped_serve");
        let ended = after(polls, rpc::serve_with::<Jobs>(&address, Handler::default(), limits())).await.is_some();
        // What had been started stops with its handle; its listener goes when its task does.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let server = rpc::serve_with::<Jobs>(&address, Handler::default(), limits()).await.unwrap();
        let client = Client::<Jobs>::with_limits(&address, limits());
        assert_eq!(client.call(Work { yields: Some(1) }).await.unwrap(), 1);
        server.drain().await;
        if ended {
            return;
        }
    }
    panic!("a server does not start within {POLLS_MAX} polls");
}

/// A name is looked up on another thread. There is one, and it is kept waiting, so that the look is under way at each drop.
#[cfg(feature = "tls")]
#[test]
fn tls_bind_dropped_after_any_poll_leaves_the_port_free() {
    use rpc::tls::{self, Authorities, Identity};

    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let config = tls::server_config(identity, &Authorities::from_pem(certificate.as_bytes()).unwrap()).unwrap();
    let port = std::net::TcpListener::bind("localhost:0").unwrap().local_addr().unwrap().port();
    let address = format!("localhost:{port}");
    let is_free = || drop(std::net::TcpListener::bind(&address).expect("nobody listens"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        for polls in 0..8 {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let kept = tokio::task::spawn_blocking(move || held.recv().is_err());
            assert!(after(polls, tls::Listener::bind(&address, Arc::clone(&config))).await.is_none(), "{polls}");
            is_free();
            drop(release);
            assert!(kept.await.unwrap());
            // What was asked before the drop has been looked up: nobody takes the answer.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            is_free();
        }
        let bound = tls::Listener::bind(&address, config).await.unwrap();
        assert_eq!(bound.local_addr().unwrap().port(), port);
        assert!(std::net::TcpListener::bind(bound.local_addr().unwrap()).is_err(), "and it listens in the end");
    });
}

#[tokio::test(start_paused = true)]
async fn drain_dropped_after_any_poll_answers_every_caller() {
    for polls in 0..POLLS_MAX {
        let w = world(&format!("dropped_drain_{polls}")).await;
        let open = |yields| w.client.call(Work { yields }).deadline(Duration::from_secs(1));
        let (short, long) = (open(Some(3)), open(Some(12)));
        let drain = async {
            // Both handlers run before the server drains.
            while w.handler.running.load(Ordering::SeqCst) < 2 {
                tokio::task::yield_now().await;
            }
            after(polls, w.server.drain()).await.is_some()
        };
        let (short, long, ended) = futures::join!(short, long, drain);
        assert!(matches!(short, Ok(3) | Err(CallError::Unknown(_))), "{short:?}");
        assert!(matches!(long, Ok(12) | Err(CallError::Unknown(_))), "{long:?}");
        assert_eq!(w.handler.running.load(Ordering::SeqCst), 0, "no handler outlives its server");
        tokio::time::sleep(Duration::from_millis(1)).await;
        let free = rpc::serve_with::<Jobs>(w.client.address(), Handler::default(), limits()).await;
        assert!(free.is_ok(), "{free:?}");
        if ended {
            return assert!(polls > 1, "it was never dropped on its way");
        }
    }
    panic!("a drain does not end within {POLLS_MAX} polls");
}
