//! Requests that give a pod something to do or to know.
//!
//! Both are durable: their key is committed with their effect, so that sending one twice does it once.
//!
//! Answered by `controller`; sent by a parent, or by a person.

use serde::{Deserialize, Serialize};

use crate::id::{NoteKey, TurnId, WorkId};
use crate::protocol::Text;

/// LIMIT: the input of one run, in bytes. A long prompt is 64 KiB; as JSON, where a control character takes six bytes,
/// it still fits a history entry.
pub const RUN_INPUT_BYTES_MAX: usize = 128 * 1024;
/// LIMIT: one notification, in bytes. Larger texts are the input of a run.
pub const NOTE_BYTES_MAX: usize = 16 * 1024;

/// Do this. Acked when it is committed and staged as the pod's next turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = Accepted, rejection = RunRejection)]
pub struct Run {
    /// The work, chosen by the sender. The same work again is accepted with the same turn, and not done twice.
    pub work: WorkId,
    /// What to do.
    pub input: Text<RUN_INPUT_BYTES_MAX>,
}

/// The run is committed and will be the turn `turn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Accepted {
    /// The turn that it starts.
    pub turn: TurnId,
    /// The work that it is.
    pub work: WorkId,
}

/// Why a run was not taken. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum RunRejection {
    /// A turn is running, or something else that needs the worker for itself is about to.
    #[error("{}; wait for its end, cancel it, or notify the pod instead", busy(*turn))]
    AlreadyRunning {
        /// Which; 0 if none is, yet.
        turn: TurnId,
    },
    /// The input is of no use to the worker.
    #[error("the input is not valid: {reason}")]
    Invalid {
        /// Why.
        reason: Text<256>,
    },
    /// The pod is stopping.
    #[error("the pod is stopping")]
    Stopping,
    /// It could not be committed, or not be counted.
    #[error("the run could not be committed: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
    /// A bound of the whole tree is reached.
    #[error("no turn is started: {cap}")]
    Cap {
        /// Which.
        cap: TurnCap,
    },
}

/// A bound of the whole tree, beyond which its pods start no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum TurnCap {
    /// They have had as many as they may.
    #[error(
        "the pods of the tree have had their {max} turns (`limits.turns` of its root, over all its lives); raise it, and start \
         the root again"
    )]
    Turns {
        /// How many they may have.
        max: u64,
    },
    /// Its time is over.
    #[error(
        "the tree has had its {max_seconds} s (`limits.tree_seconds` of its root); start the root again, or raise it first"
    )]
    WallTime {
        /// How long it had.
        max_seconds: u64,
    },
}

/// What keeps the worker busy.
pub(super) fn busy(turn: TurnId) -> String {
    match turn {
        TurnId(0) => "a turn is about to run, or what the agent knows is being changed".to_owned(),
        turn => format!("turn {turn} is running"),
    }
}

/// Know this. Acked when it is committed in the inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = Queued, rejection = NotifyRejection)]
pub struct Notify {
    /// Chosen by the sender. The same key again is queued once.
    pub key: NoteKey,
    /// What the agent should know.
    pub message: Text<NOTE_BYTES_MAX>,
    /// Whether an idle pod starts a turn for it.
    pub auto_run: bool,
}

/// The notification is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Queued {
    /// Whether a turn is started for it. One that a bound of the tree then refuses, or whose start fails, leaves it where it
    /// is: it opens the next one.
    pub woke: bool,
}

/// Why a notification was not taken. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum NotifyRejection {
    /// The agent has yet to be told too much.
    #[error("{max} notifications are waiting already")]
    Full {
        /// How many may wait.
        max: u32,
    },
    /// The message is empty.
    #[error("the message is not valid: {reason}")]
    Invalid {
        /// Why.
        reason: Text<256>,
    },
    /// It could not be committed.
    #[error("the notification could not be committed: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
}
