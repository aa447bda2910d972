//! Which worker a child process runs.
//!
//! A program that hosts pods calls [`host`] first thing in `main`: started as a child it becomes that pod and never
//! returns; started by a person it goes on.
//!
//! The child's environment names it and its parent; what it runs stands in its parent's store, under the incarnation
//! that its parent chose before the fork.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustix::process::{Pid, getppid};
use tokio::io::unix::AsyncFd;

use super::Worker;
use super::command::CommandWorker;
use super::ledger::Ledger;
use super::scripted::Script;
use crate::error::in_one_line;
use crate::handle::{PodController, PodOptions};
use crate::manifest::{ManifestError, WorkerSpec};
use crate::runtime_dir::Roots;
use crate::signals::Signals;
use crate::spawn::process::watch_death;
use crate::spawn::supervisor::{CHILD_VARIABLE, ChildConfig};
use crate::store::{Lifetime, StoreReader};

type Factory = dyn Fn(&WorkerSpec) -> Result<Box<dyn Worker>, ManifestError> + Send + Sync;

/// The workers that a program can host, by name.
#[derive(Clone)]
pub struct Workers {
    factories: BTreeMap<String, Arc<Factory>>,
}

/// What a child knows of itself and its parent, once both are checked.
#[derive(Debug)]
pub(crate) struct ChildEnvironment {
    pub(crate) config: ChildConfig,
    /// The parent's process; none, if that was dead before this one began.
    pub(crate) parent: Option<AsyncFd<std::os::fd::OwnedFd>>,
    /// Whether it ends with its parent.
    pub(crate) lifetime: Lifetime,
    /// Signals that ask it to end are heard from its very beginning.
    pub(crate) signals: Signals,
}

impl Workers {
    /// `command`, `scripted` and `ledger`.
    pub fn builtin() -> Self {
        Self { factories: BTreeMap::new() }
            .with("command", |spec| Ok(Box::new(CommandWorker::from_spec(spec)?)))
            .with("scripted", |spec| Ok(Box::new(Script::from_spec(spec)?)))
            .with("ledger", |_| Ok(Box::new(Ledger)))
    }

    /// The same, and workers of the kind `name` as `make` makes them.
    #[must_use]
    pub fn with(
        mut self,
        name: impl Into<String>,
        make: impl Fn(&WorkerSpec) -> Result<Box<dyn Worker>, ManifestError> + Send + Sync + 'static,
    ) -> Self {
        self.factories.insert(name.into(), Arc::new(make));
        self
    }

    /// The kinds of workers that there are, by name.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.factories.keys().map(String::as_str)
    }

    /// The worker that `spec` describes.
    ///
    /// # Errors
    /// Names the kind and those that there are, or the key that is wrong.
    pub fn make(&self, spec: &WorkerSpec) -> Result<Box<dyn Worker>, ManifestError> {
        match self.factories.get(&spec.kind) {
            Some(make) => make(spec),
            None => Err(ManifestError::UnknownKey {
                place: "worker".into(),
                key: spec.kind.clone(),
                known: self.factories.keys().cloned().collect(),
            }),
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.factories.keys()).finish()
    }
}

/// Runs this process as the child pod that it was started as, and exits; returns at once if it was started as anything
/// else. To be called before anything else is done, in particular before a runtime is made.
pub fn host(workers: &Workers) {
    crate::scope::launch::become_program_if_told();
    let Some(config) = std::env::var_os(CHILD_VARIABLE) else { return };
    close_inherited();
    let code = match run(workers, &config.to_string_lossy()) {
        Ok(()) => 0,
        Err(error) => {
            // Its parent quotes this.
            eprintln!("pod: {}", in_one_line(&*error));
            1
        }
    };
    std::process::exit(code);
}

fn run(workers: &Workers, config: &str) -> Result<(), Box<dyn std::error::Error>> {
    let config: ChildConfig = serde_json::from_str(config).map_err(|e| {
        format!("{CHILD_VARIABLE} is set and is no child's configuration ({e}); unset it to run as a command")
    })?;
    crate::failpoint::set_pod(config.pod.name.as_str());
    let parent = Pid::from_raw(config.parent_pid.cast_signed()).ok_or("the parent's process number is none")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // The row says that this life is wanted, and what it is.
        let reader = StoreReader::open(&config.parent_store)?;
        let row = reader.look(|reads| reads.child(&config.pod))?.filter(|row| row.terminal.is_none());
        let row = row.ok_or_else(|| format!("parent {} does not expect pod {}", config.parent, config.pod))?;
        drop(reader);
        let spec: WorkerSpec = serde_json::from_str(&row.worker)?;
        let roots = Roots::resolve(None)?;
        let stderr = roots.pod(&config.pod.name).stderr();
        let options = PodOptions::new(config.pod.name.clone(), spec)
            .roots(roots)
            .workers(workers.clone())
            .durability(config.durability);
        let watched = watch_death(parent);
        // Looked at after the descriptor is there: what it watches is our parent, and not who has its number now.
        let parent = if getppid() == Some(parent) { Some(watched?) } else { None };
        // Before it is ready: from then on a signal is a wish and no longer an end.
        let signals = Signals::listen()?;
        let child = ChildEnvironment { config, parent, lifetime: row.lifetime, signals };
        tokio::spawn(crate::spawn::stderr::keep_bounded(stderr));
        let handle = PodController::start(options, Some(child)).await?;
        handle.wait().await;
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    runtime.shutdown_background();
    Ok(())
}

/// Closes every descriptor but the standard ones: what our parent had open without saying that it is not to be
/// inherited is none of ours. Nothing of this process is open yet.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let inherited: Vec<i32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for descriptor in inherited.into_iter().filter(|descriptor| *descriptor > 2) {
        // The one by which the directory was read is closed already: EBADF.
        let _ = nix::unistd::close(descriptor);
    }
}
