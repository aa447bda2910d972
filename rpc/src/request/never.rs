//! The type without values: the rejection of a handler that cannot say no.
//!
//! Never encoded and never decoded: reading one is an error, whatever the bytes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{__private, Wire};

/// A rejection that cannot be. The default of `#[rpc(rejection = ..)]`.
///
/// ```
/// # fn rejection() -> Result<u64, rpc::Never> { Ok(3) }
/// let Ok(sum) = rejection() else { unreachable!() };
/// # assert_eq!(sum, 3);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Never {}

impl Wire for Never {
    const FINGERPRINT: u64 = __private::shape("never", 0);
    // Nothing is ever written; 1 says that a list of it need not be refused.
    const ENCODED_MIN: usize = 1;
}

impl fmt::Display for Never {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl std::error::Error for Never {}

impl Serialize for Never {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match *self {}
    }
}

impl<'de> Deserialize<'de> for Never {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("a value of a type that has none"))
    }
}
