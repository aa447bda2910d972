//! What a pod must not forget: one SQLite file, in which one transaction covers what must be true together.
//!
//! Memory is never ahead of the file: what a caller is told has been committed. SQLite runs on threads of its own,
//! never on one that does I/O for others; no lock is held while it works.
//!
//! `thread` runs closures with group commit, `tx` gives them the transactions that the other files here define;
//! `controller`, `event` and `spawn` call them; `reader` is for whoever looks at a pod from outside.

mod adoption;
mod children;
mod clock;
mod context;
mod error;
mod guard;
mod head;
mod history;
mod inbox;
mod intents;
mod looks;
mod observe;
mod older;
mod open;
mod outbox;
mod owner;
mod prune;
mod reader;
mod restarts;
mod schema;
mod sql;
mod status;
mod thread;
mod turns;
mod tx;
mod version;
mod works;

pub(crate) use adoption::{Adoption, Again, Whose};
pub use children::{
    ChildReadiness, ChildRow, ChildState, EndOfLife, Lifetime, NewChild, Reservation, Restart, RestartWhen, Terminal,
};
pub use clock::{Clock, UnixMillis};
pub use context::{
    Compaction, Rewind, RewindOutcome, RewindTarget, RewindTargets, Rewound, SUMMARY_BYTES_MAX, Summary,
};
pub use error::StoreError;
pub(crate) use guard::install as install_sums;
pub use history::{
    Attachment, EventKey, HistoryItem, HistoryRow, Origin, OutputKind, SystemItem, ToolEnd, TurnCause, TurnOutcome,
    Usage,
};
pub(crate) use inbox::NewReport;
pub use inbox::{InboxId, NoteOutcome, StagedReport};
pub use intents::{Intent, IntentKind, carry_out};
pub use looks::{DescendantRow, LifeEndRow};
pub(crate) use observe::HistoryLine;
pub use open::{Durability, Identity, OUTBOX_FULL_AT, StoreLimits, StoreOptions};
pub use outbox::{Meeting, OutboxRow, OutboxState, Room, UndeliverableReason};
pub use owner::Owner;
pub use reader::StoreReader;
pub(crate) use restarts::Followed;
pub use status::{Control, StatusCounts, TurnFailure};
pub(crate) use thread::Reading;
pub use thread::{Store, Submitted};
pub use turns::{EndTurn, EndedTurn, FailedStart, Recovery, StartCause, StartedTurn, TurnStart};
pub use tx::{Own, Reads, Tx};
pub use works::{Direction, GivenAs, NewRun, StagedRun, WorkRow};

#[cfg(test)]
pub(crate) mod fixture;
