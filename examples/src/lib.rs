//! What the examples share: a small service, and a check that ends a program with a sentence.
//!
//! Each program in `examples/` shows one idea, prints what it observed, checks it, and exits non-zero if it is not so.
#![doc = include_str!("../../README.md")]
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::path::Path;

use rpc::{Address, Blob};
use serde::{Deserialize, Serialize};

/// What an example's `main` returns.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Why a report was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Refused {
    /// In words.
    pub reason: String,
}

/// Something that must reach its receiver. Acked when it is applied.
#[derive(Clone, Debug, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64, rejection = Refused)]
pub struct Report {
    /// Its own key, which it keeps however often it is sent.
    pub key: u64,
    /// Its text.
    pub text: String,
    /// Its weight.
    pub attachment: Blob,
}

/// Asks for everything that the receiver remembers, as a stream.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = u64, item = Blob)]
pub struct Snapshot;

/// A receiver of reports.
#[derive(Debug, rpc::Protocol)]
#[rpc(name = "reports", version = 1)]
pub enum Reports {
    /// See [`Report`].
    Report(Report),
    /// See [`Snapshot`].
    #[rpc(stream)]
    Snapshot(Snapshot),
}

/// A report with that key and nothing else to it.
pub fn report(key: u64) -> Report {
    Report { key, text: format!("report {key}"), attachment: Blob(bytes::Bytes::new()) }
}

/// The socket of an example, in a directory that the listener makes private.
pub fn socket(directory: &Path) -> Address {
    Address::unix(directory.join("private").join("reports.sock"))
}

/// Ends the program unless `holds`.
///
/// # Errors
/// `claim`, if it does not hold.
pub fn check(holds: bool, claim: &str) -> Outcome {
    if holds {
        println!("as promised: {claim}");
        Ok(())
    } else {
        Err(format!("NOT SO: {claim}").into())
    }
}
