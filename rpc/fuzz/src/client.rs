//! The client's half of a lane against a server that says anything, over connections that fail at any byte.
//!
//! Checked after every step: no panic; a call past its deadline has its outcome, and who waited was woken; a request
//! that was written whole is *not delivered* only by the server's word; once everybody has gone nothing is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rpc::session::client::{ClientLane, LaneIdentity, Next, Outcome, Submit};
use rpc::wire::frame::{Cut, cut};
use rpc::wire::header::{self, Kind};
use rpc::wire::hello::ServiceInfo;
use rpc::{Incarnation, Limits, NotDelivered, PeerId};

use super::choices::Choices;
use super::frames;

const TICK: Duration = Duration::from_millis(1);

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Call {
    deadline: Instant,
    stream: bool,
    state: State,
    /// Its frame was taken whole by the kernel.
    written: bool,
    /// The server has said something from which *not delivered* may follow.
    word: bool,
    woken: Arc<Flag>,
    polled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Awaited,
    Doubted,
    Streaming,
}

struct Play {
    now: Instant,
    lane: ClientLane,
    connected: bool,
    highest: u64,
    calls: BTreeMap<u64, Call>,
    writing: BytesMut,
    /// Requests of the claim that is being written, and where in it their frames end.
    ends: Vec<(usize, u64)>,
    taken: usize,
}

pub(super) fn limits() -> Limits {
    Limits {
        frame_bytes_max: 600,
        window: 6,
        parked_max: 3,
        queued_bytes_max: 900,
        streams_max: 2,
        stream_items: 3,
        stream_bytes: 100,
        ..Limits::default()
    }
}

pub(super) fn lane() -> ClientLane {
    let identity = LaneIdentity { peer: PeerId([1; 16]), incarnation: Incarnation(1), lane: 0 };
    ClientLane::new(identity, ServiceInfo { name: "fuzz", version: 1, methods: &[] }, limits())
}

pub fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let mut play = Play {
        now: Instant::now(),
        lane: lane(),
        connected: false,
        highest: 0,
        calls: BTreeMap::new(),
        writing: BytesMut::new(),
        ends: Vec::new(),
        taken: 0,
    };
    while !choices.is_empty() {
        play.step(&mut choices);
        play.wake();
    }
    play.end();
}

