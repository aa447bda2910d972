//! Looking into a store without being its owner.
//!
//! Reads every version that was ever shipped, without changing it. Read only: works beside a pod that is alive, and on what a dead one has left, write-ahead log included. Never makes
//! a file and never changes a row.
//!
//! Used by `pod log` and `pod ls`, and by a parent for the events of a child that has died.

use std::path::Path;

use rusqlite::Connection;

use crate::store::clock::Clock;
use crate::store::error::StoreError;
use crate::store::open::{self, Identity};
use crate::store::tx::Reads;

/// A store that can be looked at. Every look blocks.
#[derive(Debug)]
pub struct StoreReader {
    conn: Connection,
    identity: Identity,
}

impl StoreReader {
    /// Opens the store at `path`.
    ///
    /// # Errors
    /// If there is none, or it is not ours, newer or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let (conn, identity) = open::open_reader(path.as_ref())?;
        Ok(Self { conn, identity })
    }

    /// Whose store it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
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
