//! Sums by which a row that is not as it was written is known.
//!
//! SQLite has no checksums for the pages of its file. So every row that is read to be told, done or delivered (history,
//! inbox, outbox, runs) carries a sum of what it says, compared when it is read; and for every table but the history a sum
//! of all its rows is kept by triggers, in the transaction that changes them, and compared when the owner opens the file.
//! Never mends anything. A change of any single run of up to 32 bits in a row is always found, any other with all but one
//! in four thousand million; what is against us on purpose is not: these are sums and no signatures.
//!
//! `open` and `reader` compare, `schema` lays the triggers after its migrations, the transactions ask for sums in SQL.

use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};

use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::tx::Reads;

/// LIMIT: entries at the end of the history that are compared at every start, whatever its size: a few milliseconds.
const TAIL: u64 = 1024;
/// The one table whose sum is not kept: it only grows, and would have to be read from its beginning.
const ONLY_GROWS: &str = "history";
/// What the file is made of, as a sum. Where in the file it is may change.
const SCHEMA: &str = "SELECT sum(pod_sum(type, name, tbl_name, sql)) FROM main.sqlite_schema";

/// Gives `conn` the function that the triggers and transactions use.
pub(crate) fn install(conn: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    conn.create_scalar_function("pod_sum", -1, flags, |call| {
        let mut sum = crc32fast::Hasher::new();
        for place in 0..call.len() {
            let number;
            let (kind, bytes): (u8, &[u8]) = match call.get_raw(place) {
                ValueRef::Null => (0, &[]),
                ValueRef::Integer(integer) => {
                    number = integer.to_le_bytes();
                    (1, &number)
                }
                ValueRef::Real(real) => {
                    number = real.to_bits().to_le_bytes();
                    (2, &number)
                }
                ValueRef::Text(text) => (3, text),
                ValueRef::Blob(blob) => (4, blob),
            };
            sum.update(&[kind]);
            sum.update(&(bytes.len() as u64).to_le_bytes());
            sum.update(bytes);
        }
        // One bit more than the sum has: of a table's total, every row makes a part.
        Ok((1_i64 << 32) | i64::from(sum.finalize()))
    })?;
    // Or a row that is replaced would be taken out without being taken out of the total.
    conn.pragma_update(None, "recursive_triggers", true)
}

/// Lays the triggers of all tables anew and sums up what is in them. Part of the transaction that migrates.
pub(crate) fn seal(conn: &Connection) -> rusqlite::Result<()> {
    for name in names(conn, "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'sum_of_%'")? {
        conn.execute_batch(&format!("DROP TRIGGER \"{name}\""))?;
    }
    conn.execute_batch(
        "INSERT OR IGNORE INTO sums (what, sum) VALUES ('commits', 0);
         INSERT OR IGNORE INTO sums (what, sum) SELECT 'history from', coalesce(max(seq), 0) + 1 FROM history;
         DELETE FROM sums WHERE what LIKE 'table %' OR what = 'schema';
         UPDATE inbox SET sum = pod_sum(at, wakes, stream, seq, note, body) WHERE sum IS NULL;
         UPDATE outbox SET sum = pod_sum(seq, at, kind, body) WHERE sum IS NULL;
         UPDATE runs SET sum = pod_sum(turn, work, at, origin, input) WHERE sum IS NULL;",
    )?;
    for table in guarded(conn)? {
        let of = |row: &str| -> rusqlite::Result<String> { Ok(format!("pod_sum({})", columns(conn, &table, row)?)) };
        let (new, old) = (of("NEW.")?, of("OLD.")?);
        conn.execute_batch(&format!(
            "INSERT INTO sums (what, sum) SELECT 'table {table}', coalesce(sum({}), 0) FROM {table} NOT INDEXED;
             CREATE TRIGGER sum_of_new_{table} AFTER INSERT ON {table} BEGIN
                 UPDATE sums SET sum = sum + {new} WHERE what = 'table {table}'; END;
             CREATE TRIGGER sum_of_old_{table} AFTER DELETE ON {table} BEGIN
                 UPDATE sums SET sum = sum - {old} WHERE what = 'table {table}'; END;
             CREATE TRIGGER sum_of_changed_{table} AFTER UPDATE ON {table} BEGIN
                 UPDATE sums SET sum = sum - {old} + {new} WHERE what = 'table {table}'; END;",
            of("")?
        ))?;
    }
    conn.execute_batch(&format!("INSERT INTO sums (what, sum) VALUES ('schema', ({SCHEMA}))"))
}

