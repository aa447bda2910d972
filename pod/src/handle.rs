//! The facade: a pod of this process, its children, and the work that they are given.
//!
//! What it returns is committed; what it shows of children is a picture of what is. Handles are cheap to clone and keep
//! no pod alive: a pod ends when it is told to.
//!
//! Above everything else in this crate; `start` brings a pod up.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rpc::CallError;
use tokio::sync::{mpsc, watch};

use crate::attach::Tail;
use crate::controller::actor::Msg;
use crate::event::Reporter;
use crate::id::{NoteKey, PodId, PodName, TurnId, WorkId};
use crate::manifest::{ManifestError, WorkerSpec};
use crate::notify_buffer::{Facts, NotifyBuffer};
use crate::protocol::{
    self, Accepted, AdoptRejection, Method, NOTE_BYTES_MAX, Notify, NotifyRejection, PodState, PodStatus, Queued,
    RUN_INPUT_BYTES_MAX, Run, RunRejection, ShutdownMode, Text, WorkResult,
};
use crate::registry::Member;
use crate::runtime_dir::{PodPaths, Roots};
use crate::scope::{Scope, ScopeRule};
use crate::spawn::parent::Parent;
use crate::spawn::registry::{SpawnedPodRegistry, Stop, WorkProgress};
use crate::spawn::{ChildPhase, ChildStatus, WorkEnd, adopt, stderr, supervisor};
use crate::store::{
    ChildRow, Direction, Durability, EndOfLife, IntentKind, Lifetime, NewChild, Reservation, Restart, Store,
    StoreError, Terminal, TurnFailure, Tx, carry_out,
};
use crate::worker::live::Live;
use crate::worker::{InFlight, LiveItems, Worker, Workers};

pub use crate::error::{RunError, SpawnError, StopError};
pub use crate::start::{PodController, PodOptions, StartError};

/// How long a child may take until it says that it is ready. LIMIT: a cold start on a loaded machine takes a second.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// A pod of this process.
#[derive(Clone)]
pub struct PodHandle {
    shared: Shared,
}

/// What the parts of a pod share. Clones are the same pod.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: PodId,
    pub(crate) paths: PodPaths,
    pub(crate) roots: Roots,
    pub(crate) program: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) spec: WorkerSpec,
    pub(crate) workers: Workers,
    pub(crate) children_max: u32,
    /// To whom it reports.
    pub(crate) parent: Option<Parent>,
    /// Its place among all pods of its user.
    pub(crate) member: Member,
    pub(crate) started_at_ms: u64,
    pub(crate) store: Store,
    pub(crate) reporter: Reporter,
    pub(crate) live: Live,
    pub(crate) registry: SpawnedPodRegistry,
    pub(crate) messages: mpsc::Sender<Msg>,
    pub(crate) tail: Tail,
    pub(crate) phase: watch::Sender<PodState>,
    /// True once the pod has ended.
    pub(crate) done: watch::Sender<bool>,
    /// Children that are being started and are not in the registry yet.
    pub(crate) spawning: AtomicUsize,
    /// Whether somebody tries again what is left to be done outside the store.
    pub(crate) carrying_out: AtomicBool,
    /// Counts commits in the order in which the store's thread ran them.
    pub(crate) order: Arc<AtomicU64>,
}

/// Facts, and which commit they are of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ordered {
    pub(crate) order: u64,
    pub(crate) facts: Facts,
}

/// A child that is to be started.
#[derive(Clone, Debug)]
pub struct SpawnPod {
    name: PodName,
    worker: WorkerSpec,
    scope: Vec<ScopeRule>,
    lifetime: Lifetime,
    restart: Restart,
    restarted: bool,
}

/// One life of a child.
#[derive(Clone, Debug)]
pub struct Child {
    handle: PodHandle,
    pod: PodId,
}

/// Work that was given to a pod.
#[derive(Clone, Debug)]
pub struct Work {
    id: WorkId,
    progress: watch::Receiver<WorkProgress>,
}

