//! The parent shuts down. What it has taken is still acked; what comes later is known not to be delivered.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use examples::{Outcome, Reports, ReportsCall, check, report, socket};
use rpc::{CallError, Client, NotDelivered};

#[tokio::main]
async fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let address = socket(directory.path());
    let (server, mut calls) = rpc::serve_calls::<Reports>(&address, 16).await?;
    let client = Client::<Reports>::new(&address);

    let early = tokio::spawn(client.call(report(1)));
    let Some(ReportsCall::Report(taken, responder)) = calls.recv().await else { return Err("no call".into()) };
    let draining = tokio::spawn(server.drain());
    // From here on nothing is taken. The first calls may still be under way when the word arrives.
    let late = loop {
        tokio::select! {
            answer = client.call(report(2)) => break answer,
            Some(call) = calls.recv() => drop(call),
        }
    };
    println!("observed, late: {late:?}");
    responder.ack(taken.key);
    let early = early.await?;
    println!("observed, early: {early:?}");
    draining.await?;

    check(matches!(early, Ok(1)), "what was taken is acked")?;
    check(
        matches!(late, Err(CallError::NotDelivered(NotDelivered::Draining))),
        "what comes later is `NotDelivered`, by the server's word",
    )
}
