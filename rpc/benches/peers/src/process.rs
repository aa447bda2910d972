//! The processes of a contender: this program again, as its server and as its client.
//!
//! Each is told what to do by lines on its standard input, answers by lines on its standard output, and ends when its
//! input does, however that came about. What it writes to standard error is kept and shown if it fails.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::contender::{Failure, Load};
use crate::measure::lap::Until;
use crate::measure::usage::Usage;
use crate::plan::Placement;

/// What a process is started for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) contender: String,
    pub(crate) path: PathBuf,
    pub(crate) load: Load,
    pub(crate) cpus: Vec<usize>,
}

/// What it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Open the connections (client).
    Connect,
    /// Call (client).
    Run {
        until: Until,
        timed: bool,
    },
    /// One call of this size on each connection, one after the other (client).
    CallEach {
        payload_bytes: usize,
    },
    /// Build what one call needs, so often, without calling (client).
    Prepare {
        times: u64,
    },
    CountAllocations(bool),
    Usage {
        memory: bool,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Ran(LapFigures),
    Usage(Usage),
    Failed(String),
}

/// What a client found in one lap.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LapFigures {
    pub(crate) calls: u64,
    pub(crate) elapsed_micros: f64,
    pub(crate) cpu_micros: u64,
    pub(crate) p50_micros: Option<f64>,
    pub(crate) p99_micros: Option<f64>,
}

/// Which side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// How long an order may take before the contender counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process of a contender; killed when dropped.
pub(crate) struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
    errors: PathBuf,
}

impl Process {
    /// Starts it, under `wrapper` if there is one.
    pub(crate) fn start(side: Side, job: &Job, wrapper: &[String]) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let mut command = match wrapper.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        let (word, ending) = match side {
            Side::Server => ("serve", "server"),
            Side::Client => ("drive", "client"),
        };
        let errors = job.path.with_extension(ending);
        let mut child = command
            .args([word, &serde_json::to_string(job)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .spawn()?;
        let orders = child.stdin.take();
        let output = child.stdout.take().ok_or("its output is not a pipe")?;
        let (sender, answers) = sync_channel(16);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, orders, answers, errors })
    }

    fn ask(&mut self, order: &Order) -> Result<Answer, Failure> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        let orders = self.orders.as_mut().ok_or("it was told to end")?;
        let told = orders.write_all(line.as_bytes()).map_err(|error| error.to_string());
        match told.and_then(|()| self.answer()) {
            Ok(line) => match serde_json::from_str(&line)? {
                Answer::Failed(why) => Err(why.into()),
                answer => Ok(answer),
            },
            Err(why) => Err(format!("{why}{}", self.last_words()).into()),
        }
    }

    fn answer(&self) -> Result<String, String> {
        self.answers.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no answer within {} s", PATIENCE.as_secs()),
            RecvTimeoutError::Disconnected => "it ended".to_owned(),
        })
    }

    /// What it wrote to standard error, in one line.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let mut words: Vec<&str> = text.lines().rev().take(3).collect();
        words.reverse();
        if words.is_empty() { String::new() } else { format!(": {}", words.join(" / ")) }
    }

    pub(crate) fn usage(&mut self, memory: bool) -> Result<Usage, Failure> {
        match self.ask(&Order::Usage { memory })? {
            Answer::Usage(usage) => Ok(usage),
            other => Err(format!("an answer to something else: {other:?}").into()),
        }
    }

    pub(crate) fn run(&mut self, until: Until, timed: bool) -> Result<LapFigures, Failure> {
        match self.ask(&Order::Run { until, timed })? {
            Answer::Ran(figures) if figures.calls > 0 => Ok(figures),
            other => Err(format!("nothing was called: {other:?}").into()),
        }
    }

    pub(crate) fn tell(&mut self, order: &Order) -> Result<(), Failure> {
        self.ask(order).map(drop)
    }

    /// Lets it end by itself.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        drop(self.orders.take());
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                return Err("it does not end".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server and its client.
pub(crate) struct Pair {
    pub(crate) server: Process,
    pub(crate) client: Process,
}

/// One lap of a pair.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PairFigures {
    pub(crate) lap: LapFigures,
    pub(crate) server_cpu_micros: u64,
}

impl Pair {
    /// A server that listens, and a client that is connected to it.
    pub(crate) fn start(job: &Job) -> Result<Self, Failure> {
        Self::start_under(job, [&[], &[]])
    }

    /// The same, with a program around each process.
    pub(crate) fn start_under(job: &Job, wrappers: [&[String]; 2]) -> Result<Self, Failure> {
        let server = start_server(job, wrappers[0])?;
        let mut client = Process::start(Side::Client, job, wrappers[1])?;
        client.tell(&Order::Connect)?;
        Ok(Self { server, client })
    }

    pub(crate) fn run(&mut self, until: Until, timed: bool) -> Result<PairFigures, Failure> {
        let before = self.server.usage(false)?;
        let lap = self.client.run(until, timed).map_err(|why| format!("{why}{}", self.server.last_words()))?;
        let after = self.server.usage(false)?;
        Ok(PairFigures { lap, server_cpu_micros: after.cpu_micros - before.cpu_micros })
    }
}

/// Starts a server and waits until it can be connected to.
pub(crate) fn start_server(job: &Job, wrapper: &[String]) -> Result<Process, Failure> {
    let mut server = Process::start(Side::Server, job, wrapper)?;
    let end = Instant::now() + PATIENCE;
    while std::os::unix::net::UnixStream::connect(&job.path).is_err() {
        if let Some(status) = server.child.try_wait()? {
            return Err(format!("the server ended with {status}{}", server.last_words()).into());
        }
        if Instant::now() > end {
            return Err(format!("the server does not listen{}", server.last_words()).into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(server)
}

/// The processors of a placement, from those that this process may use.
pub(crate) fn cpus(placement: Placement) -> Result<Vec<usize>, Failure> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let wanted = match placement {
        Placement::One => 1,
        Placement::Free => 2,
    };
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(wanted).collect())
}

/// A directory for sockets that only this user can enter.
pub(crate) fn scratch() -> Result<(tempfile::TempDir, PathBuf), Failure> {
    let root = tempfile::tempdir()?;
    let directory = root.path().join("peers");
    std::fs::create_dir(&directory)?;
    std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok((root, directory))
}

/// A job of a contender in `directory`.
pub(crate) fn job(contender: &str, directory: &Path, load: Load, placement: Placement) -> Result<Job, Failure> {
    let path = directory.join(contender.replace(' ', "-"));
    for leftover in [path.clone(), path.with_extension("lock")] {
        let _ = std::fs::remove_file(leftover);
    }
    Ok(Job { contender: contender.to_owned(), path, load, cpus: cpus(placement)? })
}
