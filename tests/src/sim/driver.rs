//! The server's driver of one connection, in halves: a write, a read with the handlers that it starts.
//!
//! What `rpc`'s own driver does in one turn is two steps here, because between them another thread may run another
//! connection of the same lane. Never a decision of its own: the lane says what is fenced, refused or over.
//!
//! Part of `server`, which picks whose turn it is.

use bytes::BytesMut;
use rpc::session::server::Taken;
use rpc::wire::frame::{self, Cut, Oversized, cut};
use rpc::wire::header::{self, GoodbyeCode, Kind};
use rpc::wire::hello::Hello;

use super::env::{Env, micros};
use super::ledger::read_token;
use super::net::Net;
use super::observe;
use super::pipe::{Read, Write};
use super::server::{Known, Phase, Server};
use super::writing::Writing;

/// The driver of one connection.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) conn: usize,
    inbound: Vec<u8>,
    writing: Writing,
    pub(super) lane: Option<(usize, u64)>,
    pub(super) hello_by: u64,
    stalled_at: Option<u64>,
    pub(super) last_words: Option<GoodbyeCode>,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Fenced,
    Refused(GoodbyeCode),
    Broken,
}

impl Driver {
    /// A connection that was accepted now.
    pub(super) fn new(conn: usize, hello_by: u64) -> Self {
        Self {
            conn,
            inbound: Vec::new(),
            writing: Writing::default(),
            lane: None,
            hello_by,
            stalled_at: None,
            last_words: None,
        }
    }
}

impl Server {
    /// Timers, the next claim, and one write.
    pub(super) fn write_half(&mut self, env: &mut Env, net: &mut Net, at: usize) -> Result<(), End> {
        if matches!(self.phase, Phase::Closing { .. }) {
            self.say_goodbye(env, at, GoodbyeCode::Draining);
        }
        let driver = &mut self.drivers[at];
        let patience = micros(env.limits.stall_timeout);
        if driver.stalled_at.is_some_and(|since| env.now - since >= patience) {
            return Err(End::Refused(GoodbyeCode::Stalled));
        }
        match driver.lane {
            None if env.now >= driver.hello_by => self.say_goodbye(env, at, GoodbyeCode::HandshakeTimeout),
            None => {}
            Some((at, epoch)) => {
                let known = &mut self.known[at];
                if !known.memory.lane.is_attached(epoch) {
                    return Err(End::Fenced);
                }
                known.memory.lane.handle_timeout(env.instant());
                known.caller.handle_timeout(env.instant());
                if driver.writing.is_empty() {
                    let mut batch = BytesMut::new();
                    known.memory.lane.poll_transmit(epoch, &mut batch);
                    driver.writing.append(&batch);
                    batch.clear();
                    if known.caller.is_attached(epoch) && known.caller.poll_transmit(env.instant(), &mut batch) {
                        driver.writing.append_claim(&batch);
                    }
                }
                known.wake();
            }
        }
        self.write(env, net, at)?;
        let driver = &self.drivers[at];
        let more = driver.lane.is_some_and(|(memory, epoch)| self.known[memory].memory.lane.wants_transmit(epoch));
        match driver.last_words {
            Some(code) if driver.writing.is_empty() && !more => Err(End::Refused(code)),
            _ => Ok(()),
        }
    }

    fn write(&mut self, env: &mut Env, net: &mut Net, at: usize) -> Result<(), End> {
        let driver = &mut self.drivers[at];
        if driver.writing.is_empty() {
            return Ok(());
        }
        let chunk = usize::try_from(env.random.between(1, env.knobs.chunk_bytes)).unwrap_or(1);
        match net.conns[driver.conn].to_client.write(env.now, &driver.writing.bytes, chunk) {
            Write::Taken(count) => {
                let claimed = driver.writing.taken(count);
                if let Some((known, epoch)) = driver.lane
                    && claimed > 0
                    && self.known[known].caller.is_attached(epoch)
                {
                    self.known[known].caller.transmitted(claimed);
                }
                driver.stalled_at = if driver.writing.is_empty() { None } else { Some(env.now) };
                Ok(())
            }
            Write::Full => {
                driver.stalled_at = driver.stalled_at.or(Some(env.now));
                Ok(())
            }
            Write::Broken => {
                // What the peer wrote before it went is taken all the same.
                while self.read_once(env, net, at, usize::MAX)? {}
                Err(End::Broken)
            }
        }
    }

    pub(super) fn read_half(&mut self, env: &mut Env, net: &mut Net, at: usize) -> Result<(), End> {
        let driver = &self.drivers[at];
        let full = driver.lane.is_some_and(|(memory, _)| {
            !driver.writing.is_empty() && self.known[memory].memory.lane.queued_bytes() >= env.limits.out_bytes_max
        });
        if driver.last_words.is_some() || full {
            return Ok(());
        }
        let chunk = usize::try_from(env.random.between(1, env.knobs.chunk_bytes)).unwrap_or(1);
        self.read_once(env, net, at, chunk).map(|_| ())
    }

    /// Reads once; `true`: it brought something.
    fn read_once(&mut self, env: &mut Env, net: &mut Net, at: usize, chunk: usize) -> Result<bool, End> {
        let driver = &mut self.drivers[at];
        match net.conns[driver.conn].to_server.read(env.now, &mut driver.inbound, chunk) {
            Read::Nothing => return Ok(false),
            Read::End => return Err(End::Closed),
            Read::Bytes(_) => {}
        }
        let mut bytes = std::mem::take(&mut driver.inbound);
        let (consumed, end) = self.take(env, net, at, &bytes);
        bytes.drain(..consumed);
        self.drivers[at].inbound = bytes;
        match end {
            Ok(()) => Ok(true),
            Err(End::Refused(code)) => {
                self.say_goodbye(env, at, code);
                Ok(false)
            }
            Err(end) => Err(end),
        }
    }

