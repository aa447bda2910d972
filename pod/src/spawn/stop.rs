//! Ending a child for good: the life that is meant, and whatever its policy has started, or would start, behind it.
//!
//! That none follows is a transaction, as is the reservation of a next life: of the two one comes first, and the other sees it. A
//! life that is reserved and has no process yet is told to end as soon as it has one (`registry`). So no life is left that was begun
//! in between.
//!
//! Asked by `child` and by the tool.

use crate::handle::Shared;
use crate::id::PodId;
use crate::store::{ChildState, Followed, StoreError};

/// From here on no life is begun by the policy of `dead`, which is over, nor by that of a life which it has begun.
///
/// # Errors
/// If that cannot be committed.
pub(crate) async fn forego(shared: &Shared, dead: &PodId) -> Result<Followed, StoreError> {
    let dead = dead.clone();
    shared.store.write(move |tx| tx.forego_lives_after(&dead)).await
}

/// Waits until the life is over for this pod: its end is committed, and told to those who look.
///
/// # Errors
/// If the store cannot be read.
///
/// # Cancel safety
/// Waiting changes nothing.
pub(crate) async fn until_over(shared: &Shared, pod: &PodId) -> Result<(), StoreError> {
    let mut changes = shared.registry.watch();
    loop {
        changes.borrow_and_update();
        match shared.registry.life(pod) {
            Some(line) if line.terminal.is_some() => return Ok(()),
            Some(_) => {}
            // One that has ended long ago is no longer among the lines; one that is reserved is not yet.
            None => {
                let wanted = pod.clone();
                let row = shared.store.read(move |reads| reads.child(&wanted)).await?;
                if row.is_none_or(|row| row.state == ChildState::Ended) {
                    return Ok(());
                }
            }
        }
        // The sender lives as long as the registry does.
        let _ = changes.changed().await;
    }
}
