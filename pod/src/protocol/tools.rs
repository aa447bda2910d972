//! What an agent does with its children: start them, send to them, read what they produced, stop them, list them.
//!
//! An ack says what was done; a rejection says why nothing was, in words that an agent can act on. Each is at once the
//! answer of a method and the result of a tool: there is one set of words for both.
//!
//! Carried out by `tools`; asked by agents in their turns, and by people through `cli`. [`SendToPod`] is asked of the pod that
//! is to be told, the others of its parent.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{PodId, PodName, TurnId, WorkId};
use crate::protocol::work::{TurnCap, busy};
use crate::protocol::{PodState, RUN_INPUT_BYTES_MAX, SCOPE_RULES_MAX, Text};
use crate::scope::{Permission, ScopeRule};

/// LIMIT: a child's worker as JSON, in bytes: a script, too, with room in the frame for the child's first input.
pub const WORKER_BYTES_MAX: usize = 128 * 1024;
/// LIMIT: what a dead child is quoted with, in bytes.
pub const QUOTE_BYTES_MAX: usize = 2048;
/// LIMIT: output in one page, in bytes. A page is part of an agent's context.
pub const OUTPUT_PAGE_BYTES_MAX: usize = 48 * 1024;
/// LIMIT: entries in one page.
pub const OUTPUT_ENTRIES_MAX: usize = 256;
/// LIMIT: pods in one page of a list.
pub const PODS_PAGE_MAX: usize = 100;
/// LIMIT: the path of a right that is refused, in bytes: as long as the system takes any.
pub const RIGHT_PATH_BYTES_MAX: usize = 4096;
/// LIMIT: names that stand beside one that is unknown.
pub const NAMES_BESIDE_MAX: usize = 8;

/// Start a child. Acked when it is ready and, if it was given an input, has taken that on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 30, ack = Spawned, rejection = SpawnRejection, ack_bytes_max = 8192)]
pub struct SpawnPod {
    /// Its name.
    pub name: PodName,
    /// What it hosts, as JSON: `{"kind": ..}` and what that kind is told.
    pub worker: Text<WORKER_BYTES_MAX>,
    /// What it is to do first.
    pub input: Option<Text<RUN_INPUT_BYTES_MAX>>,
    /// What it is given of its parent's scope.
    pub scope: rpc::List<ScopeRule, SCOPE_RULES_MAX>,
    /// Whether it goes on when its parent's process is gone.
    pub detached: bool,
    /// Whether it is started again when it has ended.
    pub restart: RestartPolicy,
}

/// Whether, and how often, a child is started again when it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct RestartPolicy {
    /// After which ends.
    pub kind: RestartKind,
    /// How many restarts there may be within `within_ms`; with the next end it stays ended, and its parent is told.
    pub max: u32,
    /// The time in which restarts are counted, in milliseconds.
    pub within_ms: u64,
}

/// After which ends a child is started again, in the words of those who supervise processes. Never after one that its parent
/// wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "snake_case")]
pub enum RestartKind {
    /// After none.
    #[default]
    Temporary,
    /// If it did not say that it shuts down.
    Transient,
    /// Also if it shut down.
    Permanent,
}

/// How a child is kept: whether it ends with its parent, and whether it is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Kept {
    /// Whether it goes on when its parent's process is gone.
    pub detached: bool,
    /// After which ends it is started again.
    pub restart: RestartKind,
    /// How often it was, as far as its parent still knows its lives.
    pub restarts: u32,
}

/// A child is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Spawned {
    /// Which life.
    pub pod: PodId,
    /// Its process.
    pub pid: Option<u32>,
    /// What it was given to do.
    pub work: Option<WorkId>,
    /// Why it was given nothing although there was an input. It is ready all the same.
    pub not_given: Option<Text<512>>,
}

