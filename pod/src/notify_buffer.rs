//! What the agent has yet to be told, in numbers: how many inbox entries wait, and whether one of them may wake it.
//!
//! Pure state: no I/O and no clock. The entries stand in the store; this is what the last transaction saw of them,
//! so it is never ahead of the file and cannot drift from it. An entry leaves it only by being seen.
//!
//! Filled by `controller/actor` with what each transaction has committed; asked by the wake function in
//! `controller/state`.

/// The inbox as of the last commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NotifyBuffer {
    /// Entries that the agent has yet to be told, those in its current request included.
    pub waiting: u64,
    /// Whether an entry that may start a turn waits and is due.
    pub wakes_due: bool,
    /// When the next entry that is not due becomes so, in milliseconds since 1970: one on which a turn has failed.
    pub next_due_ms: Option<u64>,
}

/// What a transaction saw when it committed: all that the wake function needs to know of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// Runs that are committed and have no turn yet.
    pub runs_staged: u64,
    /// The inbox.
    pub inbox: NotifyBuffer,
}

impl Facts {
    /// Whether a turn has a reason to start now.
    pub fn may_wake(&self, reads_reports: bool) -> bool {
        self.runs_staged > 0 || (reads_reports && self.inbox.wakes_due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_wake_for_a_run_or_a_due_entry_that_someone_reads() {
        let entry =
            Facts { inbox: NotifyBuffer { waiting: 1, wakes_due: true, next_due_ms: None }, ..Facts::default() };
        let resting =
            Facts { inbox: NotifyBuffer { waiting: 1, wakes_due: false, next_due_ms: Some(9) }, ..Facts::default() };
        let run = Facts { runs_staged: 1, ..Facts::default() };
        assert!(entry.may_wake(true) && !entry.may_wake(false));
        assert!(!resting.may_wake(true));
        assert!(run.may_wake(true) && run.may_wake(false));
        assert!(!Facts::default().may_wake(true));
    }
}
