//! Judges what a tree of pods has left behind: was anything that was acked lost, anything applied twice, anything
//! skipped; has every life exactly one end, every work exactly one settlement; was a living child called lost?
//!
//! Works from stores after the fact and from what was witnessed meanwhile, never from the runtime's own opinion. Knows
//! nothing of how the tree was driven. Changes nothing that it reads.
//!
//! `recording` is what is judged, `read` makes one of a directory of stores, `judge` says what is wrong with it,
//! `finding` is the list of what can be. `it/checker.rs` plants each fault and sees it found; `drive` records.

mod ends;
mod events;
mod finding;
mod judge;
mod read;
mod recording;
mod works;

pub use self::finding::{Counts, Fault, Finding, Verdict};
pub use self::judge::judge;
pub use self::read::{ReadError, read};
pub use self::recording::{Ack, Offer, PodRecord, Recording};
