//! The server's half of a lane against a client that says anything, on connections old and new.
//!
//! Checked after every step: no panic; what is remembered stays within the limits; permits are as many as handlers;
//! an id is shown to a handler once, never below the floor, and answered in one way only; a handler past its deadline
//! is stopped. The client's own mischief (an id let go and used again, a question about an id that it must not send)
//! hurts only itself, and takes these ids out of the last sentences.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rpc::session::payload::Payload;
use rpc::session::server::{Reply, ServerLane, Taken};
use rpc::wire::frame::{Cut, cut};
use rpc::wire::header::{self, EndCode, FailedCode, GoodbyeCode, Kind, NackCode, ResolutionCode, split_u32};
use rpc::{Incarnation, Limits, PeerId};

use super::choices::Choices;
use super::frames;

const TICK: Duration = Duration::from_millis(1);

pub(super) fn limits() -> Limits {
    Limits {
        frame_bytes_max: 600,
        window: 6,
        parked_max: 3,
        answer_bytes_max: 400,
        request_bytes_max: 900,
        out_bytes_max: 1500,
        streams_max: 2,
        deadline_max: Duration::from_millis(200),
        ..Limits::default()
    }
}

struct Play {
    limits: Limits,
    now: Instant,
    lane: ServerLane,
    epoch: u64,
    live: bool,
    /// Handlers that have not ended, and their deadlines.
    handlers: Vec<(u64, Instant)>,
    highest: u64,
    floor: u64,
    taken: BTreeSet<u64>,
    answers: BTreeMap<u64, (u32, Vec<u8>)>,
    forgotten: BTreeSet<u64>,
    /// Ids that the client asked about although it could not have sent them.
    excused: BTreeSet<u64>,
    /// It has listed ids at will: what it let go it may have used again.
    parks: bool,
}

pub fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let mut play = Play::new(u64::from(choices.below(4)) + 1);
    while !choices.is_empty() {
        play.step(&mut choices);
        play.check();
    }
    play.end();
}

impl Play {
    fn new(epoch: u64) -> Self {
        let limits = limits();
        let mut play = Self {
            now: Instant::now(),
            lane: ServerLane::new(limits.clone(), epoch),
            limits,
            epoch: epoch - 1,
            live: false,
            handlers: Vec::new(),
            highest: 0,
            floor: 1,
            taken: BTreeSet::new(),
            answers: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            excused: BTreeSet::new(),
            parks: false,
        };
        play.attach(epoch, 1024, 1 << 20);
        play
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(32) {
            0 => {
                let epoch = choices.near(self.epoch.saturating_add(1));
                self.attach(epoch, u32::from(choices.byte()), u32::from(choices.u16()));
            }
            1 => self.detach(self.epoch),
            2 => self.detach(choices.near(self.epoch)),
            3..=7 => self.answer(choices),
            8 => {
                self.now += Duration::from_micros(u64::from(choices.u16()) * 4);
                self.lane.handle_timeout(self.now);
                assert!(self.lane.poll_deadline().is_none_or(|due| due > self.now), "a timer that is due stays due");
                for (id, deadline) in &self.handlers {
                    // An id that its client let go and used again may have two handlers: which of them it is, is its affair.
                    let late = !self.parks && *deadline + TICK <= self.now;
                    assert!(!late || !self.lane.is_running(*id), "the handler of {id} runs past its deadline");
                }
            }
            9 | 10 => self.transmit(),
            11 => self.stream(choices),
            12 => match choices.byte() {
                0 => self.lane.drain(),
                1 => self.lane.goodbye(GoodbyeCode::Done),
                _ => {}
            },
            13 => self.frame(choices, true),
            _ => self.frame(choices, false),
        }
    }

