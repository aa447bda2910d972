//! The bytes of connections, put together to frames, in words.
//!
//! Never holds more of a direction than one frame, and grows with bytes that are there, not with what a length announces.
//! After bytes that are no frame a direction is not read on: nobody knows where the next frame begins.
//!
//! Told as a watcher is; gives `describe` its frames.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::describe::{Description, Names, describe};
use super::{Direction, Seen};
use crate::limits::{INSPECT_FRAME_BYTES_MAX, INSPECT_IDS_MAX};
use crate::wire::frame::{Cut, cut};
use crate::wire::header::{self, Kind, REVERSE};

/// What was said on some connections, so far.
#[derive(Debug, Default)]
pub struct Conversation {
    names: Names,
    open: HashMap<u32, Connection>,
}

/// Something that was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Since the watching began.
    pub at: Duration,
    /// On which connection.
    pub connection: u32,
    /// Which way; `None`: the connection itself was opened or closed.
    pub direction: Option<Direction>,
    /// What.
    pub what: Description,
}

#[derive(Debug, Default)]
struct Connection {
    to_server: Half,
    from_server: Half,
    /// The methods of requests by the direction of their calls and their ids, so that answers can be said to be theirs.
    asked: BTreeMap<(bool, u64), (u16, u16)>,
}

#[derive(Debug, Default)]
struct Half {
    partial: Vec<u8>,
    broken: bool,
}

impl Conversation {
    /// A conversation of which nothing is known; `names` are those of the methods that may be called in it.
    pub fn new(names: Names) -> Self {
        Self { names, open: HashMap::new() }
    }

    /// Takes what was seen and returns what was said by it.
    pub fn saw(&mut self, at: Duration, connection: u32, seen: Seen<'_>) -> Vec<Said> {
        let said = |direction, what| Said { at, connection, direction, what };
        let bare = |kind: &str| Description { kind: kind.to_owned(), parts: Vec::new() };
        match seen {
            Seen::Opened => {
                self.open.insert(connection, Connection::default());
                vec![said(None, bare("opened"))]
            }
            Seen::Closed => {
                let mut what = bare("closed");
                if let Some(left) = self.open.remove(&connection) {
                    for (name, half) in
                        [("cut short to the server", left.to_server), ("cut short from it", left.from_server)]
                    {
                        if !half.partial.is_empty() {
                            what.put(name, format_args!("{} bytes", half.partial.len()));
                        }
                    }
                }
                vec![said(None, what)]
            }
            Seen::Bytes(direction, bytes) => {
                let open = self.open.entry(connection).or_default();
                open.take(direction, bytes, &self.names).into_iter().map(|what| said(Some(direction), what)).collect()
            }
        }
    }
}

impl Connection {
    fn take(&mut self, direction: Direction, bytes: &[u8], names: &Names) -> Vec<Description> {
        let half = match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::FromServer => &mut self.from_server,
        };
        if half.broken {
            return Vec::new();
        }
        half.partial.extend_from_slice(bytes);
        let held = std::mem::take(&mut half.partial);
        let (mut rest, mut said) = (&*held, Vec::new());
        loop {
            match cut(rest, INSPECT_FRAME_BYTES_MAX) {
                Cut::Frame { frame, consumed } => {
                    said.push(frame_of(frame, names, direction, &mut self.asked));
                    rest = rest.get(consumed..).unwrap_or_default();
                }
                Cut::Incomplete { .. } => {
                    half.partial = rest.to_vec();
                    return said;
                }
                Cut::TooLarge { announced } => {
                    let mut what = Description { kind: "Broken".to_owned(), parts: Vec::new() };
                    what.put(
                        "why",
                        format_args!("a frame of {announced} bytes was announced; nothing is read on from here"),
                    );
                    said.push(what);
                    half.broken = true;
                    return said;
                }
            }
        }
    }
}

fn frame_of(
    frame: &[u8],
    names: &Names,
    direction: Direction,
    asked: &mut BTreeMap<(bool, u64), (u16, u16)>,
) -> Description {
    let mut what = describe(frame, names);
    let Ok(Some(frame)) = header::parse(frame) else { return what };
    let key = (frame.flags & REVERSE != 0, frame.id);
    // The caller of a lane says requests, the other side answers.
    let from_caller = (direction == Direction::ToServer) != key.0;
    match frame.kind {
        Kind::Request if from_caller => {
            if asked.len() >= INSPECT_IDS_MAX {
                asked.pop_first();
            }
            asked.insert(key, (frame.method, frame.version));
        }
        Kind::Ack
        | Kind::Nack
        | Kind::Failed
        | Kind::Resolution
        | Kind::Item
        | Kind::Resync
        | Kind::End
        | Kind::Cancel => {
            if let Some((method, version)) = asked.get(&key) {
                what.parts.insert(1.min(what.parts.len()), ("of", names.method(*method, *version)));
            }
        }
        _ => {}
    }
    what
}
