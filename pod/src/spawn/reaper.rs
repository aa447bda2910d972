//! What those who started it have left to this process: a pod is the subreaper of all that is below it.
//!
//! A program that leaves its group and its parent (`setsid`, a fork and a fork more) would be init's, and nobody's; here it
//! stays below the pod that ran it. So a pod finds it and ends it with itself, mark or no mark, and whoever asks whose
//! program a process is need only walk up to the nearest pod. What was so inherited is reaped when it is dead: each
//! process by its number, and only what nobody here has started, so that no exit code is taken from anybody. Pods below this
//! one are nobody's programs: they see to themselves.
//!
//! For processes that are a pod's alone, that is children and those of the command line; begun and used by `start`.
//! `process` and `supervisor` tell what they start.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, set_child_subreaper, waitid,
};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::process::{PROC, children_of, is_pod, state_of};
use crate::handle::Shared;
use crate::id::PodId;

/// How long a dead process that nobody here is known to have started is left alone. LIMIT: a worker that starts one by itself
/// waits for it in far less; a dead process costs its number and a page.
const LEFT_ALONE: Duration = Duration::from_secs(2);
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
static OURS: Mutex<Option<HashMap<Pid, usize>>> = Mutex::new(None);

/// A process of ours, until it is reaped.
#[derive(Debug)]
pub(crate) struct Ours(Pid);

/// Starts a program that somebody here waits for.
///
/// # Errors
/// The system's.
pub(crate) fn start(command: &mut Command) -> io::Result<(Child, Ours)> {
    let mut ours = lock();
    let child = command.spawn()?;
    let gone = || io::Error::other("the process was reaped by somebody else");
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).ok_or_else(gone)?;
    // Counted: the number may be given to the next one before the last one's reaper has said so here.
    *ours.get_or_insert_default().entry(pid).or_default() += 1;
    Ok((child, Ours(pid)))
}

impl Drop for Ours {
    fn drop(&mut self) {
        let mut ours = lock();
        if let Some(known) = ours.as_mut()
            && let Some(count) = known.get_mut(&self.0)
        {
            *count -= 1;
            if *count == 0 {
                known.remove(&self.0);
            }
        }
    }
}

fn lock() -> MutexGuard<'static, Option<HashMap<Pid, usize>>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on, whatever is left by its parent below this process is this process's.
pub(crate) fn inherit() {
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::warn!(%error, "programs that leave their parents cannot be kept below this pod");
    }
}

/// Reaps what was inherited, until the pod has ended.
pub(crate) async fn reap(shared: Shared) {
    let mut deaths = match signal(SignalKind::child()) {
        Ok(deaths) => deaths,
        Err(error) => return tracing::warn!(%error, "dead processes of others cannot be reaped"),
    };
    let mut dead = HashMap::new();
    let done = shared.stopped();
    let mut done = std::pin::pin!(done);
    loop {
        reap_once(&mut dead);
        tokio::time::sleep(BETWEEN_LOOKS).await;
        // CANCEL SAFETY: a signal that comes in between is kept; the others may be dropped and called again.
        tokio::select! {
            _ = deaths.recv() => {}
            () = tokio::time::sleep(LEFT_ALONE), if !dead.is_empty() => {}
            () = &mut done => return,
        }
    }
}

/// Looks at each child that is not ours; reaps what has been dead for long enough. `dead` is since when each is.
fn reap_once(dead: &mut HashMap<Pid, Instant>) {
    // Nothing is started meanwhile.
    let ours = lock();
    let is_ours = |pid: &Pid| ours.as_ref().is_some_and(|ours| ours.contains_key(pid));
    let Ok(children) = children_of(Path::new(PROC), getpid()) else { return };
    let others: HashSet<Pid> = children.into_iter().filter(|pid| !is_ours(pid)).collect();
    dead.retain(|pid, _| others.contains(pid));
    for pid in others {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // Never any child: only this one, which is of nobody here.
        if !matches!(waitid(WaitId::Pid(pid), look | WaitIdOptions::NOWAIT), Ok(Some(_))) {
            continue;
        }
        if dead.entry(pid).or_insert_with(Instant::now).elapsed() >= LEFT_ALONE {
            dead.remove(&pid);
            if matches!(waitid(WaitId::Pid(pid), look), Ok(Some(_))) {
                tracing::debug!(pid = pid.as_raw_nonzero(), "a process that was left to this pod is reaped");
            }
        }
    }
}

