//! `pod send`: one message to a pod that runs, and what became of it.
//!
//! Each of the four answers of a call has an exit code of its own. What remains unknown may be sent again under its key,
//! which does it once.

use std::fmt::Display;

use pod::protocol::{NOTE_BYTES_MAX, Notify, RUN_INPUT_BYTES_MAX, Run, SendKind};

use crate::args::{Global, SendArgs};
use crate::ask::ask;
use crate::commands::{running_client, steer};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn send(args: &SendArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let (name, message) = (&args.name, &args.message);
    check_message(args)?;
    if args.after {
        let (how, key) = (SendKind::FollowUp, args.work());
        let sending = steer::Sending { name, how, text: message, key, timeout: args.timeout };
        return steer::send(sending, global, output).await;
    }
    let client = running_client(global, name)?;
    if args.notify {
        let key = args.note();
        let request = Notify { key, message: message.as_str().into(), auto_run: true };
        let again = again(args, &key);
        let queued = ask(&client, request, args.timeout, &again, |rejection| rejection.to_string()).await?;
        let woke = if queued.woke { ", and a turn was started for it" } else { "" };
        output.line(format!("queued: committed in the inbox of `{name}`{woke} (key {key})"))?;
        output.record(&serde_json::json!({ "type": "queued", "pod": name, "key": key, "woke": queued.woke }))?;
    } else {
        let work = args.work();
        let request = Run { work, input: message.as_str().into() };
        let again = again(args, &work);
        let accepted = ask(&client, request, args.timeout, &again, |rejection| rejection.to_string()).await?;
        output.line(format!("accepted: `{name}` does it in turn {} (work {work})", accepted.turn))?;
        output.record(&serde_json::json!({ "type": "accepted", "pod": name, "work": work, "turn": accepted.turn }))?;
    }
    Ok(Exit::Ok)
}

/// A message that does not fit is refused, not cut.
fn check_message(args: &SendArgs) -> Result<(), Failure> {
    let (bytes, max) = (args.message.len(), if args.notify { NOTE_BYTES_MAX } else { RUN_INPUT_BYTES_MAX });
    if bytes > max {
        return Err(Failure::usage(format!(
            "the message has {bytes} bytes, at most {max} are allowed; put it in a file and send its path"
        )));
    }
    if args.message.trim().is_empty() {
        return Err(Failure::usage("the message is empty; say what the pod is to do or to know"));
    }
    Ok(())
}

/// How to send the same message again without doing it twice.
fn again(args: &SendArgs, key: &impl Display) -> String {
    let notify = if args.notify { " --notify" } else { "" };
    format!("`pod send {} ... --key {key}{notify}` does it once, whatever became of this one", args.name)
}
