//! `pod pause`, `pod resume`, `pod cancel`: what becomes of the turn that runs.
//!
//! A pod says at once that it has passed the wish on, and to which turn; a worker may take a while to end it. These
//! commands wait for that end unless they are told not to, and say how that turn ended, as it is committed: never what some
//! other turn did, and never what was merely asked for.

use std::time::Duration;

use pod::id::{PodName, TurnId};
use pod::protocol::{Cancel, ControlAck, ControlRejection, Pause, PodState, Resume, TurnResult};
use pod::store::{HistoryItem, TurnOutcome};
use tokio::time::{Instant, interval};

use crate::args::{ControlArgs, Global, ResumeArgs};
use crate::ask::ask;
use crate::commands::{existing_pod, running_client, seconds};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::output::{Output, one_line};

/// How often the history is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// LIMIT: characters of what a worker said when it failed.
const SHOWN_CHARS: usize = 160;

/// What is to become of the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Pause,
    Cancel,
}

pub(crate) async fn end_turn(
    wish: Wish,
    args: &ControlArgs,
    global: &Global,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let name = &args.name;
    let client = running_client(global, name)?;
    let (_, paths) = existing_pod(global, name)?;
    // What is committed from here on is looked at, so that an end that comes before the answer is not missed.
    let mut follower = Follower::open(&paths)?;
    follower.skip_to(follower.look(|reads| reads.history_head())?);
    let until = Instant::now() + args.timeout;
    let said = |rejection: &ControlRejection| in_words(name, rejection);
    let unsure = format!("`pod ls` shows what `{name}` does, and asking again does no harm");
    let ack = match wish {
        Wish::Pause => ask(&client, Pause, args.timeout, &unsure, said).await?,
        Wish::Cancel => ask(&client, Cancel, args.timeout, &unsure, said).await?,
    };
    let Some(turn) = ack.turn else { return without_turn(wish, name, &ack, output) };
    if args.no_wait && ack.staged {
        output.line(format!("asked: turn {turn} of `{name}` is told to end"))?;
        output.record(&record("asked", name, Some(turn), ack.state))?;
        return Ok(Exit::Ok);
    }
    let ended = if ack.staged { end_of(&mut follower, wish, args, turn, until).await? } else { wanted(wish) };
    // What is committed; the pod itself may be doing the next thing already.
    let state = follower.look(|reads| reads.control()).map_err(after_the_answer)?.state;
    if ended != wanted(wish) {
        let wish = match wish {
            Wish::Pause => "it could pause",
            Wish::Cancel => "it was cancelled",
        };
        let how = match &ended {
            TurnOutcome::Ended { result } => result.to_string(),
            TurnOutcome::Errored { message, .. } => format!("failed: {}", one_line(message, SHOWN_CHARS)),
        };
        let message = format!("turn {turn} of `{name}` ended before {wish}, as {how}; the pod is {state} now");
        return Err(Failure::new(Exit::Rejected, message));
    }
    match wish {
        Wish::Pause => {
            let how = if ack.staged { "paused" } else { "paused already" };
            output.line(format!("{how}: turn {turn} of `{name}` goes on with `pod resume {name}`"))?;
            output.record(&record("paused", name, Some(turn), state))?;
        }
        Wish::Cancel => {
            output.line(format!("cancelled: turn {turn} of `{name}` has ended; the pod is {state}"))?;
            output.record(&record("cancelled", name, Some(turn), state))?;
        }
    }
    Ok(Exit::Ok)
}

/// What was told concerns no turn that has a number: a rewind, or a turn whose start has to be tried again.
fn without_turn(wish: Wish, name: &PodName, ack: &ControlAck, output: &mut Output) -> Result<Exit, Failure> {
    if wish == Wish::Cancel && ack.state != PodState::Running {
        output.line(format!("cancelled: the rewind of `{name}` that waited for its children is given up"))?;
        output.record(&record("cancelled", name, None, ack.state))?;
        return Ok(Exit::Ok);
    }
    let message = format!(
        "the turn of `{name}` that is about to start cannot be started yet, and is told to end when it is; `pod ls` shows \
         what `{name}` does"
    );
    Err(Failure::new(Exit::Unknown, message))
}

pub(crate) async fn resume(args: &ResumeArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let name = &args.name;
    let client = running_client(global, name)?;
    let unsure = format!("`pod ls` shows what `{name}` does");
    let ControlAck { state, turn, staged } =
        ask(&client, Resume, args.timeout, &unsure, |rejection: &ControlRejection| in_words(name, rejection)).await?;
    let what = match turn {
        Some(turn) => format!("goes on with what was paused, in turn {turn}"),
        None if staged => "goes on with what was paused as soon as it can".to_owned(),
        None => "starts turns again".to_owned(),
    };
    output.line(format!("resumed: `{name}` {what}"))?;
    output.record(&record("resumed", name, turn, state))?;
    Ok(Exit::Ok)
}

fn wanted(wish: Wish) -> TurnOutcome {
    let result = match wish {
        Wish::Pause => TurnResult::Paused,
        Wish::Cancel => TurnResult::Cancelled,
    };
    TurnOutcome::Ended { result }
}

/// Waits until the end of `turn` is committed.
async fn end_of(
    follower: &mut Follower,
    wish: Wish,
    args: &ControlArgs,
    turn: TurnId,
    until: Instant,
) -> Result<TurnOutcome, Failure> {
    let name = &args.name;
    let paused = wanted(Wish::Pause);
    let mut ticks = interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let mut ended = None;
        let looked = follower.catch_up(|row, _| {
            if let (HistoryItem::TurnEnded { outcome }, true) = (&row.item, row.turn == Some(turn)) {
                ended = Some(outcome.clone());
            }
            Ok(())
        });
        looked.map_err(after_the_answer)?;
        match ended {
            // What is paused is still to be given up.
            Some(outcome) if wish == Wish::Cancel && outcome == paused => {}
            Some(outcome) => return Ok(outcome),
            None => {}
        }
        if Instant::now() >= until {
            return Err(Failure::new(
                Exit::Unknown,
                format!(
                    "turn {turn} of `{name}` was told to end and still runs after {}; wait, or stop the pod with \
                     `pod stop {name} --now`",
                    seconds(args.timeout)
                ),
            ));
        }
    }
}

/// The pod has taken the request: whatever fails from there on leaves it open what became of it.
fn after_the_answer(error: Failure) -> Failure {
    error.with_exit(Exit::Unknown)
}

fn record(kind: &str, name: &PodName, turn: Option<TurnId>, state: PodState) -> serde_json::Value {
    serde_json::json!({ "type": kind, "pod": name, "turn": turn, "state": state.to_string() })
}

/// A rejection, and what to do about it.
pub(crate) fn in_words(name: &PodName, rejection: &ControlRejection) -> String {
    let remedy = match rejection {
        ControlRejection::NotPaused => format!("; give `{name}` work with `pod send {name} ...`"),
        ControlRejection::NotRunning => format!("; `pod log {name}` shows how its last one ended"),
        ControlRejection::AlreadyRunning { .. } => {
            format!("; wait for its end, or end it with `pod pause {name}` or `pod cancel {name}`")
        }
        ControlRejection::Stopping => "; its next life can be asked".to_owned(),
        ControlRejection::Unavailable { .. } => format!("; `pod log {name}` shows what is committed"),
        ControlRejection::Invalid { .. } | ControlRejection::Cap { .. } => String::new(),
    };
    format!("{rejection}{remedy}")
}
