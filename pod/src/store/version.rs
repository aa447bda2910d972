//! Which version of the tables a file has.
//!
//! `user_version` stands in the file's header, which nothing sums up: a bit that flips there would make a healthy file one
//! of a newer program, which nobody can ever read. So the version stands in the table `sums` too, written by whoever
//! migrates, and every later version of this program keeps that row. Only a file that says twice that it is newer is
//! newer; one that contradicts itself is damaged, and may still be looked at by the version that its tables speak for.
//!
//! Asked by `open` before anything else, and by `guard` when a file is compared with itself.

use rusqlite::{Connection, OptionalExtension};

use crate::store::schema::{APPLICATION_ID, SUMMED, VERSION};

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing is in it.
    Nothing,
    /// It is another program's; its application id.
    Foreign(i64),
    /// It is ours. The version of its tables, and what contradicts that, if anything.
    Ours(i64, Option<String>),
}

/// Looks at what `conn`'s file is.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn of(conn: &Connection) -> rusqlite::Result<Found> {
    let number = |pragma: &str| conn.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, said) = (number("application_id")?, number("user_version")?);
    let tables: i64 = conn.query_row("SELECT count(*) FROM main.sqlite_schema", [], |row| row.get(0))?;
    if application == 0 && said == 0 && tables == 0 {
        return Ok(Found::Nothing);
    }
    if application != APPLICATION_ID {
        // Another program's tables of these names answer to none of this.
        let ours = "SELECT sum FROM main.sums WHERE what = 'version'
                    AND (SELECT count(*) FROM main.meta WHERE key IN ('pod', 'stream', 'created_at')) = 3";
        return Ok(match conn.query_row(ours, [], |row| row.get::<_, i64>(0)) {
            Ok(version) if (SUMMED..=VERSION).contains(&version) => {
                Found::Ours(version, Some(format!("it says that it is another program's, id {application:#x}")))
            }
            _ => Found::Foreign(application),
        });
    }
    let shown = shown(conn)?;
    if said == shown {
        return Ok(Found::Ours(said, None));
    }
    let detail = format!("it says that it has schema {said}, and what is in it is of schema {shown}");
    // Whichever of the two it was that flipped: at most one of them can be read.
    let version = if (1..=VERSION).contains(&shown) { shown } else { said.clamp(1, VERSION) };
    Ok(Found::Ours(version, Some(detail)))
}

/// The version that the tables speak for.
fn shown(conn: &Connection) -> rusqlite::Result<i64> {
    let there = |table: &str| -> rusqlite::Result<bool> {
        conn.prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1")?.exists([table])
    };
    if there("sums")? {
        let told = "SELECT sum FROM main.sums WHERE what = 'version'";
        // The first that had sums said nothing in them of itself.
        return Ok(conn.query_row(told, [], |row| row.get(0)).optional()?.unwrap_or(SUMMED));
    }
    // Each has what the one before it had not.
    let first_with = [("told", 3), ("compactions", 2)];
    for (table, version) in first_with {
        if there(table)? {
            return Ok(version);
        }
    }
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    fn flipped(version: usize, pragma: &str, bit: u32) -> Found {
        let mut conn = Connection::open_in_memory().unwrap();
        match version == usize::try_from(VERSION).unwrap() {
            true => schema::migrate(&mut conn, 0).unwrap(),
            false => schema::make_old(&mut conn, version),
        }
        conn.execute_batch("INSERT INTO meta VALUES ('pod', 'a'), ('stream', 'b'), ('created_at', 1)").unwrap();
        assert_eq!(of(&conn).unwrap(), Found::Ours(i64::try_from(version).unwrap(), None));
        let was: i32 = conn.pragma_query_value(None, pragma, |row| row.get(0)).unwrap();
        conn.pragma_update(None, pragma, was ^ (1_i32 << bit)).unwrap();
        of(&conn).unwrap()
    }

    #[test]
    fn version_of_which_any_bit_is_flipped_is_a_contradiction_and_never_a_newer_one() {
        for version in 1..=usize::try_from(VERSION).unwrap() {
            for bit in 0..32 {
                let found = flipped(version, "user_version", bit);
                let known = i64::try_from(version).unwrap();
                assert!(
                    matches!(found, Found::Ours(number, Some(_)) if number == known),
                    "{version}, {bit}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn application_id_of_which_any_bit_is_flipped_leaves_the_file_ours() {
        for bit in 0..32 {
            let found = flipped(usize::try_from(VERSION).unwrap(), "application_id", bit);
            assert!(matches!(found, Found::Ours(VERSION, Some(_))), "{bit}: {found:?}");
        }
    }
}
