//! The lane as a stateright model: which actions are possible in a world, and the world after each.
//!
//! Never a rule of the protocol: those are in `client` and `server`. Every action listed changes the world, so that a
//! world without actions is one in which nothing will ever happen again.
//!
//! Bounded by `config`, judged by `properties`, explored by the tests.

use stateright::{Model, Property};

use super::config::{Bug, Config};
use super::state::{Answer, Cause, Epoch, Id, Link, Outcome, Refusal, ServerEnd, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Issue(Id),
    Void(Id),
    Claim,
    Write,
    DeadlinePasses(Id),
    DropDoubt(Id),
    Park(Id),
    Repeat(Id),
    Resolve(Id),
    Ping,
    Connect,
    ClientCloses,
    ClientReads(Epoch),
    ServerAccepts(Epoch),
    ServerRefusesHello(Epoch),
    ServerReads(Epoch),
    ServerIsOverloaded(Epoch),
    ServerCloses(Epoch),
    HandlerEnds { id: Id, answer: Answer, applies: bool },
    ServerDrains,
    ServerCrashes,
    ServerForgetsLane,
}

/// One lane under one configuration.
#[derive(Clone, Debug)]
pub(super) struct LaneModel {
    pub(super) config: Config,
}

impl Model for LaneModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::default()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.call_actions(world, actions);
        self.link_actions(world, actions);
        self.server_actions(world, actions);
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        self.perform(&mut world, action);
        self.settle_when_all_ended(&mut world);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::properties::of(&self.config)
    }

    /// Only planted defects can fill a pipe without end.
    fn within_boundary(&self, world: &World) -> bool {
        self.config.bug == Bug::None || world.conns.iter().all(|conn| conn.up.len() <= 4)
    }
}

impl LaneModel {
    fn call_actions(&self, world: &World, actions: &mut Vec<Action>) {
        let config = &self.config;
        actions.extend(world.next_call(config).map(Action::Issue));
        for id in (1..=config.calls).filter(|&id| world.is_open(id)) {
            let call = world.call(id);
            let claimed = call.first_epoch > 0;
            if config.voids && world.is_queued(id) {
                actions.push(Action::Void(id));
            }
            if config.deadlines && claimed && !call.doubted {
                actions.push(Action::DeadlinePasses(id));
            }
            if config.drops && call.doubted {
                actions.push(Action::DropDoubt(id));
            }
            let written = claimed && !world.is_unwritten(id);
            if config.parks
                && written
                && !call.parked
                && world.client_floor(config) == id
                && world.is_window_full(config)
            {
                actions.push(Action::Park(id));
            }
            let Some(link) = world.client.link.filter(|link| link.welcomed) else { continue };
            let second_copy = config.bug == Bug::SecondCopyOnOneConnection && call.doubted;
            if config.repeats && written && !link.drained && (call.last_epoch < link.epoch || second_copy) {
                actions.push(Action::Repeat(id));
            }
            if claimed && call.asked_epoch < link.epoch && (call.first_epoch < link.epoch || call.doubted) {
                actions.push(Action::Resolve(id));
            }
        }
    }

    fn link_actions(&self, world: &World, actions: &mut Vec<Action>) {
        let config = &self.config;
        let ready = world.ready_link(config);
        if ready.is_some() && config.pings && world.client_floor(config) > world.client.pinged.max(1) {
            actions.push(Action::Ping);
        }
        if ready.is_some_and(|link| !link.drained) && world.client.writing.is_none() && !world.client.queue.is_empty() {
            actions.push(Action::Claim);
        }
        if world.client.writing.is_some() {
            actions.push(Action::Write);
        }
        match world.client.link {
            None if !world.all_ended(config) => actions.push(Action::Connect),
            Some(Link { epoch, .. })
                if world.conn(epoch).server == ServerEnd::Closed || world.spent.cuts < config.cuts =>
            {
                actions.push(Action::ClientCloses);
            }
            _ => {}
        }
        let readable = (1..=world.client.epoch).filter(|&epoch| !world.conn(epoch).down.is_empty());
        actions.extend(readable.map(Action::ClientReads));
    }

