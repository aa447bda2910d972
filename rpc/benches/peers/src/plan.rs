//! What is measured and what is to be reached, as data.

use std::time::Duration;

use serde::Serialize;

use crate::contender::{Contender, Load, Role, Shape};

/// Which processors both processes may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Placement {
    /// Both on one core: only the work is left.
    One,
    /// Two cores, as the kernel places them: a lone call wakes the other core.
    Free,
}

impl Placement {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Free => "free",
        }
    }
}

/// One thing that every contender does, in turn.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Workload {
    pub(crate) id: String,
    pub(crate) load: Load,
    pub(crate) placement: Placement,
}

impl Workload {
    /// Why `contender` does not do this, if it does not.
    pub(crate) fn refused_by(&self, contender: &dyn Contender) -> Option<&'static str> {
        if contender.role() == Role::Spinning && self.placement == Placement::One {
            return Some("on one processor each would spin for the other's whole time slice");
        }
        if contender.role() == Role::OursWatching {
            return Some("its system calls are what is of interest");
        }
        contender.refuses(&self.load)
    }

    /// How many of `rounds` it is given: one that keeps tens of MiB in flight has few.
    pub(crate) fn rounds(&self, rounds: usize) -> usize {
        if self.load.payload_bytes * self.load.in_flight > 16 * MIB { rounds.min(3) } else { rounds }
    }
}

/// How long and how often.
pub(crate) struct Effort {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// Rounds in which latencies are kept, which costs two looks at the clock for each call.
    pub(crate) timed_rounds: usize,
    pub(crate) slice: Duration,
}

impl Effort {
    pub(crate) fn new(quick: bool, rounds: Option<usize>) -> Self {
        let (usual, timed_rounds, slice_millis) = if quick { (3, 1, 30) } else { (7, 3, 90) };
        Self { quick, rounds: rounds.unwrap_or(usual).max(1), timed_rounds, slice: Duration::from_millis(slice_millis) }
    }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Calls in flight of the curve; connections of the other curve.
pub(crate) const IN_FLIGHT: [usize; 6] = [1, 4, 16, 64, 256, 1024];
pub(crate) const CONNECTIONS: [usize; 4] = [1, 10, 100, 1000];

pub(crate) fn workloads(quick: bool) -> Vec<Workload> {
    let mut all = Vec::new();
    let mut echo = |payload_bytes, in_flight, placement: Placement| {
        let load = Load { shape: Shape::Echo, payload_bytes, connections: 1, in_flight };
        all.push(Workload { id: format!("{}-{in_flight}-{}", size(payload_bytes), placement.name()), load, placement });
    };
    let chosen = |n: &usize| !quick || [1, 64, 1024].contains(n);
    for in_flight in [1, 64, 1024].into_iter().filter(|n| !quick || *n < 1024) {
        echo(64, in_flight, Placement::One);
    }
    for in_flight in IN_FLIGHT.into_iter().filter(chosen) {
        echo(64, in_flight, Placement::Free);
    }
    for placement in [Placement::One, Placement::Free] {
        if quick && placement == Placement::One {
            continue;
        }
        for in_flight in [1, 64] {
            echo(4 * KIB, in_flight, placement);
            echo(64 * KIB, in_flight, placement);
        }
        echo(MIB, 1, placement);
        if !quick {
            echo(MIB, 8, placement);
        }
    }
    if !quick {
        for (payload_bytes, in_flight) in [(4 * KIB, 1024), (64 * KIB, 1024), (MIB, 64)] {
            echo(payload_bytes, in_flight, Placement::Free);
        }
    }
    let mut other = |id: String, load, placement| all.push(Workload { id, load, placement });
    for (name, shape) in [("fetch", Shape::Fetch), ("push", Shape::Push)] {
        let load = Load { shape, payload_bytes: MIB, connections: 1, in_flight: 1 };
        other(format!("{name}-1MiB-free"), load, Placement::Free);
    }
    for connections in CONNECTIONS.into_iter().filter(|n| !quick || *n == 1000) {
        let load = Load { shape: Shape::Echo, payload_bytes: 64, connections, in_flight: 1 };
        other(format!("conns-{connections}-free"), load, Placement::Free);
    }
    for placement in [Placement::One, Placement::Free] {
        let load = Load { shape: Shape::Connect, payload_bytes: 64, connections: 1, in_flight: 1 };
        other(format!("connect-{}", placement.name()), load, placement);
    }
    all
}

pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        MIB.. => format!("{}MiB", bytes / MIB),
        KIB.. => format!("{}KiB", bytes / KIB),
        _ => format!("{bytes}B"),
    }
}

