//! Telling a pod something: know this, do this next, do this instead.
//!
//! The pod decides in which state it is, so that nothing changes between a look and a wish. What is staged is committed
//! first; only then is a turn told to end: a wish that could not be committed has interrupted nothing. A wish that is
//! repeated under its key does nothing again, and is told the same.
//!
//! Part of `actor`, like `calls`. The table of what happens stands at [`SendKind`](crate::protocol::SendKind).

use rpc::Responder;

use super::actor::Actor;
use super::calls::reason;
use super::counting::{COUNTING_MAX, NotCounted};
use super::state::{Input, MethodKind, Refusal, Verdict};
use crate::id::{NoteKey, TurnId, WorkId};
use crate::protocol::{
    ControlRejection, NOTE_BYTES_MAX, Next, PodState, SendKind, SendRejection, SendToPod, Sent, Text, Told,
};
use crate::store::{Direction, NewRun, NoteOutcome, StagedRun, StoreError, Tx};

/// LIMIT: work that waits behind a turn. Whoever sends more wants a queue of his own.
const STAGED_MAX: usize = 64;

/// How work is to be staged.
struct Wish {
    interrupt: bool,
    /// No admission was needed.
    behind: bool,
    /// The turn that ran when it was asked for, or was about to: by its place among all of this life.
    meant: Option<u64>,
    counted: bool,
}

/// What became of work that was to be staged.
enum Staging {
    Staged {
        run: StagedRun,
        /// Other work that comes first.
        ahead: u64,
        /// The turn that was paused.
        paused: Option<TurnId>,
    },
    Full,
}

impl Actor {
    pub(super) fn send_to(&mut self, request: SendToPod, responder: Responder<SendToPod>) {
        let empty = request.text.trim().is_empty();
        match request.how {
            SendKind::Interrupt if empty => self.interrupt(responder),
            _ if empty => responder.reject(SendRejection::Invalid { reason: "it is empty".into() }),
            SendKind::Steer => self.steer(request, responder),
            SendKind::FollowUp | SendKind::Interrupt => self.stage(request, responder),
        }
    }

    fn steer(&mut self, request: SendToPod, responder: Responder<SendToPod>) {
        let bytes = request.text.len();
        if bytes > NOTE_BYTES_MAX {
            let reason =
                format!("it has {bytes} bytes; a pod is steered with at most {NOTE_BYTES_MAX}, or sent a follow-up");
            return responder.reject(SendRejection::Invalid { reason: Text::clipped(reason) });
        }
        let origin = self.origin(responder.context());
        self.step(Input::Method(MethodKind::Notify));
        self.submit(
            move |tx| tx.push_note(NoteKey(request.key.0), request.text.as_str(), origin, true),
            |actor, queued| match queued {
                Ok((NoteOutcome::Full { max }, ordered)) => {
                    actor.facts(ordered);
                    responder.reject(SendRejection::Full { max });
                }
                Ok((NoteOutcome::Queued | NoteOutcome::Duplicate, ordered)) => {
                    let facts = actor.facts(ordered);
                    let woke = actor.step(Input::Committed(facts)).woke();
                    responder.ack(Sent::Steered { told: actor.told(woke) });
                }
                Err(error) => responder.reject(SendRejection::Unavailable { reason: reason(&error) }),
            },
        );
    }

    fn told(&self, woke: bool) -> Told {
        match self.phase() {
            _ if !self.worker_reads_reports() => Told::Recorded,
            _ if woke => Told::NewTurn,
            // What is paused or blocked is so again behind a compaction, which tells nothing.
            PodState::Running
                if matches!(self.state().behind_compaction(), Some(PodState::Paused | PodState::Blocked)) =>
            {
                Told::Later { state: self.state().behind_compaction().unwrap_or_default() }
            }
            PodState::Running => Told::NextRequest { turn: self.turn().unwrap_or(TurnId(0)) },
            state => Told::Later { state },
        }
    }

