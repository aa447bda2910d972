//! Who is dead: what must be so before a right goes back.
//!
//! Three things, each looked at twice: the life lock is free, or another life holds it; no process carries the mark of
//! the life, neither the pod itself nor a program that it has started; and nobody is about to start it, or to bury it
//! in the right order. What cannot be looked at is no proof. A life that is dead stays dead: an incarnation is never
//! used again, so that what was proven outside a transaction still holds inside the next one.
//!
//! Blocks for as long as reading the process table takes, and holds nothing meanwhile.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Registered;
use crate::id::{PodId, PodName};
use crate::life_lock::{self, Life};
use crate::spawn::process::have_programs;
use crate::store::{ChildState, StoreReader, UnixMillis};

/// LIMIT: a claim whose life was never reserved is given up after so long, though its parent lives: a parent reserves
/// within one commit. One that was stopped in between finds its child without a claim, and the child does not start.
const RESERVED_WITHIN_MS: u64 = 60_000;
/// LIMIT: longer than an `exec` is without an environment.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Whether `life` and all that it has started are dead, and nobody is about to start or to bury it.
pub(super) fn is_dead(life: &Registered, now: UnixMillis) -> bool {
    // The cheapest look first: most are alive.
    is_unlocked(&life.pod, &life.state_dir) && !is_expected(life, now) && has_left_nothing(life)
}

/// Whether `life`, which is over for its parent, and all that it has started are dead.
pub(super) fn has_left_nothing(life: &Registered) -> bool {
    !have_left_nothing(std::slice::from_ref(life)).is_empty()
}

/// Those of `lives`, which are over for their parents, that are dead with all that they have started: looked at together.
#[expect(clippy::disallowed_methods, reason = "two looks at the same moment would be one")]
pub(super) fn have_left_nothing(lives: &[Registered]) -> Vec<&Registered> {
    let look = |lives: Vec<_>| {
        let unlocked = lives.into_iter().filter(|life: &&Registered| is_unlocked(&life.pod, &life.state_dir));
        run_nothing(unlocked.collect())
    };
    let once = look(lives.iter().collect());
    if once.is_empty() {
        return once;
    }
    std::thread::sleep(BETWEEN_LOOKS);
    look(once)
}

fn run_nothing(lives: Vec<&Registered>) -> Vec<&Registered> {
    if lives.is_empty() {
        return lives;
    }
    let begun: Vec<_> = lives.iter().map(|life| (life.pod.incarnation, life.since)).collect();
    let runs_nothing = |(life, found): (_, std::io::Result<bool>)| {
        let life: &Registered = life;
        match found {
            Ok(some) => (!some).then_some(life),
            Err(error) => {
                tracing::debug!(pod = %life.pod, %error, "a process cannot be looked at; it may be a program of a dead pod");
                None
            }
        }
    };
    lives.into_iter().zip(have_programs(&begun)).filter_map(runs_nothing).collect()
}

/// Whether nobody is this life, nor is about to be, or to bury it. Programs of it may run.
pub(super) fn is_over(life: &Registered, now: UnixMillis) -> bool {
    is_unlocked(&life.pod, &life.state_dir) && !is_expected(life, now) && awaits_burial(life, None).is_none()
}

/// Whether no process is this life.
pub(super) fn is_unlocked(pod: &PodId, state_dir: &Path) -> bool {
    match life_lock::probe(&state_dir.join("life.lock")) {
        Ok(Life::Free) => true,
        // One that has not said yet who it is might be this life.
        Ok(Life::Held(holder)) => holder.pod.is_some_and(|holder| holder != *pod),
        Err(_) => false,
    }
}

/// Whether the parent still has to start the life, or to bury it: its own store says so.
fn is_expected(life: &Registered, now: UnixMillis) -> bool {
    let Some(parent) = &life.parent else { return false };
    let parent_dir = sibling(&life.state_dir, parent);
    let parent_lives = !is_unlocked(parent, &parent_dir);
    let row =
        StoreReader::open(parent_dir.join("store.db")).and_then(|store| store.look(|reads| reads.child(&life.pod)));
    match row {
        Ok(Some(row)) => parent_lives && row.state != ChildState::Ended,
        Ok(None) => parent_lives && now.0.saturating_sub(life.since.0) < RESERVED_WITHIN_MS,
        Err(_) => parent_lives,
    }
}

/// The parent that has yet to bury `life`, unless that is `claimant`, which does so before it starts another. Of a parent
/// that is dead, too: what the life has left stays the parent's. One that lives is heard by `is_expected`.
pub(super) fn awaits_burial(life: &Registered, claimant: Option<&PodName>) -> Option<PodName> {
    let parent = life.parent.as_ref().filter(|parent| Some(&parent.name) != claimant)?;
    let parent_dir = sibling(&life.state_dir, parent);
    if !is_unlocked(&life.pod, &life.state_dir) || !is_unlocked(parent, &parent_dir) {
        return None;
    }
    let row =
        StoreReader::open(parent_dir.join("store.db")).and_then(|store| store.look(|reads| reads.child(&life.pod)));
    row.ok().flatten().filter(|row| row.state != ChildState::Ended).map(|_| parent.name.clone())
}

/// The state directory of `pod`, beside another one's.
fn sibling(state_dir: &Path, pod: &PodId) -> PathBuf {
    state_dir.with_file_name(pod.name.as_str())
}
