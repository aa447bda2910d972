//! Ending a child for good: the life that is meant, and whatever its policy would start behind it.
//!
//! That none follows is a transaction, as is the reservation of a next life: of the two one comes first, and the other sees it. So
//! no life is left that was begun in between.
//!
//! Asked by `child` and by the tool.

use crate::handle::Shared;
use crate::id::PodId;
use crate::store::{ChildState, StoreError, Tx};

/// What follows a life that is over.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Its next one was due, and is not any more.
    pub(crate) was_due: bool,
    /// Its policy has begun one that lives: it is to be ended, too.
    pub(crate) by: Option<PodId>,
}

/// From here on no life is begun by the policy of `dead`, which is over.
///
/// # Errors
/// If that cannot be committed.
pub(crate) async fn forego(shared: &Shared, dead: &PodId) -> Result<Followed, StoreError> {
    let dead = dead.clone();
    let forego = move |tx: &Tx<'_>| {
        let was_due = tx.forego_restart(&dead.name)?;
        let newest = tx.child_by_name(&dead.name)?;
        let by = newest.filter(|row| row.pod != dead && row.restarted && row.state != ChildState::Ended);
        Ok(Followed { was_due, by: by.map(|row| row.pod) })
    };
    shared.store.write(forego).await
}
