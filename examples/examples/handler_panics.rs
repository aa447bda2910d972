//! The handler panics. The sender learns at once that the outcome is in doubt, and the next call is served as if nothing
//! had been.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::time::{Duration, Instant};

use examples::{Outcome, Refused, Report, Reports, ReportsHandler, Snapshot, check, report, socket};
use rpc::{Blob, CallError, Cause, Client, ItemSender, Never};

struct Clumsy;

impl ReportsHandler for Clumsy {
    async fn report(&self, report: Report) -> Result<u64, Refused> {
        assert!(report.key != 13, "thirteen");
        Ok(report.key)
    }

    async fn snapshot(&self, _: Snapshot, _: ItemSender<Blob>) -> Result<u64, Never> {
        Ok(0)
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let address = socket(directory.path());
    let _server = rpc::serve::<Reports>(&address, Clumsy).await?;
    let client = Client::<Reports>::new(&address);

    let started = Instant::now();
    let answer = client.call(report(13)).deadline(Duration::from_secs(60)).await;
    println!("observed after {:?}: {answer:?}", started.elapsed());
    let Err(CallError::Unknown(doubt)) = answer else { return Err("a panic must be a doubt".into()) };
    check(doubt.cause() == Cause::HandlerPanicked, "a panic is `Unknown`, and says that it was one")?;
    check(started.elapsed() < Duration::from_secs(30), "at once, not at the deadline of 60 s")?;
    check(rpc::call(&client, report(14)).await? == 14, "the server and the connection live on")
}
