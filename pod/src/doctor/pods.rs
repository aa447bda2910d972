//! Each pod by itself: its files, its life lock, its store.

use std::path::{Path, PathBuf};

use super::Going;
use super::finding::{Check, Finding, Report, Severity};
use super::places::others_may_use;
use crate::id::{Incarnation, PodName};
use crate::life_lock::{self, Holder, Life};
use crate::runtime_dir::{PodPaths, Roots};
use crate::store::{ChildRow, StatusCounts, StoreError, StoreReader};

/// LIMIT: a write-ahead log larger than this, in bytes, is not what a checkpoint leaves: something holds it up.
const LOG_LARGE: u64 = 256 << 20;

/// What is known of a pod.
pub(super) struct Examined {
    pub(super) name: PodName,
    pub(super) paths: PodPaths,
    /// None, if its lock cannot be looked at.
    life: Option<Life>,
    /// What the last holder of its lock has said, dead or alive.
    pub(super) last: Holder,
    /// None, if its store cannot be read.
    pub(super) record: Option<Record>,
}

/// What its store says.
pub(super) struct Record {
    pub(super) counts: StatusCounts,
    pub(super) children: Vec<ChildRow>,
}

impl Examined {
    /// Whether it is proven that no life of it lives.
    pub(super) fn is_free(&self) -> bool {
        self.life == Some(Life::Free)
    }

    /// Whether its life lock cannot be looked at.
    pub(super) fn is_unknown(&self) -> bool {
        self.life.is_none()
    }

    pub(super) fn holder(&self) -> Option<&Holder> {
        match &self.life {
            Some(Life::Held(holder)) => Some(holder),
            _ => None,
        }
    }

    /// Whether `life` of it lives; also if it cannot be known.
    pub(super) fn may_live(&self, life: Incarnation) -> bool {
        match &self.life {
            Some(Life::Free) => false,
            // One that has just taken the lock has not said who it is yet.
            Some(Life::Held(holder)) => holder.pod.as_ref().is_none_or(|pod| pod.incarnation == life),
            None => true,
        }
    }
}

