//! A process that is stopped for a while, and goes on.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rpc::{Address, CallError, Client, Limits};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Handler, Slow, Wait};

const SOCKET: &str = "RPC_KEEPALIVE_SOCKET";

struct Serving(Child);

impl Serving {
    #[allow(clippy::disallowed_methods, reason = "what is stopped is a process; this one has other tests in it")]
    fn start(socket: &std::path::Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stopped::serves", "--nocapture"])
            .env(SOCKET, socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Returns when each of its threads stands still: until one of them has taken the signal, the others run on.
    async fn stop(&self) {
        kill_process(Pid::from_child(&self.0), Signal::STOP).unwrap();
        let stopped = async {
            while !self.threads().all(|state| state == 'T') {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), stopped).await.expect("it stops");
    }

    fn go_on(&self) {
        kill_process(Pid::from_child(&self.0), Signal::CONT).unwrap();
    }

    /// The states of its threads, as the kernel names them.
    fn threads(&self) -> impl Iterator<Item = char> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        // A thread that has just ended is gone.
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
        // Behind the name, which may have any character in it.
        stats.map(|stat| stat.rsplit_once(") ").unwrap().1.chars().next().unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does nothing unless the test below started it.
#[tokio::test]
async fn serves() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    let _server = rpc::serve::<Slow>(&Address::unix(socket), Handler::default()).await.unwrap();
    std::future::pending::<()>().await;
}

/// What became of a call, for sure: its ack, or `None` if it was never applied. Where the keepalive is short and the machine
/// busy, the connection may be given up again meanwhile.
async fn outcome(result: Result<u64, CallError<Wait>>) -> Option<u64> {
    let mut doubt = match result {
        Ok(count) => return Some(count),
        // By the server's word on the next connection: then it never applied it.
        Err(CallError::NotDelivered(_)) => return None,
        Err(CallError::Unknown(doubt)) => doubt,
        Err(other) => panic!("{other:?}"),
    };
    // LIMIT: a server that runs answers at once.
    for _ in 0..1_000 {
        match doubt.resolve().await {
            Ok(count) => return Some(count),
            Err(CallError::NotDelivered(_)) => return None,
            Err(CallError::Unknown(again)) => doubt = again,
            Err(other) => panic!("{other:?}"),
        }
        tokio::task::yield_now().await;
    }
    panic!("it stays in doubt: {doubt:?}")
}

/// A call that is repeated until it has been applied, once.
async fn applied_for_sure(client: &Client<Slow>) -> u64 {
    loop {
        if let Some(count) = outcome(client.call(Wait { secs: 0 }).await).await {
            return count;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn stopped_server_is_never_said_to_have_received_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("d/s");
    let serving = Serving::start(&socket);
    // Shorter than any real one, so that the connection is given up while the server stands still.
    let (keepalive, keepalive_timeout) = (Duration::from_millis(200), Duration::from_millis(200));
    let limits = Limits { keepalive, keepalive_timeout, ..Limits::default() };
    let client = Client::<Slow>::with_limits(&Address::unix(&socket), limits);
    let mut applied = applied_for_sure(&client).await;
    for _ in 0..3 {
        serving.stop().await;
        let before = client.counters().connections;
        let call = tokio::spawn(client.call(Wait { secs: 0 }).deadline(Duration::from_secs(60)));
        let given_up = async {
            while client.counters().connections == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), given_up).await.expect("a silent peer is given up");
        serving.go_on();
        // It had the request in its socket all the time: not delivered would be a lie, and twice would be worse.
        if let Some(count) = outcome(call.await.unwrap()).await {
            assert_eq!(count, applied + 1);
            applied = count;
        }
        let next = applied_for_sure(&client).await;
        assert_eq!(next, applied + 1, "what was not delivered was not applied, what was acked was, once");
        applied = next;
    }
}
