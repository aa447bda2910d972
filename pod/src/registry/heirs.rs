//! What a dead life leaves behind: children that live on, and that the next life of its name, or an adopter, takes up.
//!
//! What they may write was lent by the dead, and is lent by whoever takes them up: it is taken from no one twice.
//!
//! Used by `claim` and `member`, within their transactions.

use std::path::Path;

use rusqlite::Transaction;

use super::claim::{Place, place_in};
use super::rows::{by_incarnation, lease_for, rules_of};
use super::{Registered, Registry, RegistryError, all, in_file};
use crate::id::{Incarnation, PodId, PodName};
use crate::scope::Rules;

impl Registry {
    /// `parent`, whose place is `place`, has taken `child` up: its life goes on as one of the parent's tree.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn adopted(&self, place: &Place, child: &PodId) -> Result<(), RegistryError> {
        self.transaction(|tx| {
            let Some(row) = by_incarnation(tx, child.incarnation)? else { return Ok(()) };
            // As it is now: the tree may have moved, or its root may be another life, since `place` was looked at.
            let unknown = || {
                let reason = format!("{}, or its tree, is not in it, though it lives", place.pod);
                RegistryError::Unusable { path: self.path().to_owned(), reason }
            };
            take_up(tx, &place_in(tx, &place.pod)?.ok_or_else(unknown)?, &row)
        })
    }
}

/// The children that an earlier life of `name` has left, to the child of `under` or the root of that name, and that hold
/// nothing but parts of `scope`: what they hold is lent by the next life, as it was by that one. Another one's claim is
/// not theirs: whoever takes the name with less stands behind them as anybody does.
pub(super) fn left_by(
    tx: &Transaction<'_>,
    name: &PodName,
    under: Option<Incarnation>,
    scope: Option<&Rules>,
) -> Result<Vec<Registered>, RegistryError> {
    let sql = "SELECT {} FROM pods WHERE (instr(left_by, '/' || ?1 || '/') > 0 AND parent IS ?2)
                   OR parent IN (SELECT incarnation FROM pods WHERE name = ?1)";
    let mut heirs = Vec::new();
    for heir in all(tx, sql, (name, under))? {
        let lies_within = match scope {
            Some(scope) if heir.scoped => scope.delegate(&rules_of(tx, heir.pod.incarnation)?).is_ok(),
            _ => true,
        };
        if lies_within {
            heirs.push(heir);
        }
    }
    Ok(heirs)
}

/// `heads`, and all lives below them.
pub(super) fn with_all_below(tx: &Transaction<'_>, heads: &[Registered]) -> Result<Vec<Incarnation>, RegistryError> {
    let mut found: Vec<_> = heads.iter().map(|head| head.pod.incarnation).collect();
    let mut looked_at = 0;
    while let Some(next) = found.get(looked_at).copied() {
        looked_at += 1;
        let children = all(tx, "SELECT {} FROM pods WHERE parent = ?1", [next])?.into_iter();
        let new: Vec<_> = children.map(|row| row.pod.incarnation).filter(|life| !found.contains(life)).collect();
        found.extend(new);
    }
    Ok(found)
}

/// `child` goes on as a child of the life at `place`, and what it may write as taken from that one's.
pub(super) fn take_up(tx: &Transaction<'_>, place: &Place, child: &Registered) -> Result<(), RegistryError> {
    let (life, parent) = (child.pod.incarnation, place.pod.incarnation);
    let below = with_all_below(tx, std::slice::from_ref(child))?;
    let deeper = i64::from(place.depth) + 1 - i64::from(child.depth);
    let run = || {
        if child.root != place.root {
            // Taken from the one account and put into the other: in each, what has not come back is held by somebody. A tree whose
            // root is no more keeps its account for as long as anybody of it is left, who may go elsewhere.
            let sql = "SELECT count(*) FROM leases WHERE holder = ?1 AND permission = 'write'";
            let count = |life: &Incarnation| tx.query_row(sql, [life], |row| row.get::<_, i64>(0));
            let held = below.iter().map(count).sum::<rusqlite::Result<i64>>()?;
            tx.execute("UPDATE trees SET taken = taken - ?2 WHERE root = ?1", (child.root, held))?;
            tx.execute("UPDATE trees SET taken = taken + ?2 WHERE root = ?1", (place.root, held))?;
        }
        for life in &below {
            let sql = "UPDATE pods SET root = ?2, depth = max(0, depth + ?3) WHERE incarnation = ?1";
            tx.execute(sql, (life, place.root, deeper))?;
        }
        tx.execute(
            "UPDATE pods SET parent_name = ?2, parent = ?3, root = ?4,
                 left_by = CASE instr(left_by, '/' || ?2 || '/') WHEN 0 THEN '/'
                           ELSE substr(left_by, 1, instr(left_by, '/' || ?2 || '/')) END
             WHERE incarnation = ?1",
            (life, &place.pod.name, parent, place.root),
        )?;
        let mut written =
            tx.prepare_cached("SELECT id, target FROM leases WHERE holder = ?1 AND permission = 'write'")?;
        let written = written.query_map([life], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
        for lease in written.collect::<rusqlite::Result<Vec<_>>>()? {
            if let Some(from) = lease_for(tx, parent, Path::new(&lease.1))? {
                tx.execute("UPDATE leases SET taken_from = ?2 WHERE id = ?1", (lease.0, from))?;
            }
        }
        tx.execute(
            "DELETE FROM trees WHERE root = ?1 AND NOT EXISTS (SELECT 1 FROM pods WHERE root = ?1)",
            [child.root],
        )
    };
    run().map(drop).map_err(|error| in_file(tx, error))
}
