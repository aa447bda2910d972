//! What a pod hosts: something that is given a turn, and says how it ended.
//!
//! Object-safe. A worker never talks to the store, to the parent or to a child by itself: all that it does goes through
//! its [`TurnContext`], and is committed before the worker goes on.
//!
//! Run by `controller/turn`; three kinds are here, a fourth is anybody's.

mod command;
mod context;
mod host;
mod ledger;
mod scripted;
mod spec;

use std::fmt;

use futures::future::BoxFuture;

pub use self::command::CommandWorker;
pub use self::context::{Signal, TurnContext};
pub(crate) use self::host::ChildEnvironment;
pub use self::host::{Workers, host};
pub use self::ledger::Ledger;
pub use self::scripted::Script;

/// Something that does a pod's work.
pub trait Worker: Send + 'static {
    /// Whether it wants to be told what children report. If not, reports go to the history at once and start no turn.
    fn reads_reports(&self) -> bool {
        true
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
    fn turn<'a>(&'a mut self, cx: &'a mut TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>>;
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

/// A worker's failure, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerError(String);

impl WorkerError {
    /// A failure that says what went wrong.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WorkerError {}
