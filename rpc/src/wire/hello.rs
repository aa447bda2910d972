//! The two frames of a handshake.
//!
//! Hand-laid like every header. The magic tells a stray client apart before anything else is believed.
//! SPEC: PROTOCOL §3.3.
//!
//! Written by `session::client`, judged by `session::server`.

use bytes::{BufMut, BytesMut};

use super::header::{Kind, Tlvs, put_common};
use super::reader::Reader;
use crate::id::{Incarnation, PeerId};
use crate::request::MethodInfo;

/// What a Hello's payload begins with. The first byte is no ASCII, the last two catch newline translation.
pub const MAGIC: [u8; 8] = *b"\x8arpc1\r\n\0";

/// TLV of a Hello: a secret that both sides know, for transports without credentials.
pub const TLV_SECRET: u16 = 1;
/// TLV of a Hello: the service that the client answers when the accepting side calls.
pub const TLV_SERVES: u16 = 2;

/// Which service, in which version, with which methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInfo {
    /// The service's name.
    pub name: &'static str,
    /// Its version.
    pub version: u16,
    /// Its methods.
    pub methods: &'static [MethodInfo],
}

/// A client's first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The lowest wire version that it speaks.
    pub wire_min: u16,
    /// The highest wire version that it speaks.
    pub wire_max: u16,
    /// Who it is.
    pub peer: PeerId,
    /// Which life.
    pub incarnation: Incarnation,
    /// Which of its lanes.
    pub lane: u32,
    /// Which connection of that lane: 1, 2, 3, ...
    pub epoch: u64,
    /// The largest frame that it accepts, in bytes.
    pub frame_bytes_max: u32,
    /// How many ids it keeps open.
    pub window: u32,
    /// The service's version that it wants.
    pub service_version: u16,
    /// The service that it wants.
    pub service: &'a str,
    /// What else it says.
    pub tlvs: Tlvs<'a>,
    methods: &'a [u8],
}

/// What a Hello may say besides; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras<'a> {
    /// A secret that both sides know.
    pub secret: Option<&'a [u8]>,
    /// The service that the client answers when the accepting side calls.
    pub serves: Option<&'a ServiceInfo>,
}

/// The service that a client answers, as its Hello says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serves<'a> {
    /// The service's name.
    pub name: &'a str,
    /// Its version.
    pub version: u16,
    methods: &'a [u8],
}

/// One method as a Hello lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodClaim {
    /// The method's id.
    pub id: u16,
    /// Its version.
    pub version: u16,
    /// The fingerprint of its types.
    pub fingerprint: u64,
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The wire version that both will speak.
    pub wire: u16,
    /// The epoch whose Hello made the server's memory of this lane. An id that was first written on an earlier epoch
    /// may have been applied in a memory that is gone.
    pub born: u64,
    /// Who the server is.
    pub peer: PeerId,
    /// Which life.
    pub incarnation: Incarnation,
    /// The largest frame that it accepts, in bytes.
    pub frame_bytes_max: u32,
    /// How many ids it keeps open.
    pub window: u32,
}

/// Why a Hello could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Another protocol's bytes.
    #[error("the magic is wrong: this is no Hello of this protocol")]
    Magic,
    /// It ends too early, or its name is no UTF-8.
    #[error("the Hello is cut short or malformed")]
    Malformed,
}

impl Hello<'_> {
    /// Appends the frame's bytes, header included. The method list is the service's.
    pub fn put(&self, out: &mut BytesMut, service: &ServiceInfo, extras: Extras<'_>) {
        put_common(out, Kind::Hello, 0, 0, 0);
        out.put_slice(&MAGIC);
        out.put_u16_le(self.wire_min);
        out.put_u16_le(self.wire_max);
        out.put_u16_le(self.service_version);
        out.put_u16_le(0);
        out.put_slice(&self.peer.0);
        out.put_u64_le(self.incarnation.0);
        out.put_u64_le(self.epoch);
        out.put_u32_le(self.lane);
        out.put_u32_le(self.frame_bytes_max);
        out.put_u32_le(self.window);
        // A name longer than a frame cannot be: `Protocol` limits it to 255 bytes.
        out.put_u16_le(u16::try_from(self.service.len()).unwrap_or(u16::MAX));
        out.put_u16_le(u16::try_from(service.methods.len()).unwrap_or(u16::MAX));
        out.put_slice(self.service.as_bytes());
        put_methods(out, service.methods);
        extras.put(out);
    }

    /// The methods that the client claims to know.
    pub fn methods(&self) -> impl Iterator<Item = MethodClaim> + '_ {
        claims(self.methods)
    }
}

impl Extras<'_> {
    fn put(&self, out: &mut BytesMut) {
        if let Some(secret) = self.secret {
            put_tlv(out, TLV_SECRET, |out| out.put_slice(secret));
        }
        if let Some(service) = self.serves {
            put_tlv(out, TLV_SERVES, |out| {
                out.put_u16_le(service.version);
                // As in a Hello: `Protocol` limits a name to 255 bytes.
                out.put_u16_le(u16::try_from(service.name.len()).unwrap_or(u16::MAX));
                out.put_u16_le(u16::try_from(service.methods.len()).unwrap_or(u16::MAX));
                out.put_slice(service.name.as_bytes());
                put_methods(out, service.methods);
            });
        }
    }
}

