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
use crate::protocol::clip;
use crate::store::{Compaction, StartedTurn, TurnCause};
use crate::worker::{RewoundTo, TurnContext, TurnEnd, Worker, WorkerError, check_summary};

/// LIMIT: what a worker may say when it fails, in bytes: it must fit a history entry, whatever is in it.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

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
    pub(crate) failure: Option<WorkerError>,
    /// The summary, if it was to make one.
    pub(crate) compaction: Option<Compaction>,
    /// The worker; gone if it panicked or had to be ended.
    pub(crate) worker: Option<Box<dyn Worker>>,
}

/// How a worker's future came out.
struct Ended {
    verdict: TurnVerdict,
    failure: Option<WorkerError>,
    compaction: Option<Compaction>,
    worker: Option<Box<dyn Worker>>,
}

/// Runs the worker that was `made` for one turn. `rewound` is what it has still to forget.
pub(crate) fn start(
    handle: PodHandle,
    made: Result<Box<dyn Worker>, ManifestError>,
    started: StartedTurn,
    rewound: Option<RewoundTo>,
    signal: watch::Receiver<Option<Signal>>,
) -> TurnInFlight {
    let (turn, works) = (started.turn, started.works.clone());
    handle.shared().live.begin(turn);
    let messages = handle.shared().messages.clone();
    let task = tokio::spawn(async move {
        let Ended { verdict, failure, compaction, worker } = match made {
            Ok(worker) => run(worker, rewound, TurnContext::new(handle, started, signal)).await,
            Err(error) => failed(&WorkerError::new(format!("the worker could not be made again: {error}")), None),
        };
        // The controller is gone only when the pod has ended.
        let _ = messages.send(Msg::TurnOver(TurnOver { turn, verdict, failure, compaction, worker })).await;
    });
    TurnInFlight { turn, works, task: Some(task.abort_handle()) }
}

/// The context holds a handle of the pod, and goes with this.
async fn run(mut worker: Box<dyn Worker>, rewound: Option<RewoundTo>, cx: TurnContext) -> Ended {
    let ended = AssertUnwindSafe(async {
        if let Some(to) = rewound {
            worker.rewound(to);
        }
        if cx.cause() != TurnCause::Compact {
            return worker.turn(&cx).await.map(|end| (verdict(end), None));
        }
        let compaction = worker.compact(&cx).await?;
        check_summary(&compaction)?;
        Ok::<_, WorkerError>((TurnVerdict::Finished, Some(compaction)))
    });
    match ended.catch_unwind().await {
        Ok(Ok((verdict, compaction))) => Ended { verdict, failure: None, compaction, worker: Some(worker) },
        Ok(Err(error)) => failed(&error, Some(worker)),
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            failed(&WorkerError::new(format!("the worker panicked: {text}")), None)
        }
    }
}

fn failed(error: &WorkerError, worker: Option<Box<dyn Worker>>) -> Ended {
    let failure = WorkerError::of_kind(error.kind(), clip(&error.to_string(), MESSAGE_BYTES_MAX));
    Ended { verdict: TurnVerdict::Errored, failure: Some(failure), compaction: None, worker }
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
