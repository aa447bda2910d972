//! Which pods there are below the roots of a user, what there is to know of one, and the way to it.
//!
//! Looks and changes nothing. A pod lives if its life lock is held, by nothing else.
//!
//! Used by `pod ls`, `inspect` and `restore`, and by `tools` for what is below a pod.

mod inspect;
mod way;

use std::time::Duration;

use crate::id::PodName;
use crate::life_lock::{self, Holder, Life};
use crate::protocol::{Method, PodStatus, Status};
use crate::runtime_dir::{DirError, Roots};
use crate::store::{ChildRow, StatusCounts, StoreReader};

pub use self::inspect::inspect;
pub use self::way::{Way, parent_name, way};

/// One pod, alive or not.
#[derive(Clone, Debug)]
pub struct PodSummary {
    /// Its name.
    pub name: PodName,
    /// The process that is it, if it lives.
    pub holder: Option<Holder>,
    /// What its store says; why it cannot be read, if so.
    pub store: Result<PodRecord, String>,
}

/// What a pod's store says.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// Its figures.
    pub counts: StatusCounts,
    /// Its state, as it is committed.
    pub state: crate::protocol::PodState,
    /// The lives of its children.
    pub children: Vec<ChildRow>,
}

/// Every pod below `roots`, by name.
///
/// # Errors
/// If the roots cannot be read. A pod whose store cannot be read is listed, and says so.
pub fn list(roots: &Roots) -> Result<Vec<PodSummary>, DirError> {
    Ok(roots.pods()?.into_iter().map(|name| summary(roots, name)).collect())
}

/// One pod.
pub fn summary(roots: &Roots, name: PodName) -> PodSummary {
    let paths = roots.pod(&name);
    let holder = match life_lock::probe(&paths.life_lock()) {
        Ok(Life::Held(holder)) => Some(holder),
        Ok(Life::Free) | Err(_) => None,
    };
    let read = || {
        let reader = StoreReader::open(paths.store())?;
        reader.look(|reads| {
            Ok(PodRecord { counts: reads.status_counts()?, state: reads.control()?.state, children: reads.children()? })
        })
    };
    PodSummary { holder, store: read().map_err(|error| error.chain()), name }
}

/// What a living pod says of itself.
///
/// # Errors
/// What became of the call.
pub async fn status(roots: &Roots, name: &PodName, deadline: Duration) -> Result<PodStatus, rpc::CallError<Status>> {
    let client = rpc::Client::<Method>::new(&rpc::Address::unix(roots.pod(name).socket()));
    client.call(Status).deadline(deadline).await
}

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod tests;