impl std::ops::Deref for Shared {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Shared {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// `work`, and behind it a look at what the transaction makes true, numbered in the order of the store's thread.
    pub(crate) fn looking<T>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> impl FnOnce(&Tx<'_>) -> Result<(T, Ordered), StoreError> + Send + 'static {
        let order = Arc::clone(&self.order);
        move |tx| {
            let done = work(tx)?;
            let control = tx.control()?;
            let inbox = NotifyBuffer {
                waiting: tx.inbox_waiting()?,
                wakes_due: control.wakes_due,
                next_due_ms: control.next_due.map(|due| due.0),
            };
            let facts = Facts { runs_staged: control.runs_staged, inbox };
            Ok((done, Ordered { order: order.fetch_add(1, Ordering::Relaxed) + 1, facts }))
        }
    }

    /// Commits `work` and tells the controller what became true.
    pub(crate) async fn commit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, ordered) = self.store.write(self.looking(work)).await?;
        // The controller is gone only when the pod has ended.
        let _ = self.messages.send(Msg::Facts(ordered)).await;
        Ok(done)
    }

    /// Lets the controller look at what is committed.
    pub(crate) async fn look(&self) {
        // A store that is closed belongs to a pod that has ended: there is nobody left to look.
        if let Err(error) = self.commit(|_| Ok(())).await
            && !matches!(error, StoreError::Closed)
        {
            tracing::error!(pod = %self.id, error = error.chain(), "failed to look at what is committed");
        }
    }

    pub(crate) async fn child_ended(&self) {
        let _ = self.messages.send(Msg::ChildEnded).await;
    }

    /// Whether no child lives and none is being started.
    pub(crate) fn children_gone(&self) -> bool {
        self.spawning.load(Ordering::SeqCst) == 0 && self.registry.living() == 0
    }

    pub(crate) fn make_worker(&self) -> Result<Box<dyn Worker>, ManifestError> {
        self.workers.make(&self.spec)
    }

    /// Waits until the pod has ended.
    pub(crate) async fn stopped(&self) {
        let mut done = self.done.subscribe();
        let _ = done.wait_for(|done| *done).await;
    }

    pub(crate) async fn status(&self, state: PodState, turn: Option<TurnId>) -> Result<PodStatus, StoreError> {
        let (counts, control) = self.store.read(|reads| Ok((reads.status_counts()?, reads.control()?))).await?;
        // A paused turn is in no task.
        let paused = control.turn.filter(|_| state == PodState::Paused && control.state == PodState::Paused);
        let turn = turn.or(paused);
        let children = self.registry.children();
        let lines = children.iter().rev().take(protocol::STATUS_CHILDREN_MAX).map(|child| protocol::ChildStatus {
            pod: child.pod.clone(),
            pid: child.pid,
            state: Text::clipped(format!("{:?}", child.phase).to_lowercase()),
            socket: Text::clipped(self.roots.pod(&child.pod.name).socket().to_string_lossy()),
        });
        Ok(PodStatus {
            pod: self.id.clone(),
            pid: std::process::id(),
            parent: self.parent.as_ref().map(|parent| parent.link().pod),
            worker: Text::clipped(&self.spec.kind),
            state,
            turn,
            started_at_ms: self.started_at_ms,
            history: counts.history,
            runs_staged: counts.runs_staged,
            inbox_waiting: counts.inbox_waiting,
            outbox_pending: counts.outbox_pending,
            outbox_undeliverable: counts.outbox_undeliverable,
            outbox_acked: counts.outbox_acked,
            outbox_last_outcome: counts.outbox_last_outcome.map(Text::clipped),
            works_received_open: counts.works_received_open,
            works_delegated_open: counts.works_delegated_open,
            children_live: counts.children_live,
            children_total: counts.children_total,
            children: rpc::List::try_from(lines.collect::<Vec<_>>()).unwrap_or_default(),
            last_failure: counts.last_failure.map(|TurnFailure { turn, kind, message }| protocol::LastFailure {
                turn,
                kind,
                message: Text::clipped(message),
            }),
        })
    }
}

