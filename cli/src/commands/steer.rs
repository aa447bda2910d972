//! `pod steer` and `pod interrupt`: tell a pod something in the turn that runs, or something else instead of it.
//!
//! What becomes of it depends on what the pod does at that moment, which it decides itself and says.

use pod::id::WorkId;
use pod::protocol::{NOTE_BYTES_MAX, RUN_INPUT_BYTES_MAX, SendKind, SendRejection, SendToPod};

use crate::args::{Global, InterruptArgs, SteerArgs};
use crate::ask::ask;
use crate::commands::running_client;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use pod::id::PodName;
use std::time::Duration;

pub(crate) async fn steer(args: &SteerArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    if args.text.trim().is_empty() {
        return Err(Failure::usage("the text is empty; say what the pod is to know"));
    }
    let key = args.key.map_or_else(WorkId::random, WorkId);
    send(
        Sending { name: &args.name, how: SendKind::Steer, text: &args.text, key, timeout: args.timeout },
        global,
        output,
    )
    .await
}

pub(crate) async fn interrupt(args: &InterruptArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let text = args.text.as_deref().unwrap_or_default();
    if args.text.is_some() && text.trim().is_empty() {
        return Err(Failure::usage("the text is empty; leave it out to leave the pod nothing to do"));
    }
    let key = args.key.map_or_else(WorkId::random, WorkId);
    send(Sending { name: &args.name, how: SendKind::Interrupt, text, key, timeout: args.timeout }, global, output).await
}

/// One wish.
pub(crate) struct Sending<'a> {
    pub(crate) name: &'a PodName,
    pub(crate) how: SendKind,
    pub(crate) text: &'a str,
    pub(crate) key: WorkId,
    pub(crate) timeout: Duration,
}

/// Sends, and says what became of it.
pub(crate) async fn send(sending: Sending<'_>, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let Sending { name, how, text, key, timeout } = sending;
    let (bytes, max) = (text.len(), if how == SendKind::Steer { NOTE_BYTES_MAX } else { RUN_INPUT_BYTES_MAX });
    if bytes > max {
        let message =
            format!("the text has {bytes} bytes, at most {max} are allowed; put it in a file and send its path");
        return Err(Failure::usage(message));
    }
    let client = running_client(global, name)?;
    let command = match how {
        SendKind::Steer => format!("pod steer {name} ... --key {key}"),
        SendKind::FollowUp => format!("pod send {name} ... --after --key {key}"),
        SendKind::Interrupt => format!("pod interrupt {name} ... --key {key}"),
    };
    let unsure = if text.is_empty() {
        format!("`pod inspect {name}` shows what it does")
    } else {
        format!("`{command}` does it once, whatever became of this one")
    };
    let request = SendToPod { key, how, text: text.into() };
    let sent = ask(&client, request, timeout, &unsure, |rejection| in_words(name, rejection)).await?;
    output.line(format!("`{name}` {sent}"))?;
    output.record(&serde_json::json!({ "type": "sent", "pod": name, "key": key, "outcome": sent }))?;
    Ok(Exit::Ok)
}

fn in_words(name: &PodName, rejection: &SendRejection) -> String {
    let remedy = match rejection {
        SendRejection::Paused => format!(" (`pod resume {name}`, or `pod interrupt {name} ...`)"),
        SendRejection::NothingToInterrupt => format!(" (`pod send {name} ...`)"),
        SendRejection::Full { .. } => format!("; `pod inspect {name}` shows what waits"),
        _ => String::new(),
    };
    format!("{rejection}{remedy}")
}
