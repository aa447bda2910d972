//! Places at which a test may kill the process.
//!
//! Compiled to nothing without the feature `testing`. Never returns an error and never unwinds: the process dies as
//! if by `kill -9`, with everything that it had not committed.
//!
//! Placed with [`failpoint!`](crate::failpoint!) along the path of an event; chosen by `POD_FAILPOINT=name` or
//! `POD_FAILPOINT=name:3` (the third time), and by `POD_FAILPOINT_POD=name` for one pod of a tree alone.

/// Dies here, if the environment names this place.
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

#[cfg(feature = "testing")]
pub use armed::{hit, set_pod};

#[cfg(feature = "testing")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        name: String,
        left: AtomicU64,
        pod: Option<String>,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    static POD: OnceLock<String> = OnceLock::new();

    /// Says which pod this process is, so that `POD_FAILPOINT_POD` can choose it. The first call counts.
    pub fn set_pod(name: &str) {
        let _ = POD.set(name.to_owned());
    }

    /// Dies here, if the environment names `place`.
    pub fn hit(place: &str) {
        let Some(armed) = ARMED.get_or_init(read) else { return };
        if armed.name != place || armed.pod.as_ref().is_some_and(|pod| Some(pod) != POD.get()) {
            return;
        }
        if armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // The signal is ours and cannot be caught; nothing that follows may run.
            loop {
                std::thread::park();
            }
        }
    }

    fn read() -> Option<Armed> {
        let text = std::env::var("POD_FAILPOINT").ok()?;
        let (name, count) = match text.split_once(':') {
            Some((name, count)) => (name, count.parse().ok()?),
            None => (text.as_str(), 1),
        };
        Some(Armed { name: name.to_owned(), left: AtomicU64::new(count), pod: std::env::var("POD_FAILPOINT_POD").ok() })
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
    }
}
