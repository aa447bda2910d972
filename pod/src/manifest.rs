//! What a pod is configured to be.
//!
//! TOML. A key that is not known is an error that names it, its line and the key that was probably meant; nothing is
//! ignored, so that a typing error never becomes a silent default. Reads no file but the one it is given.
//!
//! Read by `cli` and `spawn`, kept beside the store.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::id::PodName;
use crate::registry::TreeLimits;
use crate::scope::{Confinement, Permission, Rules, ScopeRule};
use crate::store::{Durability, Lifetime, Restart, RestartWhen};

/// LIMIT: the size of a manifest, in bytes. What is written by hand has a few hundred; one that is kept for a pod that follows a
/// script holds all of that.
const BYTES_MAX: u64 = 256 * 1024;

/// What a pod is configured to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The pod itself.
    pub pod: PodSection,
    /// What it hosts.
    pub worker: WorkerSpec,
    /// What it may use up.
    #[serde(default)]
    pub limits: Limits,
    /// What it may read and write; what its user may, if nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<ScopeEntry>,
    /// What is to be done with children that `pod run` is told to start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub child: Vec<ChildEntry>,
}

/// The pod itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodSection {
    /// What people call it.
    pub name: PodName,
    /// When an ack may be given.
    #[serde(default)]
    pub durability: Durability,
    /// Where its process runs; where it is started, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// How the programs that it and its children run are confined to their scopes.
    #[serde(default, with = "words")]
    pub confinement: Confinement,
}

/// One right, of the pod itself or of a child that it is started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeEntry {
    /// An absolute path.
    pub target: String,
    /// `read`, `write` (and read), or `deny`.
    #[serde(with = "words")]
    pub permission: Permission,
    /// Whether everything below it is meant, too; so it is if nothing is said.
    #[serde(default = "yes")]
    pub recursive: bool,
    /// The child that is given it; the pod itself, if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<PodName>,
}

/// What `pod run` is to do with one of its children.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChildEntry {
    /// Which.
    pub name: PodName,
    /// `tied`: it ends with its parent; so it is if nothing is said. `detached`: it goes on when its parent's process is gone.
    #[serde(default = "tied", with = "words")]
    pub lifetime: Lifetime,
    /// Whether it is started again when it has ended.
    #[serde(default)]
    pub restart: RestartEntry,
}

/// Whether a child is started again when it has ended, as a manifest, a script and a tool say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestartEntry {
    /// `temporary`: never. `transient`: if it did not say that it shuts down. `permanent`: always.
    #[serde(with = "words")]
    pub when: RestartWhen,
    /// How many restarts there may be within `within_seconds`; with the next end it stays ended, and its parent is told.
    pub max: u32,
    /// The time in which restarts are counted, in seconds; a week at most.
    pub within_seconds: u64,
}

/// LIMIT: a week. Whoever ends less often than so many times in one is not counted out.
const WITHIN_SECONDS_MAX: u64 = 7 * 24 * 3600;
/// LIMIT: as many restarts as lives of children that a store keeps.
const RESTARTS_MAX: u32 = 1024;

impl Default for RestartEntry {
    fn default() -> Self {
        let Restart { when, max, within_ms } = Restart::default();
        Self { when, max, within_seconds: within_ms / 1000 }
    }
}

impl RestartEntry {
    /// The policy.
    ///
    /// # Errors
    /// What is out of its bounds, and what they are.
    pub fn policy(self) -> Result<Restart, String> {
        let Self { when, max, within_seconds } = self;
        if !(1..=RESTARTS_MAX).contains(&max) {
            return Err(format!("{max} restarts are not possible; 1 to {RESTARTS_MAX} are, or `temporary` for none"));
        }
        if !(1..=WITHIN_SECONDS_MAX).contains(&within_seconds) {
            return Err(format!(
                "restarts cannot be counted within {within_seconds} s; 1 to {WITHIN_SECONDS_MAX} are possible"
            ));
        }
        Ok(Restart { when, max, within_ms: within_seconds.saturating_mul(1000) })
    }
}

pub(crate) fn tied() -> Lifetime {
    Lifetime::Tied
}

impl From<&ScopeRule> for ScopeEntry {
    /// A right of the pod itself.
    fn from(rule: &ScopeRule) -> Self {
        let (permission, recursive) = (rule.permission, rule.recursive);
        Self { target: rule.target.to_string(), permission, recursive, child: None }
    }
}

/// What a pod hosts: the kind of its worker, and the table that this kind reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerSpec {
    /// Which worker; `host` knows them by this name.
    pub kind: String,
    /// What that worker is told. Checked by the worker itself, which alone knows its keys.
    #[serde(flatten)]
    pub table: toml::Table,
}

