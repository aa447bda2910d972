//! A child that goes from one parent to another, in the stores of both.
//!
//! Three transactions: the new parent keeps what it will need (row, watermark, open works), the old one's store says
//! whose child it is now, the new one's makes it so. The second decides: before it the child is the old parent's, after it the
//! new one's, whoever dies in between. None of them looks at a process.
//!
//! Carried out by `spawn::adopt`, which holds the old parent's life lock; what it leaves is settled by `turns` at the old
//! parent's next start.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, NoteKey, PodId, PodName, Seq, StreamId, TurnId, WorkId};
use crate::protocol::WorkResult;
use crate::store::children::{ChildRow, ChildState, Lifetime, Restart};
use crate::store::error::StoreError;
use crate::store::history::{HistoryItem, Origin};
use crate::store::sql::{from_json, path_text, to_json};
use crate::store::tx::{Reads, Tx};
use crate::store::works::GivenAs;

/// What a child's new parent has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adoption {
    pub(crate) child: PodId,
    pub(crate) from: PodName,
    pub(crate) watermark: Seq,
    pub(crate) works: Vec<OpenWork>,
    pid: Option<u32>,
    ready: bool,
    lifetime: Lifetime,
    worker: String,
    socket: std::path::PathBuf,
    store: std::path::PathBuf,
    runtime_dir: std::path::PathBuf,
    scope: Vec<crate::scope::ScopeRule>,
    stream: Option<StreamId>,
    restart: Restart,
}

/// A work that the child has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenWork {
    work: WorkId,
    input: String,
    turn: Option<TurnId>,
    #[serde(default)]
    given_as: GivenAs,
}

/// Whose a child is, as its old parent's store says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Its old parent's, still.
    Ours(Box<Adoption>),
    /// That pod's, with what it had to know then.
    MovedTo(Box<Adoption>, PodName),
    /// There is none, or its life is over.
    Nobodys,
}

/// What is left to be done of an adoption that was decided before, as the adopter's own store says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// The last step, [`finish_adoption`](Tx::finish_adoption).
    Finish,
    /// Nothing: the child is known here as ours, alive or over.
    Done,
    /// Nothing: it was ours, its life is over, and its row is gone.
    Over,
    /// Nothing: it was ours, and was given to that pod.
    Moved(PodName),
    /// Nothing: another life has the name here.
    NameTaken(PodId),
}

