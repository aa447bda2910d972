//! The methods of a pod: what each is admitted by, commits, and is answered with.
//!
//! An ack is given when its transaction is committed and the wake decision is made; a rejection goes to its caller
//! alone. A caller that no longer waits changes nothing: what was queued is carried out.
//!
//! Part of `actor`, which performs; `state` admits.

use std::time::Instant;

use rpc::{CallContext, Responder};

use super::actor::{Actor, Answer, give};
use super::counting::NotCounted;
use super::state::{Input, MethodKind, Refusal, Verdict};
use crate::admission::REFUSED;
use crate::event::{Offer, apply_event_side_effects};
use crate::id::{PodId, TurnId};
use crate::protocol::{
    Accepted, ChildReady, ChildRejection, Compact, ControlRejection, Detach, DetachRejection, EventRejection, Go,
    MethodCall, Notify, NotifyRejection, PodEvent, PodEventOffer, PodState, Queued, Run, RunRejection, Shutdown,
    ShutdownMode, Stopping, Text,
};
use crate::spawn::ChildPhase;
use crate::spawn::parent::Parent;
use crate::store::{
    ChildReadiness, ChildState, HistoryItem, Lifetime, NewRun, NoteOutcome, Origin, Room, StagedRun, StoreError,
};

pub(super) fn shutdown_kind(mode: ShutdownMode) -> MethodKind {
    match mode {
        ShutdownMode::Now => MethodKind::ShutdownNow,
        ShutdownMode::Graceful => MethodKind::ShutdownGraceful,
    }
}

impl Actor {
    pub(super) fn serve(&mut self, call: MethodCall) {
        match call {
            MethodCall::Run(request, responder) => self.run_method(request, responder),
            MethodCall::Notify(request, responder) => self.notify(request, responder),
            MethodCall::PodEvent(offer, responder) => self.pod_event(offer, responder),
            MethodCall::Cancel(_, responder) => {
                self.control(MethodKind::Cancel, Box::new(move |answer| responder.answer(answer)));
            }
            MethodCall::Pause(_, responder) => {
                self.control(MethodKind::Pause, Box::new(move |answer| responder.answer(answer)));
            }
            MethodCall::Resume(_, responder) => {
                self.control(MethodKind::Resume, Box::new(move |answer| responder.answer(answer)));
            }
            MethodCall::Shutdown(request, responder) => self.shutdown(request, responder),
            MethodCall::Subscribe(request, responder, items) => {
                tokio::spawn(crate::attach::serve(self.shared.clone(), request, responder, items));
            }
            MethodCall::Status(_, responder) => {
                let (shared, phase, turn) = (self.shared.clone(), self.phase(), self.turn());
                tokio::spawn(async move {
                    match shared.status(phase, turn).await {
                        Ok(status) => responder.ack(status),
                        Err(error) => responder.not_taken(&error.chain()),
                    }
                });
            }
            MethodCall::Adopt(request, responder) => {
                let shared = self.shared.clone();
                tokio::spawn(async move {
                    let answer = crate::spawn::adopt::adopt(&shared, &request.child, &request.from).await;
                    responder.answer(answer);
                });
            }
            MethodCall::ChildReady(request, responder) => self.child_ready(request, responder),
            MethodCall::Detach(request, responder) => self.detach(request, responder),
            MethodCall::Compact(_, responder) => self.compact(responder),
            MethodCall::ListRewindTargets(_, responder) => self.list_rewind_targets(responder),
            MethodCall::RewindTo(request, responder) => self.rewind_method(request, responder),
            MethodCall::SendToPod(request, responder) => self.send_to(request, responder),
            call @ (MethodCall::SpawnPod(..)
            | MethodCall::ReadPodOutput(..)
            | MethodCall::StopPod(..)
            | MethodCall::ListPods(..)
            | MethodCall::ListVisiblePods(..)
            | MethodCall::InspectPod(..)
            | MethodCall::AttachOrRestorePod(..)
            | MethodCall::ListCompletions(..)) => crate::tools::serve(&self.handle, call),
        }
    }

