//! What somebody at a terminal sees: colour, columns, lines that are redrawn, and what is typed.
//!
//! The terminal is one that the test has made (a pseudo-terminal); it remembers all that was written to it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::process::Child;

use crate::world::World;

const BOLD: &str = "\u{1b}[1m";
const UP: &str = "A\r\u{1b}[2K";

/// A terminal, and the program that runs on it.
struct Terminal {
    child: Child,
    keys: File,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    /// `pod` with `args`, on a terminal so many columns wide.
    fn start(world: &World, args: &[&str], columns: u16, variables: &[(&str, &str)]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
        let size = Winsize { ws_row: 30, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(slave.as_fd(), size).unwrap();
        let end = || std::process::Stdio::from(slave.try_clone().unwrap());
        let mut command = world.command(&world.root(), args);
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm").envs(variables.iter().copied());
        let child = command.spawn().unwrap();
        // Ours are closed: the terminal hangs up when the program has ended.
        drop((command, slave));
        let keys = File::from(OwnedFd::try_clone(&master).unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (into, mut screen) = (Arc::clone(&seen), File::from(master));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO is how a terminal says that nobody has it open any more.
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        Self { child, keys, seen, reader: Some(reader) }
    }

    /// All that was written, line ends as a program writes them.
    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).replace("\r\n", "\n")
    }

    async fn shows(&self, world: &World, text: &str) {
        world.until(&format!("the terminal shows `{text}`"), async || self.shown().contains(text)).await;
    }

    fn types(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the end; returns the exit code and all that was shown.
    async fn ended(mut self) -> (i32, String) {
        let status = tokio::time::timeout(crate::world::PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end: {}", self.shown())).unwrap();
        let reader = self.reader.take().unwrap();
        tokio::task::spawn_blocking(move || reader.join()).await.unwrap().unwrap();
        (status.code().unwrap_or(-1), self.shown())
    }
}

/// A line as it stands on the screen: without what only colours it.
fn plain(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest)
    })
}

#[tokio::test]
async fn list_on_a_terminal_is_coloured_and_none_of_its_lines_wraps() {
    let world = World::new();
    let long = "a-child-with-a-name-that-is-rather-long-for-a-narrow-terminal";
    assert_eq!(world.pod(&["run", "--child", &format!("{long}=true")]).await.code, 0);
    for columns in [80, 120] {
        let (code, shown) = Terminal::start(&world, &["ls"], columns, &[]).ended().await;
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains(BOLD), "no colour: {shown:?}");
        let widest = shown.lines().map(|line| plain(line).chars().count()).max().unwrap();
        assert!(widest <= usize::from(columns), "{widest} of {columns}: {shown}");
    }
    for variables in [&[("NO_COLOR", "1")][..], &[("TERM", "dumb")], &[("TERM", "dumb"), ("CI", "true")]] {
        let (_, shown) = Terminal::start(&world, &["ls"], 100, variables).ended().await;
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
    let (_, shown) = Terminal::start(&world, &["ls", "--json"], 100, &[]).ended().await;
    assert!(shown.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{shown:?}");
}

#[tokio::test]
async fn tree_that_runs_is_redrawn_in_place_and_its_result_stays() {
    let world = World::new();
    let go = world.path("go");
    let wait = format!("until test -e '{}'; do sleep 0.01; done", go.display());
    let run = Terminal::start(&world, &["run", "--child", &format!("a={wait}"), "--child", "b=exit 3"], 80, &[]);
    run.shows(&world, UP).await;
    std::fs::write(&go, "").unwrap();
    let (code, shown) = run.ended().await;
    assert_eq!(code, 1, "{shown}");
    let result = plain(shown.rsplit(UP).next().unwrap());
    assert!(result.contains("exited with code 3"), "{result}");
    let widest = shown.split(['\n', '\r']).map(|line| plain(line).chars().count()).max().unwrap();
    assert!(widest <= 80, "a line that wraps is not found again: {widest}: {shown}");
}

#[tokio::test]
async fn what_is_typed_at_a_pod_on_a_terminal_is_taken_and_ctrl_d_detaches() {
    let world = World::new();
    let mut run = world.start(&["run", "--keep", "--child", "a=true"]);
    run.says("kept").await;
    let mut attach = Terminal::start(&world, &["attach", "run"], 80, &[]);
    attach.shows(&world, "run").await;
    attach.types("what I typed\n");
    attach.shows(&world, "asked: what I typed").await;
    // Ctrl-D at the beginning of a line.
    attach.types("\u{4}");
    let (code, shown) = attach.ended().await;
    assert_eq!(code, 0, "{shown}");
    assert_eq!(world.list().await.iter().find(|pod| pod["name"] == "run").unwrap()["alive"], true, "it goes on");
    // Ctrl-C ends a tree that is watched, not the pods.
    let mut watch = Terminal::start(&world, &["tree", "--watch"], 80, &[]);
    watch.shows(&world, "run").await;
    watch.types("q\n");
    let pid = rustix::process::Pid::from_raw(watch.child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (code, shown) = watch.ended().await;
    assert_eq!(code, 0, "{shown}");
    assert_eq!(world.pod(&["stop", "run"]).await.code, 0);
    assert_eq!(run.ended().await.code, 0);
}
