//! Whether a child that has ended is started again: a pure function of its policy and of what has happened.
//!
//! No clock, no store and no process: the restarts within the policy's time are counted by whoever asks.
//!
//! Asked by `supervisor` when a life is over and its terminal event is committed.

use std::time::Duration;

use crate::store::{Restart, RestartWhen, Terminal};

/// The pause before the first restart within the policy's time; doubled for each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// LIMIT: the longest pause: whoever waits for the child waits no longer than this for a process that would live.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A life that is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Over<'a> {
    pub(crate) terminal: &'a Terminal,
    /// Its parent wanted it to end.
    pub(crate) wanted: bool,
    /// It had been ready, or was a restart itself. Whoever starts a child is told that it does not start.
    pub(crate) had_begun: bool,
    /// Restarts of its name within the policy's time.
    pub(crate) restarts: u32,
}

/// What becomes of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It stays ended.
    Stay,
    /// A next life is started after this pause.
    Again { after: Duration },
    /// It stays ended, because it has been restarted too often.
    TooOften,
}

pub(crate) fn decide(policy: Restart, over: Over<'_>) -> Decision {
    let wished = match policy.when {
        RestartWhen::Never => false,
        RestartWhen::OnFailure => *over.terminal != Terminal::ShutDown,
        RestartWhen::Always => true,
    };
    if !wished || over.wanted || !over.had_begun {
        return Decision::Stay;
    }
    if over.restarts >= policy.max {
        return Decision::TooOften;
    }
    let doubled = 1_u32.checked_shl(over.restarts).unwrap_or(u32::MAX);
    Decision::Again { after: PAUSE_FIRST.saturating_mul(doubled).min(PAUSE_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::LostReason;

    #[test]
    fn child_is_started_again_if_its_policy_says_so_and_not_too_often() {
        use RestartWhen::{Always, Never, OnFailure};
        let lost = Terminal::Lost { reason: LostReason::Killed { signal: 9 } };
        let exited = Terminal::Lost { reason: LostReason::Exited { code: 0 } };
        let never_started = Terminal::NeverStarted { reason: "no file".into() };
        let ends = [&lost, &exited, &never_started, &Terminal::ShutDown];
        let again = |ms| Decision::Again { after: Duration::from_millis(ms) };
        let (stay, often) = (Decision::Stay, Decision::TooOften);
        // For each end in turn: lost, exited without a word, never started, shut down.
        let table = [
            (Never, false, true, 0, [stay; 4]),
            (Never, false, true, 9, [stay; 4]),
            (OnFailure, false, true, 0, [again(100), again(100), again(100), stay]),
            (OnFailure, false, true, 2, [again(400), again(400), again(400), stay]),
            (OnFailure, false, true, 3, [often, often, often, stay]),
            (OnFailure, true, true, 0, [stay; 4]),
            (OnFailure, true, true, 3, [stay; 4]),
            (OnFailure, false, false, 0, [stay; 4]),
            (Always, false, true, 0, [again(100); 4]),
            (Always, false, true, 1, [again(200); 4]),
            (Always, false, true, 3, [often; 4]),
            (Always, false, true, u32::MAX, [often; 4]),
            (Always, true, true, 0, [stay; 4]),
            (Always, false, false, 0, [stay; 4]),
        ];
        for (when, wanted, had_begun, restarts, expected) in table {
            let policy = Restart { when, max: 3, within_ms: 60_000 };
            for (terminal, expected) in ends.into_iter().zip(expected) {
                let over = Over { terminal, wanted, had_begun, restarts };
                assert_eq!(decide(policy, over), expected, "{when:?} {over:?}");
            }
        }
    }

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let policy = Restart { when: RestartWhen::Always, max: u32::MAX, within_ms: 1 };
        let pause = |restarts| {
            let over = Over { terminal: &Terminal::ShutDown, wanted: false, had_begun: true, restarts };
            match decide(policy, over) {
                Decision::Again { after } => after,
                other => panic!("{other:?}"),
            }
        };
        let pauses: Vec<Duration> = [0, 1, 6, 7, 31, 32, 4000].into_iter().map(pause).collect();
        assert!(pauses.is_sorted() && pauses[1] > pauses[0], "{pauses:?}");
        assert_eq!(pauses.last(), Some(&PAUSE_MAX));
        let none = Restart { max: 0, ..policy };
        let over = Over { terminal: &Terminal::ShutDown, wanted: false, had_begun: true, restarts: 0 };
        assert_eq!(decide(none, over), Decision::TooOften);
    }
}
