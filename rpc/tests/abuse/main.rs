//! Peers that do their worst, and what it costs the others: each test asserts a bound and prints its figure.
//!
//! One test at a time: latencies are compared, and memory is counted for the whole process. What is compared with what is
//! measured in one run, in turn. A busy machine makes the ratios worse than they are, so the asserted bounds are generous;
//! the printed figures are what counts (`cargo test -p rpc --test abuse -- --nocapture`).
//!
//! A peer that must be another process than the honest client (the server counts by process) is this binary again.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod connects;
mod counting;
mod decode;
mod descriptors;
mod floods;
mod memory;
mod raw;
mod slow;
mod world;
