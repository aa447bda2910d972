//! When a driver spins, for how long, and who has his turn meanwhile.

use std::cell::Cell;

use super::*;
use crate::io::socket::ASKED;
use crate::{Address, Blob, Client, Limits, Never, Server};

const BOUND: Duration = Duration::from_micros(50);
/// Guards against a hang, no more.
const SOON: Duration = Duration::from_secs(20);

fn spin(bound: Duration) -> Spin {
    // Also where there is one processor.
    Spin { bound, ..Spin::new(bound) }
}

/// Waits once, from bytes to bytes that come after `answer`; how many times the socket was asked, a question each
/// ten microseconds.
fn wait(spin: &mut Spin, now: &mut Instant, answer: Duration) -> u32 {
    let (until, mut asked, mut came) = (*now + answer, 0, true);
    while *now < until {
        if !spin.goes_on(*now, came, true) {
            *now = until;
            break;
        }
        came = false;
        asked += 1;
        *now += Duration::from_micros(10);
    }
    asked
}

#[tokio::test]
async fn peer_that_answers_in_time_is_asked_until_it_does() {
    let (mut spin, mut now) = (spin(BOUND), Instant::now());
    for _ in 0..1000 {
        assert_eq!(wait(&mut spin, &mut now, Duration::from_micros(30)), 3);
    }
}

#[tokio::test]
async fn peer_that_is_slow_costs_less_and_less_until_it_is_in_time_again() {
    let (mut spin, mut now) = (spin(BOUND), Instant::now());
    let mut asked: Vec<u32> = (0..5000).map(|_| wait(&mut spin, &mut now, Duration::from_millis(3))).collect();
    let spins = |asked: &[u32]| -> Vec<usize> { (0..asked.len()).filter(|at| asked[*at] > 0).collect() };
    // Each spin in vain is followed by twice as many sleeps as the one before, up to the bound.
    assert_eq!(spins(&asked), [0, 2, 5, 10, 19, 36, 69, 134, 263, 520, 1033, 2058, 3083, 4108]);
    assert!(asked.iter().all(|asked| *asked <= 5), "no spin is longer than its bound");
    asked = (0..4000).map(|_| wait(&mut spin, &mut now, Duration::from_micros(30))).collect();
    let again = spins(&asked)[0];
    assert!(u32::try_from(again).unwrap() <= SPIN_SKIPPED_WAITS_MAX);
    assert!(asked[again..].iter().all(|asked| *asked == 3), "from then on it is asked again each time");
}

#[tokio::test]
async fn peer_of_whom_nothing_is_expected_is_not_asked() {
    let (mut spin, now) = (spin(BOUND), Instant::now());
    assert!(spin.goes_on(now, true, false), "once: whoever was answered may call again");
    assert!(!spin.goes_on(now, false, false));
    assert!(spin.goes_on(now + SOON, false, true), "a call later is waited for again");
    assert!(!spin.goes_on(now + SOON, false, false), "one that was given up is not");
    assert_eq!(spin.skipped, 0, "and was not in vain");
}

#[tokio::test]
async fn spin_is_off_by_default_and_bounded() {
    assert_eq!(Spin::new(Limits::default().spin).bound, Duration::ZERO);
    assert!(Spin::new(SOON).bound <= SPIN_MAX);
}

#[derive(serde::Serialize, serde::Deserialize, crate::Request)]
#[rpc(id = 1, ack = Blob, ack_bytes_max = 400_000)]
struct Say {
    text: Blob,
}

/// Is never answered.
#[derive(serde::Serialize, serde::Deserialize, crate::Request)]
#[rpc(id = 2, ack = ())]
struct Wait;

#[derive(crate::Protocol)]
#[rpc(name = "echo", version = 1)]
enum Echo {
    Say(Say),
    Wait(Wait),
}

struct Mirror;

impl EchoHandler for Mirror {
    async fn say(&self, request: Say) -> Result<Blob, Never> {
        Ok(request.text)
    }

    async fn wait(&self, _: Wait) -> Result<(), Never> {
        std::future::pending().await
    }
}