impl PodHandle {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) async fn commit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.commit(work).await
    }

    /// Which pod, and which life of it.
    pub fn id(&self) -> &PodId {
        &self.shared.id
    }

    /// To whom it reports.
    pub fn parent(&self) -> Option<PodId> {
        self.shared.parent.as_ref().map(|parent| parent.link().pod)
    }

    /// Where it listens.
    pub fn address(&self) -> rpc::Address {
        rpc::Address::unix(self.shared.paths.socket())
    }

    /// Where its files are.
    pub fn roots(&self) -> &Roots {
        &self.shared.roots
    }

    /// What is committed.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// What its turn has under way and has not committed, and what comes after: for eyes; it may be missed.
    pub fn live(&self) -> (InFlight, LiveItems) {
        self.shared.live.look()
    }

    /// What it may read and write, less what its children hold.
    pub fn scope(&self) -> &Scope {
        self.shared.member.scope()
    }

    /// The sender of its events.
    pub fn reporter(&self) -> &Reporter {
        &self.shared.reporter
    }

    /// Starts a child; returns when it is ready to be given work.
    ///
    /// # Errors
    /// [`SpawnError`] names the child, the reason and the remedy.
    ///
    /// # Cancel safety
    /// Dropped early, the child may be started all the same; it is then one of [`children`](Self::children).
    pub async fn spawn_pod(&self, spawn: SpawnPod) -> Result<Child, SpawnError> {
        self.spawn_pod_in(None, spawn).await
    }

    /// The same for a turn: one that is over by then starts nothing.
    pub(crate) async fn spawn_pod_in(&self, turn: Option<TurnId>, spawn: SpawnPod) -> Result<Child, SpawnError> {
        let (handle, guard) = (self.clone(), Spawning::begin(&self.shared));
        // In a task of its own: a caller that goes away, a turn that is ended, say, leaves no life half begun.
        let started = tokio::spawn(async move { handle.reserve_and_start(turn, &spawn, guard).await });
        let row = started.await.map_err(|error| StoreError::Panicked(error.to_string()))??;
        let stderr = self.shared.roots.pod(&row.name).stderr();
        let ready = self.shared.registry.until(|registry| {
            let phase = registry.life(&row).map(|line| line.phase);
            // One that is asked to end before it was ready ends.
            (!matches!(phase, Some(ChildPhase::Starting | ChildPhase::Stopping))).then_some(())
        });
        match tokio::time::timeout(READY_TIMEOUT, ready).await {
            Ok(_) => {}
            Err(_) => {
                self.shared.registry.give_up(&row, Stop { now: true, grace: Duration::ZERO });
                let stderr = stderr::tail(&stderr, &row);
                return Err(SpawnError::NotReady { name: row.name, stderr });
            }
        }
        let status = self.shared.registry.life(&row);
        match status.and_then(|status| status.terminal) {
            None => Ok(Child { handle: self.clone(), pod: row }),
            Some(terminal) => {
                let (terminal, stderr) = (terminal_in_words(&terminal), stderr::tail(&stderr, &row));
                Err(SpawnError::DiedEarly { name: row.name, terminal, stderr })
            }
        }
    }

    async fn reserve_and_start(
        &self,
        turn: Option<TurnId>,
        spawn: &SpawnPod,
        _guard: Spawning,
    ) -> Result<PodId, SpawnError> {
        let (shared, name) = (&self.shared, spawn.name.clone());
        if *shared.phase.borrow() == PodState::Stopping {
            return Err(SpawnError::Stopping { name });
        }
        // Before anything is made on disk; decided below.
        let living = shared.registry.living();
        if living >= usize::try_from(shared.children_max).unwrap_or(usize::MAX) {
            return Err(SpawnError::TooMany { name, max: shared.children_max });
        }
        // Found out here, where somebody reads it, and not in a process that is gone.
        shared.workers.make(&spawn.worker).map_err(|source| SpawnError::Worker { name: name.clone(), source })?;
        let paths = shared.roots.pod(&name);
        if let Ok(crate::life_lock::Life::Held(holder)) = crate::life_lock::probe(&paths.life_lock()) {
            return Err(SpawnError::NameTaken { name, holder: holder.to_string() });
        }
        let pod = PodId { name: name.clone(), incarnation: crate::id::Incarnation::random() };
        // Before anything is made: name, place and rights, all or none. Dropped, it gives them back.
        let claimed = shared.member.claim(&pod, &paths, &spawn.worker.kind, &spawn.scope).await;
        let claimed = claimed.map_err(|error| SpawnError::from_claim(&name, error))?;
        // Behind the claim: nobody else begins a life of that name from here on.
        adopt::may_begin(shared, &name).await?;
        paths.make_state_dir().map_err(|source| SpawnError::Directory { name: name.clone(), source })?;
        let new = NewChild {
            pod: pod.clone(),
            worker: serde_json::to_string(&spawn.worker).unwrap_or_default(),
            lifetime: spawn.lifetime,
            restart: spawn.restart,
            restarted: spawn.restarted,
            socket: paths.socket(),
            store: paths.store(),
            runtime_dir: paths.runtime_dir().to_owned(),
            scope: claimed.rules().to_vec(),
        };
        let (reserved, max) = (pod.clone(), shared.children_max);
        let reserve = move |tx: &Tx<'_>| {
            // Whoever ended the turn, or was told of its end, reckons with nothing more from it.
            turn.map(|turn| tx.running(turn)).transpose()?;
            // Counted where it is reserved: of two that come for the last place, one gets it.
            let full = tx.live_children()?.len() >= usize::try_from(max).unwrap_or(usize::MAX);
            if full { Ok((None, None)) } else { Ok((Some(tx.reserve_child(&new)?), tx.child(&reserved)?)) }
        };
        let row = match shared.commit(reserve).await? {
            (None, _) => return Err(SpawnError::TooMany { name, max }),
            (Some(Reservation::Reserved), Some(row)) => {
                claimed.keep();
                row
            }
            (Some(Reservation::NameTaken { by }), _) => {
                return Err(SpawnError::NameTaken { name, holder: format!("life {}", by.incarnation) });
            }
            (Some(Reservation::Reserved), None) => {
                return Err(StoreError::Contradiction(format!("pod {pod} was reserved and is not there")).into());
            }
        };
        let mut leader = None;
        let started = shared.registry.add(&row, || {
            let process = supervisor::start(shared, &row, &paths.stderr())?;
            let pid = process.pid();
            leader = Some(process);
            Ok(Some(pid))
        });
        let (stop, leader) = match (started, leader) {
            (Ok(stop), Some(leader)) => (stop, leader),
            (started, _) => {
                let source: std::io::Error = started.err().unwrap_or_else(|| std::io::Error::other("no process"));
                let end = EndOfLife::NeverStarted { reason: source.to_string() };
                crate::event::settle_dead_child(&shared.store, &pod, end).await?;
                carry_out_intents(shared).await;
                shared.look().await;
                return Err(SpawnError::Process { name, program: shared.program.clone(), source });
            }
        };
        let (started, pid) = (pod.clone(), leader.pid());
        tokio::spawn(supervisor::supervise(shared.clone(), row, leader, stop));
        let recorded = shared.commit(move |tx| tx.child_started(&started, pid)).await;
        // Whoever stops all children does so after the phase is set: it sees this one, or this sees the phase.
        if recorded.is_err() || *shared.phase.borrow() == PodState::Stopping {
            shared.registry.stop(&pod, Stop { now: true, grace: Duration::from_secs(5) });
        }
        recorded?;
        Ok(pod)
    }

    /// Gives this pod itself something to do.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn run(&self, input: impl Into<String>) -> Result<Work, RunError> {
        let (work, input) = (WorkId::random(), input.into());
        whole(&input)?;
        let progress = self.shared.registry.expect(work);
        let client = rpc::Client::<Method>::new(&self.address());
        match client.call(Run { work, input: input.into() }).await {
            Ok(_) => Ok(Work { id: work, progress }),
            Err(CallError::Rejected(rejection)) => Err(RunError::Rejected(rejection)),
            Err(CallError::NotDelivered(why)) => Err(RunError::NotDelivered(why)),
            Err(CallError::Unknown(doubt)) => Err(RunError::Unknown { work, cause: doubt.to_string() }),
        }
    }

    /// Tells this pod's agent something, and wakes it if it rests.
    ///
    /// # Errors
    /// What became of the call.
    pub async fn notify(&self, message: impl Into<String>) -> Result<Queued, CallError<Notify>> {
        let message = message.into();
        if let Some(reason) = too_long(&message, NOTE_BYTES_MAX) {
            return Err(CallError::Rejected(NotifyRejection::Invalid { reason }));
        }
        let client = rpc::Client::<Method>::new(&self.address());
        client.call(Notify { key: NoteKey::random(), message: message.into(), auto_run: true }).await
    }

    /// Gives work to a child. `belongs_to` is the work of ours that it serves; a `turn` that is over by then gives none.
    ///
    /// # Cancel safety
    /// Dropped early, the work may be given all the same.
    pub(crate) async fn delegate(
        &self,
        child: &PodName,
        turn: Option<TurnId>,
        belongs_to: Option<WorkId>,
        input: String,
    ) -> Result<Work, RunError> {
        let (handle, child) = (self.clone(), child.clone());
        // In a task of its own: work that is recorded is sent, or is known to be refused, whoever waits for it.
        let given = tokio::spawn(async move { handle.give(&child, turn, belongs_to, input).await });
        given.await.map_err(|error| StoreError::Panicked(error.to_string()))?
    }

    async fn give(
        &self,
        child: &PodName,
        turn: Option<TurnId>,
        belongs_to: Option<WorkId>,
        input: String,
    ) -> Result<Work, RunError> {
        whole(&input)?;
        let gone = || RunError::NoSuchChild { name: child.clone() };
        let status = self.shared.registry.child(child).filter(|status| status.terminal.is_none()).ok_or_else(gone)?;
        let (pod, work) = (status.pod, WorkId::random());
        let (to, summary) = (pod.clone(), input.clone());
        // Before it is sent: work that is under way is never unknown to us.
        let record = move |tx: &Tx<'_>| {
            turn.map(|turn| tx.running(turn)).transpose()?;
            tx.delegate(work, &to, belongs_to, &summary)
        };
        self.shared.commit(record).await?;
        let progress = self.shared.registry.delegated(&pod, work, &input);
        let client = rpc::Client::<Method>::new(&rpc::Address::unix(self.shared.roots.pod(child).socket()));
        let why = match client.call(Run { work, input: input.into() }).await {
            Ok(accepted) => return self.accepted(work, accepted, progress).await,
            Err(CallError::Unknown(doubt)) => {
                let cause = doubt.to_string();
                match doubt.resolve().await {
                    Ok(accepted) => return self.accepted(work, accepted, progress).await,
                    Err(CallError::Unknown(_)) => {
                        crate::delegation::send_until_known(&self.shared, pod, work);
                        return Err(RunError::Unknown { work, cause });
                    }
                    Err(CallError::Rejected(rejection)) => RunError::Rejected(rejection),
                    Err(CallError::NotDelivered(why)) => RunError::NotDelivered(why),
                }
            }
            Err(CallError::Rejected(rejection)) => RunError::Rejected(rejection),
            Err(CallError::NotDelivered(why)) => RunError::NotDelivered(why),
        };
        self.shared.commit(move |tx| tx.delegation_refused(work)).await?;
        self.shared.registry.refused(&pod, work);
        Err(why)
    }

    /// The child took the work on.
    async fn accepted(
        &self,
        work: WorkId,
        accepted: Accepted,
        progress: watch::Receiver<WorkProgress>,
    ) -> Result<Work, RunError> {
        self.shared.commit(move |tx| tx.delegation_accepted(work, accepted.turn)).await?;
        Ok(Work { id: work, progress })
    }

    /// Makes `child` of the dead pod `from` a child of this one: its events go on here behind what `from` has of them, its open
    /// works are this pod's, and `from`, should it come back, is told. The child learns of it within seconds.
    ///
    /// # Errors
    /// Why it is still its old parent's.
    ///
    /// # Cancel safety
    /// Dropped early, it may be adopted all the same, now or at the pod's next start; asking again tells.
    pub async fn adopt(&self, child: &PodName, from: &PodName) -> Result<Child, AdoptRejection> {
        let (shared, child, from) = (self.shared.clone(), child.clone(), from.clone());
        let adopted = tokio::spawn(async move { crate::spawn::adopt::adopt(&shared, &child, &from).await }).await;
        let panicked =
            |error: tokio::task::JoinError| AdoptRejection::Unavailable { reason: Text::clipped(error.to_string()) };
        Ok(Child { handle: self.clone(), pod: adopted.map_err(panicked)??.child })
    }

    /// Its children: those of this life, and those that it found.
    pub fn children(&self) -> Vec<ChildStatus> {
        self.shared.registry.children()
    }

    /// The newest life of the child `name`.
    pub fn child(&self, name: &PodName) -> Option<Child> {
        self.shared.registry.child(name).map(|status| Child { handle: self.clone(), pod: status.pod })
    }

    /// Changes whenever a child's line does.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.registry.watch()
    }

    /// Looks at its children whenever a line of theirs has changed, until there is something to be seen.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn children_until<T>(&self, mut look: impl FnMut(&[ChildStatus]) -> Option<T>) -> T {
        self.shared.registry.until(|registry| look(&registry.children())).await
    }

    /// How the pod is doing.
    ///
    /// # Errors
    /// If its store cannot be read.
    pub async fn status(&self) -> Result<PodStatus, StoreError> {
        let state = *self.shared.phase.borrow();
        self.shared.status(state, None).await
    }

    /// Waits until every work that was delegated is settled.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn settled(&self) -> Result<(), StoreError> {
        let mut head = self.shared.store.history_head();
        loop {
            head.mark_unchanged();
            if self.shared.store.read(|reads| reads.works_open(Direction::Delegated)).await? == 0 {
                return Ok(());
            }
            // Whatever settles a work stands in the history.
            if head.changed().await.is_err() {
                return Err(StoreError::Closed);
            }
        }
    }

    /// Ends a child: it is told to, and after `grace` its process group is signalled. Returns its terminal event.
    ///
    /// # Errors
    /// [`StopError`].
    pub async fn stop_pod(&self, name: &PodName, grace: Duration) -> Result<Terminal, StopError> {
        let child = self.child(name).ok_or_else(|| StopError::NoSuchChild { name: name.clone() })?;
        child.stop(grace).await
    }

    /// Ends the pod: no new turn, the running one is cancelled, its children are ended, what it has to report is
    /// delivered, its last event is awaited for at most 5 s. What could not be delivered stays in its store.
    pub async fn shutdown(&self) {
        self.request_stop(ShutdownMode::Now);
        self.wait().await;
    }

    /// Asks the pod to end, and returns at once.
    pub fn request_stop(&self, mode: ShutdownMode) {
        let messages = self.shared.messages.clone();
        tokio::spawn(async move {
            let _ = messages.send(Msg::Stop(mode)).await;
        });
    }

    /// Waits until the pod has ended, whoever ended it.
    pub async fn wait(&self) {
        self.shared.stopped().await;
    }
}

