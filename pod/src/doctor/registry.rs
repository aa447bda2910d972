//! What all pods share: whether the registry is whole, and says what locks and processes say.
//!
//! A life in it that is over is in nobody's way for long: whoever is refused because of it looks at it, and takes it out. It
//! is told, and taken out by `--fix`, for whoever wonders.

use super::finding::{Check, Finding, Report, Severity};
use super::places::others_may_use;
use super::pods::Examined;
use crate::registry::{Registered, Registry, RegistryError};
use crate::runtime_dir::Roots;
use crate::store::{Clock, UnixMillis};

/// LIMIT: lives that are looked at closely: each may take two looks through the process table.
const LOOKED_AT: usize = 1024;
/// LIMIT: names in one finding.
const NAMES_MAX: usize = 8;

const SHARED: &str = "no pod starts without it, and living ones cannot give children names or rights";

pub(super) fn examine(roots: &Roots, pods: &[Examined], report: &mut Report) {
    let registry = Registry::at(roots);
    let path = registry.path();
    for ending in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        // One that this very process has open is left alone: closing it once would give up its locks.
        if !pods.iter().any(|pod| pod.holder().is_some_and(|holder| holder.pid == Some(std::process::id()))) {
            others_may_use(name.as_ref(), Check::Registry, Severity::Problem, report);
        }
    }
    let living = pods.iter().filter(|pod| pod.holder().is_some()).count();
    let found = match registry.examine() {
        Ok(Some(found)) => found,
        Ok(None) if living == 0 => return,
        Ok(None) => {
            report.add(
                Finding::at(
                    Check::Registry,
                    Severity::Problem,
                    path,
                    format!("it is not there, and {living} pods live"),
                )
                .because(SHARED)
                .remedy("restart the roots of all trees; the first to start makes it anew"),
            );
            return;
        }
        Err(error) => {
            report.add(unusable(&registry, &error));
            return;
        }
    };
    let lives = found.lives.len();
    report.fact("registry", format!("{lives} lives, {} rights to write", found.writes), "names and rights of all pods");
    astray(&registry, found.astray, report);
    left_over(&registry, &found.lives, report);
    for pod in pods {
        let Some(life) = pod.holder().and_then(|holder| holder.pod.as_ref()) else { continue };
        if !found.lives.iter().any(|row| row.pod == *life) {
            report.add(
                Finding::new(
                    Check::Registry,
                    Severity::Warning,
                    format!("pod `{}`", pod.name),
                    "it lives, and the registry does not know it",
                )
                .because("it can start no children, and nobody is kept from writing what it writes")
                .remedy("look again, for it may just be starting; if it stays so, stop it and start it again"),
            );
        }
    }
}

/// Rights of nobody.
fn astray(registry: &Registry, astray: u64, report: &mut Report) {
    if astray == 0 {
        return;
    }
    let what = format!("{astray} rights or bounds in it belong to no life");
    let finding = Finding::at(Check::Registry, Severity::Warning, registry.path(), what)
        .because("nobody has them, and nobody gives them back")
        .remedy("take them out with --fix");
    report.add_mending(finding, || match registry.take_out_astray() {
        Ok(taken) => Ok(format!("{taken} were taken out")),
        Err(error) => Err(error.to_string()),
    });
}

/// Lives that are over.
fn left_over(registry: &Registry, lives: &[Registered], report: &mut Report) {
    let now = || -> UnixMillis { Clock::System.now() };
    let over: Vec<_> = lives.iter().take(LOOKED_AT).filter(|life| registry.is_left_over(life, now())).collect();
    if over.is_empty() {
        return;
    }
    let names: Vec<_> = over.iter().take(NAMES_MAX).map(|life| format!("`{}`", life.pod.name)).collect();
    let more = if over.len() > NAMES_MAX { ", .." } else { "" };
    let what = format!("{} lives in it are over ({}{more})", over.len(), names.join(", "));
    let finding = Finding::at(Check::Registry, Severity::Note, registry.path(), what)
        .because("their names and rights are free: whoever is refused because of them takes them out first")
        .remedy("nothing, or take them out with --fix");
    report.add_mending(finding, || {
        let mut taken = 0;
        for life in over {
            // Once more: a look may be long ago, and what is dead stays dead.
            if registry.is_left_over(life, now()) {
                taken += usize::from(registry.give_back(&life.pod).map_err(|error| error.to_string())?);
            }
        }
        Ok(format!("{taken} were taken out"))
    });
}

fn unusable(registry: &Registry, error: &RegistryError) -> Finding {
    let remedy = match error {
        RegistryError::Newer { .. } => "use the newer program; nothing is wrong with the file",
        RegistryError::Busy { .. } => {
            "look for a pod that is halted (`ps` shows state T), continue or end it, and look again"
        }
        RegistryError::DiskFull { .. } => "free some space; nothing of it is lost",
        RegistryError::Unusable { .. } => {
            "end all pods, move it and the files of that name beside it away, and start them again"
        }
        _ => "see to what the system says, and look again",
    };
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Finding::at(Check::Registry, Severity::Problem, registry.path(), format!("{error}{cause}"))
        .because(SHARED)
        .remedy(remedy)
}
