//! The one place that all pods of a user share: names and their lives, who is whose child, who may write where, and what
//! each tree may still use up.
//!
//! One SQLite file below the state root. Transactions are a handful of statements; nothing is looked at or waited for
//! while one is open, because a process that is stopped in one stops every other writer. No transaction covers a pod's
//! store, too: a right is claimed here before the life is reserved there, and what the end of a life gives back is an
//! intent of the store, carried out as often as it takes.
//!
//! A right comes back when its holder and all that it has started are proven dead, never on its word, and once.
//!
//! `claim` gives, `returns` takes back, `adopt` moves from one parent to another, `heirs` is what the dead leave behind, `proof` says who is dead, `budget` is the bounds, `turns` counts, `kin` says whose program a process is, `member` is
//! one pod's place in all this; `handle` claims for children, `start` for roots, `admission` asks, and `pod doctor` looks.

mod adopt;
mod budget;
mod claim;
mod examine;
mod heirs;
mod kin;
mod member;
mod open;
mod proof;
mod returns;
mod rows;
mod sums;
mod turns;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Row, Transaction, TransactionBehavior};

use crate::id::{Incarnation, PodId, PodName};
use crate::runtime_dir::Roots;
use crate::scope::{Confinement, NotYours, RuleError};
use crate::store::UnixMillis;

pub use budget::{Cap, TreeLimits};
pub use claim::{Claim, Origin, Place};
pub(crate) use kin::Kin;
pub(crate) use member::Member;

/// The registry of one user. Clones are the same connection; every call blocks for a few file operations.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    conn: Mutex<Option<Connection>>,
}

/// One life of a pod, as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Which.
    pub pod: PodId,
    /// Whose child it is.
    pub parent: Option<PodId>,
    /// The life at the top of its tree.
    pub root: Incarnation,
    /// How far below the root; 0 for the root.
    pub depth: u32,
    /// The kind of its worker.
    pub worker: String,
    /// Where its files are.
    pub state_dir: PathBuf,
    /// Whether it has no more than its leases; a pod without a scope may do what its user may.
    pub scoped: bool,
    /// How the programs that it runs are confined.
    pub confinement: Confinement,
    /// When its life was claimed.
    pub since: UnixMillis,
}

/// Why a life was not registered. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another life has the name, and is not proven dead.
    #[error("the name is taken: {holder} lives, or has left programs that do")]
    NameTaken {
        /// Which.
        holder: PodId,
    },
    /// A dead life has the name, and its parent has not taken what it has left.
    #[error(
        "the name is that of {holder}, whose parent `{parent}` has not seen to its end: run `pod restore {parent}` first, or choose another name"
    )]
    Unburied {
        /// Which.
        holder: PodId,
        /// Its parent.
        parent: PodName,
    },
    /// A bound of the whole tree is reached.
    #[error(transparent)]
    Cap(#[from] Cap),
    /// A rule is no rule.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// The parent does not have what it would give.
    #[error(transparent)]
    NotYours(#[from] NotYours),
    /// Somebody else may write there.
    #[error("`{}` is being written by pod `{holder}`: wait for its end, or ask for another place or for reading", path.display())]
    Overlap {
        /// Where.
        path: PathBuf,
        /// By whom.
        holder: PodName,
    },
    /// Who would be the parent is below the child.
    #[error("`{parent}` is below `{child}`: a pod cannot be the child of one that is below it")]
    Circle {
        /// The child.
        child: PodName,
        /// Who would be its parent.
        parent: PodName,
    },
    /// The child has no scope, and who would be its parent has one.
    #[error("`{child}` has no scope and may do what its user may; a pod with a scope cannot have it as a child")]
    Unbounded {
        /// The child.
        child: PodName,
    },
    /// The registry does not know the parent.
    #[error("its parent {parent} is not in the registry; was that file removed while pods lived? restart the parent")]
    ParentUnknown {
        /// Whom.
        parent: PodId,
    },
    /// The file.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Why the registry cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A file operation failed.
    #[error("failed to {doing} the registry of pods `{}`", path.display())]
    Io {
        /// What we did.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// SQLite failed.
    #[error("failed to use the registry of pods `{}`", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// There is no room for what was to be written.
    #[error(
        "the disk is full: the registry of pods `{}` cannot be written; free some space and try again, nothing of it is lost",
        path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Somebody is in the middle of a transaction for very long.
    #[error(
        "the registry of pods `{}` has been held by another process for {} s: look for a pod that is stopped (`ps` shows \
         state T), continue or end it, and try again", path.display(), open::BUSY_TIMEOUT.as_secs()
    )]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It is no registry, or damaged.
    #[error("`{}` cannot be the registry of pods: {reason}; end all pods, move it away and start them again", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// It was written by a newer program.
    #[error("the registry of pods `{}` has schema {found}, this program knows up to {known}; use the newer program", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
}

