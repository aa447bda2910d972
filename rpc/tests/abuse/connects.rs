//! Connections in numbers: without a Hello, all at once, and one lane after the other.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rpc::wire::header::Kind;
use rpc::{Address, Blob, Client, Limits, Server};

use crate::figure;
use crate::raw::{RawPeer, hello};
use crate::world::{Abused, Echo, Handler, PATIENCE, SOON, World, alone, hears, is_quiet, process, wait_for_the_end};

/// Connects and closes, a little more than ten thousand times a second, for two seconds.
#[allow(clippy::print_stdout, reason = "what the process that started this one reads")]
pub fn connect_and_leave(path: &Path) {
    println!("connecting");
    let start = Instant::now();
    let (mut attempts, mut connects) = (0_u32, 0_u32);
    while start.elapsed() < Duration::from_secs(2) {
        for _ in 0..100 {
            connects += u32::from(UnixStream::connect(path).is_ok());
        }
        attempts += 100;
        let due = Duration::from_micros(u64::from(attempts) * 90);
        std::thread::park_timeout(due.saturating_sub(start.elapsed()));
    }
    println!("{} connects a second.", (f64::from(connects) / start.elapsed().as_secs_f64()) as u32);
    wait_for_the_end();
}

/// Fills what the server has for handshakes, and says nothing.
#[allow(clippy::print_stdout, reason = "what the process that started this one reads")]
pub fn connect_and_stay(path: &Path) {
    let silent: Vec<_> = (0..8_000).map(|_| UnixStream::connect(path)).collect();
    println!("{} are silent.", silent.len());
    wait_for_the_end();
}

/// Opens lanes and leaves them without a word until it gets no more.
#[allow(clippy::print_stdout, reason = "what the process that started this one reads")]
pub fn leave_lanes(path: &Path) {
    let start = Instant::now();
    for lanes in 0.. {
        let mut peer = RawPeer::connect(path);
        peer.stream.write_all(&hello()).unwrap();
        if !matches!(peer.next(), Some((Kind::Welcome, ..))) {
            println!("{lanes} lanes in {:?}.", start.elapsed());
            break;
        }
    }
    wait_for_the_end();
}

/// A new client, one call, and the client is gone.
async fn one_call(w: &World) {
    let client = w.client();
    client.call(Echo(Blob::from(vec![1]))).deadline(SOON).await.unwrap();
}

#[test]
fn ten_thousand_connects_a_second_without_a_hello_leave_room_for_new_clients() {
    let w = World::new(Limits::default());
    let client = w.client();
    let quiet = w.honest(&client, Duration::from_millis(500));
    let mut other = process("connects", &w.path);
    hears(&mut other, "connecting");
    let mut fresh = 0;
    let during = w.block_on(async {
        let end = Instant::now() + Duration::from_millis(1_500);
        let mut all = crate::world::honest(&client, Duration::from_millis(20)).await;
        while Instant::now() < end {
            one_call(&w).await;
            fresh += 1;
            all = all.merge(crate::world::honest(&client, Duration::from_millis(20)).await);
        }
        all
    });
    let said = hears(&mut other, ".");
    let rate: u32 = said.split_whitespace().next().unwrap().parse().unwrap();
    figure!(
        "connects without a Hello: {rate} a second; {fresh} new clients served meanwhile; honest p99 {:?}, without {:?}",
        during.p99(),
        quiet.p99()
    );
    assert!(fresh >= 1, "no new client was served");
    if is_quiet() {
        assert!(rate >= 10_000, "{rate} connects a second are no flood");
        assert!(fresh >= 20, "{fresh} new clients were served");
        assert!(during.p99() < Duration::from_millis(50), "{:?}", during.p99());
    }
    w.until("the empty connections are gone", |w| w.server.connections() <= 2);
    drop(other.stdin.take());
    assert!(other.wait().unwrap().success());
}

