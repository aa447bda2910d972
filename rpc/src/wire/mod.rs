//! Bytes: frames, headers, handshakes and bodies, as pure functions over slices.
//!
//! No I/O, no clock, no state. Nothing here allocates because of what a length says; nothing panics, whatever the
//! bytes are.
//!
//! Used by `session`, which gives the bytes a meaning, and by `io`, which cuts them into frames.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod body;
pub mod frame;
pub mod header;
pub mod hello;
pub mod outgoing;
mod reader;
pub(crate) mod shared;
pub mod types;
