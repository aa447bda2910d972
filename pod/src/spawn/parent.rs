//! A child's side of the edge: saying that it is there, and what becomes of it when its parent dies.
//!
//! A tied child ends in good order, and keeps its last words for the parent's next life. A detached one goes on, keeps its
//! events, and says again that it is there when a next life of its parent holds the parent's life lock. That a parent
//! is dead is the pidfd's word; silence is no death, and a parent that is halted is waited for.
//!
//! One task a child, begun by `start`; `worker::host` opens the first pidfd.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rpc::{Address, CallError};
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::process::watch_death;
use super::supervisor::ChildConfig;
use crate::event::Edge;
use crate::handle::{PodHandle, Shared};
use crate::id::{Incarnation, PodId};
use crate::life_lock::{self, Life};
use crate::protocol::{ChildReady, ChildRejection, Method, ShutdownMode, Text};
use crate::signals::Signals;
use crate::store::{Lifetime, Meeting, StoreReader};

/// How long a parent may take to take a child up before it is asked again.
const READY_CALL: Duration = Duration::from_secs(20);
/// Between two attempts to be taken up by a parent that lives. LIMIT: longer than a dead parent's pidfd needs to say so, and
/// nothing beside the start of a process.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How often a detached child looks whether its parent is back. LIMIT: nothing tells when a lock is taken; a look is two
/// system calls, and a parent that is back has waited for half a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// At every how manieth look the store of the parent is read. LIMIT: opening it takes a millisecond.
const LOOKS_PER_READ: u32 = 4;

/// Who a pod reports to. Clones of the sender are the same.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    link: watch::Sender<Link>,
    /// Whether this pod ends with it.
    lifetime: watch::Sender<Lifetime>,
}

/// Who that is now.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) pod: PodId,
    /// Its process, as long as that lives.
    pub(crate) pid: Option<u32>,
    pub(crate) socket: PathBuf,
    pub(crate) store: PathBuf,
}

/// Whether a child may begin.
#[derive(Debug)]
enum Word {
    /// The parent has taken it up.
    Go,
    /// The parent died, or stops, before it could.
    NoParent,
    /// It is to end before the parent could: that may be halted.
    ToldToEnd,
}

impl Parent {
    pub(crate) fn new(config: &ChildConfig, lifetime: Lifetime) -> Self {
        let link = Link {
            pod: config.parent.clone(),
            pid: Some(config.parent_pid),
            socket: config.parent_socket.clone(),
            store: config.parent_store.clone(),
        };
        Self { link: watch::Sender::new(link), lifetime: watch::Sender::new(lifetime) }
    }

    pub(crate) fn link(&self) -> Link {
        self.link.borrow().clone()
    }

    /// Whether this pod ends with its parent.
    pub(crate) fn lifetime(&self) -> Lifetime {
        *self.lifetime.borrow()
    }

    /// From here on it does not.
    pub(crate) fn detach(&self) {
        self.lifetime.send_replace(Lifetime::Detached);
    }

    /// The edge that leads to whoever is the parent then.
    pub(crate) fn edge(&self) -> Edge {
        let link = self.link.subscribe();
        Edge::read_by(move || Some(Address::unix(&link.borrow().socket)))
    }

    fn died(&self) {
        self.link.send_modify(|link| link.pid = None);
    }
}

/// Is taken up by the parent, begins to report, and sees to what follows from the parent's death. `alive` is the parent's
/// pidfd; none, if it was dead when this process began. A signal that asks this pod to end before it is taken up is heard: it ends
/// as one without a parent does.
///
/// # Errors
/// Why this life is not wanted: it must then end at once.
pub(crate) async fn begin(
    handle: &PodHandle,
    parent: &Parent,
    alive: Option<AsyncFd<OwnedFd>>,
    signals: &mut Signals,
) -> Result<(), String> {
    let shared = handle.shared();
    // CANCEL SAFETY: what was said may be said again, and a pod that ends says nothing more; a signal that is not waited for is kept.
    let word = match &alive {
        Some(pidfd) => tokio::select! {
            word = be_taken_up(shared, parent, pidfd) => word?,
            () = signals.next(true) => Word::ToldToEnd,
        },
        None => Word::NoParent,
    };
    if !matches!(word, Word::Go) {
        expected(shared, parent)?;
        shared.store.write(|tx| tx.forego_meeting()).await.map_err(|error| error.chain())?;
        if parent.lifetime() == Lifetime::Tied || matches!(word, Word::ToldToEnd) {
            handle.request_stop(ShutdownMode::Now);
        }
    }
    shared.reporter.start();
    tokio::spawn(follow(handle.clone(), parent.clone(), alive));
    Ok(())
}

