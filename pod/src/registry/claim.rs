//! Giving: what a life is to have among all, in one transaction.
//!
//! A claim is all of it or nothing: name, depth, place among the tree's pods, rate, and every right. Whoever stands in
//! its way is looked at outside the transaction; what is proven dead is taken back, and the claim is tried again.
//!
//! Used by `member`; `returns` takes back, `heirs` says what the dead leave to the next life of their name.

use std::path::{Path, PathBuf};

use rusqlite::{Transaction, params};

use super::budget::{self, Cap, Tokens, TreeLimits};
use super::heirs::{left_by, take_up, with_all_below};
use super::rows::{Tree, by_incarnation, insert, insert_tree, rules_of, scope_of, tree};
use super::{ClaimError, Registered, Registry, RegistryError, all, in_file, proof};
use crate::id::{Incarnation, PodId, PodName};
use crate::scope::{Confinement, Rules, ScopeRule};
use crate::store::UnixMillis;

/// LIMIT: how often one claim takes dead ones out of its way. Each time at least one has gone.
const ATTEMPTS_MAX: usize = 64;
/// LIMIT: lives without a lock that one refused claim looks at: each may take a look through the process table.
const SUSPECTS_MAX: usize = 64;

/// A life that is about to be reserved, or to begin.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which.
    pub pod: PodId,
    /// The kind of its worker.
    pub worker: String,
    /// Where its files are.
    pub state_dir: PathBuf,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a life comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Somebody starts it; it is the root of a tree.
    Root {
        /// The bounds of that tree.
        limits: TreeLimits,
        /// What it may use; everything that its user may, if nothing is said.
        scope: Option<Rules>,
        /// How the programs are confined that the pods of the tree run.
        confinement: Confinement,
    },
    /// A pod starts it.
    Child {
        /// Which.
        parent: PodId,
        /// What is asked for. Without any rule it gets what its parent has, for reading.
        asked: Rules,
    },
}

/// What a claim has given: a life's place among all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose.
    pub pod: PodId,
    /// The root of its tree.
    pub root: Incarnation,
    /// How far below it.
    pub depth: u32,
    /// The bounds of the tree.
    pub limits: TreeLimits,
    /// When the tree's time is over.
    pub ends_at: Option<UnixMillis>,
    /// What it may use; everything that its user may, if there is none.
    pub scope: Option<Rules>,
    /// How the programs that it runs are confined.
    pub confinement: Confinement,
}

/// A claim that cannot be granted now, and whose deaths would change that.
pub(super) struct Refused {
    error: ClaimError,
    suspects: Vec<Registered>,
}

impl Registry {
    /// Registers a life, with all that it asks for or not at all. Blocks, also for a look at those that stand in its
    /// way.
    ///
    /// # Errors
    /// [`ClaimError`]; nothing has then changed.
    pub fn claim(&self, claim: &Claim, now: UnixMillis) -> Result<Place, ClaimError> {
        let claim = claim.canonical();
        // A root without a store has not lived before, whatever had its name: it has spent nothing.
        let is_new = !claim.state_dir.join("store.db").exists();
        for _ in 0..ATTEMPTS_MAX {
            let Refused { error, suspects } = match self.transaction(|tx| try_claim(tx, &claim, is_new, now)) {
                Ok(place) => return Ok(place),
                Err(refused) => refused,
            };
            // A name is more than a right: behind it is what the dead life has left for its own parent.
            if let ClaimError::NameTaken { holder } = &error
                && let Some(parent) = suspects.first().and_then(|life| proof::awaits_burial(life, claim.parent()))
            {
                return Err(ClaimError::Unburied { holder: holder.clone(), parent });
            }
            let mut freed = false;
            // A look at a lock is cheap: nobody who is dead is missed for those who live.
            let unlocked = suspects.iter().filter(|suspect| proof::is_unlocked(&suspect.pod, &suspect.state_dir));
            for suspect in unlocked.take(SUSPECTS_MAX).filter(|suspect| proof::is_dead(suspect, now)) {
                // Somebody else may have been faster.
                self.give_back(&suspect.pod)?;
                freed = true;
            }
            if !freed {
                return Err(error);
            }
        }
        Err(ClaimError::Registry(RegistryError::Busy { path: self.path().to_owned() }))
    }

    /// Whether the root `name` may have `scope`, as things are now.
    ///
    /// # Errors
    /// Who stands in the way.
    pub fn is_free(&self, name: &PodName, scope: &Rules, now: UnixMillis) -> Result<(), ClaimError> {
        let scope = on_disk(scope.clone());
        let in_the_way = self.look(|tx| {
            let mut own = with_all_below(tx, &left_by(tx, name, None, Some(&scope))?)?;
            // Whether its earlier life is dead is decided where the name is claimed.
            own.extend(all(tx, "SELECT {} FROM pods WHERE name = ?1", [name])?.iter().map(|row| row.pod.incarnation));
            overlapping(tx, &scope, &own)
        })?;
        let alive = in_the_way.into_iter().find(|(holder, _)| !proof::is_dead(holder, now));
        alive.map_or(Ok(()), |(holder, path)| Err(ClaimError::Overlap { path, holder: holder.pod.name }))
    }