    fn attach(&mut self, epoch: u64, window: u32, frame_bytes_max: u32) {
        let newer = epoch > self.epoch;
        let server = (PeerId([7; 16]), Incarnation(7));
        let accepted = self.lane.attach(epoch, window, frame_bytes_max, server).is_some();
        assert_eq!(accepted, newer, "epoch {epoch} after {}", self.epoch);
        if accepted {
            self.epoch = epoch;
            self.live = true;
            let mut out = BytesMut::new();
            assert!(self.lane.poll_transmit(epoch, &mut out));
            assert_eq!(out.get(4), Some(&Kind::Welcome.number()), "Welcome is the first frame");
            self.heard(&out);
        }
    }

    fn detach(&mut self, epoch: u64) {
        self.lane.detach(epoch, self.now);
        self.live &= epoch != self.epoch;
        assert_eq!(self.lane.is_connected(), self.live);
    }

    fn frame(&mut self, choices: &mut Choices<'_>, old: bool) {
        // As drivers do: whoever leaves its answers unread loses intake.
        if self.lane.queued_bytes() >= self.limits.out_bytes_max {
            self.transmit();
        }
        let epoch = if old { choices.near(self.epoch).min(self.epoch) } else { self.epoch };
        let present = self.live && epoch == self.epoch;
        let bytes = frames::of_client(choices, self.highest.saturating_add(1)).bytes();
        let parsed = header::parse(&bytes);
        let taken = self.lane.handle_frame(self.now, epoch, &bytes);
        assert_eq!(matches!(taken, Ok(Taken::Fenced)), !present, "only the present connection is heard");
        if !present {
            return;
        }
        // A frame of the other direction is not even looked at.
        if let Ok(Some(frame)) = parsed
            && frame.flags & header::REVERSE == 0
        {
            let of_request = matches!(frame.kind, Kind::Request | Kind::Void);
            if (of_request && frame.id != 0 && frame.floor <= frame.id) || frame.kind == Kind::Ping {
                self.floor = self.floor.max(frame.floor);
            }
            if frame.kind == Kind::Park && taken.is_ok() {
                self.floor = self.floor.max(frame.id);
                self.parks = true;
            }
            if frame.kind == Kind::Resolve && frame.id >= self.floor.saturating_add(u64::from(self.limits.window)) {
                self.excused.insert(frame.id);
            }
        }
        match taken {
            Ok(Taken::Call(call)) => {
                let (id, deadline) = (call.id, call.deadline);
                assert!(id >= self.floor, "id {id} was taken below the floor {}", self.floor);
                assert!(deadline > self.now && deadline <= self.now + self.limits.deadline_max);
                let once = self.taken.insert(id) && !self.forgotten.contains(&id);
                assert!(once || self.parks, "id {id} was taken twice, or after it was called forgotten");
                self.highest = self.highest.max(id);
                self.lane.on_cancel(id, Waker::noop());
                self.handlers.push((id, deadline));
            }
            Ok(Taken::Closed) | Err(_) => self.detach(epoch),
            Ok(_) => {}
        }
    }

    fn answer(&mut self, choices: &mut Choices<'_>) {
        if self.handlers.is_empty() {
            return;
        }
        let (id, _) = self.handlers.swap_remove(usize::from(choices.byte()) % self.handlers.len());
        let shape = choices.byte();
        let payload = Payload::copy(&vec![shape; usize::from(shape) * 3]);
        self.lane.answer(
            id,
            match shape % 5 {
                0 => Reply::Failed(FailedCode::Panicked),
                1 => Reply::Nack(NackCode::Rejected, payload),
                2 => Reply::Nack(NackCode::Overloaded, Payload::EMPTY),
                _ => Reply::Ack(payload),
            },
        );
    }

    fn transmit(&mut self) {
        let mut out = BytesMut::new();
        let wants = self.lane.wants_transmit(self.epoch);
        assert!(!wants || self.live, "nothing is written to a connection that is gone");
        assert_eq!(self.lane.poll_transmit(self.epoch, &mut out), wants);
        self.heard(&out);
    }

