//! The lane on which the accepting side calls: its caller's half, kept with the server's memory of the connecting lane.
//!
//! It opens no connection and says no Hello: it is up as soon as the Hello of the connecting side is accepted. All that is
//! not said here is as in the other direction. SPEC: PROTOCOL §4.9.
//!
//! Driven by `io::server`; called by `client`, for whoever serves.

use super::{ClientLane, Link, Progress, Role};
use crate::limits::{BULK_BYTES, Limits};
use crate::outcome::{Cause, NotDelivered};
use crate::wire::header::REVERSE;
use crate::wire::hello::{MethodClaim, Serves, ServiceInfo};

/// The service that the connecting side answers, by its Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    name: String,
    version: u16,
    methods: Vec<MethodClaim>,
}

impl From<Serves<'_>> for Offer {
    fn from(serves: Serves<'_>) -> Self {
        Self { name: serves.name.to_owned(), version: serves.version, methods: serves.methods().collect() }
    }
}

impl ClientLane {
    /// A lane of the accepting side that has never been attached.
    pub fn reverse(limits: Limits) -> Self {
        let mut lane = Self::in_role(Role::Accepting(None), limits);
        lane.flags = REVERSE;
        // Answers and requests share the connection: no answer waits behind all the requests that are queued.
        lane.claim_bytes_max = BULK_BYTES;
        lane
    }

    /// The Hello of `epoch` was accepted. A connection that was there before is superseded: its peer has discarded what it
    /// had not read, but may have read all that was claimed, so everything is in doubt and is asked for here.
    pub fn attach_reverse(&mut self, epoch: u64, window: u32, frame_bytes_max: u32, offer: Option<Offer>) {
        if self.link != Link::Down {
            self.written = self.out_base;
            self.disconnected();
        }
        let first = self.epoch == 0;
        self.epoch = epoch;
        self.progress = Progress::default();
        self.allow(window);
        let theirs = usize::try_from(frame_bytes_max).unwrap_or(usize::MAX);
        self.frame_bytes_max = self.limits.frame_bytes_max.min(theirs);
        let offers = offer.is_some();
        self.role = Role::Accepting(offer);
        if !offers {
            // There is nobody left to ask.
            self.fail_open(&NotDelivered::NotServed, Cause::Forgotten);
            return;
        }
        self.link = Link::Up;
        self.counters.connections = self.counters.connections.saturating_add(1);
        if !first {
            self.put_park();
            self.resolve_in_doubt();
        }
    }

    /// Whether `epoch` is the lane's present connection. Asked, under the same lock, before anything is done for a
    /// connection: one that was superseded writes nothing more and is no longer heard.
    pub fn is_attached(&self, epoch: u64) -> bool {
        self.epoch == epoch && self.link != Link::Down
    }

    /// Whether it takes no further calls.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether it has a connection.
    pub fn is_connected(&self) -> bool {
        self.link != Link::Down
    }

    /// The connection of `epoch` is gone for good, both halves closed.
    pub fn detach_reverse(&mut self, epoch: u64) {
        if self.is_attached(epoch) {
            self.disconnected();
        }
    }

    /// The server's memory of the connecting lane ends, and this lane with it: every open call gets its outcome.
    pub fn end_reverse(&mut self) {
        // What a writer still holds may yet reach the other side.
        self.written = self.out_base;
        self.disconnected();
        self.close_all();
    }

    /// Whether it was made to call that service.
    pub fn calls(&self, called: &ServiceInfo) -> bool {
        match &self.role {
            Role::Connecting { service, .. } => service.name == called.name && service.version == called.version,
            Role::Accepting(_) => false,
        }
    }

    /// Whether the other side answers that method of `service`, by its Hello. Always, where it was us who said Hello: then the
    /// server judges.
    ///
    /// # Errors
    /// Why it does not: nothing need be sent.
    pub fn check_offer(&self, service: &ServiceInfo, method: u16, version: u16) -> Result<(), NotDelivered> {
        let Role::Accepting(offer) = &self.role else { return Ok(()) };
        let same = |offer: &&Offer| offer.name == service.name && offer.version == service.version;
        let Some(offer) = offer.as_ref().filter(same) else { return Err(NotDelivered::NotServed) };
        let theirs = offer.methods.iter().find(|claim| (claim.id, claim.version) == (method, version));
        let ours = service.methods.iter().find(|info| (info.id, info.version) == (method, version));
        match (theirs, ours) {
            (Some(theirs), Some(ours)) if theirs.fingerprint == ours.fingerprint => Ok(()),
            (Some(_), _) => Err(NotDelivered::SchemaMismatch { method, version }),
            (None, _) => Err(NotDelivered::UnknownMethod { method, version }),
        }
    }
}
