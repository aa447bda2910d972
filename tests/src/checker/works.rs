//! Works: each that was delegated or accepted is settled, once, and as what it was.
//!
//! A work that was given to a life which died is settled as lost by its parent; its own store may hold it open.
//!
//! A part of `judge`.

use std::collections::{BTreeMap, BTreeSet};

use pod::WorkResult;
use pod::id::{PodId, PodName, WorkId};
use pod::store::{ChildRow, ChildState, HistoryItem};

use super::judge::rows_of;
use super::{Fault, PodRecord, Recording, Verdict};

/// How often each work was settled, and how, by direction: what a pod was given, and what it gave.
struct Settled {
    received: BTreeMap<WorkId, Vec<WorkResult>>,
    delegated: BTreeMap<WorkId, Vec<WorkResult>>,
}

pub(super) fn judge(recording: &Recording, verdict: &mut Verdict) {
    let mut settled_by_parent = BTreeSet::new();
    for (parent, record) in &recording.pods {
        let settled = settled(record);
        for (work, child) in delegated(record) {
            verdict.counts.works += 1;
            let results = settled.delegated.get(&work).map_or(&[][..], Vec::as_slice);
            let its = |row: &&ChildRow| row.pod == *child;
            let row = record.children.iter().find(its);
            let ended = row.is_some_and(|row| row.state == ChildState::Ended && row.moved_to.is_none());
            once(parent, work, results, recording.over || ended, verdict);
            // What it gave to a child that is another pod's now, it does not hear of: for itself that is lost.
            let is_anothers = row.is_some_and(|row| row.moved_to.is_some()) && results == [WorkResult::Lost];
            if let [result] = results
                && !is_anothers
            {
                settled_by_parent.insert(work);
                as_it_was(recording, parent, work, child, *result, verdict);
            }
        }
    }
    for (name, record) in &recording.pods {
        let settled = settled(record);
        // What came with a child that was adopted.
        let given: BTreeSet<WorkId> = delegated(record).map(|(work, _)| work).collect();
        for row in record.delegated.iter().filter(|row| !given.contains(&row.work)) {
            let results = settled.delegated.get(&row.work).map_or(&[][..], Vec::as_slice);
            once(name, row.work, results, recording.over, verdict);
            settled_by_parent.extend((!results.is_empty()).then_some(row.work));
        }
        for row in &record.received {
            let results = settled.received.get(&row.work).map_or(&[][..], Vec::as_slice);
            // What the parent has settled may be open here, if the life that had it is dead.
            let due = recording.over && !settled_by_parent.contains(&row.work);
            once(name, row.work, results, due, verdict);
        }
    }
    verdict.counts.accepted += recording.accepted.len() as u64;
    for (name, work) in &recording.accepted {
        let there = recording.pods.get(name).is_some_and(|record| record.received.iter().any(|row| row.work == *work));
        if !there {
            verdict.find(Fault::AcceptedLost, format!("`{name}` had accepted work {work} and does not know it"));
        }
    }
}

fn once(pod: &PodName, work: WorkId, results: &[WorkResult], due: bool, verdict: &mut Verdict) {
    match results {
        [] if due => verdict.find(Fault::Unsettled, format!("`{pod}`: work {work}")),
        [] | [_] => {}
        more => verdict.find(Fault::SettledTwice, format!("`{pod}`: work {work}: {more:?}")),
    }
}

/// What the life that had the work said of it, in its own history, is what its parent has settled it as.
fn as_it_was(
    recording: &Recording,
    parent: &PodName,
    work: WorkId,
    child: &PodId,
    result: WorkResult,
    verdict: &mut Verdict,
) {
    let Some(own) = recording.pods.get(&child.name) else { return };
    let said = rows_of(own, child).find_map(|row| match &row.item {
        HistoryItem::WorkSettled { result, child: None } if row.work == Some(work) => Some(*result),
        _ => None,
    });
    if let Some(said) = said.filter(|said| *said != result) {
        let fault =
            if matches!(result, WorkResult::Lost | WorkResult::Refused) { Fault::FalseLost } else { Fault::Altered };
        verdict
            .find(fault, format!("`{parent}` settled work {work} as {result}, and {child} had settled it as {said}"));
    }
}

fn delegated(record: &PodRecord) -> impl Iterator<Item = (WorkId, &PodId)> {
    record.history.iter().filter_map(|row| match (&row.item, row.work) {
        (HistoryItem::WorkDelegated { child, .. }, Some(work)) => Some((work, child)),
        _ => None,
    })
}

fn settled(record: &PodRecord) -> Settled {
    let mut settled = Settled { received: BTreeMap::new(), delegated: BTreeMap::new() };
    for row in &record.history {
        if let (HistoryItem::WorkSettled { result, child }, Some(work)) = (&row.item, row.work) {
            let direction = if child.is_some() { &mut settled.delegated } else { &mut settled.received };
            direction.entry(work).or_default().push(*result);
        }
    }
    settled
}