impl Play {
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(32) {
            0..=5 => self.submit(choices),
            6 => {
                if let Some(id) = self.pick(choices) {
                    self.leave(id);
                }
            }
            7..=9 => {
                if let Some(id) = self.pick(choices) {
                    self.poll(id);
                }
            }
            10 => {
                let timeout = Duration::from_millis(u64::from(choices.byte()));
                let doubt = self.pick(choices).filter(|id| self.calls[id].state == State::Doubted);
                if let Some((id, call)) = doubt.and_then(|id| Some((id, self.calls.get_mut(&id)?))) {
                    (call.deadline, call.state, call.polled) = (self.now + timeout, State::Awaited, false);
                    self.lane.resolve(id, call.deadline);
                }
            }
            11 | 12 => self.pass(Duration::from_micros(u64::from(choices.u16()) * 4)),
            13 | 14 => {
                if self.connected {
                    self.lose();
                } else {
                    self.connected = true;
                    self.lane.connected();
                }
            }
            15 if !self.connected => self.lane.unreachable(&NotDelivered::ConnectionLost),
            16 if choices.byte() == 0 => {
                if self.connected {
                    self.lose();
                }
                self.lane.close_all();
            }
            17 => self.lane.reopen(),
            18..=21 => self.write(choices),
            _ => self.server_says(choices),
        }
    }

    fn submit(&mut self, choices: &mut Choices<'_>) {
        let shape = choices.byte();
        let body = vec![shape; usize::from(shape) * 3];
        let (deadline, stream) = (self.now + Duration::from_millis(u64::from(choices.byte())), shape & 7 == 7);
        let request = Submit { method: u16::from(shape), version: 1, body: &body, deadline, stream, tlvs: &[] };
        match self.lane.submit(request) {
            Ok(id) => {
                assert_eq!(id, self.highest + 1, "ids are given in sequence");
                self.highest = id;
                let woken = Arc::new(Flag(AtomicBool::new(false)));
                let state = State::Awaited;
                let call = Call { deadline, stream, state, written: false, word: false, woken, polled: false };
                self.calls.insert(id, call);
            }
            Err(_) => self.lane.wait_for_room(deadline, Waker::noop()),
        }
    }

    fn pick(&self, choices: &mut Choices<'_>) -> Option<u64> {
        let at = usize::from(choices.byte()).checked_rem(self.calls.len())?;
        self.calls.keys().nth(at).copied()
    }

    /// The task that holds the call goes.
    fn leave(&mut self, id: u64) {
        match self.calls.remove(&id).map(|call| call.state) {
            Some(State::Awaited) => {
                self.lane.abandon(id);
                self.lane.drop_stream(id);
            }
            Some(State::Doubted) => self.lane.release(id),
            Some(State::Streaming) => self.lane.drop_stream(id),
            None => {}
        }
    }

    fn poll(&mut self, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let waker = Waker::from(Arc::clone(&call.woken));
        let mut cx = Context::from_waker(&waker);
        if call.state == State::Streaming {
            if let Poll::Ready(Err(_)) = self.lane.poll_item(id, &mut cx) {
                self.leave(id);
            }
            return;
        }
        if call.state != State::Awaited {
            return;
        }
        match self.lane.poll_outcome(id, &mut cx) {
            Poll::Pending => {
                call.polled = true;
                call.woken.0.store(false, Ordering::Relaxed);
            }
            Poll::Ready(outcome) => {
                assert!(!call.polled || call.woken.0.load(Ordering::Relaxed), "who waited for id {id} was not woken");
                match outcome {
                    Outcome::NotDelivered(why) => {
                        assert!(!call.written || call.word, "id {id} was written, and called not delivered: {why}");
                        self.calls.remove(&id);
                    }
                    Outcome::Unknown(..) => call.state = State::Doubted,
                    Outcome::Ack(_) if call.stream => call.state = State::Streaming,
                    Outcome::Ack(_) | Outcome::Rejected(_) => drop(self.calls.remove(&id)),
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.lane.handle_timeout(self.now);
        assert!(self.lane.poll_deadline().is_none_or(|due| due > self.now), "a timer that is due stays due");
        self.wake();
        let late = |call: &Call| call.state == State::Awaited && call.deadline + TICK <= self.now;
        let ids: Vec<u64> = self.calls.iter().filter(|(_, call)| late(call)).map(|(id, _)| *id).collect();
        for id in ids {
            self.poll(id);
            let open = self.calls.get(&id).is_some_and(|call| call.state == State::Awaited);
            assert!(!open, "call {id} has no outcome at its deadline");
        }
    }

    fn write(&mut self, choices: &mut Choices<'_>) {
        if !self.connected {
            return;
        }
        if self.writing.is_empty() && self.lane.poll_transmit(self.now, &mut self.writing) {
            let (mut at, mut rest) = (0, &self.writing[..]);
            self.taken = 0;
            while let Cut::Frame { frame, consumed } = cut(rest, usize::MAX) {
                let frame = header::parse(frame).expect("a client writes frames").expect("of kinds that are known");
                at += consumed;
                rest = &rest[consumed..];
                if frame.kind == Kind::Request {
                    assert!(frame.id >= frame.floor && frame.id <= self.highest);
                    self.ends.push((at, frame.id));
                }
            }
            assert!(rest.is_empty(), "a claim holds whole frames");
        }
        let count = self.writing.len().min(usize::from(choices.byte()) * 2);
        let _ = self.writing.split_to(count);
        self.taken += count;
        self.lane.transmitted(count);
        for (_, id) in self.ends.extract_if(.., |(end, _)| *end <= self.taken) {
            if let Some(call) = self.calls.get_mut(&id) {
                call.written = true;
            }
        }
    }

    fn server_says(&mut self, choices: &mut Choices<'_>) {
        if !self.connected {
            return;
        }
        let bytes = frames::of_server(choices, self.highest, self.lane.epoch()).bytes();
        if let Ok(Some(frame)) = header::parse(&bytes) {
            let of_all = matches!(frame.kind, Kind::Goodbye | Kind::Drain);
            if of_all || matches!(frame.kind, Kind::Nack | Kind::Resolution) {
                let told = self.calls.iter_mut().filter(|(id, _)| of_all || **id == frame.id);
                told.for_each(|(_, call)| call.word = true);
            }
        }
        match self.lane.handle_frame(&bytes) {
            Ok(Next::Close) | Err(_) => self.lose(),
            Ok(_) => {}
        }
    }

    fn lose(&mut self) {
        self.connected = false;
        self.writing.clear();
        self.ends.clear();
        self.lane.disconnected();
    }

    fn wake(&mut self) {
        let mut wakers = Vec::new();
        self.lane.take_wakers(&mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Everybody goes: nothing is open, nothing waits to be sent, nobody dials.
    fn end(mut self) {
        for id in self.calls.keys().copied().collect::<Vec<_>>() {
            self.leave(id);
        }
        self.wake();
        assert!(!self.lane.has_open(), "something is left of calls that nobody holds");
        assert!(!self.lane.wants_connection());
    }
}
