//! The tools for users' tests: each outcome at will, the same each time; and a mock that fails when it should.
#![cfg(feature = "testing")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use rpc::testing::{Direction, Mock, Trouble, World};
use rpc::{CallError, Cause, Client, NotDelivered};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Serialize, Deserialize, rpc::Wire, Debug, PartialEq)]
struct Overflow;
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64, rejection = Overflow)]
struct Add {
    number: u64,
}
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = ())]
struct Wait;
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = u64, item = u64)]
struct Count {
    to: u64,
}
#[derive(rpc::Protocol)]
#[rpc(name = "sum", version = 1)]
enum Sum {
    Add(Add),
    Wait(Wait),
    #[rpc(stream)]
    Count(Count),
}

#[derive(Default)]
struct Sums {
    total: AtomicU64,
    release: Notify,
}

impl SumHandler for Arc<Sums> {
    async fn add(&self, m: Add) -> Result<u64, Overflow> {
        Ok(self.total.fetch_add(m.number, Ordering::SeqCst) + m.number)
    }
    async fn wait(&self, _: Wait) -> Result<(), rpc::Never> {
        self.release.notified().await;
        Ok(())
    }
    async fn count(&self, m: Count, _: rpc::ItemSender<u64>) -> Result<u64, rpc::Never> {
        Ok(m.to)
    }
}

fn world() -> (Arc<Sums>, World<Sum>) {
    let sums = Arc::new(Sums::default());
    (Arc::clone(&sums), World::new(sums))
}

fn calls(client: &Client<Sum>, number: u64) -> tokio::task::JoinHandle<Result<u64, CallError<Add>>> {
    let client = client.clone();
    tokio::spawn(async move { client.call(Add { number }).await })
}

#[tokio::test(start_paused = true)]
async fn request_that_never_arrived_is_not_delivered_after_a_cut() {
    let (sums, world) = world();
    world.client().call(Add { number: 1 }).await.unwrap();
    world.stall(Direction::ToServer);
    let call = calls(world.client(), 10);
    world.settle().await;
    world.cut();
    world.resume(Direction::ToServer);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::NotDelivered(NotDelivered::NeverSeen)), "{error}");
    assert_eq!(sums.total.load(Ordering::SeqCst), 1);
    assert_eq!(world.dialled(), 2);
}

#[tokio::test(start_paused = true)]
async fn request_whose_answer_was_lost_is_applied_once() {
    let (sums, world) = world();
    world.client().call(Add { number: 1 }).await.unwrap();
    world.stall(Direction::ToClient);
    let call = calls(world.client(), 10);
    world.settle().await;
    assert_eq!(sums.total.load(Ordering::SeqCst), 11);
    world.cut();
    world.resume(Direction::ToClient);
    assert_eq!(call.await.unwrap().unwrap(), 11);
    assert_eq!(sums.total.load(Ordering::SeqCst), 11);
}

