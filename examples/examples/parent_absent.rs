//! Nobody listens. The sender learns at once that nothing was delivered, and that it may send again.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use examples::{Outcome, Reports, check, report, socket};
use rpc::{CallError, Client, NotDelivered};

#[tokio::main]
async fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let address = socket(directory.path());
    let client = Client::<Reports>::new(&address);

    let started = std::time::Instant::now();
    let error = rpc::call(&client, report(1)).await.err().ok_or("nobody can have acked")?;
    println!("observed after {:?}: {error}", started.elapsed());

    check(
        matches!(error, CallError::NotDelivered(NotDelivered::NoListener { .. })),
        "an absent parent is `NotDelivered`",
    )?;
    check(error.to_string().contains(&address.to_string()), "the error names the address")?;
    check(started.elapsed().as_secs() < 5, "it is known at once, not at the deadline of 10 s")
}
