//! Bringing a pod up, and down again.
//!
//! In this order: life lock, worker, store, directories, recovery, socket, parent, controller. What fails leaves nothing
//! half made that the next start would trip over.
//!
//! Used by embedding programs through [`PodController::spawn`], and by `worker::host` for children.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admission::{Admission, bound_by};
use crate::attach::Tail;
use crate::controller::actor::Actor;
use crate::event::{Edge, Reporter};
use crate::handle::{Inner, Ordered, PodHandle, Shared};
use crate::id::{Incarnation, PodId, PodName};
use crate::life_lock::{LifeLock, LifeLockError};
use crate::manifest::{Limits, Manifest, ManifestError, PodSection, ScopeEntry, WorkerSpec};
use crate::protocol::{Method, PodState};
use crate::registry::{Claim, ClaimError, Member, Origin, Registered, Registry};
use crate::runtime_dir::{self, DirError, PodPaths, Roots};
use crate::scope::launch::effective;
use crate::scope::{Confinement, Rules, ScopeRule, kernel_confinement};
use crate::spawn::adopt;
use crate::spawn::parent::{self, Parent};
use crate::spawn::process::kill_programs_of;
use crate::spawn::reaper;
use crate::spawn::{Ends, SpawnedPodRegistry, carry_out_intents, supervisor};
use crate::store::{ChildRow, Clock, Control, Durability, Own, Owner, Store, StoreError, StoreOptions, StoreReader};
use crate::worker::live::Live;
use crate::worker::{ChildEnvironment, Workers};

/// LIMIT: calls that wait for the controller; further ones wait with their callers' windows.
const CALLS: usize = 1024;
/// LIMIT: messages of turns and supervisors that wait for the controller.
const MESSAGES: usize = 1024;
/// LIMIT: dead lives that a starting pod takes out of the registry: each costs two looks through the process table.
const RECLAIMED_MAX: usize = 8;
/// LIMIT: how long a pod that starts waits for whoever holds its life lock in a dead life's stead: to adopt a child, or to end what
/// that life has left, takes a second or two.
const HELD_FOR_THE_DEAD: Duration = Duration::from_secs(5);
/// Between two looks at it. A person does not notice.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// How long answers may take to be written when the pod ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What a pod is to be.
#[derive(Clone, Debug)]
pub struct PodOptions {
    name: PodName,
    worker: WorkerSpec,
    workers: Workers,
    roots: Option<Roots>,
    durability: Durability,
    limits: Limits,
    scope: Vec<ScopeRule>,
    confinement: Confinement,
    /// How far the kernel can confine programs.
    kernel: Confinement,
    /// With how many events that wait for the parent no turn is started.
    #[cfg(test)]
    outbox_full_at: Option<u64>,
    program: Option<PathBuf>,
    owns_process: bool,
}

/// The controller of a pod.
#[derive(Debug)]
pub struct PodController;

/// Why a pod was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The worker's description is wrong.
    #[error("the worker of pod `{name}` is not valid")]
    Worker {
        /// The pod.
        name: PodName,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// Another process is that pod.
    #[error("pod `{name}` runs already: {holder}; stop it with `pod stop {name}` or choose another name")]
    HeldBy {
        /// The pod.
        name: PodName,
        /// Its process, if it has said so yet.
        pid: Option<u32>,
        /// The process and the life, in words.
        holder: String,
    },
    /// Its life lock cannot be taken.
    #[error("pod `{name}` cannot be locked")]
    Lock {
        /// The pod.
        name: PodName,
        /// Why.
        #[source]
        source: LifeLockError,
    },
    /// Its directories cannot be used.
    #[error("the directories of pod `{name}` cannot be used")]
    Directory {
        /// The pod.
        name: PodName,
        /// Why.
        #[source]
        source: DirError,
    },
    /// Its store cannot be used.
    #[error("the store of pod `{name}` cannot be used")]
    Store {
        /// The pod.
        name: PodName,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// It cannot listen.
    #[error("pod `{name}` cannot listen")]
    Listen {
        /// The pod.
        name: PodName,
        /// Why.
        #[source]
        source: rpc::ListenError,
    },
    /// It could not be registered, or not be given its scope.
    #[error("pod `{name}` cannot be registered")]
    Registry {
        /// The pod.
        name: PodName,
        /// Why.
        #[source]
        source: ClaimError,
    },
    /// Its programs cannot be confined as far as they must be.
    #[error("pod `{name}` cannot be started with this scope: {reason}")]
    Confinement {
        /// The pod.
        name: PodName,
        /// What is missing, and what to do.
        reason: String,
    },
    /// This process is a program of a pod with a scope, which binds all that it starts.
    #[error(
        "pod `{name}` is not started: this is a program of pod `{by}`, which has a scope, and what it starts is to be below that; use `pod spawn {by} {name}`"
    )]
    Bound {
        /// The pod.
        name: PodName,
        /// Whose program this is.
        by: PodName,
    },
    /// Whether it is a program of a pod with a scope cannot be known, and so not whether it may start a root.
    #[error("pod `{name}` is not started: {reason}")]
    Unplaced {
        /// The pod.
        name: PodName,
        /// Why, and what to do about it.
        reason: String,
    },
    /// The program that children are started from is not known.
    #[error("the program that children are started from cannot be found; name it with `PodOptions::program`")]
    Program(#[source] std::io::Error),
    /// The parent did not take it up.
    #[error("the parent of pod `{name}` did not take it up: {reason}")]
    Parent {
        /// The pod.
        name: PodName,
        /// What became of the call.
        reason: String,
    },
}

