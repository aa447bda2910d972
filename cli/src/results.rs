//! How a tree ended: a row for each work, read from the committed histories of the parent and of those below it.
//!
//! Judges nothing but what any tree must satisfy: that each life and each work has its one end, and each stream no hole. Leaves no
//! failure out in silence: what cannot be read is said to be unknown.
//!
//! Used by `pod run` and `pod demo`, at the end.

use std::collections::{BTreeMap, BTreeSet};

use pod::id::{PodId, PodName, WorkId};
use pod::protocol::WorkResult;
use pod::runtime_dir::Roots;
use pod::store::{HistoryItem, Terminal, UnixMillis};
use pod::{ChildStatus, Lifetime, WorkEnd};
use serde::Serialize;

use crate::account::{Account, End, Life, Work};
use crate::describe::terminal_line;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::output::{Output, Tone};
use crate::table::Table;

/// Between the names on the way to a pod.
const BELOW: &str = " > ";
/// LIMIT: how far below the parent histories are read: as deep as a tree may be.
const DEPTH_MAX: usize = 64;

/// One work, or a child that has none.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    r#type: &'static str,
    /// The way to it from the parent: `a`, or `a > b` for its grandchild.
    pub(crate) child: String,
    pub(crate) pod: PodId,
    pub(crate) work: Option<WorkId>,
    pub(crate) input: Option<String>,
    /// The last that its parent was told of it.
    pub(crate) terminal_event: Option<String>,
    pub(crate) outcome: Option<WorkResult>,
    /// How its life ended, if it has.
    pub(crate) life: Option<Terminal>,
    /// How often its events were offered, at most: once, and once more for each that was repeated.
    attempts: Option<u64>,
    offers: Option<u64>,
    events: u64,
    /// From the commit of its end in the child's store to the commit in the parent's, which the ack follows.
    time_to_ack_ms: Option<u64>,
}

/// What became of a tree.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Children before their own children.
    pub(crate) rows: Vec<Row>,
    /// What cannot be known, because a history cannot be read.
    pub(crate) unknown: Vec<String>,
}

/// What a child's own store says.
struct Below {
    /// When its works were settled there.
    settled: BTreeMap<WorkId, UnixMillis>,
    /// Its own children, in those of its lives that belong to this tree.
    account: Account,
}

/// All rows of a tree.
pub(crate) fn rows(account: &Account, seen: &[ChildStatus], roots: &Roots) -> Rows {
    let mut rows = Rows::default();
    add_rows(&mut rows, account, seen, roots, "", DEPTH_MAX);
    rows
}

fn add_rows(rows: &mut Rows, account: &Account, seen: &[ChildStatus], roots: &Roots, above: &str, depth: usize) {
    // One history has all lives of a name, and is read once.
    let mut stores: BTreeMap<&PodName, Option<Below>> = BTreeMap::new();
    for (at, life) in account.lives.iter().enumerate() {
        let name = &life.pod.name;
        let below = stores.entry(name).or_insert_with(|| {
            let lives = account.lives.iter().filter(|other| other.pod.name == *name).map(|other| other.pod.clone());
            child_store(roots, name, lives.collect()).unwrap_or_else(|why| {
                rows.unknown.push(format!(
                    "the history of `{above}{name}` cannot be read ({why}): what became of children of its own is not known"
                ));
                None
            })
        });
        let settled = |work: WorkId| below.as_ref().and_then(|below| below.settled.get(&work));
        let status = seen.iter().find(|status| status.pod == life.pod);
        let row = |work: Option<&Work>| Row {
            r#type: "work",
            child: format!("{above}{name}"),
            pod: life.pod.clone(),
            work: work.map(|work| work.work),
            input: work.map(|work| work.input.clone()),
            terminal_event: work.and_then(|work| {
                let told = work.end.as_ref().map(ToString::to_string);
                told.or_else(|| untold(seen, work).map(|end| format!("{end} (not told yet)")))
            }),
            outcome: work.and_then(|work| work.result),
            life: life.terminal.clone(),
            attempts: status.filter(|status| status.applied > 0).map(|s| 1 + s.offers.saturating_sub(s.applied)),
            offers: status.map(|status| status.offers),
            events: account.seen_of(life).map_or(0, crate::seen::Seen::count),
            time_to_ack_ms: work.and_then(|work| {
                let (there, here) = (settled(work.work)?, work.settled_at?);
                Some(here.0.saturating_sub(there.0))
            }),
        };
        let mut works = account.works_of(&life.pod).peekable();
        if works.peek().is_none() {
            rows.rows.push(row(None));
        }
        rows.rows.extend(works.map(|work| row(Some(work))));
        // Behind the last of its lives.
        let is_last = !account.lives.iter().skip(at + 1).any(|later| later.pod.name == *name);
        if let Some(below) = below.as_ref().filter(|below| is_last && !below.account.lives.is_empty()) {
            let way = format!("{above}{name}{BELOW}");
            match depth.checked_sub(1) {
                Some(depth) => add_rows(rows, &below.account, &[], roots, &way, depth),
                None => rows
                    .unknown
                    .push(format!("what is below `{above}{name}` is deeper than a tree may be, and was not read")),
            }
        }
    }
}

