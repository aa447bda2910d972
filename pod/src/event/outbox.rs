//! Where a reporter's events wait: in the pod's store, or in memory for whoever has none.
//!
//! A place is taken in the caller, so that events go out in the order in which they were raised. Bounded both ways.
//!
//! Used by `reporter` (taking) and `delivery` (offering).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::id::{Seq, StreamId};
use crate::protocol::PodEvent;
use crate::store::{Clock, OutboxRow, OutboxState, Room, Store, StoreError, Submitted, UndeliverableReason};

/// LIMIT: events that wait in memory. 1 KiB each at most, so 16 MiB.
const MEMORY_ROWS_MAX: usize = 16 * 1024;
/// Of these, places kept for events that tell how something ended.
const MEMORY_ROWS_RESERVE: usize = 64;

#[derive(Debug)]
pub(crate) enum Outbox {
    Store(Store),
    Memory(Memory),
}

/// A place that was taken.
#[derive(Debug)]
pub(crate) enum Taken {
    Submitted(Submitted<Option<Seq>>),
    At(Result<Option<Seq>, StoreError>),
}

#[derive(Debug)]
pub(crate) struct Memory {
    stream: StreamId,
    rows: Mutex<Rows>,
    head: watch::Sender<Seq>,
}

#[derive(Debug, Default)]
struct Rows {
    waiting: VecDeque<OutboxRow>,
    acked: Seq,
}

impl Outbox {
    pub(crate) fn in_memory() -> Self {
        let (head, _) = watch::channel(Seq(0));
        Self::Memory(Memory { stream: StreamId::random(), rows: Mutex::default(), head })
    }

    pub(crate) fn take(&self, event: PodEvent) -> Taken {
        let room = room_of(&event);
        match self {
            Self::Store(store) => match store.submit(move |tx| tx.raise(&event, room)) {
                Ok(submitted) => Taken::Submitted(submitted),
                Err(error) => Taken::At(Err(error)),
            },
            Self::Memory(memory) => Taken::At(memory.push(event, room).map(Some)),
        }
    }

    pub(crate) fn stream(&self) -> StreamId {
        match self {
            Self::Store(store) => store.stream(),
            Self::Memory(memory) => memory.stream,
        }
    }

    pub(crate) fn head(&self) -> watch::Receiver<Seq> {
        match self {
            Self::Store(store) => store.outbox_head(),
            Self::Memory(memory) => memory.head.subscribe(),
        }
    }

    /// Rows from `seq` on, and the last event that the parent is known to have.
    pub(crate) async fn page(&self, from: Option<Seq>, limit: u32) -> Result<(Vec<OutboxRow>, Seq, Seq), StoreError> {
        match self {
            Self::Store(store) => {
                store
                    .read(move |reads| {
                        let start = from.unwrap_or(reads.outbox_acked()?.next());
                        Ok((reads.outbox_from(start, limit)?, start, reads.outbox_head()?))
                    })
                    .await
            }
            Self::Memory(memory) => {
                let rows = memory.lock();
                let start = from.unwrap_or(rows.acked.next());
                let page = rows.waiting.iter().filter(|row| row.seq >= start).take(limit as usize).cloned().collect();
                Ok((page, start, *memory.head.borrow()))
            }
        }
    }

    pub(crate) async fn trim(&self, durable: Seq) -> Result<(), StoreError> {
        match self {
            Self::Store(store) => store.write(move |tx| tx.trim_outbox(durable)).await,
            Self::Memory(memory) => {
                let mut rows = memory.lock();
                rows.waiting.retain(|row| row.seq > durable || row.state == OutboxState::Undeliverable);
                rows.acked = rows.acked.max(durable);
                Ok(())
            }
        }
    }

    pub(crate) async fn note(&self, seq: Seq, outcome: String) -> Result<(), StoreError> {
        match self {
            Self::Store(store) => store.write(move |tx| tx.note_offer(seq, &outcome)).await,
            Self::Memory(memory) => {
                memory.change(
                    |row| row.seq == seq,
                    |row| {
                        row.offers += 1;
                        row.outcome = Some(outcome.clone());
                    },
                );
                Ok(())
            }
        }
    }

    /// `seq`, or everything that waits, cannot be delivered.
    pub(crate) async fn give_up(&self, seq: Option<Seq>, outcome: String) -> Result<(), StoreError> {
        match self {
            Self::Store(store) => {
                store
                    .write(move |tx| match seq {
                        Some(seq) => tx.mark_undeliverable(seq, UndeliverableReason::Unreadable, &outcome),
                        None => tx.mark_stale(&outcome),
                    })
                    .await
            }
            Self::Memory(memory) => {
                memory.change(
                    |row| seq.is_none_or(|seq| row.seq == seq),
                    |row| {
                        row.state = OutboxState::Undeliverable;
                        row.outcome = Some(outcome.clone());
                    },
                );
                Ok(())
            }
        }
    }

    /// How many events await the parent.
    pub(crate) async fn pending(&self) -> Result<u64, StoreError> {
        match self {
            Self::Store(store) => store.read(|reads| Ok(reads.status_counts()?.outbox_pending)).await,
            Self::Memory(memory) => {
                let rows = memory.lock();
                Ok(rows.waiting.iter().filter(|row| row.state == OutboxState::Pending).count() as u64)
            }
        }
    }
}

impl Memory {
    fn push(&self, event: PodEvent, room: Room) -> Result<Seq, StoreError> {
        let mut rows = self.lock();
        let max = match room {
            Room::Ordinary => MEMORY_ROWS_MAX - MEMORY_ROWS_RESERVE,
            Room::Reserved => MEMORY_ROWS_MAX,
        };
        if rows.waiting.len() >= max {
            return Err(StoreError::OutboxFull { max: MEMORY_ROWS_MAX as u64 });
        }
        let seq = self.head.borrow().next();
        let (at, state) = (Clock::System.now(), OutboxState::Pending);
        rows.waiting.push_back(OutboxRow { seq, at, event, state, offers: 0, outcome: None });
        // While the rows are locked: the head is never ahead of them.
        self.head.send_replace(seq);
        Ok(seq)
    }

    fn change(&self, which: impl Fn(&OutboxRow) -> bool, mut change: impl FnMut(&mut OutboxRow)) {
        self.lock().waiting.iter_mut().filter(|row| which(row)).for_each(&mut change);
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        // Nothing that holds the lock can leave the rows half changed.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells how something ended may use the places that are kept back for it.
fn room_of(event: &PodEvent) -> Room {
    match event {
        PodEvent::ScopeSubDelegated { .. } | PodEvent::Gap { .. } => Room::Ordinary,
        PodEvent::TurnEnded { .. }
        | PodEvent::Errored { .. }
        | PodEvent::ShutDown { .. }
        | PodEvent::WorkSettled { .. } => Room::Reserved,
    }
}
