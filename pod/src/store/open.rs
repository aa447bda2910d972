//! Opening a store: ours, whole, of a version that we know, and only then written to.
//!
//! A file that is not ours, newer or damaged is left as it was found, with an error that says which.
//!
//! Called by `thread` for the owner's connections and by `reader` for everybody else's.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use serde::{Deserialize, Serialize};

use crate::id::{PodName, StreamId};
use crate::store::clock::{Clock, UnixMillis};
use crate::store::error::StoreError;
use crate::store::guard::{self, Extent};
use crate::store::head::{self, Seen, WentDown};
use crate::store::older;
use crate::store::schema;
use crate::store::tx::Own;
use crate::store::version::{self, Found};

/// LIMIT: how long SQLite waits for another process that holds the file's lock. Only a stopped one holds it longer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// LIMIT: up to this size, in bytes, the whole file is looked through at every start.
const CHECKED_WHOLE: u64 = 64 << 20;

/// When an ack may be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// After the commit: survives the death of every process, not of the machine's power.
    #[default]
    Process,
    /// After the commit is on the medium.
    Power,
}

/// LIMIT: events of 1 KiB each at most, so 1 GiB of disk while a parent is away for very long.
const OUTBOX_MAX: u64 = 1_000_000;
/// LIMIT: the last events of a turn, of its works, and of the process.
const OUTBOX_RESERVE: u64 = 1024;
/// As soon as so many events of a pod wait for its parent's ack, it starts no turn until some are acked: what a turn that ended then
/// would have to tell had no room.
pub const OUTBOX_FULL_AT: u64 = OUTBOX_MAX - OUTBOX_RESERVE;

/// How a store is to be opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Who its transactions speak for.
    pub own: Own,
    /// To whom the life that begins belongs. None: no life begins, and whose the store is stays open.
    pub owner: Option<crate::store::Owner>,
    /// When an ack may be given.
    pub durability: Durability,
    /// Its bounds.
    pub limits: StoreLimits,
    /// Where the time comes from.
    pub clock: Clock,
}

/// The bounds of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Transactions that may wait to be run.
    pub queue: usize,
    /// Transactions in one commit.
    pub batch: usize,
    /// Notes that may wait for the agent. Reports of children are not refused.
    pub notes_waiting: u32,
    /// Events that may await the parent.
    pub outbox: u64,
    /// Of these, places kept for the last events of turns and of the process.
    pub outbox_reserve: u64,
    /// How often a report may be part of a failing turn before the pod is blocked.
    pub attempts: u32,
    /// The pause after the first failure, in milliseconds; doubled for each further one.
    pub pause_first_ms: u64,
    /// The longest pause, in milliseconds, and how long a blocked pod waits before it tries by itself.
    pub pause_max_ms: u64,
    /// Reports in one request to the worker.
    pub reports_per_request: u32,
    /// Of what is over (seen entries of the inbox, ended lives, settled works), how many of each are kept beside the history.
    pub over_kept: u64,
}

/// Whose store it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The pod.
    pub pod: PodName,
    /// Its events.
    pub stream: StreamId,
    /// When it was made.
    pub created_at: UnixMillis,
}

impl StoreOptions {
    /// The usual options for `own`.
    pub fn new(own: Own) -> Self {
        Self {
            own,
            owner: None,
            durability: Durability::default(),
            limits: StoreLimits::default(),
            clock: Clock::default(),
        }
    }

    /// The same, for a life that belongs to `owner`: the store of another one's pod is refused.
    #[must_use]
    pub fn owned_by(mut self, owner: crate::store::Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// The same, with `durability`.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            // LIMIT: one closure is below 1 KiB; what waits longer than a commit takes is a caller's to hold back.
            queue: 1024,
            // LIMIT: a commit takes about as long as 256 small transactions; more in one gain nothing.
            batch: 256,
            notes_waiting: 1024,
            outbox: OUTBOX_MAX,
            outbox_reserve: OUTBOX_RESERVE,
            attempts: 5,
            pause_first_ms: 1_000,
            pause_max_ms: 300_000,
            // LIMIT: 64 reports of 1 KiB: what a model may be told at once without losing the thread.
            reports_per_request: 64,
            // LIMIT: 1 to 2 MiB of rows; a day of a busy pod is still in its tables, the rest is in its history.
            over_kept: 4096,
        }
    }
}

