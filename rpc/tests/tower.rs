//! tower's own layers around a client and around handlers, unchanged; and what callers learn when a layer says no.
#![cfg(feature = "tower")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::future::{Ready, ready};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use rpc::tower::{BoxError, Exchange};
use rpc::{
    Address, Answer, CallError, Cause, Client, ItemSender, Limits, Never, NotDelivered, Server, Service as Served,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tower::limit::RateLimitLayer;
use tower::retry::Policy;
use tower::{Service, ServiceBuilder, ServiceExt};
use tracing::instrument::Instrumented;
use tracing::{Instrument, info_span};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

#[derive(Clone, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = String)]
struct Do {
    what: String,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = (), item = u64)]
struct Count {
    to: u64,
}

#[derive(rpc::Protocol)]
#[rpc(name = "layered", version = 1)]
enum Layered {
    Do(Do),
    #[rpc(stream)]
    Count(Count),
}

#[derive(Clone, Default)]
struct Doer(Arc<Works>);

#[derive(Default)]
struct Works {
    seen: AtomicU64,
    stopped: AtomicU64,
    started: Notify,
}

struct OnDrop(Arc<Works>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.stopped.fetch_add(1, Ordering::SeqCst);
    }
}

impl LayeredHandler for Doer {
    async fn r#do(&self, m: Do) -> Result<String, Never> {
        self.0.seen.fetch_add(1, Ordering::SeqCst);
        tracing::info!("handled");
        if m.what == "hang" {
            let _stopped = OnDrop(self.0.clone());
            self.0.started.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(m.what)
    }

    async fn count(&self, m: Count, items: ItemSender<u64>) -> Result<(), Never> {
        tokio::spawn(async move {
            for n in 0..m.to {
                items.send(n).await.unwrap();
            }
        });
        Ok(())
    }
}

impl Works {
    fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }
}

fn told(what: &str) -> Do {
    Do { what: what.into() }
}

async fn served(name: &str) -> (Client<Layered>, Arc<Works>, Server) {
    let (address, doer) = (Address::mem(name), Doer::default());
    let server = rpc::serve::<Layered>(&address, doer.clone()).await.unwrap();
    (Client::new(&address), doer.0, server)
}

#[tokio::test(start_paused = true)]
async fn layers_of_tower_work_around_a_client() {
    let (client, works, _server) = served("tower-client").await;
    let mut layered = ServiceBuilder::new()
        .load_shed()
        .layer(RateLimitLayer::new(100, Duration::from_secs(1)))
        .concurrency_limit(2)
        .timeout(Duration::from_secs(3))
        .service(client.clone());
    assert_eq!(ServiceExt::<Do>::ready(&mut layered).await.unwrap().call(told("a")).await.unwrap(), "a");

    // A timeout drops the call, and that stops its handler.
    let error = ServiceExt::<Do>::ready(&mut layered).await.unwrap().call(told("hang")).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    assert_eq!(client.call(told("b")).await.unwrap(), "b");
    assert_eq!((works.seen(), works.stopped.load(Ordering::SeqCst)), (3, 1));

    // What is the call's own is found again in the boxed error.
    let nobody = Client::<Layered>::new(&Address::mem("tower-nobody"));
    let error = ServiceBuilder::new().timeout(Duration::from_secs(3)).service(nobody).oneshot(told("x")).await;
    let error = error.unwrap_err().downcast::<CallError<Do>>().unwrap();
    assert!(matches!(*error, CallError::NotDelivered(NotDelivered::NoListener { .. })), "{error}");
}

/// Sends again what was not delivered, and nothing else.
#[derive(Clone)]
struct NotDeliveredOnly {
    left: u32,
    tries: Arc<AtomicU64>,
}

impl Policy<Do, String, CallError<Do>> for NotDeliveredOnly {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Do, result: &mut Result<String, CallError<Do>>) -> Option<Ready<()>> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        self.left = self.left.checked_sub(1)?;
        matches!(result, Err(CallError::NotDelivered(_))).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Do) -> Option<Do> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn retry_of_tower_repeats_what_was_not_delivered() {
    let nobody = Client::<Layered>::new(&Address::mem("tower-retry"));
    let policy = NotDeliveredOnly { left: 3, tries: Arc::default() };
    let layered = ServiceBuilder::new().retry(policy.clone()).service(nobody);
    assert!(matches!(layered.oneshot(told("x")).await, Err(CallError::NotDelivered(_))));
    assert_eq!(policy.tries.load(Ordering::SeqCst), 4, "three repeats, and the last answer");
}