    fn run_method(&mut self, request: Run, responder: Responder<Run>) {
        let work = request.work;
        if request.input.trim().is_empty() {
            return responder.reject(RunRejection::Invalid { reason: "it is empty".into() });
        }
        let origin = self.origin(responder.context());
        let step = self.step(Input::Method(MethodKind::Run));
        if let Some(Verdict::Refuse(refusal)) = step.verdict {
            let rejection = match refusal {
                Refusal::Stopping => RunRejection::Stopping,
                Refusal::AlreadyRunning | Refusal::NotRunning | Refusal::NotPaused | Refusal::Unable => {
                    RunRejection::AlreadyRunning { turn: self.turn().unwrap_or(TurnId(0)) }
                }
            };
            // It may be the very run that is running: sent again, it is told the same. Asked behind all that is submitted:
            // what was admitted before and is being committed is known by then.
            return self.behind_the_first(work, move |actor| {
                let store = actor.shared.store.clone();
                tokio::spawn(async move {
                    match store.write(move |tx| tx.accepted_run(work)).await {
                        Ok(Some(accepted)) => responder.ack(accepted),
                        Ok(None) => responder.reject(rejection),
                        Err(error) => responder.reject(RunRejection::Unavailable { reason: reason(&error) }),
                    }
                });
            });
        }
        let run = NewRun { work, origin, input: request.input.as_str().to_owned() };
        // Admitted as the only one: there is room for it.
        self.counted(Some(work), move |actor, counted| match counted {
            Ok(counted) => actor.take_run(run, counted, responder),
            Err(why) => {
                actor.step(Input::RunAborted);
                responder.reject(match why {
                    NotCounted::Cap(cap) => RunRejection::Cap { cap },
                    NotCounted::Unavailable(reason) => RunRejection::Unavailable { reason },
                    NotCounted::Stopping => RunRejection::Stopping,
                });
            }
        });
    }

    fn take_run(&mut self, run: NewRun, counted: bool, responder: Responder<Run>) {
        self.submit(
            move |tx| {
                let staged = tx.stage_run(&run)?;
                if !staged.duplicate {
                    tx.unblock()?;
                    tx.lift_with(staged.accepted.turn)?;
                }
                Ok(staged)
            },
            move |actor, staged| match staged {
                Ok((StagedRun { accepted, duplicate }, ordered)) => {
                    let facts = actor.facts(ordered);
                    if duplicate {
                        actor.uncounted(counted);
                        // Nothing was staged: what is paused stays paused, and what is blocked, blocked.
                        actor.step(Input::RunAborted);
                        actor.step(Input::Committed(facts));
                    } else {
                        actor.step(Input::RunCommitted(facts));
                    }
                    responder.ack(Accepted { turn: accepted.turn, work: accepted.work });
                }
                Err(error) => {
                    actor.uncounted(counted);
                    actor.step(Input::RunAborted);
                    responder.reject(RunRejection::Unavailable { reason: reason(&error) });
                }
            },
        );
    }

    fn notify(&mut self, request: Notify, responder: Responder<Notify>) {
        if request.message.trim().is_empty() {
            return responder.reject(NotifyRejection::Invalid { reason: "it is empty".into() });
        }
        let origin = self.origin(responder.context());
        self.step(Input::Method(MethodKind::Notify));
        self.submit(
            move |tx| tx.push_note(request.key, request.message.as_str(), origin, request.auto_run),
            |actor, queued| match queued {
                Ok((outcome, ordered)) => {
                    let facts = actor.facts(ordered);
                    let step = actor.step(Input::Committed(facts));
                    match outcome {
                        NoteOutcome::Queued => responder.ack(Queued { woke: step.woke() }),
                        NoteOutcome::Duplicate => responder.ack(Queued { woke: false }),
                        NoteOutcome::Full { max } => responder.reject(NotifyRejection::Full { max }),
                    }
                }
                Err(error) => responder.reject(NotifyRejection::Unavailable { reason: reason(&error) }),
            },
        );
    }

