//! Watching a pod: what is committed from a cursor on, then every commit, under that one cursor.
//!
//! Reads on the store's reading thread and sends under the reader's credit: an observer that does not read stops its
//! own task and nothing else. There is no gap and no overlap, because the tail is read by the same cursor as the rest.
//!
//! Started by `controller/calls` for each subscription.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rpc::{ItemSender, Responder, SendError};

use crate::handle::Shared;
use crate::protocol::{Observed, Subscribe, SubscribeRejection, Subscribed, Text};
use crate::store::HistoryRow;

/// LIMIT: observers of one pod. Each costs a task and its stream's credit.
pub(crate) const OBSERVERS_MAX: u32 = 256;
/// LIMIT: entries read at a time: bounds what an observer that does not read makes us hold.
const PAGE: u32 = 64;

/// Serves one subscription to its end.
pub(crate) async fn serve(
    shared: Shared,
    observers: Arc<AtomicUsize>,
    request: Subscribe,
    responder: Responder<Subscribe>,
    items: ItemSender<Observed>,
) {
    let _seat = Seat(Arc::clone(&observers));
    if observers.fetch_add(1, Ordering::AcqRel) >= usize::try_from(OBSERVERS_MAX).unwrap_or(usize::MAX) {
        return responder.reject(SubscribeRejection::TooManyObservers { max: OBSERVERS_MAX });
    }
    let mut head = shared.store.history_head();
    match shared.store.read(|reads| reads.history_head()).await {
        Ok(head) => responder.ack(Subscribed { head }),
        Err(error) => {
            return responder.reject(SubscribeRejection::Unavailable { reason: Text::clipped(error.chain()) });
        }
    }
    let mut cursor = request.from;
    let mut caught_up = false;
    loop {
        head.mark_unchanged();
        let from = cursor;
        let rows = match shared.store.read(move |reads| reads.history_after(from, PAGE)).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(error = error.chain(), "an observer lost the history");
                return items.abort();
            }
        };
        let more = !rows.is_empty();
        for row in rows {
            cursor = row.seq;
            if send(&items, &row).await.is_err() {
                return;
            }
        }
        if more {
            continue;
        }
        if !caught_up {
            caught_up = true;
            if items.send(Observed::CaughtUp { cursor }).await.is_err() {
                return;
            }
        }
        // CANCEL SAFETY: waiting changes nothing.
        tokio::select! {
            changed = head.changed() => if changed.is_err() { return },
            () = shared.stopped() => return,
        }
    }
}

async fn send(items: &ItemSender<Observed>, row: &HistoryRow) -> Result<(), SendError> {
    let json = row.to_json_line().unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()));
    items.send(Observed::Entry { seq: row.seq, at_ms: row.at.0, json: Text::clipped(json) }).await
}

struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