impl SpawnPod {
    /// A child called `name` that hosts `worker`.
    pub fn new(name: PodName, worker: WorkerSpec) -> Self {
        let (lifetime, restart) = (Lifetime::Tied, Restart::default());
        Self { name, worker, scope: Vec::new(), lifetime, restart, restarted: false }
    }

    /// What it is given of this pod's scope: no more than there is, and what it may write is not written by this pod
    /// until its end. Without a rule it gets what this pod has, for reading; if this pod has no scope, none either.
    #[must_use]
    pub fn scope(mut self, scope: Vec<ScopeRule>) -> Self {
        self.scope = scope;
        self
    }
}

impl SpawnPod {
    /// Whether it ends with this pod. A detached child goes on when this pod's process is gone, keeps its events, and reports
    /// again to the next life of this pod, which finds it by its life lock; how it exits then is seen by nobody, and said to be
    /// unobserved. Stopping this pod does not stop it: it stops when it is told to.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Whether it is started again when it has ended. A restart is a new life of the same name, with its store; the old one has its
    /// terminal event, and works that were open are lost with it. Each restart of `restart.max` within `restart.within_ms` comes
    /// after a longer pause; after these it stays ended, and this pod's agent is told. A child that its parent has stopped, or
    /// that never was ready, is not restarted.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// The next life of a child that has ended.
    pub(crate) fn again(row: &ChildRow) -> Self {
        // What was written by us can be read; if not, the start says what is wrong.
        let worker = serde_json::from_str(&row.worker).unwrap_or_else(|_| WorkerSpec::of_kind("unreadable"));
        let (name, scope) = (row.pod.name.clone(), row.scope.clone());
        Self { name, worker, scope, lifetime: row.lifetime, restart: row.restart, restarted: true }
    }
}