    fn server_actions(&self, world: &World, actions: &mut Vec<Action>) {
        let config = &self.config;
        for epoch in 1..=world.client.epoch {
            let conn = world.conn(epoch);
            match conn.server {
                ServerEnd::Closed => continue,
                ServerEnd::Pending => {
                    actions.push(Action::ServerAccepts(epoch));
                    if world.spent.refusals < config.refusals {
                        actions.push(Action::ServerRefusesHello(epoch));
                    }
                }
                ServerEnd::Live if !conn.up.is_empty() => {
                    actions.push(Action::ServerReads(epoch));
                    if world.spent.overloads < config.overloads && world.refusable(config, epoch) {
                        actions.push(Action::ServerIsOverloaded(epoch));
                    }
                }
                ServerEnd::Live => {}
            }
            if !conn.client_open || world.spent.cuts < config.cuts {
                actions.push(Action::ServerCloses(epoch));
            }
        }
        for id in (1..=config.calls).filter(|&id| world.handler_runs(id)) {
            self.handler_actions(id, actions);
        }
        if config.drains && !world.server.draining && world.server.lane.is_some() {
            actions.push(Action::ServerDrains);
        }
        if world.spent.crashes < config.crashes && world.server.lane.is_some() {
            actions.push(Action::ServerCrashes);
        }
        if world.spent.retentions < config.retentions && world.is_forgettable(config) {
            actions.push(Action::ServerForgetsLane);
        }
    }

    fn handler_actions(&self, id: Id, actions: &mut Vec<Action>) {
        let config = &self.config;
        let mut ends = |allowed: bool, answer: Answer, applies: bool| {
            if allowed {
                actions.push(Action::HandlerEnds { id, answer, applies });
            }
        };
        ends(true, Answer::Applied, true);
        ends(config.rejects, Answer::Rejected, false);
        ends(config.panics, Answer::Panicked, true);
        ends(config.panics, Answer::Panicked, false);
        ends(config.expiries, Answer::Refused(Refusal::Expired), false);
    }

    fn perform(&self, world: &mut World, action: Action) {
        let config = &self.config;
        let epoch = world.client.epoch;
        match action {
            Action::Issue(id) => world.issue(config, id),
            Action::Void(id) => world.void(config, id),
            Action::Claim => world.claim(config, epoch),
            Action::Write => world.write(epoch),
            Action::DeadlinePasses(id) => world.deadline_passes(config, id),
            Action::DropDoubt(id) => world.end(id, Outcome::Unknown(Cause::Dropped)),
            Action::Park(id) => world.park(config, id),
            Action::Repeat(id) => world.repeat(config, epoch, id),
            Action::Resolve(id) => world.resolve(epoch, id),
            Action::Ping => world.ping(config, epoch),
            Action::Connect => world.connect(config),
            Action::ClientCloses => {
                world.spent.cuts += u8::from(world.conn(epoch).server != ServerEnd::Closed);
                world.close_link(config, epoch);
            }
            Action::ClientReads(epoch) => world.client_reads(config, epoch),
            Action::ServerAccepts(epoch) => world.server_accepts(config, epoch),
            Action::ServerRefusesHello(epoch) => {
                world.spent.refusals += 1;
                world.server_refuses_hello(epoch);
            }
            Action::ServerReads(epoch) => world.server_reads(config, epoch),
            Action::ServerIsOverloaded(epoch) => {
                world.spent.overloads += 1;
                world.server_is_overloaded(epoch);
            }
            Action::ServerCloses(epoch) => {
                world.spent.cuts += u8::from(world.conn(epoch).client_open);
                world.close_server_end(epoch);
            }
            Action::HandlerEnds { id, answer, applies } => world.handler_ends(id, answer, applies),
            Action::ServerDrains => world.server_drains(),
            Action::ServerCrashes => {
                world.spent.crashes += 1;
                world.server_crashes();
            }
            Action::ServerForgetsLane => {
                world.spent.retentions += 1;
                world.forget_lane();
            }
        }
    }

    /// Once every caller has its last word, only what the server may still do matters: the client's side is made
    /// uniform, which merges many worlds into one. A frame that was claimed may still arrive.
    fn settle_when_all_ended(&self, world: &mut World) {
        if !world.all_ended(&self.config) {
            return;
        }
        if world.client.writing.is_some() {
            world.write(world.client.epoch);
        }
        world.client.link = None;
        for epoch in 1..=world.client.epoch {
            let conn = world.conn_mut(epoch);
            conn.client_open = false;
            conn.down.clear();
            world.notice_end(epoch);
        }
    }
}
