//! How a client is made when its address is not all there is to say.
//!
//! Does no I/O: a client connects when it is first used.
//!
//! Makes the `Client`.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::Client;
use super::lanes::Lanes;
use crate::address::Address;
use crate::backoff::Backoff;
use crate::id::random_peer;
use crate::io::client::CallingCell;
use crate::io::reverse::Offered;
use crate::limits::{LANES_MAX, Limits};
use crate::request::Protocol;
use crate::server::Secret;
use crate::service::{Connect, Service};
use crate::session::client::{ClientLane, LaneIdentity};
use crate::transport::Connector;
use crate::wire::hello::ServiceInfo;

/// Makes a [`Client`]. Whatever is not said has its default.
///
/// ```
/// # #[derive(serde::Serialize, serde::Deserialize, rpc::Request)]
/// # #[rpc(id = 1, ack = ())]
/// # struct Reset;
/// # #[derive(rpc::Protocol)]
/// # #[rpc(name = "calc", version = 1)]
/// # enum Calc { Reset(Reset) }
/// let address = rpc::Address::mem("calc");
/// let limits = rpc::Limits { window: 64, ..rpc::Limits::default() };
/// let client = rpc::Client::<Calc>::builder(&address).limits(limits).build();
/// # drop(client);
/// ```
#[must_use = "a builder makes nothing until `build`"]
pub struct ClientBuilder<P> {
    address: Address,
    limits: Limits,
    secret: Option<Secret>,
    backoff: Backoff,
    lanes: u32,
    serves: Option<(ServiceInfo, Arc<dyn Connect>)>,
    _protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> ClientBuilder<P> {
    pub(super) fn new(address: Address) -> Self {
        let (limits, backoff) = (Limits::default(), Backoff::default());
        Self { address, limits, secret: None, backoff, lanes: 1, serves: None, _protocol: PhantomData }
    }

    /// The bounds of this client. The server has its own; the smaller ones of both hold.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Shows `secret` in each Hello, whoever listens: see [`Secret`] for where that is enough.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Another way to connect than by the address: any transport. The same as an [`Address::custom`].
    pub fn connector(mut self, connector: Connector) -> Self {
        self.address = Address::custom(connector);
        self
    }

    /// The pauses before a lost connection is opened again, and between the attempts of calls whose
    /// [`Retry`](crate::Retry) names none.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Several connections instead of one, at most 64; 0 counts as 1. Each call goes to the lane with the fewest open calls.
    ///
    /// For callers on several threads that wait for each other's writes, and for large bodies, behind which small calls of
    /// the same lane wait. The order of calls holds within a lane only: use [`Client::lane`] for those that need one.
    /// Each lane has bounds of its own ([`limits`](Self::limits)), on both sides.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.lanes = lanes.clamp(1, LANES_MAX);
        self
    }

    /// After how long a silence of the server, while anything is open, it is asked whether it is there:
    /// [`Limits::keepalive`] alone. Say it after [`limits`](Self::limits).
    pub fn keepalive(mut self, interval: Duration) -> Self {
        self.limits.keepalive = interval;
        self
    }

    /// For how long it asks its socket again before it sleeps, while calls are open; at most a millisecond, zero for never:
    /// [`Limits::spin`] alone, which says what that costs. Say it after [`limits`](Self::limits).
    pub fn spin(mut self, bound: Duration) -> Self {
        self.limits.spin = bound;
        self
    }

    /// Answers the calls of the other side: whoever this client calls may call `Q` back, on the same connection, with
    /// [`CallContext::caller`](crate::CallContext::caller).
    ///
    /// From its first connection on such a client stays reachable: while it lives it opens a lost connection again, for as
    /// long as the server may remember it ([`Limits::lane_retention`]). Losing a connection stops no handler. When the last
    /// handle of the client is dropped, no further call is taken, the handlers that run may end and answer, and then the
    /// connection is closed.
    pub fn serves<Q: Protocol>(mut self, handler: impl Into<Q::Service>) -> Self {
        let service: Service<Q> = handler.into().into();
        self.serves = Some((Service::<Q>::INFO, service.connect));
        self
    }

    /// The client. It connects when it is first used.
    pub fn build(self) -> Client<P> {
        let (peer, incarnation) = random_peer();
        let cell = |lane| Arc::new(self.lane(LaneIdentity { peer, incarnation, lane }));
        Client { lanes: Lanes::new(cell(0), (1..self.lanes).map(cell).collect()), _protocol: PhantomData }
    }

    fn lane(&self, identity: LaneIdentity) -> CallingCell {
        let mut lane = ClientLane::new(identity, Service::<P>::INFO, self.limits.clone());
        if let Some(secret) = &self.secret {
            lane.show_secret(secret.to_bytes());
        }
        let offered = self.serves.as_ref().map(|(info, connect)| {
            lane.offer(info.clone());
            Offered::new(info.clone(), Arc::clone(connect), self.limits.clone())
        });
        CallingCell::new(self.address.clone(), lane, self.limits.clone(), self.backoff, offered)
    }
}

impl<P: Protocol> fmt::Debug for ClientBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("service", &P::NAME)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
