//! One direction of a connection: a kernel buffer between a writer and a reader that fail separately.
//!
//! Bytes only: it knows nothing of frames, so that a cut may fall at any byte. Never holds more than its capacity.
//!
//! Two make a connection in `net`; broken by `faults`.

use std::collections::VecDeque;

/// One direction.
#[derive(Debug)]
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    writer_open: bool,
    reader_open: bool,
    /// Nothing arrives before: a stall, or an end that is noticed late.
    frozen_until: u64,
    /// The reader is gone and the writer does not know yet: until then its bytes are taken and lost.
    swallows_until: u64,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Taken(usize),
    Full,
    Broken,
}

/// What a read did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Bytes(usize),
    Nothing,
    End,
}

impl Pipe {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity,
            writer_open: true,
            reader_open: true,
            frozen_until: 0,
            swallows_until: 0,
        }
    }

    /// Takes as many of `bytes` as there is room for, at most `at_most`.
    pub(super) fn write(&mut self, now: u64, bytes: &[u8], at_most: usize) -> Write {
        if !self.reader_open {
            return if now < self.swallows_until { Write::Taken(bytes.len().min(at_most)) } else { Write::Broken };
        }
        let count = bytes.len().min(at_most).min(self.capacity - self.bytes.len());
        if count == 0 {
            return Write::Full;
        }
        self.bytes.extend(&bytes[..count]);
        Write::Taken(count)
    }

    /// Appends up to `at_most` bytes that have arrived to `into`.
    pub(super) fn read(&mut self, now: u64, into: &mut Vec<u8>, at_most: usize) -> Read {
        if now < self.frozen_until {
            return Read::Nothing;
        }
        if self.bytes.is_empty() {
            return if self.writer_open { Read::Nothing } else { Read::End };
        }
        let count = self.bytes.len().min(at_most);
        into.extend(self.bytes.drain(..count));
        Read::Bytes(count)
    }

    /// The writing end is closed: what is in the buffer can be read, then the end.
    pub(super) fn close_writer(&mut self) {
        self.writer_open = false;
    }

    /// The reading end is closed; the writer sees it at `notice`.
    pub(super) fn close_reader(&mut self, notice: u64) {
        self.reader_open = false;
        self.swallows_until = notice;
        self.bytes.clear();
    }

    pub(super) fn freeze(&mut self, until: u64) {
        self.frozen_until = self.frozen_until.max(until);
    }

    /// Loses everything behind the first `keep` bytes.
    pub(super) fn cut(&mut self, keep: usize) {
        self.bytes.truncate(keep);
    }

    /// Nothing holds it up any more.
    pub(super) fn thaw(&mut self) {
        self.frozen_until = 0;
        self.swallows_until = 0;
    }

    /// Bytes wait in it that cannot be read yet.
    pub(super) fn is_held_up(&self, now: u64) -> bool {
        now < self.frozen_until && !self.bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_closed_writer_are_read_before_the_end() {
        let mut pipe = Pipe::new(4);
        assert_eq!(pipe.write(0, b"hello", 9), Write::Taken(4));
        assert_eq!(pipe.write(0, b"o", 9), Write::Full);
        pipe.close_writer();
        let mut into = Vec::new();
        assert_eq!(pipe.read(0, &mut into, 3), Read::Bytes(3));
        assert_eq!(pipe.read(0, &mut into, 3), Read::Bytes(1));
        assert_eq!(pipe.read(0, &mut into, 3), Read::End);
        assert_eq!(into, b"hell");
    }

    #[test]
    fn reader_that_is_gone_takes_bytes_until_it_is_noticed() {
        let mut pipe = Pipe::new(4);
        pipe.close_reader(10);
        assert_eq!(pipe.write(9, b"hello", 9), Write::Taken(5));
        assert_eq!(pipe.write(10, b"hello", 9), Write::Broken);
    }
}
