//! Finding pods: which are visible, what there is to know of one, reaching one that lives and restoring one that does not.
//!
//! Asked of the pod from which one looks: it sees itself and what is below it. An ack changes nothing but that of
//! [`AttachOrRestorePod`], after which the pod lives.
//!
//! Carried out by `discovery`; asked by agents in their turns and, for what is below a pod, by `cli`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, PodId, PodName, Seq, TurnId, WorkId};
use crate::protocol::tools::{Kept, PODS_PAGE_MAX, QUOTE_BYTES_MAX, TargetFault};
use crate::protocol::{PodState, SCOPE_RULES_MAX, Text, TurnCap};
use crate::scope::{Confined, ScopeRule};

/// LIMIT: children, works and entries that one report names. The counts beside them cover all.
pub const REPORT_LINES_MAX: usize = 32;
/// LIMIT: the newest entries of a history that a report names.
pub const LAST_ENTRIES_MAX: usize = 10;
/// LIMIT: completions in one answer: nobody chooses among more.
pub const COMPLETIONS_MAX: usize = 64;

/// Which pods are below you? By name, of each the newest life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 35, ack = VisiblePage, rejection = FindRejection, ack_bytes_max = 131072, idempotent)]
pub struct ListVisiblePods {
    /// The last name of the page before.
    pub after: Option<PodName>,
    /// How many; at most 100.
    pub max: u32,
}

/// Pods that are visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct VisiblePage {
    /// By name.
    pub pods: rpc::List<VisiblePod, PODS_PAGE_MAX>,
    /// Whether there are more behind the last.
    pub more: bool,
}

/// One pod that is visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct VisiblePod {
    /// Its newest life, as far as it was told.
    pub pod: PodId,
    /// Whose child it is.
    pub parent: PodName,
    /// How far below: 1 for a child.
    pub depth: u32,
    /// Whether it lives: its life lock is held.
    pub alive: bool,
}

/// What is there to know of that pod?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 36, ack = PodReport, rejection = FindRejection, ack_bytes_max = 262144, idempotent)]
pub struct InspectPod {
    /// Which; itself, or one below it.
    pub pod: PodName,
}

/// What there is to know of a pod, read from what it has committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct PodReport {
    /// Its name.
    pub name: PodName,
    /// Who holds its life lock.
    pub life: Option<LifeHolder>,
    /// Whose child it is, or was last.
    pub parent: Option<ParentOf>,
    /// What it does, as it is committed.
    pub state: PodState,
    /// The turn that runs or is paused.
    pub turn: Option<TurnId>,
    /// The bound of its tree that has blocked it.
    pub blocked_by: Option<TurnCap>,
    /// The kind of its worker, if it is recorded.
    pub worker: Option<Text<64>>,
    /// What it may do, as it was given.
    pub scope: rpc::List<ScopeRule, SCOPE_RULES_MAX>,
    /// How the programs that it runs are confined, on this machine; none if it is not registered.
    pub confined: Option<Confined>,
    /// Its children: the newest life of each name, those that live first.
    pub children: rpc::List<ChildOf, REPORT_LINES_MAX>,
    /// Children whose life is not over.
    pub children_live: u64,
    /// All children's lives.
    pub children_total: u64,
    /// Works that are not settled, its own first.
    pub works: rpc::List<OpenWork, REPORT_LINES_MAX>,
    /// Works that it was given and that are not settled.
    pub works_received_open: u64,
    /// Works that it has delegated and that are not settled.
    pub works_delegated_open: u64,
    /// Runs that wait for their turn.
    pub runs_staged: u64,
    /// Reports and notes that its agent has yet to be told.
    pub inbox_waiting: u64,
    /// Events that the parent has yet to ack.
    pub outbox_pending: u64,
    /// Events that the parent cannot take.
    pub outbox_undeliverable: u64,
    /// The last event that the parent has acked.
    pub outbox_acked: Seq,
    /// What became of the last offer, if it failed.
    pub outbox_last_outcome: Option<Text<256>>,
    /// Entries of its history.
    pub history: u64,
    /// The newest of them, oldest first.
    pub last: rpc::List<LastEntry, LAST_ENTRIES_MAX>,
    /// Its store.
    pub store: StoreFacts,
    /// Whether it could be restored, and how.
    pub restore: Restore,
}

/// Who holds a life lock. Empty in the instant between its lock and its word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct LifeHolder {
    /// Its process.
    pub pid: Option<u32>,
    /// Which life.
    pub incarnation: Option<Incarnation>,
}

/// Whose child a pod is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct ParentOf {
    /// The parent.
    pub name: PodName,
    /// Whether it lives.
    pub alive: bool,
    /// The life of the child that it knows as the newest.
    pub knows: Incarnation,
    /// Whether the pod ends with it, and whether it starts the pod again.
    pub kept: Kept,
}

/// A child in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct ChildOf {
    /// Its newest life.
    pub pod: PodId,
    /// How far that has come: `reserved`, `starting`, `ready` or `ended`.
    pub state: Text<16>,
    /// Its process, once it was started.
    pub pid: Option<u32>,
    /// Whether it ends with this pod, and whether it is started again.
    pub kept: Kept,
}

/// A work in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct OpenWork {
    /// Which.
    pub work: WorkId,
    /// The child that has it; none, if it is the pod's own.
    pub child: Option<PodName>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// The turn that it is, once that is known.
    pub turn: Option<TurnId>,
    /// What it is, in short.
    pub input: Text<200>,
}

