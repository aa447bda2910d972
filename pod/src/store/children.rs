//! The lives of this pod's children: one row each, from before the fork until after the end.
//!
//! A life has at most one terminal event, and a name at most one life that is not over. Rows of lives that are over
//! stay: what comes late is compared with them.
//!
//! Written by `spawn` and `event`, read by whoever must know who a sender is.

use std::path::PathBuf;

use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, NoteKey, PodId, PodName, Seq, StreamId};
use crate::protocol::{Kept, LostReason, RestartKind, RestartPolicy, WorkResult};
use crate::runtime_dir::Roots;
use crate::scope::ScopeRule;
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;
use crate::store::history::{HistoryItem, Origin};
use crate::store::intents::IntentKind;
use crate::store::sql::{from_json, path_of, path_text, stored_word, to_json};
use crate::store::tx::{Reads, Tx};

/// One life of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildRow {
    /// Who.
    pub pod: PodId,
    /// When it was reserved.
    pub at: UnixMillis,
    /// The process, once it was started. Shown to people, never signalled after a restart.
    pub pid: Option<u32>,
    /// How far it has come.
    pub state: ChildState,
    /// Whether it ends with us.
    pub lifetime: Lifetime,
    /// What it runs, as JSON.
    pub worker: String,
    /// Where it listens.
    pub socket: PathBuf,
    /// Its store.
    pub store: PathBuf,
    /// What is to be removed when it has ended.
    pub runtime_dir: PathBuf,
    /// What was delegated to it.
    pub scope: Vec<ScopeRule>,
    /// Its events, once they are known.
    pub stream: Option<StreamId>,
    /// How it ended, once that is known.
    pub terminal: Option<Terminal>,
    /// Whether it is started again when it has ended.
    pub restart: Restart,
    /// Whether it is itself such a restart.
    pub restarted: bool,
    /// The pod whose child it is now, if it is ours no more. It has no terminal event here then.
    pub moved_to: Option<PodName>,
}

/// A child that is about to be started.
#[derive(Clone, Debug)]
pub struct NewChild {
    /// Who.
    pub pod: PodId,
    /// What it runs, as JSON.
    pub worker: String,
    /// Whether it ends with us.
    pub lifetime: Lifetime,
    /// Where it will listen.
    pub socket: PathBuf,
    /// Where its store will be.
    pub store: PathBuf,
    /// What is to be removed when it has ended.
    pub runtime_dir: PathBuf,
    /// What is delegated to it.
    pub scope: Vec<ScopeRule>,
    /// Whether it is started again when it has ended.
    pub restart: Restart,
    /// Whether it is itself such a restart.
    pub restarted: bool,
}

/// How far a life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// It may be forked.
    Reserved,
    /// Its process was started.
    Starting,
    /// It said that it is ready.
    Ready,
    /// Its process is dead, and all that it had to tell was read.
    Ended,
}

/// Whether a child ends with its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// It ends with its parent.
    Tied,
    /// It goes on, and is adopted again when its parent returns.
    Detached,
}

/// Whether, and how often, a child is started again when it has ended: a new life under its name, with its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// After which ends.
    pub when: RestartWhen,
    /// How many restarts there may be within `within_ms`; with the next end it stays ended, and its parent is told.
    pub max: u32,
    /// The time in which restarts are counted, in milliseconds.
    pub within_ms: u64,
}

/// After which ends a child is started again. Never after one that its parent wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartWhen {
    /// After none.
    #[default]
    Never,
    /// If it did not say that it shuts down.
    OnFailure,
    /// Also if it shut down.
    Always,
}

impl ChildRow {
    /// How the child is kept, of whose lives, and of others, `known` are still recorded.
    pub fn kept(&self, known: &[Self]) -> Kept {
        let restarts = known.iter().filter(|row| row.pod.name == self.pod.name && row.restarted).count();
        Kept {
            detached: self.lifetime == Lifetime::Detached,
            restart: self.restart.when.into(),
            restarts: u32::try_from(restarts).unwrap_or(u32::MAX),
        }
    }
}

impl Lifetime {
    /// Detached, if it is.
    pub fn detached(is: bool) -> Self {
        if is { Self::Detached } else { Self::Tied }
    }
}

impl From<RestartPolicy> for Restart {
    fn from(policy: RestartPolicy) -> Self {
        let when = match policy.kind {
            RestartKind::Temporary => RestartWhen::Never,
            RestartKind::Transient => RestartWhen::OnFailure,
            RestartKind::Permanent => RestartWhen::Always,
        };
        Self { when, max: policy.max, within_ms: policy.within_ms }
    }
}