/// Says that this child is ready until the parent has taken it up, or is dead.
async fn be_taken_up(shared: &Shared, parent: &Parent, alive: &AsyncFd<OwnedFd>) -> Result<Word, String> {
    loop {
        // CANCEL SAFETY: what was said is said once more, to whoever it is then; saying it twice changes nothing.
        let said = tokio::select! {
            said = say_ready(shared, parent) => said,
            _ = alive.readable() => return Ok(Word::NoParent),
        };
        match said {
            Ok(()) => return Ok(Word::Go),
            Err(CallError::Rejected(ChildRejection::Stopping)) => return Ok(Word::NoParent),
            Err(CallError::Rejected(ChildRejection::Unavailable { .. })) => {}
            Err(CallError::Rejected(rejection)) => return Err(rejection.to_string()),
            Err(error) => tracing::info!(pod = %shared.id, %error, "the parent has not taken this pod up yet"),
        }
        // CANCEL SAFETY: waiting changes nothing.
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            _ = alive.readable() => return Ok(Word::NoParent),
        }
    }
}

/// Tells the parent that we are there, and takes out of the outbox what it has.
///
/// # Errors
/// What became of the call; `Unavailable` also if our own store could not take its answer.
async fn say_ready(shared: &Shared, parent: &Parent) -> Result<(), CallError<ChildReady>> {
    let client = rpc::Client::<Method>::new(&Address::unix(&parent.link().socket));
    let request = ChildReady {
        pod: shared.id.clone(),
        stream: shared.store.stream(),
        pid: std::process::id(),
        socket: Text::clipped(shared.paths.socket().to_string_lossy()),
        detached: parent.lifetime() == Lifetime::Detached,
    };
    let go = client.call(request).deadline(READY_CALL).await?;
    match shared.store.write(move |tx| tx.meet_parent(go.watermark)).await {
        Ok(Meeting::Agreed) => {}
        Ok(met) => {
            tracing::error!(pod = %shared.id, ?met, parent = %go.watermark, "one of the two stores is an older copy");
        }
        // Nothing may be offered that the parent could take for something else: we say once more that we are there.
        Err(error) => {
            let reason = Text::clipped(error.chain());
            return Err(CallError::Rejected(ChildRejection::Unavailable { reason }));
        }
    }
    Ok(())
}

/// Whether a parent that is dead, or cannot take us up, has still expected this life. Our life lock is held: nobody buries us from
/// here on.
fn expected(shared: &Shared, parent: &Parent) -> Result<(), String> {
    let link = parent.link();
    let row = StoreReader::open(&link.store).and_then(|reader| reader.look(|reads| reads.child(&shared.id)));
    match row {
        Ok(Some(row)) if row.terminal.is_none() => Ok(()),
        Ok(_) => Err(format!("parent {} does not expect pod {} any more", link.pod, shared.id)),
        // That it cannot be asked takes nothing from what it has wanted.
        Err(error) => {
            tracing::warn!(pod = %shared.id, error = error.chain(), "the store of the parent cannot be read");
            Ok(())
        }
    }
}

/// Waits for the parent's death, and does what the child's lifetime says.
async fn follow(handle: PodHandle, parent: Parent, mut alive: Option<AsyncFd<OwnedFd>>) {
    let mut lifetime = parent.lifetime.subscribe();
    loop {
        let tied = *lifetime.borrow_and_update() == Lifetime::Tied;
        let present = parent.link().pod;
        if let Some(pidfd) = &alive {
            // CANCEL SAFETY: waiting changes nothing.
            tokio::select! {
                _ = pidfd.readable() => {}
                () = unlocked(handle.shared(), &present), if !tied => {}
                // It is waited for in another way.
                Ok(()) = lifetime.changed() => continue,
                () = handle.wait() => return,
            }
        }
        parent.died();
        let dead = parent.link().pod;
        if parent.lifetime() == Lifetime::Tied {
            tracing::warn!(pod = %handle.id(), parent = %dead, "the parent has died; so do we, after what we have to tell is kept");
            return handle.request_stop(ShutdownMode::Now);
        }
        tracing::warn!(pod = %handle.id(), parent = %dead, "the parent has died; this pod goes on, and keeps what it has to tell");
        // CANCEL SAFETY: nothing is begun that the pod's end would leave half done.
        alive = tokio::select! {
            found = next_parent(handle.shared(), &parent) => Some(found),
            () = handle.wait() => return,
        };
    }
}

