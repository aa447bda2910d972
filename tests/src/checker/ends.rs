//! Ends: every life has exactly one, and none is called lost that was not.
//!
//! What is known of a life beside its parent's word: its own history, what it offered, and whether somebody killed it.
//!
//! A part of `judge`.

use std::collections::{BTreeMap, BTreeSet};

use pod::Terminal;
use pod::id::{PodId, PodName};
use pod::protocol::{LocalEvent, PodEvent};
use pod::store::{ChildState, HistoryItem, HistoryRow};

use super::judge::{applied, rows_of};
use super::{Fault, PodRecord, Recording, Verdict};

pub(super) fn judge(recording: &Recording, verdict: &mut Verdict) {
    let said = last_words(recording);
    one_holder(recording, verdict);
    for (parent, record) in &recording.pods {
        one_each(parent, record, recording.over, verdict);
        let is_adoption = |row: &&HistoryRow| matches!(row.item, HistoryItem::ChildAdopted { .. });
        verdict.counts.adopted += record.history.iter().filter(is_adoption).count() as u64;
        for (life, row) in lost(record) {
            verdict.counts.lost += 1;
            if let Some(why) = why_not_lost(recording, record, life, row, &said) {
                verdict.find(Fault::FalseLost, format!("`{parent}` calls {life} lost: {why}"));
            }
        }
    }
}

/// Every life is the child of one pod: of all who have a row of it, all but one say that it is another's now.
fn one_holder(recording: &Recording, verdict: &mut Verdict) {
    let mut holders: BTreeMap<&PodId, Vec<&PodName>> = BTreeMap::new();
    for (parent, record) in &recording.pods {
        for row in &record.children {
            let holds = holders.entry(&row.pod).or_default();
            holds.extend(row.moved_to.is_none().then_some(parent));
        }
    }
    for (life, holds) in holders {
        match holds.as_slice() {
            [_] => {}
            // As long as somebody is at it, it may be on its way.
            [] if !recording.over => {}
            [] => verdict.find(Fault::Holders, format!("{life} was given away, and nobody has it")),
            more => verdict.find(Fault::Holders, format!("{life} is the child of {more:?}")),
        }
    }
}

fn one_each(parent: &PodName, record: &PodRecord, over: bool, verdict: &mut Verdict) {
    let mut lives: BTreeMap<&PodId, Vec<&Terminal>> = BTreeMap::new();
    for row in &record.history {
        match &row.item {
            HistoryItem::ChildSpawned { child, .. } | HistoryItem::ChildAdopted { child, .. } => {
                _ = lives.entry(child).or_default();
            }
            HistoryItem::ChildMoved { child, .. } => _ = lives.remove(child),
            HistoryItem::ChildTerminal { child, terminal, .. } => lives.entry(child).or_default().push(terminal),
            _ => {}
        }
    }
    let mut told: BTreeMap<&PodId, usize> = BTreeMap::new();
    for applied in applied(record).filter(|applied| applied.told) {
        if matches!(applied.event, LocalEvent::Lost { .. } | LocalEvent::Reported(PodEvent::ShutDown { .. })) {
            *told.entry(applied.event.pod()).or_default() += 1;
        }
    }
    verdict.counts.lives += lives.len() as u64;
    for (life, terminals) in lives {
        let ended = record.children.iter().any(|row| row.pod == *life && row.state == ChildState::Ended);
        match terminals.as_slice() {
            [] if over || ended => verdict.find(Fault::Terminals, format!("`{parent}`: {life} has none")),
            [] => {}
            [terminal] => {
                let expected = usize::from(!matches!(terminal, Terminal::NeverStarted { .. }));
                let told = told.get(life).copied().unwrap_or_default();
                if told != expected {
                    let detail =
                        format!("`{parent}`: {life} ended with {terminal:?}, and its end is told {told} times");
                    verdict.find(Fault::Terminals, detail);
                }
            }
            more => verdict.find(Fault::Terminals, format!("`{parent}`: {life} has {}: {more:?}", more.len())),
        }
        if over && !ended {
            verdict.find(Fault::Terminals, format!("`{parent}`: {life} is not over, and nobody is left"));
        }
    }
}

fn lost(record: &PodRecord) -> impl Iterator<Item = (&PodId, &HistoryRow)> {
    record.history.iter().filter_map(|row| match &row.item {
        HistoryItem::ChildTerminal { child, terminal: Terminal::Lost { .. }, .. } => Some((child, row)),
        _ => None,
    })
}

/// The lives that are known to have said that they shut down.
fn last_words(recording: &Recording) -> BTreeSet<&PodId> {
    let offered = recording.offers.iter().map(|offer| &offer.event);
    let kept = recording.pods.values().flat_map(|record| record.outbox.iter().map(|row| &row.event));
    let said = offered.chain(kept).filter_map(|event| match event {
        PodEvent::ShutDown { pod } => Some(pod),
        _ => None,
    });
    said.collect()
}

fn why_not_lost(
    recording: &Recording,
    parent: &PodRecord,
    life: &PodId,
    end: &HistoryRow,
    said: &BTreeSet<&PodId>,
) -> Option<String> {
    if said.contains(life) {
        return Some("it had committed that it shuts down".to_owned());
    }
    let own = recording.pods.get(&life.name);
    // That a child of a dead pod is another's now is written by that one.
    let is_own = |row: &HistoryRow| !matches!(row.item, HistoryItem::ChildMoved { .. });
    if let Some(later) = own.and_then(|own| rows_of(own, life).find(|row| row.at > end.at && is_own(row))) {
        return Some(format!("it went on to write {} into its history", later.item.kind()));
    }
    if recording.killed.contains(life) {
        return None;
    }
    // One that was not ready yet may have given up: its parent died, or was about to stop. So may one whose parent died
    // before it could answer that it is taken up; it has then written nothing but that its life began.
    let is_ready = |row: &&HistoryRow| matches!(&row.item, HistoryItem::ChildReady { child } if child == life);
    let is_adopted = |row: &&HistoryRow| matches!(&row.item, HistoryItem::ChildAdopted { child, .. } if child == life);
    let ready = match parent.history.iter().find(is_ready) {
        Some(ready) => ready.seq,
        // It was another one's when it became so.
        None => {
            let adopted = parent.history.iter().find(is_adopted)?.seq;
            recording.pods.values().any(|record| record.history.iter().any(|row| is_ready(&row))).then_some(adopted)?
        }
    };
    let mut between = parent.history.iter().filter(|row| row.seq > ready && row.seq < end.seq);
    let parent_died = between.any(|row| matches!(row.item, HistoryItem::LifeStarted { .. }));
    let was_up = own.is_some_and(|own| rows_of(own, life).count() > 1);
    (was_up || !parent_died).then(|| "nobody had killed it".to_owned())
}
