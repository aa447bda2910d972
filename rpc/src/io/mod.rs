//! The only sockets, clocks and tasks of this crate.
//!
//! Never decides what a frame means: that is `session`'s. One task a connection; it reads and writes in turn and
//! never waits for a handler, so two sides that both write cannot block each other.
//!
//! Drives `session`, under `client` and `server`.

pub(crate) mod accept;
pub(crate) mod client;
mod dial;
mod gate;
mod handlers;
pub(crate) mod hub;
mod inbound;
pub(crate) mod listener;
pub(crate) mod load;
mod mem;
pub(crate) mod reverse;
pub(crate) mod server;
pub(crate) mod serving;
pub(crate) mod shares;
mod socket;
mod spin;
pub(crate) mod stream;
mod timer;

pub(crate) use dial::dial;
pub(crate) use handlers::Pool;
pub(crate) use timer::now;

use std::future::Future;
use std::sync::PoisonError;
use std::task::{Context, Waker};

use crate::sync::{Mutex, MutexGuard};

/// Locks. A panic while the lock was held cannot have left these states half-changed in a way that matters: no
/// handler and no caller's code runs under a lock of this crate.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the task polled again after others, those included whose sockets have something to read by then: a task that wakes
/// itself at once is polled dozens of times before its runtime looks at sockets again.
pub(crate) fn give_way(cx: &mut Context<'_>) {
    // Polled once it has put the waker aside; what is dropped here is not needed for that.
    let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
}

/// Wakes all, after the lock under which they were collected is gone.
pub(crate) fn wake_all(wakers: &mut Vec<Waker>) {
    for waker in wakers.drain(..) {
        waker.wake();
    }
}
