//! `pod stop --all`: ends every pod of a user, or one and all that is below it, and waits until they are gone.
//!
//! Whoever has no parent that is ended with it is told to end, and ends its tied children itself. A detached child lives on: that is
//! said of each, and with `--detached` it is ended, too, before its parent, so that this is still there to be told how. No
//! failure stops the others from being told; who has begun meanwhile is ended behind them; what still runs in the end is said, and
//! is in the exit code.
//!
//! Used by `stop`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use pod::discovery::{self, PodSummary};
use pod::id::{PodId, PodName};
use pod::life_lock::{Holder, Life};
use pod::protocol::{Kept, RestartKind, StopOutcome};
use pod::runtime_dir::{PodPaths, Roots};
use tokio::time::{Instant, sleep_until};

use crate::args::{Global, StopArgs};
use crate::commands::stop::{by_parent, gone, shut_down};
use crate::commands::{existing_pod, existing_roots, life_of, seconds};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// A pod that runs.
#[derive(Debug)]
struct Living {
    paths: PodPaths,
    holder: Holder,
    /// Whose child it is, and how that keeps it.
    parent: Option<(PodName, Kept)>,
}

/// What is to become of the pods that run.
#[derive(Debug, Default)]
struct Plan {
    stop: BTreeMap<PodName, Living>,
    /// Detached children, and what is below them.
    leave: BTreeMap<PodName, Living>,
}

pub(crate) async fn stop_all(args: &StopArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    if let Some(top) = &args.name {
        existing_pod(global, top)?;
    }
    let Ok(roots) = existing_roots(global)? else { return nothing(args, output) };
    let deadline = Instant::now() + args.timeout;
    let (mut seen, mut left_running) = (Vec::new(), BTreeMap::new());
    // Listed again when all are gone: somebody may have begun meanwhile.
    let leave = loop {
        let mut plan = plan(list(&roots).await?, &roots, args.name.as_ref(), args.detached);
        let known = |name: &PodName, living: &Living| {
            // Another life only if both say which they are.
            let is_same = |holder: &Holder| {
                holder.pod.is_none() || living.holder.pod.is_none() || holder.pod == living.holder.pod
            };
            seen.iter().any(|(seen, holder): &(PodName, Holder)| seen == name && is_same(holder))
        };
        plan.stop.retain(|name, living| !known(name, living));
        if plan.stop.is_empty() {
            break plan.leave;
        }
        let is_late = !seen.is_empty() && Instant::now() >= deadline;
        seen.extend(plan.stop.iter().map(|(name, living)| (name.clone(), living.holder.clone())));
        if is_late {
            let why = |living: &Living| format!("it has begun meanwhile as {}, and was not told to end", living.holder);
            let late = plan.stop.iter().map(|(name, living)| (name.clone(), (Exit::NotDelivered, why(living))));
            left_running.extend(late);
            break plan.leave;
        }
        left_running.extend(end(&plan, &roots, args, deadline, output).await?);
    };
    if seen.is_empty() && leave.is_empty() {
        return nothing(args, output);
    }
    for (name, living) in &leave {
        let (pid, parent) = (living.holder.pid, living.parent.as_ref().map(|(parent, _)| parent));
        let whose = match &living.parent {
            Some((parent, kept)) if kept.detached => format!("it is a detached child of `{parent}`"),
            Some((parent, _)) => format!("it is a child of `{parent}`, which lives on"),
            None => "it is below one that lives on".to_owned(),
        };
        output.line(format!("left running: `{name}` ({}); {whose}; --detached ends it, too", living.holder))?;
        output.record(&serde_json::json!({ "type": "left_running", "pod": name, "pid": pid, "parent": parent }))?;
    }
    let stopped = seen.len() - left_running.len();
    let exit = match left_running.values().min_by_key(|(exit, _)| exit.code()) {
        None => Exit::Ok,
        // That one may still end is less certain than that another was not told.
        Some(_) if left_running.values().any(|(exit, _)| *exit == Exit::Unknown) => Exit::Unknown,
        Some((exit, _)) => *exit,
    };
    output.record(&serde_json::json!({
        "type": "stopped_all",
        "stopped": stopped,
        "left_running": leave.len(),
        "still_running": left_running.len(),
        "exit": exit.code(),
    }))?;
    if left_running.is_empty() {
        let left = if leave.is_empty() { String::new() } else { format!(", {} left running", leave.len()) };
        output.line(format!("{stopped} stopped{left}"))?;
        return Ok(Exit::Ok);
    }
    let each: Vec<String> = left_running.iter().map(|(name, (_, why))| format!("`{name}`: {why}")).collect();
    let message = format!("{stopped} stopped, {} not: {}", left_running.len(), each.join("; "));
    Err(Failure::new(exit, message))
}

