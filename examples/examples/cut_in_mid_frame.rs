//! A connection is cut in the middle of a frame. A half of a request is never applied; a sender whose answer was cut in
//! half is told that the outcome is in doubt, and no half answer is ever believed.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use examples::{Outcome, Refused, Report, Reports, ReportsHandler, Snapshot, check, report, socket};
use rpc::{Address, Blob, CallError, Cause, Client, ItemSender, Never};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

#[derive(Clone, Default)]
struct Book(Arc<AtomicU64>);

impl ReportsHandler for Book {
    async fn report(&self, report: Report) -> Result<u64, Refused> {
        self.0.fetch_add(1, Ordering::SeqCst);
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
    let book = Book::default();
    let _server = rpc::serve::<Reports>(&address, book.clone()).await?;

    // A recorded call, replayed one byte short.
    let call = record(directory.path()).await?;
    let mut half = UnixStream::connect(address.path().ok_or("a unix socket")?).await?;
    half.write_all(&call[..call.len() - 1]).await?;
    half.shutdown().await?;
    let mut answer = Vec::new();
    half.read_to_end(&mut answer).await?;
    println!(
        "observed: {} of {} bytes of a request arrived, {} applied",
        call.len() - 1,
        call.len(),
        book.0.load(Ordering::SeqCst)
    );
    check(book.0.load(Ordering::SeqCst) == 0, "a request that is cut in half is not applied")?;
    let client = Client::<Reports>::new(&address);
    check(rpc::call(&client, report(2)).await? == 2, "and harms nobody else")?;

    // A server that dies in the middle of its first answer.
    let dying = directory.path().join("dying.sock");
    #[expect(clippy::disallowed_methods, reason = "a broken server is no service")]
    let listener = UnixListener::bind(&dying)?;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut bytes = [0; 4096];
            let _ = client.read(&mut bytes).await;
            let _ = client.write_all(&[0, 0, 0, 70, 2, 0, 0]).await;
        }
    });
    let client = Client::<Reports>::new(&Address::unix(&dying));
    let answer = client.call(report(3)).deadline(Duration::from_secs(5)).await;
    println!("observed: {answer:?}");
    let Err(CallError::Unknown(doubt)) = answer else { return Err("half an answer must be a doubt".into()) };
    check(doubt.cause() == Cause::ConnectionLost, "half an answer is no answer: the outcome is in doubt")
}

/// The bytes that a client writes for one call on a fresh connection.
async fn record(directory: &std::path::Path) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let path = directory.join("recorder.sock");
    #[expect(clippy::disallowed_methods, reason = "a recorder is no service")]
    let listener = UnixListener::bind(&path)?;
    let client = Client::<Reports>::new(&Address::unix(&path));
    let call = tokio::spawn(client.call(report(1)).deadline(Duration::from_millis(200)));
    let (mut connection, _) = listener.accept().await?;
    let mut bytes = vec![0; 4096];
    let mut count = 0;
    while let Ok(Ok(read @ 1..)) =
        tokio::time::timeout(Duration::from_millis(100), connection.read(&mut bytes[count..])).await
    {
        count += read;
    }
    call.abort();
    bytes.truncate(count);
    Ok(bytes)
}
