//! How far a call has come, seen while it runs.

use std::time::Duration;

use rpc::{Address, CallError, Client, Retry, Stage};

use crate::support::{Sums, add, soon, unix, until};

#[tokio::test]
async fn stage_of_a_call_rises_by_what_arrives_anyway() {
    let w = unix().await;
    let client = Client::<Sums>::new(w.server.address());
    let mut call = client.call(add("wait"));
    assert_eq!(call.stage(), None);
    assert!(futures::poll!(&mut call).is_pending());
    assert_eq!(call.stage(), None, "it waits for the writer");
    assert!(soon(call.reached(Stage::Written)).await);
    assert!(call.stage() >= Some(Stage::Written));
    // The answer of another call tells of this one, and wakes who waits for it.
    let other = tokio::spawn(client.call(add("")));
    assert!(soon(call.reached(Stage::Received)).await);
    assert_eq!(soon(other).await.unwrap().unwrap(), 1);
    assert!(call.stage() >= Some(Stage::Received));
    w.works.release();
    assert!(soon(call.reached(Stage::Started)).await, "an ack is proof enough");
    assert_eq!(soon(&mut call).await.unwrap(), 2, "the outcome is still there");
    assert_eq!(call.stage(), Some(Stage::Started));
    assert!(soon(call.reached(Stage::Started)).await, "and what was reached stays reached");
}

#[tokio::test]
async fn waiting_for_a_stage_can_be_given_up_and_taken_up_again() {
    let w = unix().await;
    let client = Client::<Sums>::new(w.server.address());
    let mut call = client.call(add("wait"));
    for _ in 0..3 {
        let given_up = tokio::time::timeout(Duration::from_millis(20), call.reached(Stage::Started));
        // The handler's first poll may be told of, or not; a call that is given up on is not cancelled.
        let _ = given_up.await;
    }
    until("the handler has begun", || w.works.started() == 1).await;
    w.works.release();
    assert_eq!(soon(call).await.unwrap(), 1);
    assert_eq!(w.works.started(), 1);
}

#[tokio::test]
async fn call_that_is_never_written_reaches_no_stage() {
    let client = Client::<Sums>::new(&Address::mem("stages_of_nobody"));
    let mut call = client.call(add("")).retry(Retry::not_delivered().attempts_max(2));
    assert!(!soon(call.reached(Stage::Written)).await);
    assert!(!soon(call.reached(Stage::Written)).await, "asked again, the same");
    assert!(matches!(soon(&mut call).await, Err(CallError::NotDelivered(_))));
    assert_eq!((call.stage(), call.attempts()), (None, 2));
    assert!(!soon(call.reached(Stage::Written)).await, "also when it is over");
}

#[tokio::test]
async fn doubt_that_was_waited_for_and_not_taken_leaves_nothing_open() {
    let w = unix().await;
    let client = Client::<Sums>::new(w.server.address());
    for _ in 0..3 {
        let mut call = client.call(add("panic"));
        // Whether it is heard of before the call ends or not, the outcome is there afterwards, and is not taken.
        let _ = soon(call.reached(Stage::Started)).await;
        until("the outcome is known", || client.lanes()[0].open == 1).await;
        assert!(soon(call.reached(Stage::Started)).await, "its panic is proof that it had begun");
        drop(call);
    }
    until("every id is free again", || client.lanes()[0].open == 0).await;
}
