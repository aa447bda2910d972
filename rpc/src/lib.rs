//! Request/ack RPC for local IPC: every call ends, before its deadline, in one outcome that its sender can act on.
//!
//! ```
//! use rpc::CallError;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, rpc::Wire, Debug)]
//! struct Overflow;
//! #[derive(Serialize, Deserialize, rpc::Request)]
//! #[rpc(id = 1, ack = u64, rejection = Overflow)]
//! struct Add { a: u64, b: u64 }
//! #[derive(Serialize, Deserialize, rpc::Request)]
//! #[rpc(id = 2, ack = ())]
//! struct Reset;
//! #[derive(rpc::Protocol)]
//! #[rpc(name = "calc", version = 1)]
//! enum Calc { Add(Add), Reset(Reset) }
//!
//! struct Sums;
//! impl CalcHandler for Sums {
//!     async fn add(&self, m: Add) -> Result<u64, Overflow> { m.a.checked_add(m.b).ok_or(Overflow) }
//!     async fn reset(&self, _: Reset) -> Result<(), rpc::Never> { Ok(()) }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let address = rpc::Address::mem("calc");
//! let server = rpc::serve::<Calc>(&address, Sums).await?;
//! let client = rpc::Client::<Calc>::new(&address);
//! match rpc::call(&client, Add { a: 1, b: 2 }).await {
//!     Ok(sum) => assert_eq!(sum, 3),
//!     Err(CallError::Rejected(Overflow)) => println!("no"),
//!     Err(CallError::NotDelivered(why)) => println!("safe to repeat: {why}"),
//!     Err(CallError::Unknown(doubt)) => println!("{:?}", doubt.resolve().await),
//! }
//! server.drain().await;
//! # Ok(())
//! # }
//! ```
//!
//! # The promise
//! - **Answered**: every call ends by its deadline in exactly one of `Ok`, `Rejected`, `NotDelivered`, `Unknown`. A
//!   handler that panics, is stopped or forgets its responder answers at once.
//! - **Honest**: `NotDelivered` means that no handler saw the request and none will. `Ok` means applied. Only
//!   `Unknown` is doubt, and a doubt can be [resolved](Doubt::resolve).
//! - **Once**: a request is applied at most once in the memory of one server.
//! - **Unblocked**: nothing that a server sends unasked stands between a client and its call.
//!
//! # Doubt
//! A call may do something about its own failure, within its own deadline: [`Call::retry`]. What was not delivered may be
//! sent again; what is in doubt may be asked about, by the same id, and is never sent again blindly, unless the request
//! says of itself that this does no harm ([`Idempotent`]; with any other it does not compile).
//! ```
//! # use rpc::{Client, Protocol, Has, Request, Retry, CallError};
//! # async fn f<P: Has<R>, R: Request>(client: &Client<P>, request: R) -> Result<R::Ack, CallError<R>> {
//! client.call(request).retry(Retry::not_delivered().and_resolve()).await
//! # }
//! ```
//! Pauses grow by [`Backoff`], with full jitter. [`Call::stage`] tells how far a running call has come,
//! [`Client::lanes`] what became of its connections. A call that a handler makes ends with the call that is served.
//! Callers without a runtime use [`blocking`].
//!
//! # Streams
//! Whatever is larger or longer than an answer is a stream: mark the variant `#[rpc(stream)]`, answer with an [`ItemSender`],
//! read an [`ItemStream`]. A reader that does not keep up stops its producer, or loses items and is told which, or loses the
//! stream, as the producer chooses ([`Slow`]); it never stands in another call's way.
//! ```
//! # use serde::{Deserialize, Serialize};
//! use futures::StreamExt;
//! use rpc::ItemSender;
//!
//! #[derive(Serialize, Deserialize, rpc::Request)]
//! #[rpc(id = 1, ack = u64, item = u64)]
//! struct Count { to: u64 }
//! #[derive(rpc::Protocol)]
//! #[rpc(name = "counts", version = 1)]
//! enum Counts { #[rpc(stream)] Count(Count) }
//!
//! struct Counter;
//! impl CountsHandler for Counter {
//!     async fn count(&self, m: Count, items: ItemSender<u64>) -> Result<u64, rpc::Never> {
//!         tokio::spawn(async move {
//!             for n in 0..m.to {
//!                 // Waits for the reader; fails when there is none any longer.
//!                 if items.send(n).await.is_err() { break }
//!             }
//!         });
//!         Ok(m.to)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let address = rpc::Address::mem("front-page-streams");
//! # let _server = rpc::serve::<Counts>(&address, Counter).await?;
//! # let client = rpc::Client::<Counts>::new(&address);
//! let (to, mut items) = client.open(Count { to: 1000 }).await?;
//! let mut sum = 0;
//! while let Some(item) = items.next().await {
//!     sum += item?;
//! }
//! assert_eq!(sum, to * (to - 1) / 2);
//! # Ok(())
//! # }
//! ```
//!
//! # Calls in both directions
//! A client may serve, too: whoever it calls can call it back on the same connection, with outcomes, doubts and streams like
//! any other call ([`ClientBuilder::serves`], [`CallContext::caller`]).
//! ```
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Serialize, Deserialize, rpc::Request)]
//! # #[rpc(id = 1, ack = String)]
//! # struct Order;
//! # #[derive(rpc::Protocol)]
//! # #[rpc(name = "shop", version = 1)]
//! # enum Shop { Order(Order) }
//! # #[derive(Serialize, Deserialize, rpc::Request)]
//! # #[rpc(id = 1, ack = String)]
//! # struct Confirm { question: String }
//! # #[derive(rpc::Protocol)]
//! # #[rpc(name = "customer", version = 1)]
//! # enum Customer { Confirm(Confirm) }
//! use rpc::{CallContext, Client};
//!
//! struct Seller;
//! impl ShopHandler for Seller {
//!     async fn order(&self, _: Order) -> Result<String, rpc::Never> {
//!         let Some(customer) = CallContext::current().and_then(|context| context.caller::<Customer>()) else {
//!             return Ok("no customer".into());
//!         };
//!         // Within what is left of our own caller's deadline.
//!         match customer.call(Confirm { question: "really?".into() }).await {
//!             Ok(answer) => Ok(format!("they said {answer}")),
//!             Err(why) => Ok(why.to_string()),
//!         }
//!     }
//! }
//!
//! struct Buyer;
//! impl CustomerHandler for Buyer {
//!     async fn confirm(&self, _: Confirm) -> Result<String, rpc::Never> { Ok("yes".into()) }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let address = rpc::Address::mem("front-page-both");
//! # let _server = rpc::serve::<Shop>(&address, Seller).await?;
//! let client = Client::<Shop>::builder(&address).serves::<Customer>(Buyer).build();
//! assert_eq!(client.call(Order).await?, "they said yes");
//! # Ok(())
//! # }
//! ```
//!
//! # Who is let in
//! Over `unix:` both sides know each other's user and process from the kernel, before a byte is read, and speak to their own
//! user only. A server may ask for more, of each connection ([`ServerBuilder::authorize`]) and of each request
//! ([`ServerBuilder::authorize_calls`]); where a transport proves nothing, a [`Secret`] may. Who is denied learns why, and
//! that its calls were not delivered.
//! ```
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Serialize, Deserialize, rpc::Request)]
//! # #[rpc(id = 2, ack = ())]
//! # struct Reset;
//! # #[derive(rpc::Protocol)]
//! # #[rpc(name = "calc", version = 1)]
//! # enum Calc { Reset(Reset) }
//! # struct Sums;
//! # impl CalcHandler for Sums {
//! #     async fn reset(&self, _: Reset) -> Result<(), rpc::Never> { Ok(()) }
//! # }
//! use rpc::{CallError, Client, Denial, NotDelivered, Secret, Server};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let address = rpc::Address::mem("front-page-policy");
//! # let random_bytes = [7; 32];
//! let secret = Secret::new(random_bytes)?;
//! let server = Server::builder::<Calc>(Sums)
//!     .secret(secret.clone())
//!     .authorize(|newcomer| if newcomer.is_same_user() { Ok(()) } else { Err(Denial::from("not of this user")) })
//!     .authorize_calls(|_peer, method| if method.name == "reset" { Err("read only".into()) } else { Ok(()) })
//!     .serve(&address)
//!     .await?;
//! let client = Client::<Calc>::builder(&address).secret(secret).build();
//! let Err(CallError::NotDelivered(NotDelivered::Unauthorized(why))) = client.call(Reset).await else { panic!() };
//! assert_eq!(why, "read only");
//! # drop(server);
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//! Every bound is a field of [`Limits`]: 1 MiB a frame, 1 024 open calls a lane, 10 s a call unless it says otherwise; and
//! [`Limits::server_bytes_max`] is what all peers together can make a server hold. No peer gets more than a share of what is
//! left. What a server has no room for it refuses before it decodes it, says when to come back
//! ([`NotDelivered::retry_after`]), and nothing is lost by trying again. [`ServerBuilder::method_limit`] bounds one method.
//! ```
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Serialize, Deserialize, rpc::Request)]
//! # #[rpc(id = 2, ack = ())]
//! # struct Reset;
//! # #[derive(rpc::Protocol)]
//! # #[rpc(name = "calc", version = 1)]
//! # enum Calc { Reset(Reset) }
//! # struct Sums;
//! # impl CalcHandler for Sums {
//! #     async fn reset(&self, _: Reset) -> Result<(), rpc::Never> { Ok(()) }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let address = rpc::Address::mem("front-page-limits");
//! let limits = rpc::Limits { window: 64, ..rpc::Limits::default() };
//! let server = rpc::Server::builder::<Calc>(Sums).limits(limits).method_limit::<Reset>(4).serve(&address).await?;
//! # drop(server);
//! # Ok(())
//! # }
//! ```
//!
//! # Evolution
//! A method is its number and its version ([`Request`](macro@Request)): a number is never used again, a shipped type is never
//! edited but gets a successor, which a server serves beside it. The handshake compares fingerprints of what both sides have:
//! calls of a method that differs or is unknown end as not delivered ([`NotDelivered::SchemaMismatch`],
//! [`NotDelivered::UnknownMethod`]), and all others work.
//!
//! # Stopping
//! [`Server::drain`] takes no further request, lets the running handlers answer, and frees the address. A client whose
//! request came too late knows that it was not delivered; with [`Retry`] it finds the successor by itself.
//! ```
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Serialize, Deserialize, rpc::Request)]
//! # #[rpc(id = 2, ack = ())]
//! # struct Reset;
//! # #[derive(rpc::Protocol)]
//! # #[rpc(name = "calc", version = 1)]
//! # enum Calc { Reset(Reset) }
//! # struct Sums;
//! # impl CalcHandler for Sums {
//! #     async fn reset(&self, _: Reset) -> Result<(), rpc::Never> { Ok(()) }
//! # }
//! use rpc::{Client, Retry};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let address = rpc::Address::mem("front-page-drain");
//! let old = rpc::serve::<Calc>(&address, Sums).await?;
//! let client = Client::<Calc>::new(&address);
//! client.call(Reset).await?;
//! old.drain().await;
//! let successor = tokio::spawn({
//!     let address = address.clone();
//!     async move { rpc::serve::<Calc>(&address, Sums).await }
//! });
//! client.call(Reset).retry(Retry::not_delivered()).await?;
//! # drop(successor.await??);
//! # Ok(())
//! # }
//! ```
//!
//! # Silence
//! A peer that says nothing while calls or streams are open is asked whether it is there ([`Limits::keepalive`]) and given up
//! if it does not answer ([`Limits::keepalive_timeout`]): its streams end, and its calls are asked for on the next connection.
//! A slow handler is no silence, and what is idle is left alone.
//!
//! # Spin
//! With [`ClientBuilder::spin`] and [`ServerBuilder::spin`] a driver asks its Unix socket again for some microseconds before it
//! sleeps. For quick handlers, one call at a time, that saves both sides' waking; it costs processor time, and is off by
//! default: [`Limits::spin`].
//!
//! # Transports
//! `unix:` and `mem:` are built in; any other stream of bytes is one too: see [`transport`], and `tls` for TCP with mutual
//! TLS. Who is at the other end is a [`Peer`]: what its transport can prove.
//!
//! # Watching
//! Calls and handlers are `tracing` spans of one trace across processes, where a subscriber wants them: [`trace`].
//! [`Client::counters`] and [`Server::counters`] count; with the feature `metrics` so does the facade of that name: [`metrics`].
//! [`inspect`] says in words what goes over a connection.
//!
//! # Features
//! All are off by default and additive. `tls`: TCP with mutual TLS by rustls. `metrics`: counts for the crate of that name.
//! `tower`: a client is a `tower` service, and handlers can be behind its layers.
//! `testing`: a world without sockets and a scripted server, for your tests.
//!
//! # Cancel safety
//! Dropping a call cancels it: it is taken back if it was not written, else its handler is stopped; whether it had
//! been applied stays unknown. All other futures say it in their own documentation.
//!
//! # Panics
//! Handlers may panic; their callers learn it at once. That needs unwinding: with `panic = "abort"` the process goes.
//!
//! # Where to look
//! The wire format and the rules behind it are in `PROTOCOL.md`, from which a client in another language was written
//! (`examples/python`). In the source, bytes flow upwards: `wire` (frames, headers, bodies), `session` (what frames mean; no
//! I/O), `io` (sockets, clocks, tasks), then [`Client`] and [`Server`]. Linux only, for now: the credentials of a peer come
//! from its kernel.

