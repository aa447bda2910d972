//! One use of a tool, from its first word in history to its last.
//!
//! It is in history before the tool does anything, and has one result there, whatever becomes of it: one that is dropped is
//! ended, as abandoned, before its turn commits or reads anything more, or with its turn.
//!
//! Made by [`TurnContext::tool`], several at a time if need be.

use super::{TurnContext, WorkerError};
use crate::id::CallId;
use crate::protocol::clip;
use crate::store::{Attachment, HistoryItem, ToolEnd};

/// LIMIT: what an agent is told of one use of a tool, in bytes. Longer results are cut; a tool that has more to say
/// keeps it elsewhere and says where.
pub const TOOL_TEXT_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: what programs are told of one use, in bytes of JSON, which nobody can cut. With the text it fits a history entry.
pub const STRUCTURED_BYTES_MAX: usize = 128 * 1024;
/// LIMIT: attachments of one use: more than a model takes in one request.
pub const ATTACHMENTS_MAX: usize = 16;
/// LIMIT: an attachment's name, type and reference, in bytes: what file systems, the registry of types and paths allow.
const ATTACHMENT_BYTES_MAX: [(&str, usize); 3] = [("name", 255), ("media type", 127), ("reference", 4096)];

/// What a use of a tool has come to.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ToolOutput {
    /// What the agent is told; cut at 64 KiB.
    pub text: String,
    /// The same for programs, in at most 128 KiB of JSON.
    pub structured: Option<serde_json::Value>,
    /// What is too large or no text, and where it is; 16 at most.
    pub attachments: Vec<Attachment>,
}

/// A use of a tool that has begun.
#[derive(Debug)]
#[must_use = "a use of a tool ends with `done` or `failed`; dropped, it ends as abandoned"]
pub struct ToolUse<'c> {
    cx: &'c TurnContext,
    call: CallId,
    /// Its result is committed.
    ended: bool,
}

impl ToolOutput {
    /// The same, and for programs.
    #[must_use]
    pub fn structured(mut self, value: serde_json::Value) -> Self {
        self.structured = Some(value);
        self
    }

    /// The same, and something that is kept elsewhere.
    #[must_use]
    pub fn attach(mut self, attachment: Attachment) -> Self {
        self.attachments.push(attachment);
        self
    }

    /// As it can be committed, or what is wrong with it.
    fn checked(mut self) -> Result<Self, WorkerError> {
        self.text = clip(&self.text, TOOL_TEXT_BYTES_MAX).into_owned();
        let too_large = |what: &str, has: usize, max: usize| {
            WorkerError::new(format!("{what} of a tool's result has {has} bytes; at most {max} are allowed"))
        };
        let bytes = self.structured.as_ref().map_or(0, |value| value.to_string().len());
        if bytes > STRUCTURED_BYTES_MAX {
            return Err(too_large("the structured part", bytes, STRUCTURED_BYTES_MAX));
        }
        if self.attachments.len() > ATTACHMENTS_MAX {
            let count = self.attachments.len();
            let text = format!("a tool's result has {count} attachments; at most {ATTACHMENTS_MAX} are allowed");
            return Err(WorkerError::new(text));
        }
        for attachment in &self.attachments {
            let texts = [&attachment.name, &attachment.media_type, &attachment.reference];
            for ((what, max), text) in ATTACHMENT_BYTES_MAX.into_iter().zip(texts) {
                if text.len() > max {
                    return Err(too_large(&format!("the {what} of an attachment"), text.len(), max));
                }
            }
        }
        Ok(self)
    }
}

impl From<String> for ToolOutput {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<&str> for ToolOutput {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&String> for ToolOutput {
    fn from(text: &String) -> Self {
        text.clone().into()
    }
}

impl<'c> ToolUse<'c> {
    pub(super) fn new(cx: &'c TurnContext, call: CallId) -> Self {
        Self { cx, call, ended: false }
    }

    /// Which use, within its turn.
    pub fn call(&self) -> CallId {
        self.call
    }

    /// Says how far it has come, in at most 1 KiB. Shown to whoever watches, and kept nowhere.
    pub fn progress(&self, text: &str) {
        self.cx.pod().shared().live.progress(self.cx.turn(), self.call, text);
    }

    /// The tool did what it was told. Returns what is committed: what the agent may be told.
    ///
    /// # Errors
    /// The result is too large, or it could not be committed. It then ends as one that is dropped.
    pub async fn done(self, result: impl Into<ToolOutput>) -> Result<ToolOutput, WorkerError> {
        self.end(ToolEnd::Done, result.into()).await
    }

    /// The tool said why not. Returns what is committed: what the agent may be told.
    ///
    /// # Errors
    /// The reason is too large, or it could not be committed. It then ends as one that is dropped.
    pub async fn failed(self, reason: impl Into<ToolOutput>) -> Result<ToolOutput, WorkerError> {
        self.end(ToolEnd::Failed, reason.into()).await
    }

    async fn end(mut self, how: ToolEnd, output: ToolOutput) -> Result<ToolOutput, WorkerError> {
        let output = output.checked()?;
        let ToolOutput { text, structured, attachments } = output.clone();
        let item = HistoryItem::ToolResult { call: self.call, how, text, structured, attachments };
        self.cx.end_call(self.call, item).await?;
        self.ended = true;
        Ok(output)
    }
}

impl Drop for ToolUse<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.cx.drop_call(self.call);
        }
    }
}