/// What a pod may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How many children may live at once, 1 to 10 000. Its descendants may have as many each.
    pub children: u32,
    /// How deep the tree below may become, 0 to 64.
    pub depth: u32,
    /// How many pods of the tree may live at once, itself included, 1 to 100 000.
    pub pods: u32,
    /// How many pods the tree may start in a minute, and so many at once, up to 1 000 000; 0 for no bound.
    pub spawns_per_minute: u32,
    /// How many turns the pods of the tree may start, all together and over all lives of its root; 0 for no bound. One that goes on
    /// with a paused turn counts, one that makes the context shorter does not.
    pub turns: u64,
    /// How long after its root was started the tree may start pods and turns, in seconds; 0 for no bound. A turn that runs then is
    /// asked to end, and ends as one that has reached a limit.
    pub tree_seconds: u64,
    /// The longest turn of this pod, in seconds; 0 for no bound. One that takes longer is asked to end, and ends as one that has reached
    /// a limit.
    pub turn_seconds: u64,
    /// How often a report may be part of a failing turn before the pod is blocked, 1 to 100.
    pub attempts: u32,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("failed to read manifest `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than any manifest.
    #[error("manifest `{}` has more than {max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How large it may be.
        max: u64,
    },
    /// A key is not known.
    #[error("{place}: unknown key `{key}`{}; known here: {}", suggestion(key, known), known.join(", "))]
    UnknownKey {
        /// The file and the line.
        place: String,
        /// The key.
        key: String,
        /// The keys that are known there.
        known: Vec<String>,
    },
    /// A value is not what its key takes, or the text is no TOML.
    #[error("{place}: {reason}")]
    Invalid {
        /// The file and the line.
        place: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

impl Default for Limits {
    fn default() -> Self {
        // LIMIT: far more pods than anyone means, and fewer than a user may usually have processes. How fast and how long a
        // tree may grow depends on what its pods cost: whoever pays for them says so.
        let (spawns_per_minute, turns, tree_seconds) = (0, 0, 0);
        Self {
            children: 1000,
            depth: 32,
            pods: 4096,
            spawns_per_minute,
            turns,
            tree_seconds,
            turn_seconds: 0,
            attempts: 5,
        }
    }
}

impl Manifest {
    /// The manifest in the file `path`.
    ///
    /// # Errors
    /// Names the file, the line, what is wrong there and what would be right.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        use std::io::Read as _;
        let error = |source| ManifestError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(error)?;
        file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(error)?;
        if text.len() as u64 > BYTES_MAX {
            return Err(ManifestError::TooLarge { path: path.to_owned(), max: BYTES_MAX });
        }
        Self::parse(&text, &path.display().to_string())
    }

    /// The manifest that `text` is; `source` says in errors where it came from.
    ///
    /// # Errors
    /// Names `source`, the line, what is wrong there and what would be right.
    pub fn parse(text: &str, source: &str) -> Result<Self, ManifestError> {
        let manifest: Self = from_toml(text, source)?;
        manifest.limits.check(source)?;
        for entry in &manifest.child {
            entry.restart.policy().map_err(|reason| ManifestError::Invalid {
                place: format!("{source}, [[child]] `{}`", entry.name),
                reason,
            })?;
        }
        for entry in &manifest.scope {
            Rules::new(&[entry.rule()]).map_err(|error| ManifestError::Invalid {
                place: format!("{source}, [[scope]]"),
                reason: error.to_string(),
            })?;
        }
        Ok(manifest)
    }

    /// Writes the manifest to the file `path`, so that it is there, whole, after a power failure, too.
    ///
    /// # Errors
    /// If it cannot be written; what was there before is then still there.
    pub fn keep(&self, path: &Path) -> std::io::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let text = self.to_toml().map_err(std::io::Error::other)?;
        if std::fs::read_to_string(path).is_ok_and(|kept| kept == text) {
            return Ok(());
        }
        let draft = path.with_extension("new");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        // The name, too, is to last.
        path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
    }

    /// The manifest as TOML, as [`Manifest::parse`] reads it.
    ///
    /// # Errors
    /// If the worker's table holds what TOML cannot say.
    pub fn to_toml(&self) -> Result<String, ManifestError> {
        toml::to_string(self)
            .map_err(|error| ManifestError::Invalid { place: self.pod.name.to_string(), reason: error.to_string() })
    }
}

impl WorkerSpec {
    /// The worker `kind`, told nothing.
    pub fn of_kind(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), table: toml::Table::new() }
    }

    /// The worker's table as the type that the worker reads. Give it `deny_unknown_fields`.
    ///
    /// # Errors
    /// Names the key that is wrong, and what would be right.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, ManifestError> {
        let place = || format!("worker `{}`", self.kind);
        T::deserialize(self.table.clone()).map_err(|error| explain(&place(), error.message()))
    }
}

impl ScopeEntry {
    /// The rule.
    pub fn rule(&self) -> ScopeRule {
        ScopeRule { target: self.target.as_str().into(), permission: self.permission, recursive: self.recursive }
    }
}

