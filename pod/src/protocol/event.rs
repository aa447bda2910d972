//! What a pod tells its parent, and what the parent answers.
//!
//! Every event names the pod and the life that raised it. `Lost` is not among the events of the wire: only a parent
//! can say that a child was lost, and it says so to itself ([`LocalEvent`]).
//!
//! Raised by `controller`, offered by `event::Reporter`, applied by `event::apply`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, PodId, Seq, StreamId, TurnId, WorkId};
use crate::protocol::Text;
use crate::scope::ScopeRule;

/// LIMIT: rules in one delegation. More than a person would write by hand; 32 of them still fit a small frame.
pub const SCOPE_RULES_MAX: usize = 32;

/// An event of a pod, for its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub enum PodEvent {
    /// A turn that belonged to `work` ended.
    TurnEnded {
        /// Who ran it.
        pod: PodId,
        /// What it was for.
        work: WorkId,
        /// Which turn.
        turn: TurnId,
        /// How it ended.
        result: TurnResult,
    },
    /// The worker failed in a turn that belonged to `work`, or something is wrong with the pod itself. Rejections and cancels
    /// are no errors.
    Errored {
        /// Who ran it.
        pod: PodId,
        /// What it was for; none, if the pod is blocked without work, or it is no turn that failed.
        work: Option<WorkId>,
        /// Which turn; 0 if it is none.
        turn: TurnId,
        /// What kind of failure it was, as the worker says; none, if nobody said.
        kind: Option<FailureKind>,
        /// What the worker said.
        message: Text<1024>,
    },
    /// The pod stops; its last event.
    ShutDown {
        /// Who stops.
        pod: PodId,
    },
    /// A child of the pod was given rights that the pod had from its parent. Never shown to an agent.
    ScopeSubDelegated {
        /// Who says so.
        pod: PodId,
        /// Who delegated.
        parent_pod: PodId,
        /// To whom.
        sub_pod: PodId,
        /// Where that pod listens.
        sub_socket: Text<256>,
        /// What it may do.
        scope: rpc::List<ScopeRule, SCOPE_RULES_MAX>,
    },
    /// Delegated work is over, with all that it caused: no turn, input, report or descendant of it is open.
    WorkSettled {
        /// Whose work it was.
        pod: PodId,
        /// Which.
        work: WorkId,
        /// How it ended.
        result: WorkResult,
    },
    /// The events `from..=to` of the stream can no longer be told. Takes their places.
    Gap {
        /// Whose events are missing.
        pod: PodId,
        /// The first that is missing.
        from: Seq,
        /// The last that is missing.
        to: Seq,
    },
}

/// What kind of failure a worker had: what whoever learns of it can do about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// None of the others.
    #[default]
    Other,
    /// It may pass: the same may succeed later.
    Retryable,
    /// A credential is missing, wrong, or may not do this: nothing will help but another one.
    Auth,
    /// A limit of a service or of the worker: a rate, a quota, a budget.
    Limit,
    /// What the agent knows is more than its model takes: compact it, or go back.
    ContextTooLong,
    /// The pod's own store failed: its disk is full, its file damaged. Not the worker's doing.
    Store,
}

/// How a turn ended. A worker's failure is `Errored` instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub enum TurnResult {
    /// The worker had no more to do.
    Finished,
    /// A limit of the worker or of the pod was reached.
    LimitReached,
    /// Paused; it may be resumed.
    Paused,
    /// Undone by the worker: what it had done does not count.
    RolledBack,
    /// Cancelled on request.
    Cancelled,
    /// Cut short by the end of the process.
    Interrupted,
}

/// How delegated work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub enum WorkResult {
    /// Its last turn finished.
    Finished,
    /// Its last turn reached a limit.
    LimitReached,
    /// Its last turn failed.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Its last turn was cut short by the end of the process.
    Interrupted,
    /// The pod that had it ended first.
    Lost,
    /// The pod did not take it.
    Refused,
}

/// Why a child's life is over although it did not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum LostReason {
    /// It exited.
    Exited {
        /// With this code.
        code: i32,
    },
    /// It was killed.
    Killed {
        /// By this signal.
        signal: i32,
    },
    /// Nobody was there to see how it ended.
    Unobserved,
}

/// An event as its receiver knows it: one from the wire, or the loss of a child, which only the parent can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalEvent {
    /// What a child reported.
    Reported(PodEvent),
    /// A child ended without saying so.
    Lost {
        /// Who.
        pod: PodId,
        /// How.
        reason: LostReason,
    },
}

