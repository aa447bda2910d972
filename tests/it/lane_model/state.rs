//! The world of the model: one lane's client, its connections, one server, and what an all-knowing observer noted.
//!
//! Never a decision: only data, and the small questions that data can answer about itself.
//!
//! Changed by `client` and `server`, judged by `properties`.

/// A request id. Call number `n` has id `n`: an id is never used for a second call.
pub(super) type Id = u8;
/// The number of a connection of the lane, from 1. Index `epoch - 1` of [`World::conns`].
pub(super) type Epoch = u8;

/// LIMIT: three calls show every order of "before, at and after the floor"; a fourth adds states and no case.
pub(super) const CALLS_MAX: usize = 3;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) client: Client,
    pub(super) conns: Vec<Conn>,
    pub(super) server: Server,
    /// What really happened to each id, which no side of the protocol may look at.
    pub(super) truth: [Truth; CALLS_MAX],
    pub(super) spent: Spent,
}

impl World {
    pub(super) fn conn(&self, epoch: Epoch) -> &Conn {
        &self.conns[usize::from(epoch) - 1]
    }

    pub(super) fn conn_mut(&mut self, epoch: Epoch) -> &mut Conn {
        &mut self.conns[usize::from(epoch) - 1]
    }

    pub(super) fn call(&self, id: Id) -> &Call {
        &self.client.calls[usize::from(id) - 1]
    }

    pub(super) fn call_mut(&mut self, id: Id) -> &mut Call {
        &mut self.client.calls[usize::from(id) - 1]
    }

    pub(super) fn truth(&self, id: Id) -> &Truth {
        &self.truth[usize::from(id) - 1]
    }

    pub(super) fn truth_mut(&mut self, id: Id) -> &mut Truth {
        &mut self.truth[usize::from(id) - 1]
    }
}

/// How much of each bounded fault has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Spent {
    pub(super) cuts: u8,
    pub(super) crashes: u8,
    pub(super) retentions: u8,
    pub(super) refusals: u8,
    pub(super) overloads: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Truth {
    /// Effects in the server memory that exists now.
    pub(super) applied_now: u8,
    /// Effects in memories that are gone.
    pub(super) applied_before: u8,
    /// The first answer of a handler in the memory that exists now.
    pub(super) first: Option<Answer>,
}

impl Truth {
    pub(super) fn applied(&self) -> u8 {
        self.applied_now + self.applied_before
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) calls: [Call; CALLS_MAX],
    /// The highest epoch dialed.
    pub(super) epoch: Epoch,
    pub(super) link: Option<Link>,
    /// Request frames in the out-buffer, unclaimed. Control frames overtake them and are never kept here.
    pub(super) queue: Vec<Up>,
    /// The highest floor that a Ping has carried: one Ping per floor is enough to explore.
    pub(super) pinged: Id,
    /// The frame that the writer has claimed and the kernel has not taken whole.
    pub(super) writing: Option<Up>,
}

/// The connection that the client believes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Link {
    pub(super) epoch: Epoch,
    pub(super) welcomed: bool,
    /// A Drain was read: nothing new is sent here.
    pub(super) drained: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Call {
    pub(super) phase: Phase,
    /// The caller was told `Unknown` and may still ask.
    pub(super) doubted: bool,
    /// The epoch on which the first copy of the frame was claimed; 0: none ever was.
    pub(super) first_epoch: Epoch,
    /// The epoch on which the latest copy was appended or claimed.
    pub(super) last_epoch: Epoch,
    /// The epoch on which it was last asked about.
    pub(super) asked_epoch: Epoch,
    pub(super) parked: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    #[default]
    Fresh,
    Open,
    /// The last word to the caller.
    Ended(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Ack,
    Rejected,
    NotDelivered(Why),
    Unknown(Cause),
}

/// What proves that no handler saw the request and none will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Why {
    WindowFull,
    Voided,
    /// Claimed, and the connection closed for good before the frame's end was written.
    Unwritten,
    /// Only a planted defect says this.
    Deadline,
    HelloRefused,
    Drained,
    NeverSeen,
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    HandlerPanicked,
    /// The caller no longer wants to know.
    Dropped,
    /// The Welcome named a memory that is younger than the request.
    MemoryLost,
    /// A memory that did see the request has let it go: the rules forbid it.
    FloorPassed,
}

/// Client to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Up {
    Request { id: Id, floor: Id },
    Resolve { id: Id },
    Park { ids: IdSet },
    Ping { floor: Id },
}

/// Server to client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Down {
    /// `born` is the epoch whose Hello created the memory that answers.
    Welcome {
        born: Epoch,
    },
    HelloRefused,
    Answer {
        id: Id,
        answer: Answer,
    },
    Drain {
        last: Id,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Applied,
    Rejected,
    Panicked,
    NeverSeen,
    Forgotten,
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Refusal {
    WindowFull,
    Overloaded,
    Draining,
    Expired,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Conn {
    /// The client still reads and writes here.
    pub(super) client_open: bool,
    pub(super) server: ServerEnd,
    /// Complete frames on their way. The Hello is not among them: it is unread while the end is `Pending`.
    pub(super) up: Vec<Up>,
    pub(super) down: Vec<Down>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ServerEnd {
    /// The Hello has not been read.
    Pending,
    Live,
    Closed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub(super) lane: Option<Lane>,
    pub(super) draining: bool,
}

/// What one server remembers of the lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    pub(super) born: Epoch,
    pub(super) epoch: Epoch,
    pub(super) floor: Id,
    /// The highest id ever taken by this memory.
    pub(super) last: Id,
    pub(super) parked: IdSet,
    pub(super) entries: [Entry; CALLS_MAX],
}

impl Lane {
    pub(super) fn entry(&self, id: Id) -> Entry {
        self.entries[usize::from(id) - 1]
    }

    pub(super) fn entry_mut(&mut self, id: Id) -> &mut Entry {
        &mut self.entries[usize::from(id) - 1]
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    /// Not seen yet.
    #[default]
    Vacant,
    /// Taken; the answer will go to the connection of this epoch.
    Running { attached: Epoch },
    /// The handler has ended, with an answer that is kept.
    Answered(Answer),
    /// The floor passed while the handler runs: it ends unheard.
    Orphan,
    /// The floor passed: no copy is taken any more, nothing is remembered.
    Gone,
}

/// A set of ids as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct IdSet(u8);

impl IdSet {
    pub(super) fn contains(self, id: Id) -> bool {
        self.0 & (1 << id) != 0
    }

    pub(super) fn insert(&mut self, id: Id) {
        self.0 |= 1 << id;
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}
