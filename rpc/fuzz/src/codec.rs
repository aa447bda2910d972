//! Bytes from outside: cut, taken apart, decoded. A value or a typed error, and what was read can be written again.

use bytes::BytesMut;
use rpc::wire::body::{self, DecodeError};
use rpc::wire::frame::{Cut, LENGTH_BYTES, cut};
use rpc::wire::header::{self, IGNORABLE, Kind, RequestHeader};
use rpc::wire::hello::{Hello, MAGIC, Welcome};
use rpc::{Blob, List, Wire};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::choices::Choices;

/// Whole frames follow each other without a gap, none is larger than allowed, and an incomplete one says truly how
/// much it needs.
pub fn frame(input: &[u8]) {
    let mut choices = Choices(input);
    let max = usize::from(choices.u16());
    let stream = choices.0;
    let mut at = 0;
    loop {
        match cut(&stream[at..], max) {
            Cut::Frame { frame, consumed } => {
                assert!(frame.len() <= max && consumed == LENGTH_BYTES + frame.len());
                assert_eq!(frame, &stream[at + LENGTH_BYTES..at + consumed]);
                assert_eq!(
                    cut(&stream[at..at + consumed], max),
                    Cut::Frame { frame, consumed },
                    "no more than it took"
                );
                let _ = header::parse(frame);
                at += consumed;
            }
            Cut::Incomplete { needed } => {
                assert!(needed > stream.len() - at && needed <= LENGTH_BYTES + max.max(LENGTH_BYTES));
                return;
            }
            Cut::TooLarge { announced } => return assert!(announced > max),
        }
    }
}

/// A header that was read and is written again reads the same; TLVs end within the frame.
pub fn header(input: &[u8]) {
    let Ok(Some(frame)) = header::parse(input) else { return };
    assert_eq!(Some(frame.kind), input.first().and_then(|number| Kind::from_number(*number)));
    assert!(frame.body.len() <= input.len() - header::COMMON_BYTES);
    assert!(input.ends_with(frame.body));
    for wanted in [0, header::TLV_CREDIT, header::TLV_TRACEPARENT, 3, u16::MAX] {
        if let Some(value) = frame.tlvs.find(wanted) {
            assert!(value.len() < input.len());
        }
    }
    let _ = header::split_u32(frame.body);
    if let Some(ids) = header::parse_ids(frame.body) {
        assert_eq!(ids.count() * 8, frame.body.len());
    }
    let mut again = BytesMut::new();
    if frame.kind == Kind::Request {
        let header = RequestHeader {
            flags: frame.flags & header::REVERSE,
            id: frame.id,
            floor: frame.floor,
            method: frame.method,
            version: frame.version,
            remaining_ms: frame.aux,
            credit: frame.tlvs.credit(),
        };
        header::put_request(&mut again, &header);
    } else if !matches!(frame.kind, Kind::Void | Kind::Ping) {
        header::put_common(&mut again, frame.kind, frame.flags, frame.aux, frame.id);
    } else {
        return;
    }
    again.extend_from_slice(frame.body);
    let same = header::parse(&again).expect("what was written can be read").expect("its kind is known");
    assert_eq!((same.kind, same.aux, same.id, same.body), (frame.kind, frame.aux, frame.id, frame.body));
    assert_eq!((same.floor, same.method, same.version), (frame.floor, frame.method, frame.version));
    assert_eq!(same.tlvs.credit(), if frame.kind == Kind::Request { frame.tlvs.credit() } else { None });
    // A kind that a later version may add is skipped where it says so, and only there.
    let mut unknown = input.to_vec();
    unknown[0] = 0xee;
    assert_eq!(header::parse(&unknown).is_ok(), frame.flags & IGNORABLE != 0);
}

/// A handshake that was read is as large as it says, and its method list ends.
pub fn hello(input: &[u8]) {
    // The magic would have to be guessed.
    let with_magic = [&MAGIC[..], input].concat();
    for body in [input, &with_magic] {
        if let Ok(hello) = Hello::parse(body) {
            assert!(hello.service.len() <= body.len());
            assert!(hello.methods().count() <= body.len() / 12);
        }
    }
    if let Ok(welcome) = Welcome::parse(input) {
        let mut again = BytesMut::new();
        welcome.put(&mut again);
        let frame =
            header::parse(&again).expect("what was written can be read").expect("a Welcome is no frame to skip");
        assert_eq!(Welcome::parse(frame.body).expect("it was one"), welcome);
    }
}

/// Everything that may travel, nested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Wire)]
pub struct Everything {
    flag: bool,
    unsigned: (u8, u16, u32, u64),
    signed: (i8, i16, i32, i64),
    letter: char,
    text: String,
    maybe: Option<Option<u32>>,
    outcome: Result<u8, String>,
    array: [u8; 4],
    boxed: Box<u16>,
    nothing: (),
    blob: Blob,
    leaves: List<Leaf, 8>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Wire)]
pub enum Leaf {
    Unit,
    Newtype(u64),
    Tuple(u8, String),
    Struct { number: i32, bytes: Option<Blob> },
    Nested(List<List<u16, 4>, 4>),
}

/// A value or a typed error; a value is what its own bytes say, and takes no more of them than it was read from.
pub fn body(input: &[u8]) {
    let mut choices = Choices(input);
    match choices.below(12) {
        0 => decode::<Everything>(choices.0),
        1 => decode::<Leaf>(choices.0),
        2 => decode::<List<Leaf, 16>>(choices.0),
        3 => decode::<List<String, 16>>(choices.0),
        4 => decode::<Option<Result<char, Blob>>>(choices.0),
        5 => decode::<List<List<List<u8, 64>, 64>, 64>>(choices.0),
        6 => decode::<(u64, i64, u16, i16)>(choices.0),
        7 => decode::<List<Option<[u64; 8]>, 1000>>(choices.0),
        8 => decode::<Box<Option<Box<String>>>>(choices.0),
        9 => decode::<Result<List<(u8, bool), 4>, Leaf>>(choices.0),
        10 => decode::<Blob>(choices.0),
        _ => decode::<String>(choices.0),
    }
}

fn decode<T: Wire + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    match body::decode::<T>(bytes) {
        Ok(value) => {
            let mut again = BytesMut::new();
            body::encode(&value, &mut again).expect("what was decoded can be encoded");
            assert!(again.len() <= bytes.len(), "the codec writes the shortest form");
            assert_eq!(body::decode::<T>(&again).as_ref(), Ok(&value));
        }
        Err(DecodeError::LeftOver { bytes: left }) => assert!(left > 0 && left <= bytes.len()),
        Err(error) => drop(error.to_string()),
    }
}
