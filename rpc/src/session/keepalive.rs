//! When to ask a silent peer whether it is there, and when to give its connection up.
//!
//! Pure state. A peer that is slow answers a ping all the same, because its driver does; one that says nothing at all, for
//! two bounded intervals, is dead as far as this connection goes. Only a doubt can follow from that, never a proof.
//! SPEC: PROTOCOL §4.7.
//!
//! One a connection, kept by the drivers in `io`.

use std::time::{Duration, Instant};

/// The silence of one peer.
#[derive(Debug, Default)]
pub struct Keepalive {
    /// When it is looked at next.
    due: Option<Instant>,
    /// Something has come since it was last looked at.
    heard: bool,
    /// It was asked, and has not been heard since.
    asked: bool,
}

/// What to do about a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Nothing.
    Quiet,
    /// Send a ping.
    Ask,
    /// Close the connection.
    Dead,
}

impl Keepalive {
    /// Something has arrived.
    pub fn heard(&mut self) {
        self.heard = true;
    }

    /// Whether [`poll`](Self::poll) need not be called: nothing is open, and nothing was.
    pub fn is_at_rest(&self) -> bool {
        self.due.is_none()
    }

    /// When [`poll`](Self::poll) has something to do.
    pub fn poll_deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Looks at the silence; after everything that has arrived was read. `open`: whether anybody waits for the peer. It is
    /// asked after `interval`, at most twice that, without a sign, and dead `patience` later.
    pub fn poll(&mut self, now: Instant, open: bool, interval: Duration, patience: Duration) -> Pulse {
        match self.due {
            None if !open => return Pulse::Quiet,
            Some(due) if now < due => return Pulse::Quiet,
            None => self.heard = true,
            Some(_) => {}
        }
        let heard = std::mem::take(&mut self.heard);
        if !open {
            (self.due, self.asked) = (None, false);
            return Pulse::Quiet;
        }
        if heard {
            self.asked = false;
            self.due = now.checked_add(interval);
            return Pulse::Quiet;
        }
        if std::mem::replace(&mut self.asked, true) {
            return Pulse::Dead;
        }
        self.due = now.checked_add(patience);
        Pulse::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);
    const PATIENCE: Duration = Duration::from_secs(10);

    struct Play {
        now: Instant,
        keepalive: Keepalive,
    }

    impl Play {
        fn new() -> Self {
            Self { now: Instant::now(), keepalive: Keepalive::default() }
        }

        fn after(&mut self, seconds: u64, open: bool) -> Pulse {
            self.now += Duration::from_secs(seconds);
            self.keepalive.poll(self.now, open, INTERVAL, PATIENCE)
        }
    }

    #[test]
    fn silent_peer_is_asked_and_then_given_up() {
        let mut play = Play::new();
        assert_eq!(play.after(0, true), Pulse::Quiet);
        assert_eq!(play.after(14, true), Pulse::Quiet);
        assert_eq!(play.after(1, true), Pulse::Ask);
        assert_eq!(play.after(9, true), Pulse::Quiet);
        assert_eq!(play.after(1, true), Pulse::Dead);
    }

    #[test]
    fn peer_that_answers_late_within_its_patience_lives_on() {
        let mut play = Play::new();
        play.after(0, true);
        assert_eq!(play.after(15, true), Pulse::Ask);
        play.keepalive.heard();
        assert_eq!(play.after(10, true), Pulse::Quiet);
        assert_eq!(play.after(15, true), Pulse::Ask, "asked anew, not given up");
    }

    #[test]
    fn peer_for_whom_nobody_waits_is_never_asked_and_costs_no_timer() {
        let mut play = Play::new();
        assert_eq!(play.after(100, false), Pulse::Quiet);
        assert!(play.keepalive.is_at_rest());
        play.after(0, true);
        assert_eq!(play.after(15, false), Pulse::Quiet);
        assert!(play.keepalive.is_at_rest());
        assert_eq!(play.after(100, true), Pulse::Quiet, "a new wait begins with its own interval");
        assert_eq!(play.after(15, true), Pulse::Ask);
    }

    #[test]
    fn endless_interval_switches_it_off() {
        let mut keepalive = Keepalive::default();
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(keepalive.poll(now, true, Duration::MAX, PATIENCE), Pulse::Quiet);
            assert!(keepalive.is_at_rest());
        }
    }
}
