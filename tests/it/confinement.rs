//! What a pod's programs can do outside of its scope: nothing, where the kernel has Landlock.

use std::path::PathBuf;

use pod::protocol::SCOPE_RULES_MAX;
use pod::scope::{Confinement, Permission, ScopeRule, kernel_confinement};
use pod::store::HistoryItem;
use pod::{SpawnError, SpawnPod, Terminal, TurnResult, WorkEnd, WorkerSpec};
use rustix::process::{Pid, Signal};
use tests::world::{InTime as _, World, until};

use crate::world;

/// Directories `in` and `out` beside the pods' own, with a secret outside.
fn places(world: &World) -> (PathBuf, PathBuf) {
    let root = world.root().canonicalize().unwrap();
    let (inside, outside) = (root.join("in"), root.join("out"));
    for dir in [&inside, &outside, &inside.join("sub")] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write(outside.join("secret"), "secret of somebody else").unwrap();
    std::fs::hard_link(outside.join("secret"), outside.join("second-name")).unwrap();
    (inside, outside)
}

/// Says that there is no Landlock here.
const NO_LANDLOCK: &str = "POD_TEST_NO_LANDLOCK";

fn rule(path: &std::path::Path, permission: Permission) -> ScopeRule {
    ScopeRule::below(path.to_str().unwrap(), permission)
}

