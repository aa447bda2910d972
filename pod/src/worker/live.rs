//! What a turn has under way and has not committed: pieces of output, and how far tools have come.
//!
//! Lossy on purpose: it is for eyes, and nothing is decided by it. A piece is replaced by the committed entry that holds
//! all of it, or is dropped with the attempt that produced it. Never keeps a worker waiting, and never holds more than
//! its bounds; whoever reads too slowly is told so and looks again.
//!
//! Filled by [`TurnContext`](super::TurnContext), emptied by `controller`; read by observers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, watch};

use crate::id::{CallId, TurnId};
use crate::protocol::{ARGUMENTS, CALLS_MAX, PIECES_MAX, PROGRESS_BYTES_MAX, clip};
use crate::store::OutputKind;

pub use crate::protocol::{DELTA_BYTES_MAX, PIECE_BYTES_MAX};

/// LIMIT: deltas that wait for the slowest reader: 1 MiB at most.
const WAITING_MAX: usize = 256;
/// LIMIT: arguments of tools that are shown while they are written: what is left of the pieces beside the kinds of output.
const ARGUMENTS_MAX: usize = PIECES_MAX - OutputKind::ALL.len();

/// What is under way in a pod's turn. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    now: Arc<Mutex<InFlight>>,
    news: broadcast::Sender<Placed>,
    /// The newest committed entry: everything has its place behind the one that was the newest when it arose.
    head: watch::Receiver<u64>,
}

/// A change, and the entry behind which it has its place.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) after: u64,
    pub(crate) item: LiveItem,
}

/// What is being produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producing {
    /// Output, whose place an entry of the history takes.
    Output(OutputKind),
    /// The arguments of a tool whose use has not begun, and which of those that are written side by side.
    Arguments(u32),
}

impl fmt::Display for Producing {
    /// The name that it has for observers: `text`, `stderr`, `thinking`; `arguments:3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(output) => f.write_str(output.word()),
            Self::Arguments(which) => write!(f, "{ARGUMENTS}:{which}"),
        }
    }
}

/// What is under way at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// The turn that runs.
    pub turn: Option<TurnId>,
    /// Output that is not committed, one piece of a kind at most, and arguments of tools; 8 at most.
    pub pieces: Vec<Piece>,
    /// Tools that are being used.
    pub calls: BTreeMap<CallId, CallInFlight>,
    /// Counts the pieces of this turn.
    number: u64,
}

/// Something that is being produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What.
    pub output: Producing,
    /// Which piece of its turn: 1, 2, 3, ...
    pub number: u64,
    /// Bytes of it that were left out in front of `text`.
    pub left_out: u64,
    /// Its end.
    pub text: String,
    /// The newest committed entry when it began.
    pub(crate) after: u64,
}

/// A tool that is being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallInFlight {
    /// Which.
    pub tool: String,
    /// How far it says that it has come.
    pub progress: Option<String>,
}

/// What a reader is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveItem {
    /// More of a piece.
    Delta {
        /// In which turn.
        turn: TurnId,
        /// Of what.
        output: Producing,
        /// Of which piece.
        piece: u64,
        /// How many bytes of the piece come before.
        at: u64,
        /// The bytes.
        text: String,
    },
    /// The piece is over.
    PieceOver {
        /// In which turn.
        turn: TurnId,
        /// Which.
        piece: u64,
        /// Whether it stands in history; if not, it does not count.
        committed: bool,
    },
    /// A tool has come farther.
    Progress {
        /// In which turn.
        turn: TurnId,
        /// Which use.
        call: CallId,
        /// How far, in the tool's words.
        text: String,
    },
    /// The turn's worker is over; nothing of it is under way.
    TurnOver {
        /// Which.
        turn: TurnId,
    },
    /// The reader was too slow and has missed some: look again with [`PodHandle::live`](crate::handle::PodHandle::live).
    Missed,
}

/// What comes after one moment.
#[derive(Debug)]
pub struct LiveItems(broadcast::Receiver<Placed>);

