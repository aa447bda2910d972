//! Whose a process is that shows nothing of itself: whoever's has started it, if that can be told.
//!
//! Processes that became their user without a new program (those of a login), and such as hide on purpose (agents that keep
//! keys, the boxes of browsers) do not show their environment to anybody but root, however little they have to do with pods. One
//! that was started by somebody who shows what it is, and who takes in no orphans, is that one's.
//!
//! Says yes only with proof. Reads `/proc`; asked by `process` for those that it cannot look at.

use std::io;
use std::path::Path;

use rustix::process::Pid;

use super::process::{Environment, field, is_of_another_user_or_older, mark_of, of, unless_gone};
use crate::store::UnixMillis;

/// LIMIT: hidden processes above each other; a login has one, a browser three.
const LINE_MAX: usize = 32;
/// Programs that take in what others have left alone, as the kernel cuts their names: supervisors of a login, of a container, of
/// services. Nothing shows whether any other process does so, too.
const TAKES_IN_ORPHANS: [&str; 12] = [
    "systemd",
    "init",
    "conmon",
    "tini",
    "docker-init",
    "podman-init",
    "dumb-init",
    "catatonit",
    "s6-svscan",
    "runsvdir",
    "gnome-session-b",
    "flatpak-session",
];

/// Whether `pid`, which shows nothing, was started by somebody who is neither a life that began at `since` nor a program of
/// it. The life itself and whoever bears its mark are known not to be among the living.
///
/// # Errors
/// A process cannot be looked at, for another reason than that it is hidden.
pub(super) fn is_anothers(proc: &Path, pid: Pid, since: UnixMillis) -> io::Result<bool> {
    let mut pid = pid;
    for _ in 0..LINE_MAX {
        let Some(own) = Found::of(proc, pid)? else { return Ok(true) };
        // The first process has whoever was left alone, whoever had started it.
        let Some(above) = Pid::from_raw(own.parent).filter(|above| above.as_raw_nonzero().get() > 1) else {
            return Ok(false);
        };
        let parent = match Found::of(proc, above)? {
            Some(parent) if parent.began <= own.began => parent,
            // It has ended just now.
            _ => return Ok(false),
        };
        match mark_of(proc, above) {
            // A program of another life; a pod takes in what its own have left alone.
            Ok(Some(_)) => return Ok(Environment::of(proc, above)?.child().is_none()),
            Ok(None) if is_of_another_user_or_older(proc, above, since)? => {
                return Ok(!takes_in_orphans(proc, &parent, above));
            }
            // It is younger than the life, and none of its programs: nobody of the life was ever below it.
            Ok(None) => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            Err(_) if is_of_another_user_or_older(proc, above, since)? => return Ok(true),
            Err(_) => pid = above,
        }
    }
    Ok(false)
}

/// What `stat` says of a process.
struct Found {
    name: String,
    parent: i32,
    began: u64,
}

impl Found {
    fn of(proc: &Path, pid: Pid) -> io::Result<Option<Self>> {
        let Some(stat) = unless_gone(std::fs::read_to_string(of(proc, pid, "stat")))? else { return Ok(None) };
        let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map(|(name, _)| name.to_owned());
        let parent = field(&stat, 4).and_then(|field| field.parse().ok());
        let began = field(&stat, 22).and_then(|field| field.parse().ok());
        Ok(name.zip(parent).zip(began).map(|((name, parent), began)| Self { name, parent, began }))
    }
}

/// Whether `above` may have become the parent of what others had started: it is one that does so for all of its user, or may
/// be a pod, which is this program, or says so.
fn takes_in_orphans(proc: &Path, found: &Found, above: Pid) -> bool {
    let program = std::fs::read_link(of(proc, above, "exe"));
    let is_ours = match (&program, std::env::current_exe()) {
        (Ok(program), Ok(own)) => *program == own,
        _ => false,
    };
    let is_pod = Environment::of(proc, above).is_ok_and(|environment| environment.is_background());
    is_ours || is_pod || TAKES_IN_ORPHANS.contains(&found.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The life began 50 s after boot; a process that is hidden shows no environment, which is a directory here.
    struct Table(tempfile::TempDir);

    const SINCE: UnixMillis = UnixMillis(1_050_000);
    /// Before the life began, and after.
    const OLD: u64 = 1_000;
    const NEW: u64 = 9_000;

    impl Table {
        fn new() -> Self {
            let table = Self(tempfile::tempdir().unwrap());
            std::fs::write(table.0.path().join("stat"), "btime 1000\n").unwrap();
            table
        }

        fn process(self, pid: u32, name: &str, parent: u32, began: u64, environment: Option<&str>) -> Self {
            let dir = self.0.path().join(pid.to_string());
            std::fs::create_dir(&dir).unwrap();
            let zeros = "0 ".repeat(22 - 5);
            std::fs::write(dir.join("stat"), format!("{pid} ({name}) S {parent} {zeros}{began} 9\n")).unwrap();
            let user = rustix::process::getuid().as_raw();
            std::fs::write(dir.join("status"), format!("Uid:\t{user}\t0\t0\t0\n")).unwrap();
            if let Some(environment) = environment {
                std::fs::write(dir.join("environ"), environment).unwrap();
            }
            self
        }

        fn of_another_user(self, pid: u32) -> Self {
            let user = rustix::process::getuid().as_raw() + 1;
            std::fs::write(self.0.path().join(pid.to_string()).join("status"), format!("Uid:\t{user}\t0\t0\t0\n"))
                .unwrap();
            self
        }

        #[track_caller]
        fn check(&self, pid: i32, expected: bool) {
            assert_eq!(is_anothers(self.0.path(), Pid::from_raw(pid).unwrap(), SINCE).unwrap(), expected);
        }
    }

    #[test]
    fn process_that_shows_nothing_is_its_parents_if_that_shows_whose_it_is() {
        let shell = || Table::new().process(20, "bash", 1, OLD, Some("A=1\0"));
        // A login's, below what watches it as root.
        Table::new()
            .process(20, "sshd", 1, OLD, Some(""))
            .of_another_user(20)
            .process(30, "sshd", 20, NEW, None)
            .check(30, true);
        shell().process(30, "hides", 20, NEW, None).check(30, true);
        shell().process(30, "hides", 20, NEW, Some("A=1\0")).process(40, "hides too", 30, NEW, None).check(40, true);
        let other = "POD_LIFE=00000000000000aa\0";
        Table::new().process(20, "sh", 1, NEW, Some(other)).process(30, "hides", 20, NEW, None).check(30, true);
    }

    #[test]
    fn process_that_may_have_been_left_alone_by_a_life_is_nobody_elses() {
        Table::new().process(30, "agent", 1, NEW, None).check(30, false);
        for (name, environment) in
            [("systemd", "A=1\0"), ("pod", "POD_BACKGROUND=1\0"), ("conmon", "A=1\0"), ("tini", "A=1\0")]
        {
            let above = Table::new().process(20, name, 1, OLD, Some(environment));
            above.process(30, "agent", 20, NEW, None).check(30, false);
        }
        // Below one who takes in orphans and is younger than the life there was never anybody of it.
        Table::new()
            .process(20, "systemd", 1, NEW, Some("A=1\0"))
            .process(30, "(sd-pam)", 20, NEW, None)
            .check(30, true);
        // Its parent has ended, and the number is another's.
        Table::new()
            .process(20, "bash", 1, NEW + 1, Some("A=1\0"))
            .process(30, "hides", 20, NEW, None)
            .check(30, false);
    }
}
