//! `pod ls`: which pods there are, which of them live, and what waits in them.
//!
//! A pod lives if its life lock is held. What a living one does it says itself; everything else is read from stores.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use pod::PodStatus;
use pod::discovery::{self, PodSummary};
use pod::id::PodName;
use pod::protocol::{FailureKind, Kept, TurnCap};
use pod::scope::Confined;
use pod::store::{OUTBOX_FULL_AT, StatusCounts, TurnFailure, UnixMillis};
use serde::Serialize;

use crate::args::Global;
use crate::commands::existing_roots;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, Tone, one_line};
use crate::table::Table;

/// LIMIT: how long a living pod may take to answer; one that is stopped (SIGSTOP) must not hold up the list.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// LIMIT: characters of what a worker said when it failed.
const SHOWN_CHARS: usize = 120;

/// One line.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) r#type: &'static str,
    pub(super) name: PodName,
    pub(super) alive: bool,
    pub(super) pid: Option<u32>,
    /// What it does, if it lives; none, if it lives and does not answer, or has ended.
    pub(super) state: Option<String>,
    pub(super) parent: Option<PodName>,
    /// Whether it ends with its parent, and whether that starts it again.
    pub(super) kept: Option<Kept>,
    pub(super) children_live: u64,
    pub(super) children: u64,
    pub(super) inbox: u64,
    pub(super) outbox: u64,
    pub(super) undeliverable: u64,
    /// Whether no turn is started until its parent has acked some of them.
    pub(super) outbox_full: bool,
    /// What became of the last offer to the parent, if it failed.
    pub(super) last_outcome: Option<String>,
    /// How its worker failed last, if no turn has finished since.
    pub(super) last_failure: Option<TurnFailure>,
    /// The bound of its tree that has blocked it.
    pub(super) blocked_by: Option<TurnCap>,
    /// Why the store cannot be read.
    pub(super) unreadable: Option<String>,
    /// How its programs are confined, if it lives and answers.
    pub(super) confined: Option<Confined>,
    /// All that its store counts.
    #[serde(skip)]
    pub(super) counts: StatusCounts,
}

pub(crate) async fn ls(global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let lines = lines(global).await?;
    if lines.is_empty() {
        output.line("no pods")?;
    }
    let mut table =
        Table::new(&["name", "life", "state", "parent", "kept", "children", "inbox", "outbox", "undeliverable"]);
    for line in &lines {
        output.record(line)?;
        table.row(cells(line));
    }
    if !lines.is_empty() {
        for line in table.lines(output) {
            output.line(line)?;
        }
    }
    for (line, failure) in lines.iter().filter_map(|line| Some((line, line.last_failure.as_ref()?))) {
        let (kind, said) = (failure.kind, one_line(&failure.message, SHOWN_CHARS));
        let kind = if kind == FailureKind::Other { String::new() } else { format!(" ({kind})") };
        output.line(format!("`{}` failed last in turn {}{kind}: {said}", line.name, failure.turn))?;
    }
    for (line, cap) in lines.iter().filter_map(|line| Some((line, line.blocked_by?))) {
        output.line(format!("`{}` is blocked: {cap}", line.name))?;
    }
    for line in lines.iter().filter(|line| line.outbox_full) {
        let parent = line.parent.as_ref().map_or_else(|| "its parent".to_owned(), |parent| format!("`{parent}`"));
        output.line(format!("`{}` {}", line.name, outbox_full(&parent)))?;
    }
    for line in lines.iter().filter(|line| line.unreadable.is_some()) {
        let why = line.unreadable.as_deref().unwrap_or_default();
        output.line(format!("the store of `{}` cannot be read: {why}", line.name))?;
    }
    Ok(Exit::Ok)
}

/// Whether so many events wait for a pod's parent that no turn is started.
pub(super) fn is_outbox_full(pending: u64) -> bool {
    pending >= OUTBOX_FULL_AT
}

/// What is so then, and what to do.
pub(super) fn outbox_full(parent: &str) -> String {
    format!("starts no turn: {OUTBOX_FULL_AT} of its events or more wait for {parent} to take them; start {parent}")
}

