//! One server: what listens, its lanes, and a driver for each connection.
//!
//! Keeps lanes and forgets them as `rpc`'s own does. A crash forgets all that is here; the ledger does not.
//!
//! Stepped by `world`; speaks to `client` through `net`, by a `driver` for each connection.

use std::collections::BTreeMap;
use std::task::Waker;

use rpc::session::client::{ClientLane, Offer};
use rpc::session::server::ServerLane;
use rpc::wire::header::GoodbyeCode;
use rpc::wire::hello::{Hello, MethodClaim};
use rpc::{Incarnation, PeerId};

use super::callers::{self, Call, check_in_time};
use super::driver::{Driver, End};
use super::env::{Env, micros, wake_all};
use super::knobs::SERVED;
use super::memory::Memory;
use super::net::Net;

type LaneKey = (PeerId, Incarnation, u32);

/// What a server process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none until then.
    Down {
        until: u64,
    },
    Serving,
    Draining {
        until: u64,
    },
    Closing {
        until: u64,
    },
}

/// The server, through all its lives.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) phase: Phase,
    identity: (PeerId, Incarnation),
    lanes: BTreeMap<LaneKey, usize>,
    pub(super) known: Vec<Known>,
    pub(super) drivers: Vec<Driver>,
}

/// A client, as its server knows it: what it asked, and what it is asked.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) memory: Memory,
    /// The lane on which this server calls its client, and who calls.
    pub(super) caller: ClientLane,
    pub(super) calls: Vec<Call>,
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Down { until: 0 },
            identity: (PeerId([0; 16]), Incarnation(0)),
            lanes: BTreeMap::new(),
            known: Vec::new(),
            drivers: Vec::new(),
        }
    }

    /// A new life.
    pub(super) fn start(&mut self, env: &mut Env, net: &mut Net) {
        let mut peer = [0; 16];
        peer[..8].copy_from_slice(&env.random.bits().to_le_bytes());
        self.identity = (PeerId(peer), Incarnation(env.random.bits()));
        self.phase = Phase::Serving;
        net.listens = true;
        env.ledger.server_lives += 1;
        if env.ledger.server_lives > 1 {
            env.coverage.hit("server: restart");
        }
        env.trace(|| "server: started".to_owned());
    }

    /// All that it knew is gone. Clients notice at `notice`.
    pub(super) fn crash(&mut self, env: &mut Env, net: &mut Net, notice: u64, until: u64) {
        env.trace(|| "server: gone".to_owned());
        self.phase = Phase::Down { until };
        net.listens = false;
        for conn in self.drivers.drain(..).map(|driver| driver.conn).chain(net.backlog.drain(..).collect::<Vec<_>>()) {
            net.close_server(conn, notice);
        }
        self.lanes.clear();
        for known in &mut self.known {
            // Who called from here died with it.
            known.calls.clear();
            known.memory.end(env);
        }
    }

    /// No further requests; then goodbye; then gone.
    pub(super) fn drain(&mut self, env: &mut Env, until: u64) {
        env.trace(|| "server: drains".to_owned());
        self.phase = Phase::Draining { until };
        self.drain_lanes();
    }

    /// The next phase, if its time has come.
    pub(super) fn change_phase(&mut self, env: &mut Env, net: &mut Net) {
        match self.phase {
            Phase::Down { until } if env.now >= until => self.start(env, net),
            Phase::Draining { until } if env.now >= until => {
                self.phase = Phase::Closing { until: env.now + 2_000 };
                self.drain_lanes();
            }
            Phase::Closing { until } if env.now >= until => self.crash(env, net, env.now, env.now + 500),
            _ => {}
        }
    }

    fn drain_lanes(&mut self) {
        for known in self.lanes.values() {
            self.known[*known].memory.lane.drain();
        }
    }

    /// When a timer of it goes off.
    pub(super) fn due(&self, env: &Env) -> Option<u64> {
        let phase = match self.phase {
            Phase::Serving => None,
            Phase::Down { until } | Phase::Draining { until } | Phase::Closing { until } => Some(until),
        };
        let lanes = self.known.iter().filter(|known| known.memory.live).flat_map(|known| {
            [known.memory.due(env), known.caller.poll_deadline().map(|at| env.micros(at))].into_iter().flatten()
        });
        let hellos = self.drivers.iter().filter(|driver| driver.lane.is_none() && driver.last_words.is_none());
        phase.into_iter().chain(lanes).chain(hellos.map(|driver| driver.hello_by)).filter(|at| *at > env.now).min()
    }

    pub(super) fn fire_timers(&mut self, env: &mut Env) {
        for known in &mut self.known {
            if known.memory.live {
                known.memory.fire_timers(env);
            }
            if known.caller.poll_deadline().is_some_and(|at| at <= env.instant()) {
                known.caller.handle_timeout(env.instant());
                known.wake();
            }
            check_in_time(env, &mut known.calls);
        }
    }

    /// One of the things that its threads may do next.
    pub(super) fn step(&mut self, env: &mut Env, net: &mut Net) {
        if matches!(self.phase, Phase::Down { .. }) {
            return;
        }
        if !net.backlog.is_empty() && env.random.per_mille(500) {
            return self.accept(env, net);
        }
        if env.random.per_mille(50) {
            self.sweep(env);
        }
        let busy = |known: &Known| known.memory.live || !known.calls.is_empty();
        let busy: Vec<usize> = (0..self.known.len()).filter(|at| busy(&self.known[*at])).collect();
        if !busy.is_empty() && env.random.per_mille(250) {
            let known = &mut self.known[busy[env.random.index(busy.len())]];
            if known.memory.live {
                known.memory.poll_handlers(env);
            }
        }
        if !busy.is_empty() && env.random.per_mille(250) {
            self.known[busy[env.random.index(busy.len())]].callers_act(env);
        }
        if !self.drivers.is_empty() {
            let at = env.random.index(self.drivers.len());
            let end =
                if env.random.per_mille(500) { self.write_half(env, net, at) } else { self.read_half(env, net, at) };
            if let Err(end) = end {
                self.end(env, net, at, end);
            }
        }
    }

    /// Whether it has accepted that connection and not closed it.
    pub(super) fn drives(&self, conn: usize) -> bool {
        self.drivers.iter().any(|driver| driver.conn == conn)
    }

    /// The server's end of a connection is cut; the client notices at `notice`.
    pub(super) fn cut(&mut self, env: &mut Env, net: &mut Net, conn: usize, notice: u64) {
        if let Some(at) = self.drivers.iter().position(|driver| driver.conn == conn) {
            net.close_server(conn, notice);
            self.end(env, net, at, End::Broken);
        }
    }

    /// Whether nothing runs and nothing is left of closed connections.
    pub(super) fn check_at_rest(&mut self, env: &mut Env) {
        for known in self.known.iter_mut().filter(|known| known.memory.live) {
            known.memory.check_at_rest(env, true);
            if known.caller.has_open() {
                let text = format!("at rest the caller of memory {} holds something", known.memory.index);
                env.ledger.violate(env.now, "bounded", text);
            }
        }
    }

    fn accept(&mut self, env: &Env, net: &mut Net) {
        let conn = net.backlog.remove(0);
        self.drivers.push(Driver::new(conn, env.now + micros(env.limits.handshake_timeout)));
    }

    /// Forgets lanes that have been without a connection for long enough.
    fn sweep(&mut self, env: &mut Env) {
        let (now, known) = (env.instant(), &mut self.known);
        self.lanes.retain(|_, at| {
            let known = &mut known[*at];
            let memory = &known.memory;
            let keep = memory.lane.expires_at().is_none_or(|expiry| now < expiry);
            if !keep {
                env.trace(|| format!("memory {at}: forgotten"));
                env.coverage.hit("server: lane forgotten");
                if memory.lane.running() > 0 {
                    let text = format!("memory {at} was forgotten with {} handlers", memory.lane.running());
                    env.ledger.violate(env.now, "loss is no cancel", text);
                }
                known.forget(env);
            }
            keep
        });
    }

    fn end(&mut self, env: &mut Env, net: &mut Net, at: usize, end: End) {
        let driver = self.drivers.swap_remove(at);
        env.trace(|| format!("server: connection {} is over: {end:?}", driver.conn));
        net.close_server(driver.conn, env.now);
        if end == End::Refused(GoodbyeCode::Stalled) {
            env.coverage.hit("server: stalled connection closed");
        }
        if let Some((at, epoch)) = driver.lane {
            let known = &mut self.known[at];
            let memory = &mut known.memory;
            if known.caller.is_attached(epoch) && known.calls.iter().any(Call::is_sent) {
                env.coverage.hit("reverse: connection lost with calls open");
            }
            known.caller.detach_reverse(epoch);
            memory.lane.detach(epoch, env.instant());
            if memory.lane.running() > 0 && !memory.lane.is_connected() {
                env.coverage.hit("server: handler without a connection");
            }
            known.wake();
        }
    }

    pub(super) fn admit(&mut self, env: &mut Env, hello: &Hello<'_>) -> Result<usize, GoodbyeCode> {
        if self.phase != Phase::Serving {
            return Err(GoodbyeCode::Draining);
        }
        let key = (hello.peer, hello.incarnation, hello.lane);
        if self.lanes.len() >= env.limits.lanes_max && !self.lanes.contains_key(&key) {
            return Err(GoodbyeCode::TooMany);
        }
        let at = match self.lanes.get(&key) {
            Some(at) => *at,
            None => {
                let memory = Memory::new(env, ServerLane::new(env.limits.clone(), hello.epoch));
                let mut caller = ClientLane::reverse(env.limits.clone());
                caller.plant(env.planted);
                self.known.push(Known { memory, caller, calls: Vec::new() });
                self.lanes.insert(key, self.known.len() - 1);
                self.known.len() - 1
            }
        };
        let known = &mut self.known[at];
        let memory = &mut known.memory;
        memory
            .lane
            .attach(hello.epoch, hello.window, hello.frame_bytes_max, self.identity)
            .ok_or(GoodbyeCode::StaleEpoch)?;
        if hello.epoch <= memory.newest {
            let text = format!("memory {at} accepted epoch {} after {}", hello.epoch, memory.newest);
            env.ledger.violate(env.now, "fence", text);
        }
        memory.newest = hello.epoch;
        if hello.epoch > 1 && memory.lane.counters().taken > 0 {
            env.coverage.hit("server: lane resumed");
        }
        let differs = |claim: &MethodClaim| {
            SERVED
                .methods
                .iter()
                .any(|m| (m.id, m.version) == (claim.id, claim.version) && m.fingerprint != claim.fingerprint)
        };
        memory.lane.set_mismatched(hello.methods().filter(differs).map(|claim| (claim.id, claim.version)).collect());
        let offer = hello.serves().map(Offer::from);
        known.caller.attach_reverse(hello.epoch, hello.window, hello.frame_bytes_max, offer);
        known.wake();
        Ok(at)
    }
}

impl Known {
    pub(super) fn wake(&mut self) {
        self.memory.wake();
        let mut wakers: Vec<Waker> = Vec::new();
        self.caller.take_wakers(&mut wakers);
        wake_all(wakers);
    }

    /// Its callers do something; now and then one comes.
    fn callers_act(&mut self, env: &mut Env) {
        let open = self.calls.iter().filter(|call| !call.is_over()).count();
        let room = open < env.limits.window as usize + 4;
        if self.memory.live && env.stormy && room && env.random.per_mille(env.knobs.submit_reverse) {
            self.call(env, false);
        }
        for call in &mut self.calls {
            callers::act(env, &mut self.caller, call);
        }
        self.calls.retain(|call| !call.is_over());
        self.wake();
        callers::check_room(env, &mut self.caller, &self.calls);
    }

    /// Its server calls it once more.
    pub(super) fn call(&mut self, env: &mut Env, probe: bool) {
        callers::submit(env, &mut self.caller, &mut self.calls, probe, true);
        self.wake();
    }

    /// Forgotten by a server that goes on: whoever still calls has an outcome.
    fn forget(&mut self, env: &mut Env) {
        self.memory.end(env);
        self.caller.end_reverse();
        self.wake();
    }
}
