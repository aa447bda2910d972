//! What a soak does, and when: a function of its seed.
//!
//! Names pods that may not live when their time comes; what then happens is the soak's business. Looks at no clock and
//! at no tree.
//!
//! Carried out by `soak`.

use std::fmt::Write as _;
use std::time::Duration;

use pod::{Lifetime, PodName, Restart, RestartWhen};

use super::ROOT;
use crate::sim::Random;
use crate::world::Step;

/// LIMIT: how deep a tree of a soak is, its root included. Names are planned, so that each pod always has one parent.
const DEPTH_MAX: usize = 6;
/// LIMIT: shorter than what a parent that stops grants a child (20 s), or who is halted is killed by its parent.
const HALT_MAX_MS: u64 = 12_000;
/// The mean pause between two actions for a tree of a hundred pods; fewer pods have longer ones.
const PAUSE_MS: u64 = 70;

/// How large a soak is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What everything follows from.
    pub seed: u64,
    /// Pods that may live at once, the root included.
    pub pods: usize,
    /// For how long there are faults.
    pub length: Duration,
}

/// One thing to do to a tree. A number is a pod of the plan; 0 is the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Grow the first pod that does not live on the way from the root to this one.
    Grow(usize),
    /// Give it steps.
    Ask(usize, Vec<Step>),
    /// Kill it, or else the nearest pod above it that lives. What hangs on it ends by itself.
    Kill(usize),
    /// The same, and bring it back after a while.
    Away(usize, Duration),
    /// Halt it, or else the nearest pod above it that lives, for a while.
    Halt(usize, Duration),
    /// Have its parent end it.
    Stop(usize),
    /// Kill its parent, have another pod adopt it, and bring its parent back after a while.
    Adopt {
        /// Which.
        child: usize,
        /// By which.
        by: usize,
        /// For how long its parent is away.
        away: Duration,
    },
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The pods' names; the first is the root's.
    pub names: Vec<PodName>,
    /// The parent of each; the root's own is the root.
    pub parents: Vec<usize>,
    /// How each is kept: whether it lives on without its parent, and whether that starts it again.
    pub kept: Vec<(Lifetime, Restart)>,
    /// What is done when, in this order.
    pub actions: Vec<(Duration, Action)>,
}

impl Plan {
    /// The plan of this shape.
    ///
    /// # Panics
    /// If there are no pods.
    pub fn new(shape: Shape) -> Self {
        assert!(shape.pods > 0, "a tree has a root");
        let mut random = Random::new(shape.seed);
        let tied = (Lifetime::Tied, Restart::default());
        let mut plan = Self { names: vec![named(ROOT)], parents: vec![0], kept: vec![tied], actions: Vec::new() };
        while plan.names.len() < shape.pods {
            let parent = random.index(plan.names.len());
            if plan.way(parent).len() < DEPTH_MAX {
                plan.names.push(named(&format!("p{:03}", plan.names.len())));
                plan.parents.push(parent);
                plan.kept.push(kept(&mut random));
            }
        }
        let pause = PAUSE_MS * 100 / (shape.pods as u64).clamp(20, 200);
        let mut at = Duration::ZERO;
        loop {
            at += Duration::from_millis(random.between(1, 2 * pause));
            if at >= shape.length {
                return plan;
            }
            let action = plan.action(&mut random);
            plan.actions.push((at, action));
        }
    }

    /// The step that starts it.
    pub fn grow(&self, pod: usize) -> Step {
        let (lifetime, restart) = self.kept[pod];
        Step::GrowKept(self.names[pod].clone(), lifetime, restart)
    }

    /// Whether it lives on without its parent.
    pub fn is_detached(&self, pod: usize) -> bool {
        self.kept[pod].0 == Lifetime::Detached
    }

    fn action(&self, random: &mut Random) -> Action {
        let pods = self.names.len();
        let pod = random.index(pods);
        let below = if pods > 1 { 1 + random.index(pods - 1) } else { 0 };
        let kind = random.choose(&[
            (488, 'g'),
            (250, 'w'),
            (150, 'e'),
            (35, 'k'),
            (15, 'a'),
            (2, 'r'),
            (35, 'h'),
            (13, 's'),
            (12, 'd'),
        ]);
        match kind {
            'g' => Action::Grow(below),
            'w' => Action::Ask(pod, self.work(random)),
            'e' => Action::Ask(pod, self.errand(random, pod)),
            'k' => Action::Kill(below),
            'a' => Action::Away(below, Duration::from_millis(random.between(0, 3_000))),
            'r' => Action::Away(0, Duration::from_millis(random.between(0, 4_000))),
            'h' => {
                let most = if random.per_mille(100) { HALT_MAX_MS } else { 2_000 };
                Action::Halt(pod, Duration::from_millis(random.between(50, most)))
            }
            'd' => {
                // What is tied ends with its parent.
                let detached: Vec<usize> = (1..pods).filter(|pod| self.is_detached(*pod)).collect();
                if detached.is_empty() {
                    return Action::Grow(below);
                }
                let (child, away) = (detached[random.index(detached.len())], random.between(0, 4_000));
                Action::Adopt { child, by: pod, away: Duration::from_millis(away) }
            }
            _ => Action::Stop(below),
        }
    }

