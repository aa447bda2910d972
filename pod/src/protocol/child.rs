//! The handshake of the edge: a child says that it is there. And what a parent may ask of it alone.
//!
//! The child holds its life lock before it says so. Its identity is the kernel's word, not the request's.
//!
//! Sent by `spawn` in the child, answered by `controller` in the parent; [`Detach`] goes the other way.

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, PodId, Seq, StreamId};
use crate::protocol::Text;

/// LIMIT: the JSON of what a child is told to be, in bytes. Manifests are a few hundred.
pub const CHILD_CONFIG_BYTES_MAX: usize = 48 * 1024;

/// I am there, hold my life lock, and listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 10, ack = Go, rejection = ChildRejection, ack_bytes_max = 65536)]
pub struct ChildReady {
    /// Who.
    pub pod: PodId,
    /// Whose events it will offer: the stream of its store.
    pub stream: StreamId,
    /// Its process, as it sees itself. Not what it is recognized by.
    pub pid: u32,
    /// Where it listens.
    pub socket: Text<256>,
    /// It goes on when its parent ends: it was started so, or a parent has asked it to.
    pub detached: bool,
}

/// The child is known as ready and may begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Go {
    /// To whom it reports.
    pub parent: PodId,
    /// The last event of its stream that the parent has.
    pub watermark: Seq,
    /// What it is told to be, as JSON; empty if it knows already.
    pub config: Text<CHILD_CONFIG_BYTES_MAX>,
}

/// Why the child may not begin. It should end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum ChildRejection {
    /// The process is no child of this pod.
    #[error("the sender is no child of this pod")]
    NotYourChild,
    /// Another life has the name now.
    #[error("incarnation {current} has the name now")]
    StaleIncarnation {
        /// Which.
        current: Incarnation,
    },
    /// The pod is stopping.
    #[error("the parent is stopping")]
    Stopping,
    /// It could not be committed.
    #[error("the child could not be recorded: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
}

/// Go on when I am gone, instead of ending with me. Asked by its parent alone; acked when it is committed. Asked again, it changes
/// nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 22, ack = (), rejection = DetachRejection)]
pub struct Detach {
    /// Which life is meant.
    pub child: PodId,
}

/// Why the child ends with its parent as before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum DetachRejection {
    /// The sender is not its parent, or means another life.
    #[error("the sender is not its parent, or means another life")]
    NotYours,
    /// The child is stopping.
    #[error("the pod is stopping")]
    Stopping,
    /// It could not be committed.
    #[error("the change could not be committed: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
}
