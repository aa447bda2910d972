//! Who may ask a pod what: decided once a connection, by who has started whoever connects.
//!
//! Everybody of the user may ask, but for what a pod with a scope has started: that may ask this pod and those below it, and no
//! other, or a program could have done by a pod with more rights what its own scope denies. Whose program a process is says
//! the line of those who have started it (`ancestry`), in which pods are found by the registry; that a process bears the
//! mark of a life is a second sign. Who cannot be placed may look and change nothing, as long as any pod has a scope.
//!
//! Never asks the process itself. What a child reports is admitted here and judged by `controller`, which knows its
//! children. Asked by `rpc` for each Hello; set up by `start`.

mod ancestry;

use std::path::Path;

use rpc::{Denial, MethodInfo, Newcomer, Request};

pub(crate) use self::ancestry::{Process, own};
use crate::id::{Incarnation, PodId};
use crate::life_lock::{self, Life};
use crate::protocol::{
    ChildReady, InspectPod, ListCompletions, ListPods, ListRewindTargets, ListVisiblePods, PodEventOffer,
    ReadPodOutput, Status, Subscribe,
};
use crate::registry::{Kin, Registered, Registry};
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

/// What a pod knows of those who may connect to it.
pub(crate) struct Admission {
    own: PodId,
    /// A connection of its own: what this process does in the registry may take seconds.
    registry: Registry,
    roots: Roots,
    parent: Option<Parent>,
    children: SpawnedPodRegistry,
    scope: Scope,
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
    pub(crate) fn new(
        own: PodId,
        roots: &Roots,
        parent: Option<Parent>,
        children: SpawnedPodRegistry,
        scope: Scope,
    ) -> Self {
        Self { own, registry: Registry::at(roots), roots: roots.clone(), parent, children, scope }
    }

    /// What `who` may call on this connection; anything, if nothing is said.
    pub(crate) fn pass(
        &self,
        who: &Newcomer<'_>,
    ) -> Option<impl Fn(&MethodInfo) -> Result<(), Denial> + Send + Sync + use<>> {
        let reach = self.reach(who);
        if reach == Reach::All {
            return None;
        }
        let (own, peer) = (self.own.name.clone(), who.peer);
        Some(move |method: &MethodInfo| {
            let Some(why) = reach.denial(method.id, who_in_words(peer.pid()), own.as_str()) else { return Ok(()) };
            tracing::warn!(target: REFUSED, pod = %own, %peer, method = method.name, why, "a request is refused: it is not for this process to make");
            Err(why.into())
        })
    }

    /// A few reads of small files, for most who connect none.
    fn reach(&self, who: &Newcomer<'_>) -> Reach {
        let Some(pid) = who.peer.pid() else {
            return Reach::Unplaced("it is outside of this pod's process namespace".to_owned());
        };
        if pid == rustix::process::getpid().as_raw_nonzero().get() {
            return Reach::All;
        }
        if let Some(child) = u32::try_from(pid).ok().and_then(|pid| self.children.sender(pid)) {
            return if self.scope.is_lent_to(&child) { Reach::Outside(child) } else { Reach::All };
        }
        if self.is_parent(pid) {
            return Reach::All;
        }
        self.look(who, pid).unwrap_or_else(Reach::Unplaced)
    }

    /// Whether that is the process of our parent, which may ask its children whatever it is bound to.
    fn is_parent(&self, pid: i32) -> bool {
        let Some(link) = self.parent.as_ref().map(Parent::link).filter(|link| link.pid == u32::try_from(pid).ok())
        else {
            return false;
        };
        let lock = self.roots.pod(&link.pod.name).life_lock();
        matches!(life_lock::probe(&lock), Ok(Life::Held(holder)) if holder.pid == link.pid && holder.pod == Some(link.pod))
    }

    fn look(&self, who: &Newcomer<'_>, pid: i32) -> Result<Reach, String> {
        let line = ancestry::line(Path::new(ancestry::PROC), pid);
        let lives: Vec<Incarnation> = match &line {
            Ok(line) => line.iter().filter_map(|process| life_of(process.pid, &self.roots)).collect(),
            Err(_) => Vec::new(),
        };
        let kin = self.registry.kin(&self.own, line.as_deref().unwrap_or_default(), &lives);
        let kin = kin.map_err(|error| error.to_string())?;
        let known = line.map_err(|error| error.to_string()).and_then(|_| is_still(who));
        Ok(match known {
            Ok(()) => decide(&kin),
            // Nobody here is bound to anything.
            Err(_) if !kin.any_scoped => Reach::All,
            Err(why) => Reach::Unplaced(why),
        })
    }
}

impl Reach {
    /// Why `who` may not call the method of that number at the pod `asked`.
    fn denial(&self, method: u16, who: String, asked: &str) -> Option<String> {
        match self {
            _ if REPORTS.contains(&method) => None,
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
        // one it may be anybody's.
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