impl PodOptions {
    /// A pod called `name` that hosts `worker`, with the workers that are here and the usual directories.
    pub fn new(name: PodName, worker: WorkerSpec) -> Self {
        Self {
            name,
            worker,
            workers: Workers::builtin(),
            roots: None,
            durability: Durability::default(),
            limits: Limits::default(),
            scope: Vec::new(),
            confinement: Confinement::default(),
            kernel: kernel_confinement(),
            #[cfg(test)]
            outbox_full_at: None,
            program: None,
            owns_process: false,
        }
    }

    /// Where its files are.
    #[must_use]
    pub fn roots(mut self, roots: Roots) -> Self {
        self.roots = Some(roots);
        self
    }

    /// The workers that it and its children may host. Children get theirs from [`host`](crate::host), in their own
    /// process.
    #[must_use]
    pub fn workers(mut self, workers: Workers) -> Self {
        self.workers = workers;
        self
    }

    /// When an ack may be given; children inherit it.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// What it may use up.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What it and its children may read and write; what its user may, if nothing is said. A child gets its own from its
    /// parent.
    #[must_use]
    pub fn scope(mut self, scope: Vec<ScopeRule>) -> Self {
        self.scope = scope;
        self
    }

    /// How the programs that it and its children run are confined to their scopes.
    #[must_use]
    pub fn confinement(mut self, confinement: Confinement) -> Self {
        self.confinement = confinement;
        self
    }

    /// This process is the pod's alone: whatever its programs leave behind, in a group of its own or no child of theirs any more, is
    /// this process's child, is reaped when it is dead, and is ended with the pod; unless it is a pod itself. Not for a process in
    /// which others start programs that are to outlive the pod. Of a child it is always so.
    #[must_use]
    pub fn owns_process(mut self) -> Self {
        self.owns_process = true;
        self
    }

    #[cfg(test)]
    pub(crate) fn outbox_full_at(mut self, max: u64) -> Self {
        self.outbox_full_at = Some(max);
        self
    }

    #[cfg(test)]
    pub(crate) fn on_kernel(mut self, best: Confinement) -> Self {
        self.kernel = best;
        self
    }

    /// What children are started from; this program itself, if nothing is said. It must call
    /// [`host`](crate::host).
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }
}