/// Ends what the programs of `pod`, which is this process, have left behind: SIGTERM, and after a moment SIGKILL. Children that are
/// pods, and all below them, are not touched. Returns how many there were. Blocks for a few seconds at most.
#[expect(clippy::disallowed_methods, reason = "a process that is dying does not say so")]
pub(crate) fn end_strays(pod: &PodId) -> usize {
    let look = || strays(Path::new(PROC), getpid(), pod);
    let mut told = HashSet::new();
    let began = Instant::now();
    loop {
        let found = look();
        if found.is_empty() || began.elapsed() > GRACE + DYING_MAX {
            return told.len();
        }
        let signal = if began.elapsed() > GRACE { Signal::KILL } else { Signal::TERM };
        let open = |pid: &Pid| Some((*pid, pidfd_open(*pid, PidfdFlags::empty()).ok()?));
        let opened: Vec<(Pid, OwnedFd)> = found.iter().filter_map(open).collect();
        // Looked at again, now that the descriptors say whom a signal reaches: a number may be another's by now.
        let still = look();
        for (pid, pidfd) in opened {
            let again = signal == Signal::KILL || !told.contains(&pid);
            if again && still.contains(&pid) && pidfd_send_signal(&pidfd, signal).is_ok() {
                told.insert(pid);
            }
        }
        std::thread::sleep(WHILE_ENDING);
    }
}

/// The living processes below `top` that are programs of `pod`, or were started by one, as `proc` shows them.
fn strays(proc: &Path, top: Pid, pod: &PodId) -> HashSet<Pid> {
    let mut found = HashSet::new();
    let mut parents = vec![top];
    while let Some(parent) = parents.pop() {
        for child in children_of(proc, parent).unwrap_or_default() {
            // What is dead has no children any more, and its number is not asked for again.
            let lives = state_of(proc, child).is_some_and(|state| !matches!(state, 'Z' | 'X'));
            if lives && !is_pod(proc, child, pod) && found.insert(child) {
                parents.push(child);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::process::{BACKGROUND_VARIABLE, LIFE_VARIABLE};
    use crate::store::fixture;

    /// A process table: number, parent, state, environment.
    fn table(processes: &[(i32, i32, char, &str)], with_children: bool) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (pid, parent, state, environment) in processes {
            let dir = proc.path().join(pid.to_string());
            std::fs::create_dir_all(dir.join("task").join(pid.to_string())).unwrap();
            std::fs::write(dir.join("stat"), format!("{pid} (a) b) {state} {parent} 1 1\n")).unwrap();
            std::fs::write(dir.join("environ"), environment).unwrap();
            let below = processes.iter().filter(|(_, parent, ..)| parent == pid);
            let below: String = below.map(|(child, ..)| format!("{child} ")).collect();
            if with_children {
                std::fs::write(dir.join("task").join(pid.to_string()).join("children"), below).unwrap();
            }
        }
        proc
    }

    #[test]
    fn all_that_is_below_a_pod_is_its_own_but_pods_and_what_is_below_them() {
        let (own, other) = (fixture::pod("own", 1), fixture::pod("other", 2));
        let child = |pod: &PodId| {
            let config = crate::spawn::supervisor::ChildConfig {
                pod: pod.clone(),
                parent: own.clone(),
                parent_pid: 1,
                parent_socket: "/nowhere".into(),
                parent_store: "/nowhere".into(),
                durability: crate::store::Durability::Process,
            };
            format!("{}={}\0", crate::spawn::supervisor::CHILD_VARIABLE, serde_json::to_string(&config).unwrap())
        };
        let background = format!("{BACKGROUND_VARIABLE}=1\0");
        let marked = format!("{LIFE_VARIABLE}={}\0", own.incarnation);
        let processes = [
            (10, 1, 'S', ""),
            (11, 10, 'S', &*marked),
            (12, 11, 'S', ""),
            (13, 10, 'T', "A=1\0"),
            (14, 10, 'Z', ""),
            // A program that is not its own yet: it has what its pod has.
            (15, 10, 'R', &child(&own)),
            (20, 10, 'S', &child(&other)),
            (21, 20, 'S', ""),
            (30, 10, 'S', &background),
            (31, 30, 'S', ""),
            (40, 1, 'S', &marked),
        ];
        for with_children in [true, false] {
            let proc = table(&processes, with_children);
            let found = strays(proc.path(), Pid::from_raw(10).unwrap(), &own);
            let mut found: Vec<i32> = found.into_iter().map(|pid| pid.as_raw_nonzero().get()).collect();
            found.sort_unstable();
            assert_eq!(found, [11, 12, 13, 15], "children files: {with_children}");
        }
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test")]
    async fn what_somebody_here_has_started_is_known_until_it_is_reaped() {
        let (mut child, ours) = start(Command::new("true").kill_on_drop(true)).unwrap();
        let pid = ours.0;
        let is_known = || lock().as_ref().is_some_and(|ours| ours.contains_key(&pid));
        assert!(is_known());
        // Dead and not waited for: left to whoever has started it, however long.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        let mut dead = HashMap::from([(pid, Instant::now().checked_sub(LEFT_ALONE * 2).unwrap())]);
        reap_once(&mut dead);
        assert!(!dead.contains_key(&pid), "it is taken for somebody else's");
        assert!(child.wait().await.unwrap().success(), "its exit code was taken");
        drop(ours);
        assert!(!is_known());
    }
}
