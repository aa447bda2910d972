//! Services within one process: names, and pairs of pipes.
//!
//! A name is held as long as its listener lives; a second listener of that name is refused. Nothing crosses the
//! process.
//!
//! One of the two transports behind `listener` and `dial`.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Bytes that a pipe holds in each direction. LIMIT: like a Unix socket's default buffer, so that tests in memory meet
/// the same partial writes.
const PIPE_BYTES: usize = 64 << 10;
/// Connections that wait to be accepted.
const BACKLOG: usize = 1024;

static NAMES: LazyLock<Mutex<HashMap<String, mpsc::Sender<DuplexStream>>>> = LazyLock::new(Mutex::default);

/// Not a lock of [`sync`](crate::sync): names outlive a world of tests.
fn names() -> MutexGuard<'static, HashMap<String, mpsc::Sender<DuplexStream>>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens under a name until it is dropped.
#[derive(Debug)]
pub(super) struct MemListener {
    name: String,
    incoming: mpsc::Receiver<DuplexStream>,
}

/// Why a name could not be dialled.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MemRefusal {
    NoListener,
    BacklogFull,
}

impl MemListener {
    /// `None`: the name is taken.
    pub(super) fn bind(name: &str) -> Option<Self> {
        let mut names = names();
        if names.get(name).is_some_and(|sender| !sender.is_closed()) {
            return None;
        }
        let (sender, incoming) = mpsc::channel(BACKLOG);
        names.insert(name.to_owned(), sender);
        Some(Self { name: name.to_owned(), incoming })
    }

    pub(super) async fn accept(&mut self) -> DuplexStream {
        match self.incoming.recv().await {
            Some(stream) => stream,
            // The sender lives in NAMES as long as we do.
            None => std::future::pending().await,
        }
    }
}

impl Drop for MemListener {
    fn drop(&mut self) {
        self.incoming.close();
        let mut names = names();
        if names.get(&self.name).is_some_and(mpsc::Sender::is_closed) {
            names.remove(&self.name);
        }
    }
}

pub(super) fn connect(name: &str) -> Result<DuplexStream, MemRefusal> {
    let sender = names().get(name).cloned().ok_or(MemRefusal::NoListener)?;
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    match sender.try_send(theirs) {
        Ok(()) => Ok(ours),
        Err(mpsc::error::TrySendError::Full(_)) => Err(MemRefusal::BacklogFull),
        Err(mpsc::error::TrySendError::Closed(_)) => Err(MemRefusal::NoListener),
    }
}
