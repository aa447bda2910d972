//! What many want done at once, done once for all of them.
//!
//! Whoever comes waits for whoever is at it, and then does it for all who have come meanwhile, unless one of these has. What is done
//! for somebody always begins after they have asked. Knows nothing of what is done.
//!
//! Used for what the end of a child makes necessary and what reads the whole process table: of a thousand children that end in
//! the same instant that is a few looks, and not a thousand.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// Rounds of one kind of thing.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    asked: AtomicU64,
    /// Up to whom it is done.
    done: Mutex<u64>,
}

impl Rounds {
    /// Does `round`, unless somebody's that has begun after this call is over first.
    ///
    /// # Cancel safety
    /// Dropped in the middle of its round it has done nothing for the others: the next of them does it.
    pub(crate) async fn join<F: Future>(&self, round: impl FnOnce() -> F) -> Option<F::Output> {
        let own = self.asked.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let mut done = self.done.lock().await;
        if *done >= own {
            return None;
        }
        let upto = self.asked.load(Ordering::SeqCst);
        let made = round().await;
        *done = upto;
        Some(made)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn round_is_made_for_all_who_came_before_it_began_and_for_none_who_came_later() {
        let (rounds, gate) = (Arc::new(Rounds::default()), Arc::new(Semaphore::new(0)));
        let made = Arc::new(AtomicU64::new(0));
        let join = || {
            let (rounds, gate, made) = (rounds.clone(), gate.clone(), made.clone());
            tokio::spawn(async move {
                let round = || async {
                    made.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                };
                rounds.join(round).await.is_some()
            })
        };
        let first = join();
        while made.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // They come while the first one's is under way: it may have looked before they had something to be done.
        let others: Vec<_> = (0..100).map(|_| join()).collect();
        while rounds.asked.load(Ordering::SeqCst) < 101 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
        assert!(first.await.unwrap());
        let mut own = 0;
        for other in others {
            own += u64::from(other.await.unwrap());
        }
        assert_eq!((own, made.load(Ordering::SeqCst)), (1, 2), "one of a hundred does it for all");
        gate.add_permits(1);
        assert!(join().await.unwrap(), "what was done before is not done for whoever comes later");
    }

    #[tokio::test]
    async fn round_that_is_dropped_is_made_by_the_next() {
        let rounds = Rounds::default();
        let dropped = tokio::time::timeout(std::time::Duration::ZERO, rounds.join(std::future::pending::<()>)).await;
        dropped.unwrap_err();
        assert_eq!(rounds.join(|| std::future::ready(7)).await, Some(7));
    }
}
