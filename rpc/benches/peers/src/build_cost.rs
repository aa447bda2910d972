//! What a framework costs whoever builds with it: time of a clean build, size of the program, number of dependencies.
//!
//! Two small programs that do the same job, a service with one method and a client that calls it over a Unix socket,
//! are built from nothing in a directory of their own, in turn, with the same profile. Needs cargo, and the registry or what
//! it has fetched. Ours is to cost no more than theirs; the verdict says whether it does.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::Serialize;

use crate::contender::Failure;
use crate::report::goals::Verdict;
use crate::report::machine::Machine;
use crate::report::{Spread, short};

struct Program {
    name: &'static str,
    dependencies: String,
    source: &'static str,
}

/// What was found, and whether ours costs more.
#[derive(Serialize)]
pub(crate) struct Costs {
    machine: Machine,
    programs: Vec<Cost>,
    goals: Vec<Verdict>,
}

#[derive(Serialize)]
struct Cost {
    name: &'static str,
    /// Of each clean build, by the clock, and of all processors.
    seconds: Vec<f64>,
    cpu_seconds: Vec<f64>,
    bytes: u64,
    /// `None`: there is no `strip`.
    stripped_bytes: Option<u64>,
    dependencies: usize,
}

const OURS: &str = r#"
use rpc::{Address, Client, Never};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = String)]
struct Hello { name: String }

#[derive(rpc::Protocol)]
#[rpc(name = "world", version = 1)]
enum World { Hello(Hello) }

struct Greeter;
impl WorldHandler for Greeter {
    async fn hello(&self, m: Hello) -> Result<String, Never> { Ok(format!("Hello, {}!", m.name)) }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = Address::unix(std::env::args().nth(1).ok_or("usage: PATH")?);
    let server = rpc::serve::<World>(&address, Greeter).await?;
    let client = Client::<World>::new(&address);
    println!("{}", rpc::call(&client, Hello { name: "world".to_owned() }).await?);
    server.drain().await;
    Ok(())
}
"#;

const TARPC: &str = r#"
use futures::StreamExt;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport::unix};

#[tarpc::service]
trait World {
    async fn hello(name: String) -> String;
}

#[derive(Clone)]
struct Greeter;
impl World for Greeter {
    async fn hello(self, _: context::Context, name: String) -> String { format!("Hello, {name}!") }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: PATH")?;
    let mut incoming = unix::listen(&path, Bincode::default).await?;
    tokio::spawn(async move {
        while let Some(Ok(transport)) = incoming.next().await {
            let calls = BaseChannel::with_defaults(transport).execute(Greeter.serve());
            tokio::spawn(calls.for_each(|call| async move { drop(tokio::spawn(call)) }));
        }
    });
    let client = WorldClient::new(client::Config::default(), unix::connect(&path, Bincode::default).await?).spawn();
    println!("{}", client.hello(context::current(), "world".to_owned()).await?);
    Ok(())
}
"#;

fn programs() -> [Program; 2] {
    let rpc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tokio = "tokio = { version = \"1.52\", features = [\"rt\", \"macros\"] }\n";
    [
        Program {
            name: "rpc",
            dependencies: format!(
                "rpc = {{ path = {rpc:?} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n{tokio}"
            ),
            source: OURS,
        },
        Program {
            name: "tarpc",
            dependencies: format!(
                "tarpc = {{ version = \"0.38\", features = [\"serde-transport\", \"serde-transport-bincode\", \"tokio1\", \
                 \"unix\"] }}\nfutures = {{ version = \"0.3\", default-features = false }}\n{tokio}"
            ),
            source: TARPC,
        },
    ]
}

