//! The table of open ids: a ring from the floor up, and a few parked ids below it.
//!
//! No hashing. Never evicts: what does not fit is refused by whoever asks. An id is in the ring, parked, or gone; parked ones may lie
//! above the floor for as long as it has not passed them.
//!
//! One on each side of a lane: `client` fills it with calls, `server` with what it took and answered. Memory that a burst
//! needed is given back by [`relax`](Window::relax), which they call now and then.

use std::collections::VecDeque;

use crate::limits::LIST_KEPT;

/// The entries of open ids.
#[derive(Clone, Debug)]
pub(super) struct Window<E> {
    floor: u64,
    ring: VecDeque<Option<E>>,
    /// The most ids that the ring has covered since it was last looked at.
    peak: usize,
    parked: Vec<(u64, E)>,
}

impl<E> Window<E> {
    /// An empty window whose lowest id will be `floor`.
    pub(super) fn new(floor: u64) -> Self {
        Self { floor, ring: VecDeque::new(), peak: 0, parked: Vec::new() }
    }

    /// The lowest id that the ring covers.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// How many ids the ring covers.
    pub(super) fn span(&self) -> usize {
        self.ring.len()
    }

    /// The memory that it takes, in bytes, used or not.
    pub(super) fn held_bytes(&self) -> usize {
        let ring = self.ring.capacity().saturating_mul(size_of::<Option<E>>());
        ring.saturating_add(self.parked.capacity().saturating_mul(size_of::<(u64, E)>()))
    }

    /// Whether most of the memory is not used, and worth giving back.
    pub(super) fn is_slack(&self) -> bool {
        is_slack(self.ring.len(), self.ring.capacity())
    }

    /// Gives memory back that was not used since the last look. Returns whether to look again: what is not used now may have
    /// been a moment ago, and who is about to fill it again should find it.
    pub(super) fn relax(&mut self) -> bool {
        if is_slack(self.peak, self.ring.capacity()) {
            self.ring.shrink_to(self.peak.max(LIST_KEPT));
        }
        self.peak = self.ring.len();
        self.is_slack()
    }

    /// Gives all memory back that is not used.
    pub(super) fn shrink(&mut self) {
        self.ring.shrink_to(LIST_KEPT);
        self.peak = self.ring.len();
    }

    pub(super) fn get(&self, id: u64) -> Option<&E> {
        let in_ring = self.index(id).and_then(|index| self.ring.get(index)?.as_ref());
        in_ring.or_else(|| self.parked.iter().find(|(parked, _)| *parked == id).map(|(_, entry)| entry))
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut E> {
        let in_ring = self.index(id).and_then(|index| self.ring.get_mut(index)?.as_mut());
        in_ring.or_else(|| self.parked.iter_mut().find(|(parked, _)| *parked == id).map(|(_, entry)| entry))
    }

    /// Puts an entry in at or above the floor; `false` if `id` lies below it or the ring would cover more than
    /// `span_max` ids.
    pub(super) fn insert(&mut self, id: u64, entry: E, span_max: usize) -> bool {
        let Some(index) = self.index(id).filter(|index| *index < span_max) else { return false };
        while self.ring.len() <= index {
            self.ring.push_back(None);
        }
        if let Some(place) = self.ring.get_mut(index) {
            *place = Some(entry);
        }
        self.peak = self.peak.max(self.ring.len());
        true
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<E> {
        let in_ring = self.index(id).and_then(|index| self.ring.get_mut(index)?.take());
        in_ring.or_else(|| {
            let at = self.parked.iter().position(|(parked, _)| *parked == id)?;
            Some(self.parked.swap_remove(at).1)
        })
    }

    /// Raises the floor over ids that hold nothing.
    pub(super) fn trim(&mut self) {
        while let Some(None) = self.ring.front() {
            self.ring.pop_front();
            self.floor = self.floor.saturating_add(1);
        }
    }

    /// Raises the floor to `floor`, giving what lay below it to `gone`.
    pub(super) fn raise(&mut self, floor: u64, mut gone: impl FnMut(u64, E)) {
        while self.floor < floor {
            match self.ring.pop_front() {
                Some(Some(entry)) => gone(self.floor, entry),
                Some(None) => {}
                None => {
                    self.floor = floor;
                    return;
                }
            }
            self.floor = self.floor.saturating_add(1);
        }
    }

    /// Moves the entry at the floor to the parked ones, if there is one and fewer than `parked_max` are.
    pub(super) fn park_front(&mut self, parked_max: usize) -> bool {
        if self.parked.len() >= parked_max {
            return false;
        }
        let Some(Some(entry)) = self.ring.pop_front() else { return false };
        self.parked.push((self.floor, entry));
        self.floor = self.floor.saturating_add(1);
        self.trim();
        true
    }

    /// Makes the parked ids those that `keep` lists: entries of the ring that it lists are taken out of it, parked
    /// ones that it does not list go to `gone`. An id at or above the floor that holds nothing is given what `missing`
    /// makes; one below the floor that was not parked stays gone.
    pub(super) fn park(&mut self, keep: &[u64], missing: impl Fn() -> E, mut gone: impl FnMut(u64, E)) {
        let mut kept = Vec::with_capacity(keep.len());
        for id in keep {
            if let Some(entry) = self.remove(*id) {
                kept.push((*id, entry));
            } else if *id >= self.floor && !kept.iter().any(|(known, _)| known == id) {
                kept.push((*id, missing()));
            }
        }
        for (id, entry) in std::mem::replace(&mut self.parked, kept) {
            gone(id, entry);
        }
    }

    /// The parked ids and what they hold.
    pub(super) fn parked(&self) -> impl Iterator<Item = (u64, &E)> + '_ {
        self.parked.iter().map(|(id, entry)| (*id, entry))
    }

    /// All entries, parked ones first.
    #[cfg(feature = "testing")]
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &E)> {
        let ring = ids_from(self.floor).zip(self.ring.iter()).filter_map(|(id, entry)| Some((id, entry.as_ref()?)));
        self.parked().chain(ring)
    }

