//! Looking at the registry without using it: nothing is made, brought up to date or waited for longer than a transaction takes.
//!
//! Changes only what is nobody's: rights and bounds of lives that are not there.
//!
//! For `pod doctor`.

use rusqlite::{Connection, OpenFlags};

use super::{Registered, Registry, RegistryError, all, in_file, open, proof};
use crate::store::UnixMillis;

/// What stands in a registry.
#[derive(Debug)]
pub(crate) struct Found {
    /// Every life that is registered, the oldest first.
    pub(crate) lives: Vec<Registered>,
    /// Rights to write, in all.
    pub(crate) writes: u64,
    /// Rights and bounds of lives that are not there.
    pub(crate) astray: u64,
}

impl Registry {
    /// What stands in the file, after all of it was compared with itself; none, if there is no file or nothing in it.
    ///
    /// # Errors
    /// [`RegistryError`] says what is wrong with it.
    pub(crate) fn examine(&self) -> Result<Option<Found>, RegistryError> {
        let path = self.path();
        let io = |source| RegistryError::Io { doing: "look at", path: path.to_owned(), source };
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
            Ok(found) if !found.is_file() => {
                let reason = "it is no regular file".to_owned();
                return Err(RegistryError::Unusable { path: path.to_owned(), reason });
            }
            Ok(_) => {}
        }
        let error = |source| open::classify(path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags).map_err(error)?;
        conn.busy_timeout(open::BUSY_TIMEOUT).map_err(error)?;
        conn.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;").map_err(error)?;
        if open::version(path, &conn)? == 0 {
            return Ok(None);
        }
        // One of an earlier version has no sums yet.
        if !open::is_older(path, &conn)? {
            crate::store::install_sums(&conn).map_err(error)?;
            open::check(path, &conn)?;
        }
        let moment = conn.unchecked_transaction().map_err(error)?;
        let number = |sql: &str| moment.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
        let writes = number("SELECT count(*) FROM leases WHERE permission = 'write'").map_err(error)?;
        let astray = number(&format!(
            "SELECT (SELECT count(*) FROM leases WHERE {NO_HOLDER}) + (SELECT count(*) FROM trees WHERE {NO_PODS})"
        ));
        let lives = all(&moment, "SELECT {} FROM pods ORDER BY at", [])?;
        Ok(Some(Found { lives, writes, astray: astray.map_err(error)? }))
    }

    /// Whether a life that is registered is proven dead, and nobody has yet to start or to bury it. Blocks for a few looks
    /// through the process table.
    pub(crate) fn is_left_over(&self, life: &Registered, now: UnixMillis) -> bool {
        proof::is_dead(life, now) && proof::awaits_burial(life, None).is_none()
    }

    /// Takes out the rights and bounds of lives that are not there. Returns how many.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing has then changed.
    pub(crate) fn take_out_astray(&self) -> Result<usize, RegistryError> {
        self.transaction(|tx| {
            let delete = |table: &str, which: &str| tx.execute(&format!("DELETE FROM {table} WHERE {which}"), []);
            let leases = delete("leases", NO_HOLDER).map_err(|error| in_file(tx, error))?;
            Ok(leases + delete("trees", NO_PODS).map_err(|error| in_file(tx, error))?)
        })
    }
}

const NO_HOLDER: &str = "holder NOT IN (SELECT incarnation FROM pods)";
const NO_PODS: &str = "root NOT IN (SELECT root FROM pods)";
