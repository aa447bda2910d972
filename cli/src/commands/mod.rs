//! One file for each command, and what they have in common: finding the roots and a pod below them.

mod adopt;
pub(crate) mod attach;
mod compact;
pub(crate) mod completions;
mod control;
mod demo;
pub(crate) mod doctor;
pub(crate) mod events;
mod frames;
mod inspect;
mod log;
mod ls;
pub(crate) mod man;
pub(crate) mod metrics;
mod output;
mod restore;
mod restore_tree;
mod rewind;
pub(crate) mod run;
mod send;
mod serve;
mod spawn;
mod steer;
mod stop;
mod stop_all;
pub(crate) mod tree;

use std::path::PathBuf;
use std::time::Duration;

use pod::Method;
use pod::id::PodName;
use pod::life_lock::{self, Holder, Life};
use pod::runtime_dir::{PodPaths, ROOT_VARIABLE, Roots};
use rpc::Client;

use crate::args::{Cli, Command, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// LIMIT: names that are listed beside one that is unknown.
const NAMES_MAX: usize = 8;

/// Runs the command.
pub(crate) async fn dispatch(cli: &Cli, output: &mut Output) -> Result<Exit, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Run(args) => run::run(args, global, output).await,
        Command::Demo(args) => demo::demo(args, global, output).await,
        Command::Log(args) => log::log(args, global, output).await,
        Command::Events(args) => events::events(args, global, output).await,
        Command::Attach(args) => attach::attach(args, global, output).await,
        Command::Tree(args) => tree::tree(args, global, output).await,
        Command::Ls => ls::ls(global, output).await,
        Command::Metrics(args) => metrics::metrics(args, global, output).await,
        Command::Send(args) => send::send(args, global, output).await,
        Command::Pause(args) => control::end_turn(control::Wish::Pause, args, global, output).await,
        Command::Resume(args) => control::resume(args, global, output).await,
        Command::Cancel(args) => control::end_turn(control::Wish::Cancel, args, global, output).await,
        Command::Compact(args) => compact::compact(args, global, output).await,
        Command::Rewind(args) => rewind::rewind(args, global, output).await,
        Command::Adopt(args) => adopt::adopt(args, global, output).await,
        Command::Stop(args) => stop::stop(args, global, output).await,
        Command::Serve(args) => serve::serve(args, global, output).await,
        Command::Spawn(args) => spawn::spawn(args, global, output).await,
        Command::Steer(args) => steer::steer(args, global, output).await,
        Command::Interrupt(args) => steer::interrupt(args, global, output).await,
        Command::Output(args) => output::output(args, global, output),
        Command::Inspect(args) => inspect::inspect(args, global, output),
        Command::Restore(args) => restore::restore(args, global, output).await,
        Command::Frames(args) => frames::frames(args, output).await,
        Command::Doctor(args) => doctor::doctor(args, global, output),
        Command::Completions(args) => completions::completions(args, output),
        Command::Man(args) => man::man(args, output),
    }
}

/// The roots, made if need be.
fn roots(global: &Global) -> Result<Roots, Failure> {
    Roots::resolve(global.root.as_deref()).map_err(|error| Failure::from_error(Exit::Usage, error))
}

/// The roots for looking: a directory that does not exist is not made for that.
fn existing_roots(global: &Global) -> Result<Result<Roots, PathBuf>, Failure> {
    let variable = || std::env::var_os(ROOT_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    match global.root.clone().or_else(variable) {
        Some(dir) if dir.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) => {
            Ok(Err(dir))
        }
        _ => roots(global).map(Ok),
    }
}

/// The files of a pod that exists, alive or dead.
fn existing_pod(global: &Global, name: &PodName) -> Result<(Roots, PodPaths), Failure> {
    let roots = existing_roots(global)?.map_err(|dir| {
        let message = format!(
            "there is no pod `{name}`: directory `{}` does not exist; correct --root or {ROOT_VARIABLE}",
            dir.display()
        );
        Failure::new(Exit::NoSuchPod, message)
    })?;
    let paths = roots.pod(name);
    if paths.store().exists() || paths.life_lock().exists() {
        return Ok((roots, paths));
    }
    let names = roots.pods().map_err(|error| Failure::from_error(Exit::Usage, error))?;
    let known: Vec<String> = names.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    let known = match (known.is_empty(), names.len() > NAMES_MAX) {
        (true, _) => "there are none".to_owned(),
        (false, false) => format!("there are {}", known.join(", ")),
        (false, true) => format!("there are {} and more; `pod ls` lists them", known.join(", ")),
    };
    let message = format!("there is no pod `{name}` below `{}`; {known}", state_root(&paths));
    Err(Failure::new(Exit::NoSuchPod, message))
}

fn state_root(paths: &PodPaths) -> String {
    paths.state_dir().parent().unwrap_or(paths.state_dir()).display().to_string()
}

/// Who lives under that name; an error that says so, if nobody does.
fn running(paths: &PodPaths) -> Result<Holder, Failure> {
    let name = paths.name();
    match life_of(paths)? {
        Life::Held(holder) => Ok(holder),
        Life::Free => Err(Failure::new(
            Exit::NoSuchPod,
            format!(
                "pod `{name}` does not run: no process holds its life lock; `pod log {name}` shows what it has left"
            ),
        )),
    }
}

/// A client of a pod that lives.
fn running_client(global: &Global, name: &PodName) -> Result<Client<Method>, Failure> {
    let (_, paths) = existing_pod(global, name)?;
    running(&paths)?;
    Ok(Client::new(&rpc::Address::unix(paths.socket())))
}

pub(crate) fn life_of(paths: &PodPaths) -> Result<Life, Failure> {
    life_lock::probe(&paths.life_lock()).map_err(|error| Failure::from_error(Exit::Internal, error))
}

/// A duration as people read it.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