impl PodController {
    /// Brings a pod up in this process.
    ///
    /// # Errors
    /// [`StartError`] names the pod, the reason and the remedy.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub async fn spawn(options: PodOptions) -> Result<PodHandle, StartError> {
        Self::start(options, None).await
    }

    pub(crate) async fn start(options: PodOptions, child: Option<ChildEnvironment>) -> Result<PodHandle, StartError> {
        let name = options.name.clone();
        let directory = |source| StartError::Directory { name: name.clone(), source };
        let store_error = |source| StartError::Store { name: name.clone(), source };
        let worker = options
            .workers
            .make(&options.worker)
            .map_err(|source| StartError::Worker { name: name.clone(), source })?;
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(StartError::Program)?,
        };
        let roots = match options.roots {
            Some(roots) => roots,
            None => Roots::resolve(None).map_err(directory)?,
        };
        let paths = roots.pod(&name);
        // A child's process is started for it; of any other, its owner says so.
        let owns_process = child.is_some() || options.owns_process;
        if owns_process {
            reaper::inherit();
        }
        let registry_error = |source| StartError::Registry { name: name.clone(), source };
        let registry = Registry::at(&roots);
        if child.is_none() {
            // Before anything is made.
            Self::may_start(&name, &roots).await?;
        }
        let scope = Rules::new(&options.scope).map_err(|error| registry_error(error.into()))?;
        let scope = (!options.scope.is_empty()).then_some(scope);
        // Before anything is made. A child's parent has seen to it.
        effective(options.confinement, scope.is_some() && child.is_none(), options.kernel)
            .map_err(|reason| StartError::Confinement { name: name.clone(), reason })?;
        if let (Some(scope), None) = (scope.clone(), &child) {
            // Before anything is made; decided below.
            let (registry, name) = (registry.clone(), name.clone());
            blocking(move || registry.is_free(&name, &scope, Clock::System.now())).await.map_err(registry_error)?;
        }
        paths.make_state_dir().map_err(directory)?;
        let incarnation = child.as_ref().map_or_else(Incarnation::random, |child| child.config.pod.incarnation);
        let id = PodId { name: name.clone(), incarnation };
        let lock = take_life(&paths, &id).await.map_err(|error| match error {
            LifeLockError::Held { holder, .. } => {
                StartError::HeldBy { name: name.clone(), pid: holder.pid, holder: holder.to_string() }
            }
            source => StartError::Lock { name: name.clone(), source },
        })?;
        let owner = match &child {
            Some(child) => Owner::Parent(child.config.parent.name.clone()),
            None => Owner::Nobody,
        };
        // Before anything of an earlier life is touched; decided when the store is opened.
        let path = paths.store();
        let found = tokio::task::spawn_blocking(move || StoreReader::owner_of(path)).await.ok().flatten();
        if let Some(found) = found.filter(|found| *found != owner) {
            let (path, pod) = (paths.store(), name.clone());
            return Err(store_error(StoreError::OtherParent { path, pod, wanted: owner, found }));
        }
        paths.claim(&id).map_err(directory)?;
        let claim = Claim {
            pod: id.clone(),
            worker: options.worker.kind.clone(),
            state_dir: paths.state_dir().to_owned(),
            origin: match &child {
                Some(child) => Origin::Child { parent: child.config.parent.clone(), asked: Rules::default() },
                None => Origin::Root { limits: options.limits.tree(), scope, confinement: options.confinement },
            },
        };
        let below = roots.clone();
        let member = blocking(move || join(registry, &claim, &below)).await.map_err(registry_error)?;

        let own = Own { pod: id.clone(), has_parent: child.is_some(), reads_reports: worker.reads_reports() };
        let mut store_options = StoreOptions::new(own).owned_by(owner).durability(options.durability);
        store_options.limits.attempts = options.limits.attempts;
        #[cfg(test)]
        if let Some(max) = options.outbox_full_at {
            (store_options.limits.outbox, store_options.limits.outbox_reserve) = (max + 8, 8);
        }
        let path = paths.store();
        let opened = tokio::task::spawn_blocking(move || Store::open(path, store_options)).await;
        let store = opened.unwrap_or(Err(StoreError::Closed)).map_err(store_error)?;
        let below = roots.clone();
        let recovery = store
            .write(move |tx| {
                tx.relocate_children(&below)?;
                tx.recover()
            })
            .await
            .map_err(store_error)?;

        if child.is_none() {
            // A root in the background writes where a child does; one that does not is left alone.
            tokio::spawn(crate::spawn::stderr::keep_bounded(paths.stderr()));
            // A child's parent knows what it is; nobody else knows what a root was started as.
            let pod = PodSection {
                name: name.clone(),
                durability: options.durability,
                directory: std::env::current_dir().ok(),
                confinement: options.confinement,
            };
            let scope = options.scope.iter().map(ScopeEntry::from).collect();
            let manifest =
                Manifest { pod, worker: options.worker.clone(), limits: options.limits, scope, child: Vec::new() };
            let path = paths.manifest();
            let kept = tokio::task::spawn_blocking(move || manifest.keep(&path)).await;
            kept.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(|source| {
                directory(DirError::Io {
                    doing: "record what the pod is in",
                    path: paths.state_dir().to_owned(),
                    source,
                })
            })?;
        }
        let parent = child.as_ref().map(|child| Parent::new(&child.config, child.lifetime));
        let children = SpawnedPodRegistry::default();
        let admission = Admission::new(id.clone(), &roots, parent.clone(), children.clone(), member.scope().clone());
        let (server, calls) = rpc::Server::actor::<Method>()
            .pidfds()
            .authorize_connections(move |who| Ok(admission.pass(who)))
            .serve_calls(&rpc::Address::unix(paths.socket()), CALLS)
            .await
            .map_err(|source| StartError::Listen { name: name.clone(), source })?;
        let edge = parent.as_ref().map_or_else(Edge::none, Parent::edge);
        let (messages, heard) = mpsc::channel(MESSAGES);
        let shared = Shared::new(Inner {
            id: id.clone(),
            roots,
            program,
            durability: options.durability,
            spec: options.worker,
            turn_max: Some(options.limits.turn_seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs),
            workers: options.workers,
            kernel: options.kernel,
            member,
            parent: parent.clone(),
            started_at_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0)),
            reporter: Reporter::with_store(store.clone(), edge),
            live: Live::new(store.history_head()),
            registry: children,
            messages,
            tail: Tail::new(),
            phase: watch::Sender::new(PodState::Idle),
            done: watch::Sender::new(false),
            spawning: AtomicUsize::new(0),
            ends: Ends::default(),
            carrying_out: AtomicBool::new(false),
            adopting: tokio::sync::Mutex::new(true),
            order: Arc::new(AtomicU64::new(0)),
            paths,
            store,
        });
        let handle = PodHandle::new(shared.clone());

        let mut tasks = JoinSet::new();
        let facts = begin(&handle, child, parent, recovery.children, &mut tasks).await;
        let (facts, found) = match facts {
            Ok(begun) => begun,
            Err(error) => {
                give_up(&shared, server, tasks).await;
                return Err(error);
            }
        };
        tasks.detach_all();
        tokio::spawn(adopt::resume(shared.clone()));
        let starts_processes = worker.starts_processes();
        let actor = Actor::new(handle.clone(), worker, found, facts);
        if owns_process {
            tokio::spawn(reaper::reap(shared.clone(), starts_processes));
        }
        tokio::spawn(live(shared, owns_process, actor, server, calls, heard, lock));
        Ok(handle)
    }

    /// Whether this process may start the root `name` below `roots`: a program of a pod with a scope may not, for what it starts
    /// would have none. Looks, and makes nothing.
    ///
    /// # Errors
    /// [`StartError::Bound`]; [`StartError::Unplaced`] if it cannot be known.
    pub async fn may_start(name: &PodName, roots: &Roots) -> Result<(), StartError> {
        let (registry, below, own) =
            (Registry::at(roots), roots.clone(), PodId::new(name.clone(), Incarnation::random()));
        let bound = tokio::task::spawn_blocking(move || bound_by(&registry, &below, &own)).await;
        let unplaced = |reason: String| StartError::Unplaced { name: name.clone(), reason };
        let bound = bound.map_err(|error| unplaced(error.to_string()))?;
        if let Some(by) = bound.map_err(|error| unplaced(error.to_string()))?.filter(|by| by.name != *name) {
            return Err(StartError::Bound { name: name.clone(), by: by.name });
        }
        Ok(())
    }
}

