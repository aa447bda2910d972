//! A worker whose turn runs a program.
//!
//! The program gets a process group of its own and nothing of ours but its standard streams. It reads no reports. It
//! is stopped with SIGTERM and, after a grace, SIGKILL, the whole group each time; it is never left behind.
//!
//! What `pod run --child NAME=COMMAND` starts.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::io::Errno;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdout, Command};

use super::{Signal, TurnContext, TurnEnd, Worker, WorkerError};
use crate::manifest::{ManifestError, WorkerSpec};
use crate::scope::launch::{self, CONFINE_VARIABLE, FROM_STDIN};
use crate::scope::{Confinement, kernel_confinement};
use crate::spawn::process::{LIFE_VARIABLE, Leader, WITHHELD};
use crate::spawn::reaper;
use crate::store::OutputKind;

/// LIMIT: output of one turn that is kept, in bytes and per stream; what comes after it is read, counted and left out.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// LIMIT: how much of its standard error an error quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 400;
/// How long what is left in the pipes of a group that was killed may take to be kept.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A program's standard output and error.
type Streams = (Option<ChildStdout>, Option<ChildStderr>);

/// Runs a program in each turn.
#[derive(Debug)]
pub struct CommandWorker {
    argv: Vec<String>,
    grace: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// For the shell.
    command: Option<String>,
    /// Without a shell.
    argv: Option<Vec<String>>,
    /// Between SIGTERM and SIGKILL.
    #[serde(default = "default_grace_ms")]
    grace_ms: u64,
}

fn default_grace_ms() -> u64 {
    2_000
}

impl CommandWorker {
    /// The worker that `spec` describes: `command = "..."` for the shell, or `argv = ["...", ...]` without one.
    ///
    /// # Errors
    /// Names the key that is wrong or missing.
    pub fn from_spec(spec: &WorkerSpec) -> Result<Self, ManifestError> {
        let table: Table = spec.read()?;
        let argv = match (table.command, table.argv) {
            (Some(command), None) if !command.trim().is_empty() => vec!["/bin/sh".into(), "-c".into(), command],
            (None, Some(argv)) if argv.first().is_some_and(|program| !program.is_empty()) => argv,
            _ => {
                let reason = "give either `command` (for the shell) or `argv` (without one), and not empty".to_owned();
                return Err(ManifestError::Invalid { place: "worker `command`".into(), reason });
            }
        };
        Ok(Self { argv, grace: Duration::from_millis(table.grace_ms) })
    }

    async fn run(&self, cx: &TurnContext) -> Result<TurnEnd, WorkerError> {
        let confined = confined(cx).await?;
        let (leader, streams) = self.start(cx, confined)?;
        let outputs =
            async { tokio::try_join!(keep(cx, OutputKind::Text, streams.0), keep(cx, OutputKind::Stderr, streams.1)) };
        let mut outputs = std::pin::pin!(outputs);
        let mut kept: Option<Result<(String, String), WorkerError>> = None;
        // CANCEL SAFETY: `exited` and `signalled` may be dropped and called again; the outputs keep their state.
        let signal = loop {
            tokio::select! {
                () = leader.exited() => break None,
                done = &mut outputs, if kept.is_none() => kept = Some(done),
                signal = cx.signalled() => break Some(signal),
            }
            if let Some(Err(error)) = &kept {
                // What it says can no longer be kept: it would wait for a reader for ever.
                leader.stop(self.grace).await;
                return Err(error.clone());
            }
        };
        if let Some(signal) = signal {
            leader.stop(self.grace).await;
            return Ok(match signal {
                Signal::Pause => TurnEnd::Paused,
                Signal::Limit => TurnEnd::LimitReached,
                Signal::Cancel | Signal::Shutdown => TurnEnd::Cancelled,
            });
        }
        // What it started and left behind may hold its pipes: that gets as long as the grace, then its group is killed;
        // what has left the group, too, gets no more.
        if kept.is_none() {
            kept = tokio::time::timeout(self.grace, &mut outputs).await.ok();
        }
        let status = leader.reap_group().await;
        if kept.is_none() {
            kept = tokio::time::timeout(LAST_WORDS, &mut outputs).await.ok();
        }
        let (_, stderr) = kept.unwrap_or_else(|| Ok(Default::default()))?;
        ended(status.map_err(|e| WorkerError::new(format!("failed to wait for the program: {e}")))?, &stderr)
    }

