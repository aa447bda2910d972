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
use crate::store::guard;
use crate::store::head::{self, Seen};
use crate::store::open::{self, Identity};
use crate::store::tx::Reads;

/// A store that can be looked at. Every look blocks.
#[derive(Debug)]
pub struct StoreReader {
    conn: Connection,
    identity: Identity,
    path: PathBuf,
    /// What the head said before the file was opened.
    seen: Option<Seen>,
}

impl StoreReader {
    /// Opens the store at `path`.
    ///
    /// # Errors
    /// If there is none, or it is not ours, newer or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let seen = head::read(path).ok().flatten();
        let (conn, identity) = open::open_reader(path)?;
        Ok(Self { conn, identity, path: path.to_owned(), seen })
    }

    /// For a store that is not there, or empty: whether it never had a commit.
    ///
    /// # Errors
    /// `CommitsLost` if it had.
    pub fn was_whole(path: impl AsRef<Path>) -> Result<(), StoreError> {
        let path = path.as_ref();
        head::compare(path, head::read(path)?.as_ref(), 0)
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
    /// `Damaged` or `CommitsLost` if it is not; else if it cannot be read.
    pub fn check(&self) -> Result<(), StoreError> {
        let moment = self.conn.unchecked_transaction().map_err(|e| StoreError::sqlite("read", e))?;
        if let Some(commits) = guard::commits(&moment)? {
            head::compare(&self.path, self.seen.as_ref(), commits)?;
        }
        match guard::differing(&moment)? {
            None => Ok(()),
            Some(detail) => Err(StoreError::Damaged { path: self.path.clone(), detail }),
        }
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
