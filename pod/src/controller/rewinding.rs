//! Going back: the methods that list to where, and do it.
//!
//! Which children stand in the way is found out in the transaction itself; those that are to be stopped are stopped first,
//! while the pod answers everything else and starts no turn, and then the transaction is tried again. Those that are to go on
//! without the pod are told so in the same way; whether each was is found out, and recorded, whatever becomes of the rewind.
//!
//! Part of `actor`, like `calls`.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rpc::{CallError, Responder};
use tokio::sync::oneshot;

use super::actor::{Actor, Completion};
use super::calls::reason;
use super::state::{Input, MethodKind, Refusal, Verdict};
use crate::handle::{PodHandle, Shared};
use crate::id::{PodId, PodName, TurnId};
use crate::protocol::{
    Detach, Method, PodState, REWIND_CHILDREN_MAX, REWIND_TARGETS_MAX, RewindAck, RewindChildren, RewindRejection,
    RewindTarget, RewindTargets, RewindTo, Rewound, Text,
};
use crate::spawn::registry::Stop;
use crate::store::{Lifetime, Rewind, RewindOutcome, StoreError};
use crate::worker::RewoundTo;

/// How long a child may take to end by itself.
const CHILD_GRACE: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(20) };
/// How long children that are being stopped are waited for. LIMIT: the grace, that between the two signals, and some. One
/// that cannot be signalled, because an earlier life of ours had started it, may never end.
const ROUND_MAX: Duration = CHILD_GRACE.saturating_add(Duration::from_secs(10));
/// Between two attempts to find out whether a child was detached, or to record it. LIMIT: a full disk is no better in less.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// LIMIT: how often children that live are stopped for one rewind. No turn starts any meanwhile; only the program that
/// hosts the pod could.
const ROUNDS_MAX: u32 = 3;

/// A rewind that was admitted.
struct Going {
    request: RewindTo,
    rewind: Rewind,
    responder: Responder<RewindTo>,
    /// Those that were told to end for it, or to go on without the pod: whatever becomes of it, they do.
    told: BTreeSet<PodId>,
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
        self.go_back(Going { request, rewind, responder, told: BTreeSet::new(), rounds: 0 });
    }

    fn cannot_rewind(&self) -> RewindRejection {
        let reason = format!("worker `{}` cannot forget what it knows", self.shared.spec.kind);
        RewindRejection::NotEligible { reason: Text::clipped(reason) }
    }

    fn go_back(&mut self, going: Going) {
        let rewind = going.rewind.clone();
        let detaches = going.request.children == RewindChildren::Detach;
        self.submit(
            move |tx| if detaches { tx.rewind_detaching(&rewind) } else { tx.rewind(&rewind) },
            move |actor, done| match done {
                Ok((RewindOutcome::Done(rewound), ordered)) => {
                    actor.shared.registry.settled(&rewound.settled);
                    let to = RewoundTo { turn: rewound.target, entry: rewound.to };
                    let earlier = actor.rewound.filter(|known| known.entry < to.entry);
                    actor.rewound = Some(earlier.unwrap_or(to));
                    actor.paused = None;
                    let facts = actor.facts(ordered);
                    actor.step(Input::RewindCommitted(facts));
                    let (children_stopped, children_detached) = if detaches {
                        (0, going.told.iter().filter(|child| actor.is_detached(child)).count() as u64)
                    } else {
                        // Had one of them not ended, it would stand in the way.
                        (going.told.len() as u64, 0)
                    };
                    going.responder.ack(RewindAck::Rewound(Rewound {
                        target: rewound.target,
                        head: rewound.head,
                        turns: rewound.turns,
                        input: rewound.input.map(Text::clipped),
                        reports: rewound.returned,
                        children_stopped,
                        children_detached,
                    }));
                }
                Ok((RewindOutcome::HeadMoved { head }, _)) => actor.stay(going, RewindRejection::HeadMoved { head }),
                Ok((RewindOutcome::NotEligible(why), _)) => {
                    actor.stay(going, RewindRejection::NotEligible { reason: Text::clipped(why) });
                }
                Ok((RewindOutcome::ChildrenLive(children), _)) => actor.children_live(going, children),
                Err(error) => actor.stay(going, RewindRejection::Unavailable { reason: reason(&error) }),
            },
        );
    }

    /// Whether a child lives and goes on when this pod ends.
    fn is_detached(&self, child: &PodId) -> bool {
        let line = self.shared.registry.life(child);
        line.is_some_and(|line| line.terminal.is_none() && line.lifetime == Lifetime::Detached)
    }

    /// It is not done. That nothing was applied is said only where that is so: a child that was told to end does, however
    /// long it takes.
    fn stay(&mut self, going: Going, reason: RewindRejection) {
        self.step(Input::RewindAborted);
        if going.told.is_empty() {
            return going.responder.reject(reason);
        }
        let is_over = |child: &&PodId| self.shared.registry.life(child).is_none_or(|line| line.terminal.is_some());
        let children_stopped = going.told.iter().filter(is_over).count() as u64;
        // A pod that stops ends those that have not said that they go on.
        let ends_others = going.request.children == RewindChildren::Detach && self.phase() == PodState::Stopping;
        let goes_on = |child: &&PodId| !ends_others || self.is_detached(child);
        let children_told = going.told.iter().filter(goes_on).count() as u64;
        going.responder.ack(RewindAck::NotRewound { children_told, children_stopped, reason });
    }

    fn children_live(&mut self, going: Going, children: Vec<PodId>) {
        let count = children.len() as u64;
        let names = || {
            let named: Vec<PodName> = children.iter().take(REWIND_CHILDREN_MAX).map(|pod| pod.name.clone()).collect();
            rpc::List::try_from(named).unwrap_or_default()
        };
        match going.request.children {
            RewindChildren::Stop if going.rounds < ROUNDS_MAX => self.clear_the_way(going, children),
            RewindChildren::Detach if going.rounds == 0 => self.clear_the_way(going, children),
            RewindChildren::Detach => {
                self.stay(going, RewindRejection::CannotDetach { count, children: names() });
            }
            RewindChildren::Refuse | RewindChildren::Stop => {
                self.stay(going, RewindRejection::ChildrenLive { count, children: names() });
            }
        }
    }

    /// One round: tells the children to end, or to go on without the pod, and waits, in a task of its own, until they do, for as
    /// long as is reasonable, or until nobody wants the rewind any more. They do all the same.
    fn clear_the_way(&mut self, mut going: Going, children: Vec<PodId>) {
        let (abort, aborted) = oneshot::channel();
        self.abort_rewind = Some(abort);
        self.step(Input::RewindStops);
        if self.state().is_rewind_given_up() {
            // Before anybody was told anything for it.
            return self.stay(going, RewindRejection::Stopping);
        }
        // Told here, where it is counted, and not in the task: what is told and what is given up cannot overtake each other.
        let round = if going.request.children == RewindChildren::Detach {
            going.told.extend(children.iter().cloned());
            tokio::spawn(until_detached(self.shared.clone(), children, aborted))
        } else {
            let stop = Stop { now: false, grace: CHILD_GRACE };
            going.told.extend(children.iter().filter(|child| self.shared.registry.stop(child, stop)).cloned());
            tokio::spawn(until_ended(self.handle.clone(), children, aborted))
        };
        self.later(Box::pin(async move {
            // Whether the others do what they were told says the transaction that follows.
            let never_told = round.await.unwrap_or_default();
            Box::new(move |actor: &mut Self| {
                actor.abort_rewind = None;
                going.told.retain(|child| !never_told.contains(child));
                going.rounds += 1;
                if !actor.state().is_rewind_given_up() {
                    actor.step(Input::RewindGoesOn);
                    return actor.go_back(going);
                }
                let stopping = actor.phase() == PodState::Stopping;
                actor.stay(going, if stopping { RewindRejection::Stopping } else { RewindRejection::Cancelled });
            }) as Completion
        }));
    }
}

