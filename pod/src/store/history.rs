//! What happened in a pod, in the order in which it was committed.
//!
//! Append only: an entry never changes. What an agent is told stands here as a [`SystemItem`] before it is told.
//!
//! Written by the transactions of this folder and of `event`, read by `attach` and `pod log`.

use serde::{Deserialize, Serialize};

use crate::id::{CallId, NoteKey, PodId, PodName, Seq, StreamId, TurnId, WorkId};
use crate::protocol::{ENTRY_BYTES_MAX, FailureKind, LocalEvent, TurnCap, TurnResult, WorkResult};
use crate::store::children::{Lifetime, Terminal};
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::guard::{ENTRY_AS_WRITTEN, not_as_written};
use crate::store::sql::{count, from_json, int, stored_word, to_json};
use crate::store::tx::{Reads, Tx};

/// LIMIT: how much of the history is in memory for one reader, in bytes of JSON: a few of the largest entries.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// One entry, where it stands and what it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// Its place: larger for what was committed later. The cursor of observers.
    pub seq: u64,
    /// When it was written.
    pub at: UnixMillis,
    /// The turn in which it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// The work that it was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<WorkId>,
    /// What it was.
    #[serde(flatten)]
    pub item: HistoryItem,
}

/// What can happen in a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum HistoryItem {
    /// A process took the store up.
    LifeStarted {
        /// Which life.
        pod: PodId,
    },
    /// The pod was told to do something.
    UserInput {
        /// By whom.
        origin: Origin,
        /// What.
        text: String,
    },
    /// A turn of the worker began.
    TurnStarted {
        /// Why.
        cause: TurnCause,
        /// What it is for, besides the turn's own work.
        works: Vec<WorkId>,
    },
    /// A turn of the worker ended.
    TurnEnded {
        /// How.
        outcome: TurnOutcome,
    },
    /// The worker produced something.
    Output {
        /// What kind.
        output: OutputKind,
        /// The text.
        text: String,
    },
    /// The worker is about to use a tool. Stands here before the tool does anything.
    ToolCall {
        /// Which use, within its turn.
        call: CallId,
        /// Which tool.
        tool: String,
        /// What it is told.
        arguments: serde_json::Value,
    },
    /// What became of it. Stands once for each use, also for one that its turn's end cut short.
    ToolResult {
        /// Which use.
        call: CallId,
        /// How it ended.
        how: ToolEnd,
        /// What the agent is told of it.
        text: String,
        /// The same for programs, if the tool gave it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        structured: Option<serde_json::Value>,
        /// What is too large or no text, and where it is.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attachments: Vec<Attachment>,
    },
    /// The worker has begun to answer its `request`th request of the turn: what follows in the turn up to the next such entry
    /// is the answer, and the uses of tools among it were asked for together.
    Answering {
        /// 1, 2, 3, ...
        request: u32,
    },
    /// What a provider wants to be told again with the entry before it: a signature of what was thought, say. Nobody here
    /// reads it. Stands right behind the entry `of`; where that is no longer part of the context, it means nothing.
    Provider {
        /// The entry that it belongs to.
        of: u64,
        /// As it came.
        data: serde_json::Value,
    },
    /// What a request of the worker has used up.
    Usage(Usage),
    /// An attempt of the worker has failed and is repeated. What it had produced in it is not here and does not count.
    Retrying {
        /// How many have failed.
        attempt: u32,
        /// After this pause.
        after_ms: u64,
        /// Why it failed.
        reason: String,
    },
    /// What the worker produces was cut, at a limit of a model, say, and is gone on with.
    Continuing {
        /// What cut it.
        reason: String,
    },
    /// The agent's context was made shorter: `summary` stands for the entries up to `upto`, which stay here.
    Compacted {
        /// The last entry that it stands for.
        upto: u64,
        /// What they come to.
        summary: String,
        /// The children that live: a summary may have forgotten them. The newest ones, as far as they fit.
        children: Vec<PodId>,
        /// How many there are.
        children_total: u64,
    },
    /// The agent's context ends before the entry `to` again: what stands between there and here does not count. It stays
    /// here, and so does what it has caused elsewhere.
    Rewound {
        /// The entry with which `target` began.
        to: u64,
        /// The first turn that does not count.
        target: TurnId,
        /// Who wanted it; none, if the worker rolled its turn back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Origin>,
        /// Reports and notes that are told again.
        returned: u64,
    },
    /// The worker did something else that is worth keeping.
    Worker {
        /// Which.
        what: String,
        /// Its details.
        detail: serde_json::Value,
    },
    /// What the agent is told besides the input of its user.
    SystemItem(SystemItem),
    /// An event for the control plane, never shown to an agent.
    ControlEvent {
        /// Its place in its stream.
        key: Option<EventKey>,
        /// The event.
        event: LocalEvent,
    },
    /// A child's life was reserved; its process is about to be started.
    ChildSpawned {
        /// Who.
        child: PodId,
        /// Whether it ends with us.
        lifetime: Lifetime,
    },
    /// A child said that it is ready.
    ChildReady {
        /// Who.
        child: PodId,
    },
    /// A child's life is over. Stands once for each life.
    ChildTerminal {
        /// Whose.
        child: PodId,
        /// How it ended.
        terminal: Terminal,
        /// What went wrong when its last events were read from its store.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unread: Option<String>,
    },
    /// A child has ended once more than its restart policy allows, and stays ended.
    RestartsExhausted {
        /// Its last life.
        child: PodId,
        /// How often it was restarted.
        restarts: u32,
        /// In how long, in milliseconds.
        within_ms: u64,
    },
    /// A child that would have ended with its parent goes on when that ends: in the histories of both.
    ChildDetached {
        /// Which.
        child: PodId,
    },
    /// A child of a dead pod is ours now.
    ChildAdopted {
        /// Who.
        child: PodId,
        /// Whose it was.
        from: PodName,
    },
    /// A child is another pod's now: it was adopted while we were not running. That life has no terminal event here.
    ChildMoved {
        /// Who.
        child: PodId,
        /// Whose it is.
        to: PodName,
    },
    /// Work was given to a child.
    WorkDelegated {
        /// To whom.
        child: PodId,
        /// What, in short.
        input: String,
    },
    /// Work is over, with all that it caused.
    WorkSettled {
        /// How.
        result: WorkResult,
        /// The child that had it; none, if it was ours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<PodName>,
    },
    /// Turns failed too often, or may not be started; none is until someone or the timer says so.
    Blocked {
        /// What failed, or which bound is reached, in words.
        reason: String,
        /// The bound of the tree, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cap: Option<TurnCap>,
    },
    /// Turns are started again.
    Unblocked,
    /// This store is an older copy of one that went further: the parent has events that stand nowhere here. What is raised
    /// from here on has numbers behind them.
    OlderThanParent {
        /// The last event that we knew of.
        ours: Seq,
        /// The last that the parent has.
        parent: Seq,
    },
    /// The parent lacks events that were acked: its store is an older copy, or it is another parent. What lies between is a
    /// gap for it.
    NewerThanParent {
        /// The last event that was acked.
        ours: Seq,
        /// The last that the parent has.
        parent: Seq,
    },
    /// The machine went down, and what this store had committed last is missing: it had not been synced. What its head had
    /// said is kept beside it.
    CommitsLost {
        /// The first commit that is missing.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A report or note was no longer as it was written when it was to be told. What is left of it is kept, and never told;
    /// the agent is told that something is missing.
    ReportDamaged {
        /// Its place in the inbox.
        entry: u64,
    },
    /// What a run was to do was no longer as it was written when its turn was to start. It ended as failed.
    RunDamaged {
        /// Its turn.
        turn: TurnId,
    },
    /// An event in the outbox was no longer as it was written. The parent was told of a gap; what is left of the event is
    /// kept, and never offered.
    EventDamaged {
        /// Which.
        seq: Seq,
    },
}

