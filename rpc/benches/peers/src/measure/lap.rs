//! One run of calls: says when to stop, counts, and keeps latencies if asked to.
//!
//! Shared by all tasks of a client; costs a call one uncontended atomic addition.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// When a lap ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Until {
    /// After so many calls.
    Calls(u64),
    /// After so many microseconds; calls that run by then are waited for.
    Micros(u64),
}

pub(crate) struct Lap {
    started: AtomicU64,
    /// No call begins from this one on.
    calls_max: AtomicU64,
    end: Option<Instant>,
    latencies: Option<Latencies>,
}

impl Lap {
    pub(crate) fn new(until: Until, timed: bool) -> Self {
        let (calls_max, end) = match until {
            Until::Calls(calls) => (calls, None),
            Until::Micros(micros) => (u64::MAX, Some(Instant::now() + Duration::from_micros(micros))),
        };
        let latencies = timed.then(Latencies::new);
        Self { started: AtomicU64::new(0), calls_max: AtomicU64::new(calls_max), end, latencies }
    }

    /// Whether one more call may begin; if so it must be made.
    pub(crate) fn another(&self) -> bool {
        self.several(1) == 1
    }

    /// How many of `wanted` further calls may begin; they must be made.
    pub(crate) fn several(&self, wanted: u64) -> u64 {
        /// How many calls are begun for each look at the clock.
        const LOOK: u64 = 8;
        let before = self.started.fetch_add(wanted, Ordering::Relaxed);
        let looks = before / LOOK != (before + wanted) / LOOK;
        if looks && self.end.is_some_and(|end| Instant::now() >= end) {
            self.calls_max.fetch_min(before, Ordering::Relaxed);
        }
        let allowed = self.calls_max.load(Ordering::Relaxed).saturating_sub(before).min(wanted);
        if allowed < wanted {
            self.started.fetch_sub(wanted - allowed, Ordering::Relaxed);
        }
        allowed
    }

    /// The time, if latencies are kept.
    pub(crate) fn start(&self) -> Option<Instant> {
        self.latencies.is_some().then(Instant::now)
    }

    /// A call that began at `started` was answered.
    pub(crate) fn done(&self, started: Option<Instant>) {
        if let (Some(latencies), Some(started)) = (&self.latencies, started) {
            latencies.record(started.elapsed());
        }
    }

    /// Calls that were begun; when the lap is over, those that were answered.
    pub(crate) fn calls(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// The latency that this share of the calls did not exceed, in microseconds.
    pub(crate) fn quantile_micros(&self, share: f64) -> Option<f64> {
        self.latencies.as_ref()?.quantile_micros(share)
    }
}

/// How many calls took how long: 32 buckets for each doubling, so within 3 %.
struct Latencies {
    counts: Vec<AtomicU32>,
}

const BUCKETS_PER_DOUBLING: u64 = 32;

impl Latencies {
    fn new() -> Self {
        let buckets = usize::try_from(BUCKETS_PER_DOUBLING * 40).unwrap_or(0);
        Self { counts: (0..buckets).map(|_| AtomicU32::new(0)).collect() }
    }

    fn record(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = usize::try_from(bucket_of(nanos)).unwrap_or(usize::MAX);
        if let Some(count) = self.counts.get(bucket.min(self.counts.len() - 1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn quantile_micros(&self, share: f64) -> Option<f64> {
        let total: u64 = self.counts.iter().map(|count| u64::from(count.load(Ordering::Relaxed))).sum();
        let wanted = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in (0..).zip(&self.counts) {
            seen += u64::from(count.load(Ordering::Relaxed));
            if total > 0 && seen >= wanted {
                return Some((lower_bound(bucket) + lower_bound(bucket + 1)) as f64 / 2e3);
            }
        }
        None
    }
}

/// Values below two doublings' worth have a bucket each; above, the leading bits choose.
fn bucket_of(nanos: u64) -> u64 {
    if nanos < BUCKETS_PER_DOUBLING {
        return nanos;
    }
    let shift = u64::from(nanos.ilog2() - BUCKETS_PER_DOUBLING.ilog2());
    (shift * BUCKETS_PER_DOUBLING) + (nanos >> shift)
}

/// The smallest value of a bucket.
fn lower_bound(bucket: u64) -> u64 {
    if bucket < 2 * BUCKETS_PER_DOUBLING {
        return bucket;
    }
    let shift = bucket / BUCKETS_PER_DOUBLING - 1;
    (bucket - shift * BUCKETS_PER_DOUBLING) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_contains_its_value_within_three_percent() {
        for nanos in (0..200_000).chain([1 << 30, (1 << 35) + 12_345]) {
            let bucket = bucket_of(nanos);
            let (low, high) = (lower_bound(bucket), lower_bound(bucket + 1));
            assert!(low <= nanos && nanos < high, "{nanos} in {low}..{high}");
            assert!((high - low) as f64 <= (nanos as f64 / 31.0).max(1.0), "{nanos} in {low}..{high}");
        }
    }

    #[test]
    fn lap_of_calls_begins_exactly_so_many() {
        let lap = Lap::new(Until::Calls(100), false);
        let mut begun = 0;
        while lap.another() {
            begun += 1;
        }
        assert_eq!((begun, lap.several(7), lap.calls()), (100, 0, 100));
        let lap = Lap::new(Until::Calls(10), false);
        assert_eq!((lap.several(7), lap.several(7), lap.several(7), lap.calls()), (7, 3, 0, 10));
    }

    #[test]
    fn lap_of_time_ends_and_counts_what_began() {
        let lap = Lap::new(Until::Micros(500), false);
        let mut begun = 0;
        while lap.another() {
            begun += 1;
        }
        assert_eq!(lap.calls(), begun);
    }

    #[test]
    fn quantile_of_known_latencies_is_found() {
        let lap = Lap::new(Until::Calls(1), true);
        let latencies = lap.latencies.as_ref().unwrap();
        for micros in 1..=1000 {
            latencies.record(Duration::from_micros(micros));
        }
        let p99 = lap.quantile_micros(0.99).unwrap();
        assert!((p99 - 990.0).abs() < 30.0, "{p99}");
    }
}
