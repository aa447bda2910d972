//! Handlers behind layers, and any tower service in place of handlers.
//!
//! Never says *not delivered* of a request that was taken, nor lets one be taken of which it was said: both go through
//! one atomic state. Answers every exchange once, whatever a layer makes of it.
//!
//! Over `service`; used by `server::builder`.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tower_layer::Layer;
use tower_service::Service as TowerService;

use crate::context::CallContext;
use crate::io::lock;
use crate::request::{MethodInfo, Protocol};
use crate::responder::RawResponder;
use crate::server::ServerBuilder;
use crate::service::{Answer, Boxed, Service};
use crate::session::payload::Payload;
use crate::session::server::Reply;
use crate::wire::header::{FailedCode, NackCode};

/// What a layer may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Nobody has the request yet.
const WAITS: u8 = 0;
/// A handler has it.
const TAKEN: u8 = 1;
/// Somebody has its responder, and will answer.
const DEFERRED: u8 = 2;
/// Its caller was told that nobody has it and nobody will.
const REFUSED: u8 = 3;

/// A request on its way to its handler. Layers pass it on; whoever handles it takes it.
#[must_use = "an exchange that is dropped is answered as not taken"]
pub struct Exchange<P> {
    request: P,
    raw: RawResponder,
    state: Arc<AtomicU8>,
}

/// The handlers of a protocol, as a tower service: what layers are put around.
pub struct Handlers<P> {
    dispatch: Option<Arc<Boxed<P>>>,
}

impl<P: Protocol> Exchange<P> {
    /// Who calls, under which id, and until when.
    pub fn context(&self) -> &CallContext {
        self.raw.context()
    }

    /// Which method is called.
    pub fn method(&self) -> Option<&'static MethodInfo> {
        let called = self.raw.method();
        P::METHODS.iter().find(|method| (method.id, method.version) == called)
    }

    /// Takes the request, to answer it with [`Answer::of`]. `None`: its caller has been told that nobody has it, because a
    /// layer gave it up; it must not be handled.
    pub fn take(self) -> Option<P> {
        self.claim(TAKEN).then_some(self.request)
    }

    /// Takes the request with its responder, to be answered from anywhere; the service returns [`Answer::Deferred`].
    /// `None` as in [`take`](Self::take).
    pub fn into_call(self) -> Option<P::Call> {
        self.claim(DEFERRED).then(|| self.request.into_call(self.raw))
    }

    fn claim(&self, state: u8) -> bool {
        self.state.compare_exchange(WAITS, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl<P: Protocol> TowerService<Exchange<P>> for Handlers<P> {
    type Response = Answer;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Answer, Self::Error>>;

    /// Always: how many handlers run is limited by the server.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, exchange: Exchange<P>) -> Self::Future {
        let dispatch = self.dispatch.clone();
        Box::pin(async move {
            if !exchange.claim(TAKEN) {
                // Already answered; nobody reads this.
                return Ok(Answer::Deferred);
            }
            let state = exchange.state;
            let Some(dispatch) = dispatch else {
                return Ok(Answer::unavailable(
                    "this service does not decode its requests: no layer can be put around it",
                ));
            };
            let answer = dispatch(exchange.request, exchange.raw).await;
            if matches!(answer, Answer::Deferred) {
                state.store(DEFERRED, Ordering::Release);
            }
            Ok(answer)
        })
    }
}

impl<P: Protocol> Service<P> {
    /// Serves a tower service: it is cloned for each exchange, waited for until it is ready, and called. See
    /// [`tower`](crate::tower) for what its errors become.
    pub fn from_tower<S>(service: S) -> Self
    where
        S: TowerService<Exchange<P>, Response = Answer> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        // Services need not be `Sync`; they are only cloned under the lock.
        let service = Mutex::new(service);
        Self::new(move |request, raw| {
            let service = lock(&service).clone();
            let state = Arc::new(AtomicU8::new(WAITS));
            exchanged(service, Exchange { request, raw, state: Arc::clone(&state) }, Settled(state))
        })
    }

    /// These handlers as a tower service.
    pub fn into_tower(self) -> Handlers<P> {
        Handlers { dispatch: self.boxed }
    }
}

impl<P: Protocol> ServerBuilder<P> {
    /// Puts a tower layer around the handlers; the last one said is the outermost. See [`tower`](crate::tower) for what its
    /// errors become.
    pub fn layer<L>(self, layer: L) -> Self
    where
        L: Layer<Handlers<P>>,
        L::Service: TowerService<Exchange<P>, Response = Answer> + Clone + Send + 'static,
        <L::Service as TowerService<Exchange<P>>>::Error: Into<BoxError>,
        <L::Service as TowerService<Exchange<P>>>::Future: Send,
    {
        self.map_service(|service| Service::from_tower(layer.layer(service.into_tower())))
    }
}

/// Says at the end, also when it is dropped, that nobody can take the request any more.
struct Settled(Arc<AtomicU8>);

impl Settled {
    /// How far it came.
    fn settle(&self) -> u8 {
        match self.0.compare_exchange(WAITS, REFUSED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => REFUSED,
            Err(state) => state,
        }
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        self.settle();
    }
}

async fn exchanged<P, S>(mut service: S, exchange: Exchange<P>, settled: Settled) -> Answer
where
    S: TowerService<Exchange<P>, Response = Answer>,
    S::Error: Into<BoxError>,
{
    let method = exchange.raw.method();
    let called = async {
        poll_fn(|cx| service.poll_ready(cx)).await?;
        service.call(exchange).await
    };
    let answer = called.await.map_err(Into::into);
    let state = settled.settle();
    if let Err(error) = &answer {
        tracing::debug!(method = method.0, %error, "a layer gave a call up");
    }
    match (state, answer) {
        // It is answered elsewhere, whatever a layer says.
        (DEFERRED, _) => Answer::Deferred,
        (_, Ok(answer @ Answer::Now(_))) => answer,
        (REFUSED, Err(_)) => Answer::Now(Reply::Nack(NackCode::Overloaded, Payload::EMPTY)),
        (REFUSED, Ok(Answer::Deferred)) => Answer::unavailable("no handler took the request"),
        // A handler had it.
        (_, Err(_)) => Answer::Now(Reply::Failed(FailedCode::Aborted)),
        (_, Ok(Answer::Deferred)) => Answer::Now(Reply::Failed(FailedCode::Dropped)),
    }
}

impl<P> Clone for Handlers<P> {
    fn clone(&self) -> Self {
        Self { dispatch: self.dispatch.clone() }
    }
}

impl<P> fmt::Debug for Handlers<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").finish_non_exhaustive()
    }
}

impl<P> fmt::Debug for Exchange<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("raw", &self.raw).finish_non_exhaustive()
    }
}
