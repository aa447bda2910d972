//! A client and a server in one test, with everything between them under its control.
//!
//! Client, session and server are the real ones. Uses no clock of its own.
//!
//! Over `wire`; `mock` is a world whose server follows a script.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{future, io};

use super::wire::{Direction, Wire};
use crate::address::Address;
use crate::client::{Client, ClientBuilder};
use crate::io::lock;
use crate::limits::Limits;
use crate::peer::Peer;
use crate::request::Protocol;
use crate::server::{Server, ServerBuilder};
use crate::service::{Connect, Service};
use crate::transport::Connector;

/// A client and a server of `P`, in memory.
///
/// Needs a tokio runtime; one thread and a paused clock make a test repeatable.
pub struct World<P: Protocol> {
    client: Client<P>,
    address: Address,
    pub(super) side: Arc<Side<P>>,
}

/// What is not the client's.
pub(super) struct Side<P> {
    wire: Wire,
    server: Mutex<Option<Server>>,
    /// The handlers, for the server's next life.
    connect: Arc<dyn Connect>,
    limits: Limits,
    dialled: AtomicU64,
    _protocol: std::marker::PhantomData<fn() -> P>,
}

impl<P: Protocol> World<P> {
    /// A world whose server gives requests to `handler`, with the default limits on both sides.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(handler: impl Into<P::Service>) -> Self {
        Self::with_limits(handler, Limits::default())
    }

    /// A world with limits of its own, on both sides.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with_limits(handler: impl Into<P::Service>, limits: Limits) -> Self {
        Self::of(handler.into().into(), limits)
    }

    pub(super) fn of(service: Service<P>, limits: Limits) -> Self {
        let side = Arc::new(Side {
            wire: Wire::new(),
            server: Mutex::default(),
            connect: service.connect,
            limits: limits.clone(),
            dialled: AtomicU64::new(0),
            _protocol: std::marker::PhantomData,
        });
        side.start();
        let address = Address::custom(Connector::with_peer("the test's world", {
            let side = Arc::clone(&side);
            move || future::ready(side.connect())
        }));
        Self { client: Client::builder(&address).limits(limits).build(), address, side }
    }

    /// The client. Clone it for code that keeps one.
    pub fn client(&self) -> &Client<P> {
        &self.client
    }

    /// Where to reach the server, for more clients.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Another client, to be set up.
    pub fn client_builder(&self) -> ClientBuilder<P> {
        Client::builder(&self.address).limits(self.side.limits.clone())
    }

    /// Cuts every connection: what is under way is lost. Clients may connect again at once.
    pub fn cut(&self) {
        self.side.wire.cut();
    }

    /// Stops carrying bytes in one direction, also on connections to come. They are kept, as in a peer's full buffers.
    pub fn stall(&self, direction: Direction) {
        self.side.wire.set_stalled(direction, true);
    }

    /// Carries bytes again, those that were kept first.
    pub fn resume(&self, direction: Direction) {
        self.side.wire.set_stalled(direction, false);
    }

    /// Puts bytes on the wire to the client that are no frame.
    pub fn garbage(&self) {
        self.side.wire.garbage();
    }

    /// Ends the server as if its process had been killed: its memory, its connections and its running handlers are gone, and
    /// nobody listens.
    pub fn stop(&self) {
        self.side.stop();
    }

    /// Starts the server again, after [`stop`](Self::stop) or instead of it: a new incarnation, which remembers no request.
    /// The handlers are the same ones, so what they keep outside of calls is still there, like a database.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn restart(&self) {
        self.side.stop();
        self.side.start();
    }

    /// How many connections the clients have asked for.
    pub fn dialled(&self) -> u64 {
        self.side.dialled.load(Ordering::SeqCst)
    }

    /// Lets everything happen that can happen without time passing, where the clock is paused: the runtime then moves it,
    /// by one millisecond, only when nobody has anything else to do. With a running clock it only waits that long.
    ///
    /// # Cancel safety
    /// It does nothing itself.
    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl<P: Protocol> Side<P> {
    fn start(&self) {
        let service = Service::<P>::again(&self.connect);
        *lock(&self.server) = Some(ServerBuilder::new(service).limits(self.limits.clone()).start());
    }

    pub(super) fn stop(&self) {
        let server = lock(&self.server).take();
        drop(server);
        // Bytes of the dead are not carried on by the wire.
        self.wire.cut();
    }

    pub(super) fn restart(&self) {
        self.stop();
        self.start();
    }

    pub(super) fn cut(&self) {
        self.wire.cut();
    }

    pub(super) fn garbage(&self) {
        self.wire.garbage();
    }

    fn connect(&self) -> io::Result<(tokio::io::DuplexStream, Peer)> {
        self.dialled.fetch_add(1, Ordering::SeqCst);
        let server = lock(&self.server);
        let gone = || io::Error::new(io::ErrorKind::ConnectionRefused, "the test has stopped the server");
        let server = server.as_ref().ok_or_else(gone)?;
        let (ours, theirs) = self.wire.connect();
        server.serve_stream(theirs, Peer::own());
        Ok((ours, Peer::own()))
    }
}

impl<P: Protocol> fmt::Debug for World<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("service", &P::NAME).finish_non_exhaustive()
    }
}
