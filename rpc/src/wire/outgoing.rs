//! Frames on their way out: small ones side by side in one buffer, large bodies as they were encoded.
//!
//! Never copies a large body, and never holds a buffer while it is empty: buffers come from a pool of the thread, so an
//! idle connection costs nothing and a busy one allocates nothing.
//!
//! Filled by `session`, written by `io` in one vectored write.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use super::frame::{LENGTH_BYTES, Oversized};
use crate::limits::{LARGE_FRAME_BYTES, POOLED_BUFFERS_MAX, READ_BYTES, SPARE_BUFFERS_MAX, SPARE_BYTES_MAX};

thread_local! {
    static POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    /// Of large bodies that have been written; `None` while the thread has not asked for any, and would keep them for nothing.
    static SPARE: RefCell<Option<Vec<BytesMut>>> = const { RefCell::new(None) };
}

/// An empty buffer for what may be a large body: one that has been written, if there is any. Memory that was just freed
/// and is asked for again costs the kernel more than the copy into it.
pub(crate) fn spare() -> BytesMut {
    SPARE.with_borrow_mut(|spare| spare.get_or_insert_default().pop()).unwrap_or_default()
}

/// Keeps the buffer for the next large body of this thread, if the thread has ever made one, nobody else has a piece of it
/// and it is neither small nor huge.
pub(crate) fn keep_spare(mut buffer: BytesMut) {
    // The thread may be ending.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        let Some(spare) = spare.as_mut().filter(|spare| spare.len() < SPARE_BUFFERS_MAX) else { return };
        buffer.clear();
        // The capacity is only what lies behind the piece of its allocation that the buffer is: more than that is to be
        // had where there is more, and then the buffer has all of it.
        let _ = buffer.try_reclaim(buffer.capacity().saturating_add(1));
        if (LARGE_FRAME_BYTES..=SPARE_BYTES_MAX).contains(&buffer.capacity()) {
            spare.push(buffer);
        }
    });
}

/// Pieces that one write takes at most. LIMIT: eight frames with bodies of their own; a ninth would save an eighth of a
/// system call.
pub(crate) const SLICES_MAX: usize = 16;

/// Frames to be written, in their order.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Everything but large bodies.
    small: BytesMut,
    /// Large bodies, each with the position among the small bytes before which it goes.
    large: VecDeque<(u64, Bytes)>,
    large_bytes: usize,
    /// Bytes of the first large body that have been written: it is held whole until all are.
    written_of_front: usize,
    /// The largest capacity that `small` has had since it was empty: what is written of it lowers that, and frees nothing.
    allocated: usize,
    /// The position of the first byte of `small`.
    taken: u64,
}

/// What frames can be appended to.
pub(crate) trait Frames {
    /// The buffer of small frames.
    fn small(&mut self) -> &mut BytesMut;
}

impl Frames for BytesMut {
    fn small(&mut self) -> &mut BytesMut {
        self
    }
}

impl Frames for Outgoing {
    fn small(&mut self) -> &mut BytesMut {
        if self.small.capacity() == 0 {
            self.small = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        &mut self.small
    }
}

impl Outgoing {
    /// Bytes to be written.
    pub fn len(&self) -> usize {
        self.small.len().saturating_add(self.large_bytes)
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    /// The memory that they are held in, in bytes, with what has been written and is not free yet.
    pub(crate) fn held_bytes(&self) -> usize {
        let large = self.large_bytes.saturating_add(self.written_of_front);
        self.allocated.max(self.small.capacity()).saturating_add(large)
    }

    /// Bytes of everything but large bodies: what [`small`](Frames::small) holds.
    pub(crate) fn small_len(&self) -> usize {
        self.small.len()
    }

    /// Appends a frame whose header is written by `header` and whose body is `body`, which is not copied. When the frame
    /// is larger than `frame_bytes_max` nothing is appended.
    ///
    /// # Errors
    /// [`Oversized`].
    pub(crate) fn append_large(
        &mut self,
        frame_bytes_max: usize,
        header: impl FnOnce(&mut BytesMut),
        body: Bytes,
    ) -> Result<(), Oversized> {
        let small = self.small();
        let start = small.len();
        small.extend_from_slice(&[0; LENGTH_BYTES]);
        header(small);
        let header_bytes = small.len().saturating_sub(start).saturating_sub(LENGTH_BYTES);
        let bytes = header_bytes.saturating_add(body.len());
        let length = match u32::try_from(bytes) {
            Ok(length) if bytes <= frame_bytes_max => length,
            _ => {
                small.truncate(start);
                return Err(Oversized { bytes, max: frame_bytes_max });
            }
        };
        if let Some(place) = small.get_mut(start..).and_then(|tail| tail.first_chunk_mut::<LENGTH_BYTES>()) {
            *place = length.to_be_bytes();
        }
        self.push_whole(body);
        Ok(())
    }

    /// Appends bytes that are whole frames, or the end of one, without copying them.
    pub(crate) fn push_whole(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.large_bytes = self.large_bytes.saturating_add(bytes.len());
        self.large.push_back((self.end(), bytes));
    }

    /// Moves everything out of `other`, behind what is here.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            self.recycle();
            std::mem::swap(self, other);
            return;
        }
        let (end, other_taken) = (self.end(), other.taken);
        for (at, bytes) in other.large.drain(..) {
            self.large.push_back((end.saturating_add(at.saturating_sub(other_taken)), bytes));
        }
        self.large_bytes = self.large_bytes.saturating_add(std::mem::take(&mut other.large_bytes));
        self.small().extend_from_slice(&other.small);
        other.clear();
    }

