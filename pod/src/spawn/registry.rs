//! The children of a pod, as they are known now.
//!
//! A picture for people and for identity checks; what counts is in the store, and nothing is decided by this alone.
//! Changed only after the store has committed what it shows.
//!
//! Written by `supervisor` and `controller/actor`, read by the facade.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::id::{PodId, PodName, WorkId};
use crate::protocol::{Disposition, LocalEvent, LostReason, PodEvent, TurnResult, WorkResult};
use crate::store::{ChildRow, ChildState, Lifetime, Restart, Terminal, UnixMillis};

/// LIMIT: lives that are over and still shown, the newest ones: half a MiB. What is older stands in the store.
const ENDED_MAX: usize = 1024;

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
    /// Whether it ends with us.
    pub lifetime: Lifetime,
    /// Whether it is started again when it has ended.
    pub restart: Restart,
    /// Whether this life is such a restart.
    pub restarted: bool,
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
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the order in which they were added.
    children: BTreeMap<u64, Entry>,
    next: u64,
    of_pod: HashMap<PodId, u64>,
    newest: HashMap<PodName, u64>,
    /// Processes that are ours and not reaped.
    of_pid: HashMap<u32, u64>,
    ended: VecDeque<u64>,
    works: HashMap<WorkId, watch::Sender<WorkProgress>>,
    /// Lives that are to be ended and are reserved, but not among the children yet; and whether their parent wants it. Who waits
    /// for the end takes it away.
    to_be_stopped: HashMap<PodId, (Stop, bool)>,
    /// All were asked to end: one of another life that comes later is left to the pod's next one.
    stopping: bool,
}

