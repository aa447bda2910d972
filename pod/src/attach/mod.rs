//! Watching a pod: what is committed from a cursor on and what is under way, then every change of either, under that one
//! cursor.
//!
//! An observer that does not read stops its own task and nothing else; what it gets later is read from the store by its
//! cursor, and is held for it nowhere. There is no gap and no overlap: the snapshot ends exactly where the shared tail is
//! when it is taken, and the tail goes on from there.
//!
//! Here is one observer's task; `tail` is what all share, `ring` what that has kept, [`Picture`] what every observer makes of
//! what it is sent, and [`Watch`] its end of the stream. Started by `controller/calls` for each subscription.

mod picture;
mod ring;
mod tail;
mod watch;

use std::time::Duration;

use rpc::{ItemSender, Responder, SendError};

pub use self::picture::{Call, EntryHead, Picture, Piece};
use self::ring::{BATCH_BYTES, Batch, Behind, Item, Place};
use self::tail::Seat;
pub(crate) use self::tail::{OBSERVERS_MAX, Tail};
pub use self::watch::{Seen, Watch, WatchError};
use crate::handle::Shared;
use crate::protocol::{Glimpse, Observed, Subscribe, SubscribeRejection, Subscribed, Text};
use crate::store::StoreError;

/// How often a seat is looked for where all are taken: who has gone leaves as soon as its task runs.
const SEATS_LOOKED_FOR: u32 = 20;
/// LIMIT: 20 of these are far below what a caller waits for.
const SEAT_PAUSE: Duration = Duration::from_millis(5);

type Items = ItemSender<Observed, Glimpse>;

/// Serves one subscription to its end.
pub(crate) async fn serve(shared: Shared, request: Subscribe, responder: Responder<Subscribe>, items: Items) {
    let Some(mut seat) = sit(&shared).await else {
        return responder.reject(SubscribeRejection::TooManyObservers { max: OBSERVERS_MAX });
    };
    let place = match seat.place().await {
        Ok(place) => place,
        Err(error) => {
            return responder.reject(SubscribeRejection::Unavailable { reason: Text::clipped(error.chain()) });
        }
    };
    responder.ack(Subscribed { head: place.cursor });
    let mut observer = Observer { shared: shared.clone(), seat, items, cursor: request.from };
    // CANCEL SAFETY: what was not sent is in the store, and the observer's own cursor says where to go on.
    let end = tokio::select! {
        end = observer.observe(place) => end,
        () = shared.stopped() => End::Over,
    };
    match end {
        End::Over | End::Gone => {}
        End::Failed(error) => {
            tracing::warn!(pod = %shared.id, error = error.chain(), "an observer lost the history");
            observer.items.abort();
        }
    }
}

async fn sit(shared: &Shared) -> Option<Seat> {
    for _ in 0..SEATS_LOOKED_FOR {
        if let Some(seat) = shared.tail.sit(shared) {
            return Some(seat);
        }
        tokio::time::sleep(SEAT_PAUSE).await;
    }
    None
}

/// Why a subscription is over.
#[derive(Debug)]
enum End {
    /// The pod has ended.
    Over,
    /// The observer has.
    Gone,
    Failed(StoreError),
}

struct Observer {
    shared: Shared,
    seat: Seat,
    items: Items,
    /// The last entry that was sent.
    cursor: u64,
}

impl Observer {
    async fn observe(&mut self, place: Place) -> End {
        match self.follow(place).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn follow(&mut self, mut place: Place) -> Result<std::convert::Infallible, End> {
        let mut caught_up = false;
        loop {
            self.catch_up(&place).await?;
            self.send(Observed::InFlight(place.picture.to_wire(place.cursor, place.state))).await?;
            if !caught_up {
                caught_up = true;
                self.send(Observed::CaughtUp { cursor: self.cursor.max(place.cursor) }).await?;
            }
            self.tail(place.next).await?;
            place = self.seat.place().await.map_err(End::from)?;
        }
    }

    /// Sends what the store has between the observer's cursor and `place`.
    async fn catch_up(&mut self, place: &Place) -> Result<(), End> {
        while self.cursor < place.cursor {
            let (cursor, upto) = (self.cursor, place.cursor);
            let lines = self.shared.store.read(move |reads| reads.history_lines(cursor, upto, BATCH_BYTES)).await;
            let lines = lines.map_err(End::from)?;
            if lines.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::default();
            for line in &lines {
                if batch.is_full(line) {
                    self.entries(&std::mem::take(&mut batch)).await?;
                }
                batch.push(line);
            }
            self.entries(&batch).await?;
        }
        Ok(())
    }

    /// Sends the items from `next` on as they come, until this observer is too slow for them.
    async fn tail(&mut self, mut next: u64) -> Result<(), End> {
        let missed = self.items.missed().ok_or(End::Gone)?;
        loop {
            let item = match self.seat.item(next) {
                Ok(Some(item)) => item,
                Ok(None) if self.items.cursor().is_none() => return Err(End::Gone),
                Ok(None) if !self.seat.goes_on() => return Ok(()),
                Ok(None) => {
                    self.seat.changed().await;
                    continue;
                }
                Err(Behind) => return Ok(()),
            };
            next = next.saturating_add(1);
            match item {
                Item::Entries(batch) => self.entries(&batch).await?,
                Item::InFlight(found) => self.send(Observed::InFlight(found)).await?,
                Item::State(state) => self.send(Observed::State { state }).await?,
                Item::Glimpse(glimpse) => self.items.send_lossy(glimpse).map_err(End::from)?,
            }
            if self.items.missed().ok_or(End::Gone)? != missed {
                // Something was left out: as soon as there is room, it is shown all that is in flight.
                return Ok(());
            }
        }
    }

    async fn entries(&mut self, batch: &Batch) -> Result<(), End> {
        if let Some(entries) = batch.after(self.cursor)
            && let Observed::Entries { last, .. } = entries
        {
            self.send(entries).await?;
            self.cursor = last;
        }
        Ok(())
    }

    async fn send(&self, item: Observed) -> Result<(), End> {
        self.items.send(item).await.map_err(End::from)
    }
}

impl From<SendError> for End {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Closed | SendError::TooSlow => Self::Gone,
            error => Self::Failed(StoreError::Contradiction(format!("an observer's item cannot be sent: {error}"))),
        }
    }
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => Self::Over,
            error => Self::Failed(error),
        }
    }
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
