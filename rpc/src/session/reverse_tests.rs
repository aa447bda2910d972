//! Both halves of the lane on which the accepting side calls, played frame by frame.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use super::client::{ClientLane, Offer, Outcome, Submit, SubmitError};
use super::payload::Payload;
use super::server::{Reply, ServerLane, Taken};
use crate::id::{Incarnation, PeerId};
use crate::limits::{BULK_BYTES, Limits};
use crate::outcome::{Cause, NotDelivered, Stage};
use crate::request::MethodInfo;
use crate::wire::frame::{Cut, cut};
use crate::wire::header::{self, Kind, REVERSE};
use crate::wire::hello::{Extras, Hello, ServiceInfo};

const fn method(id: u16, fingerprint: u64) -> MethodInfo {
    MethodInfo { id, version: 1, name: "m", fingerprint, ack_bytes_max: 4096, stream: false }
}

const OFFERED: ServiceInfo = ServiceInfo { name: "back", version: 2, methods: &[method(1, 7), method(2, 8)] };

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// The two halves of a reverse lane, and the connection between them.
struct Play {
    now: Instant,
    caller: ClientLane,
    callee: ServerLane,
    epoch: u64,
}

fn offer() -> Offer {
    let mut out = BytesMut::new();
    let hello = Hello::new(PeerId([1; 16]), Incarnation(1), 0, 1, 1 << 20, 4, "forth", 1);
    hello.put(&mut out, &OFFERED, Extras { serves: Some(&OFFERED), ..Extras::default() });
    Hello::parse(&out[header::COMMON_BYTES..]).unwrap().serves().unwrap().into()
}

fn submit(method: u16, body: &[u8], deadline: Instant) -> Submit<'_> {
    Submit { method, version: 1, body, deadline, stream: false, tlvs: &[] }
}

impl Play {
    fn new() -> Self {
        let limits = || Limits { window: 4, ..Limits::default() };
        Self {
            now: Instant::now(),
            caller: ClientLane::reverse(limits()),
            callee: ServerLane::reverse(limits()),
            epoch: 0,
        }
    }

    /// The connecting side's next Hello is accepted; its Welcome is on the way.
    fn accepts(&mut self) {
        self.epoch += 1;
        self.caller.attach_reverse(self.epoch, 4, 1 << 20, Some(offer()));
    }

    fn welcomes(&mut self) {
        self.callee.attach_reverse(self.epoch, 4, 1 << 20);
    }

    fn connects(&mut self) {
        self.accepts();
        self.welcomes();
    }

    fn calls(&mut self, body: &[u8]) -> u64 {
        self.caller.submit(submit(1, body, self.now + Duration::from_secs(10))).unwrap()
    }

    fn claims(&mut self) -> BytesMut {
        let mut bytes = BytesMut::new();
        self.caller.poll_transmit(self.now, &mut bytes);
        bytes
    }

    /// The callee reads frames. Returns the ids that its handlers get.
    fn takes(&mut self, mut bytes: &[u8]) -> Vec<u64> {
        let mut taken = Vec::new();
        while let Cut::Frame { frame, consumed } = cut(bytes, usize::MAX) {
            assert!(header::is_reverse(frame), "a frame of the reverse lane without its flag");
            if let Taken::Call(call) = self.callee.handle_frame(self.now, self.epoch, frame).unwrap() {
                taken.push(call.id);
            }
            bytes.advance(consumed);
        }
        taken
    }

    /// What the caller has to say goes over whole.
    fn caller_writes(&mut self) -> Vec<u64> {
        let bytes = self.claims();
        self.caller.transmitted(bytes.len());
        self.takes(&bytes)
    }

    fn callee_writes(&mut self) {
        let mut bytes = BytesMut::new();
        self.callee.poll_transmit(self.epoch, &mut bytes);
        while let Cut::Frame { frame, consumed } = cut(&bytes, usize::MAX) {
            assert!(header::is_reverse(frame), "a frame of the reverse lane without its flag");
            self.caller.handle_frame(frame).unwrap();
            bytes.advance(consumed);
        }
    }

