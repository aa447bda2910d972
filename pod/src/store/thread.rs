//! The store's threads: one that writes, one that reads.
//!
//! **Group commit**: closures wait in a bounded queue, run in their order, each in a savepoint of its own, several in
//! one `BEGIN IMMEDIATE .. COMMIT`, and are answered after the commit. Nothing is answered before. A closure that
//! fails takes back what it did, and nothing else; a commit that fails takes back all that it held.
//!
//! Fed by every task of the pod through [`Store`]; runs what `tx` offers.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::id::{Seq, StreamId};
use crate::store::error::StoreError;
use crate::store::guard;
use crate::store::head::{self, Head, WentDown};
use crate::store::history::HistoryItem;
use crate::store::open::{self, Identity, Opened, StoreOptions};
use crate::store::tx::{Own, Reads, Tx};

/// A pod's store. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// A transaction that is in the queue. Its place is taken; awaiting it tells what became of it.
///
/// # Cancel safety
/// Dropping it changes nothing: the transaction is carried out.
#[must_use = "whether it was committed is known only by awaiting it"]
#[derive(Debug)]
pub struct Submitted<T> {
    reply: oneshot::Receiver<Result<T, StoreError>>,
}

/// One of the store's readers: a thread with a connection of its own, which ends with the last clone.
#[derive(Clone)]
pub(crate) struct Reading(mpsc::Sender<Message>);

struct Inner {
    path: PathBuf,
    identity: Identity,
    options: StoreOptions,
    writes: mpsc::Sender<Message>,
    reads: Reading,
    heads: Heads,
}

#[derive(Clone)]
struct Heads {
    history: watch::Receiver<u64>,
    outbox: watch::Receiver<Seq>,
}

struct HeadWriters {
    history: watch::Sender<u64>,
    outbox: watch::Sender<Seq>,
}

enum Message {
    Work(Box<dyn Work>),
    Close(oneshot::Sender<()>),
}

/// A closure whose result waits for the commit.
trait Work: Send {
    fn run(&mut self, conn: &Connection, options: &StoreOptions);
    /// Why `run` failed, if it did: its savepoint is then taken back.
    fn failure(&self) -> Option<&StoreError>;
    fn fail(&mut self, error: StoreError);
    fn answer(self: Box<Self>);
}

struct Job<T, F> {
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: Option<oneshot::Sender<Result<T, StoreError>>>,
}

impl Store {
    /// Opens the store at `path`, or makes it. Blocks: to be done at start, or where blocking is allowed.
    ///
    /// # Errors
    /// If the file is not ours, newer, damaged, has lost commits, is another pod's, or cannot be used; it is then left as it was.
    pub fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let Opened { conn: writer, identity, seen, lost } = open::open_writer(path, &options)?;
        if let Some(lost) = lost {
            say_what_is_lost(path, &writer, &options, lost)?;
        }
        let commits = guard::commits(&writer)?.unwrap_or(0);
        let head = Head::open(path, seen.as_ref(), commits, options.durability)?;
        let (head_writers, heads) = heads(&writer, &options)?;
        let (writes, write_queue) = mpsc::channel(options.limits.queue);
        let reads = Reading::start(path, &options, "reads")?;
        let (name, for_writer) = (format!("store-{}", options.own.pod.name), options.clone());
        spawn(path, name, move || write_loop(writer, write_queue, &for_writer, &head_writers, head))?;
        Ok(Self { inner: Arc::new(Inner { path: path.to_owned(), identity, options, writes, reads, heads }) })
    }

    /// Runs `work` in a transaction and answers after its commit. Waits for room in the queue.
    ///
    /// # Errors
    /// What `work` returns, or why it could not be committed. Nothing of it is then in the file.
    ///
    /// # Cancel safety
    /// Dropped before it was queued, it does not run; afterwards it does.
    pub async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (job, submitted) = write_job(work);
        self.inner.writes.send(job).await.map_err(|_| StoreError::Closed)?;
        submitted.await
    }

    /// Puts `work` into the queue now, behind all that is in it.
    ///
    /// # Errors
    /// `Overloaded` if the queue is full.
    pub fn submit<T, F>(&self, work: F) -> Result<Submitted<T>, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (job, submitted) = write_job(work);
        self.inner.writes.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded { max: self.inner.options.limits.queue },
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        Ok(submitted)
    }

    /// Runs `look` on what is committed, beside the writer. All of it sees one moment.
    ///
    /// # Errors
    /// What `look` returns, or why the file cannot be read.
    pub async fn read<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Reads<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.inner.reads.read(look).await
    }

    /// A reader of its own, for whoever reads so much that others would wait for it. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// If the file cannot be opened once more.
    pub(crate) fn another_reader(&self) -> Result<Reading, StoreError> {
        Reading::start(&self.inner.path, &self.inner.options, "looks")
    }

    /// The stream of this pod's events.
    pub fn stream(&self) -> StreamId {
        self.inner.identity.stream
    }

    /// Whose store it is.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Who its transactions speak for.
    pub fn own(&self) -> &Own {
        &self.inner.options.own
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The newest committed entry of the history; changes after the commit.
    pub fn history_head(&self) -> watch::Receiver<u64> {
        self.inner.heads.history.clone()
    }

    /// The newest committed event of this pod; changes after the commit.
    pub fn outbox_head(&self) -> watch::Receiver<Seq> {
        self.inner.heads.outbox.clone()
    }

    /// Commits what is in the queue, brings all of it onto the medium, and takes no more. Calls that come later fail with
    /// `Closed`.
    pub async fn close(&self) {
        // Whoever writes closes last, and takes the log along.
        for queue in [&self.inner.reads.0, &self.inner.writes] {
            let (done, closed) = oneshot::channel();
            if queue.send(Message::Close(done)).await.is_ok() {
                let _ = closed.await;
            }
        }
    }
}