/// What the own store of the child `name` says of its lives `lives`; nothing, if it never made one.
///
/// # Errors
/// Why it cannot be read.
fn child_store(roots: &Roots, name: &PodName, lives: Vec<PodId>) -> Result<Option<Below>, String> {
    let paths = roots.pod(name);
    if matches!(paths.store().try_exists(), Ok(false)) {
        return Ok(None);
    }
    let mut settled = BTreeMap::new();
    let read = Follower::open(&paths).and_then(|follower| {
        let mut follower = follower.for_account(Account::of_lives(lives));
        follower.catch_up(|row, _| {
            if let (HistoryItem::WorkSettled { child: None, .. }, Some(work)) = (&row.item, row.work) {
                settled.insert(work, row.at);
            }
            Ok(())
        })?;
        Ok(follower.account)
    });
    let account = read.map_err(|failure| failure.in_one_line())?;
    Ok(Some(Below { settled, account }))
}

/// Prints the table, or its rows as JSON.
pub(crate) fn show(rows: &[Row], output: &mut Output) -> Result<(), Failure> {
    let mut table = Table::new(&["child", "work", "terminal event", "outcome", "attempts", "time to ack"]);
    for row in rows {
        output.record(row)?;
        let plain = |text: Option<String>| (text.unwrap_or_else(|| "-".to_owned()), Tone::Plain);
        let (outcome, tone) = match (row.outcome, &row.life) {
            (Some(result), _) if result.is_success() => (result.to_string(), Tone::Good),
            (Some(result), _) => (result.to_string(), Tone::Bad),
            (None, Some(end)) if row.work.is_none() => (terminal_line(end), Tone::Bad),
            (None, _) => ("open".to_owned(), Tone::Bad),
        };
        table.row(vec![
            (row.child.clone(), Tone::Strong),
            plain(row.input.clone()),
            plain(row.terminal_event.clone()),
            (outcome, tone),
            plain(row.attempts.map(|attempts| attempts.to_string())),
            plain(row.time_to_ack_ms.map(|ms| if ms == 0 { "< 1 ms".to_owned() } else { format!("{ms} ms") })),
        ]);
    }
    if !rows.is_empty() {
        output.line("")?;
        for line in table.lines(output) {
            output.line(line)?;
        }
        if rows.iter().any(|row| row.attempts.is_none()) {
            output.line("(attempts `-`: it died before it could report, or it reports to another pod of the tree)")?;
        }
    }
    Ok(())
}

