//! What one side remembers of a lane on which the other one calls: the lane, and the handlers that it keeps busy.
//!
//! The same for both directions. A memory ends with its process, or when it is forgotten; it never comes back.
//!
//! Kept by `server` for each client, and by `client` for each server that has called it.

use std::task::Waker;

use rpc::session::server::ServerLane;

use super::env::{Env, wake_all};
use super::handlers::Handlers;

/// One memory.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) lane: ServerLane,
    pub(super) handlers: Handlers,
    pub(super) live: bool,
    /// Its name in the ledger.
    pub(super) index: usize,
    /// The highest epoch that it has accepted.
    pub(super) newest: u64,
}

impl Memory {
    pub(super) fn new(env: &mut Env, mut lane: ServerLane) -> Self {
        lane.plant(env.planted);
        Self { lane, handlers: Handlers::default(), live: true, index: env.ledger.memory_begins(), newest: 0 }
    }

    pub(super) fn wake(&mut self) {
        let mut wakers: Vec<Waker> = Vec::new();
        self.lane.take_wakers(&mut wakers);
        wake_all(wakers);
    }

    /// When something of it is due that has nothing to do with a connection.
    pub(super) fn due(&self, env: &Env) -> Option<u64> {
        let timer = self.lane.poll_deadline().map(|at| env.micros(at));
        [timer, self.handlers.due(env.now)].into_iter().flatten().min()
    }

    pub(super) fn fire_timers(&mut self, env: &mut Env) {
        if self.lane.poll_deadline().is_some_and(|at| at <= env.instant()) {
            self.lane.handle_timeout(env.instant());
            self.wake();
        }
        self.handlers.check_deadlines(env);
    }

    pub(super) fn poll_handlers(&mut self, env: &mut Env) {
        self.handlers.poll(env, &mut self.lane, self.index);
        self.wake();
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
    pub(super) fn check_fence(&self, env: &mut Env, epoch: u64) {
        if epoch < self.newest {
            let (at, newest) = (self.index, self.newest);
            let text = format!("memory {at} took a request of epoch {epoch} after it had accepted {newest}");
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
        let bytes_max = env.limits.answer_bytes_max + ids_max * env.limits.frame_bytes_max;
        if remembered.unheld > 0 {
            env.coverage.hit("server: handler outlives its id");
        }
        if remembered.ids > ids_max
            || remembered.answer_bytes > bytes_max
            || remembered.streams > env.limits.streams_max
            // The first 64 ids are taken whatever the window.
            || self.lane.running() > ids_max.max(64)
        {
            let text = format!("a lane with {} handlers holds {remembered:?}", self.lane.running());
            env.ledger.violate(env.now, "bounded", text);
        }
    }

    /// Nothing runs and nothing is left but the last answer.
    pub(super) fn check_at_rest(&self, env: &mut Env, last_is_known: bool) {
        let remembered = self.lane.remembered();
        // A library that says a request again after its caller has gone opens a stream that nobody reads.
        let open_streams = remembered.streams > 0 && !env.stream_repeated;
        if self.lane.running() > 0 || (last_is_known && remembered.ids > 1) || open_streams {
            let text = format!("at rest a lane has {} handlers and {remembered:?}", self.lane.running());
            env.ledger.violate(env.now, "bounded", text);
        }
    }
}
