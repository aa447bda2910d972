//! A client in another language: `examples/python/rpc_client.py` was written from `PROTOCOL.md` alone. This is the real
//! server that its tests run against; it needs `python3`.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rpc::{Address, Blob, ItemSender, List, Server};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Notify;

#[derive(Serialize, Deserialize, rpc::Wire, Debug)]
struct Overflow;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64, rejection = Overflow)]
struct Add {
    a: u64,
    b: u64,
}

/// Does what it is told.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = ())]
struct Behave {
    how: String,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = u64, item = u64)]
struct Count {
    to: u64,
}

#[derive(Serialize, Deserialize, rpc::Wire)]
enum Kind {
    Empty,
    Pair(i64, bool),
    Named { name: String },
}

/// One of each, to come back as it went.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 4, ack = Everything)]
struct Everything {
    small: u8,
    number: u64,
    signed: i64,
    float: f64,
    text: String,
    bytes: Blob,
    maybe: Option<String>,
    kinds: List<Kind, 8>,
}

/// How many `Behave` have begun, or were dropped.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 5, ack = u64)]
struct Seen;

#[derive(rpc::Protocol)]
#[rpc(name = "python", version = 1)]
enum Python {
    Add(Add),
    Behave(Behave),
    #[rpc(stream)]
    Count(Count),
    Everything(Everything),
    Seen(Seen),
}

#[derive(Clone, Default)]
struct Handler {
    seen: Arc<AtomicU64>,
    release: Arc<Notify>,
}

struct CountDrop(Arc<AtomicU64>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl PythonHandler for Handler {
    async fn add(&self, m: Add) -> Result<u64, Overflow> {
        m.a.checked_add(m.b).ok_or(Overflow)
    }

    async fn behave(&self, m: Behave) -> Result<(), rpc::Never> {
        if m.how == "release" {
            self.release.notify_waiters();
            return Ok(());
        }
        self.seen.fetch_add(1, Ordering::SeqCst);
        match m.how.as_str() {
            "panic" => panic!("as told"),
            "wait" => self.release.notified().await,
            "until dropped" => {
                let _count = CountDrop(Arc::clone(&self.seen));
                std::future::pending::<()>().await;
            }
            _ => {}
        }
        Ok(())
    }

    async fn count(&self, m: Count, items: ItemSender<u64>) -> Result<u64, rpc::Never> {
        tokio::spawn(async move {
            for item in 0..m.to {
                if items.send(item).await.is_err() {
                    return;
                }
            }
        });
        Ok(m.to)
    }

    async fn everything(&self, m: Everything) -> Result<Everything, rpc::Never> {
        Ok(m)
    }

    async fn seen(&self, _: Seen) -> Result<u64, rpc::Never> {
        Ok(self.seen.load(Ordering::SeqCst))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // What is told to panic does; its message is not ours to read.
    std::panic::set_hook(Box::new(|_| {}));
    let directory = tempfile::tempdir()?;
    let address = Address::unix_in(&directory.path().join("run"), "socket");
    let handler = Handler::default();
    let mut server = Some(Server::builder::<Python>(handler.clone()).serve(&address).await?);

    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/test_client.py");
    #[expect(clippy::disallowed_methods, reason = "an example that starts its client")]
    let mut python = tokio::process::Command::new("python3")
        .arg("-B")
        .arg(&tests)
        .arg(address.path().ok_or("a Unix socket has a path")?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run python3 ({error}); install Python 3.9 or later"))?;
    let mut stdin = python.stdin.take().ok_or("a pipe was asked for")?;
    let mut lines = BufReader::new(python.stdout.take().ok_or("a pipe was asked for")?).lines();
    let mut done = false;
    while let Some(line) = lines.next_line().await? {
        if line == "restart" {
            drop(server.take());
            // The old one frees the address when the runtime next runs.
            server = loop {
                match Server::builder::<Python>(handler.clone()).serve(&address).await {
                    Ok(server) => break Some(server),
                    Err(rpc::ListenError::Taken { .. }) => tokio::task::yield_now().await,
                    Err(error) => return Err(error.into()),
                }
            };
            stdin.write_all(b"restarted\n").await?;
        } else {
            done |= line == "done";
            println!("{line}");
        }
    }
    let status = python.wait().await?;
    if !(status.success() && done) {
        return Err(format!("the Python client's tests failed: {status}").into());
    }
    Ok(())
}
