//! StopPod: end a child, wait for its end, and reclaim what it had.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Caller, Description, still_running, target};
use crate::id::{PodId, PodName};
use crate::protocol::{LifeEnd, StopOutcome, StopPod, StopRejection, Stopped, Text, WorkResult};
use crate::spawn::carry_out_intents;
use crate::spawn::registry::Stop;
use crate::spawn::stop;
use crate::store::{ChildState, Direction, IntentKind, StoreError};

/// LIMIT: how long a child may take before its process is signalled.
const GRACE_MAX: Duration = Duration::from_secs(600);
/// How long the end may take once the process was signalled: SIGTERM, seven seconds, SIGKILL, and reading its store.
const AFTER_GRACE: Duration = Duration::from_secs(30);

pub(super) const DESCRIPTION: Description = Description {
    name: "StopPod",
    description: "End a child, and wait until it has ended. Its turn may end first, unless 'now' is true; after \
                  'grace_seconds' its process is killed. The answer says how it ended and whether anything was lost. \
                  What it produced can still be read, and its name used again; if 'returned' is false, some \
                  program of it is not dead yet, and its name and its rights are free when it is.",
    parameters: r#"{
        "type": "object",
        "properties": {
            "pod": {"type": "string"},
            "now": {"type": "boolean", "description": "cancel its turn instead of letting it end"},
            "grace_seconds": {"type": "integer", "minimum": 0, "maximum": 600}
        },
        "required": ["pod"],
        "additionalProperties": false
    }"#,
};

/// What the tool is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopPodInput {
    /// Which.
    pub pod: PodName,
    /// Cancel its turn instead of letting it end.
    #[serde(default)]
    pub now: bool,
    /// Until its process is signalled.
    #[serde(default = "grace_seconds")]
    pub grace_seconds: u64,
}

fn grace_seconds() -> u64 {
    20
}

impl From<StopPodInput> for StopPod {
    fn from(input: StopPodInput) -> Self {
        Self { pod: input.pod, now: input.now, grace_ms: input.grace_seconds.saturating_mul(1000) }
    }
}

/// Ends a child: it is told to, after the grace its process group is signalled; returns when all that it had to tell is
/// committed and what is left of it is reclaimed, or cannot be yet, which is told. One that has ended already is told about in the same words.
///
/// # Errors
/// [`StopRejection`]: nothing was done.
///
/// # Cancel safety
/// Dropped early, the child ends all the same.
pub async fn stop_pod(caller: &Caller, request: StopPod) -> Result<StopOutcome, StopRejection> {
    let row = target::child(&caller.pod, &request.pod).await.map_err(|error| unavailable(&error))?;
    let row = row.map_err(StopRejection::Target)?;
    let (mut pod, already) = (row.pod, row.state == ChildState::Ended);
    let shared = caller.pod.shared();
    let grace = Duration::from_millis(request.grace_ms).min(GRACE_MAX);
    let begun = Instant::now();
    let (mut already, mut is_over, mut was_due) = (already, already, false);
    still_running(caller).await.map_err(|error| unavailable(&error))?;
    loop {
        if !is_over && let Err(outcome) = until_ended(caller, &pod, Stop { now: request.now, grace }, begun).await? {
            return Ok(outcome);
        }
        // Whoever would start it again finds that it is not to, or has done so already.
        let followed = stop::forego(shared, &pod).await.map_err(|error| unavailable(&error))?;
        was_due |= followed.was_due;
        match followed.by {
            Some(next) => (pod, already, is_over) = (next, false, false),
            None => break,
        }
    }
    // Its supervisor does the same; whoever comes second finds it done. What is not yet possible goes on being tried.
    carry_out_intents(shared).await;
    let ended = how_it_ended(caller, pod, already, was_due).await;
    ended.map(StopOutcome::Ended).map_err(|error| unavailable(&error))
}

/// Tells the life `pod` to end and waits until it has; as long as is reasonable, from `begun` on.
async fn until_ended(
    caller: &Caller,
    pod: &PodId,
    how: Stop,
    begun: Instant,
) -> Result<Result<(), StopOutcome>, StopRejection> {
    let shared = caller.pod.shared();
    shared.registry.stop(pod, how);
    // CANCEL SAFETY: waiting changes nothing.
    let ended = tokio::time::timeout((how.grace + AFTER_GRACE).saturating_sub(begun.elapsed()), async {
        tokio::select! {
            biased;
            over = stop::until_over(shared, pod) => over.map(|()| true),
            () = caller.pod.wait() => Ok(false),
        }
    });
    let ended = ended.await;
    shared.registry.forget_stop(pod);
    match ended {
        Ok(Ok(true)) => Ok(Ok(())),
        Ok(Ok(false)) => Err(StopRejection::Stopping),
        Ok(Err(error)) => Err(unavailable(&error)),
        Err(_) => {
            let waited_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            Ok(Err(StopOutcome::StillRunning { pod: pod.clone(), waited_ms }))
        }
    }
}

async fn how_it_ended(caller: &Caller, pod: PodId, already: bool, was_due: bool) -> Result<Stopped, StoreError> {
    let dead = pod.clone();
    let look = caller.pod.store().read(move |reads| {
        let works = reads.works(Direction::Delegated, false)?;
        let lost = works.iter().filter(|work| work.child.as_ref() == Some(&dead));
        let lost = lost.filter(|work| work.result == Some(WorkResult::Lost)).count() as u64;
        let to_return = IntentKind::ReturnLeases { pod: dead.clone() };
        let returned = reads.intents()?.iter().all(|intent| intent.kind != to_return);
        Ok((reads.life_end(&dead)?, lost, returned))
    });
    match look.await? {
        (Some(end), works_lost, returned) => Ok(Stopped {
            end: LifeEnd::from(&end.terminal),
            already,
            works_lost,
            returned,
            was_due,
            unread: end.unread.map(Text::clipped),
            pod,
        }),
        (None, ..) => Err(StoreError::Contradiction(format!("pod {pod} has ended and has no terminal event"))),
    }
}

fn unavailable(error: &StoreError) -> StopRejection {
    StopRejection::Unavailable { reason: Text::clipped(error.chain()) }
}
