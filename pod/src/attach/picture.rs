//! What is in flight, as an observer puts it together from what it is sent: the rules of `protocol/observe`.
//!
//! Pure state. Bounded by what may be in flight at once; holds no text that is committed.
//!
//! Kept by `tail` for those who come later, and by whoever watches a pod.

use serde::Deserialize;

use crate::id::{CallId, TurnId};
use crate::protocol::{
    ARGUMENTS, CALLS_MAX, CallInFlight, Glimpse, InFlight, PIECE_BYTES_MAX, PIECES_MAX, PieceInFlight, PodState, Text,
};

/// What is under way behind the last entry that was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// The turn that runs.
    pub turn: Option<TurnId>,
    /// Output of it that is not committed, one piece of a kind at most.
    pub pieces: Vec<Piece>,
    /// Tools that are being used in it.
    pub calls: Vec<Call>,
}

/// Output of one kind that is being produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What kind, by the name that it has in its entry.
    pub output: String,
    /// Which piece of its turn.
    pub number: u64,
    /// Bytes of it that are not in `text`, in front of it.
    pub left_out: u64,
    /// Its end.
    pub text: String,
}

/// A tool that is being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which use of its turn.
    pub call: CallId,
    /// Which tool.
    pub tool: String,
    /// How far it says that it has come.
    pub progress: Option<String>,
}

/// What an observer must know of an entry to keep its picture; the rest of the line is for people.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EntryHead {
    /// Its place.
    pub seq: u64,
    /// What it is, as [`HistoryItem::kind`](crate::store::HistoryItem::kind) says.
    pub kind: String,
    /// The turn in which it was.
    #[serde(default)]
    pub turn: Option<TurnId>,
    /// Of output, which kind.
    #[serde(default)]
    pub output: Option<serde_json::Value>,
    /// Of a use of a tool, which.
    #[serde(default)]
    pub call: Option<CallId>,
    /// Of the beginning of a use, which tool.
    #[serde(default)]
    pub tool: Option<String>,
}

impl EntryHead {
    /// Reads it from a line of the history.
    ///
    /// # Errors
    /// The line is no entry.
    pub fn of(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }

    /// Whether entries of that kind can change what is in flight.
    pub(crate) fn matters(kind: &str) -> bool {
        matches!(
            kind,
            "output" | "retrying" | "turn_started" | "turn_ended" | "tool_call" | "tool_result" | "life_started"
        )
    }
}

impl Picture {
    /// An entry was committed.
    pub fn entry(&mut self, entry: &EntryHead) {
        let ours = entry.turn == self.turn;
        match entry.kind.as_str() {
            "turn_started" => *self = Self { turn: entry.turn, ..Self::default() },
            "turn_ended" if ours => *self = Self::default(),
            "life_started" => *self = Self::default(),
            "output" if ours => {
                let output = entry.output.as_ref().and_then(|output| output.as_str());
                self.pieces.retain(|piece| Some(piece.output.as_str()) != output);
            }
            "retrying" if ours => self.pieces.clear(),
            "tool_call" if ours => {
                self.pieces.retain(|piece| !piece.output.starts_with(ARGUMENTS));
                if let (Some(call), Some(tool)) = (entry.call, &entry.tool) {
                    self.begin(call, tool);
                }
            }
            "tool_result" if ours => self.calls.retain(|known| Some(known.call) != entry.call),
            _ => {}
        }
    }

    fn begin(&mut self, call: CallId, tool: &str) {
        if self.calls.len() < CALLS_MAX && self.calls.iter().all(|known| known.call != call) {
            let tool = Text::<{ crate::protocol::TOOL_BYTES_MAX }>::clipped(tool).as_str().to_owned();
            self.calls.push(Call { call, tool, progress: None });
        }
    }

