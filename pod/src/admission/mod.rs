//! Who may ask a pod what: decided once a connection, by who has started whoever connects.
//!
//! Everybody of the user may ask, but for what a pod with a scope has started: that may ask this pod and those below it, and no
//! other, or a program could have done by a pod with more rights what its own scope denies. Whose program a process is says
//! the line of those who have started it (`ancestry`), in which pods are found by the registry; that a process bears the
//! mark of a life is a second sign. Who cannot be placed may look and change nothing, as long as any pod has a scope.
//!
//! Never asks the process itself. What a child reports is admitted here, if its connection is that child's own (`tie`), and judged
//! by `controller`, which knows its children. Asked by `rpc` for each Hello; set up by `start`.

mod ancestry;
mod tie;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rpc::{Denial, MethodInfo, Newcomer, Request};
use tokio::runtime::RuntimeFlavor;

pub(crate) use self::ancestry::{PROC, Process, own, process};
use self::tie::Tie;
use crate::id::{Incarnation, PodId};
use crate::life_lock::{self, Life};
use crate::protocol::{
    ChildReady, InspectPod, ListCompletions, ListPods, ListRewindTargets, ListVisiblePods, PodEventOffer,
    ReadPodOutput, Status, Subscribe,
};
use crate::registry::{Kin, Registered, Registry, RegistryError};
use crate::runtime_dir::Roots;
use crate::scope::Scope;
use crate::spawn::SpawnedPodRegistry;
use crate::spawn::parent::Parent;
use crate::spawn::process::life_of;

/// The target of what is logged of those who ask what they may not, or say that they are whom they are not.
pub(crate) const REFUSED: &str = "pod::refused";

/// What a child says to its parent: whether it is that child is judged for each.
const REPORTS: [u16; 2] = [PodEventOffer::ID, ChildReady::ID];
/// What changes nothing.
const LOOKS: [u16; 8] = [
    Status::ID,
    Subscribe::ID,
    ListPods::ID,
    ReadPodOutput::ID,
    ListVisiblePods::ID,
    InspectPod::ID,
    ListCompletions::ID,
    ListRewindTargets::ID,
];

/// LIMIT: how long a look at whoever connects may take; it takes a millisecond, unless a process is such that the kernel waits
/// for its memory, or the registry's disk is away.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// LIMIT: looks that have taken longer and are not over: each has a thread. Whoever comes then is not looked at.
const LOOKS_MAX: usize = 8;

/// What a pod knows of those who may connect to it.
pub(crate) struct Admission {
    own: PodId,
    parent: Option<Parent>,
    children: SpawnedPodRegistry,
    scope: Scope,
    sight: Arc<Sight>,
}

/// What a look needs. Each has a thread, and may outlive whoever was to be looked at.
struct Sight {
    own: PodId,
    /// A connection of its own, from the beginning: what this process does in the registry may take seconds, and a newer
    /// program may have changed the file by the time when somebody connects.
    registry: Registry,
    roots: Roots,
    /// Whether any pod had a scope when that was last known.
    any_scoped: AtomicBool,
    looking: AtomicUsize,
}

/// What whoever connects may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reach {
    /// Anything.
    All,
    /// Nothing but to report: it belongs to a pod with a scope, in which this one is not.
    Outside(PodId),
    /// Nothing that changes anything: why nobody can say whose it is.
    Unplaced(String),
}

impl Admission {
    /// Blocks for a look into the registry.
    pub(crate) fn new(
        own: PodId,
        roots: &Roots,
        parent: Option<Parent>,
        children: SpawnedPodRegistry,
        scope: Scope,
    ) -> Self {
        let (registry, looking) = (Registry::at(roots), AtomicUsize::new(0));
        // What cannot be known counts as so.
        let any_scoped = AtomicBool::new(registry.any_scoped().unwrap_or(true));
        let sight = Sight { own: own.clone(), registry, roots: roots.clone(), any_scoped, looking };
        Self { own, parent, children, scope, sight: Arc::new(sight) }
    }

    /// What `who` may call on this connection; anything, if nothing is said.
    pub(crate) fn pass(
        &self,
        who: &Newcomer<'_>,
    ) -> Option<impl Fn(&MethodInfo) -> Result<(), Denial> + Send + Sync + use<>> {
        if who.peer.pid() == Some(rustix::process::getpid().as_raw_nonzero().get()) {
            return None;
        }
        let tie = Tie::of(who, &self.children);
        let reach = self.reach(who, tie.child());
        let (own, peer) = (self.own.name.clone(), who.peer);
        Some(move |method: &MethodInfo| {
            let denial = match REPORTS.contains(&method.id) {
                true => tie.may_report().err(),
                false => reach.denial(method.id, who_in_words(peer.pid()), own.as_str()),
            };
            let Some(why) = denial else { return Ok(()) };
            tracing::warn!(target: REFUSED, pod = %own, %peer, method = method.name, why, "a request is refused: it is not for this process to make");
            Err(why.into())
        })
    }

