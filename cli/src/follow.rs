//! Reading a pod's committed history as it grows.
//!
//! Reads the store's file, read only, like anybody else: what it shows has been committed. Every read blocks for some
//! milliseconds at most; called from the command's own thread, on which no other task runs.
//!
//! Used by `live` while a tree runs, by `results` afterwards, and by `pod log`.

use std::path::PathBuf;

use pod::runtime_dir::PodPaths;
use pod::store::{HistoryRow, Reads, StoreError, StoreReader};

use crate::account::Account;
use crate::exit::Exit;
use crate::failure::Failure;

/// LIMIT: entries in memory at once; with what one may hold, a few megabytes.
const PAGE: u32 = 512;

/// A pod's history, read so far, and what it says about children.
#[derive(Debug)]
pub(crate) struct Follower {
    reader: StoreReader,
    path: PathBuf,
    cursor: u64,
    pub(crate) account: Account,
}

impl Follower {
    /// Opens the store of a pod.
    pub(crate) fn open(paths: &PodPaths) -> Result<Self, Failure> {
        let path = paths.store();
        let reader = StoreReader::open(&path).map_err(|error| failure(paths.name().as_str(), error))?;
        Ok(Self { reader, path, cursor: 0, account: Account::default() })
    }

    /// Begins behind the entry `cursor`; what stands before it is not taken into account.
    pub(crate) fn skip_to(&mut self, cursor: u64) {
        self.cursor = cursor;
    }

    /// Reads what is new and hands each entry to `each`.
    pub(crate) fn catch_up(
        &mut self,
        mut each: impl FnMut(&HistoryRow, &Account) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let cursor = self.cursor;
            let rows = self.look(|reads| reads.history_after(cursor, PAGE))?;
            let Some(last) = rows.last() else { return Ok(()) };
            self.cursor = last.seq;
            for row in &rows {
                self.account.add(row);
                each(row, &self.account)?;
            }
        }
    }

    /// Reads something else from the same store.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Reads<'_>) -> Result<T, StoreError>) -> Result<T, Failure> {
        self.reader.look(look).map_err(|error| failure(&self.path.display().to_string(), error))
    }
}

fn failure(whose: &str, error: StoreError) -> Failure {
    Failure::new(Exit::Internal, format!("the history of `{whose}` cannot be read")).because(error)
}
