//! Turns: whether the tree of a pod may start one more, and how many it has started.
//!
//! A look waits for nobody; only a tree that counts its turns has one written down, before it starts. Every answer is about the tree
//! in which the pod is at that moment: it may have been adopted, or its root may have come back with other bounds.
//!
//! Asked by `member`; the bounds themselves are `budget`'s.

use rusqlite::{OptionalExtension as _, Transaction};

use super::claim::place_in;
use super::{Place, Registry, RegistryError, in_file};
use crate::id::{PodId, PodName};
use crate::protocol::TurnCap;
use crate::runtime_dir::Roots;
use crate::store::UnixMillis;

/// LIMIT: roots that are looked after by one that starts: each costs a look at a file.
const FORGOTTEN_MAX: u32 = 64;

impl Registry {
    /// The place of `pod` as it is now, and whether its tree may start one more turn. Counts nothing, and waits for nobody who writes.
    ///
    /// # Errors
    /// [`RegistryError`]; also if the life or its tree is not in it.
    pub fn may_start_turn(&self, pod: &PodId, now: UnixMillis) -> Result<(Place, Result<(), TurnCap>), RegistryError> {
        self.look(|tx| {
            let place = self.living(tx, pod)?;
            let verdict = match (over(&place, now), place.limits.turns) {
                (Some(cap), _) => Err(cap),
                (None, 0) => Ok(()),
                (None, max) if spent(tx, &place)? >= max => Err(TurnCap::Turns { max }),
                (None, _) => Ok(()),
            };
            Ok((place, verdict))
        })
    }

    /// Counts a turn that `pod` is about to start, or to be given: before that is committed, so that none is ever started
    /// uncounted. Whoever dies in between has counted one too many. Says where it is counted.
    ///
    /// # Errors
    /// `Ok(Err(_))` if its tree may start none; it is then not counted.
    pub fn take_turn(&self, pod: &PodId, now: UnixMillis) -> Result<Result<Place, TurnCap>, RegistryError> {
        self.transaction(|tx| {
            let place = self.living(tx, pod)?;
            if let Some(cap) = over(&place, now) {
                return Ok(Err(cap));
            }
            let max = place.limits.turns;
            if max == 0 {
                return Ok(Ok(place));
            }
            let max_stored = i64::try_from(max).unwrap_or(i64::MAX);
            let sql = "INSERT INTO spent (root_name, turns) SELECT root_name, 1 FROM trees WHERE root = ?1
                       ON CONFLICT (root_name) DO UPDATE SET turns = turns + 1 WHERE turns < ?2";
            let counted = tx.execute(sql, (place.root, max_stored)).map_err(|error| in_file(tx, error))?;
            Ok(if counted == 1 { Ok(place) } else { Err(TurnCap::Turns { max }) })
        })
    }

    /// So many turns that a pod had counted when it was at `counted_in` did not begin, and will not: that tree may start others.
    /// Nothing to do if that life of its root is no more.
    ///
    /// # Errors
    /// [`RegistryError`]: they stay counted.
    pub fn give_turns_back(&self, counted_in: &Place, turns: u32) -> Result<(), RegistryError> {
        self.transaction(|tx| {
            let sql = "UPDATE spent SET turns = max(0, turns - ?2)
                       WHERE root_name = (SELECT root_name FROM trees WHERE root = ?1)";
            tx.execute(sql, (counted_in.root, turns)).map(drop).map_err(|error| in_file(tx, error))
        })
    }

    /// Forgets what the trees of roots have spent that are no more: nobody lives of their trees, and there is no store that a next life
    /// could go on with. A few at a time.
    ///
    /// # Errors
    /// [`RegistryError`]; what is left is forgotten another time.
    pub(crate) fn forget_spent(&self, roots: &Roots) -> Result<(), RegistryError> {
        let sql = "SELECT root_name FROM spent WHERE root_name NOT IN (SELECT root_name FROM trees) LIMIT ?1";
        let left = self.look(|tx| {
            let read = || -> rusqlite::Result<Vec<PodName>> {
                tx.prepare(sql)?.query_map([FORGOTTEN_MAX], |row| row.get(0))?.collect()
            };
            read().map_err(|error| in_file(tx, error))
        })?;
        // Looked at outside of the transaction. A root that comes meanwhile without a store has spent nothing anyway.
        for gone in left.into_iter().filter(|name| !roots.pod(name).store().exists()) {
            self.transaction(|tx| {
                let sql = "DELETE FROM spent WHERE root_name = ?1 AND root_name NOT IN (SELECT root_name FROM trees)";
                tx.execute(sql, [&gone]).map(drop).map_err(|error| in_file(tx, error))
            })?;
        }
        Ok(())
    }

    fn living(&self, tx: &Transaction<'_>, pod: &PodId) -> Result<Place, RegistryError> {
        place_in(tx, pod)?.ok_or_else(|| {
            let reason = format!("{pod}, or its tree, is not in it, though it lives");
            RegistryError::Unusable { path: self.path().to_owned(), reason }
        })
    }
}

impl Place {
    /// Whether the tree has a bound that concerns turns.
    pub(crate) fn bounds_turns(&self) -> bool {
        self.limits.turns > 0 || self.ends_at.is_some()
    }
}

fn over(place: &Place, now: UnixMillis) -> Option<TurnCap> {
    let is_over = place.ends_at.is_some_and(|end| end <= now);
    is_over.then_some(TurnCap::WallTime { max_seconds: place.limits.seconds })
}

fn spent(tx: &Transaction<'_>, place: &Place) -> Result<u64, RegistryError> {
    let sql = "SELECT turns FROM spent WHERE root_name = (SELECT root_name FROM trees WHERE root = ?1)";
    let found: Option<i64> =
        tx.query_row(sql, [place.root], |row| row.get(0)).optional().map_err(|error| in_file(tx, error))?;
    Ok(found.and_then(|turns| u64::try_from(turns).ok()).unwrap_or(0))
}
