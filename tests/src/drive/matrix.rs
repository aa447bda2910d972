//! The kill matrix: each place on the way of an event, times who dies there, times how.
//!
//! The one who is at the place halts there; only then is anybody killed, or halted for longer. So a fault hits what it
//! is aimed at, and a run that never reached its place says so. After the fault everything that died is started again
//! and given more work; then the tree is ended and judged.
//!
//! A child and its parent, in every second run with a grandparent above them that stays. The child ends with its parent, or is
//! detached: then it lives on when its parent is killed, and that, when it is back, takes it up again. Used by `kills` and `it`.

use std::path::Path;
use std::time::{Duration, Instant};

use pod::{Lifetime, Restart};

use super::{Armed, ROOT, Rest, Tree};
use crate::checker::{Recording, Verdict, judge};
use crate::sim::Random;
use crate::world::Step;

/// A place on the way of an event.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The failpoint.
    pub name: &'static str,
    /// Whose way it is on.
    pub side: Side,
    /// The first time that it is reached in a run, as far as it is to be aimed at, and the last.
    pub times: (u64, u64),
    /// Whether it is reached when a child is buried: that is dead by then.
    pub burial: bool,
}

/// Whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The child's.
    Child,
    /// The parent's.
    Parent,
}

/// Who is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The child.
    Child,
    /// The parent.
    Parent,
    /// One right after the other.
    Both,
}

/// By what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `kill -9`.
    Kill,
    /// `SIGSTOP`, for up to 30 s.
    Halt,
}

/// One field of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Where.
    pub place: &'static Place,
    /// Who.
    pub who: Who,
    /// How.
    pub how: How,
    /// Whether the child lives on when its parent is killed.
    pub detached: bool,
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the place was reached, and so the fault aimed.
    pub reached: bool,
    /// From the end of the last fault until nothing was under way.
    pub settled: Duration,
    /// What the checker says.
    pub verdict: Verdict,
}

const fn place(name: &'static str, side: Side, first: u64, last: u64) -> Place {
    Place { name, side, times: (first, last), burial: false }
}

const fn burial(name: &'static str) -> Place {
    Place { name, side: Side::Parent, times: (1, 1), burial: true }
}

/// The places, in the order in which an event comes by them. The last but one are every commit of either side.
pub static PLACES: [Place; 23] = [
    place("turn_end_before_commit", Side::Child, 1, 2),
    place("child_after_commit_before_send", Side::Child, 1, 3),
    place("child_after_send", Side::Child, 1, 5),
    place("parent_after_receive", Side::Parent, 1, 5),
    place("parent_before_apply", Side::Parent, 1, 5),
    place("parent_before_watermark", Side::Parent, 1, 5),
    place("parent_before_inbox", Side::Parent, 1, 5),
    place("parent_before_commit", Side::Parent, 1, 5),
    place("parent_after_commit_before_ack", Side::Parent, 1, 5),
    place("parent_after_ack", Side::Parent, 1, 5),
    place("child_after_ack_before_trim", Side::Child, 1, 3),
    place("child_in_trim_before_commit", Side::Child, 2, 4),
    place("child_after_trim", Side::Child, 1, 3),
    place("life_before_unlock", Side::Child, 1, 1),
    burial("burial_before_drain"),
    burial("burial_before_terminal"),
    burial("burial_before_commit"),
    burial("burial_after_commit"),
    place("store_before_commit", Side::Child, 1, 12),
    place("store_after_commit", Side::Child, 1, 12),
    // A parent has committed a few times before it has a child.
    place("store_before_commit", Side::Parent, 6, 24),
    place("store_after_commit", Side::Parent, 6, 24),
    // Before the child may begin.
    place("parent_after_ready_before_go", Side::Parent, 1, 1),
];

