//! The beginning of a child's life: its claim, its row, its process, and its word that it is ready.
//!
//! Nothing is half begun: what is claimed is kept by the row that is reserved, or given back; what is reserved has a process,
//! or ends. Whoever asked for it may go away meanwhile.
//!
//! Asked by the facade in `handle`, by `tools`, and by `supervisor` for the next life; `supervisor` follows what was begun.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::registry::Stop;
use super::{Child, ChildPhase, adopt, stderr, supervisor};
use crate::error::SpawnError;
use crate::handle::{PodHandle, Shared};
use crate::id::{PodId, PodName, TurnId};
use crate::manifest::WorkerSpec;
use crate::protocol::PodState;
use crate::scope::ScopeRule;
use crate::scope::launch::effective;
use crate::store::{ChildRow, EndOfLife, Lifetime, NewChild, Reservation, Restart, StoreError, Terminal, Tx};

/// How long a child may take until it says that it is ready. LIMIT: a cold start on a loaded machine takes a second.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 30 });

/// How finely the time until then is counted. LIMIT: a halt of this process counts as one of these.
const BEAT: Duration = Duration::from_secs(1);

/// A child that is to be started.
#[derive(Clone, Debug)]
pub struct SpawnPod {
    name: PodName,
    worker: WorkerSpec,
    scope: Vec<ScopeRule>,
    lifetime: Lifetime,
    restart: Restart,
    /// The life after which this one is due: it is begun if it still is.
    again: Option<PodId>,
    /// Whether it is still wanted, and what was begun. Clones are about the same.
    wish: Arc<Wish>,
}

/// What becomes of a life that somebody wants, and may give up.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    given_up: AtomicBool,
    begun: OnceLock<PodId>,
}

impl Wish {
    /// A life that is not reserved yet never is. Returns the one that is, which is then the caller's to end.
    pub(crate) fn give_up(&self) -> Option<&PodId> {
        self.given_up.store(true, Ordering::SeqCst);
        self.begun.get()
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst)
    }
}

impl SpawnPod {
    /// A child called `name` that hosts `worker`.
    pub fn new(name: PodName, worker: WorkerSpec) -> Self {
        let (lifetime, restart) = (Lifetime::Tied, Restart::default());
        Self { name, worker, scope: Vec::new(), lifetime, restart, again: None, wish: Arc::default() }
    }

    /// What it is given of this pod's scope: no more than there is, and what it may write is not written by this pod
    /// until its end. Without a rule it gets what this pod has, for reading; if this pod has no scope, none either.
    #[must_use]
    pub fn scope(mut self, scope: Vec<ScopeRule>) -> Self {
        self.scope = scope;
        self
    }

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

    /// By which it can be given up.
    pub(crate) fn wish(&self) -> Arc<Wish> {
        Arc::clone(&self.wish)
    }

    /// The next life of a child that has ended; nobody has it begun who does not want it any more.
    pub(crate) fn again(row: &ChildRow) -> Self {
        // What was written by us can be read; if not, the start says what is wrong.
        let worker = serde_json::from_str(&row.worker).unwrap_or_else(|_| WorkerSpec::of_kind("unreadable"));
        let (name, scope) = (row.pod.name.clone(), row.scope.clone());
        let (again, wish) = (Some(row.pod.clone()), Arc::default());
        Self { name, worker, scope, lifetime: row.lifetime, restart: row.restart, again, wish }
    }
}

