//! A child's completion is committed in its parent's history, once, and acked.

use pod::protocol::{LocalEvent, PodEvent};
use pod::{SpawnPod, TurnResult, WorkEnd, WorkResult, WorkerSpec};
use tests::world::{InTime as _, until};

use crate::world;

#[tokio::test(flavor = "multi_thread")]
async fn completion_of_a_child_stands_once_in_the_parents_history_and_is_acked() {
    let world = world();
    let boss = world.boss().await;
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::command("echo done"))).await.unwrap();
    let work = child.run("go").await.unwrap();
    assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Finished));
    assert_eq!(work.settled().in_time().await, WorkResult::Finished);
    world.at_rest_with("boss", 1).await;

    let history = world.history("boss");
    assert_eq!(history.ends_of(work.id()), [WorkEnd::TurnEnded(TurnResult::Finished)]);
    assert_eq!(history.settled(work.id()), [WorkResult::Finished]);
    assert_eq!(history.told_of("a").len(), 2, "the turn's end and the work's, and nothing else");
    history.assert_every_event_once_and_in_order();

    // Acked: nothing of it is left with the child, and the ack covers all that it raised.
    let acked = until("the child's outbox is empty", || {
        let counts = world.counts("a");
        (counts.outbox_pending == 0).then_some(counts.outbox_acked)
    })
    .await;
    assert_eq!(acked, world.look("a", |reads| reads.outbox_head()));
    let line = boss.children().pop().unwrap();
    assert_eq!((line.applied, line.offers), (2, 2), "each event was offered once and applied once");
    boss.shutdown().in_time().await;
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_is_told_stands_in_the_history_before_it_is_used() {
    let world = world();
    let boss = world.boss().await;
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::command("exit 3"))).await.unwrap();
    let work = child.run("go").await.unwrap();
    let WorkEnd::Errored { message } = work.ended().in_time().await else {
        panic!("{:?}", work.ended().in_time().await)
    };
    assert!(message.contains("exited with code 3"), "{message}");
    assert_eq!(work.settled().in_time().await, WorkResult::Failed);
    world.at_rest_with("boss", 1).await;
    let history = world.history("boss");
    for text in history.outputs() {
        let written = history.0.iter().position(
            |row| matches!(&row.item, pod::store::HistoryItem::Output { text: output, .. } if output == text),
        );
        let told = history
            .0
            .iter()
            .position(|row| matches!(&row.item, pod::store::HistoryItem::SystemItem(item) if item.text() == text));
        assert!(told < written && told.is_some(), "the ledger wrote {text:?}, which it had not been told");
    }
    assert!(history.told().iter().any(|(_, event)| matches!(event, LocalEvent::Reported(PodEvent::Errored { .. }))));
    boss.shutdown().in_time().await;
}
