//! The end of a child's life, once, after everything that it had to say.
//!
//! A child that has died may have committed events that it never sent. They are read from its store, above the
//! watermark, and applied as if it had sent them; only then, and in the transaction that sets the terminal event, is it
//! lost. A child that said `ShutDown` is not lost, whatever its exit code.
//!
//! Called by `spawn` when a process is proven dead (pidfd, or its life lock), and by nobody on suspicion.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::event::apply::{apply_next, tell_agent};
use crate::id::{PodId, Seq, StreamId, WorkId};
use crate::protocol::{LocalEvent, PodEvent, WorkResult};
use crate::store::{
    ChildRow, ChildState, EndOfLife, EventKey, OutboxRow, Store, StoreError, StoreReader, Terminal, Tx,
};

/// LIMIT: events of a dead child in one transaction: a few milliseconds, so that others' events are not held up.
const PAGE: u32 = 256;
/// LIMIT: ends of turns that a dead child's end names to those who wait; the rest they find in the history. 1 MiB.
const ENDS_MAX: usize = 1024;

/// LIMIT: how often a medium is asked for what it does not give back, before the end is told without it. A drive tries for
/// seconds by itself each time.
const ATTEMPTS: u32 = 4;
/// How long it is let alone before it is asked again: a path that is switched over takes about as long.
const PAUSE: Duration = Duration::from_millis(500);

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

