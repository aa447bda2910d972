//! A worker that does what it is told step by step, and grows a tree that way: its input is a list of steps, some of
//! which are for its children.
//!
//! A step that fails is written down, and the next one is taken: what has been killed meanwhile is no reason to stop.
//! Reads every report that it is given.
//!
//! What the pods of `drive` host.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use pod::protocol::RunRejection;
use pod::store::TurnCause;
use pod::worker::Signal;
use pod::{Lifetime, PodName, Restart, RunError, SpawnPod, TurnContext, TurnEnd, Worker, WorkerError, WorkerSpec};
use serde::{Deserialize, Serialize};

/// The kind of this worker.
pub const GROVE: &str = "grove";

/// LIMIT: how long a step waits for a child.
const WAIT_MAX: Duration = Duration::from_secs(90);

/// LIMIT: how often a child that is busy is asked again: about two seconds.
const TRIES_MAX: u32 = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Write this.
    Say(String),
    /// Wait for so many milliseconds.
    SleepMs(u64),
    /// Start this child, which does the same.
    Grow(PodName),
    /// Start this child, which does the same, with this lifetime, to be started again as the policy says.
    GrowKept(PodName, Lifetime, Restart),
    /// Give this child these steps, and go on.
    Give(PodName, Vec<Self>),
    /// Give this child these steps, and wait until their turn has ended.
    GiveAndWait(PodName, Vec<Self>),
    /// End this child, and wait for its end.
    Stop(PodName),
    /// Fail.
    Fail,
    /// Die as if by `kill -9`, and have it on record.
    Die,
}

/// The worker.
#[derive(Debug)]
pub(super) struct Grove;

impl Worker for Grove {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            if cx.cause() == TurnCause::Run {
                let steps: Vec<Step> = super::workers::input(cx)?;
                for step in steps {
                    let stop = cx.signalled();
                    // CANCEL SAFETY: what a step has begun goes on in the pod; that nobody waits for it changes nothing.
                    let told = tokio::select! {
                        done = perform(cx, step) => match done {
                            Ok(()) => continue,
                            Err(Failed) => return Err(WorkerError::new("told to fail")),
                        },
                        signal = stop => signal,
                    };
                    return Ok(if told == Signal::Pause { TurnEnd::Paused } else { TurnEnd::Cancelled });
                }
            }
            while !cx.next_request().await?.is_empty() {
                cx.response_received().await?;
            }
            Ok(TurnEnd::Finished)
        })
    }
}

/// It was told to.
struct Failed;

async fn perform(cx: &TurnContext, step: Step) -> Result<(), Failed> {
    let done = match step {
        Step::Say(text) => cx.output(&text).await.map_err(|error| error.to_string()),
        Step::SleepMs(ms) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(())
        }
        Step::Grow(name) => grow(cx, name, Lifetime::Tied, Restart::default()).await,
        Step::GrowKept(name, lifetime, restart) => grow(cx, name, lifetime, restart).await,
        Step::Give(child, steps) => give(cx, &child, &steps).await.map(|_| ()),
        Step::GiveAndWait(child, steps) => match give(cx, &child, &steps).await {
            Ok(work) => tokio::time::timeout(WAIT_MAX, work.ended()).await.map(|_| ()).map_err(|late| late.to_string()),
            Err(error) => Err(error),
        },
        Step::Stop(child) => cx.pod().stop_pod(&child, WAIT_MAX).await.map(|_| ()).map_err(|error| error.to_string()),
        Step::Fail => return Err(Failed),
        Step::Die => {
            // Where the lives of this world are judged, this one's end is explained.
            let record = serde_json::json!({ "dies": cx.pod().id() });
            if let (Some(directory), name) = (std::env::var_os("POD_WITNESS"), cx.pod().id().name.as_str()) {
                let _ = append(&Path::new(&directory).join(format!("{name}-dies")), &record.to_string());
            }
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::future::pending().await
        }
    };
    if let Err(why) = done {
        // If even this cannot be written, the turn's end cannot be either.
        let _ = cx.output(&format!("not done: {why}")).await;
    }
    Ok(())
}

async fn grow(cx: &TurnContext, name: PodName, lifetime: Lifetime, restart: Restart) -> Result<(), String> {
    let spawn = SpawnPod::new(name, WorkerSpec::of_kind(GROVE)).lifetime(lifetime).restart(restart);
    cx.spawn_pod(spawn).await.map(|_| ()).map_err(|error| error.to_string())
}

async fn give(cx: &TurnContext, child: &PodName, steps: &[Step]) -> Result<pod::Work, String> {
    let input = serde_json::to_string(steps).map_err(|error| error.to_string())?;
    let mut tries = TRIES_MAX;
    loop {
        match cx.delegate(child, input.clone()).await {
            // It may be busy with what somebody else gave it, or has not seen yet that its last turn is over.
            Err(RunError::Rejected(RunRejection::AlreadyRunning { .. })) if tries > 0 => tries -= 1,
            given => return given.map_err(|error| error.to_string()),
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("\n{line}").as_bytes())
}
