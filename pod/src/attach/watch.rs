//! An observer's side of a subscription: entries one by one, and the picture of what is in flight beside them.
//!
//! Never shows an entry twice or past one that is missing: a stream that does so is at fault and says so. Goes on across
//! nothing: when the stream is over, whoever wants more asks again from [`cursor`](Watch::cursor).
//!
//! Used by the command line and by tests.

use std::collections::VecDeque;

use rpc::{CallError, Client, Event, ItemStream, StreamError};

use super::picture::{EntryHead, Picture};
use crate::protocol::{Glimpse, Method, Observed, PodState, Subscribe};

/// A subscription that is read.
#[derive(Debug)]
pub struct Watch {
    items: ItemStream<Observed, Glimpse>,
    waiting: VecDeque<(EntryHead, String)>,
    cursor: u64,
    picture: Picture,
    state: Option<PodState>,
    whole: bool,
}

/// What an observer has been shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An entry was committed.
    Entry {
        /// What it is.
        head: EntryHead,
        /// All of it, as a line of JSON without its line feed.
        line: String,
    },
    /// What is in flight has changed, or is told anew: see [`Watch::picture`].
    InFlight,
    /// The snapshot is complete; what follows is new.
    CaughtUp,
    /// What the pod does has changed: see [`Watch::state`].
    State,
}

/// Why an observer sees no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The stream broke off. Ask again from the cursor.
    #[error("the subscription broke off")]
    Stream(#[source] StreamError),
    /// What came is not what follows.
    #[error("the pod sent {found} behind entry {cursor}")]
    OutOfPlace {
        /// The last entry that was in order.
        cursor: u64,
        /// What came.
        found: String,
    },
}

impl Watch {
    /// Watches the pod behind `client`, from behind the entry `from` on.
    ///
    /// # Errors
    /// What became of the call.
    ///
    /// # Cancel safety
    /// A dropped call leaves no subscription.
    pub async fn open(client: &Client<Method>, from: u64) -> Result<Self, CallError<Subscribe>> {
        let (_, items) = client.open(Subscribe { from }).await?;
        Ok(Self {
            items,
            waiting: VecDeque::new(),
            cursor: from,
            picture: Picture::default(),
            state: None,
            whole: false,
        })
    }

    /// What comes next; none at the end of the pod, when all that it has committed was shown.
    ///
    /// # Errors
    /// [`WatchError`]; nothing comes after it.
    ///
    /// # Cancel safety
    /// What was not returned comes with the next call.
    pub async fn next(&mut self) -> Option<Result<Seen, WatchError>> {
        loop {
            if let Some((head, line)) = self.waiting.pop_front() {
                self.cursor = head.seq;
                self.picture.entry(&head);
                return Some(Ok(Seen::Entry { head, line }));
            }
            let seen = match self.items.event().await? {
                Ok(Event::Item(Observed::Entries { first, last, lines })) => {
                    if let Err(error) = self.entries(first, last, &lines) {
                        return Some(Err(error));
                    }
                    continue;
                }
                Ok(Event::Item(Observed::InFlight(found))) => {
                    self.picture = Picture::from(&found);
                    self.whole = true;
                    self.state = Some(found.state);
                    Seen::InFlight
                }
                Ok(Event::Item(Observed::CaughtUp { cursor })) if cursor == self.cursor => Seen::CaughtUp,
                Ok(Event::Item(Observed::CaughtUp { cursor })) => {
                    let found = format!("word that all was shown up to entry {cursor}");
                    return Some(Err(WatchError::OutOfPlace { cursor: self.cursor, found }));
                }
                Ok(Event::Item(Observed::State { state })) => {
                    self.state = Some(state);
                    Seen::State
                }
                Ok(Event::Lossy(glimpse)) => {
                    if !self.picture.glimpse(&glimpse) {
                        continue;
                    }
                    Seen::InFlight
                }
                Ok(Event::Resync { .. }) => {
                    self.whole = false;
                    continue;
                }
                Err(error) => return Some(Err(WatchError::Stream(error))),
            };
            return Some(Ok(seen));
        }
    }

    fn entries(&mut self, first: u64, last: u64, lines: &str) -> Result<(), WatchError> {
        let mut cursor = self.cursor;
        let out_of_place = |found: String| WatchError::OutOfPlace { cursor: self.cursor, found };
        let mut waiting = VecDeque::new();
        for line in lines.lines() {
            let head = EntryHead::of(line).map_err(|error| out_of_place(format!("what is no entry ({error})")))?;
            // Entries are counted without gaps.
            if head.seq != cursor.saturating_add(1) {
                return Err(out_of_place(format!("entry {}", head.seq)));
            }
            cursor = head.seq;
            waiting.push_back((head, line.to_owned()));
        }
        let ends = (waiting.front().map(|(head, _)| head.seq), waiting.back().map(|(head, _)| head.seq));
        if ends != (Some(first), Some(last)) {
            return Err(out_of_place(format!("entries {first} to {last} that are others")));
        }
        self.waiting = waiting;
        Ok(())
    }

    /// The last entry that was returned.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// What is in flight behind that entry.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Whether the picture has all that is in flight. Not before the snapshot is complete, nor while something was left
    /// out because we were slow: then it follows.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What the pod does; none before it was told.
    pub fn state(&self) -> Option<PodState> {
        self.state
    }
}
