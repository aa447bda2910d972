//! A program without a runtime calls a service: no `async`, no `await`, the same outcomes, and a stream as an iterator.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::thread;
use std::time::{Duration, Instant};

use examples::{Outcome, Refused, Report, Reports, ReportsHandler, Snapshot, check, report, socket};
use rpc::blocking::Client;
use rpc::{Address, Blob, CallError, Cause, ItemSender, Never, NotDelivered};

struct Book;

impl ReportsHandler for Book {
    async fn report(&self, report: Report) -> Result<u64, Refused> {
        match report.key {
            0 => Err(Refused { reason: "a report has a key".into() }),
            u64::MAX => std::future::pending().await,
            key => Ok(key),
        }
    }

    async fn snapshot(&self, _: Snapshot, items: ItemSender<Blob>) -> Result<u64, Never> {
        tokio::spawn(async move {
            for n in 0..100_u8 {
                if items.send(Blob(vec![n].into())).await.is_err() {
                    return;
                }
            }
        });
        Ok(100)
    }
}

/// The service, elsewhere: here in a thread that has a runtime, usually in another process.
fn serve(address: Address) -> Outcome {
    let (ready, listening) = std::sync::mpsc::sync_channel(1);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let server = rpc::serve::<Reports>(&address, Book).await.map_err(std::io::Error::other);
            let _ = ready.send(());
            let _server = server?;
            std::future::pending::<std::io::Result<()>>().await
        })
    });
    Ok(listening.recv()?)
}

fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let address = socket(directory.path());
    let client = Client::<Reports>::new(&address)?;

    let error = client.call(report(1)).wait().err().ok_or("nobody can have acked")?;
    println!("observed: {error}");
    check(matches!(error, CallError::NotDelivered(NotDelivered::NoListener { .. })), "nobody there is not delivered")?;

    serve(address)?;
    check(client.call(report(7)).wait()? == 7, "an ack is the call's value")?;
    let refused = client.call(report(0)).wait();
    println!("observed: {refused:?}");
    check(matches!(refused, Err(CallError::Rejected(_))), "a no arrives with its own type")?;

    let started = Instant::now();
    let silent = client.call(report(u64::MAX)).deadline(Duration::from_millis(200)).wait();
    let Err(CallError::Unknown(doubt)) = silent else { return Err("nobody can know".into()) };
    println!("observed after {:?}: {doubt}", started.elapsed());
    check(doubt.cause() == Cause::Deadline, "a deadline is met without a runtime around it")?;
    drop(doubt);

    let (announced, items) = client.call(Snapshot).open()?;
    let items = items.collect::<Result<Vec<_>, _>>()?;
    check(items.len() as u64 == announced, "a stream is an iterator")?;

    let acked: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (1..=4)
            .map(|thread| {
                let client = client.clone();
                scope.spawn(move || (1..=250).filter(|n| client.call(report(thread * 1000 + n)).wait().is_ok()).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default() as u64).sum()
    });
    println!("observed: four threads made {acked} calls over one connection");
    check(acked == 1000 && client.inner().lanes()[0].epoch == 1, "threads share a client")
}
