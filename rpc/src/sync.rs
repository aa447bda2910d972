//! What callers, drivers and handlers share and wait with: locks, atomics, the waker of a driver, and tasks.
//!
//! Plain re-exports, but in one build: under `cfg(shuttle)`, which only the package `rpc/shuttle` sets, each of them is a
//! point at which a scheduler of tests may let somebody else go on. Never used for what nobody shares, and never for what
//! outlives a test's world (the names of `mem:`).
//!
//! Used by `io` and `server`.

#[cfg(not(shuttle))]
pub(crate) use self::plain::*;
#[cfg(shuttle)]
pub(crate) use self::scheduled::*;

/// Mistakes that the tests of `rpc/shuttle` must find; in every other build nobody can make them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(shuttle), expect(unreachable_pub, reason = "the tests of rpc/shuttle make them"))]
pub enum Slip {
    /// Whether the client's driver knows already is looked up before the lock is taken under which the lane is changed.
    LooksOutsideLock,
    /// The server's driver is woken before there is something for it, not after.
    WakesTooEarly,
    /// A handler's mark that it was woken is taken away after it was polled, not before.
    ForgetsWakesDuringPoll,
    /// A handler moves to another slot, and whoever has just looked for the old one is not seen.
    MovesHandlersUnseen,
    /// A driver that has found nothing to do ends without looking again under the lock that closes its lane.
    EndsOutsideLock,
}

#[cfg(not(shuttle))]
mod plain {
    use std::future::Future;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    pub(crate) use futures::task::AtomicWaker;
    use tokio::runtime::RuntimeFlavor;
    pub(crate) use tokio::spawn;
    pub(crate) use tokio::task::{JoinHandle, JoinSet};

    use super::Slip;

    /// Where a driver is started.
    pub(crate) struct Handle(tokio::runtime::Handle);

    impl Handle {
        /// # Panics
        /// Outside a tokio runtime.
        pub(crate) fn current() -> Self {
            Self(tokio::runtime::Handle::current())
        }

        /// Whether a woken task runs right behind the one that woke it.
        pub(crate) fn wakes_ahead(&self) -> bool {
            self.0.runtime_flavor() == RuntimeFlavor::MultiThread
        }

        pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            self.0.spawn(task);
        }
    }

    /// What belongs to the task that is being polled, for as long as that takes.
    macro_rules! local {
        ($($(#[$about:meta])* static $name:ident: $type:ty = $value:expr;)*) => {
            thread_local! { $($(#[$about])* static $name: $type = const { $value };)* }
        };
    }
    pub(crate) use local;

    #[inline]
    pub(crate) const fn slips(_: Slip) -> bool {
        false
    }
}

#[cfg(shuttle)]
mod scheduled {
    use std::cell::Cell;
    use std::future::Future;
    use std::task::Waker;

    pub(crate) use shuttle::future::{JoinHandle, spawn};
    use shuttle::rand::Rng;
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};

    use super::Slip;

    macro_rules! local {
        ($($(#[$about:meta])* static $name:ident: $type:ty = $value:expr;)*) => {
            shuttle::thread_local! { $($(#[$about])* static $name: $type = $value;)* }
        };
    }
    pub(crate) use local;

    thread_local! {
        static MADE: Cell<Option<Slip>> = const { Cell::new(None) };
    }

    pub(crate) fn slips(slip: Slip) -> bool {
        MADE.get() == Some(slip)
    }

    impl Slip {
        /// Made on this thread from here on; `None`: none any more.
        pub fn make(slip: Option<Self>) {
            MADE.set(slip);
        }
    }

    /// Where a driver is started.
    pub(crate) struct Handle;

    impl Handle {
        pub(crate) fn current() -> Self {
            Self
        }

        /// Either, so that both ways of a driver are walked.
        pub(crate) fn wakes_ahead(&self) -> bool {
            shuttle::rand::thread_rng().gen_bool(0.5)
        }

        pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            spawn(task);
        }
    }

    /// Like the one that it stands for: `wake` takes the waker, and wakes it outside the lock.
    #[derive(Debug, Default)]
    pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn register(&self, waker: &Waker) {
            *crate::io::lock(&self.0) = Some(waker.clone());
        }

        pub(crate) fn wake(&self) {
            let waker = crate::io::lock(&self.0).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Tasks that end with it.
    #[derive(Debug)]
    pub(crate) struct JoinSet<T>(Vec<JoinHandle<T>>);

    impl<T> Default for JoinSet<T> {
        fn default() -> Self {
            Self(Vec::new())
        }
    }

    impl<T: Send + 'static> JoinSet<T> {
        pub(crate) fn spawn(&mut self, task: impl Future<Output = T> + Send + 'static) {
            self.0.push(spawn(task));
        }

        /// None is forgotten before all are.
        pub(crate) fn try_join_next(&mut self) -> Option<()> {
            None
        }
    }

    impl<T> JoinSet<T> {
        pub(crate) fn abort_all(&self) {
            self.0.iter().for_each(JoinHandle::abort);
        }
    }

    impl<T> Drop for JoinSet<T> {
        fn drop(&mut self) {
            self.abort_all();
        }
    }
}
