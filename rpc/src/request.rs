//! What a service understands: its requests, their answers, and the types that may travel.
//!
//! Traits and compile-time checks only; the derives of `rpc-derive` implement them. Never bytes: how a value is
//! written is the business of [`wire::body`](crate::wire::body) alone.
//!
//! Client and server are generic over [`Protocol`] and [`Request`]; the handshake carries [`MethodInfo::fingerprint`].

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::body;

mod never;
mod wire_impls;

pub use never::Never;

/// A type that the codec carries faithfully: what is decoded equals what was encoded, whatever the peer sends.
///
/// Derive it, beside `serde::Serialize` and `serde::Deserialize`, on every type that is part of a message. The derive
/// refuses the serde attributes that a positional format cannot carry, and types that contain themselves.
///
/// Collections are [`List`](crate::List), byte strings are [`Blob`](crate::Blob), integers have a stated width. There is
/// no implementation for `Vec<T>` (a body of one megabyte can decode to two hundred), maps, `usize` or
/// `serde_json::Value` (JSON travels as text in a `String`).
///
/// # By hand
/// A type that is checked while it is read (`#[serde(try_from = "String", into = "String")]`) has the bytes of another
/// type, so it repeats that type's constants. Whoever writes an implementation by hand vouches for what the derive
/// checks: that the type does not contain itself, and that `ENCODED_MIN` is true.
/// ```
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # #[serde(try_from = "String", into = "String")]
/// struct Name(String);
/// # impl TryFrom<String> for Name { type Error = &'static str; fn try_from(s: String) -> Result<Self, &'static str> { Ok(Self(s)) } }
/// # impl From<Name> for String { fn from(name: Name) -> Self { name.0 } }
/// # impl Clone for Name { fn clone(&self) -> Self { Self(self.0.clone()) } }
/// impl rpc::Wire for Name {
///     const FINGERPRINT: u64 = <String as rpc::Wire>::FINGERPRINT;
///     const ENCODED_MIN: usize = <String as rpc::Wire>::ENCODED_MIN;
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel in a message: it is no wire type",
    label = "no wire type",
    note = "on a type of your own: `#[derive(serde::Serialize, serde::Deserialize, rpc::Wire)]`",
    note = "instead of `Vec<T>` use `rpc::List<T, MAX>`, for bytes `rpc::Blob`; instead of a map, a `List` of pairs",
    note = "instead of `usize` use `u64` or `u32`; instead of `serde_json::Value`, its text in a `String`; instead of `PathBuf`, a `String` or `Blob`"
)]
pub trait Wire {
    /// A hash of the type's shape: the names, the order and the shapes of its fields and variants. Two schemas that
    /// differ in any of these differ here (FNV-1a, 64 bits: against drift, not against an adversary).
    const FINGERPRINT: u64;
    /// The fewest bytes that a value occupies when encoded. 0 means that a value may occupy none at all, and that the
    /// type cannot be the element of a [`List`](crate::List).
    const ENCODED_MIN: usize;
    /// How many bytes of heap one byte of an encoded value can become at most, while it is decoded. Text and bytes are copied
    /// once; a list costs the size of its elements in memory, three times while it grows. By hand: the default is true for
    /// whatever repeats the constants of a number, a string or a [`Blob`](crate::Blob).
    const HEAP_PER_BYTE: usize = 1;
}

/// One method of a service: a plain serde struct that says what it is answered with.
///
/// Derive it; see [`derive@crate::Request`]. The derive implements [`Wire`] too.
pub trait Request: Wire + Serialize + DeserializeOwned + Send + 'static {
    /// What the handler's "yes" carries. It means *applied*, in the sense that the request's documentation gives to it.
    type Ack: Wire + Serialize + DeserializeOwned + Send + 'static;
    /// What the handler's "no" carries. It means that nothing was applied. [`Never`] if the handler cannot say no.
    type Rejection: Wire + Serialize + DeserializeOwned + Send + Debug + 'static;
    /// The method's number on the wire; never used again for something else.
    const ID: u16;
    /// The version of the method's shape. A shipped struct is never edited: a new version is a new struct.
    const VERSION: u16 = 1;
    /// The method's name, for people.
    const NAME: &'static str;
    /// The most bytes that an encoded ack or rejection may occupy; larger answers are streams.
    const ACK_BYTES_MAX: u32 = 4096;
    /// Whether this is a [`StreamRequest`]; the derive says so, and `Protocol` compares it with the variant's mark.
    #[doc(hidden)]
    const OPENS_STREAM: bool = false;
}

