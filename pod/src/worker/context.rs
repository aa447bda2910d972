//! What a worker may do in its turn.
//!
//! Two kinds, told apart by their names and their types. What lasts is committed when its call returns, and nothing is
//! to be used before: `async`, and fails if it could not be committed. What only eyes need ([`delta`](TurnContext::delta),
//! [`progress`](super::ToolUse::progress)) is said at once, may be missed, and is kept nowhere. A turn that is dropped leaves nothing
//! half done, and one that is over changes nothing any more. Every call may be dropped and made again: what it had begun is
//! done, or is found by the next one.
//!
//! Made by `controller/turn` for each turn, used by workers.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::live::{Producing, floor};
use super::{ToolCall, ToolOutput, ToolUse, WorkerError};
pub use crate::controller::state::Signal;
use crate::handle::{Child, PodHandle, RunError, SpawnError, SpawnPod, Work};
use crate::id::{CallId, PodName, TurnId, WorkId};
use crate::protocol::{FailureKind, clip};
use crate::store::{
    Compaction, HistoryItem, HistoryRow, InboxId, OutputKind, StagedReport, StartedTurn, StoreError, Summary,
    SystemItem, ToolEnd, TurnCause, Tx, Usage,
};

/// LIMIT: reports that one request to a worker may bring: what an agent can take in at once.
const REPORTS_PER_REQUEST: u32 = 64;
/// LIMIT: one piece of output in the history, in bytes. Longer texts are cut into several.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: what a provider wants to be told again with one entry, in bytes of JSON: signatures are a few kilobytes.
pub const PROVIDER_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: a name or a reason that a worker gives, in bytes.
const REASON_BYTES_MAX: usize = 4 * 1024;
/// LIMIT: entries of the context that are read at a time.
const CONTEXT_PAGE: u32 = 256;

/// One turn, as its worker sees it. Clones are the same: tools that run beside each other, in tasks of their own too, may
/// have one each. One that outlives its turn changes nothing any more.
#[derive(Clone)]
pub struct TurnContext(Arc<Turn>);

/// A turn that runs.
struct Turn {
    handle: PodHandle,
    started: StartedTurn,
    told: Mutex<Told>,
    signal: watch::Receiver<Option<Signal>>,
    calls: AtomicU64,
    /// How many requests were answered so far; held while one is marked.
    answered: tokio::sync::Mutex<u32>,
    /// Uses of tools that were dropped: they end before anything else is committed or read.
    dropped: Mutex<Vec<CallId>>,
}

/// What the agent is told in this turn: committed as staged, all of it.
#[derive(Debug, Default)]
struct Told {
    /// What no request has had yet.
    fresh: Vec<StagedReport>,
    /// What the present request has, not answered yet.
    asked: Vec<InboxId>,
}

impl fmt::Debug for TurnContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnContext").field("started", &self.0.started).finish_non_exhaustive()
    }
}

impl TurnContext {
    pub(crate) fn new(handle: PodHandle, mut started: StartedTurn, signal: watch::Receiver<Option<Signal>>) -> Self {
        let fresh = std::mem::take(&mut started.reports);
        Self(Arc::new(Turn {
            handle,
            started,
            told: Mutex::new(Told { fresh, asked: Vec::new() }),
            signal,
            calls: AtomicU64::new(0),
            answered: tokio::sync::Mutex::default(),
            dropped: Mutex::default(),
        }))
    }

    /// Which turn this is.
    pub fn turn(&self) -> TurnId {
        self.0.started.turn
    }

    /// Why it was started.
    pub fn cause(&self) -> TurnCause {
        self.0.started.cause
    }

    /// What the worker was asked to do, if a run started the turn.
    pub fn input(&self) -> Option<&str> {
        self.0.started.input.as_deref()
    }

    /// The works that this turn is for.
    pub fn works(&self) -> &[WorkId] {
        &self.0.started.works
    }

