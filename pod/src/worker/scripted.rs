//! A worker that does what a TOML script says: for demonstrations and tests that need a tree with a plot.
//!
//! Every step is real: what it spawns is a process, what it sends is a call. A script that cannot be read starts no
//! turn; it is refused when the pod is.
//!
//! Hosted by children of `pod demo` and of the process tests.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;

use super::{Compaction, FailureKind, RewoundTo, Signal, ToolCall, TurnContext, TurnEnd, Usage, Worker, WorkerError};
use crate::error::in_one_line;
use crate::handle::SpawnPod;
use crate::id::{PodName, TurnId};
use crate::manifest::{ManifestError, RestartEntry, ScopeEntry, WorkerSpec};
use crate::store::{Lifetime, OutputKind, TurnCause};

/// LIMIT: how long a script waits for a child or a report.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How often a script that waits for reports asks for them. LIMIT: a report during a turn wakes nobody, by design; a script is
/// for tests, whose reports come within this.
const REPORTS_EVERY: Duration = Duration::from_millis(10);

/// The steps of a pod's turns.
///
/// A table of TOML; a key or a step that is not known is refused, with the one that was probably meant.
///
/// | key | what |
/// |---|---|
/// | `runs` | lists of steps: of the first run, the second, and so on; further runs do as the last one |
/// | `on_reports` | the steps of a turn that reports started; without any they are noted |
/// | `reads_reports`, `rewinds` | whether it does; both are true unless said otherwise |
/// | `summary` | what a compaction leaves; without it there is none |
/// | `on_compact` | the steps of a compaction before that |
///
/// ```
/// let text = r#"
/// summary = "asked twice, answered once"
/// runs = [
///     [
///         { delta = "let me " }, { retry = { reason = "overloaded", after_ms = 5 } },
///         { think = "where is it" }, { tool = { name = "look", arguments = { at = "x" }, progress = ["half"], result = "there" } },
///         { delta = "it is " }, { say = "it is there" }, { usage = { input_tokens = 9, output_tokens = 4 } },
///     ],
///     [{ continue = "cut at a limit" }, { compact = "asked once" }, "recall", { sleep_ms = 5 }, "pause"],
///     [{ spawn = { name = "b", worker = { kind = "ledger" }, scope = [{ target = "/srv/b", permission = "write" }] } }, { run_and_wait = { child = "b", input = "x" } }, { stop = "b" }],
///     [{ spawn = { name = "c", worker = { kind = "ledger" }, lifetime = "detached", restart = { when = "transient", max = 3, within_seconds = 60 } } }],
///     [{ read_reports = 1 }, "peek_reports", { fail = "why" }],
///     [{ fail_as = { kind = "auth", message = "the key is not known" } }],
/// ]
/// on_reports = [{ read_reports = 0 }, "roll_back"]
/// "#;
/// pod::worker::Script::from_spec(&pod::WorkerSpec::scripted(text, "an example")?)?;
/// # Ok::<_, pod::manifest::ManifestError>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The steps of the first run, the second, and so on; further runs do as the last one.
    #[serde(default)]
    runs: Vec<Vec<Step>>,
    /// The steps of a turn that reports started. Without any they are noted.
    #[serde(default)]
    on_reports: Vec<Step>,
    /// Whether reports are to be read at all.
    #[serde(default = "yes")]
    reads_reports: bool,
    /// What a compaction leaves; without it the script keeps nothing that could be made shorter.
    #[serde(default)]
    summary: Option<String>,
    /// The steps of a compaction, before it leaves its summary.
    #[serde(default)]
    on_compact: Vec<Step>,
    /// Whether it can go back to an earlier run.
    #[serde(default = "yes")]
    rewinds: bool,
    /// The turns that took their steps from `runs`.
    #[serde(skip)]
    ran: Vec<TurnId>,
}

