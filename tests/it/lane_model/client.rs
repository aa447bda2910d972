//! The client's half of the lane: what it may do, and what it may conclude.
//!
//! Never looks at the server or at the truth: it knows its calls, its link and the frames that it reads.
//!
//! Called by `model`; frames go to and come from the connections of `state`.

use super::config::{Bug, Config};
use super::state::{Answer, Call, Cause, Conn, Down, Epoch, Id, IdSet, Link, Outcome, Phase};
use super::state::{ServerEnd, Up, Why, World};

impl World {
    /// The call that is made next, if any is left.
    pub(super) fn next_call(&self, config: &Config) -> Option<Id> {
        (1..=config.calls).find(|&id| self.call(id).phase == Phase::Fresh)
    }

    pub(super) fn is_open(&self, id: Id) -> bool {
        self.call(id).phase == Phase::Open
    }

    pub(super) fn all_ended(&self, config: &Config) -> bool {
        (1..=config.calls).all(|id| matches!(self.call(id).phase, Phase::Ended(_)))
    }

    /// The lowest id that may still be repeated or resolved, parked ones aside.
    pub(super) fn client_floor(&self, config: &Config) -> Id {
        let holds = |call: &Call| {
            let passed = match config.bug {
                Bug::FloorPassesOpenId | Bug::BelowFloorIsNeverSeen => call.doubted,
                _ => call.parked,
            };
            call.phase == Phase::Fresh || (call.phase == Phase::Open && !passed)
        };
        (1..=config.calls).find(|&id| holds(self.call(id))).unwrap_or(config.calls + 1)
    }

    /// A call would be refused because an old one holds the floor back.
    pub(super) fn is_window_full(&self, config: &Config) -> bool {
        self.next_call(config).is_some_and(|id| id - self.client_floor(config) >= config.client_window)
    }

    /// Frames may leave: on a lane's first connection right behind the Hello, later after the Welcome.
    pub(super) fn ready_link(&self, config: &Config) -> Option<Link> {
        self.client.link.filter(|link| link.welcomed || link.epoch == 1 || config.eager)
    }

    pub(super) fn is_unwritten(&self, id: Id) -> bool {
        self.client.queue.iter().chain(&self.client.writing).any(|frame| is_request(frame, id))
    }

    pub(super) fn is_queued(&self, id: Id) -> bool {
        self.client.queue.iter().any(|frame| is_request(frame, id))
    }

    pub(super) fn issue(&mut self, config: &Config, id: Id) {
        if self.client.link.is_some_and(|link| link.drained) {
            self.end(id, Outcome::NotDelivered(Why::Drained));
        } else if self.is_window_full(config) {
            self.end(id, Outcome::NotDelivered(Why::WindowFull));
        } else {
            self.call_mut(id).phase = Phase::Open;
            let floor = self.client_floor(config);
            self.client.queue.push(Up::Request { id, floor });
        }
    }

    /// The caller gives up before the writer has claimed the frame.
    pub(super) fn void(&mut self, config: &Config, id: Id) {
        self.client.queue.retain(|frame| !is_request(frame, id));
        // Proof only for a first copy: a repeat that never left says nothing about the one that did.
        if self.call(id).first_epoch == 0 || config.bug == Bug::VoidedRepeatIsNotDelivered {
            self.end(id, Outcome::NotDelivered(Why::Voided));
        }
    }

    pub(super) fn claim(&mut self, config: &Config, epoch: Epoch) {
        let mut frame = self.client.queue.remove(0);
        if let Up::Request { id, floor } = &mut frame {
            if config.bug == Bug::FloorStampedAtClaim {
                *floor = self.client_floor(config);
            }
            let call = self.call_mut(*id);
            call.last_epoch = epoch;
            if call.first_epoch == 0 {
                call.first_epoch = epoch;
            }
        }
        self.client.writing = Some(frame);
    }

    pub(super) fn write(&mut self, epoch: Epoch) {
        if let Some(frame) = self.client.writing.take() {
            self.send(epoch, frame);
        }
    }

    pub(super) fn deadline_passes(&mut self, config: &Config, id: Id) {
        match config.bug {
            Bug::WrittenIsNotDelivered => self.end(id, Outcome::NotDelivered(Why::Deadline)),
            _ => self.call_mut(id).doubted = true,
        }
    }

    /// An old open id stops holding the floor back. The list goes ahead of every frame that carries a higher floor.
    pub(super) fn park(&mut self, config: &Config, id: Id) {
        self.call_mut(id).parked = true;
        if let Some(link) = self.ready_link(config) {
            let ids = self.parked_ids(config);
            match config.bug {
                Bug::FloorStampedAtClaim => self.client.queue.push(Up::Park { ids }),
                _ => self.send(link.epoch, Up::Park { ids }),
            }
        }
    }

    pub(super) fn repeat(&mut self, config: &Config, epoch: Epoch, id: Id) {
        self.call_mut(id).last_epoch = epoch;
        let floor = self.client_floor(config);
        self.client.queue.push(Up::Request { id, floor });
    }

    pub(super) fn resolve(&mut self, epoch: Epoch, id: Id) {
        self.call_mut(id).asked_epoch = epoch;
        self.send(epoch, Up::Resolve { id });
    }