    /// What the agent has yet to be told, for its next request: committed to the history as system items, each told
    /// once unless the turn fails before [`response_received`](Self::response_received). In a compaction it is nothing.
    ///
    /// # Errors
    /// It could not be committed.
    ///
    /// # Cancel safety
    /// It may be dropped and called again: what was taken meanwhile is in the next answer.
    pub async fn next_request(&self) -> Result<Vec<SystemItem>, WorkerError> {
        if self.0.started.cause == TurnCause::Compact {
            return Ok(Vec::new());
        }
        let turn = Arc::clone(&self.0);
        in_its_own_task(async move { turn.stage().await }).await?;
        let mut told = self.0.told();
        let reports = std::mem::take(&mut told.fresh);
        told.asked.extend(reports.iter().map(|report| report.id));
        Ok(reports.into_iter().map(|report| report.item).collect())
    }

    /// The worker has begun to answer the last request: what it was told is told, whatever becomes of the turn.
    ///
    /// # Errors
    /// It could not be committed. It may be called again.
    ///
    /// # Cancel safety
    /// Dropped, it is done all the same.
    pub async fn response_received(&self) -> Result<(), WorkerError> {
        if self.0.told().asked.is_empty() {
            return Ok(());
        }
        let turn = Arc::clone(&self.0);
        in_its_own_task(async move { turn.mark_told(None).await }).await
    }

    /// The same, and a mark in history: what follows in this turn, up to the next mark, is the answer to one request, and
    /// the uses of tools among it were asked for together. A worker that makes its requests from what is committed finds by
    /// these what was one message. Returns the request's number within the turn: 1, 2, 3, ...
    ///
    /// # Errors
    /// It could not be committed. It may be called again.
    ///
    /// # Cancel safety
    /// Dropped, it is done all the same: called again, it marks another answer.
    pub async fn answering(&self) -> Result<u32, WorkerError> {
        let turn = Arc::clone(&self.0);
        in_its_own_task(async move {
            let mut answered = turn.answered.lock().await;
            let request = answered.saturating_add(1);
            turn.mark_told(Some(request)).await?;
            *answered = request;
            Ok(request)
        })
        .await
    }

