//! What is over and long ago goes, so that a pod that has had a hundred thousand children is no slower than a new one.
//!
//! Seen entries of the inbox, lives that have ended and works that are settled, each beyond a generous number. The history
//! has all of them and is never touched. What tells a late frame from a new one stays: the watermark of every stream (some
//! 60 bytes for each store that ever reported), and for a day the keys of runs and notes. A late frame of a life whose row
//! has gone is refused like that of a stranger.
//!
//! Called where lives and turns end, and does something every few hundredth time.

use crate::id::{Incarnation, PodName, WorkId};
use crate::store::error::StoreError;
use crate::store::sql::{count, int};
use crate::store::tx::{Reads, Tx};

/// LIMIT: rows of one kind that go at once, so that a store of an earlier version is not held up by its past.
const AT_ONCE: i64 = 4096;
/// LIMIT: how long the key of a run or a note is known, in milliseconds: whoever repeats a request does so within minutes.
const KEYS_MS: u64 = 24 * 60 * 60 * 1000;

impl Reads<'_> {
    /// The last entry of the history that a report or note was told at whose own row has gone. Nobody can go back behind it:
    /// what was told since would have to be told again.
    pub(crate) fn told_apart_from(&self) -> Result<u64, StoreError> {
        self.meta_number("told_apart_from")
    }
}

impl Tx<'_> {
    /// Something is over.
    pub(crate) fn prune(&self) -> Result<(), StoreError> {
        let kept = self.limits().over_kept;
        let over = self.meta_number("over")?.saturating_add(1);
        if over < (kept / 16).max(1) {
            return self.set_meta_number("over", over);
        }
        self.set_meta_number("over", 0)?;
        self.prune_inbox(kept)?;
        self.prune_children(kept)?;
        self.prune_works(kept)
    }

    fn prune_inbox(&self, kept: u64) -> Result<(), StoreError> {
        let newest = "SELECT id FROM inbox ORDER BY id DESC LIMIT 1 OFFSET ?1";
        let Some(newest) = self.one(newest, [int(kept)], |row| row.get::<_, i64>(0))? else { return Ok(()) };
        let sql =
            "SELECT i.id, max(coalesce(i.history, 0), coalesce((SELECT history FROM turns t WHERE t.turn = i.turn), 0))
                   FROM inbox i WHERE i.id <= ?1 AND i.state = 'seen' AND (i.note IS NULL OR i.at < ?2)
                       AND NOT EXISTS (SELECT 1 FROM inbox_works iw JOIN works w ON w.work = iw.work
                                       WHERE iw.inbox = i.id AND w.state = 'open')
                   ORDER BY i.id LIMIT ?3";
        let over = self.all(sql, (newest, int(self.now().0.saturating_sub(KEYS_MS)), AT_ONCE), |row| {
            Ok((row.get::<_, i64>(0)?, count(row.get(1)?)))
        })?;
        let Some(told) = over.iter().map(|(_, told)| *told).max() else { return Ok(()) };
        self.set_meta_number("told_apart_from", told.max(self.told_apart_from()?))?;
        for (id, _) in over {
            self.run("DELETE FROM inbox_works WHERE inbox = ?1", [id])?;
            self.run("DELETE FROM told WHERE inbox = ?1", [id])?;
            self.run("DELETE FROM inbox WHERE id = ?1", [id])?;
        }
        Ok(())
    }

    fn prune_children(&self, kept: u64) -> Result<(), StoreError> {
        // Whose child another pod's is now stands nowhere else, and that child has yet to read it.
        let sql = "SELECT name, incarnation FROM children WHERE state = 'ended' AND moved_to IS NULL
                   ORDER BY ended_at DESC LIMIT ?1 OFFSET ?2";
        let over =
            self.all(sql, (AT_ONCE, int(kept)), |row| Ok((row.get::<_, PodName>(0)?, row.get::<_, Incarnation>(1)?)))?;
        for life in over {
            self.run("DELETE FROM descendants WHERE parent_name = ?1 AND parent_incarnation = ?2", (&life.0, life.1))?;
            self.run("DELETE FROM children WHERE name = ?1 AND incarnation = ?2", (&life.0, life.1))?;
        }
        Ok(())
    }

    fn prune_works(&self, kept: u64) -> Result<(), StoreError> {
        let sql = "SELECT work FROM works WHERE state = 'settled' AND (direction = 'delegated' OR settled_at < ?1)
                   ORDER BY settled_at DESC LIMIT ?2 OFFSET ?3";
        let before = int(self.now().0.saturating_sub(KEYS_MS));
        let over = self.all(sql, (before, AT_ONCE, int(kept)), |row| row.get::<_, WorkId>(0))?;
        for work in over {
            self.run("DELETE FROM turn_works WHERE work = ?1", [work])?;
            self.run("DELETE FROM inbox_works WHERE work = ?1", [work])?;
            self.run("DELETE FROM works WHERE work = ?1", [work])?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
