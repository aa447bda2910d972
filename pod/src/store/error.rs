//! What can go wrong with a store.
//!
//! Every variant names the thing and says what may be done. Cloned to all callers of a commit that failed.
//!
//! Made in this folder, shown by `cli`, turned into rejections by `controller` and `event`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;

use crate::id::{PodId, PodName};
use crate::store::owner::Owner;

/// `SQLITE_IOERR_SHMSIZE`.
const SHM_SIZE: i32 = 10 | (19 << 8);
/// `SQLITE_IOERR_READ`, `_SHORT_READ`, `_DATA` and `_CORRUPTFS`: the last is what SQLite makes of `EIO`.
const UNREADABLE: [i32; 4] = [10 | (1 << 8), 10 | (2 << 8), 10 | (32 << 8), 10 | (33 << 8)];
/// What the system says of a sector that cannot be read, on every Linux.
const EIO: i32 = 5;

/// Why the store did not do what it was asked to. Unless it says otherwise, nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file operation failed.
    #[error("failed to {doing} store `{}`", path.display())]
    Io {
        /// What we did.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// SQLite failed.
    #[error("failed to {doing} the store")]
    Sqlite {
        /// What we did.
        doing: &'static str,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// No space is left.
    #[error("the disk is full; what was committed is safe, free some space and try again")]
    DiskFull,
    /// The file is another program's, or no database at all.
    #[error("`{}` is no pod's store ({reason}); move it away or choose another directory", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How we know.
        reason: String,
    },
    /// There is a file, but nothing in it: whoever made it died before it wrote.
    #[error("store `{}` is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version of this program.
    #[error("store `{}` has schema {found}, this program knows up to {known}; use the newer program, which \
             reads both", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// What a dead child has left cannot be read yet. Its life is not over before it is read.
    #[error("what pod {pod} had committed before it died cannot be read yet, and its end is not told before that")]
    NotYet {
        /// The child.
        pod: PodId,
        /// Why.
        #[source]
        source: Box<Self>,
    },
    /// The file is damaged.
    #[error(
        "store `{}` is damaged ({detail}); move it and the files of that name beside it away to start anew, or restore a \
         copy of them", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file has had more commits than it has now.
    #[error(
        "store `{}` has lost commits {} to {had}: its write-ahead log is gone or cut short, or it is an older copy; \
         restore all its files, or remove `{}` to go on without them",
        path.display(), has + 1, head.display()
    )]
    CommitsLost {
        /// The file.
        path: PathBuf,
        /// The file beside it that tells.
        head: PathBuf,
        /// How many it had.
        had: u64,
        /// How many it has.
        has: u64,
    },
    /// The file has had more commits than it has now: they were not synced, and the machine went down.
    #[error(
        "store `{}` lacks commits {} to {had}: they were not synced when the machine went down (`durability = \"power\"` \
         syncs each); its pod starts without them, and its history says so", path.display(), has + 1
    )]
    WentDown {
        /// The file.
        path: PathBuf,
        /// How many it had.
        had: u64,
        /// How many it has.
        has: u64,
    },
    /// What stands beside the file, and says how many commits it has had, is damaged. Nothing is known to be wrong with the
    /// store itself.
    #[error(
        "`{}`, which says how many commits store `{}` has had, is damaged; if the store is not an older copy, remove `{}`: \
         the next start writes it anew", head.display(), path.display(), head.display()
    )]
    HeadUnreadable {
        /// The store.
        path: PathBuf,
        /// The file beside it.
        head: PathBuf,
    },
    /// The file belongs to a pod of another name.
    #[error("store `{}` belongs to pod `{found}`, not to `{expected}`", path.display())]
    OtherPod {
        /// The file.
        path: PathBuf,
        /// Whose we thought it was.
        expected: String,
        /// Whose it is.
        found: String,
    },
    /// The pod whose store it is belongs to another one.
    #[error("pod `{pod}` is {found}, and cannot be {wanted}: {}", found.remedy(pod.as_str()))]
    OtherParent {
        /// The file.
        path: PathBuf,
        /// Whose store it is.
        pod: PodName,
        /// What it was to be.
        wanted: Owner,
        /// What it is.
        found: Owner,
    },
    /// A row does not say what its column promises.
    #[error("the store holds {what} that cannot be read: {detail}")]
    Unreadable {
        /// What.
        what: &'static str,
        /// Why.
        detail: String,
    },
    /// Something was to be written that is larger than the store takes.
    #[error("{what} has {bytes} bytes, at most {max} are kept")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large.
        bytes: usize,
        /// How large it may be.
        max: usize,
    },
    /// More events than we keep await the parent.
    #[error("{max} events await the parent already")]
    OutboxFull {
        /// How many may.
        max: u64,
    },
    /// What was asked for contradicts what is committed.
    #[error("not possible: {0}")]
    Contradiction(String),
    /// Too much waits to be committed.
    #[error("{max} transactions wait to be committed already")]
    Overloaded {
        /// How many may.
        max: usize,
    },
    /// The store was closed, or its thread ended.
    #[error("the store is closed")]
    Closed,
    /// The transaction's code panicked. It was rolled back.
    #[error("a transaction panicked and was rolled back: {0}")]
    Panicked(String),
}

impl StoreError {
    pub(crate) fn sqlite(doing: &'static str, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            // The log's index cannot grow: SQLite gives that a number of its own.
            _ if source.sqlite_error().is_some_and(|error| error.extended_code == SHM_SIZE) => Self::DiskFull,
            _ => Self::Sqlite { doing, source: Arc::new(source) },
        }
    }

    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull => Self::DiskFull,
            _ => Self::Io { doing, path: path.to_owned(), source: Arc::new(source) },
        }
    }

    /// Whether it is about what stands in the file, so that a later attempt finds the same. A file of a newer version is
    /// none of these: the newer program can read it.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Foreign { .. }
            | Self::Empty { .. }
            | Self::Damaged { .. }
            | Self::CommitsLost { .. }
            | Self::WentDown { .. }
            | Self::HeadUnreadable { .. }
            | Self::OtherPod { .. }
            | Self::Unreadable { .. } => true,
            // A row that does not hold what its column promises.
            Self::Sqlite { source, .. } => match source.sqlite_error_code() {
                Some(code) => matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase),
                None => true,
            },
            // An adoption may change it.
            Self::OtherParent { .. }
            | Self::Io { .. }
            | Self::DiskFull
            | Self::Newer { .. }
            | Self::NotYet { .. }
            | Self::TooLarge { .. }
            | Self::OutboxFull { .. }
            | Self::Contradiction(_)
            | Self::Overloaded { .. }
            | Self::Closed
            | Self::Panicked(_) => false,
        }
    }

    /// Whether the medium did not give back what stands on it: a sector that is dead, or a cable. A later attempt may, once
    /// or twice.
    pub(crate) fn is_of_the_medium(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => {
                source.sqlite_error().is_some_and(|error| UNREADABLE.contains(&error.extended_code))
            }
            Self::Io { source, .. } => source.raw_os_error() == Some(EIO),
            _ => false,
        }
    }

    /// Whether it is about what was to be written, and not about the store: another one would refuse it, too.
    pub(crate) fn is_of_whoever_writes(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Contradiction(_))
    }

    /// The error and its causes in one line, for a rejection or a log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// For statements inside a transaction; opening and committing say more.
impl From<rusqlite::Error> for StoreError {
    fn from(source: rusqlite::Error) -> Self {
        Self::sqlite("use", source)
    }
}
