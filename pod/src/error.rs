//! Why a child was not started, why work was not taken on, why a child was not stopped.
//!
//! Each names the pod, the reason and, where there is one, the remedy; none prints its source.
//!
//! Returned by `handle`. [`in_one_line`] is how any error of this crate is said where there is one line for it.

use std::path::PathBuf;

use crate::id::{PodName, WorkId};
use crate::manifest::ManifestError;
use crate::protocol::RunRejection;
use crate::registry::{Cap, ClaimError};
use crate::runtime_dir::DirError;
use crate::spawn::READY_TIMEOUT;
use crate::store::{Owner, StoreError};

/// Why a child was not started. Nothing is left of it but its row and what it said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The pod stops.
    #[error("pod `{name}` cannot be started: its parent is stopping")]
    Stopping {
        /// The child.
        name: PodName,
    },
    /// Whoever wanted it has not waited for it; nothing was begun.
    #[error("pod `{name}` was not started: nobody waits for it any more")]
    GivenUp {
        /// The child.
        name: PodName,
    },
    /// The worker's description is wrong.
    #[error("the worker of pod `{name}` is not valid")]
    Worker {
        /// The child.
        name: PodName,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The name is taken.
    #[error("pod `{name}` exists already ({holder}); stop it or choose another name")]
    NameTaken {
        /// The name.
        name: PodName,
        /// Who has it.
        holder: String,
    },
    /// The pod of that name is another one's child, or a root; it was not touched.
    #[error("pod `{name}` is {owner}: {}", owner.remedy(name.as_str()))]
    NotOurs {
        /// The child.
        name: PodName,
        /// Whose it is.
        owner: Owner,
    },
    /// Too many children.
    #[error("pod `{name}` cannot be started: {max} children live already; stop one, or raise `limits.children`")]
    TooMany {
        /// The child.
        name: PodName,
        /// How many may.
        max: u32,
    },
    /// A bound of the whole tree is reached.
    #[error("pod `{name}` cannot be started: {cap}")]
    Cap {
        /// The child.
        name: PodName,
        /// Which.
        cap: Cap,
    },
    /// What it is to be given is not there to be given.
    #[error("pod `{name}` cannot be given its scope")]
    Scope {
        /// The child.
        name: PodName,
        /// Which right, and who has it.
        #[source]
        source: ClaimError,
    },
    /// Its programs cannot be confined as far as they must be.
    #[error("pod `{name}` cannot be started with this scope: {reason}")]
    Confinement {
        /// The child.
        name: PodName,
        /// What is missing, and what to do.
        reason: String,
    },
    /// It could not be registered.
    #[error("pod `{name}` cannot be registered")]
    Registry {
        /// The child.
        name: PodName,
        /// Why.
        #[source]
        source: ClaimError,
    },
    /// Its directories cannot be used.
    #[error("the directories of pod `{name}` cannot be used")]
    Directory {
        /// The child.
        name: PodName,
        /// Why.
        #[source]
        source: DirError,
    },
    /// The process could not be started.
    #[error("the process of pod `{name}` could not be started from `{}`", program.display())]
    Process {
        /// The child.
        name: PodName,
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It died before it was ready.
    #[error("pod `{name}` ended before it was ready ({terminal}){}", said(stderr))]
    DiedEarly {
        /// The child.
        name: PodName,
        /// How.
        terminal: String,
        /// What it said last.
        stderr: String,
    },
    /// It did not say that it is ready.
    #[error(
        "pod `{name}` was not ready within {} s and was stopped{}; look what its program waits for (`stderr.log` in its state \
         directory has all that it has printed), or try again on a machine that is less busy",
        READY_TIMEOUT.as_secs(), said(stderr)
    )]
    NotReady {
        /// The child.
        name: PodName,
        /// What it said last.
        stderr: String,
    },
    /// Our store.
    #[error("the child could not be recorded")]
    Store(#[from] StoreError),
}

impl SpawnError {
    pub(crate) fn from_claim(name: &PodName, error: ClaimError) -> Self {
        let name = name.clone();
        match error {
            ClaimError::NameTaken { holder } => {
                let holder = format!("{holder}, which lives or has left programs that do");
                Self::NameTaken { name, holder }
            }
            ClaimError::Unburied { parent, .. } => Self::NotOurs { name, owner: Owner::Parent(parent) },
            ClaimError::Cap(cap) => Self::Cap { name, cap },
            source @ (ClaimError::Rule(_) | ClaimError::NotYours(_) | ClaimError::Overlap { .. }) => {
                Self::Scope { name, source }
            }
            source => Self::Registry { name, source },
        }
    }
}

/// Why work was not taken on, or is not known to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no such child, or it has ended.
    #[error("pod `{name}` is no living child of this pod")]
    NoSuchChild {
        /// The name.
        name: PodName,
    },
    /// The pod said no.
    #[error("the work was refused")]
    Rejected(#[source] RunRejection),
    /// It never saw it; the work is settled as refused.
    #[error("the work was not delivered: {0}")]
    NotDelivered(rpc::NotDelivered),
    /// It may have taken it on: the work stays open, and is sent again under its id until the child has taken it, refused it,
    /// or ended. To give it again, or to somebody else, may do it twice.
    #[error(
        "whether work {work} was taken on is unknown yet ({cause}); it is sent again under its id until that is known"
    )]
    Unknown {
        /// Which.
        work: WorkId,
        /// Why it is not known.
        cause: String,
    },
    /// Our store.
    #[error("the work could not be recorded")]
    Store(#[from] StoreError),
}

/// Why a child was not stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// There is no such child.
    #[error("pod `{name}` is no child of this pod")]
    NoSuchChild {
        /// The name.
        name: PodName,
    },
    /// This pod ended first.
    #[error("this pod ended before its child `{name}` did")]
    Stopped {
        /// The child.
        name: PodName,
    },
}

/// An error and its causes in one line: for a rejection, a log, or a person. Errors of this crate never print their sources
/// themselves.
pub fn in_one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {stderr}") }
}
