//! The account of histories that are written by hand.

use pod::id::{Incarnation, Seq, TurnId};
use pod::store::Lifetime;

use super::*;

pub(crate) fn pod_id(name: &str, life: u64) -> PodId {
    PodId::new(name.parse().unwrap(), Incarnation(life))
}

fn row(work: Option<u64>, item: HistoryItem) -> HistoryRow {
    HistoryRow { seq: 1, at: UnixMillis(7), turn: None, work: work.map(WorkId), item }
}

pub(crate) fn spawned(child: &PodId) -> HistoryRow {
    row(None, HistoryItem::ChildSpawned { child: child.clone(), lifetime: Lifetime::Tied })
}

pub(crate) fn delegated(child: &PodId, work: u64) -> HistoryRow {
    row(Some(work), HistoryItem::WorkDelegated { child: child.clone(), input: "do it".to_owned() })
}

pub(crate) fn settled(child: &PodId, work: u64, result: WorkResult) -> HistoryRow {
    row(Some(work), HistoryItem::WorkSettled { result, child: Some(child.name.clone()) })
}

pub(crate) fn report(seq: u64, event: PodEvent) -> HistoryRow {
    let key = Some(EventKey { stream: StreamId(9), seq: Seq(seq) });
    let event = LocalEvent::Reported(event);
    row(None, HistoryItem::SystemItem(SystemItem::Report { key, event, text: String::new() }))
}

pub(crate) fn turn_ended(child: &PodId, work: u64) -> PodEvent {
    let (work, turn) = (WorkId(work), TurnId(1));
    PodEvent::TurnEnded { pod: child.clone(), work, turn, result: TurnResult::Finished }
}

pub(crate) fn terminal(child: &PodId, terminal: Terminal) -> HistoryRow {
    row(None, HistoryItem::ChildTerminal { child: child.clone(), terminal, unread: None })
}

pub(crate) fn account(rows: &[HistoryRow]) -> Account {
    let mut account = Account::default();
    rows.iter().for_each(|row| account.add(row));
    account
}

#[test]
fn of_lives_that_belong_together_nothing_is_left_out_and_of_earlier_ones_what_was_over() {
    let (early, late, own) = (pod_id("early", 1), pod_id("late", 1), |life| pod_id("own", life));
    let starts = |life| row(None, HistoryItem::LifeStarted { pod: own(life) });
    let rows = [
        starts(1),
        spawned(&early),
        terminal(&early, Terminal::ShutDown),
        starts(2),
        spawned(&late),
        delegated(&late, 5),
        settled(&late, 5, WorkResult::Failed),
        terminal(&late, Terminal::ShutDown),
        starts(3),
    ];
    assert!(account(&rows).lives.is_empty() && account(&rows).works.is_empty(), "the present life has none");
    let mut whole = Account::of_lives([own(2), own(3)]);
    rows.iter().for_each(|row| whole.add(row));
    assert_eq!(whole.lives.iter().map(|life| &life.pod).collect::<Vec<_>>(), [&late]);
    assert_eq!(whole.works[0].result, Some(WorkResult::Failed));
}

#[test]
fn work_is_told_when_its_turn_is_reported_and_it_is_settled() {
    let a = pod_id("a", 1);
    let mut rows = vec![spawned(&a), delegated(&a, 5)];
    assert!(!account(&rows).works[0].is_told());
    rows.push(settled(&a, 5, WorkResult::Finished));
    assert!(!account(&rows).works[0].is_told(), "without its terminal event");
    rows.push(report(1, turn_ended(&a, 5)));
    let account = account(&rows);
    assert!(account.works[0].is_told());
    assert_eq!(account.works[0].end, Some(End::TurnEnded(TurnResult::Finished)));
    assert_eq!(account.seen_of(&account.lives[0]).unwrap().count(), 1);
}

#[test]
fn child_that_is_lost_takes_its_open_work_with_it_and_leaves_what_was_settled() {
    let a = pod_id("a", 1);
    let reason = LostReason::Killed { signal: 9 };
    let account = account(&[
        spawned(&a),
        delegated(&a, 5),
        report(1, turn_ended(&a, 5)),
        settled(&a, 5, WorkResult::Finished),
        delegated(&a, 6),
        terminal(&a, Terminal::Lost { reason }),
        settled(&a, 6, WorkResult::Lost),
    ]);
    assert_eq!(account.works[0].end, Some(End::TurnEnded(TurnResult::Finished)));
    assert_eq!(account.works[1].end, Some(End::Lost(reason)));
    assert!(account.works.iter().all(Work::is_told));
    assert_eq!(account.lives[0].terminals, 1);
}

#[test]
fn report_that_stands_twice_is_found() {
    let a = pod_id("a", 1);
    let account = account(&[spawned(&a), delegated(&a, 5), report(1, turn_ended(&a, 5)), report(1, turn_ended(&a, 5))]);
    assert_eq!(account.seen_of(&account.lives[0]).unwrap().repeated(), 1);
}

#[test]
fn new_life_of_the_parent_leaves_out_what_was_over_and_keeps_what_was_open() {
    let (a, b) = (pod_id("a", 1), pod_id("b", 1));
    let mut rows = vec![spawned(&a), spawned(&b), delegated(&a, 5), delegated(&b, 6)];
    rows.push(settled(&a, 5, WorkResult::Finished));
    rows.push(terminal(&a, Terminal::ShutDown));
    rows.push(row(None, HistoryItem::LifeStarted { pod: pod_id("run", 2) }));
    let account = account(&rows);
    assert_eq!(account.lives.iter().map(|life| &life.pod).collect::<Vec<_>>(), [&b]);
    assert_eq!(account.works.iter().map(|work| work.work).collect::<Vec<_>>(), [WorkId(6)]);
}
