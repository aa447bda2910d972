//! A temporary root, the pods in it, and every process that was started from there.
//!
//! Processes are found by their environment, which names the root: what a pod started, and what that started, too.
//! They are ended by pidfd, so that a number that is given to somebody else meanwhile harms nobody.
//!
//! Dropped at the end of each test, also of one that fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pod::id::StreamId;
use pod::store::{Reads, StatusCounts, StoreError};
use pod::{Method, PodController, PodHandle, PodName, PodOptions, Roots, StoreReader, WorkerSpec};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{History, workers};

/// How long a state may take to come true: far more than it does on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(45);

/// A place for pods.
#[derive(Debug)]
pub struct World {
    roots: Roots,
    program: PathBuf,
    // Last: removed when everything in it has ended.
    dir: tempfile::TempDir,
}

impl World {
    /// An empty world, in which children are started from `program`.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let dir = tempfile::Builder::new().prefix("pods").tempdir().expect("a temporary directory");
        let roots = Roots::at(&dir.path().join("p")).expect("roots in it");
        Self { roots, program: program.into(), dir }
    }

    /// Where its pods are.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The directory that is `PODS_ROOT` for all of its processes.
    ///
    /// # Panics
    /// Never: its roots were moved there.
    pub fn root(&self) -> &Path {
        self.roots.moved_to().expect("the roots were moved")
    }

    /// What its pods are started from.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A pod of this process, in this world.
    pub fn options(&self, name: &str, worker: WorkerSpec) -> PodOptions {
        PodOptions::new(named(name), worker).roots(self.roots.clone()).workers(workers()).program(&self.program)
    }

    /// The parent `boss`, in this process, which records what it is told.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn boss(&self) -> PodHandle {
        PodController::spawn(self.options("boss", WorkerSpec::ledger())).await.expect("the boss starts")
    }

    /// Adds `NAME=value` lines to the environment of the next life of `pod`, and of no other.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn equip(&self, pod: &str, environment: &[(&str, &str)]) {
        let lines: String = environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(self.root().join(format!("environment-{pod}")), lines).expect("the environment is written");
    }

    /// Kills the next life of `pod` at the failpoint.
    pub fn arm(&self, pod: &str, failpoint: &str) {
        self.equip(pod, &[("POD_FAILPOINT", failpoint), ("POD_FAILPOINT_POD", pod)]);
    }

    /// Makes the file `name`, for which something in this world waits.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn touch(&self, name: &str) {
        fs::write(self.root().join(name), "").expect("the file is made");
    }

    /// A command that ends when `touch(name)` was called.
    pub fn waits_for(name: &str) -> String {
        format!("while [ ! -e \"$PODS_ROOT/{name}\" ]; do sleep 0.02; done")
    }

    /// Looks into the store of `pod`, alive or dead.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn look<T>(&self, pod: &str, look: impl FnOnce(&Reads<'_>) -> Result<T, StoreError>) -> T {
        let reader = StoreReader::open(self.roots.pod(&named(pod)).store()).expect("the store can be opened");
        reader.look(look).expect("the store can be read")
    }

    /// The whole history of `pod`.
    #[track_caller]
    pub fn history(&self, pod: &str) -> History {
        self.look(pod, |reads| {
            let mut rows = Vec::new();
            loop {
                let page = reads.history_after(rows.last().map_or(0, |row: &pod::store::HistoryRow| row.seq), 1000)?;
                if page.is_empty() {
                    return Ok(History(rows));
                }
                rows.extend(page);
            }
        })
    }

    /// The figures of `pod`.
    #[track_caller]
    pub fn counts(&self, pod: &str) -> StatusCounts {
        self.look(pod, |reads| reads.status_counts())
    }

    /// The stream of the events of `pod`.
    ///
    /// # Panics
    /// If it has no store.
    #[track_caller]
    pub fn stream(&self, pod: &str) -> StreamId {
        let reader = StoreReader::open(self.roots.pod(&named(pod)).store()).expect("the store can be opened");
        reader.identity().stream
    }

    /// A client of `pod`, as any program of the same user is one.
    pub fn client(&self, pod: &str) -> rpc::Client<Method> {
        rpc::Client::new(&rpc::Address::unix(self.roots.pod(&named(pod)).socket()))
    }

    /// Waits until `pod` has nothing open any more: no work that it delegated, no child, nothing untold, no turn.
    pub async fn at_rest(&self, pod: &str) {
        self.at_rest_with(pod, 0).await;
    }

    /// The same, with that many children alive.
    pub async fn at_rest_with(&self, pod: &str, children: u64) {
        until(&format!("`{pod}` is at rest"), || {
            let (counts, control) = self.look(pod, |reads| Ok((reads.status_counts()?, reads.control()?)));
            let open = counts.works_delegated_open + counts.inbox_waiting + counts.runs_staged;
            (open == 0 && counts.children_live == children && control.state == pod::protocol::PodState::Idle)
                .then_some(())
        })
        .await;
    }

    /// The living processes that were started from here, whoever started them.
    pub fn processes(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        numbers.filter(|pid| self.owns(*pid)).collect()
    }

    /// Waits until no process is left that was started from here.
    pub async fn deserted(&self) {
        until("no process is left", || self.processes().is_empty().then_some(())).await;
    }

    /// Leaves its files where they are when it is dropped, and says where.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// Sockets that are left in this world.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let Ok(pods) = fs::read_dir(self.root().join("run")) else { return Vec::new() };
        let sockets = pods.filter_map(|pod| Some(pod.ok()?.path().join("pod.sock")));
        sockets.filter(|socket| socket.exists()).collect()
    }

    /// Whether the process `pid` was started from here.
    pub fn owns(&self, pid: u32) -> bool {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
        let own = format!("PODS_ROOT={}", self.root().display());
        environment.split(|byte| *byte == 0).any(|entry| entry == own.as_bytes())
    }

    /// Kills `pid`, if it is still a process of this world, and waits for its death.
    fn end(&self, pid: u32) {
        let Some(number) = Pid::from_raw(pid.cast_signed()) else { return };
        let Ok(pidfd) = pidfd_open(number, PidfdFlags::empty()) else { return };
        // Looked at again, now that the descriptor says whom a signal would reach.
        if self.owns(pid) && pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
            let mut dead = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            let patience = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
            let _ = rustix::event::poll(&mut dead, Some(&patience));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What is killed may have started something in the last moment.
        let mut quiet = 0;
        while quiet < 2 {
            let left = self.processes();
            quiet = if left.is_empty() { quiet + 1 } else { 0 };
            left.into_iter().for_each(|pid| self.end(pid));
        }
        if std::thread::panicking() && std::env::var_os("KEEP_WORLD").is_some() {
            self.dir.disable_cleanup(true);
        }
    }
}

/// A wait that a test bounds: what does not come true is a failure with a place, not a test that hangs.
pub trait InTime: Future + Sized {
    /// What it resolves to.
    ///
    /// # Panics
    /// If it does not resolve within a generous time.
    #[track_caller]
    fn in_time(self) -> impl Future<Output = Self::Output> {
        let caller = std::panic::Location::caller();
        async move {
            let resolved = tokio::time::timeout(PATIENCE, self).await;
            resolved.unwrap_or_else(|_| panic!("not within {PATIENCE:?} (at {caller})"))
        }
    }
}

impl<F: Future> InTime for F {}

/// The name `text`.
pub(super) fn named(text: &str) -> PodName {
    text.parse().expect("a pod's name")
}

/// Waits until `look` finds something. The state is looked at, not waited out.
///
/// # Panics
/// If it does not come true within a generous time.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what} (at {caller})");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
