//! The time of day, as the store writes it down.
//!
//! Deadlines that must survive a restart are wall-clock times; nothing here measures how long something took.
//!
//! Read once per transaction by `thread`; set by hand in tests.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixMillis(pub u64);

/// Where the time comes from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// From the system.
    #[default]
    System,
    /// From whoever holds the other end: for tests.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The time.
    pub fn now(&self) -> UnixMillis {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Self::Manual(at) => UnixMillis(at.load(Ordering::SeqCst)),
        }
    }
}

impl UnixMillis {
    /// This time and `millis` later.
    pub fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// How long it is from `now` to here; zero if it has passed.
    pub fn until(self, now: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now.0))
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
