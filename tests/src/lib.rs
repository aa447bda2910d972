//! What the tests of the whole workspace share: a seeded simulator of the session, a world of real processes, and a
//! judge of the histories that these leave behind.
//!
//! Never part of a shipped binary: it switches on test-only features.

pub mod checker;
pub mod drive;
pub mod sim;
pub mod watching;
pub mod world;
