//! One use of a tool, from its first word in history to its last.
//!
//! It is in history before the tool does anything, and has one result there, whatever becomes of it: one that is dropped
//! is ended, as abandoned, with its turn.
//!
//! Made by [`TurnContext::tool`], several at a time if need be.

use super::{TurnContext, WorkerError};
use crate::id::CallId;
use crate::protocol::clip;
use crate::store::ToolEnd;

/// LIMIT: what an agent is told of one use of a tool, in bytes. Longer results are cut; a tool that has more to say
/// keeps it elsewhere and says where.
pub const TOOL_TEXT_BYTES_MAX: usize = 64 * 1024;

/// A use of a tool that has begun.
#[derive(Debug)]
#[must_use = "a use of a tool ends with `done` or `failed`; dropped, it ends as abandoned with its turn"]
pub struct ToolUse<'c> {
    cx: &'c TurnContext,
    call: CallId,
}

impl<'c> ToolUse<'c> {
    pub(super) fn new(cx: &'c TurnContext, call: CallId) -> Self {
        Self { cx, call }
    }

    /// Which use, within its turn.
    pub fn call(&self) -> CallId {
        self.call
    }

    /// Says how far it has come, in at most 1 KiB. Shown to whoever watches, and kept nowhere.
    pub fn progress(&self, text: &str) {
        self.cx.pod().shared().live.progress(self.cx.turn(), self.call, text);
    }

    /// The tool did what it was told. Returns what is committed, cut at 64 KiB: what the agent may be told.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn done(self, result: &str) -> Result<String, WorkerError> {
        self.end(ToolEnd::Done, result).await
    }

    /// The tool said why not. Returns what is committed, cut at 64 KiB: what the agent may be told.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn failed(self, reason: &str) -> Result<String, WorkerError> {
        self.end(ToolEnd::Failed, reason).await
    }

    async fn end(self, how: ToolEnd, text: &str) -> Result<String, WorkerError> {
        let text = clip(text, TOOL_TEXT_BYTES_MAX).into_owned();
        self.cx.end_call(self.call, how, text.clone()).await?;
        Ok(text)
    }
}
