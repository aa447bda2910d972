//! What is over and long ago, and what comes late of it.
#![allow(clippy::print_stdout, reason = "figures, and what was left out, are printed")]

use std::time::{Duration, Instant};

use super::*;
use crate::event::{Offer, apply_event_side_effects, end_child};
use crate::id::{PodId, Seq, StreamId, TurnId};
use crate::protocol::{Disposition, EventRejection, LostReason, PodEvent, WorkResult};
use crate::store::fixture::{self, Memory, new_child, pod, turn_ended};
use crate::store::{EndOfLife, NewChild, NewRun, Origin, RewindOutcome, StartCause, Store, TurnStart};

/// A child that is started, does one thing, says so, ends, and is told of. Three events.
fn short_life(tx: &Tx<'_>, number: u64) -> Result<(), StoreError> {
    let child = pod(&format!("short-{number}"), 1);
    let (stream, work) = (StreamId(number + 1), WorkId(1_000_000 + number));
    tx.reserve_child(&NewChild { runtime_dir: "/run/x".into(), ..new_child(&child) })?;
    tx.child_started(&child, 7)?;
    tx.child_ready(&child, stream)?;
    tx.delegate(work, &child, None, "a short thing")?;
    tx.delegation_accepted(work, TurnId(1))?;
    let events = [
        turn_ended(&child, work),
        PodEvent::WorkSettled { pod: child.clone(), work, result: WorkResult::Finished },
        PodEvent::ShutDown { pod: child.clone() },
    ];
    for (seq, event) in (1..).map(Seq).zip(&events) {
        offer(tx, &child, stream, seq, event)?.unwrap();
    }
    end_child(tx, &child, EndOfLife::Dead(LostReason::Exited { code: 0 }), None)?;
    for intent in tx.intents()? {
        tx.intent_done(intent.id)?;
    }
    // Told, and seen.
    let TurnStart::Started(turn) = tx.start_turn(StartCause::Wake)? else { panic!("nothing to tell") };
    tx.mark_seen(turn.turn, &turn.reports.iter().map(|report| report.id).collect::<Vec<_>>())?;
    finish(tx, turn.turn)
}

fn finish(tx: &Tx<'_>, turn: TurnId) -> Result<(), StoreError> {
    let outcome = crate::store::TurnOutcome::Ended { result: crate::protocol::TurnResult::Finished };
    tx.end_turn(&crate::store::EndTurn { turn, outcome, compaction: None }).map(|_| ())
}

fn offer(
    tx: &Tx<'_>,
    from: &PodId,
    stream: StreamId,
    seq: Seq,
    event: &PodEvent,
) -> Result<Result<Disposition, EventRejection>, StoreError> {
    let applied = apply_event_side_effects(tx, &Offer { from, stream, seq, event })?;
    Ok(applied.map(|applied| applied.disposition))
}

fn rows(store: &Memory, table: &str) -> u64 {
    store.with(|tx| tx.number(&format!("SELECT count(*) FROM {table}"), []))
}

fn lived(kept: u64, lives: u64) -> Memory {
    let mut store = fixture::memory("a");
    store.options.limits.over_kept = kept;
    for number in 0..lives {
        store.with(|tx| short_life(tx, number));
    }
    store
}

#[test]
fn children_that_are_over_leave_a_bounded_number_of_rows_and_all_of_the_history() {
    let store = lived(32, 150);
    for (table, times) in [("children", 1), ("works", 1), ("inbox", 4), ("inbox_works", 4), ("turn_works", 4)] {
        let found = rows(&store, table);
        assert!(found <= 32 * times + 32, "{found} rows in `{table}`");
    }
    assert!(rows(&store, "children") >= 32, "what is not long ago is still there");
    assert_eq!(rows(&store, "watermarks"), 150);
    let ends = "history WHERE kind = 'child_terminal'";
    assert_eq!(rows(&store, ends), 150);
}

#[test]
fn late_frame_of_a_life_that_has_gone_is_refused_and_never_applied() {
    let store = lived(16, 60);
    let (gone, stream) = (pod("short-0", 1), StreamId(1));
    assert_eq!(store.with(|tx| tx.child(&gone)), None);
    let before = (rows(&store, "history"), rows(&store, "inbox"));
    for seq in 1..=5 {
        let event = turn_ended(&gone, WorkId(1_000_000));
        let late = store.with(|tx| offer(tx, &gone, stream, Seq(seq), &event));
        assert!(matches!(late, Err(EventRejection::NotYourChild)), "{late:?}");
    }
    assert_eq!((rows(&store, "history"), rows(&store, "inbox")), before);
    // The next life of that name goes on with the stream: what is applied stays applied.
    let next = pod("short-0", 2);
    store.with(|tx| tx.reserve_child(&new_child(&next)).map(|_| ()));
    for (seq, expected) in [(3, Disposition::Duplicate), (4, Disposition::Applied)] {
        let event = turn_ended(&next, WorkId(5));
        assert_eq!(store.with(|tx| offer(tx, &next, stream, Seq(seq), &event)).unwrap(), expected, "event {seq}");
    }
    // And another pod cannot take it over.
    let other = pod("other", 1);
    store.with(|tx| tx.reserve_child(&new_child(&other)).map(|_| ()));
    let stolen = store.with(|tx| offer(tx, &other, stream, Seq(5), &turn_ended(&other, WorkId(5))));
    assert!(matches!(stolen, Err(EventRejection::NotYourChild)), "{stolen:?}");
}

