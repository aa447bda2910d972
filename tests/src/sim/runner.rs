//! Many worlds: on some threads, in the order of their seeds, and what they have shown together.
//!
//! A panic of the code under test is a violation like any other. Nothing here changes what a world does: each belongs
//! to one thread, and knows of no other.
//!
//! Called by the test `simulator` and by the binary `sim`.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::coverage::Coverage;
use super::ledger::Violation;
use super::plant;
use super::world::{Options, Report, run};

/// Which worlds to run, and how.
#[derive(Clone, Debug)]
pub struct Run {
    /// Their seeds.
    pub seeds: Range<u64>,
    /// How each is run.
    pub options: Options,
    /// How many run at the same time.
    pub threads: usize,
    /// After how many violations to stop.
    pub failures_max: usize,
}

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

/// One for each core.
pub fn threads_default() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs worlds until there are no more, or enough of them broke a promise. Every seed below the lowest failure was
/// run: which one that is does not depend on the threads. `after_each` sees the sum so far.
pub fn run_all(run: &Run, after_each: impl Fn(&Summary) + Sync) -> Summary {
    let next = AtomicU64::new(run.seeds.start);
    let enough = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..run.threads.max(1) {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= run.seeds.end {
                        return;
                    }
                    let report = run_caught(seed, run.options);
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.worlds += 1;
                    summary.steps += report.steps;
                    summary.coverage.merge(&report.coverage);
                    if report.violation.is_some() {
                        summary.failures.push(report);
                    }
                    if summary.failures.len() >= run.failures_max {
                        enough.store(true, Ordering::Relaxed);
                    }
                    after_each(&summary);
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
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
    let plant = options.plant.map(|bug| format!(" --plant {}", plant::name(bug))).unwrap_or_default();
    format!("cargo run --release -p tests --bin sim -- --seed {}{plant} --trace", report.seed)
}
