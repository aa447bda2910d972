//! Programs that have left the group, the parent and the mark of the pod that ran them; and signals that come early.

use std::path::PathBuf;

use pod::{PodHandle, SpawnPod, Terminal, WorkResult, WorkerSpec};
use rustix::process::{Pid, Signal, kill_process};
use tests::world::{Ask, HostProcess, InTime as _, World, until};

use crate::world;

/// A program that nobody's parent, group or environment leads to; it is ended by what its shell does, or after a minute.
struct Stray {
    pid: u32,
    gate: PathBuf,
}

impl Stray {
    /// What a pod runs to leave one behind: `begin` stands before its shell.
    fn left_by(world: &World, name: &str, begin: &str) -> String {
        let place = world.root().join(name);
        let place = place.display();
        // The subshell forks it and is gone; it waits for its gate.
        format!(
            "(setsid {begin} /bin/sh -c 'echo $$ >{place}; \
             i=0; while [ ! -e {place}-gate ] && [ $i -lt 3000 ]; do sleep 0.02; i=$((i+1)); done' \
             </dev/null >/dev/null 2>&1 &)
             until [ -s {place} ]; do sleep 0.02; done; exit 0"
        )
    }

    async fn found(world: &World, name: &str) -> Self {
        let place = world.root().join(name);
        let pid = until("the stray runs", || std::fs::read_to_string(&place).ok()?.trim().parse().ok()).await;
        Self { pid, gate: world.root().join(format!("{name}-gate")) }
    }

    /// Its state and its parent; none if no such process is left, dead or alive.
    fn stat(&self) -> Option<(char, u32)> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
    }

    fn lives(&self) -> bool {
        self.stat().is_some_and(|(state, _)| state != 'Z')
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        // No signal: a test that fails leaves a number that may be anybody's.
        let _ = std::fs::write(&self.gate, "");
    }
}

