//! Children that have ended and are to be started again.
//!
//! Written down in the transaction of the end, and taken away in the one that reserves the next life: whoever dies in between
//! leaves it to be done, and whoever does not want it any more takes it away, in one order with both. One for each name at most.
//!
//! Carried out by `spawn::supervisor`, taken away by whoever stops a child, by a rewind, and by a life of the name that somebody
//! else begins.

use crate::id::{NoteKey, PodId, PodName};
use crate::store::children::ChildState;
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::history::Origin;
use crate::store::intents::IntentKind;
use crate::store::sql::int;
use crate::store::tx::{Reads, Tx};

/// What follows a life that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Followed {
    /// A next one was due, and is not any more.
    pub(crate) was_due: bool,
    /// The policy has begun one that lives: it is to be ended, too.
    pub(crate) by: Option<PodId>,
}

impl Reads<'_> {
    /// The lives after which a next one is due, with the time at which it is.
    pub(crate) fn restarts_due(&self) -> Result<Vec<(PodId, UnixMillis)>, StoreError> {
        let intents = self.intents()?.into_iter();
        Ok(intents
            .filter_map(|intent| match intent.kind {
                IntentKind::Restart { pod, due } => Some((pod, due)),
                _ => None,
            })
            .collect())
    }

    /// Whether a next life is due after `dead`.
    pub(crate) fn is_restart_due(&self, dead: &PodId) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM intents WHERE name = ?1 AND json_extract(body, '$.intent') = 'restart'
                   AND json_extract(body, '$.pod.incarnation') = ?2";
        self.exists(sql, (&dead.name, dead.incarnation))
    }
}

