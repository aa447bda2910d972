//! A server that calls back, a client that answers, and a wire between them that can be cut.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc::{Address, Blob, CallContext, Client, ClientBuilder, Limits};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Goes to the other side and back, `depth` times.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64)]
pub(crate) struct Turn {
    pub(crate) depth: u32,
    pub(crate) body: Blob,
}

/// The server keeps a client for whoever sent this.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = ())]
pub(crate) struct Keep;

/// Ends when the reverse call that it makes has ended; 1 if that was acked.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = u64)]
pub(crate) struct AskBack {
    pub(crate) how: String,
}

#[derive(rpc::Protocol)]
#[rpc(name = "forth", version = 1)]
pub(crate) enum Forth {
    Turn(Turn),
    Keep(Keep),
    AskBack(AskBack),
}

#[derive(Serialize, Deserialize, rpc::Wire, Debug, PartialEq)]
pub(crate) struct No;
#[derive(Serialize, Deserialize, rpc::Wire, Debug, PartialEq)]
pub(crate) struct Done(pub(crate) u64);

/// Does what it is told.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = Done, rejection = No, ack_bytes_max = 100_000)]
pub(crate) struct Do {
    pub(crate) how: String,
    pub(crate) n: u64,
    pub(crate) body: Blob,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = u64, item = u64)]
pub(crate) struct Count {
    pub(crate) to: u64,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = u64)]
pub(crate) struct TurnBack {
    pub(crate) depth: u32,
    pub(crate) body: Blob,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 4, ack = u64)]
pub(crate) struct Same;

#[derive(rpc::Protocol)]
#[rpc(name = "back", version = 1)]
pub(crate) enum Back {
    Do(Do),
    #[rpc(stream)]
    Count(Count),
    TurnBack(TurnBack),
    Same(Same),
}

/// The same service in the hands of somebody with another source.
pub(crate) mod other {
    use super::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize, rpc::Request)]
    #[rpc(id = 1, ack = u32)]
    pub(crate) struct Do;

    #[derive(rpc::Protocol)]
    #[rpc(name = "back", version = 1)]
    pub(crate) enum Back {
        Do(Do),
        Same(super::Same),
    }

    pub(crate) struct Answers;

    impl BackHandler for Answers {
        async fn r#do(&self, _: Do) -> Result<u32, rpc::Never> {
            Ok(1)
        }

        async fn same(&self, _: super::Same) -> Result<u64, rpc::Never> {
            Ok(5)
        }
    }
}

/// What the handlers of the client have done.
#[derive(Default)]
pub(crate) struct Works {
    pub(crate) applied: AtomicU64,
    pub(crate) started: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) producers_ended: AtomicU64,
    pub(crate) release: Notify,
}

struct Counted<F: Fn()>(F);

impl<F: Fn()> Drop for Counted<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// The server.
#[derive(Clone, Default)]
struct Serves(Arc<Mutex<Option<Client<Back>>>>);

impl ForthHandler for Serves {
    async fn turn(&self, m: Turn) -> Result<u64, rpc::Never> {
        if m.depth == 0 {
            return Ok(0);
        }
        let back: Client<Back> = CallContext::current().unwrap().caller().unwrap();
        Ok(back.call(TurnBack { depth: m.depth - 1, body: m.body }).await.unwrap() + 1)
    }

    async fn keep(&self, _: Keep) -> Result<(), rpc::Never> {
        *self.0.lock().unwrap() = CallContext::current().unwrap().caller();
        Ok(())
    }

    async fn ask_back(&self, m: AskBack) -> Result<u64, rpc::Never> {
        let back: Client<Back> = CallContext::current().unwrap().caller().unwrap();
        Ok(u64::from(back.call(Do::how(&m.how)).await.is_ok()))
    }
}

/// The client.
pub(crate) struct Answers(pub(crate) Arc<Works>);

impl BackHandler for Answers {
    async fn r#do(&self, m: Do) -> Result<Done, No> {
        let works = self.0.clone();
        match m.how.as_str() {
            "reject" => return Err(No),
            "panic" => panic!("as told"),
            "hang" => {
                works.started.fetch_add(1, Ordering::SeqCst);
                let _dropped = Counted(|| {
                    works.dropped.fetch_add(1, Ordering::SeqCst);
                });
                std::future::pending().await
            }
            "wait" => {
                works.started.fetch_add(1, Ordering::SeqCst);
                works.release.notified().await;
            }
            _ => {}
        }
        works.applied.fetch_add(1, Ordering::SeqCst);
        Ok(Done(m.n))
    }

    async fn count(&self, m: Count, items: rpc::ItemSender<u64>) -> Result<u64, rpc::Never> {
        let works = self.0.clone();
        tokio::spawn(async move {
            for n in 0..m.to {
                if items.send(n).await.is_err() {
                    break;
                }
            }
            works.producers_ended.fetch_add(1, Ordering::SeqCst);
        });
        Ok(m.to)
    }

    async fn turn_back(&self, m: TurnBack) -> Result<u64, rpc::Never> {
        if m.depth == 0 {
            return Ok(0);
        }
        let forth: Client<Forth> = CallContext::current().unwrap().caller().unwrap();
        Ok(forth.call(Turn { depth: m.depth - 1, body: m.body }).await.unwrap() + 1)
    }

    async fn same(&self, _: Same) -> Result<u64, rpc::Never> {
        Ok(4)
    }
}

