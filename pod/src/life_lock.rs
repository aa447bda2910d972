//! The life lock: a file lock that a pod's process holds from before its first action until its death.
//!
//! The kernel frees it when the process is gone, whatever killed it; a free lock is proof of death, a held one of life.
//! It is an open file description lock: other descriptors of the same process conflict with it like anybody else's,
//! and it can be asked about without being taken, so that a look never makes a starting pod fail. The file itself is
//! never removed: a lock on a name that was given away would prove nothing.
//!
//! Taken by `spawn` in each pod, looked at by parents and by `discovery`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::id::{PodId, PodName};
use crate::spawn::process::{PROC, state_of};

/// LIMIT: what a holder writes about itself, in bytes; four times what it needs.
const HOLDER_BYTES_MAX: u64 = 1024;

/// The life lock of this process. Held until it is dropped or the process ends.
#[derive(Debug)]
pub struct LifeLock {
    path: PathBuf,
    // Opened with O_CLOEXEC, as all files of `std` are: a program that the pod starts does not keep the pod alive.
    _file: File,
}

/// Whether a pod lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// No process holds the lock: none of that name lives.
    Free,
    /// A process holds it.
    Held(Holder),
}

/// What the holder of a life lock says about itself. Both are empty in the instant between its lock and its word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process. Not to be signalled: numbers are given again.
    pub pid: Option<u32>,
    /// Which life it is.
    pub pod: Option<PodId>,
}

