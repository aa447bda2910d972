//! What a caller can do: repeat what is safe, watch a call, use several lanes, call from a handler, call without a
//! runtime.
#![allow(missing_docs, clippy::unwrap_used)]

mod blocking;
mod lanes;
mod nested;
#[path = "../common/proxy.rs"]
mod proxy;
mod retry;
mod runtimes;
mod stages;
mod support;
