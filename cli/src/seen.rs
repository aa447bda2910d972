//! Which events of one stream stand in a history: all, some, or some twice.
//!
//! Kept as a few numbers, not as a set: histories are long. Entries need not come in the stream's order, because an
//! event for the control plane is written at once and a report when the agent is about to be told.

use std::collections::BTreeMap;

/// The events of one stream that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Everything from 1 to here was found.
    upto: u64,
    /// What was found beyond, as ranges.
    beyond: BTreeMap<u64, u64>,
    /// How many were found a second time.
    repeated: u64,
    /// How many are known to be lost for good.
    lost: u64,
}

impl Seen {
    /// The event `seq` was found.
    pub(crate) fn event(&mut self, seq: u64) {
        self.range(seq, seq);
    }

    /// The events `from..=to` were found to be missing at their source.
    pub(crate) fn gap(&mut self, from: u64, to: u64) {
        self.lost += to.saturating_sub(from).saturating_add(1);
        self.range(from, to);
    }

    fn range(&mut self, from: u64, to: u64) {
        let again = from <= self.upto || self.beyond.iter().any(|(first, last)| *first <= to && from <= *last);
        if again {
            self.repeated += 1;
            return;
        }
        self.beyond.insert(from, to);
        while let Some(to) = self.beyond.remove(&(self.upto + 1)) {
            self.upto = to;
        }
    }

    /// How many were found.
    pub(crate) fn count(&self) -> u64 {
        let beyond: u64 = self.beyond.iter().map(|(from, to)| to - from + 1).sum();
        (self.upto + beyond).saturating_sub(self.lost)
    }

    /// The first that is missing although a later one was found.
    pub(crate) fn first_missing(&self) -> Option<u64> {
        (!self.beyond.is_empty()).then_some(self.upto + 1)
    }

    pub(crate) fn repeated(&self) -> u64 {
        self.repeated
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(events: &[u64]) -> Seen {
        let mut seen = Seen::default();
        events.iter().for_each(|seq| seen.event(*seq));
        seen
    }

    #[test]
    fn events_in_any_order_without_a_hole_are_all() {
        let all = seen(&[1, 3, 4, 2]);
        assert_eq!((all.count(), all.first_missing(), all.repeated()), (4, None, 0));
    }

    #[test]
    fn hole_and_repetition_are_found() {
        let hole = seen(&[1, 3]);
        assert_eq!((hole.count(), hole.first_missing()), (2, Some(2)));
        for events in [[1, 2, 2], [1, 3, 3], [1, 2, 1]] {
            assert_eq!(seen(&events).repeated(), 1, "{events:?}");
        }
    }

    #[test]
    fn gap_takes_its_places_and_is_counted_as_lost() {
        let mut seen = seen(&[1]);
        seen.gap(2, 1_000_000_000_000);
        assert_eq!((seen.first_missing(), seen.lost(), seen.count()), (None, 999_999_999_999, 1));
    }
}
