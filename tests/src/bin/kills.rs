//! Runs the kill matrix: at each step of an event's way, the child, the parent or both are killed or halted, and what
//! is left is judged.
//!
//! What it takes and what its exit code means is in [`USAGE`].
#![allow(clippy::print_stdout, reason = "a command prints")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tests::checker::{Counts, Fault};
use tests::drive::{Cell, Figures, How, Outcome, Who, cells, run};
use tokio::task::JoinSet;

const USAGE: &str = "\
Kills or halts a child, its parent or both at each step of an event's way, starts them again, and judges their stores.

usage: kills [--runs N] [--seed FIRST] [--jobs N] [--how kill|halt] [--halt-seconds S] [--settle-max S] [--keep]

  --runs N        how many runs (default: one for each field of the matrix); consecutive seeds go through the matrix
  --seed FIRST    the seed of the first one (default 0)
  --jobs N        how many at the same time (default 2)
  --how HOW       only those that kill, or only those that halt
  --halt-seconds S  how long each halt is, 1 to 60 (default: 0.2 to 30 s, as the seed says)
  --settle-max S  seconds from the last fault until nothing is under way, above which a run has failed (default 10)
  --keep          leave the files of a run that failed where they are, and say where
  --help          print this

Needs the program `host_pod` beside itself: cargo build --release -p tests --bins.

A line on standard error every 10 s says how far it is. At the end come what was judged, the seconds until all was
settled, how often each field was hit, and for each run that failed the command that runs it again. Interrupted, it
ends its processes and prints what it has.

Exit code 0: nothing acked was lost, nothing was applied twice, no gap, one end for each life, all was settled in time,
and in a run through the whole matrix or more at least nine of ten faults hit the place they were aimed at. 1: not so.
2: wrong arguments.";

const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// LIMIT: how long one run may take: above the sum of what its parts wait for.
const RUN_MAX: Duration = Duration::from_secs(400);

struct Arguments {
    runs: u64,
    first: u64,
    jobs: usize,
    settle_max: Duration,
    keep: bool,
    matrix: Vec<Cell>,
    how: Option<&'static str>,
    halt: Option<Duration>,
}

