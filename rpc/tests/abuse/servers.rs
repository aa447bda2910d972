//! Servers that flood their client: its other connections, to honest servers, are served all the same.
//!
//! All of the client's side is one thread, so that what happens between a call to an honest server and its answer can be
//! counted; the flood comes from another thread, as fast as it is taken.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use rpc::wire::header::{self, IGNORABLE, Kind, REVERSE};
use rpc::wire::hello::Welcome;
use rpc::{Address, Blob, Client, Incarnation, PeerId, Server};

use crate::figure;
use crate::raw::{RawPeer, frame};
use crate::world::{Abused, Echo, Handler, Hold, PATIENCE, alone};

/// Bytes that the flood has been able to send.
static SENT: AtomicU64 = AtomicU64::new(0);

/// Welcomes one client and sends it the script, as often as is said, unless it goes first.
fn flood(listener: &UnixListener, script: &[u8], times: usize) {
    let mut peer = RawPeer::accepted(listener);
    assert!(matches!(peer.next(), Some((Kind::Hello, ..))));
    let (peer_id, incarnation) = (PeerId::random(), Incarnation::random());
    let welcome = Welcome { wire: 1, born: 1, peer: peer_id, incarnation, frame_bytes_max: 1 << 20, window: 1024 };
    peer.stream.write_all(&frame(|out| welcome.put(out))).unwrap();
    let answers = peer.drains();
    for chunk in std::iter::repeat_n(script, times).flat_map(|script| script.chunks(64 << 10)) {
        peer.stream.write_all(chunk).unwrap();
        SENT.fetch_add(chunk.len() as u64, Ordering::SeqCst);
    }
    peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
    answers.join().unwrap();
}

/// LIMIT: a driver takes 32 reads of 64 KiB at a time; a call and its answer wait for three times that (measured), and what
/// the socket holds. Of a driver that does not give way it is 61 times before its runtime looks at other sockets.
const BETWEEN_MAX: u64 = 4 * 32 * (64 << 10) + (256 << 10);

#[allow(clippy::disallowed_methods, reason = "a bare socket, not a service")]
fn check_honest_beside(what: &str, script: &[u8], times: usize) {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let (honest, hostile) = (scratch.path().join("d/s"), scratch.path().join("h"));
    let listener = UnixListener::bind(&hostile).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::scope(|threads| {
        let flood = threads.spawn(|| flood(&listener, script, times));
        runtime.block_on(async {
            let server = Server::builder::<Abused>(Handler).serve(&Address::unix(&honest)).await.unwrap();
            let client = Client::<Abused>::new(server.address());
            let call = || client.call(Echo(Blob::from(vec![1]))).deadline(PATIENCE);
            call().await.unwrap();
            let flooded = Client::<Abused>::builder(&Address::unix(&hostile)).serves::<Abused>(Handler).build();
            // Opens the connection, and is never answered.
            let wanted = tokio::spawn(flooded.call(Hold(Blob::from(vec![1]))).deadline(PATIENCE * 6));
            let (mut calls, mut most) = (0, 0);
            while !flood.is_finished() {
                let before = SENT.load(Ordering::SeqCst);
                call().await.unwrap();
                most = most.max(SENT.load(Ordering::SeqCst) - before);
                calls += 1;
            }
            figure!("{what} by another server: between an honest call and its answer at most {} KiB", most >> 10);
            assert!(most < BETWEEN_MAX, "{most} bytes of a flood were taken between a call and its answer");
            assert!(calls > 1);
            wanted.abort();
        });
    });
}

#[test]
fn server_that_sends_without_an_end_delays_no_call_to_another() {
    let tiny = frame(|out| {
        header::put_common(out, Kind::Pong, IGNORABLE, 0, 0);
        out[4] = 200;
    });
    check_honest_beside("tiny frames", &tiny.repeat(50_000), 100);
}

#[test]
fn server_that_opens_and_cancels_calls_of_its_client_delays_no_call_to_another() {
    let mut body = BytesMut::new();
    rpc::wire::body::encode(&Hold(Blob::from(vec![1])), &mut body).unwrap();
    let piece = |id: u64| {
        let header = header::RequestHeader {
            flags: REVERSE,
            id,
            floor: id.saturating_sub(100).max(1),
            method: <Hold as rpc::Request>::ID,
            version: 1,
            remaining_ms: 600_000,
            credit: None,
        };
        let mut both = frame(|out| {
            header::put_request(out, &header);
            out.extend_from_slice(&body);
        });
        both.extend_from_slice(&frame(|out| header::put_common(out, Kind::Cancel, REVERSE, 0, id)));
        both
    };
    check_honest_beside("open and cancel", &(1..400_000).flat_map(piece).collect::<Vec<_>>(), 1);
}
