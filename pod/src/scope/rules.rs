//! The algebra of rules: what a set of them allows, whether one lies within another, where two may both write.
//!
//! Pure: no file is looked at and no link is followed; a path is what it says. Of the rules that cover a path the one
//! with the longest target decides; of two for the same target the one without what is below it, then the one that
//! allows less. A path that no rule covers is denied.
//!
//! Verdicts change only at the targets of rules. So two sets are compared exactly by looking at each target and at a
//! place below it that no rule names.
//!
//! Used by `registry` when rights are given, by `confine` and `launch` when they are used.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::{Permission, ScopeRule};
use crate::protocol::SCOPE_RULES_MAX;

/// Rights over paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) target: PathBuf,
    pub(crate) permission: Permission,
    pub(crate) recursive: bool,
}

/// A rule that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{target}` cannot be in a scope: {fault}; {remedy}")]
pub struct RuleError {
    target: String,
    fault: &'static str,
    remedy: String,
}

/// A right that is not there to be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the right to {wanted} `{}` is not the parent's to give: the parent {}; ask for what it has, or for less",
    target.display(), what_there_is(*has, *below)
)]
pub struct NotYours {
    /// For what.
    pub target: PathBuf,
    /// What was asked for.
    pub wanted: Permission,
    /// What there is.
    pub has: Permission,
    /// Whether that is what there is below the target, and not for the target itself.
    pub below: bool,
}

/// A path, or what is below it and named by no rule.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    path: &'a Path,
    below: bool,
}

impl Rules {
    /// The set of `rules`.
    ///
    /// # Errors
    /// A target is not absolute, contains `..` or a zero byte; or there are too many.
    pub fn new(rules: &[ScopeRule]) -> Result<Self, RuleError> {
        let rules = rules.iter().map(|rule| {
            let ScopeRule { target, permission, recursive } = rule;
            Ok(Rule { target: plain(target)?, permission: *permission, recursive: *recursive })
        });
        Self(rules.collect::<Result<_, _>>()?).checked()
    }

    /// The same set with each target replaced by what `canonical` says.
    pub(crate) fn map_targets(self, canonical: impl Fn(&Path) -> PathBuf) -> Self {
        let each = |rule: Rule| Rule { target: canonical(&rule.target), ..rule };
        Self(self.0.into_iter().map(each).collect())
    }

    /// The same verdicts without the rights that a wider rule gives as well. What such a rule names may be written by whoever
    /// has the wider one: as a link, later, it would name something else. Denies stay, whatever they deny.
    pub(crate) fn without_needless(mut self) -> Self {
        let mut at = 0;
        while let Some(rule) = self.0.get(at).cloned() {
            let mut rest = self.clone();
            rest.0.remove(at);
            let is_needless = rule.permission != Permission::Deny
                && [rule.place(false), rule.place(true)].into_iter().all(|place| rest.of(place) == self.of(place));
            // One that was needed beside it may be needless now.
            if is_needless { (self, at) = (rest, 0) } else { at += 1 }
        }
        self
    }

