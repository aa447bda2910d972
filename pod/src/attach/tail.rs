//! One task for all observers of a pod: reads what is committed once, puts it in order with what is under way, and wakes
//! them together.
//!
//! Runs while anybody watches. Never waits for an observer, and holds nothing for one. Works in rounds, with a pause
//! between them that grows with their number, so that all of them together cost the pod a bounded share of a processor.
//!
//! **The order.** Everything that is under way carries the entry that was the newest when it arose (`worker/live`). A
//! worker that commits its output afterwards commits a later entry, and one that goes on after a commit has that entry
//! behind it. So the queue of what is under way and the history are merged by that number: an entry is put behind all
//! that came before it, and before all that came after.
//!
//! Fills `ring`; started by the first observer that sits down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{broadcast, watch};

use super::picture::{Call, EntryHead, Picture, Piece};
use super::ring::{Batch, Behind, Item, Place, Ring};
use crate::handle::Shared;
use crate::id::TurnId;
use crate::protocol::{DELTA_BYTES_MAX, Glimpse, PodState, Text};
use crate::store::{HistoryItem, HistoryLine, StoreError};
use crate::worker::live::Placed;
use crate::worker::{LiveItem, Producing};

/// LIMIT: observers of one pod. Each costs a task and its stream's credit.
pub(crate) const OBSERVERS_MAX: u32 = 256;
/// The pause between two rounds, for each observer. LIMIT: to be woken, send and be given new credit costs the pod 10 to 20 us
/// each; so they take a few hundredths of a processor beside the copying, however many there are. A hundred see everything
/// within 50 ms, which is soon enough for eyes; one sees it within [`PAUSE_MIN`].
const PAUSE_PER_OBSERVER: Duration = Duration::from_micros(500);
/// How many times as long the pause is when changes were missed and everything in flight was sent anew. LIMIT: a worker that
/// is faster than its observers would have that sent in every round, a hundred times as much as a change.
const LOOKED_AGAIN: u32 = 10;
/// LIMIT: nobody sees anything sooner.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// LIMIT: entries that are read at a time, in bytes.
const PAGE_BYTES: usize = 1 << 20;
/// LIMIT: changes of what is under way that are put in order at a time: more than its queue holds.
const CHANGES_MAX: usize = 1024;

/// What the observers of a pod share. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Tail(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    now: Mutex<Now>,
    /// Wakes the observers; counts the rounds.
    rounds: watch::Sender<u64>,
    /// Wakes the task when nobody is left.
    left: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct Now {
    ring: Ring,
    observers: u32,
    task: Task,
}

#[derive(Debug, Default)]
enum Task {
    #[default]
    None,
    /// It has not yet looked where to begin.
    Begins,
    Runs,
    /// It could not go on, and why.
    Failed(StoreError),
}

/// One observer's seat; left when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    tail: Tail,
    rounds: watch::Receiver<u64>,
}

impl Tail {
    pub(crate) fn new() -> Self {
        let inner = Inner { now: Mutex::default(), rounds: watch::Sender::new(0), left: tokio::sync::Notify::new() };
        Self(Arc::new(inner))
    }

    /// How many watch.
    #[cfg(test)]
    pub(crate) fn observers(&self) -> u32 {
        self.lock().observers
    }

    /// A seat, if one is free.
    pub(super) fn sit(&self, shared: &Shared) -> Option<Seat> {
        // Whoever has gone without a word notices it now, and leaves.
        self.wake();
        let mut now = self.lock();
        if now.observers >= OBSERVERS_MAX {
            return None;
        }
        now.observers += 1;
        if matches!(now.task, Task::None | Task::Failed(_)) {
            now.task = Task::Begins;
            tokio::spawn(Run::new(shared.clone()).run());
        }
        Some(Seat { tail: self.clone(), rounds: self.0.rounds.subscribe() })
    }

    fn wake(&self) {
        self.0.rounds.send_modify(|round| *round = round.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // Each change is whole: a panic elsewhere has left nothing half done.
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Where the tail is now: what is committed up to there is to be read from the store.
    pub(super) async fn place(&mut self) -> Result<Place, StoreError> {
        loop {
            self.rounds.mark_unchanged();
            match &*self.tail.lock() {
                Now { task: Task::Runs, ring, .. } => return Ok(ring.place()),
                Now { task: Task::Failed(error), .. } => return Err(error.clone()),
                Now { task: Task::None | Task::Begins, .. } => {}
            }
            self.changed().await;
        }
    }

    /// The item number `next`, if it is there.
    pub(super) fn item(&mut self, next: u64) -> Result<Option<Item>, Behind> {
        self.rounds.mark_unchanged();
        self.tail.lock().ring.item(next)
    }

    /// Whether the tail goes on.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self.tail.lock().task, Task::Runs | Task::Begins)
    }

    /// Waits until there was a round since the last look.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub(super) async fn changed(&mut self) {
        // The sender is in the tail that we hold.
        let _ = self.rounds.changed().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut now = self.tail.lock();
        now.observers = now.observers.saturating_sub(1);
        if now.observers == 0 {
            self.tail.0.left.notify_one();
        }
    }
}