/// A server with a single thread, until its input is dropped.
fn serve_on_one_thread(path: &Path) -> (std::thread::JoinHandle<()>, tokio::sync::oneshot::Sender<()>) {
    let (over, is_over) = tokio::sync::oneshot::channel::<()>();
    let (listens, is_listening) = std::sync::mpsc::channel();
    let address = Address::unix(path);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let _server = Server::builder::<Abused>(Handler).serve(&address).await.unwrap();
            listens.send(()).unwrap();
            let _ = is_over.await;
        });
    });
    is_listening.recv().unwrap();
    (thread, over)
}

#[test]
fn connects_without_a_pause_leave_turns_to_those_that_are_connected() {
    const CALLS: usize = 100;
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("d/s");
    let (server, over) = serve_on_one_thread(&path);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::<Abused>::new(&Address::unix(&path));
    let one = || client.call(Echo(Blob::from(vec![7; 64]))).deadline(PATIENCE);
    runtime.block_on(one()).unwrap();
    let (stop, connects) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    let (failed, took) = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let connected = UnixStream::connect(&path).is_ok();
                    connects.fetch_add(u64::from(connected), Ordering::Relaxed);
                }
            });
        }
        // Not before the flood has begun.
        while connects.load(Ordering::Relaxed) < 1_000 {
            std::thread::yield_now();
        }
        let failed = runtime.block_on(async {
            for _ in 0..CALLS {
                if let Err(error) = one().await {
                    return Some(error);
                }
            }
            None
        });
        let took = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        (failed, took)
    });
    let rate = (connects.load(Ordering::Relaxed) as f64 / took.as_secs_f64()) as u64;
    figure!("connects without a pause: {rate} a second; {CALLS} honest calls took {took:?} on the server's one thread");
    assert!(failed.is_none(), "an honest call: {}", failed.unwrap());
    drop(over);
    server.join().unwrap();
}

#[test]
fn silent_connections_of_one_process_leave_handshakes_to_others() {
    let w = World::new(Limits { handshake_timeout: Duration::from_secs(60), ..Limits::default() });
    let mut other = process("silent", &w.path);
    hears(&mut other, "are silent.");
    w.until("they have their share", |w| w.server.connections() >= 6_000);
    let start = Instant::now();
    for _ in 0..100 {
        w.block_on(one_call(&w));
    }
    figure!(
        "8000 silent connections: {} are kept, a new client of another process needs {:?} for its first call",
        w.server.connections(),
        start.elapsed() / 100
    );
    assert!(w.server.connections() <= 6_554 + 100, "{} are kept", w.server.connections());
    drop(other.stdin.take());
    assert!(other.wait().unwrap().success());
}

#[test]
fn process_that_leaves_lanes_behind_leaves_some_to_others() {
    let w = World::new(Limits::default());
    let mut other = process("lanes", &w.path);
    let said = hears(&mut other, "lanes in") + &hears(&mut other, "\n");
    let start = Instant::now();
    for _ in 0..200 {
        w.block_on(one_call(&w));
    }
    figure!(
        "lanes left behind: {}; a new client of another process needs {:?} for its first call",
        said.lines().last().unwrap_or_default(),
        start.elapsed() / 200
    );
    assert!(w.server.lanes() > 26_000, "it has its share: {}", w.server.lanes());
    drop(other.stdin.take());
    assert!(other.wait().unwrap().success());
}

#[test]
fn five_thousand_that_connect_at_once_are_all_answered() {
    const AT_ONCE: usize = 5_000;
    let w = World::new(Limits::default());
    let clients: Vec<Client<_>> = (0..AT_ONCE).map(|_| w.client()).collect();
    let start = Instant::now();
    let calls = clients.iter().map(|client| client.call(Echo(Blob::from(vec![1; 64]))).deadline(SOON));
    let results = w.block_on(join_all(calls));
    let took = start.elapsed();
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    figure!("{AT_ONCE} connects at once: {} answered in {took:?}, {} not", AT_ONCE - failed.len(), failed.len());
    assert!(failed.is_empty(), "{} of them, such as: {}", failed.len(), failed[0]);
}
