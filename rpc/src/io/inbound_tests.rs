//! The same bytes, however they arrive: all at once, byte by byte, in pieces of any size, with pauses.

use std::collections::VecDeque;
use std::task::Waker;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::ReadBuf;

use super::*;
use crate::session::payload::Payload;
use crate::wire::frame::{Cut, cut};

/// Gives its bytes in these pieces; an empty one is a pause.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: VecDeque<usize>,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = self.sizes.pop_front().unwrap_or(usize::MAX);
        if size == 0 {
            return Poll::Pending;
        }
        let end = self.at.saturating_add(size.min(into.remaining())).min(self.bytes.len());
        into.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

/// Frames of these sizes, one after another, each filled with a byte of its own.
fn stream(sizes: &[usize]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (at, size) in sizes.iter().enumerate() {
        stream.extend_from_slice(&u32::try_from(*size).unwrap().to_be_bytes());
        stream.resize(stream.len() + size, at as u8);
    }
    stream
}

/// What a driver gets: the frames, kept as answers are kept; whether one was too large; and what is held at the end.
fn read(bytes: &[u8], sizes: VecDeque<usize>, max: usize) -> (Vec<Vec<u8>>, bool) {
    let mut pieces = Pieces { bytes: bytes.to_vec(), at: 0, sizes };
    let mut inbound = Inbound::default();
    let (mut frames, mut too_large) = (Vec::new(), false);
    let mut cx = Context::from_waker(Waker::noop());
    while !too_large {
        let polled = inbound.poll_read(&mut cx, &mut pieces, |bytes| {
            let mut consumed = 0;
            loop {
                match cut(&bytes[consumed..], max) {
                    Cut::Frame { frame, consumed: more } => {
                        frames.push(Payload::copy(frame));
                        consumed += more;
                    }
                    Cut::Incomplete { .. } => return (consumed, false),
                    Cut::TooLarge { .. } => return (consumed, true),
                }
            }
        });
        match polled {
            Poll::Pending => {}
            Poll::Ready(Ok(None)) => break,
            Poll::Ready(Ok(Some(told))) => too_large = told,
            Poll::Ready(Err(error)) => panic!("{error}"),
        }
    }
    // Nothing that is held may change when the buffers are used again.
    (frames.iter().map(|payload| payload.as_slice().to_vec()).collect(), too_large)
}

/// Sizes around every boundary at which another buffer is taken.
fn frame_bytes() -> impl Strategy<Value = usize> {
    let near = |size: usize| size.saturating_sub(6)..size + 6;
    prop_oneof![4 => 0..200_usize, 1 => near(LARGE_FRAME_BYTES), 1 => near(READ_BYTES), 1 => 0..3 * READ_BYTES]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_are_the_same_however_their_bytes_arrive(
        frames in vec(frame_bytes(), 1..8),
        pieces in vec(prop_oneof![2 => 0..9_usize, 2 => 0..5_000_usize, 1 => 0..2 * READ_BYTES], 0..60),
        ends_early in 0..300_usize,
        max in prop_oneof![3 => Just(4 * READ_BYTES), 1 => frame_bytes()],
    ) {
        let mut bytes = stream(&frames);
        bytes.truncate(bytes.len().saturating_sub(ends_early.saturating_sub(200)));
        let whole = read(&bytes, VecDeque::new(), max);
        let expected = frames.iter().take_while(|size| **size <= max).count();
        prop_assert!(whole.0.len() <= expected && whole.0.len() + 100 >= expected);
        for (at, (frame, size)) in whole.0.iter().zip(&frames).enumerate() {
            prop_assert_eq!(frame, &vec![at as u8; *size]);
        }
        prop_assert_eq!(&read(&bytes, pieces.into(), max), &whole);
        if bytes.len() < 20_000 {
            prop_assert_eq!(&read(&bytes, vec![1; bytes.len()].into(), max), &whole);
        }
    }
}
