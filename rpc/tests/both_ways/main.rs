//! Calls in both directions on one connection: what each side learns, also when the connection does not last.
#![allow(missing_docs, clippy::unwrap_used)]

mod ends;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use rpc::{Address, CallError, Cause, Client, Limits, NotDelivered, Stage};

use self::world::{Back, Count, Do, Done, Forth, Turn, World, body, each, soon, until};

#[tokio::test]
async fn call_that_goes_back_and_forth_nests_on_one_connection() {
    for world in each("nests").await {
        for depth in [1, 2, 3, 8] {
            let hops = soon(world.client.call(Turn { depth, body: body(10) })).await.unwrap();
            assert_eq!(hops, u64::from(depth), "{}", world.server.address());
        }
        assert_eq!(world.server.connections(), 1);
        assert_eq!(world.client.counters().connections, 1);
    }
}

#[tokio::test]
async fn client_kept_from_a_handler_calls_back_after_the_handler_has_returned() {
    for world in each("kept").await {
        let back = world.back().await;
        assert_eq!(soon(back.call(Do::at_once(7))).await.unwrap(), Done(7));
        let clone = back.clone();
        drop(back);
        let error = soon(tokio::spawn(async move { clone.call(Do::how("reject")).await })).await.unwrap().unwrap_err();
        assert!(matches!(&error, CallError::Rejected(world::No)), "{error:?}");
        assert_eq!(world.works.applied.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn outcomes_of_reverse_handlers_are_those_of_any_handler() {
    for world in each("outcomes").await {
        let back = world.back().await;
        let Err(CallError::Unknown(doubt)) = soon(back.call(Do::how("panic"))).await else { panic!("a doubt") };
        assert_eq!((doubt.stage(), doubt.cause()), (Stage::Started, Cause::HandlerPanicked));
        let hung = back.call(Do::how("hang")).deadline(Duration::from_millis(50));
        let Err(CallError::Unknown(doubt)) = soon(hung).await else { panic!("a doubt") };
        assert_eq!(doubt.cause(), Cause::Deadline);
        until("the handler is stopped", || world.works.dropped.load(Ordering::SeqCst) == 1).await;
        let call = tokio::spawn(back.call(Do::how("hang")));
        until("the handler runs", || world.works.started.load(Ordering::SeqCst) == 2).await;
        call.abort();
        until("a dropped call stops it", || world.works.dropped.load(Ordering::SeqCst) == 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_large_calls_each_way_at_once_are_all_answered() {
    for world in each("thousand").await {
        let back = world.back().await;
        let minute = Duration::from_secs(60);
        let forth = (0..1000).map(|_| world.client.call(Turn { depth: 0, body: body(64 << 10) }).deadline(minute));
        let reverse = (0..1000).map(|n| back.call(Do { body: body(64 << 10), ..Do::echo(n) }).deadline(minute));
        let all = async { futures::join!(futures::future::join_all(forth), futures::future::join_all(reverse)) };
        let (forth, reverse) = tokio::time::timeout(minute, all).await.expect("no side waits for the other");
        assert!(forth.iter().all(Result::is_ok), "{:?}", forth.iter().find(|ended| ended.is_err()));
        assert!(reverse.iter().all(Result::is_ok), "{:?}", reverse.iter().find(|ended| ended.is_err()));
        assert_eq!(world.works.applied.load(Ordering::SeqCst), 1000);
    }
}

#[tokio::test]
async fn client_that_serves_nothing_cannot_be_called_back_and_says_so() {
    let world = World::with(Address::mem("serves_nothing"), None, |builder| builder).await;
    let back = world.back().await;
    let error = soon(back.call(Do::at_once(1))).await.unwrap_err();
    assert!(matches!(error, CallError::NotDelivered(NotDelivered::NotServed)), "{error:?}");
    assert!(error.to_string().contains("serves"), "{error}");
    let error = soon(world.client.call(Turn { depth: 1, body: body(0) })).await;
    assert!(error.is_err(), "the nested call fails, and with it its caller");
}

#[tokio::test]
async fn methods_that_differ_are_refused_one_by_one_before_they_are_sent() {
    for address in [None, Some(Address::mem("methods_that_differ"))] {
        let world =
            World::unix_or(address, |builder| builder.serves::<world::other::Back>(world::other::Answers)).await;
        let back = world.back().await;
        let error = soon(back.call(Do::at_once(1))).await.unwrap_err();
        let expected = NotDelivered::SchemaMismatch { method: 1, version: 1 };
        assert!(matches!(&error, CallError::NotDelivered(why) if *why == expected), "{error:?}");
        let error = soon(back.call(Count { to: 1 })).await.unwrap_err();
        let expected = NotDelivered::UnknownMethod { method: 2, version: 1 };
        assert!(matches!(&error, CallError::NotDelivered(why) if *why == expected), "{error:?}");
        assert_eq!(soon(back.call(world::Same)).await.unwrap(), 5, "what both sides have works");
    }
}

#[tokio::test]
async fn stream_of_the_connecting_side_arrives_whole_and_ends() {
    for world in each("stream").await {
        let back = world.back().await;
        let (to, items) = soon(back.open(Count { to: 5000 })).await.unwrap();
        assert_eq!(to, 5000);
        let items: Vec<u64> = soon(items.map(Result::unwrap).collect()).await;
        assert!(items.into_iter().eq(0..5000));
        let (_, mut items) = soon(back.open(Count { to: u64::MAX })).await.unwrap();
        assert_eq!(soon(items.next()).await.unwrap().unwrap(), 0);
        drop(items);
        until("its producer is told", || world.works.producers_ended.load(Ordering::SeqCst) == 2).await;
    }
}

#[tokio::test]
async fn stream_goes_on_where_its_producer_has_room_for_less_than_its_reader() {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("d/s"));
    let few = Limits { stream_items: 4, ..Limits::default() };
    let world = World::start(
        address.clone(),
        address,
        Some(directory),
        Limits::default(),
        |builder, works: &Arc<world::Works>| builder.limits(few.clone()).serves::<Back>(world::Answers(works.clone())),
    )
    .await;
    let back = world.back().await;
    let (_, items) = soon(back.open(Count { to: 400 })).await.unwrap();
    let items: Vec<u64> = soon(items.map(Result::unwrap).collect()).await;
    assert!(items.into_iter().eq(0..400));
}

#[tokio::test]
async fn stream_in_reverse_holds_up_no_call_in_either_direction() {
    for world in each("unblocked").await {
        let back = world.back().await;
        let (_, _unread) = soon(back.open(Count { to: u64::MAX })).await.unwrap();
        assert_eq!(soon(back.call(Do::at_once(1))).await.unwrap(), Done(1));
        assert_eq!(soon(world.client.call(Turn { depth: 3, body: body(10) })).await.unwrap(), 3);
    }
}

#[tokio::test]
async fn actor_calls_back_through_the_responder_it_was_given() {
    let address = Address::mem("actor_calls_back");
    let (_server, mut calls) = rpc::serve_calls::<Forth>(&address, 4).await.unwrap();
    let works = std::sync::Arc::<world::Works>::default();
    let client = Client::<Forth>::builder(&address).serves::<Back>(world::Answers(works)).build();
    let call = tokio::spawn(client.call(Turn { depth: 9, body: body(0) }));
    let Some(world::ForthCall::Turn(asked, responder)) = soon(calls.recv()).await else { panic!("the call") };
    assert_eq!(asked.depth, 9);
    let back: Client<Back> = responder.caller().unwrap();
    let Done(n) = soon(back.call(Do::at_once(6))).await.unwrap();
    responder.ack(n * 7);
    assert_eq!(soon(call).await.unwrap().unwrap(), 42);
}
