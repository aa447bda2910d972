//! Every input of the fuzzer's corpora, through the functions that the fuzzer runs.
#![allow(missing_docs)]

use std::path::Path;

// The sentences that are checked are in the fuzz package; here they are only asked again.
#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "a crate of its own elsewhere")]
mod targets;

use targets::TARGETS;

#[test]
fn every_input_of_the_corpora_keeps_what_its_target_checks() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpora");
    for (name, run) in TARGETS {
        let corpus =
            std::fs::read_to_string(folder.join(name).with_extension("hex")).expect("each target has a corpus");
        let mut inputs = 0;
        for (number, line) in corpus.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let input = bytes(line).unwrap_or_else(|| panic!("{name}.hex:{}: no hex", number + 1));
            if let Err(panic) = std::panic::catch_unwind(|| run(&input)) {
                eprintln!("target {name}, {name}.hex:{}", number + 1);
                std::panic::resume_unwind(panic);
            }
            inputs += 1;
        }
        assert!(inputs >= 10, "the corpus of {name} has {inputs} inputs");
    }
}

/// A line of a corpus; `-` is the empty input.
fn bytes(line: &str) -> Option<Vec<u8>> {
    if line == "-" {
        return Some(Vec::new());
    }
    let digits: Vec<u8> = line.chars().map(|c| c.to_digit(16)?.try_into().ok()).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    (!digits.is_empty() && pairs.remainder().is_empty()).then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
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