/// Why a life lock could not be taken or looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LifeLockError {
    /// Another process lives under that name.
    #[error("life lock `{}` is held by {holder}; stop that pod or choose another name", path.display())]
    Held {
        /// The file.
        path: PathBuf,
        /// Who.
        holder: Holder,
    },
    /// A file operation failed.
    #[error("failed to {doing} life lock `{}`", path.display())]
    Io {
        /// What we did.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl LifeLock {
    /// Takes the lock at `path` for `pod`, at once or not at all, and writes who holds it.
    ///
    /// # Errors
    /// `Held` names the process that lives; everything else is the file system's.
    pub fn acquire(path: &Path, pod: &PodId) -> Result<Self, LifeLockError> {
        let error = |doing| move |source| LifeLockError::Io { doing, path: path.to_owned(), source };
        let mut file = lock(path)?;
        let holder = Holder { pid: Some(std::process::id()), pod: Some(pod.clone()) };
        write_holder(&mut file, &holder).map_err(error("write"))?;
        Ok(Self { path: path.to_owned(), _file: file })
    }

    /// Takes the lock of a life that is over, so that none begins as long as it is held. The word of the last holder stays. None
    /// if there is no such file: nobody can hold it then.
    ///
    /// # Errors
    /// `Held` names the process that lives; everything else is the file system's.
    pub(crate) fn seize(path: &Path) -> Result<Option<Self>, LifeLockError> {
        if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        Ok(Some(Self { path: path.to_owned(), _file: lock(path)? }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Looks whether the lock at `path` is held, without waiting, taking it or disturbing whoever takes it just now.
///
/// # Errors
/// If the file cannot be looked at. A file that does not exist is a lock that nobody holds.
pub fn probe(path: &Path) -> Result<Life, LifeLockError> {
    let error = |doing| move |source| LifeLockError::Io { doing, path: path.to_owned(), source };
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Life::Free),
        Err(other) => return Err(error("open")(other)),
    };
    let mut found = whole_file();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(|errno| error("look at")(errno.into()))?;
    if i32::from(found.l_type) == libc::F_UNLCK { Ok(Life::Free) } else { Ok(Life::Held(holder(&mut file))) }
}

/// What the last holder of the lock at `path` has said about itself, alive or dead; nothing, if there was none.
pub fn last_holder(path: &Path) -> Holder {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    opened.map(|mut file| holder(&mut file)).unwrap_or_default()
}

/// Takes the lock, at once or not at all.
fn lock(path: &Path) -> Result<File, LifeLockError> {
    let error = |doing| move |source| LifeLockError::Io { doing, path: path.to_owned(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(error("open"))?;
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())) {
        Ok(_) => {}
        Err(Errno::EAGAIN | Errno::EACCES) => {
            return Err(LifeLockError::Held { path: path.to_owned(), holder: holder(&mut file) });
        }
        Err(errno) => return Err(error("take")(errno.into())),
    }
    if !is_still_at(&file, path).map_err(error("check"))? {
        let reason = io::Error::other("the file was replaced while it was being locked");
        return Err(error("take")(reason));
    }
    Ok(file)
}

/// An exclusive lock of all bytes there are and will be.
fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, there) = (file.metadata()?, path.symlink_metadata()?);
    Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

fn write_holder(file: &mut File, holder: &Holder) -> io::Result<()> {
    let text = serde_json::to_string(holder)?;
    // Written before the rest is cut off: a reader finds the new text, or the old one, or none that parses.
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// What the holder wrote; nothing, if it has not got so far.
fn holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(HOLDER_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
        Err(_) => Holder::default(),
    }
}

impl Holder {
    /// Whether whoever holds the lock of the pod `name` does so in the stead of a life that is over: another pod, or one whose word
    /// is that of a process which is gone. One that has not said yet who it is may be just starting.
    pub fn is_for_the_dead(&self, name: &PodName) -> bool {
        let is_gone = |pid: u32| {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.is_some_and(|pid| {
                rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
                    // Dead, and not reaped yet.
                    || matches!(state_of(Path::new(PROC), pid), Some('Z' | 'X'))
            })
        };
        self.pod.as_ref().is_some_and(|pod| pod.name != *name) || self.pid.is_some_and(is_gone)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pod, self.pid) {
            (Some(pod), Some(pid)) => write!(f, "process {pid} (pod `{}`, incarnation {})", pod.name, pod.incarnation),
            _ => f.write_str("a process that is just starting"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Incarnation, PodId};

    fn pod() -> PodId {
        PodId::new("b".parse().unwrap(), Incarnation(7))
    }

    /// Waits for what another test of this process has just forked: until its `exec` it holds what we hold.
    #[track_caller]
    fn until_free(path: &Path) {
        let began = std::time::Instant::now();
        while probe(path).unwrap() != Life::Free {
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "the lock is still held");
            std::thread::yield_now();
        }
    }

    #[test]
    fn lock_is_held_by_one_who_is_named_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("life.lock");
        let lock = LifeLock::acquire(&path, &pod()).unwrap();
        let error = LifeLock::acquire(&path, &pod()).unwrap_err().to_string();
        for word in ["life.lock", &format!("process {}", std::process::id()), "pod `b`", "choose another name"] {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
        drop(lock);
        until_free(&path);
        LifeLock::acquire(&path, &pod()).unwrap();
    }

    #[test]
    fn look_at_a_lock_of_this_process_tells_that_it_is_held_and_leaves_it_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("life.lock");
        assert_eq!(probe(&path).unwrap(), Life::Free);
        let lock = LifeLock::acquire(&path, &pod()).unwrap();
        let held = Life::Held(Holder { pid: Some(std::process::id()), pod: Some(pod()) });
        for _ in 0..3 {
            assert_eq!(probe(&path).unwrap(), held);
        }
        assert!(LifeLock::acquire(&path, &pod()).is_err(), "a look freed the lock");
        drop(lock);
        until_free(&path);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test starts itself again, to be alone in its process")]
    fn looks_never_make_a_starting_pod_fail() {
        // Alone: what another test forks holds this lock until its `exec`, and would be taken for a look.
        if std::env::var_os("POD_TEST_LOOKS").is_none() {
            let alone = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "life_lock::tests::looks_never_make_a_starting_pod_fail", "--test-threads=1"])
                .env("POD_TEST_LOOKS", "")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&alone.stdout);
            assert!(alone.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("life.lock");
        drop(LifeLock::acquire(&path, &pod()).unwrap());
        let over = std::sync::atomic::AtomicBool::new(false);
        let taken: Result<(), LifeLockError> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    probe(&path).unwrap();
                }
            });
            let taken = (0..2000).try_for_each(|_| LifeLock::acquire(&path, &pod()).map(drop));
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            taken
        });
        taken.unwrap();
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        clippy::zombie_processes,
        reason = "the test starts itself again, to be killed"
    )]
    fn lock_is_free_when_its_process_was_killed_though_its_child_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("life.lock");
        // This test's own binary, started again, is the process that dies.
        if let Ok(path) = std::env::var("POD_TEST_LIFE_LOCK") {
            let _lock = LifeLock::acquire(Path::new(&path), &pod()).unwrap();
            let sleeper = std::process::Command::new("sleep").arg("30").spawn().unwrap();
            writeln!(io::stdout(), "sleeper {}", sleeper.id()).unwrap();
            io::stdout().flush().unwrap();
            loop {
                std::thread::park();
            }
        }
        let mut process = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "life_lock::tests::lock_is_free_when_its_process_was_killed_though_its_child_lives"])
            .args(["--nocapture", "--test-threads=1"])
            .env("POD_TEST_LIFE_LOCK", &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = io::BufRead::lines(io::BufReader::new(process.stdout.take().unwrap()));
        let sleeper =
            lines.map_while(Result::ok).find_map(|line| line.split_once("sleeper ").map(|(_, pid)| pid.parse::<i32>()));
        let alive = probe(&path);
        process.kill().unwrap();
        process.wait().unwrap();
        let dead = probe(&path);
        let sleeper = rustix::process::Pid::from_raw(sleeper.unwrap().unwrap()).unwrap();
        // Both processes have ended before anything is claimed, so that a failure leaves none behind.
        rustix::process::kill_process(sleeper, rustix::process::Signal::KILL).unwrap();
        assert!(matches!(alive.unwrap(), Life::Held(_)));
        assert_eq!(dead.unwrap(), Life::Free);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a process that is gone")]
    fn lock_that_is_held_in_the_stead_of_a_dead_life_is_told_from_one_that_a_living_one_holds() {
        let (own, other): (PodName, PodName) = ("b".parse().unwrap(), "other".parse().unwrap());
        let said = |pid: u32| Holder { pid: Some(pid), pod: Some(pod()) };
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(gone.id()).unwrap()).unwrap();
        let dead = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), dead).unwrap();
        assert!(said(gone.id()).is_for_the_dead(&own), "dead, and not reaped");
        gone.wait().unwrap();
        let lives = said(std::process::id());
        assert!(!lives.is_for_the_dead(&own) && lives.is_for_the_dead(&other));
        assert!(said(gone.id()).is_for_the_dead(&own));
        assert!(!Holder::default().is_for_the_dead(&own), "it may be just starting");
    }

    #[test]
    fn lock_through_a_symlink_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("life.lock")).unwrap();
        assert!(LifeLock::acquire(&dir.path().join("life.lock"), &pod()).is_err());
        assert!(!dir.path().join("elsewhere").exists());
    }
}
