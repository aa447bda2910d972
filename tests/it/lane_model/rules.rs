//! The rules hold: in no reachable world is a caller told something that is not so, and every call ends.
//!
//! Never a single run that tries to be everything: each explores one kind of fault deeply, with small bounds.
//!
//! `defects` shows that these same checks would fail if a rule were missing.

use super::check::{CALLERS, check_holds};
use super::config::Config;

#[test]
fn loss_of_connections_leaves_every_call_with_an_honest_end() {
    check_holds(Config {
        calls: 2,
        cuts: 2,
        reaches: &[
            "ack",
            "not delivered: voided",
            "not delivered: unwritten",
            "not delivered: never seen",
            "resolve finds it applied",
            "resolve finds it running",
            "duplicate answered from memory",
            "request arrives after its id was burned",
        ],
        ..CALLERS
    });
}

#[test]
fn answers_of_every_kind_survive_a_lost_connection() {
    check_holds(Config {
        calls: 2,
        cuts: 1,
        rejects: true,
        panics: true,
        expiries: true,
        drops: true,
        reaches: &[
            "ack",
            "rejected",
            "handler panicked",
            "refused: expired",
            "doubt dropped",
            "resolve finds it applied",
            "handler outlives its floor",
        ],
        ..CALLERS
    });
}

#[test]
fn server_that_restarts_makes_open_ids_unknown_and_applies_nothing_twice() {
    check_holds(Config {
        calls: 2,
        cuts: 1,
        crashes: 1,
        reaches: &["ack", "forgotten", "forgotten though applied", "not delivered: never seen"],
        ..CALLERS
    });
}

#[test]
fn lane_forgotten_by_retention_is_an_answer_and_no_silence() {
    check_holds(Config {
        calls: 2,
        cuts: 2,
        retentions: 1,
        repeats: true,
        reaches: &["ack", "forgotten", "forgotten though applied"],
        ..Config::QUIET
    });
}

#[test]
fn all_faults_at_once_on_one_call_leave_its_outcome_honest() {
    check_holds(Config {
        cuts: 2,
        crashes: 1,
        retentions: 1,
        refusals: 1,
        overloads: 1,
        drains: true,
        drops: true,
        rejects: true,
        reaches: &["ack", "rejected", "forgotten", "not delivered: hello refused", "refused: overloaded"],
        ..CALLERS
    });
}

#[test]
fn drain_names_the_last_id_and_the_rest_is_not_delivered() {
    check_holds(Config {
        calls: 2,
        cuts: 1,
        drains: true,
        reaches: &["ack", "not delivered: drain", "refused: draining", "resolve finds it applied"],
        ..CALLERS
    });
}

#[test]
fn full_window_refuses_on_either_side() {
    check_holds(Config {
        calls: 2,
        client_window: 1,
        cuts: 1,
        reaches: &["ack", "not delivered: window full"],
        ..CALLERS
    });
    check_holds(Config { calls: 2, server_window: 1, cuts: 1, reaches: &["ack", "refused: window full"], ..CALLERS });
}

#[test]
fn parked_id_stays_resolvable_after_the_floor_has_passed_it() {
    let reaches = &["ack", "not delivered: never seen", "parked id answered after its floor passed"];
    check_holds(Config { calls: 3, client_window: 2, cuts: 1, parks: true, repeats: true, reaches, ..Config::QUIET });
    check_holds(Config { calls: 2, client_window: 1, cuts: 2, parks: true, reaches, ..CALLERS });
}

#[test]
fn parked_id_is_unknown_once_its_memory_is_gone() {
    let reaches = &["ack", "forgotten though applied", "parked id answered after its floor passed"];
    check_holds(Config { calls: 2, client_window: 1, cuts: 1, crashes: 1, parks: true, reaches, ..CALLERS });
}

#[test]
fn refusal_for_lack_of_permits_leaves_every_outcome_honest() {
    check_holds(Config { calls: 2, cuts: 1, overloads: 1, reaches: &["ack", "refused: overloaded"], ..CALLERS });
}

#[test]
fn ping_may_carry_the_floor_ahead_of_requests() {
    check_holds(Config {
        calls: 2,
        cuts: 1,
        pings: true,
        drops: true,
        reaches: &["handler outlives its floor"],
        ..CALLERS
    });
    check_holds(Config {
        calls: 2,
        client_window: 1,
        cuts: 1,
        deadlines: true,
        drops: true,
        pings: true,
        parks: true,
        reaches: &["parked id answered after its floor passed", "handler outlives its floor"],
        ..Config::QUIET
    });
}

#[test]
fn frames_may_follow_every_hello_at_once_if_the_park_list_leads_them() {
    let eager = Config { calls: 2, cuts: 1, eager: true, ..CALLERS };
    check_holds(Config { refusals: 1, reaches: &["not delivered: hello refused"], ..eager.clone() });
    check_holds(Config {
        client_window: 1,
        crashes: 1,
        parks: true,
        reaches: &["forgotten though applied", "parked id answered after its floor passed"],
        ..eager
    });
}

#[test]
fn server_that_drains_and_restarts_leaves_every_outcome_honest() {
    let reaches = &["not delivered: drain", "forgotten though applied", "not delivered: hello refused"];
    check_holds(Config { calls: 2, cuts: 1, crashes: 1, drains: true, refusals: 1, reaches, ..Config::QUIET });
}
