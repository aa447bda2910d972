//! The parent is killed after it has applied a report and before it could ack it. The sender is told the truth, *in
//! doubt*; what settles the doubt is the report's own key, which the next parent finds with what was applied. And where
//! only the connection was cut, asking again brings the ack.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use examples::{Outcome, Refused, Report, Reports, ReportsHandler, Snapshot, check, report, socket};
use rpc::{Address, Blob, CallError, Cause, Client, ItemSender, Never, NotDelivered};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Applies reports to a file: one line a key, never twice.
struct Book {
    file: PathBuf,
    die_before_ack: bool,
}

impl ReportsHandler for Book {
    async fn report(&self, report: Report) -> Result<u64, Refused> {
        let refused = |error: std::io::Error| Refused { reason: error.to_string() };
        let line = format!("{}\n", report.key);
        if !std::fs::read_to_string(&self.file).unwrap_or_default().contains(&line) {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.file).map_err(refused)?;
            file.write_all(line.as_bytes()).map_err(refused)?;
        }
        if self.die_before_ack {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        Ok(report.key)
    }

    async fn snapshot(&self, _: Snapshot, _: ItemSender<Blob>) -> Result<u64, Never> {
        Ok(0)
    }
}

#[tokio::main]
async fn main() -> Outcome {
    if let [_, directory, how] = &std::env::args().collect::<Vec<_>>()[..] {
        let directory = Path::new(directory);
        let book = Book { file: directory.join("book"), die_before_ack: how == "die" };
        let _server = rpc::serve::<Reports>(&socket(directory), book).await?;
        return std::future::pending().await;
    }
    let directory = tempfile::tempdir()?;
    let client = Client::<Reports>::new(&socket(directory.path()));

    let mut parent = start(directory.path(), "die")?;
    let Err(CallError::Unknown(doubt)) = first_delivered(&client).await else {
        return Err("a kill must be a doubt".into());
    };
    parent.0.wait()?;
    println!("observed: {doubt}");
    let book = || std::fs::read_to_string(directory.path().join("book")).unwrap_or_default();
    check(book() == "1\n", "the report was applied")?;
    check(doubt.cause() == Cause::ConnectionLost, "its sender was told that this is not known")?;

    let _parent = start(directory.path(), "live")?;
    let mut asked = doubt;
    let cause = loop {
        let Err(CallError::Unknown(still)) = asked.resolve().await else { return Err("nobody can know".into()) };
        if still.cause() != Cause::ConnectionLost {
            break still.cause();
        }
        // Nobody listens yet.
        asked = still;
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    println!("observed: the next parent, asked about it: {cause}");
    // *Restarted* if the client had heard of the first parent before it died, else *forgotten*.
    check(matches!(cause, Cause::PeerRestarted | Cause::Forgotten), "the next parent does not pretend to know")?;
    check(first_delivered(&client).await? == 1, "sent again under its own key, it is acked")?;
    check(book() == "1\n", "and was applied once")?;

    cut_between_apply_and_ack(directory.path()).await
}

/// The same loss with a parent that lives: the connection goes after the ack was sent and before it arrived.
async fn cut_between_apply_and_ack(directory: &Path) -> Outcome {
    let proxied = directory.join("proxied.sock");
    #[expect(clippy::disallowed_methods, reason = "a proxy that cuts connections is no service")]
    let listener = UnixListener::bind(&proxied)?;
    let parent = socket(directory).path().ok_or("a unix socket")?.to_owned();
    tokio::spawn(async move {
        let mut cuts = 1;
        while let Ok((mut client, _)) = listener.accept().await {
            let Ok(mut server) = UnixStream::connect(&parent).await else { return };
            if cuts == 0 {
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
                continue;
            }
            cuts -= 1;
            let mut bytes = vec![0; 4096];
            let Ok(sent) = client.read(&mut bytes).await else { return };
            if server.write_all(&bytes[..sent]).await.is_err() {
                return;
            }
            // Welcome goes through, so that the lane is known to be the same; the ack behind it does not.
            let Ok(answered) = server.read(&mut bytes).await else { return };
            let welcome = 4 + u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
            let _ = client.write_all(&bytes[..welcome.min(answered)]).await;
        }
    });
    let client = Client::<Reports>::new(&Address::unix(&proxied));
    let ack = client.call(report(2)).await;
    let counters = client.counters();
    println!("observed: {ack:?} after {} connections, {} resolved", counters.connections, counters.resolved);
    check(matches!(ack, Ok(2)), "a cut between apply and ack is resolved by asking: the ack arrives")?;
    check(counters.connections == 2 && counters.resolved == 1, "by a second connection, without a second report")
}

/// Sends report 1 until somebody listens: `NotDelivered` is safe to repeat, and only that.
async fn first_delivered(client: &Client<Reports>) -> Result<u64, CallError<Report>> {
    loop {
        match rpc::call(client, report(1)).await {
            Err(CallError::NotDelivered(NotDelivered::NoListener { .. })) => {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
            answer => return answer,
        }
    }
}

/// Whoever is started here ends with this program.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "an example that starts itself again")]
fn start(directory: &Path, how: &str) -> std::io::Result<Killed> {
    Command::new(std::env::current_exe()?).arg(directory).arg(how).spawn().map(Killed)
}