impl Child {
    /// Which life.
    pub fn id(&self) -> &PodId {
        &self.pod
    }

    /// Gives it something to do.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn run(&self, input: impl Into<String>) -> Result<Work, RunError> {
        // A later life of the name is somebody else.
        let newest = self.handle.shared.registry.child(&self.pod.name);
        if newest.is_none_or(|newest| newest.pod != self.pod) {
            return Err(RunError::NoSuchChild { name: self.pod.name.clone() });
        }
        self.handle.delegate(&self.pod.name, None, None, input.into()).await
    }

    /// Waits for the end of its life.
    ///
    /// # Errors
    /// This pod ended first.
    pub async fn terminal(&self) -> Result<Terminal, StopError> {
        let shared = &self.handle.shared;
        let stopped = || StopError::Stopped { name: self.pod.name.clone() };
        // One that has ended long ago is no longer among the lines.
        let over = |registry: &SpawnedPodRegistry| match registry.life(&self.pod) {
            Some(line) => line.terminal.map(Some),
            None => Some(None),
        };
        // CANCEL SAFETY: waiting changes nothing.
        let seen = tokio::select! {
            biased;
            seen = shared.registry.until(over) => seen,
            () = self.handle.wait() => return Err(stopped()),
        };
        match seen {
            Some(terminal) => Ok(terminal),
            None => {
                let pod = self.pod.clone();
                let row = shared.store.read(move |reads| reads.child(&pod)).await.map_err(|_| stopped())?;
                row.and_then(|row| row.terminal).ok_or_else(stopped)
            }
        }
    }

    /// Ends it: it is told to, and after `grace` its process group is signalled. Returns its terminal event.
    ///
    /// # Errors
    /// This pod ended first.
    pub async fn stop(&self, grace: Duration) -> Result<Terminal, StopError> {
        self.handle.shared.registry.stop(&self.pod, Stop { now: false, grace });
        self.terminal().await
    }
}

