//! The children of a pod, as they are known now.
//!
//! A picture for people and for identity checks; what counts is in the store, and nothing is decided by this alone.
//! Changed only after the store has committed what it shows.
//!
//! Written by `supervisor` and `controller/actor`, read by the facade.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::id::{PodId, PodName, WorkId};
use crate::protocol::{Disposition, LocalEvent, LostReason, PodEvent, TurnResult, WorkResult};
use crate::store::{ChildRow, Terminal, UnixMillis};

/// How far a child has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildPhase {
    /// Its process is being started, or has not said that it is ready.
    Starting,
    /// It takes work.
    Ready,
    /// It has work.
    Working,
    /// It is asked to end.
    Stopping,
    /// Its life is over, and all that it had to tell is committed.
    Ended,
}

/// How a piece of work ended for the pod that delegated it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkEnd {
    /// Its turn ended, in this way.
    TurnEnded(TurnResult),
    /// The child's worker failed.
    Errored {
        /// What it said.
        message: String,
    },
    /// The child died.
    Lost(LostReason),
    /// It was settled without a word about its turn: the child did not take it, or the store tells no more.
    Settled(WorkResult),
}

/// One child, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildStatus {
    /// Which life.
    pub pod: PodId,
    /// Its process.
    pub pid: Option<u32>,
    /// How far it has come.
    pub phase: ChildPhase,
    /// The work that it was given last, and what it is.
    pub work: Option<(WorkId, String)>,
    /// How that ended.
    pub work_end: Option<WorkEnd>,
    /// How it was settled, with all that it caused.
    pub work_result: Option<WorkResult>,
    /// The last event of it that is committed, in words.
    pub last_event: Option<String>,
    /// Its events that are committed.
    pub applied: u64,
    /// Its offers that were taken up: more than `applied` if some were repeated.
    pub offers: u64,
    /// From the last offer's arrival until its ack was given: what the child waited for, without the way.
    pub ack_time: Option<Duration>,
    /// How its life ended.
    pub terminal: Option<Terminal>,
    /// When its life was reserved.
    pub since: UnixMillis,
}

/// What became of a piece of delegated work, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WorkProgress {
    pub(crate) end: Option<WorkEnd>,
    pub(crate) result: Option<WorkResult>,
}

/// The children of a pod. Clones are the same registry.
#[derive(Clone, Debug)]
pub struct SpawnedPodRegistry {
    inner: Arc<Mutex<Inner>>,
    lines: watch::Sender<Vec<ChildStatus>>,
}

#[derive(Debug, Default)]
struct Inner {
    children: Vec<Entry>,
    works: HashMap<WorkId, watch::Sender<WorkProgress>>,
}

#[derive(Debug)]
struct Entry {
    status: ChildStatus,
    /// The process is ours and not reaped: its number is its own.
    unreaped: bool,
    /// An earlier life of ours started it.
    adopted: bool,
    /// It did not end, and is left to the pod's next life.
    left: bool,
    /// Asks its supervisor to end it.
    stop: watch::Sender<Option<Stop>>,
}

/// How a child is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// Its turn is not waited for.
    pub(crate) now: bool,
    /// Until it is signalled.
    pub(crate) grace: Duration,
}

impl Default for SpawnedPodRegistry {
    fn default() -> Self {
        Self { inner: Arc::default(), lines: watch::Sender::new(Vec::new()) }
    }
}

impl SpawnedPodRegistry {
    /// Changes whenever a child's line does.
    pub fn watch(&self) -> watch::Receiver<Vec<ChildStatus>> {
        self.lines.subscribe()
    }

    /// All children of this life of the pod, and those that it found.
    pub fn children(&self) -> Vec<ChildStatus> {
        self.lock().children.iter().map(|entry| entry.status.clone()).collect()
    }

    /// The newest life of that name.
    pub fn child(&self, name: &PodName) -> Option<ChildStatus> {
        self.lock().children.iter().rev().find(|e| e.status.pod.name == *name).map(|e| e.status.clone())
    }

    /// Which child the process `pid` is, if it is one of ours and not reaped.
    pub fn sender(&self, pid: u32) -> Option<PodId> {
        let inner = self.lock();
        inner.children.iter().find(|e| e.unreaped && e.status.pid == Some(pid)).map(|e| e.status.pod.clone())
    }

    /// Whether `pod` is a living child that an earlier life of ours had started.
    pub(crate) fn is_adopted(&self, pod: &PodId) -> bool {
        let inner = self.lock();
        inner
            .children
            .iter()
            .any(|e| e.status.pod == *pod && !e.unreaped && e.adopted && e.status.phase != ChildPhase::Ended)
    }

