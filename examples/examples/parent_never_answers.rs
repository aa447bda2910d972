//! The parent accepts the report and never answers. The sender learns by its deadline that the outcome is in doubt, and
//! how far the report had come.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::time::{Duration, Instant};

use examples::{Outcome, Reports, check, report, socket};
use rpc::{CallError, Cause, Client};

#[tokio::main]
async fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let address = socket(directory.path());
    // Calls are taken from the queue by nobody; their responders are kept alive.
    let (_server, _calls) = rpc::serve_calls::<Reports>(&address, 16).await?;
    let client = Client::<Reports>::new(&address);

    let started = Instant::now();
    let Err(CallError::Unknown(doubt)) = client.call(report(1)).deadline(Duration::from_millis(300)).await else {
        return Err("silence must be a doubt".into());
    };
    println!("observed after {:?}: {doubt}", started.elapsed());

    check(doubt.cause() == Cause::Deadline, "silence ends at the deadline, as `Unknown`")?;
    check(started.elapsed() >= Duration::from_millis(300), "not before the deadline")?;
    check(started.elapsed() < Duration::from_secs(5), "and not long after it")
}
