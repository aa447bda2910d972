//! The bug that began all this. A server writes a large snapshot to whoever connects, before it reads; a client connects,
//! writes one message and closes, and calls that delivery. Every write succeeds, and messages vanish. Beside it the same
//! load on `rpc`: the snapshot is a stream that somebody asked for, and each message is acked or known not to be.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use examples::{Outcome, Refused, Report, Reports, ReportsHandler, Snapshot, check, report, socket};
use futures::StreamExt as _;
use rpc::{Blob, Client, ItemSender, Never};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

const MESSAGES: u64 = 200;
const SNAPSHOT_BYTES: usize = 4 << 20;

#[tokio::main]
async fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (written, arrived) = the_old_way(directory.path()).await?;
    println!("observed, old way: {written} messages written without an error, {arrived} arrived");
    let (acked, applied, snapshot) = this_way(directory.path()).await?;
    println!("observed, this way: {acked} acked, {applied} applied, beside a snapshot of {snapshot} bytes");

    check(written == MESSAGES, "every write of the old way succeeded")?;
    check(arrived < written, "and messages vanished without anybody noticing")?;
    check(acked == MESSAGES && applied == MESSAGES, "here each one is acked, and applied once")?;
    check(snapshot >= SNAPSHOT_BYTES as u64, "and the snapshot is there too")
}

/// Connect, write a line, close; the server writes its snapshot first and reads then. How many were written, and how many
/// arrived.
async fn the_old_way(directory: &Path) -> Result<(u64, u64), Box<dyn std::error::Error>> {
    let path = directory.join("old.sock");
    #[expect(clippy::disallowed_methods, reason = "the old way, as it was")]
    let listener = UnixListener::bind(&path)?;
    let arrived = Arc::new(AtomicU64::new(0));
    let counter = arrived.clone();
    let server = tokio::spawn(async move {
        let snapshot = Arc::new(vec![b'x'; SNAPSHOT_BYTES]);
        let mut connections = tokio::task::JoinSet::new();
        for _ in 0..MESSAGES {
            let Ok((stream, _)) = listener.accept().await else { break };
            let (snapshot, counter) = (snapshot.clone(), counter.clone());
            connections.spawn(async move {
                let (read, mut write) = stream.into_split();
                // The snapshot fails, because nobody reads it, and with it goes the message that had already arrived.
                write.write_all(&snapshot).await?;
                let mut line = String::new();
                if BufReader::new(read).read_line(&mut line).await? > 0 {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
                Ok::<_, std::io::Error>(())
            });
        }
        while connections.join_next().await.is_some() {}
    });
    let mut written = 0;
    for n in 0..MESSAGES {
        let mut stream = UnixStream::connect(&path).await?;
        if stream.write_all(format!("{{\"turn_ended\":{n}}}\n").as_bytes()).await.is_ok() {
            written += 1;
        }
    }
    server.await?;
    Ok((written, arrived.load(Ordering::SeqCst)))
}

#[derive(Clone, Default)]
struct Book(Arc<AtomicU64>);

impl ReportsHandler for Book {
    async fn report(&self, report: Report) -> Result<u64, Refused> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(report.key)
    }

    async fn snapshot(&self, _: Snapshot, items: ItemSender<Blob>) -> Result<u64, Never> {
        tokio::spawn(async move {
            let piece = Blob(vec![b'x'; 64 << 10].into());
            for _ in 0..SNAPSHOT_BYTES / (64 << 10) {
                if items.send(piece.clone()).await.is_err() {
                    return;
                }
            }
        });
        Ok(SNAPSHOT_BYTES as u64)
    }
}

/// The same messages as calls, each on a connection of its own, while one observer reads the snapshot and another asks
/// for it and never reads.
async fn this_way(directory: &Path) -> Result<(u64, u64, u64), Box<dyn std::error::Error>> {
    let address = socket(directory);
    let book = Book::default();
    let _server = rpc::serve::<Reports>(&address, book.clone()).await?;
    let (lazy, eager) = (Client::<Reports>::new(&address), Client::<Reports>::new(&address));
    let _unread = lazy.open(Snapshot).await?;
    let (_, mut items) = eager.open(Snapshot).await?;
    let mut acked = 0;
    for n in 0..MESSAGES {
        let client = Client::<Reports>::new(&address);
        if rpc::call(&client, report(n)).await.is_ok() {
            acked += 1;
        }
    }
    let mut snapshot = 0;
    while let Some(item) = items.next().await {
        snapshot += item?.0.len() as u64;
    }
    Ok((acked, book.0.load(Ordering::SeqCst), snapshot))
}
