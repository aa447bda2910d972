//! One timer a connection, moved only when something falls due earlier than it is set for.
//!
//! May fire early, never late by more than the runtime's own grain.
//!
//! Used by both drivers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    set_for: Option<Instant>,
}

impl Timer {
    /// `Ready` when `at` may have passed; `at` of `None` waits for nothing.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        if self.set_for.is_none_or(|set_for| at < set_for) {
            let when = tokio::time::Instant::from_std(at);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(when),
                none => *none = Some(Box::pin(tokio::time::sleep_until(when))),
            }
            self.set_for = Some(at);
        }
        let fired = self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        if !fired {
            return Poll::Pending;
        }
        self.set_for = None;
        Poll::Ready(())
    }
}

/// The time by the runtime's clock, so that a paused clock in a test is ours too.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