impl Reading {
    fn start(path: &Path, options: &StoreOptions, called: &str) -> Result<Self, StoreError> {
        let (reader, _) = open::open_reader(path)?;
        let (reads, queue) = mpsc::channel(options.limits.queue);
        let (name, options) = (format!("{called}-{}", options.own.pod.name), options.clone());
        spawn(path, name, move || read_loop(reader, queue, &options))?;
        Ok(Self(reads))
    }

    /// As [`Store::read`].
    pub(crate) async fn read<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Reads<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (job, submitted) =
            job(move |conn: &Connection, options: &StoreOptions| look(&Reads::new(conn, options.clock.now())));
        self.0.send(job).await.map_err(|_| StoreError::Closed)?;
        submitted.await
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).field("pod", &self.inner.options.own.pod).finish()
    }
}

impl<T> Future for Submitted<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.reply).poll(cx));
        Poll::Ready(answer.unwrap_or(Err(StoreError::Closed)))
    }
}

impl<T, F> Work for Job<T, F>
where
    T: Send,
    F: FnOnce(&Connection, &StoreOptions) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, conn: &Connection, options: &StoreOptions) {
        let Some(work) = self.work.take() else { return };
        // What the closure had changed in the file is rolled back; what it captured is dropped with it.
        let result = catch_unwind(AssertUnwindSafe(|| work(conn, options)));
        self.result = Some(result.unwrap_or_else(|panic| Err(StoreError::Panicked(panic_text(&*panic)))));
    }

    fn failure(&self) -> Option<&StoreError> {
        self.result.as_ref().and_then(|result| result.as_ref().err())
    }

    fn fail(&mut self, error: StoreError) {
        self.result = Some(Err(error));
    }

    fn answer(mut self: Box<Self>) {
        if let (Some(result), Some(reply)) = (self.result.take(), self.reply.take()) {
            // Whoever asked may have gone; what was committed is committed all the same.
            let _ = reply.send(result);
        }
    }
}

fn job<T, F>(work: F) -> (Message, Submitted<T>)
where
    T: Send + 'static,
    F: FnOnce(&Connection, &StoreOptions) -> Result<T, StoreError> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job = Job { work: Some(work), result: None, reply: Some(reply) };
    (Message::Work(Box::new(job)), Submitted { reply: answer })
}

fn write_job<T, F>(work: F) -> (Message, Submitted<T>)
where
    T: Send + 'static,
    F: FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
{
    job(move |conn: &Connection, options: &StoreOptions| {
        work(&Tx::new(conn, options.clock.now(), &options.own, &options.limits))
    })
}

fn spawn(path: &Path, name: String, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let spawned = std::thread::Builder::new().name(name).spawn(run);
    spawned.map(drop).map_err(|error| StoreError::io("start a thread for", path, error))
}

fn write_loop(
    conn: Connection,
    mut queue: mpsc::Receiver<Message>,
    options: &StoreOptions,
    heads: &HeadWriters,
    mut head: Head,
) {
    let mut closing = None;
    while closing.is_none() {
        closing = match queue.blocking_recv() {
            Some(Message::Work(first)) => commit_group(&conn, first, &mut queue, options, heads, &mut head),
            Some(Message::Close(done)) => Some(done),
            None => break,
        };
    }
    head.close(&conn);
    // Whoever is told finds the file as it stays.
    drop(conn);
    if let Some(done) = closing {
        let _ = done.send(());
    }
}

/// Says in the history which commits are missing, and keeps the head that tells of them, before it is written anew.
fn say_what_is_lost(path: &Path, conn: &Connection, options: &StoreOptions, lost: WentDown) -> Result<(), StoreError> {
    let WentDown { had, has } = lost;
    tracing::error!(
        target: "pod::store", store = %path.display(), had, has,
        "the machine went down, and the store has lost its last commits; `durability = power` keeps them"
    );
    head::keep_lost(path)?;
    let error = |source| StoreError::sqlite("write to", source);
    let moment = conn.unchecked_transaction().map_err(error)?;
    let tx = Tx::new(&moment, options.clock.now(), &options.own, &options.limits);
    tx.append(None, None, &HistoryItem::CommitsLost { from: has.saturating_add(1), to: had })?;
    guard::count_commit(&moment, has.saturating_add(1)).map_err(error)?;
    moment.commit().map_err(error)
}