impl Work {
    /// Which.
    pub fn id(&self) -> WorkId {
        self.id
    }

    /// Waits until the turn that it was given to has ended, or can no longer end: committed in this pod's store.
    pub async fn ended(&self) -> WorkEnd {
        let mut progress = self.progress.clone();
        let found = progress.wait_for(|progress| progress.end.is_some() || progress.result.is_some()).await;
        match found.as_deref() {
            Ok(WorkProgress { end: Some(end), .. }) => end.clone(),
            Ok(WorkProgress { result: Some(result), .. }) => WorkEnd::Settled(*result),
            _ => WorkEnd::Settled(WorkResult::Interrupted),
        }
    }

    /// Waits until it is settled, with all that it caused.
    pub async fn settled(&self) -> WorkResult {
        let mut progress = self.progress.clone();
        let found = progress.wait_for(|progress| progress.result.is_some()).await;
        found.ok().and_then(|progress| progress.result).unwrap_or(WorkResult::Interrupted)
    }
}

impl fmt::Debug for PodHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodHandle").field("pod", &self.shared.id).finish_non_exhaustive()
    }
}

/// A child that is being started counts as one that lives: a pod that stops waits for it.
struct Spawning(Shared);

impl Spawning {
    fn begin(shared: &Shared) -> Self {
        shared.spawning.fetch_add(1, Ordering::SeqCst);
        Self(shared.clone())
    }
}

