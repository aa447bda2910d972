//! How a client is made when its address is not all there is to say.
//!
//! Does no I/O: a client connects when it is first used.
//!
//! Makes the `Client`.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::Client;
use crate::address::Address;
use crate::backoff::Backoff;
use crate::id::{Incarnation, PeerId};
use crate::io::client::LaneCell;
use crate::io::reverse::Offered;
use crate::limits::Limits;
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
    serves: Option<(ServiceInfo, Arc<dyn Connect>)>,
    _protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> ClientBuilder<P> {
    pub(super) fn new(address: Address) -> Self {
        let (limits, backoff) = (Limits::default(), Backoff::default());
        Self { address, limits, secret: None, backoff, serves: None, _protocol: PhantomData }
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
        let identity = LaneIdentity { peer: PeerId::random(), incarnation: Incarnation::random(), lane: 0 };
        let mut lane = ClientLane::new(identity, Service::<P>::INFO, self.limits.clone());
        if let Some(secret) = &self.secret {
            lane.show_secret(secret.to_bytes());
        }
        let offered = self.serves.map(|(info, connect)| {
            lane.offer(info.clone());
            Offered::new(info, connect, self.limits.clone())
        });
        let cell = LaneCell::new(self.address, lane, self.limits, self.backoff, offered);
        Client { cell: Arc::new(cell), _protocol: PhantomData }
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
