//! How a pod is doing.
//!
//! A picture of one moment, read from what is committed.
//!
//! Answered by `controller`; shown by `pod ls`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{PodId, Seq, TurnId};
use crate::protocol::{FailureKind, Kept, Text, TurnCap};
use crate::scope::Confined;

/// LIMIT: children named in one status. The counts beside them cover all.
pub const STATUS_CHILDREN_MAX: usize = 64;

/// Say how you are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 9, ack = PodStatus, ack_bytes_max = 65536)]
pub struct Status;

/// What a pod is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, rpc::Wire)]
pub enum PodState {
    /// Nothing; it waits for something to do.
    #[default]
    Idle,
    /// A turn runs.
    Running,
    /// A turn was paused and can be resumed.
    Paused,
    /// Turns failed too often, or a bound of the tree refuses another one; it waits for a run, a resume or its timer.
    Blocked,
    /// No new turn will start.
    Stopping,
}

/// How a pod is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct PodStatus {
    /// Who.
    pub pod: PodId,
    /// The process.
    pub pid: u32,
    /// To whom it reports.
    pub parent: Option<PodId>,
    /// The kind of its worker.
    pub worker: Text<64>,
    /// What it does.
    pub state: PodState,
    /// The turn that runs or is paused.
    pub turn: Option<TurnId>,
    /// When it started, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// Entries of its history.
    pub history: u64,
    /// Runs that wait for their turn.
    pub runs_staged: u64,
    /// Reports and notes that the agent has yet to be told, those in its current request included.
    pub inbox_waiting: u64,
    /// Events that the parent has yet to ack.
    pub outbox_pending: u64,
    /// Events that the parent cannot take; kept and shown.
    pub outbox_undeliverable: u64,
    /// The last event that the parent has acked.
    pub outbox_acked: Seq,
    /// What became of the last offer.
    pub outbox_last_outcome: Option<Text<256>>,
    /// Works that this pod was given and that are not settled.
    pub works_received_open: u64,
    /// Works that this pod has delegated and that are not settled.
    pub works_delegated_open: u64,
    /// Children whose life is not over.
    pub children_live: u64,
    /// All children's lives.
    pub children_total: u64,
    /// The children whose life is not over, as far as they fit.
    pub children: rpc::List<ChildStatus, STATUS_CHILDREN_MAX>,
    /// How the worker failed last; none, if a turn has finished since.
    pub last_failure: Option<LastFailure>,
    /// The bound of its tree that has blocked it.
    pub blocked_by: Option<TurnCap>,
    /// How the programs that it runs are confined.
    pub confined: Confined,
}

/// A failure of the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct LastFailure {
    /// In which turn.
    pub turn: TurnId,
    /// What kind it was.
    pub kind: FailureKind,
    /// What the worker said.
    pub message: Text<256>,
}

/// One child in its parent's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct ChildStatus {
    /// Who.
    pub pod: PodId,
    /// The process, once it has been started.
    pub pid: Option<u32>,
    /// `reserved`, `starting`, `ready` or `ended`.
    pub state: Text<16>,
    /// Where it listens.
    pub socket: Text<256>,
    /// Whether it ends with this pod, and whether it is started again.
    pub kept: Kept,
}

impl fmt::Display for PodState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Blocked => "blocked",
            Self::Stopping => "stopping",
        })
    }
}
