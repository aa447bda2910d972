//! How long to wait before trying again.
//!
//! Values and arithmetic; randomness is an argument. Never a pause below a timer's tick, so nothing that waits by it
//! can spin.
//!
//! Used between the attempts of a call (`client::retry`) and between the connections of a client (`io::client`).

use std::time::Duration;

use crate::limits::TICK;

/// Pauses that grow: `first`, then `factor` times as long each time, up to `max`; all of it left to chance, so that many
/// who failed at one moment do not come back at one moment.
///
/// The default waits 10 ms, then twice as long each time, up to 1 s, with full jitter: a local service that restarts is
/// met within milliseconds, and one that stays away costs each caller two attempts a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause, at most.
    pub first: Duration,
    /// No pause is longer.
    pub max: Duration,
    /// What each pause is multiplied by for the next; 1 keeps them equal, 0 counts as 1.
    pub factor: u32,
    /// How much of a pause is left to chance.
    pub jitter: Jitter,
}

/// How much of a pause is left to chance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// Nothing: every pause is as long as it can be. For tests, and where there is one caller.
    None,
    /// All of it: evenly between a tick (1 ms) and the longest. Spreads a herd best, for the least work of the server
    /// (M. Brooker, "Exponential Backoff And Jitter", 2015).
    #[default]
    Full,
}

impl Backoff {
    /// The longest that the pause after `failed` earlier pauses can be.
    pub fn ceiling(&self, failed: u32) -> Duration {
        let grown = self.factor.max(1).saturating_pow(failed);
        self.first.saturating_mul(grown).min(self.max).max(TICK)
    }

    /// The pause after `failed` earlier ones; `random` is spread evenly over all numbers.
    pub(crate) fn pause(&self, failed: u32, random: u64) -> Duration {
        let ceiling = self.ceiling(failed);
        match self.jitter {
            Jitter::None => ceiling,
            Jitter::Full => TICK + part(ceiling.saturating_sub(TICK), random),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(10), max: Duration::from_secs(1), factor: 2, jitter: Jitter::Full }
    }
}

/// As much of `whole` as `random` is of all numbers.
fn part(whole: Duration, random: u64) -> Duration {
    let nanos = (whole.as_nanos().min(u128::from(u64::MAX)) * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_grow_by_the_factor_and_stop_at_the_longest() {
        let backoff = Backoff { jitter: Jitter::None, ..Backoff::default() };
        let pauses: Vec<u128> = (0..9).map(|failed| backoff.pause(failed, 0).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(backoff.pause(u32::MAX, 0), backoff.max, "no overflow, however often it failed");
    }

    #[test]
    fn full_jitter_covers_all_of_a_pause_and_no_more() {
        let backoff = Backoff::default();
        for failed in [0, 3, 50] {
            assert_eq!(backoff.pause(failed, 0), MILLISECOND);
            assert!(backoff.pause(failed, u64::MAX) <= backoff.ceiling(failed));
            assert!(backoff.pause(failed, u64::MAX) + MILLISECOND > backoff.ceiling(failed));
            let half = backoff.pause(failed, 1 << 63);
            let middle = (backoff.ceiling(failed) + MILLISECOND) / 2;
            assert!(half.abs_diff(middle) <= Duration::from_micros(1), "{half:?} is not about {middle:?}");
        }
    }

    #[test]
    fn pause_of_nothing_is_a_tick() {
        for factor in [0, 1, 2] {
            let backoff = Backoff { first: Duration::ZERO, max: Duration::ZERO, factor, jitter: Jitter::Full };
            assert_eq!(backoff.pause(7, u64::MAX), TICK);
        }
        let endless = Backoff { first: Duration::MAX, max: Duration::MAX, ..Backoff::default() };
        assert!(endless.pause(1, u64::MAX) <= Duration::from_nanos(u64::MAX) + TICK);
    }
}
