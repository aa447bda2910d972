//! Driving a parent and its children: started, given one work each, waited for, stopped.
//!
//! Decides nothing about how it went: that is read from the parent's committed history afterwards. Bounded everywhere:
//! whatever does not end in time is stopped, and what is stopped is killed in the end by the runtime.
//!
//! Used by `pod run` and `pod demo`, which differ in what they start and in what they expect.

use std::time::Duration;

use pod::id::PodName;
use pod::manifest::Limits;
use pod::protocol::ShutdownMode;
use pod::runtime_dir::{PodPaths, Roots};
use pod::scope::{Confinement, ScopeRule};
use pod::store::{HistoryItem, StoreError};
use pod::{ChildStatus, Durability, PodController, PodHandle, PodOptions, StartError, WorkerSpec, Workers};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::live::Live;
use crate::output::Output;
use crate::results;
use crate::starting::{PlannedChild, Starting};
use crate::stopping::{self, Signals, TOLD_MAX, told};

/// How often what was committed is looked at and shown.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// LIMIT: how long a tree may take to stop: its children in order (15 s) or by signals (12 s), what they report (10 s).
const STOP_MAX: Duration = Duration::from_secs(60);

/// What is said of a tree that was ended from outside.
const STOPPED: &str = "it was stopped before all work was settled";

/// A parent, and what its children are to do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: PodName,
    pub(crate) worker: WorkerSpec,
    pub(crate) durability: Durability,
    pub(crate) limits: Limits,
    /// What the parent may use; what its user may, without a rule.
    pub(crate) scope: Vec<ScopeRule>,
    pub(crate) confinement: Confinement,
    pub(crate) children: Vec<PlannedChild>,
    /// The child that is killed with SIGKILL as soon as it has committed some output.
    pub(crate) victim: Option<PodName>,
    pub(crate) timeout: Option<Duration>,
    /// Whether the pods stay when all is settled.
    pub(crate) keep: bool,
}

/// How a tree ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// What the parent has committed.
    pub(crate) follower: Follower,
    /// What this process saw of the children; only what no history says is used of it.
    pub(crate) seen: Vec<ChildStatus>,
    /// What could not be started or given, and why, and whether there was time enough.
    pub(crate) troubles: Vec<String>,
}

/// Runs `plan` below `roots` to its end.
pub(crate) async fn run(plan: &Plan, roots: &Roots, output: &mut Output) -> Result<Finished, Failure> {
    let paths = roots.pod(&plan.name);
    let options = PodOptions::new(plan.name.clone(), plan.worker.clone())
        .roots(roots.clone())
        .workers(Workers::builtin())
        .owns_process()
        .durability(plan.durability)
        .limits(plan.limits)
        .scope(plan.scope.clone())
        .confinement(plan.confinement);
    let handle = PodController::spawn(options).await.map_err(not_started)?;
    let mut watched = Watched::new(plan, &paths, output)?;
    let starting = Starting::begin(&plan.children, &handle);
    let driven = watched.drive(plan, &handle, &starting, output).await;
    // Whatever happened above: nothing that was started is left behind.
    let stopped = watched.stop(&handle, &starting, output).await;
    let mut troubles = driven?;
    troubles.extend(stopped?);
    watched.look(&handle, output).await?;
    Ok(Finished { follower: watched.follower, seen: handle.children(), troubles })
}

/// A tree while it runs, and what is shown of it.
struct Watched {
    follower: Follower,
    live: Live,
    signals: Signals,
    /// Who is still to be killed.
    victim: Option<PodName>,
}

impl Watched {
    fn new(plan: &Plan, paths: &PodPaths, output: &Output) -> Result<Self, Failure> {
        let mut follower = Follower::open(paths)?;
        // What earlier lives have left is part of the account, but not news.
        follower.catch_up(|_, _| Ok(()))?;
        Ok(Self { follower, live: Live::new(output), signals: Signals::new()?, victim: plan.victim.clone() })
    }

