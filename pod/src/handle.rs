//! The facade: a pod of this process, its children, and the work that they are given.
//!
//! What it returns is committed; what it shows of children is a picture of what is. Handles are cheap to clone and keep
//! no pod alive: a pod ends when it is told to.
//!
//! Above everything else in this crate; `start` brings a pod up.

use std::collections::HashMap;
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
    self, Accepted, AdoptRejection, Kept, Method, NOTE_BYTES_MAX, Notify, NotifyRejection, PodState, PodStatus, Queued,
    RUN_INPUT_BYTES_MAX, Run, RunRejection, ShutdownMode, Text, WorkResult,
};
use crate::registry::Member;
use crate::runtime_dir::{PodPaths, Roots};
use crate::scope::launch::confined;
use crate::scope::{Confinement, Scope};
use crate::spawn::parent::Parent;
use crate::spawn::registry::{SpawnedPodRegistry, WorkProgress};
use crate::spawn::{self, ChildStatus, WorkEnd};
use crate::store::{Direction, Durability, Lifetime, Store, StoreError, Terminal, TurnFailure, Tx};
use crate::worker::live::Live;
use crate::worker::{InFlight, LiveItems, Worker, Workers};

pub use crate::error::{RunError, SpawnError, StopError};
pub use crate::spawn::{Child, SpawnPod};
pub use crate::start::{PodController, PodOptions, StartError};

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
    /// How long its turns may take.
    pub(crate) turn_max: Option<Duration>,
    pub(crate) workers: Workers,
    /// How far the kernel can confine programs.
    pub(crate) kernel: Confinement,
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
    /// What is done once for many children that end.
    pub(crate) ends: spawn::Ends,
    /// Whether somebody tries again what is left to be done outside the store.
    pub(crate) carrying_out: AtomicBool,
    /// Held by whoever adopts a child: one at a time. Whether somebody goes on with what was begun.
    pub(crate) adopting: tokio::sync::Mutex<bool>,
    /// Counts commits in the order in which the store's thread ran them.
    pub(crate) order: Arc<AtomicU64>,
}

/// Facts, and which commit they are of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ordered {
    pub(crate) order: u64,
    pub(crate) facts: Facts,
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

    /// How many children it may have at once, as its tree says.
    pub(crate) fn children_max(&self) -> u32 {
        self.member.place().limits.children
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
        let mut restarts: HashMap<&PodName, u32> = HashMap::new();
        for child in children.iter().filter(|child| child.restarted) {
            *restarts.entry(&child.pod.name).or_default() += 1;
        }
        let lines = children.iter().rev().take(protocol::STATUS_CHILDREN_MAX).map(|child| protocol::ChildStatus {
            pod: child.pod.clone(),
            pid: child.pid,
            state: Text::clipped(format!("{:?}", child.phase).to_lowercase()),
            socket: Text::clipped(self.roots.pod(&child.pod.name).socket().to_string_lossy()),
            kept: Kept {
                detached: child.lifetime == Lifetime::Detached,
                restart: child.restart.when.into(),
                restarts: restarts.get(&child.pod.name).copied().unwrap_or_default(),
            },
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
            blocked_by: counts.blocked_by,
            confined: confined(self.member.place().confinement, self.member.scope().rules().is_some()),
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
        spawn::begin(self, turn, spawn).await
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
            Ok(accepted) => return Ok(self.accepted(pod, work, accepted, progress).await),
            Err(CallError::Unknown(doubt)) => {
                let cause = doubt.to_string();
                match doubt.resolve().await {
                    Ok(accepted) => return Ok(self.accepted(pod, work, accepted, progress).await),
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
        match self.shared.commit(move |tx| tx.delegation_refused(work)).await {
            Ok(settled) => {
                self.shared.registry.refused(&pod, work);
                self.shared.registry.settled(&settled);
                Err(why)
            }
            Err(error) => {
                // It stays open, and is sent again: that it was not taken would be no word to act on.
                crate::delegation::send_until_known(&self.shared, pod, work);
                let cause = format!("{why}, which could not be recorded: {}", error.chain());
                Err(RunError::Unknown { work, cause })
            }
        }
    }

    /// The child took the work on, and does it, whatever is recorded of that here.
    async fn accepted(
        &self,
        child: PodId,
        work: WorkId,
        accepted: Accepted,
        progress: watch::Receiver<WorkProgress>,
    ) -> Work {
        if let Err(error) = self.shared.commit(move |tx| tx.delegation_accepted(work, accepted.turn)).await {
            tracing::warn!(pod = %self.shared.id, %child, %work, error = error.chain(), "that a child has taken a work could not be recorded; it is asked again");
            crate::delegation::send_until_known(&self.shared, child, work);
        }
        Work { id: work, progress }
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
