//! Real programs, real groups; what they started is looked for in the process table.

use std::time::Duration;

use tempfile::TempDir;

use crate::fixture::within;
use crate::handle::{PodController, PodHandle, PodOptions, Work};
use crate::manifest::WorkerSpec;
use crate::protocol::{Cancel, Method, Pause, TurnResult};
use crate::runtime_dir::Roots;
use crate::spawn::WorkEnd;
use crate::store::{HistoryItem, OutputKind};
use crate::worker::Workers;

struct Commands {
    pod: PodHandle,
    _dir: TempDir,
}

impl Commands {
    async fn with(spec: WorkerSpec) -> Self {
        let dir = TempDir::new().unwrap();
        let roots = Roots::at(&dir.path().join("pods")).unwrap();
        let options = PodOptions::new("command".parse().unwrap(), spec).roots(roots);
        Self { pod: PodController::spawn(options).await.unwrap(), _dir: dir }
    }

    async fn shell(command: &str, grace_ms: i64) -> Self {
        let mut spec = WorkerSpec::command(command);
        spec.table.insert("grace_ms".into(), toml::Value::Integer(grace_ms));
        Self::with(spec).await
    }

    async fn run(&self) -> Work {
        self.pod.run("what to do").await.unwrap()
    }

    async fn end(&self) -> WorkEnd {
        within("the end of the turn", self.run().await.ended()).await
    }

    async fn output(&self, kind: OutputKind) -> String {
        let mut text = String::new();
        let mut cursor = 0;
        loop {
            let rows = self.pod.store().read(move |reads| reads.history_after(cursor, 64)).await.unwrap();
            let Some(last) = rows.last() else { return text };
            cursor = last.seq;
            for row in &rows {
                if let HistoryItem::Output { output, text: piece } = &row.item
                    && *output == kind
                {
                    text.push_str(piece);
                }
            }
        }
    }

    /// The process number that the program has printed.
    async fn printed(&self) -> u32 {
        let mut head = self.pod.store().history_head();
        within("the program's output", async {
            loop {
                head.mark_unchanged();
                if let Ok(pid) = self.output(OutputKind::Text).await.trim().parse() {
                    return pid;
                }
                head.changed().await.unwrap();
            }
        })
        .await
    }
}

