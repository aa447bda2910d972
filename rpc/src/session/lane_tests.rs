//! Both halves of a lane, played frame by frame: what the simulator has found, in its shortest form.
//!
//! Long, because each play is told frame by frame, and all of them on the one stage below.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::client::put_frame;
use super::client::{ClientLane, LaneIdentity, Outcome, Submit, SubmitError};
use super::payload::Payload;
use super::server::{Reply, ServerLane, Taken};
use crate::id::{Incarnation, PeerId};
use crate::limits::{LARGE_BODY_BYTES, Limits, PARKED_IDS, RELAX_AFTER};
use crate::outcome::{Cause, NotDelivered, Stage};
use crate::wire::frame::{Cut, cut};
use crate::wire::header::Kind;
use crate::wire::hello::{Hello, ServiceInfo};
use crate::wire::outgoing::{Outgoing, SLICES_MAX};

const SECOND: Duration = Duration::from_secs(1);

/// A client, its server, and one connection at a time.
struct Play {
    now: Instant,
    client: ClientLane,
    server: ServerLane,
    life: u64,
    epoch: u64,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn limits() -> Limits {
    Limits { window: 4, parked_max: 2, queued_bytes_max: 200, streams_max: 1, ..Limits::default() }
}

fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut frames = Vec::new();
    while let Cut::Frame { frame, consumed } = cut(rest, usize::MAX) {
        frames.push(frame.to_vec());
        rest = &rest[consumed..];
    }
    assert!(rest.is_empty(), "a claim holds whole frames");
    frames
}

impl Play {
    fn new() -> Self {
        Self::within(limits(), limits())
    }

    fn within(client: Limits, server: Limits) -> Self {
        let identity = LaneIdentity { peer: PeerId([1; 16]), incarnation: Incarnation(1), lane: 0 };
        let service = ServiceInfo { name: "play", version: 1, methods: &[] };
        let client = ClientLane::new(identity, service, client);
        Self { now: Instant::now(), client, server: ServerLane::new(server, 1), life: 1, epoch: 0 }
    }

    /// The client dials; nothing has been written yet.
    fn dials(&mut self) {
        self.client.connected();
        self.epoch = self.client.epoch();
    }

    /// The client dials and reads the Welcome.
    fn connects(&mut self) {
        self.dials();
        self.client_writes();
        self.server_writes();
    }

    fn loses_connection(&mut self) {
        self.client.disconnected();
        self.server.detach(self.epoch, self.now);
    }

    /// Another server listens there now.
    fn restarts_server(&mut self) {
        self.life += 1;
        self.server = ServerLane::new(limits(), self.epoch + 1);
    }

    fn calls(&mut self, stream: bool, timeout: Duration) -> u64 {
        let deadline = self.now + timeout;
        let request = Submit { method: 1, version: 1, body: b"request", deadline, stream, tlvs: &[] };
        self.client.submit(request).unwrap()
    }

    /// What the client has to say, taken by the kernel and lost there.
    fn client_writes_into_the_void(&mut self) -> Vec<Vec<u8>> {
        let mut written = BytesMut::new();
        self.client.poll_transmit(self.now, &mut written);
        self.client.transmitted(written.len());
        frames(&written)
    }

    /// All that the client has to say reaches the server; the ids that are handed to handlers.
    fn client_writes(&mut self) -> Vec<u64> {
        let frames = self.client_writes_into_the_void();
        self.server_reads(&frames)
    }

    fn server_reads(&mut self, frames: &[Vec<u8>]) -> Vec<u64> {
        let mut taken = Vec::new();
        for frame in frames {
            let header = crate::wire::header::parse(frame).unwrap().unwrap();
            if let Ok(hello) = Hello::parse(header.body) {
                let server = (PeerId([9; 16]), Incarnation(self.life));
                self.server.attach(hello.epoch, hello.window, hello.frame_bytes_max, server).unwrap();
            } else if let Taken::Call(call) = self.server.handle_frame(self.now, self.epoch, frame).unwrap() {
                taken.push(call.id);
            }
        }
        taken
    }

    /// All that the server has to say reaches the client.
    fn server_writes(&mut self) {
        let mut written = BytesMut::new();
        self.server.poll_transmit(self.epoch, &mut written);
        for frame in frames(&written) {
            self.client.handle_frame(&frame).unwrap();
        }
    }

    fn passes(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(self.now);
        self.server.handle_timeout(self.now);
    }