/// A line for each pod.
pub(super) async fn lines(global: &Global) -> Result<Vec<Line>, Failure> {
    let Ok(roots) = existing_roots(global)? else { return Ok(Vec::new()) };
    let pods = discovery::list(&roots).map_err(|error| Failure::from_error(Exit::Usage, error))?;
    let parents = parents(&pods);
    let lines = pods.into_iter().map(|pod| {
        let parent = parents.get(&pod.name).cloned();
        let roots = &roots;
        async move {
            let status = match &pod.holder {
                Some(_) => discovery::status(roots, &pod.name, ANSWER_MAX).await.ok(),
                None => None,
            };
            line(pod, status, parent)
        }
    });
    Ok(join_all(lines).await)
}

/// The parent of a pod, or its last one.
#[derive(Clone)]
struct Parent {
    name: PodName,
    /// It has ended that life, with everything that the pod had committed for it.
    has_all: bool,
    kept: Kept,
}

/// Whose child each pod is, or was last.
fn parents(pods: &[PodSummary]) -> BTreeMap<PodName, Parent> {
    let mut newest = BTreeMap::new();
    for pod in pods {
        for child in pod.store.iter().flat_map(|record| &record.children) {
            let known = newest.get(&child.pod.name).map(|(at, _): &(UnixMillis, Parent)| *at);
            if known.is_none_or(|at| at <= child.at) {
                let kept = child.kept(pod.store.as_ref().map_or(&[], |record| &record.children));
                let parent = Parent { name: pod.name.clone(), has_all: child.terminal.is_some(), kept };
                newest.insert(child.pod.name.clone(), (child.at, parent));
            }
        }
    }
    newest.into_iter().map(|(child, (_, parent))| (child, parent)).collect()
}

fn line(pod: PodSummary, status: Option<PodStatus>, parent: Option<Parent>) -> Line {
    let (counts, unreadable) = match pod.store {
        Ok(record) => (record.counts, None),
        Err(why) => (Default::default(), Some(why)),
    };
    // What a dead pod has not heard to be acked may have been read by its parent from its store.
    let unheard = pod.holder.is_some() || !parent.as_ref().is_some_and(|parent| parent.has_all);
    let outbox = if unheard { counts.outbox_pending } else { 0 };
    let pid = pod.holder.as_ref().and_then(|holder| holder.pid);
    let kept = parent.as_ref().map(|parent| parent.kept);
    Line {
        r#type: "pod",
        name: pod.name,
        alive: pod.holder.is_some(),
        pid,
        state: status.as_ref().map(|status| status.state.to_string()),
        confined: status.as_ref().map(|status| status.confined),
        parent: status.and_then(|status| status.parent).map(|parent| parent.name).or(parent.map(|parent| parent.name)),
        kept,
        // Children of a pod that has ended have ended with it, or are ended by its next life.
        children_live: if pod.holder.is_some() { counts.children_live } else { 0 },
        children: counts.children_total,
        inbox: counts.inbox_waiting,
        outbox,
        undeliverable: counts.outbox_undeliverable,
        outbox_full: is_outbox_full(outbox),
        last_outcome: counts.outbox_last_outcome.clone(),
        last_failure: counts.last_failure.clone(),
        blocked_by: counts.blocked_by,
        unreadable,
        counts,
    }
}

fn cells(line: &Line) -> Vec<(String, Tone)> {
    let life = match (line.alive, line.pid) {
        (true, Some(pid)) => (format!("alive ({pid})"), Tone::Good),
        (true, None) => ("alive".to_owned(), Tone::Good),
        (false, _) => ("ended".to_owned(), Tone::Faint),
    };
    let state = match (&line.state, line.alive) {
        (Some(state), _) => (state.clone(), if state == "blocked" { Tone::Bad } else { Tone::Plain }),
        (None, true) => ("no answer".to_owned(), Tone::Bad),
        (None, false) => ("-".to_owned(), Tone::Plain),
    };
    let plain = |text: String| (text, Tone::Plain);
    vec![
        (line.name.to_string(), Tone::Strong),
        life,
        state,
        plain(line.parent.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
        plain(line.kept.map_or_else(|| "-".to_owned(), |kept| kept.to_string())),
        plain(format!("{} of {}", line.children_live, line.children)),
        plain(line.inbox.to_string()),
        plain(line.outbox.to_string()),
        (line.undeliverable.to_string(), if line.undeliverable > 0 { Tone::Bad } else { Tone::Plain }),
    ]
}