/// Why a look into the child's store told nothing.
enum Failed {
    /// It is not the child's store.
    NotTheirs(String),
    Store(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
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
    settle(store, pod, end, open_left, |_, _, _| Ok(())).await.map(|(end, _)| end)
}

/// The same, and in the transaction that ends the life what follows from that; if it was ended by this call.
///
/// # Errors
/// As above; `then`'s.
pub(crate) async fn settle_dead_child_and<T, F>(
    store: &Store,
    pod: &PodId,
    end: EndOfLife,
    then: F,
) -> Result<(ChildEnd, Option<T>), StoreError>
where
    T: Send + 'static,
    F: FnOnce(&Tx<'_>, &ChildRow, &Terminal) -> Result<T, StoreError> + Clone + Send + 'static,
{
    settle(store, pod, end, open_left, then).await
}

/// [`settle_dead_child`], by way of what opens the dead child's store.
async fn settle<O, T, F>(
    store: &Store,
    pod: &PodId,
    end: EndOfLife,
    open: O,
    then: F,
) -> Result<(ChildEnd, Option<T>), StoreError>
where
    O: Fn(&ChildRow) -> Result<StoreReader, Failed> + Copy + Send + 'static,
    T: Send + 'static,
    F: FnOnce(&Tx<'_>, &ChildRow, &Terminal) -> Result<T, StoreError> + Clone + Send + 'static,
{
    let mut drained = Drained::default();
    let mut theirs = None;
    loop {
        let left = left_by(store, pod, open, &mut theirs).await?;
        crate::failpoint!("burial_before_drain");
        let (dead, end, then) = (pod.clone(), end.clone(), then.clone());
        let (page, ended) = store
            .write(move |tx| {
                let end_it = |unread| {
                    let row = tx.child(&dead)?;
                    let ended = end_child(tx, &dead, end, unread)?;
                    let row = row.filter(|_| ended.first);
                    let more = row.map(|row| then(tx, &row, &ended.terminal)).transpose()?;
                    Ok::<_, StoreError>((ended, more))
                };
                match left {
                    Left::Events { stream, rows, end: last } => {
                        let head = last.as_ref().map_or(Seq(0), |(head, _)| *head);
                        let page = apply_left(tx, &dead, stream, &rows, head)?;
                        Ok((page, last.map(|(_, damage)| end_it(damage)).transpose()?))
                    }
                    Left::Nothing => Ok((Drained::default(), Some(end_it(None)?))),
                    Left::Unreadable(why) => Ok((Drained::default(), Some(end_it(Some(why))?))),
                }
            })
            .await?;
        drained.count += page.count;
        let room = ENDS_MAX.saturating_sub(drained.ends.len());
        drained.ends.extend(page.ends.into_iter().take(room));
        drained.settled.extend(page.settled);
        if let Some((ended, more)) = ended {
            crate::failpoint!("burial_after_commit");
            drained.settled.extend(ended.settled);
            let Drained { count, ends, settled } = drained;
            return Ok((ChildEnd { drained: count, ends, settled, ..ended }, more));
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

/// The next page of what the dead child had committed and we have not applied. Its file is read beside our own threads: it
/// may be large, or on a medium that hangs. `theirs` is that file, once it is open.
async fn left_by<O>(store: &Store, pod: &PodId, open: O, theirs: &mut Option<StoreReader>) -> Result<Left, StoreError>
where
    O: Fn(&ChildRow) -> Result<StoreReader, Failed> + Copy + Send + 'static,
{
    let dead = pod.clone();
    let Some(row) = store.read(move |reads| reads.child(&dead)).await? else {
        return Err(StoreError::Contradiction(format!("pod {pod} is no child of this pod")));
    };
    if row.state == ChildState::Ended {
        return Ok(Left::Nothing);
    }
    let mut attempts = 1;
    loop {
        let opened = match theirs.take() {
            Some(reader) => Ok(reader),
            None => {
                let row = row.clone();
                beside(move || open(&row)).await
            }
        };
        let read = match opened {
            Ok(reader) => {
                let stream = reader.identity().stream;
                let from = store.read(move |reads| reads.watermark(stream)).await?.next();
                beside(move || Ok(read_left(&reader, from).map(|left| (left, reader))?)).await
            }
            Err(failed) => Err(failed),
        };
        let error = match read {
            Ok((left, reader)) => {
                *theirs = Some(reader);
                return Ok(left);
            }
            Err(Failed::NotTheirs(why)) => return Ok(Left::Unreadable(why)),
            Err(Failed::Store(error)) => error,
        };
        if !error.is_of_the_medium() || attempts >= ATTEMPTS {
            return without_it(&row, error);
        }
        attempts += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs what may block for long on a thread that nobody else waits for.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failed> + Send + 'static) -> Result<T, Failed> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(StoreError::Panicked(error.to_string()).into()),
        Err(_) => Err(StoreError::Closed.into()),
    }
}

/// What an error while the child's store was read says of the child: that it left nothing, that nobody can ever know, or
/// that it is to be read later.
fn without_it(row: &ChildRow, error: StoreError) -> Result<Left, StoreError> {
    match error {
        // It said that it was ready, and its store was there then.
        StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound && row.stream.is_some() => {
            Ok(Left::Unreadable(format!("its store `{}` is gone", row.store.display())))
        }
        // It died before it had written anything.
        StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Ok(nothing_at(&row.store)),
        StoreError::Empty { .. } => Ok(nothing_at(&row.store)),
        error if error.is_lasting() || error.is_of_the_medium() => Ok(Left::Unreadable(error.chain())),
        // A newer version's, out of descriptors, no space for the log's index: it is there, and will be read.
        error => Err(StoreError::NotYet { pod: row.pod.clone(), source: Box::new(error) }),
    }
}

fn open_left(row: &ChildRow) -> Result<StoreReader, Failed> {
    let child = StoreReader::open(&row.store)?;
    let identity = child.identity();
    if identity.pod != row.pod.name {
        return Err(Failed::NotTheirs(format!("its store belongs to pod `{}`", identity.pod)));
    }
    if row.stream.is_some_and(|stream| stream != identity.stream) {
        return Err(Failed::NotTheirs("its store was replaced".to_owned()));
    }
    Ok(child)
}

fn read_left(child: &StoreReader, from: Seq) -> Result<Left, StoreError> {
    let stream = child.identity().stream;
    let rows = child.look(|theirs| theirs.outbox_from(from, PAGE))?;
    if rows.len() == PAGE as usize {
        return Ok(Left::Events { stream, rows, end: None });
    }
    // What can be read counts, whatever else is wrong with the file.
    let damage = match child.check_told() {
        Ok(()) => None,
        Err(error) if error.is_lasting() || error.is_of_the_medium() => Some(error.chain()),
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
