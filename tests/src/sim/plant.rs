//! The bugs that `rpc` has on request, and which promise each of them breaks: the checker must find every one.
//!
//! Never a bug of its own: they are in `rpc::session`, behind its test-only switch.
//!
//! Listed by the binary `sim`, required by the test `simulator`.

use std::time::{Duration, Instant};

pub use rpc::session::planted::Bug;

use super::runner::{Run, run_all};
use super::world::{Options, Report};

/// What became of the search for one bug.
#[derive(Debug)]
pub struct Found {
    /// The bug.
    pub bug: Bug,
    /// The world of the lowest seed that shows it.
    pub report: Option<Report>,
    /// Worlds that were looked at.
    pub worlds: u64,
    /// How long that took.
    pub took: Duration,
}

/// Its name on the command line.
pub fn name(bug: Bug) -> String {
    let mut name = String::new();
    for letter in format!("{bug:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// The bug of that name.
pub fn by_name(wanted: &str) -> Option<Bug> {
    Bug::ALL.iter().copied().find(|bug| name(*bug) == wanted)
}

/// What is broken first in the worlds that show it.
pub fn promises(bug: Bug) -> &'static [&'static str] {
    match bug {
        Bug::AckBeforeApply => &["P2 honest", "P3 once"],
        Bug::ResolveWithoutRefusal => &["P2 honest", "P3 once"],
        Bug::NoFence => &["fence"],
        Bug::ForgottenFloor => &["P2 honest", "P3 once"],
        Bug::DoubleSettle => &["P3 once"],
        Bug::LostHandlerTimer => &["bounded"],
        Bug::PermitLeaked => &["permits"],
        Bug::EvictedAnswer => &["P2 honest", "P3 once", "remembered"],
        Bug::CancelOnLoss => &["loss is no cancel"],
        Bug::RefusalBeforeLookup => &["P2 honest", "P3 once"],
        Bug::ItemWithoutCredit => &["protocol"],
        Bug::ItemLost => &["streams"],
        Bug::DrainNamesTooLow => &["P2 honest"],
        Bug::FloorOverOpenIds => &["remembered"],
        Bug::LostTimer => &["P1 answered"],
        Bug::LostWakeup => &["P1 answered"],
        Bug::WrittenIsNotDelivered => &["P2 honest"],
        Bug::WholeFrameIsCut => &["P2 honest"],
        Bug::WrongIncarnation => &["P2 honest"],
        // "bounded": the lane holds more ids than an honest client has open.
        Bug::ParkNotRepeated => &["P2 honest", "P3 once", "remembered", "bounded"],
        Bug::ReplayOutOfOrder => &["ordered"],
        Bug::DrainCoversOlderIds => &["P2 honest"],
        Bug::IdLeaked => &["P1 answered", "bounded"],
    }
}

/// Looks for `bug` in the first `seeds` worlds.
pub fn search(bug: Bug, seeds: u64, threads: usize) -> Found {
    let start = Instant::now();
    let options = Options { plant: Some(bug), ..Options::default() };
    let summary = run_all(&Run { seeds: 0..seeds, options, threads, failures_max: 1 }, |_| {});
    Found { bug, report: summary.failures.into_iter().next(), worlds: summary.worlds, took: start.elapsed() }
}