    /// Writes something that the worker produced to the history.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn output(&self, text: &str) -> Result<(), WorkerError> {
        self.produce(OutputKind::Text, text).await
    }

    /// The same for any kind of output. It takes the place of the deltas of that kind that came before it.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn produce(&self, output: OutputKind, text: &str) -> Result<(), WorkerError> {
        if text.is_empty() {
            return Ok(());
        }
        self.produce_all(output, text, None).await
    }

    /// The same with what a provider wants to be told again with it, in at most 64 KiB of JSON: a signature of what was
    /// thought, say. It stands right behind the entry that it belongs to, the last one of a long text. The text may be empty.
    ///
    /// # Errors
    /// The data is too large, or it could not be committed.
    pub async fn produce_with(
        &self,
        output: OutputKind,
        text: &str,
        provider: serde_json::Value,
    ) -> Result<(), WorkerError> {
        check_provider(&provider)?;
        self.produce_all(output, text, Some(provider)).await
    }

    /// All of it or nothing, however long it is.
    async fn produce_all(
        &self,
        output: OutputKind,
        text: &str,
        provider: Option<serde_json::Value>,
    ) -> Result<(), WorkerError> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while !rest.is_empty() || pieces.is_empty() {
            let (piece, tail) = rest.split_at(floor(rest, OUTPUT_BYTES_MAX));
            rest = tail;
            pieces.push(HistoryItem::Output { output, text: piece.to_owned() });
        }
        let (turn, work) = (self.turn(), self.work());
        self.commit("write the history", move |tx| {
            let mut of = 0;
            for piece in &pieces {
                of = tx.append_in(turn, work, piece)?;
            }
            append_provider(tx, turn, work, of, provider)
        })
        .await?;
        self.0.handle.shared().live.committed(self.turn(), output);
        Ok(())
    }

    /// Shows a piece of output while it is being produced: to whoever watches, and kept nowhere. What is to last is
    /// committed whole with [`produce`](Self::produce) afterwards.
    pub fn delta(&self, output: OutputKind, text: &str) {
        self.0.handle.shared().live.delta(self.turn(), Producing::Output(output), text);
    }

    /// Shows a piece of a tool's arguments while a model writes them: to whoever watches, and kept nowhere. `which` of those
    /// that are written side by side it is: any number, of which five are shown at a time. They are over when
    /// a use [begins](Self::tool).
    pub fn arguments_delta(&self, which: u32, text: &str) {
        self.0.handle.shared().live.delta(self.turn(), Producing::Arguments(which), text);
    }

    /// Begins a use of a tool: committed before the tool does anything. Several may be under way, also while the next
    /// request is made and in tasks of their own; what has no result when the turn ends gets one then.
    ///
    /// # Errors
    /// What [`ToolCall::check`] says, or it could not be committed: the tool must then not be used.
    ///
    /// # Cancel safety
    /// Dropped while it is being committed, it may have begun: then it ends like any other that is dropped.
    pub async fn tool(&self, call: ToolCall) -> Result<ToolUse, WorkerError> {
        call.check()?;
        let number = self.next_call();
        let (turn, work, tool) = (self.turn(), self.work(), clip(&call.tool, REASON_BYTES_MAX).into_owned());
        let ToolCall { arguments, provider, .. } = call;
        let name = tool.clone();
        let begun = ToolUse::new(self.clone(), number);
        self.commit("begin the use of a tool", move |tx| {
            let of = tx.begin_call(turn, work, number, &name, &arguments)?;
            append_provider(tx, turn, work, of, provider)
        })
        .await?;
        self.0.handle.shared().live.call(turn, number, &tool);
        Ok(begun)
    }

    /// Writes down that a model asked for a use that is not begun, and why, as a use that has failed: the model can be
    /// answered, and what it asked for stays in order. Of arguments that are too long the first 4 KiB are kept, as text, and data
    /// of a provider that is too large is left out. Returns what the agent may be told.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn refuse_tool(&self, call: ToolCall, reason: &str) -> Result<ToolOutput, WorkerError> {
        let number = self.next_call();
        let (turn, work) = (self.turn(), self.work());
        let (tool, arguments, provider) = call.cut();
        let told = ToolOutput::from(reason).checked()?;
        let text = told.text.clone();
        self.commit("write down a use of a tool that was refused", move |tx| {
            let of = tx.begin_call(turn, work, number, &tool, &arguments)?;
            append_provider(tx, turn, work, of, provider)?;
            tx.end_call(turn, work, number, ToolEnd::Failed, &text)
        })
        .await?;
        Ok(told)
    }

    fn next_call(&self) -> CallId {
        CallId(self.0.calls.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(super) async fn end_call(&self, call: CallId, result: HistoryItem) -> Result<(), WorkerError> {
        let (turn, work) = (self.turn(), self.work());
        self.commit("end the use of a tool", move |tx| tx.end_call_with(turn, work, call, &result)).await?;
        self.0.handle.shared().live.call_over(turn, call);
        Ok(())
    }

    /// Nobody waits for the use any more. It has its result before anything else is committed or read.
    pub(super) fn drop_call(&self, call: CallId) {
        self.0.dropped().push(call);
        self.0.handle.shared().live.call_over(self.turn(), call);
    }

    /// Writes down what a request has used up.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn usage(&self, usage: Usage) -> Result<(), WorkerError> {
        self.record(HistoryItem::Usage(usage)).await
    }

    /// Says that an attempt, the `attempt`th, has failed and is repeated `after` a pause, which is the worker's to make
    /// ([`rest`](Self::rest)). The deltas of the attempt do not count.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn retrying(&self, attempt: u32, after: Duration, reason: &str) -> Result<(), WorkerError> {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let reason = clip(reason, REASON_BYTES_MAX).into_owned();
        self.record(HistoryItem::Retrying { attempt, after_ms, reason }).await?;
        self.0.handle.shared().live.discard(self.turn());
        Ok(())
    }

    /// Says that what the worker produces was cut and is gone on with.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn continuing(&self, reason: &str) -> Result<(), WorkerError> {
        self.record(HistoryItem::Continuing { reason: clip(reason, REASON_BYTES_MAX).into_owned() }).await
    }

    /// What stands for the oldest part of the context, if it was made shorter.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn summary(&self) -> Result<Option<Summary>, WorkerError> {
        self.end_dropped().await?;
        let found = self.0.handle.store().read(|reads| reads.context_summary()).await;
        found.map_err(failed("read the context"))
    }

    /// The entries of the context after `cursor`, oldest first, a page at a time; it ends where this returns none. What the
    /// [`summary`](Self::summary) stands for and what was rewound is not among them; what this turn was told is. A worker
    /// that makes its requests from this needs no memory of its own, and goes on after a crash as if there had been none.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn context_after(&self, cursor: u64) -> Result<Vec<HistoryRow>, WorkerError> {
        self.end_dropped().await?;
        let found = self.0.handle.store().read(move |reads| reads.context_after(cursor, CONTEXT_PAGE)).await;
        found.map_err(failed("read the context"))
    }

    /// Makes the context shorter in the middle of a turn. What this turn was told and has not confirmed with
    /// [`response_received`](Self::response_received), and all behind it, stays, and so does a use of a tool
    /// whose result stands behind the end of what is summed up. Returns what is committed.
    ///
    /// # Errors
    /// The summary is empty or has more than 128 KiB, or it could not be committed.
    pub async fn compacted(&self, compaction: Compaction) -> Result<Summary, WorkerError> {
        super::check_summary(&compaction)?;
        let turn = self.turn();
        let committed = self.commit("make the context shorter", move |tx| {
            tx.running(turn)?;
            tx.compact(turn, &compaction)?;
            tx.context_summary()
        });
        committed.await?.ok_or_else(|| WorkerError::new("a summary was committed and is not there"))
    }

    /// Writes something else that is worth keeping; of `what`, at most 4 KiB.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn note(&self, what: &str, detail: serde_json::Value) -> Result<(), WorkerError> {
        self.record(HistoryItem::Worker { what: clip(what, REASON_BYTES_MAX).into_owned(), detail }).await
    }

    async fn record(&self, item: HistoryItem) -> Result<(), WorkerError> {
        let (turn, work) = (self.turn(), self.work());
        self.commit("write the history", move |tx| tx.append_in(turn, work, &item)).await.map(|_| ())
    }

    async fn commit<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, WorkerError> {
        self.0.commit(doing, work).await
    }

    async fn end_dropped(&self) -> Result<(), WorkerError> {
        if self.0.dropped().is_empty() {
            return Ok(());
        }
        self.commit("end the uses of tools that were given up", |_| Ok(())).await
    }

    fn work(&self) -> Option<WorkId> {
        self.0.work()
    }

    /// What the turn is asked for, if anything: to pause, to end because time is over, to give up, or to make way for the pod's end.
    pub fn signal(&self) -> Option<Signal> {
        *self.0.signal.borrow()
    }

    /// Waits until the turn is asked to end.
    ///
    /// # Cancel safety
    /// It may be dropped and called again.
    pub async fn signalled(&self) -> Signal {
        let mut signal = self.0.signal.clone();
        loop {
            if let Some(asked) = *signal.borrow_and_update() {
                return asked;
            }
            if signal.changed().await.is_err() {
                // The controller has gone: nothing that the turn does can be committed any more.
                return Signal::Shutdown;
            }
        }
    }

    /// Waits for so long, or until the turn is asked to end: then says so.
    ///
    /// # Cancel safety
    /// It may be dropped.
    pub async fn rest(&self, pause: Duration) -> Option<Signal> {
        // CANCEL SAFETY: neither holds anything.
        tokio::select! {
            biased;
            signal = self.signalled() => Some(signal),
            () = tokio::time::sleep(pause) => None,
        }
    }

    /// Starts a child of this pod; returns when it is ready.
    ///
    /// # Errors
    /// [`SpawnError`] names the child, the reason and the remedy. A turn that is over starts none.
    pub async fn spawn_pod(&self, spawn: SpawnPod) -> Result<Child, SpawnError> {
        self.0.handle.spawn_pod_in(Some(self.turn()), spawn).await
    }

    /// Gives work to a child, on behalf of the work of this turn: that is settled only when this is.
    ///
    /// # Errors
    /// [`RunError`]. A turn that is over gives none.
    pub async fn delegate(&self, child: &PodName, input: impl Into<String>) -> Result<Work, RunError> {
        self.0.handle.delegate(child, Some(self.turn()), self.work(), input.into()).await
    }

    /// The pod that this worker belongs to.
    pub fn pod(&self) -> &PodHandle {
        &self.0.handle
    }
}