impl Do {
    pub(crate) fn how(how: &str) -> Self {
        Self { how: how.into(), n: 0, body: body(0) }
    }

    pub(crate) fn at_once(n: u64) -> Self {
        Self { n, ..Self::how("at once") }
    }

    pub(crate) fn echo(n: u64) -> Self {
        Self { n, ..Self::how("echo") }
    }
}

pub(crate) fn body(bytes: usize) -> Blob {
    Blob(vec![7; bytes].into())
}

pub(crate) struct World {
    pub(crate) works: Arc<Works>,
    pub(crate) server: rpc::Server,
    pub(crate) client: Client<Forth>,
    kept: Arc<Mutex<Option<Client<Back>>>>,
    pub(crate) directory: Option<tempfile::TempDir>,
}

/// The same world over a Unix socket and in memory.
pub(crate) async fn each(name: &str) -> [World; 2] {
    let serves = |builder: ClientBuilder<Forth>, works: &Arc<Works>| builder.serves::<Back>(Answers(works.clone()));
    let directory = tempfile::tempdir().unwrap();
    let unix = Address::unix(directory.path().join("d/s"));
    [
        World::start(unix.clone(), unix, Some(directory), Limits::default(), serves).await,
        World::start(Address::mem(name), Address::mem(name), None, Limits::default(), serves).await,
    ]
}

impl World {
    pub(crate) async fn start(
        address: Address,
        dialled: Address,
        directory: Option<tempfile::TempDir>,
        limits: Limits,
        build: impl Fn(ClientBuilder<Forth>, &Arc<Works>) -> ClientBuilder<Forth>,
    ) -> Self {
        let serves = Serves::default();
        let kept = serves.0.clone();
        let server = rpc::serve_with::<Forth>(&address, serves, limits.clone()).await.unwrap();
        let works = Arc::<Works>::default();
        let client = build(Client::<Forth>::builder(&dialled).limits(limits), &works).build();
        Self { works, server, client, kept, directory }
    }

    pub(crate) async fn with(
        address: Address,
        directory: Option<tempfile::TempDir>,
        build: impl Fn(ClientBuilder<Forth>) -> ClientBuilder<Forth>,
    ) -> Self {
        Self::start(address.clone(), address, directory, Limits::default(), |builder, _| build(builder)).await
    }

    pub(crate) async fn unix_or(
        address: Option<Address>,
        build: impl Fn(ClientBuilder<Forth>) -> ClientBuilder<Forth>,
    ) -> Self {
        match address {
            Some(address) => Self::with(address, None, build).await,
            None => {
                let directory = tempfile::tempdir().unwrap();
                Self::with(Address::unix(directory.path().join("d/s")), Some(directory), build).await
            }
        }
    }

    /// A server and a client with a wire between them.
    pub(crate) async fn with_wire(limits: Limits) -> (Self, Wire) {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::unix(directory.path().join("d/s"));
        let wire = Wire::lay(directory.path().join("wire"), directory.path().join("d/s"));
        let dialled = Address::unix(directory.path().join("wire"));
        let serves = |builder: ClientBuilder<Forth>, works: &Arc<Works>| builder.serves::<Back>(Answers(works.clone()));
        (Self::start(address, dialled, Some(directory), limits, serves).await, wire)
    }

    /// What the server uses to call the client, after the handler that took it has returned.
    pub(crate) async fn back(&self) -> Client<Back> {
        soon(self.client.call(Keep)).await.unwrap();
        self.kept.lock().unwrap().clone().unwrap()
    }
}

/// Carries bytes from a socket of its own to another one, until it is cut.
pub(crate) struct Wire {
    path: PathBuf,
    to: PathBuf,
    tasks: JoinSet<()>,
}

impl Wire {
    pub(crate) fn lay(path: PathBuf, to: PathBuf) -> Self {
        let mut wire = Self { path, to, tasks: JoinSet::new() };
        wire.mend();
        wire
    }

    /// Every connection over it is cut where it is, and none can be made.
    pub(crate) async fn cut(&mut self) {
        self.tasks.shutdown().await;
        let _ = std::fs::remove_file(&self.path);
    }

    pub(crate) fn mend(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "a bare socket between two ends, not a service")]
        let listener = UnixListener::bind(&self.path).unwrap();
        let to = self.to.clone();
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let to = to.clone();
                connections.spawn(async move {
                    let Ok(mut far) = UnixStream::connect(to).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
    }
}

/// Whatever a test waits for comes within this, or the test fails.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("an outcome within its bound")
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}
