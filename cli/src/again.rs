//! A subscription that broke off, or that a pod does not give: asked for again, led past what cannot be shown, or said to be at
//! its end, and why.
//!
//! Never asks without a pause, and never for ever where the answer is the same: that a pod has died is its life lock's word, and
//! that an entry is damaged its store's. A pod that is halted, or busy, is waited for.
//!
//! Used by `attach`.

use std::time::Duration;

use pod::Method;
use pod::attach::Watch;
use pod::id::{PodId, PodName};
use pod::life_lock::Life;
use pod::protocol::{Subscribe, SubscribeRejection};
use pod::runtime_dir::PodPaths;
use rpc::{CallError, Client, NotDelivered, Refusal};
use tokio::time::{Instant, sleep};

use crate::commands::{life_of, seconds};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::Follower;

/// The first pause. A person does not notice it.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// LIMIT: the longest pause: what has become possible is noticed within it.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// LIMIT: how often a subscription is asked for behind one entry and breaks off there, although nothing is wrong with what stands
/// behind it: some twenty seconds.
const STUCK_MAX: u32 = 8;
/// LIMIT: how long a seat is waited for that others have.
const SEAT_MAX: Duration = Duration::from_secs(60);

/// One who watches a life of a pod, and what it has been through since it came farther.
#[derive(Debug)]
pub(crate) struct Again {
    name: PodName,
    paths: PodPaths,
    /// Which life, if that has said so.
    life: Option<PodId>,
    client: Client<Method>,
    /// Behind which entry it broke off last, and how often.
    broke: (u64, u32),
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// The same life, from where it broke off.
    Watch(Watch),
    /// What stands there up to the entry `last` cannot be shown.
    Hole { last: u64, why: String },
    /// That life is over.
    Over,
}

/// What a refusal of a subscription means for whoever wants one.
#[derive(Debug)]
enum Means {
    /// It is ending, or does not answer: its life lock tells.
    Look,
    /// Others have the seats.
    Full,
    /// It is the same each time, or nearly so.
    Stuck,
    /// It stays so.
    Never,
}

impl Again {
    pub(crate) fn new(paths: &PodPaths, life: Option<PodId>, client: &Client<Method>) -> Self {
        let (name, paths, client) = (paths.name().clone(), paths.clone(), client.clone());
        Self { name, paths, life, client, broke: (0, 0) }
    }

    /// Whose life it is.
    pub(crate) fn client(&self) -> &Client<Method> {
        &self.client
    }

    /// What comes behind the entry `cursor`, where a subscription broke off because of `why`. `waits` is told, once, what is
    /// waited for.
    ///
    /// # Errors
    /// Why there is nothing more, though the life goes on.
    ///
    /// # Cancel safety
    /// Asking changes nothing.
    pub(crate) async fn next(
        &mut self,
        cursor: u64,
        why: &str,
        mut waits: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Next, Failure> {
        let times = if self.broke.0 == cursor { self.broke.1 } else { 0 };
        self.broke = (cursor, times.saturating_add(1));
        // Where it came farther, it broke for a reason that may be gone already.
        let mut pause = if times == 0 { Duration::ZERO } else { pause(times) };
        let (mut why, mut full_since, mut told) = (why.to_owned(), None, false);
        loop {
            sleep(pause).await;
            match life_of(&self.paths)? {
                Life::Held(holder) if self.life.is_none() || holder.pod == self.life => {}
                Life::Held(_) | Life::Free => return Ok(Next::Over),
            }
            if let Some((last, why)) = Follower::open(&self.paths)?.look(|reads| reads.history_hole(cursor))? {
                return Ok(Next::Hole { last, why });
            }
            if self.broke.1 > STUCK_MAX {
                let message = format!(
                    "`{0}` breaks off behind entry {cursor} again and again ({why}), and nothing is wrong with what stands there; \
                     `pod log {0}` shows what is committed, `pod doctor` looks at the rest",
                    self.name
                );
                return Err(Failure::new(Exit::Internal, message));
            }
            let error = match Watch::open(&self.client, cursor).await {
                Ok(watch) => return Ok(Next::Watch(watch)),
                Err(error) => error,
            };
            let means = means(&error);
            let is_over = match means {
                Means::Never => true,
                Means::Full => full_since.get_or_insert_with(Instant::now).elapsed() > SEAT_MAX,
                Means::Stuck | Means::Look => false,
            };
            if is_over {
                return Err(refused(&self.name, error));
            }
            match means {
                Means::Stuck => self.broke.1 = self.broke.1.saturating_add(1),
                Means::Full if !told => {
                    told = true;
                    waits(&format!("waits for a seat, for {} at most: {}", seconds(SEAT_MAX), words(&error)))?;
                }
                // The first may be of the moment of its end.
                Means::Look if !told && pause >= PAUSE_MAX => {
                    told = true;
                    waits(&format!("waits for `{}`, which lives: {}", self.name, words(&error)))?;
                }
                _ => {}
            }
            why = words(&error);
            pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        }
    }
}

/// The pause before it is asked once more where it broke off so often.
fn pause(times: u32) -> Duration {
    PAUSE_MIN.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1))).min(PAUSE_MAX)
}

fn means(error: &CallError<Subscribe>) -> Means {
    match error {
        CallError::Rejected(why) => match why {
            SubscribeRejection::Ending => Means::Look,
            SubscribeRejection::TooManyObservers { .. } | SubscribeRejection::TooManyOfOneProcess { .. } => Means::Full,
            SubscribeRejection::BeyondHead { .. } => Means::Never,
            SubscribeRejection::Unavailable { .. } => Means::Stuck,
        },
        CallError::NotDelivered(why) if is_another_version(why) => Means::Never,
        CallError::NotDelivered(NotDelivered::Unauthorized(_) | NotDelivered::Refused(Refusal::Unauthorized)) => {
            Means::Never
        }
        CallError::NotDelivered(_) | CallError::Unknown(_) => Means::Look,
    }
}

