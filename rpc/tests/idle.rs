//! What a server holds for a connection that has been called on and on which nothing goes on now.
//!
//! A binary of its own, because it counts allocations: those of the server's thread, which nobody else uses.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::print_stdout, reason = "its figures are for people")]

#[path = "common/counting.rs"]
mod counting;

use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rpc::{Address, Client, Never};
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tokio::sync::{mpsc as queue, oneshot};

use counting::own;

/// 64 bytes there and back.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = [u64; 8])]
struct Say {
    words: [u64; 8],
}

/// The same, answered after a turn in the queue of tasks.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = [u64; 8])]
struct Later {
    words: [u64; 8],
}

/// Never answered.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = ())]
struct Wait {}

#[derive(rpc::Protocol)]
#[rpc(name = "idle", version = 1)]
enum Echo {
    Say(Say),
    Later(Later),
    Wait(Wait),
}

struct Mirror;

impl EchoHandler for Mirror {
    async fn say(&self, request: Say) -> Result<[u64; 8], Never> {
        Ok(request.words)
    }

    async fn later(&self, request: Later) -> Result<[u64; 8], Never> {
        tokio::task::yield_now().await;
        Ok(request.words)
    }

    async fn wait(&self, _: Wait) -> Result<(), Never> {
        std::future::pending().await
    }
}

/// Connections that are counted. Both ends have a descriptor here: together they are below the least that a process may
/// have by custom, 1 024.
const CONNECTIONS: usize = 200;

/// What one of them may cost. Measured, in bytes: its future 1 104, its lane 736, the answers that are kept until the next
/// call 512, its task 256, its place in the runtime's list of sockets 128, its timer 112; the rest are wakers and its places
/// in tables: 3 147 in all, 3 267 with all features. What is left is room for other layouts of the runtime and the compiler;
/// a buffer, a queue or a second copy of the future that stays behind is more than that.
const BYTES_MAX: usize = 3_840;

/// What a server says of itself.
struct Held {
    bytes: isize,
    connections: usize,
    lanes: usize,
}

/// A server on a thread of its own, which says what it has allocated.
fn serve(address: Address) -> (queue::Sender<oneshot::Sender<Held>>, std::thread::JoinHandle<()>) {
    let (ask, mut asked) = queue::channel::<oneshot::Sender<Held>>(1);
    let (listens, ready) = mpsc::channel();
    let server = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = rpc::serve::<Echo>(&address, Mirror).await.unwrap();
            listens.send(()).unwrap();
            while let Some(answer) = asked.recv().await {
                let (connections, lanes) = (server.connections(), server.lanes());
                assert!(answer.send(Held { bytes: own(), connections, lanes }).is_ok());
            }
        });
    });
    ready.recv().unwrap();
    (ask, server)
}

/// A connection on which calls were made, some of them at once.
async fn connect(address: &Address) -> Client<Echo> {
    let client = Client::<Echo>::new(address);
    for n in 0..4 {
        let words = [n; 8];
        assert_eq!(rpc::call(&client, Say { words }).await.unwrap(), words);
        assert_eq!(rpc::call(&client, Later { words }).await.unwrap(), words);
        let (said, later) = tokio::join!(rpc::call(&client, Say { words }), rpc::call(&client, Later { words }));
        assert_eq!((said.unwrap(), later.unwrap()), (words, words));
    }
    client
}

/// Calls of a burst: a window.
const BURST: u64 = 1_024;

/// Connections that are counted after a burst each.
const BURST_CONNECTIONS: usize = 20;

/// What one of them may cost once its burst is forgotten: what an idle one may, the few places that its lists keep, and
/// twice 64 places of woken handlers.
const AFTER_BURST_BYTES_MAX: usize = BYTES_MAX + 2 * 1_024 + 2 * 64 * 8;

