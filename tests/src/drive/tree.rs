//! A tree of real pods below one root that is a process, too: whoever drives it can kill, halt and restart any of them.
//!
//! Keeps account of what it was told is accepted and of whom it has killed, for the checker. Ends all of its processes
//! when it is dropped.
//!
//! Every pod of it hosts the worker `grove`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pod::discovery::{self, PodSummary};
use pod::id::{PodId, PodName, WorkId};
use pod::life_lock::{self, Life};
use pod::protocol::{Adopt, PodState, Run, RunRejection};
use pod::store::{ChildState, Direction};
use pod::{Roots, StoreReader};
use rpc::CallError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::checker::{self, Recording};
use crate::world::{GROVE, HostProcess, Step, World};

/// What the pod above all others is called.
pub const ROOT: &str = "root";

/// How long one call may take before it is made again under the same id.
const CALL: Duration = Duration::from_secs(3);
/// Between two looks at a state.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// LIMIT: how long a tree may take to end in good order: several times the sum of what its pods grant each other.
const END_MAX: Duration = Duration::from_secs(90);

/// A place at which a life halts.
#[derive(Clone, Debug)]
pub struct Armed {
    /// Which failpoint.
    pub place: &'static str,
    /// At which time that it is reached.
    pub time: u64,
}

/// What counts as rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing is under way, and every death is known to the parent. What a dead pod holds open itself, its next life
    /// will find.
    Calm,
    /// The same, and no pod that is dead has anything left to do.
    Whole,
}

/// A tree.
#[derive(Debug)]
pub struct Tree {
    root: Option<HostProcess>,
    witness: PathBuf,
    accepted: BTreeSet<(PodName, WorkId)>,
    killed: BTreeSet<PodId>,
    // Last: removed when everything in it has ended.
    world: World,
}

/// A living process of the tree.
struct Alive {
    pod: PodId,
    pid: u32,
    pidfd: OwnedFd,
}

