//! Repeating, resolving, and never saying *not delivered* of what may have been applied.

use std::time::Duration;

use futures::future::join_all;
use rpc::{Address, Backoff, CallError, Cause, Client, Jitter, NotDelivered, Retry, Stage};
use tokio::time::Instant;

use crate::proxy::Proxy;
use crate::support::{Add, Count, Set, Sums, SumsHandler, Works, add, set, soon, unix, until};
use std::future::Future;

const MINUTE: Duration = Duration::from_secs(60);

/// Serves at an address whose last server is on its way out, without letting time pass.
async fn serve(address: &Address, works: &Works) -> rpc::Server {
    loop {
        if let Ok(server) = rpc::serve::<Sums>(address, works.clone()).await {
            return server;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn call_waits_for_a_service_that_is_not_there_yet() {
    let address = Address::mem("not_there_yet");
    let works = Works::default();
    let client = Client::<Sums>::new(&address);
    let mut call = client.call(add("")).deadline(MINUTE).retry(Retry::not_delivered());
    assert_eq!(call.attempts(), 0);
    assert!(tokio::time::timeout(Duration::from_secs(7), &mut call).await.is_err(), "nobody is there");
    let before = call.attempts();
    assert!((7..100).contains(&before), "between two attempts lies a pause of at most a second: {before}");
    let _server = serve(&address, &works).await;
    assert_eq!((&mut call).await.unwrap(), 1);
    assert_eq!((call.attempts(), works.applied()), (before + 1, 1));
}

#[tokio::test(start_paused = true)]
async fn attempts_end_by_the_deadline_with_the_last_reason() {
    let client = Client::<Sums>::new(&Address::mem("never_there"));
    for (retry, least) in
        [(Retry::none(), 1), (Retry::not_delivered().attempts_max(3), 3), (Retry::not_delivered(), 10)]
    {
        let started = Instant::now();
        let mut call = client.call(add("")).deadline(Duration::from_secs(10)).retry(retry);
        let error = (&mut call).await.unwrap_err();
        assert!(matches!(error, CallError::NotDelivered(NotDelivered::NoListener { .. })), "{error:?}");
        assert!(call.attempts() >= least && (least == 10 || call.attempts() == least), "{}", call.attempts());
        assert!(started.elapsed() <= Duration::from_secs(10), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn request_that_can_never_be_taken_is_sent_once() {
    let w = unix().await;
    let limits = rpc::Limits { frame_bytes_max: 1000, ..rpc::Limits::default() };
    let client = Client::<Sums>::with_limits(w.server.address(), limits);
    let mut call = client.call(set(&"x".repeat(2000))).deadline(MINUTE).retry(Retry::idempotent());
    let error = soon(&mut call).await.unwrap_err();
    assert!(matches!(error, CallError::NotDelivered(NotDelivered::TooLarge { .. })), "{error:?}");
    assert_eq!(call.attempts(), 1);
    let mut call = client.call(set("full")).deadline(MINUTE).retry(Retry::idempotent());
    assert!(matches!(soon(&mut call).await, Err(CallError::Rejected(_))));
    assert_eq!(call.attempts(), 1, "a rejection is an outcome");
}

#[tokio::test]
async fn doubt_about_an_unreachable_server_is_resolved_and_the_request_applied_once() {
    let w = unix().await;
    let mut proxy = Proxy::to(w.server.address(), false);
    let client = Client::<Sums>::new(&proxy.address);
    let mut call = client.call(add("wait")).deadline(MINUTE).retry(Retry::not_delivered().and_resolve());
    let working = async {
        until("the handler has begun", || w.works.started() == 1).await;
        proxy.close().await;
        w.works.release();
        until("it is applied while nobody can hear of it", || w.works.applied() == 1).await;
        until("the client has asked in vain", || client.lanes()[0].counters.unreachable > 0).await;
        proxy.open();
    };
    let (sum, ()) = soon(async { tokio::join!(&mut call, working) }).await;
    assert_eq!(sum.unwrap(), 1);
    assert_eq!((call.attempts(), w.works.started()), (1, 1));
}

#[tokio::test]
async fn doubt_without_a_policy_ends_the_call_when_the_server_cannot_be_reached() {
    let w = unix().await;
    let mut proxy = Proxy::to(w.server.address(), false);
    let client = Client::<Sums>::new(&proxy.address);
    let call = tokio::spawn(client.call(add("wait")).deadline(MINUTE).retry(Retry::not_delivered()));
    until("the handler has begun", || w.works.started() == 1).await;
    proxy.close().await;
    let Err(CallError::Unknown(doubt)) = soon(call).await.unwrap() else { panic!("a doubt") };
    assert_eq!((doubt.cause(), doubt.attempts()), (Cause::ConnectionLost, 1));
    assert!(doubt.last_error().is_none());
    proxy.open();
    w.works.release();
    assert_eq!(soon(doubt.resolve()).await.unwrap(), 1);
}

/// A call that was in the hands of a server which went. It pauses for a second, then for two, four, ...
async fn lost_with_its_server(address: &Address) -> (Client<Sums>, rpc::Call<Set>) {
    let first = Works::default();
    let server = serve(address, &first).await;
    let client = Client::<Sums>::new(address);
    let second = Duration::from_secs(1);
    let backoff = Backoff { first: second, max: second * 8, factor: 2, jitter: Jitter::None };
    let mut call = client.call(set("wait")).deadline(MINUTE).retry(Retry::idempotent().backoff(backoff));
    during(&mut call, until("the handler has begun", || first.started() == 1)).await;
    drop(server);
    (client, call)
}

/// Goes on with a call that cannot end yet, until something else has happened.
async fn during<R: rpc::Request<Ack = u64>>(call: &mut rpc::Call<R>, other: impl Future<Output = ()>) {
    tokio::select! {
        outcome = call => panic!("not yet: {outcome:?}"),
        () = other => {}
    }
}

#[tokio::test(start_paused = true)]
async fn idempotent_request_whose_server_restarted_is_sent_again() {
    let address = Address::mem("restarted");
    let (_client, mut call) = lost_with_its_server(&address).await;
    let second = Works::default();
    let _server = serve(&address, &second).await;
    second.release();
    assert_eq!((&mut call).await.unwrap(), 1);
    assert_eq!((call.attempts(), second.started()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn other_request_whose_server_restarted_is_never_sent_again() {
    let address = Address::mem("restarted_once");
    let first = Works::default();
    let server = serve(&address, &first).await;
    let client = Client::<Sums>::new(&address);
    let mut call = client.call(add("wait")).deadline(MINUTE).retry(Retry::not_delivered().and_resolve());
    assert!(futures::poll!(&mut call).is_pending());
    until("the handler has begun", || first.started() == 1).await;
    drop(server);
    let second = Works::default();
    let _server = serve(&address, &second).await;
    let Err(CallError::Unknown(doubt)) = (&mut call).await else { panic!("a doubt") };
    assert_eq!((doubt.cause(), doubt.attempts()), (Cause::PeerRestarted, 1));
    assert_eq!(second.started(), 0);
}

#[tokio::test(start_paused = true)]
async fn attempt_that_is_not_delivered_hides_no_earlier_doubt() {
    let address = Address::mem("lost_then_refused");
    let (_client, mut call) = lost_with_its_server(&address).await;
    let second = serve(&address, &Works::default()).await;
    // It says that it remembers nothing, and is gone before the next attempt.
    during(&mut call, until("the second server is asked", || second.connections() == 1)).await;
    during(&mut call, tokio::time::sleep(Duration::from_millis(100))).await;
    drop(second);
    // The third speaks of another service: what is sent there is not delivered, for a reason that stays.
    let _other = loop {
        if let Ok(server) = rpc::serve::<other::Other>(&address, other::Handler).await {
            break server;
        }
        tokio::task::yield_now().await;
    };
    let Err(CallError::Unknown(doubt)) = (&mut call).await else { panic!("it may have been applied") };
    assert_eq!((doubt.cause(), doubt.attempts()), (Cause::PeerRestarted, 2));
    let Some(CallError::NotDelivered(why)) = doubt.last_error() else { panic!("{doubt}") };
    assert!(matches!(why, NotDelivered::Incompatible { refusal: rpc::Refusal::Service, .. }), "{why:?}");
    assert!(doubt.to_string().contains("another service"), "{doubt}");
    assert!(matches!(doubt.resolve().await, Err(CallError::Unknown(_))), "asking once more clears nothing");
}

mod other {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 1, ack = ())]
    pub(super) struct Nothing;

    #[derive(rpc::Protocol)]
    #[rpc(name = "other", version = 1)]
    pub(super) enum Other {
        Nothing(Nothing),
    }

    pub(super) struct Handler;
    impl OtherHandler for Handler {
        async fn nothing(&self, _: Nothing) -> Result<(), rpc::Never> {
            Ok(())
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_listener_after_a_lost_attempt_is_a_doubt_that_tells_both() {
    let address = Address::mem("lost_then_gone");
    let (_client, mut call) = lost_with_its_server(&address).await;
    let server = serve(&address, &Works::default()).await;
    during(&mut call, until("the second server is asked", || server.connections() == 1)).await;
    during(&mut call, tokio::time::sleep(Duration::from_millis(100))).await;
    drop(server);
    let Err(CallError::Unknown(doubt)) = (&mut call).await else { panic!("it may have been applied") };
    assert_eq!((doubt.stage() >= Stage::Written, doubt.cause()), (true, Cause::PeerRestarted));
    let Some(CallError::NotDelivered(NotDelivered::NoListener { .. })) = doubt.last_error() else {
        panic!("{doubt:?}: {:?}", doubt.last_error())
    };
    assert!(doubt.attempts() > 1);
    assert!(doubt.to_string().contains("nothing listens"), "{doubt}");
}

#[tokio::test(start_paused = true)]
async fn rejection_of_a_repeated_request_clears_no_earlier_doubt() {
    let address = Address::mem("lost_then_rejected");
    let first = Works::default();
    let server = serve(&address, &first).await;
    let client = Client::<Sums>::new(&address);
    let mut call = client.call(set("wait")).deadline(MINUTE).retry(Retry::idempotent());
    assert!(futures::poll!(&mut call).is_pending());
    until("the handler has begun", || first.started() == 1).await;
    drop(server);
    let _server = loop {
        if let Ok(server) = rpc::serve::<Sums>(&address, Full).await {
            break server;
        }
        tokio::task::yield_now().await;
    };
    let Err(CallError::Unknown(doubt)) = (&mut call).await else { panic!("the first one may have been applied") };
    assert_eq!((doubt.cause(), doubt.attempts()), (Cause::PeerRestarted, 2));
    assert!(matches!(doubt.last_error(), Some(CallError::Rejected(crate::support::Full))), "{doubt:?}");
}

/// Rejects everything.
struct Full;
impl SumsHandler for Full {
    async fn add(&self, _: Add) -> Result<u64, crate::support::Full> {
        Err(crate::support::Full)
    }

    async fn set(&self, _: Set) -> Result<u64, crate::support::Full> {
        Err(crate::support::Full)
    }

    async fn count(&self, _: Count, _: rpc::ItemSender<u64>) -> Result<(), rpc::Never> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn stream_is_opened_once_its_service_is_there() {
    use futures::StreamExt;
    let address = Address::mem("stream_later");
    let client = Client::<Sums>::new(&address);
    let opening = tokio::spawn(client.call(Count { to: 10 }).deadline(MINUTE).retry(Retry::not_delivered()).open());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let _server = serve(&address, &Works::default()).await;
    let ((), items) = opening.await.unwrap().unwrap();
    let items: Vec<u64> = items.map(Result::unwrap).collect().await;
    assert!(items.into_iter().eq(0..10));
}

#[tokio::test(start_paused = true)]
async fn herd_of_clients_that_lost_one_server_does_not_come_back_in_step() {
    let address = Address::mem("herd");
    let first = Works::default();
    let server = serve(&address, &first).await;
    let backoff =
        Backoff { first: Duration::from_secs(1), max: Duration::from_secs(10), factor: 2, jitter: Jitter::Full };
    let clients: Vec<_> = (0..100).map(|_| Client::<Sums>::builder(&address).backoff(backoff).build()).collect();
    let calls: Vec<_> = clients
        .iter()
        .map(|client| {
            let call = client.call(add("wait")).deadline(MINUTE);
            tokio::spawn(async move {
                // A call learns of the other server by the next connection, at once.
                let Err(CallError::Unknown(doubt)) = call.await else { panic!("a doubt") };
                assert_eq!(doubt.cause(), Cause::PeerRestarted);
                Instant::now()
            })
        })
        .collect();
    until("all handlers have begun", || first.started() == 100).await;
    // So long that every connection counts as one that held.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let lost_at = Instant::now();
    drop(server);
    let _server = serve(&address, &Works::default()).await;
    assert_eq!(lost_at, Instant::now(), "nobody has met an address without a server");
    let mut back: Vec<_> = join_all(calls).await.into_iter().map(|at| (at.unwrap() - lost_at).as_millis()).collect();
    back.sort_unstable();
    assert!(back.iter().all(|after| (1..=1001).contains(after)), "each within its first pause: {back:?}");
    let in_step = back.chunk_by(|a, b| a == b).map(<[_]>::len).max();
    assert!(in_step < Some(5), "of 100 clients {in_step:?} come in one of 1000 milliseconds: {back:?}");
    assert!(back[10] < 300 && back[90] > 700, "spread over all of the pause: {back:?}");
}