impl Drop for Spawning {
    fn drop(&mut self) {
        self.0.spawning.fetch_sub(1, Ordering::SeqCst);
        if *self.0.phase.borrow() == PodState::Stopping {
            let shared = self.0.clone();
            tokio::spawn(async move { shared.child_ended().await });
        }
    }
}

/// Between two attempts at what is left to be done outside the store. LIMIT: each may read the whole process table, and
/// wait for another pod's transaction.
const CARRY_OUT_EVERY: Duration = Duration::from_millis(500);
/// LIMIT: the longest pause between two attempts: what a dead child had is nobody's until then.
const CARRY_OUT_MAX: Duration = Duration::from_secs(10);

/// Carries out what transactions have left to be done outside the store. What cannot be done yet is tried again until it
/// is, by this life or by the next.
pub(crate) async fn carry_out_intents(shared: &Shared) {
    if !try_intents(shared).await && !shared.carrying_out.swap(true, Ordering::SeqCst) {
        tokio::spawn(keep_trying(shared.clone()));
    }
}

async fn keep_trying(shared: Shared) {
    let (mut pause, mut done) = (CARRY_OUT_EVERY, shared.done.subscribe());
    loop {
        if tokio::time::timeout(pause, done.wait_for(|done| *done)).await.is_ok() {
            return;
        }
        // First: what somebody leaves behind from here on is theirs to try again.
        shared.carrying_out.store(false, Ordering::SeqCst);
        if try_intents(&shared).await || shared.carrying_out.swap(true, Ordering::SeqCst) {
            return;
        }
        pause = (pause * 2).min(CARRY_OUT_MAX);
    }
}

