//! What each fuzz target does with its input, and which sentences it checks.
//!
//! The fuzzer runs these functions, and so does `tests/corpus.rs` with every input of the corpora in every plain test
//! run, which includes this file by its path. Never anything that depends on more than the input: no clock, no random
//! number. To fuzz: `rpc/fuzz/corpus.sh unpack`, then `cargo +nightly fuzz run --fuzz-dir rpc/fuzz session_server`, or
//! another of [`TARGETS`]; `rpc/fuzz/corpus.sh pack` puts what it found into the corpora.
//!
//! `choices` makes decisions out of bytes; `codec` has the decoders; `server` and `client` play one half of a lane
//! against a peer that says anything at any time; `chunking` reads the same bytes in pieces of different sizes.
#![allow(missing_docs, reason = "test code that two crates include")]

pub mod choices;
pub mod chunking;
pub mod client;
pub mod codec;
pub mod frames;
pub mod server;

/// A target, which is the name of its corpus, too.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("frame", codec::frame),
    ("header", codec::header),
    ("hello", codec::hello),
    ("body", codec::body),
    ("session_server", server::run),
    ("session_client", client::run),
    ("chunking", chunking::run),
];