/// One of the newest entries of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct LastEntry {
    /// Its place.
    pub seq: u64,
    /// When it was committed, in milliseconds since 1970.
    pub at_ms: u64,
    /// The turn in which it was.
    pub turn: Option<TurnId>,
    /// What it is, by its name in the store.
    pub kind: Text<32>,
}

/// A store, from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct StoreFacts {
    /// Where it is.
    pub path: Text<4096>,
    /// How large it is, with its write-ahead log, in bytes.
    pub bytes: u64,
    /// The version of its tables; 0 if there is none.
    pub schema: u32,
    /// Why it cannot be read, if so: then all else here says nothing.
    pub unreadable: Option<Text<512>>,
}

/// Whether a pod can be restored, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "snake_case")]
pub enum Restore {
    /// It lives.
    Lives,
    /// By its parent, which lives: as a new life of the same name, with its store and its worker.
    ByParent {
        /// Who.
        parent: PodName,
    },
    /// By itself: it is no child, and what it was started as is recorded.
    ByManifest,
    /// Not, and why; the reason says what would help.
    No {
        /// Why.
        reason: Text<512>,
    },
}

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum FindRejection {
    /// There is no such pod, or it is not visible from here.
    #[error("{0}")]
    Target(TargetFault),
    /// What is known of it cannot be read.
    #[error("it cannot be read: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<512>,
    },
}

/// Reach a child: acked when it lives and answers. One that has ended is started again: a new life of its name, with its
/// store, its worker and its scope, as they were recorded last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 37, ack = Attached, rejection = RestoreRejection, ack_bytes_max = 8192)]
pub struct AttachOrRestorePod {
    /// Which.
    pub pod: PodName,
    /// How long it may take, in milliseconds; at most five minutes.
    pub limit_ms: u64,
}

/// The pod lives and answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Attached {
    /// Which life.
    pub pod: PodId,
    /// Its process.
    pub pid: Option<u32>,
    /// Where it listens.
    pub socket: Text<256>,
    /// Whether it was started for this.
    pub restored: bool,
}

/// Why a pod cannot be reached or restored. No life of it was left behind that had not been there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum RestoreRejection {
    /// There is no such pod, or it is not visible, or somebody else's child.
    #[error("{0}")]
    Target(TargetFault),
    /// What is left of it is not enough, or not readable.
    #[error("pod `{name}` cannot be restored: {reason}")]
    NotRestorable {
        /// The pod.
        name: PodName,
        /// Why, and what would help.
        reason: Text<512>,
    },
    /// Another process lives under its name, and is not what was asked for.
    #[error("pod `{name}` is locked by {}", locked_by(*pid, life.as_ref()))]
    Locked {
        /// The pod.
        name: PodName,
        /// The process.
        pid: Option<u32>,
        /// The life that it is.
        life: Option<PodId>,
    },
    /// It was started and ended before it was ready.
    #[error("pod `{name}` exited while it was starting: {how}{}", quoted(stderr))]
    Exited {
        /// The pod.
        name: PodName,
        /// How it ended.
        how: Text<256>,
        /// What it said last.
        stderr: Text<QUOTE_BYTES_MAX>,
    },
    /// It was not ready in time, and was ended; or it lives and does not answer.
    #[error("pod `{name}` was not ready within {limit_ms} ms{}", quoted(stderr))]
    TimedOut {
        /// The pod.
        name: PodName,
        /// How long it had.
        limit_ms: u64,
        /// What it said last.
        stderr: Text<QUOTE_BYTES_MAX>,
    },
    /// The pod that is asked is stopping.
    #[error("the pod is stopping and starts no children")]
    Stopping,
    /// It may not, or could not be recorded.
    #[error("pod `{name}` was not restored: {reason}")]
    Refused {
        /// The pod.
        name: PodName,
        /// Why.
        reason: Text<1024>,
    },
}

/// What could be meant by what was typed so far?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 38, ack = Completions, rejection = FindRejection, ack_bytes_max = 32768, idempotent)]
pub struct ListCompletions {
    /// What was typed.
    pub prefix: Text<64>,
    /// Of which kind; none for any.
    pub kind: Option<CompletionKind>,
}

/// What a word can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "snake_case")]
pub enum CompletionKind {
    /// The pod, its parent, or one below it.
    Pod,
    /// A kind of worker that its children may host.
    Worker,
    /// A tool.
    Tool,
}

/// What could be meant, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Completions {
    /// At most 64.
    pub found: rpc::List<Completion, COMPLETIONS_MAX>,
    /// Whether there are more.
    pub more: bool,
}

/// One word.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, rpc::Wire)]
pub struct Completion {
    /// What it is.
    pub kind: CompletionKind,
    /// The word.
    pub word: Text<64>,
    /// What it is about, in short.
    pub about: Text<80>,
}

impl fmt::Display for Restore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lives => f.write_str("it lives"),
            Self::ByParent { parent } => write!(f, "by its parent `{parent}`, which lives"),
            Self::ByManifest => f.write_str("by itself, from its recorded manifest"),
            Self::No { reason } => write!(f, "no: {reason}"),
        }
    }
}

fn locked_by(pid: Option<u32>, life: Option<&PodId>) -> String {
    match (pid, life) {
        (Some(pid), Some(life)) => format!("process {pid}, which is life {} of `{}`", life.incarnation, life.name),
        (Some(pid), None) => format!("process {pid}"),
        (None, _) => "a process that is just starting".to_owned(),
    }
}

fn quoted(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {stderr}") }
}
