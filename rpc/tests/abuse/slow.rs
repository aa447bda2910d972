//! Peers that take their time, and peers that never read.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rpc::{Blob, Client, Limits};

use crate::counting::live;
use crate::figure;
use crate::raw::{RawPeer, hello, request};
use crate::world::{Abused, Echo, Latencies, World, is_quiet};

const SLOW: usize = 1_000;

/// Byte after byte of a Hello and then of requests, each connection one byte in `every`, evenly spread.
fn dribble(path: &std::path::Path, every: Duration, ready: &AtomicBool, sent: &AtomicU64, stop: &AtomicBool) {
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
    for round in 0.. {
        let start = Instant::now();
        for (at, peer) in peers.iter_mut().enumerate() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let next = 40 + at % 40 + round;
            if let Some(byte) = script.get(next..=next) {
                sent.fetch_add(u64::from(peer.stream.write(byte).is_ok()), Ordering::Relaxed);
            }
            let due = every / SLOW as u32 * (at as u32 + 1);
            std::thread::park_timeout(due.saturating_sub(start.elapsed()));
        }
    }
}

/// An honest client while the slow ones are there, and have sent what shows that they are slow, not silent.
fn honest_among_slow(w: &World, client: &Client<Abused>, time: Duration, every: Duration) -> Latencies {
    let (ready, sent, stop) = (AtomicBool::new(false), AtomicU64::new(0), AtomicBool::new(false));
    let during = std::thread::scope(|threads| {
        threads.spawn(|| dribble(&w.path, every, &ready, &sent, &stop));
        w.until("they are connected", |w| ready.load(Ordering::SeqCst) && w.server.connections() == SLOW + 1);
        let (start, before) = (Instant::now(), sent.load(Ordering::Relaxed));
        let during = w.honest_until(client, || start.elapsed() >= time && sent.load(Ordering::Relaxed) >= before + 100);
        stop.store(true, Ordering::SeqCst);
        during
    });
    w.until("they are gone", |w| w.server.connections() == 1);
    during
}

#[test]
fn thousand_slow_clients_do_not_slow_an_honest_one() {
    // Long enough that the slow ones stay, whatever they do.
    let w = World::new(Limits { handshake_timeout: Duration::from_secs(60), ..Limits::default() });
    let client = w.client();
    w.honest(&client, Duration::from_millis(300));
    let ratio = compare(&w, &client, Duration::from_secs(2));
    if is_quiet() {
        // Each byte is a wake of the server's one thread. Four times as often more than one call in a hundred meets one,
        // and so does the p99: that is shown, not asserted.
        compare(&w, &client, Duration::from_millis(500));
        assert!(ratio <= 1.2, "an honest client's p99 is {ratio:.2} times what it is without slow ones");
    }
}

/// An honest client's p99 among slow ones, by what it is without them. In pairs, because a machine is not the same from one
/// second to the next; the median of the pairs counts.
fn compare(w: &World, client: &Client<Abused>, every: Duration) -> f64 {
    let (pairs, time) = if is_quiet() { (15, Duration::from_millis(800)) } else { (1, Duration::from_millis(300)) };
    let mut ratios = Vec::new();
    for _ in 0..pairs {
        let before = w.honest(client, time / 2);
        let among = honest_among_slow(w, client, time, every);
        let without = before.merge(w.honest(client, time / 2));
        ratios.push((among.p99().as_secs_f64() / without.p99().as_secs_f64(), among, without));
    }
    ratios.sort_by(|(one, ..), (other, ..)| one.total_cmp(other));
    let (ratio, among, without) = &ratios[ratios.len() / 2];
    figure!(
        "{SLOW} slow clients, each a byte in {every:?}: honest p99 {:?}, without them {:?}: {ratio:.2} x, the median of \
         {pairs} pairs from {:.2} to {:.2} x; medians {:?} and {:?}",
        among.p99(),
        without.p99(),
        ratios[0].0,
        ratios[ratios.len() - 1].0,
        among.quantile(0.5),
        without.quantile(0.5)
    );
    *ratio
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
    for peer in &deaf {
        peer.stream.set_nonblocking(true).unwrap();
    }
    // As much as the server takes of each, until it has given up all of them.
    let mut held = 0;
    let mut during = None;
    w.until("they lose their connections", |w| {
        for (peer, sent) in deaf.iter_mut().zip(&mut sent) {
            while let Ok(bytes @ 1..) = peer.stream.write(&script[*sent..]) {
                *sent += bytes;
            }
        }
        let some = w.honest(&client, Duration::from_millis(10));
        during = Some(match during.take() {
            Some(before) => some.merge(before),
            None => some,
        });
        held = held.max(live() - before);
        w.server.connections() == 1
    });
    let (sent, held): (usize, usize) = (sent.iter().sum(), held.try_into().unwrap());
    let during = during.unwrap();
    figure!(
        "{DEAF} clients that never read sent {} KiB: the server holds {} KiB of at most {} KiB; honest p99 {:?}",
        sent >> 10,
        held >> 10,
        (DEAF * per_peer) >> 10,
        during.p99()
    );
    assert!(held < DEAF * per_peer, "{held} bytes are held");
    drop(deaf);
    w.honest(&client, Duration::from_millis(100));
}
