//! `pod pause`, `pod resume`, `pod cancel`: what becomes of the turn that runs.
//!
//! A pod says at once that it has passed the wish on; a worker may take a while to end its turn. These commands wait for
//! that unless they are told not to, so that what is typed next finds what was asked for.

use std::time::Duration;

use pod::Method;
use pod::id::{PodName, TurnId};
use pod::protocol::{Cancel, ControlAck, ControlRejection, Pause, PodState, PodStatus, Resume, Status};
use rpc::Client;
use tokio::time::{Instant, interval};

use crate::args::{ControlArgs, Global, ResumeArgs};
use crate::ask::ask;
use crate::commands::{running_client, seconds};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// How often the pod is asked how it is doing.
const LOOK_EVERY: Duration = Duration::from_millis(20);

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
    let until = Instant::now() + args.timeout;
    let before = status(&client, name, until).await?;
    let said = |rejection: &ControlRejection| in_words(name, rejection);
    let unsure = format!("`pod ls` shows what `{name}` does, and asking again does no harm");
    let left = until.saturating_duration_since(Instant::now());
    let ack = match wish {
        Wish::Pause => ask(&client, Pause, left, &unsure, said).await?,
        Wish::Cancel => ask(&client, Cancel, left, &unsure, said).await?,
    };
    let turn = before.turn;
    if args.no_wait {
        output.line(format!("asked: {} of `{name}` is told to end", in_turn(turn)))?;
        output.record(&record("asked", name, turn, ack.state))?;
        return Ok(Exit::Ok);
    }
    let (turn, state) = over(&client, wish, args, turn, until).await?;
    match wish {
        Wish::Pause if state != PodState::Paused => Err(Failure::new(
            Exit::Rejected,
            format!("{} of `{name}` ended before it could pause; the pod is {state} now", in_turn(turn)),
        )),
        Wish::Pause => {
            let how = if ack.staged { "paused" } else { "paused already" };
            output.line(format!("{how}: {} of `{name}` goes on with `pod resume {name}`", in_turn(turn)))?;
            output.record(&record("paused", name, turn, state))?;
            Ok(Exit::Ok)
        }
        Wish::Cancel => {
            output.line(format!("cancelled: {} of `{name}` has ended; the pod is {state}", in_turn(turn)))?;
            output.record(&record("cancelled", name, turn, state))?;
            Ok(Exit::Ok)
        }
    }
}

pub(crate) async fn resume(args: &ResumeArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let name = &args.name;
    let client = running_client(global, name)?;
    let unsure = format!("`pod ls` shows what `{name}` does");
    let ControlAck { state, .. } =
        ask(&client, Resume, args.timeout, &unsure, |rejection: &ControlRejection| in_words(name, rejection)).await?;
    let what = if state == PodState::Blocked { "starts turns again" } else { "goes on with what was paused" };
    output.line(format!("resumed: `{name}` {what}"))?;
    output.record(&record("resumed", name, None, state))?;
    Ok(Exit::Ok)
}

/// Waits until the turn is over, or paused if that was the wish. Returns which it was, and what the pod does then.
async fn over(
    client: &Client<Method>,
    wish: Wish,
    args: &ControlArgs,
    mut turn: Option<TurnId>,
    until: Instant,
) -> Result<(Option<TurnId>, PodState), Failure> {
    let name = &args.name;
    let mut ticks = interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let now = status(client, name, until).await?;
        let goes_on = match (now.state, turn) {
            (PodState::Paused, _) if wish == Wish::Pause => false,
            // It is being given up.
            (PodState::Paused, _) => now.turn.is_none() || now.turn == turn,
            // Its beginning was not committed yet when we looked.
            (PodState::Running, None) => {
                turn = now.turn;
                true
            }
            _ => now.turn.is_some() && now.turn == turn,
        };
        if !goes_on {
            return Ok((turn, now.state));
        }
        if Instant::now() >= until {
            return Err(Failure::new(
                Exit::Unknown,
                format!(
                    "{} of `{name}` was told to end and still runs after {}; wait, or stop the pod with \
                     `pod stop {name} --now`",
                    in_turn(turn),
                    seconds(args.timeout)
                ),
            ));
        }
    }
}

async fn status(client: &Client<Method>, name: &PodName, until: Instant) -> Result<PodStatus, Failure> {
    // However late it is, one look is for free.
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(200));
    let unsure = format!("`pod ls` shows what `{name}` does");
    ask(client, Status, left, &unsure, |never| match *never {}).await
}

fn in_turn(turn: Option<TurnId>) -> String {
    turn.map_or_else(|| "the turn".to_owned(), |turn| format!("turn {turn}"))
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
        ControlRejection::Invalid { .. } => String::new(),
    };
    format!("{rejection}{remedy}")
}
