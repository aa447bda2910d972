//! `pod restore`: a pod that has ended lives again, under its name and with its history.
//!
//! A child is started by its parent, a root by itself, in the background, from its recorded manifest. One that lives is only
//! asked whether it does. Each reason why not is told apart.

use pod::Method;
use pod::discovery::{self, Way};
use pod::id::PodName;
use pod::life_lock::Holder;
use pod::protocol::{AttachOrRestorePod, Attached, RestoreRejection};
use pod::runtime_dir::Roots;
use rpc::Client;

use crate::args::{Global, RestoreArgs};
use crate::ask::ask;
use crate::background;
use crate::commands::{existing_pod, seconds};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn restore(args: &RestoreArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let name = &args.name;
    let (roots, paths) = existing_pod(global, name)?;
    let (pid, how) = match discovery::way(&roots, name).map_err(failed)? {
        Way::Lives(holder) => (attach(&roots, args, &holder).await?, "attached"),
        Way::ByParent(parent) => {
            let attached = by_parent(&roots, args, &parent).await?;
            (attached.pid, if attached.restored { "restored" } else { "attached" })
        }
        Way::ByManifest(_) => {
            let manifest = paths.manifest();
            let manifest = manifest.to_str().unwrap_or_default();
            let status = background::start(&roots, name, &["--manifest", manifest], args.timeout).await?;
            (Some(status.pid), "restored")
        }
    };
    let process = pid.map_or_else(String::new, |pid| format!(" as process {pid}"));
    let what = if how == "attached" { "lived already" } else { "lives again" };
    output.line(format!("{how}: `{name}` {what}{process}; `pod inspect {name}` shows what it has open"))?;
    output.record(&serde_json::json!({ "type": how, "pod": name, "pid": pid }))?;
    Ok(Exit::Ok)
}

/// It lives, if it is what has its lock, and answers.
async fn attach(roots: &Roots, args: &RestoreArgs, holder: &Holder) -> Result<Option<u32>, Failure> {
    let name = &args.name;
    match discovery::status(roots, name, args.timeout).await {
        Ok(status) => Ok(Some(status.pid)),
        Err(error) => {
            Err(failed(RestoreRejection::Locked { name: name.clone(), pid: holder.pid, life: holder.pod.clone() })
                .because(NoAnswer(format!("it does not answer within {}: {error}", seconds(args.timeout)))))
        }
    }
}

async fn by_parent(roots: &Roots, args: &RestoreArgs, parent: &PodName) -> Result<Attached, Failure> {
    let client = Client::<Method>::new(&rpc::Address::unix(roots.pod(parent).socket()));
    let limit_ms = u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX);
    let request = AttachOrRestorePod { pod: args.name.clone(), limit_ms };
    let unsure = format!("`pod inspect {}` shows whether it lives", args.name);
    // Longer than the parent waits, so that one hears its reason.
    let answer = args.timeout + std::time::Duration::from_secs(5);
    ask(&client, request, answer, &unsure, |rejection| rejection.to_string()).await
}

fn failed(rejection: RestoreRejection) -> Failure {
    let exit = match &rejection {
        RestoreRejection::Target(_) => Exit::NoSuchPod,
        RestoreRejection::Locked { .. } => Exit::Held,
        RestoreRejection::NotRestorable { .. } => Exit::Rejected,
        _ => Exit::Internal,
    };
    Failure::new(exit, rejection.to_string())
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
