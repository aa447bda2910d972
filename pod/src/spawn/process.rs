//! A process that leads a group of its own.
//!
//! Its death is known by its pidfd, never by a pipe's end. The group is signalled only while the leader is not reaped:
//! until then the kernel gives its number to nobody else.
//!
//! Used by `supervisor` for children and by the command worker for programs.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use crate::id::Incarnation;

/// Variables by which a pod tells its child what it is; no program that a pod runs may see them.
pub(crate) const WITHHELD: [&str; 1] = [super::supervisor::CHILD_VARIABLE];

/// The variable that marks the programs of one life of a pod, and whatever these start: its incarnation.
pub(crate) const LIFE_VARIABLE: &str = "POD_LIFE";

/// LIMIT: how often the process table is looked through for one dead life. What is killed may have started another in
/// the last moment; what outruns this many looks is a fork bomb.
const LOOKS_MAX: usize = 16;

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
    group: Pid,
    pidfd: AsyncFd<OwnedFd>,
    /// The group is to be killed if this is dropped before its leader is reaped.
    kill_on_drop: bool,
}

impl Leader {
    /// `child` was started with a process group of its own. If its death cannot be watched it is killed.
    pub(crate) fn new(mut child: Child) -> io::Result<Self> {
        let gone = || io::Error::other("the process was reaped by somebody else");
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).ok_or_else(gone)?;
        match watch_death(group) {
            Ok(pidfd) => Ok(Self { child, group, pidfd, kill_on_drop: false }),
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

/// Kills the programs that the dead life `life` has left behind: they lead groups of their own, so that nothing but their
/// mark tells whose they were. Returns how many there were. Blocks for as long as reading the process table takes.
pub(crate) fn kill_programs_of(life: Incarnation) -> usize {
    let mark = format!("{LIFE_VARIABLE}={life}");
    let mut killed = 0;
    for _ in 0..LOOKS_MAX {
        let left = marked(&mark);
        if left.is_empty() {
            break;
        }
        killed += left.into_iter().filter(|pid| kill_if_marked(*pid, &mark)).count();
    }
    killed
}

fn marked(mark: &str) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| is_marked(*pid, mark)).collect()
}

/// A dead process that is not reaped has no environment any more.
fn is_marked(pid: Pid, mark: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()));
    environment.is_ok_and(|all| all.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
}

fn kill_if_marked(pid: Pid, mark: &str) -> bool {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    // Looked at again, now that the descriptor says whom a signal reaches: the number may be another's by now.
    is_marked(pid, mark) && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
}
