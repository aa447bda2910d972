//! A root of its own, and `pod` run below it.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// No test waits longer for anything; what takes longer on the slowest machine is a defect.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where a test's pods live.
pub(crate) struct World {
    dir: TempDir,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command that runs; killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    stderr: ChildStderr,
    shown: String,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A path beside the root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file beside the root.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The root; made by the first command that needs it.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// Runs `pod` with `args` below the root, to its end.
    pub(crate) async fn pod(&self, args: &[&str]) -> Done {
        self.pod_below(&self.root(), args).await
    }

    /// Runs `pod` with `args` and nothing else, in this environment, to its end.
    pub(crate) async fn bare(&self, args: &[&str], variables: &[(&str, &str)]) -> Done {
        let mut command = self.program(env!("CARGO_BIN_EXE_pod"));
        command.args(args).envs(variables.iter().copied());
        ended(command).await
    }

    /// Runs `line` in a shell that knows the program as `$POD` and its root, to its end.
    pub(crate) async fn shell(&self, shell: &str, line: &str) -> Done {
        let mut command = self.program(shell);
        command.arg("-c").arg(line).env("POD", env!("CARGO_BIN_EXE_pod")).env("PODS_ROOT", self.root());
        ended(command).await
    }

    /// The same below another root.
    pub(crate) async fn pod_below(&self, root: &Path, args: &[&str]) -> Done {
        ended(self.command(root, args)).await
    }

    /// Starts `pod` with `args` and lets it run.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::of(self.command(&self.root(), args).spawn().unwrap())
    }

    /// The same, with somebody who types.
    pub(crate) fn start_typing(&self, args: &[&str]) -> Running {
        Running::of(self.command(&self.root(), args).stdin(Stdio::piped()).spawn().unwrap())
    }

    /// The committed history of a pod.
    pub(crate) async fn history(&self, name: &str) -> Vec<Value> {
        let log = self.pod(&["log", name, "--json"]).await;
        assert_eq!(log.code, 0, "{log:?}");
        log.records()
    }

    /// What `pod ls` says of each pod.
    pub(crate) async fn list(&self) -> Vec<Value> {
        let list = self.pod(&["ls", "--json"]).await;
        assert_eq!(list.code, 0, "{list:?}");
        list.records()
    }

    /// Looks again and again until `holds`.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let seen = timeout(PATIENCE, async {
            while !holds().await {
                tokio::task::yield_now().await;
            }
        });
        assert!(seen.await.is_ok(), "it did not come to be that {what}");
    }

    /// `pod` with `args` below a root, not started yet.
    pub(crate) fn command(&self, root: &Path, args: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_pod"));
        command.args(args).arg("--root").arg(root);
        command
    }

    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // `CI` is taken for a wish for colour.
        for variable in ["PODS_ROOT", "RUST_LOG", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI", "POD_COMPLETE"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

/// Runs it to its end.
async fn ended(mut command: Command) -> Done {
    let output = timeout(PATIENCE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("`{command:?}` did not end")).unwrap();
    Done {
        code: code(output.status),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Done {
    /// The JSON lines on standard output. Fails if a line is no JSON object.
    #[track_caller]
    pub(crate) fn records(&self) -> Vec<Value> {
        let record = |line| match serde_json::from_str(line) {
            Ok(record @ Value::Object(_)) => record,
            other => panic!("`{line}` is no JSON object: {other:?}"),
        };
        self.stdout.lines().map(record).collect()
    }

    /// Ended with `code`, and told why in these words, on standard error.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {}", self.stderr);
        }
        assert_eq!(self.stderr.matches("error:").count(), 1, "told once: {}", self.stderr);
    }
}

impl Running {
    fn of(mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (input, stderr) = (child.stdin.take(), child.stderr.take().unwrap());
        Self { child, input, lines, stderr, shown: String::new() }
    }

    /// Types into it.
    pub(crate) async fn types(&mut self, text: &str) {
        let input = self.input.as_mut().expect("somebody types");
        input.write_all(text.as_bytes()).await.unwrap();
        input.flush().await.unwrap();
    }

    /// Nothing more will be typed.
    pub(crate) fn hangs_up(&mut self) {
        self.input = None;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Waits until a line on standard output contains `text`.
    pub(crate) async fn says(&mut self, text: &str) {
        let found = timeout(PATIENCE, async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.shown.push_str(&line);
                self.shown.push('\n');
                if line.contains(text) {
                    return true;
                }
            }
            false
        });
        assert!(matches!(found.await, Ok(true)), "`{text}` was not said: {}", self.shown);
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops the process, and returns when each of its threads stands still: until one has taken the signal, others run on.
    pub(crate) async fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
        let states = || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            // A thread that has just ended is gone.
            let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
            // Behind the name, which may have any character in it.
            stats.map(|stat| stat.rsplit_once(") ").unwrap().1.chars().next())
        };
        let stopped = async {
            while !states().all(|state| state == Some('T')) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, stopped).await.expect("it stops");
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Done {
        let ended = timeout(PATIENCE, async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.shown.push_str(&line);
                self.shown.push('\n');
            }
            let mut stderr = String::new();
            self.stderr.read_to_string(&mut stderr).await.unwrap();
            (self.child.wait().await.unwrap(), stderr)
        });
        let Ok((status, stderr)) = ended.await else { panic!("it did not end; it said: {}", self.shown) };
        Done { code: code(status), stdout: self.shown, stderr }
    }
}

/// The exit code, or minus the signal.
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| -signal)).unwrap()
}

/// The records of one type.
pub(crate) fn of_type<'a>(records: &'a [Value], name: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["type"] == name).collect()
}

/// The entries of a history that are of one kind.
pub(crate) fn of_kind<'a>(history: &'a [Value], kind: &str) -> Vec<&'a Value> {
    history.iter().filter(|entry| entry["kind"] == kind).collect()
}

/// The line of the table that begins with the child `name`.
#[track_caller]
pub(crate) fn table_line<'a>(done: &'a Done, name: &str) -> &'a str {
    let table = done.stdout.lines().skip_while(|line| !line.starts_with("child ") || !line.contains("terminal event"));
    let line = table.into_iter().find(|line| line.split_whitespace().next() == Some(name));
    line.unwrap_or_else(|| panic!("there is no line of `{name}` in the table: {}", done.stdout))
}
