//! One life of a child, from the fork to its terminal event.
//!
//! The row is committed before the fork. Death is the pidfd's word for our own children and the life lock's for those
//! of an earlier life of ours; then what the dead child had committed is read from its store and applied, and only then
//! its terminal event is set. Reading the store makes draining its connection unnecessary: what was sent and not
//! committed here stands there too, and what was committed here is a duplicate.
//!
//! One task a child; started by `handle`, ended by the child's death.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::Instant;

use super::process::{BACKGROUND_VARIABLE, LIFE_VARIABLE, Leader, life_of, watch_death};
use super::registry::{ChildPhase, Stop, has_ended};
use super::restart::{Decision, Over, decide};
use crate::admission::{PROC, process};
use crate::error::in_one_line;
use crate::event::{ChildEnd, settle_dead_child_and};
use crate::handle::{PodHandle, Shared, SpawnError, SpawnPod};
use crate::id::PodId;
use crate::life_lock::{self, Holder, Life, LifeLock};
use crate::protocol::{LostReason, Method, PodState, Shutdown, ShutdownMode};
use crate::store::{ChildRow, ChildState, Durability, EndOfLife, Lifetime, StoreError, Terminal, Tx, UnixMillis};

/// The variable by which a child learns what it is.
pub(crate) const CHILD_VARIABLE: &str = "POD_CHILD";

/// Between SIGTERM and SIGKILL. LIMIT: longer than a child may wait for its last ack (5 s).
const TERM_GRACE: Duration = Duration::from_secs(7);
/// How often the life lock of a child that is not ours to wait for is looked at. LIMIT: nothing tells when a lock is freed,
/// short of waiting for it with a thread; a look is one system call.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// Between two looks at the life lock of a process whose descriptor says that it is dead: the lock goes with its last thread.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// Between two attempts at a store that cannot be written. LIMIT: a full disk is no better in less.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// LIMIT: the longest pause between two attempts: what has become possible is noticed within it.
const RETRY_MAX: Duration = Duration::from_secs(4);
/// How long a pod that stops tries to commit the end of a child. Its next life finds the child dead, and tries again.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// LIMIT: how often a restart that is refused is tried again: some ten minutes of what passes, a full tree or a name whose last
/// programs are dying, say.
const REFUSED_MAX: u32 = 64;
/// LIMIT: the longest pause between two such attempts.
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// What a child is told by its environment; everything else stands in its parent's store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChildConfig {
    pub(crate) pod: PodId,
    pub(crate) parent: PodId,
    pub(crate) parent_pid: u32,
    pub(crate) parent_socket: PathBuf,
    pub(crate) parent_store: PathBuf,
    pub(crate) durability: Durability,
}

/// What is to be started for `row`. Its standard output and error go to a file of its own, which is opened here.
#[expect(clippy::disallowed_methods, reason = "one of the two places that start programs")]
pub(super) fn prepare(shared: &Shared, row: &ChildRow, stderr: &Path) -> std::io::Result<Command> {
    let config = ChildConfig {
        pod: row.pod.clone(),
        parent: shared.id.clone(),
        parent_pid: std::process::id(),
        parent_socket: shared.paths.socket(),
        parent_store: shared.paths.store(),
        durability: shared.durability,
    };
    let log = super::stderr::open_for(stderr, &row.pod)?;
    let mut command = Command::new(&shared.program);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        // This pod may have been started by a program of another one: its children are not that one's programs.
        .env_remove(LIFE_VARIABLE)
        .env_remove(BACKGROUND_VARIABLE)
        .env(CHILD_VARIABLE, serde_json::to_string(&config)?);
    if let Some((name, dir)) = shared.roots.variable() {
        command.env(name, dir);
    }
    Ok(command)
}

/// Starts the process of `row`.
pub(super) fn start(command: &mut Command, row: &ChildRow) -> std::io::Result<Leader> {
    Leader::new(super::reaper::start(command, Some(row.pod.incarnation))?)
}