/// Whether the kernel has Landlock. A test that was left out is no test that has passed: where it has not, somebody has to say so.
fn can_confine() -> bool {
    if kernel_confinement() != Confinement::Off {
        return true;
    }
    let said = std::env::var_os(NO_LANDLOCK).is_some();
    assert!(
        said,
        "this kernel has no Landlock, and nothing is known of confined programs; set {NO_LANDLOCK}=1 where that is so"
    );
    eprintln!("SKIPPED, as {NO_LANDLOCK} says: nothing is known of confined programs");
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn program_of_a_scoped_pod_writes_inside_and_reaches_nothing_outside() {
    if !can_confine() {
        return;
    }
    let world = world();
    let boss = world.boss().await;
    let (inside, outside) = places(&world);
    let (i, o) = (inside.display(), outside.display());
    let command = format!(
        "echo mine > '{i}/f' && cat '{i}/f' && mkdir '{i}/new' && echo below > '{i}/new/f' && echo inside-works
         echo theirs > '{o}/f' || echo unwritten
         cat '{o}/secret' || echo unread
         ls '{o}' || echo unlisted
         mv '{i}/f' '{o}/g' || echo unmoved
         ln '{o}/secret' '{i}/linked' || echo unlinked
         rm -f '{o}/secret' || echo unremoved
         ln -s '{o}/secret' '{i}/soft'; cat '{i}/soft' || echo unfollowed
         echo told: ${{POD_CONFINE-nothing}}; exit 0"
    );
    let spawn = SpawnPod::new("a".parse().unwrap(), WorkerSpec::command(command));
    let child = boss.spawn_pod(spawn.scope(vec![rule(&inside, Permission::Write)])).await.unwrap();
    let work = child.run("go").await.unwrap();
    let end = work.ended().in_time().await;
    let said = world.history("a").outputs().concat();
    assert_eq!(end, WorkEnd::TurnEnded(TurnResult::Finished), "{said}");
    let expected = [
        "inside-works",
        "unwritten",
        "unread",
        "unlisted",
        "unmoved",
        "unlinked",
        "unremoved",
        "unfollowed",
        "told: nothing",
    ];
    for word in expected {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    assert!(!said.contains("secret of somebody else"), "{said}");
    assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "secret of somebody else");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 2, "something was made outside");
    let levels = world.history("a").0.into_iter().filter_map(|row| match row.item {
        HistoryItem::Worker { what, detail } if what == "confinement" => {
            detail["effective"].as_str().map(str::to_owned)
        }
        _ => None,
    });
    assert_eq!(levels.collect::<Vec<_>>(), [kernel_confinement().word()]);
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_that_a_sibling_writes_is_refused_by_its_name_and_is_free_after_its_end() {
    let world = world();
    let boss = world.boss().await;
    let (inside, _) = places(&world);
    let spawn = |name: &str, path: &std::path::Path| {
        SpawnPod::new(name.parse().unwrap(), WorkerSpec::ledger()).scope(vec![rule(path, Permission::Write)])
    };
    let first = boss.spawn_pod(spawn("first", &inside)).await.unwrap();
    assert_eq!(boss.scope().at(&inside), Permission::Read, "what is lent is not written");
    let before = world.history("boss").0.len();
    let error = boss.spawn_pod(spawn("second", &inside.join("sub"))).await.unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(matches!(error, SpawnError::Scope { .. }) && source.contains("`first`"), "{error}: {source}");
    assert_eq!(world.history("boss").0.len(), before, "something was recorded");
    assert!(!world.root().join("state/second").exists(), "something was made");
    // Killed, not stopped: its right comes back all the same, once.
    let pid = boss.children()[0].pid.unwrap();
    rustix::process::kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    until("its right is back", || (boss.scope().at(&inside) == Permission::Write).then_some(())).await;
    assert!(matches!(first.terminal().in_time().await, Ok(Terminal::Lost { .. })));
    let second = boss.spawn_pod(spawn("second", &inside.join("sub"))).await.unwrap();
    assert_eq!(boss.scope().at(&inside.join("sub")), Permission::Read);
    second.stop(std::time::Duration::from_secs(5)).in_time().await.unwrap();
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn way_that_a_program_has_turned_into_a_link_leads_its_next_turn_nowhere() {
    if !can_confine() {
        return;
    }
    let world = world();
    let boss = world.boss().await;
    let (inside, outside) = places(&world);
    let (i, o) = (inside.display(), outside.display());
    for dir in [inside.join("x/y"), outside.join("y")] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write(outside.join("y/f"), "untouched").unwrap();
    let command = format!(
        "if [ \"$POD_INPUT\" = first ]; then mv '{i}/x' '{i}/x0' && ln -s '{o}' '{i}/x' && echo swapped; exit 0; fi
         echo mine > '{i}/x/y/f' || echo unwritten; cat '{i}/x/y/f' || echo unread; exit 0"
    );
    let scope = vec![rule(&inside, Permission::Write), rule(&inside.join("x/y"), Permission::Write)];
    let spawn = SpawnPod::new("a".parse().unwrap(), WorkerSpec::command(command)).scope(scope);
    let child = boss.spawn_pod(spawn.clone()).await.unwrap();
    for input in ["first", "second"] {
        let work = child.run(input).await.unwrap();
        assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Finished));
    }
    let said = world.history("a").outputs().concat();
    for word in ["swapped", "unwritten", "unread"] {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    // Its next life is given the same, as it is named.
    child.stop(std::time::Duration::from_secs(5)).in_time().await.unwrap();
    let child = boss.spawn_pod(spawn).await.unwrap();
    let work = child.run("third").await.unwrap();
    assert_eq!(work.ended().in_time().await, WorkEnd::TurnEnded(TurnResult::Finished));
    assert_eq!(std::fs::read_to_string(outside.join("y/f")).unwrap(), "untouched");
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_of_many_long_paths_is_told_to_its_programs_whole() {
    let world = world();
    let boss = world.boss().await;
    let (inside, _) = places(&world);
    // Each quotation mark takes two bytes on its way.
    let long = format!("/{}", "\"".repeat(250)).repeat(14);
    let at = |number: usize| PathBuf::from(format!("{}/{number}{long}", inside.display()));
    let mut rules = vec![rule(&inside, Permission::Write)];
    rules.extend((0..SCOPE_RULES_MAX - 1).map(|number| rule(&at(number), Permission::Deny)));
    let spawn = SpawnPod::new("a".parse().unwrap(), WorkerSpec::command("echo told; cat; exit 0"));
    let child = boss.spawn_pod(spawn.scope(rules)).await.unwrap();
    let work = child.run("go").await.unwrap();
    let end = work.ended().in_time().await;
    // More than one argument or variable of a program may have; and nothing of it is left on its input.
    assert_eq!(end, WorkEnd::TurnEnded(TurnResult::Finished), "{:?}", world.history("a").outputs());
    assert_eq!(world.history("a").outputs().concat(), "told\n");
    boss.shutdown().in_time().await;
}
