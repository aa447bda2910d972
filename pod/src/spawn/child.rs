//! One life of a child, as its parent's program holds it.
//!
//! A handle: it keeps nothing alive, and is good after the life is over. A later life of the name is another child.
//!
//! Given out by the facade in `handle`.

use std::time::Duration;

use super::registry::Stop;
use super::stop;
use crate::error::{RunError, StopError};
use crate::handle::{PodHandle, Work};
use crate::id::PodId;
use crate::store::{Followed, StoreError, Terminal};

/// One life of a child.
#[derive(Clone, Debug)]
pub struct Child {
    pub(crate) handle: PodHandle,
    pub(crate) pod: PodId,
}

impl Child {
    /// Which life.
    pub fn id(&self) -> &PodId {
        &self.pod
    }

    /// Gives it something to do.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn run(&self, input: impl Into<String>) -> Result<Work, RunError> {
        // A later life of the name is somebody else.
        let newest = self.handle.shared().registry.child(&self.pod.name);
        if newest.is_none_or(|newest| newest.pod != self.pod) {
            return Err(RunError::NoSuchChild { name: self.pod.name.clone() });
        }
        self.handle.delegate(&self.pod.name, None, None, input.into()).await
    }

    /// Waits for the end of its life.
    ///
    /// # Errors
    /// This pod ended first.
    pub async fn terminal(&self) -> Result<Terminal, StopError> {
        let shared = self.handle.shared();
        let stopped = || StopError::Stopped { name: self.pod.name.clone() };
        // CANCEL SAFETY: waiting changes nothing.
        tokio::select! {
            biased;
            over = stop::until_over(shared, &self.pod) => over.map_err(|_| stopped())?,
            () = self.handle.wait() => return Err(stopped()),
        }
        match shared.registry.life(&self.pod).and_then(|line| line.terminal) {
            Some(terminal) => Ok(terminal),
            None => {
                let pod = self.pod.clone();
                let row = shared.store.read(move |reads| reads.child(&pod)).await.map_err(|_| stopped())?;
                row.and_then(|row| row.terminal).ok_or_else(stopped)
            }
        }
    }

    /// Ends it: it is told to, and after `grace` its process group is signalled. Returns its terminal event. Its policy starts it
    /// no more; if it has already, that life is ended, too.
    ///
    /// # Errors
    /// This pod ended first.
    pub async fn stop(&self, grace: Duration) -> Result<Terminal, StopError> {
        let shared = self.handle.shared();
        let mut life = self.clone();
        let mut own = None;
        loop {
            shared.registry.stop(&life.pod, Stop { now: false, grace });
            let terminal = life.terminal().await;
            shared.registry.forget_stop(&life.pod);
            let terminal = terminal?;
            own.get_or_insert(terminal.clone());
            match stop::forego(shared, &life.pod).await {
                Ok(Followed { by: Some(next), .. }) => life.pod = next,
                Ok(Followed { by: None, .. }) => return Ok(own.unwrap_or(terminal)),
                Err(StoreError::Closed) => return Err(StopError::Stopped { name: self.pod.name.clone() }),
                Err(error) => {
                    tracing::error!(pod = %life.pod, error = error.chain(), "that a child is not started again cannot be recorded");
                    return Ok(own.unwrap_or(terminal));
                }
            }
        }
    }
}