/// Follows a child that we started to the end of its life.
pub(crate) async fn supervise(shared: Shared, row: ChildRow, leader: Leader, mut stop: watch::Receiver<Option<Stop>>) {
    let pod = row.pod.clone();
    // CANCEL SAFETY: `exited`, `changed` and `stopped` may be dropped and called again.
    let asked = tokio::select! {
        () = leader.exited() => None,
        asked = asked_to_stop(&mut stop) => Some(asked),
        // It is detached, in a process that goes on: a next life of this pod finds it.
        () = shared.stopped() => return,
    };
    if let Some(asked) = asked {
        end(&shared, &row, &leader, asked, &mut stop).await;
    }
    leader.exited().await;
    // From here on its number may be given to another process: whoever speaks under it is not this child.
    shared.registry.reaped(&pod);
    let reason = match leader.reap_group().await {
        Ok(status) => lost_reason(status),
        Err(error) => {
            tracing::error!(%pod, %error, "a dead child could not be reaped");
            LostReason::Unobserved
        }
    };
    shared.ends.end_programs(&pod, &shared.roots).await;
    bury(&shared, &row, EndOfLife::Dead(reason), None).await;
}

/// Follows a child that an earlier life of ours had started. A tied one ends by itself; a detached one lives on, and reports to
/// us again. Nobody tells how it ends: its exit status is unobserved, and said to be.
pub(crate) async fn supervise_adopted(shared: Shared, row: ChildRow, mut stop: watch::Receiver<Option<Stop>>) {
    let lock = shared.roots.pod(&row.pod.name).life_lock();
    let mut asked: Option<(Stop, Instant)> = None;
    let mut alive: Option<Arc<AsyncFd<OwnedFd>>> = None;
    let mut sent = None;
    // Held until the end of its life is committed: a process of that life that is only just beginning finds it taken, and ends.
    let proof = loop {
        match life_lock::probe(&lock) {
            Ok(Life::Free) => match LifeLock::seize(&lock) {
                Ok(proof) => break proof,
                Err(error) => {
                    tracing::info!(pod = %row.pod, %error, "the life lock of a child was taken in the last moment")
                }
            },
            // Another life of that name: the one that we look for is over.
            Ok(Life::Held(holder)) if holder.pod.as_ref().is_some_and(|held| *held != row.pod) => break None,
            Ok(Life::Held(holder)) if alive.is_none() => alive = identify(&shared, &row, &lock, &holder).await,
            Ok(Life::Held(_)) => {}
            Err(error) => tracing::warn!(pod = %row.pod, %error, "the life lock of a child cannot be looked at"),
        }
        let stopping = *stop.borrow_and_update();
        if let Some(stop) = stopping.filter(|stop| asked.is_none_or(|(told, _)| stop.now && !told.now)) {
            asked = Some((stop, asked.map_or_else(Instant::now, |(_, since)| since)));
            shared.registry.phase(&row.pod, ChildPhase::Stopping);
            ask(&row, stop).await;
        }
        if let (Some((stop, since)), Some(pidfd)) = (asked, &alive) {
            let late = since.elapsed().checked_sub(stop.grace);
            let due = late.map(|late| if late > TERM_GRACE { Signal::KILL } else { Signal::TERM });
            if due.is_some() && due != sent {
                tracing::warn!(pod = %row.pod, signal = ?due, "a child of an earlier life did not end in time, and is signalled");
                // By its descriptor: a number that was only read somewhere is never signalled.
                due.into_iter().for_each(|signal| _ = pidfd_send_signal(pidfd.get_ref(), signal));
                sent = due;
            }
        }
        let out_of_time = asked.is_some_and(|(stop, since)| since.elapsed() > stop.grace + TERM_GRACE * 2);
        if out_of_time && *shared.phase.borrow() == PodState::Stopping {
            tracing::error!(pod = %row.pod, "a child of an earlier life does not end, and is left to the next one");
            shared.registry.leave(&row.pod);
            return shared.child_ended().await;
        }
        // CANCEL SAFETY: each may be dropped and called again.
        match &alive {
            Some(pidfd) if asked.is_none() => tokio::select! {
                _ = pidfd.readable() => tokio::time::sleep(BETWEEN_LOOKS).await,
                changed = stop.changed() => if changed.is_err() { return },
                () = shared.stopped() => return,
            },
            _ if *shared.done.borrow() => return,
            _ => tokio::time::sleep(PROBE_EVERY).await,
        }
    };
    shared.ends.end_programs(&row.pod, &shared.roots).await;
    bury(&shared, &row, EndOfLife::Dead(LostReason::Unobserved), proof).await;
}

