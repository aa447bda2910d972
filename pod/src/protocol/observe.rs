//! Watching a pod: what is committed, from a cursor on, and then every commit.
//!
//! A subscription reads; it never delays a method and never changes the pod.
//!
//! Answered by `attach`.

use serde::{Deserialize, Serialize};

use crate::protocol::PodStatus;

/// LIMIT: the JSON of one history entry, in bytes. The longest input (128 KiB) fits even if each of its characters
/// takes six; the frame (1 MiB) keeps room for what is around it.
pub const ENTRY_BYTES_MAX: usize = 896 * 1024;

/// Tell me everything that is committed after `from`, without a gap and without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 8, ack = Subscribed, rejection = SubscribeRejection, item = Observed)]
pub struct Subscribe {
    /// The last history entry that the observer already has; 0 for none.
    pub from: u64,
}

/// The subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Subscribed {
    /// The newest committed entry at this moment. Items up to it are the snapshot.
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
    /// The history cannot be read.
    #[error("the history cannot be read: {reason}")]
    Unavailable {
        /// Why.
        reason: crate::protocol::Text<256>,
    },
}

/// What an observer sees.
#[expect(clippy::large_enum_variant, reason = "items are encoded one by one and never kept in numbers")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub enum Observed {
    /// One committed entry of the history. Never left out.
    Entry {
        /// Its place.
        seq: u64,
        /// When it was committed, in milliseconds since 1970.
        at_ms: u64,
        /// The entry as JSON, as `pod log --json` prints it.
        json: crate::protocol::Text<ENTRY_BYTES_MAX>,
    },
    /// The snapshot is complete; what follows is new.
    CaughtUp {
        /// The last entry of the snapshot.
        cursor: u64,
    },
    /// How the pod is doing now. May be left out when the observer is slow; the next one tells the same or more.
    Status(PodStatus),
}