impl Reads<'_> {
    /// What is to be known of the child `name` of the pod `own`, whose store this is.
    pub(crate) fn whose(&self, own: &PodName, name: &PodName) -> Result<Whose, StoreError> {
        let Some(row) = self.child_by_name(name)? else { return Ok(Whose::Nobodys) };
        let moved_to = row.moved_to.clone();
        if row.state == ChildState::Ended && moved_to.is_none() {
            return Ok(Whose::Nobodys);
        }
        let watermark = row.stream.map(|stream| self.watermark(stream)).transpose()?.unwrap_or_default();
        let sql = "SELECT work, input, turn, given_as FROM works WHERE child = ?1 AND incarnation = ?2
                   AND direction = 'delegated' AND state = 'open' ORDER BY at, work";
        let works = self.all(sql, (&row.pod.name, row.pod.incarnation), |found| {
            Ok(OpenWork { work: found.get(0)?, input: found.get(1)?, turn: found.get(2)?, given_as: found.get(3)? })
        })?;
        let adoption = Box::new(Adoption { from: own.clone(), watermark, works, ..Adoption::of(row) });
        Ok(match moved_to {
            Some(to) => Whose::MovedTo(adoption, to),
            None => Whose::Ours(adoption),
        })
    }

    /// Adoptions that were begun here.
    pub(crate) fn adoptions(&self) -> Result<Vec<Adoption>, StoreError> {
        let bodies = self.all("SELECT body FROM adoptions ORDER BY name", [], |row| row.get::<_, String>(0))?;
        bodies.iter().map(|body| from_json("an adoption", body)).collect()
    }

    /// Whether this life was ever adopted here; from the history, which keeps what the rows forget.
    fn was_adopted(&self, pod: &PodId) -> Result<bool, StoreError> {
        for (_, body) in self.entries("kind = 'child_adopted'", [])? {
            if matches!(from_json("a history entry", &body)?, HistoryItem::ChildAdopted { child, .. } if child == *pod)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a child of that name is on its way here.
    pub(crate) fn is_being_adopted(&self, name: &PodName) -> Result<bool, StoreError> {
        self.exists("SELECT 1 FROM adoptions WHERE name = ?1", [name])
    }
}

impl Tx<'_> {
    /// The new parent's first step: everything that it will need is here before the old parent gives anything up. Says who has the
    /// name, if somebody else has.
    pub(crate) fn begin_adoption(&self, adoption: &Adoption) -> Result<Option<PodId>, StoreError> {
        let taken = self.child_by_name(&adoption.child.name)?.filter(|row| row.state != ChildState::Ended);
        if let Some(row) = taken {
            return Ok(Some(row.pod));
        }
        let body = to_json("an adoption", adoption)?;
        self.run("INSERT OR REPLACE INTO adoptions (name, body) VALUES (?1, ?2)", (&adoption.child.name, body))?;
        Ok(None)
    }

    /// For one who asks again behind the step that decided, with what the old parent's store has kept. If nothing is known of it
    /// here, our store is older than that, and it is begun once more. What ours has kept is never replaced: the old parent's
    /// next life has closed what it had given away.
    pub(crate) fn adopt_again(&self, adoption: &Adoption) -> Result<Again, StoreError> {
        let pod = &adoption.child;
        if self.is_being_adopted(&pod.name)? {
            return Ok(Again::Finish);
        }
        if let Some(row) = self.child(pod)? {
            return Ok(row.moved_to.map_or(Again::Done, Again::Moved));
        }
        if self.was_adopted(pod)? {
            return Ok(Again::Over);
        }
        // A life of that name that is not this one is not given up for it.
        match self.begin_adoption(adoption)? {
            None => Ok(Again::Finish),
            Some(by) => Ok(Again::NameTaken(by)),
        }
    }

    /// The old parent's step, which decides: the child is `to`'s. It has no terminal event here, and its agent is told.
    pub(crate) fn give_away(&self, child: &PodId, to: &PodName) -> Result<(), StoreError> {
        let sql = "UPDATE children SET state = 'ended', ended_at = ?3, moved_to = ?4
                   WHERE name = ?1 AND incarnation = ?2 AND state <> 'ended'";
        if self.run(sql, (&child.name, child.incarnation, self.now(), to))? == 0 {
            return Err(StoreError::Contradiction(format!("pod {child} is no child that could be given away")));
        }
        self.append(None, None, &HistoryItem::ChildMoved { child: child.clone(), to: to.clone() })?;
        let text = format!(
            "Child `{}` was adopted by pod `{to}` while this pod was not running. It does not report here any more; what it had \
             been given is that pod's to hear of.",
            child.name
        );
        self.push_note(NoteKey::random(), &text, Origin::Host, true)?;
        Ok(())
    }

    /// The new parent's last step: the child is ours, with its watermark and its open works. Once is as good as twice.
    pub(crate) fn finish_adoption(&self, name: &PodName) -> Result<Option<ChildRow>, StoreError> {
        let sql = "SELECT body FROM adoptions WHERE name = ?1";
        let Some(body) = self.one(sql, [name], |row| row.get::<_, String>(0))? else { return Ok(None) };
        let adoption: Adoption = from_json("an adoption", &body)?;
        let child = &adoption.child;
        let state = if adoption.ready { ChildState::Ready } else { ChildState::Starting };
        // It may have been ours before.
        self.run(
            "INSERT INTO children (name, incarnation, at, pid, state, lifetime, worker, socket, store, runtime_dir, scope,
                                   stream, restart)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT (name, incarnation) DO UPDATE SET state = excluded.state, stream = excluded.stream,
                 moved_to = NULL, ended_at = NULL",
            params![
                child.name,
                child.incarnation,
                self.now(),
                adoption.pid,
                state,
                adoption.lifetime,
                adoption.worker,
                path_text(&adoption.socket)?,
                path_text(&adoption.store)?,
                path_text(&adoption.runtime_dir)?,
                to_json("a scope", &adoption.scope)?,
                adoption.stream,
                to_json("a restart policy", &adoption.restart)?,
            ],
        )?;
        if let Some(stream) = adoption.stream {
            // It may have been ours before, and have told us more than its old parent has kept of it.
            let upto = adoption.watermark.max(self.watermark(stream)?);
            self.set_watermark(stream, &child.name, upto)?;
        }
        for OpenWork { work, input, turn, given_as } in &adoption.works {
            self.run(
                "INSERT INTO works (work, direction, state, at, child, incarnation, input, turn, given_as)
                 VALUES (?1, 'delegated', 'open', ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (work) DO UPDATE SET state = 'open', settled_at = NULL, result = NULL
                     WHERE direction = 'delegated'",
                params![work, self.now(), child.name, child.incarnation, input, turn, given_as],
            )?;
        }
        self.append(None, None, &HistoryItem::ChildAdopted { child: child.clone(), from: adoption.from.clone() })?;
        self.drop_adoption(name)?;
        self.child(child)
    }

    /// It is not to be, or is done.
    pub(crate) fn drop_adoption(&self, name: &PodName) -> Result<(), StoreError> {
        self.run("DELETE FROM adoptions WHERE name = ?1", [name])?;
        Ok(())
    }

    /// Works of children that are other pods' now will not be heard of here: they are lost for us. At the start of a life.
    pub(crate) fn settle_works_given_away(&self) -> Result<(), StoreError> {
        let sql = "SELECT name, incarnation FROM children c WHERE moved_to IS NOT NULL AND EXISTS (
                       SELECT 1 FROM works w WHERE w.child = c.name AND w.incarnation = c.incarnation
                       AND w.direction = 'delegated' AND w.state = 'open')";
        let moved = self.all(sql, [], |row| Ok(PodId::new(row.get(0)?, row.get::<_, Incarnation>(1)?)))?;
        for child in moved {
            self.settle_delegated_to(&child, WorkResult::Lost)?;
        }
        Ok(())
    }
}

