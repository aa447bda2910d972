//! A child whose parent is dead becomes another pod's: with its watermark and its works, and never two pods' at once.

use pod::life_lock;
use pod::protocol::{Adopt, AdoptRejection};
use pod::store::{Direction, HistoryItem};
use pod::{Terminal, WorkResult, WorkerSpec};
use rpc::CallError;
use tests::world::{Ask, HostProcess, World, until};

use crate::world;

/// The pod `old` is dead, and its detached child `a` has reported two events of five and works on.
async fn orphan(world: &World) -> (u32, pod::WorkId) {
    let mut old = HostProcess::start(world, "old", None).await.unwrap();
    let pid = old
        .spawn_detached("a", WorkerSpec::command(format!("[ $POD_INPUT = now ] || {}", World::waits_for("go"))))
        .await;
    let first = old.run("a", "now").await.unwrap();
    old.ask(Ask::Ended { work: first }).await.unwrap();
    until("its events are acked", || (world.counts("a").outbox_acked.0 == 2).then_some(())).await;
    let second = old.run("a", "later").await.unwrap();
    until("its program runs", || (world.processes().len() >= 3).then_some(())).await;
    old.kill().await;
    (pid, second)
}

fn adopt() -> Ask {
    Ask::Adopt { child: "a".parse().unwrap(), from: "old".parse().unwrap() }
}

/// Whose child `a` is: the pods in whose stores its life is not over.
fn holders(world: &World) -> Vec<&'static str> {
    let holds =
        |pod: &&str| world.look(pod, |reads| reads.live_children()).iter().any(|row| row.pod.name.as_str() == "a");
    ["old", "new"].into_iter().filter(holds).collect()
}

fn has(world: &World, pod: &str, is: impl Fn(&HistoryItem) -> bool) -> bool {
    world.history(pod).0.iter().any(|row| is(&row.item))
}

