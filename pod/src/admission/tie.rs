//! Whose word a connection is: which child of ours it was that connected, for as long as it lasts.
//!
//! The kernel names the number of whoever connected, and numbers are given again: a connection may be older than the child that
//! has its number now, kept by somebody who was handed it. So a connection is tied to one life: to the child that the number is
//! when it is let in, if a descriptor of the process that connected says that this lives then; or to one that becomes known later,
//! if the process that has the number then is the very one that connected, by the moment at which it began.
//!
//! Says only that a connection is not some child's. Whether what is reported is that child's to report is judged by `controller`.

use std::path::Path;
use std::sync::OnceLock;

use rpc::Newcomer;

use super::ancestry::{self, Process};
use crate::id::PodId;
use crate::spawn::SpawnedPodRegistry;

/// One connection.
pub(super) struct Tie {
    /// The number of whoever connected; none where the kernel does not name it, and nobody is known by it.
    pid: Option<u32>,
    /// That very process, if it lived when the connection was let in and was no child then.
    process: Option<Process>,
    /// The child that it is.
    life: OnceLock<PodId>,
    children: SpawnedPodRegistry,
}

impl Tie {
    /// The connection of `who`, which is being let in.
    pub(super) fn of(who: &Newcomer<'_>, children: &SpawnedPodRegistry) -> Self {
        Self::new(who.peer.pid(), children, || super::is_still(who).is_ok())
    }

    /// The same; `lives` says whether the process that connected lives, so that its number is still its own.
    fn new(pid: Option<i32>, children: &SpawnedPodRegistry, lives: impl Fn() -> bool) -> Self {
        let tie = Self {
            pid: pid.and_then(|pid| u32::try_from(pid).ok()),
            process: None,
            life: OnceLock::new(),
            children: children.clone(),
        };
        // What is looked at by its number is asked first, whether the number was its own is known by what follows.
        match (tie.pid.and_then(|pid| children.sender(pid)), pid) {
            (Some(child), _) if lives() => {
                let _ = tie.life.set(child);
                tie
            }
            (None, Some(pid)) => {
                let process = ancestry::process(Path::new(ancestry::PROC), pid).ok().flatten();
                Self { process: process.filter(|_| lives()), ..tie }
            }
            _ => tie,
        }
    }

    /// The child that it is, if it was one when it was let in.
    pub(super) fn child(&self) -> Option<&PodId> {
        self.life.get()
    }

    /// Whether what comes on this connection may be the word of the child that has its number now.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn may_report(&self) -> Result<(), String> {
        // Nobody's child is told so by whoever judges the report.
        let Some((pid, now)) = self.pid.and_then(|pid| Some((pid, self.children.sender(pid)?))) else { return Ok(()) };
        let tied = match self.life.get() {
            Some(life) => *life == now,
            None => self.process.is_some_and(is_there) && *self.life.get_or_init(|| now.clone()) == now,
        };
        if tied {
            return Ok(());
        }
        Err(format!("process {pid} is {now}, and it was another one that has opened this connection"))
    }
}

/// Whether that process is there, and no later one of its number.
fn is_there(process: Process) -> bool {
    ancestry::process(Path::new(ancestry::PROC), process.pid).is_ok_and(|now| now == Some(process))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::process::{Child, Command};
    use std::sync::Arc;

    use super::*;
    use crate::spawn::process::watch_death;
    use crate::store::{ChildRow, fixture};

    /// Killed when it is dropped.
    struct Sleeper(Child);

    impl Sleeper {
        #[expect(clippy::disallowed_methods, reason = "a process that connects, or is a child")]
        fn new() -> Self {
            Self(Command::new("sleep").arg("60").spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn row(name: &str) -> ChildRow {
        let store = fixture::memory("parent");
        store.with(|tx| tx.reserve_child(&fixture::new_child(&fixture::pod(name, 1))).map(drop));
        store.with(|tx| tx.child(&fixture::pod(name, 1))).unwrap()
    }

    #[test]
    fn connection_of_a_child_is_its_word_and_that_of_no_later_child_of_its_number() {
        let children = SpawnedPodRegistry::default();
        let Ok(_stop) = children.add(&row("a"), || Ok::<_, Infallible>(Some(10)));
        let tie = Tie::new(Some(10), &children, || true);
        assert_eq!((tie.child(), tie.may_report()), (Some(&row("a").pod), Ok(())));
        children.reaped(&row("a").pod);
        assert_eq!(tie.may_report(), Ok(()), "it is nobody's, which is judged elsewhere");
        let Ok(_stop) = children.add(&row("b"), || Ok::<_, Infallible>(Some(10)));
        let why = tie.may_report().unwrap_err();
        assert!(why.contains("`b`") || why.contains("b/") || why.contains("another one"), "{why}");
        assert_eq!(Tie::new(Some(10), &children, || true).may_report(), Ok(()));
    }

    #[test]
    fn connection_of_one_that_has_ended_is_not_that_of_the_child_that_has_its_number_now() {
        let children = SpawnedPodRegistry::default();
        let Ok(_stop) = children.add(&row("a"), || Ok::<_, Infallible>(Some(10)));
        // It was handed on: whoever opened it does not live any more, and its number is the child's.
        let tie = Tie::new(Some(10), &children, || false);
        assert_eq!(tie.child(), None);
        tie.may_report().unwrap_err();
        // Before there was such a child, too.
        let children = SpawnedPodRegistry::default();
        let tie = Tie::new(Some(10), &children, || false);
        let Ok(_stop) = children.add(&row("a"), || Ok::<_, Infallible>(Some(10)));
        tie.may_report().unwrap_err();
    }

    #[tokio::test]
    async fn child_of_an_earlier_life_that_is_known_later_is_tied_to_the_process_that_had_connected() {
        let children = SpawnedPodRegistry::default();
        let child = Sleeper::new();
        let tie = Tie::new(Some(child.pid()), &children, || true);
        assert_eq!((tie.child(), tie.may_report()), (None, Ok(())), "nobody's yet");
        let Ok(_stop) = children.add(&row("a"), || Ok::<_, Infallible>(None));
        let pid = rustix::process::Pid::from_raw(child.pid()).unwrap();
        let alive = Arc::new(watch_death(pid).unwrap());
        children.identified(&row("a").pod, child.0.id(), &alive);
        assert_eq!((tie.may_report(), tie.child()), (Ok(()), Some(&row("a").pod)));
        // The same number, and a process that began at another moment.
        let other = Tie {
            process: tie.process.map(|process| Process { began: process.began + 1, ..process }),
            life: OnceLock::new(),
            children,
            ..tie
        };
        other.may_report().unwrap_err();
    }
}