    /// Without anything to do instead.
    fn interrupt(&mut self, responder: Responder<SendToPod>) {
        self.control(
            MethodKind::Cancel,
            Box::new(move |answer| match answer {
                Ok(ack) => responder.ack(Sent::Interrupted { turn: ack.turn, next: None }),
                Err(ControlRejection::Unavailable { reason }) => {
                    responder.reject(SendRejection::Unavailable { reason });
                }
                Err(ControlRejection::Stopping) => responder.reject(SendRejection::Stopping),
                Err(_) => responder.reject(SendRejection::NothingToInterrupt),
            }),
        );
    }

    fn stage(&mut self, request: SendToPod, responder: Responder<SendToPod>) {
        let interrupt = request.how == SendKind::Interrupt;
        // Behind what runs, or is about to: no admission is needed for what starts nothing.
        let behind = self.phase() == PodState::Running || self.run_committing();
        let refused = match self.phase() {
            PodState::Stopping => Some(SendRejection::Stopping),
            _ if behind && self.counting.is_full() => Some(full(COUNTING_MAX)),
            _ if behind => None,
            PodState::Paused if !interrupt => Some(SendRejection::Paused),
            _ => match self.step(Input::Method(MethodKind::Run)).verdict {
                Some(Verdict::Refuse(Refusal::Stopping)) => Some(SendRejection::Stopping),
                Some(Verdict::Refuse(_)) => Some(SendRejection::Busy { turn: self.turn().unwrap_or(TurnId(0)) }),
                Some(Verdict::Admit | Verdict::Already) | None => None,
            },
        };
        if let Some(refused) = refused {
            return self.unless_known(request.key, interrupt, refused, responder);
        }
        let origin = self.origin(responder.context());
        let run = NewRun { work: request.key, origin, input: request.text.as_str().to_owned() };
        // Until it is committed another turn may have begun: that one nobody has interrupted.
        let meant = match self.turn() {
            Some(_) => Some(self.launched),
            None => behind.then_some(self.launched + 1),
        };
        self.counted(Some(request.key), move |actor, counted| match counted {
            Ok(counted) => actor.stage_run(run, Wish { interrupt, behind, meant, counted }, responder),
            Err(why) => {
                if !behind {
                    actor.step(Input::RunAborted);
                }
                responder.reject(match why {
                    NotCounted::Cap(cap) => SendRejection::Cap { cap },
                    NotCounted::Unavailable(reason) => SendRejection::Unavailable { reason },
                    NotCounted::Stopping => SendRejection::Stopping,
                });
            }
        });
    }

    fn stage_run(&mut self, run: NewRun, wish: Wish, responder: Responder<SendToPod>) {
        let Wish { interrupt, behind, meant, counted } = wish;
        self.submit(
            move |tx| stage(tx, &run, interrupt),
            move |actor, staged| match staged {
                Ok((Staging::Staged { run, ahead, paused }, ordered)) => {
                    let running = actor.turn().filter(|_| actor.phase() == PodState::Running);
                    // The turn that ran when it was committed: no other can have begun behind that.
                    let ended = match running {
                        Some(_) if interrupt && !run.duplicate && meant == Some(actor.launched) => {
                            let told = actor.step(Input::Method(MethodKind::Cancel)).verdict;
                            // One whose end is being committed was not told: it has ended by itself.
                            running.filter(|_| !matches!(told, Some(Verdict::Refuse(_))))
                        }
                        // It is about to begin, and is told when it does.
                        None if interrupt && !run.duplicate && meant == Some(actor.launched + 1) => {
                            if actor.state().is_starting() {
                                actor.step(Input::Method(MethodKind::Cancel));
                            }
                            None
                        }
                        _ => None,
                    };
                    let paused = paused.filter(|_| actor.phase() == PodState::Paused);
                    let gives_way = interrupt || actor.phase() != PodState::Paused;
                    actor.uncounted(counted && run.duplicate);
                    actor.staged(ordered, behind, gives_way && !run.duplicate, interrupt);
                    let (turn, work) = (run.accepted.turn, run.accepted.work);
                    responder.ack(if interrupt {
                        let turn_ended = ended.or(paused.filter(|_| !run.duplicate));
                        Sent::Interrupted { turn: turn_ended, next: Some(Next { turn, work, ahead }) }
                    } else {
                        Sent::Staged { turn, work, behind: running.filter(|running| *running != turn), ahead }
                    });
                }
                Ok((Staging::Full, ordered)) => {
                    actor.uncounted(counted);
                    actor.staged(ordered, behind, false, interrupt);
                    responder.reject(full(STAGED_MAX));
                }
                Err(error) => {
                    actor.uncounted(counted);
                    if !behind {
                        actor.step(Input::RunAborted);
                    }
                    responder.reject(SendRejection::Unavailable { reason: reason(&error) });
                }
            },
        );
    }