/// Why no child was started. Nothing is left of it but what it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum SpawnRejection {
    /// Another pod has the name.
    #[error("the name `{name}` is taken: {holder}; choose another name, or stop that pod")]
    NameTaken {
        /// The name.
        name: PodName,
        /// Who has it.
        holder: Text<256>,
    },
    /// Too many children live.
    #[error("{max} children live already; stop one first")]
    TooMany {
        /// How many may.
        max: u32,
    },
    /// The description of the worker is wrong.
    #[error("the worker of `{name}` is not valid: {reason}")]
    Worker {
        /// The child.
        name: PodName,
        /// What is wrong, and what would be right.
        reason: Text<1024>,
    },
    /// Its process ended before it was ready.
    #[error("`{name}` ended before it was ready: {how}{}", quoted(stderr))]
    Exited {
        /// The child.
        name: PodName,
        /// How it ended.
        how: Text<256>,
        /// What it said last.
        stderr: Text<QUOTE_BYTES_MAX>,
    },
    /// It was not ready in time, and was stopped.
    #[error("`{name}` was not ready within {limit_ms} ms and was stopped{}", quoted(stderr))]
    TimedOut {
        /// The child.
        name: PodName,
        /// How long it had.
        limit_ms: u64,
        /// What it said last.
        stderr: Text<QUOTE_BYTES_MAX>,
    },
    /// The parent is stopping.
    #[error("the pod is stopping and starts no children")]
    Stopping,
    /// It may not, or cannot; the reason says what would help.
    #[error("`{name}` was not started: {reason}")]
    Refused {
        /// The child.
        name: PodName,
        /// Why.
        reason: Text<1024>,
    },
    /// A bound of the whole tree is reached.
    #[error("`{name}` was not started: {cap}")]
    Cap {
        /// The child.
        name: PodName,
        /// Which.
        cap: SpawnCap,
    },
    /// Another pod may write where it is to.
    #[error(
        "`{name}` was not started: `{path}` is being written by pod `{holder}`: wait for its end, or ask for another place or for reading"
    )]
    Overlap {
        /// The child.
        name: PodName,
        /// Where.
        path: Text<RIGHT_PATH_BYTES_MAX>,
        /// By whom.
        holder: PodName,
    },
    /// The parent does not have what it would give.
    #[error("`{name}` was not started: {reason}")]
    NotGiven {
        /// The child.
        name: PodName,
        /// The target of the rule.
        path: Text<RIGHT_PATH_BYTES_MAX>,
        /// What was asked for.
        wanted: Permission,
        /// What the parent has there.
        has: Permission,
        /// The same in words, with what would help.
        reason: Text<1024>,
    },
    /// A rule of its scope is none.
    #[error("`{name}` was not started: {reason}")]
    Rule {
        /// The child.
        name: PodName,
        /// What is wrong with which, and what would be right.
        reason: Text<1024>,
    },
    /// Its programs cannot be confined as far as they must be.
    #[error("`{name}` was not started: {reason}")]
    Confinement {
        /// The child.
        name: PodName,
        /// What is missing, and what to do.
        reason: Text<1024>,
    },
    /// The pod of that name is another one's child, or a root. It was not touched.
    #[error("the name `{name}` is another pod's: {owner}")]
    NotOurs {
        /// The child.
        name: PodName,
        /// Whose it is, and what to do.
        owner: Text<512>,
    },
}

/// A bound of the whole tree, beyond which its pods start no child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum SpawnCap {
    /// The child would be too deep.
    #[error("the tree may be {max} deep (`limits.depth` of its root)")]
    Depth {
        /// How deep it may be.
        max: u32,
    },
    /// Too many pods live.
    #[error("{max} pods of the tree live already (`limits.pods` of its root); wait for the end of one, or stop one")]
    Pods {
        /// How many may.
        max: u32,
    },
    /// Too many were started of late.
    #[error(
        "the tree may start {max} pods in a minute (`limits.spawns_per_minute` of its root); the next one in {retry_after_ms} ms"
    )]
    SpawnRate {
        /// How many may be, in a minute.
        max: u32,
        /// When there is room for one.
        retry_after_ms: u64,
    },
    /// Its time is over.
    #[error("the tree has had its {max_seconds} s (`limits.tree_seconds` of its root); start a new one, or raise it")]
    WallTime {
        /// How long it had.
        max_seconds: u64,
    },
}

