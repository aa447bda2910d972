//! Explores a configuration and asserts what the exploration showed.
//!
//! Never a rule or a bound of its own.
//!
//! Used by `rules`, which must hold, and by `defects`, which must be found. Both print how many worlds they saw.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::config::{Bug, Config};
use super::model::LaneModel;

/// What callers do in most runs: give up early, run out of time, ask again in either way.
pub(super) const CALLERS: Config = Config { repeats: true, voids: true, deadlines: true, ..Config::QUIET };

/// Explores everything that `config` allows: no invariant may fail, every promised sight must occur.
#[track_caller]
pub(super) fn check_holds(config: Config) {
    let start = Instant::now();
    let checker = LaneModel { config }.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let (worlds, depth) = (checker.unique_state_count(), checker.max_depth());
    eprintln!("lane model: {worlds} worlds, depth {depth}, {:.1?}", start.elapsed());
    checker.assert_properties();
}

/// The same bounds are safe without the defect and lose `property` with it.
#[track_caller]
pub(super) fn check_finds(bug: Bug, property: &'static str, config: Config) {
    check_holds(config.clone());
    let model = LaneModel { config: Config { bug, ..config } };
    let found = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().finish_when(found).spawn_bfs().join();
    let path = checker.assert_any_discovery(property);
    eprintln!("lane model: {bug:?} found, {} worlds: {:?}", checker.unique_state_count(), path.into_actions());
}
