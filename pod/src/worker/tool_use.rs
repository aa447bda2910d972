//! One use of a tool, from its first word in history to its last.
//!
//! It is in history before the tool does anything, and has one result there, whatever becomes of it: one that is dropped is
//! ended, as abandoned, before its turn commits or reads anything more, or with its turn.
//!
//! Made by [`TurnContext::tool`], several at a time if need be.

use serde_json::Value;

use super::context::{PROVIDER_BYTES_MAX, check_provider};
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

/// LIMIT: what a tool is told, in bytes of JSON: more than a model writes in one answer, and it fits a history entry.
pub const ARGUMENTS_BYTES_MAX: usize = 512 * 1024;
/// LIMIT: a tool's name, in bytes; and what is kept of arguments that are too long.
const NAME_BYTES_MAX: usize = 4 * 1024;

/// A use of a tool, as a model asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub(super) tool: String,
    pub(super) arguments: Value,
    pub(super) provider: Option<Value>,
}

impl ToolCall {
    /// Of the tool of that name, which is told `arguments`.
    pub fn new(tool: impl Into<String>, arguments: Value) -> Self {
        Self { tool: tool.into(), arguments, provider: None }
    }

    /// The same with what a provider wants to be told again with it, in at most 64 KiB of JSON: the name that it gave this
    /// use, say, or a signature. It stands in history right behind the use.
    #[must_use]
    pub fn provider(mut self, data: Value) -> Self {
        self.provider = Some(data);
        self
    }

    /// Which tool.
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// What it is told.
    pub fn arguments(&self) -> &Value {
        &self.arguments
    }

    /// Whether it can be [begun](TurnContext::tool); if not, it can be [refused](TurnContext::refuse_tool).
    ///
    /// # Errors
    /// The arguments have more than 512 KiB, or the provider's data more than 64 KiB.
    pub fn check(&self) -> Result<(), WorkerError> {
        let bytes = self.arguments.to_string().len();
        if bytes > ARGUMENTS_BYTES_MAX {
            let tool = clip(&self.tool, 64);
            let text = format!("tool `{tool}` is told {bytes} bytes; at most {ARGUMENTS_BYTES_MAX} are allowed");
            return Err(WorkerError::new(text));
        }
        self.provider.as_ref().map_or(Ok(()), check_provider)
    }

    /// Its name, arguments and data, as much as fits an entry.
    pub(super) fn cut(self) -> (String, Value, Option<Value>) {
        let tool = clip(&self.tool, NAME_BYTES_MAX).into_owned();
        let text = self.arguments.to_string();
        let arguments = match text.len() {
            bytes if bytes > ARGUMENTS_BYTES_MAX => {
                serde_json::json!({ "bytes": bytes, "begins": clip(&text, NAME_BYTES_MAX) })
            }
            _ => self.arguments,
        };
        let provider = self.provider.filter(|data| data.to_string().len() <= PROVIDER_BYTES_MAX);
        (tool, arguments, provider)
    }
}

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

/// A use of a tool that has begun. It may be moved into a task of its own, and outlive the request that it was asked in; if its
/// turn is over first, it has its result, and what it says comes too late.
#[derive(Debug)]
#[must_use = "a use of a tool ends with `done` or `failed`; dropped, it ends as abandoned"]
pub struct ToolUse {
    cx: TurnContext,
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
    pub(super) fn checked(mut self) -> Result<Self, WorkerError> {
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

impl ToolUse {
    pub(super) fn new(cx: TurnContext, call: CallId) -> Self {
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

impl Drop for ToolUse {
    fn drop(&mut self) {
        if !self.ended {
            self.cx.drop_call(self.call);
        }
    }
}
