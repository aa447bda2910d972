//! The parent's side of an event: one transaction for all that it makes true.
//!
//! Side effects, watermark, inbox, intents, what is told to the grandparent and the works that it settles are committed
//! together, once for each `(stream, seq)`, in order. A rejection changes nothing. Side effects belong to a life: what
//! an old one says late never touches its successor.
//!
//! Called by `controller` when the sender's identity is known, and by `terminal` for what a dead child left.

use crate::event::render::render_event;
use crate::id::{PodId, Seq, StreamId, WorkId};
use crate::protocol::{Disposition, EventAck, EventRejection, LocalEvent, PodEvent, PodEventOffer, Text, WorkResult};
use crate::scope::ScopeRule;
use crate::store::{
    ChildRow, ChildState, EventKey, HistoryItem, InboxId, NewReport, Room, Store, StoreError, SystemItem, Terminal, Tx,
};

/// An event on offer by a sender whose identity is known.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Which life of which child offers it.
    pub from: &'a PodId,
    /// Whose sequence.
    pub stream: StreamId,
    /// Its place.
    pub seq: Seq,
    /// The event.
    pub event: &'a PodEvent,
}

/// What an offer came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Whether this offer did it.
    pub disposition: Disposition,
    /// Everything up to here is committed.
    pub durable_seq: Seq,
    /// Where it waits for the agent, if it does.
    pub inbox: Option<InboxId>,
    /// The works of ours that it settled.
    pub settled: Vec<(WorkId, WorkResult)>,
}

impl Applied {
    /// The ack, given whether a turn was started for it.
    pub fn ack(&self, woke: bool) -> EventAck {
        EventAck { disposition: self.disposition, durable_seq: self.durable_seq, woke }
    }

    fn duplicate(watermark: Seq) -> Self {
        Self { disposition: Disposition::Duplicate, durable_seq: watermark, inbox: None, settled: Vec::new() }
    }
}

/// Takes an offer of the child that the kernel says `sender` is, and returns when it is committed.
///
/// # Errors
/// The rejection that its sender is to be given; nothing has then changed.
///
/// # Cancel safety
/// Dropped early, the event may or may not be committed; the next offer of it tells.
pub async fn receive_event(store: &Store, sender: &PodId, offer: PodEventOffer) -> Result<Applied, EventRejection> {
    if *sender != offer.from {
        return Err(EventRejection::NotYourChild);
    }
    let applied = store
        .write(move |tx| {
            let PodEventOffer { from, stream, seq, event } = &offer;
            apply_event_side_effects(tx, &Offer { from, stream: *stream, seq: *seq, event })
        })
        .await
        .unwrap_or_else(|error| Err(EventRejection::Unavailable { reason: Text::clipped(error.chain()) }));
    if applied.is_ok() {
        crate::failpoint!("parent_after_commit_before_ack");
    }
    applied
}

/// Applies an offer within the transaction `tx`: all that it makes true, or nothing and why.
///
/// # Errors
/// The outer error is the store's: the transaction is then to be given up.
pub fn apply_event_side_effects(tx: &Tx<'_>, offer: &Offer<'_>) -> Result<Result<Applied, EventRejection>, StoreError> {
    crate::failpoint!("parent_before_apply");
    let Some(row) = tx.child(offer.from)? else {
        let current = tx.child_by_name(&offer.from.name)?.map(|row| row.pod.incarnation);
        return Ok(Err(
            current.map_or(EventRejection::NotYourChild, |current| EventRejection::StaleIncarnation { current })
        ));
    };
    if row.moved_to.is_some() {
        // It reads its edge again, and learns whose child it is.
        return Ok(Err(EventRejection::NotYourChild));
    }
    if let Err(reason) = consistent(offer) {
        return Ok(Err(EventRejection::Invalid { reason: Text::clipped(reason) }));
    }
    let ended = row.state == ChildState::Ended;
    let bound = if ended { row.stream == Some(offer.stream) } else { tx.bind_stream(&row, offer.stream)? };
    if !bound && !ended {
        return Ok(Err(EventRejection::NotYourChild));
    }
    let watermark = tx.watermark(offer.stream)?;
    if bound && offer.seq <= watermark {
        return Ok(Ok(Applied::duplicate(watermark)));
    }
    if ended {
        let current = tx.child_by_name(&offer.from.name)?.map_or(offer.from.incarnation, |row| row.pod.incarnation);
        return Ok(Err(EventRejection::StaleIncarnation { current }));
    }
    let first = match offer.event {
        PodEvent::Gap { from, .. } => *from,
        _ => offer.seq,
    };
    if first != watermark.next() {
        return Ok(Err(EventRejection::OutOfOrder { expected: watermark.next() }));
    }
    apply_next(tx, &row, EventKey { stream: offer.stream, seq: offer.seq }, offer.event).map(Ok)
}

