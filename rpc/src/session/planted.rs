//! Bugs that tests plant, so that the simulator is shown to find them: each is one rule, left out.
//!
//! Without the feature `testing` no bug can be planted, a [`Planted`] has no size, and asking it costs nothing.
//!
//! Asked by `client` and `server` at the one place that each bug spoils.
#![cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "public for our own tests alone"))]

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// The server acks a request when it takes it up, before its handler has applied it.
    AckBeforeApply,
    /// The server answers *never seen* and does not burn the id.
    ResolveWithoutRefusal,
    /// The server takes requests of a connection that a newer one has replaced.
    NoFence,
    /// The server takes an id anew that lies below its floor.
    ForgottenFloor,
    /// The server answers again when a handler ends that it had stopped and answered for.
    DoubleSettle,
    /// The server forgets all other deadlines when one has passed.
    LostHandlerTimer,
    /// The server does not take the permit back of a handler whose answer comes late.
    PermitLeaked,
    /// The server drops its oldest answer where it should refuse for lack of room.
    EvictedAnswer,
    /// The server stops the handlers of a connection that is lost.
    CancelOnLoss,
    /// The server refuses a request before it has looked whether it is a repeat.
    RefusalBeforeLookup,
    /// The server sends items for which its reader gave no credit.
    ItemWithoutCredit,
    /// The server loses items of a stream and does not say so.
    ItemLost,
    /// The server names one id too few when it drains.
    DrainNamesTooLow,
    /// The client lets its floor pass ids that are open and not parked.
    FloorOverOpenIds,
    /// The client forgets all other deadlines when one has passed.
    LostTimer,
    /// The client wakes nobody who waits for an outcome that was in doubt.
    LostWakeup,
    /// The client calls a request *not delivered* that was written when its deadline passed.
    WrittenIsNotDelivered,
    /// The client takes a frame whose last byte was written for one that was cut.
    WholeFrameIsCut,
    /// The client believes a server of another incarnation, or another memory, about ids that it cannot know.
    WrongIncarnation,
    /// The client does not list its parked ids again after a reconnect.
    ParkNotRepeated,
    /// The client sends what had to wait for a reconnect in another order.
    ReplayOutOfOrder,
    /// The client applies the last id of a Drain or Goodbye to ids of earlier connections.
    DrainCoversOlderIds,
    /// The client keeps the id of a call that was dropped after it had been sent.
    IdLeaked,
}

/// The bug that a lane has, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted(#[cfg(feature = "testing")] Option<Bug>);

impl Planted {
    /// Whether it is this one.
    #[cfg(feature = "testing")]
    pub(super) fn is(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }

    /// No: there are none without the feature `testing`.
    #[cfg(not(feature = "testing"))]
    #[inline(always)]
    pub(super) fn is(self, _: Bug) -> bool {
        false
    }
}

#[cfg(feature = "testing")]
impl From<Bug> for Planted {
    fn from(bug: Bug) -> Self {
        Self(Some(bug))
    }
}

#[cfg(feature = "testing")]
impl Bug {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::AckBeforeApply,
        Self::ResolveWithoutRefusal,
        Self::NoFence,
        Self::ForgottenFloor,
        Self::DoubleSettle,
        Self::LostHandlerTimer,
        Self::PermitLeaked,
        Self::EvictedAnswer,
        Self::CancelOnLoss,
        Self::RefusalBeforeLookup,
        Self::ItemWithoutCredit,
        Self::ItemLost,
        Self::DrainNamesTooLow,
        Self::FloorOverOpenIds,
        Self::LostTimer,
        Self::LostWakeup,
        Self::WrittenIsNotDelivered,
        Self::WholeFrameIsCut,
        Self::WrongIncarnation,
        Self::ParkNotRepeated,
        Self::ReplayOutOfOrder,
        Self::DrainCoversOlderIds,
        Self::IdLeaked,
    ];
}