/// A connection on which a window of calls was made at once, and then one more: the server may forget the others.
async fn burst(address: &Address) -> Client<Echo> {
    let client = Client::<Echo>::new(address);
    let later = |n| rpc::call(&client, Later { words: [n; 8] });
    for answer in futures::future::join_all((0..BURST).map(later)).await {
        answer.unwrap();
    }
    later(0).await.unwrap();
    client
}

#[test]
fn connection_that_is_idle_after_a_burst_comes_to_hold_no_more_than_its_bound() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let address = Address::unix(directory.path().join("echo"));
    let (ask, server) = serve(address.clone());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (at_first, each) = runtime.block_on(async {
        let held = async || {
            let (to, answer) = oneshot::channel();
            ask.send(to).await.unwrap();
            answer.await.unwrap()
        };
        // Its memory is to be part of neither figure: nothing is counted before the server has done with it.
        drop(burst(&address).await);
        let gone = async {
            loop {
                let held = held().await;
                if held.connections + held.lanes == 0 {
                    return held.bytes;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let before = tokio::time::timeout(Duration::from_secs(60), gone).await.expect("its lane is forgotten");
        let mut clients = Vec::new();
        for _ in 0..BURST_CONNECTIONS {
            clients.push(burst(&address).await);
        }
        let each = async || usize::try_from(held().await.bytes - before).unwrap_or(0) / BURST_CONNECTIONS;
        let at_first = each().await;
        let settled = async {
            while each().await > AFTER_BURST_BYTES_MAX {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(60), settled).await;
        (at_first, each().await)
    });
    println!("{at_first} bytes for each connection after a burst, {each} when it has been idle");
    drop(ask);
    server.join().unwrap();
    assert!(each <= AFTER_BURST_BYTES_MAX, "{each} bytes, at most {AFTER_BURST_BYTES_MAX} may be");
    assert!(each > 1024, "{each} bytes: not everything was counted");
}

/// What one of them may cost while one call of its burst is still to be answered, beside the above: the free slots that are
/// kept, of half a KiB at most, the slot of that call, and its places in lists.
const PENDING_BYTES_MAX: usize = 17 * 512 + 1_024;

/// The same without its connection: a slot and a few free ones, and the lane, which remembers for its client how each call of
/// the burst has ended. That is part of what a lane is counted to hold; free slots are not.
const LOST_PENDING_BYTES_MAX: usize = AFTER_BURST_BYTES_MAX + 4 * 512 + 1_024 + BURST as usize * 192;

/// A call that is never answered.
fn wait(client: &Client<Echo>, deadline: Duration) -> BoxFuture<'static, ()> {
    Box::pin(client.call(Wait {}).deadline(deadline).map(drop))
}

/// Longer than any of these tests.
const FOR_LONG: Duration = Duration::from_secs(600);

/// A connection on which a window of calls was made at once, the last of which is never answered, and then one more.
async fn burst_that_waits(client: &Client<Echo>) -> Vec<BoxFuture<'static, ()>> {
    let later = |n| rpc::call(client, Later { words: [n; 8] });
    let others = futures::future::join_all((1..BURST).map(later));
    let mut waits = wait(client, FOR_LONG);
    let answers = tokio::select! {
        biased;
        answers = others => answers,
        () = &mut waits => panic!("it is never answered"),
    };
    answers.into_iter().for_each(|answer| assert_eq!(answer.unwrap().len(), 8));
    later(0).await.unwrap();
    vec![waits]
}

/// A connection on which a window of calls waits, all but the last not for long.
async fn burst_of_waits(client: &Client<Echo>) -> Vec<BoxFuture<'static, ()>> {
    let later = || rpc::call(client, Later { words: [0; 8] });
    // A window is what a client has been told.
    later().await.unwrap();
    let mut waits: Vec<_> = (1..BURST).map(|_| wait(client, Duration::from_secs(3))).collect();
    waits.push(wait(client, FOR_LONG));
    futures::future::poll_fn(|cx| {
        waits.iter_mut().for_each(|waits| assert!(waits.poll_unpin(cx).is_pending()));
        Poll::Ready(())
    })
    .await;
    // It comes behind them, so their handlers have begun when it is answered.
    later().await.unwrap();
    waits
}

