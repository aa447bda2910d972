//! What can be wrong with a recorded history, and how much of it was looked at.
//!
//! Words and numbers; decides nothing.
//!
//! Filled by `judge` and the parts that it asks.

use std::fmt;

/// A way in which a promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A child was told that an event is committed at its parent; it is not.
    AckedLost,
    /// A child had committed an event, its life is buried, and its parent never applied the event.
    CommittedLost,
    /// An event stands in its parent's history as another one than the child had committed.
    Altered,
    /// An event was applied twice.
    AppliedTwice,
    /// Events are missing between those that were applied, or a gap was told.
    Gap,
    /// Events of a stream were told in another order than they were raised, or after the end of their life.
    OutOfOrder,
    /// A life has no terminal event, or more than one.
    Terminals,
    /// A work is open that nobody works on any more.
    Unsettled,
    /// A work was settled twice.
    SettledTwice,
    /// A run was accepted and is nowhere.
    AcceptedLost,
    /// A life, or a work, was called lost although it was not.
    FalseLost,
    /// A life is the child of two pods, or of none.
    Holders,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What.
    pub fault: Fault,
    /// Where and how.
    pub detail: String,
}

/// How much was looked at: a verdict on nothing is worth nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods.
    pub pods: u64,
    /// Lives of children.
    pub lives: u64,
    /// Of these, lives that were lost.
    pub lost: u64,
    /// How often a life has become another pod's.
    pub adopted: u64,
    /// Events that are applied at a parent.
    pub events: u64,
    /// Of these, events whose content was compared with what the child had offered or kept.
    pub compared: u64,
    /// Acks that children were given.
    pub acks: u64,
    /// Works that were delegated.
    pub works: u64,
    /// Runs that somebody was told were accepted.
    pub accepted: u64,
}

/// What `judge` says.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What is wrong, in the order of the pods.
    pub findings: Vec<Finding>,
    /// How much was looked at.
    pub counts: Counts,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::AckedLost,
        Self::CommittedLost,
        Self::Altered,
        Self::AppliedTwice,
        Self::Gap,
        Self::OutOfOrder,
        Self::Terminals,
        Self::Unsettled,
        Self::SettledTwice,
        Self::AcceptedLost,
        Self::FalseLost,
        Self::Holders,
    ];
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// How many findings are of this kind.
    pub fn count(&self, fault: Fault) -> usize {
        self.findings.iter().filter(|finding| finding.fault == fault).count()
    }

    pub(super) fn find(&mut self, fault: Fault, detail: impl Into<String>) {
        self.findings.push(Finding { fault, detail: detail.into() });
    }
}

impl Counts {
    /// Adds what another verdict looked at.
    pub fn add(&mut self, other: &Self) {
        self.pods += other.pods;
        self.lives += other.lives;
        self.lost += other.lost;
        self.adopted += other.adopted;
        self.events += other.events;
        self.compared += other.compared;
        self.acks += other.acks;
        self.works += other.works;
        self.accepted += other.accepted;
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AckedLost => "acked but lost",
            Self::CommittedLost => "committed but lost",
            Self::Altered => "altered",
            Self::AppliedTwice => "applied twice",
            Self::Gap => "gap",
            Self::OutOfOrder => "out of order",
            Self::Terminals => "terminal events other than one",
            Self::Unsettled => "work not settled",
            Self::SettledTwice => "work settled twice",
            Self::AcceptedLost => "accepted run lost",
            Self::FalseLost => "falsely lost",
            Self::Holders => "children of other than one pod",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.fault, self.detail)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pods, lives, lost, adopted, events, compared, acks, works, accepted } = self;
        write!(
            f,
            "{pods} pods, {lives} lives of children ({lost} lost, {adopted} adoptions), {events} events applied ({compared} compared with what \
             was offered), {acks} acks given, {works} works delegated, {accepted} runs accepted"
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.counts)?;
        let counted = Fault::ALL.map(|fault| format!("{} {fault}", self.count(fault)));
        f.write_str(&counted.join(", "))
    }
}
