//! What became of offers and of reports that nobody waited for.
//!
//! Counts only; they start at zero with each life and are no part of any decision.
//!
//! Counted by `delivery` and `reporter`; read by status, tests and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of a reporter.
#[derive(Debug, Default)]
pub struct ReporterCounters {
    pub(crate) raised: AtomicU64,
    pub(crate) offers: AtomicU64,
    pub(crate) applied: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) out_of_order: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) not_delivered: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) undeliverable: AtomicU64,
    pub(crate) forgotten_delivered: AtomicU64,
    pub(crate) forgotten_failed: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutcomeCounts {
    /// Events raised through the reporter; those of `end_turn` and the like are counted by the store's numbers.
    pub raised: u64,
    /// Offers made: each is one request.
    pub offers: u64,
    /// Offers that the parent applied.
    pub applied: u64,
    /// Offers that the parent had applied before.
    pub duplicates: u64,
    /// Offers that came before their turn; answered with the one that is expected.
    pub out_of_order: u64,
    /// Offers that the parent rejected for another reason.
    pub rejected: u64,
    /// Offers that did not reach the parent.
    pub not_delivered: u64,
    /// Offers of which it is not known whether they were applied.
    pub unknown: u64,
    /// Gaps offered in place of events that are gone.
    pub gaps: u64,
    /// Events that the parent cannot take.
    pub undeliverable: u64,
    /// `fire_and_forget`: reports that the parent has.
    pub forgotten_delivered: u64,
    /// `fire_and_forget`: reports that were not acknowledged in time, each logged; those that are committed are kept
    /// and offered again.
    pub forgotten_failed: u64,
}

impl ReporterCounters {
    /// The counters now.
    pub fn now(&self) -> OutcomeCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OutcomeCounts {
            raised: read(&self.raised),
            offers: read(&self.offers),
            applied: read(&self.applied),
            duplicates: read(&self.duplicates),
            out_of_order: read(&self.out_of_order),
            rejected: read(&self.rejected),
            not_delivered: read(&self.not_delivered),
            unknown: read(&self.unknown),
            gaps: read(&self.gaps),
            undeliverable: read(&self.undeliverable),
            forgotten_delivered: read(&self.forgotten_delivered),
            forgotten_failed: read(&self.forgotten_failed),
        }
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