    /// Takes all whole frames: the Hello if it is the first, then what follows, then the handlers of what was taken up.
    fn take(&mut self, env: &mut Env, net: &mut Net, at: usize, bytes: &[u8]) -> (usize, Result<(), End>) {
        let mut consumed = 0;
        if self.drivers[at].lane.is_none() {
            match self.take_hello(env, net, at, bytes) {
                Ok(0) => return (0, Ok(())),
                Ok(hello_bytes) => consumed = hello_bytes,
                Err(end) => return (bytes.len(), Err(end)),
            }
        }
        let Some((memory_at, epoch)) = self.drivers[at].lane else { return (bytes.len(), Ok(())) };
        let Known { memory, caller, .. } = &mut self.known[memory_at];
        let index = memory.index;
        let mut calls = Vec::new();
        let end = loop {
            match cut(&bytes[consumed..], env.limits.frame_bytes_max) {
                Cut::Frame { frame, consumed: frame_bytes } => {
                    consumed += frame_bytes;
                    if header::is_reverse(frame) {
                        if !caller.is_attached(epoch) {
                            break Err(End::Fenced);
                        }
                        observe::answer(env, net.conns[self.drivers[at].conn].reverse, frame);
                        if let Err(violation) = caller.handle_frame(frame) {
                            let text = format!("a caller of memory {index} accuses the client: {violation:?}");
                            env.ledger.violate(env.now, "protocol", text);
                            break Err(End::Refused(GoodbyeCode::Violation));
                        }
                        continue;
                    }
                    observe::request(env, index, frame);
                    match memory.lane.handle_frame(env.instant(), epoch, frame) {
                        Ok(Taken::Nothing) => {}
                        Ok(Taken::Call(call)) => {
                            env.ledger.taken(env.now, read_token(call.body), index);
                            memory.check_fence(env, epoch);
                            calls.push(call);
                        }
                        Ok(Taken::Closed) => break Err(End::Closed),
                        Ok(Taken::Fenced) => {
                            env.coverage.hit("server: fenced frame");
                            break Err(End::Fenced);
                        }
                        Err(violation) => {
                            let text = format!("memory {index} accuses its client: {violation:?}");
                            env.ledger.violate(env.now, "protocol", text);
                            break Err(End::Refused(GoodbyeCode::Violation));
                        }
                    }
                }
                Cut::Incomplete { .. } => break Ok(()),
                Cut::TooLarge { .. } => break Err(End::Refused(GoodbyeCode::FrameTooLarge)),
            }
        };
        for call in calls {
            memory.handlers.start(env, &mut memory.lane, index, call);
        }
        memory.check_bounds(env);
        self.known[memory_at].wake();
        (consumed, end)
    }

    fn take_hello(&mut self, env: &mut Env, net: &mut Net, at: usize, bytes: &[u8]) -> Result<usize, End> {
        let (frame, consumed) = match cut(bytes, env.limits.handshake_bytes_max) {
            Cut::Frame { frame, consumed } => (frame, consumed),
            Cut::Incomplete { .. } => return Ok(0),
            Cut::TooLarge { .. } => return Err(End::Refused(GoodbyeCode::NotThisProtocol)),
        };
        if env.now >= self.drivers[at].hello_by {
            return Err(End::Refused(GoodbyeCode::HandshakeTimeout));
        }
        let hello = match header::parse(frame) {
            Ok(Some(frame)) if frame.kind == Kind::Hello => Hello::parse(frame.body),
            _ => return Err(End::Refused(GoodbyeCode::NotThisProtocol)),
        };
        let hello = hello.map_err(|_| End::Refused(GoodbyeCode::NotThisProtocol))?;
        let memory = self.admit(env, &hello).map_err(End::Refused)?;
        env.trace(|| {
            format!("server: connection {} is epoch {} of memory {memory}", self.drivers[at].conn, hello.epoch)
        });
        let driver = &mut self.drivers[at];
        driver.lane = Some((memory, hello.epoch));
        net.conns[driver.conn].memory = Some(self.known[memory].memory.index);
        Ok(consumed)
    }

    fn say_goodbye(&mut self, env: &mut Env, at: usize, code: GoodbyeCode) {
        let driver = &mut self.drivers[at];
        if driver.last_words.is_some() {
            return;
        }
        env.trace(|| format!("server: goodbye to connection {}: {code:?}", driver.conn));
        env.coverage.hit(match code {
            GoodbyeCode::StaleEpoch => "refusal: stale epoch",
            GoodbyeCode::TooMany => "refusal: too many",
            GoodbyeCode::HandshakeTimeout => "refusal: handshake timeout",
            GoodbyeCode::Draining => "refusal: draining",
            _ => "refusal: other",
        });
        driver.last_words = Some(code);
        match driver.lane {
            Some((memory, _)) => self.known[memory].memory.lane.goodbye(code),
            None => {
                let mut words = BytesMut::new();
                let _ = frame::append(&mut words, usize::MAX, |out| {
                    header::put_common(out, Kind::Goodbye, 0, code.number(), 0);
                    Ok::<(), Oversized>(())
                });
                driver.writing.append(&words);
            }
        }
    }
}
