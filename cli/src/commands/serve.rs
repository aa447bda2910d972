//! `pod serve`: a pod by itself, until it is stopped; in front of its user, or in the background.
//!
//! What it was started as is recorded beside its store, so that `pod restore` needs nothing else.

use std::ffi::OsStr;

use pod::manifest::{Limits, Manifest, PodSection, ScopeEntry};
use pod::scope::Confinement;
use pod::{Durability, PodController, PodOptions, PodStatus, Workers};

use crate::args::{Global, ServeArgs};
use crate::background;
use crate::commands::roots;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::hosted::{Hosted, check_name, hosted};
use crate::output::Output;
use crate::tree::not_started;

/// What a pod hosts if nobody says otherwise: a book of what it is told.
const WORKER: &str = "ledger";

pub(crate) async fn serve(args: &ServeArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let manifest = manifest(args)?;
    if args.background {
        // Its terminal may go. It leads no group yet: whoever started it has just done so.
        let _ = rustix::process::setsid();
    }
    let roots = roots(global)?;
    let name = &manifest.pod.name;
    check_name(&roots, name)?;
    if args.detach {
        let status = background::start(&roots, name, &again(args, &manifest), args.timeout).await?;
        return ready(&status, true, output);
    }
    if let Some(directory) = &manifest.pod.directory {
        std::env::set_current_dir(directory).map_err(|error| {
            let shown = directory.display();
            Failure::usage(format!("pod `{name}` runs in `{shown}`, which cannot be entered; make it, or correct `directory` in its manifest")).because(error)
        })?;
    }
    let options = PodOptions::new(name.clone(), manifest.worker.clone())
        .roots(roots)
        .workers(Workers::builtin())
        .owns_process()
        .durability(manifest.pod.durability)
        .limits(manifest.limits)
        .scope(manifest.scope.iter().filter(|entry| entry.child.is_none()).map(ScopeEntry::rule).collect())
        .confinement(manifest.pod.confinement);
    let handle = PodController::spawn(options).await.map_err(not_started)?;
    pod::signals::shutdown_on_signal(&handle);
    let status = handle.status().await.map_err(|error| Failure::internal("the pod's store failed").because(error))?;
    let said = ready(&status, false, output);
    if said.is_err() {
        // Whoever was to be told has gone; a pod that nobody knows of is ended.
        handle.shutdown().await;
        return said;
    }
    handle.wait().await;
    output.line(format!("stopped: `{name}` has ended"))?;
    output.record(&serde_json::json!({ "type": "stopped", "pod": name, "pid": std::process::id() }))?;
    Ok(Exit::Ok)
}

/// It takes work.
pub(crate) fn ready(status: &PodStatus, background: bool, output: &mut Output) -> Result<Exit, Failure> {
    let (name, pid) = (&status.pod.name, status.pid);
    let end =
        if background { format!("`pod stop {name}` ends it") } else { format!("`pod stop {name}` or Ctrl-C ends it") };
    output.line(format!("ready: `{name}` is process {pid} and hosts `{}`; {end}", status.worker))?;
    output.record(&serde_json::json!({
        "type": "ready",
        "pod": name,
        "incarnation": status.pod.incarnation,
        "pid": pid,
        "worker": status.worker.as_str(),
        "background": background,
    }))?;
    Ok(Exit::Ok)
}

fn manifest(args: &ServeArgs) -> Result<Manifest, Failure> {
    if let Some(path) = &args.manifest {
        let manifest = Manifest::read(path).map_err(|error| Failure::from_error(Exit::Usage, error))?;
        let unusable = |error| Failure::usage(format!("manifest `{}` cannot be used", path.display())).because(error);
        Workers::builtin().make(&manifest.worker).map_err(unusable)?;
        return Ok(manifest);
    }
    let Some(name) = args.name.clone() else {
        return Err(Failure::usage("say who it is: --name NAME, or --manifest FILE"));
    };
    let Hosted { worker, .. } = hosted(&name, &args.hosted, WORKER)?;
    let pod =
        PodSection { name, durability: Durability::default(), directory: None, confinement: Confinement::default() };
    Ok(Manifest { pod, worker, limits: Limits::default(), scope: Vec::new(), child: Vec::new() })
}

/// The same once more, for the process in the background.
fn again<'a>(args: &'a ServeArgs, manifest: &'a Manifest) -> Vec<&'a OsStr> {
    if let Some(file) = &args.manifest {
        return vec!["--manifest".as_ref(), file.as_os_str()];
    }
    let mut words: Vec<&OsStr> = vec!["--name".as_ref(), manifest.pod.name.as_str().as_ref()];
    match (&args.hosted.command, &args.hosted.script, &args.hosted.worker) {
        (Some(command), _, _) => words.extend(["--command".as_ref(), OsStr::new(command)]),
        (_, Some(script), _) => words.extend(["--script".as_ref(), script.as_os_str()]),
        (_, _, Some(worker)) => words.extend(["--worker".as_ref(), OsStr::new(worker)]),
        (None, None, None) => {}
    }
    words
}
