//! ListPods: which children there are, what they do, and how those that are gone ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Caller, Description};
use crate::id::PodName;
use crate::protocol::{Kept, LifeEnd, ListPods, ListRejection, PODS_PAGE_MAX, PodLine, PodPage, Text};
use crate::store::{ChildRow, ChildState, Direction, StoreError, WorkRow};

pub(super) const DESCRIPTION: Description = Description {
    name: "ListPods",
    description: "List your children, by name: what each does, what it was given last, how many works of yours it has \
                  open, its last report, and how it ended if it has. You need not ask in order to learn of an end: you \
                  are told.",
    parameters: r#"{
        "type": "object",
        "properties": {
            "after": {"type": "string", "description": "the last name of the page before"},
            "max": {"type": "integer", "minimum": 1, "maximum": 100},
            "live_only": {"type": "boolean"}
        },
        "additionalProperties": false
    }"#,
};

/// What the tool is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListPodsInput {
    /// The last name of the page before.
    pub after: Option<PodName>,
    /// How many.
    pub max: Option<u32>,
    /// Only those that live.
    pub live_only: bool,
}

impl From<ListPodsInput> for ListPods {
    fn from(input: ListPodsInput) -> Self {
        Self { after: input.after, max: input.max.unwrap_or(u32::MAX), live_only: input.live_only }
    }
}

/// The children of a pod by name, of each the newest life.
///
/// # Errors
/// The store cannot be read.
pub async fn list_pods(caller: &Caller, request: ListPods) -> Result<PodPage, ListRejection> {
    let look = caller.pod.store().read(|reads| Ok((reads.children()?, reads.works(Direction::Delegated, false)?)));
    let (rows, works) = look.await.map_err(|error| unavailable(&error))?;
    let mut newest: BTreeMap<PodName, (Kept, ChildRow)> = BTreeMap::new();
    for row in rows {
        // Oldest first: the last of a name stays.
        let before = newest.get(&row.pod.name).map_or(0, |(kept, _)| kept.restarts);
        let mut kept = row.kept(std::slice::from_ref(&row));
        kept.restarts = kept.restarts.saturating_add(before);
        newest.insert(row.pod.name.clone(), (kept, row));
    }
    let max = usize::try_from(request.max).unwrap_or(usize::MAX).clamp(1, PODS_PAGE_MAX);
    let mut wanted = newest
        .into_values()
        .filter(|(_, row)| request.after.as_ref().is_none_or(|after| row.pod.name > *after))
        .filter(|(_, row)| !request.live_only || row.state != ChildState::Ended);
    let page: Vec<PodLine> = wanted.by_ref().take(max).map(|(kept, row)| line(caller, row, kept, &works)).collect();
    let more = wanted.next().is_some();
    Ok(PodPage { pods: rpc::List::try_from(page).unwrap_or_default(), more })
}

fn line(caller: &Caller, row: ChildRow, kept: Kept, works: &[WorkRow]) -> PodLine {
    let seen = caller.pod.children().into_iter().find(|line| line.pod == row.pod);
    let mut its = works.iter().filter(|work| work.child.as_ref() == Some(&row.pod));
    let works_open = its.clone().filter(|work| work.result.is_none()).count() as u64;
    let phase = match &seen {
        Some(seen) => format!("{:?}", seen.phase).to_lowercase(),
        None => row.state.word().to_owned(),
    };
    PodLine {
        phase: Text::clipped(phase),
        pid: seen.as_ref().and_then(|seen| seen.pid).or(row.pid),
        since_ms: row.at.0,
        works_open,
        work: its.next_back().map(|work| Text::clipped(&work.input)),
        last_event: seen.and_then(|seen| seen.last_event).map(Text::clipped),
        end: row.terminal.as_ref().map(LifeEnd::from),
        kept,
        pod: row.pod,
    }
}

fn unavailable(error: &StoreError) -> ListRejection {
    ListRejection::Unavailable { reason: Text::clipped(error.chain()) }
}
