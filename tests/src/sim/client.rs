//! One client: its lane, the driver that dials and carries its bytes, and its callers.
//!
//! The driver does what `rpc`'s own does with a socket, in the same order: timers, claim, write, read; conclusions from a
//! lost connection only after both halves are closed. A misbehaving library may say whole requests twice.
//!
//! Long, because the order of what one turn of the driver does is the point, and is to be read in one place.
//!
//! Stepped by `world`; speaks to `server` through `net`.

use std::task::Waker;

use bytes::{Buf, BytesMut};
use rpc::session::client::{ClientLane, LaneIdentity, Next};
use rpc::session::server::{ServerLane, Taken};
use rpc::wire::frame::{Cut, cut};
use rpc::wire::header::{self, Kind};
use rpc::{Address, Incarnation, Limits, NotDelivered, PeerId};

use super::callers::{self, Call};
use super::env::{Env, wake_all};
use super::knobs::{SERVED, STREAM, WANTED};
use super::ledger::read_token;
use super::memory::Memory;
use super::net::Net;
use super::observe;
use super::pipe::{Read, Write};
use super::writing::Writing;

/// The longest pause before a connection that keeps breaking is dialled again. Shorter than the real one, like every
/// time of these worlds.
const REDIAL_PAUSE_MAX_US: u64 = 3_000;
/// Frames that the misbehaving library remembers.
const SENT_MAX: usize = 24;

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) index: usize,
    pub(super) lane: ClientLane,
    pub(super) calls: Vec<Call>,
    limits: Limits,
    driver: Driver,
    /// Whether it answers calls, and what it remembers of each server that may call; the last one may be connected.
    offers: bool,
    serving: Vec<Serving>,
    /// The driver's task lives.
    runs: bool,
    writing: Writing,
    /// Whole frames that are said again, between two claims.
    again: BytesMut,
    inbound: Vec<u8>,
    claimed: Vec<SentFrame>,
    sent: Vec<SentFrame>,
    pause: u64,
    welcomed: bool,
    /// The parked ids were listed on this connection, or it is the first: earlier frames may be said again.
    listed: bool,
}

/// What it remembers of a server that may call: of one server, and of one memory that this has of it.
#[derive(Debug)]
struct Serving {
    of: (PeerId, Incarnation, u64),
    memory: Memory,
}

#[derive(Clone, Copy, Debug)]
enum Driver {
    Idle,
    Dialling { due: u64 },
    Connected { conn: usize },
}

/// A request that the kernel has taken whole.
#[derive(Clone, Debug)]
struct SentFrame {
    bytes: Vec<u8>,
    conn: usize,
}

impl Client {
    pub(super) fn new(env: &mut Env, index: usize) -> Self {
        let limits = limits(env);
        let mut lane = ClientLane::new(identity(env), WANTED, limits.clone());
        lane.plant(env.planted);
        let offers = env.random.per_mille(env.knobs.offers);
        if offers {
            lane.offer(SERVED);
        }
        Self {
            index,
            lane,
            limits,
            calls: Vec::new(),
            driver: Driver::Idle,
            offers,
            serving: Vec::new(),
            runs: true,
            writing: Writing::default(),
            again: BytesMut::new(),
            inbound: Vec::new(),
            claimed: Vec::new(),
            sent: Vec::new(),
            pause: 0,
            welcomed: false,
            listed: false,
        }
    }

    /// The connection that it believes to have.
    pub(super) fn conn(&self) -> Option<usize> {
        match self.driver {
            Driver::Connected { conn } => Some(conn),
            Driver::Idle | Driver::Dialling { .. } => None,
        }
    }

    /// When its driver's timer goes off.
    pub(super) fn due(&self, env: &Env) -> Option<u64> {
        let deadline = self.lane.poll_deadline().filter(|_| self.runs).map(|at| env.micros(at));
        let dial = match self.driver {
            Driver::Dialling { due } => Some(due),
            Driver::Idle | Driver::Connected { .. } => None,
        };
        let serving = self.serving.iter().filter(|_| self.runs).filter_map(|serving| serving.memory.due(env));
        [deadline, dial].into_iter().flatten().chain(serving).filter(|at| *at > env.now).min()
    }