/// Tell a pod something, in one of three ways that are never mistaken for each other.
///
/// What happens depends on what the pod does at that moment, which it alone knows; see the table at [`SendKind`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 31, ack = Sent, rejection = SendRejection)]
pub struct SendToPod {
    /// Chosen by the sender: the same key again does it once. It is the [`WorkId`] of what is staged.
    pub key: WorkId,
    /// In which way.
    pub how: SendKind,
    /// What. Empty only for an interrupt that leaves nothing to do.
    pub text: Text<RUN_INPUT_BYTES_MAX>,
}

/// In which way a pod is told something.
///
/// | the pod is | `Steer` | `FollowUp` | `Interrupt` |
/// |---|---|---|---|
/// | idle | a turn starts for it | a turn starts with it | as a follow-up; without text, refused |
/// | running | part of the turn's next request | staged; starts when the turn has ended | the turn is cancelled; then as a follow-up |
/// | paused | kept until it is resumed | refused: resume it first, or interrupt | what was paused is given up; then as a follow-up |
/// | blocked | kept until it is not | lifts the block; a turn starts with it | as a follow-up; without text, refused |
/// | stopping | kept for its next life | refused | refused; without text, its last turn is cancelled |
///
/// An agent that reads no reports (a command) is never told a `Steer`: it stands in its history, and the ack says so.
/// A follow-up behind a turn that is then paused waits until that one is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "snake_case")]
pub enum SendKind {
    /// Know this, in the turn that runs.
    Steer,
    /// Do this afterwards.
    FollowUp,
    /// Stop what you do, and do this.
    Interrupt,
}

/// What became of it: committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "snake_case")]
pub enum Sent {
    /// It is in the pod's inbox.
    Steered {
        /// When the agent is told.
        told: Told,
    },
    /// It is staged as a turn.
    Staged {
        /// Which turn it will be.
        turn: TurnId,
        /// Which work it is.
        work: WorkId,
        /// The turn that runs and ends first.
        behind: Option<TurnId>,
        /// Other work that was staged before and comes first.
        ahead: u64,
    },
    /// The turn was told to end.
    Interrupted {
        /// Which; none, if nothing ran any more.
        turn: Option<TurnId>,
        /// The turn with what was sent, and how much other work comes first.
        next: Option<Next>,
    },
}

/// What an interrupted pod does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Next {
    /// The turn with what was sent.
    pub turn: TurnId,
    /// The work that it is.
    pub work: WorkId,
    /// Other work that was staged before and comes first.
    pub ahead: u64,
}

/// When an agent is told what it was steered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// With the next request of this turn, or, if that makes none any more, of the turn that starts behind it.
    NextRequest {
        /// Which; 0 if it is just beginning.
        turn: TurnId,
    },
    /// In a turn that starts for it.
    NewTurn,
    /// When the pod starts turns again.
    Later {
        /// What it does meanwhile.
        state: PodState,
    },
    /// Never: the worker reads no reports. It stands in the history.
    Recorded,
}

/// Why nothing was sent. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum SendRejection {
    /// There is no such pod to send to.
    #[error("{0}")]
    Target(TargetFault),
    /// The pod is paused.
    #[error("the pod is paused, and follow-ups wait for turns that run: resume it first, or interrupt it instead")]
    Paused,
    /// Nothing runs that could be interrupted, and nothing is to be done instead.
    #[error("no turn runs that could be interrupted; to give it work, send a text")]
    NothingToInterrupt,
    /// The worker is needed for something else at this moment.
    #[error("{}; try again in a moment", busy(*turn))]
    Busy {
        /// The turn; 0 if none is.
        turn: TurnId,
    },
    /// Too much is staged, or waits in the inbox.
    #[error("{max} are waiting already; wait until it has done some of them")]
    Full {
        /// How many may.
        max: u32,
    },
    /// The text is of no use.
    #[error("the text is not valid: {reason}")]
    Invalid {
        /// Why.
        reason: Text<256>,
    },
    /// The pod is stopping.
    #[error("the pod is stopping")]
    Stopping,
    /// Whether it arrived is not known; the work stays open until the pod reports or ends.
    #[error(
        "whether `{key}` arrived is unknown ({cause}); it is settled by the pod's reports or its end: look with ListPods before you send it again"
    )]
    Unknown {
        /// The work.
        key: WorkId,
        /// Why it is not known.
        cause: Text<256>,
    },
    /// It could not be delivered or committed.
    #[error("not sent: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
    /// A bound of the whole tree is reached: nothing is staged, and nothing was interrupted.
    #[error("no turn is started: {cap}")]
    Cap {
        /// Which.
        cap: TurnCap,
    },
}