/// Applies the event that comes next in its stream.
pub(crate) fn apply_next(tx: &Tx<'_>, row: &ChildRow, key: EventKey, event: &PodEvent) -> Result<Applied, StoreError> {
    let effect = side_effects(tx, event)?;
    crate::failpoint!("parent_before_watermark");
    tx.set_watermark(key.stream, &row.pod.name, key.seq)?;
    crate::failpoint!("parent_before_inbox");
    let event = LocalEvent::Reported(event.clone());
    let inbox = match effect {
        Effect::Tell(works) if event.should_notify_agent() => Some(tell_agent(tx, Some(key), event, works)?),
        Effect::Tell(_) | Effect::Control => {
            tx.append(None, None, &HistoryItem::ControlEvent { key: Some(key), event })?;
            None
        }
    };
    let settled = tx.settle_works()?;
    crate::failpoint!("parent_before_commit");
    Ok(Applied { disposition: Disposition::Applied, durable_seq: key.seq, inbox, settled })
}

/// Puts a report where the agent will be told, for the works of ours that it belongs to.
pub(crate) fn tell_agent(
    tx: &Tx<'_>,
    key: Option<EventKey>,
    event: LocalEvent,
    works: Vec<WorkId>,
) -> Result<InboxId, StoreError> {
    let text = render_event(&event);
    tx.push_report(&NewReport { key, item: SystemItem::Report { key, event, text }, wakes: true, works })
}

enum Effect {
    /// The agent is told, if the event is one for agents.
    Tell(Vec<WorkId>),
    /// It came too late to mean anything; it is kept in history.
    Control,
}

fn side_effects(tx: &Tx<'_>, event: &PodEvent) -> Result<Effect, StoreError> {
    let served = |work: Option<WorkId>| -> Result<Vec<WorkId>, StoreError> {
        Ok(work.map(|work| tx.belongs_to(work)).transpose()?.flatten().into_iter().collect())
    };
    match event {
        PodEvent::TurnEnded { .. } | PodEvent::Errored { .. } => served(event.work()).map(Effect::Tell),
        PodEvent::WorkSettled { pod, work, result } => {
            tx.settle_delegated(*work, &pod.name, *result)?;
            served(Some(*work)).map(Effect::Tell)
        }
        PodEvent::ShutDown { pod } => {
            // The life that it names, and no other; once.
            Ok(tx.set_terminal(pod, &Terminal::ShutDown, None)?.map_or(Effect::Control, Effect::Tell))
        }
        PodEvent::ScopeSubDelegated { parent_pod, sub_pod, sub_socket, scope, .. } => {
            if tx.add_descendant(parent_pod, sub_pod, sub_socket, scope)? {
                reemit(tx, event)?;
            }
            Ok(Effect::Control)
        }
        PodEvent::Gap { .. } => Ok(Effect::Tell(Vec::new())),
    }
}

/// Tells our own parent of the descendant, as an event of ours, in the transaction that applied the child's.
fn reemit(tx: &Tx<'_>, event: &PodEvent) -> Result<(), StoreError> {
    if let PodEvent::ScopeSubDelegated { parent_pod, sub_pod, sub_socket, scope, .. } = event {
        let own = PodEvent::ScopeSubDelegated {
            pod: tx.own().pod.clone(),
            parent_pod: parent_pod.clone(),
            sub_pod: sub_pod.clone(),
            sub_socket: sub_socket.clone(),
            scope: scope.clone(),
        };
        tx.raise(&own, Room::Ordinary)?;
    }
    Ok(())
}

/// Whether an event can be true, coming from its sender.
fn consistent(offer: &Offer<'_>) -> Result<(), String> {
    let (named, from) = (&offer.event.pod().name, &offer.from.name);
    if named != from {
        return Err(format!("pod `{from}` reports as pod `{named}`"));
    }
    match offer.event {
        PodEvent::Gap { from, to, .. } if *from > *to || *to != offer.seq || from.0 == 0 => {
            Err(format!("a gap from {from} to {to} cannot have the place {}", offer.seq))
        }
        _ if offer.seq.0 == 0 => Err("events are counted from 1".to_owned()),
        _ => Ok(()),
    }
}

impl Tx<'_> {
    /// Records a descendant. False if it was known.
    fn add_descendant(
        &self,
        parent: &PodId,
        pod: &PodId,
        socket: &str,
        scope: &[ScopeRule],
    ) -> Result<bool, StoreError> {
        let scope = serde_json::to_string(scope)
            .map_err(|error| StoreError::Unreadable { what: "a scope", detail: error.to_string() })?;
        let sql = "INSERT OR IGNORE INTO descendants
                       (name, incarnation, parent_name, parent_incarnation, socket, scope, at)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let row = (&pod.name, pod.incarnation, &parent.name, parent.incarnation, socket, scope, self.now());
        Ok(self.run(sql, row)? == 1)
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
