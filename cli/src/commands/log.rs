//! `pod log`: what a pod has committed, whether it lives or not.

use crate::args::{Global, LogArgs};
use crate::commands::existing_pod;
use crate::describe::{describe, time, tone};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::output::{Output, Tone};

pub(crate) fn log(args: &LogArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let (_, paths) = existing_pod(global, &args.name)?;
    if !paths.store().exists() {
        let message =
            format!("pod `{}` has committed nothing yet; it is just starting, or never came that far", args.name);
        return Err(Failure::new(Exit::NoSuchPod, message));
    }
    let mut follower = Follower::open(&paths)?;
    if let Some(limit) = args.limit {
        // Entries are counted without gaps, and none is ever removed.
        let head = follower.look(|reads| reads.history_head())?;
        follower.skip_to(head.saturating_sub(limit));
    }
    follower.catch_up(|row, _| {
        if output.is_json() {
            return output.record(row);
        }
        let turn = row.turn.map_or_else(String::new, |turn| format!("turn {turn}"));
        let head = format!("{:>5}  {}  {turn:<8}", row.seq, time(row.at));
        let head = output.paint(Tone::Faint, &head);
        output.line(format!("{head}  {}", output.paint(tone(&row.item), &describe(&row.item))))
    })?;
    Ok(Exit::Ok)
}
