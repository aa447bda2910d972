//! Requests that change what an agent still knows: make it shorter, look what there is to go back to, go back.
//!
//! The history stays as it is; what no longer counts is said in it. Acked when that is committed.
//!
//! Answered by `controller`; sent by people.

use serde::{Deserialize, Serialize};

use crate::id::{PodName, TurnId};
use crate::protocol::work::busy;
use crate::protocol::{ControlRejection, RUN_INPUT_BYTES_MAX, Text};

/// LIMIT: targets in one answer, the newest ones. Nobody chooses among more.
pub const REWIND_TARGETS_MAX: usize = 64;
/// LIMIT: the beginning of a target's input, in bytes: a line to recognize it by.
pub const REWIND_INPUT_BYTES_MAX: usize = 200;
/// LIMIT: children that a rejection names.
pub const REWIND_CHILDREN_MAX: usize = 16;

/// Make the context shorter. Acked when the worker has been told to; the end of the turn `turn` tells what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 11, ack = Compacting, rejection = ControlRejection)]
pub struct Compact;

/// The worker makes the context shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Compacting {
    /// In this turn.
    pub turn: TurnId,
}

/// Say what there is to go back to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 12, ack = RewindTargets, rejection = RewindRejection, ack_bytes_max = 65536)]
pub struct ListRewindTargets;

/// What there is to go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct RewindTargets {
    /// The newest entry of the context: what [`RewindTo`] is to expect.
    pub head: u64,
    /// The newest ones first.
    pub targets: rpc::List<RewindTarget, REWIND_TARGETS_MAX>,
    /// Whether there are older ones.
    pub more: bool,
}

/// A turn before which the context can end again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct RewindTarget {
    /// Which.
    pub turn: TurnId,
    /// When it began, in milliseconds since 1970.
    pub at_ms: u64,
    /// The beginning of what its user wanted; none, if reports started it.
    pub input: Option<Text<REWIND_INPUT_BYTES_MAX>>,
    /// Reports and notes that would be told again.
    pub reports: u64,
    /// Children that live and were started since.
    pub children: u64,
}

/// Go back to before a turn. Acked when it is committed; nothing that was done is undone, it is only no longer known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 13, ack = RewindAck, rejection = RewindRejection, ack_bytes_max = 196608)]
pub struct RewindTo {
    /// The first turn that is not to count.
    pub target: TurnId,
    /// The newest entry of the context as the sender has seen it: should there be a newer one, nothing is done.
    pub expected_head: u64,
    /// What becomes of children that live and were started since.
    pub children: RewindChildren,
}

/// What becomes of the children that the agent would no longer know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub enum RewindChildren {
    /// If there are any, nothing is done.
    #[default]
    Refuse,
    /// They are stopped first.
    Stop,
    /// They go on, also when the pod ends: those that would have ended with it are told so first.
    Detach,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub enum RewindAck {
    /// It is committed.
    Rewound(Rewound),
    /// Children were told to end for it, or to go on when the pod ends, and do; the context is what it was.
    NotRewound {
        /// How many were told. Of those that were to go on: in a pod that stops, the ones that have said that they do; it ends
        /// the others.
        children_told: u64,
        /// How many of them have ended by now.
        children_stopped: u64,
        /// Why it went no further.
        reason: RewindRejection,
    },
}

/// The context ends before the target again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Rewound {
    /// The first turn that does not count.
    pub target: TurnId,
    /// The newest entry of the context now.
    pub head: u64,
    /// How many turns do not count.
    pub turns: u64,
    /// What the user of the target wanted: to be changed, and sent again.
    pub input: Option<Text<RUN_INPUT_BYTES_MAX>>,
    /// Reports and notes that are told again.
    pub reports: u64,
    /// Children that were stopped for it and have ended.
    pub children_stopped: u64,
    /// Children that would have ended with the pod, and go on now.
    pub children_detached: u64,
}

/// Why nothing was done. The context is what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum RewindRejection {
    /// The worker is busy: with a turn, or about to be.
    #[error("{}; wait for its end, or cancel it", busy(*turn))]
    AlreadyRunning {
        /// Which; 0 if none is, yet.
        turn: TurnId,
    },
    /// Something was added since the sender has looked.
    #[error("the context has grown to entry {head} since it was looked at; list the targets again")]
    HeadMoved {
        /// The newest entry of the context.
        head: u64,
    },
    /// The worker cannot go back, or not there.
    #[error("not possible: {reason}")]
    NotEligible {
        /// Why.
        reason: Text<256>,
    },
    /// These live, and the agent would no longer know them.
    #[error("{count} of its children live and were started since: {}; choose what becomes of them", names(children))]
    ChildrenLive {
        /// How many.
        count: u64,
        /// The first of them.
        children: rpc::List<PodName, REWIND_CHILDREN_MAX>,
    },
    /// They were to be detached, and could not be told so: they are just starting or ending, or do not answer.
    #[error(
        "{count} of its children live, end with it, and could not be told to go on instead; try again, or stop them: {}",
        names(children)
    )]
    CannotDetach {
        /// How many.
        count: u64,
        /// The first of them.
        children: rpc::List<PodName, REWIND_CHILDREN_MAX>,
    },
    /// Someone gave it up while children were being stopped for it.
    #[error("it was cancelled while children were being stopped for it")]
    Cancelled,
    /// The pod is stopping.
    #[error("the pod is stopping")]
    Stopping,
    /// It could not be committed.
    #[error("the change could not be committed: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
}

fn names(children: &rpc::List<PodName, REWIND_CHILDREN_MAX>) -> String {
    children.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
