//! AttachOrRestorePod: reach a child that lives, or start one that has ended again.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Caller, Description, target};
use crate::error::{SpawnError, in_one_line};
use crate::handle;
use crate::id::{PodId, PodName};
use crate::life_lock::{self, Life};
use crate::manifest::WorkerSpec;
use crate::protocol::{AttachOrRestorePod, Attached, Method, PodState, RestoreRejection, Status, Text};
use crate::spawn::registry::Stop;
use crate::spawn::{ChildPhase, READY_TIMEOUT, stderr};
use crate::store::{ChildRow, ChildState, StoreError};

/// LIMIT: how long it may take at most.
const LIMIT_MAX: Duration = Duration::from_secs(300);

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
    let row = target::child(caller.pod(), &request.pod).await.map_err(|error| refused(&request.pod, &error))?;
    let row = row.map_err(RestoreRejection::Target)?;
    if row.state == ChildState::Ended {
        return restore(caller, row, limit).await;
    }
    match attach(caller, &row, limit, until).await {
        Some(attached) => Ok(attached),
        None => {
            // It may have ended just now: then there is time left to start it again.
            let row = target::child(caller.pod(), &request.pod).await.map_err(|error| refused(&request.pod, &error))?;
            let row = row.map_err(RestoreRejection::Target)?;
            let left = until.saturating_duration_since(Instant::now());
            if row.state == ChildState::Ended && !left.is_zero() {
                return restore(caller, row, left).await;
            }
            Err(timed_out(caller, &row.pod, limit))
        }
    }
}

/// Asks a child that lives whether it does.
async fn attach(caller: &Caller, row: &ChildRow, limit: Duration, until: Instant) -> Option<Attached> {
    let begun = caller.pod().children_until(|lines| {
        // One that an earlier life of ours had started is known by its row alone.
        let begun = lines.iter().all(|line| line.pod != row.pod || line.phase != ChildPhase::Starting);
        (begun || row.state == ChildState::Ready).then_some(())
    });
    let _ = tokio::time::timeout(limit, begun).await;
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let client = rpc::Client::<Method>::new(&rpc::Address::unix(&row.socket));
    let status = client.call(Status).deadline(left).await.ok()?;
    (status.pod == row.pod).then(|| attached(row, Some(status.pid), false))
}

async fn restore(caller: &Caller, row: ChildRow, limit: Duration) -> Result<Attached, RestoreRejection> {
    let (pod, name) = (caller.pod(), row.pod.name.clone());
    let locked = || {
        let lock = pod.roots().pod(&name).life_lock();
        match life_lock::probe(&lock) {
            Ok(Life::Held(holder)) => {
                Some(RestoreRejection::Locked { name: name.clone(), pid: holder.pid, life: holder.pod })
            }
            Ok(Life::Free) | Err(_) => None,
        }
    };
    if let Some(locked) = locked() {
        return Err(locked);
    }
    let worker: WorkerSpec = serde_json::from_str(&row.worker).map_err(|error| {
        let reason = Text::clipped(format!("what it hosted is not recorded in a way that can be read: {error}"));
        RestoreRejection::NotRestorable { name: name.clone(), reason }
    })?;
    if *pod.shared().phase.borrow() == PodState::Stopping {
        return Err(RestoreRejection::Stopping);
    }
    let spawn = handle::SpawnPod::new(name.clone(), worker).scope(row.scope);
    let spawn = spawn.lifetime(row.lifetime).restart(row.restart);
    match tokio::time::timeout(limit, pod.spawn_pod(spawn)).await {
        Ok(Ok(child)) => {
            let line = pod.children().into_iter().find(|line| line.pod == *child.id());
            let pid = line.and_then(|line| line.pid);
            let socket = Text::clipped(pod.roots().pod(&name).socket().to_string_lossy());
            Ok(Attached { pod: child.id().clone(), pid, socket, restored: true })
        }
        Ok(Err(SpawnError::NameTaken { holder, .. })) => {
            // Whoever has the name, by the lock if it can be told.
            Err(locked().unwrap_or(RestoreRejection::Refused { name, reason: Text::clipped(holder) }))
        }
        Ok(Err(error)) => Err(rejection(&name, limit, &error)),
        Err(_) => {
            // What was begun and is not waited for is ended.
            let begun = pod.child(&name).map(|child| child.id().clone()).unwrap_or(row.pod);
            let rejection = timed_out(caller, &begun, limit);
            pod.shared().registry.stop(&begun, Stop { now: true, grace: Duration::ZERO });
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
