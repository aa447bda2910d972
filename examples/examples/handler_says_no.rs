//! The handler refuses. The sender gets the request's own rejection: nothing was applied, and repeating it as it is
//! would not help.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use examples::{Outcome, Refused, Report, Reports, ReportsHandler, Snapshot, check, report, socket};
use rpc::{Blob, CallError, Client, ItemSender, Never};

struct Full;

impl ReportsHandler for Full {
    async fn report(&self, _: Report) -> Result<u64, Refused> {
        Err(Refused { reason: "the book is full".into() })
    }

    async fn snapshot(&self, _: Snapshot, _: ItemSender<Blob>) -> Result<u64, Never> {
        Ok(0)
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let address = socket(directory.path());
    let _server = rpc::serve::<Reports>(&address, Full).await?;
    let client = Client::<Reports>::new(&address);

    let answer = rpc::call(&client, report(1)).await;
    println!("observed: {answer:?}");
    let Err(CallError::Rejected(refused)) = answer else { return Err("a no must be `Rejected`".into()) };
    check(refused.reason == "the book is full", "a rejection arrives with its own type and words")
}
