//! The end of a child's life, once, after everything that it had to say.
//!
//! A child that has died may have committed events that it never sent. They are read from its store, above the
//! watermark, and applied as if it had sent them; only then, and in the transaction that sets the terminal event, is it
//! lost. A child that said `ShutDown` is not lost, whatever its exit code.
//!
//! Called by `spawn` when a process is proven dead (pidfd, or its life lock), and by nobody on suspicion.

use std::io;
use std::path::Path;

use crate::event::apply::{apply_next, tell_agent};
use crate::id::{PodId, Seq, StreamId, WorkId};
use crate::protocol::{LocalEvent, PodEvent, WorkResult};
use crate::store::{
    ChildRow, ChildState, EndOfLife, EventKey, OutboxRow, Reads, Store, StoreError, StoreReader, Terminal, Tx,
};

/// LIMIT: events of a dead child in one transaction: a few milliseconds, so that others' events are not held up.
const PAGE: u32 = 256;
/// LIMIT: ends of turns that a dead child's end names to those who wait; the rest they find in the history. 1 MiB.
const ENDS_MAX: usize = 1024;

/// How a life ended for its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildEnd {
    /// The life's terminal event.
    pub terminal: Terminal,
    /// Whether this call ended the life. A second call changes nothing.
    pub first: bool,
    /// How many events were read from the dead child's store.
    pub drained: u64,
    /// Those of them that tell how turns ended, as far as there is room.
    pub ends: Vec<PodEvent>,
    /// The works of ours that this settled.
    pub settled: Vec<(WorkId, WorkResult)>,
}

/// What was applied of what a dead child had left.
#[derive(Default)]
struct Drained {
    count: u64,
    ends: Vec<PodEvent>,
    settled: Vec<(WorkId, WorkResult)>,
}

/// What a dead child's store had to tell.
enum Left {
    Events {
        stream: StreamId,
        rows: Vec<OutboxRow>,
        /// Set on the last page: the newest event that there was, and what is wrong with the file it came from.
        end: Option<(Seq, Option<String>)>,
    },
    Nothing,
    Unreadable(String),
}

/// Ends the life of a child whose process is proven dead: applies what it left, then sets its terminal event.
///
/// # Errors
/// If our own store cannot be read or written, or `NotYet` if the child's cannot be read now; to be called again. A child's
/// store that nobody can ever read, a damaged one, say, is no error: it stands beside the terminal event.
///
/// # Cancel safety
/// Dropped early, it may be called again.
pub async fn settle_dead_child(store: &Store, pod: &PodId, end: EndOfLife) -> Result<ChildEnd, StoreError> {
    let mut drained = Drained::default();
    loop {
        let dead = pod.clone();
        let left = store.read(move |reads| left_by(reads, &dead)).await?;
        crate::failpoint!("burial_before_drain");
        let (dead, end) = (pod.clone(), end.clone());
        let (page, ended) = store
            .write(move |tx| match left {
                Left::Events { stream, rows, end: last } => {
                    let head = last.as_ref().map_or(Seq(0), |(head, _)| *head);
                    let page = apply_left(tx, &dead, stream, &rows, head)?;
                    let ended = last.map(|(_, damage)| end_child(tx, &dead, end, damage)).transpose()?;
                    Ok((page, ended))
                }
                Left::Nothing => Ok((Drained::default(), Some(end_child(tx, &dead, end, None)?))),
                Left::Unreadable(why) => Ok((Drained::default(), Some(end_child(tx, &dead, end, Some(why))?))),
            })
            .await?;
        drained.count += page.count;
        let room = ENDS_MAX.saturating_sub(drained.ends.len());
        drained.ends.extend(page.ends.into_iter().take(room));
        drained.settled.extend(page.settled);
        if let Some(ended) = ended {
            crate::failpoint!("burial_after_commit");
            drained.settled.extend(ended.settled);
            let Drained { count, ends, settled } = drained;
            return Ok(ChildEnd { drained: count, ends, settled, ..ended });
        }
    }
}

/// Sets the life's terminal event, unless it has one, and frees its name. Only for a process that is proven dead, or
/// was never started, and whose events are all applied: [`settle_dead_child`] does both.
///
/// # Errors
/// `Contradiction` if there is no such life; else if it cannot be written.
pub fn end_child(tx: &Tx<'_>, pod: &PodId, end: EndOfLife, unread: Option<String>) -> Result<ChildEnd, StoreError> {
    let unknown = || StoreError::Contradiction(format!("pod {pod} is no child of this pod"));
    let row = tx.child(pod)?.ok_or_else(unknown)?;
    if let (ChildState::Ended, Some(terminal)) = (row.state, &row.terminal) {
        let (terminal, ends, settled) = (terminal.clone(), Vec::new(), Vec::new());
        return Ok(ChildEnd { terminal, first: false, drained: 0, ends, settled });
    }
    crate::failpoint!("burial_before_terminal");
    let terminal = match &end {
        EndOfLife::Dead(reason) => Terminal::Lost { reason: *reason },
        EndOfLife::NeverStarted { reason } => Terminal::NeverStarted { reason: reason.clone() },
    };
    let served = tx.set_terminal(pod, &terminal, unread)?;
    if let (Some(works), EndOfLife::Dead(reason)) = (served, end) {
        tell_agent(tx, None, LocalEvent::Lost { pod: pod.clone(), reason }, works)?;
    }
    tx.end_life(&row)?;
    let settled = tx.settle_works()?;
    crate::failpoint!("burial_before_commit");
    let terminal = tx.child(pod)?.and_then(|row| row.terminal).ok_or_else(unknown)?;
    Ok(ChildEnd { terminal, first: true, drained: 0, ends: Vec::new(), settled })
}