impl From<RestartWhen> for RestartKind {
    fn from(when: RestartWhen) -> Self {
        match when {
            RestartWhen::Never => Self::Temporary,
            RestartWhen::OnFailure => Self::Transient,
            RestartWhen::Always => Self::Permanent,
        }
    }
}

impl Default for Restart {
    /// Never. The intensity that is meant if nobody says another is three restarts in a minute.
    fn default() -> Self {
        Self { when: RestartWhen::Never, max: 3, within_ms: 60_000 }
    }
}

/// How a life ended. There is one for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum Terminal {
    /// It said so itself.
    ShutDown,
    /// It did not.
    Lost {
        /// What was seen of it.
        reason: LostReason,
    },
    /// No process was ever started.
    NeverStarted {
        /// Why.
        reason: String,
    },
}

/// What is known of the end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndOfLife {
    /// It is dead.
    Dead(LostReason),
    /// It never lived.
    NeverStarted {
        /// Why.
        reason: String,
    },
}

/// Whether a name could be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// The life is recorded and may be forked.
    Reserved,
    /// Another life has the name.
    NameTaken {
        /// Which.
        by: PodId,
    },
}

/// What became of a child's word that it is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildReadiness {
    /// It is recorded.
    Ready {
        /// The last of its events that we have.
        watermark: Seq,
    },
    /// No such child, or another one's stream.
    NotYours,
    /// Its life is over for us.
    Stale {
        /// The life that has the name, or had it last.
        current: Incarnation,
    },
}

stored_word!(
    ChildState,
    "state of a child",
    Reserved = "reserved",
    Starting = "starting",
    Ready = "ready",
    Ended = "ended",
);
stored_word!(Lifetime, "lifetime", Tied = "tied", Detached = "detached");

const COLUMNS: &str = "name, incarnation, at, pid, state, lifetime, worker, socket, store, runtime_dir, scope, stream, terminal, \
                       restart, restarted, moved_to";

impl Reads<'_> {
    /// This life.
    ///
    /// # Errors
    /// If the file or the row cannot be read.
    pub fn child(&self, pod: &PodId) -> Result<Option<ChildRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM children WHERE name = ?1 AND incarnation = ?2");
        self.one(&sql, (&pod.name, pod.incarnation), raw_row)?.map(ChildRow::try_from).transpose()
    }

    /// The life that has the name: the one that is not over, or else the last.
    ///
    /// # Errors
    /// If the file or the row cannot be read.
    pub fn child_by_name(&self, name: &PodName) -> Result<Option<ChildRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM children WHERE name = ?1 ORDER BY state = 'ended', at DESC LIMIT 1");
        self.one(&sql, [name], raw_row)?.map(ChildRow::try_from).transpose()
    }

    /// All lives, oldest first.
    ///
    /// # Errors
    /// If the file or a row cannot be read.
    pub fn children(&self) -> Result<Vec<ChildRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM children ORDER BY at, name");
        self.all(&sql, [], raw_row)?.into_iter().map(ChildRow::try_from).collect()
    }

    /// The lives that are not over, oldest first.
    ///
    /// # Errors
    /// If the file or a row cannot be read.
    pub fn live_children(&self) -> Result<Vec<ChildRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM children WHERE state <> 'ended' ORDER BY at, name");
        self.all(&sql, [], raw_row)?.into_iter().map(ChildRow::try_from).collect()
    }

    /// How many lives are not over.
    pub(crate) fn live_children_count(&self) -> Result<u64, StoreError> {
        self.number("SELECT count(*) FROM children WHERE state <> 'ended'", [])
    }

    /// How many lives of that name a restart policy has started since `since`.
    pub(crate) fn restarts_since(&self, name: &PodName, since: UnixMillis) -> Result<u64, StoreError> {
        self.number("SELECT count(*) FROM children WHERE name = ?1 AND at >= ?2 AND restarted", (name, since))
    }

    /// The last event of `stream` that is applied here.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn watermark(&self, stream: StreamId) -> Result<Seq, StoreError> {
        let found = self.one("SELECT seq FROM watermarks WHERE stream = ?1", [stream], |row| row.get(0))?;
        Ok(found.unwrap_or_default())
    }
}