/// Waits until a pod's life lock is not that life's any more: its program may go on without it.
async fn unlocked(shared: &Shared, pod: &PodId) {
    let lock = shared.roots.pod(&pod.name).life_lock();
    loop {
        tokio::time::sleep(LOOK_EVERY * LOOKS_PER_READ).await;
        match life_lock::probe(&lock) {
            Ok(Life::Held(holder)) if holder.pod.as_ref().is_none_or(|held| held == pod) => {}
            // That it cannot be looked at is no death.
            Err(_) => {}
            Ok(_) => return,
        }
    }
}

/// Waits until a next life of the parent has taken this pod up.
async fn next_parent(shared: &Shared, parent: &Parent) -> AsyncFd<OwnedFd> {
    let mut looks = 0_u32;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        looks += 1;
        if looks.is_multiple_of(LOOKS_PER_READ) {
            see_whether_moved(shared, parent).await;
        }
        let Some((pod, pid, alive)) = living(shared, &parent.link().pod) else { continue };
        match be_taken_up(shared, parent, &alive).await {
            Ok(Word::Go) => {
                tracing::info!(pod = %shared.id, parent = %pod, "the parent is back");
                parent.link.send_modify(|link| (link.pod, link.pid) = (pod, Some(pid)));
                // Its tree has another root, and perhaps other bounds.
                if let Err(error) = shared.member.look_again().await {
                    tracing::warn!(pod = %shared.id, %error, "the bounds of the tree cannot be looked at; they are with the next turn");
                }
                return alive;
            }
            Ok(Word::NoParent | Word::ToldToEnd) => {}
            Err(why) => tracing::info!(pod = %shared.id, parent = %pod, why, "the parent does not take this pod up"),
        }
    }
}

/// Whether another pod has adopted this one: the old parent's store says so, in a transaction under the old parent's life lock.
/// Nobody's word is needed.
async fn see_whether_moved(shared: &Shared, parent: &Parent) {
    let (link, own) = (parent.link(), shared.id.clone());
    let read = tokio::task::spawn_blocking(move || {
        StoreReader::open(&link.store).and_then(|reader| reader.look(|reads| reads.child(&own)))
    });
    let Ok(Ok(Some(row))) = read.await else { return };
    let Some(to) = row.moved_to else { return };
    let name = to.clone();
    if let Err(error) = shared.store.write(move |tx| tx.move_to(&name)).await {
        tracing::warn!(pod = %shared.id, error = error.chain(), "whose child this is now cannot be recorded; it is read again");
        return;
    }
    let paths = shared.roots.pod(&to);
    tracing::info!(pod = %shared.id, parent = %to, "this pod was adopted");
    parent.link.send_modify(|link| {
        // Which life it is says its life lock, when it lives.
        *link = Link { pod: PodId::new(to, Incarnation(0)), pid: None, socket: paths.socket(), store: paths.store() };
    });
}

/// The life that has the name of `parent` now, and a descriptor of its process. None while there is none, or only an adopter
/// that holds the lock in the name's stead.
fn living(shared: &Shared, parent: &PodId) -> Option<(PodId, u32, AsyncFd<OwnedFd>)> {
    let lock = shared.roots.pod(&parent.name).life_lock();
    let held = || match life_lock::probe(&lock) {
        Ok(Life::Held(holder)) => holder.pod.filter(|pod| pod.name == parent.name).zip(holder.pid),
        _ => None,
    };
    let (pod, pid) = held()?;
    let alive = watch_death(Pid::from_raw(pid.cast_signed())?).ok()?;
    // Looked at again, now that the descriptor says who is meant: the number may have been another's.
    (held()? == (pod.clone(), pid)).then_some((pod, pid, alive))
}