    /// A child's event: identity, one transaction, wake decision, ack.
    fn pod_event(&mut self, offer: PodEventOffer, responder: Responder<PodEventOffer>) {
        let arrived = Instant::now();
        let sender = self.sender(responder.context());
        if let (None, Some(reason)) = (&sender, self.is_looked_for(&offer.from)) {
            return responder.reject(EventRejection::Unavailable { reason });
        }
        let Some(sender) = sender.filter(|sender| *sender == offer.from) else {
            tracing::warn!(target: REFUSED, pod = %self.shared.id, peer = ?responder.context().peer, claims = %offer.from, "an event of a process that is not that child is refused");
            return responder.reject(EventRejection::NotYourChild);
        };
        crate::failpoint!("parent_after_receive");
        self.step(Input::Method(MethodKind::PodEvent));
        let event = offer.event.clone();
        self.submit(
            move |tx| {
                let PodEventOffer { from, stream, seq, event } = &offer;
                apply_event_side_effects(tx, &Offer { from, stream: *stream, seq: *seq, event })
            },
            move |actor, applied| match applied {
                Ok((Ok(applied), ordered)) => {
                    crate::failpoint!("parent_after_commit_before_ack");
                    actor.shared.registry.offered(&sender, &event, applied.disposition, arrived.elapsed());
                    actor.shared.registry.settled(&applied.settled);
                    let facts = actor.facts(ordered);
                    let step = actor.step(Input::Committed(facts));
                    responder.ack(applied.ack(step.woke()));
                    crate::failpoint!("parent_after_ack");
                }
                Ok((Err(rejection), _)) => {
                    if !matches!(rejection, EventRejection::OutOfOrder { .. } | EventRejection::Unavailable { .. }) {
                        tracing::warn!(target: REFUSED, pod = %actor.shared.id, peer = ?responder.context().peer, claims = %sender, %rejection, "an event is refused");
                    }
                    responder.reject(rejection);
                }
                Err(error) => responder.reject(EventRejection::Unavailable { reason: reason(&error) }),
            },
        );
    }

    fn child_ready(&mut self, request: ChildReady, responder: Responder<ChildReady>) {
        if self.phase() == PodState::Stopping {
            return responder.reject(ChildRejection::Stopping);
        }
        let sender = self.sender(responder.context());
        if let (None, Some(reason)) = (&sender, self.is_looked_for(&request.pod)) {
            return responder.reject(ChildRejection::Unavailable { reason });
        }
        let Some(sender) = sender.filter(|sender| *sender == request.pod) else {
            tracing::warn!(target: REFUSED, pod = %self.shared.id, peer = ?responder.context().peer, claims = %request.pod, "a process that is not that child says that it is ready");
            return responder.reject(ChildRejection::NotYourChild);
        };
        let (own, has_parent) = (self.shared.id.clone(), self.shared.store.own().has_parent);
        let pod = sender.clone();
        self.submit(
            move |tx| {
                // Said again, after a doubt or to a next life of ours, it is no news for our own parent.
                let known = tx.child(&pod)?.is_some_and(|row| row.state == ChildState::Ready);
                let readiness = tx.child_ready(&pod, request.stream)?;
                if request.detached && matches!(readiness, ChildReadiness::Ready { .. }) {
                    // A parent that died may have asked it to be, and could not record its answer.
                    tx.child_detached(&pod)?;
                }
                let news = !known && matches!(readiness, ChildReadiness::Ready { .. });
                if let (true, true, Some(row)) = (news, has_parent, tx.child(&pod)?) {
                    let scope = row.scope.into_iter().take(crate::protocol::SCOPE_RULES_MAX).collect::<Vec<_>>();
                    let event = PodEvent::ScopeSubDelegated {
                        pod: own.clone(),
                        parent_pod: own,
                        sub_pod: pod,
                        sub_socket: request.socket,
                        scope: rpc::List::try_from(scope).unwrap_or_default(),
                    };
                    tx.raise(&event, Room::Ordinary)?;
                }
                Ok(readiness)
            },
            move |actor, readiness| match readiness {
                Ok((ChildReadiness::Ready { watermark }, ordered)) => {
                    crate::failpoint!("parent_after_ready_before_go");
                    actor.facts(ordered);
                    let parent = actor.shared.id.clone();
                    responder.ack(Go { parent, watermark, config: Text::clipped("") });
                    if request.detached {
                        actor.shared.registry.detached(&sender);
                    }
                    actor.shared.registry.phase(&sender, ChildPhase::Ready);
                }
                Ok((readiness @ (ChildReadiness::NotYours | ChildReadiness::Stale { .. }), _)) => {
                    let rejection = match readiness {
                        ChildReadiness::Stale { current } => ChildRejection::StaleIncarnation { current },
                        _ => ChildRejection::NotYourChild,
                    };
                    tracing::warn!(target: REFUSED, pod = %actor.shared.id, peer = ?responder.context().peer, claims = %sender, %rejection, "a child that is not expected says that it is ready");
                    responder.reject(rejection);
                }
                Err(error) => responder.reject(ChildRejection::Unavailable { reason: reason(&error) }),
            },
        );
    }

