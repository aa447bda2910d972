//! Peers that take their time, and peers that never read.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rpc::{Blob, Limits};

use crate::counting::live;
use crate::figure;
use crate::raw::{RawPeer, hello, request};
use crate::world::{Echo, World};

const SLOW: usize = 1_000;

/// Byte after byte of a Hello and then of requests, each connection one byte in half a second, evenly spread.
fn dribble(path: &std::path::Path, ready: &AtomicBool, stop: &AtomicBool) -> u64 {
    let mut script = hello().to_vec();
    for id in 1..=1000 {
        script.extend_from_slice(&request(id, id, &Echo(Blob::from(vec![1; 16]))));
    }
    let mut peers: Vec<_> = (0..SLOW).map(|_| RawPeer::connect(path)).collect();
    // Most of a Hello, so that the rest of it and what follows come in time.
    for (at, peer) in peers.iter_mut().enumerate() {
        peer.stream.write_all(&script[..40 + at % 40]).unwrap();
    }
    ready.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for round in 0.. {
        let start = Instant::now();
        for (at, peer) in peers.iter_mut().enumerate() {
            if stop.load(Ordering::Relaxed) {
                return sent;
            }
            let next = 40 + at % 40 + round;
            if let Some(byte) = script.get(next..=next) {
                sent += u64::from(peer.stream.write(byte).is_ok());
            }
            let due = Duration::from_micros(500 * (at as u64 + 1));
            std::thread::park_timeout(due.saturating_sub(start.elapsed()));
        }
    }
    sent
}

#[test]
fn thousand_slow_clients_do_not_slow_an_honest_one() {
    // Long enough that the slow ones stay, whatever they do.
    let w = World::new(Limits { handshake_timeout: Duration::from_secs(60), ..Limits::default() });
    let client = w.client();
    let time = Duration::from_millis(700);
    w.honest(&client, time);
    let mut quiet = w.honest(&client, time);
    let mut attacked: Option<crate::world::Latencies> = None;
    for _ in 0..3 {
        let (ready, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (path, is_ready, is_over) = (w.path.clone(), Arc::clone(&ready), Arc::clone(&stop));
        let slow = std::thread::spawn(move || dribble(&path, &is_ready, &is_over));
        w.until("they are connected", |w| ready.load(Ordering::SeqCst) && w.server.connections() == SLOW + 1);
        let during = w.honest(&client, time);
        attacked = Some(match attacked {
            Some(before) => before.merge(during),
            None => during,
        });
        stop.store(true, Ordering::SeqCst);
        assert!(slow.join().unwrap() > 300, "they were slow, not silent");
        w.until("they are gone", |w| w.server.connections() == 1);
        quiet = quiet.merge(w.honest(&client, time));
    }
    let attacked = attacked.unwrap();
    let ratio = attacked.p99().as_secs_f64() / quiet.p99().as_secs_f64();
    figure!(
        "{SLOW} slow clients: honest p99 {:?}, without them {:?}: {ratio:.2} x; median {:?} and {:?}",
        attacked.p99(),
        quiet.p99(),
        attacked.quantile(0.5),
        quiet.quantile(0.5)
    );
    // Where the machine does other things too, a p99 of either kind is theirs.
    let bound = (quiet.p99() * 6).max(Duration::from_millis(20));
    assert!(attacked.p99() < bound, "an honest client's p99 is {ratio:.2} times what it is without slow ones");
}

#[test]
fn clients_that_never_read_cost_what_the_limits_say_and_then_their_connection() {
    const DEAF: usize = 64;
    let limits = Limits { stall_timeout: Duration::from_secs(2), answer_bytes_max: 1 << 20, ..Limits::default() };
    // Answers that are kept, and those that wait: the queue up to the mark at which intake stops, the batch above it, and
    // the buffer that is being written.
    let per_peer = limits.answer_bytes_max + 2 * (limits.out_bytes_max + (64 << 10) + (16 << 10)) + (64 << 10);
    let w = World::new(limits);
    let client = w.client();
    w.honest(&client, Duration::from_millis(200));
    let before = live();
    let mut deaf: Vec<_> = (0..DEAF).map(|_| RawPeer::welcomed(&w.path)).collect();
    let script: Vec<u8> = (1..=128).flat_map(|id| request(id, 1, &Echo(Blob::from(vec![1; 16 << 10])))).collect();
    let mut sent = [0; DEAF];
    // Until the server takes no more of any of them.
    let mut progress = Instant::now();
    while progress.elapsed() < Duration::from_millis(300) {
        for (peer, sent) in deaf.iter_mut().zip(&mut sent) {
            peer.stream.set_nonblocking(true).unwrap();
            while let Ok(bytes @ 1..) = peer.stream.write(&script[*sent..]) {
                *sent += bytes;
                progress = Instant::now();
            }
        }
    }
    let sent: usize = sent.iter().sum();
    let during = w.honest(&client, Duration::from_millis(500));
    let held = usize::try_from(live() - before).unwrap_or(0);
    figure!(
        "{DEAF} clients that never read sent {} KiB: the server holds {} KiB of at most {} KiB; honest p99 {:?}",
        sent >> 10,
        held >> 10,
        (DEAF * per_peer) >> 10,
        during.p99()
    );
    assert!(held < DEAF * per_peer, "{held} bytes are held");
    w.until("they lose their connections", |w| w.server.connections() == 1);
    drop(deaf);
    w.honest(&client, Duration::from_millis(100));
}