#[test]
fn nobody_goes_back_behind_what_could_not_be_told_again() {
    let mut store = fixture::memory("a");
    store.options.limits.over_kept = 16;
    let run = |tx: &Tx<'_>, work| {
        tx.stage_run(&NewRun { work: WorkId(work), origin: Origin::Host, input: "x".into() })?;
        let TurnStart::Started(turn) = tx.start_turn(StartCause::Wake)? else { panic!("no turn") };
        finish(tx, turn.turn)?;
        Ok(turn.turn)
    };
    let first = store.with(|tx| run(tx, 1));
    for number in 0..60 {
        store.with(|tx| short_life(tx, number));
    }
    let last = store.with(|tx| run(tx, 2));
    let targets = store.with(|tx| tx.rewind_targets(1000)).targets;
    assert!(targets.iter().any(|target| target.turn == last) && !targets.iter().any(|target| target.turn == first));
    let back = |target| {
        store.with(|tx| {
            let expected_head = tx.context_head()?;
            tx.rewind(&crate::store::Rewind { target, expected_head, by: Origin::Host })
        })
    };
    let RewindOutcome::NotEligible(why) = back(first) else { panic!("reports are lost by a rewind") };
    assert!(why.contains("too long ago"), "{why}");
    let oldest = targets.last().unwrap();
    let RewindOutcome::Done(done) = back(oldest.turn) else { panic!("it was on offer") };
    assert_eq!(done.returned, oldest.reports);
    assert!(done.returned > 0);
}

#[test]
fn run_and_note_are_known_for_a_day_however_many_came_since() {
    let store = lived(8, 1);
    let note = |tx: &Tx<'_>| tx.push_note(crate::id::NoteKey(1), "x", Origin::Host, false);
    let run = |tx: &Tx<'_>| tx.stage_run(&NewRun { work: WorkId(7), origin: Origin::Host, input: "x".into() });
    store.with(|tx| {
        note(tx)?;
        run(tx)?;
        let TurnStart::Started(turn) = tx.start_turn(StartCause::Wake)? else { panic!("no turn") };
        tx.mark_seen(turn.turn, &turn.reports.iter().map(|report| report.id).collect::<Vec<_>>())?;
        finish(tx, turn.turn)
    });
    let more = |from: u64| (from..from + 50).for_each(|number| store.with(|tx| short_life(tx, number)));
    more(10);
    assert_eq!(store.with(note), crate::store::NoteOutcome::Duplicate);
    assert!(store.with(run).duplicate);
    store.advance(KEYS_MS + 1);
    more(100);
    assert_eq!(rows(&store, "inbox WHERE note IS NOT NULL"), 0);
}

/// Ten thousand with `POD_LIVES=10000`.
#[tokio::test]
async fn ten_thousand_short_children_one_after_another_are_as_fast_at_the_end() {
    let lives: u64 = std::env::var("POD_LIVES").ok().and_then(|number| number.parse().ok()).unwrap_or(300);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let mut options = fixture::options("a");
    options.limits.over_kept = if lives < 10_000 { 32 } else { options.limits.over_kept };
    let store = Store::open(&path, options).unwrap();
    let mut parts: Vec<Duration> = Vec::new();
    for part in 0..10 {
        let started = Instant::now();
        for number in part * lives / 10..(part + 1) * lives / 10 {
            store.write(move |tx| short_life(tx, number)).await.unwrap();
        }
        parts.push(started.elapsed());
    }
    let sizes = store
        .read(|reads| {
            let bytes =
                reads.number("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()", [])?;
            let free = reads
                .number("SELECT freelist_count * page_size FROM pragma_freelist_count(), pragma_page_size()", [])?;
            let history = reads.number("SELECT sum(length(body) + length(kind) + 40) FROM history", [])?;
            Ok((bytes, free, history))
        })
        .await
        .unwrap();
    let (bytes, free, history) = sizes;
    let a_life = |part: usize| parts[part].as_micros() / u128::from(lives / 10);
    println!(
        "{lives} lives: {} us each at first, {} us at the end; {bytes} bytes ({free} free), of which the history {history}; \
         {} bytes for each of {} events, all included",
        a_life(1),
        a_life(9),
        bytes / (3 * lives),
        3 * lives
    );
    // What is not the history is bounded; a watermark for each stream, and the slack of pages, come on top.
    assert!(bytes < history * 2 + 4_000_000, "{bytes} bytes, with {history} of history");
    let counts = store.read(|reads| reads.status_counts()).await.unwrap();
    assert!(counts.children_total < lives, "nothing has gone");
}