/// The next page of what the dead child had committed and we have not applied.
fn left_by(reads: &Reads<'_>, pod: &PodId) -> Result<Left, StoreError> {
    let Some(row) = reads.child(pod)? else {
        return Err(StoreError::Contradiction(format!("pod {pod} is no child of this pod")));
    };
    if row.state == ChildState::Ended {
        return Ok(Left::Nothing);
    }
    match read_left(reads, &row) {
        Ok(left) => Ok(left),
        // It said that it was ready, and its store was there then.
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound && row.stream.is_some() => {
            Ok(Left::Unreadable(format!("its store `{}` is gone", row.store.display())))
        }
        // It died before it had written anything.
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(nothing_at(&row.store)),
        Err(StoreError::Empty { .. }) => Ok(nothing_at(&row.store)),
        Err(error) if error.is_lasting() => Ok(Left::Unreadable(error.chain())),
        // A newer version's, out of descriptors, no space for the log's index: it is there, and will be read.
        Err(error) => Err(StoreError::NotYet { pod: pod.clone(), source: Box::new(error) }),
    }
}

fn read_left(reads: &Reads<'_>, row: &ChildRow) -> Result<Left, StoreError> {
    let child = StoreReader::open(&row.store)?;
    let identity = child.identity();
    if identity.pod != row.pod.name {
        return Ok(Left::Unreadable(format!("its store belongs to pod `{}`", identity.pod)));
    }
    if row.stream.is_some_and(|stream| stream != identity.stream) {
        return Ok(Left::Unreadable("its store was replaced".to_owned()));
    }
    let stream = identity.stream;
    let rows = child.look(|theirs| theirs.outbox_from(reads.watermark(stream)?.next(), PAGE))?;
    if rows.len() == PAGE as usize {
        return Ok(Left::Events { stream, rows, end: None });
    }
    // What can be read counts, whatever else is wrong with the file.
    let damage = match child.check() {
        Ok(()) => None,
        Err(error) if error.is_lasting() => Some(error.chain()),
        Err(error) => return Err(error),
    };
    // A damaged file's own count is not to be believed.
    let head = if damage.is_none() { child.look(|theirs| theirs.outbox_head())? } else { Seq(0) };
    Ok(Left::Events { stream, rows, end: Some((head, damage)) })
}

/// There is no store, or nothing in it: as far as we know, there was nothing to tell.
fn nothing_at(store: &Path) -> Left {
    match StoreReader::was_whole(store) {
        Ok(()) => Left::Nothing,
        Err(error) => Left::Unreadable(error.chain()),
    }
}

/// LIMIT: events by which a dead child's own count may be ahead of the last one that it has left. A larger claim is not
/// believed: nobody raises as many.
const GAP_MAX: u64 = 1_000_000_000;

/// Applies rows of a dead child's outbox, as far as they are new. Rows that are missing between them, or behind them up to
/// `head`, become a gap, and so does one that cannot be read any more.
fn apply_left(
    tx: &Tx<'_>,
    pod: &PodId,
    stream: StreamId,
    rows: &[OutboxRow],
    head: Seq,
) -> Result<Drained, StoreError> {
    let mut drained = Drained::default();
    let Some(row) = tx.child(pod)?.filter(|row| row.state != ChildState::Ended) else { return Ok(drained) };
    if !rows.is_empty() && !tx.bind_stream(&row, stream)? {
        return Ok(drained);
    }
    for left in rows {
        let expected = tx.watermark(stream)?.next();
        if left.seq < expected {
            // It arrived over a connection in the meantime.
            continue;
        }
        if left.seq > expected {
            let to = Seq(left.seq.0.saturating_sub(1));
            let gap = PodEvent::Gap { pod: pod.clone(), from: expected, to };
            apply_next(tx, &row, EventKey { stream, seq: to }, &gap)?;
        }
        let event = match &left.event {
            PodEvent::Gap { .. } => PodEvent::Gap { pod: pod.clone(), from: left.seq, to: left.seq },
            event => event.clone(),
        };
        let applied = apply_next(tx, &row, EventKey { stream, seq: left.seq }, &event)?;
        drained.count += 1;
        drained.settled.extend(applied.settled);
        if matches!(left.event, PodEvent::TurnEnded { .. } | PodEvent::Errored { .. }) {
            drained.ends.push(left.event.clone());
        }
    }
    let watermark = tx.watermark(stream)?;
    if head > watermark && head.0 - watermark.0 <= GAP_MAX && tx.bind_stream(&row, stream)? {
        let gap = PodEvent::Gap { pod: pod.clone(), from: watermark.next(), to: head };
        apply_next(tx, &row, EventKey { stream, seq: head }, &gap)?;
    }
    Ok(drained)
}

#[cfg(test)]
#[path = "terminal_tests.rs"]
mod tests;
