//! A client that outlives the runtime of its first call.

use std::time::Duration;

use rpc::{CallError, Cause, Client, Retry};
use tokio::runtime::{Builder, Runtime};

use crate::support::{Sums, add, soon, unix, until};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn client_goes_on_in_another_runtime_when_its_first_has_ended() {
    let serving = runtime();
    let w = serving.block_on(unix());
    let client = Client::<Sums>::new(w.server.address());
    for round in 1..=20 {
        let runtime = runtime();
        assert_eq!(runtime.block_on(soon(client.call(add("")))).unwrap(), round);
        // Waits until its tasks are gone; a call that comes before that may still be told `ClientClosed`.
        drop(runtime);
    }
    let lane = client.lanes().remove(0);
    assert!(lane.epoch >= 2 && lane.counters.restarted + lane.counters.forgotten == 0, "{lane:?}");
}

#[test]
fn call_of_a_runtime_that_lives_is_told_at_once_when_the_drivers_ends_and_can_be_resolved() {
    let serving = runtime();
    let w = serving.block_on(unix());
    let client = Client::<Sums>::new(w.server.address());
    let first = runtime();
    first.block_on(soon(client.call(add("")))).unwrap();
    let second = runtime();
    let call = second.spawn(client.call(add("wait")).deadline(Duration::from_secs(60)));
    let patient = client.call(add("wait")).deadline(Duration::from_secs(60)).retry(Retry::resolve());
    let patient = second.spawn(patient);
    second.block_on(until("the handlers have begun", || w.works.started() == 3));
    first.shutdown_timeout(Duration::from_secs(10));
    let Err(CallError::Unknown(doubt)) = second.block_on(soon(call)).unwrap() else { panic!("a doubt") };
    assert_eq!(doubt.cause(), Cause::ClientClosed);
    w.works.release();
    let mut sums = [second.block_on(soon(doubt.resolve())).unwrap(), second.block_on(soon(patient)).unwrap().unwrap()];
    sums.sort_unstable();
    assert_eq!((sums, w.works.started()), ([2, 3], 3), "nothing was sent twice");
}
