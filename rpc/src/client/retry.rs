//! What a call may do about its own failures, within its own deadline.
//!
//! Repeats nothing that may have been applied, except what says of itself that this does no harm. Never hides a doubt:
//! once an attempt's outcome is lost, no later attempt can make the call *not delivered*.
//!
//! Given to a call; asked by `call` after each attempt.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::backoff::Backoff;
use crate::id::random_u64;
use crate::outcome::{Cause, Stage};
use crate::request::{Idempotent, Request};
use crate::session::client::Outcome;

/// What a call does about a failure before it ends: nothing, or only what is safe.
///
/// | policy | after `NotDelivered` | after `Unknown` |
/// |---|---|---|
/// | [`none`](Self::none), the default | ends | ends |
/// | [`not_delivered`](Self::not_delivered) | sends again, as a new request | ends |
/// | [`resolve`](Self::resolve) | ends | asks what became of it |
/// | `not_delivered().and_resolve()` | sends again | asks; what was never seen is sent again |
/// | [`idempotent`](Self::idempotent), only for [`Idempotent`] requests | sends again | asks; what nobody knows any more is sent again |
///
/// Sent again is only what may be taken another time ([`NotDelivered::can_pass`](crate::NotDelivered::can_pass)); a request that is too large or
/// unknown to the server ends the call at once. `Rejected` always ends it. All attempts share the call's one deadline, and between two of
/// them lies a pause by [`Backoff`], at least as long as an overloaded server has asked for. A call whose next pause
/// would not end before its deadline ends without it, with the last attempt's outcome. Each attempt is a request with an id of its own. An earlier one is proved not to run before the next is sent, unless the
/// request is idempotent.
///
/// ```
/// # use std::time::Duration;
/// # #[derive(serde::Serialize, serde::Deserialize, rpc::Request)]
/// # #[rpc(id = 1, ack = u64)]
/// # struct Book;
/// # #[derive(rpc::Protocol)]
/// # #[rpc(name = "books", version = 1)]
/// # enum Books { Book(Book) }
/// # async fn book(client: &rpc::Client<Books>) -> Result<u64, rpc::CallError<Book>> {
/// use rpc::Retry;
/// // Waits for a service that starts, restarts or is busy, and books once.
/// client.call(Book).deadline(Duration::from_secs(30)).retry(Retry::not_delivered().and_resolve()).await
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry<S = AnyRequest> {
    policy: Policy,
    _scope: PhantomData<fn() -> S>,
}

/// The scope of a [`Retry`] that is safe for every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyRequest {}

/// The scope of a [`Retry`] that is safe for [`Idempotent`] requests only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdempotentOnly {}

/// A scope of [`Retry`] that covers the request `R`.
pub trait Covers<R: Request>: sealed::Scope {}

impl<R: Request> Covers<R> for AnyRequest {}
impl<R: Idempotent> Covers<R> for IdempotentOnly {}

mod sealed {
    pub trait Scope {}
    impl Scope for super::AnyRequest {}
    impl Scope for super::IdempotentOnly {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    not_delivered: bool,
    resolve: bool,
    unknown: bool,
    attempts_max: u32,
    backoff: Option<Backoff>,
}

impl Retry {
    /// Nothing: the call ends with the outcome of its only attempt.
    pub const fn none() -> Self {
        Self::new(false, false, false)
    }

    /// Sends the request again when it was not delivered, for a reason that can pass.
    pub const fn not_delivered() -> Self {
        Self::new(true, false, false)
    }

    /// Asks what became of the request when its outcome is unknown because the server could not be reached, until it is
    /// known or the deadline has passed. Nothing is sent twice.
    pub const fn resolve() -> Self {
        Self::new(false, true, false)
    }
}

impl Retry<IdempotentOnly> {
    /// Everything: sends the request again when it was not delivered, asks what became of it when its outcome is unknown,
    /// and sends it again, as a new request, when nobody knows. Only for requests that are [`Idempotent`]; with any
    /// other it does not compile.
    ///
    /// Once an attempt's outcome is lost, the call ends in an ack or in doubt: that a later attempt was not delivered, or
    /// was rejected, says nothing about the earlier one. What it said is in [`Doubt::last_error`](crate::Doubt::last_error).
    pub const fn idempotent() -> Self {
        Self::new(true, true, true)
    }
}

impl<S> Retry<S> {
    const fn new(not_delivered: bool, resolve: bool, unknown: bool) -> Self {
        let policy = Policy { not_delivered, resolve, unknown, attempts_max: u32::MAX, backoff: None };
        Self { policy, _scope: PhantomData }
    }

