//! The sentences that must hold in every world, and the worlds that must be reachable for them to mean anything.
//!
//! Pure judgement over `state`. Never a sentence about how the protocol works, only about what a caller was told and what
//! really happened.
//!
//! Checked by stateright for every world that `model` can reach.

use stateright::{Model, Property};

use super::config::Config;
use super::model::LaneModel;
use super::state::{Answer, Cause, Down, Entry, Id, Outcome, Phase, Refusal, ServerEnd, Up, Why, World};

pub(super) const NOT_DELIVERED: &str = "NotDelivered: no handler saw it, none will";
pub(super) const ACKED: &str = "Ack: applied exactly once";
pub(super) const REJECTED: &str = "Rejected: nothing was applied";
pub(super) const ONCE: &str = "applied at most once within one server memory";
pub(super) const NOT_BLIND: &str = "applied at most once over all memories: nothing is repeated blindly";
pub(super) const FIRST_ANSWER: &str = "every answer from one memory is its first answer";
pub(super) const REMEMBERED: &str = "a memory that lives on forgets no open id";
pub(super) const ENDS: &str = "no call is left without an end when nothing more can happen";

/// The invariants, and those of the reachable sights that this configuration promises.
pub(super) fn of(config: &Config) -> Vec<Property<LaneModel>> {
    let mut properties = vec![
        Property::always(NOT_DELIVERED, |model: &LaneModel, world: &World| {
            ended(model, world, |outcome| matches!(outcome, Outcome::NotDelivered(_)))
                .all(|id| world.truth(id).applied() == 0)
        }),
        Property::always(ACKED, |model: &LaneModel, world: &World| {
            ended(model, world, |outcome| outcome == Outcome::Ack).all(|id| world.truth(id).applied() == 1)
        }),
        Property::always(REJECTED, |model: &LaneModel, world: &World| {
            ended(model, world, |outcome| outcome == Outcome::Rejected).all(|id| world.truth(id).applied() == 0)
        }),
        Property::always(ONCE, |_, world: &World| world.truth.iter().all(|truth| truth.applied_now <= 1)),
        Property::always(NOT_BLIND, |_, world: &World| world.truth.iter().all(|truth| truth.applied() <= 1)),
        Property::always(FIRST_ANSWER, answers_agree),
        Property::always(REMEMBERED, |model: &LaneModel, world: &World| {
            ended(model, world, |outcome| outcome == Outcome::Unknown(Cause::FloorPassed)).next().is_none()
        }),
        Property::always(ENDS, |model: &LaneModel, world: &World| {
            world.all_ended(&model.config) || {
                let mut actions = Vec::new();
                model.actions(world, &mut actions);
                !actions.is_empty()
            }
        }),
    ];
    properties.extend(config.reaches.iter().map(|name| {
        let sight = SIGHTS.iter().find(|(known, _)| known == name);
        let (name, seen) = sight.unwrap_or_else(|| panic!("no sight is called {name:?}"));
        Property::sometimes(name, *seen)
    }));
    properties
}