/// Waits until the process is dead; whether somebody has reaped it is not ours to say.
async fn dead(pid: u32) {
    let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    };
    within("the death of a program", async {
        while !gone() {
            // No child of ours: nothing tells when it dies.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_ends_tells_how_and_quotes_what_it_said() {
    let ends = [
        ("exit 0", None),
        ("echo fine; echo odd >&2", None),
        ("exit 3", Some("the command exited with code 3")),
        ("echo boom >&2; exit 1", Some("the command exited with code 1: boom")),
        ("kill -9 $$", Some("the command was killed by signal 9")),
    ];
    for (command, failure) in ends {
        let end = failure.map_or(WorkEnd::TurnEnded(TurnResult::Finished), |message| WorkEnd::Errored {
            message: message.to_owned(),
        });
        assert_eq!(Commands::shell(command, 2_000).await.end().await, end, "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_does_not_exist_is_an_error_that_names_it() {
    let mut spec = WorkerSpec::of_kind("command");
    spec.table.insert("argv".into(), toml::Value::Array(vec!["/no/such/program".into(), "x".into()]));
    let WorkEnd::Errored { message } = Commands::with(spec).await.end().await else { panic!("no error") };
    assert!(message.contains("failed to start `/no/such/program`"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_no_program_can_be_given_is_an_error_that_says_so_and_what_to_do() {
    let longest = crate::protocol::RUN_INPUT_BYTES_MAX;
    for (input, words) in [("a\0b".to_owned(), "has a NUL"), ("x".repeat(longest), "too much for a program")] {
        let commands = Commands::shell("true", 100).await;
        let work = commands.pod.run(input).await.unwrap();
        let WorkEnd::Errored { message } = within("the end of the turn", work.ended()).await else {
            panic!("no error")
        };
        assert!(message.contains(words) && message.contains("put the input into a file"), "{message}");
    }
    // The longest that one can be given: with its name and its end 128 KiB.
    let commands = Commands::shell("true", 100).await;
    let work = commands.pod.run("x".repeat(longest - "POD_INPUT=".len() - 1)).await.unwrap();
    assert_eq!(within("the end of the turn", work.ended()).await, WorkEnd::TurnEnded(TurnResult::Finished));
}

#[tokio::test(flavor = "multi_thread")]
async fn command_gets_its_input_and_nothing_of_ours() {
    let command =
        "echo \"$POD_NAME: $POD_INPUT: ${POD_CHILD-none}\"; cat; ls -l /proc/self/fd | grep -c -e socket: -e pods/";
    let commands = Commands::shell(&format!("{command} || true"), 2_000).await;
    assert_eq!(commands.end().await, WorkEnd::TurnEnded(TurnResult::Finished));
    let output = commands.output(OutputKind::Text).await;
    assert_eq!(output, "command: what to do: none\n0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn line_that_is_not_complete_is_shown_and_not_kept_yet() {
    let commands = Commands::shell(r"printf '\342\202'; printf '\254 half'; exec sleep 600", 100).await;
    let work = commands.run().await;
    let (mut seen, mut live) = commands.pod.live();
    within("what is shown", async {
        while seen.pieces.first().is_none_or(|piece| piece.text != "\u{20ac} half") {
            assert!(live.next().await.is_some());
            (seen, live) = commands.pod.live();
        }
    })
    .await;
    assert_eq!(commands.output(OutputKind::Text).await, "", "kept before its line was complete");
    rpc::Client::<Method>::new(&commands.pod.address()).call(Cancel).await.unwrap();
    within("the end", work.ended()).await;
    assert!(commands.pod.live().0.pieces.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_beyond_its_bound_is_read_counted_and_left_out() {
    let commands = Commands::shell("head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2; exit 2", 2_000).await;
    let end = WorkEnd::Errored { message: "the command exited with code 2: end".into() };
    assert_eq!(commands.end().await, end);
    let output = commands.output(OutputKind::Text).await;
    let kept = output.bytes().filter(|byte| *byte == b'x').count();
    assert_eq!(kept, super::KEPT_BYTES_MAX);
    assert!(output.ends_with("[1951424 more bytes were left out]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn error_quotes_the_end_of_a_long_complaint() {
    let commands = Commands::shell("head -c 5000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 1", 2_000).await;
    let WorkEnd::Errored { message } = commands.end().await else { panic!("no error") };
    assert!(message.ends_with("xlast") && message.len() < super::QUOTED_BYTES_MAX + 50, "{}", message.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_and_pause_end_the_whole_group_also_what_hears_no_sigterm() {
    for command in ["sleep 600 & echo $!; sleep 600", "trap '' TERM; sleep 600 & echo $!; while :; do sleep 1; done"] {
        for pause in [true, false] {
            let commands = Commands::shell(command, 100).await;
            let work = commands.run().await;
            let pid = commands.printed().await;
            let client = rpc::Client::<Method>::new(&commands.pod.address());
            let result = if pause {
                client.call(Pause).await.unwrap();
                TurnResult::Paused
            } else {
                client.call(Cancel).await.unwrap();
                TurnResult::Cancelled
            };
            assert_eq!(within("the end", work.ended()).await, WorkEnd::TurnEnded(result), "{command}");
            dead(pid).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn group_left_behind_is_killed_and_does_not_hold_the_turn() {
    // It holds the pipes; what was said is kept and quoted all the same.
    let commands = Commands::shell("sleep 600 & echo $!; echo why >&2; exit 4", 100).await;
    let end = WorkEnd::Errored { message: "the command exited with code 4: why".into() };
    assert_eq!(commands.end().await, end);
    dead(commands.printed().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn group_is_killed_when_its_turn_is_ended_before_its_grace() {
    let commands = Commands::shell("trap '' TERM; sleep 600 & echo $!; while :; do sleep 1; done", 600_000).await;
    let work = commands.run().await;
    let pid = commands.printed().await;
    rpc::Client::<Method>::new(&commands.pod.address()).call(Cancel).await.unwrap();
    assert_eq!(within("the end", work.ended()).await, WorkEnd::TurnEnded(TurnResult::Cancelled));
    dead(pid).await;
}

#[test]
fn spec_without_or_with_two_commands_is_refused_with_what_would_be_right() {
    let both = "command = 'ls'\nargv = ['ls']";
    for table in ["", "command = ' '", "argv = []", "argv = ['']", both] {
        let spec = WorkerSpec { table: toml::from_str(table).unwrap(), ..WorkerSpec::of_kind("command") };
        let error = Workers::builtin().make(&spec).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("give either `command`"), "{table}: {error}");
    }
    let spec = WorkerSpec { table: toml::from_str("comand = 'ls'").unwrap(), ..WorkerSpec::of_kind("command") };
    let error = Workers::builtin().make(&spec).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("did you mean `command`?"), "{error}");
    let error = Workers::builtin().make(&WorkerSpec::of_kind("comand")).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("did you mean `command`?"), "{error}");
}
