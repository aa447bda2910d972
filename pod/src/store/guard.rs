//! Sums by which a row that is not as it was written is known.
//!
//! SQLite has no checksums for the pages of its file. So every row that is read to be told, done or delivered (history,
//! inbox, outbox, runs) carries a sum of what it says, compared whenever it is read; and for every table but the history a sum
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
use crate::store::schema;
use crate::store::tx::Reads;
use crate::store::version::{self, Found};

/// LIMIT: entries at the end of the history that are compared at every start, whatever its size.
const TAIL: u64 = 1024;
/// LIMIT: bytes of them, of which a single one may have 896 KiB: below ten milliseconds from the system's cache.
const TAIL_BYTES: u64 = 8 << 20;
/// The one table whose sum is not kept: it only grows, and would have to be read from its beginning.
const ONLY_GROWS: &str = "history";
/// What the file is made of, as a sum. Where in the file it is may change. What SQLite makes for its own planner is no part
/// of it: a person may have asked for that.
const SCHEMA: &str = r"SELECT sum(pod_sum(type, name, tbl_name, sql)) FROM main.sqlite_schema
                      WHERE name NOT LIKE 'sqlite\_stat%' ESCAPE '\'";

/// Of which tables all rows are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Of all whose sum is kept.
    All,
    /// Of the one that has the numbers alone: whoever reads the events compares each of them anyway.
    Numbers,
}

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
    conn.execute_batch(&format!(
        "INSERT INTO sums (what, sum) VALUES ('schema', ({SCHEMA}));
         INSERT OR REPLACE INTO sums (what, sum) VALUES ('version', {});",
        schema::VERSION
    ))
}

/// What is not as it was written, if anything: every table of `extent` but the history, whose end alone is looked at. Of a
/// file of a version that had no sums, what it says of itself.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn differing(conn: &Connection, extent: Extent) -> Result<Option<String>, StoreError> {
    if let Found::Ours(_, Some(contradiction)) = version::of(conn)? {
        return Ok(Some(contradiction));
    }
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
    for table in guarded(conn)?.into_iter().filter(|table| extent == Extent::All || table == "meta") {
        let found: i64 = conn.query_row(&total(conn, &table)?, [], |row| row.get(0))?;
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
    tail_differing(&reads, head)
}

/// The first entry of the history's end that is missing, or not as it was written, from its last one back.
fn tail_differing(reads: &Reads<'_>, head: u64) -> Result<Option<String>, StoreError> {
    let guarded = reads.history_guarded_from()?;
    let sql = "SELECT seq, sum = pod_sum(at, kind, turn, work, body), octet_length(body) FROM main.history
               ORDER BY seq DESC LIMIT ?1";
    let mut statement = reads.conn.prepare(sql)?;
    let mut found = statement.query([crate::store::sql::int(TAIL)])?;
    let (mut expected, mut bytes) = (head, 0);
    while let Some(row) = found.next()? {
        let seq = crate::store::sql::count(row.get(0)?);
        if expected < guarded || bytes > TAIL_BYTES {
            return Ok(None);
        }
        if seq != expected || row.get::<_, Option<bool>>(1)? != Some(true) {
            return Ok(Some(not_as_written("a history entry", expected).to_string()));
        }
        expected = seq.saturating_sub(1);
        bytes += crate::store::sql::count(row.get(2)?);
    }
    Ok(None)
}

/// Keeps the sum of `table` anew: what was wrong with its rows has been dealt with.
pub(crate) fn sum_up(conn: &Connection, table: &str) -> rusqlite::Result<()> {
    let sum = format!("UPDATE sums SET sum = ({}) WHERE what = 'table {table}'", total(conn, table)?);
    conn.execute(&sum, []).map(|_| ())
}

fn total(conn: &Connection, table: &str) -> rusqlite::Result<String> {
    let columns = columns(conn, table, "")?;
    Ok(format!("SELECT coalesce(sum(pod_sum({columns})), 0) FROM main.{table} NOT INDEXED"))
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

/// Whether an entry of the history is as it was written; nothing if it has no sum.
pub(crate) const ENTRY_AS_WRITTEN: &str = "sum = pod_sum(at, kind, turn, work, body)";

impl Reads<'_> {
    /// An error unless an entry of the history is as it was written; `alike` is what [`ENTRY_AS_WRITTEN`] says of it.
    pub(crate) fn entry_as_written(&self, seq: u64, alike: Option<bool>) -> Result<(), StoreError> {
        if alike == Some(false) || (alike.is_none() && seq >= self.history_guarded_from()?) {
            return Err(not_as_written("a history entry", seq));
        }
        Ok(())
    }

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
