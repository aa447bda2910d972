//! The checker finds every kind of fault that it is there for, and nothing in a tree where there is none.
//!
//! The recording is a real one, of a tree in which a child was killed and came back; the faults are planted in it, or in
//! the store files themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use pod::id::Seq;
use pod::protocol::{LocalEvent, PodEvent};
use pod::store::{HistoryItem, HistoryRow, SystemItem};
use pod::{LostReason, PodName, Terminal, TurnResult, WorkId, WorkResult};
use tests::checker::{Fault, PodRecord, Recording, judge};
use tests::drive::{ROOT, Rest, Tree};
use tests::world::Step;

const PATIENCE: Duration = Duration::from_secs(60);

fn name(text: &str) -> PodName {
    text.parse().unwrap()
}

/// A root, a child of it, and a grandchild that is killed in its second work and then comes back.
async fn grown() -> (Tree, Recording) {
    let mut tree = Tree::new(env!("CARGO_BIN_EXE_host_pod")).unwrap();
    tree.start(None).await.unwrap();
    let say = || vec![Step::Say("done".to_owned())];
    let leaf = || name("leaf");
    let first = vec![
        Step::Grow(leaf()),
        Step::GiveAndWait(leaf(), say()),
        Step::GiveAndWait(leaf(), vec![Step::Die]),
        Step::Grow(leaf()),
        Step::GiveAndWait(leaf(), say()),
        Step::Stop(leaf()),
    ];
    let steps = [Step::Grow(name("mid")), Step::GiveAndWait(name("mid"), first), Step::Stop(name("mid"))];
    tree.ask(ROOT, &steps, PATIENCE).await.unwrap();
    tree.rest(Rest::Calm, PATIENCE).await.unwrap();
    let recording = tree.end().await.unwrap();
    (tree, recording)
}

fn record<'a>(recording: &'a mut Recording, pod: &str) -> &'a mut PodRecord {
    recording.pods.get_mut(&name(pod)).unwrap()
}

fn keyed(row: &HistoryRow) -> bool {
    matches!(&row.item, HistoryItem::SystemItem(SystemItem::Report { key: Some(_), .. }))
}

fn terminal(row: &HistoryRow) -> bool {
    matches!(row.item, HistoryItem::ChildTerminal { .. })
}

fn settled(row: &HistoryRow) -> bool {
    matches!(row.item, HistoryItem::WorkSettled { child: Some(_), .. })
}

/// Takes the first such row out of the history of `pod`.
fn take(recording: &mut Recording, pod: &str, which: fn(&HistoryRow) -> bool) -> HistoryRow {
    let history = &mut record(recording, pod).history;
    let at = history.iter().position(which).expect("there is such a row");
    history.remove(at)
}

/// Writes the first such row a second time, at the end.
fn repeat(recording: &mut Recording, pod: &str, which: fn(&HistoryRow) -> bool) {
    let history = &mut record(recording, pod).history;
    let row = history.iter().find(|row| which(row)).expect("there is such a row").clone();
    history.push(row);
}

type Plant = fn(&mut Recording);

