//! Turns that are counted while the registry is held, and while the tree of the pod becomes another one; in a real pod of this process.

use rpc::CallError;

use super::COUNTING_MAX;
use crate::fixture::{Act, Puppet, Said, within};
use crate::id::{PodId, TurnId, WorkId};
use crate::manifest::Limits;
use crate::protocol::*;
use crate::registry::{Claim, Origin, Place, Registry};
use crate::scope::Confinement;
use crate::spawn::WorkEnd;
use crate::store::{Clock, TurnCause, fixture};
use crate::worker::TurnEnd;

fn client(puppet: &Puppet) -> rpc::Client<Method> {
    rpc::Client::new(&puppet.pod.address())
}

async fn bounded(turns: u64) -> Puppet {
    Puppet::bounded(Limits { turns, ..Limits::default() }).await
}

async fn run(puppet: &Puppet, work: u64) -> Result<Accepted, RunRejection> {
    let request = Run { work: WorkId(work), input: "do it".into() };
    match within("the answer", client(puppet).call(request)).await {
        Ok(accepted) => Ok(accepted),
        Err(CallError::Rejected(rejection)) => Err(rejection),
        Err(error) => panic!("{error}"),
    }
}

/// The same, from its beginning to its end.
async fn run_through(puppet: &mut Puppet, work: u64) -> Result<Accepted, RunRejection> {
    let accepted = run(puppet, work).await?;
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    Ok(accepted)
}

/// A turn for a note, from its beginning to its end.
async fn tell(puppet: &mut Puppet) -> Vec<String> {
    puppet.expect(Said::Started(TurnCause::Reports)).await;
    let told = puppet.told().await;
    puppet.answered().await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    told
}