/// What contradicts the promise: an end that is missing or stands twice, an event that is missing or stands twice.
/// `ended` says that the tree was stopped, so that each life must be over.
pub(crate) fn defects(account: &Account, seen: &[ChildStatus], ended: bool) -> Vec<String> {
    let mut defects = Vec::new();
    for life in &account.lives {
        let name = &life.pod.name;
        // A detached child lives on.
        let lives_on = |status: &ChildStatus| status.pod == life.pod && status.lifetime == Lifetime::Detached;
        if ended && life.terminal.is_none() && !seen.iter().any(lives_on) {
            defects.push(format!("child `{name}` has no terminal event"));
        }
        if life.terminals > 1 {
            defects.push(format!("child `{name}` has {} terminal events", life.terminals));
        }
        stream_defects(account, life, &mut defects);
    }
    for work in &account.works {
        let (name, input) = (&work.child.name, &work.input);
        if work.result.is_none() {
            defects.push(format!("the work of `{name}` is not settled: {input}"));
        } else if !work.is_told() && untold(seen, work).is_some() {
            defects.push(format!(
                "how the work of `{name}` ended waits in its parent's inbox, for its next life: {input}"
            ));
        } else if !work.is_told() {
            defects.push(format!("the work of `{name}` lacks its terminal event: {input}"));
        }
        if work.settlements > 1 {
            defects.push(format!("the work of `{name}` is settled {} times", work.settlements));
        }
    }
    defects
}

/// How a work ended, if that is committed in the parent's inbox and the parent was stopped before its agent was told.
fn untold(seen: &[ChildStatus], work: &Work) -> Option<String> {
    let status = seen.iter().find(|status| status.work.as_ref().is_some_and(|(known, _)| *known == work.work))?;
    let end = match status.work_end.as_ref()? {
        WorkEnd::TurnEnded(result) => End::TurnEnded(*result),
        WorkEnd::Errored { message } => End::Errored(message.clone()),
        WorkEnd::Lost(reason) => End::Lost(*reason),
        WorkEnd::Settled(_) => return None,
    };
    Some(end.to_string())
}

fn stream_defects(account: &Account, life: &Life, defects: &mut Vec<String>) {
    let Some(seen) = account.seen_of(life) else { return };
    let name = &life.pod.name;
    if let Some(missing) = seen.first_missing() {
        defects.push(format!("event {missing} of `{name}` is missing in the history"));
    }
    if seen.repeated() > 0 {
        defects.push(format!("{} events of `{name}` stand in the history twice", seen.repeated()));
    }
    if seen.lost() > 0 {
        defects.push(format!("{} events of `{name}` are lost for good", seen.lost()));
    }
}

/// What went wrong, honestly told: work that failed, children that did not end in order.
pub(crate) fn failures(account: &Account) -> Vec<String> {
    let works = account.works.iter().filter(|work| work.result.is_some_and(|result| !result.is_success()));
    let works = works.map(|work| {
        let result = work.result.map(|result| result.to_string()).unwrap_or_default();
        let end = work.end.as_ref().map(|end| format!(" ({end})")).unwrap_or_default();
        format!("the work of `{}` ended as {result}{end}", work.child.name)
    });
    let lives = account.lives.iter().filter_map(|life| match &life.terminal {
        None | Some(Terminal::ShutDown) => None,
        Some(end) => Some(format!("child `{}` {}", life.pod.name, terminal_line(end))),
    });
    works.chain(lives).collect()
}

