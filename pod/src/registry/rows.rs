//! Rows as values, and values as rows: lives, their rights, and trees.
//!
//! Decides nothing, and opens no transaction. What cannot be read gives no right.
//!
//! Used by what decides: `claim`, `returns`, `heirs`.

use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::budget::{Tokens, TreeLimits};
use super::claim::{Claim, Place};
use super::{Registered, RegistryError, all, in_file};
use crate::id::{Incarnation, PodId};
use crate::scope::rules::Rule;
use crate::scope::{Permission, Rules};
use crate::store::UnixMillis;

/// The bounds of a tree, and what is left of them.
pub(super) struct Tree {
    pub(super) limits: TreeLimits,
    pub(super) ends_at: Option<UnixMillis>,
    pub(super) tokens: Tokens,
}

/// Writes the life and its rights. Returns how many rights to write were taken from its parent.
pub(super) fn insert(
    tx: &Transaction<'_>,
    claim: &Claim,
    parent: Option<&Registered>,
    place: &Place,
    now: UnixMillis,
) -> Result<u32, RegistryError> {
    let run = || {
        tx.execute(
            "INSERT INTO pods (incarnation, name, parent_name, parent, root, depth, worker, state_dir, scoped, confinement, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                place.pod.incarnation,
                place.pod.name,
                parent.map(|parent| &parent.pod.name),
                parent.map(|parent| parent.pod.incarnation),
                place.root,
                place.depth,
                claim.worker,
                claim.state_dir.to_string_lossy(),
                place.scope.is_some(),
                place.confinement.word(),
                now,
            ],
        )?;
        let mut taken = 0;
        for rule in place.scope.iter().flat_map(Rules::iter) {
            let writes = rule.permission == Permission::Write;
            let from = match parent {
                Some(parent) if writes => lease_for(tx, parent.pod.incarnation, &rule.target)?,
                _ => None,
            };
            taken += u32::from(writes && parent.is_some());
            tx.execute(
                "INSERT INTO leases (holder, target, permission, recursive, taken_from) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    place.pod.incarnation,
                    rule.target.to_string_lossy(),
                    rule.permission.word(),
                    rule.recursive,
                    from
                ],
            )?;
        }
        Ok(taken)
    };
    run().map_err(|error| in_file(tx, error))
}

/// The lease of `holder` from which a right to write `target` is taken.
pub(super) fn lease_for(tx: &Transaction<'_>, holder: Incarnation, target: &Path) -> rusqlite::Result<Option<i64>> {
    let mut statement =
        tx.prepare_cached("SELECT id, target FROM leases WHERE holder = ?1 AND permission = 'write'")?;
    let rows = statement.query_map([holder], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let mut covering = Vec::new();
    for row in rows {
        let (id, own) = row?;
        if target.starts_with(&own) {
            covering.push((own.len(), id));
        }
    }
    Ok(covering.into_iter().max().map(|(_, id)| id))
}

pub(super) fn insert_tree(
    tx: &Transaction<'_>,
    root: &PodId,
    limits: &TreeLimits,
    ends_at: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<(), RegistryError> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let sql =
        "INSERT INTO trees (root, at, depth_max, pods_max, children_max, spawns_per_minute, turns_max, seconds_max,
                                  ends_at, tokens, refilled_at, root_name)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?6, ?2, ?10)";
    let TreeLimits { depth, pods, children, spawns_per_minute, turns, seconds } = *limits;
    let row = params![
        root.incarnation,
        now,
        depth,
        pods,
        children,
        spawns_per_minute,
        number(turns),
        number(seconds),
        ends_at,
        root.name
    ];
    tx.execute(sql, row).map(drop).map_err(|error| in_file(tx, error))
}

pub(super) fn tree(tx: &Transaction<'_>, root: Incarnation) -> Result<Option<Tree>, RegistryError> {
    let sql = "SELECT depth_max, pods_max, children_max, spawns_per_minute, turns_max, seconds_max, ends_at, tokens,
                      refilled_at FROM trees WHERE root = ?1";
    let read = |row: &rusqlite::Row<'_>| {
        let number = |at| Ok::<_, rusqlite::Error>(u64::try_from(row.get::<_, i64>(at)?).unwrap_or(0));
        let limits = TreeLimits {
            depth: row.get(0)?,
            pods: row.get(1)?,
            children: row.get(2)?,
            spawns_per_minute: row.get(3)?,
            turns: number(4)?,
            seconds: number(5)?,
        };
        Ok(Tree { limits, ends_at: row.get(6)?, tokens: Tokens { left: row.get(7)?, at: row.get(8)? } })
    };
    tx.query_row(sql, [root], read).optional().map_err(|error| in_file(tx, error))
}

pub(super) fn by_incarnation(tx: &Transaction<'_>, life: Incarnation) -> Result<Option<Registered>, RegistryError> {
    Ok(all(tx, "SELECT {} FROM pods WHERE incarnation = ?1", [life])?.pop())
}

pub(super) fn scope_of(tx: &Transaction<'_>, row: &Registered) -> Result<Option<Rules>, RegistryError> {
    if row.scoped { rules_of(tx, row.pod.incarnation).map(Some) } else { Ok(None) }
}

/// A word that is no permission is a deny: what cannot be read gives no right.
pub(super) fn rules_of(tx: &Transaction<'_>, holder: Incarnation) -> Result<Rules, RegistryError> {
    let read = || {
        let sql = "SELECT target, permission, recursive FROM leases WHERE holder = ?1 ORDER BY id";
        let mut statement = tx.prepare_cached(sql)?;
        let rows = statement.query_map([holder], |row| {
            let permission = Permission::from_word(&row.get::<_, String>(1)?).unwrap_or(Permission::Deny);
            Ok(Rule { target: PathBuf::from(row.get::<_, String>(0)?), permission, recursive: row.get(2)? })
        })?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map(Rules::from_parts).map_err(|error| in_file(tx, error))
}