impl LiveItems {
    /// The next item; none once nothing is left of the pod in this process.
    ///
    /// # Cancel safety
    /// It may be dropped and called again.
    pub async fn next(&mut self) -> Option<LiveItem> {
        match self.0.recv().await {
            Ok(placed) => Some(placed.item),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(LiveItem::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Live {
    /// Of the pod whose newest committed entry `head` is.
    pub(crate) fn new(head: watch::Receiver<u64>) -> Self {
        Self { now: Arc::default(), news: broadcast::Sender::new(WAITING_MAX), head }
    }

    /// What is under way, and all that comes after.
    pub(crate) fn look(&self) -> (InFlight, LiveItems) {
        let (now, _, news) = self.look_placed();
        (now, LiveItems(news))
    }

    /// The same, with the entries behind which all of it has its place.
    pub(crate) fn look_placed(&self) -> (InFlight, u64, broadcast::Receiver<Placed>) {
        // All under one lock: nothing is in neither, and nothing in both.
        let now = self.lock();
        (now.clone(), self.head(), self.news.subscribe())
    }

    fn head(&self) -> u64 {
        *self.head.borrow()
    }

    pub(crate) fn begin(&self, turn: TurnId) {
        *self.lock() = InFlight { turn: Some(turn), ..InFlight::default() };
    }

    /// The worker of `turn` is over. What it says from now on is not heard.
    pub(crate) fn over(&self, turn: TurnId) {
        let mut now = self.lock();
        if now.turn == Some(turn) {
            *now = InFlight::default();
            self.tell(LiveItem::TurnOver { turn });
        }
    }

    pub(crate) fn delta(&self, turn: TurnId, output: Producing, text: &str) {
        let mut now = self.lock();
        if now.turn != Some(turn) {
            return;
        }
        let mut rest = text;
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(floor(rest, DELTA_BYTES_MAX));
            rest = tail;
            let Some((piece, at)) = now.add(output, part, self.head()) else { return };
            self.tell(LiveItem::Delta { turn, output, piece, at, text: part.to_owned() });
        }
    }

    /// The piece of this kind stands in history now.
    pub(crate) fn committed(&self, turn: TurnId, output: OutputKind) {
        self.end_pieces(turn, true, |piece| piece.output == Producing::Output(output));
    }

    /// What was under way does not count.
    pub(crate) fn discard(&self, turn: TurnId) {
        self.end_pieces(turn, false, |_| true);
    }

    fn end_pieces(&self, turn: TurnId, committed: bool, ends: impl Fn(&Piece) -> bool) {
        let mut now = self.lock();
        if now.turn != Some(turn) {
            return;
        }
        for piece in now.pieces.extract_if(.., |piece| ends(piece)) {
            self.tell(LiveItem::PieceOver { turn, piece: piece.number, committed });
        }
    }

    /// A use of a tool has begun: what was written of arguments stands in history, or is about to.
    pub(crate) fn call(&self, turn: TurnId, call: CallId, tool: &str) {
        self.end_pieces(turn, true, |piece| matches!(piece.output, Producing::Arguments(_)));
        let mut now = self.lock();
        if now.turn == Some(turn) && now.calls.len() < CALLS_MAX {
            now.calls.insert(call, CallInFlight { tool: tool.to_owned(), progress: None });
        }
    }

    pub(crate) fn progress(&self, turn: TurnId, call: CallId, text: &str) {
        let mut now = self.lock();
        if now.turn != Some(turn) {
            return;
        }
        if let Some(known) = now.calls.get_mut(&call) {
            let text = clip(text, PROGRESS_BYTES_MAX).into_owned();
            known.progress = Some(text.clone());
            self.tell(LiveItem::Progress { turn, call, text });
        }
    }

    pub(crate) fn call_over(&self, turn: TurnId, call: CallId) {
        let mut now = self.lock();
        if now.turn == Some(turn) {
            now.calls.remove(&call);
        }
    }

    /// Nobody may listen; that is no error.
    fn tell(&self, item: LiveItem) {
        let _ = self.news.send(Placed { after: self.head(), item });
    }

    fn lock(&self) -> MutexGuard<'_, InFlight> {
        // Plain values, each change whole: a panic elsewhere has left nothing half done.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// Adds to the piece of that kind, or begins one. Returns which, and how many bytes of it come before; none if there are
    /// too many.
    fn add(&mut self, output: Producing, text: &str, after: u64) -> Option<(u64, u64)> {
        let at = match self.pieces.iter().position(|piece| piece.output == output) {
            Some(at) => at,
            // Room is kept for each kind of output, however many arguments are being written.
            None if matches!(output, Producing::Arguments(_)) && self.arguments() >= ARGUMENTS_MAX => return None,
            None => {
                self.number += 1;
                self.pieces.push(Piece { output, number: self.number, left_out: 0, text: String::new(), after });
                self.pieces.len() - 1
            }
        };
        let piece = self.pieces.get_mut(at)?;
        let before = piece.left_out + piece.text.len() as u64;
        piece.text.push_str(text);
        let excess = piece.text.len().saturating_sub(PIECE_BYTES_MAX);
        if excess > 0 {
            let cut = (excess..=piece.text.len()).find(|at| piece.text.is_char_boundary(*at)).unwrap_or(excess);
            piece.text.drain(..cut);
            piece.left_out += cut as u64;
        }
        Some((piece.number, before))
    }

    fn arguments(&self) -> usize {
        self.pieces.iter().filter(|piece| matches!(piece.output, Producing::Arguments(_))).count()
    }
}

/// The largest place in `text` that is at most `bytes_max` and between two characters; never 0 for a text that is not
/// empty.
pub(super) fn floor(text: &str, bytes_max: usize) -> usize {
    (1..=text.len().min(bytes_max)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: TurnId = TurnId(3);
    const TEXT: Producing = Producing::Output(OutputKind::Text);

    fn delta(piece: u64, at: u64, text: &str) -> LiveItem {
        LiveItem::Delta { turn: TURN, output: TEXT, piece, at, text: text.to_owned() }
    }

    #[tokio::test]
    async fn look_and_what_follows_have_every_byte_once() {
        let live = Live::new(watch::channel(7).1);
        live.begin(TURN);
        live.delta(TURN, TEXT, "ab");
        let (seen, mut items) = live.look();
        live.delta(TURN, TEXT, "c");
        live.committed(TURN, OutputKind::Text);
        live.delta(TURN, TEXT, "d");
        live.delta(TURN, Producing::Output(OutputKind::Thinking), "hm");
        live.discard(TURN);
        live.over(TURN);
        assert_eq!(seen.pieces, [Piece { output: TEXT, number: 1, left_out: 0, text: "ab".into(), after: 7 }]);
        let over = |piece, committed| LiveItem::PieceOver { turn: TURN, piece, committed };
        let thought = LiveItem::Delta {
            turn: TURN,
            output: Producing::Output(OutputKind::Thinking),
            piece: 3,
            at: 0,
            text: "hm".to_owned(),
        };
        for wanted in [
            delta(1, 2, "c"),
            over(1, true),
            delta(2, 0, "d"),
            thought,
            over(2, false),
            over(3, false),
            LiveItem::TurnOver { turn: TURN },
        ] {
            assert_eq!(items.next().await, Some(wanted));
        }
        assert_eq!(live.look().0, InFlight::default());
    }

    #[tokio::test]
    async fn reader_that_is_too_slow_is_told_so_and_keeps_nobody_waiting() {
        let live = Live::new(watch::channel(7).1);
        live.begin(TURN);
        let (_, mut items) = live.look();
        for _ in 0..WAITING_MAX + 2 {
            live.delta(TURN, TEXT, "x");
        }
        assert_eq!(items.next().await, Some(LiveItem::Missed));
        assert_eq!(items.next().await, Some(delta(1, 2, "x")));
        drop(live);
        while items.next().await.is_some() {}
    }

    #[tokio::test]
    async fn piece_keeps_its_end_and_counts_what_it_left_out() {
        let live = Live::new(watch::channel(7).1);
        live.begin(TURN);
        let (_, mut items) = live.look();
        let text = "\u{20ac}".repeat(30_000);
        live.delta(TURN, TEXT, &text);
        let piece = live.look().0.pieces.remove(0);
        assert!(piece.text.len() <= PIECE_BYTES_MAX && piece.text.len() > PIECE_BYTES_MAX - 4);
        assert_eq!(piece.left_out + piece.text.len() as u64, text.len() as u64);
        let mut next = 0;
        while next < text.len() as u64 {
            let Some(LiveItem::Delta { at, text, .. }) = items.next().await else { panic!("no delta") };
            assert!(at == next && text.len() <= DELTA_BYTES_MAX);
            next += text.len() as u64;
        }
    }

    #[tokio::test]
    async fn arguments_that_are_written_side_by_side_are_told_apart_and_over_when_a_use_begins() {
        let live = Live::new(watch::channel(7).1);
        live.begin(TURN);
        for text in ["{", "\"a\"", "}"] {
            live.delta(TURN, Producing::Arguments(0), text);
            live.delta(TURN, Producing::Arguments(1), text);
        }
        live.delta(TURN, TEXT, "and");
        let (seen, mut items) = live.look();
        let texts = seen.pieces.iter().map(|piece| (piece.output.to_string(), piece.text.as_str())).collect::<Vec<_>>();
        let whole = "{\"a\"}";
        assert_eq!(texts, [("arguments:0".into(), whole), ("arguments:1".into(), whole), ("text".into(), "and")]);
        live.call(TURN, CallId(1), "look");
        assert_eq!(live.look().0.pieces.len(), 1, "the text goes on");
        for piece in [1, 2] {
            assert_eq!(items.next().await, Some(LiveItem::PieceOver { turn: TURN, piece, committed: true }));
        }
        // However many are written, there is room for every kind of output.
        for which in 0..100 {
            live.delta(TURN, Producing::Arguments(which), "{");
        }
        OutputKind::ALL.into_iter().for_each(|kind| live.delta(TURN, Producing::Output(kind), "x"));
        let pieces = live.look().0.pieces;
        assert_eq!(pieces.len(), PIECES_MAX);
        assert!(OutputKind::ALL.into_iter().all(|kind| pieces.iter().any(|at| at.output == Producing::Output(kind))));
    }

    #[test]
    fn worker_whose_turn_is_over_is_not_heard() {
        let live = Live::new(watch::channel(7).1);
        live.begin(TURN);
        live.call(TURN, CallId(1), "look");
        live.progress(TURN, CallId(1), "half");
        assert_eq!(live.look().0.calls[&CallId(1)].progress.as_deref(), Some("half"));
        live.over(TURN);
        live.begin(TurnId(4));
        live.delta(TURN, TEXT, "late");
        live.call(TURN, CallId(2), "late");
        live.over(TURN);
        assert_eq!(live.look().0, InFlight { turn: Some(TurnId(4)), ..InFlight::default() });
    }
}
