//! What a pod does, and when.
//!
//! `state` decides and does nothing else; `actor` performs and decides nothing; `answers` says what whoever asked is
//! told; `turn` is one turn in flight. The controller never awaits what a turn may hold, so every method is answered while
//! a turn, a start or a stop is under way.
//!
//! Above `store` and `event`; below the facade in `handle`.

pub(crate) mod actor;
mod answers;
pub(crate) mod calls;
mod counting;
mod rewinding;
mod sending;
pub mod state;
mod time;
pub(crate) mod turn;
