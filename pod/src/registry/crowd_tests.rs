//! Many lives at once: nobody is overlooked behind others, and what is shown is what is.

use super::tests::{NOW, World, limits, pod};
use super::*;
use crate::scope::{Permission, Rules, ScopeRule};

#[test]
fn cap_of_pods_finds_the_dead_behind_any_number_of_living_ones() {
    let world = World::new();
    let bounds = TreeLimits { pods: 70, children: 0, ..limits() };
    let root = pod("root", 1);
    let _root = world.life(&root);
    world.claim(&root, Origin::Root { limits: bounds, scope: None, confinement: Confinement::Off }).unwrap();
    let child = |n: u64| pod(&format!("c{n:02}"), n);
    let below = |parent: &PodId| Origin::Child { parent: parent.clone(), asked: Rules::default() };
    let mut living = Vec::new();
    for n in 0..66 {
        living.push(world.life(&child(n)));
        world.claim_at(&child(n), below(&root), UnixMillis(NOW.0 - 1_000 + n)).unwrap();
    }
    // The newest are dead: a child, and those of its that nobody will bury.
    let dead = child(66);
    world.claim_at(&dead, below(&root), UnixMillis(NOW.0 - 100)).unwrap();
    for n in 67..69 {
        world.claim_at(&child(n), below(&dead), UnixMillis(NOW.0 - 50 + n)).unwrap();
    }
    world.claim(&child(99), below(&root)).unwrap();
    assert!(world.registry.pods().unwrap().iter().all(|row| row.pod.name.as_str() != "c67"), "it was dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_as_lent_is_what_is_lent_whoever_looks_last() {
    let world = World::new();
    let root = pod("root", 1);
    let _root = world.life(&root);
    let state_dir = world.roots.pod(&root.name).state_dir().to_owned();
    let scope = Some(world.writing("all"));
    let origin = Origin::Root { limits: TreeLimits { children: 0, ..limits() }, scope, confinement: Confinement::Off };
    let claim = Claim { pod: root.clone(), worker: "ledger".into(), state_dir, origin };
    let member = Member::join(world.registry.clone(), &claim).unwrap();
    let place = world.place("all");
    for round in 0..40 {
        // Two children come and one goes at once: dropped, its claim is given back in a task of its own.
        let claims = (0..3).map(|n| {
            let (member, roots, place) = (member.clone(), world.roots.clone(), place.clone());
            tokio::spawn(async move {
                let child = pod(&format!("c{round}-{n}"), round * 3 + n);
                let rule = ScopeRule::below(format!("{place}/{round}-{n}"), Permission::Write);
                let claimed = member.claim(&child, &roots.pod(&child.name), "ledger", &[rule]).await.unwrap();
                if n == 0 { drop(claimed) } else { claimed.keep() }
            })
        });
        for claim in claims.collect::<Vec<_>>() {
            claim.await.unwrap();
        }
        let same = || {
            let by_life = |mut lent: Vec<(PodId, Rules)>| {
                lent.sort_by_key(|(life, _)| life.incarnation);
                lent.into_iter().map(|(life, _)| life).collect::<Vec<_>>()
            };
            let held = by_life(world.registry.lent(&root).unwrap());
            held.len() == 2 * (usize::try_from(round).unwrap() + 1) && by_life(member.scope().lent_to()) == held
        };
        let since = std::time::Instant::now();
        while !same() {
            assert!(
                since.elapsed() < std::time::Duration::from_secs(30),
                "round {round}: what is shown is not what is lent"
            );
            tokio::task::yield_now().await;
        }
    }
}
