//! Starting the children of a tree, all at once, each with its one work.
//!
//! A task of its own that is never dropped in the middle: a child that was begun is a child that is known. When the
//! tree is to end early it begins nothing more.
//!
//! Used by `tree`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use pod::discovery;
use pod::error::in_one_line;
use pod::id::PodName;
use pod::protocol::PodState;
use pod::runtime_dir::Roots;
use pod::scope::ScopeRule;
use pod::{ChildStatus, Lifetime, PodHandle, Restart, SpawnPod, WorkerSpec};
use tokio::sync::watch;
use tokio::time::{interval, timeout};

/// LIMIT: how long children that a killed life of the parent has left behind may take to end.
const GONE_MAX: Duration = Duration::from_secs(30);
/// LIMIT: how long a child may take to rest before it is given its work, and to say that it does.
const AT_REST_MAX: Duration = Duration::from_secs(10);
/// How often a child is asked whether it rests.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A child, what it hosts, and its one work.
#[derive(Clone, Debug)]
pub(crate) struct PlannedChild {
    pub(crate) name: PodName,
    pub(crate) worker: WorkerSpec,
    pub(crate) input: String,
    /// What it is given of its parent's scope.
    pub(crate) scope: Vec<ScopeRule>,
    pub(crate) lifetime: Lifetime,
    pub(crate) restart: Restart,
}

/// Children that are being started.
#[derive(Debug)]
pub(crate) struct Starting {
    troubles: watch::Receiver<Option<Vec<String>>>,
    ceased: Arc<AtomicBool>,
}

impl Starting {
    /// Begins. Must be called within a runtime.
    pub(crate) fn begin(children: &[PlannedChild], handle: &PodHandle) -> Self {
        let (done, troubles) = watch::channel(None);
        let ceased = Arc::new(AtomicBool::new(false));
        let (children, handle, flag) = (children.to_vec(), handle.clone(), Arc::clone(&ceased));
        tokio::spawn(async move {
            let troubles = start(&children, &handle, &flag).await;
            done.send_replace(Some(troubles));
        });
        Self { troubles, ceased }
    }

    /// Waits until all are started, and have their work. Returns what could not be, and why.
    ///
    /// # Cancel safety
    /// It may be dropped and called again.
    pub(crate) async fn done(&self) -> Vec<String> {
        let mut troubles = self.troubles.clone();
        let found = troubles.wait_for(Option::is_some).await;
        found.ok().and_then(|troubles| troubles.clone()).unwrap_or_default()
    }

    /// Begins nothing more.
    pub(crate) fn cease(&self) {
        self.ceased.store(true, Ordering::SeqCst);
    }
}

async fn start(children: &[PlannedChild], handle: &PodHandle, ceased: &AtomicBool) -> Vec<String> {
    // Children that a killed life of this parent left behind end by themselves; their names are free then.
    let gone = |line: &ChildStatus| line.terminal.is_some() || line.lifetime == Lifetime::Detached;
    let _ = timeout(GONE_MAX, handle.children_until(|lines| lines.iter().all(gone).then_some(()))).await;
    let started = join_all(children.iter().map(|child| start_child(child, handle, ceased)));
    started.await.into_iter().filter_map(Result::err).collect()
}

async fn start_child(planned: &PlannedChild, handle: &PodHandle, ceased: &AtomicBool) -> Result<(), String> {
    let name = &planned.name;
    let not_begun = || format!("child `{name}` was given no work");
    if ceased.load(Ordering::SeqCst) {
        return Err(not_begun());
    }
    let spawn = SpawnPod::new(name.clone(), planned.worker.clone()).scope(planned.scope.clone());
    let spawn = spawn.lifetime(planned.lifetime).restart(planned.restart);
    let child = handle.spawn_pod(spawn).await.map_err(|error| in_one_line(&error))?;
    // It may have something to be told from an earlier life, and takes no work while a turn runs.
    let _ = timeout(AT_REST_MAX, at_rest(handle.roots(), name)).await;
    if ceased.load(Ordering::SeqCst) {
        return Err(not_begun());
    }
    let given = child.run(planned.input.as_str()).await;
    given.map(|_| ()).map_err(|error| format!("child `{name}`: {}", in_one_line(&error)))
}

/// Waits until no turn of the pod runs. One that does not answer is left to whoever gives it work.
async fn at_rest(roots: &Roots, name: &PodName) {
    let mut ticks = interval(ASK_EVERY);
    loop {
        ticks.tick().await;
        match discovery::status(roots, name, AT_REST_MAX).await {
            Ok(status) if status.state == PodState::Running => {}
            _ => return,
        }
    }
}
