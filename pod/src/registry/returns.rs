//! Taking back: what a life had is everybody's again, once, when it and all that it has started are proven dead.
//!
//! Doing it twice does nothing more: the life's row goes with its rights, and is there once. What its own children hold goes
//! on (`heirs`).
//!
//! Used by `claim` for what is in its way, by `member` for buried children, by `start` and `pod doctor`.

use rusqlite::OptionalExtension as _;

use super::rows::by_incarnation;
use super::{Registered, Registry, RegistryError, all, in_file, proof};
use crate::id::{Incarnation, PodId};
use crate::runtime_dir::Roots;
use crate::spawn::process::kill_programs_of_all;
use crate::store::UnixMillis;

impl Registry {
    /// Whether nobody is this life any more and nobody has yet to start or to bury it, so that what it has left running may be
    /// ended. Blocks.
    pub(crate) fn is_over(&self, life: &Registered, now: UnixMillis) -> bool {
        proof::is_over(life, now)
    }

    /// Ends what is left of dead lives below `roots` that their parent has buried, and takes them out, if they are there. Returns
    /// those that are not there any more; the others, or something that they have started, are not proven dead yet. The process table
    /// is read as often for many as for one. Blocks until what is killed is gone, for a few seconds.
    ///
    /// # Errors
    /// [`RegistryError`]; what was taken out until then stays out.
    pub(crate) fn take_back(&self, pods: &[PodId], roots: &Roots) -> Result<Vec<PodId>, RegistryError> {
        let found = self.look(|tx| {
            let row = |pod: &PodId| Ok(by_incarnation(tx, pod.incarnation)?.filter(|row| row.pod == *pod));
            pods.iter().map(row).collect::<Result<Vec<_>, RegistryError>>()
        })?;
        let mut back: Vec<PodId> =
            pods.iter().zip(&found).filter(|(_, row)| row.is_none()).map(|(pod, _)| pod.clone()).collect();
        let is_unlocked = |row: &Registered| proof::is_unlocked(&row.pod, &row.state_dir);
        let mut dead: Vec<Registered> = found.into_iter().flatten().filter(is_unlocked).collect();
        for is_last in [false, true] {
            let gone: Vec<PodId> = proof::have_left_nothing(&dead).into_iter().map(|row| row.pod.clone()).collect();
            for pod in &gone {
                self.give_back(pod)?;
            }
            dead.retain(|row| !gone.contains(&row.pod));
            back.extend(gone);
            if is_last || dead.is_empty() {
                break;
            }
            let lives: Vec<Incarnation> = dead.iter().map(|row| row.pod.incarnation).collect();
            kill_programs_of_all(&lives, roots);
        }
        Ok(back)
    }

    /// Takes a life out, and its rights back. Only for one that is proven dead, or was never reserved. False if it was
    /// not there any more. What its own children hold goes on, as taken from where it had it, until a later life of its
    /// name takes them up.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing has then changed.
    pub fn give_back(&self, pod: &PodId) -> Result<bool, RegistryError> {
        self.transaction(|tx| {
            let Some(row) = by_incarnation(tx, pod.incarnation)?.filter(|row| row.pod == *pod) else {
                return Ok(false);
            };
            let life = row.pod.incarnation;
            let (parent_name, parent) = row.parent.map(|parent| (parent.name, parent.incarnation)).unzip();
            let run = || {
                tx.execute(
                    "UPDATE leases SET taken_from = (SELECT d.taken_from FROM leases d WHERE d.id = leases.taken_from)
                     WHERE taken_from IN (SELECT id FROM leases WHERE holder = ?1)",
                    [life],
                )?;
                tx.execute(
                    "UPDATE pods SET parent_name = ?2, parent = ?3, left_by = left_by || ?4 || '/' WHERE parent = ?1",
                    (life, &parent_name, parent, &row.pod.name),
                )?;
                if parent.is_some() {
                    tx.execute(
                        "UPDATE trees SET returned = returned
                             + (SELECT count(*) FROM leases WHERE holder = ?2 AND permission = 'write')
                         WHERE root = ?1",
                        (row.root, life),
                    )?;
                }
                tx.execute("DELETE FROM pods WHERE incarnation = ?1", [life])?;
                tx.execute(
                    "DELETE FROM trees WHERE root = ?1 AND NOT EXISTS (SELECT 1 FROM pods WHERE root = ?1)",
                    [row.root],
                )
            };
            run().map_err(|error| in_file(tx, error))?;
            Ok(true)
        })
    }

    /// Takes out the lives that are proven dead and that nobody has taken out, at most `max`, the oldest first. Returns
    /// them. Blocks for as long as looking at them takes.
    ///
    /// # Errors
    /// [`RegistryError`]; what was taken out until then stays out.
    pub fn reclaim(&self, max: usize, now: UnixMillis) -> Result<Vec<PodId>, RegistryError> {
        let rows = self.look(|tx| all(tx, "SELECT {} FROM pods ORDER BY at", []))?;
        let mut reclaimed = Vec::new();
        for row in rows {
            if reclaimed.len() < max && proof::is_dead(&row, now) && self.give_back(&row.pod)? {
                reclaimed.push(row.pod);
            }
        }
        Ok(reclaimed)
    }

    /// How many rights to write the tree's children were given, and how many of them have come back.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn balance(&self, root: Incarnation) -> Result<(u32, u32), RegistryError> {
        self.look(|tx| {
            let sql = "SELECT taken, returned FROM trees WHERE root = ?1";
            let found = tx.query_row(sql, [root], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?))).optional();
            Ok(found.map_err(|error| in_file(tx, error))?.unwrap_or_default())
        })
    }
}