/// Builds both programs `rounds` times from nothing.
pub(crate) fn measure(rounds: usize) -> Result<Costs, Failure> {
    let root = tempfile::tempdir()?;
    let programs = programs();
    for program in &programs {
        let directory = root.path().join(program.name);
        std::fs::create_dir_all(directory.join("src"))?;
        let manifest = format!(
            "[package]\nname = \"minimal\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n{}",
            program.dependencies
        );
        std::fs::write(directory.join("Cargo.toml"), manifest)?;
        std::fs::write(directory.join("src/main.rs"), program.source)?;
        // Downloads are no part of a build.
        cargo(&directory, &["fetch"])?;
    }
    let mut costs: Vec<Cost> = Vec::new();
    for round in 1..=rounds.max(1) {
        for (at, program) in programs.iter().enumerate() {
            eprintln!("round {round}: {}", program.name);
            let directory = root.path().join(program.name);
            let _ = std::fs::remove_dir_all(directory.join("target"));
            let (cpu_before, started) = (children_cpu_seconds()?, Instant::now());
            cargo(&directory, &["build", "--release", "--offline"])?;
            let (seconds, cpu_seconds) = (started.elapsed().as_secs_f64(), children_cpu_seconds()? - cpu_before);
            if round == 1 {
                costs.push(cost(program, &directory, root.path())?);
            }
            costs[at].seconds.push(seconds);
            costs[at].cpu_seconds.push(cpu_seconds);
        }
    }
    let goals = verdicts(&costs[0], &costs[1]);
    Ok(Costs { machine: Machine::this(), programs: costs, goals })
}

/// What does not depend on the time.
fn cost(program: &Program, directory: &Path, scratch: &Path) -> Result<Cost, Failure> {
    let built = directory.join("target/release/minimal");
    works(program, &built, scratch)?;
    Ok(Cost {
        name: program.name,
        seconds: Vec::new(),
        cpu_seconds: Vec::new(),
        bytes: std::fs::metadata(&built)?.len(),
        stripped_bytes: stripped_bytes(&built, directory)?,
        dependencies: dependencies(directory)?,
    })
}

fn verdicts(ours: &Cost, theirs: &Cost) -> Vec<Verdict> {
    let verdict = |goal: &str, measured: String, reached: bool| Verdict {
        workload: "build".to_owned(),
        goal: format!("{goal} at most {}'s", theirs.name),
        measured,
        reached: Some(reached),
    };
    let median = |figures: &[f64]| Spread::of(figures).median;
    let at_most = |goal: &str, unit: &str, ours: f64, theirs: f64| {
        verdict(goal, format!("{} {unit}, theirs {}", short(ours), short(theirs)), ours <= theirs)
    };
    // Of the processors rather than by the clock: that depends on what else the machine does.
    let mut verdicts = vec![
        at_most("processor time of a clean release build", "s", median(&ours.cpu_seconds), median(&theirs.cpu_seconds)),
        at_most("number of dependencies", "packages", ours.dependencies as f64, theirs.dependencies as f64),
    ];
    if let Some((ours, theirs)) = ours.stripped_bytes.zip(theirs.stripped_bytes) {
        verdicts.push(at_most("size of the stripped program", "KiB", ours as f64 / 1024.0, theirs as f64 / 1024.0));
    }
    verdicts
}

impl Costs {
    /// As aligned text.
    pub(crate) fn text(&self) -> String {
        let row = |name: &str, cells: [String; 5]| {
            format!("{name:8}{}\n", cells.map(|cell| format!("  {cell:>22}")).concat())
        };
        let mut text = row("", HEAD.map(str::to_owned));
        for cost in &self.programs {
            text += &row(cost.name, cost.cells());
        }
        for goal in &self.goals {
            text += &format!("{}  {}  {}\n", goal.word(), goal.goal, goal.measured);
        }
        text
    }

    /// As a table of Markdown.
    pub(crate) fn markdown(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "A service with one method and its client, built from nothing with `--release`; {} ({} CPUs), {}, commit {}:\n\
             `cargo run --release --manifest-path rpc/benches/peers/Cargo.toml -- build-cost`\n\n| | {} |\n|---{}|\n",
            machine.processor,
            machine.cpus,
            machine.date,
            machine.commit,
            HEAD.join(" | "),
            "|---:".repeat(HEAD.len())
        );
        for cost in &self.programs {
            text += &format!("| {} | {} |\n", cost.name, cost.cells().join(" | "));
        }
        for goal in self.goals.iter().filter(|goal| goal.reached == Some(false)) {
            text += &format!("\nNot reached: {}: {}\n", goal.goal, goal.measured);
        }
        text
    }
}

