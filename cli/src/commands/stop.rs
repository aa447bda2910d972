//! `pod stop`: asks a pod to end, and waits until its life lock is free, which is the proof that its process is gone.
//!
//! A child that its parent would start again is stopped by its parent.

use std::time::Duration;

use pod::Method;
use pod::discovery;
use pod::id::PodName;
use pod::life_lock::{Holder, Life};
use pod::protocol::{RestartKind, Shutdown, ShutdownMode, StopOutcome, StopPod};
use pod::runtime_dir::{PodPaths, Roots};
use rpc::{CallError, Client, NotDelivered};
use tokio::time::{interval, timeout};

use crate::args::{Global, StopArgs};
use crate::ask::ask;
use crate::commands::stop_all::stop_all;
use crate::commands::{existing_pod, life_of, running, seconds};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// How often the lock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// LIMIT: how much longer than a parent waits for its child's end its answer may take: SIGTERM, SIGKILL and what the child has left.
const AFTER_LIMIT: Duration = Duration::from_secs(20);

pub(crate) async fn stop(args: &StopArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let name = match &args.name {
        Some(name) if !args.all => name,
        _ => return stop_all(args, global, output).await,
    };
    let (roots, paths) = existing_pod(global, name)?;
    let holder = match running(&paths) {
        Ok(holder) => holder,
        Err(not_running) => return stop_what_is_due(&roots, name, args, not_running, output).await,
    };
    match supervisor(&roots, name) {
        // It would be started again, or its end be taken for a failure: its parent is to know that it is wanted.
        Some(parent) => match by_parent(&roots, &parent, name, args.now, args.timeout).await? {
            StopOutcome::Ended(_) => {}
            StopOutcome::StillRunning { .. } => return Err(still_there(name, args, &holder)),
        },
        None => shut_down(&paths, &holder, args.now, args.timeout).await?,
    }
    if timeout(args.timeout, gone(&paths, &holder)).await.map_err(|_| still_there(name, args, &holder))?.is_err() {
        return Err(Failure::internal(format!("the life lock of `{name}` cannot be looked at")));
    }
    output.line(format!("stopped: {holder} is gone"))?;
    output.record(&serde_json::json!({ "type": "stopped", "pod": name, "pid": holder.pid }))?;
    Ok(Exit::Ok)
}

/// One that does not run may be in the pause before its parent starts it again: then it is not to.
async fn stop_what_is_due(
    roots: &Roots,
    name: &PodName,
    args: &StopArgs,
    not_running: Failure,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let Some(parent) = supervisor(roots, name) else { return Err(not_running) };
    let (pod, end) = match by_parent(roots, &parent, name, args.now, args.timeout).await? {
        // Its next life may have begun just then: that is ended, too.
        StopOutcome::Ended(stopped) if stopped.was_due || !stopped.already => (stopped.pod, stopped.end),
        StopOutcome::Ended(_) => return Err(not_running),
        StopOutcome::StillRunning { .. } => return Err(still_there(name, args, &running(&roots.pod(name))?)),
    };
    output.line(format!("stopped: {pod} has ended ({end}), and `{parent}` does not start it again"))?;
    output.record(&serde_json::json!({ "type": "stopped", "pod": name, "pid": null, "was_due": true }))?;
    Ok(Exit::Ok)
}

/// The living parent that would start `name` again.
fn supervisor(roots: &Roots, name: &PodName) -> Option<PodName> {
    let parent = discovery::inspect(roots, name).ok()?.parent?;
    (parent.alive && parent.kept.restart != RestartKind::Temporary).then_some(parent.name)
}

/// Lets the living pod `parent` stop its child `name`.
pub(crate) async fn by_parent(
    roots: &Roots,
    parent: &PodName,
    name: &PodName,
    now: bool,
    limit: Duration,
) -> Result<StopOutcome, Failure> {
    let client = Client::<Method>::new(&rpc::Address::unix(roots.pod(parent).socket()));
    let grace_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let unsure = format!("`pod inspect {name}` shows whether it lives");
    // Longer than the parent waits, so that one hears what it says.
    let answer = limit + AFTER_LIMIT;
    ask(&client, StopPod { pod: name.clone(), now, grace_ms }, answer, &unsure, |rejection| rejection.to_string()).await
}

/// Tells the pod itself. In doubt its life lock tells.
pub(crate) async fn shut_down(paths: &PodPaths, holder: &Holder, now: bool, limit: Duration) -> Result<(), Failure> {
    let client = Client::<Method>::new(&rpc::Address::unix(paths.socket()));
    let mode = if now { ShutdownMode::Now } else { ShutdownMode::Graceful };
    match client.call(Shutdown { mode }).deadline(limit).await {
        Ok(_) | Err(CallError::Unknown(_)) => Ok(()),
        Err(CallError::Rejected(never)) => match never {},
        // It may have ended by itself in the meantime.
        Err(CallError::NotDelivered(why)) if life_of(paths)? != Life::Free => {
            let refused = matches!(why, NotDelivered::Unauthorized(_));
            Err(Failure::new(
                if refused { Exit::Rejected } else { Exit::NotDelivered },
                format!("pod `{}` was not told to stop, it still runs as {holder}: {why}", paths.name()),
            ))
        }
        Err(CallError::NotDelivered(_)) => Ok(()),
    }
}

/// Waits until the life that `holder` is has ended.
pub(crate) async fn gone(paths: &PodPaths, holder: &Holder) -> Result<(), Failure> {
    let mut ticks = interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        match life_of(paths)? {
            Life::Free => return Ok(()),
            // Somebody has started it again at once: the life that we stopped is over.
            Life::Held(now) if now.pod.is_some() && holder.pod.is_some() && now.pod != holder.pod => return Ok(()),
            Life::Held(_) => {}
        }
    }
}

fn still_there(name: &PodName, args: &StopArgs, holder: &Holder) -> Failure {
    let remedy = if args.now {
        "wait, or end its process yourself".to_owned()
    } else {
        format!("wait, or cancel its turn with `pod stop {name} --now`")
    };
    let waited = seconds(args.timeout);
    Failure::new(
        Exit::Unknown,
        format!("pod `{name}` was told to stop and still runs after {waited}, as {holder}; {remedy}"),
    )
}