    /// Adds a life, and returns how its supervisor hears that it is to be ended. `start` runs with the registry locked,
    /// so that a process that is already speaking is known before it is heard.
    pub(crate) fn add<E>(
        &self,
        row: &ChildRow,
        start: impl FnOnce() -> Result<Option<u32>, E>,
    ) -> Result<watch::Receiver<Option<Stop>>, E> {
        let (stop, stopped) = watch::channel(None);
        {
            let mut inner = self.lock();
            let pid = start()?;
            inner.children.push(Entry {
                status: ChildStatus {
                    pod: row.pod.clone(),
                    pid: pid.or(row.pid),
                    phase: ChildPhase::Starting,
                    work: None,
                    work_end: None,
                    work_result: None,
                    last_event: None,
                    applied: 0,
                    offers: 0,
                    ack_time: None,
                    terminal: None,
                    since: row.at,
                },
                unreaped: pid.is_some(),
                adopted: pid.is_none(),
                left: false,
                stop,
            });
        }
        self.tell();
        Ok(stopped)
    }

    pub(crate) fn phase(&self, pod: &PodId, phase: ChildPhase) {
        self.change(pod, |entry| {
            if entry.status.phase != ChildPhase::Ended {
                entry.status.phase = phase;
            }
        });
    }

    /// The process is dead and about to be reaped: its number means nothing from here on.
    pub(crate) fn reaped(&self, pod: &PodId) {
        self.change(pod, |entry| entry.unreaped = false);
    }

    /// Its life is over.
    pub(crate) fn ended(&self, pod: &PodId, terminal: &Terminal) {
        self.change(pod, |entry| {
            entry.unreaped = false;
            entry.status.phase = ChildPhase::Ended;
            entry.status.terminal = Some(terminal.clone());
            if entry.status.work_end.is_none() && entry.status.work.is_some() {
                entry.status.work_end = lost(terminal);
            }
        });
    }

    /// Work was given to it.
    pub(crate) fn delegated(&self, pod: &PodId, work: WorkId, input: &str) -> watch::Receiver<WorkProgress> {
        let progress = watch::Sender::new(WorkProgress::default());
        let receiver = progress.subscribe();
        self.lock().works.insert(work, progress);
        self.change(pod, |entry| {
            // Its life may have ended since it was chosen: it is not to be waited for once more.
            if !matches!(entry.status.phase, ChildPhase::Stopping | ChildPhase::Ended) {
                entry.status.phase = ChildPhase::Working;
            }
            entry.status.work = Some((work, input.to_owned()));
            entry.status.work_end = None;
            entry.status.work_result = None;
        });
        receiver
    }

    /// An offer of it was answered.
    pub(crate) fn offered(&self, pod: &PodId, event: &PodEvent, disposition: Disposition, took: Duration) {
        let applied = disposition == Disposition::Applied;
        if applied {
            self.progress(event);
            if let PodEvent::WorkSettled { work, result, .. } = event {
                self.settled(&[(*work, *result)]);
            }
        }
        self.change(pod, |entry| {
            let status = &mut entry.status;
            status.offers += 1;
            status.ack_time = Some(took);
            if !applied {
                return;
            }
            status.applied += 1;
            status.last_event = Some(short(event));
            let current = status.work.as_ref().map(|(work, _)| *work);
            if let Some((_, end)) = end_of(event).filter(|(work, _)| Some(*work) == current) {
                status.work_end = Some(end);
                if status.phase == ChildPhase::Working {
                    status.phase = ChildPhase::Ready;
                }
            }
        });
    }

    /// What a dead child had committed of how its turns ended is committed here.
    pub(crate) fn drained(&self, pod: &PodId, events: &[PodEvent]) {
        events.iter().for_each(|event| self.progress(event));
        self.change(pod, |entry| {
            let current = entry.status.work.as_ref().map(|(work, _)| *work);
            let mut ends = events.iter().rev().filter_map(end_of).filter(|(work, _)| Some(*work) == current);
            if let Some((_, end)) = ends.next() {
                entry.status.work_end = Some(end);
            }
        });
    }

    /// The child did not take the work.
    pub(crate) fn refused(&self, pod: &PodId, work: WorkId) {
        self.settled(&[(work, WorkResult::Refused)]);
        self.change(pod, |entry| {
            if entry.status.phase == ChildPhase::Working {
                entry.status.phase = ChildPhase::Ready;
            }
        });
    }

    /// Work of this pod itself, or work whose end is to be waited for.
    pub(crate) fn expect(&self, work: WorkId) -> watch::Receiver<WorkProgress> {
        let mut inner = self.lock();
        inner.works.entry(work).or_insert_with(|| watch::Sender::new(WorkProgress::default())).subscribe()
    }