    /// A few reads of small files, for most who connect none. `child` is the child that it is, if it is one.
    fn reach(&self, who: &Newcomer<'_>, child: Option<&PodId>) -> Reach {
        let pid = who.peer.pid();
        if let Some(child) = child {
            return if self.scope.is_lent_to(child) { Reach::Outside(child.clone()) } else { Reach::All };
        }
        // Looked at by its number, which is its own if it lives behind that.
        if pid.is_some_and(|pid| self.is_parent(pid)) && is_still(who).is_ok() {
            return Reach::All;
        }
        let found = match self.sight.look(pid) {
            Ok(Reach::All) if self.sight.any_scoped.load(Ordering::SeqCst) => is_still(who).map(|()| Reach::All),
            found => found,
        };
        found.unwrap_or_else(|why| match self.sight.any_scoped.load(Ordering::SeqCst) || self.scope.rules().is_some() {
            true => Reach::Unplaced(why),
            // Nobody here is bound to anything.
            false => Reach::All,
        })
    }

    /// Whether that is the process of our parent, which may ask its children whatever it is bound to.
    fn is_parent(&self, pid: i32) -> bool {
        let Some(link) = self.parent.as_ref().map(Parent::link).filter(|link| link.pid == u32::try_from(pid).ok())
        else {
            return false;
        };
        let lock = self.sight.roots.pod(&link.pod.name).life_lock();
        matches!(life_lock::probe(&lock), Ok(Life::Held(holder)) if holder.pid == link.pid && holder.pod == Some(link.pod))
    }
}

impl Sight {
    /// The same on a thread of its own, which is not waited for without an end: neither the registry's disk nor the memory of
    /// a strange process is to hold up what else this thread does.
    fn look(self: &Arc<Self>, pid: Option<i32>) -> Result<Reach, String> {
        let runtime = tokio::runtime::Handle::try_current().ok();
        // Where nothing else could go on meanwhile, nothing is gained by another thread.
        let Some(runtime) = runtime.filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread) else {
            return self.look_here(pid);
        };
        if self.looking.fetch_add(1, Ordering::SeqCst) >= LOOKS_MAX {
            self.looking.fetch_sub(1, Ordering::SeqCst);
            return Err(format!("{LOOKS_MAX} others are still being looked at"));
        }
        let (sight, (tell, told)) = (Arc::clone(self), std::sync::mpsc::sync_channel(1));
        runtime.spawn_blocking(move || {
            let found = sight.look_here(pid);
            sight.looking.fetch_sub(1, Ordering::SeqCst);
            // Nobody waits for it any more if it has taken too long.
            let _ = tell.send(found);
        });
        let found = tokio::task::block_in_place(|| told.recv_timeout(LOOK_MAX));
        found.unwrap_or_else(|_| Err(format!("looking at it takes longer than {} s", LOOK_MAX.as_secs())))
    }

    fn look_here(&self, pid: Option<i32>) -> Result<Reach, String> {
        let any_scoped = self.registry.any_scoped().map_err(|error| error.to_string())?;
        self.any_scoped.store(any_scoped, Ordering::SeqCst);
        if !any_scoped {
            return Ok(Reach::All);
        }
        let pid = pid.ok_or("it is outside of this pod's process namespace")?;
        let kin = kin_of(&self.registry, &self.roots, &self.own, pid)?;
        Ok(decide(&kin))
    }
}

/// Whether it is shown who has started this process, and that one, up to the first.
///
/// # Errors
/// Who is not.
pub(crate) fn is_own_line_shown() -> std::io::Result<()> {
    ancestry::line(Path::new(ancestry::PROC), rustix::process::getpid().as_raw_nonzero().get()).map(drop)
}

/// What the registry knows of the line of `pid`, and of the marks in it, when it asks `own`.
fn kin_of(registry: &Registry, roots: &Roots, own: &PodId, pid: i32) -> Result<Kin, String> {
    let line = ancestry::line(Path::new(ancestry::PROC), pid).map_err(|error| error.to_string())?;
    let lives: Vec<Incarnation> = line.iter().filter_map(|process| life_of(process.pid, roots)).collect();
    registry.kin(own, &line, &lives).map_err(|error| error.to_string())
}

