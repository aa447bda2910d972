//! What becomes of calls in reverse when something ends: the connection, the client, the server, the lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rpc::{Address, CallError, Cause, Limits, NotDelivered};

use crate::world::{AskBack, Back, Do, Done, Turn, World, body, each, soon, until};

#[tokio::test]
async fn cut_connection_stops_no_reverse_handler_and_its_answer_comes_on_the_next_one() {
    let (world, mut wire) = World::with_wire(Limits::default()).await;
    let back = world.back().await;
    for round in 1..=5 {
        let calls: Vec<_> = (0..10).map(|n| tokio::spawn(back.call(Do { n, ..Do::how("wait") }))).collect();
        let ask = tokio::spawn(world.client.call(AskBack { how: "wait".into() }));
        until("all run", || world.works.started.load(Ordering::SeqCst) == round * 11).await;
        wire.cut().await;
        world.works.release.notify_waiters();
        until("all have ended", || world.works.applied.load(Ordering::SeqCst) == round * 11).await;
        wire.mend();
        for (n, call) in (0..).zip(calls) {
            assert_eq!(soon(call).await.unwrap().unwrap(), Done(n), "round {round}");
        }
        assert_eq!(soon(ask).await.unwrap().unwrap(), 1, "and so does the call that waited for one");
    }
    assert_eq!(world.works.applied.load(Ordering::SeqCst), 55, "each is applied once");
    assert_eq!(world.client.counters().connections, 6);
}

#[tokio::test]
async fn wire_cut_at_random_moments_under_load_applies_no_reverse_call_twice() {
    let (world, mut wire) = World::with_wire(Limits::default()).await;
    let back = world.back().await;
    let over = Arc::new(AtomicBool::new(false));
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let (back, over) = (back.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let (mut acked, mut unknown) = (0_u64, 0_u64);
                for n in (0..).take_while(|_| !over.load(Ordering::SeqCst)) {
                    match back.call(Do { body: body(3000), ..Do::at_once(n) }).await {
                        Ok(Done(done)) => {
                            assert_eq!(done, n);
                            acked += 1;
                        }
                        Err(CallError::Unknown(_)) => unknown += 1,
                        Err(CallError::NotDelivered(_)) => tokio::task::yield_now().await,
                        Err(other) => panic!("{other:?}"),
                    }
                }
                (acked, unknown)
            })
        })
        .collect();
    let applied = || world.works.applied.load(Ordering::SeqCst);
    for n in 0..10 {
        let next = applied() + 1 + n * 7 % 40;
        until("the calls go on", || applied() >= next).await;
        wire.cut().await;
        wire.mend();
    }
    over.store(true, Ordering::SeqCst);
    let (mut acked, mut unknown) = (0, 0);
    for call in calls {
        let (a, u) = soon(call).await.unwrap();
        (acked, unknown) = (acked + a, unknown + u);
    }
    let applied = applied();
    assert!((acked..=acked + unknown).contains(&applied), "{applied} applied, {acked} acked, {unknown} unknown");
    assert!(acked > 0);
}

#[tokio::test]
async fn client_dropped_while_reverse_handlers_run_lets_them_end_and_answer() {
    for world in each("dropped").await {
        let back = world.back().await;
        let calls: Vec<_> = (0..10).map(|n| tokio::spawn(back.call(Do { n, ..Do::how("wait") }))).collect();
        until("all run", || world.works.started.load(Ordering::SeqCst) == 10).await;
        let World { works, server, client, .. } = world;
        drop(client);
        let late = soon(async {
            loop {
                match back.call(Do::at_once(1)).await {
                    Ok(_) => tokio::task::yield_now().await,
                    Err(error) => return error,
                }
            }
        });
        let late = late.await;
        assert!(matches!(late, CallError::NotDelivered(NotDelivered::Draining)), "{late:?}");
        works.release.notify_waiters();
        for (n, call) in (0..).zip(calls) {
            assert_eq!(soon(call).await.unwrap().unwrap(), Done(n));
        }
        until("the connection is closed", || server.connections() == 0).await;
        let gone = soon(back.call(Do::at_once(1))).await.unwrap_err();
        assert!(matches!(gone, CallError::NotDelivered(NotDelivered::ConnectionLost)), "{gone:?}");
    }
}

#[tokio::test]
async fn server_that_drains_waits_for_handlers_that_call_back() {
    for world in each("drains").await {
        let asks: Vec<_> = (0..5).map(|_| tokio::spawn(world.client.call(AskBack { how: "wait".into() }))).collect();
        until("all run", || world.works.started.load(Ordering::SeqCst) == 5).await;
        let World { works, server, client, directory, .. } = world;
        let drain = tokio::spawn(server.drain());
        let refused = soon(async {
            loop {
                match client.call(Turn { depth: 0, body: body(0) }).await {
                    Ok(_) => tokio::task::yield_now().await,
                    Err(error) => return error,
                }
            }
        });
        let refused = refused.await;
        assert!(matches!(refused, CallError::NotDelivered(NotDelivered::Draining)), "{refused:?}");
        works.release.notify_waiters();
        for ask in asks {
            assert_eq!(soon(ask).await.unwrap().unwrap(), 1, "its reverse call was acked");
        }
        soon(drain).await.unwrap();
        drop(directory);
    }
}

