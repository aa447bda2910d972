//! The waker of a driver, which wakes its task only while that rests.
//!
//! What a driver does for its peer wakes the driver itself: a Cancel wakes a handler, which is the driver's to poll. Were
//! that to reach the task, it would be polled again before its runtime has looked at sockets, however it gave way: a peer
//! that opens and cancels would keep the others of its thread from being heard for dozens of its turns. So a driver that
//! is being polled, or gives way, only notes that it was woken.
//!
//! Part of the drivers `server` and `client`; never loses a wake: one that is noted keeps the driver from its rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};

use crate::sync::{AtomicU8, AtomicWaker};

/// Is polled, or will be without being woken.
const UP: u8 = 0;
/// The same, and has been woken since.
const UP_AND_WOKEN: u8 = 1;
/// Its task is to be woken.
const RESTS: u8 = 2;

/// The side of the driver.
#[derive(Debug)]
pub(super) struct Gate {
    shared: Arc<Shared>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Default for Gate {
    fn default() -> Self {
        let shared = Arc::<Shared>::default();
        Self { waker: Waker::from(Arc::clone(&shared)), shared }
    }
}

impl Gate {
    /// What others are to wake instead of the task.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The task is being polled.
    pub(super) fn get_up(&self, task: &Waker) {
        self.shared.task.register(task);
        // Takes what whoever woke it has published: a mere store would hide that.
        self.shared.state.swap(UP, Ordering::AcqRel);
    }

    /// From here on a wake reaches the task. `false`: one has come since it got up, or since this was last asked. Then
    /// the driver looks at everything again, and registers its waker again.
    pub(super) fn rest(&self) -> bool {
        let rests = self.shared.state.compare_exchange(UP, RESTS, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if !rests {
            self.shared.state.swap(UP, Ordering::AcqRel);
        }
        rests
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(UP_AND_WOKEN, Ordering::AcqRel) == RESTS {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::{ArcWake, waker};
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl ArcWake for Count {
        fn wake_by_ref(count: &Arc<Self>) {
            count.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn wake_reaches_the_task_once_and_only_while_it_rests() {
        let count = Arc::new(Count::default());
        let woken = || count.0.load(Ordering::SeqCst);
        let task = waker(Arc::clone(&count));
        let gate = Gate::default();
        gate.get_up(&task);
        assert!(gate.rest(), "nothing has happened");
        gate.waker().wake_by_ref();
        gate.waker().wake_by_ref();
        assert_eq!(woken(), 1, "once is enough");

        gate.get_up(&task);
        gate.waker().wake_by_ref();
        assert_eq!(woken(), 1, "it is up");
        assert!(!gate.rest(), "what has come must be looked at");
        assert!(gate.rest(), "it has been looked at");
        gate.waker().wake_by_ref();
        assert_eq!(woken(), 2);
    }
}