/// Starts a child, and waits until it is ready. A `turn` that is over by then starts nothing.
pub(crate) async fn begin(handle: &PodHandle, turn: Option<TurnId>, spawn: SpawnPod) -> Result<Child, SpawnError> {
    let shared = handle.shared();
    let (parent, guard) = (shared.clone(), Spawning::begin(shared));
    // In a task of its own: a caller that goes away, a turn that is ended, say, leaves no life half begun.
    let started = tokio::spawn(async move { reserve_and_start(&parent, turn, &spawn, guard).await });
    let row = started.await.map_err(|error| StoreError::Panicked(error.to_string()))??;
    let stderr = shared.roots.pod(&row.name).stderr();
    let ready = shared.registry.until(|registry| {
        let phase = registry.life(&row).map(|line| line.phase);
        // One that is asked to end before it was ready ends.
        (!matches!(phase, Some(ChildPhase::Starting | ChildPhase::Stopping))).then_some(())
    });
    match within_awake(READY_TIMEOUT, ready).await {
        Some(()) => {}
        None => {
            shared.registry.give_up(&row, Stop { now: true, grace: Duration::ZERO });
            let stderr = stderr::tail(&stderr, &row);
            return Err(SpawnError::NotReady { name: row.name, stderr });
        }
    }
    let status = shared.registry.life(&row);
    match status.and_then(|status| status.terminal) {
        None => Ok(Child { handle: handle.clone(), pod: row }),
        Some(terminal) => {
            let (terminal, stderr) = (terminal_in_words(&terminal), stderr::tail(&stderr, &row));
            Err(SpawnError::DiedEarly { name: row.name, terminal, stderr })
        }
    }
}

async fn reserve_and_start(
    shared: &Shared,
    turn: Option<TurnId>,
    spawn: &SpawnPod,
    _guard: Spawning,
) -> Result<PodId, SpawnError> {
    let name = spawn.name.clone();
    if *shared.phase.borrow() == PodState::Stopping {
        return Err(SpawnError::Stopping { name });
    }
    // Before anything is made on disk; decided below.
    let (living, max) = (shared.registry.living(), shared.children_max());
    if living >= usize::try_from(max).unwrap_or(usize::MAX) {
        return Err(SpawnError::TooMany { name, max });
    }
    // Found out here, where somebody reads it, and not in a process that is gone.
    shared.workers.make(&spawn.worker).map_err(|source| SpawnError::Worker { name: name.clone(), source })?;
    let scoped = shared.member.scope().rules().is_some() || !spawn.scope.is_empty();
    effective(shared.member.place().confinement, scoped, shared.kernel)
        .map_err(|reason| SpawnError::Confinement { name: name.clone(), reason })?;
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
        restarted: spawn.again.is_some(),
        socket: paths.socket(),
        store: paths.store(),
        runtime_dir: paths.runtime_dir().to_owned(),
        scope: claimed.rules().to_vec(),
    };
    let (reserved, max) = (pod.clone(), shared.children_max());
    let (wish, again) = (spawn.wish(), spawn.again.clone());
    let reserve = move |tx: &Tx<'_>| {
        if wish.is_given_up() {
            return Ok(Begun::NotWanted);
        }
        // Whoever stops a child that is about to be started again says so in a transaction: before this one, or after it.
        if let Some(dead) = &again
            && !tx.is_restart_due(dead)?
        {
            return Ok(Begun::NotWanted);
        }
        // Whoever ended the turn, or was told of its end, reckons with nothing more from it.
        turn.map(|turn| tx.running(turn)).transpose()?;
        // Counted where it is reserved: of two that come for the last place, one gets it.
        if tx.live_children_count()? >= u64::from(max) {
            return Ok(Begun::TooMany);
        }
        let missing = || StoreError::Contradiction(format!("pod {reserved} was reserved and is not there"));
        Ok(match tx.reserve_child(&new)? {
            Reservation::Reserved => Begun::Reserved(Box::new(tx.child(&reserved)?.ok_or_else(missing)?)),
            Reservation::NameTaken { by } => Begun::NameTaken(by),
        })
    };
    let row = match shared.commit(reserve).await? {
        Begun::NotWanted => return Err(SpawnError::GivenUp { name }),
        Begun::TooMany => return Err(SpawnError::TooMany { name, max }),
        Begun::NameTaken(by) => {
            return Err(SpawnError::NameTaken { name, holder: format!("life {}", by.incarnation) });
        }
        Begun::Reserved(row) => {
            claimed.keep();
            // Before the second look at whether it is given up, below.
            let _ = spawn.wish.begun.set(pod.clone());
            *row
        }
    };
    let mut leader = None;
    // Opened before: whoever looks who a sender is waits for what is done in there.
    let (of, its, log) = (shared.clone(), row.clone(), paths.stderr());
    let prepared = tokio::task::spawn_blocking(move || supervisor::prepare(&of, &its, &log)).await;
    let started = prepared.unwrap_or_else(|error| Err(std::io::Error::other(error))).and_then(|mut command| {
        shared.registry.add(&row, || {
            let process = supervisor::start(&mut command, &row)?;
            let pid = process.pid();
            leader = Some(process);
            Ok(Some(pid))
        })
    });
    let (stop, leader) = match (started, leader) {
        (Ok(stop), Some(leader)) => (stop, leader),
        (started, _) => {
            let source: std::io::Error = started.err().unwrap_or_else(|| std::io::Error::other("no process"));
            supervisor::bury_soon(shared, &row, EndOfLife::NeverStarted { reason: source.to_string() }).await;
            return Err(SpawnError::Process { name, program: shared.program.clone(), source });
        }
    };
    let (started, pid) = (pod.clone(), leader.pid());
    tokio::spawn(supervisor::supervise(shared.clone(), row, leader, stop));
    let recorded = shared.commit(move |tx| tx.child_started(&started, pid)).await;
    // Whoever stops all children does so after the phase is set: it sees this one, or this sees the phase.
    // The same holds for whoever gives it up, and looks then which life was begun.
    let unwanted = *shared.phase.borrow() == PodState::Stopping || spawn.wish.is_given_up();
    let stop = Stop { now: true, grace: Duration::from_secs(5) };
    if unwanted && !spawn.wish.is_given_up() && spawn.again.is_some() && spawn.lifetime == Lifetime::Detached {
        // This pod stops, and this one is none of what stops with it: its next life starts it again.
        shared.registry.give_up(&pod, stop);
    } else if unwanted {
        shared.registry.stop(&pod, stop);
    } else if recorded.is_err() {
        // Nobody has meant it to end: its policy decides what follows.
        shared.registry.give_up(&pod, stop);
    }
    recorded?;
    Ok(pod)
}

