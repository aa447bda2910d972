//! One world: some clients, a server and what lies between them, from a seed to its end.
//!
//! First a storm: callers submit, everything may go wrong. Then calm: nothing goes wrong any more, every call must end
//! well or honestly, a last call of each client must be acked, and nothing may be remembered for ever.
//! Everything that happens follows from the seed; two runs of one seed are the same to the last byte.
//!
//! Called by `runner`; steps `client`, `server` and `faults` one at a time.

use rpc::session::planted::{Bug, Planted};

use super::callers::check_in_time;
use super::client::Client;
use super::coverage::Coverage;
use super::env::{Env, micros};
use super::faults;
use super::knobs::{PLAIN, VERSION, WANTED};
use super::ledger::Violation;
use super::memory::Memory;
use super::net::Net;
use super::server::{Phase, Server};

/// Steps that a world may take to come to rest. LIMIT: about 3.6 s of its time, and the longest deadline then is 2 s.
const CALM_STEPS_MAX: u64 = 60_000;

/// How to run a world.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A bug to plant.
    pub plant: Option<Bug>,
    /// Whether to write down what happens.
    pub trace: bool,
}

/// What a world has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The first promise that was not kept.
    pub violation: Option<Violation>,
    /// What happened.
    pub coverage: Coverage,
    /// Steps that it took, of which each is one actor's.
    pub steps: u64,
    /// Microseconds that passed in it.
    pub micros: u64,
    /// What happened, line by line, if it was asked for.
    pub trace: Vec<String>,
}

/// Runs the world of `seed` to its end, or to its first violation.
pub fn run(seed: u64, options: Options) -> Report {
    let mut world = World::new(seed, options);
    world.storm();
    world.calm();
    world.server.known.iter_mut().for_each(|known| known.memory.end(&mut world.env));
    world.clients.iter().for_each(|client| client.end(&mut world.env));
    Report {
        seed,
        violation: world.env.ledger.violation.take(),
        coverage: std::mem::take(&mut world.env.coverage),
        steps: world.steps,
        micros: world.env.now,
        trace: world.env.take_trace(),
    }
}

struct World {
    env: Env,
    net: Net,
    server: Server,
    clients: Vec<Client>,
    steps: u64,
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut env = Env::new(seed, options.trace);
        let knobs = env.knobs;
        env.trace(|| format!("seed {seed}: {knobs:?}"));
        env.planted = options.plant.map_or(Planted::default(), Planted::from);
        let clients = (0..knobs.clients).map(|index| Client::new(&mut env, index)).collect();
        let mut net = Net::default();
        let mut server = Server::new();
        if env.random.per_mille(900) {
            server.start(&mut env, &mut net);
        } else {
            server.phase = Phase::Down { until: 3_000 };
        }
        Self { env, net, server, clients, steps: 0 }
    }

    fn storm(&mut self) {
        for _ in 0..self.env.knobs.steps {
            if !self.step() {
                return;
            }
            faults::strike(&mut self.env, &mut self.net, &mut self.server, &mut self.clients);
        }
    }

    fn calm(&mut self) {
        let env = &mut self.env;
        env.trace(|| "calm".to_owned());
        env.stormy = false;
        env.knobs.pause = 120;
        env.knobs.chunk_bytes = 4096;
        for conn in &mut self.net.conns {
            conn.to_server.thaw();
            conn.to_client.thaw();
        }
        if let Phase::Down { until } | Phase::Draining { until } = &mut self.server.phase {
            *until = self.env.now;
        }
        if !self
            .run_until("every call has ended", |world| world.server.phase == Phase::Serving && world.all_have_ended())
        {
            return;
        }
        // What the storm has left behind is over: handshakes, stalls, lanes of clients that died.
        let settled = self.env.now + 2 * micros(self.env.limits.stall_timeout);
        if !self.run_until("lanes that nobody uses are forgotten", |world| {
            let busy = |memory: &Memory| memory.live && (!memory.lane.is_connected() || memory.lane.running() > 0);
            let serve = world.clients.iter().any(Client::has_handlers);
            world.env.now > settled && !serve && !world.server.known.iter().any(|known| busy(&known.memory))
        }) {
            return;
        }
        for client in &mut self.clients {
            client.call(&mut self.env, true);
        }
        if !self.run_until("the last calls have ended", Self::all_have_ended) {
            return;
        }
        // The other way round, wherever somebody answers.
        for known in &mut self.server.known {
            let answers = known.caller.check_offer(&WANTED, PLAIN, VERSION).is_ok();
            if known.memory.live && known.caller.is_connected() && answers {
                self.env.coverage.hit("reverse: probe sent");
                known.call(&mut self.env, true);
            }
        }
        if self.run_until("the last calls of the server have ended", Self::all_have_ended) {
            self.server.check_at_rest(&mut self.env);
            for client in &mut self.clients {
                client.check_at_rest(&mut self.env);
            }
        }
    }

    fn all_have_ended(&self) -> bool {
        self.clients.iter().all(|client| client.calls.is_empty())
            && self.server.known.iter().all(|known| known.calls.is_empty())
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..CALM_STEPS_MAX {
            if done(self) {
                return true;
            }
            if !self.step() {
                return false;
            }
        }
        self.env.ledger.violate(self.env.now, "P1 answered", format!("it never came to pass that {what}"));
        false
    }

    /// Time passes, timers go off, and one actor does one thing. `false`: a promise was broken.
    fn step(&mut self) -> bool {
        self.steps += 1;
        let Self { env, net, server, clients, .. } = self;
        let pause = env.random.below(env.knobs.pause);
        let dues = clients.iter().filter_map(|client| client.due(env)).chain(server.due(env));
        let next = dues.filter(|due| *due > env.now).min().unwrap_or(u64::MAX);
        env.now = (env.now + pause).min(next);
        server.change_phase(env, net);
        server.fire_timers(env);
        for client in clients.iter_mut() {
            client.fire_timers(env);
            check_in_time(env, &mut client.calls);
        }
        let at = env.random.index(clients.len());
        match env.random.choose(&[(4, 0), (3, 1), (6, 2)]) {
            0 => clients[at].turn(env, net),
            1 => clients[at].caller_acts(env),
            _ => server.step(env, net),
        }
        env.ledger.violation.is_none()
    }
}