    fn outcome(&mut self, id: u64) -> Option<Outcome> {
        match self.client.poll_outcome(id, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    /// A thousand calls at once, all answered and all forgotten but for the last one of them.
    fn bursts(&mut self) {
        let ids: Vec<u64> = (0..1_000).map(|_| self.calls(false, SECOND)).collect();
        assert_eq!(self.client_writes(), ids);
        ids.iter().for_each(|id| self.applies(*id));
        self.server_writes();
        ids.iter().for_each(|id| assert_eq!(self.outcome(*id), acked()));
        let last = self.calls(false, SECOND);
        assert_eq!(self.client_writes(), [last]);
        self.applies(last);
        self.server_writes();
        assert_eq!(self.outcome(last), acked());
    }

    fn resolves(&mut self, id: u64) {
        self.client.resolve(id, self.now + SECOND);
    }

    fn applies(&mut self, id: u64) {
        self.server.answer(id, Reply::Ack(Payload::copy(b"done")));
    }
}

fn acked() -> Option<Outcome> {
    Some(Outcome::Ack(Payload::copy(b"done")))
}

fn unknown(stage: Stage, cause: Cause) -> Option<Outcome> {
    Some(Outcome::Unknown(stage, cause))
}

fn never_seen() -> Option<Outcome> {
    Some(Outcome::NotDelivered(NotDelivered::NeverSeen))
}

#[test]
fn doubt_that_nobody_had_looked_at_when_its_server_died_cannot_be_resolved() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(false, SECOND);
    assert_eq!(play.client_writes(), [id]);
    play.applies(id);
    play.loses_connection();
    play.passes(2 * SECOND);
    // Its outcome is there, its caller's task has not run; the new server never saw the request.
    play.restarts_server();
    play.connects();
    assert_eq!(play.outcome(id), unknown(Stage::Written, Cause::Deadline));
    play.resolves(id);
    assert_eq!(play.outcome(id), unknown(Stage::Written, Cause::PeerRestarted));
}

#[test]
fn handler_of_a_doubt_given_up_runs_to_its_deadline_and_no_further() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(false, SECOND);
    play.client_writes();
    let stopped = Arc::new(Flag::default());
    play.server.on_cancel(id, &Waker::from(Arc::clone(&stopped)));
    play.client.handle_timeout(play.now + SECOND);
    assert_eq!(play.outcome(id), unknown(Stage::Written, Cause::Deadline));
    play.client.release(id);
    let next = play.calls(false, 3 * SECOND);
    assert_eq!(play.client_writes(), [next]);
    assert!(play.server.is_running(id), "the floor has passed it; that is no cancel");
    play.passes(SECOND);
    assert!(!play.server.is_running(id));
    let mut wakers = Vec::new();
    play.server.take_wakers(&mut wakers);
    wakers.into_iter().for_each(Waker::wake);
    assert!(stopped.0.load(Ordering::Relaxed), "its deadline has come");
}

#[test]
fn never_seen_far_above_the_servers_floor_refuses_a_repeat() {
    let mut play = Play::new();
    play.connects();
    // Four ids that the server never hears of, and which the client does not hold any more.
    for _ in 0..4 {
        let id = play.calls(false, SECOND);
        play.client_writes_into_the_void();
        play.client.abandon(id);
    }
    let id = play.calls(false, SECOND);
    let lost = play.client_writes_into_the_void();
    play.loses_connection();
    play.connects();
    play.client_writes();
    play.server_writes();
    assert_eq!(play.outcome(id), never_seen());
    assert!(play.server_reads(&lost).is_empty(), "it was told that no handler will see it");
}

#[test]
fn server_that_comes_back_with_a_smaller_window_is_sent_no_id_beyond_it() {
    let mut play = Play::new();
    play.connects();
    for _ in 0..4 {
        play.calls(false, SECOND);
    }
    play.client_writes();
    play.loses_connection();
    play.restarts_server();
    play.server = ServerLane::new(Limits { window: 2, ..limits() }, play.epoch + 1);
    play.connects();
    let deadline = play.now + SECOND;
    let request = Submit { method: 1, version: 1, body: b"request", deadline, stream: false, tlvs: &[] };
    assert_eq!(play.client.submit(request), Err(SubmitError::Full), "four are open, and two may be");
    for id in 1..=3 {
        assert_eq!(play.outcome(id), unknown(Stage::Written, Cause::PeerRestarted));
        play.client.release(id);
    }
    let id = play.client.submit(request).unwrap();
    assert_eq!(play.client_writes(), [id]);
}

