//! SIGTERM, Ctrl-C and the end of a terminal.
//!
//! The first asks for a graceful stop; the second, or one that finds the pod stopping, asks for one at once. A child
//! has no terminal, and does not end because one does.
//!
//! Used by the command line and by child processes.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::handle::PodHandle;
use crate::protocol::{PodState, ShutdownMode};

/// Signals that are heard from now on, also while there is no pod yet that could be stopped.
#[derive(Debug)]
pub(crate) struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Stops `handle`'s pod when this process is told to end. Must be called within a tokio runtime.
pub fn shutdown_on_signal(handle: &PodHandle) {
    match Signals::listen() {
        Ok(signals) => signals.stop(handle),
        Err(error) => tracing::error!(%error, "signals cannot be handled; the pod can be stopped with `pod stop`"),
    }
}

impl Signals {
    /// Must be called within a tokio runtime.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one that asks a pod to end; `of_child` is whether the pod is a child.
    ///
    /// # Cancel safety
    /// One that comes while nobody waits is kept.
    pub(crate) async fn next(&mut self, of_child: bool) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.interrupt.recv() => return,
                // The kernel sends it to a child that is stopped at the moment when its parent dies, for its group
                // is then nobody's. What that death means is decided where it is watched.
                _ = self.hangup.recv() => if !of_child { return },
            }
        }
    }

    /// Lets them stop `handle`'s pod.
    pub(crate) fn stop(mut self, handle: &PodHandle) {
        let handle = handle.clone();
        tokio::spawn(async move {
            let mut asked = false;
            loop {
                // CANCEL SAFETY: a signal that comes in between is kept.
                tokio::select! {
                    () = self.next(handle.shared().parent.is_some()) => {}
                    () = handle.wait() => return,
                }
                let hurry = asked || *handle.shared().phase.borrow() == PodState::Stopping;
                handle.request_stop(if hurry { ShutdownMode::Now } else { ShutdownMode::Graceful });
                asked = true;
            }
        });
    }
}
