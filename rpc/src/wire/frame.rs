//! Cutting a byte stream into frames and putting lengths before them: a big-endian u32, then that many bytes.
//!
//! The bytes are those of tokio-util's `LengthDelimitedCodec` with its default settings (shown by a test). It is not
//! used itself because it reserves what a length announces and takes a buffer per frame; here a frame is a slice of
//! the read buffer. SPEC: PROTOCOL §2.
//!
//! Fed by `io`; what it returns goes to `header`.

use bytes::BytesMut;

/// Bytes of the length before each frame.
pub const LENGTH_BYTES: usize = 4;

/// The outcome of looking for a frame at the front of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    /// A whole frame, and how many bytes it took, length included.
    Frame {
        /// The frame without its length.
        frame: &'a [u8],
        /// Bytes to skip to the next frame.
        consumed: usize,
    },
    /// The frame needs this many bytes in all, length included; more must be read.
    Incomplete {
        /// Bytes of the whole frame, or of the length where not even that is there.
        needed: usize,
    },
    /// The announced frame is larger than allowed. Nothing has been reserved for it.
    TooLarge {
        /// What was announced, in bytes.
        announced: usize,
    },
}

/// Looks for a frame at the front of `bytes`.
pub fn cut(bytes: &[u8], frame_bytes_max: usize) -> Cut<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Cut::Incomplete { needed: LENGTH_BYTES };
    };
    let announced = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if announced > frame_bytes_max {
        return Cut::TooLarge { announced };
    }
    let whole = LENGTH_BYTES.saturating_add(announced);
    match rest.get(..announced) {
        Some(frame) => Cut::Frame { frame, consumed: whole },
        None => Cut::Incomplete { needed: whole },
    }
}

/// Appends one frame: `fill` writes it, its length is put before it. When `fill` fails, or the frame is larger than
/// `frame_bytes_max`, `out` is left as it was.
///
/// # Errors
/// What `fill` says, or [`Oversized`] made into `E`.
pub fn append<E: From<Oversized>>(
    out: &mut BytesMut,
    frame_bytes_max: usize,
    fill: impl FnOnce(&mut BytesMut) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    let filled = fill(out);
    let bytes = out.len().saturating_sub(start).saturating_sub(LENGTH_BYTES);
    let outcome = filled.and_then(|()| match u32::try_from(bytes) {
        Ok(length) if bytes <= frame_bytes_max => Ok(length),
        _ => Err(Oversized { bytes, max: frame_bytes_max }.into()),
    });
    match outcome {
        Ok(length) => {
            if let Some(place) = out.get_mut(start..).and_then(|tail| tail.first_chunk_mut::<LENGTH_BYTES>()) {
                *place = length.to_be_bytes();
            }
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// A frame that this side must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {bytes} bytes is larger than the {max} that are allowed")]
pub struct Oversized {
    /// Its size, in bytes.
    pub bytes: usize,
    /// The largest size allowed, in bytes.
    pub max: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;
    use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

    fn put(out: &mut BytesMut, frame: &[u8], max: usize) -> Result<(), Oversized> {
        append(out, max, |out| {
            out.put_slice(frame);
            Ok(())
        })
    }

    #[test]
    fn frames_are_those_of_length_delimited_codec() {
        let mut ours = BytesMut::new();
        let mut theirs = BytesMut::new();
        for frame in [&b""[..], b"a", b"hello", &[7; 300]] {
            put(&mut ours, frame, 1 << 20).unwrap();
            LengthDelimitedCodec::new().encode(bytes::Bytes::copy_from_slice(frame), &mut theirs).unwrap();
        }
        assert_eq!(ours, theirs);
        let decoded = LengthDelimitedCodec::new().decode(&mut ours.clone()).unwrap().unwrap();
        assert_eq!(Cut::Frame { frame: &decoded, consumed: 4 }, cut(&ours, 10));
    }

    #[test]
    fn frame_cut_at_every_byte_is_incomplete_and_says_what_it_needs() {
        let mut bytes = BytesMut::new();
        put(&mut bytes, b"hello", 10).unwrap();
        for end in 0..4 {
            assert_eq!(cut(&bytes[..end], 10), Cut::Incomplete { needed: 4 });
        }
        for end in 4..9 {
            assert_eq!(cut(&bytes[..end], 10), Cut::Incomplete { needed: 9 });
        }
        assert_eq!(cut(&bytes, 10), Cut::Frame { frame: b"hello", consumed: 9 });
    }

    #[test]
    fn oversized_announcement_is_told_before_its_bytes_arrive() {
        assert_eq!(cut(&[0xff; 4], 1 << 20), Cut::TooLarge { announced: 0xffff_ffff });
        assert_eq!(cut(b"GET / HTTP/1.1\r\n", 4096), Cut::TooLarge { announced: 0x4745_5420 });
    }

    #[test]
    fn oversized_frame_leaves_the_buffer_as_it_was() {
        let mut bytes = BytesMut::from(&b"before"[..]);
        assert_eq!(put(&mut bytes, &[0; 11], 10), Err(Oversized { bytes: 11, max: 10 }));
        assert_eq!(&bytes[..], b"before");
    }
}
