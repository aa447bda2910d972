//! A sample of the kill matrix: at each place of it one fault, by turns for the child, the parent and both.
//!
//! All of it, and more than once: `cargo run --release -p tests --bin kills`.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use tests::checker::Counts;
use tests::drive::{Cell, Figures, How, PLACES, cells, run};

/// A guard against what never settles; what is expected is printed, for a busy machine decides that as well.
const SETTLED_MAX: Duration = Duration::from_secs(60);

/// Runs these, and returns how many hit and how many lives were lost.
async fn judge_all(cells: Vec<Cell>) -> (usize, u64) {
    let (began, runs) = (Instant::now(), cells.len());
    let program = Path::new(env!("CARGO_BIN_EXE_host_pod"));
    let outcomes = stream::iter(cells.into_iter().zip(1..)).map(|(cell, seed)| async move {
        let outcome = run(program, cell, seed, None, false).await;
        (cell, outcome.unwrap_or_else(|error| panic!("{cell:?}: {error}")))
    });
    let mut outcomes = outcomes.buffer_unordered(3);
    let (mut counts, mut settled, mut hits) = (Counts::default(), Figures::default(), 0);
    while let Some((cell, outcome)) = outcomes.next().await {
        assert!(outcome.verdict.is_clean(), "{cell:?}: {:#?}", outcome.verdict.findings);
        assert!(outcome.settled < SETTLED_MAX, "{cell:?}: settled after {:?}", outcome.settled);
        counts.add(&outcome.verdict.counts);
        settled.add(outcome.settled);
        hits += usize::from(outcome.reached);
    }
    let took = began.elapsed().as_secs_f64();
    eprintln!("{runs} runs, {hits} hits in {took:.1} s; {counts}; settled after the last fault: {settled}");
    assert!(counts.events as usize >= runs * 6 && counts.acks > 0, "{counts}");
    (hits, counts.lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_at_each_place_loses_nothing_repeats_nothing_and_leaves_one_end_a_life() {
    let killing: Vec<Cell> = cells().into_iter().filter(|cell| cell.how == How::Kill).collect();
    let whos = killing.len() / PLACES.len();
    let sample: Vec<Cell> = (0..PLACES.len()).map(|place| killing[place * whos + place % whos]).collect();
    let runs = sample.len();
    let (hits, lost) = judge_all(sample).await;
    assert!(lost > 0, "nobody was killed");
    assert!(hits * 10 >= runs * 8, "{hits} of {runs} faults hit the place that they were aimed at");
}

#[tokio::test(flavor = "multi_thread")]
async fn halt_of_either_side_at_a_place_loses_nobody() {
    let halting = cells().into_iter().filter(|cell| cell.how == How::Halt && cell.place.name == "parent_before_commit");
    let (hits, lost) = judge_all(halting.collect()).await;
    assert_eq!((hits, lost), (2, 0), "who is halted is not lost");
}