    /// The place of a life that was claimed.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn place(&self, pod: &PodId) -> Result<Option<Place>, RegistryError> {
        self.look(|tx| place_in(tx, pod))
    }

    /// The life that has the name, and its rules.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn named(&self, name: &PodName) -> Result<Option<(Registered, Vec<ScopeRule>)>, RegistryError> {
        self.look(|tx| {
            let Some(row) = all(tx, "SELECT {} FROM pods WHERE name = ?1", [name])?.pop() else { return Ok(None) };
            let rules = rules_of(tx, row.pod.incarnation)?.to_wire();
            Ok(Some((row, rules)))
        })
    }

    /// What the children of `parent` hold.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn lent(&self, parent: &PodId) -> Result<Vec<(PodId, Rules)>, RegistryError> {
        self.look(|tx| {
            let children = all(tx, "SELECT {} FROM pods WHERE parent = ?1 AND scoped", [parent.incarnation])?;
            children.into_iter().map(|row| Ok((row.pod.clone(), rules_of(tx, row.pod.incarnation)?))).collect()
        })
    }
}

impl Claim {
    /// The name of the pod that starts it.
    fn parent(&self) -> Option<&PodName> {
        match &self.origin {
            Origin::Root { .. } => None,
            Origin::Child { parent, .. } => Some(&parent.name),
        }
    }

    /// The same, with every target as the file system knows it: links are followed now, once, and never when the right
    /// is used.
    fn canonical(&self) -> Self {
        let mut claim = self.clone();
        match &mut claim.origin {
            Origin::Root { scope, .. } => *scope = scope.take().map(on_disk),
            Origin::Child { asked, .. } => *asked = on_disk(std::mem::take(asked)),
        }
        claim
    }
}

impl From<ClaimError> for Refused {
    fn from(error: ClaimError) -> Self {
        Self { error, suspects: Vec::new() }
    }
}

impl From<RegistryError> for Refused {
    fn from(error: RegistryError) -> Self {
        ClaimError::from(error).into()
    }
}

/// The rules with every target as the file system knows it. A target that somebody may write by another rule is none: it is
/// left out, before whoever may do so has made it a link.
fn on_disk(rules: Rules) -> Rules {
    rules.without_needless().map_targets(canonical)
}

/// The path with the links in the part of it that exists followed.
fn canonical(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|part| Some((part.canonicalize().ok()?, path.strip_prefix(part).ok()?)));
    match found {
        Some((real, rest)) if rest.as_os_str().is_empty() => real,
        Some((real, rest)) => real.join(rest),
        None => path.to_owned(),
    }
}

/// The place of `pod` as it is now, if it and its tree are known.
pub(super) fn place_in(tx: &Transaction<'_>, pod: &PodId) -> Result<Option<Place>, RegistryError> {
    let Some(row) = by_incarnation(tx, pod.incarnation)?.filter(|row| row.pod == *pod) else { return Ok(None) };
    let Some(tree) = tree(tx, row.root)? else { return Ok(None) };
    let scope = scope_of(tx, &row)?;
    let Registered { pod, root, depth, confinement, .. } = row;
    Ok(Some(Place { pod, root, depth, limits: tree.limits, ends_at: tree.ends_at, scope, confinement }))
}

