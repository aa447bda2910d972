//! What those who started it have left to this process: a pod is the subreaper of all that is below it.
//!
//! A program that leaves its group and its parent (`setsid`, a fork and a fork more) would be init's, and nobody's; here it
//! stays below the pod that ran it. So a pod finds it and ends it with itself, mark or no mark, and whoever asks whose
//! program a process is need only walk up to the nearest pod. What was so inherited is reaped when it is dead: each
//! process by its number. Pods below this one are nobody's programs: they see to themselves; and what was below this process
//! before it became a pod is none of its own.
//!
//! A process that a worker has started by itself looks like one that was inherited, but for the mark that programs bear: where a
//! worker may do so, only those that were seen with it are reaped soon, all others are left to it for minutes.
//!
//! Who is a pod says the registry and nobody's environment: what a program says of itself exempts it from nothing.
//!
//! For processes that are a pod's alone, that is children and those of the command line; begun and used by `start`.
//! `process` and `supervisor` tell what they start.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, set_child_subreaper, waitid,
};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::process::{PROC, children_of, life_marked, roots_of, state_of};
use crate::admission::{self, Process};
use crate::handle::Shared;
use crate::id::{Incarnation, PodId};
use crate::registry::Registry;

/// How long a dead process that was inherited is left alone. LIMIT: whoever looks at it sees it; it costs its number and a page.
const LEFT_ALONE: Duration = Duration::from_secs(2);
/// The same for one that a worker may have started by itself and not looked at yet. LIMIT: longer than a tool runs on after
/// its program; then nobody is taken to wait.
const LEFT_TO_ITS_WORKER: Duration = Duration::from_secs(600);
/// LIMIT: dead processes that are left to whoever may wait for them. Of more the oldest are reaped: numbers are not for ever.
const DEAD_MAX: usize = 256;
/// Between two looks at the children. LIMIT: a look reads a file for each thread; nobody waits for what is dead.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Between SIGTERM and SIGKILL for what a pod's programs have left behind. LIMIT: the pod itself waits for it, and whoever has
/// told the pod to end.
const GRACE: Duration = Duration::from_secs(1);
/// How long the killed are waited for. LIMIT: the kernel takes milliseconds; one that waits for a disk may take for ever.
const DYING_MAX: Duration = Duration::from_secs(2);
/// Between two looks at those that are to end.
const WHILE_ENDING: Duration = Duration::from_millis(5);

/// Processes that this one has started and not reaped, by number: of the process, as its children are, and not of one pod. Held
/// while one is started, so that none is seen before it is known.
static OURS: Mutex<Option<HashMap<Pid, Vec<Known>>>> = Mutex::new(None);

/// Tells processes apart that have the same number, one after the other.
static STARTS: AtomicU64 = AtomicU64::new(0);

/// A process that this one has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    start: u64,
    /// The life of a pod that it is, if it is one.
    pub(super) life: Option<Incarnation>,
}

/// What was below this process before it became a pod.
static BEFORE: Mutex<Vec<Process>> = Mutex::new(Vec::new());

/// A process of ours, until it is reaped.
#[derive(Debug)]
pub(crate) struct Ours(Pid, Known);

/// Starts a program that somebody here waits for: the life of a pod, or another.
///
/// # Errors
/// The system's.
pub(crate) fn start(command: &mut Command, life: Option<Incarnation>) -> io::Result<(Child, Ours)> {
    let mut ours = lock();
    let child = command.spawn()?;
    let gone = || io::Error::other("the process was reaped by somebody else");
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).ok_or_else(gone)?;
    let known = Known { start: STARTS.fetch_add(1, Ordering::Relaxed), life };
    // One of several: the number may be given to the next one before the last one's reaper has said so here.
    ours.get_or_insert_default().entry(pid).or_default().push(known);
    Ok((child, Ours(pid, known)))
}

/// The living pods among the processes that this one has started and not reaped: their numbers are their own.
pub(super) fn pods() -> HashMap<Pid, Known> {
    let ours = lock();
    let single = |(pid, known): (&Pid, &Vec<Known>)| match known.as_slice() {
        [one] if one.life.is_some() => Some((*pid, *one)),
        _ => None,
    };
    ours.iter().flatten().filter_map(single).collect()
}