/// A store that its owner has opened.
pub(crate) struct Opened {
    pub(crate) conn: Connection,
    pub(crate) identity: Identity,
    /// What its head had said.
    pub(crate) seen: Option<Seen>,
    /// What it has lost because the machine went down.
    pub(crate) lost: Option<WentDown>,
}

/// The owner's connection for writing. Makes the file if there is none.
pub(crate) fn open_writer(path: &Path, options: &StoreOptions) -> Result<Opened, StoreError> {
    let seen = head::read(path)?;
    if seen.as_ref().is_some_and(|seen| seen.commits > 0) && path.metadata().map_or(0, |file| file.len()) == 0 {
        // SQLite would throw the write-ahead log of an empty file away.
        head::compare(path, seen.as_ref(), 0)?;
    }
    create_private(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = connect(path, flags)?;
    let (found, contradiction) = version(path, &conn)?;
    if let Some(detail) = contradiction {
        return Err(StoreError::Damaged { path: path.to_owned(), detail });
    }
    // Before anything is written, a migration included.
    check(path, &conn)?;
    if let Some(detail) = guard::differing(&conn, Extent::All).map_err(|error| damage(path, error))? {
        return Err(StoreError::Damaged { path: path.to_owned(), detail });
    }
    let lost = head::compare(path, seen.as_ref(), guard::commits(&conn)?.unwrap_or(0))?;
    // Before the first table: the journal's mode cannot be changed inside a transaction.
    write_ahead(path, &conn)?;
    if found < schema::VERSION {
        schema::migrate(&mut conn, found).map_err(|error| damage(path, error))?;
    }
    let synchronous = match options.durability {
        Durability::Process => "NORMAL",
        Durability::Power => "FULL",
    };
    conn.pragma_update(None, "synchronous", synchronous).map_err(|e| classify(path, "configure", e))?;
    let identity = claim(path, &conn, options)?;
    if let Some(owner) = &options.owner {
        crate::store::owner::claim(path, &conn, &identity.pod, owner)?;
    }
    Ok(Opened { conn, identity, seen, lost })
}

/// A connection that only reads: of the owner beside its writer, or of anyone, also of a dead pod's store, and also of one
/// that an older version of this program has left.
pub(crate) fn open_reader(path: &Path) -> Result<(Connection, Identity), StoreError> {
    refuse_special(path)?;
    let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // What contradicts itself may be looked at all the same; who asks whether it is whole is told.
    let (found, _) = version(path, &conn)?;
    if found == 0 {
        return Err(StoreError::Empty { path: path.to_owned() });
    }
    if found < schema::VERSION {
        older::bridge(&conn)?;
    }
    let identity = identity(path, &conn)?.ok_or_else(|| StoreError::Empty { path: path.to_owned() })?;
    Ok((conn, identity))
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let conn = Connection::open_with_flags(path, flags).map_err(|e| classify(path, "open", e))?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(|e| classify(path, "configure", e))?;
    conn.set_prepared_statement_cache_capacity(128);
    conn.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;")
        .map_err(|e| classify(path, "configure", e))?;
    guard::install(&conn).map_err(|e| classify(path, "configure", e))?;
    Ok(conn)
}

/// The schema's version, 0 for an empty file, and what contradicts it; an error if the file is not ours to touch.
fn version(path: &Path, conn: &Connection) -> Result<(i64, Option<String>), StoreError> {
    match version::of(conn).map_err(|e| classify(path, "read", e))? {
        Found::Nothing => Ok((0, None)),
        Found::Foreign(application) => {
            let reason = format!("it is another program's database, application id {application:#x}");
            Err(StoreError::Foreign { path: path.to_owned(), reason })
        }
        Found::Ours(found, None) if found > schema::VERSION => {
            Err(StoreError::Newer { path: path.to_owned(), found, known: schema::VERSION })
        }
        Found::Ours(found, contradiction) => Ok((found, contradiction)),
    }
}

/// Whether the file is put together as it should be, its indexes included. Of a large one, the history is left out: its
/// entries are compared with their sums when they are read.
fn check(path: &Path, conn: &Connection) -> Result<(), StoreError> {
    let all = path.metadata().is_ok_and(|file| file.len() <= CHECKED_WHOLE);
    let tables = if all {
        vec![None]
    } else {
        guard::guarded(conn).map_err(|e| classify(path, "check", e))?.into_iter().map(Some).collect()
    };
    for table in tables {
        let pragma =
            table.map_or("PRAGMA integrity_check(1)".to_owned(), |table| format!("PRAGMA integrity_check({table})"));
        let found: String = conn.query_row(&pragma, [], |row| row.get(0)).map_err(|e| classify(path, "check", e))?;
        if found != "ok" {
            return Err(StoreError::Damaged { path: path.to_owned(), detail: found });
        }
    }
    Ok(())
}

/// What was found while rows were compared, in terms of the file.
fn damage(path: &Path, error: StoreError) -> StoreError {
    if error.is_lasting() { StoreError::Damaged { path: path.to_owned(), detail: error.chain() } } else { error }
}

fn write_ahead(path: &Path, conn: &Connection) -> Result<(), StoreError> {
    let mode: String = conn
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(|e| classify(path, "configure", e))?;
    if mode == "wal" {
        return Ok(());
    }
    let reason = io::Error::other(format!("the file system allows no write-ahead log (mode `{mode}`)"));
    Err(StoreError::io("configure", path, reason))
}

/// Makes a new store this pod's, and refuses another pod's.
fn claim(path: &Path, conn: &Connection, options: &StoreOptions) -> Result<Identity, StoreError> {
    let expected = &options.own.pod.name;
    if let Some(found) = identity(path, conn)? {
        if found.pod == *expected {
            return Ok(found);
        }
        let (expected, found) = (expected.to_string(), found.pod.to_string());
        return Err(StoreError::OtherPod { path: path.to_owned(), expected, found });
    }
    let new = Identity { pod: expected.clone(), stream: StreamId::random(), created_at: options.clock.now() };
    conn.execute(
        "INSERT INTO meta (key, value) VALUES ('pod', ?1), ('stream', ?2), ('created_at', ?3),
                                              ('next_seq', 1), ('next_turn', 1), ('acked_seq', 0)",
        (&new.pod, new.stream, new.created_at),
    )
    .map_err(|e| classify(path, "initialize", e))?;
    Ok(new)
}

fn identity(path: &Path, conn: &Connection) -> Result<Option<Identity>, StoreError> {
    conn.query_row(
        "SELECT p.value, s.value, c.value FROM meta p, meta s, meta c
         WHERE p.key = 'pod' AND s.key = 'stream' AND c.key = 'created_at'",
        [],
        |row| Ok(Identity { pod: row.get(0)?, stream: row.get(1)?, created_at: row.get(2)? }),
    )
    .optional()
    .map_err(|e| classify(path, "read", e))
}

/// Makes an empty file that only we may read, or leaves the one that is there.
fn create_private(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_special(path),
        Err(error) => Err(StoreError::io("create", path, error)),
    }
}