    /// All entries, parked ones first, in no promised order of those.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut E)> {
        let floor = self.floor;
        let ring = ids_from(floor).zip(self.ring.iter_mut()).filter_map(|(id, entry)| Some((id, entry.as_mut()?)));
        self.parked.iter_mut().map(|(id, entry)| (*id, entry)).chain(ring)
    }

    /// The entries from `from` on, in the order of their ids.
    pub(super) fn ring_from(&mut self, from: u64) -> impl Iterator<Item = (u64, &mut E)> {
        let start = from.max(self.floor);
        let skip = usize::try_from(start.saturating_sub(self.floor)).unwrap_or(usize::MAX).min(self.ring.len());
        ids_from(start).zip(self.ring.range_mut(skip..)).filter_map(|(id, entry)| Some((id, entry.as_mut()?)))
    }

    fn index(&self, id: u64) -> Option<usize> {
        usize::try_from(id.checked_sub(self.floor)?).ok()
    }
}

/// Whether a list with room for `capacity` that has `len` holds much for little.
pub(super) fn is_slack(len: usize, capacity: usize) -> bool {
    capacity > LIST_KEPT && len <= capacity / 4
}

/// All ids from `first` on, the last one included: a peer may choose any.
fn ids_from(first: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(first), |id| id.checked_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_passes_what_is_gone_and_stops_at_what_is_open() {
        let mut window = Window::new(1);
        for id in 1..=4 {
            assert!(window.insert(id, id, 8));
        }
        window.remove(2);
        window.trim();
        assert_eq!(window.floor(), 1);
        window.remove(1);
        window.trim();
        assert_eq!((window.floor(), window.span()), (3, 2));
    }

    #[test]
    fn insert_beyond_the_span_or_below_the_floor_is_refused() {
        let mut window = Window::new(5);
        assert!(!window.insert(4, (), 8));
        assert!(window.insert(12, (), 8));
        assert!(!window.insert(13, (), 8));
        assert!(!window.insert(u64::MAX, (), 8));
        assert_eq!(window.span(), 8);
    }

    #[test]
    fn parked_entry_outlives_the_floor_until_it_is_no_longer_listed() {
        let mut window = Window::new(1);
        for id in 1..=3 {
            window.insert(id, id * 10, 8);
        }
        window.park(&[1], || 0, |_, _| panic!("nothing was parked"));
        window.raise(3, |id, _| assert_eq!(id, 2));
        assert_eq!(window.get(1), Some(&10));
        let mut gone = Vec::new();
        window.park(&[], || 0, |id, entry| gone.push((id, entry)));
        assert_eq!(gone, [(1, 10)]);
        assert_eq!(window.get(1), None);
    }

    #[test]
    fn last_id_of_all_is_an_id_like_any_other() {
        let mut window = Window::new(1);
        window.raise(u64::MAX, |_, ()| {});
        assert!(window.insert(u64::MAX, (), 8) && window.get(u64::MAX).is_some());
        assert_eq!(window.iter_mut().map(|(id, ())| id).collect::<Vec<_>>(), [u64::MAX]);
        assert_eq!(window.ring_from(5).map(|(id, ())| id).collect::<Vec<_>>(), [u64::MAX]);
    }

    #[test]
    fn memory_of_a_burst_is_given_back_by_the_second_look_and_not_while_bursts_go_on() {
        let mut window = Window::new(1);
        let burst = |window: &mut Window<u64>| {
            let first = window.floor();
            (first..first + 1_000).for_each(|id| assert!(window.insert(id, id, 1_000)));
            window.raise(first + 1_000, |_, _| {});
        };
        burst(&mut window);
        let held = window.held_bytes();
        assert!(window.is_slack() && held >= 1_000 * size_of::<u64>());
        for _ in 0..10 {
            assert!(window.relax());
            assert_eq!(window.held_bytes(), held);
            burst(&mut window);
        }
        assert!(window.relax(), "it was used since the look before");
        assert!(!window.relax());
        assert!(window.held_bytes() <= LIST_KEPT * size_of::<Option<u64>>(), "{}", window.held_bytes());
    }

    #[test]
    fn raise_far_beyond_the_ring_costs_no_more_than_the_ring() {
        let mut window = Window::new(1);
        window.insert(1, (), 8);
        window.raise(u64::MAX, |_, ()| {});
        assert_eq!(window.floor(), u64::MAX);
    }
}
