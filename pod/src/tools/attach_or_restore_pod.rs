//! AttachOrRestorePod: reach a child that lives, or start one that has ended again.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Caller, Description, target};
use crate::error::{SpawnError, in_one_line};
use crate::id::{PodId, PodName};
use crate::life_lock::{self, Holder, Life};
use crate::manifest::WorkerSpec;
use crate::protocol::{AttachOrRestorePod, Attached, Method, PodState, RestoreRejection, Status, Text};
use crate::spawn::registry::Stop;
use crate::spawn::{ChildPhase, READY_TIMEOUT, SpawnPod, begin, stderr};
use crate::store::{ChildRow, ChildState, StoreError};

/// LIMIT: how long it may take at most.
const LIMIT_MAX: Duration = Duration::from_secs(300);
/// Between two looks at a child that does not answer yet. LIMIT: a look is a read of the store and a call.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// LIMIT: how long one call may take; what it is about may have ended meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(5);

pub(super) const DESCRIPTION: Description = Description {
    name: "AttachOrRestorePod",
    description: "Make sure that a child lives and answers. One that has ended is started again under its name: it \
                  goes on with its history, its worker and its rights, and takes work. What it had been given and was \
                  lost stays lost; give it again.",
    parameters: r#"{
        "type": "object",
        "properties": {
            "pod": {"type": "string"},
            "limit_seconds": {"type": "integer", "minimum": 1, "maximum": 300}
        },
        "required": ["pod"],
        "additionalProperties": false
    }"#,
};

/// What the tool is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachOrRestorePodInput {
    /// Which.
    pub pod: PodName,
    /// How long it may take.
    #[serde(default = "limit_seconds")]
    pub limit_seconds: u64,
}

fn limit_seconds() -> u64 {
    30
}

impl From<AttachOrRestorePodInput> for AttachOrRestorePod {
    fn from(input: AttachOrRestorePodInput) -> Self {
        Self { pod: input.pod, limit_ms: input.limit_seconds.saturating_mul(1000) }
    }
}

/// Reaches a child, or restores it.
///
/// # Errors
/// [`RestoreRejection`] tells apart why not.
///
/// # Cancel safety
/// Dropped early, the child may be started all the same.
pub async fn attach_or_restore_pod(caller: &Caller, request: AttachOrRestorePod) -> Result<Attached, RestoreRejection> {
    let (caller, name) = (caller.clone(), request.pod.clone());
    let task = tokio::spawn(async move { reach(&caller, &request).await });
    task.await.unwrap_or_else(|error| Err(RestoreRejection::Refused { name, reason: Text::clipped(error.to_string()) }))
}

async fn reach(caller: &Caller, request: &AttachOrRestorePod) -> Result<Attached, RestoreRejection> {
    let limit = Duration::from_millis(request.limit_ms).min(LIMIT_MAX);
    let until = Instant::now() + limit;
    loop {
        let row = target::child(caller.pod(), &request.pod).await.map_err(|error| refused(&request.pod, &error))?;
        let row = row.map_err(RestoreRejection::Target)?;
        let reached = match row.state {
            ChildState::Ended => restore(caller, &row, limit, until).await?,
            _ => attach(caller, &row, until).await,
        };
        if let Some(attached) = reached {
            return Ok(attached);
        }
        // One that is just starting, ending, or being started again by its policy is another in a moment.
        let pause = until.saturating_duration_since(Instant::now()).min(LOOK_EVERY);
        if pause.is_zero() {
            return Err(timed_out(caller, &row.pod, limit));
        }
        tokio::time::sleep(pause).await;
    }
}

/// Asks a child that lives whether it does. None if that has to be asked again.
async fn attach(caller: &Caller, row: &ChildRow, until: Instant) -> Option<Attached> {
    let begun = caller.pod().children_until(|lines| {
        let line = lines.iter().find(|line| line.pod == row.pod);
        // One that an earlier life of ours had started is known by its row alone.
        let begun = line.is_none_or(|line| line.phase != ChildPhase::Starting) || row.state == ChildState::Ready;
        // One that ends is no use to anybody: its end is waited for.
        let ends = line.is_some_and(|line| line.phase == ChildPhase::Stopping);
        (begun && !ends).then(|| line.is_none_or(|line| line.phase != ChildPhase::Ended))
    });
    if !tokio::time::timeout_at(until.into(), begun).await.unwrap_or(false) {
        return None;
    }
    let left = until.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), ANSWER_MAX);
    let client = rpc::Client::<Method>::new(&rpc::Address::unix(&row.socket));
    let status = client.call(Status).deadline(left).await.ok()?;
    let takes_work = status.pod == row.pod && status.state != PodState::Stopping;
    takes_work.then(|| attached(row, Some(status.pid), false))
}

