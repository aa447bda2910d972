//! A thousand worlds break no promise, and two planted bugs are found.
//!
//! The worlds themselves are `tests::sim`; here is only what they must show.

use tests::sim::{Options, Plant, replay_command, run, run_all};

const SEEDS: u64 = 1000;

#[test]
fn thousand_seeds_violate_nothing() {
    let summary = run_all(0..SEEDS, Options::default(), 1);
    if let Some(report) = summary.failures.first() {
        let again = replay_command(report, Options::default());
        panic!("seed {}: {:?}\n{again}", report.seed, report.violation);
    }
    eprintln!("{}{} steps", summary.coverage, summary.steps);
    assert_eq!(summary.worlds, SEEDS);
    assert_eq!(summary.coverage.missing(), Vec::<&str>::new(), "never seen in {SEEDS} worlds");
}

#[test]
fn ack_before_apply_is_found() {
    check_found(Plant::AckBeforeApply, "P2 honest");
}

#[test]
fn resolve_without_refusal_is_found() {
    check_found(Plant::ResolveWithoutRefusal, "P2 honest");
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

#[track_caller]
fn check_found(plant: Plant, promise: &str) {
    let options = Options { plant: Some(plant), ..Options::default() };
    let summary = run_all(0..SEEDS, options, 20);
    let violations: Vec<_> = summary.failures.iter().filter_map(|report| report.violation.as_ref()).collect();
    eprintln!("{plant:?}: {} of {} worlds, first {:?}", violations.len(), summary.worlds, violations.first());
    let found = violations.iter().any(|violation| violation.promise == promise);
    assert!(found, "{plant:?} broke {promise} in none of {} worlds", summary.worlds);
}