fn send(
    client: &rpc::Client<Method>,
    key: WorkId,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Sent, CallError<SendToPod>>>>> {
    let client = client.clone();
    Box::pin(async move { client.call(SendToPod { key, how: SendKind::FollowUp, text: "more".into() }).await })
}

/// How many turns the tree of the root `name` has started.
fn spent(puppet: &Puppet, name: &str) -> u64 {
    let conn = rusqlite::Connection::open(puppet.pod.roots().registry()).unwrap();
    let found = conn.query_row("SELECT turns FROM spent WHERE root_name = ?1", [name], |row| row.get::<_, i64>(0));
    found.map_or(0, |turns| u64::try_from(turns).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_ups_that_wait_to_be_counted_are_staged_in_the_order_in_which_they_came_and_those_beyond_the_bound_refused()
 {
    let mut puppet = bounded(1_000).await;
    run(&puppet, 1).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    let held = puppet.pod.shared().member.registry().hold();
    // One is being counted, the others wait. They come on lanes that have room for them, each block behind the one before.
    let mut sent = Vec::new();
    let keys: Vec<_> = (0..=COUNTING_MAX as u64).map(|key| WorkId(100 + key)).collect();
    for keys in keys.chunks(10) {
        let client = client(&puppet);
        for key in keys {
            sent.push(send(&client, *key));
            assert!(futures::poll!(sent.last_mut().unwrap()).is_pending());
        }
        within("that they have come", client.call(Status)).await.unwrap();
    }
    let refused = within("the answer", send(&client(&puppet), WorkId(99))).await;
    let max = u32::try_from(COUNTING_MAX).unwrap();
    assert!(
        matches!(refused, Err(CallError::Rejected(SendRejection::Full { max: said })) if said == max),
        "{refused:?}"
    );
    drop(held);
    for (at, call) in sent.into_iter().enumerate() {
        let answer = within("the answer", call).await;
        match answer {
            Ok(Sent::Staged { turn, .. }) => assert_eq!(turn, TurnId(2 + at as u64), "it has overtaken another"),
            // As many as may wait behind a turn do.
            Err(CallError::Rejected(SendRejection::Full { .. })) if at == COUNTING_MAX => {}
            other => panic!("{at}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_stops_while_a_turn_is_counted_says_so_at_once_and_burns_none() {
    for mode in [ShutdownMode::Now, ShutdownMode::Graceful] {
        let puppet = bounded(9).await;
        let held = puppet.pod.shared().member.registry().hold();
        let client = client(&puppet);
        let request = Run { work: WorkId(1), input: "do it".into() };
        let mut running = std::pin::pin!(client.call(request));
        assert!(futures::poll!(&mut running).is_pending());
        let mut following = send(&client, WorkId(2));
        assert!(futures::poll!(&mut following).is_pending());
        client.call(Shutdown { mode }).await.unwrap();
        // The registry is held still.
        let answer = within("the answer", running).await;
        assert!(matches!(answer, Err(CallError::Rejected(RunRejection::Stopping))), "{answer:?}");
        let answer = within("the answer", following).await;
        assert!(matches!(answer, Err(CallError::Rejected(SendRejection::Stopping))), "{answer:?}");
        drop(held);
        within("the end of the pod", puppet.pod.wait()).await;
        assert_eq!(spent(&puppet, "puppet"), 0, "a turn that did not begin stays counted");
        let works = fixture_works(&puppet).await;
        assert_eq!(works, 0, "what was refused was staged");
    }
}

/// How many works the store of a pod that has ended has.
async fn fixture_works(puppet: &Puppet) -> u64 {
    let name = puppet.pod.id().name.clone();
    let store = crate::store::StoreReader::open(puppet.pod.roots().pod(&name).store()).unwrap();
    store.look(|reads| Ok(reads.works(crate::store::Direction::Received, false)?.len() as u64)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_stops_though_another_process_is_in_the_middle_of_a_transaction_of_the_registry() {
    let puppet = bounded(9).await;
    let held = rusqlite::Connection::open(puppet.pod.roots().registry()).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let client = client(&puppet);
    let mut running = std::pin::pin!(client.call(Run { work: WorkId(1), input: "do it".into() }));
    assert!(futures::poll!(&mut running).is_pending());
    client.call(Shutdown { mode: ShutdownMode::Now }).await.unwrap();
    let answer = within("the answer", running).await;
    assert!(matches!(answer, Err(CallError::Rejected(RunRejection::Stopping | RunRejection::Unavailable { .. }))));
    within("the end of the pod", puppet.pod.wait()).await;
    held.execute_batch("ROLLBACK").unwrap();
    assert_eq!(spent(&puppet, "puppet"), 0);
}

/// Another root of the same user, in its `life`th life.
fn root(puppet: &Puppet, life: u64, turns: u64) -> Place {
    let pod: PodId = fixture::pod("top", 1_000 + life);
    let state_dir = puppet.pod.roots().pod(&pod.name).state_dir().to_owned();
    let limits = Limits { turns, ..Limits::default() }.tree();
    let origin = Origin::Root { limits, scope: None, confinement: Confinement::Off };
    let claim = Claim { pod, worker: "ledger".into(), state_dir, origin };
    Registry::at(puppet.pod.roots()).claim(&claim, Clock::System.now()).unwrap()
}

fn adopt(puppet: &Puppet, place: &Place) {
    Registry::at(puppet.pod.roots()).adopt(place, puppet.pod.id()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_comes_into_a_tree_with_a_bound_has_its_turns_counted_from_then_on() {
    let mut puppet = Puppet::new().await;
    run_through(&mut puppet, 1).await.unwrap();
    adopt(&puppet, &root(&puppet, 1, 2));
    run_through(&mut puppet, 2).await.unwrap();
    puppet.pod.notify("told").await.unwrap();
    assert_eq!(tell(&mut puppet).await, ["told"]);
    let cap = TurnCap::Turns { max: 2 };
    assert_eq!(run(&puppet, 3).await, Err(RunRejection::Cap { cap }));
    puppet.pod.notify("kept").await.unwrap();
    puppet.state(PodState::Blocked).await;
    assert_eq!((spent(&puppet, "top"), spent(&puppet, "puppet")), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_blocked_by_its_tree_goes_on_when_it_comes_into_one_without_a_bound() {
    let mut puppet = bounded(1).await;
    run_through(&mut puppet, 1).await.unwrap();
    puppet.pod.notify("kept").await.unwrap();
    puppet.state(PodState::Blocked).await;
    adopt(&puppet, &root(&puppet, 1, 0));
    assert_eq!(tell(&mut puppet).await, ["kept"]);
    for work in 2..5 {
        run_through(&mut puppet, work).await.unwrap();
    }
    assert_eq!((spent(&puppet, "top"), spent(&puppet, "puppet")), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_blocked_by_its_tree_goes_on_when_the_root_comes_back_with_a_higher_bound() {
    let mut puppet = Puppet::new().await;
    let first = root(&puppet, 1, 1);
    adopt(&puppet, &first);
    run_through(&mut puppet, 1).await.unwrap();
    puppet.pod.notify("kept").await.unwrap();
    puppet.state(PodState::Blocked).await;
    let registry = Registry::at(puppet.pod.roots());
    assert!(registry.give_back(&first.pod).unwrap());
    // Its store says that it is the same root.
    let store = puppet.pod.roots().pod(&first.pod.name).store();
    std::fs::create_dir_all(store.parent().unwrap()).unwrap();
    std::fs::write(&store, "").unwrap();
    let place = root(&puppet, 2, 2);
    assert_eq!(registry.place(puppet.pod.id()).unwrap().map(|found| found.root), Some(place.root));
    assert_eq!(tell(&mut puppet).await, ["kept"]);
    assert_eq!(run(&puppet, 2).await, Err(RunRejection::Cap { cap: TurnCap::Turns { max: 2 } }));
    assert_eq!(spent(&puppet, "top"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn turn_that_runs_when_the_time_of_its_tree_is_over_has_reached_a_limit_and_no_other_is_started() {
    for is_deaf in [false, true] {
        let mut puppet = Puppet::bounded(Limits { tree_seconds: 3_600, ..Limits::default() }).await;
        let work = puppet.pod.run("do it").await.unwrap();
        puppet.expect(Said::Started(TurnCause::Run)).await;
        if !is_deaf {
            puppet.act(Act::EndWhenAsked(TurnEnd::Cancelled)).await;
        }
        // As if it had been so long.
        let registry = rusqlite::Connection::open(puppet.pod.roots().registry()).unwrap();
        registry.busy_timeout(crate::fixture::SOON).unwrap();
        crate::store::install_sums(&registry).unwrap();
        registry.execute("UPDATE trees SET ends_at = 1", []).unwrap();
        if !is_deaf {
            puppet.expect(Said::Asked).await;
        }
        assert_eq!(within("the end", work.ended()).await, WorkEnd::TurnEnded(TurnResult::LimitReached));
        assert_eq!(within("the end", work.settled()).await, WorkResult::LimitReached);
        puppet.state(PodState::Idle).await;
        let cap = TurnCap::WallTime { max_seconds: 3_600 };
        assert_eq!(run(&puppet, 2).await, Err(RunRejection::Cap { cap }));
        let follow_up = within("the answer", send(&client(&puppet), WorkId(3))).await;
        let Err(CallError::Rejected(SendRejection::Cap { cap: said })) = follow_up else { panic!("{follow_up:?}") };
        assert_eq!(said, cap);
        puppet.pod.notify("kept").await.unwrap();
        puppet.state(PodState::Blocked).await;
        let status = puppet.pod.status().await.unwrap();
        assert_eq!((status.blocked_by, status.inbox_waiting), (Some(cap), 1));
        // It has more time, as when its root was started again.
        registry.execute("UPDATE trees SET ends_at = NULL", []).unwrap();
        if is_deaf {
            // The worker that was ended had one thing left to hear.
            puppet.expect(Said::Started(TurnCause::Reports)).await;
        } else {
            assert_eq!(tell(&mut puppet).await, ["kept"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn turn_that_takes_longer_than_its_pod_allows_has_reached_a_limit_and_the_next_one_is_started() {
    let mut puppet = Puppet::bounded(Limits { turn_seconds: 1, ..Limits::default() }).await;
    let work = puppet.pod.run("do it").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.act(Act::EndWhenAsked(TurnEnd::Cancelled)).await;
    puppet.expect(Said::Asked).await;
    assert_eq!(within("the end", work.settled()).await, WorkResult::LimitReached);
    puppet.state(PodState::Idle).await;
    run(&puppet, 2).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn turn_that_was_counted_and_not_taken_is_no_way_past_the_time_of_the_tree_and_is_given_back() {
    let puppet = Puppet::bounded(Limits { turns: 9, tree_seconds: 3_600, ..Limits::default() }).await;
    let refuse = "CREATE TRIGGER held BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'held by a test'); END";
    puppet.pod.store().write(move |tx| tx.run(refuse, [])).await.unwrap();
    for work in 1..4 {
        assert!(matches!(run(&puppet, work).await, Err(RunRejection::Unavailable { .. })));
    }
    assert_eq!(spent(&puppet, "puppet"), 1, "each was counted anew");
    puppet.pod.store().write(|tx| tx.run("DROP TRIGGER held", [])).await.unwrap();
    let registry = rusqlite::Connection::open(puppet.pod.roots().registry()).unwrap();
    registry.busy_timeout(crate::fixture::SOON).unwrap();
    crate::store::install_sums(&registry).unwrap();
    registry.execute("UPDATE trees SET ends_at = 1", []).unwrap();
    let cap = TurnCap::WallTime { max_seconds: 3_600 };
    assert_eq!(run(&puppet, 5).await, Err(RunRejection::Cap { cap }));
    within("the end of the pod", puppet.pod.shutdown()).await;
    assert_eq!(spent(&puppet, "puppet"), 0, "a turn that did not begin stays counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn turn_that_was_counted_in_another_tree_starts_none_in_this_one() {
    let puppet = bounded(9).await;
    let refuse = "CREATE TRIGGER held BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'held by a test'); END";
    puppet.pod.store().write(move |tx| tx.run(refuse, [])).await.unwrap();
    assert!(matches!(run(&puppet, 1).await, Err(RunRejection::Unavailable { .. })));
    puppet.pod.store().write(|tx| tx.run("DROP TRIGGER held", [])).await.unwrap();
    let place = root(&puppet, 1, 1);
    let registry = Registry::at(puppet.pod.roots());
    registry.take_turn(&place.pod, Clock::System.now()).unwrap().unwrap();
    adopt(&puppet, &place);
    let cap = TurnCap::Turns { max: 1 };
    assert_eq!(run(&puppet, 2).await, Err(RunRejection::Cap { cap }));
    assert_eq!(spent(&puppet, "top"), 1);
}
