//! Children as processes: starting them, knowing their death, and ending their lives in the store.
//!
//! A stored process number is never signalled; a name is never enough to act on. A child's life ends in the store
//! only when its process is proven dead.
//!
//! `begin` starts a child, `supervisor` follows it to its end, `process` is what both know of the kernel's processes, `reaper`
//! sees to those that were left to this one. Used by the facade in `handle`; what is found out goes to `controller/actor`.

pub(crate) mod adopt;
mod begin;
mod child;
mod ends;
mod hidden;
mod intents;
pub(crate) mod parent;
pub(crate) mod process;
pub(crate) mod reaper;
pub(crate) mod registry;
pub(crate) mod restart;
mod rounds;
pub(crate) mod stderr;
pub(crate) mod stop;
pub(crate) mod supervisor;

pub use self::begin::SpawnPod;
pub(crate) use self::begin::{READY_TIMEOUT, begin};
pub use self::child::Child;
pub(crate) use self::ends::Ends;
pub(crate) use self::intents::carry_out_intents;
pub use self::process::{BACKGROUND_VARIABLE, LIFE_VARIABLE};
pub use self::registry::{ChildPhase, ChildStatus, SpawnedPodRegistry, WorkEnd};
