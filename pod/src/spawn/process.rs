//! A process that leads a group of its own.
//!
//! Its death is known by its pidfd, never by a pipe's end. The group is signalled only while the leader is not reaped:
//! until then the kernel gives its number to nobody else.
//!
//! Used by `supervisor` for children and by the command worker for programs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, getuid, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use super::reaper::{self, Known, Ours};
use super::supervisor::{CHILD_VARIABLE, ChildConfig};
use crate::id::Incarnation;
use crate::runtime_dir::Roots;
use crate::store::UnixMillis;

/// Variables by which a pod tells its child what it is; no program that a pod runs may see them.
pub(crate) const WITHHELD: [&str; 2] = [CHILD_VARIABLE, BACKGROUND_VARIABLE];

/// The variable that marks the programs of one life of a pod, and whatever these start: its incarnation.
pub const LIFE_VARIABLE: &str = "POD_LIFE";

/// The variable of a root that was started in the background, whatever its value: a pod of its own, and no program of the pod
/// that may have asked for it.
pub const BACKGROUND_VARIABLE: &str = "POD_BACKGROUND";

/// LIMIT: how often the process table is looked through for one dead life. What is killed may have started another in
/// the last moment; what outruns this many looks is a fork bomb.
const LOOKS_MAX: usize = 16;
/// LIMIT: longer than an `exec` is without an environment, and nothing beside the end of a child.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// LIMIT: how long the killed are waited for. The kernel takes milliseconds; one that waits for a disk may take for ever,
/// and its rights come back when it is gone.
const DYING_MAX: Duration = Duration::from_secs(2);
/// Between two looks at the dying. LIMIT: a look reads the whole process table.
const WHILE_DYING: Duration = Duration::from_millis(10);

/// Where the kernel shows its processes.
pub(crate) const PROC: &str = "/proc";
/// LIMIT: 100 wherever Linux runs, but for two machines that are no longer made.
const TICKS_PER_SECOND: u64 = 100;
/// LIMIT: the kernel says when it was booted in whole seconds; a clock that is set moves that.
const CLOCK_SLACK_MS: u64 = 2_000;

/// A pidfd of `process`, which becomes readable when the process is dead. The caller must know that the number is
/// still that process's: it is unreaped, or is checked again afterwards.
#[expect(
    deprecated,
    reason = "what is deprecated is unsound for borrowed descriptors; this one is owned by what registers it"
)]
pub(crate) fn watch_death(process: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd_open(process, PidfdFlags::NONBLOCK)?, Interest::READABLE)
}

/// The leader of a process group, not reaped.
#[derive(Debug)]
pub(crate) struct Leader {
    child: Child,
    /// Until it is reaped nobody else here reaps it.
    _ours: Ours,
    group: Pid,
    pidfd: AsyncFd<OwnedFd>,
    /// The group is to be killed if this is dropped before its leader is reaped.
    kill_on_drop: bool,
}

impl Leader {
    /// `child` was started with a process group of its own. If its death cannot be watched it is killed.
    pub(crate) fn new((mut child, ours): (Child, Ours)) -> io::Result<Self> {
        let gone = || io::Error::other("the process was reaped by somebody else");
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).ok_or_else(gone)?;
        match watch_death(group) {
            Ok(pidfd) => Ok(Self { child, _ours: ours, group, pidfd, kill_on_drop: false }),
            Err(error) => {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.start_kill();
                Err(error)
            }
        }
    }

    /// The same, and its group never outlives it.
    pub(crate) fn kill_on_drop(mut self) -> Self {
        self.kill_on_drop = true;
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.group.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits until the process is dead. It stays unreaped.
    ///
    /// # Cancel safety
    /// It may be dropped and called again.
    pub(crate) async fn exited(&self) {
        // A pidfd once readable stays so; an error of the reactor would mean that the runtime is going.
        let _ = self.pidfd.readable().await;
    }

    /// Signals the whole group.
    pub(crate) fn signal(&self, signal: Signal) {
        // ESRCH: nobody of the group is left.
        let _ = kill_process_group(self.group, signal);
    }

    /// Ends the group: SIGTERM, and after `grace` SIGKILL.
    pub(crate) async fn stop(self, grace: Duration) {
        self.signal(Signal::TERM);
        let _ = tokio::time::timeout(grace, self.exited()).await;
        let _ = self.reap_group().await;
    }

    /// Kills what is left of the group and reaps the leader.
    pub(crate) async fn reap_group(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        let status = self.child.wait().await;
        // From here on the number may be anybody's.
        self.kill_on_drop = false;
        status
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.kill_on_drop {
            self.signal(Signal::KILL);
        }
    }
}

