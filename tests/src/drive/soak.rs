//! A tree under random faults for a while, then brought to rest, ended and judged.
//!
//! What a plan asks of a pod that does not live at that moment is counted and left out. When the faults are over,
//! every pod that died with something left to do is brought back, from the root downwards.
//!
//! Used by the binary `soak`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use pod::{PodName, WorkId};
use tokio::task::JoinSet;

use super::{Action, Plan, ROOT, Rest, Tree};
use crate::checker::{Verdict, judge};
use crate::world::Step;

/// How long a pod may be busy until it is left alone.
const PATIENCE: Duration = Duration::from_secs(5);
/// LIMIT: calls under way at once. More than a tree of 200 pods answers in the time of one.
const ASKS_MAX: usize = 64;
/// LIMIT: how long bringing everything back may take.
const REST_MAX: Duration = Duration::from_secs(240);
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Between two rounds of bringing back what is dead.
const REVIVE_EVERY: Duration = Duration::from_millis(500);

/// A soak.
pub struct Soak<'a> {
    /// What its pods are started from.
    pub program: &'a Path,
    /// What is done.
    pub plan: &'a Plan,
    /// Whether its files are kept if something is wrong.
    pub keep: bool,
    /// Told now and then how far it is.
    pub progress: &'a (dyn Fn(&Done, Duration) + Sync),
}

/// What was done, as far as it is.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Actions that were carried out, by kind.
    pub carried_out: BTreeMap<&'static str, u64>,
    /// Actions whose pod did not live.
    pub left_out: u64,
    /// Calls that were not taken: the pod was busy, halted or died.
    pub not_taken: u64,
    /// Adoptions that the adopter says are done; of those that are in doubt the checker counts what came of them.
    pub adopted: u64,
    /// The most pods that lived at once.
    pub most_alive: usize,
    /// The most memory that the runner had, in KiB.
    pub memory_kib: u64,
    /// The most descriptors that it had open.
    pub descriptors: usize,
    /// From the last fault until nothing was under way.
    pub settled: Duration,
    /// What the checker says.
    pub verdict: Verdict,
}

/// Carries a soak out.
///
/// # Errors
/// What could not be done, or never came to rest.
///
/// # Panics
/// If the root's process cannot be started or waited for.
pub async fn soak(soak: &Soak<'_>) -> Result<Done, String> {
    let tree = Tree::new(soak.program).map_err(|error| error.to_string())?;
    let (asks, adoptions) = (JoinSet::new(), JoinSet::new());
    let (later, moved) = (Vec::new(), BTreeSet::new());
    let mut run = Running { tree, plan: soak.plan, done: Done::default(), asks, adoptions, later, moved };
    let ended = run.carry_out(soak).await;
    let wrong = ended.is_err() || !run.done.verdict.is_clean();
    if wrong && soak.keep {
        eprintln!("kept in {}", run.tree.keep().display());
    }
    ended.map(|()| run.done)
}

struct Running<'a> {
    tree: Tree,
    plan: &'a Plan,
    done: Done,
    asks: JoinSet<Result<(PodName, WorkId), String>>,
    adoptions: JoinSet<Result<(), String>>,
    /// What is to be undone, and when: pods to be continued, and to be brought back.
    later: Vec<(Instant, Undo)>,
    /// Pods that may be another one's child than the plan says.
    moved: BTreeSet<usize>,
}

#[derive(Clone, Copy)]
enum Undo {
    GoOn(usize),
    BringBack(usize),
}