/// What became of a reservation.
enum Begun {
    Reserved(Box<ChildRow>),
    NameTaken(PodId),
    TooMany,
    /// Somebody has given it up.
    NotWanted,
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

fn terminal_in_words(terminal: &Terminal) -> String {
    match terminal {
        Terminal::ShutDown => "it shut down".into(),
        Terminal::Lost { reason } => reason.to_string(),
        Terminal::NeverStarted { reason } => format!("it never started: {reason}"),
    }
}

/// What `ready` resolves to, if it does within `limit` of awake time: a process that is halted, and goes on, finds all its timers
/// due at once, and has waited for nobody.
async fn within_awake<T>(limit: Duration, ready: impl Future<Output = T>) -> Option<T> {
    let mut ready = std::pin::pin!(ready);
    let mut waited = Duration::ZERO;
    while waited < limit {
        // CANCEL SAFETY: the future keeps its state, and waiting changes nothing.
        tokio::select! {
            biased;
            done = &mut ready => return Some(done),
            // However long it took.
            () = tokio::time::sleep(BEAT) => waited += BEAT,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_in_which_this_process_is_halted_is_not_waited() {
        let limit = Duration::from_secs(30);
        assert_eq!(within_awake(limit, std::future::pending::<()>()).await, None);
        let (ready, told) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn(within_awake(limit, told));
        tokio::task::yield_now().await;
        // As it is after a halt: much time has passed at once, and only then the child is heard.
        tokio::time::advance(limit * 2).await;
        tokio::task::yield_now().await;
        ready.send(()).unwrap();
        assert_eq!(waiting.await.unwrap(), Some(Ok(())), "its child was given up");
    }
}