impl Drop for Ours {
    fn drop(&mut self) {
        let mut ours = lock();
        if let Some(known) = ours.as_mut()
            && let Some(same) = known.get_mut(&self.0)
        {
            same.retain(|one| *one != self.1);
            if same.is_empty() {
                known.remove(&self.0);
            }
        }
    }
}

fn lock() -> MutexGuard<'static, Option<HashMap<Pid, Vec<Known>>>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on, whatever is left by its parent below this process is this process's; what is there already is not.
pub(crate) fn inherit() {
    let children = children_of(Path::new(PROC), getpid()).unwrap_or_default();
    let before = children.into_iter().filter_map(process).collect();
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = before;
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::warn!(%error, "programs that leave their parents cannot be kept below this pod");
    }
}

/// The process that has that number now.
fn process(pid: Pid) -> Option<Process> {
    admission::process(Path::new(PROC), pid.as_raw_nonzero().get()).ok().flatten()
}

/// What is known of children that nobody here has started.
#[derive(Debug, Default)]
struct Others {
    /// Nobody here starts a process but by [`start`].
    all_inherited: bool,
    /// Seen with the mark of a pod: they were left by a program.
    inherited: HashSet<Pid>,
    /// Dead, and since when.
    dead: HashMap<Pid, Instant>,
}

/// Reaps what was inherited, until the pod has ended. `starts_processes` says whether the pod's worker may wait for some.
pub(crate) async fn reap(shared: Shared, starts_processes: bool) {
    let mut deaths = match signal(SignalKind::child()) {
        Ok(deaths) => deaths,
        Err(error) => return tracing::warn!(%error, "dead processes of others cannot be reaped"),
    };
    let mut others = Others { all_inherited: !starts_processes, ..Others::default() };
    let done = shared.stopped();
    let mut done = std::pin::pin!(done);
    loop {
        others.look();
        tokio::time::sleep(BETWEEN_LOOKS).await;
        // CANCEL SAFETY: a signal that comes in between is kept; the others may be dropped and called again.
        tokio::select! {
            _ = deaths.recv() => {}
            () = tokio::time::sleep(LEFT_ALONE), if !others.dead.is_empty() => {}
            () = &mut done => return,
        }
    }
}

impl Others {
    /// Looks at each child that is not ours; reaps what has been dead for long enough.
    fn look(&mut self) {
        // Before the lock is taken: a file for each thread is read, and whoever starts a process waits for the lock.
        let Ok(children) = children_of(Path::new(PROC), getpid()) else { return };
        // Whatever was just being started is known from here on, and nothing is started meanwhile.
        let ours = lock();
        let is_ours = |pid: &Pid| ours.as_ref().is_some_and(|ours| ours.contains_key(pid));
        let found: HashSet<Pid> = children.into_iter().filter(|pid| !is_ours(pid)).collect();
        // A number that has gone from among the children may come back as anybody's.
        self.dead.retain(|pid, _| found.contains(pid));
        self.inherited.retain(|pid| found.contains(pid));
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        for pid in found {
            // Never any child: only this one.
            if !matches!(waitid(WaitId::Pid(pid), look | WaitIdOptions::NOWAIT), Ok(Some(_))) {
                // It can still be asked: what is dead has no environment any more.
                if life_marked(pid).is_some() {
                    self.inherited.insert(pid);
                }
                continue;
            }
            let since = *self.dead.entry(pid).or_insert_with(Instant::now);
            let alone =
                if self.all_inherited || self.inherited.contains(&pid) { LEFT_ALONE } else { LEFT_TO_ITS_WORKER };
            if since.elapsed() >= alone {
                self.reap(pid);
            }
        }
        while self.dead.len() > DEAD_MAX {
            let Some(oldest) = self.dead.iter().min_by_key(|(_, since)| **since).map(|(pid, _)| *pid) else { break };
            self.reap(oldest);
        }
    }

    fn reap(&mut self, pid: Pid) {
        self.dead.remove(&pid);
        self.inherited.remove(&pid);
        if matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG), Ok(Some(_))) {
            tracing::debug!(pid = pid.as_raw_nonzero(), "a process that was left to this pod is reaped");
        }
    }
}