    #[expect(clippy::disallowed_methods, reason = "one of the two places that start programs")]
    fn start(&self, cx: &TurnContext, confined: Option<String>) -> Result<(Leader, Streams), WorkerError> {
        let (program, arguments) = self.argv.split_first().ok_or_else(|| WorkerError::new("there is no program"))?;
        let mut command = match &confined {
            // Our own program, which ties itself down and becomes this one.
            Some(_) => {
                let mut host = Command::new(&cx.pod().shared().program);
                host.arg(program).env(CONFINE_VARIABLE, FROM_STDIN);
                host
            }
            None => Command::new(program),
        };
        command
            .args(arguments)
            .stdin(if confined.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .env("POD_NAME", cx.pod().id().name.as_str())
            .env(LIFE_VARIABLE, cx.pod().id().incarnation.to_string())
            .env("POD_INPUT", cx.input().unwrap_or_default());
        for variable in WITHHELD {
            command.env_remove(variable);
        }
        let input_bytes = cx.input().map_or(0, str::len);
        let failed = |error: std::io::Error| match error.raw_os_error() {
            // One variable has at most 128 KiB, with its name; no variable has a NUL.
            Some(code) if code == Errno::TOOBIG.raw_os_error() => WorkerError::new(format!(
                "failed to start `{program}`: its input of {input_bytes} bytes and the environment are too much for a program; put the input into a file, and give it the file's name"
            )),
            _ if cx.input().is_some_and(|input| input.contains('\0')) => WorkerError::new(format!(
                "failed to start `{program}`: its input has a NUL, which no program can be given in its environment; put the input into a file, and give it the file's name"
            )),
            _ => WorkerError::new(format!(
                "failed to start `{program}`: {error}; check that it exists and may be executed"
            )),
        };
        let (mut child, ours) = reaper::start(&mut command, None).map_err(failed)?;
        if let (Some(mut stdin), Some(orders)) = (child.stdin.take(), confined) {
            // Beside the turn: it is read before the program runs. Nobody reads it if the program is killed before, and a part
            // of it is no order.
            tokio::spawn(async move { stdin.write_all(orders.as_bytes()).await });
        }
        let streams = (child.stdout.take(), child.stderr.take());
        Ok((Leader::new((child, ours)).map_err(failed)?.kill_on_drop(), streams))
    }
}

/// What the kernel is to keep the program to, if anything; written to the history with what the kernel can do.
async fn confined(cx: &TurnContext) -> Result<Option<String>, WorkerError> {
    let member = &cx.pod().shared().member;
    let (asked, scope) = (member.place().confinement, member.scope());
    if scope.rules().is_none() {
        return Ok(None);
    }
    let effective = launch::effective(asked, true, kernel_confinement()).map_err(WorkerError::new)?;
    let detail = serde_json::json!({ "asked": asked.word(), "effective": effective.word() });
    cx.note("confinement", detail).await?;
    if effective == Confinement::Off {
        return Ok(None);
    }
    launch::orders(scope, asked).map(Some).ok_or_else(|| WorkerError::new("the scope of the program cannot be told"))
}

impl Worker for CommandWorker {
    fn reads_reports(&self) -> bool {
        false
    }

    /// The one that it starts is known as its own.
    fn starts_processes(&self) -> bool {
        false
    }

    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move { self.run(cx).await })
    }
}

/// Reads a stream to its end and writes it to the history in pieces; returns its tail.
async fn keep(
    cx: &TurnContext,
    kind: OutputKind,
    stream: Option<impl AsyncRead + Unpin>,
) -> Result<String, WorkerError> {
    let Some(mut stream) = stream else { return Ok(String::new()) };
    let mut buffer = vec![0; 16 * 1024];
    let (mut pending, mut tail) = (Vec::new(), Vec::new());
    let (mut kept, mut left_out) = (0, 0_usize);
    // Of what is pending, how much was shown.
    let mut shown = 0;
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        let fresh = buffer.get(..read).unwrap_or_default();
        tail.extend_from_slice(fresh);
        let excess = tail.len().saturating_sub(QUOTED_BYTES_MAX);
        tail.drain(..excess);
        let room = KEPT_BYTES_MAX.saturating_sub(kept).min(read);
        pending.extend_from_slice(fresh.get(..room).unwrap_or_default());
        kept += room;
        left_out += read - room;
        // Whole lines, so that a history entry does not end within a character; the rest at the end.
        let line_end = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let end = if read == 0 || pending.len() > 32 * 1024 { pending.len() } else { line_end };
        if end > 0 {
            let piece: Vec<u8> = pending.drain(..end).collect();
            cx.produce(kind, &String::from_utf8_lossy(&piece)).await?;
            shown = 0;
        }
        // A line that is not complete yet: a prompt, or how far it has come.
        shown += show(cx, kind, pending.get(shown..).unwrap_or_default());
        if read == 0 {
            break;
        }
    }
    if left_out > 0 {
        cx.produce(kind, &format!("[{left_out} more bytes were left out]")).await?;
    }
    Ok(String::from_utf8_lossy(&tail).trim().to_owned())
}

/// Shows as much of `fresh` as is whole characters; tells how many bytes.
fn show(cx: &TurnContext, kind: OutputKind, fresh: &[u8]) -> usize {
    let whole = match std::str::from_utf8(fresh) {
        Ok(text) => text,
        Err(error) => {
            fresh.get(..error.valid_up_to()).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
        }
    };
    cx.delta(kind, whole);
    whole.len()
}

fn ended(status: ExitStatus, stderr: &str) -> Result<TurnEnd, WorkerError> {
    use std::os::unix::process::ExitStatusExt as _;
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(TurnEnd::Finished),
        (Some(code), _) => format!("the command exited with code {code}"),
        (None, Some(signal)) => format!("the command was killed by signal {signal}"),
        (None, None) => format!("the command ended with {status}"),
    };
    Err(WorkerError::new(if stderr.is_empty() { how } else { format!("{how}: {stderr}") }))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