/// What a server comes to hold for each connection that had such a burst, or has had it and is `lost`: at most `bytes_max`,
/// unless that takes too long.
fn held_after(
    burst_on: impl AsyncFn(&Client<Echo>) -> Vec<BoxFuture<'static, ()>>,
    lost: bool,
    bytes_max: usize,
) -> usize {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let address = Address::unix(directory.path().join("echo"));
    let (ask, server) = serve(address.clone());
    let held = async || {
        let (to, answer) = oneshot::channel();
        ask.send(to).await.unwrap();
        answer.await.unwrap()
    };
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (before, clients, pending) = first.block_on(async {
        // What a server needs only once is no part of it.
        drop(burst(&address).await);
        let before = loop {
            let held = held().await;
            if held.connections + held.lanes == 0 {
                break held.bytes;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let (mut clients, mut pending) = (Vec::new(), Vec::new());
        for _ in 0..BURST_CONNECTIONS {
            let client = Client::<Echo>::new(&address);
            pending.push(burst_on(&client).await);
            clients.push(client);
        }
        (before, clients, pending)
    });
    // Without a word: the calls are not cancelled, their connections are lost.
    let driven = if lost {
        drop(first);
        runtime()
    } else {
        first
    };
    let (connections, each) = driven.block_on(async {
        let each = async || {
            let Held { bytes, connections, .. } = held().await;
            (connections, usize::try_from(bytes - before).unwrap_or(0) / BURST_CONNECTIONS)
        };
        let settled = async {
            while each().await.1 > bytes_max {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(20), settled).await;
        each().await
    });
    assert_eq!(connections, if lost { 0 } else { BURST_CONNECTIONS });
    drop((pending, clients, driven, ask));
    server.join().unwrap();
    assert!(each > 512, "{each} bytes: not everything was counted");
    each
}

#[test]
fn connection_whose_burst_left_one_call_pending_comes_to_hold_no_more_than_its_bound() {
    let bytes_max = AFTER_BURST_BYTES_MAX + PENDING_BYTES_MAX;
    let each = held_after(burst_that_waits, false, bytes_max);
    println!("{each} bytes for each connection with a call of its burst pending");
    assert!(each <= bytes_max, "{each} bytes, at most {bytes_max} may be");
}

#[test]
fn lost_connection_of_whose_burst_one_handler_runs_on_comes_to_hold_no_more_than_its_bound() {
    let each = held_after(burst_of_waits, true, LOST_PENDING_BYTES_MAX);
    println!("{each} bytes for each lost connection with a handler of its burst");
    assert!(each <= LOST_PENDING_BYTES_MAX, "{each} bytes, at most {LOST_PENDING_BYTES_MAX} may be");
}

#[test]
fn idle_connection_after_small_calls_holds_no_more_than_its_bound() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let address = Address::unix(directory.path().join("echo"));
    let (ask, server) = serve(address.clone());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let each = runtime.block_on(async {
        // The server's thread answers when its drivers have gone to rest: each has done so before it could be asked.
        let held = async || {
            let (to, answer) = oneshot::channel();
            ask.send(to).await.unwrap();
            answer.await.unwrap().bytes
        };
        // What a server needs only once is no part of it.
        let first = connect(&address).await;
        let before = held().await;
        let mut clients = vec![first];
        for _ in 0..CONNECTIONS {
            clients.push(connect(&address).await);
        }
        let all = held().await - before;
        usize::try_from(all).unwrap() / CONNECTIONS
    });
    println!("{each} bytes for each idle connection");
    drop(ask);
    server.join().unwrap();
    assert!(each <= BYTES_MAX, "{each} bytes, at most {BYTES_MAX} may be");
    assert!(each > 1024, "{each} bytes: not everything was counted");
}
