//! Many worlds: on all cores, in the order of their seeds, and what they have shown together.
//!
//! A panic of the code under test is a violation like any other. Nothing here changes what a world does.
//!
//! Called by the test `simulator` and by the binary `sim`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::coverage::Coverage;
use super::ledger::Violation;
use super::world::{Options, Report, run};

/// What many worlds have shown.
#[derive(Debug, Default)]
pub struct Summary {
    /// Worlds that came to their end or to a violation.
    pub worlds: u64,
    /// Steps of all of them.
    pub steps: u64,
    /// What happened in all of them.
    pub coverage: Coverage,
    /// Those that broke a promise, by seed.
    pub failures: Vec<Report>,
}

/// Runs the worlds of `seeds`, up to the first `failures_max` violations.
pub fn run_all(seeds: std::ops::Range<u64>, options: Options, failures_max: usize) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run_caught(seed, options);
                    let mut summary = summary.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    summary.worlds += 1;
                    summary.steps += report.steps;
                    summary.coverage.merge(&report.coverage);
                    if report.violation.is_some() {
                        summary.failures.push(report);
                    }
                    if summary.failures.len() >= failures_max {
                        return;
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.failures.sort_by_key(|report| report.seed);
    summary
}

/// Runs one world; a panic is its violation.
pub fn run_caught(seed: u64, options: Options) -> Report {
    catch_unwind(AssertUnwindSafe(|| run(seed, options))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Report {
            seed,
            violation: Some(Violation { promise: "panic", text, at: 0 }),
            coverage: Coverage::default(),
            steps: 0,
            micros: 0,
            trace: Vec::new(),
        }
    })
}

/// How to see a failure again.
pub fn replay_command(report: &Report, options: Options) -> String {
    let plant = options.plant.map(|plant| format!(" --plant {}", plant.name())).unwrap_or_default();
    format!("cargo run --release -p tests --bin sim -- --seed {}{plant} --trace", report.seed)
}