/// A request whose ack opens a stream of items from server to client.
#[diagnostic::on_unimplemented(
    message = "the request `{Self}` opens no stream",
    label = "its ack opens no stream",
    note = "say what the stream carries: `#[rpc(.., item = Type)]` on the request"
)]
pub trait StreamRequest: Request {
    /// One item of the stream.
    type Item: Wire + Serialize + DeserializeOwned + Send + 'static;
    /// An item that may be lost when the reader is slow; [`Never`] if there are none.
    type Lossy: Wire + Serialize + DeserializeOwned + Send + 'static;
}

/// A request that does no harm when it is applied more than once: applying it twice leaves what applying it once does.
///
/// Say it with `#[rpc(idempotent, ..)]` on the request. It is a promise about the *service*, which the compiler cannot
/// check; what it buys is that a request whose outcome stays unknown may be sent again as a new one
/// ([`Retry::idempotent`](crate::Retry::idempotent)). Reading is idempotent, and so is setting a value; adding to one,
/// or sending a message, is not, unless the request carries a key by which the handler knows it again.
#[diagnostic::on_unimplemented(
    message = "the request `{Self}` is not declared idempotent",
    label = "may be applied twice if it is repeated after an unknown outcome",
    note = "if applying it twice does no harm, say so on the request: `#[rpc(.., idempotent)]`",
    note = "if it does, `Retry::not_delivered().and_resolve()` repeats only what was not applied"
)]
pub trait Idempotent: Request {}

/// The enum of a service's requests. Derive it; see [`derive@crate::Protocol`].
pub trait Protocol: Sized + Send + 'static {
    /// The service's name, checked in the handshake.
    const NAME: &'static str;
    /// The service's version, checked in the handshake.
    const VERSION: u16;
    /// Every method, in the order of the variants.
    const METHODS: &'static [MethodInfo];
    /// The generated adapter from a handler to a [`Service`](crate::Service).
    type Service: Into<crate::Service<Self>>;
    /// The generated enum of requests with their responders, for actors.
    type Call: Send + 'static;

    /// Reads the body of a request.
    ///
    /// # Errors
    /// Each [`DecodeFault`] means that the request was not understood and therefore that no handler sees it.
    fn decode(method: u16, version: u16, body: &[u8]) -> Result<Self, DecodeFault>;

    /// Joins a decoded request with the means to answer it.
    fn into_call(self, raw: crate::RawResponder) -> Self::Call;
}

/// The service `Self` has the request `R`. One implementation for each variant of a [`Protocol`] enum; calling a
/// service with a request that it does not have is a compile error.
#[diagnostic::on_unimplemented(
    message = "the service `{Self}` has no request `{R}`",
    label = "not one of the requests of `{Self}`",
    note = "the requests of a service are the variants of its `#[derive(rpc::Protocol)]` enum"
)]
pub trait Has<R: Request>: Protocol {}

/// One method of a [`Protocol`], as the handshake and the router know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodInfo {
    /// [`Request::ID`].
    pub id: u16,
    /// [`Request::VERSION`].
    pub version: u16,
    /// [`Request::NAME`].
    pub name: &'static str,
    /// The shapes of request, ack, rejection and item in one number.
    pub fingerprint: u64,
    /// [`Request::ACK_BYTES_MAX`].
    pub ack_bytes_max: u32,
    /// Whether the ack opens a stream.
    pub stream: bool,
}

impl MethodInfo {
    /// Describes a request that is answered once.
    #[must_use]
    pub const fn of<R: Request>() -> Self {
        let hash = __private::shape("method", 3);
        let hash = __private::part(hash, "request", R::FINGERPRINT);
        let hash = __private::part(hash, "ack", R::Ack::FINGERPRINT);
        let hash = __private::part(hash, "rejection", R::Rejection::FINGERPRINT);
        Self {
            id: R::ID,
            version: R::VERSION,
            name: R::NAME,
            fingerprint: hash,
            ack_bytes_max: R::ACK_BYTES_MAX,
            stream: false,
        }
    }

    /// Describes a request whose ack opens a stream.
    #[must_use]
    pub const fn of_stream<R: StreamRequest>() -> Self {
        let once = Self::of::<R>();
        let hash = __private::part(once.fingerprint, "item", R::Item::FINGERPRINT);
        let hash = __private::part(hash, "lossy", R::Lossy::FINGERPRINT);
        Self { fingerprint: hash, stream: true, ..once }
    }
}