#[test]
fn answer_to_a_request_that_was_not_sent_is_none() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(false, SECOND);
    let mut early = BytesMut::new();
    put_frame(&mut early, Kind::Ack, 0, id, b"early");
    for frame in frames(&early) {
        play.client.handle_frame(&frame).unwrap();
    }
    assert_eq!(play.outcome(id), None);
    assert_eq!(play.client_writes(), [id], "it waits to be sent as before");
    play.applies(id);
    play.server_writes();
    assert_eq!(play.outcome(id), acked());
    assert!(!play.client.wants_connection());
}

#[test]
fn id_that_is_no_longer_parked_is_not_taken_again() {
    let mut play = Play::new();
    play.connects();
    let old = play.calls(false, 3 * SECOND);
    let frames = play.client_writes_into_the_void();
    assert_eq!(play.server_reads(&frames), [old]);
    play.applies(old);
    for _ in 0..3 {
        let id = play.calls(false, SECOND);
        play.client_writes_into_the_void();
        play.client.handle_timeout(play.now + SECOND);
        assert_eq!(play.outcome(id), unknown(Stage::Written, Cause::Deadline));
    }
    // The window is full: the oldest is parked for the next. The server hears of it after a reconnect, and of its end.
    play.calls(false, SECOND);
    play.client_writes_into_the_void();
    play.loses_connection();
    play.connects();
    play.client_writes();
    play.server_writes();
    assert_eq!(play.outcome(old), acked());
    play.client_writes();
    assert!(play.server_reads(&frames).is_empty(), "once is enough");
}

#[test]
fn doubt_of_a_stream_given_up_ends_the_stream() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(true, SECOND);
    play.client_writes();
    play.client.handle_timeout(play.now + SECOND);
    assert_eq!(play.outcome(id), unknown(Stage::Written, Cause::Deadline));
    play.applies(id);
    play.client.release(id);
    play.client_writes();
    let ready = play.server.poll_stream_ready(id, &mut Context::from_waker(Waker::noop()));
    assert!(matches!(ready, Poll::Ready(Err(_))), "nobody reads it");
    assert!(!play.client.has_open());
}

#[test]
fn call_dropped_before_the_first_welcome_is_cancelled() {
    let mut play = Play::new();
    let id = play.calls(false, SECOND);
    play.dials();
    assert_eq!(play.client_writes(), [id], "it goes right behind the Hello");
    play.client.abandon(id);
    play.client_writes();
    assert!(!play.server.is_running(id));
}

#[test]
fn doubt_asked_about_while_the_server_drains_is_resolved() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(false, SECOND);
    play.client_writes();
    play.client.handle_timeout(play.now + SECOND);
    assert_eq!(play.outcome(id), unknown(Stage::Written, Cause::Deadline));
    // The answer is lost with its connection, and a doubt that nobody asks about is not asked about on the next.
    play.applies(id);
    play.loses_connection();
    play.connects();
    play.client_writes();
    play.server.drain();
    play.server_writes();
    play.resolves(id);
    play.client_writes();
    play.server_writes();
    assert_eq!(play.outcome(id), acked());
}

