//! Watching a pod: what is committed from a cursor on, what is under way, and then every change of either.
//!
//! A subscription reads; it never delays a method and never changes the pod. Two kinds of items, told apart by type.
//! What is committed ([`Observed`]) is never left out: a slow observer gets it later. What is under way is shown in
//! [`Glimpse`]s, which may be left out, and then an [`InFlight`] follows that has all of it again.
//!
//! **Every item has its place between two entries**, the newest one committed when it arose and the one after, and is sent
//! there. So these rules show each byte once, and end with what is committed:
//! 1. An output entry takes the place of the piece of its turn and kind that is in flight, if there is one.
//! 2. A `retrying` entry ends all pieces in flight; a `turn_started` or `turn_ended` entry ends everything that is.
//! 3. A `tool_call` entry begins a call in flight and ends all pieces of arguments; the `tool_result` of the same number ends the
//!    call.
//! 4. A [`Delta`](Glimpse::Delta) goes on with its piece where `at` says, or begins it; a piece that begins takes the place
//!    of an earlier one of its kind.
//! 5. An [`InFlight`] takes the place of everything that was in flight.
//!
//! [`Picture`](crate::attach::Picture) is these rules. Answered by `attach`.

use serde::{Deserialize, Serialize};

use crate::id::{CallId, TurnId};
use crate::protocol::{PodState, Text};

/// LIMIT: the JSON of one history entry, in bytes. The longest input (128 KiB) fits even if each of its characters
/// takes six; the frame (1 MiB) keeps room for what is around it.
pub const ENTRY_BYTES_MAX: usize = 896 * 1024;
/// LIMIT: the end of a piece in flight that is shown to whoever looks, in bytes. What was before it comes with the entry.
pub const PIECE_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: the text of one delta, in bytes.
pub const DELTA_BYTES_MAX: usize = 4 * 1024;
/// What pieces of a tool's arguments are called, before a colon and a number.
pub const ARGUMENTS: &str = "arguments";
/// LIMIT: pieces in flight: one of each of the three kinds of output, and arguments of five tools. All of them fit a frame.
pub const PIECES_MAX: usize = 8;
/// LIMIT: uses of tools whose progress is shown; what a model asks for at once is far below it.
pub const CALLS_MAX: usize = 64;
/// LIMIT: one line of progress, in bytes.
pub const PROGRESS_BYTES_MAX: usize = 1024;
/// LIMIT: the name of a kind of output, in bytes.
pub const KIND_BYTES_MAX: usize = 32;
/// LIMIT: the name of a tool in flight, in bytes; its entry has all of it.
pub const TOOL_BYTES_MAX: usize = 256;

/// Tell me everything that is committed after `from` and what is under way, without a gap, an overlap or an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 8, ack = Subscribed, rejection = SubscribeRejection, item = Observed, lossy = Glimpse)]
pub struct Subscribe {
    /// The last history entry that the observer already has; 0 for none.
    pub from: u64,
}

/// The subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Subscribed {
    /// The newest committed entry at this moment. The snapshot goes at least as far.
    pub head: u64,
}

/// Why there is no subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum SubscribeRejection {
    /// Too many watch already.
    #[error("{max} observers are attached already")]
    TooManyObservers {
        /// How many may.
        max: u32,
    },
    /// One process watches as often as it may while others may want to, too.
    #[error("this process watches {max} times already; it may do so again when fewer others do")]
    TooManyOfOneProcess {
        /// How often it watches.
        max: u32,
    },
    /// There is no such entry yet: the observer knows another history than this one, or one that was put back.
    #[error("there are entries up to {head}, and none that would come behind those asked for")]
    BeyondHead {
        /// The newest entry.
        head: u64,
    },
    /// The history cannot be read.
    #[error("the history cannot be read: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
    /// The pod ends, and gives no new subscriptions. Its history is in its store.
    #[error("the pod ends")]
    Ending,
}

/// What an observer sees, and is never left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub enum Observed {
    /// Committed entries of the history that follow each other, behind all that were sent before.
    Entries {
        /// The place of the first.
        first: u64,
        /// The place of the last: the observer's cursor from here on.
        last: u64,
        /// One line of JSON for each, as `pod log --json` prints them; every line ends with a line feed.
        lines: Text<ENTRY_BYTES_MAX>,
    },
    /// All that is under way here; also the part of the snapshot that is not committed.
    InFlight(InFlight),
    /// The snapshot is complete; what follows is new.
    CaughtUp {
        /// The last entry of the snapshot.
        cursor: u64,
    },
    /// What the pod does now. Of several changes a slow observer may learn the last one only.
    State {
        /// What.
        state: PodState,
    },
}

/// What is under way behind the last entry that was sent, and not committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct InFlight {
    /// The newest entry that is accounted for.
    pub after: u64,
    /// What the pod does.
    pub state: PodState,
    /// The turn that runs.
    pub turn: Option<TurnId>,
    /// Output of it, one piece of a kind at most, and arguments of tools.
    pub pieces: rpc::List<PieceInFlight, PIECES_MAX>,
    /// Tools that are being used in it.
    pub calls: rpc::List<CallInFlight, CALLS_MAX>,
}

/// Output of one kind that is being produced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct PieceInFlight {
    /// What kind, by the name that it has in its entry: `text`, `stderr`, `thinking`; or the arguments of a tool whose use has
    /// not begun: `arguments:0`, `arguments:1` and so on.
    pub output: Text<KIND_BYTES_MAX>,
    /// Which piece of its turn: 1, 2, 3, ...
    pub piece: u64,
    /// Bytes of it that are left out in front of `text`.
    pub left_out: u64,
    /// Its end.
    pub text: Text<PIECE_BYTES_MAX>,
}

/// A tool that is being used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct CallInFlight {
    /// Which use of its turn.
    pub call: CallId,
    /// Which tool.
    pub tool: Text<TOOL_BYTES_MAX>,
    /// How far it says that it has come.
    pub progress: Option<Text<PROGRESS_BYTES_MAX>>,
}

/// A change of what is under way. May be left out: the stream then says so (Resync), and an [`InFlight`] follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub enum Glimpse {
    /// More of a piece.
    Delta {
        /// In which turn.
        turn: TurnId,
        /// Of which kind.
        output: Text<KIND_BYTES_MAX>,
        /// Of which piece.
        piece: u64,
        /// How many bytes of the piece come before.
        at: u64,
        /// The bytes.
        text: Text<DELTA_BYTES_MAX>,
    },
    /// A piece is over. If no entry has taken its place before, it does not count.
    PieceOver {
        /// In which turn.
        turn: TurnId,
        /// Which.
        piece: u64,
    },
    /// A tool has come farther.
    Progress {
        /// In which turn.
        turn: TurnId,
        /// Which use.
        call: CallId,
        /// How far, in the tool's words.
        text: Text<PROGRESS_BYTES_MAX>,
    },
    /// The turn's worker is over: nothing of the turn is under way.
    TurnOver {
        /// Which.
        turn: TurnId,
    },
}
