//! What a worker may do in its turn.
//!
//! Two kinds, told apart by their names and their types. What lasts is committed when its call returns, and nothing is
//! to be used before: `async`, and fails if it could not be committed. What only eyes need ([`delta`](TurnContext::delta),
//! [`progress`](super::ToolUse::progress)) is said at once, may be missed, and is kept nowhere. A turn that is dropped leaves nothing
//! half done, and one that is over changes nothing any more.
//!
//! Made by `controller/turn` for each turn, used by workers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::live::floor;
use super::{ToolUse, WorkerError};
pub use crate::controller::state::Signal;
use crate::handle::{Child, PodHandle, RunError, SpawnError, SpawnPod, Work};
use crate::id::{CallId, PodName, TurnId, WorkId};
use crate::protocol::clip;
use crate::store::{
    Compaction, HistoryItem, HistoryRow, InboxId, OutputKind, StagedReport, StartedTurn, StoreError, Summary,
    SystemItem, TurnCause, Tx, Usage,
};

/// LIMIT: reports that one request to a worker may bring: what an agent can take in at once.
const REPORTS_PER_REQUEST: u32 = 64;
/// LIMIT: one piece of output in the history, in bytes. Longer texts are cut into several.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: what a tool is told, in bytes of JSON. It fits a history entry whatever is in it.
const ARGUMENTS_BYTES_MAX: usize = 128 * 1024;
/// LIMIT: what a provider wants to be told again with one entry, in bytes of JSON: signatures are a few kilobytes.
pub const PROVIDER_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: a name or a reason that a worker gives, in bytes.
const REASON_BYTES_MAX: usize = 4 * 1024;
/// LIMIT: entries of the context that are read at a time.
const CONTEXT_PAGE: u32 = 256;

/// One turn, as its worker sees it.
#[derive(Debug)]
pub struct TurnContext {
    handle: PodHandle,
    started: StartedTurn,
    /// Reports that came with the turn and were not asked for yet.
    fresh: Vec<StagedReport>,
    /// Reports of the present request.
    told: Vec<InboxId>,
    signal: watch::Receiver<Option<Signal>>,
    calls: AtomicU64,
    /// How many requests were answered so far.
    answered: u32,
    /// Uses of tools that were dropped: they end before anything else is committed or read.
    dropped: Mutex<Vec<CallId>>,
}

impl TurnContext {
    pub(crate) fn new(handle: PodHandle, mut started: StartedTurn, signal: watch::Receiver<Option<Signal>>) -> Self {
        let fresh = std::mem::take(&mut started.reports);
        Self {
            handle,
            started,
            fresh,
            told: Vec::new(),
            signal,
            calls: AtomicU64::new(0),
            answered: 0,
            dropped: Mutex::default(),
        }
    }

    /// Which turn this is.
    pub fn turn(&self) -> TurnId {
        self.started.turn
    }

    /// Why it was started.
    pub fn cause(&self) -> TurnCause {
        self.started.cause
    }

    /// What the worker was asked to do, if a run started the turn.
    pub fn input(&self) -> Option<&str> {
        self.started.input.as_deref()
    }

    /// The works that this turn is for.
    pub fn works(&self) -> &[WorkId] {
        &self.started.works
    }

