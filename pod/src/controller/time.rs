//! Time that passes for a turn: how long one that was asked to end may take, and when its time, or that of its tree, is over.
//!
//! Patience counts the time in which this process ran: one that is halted for a minute has not been patient for a minute. The time of
//! a tree is everybody's, and goes on; a turn that runs when it is over ends as one that has reached a limit.
//!
//! Part of `actor`, which asks whenever it is awake; `state` says what a turn is asked for.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::actor::{Actor, Completing, Completion};
use super::state::{Input, Signal};
use crate::id::TurnId;
use crate::protocol::TurnCap;
use crate::registry::Member;
use crate::store::Clock;

/// How long a turn that was asked to end may take: so many steps. LIMIT: together 10 s, above a command's own grace between its two
/// signals; and a process that was halted loses one step, within which the worker may still say that it is over.
const STEPS: u32 = if cfg!(test) { 5 } else { 20 };
/// See [`STEPS`].
const STEP: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_millis(500) };
/// How often a turn looks when the time of its tree is over. LIMIT: nothing tells when the tree becomes another one, or its root comes
/// back with more time; a look is some tens of microseconds, and a turn may go on for so much longer than its tree.
const LOOK_EVERY: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(30) };

/// Before the next look behind one that failed. LIMIT: what makes a look fail lasts for a while.
const LOOK_AFTER_FAILURE: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(1) };
/// LIMIT: looks that fail until the end that was known last is taken for the end: longer than a registry is held.
const FAILED_MAX: u32 = 10;
const TREE: &str = "the tree's (`limits.tree_seconds`)";

/// When a turn that was asked to end is ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// What it was asked for.
    pub(super) signal: Signal,
    /// When the present step is over.
    pub(super) until: Instant,
    left: u32,
}

impl Patience {
    pub(super) fn new(signal: Signal, now: Instant) -> Self {
        Self { signal, until: now + STEP, left: STEPS }
    }

    /// What is left at `now`: however late a step is seen to be over, it is one. None if there is none left.
    pub(super) fn at(self, now: Instant) -> Option<Self> {
        if now < self.until {
            return Some(self);
        }
        let left = self.left - 1;
        (left > 0).then_some(Self { until: now + STEP, left, ..self })
    }
}

/// Watches the time of the turn that runs.
#[derive(Default)]
pub(super) struct TurnTime(FuturesUnordered<Completing>);

impl TurnTime {
    /// Waits until it is over; for ever, if no turn runs.
    pub(super) async fn over(&mut self) -> Option<Completion> {
        self.0.next().await
    }

    /// The turn is over.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

impl Actor {
    /// `turn` begins. When its time is over, or that of its tree, it is asked to end.
    pub(super) fn watch_time(&mut self, turn: TurnId) {
        let (member, turn_max) = (self.shared.member.clone(), self.shared.turn_max);
        self.time.forget();
        self.time.0.push(Box::pin(async move {
            let over = tokio::select! {
                over = tree_time_over(&member) => over,
                over = turn_time_over(turn_max) => over,
            };
            Box::new(move |actor: &mut Self| actor.time_over(turn, over)) as Completion
        }));
    }

    fn time_over(&mut self, turn: TurnId, whose: &'static str) {
        if self.turn() == Some(turn) {
            tracing::warn!(pod = %self.shared.id, %turn, whose, "time is over; the turn that runs is asked to end");
            self.step(Input::TimeOver);
        }
    }
}

/// Waits until the time of the tree is over in which the pod is then.
async fn tree_time_over(member: &Member) -> &'static str {
    let mut failed = 0;
    loop {
        let left = member.place().ends_at.map(|end| end.0.saturating_sub(Clock::System.now().0));
        let pause = left.map_or(LOOK_EVERY, |left| Duration::from_millis(left).min(LOOK_EVERY));
        // What ends within a millisecond is over behind it.
        tokio::time::sleep(pause + Duration::from_millis(1)).await;
        match member.look_again().await {
            Ok((_, Err(TurnCap::WallTime { .. }))) => return TREE,
            Ok(_) => failed = 0,
            // It may have more time by now; but what is known is that it is over.
            Err(_) if left == Some(0) && failed >= FAILED_MAX => return TREE,
            Err(_) => {
                failed += 1;
                tokio::time::sleep(LOOK_AFTER_FAILURE).await;
            }
        }
    }
}

async fn turn_time_over(max: Option<Duration>) -> &'static str {
    match max {
        Some(max) => tokio::time::sleep(max).await,
        None => std::future::pending().await,
    }
    "its own (`limits.turn_seconds`)"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_over_after_all_its_steps_and_loses_one_however_long_the_process_was_halted() {
        let start = Instant::now();
        let mut patience = Patience::new(Signal::Cancel, start);
        for _ in 1..STEPS {
            assert_eq!(patience.at(patience.until - STEP / 2).unwrap().left, patience.left, "a step that is not over");
            patience = patience.at(patience.until).unwrap();
        }
        assert!(patience.at(patience.until).is_none());
        let halted = Patience::new(Signal::Pause, start);
        let mut left = halted.at(start + STEP * STEPS * 100).unwrap();
        assert_eq!((left.left, left.signal), (STEPS - 1, Signal::Pause));
        assert!(left.until > start + STEP * STEPS * 100, "nobody was heard in between");
        for _ in 2..STEPS {
            left = left.at(left.until).unwrap();
        }
        assert!(left.at(left.until).is_none());
    }
}
