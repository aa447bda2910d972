//! Keeps a tree of pods under random work, kills, halts, stops and restarts for a while, and judges what is left.
//!
//! What it takes and what its exit code means is in [`USAGE`].
#![allow(clippy::print_stdout, reason = "a command prints")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tests::drive::{Done, Plan, Shape, Soak, soak};

const USAGE: &str = "\
Grows a tree of pods, gives them work, kills, halts, stops and restarts them at random, brings all of it to rest, and
judges their stores.

usage: soak [--minutes N | --seconds N] [--seed S] [--pods N] [--settle-max N] [--keep] [--plan]

  --minutes N   for how long there are faults (default 1)
  --seconds N   the same, in seconds
  --seed S      what is done when follows from it (default 0); what comes of it, from the machine as well
  --pods N      pods that may live at once (default 200)
  --settle-max N  seconds in which everything is settled after the last fault (default 10, for a machine that does nothing else)
  --keep        leave the files where they are if something is wrong, and say where
  --plan        print what would be done, and do nothing
  --help        print this

Needs the program `host_pod` beside itself: cargo build --release -p tests --bins.

A line on standard error every 10 s says how far it is. Interrupted, it ends its processes and says so.

Exit code 0: nothing acked was lost, nothing was applied twice, no gap, one end for each life, every work was settled
once and in time, nobody was falsely lost, every life was the child of one pod, and memory and descriptors of this program stayed within their bounds. 1: not so.
2: wrong arguments.";

const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// LIMIT: the runner keeps one line for each run that was accepted; the stores are read when all is over.
const MEMORY_MAX_KIB: u64 = 1024 * 1024;
/// LIMIT: one connection for each call under way, and what a look at a store opens for a moment.
const DESCRIPTORS_MAX: usize = 256;

struct Arguments {
    shape: Shape,
    settle_max: Duration,
    keep: bool,
    only_plan: bool,
}

fn main() -> ExitCode {
    let arguments = match tests::drive::arguments(USAGE, parse) {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let plan = Plan::new(arguments.shape);
    let Shape { seed, pods, length } = arguments.shape;
    println!("seed {seed}: {} actions in {} s, plan {:016x}", plan.actions.len(), length.as_secs(), plan.digest());
    if arguments.only_plan {
        plan.actions.iter().for_each(|(at, action)| println!("{:>9.3} s  {action:?}", at.as_secs_f64()));
        return ExitCode::SUCCESS;
    }
    let program = match tests::drive::program() {
        Ok(program) => program,
        Err(exit) => return exit,
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (began, told) = (Instant::now(), Mutex::new(Instant::now()));
    let progress = |done: &Done, at: Duration| {
        let Ok(mut told) = told.try_lock() else { return };
        if told.elapsed() >= PROGRESS_EVERY {
            *told = Instant::now();
            eprintln!("{} of {} s; {done}", at.as_secs(), length.as_secs());
        }
    };
    let ended = runtime.block_on(async {
        let soaked = Soak { program: &program, plan: &plan, keep: arguments.keep, progress: &progress };
        // CANCEL SAFETY: a soak that is dropped ends its processes.
        tokio::select! {
            ended = soak(&soaked) => ended,
            () = tests::drive::interrupted() => Err("interrupted".to_owned()),
        }
    });
    let good = match &ended {
        Ok(done) => report(done, began.elapsed(), arguments.settle_max),
        Err(error) => {
            println!("{error}");
            false
        }
    };
    if good {
        return ExitCode::SUCCESS;
    }
    let seconds = length.as_secs();
    println!("cargo run --release -p tests --bin soak -- --seconds {seconds} --seed {seed} --pods {pods} --keep");
    ExitCode::FAILURE
}

fn report(done: &Done, took: Duration, settle_max: Duration) -> bool {
    println!("{done}");
    println!("settled {:.1} s after the last fault; {:.0} s in all", done.settled.as_secs_f64(), took.as_secs_f64());
    println!("judged: {}", done.verdict);
    done.verdict.findings.iter().for_each(|finding| println!("  {finding}"));
    let bounded = done.memory_kib < MEMORY_MAX_KIB && done.descriptors < DESCRIPTORS_MAX;
    if !bounded {
        println!("the runner has used more than {} MiB or {DESCRIPTORS_MAX} descriptors", MEMORY_MAX_KIB / 1024);
    }
    // A tree in which nothing happened shows nothing.
    let counts = done.verdict.counts;
    let happened = counts.events > 0 && counts.works > 0 && counts.lives > 0;
    if !happened {
        println!("nothing has happened");
    }
    let in_time = done.settled <= settle_max;
    if !in_time {
        println!("not everything was settled within {} s after the last fault", settle_max.as_secs());
    }
    bounded && happened && in_time && done.verdict.is_clean()
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut shape = Shape { seed: 0, pods: 200, length: Duration::from_secs(60) };
    let (mut keep, mut only_plan, mut settle_max) = (false, false, Duration::from_secs(10));
    while let Some(name) = arguments.next() {
        let mut value = || {
            let text = arguments.next().ok_or(format!("`{name}` needs a value"))?;
            text.parse::<u64>().map_err(|_| format!("`{text}` is no number"))
        };
        match name.as_str() {
            "--minutes" => shape.length = Duration::from_secs(value()?.saturating_mul(60)),
            "--seconds" => shape.length = Duration::from_secs(value()?),
            "--seed" => shape.seed = value()?,
            "--settle-max" => settle_max = Duration::from_secs(value()?),
            "--pods" => {
                let pods = value()?;
                if !(2..=999).contains(&pods) {
                    return Err(format!("{pods} pods are no tree; 2 to 999 are"));
                }
                shape.pods = usize::try_from(pods).unwrap_or(2);
            }
            "--keep" => keep = true,
            "--plan" => only_plan = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("`{other}` is no argument")),
        }
    }
    // LIMIT: a plan is made before it is carried out, and a day of one is 100 MiB.
    if shape.length > Duration::from_secs(24 * 3600) || shape.length.is_zero() {
        return Err("a soak takes from a second to a day".to_owned());
    }
    Ok(Some(Arguments { shape, settle_max, keep, only_plan }))
}
