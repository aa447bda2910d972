//! What is left of a call whose outcome is unknown: it can be resolved, or given up.
//!
//! Never repeats a request. While it lives, the server keeps what it knows of the id.
//!
//! Made where an outcome is given its types.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use crate::context::CallContext;
use crate::io::client::CallingCell;
use crate::io::now;
use crate::outcome::{CallError, Cause, NotDelivered, Stage};
use crate::request::Request;
use crate::session::client::Outcome;
use crate::wire::body;

/// An outcome that is not known. The server keeps what it knows of the request until this is resolved or dropped.
#[must_use = "a doubt can be resolved"]
pub struct Doubt<R: Request> {
    /// `None` once resolved or where nothing is left to ask.
    id: Option<u64>,
    cell: Arc<CallingCell>,
    timeout: Duration,
    stage: Stage,
    cause: Cause,
    attempts: u32,
    /// Only where the call was repeated although an attempt's outcome was lost.
    behind: Option<Box<Behind<R>>>,
}

/// What lies behind a doubt that no answer can clear.
struct Behind<R: Request> {
    /// How far the lost attempt had come, and why it was lost.
    lost: (Stage, Cause),
    /// How the last attempt ended.
    last: Option<CallError<R>>,
}

impl<R: Request> Doubt<R> {
    /// How far the request is known to have come.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Why the outcome is in doubt.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// How many times the request was sent; more than 1 only with a [`Retry`](crate::Retry).
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How the last attempt ended, if that is not what is in doubt: an earlier attempt may have been applied, and that this
    /// one was not says nothing about it. Only with [`Retry::idempotent`](crate::Retry::idempotent).
    pub fn last_error(&self) -> Option<&CallError<R>> {
        self.behind.as_ref()?.last.as_ref()
    }

    /// Asks the server what became of the request: connects again if need be, and waits for the handler if it still
    /// runs, at most as long as the call was given; in a handler, until the handler's own deadline at the latest.
    ///
    /// # Errors
    /// `NotDelivered` is the server's word that it never saw the request and now never will take it; `Unknown` again
    /// if it cannot be reached, has restarted, or its handler was stopped.
    ///
    /// # Cancel safety
    /// Dropping the future gives the doubt up, as dropping the doubt does; the handler runs on.
    pub async fn resolve(mut self) -> Result<R::Ack, CallError<R>> {
        let Some(id) = self.id else { return Err(CallError::Unknown(self)) };
        let now = now();
        let deadline = now.checked_add(self.timeout).unwrap_or(now);
        let deadline = CallContext::current().map_or(deadline, |context| context.deadline.min(deadline));
        self.cell.with_driver(|lane| lane.resolve(id, deadline));
        self.cell.nudge();
        let outcome = poll_fn(|cx| self.cell.with(|lane| lane.poll_outcome(id, cx))).await;
        self.id = None;
        // An ack that is found this late has no reader for the stream that it may have opened.
        self.cell.with(|lane| lane.drop_stream(id));
        let lost = self.behind.as_ref().map(|behind| behind.lost);
        Of { cell: &self.cell, timeout: self.timeout, attempts: self.attempts, lost }.typed(outcome, id)
    }
}

impl<R: Request> Drop for Doubt<R> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.cell.with(|lane| lane.release(id));
        }
        self.cell.nudge_if_unused();
    }
}

impl<R: Request> fmt::Debug for Doubt<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doubt")
            .field("stage", &self.stage)
            .field("cause", &self.cause)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

impl<R: Request> fmt::Display for Doubt<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (it was {})", self.cause, self.stage)?;
        match self.last_error() {
            Some(last) => write!(f, "; attempt {} changed nothing about that: {last}", self.attempts),
            None => Ok(()),
        }
    }
}

/// Whose outcome it is.
pub(super) struct Of<'a> {
    pub(super) cell: &'a Arc<CallingCell>,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
    /// An earlier attempt that nobody can tell the outcome of.
    pub(super) lost: Option<(Stage, Cause)>,
}

impl Of<'_> {
    /// Gives an outcome its types. INVARIANT: with a lost attempt behind it, it is an ack or a doubt.
    pub(super) fn typed<R: Request>(&self, outcome: Outcome, id: u64) -> Result<R::Ack, CallError<R>> {
        // The answer is here and cannot be read: asking again would bring the same bytes.
        let unreadable = || self.doubt(None, Stage::Started, Cause::AnswerUnreadable);
        match outcome {
            Outcome::Ack(payload) => payload.read(body::decode).map_err(|_| unreadable()),
            Outcome::Rejected(payload) => Err(match payload.read(body::decode) {
                Ok(rejection) => self.unless_lost(CallError::Rejected(rejection)),
                Err(_) => unreadable(),
            }),
            Outcome::NotDelivered(why) => Err(self.not_delivered(why)),
            Outcome::Unknown(stage, cause) => Err(self.doubt(Some(id), stage, cause)),
        }
    }

    /// The error of a request that was not delivered.
    pub(super) fn not_delivered<R: Request>(&self, why: NotDelivered) -> CallError<R> {
        self.unless_lost(CallError::NotDelivered(match why {
            NotDelivered::UnknownMethod { .. } => NotDelivered::UnknownMethod { method: R::ID, version: R::VERSION },
            NotDelivered::SchemaMismatch { .. } => NotDelivered::SchemaMismatch { method: R::ID, version: R::VERSION },
            why => why,
        }))
    }

    /// That this attempt was not applied says nothing about the one that was lost.
    fn unless_lost<R: Request>(&self, error: CallError<R>) -> CallError<R> {
        let Some(lost) = self.lost else { return error };
        let mut doubt = self.bare_doubt(None, lost.0, lost.1);
        doubt.behind = Some(Box::new(Behind { lost, last: Some(error) }));
        CallError::Unknown(doubt)
    }

    fn doubt<R: Request>(&self, id: Option<u64>, stage: Stage, cause: Cause) -> CallError<R> {
        let mut doubt = self.bare_doubt(id, stage, cause);
        doubt.behind = self.lost.map(|lost| Box::new(Behind { lost, last: None }));
        CallError::Unknown(doubt)
    }

    fn bare_doubt<R: Request>(&self, id: Option<u64>, stage: Stage, cause: Cause) -> Doubt<R> {
        let (cell, timeout, attempts) = (Arc::clone(self.cell), self.timeout, self.attempts);
        Doubt { id, cell, timeout, stage, cause, attempts, behind: None }
    }
}
