//! What a closure on the store's thread is given: `Reads` to look, `Tx` to change.
//!
//! The transactions themselves are methods in the other files of this folder, and may be combined in one closure.
//! Neither type leaves its closure, so that nothing is told before it is committed.
//!
//! Made by `thread` and `reader`.

use std::ops::Deref;

use rusqlite::{Connection, OptionalExtension, Row};

use crate::id::PodId;
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::open::StoreLimits;
use crate::store::sql::{count, int};

/// Who the transactions of a store speak for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The pod, in its present life.
    pub pod: PodId,
    /// Whether it reports to anyone. Without a parent no event is raised.
    pub has_parent: bool,
    /// Whether its worker is told what children report. If not, reports go to history at once.
    pub reads_reports: bool,
}

/// What is committed, as of one moment.
#[derive(Debug)]
pub struct Reads<'c> {
    pub(crate) conn: &'c Connection,
    pub(crate) now: UnixMillis,
}

/// A transaction. What it has done is true for nobody else until it is committed.
#[derive(Debug)]
pub struct Tx<'c> {
    reads: Reads<'c>,
    own: &'c Own,
    limits: &'c StoreLimits,
}

impl<'c> Reads<'c> {
    pub(crate) fn new(conn: &'c Connection, now: UnixMillis) -> Self {
        Self { conn, now }
    }

    /// The time of the transaction.
    pub fn now(&self) -> UnixMillis {
        self.now
    }

    /// Whether `sql` finds a row.
    pub(crate) fn exists(&self, sql: &str, params: impl rusqlite::Params) -> Result<bool, StoreError> {
        Ok(self.conn.prepare_cached(sql)?.exists(params)?)
    }

    /// The number that `sql` finds.
    pub(crate) fn number(&self, sql: &str, params: impl rusqlite::Params) -> Result<u64, StoreError> {
        Ok(self.conn.prepare_cached(sql)?.query_row(params, |row| row.get::<_, i64>(0)).map(count)?)
    }

    /// The row that `sql` finds, if any.
    pub(crate) fn one<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.conn.prepare_cached(sql)?.query_row(params, read).optional()?)
    }

    /// All rows that `sql` finds.
    pub(crate) fn all<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map(params, read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The number that `meta` has under `key`; 0 if there is none.
    pub(crate) fn meta_number(&self, key: &str) -> Result<u64, StoreError> {
        let found = self.one("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get::<_, i64>(0))?;
        Ok(count(found.unwrap_or(0)))
    }

    /// The text that `meta` has under `key`.
    pub(crate) fn meta_text(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.one("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
    }
}

impl<'c> Tx<'c> {
    pub(crate) fn new(conn: &'c Connection, now: UnixMillis, own: &'c Own, limits: &'c StoreLimits) -> Self {
        Self { reads: Reads::new(conn, now), own, limits }
    }

    /// Who the transaction speaks for.
    pub fn own(&self) -> &Own {
        self.own
    }

    pub(crate) fn limits(&self) -> &StoreLimits {
        self.limits
    }

    /// Runs `sql`; tells how many rows it changed.
    pub(crate) fn run(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize, StoreError> {
        Ok(self.conn.prepare_cached(sql)?.execute(params)?)
    }

    pub(crate) fn set_meta_number(&self, key: &str, value: u64) -> Result<(), StoreError> {
        self.run("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", (key, int(value)))?;
        Ok(())
    }

    pub(crate) fn set_meta_text(&self, key: &str, value: Option<&str>) -> Result<(), StoreError> {
        match value {
            Some(value) => self.run("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", (key, value))?,
            None => self.run("DELETE FROM meta WHERE key = ?1", [key])?,
        };
        Ok(())
    }

    /// The number under `key`, which is one higher afterwards.
    pub(crate) fn take_number(&self, key: &str) -> Result<u64, StoreError> {
        let number = self.meta_number(key)?;
        self.set_meta_number(key, number.saturating_add(1))?;
        Ok(number)
    }
}

impl<'c> Deref for Tx<'c> {
    type Target = Reads<'c>;

    fn deref(&self) -> &Reads<'c> {
        &self.reads
    }
}