/// The pod with a scope whose program this process is, if there is one below `roots`: what it starts is to be below that. Blocks.
///
/// # Errors
/// Why it cannot be known. Nobody is bound for certain only where no pod has a scope.
pub(crate) fn bound_by(registry: &Registry, roots: &Roots, own: &PodId) -> Result<Option<PodId>, Unplaced> {
    bound_by_in(Path::new(ancestry::PROC), registry, roots, own)
}

fn bound_by_in(proc: &Path, registry: &Registry, roots: &Roots, own: &PodId) -> Result<Option<PodId>, Unplaced> {
    match registry.path().try_exists() {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(error) => return Err(Unplaced::Registry(format!("`{}`: {error}", registry.path().display()))),
    }
    let in_registry = |error: RegistryError| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Unplaced::Registry(format!("{error}{cause}"))
    };
    if !registry.any_scoped().map_err(in_registry)? {
        return Ok(None);
    }
    let line = ancestry::line(proc, rustix::process::getpid().as_raw_nonzero().get());
    let line = line.map_err(|error| Unplaced::Processes(error.to_string()))?;
    let lives: Vec<Incarnation> = line.iter().filter_map(|process| life_of(process.pid, roots)).collect();
    let kin = registry.kin(own, &line, &lives).map_err(in_registry)?;
    match decide(&kin) {
        Reach::Outside(by) => Ok(Some(by)),
        Reach::All | Reach::Unplaced(_) => Ok(None),
    }
}

/// Why it cannot be known whose program a process is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unplaced {
    #[error(
        "who has started it is not shown ({0}), and some pod has a scope that may bind it: mount /proc so that all processes are \
         shown (without `hidepid`), or stop the pods that have scopes"
    )]
    Processes(String),
    #[error(
        "whether a pod has a scope that may bind it cannot be read ({0}): `pod doctor` looks at the registry of pods"
    )]
    Registry(String),
}

impl Reach {
    /// Why `who` may not call the method of that number at the pod `asked`.
    fn denial(&self, method: u16, who: String, asked: &str) -> Option<String> {
        match self {
            Self::All => None,
            Self::Outside(by) => Some(format!(
                "{who} belongs to pod `{}`, which has a scope: it may ask that pod and those below it, and `{asked}` is \
                 none of them",
                by.name
            )),
            Self::Unplaced(_) if LOOKS.contains(&method) => None,
            Self::Unplaced(why) => Some(format!(
                "whose program {who} is cannot be told, so that it may only look, because some pod has a scope: {why}"
            )),
        }
    }
}

/// Whoever is bound by a pod that is not above the one that is asked is outside.
fn decide(kin: &Kin) -> Reach {
    let binds = |life: &&Registered| life.scoped && !kin.asked.contains(&life.pod.incarnation);
    if let Some(life) = kin.marked.iter().find(binds) {
        return Reach::Outside(life.pod.clone());
    }
    for at in kin.pods.iter().map(|(at, _)| *at) {
        let hosted = || kin.pods.iter().filter(|(other, _)| *other == at).map(|(_, life)| life);
        // The process itself is each of the pods that it hosts. What one of several has started says its mark, and without
        // one it may be anybody's. A mark is the process's own word: one that says another pod of the same process goes free of
        // its own, which only a program that embeds pods with and without a scope in one process allows.
        let bound = match at {
            0 if !hosted().all(|life| binds(&life)) => None,
            _ if hosted().any(|life| kin.marked.contains(life)) => None,
            _ => hosted().find(binds),
        };
        if let Some(life) = bound {
            return Reach::Outside(life.pod.clone());
        }
    }
    Reach::All
}

/// Whether the process that connected is there still, so that what was read under its number was read of it.
fn is_still(who: &Newcomer<'_>) -> Result<(), String> {
    match who.pidfd().map(rpc::PeerPidfd::has_ended) {
        Some(Ok(false)) => Ok(()),
        Some(Ok(true)) => Err("it has ended".to_owned()),
        Some(Err(error)) => Err(format!("whether it lives cannot be told: {error}")),
        None => Err("the kernel gives no descriptor of it".to_owned()),
    }
}

fn who_in_words(pid: Option<i32>) -> String {
    pid.map_or_else(|| "whoever connected".to_owned(), |pid| format!("process {pid}"))
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("own", &self.own).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
