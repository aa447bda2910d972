//! What the process exits with: one table, which `pod --help` prints.

use std::process::ExitCode;

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// All is as it was asked for.
    Ok,
    /// Delegated work, a compaction or a rewind failed, a terminal event is missing, or a child did not end in order.
    WorkFailed,
    /// The command line, a file or a directory that it names is wrong. Nothing was done.
    Usage,
    /// The request was not delivered: nobody saw it and nobody will.
    NotDelivered,
    /// The pod said no. Nothing was applied.
    Rejected,
    /// What was asked for may have happened, or may still happen.
    Unknown,
    /// There is no such pod, or it does not run.
    NoSuchPod,
    /// Another process runs a pod of that name.
    Held,
    /// `pod doctor` has found something that somebody has to see to.
    Unwell,
    /// A pod was started and ended before it was ready.
    DiedEarly,
    /// A pod lives, or was started, and did not answer in time.
    TimedOut,
    /// There is such a pod, and it is not for the one that was asked to see, or to do anything to.
    NotVisible,
    /// A defect, or a machine that does not do what it must: disk, memory, processes.
    Internal,
}

/// The table, as it stands at the end of `pod --help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
   0  all is as it was asked for
   1  delegated work, a compaction or a rewind failed, a terminal event is missing, or a child did not end in order
   2  the command line, or a file or directory that it names, is wrong; nothing was done
   3  not delivered: nobody saw the request and nobody will; safe to repeat
   4  rejected: the pod said no; nothing was applied
   5  unknown: it may have been applied, or may still be; repeat it under its key, or look
   6  no such pod, or it does not run
   7  another process runs a pod of that name
   8  `pod doctor` has found something that somebody has to see to
   9  a pod was started and ended before it was ready; it is quoted
  10  a pod lives, or was started, and did not answer in time
  11  there is such a pod, and it is none that the pod that was asked may see, or act on
  70  internal: a defect, or a machine that fails (disk, memory, processes)";

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::WorkFailed => 1,
            Self::Usage => 2,
            Self::NotDelivered => 3,
            Self::Rejected => 4,
            Self::Unknown => 5,
            Self::NoSuchPod => 6,
            Self::Held => 7,
            Self::Unwell => 8,
            Self::DiedEarly => 9,
            Self::TimedOut => 10,
            Self::NotVisible => 11,
            Self::Internal => 70,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_table_once() {
        let all = [
            Exit::Ok,
            Exit::WorkFailed,
            Exit::Usage,
            Exit::NotDelivered,
            Exit::Rejected,
            Exit::Unknown,
            Exit::NoSuchPod,
            Exit::Held,
            Exit::Unwell,
            Exit::DiedEarly,
            Exit::TimedOut,
            Exit::NotVisible,
            Exit::Internal,
        ];
        let lines: Vec<u8> = EXIT_CODES.lines().skip(1).map(|line| line[..4].trim().parse::<u8>().unwrap()).collect();
        assert_eq!(lines, all.map(Exit::code));
    }
}
