//! Serving: handlers or an actor behind an address, and a way to stop that loses nothing.
//!
//! Owns the tasks of all its connections: when it is dropped they end at once, and callers learn that the outcome is
//! in doubt or, of what was not taken, that it was not delivered.
//!
//! Above `io::accept` and `io::server`.

mod builder;
mod policy;
mod secret;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

pub(crate) use self::builder::Options;
pub use self::builder::{Actor, ServerBuilder};
pub use self::policy::{Denial, Newcomer, PeerPidfd};
pub(crate) use self::policy::{Pass, Policy};
pub use self::secret::{Secret, SecretError};
use crate::address::Address;
use crate::io::hub::{CLOSING, DRAINING, Hub};
pub use crate::io::listener::ListenError;
use crate::io::listener::Listener;
use crate::io::shares::Place;
use crate::io::{accept, lock};
use crate::limits::Limits;
use crate::peer::Peer;
use crate::request::Protocol;
use crate::responder::Begin;
use crate::service::{Connect, Service};
use crate::session::server::ServerCounters;
use crate::sync::{JoinHandle, spawn};
use crate::transport::{Incoming, Transport};

/// How long connections may take to write their last answers once all handlers have ended. LIMIT: a peer that does not
/// read must not keep a server from stopping.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server. Dropping it stops it at once, and frees its address when the runtime next runs; [`drain`](Self::drain)
/// lets it finish, and returns with the address free.
#[must_use = "dropping a server stops it"]
pub struct Server {
    pub(crate) hub: Arc<Hub>,
    address: Address,
    /// Serves a connection.
    connect: Arc<dyn Connect>,
    accept: JoinHandle<()>,
}

/// The calls of a service that an actor answers.
pub struct Calls<P: Protocol> {
    queue: mpsc::Receiver<(P::Call, Begin)>,
}

/// Serves `handler` at `address`, with the default limits.
///
/// # Errors
/// [`ListenError`] names the path, the reason and the remedy; nothing is left behind.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn serve<P: Protocol>(address: &Address, handler: impl Into<P::Service>) -> Result<Server, ListenError> {
    serve_with::<P>(address, handler, Limits::default()).await
}

/// Serves `handler` at `address` with limits of its own.
///
/// # Errors
/// Like [`serve`].
///
/// # Panics
/// Outside a tokio runtime.
pub async fn serve_with<P: Protocol>(
    address: &Address,
    handler: impl Into<P::Service>,
    limits: Limits,
) -> Result<Server, ListenError> {
    Server::builder::<P>(handler).limits(limits).serve(address).await
}

/// Serves `address` by giving every call, with its responder, to whoever receives from the returned queue. Up to
/// `queue` calls wait in it, in the order in which each client sent them; further ones wait with their handlers'
/// permits, within their deadlines. A `queue` of 0 counts as 1.
///
/// # Errors
/// Like [`serve`].
///
/// # Panics
/// Outside a tokio runtime.
pub async fn serve_calls<P: Protocol>(address: &Address, queue: usize) -> Result<(Server, Calls<P>), ListenError> {
    serve_calls_with(address, queue, Limits::default()).await
}

/// [`serve_calls`] with limits of its own.
///
/// # Errors
/// Like [`serve`].
///
/// # Panics
/// Outside a tokio runtime.
pub async fn serve_calls_with<P: Protocol>(
    address: &Address,
    queue: usize,
    limits: Limits,
) -> Result<(Server, Calls<P>), ListenError> {
    Server::actor::<P>().limits(limits).serve_calls(address, queue).await
}

fn start<P: Protocol>(listener: Listener, service: Service<P>, options: Options) -> Server {
    let address = listener.address().clone();
    let hub = Arc::new(Hub::new(options, Service::<P>::INFO, !matches!(address, Address::Mem(_))));
    let connect = service.connect;
    let accept = spawn(accept::accept(listener, Arc::clone(&hub), Arc::clone(&connect)));
    Server { hub, address, connect, accept }
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Serves one stream that is already there, beside what comes from the address.
    ///
    /// `peer` is who is at its other end, by the caller's word; [`Peer::Unproven`] if that is not known. The
    /// stream is closed when its peer says goodbye, or with the server. If the server is full, the peer is told so.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn serve_stream(&self, stream: impl Transport, peer: Peer) {
        accept::admit(&self.hub, &self.connect, Incoming::new(stream, peer));
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.hub.shares.held(Place::Connection)
    }

    /// Lanes that are remembered, with and without a connection.
    pub fn lanes(&self) -> usize {
        self.hub.shares.held(Place::Lane)
    }

    /// What its lanes have seen since it started, those that it has forgotten included.
    pub fn counters(&self) -> ServerCounters {
        self.hub.counters()
    }

    /// Stops taking requests, lets the running handlers end and their answers be written, says goodbye.
    ///
    /// Callers whose requests come too late learn that they were not delivered; only what stood behind a Hello that was
    /// still on its way when the server ended is in doubt, like after any lost connection. Handlers end by their deadlines, and so
    /// does the wait for responders that an actor holds on to only after the longest deadline that the limits allow; a
    /// peer that does not read its answers is left behind after 5 s. The address is free when this returns.
    ///
    /// # Cancel safety
    /// Dropping it stops the server at once.
    pub async fn drain(mut self) {
        // Whoever loses a connection now may still come back for the answers to what it had sent.
        self.hub.enter(DRAINING);
        // A handler can run no longer than its deadline, and then for one poll. Answers are waited for below.
        let handlers = self.until(|| self.hub.lanes().iter().all(|cell| cell.with(|lane| lane.running()) == 0));
        let _ = tokio::time::timeout(self.hub.limits.deadline_max + GOODBYE_TIMEOUT, handlers).await;
        self.accept.abort();
        // Its end is the listener's: whoever listens next finds the address free.
        let _ = (&mut self.accept).await;
        self.hub.enter(CLOSING);
        let connections = self.until(|| self.hub.lanes().iter().all(|cell| !cell.with(|lane| lane.is_connected())));
        if tokio::time::timeout(GOODBYE_TIMEOUT, connections).await.is_err() {
            tracing::warn!(address = %self.address, "left connections behind that did not read their answers");
        }
    }

    async fn until(&self, done: impl Fn() -> bool) {
        loop {
            let mut progress = std::pin::pin!(self.hub.progress.notified());
            progress.as_mut().enable();
            if done() {
                return;
            }
            progress.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
        // A connection that is just being accepted on another thread is not among the tasks yet: it is refused.
        self.hub.enter(CLOSING);
        lock(&self.hub.tasks).abort_all();
    }
}

impl<P: Protocol> Calls<P> {
    /// The next call. `None`: the server is gone and its queue is empty.
    ///
    /// # Cancel safety
    /// A call is either returned or still queued.
    pub async fn recv(&mut self) -> Option<P::Call> {
        self.queue.recv().await.map(taken_out)
    }

    /// A call that is already there.
    pub fn try_recv(&mut self) -> Option<P::Call> {
        self.queue.try_recv().ok().map(taken_out)
    }
}

fn taken_out<C>((call, begin): (C, Begin)) -> C {
    begin.now();
    call
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl<P: Protocol> fmt::Debug for Calls<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("service", &P::NAME).finish_non_exhaustive()
    }
}
