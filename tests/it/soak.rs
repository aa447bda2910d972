//! A few seconds of what `cargo run --release -p tests --bin soak` does for as long as it is told to.

use std::path::Path;
use std::time::Duration;

use tests::drive::{Plan, Shape, Soak, soak};

#[tokio::test(flavor = "multi_thread")]
async fn tree_under_random_faults_comes_to_rest_and_has_lost_and_repeated_nothing() {
    let plan = Plan::new(Shape { seed: 5, pods: 24, length: Duration::from_secs(10) });
    let program = Path::new(env!("CARGO_BIN_EXE_host_pod"));
    let done = soak(&Soak { program, plan: &plan, keep: false, progress: &|_, _| {} }).await.unwrap();
    eprintln!("{done}\nsettled {:?} after the last fault; {}", done.settled, done.verdict);
    assert!(done.verdict.is_clean(), "{:#?}", done.verdict.findings);
    let counts = done.verdict.counts;
    assert!(counts.events > 0 && counts.works > 0 && done.most_alive > 2, "{counts}");
}
