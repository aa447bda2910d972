//! Each rule is needed: without it the checker finds a world in which a caller was told something that is not so.
//!
//! Never two defects at once, except where one defence hides the lack of another and the name says so.
//!
//! The same bounds without the defect are explored first, so that it is the defect that is found.

use super::check::check_finds;
use super::config::{Bug, Config};
use super::properties::{ACKED, ENDS, FIRST_ANSWER, NOT_BLIND, NOT_DELIVERED, ONCE, REJECTED, REMEMBERED};

#[test]
fn defect_no_fence_is_found() {
    check_finds(Bug::NoFence, NOT_DELIVERED, Config { cuts: 1, overloads: 1, repeats: true, ..Config::QUIET });
}

#[test]
fn defect_resolve_without_burn_is_found() {
    check_finds(Bug::ResolveWithoutBurn, NOT_DELIVERED, Config { cuts: 1, repeats: true, ..Config::QUIET });
    // On a healthy connection too: the question overtakes the frame that it is about.
    check_finds(Bug::ResolveWithoutBurn, NOT_DELIVERED, Config { deadlines: true, ..Config::QUIET });
}

#[test]
fn defect_evicted_answer_is_found() {
    let config = Config { calls: 2, server_window: 1, cuts: 1, repeats: true, rejects: true, ..Config::QUIET };
    check_finds(Bug::Evicts, ONCE, config.clone());
    check_finds(Bug::Evicts, NOT_DELIVERED, config.clone());
    check_finds(Bug::Evicts, FIRST_ANSWER, config.clone());
    check_finds(Bug::Evicts, REJECTED, config);
}

#[test]
fn defect_written_frame_called_not_delivered_is_found() {
    check_finds(Bug::WrittenIsNotDelivered, NOT_DELIVERED, Config { deadlines: true, ..Config::QUIET });
}

#[test]
fn defect_blind_repeat_after_restart_is_found() {
    let config = Config { crashes: 1, repeats: true, ..Config::QUIET };
    check_finds(Bug::RepeatsBlindly, NOT_BLIND, config.clone());
    check_finds(Bug::RepeatsBlindly, ACKED, config.clone());
    check_finds(Bug::RepeatsBlindly, NOT_DELIVERED, config);
}

#[test]
fn defect_floor_over_open_id_is_found() {
    let config = Config { calls: 2, cuts: 1, deadlines: true, ..Config::QUIET };
    check_finds(Bug::FloorPassesOpenId, REMEMBERED, config.clone());
    check_finds(Bug::BelowFloorIsNeverSeen, NOT_DELIVERED, config);
}

#[test]
fn defect_park_list_not_repeated_is_found() {
    let config = Config { calls: 2, client_window: 1, cuts: 1, parks: true, ..Config::QUIET };
    check_finds(Bug::ParkNotRepeated, REMEMBERED, config);
}

#[test]
fn defect_floor_stamped_at_claim_is_found() {
    let config = Config { calls: 3, client_window: 2, cuts: 1, parks: true, ..Config::QUIET };
    check_finds(Bug::FloorStampedAtClaim, REMEMBERED, config);
}

#[test]
fn defect_bare_resumed_flag_is_found_when_a_welcome_is_lost() {
    check_finds(Bug::ResumedIsBare, NOT_DELIVERED, Config { cuts: 1, crashes: 1, ..Config::QUIET });
}

#[test]
fn defect_late_hello_after_retention_is_found() {
    check_finds(Bug::LateHelloAfterRetention, NOT_DELIVERED, Config { cuts: 2, retentions: 1, ..Config::QUIET });
}

#[test]
fn defect_stale_refusal_is_found() {
    check_finds(Bug::StaleNack, NOT_DELIVERED, Config { cuts: 1, overloads: 1, repeats: true, ..Config::QUIET });
}

#[test]
fn defect_second_copy_on_one_connection_is_found() {
    let config = Config { overloads: 1, deadlines: true, repeats: true, ..Config::QUIET };
    check_finds(Bug::SecondCopyOnOneConnection, NOT_DELIVERED, config);
}

#[test]
fn defect_voided_repeat_taken_as_proof_is_found() {
    let config = Config { cuts: 1, voids: true, repeats: true, ..Config::QUIET };
    check_finds(Bug::VoidedRepeatIsNotDelivered, NOT_DELIVERED, config);
}

#[test]
fn defect_refusal_before_lookup_is_found() {
    let config = Config { cuts: 1, overloads: 1, repeats: true, ..Config::QUIET };
    check_finds(Bug::RefusesBeforeLookup, NOT_DELIVERED, config);
}

#[test]
fn defect_drain_over_older_ids_is_found() {
    let config = Config { cuts: 1, drains: true, ..Config::QUIET };
    check_finds(Bug::DrainCoversOlderIds, NOT_DELIVERED, config);
}

#[test]
fn defect_hello_refusal_over_older_ids_is_found() {
    check_finds(Bug::HelloRefusalCoversOlderIds, NOT_DELIVERED, Config { cuts: 1, refusals: 1, ..Config::QUIET });
}

#[test]
fn defect_unattached_answer_is_found() {
    check_finds(Bug::RunningNotReattached, ENDS, Config { cuts: 1, ..Config::QUIET });
}

#[test]
fn defect_missing_burn_beyond_window_is_found() {
    let config = Config { calls: 2, server_window: 1, deadlines: true, pings: true, ..Config::QUIET };
    check_finds(Bug::NoBurnBeyondWindow, NOT_DELIVERED, config);
}
