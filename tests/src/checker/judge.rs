//! The verdict on a recording.
//!
//! Pure: the same recording gives the same verdict. Every part looks at all of it; none relies on another's finding.
//!
//! `events`, `ends` and `works` are the parts.

use std::collections::BTreeMap;

use pod::id::{PodId, PodName, StreamId};
use pod::protocol::LocalEvent;
use pod::store::{EventKey, HistoryItem, HistoryRow, SystemItem};

use super::{PodRecord, Recording, Verdict, ends, events, works};

/// What is wrong with `recording`, and how much was looked at.
pub fn judge(recording: &Recording) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.counts.pods = recording.pods.len() as u64;
    events::judge(recording, &mut verdict);
    ends::judge(recording, &mut verdict);
    works::judge(recording, &mut verdict);
    verdict.findings.sort();
    verdict
}

/// One event that a parent has applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppliedEvent<'a> {
    /// Its place; none for what the parent found out by itself.
    pub(super) key: Option<EventKey>,
    /// The event.
    pub(super) event: &'a LocalEvent,
    /// Whether it is one that the agent is told, and not one of the control plane.
    pub(super) told: bool,
}

/// Every event that the parent has applied: what it was told in the order of the telling, with what waits to be told
/// behind it, and between that what is the control plane's.
pub(super) fn applied(record: &PodRecord) -> impl Iterator<Item = AppliedEvent<'_>> {
    let in_history = record.history.iter().filter_map(|row| match &row.item {
        HistoryItem::SystemItem(item) => report(item),
        HistoryItem::ControlEvent { key, event } => Some(AppliedEvent { key: *key, event, told: false }),
        _ => None,
    });
    in_history.chain(record.untold.iter().filter_map(report))
}

fn report(item: &SystemItem) -> Option<AppliedEvent<'_>> {
    match item {
        SystemItem::Report { key, event, .. } => Some(AppliedEvent { key: *key, event, told: true }),
        SystemItem::Note { .. } => None,
    }
}

/// The rows that one life of a pod wrote into its own history.
pub(super) fn rows_of<'a>(record: &'a PodRecord, life: &'a PodId) -> impl Iterator<Item = &'a HistoryRow> {
    let mut current = false;
    record.history.iter().filter(move |row| {
        if let HistoryItem::LifeStarted { pod } = &row.item {
            current = pod == life;
        }
        current
    })
}

/// Which pod's events a stream is.
pub(super) fn owners(recording: &Recording) -> BTreeMap<StreamId, &PodName> {
    recording.pods.iter().map(|(name, record)| (record.stream, name)).collect()
}
