//! Calls without a runtime.

use std::time::{Duration, Instant};

use rpc::blocking::Client;
use rpc::{Address, CallError, Cause, Limits, NotDelivered, Retry};

use crate::proxy::Proxy;
use crate::support::{Count, Full, Sums, Works, World, add, set, unix};

const MINUTE: Duration = Duration::from_secs(60);

/// A server in a runtime of its own, and somewhere else a thread without one.
fn beside_a_server<T: Send>(work: impl FnOnce(&World, &tokio::runtime::Handle) -> T + Send) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let world = runtime.block_on(unix());
    work(&world, runtime.handle())
}

#[test]
fn outcomes_are_those_of_any_client() {
    beside_a_server(|w, _| {
        let client = Client::<Sums>::new(w.server.address()).unwrap();
        assert_eq!(client.call(add("")).wait().unwrap(), 1);
        assert!(matches!(client.call(add("full")).wait(), Err(CallError::Rejected(Full))));
        let Err(CallError::Unknown(doubt)) = client.call(add("panic")).deadline(MINUTE).wait() else {
            panic!("a doubt")
        };
        assert_eq!(doubt.cause(), Cause::HandlerPanicked);
        assert!(matches!(client.resolve(doubt), Err(CallError::Unknown(_))));
        let started = Instant::now();
        let Err(CallError::Unknown(doubt)) = client.call(add("wait")).deadline(Duration::from_millis(50)).wait() else {
            panic!("a doubt")
        };
        assert_eq!(doubt.cause(), Cause::Deadline);
        assert!(started.elapsed() < Duration::from_secs(10));
        let nobody = Client::<Sums>::new(&Address::mem("nobody_blocks")).unwrap();
        let mut error = nobody.call(set("")).retry(Retry::idempotent().attempts_max(3)).wait().unwrap_err();
        assert!(matches!(&mut error, CallError::NotDelivered(NotDelivered::NoListener { .. })), "{error:?}");
    });
}

#[test]
fn threads_share_one_client_and_every_call_is_answered() {
    beside_a_server(|w, _| {
        let client = Client::<Sums>::new(w.server.address()).unwrap();
        for background in [false, true] {
            if background {
                client.drive_in_background().unwrap();
                client.drive_in_background().unwrap();
            }
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    let client = client.clone();
                    scope.spawn(move || {
                        for _ in 0..200 {
                            client.call(add("")).deadline(MINUTE).wait().unwrap();
                        }
                    });
                }
            });
        }
        assert_eq!((w.works.applied(), w.server.connections()), (3200, 1));
    });
}

#[test]
fn waiting_thread_does_not_stop_another_ones_calls() {
    beside_a_server(|w, _| {
        let client = Client::<Sums>::new(w.server.address()).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| client.call(add("wait")).deadline(MINUTE).wait());
            while w.works.started() == 0 {
                std::thread::yield_now();
            }
            // The other thread drives: this one's calls are carried by it, and it goes on when it has its own answer.
            for n in 1..=100 {
                assert_eq!(client.call(add("")).wait().unwrap(), n);
            }
            w.works.release();
            assert_eq!(waiting.join().unwrap().unwrap(), 101);
            assert_eq!(client.call(add("")).wait().unwrap(), 102, "and somebody else drives now");
        });
    });
}

#[test]
fn doubt_is_resolved_by_the_client_that_has_it() {
    beside_a_server(|w, runtime| {
        let mut proxy = runtime.block_on(async { Proxy::to(w.server.address(), false) });
        let client = Client::<Sums>::of(rpc::Client::with_limits(&proxy.address, Limits::default())).unwrap();
        let doubt = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| client.call(add("wait")).deadline(MINUTE).wait());
            while w.works.started() == 0 {
                std::thread::yield_now();
            }
            runtime.block_on(proxy.close());
            let Err(CallError::Unknown(doubt)) = waiting.join().unwrap() else { panic!("a doubt") };
            doubt
        });
        assert_eq!(doubt.cause(), Cause::ConnectionLost);
        w.works.release();
        runtime.block_on(async { proxy.open() });
        assert_eq!(client.resolve(doubt).unwrap(), 1);
        assert_eq!(client.inner().lanes()[0].epoch, 2);
    });
}

#[test]
fn stream_is_an_iterator_and_waits_no_longer_than_it_is_told() {
    beside_a_server(|w, runtime| {
        let client = Client::<Sums>::new(w.server.address()).unwrap();
        let ((), items) = client.call(Count { to: 5000 }).open().unwrap();
        assert!(items.map(Result::unwrap).eq(0..5000));
        let ((), mut items) = client.call(Count { to: u64::MAX }).open().unwrap();
        assert_eq!(items.by_ref().take(3).map(Result::unwrap).collect::<Vec<_>>(), [0, 1, 2]);
        drop(items);
        let (server, mut calls) =
            runtime.block_on(rpc::serve_calls::<Sums>(&Address::mem("blocking_silent"), 8)).unwrap();
        let silent = Client::<Sums>::new(server.address()).unwrap();
        let keeping = runtime.spawn(async move {
            let Some(crate::support::SumsCall::Count(m, responder, items)) = calls.recv().await else { panic!("it") };
            assert_eq!(m.to, 1);
            responder.ack(());
            items
        });
        let ((), mut items) = silent.call(Count { to: 1 }).open().unwrap();
        let patience = Duration::from_millis(20);
        assert_eq!(items.event_within(patience), Err(patience));
        drop(keeping);
        drop(items);
    });
}

#[test]
fn inside_of_a_task_it_says_what_is_wrong_and_dropping_is_harmless() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::<Sums>::new(&Address::mem("blocking_in_a_task")).unwrap();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(client.call(add("")).wait())));
        let panic = panic.unwrap_err();
        let text =
            panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str)).unwrap();
        assert!(text.contains("Cannot start a runtime from within a runtime"), "{text}");
        drop(client);
        // Off the runtime's own threads it works.
        let works = Works::default();
        let _server = rpc::serve::<Sums>(&Address::mem("blocking_off"), works).await.unwrap();
        let blocking = tokio::task::spawn_blocking(|| {
            Client::<Sums>::new(&Address::mem("blocking_off")).unwrap().call(add("")).deadline(MINUTE).wait().is_ok()
        });
        assert!(blocking.await.unwrap());
    });
}
