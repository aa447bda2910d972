//! The same bytes from a second implementation: `wincode` with variable-length integers, written by other people on
//! other traits. What keeps the codec replaceable.
//!
//! The mirror types are the same shapes for that crate, whose derives contain unsafe code.
#![allow(unsafe_code)]

use rpc::wire::body::{self, DecodeError};
use wincode::config::Configuration;
use wincode::{SchemaRead, SchemaWrite};

use crate::encoded;
use crate::samples::{Everything, Leaf, Random};

#[derive(Debug, PartialEq, SchemaWrite, SchemaRead)]
struct EverythingMirror {
    flag: bool,
    unsigned: (u8, u16, u32, u64),
    signed: (i8, i16, i32, i64),
    floats: (f32, f64),
    letter: char,
    text: String,
    maybe: Option<Option<u32>>,
    outcome: Result<u8, String>,
    array: [u8; 4],
    boxed: Box<u16>,
    nothing: (),
    blob: Vec<u8>,
    leaves: Vec<LeafMirror>,
    marker: (),
    wrapped: u32,
}

#[derive(Debug, PartialEq, SchemaWrite, SchemaRead)]
enum LeafMirror {
    Unit,
    Newtype(u64),
    Tuple(u8, String),
    Struct { number: i32, bytes: Option<Vec<u8>> },
    Nested(Vec<Vec<u16>>),
}

impl From<&Everything> for EverythingMirror {
    fn from(of: &Everything) -> Self {
        let of = of.clone();
        Self {
            flag: of.flag,
            unsigned: of.unsigned,
            signed: of.signed,
            floats: of.floats,
            letter: of.letter,
            text: of.text,
            maybe: of.maybe,
            outcome: of.outcome,
            array: of.array,
            boxed: of.boxed,
            nothing: (),
            blob: of.blob.to_vec(),
            leaves: of.leaves.into_iter().map(LeafMirror::from).collect(),
            marker: (),
            wrapped: of.wrapped.inner,
        }
    }
}

impl From<Leaf> for LeafMirror {
    fn from(leaf: Leaf) -> Self {
        match leaf {
            Leaf::Unit => Self::Unit,
            Leaf::Newtype(number) => Self::Newtype(number),
            Leaf::Tuple(number, text) => Self::Tuple(number, text),
            Leaf::Struct { number, bytes } => Self::Struct { number, bytes: bytes.map(|blob| blob.to_vec()) },
            Leaf::Nested(lists) => Self::Nested(lists.into_iter().map(Vec::from).collect()),
        }
    }
}

#[test]
fn second_implementation_writes_and_reads_the_same_bytes() {
    let config = Configuration::default().with_varint_encoding();
    let mut random = Random(4);
    for round in 0..5_000 {
        let value = random.everything();
        let mirror = EverythingMirror::from(&value);
        let ours = encoded(&value);
        let theirs = wincode::config::serialize(&mirror, config).expect("the mirror can be encoded");
        assert_eq!(ours, theirs, "round {round}: {value:?}");
        let read: EverythingMirror = wincode::config::deserialize_exact(&ours, config).expect("they read our bytes");
        assert_eq!(read, mirror, "round {round}");
        assert_eq!(body::decode::<Everything>(&theirs), Ok(value), "round {round}");
    }
}

#[test]
fn second_implementation_reads_damaged_bodies_as_the_same_values() {
    let config = Configuration::default().with_varint_encoding();
    let mut random = Random(5);
    let mut both_read = 0;
    for round in 0..20_000 {
        let mut bytes = encoded(&random.everything());
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] = random.next() as u8;
        let ours = body::decode::<Everything>(&bytes);
        let theirs = wincode::config::deserialize_exact::<EverythingMirror, _>(&bytes, config);
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                // Compared as bytes, because a damaged float may be none that equals itself.
                let ours = wincode::config::serialize(&EverythingMirror::from(&ours), config).expect("it was read");
                let theirs = wincode::config::serialize(&theirs, config).expect("it was read");
                assert_eq!(ours, theirs, "round {round}");
                both_read += 1;
            }
            (Err(_), Err(_)) => {}
            // The mirror's vectors have no maximum.
            (Err(DecodeError::Invalid { reason }), Ok(_)) if reason.contains("elements where at most") => {}
            (ours, theirs) => panic!("round {round}: one of them reads {bytes:?}: {ours:?}, {theirs:?}"),
        }
    }
    assert!(both_read > 1_000, "{both_read} damaged bodies were values");
}