    pub(super) fn fire_timers(&mut self, env: &mut Env) {
        if self.runs {
            self.serving.iter_mut().for_each(|serving| serving.memory.fire_timers(env));
        }
        if self.runs && self.lane.poll_deadline().is_some_and(|at| at <= env.instant()) {
            self.lane.handle_timeout(env.instant());
            self.wake();
        }
    }

    /// One turn of the driver.
    pub(super) fn turn(&mut self, env: &mut Env, net: &mut Net) {
        if !self.runs {
            return;
        }
        match self.driver {
            Driver::Idle if self.lane.wants_connection() => {
                let due = env.now + self.pause + env.random.between(0, 300);
                self.driver = Driver::Dialling { due };
            }
            Driver::Idle => {}
            Driver::Dialling { .. } if !self.lane.wants_connection() => self.driver = Driver::Idle,
            Driver::Dialling { due } if env.now < due => {}
            Driver::Dialling { .. } => self.dial(env, net),
            Driver::Connected { conn } => self.connected_turn(env, net, conn),
        }
        if self.runs && env.random.per_mille(400) {
            self.serving.iter_mut().for_each(|serving| serving.memory.poll_handlers(env));
            // What belonged to another memory of the server runs to its end, and is then gone.
            let last = self.serving.len();
            let mut at = 0;
            self.serving.retain(|serving| {
                at += 1;
                at == last || serving.memory.lane.running() > 0
            });
        }
        self.wake();
    }

    /// A caller comes, or one of its calls goes on.
    pub(super) fn caller_acts(&mut self, env: &mut Env) {
        let open = self.calls.iter().filter(|call| !call.is_over()).count();
        let room = open < env.limits.window as usize + 4;
        if env.stormy && room && env.random.per_mille(env.knobs.submit) {
            self.call(env, false);
        }
        for at in 0..self.calls.len() {
            self.ensure_driver();
            callers::act(env, &mut self.lane, &mut self.calls[at]);
        }
        self.calls.retain(|call| !call.is_over());
        self.wake();
        callers::check_room(env, &mut self.lane, &self.calls);
    }

    /// Makes one more call.
    pub(super) fn call(&mut self, env: &mut Env, probe: bool) {
        self.ensure_driver();
        callers::submit(env, &mut self.lane, &mut self.calls, probe, false);
        self.wake();
    }

    /// Says a request again that was written before, unchanged. Only to a memory that may know it, and behind the list
    /// of parked ids, which its floor may have passed: whoever repeats otherwise has been told not to.
    pub(super) fn duplicate(&mut self, env: &mut Env, net: &Net) {
        let Some(conn) = self.conn() else { return };
        let memory = net.conns[conn].memory;
        let here = |frame: &&SentFrame| {
            frame.conn == conn || (self.listed && memory.is_some() && net.conns[frame.conn].memory == memory)
        };
        let candidates: Vec<&SentFrame> = self.sent.iter().filter(here).collect();
        if candidates.is_empty() || !self.again.is_empty() {
            return;
        }
        let frame = candidates[env.random.index(candidates.len())];
        self.again.extend_from_slice(&frame.bytes);
        let (later, first) = (frame.conn != conn, frame.conn);
        let (id, method, token) = header::parse(&frame.bytes[4..])
            .ok()
            .flatten()
            .map_or((0, 0, usize::MAX), |frame| (frame.id, frame.method, read_token(frame.body)));
        env.stream_repeated |= method == STREAM;
        env.ledger.repeated(token);
        env.coverage.hit(if later {
            "fault: duplicate on a later connection"
        } else {
            "fault: duplicate on its connection"
        });
        env.trace(|| format!("client {}: says request {id} of connection {first} again", self.index));
    }

    /// Its connection is cut; the server notices at `notice`.
    pub(super) fn cut(&mut self, env: &mut Env, net: &mut Net, notice: u64) {
        if let Driver::Connected { conn } = self.driver {
            net.close_client(conn, notice);
            self.disconnected(env, net, conn, "cut");
        }
    }

