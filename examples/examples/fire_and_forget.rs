//! A report that nobody waits for, to a parent that is not there. Its failure is seen all the same: in the log, in a
//! counter, and in the outbox that still holds it. When the parent comes, it is delivered.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use examples::{Outcome, check};
use pod::event::{Edge, Reporter, fire_and_forget};
use pod::id::{Incarnation, PodId};
use pod::protocol::{Disposition, EventAck, Method, MethodCall, PodEvent};
use tracing_subscriber::fmt::MakeWriter;

/// The log, kept where the example can read it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().map_err(|_| std::io::Error::other("poisoned"))?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let log = Log::default();
    tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).init();
    let directory = tempfile::tempdir()?;
    let parent = rpc::Address::unix(directory.path().join("private/parent.sock"));
    let own = PodId { name: "child".parse()?, incarnation: Incarnation::random() };
    let reporter = Reporter::in_memory(own.clone(), Edge::to(parent.clone()));
    reporter.start();

    fire_and_forget(&reporter, PodEvent::ShutDown { pod: own });
    println!("the caller went on at once; nobody waits for the report");
    let counters = reporter.counters().ok_or("a reporter with a parent counts")?;
    while counters.now().forgotten_failed == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let logged = String::from_utf8_lossy(&log.0.lock().map_err(|_| "poisoned")?).into_owned();
    let line = logged.lines().find(|line| line.contains("report not acknowledged")).unwrap_or_default();
    println!("observed in the log: {line}");
    println!("observed in the counters: {:?}", counters.now());
    check(
        line.contains("WARN") && line.contains("shut_down") && line.contains("nothing listens"),
        "the log names the report and the reason",
    )?;
    check(counters.now().forgotten_failed == 1 && counters.now().not_delivered >= 1, "the counters tell it apart")?;

    // The parent comes back; the report is still there.
    let (_server, mut calls) = rpc::serve_calls::<Method>(&parent, 16).await?;
    let offered = tokio::time::timeout(Duration::from_secs(30), calls.recv()).await?.ok_or("the server is there")?;
    let MethodCall::PodEvent(offer, responder) = offered else { return Err("an event was offered".into()) };
    println!("observed at the parent: {:?}", offer.event);
    responder.ack(EventAck { disposition: Disposition::Applied, durable_seq: offer.seq, woke: false });
    let drained = reporter.drain(Duration::from_secs(30)).await;
    check(drained.pending == 0, "kept all the while, it is delivered when the parent is there")
}