impl Tx<'_> {
    /// Takes a name for a life that is about to be forked. What was still to be removed of the name's last life is
    /// the new life's to use.
    ///
    /// # Errors
    /// If it cannot be written: the child must then not be forked.
    pub fn reserve_child(&self, child: &NewChild) -> Result<Reservation, StoreError> {
        if let Some(live) = self.child_by_name(&child.pod.name)?.filter(|row| row.state != ChildState::Ended) {
            return Ok(Reservation::NameTaken { by: live.pod });
        }
        if self.is_being_adopted(&child.pod.name)? {
            return Ok(Reservation::NameTaken { by: child.pod.clone() });
        }
        self.keep_runtime_dir_of(&child.pod.name)?;
        // Whoever begins it: this is the next life.
        self.forego_restart(&child.pod.name)?;
        self.run(
            "INSERT INTO children (name, incarnation, at, state, lifetime, worker, socket, store, runtime_dir, scope,
                                   restart, restarted)
             VALUES (?1, ?2, ?3, 'reserved', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                child.pod.name,
                child.pod.incarnation,
                self.now(),
                child.lifetime,
                child.worker,
                path_text(&child.socket)?,
                path_text(&child.store)?,
                path_text(&child.runtime_dir)?,
                to_json("a scope", &child.scope)?,
                to_json("a restart policy", &child.restart)?,
                child.restarted,
            ],
        )?;
        let item = HistoryItem::ChildSpawned { child: child.pod.clone(), lifetime: child.lifetime };
        self.append(None, None, &item)?;
        Ok(Reservation::Reserved)
    }

    /// Takes note of where the files of children that are not over are: below the same roots as ours. A tree that was moved
    /// or copied must not look for its children where it was.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn relocate_children(&self, roots: &Roots) -> Result<(), StoreError> {
        for row in self.live_children()? {
            let paths = roots.pod(&row.pod.name);
            let (socket, store, runtime_dir) = (paths.socket(), paths.store(), paths.runtime_dir());
            if row.store == store && row.runtime_dir == runtime_dir {
                continue;
            }
            let sql =
                "UPDATE children SET socket = ?3, store = ?4, runtime_dir = ?5 WHERE name = ?1 AND incarnation = ?2";
            let (socket, store, runtime_dir) = (path_text(&socket)?, path_text(&store)?, path_text(runtime_dir)?);
            self.run(sql, (&row.pod.name, row.pod.incarnation, socket, store, runtime_dir))?;
        }
        Ok(())
    }

    /// The process of a life was started.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn child_started(&self, pod: &PodId, pid: u32) -> Result<(), StoreError> {
        let sql = "UPDATE children SET pid = ?3, state = CASE state WHEN 'reserved' THEN 'starting' ELSE state END
                   WHERE name = ?1 AND incarnation = ?2 AND state <> 'ended'";
        self.run(sql, (&pod.name, pod.incarnation, pid))?;
        Ok(())
    }

    /// A life says that it is ready, and whose events it will offer. Saying it twice changes nothing.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn child_ready(&self, pod: &PodId, stream: StreamId) -> Result<ChildReadiness, StoreError> {
        let Some(row) = self.child(pod)? else {
            let current = self.child_by_name(&pod.name)?.map(|row| row.pod.incarnation);
            return Ok(current.map_or(ChildReadiness::NotYours, |current| ChildReadiness::Stale { current }));
        };
        if row.moved_to.is_some() {
            return Ok(ChildReadiness::NotYours);
        }
        if row.state == ChildState::Ended {
            let current = self.child_by_name(&pod.name)?.map_or(pod.incarnation, |row| row.pod.incarnation);
            return Ok(ChildReadiness::Stale { current });
        }
        if !self.bind_stream(&row, stream)? {
            return Ok(ChildReadiness::NotYours);
        }
        let sql = "UPDATE children SET state = 'ready' WHERE name = ?1 AND incarnation = ?2 AND state <> 'ready'";
        if self.run(sql, (&pod.name, pod.incarnation))? == 1 {
            self.append(None, None, &HistoryItem::ChildReady { child: pod.clone() })?;
        }
        Ok(ChildReadiness::Ready { watermark: self.watermark(stream)? })
    }

    /// A living child that would have ended with us goes on when we end; it has said so. False if it is over, or was so already.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn child_detached(&self, pod: &PodId) -> Result<bool, StoreError> {
        let sql = "UPDATE children SET lifetime = ?3
                   WHERE name = ?1 AND incarnation = ?2 AND state <> 'ended' AND lifetime <> ?3";
        if self.run(sql, (&pod.name, pod.incarnation, Lifetime::Detached))? == 0 {
            return Ok(false);
        }
        self.append(None, None, &HistoryItem::ChildDetached { child: pod.clone() })?;
        Ok(true)
    }

    /// A child has ended once more than its policy allows: it stays ended. Its agent is told.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn restarts_exhausted(&self, child: &PodId, policy: Restart) -> Result<(), StoreError> {
        let (restarts, within_ms) = (policy.max, policy.within_ms);
        self.append(None, None, &HistoryItem::RestartsExhausted { child: child.clone(), restarts, within_ms })?;
        let text = format!(
            "Child `{}` has ended again after {restarts} restarts in {} s, and is not started any more.",
            child.name,
            within_ms.div_ceil(1000)
        );
        self.push_note(NoteKey::random(), &text, Origin::Host, true)?;
        Ok(())
    }

    /// Makes `stream` the life's. False if the life has another one, or the stream is another pod's.
    pub(crate) fn bind_stream(&self, row: &ChildRow, stream: StreamId) -> Result<bool, StoreError> {
        if let Some(bound) = row.stream {
            return Ok(bound == stream);
        }
        let sql = "SELECT 1 FROM watermarks WHERE stream = ?1 AND name <> ?2
                   UNION ALL SELECT 1 FROM children WHERE stream = ?1 AND name <> ?2";
        if self.exists(sql, (stream, &row.pod.name))? {
            return Ok(false);
        }
        let sql = "UPDATE children SET stream = ?3 WHERE name = ?1 AND incarnation = ?2";
        self.run(sql, (&row.pod.name, row.pod.incarnation, stream))?;
        Ok(true)
    }

    /// Everything of `stream` up to `seq` is applied.
    pub(crate) fn set_watermark(&self, stream: StreamId, name: &PodName, seq: Seq) -> Result<(), StoreError> {
        let sql = "INSERT INTO watermarks (stream, name, seq) VALUES (?1, ?2, ?3)
                   ON CONFLICT (stream) DO UPDATE SET seq = excluded.seq";
        self.run(sql, (stream, name, seq))?;
        Ok(())
    }

    /// Gives a life its terminal event, unless it has one; its open works are lost with it. Tells whether it was the
    /// first, and which works of ours those belonged to.
    pub(crate) fn set_terminal(
        &self,
        pod: &PodId,
        terminal: &Terminal,
        unread: Option<String>,
    ) -> Result<Option<Vec<crate::id::WorkId>>, StoreError> {
        let sql = "UPDATE children SET terminal = ?3 WHERE name = ?1 AND incarnation = ?2 AND terminal IS NULL";
        if self.run(sql, (&pod.name, pod.incarnation, to_json("a terminal event", terminal)?))? == 0 {
            return Ok(None);
        }
        let item = HistoryItem::ChildTerminal { child: pod.clone(), terminal: terminal.clone(), unread };
        self.append(None, None, &item)?;
        self.settle_delegated_to(pod, WorkResult::Lost).map(Some)
    }

    /// The life's process is dead and all that it had to tell is applied. Its name is free afterwards.
    pub(crate) fn end_life(&self, row: &ChildRow) -> Result<(), StoreError> {
        let sql = "UPDATE children SET state = 'ended', ended_at = ?3 WHERE name = ?1 AND incarnation = ?2";
        self.run(sql, (&row.pod.name, row.pod.incarnation, self.now()))?;
        let kind = IntentKind::ReclaimRuntimeDir { pod: row.pod.clone(), dir: row.runtime_dir.clone() };
        self.push_intent(&row.pod.name, &kind)?;
        self.push_intent(&row.pod.name, &IntentKind::ReturnLeases { pod: row.pod.clone() })?;
        self.prune()
    }
}