/// Tries each once. Returns whether nothing is left that this life could do later.
async fn try_intents(shared: &Shared) -> bool {
    let intents = match shared.store.read(|reads| reads.intents()).await {
        Ok(intents) => intents,
        Err(error) => return matches!(error, StoreError::Closed),
    };
    let mut all_done = true;
    for intent in intents {
        let id = intent.id;
        let done = match &intent.kind {
            IntentKind::ReturnLeases { pod } => match shared.member.take_back(pod, &shared.roots).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!("{pod}, or something that it has started, is not proven dead")),
                Err(error) => Err(error.to_string()),
            },
            _ => match tokio::task::spawn_blocking(move || carry_out(&intent)).await {
                Ok(done) => done.map_err(|error| error.to_string()),
                Err(panic) => Err(panic.to_string()),
            },
        };
        match done {
            Ok(()) => {
                if let Err(error) = shared.store.write(move |tx| tx.intent_done(id)).await {
                    all_done &= matches!(error, StoreError::Closed);
                    tracing::warn!(pod = %shared.id, error = error.chain(), "something was done and could not be recorded; it will be done once more");
                }
            }
            Err(error) => {
                all_done = false;
                tracing::warn!(pod = %shared.id, %error, "what an end leaves to be done cannot be done yet; it is tried again");
            }
        }
    }
    all_done
}

/// An input is taken as it is or not at all: a bounded text would cut it.
fn whole(input: &str) -> Result<(), RunError> {
    match too_long(input, RUN_INPUT_BYTES_MAX) {
        None => Ok(()),
        Some(reason) => Err(RunError::Rejected(RunRejection::Invalid { reason })),
    }
}

fn too_long(text: &str, max: usize) -> Option<Text<256>> {
    let bytes = text.len();
    (bytes > max)
        .then(|| Text::clipped(format!("it has {bytes} bytes, and at most {max} are taken; put it into a file")))
}

fn terminal_in_words(terminal: &Terminal) -> String {
    match terminal {
        Terminal::ShutDown => "it shut down".into(),
        Terminal::Lost { reason } => reason.to_string(),
        Terminal::NeverStarted { reason } => format!("it never started: {reason}"),
    }
}
