//! What becomes of a call: `Ok(Ack)`, or one of the three errors here. There is no fourth, and no `io::Error`.
//!
//! Values only. Never says *not delivered* without proof; what cannot be proved is [`Unknown`](CallError::Unknown).
//!
//! Decided by `session`, given to callers by `client`.

use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::client::Doubt;
use crate::request::Request;
use crate::transport::HandshakeFault;

/// Why a call has no ack. Exhaustive on purpose: a caller that handles these three has handled everything.
///
/// *Safe to repeat* is this caller's to use; it is not passed on to the caller's own callers.
#[must_use = "a call that failed either may be repeated or must be resolved; the variant says which"]
pub enum CallError<R: Request> {
    /// No handler saw the request and none will. It may be sent again, also elsewhere.
    NotDelivered(NotDelivered),
    /// The handler said no, with the request's own type. Nothing was applied.
    Rejected(R::Rejection),
    /// It may have been applied. Resolve the doubt, or repeat what is safe to repeat by its own key.
    Unknown(Doubt<R>),
}

/// Why no handler saw a request and none will.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotDelivered {
    /// Nothing listens at the address.
    #[error("nothing listens at {address} ({reason}); start the service or correct the address")]
    NoListener {
        /// Where we dialled.
        address: Address,
        /// What the kernel said.
        reason: String,
    },
    /// The transport's own handshake failed: nothing of what was sent went further.
    #[error("no connection to {address}: {fault}")]
    Handshake {
        /// Where we dialled.
        address: Address,
        /// What went wrong.
        fault: HandshakeFault,
    },
    /// The request's frame would be larger than both sides agreed on.
    #[error("the request's frame has {bytes} bytes, at most {max} are allowed; send what is larger as a stream")]
    TooLarge {
        /// The frame, in bytes.
        bytes: usize,
        /// The largest frame allowed.
        max: usize,
    },
    /// The request could not be encoded.
    #[error("the request cannot be encoded: {0}")]
    Encode(String),
    /// The lane's window stayed full until the deadline.
    #[error("the lane's window of {window} open requests stayed full until the deadline")]
    WindowFull {
        /// Its size.
        window: u32,
    },
    /// The deadline passed, or the call was cancelled, before the request was handed to the kernel.
    #[error("the deadline passed before the request was written")]
    NotWritten,
    /// The connection ended before the whole request had been handed to the kernel.
    #[error("the connection ended before the request was written")]
    ConnectionLost,
    /// The client was shut down, or its runtime ended, before the request was written.
    #[error("the client was shut down before the request was written")]
    ClientClosed,
    /// The server refused the connection.
    #[error("the server refused the connection: {0}")]
    Refused(Refusal),
    /// The caller whom we wanted to call back serves no such service, or not in this version.
    #[error("the other side of the connection does not serve this; it must be built with `serves`")]
    NotServed,
    /// The server refused the connection, and said what it has instead of what was asked for: another service, another
    /// version of it, or another version of the protocol.
    #[error("the server refused the connection: {refusal} ({said})")]
    Incompatible {
        /// What does not fit.
        refusal: Refusal,
        /// What was asked for and what is there.
        said: String,
    },
    /// The server has too much to do.
    #[error("the server is overloaded{}", After(*retry_after))]
    Overloaded {
        /// When to try again, if the server said so.
        retry_after: Option<Duration>,
    },
    /// The server is shutting down and took nothing after this.
    #[error("the server is draining and takes no further requests")]
    Draining,
    /// The server has no such method.
    #[error("the server does not know method {method} in version {version}")]
    UnknownMethod {
        /// The method's id.
        method: u16,
        /// Its version.
        version: u16,
    },
    /// Both sides have the method, with different types.
    #[error(
        "the server has another schema for method {method} in version {version}; build both sides from one source or raise the version"
    )]
    SchemaMismatch {
        /// The method's id.
        method: u16,
        /// Its version.
        version: u16,
    },
    /// The server could not read the body.
    #[error("the server could not read the request's body: {0}")]
    BadBody(String),
    /// The server does not take this request from us.
    #[error("the server does not take this request from us: {0}")]
    Unauthorized(String),
    /// The deadline passed while the request waited at the server.
    #[error("the deadline passed before a handler saw the request")]
    Expired,
    /// After a reconnect the server said that it had never seen the request, and will refuse it from now on.
    #[error("the server never saw the request")]
    NeverSeen,
    /// The server's handler could not be given the request; its queue is full or closed.
    #[error("the service does not take requests: {0}")]
    Unavailable(String),
}

/// Why a server refused a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// What came first was no Hello of this protocol.
    #[error("it was not spoken to in this protocol")]
    NotThisProtocol,
    /// No wire version in common.
    #[error("no wire version in common")]
    WireVersion,
    /// Another service, or another version of it, listens here.
    #[error("another service or version listens there")]
    Service,
    /// A newer connection of the same lane was accepted.
    #[error("a newer connection of the same client has taken over")]
    StaleEpoch,
    /// The user is not allowed to connect.
    #[error("the user is not allowed to connect")]
    Unauthorized,
    /// Too many connections or lanes.
    #[error("it has too many connections")]
    TooMany,
    /// It is shutting down.
    #[error("it is shutting down")]
    Draining,
    /// The handshake took too long.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// A frame was larger than allowed.
    #[error("a frame was too large")]
    FrameTooLarge,
    /// A frame broke the protocol.
    #[error("a frame broke the protocol")]
    Violation,
    /// We left our answers unread.
    #[error("its answers were left unread")]
    Stalled,
    /// Something that this version does not know.
    #[error("a reason that this version does not know (code {0})")]
    Other(u32),
}

