//! `tower` on both sides, with the feature `tower`: a [`Client`](crate::Client) is a service, and handlers can be one.
//!
//! Only the traits are used (`tower-service`, `tower-layer`); the layers are whatever is built on them.
//!
//! # Calling
//! `Client<P>` implements `Service<R>` for each request `R` of `P`; its response is the ack, its error the
//! [`CallError`](crate::CallError). *Ready* means that the window has room. It reserves nothing: where several share a
//! client, a call may still wait for its place, within its deadline. Layers around a client end calls in their own
//! error type; the [`CallError`](crate::CallError) is what a boxed error is downcast to. Any other error is the layer's word
//! and says nothing of the request: a `Timeout` drops the call, which cancels it, and whether it was applied is not known;
//! it may be sent again only if that is safe. Give a call its own deadline, and the outcome stays exact.
//!
//! # Serving
//! [`ServerBuilder::layer`](crate::ServerBuilder::layer) puts a layer around the handlers of a protocol;
//! [`Service::from_tower`](crate::Service::from_tower) serves any tower service of [`Exchange`]s. What ends an exchange with
//! an error decides what its caller learns:
//!
//! | the layer failed | the caller learns |
//! |---|---|
//! | before a handler had the request (load shed, full buffer, rate limit, a timeout while it waited) | `NotDelivered(Overloaded)` |
//! | after (a timeout while the handler ran) | `Unknown`, the handler was stopped |
//! | after an actor was given the call | what the actor answers |
//!
//! This stays true of layers that queue: an exchange that was answered as not delivered cannot be taken any more, wherever it
//! waits. A layer that answers by itself, with [`Answer`](crate::Answer), vouches for that answer.
//!
//! The stage *started* of such a call means that the layers have it.
//!
//! # Cost
//! An allocation or two per call that goes through layers; none for those that do not. Services are cloned for each call, so
//! what layers share must be in what they clone (as `ConcurrencyLimit` does); a `RateLimit` goes behind a `Buffer`.
//!
//! Never says *not delivered* of a request that a handler had. Above `service` and `client`.

mod client;
mod server;

pub use self::server::{BoxError, Exchange, Handlers};
