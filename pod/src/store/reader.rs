//! Looking into a store without being its owner.
//!
//! Reads every version that was ever shipped, without changing it. Read only: works beside a pod that is alive, and on what a dead one has left, write-ahead log included. Never makes
//! a file and never changes a row.
//!
//! Used by `pod log` and `pod ls`, and by a parent for the events of a child that has died.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::store::clock::Clock;
use crate::store::error::StoreError;
use crate::store::guard::{self, Extent};
use crate::store::head::{self, Seen, WentDown};
use crate::store::open::{self, Identity};
use crate::store::owner::Owner;
use crate::store::tx::Reads;

/// LIMIT: damages that are named; one is enough to know that the file must be replaced.
const DAMAGES_MAX: usize = 3;
/// LIMIT: up to this size, in bytes, all tables of a dead child's store are compared: tens of milliseconds.
const TOLD_WHOLE: u64 = 64 << 20;

/// A store that can be looked at. Every look blocks.
#[derive(Debug)]
pub struct StoreReader {
    conn: Connection,
    identity: Identity,
    path: PathBuf,
    /// What the head said before the file was opened.
    seen: Result<Option<Seen>, StoreError>,
}

impl StoreReader {
    /// Opens the store at `path`.
    ///
    /// # Errors
    /// If there is none, or it is not ours, newer or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let seen = head::read(path);
        let (conn, identity) = open::open_reader(path)?;
        Ok(Self { conn, identity, path: path.to_owned(), seen })
    }

    /// For a store that is not there, or empty: whether it never had a commit.
    ///
    /// # Errors
    /// `CommitsLost` or `WentDown` if it had; `HeadUnreadable` if that cannot be known.
    pub fn was_whole(path: impl AsRef<Path>) -> Result<(), StoreError> {
        let path = path.as_ref();
        lost(path, head::compare(path, head::read(path)?.as_ref(), 0)?)
    }

    /// Whose the store at `path` is; none if it does not say, or cannot be read now: its next life finds out. Blocks.
    pub(crate) fn owner_of(path: impl AsRef<Path>) -> Option<Owner> {
        Self::open(path).and_then(|reader| reader.look(|reads| reads.owner())).ok().flatten()
    }

    /// Whose store it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the file is as it was written, as far as can be told without reading its whole history: nothing of what had
    /// been committed is missing, and no table but the history holds other rows than it should. Entries of the history are
    /// compared as they are read. Takes as long as reading those tables.
    ///
    /// # Errors
    /// `Damaged`, `CommitsLost` or `WentDown` if it is not, `HeadUnreadable` if that cannot be known; else if it cannot be read.
    pub fn check(&self) -> Result<(), StoreError> {
        self.compare(Extent::All)?;
        self.seen.clone().map(drop)
    }

    /// The same for whoever has read the events, each of which is compared with its own sum: of a large file, the tables
    /// that only its owner needs are left out.
    pub(crate) fn check_told(&self) -> Result<(), StoreError> {
        let small = self.path.metadata().is_ok_and(|file| file.len() <= TOLD_WHOLE);
        self.compare(if small { Extent::All } else { Extent::Numbers })
    }

    fn compare(&self, extent: Extent) -> Result<(), StoreError> {
        let moment = self.conn.unchecked_transaction().map_err(|e| StoreError::sqlite("read", e))?;
        if let Some(commits) = guard::commits(&moment)? {
            lost(&self.path, head::compare(&self.path, self.seen.as_ref().ok().and_then(Option::as_ref), commits)?)?;
        }
        match guard::differing(&moment, extent)? {
            None => Ok(()),
            Some(detail) => Err(StoreError::Damaged { path: self.path.clone(), detail }),
        }
    }

    /// Reads the whole file, table by table, and compares its pages and rows with each other; `going` is told which table
    /// comes next, how many are done, and of how many. Returns what is wrong, in words; nothing, if nothing is. Takes as long
    /// as reading the file; a pod that lives goes on meanwhile.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn quick_check(&self, going: &mut dyn FnMut(&str, usize, usize)) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
        let tables: Vec<String> = self.conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut wrong = Vec::new();
        for (done, table) in tables.iter().enumerate() {
            going(table, done, tables.len());
            let check = format!("PRAGMA main.quick_check(\"{}\")", table.replace('"', "\"\""));
            let said: Vec<String> =
                self.conn.prepare(&check)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            wrong.extend(said.into_iter().filter(|said| said != "ok").take(DAMAGES_MAX));
        }
        wrong.truncate(DAMAGES_MAX);
        Ok(wrong)
    }

    /// Looks at what is committed. All of `look` sees one moment.
    ///
    /// # Errors
    /// What `look` returns, or why the file cannot be read.
    pub fn look<T>(&self, look: impl FnOnce(&Reads<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        // Dropped, and so rolled back, at the end: it has read and nothing else.
        let moment = self.conn.unchecked_transaction().map_err(|e| StoreError::sqlite("read", e))?;
        look(&Reads::new(&moment, Clock::System.now()))
    }
}

fn lost(path: &Path, lost: Option<WentDown>) -> Result<(), StoreError> {
    lost.map_or(Ok(()), |WentDown { had, has }| Err(StoreError::WentDown { path: path.to_owned(), had, has }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::WorkId;
    use crate::store::fixture::{self, pod};
    use crate::store::{Room, Store};

    #[tokio::test]
    async fn copy_that_sqlite_makes_of_a_living_store_is_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("store.db"), dir.path().join("copy.db"));
        let store = Store::open(&path, fixture::options("a")).unwrap();
        store.write(|tx| tx.raise(&fixture::turn_ended(&pod("a", 1), WorkId(1)), Room::Ordinary)).await.unwrap();
        // As the `sqlite3` program does it, which knows nothing of us.
        let conn = Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        conn.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
        store.write(|tx| tx.raise(&fixture::turn_ended(&pod("a", 1), WorkId(2)), Room::Ordinary)).await.unwrap();

        let reader = StoreReader::open(&copy).unwrap();
        reader.check().unwrap();
        assert_eq!(reader.quick_check(&mut |_, _, _| {}).unwrap(), Vec::<String>::new());
        assert_eq!(reader.identity(), store.identity());
        assert_eq!(reader.look(|reads| reads.outbox_head()).unwrap().0, 1);
        drop(reader);
        let restored = Store::open(&copy, fixture::options("a")).unwrap();
        assert_eq!(restored.read(|reads| reads.outbox_head()).await.unwrap().0, 1);
    }
}
