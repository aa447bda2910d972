//! `pod inspect`: all that there is to know of one pod, alive or dead.
//!
//! Read from files and locks, so that a pod that does not answer is shown as well as any other.

use pod::discovery;
use pod::protocol::{FindRejection, PodReport, PodState, Restore};
use pod::scope::{Confined, Confinement, Permission};

use crate::args::{Global, InspectArgs};
use crate::commands::existing_pod;
use crate::commands::ls::{is_outbox_full, outbox_full};
use crate::describe::{describe, time};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::output::{Output, Tone, one_line};

/// LIMIT: characters of a pod's text in one line.
const SHOWN_CHARS_MAX: usize = 100;

pub(crate) fn inspect(args: &InspectArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let name = &args.name;
    let (roots, paths) = existing_pod(global, name)?;
    let report = discovery::inspect(&roots, name).map_err(|error| {
        let exit = if matches!(error, FindRejection::Target(_)) { Exit::NoSuchPod } else { Exit::Internal };
        Failure::new(exit, error.to_string())
    })?;
    let mut record = serde_json::to_value(&report)
        .map_err(|error| Failure::internal("a line of JSON cannot be made").because(error))?;
    record["type"] = "inspected".into();
    output.record(&record)?;
    for (what, said) in lines(&report) {
        let what = output.paint(Tone::Faint, &format!("{what:<12}"));
        output.line(format!("{what}{said}"))?;
    }
    if !output.is_json() && report.store.unreadable.is_none() && report.history > 0 {
        output.line(output.paint(Tone::Faint, "last entries"))?;
        let mut follower = Follower::open(&paths)?;
        let first = report.last.first().map_or(1, |entry| entry.seq);
        follower.skip_to(first.saturating_sub(1));
        follower.catch_up(|row, _| {
            let head = output.paint(Tone::Faint, &format!("{:>5}  {}", row.seq, time(row.at)));
            output.line(format!("{head}  {}", describe(&row.item)))
        })?;
    }
    Ok(Exit::Ok)
}

/// What is said of it, and about what.
fn lines(report: &PodReport) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let mut say = |what, said: String| lines.push((what, said));
    say("name", report.name.to_string());
    say("life", life(report));
    say("parent", parent(report));
    let turn = report.turn.map_or_else(String::new, |turn| format!(", turn {turn}"));
    if report.life.is_some() || report.state != PodState::Idle {
        say("state", format!("{}{turn}", report.state));
    }
    if let Some(cap) = report.blocked_by {
        say("", format!("blocked: {cap}"));
    }
    say("worker", report.worker.as_deref().unwrap_or("not recorded").to_owned());
    for rule in report.scope.iter() {
        let how = match rule.permission {
            Permission::Read => "read",
            Permission::Write => "read and write",
            Permission::Deny => "neither read nor write",
        };
        let below = if rule.recursive { ", and all below it" } else { "" };
        say("scope", format!("{how} {}{below}", rule.target));
    }
    if let Some(confined) = report.confined.filter(|confined| confined.scoped) {
        say("programs", programs(&confined));
    }
    say("children", format!("{} of {} live", report.children_live, report.children_total));
    for child in report.children.iter() {
        let process = child.pid.map_or_else(String::new, |pid| format!(", process {pid}"));
        say("", format!("`{}` {}{process}, {}", child.pod.name, child.state, child.kept));
    }
    let (received, delegated) = (report.works_received_open, report.works_delegated_open);
    say("open works", format!("{received} of its own, {delegated} delegated"));
    for work in report.works.iter() {
        let whose = work.child.as_ref().map_or_else(|| "its own".to_owned(), |child| format!("to `{child}`"));
        let input = one_line(&work.input, SHOWN_CHARS_MAX);
        say("", format!("{} {whose}: {input}", work.work));
    }
    say("waiting", format!("{} runs staged, {} to be told", report.runs_staged, report.inbox_waiting));
    say("outbox", outbox(report));
    say("store", store(report));
    say(
        "restorable",
        match &report.restore {
            Restore::ByParent { parent } => format!("yes, by its parent `{parent}`: `pod restore {}`", report.name),
            Restore::ByManifest => format!("yes, from its recorded manifest: `pod restore {}`", report.name),
            other => other.to_string(),
        },
    );
    lines
}

/// How its programs are kept to its scope.
fn programs(confined: &Confined) -> String {
    let kernel = match (confined.landlock_kernel, confined.landlock_abi) {
        (0, 0) => "this kernel has no Landlock".to_owned(),
        (kernel, used) if kernel == used => format!("Landlock ABI {kernel}"),
        (kernel, used) => format!("Landlock ABI {kernel}, of which {used} is made use of"),
    };
    let in_force = match confined.in_force {
        Confinement::Required => "the kernel keeps them to the scope wholly",
        Confinement::BestEffort => "the kernel keeps them to the scope as far as it can",
        Confinement::Off => "the kernel does not keep them to the scope",
    };
    format!("{in_force} ({kernel}; `{}` was asked for)", confined.asked)
}

fn life(report: &PodReport) -> String {
    let Some(life) = &report.life else { return "ended: nobody holds its life lock".to_owned() };
    match (life.pid, life.incarnation) {
        (Some(pid), Some(incarnation)) => {
            format!("alive: process {pid} holds its life lock, incarnation {incarnation}")
        }
        _ => "alive: it is just starting".to_owned(),
    }
}

fn parent(report: &PodReport) -> String {
    let Some(parent) = &report.parent else { return "none: it is a root".to_owned() };
    let alive = if parent.alive { "alive" } else { "ended" };
    let kept = if parent.kept.detached {
        format!("; {}: it lives on without it", parent.kept)
    } else {
        format!("; {}: it ends with it", parent.kept)
    };
    // Whoever has the lock may be another life than the parent knows of.
    let other = report.life.as_ref().and_then(|life| life.incarnation).is_some_and(|own| own != parent.knows);
    let known = if other { format!(", which knows another life of it, {}", parent.knows) } else { String::new() };
    format!("`{}` ({alive}){kept}{known}", parent.name)
}

fn outbox(report: &PodReport) -> String {
    let pending = report.outbox_pending;
    let mut said = format!("{pending} wait for the parent's ack, the last acked is event {}", report.outbox_acked);
    if report.outbox_undeliverable > 0 {
        said.push_str(&format!(", {} cannot be delivered", report.outbox_undeliverable));
    }
    if is_outbox_full(pending) {
        said.push_str(&format!("; it {}", outbox_full("its parent")));
    }
    if let Some(outcome) = &report.outbox_last_outcome {
        said.push_str(&format!("; the last offer: {}", one_line(outcome, SHOWN_CHARS_MAX)));
    }
    said
}

fn store(report: &PodReport) -> String {
    let store = &report.store;
    let size = format!("{} KiB", store.bytes.div_ceil(1024));
    match &store.unreadable {
        Some(why) => format!("{} ({size}) cannot be read: {why}", store.path),
        None => format!("{} ({size}, schema {}, {} entries)", store.path, store.schema, report.history),
    }
}
