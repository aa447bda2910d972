//! Echo of 64 B to 1 MiB between two processes over a Unix socket: ours, with ids, deadlines and outcomes on as users have them,
//! beside bare tokio (`LengthDelimitedCodec`) and bare blocking sockets with frames of the same size.
//!
//! `cargo bench -p rpc` takes about 90 s; `-- --quick` about 15 s, `-- --json` prints one JSON object, `-- --only NAME[,NAME]
//! --payload BYTES --in-flight N` measures part of it (to profile it), `-- --idle N[,N]` shows what a server holds for so many
//! idle connections. All contenders take turns within one run: absolute figures move with the
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
mod idle;
mod report;

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use contender::{CONTENDERS, Contender, Failure, Runtime, Workload};

/// How long and how often to measure.
struct Plan {
    rounds: usize,
    /// One measurement of one contender.
    slice: Duration,
    only: Option<String>,
    loads: Vec<Workload>,
}

/// Payloads in bytes, and calls in flight.
const LOADS: [(usize, usize); 8] =
    [(64, 1), (64, 64), (64, 1024), (4 << 10, 1), (4 << 10, 64), (64 << 10, 1), (64 << 10, 64), (1 << 20, 1)];

/// One contender with so many calls in flight: microseconds a call, one figure a round.
struct Series {
    contender: &'static Contender,
    load: Workload,
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
    let value = |flag: &str| arguments.iter().skip_while(|argument| *argument != flag).nth(1).cloned();
    if let Some(counts) = value("--idle") {
        let counts: Vec<usize> = counts.split(',').filter_map(|count| count.parse().ok()).collect();
        return match idle::print_held(&counts) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the benchmark failed: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let only = value("--only");
    let number = |flag: &str| value(flag).and_then(|n| n.parse::<usize>().ok());
    let (payload_bytes, in_flight) = (number("--payload"), number("--in-flight"));
    let mut loads: Vec<Workload> =
        LOADS.map(|(payload_bytes, in_flight)| Workload { payload_bytes, in_flight }).to_vec();
    if let (Some(payload_bytes), Some(in_flight)) = (payload_bytes, in_flight) {
        loads = vec![Workload { payload_bytes, in_flight }];
    }
    loads.retain(|load| payload_bytes.is_none_or(|n| n == load.payload_bytes));
    loads.retain(|load| in_flight.is_none_or(|n| n == load.in_flight));
    let plan = if has("--quick") {
        Plan { rounds: 5, slice: Duration::from_millis(25), only, loads }
    } else {
        Plan { rounds: 11, slice: Duration::from_millis(90), only, loads }
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
    let chosen = || {
        CONTENDERS.iter().filter(|c| plan.only.as_deref().is_none_or(|only| only.split(',').any(|name| name == c.name)))
    };
    for contender in chosen() {
        let path = directory.join(contender.name);
        let server = Server::start(contender, &path)?;
        let mut drives = Vec::new();
        for load in plan.loads.iter().copied().filter(|load| contender.can(*load)) {
            drives.push((load, contender.connect(&path, load)?));
        }
        running.push((contender, drives, server));
    }
    let mut series: Vec<Series> = chosen()
        .flat_map(|contender| plan.loads.iter().map(|&load| Series { contender, load, micros: Vec::new() }))
        .collect();
    for round in 0..=plan.rounds {
        // Neighbours in time are those that are compared: one load of all contenders, then the next.
        for load in &plan.loads {
            for (contender, drives, _) in &mut running {
                let Some((_, drive)) = drives.iter_mut().find(|(of, _)| of == load) else { continue };
                let started = Instant::now();
                let calls = drive(plan.slice)?;
                let micros = started.elapsed().as_secs_f64() * 1e6 / calls as f64;
                let mine = |s: &&mut Series| s.contender.name == contender.name && s.load == *load;
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

impl Server {
    /// What it holds in memory.
    fn resident_kib(&self) -> Result<f64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
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
