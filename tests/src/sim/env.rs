//! What all actors of one world share: its clock, its random numbers, its limits, and who writes down what they do.
//!
//! The clock is virtual: one real instant, taken once, and microseconds since. Only differences are ever looked at.
//!
//! Made by `world`, lent to every actor for each of its steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use rpc::Limits;
use rpc::session::planted::Planted;

use super::coverage::Coverage;
use super::knobs::Knobs;
use super::ledger::Ledger;
use super::random::Random;

/// The grain of `rpc`'s timers, in microseconds.
pub(super) const TICK_US: u64 = 1000;

/// What all actors share.
#[derive(Debug)]
pub(super) struct Env {
    base: Instant,
    /// Microseconds since the world began.
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) knobs: Knobs,
    /// What the server is configured with; a client's window may be smaller.
    pub(super) limits: Limits,
    pub(super) ledger: Ledger,
    pub(super) coverage: Coverage,
    /// Faults still happen and callers still submit.
    pub(super) stormy: bool,
    /// The bug in every lane of this world, if there is one.
    pub(super) planted: Planted,
    /// A request that opens a stream was said again, perhaps for a caller that had gone.
    pub(super) stream_repeated: bool,
    lines: Option<Vec<String>>,
}

impl Env {
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let knobs = Knobs::draw(&mut random);
        let limits = knobs.limits(&mut random);
        Self {
            base: Instant::now(),
            now: 0,
            random,
            knobs,
            limits,
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            stormy: true,
            planted: Planted::default(),
            stream_repeated: false,
            lines: traced.then(Vec::new),
        }
    }

    /// The present as `rpc` sees it.
    pub(super) fn instant(&self) -> Instant {
        self.at(self.now)
    }

    pub(super) fn at(&self, micros: u64) -> Instant {
        self.base + Duration::from_micros(micros)
    }

    /// Microseconds since the world began, rounded up: nothing is early.
    pub(super) fn micros(&self, instant: Instant) -> u64 {
        let nanos = instant.saturating_duration_since(self.base).as_nanos();
        u64::try_from(nanos.div_ceil(1000)).unwrap_or(u64::MAX)
    }

    /// Writes a line down, if anybody wants to read it.
    pub(super) fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>9} {}", self.now, line()));
        }
    }

    pub(super) fn take_trace(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}

/// A task's waker: it remembers that it was woken.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A duration in microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Wakes what a lane has collected.
pub(super) fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}
