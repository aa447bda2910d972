//! The bytes that are the wire format. A change here is another format, and peers of before do not understand it.

use std::fmt::Debug;

use rpc::wire::body;
use rpc::{Blob, List, Request, Wire};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::encoded;
use crate::samples::{Leaf, Marker, Wrapped};

#[track_caller]
fn check<T: Wire + Serialize + DeserializeOwned + PartialEq + Debug>(value: T, bytes: &[u8]) {
    assert_eq!(encoded(&value), bytes, "encoding {value:?}");
    assert_eq!(body::decode::<T>(bytes).expect("the golden bytes decode"), value);
    assert!(bytes.len() >= T::ENCODED_MIN, "{value:?} is shorter than its type's least size {}", T::ENCODED_MIN);
}

#[test]
fn integers_are_little_endian_of_variable_length() {
    check(0u8, &[0]);
    check(255u8, &[255]);
    check(250u16, &[250]);
    check(251u16, &[251, 251, 0]);
    check(65_535u16, &[251, 255, 255]);
    check(65_536u32, &[252, 0, 0, 1, 0]);
    check(u32::MAX, &[252, 255, 255, 255, 255]);
    check(250u64, &[250]);
    check(0x1234u64, &[251, 0x34, 0x12]);
    check(0x1_0000_0000u64, &[253, 0, 0, 0, 0, 1, 0, 0, 0]);
    check(u64::MAX, &[253, 255, 255, 255, 255, 255, 255, 255, 255]);
}

#[test]
fn signed_integers_are_zigzag() {
    check(-1i8, &[255]);
    check(i8::MIN, &[128]);
    check(0i16, &[0]);
    check(-1i16, &[1]);
    check(1i32, &[2]);
    check(-126i32, &[251, 251, 0]);
    check(i64::MIN, &[253, 255, 255, 255, 255, 255, 255, 255, 255]);
    check(i64::MAX, &[253, 254, 255, 255, 255, 255, 255, 255, 255]);
}

#[test]
fn scalars_and_text() {
    check(true, &[1]);
    check(false, &[0]);
    check(1.5f32, &[0, 0, 0xc0, 0x3f]);
    check(-2.0f64, &[0, 0, 0, 0, 0, 0, 0, 0xc0]);
    check('a', b"a");
    check('é', &[0xc3, 0xa9]);
    check('🦀', &[0xf0, 0x9f, 0xa6, 0x80]);
    check(String::new(), &[0]);
    check("aé".to_owned(), &[3, b'a', 0xc3, 0xa9]);
    check("x".repeat(300), &[&[251, 44, 1][..], &[b'x'; 300]].concat());
}

#[test]
fn containers_add_only_lengths_and_tags() {
    check((), &[]);
    check((1u8, 2u64, -3i64), &[1, 2, 5]);
    check(None::<u8>, &[0]);
    check(Some(7u8), &[1, 7]);
    check(Ok::<u8, String>(7), &[0, 7]);
    check(Err::<u8, String>("n".to_owned()), &[1, 1, b'n']);
    check([1u8, 2, 3], &[1, 2, 3]);
    check(Box::new(9u8), &[9]);
    check(List::<u16, 3>::from([1, 300]), &[2, 1, 251, 44, 1]);
    check(List::<u16, 3>::new(), &[0]);
    check(Blob::from(vec![0, 255]), &[2, 0, 255]);
}

#[test]
fn structs_are_their_fields_and_enums_their_variant_and_fields() {
    check(Marker, &[]);
    check(Wrapped { inner: 5 }, &[5]);
    check(Leaf::Unit, &[0]);
    check(Leaf::Newtype(251), &[1, 251, 251, 0]);
    check(Leaf::Tuple(1, "b".to_owned()), &[2, 1, 1, b'b']);
    check(Leaf::Struct { number: -1, bytes: Some(Blob::from(vec![9])) }, &[3, 1, 1, 1, 9]);
    check(Leaf::Nested(List::from([List::from([1, 2]), List::new()])), &[4, 2, 2, 1, 2, 0]);
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Request)]
#[rpc(id = 7, ack = u64)]
struct Append {
    log: String,
    line: u32,
}

#[test]
fn request_is_its_fields_alone() {
    check(Append { log: "l".to_owned(), line: 2 }, &[1, b'l', 2]);
}

#[test]
fn fingerprint_is_part_of_the_format() {
    // What a peer of another build compares. Computed apart, from what PROTOCOL says: FNV-1a over each name with its
    // length before it, and each number, as eight bytes, little endian.
    assert_eq!(u8::FINGERPRINT, 0x5c4d_cfcc_58c7_8f8a);
    assert_eq!(Append::FINGERPRINT, 0xc89e_153b_f26b_e8d6);
}

#[test]
fn fingerprint_differs_where_schemas_differ() {
    #[derive(Wire)]
    #[allow(dead_code)]
    struct Renamed {
        log: String,
        number: u32,
    }
    #[derive(Wire)]
    #[allow(dead_code)]
    struct Reordered {
        line: u32,
        log: String,
    }
    #[derive(Wire)]
    #[allow(dead_code)]
    struct Widened {
        log: String,
        line: u64,
    }
    #[derive(Wire)]
    #[allow(dead_code)]
    struct Same {
        log: String,
        line: u32,
    }
    #[derive(Wire)]
    #[allow(dead_code)]
    enum Variants {
        A(u8),
        B,
    }
    #[derive(Wire)]
    #[allow(dead_code)]
    enum Swapped {
        B,
        A(u8),
    }
    assert_ne!(Append::FINGERPRINT, Renamed::FINGERPRINT);
    assert_ne!(Append::FINGERPRINT, Reordered::FINGERPRINT);
    assert_ne!(Append::FINGERPRINT, Widened::FINGERPRINT);
    assert_ne!(Variants::FINGERPRINT, Swapped::FINGERPRINT);
    assert_eq!(Append::FINGERPRINT, Same::FINGERPRINT);
}

#[test]
fn encoded_min_is_that_of_the_smallest_value() {
    assert_eq!(<(u8, f32, String)>::ENCODED_MIN, 6);
    assert_eq!(Leaf::ENCODED_MIN, 1);
    assert_eq!(Marker::ENCODED_MIN, 0);
    assert_eq!(<Option<Marker>>::ENCODED_MIN, 1);
    assert_eq!(<Result<f64, u8>>::ENCODED_MIN, 2);
}
