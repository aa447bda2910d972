//! A world of real pods: directories that vanish, processes that end with the test, and ways to see what is committed.
//!
//! Never touches anything outside its temporary directory, and never ends a process that was not started from there.
//!
//! `place` is the world, `host` a parent in a process of its own, `history` what a store says, `workers`, `grove` and
//! `gate` what the pods of tests run. The program is `src/bin/host_pod.rs`.

mod gate;
mod grove;
mod history;
mod host;
mod place;
mod workers;

pub use self::gate::{Cue, Gate, Seen, gated};
pub use self::grove::{GROVE, Step};
pub use self::history::History;
pub use self::host::{Ask, HostProcess, Told, halt};
pub use self::place::{InTime, World, until};
pub use self::workers::workers;
