//! Going back: the methods that list to where, and do it.
//!
//! Which children stand in the way is found out in the transaction itself; those that are to be stopped are stopped first,
//! while the pod answers everything else and starts no turn, and then the transaction is tried again.
//!
//! Part of `actor`, like `calls`.

use std::time::Duration;

use rpc::Responder;

use super::actor::{Actor, Completion};
use super::calls::reason;
use super::state::{Input, MethodKind, Refusal, Verdict};
use crate::id::{PodId, PodName, TurnId};
use crate::protocol::{
    REWIND_CHILDREN_MAX, REWIND_TARGETS_MAX, RewindChildren, RewindRejection, RewindTarget, RewindTargets, RewindTo,
    Rewound, Text,
};
use crate::store::{Rewind, RewindOutcome};
use crate::worker::RewoundTo;

/// How long a child may take to end by itself.
const CHILD_GRACE: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(20) };
/// LIMIT: how often children that live are stopped for one rewind. No turn starts any meanwhile; only the program that
/// hosts the pod could.
const ROUNDS_MAX: u32 = 3;

/// A rewind that was admitted.
struct Going {
    request: RewindTo,
    rewind: Rewind,
    responder: Responder<RewindTo>,
    stopped: u64,
    rounds: u32,
}

impl Actor {
    pub(super) fn list_rewind_targets(&mut self, responder: Responder<crate::protocol::ListRewindTargets>) {
        if !self.worker_rewinds() {
            return responder.reject(self.cannot_rewind());
        }
        let store = self.shared.store.clone();
        tokio::spawn(async move {
            let max = u32::try_from(REWIND_TARGETS_MAX).unwrap_or(u32::MAX);
            match store.read(move |reads| reads.rewind_targets(max)).await {
                Ok(found) => {
                    let targets = found.targets.into_iter().map(|target| RewindTarget {
                        turn: target.turn,
                        at_ms: target.at.0,
                        input: target.input.map(Text::clipped),
                        reports: target.reports,
                        children: target.children.len() as u64,
                    });
                    let targets = rpc::List::try_from(targets.collect::<Vec<_>>()).unwrap_or_default();
                    responder.ack(RewindTargets { head: found.head, targets, more: found.more });
                }
                Err(error) => responder.reject(RewindRejection::Unavailable { reason: reason(&error) }),
            }
        });
    }

    pub(super) fn rewind_method(&mut self, request: RewindTo, responder: Responder<RewindTo>) {
        let by = self.origin(responder.context());
        if let Some(Verdict::Refuse(refusal)) = self.step(Input::Method(MethodKind::Rewind)).verdict {
            return responder.reject(match refusal {
                Refusal::Unable => self.cannot_rewind(),
                Refusal::Stopping => RewindRejection::Stopping,
                Refusal::AlreadyRunning | Refusal::NotRunning | Refusal::NotPaused => {
                    RewindRejection::AlreadyRunning { turn: self.turn().unwrap_or(TurnId(0)) }
                }
            });
        }
        let rewind = Rewind { target: request.target, expected_head: request.expected_head, by };
        self.go_back(Going { request, rewind, responder, stopped: 0, rounds: 0 });
    }

    fn cannot_rewind(&self) -> RewindRejection {
        let reason = format!("worker `{}` cannot forget what it knows", self.shared.spec.kind);
        RewindRejection::NotEligible { reason: Text::clipped(reason) }
    }

    fn go_back(&mut self, going: Going) {
        let rewind = going.rewind.clone();
        self.submit(
            move |tx| tx.rewind(&rewind),
            move |actor, done| match done {
                Ok((RewindOutcome::Done(rewound), ordered)) => {
                    actor.shared.registry.settled(&rewound.settled);
                    let to = RewoundTo { turn: rewound.target, entry: rewound.to };
                    let earlier = actor.rewound.filter(|known| known.entry < to.entry);
                    actor.rewound = Some(earlier.unwrap_or(to));
                    let facts = actor.facts(ordered);
                    actor.step(Input::RewindCommitted(facts));
                    going.responder.ack(Rewound {
                        target: rewound.target,
                        head: rewound.head,
                        turns: rewound.turns,
                        input: rewound.input.map(Text::clipped),
                        reports: rewound.returned,
                        children_stopped: going.stopped,
                    });
                }
                Ok((RewindOutcome::HeadMoved { head }, _)) => {
                    actor.stay(going.responder, RewindRejection::HeadMoved { head });
                }
                Ok((RewindOutcome::NotEligible(why), _)) => {
                    actor.stay(going.responder, RewindRejection::NotEligible { reason: Text::clipped(why) });
                }
                Ok((RewindOutcome::ChildrenLive(children), _)) => actor.children_live(going, children),
                Err(error) => actor.stay(going.responder, RewindRejection::Unavailable { reason: reason(&error) }),
            },
        );
    }

    fn stay(&mut self, responder: Responder<RewindTo>, why: RewindRejection) {
        self.step(Input::RewindAborted);
        responder.reject(why);
    }

    fn children_live(&mut self, going: Going, children: Vec<PodId>) {
        let count = children.len() as u64;
        let names = || {
            let named: Vec<PodName> = children.iter().take(REWIND_CHILDREN_MAX).map(|pod| pod.name.clone()).collect();
            rpc::List::try_from(named).unwrap_or_default()
        };
        match going.request.children {
            RewindChildren::Stop if going.rounds < ROUNDS_MAX => {
                let handle = self.handle.clone();
                self.later(Box::pin(async move {
                    let stops = children.iter().map(|child| handle.stop_pod(&child.name, CHILD_GRACE));
                    // One that cannot be stopped is found live again; the pod's own end ends them all.
                    futures::future::join_all(stops).await;
                    let going = Going { stopped: going.stopped + count, rounds: going.rounds + 1, ..going };
                    Box::new(move |actor: &mut Self| actor.go_back(going)) as Completion
                }));
            }
            RewindChildren::Detach => {
                self.stay(going.responder, RewindRejection::CannotDetach { count, children: names() });
            }
            RewindChildren::Refuse | RewindChildren::Stop => {
                self.stay(going.responder, RewindRejection::ChildrenLive { count, children: names() });
            }
        }
    }
}

#[cfg(test)]
#[path = "rewinding_tests.rs"]
mod tests;
