//! What one run of the model explores: its bounds, its freedoms, and the defect that is planted in it.
//!
//! Never behaviour: a bound or a switch is read by the transitions, it does nothing itself.
//!
//! Built by the tests in `mod.rs`, read by `client`, `server` and `model`.

use super::state::Id;

/// Bounds and freedoms of one exploration. Everything that is not switched on cannot happen.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// How many calls the client makes; their ids are 1 to this.
    pub(super) calls: Id,
    /// Ids from the floor on that the client lets be in flight.
    pub(super) client_window: Id,
    /// Ids from the floor on that the server takes. Smaller than the client's where the refusal itself is explored.
    pub(super) server_window: Id,
    /// Connections that may be lost while both sides live.
    pub(super) cuts: u8,
    /// Server processes that may die; the next one starts with an empty memory.
    pub(super) crashes: u8,
    /// Times that an idle lane may be forgotten by a server that goes on.
    pub(super) retentions: u8,
    /// Hellos that may be refused for a reason other than their epoch.
    pub(super) refusals: u8,
    /// Requests that may be refused because the server has no permit left.
    pub(super) overloads: u8,
    /// The server may start to drain.
    pub(super) drains: bool,
    /// A caller's deadline may pass; it is then told `Unknown` and keeps its doubt.
    pub(super) deadlines: bool,
    /// A caller may drop its doubt.
    pub(super) drops: bool,
    /// A caller may give up before its frame is claimed.
    pub(super) voids: bool,
    /// An id that holds the floor back may be parked.
    pub(super) parks: bool,
    /// An open id may be repeated instead of resolved.
    pub(super) repeats: bool,
    /// Pings may carry a risen floor between requests.
    pub(super) pings: bool,
    /// Frames may follow every Hello at once, and not only the lane's first: Park first, then new requests.
    pub(super) eager: bool,
    /// A handler may say no.
    pub(super) rejects: bool,
    /// A handler may panic, before or after it has applied.
    pub(super) panics: bool,
    /// A request that was taken may expire before its handler is polled.
    pub(super) expiries: bool,
    /// The planted defect.
    pub(super) bug: Bug,
    /// Names of the `sometimes` properties that this run must show to be reachable.
    pub(super) reaches: &'static [&'static str],
}

impl Config {
    /// One call, no faults, no defect.
    pub(super) const QUIET: Self = Self {
        calls: 1,
        client_window: 3,
        server_window: 3,
        cuts: 0,
        crashes: 0,
        retentions: 0,
        refusals: 0,
        overloads: 0,
        drains: false,
        deadlines: false,
        drops: false,
        voids: false,
        parks: false,
        repeats: false,
        pings: false,
        eager: false,
        rejects: false,
        panics: false,
        expiries: false,
        bug: Bug::None,
        reaches: &[],
    };
}

/// A rule that is broken on purpose, so that a test can show that the checker would have noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The rules as they stand.
    None,
    /// Requests that an old connection has buffered are still taken after a higher epoch was accepted.
    NoFence,
    /// *Never seen* is answered and the id stays usable.
    ResolveWithoutBurn,
    /// A full window forgets its oldest answer instead of refusing the new request.
    Evicts,
    /// A frame that was written is reported as `NotDelivered` when its deadline passes.
    WrittenIsNotDelivered,
    /// Open ids are repeated although the Welcome named another memory.
    RepeatsBlindly,
    /// The floor passes an id in doubt that was not parked.
    FloorPassesOpenId,
    /// As above, and the server answers *never seen* for ids below its floor.
    BelowFloorIsNeverSeen,
    /// The Park list is not sent again after a reconnect.
    ParkNotRepeated,
    /// Welcome says only whether a memory of the lane existed, not which one.
    ResumedIsBare,
    /// A lane may be forgotten while an older connection's Hello is still unread.
    LateHelloAfterRetention,
    /// A negative answer buffered on an abandoned connection is still believed.
    StaleNack,
    /// A second copy of an id is sent on the connection that carries the first.
    SecondCopyOnOneConnection,
    /// Voiding a repeat is taken as proof for all copies.
    VoidedRepeatIsNotDelivered,
    /// The server refuses before it has looked the id up.
    RefusesBeforeLookup,
    /// Drain carries the last id of its connection, and the client applies it to every open id.
    DrainCoversOlderIds,
    /// A refused Hello is taken as an answer to every open id.
    HelloRefusalCoversOlderIds,
    /// A Resolve that finds the handler running leaves its answer to the old connection.
    RunningNotReattached,
    /// An id beyond the window is answered *never seen* and not burned, for want of a slot.
    NoBurnBeyondWindow,
    /// The floor is stamped when a frame is claimed, and Park queues behind the requests.
    FloorStampedAtClaim,
}