impl Limits {
    /// The bounds that the whole tree shares.
    pub(crate) fn tree(self) -> TreeLimits {
        let Self { children, depth, pods, spawns_per_minute, turns, tree_seconds, .. } = self;
        TreeLimits { depth, pods, children, spawns_per_minute, turns, seconds: tree_seconds }
    }

    fn check(self, source: &str) -> Result<(), ManifestError> {
        let within = |key: &str, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            let reason = format!("limits.{key} is {value}; {min} to {max} are allowed");
            Err(ManifestError::Invalid { place: source.to_owned(), reason })
        };
        within("children", self.children, 1, 10_000)?;
        within("depth", self.depth, 0, 64)?;
        within("pods", self.pods, 1, 100_000)?;
        within("spawns_per_minute", self.spawns_per_minute, 0, 1_000_000)?;
        within("attempts", self.attempts, 1, 100)
    }
}

fn yes() -> bool {
    true
}

/// Values that stand in a manifest as words of their own.
pub(crate) mod words {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::scope::{Confinement, Permission};
    use crate::store::{Lifetime, RestartWhen};

    pub(crate) trait Word: Sized + Copy {
        const ALL: &'static [&'static str];
        fn from(word: &str) -> Option<Self>;
        fn word(self) -> &'static str;
    }

    impl Word for Permission {
        const ALL: &'static [&'static str] = &["read", "write", "deny"];

        fn from(word: &str) -> Option<Self> {
            Self::from_word(word)
        }

        fn word(self) -> &'static str {
            self.word()
        }
    }

    impl Word for Confinement {
        const ALL: &'static [&'static str] = &["off", "best-effort", "required"];

        fn from(word: &str) -> Option<Self> {
            Self::from_word(word)
        }

        fn word(self) -> &'static str {
            self.word()
        }
    }

    impl Word for Lifetime {
        const ALL: &'static [&'static str] = &["tied", "detached"];

        fn from(word: &str) -> Option<Self> {
            [Self::Tied, Self::Detached].into_iter().find(|lifetime| lifetime.word() == word)
        }

        fn word(self) -> &'static str {
            self.word()
        }
    }

    impl Word for RestartWhen {
        const ALL: &'static [&'static str] = &["temporary", "transient", "permanent"];

        fn from(word: &str) -> Option<Self> {
            [Self::Never, Self::OnFailure, Self::Always].into_iter().find(|when| Word::word(*when) == word)
        }

        fn word(self) -> &'static str {
            crate::protocol::RestartKind::from(self).word()
        }
    }

    pub(crate) fn serialize<S: Serializer, W: Word>(value: &W, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.word())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, W: Word>(deserializer: D) -> Result<W, D::Error> {
        let word = String::deserialize(deserializer)?;
        W::from(&word).ok_or_else(|| D::Error::unknown_variant(&word, W::ALL))
    }
}

/// Any configuration of ours, with errors as a manifest's: place, key, suggestion.
///
/// # Errors
/// Names `source`, the line, what is wrong there and what would be right.
pub fn from_toml<T: serde::de::DeserializeOwned>(text: &str, source: &str) -> Result<T, ManifestError> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let place = match before {
            Some(before) => format!("{source}, line {}", before.matches('\n').count() + 1),
            None => source.to_owned(),
        };
        explain(&place, error.message())
    })
}

/// What serde says about an unknown key, taken apart: which, and which there are.
pub(crate) fn explain(place: &str, message: &str) -> ManifestError {
    let mut quoted = message.split('`').skip(1).step_by(2).map(str::to_owned);
    let (key, word) = (message.starts_with("unknown field"), message.starts_with("unknown variant"));
    match (key, quoted.next()) {
        (true, Some(key)) => ManifestError::UnknownKey { place: place.to_owned(), key, known: quoted.collect() },
        (_, first) => {
            let known: Vec<String> = if word { quoted.collect() } else { Vec::new() };
            let hint = first.map_or_else(String::new, |first| suggestion(&first, &known));
            let reason = format!("{}{hint}", message.replace('\n', " "));
            ManifestError::Invalid { place: place.to_owned(), reason }
        }
    }
}

/// ", did you mean ..", if a known key is near.
fn suggestion(key: &str, known: &[String]) -> String {
    let near = known.iter().map(|known| (distance(key, known), known)).min();
    match near {
        Some((far, known)) if far <= 1 + known.len() / 3 => format!(", did you mean `{known}`?"),
        _ => String::new(),
    }
}

/// How many characters must be changed, added or left out to make `a` of `b` (Levenshtein 1965).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let change = row.get(j).copied().unwrap_or(0) + usize::from(x != *y);
            let add = next.last().copied().unwrap_or(0) + 1;
            let leave = row.get(j + 1).copied().unwrap_or(0) + 1;
            next.push(change.min(add).min(leave));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