    /// Tells the state what a transaction that was to stage work has made true. `gives_way`: what is paused or blocked does.
    fn staged(&mut self, ordered: crate::handle::Ordered, behind: bool, gives_way: bool, interrupts: bool) {
        let facts = self.facts(ordered);
        let lifts = gives_way && matches!(self.phase(), PodState::Paused | PodState::Blocked);
        match (behind, gives_way) {
            (false, true) => _ = self.step(Input::RunCommitted(facts)),
            (false, false) => {
                self.step(Input::RunAborted);
                self.step(Input::Committed(facts));
            }
            // Should another run be under way meanwhile, it finds the pod lifted already, as if it had come a moment later.
            (true, _) if lifts => _ = self.step(Input::RunCommitted(facts)),
            // It takes the place of the compaction, and of what is paused below that.
            (true, true) if interrupts && self.state().behind_compaction().is_some() => {
                self.step(Input::RunCommitted(facts));
            }
            (true, _) => _ = self.step(Input::Committed(facts)),
        }
    }

    /// A wish that comes too late may be the very one that was taken: sent again, it is told the same.
    fn unless_known(&mut self, work: WorkId, interrupt: bool, refused: SendRejection, responder: Responder<SendToPod>) {
        self.behind_the_first(work, move |actor| {
            let store = actor.shared.store.clone();
            tokio::spawn(async move {
                // Behind all that is submitted: what is being committed is known by then.
                match store.write(move |tx| tx.accepted_run(work)).await {
                    Ok(Some(known)) if interrupt => {
                        let next = Some(Next { turn: known.turn, work, ahead: 0 });
                        responder.ack(Sent::Interrupted { turn: None, next });
                    }
                    Ok(Some(known)) => responder.ack(Sent::Staged { turn: known.turn, work, behind: None, ahead: 0 }),
                    Ok(None) => responder.reject(refused),
                    Err(error) => responder.reject(SendRejection::Unavailable { reason: reason(&error) }),
                }
            });
        });
    }
}

fn full(max: usize) -> SendRejection {
    SendRejection::Full { max: u32::try_from(max).unwrap_or(u32::MAX) }
}

fn stage(tx: &Tx<'_>, run: &NewRun, interrupt: bool) -> Result<Staging, StoreError> {
    let before = tx.control()?;
    if before.runs_staged >= STAGED_MAX as u64 {
        let works = tx.works(Direction::Received, true)?;
        if works.iter().all(|known| known.work != run.work) {
            return Ok(Staging::Full);
        }
    }
    let staged = tx.stage_run(run)?;
    if !staged.duplicate {
        tx.unblock()?;
        if interrupt {
            tx.lift_with(staged.accepted.turn)?;
        }
    }
    let paused = before.turn.filter(|_| before.state == PodState::Paused);
    let ahead = if staged.duplicate { 0 } else { before.runs_staged };
    Ok(Staging::Staged { run: staged, ahead, paused })
}

#[cfg(test)]
#[path = "sending_tests.rs"]
mod tests;
