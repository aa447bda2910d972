//! Events: none lost, none twice, none skipped, none changed, all in order.
//!
//! Compares three books that were kept apart: what the child's store says, what the child wrote down when it offered
//! and was acked, and what its parent has applied.
//!
//! A part of `judge`.

use std::collections::{BTreeMap, BTreeSet};

use pod::id::{PodId, PodName, Seq, StreamId};
use pod::protocol::{LocalEvent, PodEvent};
use pod::store::ChildState;

use super::judge::{applied, owners};
use super::{Fault, PodRecord, Recording, Verdict};

pub(super) fn judge(recording: &Recording, verdict: &mut Verdict) {
    once_and_unchanged(recording, verdict);
    for (parent, record) in &recording.pods {
        in_order(parent, record, verdict);
    }
    all_there(recording, verdict);
}

/// The events that children are known to have committed, by their places.
fn known(recording: &Recording, verdict: &mut Verdict) -> BTreeMap<(StreamId, Seq), PodEvent> {
    let mut known: BTreeMap<(StreamId, Seq), PodEvent> = BTreeMap::new();
    let offered = recording.offers.iter().map(|offer| ((offer.stream, offer.seq), &offer.event));
    let kept = recording
        .pods
        .values()
        .flat_map(|record| record.outbox.iter().map(|row| ((record.stream, row.seq), &row.event)));
    for ((stream, seq), event) in offered.chain(kept) {
        let first = known.entry((stream, seq)).or_insert_with(|| event.clone());
        if first != event && !is_gap(first) && !is_gap(event) {
            verdict.find(Fault::Altered, format!("stream {stream}: event {seq} was {first:?}, and later {event:?}"));
        }
    }
    known
}

fn once_and_unchanged(recording: &Recording, verdict: &mut Verdict) {
    let known = known(recording, verdict);
    let (mut places, mut contents) = (BTreeMap::new(), BTreeSet::new());
    for (parent, record) in &recording.pods {
        for applied in applied(record) {
            let (Some(key), LocalEvent::Reported(event)) = (applied.key, applied.event) else { continue };
            verdict.counts.events += 1;
            if let Some(before) = places.insert((key.stream, key.seq), parent) {
                let by =
                    if before == parent { format!("by `{parent}`") } else { format!("by `{before}` and `{parent}`") };
                verdict.find(Fault::AppliedTwice, format!("stream {}: event {} {by}", key.stream, key.seq));
            } else if !is_gap(event) && !contents.insert(format!("{} {event:?}", key.stream)) {
                // Every event names what it is about: the same one under another number has been raised twice.
                let seq = key.seq;
                verdict.find(Fault::AppliedTwice, format!("`{parent}`: {event:?} once more, as event {seq}"));
            }
            if let Some(known) = known.get(&(key.stream, key.seq)).filter(|known| !is_gap(known)) {
                verdict.counts.compared += 1;
                if known != event && !is_gap(event) {
                    verdict.find(Fault::Altered, format!("`{parent}` has {event:?}, and its child raised {known:?}"));
                }
            }
        }
    }
}

fn is_gap(event: &PodEvent) -> bool {
    matches!(event, PodEvent::Gap { .. })
}

fn in_order(parent: &PodName, record: &PodRecord, verdict: &mut Verdict) {
    let mut last: BTreeMap<(StreamId, bool), Seq> = BTreeMap::new();
    let mut ended: BTreeSet<&PodId> = BTreeSet::new();
    for applied in applied(record) {
        if let Some(key) = applied.key
            && let Some(before) = last.insert((key.stream, applied.told), key.seq)
            && before > key.seq
        {
            let detail = format!("`{parent}`: stream {}: event {} stands before {}", key.stream, before, key.seq);
            verdict.find(Fault::OutOfOrder, detail);
        }
        if !applied.told {
            continue;
        }
        let life = applied.event.pod();
        let end = matches!(applied.event, LocalEvent::Lost { .. } | LocalEvent::Reported(PodEvent::ShutDown { .. }));
        if end {
            ended.insert(life);
        } else if ended.contains(life) {
            verdict.find(Fault::OutOfOrder, format!("`{parent}`: {:?} after the end of that life", applied.event));
        }
    }
}

/// Nothing that was acked, and nothing that a buried life had committed, is missing.
fn all_there(recording: &Recording, verdict: &mut Verdict) {
    let owners = owners(recording);
    let mut acked: BTreeMap<StreamId, Seq> = BTreeMap::new();
    verdict.counts.acks += recording.acks.len() as u64;
    let kept = recording.pods.values().map(|record| (record.stream, record.acked));
    for (stream, durable) in recording.acks.iter().map(|ack| (ack.stream, ack.durable)).chain(kept) {
        let most = acked.entry(stream).or_default();
        *most = durable.max(*most);
    }
    let mut applied_by: BTreeMap<StreamId, BTreeSet<Seq>> = BTreeMap::new();
    for (parent, record) in &recording.pods {
        for applied in applied(record) {
            let (Some(key), LocalEvent::Reported(event)) = (applied.key, applied.event) else { continue };
            let seqs = applied_by.entry(key.stream).or_default();
            seqs.insert(key.seq);
            if let PodEvent::Gap { from, to, .. } = event {
                verdict.find(
                    Fault::Gap,
                    format!("`{parent}` was told that events {from} to {to} of {} are gone", key.stream),
                );
                // LIMIT: more than a test raises; a gap says what it likes.
                seqs.extend((from.0..=to.0).take(100_000).map(Seq));
            }
        }
    }
    let nothing = BTreeSet::new();
    for (stream, owner) in &owners {
        let has = applied_by.get(stream).unwrap_or(&nothing);
        let acked = acked.get(stream).copied().unwrap_or_default();
        let highest = has.last().copied().unwrap_or_default();
        let raised = recording.pods.get(*owner).map_or(Seq(0), |record| record.raised);
        let buried = is_buried(recording, *stream);
        for seq in (1..=acked.max(highest).max(raised).0).map(Seq).filter(|seq| !has.contains(seq)) {
            let detail = format!("event {seq} of `{owner}` (stream {stream})");
            if seq <= acked {
                verdict.find(Fault::AckedLost, format!("{detail}, acked up to {acked}, is nowhere"));
            } else if seq < highest {
                verdict.find(Fault::Gap, format!("{detail} is missing, and {highest} is there"));
            } else if buried {
                verdict.find(Fault::CommittedLost, format!("{detail} was committed before its life was buried"));
            }
        }
    }
    for (parent, record) in &recording.pods {
        // Whoever has given its child's newest life away does not hear of what comes later.
        let holds = |stream: StreamId| {
            let rows = record.children.iter().filter(|row| row.stream == Some(stream));
            rows.max_by_key(|row| row.at).is_none_or(|row| row.moved_to.is_none())
        };
        for (stream, watermark) in &record.applied {
            let highest = applied_by.get(stream).and_then(|seqs| seqs.last().copied()).unwrap_or_default();
            if *watermark != highest && (holds(*stream) || *watermark > highest) {
                let detail = format!("`{parent}` counts stream {stream} up to {watermark}, and has {highest}");
                verdict.find(if *watermark > highest { Fault::AckedLost } else { Fault::AppliedTwice }, detail);
            }
        }
    }
}

/// Whether every life that raised events of `stream` is over and read for its parent.
fn is_buried(recording: &Recording, stream: StreamId) -> bool {
    let mut rows = recording.pods.values().flat_map(|record| &record.children).filter(|row| row.stream == Some(stream));
    let mut lives = rows.by_ref().peekable();
    lives.peek().is_some() && lives.all(|row| row.state == ChildState::Ended)
}
