//! What happened in a pod, in the order in which it was committed.
//!
//! Append only: an entry never changes. What an agent is told stands here as a [`SystemItem`] before it is told.
//!
//! Written by the transactions of this folder and of `event`, read by `attach` and `pod log`.

use serde::{Deserialize, Serialize};

use crate::id::{NoteKey, PodId, PodName, Seq, StreamId, TurnId, WorkId};
use crate::protocol::{ENTRY_BYTES_MAX, LocalEvent, TurnResult, WorkResult};
use crate::store::children::{Lifetime, Terminal};
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::sql::{count, from_json, int, to_json};
use crate::store::tx::{Reads, Tx};

/// LIMIT: how much of the history is in memory for one reader, in bytes of JSON: a few of the largest entries.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// One entry, where it stands and what it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryRow {
    /// Its place: larger for what was committed later. The cursor of observers.
    pub seq: u64,
    /// When it was written.
    pub at: UnixMillis,
    /// The turn in which it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// The work that it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// The worker did something else that is worth keeping: a tool call, usage, a retry.
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
    /// Turns failed too often; none is started until someone or the timer says so.
    Blocked {
        /// What failed.
        reason: String,
    },
    /// Turns are started again.
    Unblocked,
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
        /// What it said.
        message: String,
    },
}

/// What kind of output something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// The worker's answer, or a program's standard output.
    Text,
    /// A program's standard error.
    Stderr,
}

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
            Self::Worker { .. } => "worker",
            Self::SystemItem(_) => "system_item",
            Self::ControlEvent { .. } => "control_event",
            Self::ChildSpawned { .. } => "child_spawned",
            Self::ChildReady { .. } => "child_ready",
            Self::ChildTerminal { .. } => "child_terminal",
            Self::WorkDelegated { .. } => "work_delegated",
            Self::WorkSettled { .. } => "work_settled",
            Self::Blocked { .. } => "blocked",
            Self::Unblocked => "unblocked",
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
        let sql = "SELECT seq, at, turn, work, body FROM history WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut found = statement.query((int(cursor), limit))?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = found.next()? {
            let body: String = row.get(4)?;
            bytes += body.len();
            if bytes > PAGE_BYTES_MAX && !rows.is_empty() {
                break;
            }
            let item = from_json("a history entry", &body)?;
            rows.push(HistoryRow {
                seq: count(row.get(0)?),
                at: row.get(1)?,
                turn: row.get(2)?,
                work: row.get(3)?,
                item,
            });
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
        let sql = "INSERT INTO history (at, kind, turn, work, body) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.run(sql, (self.now(), item.kind(), turn, work, body))?;
        Ok(count(self.conn.last_insert_rowid()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{self, pod};

    #[test]
    fn history_is_read_from_a_cursor_in_order() {
        let store = fixture::memory("a");
        store.with(|tx| {
            for n in 1..=5 {
                let item = HistoryItem::Output { output: OutputKind::Text, text: n.to_string() };
                assert_eq!(tx.append(Some(TurnId(1)), None, &item)?, n);
            }
            let page = tx.history_after(2, 2)?;
            assert_eq!(page.iter().map(|row| row.seq).collect::<Vec<_>>(), [3, 4]);
            assert_eq!(tx.history_head()?, 5);
            Ok(())
        });
    }

    #[test]
    fn page_of_history_is_bounded_in_bytes_and_never_empty_before_the_end() {
        let store = fixture::memory("a");
        let item = HistoryItem::Output { output: OutputKind::Text, text: "x".repeat(800 * 1024) };
        store.with(|tx| {
            for _ in 0..12 {
                tx.append(None, None, &item)?;
            }
            let (mut cursor, mut pages) = (0, Vec::new());
            while let Some(last) = tx.history_after(cursor, 100)?.last() {
                pages.push(last.seq - cursor);
                cursor = last.seq;
            }
            assert_eq!(pages, [5, 5, 2]);
            Ok(())
        });
    }

    #[test]
    fn every_item_reads_as_it_was_written() {
        let store = fixture::memory("a");
        let event = LocalEvent::Reported(fixture::turn_ended(&pod("b", 2), WorkId(3)));
        let key = Some(EventKey { stream: StreamId(9), seq: Seq(1) });
        let items = [
            HistoryItem::LifeStarted { pod: pod("a", 1) },
            HistoryItem::UserInput { origin: Origin::Person { uid: 0, pid: Some(7) }, text: "x\n\u{20ac}".to_owned() },
            HistoryItem::TurnStarted { cause: TurnCause::Run, works: vec![WorkId(1)] },
            HistoryItem::TurnEnded { outcome: TurnOutcome::Errored { message: "no".to_owned() } },
            HistoryItem::Worker { what: "usage".to_owned(), detail: serde_json::json!({"tokens": 3}) },
            HistoryItem::SystemItem(SystemItem::Report { key, event: event.clone(), text: "t".to_owned() }),
            HistoryItem::SystemItem(SystemItem::Note { key: NoteKey(1), origin: Origin::Host, text: "n".to_owned() }),
            HistoryItem::ControlEvent { key: None, event },
            HistoryItem::ChildSpawned { child: pod("b", 2), lifetime: Lifetime::Tied },
            HistoryItem::ChildTerminal { child: pod("b", 2), terminal: Terminal::ShutDown, unread: None },
            HistoryItem::WorkSettled { result: WorkResult::Lost, child: Some(pod("b", 2).name) },
            HistoryItem::Unblocked,
        ];
        store.with(|tx| {
            for item in &items {
                tx.append(None, Some(WorkId(5)), item)?;
            }
            let rows = tx.history_after(0, 100)?;
            assert_eq!(rows.iter().map(|row| &row.item).collect::<Vec<_>>(), items.iter().collect::<Vec<_>>());
            for row in rows {
                let line = row.to_json_line()?;
                assert!(line.contains(&format!("\"kind\":\"{}\"", row.item.kind())), "{line}");
                assert!(!line.contains('\n'), "{line}");
            }
            Ok(())
        });
    }

    #[test]
    fn entry_that_no_observer_could_be_sent_is_refused() {
        let store = fixture::memory("a");
        let item = HistoryItem::Output { output: OutputKind::Text, text: "x".repeat(ENTRY_BYTES_MAX) };
        let error = store.try_with(|tx| tx.append(None, None, &item)).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    }
}
