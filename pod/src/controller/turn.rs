//! One turn in flight: a task of its own around the worker.
//!
//! Whatever becomes of the worker, a panic included, is a verdict; the controller hears it by a message and never waits
//! for it.
//!
//! Started by `actor`, which gets the worker back with the verdict.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::actor::Msg;
use super::state::{Signal, TurnVerdict};
use crate::handle::PodHandle;
use crate::id::{TurnId, WorkId};
use crate::manifest::ManifestError;
use crate::store::StartedTurn;
use crate::worker::{TurnContext, TurnEnd, Worker};

/// A turn whose worker runs.
#[derive(Debug)]
pub(crate) struct TurnInFlight {
    pub(crate) turn: TurnId,
    /// What it is for.
    pub(crate) works: Vec<WorkId>,
    /// The worker's task; none once it is over and its end is being committed.
    pub(crate) task: Option<AbortHandle>,
}

/// How a worker's turn came out.
pub(crate) struct TurnOver {
    pub(crate) turn: TurnId,
    pub(crate) verdict: TurnVerdict,
    /// What the worker said, if it failed.
    pub(crate) message: Option<String>,
    /// The worker; gone if it panicked or had to be ended.
    pub(crate) worker: Option<Box<dyn Worker>>,
}

/// Runs the worker that was `made` for one turn.
pub(crate) fn start(
    handle: PodHandle,
    made: Result<Box<dyn Worker>, ManifestError>,
    started: StartedTurn,
    signal: watch::Receiver<Option<Signal>>,
) -> TurnInFlight {
    let (turn, works) = (started.turn, started.works.clone());
    let messages = handle.shared().messages.clone();
    let task = tokio::spawn(async move {
        let (verdict, message, worker) = match made {
            Ok(worker) => run(worker, TurnContext::new(handle, started, signal)).await,
            Err(error) => (TurnVerdict::Errored, Some(format!("the worker could not be made again: {error}")), None),
        };
        // The controller is gone only when the pod has ended.
        let _ = messages.send(Msg::TurnOver(TurnOver { turn, verdict, message, worker })).await;
    });
    TurnInFlight { turn, works, task: Some(task.abort_handle()) }
}

/// The context holds a handle of the pod, and goes with this.
async fn run(
    mut worker: Box<dyn Worker>,
    mut cx: TurnContext,
) -> (TurnVerdict, Option<String>, Option<Box<dyn Worker>>) {
    let ended = AssertUnwindSafe(async { worker.turn(&mut cx).await }).catch_unwind().await;
    match ended {
        Ok(Ok(end)) => (verdict(end), None, Some(worker)),
        Ok(Err(error)) => (TurnVerdict::Errored, Some(error.to_string()), Some(worker)),
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            (TurnVerdict::Errored, Some(format!("the worker panicked: {text}")), None)
        }
    }
}

fn verdict(end: TurnEnd) -> TurnVerdict {
    match end {
        TurnEnd::Finished => TurnVerdict::Finished,
        TurnEnd::LimitReached => TurnVerdict::LimitReached,
        TurnEnd::Paused => TurnVerdict::Paused,
        TurnEnd::RolledBack => TurnVerdict::RolledBack,
        TurnEnd::Cancelled => TurnVerdict::Cancelled,
    }
}
