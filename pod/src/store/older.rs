//! Reading a file of an older version by the names of ours.
//!
//! What the file lacks stands before the reader's connection as temporary views: a table that is not there has no rows, a
//! column that is not there has its default in every row. The file is not touched; its next owner brings it up to date.
//!
//! Every migration must therefore be one that only adds: what a row meant it still means.
//!
//! Used by `open` for readers.

use rusqlite::Connection;

use crate::store::error::StoreError;
use crate::store::schema;

/// Lets `conn`, which reads an older file, be asked for all that the present version has.
pub(crate) fn bridge(conn: &Connection) -> Result<(), StoreError> {
    let mut present = Connection::open_in_memory()?;
    schema::migrate(&mut present, 0)?;
    for table in tables(&present)? {
        let there = columns(conn, &table)?;
        let wanted = columns(&present, &table)?;
        let lacks = |(name, _): &&(String, String)| !there.iter().any(|(found, _)| found == name);
        if !wanted.iter().any(|column| lacks(&column)) {
            continue;
        }
        let shown: Vec<String> = wanted
            .iter()
            .map(|column| match lacks(&column) {
                true => format!("{} AS {}", column.1, quoted(&column.0)),
                false => quoted(&column.0),
            })
            .collect();
        let rows = if there.is_empty() { "WHERE 0".to_owned() } else { format!("FROM main.{}", quoted(&table)) };
        conn.execute_batch(&format!("CREATE TEMP VIEW {} AS SELECT {} {rows}", quoted(&table), shown.join(", ")))?;
    }
    Ok(())
}

fn tables(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// The columns of a table and their defaults as SQL; none if there is no such table.
fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let sql = "SELECT name, coalesce(dflt_value, 'NULL') FROM pragma_table_info(?1, 'main')";
    conn.prepare(sql)?.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
#[path = "older_tests.rs"]
mod tests;
