//! What observers cost a pod: its pace with none attached and with many, in turn.
//!
//! The pod, the readers and what measures are processes of their own, so that each can be asked what it has used up. What
//! it takes and what its exit code means is in [`USAGE`].
#![allow(clippy::print_stdout, reason = "a command prints")]

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use pod::protocol::Subscribe;
use pod::{Method, PodController, PodOptions, Roots, WorkerSpec, Workers};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::watching::{Busy, Count, read_to};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines, stdin};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const USAGE: &str = "\
Lets a pod commit without rest, attaches observers to it and takes them away again, and says what that does to its pace.

usage: observers [--clients N] [--stopped N] [--seconds N] [--rounds N] [--rate N] [--lanes N] [--per-process N]
                 [--max-ratio X]

  --clients N      observers in all (default 100)
  --stopped N      of these, how many do not read: half of them are halted (SIGSTOP), half never look (default 10)
  --seconds N      how long each measurement takes (default 5); above 25, halted ones are given up by the pod
  --rounds N       pairs of measurements, none attached and all attached, in turn (default 5)
  --rate N         commits that are begun in a second; 0: as many as there can be (default 0)
  --lanes N        commits that are under way at once (default 64)
  --per-process N  observers of one process (default 10)
  --max-ratio X    fail if the pace with all attached is so many times slower than with none, for example 1.1; on a machine
                   that does nothing else (default: the pace is printed and decides nothing)
  --help           print this

A commit is one entry of a worker, through the controller, acknowledged to the worker: what a turn does. They are committed
in groups; what bounds them is the thread of the store.

Exit code 0: every observer, also those that were stopped, saw every entry once and in order, and the pace was kept if it was
asked for. 1: not so. 2: wrong arguments.";

