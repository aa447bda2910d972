//! What one side is writing: the frames of a lane that answers, and behind them a claim of one that calls.
//!
//! Knows of each byte which lane has to hear that the kernel took it. Never mixes two claims.
//!
//! One in `client`, one in each `driver`; a connection carries a lane in each direction.

use bytes::{Buf, BytesMut};

/// Bytes on their way to the kernel.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pub(super) bytes: BytesMut,
    /// How many of them, from the front, stand before the claim, and how many are the claim's.
    before: usize,
    claimed: usize,
}

impl Writing {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends frames for which nobody waits.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.claimed == 0 {
            self.before += bytes.len();
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends the claim: there is one at most.
    pub(super) fn append_claim(&mut self, bytes: &[u8]) {
        assert_eq!(self.claimed, 0, "one claim at a time");
        self.before = self.bytes.len();
        self.claimed = bytes.len();
        self.bytes.extend_from_slice(bytes);
    }

    /// The kernel has taken so many; how many of these were the claim's.
    pub(super) fn taken(&mut self, count: usize) -> usize {
        self.bytes.advance(count);
        let before = self.before.min(count);
        self.before -= before;
        let claimed = self.claimed.min(count - before);
        self.claimed -= claimed;
        claimed
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_claim_between_others_are_told_apart() {
        let mut writing = Writing::default();
        writing.append(b"ab");
        writing.append_claim(b"cde");
        writing.append(b"fg");
        assert_eq!([writing.taken(1), writing.taken(2), writing.taken(3), writing.taken(1)], [0, 1, 2, 0]);
        assert!(writing.is_empty());
        writing.append_claim(b"h");
        assert_eq!(writing.taken(1), 1);
    }
}