pub(super) fn examine(roots: &Roots, report: &mut Report, going: &mut dyn FnMut(Going<'_>)) -> Vec<Examined> {
    let names = match roots.pods() {
        Ok(names) => names,
        Err(error) => {
            report.add(
                Finding::at(Check::Root, Severity::Problem, roots.state_root(), error.to_string())
                    .because("no pod below it can be found")
                    .remedy("make it readable for yourself"),
            );
            return Vec::new();
        }
    };
    let examined: Vec<Examined> = names.into_iter().map(|name| examine_pod(roots, name, report, going)).collect();
    report.pods = examined.len() as u64;
    report.living = examined.iter().filter(|pod| pod.holder().is_some()).count() as u64;
    examined
}

fn examine_pod(roots: &Roots, name: PodName, report: &mut Report, going: &mut dyn FnMut(Going<'_>)) -> Examined {
    let paths = roots.pod(&name);
    others_may_use(paths.state_dir(), Check::Mode, Severity::Problem, report);
    let files = std::fs::read_dir(paths.state_dir()).into_iter().flatten().flatten();
    for file in files.map(|file| file.path()).filter(|file| file.symlink_metadata().is_ok_and(|found| !found.is_dir()))
    {
        others_may_use(&file, Check::Mode, Severity::Warning, report);
    }
    let lock = paths.life_lock();
    let life = match life_lock::probe(&lock) {
        Ok(life) => Some(life),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            report.add(
                Finding::at(Check::LifeLock, Severity::Problem, &lock, format!("{error}{cause}"))
                    .because("nobody can know whether the pod lives, and it cannot start")
                    .remedy("make it a plain file of yours with mode 600; never remove it while the pod may live"),
            );
            None
        }
    };
    let record = examine_store(&name, &paths, life.as_ref() != Some(&Life::Free), report, going);
    Examined { last: life_lock::last_holder(&lock), name, paths, life, record }
}

fn examine_store(
    name: &PodName,
    paths: &PodPaths,
    may_live: bool,
    report: &mut Report,
    going: &mut dyn FnMut(Going<'_>),
) -> Option<Record> {
    let path = paths.store();
    let reader = match StoreReader::open(&path) {
        Ok(reader) => reader,
        // A pod that was never started, or that is just starting; or one whose store was taken away.
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return was_there(&path, report);
        }
        Err(StoreError::Empty { .. }) => return was_there(&path, report),
        Err(error) => {
            report.add(unusable(&path, &error));
            return None;
        }
    };
    let read = reader.quick_check(&mut |table, done, of| going(Going { pod: name, table, done, of }));
    let whole = match read {
        Ok(damage) if damage.is_empty() => reader.check(),
        Ok(damage) => Err(StoreError::Damaged { path: path.clone(), detail: damage.join("; ") }),
        Err(error) => Err(error),
    };
    match whole {
        Ok(()) => {}
        Err(error @ StoreError::WentDown { .. }) => report.add(
            Finding::at(Check::Store, Severity::Warning, &path, error.chain())
                .because("what it had acked last is gone; nothing else is wrong with it")
                .remedy("nothing, or restore a copy of it before its pod starts"),
        ),
        Err(error) => {
            report.add(unusable(&path, &error));
            return None;
        }
    }
    if reader.identity().pod != *name {
        let what = format!("it belongs to pod `{}`", reader.identity().pod);
        report.add(
            Finding::at(Check::Store, Severity::Problem, &path, what)
                .because("the pod refuses it, and does not start")
                .remedy("move it where it belongs: a pod cannot be renamed by moving its files"),
        );
    }
    let log = path.with_extension("db-wal");
    let bytes = log.metadata().map_or(0, |found| found.len());
    if bytes > LOG_LARGE {
        let who = if may_live { "something reads the store and does not end" } else { "the next start takes it over" };
        report.add(
            Finding::at(Check::Store, Severity::Warning, &log, format!("the write-ahead log has {} MiB", bytes >> 20))
                .because("it grows until nobody reads what it replaces; reading gets slower, and the disk fuller")
                .remedy(format!("{who}; never remove it: what is committed stands in it")),
        );
    }
    let looked = reader.look(|reads| Ok(Record { counts: reads.status_counts()?, children: reads.children()? }));
    match looked {
        Ok(record) => Some(record),
        Err(error) => {
            report.add(unusable(&path, &error));
            None
        }
    }
}

/// A store that is not there, or empty: something is wrong if it once had a commit.
fn was_there(path: &Path, report: &mut Report) -> Option<Record> {
    if let Err(error) = StoreReader::was_whole(path) {
        report.add(unusable(path, &error));
    }
    None
}

fn unusable(path: &Path, error: &StoreError) -> Finding {
    let remedy = match error {
        StoreError::Newer { .. } => "use the newer program; nothing is wrong with the file",
        StoreError::HeadUnreadable { .. } => {
            "remove the file that it names; nothing is known to be wrong with the store"
        }
        StoreError::CommitsLost { .. } => "restore all its files, or do what it says to go on without them",
        StoreError::Foreign { .. } => "move it away; the pod then starts anew",
        StoreError::Damaged { .. } => {
            "restore a copy of it, or move it away to start anew; docs/OPERATIONS.md says how"
        }
        _ => "see to what the system says, and look again",
    };
    Finding::at(Check::Store, Severity::Problem, path, error.chain())
        .because("the pod does not start, and what it has committed and not reported cannot be read")
        .remedy(remedy)
}

/// Where the store of a child was, as its parent knows it.
pub(super) fn lies_elsewhere(row: &ChildRow, paths: &PodPaths) -> Option<PathBuf> {
    (row.store != paths.store()).then(|| row.store.clone())
}