impl Registry {
    /// The registry below `roots`. Nothing is opened or made before it is used.
    pub fn at(roots: &Roots) -> Self {
        Self(Arc::new(Inner { path: roots.registry(), conn: Mutex::new(None) }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Every life that is registered, by name: those that live, and those that nobody has proven dead yet.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn pods(&self) -> Result<Vec<Registered>, RegistryError> {
        self.look(|tx| all(tx, "SELECT {} FROM pods ORDER BY name", []))
    }

    /// Looks through the whole file: a name or a right that is not as it was written is nobody's to act on. For whoever starts a
    /// pod, and before it does. Takes milliseconds.
    ///
    /// # Errors
    /// `Unusable` says what is damaged.
    pub fn check(&self) -> Result<(), RegistryError> {
        self.connected(|conn| open::check(self.path(), conn))
    }

    /// In one short transaction for writing. What `work` returns is committed, unless it is an error.
    fn transaction<T, E: From<RegistryError>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.connected(|conn| {
            let begun = conn.transaction_with_behavior(TransactionBehavior::Immediate);
            let tx = begun.map_err(|error| self.error(error))?;
            let done = work(&tx)?;
            tx.commit().map_err(|error| self.error(error))?;
            Ok(done)
        })
    }

    /// At one moment, for reading: waits for nobody who writes.
    fn look<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        self.connected(|conn| {
            let moment = conn.transaction_with_behavior(TransactionBehavior::Deferred);
            work(&moment.map_err(|error| self.error(error))?)
        })
    }

    fn connected<T, E: From<RegistryError>>(&self, work: impl FnOnce(&mut Connection) -> Result<T, E>) -> Result<T, E> {
        let mut held = self.0.conn.lock().unwrap_or_else(PoisonError::into_inner);
        let conn = match held.take() {
            Some(conn) => held.insert(conn),
            None => held.insert(open::open(self.path())?),
        };
        work(conn)
    }

    /// Lets nobody of this process use the registry until what is returned is dropped, however long that is.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> std::sync::mpsc::Sender<()> {
        let (registry, (release, released), (says, held)) =
            (self.clone(), std::sync::mpsc::channel(), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            registry.connected(|_| {
                says.send(()).unwrap();
                Ok::<_, RegistryError>(released.recv().is_err())
            })
        });
        held.recv().unwrap();
        release
    }

    fn error(&self, source: rusqlite::Error) -> RegistryError {
        open::classify(self.path(), source)
    }
}

const COLUMNS: &str = "name, incarnation, parent_name, parent, root, depth, worker, state_dir, scoped, confinement, at";

/// The rows that `sql` finds; `{}` in it stands for the columns.
fn all(tx: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<Vec<Registered>, RegistryError> {
    let read = || {
        let mut statement = tx.prepare_cached(&sql.replace("{}", COLUMNS))?;
        let rows = statement.query_map(params, registered)?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(|error| in_file(tx, error))
}

fn registered(row: &Row<'_>) -> rusqlite::Result<Registered> {
    let parent_name: Option<PodName> = row.get(2)?;
    let parent: Option<Incarnation> = row.get(3)?;
    Ok(Registered {
        pod: PodId::new(row.get(0)?, row.get(1)?),
        parent: parent_name.zip(parent).map(|(name, incarnation)| PodId::new(name, incarnation)),
        root: row.get(4)?,
        depth: row.get(5)?,
        worker: row.get(6)?,
        state_dir: PathBuf::from(row.get::<_, String>(7)?),
        scoped: row.get(8)?,
        // What cannot be read confines most.
        confinement: Confinement::from_word(&row.get::<_, String>(9)?).unwrap_or(Confinement::Required),
        since: row.get(10)?,
    })
}

/// An error of a statement, with the file that it was about.
fn in_file(conn: &Connection, error: rusqlite::Error) -> RegistryError {
    open::classify(Path::new(conn.path().unwrap_or_default()), error)
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "crowd_tests.rs"]
mod crowd;
