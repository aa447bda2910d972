//! What pods say of each other, beside the locks and processes that there are.

use std::collections::BTreeMap;

use super::finding::{Check, Finding, Report, Severity};
use super::mend;
use super::pods::{Examined, lies_elsewhere};
use crate::id::{Incarnation, PodName};
use crate::life_lock::{self, Life};
use crate::runtime_dir::Roots;
use crate::spawn::process::marked;
use crate::store::{ChildRow, ChildState, Lifetime, StoreError, StoreReader};

pub(super) fn examine(roots: &Roots, pods: &[Examined], report: &mut Report) {
    for parent in pods {
        for row in parent.record.iter().flat_map(|record| &record.children) {
            child(parent, row, pods, report);
        }
    }
    let parents = parents(pods);
    for pod in pods {
        events(pod, parents.get(&pod.name).copied(), report);
    }
    orphans(roots, pods, report);
}

/// The newest life of each pod that somebody calls a child.
fn parents(pods: &[Examined]) -> BTreeMap<&PodName, (&Examined, &ChildRow)> {
    let mut newest: BTreeMap<&PodName, (&Examined, &ChildRow)> = BTreeMap::new();
    for parent in pods {
        for row in parent.record.iter().flat_map(|record| &record.children) {
            let known = newest.entry(&row.pod.name).or_insert((parent, row));
            if known.1.at <= row.at {
                *known = (parent, row);
            }
        }
    }
    newest
}

/// A life that is not over for its parent.
fn child(parent: &Examined, row: &ChildRow, pods: &[Examined], report: &mut Report) {
    if row.state == ChildState::Ended {
        return;
    }
    let child = pods.iter().find(|pod| pod.name == row.pod.name);
    let lives = child.is_some_and(|child| child.may_live(row.pod.incarnation));
    let place = format!("pod `{}`, child of `{}`", row.pod.name, parent.name);
    let start = format!("start `{}` again", parent.name);
    match (lives, parent.is_free()) {
        (true, true) if row.lifetime == Lifetime::Detached => report.add(
            Finding::new(Check::Child, Severity::Warning, place, "it goes on alone: its parent does not live")
                .because("it keeps what it has to tell until its parent is back")
                .remedy(format!("{start}, or give it another parent with `pod adopt`")),
        ),
        (true, true) => report.add(
            Finding::new(Check::Child, Severity::Note, place, "it lives, and its parent does not")
                .because("it is tied to its parent and ends by itself, after its turn is cut short")
                .remedy(format!("look again; if it stays so, stop it with `pod stop {}`", row.pod.name)),
        ),
        (false, true) => report.add(
            Finding::new(Check::Child, Severity::Note, place, "its life is over, and its parent does not know it yet")
                .because("its last events are read when the parent starts; until then its work is open")
                .remedy(start),
        ),
        // The parent is about to learn it, or the child is about to begin.
        (_, false) => {}
    }
    if let (Some(elsewhere), true) = (child.and_then(|child| lies_elsewhere(row, &child.paths)), parent.is_free()) {
        let what = format!("its parent knows its store as `{}`", elsewhere.display());
        report.add(
            Finding::new(Check::Child, Severity::Note, format!("pod `{}`", row.pod.name), what)
                .because("the tree was moved or copied; the parent looks for it here from its next start on")
                .remedy("nothing"),
        );
    }
}

/// What a pod has to tell and cannot.
fn events(pod: &Examined, parent: Option<(&Examined, &ChildRow)>, report: &mut Report) {
    let Some(record) = &pod.record else { return };
    let place = format!("pod `{}`", pod.name);
    let counts = &record.counts;
    if counts.outbox_undeliverable > 0 {
        let why = counts.outbox_last_outcome.as_deref().unwrap_or("it did not say why");
        let what = format!("its parent cannot take {} of its events: {why}", counts.outbox_undeliverable);
        report.add(
            Finding::new(Check::Events, Severity::Warning, place.clone(), what)
                .because("they are kept, and in nobody's way; the parent is told that they are missing")
                .remedy(format!("read what they say with `pod log {}`", pod.name)),
        );
    }
    if counts.outbox_pending == 0 {
        return;
    }
    let waiting = counts.outbox_pending;
    match parent {
        // It has read them from the store of the life that is over; they are taken out when the pod lives again.
        Some((_, row)) if row.state == ChildState::Ended && !pod.may_live(row.pod.incarnation) => {}
        Some((parent, _)) if parent.is_free() => report.add(
            Finding::new(Check::Events, Severity::Warning, place, format!("{waiting} events await `{}`", parent.name))
                .because("its parent does not live; they are kept until it does")
                .remedy(format!("start `{}` again", parent.name)),
        ),
        Some(_) => {}
        None => report.add(
            Finding::new(
                Check::Events,
                Severity::Warning,
                place,
                format!("{waiting} events await a parent that is not here"),
            )
            .because("no pod below this root knows it as a child: they are kept, and delivered to nobody")
            .remedy("restore the parent's state directory, or read them with `pod log`"),
        ),
    }
}

