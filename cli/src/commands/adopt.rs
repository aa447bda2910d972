//! `pod adopt`: makes children of a dead pod children of one that lives.

use pod::id::PodName;
use pod::protocol::{Adopt, AdoptRejection, Adopted};

use crate::args::{AdoptArgs, Global};
use crate::ask::ask;
use crate::commands::running_client;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn adopt(args: &AdoptArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let client = running_client(global, &args.to)?;
    for child in &args.children {
        let request = Adopt { child: child.clone(), from: args.from.clone() };
        let said = |rejection: &AdoptRejection| in_words(child, &args.from, rejection);
        let unsure = "asking again does it once, or says that it is done";
        let Adopted { child: pod, watermark, works } = ask(&client, request, args.timeout, unsure, said).await?;
        let (from, to) = (&args.from, &args.to);
        output.line(format!(
            "adopted: `{child}` is a child of `{to}` now, and of `{from}` no more; {works} open works came with it"
        ))?;
        output.record(&serde_json::json!({
            "type": "adopted",
            "child": child,
            "incarnation": pod.incarnation,
            "from": from,
            "to": to,
            "watermark": watermark,
            "works": works,
        }))?;
    }
    Ok(Exit::Ok)
}

fn in_words(child: &PodName, from: &PodName, rejection: &AdoptRejection) -> String {
    match rejection {
        AdoptRejection::ParentLives { .. } => format!("`{child}` stays a child of `{from}`: {rejection}"),
        AdoptRejection::NoSuchChild { .. } | AdoptRejection::NameTaken { .. } => rejection.to_string(),
        AdoptRejection::Refused { .. } => format!("`{child}` stays a child of `{from}`: {rejection}"),
        AdoptRejection::Stopping | AdoptRejection::Unavailable { .. } => {
            format!("`{child}` is not adopted: {rejection}; ask again")
        }
    }
}
