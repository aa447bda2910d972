//! `pod rewind`: shows what a pod's agent can go back to, and goes back.
//!
//! What it expects the context to be is what was listed: either in the same moment, or by whoever gives `--expect`.

use pod::Method;
use pod::id::PodName;
use pod::protocol::{ListRewindTargets, RewindAck, RewindChildren, RewindRejection, RewindTargets, RewindTo};
use pod::store::UnixMillis;
use rpc::Client;

use crate::args::{Global, RewindArgs};
use crate::ask::ask;
use crate::commands::running_client;
use crate::describe::time;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, Tone, one_line};
use crate::table::Table;

/// LIMIT: characters of the returned input on a line; all of it is in the JSON line.
const SHOWN_CHARS: usize = 400;

pub(crate) async fn rewind(args: &RewindArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let name = &args.name;
    let client = running_client(global, name)?;
    let Some(target) = args.to else {
        let targets = targets(&client, args).await?;
        return list(name, &targets, output);
    };
    let expected_head = match args.expect {
        Some(head) => head,
        None => targets(&client, args).await?.head,
    };
    let children = RewindChildren::from(args.children);
    let unsure = format!("`pod rewind {name}` shows what is so");
    let request = RewindTo { target, expected_head, children };
    let done = match ask(&client, request, args.timeout, &unsure, |rejection| in_words(args, rejection)).await? {
        RewindAck::Rewound(done) => done,
        RewindAck::NotRewound { children_told, children_stopped, reason } => {
            let why = in_words(args, &reason);
            let message = match children {
                RewindChildren::Detach => not_rewound_but_detached(name, children_told, &why),
                _ => not_rewound(name, children_told, children_stopped, &why),
            };
            return Err(Failure::new(Exit::WorkFailed, message));
        }
    };
    let turns = if done.turns == 1 { "one turn does".to_owned() } else { format!("{} turns do", done.turns) };
    output.line(format!("rewound: `{name}` knows nothing since turn {}; {turns} not count any more", done.target))?;
    if done.reports > 0 {
        output.line(format!("told again: {} reports and notes that it had been told since", done.reports))?;
    }
    if done.children_stopped > 0 {
        output.line(format!("stopped: {} of its children", done.children_stopped))?;
    }
    if done.children_detached > 0 {
        output.line(format!("detached: {} of its children, which go on also when it ends", done.children_detached))?;
    }
    if let Some(input) = &done.input {
        output.line(format!("it had been asked: {}", one_line(input, SHOWN_CHARS)))?;
    }
    output.record(&serde_json::json!({
        "type": "rewound",
        "pod": name,
        "target": done.target,
        "head": done.head,
        "turns": done.turns,
        "input": done.input.as_deref(),
        "reports": done.reports,
        "children_stopped": done.children_stopped,
        "children_detached": done.children_detached,
    }))?;
    Ok(Exit::Ok)
}

async fn targets(client: &Client<Method>, args: &RewindArgs) -> Result<RewindTargets, Failure> {
    let unsure = "it only looks, and can be asked again";
    ask(client, ListRewindTargets, args.timeout, unsure, |rejection| in_words(args, rejection)).await
}

fn list(name: &PodName, found: &RewindTargets, output: &mut Output) -> Result<Exit, Failure> {
    let mut table = Table::new(&["turn", "began", "told", "children", "asked"]);
    for target in found.targets.iter() {
        output.record(&serde_json::json!({
            "type": "rewind_target",
            "pod": name,
            "head": found.head,
            "turn": target.turn,
            "at_ms": target.at_ms,
            "input": target.input.as_deref(),
            "reports": target.reports,
            "children": target.children,
        }))?;
        let plain = |text: String| (text, Tone::Plain);
        table.row(vec![
            plain(target.turn.to_string()),
            plain(time(UnixMillis(target.at_ms))),
            plain(target.reports.to_string()),
            plain(target.children.to_string()),
            plain(target.input.as_deref().map_or_else(|| "(to be told what was new)".to_owned(), str::to_owned)),
        ]);
    }
    if found.targets.is_empty() {
        output.line(format!("there is nothing that `{name}` could go back to: it has done no turn that counts"))?;
        return Ok(Exit::Ok);
    }
    for line in table.lines(output) {
        output.line(line)?;
    }
    if found.more {
        output.line("and older ones")?;
    }
    output.line(format!("go back to before a turn with `pod rewind {name} --to TURN --expect {}`", found.head))?;
    Ok(Exit::Ok)
}

/// That the agent knows what it knew is not all: its children were told to end.
fn not_rewound(name: &PodName, told: u64, ended: u64, why: &str) -> String {
    let children = if told == 1 { "a child of it was".to_owned() } else { format!("{told} of its children were") };
    let rest = match told.saturating_sub(ended) {
        0 => "all have ended".to_owned(),
        _ if ended == 0 => "none has ended by now, and all will".to_owned(),
        _ => format!("{ended} ended by now, and the others will"),
    };
    format!("`{name}` was not rewound, though {children} told to end for that ({rest}): {why}")
}

/// The same of children that were to go on.
fn not_rewound_but_detached(name: &PodName, told: u64, why: &str) -> String {
    let children = if told == 1 { "a child of it was".to_owned() } else { format!("{told} of its children were") };
    format!("`{name}` was not rewound, though {children} told to go on when it ends: {why}")
}

/// A rejection, and what to do about it.
fn in_words(args: &RewindArgs, rejection: &RewindRejection) -> String {
    let name = &args.name;
    let remedy = match rejection {
        RewindRejection::AlreadyRunning { .. } => format!(" with `pod cancel {name}`"),
        RewindRejection::HeadMoved { .. } => format!(" with `pod rewind {name}`"),
        RewindRejection::NotEligible { .. } => {
            if args.to.is_some() {
                format!("; `pod rewind {name}` lists what is")
            } else {
                String::new()
            }
        }
        RewindRejection::ChildrenLive { .. } => " with `--children stop`, or stop them yourself".to_owned(),
        RewindRejection::CannotDetach { .. } => " with `--children stop`".to_owned(),
        RewindRejection::Cancelled => format!("; `pod rewind {name}` shows what is so"),
        RewindRejection::Stopping => "; its next life can be asked".to_owned(),
        RewindRejection::Unavailable { .. } => format!("; `pod log {name}` shows what is committed"),
    };
    format!("{rejection}{remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_that_were_told_to_end_are_said_whether_they_have_or_not() {
        let said = |told, ended| not_rewound(&"a".parse().unwrap(), told, ended, "it was cancelled");
        let one = "`a` was not rewound, though a child of it was told to end for that";
        assert_eq!(said(1, 0), format!("{one} (none has ended by now, and all will): it was cancelled"));
        let three = "`a` was not rewound, though 3 of its children were told to end for that";
        assert_eq!(said(3, 3), format!("{three} (all have ended): it was cancelled"));
        assert_eq!(said(3, 1), format!("{three} (1 ended by now, and the others will): it was cancelled"));
    }
}
