//! What a server does with peers that say the wrong thing, say nothing, or do not listen. Raw sockets speak to it.
//!
//! Long, because one peer can do so many things wrong; what the tests share is in `raw_peer`.

#[path = "server_tests/raw_peer.rs"]
mod raw_peer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::Blob;
use crate::limits::Limits;
use crate::wire::header::{self, FailedCode, IGNORABLE, NackCode, RequestHeader};
use crate::wire::hello::{MAGIC, Welcome};
use raw_peer::{RawPeer, SAY, SOON, Say, World, frame_of, hello_of, lane, request_of, say, until};

#[tokio::test]
async fn stray_http_client_is_told_in_one_frame() {
    let w = World::new(Limits::default()).await;
    let mut peer = w.peer().await;
    peer.sends(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, peer.stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    // Length 16, Goodbye, no flags, no TLVs, code 2, no request taken up.
    assert_eq!(answer, [0, 0, 0, 16, 17, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    w.serves_others().await;
}

#[tokio::test]
async fn first_frame_that_is_no_hello_of_ours_is_refused_with_its_reason() {
    let mut wrong_magic = hello_of(|_| ());
    wrong_magic[20] ^= 1;
    let cut_short = frame_of(|out| {
        header::put_common(out, Kind::Hello, 0, 0, 0);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 3]);
    });
    let cases: [(&str, BytesMut, GoodbyeCode); 12] = [
        ("text", b"hello, is anybody there?\n"[..].into(), GoodbyeCode::NotThisProtocol),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..].into(), GoodbyeCode::NotThisProtocol),
        ("an empty frame", frame_of(|_| ()), GoodbyeCode::NotThisProtocol),
        ("a request before the Hello", say(1, "too early", 1), GoodbyeCode::NotThisProtocol),
        ("zeros", frame_of(|out| out.extend_from_slice(&[0; 64])), GoodbyeCode::NotThisProtocol),
        ("a frame above the handshake's limit", BytesMut::from(&[0, 0, 0x10, 1][..]), GoodbyeCode::NotThisProtocol),
        ("another magic", wrong_magic, GoodbyeCode::NotThisProtocol),
        ("a Hello cut short", cut_short, GoodbyeCode::Violation),
        ("another service", hello_of(|h| h.service = "listen"), GoodbyeCode::Service),
        ("another version", hello_of(|h| h.service_version = 2), GoodbyeCode::Service),
        ("a newer wire", hello_of(|h| (h.wire_min, h.wire_max) = (2, 9)), GoodbyeCode::WireVersion),
        ("an older wire", hello_of(|h| (h.wire_min, h.wire_max) = (0, 0)), GoodbyeCode::WireVersion),
    ];
    let w = World::new(Limits::default()).await;
    for (what, first, code) in cases {
        let mut peer = w.peer().await;
        // A request right behind it: it is part of what is refused.
        peer.sends(&[&first[..], &say(1, "behind", 1)[..]].concat()).await;
        let (kind, aux, _) = peer.expects().await;
        assert_eq!((kind, GoodbyeCode::from_number(aux)), (Kind::Goodbye, code), "{what}");
        assert_eq!(peer.next().await, None, "{what}: nothing follows a Goodbye");
    }
    assert_eq!(w.applied.load(Ordering::SeqCst), 0, "no handler saw what was behind a refused Hello");
    w.serves_others().await;
}

#[tokio::test]
async fn wire_range_that_holds_ours_is_accepted() {
    let w = World::new(Limits::default()).await;
    let mut peer = w.peer().await;
    peer.sends(&hello_of(|h| (h.wire_min, h.wire_max) = (0, 9))).await;
    let (kind, _, body) = peer.expects().await;
    assert_eq!((kind, Welcome::parse(&body).unwrap().wire), (Kind::Welcome, 1));
}