/// Waits until they have ended, for as long as is reasonable, or until nobody waits for that any more.
async fn until_ended(handle: PodHandle, children: Vec<PodId>, aborted: oneshot::Receiver<()>) -> Vec<PodId> {
    let end = async |pod: PodId| {
        // A later life of the name is somebody else.
        if let Some(child) = handle.child(&pod.name).filter(|child| *child.id() == pod) {
            _ = child.terminal().await;
        }
    };
    let mut ends: FuturesUnordered<_> = children.into_iter().map(end).collect();
    let all = async { while ends.next().await.is_some() {} };
    // CANCEL SAFETY: waiting changes nothing.
    tokio::select! {
        () = all => {}
        _ = aborted => {}
        () = tokio::time::sleep(ROUND_MAX) => {}
    }
    Vec::new()
}

/// Tells each to go on when we end, and waits for their answers, as above. Returns those that have certainly not been told. What is
/// not known by then is found out all the same, and recorded.
async fn until_detached(shared: Shared, children: Vec<PodId>, mut aborted: oneshot::Receiver<()>) -> Vec<PodId> {
    let detach = |pod: PodId| tokio::spawn(detach_until_known(shared.clone(), pod));
    let mut answers: FuturesUnordered<_> = children.into_iter().map(detach).collect();
    let (mut never_told, mut late) = (Vec::new(), std::pin::pin!(tokio::time::sleep(ROUND_MAX)));
    loop {
        // CANCEL SAFETY: each is a task of its own, and goes on.
        tokio::select! {
            biased;
            answer = answers.next() => match answer {
                Some(answer) => never_told.extend(answer.ok().flatten()),
                None => return never_told,
            },
            _ = &mut aborted => return never_told,
            () = &mut late => return never_told,
        }
    }
}

/// Tells a child to go on when we end until it is known what it does, and records that. Returns it if it was certainly not told, or
/// has said no.
async fn detach_until_known(shared: Shared, child: PodId) -> Option<PodId> {
    let client = rpc::Client::<Method>::new(&rpc::Address::unix(shared.roots.pod(&child.name).socket()));
    let is_over = || shared.registry.life(&child).is_none_or(|line| line.terminal.is_some());
    let (mut in_doubt, mut done) = (false, shared.done.subscribe());
    loop {
        match client.call(Detach { child: child.clone() }).await {
            Ok(()) => break,
            Err(error) => {
                tracing::info!(pod = %shared.id, %child, %error, "a child has not said that it goes on without us");
                in_doubt |= matches!(error, CallError::Unknown(_));
                if !in_doubt {
                    return Some(child);
                }
            }
        }
        // Its end, or ours, leaves nothing to be found out.
        let ended = tokio::time::timeout(ASK_EVERY, done.wait_for(|done| *done)).await.is_ok();
        if ended || is_over() {
            return None;
        }
    }
    // It has written that down itself. Whatever comes before we have: it is not ended with us, and its next word tells us again.
    shared.registry.detached(&child);
    crate::failpoint!("parent_child_detached_before_record");
    loop {
        let detached = child.clone();
        match shared.commit(move |tx| tx.child_detached(&detached)).await {
            Ok(_) => break,
            Err(StoreError::Closed) => return None,
            Err(error) => {
                tracing::error!(pod = %shared.id, %child, error = error.chain(), "that a child goes on without us cannot be recorded; it is tried again");
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
    }
    None
}

#[cfg(test)]
#[path = "rewinding_tests.rs"]
mod tests;
