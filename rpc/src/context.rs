//! What a handler may know about the call that it serves.
//!
//! Values; nothing here keeps a connection alive.
//!
//! Made by the server's driver for each call.

use std::cell::Cell;
use std::time::Instant;

use crate::id::RequestId;
use crate::peer::Peer;

thread_local! {
    static CURRENT: Cell<Option<CallContext>> = const { Cell::new(None) };
}

/// Who called, under which id, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallContext {
    /// Who connected, by the word of the kernel or of the transport.
    pub peer: Peer,
    /// The request's id in its lane.
    pub request_id: RequestId,
    /// When the handler is stopped.
    pub deadline: Instant,
}

impl CallContext {
    /// The call that the running handler serves; `None` outside one. It is set while the handler itself is polled,
    /// not in tasks that it spawns: give those a copy.
    pub fn current() -> Option<Self> {
        CURRENT.get()
    }

    /// Runs `poll` as this call.
    pub(crate) fn scope<T>(self, poll: impl FnOnce() -> T) -> T {
        struct Restore(Option<CallContext>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self)));
        poll()
    }
}
