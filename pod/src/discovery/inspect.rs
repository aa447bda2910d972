//! All that there is to know of one pod, alive or dead, from what it and its parent have committed.
//!
//! Reads files and life locks; asks nobody, so that a pod that does not answer is shown as well as any other. Blocks.
//!
//! Used by `pod inspect`, and by pods for those below them.

use std::collections::BTreeMap;

use super::way::{Parent, ParentSearch, parent_of, restorable};
use crate::id::PodName;
use crate::life_lock::{self, Life};
use crate::manifest::{Manifest, WorkerSpec};
use crate::protocol::{
    ChildOf, FindRejection, Kept, LAST_ENTRIES_MAX, LastEntry, LifeHolder, NAMES_BESIDE_MAX, OpenWork, ParentOf,
    PodReport, PodState, REPORT_LINES_MAX, StoreFacts, TargetFault, Text,
};
use crate::registry::{Registered, Registry};
use crate::runtime_dir::{PodPaths, Roots};
use crate::scope::ScopeRule;
use crate::scope::launch::confined;
use crate::store::{
    ChildRow, ChildState, Control, Direction, HistoryRow, StatusCounts, StoreError, StoreReader, WorkRow,
};

/// What a store says.
struct Found {
    counts: StatusCounts,
    control: Control,
    children: Vec<ChildRow>,
    received: Vec<WorkRow>,
    delegated: Vec<WorkRow>,
    last: Vec<HistoryRow>,
    schema: u32,
}

/// What there is to know of the pod `name`.
///
/// # Errors
/// There is none of that name, or the directory of all pods cannot be read. A store that cannot be read is part of the
/// report.
pub fn inspect(roots: &Roots, name: &PodName) -> Result<PodReport, FindRejection> {
    let paths = roots.pod(name);
    if !exists(&paths) {
        return Err(FindRejection::Target(missing(roots, name)));
    }
    let life = match life_lock::probe(&paths.life_lock()) {
        Ok(Life::Held(holder)) => {
            Some(LifeHolder { pid: holder.pid, incarnation: holder.pod.map(|pod| pod.incarnation) })
        }
        Ok(Life::Free) | Err(_) => None,
    };
    let parents = parent_of(roots, name)
        .map_err(|error| FindRejection::Unavailable { reason: Text::clipped(error.to_string()) })?;
    let found = read(&paths);
    let unreadable = found.as_ref().err().map(|error| Text::clipped(error.chain()));
    let found = found.ok().flatten();
    let restore = restorable(&paths, life.is_some(), &parents, unreadable.as_deref(), found.is_some());
    let store = StoreFacts {
        path: Text::clipped(paths.store().to_string_lossy()),
        bytes: bytes(&paths),
        schema: found.as_ref().map_or(0, |found| found.schema),
        unreadable,
    };
    let worker = worker(&paths, &parents);
    let registered = registered(roots, name);
    let scope = parents.found.as_ref().map(|parent| parent.row.scope.clone());
    let scope = scope.unwrap_or_else(|| registered.as_ref().map(|(_, scope)| scope.clone()).unwrap_or_default());
    let found = found.unwrap_or_default();
    let works = found.received.iter().chain(&found.delegated).take(REPORT_LINES_MAX).map(open_work);
    Ok(PodReport {
        name: name.clone(),
        parent: parents.found.as_ref().map(as_parent),
        state: if life.is_some() { found.control.state } else { at_rest(found.control.state) },
        life,
        turn: found.control.turn,
        blocked_by: found.counts.blocked_by,
        worker,
        scope: listed(scope),
        confined: registered.map(|(life, _)| confined(life.confinement, life.scoped)),
        children: listed(newest(found.children).into_iter().take(REPORT_LINES_MAX).collect()),
        children_live: found.counts.children_live,
        children_total: found.counts.children_total,
        works: listed(works.collect()),
        works_received_open: found.counts.works_received_open,
        works_delegated_open: found.counts.works_delegated_open,
        runs_staged: found.counts.runs_staged,
        inbox_waiting: found.counts.inbox_waiting,
        outbox_pending: found.counts.outbox_pending,
        outbox_undeliverable: found.counts.outbox_undeliverable,
        outbox_acked: found.counts.outbox_acked,
        outbox_last_outcome: found.counts.outbox_last_outcome.map(Text::clipped),
        history: found.counts.history,
        last: listed(found.last.iter().map(last_entry).collect()),
        store,
        restore,
    })
}

/// Whether there is such a pod, alive or dead.
pub(crate) fn exists(paths: &PodPaths) -> bool {
    paths.store().exists() || paths.life_lock().exists()
}

