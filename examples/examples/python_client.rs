//! A client in another language: `examples/python/rpc_client.py` was written from `PROTOCOL.md` alone. This is the real
//! server that its tests run against; it needs `python3`.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc::{Address, Blob, CallContext, CallError, Client, Has, ItemSender, Limits, List, Request, Server, Slow, Stage};
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
#[rpc(id = 4, ack = Everything, ack_bytes_max = 131072)]
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

/// Numbered entries with a hint, which may be lost, behind each; `slow` says what happens to a reader that does not keep up.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 6, ack = (), item = u64, lossy = String)]
struct Watch {
    slow: String,
    entries: u64,
}

/// Tells what became of a call to the client itself.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 7, ack = String)]
struct Ask {
    what: String,
}

#[derive(rpc::Protocol)]
#[rpc(name = "python", version = 1)]
enum Python {
    Add(Add),
    Behave(Behave),
    #[rpc(stream)]
    Count(Count),
    Everything(Everything),
    Seen(Seen),
    #[rpc(stream)]
    Watch(Watch),
    Ask(Ask),
}

/// What the client serves.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64, rejection = Overflow)]
struct Multiply {
    a: u64,
    b: u64,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = u64)]
struct Work {
    how: String,
}

/// The client has no such method.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 9, ack = ())]
struct Missing;

#[derive(rpc::Protocol)]
#[rpc(name = "back", version = 1)]
enum Back {
    Multiply(Multiply),
    Work(Work),
    Missing(Missing),
}

#[derive(Clone, Default)]
struct Handler {
    seen: Arc<AtomicU64>,
    release: Arc<Notify>,
    watched: Arc<AtomicBool>,
    kept: Arc<Mutex<Option<Client<Back>>>>,
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
        // Before it is counted: whoever sees the count may release at once.
        let released = self.release.notified();
        self.seen.fetch_add(1, Ordering::SeqCst);
        match m.how.as_str() {
            "panic" => panic!("as told"),
            "wait" => released.await,
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

    async fn watch(&self, m: Watch, items: ItemSender<u64, String>) -> Result<(), rpc::Never> {
        let items = items.when_slow(match m.slow.as_str() {
            "drop" => Slow::DropOldest,
            "close" => Slow::Close,
            _ => Slow::Block,
        });
        self.watched.store(false, Ordering::SeqCst);
        let watched = Arc::clone(&self.watched);
        tokio::spawn(async move {
            for entry in 0..m.entries {
                if items.send(entry).await.is_err() || items.send_lossy(entry.to_string()).is_err() {
                    break;
                }
            }
            watched.store(true, Ordering::SeqCst);
        });
        Ok(())
    }

    async fn ask(&self, m: Ask) -> Result<String, rpc::Never> {
        let caller = CallContext::current().and_then(|context| context.caller::<Back>());
        let kept = || self.kept.lock().ok().and_then(|kept| kept.clone());
        let (what, back) = match m.what.strip_prefix("kept ") {
            Some(what) => (what, kept()),
            None => (m.what.as_str(), caller),
        };
        let Some(back) = back else { return Ok("nobody to call".into()) };
        let work = |how: &str| back.call(Work { how: how.into() });
        Ok(match what {
            "watched" if self.watched.load(Ordering::SeqCst) => "ended".into(),
            "watched" => "goes on".into(),
            "keep" => {
                if let Ok(mut kept) = self.kept.lock() {
                    *kept = Some(back);
                }
                "kept".into()
            }
            "multiply" => outcome(back.call(Multiply { a: 6, b: 7 }).await),
            "overflow" => outcome(back.call(Multiply { a: u64::MAX, b: 2 }).await),
            "missing" => outcome(back.call(Missing).await.map(|()| 0)),
            "deadline" => outcome(work("wait").deadline(Duration::from_millis(50)).await),
            "started" => {
                let mut waits = work("wait");
                let (started, product) =
                    tokio::join!(waits.reached(Stage::Started), back.call(Multiply { a: 1, b: 1 }));
                if started && product.is_ok() { "started".into() } else { "unheard of".into() }
            }
            how => outcome(work(how).await),
        })
    }
}

/// An outcome in words.
fn outcome<R: Request>(ended: Result<u64, CallError<R>>) -> String
where
    Back: Has<R>,
{
    match ended {
        Ok(ack) => format!("ack {ack}"),
        Err(CallError::Rejected(_)) => "rejected".into(),
        Err(CallError::NotDelivered(why)) => format!("not delivered {why:?}"),
        Err(CallError::Unknown(doubt)) => format!("unknown {:?}", doubt.cause()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // What is told to panic does; its message is not ours to read.
    std::panic::set_hook(Box::new(|_| {}));
    let directory = tempfile::tempdir()?;
    let address = Address::unix_in(&directory.path().join("run"), "socket");
    let handler = Handler::default();
    let serve = |limits| Server::builder::<Python>(handler.clone()).limits(limits).serve(&address);
    let mut server = Some(serve(Limits::default()).await?);
    let mut drained = None;

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
        let answer: &[u8] = match line.as_str() {
            "restart" | "restart impatient" => {
                // It asks silent clients often enough for a test to see it.
                let impatient = Limits {
                    keepalive: Duration::from_millis(50),
                    keepalive_timeout: Duration::from_millis(500),
                    ..Limits::default()
                };
                let limits = if line == "restart" { Limits::default() } else { impatient };
                drop(server.take());
                // The old one frees the address when the runtime next runs.
                server = loop {
                    match serve(limits.clone()).await {
                        Ok(server) => break Some(server),
                        Err(rpc::ListenError::Taken { .. }) => tokio::task::yield_now().await,
                        Err(error) => return Err(error.into()),
                    }
                };
                b"restarted\n"
            }
            "drain" => {
                drained = server.take().map(|server| tokio::spawn(server.drain()));
                tokio::task::yield_now().await;
                b"draining\n"
            }
            "drained?" => {
                drained.take().ok_or("nothing was drained")?.await?;
                b"drained\n"
            }
            "release" => {
                handler.release.notify_waiters();
                b"released\n"
            }
            said => {
                done |= said == "done";
                println!("{said}");
                continue;
            }
        };
        stdin.write_all(answer).await?;
    }
    let status = python.wait().await?;
    if !(status.success() && done) {
        return Err(format!("the Python client's tests failed: {status}").into());
    }
    Ok(())
}