/// The task.
struct Run {
    shared: Shared,
    head: watch::Receiver<u64>,
    phase: watch::Receiver<PodState>,
    changes: broadcast::Receiver<Placed>,
    /// Whether changes were missed since the last pause.
    looked_again: bool,
}

impl Run {
    fn new(shared: Shared) -> Self {
        let (_, _, changes) = shared.live.look_placed();
        Self {
            head: shared.store.history_head(),
            phase: shared.phase.subscribe(),
            changes,
            looked_again: false,
            shared,
        }
    }

    async fn run(mut self) {
        let ended = match self.begin().await {
            Ok(()) => self.rounds().await,
            Err(error) => Err(error),
        };
        let tail = self.shared.tail.clone();
        if let Err(error) = ended {
            if !matches!(error, StoreError::Closed) {
                tracing::warn!(pod = %self.shared.id, error = error.chain(), "the observers lost the history");
            }
            tail.lock().task = Task::Failed(error);
        }
        tail.wake();
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        let (picture, cursor) = self.look().await?;
        let state = *self.phase.borrow_and_update();
        let mut now = self.shared.tail.lock();
        now.ring.begin(cursor, picture, state);
        now.task = Task::Runs;
        drop(now);
        self.shared.tail.wake();
        Ok(())
    }

    async fn rounds(&mut self) -> Result<(), StoreError> {
        loop {
            let observers = {
                let mut now = self.shared.tail.lock();
                if now.observers == 0 {
                    *now = Now { ring: Ring::default(), ..Now::default() };
                    return Ok(());
                }
                now.observers
            };
            self.round().await?;
            self.shared.tail.wake();
            let times = if std::mem::take(&mut self.looked_again) { LOOKED_AGAIN } else { 1 };
            tokio::time::sleep(PAUSE_PER_OBSERVER.saturating_mul(observers).max(PAUSE_MIN) * times).await;
            // CANCEL SAFETY: waiting changes nothing, but for a change that is received: it is put in order.
            tokio::select! {
                changed = self.head.changed() => changed.map_err(|_| StoreError::Closed)?,
                changed = self.changes.recv() => match changed {
                    Ok(placed) => self.one(placed).await?,
                    Err(broadcast::error::RecvError::Lagged(_)) => self.look_again().await?,
                    Err(broadcast::error::RecvError::Closed) => return Err(StoreError::Closed),
                },
                changed = self.phase.changed() => changed.map_err(|_| StoreError::Closed)?,
                () = self.shared.tail.0.left.notified() => {}
            }
        }
    }

    async fn one(&mut self, placed: Placed) -> Result<(), StoreError> {
        self.entries(placed.after).await?;
        if let Some(glimpse) = glimpse(placed.item) {
            self.shared.tail.lock().ring.glimpse(glimpse);
        }
        Ok(())
    }

