//! A life that goes from one parent to another: what the registry has to say to that, and what moves with it.
//!
//! One transaction: whoever could not have started the child does not get it, and nothing has then changed. Its rights, and those of
//! all below it, stay theirs; what is lent is the new parent's to get back, in the new tree's account.
//!
//! Asked by `member` before the old parent's store gives the child up.

use super::budget::Cap;
use super::claim::place_in;
use super::heirs::{take_up, with_all_below};
use super::rows::{by_incarnation, scope_of};
use super::{ClaimError, Place, Registry, in_file};
use crate::id::PodId;
use crate::scope::Rules;
use crate::store::Clock;

/// LIMIT: dead lives that are taken out of an adoption's way: each costs two looks through the process table.
const RECLAIMED_MAX: usize = 64;

impl Registry {
    /// Makes `child`, with all that is below it, a child of the life at `place`. One that nobody has registered has nothing that could
    /// move; one that is that life's already stays it. Returns what the child holds, if it has no more than that.
    ///
    /// # Errors
    /// [`ClaimError`]: that life is below the child, the tree's bounds do not allow it, or it has less than the child.
    pub fn adopt(&self, place: &Place, child: &PodId) -> Result<Option<Rules>, ClaimError> {
        match self.try_adopt(place, child) {
            // Whoever is dead and not taken out yet takes no place from the living.
            Err(ClaimError::Cap(Cap::Pods { max })) => {
                match self.reclaim(RECLAIMED_MAX, Clock::System.now())?.is_empty() {
                    true => Err(Cap::Pods { max }.into()),
                    false => self.try_adopt(place, child),
                }
            }
            done => done,
        }
    }

    fn try_adopt(&self, place: &Place, child: &PodId) -> Result<Option<Rules>, ClaimError> {
        self.transaction(|tx| {
            // As it is now: the tree may have moved, or its root may be another life, since `place` was looked at.
            let unknown = || ClaimError::ParentUnknown { parent: place.pod.clone() };
            let place = &place_in(tx, &place.pod)?.ok_or_else(unknown)?;
            let row = by_incarnation(tx, child.incarnation)?.filter(|row| row.pod == *child);
            let Some(row) = row else { return Ok(None) };
            let holds = scope_of(tx, &row)?;
            if row.parent.as_ref() == Some(&place.pod) {
                return Ok(holds);
            }
            let below = with_all_below(tx, std::slice::from_ref(&row))?;
            if below.contains(&place.pod.incarnation) {
                return Err(ClaimError::Circle { child: child.name.clone(), parent: place.pod.name.clone() });
            }
            let mut deepest = row.depth;
            for life in &below {
                deepest = deepest.max(by_incarnation(tx, *life)?.map_or(0, |found| found.depth));
            }
            let (max, levels) = (place.limits.depth, deepest.saturating_sub(row.depth).saturating_add(1));
            if place.depth.saturating_add(levels) > max {
                return Err(Cap::Depth { max }.into());
            }
            let sql = "SELECT count(*) FROM pods WHERE root = ?1";
            let pods: u32 = tx.query_row(sql, [place.root], |row| row.get(0)).map_err(|error| in_file(tx, error))?;
            let (max, coming) = (place.limits.pods, u32::try_from(below.len()).unwrap_or(u32::MAX));
            if row.root != place.root && max > 0 && pods.saturating_add(coming) > max {
                return Err(Cap::Pods { max }.into());
            }
            if let Some(has) = &place.scope {
                let Some(holds) = &holds else { return Err(ClaimError::Unbounded { child: child.name.clone() }) };
                has.delegate(holds)?;
            }
            take_up(tx, place, &row)?;
            Ok(holds)
        })
    }
}