    fn outcome(&mut self, id: u64) -> Option<Outcome> {
        let waker = Waker::from(Arc::new(Nobody));
        match self.caller.poll_outcome(id, &mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }
}

fn ack() -> Reply {
    Reply::Ack(Payload::copy(b"done"))
}

#[test]
fn reverse_call_is_answered_on_frames_that_carry_the_flag() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(b"hi");
    assert_eq!(play.caller_writes(), [id]);
    play.callee.answer(id, ack());
    play.callee_writes();
    assert_eq!(play.outcome(id), Some(Outcome::Ack(Payload::copy(b"done"))));
}

#[test]
fn handler_that_outlives_its_connection_answers_on_the_next_one() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(b"hi");
    assert_eq!(play.caller_writes(), [id]);
    play.caller.detach_reverse(1);
    play.callee.detach(1, play.now);
    assert_eq!(play.outcome(id), None);
    play.connects();
    assert_eq!(play.caller_writes(), [], "it is asked for, not repeated");
    play.callee.answer(id, ack());
    play.callee_writes();
    assert_eq!(play.outcome(id), Some(Outcome::Ack(Payload::copy(b"done"))));
}

#[test]
fn received_tells_what_was_taken_up_and_what_has_begun_also_after_a_reconnect() {
    let mut play = Play::new();
    play.connects();
    let ids: Vec<u64> = (0..3).map(|_| play.calls(b"hi")).collect();
    assert_eq!(play.caller_writes(), ids);
    play.callee.started(ids[0]);
    play.callee_writes();
    assert_eq!(play.caller.stage(ids[0]), Some(Stage::Written), "nothing is written for it alone");
    play.callee.answer(ids[1], ack());
    play.callee_writes();
    let stages = |play: &Play| [ids[0], ids[2]].map(|id| play.caller.stage(id).unwrap());
    assert_eq!(stages(&play), [Stage::Started, Stage::Received]);
    play.caller.detach_reverse(1);
    play.callee.detach(1, play.now);
    assert_eq!(stages(&play), [Stage::Started, Stage::Received], "what is known stays known");
    play.connects();
    play.callee.started(ids[2]);
    play.caller_writes();
    play.callee_writes();
    assert_eq!(stages(&play), [Stage::Started, Stage::Started], "said behind the answers to the Resolves");
}

#[test]
fn superseded_connection_proves_nothing_and_the_claim_is_asked_for() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(b"hi");
    // The kernel has taken it all and the callee has read it; the driver has not come to say so.
    let claimed = play.claims();
    assert_eq!(play.takes(&claimed), [id]);
    play.callee.answer(id, ack());
    play.connects();
    assert_eq!(play.outcome(id), None, "no proof of not delivered");
    play.caller_writes();
    play.callee_writes();
    assert_eq!(play.outcome(id), Some(Outcome::Ack(Payload::copy(b"done"))));
}

#[test]
fn frame_that_the_kernel_never_took_is_not_delivered_when_its_connection_ends() {
    let mut play = Play::new();
    play.connects();
    let id = play.calls(b"hi");
    let claimed = play.claims();
    play.caller.transmitted(claimed.len() - 1);
    play.caller.detach_reverse(1);
    assert_eq!(play.outcome(id), Some(Outcome::NotDelivered(NotDelivered::ConnectionLost)));
}

#[test]
fn request_that_a_lost_welcome_kept_from_its_callee_is_never_seen() {
    let mut play = Play::new();
    play.accepts();
    let id = play.calls(b"hi");
    let claimed = play.claims();
    play.caller.transmitted(claimed.len());
    play.caller.detach_reverse(1);
    // The callee had no Welcome, so it took nothing.
    play.connects();
    assert_eq!(play.caller_writes(), []);
    play.callee_writes();
    assert_eq!(play.outcome(id), Some(Outcome::NotDelivered(NotDelivered::NeverSeen)));
    let burnt = play.takes(&claimed);
    assert_eq!(burnt, [], "its frame is refused from then on");
}

