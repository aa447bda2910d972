//! What the pods of the process tests are started from.
//!
//! Started by a parent it is that child. `host_pod parent NAME KIND` is a parent with a worker of that kind,
//! which reads what to do from its standard input. `host_pod forge SOCKET OFFER` makes an offer that it has no right to make, and prints the answer.
//!
//! Used by `tests::world`; roots come from `PODS_ROOT`.
#![allow(clippy::print_stdout, reason = "a command prints")]

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::time::Duration;

use pod::error::in_one_line;
use pod::protocol::{ChildReady, PodEventOffer};
use pod::{Method, PodController, PodHandle, PodOptions, SpawnPod, Work, WorkId, WorkerSpec};
use tests::world::{Ask, Told};
use tokio::io::{AsyncBufReadExt as _, BufReader};

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    equip();
    let workers = tests::world::workers();
    pod::host(&workers);
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["parent", name, kind] => runtime.block_on(parent(name, kind)),
        ["forge", socket, offer] => runtime.block_on(forge(socket, offer)),
        ["forge-ready", socket, ready] => runtime.block_on(forge_ready(socket, ready)),
        _ => Err("usage: host_pod parent NAME KIND | forge SOCKET OFFER | forge-ready SOCKET READY".into()),
    };
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&Told::Failed(in_one_line(&*error)));
            ExitCode::from(3)
        }
    }
}

/// A child whose life is to be special is started again, in the same process, with what the test has put down for it.
#[expect(clippy::disallowed_methods, reason = "the process replaces itself")]
fn equip() {
    let child = std::env::var("POD_CHILD").ok().and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let name = child.as_ref().and_then(|child| child["pod"]["name"].as_str());
    let (Some(name), Some(root)) = (name, std::env::var_os("PODS_ROOT")) else { return };
    let file = std::path::Path::new(&root).join(format!("environment-{name}"));
    let Ok(text) = std::fs::read_to_string(&file) else { return };
    // For one life.
    let _ = std::fs::remove_file(&file);
    let environment: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    if let Some((_, words)) = environment.iter().find(|(name, _)| *name == "DIE_SAYING") {
        eprintln!("{words}");
        std::process::exit(7);
    }
    let failed = std::process::Command::new("/proc/self/exe").envs(environment).exec();
    eprintln!("host_pod cannot be started again: {failed}");
    std::process::exit(9);
}

async fn parent(name: &str, kind: &str) -> Result<(), Error> {
    pod::failpoint::set_pod(name);
    let options =
        PodOptions::new(name.parse()?, WorkerSpec::of_kind(kind)).workers(tests::world::workers()).owns_process();
    let handle = PodController::spawn(options).await?;
    pod::signals::shutdown_on_signal(&handle);
    tell(&Told::Ready(std::process::id()));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut works = HashMap::new();
    loop {
        // CANCEL SAFETY: `next_line` keeps what it has read, and nothing is asked of a pod that has ended.
        let line = tokio::select! {
            line = lines.next_line() => line?,
            () = handle.wait() => return Ok(()),
        };
        // Whoever started us has gone.
        let Some(line) = line else { break };
        tell(&match answer(&handle, &mut works, serde_json::from_str(&line)?).await {
            Ok(value) => Told::Done(value),
            Err(error) => Told::Failed(in_one_line(&*error)),
        });
    }
    handle.shutdown().await;
    Ok(())
}

async fn answer(handle: &PodHandle, works: &mut HashMap<WorkId, Work>, ask: Ask) -> Result<serde_json::Value, Error> {
    Ok(match ask {
        Ask::Spawn { name, worker } => spawn(handle, SpawnPod::new(name, worker)).await?,
        Ask::SpawnAs { name, worker, lifetime, restart } => {
            spawn(handle, SpawnPod::new(name, worker).lifetime(lifetime).restart(restart)).await?
        }
        Ask::Adopt { child, from } => serde_json::to_value(handle.adopt(&child, &from).await?.id())?,
        Ask::Run { child, input } => {
            let work = handle.child(&child).ok_or("there is no such child")?.run(input).await?;
            let id = work.id();
            works.insert(id, work);
            serde_json::to_value(id)?
        }
        Ask::Ended { work } => format!("{:?}", works.get(&work).ok_or("no such work")?.ended().await).into(),
        Ask::Stop { child, grace_ms } => {
            format!("{:?}", handle.stop_pod(&child, Duration::from_millis(grace_ms)).await?).into()
        }
        Ask::Shutdown => {
            handle.shutdown().await;
            serde_json::Value::Null
        }
    })
}

async fn spawn(handle: &PodHandle, spawn: SpawnPod) -> Result<serde_json::Value, Error> {
    let child = handle.spawn_pod(spawn).await?;
    let line = handle.children().into_iter().find(|line| line.pod == *child.id());
    Ok(serde_json::to_value(line.and_then(|line| line.pid))?)
}

async fn forge(socket: &str, offer: &str) -> Result<(), Error> {
    let offer: PodEventOffer = serde_json::from_str(offer)?;
    let client = rpc::Client::<Method>::new(&rpc::Address::unix(socket));
    println!("{:?}", client.call(offer).await);
    Ok(())
}

async fn forge_ready(socket: &str, ready: &str) -> Result<(), Error> {
    let ready: ChildReady = serde_json::from_str(ready)?;
    let client = rpc::Client::<Method>::new(&rpc::Address::unix(socket));
    println!("{:?}", client.call(ready).await);
    Ok(())
}

fn tell(told: &Told) {
    let mut output = std::io::stdout().lock();
    // Nobody may be there to read it.
    let _ = serde_json::to_writer(&mut output, told).map(|()| output.write_all(b"\n").and_then(|()| output.flush()));
}
