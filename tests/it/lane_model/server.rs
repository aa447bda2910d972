//! The server's half of the lane: fence, intake, memory, answers.
//!
//! Never looks at the client's calls. It writes down the truth where a handler acts and reads it nowhere.
//!
//! Called by `model`; frames come from and go to the connections of `state`.

use super::config::{Bug, Config};
use super::state::{Answer, Down, Entry, Epoch, Id, IdSet, Lane, Refusal, ServerEnd, Up, World};

impl World {
    /// Reads a Hello: a higher epoch ends the intake of all lower ones in the same step.
    pub(super) fn server_accepts(&mut self, config: &Config, epoch: Epoch) {
        match &mut self.server.lane {
            Some(lane) if epoch <= lane.epoch => return self.close_server_end(epoch),
            Some(lane) => {
                lane.epoch = epoch;
                if config.bug == Bug::DrainCoversOlderIds {
                    lane.last = 0;
                }
            }
            none => {
                *none = Some(Lane {
                    born: epoch,
                    epoch,
                    floor: 1,
                    last: 0,
                    parked: IdSet::default(),
                    entries: Default::default(),
                });
            }
        }
        self.conn_mut(epoch).server = ServerEnd::Live;
        if config.bug != Bug::NoFence {
            for lower in 1..epoch {
                if self.conn(lower).server == ServerEnd::Live {
                    self.close_server_end(lower);
                }
            }
        }
        if let Some(Lane { born, last, .. }) = self.server.lane {
            self.tell(epoch, Down::Welcome { born });
            if self.server.draining {
                self.tell(epoch, Down::Drain { last });
            }
        }
        self.notice_end(epoch);
    }

    /// Refuses a Hello for a reason of its own; what was sent behind it is dropped unread.
    pub(super) fn server_refuses_hello(&mut self, epoch: Epoch) {
        self.close_server_end(epoch);
        self.tell(epoch, Down::HelloRefused);
    }

    pub(super) fn server_reads(&mut self, config: &Config, epoch: Epoch) {
        let frame = self.conn_mut(epoch).up.remove(0);
        let Some(lane) = &mut self.server.lane else { return };
        let answer = match frame {
            Up::Request { id, floor } => {
                raise_floor(lane, floor);
                intake(config, lane, self.server.draining, epoch, id).map(|answer| (id, answer))
            }
            Up::Resolve { id } => resolve(config, lane, epoch, id).map(|answer| (id, answer)),
            Up::Park { ids } => {
                park(config, lane, ids);
                None
            }
            Up::Ping { floor } => {
                raise_floor(lane, floor);
                None
            }
        };
        if let Some((id, answer)) = answer {
            self.tell(epoch, Down::Answer { id, answer });
        }
        self.notice_end(epoch);
    }

    /// The request at the head of the pipe, if having no permit left may refuse it.
    pub(super) fn refusable(&self, config: &Config, epoch: Epoch) -> bool {
        let (Some(Up::Request { id, .. }), Some(lane)) = (self.conn(epoch).up.first(), &self.server.lane) else {
            return false;
        };
        lane.entry(*id) == Entry::Vacant || config.bug == Bug::RefusesBeforeLookup
    }

    /// Reads a request and has no permit for it. Nothing is remembered.
    pub(super) fn server_is_overloaded(&mut self, epoch: Epoch) {
        let frame = self.conn_mut(epoch).up.remove(0);
        if let (Up::Request { id, floor }, Some(lane)) = (frame, &mut self.server.lane) {
            raise_floor(lane, floor);
            self.tell(epoch, Down::Answer { id, answer: Answer::Refused(Refusal::Overloaded) });
        }
        self.notice_end(epoch);
    }

    pub(super) fn handler_runs(&self, id: Id) -> bool {
        let entry = self.server.lane.as_ref().map(|lane| lane.entry(id));
        matches!(entry, Some(Entry::Running { .. } | Entry::Orphan))
    }

    /// The handler ends: its effect, its kept answer and the answer's departure are one step.
    pub(super) fn handler_ends(&mut self, id: Id, answer: Answer, applies: bool) {
        let truth = self.truth_mut(id);
        truth.applied_now += u8::from(applies);
        truth.first = truth.first.or(Some(answer));
        let Some(lane) = &mut self.server.lane else { return };
        let entry = lane.entry_mut(id);
        match *entry {
            Entry::Running { attached } => {
                *entry = Entry::Answered(answer);
                if self.conn(attached).server == ServerEnd::Live {
                    self.tell(attached, Down::Answer { id, answer });
                }
            }
            _ => *entry = Entry::Gone,
        }
    }

    /// Stops taking requests and says which was the last, in one step.
    pub(super) fn server_drains(&mut self) {
        self.server.draining = true;
        if let Some(Lane { epoch, last, .. }) = self.server.lane
            && self.conn(epoch).server == ServerEnd::Live
        {
            self.tell(epoch, Down::Drain { last });
        }
    }

    pub(super) fn server_crashes(&mut self) {
        self.forget_lane();
        self.server.draining = false;
        for epoch in 1..=self.client.epoch {
            self.close_server_end(epoch);
        }
    }

