//! What a server holds, resident, for each idle connection: after small calls only, and after a large one.
//!
//! Reads the server process's own figure before and after; the clients live in this process.

use std::path::Path;

use bytes::Bytes;
use rpc::{Address, Blob, Client};

use crate::contender::{CONTENDERS, Echo, Failure, Runtime, Say, limits};
use crate::{Server, runtime_of};

const SMALL_CALLS: usize = 10;
const LARGE_BYTES: usize = 64 << 10;

pub(crate) fn print_held(counts: &[usize]) -> Result<(), Failure> {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: descriptors.maximum, ..descriptors },
    )?;
    println!("resident memory of the server for each idle connection, of so many");
    for &count in counts {
        let scratch = tempfile::tempdir()?;
        std::fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let path = scratch.path().join("echo");
        let contender = CONTENDERS.first().ok_or("no contender")?;
        let server = Server::start(contender, &path)?;
        let [small, large] = runtime_of(Runtime::OneThread)?.block_on(held(&path, &server, count))?;
        println!(
            "  {count:>6} connections: {small:.2} KiB after {SMALL_CALLS} calls of 64 B, {large:.2} KiB after one more of \
             {} KiB",
            LARGE_BYTES >> 10
        );
    }
    Ok(())
}

/// KiB a connection.
async fn held(path: &Path, server: &Server, count: usize) -> Result<[f64; 2], Failure> {
    // The server's own buffers are not a connection's.
    let first = Client::<Echo>::with_limits(&Address::unix(path), limits());
    for payload_bytes in [64, LARGE_BYTES] {
        say(&first, payload_bytes).await?;
    }
    let before = server.resident_kib()?;
    let mut clients = Vec::new();
    for _ in 0..count {
        let client = Client::<Echo>::with_limits(&Address::unix(path), limits());
        for _ in 0..SMALL_CALLS {
            say(&client, 64).await?;
        }
        clients.push(client);
    }
    let small = server.resident_kib()?;
    for client in &clients {
        say(client, LARGE_BYTES).await?;
        // The answer to the large call is kept until the next call says that it has arrived.
        say(client, 64).await?;
    }
    let large = server.resident_kib()?;
    Ok([small, large].map(|held| (held - before) / count as f64))
}

async fn say(client: &Client<Echo>, payload_bytes: usize) -> Result<(), Failure> {
    let payload = Blob(Bytes::from(vec![7; payload_bytes]));
    let answer = rpc::call(client, Say { payload }).await?;
    assert_eq!(answer.0.len(), payload_bytes, "an echo");
    Ok(())
}