impl<'a> Serves<'a> {
    fn parse(value: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(value);
        let version = reader.u16()?;
        let name_bytes = usize::from(reader.u16()?);
        let methods = usize::from(reader.u16()?);
        let name = std::str::from_utf8(reader.bytes(name_bytes)?).ok()?;
        let methods = reader.bytes(methods.checked_mul(METHOD_BYTES)?)?;
        Some(Self { name, version, methods })
    }

    /// The methods that it answers.
    pub fn methods(self) -> impl Iterator<Item = MethodClaim> + 'a {
        claims(self.methods)
    }
}

fn put_tlv(out: &mut BytesMut, kind: u16, value: impl FnOnce(&mut BytesMut)) {
    out.put_u16_le(kind);
    let at = out.len();
    out.put_u16_le(0);
    value(out);
    let bytes = out.len().saturating_sub(at).saturating_sub(2);
    debug_assert!(bytes <= usize::from(u16::MAX), "a Hello of more than its 4 KiB");
    if let Some(place) = out.get_mut(at..).and_then(|tail| tail.first_chunk_mut::<2>()) {
        *place = u16::try_from(bytes).unwrap_or(u16::MAX).to_le_bytes();
    }
}

fn put_methods(out: &mut BytesMut, methods: &[MethodInfo]) {
    for method in methods {
        out.put_u16_le(method.id);
        out.put_u16_le(method.version);
        out.put_u64_le(method.fingerprint);
    }
}

fn claims(methods: &[u8]) -> impl Iterator<Item = MethodClaim> + '_ {
    methods.chunks_exact(METHOD_BYTES).filter_map(|chunk| {
        let mut reader = Reader(chunk);
        Some(MethodClaim { id: reader.u16()?, version: reader.u16()?, fingerprint: reader.u64()? })
    })
}

impl<'a> Hello<'a> {
    /// A Hello to be sent; its methods are given to [`Hello::put`].
    #[allow(clippy::too_many_arguments, reason = "one argument a field of the frame")]
    pub fn new(
        peer: PeerId,
        incarnation: Incarnation,
        lane: u32,
        epoch: u64,
        frame_bytes_max: u32,
        window: u32,
        service: &'a str,
        service_version: u16,
    ) -> Self {
        let wire = crate::limits::WIRE_VERSION;
        Self {
            wire_min: wire,
            wire_max: wire,
            peer,
            incarnation,
            lane,
            epoch,
            frame_bytes_max,
            window,
            service_version,
            service,
            methods: &[],
            tlvs: Tlvs::default(),
        }
    }

    /// The service that the client answers when the accepting side calls, if it answers one.
    pub fn serves(&self) -> Option<Serves<'a>> {
        self.tlvs.find(TLV_SERVES).and_then(Serves::parse)
    }

    /// The secret that it shows, if any.
    pub fn secret(&self) -> Option<&'a [u8]> {
        self.tlvs.find(TLV_SECRET)
    }

    /// Reads the body of a Hello frame.
    ///
    /// # Errors
    /// [`HelloError`].
    pub fn parse(body: &'a [u8]) -> Result<Self, HelloError> {
        let mut reader = Reader(body);
        match reader.array::<8>() {
            Some(magic) if magic == MAGIC => {}
            _ => return Err(HelloError::Magic),
        }
        (|| {
            let wire_min = reader.u16()?;
            let wire_max = reader.u16()?;
            let service_version = reader.u16()?;
            let _reserved = reader.u16()?;
            let peer = PeerId(reader.array()?);
            let incarnation = Incarnation(reader.u64()?);
            let epoch = reader.u64()?;
            let lane = reader.u32()?;
            let frame_bytes_max = reader.u32()?;
            let window = reader.u32()?;
            let name_bytes = usize::from(reader.u16()?);
            let methods = usize::from(reader.u16()?);
            let service = std::str::from_utf8(reader.bytes(name_bytes)?).ok()?;
            let methods = reader.bytes(methods.checked_mul(METHOD_BYTES)?)?;
            let tlvs = Tlvs(reader.0);
            let broken = |(kind, value)| kind == TLV_SERVES && Serves::parse(value).is_none();
            if { tlvs }.any(|tlv| tlv.map_or(true, broken)) {
                return None;
            }
            Some(Self {
                wire_min,
                wire_max,
                peer,
                incarnation,
                lane,
                epoch,
                frame_bytes_max,
                window,
                service_version,
                service,
                tlvs,
                methods,
            })
        })()
        .ok_or(HelloError::Malformed)
    }
}

impl Welcome {
    /// Appends the frame's bytes, header included.
    pub fn put(&self, out: &mut BytesMut) {
        put_common(out, Kind::Welcome, 0, 0, 0);
        out.put_u16_le(self.wire);
        out.put_u16_le(0);
        out.put_slice(&self.peer.0);
        out.put_u64_le(self.incarnation.0);
        out.put_u64_le(self.born);
        out.put_u32_le(self.frame_bytes_max);
        out.put_u32_le(self.window);
    }

    /// Reads the body of a Welcome frame.
    ///
    /// # Errors
    /// [`HelloError::Malformed`].
    pub fn parse(body: &[u8]) -> Result<Self, HelloError> {
        let mut reader = Reader(body);
        (|| {
            let wire = reader.u16()?;
            let _reserved = reader.u16()?;
            let peer = PeerId(reader.array()?);
            let incarnation = Incarnation(reader.u64()?);
            let born = reader.u64()?;
            let frame_bytes_max = reader.u32()?;
            let window = reader.u32()?;
            Some(Self { wire, peer, incarnation, born, frame_bytes_max, window })
        })()
        .ok_or(HelloError::Malformed)
    }
}

const METHOD_BYTES: usize = 12;

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
