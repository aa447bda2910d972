//! `pod events`: what a pod has told or has yet to tell its parent, and what its children have told it.
//!
//! Reads the store, alive or dead. The parent's word is what counts as told: an event is pending until it is acked.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use pod::id::{PodName, Seq};
use pod::protocol::{LocalEvent, PodEvent};
use pod::store::{EventKey, HistoryItem, HistoryRow, OutboxRow, OutboxState, Reads, StoreError, SystemItem};
use serde::Serialize;
use tokio::time::sleep;

use crate::args::Global;
use crate::commands::existing_pod;
use crate::describe::{event_line, own_event_line, time};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::output::{Output, Tone};
use crate::stopping::Signals;
use crate::table::Table;

/// How often what is new is looked for. A person does not notice.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// LIMIT: events of the outbox that are shown; how many there are is said.
const OUTBOX_MAX: u32 = 1000;

/// `pod events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Whose
    name: PodName,
    /// Of the events that children have told, only the last N
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Go on with what changes, until Ctrl-C
    #[arg(long)]
    follow: bool,
}

/// The outbox in figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Outbox {
    r#type: &'static str,
    /// The newest event that was raised.
    raised: Seq,
    /// The last one that the parent has acked.
    acked: Seq,
    pending: u64,
    undeliverable: u64,
    last_outcome: Option<String>,
}

/// An event of this pod that its parent has not acked.
#[derive(Debug, Serialize)]
struct Untold<'a> {
    r#type: &'static str,
    seq: Seq,
    at: u64,
    state: &'static str,
    offers: u64,
    outcome: Option<&'a str>,
    event: &'a PodEvent,
}

/// An event of a child that this pod has applied.
#[derive(Debug, Serialize)]
struct Applied<'a> {
    r#type: &'static str,
    /// The history entry that tells it.
    entry: u64,
    at: u64,
    child: &'a PodName,
    key: Option<EventKey>,
    event: &'a LocalEvent,
}

pub(crate) async fn events(args: &EventsArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let (_, paths) = existing_pod(global, &args.name)?;
    if !paths.store().exists() {
        let message =
            format!("pod `{}` has committed nothing yet; it is just starting, or never came that far", args.name);
        return Err(Failure::new(Exit::NoSuchPod, message));
    }
    let mut follower = Follower::open(&paths)?;
    let (figures, rows) = follower.look(outbox)?;
    let mut applied = Vec::new();
    follower.catch_up(|row, _| {
        if event_of(row).is_some() {
            applied.push(row.clone());
            // Only the last are shown; no more than twice as many are kept.
            if applied.len() > args.limit.saturating_mul(2).max(1) {
                applied.drain(..applied.len().saturating_sub(args.limit));
            }
        }
        Ok(())
    })?;
    applied.drain(..applied.len().saturating_sub(args.limit));
    show_outbox(&figures, &rows, output)?;
    show_applied(&applied, output)?;
    if !args.follow {
        return Ok(Exit::Ok);
    }
    let mut signals = Signals::new()?;
    let mut known = Known { figures, rows: by_number(rows) };
    loop {
        // CANCEL SAFETY: waiting changes nothing.
        tokio::select! {
            () = signals.next() => return Ok(Exit::Ok),
            () = sleep(LOOK_EVERY) => {}
        }
        let (figures, rows) = follower.look(outbox)?;
        known.news(figures, rows, output)?;
        follower.catch_up(|row, _| show_news(row, output))?;
    }
}

fn outbox(reads: &Reads<'_>) -> Result<(Outbox, Vec<OutboxRow>), StoreError> {
    let counts = reads.status_counts()?;
    let figures = Outbox {
        r#type: "outbox",
        raised: reads.outbox_head()?,
        acked: counts.outbox_acked,
        pending: counts.outbox_pending,
        undeliverable: counts.outbox_undeliverable,
        last_outcome: counts.outbox_last_outcome,
    };
    Ok((figures, reads.outbox_from(Seq(0), OUTBOX_MAX)?))
}

fn by_number(rows: Vec<OutboxRow>) -> BTreeMap<Seq, OutboxRow> {
    rows.into_iter().map(|row| (row.seq, row)).collect()
}

/// The event of a child that an entry tells, if it does.
fn event_of(row: &HistoryRow) -> Option<(Option<EventKey>, &LocalEvent)> {
    match &row.item {
        HistoryItem::SystemItem(SystemItem::Report { key, event, .. }) | HistoryItem::ControlEvent { key, event } => {
            Some((*key, event))
        }
        _ => None,
    }
}