    /// A turn of this pod itself has ended, for this work.
    pub(crate) fn own_turn_ended(&self, work: WorkId, end: WorkEnd) {
        let progress = self.lock().works.get(&work).cloned();
        if let Some(progress) = progress {
            // A later turn may be for it, too; the one that it was given to came first.
            progress.send_modify(|progress| _ = progress.end.get_or_insert(end));
        }
    }

    /// Works are settled, with all that they caused.
    pub(crate) fn settled(&self, works: &[(WorkId, WorkResult)]) {
        for (work, result) in works {
            // The last that is heard of it: those who wait keep what was said.
            let progress = self.lock().works.remove(work);
            if let Some(progress) = progress {
                progress.send_modify(|progress| progress.result = Some(*result));
            }
            let mut inner = self.lock();
            for entry in &mut inner.children {
                if entry.status.work.as_ref().is_some_and(|(known, _)| known == work) {
                    entry.status.work_result = Some(*result);
                }
            }
        }
        self.tell();
    }

    /// The works that a dead child had are settled, by its end.
    pub(crate) fn work_lost(&self, work: WorkId, terminal: &Terminal, result: WorkResult) {
        let progress = self.lock().works.get(&work).cloned();
        if let Some(progress) = progress {
            progress.send_modify(|progress| {
                progress.result.get_or_insert(result);
                if progress.end.is_none() {
                    // A work that had its own end before the child's was not lost with it.
                    let lost = lost(terminal).filter(|_| result == WorkResult::Lost);
                    progress.end = Some(lost.unwrap_or(WorkEnd::Settled(result)));
                }
            });
        }
    }

    /// The pod has ended: who still waits for a work learns that nothing more will be heard of it.
    pub(crate) fn forget_works(&self) {
        self.lock().works.clear();
    }

    /// Asks the supervisors of all living children to end them. Returns how many there are.
    pub(crate) fn stop_all(&self, stop: Stop) -> usize {
        let inner = self.lock();
        let living = inner.children.iter().filter(|entry| entry.status.phase != ChildPhase::Ended);
        living.map(|entry| ask(&entry.stop, stop)).count()
    }

    /// Asks the supervisor of one child to end it.
    pub(crate) fn stop(&self, pod: &PodId, stop: Stop) {
        if let Some(entry) = self.lock().children.iter().find(|entry| entry.status.pod == *pod) {
            ask(&entry.stop, stop);
        }
    }

    /// How a child was asked to end, if it was.
    #[cfg(test)]
    pub(crate) fn asked_to_stop(&self, pod: &PodId) -> Option<Stop> {
        self.lock().children.iter().find(|entry| entry.status.pod == *pod).and_then(|entry| *entry.stop.borrow())
    }

    pub(crate) fn living(&self) -> usize {
        let inner = self.lock();
        inner.children.iter().filter(|entry| entry.status.phase != ChildPhase::Ended && !entry.left).count()
    }

    /// It does not end, and nobody may signal it: whoever stops waits for it no longer.
    pub(crate) fn leave(&self, pod: &PodId) {
        self.change(pod, |entry| entry.left = true);
    }

    fn progress(&self, event: &PodEvent) {
        let Some((work, end)) = end_of(event) else { return };
        let progress = self.lock().works.get(&work).cloned();
        if let Some(progress) = progress {
            progress.send_modify(|progress| progress.end = Some(end));
        }
    }

    fn change(&self, pod: &PodId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.lock().children.iter_mut().find(|entry| entry.status.pod == *pod) {
            change(entry);
        }
        self.tell();
    }

    fn tell(&self) {
        let lines = self.children();
        self.lines.send_replace(lines);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A later wish only hastens an earlier one.
fn ask(sender: &watch::Sender<Option<Stop>>, stop: Stop) {
    sender.send_modify(|asked| {
        *asked = Some(match *asked {
            Some(before) => Stop { now: before.now || stop.now, grace: before.grace.min(stop.grace) },
            None => stop,
        });
    });
}

fn end_of(event: &PodEvent) -> Option<(WorkId, WorkEnd)> {
    match event {
        PodEvent::TurnEnded { work, result, .. } => Some((*work, WorkEnd::TurnEnded(*result))),
        PodEvent::Errored { work: Some(work), message, .. } => {
            Some((*work, WorkEnd::Errored { message: message.to_string() }))
        }
        _ => None,
    }
}

fn lost(terminal: &Terminal) -> Option<WorkEnd> {
    match terminal {
        Terminal::Lost { reason } => Some(WorkEnd::Lost(*reason)),
        Terminal::ShutDown | Terminal::NeverStarted { .. } => None,
    }
}

fn short(event: &PodEvent) -> String {
    crate::event::render_event(&LocalEvent::Reported(event.clone())).lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
