//! What a server holds for a connection that has been called on and on which nothing goes on now.
//!
//! A binary of its own, because it counts allocations: those of the server's thread, which nobody else uses.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::print_stdout, reason = "its figures are for people")]

#[path = "common/counting.rs"]
mod counting;

use std::sync::mpsc;
use std::time::Duration;

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

#[derive(rpc::Protocol)]
#[rpc(name = "idle", version = 1)]
enum Echo {
    Say(Say),
    Later(Later),
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
