//! The body codec against golden bytes, hostile bytes, an allocation counter and a second implementation.
#![allow(missing_docs)]

mod allocation;
#[path = "../common/counting.rs"]
mod counting;
mod differential;
mod golden;
mod hostile;
mod samples;

use bytes::BytesMut;
use rpc::wire::body;

/// The bytes of a value that can be encoded.
#[track_caller]
fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut out = BytesMut::new();
    body::encode(value, &mut out).expect("the sample can be encoded");
    out.to_vec()
}