#[tokio::test]
async fn epoch_that_is_not_newer_is_refused_and_a_newer_one_ends_the_old() {
    let w = World::new(Limits::default()).await;
    let lane = lane();
    let mut first = w.peer().await;
    first.sends(&lane(5)).await;
    assert_eq!(first.expects().await.0, Kind::Welcome);
    for epoch in [4, 5] {
        let mut late = w.peer().await;
        late.sends(&lane(epoch)).await;
        late.expects_goodbye(GoodbyeCode::StaleEpoch).await;
    }
    first.sends(&say(1, "a", 1)).await;
    assert_eq!(first.expects().await.0, Kind::Ack, "refusing the late ones did the live one no harm");
    let mut second = w.peer().await;
    second.sends(&lane(6)).await;
    assert_eq!(second.expects().await.0, Kind::Welcome);
    let _ = first.stream.write_all(&say(2, "b", 1)).await;
    while first.next().await.is_some() {}
    assert_eq!(w.applied.load(Ordering::SeqCst), 1, "what comes on the old connection is not taken");
}

#[tokio::test]
async fn bytes_that_break_the_protocol_end_their_connection_alone() {
    let unknown = |flags| frame_of(|out| out.extend_from_slice(&[&[200, flags][..], &[0; 14][..]].concat()));
    let cases: [(&str, BytesMut, GoodbyeCode); 7] = [
        ("an announcement of 4 GiB", BytesMut::from(&[0xff; 4][..]), GoodbyeCode::FrameTooLarge),
        ("a byte above the limit", BytesMut::from(&[0, 0x10, 0, 1][..]), GoodbyeCode::FrameTooLarge),
        ("a frame that ends within its header", frame_of(|out| out.extend_from_slice(&[3; 9])), GoodbyeCode::Violation),
        ("an unknown kind", unknown(0), GoodbyeCode::Violation),
        ("a second Hello", hello_of(|_| ()), GoodbyeCode::Violation),
        (
            "a floor above its request",
            frame_of(|out| {
                let header = RequestHeader {
                    flags: 0,
                    id: 1,
                    floor: 2,
                    method: 1,
                    version: 1,
                    remaining_ms: 1000,
                    credit: None,
                };
                header::put_request(out, &header);
            }),
            GoodbyeCode::Violation,
        ),
        ("an id beyond the window", say(5000, "far", 1), GoodbyeCode::Violation),
    ];
    let w = World::new(Limits::default()).await;
    for (what, bytes, code) in cases {
        let mut peer = w.welcomed().await;
        // What came before in the same write is served all the same.
        peer.sends(&[&say(1, what, 1)[..], &unknown(IGNORABLE)[..], &bytes[..]].concat()).await;
        let (kind, _, body) = peer.expects().await;
        assert_eq!((kind, body.ends_with(what.as_bytes())), (Kind::Ack, true), "{what}");
        let (kind, aux, _) = peer.expects().await;
        assert_eq!((kind, GoodbyeCode::from_number(aux)), (Kind::Goodbye, code), "{what}");
        assert_eq!(peer.next().await, None, "{what}: nothing follows a Goodbye");
        w.serves_others().await;
    }
}