/// Everything that a new life has to see to before it takes work, and that can fail. What follows the children that it has found is
/// among `tasks`, to be ended if it does.
async fn begin(
    handle: &PodHandle,
    child: Option<ChildEnvironment>,
    parent: Option<Parent>,
    found: Vec<ChildRow>,
    tasks: &mut JoinSet<()>,
) -> Result<(Ordered, Control), StartError> {
    let (shared, name) = (handle.shared(), handle.id().name.clone());
    let store_error = |source| StartError::Store { name: name.clone(), source };
    if !found.is_empty() {
        let pods = found.iter().map(|row| row.pod.clone()).collect();
        let adopted = shared.member.adopted(pods).await;
        adopted.map_err(|error| StartError::Registry { name: name.clone(), source: error.into() })?;
    }
    for row in found {
        let Ok(stop) = shared.registry.add(&row, || Ok::<_, std::convert::Infallible>(None));
        tasks.spawn(supervisor::supervise_adopted(shared.clone(), row, stop));
    }
    if let (Some(mut child), Some(parent)) = (child, parent) {
        let begun = parent::begin(handle, &parent, child.parent, &mut child.signals).await;
        begun.map_err(|reason| StartError::Parent { name: name.clone(), reason })?;
        child.signals.stop(handle);
    }
    carry_out_intents(shared).await;
    supervisor::start_what_was_due(shared).await.map_err(store_error)?;
    let (_, facts) = shared.store.write(shared.looking(|_| Ok(()))).await.map_err(store_error)?;
    let control = shared.store.read(|reads| reads.control()).await.map_err(store_error)?;
    crate::delegation::send_what_was_left(shared).await.map_err(store_error)?;
    Ok((facts, control))
}