/// Read what a child has produced, dead or alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 32, ack = OutputPage, rejection = ReadRejection, ack_bytes_max = 262144)]
pub struct ReadPodOutput {
    /// Whose.
    pub pod: PodName,
    /// From where.
    pub from: OutputCursor,
    /// If `from` is the beginning: from this turn on.
    pub turn: Option<TurnId>,
    /// How much text; between 256 and 48 Ki.
    pub bytes_max: u32,
}

/// A place in a history, which only grows: it stays good through compactions, rewinds and restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct OutputCursor {
    /// The first entry that was not read whole.
    pub entry: u64,
    /// How much of its text was.
    pub byte: u32,
}

/// What a child has produced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct OutputPage {
    /// Whose.
    pub pod: PodName,
    /// Oldest first.
    pub entries: rpc::List<OutputEntry, OUTPUT_ENTRIES_MAX>,
    /// From where to read on.
    pub next: OutputCursor,
    /// Whether there is more already.
    pub more: bool,
    /// Whether the pod lives, and may produce more.
    pub live: bool,
}

/// One entry of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct OutputEntry {
    /// Its place.
    pub entry: u64,
    /// When it was committed, in milliseconds since 1970.
    pub at_ms: u64,
    /// The turn in which it was.
    pub turn: Option<TurnId>,
    /// Whether it counts: false for what was rewound or rolled back since.
    pub counts: bool,
    /// What it says.
    pub what: Produced,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "snake_case")]
pub enum Produced {
    /// The worker said it.
    Text(OutputPiece),
    /// A program wrote it to its standard error.
    Stderr(OutputPiece),
    /// A turn ended.
    TurnEnded {
        /// How.
        how: Text<200>,
    },
    /// What stands from there up to this entry no longer counts, whether it was read already or not.
    Rewound {
        /// The first entry that does not.
        from: u64,
    },
}

/// A piece of text, or the part of it that fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct OutputPiece {
    /// Where it begins in the entry's text.
    pub from_byte: u32,
    /// The text.
    pub text: Text<OUTPUT_PAGE_BYTES_MAX>,
    /// Whether the entry ends here; else the next page begins where this ends.
    pub whole: bool,
}

/// Why nothing was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum ReadRejection {
    /// There is no such pod to read from.
    #[error("{0}")]
    Target(TargetFault),
    /// The cursor is none of this history.
    #[error(
        "the cursor names a place that is not in this history, which ends with entry {head}; leave it out to begin anew"
    )]
    BadCursor {
        /// The newest entry.
        head: u64,
    },
    /// The turn has not begun.
    #[error("there is no turn {turn} in this history; leave it out to begin with the first")]
    NoSuchTurn {
        /// Which.
        turn: TurnId,
    },
    /// The store cannot be read.
    #[error("the store cannot be read: {reason}")]
    Unreadable {
        /// Why.
        reason: Text<512>,
    },
}

/// End a child, and wait until it has ended and what it had is reclaimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 33, ack = StopOutcome, rejection = StopRejection)]
pub struct StopPod {
    /// Which.
    pub pod: PodName,
    /// Cancel its turn instead of letting it end.
    pub now: bool,
    /// How long it may take before its process is signalled, in milliseconds; at most ten minutes.
    pub grace_ms: u64,
}