/// A descriptor of the process that is the life `row.pod`, which holds its life lock. That lock says a number only, of whoever held it
/// last: who holds it now may be one that has yet to be its program, or somebody who mends what a dead one has left. So the process
/// of that number is this life's only if it began when that life said that its process did, or bears its mark.
async fn identify(shared: &Shared, row: &ChildRow, lock: &Path, holder: &Holder) -> Option<Arc<AsyncFd<OwnedFd>>> {
    let pod = &row.pod;
    let pid = holder.pid.filter(|_| holder.pod.as_ref() == Some(pod))?;
    let number = Pid::from_raw(pid.cast_signed())?;
    let alive = Arc::new(watch_death(number).ok()?);
    // Looked at now that the descriptor says who is meant, and before that is asked whether it lives: the number was its own then.
    let is_it = match shared.member.process_of(pod).await {
        Ok(Some(said)) => {
            said.pid == number.as_raw_nonzero().get()
                && process(Path::new(PROC), said.pid).is_ok_and(|now| now == Some(said))
        }
        // It could not be registered, or the registry is another one than before.
        Ok(None) | Err(_) => {
            let (life, roots) = (pod.incarnation, shared.roots.clone());
            let marked =
                tokio::task::spawn_blocking(move || life_of(number.as_raw_nonzero().get(), &roots) == Some(life));
            marked.await.unwrap_or(false)
        }
    };
    let still = || matches!(life_lock::probe(lock), Ok(Life::Held(now)) if now == *holder);
    if !is_it || !still() || has_ended(&alive) {
        return None;
    }
    shared.registry.identified(pod, pid, &alive);
    if row.state == ChildState::Ready {
        // It takes work; that it is heard again is not waited for.
        shared.registry.phase(pod, ChildPhase::Ready);
    }
    Some(alive)
}

