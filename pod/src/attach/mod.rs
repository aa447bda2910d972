//! Watching a pod: what is committed from a cursor on and what is under way, then every change of either, under that one
//! cursor.
//!
//! An observer that does not read stops its own task and nothing else; what it gets later is read from the store by its
//! cursor, and is held for it nowhere. There is no gap and no overlap: the snapshot ends exactly where the shared tail is
//! when it is taken, and the tail goes on from there.
//!
//! When the pod ends, everybody is sent what was committed last, within a bound; a stream that ends without an error has shown
//! all of it.
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
pub(crate) use self::tail::Tail;
use self::tail::{NoSeat, OBSERVERS_MAX, missing};
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
    let unavailable = |reason: &str| SubscribeRejection::Unavailable { reason: Text::clipped(reason) };
    let mut seat = match sit(&shared, responder.context().peer.pid()).await {
        Ok(seat) => seat,
        Err(NoSeat::Full) => return responder.reject(SubscribeRejection::TooManyObservers { max: OBSERVERS_MAX }),
        Err(NoSeat::OneProcess(max)) => return responder.reject(SubscribeRejection::TooManyOfOneProcess { max }),
        Err(NoSeat::Ending) => return responder.reject(SubscribeRejection::Ending),
    };
    // Before the tail is asked, which may be behind it.
    let head = *shared.store.history_head().borrow();
    if request.from > head {
        return responder.reject(SubscribeRejection::BeyondHead { head });
    }
    let place = loop {
        match seat.place().await {
            Ok(place) if place.cursor >= request.from => break place,
            // What is in flight there is committed in an entry that the observer has.
            Ok(_) => seat.changed().await,
            Err(StoreError::Closed) => return responder.reject(SubscribeRejection::Ending),
            Err(error) => return responder.reject(unavailable(&error.chain())),
        }
    };
    responder.ack(Subscribed { head: place.cursor });
    let mut observer = Observer { seat, items, cursor: request.from };
    // CANCEL SAFETY: what was not sent is in the store, and the observer's own cursor says where to go on.
    let end = tokio::select! {
        end = observer.observe(place) => end,
        () = shared.tail.given_up() => End::Late,
        () = shared.stopped() => End::Late,
    };
    match end {
        End::Over | End::Gone => {}
        End::Late => observer.items.abort(),
        End::Failed(error) => {
            tracing::warn!(pod = %shared.id, error = error.chain(), "an observer lost the history");
            observer.items.abort();
        }
    }
}

async fn sit(shared: &Shared, process: Option<i32>) -> Result<Seat, NoSeat> {
    for _ in 1..SEATS_LOOKED_FOR {
        match shared.tail.sit(shared, process) {
            Err(NoSeat::Full | NoSeat::OneProcess(_)) => tokio::time::sleep(SEAT_PAUSE).await,
            decided => return decided,
        }
    }
    shared.tail.sit(shared, process)
}

/// Why a subscription is over.
#[derive(Debug)]
enum End {
    /// The pod has ended, and the observer has all of it.
    Over,
    /// The pod has ended, and it has not.
    Late,
    /// The observer has.
    Gone,
    Failed(StoreError),
}

struct Observer {
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
                self.send(Observed::CaughtUp { cursor: self.cursor }).await?;
            }
            self.tail(place.next).await?;
            place = self.seat.place().await.map_err(End::from)?;
        }
    }

    /// Sends what the store has between the observer's cursor and `place`.
    async fn catch_up(&mut self, place: &Place) -> Result<(), End> {
        while self.cursor < place.cursor {
            let lines = self.seat.page(self.cursor, place.cursor, BATCH_BYTES).await.map_err(End::from)?;
            if lines.is_empty() {
                return Err(End::Failed(missing(self.cursor)));
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
            // Asked first: nothing is added behind that.
            let over = self.seat.is_over();
            let item = match self.seat.item(next) {
                Ok(Some(item)) => item,
                Ok(None) if self.items.cursor().is_none() => return Err(End::Gone),
                Ok(None) if over => return Err(End::Over),
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
            StoreError::Closed => Self::Late,
            error => Self::Failed(error),
        }
    }
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