/// What an agent is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "item", rename_all = "snake_case")]
pub enum SystemItem {
    /// What became of something that was delegated.
    Report {
        /// Its place in the child's stream; none, if we found it out ourselves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<EventKey>,
        /// The event.
        event: LocalEvent,
        /// As the agent reads it.
        text: String,
    },
    /// A notification.
    Note {
        /// Chosen by its sender.
        key: NoteKey,
        /// Who sent it.
        origin: Origin,
        /// As the agent reads it.
        text: String,
    },
}

/// An event's own key, which it keeps through all offers and lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventKey {
    /// Whose events.
    pub stream: StreamId,
    /// Which.
    pub seq: Seq,
}

/// Who asked for something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Origin {
    /// The parent.
    Parent {
        /// Which.
        pod: PodId,
    },
    /// Another process of the same user: a person, or a program for one.
    Person {
        /// The user.
        uid: u32,
        /// The process, if the kernel could tell.
        pid: Option<i32>,
    },
    /// The program that hosts the pod.
    Host,
}

/// Why a turn was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnCause {
    /// A run was accepted.
    Run,
    /// There was something that the agent had to be told.
    Reports,
    /// A turn that had been paused goes on.
    Resume,
    /// The context is made shorter.
    Compact,
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum TurnOutcome {
    /// As the worker or whoever steers it meant it.
    Ended {
        /// How.
        result: TurnResult,
    },
    /// The worker failed.
    Errored {
        /// What kind of failure it was, as it says.
        #[serde(default)]
        kind: FailureKind,
        /// What it said.
        message: String,
    },
}

