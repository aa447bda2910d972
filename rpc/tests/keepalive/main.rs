//! A slow peer is not a dead one: silence, stops and wires that hold everything back.
#![allow(missing_docs, clippy::unwrap_used)]

mod stopped;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rpc::transport::Connector;
use rpc::{Address, Blob, CallContext, CallError, Client, Limits, Peer, Server};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64)]
struct Wait {
    secs: u64,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = u64)]
struct AskBack {
    secs: u64,
}

/// Comes back as it is.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = Blob, ack_bytes_max = 524288)]
struct Echo {
    bytes: Blob,
}

#[derive(rpc::Protocol)]
#[rpc(name = "slow", version = 1)]
enum Slow {
    Wait(Wait),
    AskBack(AskBack),
    Echo(Echo),
}

#[derive(rpc::Protocol)]
#[rpc(name = "slow-back", version = 1)]
enum Back {
    Wait(Wait),
}

#[derive(Clone, Default)]
struct Handler(Arc<AtomicU64>);

impl Handler {
    async fn waits(&self, m: Wait) -> Result<u64, rpc::Never> {
        tokio::time::sleep(Duration::from_secs(m.secs)).await;
        Ok(self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

impl SlowHandler for Handler {
    async fn wait(&self, m: Wait) -> Result<u64, rpc::Never> {
        self.waits(m).await
    }

    async fn ask_back(&self, m: AskBack) -> Result<u64, rpc::Never> {
        let back: Client<Back> = CallContext::current().unwrap().caller().unwrap();
        Ok(back.call(Wait { secs: m.secs }).deadline(HOUR).await.unwrap())
    }

    async fn echo(&self, m: Echo) -> Result<Blob, rpc::Never> {
        Ok(m.bytes)
    }
}

impl BackHandler for Handler {
    async fn wait(&self, m: Wait) -> Result<u64, rpc::Never> {
        self.waits(m).await
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// A server in memory, and wires to it that can hold everything back, in both directions.
struct World {
    client: Client<Slow>,
    server: Arc<Server>,
    applied: Arc<AtomicU64>,
    /// How many of the wires, the oldest first, carry nothing.
    dead: watch::Sender<usize>,
    /// How long each 4 KiB take.
    pace: watch::Sender<Duration>,
}

fn world(keepalive: Duration) -> World {
    let handler = Handler::default();
    let applied = handler.0.clone();
    let server = Arc::new(Server::builder::<Slow>(handler.clone()).start());
    let (dead, is_dead) = watch::channel(0);
    let (pace, is_slow) = watch::channel(Duration::ZERO);
    let (to, laid) = (Arc::clone(&server), AtomicUsize::new(1));
    let connector = Connector::with_peer("a wire", move || {
        let (near, far) = (tokio::io::duplex(4096), tokio::io::duplex(4096));
        let number = laid.fetch_add(1, Ordering::SeqCst);
        to.serve_stream(far.0, Peer::own());
        let (from_client, to_client) = tokio::io::split(near.1);
        let (from_server, to_server) = tokio::io::split(far.1);
        tokio::spawn(carry(from_client, to_server, number, is_dead.clone(), is_slow.clone()));
        tokio::spawn(carry(from_server, to_client, number, is_dead.clone(), is_slow.clone()));
        async move { Ok((near.0, Peer::own())) }
    });
    let client = Client::<Slow>::builder(&Address::custom(connector))
        .limits(Limits::default())
        .keepalive(keepalive)
        .serves::<Back>(handler)
        .build();
    World { client, server, applied, dead, pace }
}

/// Carries bytes one way until the wire is dead: then it holds both ends, and nothing moves.
async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    number: usize,
    mut dead: watch::Receiver<usize>,
    pace: watch::Receiver<Duration>,
) {
    let mut bytes = [0; 4096];
    loop {
        let count = tokio::select! {
            biased;
            _ = dead.wait_for(|dead| *dead >= number) => break,
            read = from.read(&mut bytes) => read.unwrap_or(0),
        };
        let pause = *pace.borrow();
        tokio::time::sleep(pause).await;
        if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn slow_handler_is_no_dead_peer_in_either_direction() {
    let world = world(Limits::default().keepalive);
    assert_eq!(world.client.call(Wait { secs: 1000 }).deadline(HOUR).await.unwrap(), 1);
    assert_eq!(world.client.call(AskBack { secs: 1000 }).deadline(HOUR).await.unwrap(), 2);
    assert_eq!(world.client.counters().connections, 1, "it was asked, and has answered");
}

#[tokio::test(start_paused = true)]
async fn large_frame_on_a_slow_wire_is_no_silence_in_either_direction() {
    let world = world(Limits::default().keepalive);
    world.pace.send(Duration::from_secs(1)).unwrap();
    let (begun, bytes) = (Instant::now(), vec![7; 400 << 10]);
    let echo = world.client.call(Echo { bytes: Blob(bytes.clone().into()) }).deadline(HOUR).await.unwrap();
    assert!(echo.0 == bytes);
    // Each way takes longer than any silence that is borne, and no ping or pong gets past it.
    assert!(begun.elapsed() > Duration::from_secs(200), "{:?}", begun.elapsed());
    assert_eq!(world.client.counters().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn dead_wire_is_given_up_and_its_call_is_resolved_on_the_next_one() {
    let world = world(Limits::default().keepalive);
    let begun = Instant::now();
    let call = tokio::spawn(world.client.call(Wait { secs: 300 }).deadline(HOUR));
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.dead.send(1).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.client.counters().connections, 2, "given up within three intervals, and dialled again");
    assert_eq!(call.await.unwrap().unwrap(), 1);
    assert_eq!(begun.elapsed().as_secs(), 300, "the handler ran on, and its answer was not lost");
    assert_eq!(world.applied.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn server_gives_a_dead_client_up_while_its_handler_runs_on() {
    // The client does not ask.
    let world = world(Duration::MAX);
    let call = tokio::spawn(world.client.call(Wait { secs: 300 }).deadline(Duration::from_secs(400)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.server.connections(), 1);
    world.dead.send(1).unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(world.server.connections(), 0);
    assert!(matches!(call.await.unwrap(), Err(CallError::Unknown(_))), "its deadline is a doubt");
    assert_eq!(world.applied.load(Ordering::SeqCst), 1, "losing a connection cancels nothing");
}

#[tokio::test(start_paused = true)]
async fn idle_connection_is_left_alone_however_long() {
    let handler = Handler::default();
    let server = Arc::new(Server::builder::<Slow>(handler).start());
    let to = Arc::clone(&server);
    let connector = Connector::with_peer("a pipe", move || {
        let (near, far) = tokio::io::duplex(4096);
        to.serve_stream(far, Peer::own());
        async move { Ok((near, Peer::own())) }
    });
    let client = Client::<Slow>::new(&Address::custom(connector));
    client.call(Wait { secs: 0 }).await.unwrap();
    tokio::time::sleep(24 * HOUR).await;
    client.call(Wait { secs: 0 }).await.unwrap();
    assert_eq!(client.counters().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn listener_that_takes_a_connection_and_never_answers_is_given_up() {
    let connector = Connector::with_peer("a void", move || {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let _far = far;
            std::future::pending::<()>().await;
        });
        async move { Ok((near, Peer::own())) }
    });
    let client = Client::<Slow>::new(&Address::custom(connector));
    let begun = Instant::now();
    let error = client.call(Wait { secs: 0 }).deadline(HOUR).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(_)), "its bytes were taken by somebody: {error:?}");
    let Limits { keepalive, keepalive_timeout, .. } = Limits::default();
    assert!(begun.elapsed() <= 2 * keepalive + keepalive_timeout);
}
