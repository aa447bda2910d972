//! SpawnPod: start a child, and give it something to do.

use serde::{Deserialize, Serialize};

use super::{Caller, Description};
use crate::error::{SpawnError, in_one_line};
use crate::handle;
use crate::id::PodName;
use crate::manifest::{RestartEntry, WorkerSpec};
use crate::protocol::{RUN_INPUT_BYTES_MAX, RestartPolicy, SpawnPod, SpawnRejection, Spawned, Text, WORKER_BYTES_MAX};
use crate::registry::ClaimError;
use crate::scope::{Permission, ScopeRule};
use crate::spawn::READY_TIMEOUT;
use crate::store::{Lifetime, Restart};

pub(super) const DESCRIPTION: Description = Description {
    name: "SpawnPod",
    description: "Start a child pod: a process of its own that works while you go on. Give it a name that no living \
                  pod has, what it hosts, and what it is to do. You are told when its work ends, without asking; read \
                  what it produced with ReadPodOutput.",
    parameters: r#"{
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"},
            "worker": {"type": "object", "description": "what it hosts: its kind, and what that kind is told",
                       "properties": {"kind": {"type": "string"}}, "required": ["kind"]},
            "input": {"type": "string", "description": "what it is to do first"},
            "scope": {"type": "array", "description": "what it may read and write, of what you may", "items": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "write": {"type": "boolean"}, "recursive": {"type": "boolean"},
                    "deny": {"type": "boolean", "description": "neither to be read nor written, though what is above it may be"}},
                "required": ["path"], "additionalProperties": false}},
            "lifetime": {"enum": ["tied", "detached"], "description": "tied (the default): it ends with you; detached: it goes on when your process is gone, and reports when you are back"},
            "restart": {"type": "object", "description": "whether it is started again when it has ended, at most max times within so many seconds", "properties": {
                "when": {"enum": ["temporary", "transient", "permanent"], "description": "never (the default), if it failed, always"},
                "max": {"type": "integer", "minimum": 1, "maximum": 1024},
                "within_seconds": {"type": "integer", "minimum": 1, "maximum": 604800}},
                "additionalProperties": false}
        },
        "required": ["name", "worker"],
        "additionalProperties": false
    }"#,
};

/// What the tool is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpawnPodInput {
    /// Its name.
    pub name: PodName,
    /// What it hosts.
    pub worker: WorkerSpec,
    /// What it is to do first.
    #[serde(default)]
    pub input: Option<String>,
    /// What it is given of this pod's scope.
    #[serde(default)]
    pub scope: Vec<Right>,
    /// Whether it ends with this pod.
    #[serde(default = "crate::manifest::tied", with = "crate::manifest::words")]
    pub lifetime: Lifetime,
    /// Whether it is started again when it has ended.
    #[serde(default)]
    pub restart: RestartEntry,
}

/// One right, as a model writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Right {
    /// An absolute path.
    pub path: String,
    /// Whether it may be changed, too.
    #[serde(default)]
    pub write: bool,
    /// Whether all below it is meant, too.
    #[serde(default)]
    pub recursive: bool,
    /// Whether it may not be used at all, whatever may be done with what is above it.
    #[serde(default)]
    pub deny: bool,
}

impl TryFrom<SpawnPodInput> for SpawnPod {
    type Error = String;

    /// What does not fit is refused, not cut.
    fn try_from(input: SpawnPodInput) -> Result<Self, String> {
        let worker =
            serde_json::to_string(&input.worker).map_err(|error| format!("the worker cannot be told: {error}"))?;
        fits("worker", &worker, WORKER_BYTES_MAX)?;
        fits("input", input.input.as_deref().unwrap_or_default(), RUN_INPUT_BYTES_MAX)?;
        if let Some(both) = input.scope.iter().find(|right| right.write && right.deny) {
            return Err(format!("`{}` cannot be both written and denied; say one of the two", both.path));
        }
        let rules: Vec<ScopeRule> = input.scope.into_iter().map(ScopeRule::from).collect();
        let scope = rpc::List::try_from(rules).map_err(|error| format!("the scope is not valid: {error}"))?;
        let Restart { when, max, within_ms } = input.restart.policy()?;
        let restart = RestartPolicy { kind: when.into(), max, within_ms };
        let detached = input.lifetime == Lifetime::Detached;
        Ok(Self {
            name: input.name,
            worker: worker.into(),
            input: input.input.map(Text::from),
            scope,
            detached,
            restart,
        })
    }
}

