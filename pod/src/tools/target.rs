//! Which child a name means, and why it means none.
//!
//! Looks at the store, where every life that there was has its row.

use crate::handle::PodHandle;
use crate::id::PodName;
use crate::protocol::{LifeEnd, NAMES_BESIDE_MAX, TargetFault};
use crate::store::{ChildRow, ChildState, StoreError};

/// The newest life of the child `name`, dead or alive.
pub(crate) async fn child(pod: &PodHandle, name: &PodName) -> Result<Result<ChildRow, TargetFault>, StoreError> {
    let (wanted, roots) = (name.clone(), pod.roots().clone());
    let found = pod.store().read(move |reads| {
        if let Some(row) = reads.child_by_name(&wanted)? {
            return Ok(Ok(row));
        }
        if let Some(row) = reads.descendant(&wanted)? {
            return Ok(Err(TargetFault::NotYourChild { name: wanted, parent: row.parent.name }));
        }
        let mut beside: Vec<PodName> = reads.children()?.into_iter().map(|row| row.pod.name).collect();
        beside.sort();
        beside.dedup();
        beside.truncate(NAMES_BESIDE_MAX);
        Ok(Err(TargetFault::Missing { name: wanted, beside: rpc::List::try_from(beside).unwrap_or_default() }))
    });
    match found.await? {
        Err(TargetFault::Missing { name, beside }) => {
            // There may be such a pod, and it is somebody else's.
            let exists = roots.pod(&name).life_lock().exists();
            Ok(Err(if exists { TargetFault::NotVisible { name } } else { TargetFault::Missing { name, beside } }))
        }
        found => Ok(found),
    }
}

/// The same, if it lives.
pub(crate) async fn living(pod: &PodHandle, name: &PodName) -> Result<Result<ChildRow, TargetFault>, StoreError> {
    Ok(child(pod, name).await?.and_then(|row| match row.state {
        ChildState::Ended => {
            Err(TargetFault::Ended { name: row.pod.name, end: row.terminal.as_ref().map(LifeEnd::from) })
        }
        _ => Ok(row),
    }))
}