    /// Also asks what became of the request, as [`resolve`](Retry::resolve) does. What the server says it has never seen
    /// was not delivered, and may be sent again if this policy does that.
    #[must_use]
    pub const fn and_resolve(mut self) -> Self {
        self.policy.resolve = true;
        self
    }

    /// Sends the request at most `attempts` times in all; 0 counts as 1. Without it the deadline alone ends the attempts.
    #[must_use]
    pub const fn attempts_max(mut self, attempts: u32) -> Self {
        self.policy.attempts_max = attempts;
        self
    }

    /// The pauses between the attempts, instead of the client's.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.policy.backoff = Some(backoff);
        self
    }
}

impl<S> Default for Retry<S> {
    fn default() -> Self {
        Self::new(false, false, false)
    }
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The call has its outcome.
    End,
    /// The request is sent again, as a new one.
    Repeat,
    /// The server is asked what became of the request.
    Resolve,
}

/// A policy at work on one call.
#[derive(Debug)]
pub(super) struct Retrying {
    policy: Policy,
    backoff: Backoff,
    /// How many pauses there were.
    pauses: u32,
    /// The attempt whose outcome nobody knows any more, if there is one: how far it had come, and why.
    pub(super) lost: Option<(Stage, Cause)>,
    pause: Option<Pin<Box<Sleep>>>,
    next: Next,
}

impl Retrying {
    /// `None`: the policy does nothing.
    pub(super) fn new<S>(retry: &Retry<S>, backoff: Backoff) -> Option<Self> {
        let policy = retry.policy;
        let does_something = policy.not_delivered || policy.resolve || policy.unknown;
        let backoff = policy.backoff.unwrap_or(backoff);
        does_something.then_some(Self { policy, backoff, pauses: 0, lost: None, pause: None, next: Next::End })
    }

    /// Decides what follows the attempt that ended so, and begins the pause before it.
    pub(super) fn after(&mut self, outcome: &Outcome, attempts: u32, now: Instant, deadline: Instant) -> Next {
        let next = self.policy.after(outcome, attempts);
        if next == Next::End {
            return Next::End;
        }
        let pause = self.pause_after(outcome, random_u64());
        let Some(until) = now.checked_add(pause).filter(|until| *until < deadline) else { return Next::End };
        if let (Next::Repeat, Outcome::Unknown(stage, cause)) = (next, outcome) {
            self.lost.get_or_insert((*stage, *cause));
        }
        self.pauses = self.pauses.saturating_add(1);
        self.pause = Some(Box::pin(tokio::time::sleep_until(until.into())));
        self.next = next;
        next
    }

    /// Waits until the pause is over, and says what it was before, once.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        let Some(pause) = &mut self.pause else { return Poll::Ready(None) };
        std::task::ready!(pause.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(Some(self.next))
    }

    fn pause_after(&self, outcome: &Outcome, random: u64) -> Duration {
        let pause = self.backoff.pause(self.pauses, random);
        let asked_for = match outcome {
            Outcome::NotDelivered(why) => why.retry_after().unwrap_or_default(),
            _ => Duration::ZERO,
        };
        // What a server has asked for is asked of many: the pause on top of it keeps them apart.
        asked_for.saturating_add(pause)
    }
}

