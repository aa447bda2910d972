//! What a pod's history says, in the terms in which tests ask.
//!
//! Reads rows and nothing else: what is claimed by a test was committed.

use std::collections::BTreeMap;

use pod::id::{Seq, StreamId, TurnId, WorkId};
use pod::protocol::{LocalEvent, PodEvent};
use pod::store::{EventKey, HistoryItem, HistoryRow, SystemItem, TurnCause, TurnOutcome};
use pod::{LostReason, Terminal, WorkEnd};

/// The entries of a pod's history.
#[derive(Clone, Debug)]
pub struct History(pub Vec<HistoryRow>);

impl History {
    /// The events that the agent was told, in the order in which it was told them.
    pub fn told(&self) -> Vec<(Option<EventKey>, &LocalEvent)> {
        let told = self.0.iter().filter_map(|row| match &row.item {
            HistoryItem::SystemItem(SystemItem::Report { key, event, .. }) => Some((*key, event)),
            _ => None,
        });
        told.collect()
    }

    /// The events of the control plane: never shown to the agent.
    pub fn control(&self) -> Vec<(Option<EventKey>, &LocalEvent)> {
        let control = self.0.iter().filter_map(|row| match &row.item {
            HistoryItem::ControlEvent { key, event } => Some((*key, event)),
            _ => None,
        });
        control.collect()
    }

    /// The events of `pod` that the agent was told.
    pub fn told_of(&self, pod: &str) -> Vec<PodEvent> {
        let told = self.told().into_iter().filter_map(|(_, event)| match event {
            LocalEvent::Reported(event) if event.pod().name.as_str() == pod => Some(event.clone()),
            _ => None,
        });
        told.collect()
    }

    /// How the turns of `work` ended, in the order of the reports.
    pub fn ends_of(&self, work: WorkId) -> Vec<WorkEnd> {
        let ends = self.told().into_iter().filter_map(|(_, event)| match event {
            LocalEvent::Reported(PodEvent::TurnEnded { work: of, result, .. }) if *of == work => {
                Some(WorkEnd::TurnEnded(*result))
            }
            LocalEvent::Reported(PodEvent::Errored { work: Some(of), message, .. }) if *of == work => {
                Some(WorkEnd::Errored { message: message.to_string() })
            }
            _ => None,
        });
        ends.collect()
    }

    /// How `work`, which was delegated, was settled. Each entry is one time too many but the first.
    pub fn settled(&self, work: WorkId) -> Vec<pod::WorkResult> {
        let settled = self.0.iter().filter(|row| row.work == Some(work)).filter_map(|row| match &row.item {
            HistoryItem::WorkSettled { result, .. } => Some(*result),
            _ => None,
        });
        settled.collect()
    }

    /// The terminal events of the lives of `pod`.
    pub fn terminals(&self, pod: &str) -> Vec<Terminal> {
        let terminals = self.0.iter().filter_map(|row| match &row.item {
            HistoryItem::ChildTerminal { child, terminal, .. } if child.name.as_str() == pod => Some(terminal.clone()),
            _ => None,
        });
        terminals.collect()
    }

    /// The losses that the agent was told.
    pub fn losses(&self, pod: &str) -> Vec<LostReason> {
        let losses = self.told().into_iter().filter_map(|(_, event)| match event {
            LocalEvent::Lost { pod: lost, reason } if lost.name.as_str() == pod => Some(*reason),
            _ => None,
        });
        losses.collect()
    }

    /// What the worker wrote.
    pub fn outputs(&self) -> Vec<&str> {
        let outputs = self.0.iter().filter_map(|row| match &row.item {
            HistoryItem::Output { text, .. } => Some(text.as_str()),
            _ => None,
        });
        outputs.collect()
    }

    /// The turns that were started.
    pub fn turns(&self) -> Vec<(TurnId, TurnCause)> {
        let turns = self.0.iter().filter_map(|row| match &row.item {
            HistoryItem::TurnStarted { cause, .. } => row.turn.map(|turn| (turn, *cause)),
            _ => None,
        });
        turns.collect()
    }

    /// How the turns ended.
    pub fn outcomes(&self) -> Vec<TurnOutcome> {
        let outcomes = self.0.iter().filter_map(|row| match &row.item {
            HistoryItem::TurnEnded { outcome } => Some(outcome.clone()),
            _ => None,
        });
        outcomes.collect()
    }

    /// Asserts that the events of every stream stand here once each, from the first on, without a gap, and that the
    /// agent was told them in that order. For a pod at rest: what waits in the inbox is not in the history.
    ///
    /// # Panics
    /// If it is not so.
    #[track_caller]
    pub fn assert_every_event_once_and_in_order(&self) {
        let mut streams: BTreeMap<StreamId, Vec<Seq>> = BTreeMap::new();
        for (key, _) in self.told() {
            if let Some(key) = key {
                streams.entry(key.stream).or_default().push(key.seq);
            }
        }
        for (stream, told) in &streams {
            assert!(told.is_sorted_by(|a, b| a < b), "stream {stream} was told out of order or twice: {told:?}");
        }
        for (key, _) in self.control() {
            if let Some(key) = key {
                streams.entry(key.stream).or_default().push(key.seq);
            }
        }
        for (stream, mut seen) in streams {
            seen.sort();
            let whole: Vec<Seq> = (1..=seen.len() as u64).map(Seq).collect();
            assert_eq!(seen, whole, "stream {stream} has a gap or an event twice");
        }
    }

    /// Asserts that every life of a child has exactly one terminal event.
    ///
    /// # Panics
    /// If it is not so.
    #[track_caller]
    pub fn assert_one_terminal_a_life(&self) {
        let mut lives = BTreeMap::new();
        for row in &self.0 {
            match &row.item {
                HistoryItem::ChildSpawned { child, .. } => assert!(lives.insert(child.to_string(), 0).is_none()),
                HistoryItem::ChildAdopted { child, .. } => _ = lives.insert(child.to_string(), 0),
                HistoryItem::ChildMoved { child, .. } => _ = lives.remove(&child.to_string()),
                HistoryItem::ChildTerminal { child, .. } => *lives.get_mut(&child.to_string()).expect("spawned") += 1,
                _ => {}
            }
        }
        assert!(lives.values().all(|ends| *ends == 1), "terminal events by life: {lives:?}");
    }
}
