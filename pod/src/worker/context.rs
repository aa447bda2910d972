//! What a worker may do in its turn.
//!
//! Everything that a turn produces is committed when the call returns; a turn that is dropped leaves nothing half done.
//!
//! Made by `controller/turn` for each turn, used by workers.

use tokio::sync::watch;

use super::WorkerError;
pub use crate::controller::state::Signal;
use crate::handle::{Child, PodHandle, RunError, SpawnError, SpawnPod, Work};
use crate::id::{PodName, TurnId, WorkId};
use crate::store::{HistoryItem, InboxId, OutputKind, StagedReport, StartedTurn, StoreError, SystemItem, TurnCause};

/// LIMIT: reports that one request to a worker may bring: what an agent can take in at once.
const REPORTS_PER_REQUEST: u32 = 64;
/// LIMIT: one piece of output in the history, in bytes. Longer texts are cut into several.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

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
}

impl TurnContext {
    pub(crate) fn new(handle: PodHandle, mut started: StartedTurn, signal: watch::Receiver<Option<Signal>>) -> Self {
        let fresh = std::mem::take(&mut started.reports);
        Self { handle, started, fresh, told: Vec::new(), signal }
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
    /// once unless the turn fails before [`response_received`](Self::response_received).
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn next_request(&mut self) -> Result<Vec<SystemItem>, WorkerError> {
        let mut reports = std::mem::take(&mut self.fresh);
        let turn = self.started.turn;
        let room = REPORTS_PER_REQUEST.saturating_sub(u32::try_from(reports.len()).unwrap_or(u32::MAX));
        if room > 0 {
            let staged = self.handle.commit(move |tx| {
                // A worker that was ended may be this far: what it would take now, nobody would give back.
                match tx.turn_in("running")? {
                    Some(running) if running == turn => tx.stage_reports(turn, room),
                    _ => Err(StoreError::Contradiction(format!("turn {turn} is over"))),
                }
            });
            let staged = staged.await;
            reports.extend(staged.map_err(failed("stage what the agent is told"))?);
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

    /// Writes something that the worker produced to the history.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn output(&self, text: &str) -> Result<(), WorkerError> {
        self.produce(OutputKind::Text, text).await
    }

    pub(super) async fn produce(&self, output: OutputKind, text: &str) -> Result<(), WorkerError> {
        let mut rest = text;
        while !rest.is_empty() {
            let end = (0..=rest.len().min(OUTPUT_BYTES_MAX)).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(0);
            let (piece, tail) = rest.split_at(end);
            rest = tail;
            self.record(HistoryItem::Output { output, text: piece.to_owned() }).await?;
        }
        Ok(())
    }

    /// Writes something else that is worth keeping: a tool call, usage, a retry.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn note(&self, what: &str, detail: serde_json::Value) -> Result<(), WorkerError> {
        self.record(HistoryItem::Worker { what: what.to_owned(), detail }).await
    }

    async fn record(&self, item: HistoryItem) -> Result<(), WorkerError> {
        let (turn, work) = (self.started.turn, self.started.works.first().copied());
        let written = self.handle.commit(move |tx| tx.append(Some(turn), work, &item)).await;
        written.map(|_| ()).map_err(failed("write the history"))
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

    /// Starts a child of this pod; returns when it is ready.
    ///
    /// # Errors
    /// [`SpawnError`] names the child, the reason and the remedy.
    pub async fn spawn_pod(&self, spawn: SpawnPod) -> Result<Child, SpawnError> {
        self.handle.spawn_pod(spawn).await
    }

    /// Gives work to a child, on behalf of the work of this turn: that is settled only when this is.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn delegate(&self, child: &PodName, input: impl Into<String>) -> Result<Work, RunError> {
        self.handle.delegate(child, self.started.works.first().copied(), input.into()).await
    }

    /// The pod that this worker belongs to.
    pub fn pod(&self) -> &PodHandle {
        &self.handle
    }
}

fn failed(doing: &'static str) -> impl FnOnce(StoreError) -> WorkerError {
    move |error| WorkerError::new(format!("failed to {doing}: {}", error.chain()))
}