impl Turn {
    fn told(&self) -> MutexGuard<'_, Told> {
        // Plain values, each change whole.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dropped(&self) -> MutexGuard<'_, Vec<CallId>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> Option<WorkId> {
        self.started.works.first().copied()
    }

    /// Takes what there is to tell, as far as one request has room.
    async fn stage(&self) -> Result<(), WorkerError> {
        let waiting = u32::try_from(self.told().fresh.len()).unwrap_or(u32::MAX);
        let room = REPORTS_PER_REQUEST.saturating_sub(waiting);
        if room == 0 {
            return Ok(());
        }
        let turn = self.started.turn;
        let staged = self.commit("stage what the agent is told", move |tx| {
            // A worker that was ended may be this far: what it would take now, nobody would give back.
            tx.running(turn)?;
            tx.stage_reports(turn, room)
        });
        let staged = staged.await?;
        self.told().fresh.extend(staged);
        Ok(())
    }

    /// What the present request was told is told.
    async fn mark_told(&self, request: Option<u32>) -> Result<(), WorkerError> {
        // They stay where they are until it is committed: marked twice is marked once.
        let told = self.told().asked.clone();
        let (turn, work, marked) = (self.started.turn, self.work(), told.clone());
        self.commit("mark what the agent was told", move |tx| {
            tx.mark_seen(turn, &marked)?;
            match request {
                Some(request) => tx.append_in(turn, work, &HistoryItem::Answering { request }).map(drop),
                None => Ok(()),
            }
        })
        .await?;
        self.told().asked.retain(|id| !told.contains(id));
        Ok(())
    }

    async fn commit<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, WorkerError> {
        // Only looked at: should this be given up in the middle, the next one does it again, and finds it done.
        let dropped = self.dropped().clone();
        let (turn, of, ending) = (self.started.turn, self.work(), dropped.clone());
        let done = self.handle.commit(move |tx| {
            ending.iter().try_for_each(|call| tx.abandon_call(turn, of, *call))?;
            work(tx)
        });
        let done = done.await.map_err(failed(doing))?;
        self.dropped().retain(|call| !dropped.contains(call));
        Ok(done)
    }
}

