//! Stores as the programs of each version have left them: opened, brought up to date, and nothing of them lost.
//!
//! The files in `golden` were written by those programs, a parent that was killed and its child, which has kept what it could
//! not tell; they are never edited and never made anew. A version that is shipped gets one of its own.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Value;

use super::*;
use crate::event::settle_dead_child;
use crate::id::{Seq, TurnId};
use crate::protocol::{LocalEvent, LostReason, TurnResult, WorkResult};
use crate::runtime_dir::Roots;
use crate::store::fixture;
use crate::store::thread::Store;
use crate::store::{Direction, EndOfLife, Reads, StoreReader, SystemItem, Terminal};

/// A parent and a child of it, by their versions, from 1 on.
const GOLDEN: [[&str; 2]; 3] = [
    [include_str!("golden/v1_parent.sql"), include_str!("golden/v1_child.sql")],
    [include_str!("golden/v2_parent.sql"), include_str!("golden/v2_child.sql")],
    [include_str!("golden/v3_parent.sql"), include_str!("golden/v3_child.sql")],
];
const PARENT: &str = "run";
const CHILD: &str = "b";

/// Whose, of which version, and what is in it.
fn all() -> impl Iterator<Item = (&'static str, usize, &'static str)> {
    let of = |(at, [parent, child]): (usize, &[&'static str; 2])| [(PARENT, at + 1, *parent), (CHILD, at + 1, *child)];
    GOLDEN.iter().enumerate().flat_map(of)
}

fn lay_down(path: &Path, sql: &str) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "journal_mode", "WAL").unwrap();
    conn.execute_batch(sql).unwrap();
    conn
}

/// The tables and columns of a file, but for the sums, which are its version's own.
fn shape(conn: &Connection) -> BTreeMap<String, Vec<String>> {
    let names = |sql: &str| -> Vec<String> {
        conn.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let tables = names(
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'sums'",
    );
    tables
        .into_iter()
        .map(|table| (table.clone(), names(&format!("SELECT name FROM pragma_table_info('{table}')"))))
        .collect()
}

/// What the columns of `shape` hold, row by row.
fn rows(conn: &Connection, shape: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, BTreeSet<String>> {
    let of = |(table, columns): (&String, &Vec<String>)| {
        let mut statement = conn.prepare(&format!("SELECT {} FROM main.{table}", columns.join(", "))).unwrap();
        let found = statement.query_map([], |row| {
            (0..columns.len()).map(|column| row.get::<_, Value>(column)).collect::<rusqlite::Result<Vec<_>>>()
        });
        (table.clone(), found.unwrap().map(|row| format!("{:?}", row.unwrap())).collect())
    };
    shape.iter().map(of).collect()
}

#[test]
fn store_of_every_version_that_was_shipped_is_brought_up_to_date_and_keeps_every_row() {
    let shipped = usize::try_from(schema::VERSION).unwrap();
    assert!(shipped <= GOLDEN.len() + 1, "a version was shipped without a store of it in `golden`");
    for (pod, version, sql) in all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let old = lay_down(&path, sql);
        let shape = shape(&old);
        let before = rows(&old, &shape);
        drop(old);
        assert!(before["history"].len() >= 6 && before["works"].len() + before["outbox"].len() >= 3, "{before:?}");
        // Whoever looks reads it as it is.
        let looked = |reads: &Reads<'_>| {
            let counts = reads.status_counts()?;
            assert_eq!(counts.history, before["history"].len() as u64, "{pod}, version {version}");
            assert_eq!(reads.history_after(0, 100)?.len(), before["history"].len(), "{pod}, version {version}");
            assert_eq!(reads.outbox_from(Seq(1), 100)?.len(), before["outbox"].len());
            assert_eq!(reads.children()?.len(), before["children"].len());
            Ok(())
        };
        let reader = StoreReader::open(&path).unwrap();
        reader.check().unwrap();
        reader.look(looked).unwrap();
        drop(reader);

        let Opened { conn, identity, lost, .. } = open_writer(&path, &fixture::options(pod)).unwrap();
        assert_eq!((identity.pod.as_str(), lost), (pod, None));
        for (table, before) in &before {
            let after = &rows(&conn, &shape)[table];
            assert!(after.is_superset(before), "{pod}, version {version}: rows of `{table}` are lost or others");
            assert!(table == "meta" || after.len() == before.len(), "{pod}, version {version}: `{table}`");
        }
        let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(found, schema::VERSION);
        assert_eq!(guard::differing(&conn, Extent::All).unwrap(), None, "{pod}, version {version}");
        looked(&Reads::new(&conn, UnixMillis(0))).unwrap();
    }
}

#[tokio::test]
async fn parent_of_every_version_that_was_shipped_goes_on_and_hears_what_its_child_had_kept() {
    for [parent, child] in GOLDEN {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::at(&dir.path().join("r")).unwrap();
        for (pod, sql) in [(PARENT, parent), (CHILD, child)] {
            let paths = roots.pod(&pod.parse().unwrap());
            paths.make_state_dir().unwrap();
            drop(lay_down(&paths.store(), sql));
        }
        let store = Store::open(roots.pod(&PARENT.parse().unwrap()).store(), fixture::options(PARENT)).unwrap();
        let below = roots.clone();
        let begin = move |tx: &crate::store::Tx<'_>| {
            tx.relocate_children(&below)?;
            tx.recover()
        };
        let recovery = store.write(begin).await.unwrap();
        let dead = recovery.children.iter().find(|row| row.pod.name.as_str() == CHILD).unwrap().pod.clone();
        let end = settle_dead_child(&store, &dead, EndOfLife::Dead(LostReason::Killed { signal: 9 })).await.unwrap();
        assert_eq!((end.drained, end.terminal), (3, Terminal::ShutDown));
        let works = store.read(|reads| reads.works(Direction::Delegated, false)).await.unwrap();
        let work = works.iter().find(|row| row.child.as_ref().is_some_and(|child| *child == dead)).unwrap();
        assert_eq!(work.result, Some(WorkResult::Interrupted));
        let staged = store.write(|tx| tx.stage_reports(TurnId(1), 100)).await.unwrap();
        let told = staged.iter().any(|report| {
            let SystemItem::Report { event: LocalEvent::Reported(event), .. } = &report.item else { return false };
            matches!(event, crate::protocol::PodEvent::TurnEnded { result: TurnResult::Interrupted, .. })
        });
        assert!(told, "{staged:?}");
        store.close().await;
        StoreReader::open(store.path()).unwrap().check().unwrap();
    }
}
