//! What a whole tree may use up: bounds that its root sets, counted where all its pods look.
//!
//! Pure where it decides, counted in the claim's transaction. A spawn that is refused costs nothing of the budget.
//!
//! Used by `claim`; `turns` counts those, before they start.

use serde::{Deserialize, Serialize};

use crate::protocol::SpawnCap;
use crate::store::UnixMillis;

/// The bounds of a tree. 0 is no bound, except for `depth`, of which 0 says that there are no children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeLimits {
    /// How deep it may become.
    pub depth: u32,
    /// How many pods may live at once, the root included.
    pub pods: u32,
    /// How many children each pod may have at once.
    pub children: u32,
    /// How many pods may be started in a minute, and so many at once.
    pub spawns_per_minute: u32,
    /// How many turns its pods may start, over all lives of its root.
    pub turns: u64,
    /// How long it may go on starting pods and turns, in seconds.
    pub seconds: u64,
}

/// A bound of the whole tree that is reached; said in the words of [`SpawnCap`], as which it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", SpawnCap::from(*self))]
#[non_exhaustive]
pub enum Cap {
    /// The child would be too deep.
    Depth {
        /// How deep it may be.
        max: u32,
    },
    /// Too many pods live.
    Pods {
        /// How many may.
        max: u32,
    },
    /// Too many were started of late.
    SpawnRate {
        /// How many may be, in a minute.
        max: u32,
        /// When there is room for one.
        retry_after_ms: u64,
    },
    /// Its time is over.
    WallTime {
        /// How long it had, in seconds.
        max: u64,
    },
}

impl From<Cap> for SpawnCap {
    fn from(cap: Cap) -> Self {
        match cap {
            Cap::Depth { max } => Self::Depth { max },
            Cap::Pods { max } => Self::Pods { max },
            Cap::SpawnRate { max, retry_after_ms } => Self::SpawnRate { max, retry_after_ms },
            Cap::WallTime { max } => Self::WallTime { max_seconds: max },
        }
    }
}

impl Cap {
    /// Its word: `depth`, `pods`, `spawn_rate` or `wall_time`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Depth { .. } => "depth",
            Self::Pods { .. } => "pods",
            Self::SpawnRate { .. } => "spawn_rate",
            Self::WallTime { .. } => "wall_time",
        }
    }
}

/// How many pods may be started at once, as of some moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tokens {
    pub(super) left: f64,
    pub(super) at: UnixMillis,
}

impl Tokens {
    /// The same, with one taken at `now`. A clock that goes back gives nothing and takes nothing away.
    ///
    /// # Errors
    /// There is none; when there will be one, in milliseconds.
    pub(super) fn take(self, per_minute: u32, now: UnixMillis) -> Result<Self, u64> {
        let (full, each_ms) = (f64::from(per_minute), 60_000.0 / f64::from(per_minute.max(1)));
        // Milliseconds of a minute or so; what is more fills it up anyway.
        let passed = now.0.saturating_sub(self.at.0) as f64;
        let left = (self.left + passed / each_ms).min(full);
        if left >= 1.0 {
            return Ok(Self { left: left - 1.0, at: now.max(self.at) });
        }
        let wait = ((1.0 - left) * each_ms).ceil().clamp(1.0, 60_000.0) as u64;
        Err(wait)
    }
}

/// When the time of a tree that begins at `now` is over.
pub(super) fn ends_at(seconds: u64, now: UnixMillis) -> Option<UnixMillis> {
    (seconds > 0).then(|| now.plus(seconds.saturating_mul(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_spent_at_once_and_come_back_at_their_rate() {
        let mut tokens = Tokens { left: 3.0, at: UnixMillis(1_000) };
        for _ in 0..3 {
            tokens = tokens.take(3, UnixMillis(1_000)).unwrap();
        }
        // Three in a minute: one in 20 s.
        assert_eq!(tokens.take(3, UnixMillis(1_000)), Err(20_000));
        assert_eq!(tokens.take(3, UnixMillis(11_000)), Err(10_000));
        let later = tokens.take(3, UnixMillis(21_000)).unwrap();
        assert!(later.take(3, UnixMillis(21_000)).is_err());
        // However long nothing was started: no more than a minute's worth at once.
        let mut rested = later;
        for _ in 0..3 {
            rested = rested.take(3, UnixMillis(100_000_000)).unwrap();
        }
        assert!(rested.take(3, UnixMillis(100_000_000)).is_err());
        // A clock that was set back gives none away.
        assert!(rested.take(3, UnixMillis(5)).is_err());
    }
}