    /// The least number of whole frames at the front that have `bytes_min` bytes, in bytes; all if they are fewer.
    pub(crate) fn whole_frames(&self, bytes_min: usize) -> usize {
        if self.len() <= bytes_min {
            return self.len();
        }
        let (mut small, mut at, mut bytes) = (&self.small[..], self.taken, 0_usize);
        let mut large = self.large.iter().peekable();
        while bytes < bytes_min {
            let Some(length) = small.first_chunk::<LENGTH_BYTES>() else { return self.len() };
            let whole = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX).saturating_add(LENGTH_BYTES);
            let end = at.saturating_add(u64::try_from(whole).unwrap_or(u64::MAX));
            let body = large.next_if(|(before, _)| *before < end).map_or(0, |(_, body)| body.len());
            let of_small = whole.saturating_sub(body);
            small = small.get(of_small..).unwrap_or_default();
            at = at.saturating_add(u64::try_from(of_small).unwrap_or(u64::MAX));
            bytes = bytes.saturating_add(whole);
        }
        bytes.min(self.len())
    }

    /// Moves the first `bytes` into `into`, behind what is there.
    pub(crate) fn transfer(&mut self, bytes: usize, into: &mut Self) {
        if bytes >= self.len() {
            return into.append(self);
        }
        let mut rest = bytes;
        while rest > 0 {
            let moved = match self.large.front() {
                Some((before, body)) if *before == self.taken => {
                    let piece = body.slice(..rest.min(body.len()));
                    let moved = piece.len();
                    into.push_whole(piece);
                    moved
                }
                large => {
                    let gap = large.map_or(u64::MAX, |(before, _)| before.saturating_sub(self.taken));
                    let moved = rest.min(usize::try_from(gap).unwrap_or(usize::MAX)).min(self.small.len());
                    into.small().extend_from_slice(self.small.get(..moved).unwrap_or_default());
                    moved
                }
            };
            self.advance(moved);
            rest = rest.saturating_sub(moved);
        }
    }

    /// The first pieces, as many as fit in `slices` and none behind a large frame; returns how many.
    ///
    /// A large frame ends the write, as it ends the read at the other end: Linux cuts a write into buffers of at most
    /// 36 544 bytes, whose pages each processor keeps by their order. Cut alike in both directions, the pages that one call
    /// frees are those that the next one takes; cut otherwise, each takes new ones, which are in no cache, and on a virtual
    /// machine may first have to be got from its host: eight times the time of a call of 64 KiB.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let (mut small, mut at) = (&self.small[..], self.taken);
        let mut count = 0;
        let mut put = |piece: &'a [u8]| match slices.get_mut(count) {
            Some(place) if !piece.is_empty() => {
                *place = IoSlice::new(piece);
                count = count.saturating_add(1);
                true
            }
            place => place.is_some(),
        };
        for (before, body) in &self.large {
            let gap = usize::try_from(before.saturating_sub(at)).unwrap_or(usize::MAX);
            let (first, rest) = small.split_at_checked(gap).unwrap_or((small, &[]));
            (small, at) = (rest, *before);
            if !put(first) || !put(body) || body.len() >= LARGE_FRAME_BYTES {
                return count;
            }
        }
        put(small);
        count
    }

    /// The first `bytes` have been written.
    pub(crate) fn advance(&mut self, mut bytes: usize) {
        self.allocated = self.allocated.max(self.small.capacity());
        while bytes > 0 {
            let gap = match self.large.front() {
                Some((before, _)) => usize::try_from(before.saturating_sub(self.taken)).unwrap_or(usize::MAX),
                None => self.small.len(),
            };
            let of_small = bytes.min(gap).min(self.small.len());
            if of_small == self.small.len() {
                // Not `advance`, which would leave a buffer that was filled to its end without any room.
                self.small.clear();
            } else {
                self.small.advance(of_small);
            }
            self.taken = self.taken.saturating_add(u64::try_from(of_small).unwrap_or(u64::MAX));
            bytes = bytes.saturating_sub(of_small);
            let Some((_, body)) = self.large.front_mut() else { break };
            let of_body = bytes.min(body.len());
            body.advance(of_body);
            self.large_bytes = self.large_bytes.saturating_sub(of_body);
            self.written_of_front = self.written_of_front.saturating_add(of_body);
            bytes = bytes.saturating_sub(of_body);
            if body.is_empty() {
                self.written_of_front = 0;
                let written = self.large.pop_front().map(|(_, body)| body.try_into_mut());
                if let Some(Ok(buffer)) = written {
                    keep_spare(buffer);
                }
            }
        }
        if self.is_empty() {
            self.recycle();
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.small.clear();
        self.large.clear();
        (self.large_bytes, self.written_of_front) = (0, 0);
        self.recycle();
    }

    /// Everything as one piece, copied; nothing is left.
    pub(crate) fn flatten_into(&mut self, into: &mut BytesMut) {
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.slices(&mut slices);
            let mut bytes = 0_usize;
            for slice in slices.iter().take(count) {
                into.extend_from_slice(slice);
                bytes = bytes.saturating_add(slice.len());
            }
            self.advance(bytes);
        }
    }

    fn end(&self) -> u64 {
        self.taken.saturating_add(u64::try_from(self.small.len()).unwrap_or(u64::MAX))
    }

    /// Gives the empty buffer to whoever needs one next on this thread.
    fn recycle(&mut self) {
        let mut buffer = std::mem::take(&mut self.small);
        let allocated = std::mem::take(&mut self.allocated).max(buffer.capacity());
        self.taken = 0;
        if self.large.capacity() > SLICES_MAX {
            self.large = VecDeque::new();
        }
        if !(1..=READ_BYTES).contains(&allocated) {
            return;
        }
        buffer.clear();
        // As [`keep_spare`] asks: the capacity is only what lies behind what was written. The next one has all of it.
        if buffer.try_reclaim(allocated) && !buffer.try_reclaim(READ_BYTES.saturating_add(1)) {
            // The thread may be ending: then there is no pool any more, and no need for one.
            let _ = POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < POOLED_BUFFERS_MAX {
                    pool.push(buffer);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is queued, in pieces: small ones by their bytes, large ones counted.
    fn sample() -> (Outgoing, Vec<u8>) {
        let mut outgoing = Outgoing::default();
        let mut flat = Vec::new();
        for n in 0..20_u8 {
            outgoing.small().extend_from_slice(&[n; 3]);
            flat.extend_from_slice(&[n; 3]);
            if n % 3 == 0 {
                let body = Bytes::from(vec![100 + n; 50]);
                outgoing.append_large(1000, |out| out.extend_from_slice(b"head"), body.clone()).unwrap();
                flat.extend_from_slice(&[0, 0, 0, 54]);
                flat.extend_from_slice(b"head");
                flat.extend_from_slice(&body);
            }
        }
        (outgoing, flat)
    }

    /// What a thread of its own has kept after `work`.
    fn spares_after(work: impl FnOnce() + Send) -> usize {
        std::thread::scope(|scope| {
            let kept = scope.spawn(|| {
                work();
                SPARE.with_borrow(|spare| spare.as_ref().map_or(0, Vec::len))
            });
            kept.join().unwrap()
        })
    }

    /// Writes a body behind which `rest` of the `of` bytes of its allocation are left.
    fn writes_the_front(rest: usize, of: usize) {
        let bytes = of - rest;
        let body = Bytes::from(BytesMut::zeroed(of)).split_to(bytes);
        let mut outgoing = Outgoing::default();
        outgoing.push_whole(body);
        outgoing.advance(bytes);
    }

    #[test]
    fn written_body_is_kept_by_the_size_of_its_allocation_and_not_by_what_is_left_behind_it() {
        let rest = 2 * LARGE_FRAME_BYTES;
        assert_eq!(spares_after(|| drop((spare(), writes_the_front(rest, SPARE_BYTES_MAX)))), 1);
        assert_eq!(spares_after(|| drop((spare(), writes_the_front(rest, 8 * SPARE_BYTES_MAX)))), 0);
    }

    #[test]
    fn spare_has_all_of_its_allocation() {
        let capacity = std::thread::spawn(|| {
            drop(spare());
            writes_the_front(2 * LARGE_FRAME_BYTES, SPARE_BYTES_MAX);
            spare().capacity()
        });
        assert_eq!(capacity.join().unwrap(), SPARE_BYTES_MAX);
    }

    #[test]
    fn thread_that_makes_no_large_bodies_keeps_no_buffers_for_them() {
        assert_eq!(spares_after(|| writes_the_front(0, SPARE_BYTES_MAX)), 0);
    }

    #[test]
    fn frames_written_in_pieces_of_any_size_are_those_that_were_appended() {
        for piece in [1, 2, 7, 49, 50, 51, 300, 10_000] {
            let (mut outgoing, flat) = sample();
            let mut written = Vec::new();
            while !outgoing.is_empty() {
                assert_eq!(outgoing.len(), flat.len() - written.len());
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = outgoing.slices(&mut slices);
                let front: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                let taken = piece.min(front.len());
                written.extend_from_slice(&front[..taken]);
                outgoing.advance(taken);
            }
            assert_eq!(written, flat);
        }
    }

    #[test]
    fn large_frame_ends_the_write_that_it_is_in_and_smaller_ones_share_one() {
        let mut outgoing = Outgoing::default();
        let sizes = [LARGE_FRAME_BYTES, 100, 200, LARGE_FRAME_BYTES - 1, LARGE_FRAME_BYTES, 300];
        for size in sizes {
            outgoing.append_large(1 << 20, |out| out.extend_from_slice(b"head"), Bytes::from(vec![7; size])).unwrap();
        }
        let mut writes = Vec::new();
        while !outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = outgoing.slices(&mut slices);
            let bytes = slices[..count].iter().map(|slice| slice.len()).sum();
            writes.push(bytes);
            outgoing.advance(bytes);
        }
        let with_headers = |sizes: &[usize]| sizes.iter().map(|size| size + 8).sum::<usize>();
        assert_eq!(writes, [&sizes[..1], &sizes[1..5], &sizes[5..]].map(with_headers));
    }

    #[test]
    fn frames_appended_behind_others_that_are_partly_written_keep_their_order() {
        for written in [0, 1, 4, 30, 61, 70, 200] {
            let (mut first, flat) = sample();
            let (mut second, _) = sample();
            first.advance(written);
            first.append(&mut second);
            assert!(second.is_empty());
            let mut all = BytesMut::new();
            first.flatten_into(&mut all);
            assert_eq!(all, [&flat[written..], &flat[..]].concat());
        }
    }

    #[test]
    fn front_that_is_moved_and_rest_that_stays_are_together_what_was_there() {
        for bytes in [0, 1, 3, 7, 11, 12, 60, 61, 62, 200, 10_000] {
            let (mut outgoing, flat) = sample();
            let mut front = Outgoing::default();
            front.small().extend_from_slice(b"before");
            outgoing.transfer(bytes, &mut front);
            assert_eq!((front.len(), outgoing.len()), (6 + bytes.min(flat.len()), flat.len().saturating_sub(bytes)));
            let mut all = BytesMut::new();
            front.flatten_into(&mut all);
            outgoing.flatten_into(&mut all);
            assert_eq!(all, [b"before", &flat[..]].concat());
        }
    }

    #[test]
    fn front_of_whole_frames_ends_where_a_frame_does() {
        let mut outgoing = Outgoing::default();
        let mut ends = vec![0];
        for n in 0..6_usize {
            let body = Bytes::from(vec![7; 10 * n]);
            let header = |out: &mut BytesMut| out.extend_from_slice(b"head");
            if n % 2 == 0 {
                outgoing.append_large(1000, header, body).unwrap();
            } else {
                super::super::frame::append(outgoing.small(), 1000, |out| {
                    header(out);
                    out.extend_from_slice(&body);
                    Ok::<(), Oversized>(())
                })
                .unwrap();
            }
            ends.push(outgoing.len());
        }
        for least in 0..=outgoing.len() + 1 {
            let expected = ends.iter().find(|end| **end >= least).unwrap_or(&ends[6]);
            assert_eq!(outgoing.whole_frames(least), *expected, "{least}");
        }
    }

    #[test]
    fn large_frame_beyond_the_limit_leaves_everything_as_it_was() {
        let (mut outgoing, flat) = sample();
        let oversized = outgoing.append_large(99, |out| out.extend_from_slice(b"head"), Bytes::from(vec![0; 96]));
        assert_eq!(oversized, Err(Oversized { bytes: 100, max: 99 }));
        let mut all = BytesMut::new();
        outgoing.flatten_into(&mut all);
        assert_eq!(all, flat);
    }

    #[test]
    fn large_body_that_has_been_written_gives_its_buffer_to_the_next_one_unless_it_is_shared() {
        let body = || {
            let mut body = spare();
            body.resize(LARGE_FRAME_BYTES, 7);
            body.freeze()
        };
        let mut outgoing = Outgoing::default();
        let first = body();
        let place = first.as_ptr();
        outgoing.push_whole(first);
        outgoing.advance(1);
        assert_eq!(spare().capacity(), 0, "it is not written yet");
        outgoing.advance(LARGE_FRAME_BYTES - 1);
        let second = body();
        assert_eq!(second.as_ptr(), place);
        outgoing.push_whole(second.clone());
        outgoing.advance(LARGE_FRAME_BYTES);
        assert_eq!(spare().capacity(), 0, "somebody has it");
        drop(second);
        assert_eq!(spare().capacity(), 0);
    }

    #[test]
    fn memory_of_what_is_partly_written_counts_until_it_is_free() {
        let mut outgoing = Outgoing::default();
        outgoing.small().extend_from_slice(&[0; 50_000]);
        outgoing.push_whole(Bytes::from(vec![0; 70_000]));
        outgoing.push_whole(Bytes::from(vec![0; 30_000]));
        let held = outgoing.held_bytes();
        assert!(held >= 150_000);
        outgoing.advance(49_999);
        assert_eq!(outgoing.held_bytes(), held);
        outgoing.advance(70_000);
        assert_eq!((outgoing.len(), outgoing.held_bytes()), (30_001, held), "of the large one a byte is left");
        outgoing.advance(1);
        assert_eq!(outgoing.held_bytes(), held - 70_000);
        outgoing.advance(30_000);
        assert_eq!(outgoing.held_bytes(), 0);
    }

    #[test]
    fn written_buffer_is_pooled_by_the_size_of_its_allocation_and_as_a_whole() {
        let pooled = |of: usize, bytes: usize| {
            let mut outgoing = Outgoing { small: BytesMut::with_capacity(of), ..Outgoing::default() };
            outgoing.small().extend_from_slice(&vec![0; bytes]);
            outgoing.advance(bytes - 1);
            outgoing.advance(1);
            POOL.with_borrow_mut(Vec::pop).map(|buffer| buffer.capacity())
        };
        assert_eq!(pooled(READ_BYTES, READ_BYTES), Some(READ_BYTES));
        assert_eq!(pooled(8 << 20, (8 << 20) - READ_BYTES / 2), None);
    }

    #[test]
    fn buffer_that_has_been_written_is_the_next_ones() {
        let spare = || POOL.with_borrow(Vec::len);
        let before = spare();
        let mut first = Outgoing::default();
        first.small().extend_from_slice(&[0; 100]);
        assert!(spare() <= before);
        let taken = spare();
        first.advance(100);
        assert_eq!((first.small.capacity(), spare()), (0, taken + 1), "what was written gives its buffer back");
        let mut second = Outgoing::default();
        second.small().extend_from_slice(&[0; 100]);
        assert_eq!(spare(), taken, "and the next one takes it");
    }
}