/// The child `a`, whose one turn has left `stray` behind, and its process.
async fn child_with_a_stray(world: &World, boss: &PodHandle, begin: &str) -> (pod::Child, u32, Stray) {
    let spawn = SpawnPod::new("a".parse().unwrap(), WorkerSpec::command(Stray::left_by(world, "stray", begin)));
    let child = boss.spawn_pod(spawn).await.unwrap();
    assert_eq!(child.run("go").await.unwrap().settled().in_time().await, WorkResult::Finished);
    let line = boss.children().into_iter().find(|line| line.pod == *child.id());
    (child, line.and_then(|line| line.pid).unwrap(), Stray::found(world, "stray").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn program_without_a_group_a_parent_and_a_mark_is_below_its_pod_and_ends_with_it() {
    let world = world();
    let boss = world.boss().await;
    let (child, pod, stray) = child_with_a_stray(&world, &boss, "env -i").await;
    assert_eq!(stray.stat().map(|(_, parent)| parent), Some(pod), "it is not below the pod that ran it");
    // Its turn is over: as long as its pod lives, so may it.
    assert!(stray.lives());
    let terminal = child.stop(std::time::Duration::from_secs(600)).in_time().await.unwrap();
    assert_eq!(terminal, Terminal::ShutDown);
    assert!(!stray.lives(), "its pod has ended, and it has not");
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_says_that_it_is_a_pod_ends_with_its_pod_all_the_same() {
    for says in ["POD_BACKGROUND=1", "POD_CHILD='{}'"] {
        let world = world();
        let boss = world.boss().await;
        let (child, _, stray) = child_with_a_stray(&world, &boss, &format!("env -u POD_LIFE {says}")).await;
        child.stop(std::time::Duration::from_secs(600)).in_time().await.unwrap();
        assert!(!stray.lives(), "{says}");
        boss.shutdown().in_time().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_is_another_process_at_every_moment_ends_with_its_pod() {
    let world = world();
    let boss = world.boss().await;
    let place = world.root().join("hops");
    let place = place.display();
    // It forks, and its parent exits, every 10 ms; for a minute at most.
    let hopper = format!(
        "(setsid env -i /bin/sh -c 'f() {{ echo $1 >{place}; sleep 0.01; [ -e {place}-gate ] || [ $1 -gt 3000 ] || f $(($1+1)) & }}; f 0' \
          </dev/null >/dev/null 2>&1 &)
         until [ -s {place} ]; do sleep 0.02; done; exit 0"
    );
    let child = boss.spawn_pod(SpawnPod::new("a".parse().unwrap(), WorkerSpec::command(hopper))).await.unwrap();
    assert_eq!(child.run("go").await.unwrap().settled().in_time().await, WorkResult::Finished);
    let hops = || {
        let told = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
        let lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| told(entry.ok()?));
        lines.filter(|line| String::from_utf8_lossy(line).contains(&format!("{place}-gate"))).count()
    };
    until("it hops", || {
        (std::fs::read_to_string(world.root().join("hops")).ok()?.trim().parse::<u32>().ok()? > 2).then_some(())
    })
    .await;
    child.stop(std::time::Duration::from_secs(600)).in_time().await.unwrap();
    let left = hops();
    std::fs::write(format!("{place}-gate"), "").unwrap();
    assert_eq!(left, 0, "it has got away");
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_is_deaf_to_signals_ends_with_its_pod_too() {
    let world = world();
    let boss = world.boss().await;
    let (child, _, stray) =
        child_with_a_stray(&world, &boss, "env -i /bin/sh -c 'trap \"\" TERM; exec \"$@\"' sh").await;
    child.stop(std::time::Duration::from_secs(600)).in_time().await.unwrap();
    assert!(!stray.lives());
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_program_that_was_left_to_its_pod_does_not_stay_a_zombie() {
    let world = world();
    let boss = world.boss().await;
    let (_child, pod, stray) = child_with_a_stray(&world, &boss, "").await;
    assert_eq!(stray.stat().map(|(_, parent)| parent), Some(pod));
    std::fs::write(&stray.gate, "").unwrap();
    until("it is dead and reaped", || stray.stat().is_none().then_some(())).await;
    // The pod has lost nothing by that: its next turn's program is its own, and its exit code is heard.
    assert_eq!(_child.run("go").await.unwrap().settled().in_time().await, WorkResult::Finished);
    boss.shutdown().in_time().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_pod_leaves_behind_is_its_parents_to_end_and_to_reap() {
    let world = world();
    let mut boss = HostProcess::start(&world, "boss", None).await.unwrap();
    let pid = boss.spawn("a", WorkerSpec::command(Stray::left_by(&world, "stray", ""))).await;
    let work = boss.run("a", "go").await.unwrap();
    boss.ask(Ask::Ended { work }).await.unwrap();
    let stray = Stray::found(&world, "stray").await;
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    world.at_rest("boss").await;
    until("it is dead and reaped", || stray.stat().is_none().then_some(())).await;
    boss.ask(Ask::Shutdown).await.unwrap();
    boss.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_child_and_what_it_runs_outlive_a_parent_that_ends_what_is_below_it() {
    let world = world();
    let mut boss = HostProcess::start(&world, "boss", None).await.unwrap();
    let pid = boss.spawn_detached("a", WorkerSpec::command(World::waits_for("go"))).await;
    boss.run("a", "go").await.unwrap();
    until("its program runs", || (world.processes().len() >= 3).then_some(())).await;
    boss.ask(Ask::Shutdown).await.unwrap();
    boss.wait().await;
    assert!(world.processes().contains(&pid), "it was ended with its parent");
    world.touch("go");
    until("its work has ended", || (world.history("a").outcomes().len() == 1).then_some(())).await;
    assert_eq!(
        world.history("a").outcomes()[0],
        pod::store::TurnOutcome::Ended { result: pod::TurnResult::Finished },
        "its program was ended"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_told_to_end_before_a_halted_parent_has_taken_it_up_ends_in_good_order() {
    let world = world();
    let armed = [
        ("POD_FAILPOINT", "parent_after_ready_before_go"),
        ("POD_FAILPOINT_POD", "boss"),
        ("POD_FAILPOINT_DO", "halt"),
    ];
    let mut boss = HostProcess::start_hosting(&world, "boss", "ledger", &armed).await.unwrap();
    let parent = boss.pid();
    let spawning = async { boss.ask(Ask::Spawn { name: "a".parse().unwrap(), worker: WorkerSpec::ledger() }).await };
    let driven = async {
        let halted = || {
            let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).ok()?;
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')).then_some(())
        };
        until("the parent is halted", halted).await;
        let child = world.processes().into_iter().find(|pid| *pid != parent).expect("the child runs");
        kill_process(Pid::from_raw(child.cast_signed()).unwrap(), Signal::TERM).unwrap();
        // Its parent reaps it when it goes on.
        let dead = || match std::fs::read_to_string(format!("/proc/{child}/stat")) {
            Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')).then_some(()),
            Err(_) => Some(()),
        };
        until("the child has ended by itself", dead).await;
        kill_process(Pid::from_raw(parent.cast_signed()).unwrap(), Signal::CONT).unwrap();
    };
    let (spawned, ()) = tokio::join!(spawning, driven);
    let said = format!("{spawned:?}");
    world.at_rest("boss").await;
    assert_eq!(world.history("boss").terminals("a"), [Terminal::ShutDown], "{said}");
    boss.ask(Ask::Shutdown).await.unwrap();
    boss.wait().await;
}
