//! Counting turns, one after the other, in the order in which they were asked for.
//!
//! What is counted next begins when the one before is over: work is staged in the order in which it came, however long the registry
//! is held. Nobody waits behind a registry that cannot be used, and nobody in a pod that stops: both are told so, and what is counted
//! for nobody is given back.
//!
//! Part of `actor`, like `calls`, `sending` and the turns that it starts by itself; the registry counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::actor::{Actor, Completing, Completion};
use super::calls::reason;
use crate::handle::Shared;
use crate::id::WorkId;
use crate::protocol::{PodState, Text, TurnCap};
use crate::registry::Place;
use crate::store::Store;

/// LIMIT: work that waits to be counted, above which more of it is refused. As much as may wait behind a turn: more could not be
/// staged, and each holds its input in memory.
pub(super) const COUNTING_MAX: usize = 64;
/// How long a pod that ends waits for the registry to take back what was counted for nothing. LIMIT: above the time that a
/// registry is waited for that somebody holds; a parent waits for 20 s before it signals.
const GIVE_BACK_MAX: Duration = Duration::from_secs(6);
/// How often a pod that is blocked by a bound of its tree looks whether it may go on. LIMIT: nothing tells when its root comes back
/// with another bound, or when it is adopted; a look is some tens of microseconds.
const LOOK_EVERY: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(5) };

/// Why a turn is not counted, and so not started.
#[derive(Clone, Debug)]
pub(super) enum NotCounted {
    /// There is none left.
    Cap(TurnCap),
    /// The registry could not be used.
    Unavailable(Text<256>),
    /// The pod stops.
    Stopping,
}

/// What is done when it is known whether a turn is counted. True says that one was, which is to be given to `uncounted` if it
/// is not needed.
type Then = Box<dyn FnOnce(&mut Actor, Result<bool, NotCounted>) + Send>;
/// What is done about a request that came once more, when it is known what became of the first one.
type Repeat = Box<dyn FnOnce(&mut Actor) + Send>;

/// Somebody who wants a turn counted.
struct Wanted {
    /// The work that it will be; none for one that the pod starts by itself.
    work: Option<WorkId>,
    then: Then,
}

/// What is being counted, and what waits for that.
#[derive(Default)]
pub(super) struct Counting {
    /// LIMIT: [`COUNTING_MAX`], a run, and a turn that starts.
    waiting: VecDeque<Wanted>,
    /// For whom is being counted now: none, if it has been told already that it is not.
    current: Option<Wanted>,
    /// At most one.
    under_way: FuturesUnordered<Completing>,
    /// Turns that were counted for this pod and have not begun: as many are not counted again.
    spare: u32,
    /// Where they were counted.
    place: Option<Arc<Place>>,
    /// Whoever asks for one of the works once more.
    repeats: Vec<(WorkId, Repeat)>,
    /// Whether a blocked pod looks when it may go on.
    looking: bool,
}

/// How a count came out.
struct Counted {
    verdict: Result<bool, NotCounted>,
    /// What was spare before, and still is.
    spare: u32,
    /// Where the pod was.
    place: Option<Arc<Place>>,
}

impl Counting {
    /// Whether there is room for more work that nobody has admitted.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= COUNTING_MAX
    }

    /// Waits for the one that is under way.
    pub(super) async fn next(&mut self) -> Option<Completion> {
        self.under_way.next().await
    }

    fn concerns(&self, work: WorkId) -> bool {
        self.current.iter().chain(&self.waiting).any(|wanted| wanted.work == Some(work))
    }
}

impl Actor {
    /// Has the turn counted that `work` will be, or one that the pod starts by itself, then goes on. Work that is known already was
    /// counted then.
    pub(super) fn counted(
        &mut self,
        work: Option<WorkId>,
        then: impl FnOnce(&mut Self, Result<bool, NotCounted>) + Send + 'static,
    ) {
        if self.phase() == PodState::Stopping {
            return then(self, Err(NotCounted::Stopping));
        }
        self.counting.waiting.push_back(Wanted { work, then: Box::new(then) });
        self.count_next();
    }