/// One step of a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// Writes output.
    Say(String),
    /// Shows output that is not committed: the next `say` has it.
    Delta(String),
    /// The same for what it thinks; committed by the next `think`.
    ThinkDelta(String),
    /// Writes what it thinks.
    Think(String),
    /// Uses a tool.
    Tool(ToolStep),
    /// Uses up so many tokens.
    Usage(Usage),
    /// An attempt has failed and is repeated after a pause; what it has shown does not count.
    Retry(RetryStep),
    /// What it says was cut, for this reason, and goes on.
    Continue(String),
    /// Makes its context shorter, to this summary.
    Compact(String),
    /// Writes how much of its context there is: the summary, and how many entries stand behind it.
    Recall,
    /// Does nothing for so many milliseconds; ends the turn if it is asked to end.
    SleepMs(u64),
    /// Starts a child.
    Spawn(SpawnStep),
    /// Gives work to a child, and goes on.
    Run(RunStep),
    /// Gives work to a child, and waits until the work's turn has ended.
    RunAndWait(RunStep),
    /// Ends a child, and waits for its end.
    Stop(PodName),
    /// Asks for what the agent is to be told, until so many reports were told.
    ReadReports(u32),
    /// Asks for what the agent is to be told, without confirming it.
    PeekReports,
    /// The worker fails.
    Fail(String),
    /// The worker fails, and says of what kind that is: `other`, `retryable`, `auth`, `limit`, `context_too_long` or `store`.
    FailAs(FailStep),
    /// The worker panics.
    Panic(String),
    /// The process exits with this code, at once.
    Exit(i32),
    /// The process kills itself with SIGKILL.
    Kill,
    /// The turn ends at a limit.
    Limit,
    /// The turn pauses.
    Pause,
    /// The turn undoes itself.
    RollBack,
    /// The turn gives up.
    Cancel,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpawnStep {
    name: PodName,
    worker: WorkerSpec,
    /// What it is given of this pod's scope.
    #[serde(default)]
    scope: Vec<ScopeEntry>,
    #[serde(default = "crate::manifest::tied", with = "crate::manifest::words")]
    lifetime: Lifetime,
    #[serde(default)]
    restart: RestartEntry,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunStep {
    child: PodName,
    input: String,
}

/// A use of a tool; it fails if `fails` is given, and ends as abandoned if its turn ends first.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolStep {
    name: String,
    #[serde(default)]
    arguments: toml::Table,
    /// What it says on its way, each after `pause_ms`.
    #[serde(default)]
    progress: Vec<String>,
    #[serde(default)]
    pause_ms: u64,
    #[serde(default)]
    result: String,
    #[serde(default)]
    fails: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FailStep {
    kind: FailureKind,
    message: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryStep {
    reason: String,
    #[serde(default = "one")]
    attempt: u32,
    #[serde(default)]
    after_ms: u64,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

impl Script {
    /// The script that `spec`'s table is.
    ///
    /// # Errors
    /// Names the key or the step that is wrong, and what would be right.
    pub fn from_spec(spec: &WorkerSpec) -> Result<Self, ManifestError> {
        let script: Self = spec.read()?;
        if script.summary.as_ref().is_some_and(|summary| summary.trim().is_empty()) {
            let reason = "it is empty; say what a compaction is to leave, or leave it out".to_owned();
            return Err(ManifestError::Invalid { place: "worker `scripted`, `summary`".into(), reason });
        }
        for step in script.runs.iter().chain([&script.on_reports, &script.on_compact]).flatten() {
            let Step::Spawn(SpawnStep { name, scope, restart, .. }) = step else { continue };
            if scope.iter().any(|entry| entry.child.is_some()) {
                let reason = format!("a right of `{name}` names a child; leave `child` out, it is `{name}`'s own");
                return Err(ManifestError::Invalid { place: "worker `scripted`, `spawn.scope`".into(), reason });
            }
            if let Err(reason) = restart.policy() {
                let place = format!("worker `scripted`, spawn of `{name}`");
                return Err(ManifestError::Invalid { place, reason });
            }
        }
        Ok(script)
    }

    fn steps(&mut self, turn: TurnId, cause: TurnCause) -> Vec<Step> {
        match cause {
            TurnCause::Compact => self.on_compact.clone(),
            TurnCause::Reports if self.on_reports.is_empty() => vec![Step::ReadReports(0)],
            TurnCause::Reports => self.on_reports.clone(),
            TurnCause::Run | TurnCause::Resume => {
                let at = self.ran.len().min(self.runs.len().saturating_sub(1));
                self.ran.push(turn);
                self.runs.get(at).cloned().unwrap_or_default()
            }
        }
    }
}

impl Worker for Script {
    fn starts_processes(&self) -> bool {
        false
    }

    fn reads_reports(&self) -> bool {
        self.reads_reports
    }

    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            for step in self.steps(cx.turn(), cx.cause()) {
                if let Some(end) = perform(step, cx).await? {
                    return Ok(end);
                }
            }
            Ok(TurnEnd::Finished)
        })
    }

    fn compacts(&self) -> bool {
        self.summary.is_some()
    }

    fn rewinds(&self) -> bool {
        self.rewinds
    }

    fn compact<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<Compaction, WorkerError>> {
        Box::pin(async move {
            for step in self.steps(cx.turn(), cx.cause()) {
                if let Some(end) = perform(step, cx).await? {
                    return Err(WorkerError::new(format!("the compaction ended as a turn does: {end:?}")));
                }
            }
            Ok(Compaction { summary: self.summary.clone().unwrap_or_default(), upto: None })
        })
    }

    fn rewound(&mut self, to: RewoundTo) {
        self.ran.retain(|turn| *turn < to.turn);
    }
}

