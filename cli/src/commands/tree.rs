//! `pod tree`: who is whose child, and how each is doing.
//!
//! Each pod stands once, below the parent that had it last. What a living one does it says itself; the rest is read from
//! stores. Nothing is made, and nobody is kept waiting: a pod that does not answer is said not to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use pod::PodStatus;
use pod::discovery::{self, PodSummary};
use pod::id::PodName;
use pod::protocol::Kept;
use pod::runtime_dir::Roots;
use pod::store::Terminal;
use serde::Serialize;
use tokio::time::sleep;

use crate::args::Global;
use crate::commands::{existing_pod, existing_roots};
use crate::describe::terminal_line;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, Tone};
use crate::stopping::Signals;
use crate::table::Table;

/// LIMIT: how long a living pod may take to answer; one that is stopped (SIGSTOP) must not hold up the tree.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How often it is looked again. Faster than a person reads, and one status of each pod that lives.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// `pod tree`.
#[derive(Debug, Args)]
pub(crate) struct TreeArgs {
    /// Only this pod and what is below it
    name: Option<PodName>,
    /// Go on: redraw on a terminal, elsewhere print the tree again whenever it has changed; Ctrl-C ends
    #[arg(long, short)]
    watch: bool,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Node {
    r#type: &'static str,
    name: PodName,
    parent: Option<PodName>,
    /// How far below the pod with which the tree begins.
    depth: usize,
    alive: bool,
    pid: Option<u32>,
    /// What it does, if it lives; none, if it lives and does not answer, or has ended.
    state: Option<String>,
    turn: Option<u64>,
    /// How its parent saw its last life end.
    end: Option<String>,
    /// Whether it ends with its parent, and whether that starts it again.
    kept: Option<Kept>,
    worker: Option<String>,
    works_received_open: u64,
    works_delegated_open: u64,
    inbox: u64,
    outbox: u64,
    undeliverable: u64,
    history: u64,
    /// Why its store cannot be read.
    unreadable: Option<String>,
    /// What stands before its name.
    #[serde(skip)]
    branch: String,
    #[serde(skip)]
    lost: bool,
}

/// Whose child a pod was last, since when, and how that ended.
struct Edge {
    parent: PodName,
    at: u64,
    end: Option<Terminal>,
    kept: Kept,
}

pub(crate) async fn tree(args: &TreeArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    if let Some(name) = &args.name {
        existing_pod(global, name)?;
    }
    let Ok(roots) = existing_roots(global)? else {
        output.line("no pods")?;
        return Ok(Exit::Ok);
    };
    if !args.watch {
        show(&look(&roots, args.name.as_ref()).await?, output)?;
        return Ok(Exit::Ok);
    }
    let mut signals = Signals::new()?;
    let mut drawn = Drawn::default();
    loop {
        // CANCEL SAFETY: looking and waiting change nothing; signals are kept.
        tokio::select! {
            nodes = look(&roots, args.name.as_ref()) => drawn.draw(nodes?, output)?,
            () = signals.next() => return Ok(Exit::Ok),
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = signals.next() => return Ok(Exit::Ok),
        }
    }
}

/// The tree as it is, each pod behind its parent.
async fn look(roots: &Roots, top: Option<&PodName>) -> Result<Vec<Node>, Failure> {
    let all = roots.clone();
    // Stores are read: not on a thread that serves others.
    let pods = tokio::task::spawn_blocking(move || discovery::list(&all)).await;
    let pods = pods
        .map_err(|error| Failure::internal("the pods cannot be listed").because(error))?
        .map_err(|error| Failure::from_error(Exit::Usage, error))?;
    let edges = edges(&pods);
    let asked = pods.iter().map(|pod| async move {
        match &pod.holder {
            Some(_) => discovery::status(roots, &pod.name, ANSWER_MAX).await.ok(),
            None => None,
        }
    });
    let statuses = join_all(asked).await;
    let mut nodes = BTreeMap::new();
    for (pod, status) in pods.into_iter().zip(statuses) {
        let edge = edges.get(&pod.name);
        nodes.insert(pod.name.clone(), node(pod, status, edge));
    }
    Ok(order(&nodes, top))
}

/// The newest edge of each pod that is somebody's child.
fn edges(pods: &[PodSummary]) -> BTreeMap<PodName, Edge> {
    let mut newest: BTreeMap<PodName, Edge> = BTreeMap::new();
    for pod in pods {
        for child in pod.store.iter().flat_map(|record| &record.children) {
            let known = newest.get(&child.pod.name).map_or(0, |edge| edge.at);
            if known <= child.at.0 {
                let kept = child.kept(pod.store.as_ref().map_or(&[], |record| &record.children));
                let edge = Edge { parent: pod.name.clone(), at: child.at.0, end: child.terminal.clone(), kept };
                newest.insert(child.pod.name.clone(), edge);
            }
        }
    }
    newest
}

fn node(pod: PodSummary, status: Option<PodStatus>, edge: Option<&Edge>) -> Node {
    let (counts, unreadable) = match pod.store {
        Ok(record) => (record.counts, None),
        Err(why) => (Default::default(), Some(why)),
    };
    let alive = pod.holder.is_some();
    let end = edge.and_then(|edge| edge.end.as_ref()).filter(|_| !alive);
    // What its parent has read from its store when it died, it need not hear any more.
    let heard = edge.is_some_and(|edge| edge.end.is_some()) && !alive;
    Node {
        r#type: "pod",
        name: pod.name,
        parent: match &status {
            Some(status) => status.parent.as_ref().map(|parent| parent.name.clone()),
            None => edge.map(|edge| edge.parent.clone()),
        },
        depth: 0,
        alive,
        pid: pod.holder.and_then(|holder| holder.pid),
        state: status.as_ref().map(|status| status.state.to_string()),
        turn: status.as_ref().and_then(|status| status.turn).map(|turn| turn.0),
        lost: end.is_some_and(|end| *end != Terminal::ShutDown),
        end: end.map(terminal_line),
        kept: edge.map(|edge| edge.kept),
        worker: status.map(|status| status.worker.as_str().to_owned()),
        works_received_open: counts.works_received_open,
        works_delegated_open: counts.works_delegated_open,
        inbox: counts.inbox_waiting,
        outbox: if heard { 0 } else { counts.outbox_pending },
        undeliverable: counts.outbox_undeliverable,
        history: counts.history,
        unreadable,
        branch: String::new(),
    }
}

/// Each pod behind its parent, with its branch: first `top`, or all that have no parent here.
fn order(nodes: &BTreeMap<PodName, Node>, top: Option<&PodName>) -> Vec<Node> {
    let mut below: BTreeMap<&PodName, Vec<&PodName>> = BTreeMap::new();
    let mut tops = Vec::new();
    for node in nodes.values() {
        match node.parent.as_ref().filter(|parent| nodes.contains_key(*parent)) {
            Some(parent) => below.entry(parent).or_default().push(&node.name),
            None => tops.push(&node.name),
        }
    }
    if let Some(top) = top {
        tops = nodes.get_key_value(top).map(|(name, _)| name).into_iter().collect();
    }
    // Two pods that had each other as children, in different lives, are in a circle: they stand at its first name.
    let (mut ordered, mut seen) = (Vec::new(), BTreeSet::new());
    for name in tops.into_iter().chain(nodes.keys().filter(|_| top.is_none())) {
        add(nodes, &below, name, &mut seen, &mut ordered);
    }
    ordered
}

/// Adds `top` and all below it. No recursion: how deep a tree is, its pods say.
fn add<'a>(
    nodes: &'a BTreeMap<PodName, Node>,
    below: &BTreeMap<&'a PodName, Vec<&'a PodName>>,
    top: &'a PodName,
    seen: &mut BTreeSet<&'a PodName>,
    ordered: &mut Vec<Node>,
) {
    // A name, its depth, what stands before it, and what stands before those below it.
    let mut waiting = vec![(top, 0, String::new(), String::new())];
    while let Some((name, depth, branch, rest)) = waiting.pop() {
        let Some(node) = nodes.get(name).filter(|_| seen.insert(name)) else { continue };
        ordered.push(Node { depth, branch, ..node.clone() });
        let children = below.get(name).map(Vec::as_slice).unwrap_or_default();
        for (index, child) in children.iter().enumerate().rev() {
            let last = index + 1 == children.len();
            let (branch, rest_below) =
                if last { ("\u{2514}\u{2500} ", "   ") } else { ("\u{251c}\u{2500} ", "\u{2502}  ") };
            waiting.push((child, depth + 1, format!("{rest}{branch}"), format!("{rest}{rest_below}")));
        }
    }
}