fn is_another_version(why: &NotDelivered) -> bool {
    matches!(
        why,
        NotDelivered::Incompatible { .. }
            | NotDelivered::UnknownMethod { .. }
            | NotDelivered::SchemaMismatch { .. }
            | NotDelivered::BadBody(_)
            | NotDelivered::Refused(Refusal::WireVersion | Refusal::Service | Refusal::NotThisProtocol)
    )
}

fn words(error: &CallError<Subscribe>) -> String {
    match error {
        CallError::Rejected(why) => why.to_string(),
        CallError::NotDelivered(why) => why.to_string(),
        CallError::Unknown(doubt) => doubt.to_string(),
    }
}

/// Why a pod cannot be attached to, and what to do about it.
pub(crate) fn refused(name: &PodName, error: CallError<Subscribe>) -> Failure {
    let why = words(&error);
    let (exit, message) = match error {
        CallError::Rejected(
            SubscribeRejection::TooManyObservers { .. } | SubscribeRejection::TooManyOfOneProcess { .. },
        ) => (Exit::Rejected, format!("`{name}` has no seat: {why}; try again when others have left")),
        CallError::Rejected(SubscribeRejection::BeyondHead { .. }) => (
            Exit::Rejected,
            format!("`{name}` has another history than before: {why}; was its store put back? Attach anew"),
        ),
        CallError::Rejected(SubscribeRejection::Unavailable { .. }) => {
            (Exit::Rejected, format!("`{name}` cannot show its history: {why}; `pod doctor` looks at its store"))
        }
        CallError::Rejected(SubscribeRejection::Ending) => {
            (Exit::Rejected, format!("`{name}` ends; `pod log {name}` shows what it has committed"))
        }
        CallError::NotDelivered(NotDelivered::Unauthorized(_) | NotDelivered::Refused(Refusal::Unauthorized)) => {
            (Exit::Rejected, format!("`{name}` is not for whoever asks: {why}"))
        }
        CallError::NotDelivered(not) if is_another_version(&not) => (
            Exit::NotDelivered,
            format!("`{name}` runs another version of this program: {why}; use that version, or start it again"),
        ),
        CallError::NotDelivered(_) => {
            (Exit::NotDelivered, format!("`{name}` cannot be attached to: {why}; it is safe to try again"))
        }
        // A subscription changes nothing: trying again is safe, whatever became of it.
        CallError::Unknown(_) => (Exit::Unknown, format!("`{name}` does not answer: {why}; it is safe to try again")),
    };
    Failure::new(exit, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(why: SubscribeRejection) -> CallError<Subscribe> {
        CallError::Rejected(why)
    }

    fn not_delivered(why: NotDelivered) -> CallError<Subscribe> {
        CallError::NotDelivered(why)
    }

    #[test]
    fn each_reason_why_there_is_no_subscription_has_its_own_words_and_its_own_patience() {
        let name: PodName = "a".parse().unwrap();
        let unavailable = SubscribeRejection::Unavailable { reason: "damaged".into() };
        let cases = [
            (rejected(SubscribeRejection::TooManyObservers { max: 9 }), "Full", Exit::Rejected, "no seat"),
            (rejected(SubscribeRejection::TooManyOfOneProcess { max: 9 }), "Full", Exit::Rejected, "no seat"),
            (rejected(SubscribeRejection::BeyondHead { head: 3 }), "Never", Exit::Rejected, "another history"),
            (rejected(unavailable), "Stuck", Exit::Rejected, "cannot show its history"),
            (rejected(SubscribeRejection::Ending), "Look", Exit::Rejected, "`a` ends"),
            (
                not_delivered(NotDelivered::Unauthorized("a scope".into())),
                "Never",
                Exit::Rejected,
                "not for whoever asks",
            ),
            (
                not_delivered(NotDelivered::Refused(Refusal::Unauthorized)),
                "Never",
                Exit::Rejected,
                "not for whoever asks",
            ),
            (
                not_delivered(NotDelivered::UnknownMethod { method: 8, version: 1 }),
                "Never",
                Exit::NotDelivered,
                "another version",
            ),
            (
                not_delivered(NotDelivered::Refused(Refusal::WireVersion)),
                "Never",
                Exit::NotDelivered,
                "another version",
            ),
            (not_delivered(NotDelivered::ConnectionLost), "Look", Exit::NotDelivered, "safe to try again"),
            (not_delivered(NotDelivered::Draining), "Look", Exit::NotDelivered, "safe to try again"),
        ];
        for (error, expected, exit, said) in cases {
            assert_eq!(format!("{:?}", means(&error)), expected, "{said}");
            let failure = refused(&name, error);
            assert_eq!(failure.exit(), exit, "{said}");
            assert!(failure.message().contains(said), "{}", failure.message());
        }
    }

    #[test]
    fn pauses_grow_and_end_in_some_twenty_seconds() {
        let pauses: Vec<_> = (1..=STUCK_MAX).map(pause).collect();
        assert!(pauses.is_sorted() && pauses[0] == PAUSE_MIN && pauses.iter().all(|pause| *pause <= PAUSE_MAX));
        let all: Duration = pauses.iter().sum();
        assert!((15..=30).contains(&all.as_secs()), "{all:?}");
    }
}