    pub(crate) fn from_parts(parts: impl IntoIterator<Item = Rule>) -> Self {
        Self(parts.into_iter().collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// The rules, as they travel.
    pub fn to_wire(&self) -> Vec<ScopeRule> {
        let wire = |rule: &Rule| ScopeRule {
            target: rule.target.to_string_lossy().into_owned().into(),
            permission: rule.permission,
            recursive: rule.recursive,
        };
        self.0.iter().map(wire).collect()
    }

    /// Whether there is no rule, so that everything is denied.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How `path` may be used; it must be absolute and without `..`, as `plain` makes it.
    pub fn at(&self, path: &Path) -> Permission {
        self.of(Place { path, below: false })
    }

    /// How what is below `path` may be used, where no rule says more.
    pub(crate) fn below(&self, path: &Path) -> Permission {
        self.of(Place { path, below: true })
    }

    fn of(&self, place: Place<'_>) -> Permission {
        let covers = |rule: &&Rule| {
            if rule.recursive {
                place.path.starts_with(&rule.target)
            } else {
                !place.below && place.path == rule.target
            }
        };
        let weight =
            |rule: &&Rule| (rule.target.components().count(), !rule.recursive, std::cmp::Reverse(rule.permission));
        self.0.iter().filter(covers).max_by_key(weight).map_or(Permission::Deny, |rule| rule.permission)
    }

    /// What someone is given who asks for `asked` of these: all of it, with every deny and every narrower right that
    /// there is below.
    ///
    /// # Errors
    /// The first right that is not there.
    pub fn delegate(&self, asked: &Self) -> Result<Self, NotYours> {
        for rule in asked.0.iter().filter(|rule| rule.permission != Permission::Deny) {
            for place in rule.places() {
                let (wanted, has) = (rule.permission, self.of(place));
                // Another rule of what is asked for may ask for less at the same place.
                if has < wanted.min(asked.of(place)) {
                    return Err(NotYours { target: rule.target.clone(), wanted, has, below: place.below });
                }
            }
        }
        let mut given = asked.clone();
        for own in &self.0 {
            for place in [own.place(false), own.place(true)] {
                let allowed = self.of(place);
                if given.of(place) > allowed {
                    given.0.push(Rule { target: own.target.clone(), permission: allowed, recursive: place.below });
                }
            }
        }
        debug_assert!(given.exceeds(self).is_none(), "{given:?} is more than {self:?}");
        Ok(given)
    }

    /// The same rights, for reading only.
    pub fn readable(&self) -> Self {
        let lowered = |rule: &Rule| Rule { permission: rule.permission.min(Permission::Read), ..rule.clone() };
        Self(self.0.iter().map(lowered).collect())
    }

    /// A path that both may write, if there is one.
    pub fn overlap(&self, other: &Self) -> Option<PathBuf> {
        let both = |place: &Place<'_>| self.of(*place) == Permission::Write && other.of(*place) == Permission::Write;
        self.places().chain(other.places()).find(both).map(|place| place.path.to_owned())
    }

    /// Whether anything may be written.
    pub fn writes(&self) -> bool {
        self.places().any(|place| self.of(place) == Permission::Write)
    }

    /// A path for which these allow more than `other`.
    pub(crate) fn exceeds(&self, other: &Self) -> Option<PathBuf> {
        let more = |place: &Place<'_>| self.of(*place) > other.of(*place);
        self.places().chain(other.places()).find(more).map(|place| place.path.to_owned())
    }

    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.0.iter().flat_map(|rule| [rule.place(false), rule.place(true)])
    }

    /// LIMIT: what fits into one delegation; each check compares all pairs.
    pub(crate) fn checked(self) -> Result<Self, RuleError> {
        match self.0.get(SCOPE_RULES_MAX) {
            None => Ok(self),
            Some(rule) => Err(RuleError {
                target: rule.target.display().to_string(),
                fault: "it is one rule too many",
                remedy: format!(
                    "at most {SCOPE_RULES_MAX} make a scope, those that are kept from the parent's included"
                ),
            }),
        }
    }
}

impl Rule {
    fn place(&self, below: bool) -> Place<'_> {
        Place { path: &self.target, below }
    }

    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        [self.place(false), self.place(true)].into_iter().take(if self.recursive { 2 } else { 1 })
    }
}

/// `text` as a path that can be compared: absolute, without `.` and empty parts.
///
/// # Errors
/// It is not absolute, or contains `..` or a zero byte.
pub(crate) fn plain(text: &str) -> Result<PathBuf, RuleError> {
    let fault = if text.contains('\0') {
        "it contains a zero byte"
    } else if !text.starts_with('/') {
        "it is not absolute"
    } else if Path::new(text).components().any(|part| part == Component::ParentDir) {
        "it contains `..`"
    } else {
        return Ok(Path::new(text).components().collect());
    };
    let remedy = "write the whole path, beginning with `/`".to_owned();
    Err(RuleError { target: crate::protocol::clip(text, 200).into_owned(), fault, remedy })
}

fn what_there_is(has: Permission, below: bool) -> String {
    let place = if below { "what is below it" } else { "it" };
    match has {
        Permission::Deny => format!("has no right to {place}"),
        has => format!("may only {has} {place}"),
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, rule) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let below = if rule.recursive { "" } else { " (alone)" };
            write!(f, "{comma}{} `{}`{below}", rule.permission, rule.target.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
