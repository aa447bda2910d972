//! ReadPodOutput: what a child has produced, page by page, dead or alive.
//!
//! Reads the child's own store, read only. A history only grows, so that a cursor stays good whatever becomes of the child; what
//! no longer counts is marked, and said to those who have read it already.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Caller, Description, target};
use crate::id::{PodName, TurnId};
use crate::life_lock::{self, Life};
use crate::protocol::{
    OUTPUT_ENTRIES_MAX, OUTPUT_PAGE_BYTES_MAX, OutputCursor, OutputEntry, OutputPage, OutputPiece, Produced,
    ReadPodOutput, ReadRejection, Text,
};
use crate::runtime_dir::PodPaths;
use crate::store::{HistoryItem, OutputKind, StoreError, StoreReader, TurnOutcome};
use crate::worker::TOOL_TEXT_BYTES_MAX;

/// LIMIT: the least that a page may be asked to hold, in bytes: room for progress, whatever the characters.
const PAGE_BYTES_MIN: usize = 256;
/// What a page holds if nobody says otherwise, in bytes.
const PAGE_BYTES: u32 = 16 * 1024;

pub(super) const DESCRIPTION: Description = Description {
    name: "ReadPodOutput",
    description: "Read what a child has produced, oldest first, whether it lives or has ended. Give back 'next' as \
                  'cursor' to read on; it stays good whatever becomes of the child. An entry with 'counts': false was \
                  rewound; a 'rewound' entry says from where on what you may have read no longer counts.",
    parameters: r#"{
        "type": "object",
        "properties": {
            "pod": {"type": "string"},
            "cursor": {"type": "string", "description": "the 'next' of the page before; left out, from the beginning"},
            "turn": {"type": "integer", "minimum": 1, "description": "without a cursor: from this turn on"},
            "max_bytes": {"type": "integer", "minimum": 256, "maximum": 49152}
        },
        "required": ["pod"],
        "additionalProperties": false
    }"#,
};

/// What the tool is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadPodOutputInput {
    /// Whose.
    pub pod: PodName,
    /// From where.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Without a cursor: from this turn on.
    #[serde(default)]
    pub turn: Option<TurnId>,
    /// How much text.
    #[serde(default)]
    pub max_bytes: Option<u32>,
}

impl TryFrom<ReadPodOutputInput> for ReadPodOutput {
    type Error = String;

    fn try_from(input: ReadPodOutputInput) -> Result<Self, String> {
        let from = input.cursor.map_or(Ok(OutputCursor::default()), |cursor| cursor.parse())?;
        Ok(Self { pod: input.pod, from, turn: input.turn, bytes_max: input.max_bytes.unwrap_or(PAGE_BYTES) })
    }
}

/// A page of what a child has produced.
///
/// # Errors
/// [`ReadRejection`].
pub async fn read_pod_output(caller: &Caller, request: ReadPodOutput) -> Result<OutputPage, ReadRejection> {
    let row = target::child(&caller.pod, &request.pod).await.map_err(|error| unreadable(&error))?;
    row.map_err(ReadRejection::Target)?;
    let paths = caller.pod.roots().pod(&request.pod);
    let read = tokio::task::spawn_blocking(move || read(&paths, &request)).await;
    read.unwrap_or_else(|error| Err(ReadRejection::Unreadable { reason: Text::clipped(error.to_string()) }))
}

/// The same for a pod of this user, whoever's child it is: for people. Blocks.
///
/// # Errors
/// [`ReadRejection`], but not for whose it is.
pub fn read(paths: &PodPaths, request: &ReadPodOutput) -> Result<OutputPage, ReadRejection> {
    let live = matches!(life_lock::probe(&paths.life_lock()), Ok(Life::Held(_)));
    let mut page =
        OutputPage { pod: request.pod.clone(), entries: rpc::List::new(), next: request.from, more: false, live };
    if !paths.store().exists() {
        // It has never come that far.
        return Ok(page);
    }
    let reader = match StoreReader::open(paths.store()) {
        Err(StoreError::Empty { .. }) => return Ok(page),
        opened => opened.map_err(|error| unreadable(&error))?,
    };
    let limit = u32::try_from(OUTPUT_ENTRIES_MAX).unwrap_or(u32::MAX);
    let (turn, cursor) = (request.turn, request.from);
    let look = reader.look(|reads| {
        let began = turn.map(|turn| reads.turn_began_at(turn)).transpose()?;
        let from = match (cursor.entry, began) {
            (0, Some(Some(began))) => began,
            (from, _) => from,
        };
        let rows = reads.produced_from(from, limit)?;
        let more = match rows.last() {
            Some((last, _)) => !reads.produced_from(last.seq.saturating_add(1), 1)?.is_empty(),
            None => false,
        };
        Ok((reads.history_head()?, began, rows, more))
    });
    let (head, began, rows, more) = look.map_err(|error| unreadable(&error))?;
    if let (Some(None), Some(turn), 0) = (began, turn, cursor.entry) {
        return Err(ReadRejection::NoSuchTurn { turn });
    }
    let first = rows.first().map(|(row, _)| row.seq);
    if cursor.entry > head.saturating_add(1) || (cursor.byte > 0 && first != Some(cursor.entry)) {
        return Err(ReadRejection::BadCursor { head });
    }
    let mut left = usize::try_from(request.bytes_max).unwrap_or(0).clamp(PAGE_BYTES_MIN, OUTPUT_PAGE_BYTES_MAX);
    // Where the history ends: everything up to there is looked at, unless the page is full before.
    page.next = OutputCursor::behind(head);
    for (row, counts) in rows {
        let seq = row.seq;
        let skip = if seq == cursor.entry { cursor.byte } else { 0 };
        let what = match show(row.item, skip, left) {
            Shown::Bad => return Err(ReadRejection::BadCursor { head }),
            Shown::Nothing => None,
            Shown::Full => {
                (page.next, page.more) = (OutputCursor { entry: seq, byte: skip }, true);
                return Ok(page);
            }
            Shown::Cut(what, byte) => {
                let _ =
                    page.entries.try_push(OutputEntry { entry: seq, at_ms: row.at.0, turn: row.turn, counts, what });
                (page.next, page.more) = (OutputCursor { entry: seq, byte }, true);
                return Ok(page);
            }
            Shown::Whole(what) => Some(what),
        };
        if let Some(what) = what {
            left = left.saturating_sub(what.bytes());
            let _ = page.entries.try_push(OutputEntry { entry: seq, at_ms: row.at.0, turn: row.turn, counts, what });
        }
        if more {
            page.next = OutputCursor::behind(seq);
        }
    }
    page.more = more;
    Ok(page)
}