/// A store is a plain file. Through a link we would write where somebody else decides.
fn refuse_special(path: &Path) -> Result<(), StoreError> {
    let kind = path.symlink_metadata().map_err(|e| StoreError::io("open", path, e))?.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let reason = if kind.is_symlink() { "it is a symbolic link" } else { "it is no regular file" };
    Err(StoreError::Foreign { path: path.to_owned(), reason: reason.to_owned() })
}

/// Says who is to blame for what SQLite found.
fn classify(path: &Path, doing: &'static str, error: rusqlite::Error) -> StoreError {
    let path: PathBuf = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => StoreError::Foreign { path, reason: "it is no database".to_owned() },
        // Unknown: a file format that SQLite has never had, or tables that are not there.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::Unknown) => {
            StoreError::Damaged { path, detail: error.to_string() }
        }
        Some(ErrorCode::ReadOnly) => {
            let reason = io::Error::new(io::ErrorKind::PermissionDenied, "its mode, or its header, forbids it");
            StoreError::io("write to", &path, reason)
        }
        _ => StoreError::sqlite(doing, error),
    }
}

#[cfg(test)]
#[path = "closing_tests.rs"]
mod closing;

#[cfg(test)]
#[path = "running_damage_tests.rs"]
mod running_damage;

#[cfg(test)]
#[path = "golden_tests.rs"]
mod golden;