impl From<Right> for ScopeRule {
    fn from(right: Right) -> Self {
        let permission = match (right.deny, right.write) {
            (true, _) => Permission::Deny,
            (false, true) => Permission::Write,
            (false, false) => Permission::Read,
        };
        Self { target: right.path.into(), permission, recursive: right.recursive }
    }
}

/// Starts a child, and gives it its input, on behalf of the caller's work.
///
/// # Errors
/// [`SpawnRejection`] says why there is no child.
///
/// # Cancel safety
/// Dropped early, the child may be started all the same, and given its input.
pub async fn spawn_pod(caller: &Caller, request: SpawnPod) -> Result<Spawned, SpawnRejection> {
    let (caller, name) = (caller.clone(), request.name.clone());
    let task = tokio::spawn(async move { start(&caller, request).await });
    task.await.unwrap_or_else(|error| Err(SpawnRejection::Refused { name, reason: Text::clipped(error.to_string()) }))
}

async fn start(caller: &Caller, request: SpawnPod) -> Result<Spawned, SpawnRejection> {
    let name = request.name;
    let worker: WorkerSpec = serde_json::from_str(&request.worker).map_err(|error| {
        let why = crate::manifest::explain("worker", &error.to_string());
        SpawnRejection::Worker { name: name.clone(), reason: Text::clipped(why.to_string()) }
    })?;
    let spawn = handle::SpawnPod::new(name.clone(), worker).scope(request.scope.into_vec());
    let spawn = spawn.lifetime(Lifetime::detached(request.detached)).restart(request.restart.into());
    let child = caller.pod.spawn_pod_in(caller.turn, spawn).await.map_err(|error| rejection(&name, &error))?;
    let pid = caller.pod.children().into_iter().find(|line| line.pod == *child.id()).and_then(|line| line.pid);
    let mut spawned = Spawned { pod: child.id().clone(), pid, work: None, not_given: None };
    if let Some(input) = request.input {
        match caller.pod.delegate(&name, caller.turn, caller.work, input.as_str().to_owned()).await {
            Ok(work) => spawned.work = Some(work.id()),
            Err(error) => spawned.not_given = Some(Text::clipped(in_one_line(&error))),
        }
    }
    Ok(spawned)
}

/// Why a child was not started, as it travels.
pub(crate) fn rejection(name: &PodName, error: &SpawnError) -> SpawnRejection {
    let name = name.clone();
    match error {
        SpawnError::Stopping { .. } => SpawnRejection::Stopping,
        SpawnError::Worker { source, .. } => {
            SpawnRejection::Worker { name, reason: Text::clipped(in_one_line(source)) }
        }
        SpawnError::NameTaken { holder, .. } => SpawnRejection::NameTaken { name, holder: Text::clipped(holder) },
        SpawnError::TooMany { max, .. } => SpawnRejection::TooMany { max: *max },
        SpawnError::DiedEarly { terminal, stderr, .. } => {
            SpawnRejection::Exited { name, how: Text::clipped(terminal), stderr: Text::clipped(stderr) }
        }
        SpawnError::NotReady { stderr, .. } => {
            let limit_ms = u64::try_from(READY_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
            SpawnRejection::TimedOut { name, limit_ms, stderr: Text::clipped(stderr) }
        }
        SpawnError::Cap { cap, .. } => SpawnRejection::Cap { name, cap: (*cap).into() },
        SpawnError::Scope { source: ClaimError::Overlap { path, holder }, .. } => {
            SpawnRejection::Overlap { name, path: Text::clipped(path.to_string_lossy()), holder: holder.clone() }
        }
        SpawnError::Scope { source: ClaimError::NotYours(right), .. } => SpawnRejection::NotGiven {
            name,
            path: Text::clipped(right.target.to_string_lossy()),
            wanted: right.wanted,
            has: right.has,
            reason: Text::clipped(right.to_string()),
        },
        SpawnError::Scope { source, .. } => SpawnRejection::Rule { name, reason: Text::clipped(in_one_line(source)) },
        SpawnError::Confinement { reason, .. } => SpawnRejection::Confinement { name, reason: Text::clipped(reason) },
        SpawnError::NotOurs { owner, .. } => {
            let owner = format!("it is {owner}: {}", owner.remedy(name.as_str()));
            SpawnRejection::NotOurs { name, owner: Text::clipped(owner) }
        }
        other => SpawnRejection::Refused { name, reason: Text::clipped(in_one_line(other)) },
    }
}

pub(super) fn fits(what: &str, text: &str, max: usize) -> Result<(), String> {
    let bytes = text.len();
    if bytes <= max {
        Ok(())
    } else {
        Err(format!("the {what} has {bytes} bytes, at most {max} are taken; put it in a file and send its path"))
    }
}
