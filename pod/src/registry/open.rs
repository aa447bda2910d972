//! Opening the registry: ours, whole, of a version that we know.
//!
//! Whoever comes first makes it; all of it in one transaction, so that nobody finds half a schema. A file that is not
//! ours, newer or damaged is left as it was found.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{RegistryError, sums};

/// LIMIT: how long another process may hold the file. A transaction takes a millisecond; only a stopped process takes
/// longer.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// Between two attempts to change the journal's mode. LIMIT: it takes a millisecond.
const MODE_PAUSE: Duration = Duration::from_millis(2);

/// "podr": tells the registry from pods' stores and from other programs' files.
const APPLICATION_ID: i64 = 0x706f_6472;

/// What turns version `n` into `n + 1`. One that was shipped is never edited.
const MIGRATIONS: [&str; 5] = [V1, V2, V3, V4, V5];

const VERSION: i64 = MIGRATIONS.len() as i64;

const V1: &str = "
-- One row for each life that lives, or is not proven dead. parent: the incarnation of its parent.
CREATE TABLE pods (
    incarnation  TEXT PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    parent_name  TEXT,
    parent       TEXT,
    root         TEXT NOT NULL,
    depth        INTEGER NOT NULL,
    worker       TEXT NOT NULL,
    state_dir    TEXT NOT NULL,
    scoped       INTEGER NOT NULL,
    confinement  TEXT NOT NULL,
    at           INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX pods_root ON pods (root);
CREATE INDEX pods_parent ON pods (parent);

-- permission: read | write | deny. taken_from: the lease of the parent's that a right to write was taken from.
CREATE TABLE leases (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    holder      TEXT NOT NULL REFERENCES pods (incarnation) ON DELETE CASCADE,
    target      TEXT NOT NULL,
    permission  TEXT NOT NULL,
    recursive   INTEGER NOT NULL,
    taken_from  INTEGER
);
CREATE INDEX leases_holder ON leases (holder);
CREATE INDEX leases_taken ON leases (taken_from) WHERE taken_from IS NOT NULL;
CREATE INDEX leases_write ON leases (permission) WHERE permission = 'write';

-- What a tree may use up (0: no bound) and has used up. ends_at: when its time is over. tokens: spawns that may follow at once.
-- taken, returned: rights to write that were given to children and that have come back.
CREATE TABLE trees (
    root               TEXT PRIMARY KEY,
    at                 INTEGER NOT NULL,
    depth_max          INTEGER NOT NULL,
    pods_max           INTEGER NOT NULL,
    children_max       INTEGER NOT NULL,
    spawns_per_minute  INTEGER NOT NULL,
    turns_max          INTEGER NOT NULL,
    seconds_max        INTEGER NOT NULL,
    ends_at            INTEGER,
    spawns             INTEGER NOT NULL DEFAULT 0,
    turns              INTEGER NOT NULL DEFAULT 0,
    tokens             REAL NOT NULL,
    refilled_at        INTEGER NOT NULL,
    taken              INTEGER NOT NULL DEFAULT 0,
    returned           INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
";

/// left_by: the names of the dead that were between the life and its parent, the nearest first, each between slashes.
const V2: &str = "ALTER TABLE pods ADD COLUMN left_by TEXT NOT NULL DEFAULT '/';";

/// process, began: the process that is the life, and when that began, in ticks since boot, once it has said so.
const V3: &str = "
ALTER TABLE pods ADD COLUMN process INTEGER;
ALTER TABLE pods ADD COLUMN began INTEGER;
CREATE INDEX pods_process ON pods (process);
CREATE INDEX pods_scoped ON pods (scoped) WHERE scoped;
";

/// spent: how many turns the pods of a root's trees have started, over all its lives; a row for each root with a bound.
const V4: &str = "
CREATE TABLE spent (root_name TEXT PRIMARY KEY, turns INTEGER NOT NULL) WITHOUT ROWID;
ALTER TABLE trees ADD COLUMN root_name TEXT NOT NULL DEFAULT '';
UPDATE trees SET root_name = coalesce((SELECT name FROM pods WHERE incarnation = trees.root), trees.root);
";

/// sums: of all rows of each table, and of the schema (`sums`).
const V5: &str = "CREATE TABLE sums (what TEXT PRIMARY KEY, sum INTEGER NOT NULL) WITHOUT ROWID;";

/// A connection to the registry at `path`, which is made if there is none.
pub(super) fn open(path: &Path) -> Result<Connection, RegistryError> {
    create_private(path)?;
    let error = |error| classify(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(error)?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(error)?;
    crate::store::install_sums(&conn).map_err(error)?;
    conn.execute_batch(
        // LIMIT: 256 KiB of pages a pod: the whole of a registry of a thousand pods.
        "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;
         PRAGMA foreign_keys = ON; PRAGMA cache_size = -256;",
    )
    .map_err(error)?;
    let found = version(path, &conn)?;
    if found < VERSION {
        // Before the first table: the journal's mode cannot be changed inside a transaction.
        write_ahead(path, &conn)?;
        migrate(path, &mut conn)?;
        check(path, &conn)?;
    }
    write_ahead(path, &conn)?;
    conn.pragma_update(None, "synchronous", "NORMAL").map_err(error)?;
    Ok(conn)
}

/// Whether it is of a version before this one.
pub(super) fn is_older(path: &Path, conn: &Connection) -> Result<bool, RegistryError> {
    Ok(version(path, conn)? < VERSION)
}

/// Compares all of it with itself and with its sums.
pub(super) fn check(path: &Path, conn: &Connection) -> Result<(), RegistryError> {
    let error = |error| classify(path, error);
    let found: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(error)?;
    let wrong = if found == "ok" { sums::differing(conn).map_err(error)? } else { Some(found) };
    wrong.map_or(Ok(()), |reason| Err(RegistryError::Unusable { path: path.to_owned(), reason }))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Says what SQLite's error is about.
pub(super) fn classify(path: &Path, source: rusqlite::Error) -> RegistryError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => RegistryError::Busy { path },
        Some(ErrorCode::NotADatabase) => RegistryError::Unusable { path, reason: "it is no database".to_owned() },
        Some(ErrorCode::DatabaseCorrupt) => RegistryError::Unusable { path, reason: source.to_string() },
        Some(ErrorCode::DiskFull) => RegistryError::DiskFull { path },
        // The log's index cannot grow: SQLite gives that a number of its own.
        _ if source.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => {
            RegistryError::DiskFull { path }
        }
        _ => RegistryError::Sqlite { path, source },
    }
}

pub(super) fn version(path: &Path, conn: &Connection) -> Result<i64, RegistryError> {
    let (application, version, tables) = marks(conn).map_err(|error| classify(path, error))?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        // Another process may be making it: its tables and its mark come in one transaction, so this is somebody else's.
        let reason = format!("it is another program's database, application id {application:#x}");
        return Err(RegistryError::Unusable { path: path.to_owned(), reason });
    }
    if version > VERSION {
        return Err(RegistryError::Newer { path: path.to_owned(), found: version, known: VERSION });
    }
    Ok(version)
}

/// Application, version and number of tables, at one moment: whoever makes the file does so in between else.
fn marks(conn: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
    let moment = conn.unchecked_transaction()?;
    let number = |sql: &str| moment.query_row(sql, [], |row| row.get::<_, i64>(0));
    Ok((
        number("PRAGMA application_id")?,
        number("PRAGMA user_version")?,
        number("SELECT count(*) FROM sqlite_schema")?,
    ))
}

fn migrate(path: &Path, conn: &mut Connection) -> Result<(), RegistryError> {
    let run = |conn: &mut Connection| {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        // Another process may have been faster.
        let from: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
        for step in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            tx.execute_batch(step)?;
        }
        sums::seal(&tx)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", from.max(VERSION))?;
        tx.commit()
    };
    run(conn).map_err(|error| classify(path, error))
}

