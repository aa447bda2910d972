//! Runs worlds of the simulator: many, to find a broken promise, or one, to see it line by line.
//!
//! `sim --seeds N [--seed FIRST] [--plant NAME]` prints what happened and how fast; `sim --seed S --trace` shows one.
//! Exit code 0: every promise was kept. 1: one was broken; how to see it again is printed. 2: wrong arguments.
#![allow(clippy::print_stdout, reason = "a command prints")]

use std::process::ExitCode;
use std::time::Instant;

use tests::sim::{Options, Plant, replay_command, run_all, run_caught};

const USAGE: &str =
    "usage: sim [--seeds N] [--seed FIRST] [--plant ack-before-apply|resolve-without-refusal] [--trace]";

struct Arguments {
    seeds: u64,
    first: u64,
    options: Options,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            println!("{wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let options = arguments.options;
    if options.trace {
        let report = run_caught(arguments.first, options);
        report.trace.iter().for_each(|line| println!("{line}"));
        println!("seed {}: {} steps, {} us of its own time", report.seed, report.steps, report.micros);
        return match report.violation {
            None => ExitCode::SUCCESS,
            Some(violation) => {
                println!("{} at {} us: {}", violation.promise, violation.at, violation.text);
                ExitCode::FAILURE
            }
        };
    }
    let start = Instant::now();
    let summary = run_all(arguments.first..arguments.first.saturating_add(arguments.seeds), options, 5);
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", summary.coverage);
    for never in summary.coverage.missing() {
        println!("    never  {never}");
    }
    println!(
        "{} seeds, {} steps, {seconds:.1} s: {:.0} seeds per second; {} broke a promise",
        summary.worlds,
        summary.steps,
        summary.worlds as f64 / seconds,
        summary.failures.len()
    );
    for report in &summary.failures {
        if let Some(violation) = &report.violation {
            println!("seed {}: {} at {} us: {}", report.seed, violation.promise, violation.at, violation.text);
            println!("  {}", replay_command(report, options));
        }
    }
    if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments { seeds: 1000, first: 0, options: Options::default() };
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("`{name}` needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("`{text}` is no number"));
        match name.as_str() {
            "--seeds" => parsed.seeds = number(value()?)?,
            "--seed" => parsed.first = number(value()?)?,
            "--trace" => parsed.options.trace = true,
            "--plant" => {
                let wanted = value()?;
                let plant = Plant::ALL.into_iter().find(|plant| plant.name() == wanted);
                parsed.options.plant = Some(plant.ok_or(format!("there is no bug `{wanted}`"))?);
            }
            other => return Err(format!("`{other}` is no argument")),
        }
    }
    Ok(parsed)
}