/// LIMIT: how long a place may take to be reached: a start, two turns and an end, on a loaded machine.
const REACH_MAX: Duration = Duration::from_secs(40);
/// LIMIT: how long anything may take to come to rest. Far above what is expected, so that what is late is measured.
const REST_MAX: Duration = Duration::from_secs(75);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Every field of the matrix.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for place in &PLACES {
        for who in [Who::Child, Who::Parent, Who::Both] {
            cells.push(Cell { place, who, how: How::Kill, detached: false });
        }
        // For a child that dies alone it is all the same.
        for who in [Who::Parent, Who::Both] {
            cells.push(Cell { place, who, how: How::Kill, detached: true });
        }
        for who in [Who::Child, Who::Parent] {
            // Nobody halts what is dead.
            if !(place.burial && who == Who::Child) {
                cells.push(Cell { place, who, how: How::Halt, detached: false });
            }
        }
    }
    cells
}

/// Runs the field of the matrix that `seed` falls on; consecutive seeds go through all of them. Who is halted is so for `halt`, or for
/// as long as the seed says.
///
/// # Errors
/// What could not be done, or never came to rest; the tree's files are then kept if `keep` says so.
///
/// # Panics
/// If a process cannot be started or waited for.
pub async fn run(program: &Path, cell: Cell, seed: u64, halt: Option<Duration>, keep: bool) -> Result<Outcome, String> {
    let mut run = OneRun::new(program, cell, seed, halt).map_err(|error| error.to_string())?;
    let done = run.carry_out().await;
    let wrong = done.as_ref().map_or(true, |outcome| !outcome.verdict.is_clean());
    let kept = if wrong && keep { format!("; kept in {}", run.tree.keep().display()) } else { String::new() };
    done.map_err(|error| error + &kept)
}

struct OneRun {
    tree: Tree,
    cell: Cell,
    random: Random,
    halt: Option<Duration>,
    child: &'static str,
    parent: &'static str,
}

impl OneRun {
    fn new(program: &Path, cell: Cell, seed: u64, halt: Option<Duration>) -> std::io::Result<Self> {
        let mut random = Random::new(seed);
        let parent = if random.per_mille(500) { ROOT } else { "mid" };
        Ok(Self { tree: Tree::new(program)?, cell, random, halt, child: "leaf", parent })
    }

    async fn carry_out(&mut self) -> Result<Outcome, String> {
        let Place { name, side, times, .. } = *self.cell.place;
        let armed = Armed { place: name, time: self.random.between(times.0, times.1) };
        let at = if side == Side::Child { self.child } else { self.parent };
        self.tree.start((at == ROOT).then_some(&armed)).await?;
        if at == self.parent && at != ROOT {
            self.tree.arm(at, &armed);
        }
        let reached = self.reach_in_rounds(at, &armed).await?;
        let fault_over = self.fault(at).await?;
        self.bring_back().await?;
        self.tree.rest(Rest::Calm, REST_MAX).await?;
        let settled = fault_over.elapsed();
        let again = self.again();
        self.tree.ask(ROOT, &again, REST_MAX).await?;
        self.tree.rest(Rest::Whole, REST_MAX).await?;
        let recording: Recording = self.tree.end().await?;
        Ok(Outcome { reached, settled, verdict: judge(&recording) })
    }

    /// Two works for the child, and its end.
    fn steps(&self) -> Vec<Step> {
        let leaf = || self.child.parse().expect("a name");
        let mut last = vec![Step::Say("the second".to_owned())];
        if self.cell.place.burial && self.cell.how == How::Kill && self.cell.who != Who::Parent {
            last.push(Step::Die);
        }
        let steps = vec![
            self.grow_leaf(),
            Step::GiveAndWait(leaf(), vec![Step::Say("the first".to_owned())]),
            Step::GiveAndWait(leaf(), last),
            Step::Stop(leaf()),
        ];
        self.below_root(steps, false)
    }

    /// One more work for the child, in its next life; its sequence goes on.
    fn again(&self) -> Vec<Step> {
        let leaf = || self.child.parse().expect("a name");
        let steps = vec![
            // One that lives on has its name already.
            self.grow_leaf(),
            Step::GiveAndWait(leaf(), vec![Step::Say("once more".to_owned())]),
            Step::Stop(leaf()),
        ];
        self.below_root(steps, true)
    }