#[derive(Debug)]
struct Entry {
    status: ChildStatus,
    /// The process is ours and not reaped: its number is its own.
    unreaped: bool,
    /// An earlier life of ours started it.
    adopted: bool,
    /// Whose process that is for certain, once it is known.
    identity: Option<(u32, Arc<AsyncFd<OwnedFd>>)>,
    /// Its parent wants it to end.
    wanted: bool,
    was_ready: bool,
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
        Self { inner: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl SpawnedPodRegistry {
    /// Changes whenever a child's line does.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Looks whenever a line has changed until there is something to be seen.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn until<T>(&self, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let mut changes = self.watch();
        loop {
            changes.borrow_and_update();
            if let Some(seen) = look(self) {
                return seen;
            }
            // The sender lives as long as `self` does.
            let _ = changes.changed().await;
        }
    }

    /// The children of this life of the pod, and those that it found: all that live, and of the others the newest.
    pub fn children(&self) -> Vec<ChildStatus> {
        self.lock().children.values().map(|entry| entry.status.clone()).collect()
    }

    /// This life, if it is not forgotten.
    pub fn life(&self, pod: &PodId) -> Option<ChildStatus> {
        let inner = self.lock();
        inner.of_pod.get(pod).and_then(|at| inner.children.get(at)).map(|entry| entry.status.clone())
    }

    /// The newest life of that name.
    pub fn child(&self, name: &PodName) -> Option<ChildStatus> {
        let inner = self.lock();
        inner.newest.get(name).and_then(|at| inner.children.get(at)).map(|entry| entry.status.clone())
    }

    /// Which child the process `pid` is: one of ours that is not reaped, or one of an earlier life's whose process is known for
    /// certain and lives.
    pub fn sender(&self, pid: u32) -> Option<PodId> {
        let inner = self.lock();
        if let Some(entry) = inner.of_pid.get(&pid).and_then(|at| inner.children.get(at)) {
            return Some(entry.status.pod.clone());
        }
        let known =
            |entry: &&Entry| entry.identity.as_ref().is_some_and(|(known, alive)| *known == pid && !has_ended(alive));
        inner.children.values().filter(|entry| entry.adopted).find(known).map(|entry| entry.status.pod.clone())
    }

    /// Whether `pod` is a living child that an earlier life of ours had started, and which process it is is not known yet.
    pub(crate) fn is_unidentified(&self, pod: &PodId) -> bool {
        let inner = self.lock();
        let entry = inner.of_pod.get(pod).and_then(|at| inner.children.get(at));
        let is_adopted = |e: &Entry| !e.unreaped && e.adopted && e.status.phase != ChildPhase::Ended;
        entry.is_some_and(|e| is_adopted(e) && e.identity.is_none())
    }

    /// The process of a child of an earlier life is this one for certain.
    pub(crate) fn identified(&self, pod: &PodId, pid: u32, alive: &Arc<AsyncFd<OwnedFd>>) {
        self.change(pod, |entry| {
            entry.status.pid = Some(pid);
            entry.identity = Some((pid, Arc::clone(alive)));
        });
    }

    /// Whether its parent wanted it to end, and whether it has been ready.
    pub(crate) fn course(&self, pod: &PodId) -> (bool, bool) {
        let inner = self.lock();
        let entry = inner.of_pod.get(pod).and_then(|at| inner.children.get(at));
        let before = || inner.to_be_stopped.get(pod).is_some_and(|(_, wanted)| *wanted);
        entry.map_or_else(|| (before(), false), |entry| (entry.wanted, entry.was_ready))
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
            // Somebody may have wanted its end before it was here to hear of it.
            let before = inner.to_be_stopped.remove(&row.pod);
            stop.send_replace(before.map(|(stop, _)| stop));
            let left = pid.is_none() && inner.stopping;
            inner.add(Entry {
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
                    lifetime: row.lifetime,
                    restart: row.restart,
                    restarted: row.restarted,
                    since: row.at,
                },
                unreaped: pid.is_some(),
                adopted: pid.is_none(),
                identity: None,
                wanted: before.is_some_and(|(_, wanted)| wanted),
                was_ready: row.state == ChildState::Ready,
                left,
                stop,
            });
        }
        self.tell();
        Ok(stopped)
    }

    pub(crate) fn phase(&self, pod: &PodId, phase: ChildPhase) {
        self.change(pod, |entry| {
            entry.was_ready |= phase == ChildPhase::Ready;
            // One that is asked to end is not ready once more because it says so.
            let back = phase == ChildPhase::Ready && entry.status.phase == ChildPhase::Stopping;
            if entry.status.phase != ChildPhase::Ended && !back {
                entry.status.phase = phase;
            }
        });
    }

    /// It goes on when we end.
    pub(crate) fn detached(&self, pod: &PodId) {
        self.change(pod, |entry| entry.status.lifetime = Lifetime::Detached);
    }

    /// The process is dead and about to be reaped: its number means nothing from here on.
    pub(crate) fn reaped(&self, pod: &PodId) {
        {
            let mut inner = self.lock();
            let at = inner.of_pod.get(pod).copied();
            let pid = at.and_then(|at| inner.children.get(&at)).and_then(|e| e.status.pid);
            // The number may be another child's by now.
            if let Some(pid) = pid.filter(|pid| inner.of_pid.get(pid).copied() == at) {
                inner.of_pid.remove(&pid);
            }
        }
        self.change(pod, |entry| entry.unreaped = false);
    }

    /// Its life is over.
    pub(crate) fn ended(&self, pod: &PodId, terminal: &Terminal) {
        self.reaped(pod);
        self.change(pod, |entry| {
            entry.unreaped = false;
            entry.identity = None;
            entry.status.phase = ChildPhase::Ended;
            entry.status.terminal = Some(terminal.clone());
            if entry.status.work_end.is_none() && entry.status.work.is_some() {
                entry.status.work_end = lost(terminal);
            }
        });
        let mut inner = self.lock();
        inner.to_be_stopped.remove(pod);
        inner.forget(pod);
    }

    /// Nobody waits any more for the end of a life that is not here.
    pub(crate) fn forget_stop(&self, pod: &PodId) {
        self.lock().to_be_stopped.remove(pod);
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
            for entry in inner.children.values_mut() {
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

    /// Asks the supervisors of all living children that are tied to us to end them; the others are left to themselves. Returns how
    /// many are asked.
    pub(crate) fn stop_all(&self, stop: Stop) -> usize {
        let mut inner = self.lock();
        inner.stopping = true;
        let mut asked = 0;
        for entry in inner.children.values_mut().filter(|entry| entry.status.phase != ChildPhase::Ended) {
            // One that is asked to end already is waited for.
            if entry.status.lifetime == Lifetime::Detached && !entry.wanted {
                entry.left = true;
            } else {
                entry.wanted = true;
                ask(&entry.stop, stop);
                asked += 1;
            }
        }
        asked
    }

    /// Asks the supervisor of one child to end it. False if its life is over already.
    pub(crate) fn stop(&self, pod: &PodId, stop: Stop) -> bool {
        self.end_one(pod, stop, true)
    }

    /// The same for one that is not what it should be, and may be started again.
    pub(crate) fn give_up(&self, pod: &PodId, stop: Stop) {
        self.end_one(pod, stop, false);
    }

    fn end_one(&self, pod: &PodId, stop: Stop, wanted: bool) -> bool {
        let mut inner = self.lock();
        let at = inner.of_pod.get(pod).copied();
        let Some(entry) = at.and_then(|at| inner.children.get_mut(&at)) else {
            // It is reserved, and has no process yet; or it is over, and long forgotten.
            let before = inner.to_be_stopped.remove(pod);
            let wanted = wanted || before.is_some_and(|(_, wanted)| wanted);
            inner.to_be_stopped.insert(pod.clone(), (hastened(before.map(|(stop, _)| stop), stop), wanted));
            return true;
        };
        entry.wanted |= wanted;
        ask(&entry.stop, stop);
        entry.status.phase != ChildPhase::Ended
    }

    /// Whether `pod` is to be ended as soon as it is here.
    #[cfg(test)]
    pub(crate) fn is_to_be_stopped(&self, pod: &PodId) -> bool {
        self.lock().to_be_stopped.contains_key(pod)
    }

    /// How a child was asked to end, if it was.
    #[cfg(test)]
    pub(crate) fn asked_to_stop(&self, pod: &PodId) -> Option<Stop> {
        self.lock().children.values().find(|entry| entry.status.pod == *pod).and_then(|entry| *entry.stop.borrow())
    }

    pub(crate) fn living(&self) -> usize {
        let inner = self.lock();
        inner.children.values().filter(|entry| entry.status.phase != ChildPhase::Ended && !entry.left).count()
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
        {
            let mut inner = self.lock();
            let at = inner.of_pod.get(pod).copied();
            if let Some(entry) = at.and_then(|at| inner.children.get_mut(&at)) {
                change(entry);
            }
        }
        self.tell();
    }

    fn tell(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, entry: Entry) {
        let at = self.next;
        self.next += 1;
        self.of_pod.insert(entry.status.pod.clone(), at);
        self.newest.insert(entry.status.pod.name.clone(), at);
        if let Some(pid) = entry.status.pid.filter(|_| entry.unreaped) {
            self.of_pid.insert(pid, at);
        }
        self.children.insert(at, entry);
    }

    /// It has ended: the one that has ended longest is forgotten if there are too many.
    fn forget(&mut self, pod: &PodId) {
        if let Some(at) = self.of_pod.get(pod).copied().filter(|at| !self.ended.contains(at)) {
            self.ended.push_back(at);
        }
        if self.ended.len() > ENDED_MAX
            && let Some(pod) = self.ended.front().and_then(|at| self.children.get(at)).map(|e| e.status.pod.clone())
        {
            self.remove(&pod);
        }
    }

    fn remove(&mut self, pod: &PodId) {
        let Some(at) = self.of_pod.remove(pod) else { return };
        self.children.remove(&at);
        self.ended.retain(|ended| *ended != at);
        self.of_pid.retain(|_, known| *known != at);
        if self.newest.get(&pod.name) == Some(&at) {
            self.newest.remove(&pod.name);
        }
    }
}

/// Whether a process has ended, or that cannot be told. While it has not, its number is its own.
pub(super) fn has_ended(pidfd: &AsyncFd<OwnedFd>) -> bool {
    let mut dead = [PollFd::new(pidfd.get_ref(), PollFlags::IN)];
    !poll(&mut dead, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready == 0)
}

/// A later wish only hastens an earlier one.
fn ask(sender: &watch::Sender<Option<Stop>>, stop: Stop) {
    sender.send_modify(|asked| *asked = Some(hastened(*asked, stop)));
}

fn hastened(before: Option<Stop>, stop: Stop) -> Stop {
    match before {
        Some(before) => Stop { now: before.now || stop.now, grace: before.grace.min(stop.grace) },
        None => stop,
    }
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
