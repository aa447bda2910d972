//! What is wrong with the pods of a user, and what may be done about it.
//!
//! Looks at directories, locks, stores, the registry, processes and the machine. Changes nothing unless it is told to mend, and then only
//! what is provably nobody's: modes of our own files, what a dead life has left, while its life lock is held here, and its row in
//! the registry. Never writes to a store, and never takes a lock that is held.
//!
//! `machine` asks the kernel, `places` looks at directories and files, `pods` at locks and stores, `family` compares what pods
//! say of each other with the processes that there are, `registry` looks at what they share; `mend` is all that changes anything. Used by `pod doctor`.

mod family;
mod finding;
mod machine;
mod mend;
mod places;
mod pods;
mod registry;

pub use self::finding::{Check, Fact, Finding, Mended, Report, Severity};

use crate::id::PodName;
use crate::runtime_dir::Roots;

/// How far an examination has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Going<'a> {
    /// Whose store is being read.
    pub pod: &'a PodName,
    /// Which of its tables.
    pub table: &'a str,
    /// How many of them are done.
    pub done: usize,
    /// Of how many.
    pub of: usize,
}

/// Looks at everything below `roots` and at the machine; mends what is safe to be mended if `mend` says so. Blocks: for as
/// long as reading all stores takes, which `going` is told.
pub fn examine(roots: &Roots, mend: bool, going: &mut dyn FnMut(Going<'_>)) -> Report {
    let mut report = Report::new(mend);
    machine::examine(&mut report);
    if places::examine(roots, &mut report) {
        let pods = pods::examine(roots, &mut report, going);
        family::examine(roots, &pods, &mut report);
        registry::examine(roots, &pods, &mut report);
        // Last: the lock of a pod tells of its last life only until it is taken to mend something.
        places::examine_runtime(roots, &pods, &mut report);
    }
    report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    report
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