impl Policy {
    fn after(&self, outcome: &Outcome, attempts: u32) -> Next {
        let may_send = attempts < self.attempts_max;
        match outcome {
            Outcome::Ack(_) | Outcome::Rejected(_) => Next::End,
            Outcome::NotDelivered(why) if self.not_delivered && may_send && why.can_pass() => Next::Repeat,
            Outcome::NotDelivered(_) => Next::End,
            // All attempts share the call's deadline: where that has not passed, it was the server's, which is its last word.
            Outcome::Unknown(_, cause) if self.resolve && cause.is_resolvable() && *cause != Cause::Deadline => {
                Next::Resolve
            }
            Outcome::Unknown(_, cause) if self.unknown && may_send && cause.can_pass() => Next::Repeat,
            Outcome::Unknown(..) => Next::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{NotDelivered, Refusal};

    fn not_delivered(why: NotDelivered) -> Outcome {
        Outcome::NotDelivered(why)
    }

    fn unknown(cause: Cause) -> Outcome {
        Outcome::Unknown(Stage::Received, cause)
    }

    #[track_caller]
    fn check(outcome: &Outcome, none: Next, sends: Next, resolves: Next, both: Next, idempotent: Next) {
        let after = |policy: Policy| policy.after(outcome, 1);
        assert_eq!(after(Retry::none().policy), none, "none");
        assert_eq!(after(Retry::not_delivered().policy), sends, "not_delivered");
        assert_eq!(after(Retry::resolve().policy), resolves, "resolve");
        assert_eq!(after(Retry::not_delivered().and_resolve().policy), both, "not_delivered and resolve");
        assert_eq!(after(Retry::idempotent().policy), idempotent, "idempotent");
    }

    #[test]
    fn each_policy_does_what_its_table_says() {
        use Next::{End, Repeat, Resolve};
        for why in [
            NotDelivered::ConnectionLost,
            NotDelivered::NeverSeen,
            NotDelivered::Draining,
            NotDelivered::Overloaded { retry_after: None },
            NotDelivered::Unavailable(String::new()),
            NotDelivered::Refused(Refusal::TooMany),
            NotDelivered::Refused(Refusal::HandshakeTimeout),
        ] {
            check(&not_delivered(why), End, Repeat, End, Repeat, Repeat);
        }
        for why in [
            NotDelivered::TooLarge { bytes: 2, max: 1 },
            NotDelivered::Encode(String::new()),
            NotDelivered::UnknownMethod { method: 1, version: 1 },
            NotDelivered::SchemaMismatch { method: 1, version: 1 },
            NotDelivered::BadBody(String::new()),
            NotDelivered::Unauthorized(String::new()),
            NotDelivered::Refused(Refusal::Service),
            NotDelivered::Incompatible { refusal: Refusal::Service, said: String::new() },
            NotDelivered::Refused(Refusal::Violation),
        ] {
            check(&not_delivered(why), End, End, End, End, End);
        }
        check(&unknown(Cause::ConnectionLost), End, End, Resolve, Resolve, Resolve);
        check(&unknown(Cause::PeerRestarted), End, End, End, End, Repeat);
        check(&unknown(Cause::Deadline), End, End, End, End, Repeat);
        check(&unknown(Cause::Forgotten), End, End, End, End, Repeat);
        check(&unknown(Cause::HandlerPanicked), End, End, End, End, End);
    }

    #[test]
    fn attempts_max_ends_the_sending_and_not_the_asking() {
        let policy = Retry::idempotent().attempts_max(2).policy;
        let lost = not_delivered(NotDelivered::ConnectionLost);
        assert_eq!(policy.after(&lost, 1), Next::Repeat);
        assert_eq!(policy.after(&lost, 2), Next::End);
        assert_eq!(policy.after(&unknown(Cause::PeerRestarted), 2), Next::End);
        assert_eq!(policy.after(&unknown(Cause::ConnectionLost), 2), Next::Resolve);
        assert_eq!(Retry::not_delivered().attempts_max(0).policy.after(&lost, 1), Next::End);
    }

    #[tokio::test(start_paused = true)]
    async fn pause_is_at_least_what_the_server_asked_for_and_never_passes_the_deadline() {
        let now = crate::io::now();
        let retry_after = Some(Duration::from_secs(3));
        let overloaded = not_delivered(NotDelivered::Overloaded { retry_after });
        let mut retrying = Retrying::new(&Retry::not_delivered(), Backoff::default()).expect("it does something");
        for random in [0, u64::MAX] {
            assert!(retrying.pause_after(&overloaded, random) > Duration::from_secs(3));
        }
        assert_eq!(retrying.after(&overloaded, 1, now, now + Duration::from_secs(2)), Next::End);
        assert_eq!(retrying.after(&overloaded, 1, now, now + Duration::from_secs(4)), Next::Repeat);
        std::future::poll_fn(|cx| retrying.poll_pause(cx)).await;
        let waited = crate::io::now() - now;
        assert!(waited > Duration::from_secs(3) && waited < Duration::from_secs(4), "{waited:?}");
    }
}
