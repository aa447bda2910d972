//! The line of a process: itself, who started it, who started that one, up to the first.
//!
//! Numbers of processes are given again, so each comes with the moment at which it began: nobody is younger than what it
//! has started, and a line in which somebody is was read while one of it ended, and is read again. Says what `/proc`
//! shows and nothing that a process says of itself; what it does not show is an error, never the end of a line.
//!
//! Asked by `admission` once a connection, and by a pod about itself.

use std::io;
use std::path::Path;

use rustix::process::Pid;

use crate::spawn::process::field;

/// Where the kernel shows its processes.
pub(crate) const PROC: &str = "/proc";
/// LIMIT: processes above each other; a shell in a shell in a tree of pods of the deepest kind has a fifth of it.
const LINE_MAX: usize = 512;
/// LIMIT: how often one line is read again because somebody of it has just ended: each time, another one has.
const AGAIN_MAX: usize = 16;

/// A process, and no later one of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: i32,
    /// When it began, in ticks since the machine was booted.
    pub(crate) began: u64,
}

/// What `stat` says of a process.
#[derive(Clone, Copy)]
struct Stat {
    parent: i32,
    began: u64,
}

/// The line of the process `pid` as `proc` shows it, the process itself first.
///
/// # Errors
/// Somebody of it is not shown, or has just ended, again and again.
pub(crate) fn line(proc: &Path, pid: i32) -> io::Result<Vec<Process>> {
    let mut again = 0..AGAIN_MAX;
    let mut line: Vec<Process> = Vec::new();
    let mut next = pid;
    // 0 is whoever starts the first process, and whoever starts one from outside of our pid namespace.
    while next > 0 {
        if line.len() == LINE_MAX {
            return Err(io::Error::other(format!("more than {LINE_MAX} processes are above each other")));
        }
        let found = stat(proc, next)?;
        let below = line.last().copied();
        match (found, below) {
            (None, None) => return Err(io::Error::other("it has ended")),
            (Some(found), None) => {
                line.push(Process { pid: next, began: found.began });
                next = found.parent;
            }
            (Some(found), Some(below)) if found.began <= below.began => {
                line.push(Process { pid: next, began: found.began });
                next = found.parent;
            }
            // Whoever had that number has ended, and what it has started has somebody else above it now.
            (_, Some(below)) => {
                if again.next().is_none() {
                    return Err(io::Error::other(format!(
                        "process {next}, which is above it, is not shown (is /proc mounted with `hidepid`?)"
                    )));
                }
                match stat(proc, below.pid)? {
                    Some(now) if now.began == below.began => next = now.parent,
                    _ if line.len() == 1 => return Err(io::Error::other("it has ended")),
                    // So has the one below: its own is asked.
                    _ => {
                        line.pop();
                        next = below.pid;
                    }
                }
            }
        }
    }
    Ok(line)
}

/// This process.
///
/// # Errors
/// `/proc` does not show it.
pub(crate) fn own() -> io::Result<Process> {
    let pid = rustix::process::getpid();
    let began = stat(Path::new(PROC), pid.as_raw_nonzero().get())?.ok_or(io::ErrorKind::NotFound)?.began;
    Ok(Process { pid: Pid::as_raw(Some(pid)), began })
}

/// The process that has that number now; none if there is none, or none that is shown.
///
/// # Errors
/// What is shown of it cannot be read.
pub(crate) fn process(proc: &Path, pid: i32) -> io::Result<Option<Process>> {
    Ok(stat(proc, pid)?.map(|found| Process { pid, began: found.began }))
}

/// None if there is no such process, or none that is shown.
fn stat(proc: &Path, pid: i32) -> io::Result<Option<Stat>> {
    let text = match std::fs::read_to_string(proc.join(pid.to_string()).join("stat")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // It ended between the two.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(None),
        Err(error) => return Err(error),
    };
    let malformed = || io::Error::other(format!("`stat` of process {pid} cannot be read"));
    let parent = field(&text, 4).and_then(|field| field.parse().ok()).ok_or_else(malformed)?;
    let began = field(&text, 22).and_then(|field| field.parse().ok()).ok_or_else(malformed)?;
    Ok(Some(Stat { parent, began }))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table(tempfile::TempDir);

    impl Table {
        fn new(processes: &[(i32, i32, u64)]) -> Self {
            let table = Self(tempfile::tempdir().unwrap());
            processes.iter().for_each(|(pid, parent, began)| table.put(*pid, *parent, *began));
            table
        }

        /// A name may have anything in it.
        fn put(&self, pid: i32, parent: i32, began: u64) {
            let dir = self.0.path().join(pid.to_string());
            std::fs::create_dir_all(&dir).unwrap();
            let zeros = "0 ".repeat(22 - 5);
            std::fs::write(dir.join("stat"), format!("{pid} (a) 1 (b\n) S {parent} {zeros}{began} 0\n")).unwrap();
        }

        fn line(&self, pid: i32) -> Result<Vec<i32>, String> {
            let found = line(self.0.path(), pid).map_err(|error| error.to_string())?;
            Ok(found.iter().map(|process| process.pid).collect())
        }
    }

    #[test]
    fn line_of_this_process_leads_to_its_parent_and_ends_with_the_first() {
        let found = line(Path::new(PROC), own().unwrap().pid).unwrap();
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        assert_eq!((found[0], found[1].pid), (own().unwrap(), parent));
        assert_eq!(stat(Path::new(PROC), found.last().unwrap().pid).unwrap().unwrap().parent, 0);
    }

    #[test]
    fn whoever_is_younger_than_what_it_is_said_to_have_started_is_nobodys_parent() {
        let table = Table::new(&[(1, 0, 0), (20, 1, 5), (30, 20, 7), (40, 30, 9)]);
        assert_eq!(table.line(40), Ok(vec![40, 30, 20, 1]));
        // Its number was given again.
        table.put(30, 1, 11);
        assert!(table.line(40).unwrap_err().contains("process 30"));
        // In the same tick is no proof of anything, and is allowed.
        table.put(30, 20, 9);
        assert_eq!(table.line(40), Ok(vec![40, 30, 20, 1]));
    }

    #[test]
    fn somebody_who_is_not_shown_is_no_end_of_a_line() {
        let table = Table::new(&[(1, 0, 0), (30, 20, 7), (40, 30, 9)]);
        let why = table.line(40).unwrap_err();
        assert!(why.contains("process 20") && why.contains("hidepid"), "{why}");
        assert_eq!(table.line(50), Err("it has ended".to_owned()));
        std::fs::write(table.0.path().join("30/stat"), "30 (sh) S").unwrap();
        assert!(table.line(40).unwrap_err().contains("process 30"));
        // From outside of this pid namespace.
        table.put(30, 0, 7);
        assert_eq!(table.line(40), Ok(vec![40, 30]));
        let deep: Vec<_> = (1..=600).map(|pid| (pid, pid - 1, 1)).collect();
        assert!(Table::new(&deep).line(600).unwrap_err().contains("above each other"));
    }
}