/// Does something to its end, also if nobody waits for it any more.
async fn in_its_own_task<T: Send + 'static>(
    doing: impl Future<Output = Result<T, WorkerError>> + Send + 'static,
) -> Result<T, WorkerError> {
    match tokio::spawn(doing).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(WorkerError::new(format!("the pod is stopping: {error}"))),
        },
    }
}

pub(super) fn check_provider(data: &serde_json::Value) -> Result<(), WorkerError> {
    match data.to_string().len() {
        bytes if bytes > PROVIDER_BYTES_MAX => Err(WorkerError::new(format!(
            "what the provider wants kept has {bytes} bytes; at most {PROVIDER_BYTES_MAX} are allowed"
        ))),
        _ => Ok(()),
    }
}

/// Right behind the entry that it belongs to.
fn append_provider(
    tx: &Tx<'_>,
    turn: TurnId,
    work: Option<WorkId>,
    of: u64,
    provider: Option<serde_json::Value>,
) -> Result<(), StoreError> {
    match provider {
        Some(data) => tx.append_in(turn, work, &HistoryItem::Provider { of, data }).map(drop),
        None => Ok(()),
    }
}

fn failed(doing: &'static str) -> impl FnOnce(StoreError) -> WorkerError {
    move |error| {
        let kind = if error.is_of_whoever_writes() { FailureKind::Other } else { FailureKind::Store };
        WorkerError::of_kind(kind, format!("failed to {doing}: {}", error.chain()))
    }
}