/// There is none of that name; these there are.
pub(crate) fn missing(roots: &Roots, name: &PodName) -> TargetFault {
    let mut beside = roots.pods().unwrap_or_default();
    beside.truncate(NAMES_BESIDE_MAX);
    TargetFault::Missing { name: name.clone(), beside: rpc::List::try_from(beside).unwrap_or_default() }
}

fn read(paths: &PodPaths) -> Result<Option<Found>, StoreError> {
    if !paths.store().exists() {
        return Ok(None);
    }
    let reader = match StoreReader::open(paths.store()) {
        Err(StoreError::Empty { .. }) => return Ok(None),
        opened => opened?,
    };
    let found = reader.look(|reads| {
        let counts = reads.status_counts()?;
        let last = u64::try_from(LAST_ENTRIES_MAX).unwrap_or(u64::MAX);
        Ok(Found {
            control: reads.control()?,
            children: reads.children()?,
            received: reads.works(Direction::Received, true)?,
            delegated: reads.works(Direction::Delegated, true)?,
            // Entries are counted without gaps.
            last: reads.history_after(counts.history.saturating_sub(last), u32::try_from(last).unwrap_or(u32::MAX))?,
            schema: reads.schema()?,
            counts,
        })
    })?;
    Ok(Some(found))
}

impl Default for Found {
    fn default() -> Self {
        let control = Control { state: PodState::Idle, turn: None, runs_staged: 0, wakes_due: false, next_due: None };
        let (counts, schema) = (StatusCounts::default(), 0);
        Self {
            counts,
            control,
            children: Vec::new(),
            received: Vec::new(),
            delegated: Vec::new(),
            last: Vec::new(),
            schema,
        }
    }
}

/// No turn survives a process; what is paused or blocked is so in the next life.
fn at_rest(state: PodState) -> PodState {
    if state == PodState::Running { PodState::Idle } else { state }
}

fn as_parent(parent: &Parent) -> ParentOf {
    ParentOf {
        name: parent.name.clone(),
        alive: parent.alive,
        knows: parent.row.pod.incarnation,
        kept: Kept { restarts: parent.restarts, ..parent.row.kept(&[]) },
    }
}

/// What its parent has recorded, or else its manifest.
fn worker(paths: &PodPaths, parents: &ParentSearch) -> Option<Text<64>> {
    let recorded =
        parents.found.as_ref().and_then(|parent| serde_json::from_str::<WorkerSpec>(&parent.row.worker).ok());
    let spec = recorded.or_else(|| Manifest::read(&paths.manifest()).ok().map(|manifest| manifest.worker));
    spec.map(|spec| Text::clipped(spec.kind))
}

/// What the registry has of the life of that name, if it has one and can be read: a root's scope, too. None is made for that.
fn registered(roots: &Roots, name: &PodName) -> Option<(Registered, Vec<ScopeRule>)> {
    let registry = Registry::at(roots);
    registry.path().exists().then_some(())?;
    let found = registry.named(name).inspect_err(|error| tracing::warn!(%error, "the registry cannot be read"));
    found.ok().flatten()
}

/// Of each name the newest life; those that live first.
fn newest(children: Vec<ChildRow>) -> Vec<ChildOf> {
    let known = children.clone();
    let newest: BTreeMap<PodName, ChildRow> = children.into_iter().map(|row| (row.pod.name.clone(), row)).collect();
    let mut rows: Vec<ChildRow> = newest.into_values().collect();
    rows.sort_by_key(|row| row.state == ChildState::Ended);
    let lines = rows.into_iter().map(|row| ChildOf {
        pid: row.pid.filter(|_| row.state != ChildState::Ended),
        state: Text::clipped(row.state.word()),
        kept: row.kept(&known),
        pod: row.pod,
    });
    lines.collect()
}

fn open_work(work: &WorkRow) -> OpenWork {
    OpenWork {
        work: work.work,
        child: work.child.as_ref().map(|child| child.name.clone()),
        since_ms: work.at.0,
        turn: work.turn,
        input: Text::clipped(&work.input),
    }
}

fn last_entry(row: &HistoryRow) -> LastEntry {
    LastEntry { seq: row.seq, at_ms: row.at.0, turn: row.turn, kind: Text::clipped(row.item.kind()) }
}

/// The store with its write-ahead log.
fn bytes(paths: &PodPaths) -> u64 {
    let store = paths.store();
    let log = store.with_extension("db-wal");
    [store, log].iter().filter_map(|path| path.metadata().ok()).map(|found| found.len()).sum()
}

fn listed<T, const MAX: usize>(mut lines: Vec<T>) -> rpc::List<T, MAX> {
    lines.truncate(MAX);
    rpc::List::try_from(lines).unwrap_or_default()
}
