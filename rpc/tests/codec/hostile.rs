//! Bytes that nobody encoded: a value or a typed error, never a panic.

use std::fmt::Debug;

use bytes::BytesMut;
use rpc::wire::body::{self, BODY_BYTES_MAX, DecodeError, EncodeError};
use rpc::{Blob, List, Never, Wire};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer, ser};

use crate::encoded;
use crate::samples::{Everything, Leaf, Random};

/// Feeds every damaged form of a value's bytes to the decoder.
#[track_caller]
fn check<T: Wire + Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let bytes = encoded(value);
    assert_eq!(body::decode::<T>(&bytes).as_ref(), Ok(value));
    for end in 0..bytes.len() {
        let error = body::decode::<T>(&bytes[..end]).expect_err("a part of a value is no value");
        assert!(!matches!(error, DecodeError::LeftOver { .. }), "{end} of {bytes:?}: {error}");
    }
    for extra in [0, 1, 0xff] {
        let longer = [&bytes[..], &[extra, extra]].concat();
        assert_eq!(body::decode::<T>(&longer), Err(DecodeError::LeftOver { bytes: 2 }));
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = body::decode::<T>(&flipped) {
            // Whatever the damage made of it is a value like any other.
            encoded(&other);
        }
    }
}

#[test]
fn damaged_bytes_are_a_value_or_a_typed_error() {
    let mut random = Random(1);
    for _ in 0..40 {
        check(&random.everything());
    }
    check(&"text with an é".to_owned());
    check(&Blob::from(vec![7; 300]));
    check(&(u64::MAX, i64::MIN, 1.5f64, 'é', Some(true)));
    check(&Leaf::Nested(List::from([List::from([1, 2]), List::new()])));
}

#[test]
fn random_bytes_are_a_value_or_a_typed_error() {
    let mut random = Random(2);
    for _ in 0..20_000 {
        let bytes = random.bytes(64);
        let _ = body::decode::<Everything>(&bytes);
        let _ = body::decode::<Leaf>(&bytes);
        let _ = body::decode::<List<Leaf, 16>>(&bytes);
        let _ = body::decode::<List<String, 16>>(&bytes);
        let _ = body::decode::<Option<Result<char, Blob>>>(&bytes);
    }
}

#[track_caller]
fn check_refused<T: Wire + DeserializeOwned + Debug>(bytes: &[u8], error: &str) {
    let refused = body::decode::<T>(bytes).expect_err("these bytes are no value");
    assert_eq!(refused.to_string(), error);
}

#[test]
fn refusal_says_what_is_wrong() {
    check_refused::<u64>(&[], "the body ends in the middle of a value");
    check_refused::<u8>(&[1, 2, 3], "2 bytes are left over after the value");
    check_refused::<bool>(&[2], "invalid value: 2 is no boolean");
    check_refused::<Option<u8>>(&[2, 0], "invalid value: 2 is no variant");
    check_refused::<u8>(&[1, 2], "1 bytes are left over after the value");
    check_refused::<u16>(&[253, 1, 1, 1, 1, 1, 1, 1, 1], "invalid value: an integer of another width");
    check_refused::<char>(&[0xff], "invalid value: no character");
    check_refused::<String>(&[1, 0xff], "invalid value: invalid utf-8 sequence of 1 bytes from index 0");
    check_refused::<List<u8, 2>>(&[3, 1, 2, 3], "invalid value: a list of 3 elements where at most 2 may be");
    check_refused::<List<u8, 20>>(&[19, 1], "invalid value: 19 elements announced in a body of 2 bytes");
    check_refused::<Never>(&[0], "invalid value: a value of a type that has none");
    check_refused::<Leaf>(&[5], "invalid value: invalid value: integer `5`, expected variant index 0 <= i < 5");
}

#[test]
fn body_above_the_largest_is_refused() {
    let bytes = vec![0; BODY_BYTES_MAX + 1];
    assert_eq!(body::decode::<Blob>(&bytes), Err(DecodeError::TooLarge { bytes: BODY_BYTES_MAX + 1 }));
}

#[test]
fn largest_body_decodes() {
    let blob = Blob::from(vec![1; BODY_BYTES_MAX - 5]);
    let bytes = encoded(&blob);
    assert_eq!(bytes.len(), BODY_BYTES_MAX);
    assert!(body::decode::<Blob>(&bytes) == Ok(blob));
}

#[test]
fn value_above_its_maximum_is_not_encoded_and_leaves_nothing() {
    let mut out = BytesMut::from(&b"before"[..]);
    let value = (1u8, "ten bytes!".to_owned());
    assert_eq!(body::encode_within(&value, &mut out, 11), Err(EncodeError::TooLarge { bytes_max: 11 }));
    assert_eq!(&out[..], b"before");
    body::encode_within(&value, &mut out, 12).expect("12 bytes fit into 12");
    assert_eq!(out.len(), 18);
    let huge = Blob::from(vec![0; BODY_BYTES_MAX]);
    assert_eq!(body::encode(&huge, &mut out), Err(EncodeError::TooLarge { bytes_max: BODY_BYTES_MAX }));
    assert_eq!(out.len(), 18);
}

/// Writes a byte, then refuses or panics.
struct Refuses {
    panics: bool,
}

impl Serialize for Refuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        ser::SerializeTuple::serialize_element(&mut tuple, &1u8)?;
        assert!(!self.panics, "on purpose");
        Err(ser::Error::custom("not today"))
    }
}

#[test]
fn value_that_refuses_or_panics_leaves_nothing() {
    let mut out = BytesMut::from(&b"before"[..]);
    let error = body::encode(&Refuses { panics: false }, &mut out).expect_err("it refuses");
    assert_eq!(error.to_string(), "the value cannot be encoded: not today");
    assert_eq!(&out[..], b"before");
    let panicked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body::encode(&Refuses { panics: true }, &mut out)));
    assert!(panicked.is_err());
    assert_eq!(&out[..], b"before");
}