#[test]
fn end_of_the_memory_gives_every_open_call_its_outcome() {
    let mut play = Play::new();
    play.connects();
    let written = play.calls(b"written");
    play.caller_writes();
    let queued = play.calls(b"queued");
    play.caller.end_reverse();
    assert_eq!(play.outcome(written), Some(Outcome::Unknown(Stage::Written, Cause::ConnectionLost)));
    assert_eq!(play.outcome(queued), Some(Outcome::NotDelivered(NotDelivered::ConnectionLost)));
    let later = play.caller.submit(submit(1, b"", play.now));
    assert_eq!(later, Err(SubmitError::Refused(NotDelivered::ConnectionLost)));
}

#[test]
fn what_is_not_offered_is_known_before_anything_is_sent() {
    let mut play = Play::new();
    assert_eq!(play.caller.check_offer(&OFFERED, 1, 1), Err(NotDelivered::NotServed), "no connection yet");
    play.connects();
    const OURS: &[MethodInfo] = &[method(1, 7), method(2, 99), method(3, 9)];
    let ours = ServiceInfo { methods: OURS, ..OFFERED };
    assert_eq!(play.caller.check_offer(&ours, 1, 1), Ok(()));
    assert_eq!(play.caller.check_offer(&ours, 2, 1), Err(NotDelivered::SchemaMismatch { method: 2, version: 1 }));
    assert_eq!(play.caller.check_offer(&ours, 3, 1), Err(NotDelivered::UnknownMethod { method: 3, version: 1 }));
    let other = ServiceInfo { version: 3, ..ours.clone() };
    assert_eq!(play.caller.check_offer(&other, 1, 1), Err(NotDelivered::NotServed));
    play.epoch += 1;
    play.caller.attach_reverse(play.epoch, 4, 1 << 20, None);
    assert_eq!(play.caller.check_offer(&ours, 1, 1), Err(NotDelivered::NotServed));
}

#[test]
fn frame_of_the_other_direction_is_a_violation_on_both_halves() {
    let mut play = Play::new();
    play.connects();
    let frame = |kind, flags| {
        let mut out = BytesMut::new();
        header::put_common(&mut out, kind, flags, 0, 1);
        out
    };
    assert!(play.caller.handle_frame(&frame(Kind::Ack, 0)).is_err());
    assert!(play.callee.handle_frame(play.now, 1, &frame(Kind::Cancel, 0)).is_err());
    for of_connection in [Kind::Hello, Kind::Welcome, Kind::Goodbye] {
        assert!(play.caller.handle_frame(&frame(of_connection, REVERSE)).is_err(), "{of_connection:?}");
        assert!(play.callee.handle_frame(play.now, 1, &frame(of_connection, REVERSE)).is_err(), "{of_connection:?}");
    }
}

#[test]
fn claim_of_a_reverse_lane_is_bounded_and_the_rest_follows() {
    let mut play = Play::new();
    play.connects();
    let body = vec![0; BULK_BYTES / 2];
    let ids: Vec<u64> = (0..4).map(|_| play.calls(&body)).collect();
    assert_eq!(play.caller_writes(), ids[..2]);
    play.caller.abandon(ids[2]);
    assert_eq!(play.caller_writes(), ids[3..]);
    assert!(!play.caller.wants_transmit());
    for id in [ids[0], ids[1], ids[3]] {
        play.callee.answer(id, ack());
    }
    play.callee_writes();
    for id in [ids[0], ids[1], ids[3]] {
        assert_eq!(play.outcome(id), Some(Outcome::Ack(Payload::copy(b"done"))));
    }
}

#[test]
fn abandoned_rest_of_a_bounded_claim_leaves_nothing_to_write() {
    let mut play = Play::new();
    play.connects();
    let body = vec![0; BULK_BYTES];
    let ids: Vec<u64> = (0..2).map(|_| play.calls(&body)).collect();
    play.caller.abandon(ids[0]);
    assert_eq!(play.caller_writes(), [], "a voided frame alone");
    assert_eq!(play.caller_writes(), ids[1..]);
    assert!(!play.caller.wants_transmit());
}
