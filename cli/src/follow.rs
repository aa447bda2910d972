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

/// What stands next in a history.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// An entry.
    Row(&'a HistoryRow),
    /// Entries that are damaged or missing.
    Hole { first: u64, last: u64, why: &'a str },
}

impl Follower {
    /// Opens the store of a pod.
    pub(crate) fn open(paths: &PodPaths) -> Result<Self, Failure> {
        let path = paths.store();
        let reader = StoreReader::open(&path).map_err(|error| failure(paths.name().as_str(), error))?;
        Ok(Self { reader, path, cursor: 0, account: Account::default() })
    }

    /// Takes into account what `account` says that it is of.
    pub(crate) fn for_account(self, account: Account) -> Self {
        Self { account, ..self }
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

    /// The same, past what is damaged or missing, which stands in the place of what cannot be read.
    pub(crate) fn catch_up_past_holes(
        &mut self,
        mut each: impl FnMut(Found<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut limit = PAGE;
        loop {
            let cursor = self.cursor;
            match self.reader.look(|reads| reads.history_after(cursor, limit)) {
                Ok(rows) if rows.is_empty() => return Ok(()),
                Ok(rows) => {
                    for row in &rows {
                        self.account.add(row);
                        each(Found::Row(row))?;
                        self.cursor = row.seq;
                    }
                }
                // One by one up to the one that is wrong.
                Err(_) if limit > 1 => limit = 1,
                Err(error) => {
                    let Some((upto, why)) = self.look(|reads| reads.history_hole(cursor))? else {
                        return Err(failure(&self.path.display().to_string(), error));
                    };
                    each(Found::Hole { first: cursor + 1, last: upto, why: &why })?;
                    (self.cursor, limit) = (upto, PAGE);
                }
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
