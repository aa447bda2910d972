//! Decisions out of bytes: the fuzzer's input, read from the front.
//!
//! Ends quietly: what is missing counts as zero, and `is_empty` says so.

/// What is left of the input.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`, which is at most 256 and not 0.
    pub fn below(&mut self, bound: u16) -> u8 {
        (u16::from(self.byte()) % bound) as u8
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// A number around `middle` in most cases, else any.
    pub fn near(&mut self, middle: u64) -> u64 {
        match self.byte() {
            250 => u64::MAX,
            251 => u64::MAX - u64::from(self.byte()),
            252 => 0,
            253 => u64::from(self.u32()),
            254 => u64::from(self.u32()) << 32,
            255 => middle.wrapping_add(u64::from(self.u16())),
            byte => middle.wrapping_add(u64::from(byte % 16)).wrapping_sub(8),
        }
    }

    /// At most `max` bytes of the input.
    pub fn bytes(&mut self, max: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(max.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}
