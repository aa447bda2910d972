//! The road to a service breaks while it works, and the answer is lost. A plain call ends in doubt; asking once the
//! road is open again tells what became of the request. A call with a policy does both by itself, and what it does is
//! applied once.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use examples::{Outcome, Refused, Report, Reports, ReportsHandler, Snapshot, check, report, socket};
use rpc::{Address, Blob, CallError, Cause, Client, ItemSender, Never, Retry};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Applies each report once the road is broken, so that its answer cannot arrive.
#[derive(Clone)]
struct Book {
    begun: Arc<AtomicU64>,
    applied: Arc<AtomicU64>,
    /// How many reports may be applied.
    may_apply: watch::Sender<u64>,
}

impl ReportsHandler for Book {
    async fn report(&self, report: Report) -> Result<u64, Refused> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let _ = self.may_apply.subscribe().wait_for(|may_apply| *may_apply >= number).await;
        self.applied.fetch_add(1, Ordering::SeqCst);
        Ok(report.key)
    }

    async fn snapshot(&self, _: Snapshot, _: ItemSender<Blob>) -> Result<u64, Never> {
        Ok(0)
    }
}

/// A middleman. While the road is broken, nothing passes and nobody gets through.
struct Road {
    path: PathBuf,
    to: PathBuf,
    open: watch::Sender<bool>,
    /// Connections that it carries, the listener included.
    carried: Arc<()>,
}

impl Road {
    fn open(&self) -> std::io::Result<()> {
        #[expect(clippy::disallowed_methods, reason = "a middleman is no service")]
        let listener = UnixListener::bind(&self.path)?;
        self.open.send_replace(true);
        let (path, to, open) = (self.path.clone(), self.to.clone(), self.open.clone());
        let carried = Arc::clone(&self.carried);
        tokio::spawn(async move {
            let mut broken = open.subscribe();
            loop {
                let mut near = tokio::select! {
                    Ok((near, _)) = listener.accept() => near,
                    _ = broken.wait_for(|open| !*open) => break,
                };
                let (to, mut broken, carried) = (to.clone(), open.subscribe(), Arc::clone(&carried));
                tokio::spawn(async move {
                    if let Ok(mut far) = UnixStream::connect(&to).await {
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                            _ = broken.wait_for(|open| !*open) => {}
                        }
                    }
                    drop((near, carried));
                });
            }
            drop(listener);
            let _ = std::fs::remove_file(path);
            drop(carried);
        });
        Ok(())
    }

    /// Breaks it once so many reports have begun, and lets them be applied when nothing passes any more.
    async fn breaks_at(&self, book: &Book, begun: u64) {
        while book.begun.load(Ordering::SeqCst) < begun {
            tokio::task::yield_now().await;
        }
        self.open.send_replace(false);
        while Arc::strong_count(&self.carried) > 1 {
            tokio::task::yield_now().await;
        }
        book.may_apply.send_replace(begun);
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let address = socket(directory.path());
    let book = Book { begun: Arc::default(), applied: Arc::default(), may_apply: watch::Sender::new(0) };
    let _server = rpc::serve::<Reports>(&address, book.clone()).await?;
    let to = address.path().ok_or("a unix socket")?.to_owned();
    let path = directory.path().join("road.sock");
    let road = Road { path, to, open: watch::Sender::new(false), carried: Arc::default() };
    road.open()?;
    let client = Client::<Reports>::new(&Address::unix(&road.path));
    let minute = Duration::from_secs(60);

    // By hand.
    let (outcome, ()) = tokio::join!(client.call(report(1)).deadline(minute), road.breaks_at(&book, 1));
    let Err(CallError::Unknown(doubt)) = outcome else { return Err("nobody can know".into()) };
    println!("observed: {doubt}");
    check(doubt.cause() == Cause::ConnectionLost, "a lost answer is a doubt, not a failure")?;
    road.open()?;
    let key = doubt.resolve().await?;
    println!("observed: resolved as acked with key {key}");
    check(key == 1 && book.applied.load(Ordering::SeqCst) == 1, "asking tells what became of it, and applies nothing")?;

    // By policy: sent again only if it was not delivered, asked about as long as it is in doubt.
    let mut call = client.call(report(2)).deadline(minute).retry(Retry::not_delivered().and_resolve());
    let breaking = async {
        road.breaks_at(&book, 2).await;
        while client.counters().unreachable < 2 {
            tokio::task::yield_now().await;
        }
        println!("observed: the client has met a broken road, and goes on asking");
        road.open()
    };
    let (key, opened) = tokio::join!(&mut call, breaking);
    opened?;
    println!("observed: acked with key {} after {} attempt", key?, call.attempts());
    check(
        call.attempts() == 1 && book.applied.load(Ordering::SeqCst) == 2,
        "a doubt is asked about, not sent again: once",
    )?;

    // What reached nobody may be sent again, and is, until somebody is there.
    road.breaks_at(&book, 2).await;
    let mut call = client.call(report(3)).deadline(minute).retry(Retry::not_delivered().and_resolve());
    let before = client.counters().unreachable;
    let returning = async {
        while client.counters().unreachable < before + 3 {
            tokio::task::yield_now().await;
        }
        road.open()?;
        road.breaks_at(&book, 3).await;
        road.open()
    };
    let (key, returned) = tokio::join!(&mut call, returning);
    returned?;
    println!("observed: acked with key {} after {} attempts", key?, call.attempts());
    check(
        call.attempts() > 1 && book.applied.load(Ordering::SeqCst) == 3,
        "sent again until somebody took it, and then once",
    )
}
