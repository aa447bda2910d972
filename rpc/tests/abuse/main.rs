//! Peers that do their worst, and what it costs the others: each test asserts a bound and prints its figure.
//!
//! One test at a time: latencies are compared, and memory is counted for the whole process. What is asserted by default
//! holds on any machine, however busy: honest calls are answered, memory and answers stay within their bounds, nothing
//! hangs. Times are printed then. On a machine that has nothing else to do they are asserted, too:
//!
//! ```text
//! ABUSE_QUIET=1 cargo test --release -p rpc --test abuse -- --nocapture --test-threads 1
//! ```
//!
//! A peer that must be another process than the honest client (the server counts by process) is this binary again.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod connects;
#[path = "../common/counting.rs"]
mod counting;
mod decode;
mod descriptors;
mod floods;
mod impostor;
mod memory;
mod raw;
mod servers;
mod slow;
mod world;