/// Kills the programs that the dead life `life` below `roots` has left behind: they lead groups of their own, so that nothing
/// but their mark tells whose they were. Returns how many there were, when nobody of them is seen any more or after a while.
/// What cannot be looked at is left alone: whether all are gone is for [`has_programs`] to say. Blocks for as long as
/// reading the process table takes.
pub(crate) fn kill_programs_of(life: Incarnation, roots: &Roots) -> usize {
    kill_programs_of_all(&[life], roots)
}

/// The same for many lives at once: the process table is read as often as for one.
#[expect(clippy::disallowed_methods, reason = "neither an exec that is under way nor a process that is dying says so")]
pub(crate) fn kill_programs_of_all(lives: &[Incarnation], roots: &Roots) -> usize {
    let lives: HashSet<Incarnation> = lives.iter().copied().collect();
    let theirs = || {
        let look = Look::of(Path::new(PROC), &lives).unwrap_or_default();
        look.marked.into_iter().filter(|found| found.is_below(roots)).map(|found| found.pid).collect()
    };
    let killed = kill_all(theirs, |pid| kill_if_marked(pid, &lives, roots), || std::thread::sleep(BETWEEN_LOOKS));
    let since = Instant::now();
    while killed > 0 && since.elapsed() < DYING_MAX && !theirs().is_empty() {
        std::thread::sleep(WHILE_DYING);
    }
    killed
}

/// A process that a pod has started, or was about to start.
#[derive(Clone, Debug)]
pub(crate) struct Marked {
    pub(crate) pid: Pid,
    /// The life that it belongs to.
    pub(crate) life: Incarnation,
    /// Where it finds its pods.
    roots: Option<Roots>,
}

impl Marked {
    /// Whether it belongs to its life as the tree below `roots` knows it. A copy of a tree knows the same lives, and has no
    /// right to the processes of the original.
    pub(crate) fn is_below(&self, roots: &Roots) -> bool {
        self.roots.as_ref().is_some_and(|found| found.state_root() == roots.state_root())
    }
}

/// Looks and kills until nobody new is found twice in a row, with a pause between. Returns how many were killed.
fn kill_all(look: impl Fn() -> Vec<Pid>, kill: impl Fn(Pid) -> bool, pause: impl Fn()) -> usize {
    let mut killed = BTreeSet::new();
    let mut looked_in_vain = false;
    for _ in 0..LOOKS_MAX {
        let before = killed.len();
        killed.extend(look().into_iter().filter(|pid| kill(*pid)).map(Pid::as_raw_nonzero));
        // Whoever is killed is seen until the kernel has taken it apart: that uses up no looks without a pause.
        let in_vain = killed.len() == before;
        if in_vain && looked_in_vain {
            break;
        }
        looked_in_vain = in_vain;
        if in_vain {
            // One that is just being replaced by its program has no environment for a moment.
            pause();
        }
    }
    killed.len()
}

/// Which of these lives, each with the time when it began, some process carries the mark of, below whatever root: the pod
/// itself, or a program that it has started. In one look for all of them. Blocks for as long as reading the process table takes.
///
/// # Errors
/// For each life: if some process that may be its program cannot be looked at.
pub(crate) fn have_programs(lives: &[(Incarnation, UnixMillis)]) -> Vec<io::Result<bool>> {
    let look = match Look::of(Path::new(PROC), &lives.iter().map(|(life, _)| *life).collect()) {
        Ok(look) => look,
        Err(error) => return lives.iter().map(|_| Err(again(&error))).collect(),
    };
    let marked: HashSet<Incarnation> = look.marked.iter().map(|found| found.life).collect();
    // What is older than the oldest of them is older than each.
    let oldest = lives.iter().map(|(_, since)| *since).min().unwrap_or_default();
    let is_older = |pid| matches!(is_of_another_user_or_older(Path::new(PROC), pid, oldest), Ok(true));
    let is_denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let hidden: Vec<_> = look.hidden.iter().filter(|(pid, error)| !is_denied(error) || !is_older(*pid)).collect();
    let has_programs = |(life, since): &(Incarnation, UnixMillis)| {
        if marked.contains(life) {
            return Ok(true);
        }
        for (pid, error) in &hidden {
            if !is_denied(error) || !is_none_of_ours(Path::new(PROC), *pid, *since)? {
                return Err(again(error));
            }
        }
        Ok(false)
    };
    lives.iter().map(has_programs).collect()
}

fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// All processes that bear a pod's mark, as far as this user may look at them: no proof that there are no others.
pub(crate) fn marked() -> Vec<Marked> {
    Look::at(Path::new(PROC)).map(|look| look.marked).unwrap_or_default()
}

/// The life below `roots` whose mark the process `pid` bears, as far as this user may look at it.
pub(crate) fn life_of(pid: i32, roots: &Roots) -> Option<Incarnation> {
    let found = mark_of(Path::new(PROC), Pid::from_raw(pid)?).ok().flatten()?;
    found.is_below(roots).then_some(found.life)
}

/// One look through the process table.
#[derive(Debug, Default)]
struct Look {
    /// Who bears a mark.
    marked: Vec<Marked>,
    /// Who could not be looked at.
    hidden: Vec<(Pid, io::Error)>,
}

impl Look {
    fn at(proc: &Path) -> io::Result<Self> {
        Self::but_for(proc, |_| false)
    }

    /// Only what bears the mark of one of `lives`. A pod that this process has started, that is another life and is not reaped
    /// before the look is over is none of these: its environment, which is dear to read, is not looked at. So the end of one
    /// of a thousand children costs a look at the others' numbers.
    fn of(proc: &Path, lives: &HashSet<Incarnation>) -> io::Result<Self> {
        let others = |pods: HashMap<Pid, Known>| {
            let is_other = |known: &Known| known.life.is_some_and(|life| !lives.contains(&life));
            pods.into_iter().filter(|(_, known)| is_other(known)).collect::<HashMap<_, _>>()
        };
        let before = others(reaper::pods());
        let mut look = Self::but_for(proc, |pid| before.contains_key(&pid))?;
        let after = others(reaper::pods());
        for (pid, _) in before.into_iter().filter(|(pid, known)| after.get(pid) != Some(known)) {
            look.add(proc, pid);
        }
        look.marked.retain(|found| lives.contains(&found.life));
        Ok(look)
    }

    fn but_for(proc: &Path, is_known: impl Fn(Pid) -> bool) -> io::Result<Self> {
        let mut look = Self::default();
        for entry in std::fs::read_dir(proc)? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else { continue };
            if !is_known(pid) {
                look.add(proc, pid);
            }
        }
        Ok(look)
    }

    fn add(&mut self, proc: &Path, pid: Pid) {
        match mark_of(proc, pid) {
            Ok(found) => self.marked.extend(found),
            Err(error) => self.hidden.push((pid, error)),
        }
    }
}

/// A dead process that is not reaped has no environment any more. One that was forked and is not its program yet has
/// that of its pod, which says who the pod is.
pub(super) fn mark_of(proc: &Path, pid: Pid) -> io::Result<Option<Marked>> {
    let environment = Environment::of(proc, pid)?;
    let variable = |wanted: &str| environment.variable(wanted);
    let child = environment.child();
    let program = variable(LIFE_VARIABLE).and_then(|life| life.parse().ok());
    let Some(life) = program.or(child.map(|child| child.pod.incarnation)) else { return Ok(None) };
    Ok(Some(Marked { pid, life, roots: environment.roots() }))
}

/// Whether a process that does not show its environment can be none of a life that began at `since`: it is another
/// user's, or older, or was started by somebody who is not of that life.
fn is_none_of_ours(proc: &Path, pid: Pid, since: UnixMillis) -> io::Result<bool> {
    Ok(is_dead(proc, pid)?
        || is_of_another_user_or_older(proc, pid, since)?
        || super::hidden::is_anothers(proc, pid, since)?)
}