/// How far the end of a child has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "snake_case")]
pub enum StopOutcome {
    /// It has ended, and all that it had to tell is committed.
    Ended(Stopped),
    /// It was told to end and has not; it is not ours to signal, and goes on ending.
    StillRunning {
        /// Which life.
        pod: PodId,
        /// How long it was waited for, in milliseconds.
        waited_ms: u64,
    },
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Stopped {
    /// Which life.
    pub pod: PodId,
    /// How it ended.
    pub end: LifeEnd,
    /// Whether it had ended before it was told to.
    pub already: bool,
    /// Whether it was about to be started again by its policy, and is not.
    pub was_due: bool,
    /// Works that it had and that are lost with it.
    pub works_lost: u64,
    /// Why its last events could not be read, if so: some may be lost.
    pub unread: Option<Text<512>>,
    /// Whether its name and its rights are free again. If not, something that it had started is not proven dead, or the
    /// registry is held by another process: they come back when that is over.
    pub returned: bool,
}

/// How the life of a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
#[serde(rename_all = "snake_case")]
pub enum LifeEnd {
    /// It said so itself.
    ShutDown,
    /// Its process exited without a word.
    Exited {
        /// With this code.
        code: i32,
    },
    /// Its process was killed.
    Killed {
        /// By this signal.
        signal: i32,
    },
    /// Nobody was there to see how it ended.
    Unobserved,
    /// Its process never ran.
    NeverStarted,
}

/// Why a child was not told to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum StopRejection {
    /// There is no such child.
    #[error("{0}")]
    Target(TargetFault),
    /// The parent itself has ended meanwhile; so do its children.
    #[error("the pod itself is ending, and its children end with it")]
    Stopping,
    /// How it ended cannot be read.
    #[error("how it ended cannot be read: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
}

/// List the children, those that have ended too; of each name, the newest life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 34, ack = PodPage, rejection = ListRejection, ack_bytes_max = 131072)]
pub struct ListPods {
    /// The last name of the page before.
    pub after: Option<PodName>,
    /// How many; at most 100.
    pub max: u32,
    /// Only those that live.
    pub live_only: bool,
}

/// Children, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct PodPage {
    /// Who.
    pub pods: rpc::List<PodLine, PODS_PAGE_MAX>,
    /// Whether there are more behind the last.
    pub more: bool,
}

/// One child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct PodLine {
    /// Its newest life.
    pub pod: PodId,
    /// `starting`, `ready`, `working`, `stopping` or `ended`.
    pub phase: Text<16>,
    /// Its process.
    pub pid: Option<u32>,
    /// When that life began, in milliseconds since 1970.
    pub since_ms: u64,
    /// Works that it was given by this pod and that are open.
    pub works_open: u64,
    /// What it was given last, in short.
    pub work: Option<Text<200>>,
    /// The last event of it that is committed, in words.
    pub last_event: Option<Text<256>>,
    /// How that life ended.
    pub end: Option<LifeEnd>,
    /// Whether it ends with this pod, and whether it is started again.
    pub kept: Kept,
}

/// Why there is no list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum ListRejection {
    /// The store cannot be read.
    #[error("the list cannot be read: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
}

/// Why a name is none that something can be done to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum TargetFault {
    /// There is no pod of that name.
    #[error("there is no pod `{name}`{}", names_beside(beside))]
    Missing {
        /// The name.
        name: PodName,
        /// Children that there are.
        beside: rpc::List<PodName, NAMES_BESIDE_MAX>,
    },
    /// It is somebody else's.
    #[error("pod `{name}` is not visible from here: it is no descendant of this pod; ListPods lists those that are")]
    NotVisible {
        /// The name.
        name: PodName,
    },
    /// It is a child of a child.
    #[error("pod `{name}` is no child of this pod but of `{parent}`; ask that one to do it")]
    NotYourChild {
        /// The name.
        name: PodName,
        /// Whose it is.
        parent: PodName,
    },
    /// It does not live.
    #[error("pod `{name}` has ended ({}); restore it with AttachOrRestorePod, or read what it left with ReadPodOutput", end.map_or_else(|| "how is not known yet".to_owned(), |end| end.to_string()))]
    Ended {
        /// The name.
        name: PodName,
        /// How.
        end: Option<LifeEnd>,
    },
}

impl OutputCursor {
    /// Behind the entry `seq`.
    pub fn behind(seq: u64) -> Self {
        Self { entry: seq.saturating_add(1), byte: 0 }
    }
}