impl Running<'_> {
    async fn carry_out(&mut self, soak: &Soak<'_>) -> Result<(), String> {
        self.tree.start(None).await?;
        let (began, mut measured) = (Instant::now(), None::<Instant>);
        for (at, action) in &self.plan.actions {
            let at = began + *at;
            loop {
                self.undo(Instant::now()).await?;
                self.taken();
                if measured.is_none_or(|measured| measured.elapsed() >= MEASURE_EVERY) {
                    measured = Some(Instant::now());
                    self.measure();
                    (soak.progress)(&self.done, began.elapsed());
                }
                let next = self.later.iter().map(|(at, _)| *at).chain([at]).min().unwrap_or(at);
                if next >= at {
                    break;
                }
                tokio::time::sleep_until(next.into()).await;
            }
            tokio::time::sleep_until(at.into()).await;
            self.act(action).await;
        }
        self.tree.all_go_on();
        self.later.retain(|(_, undo)| matches!(undo, Undo::BringBack(_)));
        self.undo(Instant::now() + REST_MAX).await?;
        let last_fault = Instant::now();
        while !self.asks.is_empty() {
            self.asks.join_next().await.into_iter().for_each(|asked| self.take(asked));
        }
        while let Some(adopted) = self.adoptions.join_next().await {
            self.done.adopted += u64::from(matches!(adopted, Ok(Ok(()))));
        }
        self.come_to_rest(last_fault).await?;
        self.measure();
        self.end_detached().await?;
        let recording = self.tree.end().await?;
        self.done.verdict = judge(&recording);
        Ok(())
    }

    async fn act(&mut self, action: &Action) {
        let (kind, carried_out) = match action {
            Action::Grow(pod) => ("grow", self.grow(*pod)),
            Action::Ask(pod, steps) => ("ask", self.ask(*pod, steps.clone())),
            Action::Kill(pod) => ("kill", self.kill(*pod).await.is_some()),
            Action::Away(pod, away) => {
                let killed = self.kill(*pod).await;
                self.later.extend(killed.map(|pod| (Instant::now() + *away, Undo::BringBack(pod))));
                ("away", killed.is_some())
            }
            Action::Halt(pod, halted) => {
                let pod = self.living_above(*pod);
                self.later.push((Instant::now() + *halted, Undo::GoOn(pod)));
                ("halt", self.tree.halt(self.plan.names[pod].as_str()))
            }
            Action::Stop(pod) => {
                let lives = self.tree.lives(self.plan.names[*pod].as_str());
                ("stop", lives && self.ask(self.parent(*pod), vec![Step::Stop(self.plan.names[*pod].clone())]))
            }
            Action::Adopt { child, by, away } => ("adopt", self.adopt(*child, *by, *away).await),
        };
        if carried_out {
            *self.done.carried_out.entry(kind).or_default() += 1;
        } else {
            self.done.left_out += 1;
        }
    }

    /// Kills the pod, or the nearest living one above it; the root only if it is meant. Says which.
    async fn kill(&mut self, pod: usize) -> Option<usize> {
        let hit = self.living_above(pod);
        let meant = hit != 0 || pod == 0;
        (meant && self.tree.kill(self.plan.names[hit].as_str()).await).then_some(hit)
    }

    /// Kills the parent of `child`, or of the next that can be adopted, so that `by`, or the next that can, adopts it. Not for the
    /// root's children, and nobody becomes the child of one that is below it; but who is dead or halted by then is as it comes.
    async fn adopt(&mut self, child: usize, by: usize, away: Duration) -> bool {
        let pods = self.plan.names.len();
        let from = |first: usize| (0..pods).map(move |next| (first + next) % pods);
        let Some((child, parent)) = from(child)
            .filter(|child| *child != 0 && self.plan.is_detached(*child) && self.lives(*child))
            .map(|child| (child, self.parent(child)))
            .find(|(_, parent)| *parent != 0 && self.lives(*parent))
        else {
            return false;
        };
        let can = |by: &usize| *by != parent && self.lives(*by) && !self.way(*by).contains(&child);
        let Some(by) = from(by).find(can) else { return false };
        let names = &self.plan.names;
        self.tree.kill(names[parent].as_str()).await;
        self.moved.insert(child);
        self.adoptions.spawn(self.tree.adopting(names[child].as_str(), names[parent].as_str(), names[by].as_str()));
        self.later.push((Instant::now() + away, Undo::BringBack(parent)));
        true
    }

    /// Whose child it is, as far as that is decided.
    fn parent(&self, pod: usize) -> usize {
        let first = self.plan.parents[pod];
        if !self.moved.contains(&pod) {
            return first;
        }
        let holder = self.tree.holder(self.plan.names[pod].as_str(), self.plan.names[first].as_str());
        self.plan.names.iter().position(|name| *name == holder).unwrap_or(first)
    }

    /// The way from the root to `pod`, both included, as it is now.
    fn way(&self, pod: usize) -> Vec<usize> {
        let mut way = vec![pod];
        while let Some(last) = way.last().copied().filter(|last| *last != 0) {
            match self.parent(last) {
                // Nobody is below itself; what is read while it changes may say so.
                parent if way.contains(&parent) => break,
                parent => way.push(parent),
            }
        }
        way.reverse();
        way
    }

    /// The pod, if it lives, or the nearest living one above it; the root, if there is none.
    fn living_above(&self, pod: usize) -> usize {
        let way = self.way(pod);
        way.into_iter().rev().find(|pod| self.tree.lives(self.plan.names[*pod].as_str())).unwrap_or(0)
    }

    fn grow(&mut self, pod: usize) -> bool {
        let dead = self.way(pod).into_iter().find(|pod| !self.lives(*pod));
        // Without its root there is no tree to grow.
        dead.is_some_and(|dead| dead != 0 && self.ask(self.parent(dead), vec![self.plan.grow(dead)]))
    }

    fn ask(&mut self, pod: usize, steps: Vec<Step>) -> bool {
        let name = self.plan.names[pod].as_str();
        let can = self.asks.len() < ASKS_MAX && self.tree.lives(name);
        if can {
            self.asks.spawn(self.tree.asking(name, &steps, PATIENCE));
        }
        can
    }

    fn taken(&mut self) {
        while let Some(asked) = self.asks.try_join_next() {
            self.take(asked);
        }
        while let Some(adopted) = self.adoptions.try_join_next() {
            self.done.adopted += u64::from(matches!(adopted, Ok(Ok(()))));
        }
    }

    fn take(&mut self, asked: Result<Result<(PodName, WorkId), String>, tokio::task::JoinError>) {
        match asked {
            Ok(Ok((pod, work))) => self.tree.was_accepted(pod, work),
            Ok(Err(_)) | Err(_) => self.done.not_taken += 1,
        }
    }

    /// Undoes what is due.
    async fn undo(&mut self, now: Instant) -> Result<(), String> {
        let (due, later) = self.later.iter().copied().partition(|(at, _)| *at <= now);
        self.later = later;
        for (_, undo) in due {
            match undo {
                Undo::GoOn(pod) => _ = self.tree.go_on(self.plan.names[pod].as_str()),
                Undo::BringBack(0) if !self.tree.lives(ROOT) => self.tree.start(None).await?,
                Undo::BringBack(0) => {}
                Undo::BringBack(pod) => _ = self.grow(pod),
            }
        }
        Ok(())
    }

    /// Brings back whatever died with something left to do, until there is nothing.
    async fn come_to_rest(&mut self, last_fault: Instant) -> Result<(), String> {
        let mut calm = false;
        loop {
            if !self.tree.lives(ROOT) {
                self.tree.start(None).await?;
            }
            let why = self.tree.unrest(Rest::Whole);
            if !calm && (why.is_none() || self.tree.unrest(Rest::Calm).is_none()) {
                (calm, self.done.settled) = (true, self.done.settled.max(last_fault.elapsed()));
            }
            let Some(why) = why else { return Ok(()) };
            if last_fault.elapsed() > REST_MAX {
                return Err(format!("no rest within {REST_MAX:?} after the last fault: {why}"));
            }
            let unfinished = self.tree.unfinished();
            for (pod, _) in self.plan.names.iter().enumerate().filter(|(_, name)| unfinished.contains(name)) {
                self.grow(pod);
            }
            let until = Instant::now() + REVIVE_EVERY;
            while let Ok(Some(asked)) = tokio::time::timeout_at(until.into(), self.asks.join_next()).await {
                self.take(asked);
            }
            // LIMIT: a round is a look at every store, which is not to be what the machine is busy with.
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Has every detached pod ended by its parent, the deepest first, for those do not end with the tree.
    async fn end_detached(&mut self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let left = (1..self.plan.names.len()).filter(|pod| self.plan.is_detached(*pod) && self.lives(*pod));
            let left: Vec<usize> = left.collect();
            let Some(deepest) = left.iter().copied().max_by_key(|pod| self.way(*pod).len()) else {
                while let Some(asked) = self.asks.join_next().await {
                    self.take(asked);
                }
                self.come_to_rest(Instant::now()).await?;
                // Whoever had something left to do was brought back for it.
                if (1..self.plan.names.len()).any(|pod| self.plan.is_detached(pod) && self.lives(pod)) {
                    continue;
                }
                return Ok(());
            };
            if began.elapsed() > REST_MAX {
                return Err(format!("detached pods do not end: {}", self.plan.names[deepest]));
            }
            let depth = self.way(deepest).len();
            for pod in left.into_iter().filter(|pod| self.way(*pod).len() == depth).collect::<Vec<_>>() {
                let parent = self.parent(pod);
                if self.tree.lives(self.plan.names[parent].as_str()) {
                    self.ask(parent, vec![Step::Stop(self.plan.names[pod].clone())]);
                } else {
                    // Whoever is to be told how it ends comes back first.
                    self.grow(parent);
                }
            }
            let until = Instant::now() + REVIVE_EVERY;
            while let Ok(Some(asked)) = tokio::time::timeout_at(until.into(), self.asks.join_next()).await {
                self.take(asked);
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }

    fn lives(&self, pod: usize) -> bool {
        self.tree.lives(self.plan.names[pod].as_str())
    }

    fn measure(&mut self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let alive = self.plan.names.iter().filter(|name| self.tree.lives(name.as_str())).count();
        let done = &mut self.done;
        done.memory_kib = done.memory_kib.max(kib);
        done.descriptors = done.descriptors.max(descriptors);
        done.most_alive = done.most_alive.max(alive);
    }
}

impl fmt::Debug for Soak<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Soak").field("program", &self.program).field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let carried_out: Vec<String> = self.carried_out.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        write!(
            f,
            "done: {} ({} adoptions done at once); {} left out, {} calls not taken; at most {} pods alive; the runner: {} MiB, {} descriptors",
            carried_out.join(", "),
            self.adopted,
            self.left_out,
            self.not_taken,
            self.most_alive,
            self.memory_kib.div_ceil(1024),
            self.descriptors
        )
    }
}
