//! What a pod hosts: something that is given a turn, and says how it ended.
//!
//! Object-safe. A worker never talks to the store, to the parent or to a child by itself: all that it does goes through
//! its [`TurnContext`], and what lasts is committed before the worker goes on.
//!
//! Run by `controller/turn`; three kinds are here, a fourth is anybody's: what streams, uses tools, repeats a request,
//! goes on with one that was cut, and forgets what is far behind needs nothing that is not in this folder.

mod command;
mod context;
mod host;
mod ledger;
pub(crate) mod live;
mod scripted;
mod spec;
mod tool_use;

use std::fmt;

use futures::future::BoxFuture;

pub use self::command::CommandWorker;
pub use self::context::{PROVIDER_BYTES_MAX, Signal, TurnContext};
pub(crate) use self::host::ChildEnvironment;
pub use self::host::{Workers, host};
pub use self::ledger::Ledger;
pub use self::live::{CallInFlight, DELTA_BYTES_MAX, InFlight, LiveItem, LiveItems, PIECE_BYTES_MAX, Piece, Producing};
pub use self::scripted::Script;
pub use self::tool_use::{
    ARGUMENTS_BYTES_MAX, ATTACHMENTS_MAX, STRUCTURED_BYTES_MAX, TOOL_TEXT_BYTES_MAX, ToolCall, ToolOutput, ToolUse,
};
use crate::id::TurnId;
pub use crate::protocol::FailureKind;
use crate::store::SUMMARY_BYTES_MAX;
pub use crate::store::{Attachment, Compaction, Summary, Usage};

/// Something that does a pod's work.
pub trait Worker: Send + 'static {
    /// Whether it wants to be told what children report. If not, reports go to the history at once and start no turn.
    fn reads_reports(&self) -> bool {
        true
    }

    /// Whether it may start processes by itself and wait for them. If so, a dead process that nobody has waited for is left
    /// to it for ten minutes, in a process that is the pod's alone; if not, it is reaped within seconds.
    fn starts_processes(&self) -> bool {
        true
    }

    /// Whether [`compact`](Self::compact) does something. If not, a request for it is refused.
    fn compacts(&self) -> bool {
        false
    }

    /// Whether what it knows can end at an earlier turn again: it makes its requests from the committed
    /// [context](TurnContext::context_after), or forgets what it is told to with [`rewound`](Self::rewound). If not, a
    /// request for it is refused.
    fn rewinds(&self) -> bool {
        false
    }

    /// Does one turn: asks for what it has to know with [`TurnContext::next_request`], acts, says what it produces, and
    /// returns how the turn ended.
    ///
    /// A worker should watch [`TurnContext::signal`] and end when it is asked to; one that does not is ended when the
    /// pod's patience is over. A panic is an error of this turn.
    ///
    /// # Errors
    /// The worker failed. What it had been told and had not confirmed with [`TurnContext::response_received`] is told
    /// again.
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>>;

    /// Says what all of the context comes to, in a turn that does nothing else and is told nothing: asked for from outside.
    /// A worker that finds its context too long in the middle of a turn uses [`TurnContext::compacted`].
    ///
    /// Should watch [`TurnContext::signal`] like any turn; what it returns when it was asked to end does not matter.
    ///
    /// # Errors
    /// The worker failed. The context stays as it is.
    fn compact<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<Compaction, WorkerError>> {
        let _ = cx;
        Box::pin(async { Err(WorkerError::new("this worker keeps nothing that could be made shorter")) })
    }

    /// What it knows ends before `to` again. Called once, at the beginning of its next turn or compaction, if it has not
    /// been made anew since.
    fn rewound(&mut self, to: RewoundTo) {
        let _ = to;
    }
}

/// Where the context ends after a rewind; of several, the earliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewoundTo {
    /// The first turn that does not count.
    pub turn: TurnId,
    /// The entry with which it had begun; those before it count.
    pub entry: u64,
}

/// How a turn ended, as its worker means it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    /// It did what it was asked.
    Finished,
    /// A limit of its own ended it.
    LimitReached,
    /// It can go on later.
    Paused,
    /// It undid what it had done.
    RolledBack,
    /// It gave up because it was asked to.
    Cancelled,
}

/// A worker's failure: of what kind, and in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerError {
    kind: FailureKind,
    message: String,
}

impl WorkerError {
    /// A failure that says what went wrong.
    pub fn new(message: impl Into<String>) -> Self {
        Self::of_kind(FailureKind::Other, message)
    }

    /// The same of a kind that somebody can do something about: the pod's status and the report to its parent say it.
    pub fn of_kind(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Of what kind it is.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WorkerError {}

/// What cannot be committed is found out where somebody can be told.
pub(crate) fn check_summary(compaction: &Compaction) -> Result<(), WorkerError> {
    match compaction.summary.len() {
        _ if compaction.summary.trim().is_empty() => Err(WorkerError::new("the summary is empty")),
        bytes if bytes > SUMMARY_BYTES_MAX => {
            Err(WorkerError::new(format!("the summary has {bytes} bytes; at most {SUMMARY_BYTES_MAX} are allowed")))
        }
        _ => Ok(()),
    }
}
