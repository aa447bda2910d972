//! Recordings of connections: written as bytes pass, read again later.
//!
//! Never grows beyond its bound, and never fails what it records: when the file cannot be written, the recording
//! ends there and says so. A reader takes any bytes and stops at the first that make no record.
//!
//! Told by `tap`; read by `conversation`'s users. The format stands in `mod`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::{Direction, Seen, Watcher};
use crate::io::lock;
use crate::limits::{INSPECT_RECORD_BYTES_MAX, INSPECT_RECORDING_BYTES_MAX};
use crate::sync::Mutex;

/// What a recording begins with.
const MAGIC: [u8; 8] = *b"rpcrec1\n";
/// Bytes of a record before its own.
const HEAD_BYTES: usize = 17;

const TO_SERVER: u8 = 0;
const FROM_SERVER: u8 = 1;
const OPENED: u8 = 2;
const CLOSED: u8 = 3;
const BOUND: u8 = 4;

/// Writes a recording.
pub struct Recorder<W: Write = File> {
    state: Mutex<State<W>>,
}

struct State<W: Write> {
    out: BufWriter<W>,
    /// Bytes that may still be written.
    room: u64,
    /// Why it ended.
    ended: Option<io::Error>,
}

/// A recording that is read.
#[derive(Debug)]
pub struct Recording<R> {
    from: BufReader<R>,
}

/// Why a recording cannot be read, or not any further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// It is not one.
    #[error("this is no recording: it does not begin with `rpcrec1`")]
    Magic,
    /// A record that makes no sense.
    #[error("the recording is broken: {0}")]
    Broken(&'static str),
    /// It ends within a record.
    #[error("the recording ends within a record")]
    CutShort,
    /// It reached its bound while it was made; nothing more was recorded.
    #[error("the recording reached its bound; what came after was not recorded")]
    Bound,
    /// It could not be read.
    #[error("the recording cannot be read")]
    Io(#[source] io::Error),
}

impl Recorder<File> {
    /// Makes a new file that only its owner may read, and records up to 256 MiB into it.
    ///
    /// # Errors
    /// The file exists, or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        Self::new(file, INSPECT_RECORDING_BYTES_MAX)
    }
}

impl<W: Write> Recorder<W> {
    /// Records into `out`, at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The first bytes cannot be written.
    pub fn new(mut out: W, bytes_max: u64) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        let room = bytes_max.saturating_sub(u64::try_from(MAGIC.len() + HEAD_BYTES).unwrap_or(u64::MAX));
        Ok(Self { state: Mutex::new(State { out: BufWriter::new(out), room, ended: None }) })
    }

    /// Writes what is still held back. Done as well whenever a connection closes, and when the recorder is dropped.
    ///
    /// # Errors
    /// Why the recording ended, if it did before.
    pub fn flush(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        match state.ended.take() {
            Some(error) => Err(error),
            None => state.out.flush(),
        }
    }

    fn put(&self, at: Duration, connection: u32, what: u8, bytes: &[u8]) {
        let mut state = lock(&self.state);
        if state.ended.is_some() {
            return;
        }
        let size = u64::try_from(bytes.len().saturating_add(HEAD_BYTES)).unwrap_or(u64::MAX);
        let written = match state.room.checked_sub(size) {
            Some(room) => {
                state.room = room;
                put_record(&mut state.out, at, connection, what, bytes)
            }
            // Room for this last one was set aside.
            None => put_record(&mut state.out, at, 0, BOUND, &[])
                .and_then(|()| state.out.flush())
                .and(Err(io::Error::new(io::ErrorKind::FileTooLarge, "the recording reached its bound"))),
        };
        let written = if what == CLOSED { written.and_then(|()| state.out.flush()) } else { written };
        if let Err(error) = written {
            tracing::warn!(%error, "a recording has ended");
            state.ended = Some(error);
        }
    }
}

fn put_record(out: &mut impl Write, at: Duration, connection: u32, what: u8, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&u64::try_from(at.as_micros()).unwrap_or(u64::MAX).to_le_bytes())?;
    out.write_all(&connection.to_le_bytes())?;
    out.write_all(&[what])?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(bytes)
}

impl<W: Write + Send> Watcher for Recorder<W> {
    fn saw(&self, at: Duration, connection: u32, seen: Seen<'_>) {
        match seen {
            Seen::Opened => self.put(at, connection, OPENED, &[]),
            Seen::Closed => self.put(at, connection, CLOSED, &[]),
            Seen::Bytes(direction, bytes) => {
                let what = if direction == Direction::ToServer { TO_SERVER } else { FROM_SERVER };
                for bytes in bytes.chunks(INSPECT_RECORD_BYTES_MAX) {
                    self.put(at, connection, what, bytes);
                }
            }
        }
    }
}

impl<R: Read> Recording<R> {
    /// Reads the recording in `from`.
    ///
    /// # Errors
    /// It is none, or cannot be read.
    pub fn read(from: R) -> Result<Self, RecordingError> {
        let mut from = BufReader::new(from);
        let mut magic = [0; MAGIC.len()];
        match from.read_exact(&mut magic) {
            Ok(()) if magic == MAGIC => Ok(Self { from }),
            Ok(()) => Err(RecordingError::Magic),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(RecordingError::Magic),
            Err(error) => Err(RecordingError::Io(error)),
        }
    }

    /// Gives the next record to `seen`. `None`: that was all.
    ///
    /// # Errors
    /// Nothing can be read behind this.
    pub fn next<T>(&mut self, seen: impl FnOnce(Duration, u32, Seen<'_>) -> T) -> Result<Option<T>, RecordingError> {
        let Some(at) = self.first()? else { return Ok(None) };
        let at = Duration::from_micros(u64::from_le_bytes(at));
        let connection = u32::from_le_bytes(self.exactly()?);
        let [what] = self.exactly()?;
        let length = usize::try_from(u32::from_le_bytes(self.exactly()?)).unwrap_or(usize::MAX);
        if length > INSPECT_RECORD_BYTES_MAX {
            return Err(RecordingError::Broken("a record is larger than any that is written"));
        }
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes).map_err(cut_short)?;
        let is = match what {
            TO_SERVER => Seen::Bytes(Direction::ToServer, &bytes),
            FROM_SERVER => Seen::Bytes(Direction::FromServer, &bytes),
            OPENED => Seen::Opened,
            CLOSED => Seen::Closed,
            BOUND => return Err(RecordingError::Bound),
            _ => return Err(RecordingError::Broken("a record says what no record says")),
        };
        Ok(Some(seen(at, connection, is)))
    }

    /// The first bytes of a record, or the end.
    fn first(&mut self) -> Result<Option<[u8; 8]>, RecordingError> {
        let mut bytes = [0; 8];
        let mut got = 0;
        while let Some(rest) = bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(RecordingError::CutShort),
                Ok(more) => got = got.saturating_add(more),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(RecordingError::Io(error)),
            }
        }
        Ok(Some(bytes))
    }

    fn exactly<const N: usize>(&mut self) -> Result<[u8; N], RecordingError> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(cut_short)?;
        Ok(bytes)
    }
}

fn cut_short(error: io::Error) -> RecordingError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => RecordingError::CutShort,
        _ => RecordingError::Io(error),
    }
}

impl<W: Write> std::fmt::Debug for Recorder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}
