//! `pod spawn`: lets a pod that runs start a child, and waits until it is ready.
//!
//! The child is its parent's: it reports to it, and ends with it unless it is detached.

use pod::id::PodName;
use pod::protocol::{Kept, RUN_INPUT_BYTES_MAX, SpawnPod, SpawnRejection, Spawned, WORKER_BYTES_MAX};
use pod::scope::{Permission, ScopeRule};

use crate::args::{Global, ScopeArgs, SpawnArgs};
use crate::ask::ask;
use crate::commands::running_client;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::hosted::{Hosted, hosted};
use crate::output::Output;

/// What a child hosts if nobody says otherwise.
const WORKER: &str = "ledger";

pub(crate) async fn spawn(args: &SpawnArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let (parent, name) = (&args.parent, &args.name);
    let request = request(args)?;
    let kept = Kept { detached: request.detached, restart: request.restart.kind, restarts: 0 };
    let client = running_client(global, parent)?;
    let unsure = format!("`pod inspect {name}` shows whether it was started");
    let mut why = None;
    let said = |rejection: &SpawnRejection| {
        why = serde_json::to_value(rejection).ok();
        in_words(parent, rejection)
    };
    let answer = ask(&client, request, args.timeout, &unsure, said).await;
    let Spawned { pod, pid, work, not_given } = answer.map_err(|failure| failure.with_rejection(why))?;
    let process = pid.map_or_else(String::new, |pid| format!(" as process {pid}"));
    let how = if kept == Kept::default() { String::new() } else { format!(" ({kept})") };
    output.line(format!("spawned: `{name}` is ready{process}, a child of `{parent}`{how}"))?;
    if let Some(work) = work {
        output.line(format!("it has its work, {work}; `pod log {name}` shows what it does"))?;
    }
    output.record(&serde_json::json!({
        "type": "spawned",
        "pod": name,
        "incarnation": pod.incarnation,
        "parent": parent,
        "pid": pid,
        "detached": kept.detached,
        "restart": kept.restart,
        "work": work,
        "not_given": not_given.as_ref().map(|why| why.as_str()),
    }))?;
    match not_given {
        None => Ok(Exit::Ok),
        Some(why) => Err(Failure::new(Exit::WorkFailed, format!("`{name}` is ready and was given no work: {why}"))),
    }
}

fn request(args: &SpawnArgs) -> Result<SpawnPod, Failure> {
    let name = &args.name;
    if *name == args.parent {
        return Err(Failure::usage(format!("child `{name}` has its parent's name; choose another one")));
    }
    let Hosted { worker, first } = hosted(name, &args.hosted, WORKER)?;
    let worker = serde_json::to_string(&worker)
        .map_err(|error| Failure::internal("the worker cannot be told").because(error))?;
    let input = if args.idle { None } else { args.input.clone().or(first) };
    fits(name, "worker", &worker, WORKER_BYTES_MAX)?;
    fits(name, "input", input.as_deref().unwrap_or_default(), RUN_INPUT_BYTES_MAX)?;
    let ScopeArgs { read, write, deny } = &args.scope;
    let rights = [(read, Permission::Read), (write, Permission::Write), (deny, Permission::Deny)];
    let scope = rights
        .into_iter()
        .flat_map(|(paths, permission)| paths.iter().map(move |path| ScopeRule::below(path.as_str(), permission)));
    let scope = rpc::List::try_from(scope.collect::<Vec<_>>())
        .map_err(|error| Failure::usage(format!("the scope of `{name}` is not valid: {error}")))?;
    let (input, detached, restart) = (input.map(Into::into), args.kept.detached, args.kept.policy());
    Ok(SpawnPod { name: name.clone(), worker: worker.into(), input, scope, detached, restart })
}

/// What does not fit is refused, not cut.
fn fits(name: &PodName, what: &str, text: &str, max: usize) -> Result<(), Failure> {
    let bytes = text.len();
    if bytes <= max {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the {what} of `{name}` has {bytes} bytes, at most {max} are allowed; put it in a file and name that"
    )))
}

fn in_words(parent: &PodName, rejection: &SpawnRejection) -> String {
    let remedy = match rejection {
        SpawnRejection::NameTaken { name, .. } => format!(" (`pod inspect {name}` shows which)"),
        SpawnRejection::TooMany { .. } => {
            format!("; `pod ls` shows them, and `limits.children` of `{parent}` says how many may")
        }
        _ => String::new(),
    };
    format!("{rejection}{remedy}")
}