    /// The process dies and comes back as another peer. What it called is nobody's business any more.
    pub(super) fn crash(&mut self, env: &mut Env, net: &mut Net) {
        if let Driver::Connected { conn } = self.driver {
            net.close_client(conn, env.now);
        }
        env.trace(|| format!("client {}: crashed", self.index));
        self.end(env);
        self.serving.iter_mut().for_each(|serving| serving.memory.end(env));
        *self = Self::new(env, self.index);
    }

    /// The runtime under the driver ends; the client lives on and may be used again.
    pub(super) fn close(&mut self, env: &mut Env, net: &mut Net) {
        if !self.runs {
            return;
        }
        env.trace(|| format!("client {}: its runtime ended", self.index));
        if let Driver::Connected { conn } = self.driver {
            net.close_client(conn, env.now);
        }
        self.forget_connection(env);
        self.lane.disconnected();
        self.lane.close_all();
        self.runs = false;
        for serving in &mut self.serving {
            let memory = &mut serving.memory;
            memory.handlers.stop_all(env, &mut memory.lane);
            memory.wake();
        }
        self.wake();
    }

    /// What its lane has seen goes into the coverage.
    pub(super) fn end(&self, env: &mut Env) {
        env.coverage.add("client: late answer", self.lane.counters().late_answers);
    }

    fn ensure_driver(&mut self) {
        if !self.runs {
            self.runs = true;
            self.lane.reopen();
        }
    }

    fn dial(&mut self, env: &mut Env, net: &mut Net) {
        match net.dial(env.knobs.pipe_bytes) {
            Some(conn) => {
                self.lane.connected();
                self.welcomed = false;
                self.listed = false;
                self.driver = Driver::Connected { conn };
                env.trace(|| format!("client {}: connection {conn}, epoch {}", self.index, self.lane.epoch()));
            }
            None => {
                env.coverage.hit("client: dial refused");
                env.trace(|| format!("client {}: nobody listens", self.index));
                self.pause = 0;
                self.driver = Driver::Idle;
                let why = NotDelivered::NoListener { address: Address::mem("sim"), reason: "simulated".to_owned() };
                self.lane.unreachable(&why);
            }
        }
    }

    fn connected_turn(&mut self, env: &mut Env, net: &mut Net, conn: usize) {
        self.lane.handle_timeout(env.instant());
        if self.writing.is_empty() && self.again.is_empty() {
            let mut batch = BytesMut::new();
            if self.lane.poll_transmit(env.instant(), &mut batch) {
                self.remember(conn, &batch);
                self.listed |= self.welcomed;
                self.writing.append_claim(&batch);
            }
            let epoch = self.lane.epoch();
            if let Some(serving) = self.serving.last_mut() {
                batch.clear();
                serving.memory.lane.poll_transmit(epoch, &mut batch);
                self.writing.append(&batch);
            }
        }
        if self.lane.is_drained() {
            net.close_client(conn, env.now);
            return self.disconnected(env, net, conn, "drained");
        }
        let idle = self.writing.is_empty() && self.again.is_empty() && self.inbound.is_empty();
        // A client that goes takes the calls along that its server makes: only in a storm.
        if env.stormy && idle && self.welcomed && !self.lane.has_open() && env.random.per_mille(env.knobs.done) {
            return self.say_done(env, net, conn);
        }
        let broken = self.write(env, net, conn);
        if broken {
            // What the peer wrote before it went is read first.
            while self.read(env, net, conn, usize::MAX) == Some(true) {}
            if self.conn() == Some(conn) {
                net.close_client(conn, env.now);
                self.disconnected(env, net, conn, "broken");
            }
            return;
        }
        let chunk = usize::try_from(env.random.between(1, env.knobs.chunk_bytes)).unwrap_or(1);
        self.read(env, net, conn, chunk);
    }

    /// Nobody has anything open: the client says so and goes, but may come back.
    fn say_done(&mut self, env: &mut Env, net: &mut Net, conn: usize) {
        let mut last_word = BytesMut::new();
        self.lane.say_done();
        self.lane.poll_transmit(env.instant(), &mut last_word);
        // Whole or in part, as a full pipe has it.
        let _ = net.conns[conn].to_server.write(env.now, &last_word, last_word.len());
        env.coverage.hit("client: done");
        net.close_client(conn, env.now);
        self.disconnected(env, net, conn, "done");
    }