/// Whether it has ended and is not reaped, or is gone. A dead one shows nothing to anybody but root, and runs nothing; one whose first
/// thread alone has ended looks like that and has others.
fn is_dead(proc: &Path, pid: Pid) -> io::Result<bool> {
    let Some(stat) = unless_gone(std::fs::read_to_string(of(proc, pid, "stat")))? else { return Ok(true) };
    let threads: Option<u64> = field(&stat, 20).and_then(|threads| threads.parse().ok());
    Ok(matches!(field(&stat, 3), Some("Z" | "X")) && threads.is_some_and(|threads| threads <= 1))
}

/// One that runs with more than its user's rights is still that user's.
pub(super) fn is_of_another_user_or_older(proc: &Path, pid: Pid, since: UnixMillis) -> io::Result<bool> {
    let Some(status) = unless_gone(std::fs::read_to_string(of(proc, pid, "status")))? else { return Ok(true) };
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
    if user.is_some_and(|user: u32| user != getuid().as_raw()) {
        return Ok(true);
    }
    let Some(stat) = unless_gone(std::fs::read_to_string(of(proc, pid, "stat")))? else { return Ok(true) };
    let booted = std::fs::read_to_string(proc.join("stat"))?;
    Ok(began_ms(&booted, &stat).is_some_and(|began| began.saturating_add(CLOCK_SLACK_MS) < since.0))
}

/// When a process began, in Unix milliseconds, from the system's `stat` and its own.
fn began_ms(booted: &str, stat: &str) -> Option<u64> {
    let booted_s: u64 = booted.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    let ticks: u64 = field(stat, 22)?.parse().ok()?;
    booted_s.checked_mul(1000)?.checked_add(ticks.checked_mul(1000 / TICKS_PER_SECOND)?)
}

/// The life whose mark the process `pid` bears, wherever its pods are.
pub(super) fn life_marked(pid: Pid) -> Option<Incarnation> {
    let environment = Environment::of(Path::new(PROC), pid).ok()?;
    environment.variable(LIFE_VARIABLE)?.parse().ok()
}

/// Where the process `pid` finds its pods.
pub(super) fn roots_of(pid: Pid) -> Option<Roots> {
    Environment::of(Path::new(PROC), pid).ok()?.roots()
}

/// The processes whose parent is `parent` now.
///
/// # Errors
/// If the process table cannot be read; not if there is no such parent.
pub(super) fn children_of(proc: &Path, parent: Pid) -> io::Result<Vec<Pid>> {
    let Some(threads) = unless_gone(std::fs::read_dir(of(proc, parent, "task")))? else { return Ok(Vec::new()) };
    let mut children = Vec::new();
    for thread in threads {
        let listed = thread?.path().join("children");
        match std::fs::read_to_string(&listed) {
            Ok(listed) => children.extend(listed.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?))),
            // The thread has gone meanwhile, or the kernel keeps no such list.
            Err(_) if listed.parent().is_some_and(|thread| !thread.exists()) => {}
            Err(_) => return by_parent(proc, parent),
        }
    }
    Ok(children)
}

/// The same, from the whole process table.
fn by_parent(proc: &Path, parent: Pid) -> io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else { continue };
        let stat = unless_gone(std::fs::read_to_string(of(proc, pid, "stat")))?;
        let found = stat.and_then(|stat| field(&stat, 4)?.parse().ok()).and_then(Pid::from_raw);
        if found == Some(parent) {
            children.push(pid);
        }
    }
    Ok(children)
}

/// The state of a process, as `ps` shows it; none if it is gone.
pub(crate) fn state_of(proc: &Path, pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(of(proc, pid, "stat")).ok()?;
    field(&stat, 3)?.chars().next()
}

/// The `number`th field of a process's `stat`, from the third on.
pub(crate) fn field(stat: &str, number: usize) -> Option<&str> {
    // Its name, which may be anything, ends with the last parenthesis; what follows begins with the third field.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(number.checked_sub(3)?)
}

/// What a process was started with, as far as it is text; nothing if it is gone, or dead.
pub(super) struct Environment(Vec<u8>);

