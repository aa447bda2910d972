//! What a parent's committed history says about its children: each life, each work, and how they ended.
//!
//! A fold over history entries, and nothing else: no memory of the process that ran the tree goes into it. What it says
//! therefore holds for a live pod, a dead one, and one that was killed and started again.
//!
//! Fed by `follow`, shown by `live` and `results`, judged by `commands::demo`.

use std::collections::{BTreeMap, BTreeSet};

use pod::id::{PodId, StreamId, WorkId};
use pod::protocol::{LocalEvent, LostReason, PodEvent, TurnResult, WorkResult};
use pod::store::{EventKey, HistoryItem, HistoryRow, SystemItem, Terminal, UnixMillis};

use crate::seen::Seen;

/// Everything that a history says about children.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// The lives of children, in the order in which they were reserved. Those that were over before the pod's present
    /// life began are left out.
    pub(crate) lives: Vec<Life>,
    /// The works that were delegated, in order; those that were settled before the present life are left out.
    pub(crate) works: Vec<Work>,
    /// The events of each stream.
    pub(crate) streams: BTreeMap<StreamId, Seen>,
    /// Lives of the pod of which nothing is left out.
    of: BTreeSet<PodId>,
    /// Whether one of them has begun.
    began: bool,
}

/// One life of a child.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) pod: PodId,
    pub(crate) since: UnixMillis,
    pub(crate) ready: bool,
    pub(crate) stream: Option<StreamId>,
    /// Its terminal event.
    pub(crate) terminal: Option<Terminal>,
    /// How many terminal events it has; more than one is a defect.
    pub(crate) terminals: u32,
}

/// One work that was delegated.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) work: WorkId,
    pub(crate) child: PodId,
    pub(crate) input: String,
    pub(crate) since: UnixMillis,
    /// The last that was reported of it.
    pub(crate) end: Option<End>,
    /// How many turns of it were reported to have ended.
    pub(crate) ends: u32,
    pub(crate) result: Option<WorkResult>,
    pub(crate) settled_at: Option<UnixMillis>,
    /// How often it was settled; more than once is a defect.
    pub(crate) settlements: u32,
}

/// The terminal event of a work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    TurnEnded(TurnResult),
    Errored(String),
    Lost(LostReason),
}

impl Account {
    /// Of the pod's lives `of`: what was over before the first of them began is left out, and nothing of what came then.
    pub(crate) fn of_lives(of: impl IntoIterator<Item = PodId>) -> Self {
        Self { of: of.into_iter().collect(), ..Self::default() }
    }

    /// Takes the next entry into account.
    pub(crate) fn add(&mut self, row: &HistoryRow) {
        match &row.item {
            HistoryItem::LifeStarted { pod } => {
                if !self.began {
                    self.lives.retain(|life| life.terminal.is_none());
                    self.works.retain(|work| work.result.is_none());
                }
                self.began |= self.of.contains(pod);
            }
            HistoryItem::ChildSpawned { child, .. } => self.lives.push(Life {
                pod: child.clone(),
                since: row.at,
                ready: false,
                stream: None,
                terminal: None,
                terminals: 0,
            }),
            HistoryItem::ChildReady { child } => {
                if let Some(life) = self.life_mut(child) {
                    life.ready = true;
                }
            }
            HistoryItem::ChildTerminal { child, terminal, .. } => self.terminal(child, terminal),
            HistoryItem::WorkDelegated { child, input } => {
                if let Some(work) = row.work {
                    self.works.push(Work::new(work, child.clone(), input.clone(), row.at));
                }
            }
            HistoryItem::WorkSettled { result, child: Some(_) } => {
                if let Some(work) = row.work.and_then(|work| self.work_mut(work)) {
                    work.result = Some(*result);
                    work.settled_at = Some(row.at);
                    work.settlements += 1;
                }
            }
            HistoryItem::SystemItem(SystemItem::Report { key, event, .. }) => self.event(*key, event),
            HistoryItem::ControlEvent { key, event } => self.event(*key, event),
            _ => {}
        }
    }

    /// The works of one life.
    pub(crate) fn works_of<'a>(&'a self, pod: &'a PodId) -> impl Iterator<Item = &'a Work> {
        self.works.iter().filter(move |work| work.child == *pod)
    }

    /// The events of the stream that a life has reported in.
    pub(crate) fn seen_of(&self, life: &Life) -> Option<&Seen> {
        life.stream.and_then(|stream| self.streams.get(&stream))
    }

    fn life_mut(&mut self, pod: &PodId) -> Option<&mut Life> {
        self.lives.iter_mut().rev().find(|life| life.pod == *pod)
    }

    fn work_mut(&mut self, work: WorkId) -> Option<&mut Work> {
        self.works.iter_mut().find(|known| known.work == work)
    }

    fn terminal(&mut self, child: &PodId, terminal: &Terminal) {
        if let Some(life) = self.life_mut(child) {
            life.terminals += 1;
            life.terminal = Some(terminal.clone());
        }
        if let Terminal::Lost { reason } = terminal {
            // Works that are open here stand settled as lost just behind. What was settled before keeps its end.
            for work in self.works.iter_mut().filter(|work| work.child == *child && work.result.is_none()) {
                work.end = Some(End::Lost(*reason));
            }
        }
    }

    fn event(&mut self, key: Option<EventKey>, event: &LocalEvent) {
        let LocalEvent::Reported(event) = event else { return };
        if let Some(EventKey { stream, seq }) = key {
            let seen = self.streams.entry(stream).or_default();
            match event {
                PodEvent::Gap { from, to, .. } => seen.gap(from.0, to.0),
                _ => seen.event(seq.0),
            }
            if let Some(life) = self.life_mut(event.pod()) {
                life.stream = Some(stream);
            }
        }
        let end = match event {
            PodEvent::TurnEnded { result, .. } => End::TurnEnded(*result),
            PodEvent::Errored { message, .. } => End::Errored(message.to_string()),
            _ => return,
        };
        if let Some(work) = event.work().and_then(|work| self.work_mut(work)) {
            work.ends += 1;
            // An earlier turn's end may be told after the loss that ended the work.
            if work.result != Some(WorkResult::Lost) {
                work.end = Some(end);
            }
        }
    }
}

impl Work {
    fn new(work: WorkId, child: PodId, input: String, since: UnixMillis) -> Self {
        Self { work, child, input, since, end: None, ends: 0, result: None, settled_at: None, settlements: 0 }
    }

    /// Whether it is over, as far as its parent was told: how its last turn ended, and that it is settled.
    pub(crate) fn is_told(&self) -> bool {
        match self.result {
            None => false,
            // What was never taken has no turn whose end could be told, nor has what was settled before one began.
            Some(WorkResult::Refused | WorkResult::Cancelled) => true,
            Some(_) => self.end.is_some(),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TurnEnded(result) => write!(f, "turn ended: {result}"),
            Self::Errored(message) => write!(f, "errored: {message}"),
            Self::Lost(reason) => write!(f, "lost: {reason}"),
        }
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
pub(crate) mod tests;
