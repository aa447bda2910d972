//! `rpc` beside its peers: bare sockets, tarpc, ttrpc, zlink, capnp-rpc, tonic and remoc, in one run.
//!
//! Each contender's client and server are processes of their own (this program again), connected by a Unix socket. For
//! each workload all of them take turns, round by round: absolute figures move with the machine, ratios of neighbours
//! do not. `README.md` says what is measured and how to read it.
//!
//! `plan` says what to measure and what to reach, `contender` how each of them calls, `process` and `child` are the two
//! ends of a process, `run` and `counts` measure, `report` prints.

mod build_cost;
mod child;
mod contender;
mod counts;
mod measure;
mod plan;
mod process;
mod report;
mod run;
mod schema;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

use contender::{CONTENDERS, Failure};
use plan::{Effort, Workload};
use report::Results;

/// rpc beside its peers: client and server as two processes over a Unix socket, all contenders in turn in one run.
///
/// cargo run --release --manifest-path rpc/benches/peers/Cargo.toml -- --quick
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Arguments {
    /// Fewer workloads and rounds: about two minutes
    #[arg(long)]
    quick: bool,
    /// Write everything that was measured as JSON
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    /// Write the plots into this directory: bench-in-flight.svg, bench-connections.svg
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Write the table for the README
    #[arg(long, value_name = "FILE", global = true)]
    markdown: Option<PathBuf>,
    /// Only what matches, of `workload/contender` (see --list); `*` stands for anything, several patterns for any of them
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Rounds of each workload
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// What there is to measure, without measuring it
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Clean build time, size and dependencies of a small program with rpc, and of the same with tarpc
    BuildCost {
        /// How often each is built from nothing
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    #[command(hide = true)]
    Serve { job: String },
    #[command(hide = true)]
    Drive { job: String },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Serve { job }) => child::serve(job),
        Some(Command::Drive { job }) => child::drive(job),
        Some(Command::BuildCost { rounds }) => measure_builds(&arguments, *rounds),
        None if arguments.list => list(&arguments),
        None => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn wants(&self, workload: &str, contender: &str) -> bool {
        let name = format!("{workload}/{contender}");
        self.only.is_empty() || self.only.iter().any(|pattern| plan::matches(pattern, &name))
    }

    fn contenders(&self, workload: &str) -> Vec<&'static dyn contender::Contender> {
        CONTENDERS.iter().copied().filter(|contender| self.wants(workload, contender.name())).collect()
    }
}

fn list(arguments: &Arguments) -> Result<(), Failure> {
    let mut names = String::new();
    for workload in plan::workloads(arguments.quick) {
        for contender in arguments.contenders(&workload.id) {
            let why = workload.refused_by(contender).map(|why| format!(" ({why})")).unwrap_or_default();
            names += &format!("{}/{}{why}\n", workload.id, contender.name());
        }
    }
    for count in counts::COUNTS {
        for contender in arguments.contenders(count).into_iter().filter(|one| counts::counts(count, one.role())) {
            names += &format!("{count}/{}\n", contender.name());
        }
    }
    match io::stdout().write_all(names.as_bytes()) {
        // Whoever reads it, a pager, has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn measure_builds(arguments: &Arguments, rounds: usize) -> Result<(), Failure> {
    let costs = build_cost::measure(rounds)?;
    print!("{}", costs.text());
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&costs)? + "\n")?;
    }
    if let Some(file) = &arguments.markdown {
        std::fs::write(file, costs.markdown())?;
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<(), Failure> {
    let effort = Effort::new(arguments.quick, arguments.rounds);
    let workloads: Vec<Workload> = plan::workloads(effort.quick)
        .into_iter()
        .filter(|workload| !arguments.contenders(&workload.id).is_empty())
        .collect();
    let started = Instant::now();
    let laps: usize = workloads.iter().map(|workload| arguments.contenders(&workload.id).len()).sum();
    let per_contender = (effort.rounds + effort.timed_rounds + 1) as f64 * effort.slice.as_secs_f64() * 1.15 + 0.1;
    let counted: usize = counts::COUNTS.iter().map(|count| arguments.contenders(count).len()).sum();
    eprintln!(
        "{} workloads, {} rounds of {} ms; about {:.0} s",
        workloads.len(),
        effort.rounds,
        effort.slice.as_millis(),
        laps as f64 * per_contender + counted as f64 * 1.5
    );
    let mut results = Results::new(arguments.quick);
    for (at, workload) in (1..).zip(&workloads) {
        eprintln!("[{at}/{} {:.0} s] {}", workloads.len(), started.elapsed().as_secs_f64(), workload.id);
        results.series.extend(run::measure(workload, &effort, &arguments.contenders(&workload.id))?);
    }
    for count in counts::COUNTS {
        let mut contenders = arguments.contenders(count);
        contenders.retain(|contender| counts::counts(count, contender.role()));
        if !contenders.is_empty() {
            eprintln!("[{:.0} s] {count}", started.elapsed().as_secs_f64());
            counts::measure(count, &effort, &contenders, &mut results)?;
        }
    }
    results.seconds = started.elapsed().as_secs_f64();
    results.goals = report::goals::verdicts(&results);
    print!("{}", report::table::all(&results, &workloads));
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&results)? + "\n")?;
    }
    if let Some(file) = &arguments.markdown {
        std::fs::write(file, report::markdown::table(&results))?;
    }
    if let Some(directory) = &arguments.svg {
        for (name, svg) in report::svg::plots(&results) {
            std::fs::write(directory.join(name), svg)?;
        }
    }
    Ok(())
}
