//! A service: how its requests find their handlers.
//!
//! The types of the handlers end here: what lies below knows bytes, what lies above knows requests.
//!
//! Made by the code that `#[derive(Protocol)]` generates, run by `server`.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use serde::Serialize;

use crate::io::Pool;
use crate::io::hub::Hub;
use crate::io::server::Connection;
use crate::io::serving::{Answering, Serving};
use crate::io::shares::Permit;
use crate::io::stream::Stream;
use crate::peer::Peer;
use crate::request::{DecodeFault, Protocol, Request};
use crate::responder::RawResponder;
use crate::session::payload::{INLINE_BYTES, Payload};
use crate::session::server::Reply;
use crate::wire::body;
use crate::wire::header::{FailedCode, NackCode};
use crate::wire::hello::ServiceInfo;

/// The handlers of a protocol, ready to be served.
pub struct Service<P> {
    pub(crate) connect: Arc<dyn Connect>,
    /// The same, one boxed future a call: for layers. `None` where requests are not decoded here.
    #[cfg(feature = "tower")]
    pub(crate) boxed: Option<Arc<Boxed<P>>>,
    _protocol: PhantomData<fn() -> P>,
}

/// Gives a request its handler.
#[cfg(feature = "tower")]
pub(crate) type Boxed<P> = dyn Fn(P, RawResponder) -> BoxFuture<'static, Answer> + Send + Sync;

/// Serves one connection to its end. The one dynamic call is made per connection, none per request.
pub(crate) trait Connect: Send + Sync {
    /// The Hello must have come by `hello_by`; `places` are those of the connection and of its handshake.
    fn serve(
        &self,
        hub: Arc<Hub>,
        stream: Stream,
        peer: Peer,
        hello_by: Instant,
        places: (Permit, Permit),
    ) -> BoxFuture<'static, ()>;

    /// The handlers for the calls that come back on a connection of our own.
    fn answering(&self, peer: Peer, service: ServiceInfo) -> Box<dyn Answering>;
}

/// What a handler's future ends with.
#[derive(Debug)]
#[must_use]
pub enum Answer {
    #[doc(hidden)]
    Now(Reply),
    /// Somebody else holds a [`Responder`](crate::Responder) and will answer.
    Deferred,
}

/// What begins a handler, given method, version and body.
struct Typed<S, F> {
    start: Arc<S>,
    pool: Arc<Pool<F>>,
}

impl<P: Protocol> Service<P> {
    /// A service whose requests are given to `dispatch`.
    pub fn new<D, F>(dispatch: D) -> Self
    where
        D: Fn(P, RawResponder) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        #[cfg(feature = "tower")]
        {
            let dispatch = Arc::new(dispatch);
            let direct = Arc::clone(&dispatch);
            let mut service = Self::starting(move |method, version, body: &[u8], raw| {
                P::decode(method, version, body).map(|request| direct(request, raw))
            });
            service.boxed = Some(Arc::new(move |request, raw| Box::pin(dispatch(request, raw))));
            service
        }
        #[cfg(not(feature = "tower"))]
        Self::starting(move |method, version, body: &[u8], raw| {
            P::decode(method, version, body).map(|request| dispatch(request, raw))
        })
    }

    /// The same handlers, for another server.
    #[cfg(feature = "testing")]
    pub(crate) fn again(connect: &Arc<dyn Connect>) -> Self {
        Self::connecting(Arc::clone(connect))
    }

    /// A service that is given what has come, undecoded.
    pub(crate) fn starting<S, F>(start: S) -> Self
    where
        S: Fn(u16, u16, &[u8], RawResponder) -> Result<F, DecodeFault> + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::with_pool(start, Pool::default())
    }

    /// A service whose `dispatch` only queues the requests; [`RawResponder::begin`] says when one is begun with.
    pub(crate) fn of_queue<D, F>(dispatch: D) -> Self
    where
        D: Fn(P, RawResponder) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let start = move |method, version, body: &[u8], raw| {
            P::decode(method, version, body).map(|request| dispatch(request, raw))
        };
        Self::with_pool(start, Pool::of_queue())
    }

    fn with_pool<S, F>(start: S, pool: Pool<F>) -> Self
    where
        S: Fn(u16, u16, &[u8], RawResponder) -> Result<F, DecodeFault> + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let typed = Typed { start: Arc::new(start), pool: Arc::new(pool) };
        Self::connecting(Arc::new(typed))
    }

    fn connecting(connect: Arc<dyn Connect>) -> Self {
        Self {
            connect,
            #[cfg(feature = "tower")]
            boxed: None,
            _protocol: PhantomData,
        }
    }

    pub(crate) const INFO: ServiceInfo = ServiceInfo { name: P::NAME, version: P::VERSION, methods: P::METHODS };
    pub(crate) const INFO_REF: &'static ServiceInfo = &Self::INFO;
}

