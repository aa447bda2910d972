//! What a handler may know about the call that it serves.
//!
//! Values; nothing here keeps a connection alive.
//!
//! Made by the server's driver for each call.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use crate::client::Client;
use crate::id::RequestId;
use crate::io::hub::ServingCell;
use crate::peer::Peer;
use crate::request::Protocol;
use crate::sync::local;

local! {
    static CURRENT: Cell<Option<CallContext>> = Cell::new(None);
    /// The lane whose handlers are polled just now: set once for all that one turn of a driver polls.
    static LANE: RefCell<Option<Arc<ServingCell>>> = RefCell::new(None);
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
        CURRENT.with(Cell::get)
    }

    /// A client for the other side of the connection that brought this call, if it serves `Q`
    /// ([`ClientBuilder::serves`](crate::ClientBuilder::serves)); if it does not, its calls end as
    /// [`NotDelivered::NotServed`](crate::NotDelivered::NotServed).
    ///
    /// `None` outside the running handler itself: take it there and keep it. It stays valid after the handler has
    /// returned, for as long as the server remembers the caller's lane; from then on its calls end at once. It opens no
    /// connection: while there is none, calls wait for the other side to come back, at most until their deadlines.
    pub fn caller<Q: Protocol>(&self) -> Option<Client<Q>> {
        if Self::current() != Some(*self) {
            return None;
        }
        LANE.with(|lane| lane.borrow().as_ref().map(|cell| Client::calling_back(cell)))
    }

    /// Runs `poll` as this call.
    pub(crate) fn scope<T>(self, poll: impl FnOnce() -> T) -> T {
        struct Restore(Option<CallContext>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.with(|current| current.set(self.0));
            }
        }
        let _restore = Restore(CURRENT.with(|current| current.replace(Some(self))));
        poll()
    }
}

/// Handlers of that lane are polled until the guard is dropped.
pub(crate) fn enter(cell: &Arc<ServingCell>) -> impl Drop {
    struct Restore(Option<Arc<ServingCell>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LANE.with(|lane| lane.replace(self.0.take()));
        }
    }
    Restore(LANE.with(|lane| lane.replace(Some(Arc::clone(cell)))))
}