impl Adoption {
    /// Without what stands in other tables.
    fn of(row: ChildRow) -> Self {
        Self {
            from: row.pod.name.clone(),
            child: row.pod,
            watermark: Seq(0),
            works: Vec::new(),
            pid: row.pid,
            ready: row.state == ChildState::Ready,
            lifetime: row.lifetime,
            worker: row.worker,
            socket: row.socket,
            store: row.store,
            runtime_dir: row.runtime_dir,
            scope: row.scope,
            stream: row.stream,
            restart: row.restart,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::StreamId;
    use crate::store::Direction;
    use crate::store::fixture::{self, new_child, pod};

    #[test]
    fn adoption_that_is_asked_for_again_when_its_child_is_over_and_forgotten_brings_nothing_back() {
        let (old, new) = (fixture::memory("old"), fixture::memory("new"));
        let (b, name, own, to) = (pod("b", 1), pod("b", 1).name, pod("old", 1).name, pod("new", 1).name);
        old.with(|tx| {
            tx.reserve_child(&new_child(&b))?;
            tx.child_ready(&b, StreamId(5))?;
            tx.set_watermark(StreamId(5), &name, Seq(7))
        });
        let Whose::Ours(adoption) = old.with(|tx| tx.whose(&own, &name)) else { panic!("it is the old one's") };
        new.with(|tx| tx.begin_adoption(&adoption));
        old.with(|tx| tx.give_away(&b, &to));
        let Whose::MovedTo(kept, _) = old.with(|tx| tx.whose(&own, &name)) else { panic!("it is the new one's") };
        assert_eq!(new.with(|tx| tx.adopt_again(&kept)), Again::Finish);
        new.with(|tx| tx.finish_adoption(&name));
        assert_eq!(new.with(|tx| tx.adopt_again(&kept)), Again::Done);
        new.with(|tx| tx.set_watermark(StreamId(5), &name, Seq(9)));
        // Its life ends, and thousands after it: its row is gone.
        let row = new.with(|tx| tx.child(&b)).unwrap();
        new.with(|tx| tx.end_life(&row));
        new.with(|tx| tx.run("DELETE FROM children", []).map(drop));
        assert_eq!(new.with(|tx| tx.adopt_again(&kept)), Again::Over);
        assert!(new.with(|tx| Ok(tx.live_children()?.is_empty() && !tx.is_being_adopted(&name)?)));
        // Whatever is begun, what was heard is not heard again.
        new.with(|tx| tx.begin_adoption(&kept));
        new.with(|tx| tx.finish_adoption(&name));
        assert_eq!(new.with(|tx| tx.watermark(StreamId(5))), Seq(9));
        // One that was given on since is not taken back by the word of whom it was given by.
        new.with(|tx| tx.give_away(&b, &pod("third", 1).name));
        assert_eq!(new.with(|tx| tx.adopt_again(&kept)), Again::Moved(pod("third", 1).name));
        // A store that was put back knows nothing of it, and takes what the other has kept.
        let older = fixture::memory("new");
        assert_eq!(older.with(|tx| tx.adopt_again(&kept)), Again::Finish);
        assert_eq!(older.with(|tx| tx.finish_adoption(&name)).map(|row| row.pod), Some(b));
        let other = fixture::memory("new");
        other.with(|tx| tx.reserve_child(&new_child(&pod("b", 2))).map(drop));
        assert_eq!(other.with(|tx| tx.adopt_again(&kept)), Again::NameTaken(pod("b", 2)));
    }

    #[test]
    fn child_is_one_parents_at_each_step_and_goes_with_its_watermark_and_its_open_works() {
        let (old, new) = (fixture::memory("old"), fixture::memory("new"));
        let (b, name) = (pod("b", 1), pod("b", 1).name);
        old.with(|tx| {
            tx.reserve_child(&new_child(&b))?;
            tx.child_ready(&b, StreamId(5))?;
            tx.set_watermark(StreamId(5), &name, Seq(7))?;
            tx.delegate_as(GivenAs::FollowUp, WorkId(1), &b, None, "open")?;
            tx.delegate(WorkId(2), &b, None, "over")?;
            tx.settle_delegated(WorkId(2), &name, WorkResult::Finished)
        });
        let own = pod("old", 1).name;
        let Whose::Ours(adoption) = old.with(|tx| tx.whose(&own, &name)) else { panic!("it is the old one's") };
        assert_eq!((adoption.watermark, adoption.works.len()), (Seq(7), 1));
        // Kept by the new parent, and not its child yet: nobody takes its name meanwhile.
        assert_eq!(new.with(|tx| tx.begin_adoption(&adoption)), None);
        assert!(new.with(|tx| Ok(tx.live_children()?.is_empty() && tx.is_being_adopted(&name)?)));
        assert!(matches!(
            new.with(|tx| tx.reserve_child(&new_child(&pod("b", 9)))),
            crate::store::Reservation::NameTaken { .. }
        ));
        assert!(matches!(old.with(|tx| tx.whose(&own, &name)), Whose::Ours(_)));
        // The step that decides.
        let to = pod("new", 1).name;
        old.with(|tx| tx.give_away(&b, &to));
        let Whose::MovedTo(kept, moved_to) = old.with(|tx| tx.whose(&own, &name)) else {
            panic!("it is the new one's")
        };
        assert_eq!((moved_to, &kept.child, kept.watermark, &kept.works), (to.clone(), &b, Seq(7), &adoption.works));
        let row = old.with(|tx| tx.child(&b)).unwrap();
        assert_eq!((row.terminal, old.with(|tx| tx.live_children()).len()), (None, 0));
        assert!(old.try_with(|tx| tx.give_away(&b, &to)).is_err(), "given away twice");
        // Made so, as often as it takes.
        let row = new.with(|tx| tx.finish_adoption(&name)).unwrap();
        assert_eq!((row.pod, row.state, row.stream), (b.clone(), ChildState::Ready, Some(StreamId(5))));
        assert_eq!(new.with(|tx| tx.finish_adoption(&name)), None);
        assert_eq!(new.with(|tx| tx.watermark(StreamId(5))), Seq(7));
        let works = new.with(|tx| tx.works(Direction::Delegated, true));
        assert_eq!(works.iter().map(|work| work.work).collect::<Vec<_>>(), [WorkId(1)]);
        let to_be_sent = new.with(|tx| tx.delegated_input(WorkId(1)));
        assert_eq!(to_be_sent, Some((GivenAs::FollowUp, "open".to_owned())), "it is sent as what it was");
        // The old one, when it is back, is told, and waits for nothing.
        old.with(|tx| tx.recover().map(|_| ()));
        let works = old.with(|tx| tx.works(Direction::Delegated, false));
        assert_eq!(
            works.iter().map(|work| work.result).collect::<Vec<_>>(),
            [Some(WorkResult::Lost), Some(WorkResult::Finished)]
        );
        let told = old.with(|tx| tx.inbox_untold());
        assert!(told.iter().any(|item| item.text().contains("adopted by pod `new`")), "{told:?}");
        // And back again.
        let own = pod("new", 1).name;
        let Whose::Ours(back) = new.with(|tx| tx.whose(&own, &name)) else { panic!("it is the new one's") };
        assert_eq!(old.with(|tx| tx.begin_adoption(&back)), None);
        new.with(|tx| tx.give_away(&b, &pod("old", 1).name));
        let row = old.with(|tx| tx.finish_adoption(&name)).unwrap();
        assert_eq!((row.state, row.moved_to), (ChildState::Ready, None));
    }
}