    /// A lane that nobody uses may be forgotten, unless a Hello that it should refuse is still unread.
    pub(super) fn is_forgettable(&self, config: &Config) -> bool {
        let Some(lane) = &self.server.lane else { return false };
        let idle = self.conns.iter().all(|conn| conn.server != ServerEnd::Live)
            && (1..=config.calls).all(|id| !self.handler_runs(id));
        let late_hello = (1..lane.epoch).any(|epoch| self.conn(epoch).server == ServerEnd::Pending);
        idle && (!late_hello || config.bug == Bug::LateHelloAfterRetention)
    }

    /// The memory ends; what it did stays done.
    pub(super) fn forget_lane(&mut self) {
        self.server.lane = None;
        for truth in &mut self.truth {
            truth.applied_before += truth.applied_now;
            truth.applied_now = 0;
            truth.first = None;
        }
    }

    pub(super) fn close_server_end(&mut self, epoch: Epoch) {
        let conn = self.conn_mut(epoch);
        conn.server = ServerEnd::Closed;
        conn.up.clear();
    }

    /// The server has read everything that a closed client had written.
    pub(super) fn notice_end(&mut self, epoch: Epoch) {
        let conn = self.conn(epoch);
        if !conn.client_open && conn.up.is_empty() && conn.server == ServerEnd::Live {
            self.close_server_end(epoch);
        }
    }

    fn tell(&mut self, epoch: Epoch, frame: Down) {
        let conn = self.conn_mut(epoch);
        if conn.client_open {
            conn.down.push(frame);
        }
    }
}

/// Takes a request up, or says at once what is known. The id is looked up before anything may refuse it.
fn intake(config: &Config, lane: &mut Lane, draining: bool, epoch: Epoch, id: Id) -> Option<Answer> {
    if let Some(known) = look_up(config, lane, epoch, id) {
        return known;
    }
    if draining {
        return Some(Answer::Refused(Refusal::Draining));
    }
    if id >= lane.floor + config.server_window && !evicts(config, lane) {
        return Some(Answer::Refused(Refusal::WindowFull));
    }
    lane.last = lane.last.max(id);
    *lane.entry_mut(id) = Entry::Running { attached: epoch };
    None
}

/// Answers from memory. *Never seen* burns the id: a copy that arrives later is refused.
fn resolve(config: &Config, lane: &mut Lane, epoch: Epoch, id: Id) -> Option<Answer> {
    if config.bug == Bug::RunningNotReattached && matches!(lane.entry(id), Entry::Running { .. }) {
        return None;
    }
    look_up(config, lane, epoch, id).unwrap_or_else(|| {
        let beyond = id >= lane.floor + config.server_window;
        if config.bug != Bug::ResolveWithoutBurn && !(beyond && config.bug == Bug::NoBurnBeyondWindow) {
            *lane.entry_mut(id) = Entry::Answered(Answer::NeverSeen);
        }
        Some(Answer::NeverSeen)
    })
}

/// `None`: the memory knows nothing of this id. `Some(None)`: it runs, and its answer will go to this epoch.
fn look_up(config: &Config, lane: &mut Lane, epoch: Epoch, id: Id) -> Option<Option<Answer>> {
    match lane.entry(id) {
        Entry::Vacant => None,
        Entry::Running { .. } => {
            *lane.entry_mut(id) = Entry::Running { attached: epoch };
            Some(None)
        }
        Entry::Answered(answer) => Some(Some(answer)),
        Entry::Orphan | Entry::Gone if config.bug == Bug::BelowFloorIsNeverSeen => Some(Some(Answer::NeverSeen)),
        Entry::Orphan | Entry::Gone => Some(Some(Answer::Forgotten)),
    }
}

fn raise_floor(lane: &mut Lane, floor: Id) {
    for id in lane.floor..floor {
        if !lane.parked.contains(id) {
            forget(lane, id);
        }
    }
    lane.floor = lane.floor.max(floor);
}

/// Replaces the list. An id that it names and that was never seen is burned; one that it no longer names, and that
/// the floor has passed, is let go.
fn park(config: &Config, lane: &mut Lane, ids: IdSet) {
    let before = std::mem::replace(&mut lane.parked, ids);
    for id in 1..=config.calls {
        if ids.contains(id) && lane.entry(id) == Entry::Vacant {
            *lane.entry_mut(id) = Entry::Answered(Answer::NeverSeen);
        } else if before.contains(id) && !ids.contains(id) && id < lane.floor {
            forget(lane, id);
        }
    }
}

fn forget(lane: &mut Lane, id: Id) {
    let entry = lane.entry_mut(id);
    *entry = match *entry {
        Entry::Running { .. } | Entry::Orphan => Entry::Orphan,
        _ => Entry::Gone,
    };
}

/// The planted defect that makes room by forgetting an answer.
fn evicts(config: &Config, lane: &mut Lane) -> bool {
    let answered = lane.entries.iter_mut().find(|entry| matches!(entry, Entry::Answered(_)));
    match answered {
        Some(entry) if config.bug == Bug::Evicts => {
            *entry = Entry::Vacant;
            true
        }
        _ => false,
    }
}