impl<P> fmt::Debug for Service<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

impl<S, F> Connect for Typed<S, F>
where
    S: Fn(u16, u16, &[u8], RawResponder) -> Result<F, DecodeFault> + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    fn serve(
        &self,
        hub: Arc<Hub>,
        stream: Stream,
        peer: Peer,
        hello_by: Instant,
        places: (Permit, Permit),
    ) -> BoxFuture<'static, ()> {
        let start = shared(Arc::clone(&self.start));
        Box::pin(Connection::run(hub, stream, peer, hello_by, places, start, Arc::clone(&self.pool)))
    }

    fn answering(&self, peer: Peer, service: ServiceInfo) -> Box<dyn Answering> {
        let start = shared(Arc::clone(&self.start));
        Box::new(Serving::new(peer, service, None, start, Arc::clone(&self.pool)))
    }
}

/// How bytes become a handler, for one connection.
fn shared<S, F>(start: Arc<S>) -> impl Fn(u16, u16, &[u8], RawResponder) -> Result<F, DecodeFault> + Send + 'static
where
    S: Fn(u16, u16, &[u8], RawResponder) -> Result<F, DecodeFault> + Send + Sync + 'static,
    F: 'static,
{
    move |method, version, body, raw| start(method, version, body, raw)
}

impl Answer {
    /// The answer of a handler of `R`.
    pub fn of<R: Request>(result: Result<R::Ack, R::Rejection>) -> Self {
        Self::Now(reply_of::<R>(result))
    }

    /// The request was not shown to a handler, and will not be.
    pub fn unavailable(why: &str) -> Self {
        Self::Now(Reply::Nack(NackCode::Unavailable, Payload::copy(clip(why).as_bytes())))
    }
}

/// Encodes a handler's result. An ack that is too large or cannot be encoded was applied all the same: the caller
/// learns that the outcome is in doubt, and why.
pub(crate) fn reply_of<R: Request>(result: Result<R::Ack, R::Rejection>) -> Reply {
    match result {
        Ok(ack) => encoded::<R, _>(&ack).map_or_else(Reply::Failed, Reply::Ack),
        Err(rejection) => {
            encoded::<R, _>(&rejection).map_or_else(Reply::Failed, |payload| Reply::Nack(NackCode::Rejected, payload))
        }
    }
}

fn encoded<R: Request, T: Serialize>(value: &T) -> Result<Payload, FailedCode> {
    let max = usize::try_from(R::ACK_BYTES_MAX).unwrap_or(usize::MAX);
    body::encode_in_scratch(value, |encoded| match encoded {
        Ok(bytes) if bytes.len() <= INLINE_BYTES.min(max) => Ok(Payload::copy(bytes)),
        Ok(bytes) if bytes.len() <= max => Ok(Payload::Shared(body::keep_encoded(bytes))),
        Ok(bytes) => {
            let bytes = bytes.len();
            tracing::error!(method = R::NAME, bytes, max, "an answer is larger than its method declares");
            Err(FailedCode::AnswerTooLarge)
        }
        Err(error) => {
            tracing::error!(method = R::NAME, %error, "an answer cannot be encoded");
            Err(FailedCode::AnswerTooLarge)
        }
    })
}

/// The answer to a request that was not understood: no handler sees it.
pub(crate) fn refuse(fault: &DecodeFault) -> Reply {
    let text = fault.to_string();
    let code = match fault {
        DecodeFault::UnknownMethod | DecodeFault::UnsupportedVersion => NackCode::UnknownMethod,
        DecodeFault::BadBody(_) => NackCode::BadBody,
    };
    Reply::Nack(code, Payload::copy(clip(&text).as_bytes()))
}

/// The answer to a request that was not looked at for lack of room.
pub(crate) fn overloaded(retry_after: Duration) -> Reply {
    let ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
    Reply::Nack(NackCode::Overloaded, Payload::copy(&ms.to_le_bytes()))
}

/// The front of a text, cut at a character.
pub(crate) fn clip(text: &str) -> &str {
    let end = (0..=crate::limits::REASON_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or("")
}
