//! What the tests of the whole workspace share: a seeded simulator of the session, and a world of real processes.
//!
//! Never part of a shipped binary: it switches on test-only features.

pub mod sim;
pub mod world;
