//! Looking at what two processes say to each other: frames in words, recordings, and a proxy that makes them.
//!
//! ```
//! use rpc::inspect::{Names, describe};
//! // A Cancel of request 7, as it stands in a recording.
//! let frame = [7, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
//! assert_eq!(describe(&frame, &Names::default()).to_string(), "Cancel  id 7");
//! ```
//! - [`describe`] says what one frame means. It reads any bytes and never fails: what is broken is said to be.
//! - A [`Tap`] around a transport tells a [`Watcher`] every byte that passes; [`Recorder`] is one that writes a file,
//!   [`Recording`] reads it again, [`Conversation`] puts the bytes of each direction together to frames.
//! - [`proxy`] listens in a server's place and passes everything on.
//!
//! # The file
//! All numbers little-endian. It begins with the eight bytes `rpcrec1\n`. Then records: microseconds since the
//! recording began u64, connection u32 (1, 2, ...), what u8, length u32, so many bytes. What: 0 bytes that went to the server,
//! 1 bytes that came from it, 2 a connection was opened, 3 it was closed, 4 the recording's bound was reached and nothing
//! more follows (connection 0). The bytes are those of the stream, as they were read and written: a frame may be spread
//! over several records, and a record may hold several frames.
//!
//! # What a recording holds
//! Everything, secrets and bodies included. [`Recorder::create`] makes files that only their owner may read.
//!
//! Never changes what passes, never answers, and decides nothing. Above `wire`; knows no session.

mod conversation;
mod describe;
mod recording;
mod tap;

use std::time::Duration;

pub use self::conversation::{Conversation, Said};
pub use self::describe::{Description, Names, describe};
pub use self::recording::{Recorder, Recording, RecordingError};
pub use self::tap::{Tap, Watching, proxy};

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the side that connected.
    ToServer,
    /// From the side that accepted.
    FromServer,
}

/// What happened on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// It was opened.
    Opened,
    /// Bytes went over it.
    Bytes(Direction, &'a [u8]),
    /// It was closed.
    Closed,
}

/// Somebody who is told what happens on connections, on the task that carries the bytes: it should not take long.
pub trait Watcher: Send + Sync {
    /// `at`: since the watching began. `connection`: 1, 2, ...
    fn saw(&self, at: Duration, connection: u32, seen: Seen<'_>);
}

/// Both are told.
impl<A: Watcher, B: Watcher> Watcher for (A, B) {
    fn saw(&self, at: Duration, connection: u32, seen: Seen<'_>) {
        self.0.saw(at, connection, seen);
        self.1.saw(at, connection, seen);
    }
}

/// Is told if it is there.
impl<W: Watcher> Watcher for Option<W> {
    fn saw(&self, at: Duration, connection: u32, seen: Seen<'_>) {
        if let Some(watcher) = self {
            watcher.saw(at, connection, seen);
        }
    }
}