    fn grow_leaf(&self) -> Step {
        let leaf = self.child.parse().expect("a name");
        if self.cell.detached { Step::GrowKept(leaf, Lifetime::Detached, Restart::default()) } else { Step::Grow(leaf) }
    }

    fn below_root(&self, steps: Vec<Step>, stop: bool) -> Vec<Step> {
        if self.parent == ROOT {
            return steps;
        }
        let mid = || self.parent.parse().expect("a name");
        let mut above = vec![Step::Grow(mid()), Step::GiveAndWait(mid(), steps)];
        if stop {
            above.push(Step::Stop(mid()));
        }
        above
    }

    /// Has the work done until somebody halts, up to three times: two events may have been offered as one.
    async fn reach_in_rounds(&mut self, at: &str, armed: &Armed) -> Result<bool, String> {
        for _ in 0..3 {
            if at == self.child {
                // Each round is a life of the child.
                self.tree.arm(at, armed);
            }
            let steps = self.steps();
            // An armed root may halt before it can answer.
            let patience = Duration::from_secs(if at == ROOT { 1 } else { 10 });
            let work = self.tree.ask(ROOT, &steps, patience).await;
            if self.reach(at, work.ok()).await? {
                return Ok(true);
            }
        }
        if at == self.parent {
            // Or it would halt when nobody expects it any more.
            self.tree.kill(at).await;
        }
        Ok(false)
    }

    /// Waits until `at` halts, or until everything is done without that.
    async fn reach(&self, at: &str, work: Option<pod::WorkId>) -> Result<bool, String> {
        let began = Instant::now();
        while began.elapsed() < REACH_MAX {
            if self.tree.is_halted(at) {
                return Ok(true);
            }
            if work.is_some_and(|work| self.tree.is_settled(ROOT, work)) {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(format!("neither reached nor done: {}", self.tree.unrest(Rest::Calm).unwrap_or_default()))
    }

    /// The fault; returns when it was over.
    async fn fault(&mut self, at: &str) -> Result<Instant, String> {
        let (child, parent) = (self.child, self.parent);
        let hit: &[&str] = match self.cell.who {
            Who::Child => &[child],
            Who::Parent => &[parent],
            // In either order.
            Who::Both if self.random.per_mille(500) => &[child, parent],
            Who::Both => &[parent, child],
        };
        match self.cell.how {
            How::Kill => {
                for pod in hit {
                    self.tree.kill(pod).await;
                }
                if !hit.contains(&at) {
                    self.tree.go_on(at);
                }
            }
            How::Halt => {
                let long = self.random.per_mille(120) && !self.cell.place.name.starts_with("store");
                let (least, most) = if long { (12_000, 30_000) } else { (200, 4_000) };
                let halted = Duration::from_millis(self.random.between(least, most));
                let halted = self.halt.unwrap_or(halted);
                for pod in hit {
                    self.tree.halt(pod);
                }
                if !hit.contains(&at) {
                    self.tree.go_on(at);
                }
                tokio::time::sleep(halted).await;
                self.tree.all_go_on();
            }
        }
        Ok(Instant::now())
    }

    /// Starts again what was killed, after a while: the parent is away for up to three seconds.
    async fn bring_back(&mut self) -> Result<(), String> {
        if self.tree.lives(self.parent) {
            return Ok(());
        }
        if self.parent == ROOT {
            let away = if self.random.per_mille(500) { 0 } else { self.random.between(0, 3_000) };
            tokio::time::sleep(Duration::from_millis(away)).await;
            return self.tree.start(None).await;
        }
        // If it ended in good order there is nothing to come back for.
        let began = Instant::now();
        while !self.tree.is_buried(ROOT, self.parent) {
            if began.elapsed() > REST_MAX {
                return Err(format!("`{ROOT}` does not bury `{}`", self.parent));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let mid = self.parent.parse().expect("a name");
        self.tree.ask(ROOT, &[Step::Grow(mid)], REST_MAX).await.map(|_| ())
    }
}
