//! A tree of which one store is an older copy: what was reported since is never mistaken for something else, and what is
//! missing is told. A tree that was moved is whole where it is; a copy does not touch the original.

use std::path::Path;
use std::time::Duration;

use pod::protocol::PodEvent;
use pod::store::HistoryItem;
use pod::{Child, PodHandle, Roots, Terminal, WorkEnd};
use tests::world::{InTime as _, World, until};

use crate::ends::scripted;
use crate::world;

const SAYS: &str = "runs = [[{say = 'one'}], [{say = 'two'}], [{say = 'three'}]]";

/// Gives `child` one work and waits until its parent has heard of its end.
async fn work(world: &World, child: &Child) {
    let work = child.run("go").await.unwrap();
    assert!(matches!(work.ended().in_time().await, WorkEnd::TurnEnded(_)));
    work.settled().in_time().await;
    let name = child.id().name.to_string();
    until("the child knows that all is acked", || (world.counts(&name).outbox_pending == 0).then_some(())).await;
}

async fn life(world: &World, boss: &PodHandle, works: usize) {
    let child = scripted(boss, "a", SAYS).await;
    for _ in 0..works {
        work(world, &child).await;
    }
    assert_eq!(child.stop(Duration::from_secs(10)).await.unwrap(), Terminal::ShutDown);
}

/// What `cp -a` does, of a pod that does not run.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, private).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn noted(world: &World, pod: &str, kind: &str) -> usize {
    world.history(pod).0.iter().filter(|row| row.item.kind() == kind).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn child_restored_from_an_old_copy_goes_on_behind_what_its_parent_has_and_says_so() {
    let world = world();
    let boss = world.boss().await;
    life(&world, &boss, 1).await;
    let (there, backup) = (world.root().join("state/a"), world.root().join("backup"));
    copy(&there, &backup);
    life(&world, &boss, 2).await;
    world.at_rest_with("boss", 0).await;
    let before = world.history("boss").told_of("a").len();
    copy(&backup, &there);

    let child = scripted(&boss, "a", SAYS).await;
    work(&world, &child).await;
    world.at_rest_with("boss", 1).await;
    let told = world.history("boss").told_of("a").split_off(before);
    // That it is older, and the two events of its work: none of them taken for one that the parent has.
    let kinds: Vec<&str> = told.iter().map(PodEvent::kind).collect();
    assert_eq!(kinds, ["errored", "turn_ended", "work_settled"], "{told:?}");
    assert!(matches!(&told[0], PodEvent::Errored { message, .. } if message.contains("older copy")), "{told:?}");
    assert_eq!(noted(&world, "a", "older_than_parent"), 1);
    boss.shutdown().in_time().await;
    let history = world.history("boss");
    history.assert_every_event_once_and_in_order();
    history.assert_one_terminal_a_life();
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parent_restored_from_an_old_copy_is_told_at_once_what_it_lacks() {
    let world = world();
    let boss = world.boss().await;
    life(&world, &boss, 1).await;
    boss.shutdown().in_time().await;
    let (there, backup) = (world.root().join("state/boss"), world.root().join("backup"));
    copy(&there, &backup);
    let boss = world.boss().await;
    life(&world, &boss, 2).await;
    boss.shutdown().in_time().await;
    copy(&backup, &there);

    let boss = world.boss().await;
    let child = scripted(&boss, "a", SAYS).await;
    // It is given nothing to do: what is missing is told all the same.
    let gap =
        until("the gap is told", || world.history("boss").told_of("a").into_iter().find(|event| event.kind() == "gap"))
            .await;
    // A life reports two events for each work and its end.
    assert!(matches!(gap, PodEvent::Gap { from, to, .. } if (from.0, to.0) == (4, 8)), "{gap:?}");
    work(&world, &child).await;
    assert_eq!(noted(&world, "a", "newer_than_parent"), 1);
    world.at_rest_with("boss", 1).await;
    boss.shutdown().in_time().await;
    let history = world.history("boss");
    let places: Vec<u64> = history.told().iter().filter_map(|(key, _)| key.map(|key| key.seq.0)).collect();
    // Its last word may not be told any more; the gap has the places of all that is missing, and nothing else.
    assert!(places.starts_with(&[1, 2, 3, 8, 9, 10]), "{places:?}");
    history.assert_one_terminal_a_life();
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_of_a_tree_that_lives_does_not_start_and_does_not_touch_the_original() {
    let world = world();
    let boss = world.boss().await;
    let child = scripted(&boss, "a", SAYS).await;
    work(&world, &child).await;
    world.at_rest_with("boss", 1).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("moved");
    copy(&world.root().join("state"), &moved.join("state"));
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&moved, private).unwrap();
    let roots = Roots::at(&moved).unwrap();
    let options = world.options("boss", pod::WorkerSpec::ledger()).roots(roots.clone());
    let refused = pod::PodController::spawn(options).await;
    assert!(matches!(refused, Err(pod::StartError::Registry { .. })), "{:?}", refused.err());

    // The original lives, can be talked to, and has lost nothing.
    work(&world, &child).await;
    boss.shutdown().in_time().await;
    let history = world.history("boss");
    assert_eq!(history.terminals("a"), [Terminal::ShutDown]);
    history.assert_every_event_once_and_in_order();
    world.deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tree_that_was_moved_while_it_did_not_run_has_everything_where_it_is() {
    let world = world();
    let boss = world.boss().await;
    life(&world, &boss, 1).await;
    boss.shutdown().in_time().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("moved");
    std::fs::create_dir(&moved).unwrap();
    std::fs::set_permissions(&moved, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::rename(world.root().join("state"), moved.join("state")).unwrap();
    let roots = Roots::at(&moved).unwrap();
    let options = world.options("boss", pod::WorkerSpec::ledger()).roots(roots.clone());
    let boss = pod::PodController::spawn(options).await.unwrap();
    let child = scripted(&boss, "a", SAYS).await;
    let work = child.run("go").await.unwrap();
    work.settled().in_time().await;
    boss.shutdown().in_time().await;
    let store = pod::store::StoreReader::open(roots.pod(&"boss".parse().unwrap()).store()).unwrap();
    let history = store.look(|reads| reads.history_after(0, 10_000)).unwrap();
    let history = tests::world::History(history);
    history.assert_every_event_once_and_in_order();
    assert_eq!(history.terminals("a"), [Terminal::ShutDown, Terminal::ShutDown]);
    let terminals = history.0.iter().filter(|row| matches!(row.item, HistoryItem::ChildTerminal { .. })).count();
    assert_eq!(terminals, 2);
    world.deserted().await;
}