#[tokio::test]
async fn client_that_loses_its_connection_to_a_draining_server_comes_back_for_its_answers() {
    let (world, mut wire) = World::with_wire(Limits::default()).await;
    let ask = tokio::spawn(world.client.call(AskBack { how: "wait".into() }));
    until("it runs", || world.works.started.load(Ordering::SeqCst) == 1).await;
    let World { works, server, client, directory, .. } = world;
    let drain = tokio::spawn(server.drain());
    soon(async {
        while client.call(Turn { depth: 0, body: body(0) }).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    wire.cut().await;
    wire.mend();
    until("it is let in again", || client.counters().connections == 2).await;
    works.release.notify_waiters();
    assert_eq!(soon(ask).await.unwrap().unwrap(), 1, "its reverse call was acked, and so was it");
    soon(drain).await.unwrap();
    drop(directory);
}

#[tokio::test]
async fn reverse_calls_of_a_server_that_stops_end_at_once() {
    for world in each("stops").await {
        let back = world.back().await;
        let open = tokio::spawn(back.call(Do::how("hang")).deadline(Duration::from_secs(600)));
        until("it runs", || world.works.started.load(Ordering::SeqCst) == 1).await;
        drop(world.server);
        let Err(CallError::Unknown(doubt)) = soon(open).await.unwrap() else { panic!("a doubt") };
        assert_eq!(doubt.cause(), Cause::ConnectionLost);
        let Err(CallError::Unknown(doubt)) = soon(doubt.resolve()).await else { panic!("still a doubt") };
        assert_eq!(doubt.cause(), Cause::ConnectionLost);
        let late = soon(back.call(Do::at_once(1))).await.unwrap_err();
        assert!(matches!(late, CallError::NotDelivered(NotDelivered::ConnectionLost)), "{late:?}");
    }
}

#[tokio::test]
async fn reverse_call_without_a_connection_ends_by_its_deadline() {
    let (world, mut wire) = World::with_wire(Limits::default()).await;
    let back = world.back().await;
    let open = tokio::spawn(back.call(Do::how("hang")).deadline(Duration::from_millis(300)));
    until("it runs", || world.works.started.load(Ordering::SeqCst) == 1).await;
    wire.cut().await;
    until("the server has noticed", || world.server.connections() == 0).await;
    let Err(CallError::Unknown(doubt)) = soon(open).await.unwrap() else { panic!("a doubt") };
    assert_eq!(doubt.cause(), Cause::Deadline);
    let queued = soon(back.call(Do::at_once(1)).deadline(Duration::from_millis(50))).await.unwrap_err();
    assert!(matches!(queued, CallError::NotDelivered(NotDelivered::NotWritten)), "{queued:?}");
}

#[tokio::test]
async fn reverse_call_waits_for_a_client_that_comes_back() {
    let (world, mut wire) = World::with_wire(Limits::default()).await;
    let back = world.back().await;
    wire.cut().await;
    until("the server has noticed", || world.server.connections() == 0).await;
    let queued = tokio::spawn(back.call(Do::at_once(3)));
    wire.mend();
    assert_eq!(soon(queued).await.unwrap().unwrap(), Done(3), "nobody calls forth: it comes back by itself");
}

#[tokio::test]
async fn forgotten_lane_ends_its_reverse_calls() {
    let limits = Limits {
        lane_retention: Duration::from_millis(100),
        handshake_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let (world, mut wire) = World::with_wire(limits).await;
    let back = world.back().await;
    let open = tokio::spawn(back.call(Do::how("hang")).deadline(Duration::from_secs(600)));
    until("it runs", || world.works.started.load(Ordering::SeqCst) == 1).await;
    wire.cut().await;
    let Err(CallError::Unknown(doubt)) = soon(open).await.unwrap() else { panic!("a doubt") };
    assert_eq!(doubt.cause(), Cause::ConnectionLost);
}

#[tokio::test]
async fn restarted_server_is_called_back_on_a_fresh_lane() {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("d/s"));
    let build = |builder: rpc::ClientBuilder<crate::world::Forth>, works: &std::sync::Arc<crate::world::Works>| {
        builder.serves::<Back>(crate::world::Answers(works.clone()))
    };
    let world = World::start(address.clone(), address.clone(), Some(directory), Limits::default(), build).await;
    let back = world.back().await;
    let first = tokio::spawn(back.call(Do::how("wait")));
    until("it runs", || world.works.started.load(Ordering::SeqCst) == 1).await;
    let World { works, server, client, directory, .. } = world;
    drop(server);
    assert!(matches!(soon(first).await.unwrap(), Err(CallError::Unknown(_))));
    // A dropped server frees its address when the runtime has run.
    until("the address is free", || !address.path().unwrap().exists()).await;
    let second = World::start(address.clone(), address.clone(), None, Limits::default(), build).await;
    // The old client finds the new server.
    let hops = soon(async {
        loop {
            match client.call(Turn { depth: 3, body: body(1) }).await {
                Ok(hops) => return hops,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    assert_eq!(hops.await, 3);
    // Loss is no cancel: the handler that the old server had called runs to its end.
    works.release.notify_waiters();
    until("it has ended", || works.applied.load(Ordering::SeqCst) == 1).await;
    drop((second, directory));
}
