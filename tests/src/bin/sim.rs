//! Runs worlds of the simulator: many, to find a broken promise; one, to see it line by line; or those with planted
//! bugs, to see that each is found.
//!
//! What it takes and what its exit code means is in [`USAGE`].
#![allow(clippy::print_stdout, reason = "a command prints")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tests::sim::plant::{self, Bug};
use tests::sim::{Options, Run, Summary, replay_command, run_all, run_caught, threads_default};

const USAGE: &str = "\
Runs seeded worlds of the RPC session and checks every promise in each of them.

usage: sim [--seeds N] [--seed FIRST] [--threads N] [--plant BUG]
       sim --seed S [--plant BUG] --trace
       sim --planted all|BUG [--seeds N] [--threads N]

  --seeds N       how many worlds to run (default 1000)
  --seed FIRST    the seed of the first one (default 0)
  --threads N     how many run at the same time (default: one for each core); a world is the same on any of them
  --plant BUG     run them with this bug in the session
  --trace         run one world only and print what happens in it
  --planted BUG   look for this bug, or for `all` of them, and print in which world each was found
  --help          print this

While it runs, a line on standard error every 10 s says how far it is. At the end come the counts of what was seen
to happen, seeds per second, and for each world that broke a promise the command that shows it again.

Exit code 0: every promise was kept, and in 1000 worlds or more everything that must be seen was seen; with --planted:
every bug was found. 1: not so. 2: wrong arguments.";

/// Worlds after which everything must have been seen.
const SEEDS_THAT_SHOW_ALL: u64 = 1000;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

struct Arguments {
    seeds: u64,
    first: u64,
    threads: usize,
    options: Options,
    planted: Option<Vec<Bug>>,
    help: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            println!("{wrong}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let kept = if arguments.help {
        println!("{USAGE}\n\nbugs: {}", Bug::ALL.iter().map(|bug| plant::name(*bug)).collect::<Vec<_>>().join(", "));
        true
    } else if let Some(bugs) = &arguments.planted {
        search(bugs, &arguments)
    } else if arguments.options.trace {
        trace(&arguments)
    } else {
        many(&arguments)
    };
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn many(arguments: &Arguments) -> bool {
    let (options, start) = (arguments.options, Instant::now());
    let seeds = arguments.first..arguments.first.saturating_add(arguments.seeds);
    let run = Run { seeds, options, threads: arguments.threads, failures_max: 5 };
    let told = Mutex::new(start);
    let summary = run_all(&run, |summary| progress(summary, arguments.seeds, start, &told));
    println!("{}", summary.coverage);
    let missing = if options.plant.is_some() { Vec::new() } else { summary.coverage.missing() };
    for never in &missing {
        println!("    never  {never}");
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} seeds, {} steps, {seconds:.1} s on {} threads: {:.0} seeds per second; {} broke a promise",
        summary.worlds,
        summary.steps,
        arguments.threads,
        summary.worlds as f64 / seconds,
        summary.failures.len()
    );
    for report in &summary.failures {
        if let Some(violation) = &report.violation {
            println!("seed {}: {} at {} us: {}", report.seed, violation.promise, violation.at, violation.text);
            println!("  {}", replay_command(report, options));
        }
    }
    summary.failures.is_empty() && (missing.is_empty() || summary.worlds < SEEDS_THAT_SHOW_ALL)
}

fn progress(summary: &Summary, seeds: u64, start: Instant, told: &Mutex<Instant>) {
    let Ok(mut told) = told.try_lock() else { return };
    if told.elapsed() >= PROGRESS_EVERY {
        *told = Instant::now();
        let rate = summary.worlds as f64 / start.elapsed().as_secs_f64();
        let broken = summary.failures.len();
        eprintln!("{} of {seeds} seeds, {rate:.0} seeds per second; {broken} broke a promise", summary.worlds);
    }
}

fn trace(arguments: &Arguments) -> bool {
    let report = run_caught(arguments.first, arguments.options);
    report.trace.iter().for_each(|line| println!("{line}"));
    println!("seed {}: {} steps, {} us of its own time", report.seed, report.steps, report.micros);
    if let Some(violation) = &report.violation {
        println!("{} at {} us: {}", violation.promise, violation.at, violation.text);
    }
    report.violation.is_none()
}

fn search(bugs: &[Bug], arguments: &Arguments) -> bool {
    let mut missed = 0;
    println!("{:<26} {:<18} {:>10} {:>10} {:>8}", "bug", "broken", "first seed", "worlds/s", "found");
    for bug in bugs {
        let found = plant::search(*bug, arguments.seeds, arguments.threads);
        let rate = found.worlds as f64 / found.took.as_secs_f64();
        let violation = found.report.as_ref().and_then(|report| report.violation.as_ref());
        let expected = violation.is_some_and(|violation| plant::promises(*bug).contains(&violation.promise));
        missed += u32::from(!expected);
        let promise = violation.map_or("nothing", |violation| violation.promise);
        let seed = found.report.as_ref().map_or("none".to_owned(), |report| report.seed.to_string());
        let verdict = if expected { "yes" } else { "NO" };
        println!("{:<26} {promise:<18} {seed:>10} {rate:>10.0} {verdict:>8}", plant::name(*bug));
    }
    println!("{} of {} bugs found within {} seeds", bugs.len() - missed as usize, bugs.len(), arguments.seeds);
    missed == 0
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        seeds: 1000,
        first: 0,
        threads: threads_default(),
        options: Options::default(),
        planted: None,
        help: false,
    };
    let bug = |name: &str| plant::by_name(name).ok_or(format!("there is no bug `{name}`"));
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("`{name}` needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is no number"));
        match name.as_str() {
            "--seeds" => parsed.seeds = number(value()?)?,
            "--seed" => parsed.first = number(value()?)?,
            "--threads" => parsed.threads = usize::try_from(number(value()?)?).unwrap_or(1).max(1),
            "--trace" => parsed.options.trace = true,
            "--plant" => parsed.options.plant = Some(bug(&value()?)?),
            "--planted" => {
                let wanted = value()?;
                parsed.planted = Some(if wanted == "all" { Bug::ALL.to_vec() } else { vec![bug(&wanted)?] });
            }
            "--help" | "-h" => parsed.help = true,
            other => return Err(format!("`{other}` is no argument")),
        }
    }
    Ok(parsed)
}