fn untold<'a>(row: &'a OutboxRow, kind: &'static str) -> Untold<'a> {
    Untold {
        r#type: kind,
        seq: row.seq,
        at: row.at.0,
        state: row.state.word(),
        offers: row.offers,
        outcome: row.outcome.as_deref(),
        event: &row.event,
    }
}

fn show_outbox(figures: &Outbox, rows: &[OutboxRow], output: &mut Output) -> Result<(), Failure> {
    output.record(figures)?;
    let last = figures.last_outcome.as_ref().map(|last| format!("; the last offer: {last}")).unwrap_or_default();
    output.line(format!(
        "to its parent: {} raised, acked up to {}, {} pending, {} undeliverable{last}",
        figures.raised, figures.acked, figures.pending, figures.undeliverable
    ))?;
    let mut table = Table::new(&["event", "raised at", "state", "offers", "last outcome", "what"]);
    for row in rows {
        output.record(&untold(row, "event"))?;
        let tone = if row.state == OutboxState::Undeliverable { Tone::Bad } else { Tone::Plain };
        table.row(vec![
            (row.seq.to_string(), Tone::Strong),
            (time(row.at), Tone::Faint),
            (row.state.word().to_owned(), tone),
            (row.offers.to_string(), Tone::Plain),
            (row.outcome.clone().unwrap_or_else(|| "-".to_owned()), Tone::Plain),
            (own_event_line(&row.event), Tone::Plain),
        ]);
    }
    lines(&table, rows.is_empty(), output)?;
    let shown = rows.len() as u64;
    let all = figures.pending.saturating_add(figures.undeliverable);
    if all > shown {
        output.line(format!("and {} more", all.saturating_sub(shown)))?;
    }
    Ok(())
}

fn show_applied(rows: &[HistoryRow], output: &mut Output) -> Result<(), Failure> {
    let mut table = Table::new(&["entry", "applied at", "child", "event", "what"]);
    for row in rows {
        let Some((key, event)) = event_of(row) else { continue };
        output.record(&applied(row, key, event))?;
        table.row(vec![
            (row.seq.to_string(), Tone::Faint),
            (time(row.at), Tone::Faint),
            (event.pod().name.to_string(), Tone::Strong),
            (key.map_or_else(|| "-".to_owned(), |key| key.seq.to_string()), Tone::Plain),
            (event_line(event), crate::describe::tone(&row.item)),
        ]);
    }
    output.line(match rows.is_empty() {
        true => "from its children: nothing".to_owned(),
        false => "from its children, each applied once:".to_owned(),
    })?;
    lines(&table, rows.is_empty(), output)
}

fn applied<'a>(row: &HistoryRow, key: Option<EventKey>, event: &'a LocalEvent) -> Applied<'a> {
    Applied { r#type: "applied", entry: row.seq, at: row.at.0, child: &event.pod().name, key, event }
}

fn lines(table: &Table, is_empty: bool, output: &mut Output) -> Result<(), Failure> {
    if is_empty {
        return Ok(());
    }
    for line in table.lines(output) {
        output.line(line)?;
    }
    Ok(())
}

fn show_news(row: &HistoryRow, output: &mut Output) -> Result<(), Failure> {
    let Some((key, event)) = event_of(row) else { return Ok(()) };
    output.record(&applied(row, key, event))?;
    let head = output.paint(Tone::Faint, &time(row.at));
    output.line(format!("{head}  applied: {}", event_line(event)))
}

/// The outbox when it was looked at last.
struct Known {
    figures: Outbox,
    rows: BTreeMap<Seq, OutboxRow>,
}

impl Known {
    /// Says what has changed since.
    fn news(&mut self, figures: Outbox, rows: Vec<OutboxRow>, output: &mut Output) -> Result<(), Failure> {
        let rows = by_number(rows);
        for row in rows.values() {
            match self.rows.get(&row.seq) {
                Some(known) if known == row => continue,
                Some(_) => {
                    output.record(&untold(row, "event"))?;
                    let outcome = row.outcome.as_deref().unwrap_or("no outcome");
                    output.line(format!(
                        "event {} {}, offered {} times: {outcome}",
                        row.seq,
                        row.state.word(),
                        row.offers
                    ))?;
                }
                None => {
                    output.record(&untold(row, "event"))?;
                    output.line(format!("event {} raised: {}", row.seq, own_event_line(&row.event)))?;
                }
            }
        }
        if self.figures.acked != figures.acked {
            output.line(format!("acked up to {}", figures.acked))?;
        }
        if self.figures != figures {
            output.record(&figures)?;
        }
        *self = Self { figures, rows };
        Ok(())
    }
}