    /// Something has come farther. Returns whether anything is different now.
    pub fn glimpse(&mut self, glimpse: &Glimpse) -> bool {
        match glimpse {
            Glimpse::Delta { turn, output, piece, at, text } => {
                if self.turn != Some(*turn) {
                    *self = Self { turn: Some(*turn), ..Self::default() };
                }
                self.delta(output, *piece, *at, text)
            }
            Glimpse::PieceOver { turn, piece } => {
                let before = self.pieces.len();
                if self.turn == Some(*turn) {
                    self.pieces.retain(|known| known.number != *piece);
                }
                before != self.pieces.len()
            }
            Glimpse::Progress { turn, call, text } => {
                let known = self.calls.iter_mut().find(|known| known.call == *call);
                let Some(known) = known.filter(|_| self.turn == Some(*turn)) else { return false };
                known.progress = Some(text.as_str().to_owned());
                true
            }
            Glimpse::TurnOver { turn } => {
                let ours = self.turn == Some(*turn);
                if ours {
                    self.pieces.clear();
                    self.calls.clear();
                }
                ours
            }
        }
    }

    fn delta(&mut self, output: &str, number: u64, at: u64, text: &str) -> bool {
        let known = self.pieces.iter().position(|piece| piece.output == output);
        let known = match known {
            // What is older than what we have is no part of anything in flight.
            Some(known) if self.pieces.get(known).is_some_and(|piece| piece.number > number) => return false,
            Some(known) if self.pieces.get(known).is_some_and(|piece| piece.number == number) => known,
            other => {
                if let Some(old) = other {
                    self.pieces.remove(old);
                }
                if self.pieces.len() >= PIECES_MAX {
                    return false;
                }
                self.pieces.push(Piece { output: output.to_owned(), number, left_out: at, text: String::new() });
                self.pieces.len().saturating_sub(1)
            }
        };
        let Some(piece) = self.pieces.get_mut(known) else { return false };
        let end = piece.left_out.saturating_add(piece.text.len() as u64);
        if at > end {
            // What is missing was left out on its way; what we have of it ends before that.
            piece.text.clear();
            piece.left_out = at;
        }
        // What we have already is not added again.
        let known = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        let Some(new) = text.get(if at > end { 0 } else { known }..).filter(|new| !new.is_empty()) else {
            return false;
        };
        piece.text.push_str(new);
        let excess = piece.text.len().saturating_sub(PIECE_BYTES_MAX);
        if excess > 0 {
            let cut = (excess..=piece.text.len()).find(|at| piece.text.is_char_boundary(*at)).unwrap_or(excess);
            piece.text.drain(..cut);
            piece.left_out = piece.left_out.saturating_add(cut as u64);
        }
        true
    }

    pub(super) fn to_wire(&self, after: u64, state: PodState) -> InFlight {
        let pieces = self.pieces.iter().take(PIECES_MAX).map(|piece| PieceInFlight {
            output: Text::clipped(&piece.output),
            piece: piece.number,
            left_out: piece.left_out,
            text: piece.text.clone().into(),
        });
        let calls = self.calls.iter().take(CALLS_MAX).map(|call| CallInFlight {
            call: call.call,
            tool: Text::clipped(&call.tool),
            progress: call.progress.as_deref().map(Text::clipped),
        });
        InFlight {
            after,
            state,
            turn: self.turn,
            pieces: rpc::List::try_from(pieces.collect::<Vec<_>>()).unwrap_or_default(),
            calls: rpc::List::try_from(calls.collect::<Vec<_>>()).unwrap_or_default(),
        }
    }
}

