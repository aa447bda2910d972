//! Calling: a client, its calls, and what to do about a doubt.
//!
//! Types begin here: below are bytes. Nothing is sent twice unless its caller has said so ([`Retry`]), and no call ends
//! without an outcome.
//!
//! Above `session::client`, whose driver is `io::client`. The client is here; `builder` makes it, `call` has what is
//! awaited, `retry` what it does about its own failures, `doubt` what is left when that was not enough.

mod builder;
mod call;
mod doubt;
mod lanes;
mod retry;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

pub use self::builder::ClientBuilder;
pub use self::call::Call;
pub use self::doubt::Doubt;
pub use self::lanes::LaneState;
use self::lanes::Lanes;
pub use self::retry::{AnyRequest, Covers, IdempotentOnly, Retry};
use crate::address::Address;
use crate::io::hub::ServingCell;
use crate::limits::Limits;
use crate::outcome::CallError;
use crate::peer::Peer;
use crate::request::{Has, Protocol, Request, StreamRequest};
use crate::service::Service;
use crate::session::client::LaneCounters;
use crate::stream::ItemStream;

/// A client of one service at one address: one lane, one connection, opened when it is first needed; or several of them
/// ([`ClientBuilder::lanes`]).
///
/// Cheap to clone; clones share the lane. The connection is opened again when it was lost and somebody needs it. Needs
/// a tokio runtime with I/O and time when the first call is polled.
///
/// # Runtimes
/// The task that drives a lane lives in the runtime in which a call first needed it. Calls may be awaited in any other.
/// When that runtime ends, the calls that are open then end at once ([`ClientClosed`](crate::NotDelivered::ClientClosed),
/// or in doubt), and the next call or [`resolve`](Doubt::resolve) starts the task again in its own runtime: nothing but
/// the connection is lost by that.
pub struct Client<P> {
    lanes: Lanes,
    _protocol: PhantomData<fn() -> P>,
}

/// Calls `client`'s service, with the default deadline. The same as `client.call(request)`.
///
/// # Errors
/// [`CallError`]: not delivered, rejected, or in doubt.
///
/// # Cancel safety
/// Dropping the future cancels the call: the request is taken back if it was not written, else its handler is stopped.
/// Whether it had been applied by then stays unknown.
pub async fn call<P: Has<R>, R: Request>(client: &Client<P>, request: R) -> Result<R::Ack, CallError<R>> {
    client.call(request).await
}

/// How [`Client::open`] ends: the ack and the stream, or why there is none.
pub type Opened<R> =
    Result<(<R as Request>::Ack, ItemStream<<R as StreamRequest>::Item, <R as StreamRequest>::Lossy>), CallError<R>>;

impl<P: Protocol> Client<P> {
    /// A client with the default limits. Connects when it is first used.
    pub fn new(address: &Address) -> Self {
        Self::with_limits(address, Limits::default())
    }

    /// A client with limits of its own.
    pub fn with_limits(address: &Address, limits: Limits) -> Self {
        Self::builder(address).limits(limits).build()
    }

    /// A client with more to say about it than where it connects to.
    pub fn builder(address: &Address) -> ClientBuilder<P> {
        ClientBuilder::new(address.clone())
    }

    /// Prepares a call.
    pub fn call<R: Request>(&self, request: R) -> Call<R>
    where
        P: Has<R>,
    {
        Call::new(Arc::clone(self.lanes.pick()), Service::<P>::INFO_REF, request)
    }

    /// Calls a method whose ack opens a stream.
    ///
    /// # Errors
    /// [`CallError`], like any call.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call, like any call, and ends the stream if it was opened.
    pub async fn open<R: StreamRequest>(&self, request: R) -> Opened<R>
    where
        P: Has<R>,
    {
        self.call(request).open().await
    }

    /// A client for the other side of a connection that `cell` has a lane of.
    pub(crate) fn calling_back(cell: &ServingCell) -> Self {
        let cell = cell.back(Service::<P>::INFO_REF);
        Self { lanes: Lanes::of(cell), _protocol: PhantomData }
    }

    /// Where this client connects to; `mem:caller` if it calls [back](crate::CallContext::caller) on the connection of
    /// somebody else.
    pub fn address(&self) -> &Address {
        self.lanes.first().address()
    }

    /// Who is at the other end of its (first) connection, or was at that of its last one; `None` before the first.
    pub fn server(&self) -> Option<Peer> {
        self.lanes.first().server()
    }

    /// Ready when a lane's window has room for one more call. Reserves nothing.
    #[cfg(feature = "tower")]
    pub(crate) fn poll_room(&self, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        // It is woken when there is room; the deadline is only so far that the lane has one to keep.
        let now = crate::io::now();
        let by = |cell: &crate::io::client::CallingCell| now.checked_add(cell.limits().deadline_max).unwrap_or(now);
        let has_room =
            |cell: &Arc<crate::io::client::CallingCell>| cell.with(|lane| lane.poll_room(by(cell), cx)).is_ready();
        if self.lanes.all().any(has_room) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    }

    /// What its lane has seen; of several lanes, the first.
    pub fn counters(&self) -> LaneCounters {
        self.lanes.first().with(|lane| lane.counters())
    }

    /// A client that calls on lane `number` only, in the order of its calls; `None` if this one has no such lane.
    pub fn lane(&self, number: usize) -> Option<Self> {
        let cell = self.lanes.all().nth(number)?;
        Some(Self { lanes: Lanes::of(Arc::clone(cell)), _protocol: PhantomData })
    }

    /// What each lane is doing: whether it is connected, how much is open, why its last connection ended, and how often
    /// the server has dropped it.
    pub fn lanes(&self) -> Vec<LaneState> {
        self.lanes.all().map(|cell| lanes::state(cell)).collect()
    }
}

impl<P> Clone for Client<P> {
    fn clone(&self) -> Self {
        Self { lanes: self.lanes.clone(), _protocol: PhantomData }
    }
}

impl<P: Protocol> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("service", &P::NAME).field("address", self.address()).finish_non_exhaustive()
    }
}
