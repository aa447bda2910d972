//! `pod frames`: what was said on connections, in words, from a recording or while it is said.
//!
//! Knows no wire format: `rpc::inspect` does. Never changes what passes.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pod::Method;
use rpc::Address;
use rpc::inspect::{
    Conversation, Direction, Names, Recorder, Recording, RecordingError, Said, Seen, Watcher, Watching, proxy,
};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::args::FramesArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, Tone, one_line};
use crate::stopping::Signals;

/// LIMIT: reads and writes that wait to be printed; a terminal that is slower than the connections loses some, and is told.
const PENDING_MAX: usize = 1024;
/// LIMIT: characters of a line for people; a Park of 64 ids is longer and nobody reads it.
const LINE_CHARS_MAX: usize = 600;

pub(crate) async fn frames(args: &FramesArgs, output: &mut Output) -> Result<Exit, Failure> {
    match (&args.recording, &args.listen, &args.to) {
        (Some(recording), _, _) => print(recording, output),
        (None, Some(listen), Some(to)) => watch(args, listen, to, output).await,
        _ => Err(Failure::usage("name a recording, or --listen SOCKET and --to SOCKET")),
    }
}

fn names() -> Names {
    Names::of::<Method>()
}

fn print(path: &Path, output: &mut Output) -> Result<Exit, Failure> {
    let unreadable =
        |error| Failure::new(Exit::Usage, format!("recording `{}` cannot be read", path.display())).because(error);
    let file = std::fs::File::open(path).map_err(|error| unreadable(RecordingError::Io(error)))?;
    let mut recording = Recording::read(file).map_err(unreadable)?;
    let mut conversation = Conversation::new(names());
    loop {
        match recording.next(|at, connection, seen| conversation.saw(at, connection, seen)) {
            Ok(Some(said)) => said.iter().try_for_each(|said| show(said, output))?,
            Ok(None) => return Ok(Exit::Ok),
            Err(end @ (RecordingError::Bound | RecordingError::CutShort)) => {
                // What was recorded has been shown.
                output.line(output.paint(Tone::Faint, &end.to_string()))?;
                output.record(&serde_json::json!({ "type": "end", "why": end.to_string() }))?;
                return Ok(Exit::Ok);
            }
            Err(error) => return Err(unreadable(error)),
        }
    }
}

async fn watch(args: &FramesArgs, listen: &Path, to: &Path, output: &mut Output) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let recorder = args.out.as_deref().map(|out| {
        let failed =
            |error| Failure::new(Exit::Usage, format!("cannot make recording `{}`", out.display())).because(error);
        Recorder::create(out).map_err(failed)
    });
    let recorder = recorder.transpose()?;
    let (printer, mut pending) = Printer::new();
    let lost = std::sync::Arc::clone(&printer.lost);
    let watching = Watching::new((recorder, printer));
    let passing = proxy(&Address::unix(listen), &Address::unix(to), watching)
        .map_err(|error| Failure::from_error(Exit::Usage, error))?;
    let mut passing = std::pin::pin!(passing);
    let mut conversation = Conversation::new(names());
    output.line(format!("passing on from {} to {}; Ctrl-C ends it", listen.display(), to.display()))?;
    output.record(&serde_json::json!({ "type": "listening", "at": listen, "to": to }))?;
    loop {
        // CANCEL SAFETY: the proxy keeps its state; `recv` returns what it takes out; a signal is noted until it is taken.
        tokio::select! {
            () = &mut passing => return Ok(Exit::Ok),
            Some(event) = pending.recv() => {
                for said in conversation.saw(event.at, event.connection, event.seen()) {
                    show(&said, output)?;
                }
                let lost = lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    // The bytes between are not known any more: each direction begins anew.
                    conversation = Conversation::new(names());
                    output.line(format!("{lost} reads or writes were not shown: they came faster than they could be printed"))?;
                    output.record(&serde_json::json!({ "type": "lost", "count": lost }))?;
                }
            }
            _ = signals.next() => return Ok(Exit::Ok),
        }
    }
}

fn show(said: &Said, output: &mut Output) -> Result<(), Failure> {
    let arrow = match said.direction {
        None => "--",
        Some(Direction::ToServer) => "->",
        Some(Direction::FromServer) => "<-",
    };
    let head = format!("{:>12.6}  {:>3} {arrow} ", said.at.as_secs_f64(), said.connection);
    let head = output.paint(Tone::Faint, &head);
    output.line(format!("{head} {}", one_line(&said.what.to_string(), LINE_CHARS_MAX)))?;
    if !output.is_json() {
        return Ok(());
    }
    let mut parts = Map::new();
    for (name, value) in &said.what.parts {
        parts.insert((*name).to_owned(), Value::String(value.clone()));
    }
    output.record(&serde_json::json!({
        "type": "frame",
        "at_micros": u64::try_from(said.at.as_micros()).unwrap_or(u64::MAX),
        "connection": said.connection,
        "direction": match said.direction {
            None => "itself",
            Some(Direction::ToServer) => "to server",
            Some(Direction::FromServer) => "from server",
        },
        "kind": said.what.kind,
        "parts": parts,
    }))
}

/// Hands what passes to whoever prints it, and never waits for it.
struct Printer {
    pending: mpsc::Sender<Event>,
    lost: std::sync::Arc<AtomicU64>,
}

/// What a watcher saw, kept.
struct Event {
    at: Duration,
    connection: u32,
    what: Kept,
}

enum Kept {
    Opened,
    Bytes(Direction, Vec<u8>),
    Closed,
}

impl Printer {
    fn new() -> (Self, mpsc::Receiver<Event>) {
        let (pending, events) = mpsc::channel(PENDING_MAX);
        (Self { pending, lost: std::sync::Arc::default() }, events)
    }
}

impl Event {
    fn seen(&self) -> Seen<'_> {
        match &self.what {
            Kept::Opened => Seen::Opened,
            Kept::Bytes(direction, bytes) => Seen::Bytes(*direction, bytes),
            Kept::Closed => Seen::Closed,
        }
    }
}

impl Watcher for Printer {
    fn saw(&self, at: Duration, connection: u32, seen: Seen<'_>) {
        let what = match seen {
            Seen::Opened => Kept::Opened,
            Seen::Bytes(direction, bytes) => Kept::Bytes(direction, bytes.to_vec()),
            Seen::Closed => Kept::Closed,
        };
        if self.pending.try_send(Event { at, connection, what }).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