impl Tx<'_> {
    /// A next life is to begin after `dead`, at `due`.
    pub(crate) fn restart_at(&self, dead: &PodId, due: UnixMillis) -> Result<(), StoreError> {
        self.forego_restart(&dead.name)?;
        self.push_intent(&dead.name, &IntentKind::Restart { pod: dead.clone(), due })
    }

    /// None is to begin by itself. Whether one was due.
    pub(crate) fn forego_restart(&self, name: &PodName) -> Result<bool, StoreError> {
        let sql = "DELETE FROM intents WHERE name = ?1 AND json_extract(body, '$.intent') = 'restart'";
        Ok(self.run(sql, [name])? > 0)
    }

    /// No life is to begin by the policy of `dead`, nor of one that it has begun. A life that somebody has begun anew is none of
    /// these, nor is what comes behind that.
    pub(crate) fn forego_lives_after(&self, dead: &PodId) -> Result<Followed, StoreError> {
        let lives = self.children()?.into_iter().filter(|row| row.pod.name == dead.name);
        let later: Vec<_> = lives.skip_while(|row| row.pod != *dead).skip(1).collect();
        if !later.iter().all(|row| row.restarted) {
            return Ok(Followed { was_due: false, by: None });
        }
        let last = later.last();
        let was_due = self.is_restart_due(last.map_or(dead, |row| &row.pod))? && self.forego_restart(&dead.name)?;
        let by = last.filter(|row| row.state != ChildState::Ended).map(|row| row.pod.clone());
        Ok(Followed { was_due, by })
    }

    /// The same for those whose lives began behind the entry `seq` of the history.
    pub(crate) fn forego_restarts_since(&self, seq: u64) -> Result<(), StoreError> {
        for (dead, _) in self.restarts_due()? {
            let sql = "SELECT 1 FROM history WHERE seq > ?1 AND kind = 'child_spawned'
                       AND json_extract(body, '$.child.incarnation') = ?2";
            if self.exists(sql, (int(seq), dead.incarnation))? {
                self.forego_restart(&dead.name)?;
            }
        }
        Ok(())
    }

    /// What was due cannot be done, and is not tried any more. The agent is told why; unless somebody has decided otherwise.
    pub(crate) fn restart_impossible(&self, dead: &PodId, why: &str) -> Result<(), StoreError> {
        if !self.is_restart_due(dead)? {
            return Ok(());
        }
        self.forego_restart(&dead.name)?;
        let why = crate::protocol::clip(why, 512);
        let text =
            format!("Child `{}` has ended and cannot be started again, which is not tried any more: {why}", dead.name);
        self.push_note(NoteKey::random(), &text, Origin::Host, true)?;
        Ok(())
    }

    /// As if that life had been reserved so long ago.
    #[cfg(test)]
    pub(crate) fn backdate_child(&self, life: &PodId, age_ms: u64) -> Result<(), StoreError> {
        let at = UnixMillis(self.now().0.saturating_sub(age_ms));
        let sql = "UPDATE children SET at = ?3 WHERE name = ?1 AND incarnation = ?2";
        self.run(sql, (&life.name, life.incarnation, at)).map(drop)
    }

    /// What was due is not, because the child would have ended with the last life of this pod. Its agent is told.
    pub(crate) fn restart_ended_with_us(&self, dead: &PodId) -> Result<(), StoreError> {
        if !self.is_restart_due(dead)? {
            return Ok(());
        }
        self.forego_restart(&dead.name)?;
        let text = format!(
            "Child `{}` had ended and was to be started again when this pod ended, too. It is not started again by itself.",
            dead.name
        );
        self.push_note(NoteKey::random(), &text, Origin::Host, true)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NewChild;
    use crate::store::fixture::{self, new_child, pod};

    #[test]
    fn restart_is_due_until_a_life_of_the_name_is_reserved_or_nobody_wants_it() {
        let store = fixture::memory("a");
        let (first, second) = (pod("b", 1), pod("b", 2));
        store.with(|tx| {
            tx.reserve_child(&new_child(&first))?;
            tx.end_life(&tx.child(&first)?.unwrap())?;
            tx.restart_at(&first, UnixMillis(7))?;
            assert_eq!(tx.restarts_due()?, [(first.clone(), UnixMillis(7))]);
            assert!(tx.is_restart_due(&first)? && !tx.is_restart_due(&second)?);
            tx.reserve_child(&new_child(&second))?;
            assert!(tx.restarts_due()?.is_empty(), "whoever has begun it is not followed by a third life");
            tx.end_life(&tx.child(&second)?.unwrap())?;
            tx.restart_at(&second, UnixMillis(8))?;
            assert!(!tx.forego_restart(&pod("c", 1).name)? && tx.forego_restart(&second.name)?);
            assert!(tx.restarts_due()?.is_empty() && !tx.forego_restart(&second.name)?);
            Ok(())
        });
    }

    #[test]
    fn handle_of_an_old_life_has_no_part_in_what_somebody_has_begun_anew() {
        let store = fixture::memory("a");
        let lives: Vec<PodId> = (1..=4).map(|life| pod("b", life)).collect();
        store.with(|tx| {
            let begin = |at: usize, restarted| {
                tx.reserve_child(&NewChild { restarted, ..new_child(&lives[at]) })?;
                tx.backdate_child(&lives[at], 10_000 - 1_000 * at as u64)
            };
            let end = |at: usize| tx.end_life(&tx.child(&lives[at])?.unwrap());
            // The second is a restart of the first; the third is somebody's, and the fourth a restart of that.
            begin(0, false)?;
            end(0)?;
            begin(1, true)?;
            assert_eq!(tx.forego_lives_after(&lives[0])?.by, Some(lives[1].clone()));
            end(1)?;
            tx.restart_at(&lives[1], UnixMillis(7))?;
            assert_eq!(tx.forego_lives_after(&lives[0])?, Followed { was_due: true, by: None });
            begin(2, false)?;
            end(2)?;
            tx.restart_at(&lives[2], UnixMillis(7))?;
            assert_eq!(tx.forego_lives_after(&lives[1])?, Followed { was_due: false, by: None });
            assert!(tx.is_restart_due(&lives[2])?);
            begin(3, true)?;
            assert_eq!(tx.forego_lives_after(&lives[0])?, Followed { was_due: false, by: None });
            assert_eq!(tx.forego_lives_after(&lives[2])?, Followed { was_due: false, by: Some(lives[3].clone()) });
            Ok(())
        });
    }

    #[test]
    fn rewind_takes_away_what_is_due_for_lives_behind_its_target_alone() {
        let store = fixture::memory("a");
        store.with(|tx| {
            let ended = |life: &PodId| {
                tx.reserve_child(&new_child(life))?;
                tx.end_life(&tx.child(life)?.unwrap())?;
                tx.restart_at(life, UnixMillis(7))
            };
            ended(&pod("b", 1))?;
            let target = tx.history_head()?;
            ended(&pod("c", 2))?;
            tx.forego_restarts_since(target)?;
            assert_eq!(tx.restarts_due()?, [(pod("b", 1), UnixMillis(7))]);
            Ok(())
        });
    }

    #[test]
    fn agent_is_told_of_what_is_not_started_again_because_its_pod_had_ended_and_once() {
        let store = fixture::memory("a");
        let dead = pod("b", 1);
        store.with(|tx| {
            tx.reserve_child(&new_child(&dead))?;
            tx.end_life(&tx.child(&dead)?.unwrap())?;
            tx.restart_at(&dead, UnixMillis(7))?;
            tx.restart_ended_with_us(&dead)?;
            tx.restart_ended_with_us(&dead)?;
            let told = tx.inbox_untold()?;
            assert_eq!(told.iter().filter(|item| item.text().contains("`b`")).count(), 1, "{told:?}");
            assert!(tx.restarts_due()?.is_empty());
            Ok(())
        });
    }
}