    /// What the client reads: whole frames, and of each id one answer.
    fn heard(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Cut::Frame { frame, consumed } = cut(rest, usize::MAX) {
            rest = &rest[consumed..];
            let frame = header::parse(frame).expect("a server writes frames").expect("of kinds that are known");
            let answer = match frame.kind {
                Kind::Ack => (0, frame.body.to_vec()),
                Kind::Nack => (100 + frame.aux, frame.body.to_vec()),
                Kind::Failed => (200 + frame.aux, Vec::new()),
                Kind::Resolution => match ResolutionCode::from_number(frame.aux) {
                    ResolutionCode::Applied => (0, frame.body.to_vec()),
                    ResolutionCode::Nacked => {
                        let (code, body) = split_u32(frame.body).expect("a code");
                        (100 + code, body.to_vec())
                    }
                    ResolutionCode::Failed => (200 + split_u32(frame.body).expect("a code").0, Vec::new()),
                    ResolutionCode::NeverSeen => (100 + NackCode::Burnt.number(), Vec::new()),
                    ResolutionCode::Forgotten => {
                        self.forgotten.insert(frame.id);
                        continue;
                    }
                    _ => continue,
                },
                _ => continue,
            };
            if self.parks || self.excused.contains(&frame.id) {
                continue;
            }
            let first = self.answers.entry(frame.id).or_insert_with(|| answer.clone());
            assert_eq!(*first, answer, "id {} has two answers", frame.id);
        }
        assert!(rest.is_empty(), "a claim holds whole frames");
    }

    fn stream(&mut self, choices: &mut Choices<'_>) {
        let id = choices.near(self.highest);
        let mut cx = Context::from_waker(Waker::noop());
        if self.lane.poll_stream_ready(id, &mut cx).is_ready() {
            let body = vec![1; usize::from(choices.byte()) * 4];
            let put = |out: &mut BytesMut| {
                out.extend_from_slice(&body);
                Ok::<(), rpc::wire::frame::Oversized>(())
            };
            if let Ok(frame) = ServerLane::item_frame(id, false, self.lane.item_format(), put) {
                let _ = self.lane.push_item(id, frame, body.len(), false);
            }
        }
        if choices.byte() & 1 == 0 {
            self.lane.end_stream(id, EndCode::Finished);
        }
    }

    fn check(&mut self) {
        let mut wakers = Vec::new();
        self.lane.take_wakers(&mut wakers);
        let held = self.lane.remembered();
        // The first 64 ids are taken whatever the window, and as many may be parked.
        let (window, parked_max) = (self.limits.window.max(64) as usize, self.limits.parked_max.max(64));
        let answers_max = self.limits.answer_bytes_max + (window + parked_max) * self.limits.frame_bytes_max;
        assert_eq!(self.lane.running(), self.handlers.len(), "permits and handlers");
        assert!(
            self.lane.running() <= window.max(self.limits.window as usize + self.limits.parked_max),
            "{} handlers",
            self.lane.running()
        );
        assert!(held.ids <= window + parked_max, "{held:?}");
        assert!(held.answer_bytes <= answers_max, "{held:?}");
        assert!(held.out_bytes <= self.limits.out_bytes_max + answers_max + 4096, "{held:?}");
        assert!(held.streams <= self.limits.streams_max, "{held:?}");
        assert!(held.unheld <= self.lane.running(), "{held:?}");
    }

    /// Every handler ends, the connection too: nothing runs, and the lane may be forgotten in time.
    fn end(mut self) {
        for (id, _) in std::mem::take(&mut self.handlers) {
            self.lane.answer(id, Reply::Failed(FailedCode::Dropped));
        }
        self.transmit();
        self.detach(self.epoch);
        self.check();
        assert!(self.lane.is_drained());
        assert!(self.lane.expires_at().is_some(), "nobody is there, and nothing runs");
        let held = self.lane.remembered();
        assert_eq!((held.streams, held.unheld, held.out_bytes), (0, 0, 0), "{held:?}");
    }
}
