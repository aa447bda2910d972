//! What an examination finds: what it is, where, why it matters, and what to do.
//!
//! Made by the other files of this folder, printed by `cli`.

use std::path::Path;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is wrong; whoever looks for something may want to know.
    Note,
    /// Nothing is lost; something does not go on until somebody acts, or could go wrong.
    Warning,
    /// Pods do not start, or something is lost.
    Problem,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Check {
    /// A directory for all pods.
    Root,
    /// What it lies on.
    FileSystem,
    /// Who may use a file or directory of a pod.
    Mode,
    /// A life lock.
    LifeLock,
    /// A runtime directory, with its socket.
    RuntimeDir,
    /// A store.
    Store,
    /// The registry of names and rights that all pods share.
    Registry,
    /// Events that await a parent.
    Events,
    /// A child, as its parent knows it.
    Child,
    /// A process that outlived its pod.
    Orphan,
    /// What the kernel can do.
    Kernel,
    /// What this user may use up.
    Limit,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How bad it is.
    pub severity: Severity,
    /// Where: a path, a pod or a process.
    pub place: String,
    /// What it is.
    pub what: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do.
    pub remedy: String,
    /// What was done about it; none, if nothing was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mended: Option<Mended>,
}

/// What became of an attempt to mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mended {
    /// It is as it should be; in words, what was done.
    Done(String),
    /// It is as it was; in words, why.
    Failed(String),
}

/// Something that the machine can do, or how much of something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Its name.
    pub name: &'static str,
    /// Whether it is there, and how much of it.
    pub value: String,
    /// What pods use it for.
    pub why: &'static str,
}

/// All that was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The worst first.
    pub findings: Vec<Finding>,
    /// What the machine can do.
    pub facts: Vec<Fact>,
    /// How many pods there are.
    pub pods: u64,
    /// How many of them live.
    pub living: u64,
    mend: bool,
}

impl Finding {
    pub(super) fn new(check: Check, severity: Severity, place: impl Into<String>, what: impl Into<String>) -> Self {
        let (place, what) = (place.into(), what.into());
        Self { check, severity, place, what, why: "", remedy: String::new(), mended: None }
    }

    pub(super) fn at(check: Check, severity: Severity, path: &Path, what: impl Into<String>) -> Self {
        Self::new(check, severity, path.display().to_string(), what)
    }

    pub(super) fn because(mut self, why: &'static str) -> Self {
        self.why = why;
        self
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Whether somebody has to do something.
    pub fn is_open(&self) -> bool {
        self.severity >= Severity::Warning && !matches!(self.mended, Some(Mended::Done(_)))
    }
}

impl Report {
    pub(super) fn new(mend: bool) -> Self {
        Self { findings: Vec::new(), facts: Vec::new(), pods: 0, living: 0, mend }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Adds what can be mended, after an attempt if one is wanted: what was done, or why it could not be.
    pub(super) fn add_mending(&mut self, finding: Finding, mend: impl FnOnce() -> Result<String, String>) {
        let mended = self.mend.then(|| mend().map_or_else(Mended::Failed, Mended::Done));
        self.findings.push(Finding { mended, ..finding });
    }

    pub(super) fn fact(&mut self, name: &'static str, value: impl Into<String>, why: &'static str) {
        self.facts.push(Fact { name, value: value.into(), why });
    }
}