fn show(nodes: &[Node], output: &mut Output) -> Result<(), Failure> {
    if nodes.is_empty() {
        output.line("no pods")?;
    }
    for node in nodes {
        output.record(node)?;
    }
    for line in lines(nodes, output) {
        output.line(line)?;
    }
    Ok(())
}

fn lines(nodes: &[Node], output: &Output) -> Vec<String> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new(&["pod", "life", "state", "works", "inbox", "outbox", "entries"]);
    for node in nodes {
        table.row(cells(node));
    }
    let mut lines = table.lines(output);
    let unreadable = nodes.iter().filter_map(|node| Some((&node.name, node.unreadable.as_ref()?)));
    lines.extend(unreadable.map(|(name, why)| format!("the store of `{name}` cannot be read: {why}")));
    lines
}

fn cells(node: &Node) -> Vec<(String, Tone)> {
    let life = match (node.alive, node.pid, &node.end) {
        (true, Some(pid), _) => (format!("alive ({pid})"), Tone::Good),
        (true, None, _) => ("alive".to_owned(), Tone::Good),
        (false, _, Some(end)) => (end.clone(), if node.lost { Tone::Bad } else { Tone::Faint }),
        (false, _, None) => ("ended".to_owned(), Tone::Faint),
    };
    let turn = node.turn.map(|turn| format!(" (turn {turn})")).unwrap_or_default();
    let state = match &node.state {
        Some(state) if state == "blocked" => (state.clone(), Tone::Bad),
        Some(state) if state == "paused" => (format!("{state}{turn}"), Tone::Doubtful),
        Some(state) => (format!("{state}{turn}"), Tone::Plain),
        None if node.alive => ("no answer".to_owned(), Tone::Bad),
        None => ("-".to_owned(), Tone::Faint),
    };
    let plain = |text: String| (text, Tone::Plain);
    let outbox = match node.undeliverable {
        0 => plain(node.outbox.to_string()),
        undeliverable => (format!("{} + {undeliverable} undeliverable", node.outbox), Tone::Bad),
    };
    // Most are tied and never restarted: that is not said of each.
    let kept = node.kept.filter(|kept| *kept != Kept::default()).map(|kept| format!(" ({kept})")).unwrap_or_default();
    vec![
        (format!("{}{}{kept}", node.branch, node.name), Tone::Strong),
        life,
        state,
        plain(format!("{} in, {} out", node.works_received_open, node.works_delegated_open)),
        plain(node.inbox.to_string()),
        outbox,
        plain(node.history.to_string()),
    ]
}

