//! The lanes of a client: one, or several side by side.
//!
//! Never moves a call from one lane to another: its id belongs to the lane.
//!
//! Made by `builder`, asked by the client for each call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::io::client::{CallingCell, ConnectionEnd};
use crate::session::client::LaneCounters;

/// What one lane of a client is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneState {
    /// Its number: 0, 1, 2, ...
    pub lane: u32,
    /// Whether it has a connection, or one that opens.
    pub connected: bool,
    /// The number of its last connection; 0 before the first.
    pub epoch: u64,
    /// Calls and doubts that are open.
    pub open: usize,
    /// Why its last connection ended, or could not be made; `None` if there was none yet that did.
    pub last_end: Option<ConnectionEnd>,
    /// What it has seen: connections, lanes that the server dropped, late answers.
    pub counters: LaneCounters,
}

/// One lane or several. Counted as a user of each.
#[derive(Debug)]
pub(super) enum Lanes {
    One(Arc<CallingCell>),
    Several(Arc<Several>),
}

#[derive(Debug)]
pub(super) struct Several {
    first: Arc<CallingCell>,
    rest: Vec<Arc<CallingCell>>,
    /// Where the search for the least loaded lane begins, so that equals take turns.
    next: AtomicUsize,
}

impl Lanes {
    /// Each already counted as used.
    pub(super) fn new(first: Arc<CallingCell>, rest: Vec<Arc<CallingCell>>) -> Self {
        match rest.is_empty() {
            true => Self::One(first),
            false => Self::Several(Arc::new(Several { first, rest, next: AtomicUsize::new(0) })),
        }
    }

    /// One lane that others use as well.
    pub(super) fn of(cell: Arc<CallingCell>) -> Self {
        cell.add_handle();
        Self::One(cell)
    }

    pub(super) fn first(&self) -> &CallingCell {
        match self {
            Self::One(cell) => cell,
            Self::Several(several) => &several.first,
        }
    }

    /// The lane of the next call.
    pub(super) fn pick(&self) -> &Arc<CallingCell> {
        match self {
            Self::One(cell) => cell,
            Self::Several(several) => several.least_loaded(),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<CallingCell>> {
        let (first, rest) = match self {
            Self::One(cell) => (cell, &[][..]),
            Self::Several(several) => (&several.first, several.rest.as_slice()),
        };
        std::iter::once(first).chain(rest)
    }
}

impl Several {
    /// Every open call, doubt and stream holds its lane: the number of holders tells the lanes' loads apart without a
    /// lock, and without a counter that each call would have to keep.
    fn least_loaded(&self) -> &Arc<CallingCell> {
        let lanes = self.rest.len().saturating_add(1);
        let start = self.next.fetch_add(1, Ordering::Relaxed) % lanes;
        let around = (start..lanes).chain(0..start);
        let cells = around.map(|number| number.checked_sub(1).and_then(|at| self.rest.get(at)).unwrap_or(&self.first));
        cells.min_by_key(|cell| Arc::strong_count(cell)).unwrap_or(&self.first)
    }
}

impl Clone for Lanes {
    fn clone(&self) -> Self {
        self.all().for_each(|cell| cell.add_handle());
        match self {
            Self::One(cell) => Self::One(Arc::clone(cell)),
            Self::Several(several) => Self::Several(Arc::clone(several)),
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.all().for_each(|cell| cell.drop_handle());
    }
}

pub(super) fn state(cell: &CallingCell) -> LaneState {
    let last_end = cell.last_end();
    cell.with(|lane| LaneState {
        lane: lane.number(),
        connected: lane.is_connected(),
        epoch: lane.epoch(),
        open: lane.open(),
        last_end,
        counters: lane.counters(),
    })
}