    fn count_next(&mut self) {
        if !self.counting.under_way.is_empty() {
            return;
        }
        let Some(wanted) = self.counting.waiting.pop_front() else { return };
        let spare = self.counting.place.clone().filter(|_| self.counting.spare > 0);
        self.counting.spare -= u32::from(spare.is_some());
        let (shared, work) = (self.shared.clone(), wanted.work);
        self.counting.current = Some(wanted);
        self.counting.under_way.push(Box::pin(async move {
            let counted = count(&shared, work, spare).await;
            Box::new(move |actor: &mut Self| actor.was_counted(counted)) as Completion
        }));
    }

    fn was_counted(&mut self, Counted { verdict, spare, place }: Counted) {
        let root = |place: &Option<Arc<Place>>| place.as_ref().map(|place| place.root);
        if place.is_some() && root(&place) != root(&self.counting.place) {
            // What is spare there is of no use here.
            let turns = std::mem::take(&mut self.counting.spare);
            let left = std::mem::replace(&mut self.counting.place, place).filter(|_| turns > 0);
            if let Some(left) = left {
                let shared = self.shared.clone();
                self.later(Box::pin(async move {
                    give_back(&shared, left, turns).await;
                    Box::new(|_: &mut Self| {}) as Completion
                }));
            }
        }
        self.counting.spare += spare;
        match self.counting.current.take() {
            Some(wanted) => self.tell_counted(wanted, verdict.clone()),
            None => self.uncounted(matches!(verdict, Ok(true))),
        }
        if let Err(why @ NotCounted::Unavailable(_)) = verdict {
            // They have waited as long as somebody else may hold the registry: the next would be told the same, and much later.
            for wanted in std::mem::take(&mut self.counting.waiting) {
                self.tell_counted(wanted, Err(why.clone()));
            }
        }
        self.count_next();
    }

    fn tell_counted(&mut self, Wanted { work, then }: Wanted, verdict: Result<bool, NotCounted>) {
        then(self, verdict);
        let Some(work) = work else { return };
        // What was submitted for the first one is before what is asked now.
        let repeats = std::mem::take(&mut self.counting.repeats);
        let (repeats, others): (Vec<_>, Vec<_>) = repeats.into_iter().partition(|(of, _)| *of == work);
        self.counting.repeats = others;
        repeats.into_iter().for_each(|(_, repeat)| repeat(self));
    }

    /// A turn that was counted is not needed.
    pub(super) fn uncounted(&mut self, counted: bool) {
        self.counting.spare += u32::from(counted);
    }

    /// Does `then` when what was admitted for `work` before is submitted: at once, unless its turn is being counted.
    pub(super) fn behind_the_first(&mut self, work: WorkId, then: impl FnOnce(&mut Self) + Send + 'static) {
        if self.counting.concerns(work) {
            self.counting.repeats.push((work, Box::new(then)));
        } else {
            then(self);
        }
    }

    /// The pod stops: whoever waits is told so now, and not when the registry is free.
    pub(super) fn stop_counting(&mut self) {
        let waiting = std::mem::take(&mut self.counting.waiting);
        for wanted in self.counting.current.take().into_iter().chain(waiting) {
            self.tell_counted(wanted, Err(NotCounted::Stopping));
        }
    }

