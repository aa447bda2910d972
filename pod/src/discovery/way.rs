//! The way to a pod: it lives, its parent restores it, or it is run again from its manifest.
//!
//! A pod whose events somebody has the beginning of is restored by that one alone: run by itself it would report to nobody.
//! Looks and changes nothing. Blocks.
//!
//! Used by `inspect`, and by `pod restore`, which goes it.

use super::inspect::{exists, missing};
use crate::id::PodName;
use crate::life_lock::{self, Holder, Life};
use crate::manifest::Manifest;
use crate::protocol::{Restore, RestoreRejection, Text};
use crate::runtime_dir::{DirError, PodPaths, Roots};
use crate::store::{ChildRow, Owner, StoreError, StoreReader, UnixMillis};

/// How a pod is reached.
#[derive(Clone, Debug)]
pub enum Way {
    /// It lives.
    Lives(Holder),
    /// Its parent lives and restores it.
    ByParent(PodName),
    /// It is a root: what it was started as is recorded.
    ByManifest(Box<Manifest>),
}

/// Whose child a pod is, or was last.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    pub(crate) name: PodName,
    /// The newest life of the child that it knows.
    pub(crate) row: ChildRow,
    /// How often it has started it again.
    pub(crate) restarts: u32,
    pub(crate) alive: bool,
}

/// What was found of a pod's parent.
#[derive(Clone, Debug, Default)]
pub(crate) struct ParentSearch {
    pub(crate) found: Option<Parent>,
    /// Whose the pod's own store says that it is.
    pub(crate) owner: Option<Owner>,
    /// Pods whose stores cannot be read: if the pod's own store does not say, one of them may be it.
    pub(crate) unread: Vec<PodName>,
}

/// Asks the pod's own store whose it is, and that pod's for the newest life of `name`. If it does not say, or that pod knows of
/// none, looks through what all pods know of their children.
pub(crate) fn parent_of(roots: &Roots, name: &PodName) -> Result<ParentSearch, DirError> {
    let owner = StoreReader::owner_of(roots.pod(name).store());
    let mut search = ParentSearch { owner: owner.clone(), ..ParentSearch::default() };
    match owner {
        // What strangers' stores hold, and whether they can be read, is then the same.
        Some(Owner::Nobody) => return Ok(search),
        Some(Owner::Parent(parent)) => {
            look_through(roots, name, vec![parent], &mut search);
            if search.found.is_some() {
                return Ok(search);
            }
            search.unread.clear();
        }
        None => {}
    }
    look_through(roots, name, roots.pods()?, &mut search);
    Ok(search)
}

fn look_through(roots: &Roots, name: &PodName, others: Vec<PodName>, search: &mut ParentSearch) {
    for other in others.into_iter().filter(|other| other != name) {
        let paths = roots.pod(&other);
        if !paths.store().exists() {
            continue;
        }
        let looked = StoreReader::open(paths.store()).and_then(|reader| {
            reader.look(|reads| Ok(reads.child_by_name(name)?.zip(reads.restarts_since(name, UnixMillis(0)).ok())))
        });
        match looked {
            Ok(Some((row, _))) if row.moved_to.is_some() => {}
            Ok(Some((row, restarts))) if search.found.as_ref().is_none_or(|known| known.row.at <= row.at) => {
                let restarts = u32::try_from(restarts).unwrap_or(u32::MAX);
                search.found = Some(Parent { alive: lives(&paths), name: other, row, restarts });
            }
            // Whoever made it died before it wrote: it never had a child.
            Ok(_) | Err(StoreError::Empty { .. }) => {}
            Err(_) => search.unread.push(other),
        }
    }
}

/// Whether the pod could be restored, and how. `unreadable` is what is wrong with its store.
pub(crate) fn restorable(
    paths: &PodPaths,
    alive: bool,
    parents: &ParentSearch,
    unreadable: Option<&str>,
    has_store: bool,
) -> Restore {
    let no = |reason: String| Restore::No { reason: Text::clipped(reason) };
    if alive {
        return Restore::Lives;
    }
    if let Some(why) = unreadable {
        return no(format!("its store cannot be used: {why}"));
    }
    match &parents.found {
        Some(Parent { name, alive: true, .. }) => return Restore::ByParent { parent: name.clone() },
        Some(Parent { name, alive: false, .. }) => {
            return no(format!(
                "its parent `{name}` does not run, and only that may start it; run `pod restore {name}` first"
            ));
        }
        None => {}
    }
    let name = paths.name();
    if let Some(Owner::Parent(parent)) = &parents.owner {
        return no(format!(
            "it is a child of `{parent}`, whose store does not know it or cannot be read; `pod inspect {parent}` says why"
        ));
    }
    if let Some(unread) = parents.unread.first().filter(|_| parents.owner.is_none()) {
        return no(format!(
            "whether it is a child of `{unread}` cannot be told, whose store cannot be read; `pod inspect {unread}` says why"
        ));
    }
    if !has_store {
        return no("it has committed nothing; start it anew with `pod serve`".to_owned());
    }
    match Manifest::read(&paths.manifest()) {
        Ok(manifest) if manifest.pod.name == *name => Restore::ByManifest,
        Ok(manifest) => no(format!("its manifest `{}` is that of `{}`", paths.manifest().display(), manifest.pod.name)),
        Err(error) => no(format!("it is no child, and what it was started as is not recorded: {error}")),
    }
}

/// The way to the pod `name`.
///
/// # Errors
/// There is no such pod, or none that could be restored, and why.
pub fn way(roots: &Roots, name: &PodName) -> Result<Way, RestoreRejection> {
    let paths = roots.pod(name);
    if !exists(&paths) {
        return Err(RestoreRejection::Target(missing(roots, name)));
    }
    if let Ok(Life::Held(holder)) = life_lock::probe(&paths.life_lock()) {
        return Ok(Way::Lives(holder));
    }
    let not = |reason: Text<512>| RestoreRejection::NotRestorable { name: name.clone(), reason };
    let parents = parent_of(roots, name).map_err(|error| not(Text::clipped(error.to_string())))?;
    let store = paths.store().exists().then(|| StoreReader::open(paths.store()));
    let unreadable = match &store {
        Some(Err(error)) => Some(error.chain()),
        _ => None,
    };
    match restorable(&paths, false, &parents, unreadable.as_deref(), store.is_some()) {
        // It began to live just now.
        Restore::Lives => Ok(Way::Lives(Holder::default())),
        Restore::ByParent { parent } => Ok(Way::ByParent(parent)),
        Restore::No { reason } => Err(not(reason)),
        Restore::ByManifest => match Manifest::read(&paths.manifest()) {
            Ok(manifest) => Ok(Way::ByManifest(Box::new(manifest))),
            Err(error) => Err(not(Text::clipped(error.to_string()))),
        },
    }
}

/// The parent of which `name` is a child, or was last: who alone may start it.
///
/// # Errors
/// If the directory of all pods cannot be read.
pub fn parent_name(roots: &Roots, name: &PodName) -> Result<Option<PodName>, DirError> {
    let search = parent_of(roots, name)?;
    let recorded = match search.owner {
        Some(Owner::Parent(parent)) => Some(parent),
        Some(Owner::Nobody) | None => None,
    };
    Ok(search.found.map(|parent| parent.name).or(recorded))
}

fn lives(paths: &PodPaths) -> bool {
    matches!(life_lock::probe(&paths.life_lock()), Ok(Life::Held(_)))
}
