//! The framework allocates nothing for a call: neither the client nor the server, once both have warmed up.
//!
//! A binary of its own, because it counts every allocation of the process: client, server and the runtime under them.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::print_stdout, reason = "its figures are for people")]

#[path = "common/counting.rs"]
mod counting;

use rpc::{Address, Client, Never};
use serde::{Deserialize, Serialize};

use counting::allocations;

/// 64 bytes there and back, without an allocation of its own.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = [u64; 8], rejection = Odd)]
struct Say {
    words: [u64; 8],
}

#[derive(Debug, Serialize, Deserialize, rpc::Wire)]
struct Odd(u64);

/// The same, answered after a turn in the queue of tasks.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = u64)]
struct Later(u64);

#[derive(rpc::Protocol)]
#[rpc(name = "allocations", version = 1)]
enum Echo {
    Say(Say),
    Later(Later),
}

struct Mirror;

impl EchoHandler for Mirror {
    async fn say(&self, request: Say) -> Result<[u64; 8], Odd> {
        if request.words[0] % 2 == 1 { Err(Odd(request.words[0])) } else { Ok(request.words) }
    }

    async fn later(&self, request: Later) -> Result<u64, Never> {
        tokio::task::yield_now().await;
        Ok(request.0)
    }
}

async fn calls(client: &Client<Echo>, count: u64) {
    for n in 0..count {
        let words = [n | 1 << 50; 8];
        match rpc::call(client, Say { words }).await {
            Ok(ack) => assert_eq!(ack, words),
            Err(rpc::CallError::Rejected(Odd(odd))) => assert_eq!(odd, words[0]),
            Err(other) => panic!("{other}"),
        }
        if n % 4 == 0 {
            assert_eq!(rpc::call(client, Later(n)).await.unwrap(), n);
        }
    }
}

/// Allocations while `tasks` callers make `count` calls each, after as many to warm up.
fn allocations_of(address: &Address, tasks: usize, count: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let _server = rpc::serve::<Echo>(address, Mirror).await.unwrap();
        let client = Client::<Echo>::new(address);
        let gate = std::sync::Arc::new(tokio::sync::Barrier::new(tasks + 1));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..tasks {
            let (client, gate) = (client.clone(), gate.clone());
            callers.spawn(async move {
                calls(&client, count).await;
                gate.wait().await;
                gate.wait().await;
                calls(&client, count).await;
                gate.wait().await;
                gate.wait().await;
            });
        }
        gate.wait().await;
        let before = allocations();
        gate.wait().await;
        gate.wait().await;
        let after = allocations();
        gate.wait().await;
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
        after - before
    })
}

#[test]
fn call_in_steady_state_allocates_nothing_on_either_side() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    // The counter counts.
    let before = allocations();
    drop(std::hint::black_box(Box::new(7)));
    assert!(allocations() > before);

    for (tasks, count) in [(1, 4000), (8, 1000), (64, 200)] {
        let address = Address::unix(path.join(tasks.to_string()));
        let counted = allocations_of(&address, tasks, count);
        println!("{tasks} in flight: {counted} allocations in {} calls", tasks as u64 * count * 5 / 4);
        assert_eq!(counted, 0, "{tasks} in flight");
    }
}
