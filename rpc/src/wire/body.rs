//! The bodies of messages: one value, as serde and bincode 2 ("standard": little endian, variable-length integers)
//! write it. SPEC: PROTOCOL §5.
//!
//! The only place that knows the codec. Never panics on bytes from outside, never leaves part of a value behind when
//! encoding fails, never accepts a body that is not used to its end, and never allocates for what a length promises
//! before the bytes are there.
//!
//! Callers cut the slice to one frame's body first; routing and answers never depend on what is in it.
//!
//! # Why a decoded body costs what it costs
//! - **Strings and byte strings.** bincode allocates an owned one when it has read its length, before it looks whether
//!   the bytes exist. The `guard` has every string read as a borrowed one, which is cut from the slice: a length that
//!   passes the end is an error before any allocation, and the copy is as long as what was sent.
//! - **Sequences.** A length above the body's size is refused at once (an element is at least one byte, [`Wire`] sees
//!   to it). [`List`](crate::List) then checks its `MAX`, reserves a page at most, and grows with what has arrived.
//! - **Recursion** cannot be: a type that contains itself has no [`Wire::FINGERPRINT`], hence no `Wire`.
//! - **The limit** (`CLAIMS_MAX`) is the second line behind these, for what a later codec may do.
//!
//! LIMIT: bincode's limit counts *claims*: what it is about to read, at the width of the decoded type, not of its bytes.
//! A `u64`, an `i64` or a length claims 8 and occupies 1 to 9 bytes, a `u32` or a variant's index claims 4 and occupies
//! 1 to 5, a `u16` claims 2 and occupies 1 to 3; bytes, tags, floats, chars and the contents of strings claim what they
//! occupy. So a body of n bytes never claims more than 8 n, and with a limit of 8 times the largest body whatever a
//! sender could encode within a frame decodes. A smaller limit would refuse valid bodies, such as a list of small `u64`.

use std::cell::Cell;

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use bincode::enc::write::Writer;
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::outgoing;
use crate::limits::KEPT_BUFFER_BYTES_MAX;
use crate::request::Wire;

mod guard;

/// The largest body that can be encoded or decoded at all: 64 MiB. Connections agree on less.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// What decoding may claim: the most that a body of [`BODY_BYTES_MAX`] can; see the module's documentation.
const CLAIMS_MAX: usize = 8 * BODY_BYTES_MAX;

/// LIMIT: what of a foreign error's text is kept; it may quote what the peer sent.
const REASON_CHARS_MAX: usize = 200;

const CONFIG: Configuration<LittleEndian, Varint, Limit<CLAIMS_MAX>> = config::standard().with_limit::<CLAIMS_MAX>();

thread_local! {
    /// Where messages are encoded before it is known where they go.
    static SCRATCH: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// A value could not be written. The message was not sent; nothing of it is left in the buffer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The value needs more bytes than it may have.
    #[error("the encoded value is larger than {bytes_max} bytes")]
    TooLarge {
        /// How many bytes it may have.
        bytes_max: usize,
    },
    /// The value's own `Serialize` refused, or asked for what the codec cannot do.
    #[error("the value cannot be encoded: {reason}")]
    Value {
        /// What it said.
        reason: String,
    },
}

/// A body is not one value of the expected type. The peer that sent it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The body is larger than any may be.
    #[error("a body of {bytes} bytes where at most {BODY_BYTES_MAX} may be")]
    TooLarge {
        /// The body's size.
        bytes: usize,
    },
    /// The body ends before the value does.
    #[error("the body ends in the middle of a value")]
    Truncated,
    /// The value ends before the body does.
    #[error("{bytes} bytes are left over after the value")]
    LeftOver {
        /// How many bytes nobody asked for.
        bytes: usize,
    },
    /// The body claims more than one of its size can.
    #[error("the body claims more than its size allows")]
    Limit,
    /// A byte or a number is none that the type has: an unknown variant, a `bool` of 2, text that is not UTF-8, a list
    /// that is too long, or whatever the type itself refuses.
    #[error("invalid value: {reason}")]
    Invalid {
        /// What is wrong, in a bounded sentence.
        reason: String,
    },
}

/// Appends the bytes of `value` to `out`.
///
/// # Errors
/// `out` is as it was before.
pub fn encode<T: Serialize + ?Sized>(value: &T, out: &mut BytesMut) -> Result<(), EncodeError> {
    encode_within(value, out, BODY_BYTES_MAX)
}

/// Appends the bytes of `value` to `out` if there are no more than `bytes_max`; stops where there would be.
///
/// # Errors
/// `out` is as it was before.
pub fn encode_within<T: Serialize + ?Sized>(
    value: &T,
    out: &mut BytesMut,
    bytes_max: usize,
) -> Result<(), EncodeError> {
    let bytes_max = bytes_max.min(BODY_BYTES_MAX);
    let mut body = Body { start: out.len(), bytes_max, out, full: false, complete: false };
    match bincode::serde::encode_into_writer(value, &mut body, CONFIG) {
        Ok(()) => {
            body.complete = true;
            Ok(())
        }
        Err(_) if body.full => Err(EncodeError::TooLarge { bytes_max }),
        Err(bincode::error::EncodeError::OtherString(reason)) => Err(EncodeError::Value { reason: bounded(reason) }),
        Err(other) => Err(EncodeError::Value { reason: bounded(other.to_string()) }),
    }
}

