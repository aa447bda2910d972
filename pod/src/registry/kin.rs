//! Whose program a process is: which pods are processes of a line, and who is above a pod.
//!
//! Looks, at one moment, and changes nothing but what a life says of its own process. A row is believed as far as the life
//! lock of its pod bears it out.
//!
//! Asked by `admission` once a connection.

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{Registered, Registry, RegistryError, all, in_file};
use crate::admission::Process;
use crate::id::{Incarnation, PodId};
use crate::life_lock::{self, Life};

/// What the registry knows of a line of processes, and of the pod that somebody of it asks.
#[derive(Debug, Default)]
pub(crate) struct Kin {
    /// The living pods that are processes of the line, with the place in it.
    pub(crate) pods: Vec<(usize, Registered)>,
    /// The lives whose marks are borne by somebody of the line.
    pub(crate) marked: Vec<Registered>,
    /// The pod that is asked, its parent, and all above it.
    pub(crate) asked: Vec<Incarnation>,
}

impl Registry {
    /// The life `pod` is `process`.
    ///
    /// # Errors
    /// [`RegistryError`]; it is then known by its life lock alone.
    pub(crate) fn is_process(&self, pod: &PodId, process: Process) -> Result<(), RegistryError> {
        self.transaction(|tx| {
            let sql = "UPDATE pods SET process = ?2, began = ?3 WHERE incarnation = ?1";
            let row = params![pod.incarnation, process.pid, ticks(process)];
            tx.execute(sql, row).map(drop).map_err(|error| in_file(tx, error))
        })
    }

    /// Which process the life `pod` has said that it is; none if it has not, or is not registered.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub(crate) fn process_of(&self, pod: &PodId) -> Result<Option<Process>, RegistryError> {
        self.look(|tx| {
            let sql = "SELECT process, began FROM pods WHERE incarnation = ?1 AND name = ?2 AND process IS NOT NULL";
            let read = |row: &rusqlite::Row<'_>| {
                Ok(Process { pid: row.get(0)?, began: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(u64::MAX) })
            };
            tx.query_row(sql, params![pod.incarnation, pod.name], read).optional().map_err(|error| in_file(tx, error))
        })
    }

    /// Runs `work` while nobody else uses this connection.
    #[cfg(test)]
    pub(crate) fn held_while(&self, work: impl FnOnce()) {
        let _ = self.look(|_| {
            work();
            Ok(())
        });
    }

    /// Whether any life here has a scope.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub(crate) fn any_scoped(&self) -> Result<bool, RegistryError> {
        self.look(|tx| {
            let sql = "SELECT EXISTS (SELECT 1 FROM pods WHERE scoped)";
            tx.query_row(sql, [], |row| row.get(0)).map_err(|error| in_file(tx, error))
        })
    }

    /// What is known of the processes `line`, of which some bear the marks of `lives`, and of the pod `asked`.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub(crate) fn kin(&self, asked: &PodId, line: &[Process], lives: &[Incarnation]) -> Result<Kin, RegistryError> {
        let mut kin = self.look(|tx| {
            let mut kin = Kin { asked: line_of(tx, asked.incarnation)?, ..Kin::default() };
            for (at, process) in line.iter().enumerate() {
                let sql = "SELECT {} FROM pods WHERE process = ?1 AND began = ?2";
                kin.pods.extend(all(tx, sql, (process.pid, ticks(*process)))?.into_iter().map(|row| (at, row)));
            }
            // Those that have not said yet which process they are, and those that could not.
            for row in all(tx, "SELECT {} FROM pods WHERE process IS NULL", [])? {
                kin.pods.push((usize::MAX, row));
            }
            for life in lives {
                kin.marked.extend(all(tx, "SELECT {} FROM pods WHERE incarnation = ?1", [life])?);
            }
            Ok(kin)
        })?;
        // Outside of the transaction: files are looked at.
        kin.pods.retain_mut(|(at, row)| match life_lock::probe(&row.state_dir.join("life.lock")) {
            Ok(Life::Held(holder)) if holder.pod.as_ref() == Some(&row.pod) => {
                let is_it = |process: &Process| u32::try_from(process.pid).ok() == holder.pid;
                if *at == usize::MAX {
                    *at = line.iter().position(is_it).unwrap_or(usize::MAX);
                }
                // A number and a moment of another boot, or as another process namespace has them, are somebody else's here.
                line.get(*at).is_some_and(is_it)
            }
            // Rows stay until what a life has started is proven dead, too; its process is not it any more.
            _ => false,
        });
        Ok(kin)
    }
}

/// As SQLite has numbers. LIMIT: ticks of three thousand million years.
fn ticks(process: Process) -> i64 {
    i64::try_from(process.began).unwrap_or(i64::MAX)
}

/// The life and all above it, as far as they are registered.
fn line_of(tx: &Transaction<'_>, life: Incarnation) -> Result<Vec<Incarnation>, RegistryError> {
    let mut found = vec![life];
    while let Some(last) = found.last().copied() {
        let sql = "SELECT parent FROM pods WHERE incarnation = ?1";
        let above = tx.query_row(sql, [last], |row| row.get::<_, Option<Incarnation>>(0)).optional();
        match above.map_err(|error| in_file(tx, error))?.flatten() {
            Some(above) if !found.contains(&above) => found.push(above),
            _ => break,
        }
    }
    Ok(found)
}
