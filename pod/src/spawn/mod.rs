//! Children as processes: starting them, knowing their death, and ending their lives in the store.
//!
//! A stored process number is never signalled; a name is never enough to act on. A child's life ends in the store
//! only when its process is proven dead.
//!
//! Used by the facade in `handle`; what it finds out goes to `controller/actor`.

pub(crate) mod adopt;
pub(crate) mod parent;
pub(crate) mod process;
pub(crate) mod registry;
pub(crate) mod restart;
pub(crate) mod stderr;
pub(crate) mod supervisor;

pub use self::process::LIFE_VARIABLE;
pub use self::registry::{ChildPhase, ChildStatus, SpawnedPodRegistry, WorkEnd};