    /// Starts the children and waits until all that was delegated is settled and told.
    async fn drive(
        &mut self,
        plan: &Plan,
        handle: &PodHandle,
        starting: &Starting,
        output: &mut Output,
    ) -> Result<Vec<String>, Failure> {
        let deadline = plan.timeout.map(|timeout| Instant::now() + timeout);
        let mut work = std::pin::pin!(async {
            let troubles = starting.done().await;
            handle.settled().await?;
            // A parent that cannot be told is blocked, and says so in its history.
            let _ = timeout(TOLD_MAX, told(handle)).await;
            Ok::<_, StoreError>(troubles)
        });
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let troubles = loop {
            // CANCEL SAFETY: `work` is pinned outside and goes on; waiting and ticking change nothing, signals are kept.
            tokio::select! {
                done = &mut work => match done {
                    Ok(troubles) => break troubles,
                    Err(StoreError::Closed) => return Ok(vec![STOPPED.to_owned()]),
                    Err(error) => return Err(Failure::internal("the parent's store failed").because(error)),
                },
                () = handle.wait() => return Ok(vec![STOPPED.to_owned()]),
                () = self.signals.next() => return Ok(vec![STOPPED.to_owned()]),
                () = passed(deadline) => {
                    let seconds = plan.timeout.unwrap_or_default().as_secs_f64();
                    return Ok(vec![format!("not all work was settled within {seconds} s")]);
                }
                _ = ticks.tick() => self.look(handle, output).await?,
            }
        };
        if plan.keep {
            self.look(handle, output).await?;
            let found = results::rows(&self.follower.account, &handle.children(), handle.roots());
            results::show(&found.rows, output)?;
            for unknown in found.unknown {
                output.line(format!("- {unknown}"))?;
            }
            output.line(format!("kept; `pod stop {}` or Ctrl-C ends it", plan.name))?;
            // CANCEL SAFETY: waiting changes nothing.
            tokio::select! {
                () = handle.wait() => {}
                () = self.signals.next() => {}
            }
        }
        Ok(troubles)
    }

    /// Ends the tree, and waits until no process of it is left. A signal hastens it.
    async fn stop(
        &mut self,
        handle: &PodHandle,
        starting: &Starting,
        output: &mut Output,
    ) -> Result<Option<String>, Failure> {
        starting.cease();
        let mut stopped = std::pin::pin!(timeout(STOP_MAX, stopping::end(handle, starting)));
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown = Ok(());
        loop {
            // CANCEL SAFETY: `stopped` is pinned outside and goes on; signals are kept.
            tokio::select! {
                done = &mut stopped => {
                    shown?;
                    return Ok(done.err().map(|_| format!("the tree did not stop within {} s", STOP_MAX.as_secs())));
                }
                () = self.signals.next() => handle.request_stop(ShutdownMode::Now),
                // Output that fails does not keep the tree from being stopped.
                _ = ticks.tick(), if shown.is_ok() => shown = self.look(handle, output).await,
            }
        }
    }

    /// Shows what was committed since the last look.
    async fn look(&mut self, handle: &PodHandle, output: &mut Output) -> Result<(), Failure> {
        let Self { follower, live, victim, .. } = self;
        follower.catch_up(|row, _| live.entry(output, row))?;
        live.redraw(output, &follower.account)?;
        if let Some(name) = victim.clone()
            && kill_in_mid_work(handle, &name)?
        {
            *victim = None;
        }
        Ok(())
    }
}

/// Kills the child `name` with SIGKILL if its present life has committed output: then it is in the middle of its work,
/// which goes on after that for as long as anybody waits.
fn kill_in_mid_work(handle: &PodHandle, name: &PodName) -> Result<bool, Failure> {
    let status = handle.children().into_iter().rev().find(|status| status.pod.name == *name);
    let Some(status) = status.filter(|status| status.work.is_some() && status.terminal.is_none()) else {
        return Ok(false);
    };
    let (mut present, mut said) = (false, false);
    // Until its store is there it has said nothing.
    let Ok(mut follower) = Follower::open(&handle.roots().pod(name)) else { return Ok(false) };
    follower.catch_up(|row, _| {
        match &row.item {
            HistoryItem::LifeStarted { pod } => present = pod.incarnation == status.pod.incarnation,
            HistoryItem::Output { .. } => said |= present,
            _ => {}
        }
        Ok(())
    })?;
    let pid = status.pid.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    let (true, Some(pid)) = (said, pid) else { return Ok(false) };
    // The child is ours and has not ended, so that nobody reaped it: the number is still its own.
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        .map_err(|error| Failure::internal(format!("child `{name}` could not be killed")).because(error))?;
    Ok(true)
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

pub(crate) fn not_started(error: StartError) -> Failure {
    let exit = match &error {
        StartError::HeldBy { .. } => Exit::Held,
        StartError::Bound { .. } | StartError::Unplaced { .. } | StartError::Confinement { .. } => Exit::Rejected,
        StartError::Worker { .. } | StartError::Directory { .. } => Exit::Usage,
        _ => Exit::Internal,
    };
    Failure::from_error(exit, error)
}