/// How far a request is known to have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// It was handed to the writer.
    Written,
    /// The server took it up.
    Received,
    /// A handler has it.
    Started,
}

/// Why the outcome of a call is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The deadline passed without an answer.
    #[error("the deadline passed without an answer")]
    Deadline,
    /// The connection ended and the peer could not be reached again.
    #[error("the connection was lost and the peer cannot be reached")]
    ConnectionLost,
    /// The handler panicked.
    #[error("the handler panicked")]
    HandlerPanicked,
    /// The handler dropped its responder without answering.
    #[error("the handler dropped its responder")]
    ResponderDropped,
    /// The handler was stopped: by a cancel, by its deadline or with its server.
    #[error("the handler was stopped")]
    Aborted,
    /// The answer was larger than its method declares.
    #[error("the answer was larger than its method declares")]
    AnswerTooLarge,
    /// The answer could not be read.
    #[error("the answer could not be read")]
    AnswerUnreadable,
    /// The peer is another incarnation than the one that we asked.
    #[error("the peer restarted")]
    PeerRestarted,
    /// The peer no longer remembers the lane or the request.
    #[error("the peer no longer remembers the request")]
    Forgotten,
    /// The client was shut down, or its runtime ended, while the call was open.
    #[error("the client was shut down while the call was open")]
    ClientClosed,
}

impl NotDelivered {
    /// Whether the reason can pass: the same request, sent again to the same address, may be taken. `false` means that it
    /// would be refused again, however often it is sent.
    pub fn can_pass(&self) -> bool {
        match self {
            Self::NoListener { .. }
            | Self::WindowFull { .. }
            | Self::NotWritten
            | Self::ConnectionLost
            | Self::ClientClosed
            | Self::Overloaded { .. }
            | Self::Draining
            | Self::Expired
            | Self::NeverSeen
            | Self::Unavailable(_) => true,
            Self::Refused(refusal) | Self::Incompatible { refusal, .. } => refusal.can_pass(),
            Self::TooLarge { .. }
            | Self::Encode(_)
            | Self::NotServed
            | Self::Handshake { .. }
            | Self::UnknownMethod { .. }
            | Self::SchemaMismatch { .. }
            | Self::BadBody(_)
            | Self::Unauthorized(_) => false,
        }
    }

    /// The least time to wait before the request is sent again, if the server has named one.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after } => *retry_after,
            _ => None,
        }
    }
}

impl Refusal {
    /// Whether the reason can pass: the next connection may be taken.
    pub fn can_pass(self) -> bool {
        match self {
            Self::StaleEpoch | Self::TooMany | Self::Draining | Self::HandshakeTimeout | Self::Stalled => true,
            Self::NotThisProtocol
            | Self::WireVersion
            | Self::Service
            | Self::Unauthorized
            | Self::FrameTooLarge
            | Self::Violation
            | Self::Other(_) => false,
        }
    }
}

impl Cause {
    /// Whether asking again may bring an answer: the server was not reached, but may still know. All other causes are
    /// the last word on that request.
    pub fn is_resolvable(self) -> bool {
        match self {
            Self::Deadline | Self::ConnectionLost | Self::ClientClosed => true,
            Self::HandlerPanicked
            | Self::ResponderDropped
            | Self::Aborted
            | Self::AnswerTooLarge
            | Self::AnswerUnreadable
            | Self::PeerRestarted
            | Self::Forgotten => false,
        }
    }

    /// Whether the reason can pass: a new request of the same kind may end otherwise. Sending one is right only where
    /// applying it twice does no harm: see [`Idempotent`](crate::Idempotent).
    pub fn can_pass(self) -> bool {
        match self {
            Self::Deadline
            | Self::ConnectionLost
            | Self::ResponderDropped
            | Self::Aborted
            | Self::PeerRestarted
            | Self::Forgotten
            | Self::ClientClosed => true,
            // What made a handler panic does so again.
            Self::HandlerPanicked | Self::AnswerTooLarge | Self::AnswerUnreadable => false,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Written => "written",
            Self::Received => "received",
            Self::Started => "started",
        })
    }
}

struct After(Option<Duration>);

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(after) => write!(f, "; try again after {} ms", after.as_millis()),
            None => Ok(()),
        }
    }
}

impl<R: Request> fmt::Debug for CallError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDelivered(why) => f.debug_tuple("NotDelivered").field(why).finish(),
            Self::Rejected(rejection) => f.debug_tuple("Rejected").field(rejection).finish(),
            Self::Unknown(doubt) => f.debug_tuple("Unknown").field(doubt).finish(),
        }
    }
}

impl<R: Request> fmt::Display for CallError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDelivered(why) => write!(f, "`{}` was not delivered: {why}", R::NAME),
            Self::Rejected(rejection) => write!(f, "`{}` was rejected: {rejection:?}", R::NAME),
            Self::Unknown(doubt) => write!(f, "whether `{}` was applied is unknown: {doubt}", R::NAME),
        }
    }
}

impl<R: Request> std::error::Error for CallError<R> {}
