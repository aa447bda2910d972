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

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{Semaphore, broadcast, watch};

use super::picture::{Call, EntryHead, Picture, Piece};
use super::ring::{Batch, Behind, Item, Place, Ring};
use crate::handle::Shared;
use crate::id::TurnId;
use crate::protocol::{DELTA_BYTES_MAX, Glimpse, PodState, Text};
use crate::store::{HistoryItem, HistoryLine, Reading, StoreError};
use crate::worker::live::Placed;
use crate::worker::{LiveItem, Producing};

/// LIMIT: observers of one pod. Each costs a task and its stream's credit.
pub(crate) const OBSERVERS_MAX: u32 = 256;
/// LIMIT: how many times as often as there are seats left one process may watch: whoever takes all that it may leaves some for
/// the next one, as `rpc` does with connections.
const OF_ONE_PROCESS: u32 = 4;
/// LIMIT: observers whose pages are read at the same time. What is new waits for so many pages of 64 KiB at most.
const CATCHING_UP: usize = 4;
/// LIMIT: how long a pod that ends waits for its observers to be sent the last of it. Whoever reads has it in milliseconds.
const LAST_ROUND: Duration = Duration::from_millis(500);
/// What was sent last is on its way: it is written by other tasks, which get so long before connections are ended.
const LAST_WRITES: Duration = Duration::from_millis(20);
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
    ending: watch::Sender<Ending>,
    catching_up: Semaphore,
}

#[derive(Debug, Default)]
struct Now {
    ring: Ring,
    observers: u32,
    /// How many of them each process has; those that no kernel names are one.
    held: HashMap<Option<i32>, u32>,
    task: Task,
    /// The observers' own way to the store: they are in nobody's way who asks the pod for something.
    reads: Option<Reading>,
}

/// How far the pod's end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ending {
    #[default]
    Not,
    /// All is committed: who watches is sent the rest of it.
    LastRound,
    /// Whoever has not taken it is told that something is missing.
    GivenUp,
}

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSeat {
    /// All are taken.
    Full,
    /// This process has so many, as many as it may.
    OneProcess(u32),
    /// The pod ends.
    Ending,
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
    /// The pod has ended: nothing is added any more.
    Ended,
}

/// One observer's seat; left when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    tail: Tail,
    process: Option<i32>,
    rounds: watch::Receiver<u64>,
}

impl Tail {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            now: Mutex::default(),
            rounds: watch::Sender::new(0),
            left: tokio::sync::Notify::new(),
            ending: watch::Sender::default(),
            catching_up: Semaphore::new(CATCHING_UP),
        };
        Self(Arc::new(inner))
    }

    /// How many watch.
    #[cfg(test)]
    pub(crate) fn observers(&self) -> u32 {
        self.lock().observers
    }

    /// A seat for an observer of `process`, if one is free.
    pub(super) fn sit(&self, shared: &Shared, process: Option<i32>) -> Result<Seat, NoSeat> {
        // Whoever has gone without a word notices it now, and leaves.
        self.wake();
        let mut now = self.lock();
        if *self.0.ending.borrow() != Ending::Not {
            return Err(NoSeat::Ending);
        }
        let (free, held) = (OBSERVERS_MAX.saturating_sub(now.observers), now.held.get(&process).copied().unwrap_or(0));
        match free {
            0 => return Err(NoSeat::Full),
            _ if held >= free.saturating_mul(OF_ONE_PROCESS) => return Err(NoSeat::OneProcess(held)),
            _ => {}
        }
        now.observers += 1;
        *now.held.entry(process).or_default() += 1;
        if matches!(now.task, Task::None | Task::Failed(_)) {
            now.task = Task::Begins;
            tokio::spawn(Run::new(shared.clone()).run());
        }
        Ok(Seat { tail: self.clone(), process, rounds: self.0.rounds.subscribe() })
    }

    /// The pod ends, and all is committed: lets those who watch have the rest of it, for a moment. Whoever has not taken it by
    /// then is told that something is missing, and nobody is given a seat any more.
    pub(crate) async fn finish(&self) {
        let watched = {
            let now = self.lock();
            self.0.ending.send_replace(Ending::LastRound);
            now.observers > 0
        };
        let gone = async {
            let mut rounds = self.0.rounds.subscribe();
            while self.lock().observers > 0 {
                let _ = rounds.changed().await;
            }
        };
        let _ = tokio::time::timeout(LAST_ROUND, gone).await;
        self.0.ending.send_replace(Ending::GivenUp);
        // Its connection closes before the store does.
        self.lock().reads = None;
        if watched {
            tokio::time::sleep(LAST_WRITES).await;
        }
    }

    /// Waits until those who have not taken the rest are given up.
    pub(super) async fn given_up(&self) {
        let mut ending = self.0.ending.subscribe();
        // The sender is in here.
        let _ = ending.wait_for(|ending| *ending == Ending::GivenUp).await;
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
                Now { task: Task::Runs | Task::Ended, ring, .. } => return Ok(ring.place()),
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

    /// Whether nothing comes any more, because the pod has ended.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.tail.lock().task, Task::Ended)
    }

    /// A page of the history after `cursor` up to `upto`, read when it is this observer's turn.
    pub(super) async fn page(&self, cursor: u64, upto: u64, bytes: usize) -> Result<Vec<HistoryLine>, StoreError> {
        let reads = self.tail.lock().reads.clone().ok_or(StoreError::Closed)?;
        let _turn = self.tail.0.catching_up.acquire().await.map_err(|_| StoreError::Closed)?;
        reads.read(move |reads| reads.history_lines(cursor, upto, bytes)).await
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
        if let Some(held) = now.held.get_mut(&self.process) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                now.held.remove(&self.process);
            }
        }
        let left = now.observers == 0;
        drop(now);
        if left {
            self.tail.0.left.notify_one();
            // Whoever waits for that when the pod ends.
            self.tail.wake();
        }
    }
}

