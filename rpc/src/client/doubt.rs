//! What is left of a call whose outcome is unknown: it can be resolved, or given up.
//!
//! Never repeats a request. While it lives, the server keeps what it knows of the id.
//!
//! Made where an outcome is given its types.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::io::client::LaneCell;
use crate::io::now;
use crate::outcome::{CallError, Cause, NotDelivered, Stage};
use crate::request::Request;
use crate::session::client::Outcome;
use crate::wire::body;

/// An outcome that is not known. The server keeps what it knows of the request until this is resolved or dropped.
#[must_use = "a doubt can be resolved"]
pub struct Doubt<R> {
    /// `None` once resolved or where nothing is left to ask.
    id: Option<u64>,
    cell: Arc<LaneCell>,
    timeout: Duration,
    stage: Stage,
    cause: Cause,
    _request: PhantomData<fn(R)>,
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

    /// Asks the server what became of the request: connects again if need be, and waits for the handler if it still
    /// runs, at most as long as the call was given.
    ///
    /// # Errors
    /// `NotDelivered` is the server's word that it never saw the request and now never will take it; `Unknown` again
    /// if it cannot be reached, has restarted, or its handler was stopped.
    ///
    /// # Cancel safety
    /// Dropping the future gives the doubt up, as dropping the doubt does; the handler runs on.
    pub async fn resolve(mut self) -> Result<R::Ack, CallError<R>> {
        let Some(id) = self.id else { return Err(CallError::Unknown(self)) };
        self.cell.ensure_driver();
        let now = now();
        let deadline = now.checked_add(self.timeout).unwrap_or(now);
        self.cell.with(|lane| lane.resolve(id, deadline));
        self.cell.nudge();
        let outcome = poll_fn(|cx| self.cell.with(|lane| lane.poll_outcome(id, cx))).await;
        self.id = None;
        // An ack that is found this late has no reader for the stream that it may have opened.
        self.cell.with(|lane| lane.drop_stream(id));
        typed(outcome, id, &self.cell, self.timeout)
    }
}

impl<R> Drop for Doubt<R> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.cell.with(|lane| lane.release(id));
        }
        self.cell.nudge_if_unused();
    }
}

impl<R> fmt::Debug for Doubt<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doubt").field("stage", &self.stage).field("cause", &self.cause).finish_non_exhaustive()
    }
}

impl<R> fmt::Display for Doubt<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (it was {})", self.cause, self.stage)
    }
}

/// Gives an outcome its types.
pub(super) fn typed<R: Request>(
    outcome: Outcome,
    id: u64,
    cell: &Arc<LaneCell>,
    timeout: Duration,
) -> Result<R::Ack, CallError<R>> {
    let doubt = |id, stage, cause| {
        CallError::Unknown(Doubt { id, cell: Arc::clone(cell), timeout, stage, cause, _request: PhantomData })
    };
    // The answer is here and cannot be read: asking again would bring the same bytes.
    let unreadable = || doubt(None, Stage::Started, Cause::AnswerUnreadable);
    match outcome {
        Outcome::Ack(payload) => body::decode(payload.as_slice()).map_err(|_| unreadable()),
        Outcome::Rejected(payload) => Err(match body::decode(payload.as_slice()) {
            Ok(rejection) => CallError::Rejected(rejection),
            Err(_) => unreadable(),
        }),
        Outcome::NotDelivered(why) => Err(CallError::NotDelivered(match why {
            NotDelivered::UnknownMethod { .. } => NotDelivered::UnknownMethod { method: R::ID, version: R::VERSION },
            NotDelivered::SchemaMismatch { .. } => NotDelivered::SchemaMismatch { method: R::ID, version: R::VERSION },
            why => why,
        })),
        Outcome::Unknown(stage, cause) => Err(doubt(Some(id), stage, cause)),
    }
}
