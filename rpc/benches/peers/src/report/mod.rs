//! What was measured, and its ways out: tables, JSON, plots, Markdown.
//!
//! A ratio is taken within a round, between neighbours in time, and only then its median.

pub(crate) mod goals;
pub(crate) mod machine;
pub(crate) mod markdown;
pub(crate) mod svg;
pub(crate) mod table;

use serde::Serialize;

use crate::contender::{Contender, Role};
use crate::plan::Workload;
use crate::process::{LapFigures, PairFigures};

/// Everything.
#[derive(Serialize)]
pub(crate) struct Results {
    pub(crate) machine: machine::Machine,
    pub(crate) quick: bool,
    pub(crate) seconds: f64,
    pub(crate) series: Vec<Series>,
    pub(crate) per_call: Vec<PerCall>,
    pub(crate) idle: Vec<Idle>,
    pub(crate) notes: Vec<String>,
    pub(crate) goals: Vec<goals::Verdict>,
}

impl Results {
    pub(crate) fn new(quick: bool) -> Self {
        Self {
            machine: machine::Machine::this(),
            quick,
            seconds: 0.0,
            series: Vec::new(),
            per_call: Vec::new(),
            idle: Vec::new(),
            notes: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// The series of one workload.
    pub(crate) fn of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| series.workload == workload)
    }

    /// The fastest peer of a workload that was measured.
    pub(crate) fn fastest_peer<'a>(&'a self, workload: &'a str) -> Option<&'a Series> {
        let peers = self.of(workload).filter(|series| series.role == Role::Peer && !series.micros.is_empty());
        peers.min_by(|a, b| Spread::of(&a.micros).median.total_cmp(&Spread::of(&b.micros).median))
    }

    pub(crate) fn with_role<'a>(&'a self, workload: &'a str, role: Role) -> Option<&'a Series> {
        self.of(workload).find(|series| series.role == role && !series.micros.is_empty())
    }
}

/// One contender in one workload, a figure for each round.
#[derive(Serialize)]
pub(crate) struct Series {
    pub(crate) workload: String,
    pub(crate) contender: &'static str,
    pub(crate) role: Role,
    /// Microseconds a call: the time of a lap by its calls.
    pub(crate) micros: Vec<f64>,
    pub(crate) cpu_client_micros: Vec<f64>,
    pub(crate) cpu_server_micros: Vec<f64>,
    pub(crate) p50_micros: Vec<f64>,
    pub(crate) p99_micros: Vec<f64>,
    /// Why there are no figures, or no more.
    pub(crate) problem: Option<String>,
    /// It broke, rather than not being made for it.
    pub(crate) failed: bool,
}

impl Series {
    pub(crate) fn new(workload: &Workload, contender: &dyn Contender) -> Self {
        Self {
            workload: workload.id.clone(),
            contender: contender.name(),
            role: contender.role(),
            micros: Vec::new(),
            cpu_client_micros: Vec::new(),
            cpu_server_micros: Vec::new(),
            p50_micros: Vec::new(),
            p99_micros: Vec::new(),
            problem: None,
            failed: false,
        }
    }

    pub(crate) fn add(&mut self, figures: &PairFigures) {
        let calls = figures.lap.calls as f64;
        self.micros.push(figures.lap.elapsed_micros / calls);
        self.cpu_client_micros.push(figures.lap.cpu_micros as f64 / calls);
        self.cpu_server_micros.push(figures.server_cpu_micros as f64 / calls);
    }

    pub(crate) fn add_latencies(&mut self, lap: &LapFigures) {
        self.p50_micros.extend(lap.p50_micros);
        self.p99_micros.extend(lap.p99_micros);
    }

    /// There will be no more figures, and those that there are do not count.
    pub(crate) fn give_up(&mut self, failed: bool, why: &str) {
        self.micros.clear();
        self.failed = failed;
        self.problem = Some(why.to_owned());
        if failed {
            eprintln!("  {} failed: {why}", self.contender);
        }
    }

    /// How many times as many calls a second as `other`, in each round.
    pub(crate) fn rate_against(&self, other: &Self) -> Spread {
        let ratios: Vec<f64> = self.micros.iter().zip(&other.micros).map(|(mine, theirs)| theirs / mine).collect();
        Spread::of(&ratios)
    }
}

/// A count for each call.
#[derive(Serialize)]
pub(crate) struct PerCall {
    pub(crate) count: String,
    pub(crate) contender: &'static str,
    pub(crate) role: Role,
    pub(crate) in_flight: usize,
    pub(crate) client: Option<f64>,
    pub(crate) server: Option<f64>,
    /// The benchmark's own, which the client's figure is without.
    pub(crate) own: f64,
    pub(crate) problem: Option<String>,
}

impl PerCall {
    pub(crate) fn new(count: &str, contender: &dyn Contender, in_flight: usize) -> Self {
        Self {
            count: count.to_owned(),
            contender: contender.name(),
            role: contender.role(),
            in_flight,
            client: None,
            server: None,
            own: 0.0,
            problem: None,
        }
    }
}

/// Memory of a server for each idle connection.
#[derive(Serialize)]
pub(crate) struct Idle {
    pub(crate) contender: &'static str,
    pub(crate) role: Role,
    pub(crate) connections: usize,
    pub(crate) kib_after_small: Option<f64>,
    pub(crate) kib_after_large: Option<f64>,
    pub(crate) problem: Option<String>,
}

impl Idle {
    pub(crate) fn new(contender: &dyn Contender, connections: usize) -> Self {
        Self {
            contender: contender.name(),
            role: contender.role(),
            connections,
            kib_after_small: None,
            kib_after_large: None,
            problem: None,
        }
    }
}

/// The middle one, and the span. Of nothing: not a number.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(figures: &[f64]) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let median = match sorted.len() {
            count if count > 0 && count.is_multiple_of(2) => f64::midpoint(at(count / 2 - 1), at(count / 2)),
            count => at(count / 2),
        };
        Self { median, min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }
}

/// About three digits.
pub(crate) fn short(figure: f64) -> String {
    match figure.abs() {
        _ if figure.is_nan() => "-".to_owned(),
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// Calls a second, in thousands.
pub(crate) fn thousands(micros: f64) -> String {
    short(1e3 / micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_middle_and_span() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[1.0, 2.0]).median, 1.5);
        assert!(Spread::of(&[]).median.is_nan());
    }

    #[test]
    fn figures_have_about_three_digits() {
        assert_eq!([1234.5, 12.34, 1.234, 0.016, f64::NAN].map(short), ["1234", "12.3", "1.23", "0.02", "-"]);
    }
}