#[cfg(not(target_os = "linux"))]
compile_error!("`rpc` runs on Linux only for now: it takes the identity of its peers from Linux's socket credentials");

// The derives name this crate by its name, in itself too.
extern crate self as rpc;

/// What the README shows is compiled and run with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod address;
mod backoff;
pub mod blocking;
mod client;
mod context;
mod id;
pub mod inspect;
mod io;
mod limits;
pub mod metrics;
mod outcome;
mod peer;
mod request;
mod responder;
mod server;
mod service;
#[doc(hidden)]
pub mod session;
mod stream;
#[cfg(not(shuttle))]
mod sync;
#[cfg(shuttle)]
pub mod sync;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "tower")]
pub mod tower;
pub mod trace;
pub mod transport;
mod watch;
#[doc(hidden)]
pub mod wire;

pub use address::{Address, AddressError};
pub use backoff::{Backoff, Jitter};
pub use client::{
    AnyRequest, Call, Client, ClientBuilder, Covers, Doubt, IdempotentOnly, LaneState, Opened, Retry, call,
};
pub use context::CallContext;
pub use id::{Incarnation, PeerId, RequestId};
pub use io::client::ConnectionEnd;
pub use limits::Limits;
pub use outcome::{CallError, Cause, NotDelivered, Refusal, Stage};
pub use peer::{CertificateId, Peer, Process};
#[doc(hidden)]
pub use request::__private;
pub use request::{DecodeFault, Has, Idempotent, MethodInfo, Never, Protocol, Request, StreamRequest, Wire};
pub use responder::{RawResponder, Responder};
pub use rpc_derive::{Protocol, Request, Wire};
pub use server::{
    Actor, Calls, Denial, ListenError, Newcomer, PeerPidfd, Secret, SecretError, Server, ServerBuilder, serve,
    serve_calls, serve_calls_with, serve_with,
};
pub use service::{Answer, Service};
pub use session::Violation;
pub use session::client::LaneCounters;
pub use session::server::{Refusals, ServerCounters};
pub use stream::{Event, Events, Gap, ItemSender, ItemStream, SendError, Slow, StreamError, ValueError};
pub use trace::{TraceContext, TraceError};
pub use wire::types::{Blob, List, TooLong};
