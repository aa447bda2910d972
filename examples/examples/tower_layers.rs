//! Layers of `tower`, unchanged, on both sides. The server sheds what it has no room for, and says that no handler saw
//! it; the client tries again what was not delivered, and nothing else, and each of its attempts is a span of `tracing`,
//! around the span of the call itself.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use examples::{Outcome, Refused, Report, Reports, ReportsHandler, Snapshot, check, report, socket};
use rpc::{Blob, Call, CallError, Client, ItemSender, Never, Server};
use tower::retry::Policy;
use tower::{ServiceBuilder, ServiceExt};
use tracing::{Instrument, info_span};
use tracing_subscriber::fmt::format::FmtSpan;

/// A book that one may write in at a time, and slowly.
#[derive(Clone, Default)]
struct Book {
    written: Arc<AtomicU32>,
}

impl ReportsHandler for Book {
    async fn report(&self, _: Report) -> Result<u64, Refused> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(u64::from(self.written.fetch_add(1, Ordering::SeqCst)) + 1)
    }

    async fn snapshot(&self, _: Snapshot, _: ItemSender<Blob>) -> Result<u64, Never> {
        Ok(0)
    }
}

/// Again after a pause, if no handler saw it and none will.
#[derive(Clone)]
struct WhileNotDelivered {
    tries: Arc<AtomicU32>,
}

impl Policy<Report, u64, CallError<Report>> for WhileNotDelivered {
    type Future = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    fn retry(&mut self, _: &mut Report, answer: &mut Result<u64, CallError<Report>>) -> Option<Self::Future> {
        let again =
            matches!(answer, Err(CallError::NotDelivered(_))) && self.tries.fetch_add(1, Ordering::SeqCst) < 100;
        again.then(|| Box::pin(tokio::time::sleep(Duration::from_millis(20))) as _)
    }

    fn clone_request(&mut self, report: &Report) -> Option<Report> {
        Some(report.clone())
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let address = socket(directory.path());
    let book = Book::default();
    let layers = ServiceBuilder::new().load_shed().concurrency_limit(1).into_inner();
    let _server = Server::builder::<Reports>(book.clone()).layer(layers).serve(&address).await?;
    let client = Client::<Reports>::new(&address);

    // Both at once: there is room for one.
    let (one, other) = futures::join!(client.call(report(1)), client.call(report(2)));
    println!("observed: {one:?} and {other:?}");
    let shed = [&one, &other].into_iter().filter(|answer| matches!(answer, Err(CallError::NotDelivered(_)))).count();
    check(shed == 1, "one was shed before a handler saw it")?;
    check(book.written.load(Ordering::SeqCst) == 1, "only the other was written")?;

    let tries = Arc::new(AtomicU32::new(0));
    tracing_subscriber::fmt().with_span_events(FmtSpan::CLOSE).with_target(false).with_ansi(false).init();
    let retrying = ServiceBuilder::new()
        .retry(WhileNotDelivered { tries: Arc::clone(&tries) })
        .map_future(|call: Call<Report>| call.instrument(info_span!("attempt")))
        .service(client);
    let (one, other) = futures::join!(retrying.clone().oneshot(report(3)), retrying.oneshot(report(4)));
    println!("observed: {one:?} and {other:?}, after {} attempts more", tries.load(Ordering::SeqCst));
    check(one.is_ok() && other.is_ok(), "what was not delivered could be sent again")?;
    check(book.written.load(Ordering::SeqCst) == 3, "and each was written once")
}
