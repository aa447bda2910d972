//! `pod compact`: makes what a pod's agent knows shorter, and shows what became of that.
//!
//! The pod answers when it has begun; what became of it is read from what it commits.

use std::time::Duration;

use pod::protocol::{Compact, ControlRejection, TurnResult};
use pod::store::{HistoryItem, TurnOutcome};
use tokio::time::{Instant, interval};

use crate::args::{ControlArgs, Global};
use crate::ask::ask;
use crate::commands::control::in_words;
use crate::commands::{existing_pod, running_client, seconds};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::output::{Output, one_line};

/// How often the history is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// LIMIT: characters of the summary on a line; all of it is in the history.
const SHOWN_CHARS: usize = 160;

pub(crate) async fn compact(args: &ControlArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let name = &args.name;
    let client = running_client(global, name)?;
    let (_, paths) = existing_pod(global, name)?;
    let mut follower = Follower::open(&paths)?;
    follower.skip_to(follower.look(|reads| reads.history_head())?);
    let until = Instant::now() + args.timeout;
    let unsure = format!("`pod log {name}` shows whether it was, and asking again makes it shorter once more");
    let said = |rejection: &ControlRejection| in_words(name, rejection);
    let turn = ask(&client, Compact, args.timeout, &unsure, said).await?.turn;
    if args.no_wait {
        output.line(format!("asked: `{name}` makes its context shorter in turn {turn}"))?;
        output.record(&serde_json::json!({ "type": "asked", "pod": name, "turn": turn }))?;
        return Ok(Exit::Ok);
    }
    let (mut made, mut ended) = (None, None);
    let mut ticks = interval(LOOK_EVERY);
    while ended.is_none() {
        ticks.tick().await;
        follower
            .catch_up(|row, _| {
                match &row.item {
                    HistoryItem::Compacted { upto, summary, .. } if row.turn == Some(turn) => {
                        made = Some((*upto, summary.clone()));
                    }
                    HistoryItem::TurnEnded { outcome } if row.turn == Some(turn) => ended = Some(outcome.clone()),
                    _ => {}
                }
                Ok(())
            })
            // It has begun: what became of it is not known.
            .map_err(|error| error.with_exit(Exit::Unknown))?;
        if ended.is_none() && Instant::now() >= until {
            let message = format!(
                "`{name}` still makes its context shorter after {}, in turn {turn}; wait, or end it with \
                 `pod cancel {name}`",
                seconds(args.timeout)
            );
            return Err(Failure::new(Exit::Unknown, message));
        }
    }
    match (made, ended) {
        (Some((upto, summary)), _) => {
            let shown = one_line(&summary, SHOWN_CHARS);
            output.line(format!("compacted: what `{name}` knows up to entry {upto} comes to: {shown}"))?;
            output.record(&serde_json::json!({
                "type": "compacted", "pod": name, "turn": turn, "upto": upto, "summary": summary
            }))?;
            Ok(Exit::Ok)
        }
        (None, Some(TurnOutcome::Errored { message, .. })) => Err(Failure::new(
            Exit::WorkFailed,
            format!("the context of `{name}` stays as it was: {}", one_line(&message, SHOWN_CHARS)),
        )),
        (None, ended) => {
            let how = match ended {
                Some(TurnOutcome::Ended { result }) => result,
                _ => TurnResult::Interrupted,
            };
            let message = format!(
                "the context of `{name}` stays as it was: the turn {turn} that was to change it ended as {how}"
            );
            Err(Failure::new(Exit::WorkFailed, message))
        }
    }
}
