//! ListVisiblePods, InspectPod and ListCompletions: what is below a pod, and what could be meant.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ALL, Caller, Description};
use crate::discovery::inspect;
use crate::id::{PodId, PodName};
use crate::life_lock::{self, Life};
use crate::protocol::{
    COMPLETIONS_MAX, Completion, CompletionKind, Completions, FindRejection, InspectPod, ListCompletions,
    ListVisiblePods, NAMES_BESIDE_MAX, PODS_PAGE_MAX, PodReport, TargetFault, Text, VisiblePage, VisiblePod,
};
use crate::store::StoreError;

/// LIMIT: how deep a line of parents is followed; deeper trees are refused when they are made.
const DEPTH_MAX: u32 = 64;

pub(super) const LIST: Description = Description {
    name: "ListVisiblePods",
    description: "List all pods below you, your children's children included, by name: whose child each is, how deep, \
                  and whether it lives.",
    parameters: r#"{
        "type": "object",
        "properties": {
            "after": {"type": "string", "description": "the last name of the page before"},
            "max": {"type": "integer", "minimum": 1, "maximum": 100}
        },
        "additionalProperties": false
    }"#,
};

pub(super) const INSPECT: Description = Description {
    name: "InspectPod",
    description: "Look at one pod: yourself or one below you, dead or alive. What it does, what is open, what its \
                  parent has not heard yet, and whether it can be restored.",
    parameters: r#"{
        "type": "object",
        "properties": {"pod": {"type": "string"}},
        "required": ["pod"],
        "additionalProperties": false
    }"#,
};

/// What ListVisiblePods is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListVisiblePodsInput {
    /// The last name of the page before.
    pub after: Option<PodName>,
    /// How many.
    pub max: Option<u32>,
}

/// What InspectPod is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectPodInput {
    /// Which.
    pub pod: PodName,
}

impl From<ListVisiblePodsInput> for ListVisiblePods {
    fn from(input: ListVisiblePodsInput) -> Self {
        Self { after: input.after, max: input.max.unwrap_or(u32::MAX) }
    }
}

impl From<InspectPodInput> for InspectPod {
    fn from(input: InspectPodInput) -> Self {
        Self { pod: input.pod }
    }
}

/// The pods below the caller's, by name.
///
/// # Errors
/// The store cannot be read.
pub async fn list_visible_pods(caller: &Caller, request: ListVisiblePods) -> Result<VisiblePage, FindRejection> {
    let below = below(caller).await?;
    let max = usize::try_from(request.max).unwrap_or(usize::MAX).clamp(1, PODS_PAGE_MAX);
    let mut wanted = below.into_values().filter(|pod| request.after.as_ref().is_none_or(|after| pod.pod.name > *after));
    let mut page: Vec<VisiblePod> = wanted.by_ref().take(max).collect();
    let more = wanted.next().is_some();
    for pod in &mut page {
        let lock = caller.pod().roots().pod(&pod.pod.name).life_lock();
        pod.alive = matches!(life_lock::probe(&lock), Ok(Life::Held(_)));
    }
    Ok(VisiblePage { pods: rpc::List::try_from(page).unwrap_or_default(), more })
}

/// What there is to know of the caller's pod, or of one below it.
///
/// # Errors
/// [`FindRejection`].
pub async fn inspect_pod(caller: &Caller, request: InspectPod) -> Result<PodReport, FindRejection> {
    let (own, name) = (&caller.pod().id().name, request.pod);
    if name != *own {
        let below = below(caller).await?;
        if !below.contains_key(&name) {
            let exists = caller.pod().roots().pod(&name).life_lock().exists();
            let mut beside: Vec<PodName> = below.into_keys().collect();
            beside.truncate(NAMES_BESIDE_MAX);
            let beside = rpc::List::try_from(beside).unwrap_or_default();
            return Err(FindRejection::Target(match exists {
                true => TargetFault::NotVisible { name },
                false => TargetFault::Missing { name, beside },
            }));
        }
    }
    let roots = caller.pod().roots().clone();
    let looked = tokio::task::spawn_blocking(move || inspect(&roots, &name)).await;
    looked.unwrap_or_else(|error| Err(FindRejection::Unavailable { reason: Text::clipped(error.to_string()) }))
}

/// What could be meant by a word that is typed to this pod.
///
/// # Errors
/// The store cannot be read.
pub async fn list_completions(caller: &Caller, request: ListCompletions) -> Result<Completions, FindRejection> {
    let (pod, mut found) = (caller.pod(), Vec::new());
    let mut add = |kind, word: &str, about: String| {
        let wanted = request.kind.is_none_or(|wanted| wanted == kind) && word.starts_with(request.prefix.as_str());
        if wanted {
            found.push(Completion { kind, word: Text::clipped(word), about: Text::clipped(about) });
        }
    };
    add(CompletionKind::Pod, pod.id().name.as_str(), "this pod".into());
    if let Some(parent) = pod.parent() {
        add(CompletionKind::Pod, parent.name.as_str(), "its parent".into());
    }
    for pod in below(caller).await?.into_values() {
        let about = if pod.depth == 1 { "a child".to_owned() } else { format!("a child of `{}`", pod.parent) };
        add(CompletionKind::Pod, pod.pod.name.as_str(), about);
    }
    for kind in pod.shared().workers.kinds() {
        add(CompletionKind::Worker, kind, "a kind of worker".into());
    }
    for tool in ALL {
        add(CompletionKind::Tool, tool.name, tool.description.to_owned());
    }
    found.sort();
    let more = found.len() > COMPLETIONS_MAX;
    found.truncate(COMPLETIONS_MAX);
    Ok(Completions { found: rpc::List::try_from(found).unwrap_or_default(), more })
}

/// Everything below the pod, by name; whether it lives is not looked at yet.
async fn below(caller: &Caller) -> Result<BTreeMap<PodName, VisiblePod>, FindRejection> {
    let own = caller.pod().id().clone();
    let look = caller.pod().store().read(|reads| Ok((reads.children()?, reads.descendants()?)));
    let (children, descendants) = look.await.map_err(|error: StoreError| unavailable(&error))?;
    // Newest first: the first of a name stays, and a child of ours is ours.
    let mut whose: BTreeMap<PodName, (PodId, PodName)> = BTreeMap::new();
    for row in children.into_iter().rev() {
        let name = row.pod.name.clone();
        whose.entry(name).or_insert((row.pod, own.name.clone()));
    }
    for row in descendants {
        whose.entry(row.pod.name.clone()).or_insert((row.pod, row.parent.name));
    }
    let depth = |name: &PodName| {
        let (mut depth, mut at) = (0, name);
        while *at != own.name && depth < DEPTH_MAX {
            let Some((_, parent)) = whose.get(at) else { break };
            (depth, at) = (depth + 1, parent);
        }
        depth
    };
    let pods = whose.iter().map(|(name, (pod, parent))| {
        (name.clone(), VisiblePod { pod: pod.clone(), parent: parent.clone(), depth: depth(name), alive: false })
    });
    Ok(pods.collect())
}

fn unavailable(error: &StoreError) -> FindRejection {
    FindRejection::Unavailable { reason: Text::clipped(error.chain()) }
}
