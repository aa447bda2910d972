//! `pod output`: what a pod has produced, page by page, alive or dead: the same as an agent reads of its children.

use pod::protocol::{OutputPage, Produced, ReadPodOutput, ReadRejection};
use pod::tools;

use crate::args::{Global, OutputArgs};
use crate::commands::existing_pod;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, Tone, one_line};

pub(crate) fn output(args: &OutputArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let (_, paths) = existing_pod(global, &args.name)?;
    let request = ReadPodOutput { pod: args.name.clone(), from: args.from, turn: args.turn, bytes_max: args.max_bytes };
    let page = tools::read(&paths, &request).map_err(|error| {
        let exit = if matches!(error, ReadRejection::Unreadable { .. }) { Exit::Internal } else { Exit::Usage };
        Failure::new(exit, error.to_string())
    })?;
    show(&page, output)?;
    let mut record = serde_json::to_value(&page)
        .map_err(|error| Failure::internal("a line of JSON cannot be made").because(error))?;
    record["type"] = "output".into();
    record["next"] = page.next.to_string().into();
    output.record(&record)?;
    Ok(Exit::Ok)
}

fn show(page: &OutputPage, output: &mut Output) -> Result<(), Failure> {
    for entry in page.entries.iter() {
        let turn = entry.turn.map_or_else(String::new, |turn| format!("turn {turn}"));
        let rewound = if entry.counts { "" } else { "  (rewound)" };
        let (what, text) = match &entry.what {
            Produced::Text(piece) => ("said", piece.text.as_str()),
            Produced::Stderr(piece) => ("on stderr", piece.text.as_str()),
            Produced::TurnEnded { how } => ("ended", how.as_str()),
            Produced::Rewound { from } => {
                let line = format!("{:>5}  what stands from entry {from} up to here no longer counts", entry.entry);
                output.line(output.paint(Tone::Faint, &line))?;
                continue;
            }
        };
        output.line(output.paint(Tone::Faint, &format!("{:>5}  {turn:<8}  {what}{rewound}", entry.entry)))?;
        for line in text.lines() {
            output.line(one_line(line, usize::MAX))?;
        }
    }
    let more = if page.more {
        "there is more"
    } else if page.live {
        "it lives, and may say more"
    } else {
        "that is all"
    };
    output.line(output.paint(Tone::Faint, &format!("{more}; read on with --from {}", page.next)))
}