#[cfg(test)]
#[path = "damage_tests.rs"]
mod damage;

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::fixture;

    fn open(path: &Path) -> Result<Identity, StoreError> {
        open_writer(path, &fixture::options("a")).map(|opened| opened.identity)
    }

    #[track_caller]
    fn refused(path: &Path, words: &[&str]) {
        let before = std::fs::read(path).unwrap();
        let text = open(path).unwrap_err().to_string();
        for word in words.iter().chain(&[path.file_name().unwrap().to_str().unwrap()]) {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
        assert_eq!(std::fs::read(path).unwrap(), before, "a file that was refused has changed");
    }

    #[test]
    fn store_reopened_has_the_same_stream() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let first = open(&path).unwrap();
        assert_eq!(open(&path).unwrap(), first);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn file_of_a_newer_version_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let Opened { conn, .. } = open_writer(&path, &fixture::options("a")).unwrap();
        fixture::make_newer(&conn);
        drop(conn);
        let (newer, known) = (format!("schema {}", schema::VERSION + 1), format!("knows up to {}", schema::VERSION));
        refused(&path, &[&newer, &known, "newer program"]);
    }

    #[test]
    fn foreign_files_are_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text.db");
        std::fs::write(&text, "this is a letter, and no database at all".repeat(50)).unwrap();
        refused(&text, &["no database", "move it away"]);

        let other = dir.path().join("other.db");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        refused(&other, &["another program's database"]);
    }

    #[test]
    fn store_of_another_pod_and_symlink_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        open_writer(&path, &fixture::options("b")).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("belongs to pod `b`, not to `a`"));
        let link = dir.path().join("link.db");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(open(&link).unwrap_err().to_string().contains("symbolic link"));
    }

    #[test]
    fn damaged_file_is_said_to_be_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        open(&path).unwrap();
        let bytes = path.metadata().unwrap().len();
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        // Every page but the first, which says that the file is ours.
        file.seek(SeekFrom::Start(4096)).unwrap();
        file.write_all(&vec![0xa5; usize::try_from(bytes - 4096).unwrap()]).unwrap();
        drop(file);
        let error = open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("restore a copy"), "{error}");
    }

    #[test]
    fn damage_far_from_what_is_read_at_the_start_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let Opened { conn, .. } = open_writer(&path, &fixture::options("a")).unwrap();
        for _ in 0..100 {
            let sql = "INSERT INTO history (at, kind, body) VALUES (0, 'output', hex(randomblob(500)))";
            conn.execute(sql, []).unwrap();
        }
        drop(conn);
        let bytes = path.metadata().unwrap().len();
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(bytes - 4096)).unwrap();
        file.write_all(&[0xa5; 4096]).unwrap();
        drop(file);
        assert!(matches!(open(&path), Err(StoreError::Damaged { .. })));
    }
}
