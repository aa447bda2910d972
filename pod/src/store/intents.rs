//! What is to be done outside this file because of something that is committed in it.
//!
//! Written in the transaction that makes it necessary, carried out afterwards, as often as it takes: carrying one out
//! twice does nothing more. Never before an ack, and never against a later life.
//!
//! Replayed by `controller` at start and after a child's end.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::id::{PodId, PodName};
use crate::runtime_dir;
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::sql::{count, from_json, int, to_json};
use crate::store::tx::{Reads, Tx};

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Its number.
    pub id: u64,
    /// What it is.
    pub kind: IntentKind,
}

/// What may be to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "intent", rename_all = "snake_case")]
#[non_exhaustive]
pub enum IntentKind {
    /// The runtime directory of a life that is over is to be removed.
    ReclaimRuntimeDir {
        /// The life.
        pod: PodId,
        /// Its directory.
        dir: PathBuf,
    },
    /// The name and the rights of a life that is over are to be given back to the registry.
    ReturnLeases {
        /// The life.
        pod: PodId,
    },
    /// A child that has ended is to be started again, as its policy says.
    Restart {
        /// The life that is over.
        pod: PodId,
        /// When its next one is to begin.
        due: UnixMillis,
    },
}

/// Does what `intent` says, as far as it is about files of a pod. Blocks for a few file operations. What the registry has
/// to learn is its holder's to tell.
///
/// # Errors
/// If it could not be done: it stays to be done.
pub fn carry_out(intent: &Intent) -> io::Result<()> {
    match &intent.kind {
        IntentKind::ReclaimRuntimeDir { pod, dir } => reclaim(pod, dir),
        IntentKind::ReturnLeases { pod } => Err(io::Error::other(format!("what {pod} had is the registry's"))),
        IntentKind::Restart { pod, .. } => Err(io::Error::other(format!("{pod} is its parent's to start again"))),
    }
}

/// Removes `dir`, if it is still the one of that life.
fn reclaim(pod: &PodId, dir: &Path) -> io::Result<()> {
    match runtime_dir::claimed_by(dir)? {
        Some(life) if life == pod.incarnation => runtime_dir::remove(dir),
        // Nobody's any more, or a later life's.
        _ => Ok(()),
    }
}

impl Reads<'_> {
    /// What is to be done, oldest first.
    ///
    /// # Errors
    /// If the file or a row cannot be read.
    pub fn intents(&self) -> Result<Vec<Intent>, StoreError> {
        let rows = self.all("SELECT id, body FROM intents ORDER BY id", [], |row| {
            Ok((count(row.get(0)?), row.get::<_, String>(1)?))
        })?;
        let intents = rows.into_iter().map(|(id, body)| Ok(Intent { id, kind: from_json("an intent", &body)? }));
        intents.collect()
    }
}

impl Tx<'_> {
    /// It was done.
    ///
    /// # Errors
    /// If it cannot be written: it is then done once more.
    pub fn intent_done(&self, id: u64) -> Result<(), StoreError> {
        self.run("DELETE FROM intents WHERE id = ?1", [int(id)])?;
        Ok(())
    }

    pub(crate) fn push_intent(&self, name: &PodName, kind: &IntentKind) -> Result<(), StoreError> {
        let body = to_json("an intent", kind)?;
        self.run("INSERT INTO intents (at, name, body) VALUES (?1, ?2, ?3)", (self.now(), name, body))?;
        Ok(())
    }

    /// What was still to be removed of `name` is not. What its earlier lives have to give back is still to be given.
    pub(crate) fn keep_runtime_dir_of(&self, name: &PodName) -> Result<(), StoreError> {
        let sql = "DELETE FROM intents WHERE name = ?1 AND json_extract(body, '$.intent') = 'reclaim_runtime_dir'";
        self.run(sql, [name])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime_dir::Roots;
    use crate::store::fixture::pod;

    fn reclaim_of(pod: &PodId, dir: &Path) -> Intent {
        Intent { id: 1, kind: IntentKind::ReclaimRuntimeDir { pod: pod.clone(), dir: dir.to_owned() } }
    }

    #[test]
    fn directory_of_a_dead_life_is_removed_and_that_of_its_successor_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::at(&dir.path().join("root")).unwrap();
        let (old, new) = (pod("b", 1), pod("b", 2));
        let paths = roots.pod(&old.name);

        paths.claim(&old).unwrap();
        std::fs::write(paths.socket(), "").unwrap();
        carry_out(&reclaim_of(&old, paths.runtime_dir())).unwrap();
        assert!(!paths.runtime_dir().exists());
        carry_out(&reclaim_of(&old, paths.runtime_dir())).unwrap();

        paths.claim(&new).unwrap();
        carry_out(&reclaim_of(&old, paths.runtime_dir())).unwrap();
        assert!(paths.runtime_dir().exists(), "a late intent removed the new life's directory");
    }
}
