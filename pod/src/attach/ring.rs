//! The newest items for observers, shared by all of them: made once, sent many times.
//!
//! Bounded in bytes; the oldest go, and whoever is still behind them reads pages of the store instead. Holds nothing for
//! any single observer. Where it ends, it knows what is in flight there, so that whoever joins begins exactly there.
//!
//! Filled by `tail`, read by every observer's task.

use std::collections::VecDeque;
use std::sync::Arc;

use super::picture::{EntryHead, Picture};
use crate::protocol::{ENTRY_BYTES_MAX, Glimpse, InFlight, Observed, PodState};
use crate::store::HistoryLine;

/// LIMIT: what a pod keeps for its observers in all. A second of a pod that commits far more than people can read; whoever
/// is farther behind costs reads of the store.
pub(super) const RING_BYTES_MAX: usize = 4 << 20;
/// LIMIT: lines that are sent together. One write carries as much, and what stands between two of them waits no longer.
pub(super) const BATCH_BYTES: usize = 64 << 10;

/// What observers are sent.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Entries(Arc<Batch>),
    Glimpse(Glimpse),
    InFlight(InFlight),
    State(PodState),
}

/// Lines that follow each other.
#[derive(Debug, Default)]
pub(super) struct Batch {
    lines: String,
    /// Each line's entry, and where it ends in `lines`.
    ends: Vec<(u64, usize)>,
}

/// Where an observer stands: it has had all before the item `next`.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) next: u64,
    /// The last entry before it.
    pub(super) cursor: u64,
    /// What is in flight there.
    pub(super) picture: Picture,
    pub(super) state: PodState,
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    items: VecDeque<(Item, usize)>,
    /// The number of the first item.
    first: u64,
    bytes: usize,
    cursor: u64,
    picture: Picture,
    state: PodState,
}

impl Batch {
    /// Whether the line does not belong into this batch any more.
    pub(super) fn is_full(&self, line: &HistoryLine) -> bool {
        let bytes = self.lines.len().saturating_add(line.line.len());
        !self.ends.is_empty() && (bytes > BATCH_BYTES || bytes > ENTRY_BYTES_MAX)
    }

    pub(super) fn push(&mut self, line: &HistoryLine) {
        self.lines.push_str(&line.line);
        self.ends.push((line.seq, self.lines.len()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn last(&self) -> Option<u64> {
        self.ends.last().map(|(seq, _)| *seq)
    }

    /// What of it stands behind `cursor`.
    pub(super) fn after(&self, cursor: u64) -> Option<Observed> {
        let at = self.ends.partition_point(|(seq, _)| *seq <= cursor);
        let begin = at.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |(_, end)| *end);
        let (first, _) = *self.ends.get(at)?;
        let lines = self.lines.get(begin..)?;
        Some(Observed::Entries { first, last: self.last()?, lines: lines.into() })
    }
}

impl Ring {
    /// Begins at the entry `cursor`, where this is in flight.
    pub(super) fn begin(&mut self, cursor: u64, picture: Picture, state: PodState) {
        // Numbers go on: whoever stood in what was before is behind now.
        let first = self.first.saturating_add(self.items.len() as u64).saturating_add(1);
        *self = Self { first, cursor, picture, state, ..Self::default() };
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    pub(super) fn place(&self) -> Place {
        Place { next: self.end(), cursor: self.cursor, picture: self.picture.clone(), state: self.state }
    }

    fn end(&self) -> u64 {
        self.first.saturating_add(self.items.len() as u64)
    }

    /// The item number `next`: `Err` if it is gone, `Ok(None)` if it is not there yet.
    pub(super) fn item(&self, next: u64) -> Result<Option<Item>, Behind> {
        let at = next.checked_sub(self.first).ok_or(Behind)?;
        let found = usize::try_from(at).ok().and_then(|at| self.items.get(at));
        Ok(found.map(|(item, _)| item.clone()))
    }

    /// Adds committed lines; `heads` are those that may change what is in flight.
    pub(super) fn entries(&mut self, batch: Batch, heads: &[EntryHead]) {
        let Some(last) = batch.last() else { return };
        for head in heads {
            self.picture.entry(head);
        }
        self.cursor = last;
        let bytes = batch.lines.len().saturating_add(batch.ends.len().saturating_mul(16));
        self.push(Item::Entries(Arc::new(batch)), bytes);
    }

    /// Adds a change of what is in flight, if it is one.
    pub(super) fn glimpse(&mut self, glimpse: Glimpse) {
        if self.picture.glimpse(&glimpse) {
            let bytes = match &glimpse {
                Glimpse::Delta { text, .. } => text.len(),
                Glimpse::Progress { text, .. } => text.len(),
                Glimpse::PieceOver { .. } | Glimpse::TurnOver { .. } => 0,
            };
            self.push(Item::Glimpse(glimpse), bytes);
        }
    }

    /// What is in flight was looked at anew.
    pub(super) fn replace(&mut self, picture: Picture) {
        if self.picture != picture {
            self.picture = picture;
            let found = self.picture.to_wire(self.cursor, self.state);
            let bytes = found.pieces.iter().map(|piece| piece.text.len()).sum();
            self.push(Item::InFlight(found), bytes);
        }
    }

    pub(super) fn state(&mut self, state: PodState) {
        if self.state != state {
            self.state = state;
            self.push(Item::State(state), 0);
        }
    }

    fn push(&mut self, item: Item, bytes: usize) {
        let bytes = bytes.saturating_add(size_of::<Item>());
        self.items.push_back((item, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
        while self.bytes > RING_BYTES_MAX
            && let Some((_, gone)) = self.items.pop_front()
        {
            self.first = self.first.saturating_add(1);
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }
}

/// The item is not kept any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Behind;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, text: &str) -> HistoryLine {
        HistoryLine { seq, kind: "output".into(), line: format!("{text}\n") }
    }

    fn batch(lines: &[HistoryLine]) -> Batch {
        let mut batch = Batch::default();
        lines.iter().for_each(|line| batch.push(line));
        batch
    }

    #[test]
    fn batch_gives_what_stands_behind_a_cursor() {
        let batch = batch(&[line(3, "a"), line(4, "bb"), line(6, "c")]);
        let entries = |first, lines: &str| Some(Observed::Entries { first, last: 6, lines: lines.into() });
        for (cursor, wanted) in [
            (0, entries(3, "a\nbb\nc\n")),
            (3, entries(4, "bb\nc\n")),
            (4, entries(6, "c\n")),
            (5, entries(6, "c\n")),
            (6, None),
            (9, None),
        ] {
            assert_eq!(batch.after(cursor), wanted, "after {cursor}");
        }
        assert_eq!(Batch::default().after(0), None);
    }

    #[test]
    fn ring_is_bounded_and_whoever_is_behind_it_is_told() {
        let mut ring = Ring::default();
        ring.begin(0, Picture::default(), PodState::Idle);
        let place = ring.place();
        assert!(matches!(ring.item(place.next), Ok(None)));
        let text = "x".repeat(BATCH_BYTES);
        for seq in 1..=100 {
            ring.entries(batch(&[line(seq, &text)]), &[]);
            assert!(ring.bytes <= RING_BYTES_MAX);
        }
        assert_eq!(ring.item(place.next).unwrap_err(), Behind);
        assert_eq!(ring.place().cursor, 100);
        assert!(matches!(ring.item(ring.place().next - 1), Ok(Some(Item::Entries(_)))));
        let before = ring.place().next;
        ring.begin(100, Picture::default(), PodState::Idle);
        assert_eq!(ring.item(before).unwrap_err(), Behind, "what was before a new beginning");
    }
}
