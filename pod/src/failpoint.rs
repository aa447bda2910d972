//! Places at which a test may kill or halt the process, and what a test wants to know that no store tells.
//!
//! Compiled to nothing without the feature `testing`. Never returns an error and never unwinds: the process dies as
//! if by `kill -9`, with everything that it had not committed, or halts as if by `SIGSTOP`, with all of its threads.
//!
//! Placed with [`failpoint!`](crate::failpoint!) along the path of an event; chosen by `POD_FAILPOINT=name` or
//! `POD_FAILPOINT=name:3` (the third time), and by `POD_FAILPOINT_POD=name` for one pod of a tree alone. With
//! `POD_FAILPOINT_DO=halt` the process stops there and goes on when it is continued. With `POD_WITNESS=directory`
//! each pod writes to a file of its name there what [`witness!`](crate::witness!) is given.

/// Dies or halts here, if the environment names this place.
#[cfg(feature = "testing")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::hit($name)
    };
}

/// Does nothing: failpoints exist only with the feature `testing`.
#[cfg(not(feature = "testing"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {};
}

/// Writes down something that a store forgets: what was offered, which ack was given. The argument is a JSON value.
#[cfg(feature = "testing")]
#[macro_export]
macro_rules! witness {
    ($line:expr) => {
        $crate::failpoint::witness(|| $line)
    };
}

/// Does nothing: witnesses exist only with the feature `testing`.
#[cfg(not(feature = "testing"))]
#[macro_export]
macro_rules! witness {
    ($line:expr) => {};
}

#[cfg(feature = "testing")]
pub use armed::{hit, set_pod, witness};

#[cfg(feature = "testing")]
mod armed {
    use std::fs::{File, OpenOptions};
    use std::io::Write as _;
    use std::path::Path;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    struct Armed {
        name: String,
        left: AtomicU64,
        pod: Option<String>,
        halts: bool,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    static POD: OnceLock<String> = OnceLock::new();
    static WITNESS: OnceLock<Option<File>> = OnceLock::new();

    /// Longer than a signal to the whole process needs until it has reached this thread, too.
    const UNTIL_HALTED: Duration = Duration::from_millis(50);

    /// Says which pod this process is, so that `POD_FAILPOINT_POD` can choose it. The first call counts.
    pub fn set_pod(name: &str) {
        let _ = POD.set(name.to_owned());
    }

    /// Dies or halts here, if the environment names `place`.
    pub fn hit(place: &str) {
        let Some(armed) = ARMED.get_or_init(read) else { return };
        if armed.name != place || armed.pod.as_ref().is_some_and(|pod| Some(pod) != POD.get()) {
            return;
        }
        if armed.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        if armed.halts {
            let _ = kill_process(getpid(), Signal::STOP);
            std::thread::park_timeout(UNTIL_HALTED);
        } else {
            let _ = kill_process(getpid(), Signal::KILL);
            // The signal is ours and cannot be caught; nothing that follows may run.
            loop {
                std::thread::park();
            }
        }
    }

    /// Writes `line` to the file of this pod, if the environment names a directory for it.
    pub fn witness(line: impl FnOnce() -> serde_json::Value) {
        let opened = WITNESS.get_or_init(|| {
            let directory = std::env::var_os("POD_WITNESS")?;
            OpenOptions::new().append(true).create(true).open(Path::new(&directory).join(POD.get()?)).ok()
        });
        if let Some(mut file) = opened.as_ref() {
            // One write, and begun with a line's end: what a life that was killed in the middle of it left behind is a
            // line of its own.
            let _ = file.write_all(format!("\n{}", line()).as_bytes());
        }
    }

    fn read() -> Option<Armed> {
        let text = std::env::var("POD_FAILPOINT").ok()?;
        let (name, count) = match text.split_once(':') {
            Some((name, count)) => (name, count.parse().ok()?),
            None => (text.as_str(), 1),
        };
        let halts = std::env::var("POD_FAILPOINT_DO").is_ok_and(|what| what == "halt");
        let pod = std::env::var("POD_FAILPOINT_POD").ok();
        Some(Armed { name: name.to_owned(), left: AtomicU64::new(count), pod, halts })
    }
}

/// Says which pod this process is. Nothing to do without the feature `testing`.
#[cfg(not(feature = "testing"))]
pub fn set_pod(_name: &str) {}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test starts itself again, to be killed")]
    fn process_dies_at_the_named_place_the_named_time_and_as_the_named_pod() {
        if std::env::var_os("POD_TEST_FAILPOINT").is_some() {
            crate::failpoint::set_pod("b");
            for time in 1..=3 {
                crate::failpoint!("elsewhere");
                crate::failpoint!("here");
                writeln!(std::io::stdout(), "passed {time}").unwrap();
            }
            return;
        }
        for (failpoint, pod, passed, signal) in
            [("here", "b", 0, Some(9)), ("here:3", "b", 2, Some(9)), ("here", "c", 3, None), ("nowhere", "b", 3, None)]
        {
            let test = "failpoint::tests::process_dies_at_the_named_place_the_named_time_and_as_the_named_pod";
            let ended = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture"])
                .envs([("POD_TEST_FAILPOINT", "1"), ("POD_FAILPOINT", failpoint), ("POD_FAILPOINT_POD", pod)])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&ended.stdout);
            assert_eq!((text.matches("passed ").count(), ended.status.signal()), (passed, signal), "{failpoint} {pod}");
        }
        halts_and_goes_on();
    }

    #[expect(clippy::disallowed_methods, reason = "the test starts itself again, to be halted")]
    fn halts_and_goes_on() {
        let test = "failpoint::tests::process_dies_at_the_named_place_the_named_time_and_as_the_named_pod";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .envs([("POD_TEST_FAILPOINT", "1"), ("POD_FAILPOINT", "here:2"), ("POD_FAILPOINT_DO", "halt")])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let halted = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED).unwrap().unwrap();
        assert_eq!(halted.1.stopping_signal(), Some(rustix::process::Signal::STOP.as_raw()));
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(text.matches("passed ").count(), 3, "it went on where it had halted");
    }
}