#[tokio::test]
async fn body_that_cannot_be_read_is_answered_and_the_connection_goes_on() {
    let w = World::new(Limits::default()).await;
    let mut peer = w.welcomed().await;
    let whole = say(9, "text", 1);
    let body = &whole[4 + header::REQUEST_BYTES..];
    type Case = (&'static str, (u16, u16), Vec<u8>, NackCode);
    let cases: [Case; 5] = [
        ("no body", SAY, vec![], NackCode::BadBody),
        ("a body cut short", SAY, body[..body.len() - 1].to_vec(), NackCode::BadBody),
        ("a byte too many", SAY, [body, &[0]].concat(), NackCode::BadBody),
        ("no such method", (77, 1), body.to_vec(), NackCode::UnknownMethod),
        ("no such version", (1, 77), body.to_vec(), NackCode::UnknownMethod),
    ];
    for (id, (what, method, body, code)) in (1..).zip(cases) {
        peer.sends(&request_of(method, id, &body)).await;
        let (kind, aux, _) = peer.expects().await;
        assert_eq!((kind, NackCode::from_number(aux)), (Kind::Nack, code), "{what}");
    }
    peer.sends(&say(6, "good", 1)).await;
    assert_eq!(peer.expects().await.0, Kind::Ack);
    assert_eq!(w.applied.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn frames_that_arrive_byte_by_byte_are_the_same_frames() {
    let w = World::new(Limits::default()).await;
    let mut peer = w.peer().await;
    let all = [hello_of(|_| ()), say(1, "a", 1), say(2, "b", 1)].concat();
    for byte in all {
        peer.sends(&[byte]).await;
        tokio::task::yield_now().await;
    }
    for kind in [Kind::Welcome, Kind::Ack, Kind::Ack] {
        assert_eq!(peer.expects().await.0, kind);
    }
}

#[tokio::test]
async fn silence_instead_of_a_hello_ends_with_the_handshake_timeout() {
    let handshake_timeout = Duration::from_millis(200);
    let w = World::new(Limits { handshake_timeout, ..Limits::default() }).await;
    let half = hello_of(|_| ());
    for said in [&b""[..], b"GE", &half[..half.len() - 1]] {
        let mut peer = w.peer().await;
        let connected = std::time::Instant::now();
        peer.sends(said).await;
        peer.expects_goodbye(GoodbyeCode::HandshakeTimeout).await;
        assert!(connected.elapsed() >= handshake_timeout, "not before: {:?}", connected.elapsed());
    }
    // A Hello in time is no longer under that clock.
    let mut peer = w.welcomed().await;
    tokio::time::sleep(handshake_timeout * 2).await;
    peer.sends(&say(1, "slow but fine", 1)).await;
    assert_eq!(peer.expects().await.0, Kind::Ack);
    until("the silent ones are gone", || w.server.connections() == 1).await;
}

#[tokio::test]
async fn silent_connections_fill_the_handshakes_and_are_refused_until_they_time_out() {
    let limits = Limits { handshakes_max: 3, handshake_timeout: Duration::from_millis(200), ..Limits::default() };
    let w = World::new(limits).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(w.peer().await);
    }
    until("they are taken in", || w.server.connections() == 3).await;
    let mut fourth = w.peer().await;
    let (kind, code, _) = fourth.expects().await;
    assert_eq!((kind, GoodbyeCode::from_number(code)), (Kind::Goodbye, GoodbyeCode::TooMany));
    assert_eq!(fourth.next().await, None, "closed");
    until("the silent ones are gone", || w.server.connections() == 0).await;
    // Who has been welcomed counts no longer.
    let mut welcomed = Vec::new();
    for _ in 0..5 {
        welcomed.push(w.welcomed().await);
    }
    w.serves_others().await;
}

#[tokio::test]
async fn clients_that_are_done_leave_no_lane_behind() {
    let w = World::new(Limits { lanes_max: 8, ..Limits::default() }).await;
    for _ in 0..100 {
        let client = w.client();
        tokio::time::timeout(SOON, client.call(Say { text: Blob("once".into()), times: 1 })).await.unwrap().unwrap();
        drop(client);
        // Its task writes the last word when the runtime gets to it.
        until("the lane is forgotten", || w.server.lanes() == 0).await;
    }
}

/// Times for what has to be done within one of them: where a machine was too busy for the first, the next one counts.
fn patience() -> impl Iterator<Item = Duration> {
    [1, 4, 16].into_iter().map(Duration::from_secs)
}

#[tokio::test]
async fn full_table_of_lanes_is_searched_before_a_newcomer_is_refused() {
    for lane_retention in patience() {
        let w =
            World::new(Limits { lanes_max: 3, lane_retention, handshake_timeout: lane_retention, ..Limits::default() })
                .await;
        let first = std::time::Instant::now();
        for _ in 0..3 {
            // Gone without a word.
            drop(w.welcomed().await);
        }
        let mut early = w.peer().await;
        early.sends(&hello_of(|_| ())).await;
        let (kind, code, _) = early.expects().await;
        if first.elapsed() >= lane_retention {
            continue;
        }
        assert_eq!((kind, GoodbyeCode::from_number(code)), (Kind::Goodbye, GoodbyeCode::TooMany));
        assert_eq!(early.next().await, None, "closed");
        drop(early);
        until("all are gone", || w.server.connections() == 0).await;
        tokio::time::sleep(lane_retention + Duration::from_millis(100)).await;
        w.serves_others().await;
        return assert_eq!(w.server.lanes(), 1);
    }
    panic!("this machine does nothing in time");
}

#[tokio::test]
async fn peer_that_never_reads_its_answers_is_cut_off_and_alone_in_that() {
    let limits = Limits { stall_timeout: Duration::from_millis(300), ..Limits::default() };
    let w = World::new(limits).await;
    w.serves_others().await;
    let mut deaf = w.welcomed().await;
    // Answers of 60 KB each: the kernel's buffer takes a few, then the server keeps a bounded rest and reads no more.
    let asked = std::time::Instant::now();
    for id in 1..=40 {
        let text = "x".repeat(6_000);
        if deaf.stream.write_all(&say(id, &text, 10)).await.is_err() {
            break;
        }
    }
    let others = async {
        let mut others = 1;
        while w.server.connections() > 1 {
            w.serves_others().await;
            others += 1;
        }
        others
    };
    let others = tokio::time::timeout(SOON, others).await.expect("the deaf peer loses its connection");
    assert!(asked.elapsed() >= Duration::from_millis(300), "not before its time: {:?}", asked.elapsed());
    let taken = w.applied.load(Ordering::SeqCst) - others;
    assert!(taken < 40, "a peer that does not read loses intake first; {taken} of 40 requests were taken");
}

#[tokio::test]
async fn limits_of_no_bytes_to_write_are_connections_all_the_same() {
    let none = || Limits { out_bytes_max: 0, ..Limits::default() };
    let w = World::new(none()).await;
    let limits = Limits { answer_bytes_max: 0, window: 1, ..none() };
    let client = crate::Client::<raw_peer::Speech>::builder(w.server.address()).limits(limits).build();
    for _ in 0..10 {
        let call = client.call(Say { text: Blob("a".into()), times: 3 });
        assert_eq!(tokio::time::timeout(SOON, call).await.expect("no loop").unwrap().0, "aaa");
    }
    assert_eq!(client.counters().connections, 1);
}

#[tokio::test]
async fn client_with_a_window_of_doubts_asks_for_all_on_one_connection_whatever_its_limits() {
    const DOUBTS: u64 = 1000;
    let w = World::new(Limits::default()).await;
    let limits = Limits { out_bytes_max: 0, answer_bytes_max: 0, ..Limits::default() };
    let client = crate::Client::<raw_peer::Speech>::builder(w.server.address()).limits(limits).build();
    let calls: Vec<_> = (0..DOUBTS)
        .map(|_| tokio::spawn(client.call(Say { text: Blob("a".into()), times: 0 }).deadline(SOON * 3)))
        .collect();
    until("all run", || w.applied.load(Ordering::SeqCst) == DOUBTS).await;
    // As its next connection would: the present one is fenced, and the client dials again.
    let cell = w.server.hub.lanes().pop().expect("its lane");
    cell.with_driver(|lane| lane.goodbye(GoodbyeCode::TooMany));
    until("it is back", || client.counters().connections == 2).await;
    let call = client.call(Say { text: Blob("b".into()), times: 1 });
    assert_eq!(tokio::time::timeout(SOON, call).await.expect("an answer").unwrap().0, "b");
    assert_eq!(client.counters().connections, 2, "it has stayed");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Says Hello, reads nothing, and pings without end.
struct Floods(BytesMut, BytesMut);

impl tokio::io::AsyncRead for Floods {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self(hello, ping) = &mut *self;
        into.put_slice(&hello.split_to(hello.len().min(into.remaining())));
        while into.remaining() >= ping.len() {
            into.put_slice(ping);
        }
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Floods {
    fn poll_write(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn peer_that_only_writes_loses_its_connection_though_it_never_pauses() {
    let w = World::new(Limits::default()).await;
    let ping = frame_of(|out| {
        header::put_common(out, Kind::Ping, 0, 0, 1);
        out.extend_from_slice(&1_u64.to_le_bytes());
    });
    w.server.serve_stream(Floods(hello_of(|_| ()), ping), crate::Peer::own());
    assert_eq!(w.server.connections(), 1);
    until("it is given up", || w.server.connections() == 0).await;
    assert_eq!(w.server.lanes(), 1, "its Hello was good");
}

/// Says what it has to say, and takes no byte; whenever it is asked after that it says what it says again, if anything.
struct Deaf {
    says: BytesMut,
    again: BytesMut,
}

impl tokio::io::AsyncRead for Deaf {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.says.is_empty() {
            if self.again.is_empty() {
                return Poll::Pending;
            }
            self.says = self.again.clone();
        }
        let bytes = self.says.len().min(into.remaining());
        into.put_slice(&self.says.split_to(bytes));
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Deaf {
    fn poll_write(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A server that has something to write for such a peer, and the bytes of it.
async fn with_deaf(again: BytesMut) -> (World, usize) {
    let bytes = 60_000;
    let w = World::new(Limits::default()).await;
    let says = BytesMut::from(&[hello_of(|_| ()), say(1, &"x".repeat(bytes / 10), 10)].concat()[..]);
    w.server.serve_stream(Deaf { says, again }, crate::Peer::own());
    (w, bytes)
}

#[tokio::test]
async fn peer_that_never_lets_its_driver_rest_is_counted_for_what_it_does_not_read() {
    let ping = frame_of(|out| {
        header::put_common(out, Kind::Ping, 0, 0, 1);
        out.extend_from_slice(&1_u64.to_le_bytes());
    });
    let (w, bytes) = with_deaf(ping).await;
    // For the next time that it is asked for, and what is to be written.
    until("its answer is counted twice", || w.server.hub.load.held_bytes() >= 2 * bytes - 8192).await;
    w.serves_others().await;
}

#[tokio::test]
async fn answer_that_is_being_written_is_no_longer_counted_as_queued() {
    let (w, bytes) = with_deaf(BytesMut::new()).await;
    let held = || w.server.hub.load.held_bytes();
    until("its answer is counted twice", || held() >= 2 * bytes - 8192).await;
    // Its driver rests, on this thread: there is nothing to read, and no byte is taken.
    assert!(held() < 3 * bytes - 8192, "{} bytes", held());
}

#[tokio::test]
async fn answers_asked_for_again_and_again_are_queued_no_further_than_the_bound() {
    let w = World::new(Limits::default()).await;
    let mut peer = w.welcomed().await;
    let text = "x".repeat(4_000);
    peer.sends(&say(1, &text, 1)).await;
    assert_eq!(peer.expects().await.0, Kind::Ack);
    let resolve = frame_of(|out| header::put_common(out, Kind::Resolve, 0, 0, 1));
    // What one read may bring: 64 KiB that ask for 13 MB. A repeat asks for as much by itself, if not for as little.
    let resolves = resolve.repeat(3_276);
    let repeats = say(1, &text, 1).repeat(16);
    // What is queued and what is being written, each in a buffer that has doubled as it grew, and the rest of a read.
    let bound = 4 * (w.server.hub.limits.out_bytes_max + 4_100) + 2 * crate::limits::READ_BYTES;
    for (asked, expected, count) in [(resolves, Kind::Resolution, 3_276), (repeats, Kind::Ack, 16)] {
        peer.sends(&asked).await;
        let mut held_max = 0;
        for _ in 0..count {
            // The socket holds some, the server no more than it may: before the first is read, and while they are.
            held_max = held_max.max(w.server.hub.load.held_bytes());
            let (kind, _, body) = peer.expects().await;
            assert_eq!(kind, expected);
            assert!(body.ends_with(text.as_bytes()));
        }
        assert!(held_max < bound, "{held_max} bytes, {bound} at most");
    }
    peer.sends(&say(2, "well", 1)).await;
    assert_eq!(peer.expects().await.0, Kind::Ack, "what was left of the read has been taken");
}

#[tokio::test]
async fn requests_of_a_peer_that_has_stopped_reading_are_taken_though_their_answers_cannot_be_written() {
    let w = World::new(Limits::default()).await;
    let mut peer = w.welcomed().await;
    let text = "x".repeat(4_000);
    peer.sends(&say(1, &text, 1)).await;
    assert_eq!(peer.expects().await.0, Kind::Ack);
    let stream = peer.stream.into_std().unwrap();
    stream.shutdown(std::net::Shutdown::Read).unwrap();
    peer.stream = UnixStream::from_std(stream).unwrap();
    // More than may be queued, in front of a request: it is taken all the same.
    let resolve = frame_of(|out| header::put_common(out, Kind::Resolve, 0, 0, 1));
    peer.sends(&[&resolve.repeat(3_000)[..], &say(2, "last", 1)[..]].concat()).await;
    until("the last request is applied", || w.applied.load(Ordering::SeqCst) == 2).await;
}

/// How many of so many calls at once of one fresh client are answered, and how the first other one ended.
async fn answered(w: &World, calls: usize) -> (usize, Option<String>) {
    let client = w.client();
    let say = |n: usize| client.call(Say { text: Blob(n.to_string().into()), times: 1 }).deadline(SOON);
    let ends = futures::future::join_all((0..calls).map(say)).await;
    assert_eq!(client.counters().connections, 1);
    let other = ends.iter().find_map(|end| end.as_ref().err().map(|error| format!("{error:?}")));
    (ends.iter().filter(|end| end.is_ok()).count(), other)
}

#[tokio::test]
async fn more_calls_at_once_than_any_window_holds_wait_and_none_is_refused() {
    let w = World::new(Limits::default()).await;
    assert_eq!(answered(&w, 4_000).await, (4_000, None));
    assert_eq!(w.server.counters().refused, 0);
    // A window of them, and all that may be parked, run at once; the others wait for their turn.
    let (client, before) = (w.client(), w.applied.load(Ordering::SeqCst));
    let endless = |_| tokio::spawn(client.call(Say { text: Blob("".into()), times: 0 }).deadline(SOON));
    let calls: Vec<_> = (0..1_200).map(endless).collect();
    let limits = Limits::default();
    let running = u64::from(limits.window) + limits.parked_max as u64;
    until("a window and what is parked run", || w.applied.load(Ordering::SeqCst) - before == running).await;
    assert_eq!((w.server.counters().refused, calls.iter().any(|call| call.is_finished())), (0, false));
}

#[tokio::test]
async fn fresh_client_keeps_to_a_window_that_it_has_not_been_told_yet() {
    for calls in [20, 65, 2_000] {
        // The smaller half is the server's.
        let w = World::new(Limits { window: 8, parked_max: 2, ..Limits::default() }).await;
        assert_eq!(answered(&w, calls).await, (calls, None), "{calls} calls");
        assert_eq!(w.server.counters().refused, 0);
    }
}

#[tokio::test]
async fn first_ids_of_a_lane_are_taken_whatever_the_window_and_no_further_ones() {
    let w = World::new(Limits { window: 8, ..Limits::default() }).await;
    let mut peer = w.welcomed().await;
    peer.sends(&say(64, "the last of the first", 1)).await;
    assert_eq!(peer.expects().await.0, Kind::Ack);
    peer.sends(&say(65, "one too many", 1)).await;
    peer.expects_goodbye(GoodbyeCode::Violation).await;
}

#[tokio::test]
async fn peer_that_reads_slowly_keeps_its_connection() {
    for stall_timeout in patience() {
        let w = World::new(Limits { stall_timeout, ..Limits::default() }).await;
        let mut slow = w.welcomed().await;
        let (mut last, mut silence_max, mut answers) = (std::time::Instant::now(), Duration::ZERO, 0);
        for id in 1..=20 {
            let _ = slow.stream.write_all(&say(id, &"x".repeat(6_000), 10)).await;
        }
        // 20 answers of 60 KB, at a tenth of the stall timeout: twice that in all, never that long without progress.
        let mut answer = vec![0; 60_000];
        for _ in 0..20 {
            tokio::time::sleep(stall_timeout / 10).await;
            let read = tokio::time::timeout(SOON, slow.stream.read_exact(&mut answer)).await.expect("bytes in time");
            answers += usize::from(read.is_ok());
            silence_max = silence_max.max(last.elapsed());
            last = std::time::Instant::now();
        }
        if silence_max < stall_timeout / 2 {
            return assert_eq!(answers, 20);
        }
    }
    panic!("this machine does nothing in time");
}

#[tokio::test]
async fn handler_that_outlives_its_connection_is_answered_on_the_next() {
    let w = World::new(Limits::default()).await;
    let lane = lane();
    let mut first = w.peer().await;
    first.sends(&[&lane(1)[..], &say(1, "kept", 1)[..]].concat()).await;
    until("it is applied", || w.applied.load(Ordering::SeqCst) == 1).await;
    drop(first);
    let mut second = w.peer().await;
    let resolve = |id| frame_of(|out| header::put_common(out, Kind::Resolve, 0, 0, id));
    second.sends(&[&lane(2)[..], &resolve(1)[..], &resolve(2)[..], &say(2, "late", 1)[..]].concat()).await;
    assert_eq!(second.expects().await.0, Kind::Welcome);
    let (kind, code, body) = second.expects().await;
    assert_eq!((kind, header::ResolutionCode::from_number(code)), (Kind::Resolution, header::ResolutionCode::Applied));
    assert!(body.ends_with(b"kept"));
    let (kind, code, _) = second.expects().await;
    assert_eq!(
        (kind, header::ResolutionCode::from_number(code)),
        (Kind::Resolution, header::ResolutionCode::NeverSeen)
    );
    let (kind, code, _) = second.expects().await;
    assert_eq!((kind, NackCode::from_number(code)), (Kind::Nack, NackCode::Burnt), "never seen is never taken");
    assert_eq!(w.applied.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn cancelled_request_is_answered_as_stopped_and_a_late_cancel_is_normal() {
    let w = World::new(Limits::default()).await;
    let mut peer = w.welcomed().await;
    let cancel = |id| frame_of(|out| header::put_common(out, Kind::Cancel, 0, 0, id));
    peer.sends(&[say(1, "never", 0), say(2, "done", 1)].concat()).await;
    assert_eq!(peer.expects().await.0, Kind::Ack);
    // After its answer, and for what never was.
    peer.sends(&[cancel(2), cancel(77), cancel(1)].concat()).await;
    let (kind, code, _) = loop {
        match peer.expects().await {
            (Kind::Received, ..) => {}
            other => break other,
        }
    };
    assert_eq!((kind, FailedCode::from_number(code)), (Kind::Failed, FailedCode::Aborted));
    peer.sends(&say(3, "fine", 1)).await;
    assert_eq!(peer.expects().await.0, Kind::Ack);
}

/// Counts what was logged as a warning by the thread on which it is the default.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicU64>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Tells the test below that it is the process whose descriptors may be used up.
const NO_DESCRIPTORS: &str = "RPC_TEST_NO_DESCRIPTORS";

#[test]
#[allow(clippy::disallowed_methods, reason = "the descriptor limit belongs to a process; this one has other tests")]
fn full_descriptor_table_is_waited_out_without_haste() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "io::server::tests::without_descriptors", "--nocapture"])
        .env(NO_DESCRIPTORS, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("served after the shortage"), "{output:?}");
}

/// Does nothing unless [`full_descriptor_table_is_waited_out_without_haste`] started it.
#[tokio::test]
#[allow(clippy::print_stdout, reason = "what the process that started this one reads")]
async fn without_descriptors() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if std::env::var_os(NO_DESCRIPTORS).is_none() {
        return;
    }
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let w = World::new(Limits::default()).await;
    w.serves_others().await;
    let mut slow = w.welcomed().await;
    // The peer's own descriptor is made while there is room; connecting needs no further one.
    let waiting = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).unwrap();
    let fillers: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).take(64).collect();
    assert!(std::fs::File::open("/dev/null").is_err(), "the table is full");
    let watched = std::time::Instant::now();
    connect(&waiting, &SocketAddrUnix::new(&w.path).unwrap()).unwrap();
    until("accept fails", || warnings.0.load(Ordering::SeqCst) > 0).await;
    while watched.elapsed() < Duration::from_millis(500) || warnings.0.load(Ordering::SeqCst) < 3 {
        w.serves_others().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(watched.elapsed() < SOON, "it tries no further");
    }
    // Pauses of 5 ms, 10, 20, ...: however late it was woken, it has slept for each of them before the next attempt.
    let (attempts, took) = (warnings.0.load(Ordering::SeqCst), watched.elapsed());
    let attempts_max = 1 + (took.as_millis() / 5 + 1).ilog2() + took.as_secs() as u32;
    assert!(attempts <= attempts_max.into(), "{attempts} attempts in {took:?}");
    // A socket that is full takes no descriptor more.
    let applied = w.applied.load(Ordering::SeqCst);
    for id in 1..=4 {
        slow.sends(&say(id, &"x".repeat(6_000), 10)).await;
    }
    until("its answers wait to be read", || w.applied.load(Ordering::SeqCst) == applied + 4).await;
    w.serves_others().await;
    for _ in 1..=4 {
        assert_eq!(slow.expects().await.0, Kind::Ack);
    }
    drop(fillers);
    let stream = std::os::unix::net::UnixStream::from(waiting);
    stream.set_nonblocking(true).unwrap();
    let mut peer = RawPeer { stream: UnixStream::from_std(stream).unwrap(), unread: BytesMut::new() };
    peer.sends(&hello_of(|_| ())).await;
    assert_eq!(peer.expects().await.0, Kind::Welcome);
    println!("served after the shortage");
}

#[tokio::test]
async fn trace_context_that_cannot_be_read_is_ignored_and_counted() {
    let w = World::new(Limits::default()).await;
    let mut peer = w.welcomed().await;
    let good: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = |id: u64, fields: &[(u16, &[u8])]| {
        let mut tlvs = Vec::new();
        for (kind, value) in fields {
            header::put_tlv(&mut tlvs, *kind, value);
        }
        let header =
            RequestHeader { flags: 0, id, floor: 1, method: SAY.0, version: SAY.1, remaining_ms: 60_000, credit: None };
        frame_of(|out| {
            header::put_request_with(out, &header, &tlvs);
            out.extend_from_slice(&say(id, "a", 1)[4 + header::REQUEST_BYTES..]);
        })
    };
    let (parent, state) = (header::TLV_TRACEPARENT, header::TLV_TRACESTATE);
    type Fields<'a> = &'a [(u16, &'a [u8])];
    let cases: [(Fields<'_>, u64); 6] = [
        (&[(parent, good)], 0),
        (&[(parent, good), (state, b"a=b"), (900, b"?")], 0),
        (&[(parent, b"")], 1),
        (&[(parent, &[0xff; 55])], 2),
        (&[(state, b"a=b")], 3),
        (&[(parent, good), (state, &[b'a'; 600])], 4),
    ];
    for (id, (fields, bad)) in (1..).zip(cases) {
        peer.sends(&traced(id, fields)).await;
        assert_eq!(peer.expects().await.0, Kind::Ack, "a request is served, whatever trace it claims: {fields:?}");
        assert_eq!(w.server.counters().bad_traces, bad, "{fields:?}");
    }
}