/// Something that a tool has made and that is kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attachment {
    /// What it is called, in at most 255 bytes.
    pub name: String,
    /// What it is: `image/png`, say; at most 127 bytes.
    pub media_type: String,
    /// Where it is: a path or an address, in at most 4096 bytes. Nobody here follows it.
    pub reference: String,
}

impl Attachment {
    /// Something of that name and type that is there.
    pub fn new(name: impl Into<String>, media_type: impl Into<String>, reference: impl Into<String>) -> Self {
        Self { name: name.into(), media_type: media_type.into(), reference: reference.into() }
    }
}

/// What kind of output something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OutputKind {
    /// The worker's answer, or a program's standard output.
    Text,
    /// A program's standard error.
    Stderr,
    /// What the worker thought before it answered; no part of the answer.
    Thinking,
}

impl OutputKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Text, Self::Stderr, Self::Thinking];

    /// Its name, as its entries have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Stderr => "stderr",
            Self::Thinking => "thinking",
        }
    }
}

/// How a use of a tool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolEnd {
    /// It did what it was told.
    Done,
    /// It said why not.
    Failed,
    /// Its turn ended first: what it has done is not known.
    Abandoned,
}

/// What one request has used up, in tokens. What is not known is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Usage {
    /// Read by the model, those from a cache included.
    pub input_tokens: u64,
    /// Written by it.
    pub output_tokens: u64,
    /// Of those read, how many came from a cache.
    pub cached_tokens: u64,
    /// Of those read, how many were put into a cache, where that costs more.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_written_tokens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(tokens: &u64) -> bool {
    *tokens == 0
}

impl Usage {
    /// So many tokens read and written.
    pub fn new(input_tokens: u64, output_tokens: u64) -> Self {
        Self { input_tokens, output_tokens, ..Self::default() }
    }

    /// The same, of which so many of those read came from a cache.
    #[must_use]
    pub fn cached(mut self, tokens: u64) -> Self {
        self.cached_tokens = tokens;
        self
    }

    /// The same, of which so many of those read were put into a cache.
    #[must_use]
    pub fn cache_written(mut self, tokens: u64) -> Self {
        self.cache_written_tokens = tokens;
        self
    }
}

stored_word!(TurnCause, "turn's cause", Run = "run", Reports = "reports", Resume = "resume", Compact = "compact");

impl HistoryRow {
    /// The row as one line of JSON, without the line's end.
    ///
    /// # Errors
    /// Not for any row that was read from a store; only if a worker's detail cannot be shown.
    pub fn to_json_line(&self) -> Result<String, StoreError> {
        to_json("a history entry", self)
    }
}

impl HistoryItem {
    /// Its name in the store and in logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LifeStarted { .. } => "life_started",
            Self::UserInput { .. } => "user_input",
            Self::TurnStarted { .. } => "turn_started",
            Self::TurnEnded { .. } => "turn_ended",
            Self::Output { .. } => "output",
            Self::ToolCall { .. } => "tool_call",
            Self::ToolResult { .. } => "tool_result",
            Self::Answering { .. } => "answering",
            Self::Provider { .. } => "provider",
            Self::Usage(_) => "usage",
            Self::Retrying { .. } => "retrying",
            Self::Continuing { .. } => "continuing",
            Self::Compacted { .. } => "compacted",
            Self::Rewound { .. } => "rewound",
            Self::Worker { .. } => "worker",
            Self::SystemItem(_) => "system_item",
            Self::ControlEvent { .. } => "control_event",
            Self::ChildSpawned { .. } => "child_spawned",
            Self::ChildReady { .. } => "child_ready",
            Self::ChildTerminal { .. } => "child_terminal",
            Self::RestartsExhausted { .. } => "restarts_exhausted",
            Self::ChildDetached { .. } => "child_detached",
            Self::ChildAdopted { .. } => "child_adopted",
            Self::ChildMoved { .. } => "child_moved",
            Self::WorkDelegated { .. } => "work_delegated",
            Self::WorkSettled { .. } => "work_settled",
            Self::Blocked { .. } => "blocked",
            Self::Unblocked => "unblocked",
            Self::OlderThanParent { .. } => "older_than_parent",
            Self::NewerThanParent { .. } => "newer_than_parent",
            Self::CommitsLost { .. } => "commits_lost",
            Self::ReportDamaged { .. } => "report_damaged",
            Self::RunDamaged { .. } => "run_damaged",
            Self::EventDamaged { .. } => "event_damaged",
        }
    }
}