    /// From the ack on it goes on when its parent ends; should it die before, it was its parent's to the end.
    fn detach(&mut self, request: Detach, responder: Responder<Detach>) {
        let by_parent = matches!(self.origin(responder.context()), Origin::Parent { .. });
        let parent = self.shared.parent.clone().filter(|_| by_parent && request.child == self.shared.id);
        let Some(parent) = parent else {
            tracing::warn!(peer = ?responder.context().peer, "a process that is not the parent wants this pod to be detached");
            return responder.reject(DetachRejection::NotYours);
        };
        if self.phase() == PodState::Stopping {
            return responder.reject(DetachRejection::Stopping);
        }
        if parent.lifetime() == Lifetime::Detached {
            return responder.ack(());
        }
        let item = HistoryItem::ChildDetached { child: request.child };
        self.submit(
            move |tx| tx.append(None, None, &item),
            move |actor, done| match done {
                Ok((_, ordered)) => {
                    actor.facts(ordered);
                    parent.detach();
                    crate::failpoint!("child_detached_before_ack");
                    responder.ack(());
                }
                Err(error) => responder.reject(DetachRejection::Unavailable { reason: reason(&error) }),
            },
        );
    }

    /// Its responder waits with the start of the turn, which is the state's next wish.
    fn compact(&mut self, responder: Responder<Compact>) {
        // Admission performs it at once, and the responder is to be there then.
        let earlier = self.compacting.replace(responder);
        let step = self.step(Input::Method(MethodKind::Compact));
        if let Some(Verdict::Refuse(refusal)) = step.verdict {
            let responder = std::mem::replace(&mut self.compacting, earlier);
            let worker = format!("worker `{}` keeps nothing that could be made shorter", self.shared.spec.kind);
            if let Some(responder) = responder {
                responder.reject(self.control_rejection(refusal, &worker));
            }
        }
    }

    fn control_rejection(&self, refusal: Refusal, unable: &str) -> ControlRejection {
        match refusal {
            Refusal::AlreadyRunning => ControlRejection::AlreadyRunning { turn: self.turn().unwrap_or(TurnId(0)) },
            Refusal::NotRunning => ControlRejection::NotRunning,
            Refusal::NotPaused => ControlRejection::NotPaused,
            Refusal::Stopping => ControlRejection::Stopping,
            Refusal::Unable => ControlRejection::Invalid { reason: Text::clipped(unable) },
        }
    }

    /// What has still to be committed before it is so is answered when it is; a turn that runs is told, and that is all
    /// that an answer waits for.
    pub(super) fn control(&mut self, method: MethodKind, answer: Answer) {
        let before = self.phase();
        if let Some(Verdict::Refuse(refusal)) = self.step(Input::Method(method)).verdict {
            let unable = "the context is being made shorter; wait for that, or cancel it";
            return answer(Err(self.control_rejection(refusal, unable)));
        }
        let (state, turns) = (*self.state(), self.turns());
        give(self.waiting.admitted(method, before, &state, turns, answer));
    }

    fn shutdown(&mut self, request: Shutdown, responder: Responder<Shutdown>) {
        tracing::info!(pod = %self.shared.id, peer = ?responder.context().peer, mode = ?request.mode, "asked to stop");
        let turn = self.turn();
        self.step(Input::Method(shutdown_kind(request.mode)));
        responder.ack(Stopping { turn });
    }

    /// Which child the kernel says the caller is: one whose process is known, and that is what has connected (`admission`).
    fn sender(&self, context: &CallContext) -> Option<PodId> {
        let pid = u32::try_from(context.peer.pid()?).ok()?;
        self.shared.registry.sender(pid)
    }

    /// Whether it may yet be known who says that it is `claims`: a child of an earlier life, whose process is being looked for.
    fn is_looked_for(&self, claims: &PodId) -> Option<Text<256>> {
        let looked_for = self.shared.registry.is_unidentified(claims);
        looked_for.then(|| "which process that child is is still being looked for".into())
    }

    pub(super) fn origin(&self, context: &CallContext) -> Origin {
        let pid = context.peer.pid();
        match self.shared.parent.as_ref().map(Parent::link) {
            Some(parent) if pid.is_some() && pid == parent.pid.map(u32::cast_signed) => {
                Origin::Parent { pod: parent.pod }
            }
            _ if pid == Some(std::process::id().cast_signed()) => Origin::Host,
            // Pods listen on Unix sockets, whose peers the kernel names; (uid_t)-1 is nobody's.
            _ => Origin::Person { uid: context.peer.uid().unwrap_or(u32::MAX), pid },
        }
    }
}

pub(super) fn reason(error: &StoreError) -> Text<256> {
    Text::clipped(error.chain())
}

#[cfg(test)]
#[path = "refusals_tests.rs"]
mod refusals;
