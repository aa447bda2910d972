//! The header of a frame: 16 bytes that every kind has, 16 more for a request, 8 more for a ping, then TLVs.
//!
//! Hand-laid and little-endian, so that routing and acks never depend on serde. Unknown TLVs are skipped; an unknown
//! kind is skipped if its flags say so. SPEC: PROTOCOL §3.
//!
//! Read and written by `session`.

use bytes::{BufMut, BytesMut};

use super::reader::Reader;

/// Bytes that every frame begins with.
pub const COMMON_BYTES: usize = 16;
/// Bytes of a request before its TLVs and its body.
pub const REQUEST_BYTES: usize = 32;

/// Where the kind stands in a frame.
pub(crate) const KIND_AT: usize = 0;
/// Where the flags stand in a frame.
pub(crate) const FLAGS_AT: usize = 1;
/// Where the remaining deadline of a request stands in its frame.
pub(crate) const DEADLINE_AT: usize = 4;
/// Where the floor of a request stands in its frame.
pub(crate) const FLOOR_AT: usize = COMMON_BYTES;

/// A receiver that does not know the kind skips the frame.
pub const IGNORABLE: u8 = 0b0000_0001;
/// The frame belongs to the calls that the accepting side makes: its requests, and the answers to them.
pub const REVERSE: u8 = 0b0000_0010;
/// On an Item: it is of the stream's lossy type.
pub const LOSSY: u8 = 0b0000_0100;

/// TLV: the first credit of the stream that a request opens; items u32, bytes u32.
pub const TLV_CREDIT: u16 = 1;
/// TLV: W3C *traceparent*, as text.
pub const TLV_TRACEPARENT: u16 = 2;
/// TLV: W3C *tracestate*, as text; only beside a traceparent.
pub const TLV_TRACESTATE: u16 = 3;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal),* $(,)?) => {
        /// What a frame is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $number),* }

        impl Kind {
            /// Every kind, in the order of its numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The kind of that number.
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Its number on the wire.
            pub fn number(self) -> u8 {
                match self { $(Self::$name => $number),* }
            }
        }
    };
}

kinds! {
    /// Client: who I am, which service I want, which epoch of my lane this is.
    Hello = 1,
    /// Server: accepted; whether the lane was resumed.
    Welcome = 2,
    /// A request. `aux`: remaining deadline in ms.
    Request = 3,
    /// Applied; the body is the request's ack.
    Ack = 4,
    /// Not applied. `aux`: [`NackCode`]; the body is the rejection, or text.
    Nack = 5,
    /// In doubt: the handler was stopped. `aux`: [`FailedCode`].
    Failed = 6,
    /// Stop the handler of `id`, or the stream that it opened.
    Cancel = 7,
    /// What became of `id`?
    Resolve = 8,
    /// What became of `id`. `aux`: [`ResolutionCode`].
    Resolution = 9,
    /// Every request up to `id` has been taken up; the body: the highest for which a handler has begun u64, or none.
    Received = 10,
    /// An item of the stream that `id` opened.
    Item = 11,
    /// The stream that `id` opened is over.
    End = 12,
    /// More credit for the stream `id`. `aux`: items; the body: bytes u32.
    Credit = 13,
    /// Are you there? Carries the floor.
    Ping = 14,
    /// Yes; `id` is the ping's.
    Pong = 15,
    /// No request above `id` will be taken up.
    Drain = 16,
    /// The connection ends. `aux`: [`GoodbyeCode`]; `id`: the last request taken up.
    Goodbye = 17,
    /// A request that was taken back before it was written.
    Void = 18,
    /// The ids, besides those at or above the floor, that the client still holds. `id`: the floor.
    Park = 19,
    /// Items of the stream that `id` opened were dropped here. The body: [`Gap`].
    Resync = 20,
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),*, /// A number that this version does not know.
            Other(u32) }

        impl $name {
            /// The code of that number.
            pub fn from_number(number: u32) -> Self {
                match number { $($number => Self::$variant,)* other => Self::Other(other) }
            }

            /// Its number on the wire.
            pub fn number(self) -> u32 {
                match self { $(Self::$variant => $number,)* Self::Other(other) => other }
            }
        }
    };
}

