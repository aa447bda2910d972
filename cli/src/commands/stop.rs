//! `pod stop`: asks a pod to end, and waits until its life lock is free, which is the proof that its process is gone.

use std::time::Duration;

use pod::Method;
use pod::life_lock::{Holder, Life};
use pod::protocol::{Shutdown, ShutdownMode};
use pod::runtime_dir::PodPaths;
use rpc::{CallError, Client, NotDelivered};
use tokio::time::{interval, timeout};

use crate::args::{Global, StopArgs};
use crate::commands::{existing_pod, life_of, running, seconds};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// How often the lock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) async fn stop(args: &StopArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let name = &args.name;
    let (_, paths) = existing_pod(global, name)?;
    let holder = running(&paths)?;
    let client = Client::<Method>::new(&rpc::Address::unix(paths.socket()));
    let mode = if args.now { ShutdownMode::Now } else { ShutdownMode::Graceful };
    let told = client.call(Shutdown { mode }).deadline(args.timeout).await;
    match told {
        // In doubt, the lock tells.
        Ok(_) | Err(CallError::Unknown(_)) => {}
        Err(CallError::Rejected(never)) => match never {},
        // It may have ended by itself in the meantime.
        Err(CallError::NotDelivered(why)) if life_of(&paths)? != Life::Free => {
            let refused = matches!(why, NotDelivered::Unauthorized(_));
            return Err(Failure::new(
                if refused { Exit::Rejected } else { Exit::NotDelivered },
                format!("pod `{name}` was not told to stop, it still runs as {holder}: {why}"),
            ));
        }
        Err(CallError::NotDelivered(_)) => {}
    }
    if timeout(args.timeout, gone(&paths, &holder)).await.map_err(|_| still_there(args, &holder))?.is_err() {
        return Err(Failure::internal(format!("the life lock of `{name}` cannot be looked at")));
    }
    output.line(format!("stopped: {holder} is gone"))?;
    output.record(&serde_json::json!({ "type": "stopped", "pod": name, "pid": holder.pid }))?;
    Ok(Exit::Ok)
}

/// Waits until the life that `holder` is has ended.
async fn gone(paths: &PodPaths, holder: &Holder) -> Result<(), Failure> {
    let mut ticks = interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        match life_of(paths)? {
            Life::Free => return Ok(()),
            // Somebody has started it again at once: the life that we stopped is over.
            Life::Held(now) if now.pod.is_some() && holder.pod.is_some() && now.pod != holder.pod => return Ok(()),
            Life::Held(_) => {}
        }
    }
}

fn still_there(args: &StopArgs, holder: &Holder) -> Failure {
    let name = &args.name;
    let remedy = if args.now {
        "wait, or end its process yourself".to_owned()
    } else {
        format!("wait, or cancel its turn with `pod stop {name} --now`")
    };
    let waited = seconds(args.timeout);
    Failure::new(
        Exit::Unknown,
        format!("pod `{name}` was told to stop and still runs after {waited}, as {holder}; {remedy}"),
    )
}