/// Carries one step out. `Some` ends the turn.
async fn perform(step: Step, cx: &TurnContext) -> Result<Option<TurnEnd>, WorkerError> {
    let told = |signal| match signal {
        Signal::Pause => TurnEnd::Paused,
        Signal::Limit => TurnEnd::LimitReached,
        Signal::Cancel | Signal::Shutdown => TurnEnd::Cancelled,
    };
    match step {
        Step::Say(text) => cx.output(&text).await?,
        Step::Delta(text) => cx.delta(OutputKind::Text, &text),
        Step::ThinkDelta(text) => cx.delta(OutputKind::Thinking, &text),
        Step::Think(text) => cx.produce(OutputKind::Thinking, &text).await?,
        Step::Tool(tool) => return Ok(use_tool(tool, cx).await?.map(told)),
        Step::Usage(usage) => cx.usage(usage).await?,
        Step::Retry(RetryStep { reason, attempt, after_ms }) => {
            let pause = Duration::from_millis(after_ms);
            cx.retrying(attempt, pause, &reason).await?;
            return Ok(cx.rest(pause).await.map(told));
        }
        Step::Continue(reason) => cx.continuing(&reason).await?,
        Step::Compact(summary) => {
            cx.compacted(Compaction { summary, upto: None }).await?;
        }
        Step::Recall => {
            let summary = cx.summary().await?.map(|summary| summary.text);
            let (mut entries, mut cursor) = (0, 0);
            loop {
                let page = cx.context_after(cursor).await?;
                let Some(last) = page.last() else { break };
                (entries, cursor) = (entries + page.len(), last.seq);
            }
            let summary = summary.as_deref().unwrap_or("nothing");
            cx.output(&format!("recalled: {summary}, and {entries} entries")).await?;
        }
        Step::SleepMs(ms) => return Ok(cx.rest(Duration::from_millis(ms)).await.map(told)),
        Step::Spawn(SpawnStep { name, worker, scope, lifetime, restart }) => {
            let scope = scope.iter().map(ScopeEntry::rule).collect();
            let restart = restart.policy().map_err(WorkerError::new)?;
            let spawn = SpawnPod::new(name, worker).scope(scope).lifetime(lifetime).restart(restart);
            cx.spawn_pod(spawn).await.map_err(in_words)?;
        }
        Step::Run(RunStep { child, input }) => {
            cx.delegate(&child, input).await.map_err(in_words)?;
        }
        Step::RunAndWait(RunStep { child, input }) => {
            let work = cx.delegate(&child, input).await.map_err(in_words)?;
            let ended = tokio::time::timeout(WAIT_MAX, work.ended());
            // CANCEL SAFETY: waiting changes nothing.
            let end = tokio::select! {
                end = ended => end.map_err(|_| WorkerError::new(format!("child `{child}` did not end its work in time")))?,
                signal = cx.signalled() => return Ok(Some(told(signal))),
            };
            cx.output(&format!("child `{child}`: {end:?}")).await?;
        }
        Step::Stop(child) => {
            let terminal = cx.pod().stop_pod(&child, WAIT_MAX).await.map_err(in_words)?;
            cx.output(&format!("child `{child}` stopped: {terminal:?}")).await?;
        }
        Step::ReadReports(count) => {
            let mut read = 0;
            let deadline = tokio::time::Instant::now() + WAIT_MAX;
            loop {
                let items = cx.next_request().await?;
                for item in &items {
                    cx.output(item.text()).await?;
                }
                read += u32::try_from(items.len()).unwrap_or(u32::MAX);
                cx.response_received().await?;
                if read >= count && (items.is_empty() || count > 0) {
                    break;
                }
                if tokio::time::Instant::now() >= deadline {
                    return Err(WorkerError::new(format!("{read} of {count} reports came")));
                }
                if items.is_empty()
                    && let Some(signal) = cx.rest(REPORTS_EVERY).await
                {
                    return Ok(Some(told(signal)));
                }
            }
        }
        Step::PeekReports => {
            for item in cx.next_request().await? {
                cx.output(&format!("peeked: {}", item.text())).await?;
            }
        }
        Step::Fail(message) => return Err(WorkerError::new(message)),
        Step::FailAs(FailStep { kind, message }) => return Err(WorkerError::of_kind(kind, message)),
        #[expect(clippy::panic, reason = "the script asks for it")]
        Step::Panic(message) => panic!("{message}"),
        Step::Exit(code) => std::process::exit(code),
        Step::Kill => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::future::pending::<()>().await;
        }
        Step::Limit => return Ok(Some(TurnEnd::LimitReached)),
        Step::Pause => return Ok(Some(TurnEnd::Paused)),
        Step::RollBack => return Ok(Some(TurnEnd::RolledBack)),
        Step::Cancel => return Ok(Some(TurnEnd::Cancelled)),
    }
    Ok(None)
}

/// A signal ends the turn, and with it the use.
async fn use_tool(tool: ToolStep, cx: &TurnContext) -> Result<Option<Signal>, WorkerError> {
    let arguments = serde_json::to_value(&tool.arguments).map_err(in_words)?;
    let begun = cx.tool(ToolCall::new(&tool.name, arguments)).await?;
    for text in &tool.progress {
        if let Some(signal) = cx.rest(Duration::from_millis(tool.pause_ms)).await {
            return Ok(Some(signal));
        }
        begun.progress(text);
    }
    match &tool.fails {
        Some(reason) => begun.failed(reason).await?,
        None => begun.done(&tool.result).await?,
    };
    Ok(None)
}

fn in_words(error: impl std::error::Error + 'static) -> WorkerError {
    WorkerError::new(in_one_line(&error))
}

#[cfg(test)]
#[path = "scripted_tests.rs"]
mod tests;