codes! {
    /// Why a request was not applied.
    NackCode {
        /// The handler said no; the body is its rejection.
        Rejected = 1,
        /// No such method.
        UnknownMethod = 2,
        /// The method has another schema here.
        SchemaMismatch = 3,
        /// The body could not be read; the body of this frame says why.
        BadBody = 4,
        /// Not from you.
        Unauthorized = 5,
        /// Too much to do; the body may hold ms to wait as a u32.
        Overloaded = 6,
        /// The window is full.
        WindowFull = 7,
        /// Shutting down.
        Draining = 8,
        /// The deadline passed before a handler saw it.
        Expired = 9,
        /// The id was resolved as never seen, or lies below the floor.
        Burnt = 10,
        /// The service's queue is full or closed.
        Unavailable = 11,
    }
}

codes! {
    /// Why the outcome of a request is in doubt.
    FailedCode {
        /// The handler panicked.
        Panicked = 1,
        /// The responder was dropped.
        Dropped = 2,
        /// Stopped by a cancel or with the server.
        Aborted = 3,
        /// Stopped by its deadline.
        Deadline = 4,
        /// The answer is larger than declared.
        AnswerTooLarge = 5,
    }
}

codes! {
    /// What became of a request.
    ResolutionCode {
        /// Applied; the body is the ack.
        Applied = 1,
        /// Not applied: the body is a [`NackCode`] as u32 and then its body.
        Nacked = 2,
        /// In doubt: the body is a [`FailedCode`] as u32.
        Failed = 3,
        /// The handler still runs; its answer will follow on this connection.
        Running = 4,
        /// Never seen, and refused from now on.
        NeverSeen = 5,
        /// Below the floor: the client itself gave it up.
        Forgotten = 6,
    }
}

codes! {
    /// Why a connection ends.
    GoodbyeCode {
        /// The sender is done.
        Done = 1,
        /// What came first was no Hello of this protocol.
        NotThisProtocol = 2,
        /// No wire version in common.
        WireVersion = 3,
        /// Another service or version.
        Service = 4,
        /// An epoch that is not newer than the one accepted.
        StaleEpoch = 5,
        /// The user may not connect.
        Unauthorized = 6,
        /// Too many connections or lanes.
        TooMany = 7,
        /// Shutting down.
        Draining = 8,
        /// No Hello in time.
        HandshakeTimeout = 9,
        /// A frame larger than allowed was announced.
        FrameTooLarge = 10,
        /// A frame broke the protocol.
        Violation = 11,
        /// Answers were left unread.
        Stalled = 12,
    }
}

codes! {
    /// Why a stream ended.
    EndCode {
        /// All items were sent.
        Finished = 1,
        /// The handler gave it up.
        Aborted = 2,
        /// The reader did not keep up, and the stream's policy is to close then.
        TooSlow = 3,
    }
}

/// A frame taken apart. Borrows from the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// [`IGNORABLE`], [`REVERSE`].
    pub flags: u8,
    /// Its meaning depends on the kind.
    pub aux: u32,
    /// A request's id, or what the kind says.
    pub id: u64,
    /// The lowest id that the client may still repeat or resolve (requests and pings).
    pub floor: u64,
    /// A request's method.
    pub method: u16,
    /// A request's method version.
    pub version: u16,
    /// The TLVs, not yet read.
    pub tlvs: Tlvs<'a>,
    /// What follows.
    pub body: &'a [u8],
}

/// A frame that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// It ends within its header.
    #[error("a frame of {bytes} bytes ends within its header")]
    Short {
        /// Its size.
        bytes: usize,
    },
    /// A kind that this version does not know and may not skip.
    #[error("frame kind {0} is unknown and may not be skipped")]
    UnknownKind(u8),
    /// TLVs that end within one.
    #[error("the frame's TLVs end within one of them")]
    Tlv,
}

/// Whether a frame belongs to the calls of the accepting side.
pub fn is_reverse(frame: &[u8]) -> bool {
    frame.get(FLAGS_AT).is_some_and(|flags| flags & REVERSE != 0)
}

