//! A server at the corner of all its limits, and what `limits.rs` says that it may hold there.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use rpc::wire::header::Kind;
use rpc::{Blob, CallError, Limits, NotDelivered, Request};

use crate::counting::{live, take_peak};
use crate::figure;
use crate::raw::{RawPeer, open_of, ping, request};
use crate::world::{Echo, FLOWED, Flow, HELD, Hold, PATIENCE, World};

/// Connections, each with a lane of its own: with the honest client's all that one process may have of [`ALL`].
const PEERS: usize = 24;
/// LIMIT: four fifths are [`PEERS`] and one.
const ALL: usize = 31;

/// Calls of each peer that run, small and large: all that one process may have of [`RUNNING_MAX`], and some more.
const SMALL: u64 = 64;
const LARGE: u64 = 6;
/// Answers of each peer that are kept.
const KEPT: u64 = 30;
/// LIMIT: four fifths of it are less than the calls of all peers.
const RUNNING_MAX: usize = 2_048;

/// Streams of each peer, which has credit for more than the server queues.
const STREAMS: u64 = 4;
const STREAM_BYTES: u32 = 64 << 10;

/// Limits that a test can reach in all directions at once.
fn corner() -> Limits {
    Limits {
        frame_bytes_max: 256 << 10,
        window: 160,
        answer_bytes_max: 1 << 20,
        request_bytes_max: 2 << 20,
        out_bytes_max: 128 << 10,
        connections_max: ALL,
        handshakes_max: ALL,
        lanes_max: ALL,
        running_max: RUNNING_MAX,
        held_bytes_max: 48 << 20,
        streams_max: STREAMS as usize,
        stream_bytes: STREAM_BYTES,
        stall_timeout: Duration::from_secs(60),
        ..Limits::default()
    }
}

/// Calls whose answers are read and kept, because no floor passes them.
fn keep_answers(peer: &mut RawPeer) {
    for id in 1..=KEPT {
        peer.stream.write_all(&request(id, 1, &Echo(Blob::from(vec![2; 30 << 10])))).unwrap();
        while !matches!(peer.next().expect("an answer"), (Kind::Ack, _, about) if about == id) {}
    }
}

/// Streams with credit for more than the server queues; nobody reads them.
fn streams() -> Vec<u8> {
    let mut body = BytesMut::new();
    rpc::wire::body::encode(&Flow { item_bytes: 4 << 10 }, &mut body).unwrap();
    (1..=STREAMS).flat_map(|n| open_of(Flow::ID, KEPT + n, 1, &body, Some((1 << 20, 1 << 30)))).collect()
}

/// Calls that run: some with large requests, many with small ones.
fn holds() -> Vec<u8> {
    let large = (1..=LARGE).map(|n| request(KEPT + STREAMS + n, 1, &Hold(Blob::from(vec![1; 60 << 10]))));
    let small = (1..=SMALL).map(|n| request(KEPT + STREAMS + LARGE + n, 1, &Hold(Blob::from(vec![1; 8]))));
    large.chain(small).flatten().collect()
}

/// Answers and pongs that are not read, and the front of a frame.
fn unread() -> Vec<u8> {
    let first = KEPT + LARGE + SMALL + STREAMS + 1;
    let answers = (first..first + 10).map(|id| request(id, 1, &Echo(Blob::from(vec![2; 30 << 10]))));
    let mut all: Vec<u8> = answers.flatten().collect();
    for _ in 0..10_000 {
        all.extend_from_slice(&ping(1));
    }
    let front = request(first + 10, 1, &Hold(Blob::from(vec![3; 100 << 10])));
    all.extend_from_slice(&front[..front.len() - 1]);
    all
}

/// Sends as much of a script to each as it takes now.
fn send_on(peers: &mut [RawPeer], sent: &mut [usize], script: &[u8]) {
    for (peer, sent) in peers.iter_mut().zip(sent) {
        while let Ok(bytes @ 1..) = peer.stream.write(&script[*sent..]) {
            *sent += bytes;
        }
    }
}