#[test]
fn large_bodies_travel_uncopied_and_one_that_is_taken_back_is_skipped() {
    let mut play = Play::new();
    play.connects();
    let deadline = play.now + SECOND;
    let request = Submit { method: 1, version: 1, body: &[], deadline, stream: false, tlvs: &[] };
    let body = |n: u8| Bytes::from(vec![n; 50]);
    let first = play.client.submit_body(request, Some(body(1))).unwrap();
    let taken_back = play.client.submit_body(request, Some(body(2))).unwrap();
    let last = play.client.submit_body(request, Some(body(3))).unwrap();
    play.client.abandon(taken_back);
    let sent = play.client_writes_into_the_void();
    assert_eq!(sent.iter().map(|frame| frame.ends_with(&[2; 50])).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(play.server_reads(&sent), [first, last]);
    let answer = Bytes::from(vec![4; LARGE_BODY_BYTES]);
    play.server.answer(first, Reply::Ack(Payload::Shared(answer.clone())));
    play.server.answer(last, Reply::Ack(Payload::copy(b"done")));
    let mut frames = Outgoing::default();
    assert!(play.server.poll_frames(play.epoch, &mut frames));
    let mut slices = [std::io::IoSlice::new(&[]); SLICES_MAX];
    let count = frames.slices(&mut slices);
    assert!(
        slices[..count].iter().any(|slice| slice.as_ptr() == answer.as_ptr()),
        "the kept answer is what is written"
    );
}

#[test]
fn large_body_that_the_kernel_took_all_but_a_byte_of_is_not_delivered() {
    for (missing, expected) in [(1, Some(Outcome::NotDelivered(NotDelivered::ConnectionLost))), (0, None)] {
        let mut play = Play::new();
        play.connects();
        let request =
            Submit { method: 1, version: 1, body: &[], deadline: play.now + SECOND, stream: false, tlvs: &[] };
        let id = play.client.submit_body(request, Some(Bytes::from(vec![1; 300]))).unwrap();
        let mut written = Outgoing::default();
        play.client.poll_frames(play.now, &mut written);
        play.client.transmitted(written.len() - missing);
        play.loses_connection();
        assert_eq!(play.outcome(id), expected);
    }
}

#[test]
fn queue_of_nothing_but_voids_behind_a_stalled_write_has_room() {
    let mut play = Play::new();
    play.connects();
    let deadline = play.now + SECOND;
    let request = Submit { method: 1, version: 1, body: &[0; 200], deadline, stream: false, tlvs: &[] };
    play.client.submit(request).unwrap();
    let mut writing = BytesMut::new();
    play.client.poll_transmit(play.now, &mut writing);
    let behind = play.client.submit(request).unwrap();
    play.client.abandon(behind);
    let next = play.client.submit(request).unwrap();
    play.client.transmitted(writing.len());
    let sent = [writing.split().to_vec(), play.client_writes_into_the_void().concat()];
    assert!(sent.iter().all(|bytes| !bytes.is_empty()), "the one behind the void is sent");
    play.loses_connection();
    assert_eq!(play.outcome(next), None, "it was written, and is in doubt");
}

#[test]
fn room_for_one_wakes_one_that_waits_and_half_a_window_wakes_all() {
    let mut play = Play::new();
    let deadline = play.now + SECOND;
    let request = Submit { method: 1, version: 1, body: &[], deadline, stream: false, tlvs: &[] };
    let ids: Vec<u64> = (0..4).map(|_| play.client.submit(request).unwrap()).collect();
    assert_eq!(play.client.submit(request), Err(SubmitError::Full));
    let flags = [(); 3].map(|()| Arc::new(Flag::default()));
    for flag in &flags {
        play.client.wait_for_room(deadline, &Waker::from(Arc::clone(flag)));
    }
    let woken = |play: &mut Play| {
        let mut wakers = Vec::new();
        play.client.take_wakers(&mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        flags.each_ref().map(|flag| flag.0.load(Ordering::Relaxed))
    };
    play.client.abandon(ids[1]);
    assert_eq!(woken(&mut play), [false; 3], "the floor is where it was");
    play.client.abandon(ids[0]);
    assert_eq!(woken(&mut play), [true; 3], "two of four are free");

    let mut play = Play::new();
    let ids: Vec<u64> = (0..4).map(|_| play.client.submit(request).unwrap()).collect();
    flags.iter().for_each(|flag| flag.0.store(false, Ordering::Relaxed));
    for flag in &flags {
        play.client.wait_for_room(deadline, &Waker::from(Arc::clone(flag)));
    }
    play.client.abandon(ids[0]);
    assert_eq!(woken(&mut play), [true, false, false], "first come, first served");
}

#[test]
fn caller_that_waits_for_queue_bytes_is_woken_when_they_are_claimed() {
    let mut play = Play::new();
    let deadline = play.now + SECOND;
    let request = Submit { method: 1, version: 1, body: &[0; 200], deadline, stream: false, tlvs: &[] };
    play.client.submit(request).unwrap();
    assert_eq!(play.client.submit(request), Err(SubmitError::Full));
    let woken = Arc::new(Flag::default());
    play.client.wait_for_room(deadline, &Waker::from(Arc::clone(&woken)));
    let mut wakers = Vec::new();
    play.connects();
    play.client.take_wakers(&mut wakers);
    wakers.into_iter().for_each(Waker::wake);
    assert!(woken.0.load(Ordering::Relaxed));
    assert!(play.client.submit(request).is_ok());
}

#[test]
fn frames_that_were_all_taken_back_want_no_connection_and_leave_no_bytes() {
    let mut play = Play::new();
    let deadline = play.now + SECOND;
    let request = Submit { method: 1, version: 1, body: &[0; 200], deadline, stream: false, tlvs: &[] };
    let id = play.client.submit(request).unwrap();
    assert!(play.client.wants_connection() && play.client.wants_driver());
    play.client.abandon(id);
    assert!(!play.client.wants_connection() && !play.client.wants_driver(), "nobody waits for anything");
    assert!(play.client.submit(request).is_ok(), "its bytes are gone from the queue");
}

/// How long after the end of its connection a server still remembers the lane.
#[track_caller]
fn check_remembered(play: &mut Play, for_how_long: Option<Duration>) {
    play.client_writes();
    play.loses_connection();
    assert_eq!(play.server.expires_at().map(|at| at - play.now), for_how_long);
}

#[test]
fn lane_that_is_done_with_its_first_connection_is_forgotten_at_once() {
    let mut play = Play::new();
    play.connects();
    play.client.say_done();
    check_remembered(&mut play, Some(Duration::ZERO));
}

#[test]
fn lane_that_is_done_later_outlives_every_hello_that_may_be_unread() {
    let mut play = Play::new();
    play.connects();
    play.loses_connection();
    play.connects();
    play.client.say_done();
    check_remembered(&mut play, Some(limits().handshake_timeout));
}

#[test]
fn lane_that_comes_back_after_it_was_done_is_remembered_like_any_other() {
    let mut play = Play::new();
    play.connects();
    play.client.say_done();
    play.client_writes();
    play.loses_connection();
    play.connects();
    check_remembered(&mut play, Some(limits().lane_retention));
}

#[test]
fn lane_is_remembered_for_as_long_as_a_handshake_may_take_whatever_its_retention() {
    for says_done in [false, true] {
        let short = Limits { lane_retention: Duration::from_millis(1), ..limits() };
        let mut play = Play::within(limits(), short);
        play.connects();
        play.loses_connection();
        play.connects();
        if says_done {
            play.client.say_done();
        }
        check_remembered(&mut play, Some(limits().handshake_timeout));
    }
}

#[test]
fn lane_that_is_done_waits_for_its_handlers() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(false, SECOND);
    assert_eq!(play.client_writes(), [id]);
    // What a client of another make could do: nothing is open as it sees it.
    play.client.abandon(id);
    play.client.say_done();
    check_remembered(&mut play, None);
    play.server.answer(id, Reply::Ack(Payload::EMPTY));
    assert_eq!(play.server.expires_at(), Some(play.now));
}

#[test]
fn client_with_an_open_call_or_doubt_does_not_say_that_it_is_done() {
    let mut play = Play::new();
    play.connects();
    let _open = play.calls(false, SECOND);
    play.client.say_done();
    check_remembered(&mut play, None);
    play.server.answer(1, Reply::Ack(Payload::EMPTY));
    assert_eq!(play.server.expires_at().map(|at| at - play.now), Some(limits().lane_retention));
}

#[test]
fn large_answer_is_let_go_by_the_server_when_its_client_has_it() {
    let mut play = Play::new();
    play.connects();
    for bytes in [LARGE_BODY_BYTES, LARGE_BODY_BYTES - 1] {
        let id = play.calls(false, SECOND);
        assert_eq!(play.client_writes(), [id]);
        play.server.answer(id, Reply::Ack(Payload::copy(&vec![7; bytes])));
        play.server_writes();
        assert!(play.server.held_bytes() >= bytes, "until its client has it, an answer is kept");
        assert!(matches!(play.outcome(id), Some(Outcome::Ack(_))));
        let said = play.client_writes_into_the_void();
        assert_eq!(said.len(), usize::from(bytes >= LARGE_BODY_BYTES), "a small one may wait for the next request");
        play.server_reads(&said);
        assert_eq!(play.server.held_bytes() < LARGE_BODY_BYTES / 2, bytes >= LARGE_BODY_BYTES);
    }
}

#[test]
fn next_request_says_that_a_large_answer_was_taken_and_if_it_is_taken_back_the_client_does() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(false, SECOND);
    play.client_writes();
    let mut last = id;
    for taken_back in [false, true, false] {
        play.server.answer(last, Reply::Ack(Payload::copy(&[7; LARGE_BODY_BYTES])));
        play.server_writes();
        assert!(matches!(play.outcome(last), Some(Outcome::Ack(_))));
        let next = play.calls(false, SECOND);
        let said = if taken_back {
            play.client.abandon(next);
            [Kind::Park]
        } else {
            [Kind::Request]
        };
        let frames = play.client_writes_into_the_void();
        assert_eq!(told(&frames).iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), said);
        play.server_reads(&frames);
        assert!(play.server.held_bytes() < LARGE_BODY_BYTES / 2);
        last = next;
        if taken_back {
            last = play.calls(false, SECOND);
            play.client_writes();
        }
    }
}

