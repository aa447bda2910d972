//! This program, started once more in the background as a pod of its own: without a terminal, and without us.
//!
//! Returns when the pod answers. One that ends before is quoted; one that takes too long is ended, so that nothing half
//! begun is left behind.
//!
//! Used by `pod serve --detach` and `pod restore`.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pod::discovery;
use pod::id::PodName;
use pod::runtime_dir::{ROOT_VARIABLE, Roots};
use pod::{PodController, PodStatus};
use rpc::{CallError, NotDelivered};
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval};

use crate::commands::seconds;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::tree::not_started;

/// How often the pod is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_millis(25);
/// LIMIT: how long one such question may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// LIMIT: how much of what it wrote is quoted, in bytes.
const QUOTED_BYTES_MAX: u64 = 2_000;

/// Starts `pod serve` with `args` in the background, for the pod `name` below `roots`, and waits until it answers.
#[expect(clippy::disallowed_methods, reason = "the program starts itself, without a terminal")]
pub(crate) async fn start<A: AsRef<OsStr>>(
    roots: &Roots,
    name: &PodName,
    args: &[A],
    limit: Duration,
) -> Result<PodStatus, Failure> {
    PodController::may_start(name, roots).await.map_err(not_started)?;
    let paths = roots.pod(name);
    paths.make_state_dir().map_err(|error| Failure::from_error(Exit::Usage, error))?;
    let log = paths.stderr();
    let internal = |what: &str, error: std::io::Error| Failure::internal(format!("pod `{name}` {what}")).because(error);
    let written = OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
    let written = written.map_err(|error| internal("has no place for what it writes", error))?;
    let begun = written.metadata().map_or(0, |found| found.len());
    let program = std::env::current_exe().map_err(|error| internal("cannot be started", error))?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--background").args(args).stdin(Stdio::null());
    // Whoever types this may be a program of a pod: what is started is none of that pod's, and does not end with it.
    command.env_remove(pod::spawn::LIFE_VARIABLE).env(pod::spawn::BACKGROUND_VARIABLE, "1");
    if let Some(root) = roots.moved_to() {
        // Also where others look for whose process it is.
        command.arg("--root").arg(root).env(ROOT_VARIABLE, root);
    }
    let streams = written.try_clone().map_err(|error| internal("has no place for what it writes", error))?;
    let mut child =
        command.stdout(streams).stderr(written).spawn().map_err(|error| internal("cannot be started", error))?;
    ready(roots, name, &mut child, limit, || said(&log, begun)).await
}

async fn ready(
    roots: &Roots,
    name: &PodName,
    child: &mut Child,
    limit: Duration,
    said: impl Fn() -> String,
) -> Result<PodStatus, Failure> {
    let until = Instant::now() + limit;
    let mut ticks = interval(ASK_EVERY);
    loop {
        ticks.tick().await;
        let ended =
            child.try_wait().map_err(|error| Failure::internal("a process cannot be waited for").because(error))?;
        if let Some(status) = ended {
            return Err(exited(name, status, &said()));
        }
        if Instant::now() >= until {
            // Reaped here: nobody else knows of it.
            let _ = child.kill().await;
            let message =
                format!("pod `{name}` was not ready within {} and was ended{}", seconds(limit), quoted(&said()));
            return Err(Failure::new(Exit::TimedOut, message));
        }
        // Its own answer, and not that of another life.
        match discovery::status(roots, name, ANSWER_MAX).await {
            Ok(status) if Some(status.pid) == child.id() => return Ok(status),
            Err(CallError::NotDelivered(NotDelivered::Unauthorized(why))) => {
                let _ = child.kill().await;
                return Err(Failure::new(Exit::Rejected, format!("pod `{name}` was ended again: {why}")));
            }
            Ok(_) | Err(_) => {}
        }
    }
}

fn exited(name: &PodName, status: std::process::ExitStatus, said: &str) -> Failure {
    // It says itself what was wrong, in the same words and with the same codes.
    let exit = match status.code() {
        Some(code) if code == i32::from(Exit::Usage.code()) => Exit::Usage,
        Some(code) if code == i32::from(Exit::Held.code()) => Exit::Held,
        Some(code) if code == i32::from(Exit::Rejected.code()) => Exit::Rejected,
        _ => Exit::DiedEarly,
    };
    Failure::new(exit, format!("pod `{name}` exited while it was starting ({status}){}", quoted(said)))
}

fn quoted(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!("; it said: {said}") }
}

/// What was written behind `begun`.
fn said(log: &Path, begun: u64) -> String {
    let read = || {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(begun.max(length.saturating_sub(QUOTED_BYTES_MAX))))?;
        let mut bytes = Vec::new();
        file.take(QUOTED_BYTES_MAX).read_to_end(&mut bytes)?;
        let words: Vec<String> = String::from_utf8_lossy(&bytes).split_whitespace().map(str::to_owned).collect();
        std::io::Result::Ok(words.join(" ").trim_start_matches("error: ").to_owned())
    };
    read().unwrap_or_default()
}
