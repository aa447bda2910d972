//! What a pod does once for all of its children that end at the same time.
//!
//! However a child has ended: what it has started may have left its group, and nobody else ends that. Who they are says a mark
//! in their environments, so that all processes are looked at; that is done for all children that have died by then.
//!
//! Part of what a pod's parts share; used by `supervisor` and `intents`.

use std::sync::{Mutex, PoisonError};

use super::process::kill_programs_of_all;
use super::rounds::Rounds;
use crate::id::{Incarnation, PodId};
use crate::runtime_dir::Roots;

/// The ends of a pod's children.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Rounds through what ends leave to be done outside the store.
    pub(super) intents: Rounds,
    sweeps: Rounds,
    /// The dead whose programs have not been ended yet.
    dead: Mutex<Vec<PodId>>,
}

impl Ends {
    /// Ends what the dead child `pod` has left running below `roots`.
    pub(super) async fn end_programs(&self, pod: &PodId, roots: &Roots) {
        let dead = || self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        dead().push(pod.clone());
        let sweep = || async {
            let (swept, roots) = (dead().clone(), roots.clone());
            let lives: Vec<Incarnation> = swept.iter().map(|pod| pod.incarnation).collect();
            let killed = tokio::task::spawn_blocking(move || kill_programs_of_all(&lives, &roots)).await;
            if let Ok(killed @ 1..) = killed {
                let of = swept.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                tracing::warn!(%of, killed, "programs that dead children had left behind were killed");
            }
            dead().retain(|pod| !swept.contains(pod));
        };
        self.sweeps.join(sweep).await;
    }
}