#[tokio::test(flavor = "multi_thread")]
async fn adopted_child_goes_on_at_its_new_parent_and_the_old_one_is_told_when_it_is_back() {
    let world = world();
    let mut new = HostProcess::start(&world, "new", None).await.unwrap();
    let (pid, work) = orphan(&world).await;
    new.ask(adopt()).await.unwrap();
    assert_eq!(holders(&world), ["new"]);
    // Once more is as good as once.
    new.ask(adopt()).await.unwrap();
    world.touch("go");
    world.at_rest_with("new", 1).await;
    let history = world.history("new");
    assert_eq!(history.settled(work), [WorkResult::Finished]);
    let stream = world.stream("a");
    let watermark = |pod: &str| world.look(pod, |reads| reads.watermark(stream)).0;
    assert_eq!((watermark("old"), watermark("new")), (2, 4), "its events go on where the old parent had come to");
    assert_eq!(history.told_of("a").len(), 2, "events of the old parent are told again, or new ones are missing");

    // The old one comes back: it is not the holder any more, waits for nothing, and says so.
    let old = HostProcess::start(&world, "old", None).await.unwrap();
    world.at_rest("old").await;
    assert_eq!((holders(&world), world.history("old").terminals("a")), (vec!["new"], vec![]));
    assert!(has(&world, "old", |item| matches!(item, HistoryItem::ChildMoved { .. })));
    let told = |item: &HistoryItem| matches!(item, HistoryItem::SystemItem(item) if item.text().contains("adopted by pod `new`"));
    until("its agent is told", || has(&world, "old", told).then_some(())).await;
    let lost = world.look("old", |reads| reads.works(Direction::Delegated, false));
    assert!(lost.iter().all(|work| work.result.is_some()), "{lost:?}");
    assert!(world.processes().contains(&pid));

    // It works for the new one like any other child, and ends when that says so.
    let third = new.run("a", "now").await.unwrap();
    assert_eq!(new.ask(Ask::Ended { work: third }).await.unwrap(), "TurnEnded(Finished)");
    new.ask(Ask::Stop { child: "a".parse().unwrap(), grace_ms: 30_000 }).await.unwrap();
    assert_eq!(world.history("new").terminals("a"), [Terminal::ShutDown]);
    world.history("new").assert_one_terminal_a_life();
    world.history("old").assert_one_terminal_a_life();
    for mut host in [old, new] {
        host.ask(Ask::Shutdown).await.unwrap();
        assert!(host.wait().await.success());
    }
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_of_a_parent_that_lives_is_not_adopted_nor_is_one_that_is_not_there() {
    let world = world();
    let mut old = HostProcess::start(&world, "old", None).await.unwrap();
    old.spawn_detached("a", WorkerSpec::ledger()).await;
    let mut new = HostProcess::start(&world, "new", None).await.unwrap();
    let client = world.client("new");
    let ask =
        |child: &str, from: &str| client.call(Adopt { child: child.parse().unwrap(), from: from.parse().unwrap() });
    let Err(CallError::Rejected(AdoptRejection::ParentLives { holder })) = ask("a", "old").await else {
        panic!("it was taken from a parent that lives")
    };
    assert!(holder.contains(&old.pid().to_string()), "{holder}");
    assert_eq!(holders(&world), ["old"]);
    old.kill().await;
    for (child, from) in [("b", "old"), ("a", "nobody"), ("a", "new"), ("new", "old")] {
        let refused = ask(child, from).await;
        assert!(matches!(refused, Err(CallError::Rejected(_))), "{child} of {from}: {refused:?}");
    }
    assert_eq!(holders(&world), ["old"]);
    let mut again = HostProcess::start(&world, "old", None).await.unwrap();
    world.at_rest_with("old", 1).await;
    again.ask(Ask::Stop { child: "a".parse().unwrap(), grace_ms: 30_000 }).await.unwrap();
    for host in [&mut again, &mut new] {
        host.ask(Ask::Shutdown).await.unwrap();
        host.wait().await;
    }
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adopter_that_is_killed_at_any_step_leaves_the_child_with_one_parent() {
    // Where the adopter dies, who is back first, and whose the child is then.
    let table = [
        ("adopt_after_copy", "new", "new"),
        ("adopt_after_copy", "old", "old"),
        ("adopt_after_mark", "new", "new"),
        ("adopt_after_mark", "old", "new"),
        ("adopt_after_take", "new", "new"),
        ("adopt_after_take", "old", "new"),
    ];
    for (place, first, holder) in table {
        let world = world();
        let mut new = HostProcess::start(&world, "new", Some(place)).await.unwrap();
        let (_, work) = orphan(&world).await;
        new.ask(adopt()).await.expect_err("it dies on the way");
        new.wait().await;
        let mut hosts = vec![HostProcess::start(&world, first, None).await.unwrap()];
        // Whoever is first has decided what it is before the other is there.
        let decided = || {
            let begun = world.look("new", |reads| reads.live_children()).is_empty();
            (first == "old" || !begun).then_some(())
        };
        until("it is decided", decided).await;
        // Whoever adopts holds the old parent's lock until it is done.
        let lock = world.roots().pod(&"old".parse().unwrap()).life_lock();
        let free = || matches!(life_lock::probe(&lock), Ok(life_lock::Life::Free));
        until("the lock is free", || (first == "old" || free()).then_some(())).await;
        hosts.push(HostProcess::start(&world, if first == "new" { "old" } else { "new" }, None).await.unwrap());
        until("it has one parent", || (holders(&world) == [holder]).then_some(())).await;
        world.touch("go");
        world.at_rest_with(holder, 1).await;
        assert_eq!(holders(&world), [holder], "{place}, {first} first");
        let history = world.history(holder);
        assert_eq!(history.settled(work), [WorkResult::Finished], "{place}, {first} first");
        // Every event is with one of them, once: the old parent's end where the new one's begin.
        let stream = world.stream("a");
        let applied = |pod: &str| world.history(pod).told_of("a").len() as u64;
        until("all is told", || (applied("old") + applied("new") == 4).then_some(())).await;
        assert_eq!(world.look(holder, |reads| reads.watermark(stream)).0, 4, "{place}, {first} first");
        let at = hosts.iter().position(|_| first == holder).unwrap_or(1);
        hosts[at].ask(Ask::Stop { child: "a".parse().unwrap(), grace_ms: 30_000 }).await.unwrap();
        assert_eq!(world.history(holder).terminals("a"), [Terminal::ShutDown], "{place}, {first} first");
        for mut host in hosts {
            host.ask(Ask::Shutdown).await.unwrap();
            assert!(host.wait().await.success());
        }
        world.deserted().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn adoption_that_is_asked_for_by_many_at_once_and_at_a_restart_is_done_once() {
    let world = world();
    let mut new = HostProcess::start(&world, "new", Some("adopt_after_copy")).await.unwrap();
    let (_, work) = orphan(&world).await;
    new.ask(adopt()).await.expect_err("it dies on the way");
    new.wait().await;
    // It goes on with what it had begun, and is asked at the same time.
    let mut new = HostProcess::start(&world, "new", None).await.unwrap();
    let client = world.client("new");
    let ask = || Adopt { child: "a".parse().unwrap(), from: "old".parse().unwrap() };
    let asks = (0..4).map(|_| async { client.call(ask()).await });
    for asked in futures::future::join_all(asks).await {
        let adopted = asked.unwrap_or_else(|error| panic!("one of them was refused: {error}"));
        assert_eq!(adopted.child.name.as_str(), "a");
    }
    assert_eq!(holders(&world), ["new"]);
    world.touch("go");
    world.at_rest_with("new", 1).await;
    assert_eq!(world.history("new").settled(work), [WorkResult::Finished]);
    let adopted = |item: &HistoryItem| matches!(item, HistoryItem::ChildAdopted { .. });
    assert_eq!(world.history("new").0.iter().filter(|row| adopted(&row.item)).count(), 1);
    new.ask(Ask::Stop { child: "a".parse().unwrap(), grace_ms: 30_000 }).await.unwrap();
    new.ask(Ask::Shutdown).await.unwrap();
    new.wait().await;
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_does_not_become_the_child_of_one_that_is_below_it() {
    let world = world();
    let mut old = HostProcess::start(&world, "old", None).await.unwrap();
    let script = "runs = [[{ spawn = { name = 'below', worker = { kind = 'ledger' }, lifetime = 'detached' } }]]";
    old.spawn_detached("mid", WorkerSpec::scripted(script, "a test").unwrap()).await;
    let work = old.run("mid", "go").await.unwrap();
    assert_eq!(old.ask(Ask::Ended { work }).await.unwrap(), "TurnEnded(Finished)");
    old.kill().await;
    let client = world.client("below");
    let refused = client.call(Adopt { child: "mid".parse().unwrap(), from: "old".parse().unwrap() }).await;
    let Err(CallError::Rejected(AdoptRejection::Refused { reason })) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("`below` is below `mid`"), "{reason}");
    // Nothing of it is left: its old parent, back again, has it.
    let mut old = HostProcess::start(&world, "old", None).await.unwrap();
    world.at_rest_with("old", 1).await;
    assert!(world.look("below", |reads| reads.live_children()).is_empty());
    assert_eq!(old.ask(Ask::Stop { child: "mid".parse().unwrap(), grace_ms: 30_000 }).await.unwrap(), "ShutDown");
    old.ask(Ask::Shutdown).await.unwrap();
    old.wait().await;
}