const HEAD: [&str; 5] = ["clean release build, s", "CPU of it, s", "program, KiB", "stripped, KiB", "dependencies"];

impl Cost {
    fn cells(&self) -> [String; 5] {
        let spread = |figures: &[f64]| {
            let spread = Spread::of(figures);
            format!("{} ({}..{})", short(spread.median), short(spread.min), short(spread.max))
        };
        [
            spread(&self.seconds),
            spread(&self.cpu_seconds),
            (self.bytes / 1024).to_string(),
            self.stripped_bytes.map_or_else(|| "no `strip`".to_owned(), |bytes| (bytes / 1024).to_string()),
            self.dependencies.to_string(),
        ]
    }
}

/// Processor time of all children that have ended, and of theirs. Unlike the time on the clock it does not depend on
/// what else the machine does.
fn children_cpu_seconds() -> Result<f64, Failure> {
    /// What the kernel reports these times in, on every Linux.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name, in parentheses, may have spaces; the state follows, which is field 3.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<f64> = fields.skip(13).take(2).filter_map(|field| field.parse().ok()).collect();
    match ticks.as_slice() {
        [user, system] => Ok((user + system) / TICKS_PER_SECOND),
        _ => Err("/proc/self/stat is not as expected".into()),
    }
}

fn cargo(directory: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new("cargo")
        .args(arguments)
        .current_dir(directory)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program that does not do its job would be a cheap one.
fn works(program: &Program, built: &Path, scratch: &Path) -> Result<(), Failure> {
    let directory = scratch.join(program.name).join("run");
    std::fs::create_dir_all(&directory)?;
    std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let output = Command::new(built).arg(directory.join("socket")).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if said.trim() == "Hello, world!" {
        return Ok(());
    }
    Err(format!("{} does not work: {said}{}", program.name, String::from_utf8_lossy(&output.stderr)).into())
}

/// Packages that are built for it, those that only run at build time too, without itself.
fn dependencies(directory: &Path) -> Result<usize, Failure> {
    let tree =
        cargo(directory, &["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}", "--offline"])?;
    let packages: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    Ok(packages.iter().filter(|package| !package.is_empty() && !package.starts_with("minimal ")).count())
}

fn stripped_bytes(built: &Path, directory: &Path) -> Result<Option<u64>, Failure> {
    let stripped = directory.join("stripped");
    match Command::new("strip").arg("-o").arg(&stripped).arg(built).status() {
        Ok(status) if status.success() => Ok(Some(std::fs::metadata(stripped)?.len())),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(name: &'static str, seconds: f64, bytes: u64, dependencies: usize) -> Cost {
        let stripped_bytes = Some(bytes);
        Cost { name, seconds: vec![1.0], cpu_seconds: vec![seconds], bytes: 2 * bytes, stripped_bytes, dependencies }
    }

    #[test]
    fn verdict_is_missed_by_what_costs_more_and_by_nothing_else() {
        let theirs = cost("theirs", 10.0, 2_000, 50);
        let reached = |ours: &Cost| verdicts(ours, &theirs).iter().map(|goal| goal.reached).collect::<Vec<_>>();
        assert_eq!(reached(&cost("ours", 10.0, 2_000, 50)), [Some(true); 3]);
        assert_eq!(reached(&cost("ours", 10.1, 2_000, 50)), [Some(false), Some(true), Some(true)]);
        assert_eq!(reached(&cost("ours", 9.0, 2_000, 51)), [Some(true), Some(false), Some(true)]);
        assert_eq!(reached(&cost("ours", 9.0, 2_001, 1)), [Some(true), Some(true), Some(false)]);
    }
}