/// Starts one that has ended again. None if somebody else has, just now.
async fn restore(
    caller: &Caller,
    row: &ChildRow,
    limit: Duration,
    until: Instant,
) -> Result<Option<Attached>, RestoreRejection> {
    let (pod, name) = (caller.pod(), row.pod.name.clone());
    // A later life of it that we have started ourselves: its policy has, or another caller.
    let is_newer = |life: &PodId| pod.child(&name).is_some_and(|child| child.id() == life) && *life != row.pod;
    let locked = || {
        let lock = pod.roots().pod(&name).life_lock();
        match life_lock::probe(&lock) {
            Ok(Life::Held(holder)) => Some(holder),
            Ok(Life::Free) | Err(_) => None,
        }
    };
    let locked_by = |holder: Holder| RestoreRejection::Locked { name: name.clone(), pid: holder.pid, life: holder.pod };
    if let Some(holder) = locked() {
        return if holder.pod.as_ref().is_some_and(is_newer) { Ok(None) } else { Err(locked_by(holder)) };
    }
    let worker: WorkerSpec = serde_json::from_str(&row.worker).map_err(|error| {
        let reason = Text::clipped(format!("what it hosted is not recorded in a way that can be read: {error}"));
        RestoreRejection::NotRestorable { name: name.clone(), reason }
    })?;
    if *pod.shared().phase.borrow() == PodState::Stopping {
        return Err(RestoreRejection::Stopping);
    }
    let spawn = SpawnPod::new(name.clone(), worker).scope(row.scope.clone());
    let spawn = spawn.lifetime(row.lifetime).restart(row.restart);
    let wish = spawn.wish();
    match tokio::time::timeout_at(until.into(), begin(pod, caller.turn, spawn)).await {
        Ok(Ok(child)) => {
            let line = pod.children().into_iter().find(|line| line.pod == *child.id());
            let pid = line.and_then(|line| line.pid);
            let socket = Text::clipped(pod.roots().pod(&name).socket().to_string_lossy());
            Ok(Some(Attached { pod: child.id().clone(), pid, socket, restored: true }))
        }
        Ok(Err(SpawnError::NameTaken { holder, .. })) => match locked() {
            Some(holder) if holder.pod.as_ref().is_some_and(is_newer) => Ok(None),
            // Whoever has the name, by the lock if it can be told.
            Some(holder) => Err(locked_by(holder)),
            None if pod.child(&name).is_some_and(|child| *child.id() != row.pod) => Ok(None),
            None => {
                Err(RestoreRejection::Refused { name, reason: Text::clipped(format!("its name is taken: {holder}")) })
            }
        },
        Ok(Err(error)) => Err(rejection(&name, limit, &error)),
        Err(_) => {
            // What was begun for this and is not waited for is ended, and what was not begun yet is not any more. What others
            // have begun meanwhile is theirs.
            let begun = wish.give_up();
            let rejection = timed_out(caller, begun.unwrap_or(&row.pod), limit);
            if let Some(begun) = begun {
                pod.shared().registry.stop(begun, Stop { now: true, grace: Duration::ZERO });
            }
            Err(rejection)
        }
    }
}

fn rejection(name: &PodName, limit: Duration, error: &SpawnError) -> RestoreRejection {
    let name = name.clone();
    match error {
        SpawnError::Stopping { .. } => RestoreRejection::Stopping,
        SpawnError::Worker { source, .. } => RestoreRejection::NotRestorable {
            name,
            reason: Text::clipped(format!("this program cannot host its worker: {}", in_one_line(source))),
        },
        SpawnError::DiedEarly { terminal, stderr, .. } => {
            RestoreRejection::Exited { name, how: Text::clipped(terminal), stderr: Text::clipped(stderr) }
        }
        SpawnError::NotReady { stderr, .. } => RestoreRejection::TimedOut {
            name,
            limit_ms: millis(limit.min(READY_TIMEOUT)),
            stderr: Text::clipped(stderr),
        },
        other => RestoreRejection::Refused { name, reason: Text::clipped(in_one_line(other)) },
    }
}

fn attached(row: &ChildRow, pid: Option<u32>, restored: bool) -> Attached {
    Attached { pod: row.pod.clone(), pid, socket: Text::clipped(row.socket.to_string_lossy()), restored }
}

fn timed_out(caller: &Caller, pod: &PodId, limit: Duration) -> RestoreRejection {
    let said = stderr::tail(&caller.pod().roots().pod(&pod.name).stderr(), pod);
    RestoreRejection::TimedOut { name: pod.name.clone(), limit_ms: millis(limit), stderr: Text::clipped(said) }
}

fn refused(name: &PodName, error: &StoreError) -> RestoreRejection {
    RestoreRejection::Refused { name: name.clone(), reason: Text::clipped(error.chain()) }
}

fn millis(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
}
