//! The two types that make a message bounded: a list with a maximum, and a byte string.
//!
//! Never more elements than the type says, neither built nor decoded. Never a byte string element by element.
//!
//! Used in the fields of requests and answers; read and written by [`body`](super::body).

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::shared;
use crate::request::{__private, Wire};

/// What a list reserves before its first element is there. LIMIT: one page, so that an announced length alone costs no
/// more than that; from there the list grows with the elements that have in fact arrived.
const RESERVED_BYTES_MAX: usize = 4096;

/// A sequence of at most `MAX` elements.
///
/// A list that is too long cannot be built and is refused by the decoder before anything is allocated for it. Choose
/// `MAX` with `MAX * size_of::<T>()` in mind: that is what a peer can make the receiver hold.
///
/// ```
/// use rpc::List;
/// let names: List<String, 100> = vec!["a".to_owned(), "b".to_owned()].try_into()?;
/// assert_eq!(names.len(), 2);
/// assert!(List::<u8, 3>::try_from(vec![0; 4]).is_err());
/// # Ok::<(), rpc::TooLong>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct List<T, const MAX: usize>(Vec<T>);

/// A [`List`] would have had more elements than its type allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a list of {len} elements where at most {max} may be")]
pub struct TooLong {
    /// How many elements there were.
    pub len: usize,
    /// How many there may be.
    pub max: usize,
}

impl<T, const MAX: usize> List<T, MAX> {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends an element.
    ///
    /// # Errors
    /// Gives the element back if the list is full.
    pub fn try_push(&mut self, element: T) -> Result<(), T> {
        if self.0.len() >= MAX {
            return Err(element);
        }
        self.0.push(element);
        Ok(())
    }

    /// The elements as a plain vector.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T: Wire, const MAX: usize> Wire for List<T, MAX> {
    const FINGERPRINT: u64 = {
        // A list of elements that occupy no bytes could announce 2^64 of them in nine bytes.
        assert!(
            T::ENCODED_MIN > 0,
            "the element of an `rpc::List` may occupy no bytes on the wire; send a count (`u64`) instead of such a list"
        );
        __private::part(__private::shape("list", MAX as u64), "element", T::FINGERPRINT)
    };
    const ENCODED_MIN: usize = 1;
    // The vector doubles when it is full: at worst it has just done so, and the old one is still there.
    const HEAP_PER_BYTE: usize = T::HEAP_PER_BYTE + 3 * size_of::<T>().div_ceil(T::ENCODED_MIN);
}

impl<T, const MAX: usize> TryFrom<Vec<T>> for List<T, MAX> {
    type Error = TooLong;

    fn try_from(elements: Vec<T>) -> Result<Self, TooLong> {
        match elements.len() {
            len if len > MAX => Err(TooLong { len, max: MAX }),
            _ => Ok(Self(elements)),
        }
    }
}

/// An array that is longer than the list may be does not compile:
/// ```compile_fail
/// let pair: rpc::List<u8, 2> = [1, 2, 3].into();
/// ```
impl<T, const N: usize, const MAX: usize> From<[T; N]> for List<T, MAX> {
    fn from(elements: [T; N]) -> Self {
        const { assert!(N <= MAX, "the array has more elements than the list may have") };
        Self(elements.into())
    }
}

impl<T, const MAX: usize> From<List<T, MAX>> for Vec<T> {
    fn from(list: List<T, MAX>) -> Self {
        list.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> DerefMut for List<T, MAX> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T, const MAX: usize> IntoIterator for List<T, MAX> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T, const MAX: usize> IntoIterator for &'a List<T, MAX> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: fmt::Debug, const MAX: usize> fmt::Debug for List<T, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize, const MAX: usize> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let announced = elements.size_hint().unwrap_or(0);
        if announced > MAX {
            return Err(de::Error::custom(TooLong { len: announced, max: MAX }));
        }
        let reserved_max = RESERVED_BYTES_MAX.checked_div(size_of::<T>()).unwrap_or(0);
        let mut list = Vec::with_capacity(announced.min(reserved_max));
        while let Some(element) = elements.next_element()? {
            // The format announces its lengths, so this is for the ones that do not.
            if list.len() >= MAX {
                return Err(de::Error::custom(TooLong { len: MAX.saturating_add(1), max: MAX }));
            }
            list.push(element);
        }
        Ok(List(list))
    }
}

/// A byte string, written and read in one piece.
///
/// Its size is bounded by the frame. A large one is not copied when it is received: it shares the buffer that it was read
/// into, which is at most twice as large. `Debug` prints the length and the first bytes only.
///
/// ```
/// let page = rpc::Blob::from(vec![1, 2, 3]);
/// assert_eq!(page[..2], [1, 2]);
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob(pub Bytes);

impl Wire for Blob {
    const FINGERPRINT: u64 = __private::shape("blob", 0);
    const ENCODED_MIN: usize = 1;
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16;
        write!(f, "Blob({} bytes: {:02x?}", self.0.len(), &self.0.get(..SHOWN).unwrap_or(&self.0))?;
        f.write_str(if self.0.len() > SHOWN { ", ..)" } else { ")" })
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BlobVisitor)
    }
}

struct BlobVisitor;

impl Visitor<'_> for BlobVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
        Ok(Blob(shared::keep(bytes)))
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
        Ok(bytes.into())
    }
}
