//! `pod restore --tree`: a pod, then its children that lived when it ended, and theirs, from the top downwards.
//!
//! Who lived then says the pod's own history: whose life was not over, or was ended last of all, as a pod that stops ends its
//! children. Nothing else in its store tells those from one that somebody has stopped as the last thing that happened before the
//! pod itself ended: such a one is brought back, too. Of a pod that lives, none that has ended in its present life is. No failure keeps the others from being restored; what is below one that could not be is left, and named.
//!
//! Used by `restore`.

use std::collections::{BTreeSet, VecDeque};

use pod::StoreReader;
use pod::id::{PodId, PodName};
use pod::life_lock::{self, Life};
use pod::runtime_dir::Roots;
use pod::store::{ChildRow, HistoryItem, HistoryRow, StoreError, SystemItem};

use crate::args::{Global, RestoreArgs};
use crate::commands::existing_pod;
use crate::commands::restore::restore;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// Entries in one page of a look at a history.
const PAGE: u32 = 1000;

pub(crate) async fn restore_tree(args: &RestoreArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let (roots, _) = existing_pod(global, &args.name)?;
    let (mut waiting, mut seen) = (VecDeque::from([args.name.clone()]), BTreeSet::new());
    let (mut live, mut failed, mut exit) = (0_usize, Vec::new(), Exit::Ok);
    while let Some(name) = waiting.pop_front() {
        if !seen.insert(name.clone()) {
            continue;
        }
        // Looked at first: what it does when it lives again stands behind it.
        let children = lived(&roots, &name);
        let one = RestoreArgs { name: name.clone(), tree: false, ..args.clone() };
        // A future of its own size: this one is begun by that.
        let restored = Box::pin(restore(&one, global, output)).await;
        let wrong = match (restored, children) {
            (Ok(_), Ok(children)) => {
                live += 1;
                waiting.extend(children);
                continue;
            }
            (Ok(_), Err(error)) => {
                let why = format!("it lives; who its children were cannot be read: {}", error.chain());
                (Exit::Internal, why)
            }
            (Err(failure), children) => {
                let below = children.unwrap_or_default();
                let below: Vec<String> = below.iter().map(|child| format!("`{child}`")).collect();
                let left =
                    if below.is_empty() { String::new() } else { format!("; left below it: {}", below.join(", ")) };
                (failure.exit(), format!("{}{left}", failure.message()))
            }
        };
        let (code, why) = wrong;
        exit = worse(exit, code);
        output.line(format!("not restored: `{name}`: {why}"))?;
        output.record(&serde_json::json!({ "type": "not_restored", "pod": name, "why": why, "exit": code.code() }))?;
        failed.push(format!("`{name}`: {why}"));
    }
    output.record(&serde_json::json!({
        "type": "restored_tree", "pod": args.name, "live": live, "failed": failed.len(), "exit": exit.code(),
    }))?;
    output.line(format!("{live} live, {} not restored", failed.len()))?;
    if failed.is_empty() {
        Ok(Exit::Ok)
    } else {
        Err(Failure::new(exit, format!("not restored: {}", failed.join("; "))))
    }
}

/// The first code that was not 0 tells of the first thing that went wrong.
fn worse(before: Exit, now: Exit) -> Exit {
    if before == Exit::Ok { now } else { before }
}

/// The children of `name` that live, or lived when it ended.
fn lived(roots: &Roots, name: &PodName) -> Result<Vec<PodName>, StoreError> {
    let paths = roots.pod(name);
    let store = paths.store();
    if !store.exists() {
        return Ok(Vec::new());
    }
    // That it cannot be known is no proof that it has ended; that somebody sees to its end is.
    let lives = match life_lock::probe(&paths.life_lock()) {
        Ok(Life::Free) => false,
        Ok(Life::Held(holder)) => !holder.is_for_the_dead(name),
        Err(_) => true,
    };
    StoreReader::open(store)?.look(|reads| {
        let mut history: Vec<HistoryRow> = Vec::new();
        loop {
            let page = reads.history_after(history.last().map_or(0, |row| row.seq), PAGE)?;
            if page.is_empty() {
                return Ok(ended_with_it(&reads.children()?, &history, lives));
            }
            // Output of workers and reports, which are most of it, are in nobody's tail: kept as the places that they are.
            let last = page.len() - 1;
            history.extend(page.into_iter().enumerate().filter_map(|(at, row)| {
                let says = !matches!(
                    row.item,
                    HistoryItem::Output { .. }
                        | HistoryItem::ControlEvent { .. }
                        | HistoryItem::SystemItem(SystemItem::Report { .. })
                );
                (says || at == last).then_some(row)
            }));
        }
    })
}

/// Of each name the newest life counts: one that is not over; one whose end its parent found when it began again, or one that
/// was ended as the last thing that happened before its parent's end, which is yet to come for one that lives.
fn ended_with_it(children: &[ChildRow], history: &[HistoryRow], lives: bool) -> Vec<PodName> {
    let mut with_it: BTreeSet<&PodId> = BTreeSet::new();
    let mut spawned_since_start: BTreeSet<&PodId> = BTreeSet::new();
    // Backwards: in the tail of a life of the parent nothing stands but what its own end makes of its children.
    let mut in_tail = !lives;
    let mut found_at_start: Vec<&PodId> = Vec::new();
    for row in history.iter().rev() {
        match &row.item {
            HistoryItem::ChildTerminal { child, .. } => {
                if in_tail {
                    with_it.insert(child);
                } else {
                    found_at_start.push(child);
                }
            }
            HistoryItem::ChildSpawned { child, .. } => {
                spawned_since_start.insert(child);
                in_tail = false;
            }
            HistoryItem::LifeStarted { .. } => {
                // What ended behind the start and was not begun behind it was found dead.
                with_it.extend(found_at_start.drain(..).filter(|child| !spawned_since_start.contains(child)));
                spawned_since_start.clear();
                in_tail = true;
            }
            HistoryItem::WorkSettled { .. }
            | HistoryItem::ControlEvent { .. }
            | HistoryItem::TurnEnded { .. }
            | HistoryItem::Output { .. }
            | HistoryItem::SystemItem(SystemItem::Report { .. }) => {}
            _ => in_tail = false,
        }
    }
    let mut newest: Vec<&ChildRow> = Vec::new();
    for row in children.iter().filter(|row| row.moved_to.is_none()) {
        // Oldest first: the last of a name stays.
        newest.retain(|known| known.pod.name != row.pod.name);
        newest.push(row);
    }
    let lived = newest.into_iter().filter(|row| row.terminal.is_none() || with_it.contains(&row.pod));
    lived.map(|row| row.pod.name.clone()).collect()
}