impl Tree {
    /// A tree without pods, whose processes are started from `program`.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn new(program: impl Into<PathBuf>) -> std::io::Result<Self> {
        let world = World::new(program);
        let witness = world.root().join("witness");
        fs::create_dir_all(&witness)?;
        Ok(Self { root: None, witness, accepted: BTreeSet::new(), killed: BTreeSet::new(), world })
    }

    /// Starts the root, armed or not; its earlier life must be over.
    ///
    /// # Errors
    /// What it said.
    pub async fn start(&mut self, armed: Option<&Armed>) -> Result<(), String> {
        let witness = self.witness.to_string_lossy().into_owned();
        let mut environment = vec![("POD_WITNESS", witness.as_str()), ("RUST_LOG", "pod=info")];
        let place = armed.map(place_text);
        if let Some(place) = &place {
            environment.extend([("POD_FAILPOINT", place.as_str()), ("POD_FAILPOINT_POD", ROOT)]);
            environment.push(("POD_FAILPOINT_DO", "halt"));
        }
        self.root = Some(HostProcess::start_hosting(&self.world, ROOT, GROVE, &environment).await?);
        Ok(())
    }

    /// Arms the next life of `pod`, which is not the root, and no other.
    pub fn arm(&self, pod: &str, armed: &Armed) {
        let place = place_text(armed);
        let lines = [("POD_FAILPOINT", place.as_str()), ("POD_FAILPOINT_POD", pod), ("POD_FAILPOINT_DO", "halt")];
        self.world.equip(pod, &lines);
    }

    /// Gives `pod` something to do, as a person would. Asked again under the same id while the answer is in doubt, and
    /// while the pod is busy, until `patience` is over.
    ///
    /// # Errors
    /// Why it has not taken it, or is not known to.
    pub async fn ask(&mut self, pod: &str, steps: &[Step], patience: Duration) -> Result<WorkId, String> {
        let (pod, work) = self.asking(pod, steps, patience).await?;
        self.was_accepted(pod, work);
        Ok(work)
    }

    /// The same, for whoever does something else meanwhile; what was accepted is to be told with
    /// [`was_accepted`](Self::was_accepted).
    ///
    /// # Errors
    /// Why it has not taken it, or is not known to.
    pub fn asking(
        &self,
        pod: &str,
        steps: &[Step],
        patience: Duration,
    ) -> impl Future<Output = Result<(PodName, WorkId), String>> + use<> {
        let (name, client) = (named(pod), self.world.client(pod));
        let (work, input) = (WorkId::random(), serde_json::to_string(steps).unwrap_or_default());
        async move {
            let until = Instant::now() + patience;
            loop {
                let refused = match client.call(Run { work, input: input.clone().into() }).deadline(CALL).await {
                    Ok(accepted) => return Ok((name, accepted.work)),
                    Err(CallError::Rejected(RunRejection::AlreadyRunning { .. })) => "it is busy".to_owned(),
                    Err(CallError::Rejected(other)) => return Err(other.to_string()),
                    Err(error) => error.to_string(),
                };
                if Instant::now() >= until {
                    return Err(refused);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Has `by` adopt `child` of the dead pod `from`.
    ///
    /// # Errors
    /// Why it has not, or is not known to have.
    pub fn adopting(&self, child: &str, from: &str, by: &str) -> impl Future<Output = Result<(), String>> + use<> {
        let (client, adopt) = (self.world.client(by), Adopt { child: named(child), from: named(from) });
        async move { client.call(adopt).deadline(CALL).await.map(drop).map_err(|error| error.to_string()) }
    }

    /// Whose child `child` is, which was `first`'s at the beginning: each that has given it away says to whom.
    pub fn holder(&self, child: &str, first: &str) -> PodName {
        let (child, mut holder, mut seen) = (named(child), named(first), BTreeSet::new());
        while seen.insert(holder.clone()) {
            let looked = StoreReader::open(self.roots().pod(&holder).store())
                .and_then(|reader| reader.look(|reads| reads.child_by_name(&child)));
            match looked.ok().flatten().and_then(|row| row.moved_to) {
                Some(to) => holder = to,
                None => break,
            }
        }
        holder
    }

    /// Keeps in mind that `pod` has accepted `work`.
    pub fn was_accepted(&mut self, pod: PodName, work: WorkId) {
        self.accepted.insert((pod, work));
    }

    /// Kills `pod`, as `kill -9` does, and waits until it is dead. False if it does not live.
    pub async fn kill(&mut self, pod: &str) -> bool {
        let Some(alive) = self.alive(pod) else { return false };
        self.killed.insert(alive.pod.clone());
        if pod == ROOT {
            // It is ours to reap.
            let Some(root) = self.root.take() else { return false };
            root.kill().await;
            return true;
        }
        let sent = pidfd_send_signal(&alive.pidfd, Signal::KILL).is_ok();
        let until = Instant::now() + END_MAX;
        while sent && !is_dead(&alive.pidfd) && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY / 10).await;
        }
        sent
    }

    /// Halts `pod` as `SIGSTOP` does. False if it does not live.
    pub fn halt(&self, pod: &str) -> bool {
        self.signal(pod, Signal::STOP)
    }

    /// Continues it. False if it does not live.
    pub fn go_on(&self, pod: &str) -> bool {
        self.signal(pod, Signal::CONT)
    }

    fn signal(&self, pod: &str, signal: Signal) -> bool {
        self.alive(pod).is_some_and(|alive| pidfd_send_signal(&alive.pidfd, signal).is_ok())
    }

    /// Continues whatever is halted.
    pub fn all_go_on(&self) {
        for name in self.roots().pods().unwrap_or_default() {
            self.go_on(name.as_str());
        }
    }

    /// Whether `pod` lives.
    pub fn lives(&self, pod: &str) -> bool {
        self.alive(pod).is_some()
    }

    /// Whether `pod` is halted.
    pub fn is_halted(&self, pod: &str) -> bool {
        let Some(alive) = self.alive(pod) else { return false };
        let stat = fs::read_to_string(format!("/proc/{}/stat", alive.pid)).unwrap_or_default();
        // The name in it may hold anything; the state stands behind its last bracket.
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
    }

    /// The process that holds the life lock of `pod`, if it is sure which that is.
    fn alive(&self, pod: &str) -> Option<Alive> {
        let lock = self.roots().pod(&named(pod)).life_lock();
        let held = || match life_lock::probe(&lock) {
            Ok(Life::Held(holder)) => Some((holder.pod?, holder.pid?)),
            _ => None,
        };
        let (pod, pid) = held()?;
        let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
        // Looked at again, now that the descriptor says who is meant: the word of an earlier holder may have stood there.
        let still = held()? == (pod.clone(), pid) && self.world.owns(pid);
        still.then_some(Alive { pod, pid, pidfd })
    }

    /// Whether a work that `pod` was given is settled.
    pub fn is_settled(&self, pod: &str, work: WorkId) -> bool {
        let look = || {
            let reader = StoreReader::open(self.roots().pod(&named(pod)).store()).ok()?;
            reader.look(|reads| reads.works(Direction::Received, false)).ok()
        };
        look().unwrap_or_default().iter().any(|row| row.work == work && row.result.is_some())
    }

    /// Whether `parent` has buried every life of `child` that it knows.
    pub fn is_buried(&self, parent: &str, child: &str) -> bool {
        let summary = discovery::summary(self.roots(), named(parent));
        let child = named(child);
        let lives = |row: &&pod::store::ChildRow| row.pod.name == child && row.state != ChildState::Ended;
        summary.store.is_ok_and(|record| record.children.iter().find(lives).is_none())
    }

    /// What keeps the tree from rest, in words; nothing, if it rests.
    pub fn unrest(&self, rest: Rest) -> Option<String> {
        let pods = match discovery::list(self.roots()) {
            Ok(pods) => pods,
            Err(error) => return Some(error.to_string()),
        };
        let living: BTreeMap<PodName, PodId> =
            pods.iter().filter_map(|pod| Some((pod.name.clone(), pod.holder.clone()?.pod?))).collect();
        pods.iter().find_map(|pod| unrest_of(pod, &living, rest).map(|why| format!("`{}` {why}", pod.name)))
    }

    /// Waits for rest.
    ///
    /// # Errors
    /// What kept it from that for as long as `patience`.
    pub async fn rest(&self, rest: Rest, patience: Duration) -> Result<(), String> {
        let until = Instant::now() + patience;
        while let Some(why) = self.unrest(rest) {
            if Instant::now() >= until {
                return Err(format!("no rest within {patience:?}: {why}"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// The pods that are dead and have something left to do.
    pub fn unfinished(&self) -> Vec<PodName> {
        let pods = discovery::list(self.roots()).unwrap_or_default();
        let dead = pods.into_iter().filter(|pod| pod.holder.is_none());
        dead.filter(|pod| unrest_of(pod, &BTreeMap::new(), Rest::Whole).is_some()).map(|pod| pod.name).collect()
    }

    /// Ends the tree in good order, and returns what it has left behind.
    ///
    /// # Errors
    /// What did not end as it should, or cannot be read.
    ///
    /// # Panics
    /// If the root's process cannot be waited for.
    pub async fn end(&mut self) -> Result<Recording, String> {
        let mut root = self.root.take().ok_or("the root does not live")?;
        root.signal(Signal::TERM);
        let status =
            tokio::time::timeout(END_MAX, root.wait()).await.map_err(|_| "the root does not end".to_owned())?;
        if !status.success() {
            return Err(format!("the root ended with {status}: {}", last_lines(&root.log())));
        }
        let until = Instant::now() + END_MAX;
        while !self.world.processes().is_empty() {
            if Instant::now() >= until {
                return Err(format!("processes are left: {:?}", self.world.processes()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let mut recording = self.recording().map_err(|error| error.to_string())?;
        recording.over = true;
        Ok(recording)
    }

    /// What it has left behind so far.
    ///
    /// # Errors
    /// If a store cannot be read.
    pub fn recording(&self) -> Result<Recording, checker::ReadError> {
        let mut recording = checker::read(self.roots(), &self.witness)?;
        recording.accepted.clone_from(&self.accepted);
        recording.killed.extend(self.killed.iter().cloned());
        Ok(recording)
    }

    /// Leaves its files where they are, and says where.
    pub fn keep(&mut self) -> PathBuf {
        self.world.keep()
    }

    /// Where its pods are.
    pub fn roots(&self) -> &Roots {
        self.world.roots()
    }
}

fn is_dead(pidfd: &OwnedFd) -> bool {
    let mut dead = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut dead, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn unrest_of(pod: &PodSummary, living: &BTreeMap<PodName, PodId>, rest: Rest) -> Option<String> {
    let record = match &pod.store {
        Ok(record) => record,
        // One that died before it had a store has nothing to do.
        Err(why) => return pod.holder.is_some().then(|| format!("starts: {why}")),
    };
    let counts = &record.counts;
    let own = [
        (counts.runs_staged, "runs staged"),
        (counts.inbox_waiting, "reports untold"),
        (counts.works_received_open, "works open"),
    ];
    let outward = [(counts.works_delegated_open, "works delegated and open")];
    let (alive, whole) = (pod.holder.is_some(), rest == Rest::Whole);
    let open = own.iter().filter(|_| alive || whole).chain(&outward).find(|(count, _)| *count > 0);
    if let Some((count, what)) = open {
        return Some(format!("has {count} {what}"));
    }
    if alive && record.state != PodState::Idle {
        return Some(format!("is {}", record.state));
    }
    if alive && counts.outbox_pending > 0 && pod.name.as_str() != ROOT {
        return Some(format!("has {} events pending", counts.outbox_pending));
    }
    let mut children = record.children.iter().filter(|row| row.state != ChildState::Ended);
    let open =
        children.find(|row| !alive || row.state != ChildState::Ready || living.get(&row.pod.name) != Some(&row.pod));
    open.map(|row| format!("has not buried or not found ready {}", row.pod))
}

fn place_text(armed: &Armed) -> String {
    format!("{}:{}", armed.place, armed.time)
}

fn named(text: &str) -> PodName {
    text.parse().expect("names of trees are names of pods")
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