[pod]
name = \"reviewer\"
durability = \"power\"

[worker]
kind = \"command\"
program = \"git log\"

[limits]
children = 4
turns = 50
";

    #[track_caller]
    fn refused(text: &str, words: &[&str]) {
        let error = Manifest::parse(text, "pod.toml").unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    }

    #[test]
    fn manifest_reads_as_it_is_written() {
        let manifest = Manifest::parse(GOOD, "pod.toml").unwrap();
        assert_eq!(manifest.pod.name.as_str(), "reviewer");
        assert_eq!(manifest.pod.durability, Durability::Power);
        assert_eq!((manifest.limits.children, manifest.limits.attempts), (4, 5));
        assert_eq!(manifest.limits.tree().turns, 50);
        assert_eq!(manifest.worker.table["program"].as_str(), Some("git log"));
        assert_eq!(Manifest::parse(&manifest.to_toml().unwrap(), "again").unwrap(), manifest);
    }

    #[test]
    fn manifest_that_is_kept_reads_as_it_was_and_a_later_one_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.toml");
        let mut manifest = Manifest::parse(GOOD, "pod.toml").unwrap();
        manifest.keep(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
        manifest.pod.directory = Some("/tmp".into());
        manifest.keep(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a draft is left");
        assert!(manifest.keep(&dir.path().join("no/such/place")).is_err());
    }

    #[test]
    fn unknown_key_is_named_with_its_line_and_the_nearest_one() {
        refused(&GOOD.replace("children", "childs"), &["pod.toml, line 11", "`childs`", "did you mean `children`?"]);
        refused(&GOOD.replace("name", "nane"), &["pod.toml, line 3", "`nane`", "did you mean `name`?"]);
        refused(&GOOD.replace("[limits]", "[limit]"), &["pod.toml, line 10", "`limit`", "did you mean `limits`?"]);
    }

    #[test]
    fn child_is_kept_as_its_entry_says_and_what_is_wrong_in_it_is_named() {
        let entry = "[[child]]\nname = \"a\"\nlifetime = \"detached\"\nrestart = { when = \"transient\", max = 5 }\n";
        let text = format!("{GOOD}{entry}");
        let manifest = Manifest::parse(&text, "pod.toml").unwrap();
        let child = &manifest.child[0];
        assert_eq!(child.lifetime, Lifetime::Detached);
        let policy = Restart { when: RestartWhen::OnFailure, max: 5, within_ms: 60_000 };
        assert_eq!(child.restart.policy(), Ok(policy));
        assert_eq!(Manifest::parse(&manifest.to_toml().unwrap(), "again").unwrap(), manifest);
        refused(&text.replace("lifetime", "lifetme"), &["line ", "`lifetme`", "did you mean `lifetime`?"]);
        refused(&text.replace("detached", "detatched"), &["`detatched`", "did you mean `detached`?"]);
        refused(&text.replace("transient", "transcient"), &["did you mean `transient`?"]);
        refused(&text.replace("when", "wehn"), &["`wehn`", "did you mean `when`?"]);
        refused(&text.replace("max = 5", "max = 0"), &["[[child]] `a`", "0 restarts", "temporary"]);
        refused(&text.replace("max = 5", "within_seconds = 0"), &["within 0 s", "604800"]);
    }

    #[test]
    fn key_that_is_near_none_gets_the_list_and_no_guess() {
        let error = Manifest::parse(&GOOD.replace("children", "zebra"), "pod.toml").unwrap_err().to_string();
        assert!(!error.contains("did you mean") && error.contains("known here: children, depth"), "{error}");
    }

    #[test]
    fn wrong_values_are_named_with_what_would_be_right() {
        refused(&GOOD.replace("reviewer", "Re/viewer"), &["line 3", "Re/viewer", "a-z, 0-9"]);
        refused(&GOOD.replace("power", "always"), &["line 4", "always", "process", "power"]);
        refused(&GOOD.replace("children = 4", "children = 0"), &["limits.children is 0", "1 to 10000"]);
        refused(&GOOD.replace("kind = \"command\"", ""), &["kind"]);
        refused("[pod", &["pod.toml, line 1"]);
    }

    #[test]
    fn worker_reads_its_own_table_with_the_same_errors() {
        #[derive(Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        struct Command {
            program: String,
        }
        let manifest = Manifest::parse(GOOD, "pod.toml").unwrap();
        assert_eq!(manifest.worker.read::<Command>().unwrap().program, "git log");
        let wrong = Manifest::parse(&GOOD.replace("program", "progam"), "pod.toml").unwrap();
        let error = wrong.worker.read::<Command>().unwrap_err().to_string();
        for word in ["worker `command`", "`progam`", "did you mean `program`?"] {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    }
}