impl From<&InFlight> for Picture {
    fn from(found: &InFlight) -> Self {
        let pieces = found.pieces.iter().map(|piece| Piece {
            output: piece.output.as_str().to_owned(),
            number: piece.piece,
            left_out: piece.left_out,
            text: piece.text.as_str().to_owned(),
        });
        let calls = found.calls.iter().map(|call| Call {
            call: call.call,
            tool: call.tool.as_str().to_owned(),
            progress: call.progress.as_ref().map(|text| text.as_str().to_owned()),
        });
        Self { turn: found.turn, pieces: pieces.collect(), calls: calls.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: TurnId = TurnId(3);

    fn delta(output: &str, piece: u64, at: u64, text: &str) -> Glimpse {
        Glimpse::Delta { turn: TURN, output: output.into(), piece, at, text: text.into() }
    }

    fn entry(line: &str) -> EntryHead {
        EntryHead::of(line).unwrap()
    }

    fn shown(picture: &Picture) -> Vec<(u64, u64, &str)> {
        picture.pieces.iter().map(|piece| (piece.number, piece.left_out, piece.text.as_str())).collect()
    }

    #[test]
    fn entry_takes_the_place_of_the_piece_of_its_turn_and_kind_alone() {
        let mut picture = Picture::default();
        picture.entry(&entry(r#"{"seq":1,"kind":"turn_started","turn":3}"#));
        assert!(picture.glimpse(&delta("text", 1, 0, "ab")));
        assert!(picture.glimpse(&delta("thinking", 2, 0, "hm")));
        picture.entry(&entry(r#"{"seq":2,"kind":"output","turn":4,"output":"text","text":"other"}"#));
        assert_eq!(shown(&picture), [(1, 0, "ab"), (2, 0, "hm")]);
        picture.entry(&entry(r#"{"seq":3,"kind":"output","turn":3,"output":"text","text":"ab"}"#));
        assert_eq!(shown(&picture), [(2, 0, "hm")]);
        picture.entry(&entry(r#"{"seq":4,"kind":"turn_ended","turn":3,"outcome":{}}"#));
        assert_eq!(picture, Picture::default());
    }

    #[test]
    fn delta_goes_on_where_it_says_and_nothing_is_added_twice() {
        let mut picture = Picture::default();
        assert!(picture.glimpse(&delta("text", 5, 10, "ab")));
        assert_eq!(shown(&picture), [(5, 10, "ab")]);
        assert!(!picture.glimpse(&delta("text", 5, 10, "ab")), "the same again");
        assert!(picture.glimpse(&delta("text", 5, 11, "bc")), "an overlap");
        assert_eq!(shown(&picture), [(5, 10, "abc")]);
        assert!(!picture.glimpse(&delta("text", 4, 0, "old")), "of a piece that is over");
        assert!(picture.glimpse(&delta("text", 5, 20, "z")), "behind a hole");
        assert_eq!(shown(&picture), [(5, 20, "z")]);
        assert!(picture.glimpse(&delta("text", 6, 0, "new")));
        assert_eq!(shown(&picture), [(6, 0, "new")]);
    }

    #[test]
    fn attempt_that_failed_and_calls_that_ended_are_in_flight_no_more() {
        let mut picture = Picture { turn: Some(TURN), ..Picture::default() };
        picture.entry(&entry(r#"{"seq":1,"kind":"tool_call","turn":3,"call":1,"tool":"look","arguments":{}}"#));
        picture.entry(&entry(r#"{"seq":1,"kind":"tool_call","turn":3,"call":1,"tool":"look","arguments":{}}"#));
        assert!(picture.glimpse(&Glimpse::Progress { turn: TURN, call: CallId(1), text: "half".into() }));
        assert!(!picture.glimpse(&Glimpse::Progress { turn: TURN, call: CallId(2), text: "?".into() }));
        assert_eq!(picture.calls, [Call { call: CallId(1), tool: "look".into(), progress: Some("half".into()) }]);
        picture.glimpse(&delta("text", 1, 0, "x"));
        picture.entry(&entry(r#"{"seq":2,"kind":"retrying","turn":3,"attempt":1,"after_ms":1,"reason":"r"}"#));
        assert!(picture.pieces.is_empty() && picture.calls.len() == 1);
        picture.entry(&entry(r#"{"seq":3,"kind":"tool_result","turn":3,"call":1,"how":"done","text":""}"#));
        assert!(picture.calls.is_empty());
    }

    #[test]
    fn picture_survives_its_way_over_the_wire() {
        let mut picture = Picture { turn: Some(TURN), ..Picture::default() };
        picture.begin(CallId(1), "look");
        picture.glimpse(&delta("text", 1, 7, "x"));
        assert_eq!(Picture::from(&picture.to_wire(9, PodState::Running)), picture);
    }

    #[test]
    fn piece_keeps_its_end_and_counts_what_it_left_out() {
        let mut picture = Picture::default();
        let (text, mut at) = ("\u{20ac}".repeat(1000), 0);
        while at < 3 * PIECE_BYTES_MAX {
            picture.glimpse(&delta("text", 1, at as u64, &text));
            at += text.len();
        }
        let piece = &picture.pieces[0];
        assert!(piece.text.len() <= PIECE_BYTES_MAX && piece.text.len() > PIECE_BYTES_MAX - 4);
        assert_eq!(piece.left_out + piece.text.len() as u64, at as u64);
    }
}
