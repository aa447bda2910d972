//! Requests that steer a pod: cancel, pause, resume, shut down.
//!
//! Acked when the state is reached or its change is committed to; never when the turn has ended.
//!
//! Answered by `controller`.

use serde::{Deserialize, Serialize};

use crate::id::TurnId;
use crate::protocol::work::{TurnCap, busy};
use crate::protocol::{PodState, Text};

/// Stop the turn that is running, give up the one that is paused, or give up a rewind that waits for children. The turn's
/// end is reported as cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 4, ack = ControlAck, rejection = ControlRejection)]
pub struct Cancel;

/// Interrupt the turn that is running, so that it can be resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 5, ack = ControlAck, rejection = ControlRejection)]
pub struct Pause;

/// Go on with the turn that was paused, or try again after `Blocked`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 6, ack = ControlAck, rejection = ControlRejection)]
pub struct Resume;

/// The request was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct ControlAck {
    /// The state when it was taken.
    pub state: PodState,
    /// The turn that it is about: the one that was told to end, that is paused, that was given up, or that goes on with
    /// what was paused. None if there is none, or if its start has to be tried again.
    pub turn: Option<TurnId>,
    /// Whether what was asked for is still under way: the turn has been told and will end, in the way that the end of
    /// `turn` in history tells. If not, it is committed.
    pub staged: bool,
}

/// Why the request was not taken. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum ControlRejection {
    /// Nothing is paused.
    #[error("the pod is not paused")]
    NotPaused,
    /// No turn is running.
    #[error("no turn is running")]
    NotRunning,
    /// A turn is running, or something else that needs the worker for itself is about to.
    #[error("{}", busy(*turn))]
    AlreadyRunning {
        /// Which; 0 if none is, yet.
        turn: TurnId,
    },
    /// The pod is stopping.
    #[error("the pod is stopping")]
    Stopping,
    /// The pod cannot do that now.
    #[error("not possible now: {reason}")]
    Invalid {
        /// Why.
        reason: Text<256>,
    },
    /// It could not be committed.
    #[error("the change could not be committed: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
    /// A bound of the whole tree is reached: nothing is gone on with.
    #[error("no turn is started: {cap}")]
    Cap {
        /// Which.
        cap: TurnCap,
    },
}

/// Stop. Acked when no new turn will start; the pod's end is told by its last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 7, ack = Stopping)]
pub struct Shutdown {
    /// What becomes of the turn that is running.
    pub mode: ShutdownMode,
}

/// What becomes of a turn that runs when a pod is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub enum ShutdownMode {
    /// It is cancelled.
    Now,
    /// It may end.
    Graceful,
}

/// No new turn will start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Stopping {
    /// The turn that has still to end.
    pub turn: Option<TurnId>,
}
