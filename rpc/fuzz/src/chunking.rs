//! The same bytes, read all at once, one by one, and in pieces of any size: both halves of a lane must do the same.

use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rpc::session::client::{Next, Submit};
use rpc::session::payload::Payload;
use rpc::session::server::{Reply, ServerLane, Taken};
use rpc::wire::frame::{Cut, cut};
use rpc::{Incarnation, PeerId};

use super::choices::Choices;
use super::{client, frames, server};

/// What a side has done: what it answered to each frame, and what it has to say at the end.
type Trace = (Vec<String>, BytesMut);

pub fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let of_client = choices.byte() & 1 == 0;
    let sizes = choices.bytes(8).to_vec();
    let mut stream = Vec::new();
    let mut next = 1;
    while !choices.is_empty() {
        let said = if of_client {
            frames::of_client(&mut choices, next)
        } else {
            frames::of_server(&mut choices, next + 4, 1)
        };
        next += u64::from(said.kind == frames::REQUEST);
        stream.extend_from_slice(&said.with_length());
    }
    check(of_client, &stream, &sizes);
}

/// Reads `stream` whole, by bytes, and in pieces of `sizes`, over and over.
pub fn check(of_client: bool, stream: &[u8], sizes: &[u8]) {
    let now = Instant::now();
    let read = |sizes: &[usize]| if of_client { by_server(now, stream, sizes) } else { by_client(now, stream, sizes) };
    let whole = read(&[stream.len().max(1)]);
    assert_eq!(read(&[1]), whole, "byte by byte");
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::from(*size).max(1)).collect();
    if !sizes.is_empty() {
        assert_eq!(read(&sizes), whole, "in pieces of {sizes:?}");
    }
}

/// Cuts what arrives into frames, as drivers do: whole ones are taken, the rest waits. Ends when `take` is `false`.
fn drive(stream: &[u8], sizes: &[usize], frame_bytes_max: usize, mut take: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut buffer: Vec<u8> = Vec::new();
    let (mut rest, mut sizes) = (stream, sizes.iter().cycle());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(sizes.next().map_or(1, |size| (*size).min(rest.len())));
        rest = behind;
        buffer.extend_from_slice(piece);
        loop {
            match cut(&buffer, frame_bytes_max) {
                Cut::Frame { frame, consumed } => {
                    if !take(frame) {
                        return Vec::new();
                    }
                    buffer.drain(..consumed);
                }
                Cut::Incomplete { .. } => break,
                Cut::TooLarge { .. } => return Vec::new(),
            }
        }
    }
    buffer
}

fn by_server(now: Instant, stream: &[u8], sizes: &[usize]) -> Trace {
    let limits = server::limits();
    let mut lane = ServerLane::new(limits.clone(), 1);
    lane.attach(1, 64, 1 << 20, (PeerId([7; 16]), Incarnation(7))).expect("the first epoch");
    let mut did = Vec::new();
    let left = drive(stream, sizes, limits.frame_bytes_max, |frame| {
        let taken = lane.handle_frame(now, 1, frame);
        did.push(format!("{taken:?}"));
        if let Ok(Taken::Call(call)) = taken {
            match call.method {
                0 => lane.answer(call.id, Reply::Ack(Payload::copy(call.body))),
                1 => lane.on_cancel(call.id, Waker::noop()),
                _ => lane.answer(call.id, Reply::Nack(rpc::wire::header::NackCode::Rejected, Payload::EMPTY)),
            }
        }
        matches!(taken, Ok(Taken::Nothing | Taken::Call(_)))
    });
    let mut out = BytesMut::new();
    lane.poll_transmit(1, &mut out);
    did.push(format!("{:?} {} handlers, {} bytes left", lane.remembered(), lane.running(), left.len()));
    (did, out)
}

fn by_client(now: Instant, stream: &[u8], sizes: &[usize]) -> Trace {
    let mut lane = client::lane();
    let deadline = now + Duration::from_secs(1);
    let ids: Vec<u64> = (0..5_u16)
        .filter_map(|n| {
            lane.submit(Submit { method: n, version: 1, body: b"x", deadline, stream: n > 2, tlvs: &[] }).ok()
        })
        .collect();
    lane.connected();
    let mut out = BytesMut::new();
    lane.poll_transmit(now, &mut out);
    lane.transmitted(out.len());
    out.clear();
    let mut did = Vec::new();
    let left = drive(stream, sizes, client::limits().frame_bytes_max, |frame| {
        let next = lane.handle_frame(frame);
        did.push(format!("{next:?}"));
        !matches!(next, Ok(Next::Close) | Err(_))
    });
    let mut cx = Context::from_waker(Waker::noop());
    for id in ids {
        did.push(format!("{id}: {:?} {:?}", lane.stage(id), lane.poll_outcome(id, &mut cx)));
        did.push(format!("{:?} {:?}", lane.poll_item(id, &mut cx), lane.poll_item(id, &mut cx)));
    }
    lane.poll_transmit(now, &mut out);
    did.push(format!("{:?}, {} bytes left", lane.counters(), left.len()));
    (did, out)
}