#[tokio::test]
async fn client_is_ready_when_its_window_has_room() {
    let (address, doer) = (Address::mem("tower-room"), Doer::default());
    let _server = rpc::serve::<Layered>(&address, doer.clone()).await.unwrap();
    let limits = Limits { window: 1, parked_max: 0, ..Limits::default() };
    let mut client = Client::<Layered>::with_limits(&address, limits);
    let ready =
        |client: &mut Client<Layered>| ServiceExt::<Do>::ready(client).map(|ready| ready.is_ok()).now_or_never();
    assert_eq!(ready(&mut client), Some(true));
    let mut hangs = Box::pin(client.call(told("hang")));
    assert!(futures::poll!(&mut hangs).is_pending());
    doer.0.started.notified().await;
    assert_eq!(ready(&mut client), None, "its only place is taken");
    let mut waiter = client.clone();
    let waits = tokio::spawn(async move { ServiceExt::<Do>::ready(&mut waiter).await.is_ok() });
    tokio::task::yield_now().await;
    drop(hangs);
    assert!(tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap().unwrap(), "it is woken");
}

#[tokio::test]
async fn call_that_a_layer_sheds_is_not_delivered_and_no_handler_sees_it() {
    let (address, doer) = (Address::mem("tower-shed"), Doer::default());
    let shed = ServiceBuilder::new().load_shed().concurrency_limit(1).into_inner();
    let _server = Server::builder::<Layered>(doer.clone()).layer(shed).serve(&address).await.unwrap();
    let client = Client::<Layered>::new(&address);
    let mut hangs = Box::pin(client.call(told("hang")));
    assert!(futures::poll!(&mut hangs).is_pending());
    doer.0.started.notified().await;
    let shed = client.call(told("a")).await;
    assert!(matches!(shed, Err(CallError::NotDelivered(NotDelivered::Overloaded { retry_after: None }))), "{shed:?}");
    assert_eq!(doer.0.seen(), 1);
    // Once there is room again, the same layers let it through, streams too.
    drop(hangs);
    let (_, items) = loop {
        match client.open(Count { to: 4 }).await {
            Err(CallError::NotDelivered(_)) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(items.count().await, 4);
}

#[tokio::test(start_paused = true)]
async fn timeout_of_a_layer_is_unknown_if_a_handler_had_the_request_and_not_delivered_if_none_had() {
    let (address, doer) = (Address::mem("tower-timeout"), Doer::default());
    // Two wait in the buffer behind one that runs.
    let layers = ServiceBuilder::new().timeout(Duration::from_secs(2)).buffer(8).concurrency_limit(1).into_inner();
    let _server = Server::builder::<Layered>(doer.clone()).layer(layers).serve(&address).await.unwrap();
    let client = Client::<Layered>::new(&address);
    let (ran, waited) = futures::join!(client.call(told("hang")), client.call(told("waits")));
    let Err(CallError::Unknown(doubt)) = &ran else { panic!("{ran:?}") };
    assert_eq!(doubt.cause(), Cause::Aborted);
    assert_eq!(doer.0.stopped.load(Ordering::SeqCst), 1, "its handler was stopped");
    assert!(matches!(waited, Err(CallError::NotDelivered(NotDelivered::Overloaded { .. }))), "{waited:?}");
    // It left the buffer when there was room: too late to be handled.
    assert_eq!(client.call(told("next")).await.unwrap(), "next");
    assert_eq!(doer.0.seen(), 2, "what was said to be not delivered is never handled");
}

/// Gives a call up at once, and all the same passes it on later.
#[derive(Clone)]
struct Careless<S> {
    inner: S,
    later: Arc<Notify>,
    passed_on: Arc<Notify>,
}

impl<S> Service<Exchange<Layered>> for Careless<S>
where
    S: Service<Exchange<Layered>, Response = Answer> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = Ready<Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, exchange: Exchange<Layered>) -> Self::Future {
        let mut this = self.clone();
        tokio::spawn(async move {
            this.later.notified().await;
            let _ = this.inner.call(exchange).await;
            this.passed_on.notify_one();
        });
        ready(Err("no time".into()))
    }
}

#[tokio::test]
async fn call_that_was_given_up_cannot_be_handled_later_wherever_it_waits() {
    let (address, doer) = (Address::mem("tower-careless"), Doer::default());
    let (later, passed_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let layer = {
        let (later, passed_on) = (Arc::clone(&later), Arc::clone(&passed_on));
        tower::layer::layer_fn(move |inner| Careless {
            inner,
            later: Arc::clone(&later),
            passed_on: Arc::clone(&passed_on),
        })
    };
    let _server = Server::builder::<Layered>(doer.clone()).layer(layer).serve(&address).await.unwrap();
    let answer = Client::<Layered>::new(&address).call(told("a")).await;
    assert!(matches!(answer, Err(CallError::NotDelivered(_))), "{answer:?}");
    later.notify_one();
    tokio::time::timeout(Duration::from_secs(20), passed_on.notified()).await.unwrap();
    assert_eq!(doer.0.seen(), 0, "it was said that no handler would see it");
}

#[tokio::test]
async fn layer_sees_which_method_is_called_and_by_whom() {
    let (address, doer) = (Address::mem("tower-sees"), Doer::default());
    let (seen, mut methods) = tokio::sync::mpsc::channel(8);
    let looks = ServiceBuilder::new().map_request(move |exchange: Exchange<Layered>| {
        assert!(exchange.context().deadline > std::time::Instant::now());
        seen.try_send(exchange.method().unwrap().name).unwrap();
        exchange
    });
    let outer = ServiceBuilder::new().timeout(Duration::from_secs(60)).into_inner();
    let server = Server::builder::<Layered>(doer).layer(looks.into_inner()).layer(outer);
    let _server = server.serve(&address).await.unwrap();
    let client = Client::<Layered>::new(&address);
    client.call(told("a")).await.unwrap();
    let (_, items) = client.open(Count { to: 1 }).await.unwrap();
    drop(items);
    assert_eq!((methods.recv().await, methods.recv().await), (Some("do"), Some("count")));
}

/// Opens a span around whatever it is put around: a layer that knows nothing of this crate.
#[derive(Clone)]
struct Traced<S>(S);

impl<S: Service<R>, R> Service<R> for Traced<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let span = info_span!("of the layer");
        span.in_scope(|| self.0.call(request)).instrument(span)
    }
}