    pub(super) fn ping(&mut self, config: &Config, epoch: Epoch) {
        let floor = self.client_floor(config);
        self.client.pinged = floor;
        self.send(epoch, Up::Ping { floor });
    }

    pub(super) fn connect(&mut self, config: &Config) {
        self.client.epoch += 1;
        self.client.link = Some(Link { epoch: self.client.epoch, welcomed: false, drained: false });
        self.conns.push(Conn { client_open: true, server: ServerEnd::Pending, up: Vec::new(), down: Vec::new() });
        if config.eager {
            self.send_park_list(config, self.client.epoch);
        }
    }

    /// The client gives its connection up: it noticed a loss, or read the end.
    pub(super) fn close_link(&mut self, config: &Config, epoch: Epoch) {
        self.client.link = None;
        if let Some(Up::Request { id, .. }) = self.client.writing.take()
            && self.is_open(id)
            && self.call(id).first_epoch == epoch
        {
            self.end(id, Outcome::NotDelivered(Why::Unwritten));
        }
        // First copies wait for the next connection. Repeats and control frames are decided anew after its Welcome.
        let calls = self.client.calls;
        self.client
            .queue
            .retain(|frame| matches!(frame, Up::Request { id, .. } if calls[usize::from(*id) - 1].first_epoch == 0));
        let conn = self.conn_mut(epoch);
        conn.client_open = false;
        if config.bug != Bug::StaleNack {
            conn.down.clear();
        }
        self.notice_end(epoch);
    }

    pub(super) fn client_reads(&mut self, config: &Config, epoch: Epoch) {
        let frame = self.conn_mut(epoch).down.remove(0);
        match frame {
            Down::Answer { id, answer } => self.settle(id, answer),
            // Only an answer can be late.
            _ if self.client.link.is_none_or(|link| link.epoch != epoch) => {}
            Down::Welcome { born } => self.welcomed(config, epoch, born),
            Down::HelloRefused => {
                let everything = config.bug == Bug::HelloRefusalCoversOlderIds;
                self.end_each(config, Outcome::NotDelivered(Why::HelloRefused), |_, call| {
                    call.first_epoch == epoch || everything
                });
                self.close_link(config, epoch);
            }
            Down::Drain { last } => {
                self.client.link = Some(Link { epoch, welcomed: true, drained: true });
                let everything = config.bug == Bug::DrainCoversOlderIds;
                self.end_each(config, Outcome::NotDelivered(Why::Drained), |id, call| {
                    call.first_epoch == 0 || (id > last && (everything || call.first_epoch == epoch))
                });
            }
        }
    }

    fn welcomed(&mut self, config: &Config, epoch: Epoch, born: Epoch) {
        self.client.link = Some(Link { epoch, welcomed: true, drained: false });
        let known_since = match config.bug {
            Bug::RepeatsBlindly => 0,
            Bug::ResumedIsBare if born < epoch => 0,
            _ => born,
        };
        self.end_each(config, Outcome::Unknown(Cause::MemoryLost), |_, call| {
            0 < call.first_epoch && call.first_epoch < known_since
        });
        if !config.eager {
            self.send_park_list(config, epoch);
        }
    }

    /// The first frame of every connection after the lane's first: the server may have lost the list with the last one.
    fn send_park_list(&mut self, config: &Config, epoch: Epoch) {
        let ids = self.parked_ids(config);
        if !ids.is_empty() && config.bug != Bug::ParkNotRepeated {
            self.send(epoch, Up::Park { ids });
        }
    }

    fn settle(&mut self, id: Id, answer: Answer) {
        if self.is_open(id) {
            self.end(
                id,
                match answer {
                    Answer::Applied => Outcome::Ack,
                    Answer::Rejected => Outcome::Rejected,
                    Answer::Panicked => Outcome::Unknown(Cause::HandlerPanicked),
                    Answer::Forgotten => Outcome::Unknown(Cause::FloorPassed),
                    Answer::NeverSeen => Outcome::NotDelivered(Why::NeverSeen),
                    Answer::Refused(refusal) => Outcome::NotDelivered(Why::Refused(refusal)),
                },
            );
        }
    }

    /// The last word to the caller. A copy that is still unclaimed is voided with it.
    pub(super) fn end(&mut self, id: Id, outcome: Outcome) {
        self.client.queue.retain(|frame| !is_request(frame, id));
        *self.call_mut(id) = Call { phase: Phase::Ended(outcome), ..Call::default() };
    }

    fn end_each(&mut self, config: &Config, outcome: Outcome, ends: impl Fn(Id, &Call) -> bool) {
        for id in 1..=config.calls {
            if self.is_open(id) && ends(id, self.call(id)) {
                self.end(id, outcome);
            }
        }
    }

    pub(super) fn parked_ids(&self, config: &Config) -> IdSet {
        let mut ids = IdSet::default();
        (1..=config.calls).filter(|&id| self.is_open(id) && self.call(id).parked).for_each(|id| ids.insert(id));
        ids
    }

    /// Into the pipe, or into nothing when the other end is closed already.
    fn send(&mut self, epoch: Epoch, frame: Up) {
        let conn = self.conn_mut(epoch);
        if conn.server != ServerEnd::Closed {
            conn.up.push(frame);
        }
    }
}

fn is_request(frame: &Up, wanted: Id) -> bool {
    matches!(frame, Up::Request { id, .. } if *id == wanted)
}