    /// A bound of the tree has blocked the pod: it goes on as soon as it is in a tree that lets it.
    pub(super) fn go_on_when_counted(&mut self) {
        if std::mem::replace(&mut self.counting.looking, true) {
            return;
        }
        let shared = self.shared.clone();
        self.later(Box::pin(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if matches!(shared.member.look_again().await, Ok((_, Ok(())))) {
                    break;
                }
            }
            Box::new(|actor: &mut Self| {
                actor.counting.looking = false;
                if !actor.capped {
                    // Something else has lifted that, and may have blocked it again.
                } else if actor.phase() == PodState::Blocked {
                    actor.may_go_on();
                } else if actor.state().behind_compaction() == Some(PodState::Blocked) {
                    actor.go_on_when_counted();
                }
            }) as Completion
        }));
    }

    /// The last thing that a pod does: what was counted for nothing is given back, if the registry can be used.
    pub(super) async fn give_turns_back(&mut self) {
        let pod = self.shared.id.clone();
        let giving = async {
            while let Some(complete) = self.counting.next().await {
                complete(self);
            }
            let spare = std::mem::take(&mut self.counting.spare);
            match self.counting.place.clone() {
                Some(place) if spare > 0 => self.shared.member.give_turns_back(place, spare).await,
                _ => Ok(()),
            }
        };
        match tokio::time::timeout(GIVE_BACK_MAX, giving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%pod, %error, "turns that did not begin stay counted"),
            Err(_) => {
                tracing::warn!(%pod, "turns that did not begin stay counted: the registry of pods is held by another process")
            }
        }
    }
}

async fn give_back(shared: &Shared, place: Arc<Place>, turns: u32) {
    if let Err(error) = shared.member.give_turns_back(place, turns).await {
        tracing::warn!(pod = %shared.id, %error, "turns that did not begin stay counted");
    }
}

/// `spare`: where a turn was counted that has not begun, if there is one.
async fn count(shared: &Shared, work: Option<WorkId>, spare: Option<Arc<Place>>) -> Counted {
    let unavailable = |error: &dyn std::error::Error| NotCounted::Unavailable(Text::clipped(error.to_string()));
    let found = shared.member.look_again().await;
    let root = found.as_ref().ok().map(|(place, _)| place.root);
    // In another tree it is of no use.
    let spare = match spare {
        Some(counted_in) if root.is_some_and(|root| root != counted_in.root) => {
            give_back(shared, counted_in, 1).await;
            0
        }
        other => u32::from(other.is_some()),
    };
    let (place, verdict) = match found {
        Ok((place, verdict)) => (Some(place), verdict.map_err(NotCounted::Cap)),
        // A tree that counts nothing needs no registry.
        Err(error) if !shared.member.place().bounds_turns() => {
            tracing::warn!(pod = %shared.id, %error, "whether the tree still counts no turns is not known; none is counted");
            return Counted { verdict: Ok(false), spare, place: None };
        }
        Err(error) => return Counted { verdict: Err(unavailable(&error)), spare, place: None },
    };
    let counts = place.as_ref().is_some_and(|place| place.limits.turns > 0);
    if place.as_ref().is_some_and(|place| !place.bounds_turns()) {
        return Counted { verdict: Ok(false), spare, place };
    }
    if let Some(known) = known(&shared.store, work).await.transpose() {
        let verdict = known.map(|()| false).map_err(NotCounted::Unavailable);
        return Counted { verdict, spare, place };
    }
    match verdict {
        Err(NotCounted::Cap(TurnCap::Turns { .. })) | Ok(()) if spare > 0 => {
            Counted { verdict: Ok(true), spare: 0, place }
        }
        Err(why) => Counted { verdict: Err(why), spare, place },
        Ok(()) if !counts => Counted { verdict: Ok(false), spare, place },
        Ok(()) => match shared.member.take_turn().await {
            Ok(Ok(counted_in)) => Counted { verdict: Ok(true), spare, place: Some(Arc::new(counted_in)) },
            Ok(Err(cap)) => Counted { verdict: Err(NotCounted::Cap(cap)), spare, place },
            Err(error) => Counted { verdict: Err(unavailable(&error)), spare, place },
        },
    }
}

/// Whether the work was taken before. Asked behind all that is submitted: what was admitted before is known by then.
async fn known(store: &Store, work: Option<WorkId>) -> Result<Option<()>, Text<256>> {
    let Some(work) = work else { return Ok(None) };
    let accepted = store.write(move |tx| tx.accepted_run(work)).await.map_err(|error| reason(&error))?;
    Ok(accepted.map(drop))
}

#[cfg(test)]
#[path = "counting_tests.rs"]
mod tests;
