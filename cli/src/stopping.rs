//! Ending a tree in order: children first, so that their parent is still there to be told how they ended.
//!
//! Their turns are cancelled, and reported as such. A child that does not end is left to the parent's own shutdown,
//! which signals it. Bounded.
//!
//! Used by `tree`.

use std::time::Duration;

use futures::future::join_all;
use pod::protocol::{PodState, Shutdown, ShutdownMode};
use pod::store::StoreError;
use pod::{ChildStatus, Lifetime, Method, PodHandle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::failure::Failure;
use crate::starting::Starting;

/// LIMIT: how long children may take to end by themselves: cancelling a turn (2 s), a last event (5 s), and some more.
const CHILDREN_MAX: Duration = Duration::from_secs(15);
/// LIMIT: how long the parent may take to be told its last reports. It takes milliseconds; a blocked one takes forever.
pub(crate) const TOLD_MAX: Duration = Duration::from_secs(10);
/// LIMIT: how long a child may take to answer that it stops.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Between two attempts to ask a child that is still starting.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// SIGTERM and Ctrl-C.
#[derive(Debug)]
pub(crate) struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::internal("signals cannot be listened for").because(error));
        Ok(Self { term: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// One that comes while nobody waits is kept.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends the children, those that are still being started included, then the parent.
pub(crate) async fn end(handle: &PodHandle, starting: &Starting) {
    let _ = timeout(CHILDREN_MAX, starting.done()).await;
    let children =
        handle.children().into_iter().filter(|child| child.terminal.is_none() && child.lifetime == Lifetime::Tied);
    let ended = join_all(children.map(|child| end_child(handle, child)));
    let _ = timeout(CHILDREN_MAX, ended).await;
    // A store that is closed belongs to a parent that has ended: nobody is left to be told.
    let _ = timeout(TOLD_MAX, told(handle)).await;
    handle.shutdown().await;
}

/// Tells a child to end until it has. One that is still starting is asked again.
async fn end_child(handle: &PodHandle, child: ChildStatus) {
    // One that is no longer among the lines has ended long ago.
    let has_ended = |lines: &[ChildStatus]| {
        lines.iter().find(|line| line.pod == child.pod).is_none_or(|line| line.terminal.is_some()).then_some(())
    };
    let client = rpc::Client::<Method>::new(&rpc::Address::unix(handle.roots().pod(&child.pod.name).socket()));
    while has_ended(&handle.children()).is_none() {
        if client.call(Shutdown { mode: ShutdownMode::Now }).deadline(ANSWER_MAX).await.is_ok() {
            handle.children_until(has_ended).await;
            return;
        }
        sleep(ASK_EVERY).await;
    }
}

/// Waits until the pod's agent has been told everything, or is blocked, which its history says.
pub(crate) async fn told(handle: &PodHandle) -> Result<(), StoreError> {
    let mut head = handle.store().history_head();
    loop {
        head.mark_unchanged();
        let look = handle.store().read(|reads| Ok((reads.control()?.state, reads.inbox_waiting()?)));
        let (state, waiting) = look.await?;
        let at_rest = matches!(state, PodState::Idle | PodState::Paused) && waiting == 0;
        if at_rest || state == PodState::Blocked {
            return Ok(());
        }
        // The end of a turn stands in the history.
        if head.changed().await.is_err() {
            return Err(StoreError::Closed);
        }
    }
}