    /// Writes once. `true`: the server's end is gone.
    fn write(&mut self, env: &mut Env, net: &mut Net, conn: usize) -> bool {
        let chunk = usize::try_from(env.random.between(1, env.knobs.chunk_bytes)).unwrap_or(1);
        let again = self.writing.is_empty();
        let bytes = if again { &self.again } else { &self.writing.bytes };
        if bytes.is_empty() {
            return false;
        }
        match net.conns[conn].to_server.write(env.now, bytes, chunk) {
            Write::Taken(count) => {
                if again {
                    self.again.advance(count);
                } else {
                    let claimed = self.writing.taken(count);
                    if claimed > 0 {
                        self.lane.transmitted(claimed);
                    }
                    if self.writing.is_empty() {
                        self.sent.append(&mut self.claimed);
                        let surplus = self.sent.len().saturating_sub(SENT_MAX);
                        self.sent.drain(..surplus);
                    }
                }
                false
            }
            Write::Full => false,
            Write::Broken => true,
        }
    }

    /// Reads once. `Some(true)`: it brought bytes and the connection goes on.
    fn read(&mut self, env: &mut Env, net: &mut Net, conn: usize, chunk: usize) -> Option<bool> {
        let end = match net.conns[conn].to_client.read(env.now, &mut self.inbound, chunk) {
            Read::Nothing => return Some(false),
            Read::End => "the server has closed",
            Read::Bytes(_) => {
                let (consumed, end) = self.take_frames(env, net, conn);
                self.welcomed |= consumed > 0 && end.is_none();
                self.inbound.drain(..consumed);
                match end {
                    None => return Some(true),
                    Some(end) => end,
                }
            }
        };
        net.close_client(conn, env.now);
        self.disconnected(env, net, conn, end);
        None
    }

    fn take_frames(&mut self, env: &mut Env, net: &mut Net, conn: usize) -> (usize, Option<&'static str>) {
        let mut consumed = 0;
        loop {
            let mut welcomed = false;
            match cut(&self.inbound[consumed..], self.limits.frame_bytes_max) {
                Cut::Frame { frame, consumed: bytes } => {
                    consumed += bytes;
                    if header::is_reverse(frame) {
                        let epoch = self.lane.epoch();
                        let served = match self.serving.last_mut() {
                            Some(serving) => serving.take(env, epoch, frame),
                            None => Err("a server calls a client that answers nothing".to_owned()),
                        };
                        if let Err(text) = served {
                            env.ledger.violate(env.now, "protocol", text);
                            return (consumed, Some("violation"));
                        }
                        continue;
                    }
                    observe::answer(env, net.conns[conn].memory, frame);
                    match self.lane.handle_frame(frame) {
                        Ok(Next::Continue) => {}
                        Ok(Next::Welcomed) if self.offers => welcomed = true,
                        Ok(Next::Welcomed) => {}
                        Ok(Next::Close) => return (consumed, Some("goodbye")),
                        Err(violation) => {
                            let text = format!("client {} accuses its server: {violation:?}", self.index);
                            env.ledger.violate(env.now, "protocol", text);
                            return (consumed, Some("violation"));
                        }
                    }
                }
                Cut::Incomplete { .. } => return (consumed, None),
                Cut::TooLarge { announced } => {
                    env.ledger.violate(env.now, "protocol", format!("a frame of {announced} bytes from a server"));
                    return (consumed, Some("frame too large"));
                }
            }
            if welcomed {
                net.conns[conn].reverse = self.serve(env);
            }
        }
    }

    /// The server has accepted the connection: what it asks from here on belongs to one memory.
    fn serve(&mut self, env: &mut Env) -> Option<usize> {
        let accepted = self.lane.memory()?;
        let of = (accepted.server.0, accepted.server.1, accepted.born);
        if self.serving.last().is_none_or(|serving| serving.of != of) {
            if let Some(former) = self.serving.last() {
                env.coverage.hit("reverse: memory replaced");
                env.ledger.memory_ended(former.memory.index);
            }
            let limits = Limits { window: self.limits.window.max(env.limits.window), ..self.limits.clone() };
            let memory = Memory::new(env, ServerLane::reverse(limits));
            self.serving.push(Serving { of, memory });
        } else {
            env.coverage.hit("reverse: memory taken up again");
        }
        let epoch = self.lane.epoch();
        let memory = &mut self.serving.last_mut()?.memory;
        memory.lane.attach_reverse(epoch, accepted.window, accepted.frame_bytes_max);
        memory.newest = epoch;
        memory.wake();
        Some(memory.index)
    }

