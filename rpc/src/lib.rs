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
//! # Limits
//! Every bound is a field of [`Limits`]: 1 MiB a frame, 1 024 open calls a lane, 10 s a call unless it says otherwise.
//! Whatever is larger or longer is a stream: mark the variant `#[rpc(stream)]`, answer with an [`ItemSender`], read
//! an [`ItemStream`]. A reader that does not keep up stops its producer, or loses items and is told which, or loses the
//! stream, as the producer chooses ([`Slow`]); it never stands in another call's way.
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
//! `pidfd`: the peer's process by `SO_PEERPIDFD`. `testing`: a world without sockets and a scripted server, for your tests.
//!
//! # Cancel safety
//! Dropping a call cancels it: it is taken back if it was not written, else its handler is stopped; whether it had
//! been applied stays unknown. All other futures say it in their own documentation.
//!
//! # Panics
//! Handlers may panic; their callers learn it at once. That needs unwinding: with `panic = "abort"` the process goes.
//!
//! # Where to look
//! The wire format and the rules behind it are in `PROTOCOL.md`. In the source, bytes flow upwards:
//! [`wire`] (frames, headers, bodies), [`session`] (what frames mean; no I/O), `io` (sockets, clocks, tasks), then
//! [`Client`] and [`Server`]. Linux only, for now: the credentials of a peer come from its kernel.

#[cfg(not(target_os = "linux"))]
compile_error!("`rpc` runs on Linux only for now: it takes the identity of its peers from Linux's socket credentials");

// The derives name this crate by its name, in itself too.
extern crate self as rpc;

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
pub use session::client::LaneCounters;
pub use session::server::{Refusals, ServerCounters};
pub use stream::{Event, Events, Gap, ItemSender, ItemStream, SendError, Slow, StreamError, ValueError};
pub use trace::{TraceContext, TraceError};
pub use wire::types::{Blob, List, TooLong};
