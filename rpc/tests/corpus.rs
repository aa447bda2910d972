//! Every file of the fuzzer's corpora, through the functions that the fuzzer runs.
#![allow(missing_docs)]

use std::path::Path;

// The sentences that are checked are in the fuzz package; here they are only asked again.
#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "a crate of its own elsewhere")]
mod targets;

use targets::TARGETS;

#[test]
fn every_input_of_the_corpora_keeps_what_its_target_checks() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, run) in TARGETS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(folder.join(name)).expect("each target has a corpus") {
            let path = entry.expect("an entry").path();
            let input = std::fs::read(&path).expect("a file");
            if let Err(panic) = std::panic::catch_unwind(|| run(&input)) {
                eprintln!("target {name}, input {}", path.display());
                std::panic::resume_unwind(panic);
            }
            inputs += 1;
        }
        assert!(inputs >= 10, "the corpus of {name} has {inputs} inputs");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    /// Frames in any order, each with any numbers, through the cutter and either half of a lane: read whole, one by one,
    /// and in pieces of any size.
    #[test]
    fn lane_does_the_same_however_its_bytes_are_cut(input in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
        targets::chunking::run(&input);
    }
}
