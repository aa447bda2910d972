//! A small service.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc::{Address, CallContext};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

#[derive(Serialize, Deserialize, rpc::Wire, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Adds, once for each time that it is applied. "wait" waits to be released, "panic" panics, "full" is rejected.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64, rejection = Full)]
pub(crate) struct Add {
    pub(crate) how: String,
}

/// The same, by somebody who says that applying it twice does no harm.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = u64, rejection = Full, idempotent)]
pub(crate) struct Set {
    pub(crate) how: String,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = (), item = u64)]
pub(crate) struct Count {
    pub(crate) to: u64,
}

#[derive(rpc::Protocol)]
#[rpc(name = "sums", version = 1)]
pub(crate) enum Sums {
    Add(Add),
    Set(Set),
    #[rpc(stream)]
    Count(Count),
}

pub(crate) fn add(how: &str) -> Add {
    Add { how: how.into() }
}

pub(crate) fn set(how: &str) -> Set {
    Set { how: how.into() }
}

/// What the handlers saw, and how they are released.
#[derive(Clone)]
pub(crate) struct Works(Arc<Inner>);

struct Inner {
    started: AtomicU64,
    applied: AtomicU64,
    dropped: AtomicU64,
    released: watch::Sender<bool>,
    contexts: Mutex<Vec<CallContext>>,
}

impl Default for Works {
    fn default() -> Self {
        Self(Arc::new(Inner {
            started: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            released: watch::Sender::new(false),
            contexts: Mutex::default(),
        }))
    }
}

impl Works {
    pub(crate) fn started(&self) -> u64 {
        self.0.started.load(Ordering::SeqCst)
    }

    pub(crate) fn applied(&self) -> u64 {
        self.0.applied.load(Ordering::SeqCst)
    }

    pub(crate) fn release(&self) {
        self.0.released.send_replace(true);
    }

    pub(crate) async fn work(&self, how: &str) -> Result<u64, Full> {
        struct OnDrop<'a>(&'a Works, bool);
        impl Drop for OnDrop<'_> {
            fn drop(&mut self) {
                if !self.1 {
                    self.0.0.dropped.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        self.0.contexts.lock().unwrap().extend(CallContext::current());
        self.0.started.fetch_add(1, Ordering::SeqCst);
        let mut guard = OnDrop(self, false);
        match how {
            "wait" => drop(self.0.released.subscribe().wait_for(|released| *released).await),
            "panic" => panic!("as told"),
            _ => {}
        }
        guard.1 = true;
        if how == "full" { Err(Full) } else { Ok(self.0.applied.fetch_add(1, Ordering::SeqCst) + 1) }
    }
}

impl SumsHandler for Works {
    async fn add(&self, m: Add) -> Result<u64, Full> {
        self.work(&m.how).await
    }

    async fn set(&self, m: Set) -> Result<u64, Full> {
        self.work(&m.how).await
    }

    async fn count(&self, m: Count, items: rpc::ItemSender<u64>) -> Result<(), rpc::Never> {
        tokio::spawn(async move {
            for n in 0..m.to {
                if items.send(n).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }
}

pub(crate) struct World {
    pub(crate) works: Works,
    pub(crate) server: rpc::Server,
    _directory: tempfile::TempDir,
}

/// A server on a real socket.
pub(crate) async fn unix() -> World {
    unix_with(rpc::Limits::default()).await
}

pub(crate) async fn unix_with(limits: rpc::Limits) -> World {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::unix(directory.path().join("d/s"));
    let works = Works::default();
    let server = rpc::serve_with::<Sums>(&address, works.clone(), limits).await.unwrap();
    World { works, server, _directory: directory }
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