/// Why a request was not understood. The client learns it as `NotDelivered`: no handler saw the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeFault {
    /// The service has no such method.
    #[error("no such method")]
    UnknownMethod,
    /// The service has the method, but not in this version.
    #[error("the method is not known in this version")]
    UnsupportedVersion,
    /// The body is not one value of the request's type. Holds what is wrong with it, in a bounded sentence.
    #[error("bad body: {0}")]
    BadBody(String),
}

/// What the generated code calls. No part of the public interface.
#[doc(hidden)]
pub mod __private {
    use super::{DecodeFault, MethodInfo, Request, body};

    // FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

    const fn bytes(mut hash: u64, bytes: &[u8]) -> u64 {
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(FNV_PRIME);
            at += 1;
        }
        hash
    }

    const fn text(hash: u64, text: &str) -> u64 {
        // The length comes first, so that no two sequences of names run together to the same bytes.
        bytes(bytes(hash, &(text.len() as u64).to_le_bytes()), text.as_bytes())
    }

    /// Begins the fingerprint of a type: what it is, and of how many parts.
    #[must_use]
    pub const fn shape(kind: &str, parts: u64) -> u64 {
        bytes(text(FNV_OFFSET, kind), &parts.to_le_bytes())
    }

    /// Adds a named part: a field with its type's fingerprint, or a variant with its number of fields.
    #[must_use]
    pub const fn part(hash: u64, name: &str, fingerprint: u64) -> u64 {
        bytes(text(hash, name), &fingerprint.to_le_bytes())
    }

    /// The smaller of two sizes, in constants.
    #[must_use]
    pub const fn least(a: usize, b: usize) -> usize {
        if a < b { a } else { b }
    }

    /// The larger of two sizes, in constants.
    #[must_use]
    pub const fn most(a: usize, b: usize) -> usize {
        if a > b { a } else { b }
    }

    /// Whether no method of `earlier` has this id and version.
    #[must_use]
    pub const fn is_new(id: u16, version: u16, earlier: &[(u16, u16)]) -> bool {
        let mut at = 0;
        while at < earlier.len() {
            if earlier[at].0 == id && earlier[at].1 == version {
                return false;
            }
            at += 1;
        }
        true
    }

    /// Reads the body of the request `R`.
    ///
    /// # Errors
    /// `BadBody` if it is not exactly one `R`.
    pub fn request<R: Request>(bytes: &[u8]) -> Result<R, DecodeFault> {
        body::decode(bytes).map_err(|error| DecodeFault::BadBody(error.to_string()))
    }

    /// Why a method that matched nothing was not understood.
    #[must_use]
    pub fn fault(methods: &[MethodInfo], id: u16) -> DecodeFault {
        match methods.iter().any(|method| method.id == id) {
            true => DecodeFault::UnsupportedVersion,
            false => DecodeFault::UnknownMethod,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_of_names_that_run_together_differs() {
        let first = __private::part(__private::part(__private::shape("s", 2), "ab", 1), "c", 1);
        let second = __private::part(__private::part(__private::shape("s", 2), "a", 1), "bc", 1);
        assert_ne!(first, second);
    }

    #[test]
    fn fingerprint_of_order_and_wrapping_differs() {
        let shapes = [
            <(u8, u16)>::FINGERPRINT,
            <(u16, u8)>::FINGERPRINT,
            <(u8, (u16,))>::FINGERPRINT,
            <((u8, u16),)>::FINGERPRINT,
            <Option<u8>>::FINGERPRINT,
            <Option<u16>>::FINGERPRINT,
            <Result<u8, u16>>::FINGERPRINT,
            <Result<u16, u8>>::FINGERPRINT,
            <[u8; 2]>::FINGERPRINT,
            <[u8; 3]>::FINGERPRINT,
            <crate::List<u8, 2>>::FINGERPRINT,
            <crate::List<u8, 3>>::FINGERPRINT,
            crate::Blob::FINGERPRINT,
            String::FINGERPRINT,
            <()>::FINGERPRINT,
            Never::FINGERPRINT,
        ];
        for (at, shape) in shapes.iter().enumerate() {
            assert!(!shapes[..at].contains(shape), "shape {at} equals an earlier one");
        }
        assert_eq!(<Box<u8>>::FINGERPRINT, u8::FINGERPRINT, "a box has the bytes of what it holds");
    }

    #[test]
    fn fault_tells_unknown_method_from_unknown_version() {
        let methods = [MethodInfo { id: 7, version: 1, name: "m", fingerprint: 0, ack_bytes_max: 0, stream: false }];
        assert_eq!(__private::fault(&methods, 7), DecodeFault::UnsupportedVersion);
        assert_eq!(__private::fault(&methods, 8), DecodeFault::UnknownMethod);
    }
}