/// LIMIT: nothing here takes longer on a machine that does anything else as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a measurement waits for after something has changed, so that it measures what goes on and not the change.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
struct Shape {
    clients: usize,
    stopped: usize,
    seconds: u64,
    rounds: u32,
    rate: u64,
    lanes: u64,
    per_process: usize,
    max_ratio: Option<f64>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = |threads| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).enable_all().build().expect("a runtime")
    };
    match words.as_slice() {
        // As many threads as a child of a pod has.
        ["as-pod", root, input] => runtime(2).block_on(as_pod(Path::new(root), input)),
        ["as-readers", socket, from, count, asleep] => {
            let own = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            own.block_on(as_readers(
                Path::new(socket),
                from.parse().expect("a number"),
                count.parse().expect("a number"),
                *asleep == "asleep",
            ))
        }
        _ => {
            let shape = match tests::drive::arguments(USAGE, parse) {
                Ok(shape) => shape,
                Err(exit) => return exit,
            };
            match runtime(1).block_on(measure(shape)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => {
                    println!("FAILED: {why}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn parse(mut words: std::iter::Skip<std::env::Args>) -> Result<Option<Shape>, String> {
    let (clients, max_ratio) = (100, None);
    let mut shape =
        Shape { clients, stopped: 10, seconds: 5, rounds: 5, rate: 0, lanes: 64, per_process: 10, max_ratio };
    while let Some(word) = words.next() {
        if word == "--help" {
            return Ok(None);
        }
        let value = words.next().ok_or_else(|| format!("`{word}` needs a number behind it"))?;
        if word == "--max-ratio" {
            let ratio: f64 = value.parse().map_err(|_| format!("`{value}` behind `{word}` is no number"))?;
            if !(ratio.is_finite() && ratio > 0.0) {
                return Err(format!("`{value}` behind `{word}` is no ratio"));
            }
            shape.max_ratio = Some(ratio);
            continue;
        }
        let number: u64 = value.parse().map_err(|_| format!("`{value}` behind `{word}` is no whole number"))?;
        let small = usize::try_from(number).map_err(|error| error.to_string())?;
        match word.as_str() {
            "--clients" => shape.clients = small,
            "--stopped" => shape.stopped = small,
            "--seconds" => shape.seconds = number.max(1),
            "--rounds" => shape.rounds = u32::try_from(number).map_err(|error| error.to_string())?.max(1),
            "--rate" => shape.rate = number,
            "--lanes" => shape.lanes = number.max(1),
            "--per-process" => shape.per_process = small.max(1),
            _ => return Err(format!("`{word}` is not known")),
        }
    }
    if shape.stopped > shape.clients {
        return Err("more are stopped than there are".to_owned());
    }
    Ok(Some(shape))
}

/// The pod. Says where it is, and then, for each line on its input, how far it has come and what it has used up.
async fn as_pod(root: &Path, input: &str) -> ExitCode {
    let options = PodOptions::new("busy".parse().expect("a name"), WorkerSpec::of_kind("busy"))
        .workers(Workers::builtin().with("busy", |_| Ok(Box::new(Busy))))
        .roots(Roots::at(root).expect("a directory"));
    let pod = PodController::spawn(options).await.expect("it starts");
    let socket = pod.roots().pod(&pod.id().name).socket();
    println!("{}", json!({ "socket": socket }));
    pod.run(input).await.expect("it works");
    let mut asked = BufReader::new(stdin()).lines();
    while let Ok(Some(_)) = asked.next_line().await {
        println!("{}", json!({ "head": *pod.store().history_head().borrow(), "cpu_ms": cpu_ms() }));
    }
    pod.shutdown().await;
    ExitCode::SUCCESS
}

/// Observers of one process. Says when all have caught up; told an entry, it reads up to there and says what it saw.
async fn as_readers(socket: &Path, from: u64, count: usize, asleep: bool) -> ExitCode {
    let address = rpc::Address::unix(socket);
    let (upto, told) = watch::channel(None::<u64>);
    let (caught, mut caught_up) = tokio::sync::mpsc::channel(count.max(1));
    let reading: Vec<_> = (0..count)
        .map(|_| {
            let (client, told, caught) = (rpc::Client::<Method>::new(&address), told.clone(), caught.clone());
            tokio::spawn(read(client, from, told, caught, asleep))
        })
        .collect();
    for _ in 0..count {
        let _ = caught_up.recv().await;
    }
    println!("{}", json!({ "attached": count, "cpu_ms": cpu_ms() }));
    let mut asked = BufReader::new(stdin()).lines();
    let mut last = 0;
    while let Ok(Some(line)) = asked.next_line().await {
        match line.parse() {
            Ok(entry) => {
                last = entry;
                upto.send_replace(Some(entry));
                break;
            }
            Err(_) => println!("{}", json!({ "cpu_ms": cpu_ms() })),
        }
    }
    let mut faults = Vec::new();
    let mut entries = 0;
    for reader in reading {
        match reader.await.map_err(|error| error.to_string()).and_then(|read| read) {
            Ok(count) if count.cursor() >= last => entries += count.entries(),
            Ok(count) => faults.push(format!("one came to entry {} of {last}", count.cursor())),
            Err(why) => faults.push(why),
        }
    }
    println!("{}", json!({ "faults": faults, "entries": entries, "cpu_ms": cpu_ms() }));
    ExitCode::SUCCESS
}

async fn read(
    client: rpc::Client<Method>,
    from: u64,
    mut told: watch::Receiver<Option<u64>>,
    caught: tokio::sync::mpsc::Sender<()>,
    asleep: bool,
) -> Result<Count, String> {
    let (_, mut items) = client.open(Subscribe { from }).await.map_err(|error| error.to_string())?;
    let mut count = Count::from(from);
    if asleep {
        let _ = caught.send(()).await;
        let _ = told.changed().await;
        told.mark_changed();
    }
    loop {
        // CANCEL SAFETY: an event that is not returned is still there.
        tokio::select! {
            event = items.event() => {
                if count.event(event)? && !asleep {
                    let _ = caught.send(()).await;
                }
            }
            _ = told.changed() => {
                let upto = told.borrow_and_update().unwrap_or(0);
                read_to(&mut items, &mut count, upto).await?;
                return Ok(count);
            }
        }
    }
}

/// What this process has used up of all processors.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("a process has one");
    // Behind the name, which may hold anything; user and system time are the 14th and 15th of all, in hundredths.
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap_or(0) * 10).sum()
}

/// A process of ours, and what it says.
struct Process {
    child: Child,
    input: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Process {
    #[expect(clippy::disallowed_methods, reason = "this program as another process; killed with its handle")]
    fn start(args: &[String]) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, input, said: BufReader::new(output).lines() }
    }

    async fn hear(&mut self) -> Result<Value, String> {
        let line = timeout(PATIENCE, self.said.next_line()).await.map_err(|_| "it says nothing".to_owned())?;
        let line = line.map_err(|error| error.to_string())?.ok_or("it has ended")?;
        serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))
    }

    async fn ask(&mut self, line: &str) -> Result<Value, String> {
        self.input.write_all(format!("{line}\n").as_bytes()).await.map_err(|error| error.to_string())?;
        self.hear().await
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }
}

/// What a stretch of time has brought.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// Commits in a second.
    pace: f64,
    /// Processor time of the pod for each commit, in microseconds.
    pod_us: f64,
    /// Of the pod in all, as a share of one processor.
    pod_share: f64,
}

async fn stretch(pod: &mut Process, seconds: u64) -> Result<Stretch, String> {
    let (before, began) = (pod.ask("?").await?, Instant::now());
    sleep(Duration::from_secs(seconds)).await;
    let (after, took) = (pod.ask("?").await?, began.elapsed().as_secs_f64());
    let grown =
        |field: &str| (after[field].as_u64().unwrap_or(0).saturating_sub(before[field].as_u64().unwrap_or(0))) as f64;
    let (commits, cpu_ms) = (grown("head"), grown("cpu_ms"));
    Ok(Stretch { pace: commits / took, pod_us: cpu_ms * 1000.0 / commits.max(1.0), pod_share: cpu_ms / 1000.0 / took })
}