#[test]
fn large_answers_behind_a_call_that_takes_long_are_let_go_before_the_server_has_no_room_for_more() {
    let limits = Limits { answer_bytes_max: 16 * LARGE_BODY_BYTES, ..Limits::default() };
    let mut play = Play::within(limits.clone(), limits);
    play.connects();
    let slow = play.calls(false, SECOND);
    assert_eq!(play.client_writes(), [slow]);
    for n in 0..100 {
        let id = play.calls(false, SECOND);
        assert_eq!(play.client_writes(), [id], "call {n} is taken up");
        play.server.answer(id, Reply::Ack(Payload::copy(&[7; LARGE_BODY_BYTES])));
        play.server_writes();
        assert!(matches!(play.outcome(id), Some(Outcome::Ack(_))));
        assert!(play.server.held_bytes() < 8 * LARGE_BODY_BYTES, "{} after {n}", play.server.held_bytes());
    }
    play.applies(slow);
    play.server_writes();
    assert!(matches!(play.outcome(slow), Some(Outcome::Ack(_))), "it was parked, and is answered as ever");
    play.client_writes();
    assert!(play.server.held_bytes() < LARGE_BODY_BYTES);
}

#[test]
fn large_answer_behind_a_slower_call_is_let_go_when_that_one_ends() {
    let mut play = Play::within(Limits::default(), Limits::default());
    play.connects();
    let (slow, large) = (play.calls(false, SECOND), play.calls(false, SECOND));
    play.client_writes();
    play.server.answer(large, Reply::Ack(Payload::copy(&[7; LARGE_BODY_BYTES])));
    play.server_writes();
    assert!(matches!(play.outcome(large), Some(Outcome::Ack(_))));
    assert_eq!(told(&play.client_writes_into_the_void()), [], "it would say nothing that frees it");
    play.applies(slow);
    play.server_writes();
    assert!(matches!(play.outcome(slow), Some(Outcome::Ack(_))));
    let frames = play.client_writes_into_the_void();
    assert_eq!(told(&frames), [(Kind::Park, large + 1)]);
    play.server_reads(&frames);
    assert!(play.server.held_bytes() < LARGE_BODY_BYTES);
}