/// As agents and people write it: `41`, or `41+1024` within an entry.
impl fmt::Display for OutputCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.byte {
            0 => write!(f, "{}", self.entry),
            byte => write!(f, "{}+{byte}", self.entry),
        }
    }
}

impl std::str::FromStr for OutputCursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (entry, byte) = text.split_once('+').unwrap_or((text, "0"));
        match (entry.parse(), byte.parse()) {
            (Ok(entry), Ok(byte)) => Ok(Self { entry, byte }),
            _ => Err(format!(
                "`{}` is no cursor; give back the one that the last page ended with",
                super::clip(text, 40)
            )),
        }
    }
}

impl RestartKind {
    /// The word for it in scripts, manifests and commands.
    pub fn word(self) -> &'static str {
        match self {
            Self::Temporary => "temporary",
            Self::Transient => "transient",
            Self::Permanent => "permanent",
        }
    }
}

/// `tied` or `detached`, and what there is to say of restarts.
impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.detached { "detached" } else { "tied" })?;
        if self.restart != RestartKind::Temporary {
            write!(f, ", {}", self.restart.word())?;
        }
        match self.restarts {
            0 => Ok(()),
            1 => f.write_str(", 1 restart"),
            restarts => write!(f, ", {restarts} restarts"),
        }
    }
}

impl fmt::Display for LifeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShutDown => f.pad("it shut down"),
            Self::Exited { code } => write!(f, "it exited with code {code}, without a last word"),
            Self::Killed { signal } => write!(f, "it was killed by signal {signal}"),
            Self::Unobserved => f.pad("it ended while nobody watched"),
            Self::NeverStarted => f.pad("its process never ran"),
        }
    }
}

impl fmt::Display for Spawned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is ready", self.pod.name)?;
        match (&self.work, &self.not_given) {
            (Some(work), _) => write!(f, " and has its work, {work}"),
            (None, Some(why)) => write!(f, " and was given no work: {why}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let behind = |ahead: u64| if ahead == 0 { String::new() } else { format!(", behind {ahead} staged before") };
        match self {
            Self::Steered { told: Told::NextRequest { turn: TurnId(0) } } => {
                write!(f, "steered: it is told with the first request of the turn that is beginning")
            }
            Self::Steered { told: Told::NextRequest { turn } } => {
                write!(f, "steered: it is told with the next request of turn {turn}")
            }
            Self::Steered { told: Told::NewTurn } => write!(f, "steered: no turn ran, so one was started for it"),
            Self::Steered { told: Told::Later { state } } => {
                write!(f, "kept: it is {state}, and is told when it starts turns again")
            }
            Self::Steered { told: Told::Recorded } => {
                write!(f, "recorded: its worker reads no reports and is not told; it stands in the history")
            }
            Self::Staged { turn, behind: Some(running), ahead, .. } => {
                write!(f, "staged as turn {turn}: it starts when turn {running} has ended{}", behind(*ahead))
            }
            Self::Staged { turn, behind: None, ahead: 0, .. } => write!(f, "started as turn {turn}"),
            Self::Staged { turn, behind: None, ahead, .. } => write!(f, "staged as turn {turn}{}", behind(*ahead)),
            Self::Interrupted { turn, next } => {
                match turn {
                    Some(turn) => write!(f, "interrupted: turn {turn} is told to end")?,
                    None => write!(f, "nothing was interrupted")?,
                }
                match next {
                    Some(next) => write!(f, "; turn {} does what was sent{}", next.turn, behind(next.ahead)),
                    None => Ok(()),
                }
            }
        }
    }
}

fn quoted(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {stderr}") }
}

fn names_beside(names: &[PodName]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { String::new() } else { format!("; there are {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_reads_as_it_is_written_and_nothing_else_does() {
        for cursor in [OutputCursor::default(), OutputCursor { entry: 41, byte: 0 }, OutputCursor { entry: 7, byte: 9 }]
        {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in ["", "x", "-1", "1+", "+1", "1+2+3", "99999999999999999999999"] {
            assert!(text.parse::<OutputCursor>().is_err(), "{text}");
        }
    }
}
