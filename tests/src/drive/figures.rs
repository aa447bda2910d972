//! Durations in a few figures.
//!
//! Used by the binaries for what they print.

use std::fmt;
use std::time::Duration;

/// Durations that were measured.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<Duration>);

impl Figures {
    /// Adds one.
    pub fn add(&mut self, measured: Duration) {
        let at = self.0.partition_point(|known| *known <= measured);
        self.0.insert(at, measured);
    }

    /// The smallest of them that at least `per_mille` of a thousand do not pass (nearest rank); none without any.
    pub fn quantile(&self, per_mille: usize) -> Option<Duration> {
        let rank = (self.0.len() * per_mille).div_ceil(1000).max(1);
        self.0.get(rank - 1).copied()
    }

    /// The largest.
    pub fn max(&self) -> Option<Duration> {
        self.0.last().copied()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |measured: Option<Duration>| measured.unwrap_or_default().as_secs_f64();
        let (p50, p99, max) = (seconds(self.quantile(500)), seconds(self.quantile(990)), seconds(self.max()));
        write!(f, "p50 {p50:.2} s, p99 {p99:.2} s, max {max:.2} s (of {})", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_nearest_ranks() {
        let mut figures = Figures::default();
        assert_eq!(figures.quantile(500), None);
        for seconds in [3, 1, 2, 4] {
            figures.add(Duration::from_secs(seconds));
        }
        let quantiles = [0, 500, 501, 990, 1000].map(|q| figures.quantile(q).map(|found| found.as_secs()));
        assert_eq!(quantiles, [Some(1), Some(2), Some(3), Some(4), Some(4)]);
    }
}