/// Runs `first` and what waits behind it in one transaction. Returns a close that it met.
fn commit_group(
    conn: &Connection,
    first: Box<dyn Work>,
    queue: &mut mpsc::Receiver<Message>,
    options: &StoreOptions,
    heads: &HeadWriters,
    head: &mut Head,
) -> Option<oneshot::Sender<()>> {
    let mut group: Vec<Box<dyn Work>> = Vec::new();
    let mut close = None;
    let changes = conn.total_changes();
    let mut outcome = conn.execute_batch("BEGIN IMMEDIATE").map_err(|e| StoreError::sqlite("write to", e));
    let mut next = Some(first);
    while let Some(mut work) = next.take() {
        if outcome.is_ok() {
            outcome = run_in_savepoint(conn, &mut *work, options);
        }
        group.push(work);
        if outcome.is_ok() && group.len() < options.limits.batch {
            match queue.try_recv() {
                Ok(Message::Work(work)) => next = Some(work),
                Ok(Message::Close(done)) => close = Some(done),
                Err(_) => {}
            }
        }
    }
    // What only looked is no commit.
    let changed = conn.total_changes() != changes;
    if outcome.is_ok() && changed {
        outcome = guard::count_commit(conn, head.next()).map_err(|e| StoreError::sqlite("write to", e));
    }
    if outcome.is_ok() {
        crate::failpoint!("store_before_commit");
        outcome = conn.execute_batch("COMMIT").map_err(|e| StoreError::sqlite("commit to", e));
    }
    crate::failpoint!("store_after_commit");
    match outcome {
        Ok(()) => {
            if changed {
                head.advance();
            }
            heads.publish(conn);
        }
        Err(error) => {
            if !conn.is_autocommit() {
                let _ = conn.execute_batch("ROLLBACK");
            }
            tracing::warn!(target: "pod::store", error = %error.chain(), transactions = group.len(), "commit failed");
            for work in &mut group {
                work.fail(error.clone());
            }
        }
    }
    for work in group {
        work.answer();
    }
    close
}

/// Runs `work`, and takes back what it did if it fails. An error means that the whole transaction is lost.
fn run_in_savepoint(conn: &Connection, work: &mut dyn Work, options: &StoreOptions) -> Result<(), StoreError> {
    let error = |source| StoreError::sqlite("write to", source);
    conn.execute_batch("SAVEPOINT work").map_err(error)?;
    work.run(conn, options);
    if conn.is_autocommit() {
        // Some errors (a full disk, say) make SQLite roll back everything, not just the statement.
        let cause = work.failure().cloned();
        return Err(cause.unwrap_or_else(|| StoreError::Contradiction("the transaction was rolled back".to_owned())));
    }
    let end = if work.failure().is_none() { "RELEASE work" } else { "ROLLBACK TO work; RELEASE work" };
    conn.execute_batch(end).map_err(error)
}

fn read_loop(conn: Connection, mut queue: mpsc::Receiver<Message>, options: &StoreOptions) {
    while let Some(message) = queue.blocking_recv() {
        let mut work = match message {
            Message::Work(work) => work,
            Message::Close(done) => {
                drop(conn);
                let _ = done.send(());
                return;
            }
        };
        match conn.execute_batch("BEGIN") {
            Ok(()) => {
                work.run(&conn, options);
                if !conn.is_autocommit() {
                    // A transaction that read has nothing to lose.
                    let _ = conn.execute_batch("ROLLBACK");
                }
            }
            Err(error) => work.fail(StoreError::sqlite("read", error)),
        }
        work.answer();
    }
}

fn heads(conn: &Connection, options: &StoreOptions) -> Result<(HeadWriters, Heads), StoreError> {
    let reads = Reads::new(conn, options.clock.now());
    let (history, history_head) = watch::channel(reads.history_head()?);
    let (outbox, outbox_head) = watch::channel(reads.outbox_head()?);
    Ok((HeadWriters { history, outbox }, Heads { history: history_head, outbox: outbox_head }))
}

impl HeadWriters {
    fn publish(&self, conn: &Connection) {
        let reads = Reads::new(conn, crate::store::UnixMillis(0));
        // A head that cannot be read stays: whoever watches it reads the tables themselves, and meets the error there.
        if let Ok(head) = reads.history_head() {
            self.history.send_if_modified(|at| std::mem::replace(at, head) != head);
        }
        if let Ok(head) = reads.outbox_head() {
            self.outbox.send_if_modified(|at| std::mem::replace(at, head) != head);
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "full_tests.rs"]
mod full;
