//! `pod restore`: a pod that has ended lives again, under its name and with its history.
//!
//! A child is started by its parent, a root by itself, in the background, from its recorded manifest. One that lives is only
//! asked whether it does. Each reason why not is told apart, by its words and by the exit code, whoever has said it.

use std::time::Duration;

use pod::Method;
use pod::discovery::{self, Way};
use pod::id::PodName;
use pod::protocol::{AttachOrRestorePod, Attached, PodState, RestoreRejection, TargetFault, Text};
use pod::runtime_dir::Roots;
use rpc::Client;
use tokio::time::{Instant, sleep};

use crate::args::{Global, RestoreArgs};
use crate::ask::ask;
use crate::background;
use crate::commands::restore_tree::restore_tree;
use crate::commands::{existing_pod, running_client, seconds};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// Between two looks at a pod that lives and does not answer yet. LIMIT: a look is a lock and a call.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// LIMIT: how long one call may take; whom it is about may have ended meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(2);

pub(crate) async fn restore(args: &RestoreArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    if args.tree {
        return restore_tree(args, global, output).await;
    }
    let name = &args.name;
    let until = Instant::now() + args.timeout;
    let (roots, paths) = existing_pod(global, args.by.as_ref().unwrap_or(name))?;
    let (pid, how) = loop {
        let way = match &args.by {
            Some(parent) => Way::ByParent(parent.clone()),
            None => discovery::way(&roots, name).map_err(failed)?,
        };
        match way {
            Way::Lives(holder) if holder.pod.as_ref().is_some_and(|pod| pod.name != *name) => {
                // Somebody holds the lock in the pod's stead: an adopter, say.
                return Err(failed(RestoreRejection::Locked { name: name.clone(), pid: holder.pid, life: holder.pod }));
            }
            Way::Lives(_) => match attach(&roots, name, until).await {
                Ok(pid) => break (Some(pid), "attached"),
                Err(error) if Instant::now() >= until => return Err(deaf(args, &error)),
                // It may be starting, or ending: then it is another way in a moment.
                Err(_) => sleep(LOOK_EVERY).await,
            },
            Way::ByParent(parent) => {
                let attached = by_parent(&running_client(global, &parent)?, args).await?;
                break (attached.pid, if attached.restored { "restored" } else { "attached" });
            }
            Way::ByManifest(_) => {
                let manifest = paths.manifest();
                let words = ["--manifest".as_ref(), manifest.as_os_str()];
                break (Some(background::start(&roots, name, &words, args.timeout).await?.pid), "restored");
            }
        }
    };
    let process = pid.map_or_else(String::new, |pid| format!(" as process {pid}"));
    let what = if how == "attached" { "lived already" } else { "lives again" };
    output.line(format!("{how}: `{name}` {what}{process}; `pod inspect {name}` shows what it has open"))?;
    output.record(&serde_json::json!({ "type": how, "pod": name, "pid": pid }))?;
    Ok(Exit::Ok)
}

/// It lives, if it is what has its lock, answers, and takes work.
async fn attach(roots: &Roots, name: &PodName, until: Instant) -> Result<u32, String> {
    let left = until.saturating_duration_since(Instant::now());
    match discovery::status(roots, name, left.clamp(LOOK_EVERY, ANSWER_MAX)).await {
        Ok(status) if status.state == PodState::Stopping => Err("it is stopping".to_owned()),
        Ok(status) => Ok(status.pid),
        Err(error) => Err(error.to_string()),
    }
}

async fn by_parent(client: &Client<Method>, args: &RestoreArgs) -> Result<Attached, Failure> {
    let limit_ms = u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX);
    let request = AttachOrRestorePod { pod: args.name.clone(), limit_ms };
    let unsure = format!("`pod inspect {}` shows whether it lives", args.name);
    // Longer than the parent waits, so that one hears its reason.
    let answer = args.timeout + Duration::from_secs(5);
    let mut rejected = None;
    let said = |rejection: &RestoreRejection| {
        rejected = Some(failed(rejection.clone()));
        rejection.to_string()
    };
    let asked = ask(client, request, answer, &unsure, said).await;
    asked.map_err(|failure| rejected.unwrap_or(failure))
}

fn exit_of(rejection: &RestoreRejection) -> Exit {
    match rejection {
        RestoreRejection::Target(TargetFault::NotVisible { .. } | TargetFault::NotYourChild { .. }) => Exit::NotVisible,
        RestoreRejection::Target(_) => Exit::NoSuchPod,
        RestoreRejection::Locked { .. } => Exit::Held,
        RestoreRejection::Exited { .. } => Exit::DiedEarly,
        RestoreRejection::TimedOut { .. } => Exit::TimedOut,
        RestoreRejection::NotRestorable { .. } | RestoreRejection::Stopping | RestoreRejection::Refused { .. } => {
            Exit::Rejected
        }
    }
}

fn failed(rejection: RestoreRejection) -> Failure {
    Failure::new(exit_of(&rejection), rejection.to_string())
}

/// It lives and does not answer.
fn deaf(args: &RestoreArgs, error: &str) -> Failure {
    let limit_ms = u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX);
    let rejection = RestoreRejection::TimedOut { name: args.name.clone(), limit_ms, stderr: Text::default() };
    failed(rejection)
        .because(NoAnswer(format!("it lives and does not answer within {}: {error}", seconds(args.timeout))))
}

/// What became of asking.
#[derive(Debug)]
struct NoAnswer(String);

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAnswer {}