/// Programs of lives that are over.
fn orphans(roots: &Roots, pods: &[Examined], report: &mut Report) {
    let own = std::process::id();
    for process in marked().into_iter().filter(|process| process.is_below(roots)) {
        let pid = process.pid.as_raw_nonzero().get().unsigned_abs();
        if pid == own || pods.iter().any(|pod| is_life_of(pod, process.life)) {
            continue;
        }
        let place = format!("process {pid}");
        let found = |what: String| {
            Finding::new(Check::Orphan, Severity::Warning, place.clone(), what)
                .because("it goes on with what nobody waits for, and may write what a later life writes, too")
        };
        let Some(pod) = pods.iter().find(|pod| had_life(pod, process.life, pods)) else {
            let what = format!("it belongs to life {}, of which no store here knows", process.life);
            report.add(found(what).remedy("look at what it is, and end it if it is not needed"));
            continue;
        };
        if pod.is_unknown() {
            let what = format!("it belongs to a life of pod `{}`, and whether that is over cannot be known", pod.name);
            report.add(found(what).remedy("see to its life lock first, and look again"));
            continue;
        }
        if !pod.is_free() || may_begin(process.life, pods) {
            continue;
        }
        let what = format!("it belongs to a life of pod `{}` that is over", pod.name);
        let finding = found(what).remedy("its parent's next start ends it; or end it with --fix");
        report.add_mending(finding, || {
            mend::end_programs(&pod.paths, roots, process.life, || is_over_now(process.life, pods))
        });
    }
}

/// Whether `life` lives as `pod`, or may.
fn is_life_of(pod: &Examined, life: Incarnation) -> bool {
    match pod.holder() {
        Some(holder) => holder.pod.as_ref().is_none_or(|held| held.incarnation == life),
        None => false,
    }
}

fn had_life(pod: &Examined, life: Incarnation, pods: &[Examined]) -> bool {
    let last = pod.last.pod.as_ref().is_some_and(|last| last.incarnation == life);
    last || rows_of(life, pods).any(|(_, row)| row.pod.name == pod.name)
}

fn rows_of(life: Incarnation, pods: &[Examined]) -> impl Iterator<Item = (&Examined, &ChildRow)> {
    let rows = pods
        .iter()
        .flat_map(|pod| pod.record.iter().flat_map(move |record| record.children.iter().map(move |row| (pod, row))));
    rows.filter(move |(_, row)| row.pod.incarnation == life)
}

/// Whether a parent that may live has just started that life: its process holds no lock yet.
fn may_begin(life: Incarnation, pods: &[Examined]) -> bool {
    rows_of(life, pods).any(|(parent, row)| row.state != ChildState::Ended && !parent.is_free())
}

/// Whether `life` is over, and no parent that may live has just started it or is about to bury it. Looked at now.
///
/// # Errors
/// Why it is not, or why that cannot be known.
fn is_over_now(life: Incarnation, pods: &[Examined]) -> Result<(), String> {
    unexpected_now(pods, |row| row.pod.incarnation == life)
}

/// Whether no parent that may live has just started, or is about to bury, a life of that name. Looked at now.
///
/// # Errors
/// Why it is not so, or why that cannot be known.
pub(super) fn nobody_begins_as(name: &PodName, pods: &[Examined]) -> Result<(), String> {
    unexpected_now(pods, |row| row.pod.name == *name)
}

/// Whether each life of which `which` holds is over for every parent that may live.
fn unexpected_now(pods: &[Examined], which: impl Fn(&ChildRow) -> bool) -> Result<(), String> {
    for parent in pods {
        if matches!(life_lock::probe(&parent.paths.life_lock()), Ok(Life::Free)) {
            continue;
        }
        let store = parent.paths.store();
        let rows = match StoreReader::open(&store).and_then(|reader| reader.look(|reads| reads.children())) {
            Ok(rows) => rows,
            // It has no store yet, and so no children.
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(StoreError::Empty { .. }) => continue,
            Err(error) => {
                let (name, why) = (&parent.name, error.chain());
                return Err(format!(
                    "whether pod `{name}`, which may live, expects a life of it cannot be known: {why}"
                ));
            }
        };
        if rows.iter().any(|row| which(row) && row.state != ChildState::Ended) {
            return Err(format!("a life of it may just be beginning, as a child of pod `{}`", parent.name));
        }
    }
    Ok(())
}