/// A server and a client of it, which spin as long as they may.
async fn spinning() -> (Server, Client<Echo>, tempfile::TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    let address = Address::unix(scratch.path().join("d/s"));
    let server = Server::builder::<Echo>(Mirror).spin(SPIN_MAX).serve(&address).await.unwrap();
    (server, Client::builder(&address).spin(SPIN_MAX).build(), scratch)
}

/// Until nobody spins any more: whoever does asks in each round of the runtime.
async fn until_nobody_asks() {
    let (mut quiet, mut asked) = (0, ASKED.get());
    while quiet < 100 {
        tokio::task::yield_now().await;
        quiet = if ASKED.get() == asked { quiet + 1 } else { 0 };
        asked = ASKED.get();
    }
}

#[tokio::test]
async fn idle_connection_and_one_with_a_long_call_ask_nothing() {
    let (_server, client, _scratch) = spinning().await;
    let quiet = async {
        for _ in 0..10 {
            client.call(Say { text: Blob("a".into()) }).await.unwrap();
        }
        until_nobody_asks().await;
        let asked = ASKED.get();
        assert!(asked > 0 || *HAS_ONE_PROCESSOR, "it did spin");
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ASKED.get(), asked, "idle");
        let mut long = std::pin::pin!(client.call(Wait).into_future());
        assert!(futures::poll!(long.as_mut()).is_pending());
        until_nobody_asks().await;
        let asked = ASKED.get();
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ASKED.get(), asked, "a call that takes long");
    };
    tokio::time::timeout(SOON, quiet).await.unwrap();
}

#[tokio::test]
async fn spin_leaves_every_other_task_its_turn() {
    let (_server, client, _scratch) = spinning().await;
    // One that has given way itself comes last of all.
    let most = Cell::new(0);
    let other = async {
        let mut before = ASKED.get();
        loop {
            tokio::task::yield_now().await;
            most.set(most.get().max(ASKED.get() - before));
            before = ASKED.get();
        }
    };
    let calls = async {
        // A spin that this process was not let run in ends with its first question.
        while most.get() <= u64::from(SPIN_STRAIGHT_MAX) && !*HAS_ONE_PROCESSOR {
            client.call(Say { text: Blob("a".into()) }).await.unwrap();
            let mut long = std::pin::pin!(client.call(Wait).into_future());
            assert!(futures::poll!(long.as_mut()).is_pending());
            until_nobody_asks().await;
        }
    };
    tokio::select! {
        () = other => {}
        called = tokio::time::timeout(SOON, calls) => called.unwrap(),
    }
    // Two drivers are here, each of which asks once more in the turn that it sleeps after.
    assert!(most.get() <= 2 * u64::from(SPIN_STRAIGHT_MAX + 2), "{most:?} questions between two turns");
}

#[test]
fn calls_with_spin_are_answered_on_either_runtime_and_beside_busy_tasks() {
    let one = || tokio::runtime::Builder::new_current_thread();
    let many = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2);
        builder
    };
    for mut runtime in [one(), many()] {
        runtime.enable_all().build().unwrap().block_on(async {
            let (server, client, _scratch) = spinning().await;
            let busy = tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
            let calls = (0..8).map(|caller| {
                let client = client.clone();
                tokio::spawn(async move {
                    for bytes in (0..300_000).step_by(if caller == 0 { 30_000 } else { 1_000 }) {
                        // Small ones, and ones that no single question can be answered with.
                        let text = Blob(vec![b'x'; if caller == 0 { bytes } else { bytes % 4_000 }].into());
                        let answer = client.call(Say { text: text.clone() }).await;
                        match answer {
                            Ok(echo) => assert!(echo == text),
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            });
            for caller in calls.collect::<Vec<_>>() {
                tokio::time::timeout(SOON, caller).await.unwrap().unwrap();
            }
            busy.abort();
            drop(client);
            tokio::time::timeout(SOON, server.drain()).await.unwrap();
        });
    }
}

#[test]
fn clock_that_is_paused_goes_on_though_drivers_spin() {
    let (over, is_over) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (_server, client, _scratch) = spinning().await;
            client.call(Say { text: Blob("a".into()) }).await.unwrap();
            let waits = client.call(Wait).deadline(Duration::from_secs(3600)).await;
            over.send(waits.is_err()).unwrap();
        });
    });
    assert_eq!(is_over.recv_timeout(SOON), Ok(true), "an hour of the test's clock passes at once");
}
