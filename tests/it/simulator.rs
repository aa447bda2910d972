//! A thousand worlds break no promise, and every planted bug is found in as many.
//!
//! The worlds themselves are `tests::sim`; here is only what they must show.

use tests::sim::plant::{self, Bug};
use tests::sim::{Options, Run, replay_command, run, run_all, threads_default};

const SEEDS: u64 = 1000;

#[test]
fn thousand_seeds_violate_nothing() {
    let options = Options::default();
    let run = Run { seeds: 0..SEEDS, options, threads: threads_default(), failures_max: 1 };
    let summary = run_all(&run, |_| {});
    if let Some(report) = summary.failures.first() {
        panic!("seed {}: {:?}\n{}", report.seed, report.violation, replay_command(report, options));
    }
    eprintln!("{}{} steps", summary.coverage, summary.steps);
    assert_eq!(summary.worlds, SEEDS);
    assert_eq!(summary.coverage.missing(), Vec::<&str>::new(), "never seen in {SEEDS} worlds");
}

#[test]
fn every_planted_bug_breaks_its_promise_within_a_thousand_seeds() {
    for bug in Bug::ALL {
        let found = plant::search(*bug, SEEDS, threads_default());
        let violation = found.report.as_ref().and_then(|report| report.violation.as_ref());
        let Some(violation) = violation else { panic!("{bug:?} was not found in {} worlds", found.worlds) };
        eprintln!("{bug:?}: after {} worlds, {:.1?}: {violation:?}", found.worlds, found.took);
        let expected = plant::promises(*bug);
        assert!(expected.contains(&violation.promise), "{bug:?} should break {expected:?}: {violation:?}");
    }
}

#[test]
fn same_seed_gives_the_same_world() {
    let options = Options { trace: true, ..Options::default() };
    let mut lines = 0;
    for seed in 0..20 {
        let (first, second) = (run(seed, options), run(seed, options));
        lines += first.trace.len();
        assert!(first == second, "seed {seed} gave two worlds");
        let untraced = run(seed, Options::default());
        assert_eq!((untraced.steps, &untraced.coverage), (first.steps, &first.coverage), "looking at it changes it");
    }
    assert!(lines > 10_000, "{lines} lines of 20 worlds show nothing");
}

#[test]
fn same_seeds_give_the_same_worlds_on_any_number_of_threads() {
    let sum = |threads| {
        let run = Run { seeds: 0..60, options: Options::default(), threads, failures_max: 1 };
        let summary = run_all(&run, |_| {});
        (summary.worlds, summary.steps, summary.coverage)
    };
    assert_eq!(sum(1), sum(3));
}