    /// What the agent has yet to be told, for its next request: committed to the history as system items, each told
    /// once unless the turn fails before [`response_received`](Self::response_received). In a compaction it is nothing.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn next_request(&mut self) -> Result<Vec<SystemItem>, WorkerError> {
        if self.started.cause == TurnCause::Compact {
            return Ok(Vec::new());
        }
        let mut reports = std::mem::take(&mut self.fresh);
        let turn = self.started.turn;
        let room = REPORTS_PER_REQUEST.saturating_sub(u32::try_from(reports.len()).unwrap_or(u32::MAX));
        if room > 0 {
            let staged = self.commit("stage what the agent is told", move |tx| {
                // A worker that was ended may be this far: what it would take now, nobody would give back.
                tx.running(turn)?;
                tx.stage_reports(turn, room)
            });
            reports.extend(staged.await?);
        }
        self.told.extend(reports.iter().map(|report| report.id));
        Ok(reports.into_iter().map(|report| report.item).collect())
    }

    /// The worker has begun to answer the last request: what it was told is told, whatever becomes of the turn.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn response_received(&mut self) -> Result<(), WorkerError> {
        let (turn, told) = (self.started.turn, std::mem::take(&mut self.told));
        if told.is_empty() {
            return Ok(());
        }
        self.handle.commit(move |tx| tx.mark_seen(turn, &told)).await.map_err(failed("mark what the agent was told"))
    }

    /// The same, and a mark in history: what follows in this turn, up to the next mark, is the answer to one request, and
    /// the uses of tools among it were asked for together. A worker that makes its requests from what is committed finds by
    /// these what was one message. Returns the request's number within the turn: 1, 2, 3, ...
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn answering(&mut self) -> Result<u32, WorkerError> {
        let (turn, work, told) = (self.turn(), self.work(), std::mem::take(&mut self.told));
        let request = self.answered.saturating_add(1);
        let mark = self.commit("mark the beginning of an answer", move |tx| {
            tx.mark_seen(turn, &told)?;
            tx.append_in(turn, work, &HistoryItem::Answering { request })
        });
        mark.await?;
        self.answered = request;
        Ok(request)
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
        self.handle.shared().live.committed(self.turn(), output);
        Ok(())
    }

    /// Shows a piece of output while it is being produced: to whoever watches, and kept nowhere. What is to last is
    /// committed whole with [`produce`](Self::produce) afterwards.
    pub fn delta(&self, output: OutputKind, text: &str) {
        self.handle.shared().live.delta(self.turn(), output, text);
    }

    /// Begins a use of a tool: committed before the tool does anything. Several may be under way.
    ///
    /// # Errors
    /// The arguments have more than 128 KiB, or it could not be committed: the tool must then not be used.
    pub async fn tool(&self, tool: &str, arguments: serde_json::Value) -> Result<ToolUse<'_>, WorkerError> {
        self.begin_tool(tool, arguments, None).await
    }

    /// The same with what a provider wants to be told again with it, in at most 64 KiB of JSON: the name that it gave this
    /// use, say.
    ///
    /// # Errors
    /// The arguments have more than 128 KiB, the data is too large, or it could not be committed: the tool must then not be
    /// used.
    pub async fn tool_with(
        &self,
        tool: &str,
        arguments: serde_json::Value,
        provider: serde_json::Value,
    ) -> Result<ToolUse<'_>, WorkerError> {
        check_provider(&provider)?;
        self.begin_tool(tool, arguments, Some(provider)).await
    }

    async fn begin_tool(
        &self,
        tool: &str,
        arguments: serde_json::Value,
        provider: Option<serde_json::Value>,
    ) -> Result<ToolUse<'_>, WorkerError> {
        let bytes = arguments.to_string().len();
        if bytes > ARGUMENTS_BYTES_MAX {
            let text = format!("tool `{tool}` is told {bytes} bytes; at most {ARGUMENTS_BYTES_MAX} are allowed");
            return Err(WorkerError::new(text));
        }
        let call = CallId(self.calls.fetch_add(1, Ordering::Relaxed) + 1);
        let (turn, work, tool) = (self.turn(), self.work(), clip(tool, REASON_BYTES_MAX).into_owned());
        let name = tool.clone();
        // Dropped while it is being committed it may have begun: then it ends like any other that is dropped.
        let begun = ToolUse::new(self, call);
        self.commit("begin the use of a tool", move |tx| {
            let of = tx.begin_call(turn, work, call, &name, &arguments)?;
            append_provider(tx, turn, work, of, provider)
        })
        .await?;
        self.handle.shared().live.call(turn, call, &tool);
        Ok(begun)
    }

    pub(super) async fn end_call(&self, call: CallId, result: HistoryItem) -> Result<(), WorkerError> {
        let (turn, work) = (self.turn(), self.work());
        self.commit("end the use of a tool", move |tx| tx.end_call_with(turn, work, call, &result)).await?;
        self.handle.shared().live.call_over(turn, call);
        Ok(())
    }

    /// Nobody waits for the use any more. It has its result before anything else is committed or read.
    pub(super) fn drop_call(&self, call: CallId) {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        self.handle.shared().live.call_over(self.turn(), call);
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
        self.handle.shared().live.discard(self.turn());
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
        let found = self.handle.store().read(|reads| reads.context_summary()).await;
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
        let found = self.handle.store().read(move |reads| reads.context_after(cursor, CONTEXT_PAGE)).await;
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
        // Only looked at: should this be given up in the middle, the next one does it again, and finds it done.
        let dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (turn, of, ending) = (self.turn(), self.work(), dropped.clone());
        let done = self.handle.commit(move |tx| {
            ending.iter().try_for_each(|call| tx.abandon_call(turn, of, *call))?;
            work(tx)
        });
        let done = done.await.map_err(failed(doing))?;
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).retain(|call| !dropped.contains(call));
        Ok(done)
    }

    async fn end_dropped(&self) -> Result<(), WorkerError> {
        if self.dropped.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Ok(());
        }
        self.commit("end the uses of tools that were given up", |_| Ok(())).await
    }

    fn work(&self) -> Option<WorkId> {
        self.started.works.first().copied()
    }

    /// What the turn is asked for, if anything: to pause, to give up, or to make way for the pod's end.
    pub fn signal(&self) -> Option<Signal> {
        *self.signal.borrow()
    }

    /// Waits until the turn is asked to end.
    ///
    /// # Cancel safety
    /// It may be dropped and called again.
    pub async fn signalled(&self) -> Signal {
        let mut signal = self.signal.clone();
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
        self.handle.spawn_pod_in(Some(self.turn()), spawn).await
    }

    /// Gives work to a child, on behalf of the work of this turn: that is settled only when this is.
    ///
    /// # Errors
    /// [`RunError`]. A turn that is over gives none.
    pub async fn delegate(&self, child: &PodName, input: impl Into<String>) -> Result<Work, RunError> {
        self.handle.delegate(child, Some(self.turn()), self.work(), input.into()).await
    }

    /// The pod that this worker belongs to.
    pub fn pod(&self) -> &PodHandle {
        &self.handle
    }
}

fn check_provider(data: &serde_json::Value) -> Result<(), WorkerError> {
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
    move |error| WorkerError::new(format!("failed to {doing}: {}", error.chain()))
}