/// The same of those below the children: what a child makes of it may be well, and is still not all that was asked for. A work that
/// whoever gave it has cancelled was not asked for any more.
pub(crate) fn failures_below(rows: &[Row]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut dead = BTreeSet::new();
    for row in rows.iter().filter(|row| row.child.contains(BELOW)) {
        let name = &row.child;
        if let Some(result) = row.outcome.filter(|result| !result.is_success() && *result != WorkResult::Cancelled) {
            let end = row.terminal_event.as_ref().map(|end| format!(" ({end})")).unwrap_or_default();
            failures.push(format!("the work of `{name}` ended as {result}{end}"));
        } else if row.outcome.is_none() && row.work.is_some() {
            failures.push(format!("the work of `{name}` is not settled: {}", row.input.as_deref().unwrap_or_default()));
        }
        if let Some(end) = row.life.as_ref().filter(|end| **end != Terminal::ShutDown)
            && dead.insert(&row.pod)
        {
            failures.push(format!("child `{name}` {}", terminal_line(end)));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use pod::protocol::LostReason;

    use super::*;
    use crate::account::tests::{account, delegated, pod_id, report, settled, spawned, terminal, turn_ended};

    #[track_caller]
    fn check(rows: &[pod::store::HistoryRow], ended: bool, words: &[&str]) {
        let found = defects(&account(rows), &[], ended);
        assert_eq!(found.len(), words.len(), "{found:?}");
        for (found, word) in found.iter().zip(words) {
            assert!(found.contains(word), "`{word}` is not in: {found}");
        }
    }

    #[test]
    fn history_in_which_everything_has_its_one_end_has_no_defect() {
        let a = pod_id("a", 1);
        let rows = [
            spawned(&a),
            delegated(&a, 5),
            report(1, turn_ended(&a, 5)),
            settled(&a, 5, WorkResult::Finished),
            terminal(&a, Terminal::ShutDown),
        ];
        check(&rows, true, &[]);
        assert!(failures(&account(&rows)).is_empty());
        check(&rows[..1], false, &[]);
    }

    #[test]
    fn end_that_is_missing_or_stands_twice_is_found() {
        let a = pod_id("a", 1);
        let (spawned, given, ended) = (spawned(&a), delegated(&a, 5), report(1, turn_ended(&a, 5)));
        let (settled, over) = (settled(&a, 5, WorkResult::Finished), terminal(&a, Terminal::ShutDown));
        let rows = |rows: &[&pod::store::HistoryRow]| rows.iter().copied().cloned().collect::<Vec<_>>();
        check(&rows(&[&spawned]), true, &["no terminal event"]);
        check(&rows(&[&spawned, &over, &over]), true, &["2 terminal events"]);
        check(&rows(&[&spawned, &given, &ended, &over]), true, &["is not settled"]);
        check(&rows(&[&spawned, &given, &settled, &over]), true, &["lacks its terminal event"]);
        check(&rows(&[&spawned, &given, &ended, &settled, &settled, &over]), true, &["settled 2 times"]);
        check(&rows(&[&spawned, &given, &ended, &ended, &settled, &over]), true, &["twice"]);
    }

    #[test]
    fn history_that_cannot_be_read_is_said_to_be_once_and_one_that_never_was_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::at(&dir.path().join("r")).unwrap();
        let (broken, never) = (pod_id("broken", 1), pod_id("never", 1));
        let again = pod_id("broken", 2);
        let store = roots.pod(&broken.name).store();
        std::fs::create_dir_all(store.parent().unwrap()).unwrap();
        std::fs::write(&store, "no store, but long enough to be taken for one".repeat(20)).unwrap();
        let account =
            account(&[spawned(&broken), spawned(&never), terminal(&broken, Terminal::ShutDown), spawned(&again)]);
        let found = rows(&account, &[], &roots);
        assert_eq!(found.rows.len(), 3);
        let [unknown] = &found.unknown[..] else { panic!("{:?}", found.unknown) };
        assert!(unknown.contains("`broken` cannot be read") && unknown.contains("not known"), "{unknown}");
    }

    #[test]
    fn event_that_is_missing_between_others_is_found() {
        let a = pod_id("a", 1);
        let rows = [spawned(&a), delegated(&a, 5), report(2, turn_ended(&a, 5)), settled(&a, 5, WorkResult::Finished)];
        check(&rows, false, &["event 1 of `a` is missing"]);
    }

    #[test]
    fn failures_are_told_with_their_reason_and_are_no_defects() {
        let a = pod_id("a", 1);
        let reason = LostReason::Killed { signal: 9 };
        let rows =
            [spawned(&a), delegated(&a, 5), terminal(&a, Terminal::Lost { reason }), settled(&a, 5, WorkResult::Lost)];
        check(&rows, true, &[]);
        let told = failures(&account(&rows));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|told| told.contains("killed by signal 9")), "{told:?}");
    }
}
