//! What a pod is to host, as it is typed: a command, a script, or a kind of worker. And who may have its name.
//!
//! Everything is checked here, before anything is made.
//!
//! Used by `serve` and `spawn`.

use std::path::Path;

use pod::id::PodName;
use pod::life_lock::Life;
use pod::manifest::ManifestError;
use pod::runtime_dir::Roots;
use pod::{WorkerSpec, Workers, discovery};

use crate::args::HostedArgs;
use crate::commands::life_of;
use crate::commands::run::read_script;
use crate::exit::Exit;
use crate::failure::Failure;

/// What it hosts, and what it is to do first if nobody says otherwise.
#[derive(Debug)]
pub(crate) struct Hosted {
    pub(crate) worker: WorkerSpec,
    pub(crate) first: Option<String>,
}

/// What was typed; `otherwise` if nothing was.
pub(crate) fn hosted(name: &PodName, args: &HostedArgs, otherwise: &str) -> Result<Hosted, Failure> {
    let wrong = |error: ManifestError| Failure::usage(format!("pod `{name}` cannot be started")).because(error);
    let (worker, first) = match (&args.command, &args.script, &args.worker) {
        (Some(command), _, _) => (WorkerSpec::command(command), Some(command.clone())),
        (_, Some(path), _) => {
            let shown = path.display().to_string();
            let text = read_script(name, Path::new(path))?;
            (WorkerSpec::scripted(&text, &shown).map_err(wrong)?, Some(shown))
        }
        (_, _, Some(kind)) => (WorkerSpec::of_kind(kind), None),
        (None, None, None) => (WorkerSpec::of_kind(otherwise), None),
    };
    Workers::builtin().make(&worker).map_err(wrong)?;
    Ok(Hosted { worker, first })
}

/// A pod may be run by itself under that name: nobody lives under it, and it is nobody's child.
pub(crate) fn check_name(roots: &Roots, name: &PodName) -> Result<(), Failure> {
    if let Life::Held(holder) = life_of(&roots.pod(name))? {
        let message =
            format!("pod `{name}` runs already, as {holder}; stop it with `pod stop {name}`, or choose another name");
        return Err(Failure::new(Exit::Held, message));
    }
    let parent = discovery::parent_name(roots, name).map_err(|error| Failure::from_error(Exit::Usage, error))?;
    match parent {
        None => Ok(()),
        Some(parent) => Err(Failure::usage(format!(
            "pod `{name}` is a child of `{parent}`, which has the beginning of its events; start it again with \
             `pod restore {name}`, or choose another name"
        ))),
    }
}
