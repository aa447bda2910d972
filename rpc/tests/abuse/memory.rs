//! A server at the corner of all its limits, and what `limits.rs` says that it may hold there.

use std::io::Write;
use std::time::Duration;

use rpc::wire::header::Kind;
use rpc::{Blob, Limits};

use crate::counting::{live, take_peak};
use crate::figure;
use crate::raw::{RawPeer, ping, request};
use crate::world::{Echo, Hold, World};

const PEERS: usize = 24;

/// Limits that a test can reach in all directions at once.
fn corner() -> Limits {
    Limits {
        frame_bytes_max: 256 << 10,
        window: 128,
        answer_bytes_max: 1 << 20,
        request_bytes_max: 2 << 20,
        out_bytes_max: 128 << 10,
        connections_max: 32,
        handshakes_max: 32,
        lanes_max: 32,
        running_max: 2_048,
        held_bytes_max: 48 << 20,
        stall_timeout: Duration::from_secs(60),
        ..Limits::default()
    }
}

/// What fills a lane: running handlers with large requests, kept answers, answers that are not read, and the front of a
/// frame.
fn filling() -> Vec<u8> {
    let mut all = Vec::new();
    for id in 1..=40 {
        all.extend_from_slice(&request(id, 1, &Hold(Blob::from(vec![1; 60 << 10]))));
    }
    for id in 41..=90 {
        all.extend_from_slice(&request(id, 1, &Echo(Blob::from(vec![2; 30 << 10]))));
    }
    for _ in 0..10_000 {
        all.extend_from_slice(&ping(1));
    }
    let front = request(91, 1, &Hold(Blob::from(vec![3; 250 << 10])));
    all.extend_from_slice(&front[..front.len() - 1]);
    all
}

#[test]
fn memory_at_the_corner_of_all_limits_stays_below_the_computed_ceiling() {
    let limits = corner();
    let ceiling = limits.server_bytes_max();
    let w = World::new(limits);
    let client = w.client();
    w.honest(&client, Duration::from_millis(100));
    let before = live();
    let mut peers: Vec<_> = (0..PEERS).map(|_| RawPeer::welcomed(&w.path)).collect();
    let script = filling();
    let mut sent = [0; PEERS];
    for peer in &peers {
        peer.stream.set_nonblocking(true).unwrap();
    }
    take_peak();
    // What it does not take now it may take later; it is full where what it should hold has come together.
    w.until("it is full", |_| {
        for (peer, sent) in peers.iter_mut().zip(&mut sent) {
            while let Ok(bytes @ 1..) = peer.stream.write(&script[*sent..]) {
                *sent += bytes;
            }
        }
        (live() - before) as usize * 2 > ceiling
    });
    w.honest(&client, Duration::from_millis(300));
    let held = usize::try_from(take_peak() - before).unwrap();
    figure!(
        "at the corner of all limits: {} KiB are held, the ceiling is {} KiB ({:.0} %)",
        held >> 10,
        ceiling >> 10,
        held as f64 / ceiling as f64 * 100.0
    );
    assert!(held <= ceiling, "{held} bytes are held, at most {ceiling} may be");
    // And it is given back.
    drop(peers);
    w.until("the connections are gone", |w| w.server.connections() <= 1);
}

#[test]
fn front_of_a_frame_that_never_ends_costs_its_share_and_no_more() {
    let w = World::new(Limits { held_bytes_max: 4 << 20, ..Limits::default() });
    let front = request(1, 1, &Hold(Blob::from(vec![3; 1_000_000])));
    let mut peers: Vec<_> = (0..PEERS).map(|_| RawPeer::welcomed(&w.path)).collect();
    let before = live();
    let mut refused = 0;
    for peer in &mut peers {
        let _ = peer.stream.write_all(&front[..front.len() - 1]);
    }
    w.until("those beyond the share are gone", |w| w.server.connections() <= 5);
    let held = live() - before;
    for peer in &mut peers {
        peer.stream.set_nonblocking(true).unwrap();
        let mut said = [0; 5];
        // Length, then the kind.
        let told = std::io::Read::read(&mut peer.stream, &mut said).is_ok_and(|read| read == 5);
        refused += u32::from(told && said[4] == Kind::Goodbye as u8);
    }
    figure!(
        "{PEERS} unfinished frames of 1 MB: {} KiB are kept, {refused} peers were told that it is too much",
        held >> 10
    );
    assert!(held < 8 << 20, "{held}");
    assert!(refused >= 15, "{refused}");
}