async fn asked_to_stop(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    loop {
        if let Some(asked) = *stop.borrow_and_update() {
            return asked;
        }
        if stop.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Ends a living child: the method first, then its group is signalled.
async fn end(shared: &Shared, row: &ChildRow, leader: &Leader, asked: Stop, stop: &mut watch::Receiver<Option<Stop>>) {
    shared.registry.phase(&row.pod, ChildPhase::Stopping);
    let started = Instant::now();
    let mut current = asked;
    let mut asking = std::pin::pin!(ask(row, asked));
    let mut answered = false;
    loop {
        let until = started + current.grace;
        tokio::select! {
            () = leader.exited() => return,
            told = &mut asking, if !answered => {
                answered = true;
                // It does not listen yet, or no more: to wait for an answer would be in vain.
                if !told {
                    break;
                }
            }
            later = hastened(stop, current) => {
                if later.now && !current.now {
                    ask(row, later).await;
                }
                current = later;
            }
            () = tokio::time::sleep_until(until) => break,
        }
    }
    tracing::warn!(pod = %row.pod, "a child did not end in time, or cannot be told to, and is signalled");
    leader.signal(Signal::TERM);
    if tokio::time::timeout(TERM_GRACE, leader.exited()).await.is_err() {
        leader.signal(Signal::KILL);
    }
}

async fn hastened(stop: &mut watch::Receiver<Option<Stop>>, current: Stop) -> Stop {
    loop {
        if let Some(later) = (*stop.borrow_and_update()).filter(|later| *later != current) {
            return later;
        }
        if stop.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Tells a child to end. False if it was certainly not told.
async fn ask(row: &ChildRow, stop: Stop) -> bool {
    let client = rpc::Client::<Method>::new(&rpc::Address::unix(&row.socket));
    let mode = if stop.now { ShutdownMode::Now } else { ShutdownMode::Graceful };
    let call =
        client.call(Shutdown { mode }).deadline(stop.grace.clamp(Duration::from_millis(100), Duration::from_secs(5)));
    let told = call.await;
    if let Err(error) = &told {
        // Not ready yet, or dead: the signal or the pidfd settles it.
        tracing::info!(pod = %row.pod, %error, "a child could not be told to shut down");
    }
    !matches!(told, Err(rpc::CallError::NotDelivered(_)))
}

/// What follows from the end of a life.
#[derive(Clone, Debug)]
enum Next {
    /// Nothing.
    Stays,
    /// It stays ended, having been started again too often.
    TooOften,
    /// Its next life begins after a pause.
    Again(Box<ChildRow>, Duration),
}

/// Applies what the dead child had committed, then sets its terminal event; does not give up. `proof` is its life lock, if we
/// had to take it.
async fn bury(shared: &Shared, row: &ChildRow, how: EndOfLife, proof: Option<LifeLock>) {
    let pod = &row.pod;
    let (mut pause, mut stopping_since) = (RETRY_EVERY, None);
    let (end, next) = loop {
        match end_life(shared, row, how.clone()).await {
            Ok(ended) => break ended,
            Err(StoreError::Closed) => return,
            Err(error) => {
                let stopping = *shared.phase.borrow() == PodState::Stopping;
                if stopping && stopping_since.get_or_insert_with(Instant::now).elapsed() > STOP_PATIENCE {
                    tracing::error!(%pod, error = error.chain(), "the end of a child cannot be committed, and is left to the next life of its parent");
                    shared.registry.leave(pod);
                    return shared.child_ended().await;
                }
                tracing::error!(%pod, error = error.chain(), "the end of a child could not be committed; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    };
    // Before anybody is told: whoever hears of the end may take the name.
    drop(proof);
    buried(shared, pod, end, next).await;
}

/// Ends a life that has no process: at once, or, if that cannot be committed, as soon as it can, in a task of its own.
pub(super) async fn bury_soon(shared: &Shared, row: &ChildRow, how: EndOfLife) {
    match end_life(shared, row, how.clone()).await {
        Ok((end, next)) => buried(shared, &row.pod, end, next).await,
        Err(error) => {
            tracing::error!(pod = %row.pod, error = error.chain(), "the end of a child could not be committed; trying again");
            let (shared, row) = (shared.clone(), row.clone());
            tokio::spawn(async move { bury(&shared, &row, how, None).await });
        }
    }
}

/// Commits the end of a life, with what follows from it by the child's policy: whoever dies behind that leaves both, or none.
async fn end_life(shared: &Shared, row: &ChildRow, how: EndOfLife) -> Result<(ChildEnd, Option<Next>), StoreError> {
    let of = shared.clone();
    let follow = move |tx: &Tx<'_>, row: &ChildRow, terminal: &Terminal| what_follows(tx, &of, row, terminal);
    settle_dead_child_and(&shared.store, &row.pod, how, follow).await
}

/// `row` is what was written down last: it may have been detached since it was started; its next life is then, too.
fn what_follows(tx: &Tx<'_>, shared: &Shared, row: &ChildRow, terminal: &Terminal) -> Result<Next, StoreError> {
    let policy = row.restart;
    let (wanted, was_ready) = shared.registry.course(&row.pod);
    // What is tied to this life of ours, or was to an earlier one, ends with that, and is meant to.
    let ends_with_us = shared.started_at_ms > row.at.0 || *shared.phase.borrow() == PodState::Stopping;
    let wanted = wanted || (row.lifetime == Lifetime::Tied && ends_with_us);
    let since = UnixMillis(tx.now().0.saturating_sub(policy.within_ms));
    let restarts = u32::try_from(tx.restarts_since(&row.pod.name, since)?).unwrap_or(u32::MAX);
    let over = Over { terminal, wanted, had_begun: was_ready || row.restarted, restarts };
    Ok(match decide(policy, over) {
        Decision::Stay => Next::Stays,
        Decision::TooOften => {
            tx.restarts_exhausted(&row.pod, policy)?;
            Next::TooOften
        }
        Decision::Again { after } => {
            tx.restart_at(&row.pod, tx.now().plus(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))?;
            Next::Again(Box::new(row.clone()), after)
        }
    })
}

/// The end of a life is committed: whoever has to know is told, and what is left to be done is done.
async fn buried(shared: &Shared, pod: &PodId, end: ChildEnd, next: Option<Next>) {
    tracing::info!(%pod, terminal = ?end.terminal, drained = end.drained, "a child's life is over");
    shared.registry.drained(pod, &end.ends);
    tell_works(shared, pod, &end.terminal).await;
    shared.registry.settled(&end.settled);
    shared.registry.ended(pod, &end.terminal);
    super::carry_out_intents(shared).await;
    shared.look().await;
    shared.child_ended().await;
    match next {
        Some(Next::Again(row, after)) => {
            tracing::info!(%pod, ?after, "a child has ended and is started again");
            tokio::spawn(again(shared.clone(), *row, after));
        }
        Some(Next::TooOften) => tracing::warn!(%pod, "a child has ended again and stays ended"),
        Some(Next::Stays) | None => {}
    }
}

/// Goes on with what an earlier life of ours had left to be started again: detached children. One that was tied to it would have
/// ended with it; our agent is told.
///
/// # Errors
/// If the store cannot be read or written.
pub(crate) async fn start_what_was_due(shared: &Shared) -> Result<(), StoreError> {
    let due = shared.store.read(|reads| {
        let due = reads.restarts_due()?.into_iter();
        let rows = due.map(|(dead, at)| Ok((reads.child(&dead)?, dead, at.0.saturating_sub(reads.now().0))));
        rows.collect::<Result<Vec<_>, StoreError>>()
    });
    for (row, dead, wait_ms) in due.await? {
        match row {
            Some(row) if row.lifetime == Lifetime::Detached => {
                // A clock that was set makes nobody wait for ever.
                tokio::spawn(again(shared.clone(), row, Duration::from_millis(wait_ms).min(AGAIN_MAX)));
            }
            // Nobody listens to what a commit tells yet; whoever begins to looks first.
            _ => shared.store.write(move |tx| tx.restart_ended_with_us(&dead)).await?,
        }
    }
    Ok(())
}

/// Starts the next life of a child, after a pause, if it is still to be. Its last one has its terminal event, and its open works are
/// lost with it.
fn again(shared: Shared, row: ChildRow, after: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    // Boxed: a start that fails is followed by the next one.
    Box::pin(async move {
        let (mut pause, mut why) = (after, String::new());
        for _ in 0..REFUSED_MAX {
            // CANCEL SAFETY: waiting changes nothing. A next life of this pod goes on with it.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shared.stopped() => return,
            }
            let dead = row.pod.clone();
            // Looked at again where it is reserved: here nobody is to wait for a name that has been taken for good.
            if matches!(shared.store.read(move |reads| reads.is_restart_due(&dead)).await, Ok(false)) {
                return;
            }
            match PodHandle::new(shared.clone()).spawn_pod(SpawnPod::again(&row)).await {
                Ok(_) => return,
                // Somebody has begun one, or has stopped it; or its own end has been seen to, and has decided what follows.
                Err(
                    SpawnError::GivenUp { .. }
                    | SpawnError::DiedEarly { .. }
                    | SpawnError::NotReady { .. }
                    | SpawnError::Process { .. },
                ) => return,
                Err(SpawnError::Stopping { .. }) => return end_with_us(&shared, &row).await,
                Err(error) => {
                    why = in_one_line(&error);
                    if matches!(error, SpawnError::Worker { .. } | SpawnError::NotOurs { .. }) {
                        tracing::error!(pod = %row.pod, why, "a child that has ended cannot be started again");
                        break;
                    }
                    // A program of its last life is still dying, a bound is reached, a file is busy: that passes.
                    tracing::warn!(pod = %row.pod, why, "a child is not started again yet");
                }
            }
            pause = (pause * 2).min(AGAIN_MAX);
        }
        stays_ended(&shared, &row, why).await;
    })
}

/// This pod ends. What is tied to it does, too; what is not, its next life starts again.
async fn end_with_us(shared: &Shared, row: &ChildRow) {
    if row.lifetime == Lifetime::Tied {
        let dead = row.pod.clone();
        let forego = move |tx: &Tx<'_>| match tx.is_restart_due(&dead)? {
            true => tx.forego_restart(&dead.name).map(drop),
            false => Ok(()),
        };
        // If that is not committed its next life tells its agent.
        let _ = shared.store.write(forego).await;
    }
}

/// It is not started again, and this pod's agent is told; unless somebody has decided otherwise meanwhile.
async fn stays_ended(shared: &Shared, row: &ChildRow, why: String) {
    let child = row.pod.clone();
    if let Err(error) = shared.commit(move |tx| tx.restart_impossible(&child, &why)).await {
        tracing::error!(pod = %row.pod, error = error.chain(), "that a child stays ended cannot be recorded");
    }
}

/// Those who wait for a work that the dead child had learn what its store and its end say.
pub(crate) async fn tell_works(shared: &Shared, pod: &PodId, terminal: &Terminal) {
    let dead = pod.clone();
    let works = shared.store.read(move |reads| reads.works_of(&dead)).await.unwrap_or_default();
    for work in works {
        if let Some(result) = work.result {
            shared.registry.work_lost(work.work, terminal, result);
            shared.registry.settled(&[(work.work, result)]);
        }
    }
}

fn lost_reason(status: ExitStatus) -> LostReason {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => LostReason::Exited { code },
        (None, Some(signal)) => LostReason::Killed { signal },
        (None, None) => LostReason::Unobserved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Puppet;
    use crate::registry::{Claim, Origin};
    use crate::scope::Rules;
    use crate::store::fixture::{self, new_child};

    /// Killed when it is dropped.
    struct Sleeper(std::process::Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    #[expect(clippy::disallowed_methods, reason = "a process whose number stands in a life lock")]
    async fn process_whose_number_stands_in_a_life_lock_is_that_life_only_if_it_is_the_one_that_said_so() {
        let puppet = Puppet::new().await;
        let shared = puppet.pod.shared().clone();
        let pod = fixture::pod("a", 7);
        let reserved = pod.clone();
        shared.commit(move |tx| tx.reserve_child(&new_child(&reserved)).map(drop)).await.unwrap();
        let known = pod.clone();
        let row = shared.store.read(move |reads| reads.child(&known)).await.unwrap().unwrap();
        let Ok(_stop) = shared.registry.add(&row, || Ok::<_, std::convert::Infallible>(None));
        let paths = shared.roots.pod(&pod.name);
        paths.make_state_dir().unwrap();
        let (worker, state_dir) = ("ledger".to_owned(), paths.state_dir().to_owned());
        let origin = Origin::Child { parent: shared.id.clone(), asked: Rules::default() };
        let registry = crate::registry::Registry::at(&shared.roots);
        registry.claim(&Claim { pod: pod.clone(), worker, state_dir, origin }, row.at).unwrap();

        let stranger = Sleeper(std::process::Command::new("sleep").arg("60").spawn().unwrap());
        // Somebody holds the lock, and the word in it is a dead life's, whose number was given to a stranger.
        let lock = paths.life_lock();
        let _held = LifeLock::acquire(&lock, &pod).unwrap();
        let holder = Holder { pid: Some(stranger.0.id()), pod: Some(pod.clone()) };
        std::fs::write(&lock, serde_json::to_string(&holder).unwrap()).unwrap();
        let number = i32::try_from(stranger.0.id()).unwrap();
        let now = process(Path::new(PROC), number).unwrap().unwrap();
        assert!(
            identify(&shared, &row, &lock, &holder).await.is_none(),
            "it has not said which process it is, and bears no mark"
        );
        let earlier = crate::admission::Process { began: now.began.saturating_sub(1), ..now };
        registry.is_process(&pod, earlier).unwrap();
        assert!(identify(&shared, &row, &lock, &holder).await.is_none(), "its process began at another moment");
        assert!(shared.registry.is_unidentified(&pod) && shared.registry.sender(stranger.0.id()).is_none());
        registry.is_process(&pod, now).unwrap();
        assert!(identify(&shared, &row, &lock, &holder).await.is_some());
        assert_eq!(shared.registry.sender(stranger.0.id()), Some(pod.clone()));
        drop(stranger);
        assert_eq!(shared.registry.sender(u32::try_from(number).unwrap()), None, "it has ended");
        assert!(identify(&shared, &row, &lock, &holder).await.is_none());
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod ends_tests;
