//! One server: what listens, its lanes, and a driver for each connection.
//!
//! Keeps lanes and forgets them as `rpc`'s own does. A crash forgets all that is here; the ledger does not.
//!
//! Stepped by `world`; speaks to `client` through `net`, by a `driver` for each connection.

use std::collections::BTreeMap;
use std::task::Waker;

use rpc::session::server::ServerLane;
use rpc::wire::header::GoodbyeCode;
use rpc::wire::hello::{Hello, MethodClaim};
use rpc::{Incarnation, PeerId};

use super::driver::{Driver, End};
use super::env::{Env, micros, wake_all};
use super::handlers::Handlers;
use super::knobs::SERVED;
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
    pub(super) memories: Vec<Memory>,
    pub(super) drivers: Vec<Driver>,
}

/// What a server remembers of a lane, from a first Hello until it forgets it or dies.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) lane: ServerLane,
    pub(super) handlers: Handlers,
    pub(super) live: bool,
    index: usize,
    /// The highest epoch that it has accepted.
    newest: u64,
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Down { until: 0 },
            identity: (PeerId([0; 16]), Incarnation(0)),
            lanes: BTreeMap::new(),
            memories: Vec::new(),
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
        for memory in self.memories.iter_mut().filter(|memory| memory.live) {
            memory.end(env);
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
        for memory in self.lanes.values() {
            self.memories[*memory].lane.drain();
        }
    }

    /// When a timer of it goes off.
    pub(super) fn due(&self, env: &Env) -> Option<u64> {
        let phase = match self.phase {
            Phase::Serving => None,
            Phase::Down { until } | Phase::Draining { until } | Phase::Closing { until } => Some(until),
        };
        let lanes = self.memories.iter().filter(|memory| memory.live).flat_map(|memory| {
            [memory.lane.poll_deadline().map(|at| env.micros(at)), memory.handlers.due(env.now)].into_iter().flatten()
        });
        let hellos = self.drivers.iter().filter(|driver| driver.lane.is_none() && driver.last_words.is_none());
        phase.into_iter().chain(lanes).chain(hellos.map(|driver| driver.hello_by)).filter(|at| *at > env.now).min()
    }

    pub(super) fn fire_timers(&mut self, env: &mut Env) {
        for memory in self.memories.iter_mut().filter(|memory| memory.live) {
            if memory.lane.poll_deadline().is_some_and(|at| at <= env.instant()) {
                memory.lane.handle_timeout(env.instant());
                memory.wake();
            }
            memory.handlers.check_deadlines(env);
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
        let live: Vec<usize> = (0..self.memories.len()).filter(|at| self.memories[*at].live).collect();
        if !live.is_empty() && env.random.per_mille(250) {
            let at = live[env.random.index(live.len())];
            let memory = &mut self.memories[at];
            memory.handlers.poll(env, &mut memory.lane, at);
            memory.wake();
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
    pub(super) fn check_at_rest(&self, env: &mut Env) {
        for memory in self.memories.iter().filter(|memory| memory.live) {
            let remembered = memory.lane.remembered();
            // A library that says a request again after its caller has gone opens a stream that nobody reads.
            let open_streams = remembered.streams > 0 && !env.stream_repeated;
            if memory.lane.running() > 0 || remembered.ids > 1 || open_streams {
                let text = format!("at rest a lane has {} handlers and {remembered:?}", memory.lane.running());
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
        let (now, memories) = (env.instant(), &mut self.memories);
        self.lanes.retain(|_, at| {
            let memory = &mut memories[*at];
            let keep = memory.lane.expires_at().is_none_or(|expiry| now < expiry);
            if !keep {
                env.trace(|| format!("memory {at}: forgotten"));
                env.coverage.hit("server: lane forgotten");
                if memory.lane.running() > 0 {
                    let text = format!("memory {at} was forgotten with {} handlers", memory.lane.running());
                    env.ledger.violate(env.now, "loss is no cancel", text);
                }
                memory.end(env);
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
            let memory = &mut self.memories[at];
            memory.lane.detach(epoch, env.instant());
            if memory.lane.running() > 0 && !memory.lane.is_connected() {
                env.coverage.hit("server: handler without a connection");
            }
            memory.wake();
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
                let mut lane = ServerLane::new(env.limits.clone(), hello.epoch);
                lane.plant(env.planted);
                let index = self.memories.len();
                self.memories.push(Memory { lane, handlers: Handlers::default(), live: true, index, newest: 0 });
                self.lanes.insert(key, index);
                index
            }
        };
        let memory = &mut self.memories[at];
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
        memory.wake();
        Ok(at)
    }
}

impl Memory {
    pub(super) fn wake(&mut self) {
        let mut wakers: Vec<Waker> = Vec::new();
        self.lane.take_wakers(&mut wakers);
        wake_all(wakers);
    }

    /// Forgotten, or its process has died.
    pub(super) fn end(&mut self, env: &mut Env) {
        if std::mem::take(&mut self.live) {
            env.ledger.memory_ended(self.index);
            let counters = self.lane.counters();
            env.coverage.add("server: repeat answered from memory", counters.repeats);
            env.coverage.add("server: late answer", counters.late_answers);
        }
    }

    /// Nothing is taken from an older connection once a newer one was accepted.
    pub(super) fn check_fence(&self, env: &mut Env, at: usize, epoch: u64) {
        if epoch < self.newest && !env.fence_is_planted {
            let text = format!("memory {at} took a request of epoch {epoch} after it had accepted {}", self.newest);
            env.ledger.violate(env.now, "fence", text);
        }
    }

    /// What a lane holds stays within its limits.
    pub(super) fn check_bounds(&self, env: &mut Env) {
        let remembered = self.lane.remembered();
        let (permits, handlers) = (self.lane.running(), self.handlers.running.len());
        if permits != handlers {
            let text = format!("memory {} counts {permits} handlers, and {handlers} run", self.index);
            env.ledger.violate(env.now, "permits", text);
        }
        let window = env.limits.window as usize;
        let ids_max = window + env.limits.parked_max;
        // Each of the handlers that were let in below the bound may answer with a frame.
        let bytes_max = env.limits.answer_bytes_max + window * env.limits.frame_bytes_max;
        if remembered.unheld > 0 {
            env.coverage.hit("server: handler outlives its id");
        }
        if remembered.ids > ids_max
            || remembered.answer_bytes > bytes_max
            || remembered.streams > env.limits.streams_max
            || self.lane.running() > window
        {
            let text = format!("a lane with {} handlers holds {remembered:?}", self.lane.running());
            env.ledger.violate(env.now, "bounded", text);
        }
    }
}
