//! A recording from the stores below a root, and from what pods have witnessed.
//!
//! Read only; a store that cannot be read is an error and no empty history.
//!
//! Used by `drive` when a tree has come to rest.

use std::fs;
use std::path::{Path, PathBuf};

use pod::id::{PodId, PodName, Seq, StreamId};
use pod::protocol::PodEvent;
use pod::store::{Direction, Reads, StoreError};
use pod::{Roots, StoreReader};
use serde::Deserialize;

use super::{Ack, Offer, PodRecord, Recording};

/// Rows in one page of a look.
const PAGE: u32 = 1000;

/// Why there is no recording.
#[derive(Debug)]
pub enum ReadError {
    /// A store cannot be read.
    Store(PodName, StoreError),
    /// A directory or a file cannot be read.
    File(PathBuf, String),
}

/// What a pod writes down while it lives.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Offered { stream: StreamId, seq: Seq, event: PodEvent },
    Acked { stream: StreamId, durable: Seq },
    Dies(PodId),
}

/// The stores below `roots`, and what its pods have witnessed in the directory `witness`.
///
/// # Errors
/// Names what cannot be read.
pub fn read(roots: &Roots, witness: &Path) -> Result<Recording, ReadError> {
    let mut recording = Recording::default();
    let names = roots.pods().map_err(|error| ReadError::File("the roots".into(), error.to_string()))?;
    for name in names {
        let store = roots.pod(&name).store();
        match StoreReader::open(&store) {
            Ok(reader) => {
                let stream = reader.identity().stream;
                let record = reader.look(|reads| record(reads, stream));
                recording.pods.insert(name.clone(), record.map_err(|error| ReadError::Store(name, error))?);
            }
            // A life that was killed before it had a store has told nothing.
            Err(StoreError::Empty { .. }) => {}
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ReadError::Store(name, error)),
        }
    }
    let file = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| ReadError::File(path, error.to_string())
    };
    for entry in fs::read_dir(witness).map_err(file(witness))? {
        let path = entry.map_err(file(witness))?.path();
        let bytes = fs::read(&path).map_err(file(&path))?;
        // A line that is cut short was being written when its pod was killed.
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        for line in lines {
            match line {
                Line::Offered { stream, seq, event } => recording.offers.push(Offer { stream, seq, event }),
                Line::Acked { stream, durable } => recording.acks.push(Ack { stream, durable }),
                Line::Dies(pod) => _ = recording.killed.insert(pod),
            }
        }
    }
    Ok(recording)
}

fn record(reads: &Reads<'_>, stream: StreamId) -> Result<PodRecord, StoreError> {
    let mut history = Vec::new();
    loop {
        let page = reads.history_after(history.last().map_or(0, |row: &pod::store::HistoryRow| row.seq), PAGE)?;
        if page.is_empty() {
            break;
        }
        history.extend(page);
    }
    let mut outbox = Vec::new();
    loop {
        let from = outbox.last().map_or(Seq(1), |row: &pod::store::OutboxRow| row.seq.next());
        let page = reads.outbox_from(from, PAGE)?;
        if page.is_empty() {
            break;
        }
        outbox.extend(page);
    }
    let children = reads.children()?;
    let streams = children.iter().filter_map(|row| row.stream);
    let applied = streams.map(|stream| Ok((stream, reads.watermark(stream)?))).collect::<Result<_, StoreError>>()?;
    Ok(PodRecord {
        stream,
        history,
        outbox,
        raised: reads.outbox_head()?,
        acked: reads.outbox_acked()?,
        received: reads.works(Direction::Received, false)?,
        delegated: reads.works(Direction::Delegated, false)?,
        children,
        applied,
        untold: reads.inbox_untold()?,
    })
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(name, error) => write!(f, "the store of pod `{name}` cannot be read: {}", error.chain()),
            Self::File(path, error) => write!(f, "`{}` cannot be read: {error}", path.display()),
        }
    }
}

impl std::error::Error for ReadError {}
