//! What is judged: the stores of a tree, and what was seen beside them.
//!
//! Plain values, so that a test can plant a fault in one. Nothing here is computed.
//!
//! Made by `read`, judged by `judge`.

use std::collections::{BTreeMap, BTreeSet};

use pod::id::{PodId, PodName, Seq, StreamId, WorkId};
use pod::protocol::PodEvent;
use pod::store::{ChildRow, HistoryRow, OutboxRow, SystemItem, WorkRow};

/// A tree of pods, after the fact.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Its pods, by name.
    pub pods: BTreeMap<PodName, PodRecord>,
    /// What children were seen to offer: more than once, if they had to.
    pub offers: Vec<Offer>,
    /// The acks that children were given.
    pub acks: Vec<Ack>,
    /// Runs that a pod has told somebody are accepted.
    pub accepted: BTreeSet<(PodName, WorkId)>,
    /// Lives that were killed, or that ended without a word because they were made to. Any other life that is lost
    /// although it had been ready is falsely so.
    pub killed: BTreeSet<PodId>,
    /// Whether every pod has ended in good order: nothing may then be open.
    pub over: bool,
}

/// One pod's store.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// The stream of its events.
    pub stream: StreamId,
    /// Its history, whole.
    pub history: Vec<HistoryRow>,
    /// What its parent has not acknowledged.
    pub outbox: Vec<OutboxRow>,
    /// The newest event that it has raised.
    pub raised: Seq,
    /// The newest event that it knows to be its parent's.
    pub acked: Seq,
    /// What it was given.
    pub received: Vec<WorkRow>,
    /// What it has given.
    pub delegated: Vec<WorkRow>,
    /// The lives of its children.
    pub children: Vec<ChildRow>,
    /// Up to where the streams of its children are applied here.
    pub applied: BTreeMap<StreamId, Seq>,
    /// What is committed and waits to be told to its agent, in the order in which it will be.
    pub untold: Vec<SystemItem>,
}

/// One offer of an event, as its child wrote it down before it was made.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Whose.
    pub stream: StreamId,
    /// Its place.
    pub seq: Seq,
    /// The event.
    pub event: PodEvent,
}

/// An ack, as the child wrote it down when it had it.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// Whose.
    pub stream: StreamId,
    /// Everything up to here is said to be committed at the parent.
    pub durable: Seq,
}