async fn measure(shape: Shape) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let root = dir.path().join("pods").display().to_string();
    let mut pod = Process::start(&["as-pod".into(), root, format!("{} {}", shape.lanes, shape.rate)]);
    let socket = pod.hear().await?["socket"].as_str().unwrap_or_default().to_owned();
    println!(
        "{} observers, {} of them stopped, {} commits at once, {}; {} rounds of twice {} s",
        shape.clients,
        shape.stopped,
        shape.lanes,
        if shape.rate == 0 {
            "as many as there can be".to_owned()
        } else {
            format!("{} begun in a second", shape.rate)
        },
        shape.rounds,
        shape.seconds
    );
    sleep(SETTLE).await;
    let (mut alone, mut watched, mut seen) = (Vec::new(), Vec::new(), 0);
    for round in 1..=shape.rounds {
        let without = stretch(&mut pod, shape.seconds).await?;
        let (with, entries, readers) = attached(&mut pod, &socket, shape).await?;
        seen += entries;
        println!(
            "round {round}: none {:>7.0}/s ({:>5.1} us, {:>3.0} %)   attached {:>7.0}/s ({:>5.1} us, {:>3.0} %; readers {:>3.0} %)   ratio {:.3}",
            without.pace,
            without.pod_us,
            without.pod_share * 100.0,
            with.pace,
            with.pod_us,
            with.pod_share * 100.0,
            readers * 100.0,
            without.pace / with.pace
        );
        alone.push(without);
        watched.push(with);
    }
    let median = |of: &[Stretch], what: fn(&Stretch) -> f64| {
        let mut all: Vec<f64> = of.iter().map(what).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(0.0)
    };
    let pace = (median(&alone, |s| s.pace), median(&watched, |s| s.pace));
    let us = (median(&alone, |s| s.pod_us), median(&watched, |s| s.pod_us));
    println!("pace: {:.0}/s with none attached, {:.0}/s with all: {:.3} x", pace.0, pace.1, pace.0 / pace.1);
    println!(
        "the pod's own time for a commit: {:.1} us with none, {:.1} us with all: {:.3} x",
        us.0,
        us.1,
        us.1 / us.0
    );
    println!("{seen} entries were seen by {} observers, each once and in order", shape.clients);
    let ratio = pace.0 / pace.1;
    match shape.max_ratio {
        // Also if it is no number, because nothing was committed.
        Some(max) if ratio.is_nan() || ratio > max => {
            Err(format!("the pod was {ratio:.3} times slower, and may be {max} times"))
        }
        _ => Ok(()),
    }
}

/// The same with observers, and what they saw.
async fn attached(pod: &mut Process, socket: &str, shape: Shape) -> Result<(Stretch, u64, f64), String> {
    let from = pod.ask("?").await?["head"].as_u64().unwrap_or(0);
    let (halted, asleep) = (shape.stopped.div_ceil(2), shape.stopped / 2);
    let mut counts = Vec::new();
    let mut left = shape.clients - shape.stopped;
    while left > 0 {
        counts.push((left.min(shape.per_process), "awake"));
        left -= left.min(shape.per_process);
    }
    counts.extend([(halted, "awake"), (asleep, "asleep")]);
    let mut readers: Vec<Process> = counts
        .iter()
        .map(|(count, how)| {
            let words = ["as-readers", socket, &from.to_string(), &count.to_string(), how];
            Process::start(&words.map(str::to_owned))
        })
        .collect();
    for reader in &mut readers {
        reader.hear().await?;
    }
    let stopped = readers.len().checked_sub(2);
    let stopped = stopped.and_then(|at| readers.get(at)).map(Process::pid);
    if let Some(pid) = stopped {
        tests::world::halt(pid).await;
    }
    sleep(SETTLE).await;
    let awake = readers.len().saturating_sub(2);
    let mut before = 0;
    for reader in readers.iter_mut().take(awake) {
        before += reader.ask("?").await?["cpu_ms"].as_u64().unwrap_or(0);
    }
    let with = stretch(pod, shape.seconds).await?;
    let mut used = 0;
    for reader in readers.iter_mut().take(awake) {
        used += reader.ask("?").await?["cpu_ms"].as_u64().unwrap_or(0);
    }
    if let Some(pid) = stopped.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        kill_process(pid, Signal::CONT).map_err(|error| error.to_string())?;
    }
    let upto = pod.ask("?").await?["head"].as_u64().unwrap_or(0);
    let mut entries = 0;
    for reader in &mut readers {
        let said = reader.ask(&upto.to_string()).await?;
        let faults = said["faults"].as_array().cloned().unwrap_or_default();
        if let Some(fault) = faults.first() {
            return Err(format!("{} observers of one process: {fault}", faults.len()));
        }
        entries += said["entries"].as_u64().unwrap_or(0);
    }
    if upto <= from || entries < (upto - from) * shape.clients as u64 {
        return Err(format!("{entries} entries were seen, of {} for each of {}", upto - from, shape.clients));
    }
    Ok((with, entries, used.saturating_sub(before) as f64 / 1000.0 / shape.seconds as f64))
}