/// The names of the spans around each span and each event, outermost first.
#[derive(Clone, Default)]
struct Scopes(Arc<Mutex<Vec<Vec<&'static str>>>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Scopes {
    fn on_new_span(&self, _: &tracing::span::Attributes<'_>, id: &tracing::span::Id, context: Context<'_, S>) {
        let names = context.span(id).unwrap().scope().from_root().map(|span| span.name()).collect();
        self.0.lock().unwrap().push(names);
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        if event.metadata().target().starts_with("tower") {
            let scope = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
            self.0.lock().unwrap().push(scope.map(|span| span.name()).chain(["event"]).collect());
        }
    }
}

#[tokio::test]
async fn tracing_layers_span_the_call_and_the_handler() {
    let scopes = Scopes::default();
    // Two subscribers: as long as there is one, what another test's thread comes to first is asked of that thread's, which has
    // none, and then is silent for all.
    let _other = tracing::Dispatch::new(Registry::default());
    let _guard = tracing::subscriber::set_default(Registry::default().with(scopes.clone()));
    let address = Address::mem("tower-traced");
    let server = Server::builder::<Layered>(Doer::default()).layer(tower::layer::layer_fn(Traced));
    let _server = server.serve(&address).await.unwrap();
    let client = Client::<Layered>::new(&address);

    assert_eq!(Traced(client.clone()).oneshot(told("a")).await.unwrap(), "a");
    let seen = std::mem::take(&mut *scopes.0.lock().unwrap());
    for expected in
        [["of the layer", "call"].as_slice(), &["handle", "of the layer"], &["handle", "of the layer", "event"]]
    {
        assert!(seen.iter().any(|scope| scope == expected), "no {expected:?} in {seen:?}");
    }

    // The same out of what tower and tracing bring along.
    let layered =
        ServiceBuilder::new().map_future(|call: rpc::Call<Do>| call.instrument(info_span!("future"))).service(client);
    assert_eq!(layered.oneshot(told("b")).await.unwrap(), "b");
    let seen = std::mem::take(&mut *scopes.0.lock().unwrap());
    assert!(seen.iter().any(|scope| scope == &["future", "call"]), "{seen:?}");
}

/// A service of its own: takes the request, gives it to somebody else, or fails, before and after.
async fn by_hand(exchange: Exchange<Layered>) -> Result<Answer, BoxError> {
    if exchange.method().unwrap().name == "count" {
        drop(exchange);
        return Ok(Answer::Deferred);
    }
    if exchange.context().request_id.0 == 1 {
        return Err("not today".into());
    }
    if exchange.context().request_id.0 == 2 {
        let Some(LayeredCall::Do(m, responder)) = exchange.into_call() else { return Err("gone".into()) };
        responder.ack(format!("{} elsewhere", m.what));
        return Err("too late to be heard".into());
    }
    match exchange.take() {
        Some(Layered::Do(m)) if m.what == "fail" => Err("after it was taken".into()),
        Some(Layered::Do(m)) => Ok(Answer::of::<Do>(Ok(m.what))),
        _ => Err("gone".into()),
    }
}

#[tokio::test]
async fn service_of_ones_own_is_answered_for_once_and_honestly() {
    let address = Address::mem("tower-own");
    let own = Served::<Layered>::from_tower(tower::service_fn(by_hand));
    let server = Server::of(own).serve(&address).await.unwrap();
    let client = Client::<Layered>::new(&address);
    let refused = client.call(told("1")).await;
    assert!(matches!(refused, Err(CallError::NotDelivered(NotDelivered::Overloaded { .. }))), "{refused:?}");
    assert_eq!(client.call(told("2")).await.unwrap(), "2 elsewhere");
    assert_eq!(client.call(told("3")).await.unwrap(), "3");
    assert!(matches!(client.call(told("fail")).await, Err(CallError::Unknown(_))));
    let dropped = client.call(Count { to: 1 }).await;
    assert!(matches!(dropped, Err(CallError::NotDelivered(NotDelivered::Unavailable(_)))), "{dropped:?}");
    // Each was answered once: nothing is late, nothing runs.
    assert_eq!(server.counters().late_answers, 0);
    tokio::time::timeout(Duration::from_secs(20), server.drain()).await.unwrap();
}