/// What is not as it was written, if anything: every table but the history, whose end alone is looked at. Nothing for a
/// file of a version that had no sums.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn differing(conn: &Connection) -> Result<Option<String>, StoreError> {
    if commits(conn)?.is_none() {
        return Ok(None);
    }
    let kept = |what: &str| {
        let kept = "SELECT sum FROM main.sums WHERE what = ?1";
        conn.query_row(kept, [what], |row| row.get::<_, i64>(0)).optional()
    };
    if kept("schema")? != Some(conn.query_row(SCHEMA, [], |row| row.get(0))?) {
        return Ok(Some("its tables, indexes and triggers are not those that were made".to_owned()));
    }
    for table in guarded(conn)? {
        let columns = columns(conn, &table, "")?;
        let sum = format!("SELECT coalesce(sum(pod_sum({columns})), 0) FROM main.{table} NOT INDEXED");
        let found: i64 = conn.query_row(&sum, [], |row| row.get(0))?;
        if kept(&format!("table {table}"))? != Some(found) {
            return Ok(Some(format!("the rows of `{table}` are not those that were written")));
        }
    }
    let reads = Reads::new(conn, UnixMillis(0));
    let head = reads.history_head()?;
    let last: Option<u64> = conn
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'history'", [], |row| row.get::<_, i64>(0))
        .optional()?
        .map(crate::store::sql::count);
    if last.unwrap_or(0) != head {
        return Ok(Some(format!("the history ends with entry {head} and had {}", last.unwrap_or(0))));
    }
    let mut cursor = head.saturating_sub(TAIL);
    while cursor < head {
        match reads.history_after(cursor, 256) {
            Ok(page) => cursor = page.last().map_or(head, |row| row.seq),
            Err(StoreError::Unreadable { what, detail }) => return Ok(Some(format!("{what}: {detail}"))),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// How many commits the file has had; none for a file of a version that did not count them.
pub(crate) fn commits(conn: &Connection) -> Result<Option<u64>, StoreError> {
    let there = "SELECT count(*) FROM main.sqlite_schema WHERE name = 'sums'";
    if conn.query_row(there, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    let found = conn.query_row("SELECT sum FROM sums WHERE what = 'commits'", [], |row| row.get::<_, i64>(0));
    Ok(found.optional()?.map(crate::store::sql::count))
}

/// Says in the transaction that is about to be committed which one it is.
pub(crate) fn count_commit(conn: &Connection, number: u64) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached("UPDATE sums SET sum = ?1 WHERE what = 'commits'")?;
    statement.execute([crate::store::sql::int(number)]).map(|_| ())
}

/// The tables whose sum is kept.
pub(crate) fn guarded(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql =
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'sums'";
    Ok(names(conn, sql)?.into_iter().filter(|name| name != ONLY_GROWS).collect())
}

fn columns(conn: &Connection, table: &str, row: &str) -> rusqlite::Result<String> {
    let columns = names(conn, &format!("SELECT name FROM pragma_table_info('{table}', 'main') ORDER BY cid"))?;
    Ok(columns.iter().map(|column| format!("{row}\"{column}\"")).collect::<Vec<_>>().join(", "))
}

fn names(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

impl Reads<'_> {
    /// An error unless a row's sum is what its content comes to. `alike` is what SQL says of the two: nothing, if the row
    /// has no sum, as in a file that was written before there were any.
    pub(crate) fn as_written(&self, what: &'static str, place: u64, alike: Option<bool>) -> Result<(), StoreError> {
        let written = match alike {
            Some(alike) => alike,
            None => !self.exists("SELECT 1 FROM sums WHERE what = 'commits'", [])?,
        };
        if written { Ok(()) } else { Err(not_as_written(what, place)) }
    }

    /// The first entry of the history that has a sum, and behind which none is missing.
    pub(crate) fn history_guarded_from(&self) -> Result<u64, StoreError> {
        let found = self.one("SELECT sum FROM sums WHERE what = 'history from'", [], |row| row.get::<_, i64>(0))?;
        Ok(found.map_or(u64::MAX, crate::store::sql::count))
    }
}

pub(crate) fn not_as_written(what: &'static str, place: u64) -> StoreError {
    StoreError::Unreadable { what, detail: format!("number {place} is not as it was written; the file is damaged") }
}