#[test]
fn memory_at_the_corner_of_all_limits_stays_below_the_computed_ceiling() {
    let limits = corner();
    let ceiling = limits.server_bytes_max();
    let w = World::new(limits);
    let client = w.client();
    w.honest(&client, Duration::from_millis(100));
    let before = live();
    let (held_before, flowed_before) = (HELD.load(Ordering::SeqCst), FLOWED.load(Ordering::SeqCst));
    let mut peers: Vec<_> = (0..PEERS).map(|_| RawPeer::welcomed(&w.path)).collect();
    assert_eq!((w.server.connections(), w.server.lanes()), (PEERS + 1, PEERS + 1));
    assert!(RawPeer::connect(&w.path).next().is_none_or(|(kind, ..)| kind == Kind::Goodbye), "there are no more");
    take_peak();
    for peer in &mut peers {
        keep_answers(peer);
        peer.stream.set_nonblocking(true).unwrap();
    }
    let mut sends = |what: &str, script: Vec<u8>, reached: &dyn Fn(&[RawPeer]) -> bool| {
        let mut sent = [0; PEERS];
        // What is not taken now may be taken later.
        w.until(what, |_| {
            send_on(&mut peers, &mut sent, &script);
            reached(&peers)
        });
    };
    sends("the queues of all streams are full", streams(), &|peers| {
        let in_sockets: u64 = peers.iter().map(|peer| rustix::io::ioctl_fionread(&peer.stream).unwrap()).sum();
        let full = PEERS as u64 * STREAMS * u64::from(STREAM_BYTES - (8 << 10));
        FLOWED.load(Ordering::SeqCst) - flowed_before >= full + in_sockets
    });
    sends("all that may run does", holds(), &|_| {
        HELD.load(Ordering::SeqCst) - held_before >= (RUNNING_MAX * 4 / 5) as u64
    });
    sends("unread answers fill the rest", unread(), &|_| (live() - before) as usize * 2 > ceiling);
    // It stays there: whatever more this process wants is refused.
    for _ in 0..200 {
        let refused = w.block_on(client.call(Echo(Blob::from(vec![1]))).deadline(PATIENCE));
        assert!(matches!(refused, Err(CallError::NotDelivered(NotDelivered::Overloaded { .. }))), "{refused:?}");
    }
    let held = usize::try_from(take_peak() - before).unwrap();
    figure!(
        "at the corner of all limits ({PEERS} lanes, {} streams, {} calls running): {} KiB were held, the ceiling is {} \
         KiB ({:.0} %)",
        PEERS as u64 * STREAMS,
        HELD.load(Ordering::SeqCst) - held_before,
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

#[test]
fn connection_that_has_ended_holds_nothing_while_its_handler_runs_on() {
    const GONE: u64 = 50;
    const FRONT_BYTES: usize = 900_000;
    let w = World::new(Limits::default());
    let client = w.client();
    w.honest(&client, Duration::from_millis(20));
    let front = request(2, 1, &Hold(Blob::from(vec![3; FRONT_BYTES])));
    let (before, held_before) = (live(), HELD.load(Ordering::SeqCst));
    for _ in 0..GONE {
        let mut peer = RawPeer::welcomed(&w.path);
        peer.stream.write_all(&request(1, 1, &Hold(Blob::from(vec![0])))).unwrap();
        peer.stream.write_all(&front[..front.len() - 1]).unwrap();
    }
    w.until("they are gone", |w| w.server.connections() <= 1);
    assert_eq!(HELD.load(Ordering::SeqCst) - held_before, GONE, "each has left a handler");
    // A connection is no longer counted a moment before what it held is freed.
    let room = isize::try_from(GONE).unwrap() * FRONT_BYTES.cast_signed() / 4;
    w.until("what they held is freed", |_| live() - before < room);
    figure!(
        "{GONE} connections that ended in a frame of {FRONT_BYTES} bytes, with a handler each: {} KiB",
        (live() - before) >> 10
    );
    assert_eq!(w.server.lanes(), GONE as usize + 1, "their lanes and handlers are there");
}