#[expect(clippy::disallowed_methods, reason = "nothing tells when another process has changed the journal's mode")]
fn write_ahead(path: &Path, conn: &Connection) -> Result<(), RegistryError> {
    let since = Instant::now();
    let mode: String = loop {
        match conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)) {
            // Two who change it at once are told so at once, whatever the time that they would wait.
            Err(error) if is_busy(&error) && since.elapsed() < BUSY_TIMEOUT => std::thread::sleep(MODE_PAUSE),
            done => break done.map_err(|error| classify(path, error))?,
        }
    };
    if mode == "wal" {
        return Ok(());
    }
    let source = io::Error::other(format!("the file system allows no write-ahead log (mode `{mode}`)"));
    Err(RegistryError::Io { doing: "configure", path: path.to_owned(), source })
}

/// Makes an empty file that only we may read, or finds the plain one that is there. It is never opened here: closing it
/// again would give up the locks of every connection that this process has to it.
fn create_private(path: &Path) -> Result<(), RegistryError> {
    let error = |doing, source| RegistryError::Io { doing, path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(()),
        Err(found) if found.kind() == io::ErrorKind::AlreadyExists => {}
        Err(other) => return Err(error("create", other)),
    }
    let kind = path.symlink_metadata().map_err(|source| error("look at", source))?.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let reason = if kind.is_symlink() { "it is a symbolic link" } else { "it is no regular file" };
    Err(RegistryError::Unusable { path: path.to_owned(), reason: reason.to_owned() })
}