#[test]
fn ping_never_says_a_floor_whose_park_the_server_has_not_read() {
    for draining in [false, true] {
        let mut play = Play::new();
        play.connects();
        let ids: Vec<u64> = (0..4).map(|_| play.calls(false, 3 * SECOND)).collect();
        assert_eq!(play.client_writes(), ids);
        for id in &ids[1..] {
            play.applies(*id);
            play.server_writes();
            assert!(matches!(play.outcome(*id), Some(Outcome::Ack(_))));
        }
        // The window is full: the first one is parked for it.
        play.calls(false, 3 * SECOND);
        if draining {
            play.server.drain();
            play.server_writes();
        }
        play.client.ping();
        play.client_writes();
        play.applies(ids[0]);
        play.server_writes();
        assert!(matches!(play.outcome(ids[0]), Some(Outcome::Ack(_))), "draining: {draining}");
    }
}

#[test]
fn large_answer_that_comes_after_its_deadline_is_let_go_when_its_doubt_is() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(false, SECOND);
    play.client_writes();
    play.server.answer(id, Reply::Ack(Payload::copy(&[7; LARGE_BODY_BYTES])));
    play.client.handle_timeout(play.now + SECOND);
    play.server_writes();
    assert!(matches!(play.outcome(id), Some(Outcome::Unknown(..))));
    play.client.release(id);
    play.client_writes();
    assert!(play.server.held_bytes() < LARGE_BODY_BYTES);
}

#[test]
fn large_answer_whose_caller_has_gone_is_let_go_wherever_it_was_then() {
    for here in [true, false] {
        let mut play = Play::within(Limits::default(), Limits::default());
        play.connects();
        let id = play.calls(false, SECOND);
        play.client_writes();
        play.server.answer(id, Reply::Ack(Payload::copy(&[7; LARGE_BODY_BYTES])));
        if here {
            play.server_writes();
            play.client.abandon(id);
        } else {
            play.client.abandon(id);
            play.client_writes();
            play.server_writes();
        }
        play.client_writes();
        assert!(play.server.held_bytes() < LARGE_BODY_BYTES, "here: {here}");
    }
}

/// The frames of a claim, by kind and id.
fn told(frames: &[Vec<u8>]) -> Vec<(Kind, u64)> {
    frames.iter().map(|frame| crate::wire::header::parse(frame).unwrap().unwrap()).map(|f| (f.kind, f.id)).collect()
}

