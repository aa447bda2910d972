//! An event that comes twice, too early, or from a life that is over changes nothing.

use pod::id::{Incarnation, Seq, TurnId};
use pod::protocol::{PodEvent, PodEventOffer};
use pod::{ChildPhase, PodId, SpawnPod, Terminal, TurnResult, WorkId, WorkResult, WorkerSpec};
use tests::world::{InTime as _, World};

use crate::world;

/// The child `a` of `boss` makes these offers to it, past its own reporter; returns what it was answered.
async fn answers(world: &World, child: &pod::Child, offers: &[PodEventOffer]) -> Vec<String> {
    let before = world.history("a").outputs().len();
    let work = child.run(serde_json::to_string(offers).unwrap()).await.unwrap();
    assert_eq!(work.settled().in_time().await, WorkResult::Finished);
    let history = world.history("a");
    history.outputs().split_off(before).into_iter().map(str::to_owned).collect()
}

fn ended(pod: &PodId, work: u64) -> PodEvent {
    PodEvent::TurnEnded { pod: pod.clone(), work: WorkId(work), turn: TurnId(1), result: TurnResult::Finished }
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_that_come_twice_or_too_early_or_under_another_life_have_no_effect() {
    let world = world();
    let boss = world.boss().await;
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::of_kind("offer"))).await.unwrap();
    let own = child.id().clone();
    // Two events of its own, by the ordinary way.
    assert!(answers(&world, &child, &[]).await.is_empty());
    world.at_rest_with("boss", 1).await;
    let before = world.history("boss");

    let stream = world.stream("a");
    let other = PodId::new(own.name.clone(), Incarnation::random());
    let offer =
        |from: &PodId, seq: u64, event: PodEvent| PodEventOffer { from: from.clone(), stream, seq: Seq(seq), event };
    let said = answers(
        &world,
        &child,
        &[
            offer(&own, 1, ended(&own, 77)),
            offer(&own, 2, PodEvent::ShutDown { pod: own.clone() }),
            offer(&own, 9, ended(&own, 78)),
            offer(&other, 3, ended(&other, 79)),
            offer(&own, 3, PodEvent::ShutDown { pod: boss.id().clone() }),
            offer(&own, 0, ended(&own, 80)),
        ],
    )
    .await;
    let expected = [
        "Ok(EventAck { disposition: Duplicate, durable_seq: Seq(2), woke: false })",
        "Ok(EventAck { disposition: Duplicate, durable_seq: Seq(2), woke: false })",
        "Err(Rejected(OutOfOrder { expected: Seq(3) }))",
        "Err(Rejected(NotYourChild))",
        "reports as pod `boss`",
        "Err(Rejected(Invalid",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "{said} instead of {expected}");
    }

    world.at_rest_with("boss", 1).await;
    let after = world.history("boss");
    after.assert_every_event_once_and_in_order();
    assert_eq!(after.told_of("a").len(), before.told_of("a").len() + 2, "more than the second work's two events");
    for work in 77..=80 {
        assert!(after.ends_of(WorkId(work)).is_empty(), "work {work}");
    }
    assert!(after.terminals("a").is_empty(), "a duplicate `ShutDown` ended the child");
    assert_eq!(boss.children()[0].phase, ChildPhase::Ready);
    boss.shutdown().in_time().await;
    world.history("boss").assert_one_terminal_a_life();
}

#[tokio::test(flavor = "multi_thread")]
async fn late_shut_down_of_an_old_life_leaves_the_new_one_alone() {
    let world = world();
    let boss = world.boss().await;
    let spawn = || SpawnPod::new("a".parse().unwrap(), WorkerSpec::of_kind("said"));
    let old = boss.spawn_pod(spawn()).await.unwrap();
    assert_eq!(old.stop(std::time::Duration::from_secs(60)).in_time().await.unwrap(), Terminal::ShutDown);
    let new = boss.spawn_pod(spawn()).await.unwrap();
    // The new life finds in its store what the old one had to say, and says it now.
    let late = vec![PodEvent::ShutDown { pod: old.id().clone() }];
    let work = new.run(serde_json::to_string(&late).unwrap()).await.unwrap();
    assert_eq!(work.settled().in_time().await, WorkResult::Finished, "the new life works");
    let said = world.history("a").outputs().concat();
    assert!(said.contains("Acked(EventAck { disposition: Applied"), "{said}");
    world.at_rest_with("boss", 1).await;
    assert_eq!(world.history("boss").terminals("a"), [Terminal::ShutDown], "one, of the old life");
    let line = boss.children().pop().unwrap();
    assert_eq!((line.pod, line.terminal), (new.id().clone(), None));
    assert_eq!(new.run("[]").await.unwrap().settled().in_time().await, WorkResult::Finished, "and goes on to work");
    boss.shutdown().in_time().await;
    let history = world.history("boss");
    history.assert_one_terminal_a_life();
    history.assert_every_event_once_and_in_order();
}
