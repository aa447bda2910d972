//! A body that is kept: inline when small, counted when large.
//!
//! Never allocates for up to [`INLINE_BYTES`]; that is what keeps a small call free of allocations.
//!
//! Held by the windows of `client` and `server` until the other side's floor has passed.

use bytes::Bytes;

use crate::wire::shared;

/// The largest body that is kept without an allocation, in bytes. LIMIT: a 64 B payload with its lengths and tags,
/// and room for small structs; two cache lines with the tag.
pub const INLINE_BYTES: usize = 118;

/// The bytes of an ack, a rejection or an item.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Small: the length, and the bytes.
    Inline(u8, [u8; INLINE_BYTES]),
    /// Large.
    Shared(Bytes),
}

impl Payload {
    /// No bytes.
    pub const EMPTY: Self = Self::Inline(0, [0; INLINE_BYTES]);

    /// `bytes`, kept: copied, unless they are most of a buffer that is counted (see `wire::shared`).
    pub fn copy(bytes: &[u8]) -> Self {
        let mut inline = [0; INLINE_BYTES];
        match (inline.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(bytes);
                Self::Inline(length, inline)
            }
            _ => Self::Shared(shared::keep(bytes)),
        }
    }

    /// Gives the bytes to `read`, during which large pieces of them can be kept without a copy.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Self::Inline(..) => read(self.as_slice()),
            Self::Shared(bytes) => shared::within(bytes, bytes.len(), || read(bytes)),
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or(&[]),
            Self::Shared(bytes) => bytes,
        }
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Payload {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_of_every_size_around_the_boundary_keeps_its_bytes() {
        for size in [0, 1, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 255, 256, 5000] {
            let bytes: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let payload = Payload::copy(&bytes);
            assert_eq!(payload.as_slice(), bytes);
            assert_eq!(matches!(payload, Payload::Inline(..)), size <= INLINE_BYTES);
        }
    }
}