#[derive(Default)]
struct Sums {
    runs: u64,
    reached: u64,
    counts: Counts,
    settled: Figures,
    faults: BTreeMap<Fault, u64>,
    failed: BTreeMap<u64, Vec<String>>,
    fields: BTreeMap<(String, &'static str), (u64, u64)>,
}

fn main() -> ExitCode {
    let arguments = match tests::drive::arguments(USAGE, parse) {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let program = match tests::drive::program() {
        Ok(program) => program,
        Err(exit) => return exit,
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let start = Instant::now();
    let (sums, whole) = runtime.block_on(all(&arguments, &program));
    // Whatever was interrupted ends its processes where it is dropped: here.
    drop(runtime);
    let good = report(&sums, &arguments, start.elapsed()) && whole;
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs them; false if it was interrupted.
async fn all(arguments: &Arguments, program: &std::path::Path) -> (Sums, bool) {
    let (mut sums, mut running, mut told) = (Sums::default(), JoinSet::new(), Instant::now());
    let mut seeds = arguments.first..arguments.first.saturating_add(arguments.runs);
    let mut interrupted = Box::pin(tests::drive::interrupted());
    loop {
        while running.len() < arguments.jobs
            && let Some(seed) = seeds.next()
        {
            let cell = arguments.cell(seed);
            let (program, halt, keep) = (PathBuf::from(program), arguments.halt, arguments.keep);
            running.spawn(async move {
                // In a task of its own: a run that panics is a run that failed.
                let one =
                    tokio::spawn(
                        async move { tokio::time::timeout(RUN_MAX, run(&program, cell, seed, halt, keep)).await },
                    );
                let aborts = AbortOnDrop(one.abort_handle());
                let done = match one.await {
                    Ok(Ok(done)) => done,
                    Ok(Err(_)) => Err(format!("not over after {RUN_MAX:?}")),
                    Err(panic) => Err(panic.to_string()),
                };
                drop(aborts);
                (seed, cell, done)
            });
        }
        // CANCEL SAFETY: a run that has ended stays in the set until it is taken.
        let done = tokio::select! {
            done = running.join_next() => done,
            () = &mut interrupted => {
                running.shutdown().await;
                return (sums, false);
            }
        };
        match done {
            None => return (sums, true),
            Some(Ok((seed, cell, done))) => sums.add(seed, cell, done, arguments.settle_max),
            Some(Err(error)) => sums.failed.entry(u64::MAX).or_default().push(error.to_string()),
        }
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            eprintln!("{} of {} runs, {} failed", sums.runs, arguments.runs, sums.failed.len());
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Arguments {
    fn cell(&self, seed: u64) -> Cell {
        let at = usize::try_from(seed % self.matrix.len() as u64).unwrap_or(0);
        self.matrix[at]
    }

    fn replay(&self, seed: u64) -> String {
        let how = self.how.map(|how| format!(" --how {how}")).unwrap_or_default();
        let halt = self.halt.map(|halt| format!(" --halt-seconds {}", halt.as_secs())).unwrap_or_default();
        format!("cargo run --release -p tests --bin kills -- --runs 1 --seed {seed}{how}{halt} --keep")
    }
}

impl Sums {
    fn add(&mut self, seed: u64, cell: Cell, done: Result<Outcome, String>, settle_max: Duration) {
        self.runs += 1;
        let field =
            self.fields.entry((format!("{} ({:?})", cell.place.name, cell.place.side), column(cell))).or_default();
        field.0 += 1;
        let outcome = match done {
            Ok(outcome) => outcome,
            Err(error) => {
                self.failed.entry(seed).or_default().push(error);
                return;
            }
        };
        field.1 += u64::from(outcome.reached);
        self.reached += u64::from(outcome.reached);
        self.counts.add(&outcome.verdict.counts);
        self.settled.add(outcome.settled);
        if outcome.settled > settle_max {
            let late = format!("settled only {:.1} s after the last fault", outcome.settled.as_secs_f64());
            self.failed.entry(seed).or_default().push(late);
        }
        for finding in &outcome.verdict.findings {
            *self.faults.entry(finding.fault).or_default() += 1;
            self.failed.entry(seed).or_default().push(finding.to_string());
        }
    }
}

fn column(cell: Cell) -> &'static str {
    match (cell.how, cell.who, cell.detached) {
        (How::Kill, Who::Child, _) => "kill child",
        (How::Kill, Who::Parent, false) => "kill parent",
        (How::Kill, Who::Both, false) => "kill both",
        (How::Kill, Who::Parent, true) => "parent, det.",
        (How::Kill, Who::Both, true) => "both, det.",
        (How::Halt, Who::Child, _) => "halt child",
        (How::Halt, ..) => "halt parent",
    }
}

fn report(sums: &Sums, arguments: &Arguments, took: Duration) -> bool {
    const COLUMNS: [&str; 7] =
        ["kill child", "kill parent", "kill both", "parent, det.", "both, det.", "halt child", "halt parent"];
    println!("{:<42} {}", "hit/runs at", COLUMNS.map(|column| format!("{column:>13}")).join(""));
    let mut places: Vec<&String> = sums.fields.keys().map(|(place, _)| place).collect();
    places.dedup();
    for place in places {
        let hits = COLUMNS.map(|column| match sums.fields.get(&(place.clone(), column)) {
            Some((runs, hits)) => format!("{:>13}", format!("{hits}/{runs}")),
            None => format!("{:>13}", "-"),
        });
        println!("{place:<42} {}", hits.join(""));
    }
    println!("{} runs in {:.0} s, {} of them hit where they were aimed", sums.runs, took.as_secs_f64(), sums.reached);
    println!("judged: {}", sums.counts);
    let counted = Fault::ALL.map(|fault| format!("{} {fault}", sums.faults.get(&fault).copied().unwrap_or_default()));
    println!("found: {}", counted.join(", "));
    println!("settled after the last fault: {}", sums.settled);
    for (seed, why) in &sums.failed {
        println!("seed {seed}, {} by {:?}:", arguments.cell(*seed).place.name, column(arguments.cell(*seed)));
        why.iter().for_each(|why| println!("  {why}"));
        println!("  {}", arguments.replay(*seed));
    }
    // A matrix that hits nothing shows nothing.
    let whole = sums.runs >= arguments.matrix.len() as u64;
    let aimed = !whole || sums.reached * 10 >= sums.runs * 9;
    if !aimed {
        println!("too few faults hit the place they were aimed at");
    }
    sums.runs > 0 && sums.failed.is_empty() && aimed
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let (mut runs, mut first, mut jobs, mut settle_max, mut keep, mut how) = (None, 0, 2, 10, false, None);
    let mut halt = None;
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("`{name}` needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is no number"));
        match name.as_str() {
            "--runs" => runs = Some(number(value()?)?),
            "--seed" => first = number(value()?)?,
            "--jobs" => jobs = number(value()?)?.clamp(1, 64),
            "--settle-max" => settle_max = number(value()?)?,
            "--halt-seconds" => match number(value()?)? {
                seconds @ 1..=60 => halt = Some(Duration::from_secs(seconds)),
                seconds => return Err(format!("a halt of {seconds} s is not possible; 1 to 60 are")),
            },
            "--keep" => keep = true,
            "--how" => {
                how = Some(match value()?.as_str() {
                    "kill" => "kill",
                    "halt" => "halt",
                    other => return Err(format!("`{other}` is neither `kill` nor `halt`")),
                });
            }
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("`{other}` is no argument")),
        }
    }
    let wanted = |cell: &Cell| match how {
        Some("kill") => cell.how == How::Kill,
        Some(_) => cell.how == How::Halt,
        None => true,
    };
    let matrix: Vec<Cell> = cells().into_iter().filter(wanted).collect();
    let runs = runs.unwrap_or(matrix.len() as u64);
    let jobs = usize::try_from(jobs).unwrap_or(1);
    Ok(Some(Arguments { runs, first, jobs, settle_max: Duration::from_secs(settle_max), keep, matrix, how, halt }))
}