fn nothing(args: &StopArgs, output: &mut Output) -> Result<Exit, Failure> {
    let what = args.name.as_ref().map_or_else(String::new, |top| format!(" below `{top}`"));
    output.line(format!("no pod runs{what}"))?;
    output.record(&serde_json::json!({
        "type": "stopped_all", "stopped": 0, "left_running": 0, "still_running": 0, "exit": 0,
    }))?;
    Ok(Exit::Ok)
}

async fn list(roots: &Roots) -> Result<Vec<PodSummary>, Failure> {
    let all = roots.clone();
    // Stores are read: not on a thread that serves others.
    let pods = tokio::task::spawn_blocking(move || discovery::list(&all)).await;
    pods.map_err(|error| Failure::internal("the pods cannot be listed").because(error))?
        .map_err(|error| Failure::from_error(Exit::Usage, error))
}

/// Who is to be stopped: `top` and all below it, or everybody; detached children, and what is below them, only if `detached`.
fn plan(pods: Vec<PodSummary>, roots: &Roots, top: Option<&PodName>, detached: bool) -> Plan {
    let parents = parents(&pods);
    let up = |name: &PodName| {
        // A circle of former parents ends where it began.
        let (mut chain, mut next) = (vec![name.clone()], parents.get(name).map(|(parent, _)| parent.clone()));
        while let Some(above) = next.filter(|above| !chain.contains(above)) {
            next = parents.get(&above).map(|(parent, _)| parent.clone());
            chain.push(above);
        }
        chain
    };
    let alive: BTreeSet<PodName> = pods.iter().filter(|pod| pod.holder.is_some()).map(|pod| pod.name.clone()).collect();
    let mut plan = Plan::default();
    for pod in pods {
        let Some(holder) = pod.holder else { continue };
        let chain = up(&pod.name);
        let within = match top {
            Some(top) => chain.iter().position(|above| above == top),
            None => Some(chain.len()),
        };
        let Some(within) = within else { continue };
        // The named one is meant, however it is kept.
        let lives_on = chain
            .iter()
            .take(within)
            .any(|above| alive.contains(above) && parents.get(above).is_some_and(|(_, kept)| kept.detached));
        let (paths, parent) = (roots.pod(&pod.name), parents.get(&pod.name).cloned());
        let living = Living { paths, holder, parent };
        let into = if lives_on && !detached { &mut plan.leave } else { &mut plan.stop };
        into.insert(pod.name, living);
    }
    plan
}

/// Whose child each pod is, or was last, and how it is kept.
fn parents(pods: &[PodSummary]) -> BTreeMap<PodName, (PodName, Kept)> {
    let living: BTreeMap<&PodName, &PodId> =
        pods.iter().filter_map(|pod| Some((&pod.name, pod.holder.as_ref()?.pod.as_ref()?))).collect();
    // What lives is the child of whoever has begun that life, and of nobody who had one of that name before.
    let is_its = |child: &PodId| living.get(&child.name).is_none_or(|life| *life == child);
    let mut newest = BTreeMap::new();
    for pod in pods {
        let children = pod.store.as_ref().map_or(&[][..], |record| &record.children);
        for child in children.iter().filter(|child| child.moved_to.is_none() && is_its(&child.pod)) {
            let known = newest.get(&child.pod.name).map(|(at, _): &(_, _)| *at);
            if known.is_none_or(|at| at <= child.at) {
                let edge = (pod.name.clone(), child.kept(children));
                newest.insert(child.pod.name.clone(), (child.at, edge));
            }
        }
    }
    newest.into_iter().map(|(child, (_, edge))| (child, edge)).collect()
}

