//! Sums by which it is known that rows of the registry are not as they were written.
//!
//! As in a pod's store: SQLite compares no contents, so triggers keep a sum of all rows of each table, in the transaction that
//! changes them, and a sum of the schema stands beside them. Never mends anything: a name or a right that was flipped is refused
//! with all the rest, because nobody can say what it was.
//!
//! `open` lays the triggers when it makes the file or brings it up to date; `check` compares, for whoever starts a pod, and `pod doctor`.

use rusqlite::{Connection, OptionalExtension as _, Transaction};

/// Every table that has something to say.
const TABLES: [&str; 4] = ["pods", "leases", "trees", "spent"];
/// What the file is made of, as a sum. What SQLite makes for its own planner is no part of it.
const SCHEMA: &str = r"SELECT coalesce(sum(pod_sum(type, name, tbl_name, sql)), 0) FROM main.sqlite_schema
                      WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'";

/// Lays the triggers anew and sums up what is there. Part of the transaction that makes the tables.
pub(super) fn seal(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in TABLES {
        let of = |row: &str| columns(tx, table, row);
        let (new, old) = (of("NEW.")?, of("OLD.")?);
        tx.execute_batch(&format!(
            "DROP TRIGGER IF EXISTS sum_of_new_{table};
             DROP TRIGGER IF EXISTS sum_of_old_{table};
             DROP TRIGGER IF EXISTS sum_of_changed_{table};
             INSERT OR REPLACE INTO sums (what, sum) VALUES ('{table}', ({}));
             CREATE TRIGGER sum_of_new_{table} AFTER INSERT ON {table} BEGIN
                 UPDATE sums SET sum = sum + pod_sum({new}) WHERE what = '{table}'; END;
             CREATE TRIGGER sum_of_old_{table} AFTER DELETE ON {table} BEGIN
                 UPDATE sums SET sum = sum - pod_sum({old}) WHERE what = '{table}'; END;
             CREATE TRIGGER sum_of_changed_{table} AFTER UPDATE ON {table} BEGIN
                 UPDATE sums SET sum = sum - pod_sum({old}) + pod_sum({new}) WHERE what = '{table}'; END;",
            total(tx, table)?
        ))?;
    }
    tx.execute_batch(&format!("INSERT OR REPLACE INTO sums (what, sum) VALUES ('schema', ({SCHEMA}));"))
}

/// What is not as it was written, if anything. Takes as long as reading the file: a few milliseconds for a thousand pods.
pub(super) fn differing(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let moment = conn.unchecked_transaction()?;
    let kept = |what: &str| {
        let kept = "SELECT sum FROM sums WHERE what = ?1";
        moment.query_row(kept, [what], |row| row.get::<_, i64>(0)).optional()
    };
    if kept("schema")? != Some(moment.query_row(SCHEMA, [], |row| row.get(0))?) {
        return Ok(Some("its tables, indexes and triggers are not those that were made".to_owned()));
    }
    for table in TABLES {
        let found: i64 = moment.query_row(&total(&moment, table)?, [], |row| row.get(0))?;
        if kept(table)? != Some(found) {
            return Ok(Some(format!("the rows of `{table}` are not those that were written")));
        }
    }
    Ok(None)
}

fn total(conn: &Connection, table: &str) -> rusqlite::Result<String> {
    Ok(format!("SELECT coalesce(sum(pod_sum({})), 0) FROM main.{table} NOT INDEXED", columns(conn, table, "")?))
}

fn columns(conn: &Connection, table: &str, row: &str) -> rusqlite::Result<String> {
    let mut statement = conn.prepare(&format!("SELECT name FROM pragma_table_info('{table}', 'main') ORDER BY cid"))?;
    let names = statement.query_map([], |found| found.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(names.iter().map(|name| format!("{row}\"{name}\"")).collect::<Vec<_>>().join(", "))
}
