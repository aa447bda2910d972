//! So many calls of 64 B, one after the other, of one thread with itself: what `observe.sh` counts the instructions of.
//!
//! `cargo bench -p rpc --bench observe -- CALLS`. It measures nothing itself: two runs with different numbers of calls
//! differ by what those calls cost, and by nothing else.
#![allow(missing_docs, reason = "a program")]

use std::process::ExitCode;

use rpc::{Address, Client, Never};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = [u64; 8])]
struct Say([u64; 8]);

#[derive(rpc::Protocol)]
#[rpc(name = "observe", version = 1)]
enum Observe {
    Say(Say),
}

struct Echo;

impl ObserveHandler for Echo {
    async fn say(&self, m: Say) -> Result<[u64; 8], Never> {
        Ok(m.0)
    }
}

fn main() -> ExitCode {
    // `cargo test` runs benches without a number: one call shows that it works.
    let calls = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let done = runtime.block_on(async {
        let address = Address::mem("observe");
        let _server = rpc::serve::<Observe>(&address, Echo).await.ok()?;
        let client = Client::<Observe>::new(&address);
        for number in 0..calls {
            client.call(Say([number; 8])).await.ok().filter(|answer| *answer == [number; 8])?;
        }
        Some(())
    });
    if done.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