/// How much of an entry there is to show.
enum Shown {
    Whole(Produced),
    /// It goes on at this byte.
    Cut(Produced, u32),
    /// Not a character more fits.
    Full,
    /// It is nobody's business but its worker's.
    Nothing,
    /// There is no such byte in it.
    Bad,
}

/// An entry from its byte `skip` on, in at most `left` bytes.
fn show(item: HistoryItem, skip: u32, left: usize) -> Shown {
    let what = match item {
        HistoryItem::Output { output: OutputKind::Thinking, .. } => return Shown::Nothing,
        HistoryItem::Output { output, text } => {
            let Some(rest) = usize::try_from(skip).ok().and_then(|skip| text.get(skip..)) else { return Shown::Bad };
            let end = (0..=left.min(rest.len())).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(0);
            if end == 0 && !rest.is_empty() {
                return Shown::Full;
            }
            let whole = end == rest.len();
            let piece =
                OutputPiece { from_byte: skip, text: Text::clipped(rest.get(..end).unwrap_or_default()), whole };
            let what = if output == OutputKind::Stderr { Produced::Stderr(piece) } else { Produced::Text(piece) };
            let on = skip.saturating_add(u32::try_from(end).unwrap_or(u32::MAX));
            return if whole { Shown::Whole(what) } else { Shown::Cut(what, on) };
        }
        _ if skip != 0 => return Shown::Bad,
        HistoryItem::TurnEnded { outcome } => Produced::TurnEnded {
            how: Text::clipped(match outcome {
                TurnOutcome::Ended { result } => result.to_string(),
                TurnOutcome::Errored { message, .. } => format!("failed: {message}"),
            }),
        },
        HistoryItem::Rewound { to, .. } => Produced::Rewound { from: to },
        _ => return Shown::Nothing,
    };
    if what.bytes() > left { Shown::Full } else { Shown::Whole(what) }
}

impl Produced {
    /// How much of a page it takes.
    fn bytes(&self) -> usize {
        match self {
            Self::Text(piece) | Self::Stderr(piece) => piece.text.len(),
            Self::TurnEnded { how } => how.len(),
            Self::Rewound { .. } => 0,
        }
    }
}

/// A page as a model reads it: bounded, also as JSON, so that its cursor is never cut off.
pub(super) async fn for_model(caller: &Caller, mut request: ReadPodOutput) -> Result<Value, ReadRejection> {
    loop {
        let page = read_pod_output(caller, request.clone()).await?;
        let value = in_words(&page);
        if value.to_string().len() <= TOOL_TEXT_BYTES_MAX || request.bytes_max <= 1024 {
            return Ok(value);
        }
        // What is escaped takes up to six bytes for one.
        request.bytes_max = request.bytes_max.min(PAGE_BYTES * 3) / 2;
    }
}

fn in_words(page: &OutputPage) -> Value {
    let entries = page.entries.iter().map(|entry| {
        let mut value = match &entry.what {
            Produced::Text(piece) => json!({ "kind": "text", "text": piece.text }),
            Produced::Stderr(piece) => json!({ "kind": "stderr", "text": piece.text }),
            Produced::TurnEnded { how } => json!({ "kind": "turn_ended", "how": how }),
            Produced::Rewound { from } => json!({ "kind": "rewound", "from_entry": from }),
        };
        value["entry"] = entry.entry.into();
        if let Some(turn) = entry.turn {
            value["turn"] = turn.0.into();
        }
        if !entry.counts {
            value["counts"] = false.into();
        }
        value
    });
    json!({
        "pod": page.pod,
        "entries": entries.collect::<Vec<_>>(),
        "next": page.next.to_string(),
        "more": page.more,
        "live": page.live,
    })
}

fn unreadable(error: &StoreError) -> ReadRejection {
    ReadRejection::Unreadable { reason: Text::clipped(error.chain()) }
}