impl Environment {
    pub(super) fn of(proc: &Path, pid: Pid) -> io::Result<Self> {
        Ok(Self(unless_gone(std::fs::read(of(proc, pid, "environ")))?.unwrap_or_default()))
    }

    fn variable(&self, wanted: &str) -> Option<&str> {
        let entries = self.0.split(|byte| *byte == 0);
        let mut entries = entries.filter_map(|entry| str::from_utf8(entry).ok()?.split_once('='));
        entries.find(|(name, _)| *name == wanted).map(|(_, value)| value)
    }

    /// Whether it was started as a pod in the background.
    pub(super) fn is_background(&self) -> bool {
        self.variable(BACKGROUND_VARIABLE).is_some()
    }

    fn roots(&self) -> Option<Roots> {
        Roots::named_from(None, |name| self.variable(name).filter(|value| !value.is_empty()).map(Into::into)).ok()
    }

    /// Which child of a pod it was started as, if it was.
    pub(super) fn child(&self) -> Option<ChildConfig> {
        serde_json::from_str(self.variable(CHILD_VARIABLE)?).ok()
    }
}

pub(super) fn of(proc: &Path, pid: Pid, file: &str) -> PathBuf {
    proc.join(pid.as_raw_nonzero().to_string()).join(file)
}

/// What was read of a process, if there is one. Nothing but its absence says that it is gone.
pub(super) fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    let gone = [rustix::io::Errno::NOENT.raw_os_error(), rustix::io::Errno::SRCH.raw_os_error()];
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.raw_os_error().is_some_and(|number| gone.contains(&number)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn kill_if_marked(pid: Pid, lives: &HashSet<Incarnation>, roots: &Roots) -> bool {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    // Looked at again, now that the descriptor says whom a signal reaches: the number may be another's by now.
    let found = mark_of(Path::new(PROC), pid).ok().flatten();
    let is_theirs = found.is_some_and(|found| lives.contains(&found.life) && found.is_below(roots));
    is_theirs && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::id::PodId;
    use crate::runtime_dir::ROOT_VARIABLE;
    use crate::store::Durability;

    /// Kills on drop what nobody else has.
    struct Sleeper(std::process::Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn process_that_is_dead_shows_nothing_and_is_no_program_unless_a_thread_of_it_lives() {
        let proc = tempfile::tempdir().unwrap();
        let dir = proc.path().join("30");
        std::fs::create_dir(&dir).unwrap();
        let pid = Pid::from_raw(30).unwrap();
        for (state, threads, dead) in [("Z", 1, true), ("Z", 0, true), ("X", 1, true), ("Z", 3, false), ("S", 1, false)]
        {
            let zeros = "0 ".repeat(20 - 5);
            std::fs::write(dir.join("stat"), format!("30 (a) Z) {state} 1 {zeros}{threads} 0 9 0\n")).unwrap();
            assert_eq!(is_dead(proc.path(), pid).unwrap(), dead, "{state} {threads}");
        }
        assert!(is_dead(proc.path(), Pid::from_raw(31).unwrap()).unwrap(), "it is gone");
    }

    #[expect(clippy::disallowed_methods, reason = "a test")]
    fn sleeper(root: &str, variable: &str, value: &str) -> Sleeper {
        let mut sleep = std::process::Command::new("sleep");
        Sleeper(sleep.arg("60").env(ROOT_VARIABLE, root).env(variable, value).spawn().unwrap())
    }

    #[test]
    fn program_that_shows_up_while_the_one_that_was_killed_is_still_seen_is_killed_too() {
        let pid = |number| Pid::from_raw(number).unwrap();
        let (pauses, looks, sent) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
        // The second one's exec takes as long as a pause; the first is taken apart for longer than all of this takes.
        let look = || {
            looks.set(looks.get() + 1);
            if pauses.get() == 0 { vec![pid(7)] } else { vec![pid(7), pid(8)] }
        };
        let kill = |pid| {
            sent.borrow_mut().push(pid);
            true
        };
        assert_eq!(kill_all(look, kill, || pauses.set(pauses.get() + 1)), 2);
        assert!(sent.borrow().contains(&pid(8)) && looks.get() < LOOKS_MAX, "{} looks", looks.get());
    }

    #[test]
    fn process_that_cannot_be_looked_at_is_hidden_and_only_one_that_is_not_there_is_absent() {
        let proc = tempfile::tempdir().unwrap();
        let life = Incarnation::random();
        let process = |pid: &str| {
            let dir = proc.path().join(pid);
            std::fs::create_dir(&dir).unwrap();
            dir.join("environ")
        };
        // Seven has gone between the two looks; eight is another's, nine is ours, and ten cannot be read.
        process("7");
        std::fs::write(process("8"), "A=1\0POD_LIFE=other\0").unwrap();
        std::fs::write(process("9"), format!("A=1\0{LIFE_VARIABLE}={life}\0")).unwrap();
        std::fs::create_dir(process("10")).unwrap();
        let look = Look::at(proc.path()).unwrap();
        let marked: Vec<_> = look.marked.iter().map(|found| (found.pid, found.life)).collect();
        assert_eq!(marked, [(Pid::from_raw(9).unwrap(), life)]);
        assert_eq!(look.hidden.iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), [Pid::from_raw(10).unwrap()]);
        Look::at(&proc.path().join("none")).unwrap_err();
    }

    #[test]
    fn process_that_shows_nothing_is_not_ours_if_it_is_another_users_or_older() {
        let proc = tempfile::tempdir().unwrap();
        let pid = Pid::from_raw(7).unwrap();
        std::fs::create_dir(proc.path().join("7")).unwrap();
        std::fs::write(proc.path().join("stat"), "cpu 1 2\nbtime 1000\n").unwrap();
        let zeros = "0 ".repeat(18);
        // Begun 50 s after 1000 s.
        std::fs::write(of(proc.path(), pid, "stat"), format!("7 (a ) b) S {zeros}5000 9 9\n")).unwrap();
        let ours = getuid().as_raw();
        let is_none_of_ours = |user: u32, since: u64| {
            std::fs::write(of(proc.path(), pid, "status"), format!("Name:\tx\nUid:\t{user}\t0\t0\t0\n")).unwrap();
            super::is_none_of_ours(proc.path(), pid, UnixMillis(since)).unwrap()
        };
        assert!(is_none_of_ours(ours + 1, 0), "another user's");
        assert!(is_none_of_ours(ours, 1_060_000), "it is older than the life");
        assert!(!is_none_of_ours(ours, 1_050_000), "it may have been started by the life");
        assert!(!is_none_of_ours(ours, 0));
    }

    #[test]
    fn programs_of_a_dead_life_and_what_was_forked_for_them_are_killed_and_those_of_others_are_not() {
        let pod = |name: &str| PodId { name: name.parse().unwrap(), incarnation: Incarnation::random() };
        let (dead, other) = (pod("dead"), pod("other"));
        let environment = |pod: &PodId| {
            let config = ChildConfig {
                pod: pod.clone(),
                parent: other.clone(),
                parent_pid: 1,
                parent_socket: "/nowhere".into(),
                parent_store: "/nowhere".into(),
                durability: Durability::Process,
            };
            serde_json::to_string(&config).unwrap()
        };
        let mut its = [
            sleeper("/here", LIFE_VARIABLE, &dead.incarnation.to_string()),
            // As it is between fork and exec: with all that its pod has.
            sleeper("/here", CHILD_VARIABLE, &environment(&dead)),
        ];
        let mut not_its = [
            sleeper("/here", LIFE_VARIABLE, &other.incarnation.to_string()),
            sleeper("/here", CHILD_VARIABLE, &environment(&other)),
            // The same life of the tree that this one is a copy of.
            sleeper("/there", LIFE_VARIABLE, &dead.incarnation.to_string()),
            sleeper("/there", CHILD_VARIABLE, &environment(&dead)),
        ];
        assert_eq!(kill_programs_of(dead.incarnation, &Roots::named(Some("/here".as_ref())).unwrap()), 2);
        for sleeper in &mut its {
            assert!(!sleeper.0.wait().unwrap().success());
        }
        for sleeper in &mut not_its {
            assert!(sleeper.0.try_wait().unwrap().is_none(), "somebody else's was killed");
        }
    }
}
