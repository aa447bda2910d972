//! The sans-IO connection: what frames mean, on both sides.
//!
//! Pure state. No socket, no task, no clock and no random number: time is an argument, bytes go in by `handle_frame`
//! and come out by `poll_transmit`. The same code runs under the real driver, the seeded simulator and the fuzzer.
//! SPEC: PROTOCOL §4.
//!
//! Above `wire`, below `io`. Callers and handlers reach it through `client` and `server`.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod client;
pub mod keepalive;
pub mod payload;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod planted;
#[cfg(not(feature = "testing"))]
mod planted;
pub mod server;
mod stream_in;
mod stream_out;
mod window;

use crate::wire::header::HeaderError;
use crate::wire::hello::HelloError;

/// What the peer did wrong, so that the connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame's header is broken.
    #[error("broken header")]
    Header(#[from] HeaderError),
    /// A handshake frame is broken.
    #[error("broken handshake")]
    Hello(#[from] HelloError),
    /// A frame of the wrong side, or at the wrong time.
    #[error("unexpected frame {0}")]
    Unexpected(&'static str),
    /// A body that is not what its kind says.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A number that cannot be.
    #[error("impossible {0}")]
    Impossible(&'static str),
}

#[cfg(test)]
mod lane_tests;
#[cfg(test)]
mod reverse_tests;
