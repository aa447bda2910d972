//! 64 B echo between two processes over a Unix socket: ours, with ids, deadlines and outcomes on as users have them,
//! beside bare tokio (`LengthDelimitedCodec`) and bare blocking sockets with frames of the same size.
//!
//! `cargo bench -p rpc` takes about 25 s; `-- --quick` about 3 s, `-- --json` prints one JSON object, `-- --only NAME
//! --in-flight N` measures one contender (to profile it). All contenders take turns within one run: absolute figures move with the
//! machine, ratios of neighbours do not. Everything is measured twice: as the kernel schedules it, where waking the
//! other core is most of a lone call, and with both processes on one core, where only the work is left. Each
//! contender's server is this program again, in a process of its own, which ends when the bench does, however that
//! ends.
#![allow(missing_docs, clippy::print_stdout, reason = "a program; what it prints is its result")]
#![allow(
    clippy::disallowed_methods,
    reason = "the contenders are what rpc is compared with: bare sockets, in processes that this program starts"
)]

mod contender;
mod report;

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use contender::{CONTENDERS, Contender, Failure, Runtime};

/// How long and how often to measure.
struct Plan {
    rounds: usize,
    /// One measurement of one contender.
    slice: Duration,
    only: Option<String>,
    in_flight: Vec<usize>,
}

/// Calls in flight.
const IN_FLIGHT: [usize; 2] = [1, 64];

/// One contender with so many calls in flight: microseconds a call, one figure a round.
struct Series {
    contender: &'static Contender,
    in_flight: usize,
    micros: Vec<f64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, name, path] = arguments.as_slice()
        && serve == "--serve"
    {
        return match CONTENDERS.iter().find(|contender| contender.name == *name) {
            Some(contender) => serve_until_stdin_ends(contender, Path::new(path)),
            None => ExitCode::FAILURE,
        };
    }
    // `cargo test` runs benches too, to see that they build; only `cargo bench` says so.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let value = |flag: &str| arguments.iter().skip_while(|argument| *argument != flag).nth(1).cloned();
    let only = value("--only");
    let in_flight = value("--in-flight").and_then(|n| n.parse().ok()).map_or(IN_FLIGHT.to_vec(), |n| vec![n]);
    let plan = if has("--quick") {
        Plan { rounds: 5, slice: Duration::from_millis(25), only, in_flight }
    } else {
        Plan { rounds: 11, slice: Duration::from_millis(90), only, in_flight }
    };
    match measure_both(&plan) {
        Ok(passes) if has("--json") => {
            report::print_json(&plan, &passes);
            ExitCode::SUCCESS
        }
        Ok(passes) => {
            report::print_tables(&plan, &passes);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// First as the kernel likes, then on one core: what is started from there on inherits it.
fn measure_both(plan: &Plan) -> Result<[(&'static str, Vec<Series>); 2], Failure> {
    let free = measure(plan)?;
    let mut one_core = CpuSet::new();
    one_core
        .set((0..CpuSet::MAX_CPU).find(|cpu| sched_getaffinity(None).is_ok_and(|all| all.is_set(*cpu))).unwrap_or(0));
    sched_setaffinity(None, &one_core)?;
    Ok([("any core", free), ("one core", measure(plan)?)])
}

fn measure(plan: &Plan) -> Result<Vec<Series>, Failure> {
    let scratch = tempfile::tempdir()?;
    let directory = scratch.path().join("echo");
    std::fs::create_dir(&directory)?;
    std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let mut running = Vec::new();
    let chosen = || CONTENDERS.iter().filter(|c| plan.only.as_deref().is_none_or(|only| only == c.name));
    for contender in chosen() {
        let path = directory.join(contender.name);
        let server = Server::start(contender, &path)?;
        let mut drives = Vec::new();
        for in_flight in plan.in_flight.iter().copied() {
            drives.push((in_flight, contender.connect(&path, in_flight)?));
        }
        running.push((contender, drives, server));
    }
    let mut series: Vec<Series> = chosen()
        .flat_map(|contender| {
            plan.in_flight.iter().map(|&in_flight| Series { contender, in_flight, micros: Vec::new() })
        })
        .collect();
    for round in 0..=plan.rounds {
        for (contender, drives, _) in &mut running {
            for (in_flight, drive) in drives {
                let started = Instant::now();
                let calls = drive(plan.slice)?;
                let micros = started.elapsed().as_secs_f64() * 1e6 / calls as f64;
                let mine = |s: &&mut Series| s.contender.name == contender.name && s.in_flight == *in_flight;
                // The first round warms caches, buffers and the processor's clock.
                if let (Some(series), true) = (series.iter_mut().find(mine), round > 0) {
                    series.micros.push(micros);
                }
            }
        }
    }
    Ok(series)
}

/// A server process, ended when this is dropped; it also ends by itself when our end of its standard input closes.
struct Server(Child);

impl Server {
    fn start(contender: &Contender, path: &Path) -> std::io::Result<Self> {
        let mut server = Self(
            Command::new(std::env::current_exe()?)
                .args(["--serve", contender.name])
                .arg(path)
                .stdin(Stdio::piped())
                .spawn()?,
        );
        let give_up = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(path).is_err() {
            if server.0.try_wait()?.is_some() || Instant::now() > give_up {
                return Err(std::io::Error::other(format!("the server of `{}` does not listen", contender.name)));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve_until_stdin_ends(contender: &Contender, path: &Path) -> ExitCode {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
    match contender.serve(path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the server of `{}` failed: {error}", contender.name);
            ExitCode::FAILURE
        }
    }
}

fn runtime_of(kind: Runtime) -> std::io::Result<tokio::runtime::Runtime> {
    match kind {
        Runtime::OneThread => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        Runtime::ManyThreads => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
    }
}
