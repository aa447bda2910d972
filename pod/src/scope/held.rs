//! What a pod may use at this moment: its rules, less what its children may write.
//!
//! A picture of what the registry holds, changed only after the registry has; nothing that is lent is written by its
//! lender. No file is touched here.
//!
//! Kept by `registry::member`, asked by `confine`, `launch` and workers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::Permission;
use super::rules::Rules;
use crate::id::PodId;

/// What a pod may use. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Scope(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// None: what its user may.
    rules: Option<Rules>,
    lent: RwLock<Vec<(PodId, Rules)>>,
}

impl Scope {
    pub(crate) fn new(rules: Option<Rules>, lent: Vec<(PodId, Rules)>) -> Self {
        Self(Arc::new(Inner { rules, lent: RwLock::new(lent) }))
    }

    /// The rights of `rules`, and nothing lent.
    pub fn of(rules: Rules) -> Self {
        Self::new(Some(rules), Vec::new())
    }

    /// Its rules; none if it may do what its user may.
    pub fn rules(&self) -> Option<&Rules> {
        self.0.rules.as_ref()
    }

    /// What is lent, and to whom.
    pub fn lent_to(&self) -> Vec<(PodId, Rules)> {
        self.0.lent.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `child` has a scope, which is then part of this one.
    pub(crate) fn is_lent_to(&self, child: &PodId) -> bool {
        self.0.lent.read().unwrap_or_else(PoisonError::into_inner).iter().any(|(to, _)| to == child)
    }

    /// How `path` may be used now; it must be absolute and without `..`. What a child may write is read by its parent
    /// and not written.
    pub fn at(&self, path: &Path) -> Permission {
        let own = self.0.rules.as_ref().map_or(Permission::Write, |rules| rules.at(path));
        let lent = self.0.lent.read().unwrap_or_else(PoisonError::into_inner);
        if lent.iter().any(|(_, rules)| rules.at(path) == Permission::Write) { own.min(Permission::Read) } else { own }
    }

    /// How what is below `path` may be used now, where no rule says more.
    pub(crate) fn below(&self, path: &Path) -> Permission {
        let own = self.0.rules.as_ref().map_or(Permission::Write, |rules| rules.below(path));
        let lent = self.0.lent.read().unwrap_or_else(PoisonError::into_inner);
        if lent.iter().any(|(_, rules)| rules.below(path) == Permission::Write) {
            own.min(Permission::Read)
        } else {
            own
        }
    }

    /// Every path that has a rule of its own, here or with a child.
    pub(crate) fn targets(&self) -> Vec<PathBuf> {
        let lent = self.0.lent.read().unwrap_or_else(PoisonError::into_inner);
        let all = self.0.rules.iter().chain(lent.iter().map(|(_, rules)| rules)).flat_map(Rules::iter);
        all.map(|rule| rule.target.clone()).collect()
    }

    pub(crate) fn lend(&self, to: PodId, rules: Rules) {
        self.0.lent.write().unwrap_or_else(PoisonError::into_inner).push((to, rules));
    }

    /// This is lent, and nothing else.
    pub(crate) fn lent(&self, lent: Vec<(PodId, Rules)>) {
        *self.0.lent.write().unwrap_or_else(PoisonError::into_inner) = lent;
    }
}
