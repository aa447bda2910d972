//! Observers never stand between a child and its parent, whatever they read and however much there is to read.

use std::time::Duration;

use pod::attach::{Seen, Watch};
use pod::protocol::{LocalEvent, Observed, PodEvent, Subscribe};
use pod::store::{HistoryItem, OutputKind};
use pod::{Method, SpawnPod, WorkerSpec};
use rpc::Event;
use tests::world::{InTime as _, until};
use tokio::time::timeout;

use crate::world;

const EVENTS: usize = 1000;
const PIECE_BYTES: usize = 64 * 1024;
const PIECES: usize = 1024;

#[tokio::test(flavor = "multi_thread")]
async fn thousand_events_are_applied_in_order_while_ten_observers_have_64_mib_to_read_and_five_do_not() {
    let world = world();
    let boss = world.boss().await;
    let text = "x".repeat(PIECE_BYTES);
    for _ in 0..PIECES / 64 {
        let text = text.clone();
        let append = move |tx: &pod::store::Tx<'_>| {
            let item = HistoryItem::Output { output: OutputKind::Text, text };
            (0..64).try_for_each(|_| tx.append(None, None, &item).map(|_| ()))
        };
        boss.store().write(append).await.unwrap();
    }
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::of_kind("raise"))).await.unwrap();

    // Five that open a subscription and never read from it; they stay open to the end.
    let mut silent = Vec::new();
    for _ in 0..5 {
        let client = rpc::Client::<Method>::new(&boss.address());
        let (ack, items) = client.open(Subscribe { from: 0 }).await.unwrap();
        assert!(ack.head > PIECES as u64);
        silent.push((client, items));
    }
    // And five that read it all, and what comes after it.
    let (finished, last) = tokio::sync::watch::channel(None::<u64>);
    let mut reading = Vec::new();
    for _ in 0..5 {
        let client = rpc::Client::<Method>::new(&boss.address());
        let mut watch = Watch::open(&client, 0).await.unwrap();
        let last = last.clone();
        reading.push(tokio::spawn(async move {
            let _client = client;
            let (mut cursor, mut bytes, mut caught_up) = (0, 0, false);
            while !caught_up || last.borrow().is_none_or(|last| cursor < last) {
                // Real time passes only when nothing comes: then the end may have been said meanwhile.
                let Ok(seen) = timeout(Duration::from_millis(200), watch.next()).await else { continue };
                // A gap or an overlap is an error of the watch.
                match seen.expect("the stream goes on").expect("no observer is cut off") {
                    Seen::Entry { head, line } => {
                        cursor = head.seq;
                        bytes += line.len();
                    }
                    Seen::CaughtUp => caught_up = true,
                    Seen::InFlight | Seen::State => {}
                }
            }
            (bytes, caught_up)
        }));
    }

    let work = child.run(EVENTS.to_string()).await.unwrap();
    let settled = timeout(Duration::from_secs(60), work.settled()).await.expect("no observer delays it");
    assert_eq!(settled, pod::WorkResult::Finished);
    let said = world.history("a").outputs().concat();
    // With its own two, which come at the turn's end.
    assert_eq!(said, format!("acked {EVENTS} failed 0 pending 0 applied {EVENTS}"));
    boss.settled().in_time().await.unwrap();
    until("the agent was told all", || (world.counts("boss").inbox_waiting == 0).then_some(())).await;
    world.at_rest_with("boss", 1).await;

    let history = world.history("boss");
    history.assert_every_event_once_and_in_order();
    let numbers: Vec<u64> = history
        .told()
        .into_iter()
        .filter_map(|(_, event)| match event {
            LocalEvent::Reported(PodEvent::TurnEnded { work: of, turn, .. }) if *of != work.id() => Some(turn.0),
            _ => None,
        })
        .collect();
    assert_eq!(numbers, (1..=EVENTS as u64).collect::<Vec<_>>(), "applied out of order");

    // Those who read have it all, without a gap; those who did not are still attached.
    finished.send_replace(Some(history.0.last().unwrap().seq));
    for observer in reading {
        let (bytes, caught_up) = timeout(Duration::from_secs(60), observer).await.expect("it reads on").unwrap();
        assert!(bytes > PIECE_BYTES * PIECES && caught_up, "{bytes} bytes, caught up: {caught_up}");
    }
    for (_, items) in &mut silent {
        let first = timeout(Duration::from_secs(20), items.event()).await.expect("it was sent").unwrap().unwrap();
        assert!(matches!(first, Event::Item(Observed::Entries { first: 1, .. })), "{first:?}");
    }
    boss.shutdown().in_time().await;
}