/// Tells and waits. Returns who still runs at the deadline, and why.
async fn end(
    plan: &Plan,
    roots: &Roots,
    args: &StopArgs,
    deadline: Instant,
    output: &mut Output,
) -> Result<BTreeMap<PodName, (Exit, String)>, Failure> {
    let mut waiting: FuturesUnordered<_> = plan
        .stop
        .iter()
        .map(|(name, living)| async move { (name, gone(&living.paths, &living.holder).await) })
        .collect();
    let mut left: BTreeMap<PodName, (Exit, String)> = BTreeMap::new();
    let after = seconds(args.timeout);
    for (name, living) in &plan.stop {
        left.insert(
            name.clone(),
            (Exit::Unknown, format!("it was told to, and still runs after {after}, as {}", living.holder)),
        );
    }
    let asked = Mutex::new(BTreeMap::new());
    let mut telling = std::pin::pin!(tell_all(plan, roots, args, deadline, &asked));
    let mut untold: Option<BTreeMap<PodName, (Exit, String)>> = None;
    while !waiting.is_empty() {
        // CANCEL SAFETY: waiting changes nothing, and each keeps its state.
        tokio::select! {
            Some((name, seen)) = waiting.next() => {
                seen?;
                left.remove(name);
                let pid = plan.stop.get(name).and_then(|living| living.holder.pid);
                output.line(format!("stopped: `{name}` is gone"))?;
                output.record(&serde_json::json!({ "type": "stopped", "pod": name, "pid": pid }))?;
            }
            done = &mut telling, if untold.is_none() => untold = Some(done),
            () = sleep_until(deadline) => break,
        }
        if untold.as_ref().is_some_and(|untold| left.keys().all(|name| untold.contains_key(name))) {
            break;
        }
    }
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    let mut untold = untold.unwrap_or_default();
    for (name, known) in &mut left {
        if let Some(why) = untold.remove(name) {
            *known = why;
        } else if is_told_here(plan, name) {
            match asked.get(name) {
                None => {
                    let why = "it was not told to: first those below it are to be gone, and they still run".to_owned();
                    *known = (Exit::NotDelivered, why);
                }
                // Whether it has heard of it is not known.
                Some(Asked::Asking) => {
                    let living = plan.stop.get(name).map(|living| living.holder.to_string()).unwrap_or_default();
                    *known = (
                        Exit::Unknown,
                        format!("it was asked to, has not answered and still runs after {after}, as {living}"),
                    );
                }
                Some(Asked::Told) => {}
            }
        }
    }
    Ok(left)
}

/// How far it is with one that is to be told.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// A call is under way.
    Asking,
    /// It has heard of it.
    Told,
}

/// Whether nobody else ends it.
fn is_told_here(plan: &Plan, name: &PodName) -> bool {
    let living = plan.stop.get(name);
    let above = living.and_then(|living| living.parent.as_ref());
    !above.is_some_and(|(parent, kept)| !kept.detached && plan.stop.contains_key(parent))
}

/// Whether `name` is below `above`, as far as both are to be stopped.
fn is_below(plan: &Plan, name: &PodName, above: &PodName) -> bool {
    let (mut at, mut seen) = (plan.stop.get(name), BTreeSet::new());
    while let Some((parent, _)) = at.and_then(|living| living.parent.as_ref()).filter(|(parent, _)| seen.insert(parent))
    {
        if parent == above {
            return true;
        }
        at = plan.stop.get(parent);
    }
    false
}

/// Tells those to end that nobody else ends, each when those of them that are below it are gone, so that it knows how they
/// ended; nobody waits for a stranger. Returns who could not be told, and why; `asked` says how far it is with each.
async fn tell_all(
    plan: &Plan,
    roots: &Roots,
    args: &StopArgs,
    deadline: Instant,
    asked: &Mutex<BTreeMap<PodName, Asked>>,
) -> BTreeMap<PodName, (Exit, String)> {
    let ours = || plan.stop.iter().filter(|(name, _)| is_told_here(plan, name));
    let each = ours().map(|(name, living)| async move {
        for (_, below) in ours().filter(|(below, _)| is_below(plan, below, name)) {
            let _ = gone(&below.paths, &below.holder).await;
        }
        let is = |state| asked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), state);
        is(Asked::Asking);
        let done = tell(name, living, roots, args, deadline).await;
        if done.is_ok() {
            is(Asked::Told);
        }
        (name.clone(), done)
    });
    join_all(each).await.into_iter().filter_map(|(name, done)| Some((name, done.err()?))).collect()
}

/// Tells one to end: its parent does, if it lives and would start it again, or has to be told how it ended.
async fn tell(
    name: &PodName,
    living: &Living,
    roots: &Roots,
    args: &StopArgs,
    deadline: Instant,
) -> Result<(), (Exit, String)> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    if let Some((parent, kept)) = &living.parent
        && (kept.detached || kept.restart != RestartKind::Temporary)
        && matches!(life_of(&roots.pod(parent)), Ok(Life::Held(_)))
    {
        match by_parent(roots, parent, name, args.now, left).await {
            Ok(StopOutcome::Ended(_) | StopOutcome::StillRunning { .. }) => return Ok(()),
            // Its parent may be ending just now: then it is asked itself.
            Err(_) => {}
        }
    }
    match shut_down(&living.paths, &living.holder, args.now, left).await {
        Ok(()) => Ok(()),
        Err(failure) => Err((failure.exit(), failure.message().to_owned())),
    }
}