impl SystemItem {
    /// What the agent reads.
    pub fn text(&self) -> &str {
        match self {
            Self::Report { text, .. } | Self::Note { text, .. } => text,
        }
    }
}

impl Reads<'_> {
    /// The newest entry's place; 0 if there is none.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn history_head(&self) -> Result<u64, StoreError> {
        self.number("SELECT coalesce(max(seq), 0) FROM history", [])
    }

    /// Up to `limit` entries after `cursor`, oldest first, and no more than about 4 MiB of them: the history ends where
    /// this returns none, not where it returns fewer than `limit`.
    ///
    /// # Errors
    /// If the file or an entry cannot be read.
    pub fn history_after(&self, cursor: u64, limit: u32) -> Result<Vec<HistoryRow>, StoreError> {
        let sql = format!(
            "SELECT seq, at, turn, work, body, kind, {ENTRY_AS_WRITTEN} FROM history WHERE seq > ?1 ORDER BY seq LIMIT ?2"
        );
        let rows = self.page(&sql, (int(cursor), limit))?;
        let guarded = self.history_guarded_from()?;
        for (row, expected) in rows.iter().zip(cursor + 1..) {
            if expected >= guarded && row.seq != expected {
                return Err(not_as_written("a history entry", expected));
            }
        }
        Ok(rows)
    }

    /// The place and the JSON of the entries that `which` says, oldest first, compared with their sums.
    pub(crate) fn entries(&self, which: &str, params: impl rusqlite::Params) -> Result<Vec<(u64, String)>, StoreError> {
        let sql = format!("SELECT seq, body, {ENTRY_AS_WRITTEN} FROM history WHERE {which} ORDER BY seq");
        let found = self.all(&sql, params, |row| Ok((count(row.get(0)?), row.get(1)?, row.get(2)?)))?;
        for (seq, _, alike) in &found {
            self.entry_as_written(*seq, *alike)?;
        }
        Ok(found.into_iter().map(|(seq, body, _)| (seq, body)).collect())
    }

    /// The rows that `sql` finds, as far as they fit one page; at least one, if there is any.
    pub(crate) fn page(&self, sql: &str, params: impl rusqlite::Params) -> Result<Vec<HistoryRow>, StoreError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut found = statement.query(params)?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = found.next()? {
            let seq = count(row.get(0)?);
            self.entry_as_written(seq, row.get(6)?)?;
            let body: String = row.get(4)?;
            bytes += body.len();
            if bytes > PAGE_BYTES_MAX && !rows.is_empty() {
                break;
            }
            let item = from_json("a history entry", &body)?;
            rows.push(HistoryRow { seq, at: row.get(1)?, turn: row.get(2)?, work: row.get(3)?, item });
        }
        Ok(rows)
    }
}

impl Tx<'_> {
    /// Appends an entry and returns its place.
    ///
    /// # Errors
    /// `TooLarge` if it would not fit an observer's item: output is appended in pieces.
    pub fn append(&self, turn: Option<TurnId>, work: Option<WorkId>, item: &HistoryItem) -> Result<u64, StoreError> {
        let body = to_json("a history entry", item)?;
        // LIMIT: 512 bytes for what stands around the item in an observer's line.
        let max = ENTRY_BYTES_MAX - 512;
        if body.len() > max {
            return Err(StoreError::TooLarge { what: "a history entry", bytes: body.len(), max });
        }
        let sql = "INSERT INTO history (at, kind, turn, work, body, sum)
                   VALUES (?1, ?2, ?3, ?4, ?5, pod_sum(?1, ?2, ?3, ?4, ?5))";
        self.run(sql, (self.now(), item.kind(), turn, work, body))?;
        Ok(count(self.conn.last_insert_rowid()))
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