/// One offer of an event. `(stream, seq)` is the event's key and stays; each offer is a request of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = EventAck, rejection = EventRejection)]
pub struct PodEventOffer {
    /// The life that offers it; the event names the one that raised it.
    pub from: PodId,
    /// Whose sequence it is.
    pub stream: StreamId,
    /// Its place. A `Gap` has the place of the last event that is missing.
    pub seq: Seq,
    /// The event.
    pub event: PodEvent,
}

/// The event is committed at the parent, now or earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct EventAck {
    /// Whether this offer did it.
    pub disposition: Disposition,
    /// Everything up to here is committed at the parent and may be forgotten by the child.
    pub durable_seq: Seq,
    /// Whether it started a turn at the parent.
    pub woke: bool,
}

/// What an offer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub enum Disposition {
    /// It was applied.
    Applied,
    /// It had been applied before; this offer changed nothing.
    Duplicate,
}

/// Why an event was not applied. Nothing has changed at the parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum EventRejection {
    /// Another event of the stream comes first.
    #[error("event {expected} is expected first")]
    OutOfOrder {
        /// Which.
        expected: Seq,
    },
    /// Whoever offers it is no child of this pod.
    #[error("the sender is no child of this pod")]
    NotYourChild,
    /// The life that offers it is over; another one has its name.
    #[error("the sender's life is over; incarnation {current} has its name")]
    StaleIncarnation {
        /// The life that has the name now.
        current: Incarnation,
    },
    /// The event contradicts itself or its sender.
    #[error("the event is not acceptable: {reason}")]
    Invalid {
        /// How.
        reason: Text<256>,
    },
    /// The parent could not commit it.
    #[error("the event could not be committed: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
}

impl PodEvent {
    /// The life that raised it.
    pub fn pod(&self) -> &PodId {
        match self {
            Self::TurnEnded { pod, .. }
            | Self::Errored { pod, .. }
            | Self::ShutDown { pod }
            | Self::ScopeSubDelegated { pod, .. }
            | Self::WorkSettled { pod, .. }
            | Self::Gap { pod, .. } => pod,
        }
    }

    /// The delegated work that it is about.
    pub fn work(&self) -> Option<WorkId> {
        match self {
            Self::TurnEnded { work, .. } | Self::WorkSettled { work, .. } => Some(*work),
            Self::Errored { work, .. } => *work,
            Self::ShutDown { .. } | Self::ScopeSubDelegated { .. } | Self::Gap { .. } => None,
        }
    }

    /// Its name, as logs and tables show it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TurnEnded { .. } => "turn_ended",
            Self::Errored { .. } => "errored",
            Self::ShutDown { .. } => "shut_down",
            Self::ScopeSubDelegated { .. } => "scope_sub_delegated",
            Self::WorkSettled { .. } => "work_settled",
            Self::Gap { .. } => "gap",
        }
    }

    /// Whether an agent is told. What belongs to the control plane alone never reaches its context.
    pub fn should_notify_agent(&self) -> bool {
        !matches!(self, Self::ScopeSubDelegated { .. })
    }
}

impl LocalEvent {
    /// The child's life that it is about.
    pub fn pod(&self) -> &PodId {
        match self {
            Self::Reported(event) => event.pod(),
            Self::Lost { pod, .. } => pod,
        }
    }

    /// Its name, as logs and tables show it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Reported(event) => event.kind(),
            Self::Lost { .. } => "lost",
        }
    }

    /// Whether an agent is told.
    pub fn should_notify_agent(&self) -> bool {
        match self {
            Self::Reported(event) => event.should_notify_agent(),
            Self::Lost { .. } => true,
        }
    }
}

impl WorkResult {
    /// Whether what was asked for was done.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Finished)
    }
}

impl From<TurnResult> for WorkResult {
    fn from(result: TurnResult) -> Self {
        match result {
            TurnResult::Finished => Self::Finished,
            TurnResult::LimitReached => Self::LimitReached,
            // Paused work is open. These two name what its last turn was, should it be settled by the pod's end.
            TurnResult::Paused | TurnResult::Interrupted => Self::Interrupted,
            TurnResult::RolledBack | TurnResult::Cancelled => Self::Cancelled,
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Other => "other",
            Self::Retryable => "may pass",
            Self::Auth => "not authorized",
            Self::Limit => "a limit",
            Self::ContextTooLong => "the context is too long",
            Self::Store => "the pod's store",
        })
    }
}

impl fmt::Display for TurnResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Finished => "finished",
            Self::LimitReached => "limit reached",
            Self::Paused => "paused",
            Self::RolledBack => "rolled back",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        })
    }
}

impl fmt::Display for WorkResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Finished => "finished",
            Self::LimitReached => "limit reached",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::Refused => "refused",
        })
    }
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited with code {code}"),
            Self::Killed { signal } => write!(f, "killed by signal {signal}"),
            Self::Unobserved => f.pad("ended unobserved"),
        }
    }
}