    /// Whether a handler of a server's call has not ended.
    pub(super) fn has_handlers(&self) -> bool {
        self.serving.iter().any(|serving| serving.memory.lane.running() > 0)
    }

    /// Nothing runs for a server, and nothing is left of what it asked.
    pub(super) fn check_at_rest(&mut self, env: &mut Env) {
        if self.lane.has_open() {
            let text = format!("at rest client {} holds something", self.index);
            env.ledger.violate(env.now, "bounded", text);
        }
        for serving in &self.serving {
            serving.memory.check_at_rest(env, false);
        }
    }

    fn disconnected(&mut self, env: &mut Env, net: &Net, conn: usize, why: &str) {
        let unread = net.conns[conn].to_server.len();
        env.trace(|| format!("client {}: connection {conn} is over: {why}; {unread} bytes unread", self.index));
        self.forget_connection(env);
        self.lane.disconnected();
        if self.welcomed {
            self.pause = (self.pause * 2).clamp(100, REDIAL_PAUSE_MAX_US);
            if env.random.per_mille(300) {
                self.pause = 0;
            }
        } else {
            self.lane.unreachable(&NotDelivered::ConnectionLost);
        }
        self.wake();
    }

    fn forget_connection(&mut self, env: &Env) {
        let epoch = self.lane.epoch();
        if let Some(serving) = self.serving.last_mut() {
            serving.memory.lane.detach(epoch, env.instant());
            serving.memory.wake();
        }
        self.driver = Driver::Idle;
        self.writing.clear();
        self.again.clear();
        self.inbound.clear();
        self.claimed.clear();
    }

    /// Notes the requests of a claim, to say them again one day.
    fn remember(&mut self, conn: usize, claim: &[u8]) {
        let mut rest = claim;
        while let Cut::Frame { consumed, .. } = cut(rest, usize::MAX) {
            let bytes = &rest[..consumed];
            if bytes.get(4) == Some(&Kind::Request.number()) {
                self.claimed.push(SentFrame { bytes: bytes.to_vec(), conn });
            }
            rest = &rest[consumed..];
        }
    }

    fn wake(&mut self) {
        let mut wakers: Vec<Waker> = Vec::new();
        self.lane.take_wakers(&mut wakers);
        wake_all(wakers);
    }
}

impl Serving {
    /// A frame of the server's calls.
    fn take(&mut self, env: &mut Env, epoch: u64, frame: &[u8]) -> Result<(), String> {
        let memory = &mut self.memory;
        observe::request(env, memory.index, frame);
        match memory.lane.handle_frame(env.instant(), epoch, frame) {
            Ok(Taken::Call(call)) => {
                env.ledger.taken(env.now, read_token(call.body), memory.index);
                memory.handlers.start(env, &mut memory.lane, memory.index, call);
            }
            Ok(Taken::Nothing) => {}
            Ok(other) => return Err(format!("the client does not hear its present connection: {other:?}")),
            Err(violation) => return Err(format!("memory {} accuses its server: {violation:?}", memory.index)),
        }
        memory.check_bounds(env);
        memory.wake();
        Ok(())
    }
}

/// Each life is another peer.
fn identity(env: &mut Env) -> LaneIdentity {
    let halves = [env.random.bits().to_le_bytes(), env.random.bits().to_le_bytes()];
    let mut peer = [0; 16];
    peer.copy_from_slice(&halves.concat());
    LaneIdentity { peer: PeerId(peer), incarnation: Incarnation(env.random.bits()), lane: 0 }
}

/// A client may keep fewer ids open and take smaller frames than its server.
fn limits(env: &mut Env) -> Limits {
    let window = if env.random.per_mille(300) { 3 } else { env.limits.window };
    let frame_bytes_max = if env.random.per_mille(200) { 350 } else { env.limits.frame_bytes_max };
    Limits { window, frame_bytes_max, ..env.limits.clone() }
}