/// Ends what the programs of `own`, which is this process, have left behind: SIGTERM, and after a moment SIGKILL, until two looks
/// in a row find nobody. Living pods, and all below them, are not touched. Returns how many there were. Blocks for a few
/// seconds at most; whoever is left then is said.
#[expect(clippy::disallowed_methods, reason = "a process that is dying does not say so")]
pub(crate) fn end_strays(own: &PodId, registry: &Registry, is_scoped: bool) -> usize {
    let known = Exempt::new(own, registry, is_scoped);
    let look = || strays(Path::new(PROC), getpid(), &|process| known.is(process));
    let (mut told, mut asked, mut in_vain) = (HashSet::new(), HashSet::new(), 0);
    let mut refused: HashMap<i32, Process> = HashMap::new();
    let began = Instant::now();
    loop {
        let mut found = look();
        // Whom this user may not signal nobody here waits for.
        found.retain(|process| refused.get(&process.pid) != Some(process));
        in_vain = if found.is_empty() { in_vain + 1 } else { 0 };
        if in_vain == 2 {
            return told.len();
        }
        if began.elapsed() > GRACE + DYING_MAX {
            let left: Vec<i32> = found.iter().map(|process| process.pid).collect();
            tracing::error!(pod = %own, ?left, "programs that this pod has started are not to be ended, and live on");
            return told.len();
        }
        let is_late = began.elapsed() > GRACE;
        for stray in found {
            if !is_late && asked.contains(&stray.pid) {
                continue;
            }
            let signal = if is_late { Signal::KILL } else { Signal::TERM };
            let Some(pid) = Pid::from_raw(stray.pid) else { continue };
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // Looked at again, now that the descriptor says whom a signal reaches: the number may be another's by now.
            if process(pid) != Some(stray) {
                continue;
            }
            match pidfd_send_signal(&pidfd, signal) {
                Ok(()) => {
                    told.insert(stray.pid);
                    asked.insert(stray.pid);
                }
                Err(Errno::PERM) => {
                    tracing::error!(pod = %own, pid = stray.pid, "a program that this pod has started may not be signalled, and lives on");
                    refused.insert(stray.pid, stray);
                }
                Err(_) => {}
            }
        }
        std::thread::sleep(WHILE_ENDING);
    }
}

/// Who is none of a pod's programs, though below it.
struct Exempt<'r> {
    own: &'r PodId,
    registry: &'r Registry,
    before: Vec<Process>,
    is_scoped: bool,
    /// What the registry has said.
    pods: RefCell<HashMap<(i32, u64), bool>>,
}

impl<'r> Exempt<'r> {
    fn new(own: &'r PodId, registry: &'r Registry, is_scoped: bool) -> Self {
        let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { own, registry, before, is_scoped, pods: RefCell::default() }
    }

    fn is(&self, process: Process) -> bool {
        // What this pod has started and waits for, and that is there when all its turns are over, is a detached child.
        let is_ours = Pid::from_raw(process.pid).is_some_and(|pid| {
            let ours = lock();
            ours.as_ref().is_some_and(|ours| ours.contains_key(&pid))
        });
        is_ours || self.before.contains(&process) || self.is_pod(process)
    }

    fn is_pod(&self, process: Process) -> bool {
        let key = (process.pid, process.began);
        if let Some(known) = self.pods.borrow().get(&key) {
            return *known;
        }
        let is_pod_of = |registry: &Registry| registry.kin(self.own, &[process], &[]).map(|kin| !kin.pods.is_empty());
        let found = match is_pod_of(self.registry) {
            // A pod of another root that a program has started. What a scope binds has no such way out.
            Ok(false) if !self.is_scoped => Pid::from_raw(process.pid)
                .and_then(roots_of)
                .map(|roots| Registry::at(&roots))
                .filter(|registry| registry.path() != self.registry.path() && registry.path().exists())
                .map_or(Ok(false), |registry| is_pod_of(&registry)),
            known => known,
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(pod = %self.own, %error, pid = process.pid, "who is a pod cannot be told: it is left alone");
                // Asked again: the next look may find out.
                return true;
            }
        };
        self.pods.borrow_mut().insert(key, found);
        found
    }
}