#[test]
fn pings_of_a_peer_that_does_not_read_leave_one_pong_the_last_ones() {
    let ping = |nonce: u64, floor: u64| {
        let mut out = BytesMut::new();
        crate::wire::header::put_ping(&mut out, nonce, floor);
        out
    };
    let mut play = Play::new();
    play.connects();
    for nonce in 1..=1_000 {
        play.server.handle_frame(play.now, play.epoch, &ping(nonce, 1)).unwrap();
        play.client.handle_frame(&ping(nonce, 0)).unwrap();
    }
    assert!(play.server.wants_transmit(play.epoch) && play.client.wants_transmit());
    let mut written = BytesMut::new();
    play.server.poll_transmit(play.epoch, &mut written);
    assert_eq!(told(&frames(&written)), [(Kind::Pong, 1_000)]);
    assert_eq!(told(&play.client_writes_into_the_void()), [(Kind::Pong, 1_000)]);
    assert!(!play.server.wants_transmit(play.epoch) && !play.client.wants_transmit());
    // It is the connection's own: the next one has not asked.
    play.server.handle_frame(play.now, play.epoch, &ping(7, 1)).unwrap();
    play.client.handle_frame(&ping(7, 0)).unwrap();
    play.loses_connection();
    play.dials();
    assert_eq!(told(&play.client_writes_into_the_void())[0].0, Kind::Hello);
    assert!(!play.client.wants_transmit());
}

#[test]
fn large_answer_that_is_asked_for_again_is_not_copied() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(false, SECOND);
    play.client_writes();
    let body = Bytes::from(vec![7; LARGE_BODY_BYTES]);
    play.server.answer(id, Reply::Ack(Payload::Shared(body.clone())));
    let mut resolve = BytesMut::new();
    crate::wire::header::put_common(&mut resolve, Kind::Resolve, 0, 0, id);
    let mut out = Outgoing::default();
    play.server.handle_frame(play.now, play.epoch, &resolve).unwrap();
    play.server.poll_frames(play.epoch, &mut out);
    let mut slices = [std::io::IoSlice::new(&[]); SLICES_MAX];
    let count = out.slices(&mut slices);
    let copies = slices[..count].iter().filter(|slice| slice.as_ptr() == body.as_ptr()).count();
    assert_eq!(copies, 2, "the ack and its resolution are the kept bytes themselves");
}

#[test]
fn queued_requests_that_do_not_fit_the_window_of_another_server_are_taken_back_and_it_is_kept_to() {
    let mut play = Play::new();
    play.connects();
    let held = play.calls(false, SECOND);
    assert_eq!(play.client_writes(), [held]);
    play.loses_connection();
    let queued: Vec<u64> = (0..3).map(|_| play.calls(false, SECOND)).collect();
    // Who listens there now allows two ids, and has never heard of the first.
    play.life += 1;
    play.server = ServerLane::new(Limits { window: 2, ..limits() }, play.epoch + 1);
    play.connects();
    assert_eq!(play.client_writes(), [queued[0]], "beside the one in doubt there was room for one");
    assert_eq!(play.outcome(queued[0]), None);
    for id in &queued[1..] {
        assert_eq!(play.outcome(*id), Some(Outcome::NotDelivered(NotDelivered::WindowFull { window: 2 })));
    }
    assert_eq!(play.outcome(held), unknown(Stage::Written, Cause::PeerRestarted));
}

#[test]
fn call_that_is_dropped_before_it_asks_what_became_of_it_cancels_its_handler() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(false, SECOND);
    assert_eq!(play.client_writes(), [id]);
    play.loses_connection();
    play.client.unreachable(&NotDelivered::ConnectionLost);
    assert_eq!(play.outcome(id), unknown(Stage::Written, Cause::ConnectionLost));
    // It pauses before it asks; somebody else has connected.
    play.connects();
    assert!(play.server.is_running(id));
    play.client.abandon(id);
    play.client_writes();
    assert!(!play.server.is_running(id));
}

#[test]
fn lane_that_is_idle_after_a_burst_gives_its_memory_back_and_looks_no_more() {
    let mut play = Play::within(Limits::default(), Limits::default());
    play.connects();
    play.bursts();
    let held = |play: &Play| (play.client.held_bytes(), play.server.held_bytes());
    let burst = held(&play);
    assert!(burst.0 > 50_000 && burst.1 > 50_000, "what is kept is counted, used or not: {burst:?}");
    // While such bursts go on, nothing is given back and allocated again.
    for _ in 0..4 {
        play.passes(RELAX_AFTER);
        assert_eq!(held(&play), burst);
        play.bursts();
    }
    for _ in 0..4 {
        play.passes(RELAX_AFTER);
    }
    let idle = held(&play);
    assert!(idle.0 <= 2_048 && idle.1 <= 2_048, "{idle:?}");
    assert_eq!((play.client.poll_deadline(), play.server.poll_deadline()), (None, None));
}