/// What was shown last.
#[derive(Default)]
struct Drawn {
    nodes: Vec<Node>,
    /// Lines above the cursor that are ours.
    lines: usize,
    any: bool,
}

impl Drawn {
    fn draw(&mut self, nodes: Vec<Node>, output: &mut Output) -> Result<(), Failure> {
        if std::mem::replace(&mut self.any, true) && self.nodes == nodes {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.nodes, nodes);
        if output.is_json() {
            for node in self.nodes.iter().filter(|node| !before.contains(node)) {
                output.record(node)?;
            }
            let gone = before.iter().filter(|node| self.nodes.iter().all(|now| now.name != node.name));
            return gone
                .map(|node| &node.name)
                .try_for_each(|name| output.record(&serde_json::json!({ "type": "gone", "name": name })));
        }
        let Some(rows) = output.terminal_rows() else {
            show(&self.nodes, output)?;
            return output.line("");
        };
        let mut lines = lines(&self.nodes, output);
        // What has left the screen cannot be redrawn: the last line says how much there is.
        let room = rows.saturating_sub(1).max(2);
        if lines.len() > room {
            let more = lines.len().saturating_sub(room).saturating_add(1);
            lines.truncate(room.saturating_sub(1));
            lines.push(format!("and {more} more; `pod tree` shows all of it"));
        }
        if lines.is_empty() {
            lines.push("no pods".to_owned());
        }
        let mut text = if self.lines > 0 { format!("\u{1b}[{}A", self.lines) } else { String::new() };
        for line in &lines {
            text.push_str("\r\u{1b}[2K");
            text.push_str(line);
            text.push('\n');
        }
        // What was below.
        text.push_str("\u{1b}[J");
        self.lines = lines.len();
        output.raw(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, parent: Option<&str>) -> (PodName, Node) {
        let name: PodName = name.parse().unwrap();
        let node = Node {
            r#type: "pod",
            name: name.clone(),
            parent: parent.map(|parent| parent.parse().unwrap()),
            depth: 0,
            alive: false,
            pid: None,
            state: None,
            turn: None,
            end: None,
            kept: None,
            worker: None,
            works_received_open: 0,
            works_delegated_open: 0,
            inbox: 0,
            outbox: 0,
            undeliverable: 0,
            history: 0,
            unreadable: None,
            branch: String::new(),
            lost: false,
        };
        (name, node)
    }

    #[track_caller]
    fn check(nodes: &[(&str, Option<&str>)], top: Option<&str>, wanted: &[&str]) {
        let nodes = nodes.iter().map(|(name, parent)| node(name, *parent)).collect();
        let top: Option<PodName> = top.map(|top| top.parse().unwrap());
        let found = order(&nodes, top.as_ref());
        let found: Vec<String> = found.iter().map(|node| format!("{}{}", node.branch, node.name)).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn each_pod_stands_once_behind_its_parent() {
        let nodes = [
            ("a", None),
            ("b", Some("a")),
            ("c", Some("b")),
            ("d", Some("a")),
            ("e", Some("nobody-here")),
            ("f", Some("d")),
        ];
        check(&nodes, None, &["a", "├─ b", "│  └─ c", "└─ d", "   └─ f", "e"]);
        check(&nodes, Some("b"), &["b", "└─ c"]);
    }

    #[test]
    fn circle_of_former_parents_is_shown_and_ends() {
        check(&[("a", Some("b")), ("b", Some("a"))], None, &["a", "└─ b"]);
        check(&[("a", Some("a"))], None, &["a"]);
    }
}