/// The living processes below `top`, but for those that are `exempt` and what is below them, as `proc` shows them.
fn strays(proc: &Path, top: Pid, exempt: &dyn Fn(Process) -> bool) -> Vec<Process> {
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut parents = vec![top];
    while let Some(parent) = parents.pop() {
        for child in children_of(proc, parent).unwrap_or_default() {
            // What is dead has no children any more, and its number is not asked for again.
            let lives = state_of(proc, child).is_some_and(|state| !matches!(state, 'Z' | 'X'));
            let process = admission::process(proc, child.as_raw_nonzero().get()).ok().flatten();
            let Some(process) = process.filter(|_| lives) else { continue };
            if !exempt(process) && seen.insert(child) {
                found.push(process);
                parents.push(child);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::process::LIFE_VARIABLE;

    /// A process table: number, parent, state.
    fn table(processes: &[(i32, i32, char)], with_children: bool) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (pid, parent, state) in processes {
            let dir = proc.path().join(pid.to_string());
            std::fs::create_dir_all(dir.join("task").join(pid.to_string())).unwrap();
            let zeros = "0 ".repeat(22 - 5);
            std::fs::write(dir.join("stat"), format!("{pid} (a) b) {state} {parent} {zeros}7 0\n")).unwrap();
            let below = processes.iter().filter(|(_, parent, _)| parent == pid);
            let below: String = below.map(|(child, ..)| format!("{child} ")).collect();
            if with_children {
                std::fs::write(dir.join("task").join(pid.to_string()).join("children"), below).unwrap();
            }
        }
        proc
    }

    #[test]
    fn all_that_is_below_a_pod_is_its_own_but_pods_and_what_is_below_them() {
        let processes = [
            (10, 1, 'S'),
            (11, 10, 'S'),
            (12, 11, 'S'),
            (13, 10, 'T'),
            (14, 10, 'Z'),
            (20, 10, 'S'),
            (21, 20, 'S'),
            (30, 12, 'S'),
            (31, 30, 'S'),
            (40, 1, 'S'),
        ];
        for with_children in [true, false] {
            let proc = table(&processes, with_children);
            let is_pod = |process: Process| process.began == 7 && [20, 30].contains(&process.pid);
            let found = strays(proc.path(), Pid::from_raw(10).unwrap(), &is_pod);
            let mut found: Vec<i32> = found.into_iter().map(|process| process.pid).collect();
            found.sort_unstable();
            assert_eq!(found, [11, 12, 13], "children files: {with_children}");
        }
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test")]
    async fn what_a_worker_has_started_by_itself_is_left_to_it_and_what_bore_a_mark_is_reaped() {
        let life = crate::id::Incarnation::random().to_string();
        let gate = |mark: Option<&str>| {
            let mut command = Command::new("cat");
            command.stdin(std::process::Stdio::piped()).kill_on_drop(true);
            mark.into_iter().for_each(|life| _ = command.env(LIFE_VARIABLE, life));
            command.spawn().unwrap()
        };
        let (mut its, mut left) = (gate(None), gate(Some(&life)));
        let pid = |child: &Child| Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        let (its_pid, left_pid) = (pid(&its), pid(&left));
        // A process that is just becoming its program has no environment for a moment.
        while life_marked(left_pid).is_none() {
            std::thread::yield_now();
        }
        let mut others = Others::default();
        others.look();
        assert!(others.inherited.contains(&left_pid) && !others.inherited.contains(&its_pid));
        drop((its.stdin.take(), left.stdin.take()));
        for pid in [its_pid, left_pid] {
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        }
        others.look();
        let long_ago = Instant::now().checked_sub(LEFT_ALONE * 2).unwrap();
        // Of those two alone: other tests have children in this process.
        others.dead = HashMap::from([(its_pid, long_ago), (left_pid, long_ago)]);
        others.look();
        assert!(others.dead.contains_key(&its_pid), "whoever waits for it gets no exit code");
        assert!(!others.dead.contains_key(&left_pid));
        assert!(its.wait().await.unwrap().success());
        assert!(left.wait().await.is_err(), "it stays a zombie");
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test")]
    async fn what_somebody_here_has_started_is_known_until_it_is_reaped() {
        let (mut child, ours) = start(Command::new("true").kill_on_drop(true), None).unwrap();
        let pid = ours.0;
        let is_known = || lock().as_ref().is_some_and(|ours| ours.contains_key(&pid));
        assert!(is_known());
        // Dead and not waited for: left to whoever has started it, however long.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        let mut others = Others::default();
        others.dead.insert(pid, Instant::now().checked_sub(LEFT_TO_ITS_WORKER).unwrap());
        others.look();
        assert!(!others.dead.contains_key(&pid), "it is taken for somebody else's");
        assert!(child.wait().await.unwrap().success(), "its exit code was taken");
        drop(ours);
        assert!(!is_known());
    }
}