#[test]
fn lane_that_loses_its_connection_after_a_burst_is_remembered_in_little_memory() {
    let mut play = Play::within(Limits::default(), Limits::default());
    play.connects();
    play.bursts();
    play.loses_connection();
    assert!(play.server.held_bytes() <= 2_048, "{}", play.server.held_bytes());
}

#[test]
fn lane_that_loses_its_connection_while_handlers_run_that_nobody_waits_for_is_remembered_in_little_memory() {
    let mut play = Play::within(Limits::default(), Limits::default());
    play.connects();
    let ids: Vec<u64> = (0..1_000).map(|_| play.calls(false, SECOND)).collect();
    assert_eq!(play.client_writes(), ids);
    ids.iter().for_each(|id| play.server.on_cancel(*id, Waker::noop()));
    // Their client has given them up, and says so with its next call; the clock of the server is behind.
    play.client.handle_timeout(play.now + SECOND);
    for id in &ids {
        assert!(play.outcome(*id).is_some());
        play.client.release(*id);
    }
    let last = play.calls(false, 3 * SECOND);
    assert_eq!(play.client_writes(), [last]);
    play.applies(last);
    assert_eq!(play.server.running(), ids.len());
    // Half of them end before the connection is lost, a quarter afterwards, and the others are stopped.
    let (before, rest) = ids.split_at(500);
    let (after, stopped) = rest.split_at(250);
    before.iter().for_each(|id| play.applies(*id));
    play.loses_connection();
    assert!(play.server.held_bytes() < 64 * 500 + 2_048, "{}: room for those that are left", play.server.held_bytes());
    after.iter().for_each(|id| play.applies(*id));
    play.server.handle_timeout(play.now + SECOND);
    let mut wakers = Vec::new();
    play.server.take_wakers(&mut wakers);
    assert_eq!(wakers.len(), stopped.len());
    stopped.iter().for_each(|id| play.applies(*id));
    assert_eq!(play.server.running(), 0);
    assert!(play.server.held_bytes() <= 4_096, "{}", play.server.held_bytes());
}

#[test]
fn last_handler_of_a_lost_lane_that_nobody_waits_for_leaves_little_memory() {
    let mut play = Play::within(Limits::default(), Limits::default());
    play.connects();
    let ids: Vec<u64> = (0..1_000).map(|_| play.calls(false, SECOND)).collect();
    assert_eq!(play.client_writes(), ids);
    play.client.handle_timeout(play.now + SECOND);
    ids.iter().for_each(|id| assert!(play.outcome(*id).is_some()));
    ids.iter().for_each(|id| play.client.release(*id));
    let last = play.calls(false, 3 * SECOND);
    assert_eq!(play.client_writes(), [last]);
    play.applies(last);
    play.loses_connection();
    ids.iter().for_each(|id| play.applies(*id));
    assert!(play.server.held_bytes() <= 2_048, "{}", play.server.held_bytes());
}

#[test]
fn items_that_wait_for_their_reader_are_counted_until_they_are_taken() {
    const BYTES: usize = 10_000;
    let mut play = Play::within(Limits::default(), Limits::default());
    play.connects();
    let id = play.calls(true, SECOND);
    play.client_writes();
    let before = play.client.held_bytes();
    let mut item = BytesMut::new();
    crate::wire::header::put_common(&mut item, Kind::Item, 0, 0, id);
    item.extend_from_slice(&[7; BYTES]);
    (0..20).for_each(|_| assert!(play.client.handle_frame(&item).is_ok()));
    assert!(play.client.held_bytes() >= before + 20 * BYTES);
    for _ in 0..20 {
        assert!(play.client.poll_item(id, &mut Context::from_waker(Waker::noop())).is_ready());
    }
    assert!(play.client.held_bytes() < before + BYTES, "{}", play.client.held_bytes());
    play.client.drop_stream(id);
    assert!(play.client.held_bytes() < before + 64, "{}", play.client.held_bytes());
}

#[test]
fn server_that_parks_nothing_itself_runs_the_handlers_of_all_ids_that_every_server_lets_a_client_park() {
    let client = Limits { window: 4, ..Limits::default() };
    let mut play = Play::within(client.clone(), Limits { parked_max: 0, ..client });
    play.connects();
    let calls = 4 + PARKED_IDS;
    for _ in 0..calls {
        let id = play.calls(false, SECOND);
        assert_eq!(play.client_writes(), [id], "none is refused");
    }
    assert_eq!(play.server.running(), calls);
}
