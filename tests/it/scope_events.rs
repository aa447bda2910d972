//! Delegations below a child are told upwards, level by level, and never to an agent.

use pod::protocol::{LocalEvent, PodEvent};
use pod::store::HistoryItem;
use pod::{TurnResult, WorkEnd};
use tests::world::{History, InTime as _};

use super::ends::scripted;
use crate::world;

/// Who told of whom, and who had given the rights.
fn delegations(history: &History) -> Vec<(String, String, String)> {
    let found = history.control().into_iter().filter_map(|(_, event)| match event {
        LocalEvent::Reported(PodEvent::ScopeSubDelegated { pod, parent_pod, sub_pod, .. }) => {
            Some((pod.name.to_string(), parent_pod.name.to_string(), sub_pod.name.to_string()))
        }
        _ => None,
    });
    found.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn delegation_of_a_grandchild_is_told_again_upwards_and_wakes_no_agent() {
    let world = world();
    let boss = world.boss().await;
    let sub = "{kind = 'scripted', runs = [[{spawn = {name = 'leaf', worker = {kind = 'ledger'}}}]]}";
    let script = format!(
        "runs = [[{{spawn = {{name = 'sub', worker = {sub}}}}}, {{run_and_wait = {{child = 'sub', input = 'go'}}}}]]"
    );
    let mid = scripted(&boss, "mid", &script).await;
    let work = mid.run("go").await.unwrap();
    assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Finished));
    work.settled().in_time().await;
    world.at_rest_with("boss", 1).await;

    let told = |pod: &str, by: &str, of: &str| (pod.to_owned(), by.to_owned(), of.to_owned());
    // The re-emission is the re-emitter's own event: `mid` tells that `sub` has started `leaf`.
    assert_eq!(delegations(&world.history("boss")), [told("mid", "mid", "sub"), told("mid", "sub", "leaf")]);
    assert_eq!(delegations(&world.history("mid")), [told("sub", "sub", "leaf")]);
    for pod in ["boss", "mid"] {
        let history = world.history(pod);
        history.assert_every_event_once_and_in_order();
        let shown = history
            .0
            .iter()
            .filter(|row| matches!(&row.item, HistoryItem::SystemItem(item) if item.text().contains("rights")));
        assert_eq!(shown.count(), 0, "the agent of `{pod}` was shown a delegation");
        // Each turn that reports had started was told something: none was started for a delegation.
        let turns = history.turns().iter().filter(|(_, cause)| *cause == pod::store::TurnCause::Reports).count();
        assert!(turns <= history.told().len(), "{turns} turns for {} reports", history.told().len());
    }
    boss.shutdown().in_time().await;
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delegation_alone_starts_no_turn() {
    let world = world();
    let boss = world.boss().await;
    let script = "runs = [[{spawn = {name = 'leaf', worker = {kind = 'ledger'}}}, {sleep_ms = 600000}]]";
    let mid = scripted(&boss, "mid", script).await;
    let work = mid.run("go").await.unwrap();
    tests::world::until("the delegation is told", || (!delegations(&world.history("boss")).is_empty()).then_some(()))
        .await;
    // It is applied and acked, and was all that came: no turn was started for it.
    tests::world::until("it is acked", || (world.counts("mid").outbox_pending == 0).then_some(())).await;
    let history = world.history("boss");
    assert_eq!((history.turns().len(), history.told().len(), world.counts("boss").inbox_waiting), (0, 0, 0));
    world.client("mid").call(pod::protocol::Cancel).await.unwrap();
    assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Cancelled));
    boss.shutdown().in_time().await;
}
