//! A store in memory, driven by hand, and values to fill it: for the tests of this crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

use crate::id::{Incarnation, PodId, Seq, StreamId, TurnId, WorkId};
use crate::protocol::{LocalEvent, PodEvent, TurnResult};
use crate::store::{
    Clock, EventKey, Lifetime, NewChild, NewReport, Own, StoreError, StoreOptions, SystemItem, Tx, schema,
};

pub(crate) struct Memory {
    conn: std::cell::RefCell<Connection>,
    clock: Arc<AtomicU64>,
    pub(crate) options: StoreOptions,
}

pub(crate) fn pod(name: &str, incarnation: u64) -> PodId {
    PodId::new(name.parse().unwrap(), Incarnation(incarnation))
}

pub(crate) fn options(name: &str) -> StoreOptions {
    StoreOptions::new(Own { pod: pod(name, 1), has_parent: true, reads_reports: true })
}

/// A store of the pod `name`, in its life 1, with a parent and a worker that reads reports. The time is 1 000 000.
pub(crate) fn memory(name: &str) -> Memory {
    let mut conn = Connection::open_in_memory().unwrap();
    schema::migrate(&mut conn, 0).unwrap();
    conn.execute_batch("INSERT INTO meta VALUES ('next_seq', 1), ('next_turn', 1), ('acked_seq', 0)").unwrap();
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let mut options = options(name);
    options.clock = Clock::Manual(clock.clone());
    Memory { conn: conn.into(), clock, options }
}

impl Memory {
    /// Commits what `work` does.
    #[track_caller]
    pub(crate) fn with<T>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError>) -> T {
        self.try_with(work).unwrap()
    }

    /// Commits what `work` does, unless it fails: then nothing of it stays.
    pub(crate) fn try_with<T>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut conn = self.conn.borrow_mut();
        let sql = conn.transaction().unwrap();
        let result = work(&Tx::new(&sql, self.options.clock.now(), &self.options.own, &self.options.limits));
        if result.is_ok() {
            sql.commit().unwrap();
        }
        result
    }

    pub(crate) fn advance(&self, millis: u64) {
        self.clock.fetch_add(millis, Ordering::SeqCst);
    }
}

/// Lets the file say what one of the next version of this program would: in its header, and in its sums.
pub(crate) fn make_newer(conn: &Connection) {
    let newer = schema::VERSION + 1;
    conn.pragma_update(None, "user_version", newer).unwrap();
    conn.execute_batch("CREATE TABLE IF NOT EXISTS sums (what TEXT PRIMARY KEY, sum INTEGER NOT NULL)").unwrap();
    conn.execute("INSERT OR REPLACE INTO sums (what, sum) VALUES ('version', ?1)", [newer]).unwrap();
}

/// Changes a table as the medium would: nobody sums that up.
pub(crate) fn behind_the_back(conn: &Connection, table: &str, sql: &str) {
    let mut statement =
        conn.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1").unwrap();
    let triggers = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let triggers: Vec<(String, String)> = triggers.map(Result::unwrap).collect();
    for (name, _) in &triggers {
        conn.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
    }
    conn.execute_batch(sql).unwrap();
    for (_, trigger) in &triggers {
        conn.execute_batch(trigger).unwrap();
    }
}

pub(crate) fn turn_ended(pod: &PodId, work: WorkId) -> PodEvent {
    PodEvent::TurnEnded { pod: pod.clone(), work, turn: TurnId(1), result: TurnResult::Finished }
}

/// The report number `seq` of a child `b`, for no work.
pub(crate) fn report(seq: u64) -> NewReport {
    let key = Some(EventKey { stream: StreamId(7), seq: Seq(seq) });
    let event = LocalEvent::Reported(turn_ended(&pod("b", 1), WorkId(seq)));
    let item = SystemItem::Report { key, event, text: format!("report {seq}") };
    NewReport { key, item, wakes: true, works: Vec::new() }
}

/// A child that is about to be started.
pub(crate) fn new_child(pod: &PodId) -> NewChild {
    NewChild {
        pod: pod.clone(),
        worker: "{}".to_owned(),
        lifetime: Lifetime::Tied,
        restart: crate::store::Restart::default(),
        restarted: false,
        socket: "/run/b/pod.sock".into(),
        store: "/state/b/store.db".into(),
        runtime_dir: "/run/b".into(),
        scope: Vec::new(),
    }
}