struct Raw {
    row: ChildRow,
    scope: String,
    terminal: Option<String>,
    restart: Option<String>,
}

fn raw_row(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok(Raw {
        row: ChildRow {
            pod: PodId::new(row.get(0)?, row.get(1)?),
            at: row.get(2)?,
            pid: row.get(3)?,
            state: row.get(4)?,
            lifetime: row.get(5)?,
            worker: row.get(6)?,
            socket: path_of(row.get(7)?),
            store: path_of(row.get(8)?),
            runtime_dir: path_of(row.get(9)?),
            scope: Vec::new(),
            stream: row.get(11)?,
            terminal: None,
            restart: Restart::default(),
            restarted: row.get(14)?,
            moved_to: row.get(15)?,
        },
        scope: row.get(10)?,
        terminal: row.get(12)?,
        restart: row.get(13)?,
    })
}

impl TryFrom<Raw> for ChildRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        let terminal = raw.terminal.map(|text| from_json("a terminal event", &text)).transpose()?;
        let restart = raw.restart.map(|text| from_json("a restart policy", &text)).transpose()?.unwrap_or_default();
        Ok(Self { scope: from_json("a scope", &raw.scope)?, terminal, restart, ..raw.row })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{self, new_child, pod};

    #[test]
    fn name_of_a_life_that_is_not_over_is_taken() {
        let store = fixture::memory("a");
        store.with(|tx| {
            assert_eq!(tx.reserve_child(&new_child(&pod("b", 1)))?, Reservation::Reserved);
            let taken = Reservation::NameTaken { by: pod("b", 1) };
            assert_eq!(tx.reserve_child(&new_child(&pod("b", 2)))?, taken);
            let row = tx.child(&pod("b", 1))?.unwrap();
            tx.end_life(&row)?;
            assert_eq!(tx.reserve_child(&new_child(&pod("b", 2)))?, Reservation::Reserved);
            assert_eq!(tx.child_by_name(&pod("b", 0).name)?.unwrap().pod, pod("b", 2));
            assert_eq!((tx.children()?.len(), tx.live_children()?.len()), (2, 1));
            Ok(())
        });
    }

    #[test]
    fn children_of_a_tree_that_was_moved_are_looked_for_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::at(&dir.path().join("r")).unwrap();
        let store = fixture::memory("a");
        store.with(|tx| {
            for name in ["b", "c"] {
                tx.reserve_child(&new_child(&pod(name, 1)))?;
            }
            tx.end_life(&tx.child(&pod("c", 1))?.unwrap())?;
            tx.relocate_children(&roots)?;
            let (b, c) = (tx.child(&pod("b", 1))?.unwrap(), tx.child(&pod("c", 1))?.unwrap());
            let paths = roots.pod(&b.pod.name);
            assert_eq!((b.store, b.socket, &*b.runtime_dir), (paths.store(), paths.socket(), paths.runtime_dir()));
            assert_eq!(c.store, new_child(&c.pod).store, "a life that is over is history");
            Ok(())
        });
    }

    #[test]
    fn new_life_keeps_the_directory_that_the_old_one_was_to_lose() {
        let store = fixture::memory("a");
        store.with(|tx| {
            tx.reserve_child(&new_child(&pod("b", 1)))?;
            tx.end_life(&tx.child(&pod("b", 1))?.unwrap())?;
            assert_eq!(tx.intents()?.len(), 2);
            tx.reserve_child(&new_child(&pod("b", 2)))?;
            let left: Vec<_> = tx.intents()?.into_iter().map(|intent| intent.kind).collect();
            assert_eq!(
                left,
                [IntentKind::ReturnLeases { pod: pod("b", 1) }],
                "a right is given back whoever has the name"
            );
            Ok(())
        });
    }

    #[test]
    fn readiness_is_believed_from_a_life_that_is_not_over_with_its_own_stream() {
        let store = fixture::memory("a");
        let (b, c) = (pod("b", 1), pod("c", 1));
        store.with(|tx| {
            assert_eq!(tx.child_ready(&b, StreamId(1))?, ChildReadiness::NotYours);
            tx.reserve_child(&new_child(&b))?;
            tx.reserve_child(&new_child(&c))?;
            tx.child_started(&b, 77)?;
            let ready = ChildReadiness::Ready { watermark: Seq(0) };
            assert_eq!(tx.child_ready(&b, StreamId(1))?, ready);
            assert_eq!(tx.child_ready(&b, StreamId(1))?, ready);
            assert_eq!(tx.child_ready(&b, StreamId(2))?, ChildReadiness::NotYours, "a second stream");
            assert_eq!(tx.child_ready(&c, StreamId(1))?, ChildReadiness::NotYours, "a sibling's stream");
            let stale = ChildReadiness::Stale { current: b.incarnation };
            assert_eq!(tx.child_ready(&pod("b", 9), StreamId(1))?, stale);
            let row = tx.child(&b)?.unwrap();
            assert_eq!((row.state, row.pid), (ChildState::Ready, Some(77)));
            tx.end_life(&row)?;
            assert_eq!(tx.child_ready(&b, StreamId(1))?, stale);
            Ok(())
        });
    }

    #[test]
    fn life_has_one_terminal_event() {
        let store = fixture::memory("a");
        let lost = Terminal::Lost { reason: LostReason::Killed { signal: 9 } };
        store.with(|tx| {
            tx.reserve_child(&new_child(&pod("b", 1)))?;
            assert!(tx.set_terminal(&pod("b", 1), &Terminal::ShutDown, None)?.is_some());
            assert!(tx.set_terminal(&pod("b", 1), &lost, None)?.is_none());
            assert_eq!(tx.child(&pod("b", 1))?.unwrap().terminal, Some(Terminal::ShutDown));
            Ok(())
        });
    }
}