/// The task.
struct Run {
    shared: Shared,
    head: watch::Receiver<u64>,
    phase: watch::Receiver<PodState>,
    changes: broadcast::Receiver<Placed>,
    ending: watch::Receiver<Ending>,
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
            ending: shared.tail.0.ending.subscribe(),
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
        let store = self.shared.store.clone();
        let reads = tokio::task::spawn_blocking(move || store.another_reader()).await;
        let reads = reads.unwrap_or(Err(StoreError::Closed))?;
        self.shared.tail.lock().reads = Some(reads);
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
                    *now = Now::default();
                    return Ok(());
                }
                now.observers
            };
            // Looked at first: what is committed before the end is in the round after that.
            let ending = *self.ending.borrow_and_update() != Ending::Not;
            self.round().await?;
            if ending {
                self.shared.tail.lock().task = Task::Ended;
                return Ok(());
            }
            self.shared.tail.wake();
            let times = if std::mem::take(&mut self.looked_again) { LOOKED_AGAIN } else { 1 };
            let pause = PAUSE_PER_OBSERVER.saturating_mul(observers).max(PAUSE_MIN) * times;
            // CANCEL SAFETY: waiting changes nothing.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = begins(&mut self.ending) => continue,
            }
            // CANCEL SAFETY: waiting changes nothing, but for a change that is received: it is put in order.
            tokio::select! {
                _ = self.ending.changed() => {}
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
            let lines = self.reads()?.read(move |reads| reads.history_lines(cursor, upto, PAGE_BYTES)).await?;
            if lines.is_empty() {
                return Err(missing(cursor));
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

    fn reads(&self) -> Result<Reading, StoreError> {
        self.shared.tail.lock().reads.clone().ok_or(StoreError::Closed)
    }

    /// What is in flight behind the entry that is the newest one now. What changes after it is in the queue.
    async fn look(&mut self) -> Result<(Picture, u64), StoreError> {
        let (found, after, changes) = self.shared.live.look_placed();
        self.changes = changes;
        let (turn, begun) = (found.turn, found.pieces.iter().map(|piece| piece.after).min());
        let (running, ends, open) = self
            .reads()?
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

/// Waits until the pod ends.
async fn begins(ending: &mut watch::Receiver<Ending>) {
    // Its sender is in the tail, which outlives its task.
    let _ = ending.wait_for(|ending| *ending != Ending::Not).await;
}

/// What was committed behind the entry `cursor` is not there.
pub(super) fn missing(cursor: u64) -> StoreError {
    let detail = format!("nothing stands behind number {cursor}, where there was more; the file is damaged");
    StoreError::Unreadable { what: "the history", detail }
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
