//! The derives of `rpc`: [`derive@Wire`], [`derive@Request`] and [`derive@Protocol`].
//!
//! They generate code that names `::rpc` and nothing else, so only `rpc` needs to be a dependency beside `serde`.
//! Never a second place for a rule: what can be a trait bound or an assertion in `rpc` is one there.

mod attribute;
mod protocol;
mod request;
mod serde_attributes;
mod wire;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

/// Lets a type travel in a message, as a field, an answer or a stream's item.
///
/// It implements `rpc::Wire`: a fingerprint of the type's shape, by which client and server notice that they were built
/// from different schemas, and the least size of a value. The bytes are those of `serde::Serialize`, so derive that and
/// `serde::Deserialize` too.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, rpc::Wire)]
/// struct Entry {
///     name: String,
///     kind: Kind,
///     tags: rpc::List<String, 16>,
/// }
///
/// #[derive(Serialize, Deserialize, rpc::Wire)]
/// enum Kind {
///     File { bytes: u64 },
///     Directory,
/// }
/// ```
///
/// # What it refuses
/// Each with an error that says why and what to do instead:
/// - serde attributes that a format without field names cannot carry (`skip`, `default`, `flatten`, `untagged`, `tag`
///   and the like) or whose bytes belong to another type (`with`, `from`, `into`). Those that only name are accepted:
///   `rename`, `rename_all`, `alias`, `transparent`, `bound`.
/// - types that contain themselves, and fields that are not `Wire`, such as `Vec<T>`, maps and `usize`.
/// - a list of elements that occupy no bytes.
///
/// ```compile_fail
/// #[derive(serde::Serialize, serde::Deserialize, rpc::Wire)]
/// struct Page {
///     lines: Vec<String>, // `rpc::List<String, 1000>` can travel
/// }
/// ```
///
/// Names of fields and variants are part of the fingerprint, the name of the type is not. A shipped type is never
/// edited: it gets a successor in a new request or a new version.
#[proc_macro_derive(Wire, attributes(serde))]
pub fn derive_wire(input: TokenStream) -> TokenStream {
    wire::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes a struct one method of a service. It implements `rpc::Request` and `rpc::Wire`.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, rpc::Wire, Debug)]
/// struct Overflow;
///
/// /// Acked when the sum is known.
/// #[derive(Serialize, Deserialize, rpc::Request)]
/// #[rpc(id = 1, ack = u64, rejection = Overflow)]
/// struct Add {
///     a: u64,
///     b: u64,
/// }
///
/// #[derive(Serialize, Deserialize, rpc::Wire)]
/// struct Line(String);
///
/// #[derive(Serialize, Deserialize, rpc::Request)]
/// #[rpc(id = 2, version = 3, ack = (), item = Line)]
/// struct Follow {
///     from: u64,
/// }
/// ```
///
/// # `#[rpc(..)]`
/// | key | meaning | default |
/// |---|---|---|
/// | `id` | the method's number on the wire, never used again for another (`u16`) | required |
/// | `ack` | the type of the handler's "yes" | required; `()` for nothing |
/// | `rejection` | the type of the handler's "no"; it has `Debug` | `rpc::Never` |
/// | `item` | the type of the items of the stream that the ack opens; makes it an `rpc::StreamRequest` | no stream |
/// | `lossy` | the type of items that may be dropped when the reader is slow, beside `item` | none |
/// | `version` | the version of the method's shape (`u16`) | 1 |
/// | `name` | what people read | the struct's name in snake_case |
/// | `idempotent` | applying the request twice does no harm; makes it an `rpc::Idempotent`, which may be repeated in doubt | it is not |
/// | `ack_bytes_max` | the most bytes of an encoded answer; larger ones are streams | 4096 |
///
/// What it refuses is what [`derive@Wire`] refuses, and generic parameters.
#[proc_macro_derive(Request, attributes(rpc, serde))]
pub fn derive_request(input: TokenStream) -> TokenStream {
    request::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes an enum of requests a service. It implements `rpc::Protocol`, and `rpc::Has<R>` for each request `R`.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, rpc::Wire, Debug)]
/// pub struct Overflow;
///
/// #[derive(Serialize, Deserialize, rpc::Request)]
/// #[rpc(id = 1, ack = u64, rejection = Overflow)]
/// pub struct Add {
///     a: u64,
///     b: u64,
/// }
///
/// #[derive(Serialize, Deserialize, rpc::Request)]
/// #[rpc(id = 2, ack = (), item = u64)]
/// pub struct Watch;
///
/// #[derive(rpc::Protocol)]
/// #[rpc(name = "calc", version = 1)]
/// pub enum Calc {
///     /// Adds two numbers.
///     Add(Add),
///     /// Every sum from now on.
///     #[rpc(stream)]
///     Watch(Watch),
/// }
///
/// struct Sums;
///
/// impl CalcHandler for Sums {
///     async fn add(&self, request: Add) -> Result<u64, Overflow> {
///         request.a.checked_add(request.b).ok_or(Overflow)
///     }
///
///     async fn watch(&self, _: Watch, sums: rpc::ItemSender<u64>) -> Result<(), rpc::Never> {
///         drop(sums); // the stream ends; a real handler keeps it and sends
///         Ok(())
///     }
/// }
///
/// let service = CalcService::from(Sums);
/// # let _: rpc::Service<Calc> = service.into();
/// ```
///
/// # What it generates
/// With the enum's visibility, for an enum `Calc`:
/// - `trait CalcHandler`: one `async fn` for each variant, its name in snake_case. A variant marked `#[rpc(stream)]`
///   also gets the stream's `rpc::ItemSender`.
/// - `struct CalcService`: what a server serves, from any `CalcHandler`.
/// - `enum CalcCall`: the same variants with an `rpc::Responder` (and the stream's sender) in each, for actors.
///
/// # What it refuses
/// Two variants with one request type or with the same id and version, variants that hold anything but one request,
/// and generic parameters.
///
/// # `#[rpc(..)]`
/// On the enum `name` (required; the handshake compares it) and `version` (default 1); on a variant `stream`.
#[proc_macro_derive(Protocol, attributes(rpc))]
pub fn derive_protocol(input: TokenStream) -> TokenStream {
    protocol::derive(&parse_macro_input!(input as DeriveInput)).unwrap_or_else(Error::into_compile_error).into()
}