/// A life that cannot begin leaves nothing behind in a process that goes on: nobody follows its children, and its store is closed,
/// before its life lock is free.
async fn give_up(shared: &Shared, server: rpc::Server, mut tasks: JoinSet<()>) {
    // Whoever waits for the end of this pod, or tries something again until then.
    drop(Done(shared.clone()));
    tasks.shutdown().await;
    let _ = tokio::time::timeout(LAST_ANSWERS, server.drain()).await;
    shared.store.close().await;
    if let Err(error) = runtime_dir::remove(shared.paths.runtime_dir()) {
        tracing::warn!(pod = %shared.id, %error, "the runtime directory could not be removed");
    }
}

/// Registers the life whose life lock this process holds. What a dead life of that name has left running is ended first,
/// as a parent would have done; others that are dead are taken out on the way, a few at a time.
fn join(registry: Registry, claim: &Claim, roots: &Roots) -> Result<Member, ClaimError> {
    let is_root = matches!(claim.origin, Origin::Root { .. });
    if is_root {
        let earlier = registry.pods()?.into_iter().find(|row| row.pod.name == claim.pod.name);
        // Nothing is ended of a life that its parent has yet to start, or to bury: the claim is then refused.
        let is_over = |row: &Registered| row.pod != claim.pod && registry.is_over(row, Clock::System.now());
        if let Some(earlier) = earlier.filter(is_over) {
            kill_programs_of(earlier.pod.incarnation, roots);
        }
    }
    let member = Member::join(registry.clone(), claim)?;
    if is_root && let Err(error) = registry.reclaim(RECLAIMED_MAX, Clock::System.now()) {
        tracing::warn!(%error, "lives that are over are still registered");
    }
    if is_root && let Err(error) = registry.forget_spent(roots) {
        tracing::warn!(%error, "what roots have spent that are no more is still registered");
    }
    Ok(member)
}

/// Takes the life lock of the pod. One that somebody holds in a dead life's stead, an adopter or `pod doctor --fix`, is free in a
/// moment.
///
/// # Errors
/// Who lives, or why it cannot be known.
async fn take_life(paths: &PodPaths, id: &PodId) -> Result<LifeLock, LifeLockError> {
    let until = tokio::time::Instant::now() + HELD_FOR_THE_DEAD;
    loop {
        match LifeLock::acquire(&paths.life_lock(), id) {
            Err(LifeLockError::Held { holder, .. })
                if holder.is_for_the_dead(&id.name) && tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            taken => return taken,
        }
    }
}

/// On a thread for calls that block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClaimError> + Send + 'static,
) -> Result<T, ClaimError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// The pod's life, from here to its end.
async fn live(
    shared: Shared,
    owns_process: bool,
    actor: Actor,
    server: rpc::Server,
    calls: rpc::Calls<Method>,
    heard: mpsc::Receiver<crate::controller::actor::Msg>,
    lock: LifeLock,
) {
    // Also said if this task panics: whoever waits for the pod's end is not left waiting.
    let _done = Done(shared.clone());
    actor.run(calls, heard).await;
    shared.tail.finish().await;
    let _ = tokio::time::timeout(LAST_ANSWERS, server.drain()).await;
    if owns_process {
        let (own, registry) = (shared.id.clone(), Registry::at(&shared.roots));
        let is_scoped = shared.member.scope().rules().is_some();
        let ending = tokio::task::spawn_blocking(move || reaper::end_strays(&own, &registry, is_scoped));
        if let Ok(ended @ 1..) = ending.await {
            tracing::info!(pod = %shared.id, ended, "programs that had left their groups were ended");
        }
    }
    shared.store.close().await;
    if let Err(error) = runtime_dir::remove(shared.paths.runtime_dir()) {
        tracing::warn!(pod = %shared.id, %error, "the runtime directory could not be removed");
    }
    crate::failpoint!("life_before_unlock");
    // Last: a free lock is the proof that all of this is over.
    drop(lock);
}

/// Says that the pod has ended, and that nothing more is to be heard of any work.
struct Done(Shared);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.registry.forget_works();
        self.0.done.send_replace(true);
    }
}