/// What is to be reached by ours.
pub(crate) enum Goal {
    /// Time of a call, at most so many times the tokio floor's.
    FloorTimeAtMost(f64),
    /// Calls a second, at least this share of the tokio floor's.
    FloorRateAtLeast(f64),
    /// Calls a second, at least so many times the fastest peer's.
    PeerRateAtLeast(f64),
    /// Calls a second, at least this share of raw batches.
    CeilingRateAtLeast(f64),
    /// Calls a second, no lower than those of another workload.
    RateAtLeastOf(&'static str),
    /// p99 below every peer's.
    TailBelowPeers,
    /// Time of a call while both sides spin, at most so many times the raw spinning ping-pong's.
    SpinningTimeAtMost(f64),
}

/// By workload. What is asked of figures that are not times is in `counts`.
pub(crate) const GOALS: &[(&str, Goal)] = &[
    ("64B-1-one", Goal::FloorTimeAtMost(1.15)),
    ("64B-1-one", Goal::PeerRateAtLeast(1.0)),
    ("64B-1-free", Goal::SpinningTimeAtMost(2.0)),
    ("64B-64-one", Goal::PeerRateAtLeast(4.5)),
    ("64B-64-free", Goal::PeerRateAtLeast(2.5)),
    ("64B-64-free", Goal::CeilingRateAtLeast(0.65)),
    ("64B-1024-free", Goal::PeerRateAtLeast(4.0)),
    ("64B-1024-free", Goal::RateAtLeastOf("64B-64-free")),
    ("64KiB-1-one", Goal::PeerRateAtLeast(1.0)),
    ("64KiB-1-one", Goal::FloorRateAtLeast(0.85)),
    ("64KiB-64-one", Goal::PeerRateAtLeast(1.0)),
    ("64KiB-64-one", Goal::FloorRateAtLeast(0.85)),
    ("64KiB-1-free", Goal::PeerRateAtLeast(1.0)),
    ("64KiB-1-free", Goal::FloorRateAtLeast(0.85)),
    ("64KiB-64-free", Goal::PeerRateAtLeast(1.0)),
    ("64KiB-64-free", Goal::FloorRateAtLeast(0.85)),
    ("1MiB-1-one", Goal::PeerRateAtLeast(1.0)),
    ("1MiB-1-one", Goal::FloorRateAtLeast(0.85)),
    ("1MiB-1-free", Goal::PeerRateAtLeast(1.0)),
    ("1MiB-1-free", Goal::FloorRateAtLeast(0.85)),
    ("fetch-1MiB-free", Goal::PeerRateAtLeast(1.0)),
    ("fetch-1MiB-free", Goal::FloorRateAtLeast(0.85)),
    ("push-1MiB-free", Goal::PeerRateAtLeast(1.0)),
    ("push-1MiB-free", Goal::FloorRateAtLeast(0.85)),
    ("conns-1000-free", Goal::FloorRateAtLeast(0.80)),
    ("conns-1000-free", Goal::TailBelowPeers),
    ("connect-one", Goal::FloorRateAtLeast(0.95)),
    ("connect-one", Goal::PeerRateAtLeast(1.0)),
    ("connect-free", Goal::FloorRateAtLeast(0.95)),
    ("connect-free", Goal::PeerRateAtLeast(1.0)),
];

/// At most so many system calls a call, on each side, with one in flight and with 64.
pub(crate) const SYSCALLS_MAX: [(usize, f64); 2] = [(1, 3.1), (64, 0.1)];
/// What watching how far a call has come may add to them. Of thousands of calls some tens are not written with the same
/// write by chance; a system call of each would add one.
pub(crate) const WATCHING_SYSCALLS_MAX: f64 = 0.05;
/// Allocations of the framework for each call in steady state, on each side. What is left of a count of thousands of
/// calls when a timer or a buffer grows once is not a cost of each call.
pub(crate) const ALLOCATIONS_MAX: f64 = 0.01;
/// Resident memory of the server for an idle connection, in KiB: after small calls, and after a large one too.
pub(crate) const IDLE_KIB_MAX: [f64; 2] = [6.0, 10.0];
/// What is small and what is large there, in bytes.
pub(crate) const IDLE_PAYLOADS: [usize; 2] = [64, 256 * KIB];

/// Whether `text` is what the pattern says, in which `*` stands for anything.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(first) else { return false };
    // Wherever what follows the `*` may begin.
    (0..=text.len()).filter_map(|at| text.get(at..)).any(|text| matches(rest, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_says_all_of_a_name() {
        for (pattern, text, matched) in [
            ("64B-1-one/rpc", "64B-1-one/rpc", true),
            ("64B-1-one/rpc", "64B-1-one/rpc spinning", false),
            ("64B-1-one/*", "64B-1-one/rpc spinning", true),
            ("B-1-one/*", "64B-1-one/rpc", false),
            ("*/rpc", "64B-1-one/rpc", true),
            ("*-free/*c*", "64B-1-free/rpc spinning", true),
            ("*-free/*c", "64B-1-free/rpc spinning", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), matched, "{pattern} {text}");
        }
    }

    #[test]
    fn goals_name_workloads_that_exist() {
        let all = workloads(false);
        let exists = |id: &str| all.iter().any(|workload| workload.id == id);
        for (id, goal) in GOALS {
            assert!(exists(id), "{id}");
            if let Goal::RateAtLeastOf(other) = goal {
                assert!(exists(other), "{other}");
            }
        }
    }

    #[test]
    fn workload_ids_are_unique() {
        let all = workloads(false);
        let ids: std::collections::BTreeSet<_> = all.iter().map(|workload| &workload.id).collect();
        assert_eq!(ids.len(), all.len());
    }
}
