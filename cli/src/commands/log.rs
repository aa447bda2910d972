//! `pod log`: what a pod has committed, whether it lives or not.
//!
//! With `--follow` a living pod is watched over its socket; while it does not live, its store is read, so that nothing is
//! left out between two lives. One cursor goes through both.

use std::time::Duration;

use pod::attach::{Seen, Watch};
use pod::id::PodName;
use pod::life_lock::Life;
use pod::protocol::SubscribeRejection;
use pod::runtime_dir::PodPaths;
use rpc::{CallError, Client};
use tokio::time::sleep;

use crate::args::{Global, LogArgs};
use crate::commands::{existing_pod, life_of};
use crate::entry;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::output::Output;
use crate::stopping::Signals;

/// How often it is looked whether the pod lives again. A person does not notice; one look is one lock.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn log(args: &LogArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let (_, paths) = existing_pod(global, &args.name)?;
    if !paths.store().exists() && !args.follow {
        let message =
            format!("pod `{}` has committed nothing yet; it is just starting, or never came that far", args.name);
        return Err(Failure::new(Exit::NoSuchPod, message));
    }
    let mut cursor = args.from.map_or(0, |from| from.saturating_sub(1));
    if paths.store().exists() {
        let mut follower = Follower::open(&paths)?;
        if let Some(limit) = args.limit {
            // Entries are counted without gaps, and none is ever removed.
            cursor = follower.look(|reads| reads.history_head())?.saturating_sub(limit);
        }
        cursor = stored(&mut follower, cursor, output)?;
    }
    if !args.follow {
        return Ok(Exit::Ok);
    }
    let mut signals = Signals::new()?;
    // CANCEL SAFETY: what is followed is read again by its cursor, and this process ends.
    tokio::select! {
        followed = follow(args, &paths, cursor, output) => followed,
        () = signals.next() => Ok(Exit::Ok),
    }
}

/// Prints what the store has behind `cursor`. Returns the last entry.
fn stored(follower: &mut Follower, cursor: u64, output: &mut Output) -> Result<u64, Failure> {
    follower.skip_to(cursor);
    let mut last = cursor;
    follower.catch_up(|row, _| {
        last = row.seq;
        entry::print(output, row)
    })?;
    Ok(last)
}

async fn follow(args: &LogArgs, paths: &PodPaths, mut cursor: u64, output: &mut Output) -> Result<Exit, Failure> {
    let name = &args.name;
    // Nothing is said of a pod that simply goes on.
    let mut told_dead = false;
    loop {
        if is_alive(paths)? {
            if std::mem::take(&mut told_dead) {
                say(name, true, output)?;
            }
            cursor = watched(paths, cursor, output).await?;
        }
        // What it committed and could not say any more is in its store.
        if paths.store().exists() {
            cursor = stored(&mut Follower::open(paths)?, cursor, output)?;
        }
        if !is_alive(paths)? {
            if args.until_end {
                return Ok(Exit::Ok);
            }
            if !std::mem::replace(&mut told_dead, true) {
                say(name, false, output)?;
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

fn is_alive(paths: &PodPaths) -> Result<bool, Failure> {
    Ok(matches!(life_of(paths)?, Life::Held(_)))
}

fn say(name: &PodName, alive: bool, output: &mut Output) -> Result<(), Failure> {
    output.record(&serde_json::json!({ "type": "life", "pod": name, "alive": alive }))?;
    output.line(match alive {
        true => format!("-- `{name}` lives again"),
        false => format!("-- `{name}` does not run; waiting for its next life (Ctrl-C ends)"),
    })
}

/// Prints what a living pod commits behind `cursor`, until its stream is over. Returns the last entry.
async fn watched(paths: &PodPaths, mut cursor: u64, output: &mut Output) -> Result<u64, Failure> {
    let client = Client::new(&rpc::Address::unix(paths.socket()));
    // One that is just starting or stopping does not listen; it is looked at again.
    let mut watch = match Watch::open(&client, cursor).await {
        Ok(watch) => watch,
        Err(CallError::Rejected(SubscribeRejection::BeyondHead { head })) => {
            let message = format!(
                "`{}` has entries up to {head}, and none behind {cursor}; was its store put back? Follow it with --from {}",
                paths.name(),
                head.saturating_add(1)
            );
            return Err(Failure::new(Exit::Rejected, message));
        }
        Err(_) => return Ok(cursor),
    };
    while let Some(Ok(seen)) = watch.next().await {
        if let Seen::Entry { head, line } = seen {
            cursor = head.seq;
            match output.is_json() {
                true => output.raw(&format!("{line}\n"))?,
                false => entry::print(output, &entry::parse(&line)?)?,
            }
        }
    }
    Ok(cursor)
}