const PLANTS: &[(Fault, &str, Plant)] = &[
    (Fault::AckedLost, "an event that was acked is not in the parent's history", |r| _ = take(r, "mid", keyed)),
    (Fault::AckedLost, "a child was given an ack for what nobody has", |r| {
        let stream = record(r, "leaf").stream;
        let durable = record(r, "leaf").raised.next();
        r.acks.push(tests::checker::Ack { stream, durable });
    }),
    (Fault::CommittedLost, "a dead child had raised one event more", |r| {
        let leaf = record(r, "leaf");
        leaf.raised = leaf.raised.next();
    }),
    (Fault::Altered, "the child had offered something else", |r| {
        let offer = r.offers.iter_mut().find(|offer| matches!(offer.event, PodEvent::TurnEnded { .. })).unwrap();
        if let PodEvent::TurnEnded { result, .. } = &mut offer.event {
            *result = TurnResult::Cancelled;
        }
    }),
    (Fault::Altered, "the parent has settled a work as something else", |r| {
        let settled = record(r, "mid").history.iter_mut().find(|row| settled(row)).unwrap();
        if let HistoryItem::WorkSettled { result, .. } = &mut settled.item {
            *result = WorkResult::Cancelled;
        }
    }),
    (Fault::AppliedTwice, "an event stands there twice", |r| repeat(r, "mid", keyed)),
    (Fault::AppliedTwice, "another pod has it, too", |r| {
        let row = record(r, "mid").history.iter().find(|row| keyed(row)).unwrap().clone();
        record(r, "root").history.push(row);
    }),
    (Fault::AppliedTwice, "an event stands there once more, under the next number", |r| {
        let mid = record(r, "mid");
        let mut row = mid.history.iter().find(|row| keyed(row)).unwrap().clone();
        if let HistoryItem::SystemItem(SystemItem::Report { key: Some(key), .. }) = &mut row.item {
            key.seq = mid.applied[&key.stream].next();
            mid.applied.insert(key.stream, key.seq);
        }
        mid.history.push(row);
    }),
    (Fault::Gap, "one that was not acked is missing before others", |r| {
        r.acks.clear();
        r.pods.values_mut().for_each(|record| record.acked = Seq(0));
        take(r, "mid", keyed);
    }),
    (Fault::Gap, "a gap was told", |r| {
        let row = record(r, "mid").history.iter_mut().find(|row| keyed(row)).unwrap();
        if let HistoryItem::SystemItem(SystemItem::Report { key: Some(key), event, .. }) = &mut row.item {
            let pod = event.pod().clone();
            *event = LocalEvent::Reported(PodEvent::Gap { pod, from: key.seq, to: key.seq });
        }
    }),
    (Fault::OutOfOrder, "two events have changed places", |r| {
        let row = take(r, "mid", keyed);
        let history = &mut record(r, "mid").history;
        let second = history.iter().position(keyed).unwrap();
        history.insert(second + 1, row);
    }),
    (Fault::OutOfOrder, "the loss of a life is told before what it had said", |r| {
        let lost: fn(&HistoryRow) -> bool = |row| {
            matches!(&row.item, HistoryItem::SystemItem(SystemItem::Report { event: LocalEvent::Lost { .. }, .. }))
        };
        let row = take(r, "mid", lost);
        record(r, "mid").history.insert(0, row);
    }),
    (Fault::Terminals, "a life has none", |r| _ = take(r, "mid", terminal)),
    (Fault::Terminals, "a life has two", |r| repeat(r, "mid", terminal)),
    (Fault::Terminals, "the agent is not told of one", |r| {
        let lost: fn(&HistoryRow) -> bool = |row| {
            matches!(&row.item, HistoryItem::SystemItem(SystemItem::Report { event: LocalEvent::Lost { .. }, .. }))
        };
        take(r, "mid", lost);
    }),
    (Fault::Unsettled, "a work that was delegated is open", |r| _ = take(r, "mid", settled)),
    (Fault::Unsettled, "a work that was accepted is open", |r| {
        take(r, "root", |row| matches!(row.item, HistoryItem::WorkSettled { child: None, .. }));
    }),
    (Fault::SettledTwice, "a work is settled twice", |r| repeat(r, "mid", settled)),
    (Fault::AcceptedLost, "a run was accepted that nobody knows", |r| _ = r.accepted.insert((name("mid"), WorkId(7)))),
    (Fault::Holders, "a life is another pod's child, too", |r| {
        let row = record(r, "mid").children[0].clone();
        record(r, "root").children.push(row);
    }),
    (Fault::Holders, "a life was given away, and nobody has taken it", |r| {
        record(r, "mid").children[0].moved_to = Some(name("root"));
    }),
    (Fault::AppliedTwice, "whoever has a child counts fewer of its events than there are", |r| {
        let stream = record(r, "leaf").stream;
        record(r, "mid").applied.insert(stream, Seq(1));
    }),
    (Fault::FalseLost, "a life is lost that nobody killed", |r| r.killed.clear()),
    (Fault::FalseLost, "a life is lost that had said that it shuts down", |r| {
        let shut: fn(&HistoryRow) -> bool =
            |row| matches!(row.item, HistoryItem::ChildTerminal { terminal: Terminal::ShutDown, .. });
        let row = record(r, "mid").history.iter_mut().find(|row| shut(row)).unwrap();
        if let HistoryItem::ChildTerminal { child, terminal, .. } = &mut row.item {
            *terminal = Terminal::Lost { reason: LostReason::Unobserved };
            let child = child.clone();
            r.killed.insert(child);
        }
    }),
    (Fault::FalseLost, "a life that was lost has gone on to write", |r| {
        let lost: fn(&HistoryRow) -> bool =
            |row| matches!(row.item, HistoryItem::ChildTerminal { terminal: Terminal::Lost { .. }, .. });
        let end = record(r, "mid").history.iter().find(|row| lost(row)).unwrap().clone();
        let history = &mut record(r, "leaf").history;
        // The last row of its life: the next one begins the second.
        let began = |row: &HistoryRow| matches!(row.item, HistoryItem::LifeStarted { .. });
        let second = history.iter().enumerate().filter(|(_, row)| began(row)).nth(1).unwrap().0;
        history[second - 1].at = end.at.plus(1);
    }),
    (Fault::FalseLost, "a work is lost that its child had settled", |r| {
        let settled = record(r, "mid").history.iter_mut().find(|row| settled(row)).unwrap();
        if let HistoryItem::WorkSettled { result, .. } = &mut settled.item {
            *result = WorkResult::Lost;
        }
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn checker_finds_each_planted_fault_and_nothing_without_one() {
    let (_tree, recording) = grown().await;
    let verdict = judge(&recording);
    assert!(verdict.is_clean(), "{verdict}\n{:#?}", verdict.findings);
    let counts = verdict.counts;
    assert_eq!((counts.pods, counts.lives, counts.lost), (3, 3, 1), "{counts}");
    assert!(counts.events >= 9 && counts.acks > 0 && counts.works >= 4, "{counts}");
    // Of each event it is known what the child had raised, from its offer or from what its store still holds; but for the
    // two that it may have had no time to offer before it was killed: its next life has trimmed what its parent had read.
    assert!(counts.compared + 2 >= counts.events, "{counts}");

    let mut planted = BTreeSet::new();
    for (fault, what, plant) in PLANTS {
        let mut faulty = recording.clone();
        plant(&mut faulty);
        let verdict = judge(&faulty);
        assert!(verdict.count(*fault) > 0, "{what}: `{fault}` was not found, but {:#?}", verdict.findings);
        planted.insert(*fault);
    }
    assert_eq!(planted, BTreeSet::from(Fault::ALL), "a kind of fault is never planted");
}

#[tokio::test(flavor = "multi_thread")]
async fn checker_finds_faults_that_are_planted_in_the_store_files() {
    let plants: &[(Fault, &str, &str)] = &[
        (
            Fault::AckedLost,
            "mid",
            // Of the second life, which heard all of its acks before it ended; the first may have died of its second work before.
            "DELETE FROM history WHERE seq = (SELECT max(seq) FROM history WHERE kind = 'system_item')",
        ),
        (Fault::CommittedLost, "leaf", "UPDATE meta SET value = value + 1 WHERE key = 'next_seq'"),
        (
            Fault::Altered,
            "mid",
            "UPDATE history SET body = replace(body, '\"Finished\"', '\"Cancelled\"') WHERE kind = 'system_item'",
        ),
        (
            Fault::AppliedTwice,
            "mid",
            "INSERT INTO history (at, kind, turn, work, body)
            SELECT at, kind, turn, work, body FROM history WHERE kind = 'system_item' LIMIT 1",
        ),
        (Fault::Terminals, "mid", "DELETE FROM history WHERE kind = 'child_terminal'"),
        (Fault::Unsettled, "root", "DELETE FROM history WHERE kind = 'work_settled'"),
        (
            Fault::SettledTwice,
            "mid",
            "INSERT INTO history (at, kind, turn, work, body)
            SELECT at, kind, turn, work, body FROM history WHERE kind = 'work_settled' LIMIT 1",
        ),
        (Fault::AcceptedLost, "root", "DELETE FROM works WHERE direction = 'received'"),
    ];
    let (tree, recording) = grown().await;
    assert!(judge(&recording).is_clean());
    for (fault, pod, sql) in plants {
        let store = tree.roots().pod(&name(pod)).store();
        // Whoever closes a store last leaves all of it in one file.
        drop(
            rusqlite::Connection::open(&store)
                .map(|file| file.query_row("SELECT 1 FROM meta", [], |_| Ok(())))
                .unwrap(),
        );
        let kept = std::fs::read(&store).unwrap();
        let file = rusqlite::Connection::open(&store).unwrap();
        unguard(&file);
        assert!(file.execute(sql, []).unwrap() > 0, "{sql}");
        drop(file);
        let mut faulty = tree.recording().unwrap();
        faulty.over = true;
        let verdict = judge(&faulty);
        assert!(verdict.count(*fault) > 0, "{sql}: `{fault}` was not found, but {:#?}", verdict.findings);
        std::fs::write(&store, kept).unwrap();
        let mut mended = tree.recording().unwrap();
        mended.over = true;
        assert!(judge(&mended).is_clean(), "the fault is still there: {:#?}", judge(&mended).findings);
    }
}

/// The store itself would notice: without its sums, what is planted is for the checker alone to find.
fn unguard(file: &rusqlite::Connection) {
    let mut found = file.prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'").unwrap();
    let triggers: Vec<String> = found.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(!triggers.is_empty(), "there is no guard to be taken away");
    for trigger in triggers {
        file.execute_batch(&format!("DROP TRIGGER {trigger}")).unwrap();
    }
    file.execute_batch("DELETE FROM sums; UPDATE history SET sum = NULL").unwrap();
}