/// Takes a frame apart. `Ok(None)` is a frame to skip.
///
/// # Errors
/// [`HeaderError`]: the connection cannot go on.
pub fn parse(frame: &[u8]) -> Result<Option<Frame<'_>>, HeaderError> {
    let short = HeaderError::Short { bytes: frame.len() };
    let mut reader = Reader(frame);
    let number = reader.u8().ok_or(short)?;
    let flags = reader.u8().ok_or(short)?;
    let Some(kind) = Kind::from_number(number) else {
        return if flags & IGNORABLE == 0 { Err(HeaderError::UnknownKind(number)) } else { Ok(None) };
    };
    let tlv_bytes = usize::from(reader.u16().ok_or(short)?);
    let aux = reader.u32().ok_or(short)?;
    let id = reader.u64().ok_or(short)?;
    let (mut floor, mut method, mut version) = (0, 0, 0);
    if matches!(kind, Kind::Request | Kind::Void | Kind::Ping) {
        floor = reader.u64().ok_or(short)?;
    }
    if matches!(kind, Kind::Request | Kind::Void) {
        method = reader.u16().ok_or(short)?;
        version = reader.u16().ok_or(short)?;
        let _reserved = reader.u32().ok_or(short)?;
    }
    let tlvs = Tlvs(reader.bytes(tlv_bytes).ok_or(short)?);
    if tlvs.clone().any(|tlv| tlv.is_err()) {
        return Err(HeaderError::Tlv);
    }
    Ok(Some(Frame { kind, flags, aux, id, floor, method, version, tlvs, body: reader.0 }))
}

/// Writes the header that every kind has, without TLVs.
pub fn put_common(out: &mut BytesMut, kind: Kind, flags: u8, aux: u32, id: u64) {
    put_common_with(out, kind, flags, 0, aux, id);
}

fn put_common_with(out: &mut BytesMut, kind: Kind, flags: u8, tlv_bytes: u16, aux: u32, id: u64) {
    let mut header = [0_u8; COMMON_BYTES];
    let [k, f, t0, t1, a0, a1, a2, a3, i0, i1, i2, i3, i4, i5, i6, i7] = &mut header;
    [*k, *f] = [kind.number(), flags];
    [*t0, *t1] = tlv_bytes.to_le_bytes();
    [*a0, *a1, *a2, *a3] = aux.to_le_bytes();
    [*i0, *i1, *i2, *i3, *i4, *i5, *i6, *i7] = id.to_le_bytes();
    out.put_slice(&header);
}

/// What a request's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// [`REVERSE`], if the accepting side calls.
    pub flags: u8,
    /// Its id.
    pub id: u64,
    /// The lowest id that the client may still repeat or resolve.
    pub floor: u64,
    /// The method.
    pub method: u16,
    /// The method's version.
    pub version: u16,
    /// What remains until the deadline, in ms.
    pub remaining_ms: u32,
    /// First credit of the stream that it opens: items and bytes.
    pub credit: Option<(u32, u32)>,
}

/// Writes a request's header without further TLVs.
pub fn put_request(out: &mut BytesMut, header: &RequestHeader) {
    put_request_with(out, header, &[]);
}

/// Writes a request's header and behind its own TLVs those of `tlvs`, which [`put_tlv`] made; if they are more than a
/// header can announce, they are left out.
pub fn put_request_with(out: &mut BytesMut, header: &RequestHeader, tlvs: &[u8]) {
    let own = if header.credit.is_some() { 12_u16 } else { 0 };
    let further = u16::try_from(tlvs.len()).ok().and_then(|further| own.checked_add(further));
    let (tlv_bytes, tlvs) = further.map_or((own, &[][..]), |tlv_bytes| (tlv_bytes, tlvs));
    put_common_with(out, Kind::Request, header.flags, tlv_bytes, header.remaining_ms, header.id);
    out.put_u64_le(header.floor);
    out.put_u16_le(header.method);
    out.put_u16_le(header.version);
    out.put_u32_le(0);
    if let Some((items, bytes)) = header.credit {
        out.put_u16_le(TLV_CREDIT);
        out.put_u16_le(8);
        out.put_u32_le(items);
        out.put_u32_le(bytes);
    }
    out.put_slice(tlvs);
}

