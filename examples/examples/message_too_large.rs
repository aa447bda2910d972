//! The report does not fit a frame. The sender learns it before a byte is sent, and calls beside it are not harmed.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use examples::{Outcome, Refused, Report, Reports, ReportsHandler, Snapshot, check, report, socket};
use rpc::{Blob, CallError, Client, ItemSender, Never, NotDelivered};

struct Book;

impl ReportsHandler for Book {
    async fn report(&self, report: Report) -> Result<u64, Refused> {
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
    let _server = rpc::serve::<Reports>(&address, Book).await?;
    let client = Client::<Reports>::new(&address);

    let heavy = Report { attachment: Blob(vec![0; 2 << 20].into()), ..report(1) };
    let (large, small) = tokio::join!(client.call(heavy), client.call(report(2)));
    println!("observed: {large:?} beside {small:?}");
    check(
        matches!(large, Err(CallError::NotDelivered(NotDelivered::TooLarge { max: 1_048_576, .. }))),
        "what does not fit a frame is `NotDelivered`, with both sizes",
    )?;
    check(matches!(small, Ok(2)), "the call beside it is acked")
}
