//! Who waits for what becomes of a pause, a cancel or a resume, and what each of them is told.
//!
//! Pure, like `state`: no I/O, no clock. An ack names the turn that it is about and says only what is committed, or is under
//! way for certain; a rejection says that nothing has changed, and is never given for what is carried out all the same.
//!
//! Part of `actor`, which asks it behind every step of the state and gives the answers. `T` is whoever waits: a responder
//! there, a number in the sweeps, which compare every answer with what came of it.

use super::state::{MethodKind, State};
use crate::id::TurnId;
use crate::protocol::{ControlAck, ControlRejection, PodState, TurnCap};

/// What somebody is told.
pub(super) type Reply = Result<ControlAck, ControlRejection>;

/// The turns of a pod whose numbers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turns {
    /// The one that runs, or whose end is being committed.
    pub(super) in_flight: Option<TurnId>,
    /// The one that is paused.
    pub(super) paused: Option<TurnId>,
}

/// Those who wait. LIMIT: as many calls as the server takes up at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiting<T> {
    /// For the number of a turn whose start is being committed.
    asked: Vec<(MethodKind, T)>,
    /// Until what is paused is given up.
    giving_up: Vec<T>,
    /// Until the block is lifted.
    lifting: Vec<T>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { asked: Vec::new(), giving_up: Vec::new(), lifting: Vec::new() }
    }
}

impl<T> Waiting<T> {
    /// `method` was admitted to a pod that was `before` and is `state` now. Returns who is told at once, and what.
    #[must_use]
    pub(super) fn admitted(
        &mut self,
        method: MethodKind,
        before: PodState,
        state: &State,
        turns: Turns,
        who: T,
    ) -> Option<(T, Reply)> {
        let phase = state.phase();
        let told = |turn, staged| Ok(ControlAck { state: phase, turn, staged });
        match method {
            MethodKind::Cancel if state.is_giving_up() => self.giving_up.push(who),
            MethodKind::Cancel if state.is_rewind_given_up() => return Some((who, told(None, true))),
            MethodKind::Resume if before == PodState::Blocked => self.lifting.push(who),
            MethodKind::Pause if before == PodState::Paused => return Some((who, told(turns.paused, false))),
            // It is about the turn that goes on, whose number nobody knows yet.
            _ if method == MethodKind::Resume || state.is_resuming() || turns.in_flight.is_none() => {
                self.asked.push((method, who));
            }
            _ => return Some((who, told(turns.in_flight, true))),
        }
        None
    }

    /// The start of `turn` is committed.
    #[must_use]
    pub(super) fn launched(&mut self, phase: PodState, turn: TurnId) -> Vec<(T, Reply)> {
        let about = |method| ControlAck { state: phase, turn: Some(turn), staged: method != MethodKind::Resume };
        self.asked.drain(..).map(|(method, who)| (who, Ok(about(method)))).collect()
    }

    /// The turn that was to start did not, by a bound of the tree if there is a `cap`: whoever asked something of it is not
    /// left waiting for the next attempt.
    #[must_use]
    pub(super) fn not_started(&mut self, state: &State, cap: Option<TurnCap>) -> Vec<(T, Reply)> {
        let phase = state.phase();
        let mut told = Vec::new();
        for (method, who) in self.asked.drain(..) {
            let reply = match method {
                // It is what is paused that is given up now, in place of the turn that was to go on with it.
                MethodKind::Cancel if state.is_giving_up() => {
                    self.giving_up.push(who);
                    continue;
                }
                // Tried again, with what was asked of it.
                _ if state.is_starting() => Ok(ControlAck { state: phase, turn: None, staged: true }),
                _ if phase == PodState::Stopping => Err(ControlRejection::Stopping),
                MethodKind::Resume => Err(cap.map_or(ControlRejection::NotPaused, |cap| ControlRejection::Cap { cap })),
                _ => Err(ControlRejection::NotRunning),
            };
            told.push((who, reply));
        }
        told
    }

    /// What was paused as `turn` is given up, and that is committed.
    #[must_use]
    pub(super) fn given_up(&mut self, phase: PodState, turn: Option<TurnId>) -> Vec<(T, Reply)> {
        let ack = ControlAck { state: phase, turn, staged: false };
        self.giving_up.drain(..).map(|who| (who, Ok(ack))).collect()
    }

    /// It cannot be committed that it is, and nobody tries it again in this life.
    #[must_use]
    pub(super) fn not_given_up(&mut self, why: &ControlRejection) -> Vec<(T, Reply)> {
        self.giving_up.drain(..).map(|who| (who, Err(why.clone()))).collect()
    }

    /// The block is lifted, and that is committed.
    #[must_use]
    pub(super) fn lifted(&mut self, phase: PodState) -> Vec<(T, Reply)> {
        let ack = ControlAck { state: phase, turn: None, staged: false };
        self.lifting.drain(..).map(|who| (who, Ok(ack))).collect()
    }

    /// The same as for what is not given up.
    #[must_use]
    pub(super) fn not_lifted(&mut self, why: &ControlRejection) -> Vec<(T, Reply)> {
        self.lifting.drain(..).map(|who| (who, Err(why.clone()))).collect()
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.asked.len() + self.giving_up.len() + self.lifting.len()
    }
}