/// Appends a TLV. A value that is longer than a TLV can say is left out.
pub fn put_tlv(tlvs: &mut Vec<u8>, kind: u16, value: &[u8]) {
    if let Ok(length) = u16::try_from(value.len()) {
        tlvs.extend_from_slice(&kind.to_le_bytes());
        tlvs.extend_from_slice(&length.to_le_bytes());
        tlvs.extend_from_slice(value);
    }
}

/// Writes a ping's header.
pub fn put_ping(out: &mut BytesMut, nonce: u64, floor: u64) {
    put_common(out, Kind::Ping, 0, 0, nonce);
    out.put_u64_le(floor);
}

/// Type-length-value fields: u16 type, u16 length, the value.
#[derive(Clone, Debug, PartialEq, Eq, Copy, Default)]
pub struct Tlvs<'a>(pub(super) &'a [u8]);

impl<'a> Tlvs<'a> {
    /// None at all.
    pub const EMPTY: Self = Self(&[]);

    /// The TLVs that stand in `bytes`; a broken one ends them.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Their size, in bytes.
    pub fn bytes(self) -> usize {
        self.0.len()
    }

    /// The value of the first field of that type.
    pub fn find(self, wanted: u16) -> Option<&'a [u8]> {
        let mut fields = self;
        fields.find_map(|field| field.ok().filter(|(kind, _)| *kind == wanted).map(|(_, value)| value))
    }

    /// The first credit of a stream: items and bytes.
    pub fn credit(self) -> Option<(u32, u32)> {
        let mut reader = Reader(self.find(TLV_CREDIT)?);
        Some((reader.u32()?, reader.u32()?))
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<(u16, &'a [u8]), HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut reader = Reader(self.0);
        let field = (|| {
            let kind = reader.u16()?;
            let length = usize::from(reader.u16()?);
            Some((kind, reader.bytes(length)?))
        })();
        self.0 = if field.is_some() { reader.0 } else { &[] };
        Some(field.ok_or(HeaderError::Tlv))
    }
}

/// Items of a stream that were dropped, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// Dropped items of the stream's lossless type.
    pub lossless: u64,
    /// Dropped items of its lossy type.
    pub lossy: u64,
}

impl Gap {
    /// One item.
    pub fn of(lossy: bool) -> Self {
        Self { lossless: u64::from(!lossy), lossy: u64::from(lossy) }
    }

    /// Whether nothing is missing.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// All dropped items.
    pub fn items(self) -> u64 {
        self.lossless.saturating_add(self.lossy)
    }

    /// Both gaps in one.
    pub fn add(&mut self, other: Self) {
        self.lossless = self.lossless.saturating_add(other.lossless);
        self.lossy = self.lossy.saturating_add(other.lossy);
    }

    /// The body of a Resync: the number of the next item, then what is missing before it.
    pub fn to_bytes(self, cursor: u64) -> [u8; 24] {
        let mut body = [0; 24];
        for (place, number) in body.as_chunks_mut::<8>().0.iter_mut().zip([cursor, self.lossless, self.lossy]) {
            *place = number.to_le_bytes();
        }
        body
    }

    /// Reads the body of a Resync: the number of the next item, and what is missing before it.
    pub fn parse(body: &[u8]) -> Option<(u64, Self)> {
        let mut reader = Reader(body);
        Some((reader.u64()?, Self { lossless: reader.u64()?, lossy: reader.u64()? }))
    }
}

/// The ids of a Park frame's body, and whether it was whole.
pub fn parse_ids(body: &[u8]) -> Option<impl Iterator<Item = u64> + '_> {
    let (chunks, rest) = body.as_chunks::<8>();
    rest.is_empty().then(|| chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)))
}

/// The u32 at the front of a body, and what follows it.
pub fn split_u32(body: &[u8]) -> Option<(u32, &[u8])> {
    let mut reader = Reader(body);
    let number = reader.u32()?;
    Some((number, reader.0))
}

/// The u64 at the front of a body.
pub fn split_u64(body: &[u8]) -> Option<u64> {
    Reader(body).u64()
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
