//! Several lanes of one client, and lanes that a server has dropped.

use std::time::Duration;

use futures::future::join_all;
use rpc::{Address, CallError, Cause, Client, ConnectionEnd, Limits, NotDelivered};

use crate::proxy::Proxy;
use crate::support::{Sums, Works, add, soon, unix, unix_with, until};

#[tokio::test]
async fn calls_spread_over_the_lanes_and_all_are_answered() {
    let w = unix().await;
    let client = Client::<Sums>::builder(w.server.address()).lanes(4).build();
    assert!(client.lanes().iter().all(|lane| !lane.connected && lane.epoch == 0 && lane.last_end.is_none()));
    let calls: Vec<_> = (0..40).map(|_| tokio::spawn(client.call(add("wait")))).collect();
    until("every handler has begun", || w.works.started() == 40).await;
    assert_eq!((w.server.connections(), w.server.lanes()), (4, 4));
    for (number, lane) in client.lanes().iter().enumerate() {
        assert_eq!((lane.lane as usize, lane.connected, lane.epoch, lane.open), (number, true, 1, 10));
    }
    w.works.release();
    for sum in soon(join_all(calls)).await {
        sum.unwrap().unwrap();
    }
    assert!(client.lanes().iter().all(|lane| lane.open == 0));
    drop(client);
    until("no connection is left", || w.server.connections() == 0).await;
}

#[tokio::test]
async fn busy_lane_is_passed_over() {
    let w = unix().await;
    let client = Client::<Sums>::builder(w.server.address()).lanes(2).build();
    let pinned = client.lane(0).unwrap();
    let busy: Vec<_> = (0..10).map(|_| tokio::spawn(pinned.call(add("wait")))).collect();
    until("the first lane is busy", || w.works.started() == 10).await;
    let others: Vec<_> = (0..10).map(|_| tokio::spawn(client.call(add("wait")))).collect();
    until("every handler has begun", || w.works.started() == 20).await;
    let open: Vec<usize> = client.lanes().iter().map(|lane| lane.open).collect();
    // The pinned client counts as one more user of its lane.
    assert!(open[1] >= 9 && open[0] + open[1] == 20, "{open:?}");
    w.works.release();
    for call in busy.into_iter().chain(others) {
        soon(call).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn pinned_client_calls_on_its_lane_only_and_in_order() {
    let w = unix().await;
    let client = Client::<Sums>::builder(w.server.address()).lanes(3).build();
    assert!(client.lane(3).is_none());
    let pinned = client.lane(2).unwrap();
    drop(client);
    let sums = soon(join_all((0..100).map(|_| pinned.call(add(""))))).await;
    assert!(sums.into_iter().map(Result::unwrap).eq(1..=100), "in the order of the calls");
    let lanes = pinned.lanes();
    assert_eq!((lanes.len(), lanes[0].lane, w.server.connections()), (1, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn lane_of_a_server_that_restarted_is_said_to_be_dropped() {
    let address = Address::mem("lane_restarted");
    let works = Works::default();
    let server = rpc::serve::<Sums>(&address, works.clone()).await.unwrap();
    let client = Client::<Sums>::builder(&address).lanes(2).build();
    let calls: Vec<_> =
        (0..2).map(|_| tokio::spawn(client.call(add("wait")).deadline(Duration::from_secs(60)))).collect();
    until("every handler has begun", || works.started() == 2).await;
    drop(server);
    let _next = loop {
        if let Ok(server) = rpc::serve::<Sums>(&address, works.clone()).await {
            break server;
        }
        tokio::task::yield_now().await;
    };
    for call in calls {
        let Err(CallError::Unknown(doubt)) = call.await.unwrap() else { panic!("a doubt") };
        assert_eq!(doubt.cause(), Cause::PeerRestarted);
    }
    for lane in client.lanes() {
        assert_eq!((lane.counters.restarted, lane.counters.forgotten, lane.epoch), (1, 0, 2), "{lane:?}");
        assert!(lane.connected && lane.last_end.is_some(), "{lane:?}");
    }
}

#[tokio::test]
async fn lane_that_a_living_server_forgot_is_said_to_be_dropped() {
    let w = unix_with(Limits {
        lane_retention: Duration::from_millis(20),
        handshake_timeout: Duration::from_secs(1),
        ..Limits::default()
    })
    .await;
    let mut proxy = Proxy::to(w.server.address(), false);
    let client = Client::<Sums>::new(&proxy.address);
    let call = tokio::spawn(client.call(add("wait")).deadline(Duration::from_secs(60)));
    until("the handler has begun", || w.works.started() == 1).await;
    proxy.close().await;
    let Err(CallError::Unknown(doubt)) = soon(call).await.unwrap() else { panic!("a doubt") };
    assert_eq!(doubt.cause(), Cause::ConnectionLost);
    let lane = client.lanes().remove(0);
    assert!(!lane.connected && lane.open == 1, "{lane:?}");
    let Some(ConnectionEnd::Unreachable(NotDelivered::NoListener { .. })) = lane.last_end else { panic!("{lane:?}") };
    w.works.release();
    until("it is applied", || w.works.applied() == 1).await;
    until("the lane is forgotten", || w.server.lanes() == 0).await;
    proxy.open();
    // It was applied, and the one who knew has forgotten: asking brings no "never seen".
    let Err(CallError::Unknown(doubt)) = soon(doubt.resolve()).await else { panic!("still a doubt") };
    assert_eq!(doubt.cause(), Cause::Forgotten);
    let counters = client.lanes()[0].counters;
    assert_eq!((counters.forgotten, counters.restarted), (1, 0));
    assert_eq!(soon(client.call(add(""))).await.unwrap(), 2, "the client goes on");
}