    /// Puts in order all that there is.
    async fn round(&mut self) -> Result<(), StoreError> {
        // First the head, then the queue: what came before the newest entry is in the queue by now.
        let head = *self.head.borrow_and_update();
        let state = *self.phase.borrow_and_update();
        let mut pending: Option<(u64, Glimpse)> = None;
        for _ in 0..CHANGES_MAX {
            match self.changes.try_recv() {
                Ok(placed) => {
                    let Some(glimpse) = glimpse(placed.item) else { continue };
                    if let Some((after, before)) = &mut pending
                        && *after == placed.after
                        && joined(before, &glimpse)
                    {
                        continue;
                    }
                    if let Some((after, before)) = pending.replace((placed.after, glimpse)) {
                        self.entries(after).await?;
                        self.shared.tail.lock().ring.glimpse(before);
                    }
                }
                Err(TryRecvError::Lagged(_)) => {
                    pending = None;
                    self.look_again().await?;
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if let Some((after, last)) = pending {
            self.entries(after).await?;
            self.shared.tail.lock().ring.glimpse(last);
        }
        self.entries(head).await?;
        self.shared.tail.lock().ring.state(state);
        Ok(())
    }

    /// Puts the entries up to `upto` into the ring.
    async fn entries(&mut self, upto: u64) -> Result<(), StoreError> {
        loop {
            let cursor = self.shared.tail.lock().ring.cursor();
            if cursor >= upto {
                return Ok(());
            }
            let lines = self.shared.store.read(move |reads| reads.history_lines(cursor, upto, PAGE_BYTES)).await?;
            if lines.is_empty() {
                return Ok(());
            }
            let more = lines.last().is_some_and(|line| line.seq < upto);
            self.add(&lines);
            if more {
                // Far behind: whoever waits need not wait for all of it.
                self.shared.tail.wake();
            }
        }
    }

    fn add(&self, lines: &[HistoryLine]) {
        let (mut batch, mut heads) = (Batch::default(), Vec::new());
        for line in lines {
            if batch.is_full(line) {
                let (full, heads) = (std::mem::take(&mut batch), std::mem::take(&mut heads));
                self.shared.tail.lock().ring.entries(full, &heads);
            }
            if EntryHead::matters(&line.kind) {
                heads.extend(EntryHead::of(&line.line).ok());
            }
            batch.push(line);
        }
        if !batch.is_empty() {
            self.shared.tail.lock().ring.entries(batch, &heads);
        }
    }

    /// Changes were missed: observers are shown all that is in flight.
    async fn look_again(&mut self) -> Result<(), StoreError> {
        let (picture, after) = self.look().await?;
        self.looked_again = true;
        self.entries(after).await?;
        self.shared.tail.lock().ring.replace(picture);
        Ok(())
    }

    /// What is in flight behind the entry that is the newest one now. What changes after it is in the queue.
    async fn look(&mut self) -> Result<(Picture, u64), StoreError> {
        let (found, after, changes) = self.shared.live.look_placed();
        self.changes = changes;
        let (turn, begun) = (found.turn, found.pieces.iter().map(|piece| piece.after).min());
        let (running, ends, open) = self
            .shared
            .store
            .read(move |reads| {
                let running = reads.turn_in("running")?;
                let ends = match (turn, begun) {
                    (Some(turn), Some(begun)) => reads.piece_ends(turn, begun, after)?,
                    _ => Vec::new(),
                };
                let open = turn.or(running).map(|turn| reads.calls_open(turn)).transpose()?.unwrap_or_default();
                Ok((running, ends, open))
            })
            .await?;
        // A piece may stand in history and not be told to be over yet.
        let pieces = found.pieces.into_iter().filter(|piece| {
            !ends.iter().any(|(seq, item)| {
                *seq > piece.after
                    && match item {
                        HistoryItem::Output { output, .. } => Producing::Output(*output) == piece.output,
                        HistoryItem::ToolCall { .. } => matches!(piece.output, Producing::Arguments(_)),
                        _ => true,
                    }
            })
        });
        let pieces = pieces.map(|piece| Piece {
            output: piece.output.to_string(),
            number: piece.number,
            left_out: piece.left_out,
            text: piece.text,
        });
        let calls = open.into_iter().map(|(call, tool)| {
            let progress = found.calls.get(&call).and_then(|known| known.progress.clone());
            Call {
                call,
                tool: Text::<{ crate::protocol::TOOL_BYTES_MAX }>::clipped(tool).as_str().to_owned(),
                progress,
            }
        });
        let turn: Option<TurnId> = turn.or(running);
        Ok((Picture { turn, pieces: pieces.collect(), calls: calls.collect() }, after))
    }
}

/// Goes on with `before` if `next` does so without a gap and both fit one.
fn joined(before: &mut Glimpse, next: &Glimpse) -> bool {
    match (before, next) {
        (
            Glimpse::Delta { turn, piece, at, text, .. },
            Glimpse::Delta { turn: next_turn, piece: next_piece, at: next_at, text: next_text, .. },
        ) if turn == next_turn && piece == next_piece => {
            let whole = text.len().saturating_add(next_text.len());
            if at.saturating_add(text.len() as u64) != *next_at || whole > DELTA_BYTES_MAX {
                return false;
            }
            *text = format!("{text}{next_text}").into();
            true
        }
        // Of progress the newest counts.
        (
            Glimpse::Progress { turn, call, text },
            Glimpse::Progress { turn: next_turn, call: next_call, text: next_text },
        ) if turn == next_turn && call == next_call => {
            *text = next_text.clone();
            true
        }
        _ => false,
    }
}

fn glimpse(item: LiveItem) -> Option<Glimpse> {
    Some(match item {
        LiveItem::Delta { turn, output, piece, at, text } => {
            Glimpse::Delta { turn, output: output.to_string().into(), piece, at, text: text.into() }
        }
        LiveItem::PieceOver { turn, piece, .. } => Glimpse::PieceOver { turn, piece },
        LiveItem::Progress { turn, call, text } => Glimpse::Progress { turn, call, text: text.into() },
        LiveItem::TurnOver { turn } => Glimpse::TurnOver { turn },
        LiveItem::Missed => return None,
    })
}