type Sight = (&'static str, fn(&LaneModel, &World) -> bool);

/// Worlds that must occur; a rule that is never exercised has not been checked.
pub(super) const SIGHTS: [Sight; 22] = [
    ("ack", |m, w| told(m, w, Outcome::Ack)),
    ("rejected", |m, w| told(m, w, Outcome::Rejected)),
    ("handler panicked", |m, w| told(m, w, Outcome::Unknown(Cause::HandlerPanicked))),
    ("doubt dropped", |m, w| told(m, w, Outcome::Unknown(Cause::Dropped))),
    ("forgotten", |m, w| told(m, w, Outcome::Unknown(Cause::MemoryLost))),
    ("forgotten though applied", |m, w| {
        ended(m, w, |outcome| outcome == Outcome::Unknown(Cause::MemoryLost)).any(|id| w.truth(id).applied() == 1)
    }),
    ("not delivered: voided", |m, w| told(m, w, Outcome::NotDelivered(Why::Voided))),
    ("not delivered: unwritten", |m, w| told(m, w, Outcome::NotDelivered(Why::Unwritten))),
    ("not delivered: never seen", |m, w| told(m, w, Outcome::NotDelivered(Why::NeverSeen))),
    ("not delivered: hello refused", |m, w| told(m, w, Outcome::NotDelivered(Why::HelloRefused))),
    ("not delivered: drain", |m, w| {
        // Claimed before the Drain was read: the server's word is what ends it.
        let link = w.client.link.filter(|link| link.welcomed);
        let drain = link.and_then(|link| w.conn(link.epoch).down.first().map(|frame| (link.epoch, *frame)));
        let Some((epoch, Down::Drain { last })) = drain else { return false };
        ids(m).any(|id| w.is_open(id) && id > last && w.call(id).first_epoch == epoch)
    }),
    ("not delivered: window full", |m, w| told(m, w, Outcome::NotDelivered(Why::WindowFull))),
    ("refused: window full", |m, w| told(m, w, refused(Refusal::WindowFull))),
    ("refused: overloaded", |m, w| told(m, w, refused(Refusal::Overloaded))),
    ("refused: draining", |m, w| told(m, w, refused(Refusal::Draining))),
    ("refused: expired", |m, w| told(m, w, refused(Refusal::Expired))),
    ("resolve finds it applied", |_, w| {
        head(w).any(|(frame, entry)| matches!(frame, Up::Resolve { .. }) && entry == Entry::Answered(Answer::Applied))
    }),
    ("resolve finds it running", |_, w| {
        head(w).any(|(frame, entry)| matches!(frame, Up::Resolve { .. }) && matches!(entry, Entry::Running { .. }))
    }),
    ("duplicate answered from memory", |_, w| {
        head(w).any(|(frame, entry)| matches!(frame, Up::Request { .. }) && entry == Entry::Answered(Answer::Applied))
    }),
    ("request arrives after its id was burned", |_, w| {
        head(w).any(|(frame, entry)| matches!(frame, Up::Request { .. }) && entry == Entry::Answered(Answer::NeverSeen))
    }),
    ("parked id answered after its floor passed", |m, w| {
        let Some((link, lane)) = w.client.link.zip(w.server.lane.as_ref()) else { return false };
        let answered = |id| Some(&Down::Answer { id, answer: Answer::Applied }) == w.conn(link.epoch).down.first();
        ids(m).any(|id| w.is_open(id) && w.call(id).parked && id < lane.floor && answered(id))
    }),
    ("handler outlives its floor", |_, w| {
        w.server.lane.as_ref().is_some_and(|lane| lane.entries.contains(&Entry::Orphan))
    }),
];

fn ids(model: &LaneModel) -> impl Iterator<Item = Id> {
    1..=model.config.calls
}

fn ended(model: &LaneModel, world: &World, wanted: impl Fn(Outcome) -> bool) -> impl Iterator<Item = Id> {
    ids(model).filter(move |&id| matches!(world.call(id).phase, Phase::Ended(outcome) if wanted(outcome)))
}

fn told(model: &LaneModel, world: &World, wanted: Outcome) -> bool {
    ended(model, world, |outcome| outcome == wanted).next().is_some()
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome::NotDelivered(Why::Refused(refusal))
}

/// The next frame of each live connection that asks for an id, with what the memory holds for it.
fn head(world: &World) -> impl Iterator<Item = (Up, Entry)> {
    let live = world.conns.iter().filter(|conn| conn.server == ServerEnd::Live);
    live.filter_map(|conn| {
        let frame = *conn.up.first()?;
        let (Up::Request { id, .. } | Up::Resolve { id }) = frame else { return None };
        Some((frame, world.server.lane.as_ref()?.entry(id)))
    })
}

/// Compares what the memory would say with what its handler first said.
fn answers_agree(model: &LaneModel, world: &World) -> bool {
    let Some(lane) = &world.server.lane else { return true };
    ids(model).all(|id| match (lane.entry(id), world.truth(id).first) {
        (Entry::Answered(answer), Some(first)) => answer == first,
        _ => true,
    })
}
