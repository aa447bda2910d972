//! A parent in a process of its own, so that a test may kill it.
//!
//! It is told what to do on its standard input and answers on its standard output, one JSON line each. It dies with
//! the handle.
//!
//! The other end is `src/bin/host_pod.rs`.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use pod::{Lifetime, PodName, Restart, WorkId, WorkerSpec};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::World;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the parent is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Ask {
    /// Start a child. Answered with its process number.
    Spawn {
        /// Its name.
        name: PodName,
        /// What it hosts.
        worker: WorkerSpec,
    },
    /// Start a child of this lifetime, to be started again as the policy says. Answered with its process number.
    SpawnAs {
        /// Its name.
        name: PodName,
        /// What it hosts.
        worker: WorkerSpec,
        /// Whether it ends with its parent.
        lifetime: Lifetime,
        /// Whether it is started again.
        restart: Restart,
    },
    /// Take over a child of a dead pod. Answered with its life.
    Adopt {
        /// Which.
        child: PodName,
        /// Whose it was.
        from: PodName,
    },
    /// Give work to a child. Answered with the work.
    Run {
        /// Which.
        child: PodName,
        /// What.
        input: String,
    },
    /// Wait for the end of a work that was given here. Answered with it, as it is shown for debugging.
    Ended {
        /// Which.
        work: WorkId,
    },
    /// Stop a child. Answered with its terminal event.
    Stop {
        /// Which.
        child: PodName,
        /// How long it may take before it is signalled.
        grace_ms: u64,
    },
    /// End, and exit with code 0.
    Shutdown,
}

/// What the parent says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// It is up, in this process.
    Ready(u32),
    /// What it was asked is done.
    Done(serde_json::Value),
    /// It is not, and why.
    Failed(String),
}

/// A parent in a process of its own.
#[derive(Debug)]
pub struct HostProcess {
    child: Child,
    pid: u32,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl HostProcess {
    /// Starts the pod `name` with a ledger, to be killed at `failpoint` if there is one.
    ///
    /// # Errors
    /// What it said instead of being ready.
    ///
    /// # Panics
    /// If the process cannot be started.
    pub async fn start(world: &World, name: &str, failpoint: Option<&str>) -> Result<Self, String> {
        let armed = failpoint.map(|failpoint| [("POD_FAILPOINT", failpoint), ("POD_FAILPOINT_POD", name)]);
        Self::start_hosting(world, name, "ledger", armed.as_ref().map_or(&[], |armed| armed)).await
    }

    /// Starts the pod `name` with a worker of the kind `kind`, and these variables in its environment and in that of
    /// all that it starts.
    ///
    /// # Errors
    /// What it said instead of being ready.
    ///
    /// # Panics
    /// If the process cannot be started.
    #[expect(clippy::disallowed_methods, reason = "a test starts the program that it tests")]
    pub async fn start_hosting(
        world: &World,
        name: &str,
        kind: &str,
        environment: &[(&str, &str)],
    ) -> Result<Self, String> {
        let log = world.root().join(format!("log-{name}"));
        let said = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(world.program());
        command.args(["parent", name, kind]).env("PODS_ROOT", world.root()).env("RUST_LOG", "pod=debug");
        // In a group of its own: what a terminal sends to whoever drives the test is for that one alone.
        command.envs(environment.iter().copied()).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said);
        let mut child = command.spawn().expect("the host starts");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let pid = child.id().expect("it is not reaped");
        let mut host = Self { child, pid, input, answers: BufReader::new(output).lines(), log };
        match host.hear().await? {
            Told::Ready(own) => assert_eq!(own, host.pid),
            other => return Err(format!("{other:?}")),
        }
        Ok(host)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it and its earlier lives have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it something and waits for the answer.
    ///
    /// # Errors
    /// What it said, or that it died.
    ///
    /// # Panics
    /// If it does neither in time.
    pub async fn ask(&mut self, ask: Ask) -> Result<serde_json::Value, String> {
        let mut line = serde_json::to_string(&ask).expect("asks can be written");
        line.push('\n');
        if let Err(error) = self.input.write_all(line.as_bytes()).await {
            return Err(format!("the host has died: {error}"));
        }
        match self.hear().await? {
            Told::Done(value) => Ok(value),
            other => Err(format!("{other:?}")),
        }
    }

    /// Starts a child and returns its process number.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn spawn(&mut self, name: &str, worker: WorkerSpec) -> u32 {
        let pid = self.ask(Ask::Spawn { name: super::place::named(name), worker }).await.expect("the child starts");
        pid.as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process number")
    }

    /// Starts a detached child and returns its process number.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn spawn_detached(&mut self, name: &str, worker: WorkerSpec) -> u32 {
        let (lifetime, restart) = (Lifetime::Detached, Restart::default());
        let ask = Ask::SpawnAs { name: super::place::named(name), worker, lifetime, restart };
        let pid = self.ask(ask).await.expect("the child starts");
        pid.as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process number")
    }

    /// Gives work to a child.
    ///
    /// # Errors
    /// What it said, or that it died.
    pub async fn run(&mut self, child: &str, input: &str) -> Result<WorkId, String> {
        let work = self.ask(Ask::Run { child: super::place::named(child), input: input.to_owned() }).await?;
        serde_json::from_value(work).map_err(|error| error.to_string())
    }

    /// Kills it, as `kill -9` does.
    ///
    /// # Panics
    /// If it does not die.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait().await;
    }

    /// Signals it. It is not reaped yet, so its number is its own.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid.cast_signed()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Halts it, and returns when it stands still.
    ///
    /// # Panics
    /// If it does not halt.
    pub async fn halt(&self) {
        halt(self.pid).await;
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn wait(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("the host ends in time").expect("it is ours to wait for")
    }

    async fn hear(&mut self) -> Result<Told, String> {
        let line = timeout(PATIENCE, self.answers.next_line()).await.expect("the host answers in time");
        match line {
            Ok(Some(line)) => serde_json::from_str(&line).map_err(|error| format!("{error}: {line}")),
            Ok(None) => Err("the host has died".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Halts the process, and returns when each of its threads stands still: until one has taken the signal, the others run on.
///
/// # Panics
/// If there is none, or it does not halt.
pub async fn halt(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).expect("a process"), Signal::STOP).expect("it can be halted");
    let states = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        // A thread that has just ended is gone. The name in it may hold anything.
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        stats.map(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    };
    let halted = async {
        while !states().all(|halted| halted) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, halted).await.expect("the process halts");
}