#[tokio::test(start_paused = true)]
async fn restarted_server_leaves_a_doubt_and_serves_on() {
    let (_, world) = world();
    let call = tokio::spawn({
        let client = world.client().clone();
        async move { client.call(Wait).await }
    });
    world.settle().await;
    world.restart();
    let error = call.await.unwrap().unwrap_err();
    let CallError::Unknown(doubt) = error else { panic!("{error}") };
    assert!(matches!(doubt.cause(), Cause::Forgotten | Cause::PeerRestarted), "{doubt}");
    world.client().call(Add { number: 1 }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stopped_server_is_nobody() {
    let (_, world) = world();
    world.stop();
    let error = world.client().call(Add { number: 1 }).await.unwrap_err();
    assert!(matches!(error, CallError::NotDelivered(NotDelivered::NoListener { .. })), "{error}");
    world.restart();
    world.client().call(Add { number: 1 }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stalled_wire_ends_in_a_doubt_at_the_deadline() {
    let (_, world) = world();
    world.client().call(Add { number: 1 }).await.unwrap();
    world.stall(Direction::ToServer);
    let started = Instant::now();
    let error = world.client().call(Add { number: 1 }).deadline(Duration::from_secs(7)).await.unwrap_err();
    let CallError::Unknown(doubt) = error else { panic!("{error}") };
    assert_eq!(doubt.cause(), Cause::Deadline);
    assert!((Duration::from_secs(7)..Duration::from_millis(7_100)).contains(&started.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn mock_brings_about_every_outcome() {
    let mock = Mock::<Sum>::new();
    let add = |number| mock.client().call(Add { number }).deadline(Duration::from_secs(5));
    mock.expect::<Add>(|m| m.number == 1).acks(7);
    assert_eq!(add(1).await.unwrap(), 7);
    mock.expect::<Add>(|_| true).rejects(Overflow);
    assert!(matches!(add(1).await, Err(CallError::Rejected(Overflow))));
    mock.expect::<Add>(|_| true).overloaded(Duration::from_millis(30));
    let Err(CallError::NotDelivered(NotDelivered::Overloaded { retry_after })) = add(1).await else { panic!() };
    assert_eq!(retry_after, Some(Duration::from_millis(30)));
    mock.expect::<Add>(|_| true).not_taken("asleep");
    assert!(matches!(add(1).await, Err(CallError::NotDelivered(NotDelivered::Unavailable(why))) if why == "asleep"));

    let cause = async |call: rpc::Call<Add>| match call.await {
        Err(CallError::Unknown(doubt)) => doubt.cause(),
        other => panic!("{other:?}"),
    };
    mock.expect::<Add>(|_| true).fails();
    assert_eq!(cause(add(1)).await, Cause::ResponderDropped);
    mock.expect::<Add>(|_| true).never_answers();
    assert_eq!(cause(add(1)).await, Cause::Deadline);

    for trouble in [Trouble::Cut, Trouble::Garbage] {
        let dialled = mock.world().dialled();
        mock.expect::<Add>(|_| true).after(trouble).acks(9);
        assert_eq!(add(1).await.unwrap(), 9);
        mock.expect::<Add>(|_| true).acks(10);
        assert_eq!(add(1).await.unwrap(), 10);
        assert_eq!(mock.world().dialled(), dialled + 1, "{trouble:?}");
    }
    mock.expect::<Add>(|_| true).after(Trouble::Restart).never_answers();
    assert!(matches!(cause(add(1)).await, Cause::Forgotten | Cause::PeerRestarted));
    mock.expect::<Count>(|m| m.to == 3).streams(3, [0, 1, 2]);
    let (ack, items) = mock.client().open(Count { to: 3 }).await.unwrap();
    assert_eq!(ack, 3);
    assert_eq!(items.map(|item| item.unwrap()).collect::<Vec<_>>().await, [0, 1, 2]);
    mock.expect::<Add>(|_| true).after(Trouble::Stop).never_answers();
    assert_eq!(cause(add(1)).await, Cause::ConnectionLost);
    assert_eq!(mock.met(), 13);
    mock.verify();
}

fn complaint(mock: Mock<Sum>) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| mock.verify())).unwrap_err();
    panic.downcast_ref::<String>().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn mock_complains_of_what_did_not_come() {
    let mock = Mock::<Sum>::new();
    mock.expect::<Add>(|_| true).acks(1);
    mock.expect::<Wait>(|_| true).acks(());
    mock.client().call(Add { number: 1 }).await.unwrap();
    assert_eq!(
        complaint(mock),
        "the script of `sum` was not followed: `Wait` did not come".replace("Wait", <Wait as rpc::Request>::NAME)
    );
}

#[tokio::test(start_paused = true)]
async fn mock_refuses_and_remembers_what_was_not_expected() {
    let mock = Mock::<Sum>::new();
    let error = mock.client().call(Wait).await.unwrap_err();
    assert!(matches!(error, CallError::NotDelivered(NotDelivered::Unavailable(_))), "{error}");
    mock.expect::<Add>(|m| m.number == 1).acks(1);
    let _ = mock.client().call(Add { number: 2 }).await.unwrap_err();
    let _ = mock.client().call(Wait).await.unwrap_err();
    let complaint = complaint(mock);
    for part in ["nothing more was expected", "something else in it", "instead of", "did not come"] {
        assert!(complaint.contains(part), "{complaint}");
    }
}

#[tokio::test(start_paused = true)]
async fn mock_that_is_dropped_complains_too() {
    let mock = Mock::<Sum>::new();
    mock.expect::<Add>(|_| true).acks(1);
    catch_unwind(AssertUnwindSafe(|| drop(mock))).unwrap_err();
}
