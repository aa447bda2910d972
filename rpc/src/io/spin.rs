//! Asking a socket again instead of sleeping, where an answer is likely to come soon.
//!
//! A driver that has nothing to do goes to sleep; to be woken costs more than a small call takes on the other side. Who has
//! set [`Limits::spin`](crate::Limits::spin) has it ask its socket again for so long since the last bytes came; tasks that
//! are woken have their turn between any two questions, everything else of the runtime after some. Never spins for a peer with which nothing is going on, and less
//! and less for one that does not answer in time.
//!
//! Used by both drivers when they are about to sleep; the question itself is `socket`'s.

use std::sync::LazyLock;
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::give_way;
use super::stream::Stream;
use crate::limits::{SPIN_MAX, SPIN_SKIPPED_WAITS_MAX, SPIN_STRAIGHT_MAX};

/// Where there is one processor only, the peer runs while we sleep.
static HAS_ONE_PROCESSOR: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1));

/// How one driver waits.
#[derive(Debug)]
pub(super) struct Spin {
    /// Zero: it never spins.
    bound: Duration,
    wait: Wait,
    /// So many waits from now on are slept through.
    skipped: u32,
    /// How many that will be after the next spin in vain.
    next_skipped: u32,
    /// Questions since all others of the runtime had a turn.
    straight: u32,
    /// How many of them there may be. None on a runtime with many threads: a task that wakes itself there wakes another
    /// thread too, which takes it away.
    straight_max: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    /// Bytes have come since the last one.
    Fresh,
    /// Nothing goes on; whoever has just been answered may have more to ask.
    Lingering,
    Spinning {
        until: Instant,
    },
    /// To the next bytes.
    Sleeping,
}

impl Spin {
    /// For the runtime that this is called in.
    ///
    /// # Panics
    /// Outside a runtime.
    pub(super) fn new(bound: Duration) -> Self {
        let never = bound.is_zero() || *HAS_ONE_PROCESSOR;
        Self {
            bound: if never { Duration::ZERO } else { bound.min(SPIN_MAX) },
            wait: Wait::Sleeping,
            skipped: 0,
            next_skipped: 1,
            straight: 0,
            straight_max: match Handle::current().runtime_flavor() {
                RuntimeFlavor::CurrentThread => SPIN_STRAIGHT_MAX,
                _ => 0,
            },
        }
    }

    /// The driver has found nothing to do. `false`: it may return pending, and will be polled again in time. `true`: it
    /// must take one more turn, in which its stream remembers whom to wake. `expects`: whether the peer owes us anything.
    pub(super) fn rest(&mut self, cx: &mut Context<'_>, stream: &mut Stream, expects: impl FnOnce() -> bool) -> bool {
        let Stream::Unix(socket) = stream else { return false };
        if self.bound.is_zero() {
            return false;
        }
        let came = socket.take_came();
        // By the real clock: a test's does not go on before everybody sleeps.
        if !self.goes_on(Instant::now(), came, expects()) {
            return socket.stop_asking();
        }
        socket.begin_asking();
        if self.straight < self.straight_max {
            // To the back of the queue of tasks that are woken.
            self.straight += 1;
            cx.waker().wake_by_ref();
        } else {
            // Behind timers, other sockets and tasks that have given way themselves. Costs a system call.
            self.straight = 0;
            give_way(cx);
        }
        false
    }

    /// Whether to ask again, rather than to sleep.
    fn goes_on(&mut self, now: Instant, came: bool, expects: bool) -> bool {
        if came {
            if matches!(self.wait, Wait::Spinning { .. }) {
                self.next_skipped = 1;
            }
            self.wait = Wait::Fresh;
        }
        match self.wait {
            Wait::Fresh if !expects => {
                self.wait = Wait::Lingering;
                // Its caller is polled before we are.
                self.skipped == 0
            }
            Wait::Lingering if !expects => false,
            Wait::Fresh | Wait::Lingering if self.skipped > 0 => {
                self.skipped -= 1;
                self.wait = Wait::Sleeping;
                false
            }
            Wait::Fresh | Wait::Lingering => {
                let until = now.checked_add(self.bound).unwrap_or(now);
                self.wait = Wait::Spinning { until };
                true
            }
            Wait::Spinning { .. } if !expects => {
                self.wait = Wait::Lingering;
                false
            }
            Wait::Spinning { until } if now < until => true,
            Wait::Spinning { .. } => {
                self.wait = Wait::Sleeping;
                self.skipped = self.next_skipped;
                self.next_skipped = self.next_skipped.saturating_mul(2).min(SPIN_SKIPPED_WAITS_MAX);
                false
            }
            Wait::Sleeping => false,
        }
    }
}

#[cfg(test)]
#[path = "spin_tests.rs"]
mod tests;
