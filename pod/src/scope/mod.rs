//! What a pod may read and write.
//!
//! `rules` decides (pure); `confine` opens files as decided, through the kernel; `launch` starts programs that cannot do
//! more. Who holds what is the registry's to know. Nothing here gives a right that was not delegated.
//!
//! Carried by `protocol`, kept by `registry`, used by workers and their tools.

mod confine;
mod held;
pub(crate) mod launch;
pub(crate) mod rules;

use serde::{Deserialize, Serialize};

use crate::protocol::Text;

pub use confine::ScopeError;
pub use held::Scope;
pub use launch::{kernel_confinement, kernel_landlock_abi, kernel_landlock_version};
pub use rules::{NotYours, RuleError, Rules};

/// One right: what, how, and whether below it too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct ScopeRule {
    /// An absolute path.
    pub target: Text<4096>,
    /// How it may be used.
    pub permission: Permission,
    /// Whether everything below it is meant, too.
    pub recursive: bool,
}

/// How a target may be used. Who may write may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, rpc::Wire)]
pub enum Permission {
    /// Read it.
    Read,
    /// Read and change it.
    Write,
    /// Neither, whatever a rule for something above it says.
    Deny,
}

/// How the programs that a pod runs are confined to its scope by the kernel (Landlock).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "kebab-case")]
pub enum Confinement {
    /// They are not.
    Off,
    /// As far as the kernel can.
    #[default]
    BestEffort,
    /// Wholly, or they are not run.
    Required,
}

/// How the programs that a pod runs are confined to its scope: what is wanted, and what comes of it on its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Confined {
    /// What was asked for, for the whole tree.
    pub asked: Confinement,
    /// What is in force: `off` also where there is no scope to confine anything to.
    pub in_force: Confinement,
    /// Whether the pod has a scope.
    pub scoped: bool,
    /// The newest version of Landlock that the kernel has and that is made use of; 0 for none.
    pub landlock_abi: u32,
    /// The version of Landlock that the kernel says it has; 0 for none.
    pub landlock_kernel: u32,
}

impl Confinement {
    /// The word that stands for it: `off`, `best-effort` or `required`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::BestEffort => "best-effort",
            Self::Required => "required",
        }
    }

    /// The level that `word` stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Off, Self::BestEffort, Self::Required].into_iter().find(|level| level.word() == word)
    }
}

impl std::fmt::Display for Confinement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.word())
    }
}

impl ScopeRule {
    /// A right to `target` and everything below it.
    pub fn below(target: impl Into<String>, permission: Permission) -> Self {
        Self { target: target.into().into(), permission, recursive: true }
    }
}

impl Permission {
    /// The word that stands for it in manifests, in tables and in the registry.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Deny => "deny",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::Read, Self::Write, Self::Deny].into_iter().find(|permission| permission.word() == word)
    }

    fn rank(self) -> u8 {
        match self {
            Self::Deny => 0,
            Self::Read => 1,
            Self::Write => 2,
        }
    }
}

/// By what they allow: nothing, reading, reading and writing.
impl Ord for Permission {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Permission {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
#[path = "confinement_tests.rs"]
mod tests;