/// Encodes in the buffer of this thread and gives it to `then`, which may take bytes out of it. A `Serialize` that encodes
/// something itself is given another buffer.
pub(crate) fn encode_in_scratch<T: Serialize + ?Sized, U>(
    value: &T,
    then: impl FnOnce(Result<&mut BytesMut, EncodeError>) -> U,
) -> U {
    let mut bytes = SCRATCH.take();
    bytes.clear();
    let result = match encode(value, &mut bytes) {
        Ok(()) => then(Ok(&mut bytes)),
        Err(error) => then(Err(error)),
    };
    if bytes.capacity() <= KEPT_BUFFER_BYTES_MAX {
        SCRATCH.set(bytes);
    }
    result
}

/// What was encoded, as bytes that can be kept; what comes next has a written body's buffer for it, if there is any. Holds
/// at most twice as much memory as it has bytes.
pub(crate) fn keep_encoded(bytes: &mut BytesMut) -> Bytes {
    if bytes.len() < bytes.capacity() / 2 {
        let kept = Bytes::copy_from_slice(bytes);
        // Too large for what is encoded here now: the next one of this size is to fit, and not to be copied.
        outgoing::keep_spare(std::mem::take(bytes));
        return kept;
    }
    std::mem::replace(bytes, outgoing::spare()).freeze()
}

/// Reads a value that occupies the whole of `bytes`.
///
/// # Errors
/// Whatever the bytes are, the answer is a value or an error; see [`DecodeError`].
pub fn decode<T: Wire + DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > BODY_BYTES_MAX {
        return Err(DecodeError::TooLarge { bytes: bytes.len() });
    }
    let (value, used) = bincode::serde::seed_decode_from_slice(guard::whole::<T>(bytes.len()), bytes, CONFIG)?;
    match bytes.len().saturating_sub(used) {
        0 => Ok(value),
        bytes => Err(DecodeError::LeftOver { bytes }),
    }
}

/// The part of a buffer that one value is being written to. Gives the buffer back as it was unless completed, also
/// when a `Serialize` panics.
struct Body<'a> {
    out: &'a mut BytesMut,
    start: usize,
    bytes_max: usize,
    full: bool,
    complete: bool,
}

impl Writer for &mut Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        let written = self.out.len().saturating_sub(self.start);
        if bytes.len() > self.bytes_max.saturating_sub(written) {
            self.full = true;
            return Err(bincode::error::EncodeError::UnexpectedEnd);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        if !self.complete {
            self.out.truncate(self.start);
        }
    }
}

impl From<bincode::error::DecodeError> for DecodeError {
    fn from(error: bincode::error::DecodeError) -> Self {
        use bincode::error::DecodeError as Codec;
        match error {
            Codec::UnexpectedEnd { .. } => Self::Truncated,
            Codec::LimitExceeded => Self::Limit,
            Codec::Utf8 { inner } => Self::Invalid { reason: inner.to_string() },
            Codec::InvalidBooleanValue(byte) => Self::Invalid { reason: format!("{byte} is no boolean") },
            Codec::InvalidCharEncoding(_) => Self::Invalid { reason: "no character".to_owned() },
            Codec::InvalidIntegerType { .. } => Self::Invalid { reason: "an integer of another width".to_owned() },
            Codec::UnexpectedVariant { found, .. } => Self::Invalid { reason: format!("{found} is no variant") },
            Codec::OtherString(reason) => Self::Invalid { reason: bounded(reason) },
            other => Self::Invalid { reason: bounded(other.to_string()) },
        }
    }
}

fn bounded(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
        reason.truncate(end);
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::List;

    /// Decodes with a limit of `LIMIT` claims instead of the largest body's.
    fn decode_claiming<const LIMIT: usize>(bytes: &[u8]) -> Result<List<u64, 1000>, DecodeError> {
        let config = config::standard().with_limit::<LIMIT>();
        let guard = guard::whole::<List<u64, 1000>>(bytes.len());
        Ok(bincode::serde::seed_decode_from_slice(guard, bytes, config)?.0)
    }

    #[test]
    fn limit_of_eight_claims_a_byte_admits_what_one_of_seven_refuses() {
        // 1 000 elements of one byte each: the densest claims that there are.
        let list = List::<u64, 1000>::from([1; 1000]);
        let mut body = BytesMut::new();
        assert_eq!(encode(&list, &mut body), Ok(()));
        assert_eq!(body.len(), 1003);
        assert_eq!(decode_claiming::<{ 8 * 1003 }>(&body), Ok(list));
        assert_eq!(decode_claiming::<{ 7 * 1003 }>(&body), Err(DecodeError::Limit));
    }

    #[test]
    fn reason_of_an_error_is_cut_at_a_character() {
        let long = "é".repeat(REASON_CHARS_MAX + 1);
        assert_eq!(bounded(long).chars().count(), REASON_CHARS_MAX);
        assert_eq!(bounded("short".to_owned()), "short");
    }
}