    /// Work of a pod's own.
    fn work(&self, random: &mut Random) -> Vec<Step> {
        let mut steps = vec![Step::Say(format!("work {}", random.below(1_000_000)))];
        if random.per_mille(300) {
            steps.push(Step::SleepMs(random.between(1, 400)));
        }
        if random.per_mille(100) {
            steps.push(Step::Fail);
        }
        steps
    }

    /// Work for those below `pod`, handed down as far as there are any.
    fn errand(&self, random: &mut Random, pod: usize) -> Vec<Step> {
        let children: Vec<usize> = (1..self.names.len()).filter(|child| self.parents[*child] == pod).collect();
        let mut steps = self.work(random);
        if children.is_empty() {
            return steps;
        }
        for _ in 0..random.between(1, 3) {
            let child = children[random.index(children.len())];
            let given = self.errand(random, child);
            let to = self.names[child].clone();
            steps.insert(0, if random.per_mille(500) { Step::Give(to, given) } else { Step::GiveAndWait(to, given) });
        }
        steps
    }

    /// The way from the root to `pod`, both included.
    pub fn way(&self, pod: usize) -> Vec<usize> {
        let mut way = vec![pod];
        while let Some(last) = way.last().copied().filter(|last| *last != 0) {
            way.push(self.parents[last]);
        }
        way.reverse();
        way
    }

    /// A number that differs for different plans, most likely: FNV-1a of all of it.
    pub fn digest(&self) -> u64 {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(text, "{self:?}");
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

/// One in six lives on without its parent, and one in four is started again, a few times in a short time.
fn kept(random: &mut Random) -> (Lifetime, Restart) {
    let lifetime = if random.per_mille(170) { Lifetime::Detached } else { Lifetime::Tied };
    let when = match random.choose(&[(750, 'n'), (150, 'f'), (100, 'a')]) {
        'f' => RestartWhen::OnFailure,
        'a' => RestartWhen::Always,
        _ => RestartWhen::Never,
    };
    (lifetime, Restart { when, max: 3, within_ms: 20_000 })
}

fn named(text: &str) -> PodName {
    text.parse().expect("planned names are names of pods")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(seed: u64) -> Shape {
        Shape { seed, pods: 200, length: Duration::from_secs(120) }
    }

    #[test]
    fn plan_follows_from_its_seed_alone() {
        assert_eq!(Plan::new(shape(7)), Plan::new(shape(7)));
        assert_eq!(Plan::new(shape(7)).digest(), Plan::new(shape(7)).digest());
        assert_ne!(Plan::new(shape(7)).digest(), Plan::new(shape(8)).digest());
    }

    #[test]
    fn plan_has_every_kind_of_action_and_a_tree_of_bounded_depth() {
        let plan = Plan::new(shape(1));
        assert_eq!(plan.names.len(), 200);
        assert!((0..200).all(|pod| plan.way(pod).len() <= DEPTH_MAX && plan.way(pod)[0] == 0));
        assert!((0..200).any(|pod| plan.way(pod).len() == DEPTH_MAX));
        let kinds = plan.actions.iter().map(|(_, action)| std::mem::discriminant(action));
        assert_eq!(kinds.collect::<std::collections::HashSet<_>>().len(), 7);
        assert!(plan.actions.is_sorted_by_key(|(at, _)| *at));
        let restarted = |when| plan.kept.iter().filter(|(_, restart)| restart.when == when).count();
        assert!((1..200).filter(|pod| plan.is_detached(*pod)).count() > 10 && !plan.is_detached(0));
        assert!(restarted(RestartWhen::OnFailure) > 10 && restarted(RestartWhen::Always) > 5);
        assert!(plan.actions.iter().any(|(_, action)| matches!(action, Action::Away(0, _))));
    }
}