fn try_claim(tx: &Transaction<'_>, claim: &Claim, is_new: bool, now: UnixMillis) -> Result<Place, Refused> {
    let named = all(tx, "SELECT {} FROM pods WHERE name = ?1", [&claim.pod.name])?;
    if let Some(holder) = named.first() {
        return Err(Refused { error: ClaimError::NameTaken { holder: holder.pod.clone() }, suspects: named });
    }
    match &claim.origin {
        Origin::Root { limits, scope, confinement } => {
            let heirs = left_by(tx, &claim.pod.name, None, scope.as_ref())?;
            if let Some(scope) = scope {
                refuse_overlap(tx, scope, &with_all_below(tx, &heirs)?)?;
            }
            let ends_at = budget::ends_at(limits.seconds, now);
            if is_new {
                let forget = "DELETE FROM spent WHERE root_name = ?1";
                tx.execute(forget, [&claim.pod.name]).map_err(|error| in_file(tx, error))?;
            }
            insert_tree(tx, &claim.pod, limits, ends_at, now)?;
            let place = Place {
                pod: claim.pod.clone(),
                root: claim.pod.incarnation,
                depth: 0,
                limits: *limits,
                ends_at,
                scope: scope.clone(),
                confinement: *confinement,
            };
            insert(tx, claim, None, &place, now)?;
            heirs.iter().try_for_each(|heir| take_up(tx, &place, heir))?;
            Ok(place)
        }
        Origin::Child { parent, asked } => {
            let unknown = || ClaimError::ParentUnknown { parent: parent.clone() };
            let parent = by_incarnation(tx, parent.incarnation)?.ok_or_else(unknown)?;
            let tree = tree(tx, parent.root)?.ok_or_else(unknown)?;
            let tokens = within_caps(tx, &parent, &tree, now)?;
            let scope = match scope_of(tx, &parent)? {
                None if asked.is_empty() => None,
                None => Some(asked.clone()),
                Some(has) if asked.is_empty() => Some(has.readable()),
                Some(has) => {
                    let given = has.delegate(asked).map_err(ClaimError::from)?;
                    Some(given.checked().map_err(ClaimError::from)?)
                }
            };
            let heirs = left_by(tx, &claim.pod.name, Some(parent.pod.incarnation), scope.as_ref())?;
            if let Some(scope) = &scope {
                let mut own = ancestors(tx, &parent)?;
                own.extend(with_all_below(tx, &heirs)?);
                refuse_overlap(tx, scope, &own)?;
            }
            let (root, depth, confinement) = (parent.root, parent.depth.saturating_add(1), parent.confinement);
            let (limits, ends_at) = (tree.limits, tree.ends_at);
            let place = Place { pod: claim.pod.clone(), root, depth, limits, ends_at, scope, confinement };
            let taken = insert(tx, claim, Some(&parent), &place, now)?;
            let sql = "UPDATE trees SET spawns = spawns + 1, tokens = ?2, refilled_at = ?3, taken = taken + ?4
                       WHERE root = ?1";
            tx.execute(sql, params![root, tokens.left, tokens.at, taken]).map_err(|error| in_file(tx, error))?;
            heirs.iter().try_for_each(|heir| take_up(tx, &place, heir))?;
            Ok(place)
        }
    }
}

/// The bounds of the tree, and what is left to be started at once if a child of `parent` is.
fn within_caps(tx: &Transaction<'_>, parent: &Registered, tree: &Tree, now: UnixMillis) -> Result<Tokens, Refused> {
    let limits = &tree.limits;
    if parent.depth >= limits.depth {
        return Err(ClaimError::from(Cap::Depth { max: limits.depth }).into());
    }
    if tree.ends_at.is_some_and(|end| end <= now) {
        return Err(ClaimError::from(Cap::WallTime { max: limits.seconds }).into());
    }
    let sql = "SELECT count(*) FROM pods WHERE root = ?1";
    let pods: u32 = tx.query_row(sql, [parent.root], |row| row.get(0)).map_err(|error| in_file(tx, error))?;
    if limits.pods > 0 && pods >= limits.pods {
        let suspects = all(tx, "SELECT {} FROM pods WHERE root = ?1 ORDER BY at", [parent.root])?;
        return Err(Refused { error: Cap::Pods { max: limits.pods }.into(), suspects });
    }
    if limits.spawns_per_minute == 0 {
        return Ok(tree.tokens);
    }
    let max = limits.spawns_per_minute;
    let rate = |retry_after_ms| Refused::from(ClaimError::from(Cap::SpawnRate { max, retry_after_ms }));
    tree.tokens.take(max, now).map_err(rate)
}

fn refuse_overlap(tx: &Transaction<'_>, scope: &Rules, own: &[Incarnation]) -> Result<(), Refused> {
    let in_the_way = overlapping(tx, scope, own)?;
    // Who holds it now, not who has lent it.
    let Some((holder, path)) = in_the_way.iter().max_by_key(|(holder, _)| holder.depth) else { return Ok(()) };
    let error = ClaimError::Overlap { path: path.clone(), holder: holder.pod.name.clone() };
    Err(Refused { error, suspects: in_the_way.into_iter().map(|(holder, _)| holder).collect() })
}

/// Who may write where `scope` may, and is not among `own`: those from whom it is taken, and those to whom it is lent.
fn overlapping(
    tx: &Transaction<'_>,
    scope: &Rules,
    own: &[Incarnation],
) -> Result<Vec<(Registered, PathBuf)>, RegistryError> {
    if !scope.writes() {
        return Ok(Vec::new());
    }
    let sql = "SELECT {} FROM pods WHERE incarnation IN (SELECT holder FROM leases WHERE permission = 'write')";
    let mut found = Vec::new();
    for holder in all(tx, sql, [])?.into_iter().filter(|holder| !own.contains(&holder.pod.incarnation)) {
        if let Some(path) = rules_of(tx, holder.pod.incarnation)?.overlap(scope) {
            found.push((holder, path));
        }
    }
    Ok(found)
}

/// `parent` and all above it.
fn ancestors(tx: &Transaction<'_>, parent: &Registered) -> Result<Vec<Incarnation>, RegistryError> {
    let mut found = vec![parent.pod.incarnation];
    let mut next = parent.parent.clone();
    while let Some(above) = next.filter(|above| !found.contains(&above.incarnation)) {
        found.push(above.incarnation);
        next = by_incarnation(tx, above.incarnation)?.and_then(|row| row.parent);
    }
    Ok(found)
}
