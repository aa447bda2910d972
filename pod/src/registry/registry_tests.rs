//! Who gets what, and when it comes back; with life locks and stores as real pods have them.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::life_lock::LifeLock;
use crate::protocol::TurnCap;
use crate::runtime_dir::ROOT_VARIABLE;
use crate::scope::{Permission, Rules, ScopeRule};
use crate::spawn::process::LIFE_VARIABLE;
use crate::store::{NewChild, Store, fixture};

/// Later than the beginning of every process: one that cannot be looked at counts as older than these lives.
pub(super) const NOW: UnixMillis = UnixMillis(4_000_000_000_000);

pub(super) struct World {
    dir: TempDir,
    pub(super) roots: Roots,
    pub(super) registry: Registry,
}

impl World {
    /// Whether what `pod` had is taken back.
    fn takes_back(&self, pod: &PodId) -> bool {
        self.registry.take_back(std::slice::from_ref(pod), &self.roots).unwrap().contains(pod)
    }

    pub(super) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let roots = Roots::at(&dir.path().join("root")).unwrap();
        Self { dir, registry: Registry::at(&roots), roots }
    }

    /// A place for files, and how it is called in rules.
    pub(super) fn place(&self, name: &str) -> String {
        let path = self.dir.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(super) fn writing(&self, name: &str) -> Rules {
        Rules::new(&[ScopeRule::below(self.place(name), Permission::Write)]).unwrap()
    }

    /// Makes `pod` live: its life lock is held until what is returned is dropped.
    pub(super) fn life(&self, pod: &PodId) -> LifeLock {
        let paths = self.roots.pod(&pod.name);
        paths.make_state_dir().unwrap();
        LifeLock::acquire(&paths.life_lock(), pod).unwrap()
    }

    pub(super) fn claim(&self, pod: &PodId, origin: Origin) -> Result<Place, ClaimError> {
        self.claim_at(pod, origin, NOW)
    }

    pub(super) fn claim_at(&self, pod: &PodId, origin: Origin, now: UnixMillis) -> Result<Place, ClaimError> {
        let state_dir = self.roots.pod(&pod.name).state_dir().to_owned();
        self.registry.claim(&Claim { pod: pod.clone(), worker: "ledger".into(), state_dir, origin }, now)
    }
}

/// No two lives have the same incarnation, whatever their names.
pub(super) fn pod(name: &str, life: u64) -> PodId {
    fixture::pod(name, name.bytes().fold(life, |number, byte| number * 257 + u64::from(byte)))
}

pub(super) fn limits() -> TreeLimits {
    TreeLimits { depth: 32, pods: 0, children: 10, spawns_per_minute: 0, turns: 0, seconds: 0 }
}

pub(super) fn root(scope: Option<Rules>) -> Origin {
    Origin::Root { limits: limits(), scope, confinement: Confinement::BestEffort }
}

fn child(parent: &PodId, asked: Rules) -> Origin {
    Origin::Child { parent: parent.clone(), asked }
}

#[test]
fn registry_is_ours_alone_and_named_as_no_pod_can_be() {
    let world = World::new();
    world.claim(&pod("a", 1), root(None)).unwrap();
    let path = world.registry.path();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(path.file_name().unwrap().to_str().unwrap().parse::<PodName>().is_err());
    world.registry.check().unwrap();
    assert_eq!(world.roots.pods().unwrap(), []);
}

#[test]
fn name_belongs_to_one_life_until_that_is_proven_dead() {
    let world = World::new();
    let (old, new) = (pod("a", 1), pod("a", 2));
    let lock = world.life(&old);
    world.claim(&old, root(None)).unwrap();
    let error = world.claim(&new, root(None)).unwrap_err();
    assert!(matches!(&error, ClaimError::NameTaken { holder } if *holder == old), "{error}");
    drop(lock);
    world.claim(&new, root(None)).unwrap();
    let names: Vec<_> = world.registry.pods().unwrap().into_iter().map(|row| row.pod).collect();
    assert_eq!(names, [new]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a program that a dead pod has left behind")]
fn life_whose_programs_run_is_not_dead_though_its_lock_is_free() {
    let world = World::new();
    let (old, new) = (PodId::new("a".parse().unwrap(), Incarnation::random()), pod("a", 2));
    world.claim(&old, root(Some(world.writing("x")))).unwrap();
    let mut program = std::process::Command::new("sleep");
    let mut program = program.arg("60").env(LIFE_VARIABLE, old.incarnation.to_string()).spawn().unwrap();
    let name = world.claim(&new, root(None));
    let lease = world.claim(&pod("b", 1), root(Some(world.writing("x"))));
    program.kill().unwrap();
    program.wait().unwrap();
    assert!(matches!(name, Err(ClaimError::NameTaken { .. })), "{name:?}");
    assert!(matches!(lease, Err(ClaimError::Overlap { .. })), "{lease:?}");
    world.claim(&pod("b", 1), root(Some(world.writing("x")))).unwrap();
}

#[test]
fn right_to_write_is_taken_from_the_parent_and_comes_back_once() {
    let world = World::new();
    let (top, one, two) = (pod("top", 1), pod("one", 1), pod("two", 1));
    let _lives = [world.life(&top), world.life(&one)];
    world.claim(&top, root(Some(world.writing("tree")))).unwrap();
    world.claim(&one, child(&top, world.writing("tree/x"))).unwrap();
    let lent = world.registry.lent(&top).unwrap();
    assert_eq!(lent, [(one.clone(), world.writing("tree/x"))]);

    let error = world.claim(&two, child(&top, world.writing("tree/x/below"))).unwrap_err().to_string();
    assert!(
        error.contains("pod `one`") && error.contains("tree/x/below") && error.contains("wait for its end"),
        "{error}"
    );
    let error = world.claim(&two, child(&top, world.writing("elsewhere"))).unwrap_err().to_string();
    assert!(error.contains("not the parent's to give") && error.contains("elsewhere"), "{error}");
    assert_eq!(world.registry.pods().unwrap().len(), 2, "a claim that was refused has left something");

    assert!(world.registry.give_back(&one).unwrap());
    assert!(!world.registry.give_back(&one).unwrap(), "given back twice");
    assert_eq!(world.registry.balance(top.incarnation).unwrap(), (1, 1));
    assert_eq!(world.registry.lent(&top).unwrap(), []);
    world.claim(&two, child(&top, world.writing("tree/x"))).unwrap();
    // A late word about the first does not take it from the second.
    assert!(!world.registry.give_back(&one).unwrap());
    assert_eq!(world.registry.lent(&top).unwrap().len(), 1);
}

#[test]
fn what_a_grandchild_holds_outlives_the_child_and_is_taken_from_the_grandparent_then() {
    let world = World::new();
    let (top, mid, leaf, late) = (pod("top", 1), pod("mid", 1), pod("leaf", 1), pod("late", 1));
    let _lives = [world.life(&top), world.life(&mid), world.life(&leaf)];
    world.claim(&top, root(Some(world.writing("tree")))).unwrap();
    world.claim(&mid, child(&top, world.writing("tree/x"))).unwrap();
    world.claim(&leaf, child(&mid, world.writing("tree/x/y"))).unwrap();
    world.registry.give_back(&mid).unwrap();
    assert_eq!(world.registry.lent(&top).unwrap(), [(leaf.clone(), world.writing("tree/x/y"))]);
    let error = world.claim(&late, child(&top, world.writing("tree/x"))).unwrap_err().to_string();
    assert!(error.contains("pod `leaf`"), "{error}");
    world.registry.give_back(&leaf).unwrap();
    assert_eq!(world.registry.balance(top.incarnation).unwrap(), (2, 2));
    world.claim(&late, child(&top, world.writing("tree/x"))).unwrap();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a program that a dead pod has left behind")]
fn what_a_buried_child_had_comes_back_when_its_programs_are_gone_too() {
    let world = World::new();
    let (top, one) = (pod("top", 1), PodId::new("one".parse().unwrap(), Incarnation::random()));
    let (_top, life) = (world.life(&top), world.life(&one));
    world.claim(&top, root(Some(world.writing("x")))).unwrap();
    world.claim(&one, child(&top, world.writing("x"))).unwrap();
    let mut program = std::process::Command::new("setsid");
    let program = program.args(["sleep", "60"]).env(ROOT_VARIABLE, world.dir.path().join("root"));
    let program = program.env(LIFE_VARIABLE, one.incarnation.to_string());
    let mut program = program.spawn().unwrap();
    let while_it_lives = world.takes_back(&one);
    let spared = program.try_wait().unwrap().is_none();
    drop(life);
    // Until the kernel has carried the kill out it is refused, and asked again, as a pod does it.
    let mut looks = 0_u32;
    let taken = loop {
        looks += 1;
        let taken = world.takes_back(&one);
        if taken || looks == 200 {
            break taken;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let killed = program.try_wait().unwrap().is_some();
    let _ = program.kill();
    program.wait().unwrap();
    assert!(!while_it_lives && spared, "the life lock is held");
    assert!(taken && killed, "it was taken back: {taken}, its program was killed before: {killed}");
    assert!(world.takes_back(&one), "once more does nothing more");
    assert_eq!(world.registry.balance(top.incarnation).unwrap(), (1, 1));
}

#[test]
fn next_life_of_a_root_gets_its_scope_though_its_child_still_writes_in_it() {
    let world = World::new();
    let (top, leaf, tip) = (pod("top", 1), pod("leaf", 1), pod("tip", 1));
    let (life, _leaf, _tip) = (world.life(&top), world.life(&leaf), world.life(&tip));
    world.claim(&top, root(Some(world.writing("tree")))).unwrap();
    world.claim(&leaf, child(&top, world.writing("tree/x"))).unwrap();
    world.claim(&tip, child(&leaf, world.writing("tree/x/y"))).unwrap();
    drop(life);
    let again = pod("top", 2);
    let _again = world.life(&again);
    // With less than the child has it would not be the child's parent in what that writes.
    assert!(world.registry.is_free(&again.name, &world.writing("tree/x/y"), NOW).is_err());
    let less = world.claim(&again, root(Some(world.writing("tree/x/y"))));
    assert!(matches!(less, Err(ClaimError::Overlap { .. })), "{less:?}");
    let stranger = world.claim(&pod("other", 1), root(Some(world.writing("tree"))));
    assert!(matches!(stranger, Err(ClaimError::Overlap { .. })), "{stranger:?}");

    world.registry.is_free(&again.name, &world.writing("tree"), NOW).unwrap();
    world.claim(&again, root(Some(world.writing("tree")))).unwrap();
    assert_eq!(world.registry.lent(&again).unwrap(), [(leaf.clone(), world.writing("tree/x"))]);
    let rows = world.registry.pods().unwrap();
    assert!(rows.iter().all(|row| row.root == again.incarnation), "{rows:?}");
    let late = world.claim(&pod("late", 1), child(&again, world.writing("tree/x"))).unwrap_err().to_string();
    assert!(late.contains("pod `tip`"), "{late}");
    world.registry.give_back(&tip).unwrap();
    world.registry.give_back(&leaf).unwrap();
    assert_eq!(world.registry.balance(again.incarnation).unwrap(), (2, 2));
    world.claim(&pod("late", 1), child(&again, world.writing("tree/x"))).unwrap();
}

#[test]
fn scope_of_a_root_whose_earlier_life_is_not_taken_out_yet_is_free_to_that_name_alone() {
    let world = World::new();
    let (top, leaf) = (pod("top", 1), pod("leaf", 1));
    let (life, _leaf) = (world.life(&top), world.life(&leaf));
    world.claim(&top, root(Some(world.writing("tree")))).unwrap();
    world.claim(&leaf, child(&top, world.writing("tree/x"))).unwrap();
    drop(life);
    world.registry.is_free(&top.name, &world.writing("tree"), NOW).unwrap();
    assert!(world.registry.is_free(&"other".parse().unwrap(), &world.writing("tree"), NOW).is_err());
}

#[test]
fn next_life_of_a_child_takes_up_those_that_were_left_to_its_parent_and_no_other_does() {
    let world = World::new();
    let (top, mid, leaf, tip) = (pod("top", 1), pod("mid", 1), pod("leaf", 1), pod("tip", 1));
    let (_top, life, leaf_life, _tip) = (world.life(&top), world.life(&mid), world.life(&leaf), world.life(&tip));
    world.claim(&top, root(Some(world.writing("tree")))).unwrap();
    world.claim(&mid, child(&top, world.writing("tree/x"))).unwrap();
    world.claim(&leaf, child(&mid, world.writing("tree/x/y"))).unwrap();
    world.claim(&tip, child(&leaf, world.writing("tree/x/y/z"))).unwrap();
    drop((life, leaf_life));
    world.registry.give_back(&leaf).unwrap();
    world.registry.give_back(&mid).unwrap();
    let other = world.claim(&pod("other", 1), child(&top, world.writing("tree/x")));
    assert!(matches!(other, Err(ClaimError::Overlap { .. })), "{other:?}");
    let (mid, leaf) = (pod("mid", 2), pod("leaf", 2));
    let _lives = [world.life(&mid), world.life(&leaf)];
    world.claim(&mid, child(&top, world.writing("tree/x"))).unwrap();
    assert_eq!(world.registry.lent(&mid).unwrap(), [(tip.clone(), world.writing("tree/x/y/z"))]);
    world.claim(&leaf, child(&mid, world.writing("tree/x/y"))).unwrap();
    assert_eq!(world.registry.lent(&mid).unwrap(), [(leaf.clone(), world.writing("tree/x/y"))]);
    assert_eq!(world.registry.lent(&leaf).unwrap(), [(tip, world.writing("tree/x/y/z"))]);
}

#[test]
fn of_many_who_use_a_registry_first_nobody_takes_it_for_another_programs() {
    for round in 0..40 {
        let world = World::new();
        let begin = std::sync::Barrier::new(8);
        std::thread::scope(|threads| {
            let firsts: Vec<_> = (0..8)
                .map(|_| {
                    threads.spawn(|| {
                        begin.wait();
                        Registry::at(&world.roots).pods()
                    })
                })
                .collect();
            for first in firsts {
                let found = first.join().unwrap();
                assert!(matches!(&found, Ok(pods) if pods.is_empty()), "round {round}: {found:?}");
            }
        });
    }
}

#[test]
fn trees_of_one_user_know_of_each_other() {
    let world = World::new();
    let (one, two) = (pod("one", 1), pod("two", 1));
    let lock = world.life(&one);
    world.claim(&one, root(Some(world.writing("x")))).unwrap();
    let error = world.claim(&two, root(Some(world.writing("x/y")))).unwrap_err().to_string();
    assert!(error.contains("pod `one`"), "{error}");
    assert!(world.registry.is_free(&two.name, &world.writing("x"), NOW).is_err());
    drop(lock);
    world.registry.is_free(&two.name, &world.writing("x"), NOW).unwrap();
    world.claim(&two, root(Some(world.writing("x/y")))).unwrap();
}

#[test]
fn child_that_asks_for_nothing_reads_what_its_parent_has_and_denies_are_kept() {
    let world = World::new();
    let top = pod("top", 1);
    let _life = world.life(&top);
    let (all, secret) = (world.place("t"), world.place("t/secret"));
    let rules = [ScopeRule::below(&all, Permission::Write), ScopeRule::below(&secret, Permission::Deny)];
    world.claim(&top, root(Some(Rules::new(&rules).unwrap()))).unwrap();
    let reader = world.claim(&pod("reader", 1), child(&top, Rules::default())).unwrap().scope.unwrap();
    assert_eq!(reader.at(Path::new(&all)), Permission::Read);
    let asked = Rules::new(&rules[..1]).unwrap();
    let writer = world.claim(&pod("writer", 1), child(&top, asked)).unwrap().scope.unwrap();
    assert_eq!(writer.at(Path::new(&all)), Permission::Write);
    assert_eq!(writer.at(&Path::new(&secret).join("x")), Permission::Deny);
    // Without a scope above, none below, unless it is asked for.
    let free = pod("free", 1);
    world.claim(&free, root(None)).unwrap();
    assert_eq!(world.claim(&pod("as-free", 1), child(&free, Rules::default())).unwrap().scope, None);
}

#[test]
fn link_is_followed_when_a_right_is_claimed() {
    let world = World::new();
    let top = pod("top", 1);
    let _life = world.life(&top);
    let (inside, outside) = (world.place("in"), world.place("out"));
    std::os::unix::fs::symlink(&outside, Path::new(&inside).join("link")).unwrap();
    world.claim(&top, root(Some(world.writing("in")))).unwrap();
    let asked = Rules::new(&[ScopeRule::below(format!("{inside}/link/x"), Permission::Write)]).unwrap();
    let error = world.claim(&pod("a", 1), child(&top, asked)).unwrap_err().to_string();
    assert!(error.contains(&format!("{outside}/x")) && error.contains("not the parent's"), "{error}");
}

#[test]
fn caps_of_the_tree_are_refused_by_their_kind_and_an_end_makes_room() {
    let world = World::new();
    let top = pod("top", 1);
    let _life = world.life(&top);
    let bounds = TreeLimits { depth: 1, pods: 3, spawns_per_minute: 3, seconds: 10, ..limits() };
    let origin = Origin::Root { limits: bounds, scope: None, confinement: Confinement::Off };
    world.claim(&top, origin).unwrap();
    let spawn = |name: &str, parent: &PodId, at: u64| {
        world.claim_at(&pod(name, 1), child(parent, Rules::default()), UnixMillis(NOW.0 + at))
    };
    let lives = [world.life(&pod("a", 1)), world.life(&pod("b", 1))];
    let place = spawn("a", &top, 0).unwrap();
    assert_eq!((place.depth, place.root, place.limits), (1, top.incarnation, bounds));
    assert!(matches!(spawn("x", &pod("a", 1), 0), Err(ClaimError::Cap(Cap::Depth { max: 1 }))));
    spawn("b", &top, 0).unwrap();
    let full = spawn("x", &top, 0);
    assert!(matches!(full, Err(ClaimError::Cap(Cap::Pods { max: 3 }))), "{full:?}");
    drop(lives);
    assert!(world.registry.give_back(&pod("a", 1)).unwrap());
    spawn("c", &top, 0).unwrap();
    assert!(world.registry.give_back(&pod("b", 1)).unwrap());
    // Refused ones were not counted: three were started, and the next may be in 20 s; but the tree has 10.
    let rate = spawn("d", &top, 5_000);
    assert!(matches!(rate, Err(ClaimError::Cap(Cap::SpawnRate { max: 3, retry_after_ms: 15_000 }))), "{rate:?}");
    let over = spawn("d", &top, 10_000);
    assert!(matches!(over, Err(ClaimError::Cap(Cap::WallTime { max: 10 }))), "{over:?}");
    for (cap, word) in [(Cap::Pods { max: 3 }, "limits.pods"), (Cap::WallTime { max: 1 }, "limits.tree_seconds")] {
        assert!(cap.to_string().contains(word), "{cap}");
    }
}

#[test]
fn turns_are_counted_for_the_whole_tree_over_all_lives_of_its_root() {
    let world = World::new();
    let (top, a) = (pod("top", 1), pod("a", 1));
    let origin = |turns| {
        let limits = TreeLimits { turns, seconds: 10, ..limits() };
        Origin::Root { limits, scope: None, confinement: Confinement::Off }
    };
    world.claim(&top, origin(2)).unwrap();
    world.claim(&a, child(&top, Rules::default())).unwrap();
    let other = Registry::at(&world.roots);
    world.registry.take_turn(&top, NOW).unwrap().unwrap();
    other.take_turn(&a, NOW).unwrap().unwrap();
    for pod in [&top, &a] {
        assert_eq!(world.registry.take_turn(pod, NOW).unwrap(), Err(TurnCap::Turns { max: 2 }), "{pod}");
    }
    // The life that finds its store goes on with what is left.
    let store = world.roots.pod(&top.name).store();
    std::fs::create_dir_all(store.parent().unwrap()).unwrap();
    std::fs::write(&store, "").unwrap();
    let next = pod("top", 2);
    assert!(world.registry.give_back(&a).unwrap() && world.registry.give_back(&top).unwrap());
    world.claim(&next, origin(3)).unwrap();
    world.registry.take_turn(&next, NOW).unwrap().unwrap();
    assert_eq!(world.registry.take_turn(&next, NOW).unwrap(), Err(TurnCap::Turns { max: 3 }));
    // One that has none is new, whatever had its name.
    std::fs::remove_file(&store).unwrap();
    let new = pod("top", 3);
    assert!(world.registry.give_back(&next).unwrap());
    world.claim(&new, origin(1)).unwrap();
    world.registry.take_turn(&new, NOW).unwrap().unwrap();
    let late = UnixMillis(NOW.0 + 10_000);
    assert_eq!(world.registry.take_turn(&new, late).unwrap(), Err(TurnCap::WallTime { max_seconds: 10 }));
    assert!(world.registry.take_turn(&next, NOW).is_err(), "a life that is not there");
}

#[test]
fn what_a_root_has_spent_is_forgotten_when_neither_its_tree_nor_its_store_is_there() {
    let world = World::new();
    let bounded = || {
        let limits = TreeLimits { turns: 9, ..limits() };
        Origin::Root { limits, scope: None, confinement: Confinement::Off }
    };
    let names = ["alive", "kept", "gone"];
    for name in names {
        world.claim(&pod(name, 1), bounded()).unwrap();
        world.registry.take_turn(&pod(name, 1), NOW).unwrap().unwrap();
    }
    let store = world.roots.pod(&pod("kept", 1).name).store();
    std::fs::create_dir_all(store.parent().unwrap()).unwrap();
    std::fs::write(&store, "").unwrap();
    for name in ["kept", "gone"] {
        assert!(world.registry.give_back(&pod(name, 1)).unwrap());
    }
    world.registry.forget_spent(&world.roots).unwrap();
    let conn = Connection::open(world.registry.path()).unwrap();
    let mut statement = conn.prepare("SELECT root_name FROM spent ORDER BY root_name").unwrap();
    let left: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(left, ["alive", "kept"]);
}

#[test]
fn claim_that_was_never_reserved_is_given_up_with_its_parent_or_after_a_while() {
    let world = World::new();
    let (top, a, b) = (pod("top", 1), pod("a", 1), pod("b", 1));
    let life = world.life(&top);
    let store = Store::open(world.roots.pod(&top.name).store(), fixture::options("top")).unwrap();
    world.claim(&top, root(Some(world.writing("x")))).unwrap();
    world.claim(&a, child(&top, world.writing("x"))).unwrap();
    let again = |at: u64| world.claim_at(&b, child(&top, world.writing("x")), UnixMillis(NOW.0 + at));
    // Its parent may be about to reserve it.
    assert!(matches!(again(1_000), Err(ClaimError::Overlap { .. })));
    again(60_000).unwrap();
    world.registry.give_back(&b).unwrap();
    world.claim(&a, child(&top, world.writing("x"))).unwrap();
    drop(life);
    again(1_000).unwrap();
    drop(store);
}

#[test]
fn life_that_its_living_parent_has_yet_to_bury_is_left_to_it() {
    let world = World::new();
    let (top, a, b) = (pod("top", 1), pod("a", 1), pod("b", 1));
    let life = world.life(&top);
    let store = Store::open(world.roots.pod(&top.name).store(), fixture::options("top")).unwrap();
    world.claim(&top, root(Some(world.writing("x")))).unwrap();
    world.claim(&a, child(&top, world.writing("x"))).unwrap();
    let new: NewChild = fixture::new_child(&a);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.write(move |tx| tx.reserve_child(&new))).unwrap();
    // Its lock is free, a million seconds have passed, and yet it may be told to begin.
    let late = UnixMillis(NOW.0 + 1_000_000_000);
    assert!(matches!(world.claim_at(&b, child(&top, world.writing("x")), late), Err(ClaimError::Overlap { .. })));
    let is_over = || world.registry.is_over(&world.registry.pods().unwrap()[0], late);
    assert_eq!((world.registry.pods().unwrap()[0].pod.clone(), is_over()), (a.clone(), false));
    // A parent that is dead starts nobody.
    drop(life);
    world.claim_at(&b, child(&top, world.writing("x")), late).unwrap();
}

#[test]
fn name_of_a_life_that_its_dead_parent_has_not_buried_is_given_to_no_stranger() {
    let world = World::new();
    let (top, a, other) = (pod("top", 1), pod("a", 1), pod("other", 1));
    let (life, _other) = (world.life(&top), world.life(&other));
    let store = Store::open(world.roots.pod(&top.name).store(), fixture::options("top")).unwrap();
    world.claim(&top, root(None)).unwrap();
    world.claim(&other, root(None)).unwrap();
    world.claim(&a, child(&top, Rules::default())).unwrap();
    let new: NewChild = fixture::new_child(&a);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.write(move |tx| tx.reserve_child(&new))).unwrap();
    drop(life);
    assert!(!world.registry.is_over(&world.registry.pods().unwrap()[0], NOW), "what it has left would be killed");
    for origin in [child(&other, Rules::default()), root(None)] {
        let error = world.claim(&pod("a", 2), origin).unwrap_err();
        assert!(
            matches!(&error, ClaimError::Unburied { holder, parent } if *holder == a && *parent == top.name),
            "{error}"
        );
        assert!(error.to_string().contains("pod restore top"), "{error}");
    }
    // Once its end is told, its name is free here; its store says whose it is.
    let (dead, lost) = (a.clone(), crate::protocol::LostReason::Unobserved);
    let end = crate::store::EndOfLife::Dead(lost);
    runtime.block_on(store.write(move |tx| crate::event::end_child(tx, &dead, end, None))).unwrap();
    assert!(world.registry.is_over(&world.registry.pods().unwrap()[0], NOW));
    world.claim(&pod("a", 2), child(&other, Rules::default())).unwrap();
}

#[test]
fn of_many_who_claim_the_same_at_once_one_gets_it() {
    let world = World::new();
    let top = pod("top", 1);
    let _life = world.life(&top);
    world.claim(&top, root(Some(world.writing("x")))).unwrap();
    let asked = world.writing("x");
    let won: Vec<_> = std::thread::scope(|threads| {
        let claims = (0..8).map(|number| {
            let (world, asked, top) = (&world, asked.clone(), &top);
            threads.spawn(move || {
                let own = Registry::at(&world.roots);
                let pod = pod(&format!("c{number}"), 1);
                let _life = world.life(&pod);
                let state_dir = world.roots.pod(&pod.name).state_dir().to_owned();
                let claim = Claim { pod, worker: "w".into(), state_dir, origin: child(top, asked) };
                let won = own.claim(&claim, NOW).is_ok();
                (won, _life)
            })
        });
        let claims: Vec<_> = claims.collect();
        claims.into_iter().map(|claim| claim.join().unwrap()).collect()
    });
    assert_eq!(won.iter().filter(|(won, _)| *won).count(), 1);
    assert_eq!(world.registry.balance(top.incarnation).unwrap(), (1, 0));
}

#[test]
fn reclaim_takes_out_the_dead_and_leaves_the_living() {
    let world = World::new();
    let (dead, alive) = (pod("dead", 1), pod("alive", 1));
    let _life = world.life(&alive);
    world.claim(&dead, root(None)).unwrap();
    world.claim(&alive, root(None)).unwrap();
    assert_eq!(world.registry.reclaim(10, NOW).unwrap(), [dead]);
    assert_eq!(world.registry.pods().unwrap().len(), 1);
}

#[test]
fn transaction_of_a_stopped_process_is_named_as_what_it_is_and_readers_go_on() {
    let world = World::new();
    world.claim(&pod("a", 1), root(None)).unwrap();
    let stopped = Connection::open(world.registry.path()).unwrap();
    stopped.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = world.claim(&pod("b", 1), root(None)).unwrap_err().to_string();
    assert!(error.contains("stopped") && error.contains("try again"), "{error}");
    assert_eq!(world.registry.pods().unwrap().len(), 1);
    drop(stopped);
    world.claim(&pod("b", 1), root(None)).unwrap();
}

#[test]
fn files_that_are_no_registry_are_refused_untouched() {
    for (bytes, word) in [
        (b"this is a letter, and no database at all".repeat(50), "no database"),
        (
            {
                let dir = TempDir::new().unwrap();
                let path = dir.path().join("x.db");
                Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
                std::fs::read(path).unwrap()
            },
            "another program's",
        ),
    ] {
        let world = World::new();
        std::fs::write(world.registry.path(), &bytes).unwrap();
        let error = world.registry.pods().unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("move it away"), "{error}");
        assert_eq!(std::fs::read(world.registry.path()).unwrap(), bytes, "it was changed");
    }
    let world = World::new();
    world.registry.pods().unwrap();
    Connection::open(world.registry.path()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let again = Registry::at(&world.roots);
    assert!(matches!(again.pods(), Err(RegistryError::Newer { found: 99, .. })));
    let world = World::new();
    std::os::unix::fs::symlink("/nowhere", world.registry.path()).unwrap();
    assert!(world.registry.pods().unwrap_err().to_string().contains("symbolic link"));
}

/// A registry of a few lives with their rights, all of it in one file.
fn written(world: &World) -> Vec<Registered> {
    let (top, leaf) = (pod("top", 1), pod("leaf", 1));
    world.claim(&top, root(Some(world.writing("tree")))).unwrap();
    world.claim(&leaf, child(&top, world.writing("tree/x"))).unwrap();
    let conn = rusqlite::Connection::open(world.registry.path()).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    world.registry.pods().unwrap()
}

#[test]
fn name_or_right_that_was_flipped_is_refused_and_says_in_which_table() {
    for (table, flip) in [
        ("pods", "UPDATE pods SET name = 'leaf2' WHERE name = 'leaf'"),
        ("leases", "UPDATE leases SET target = replace(target, 'tree/x', 'tree/y')"),
        ("trees", "UPDATE trees SET pods_max = 7"),
        ("schema", "UPDATE sums SET sum = sum + 1 WHERE what = 'schema'"),
    ] {
        let world = World::new();
        written(&world);
        world.registry.check().unwrap();
        let behind = rusqlite::Connection::open(world.registry.path()).unwrap();
        // As nobody else writes it: the sums stay what they were.
        behind
            .create_scalar_function("pod_sum", -1, rusqlite::functions::FunctionFlags::SQLITE_INNOCUOUS, |_| Ok(0))
            .unwrap();
        behind.execute_batch(flip).unwrap();
        let error = world.registry.check().unwrap_err().to_string();
        let words = if table == "schema" { "tables, indexes and triggers".to_owned() } else { format!("`{table}`") };
        assert!(error.contains(&words) && error.contains("move it away"), "{flip}: {error}");
        // Nobody starts by it.
        let life = pod("late", 1);
        let state_dir = world.roots.pod(&life.name).state_dir().to_owned();
        let claim = Claim { pod: life, worker: "ledger".into(), state_dir, origin: root(None) };
        let again = Registry::at(&world.roots);
        assert!(
            matches!(Member::join(again, &claim), Err(ClaimError::Registry(RegistryError::Unusable { .. }))),
            "{flip}"
        );
    }
}

#[test]
fn file_of_which_any_bit_was_flipped_is_refused_or_has_the_same_rows() {
    let world = World::new();
    let rows = written(&world);
    let whole = std::fs::read(world.registry.path()).unwrap();
    let rights = |registry: &Registry| registry.named(&pod("leaf", 1).name).unwrap();
    let right = rights(&world.registry);
    let (mut refused, mut same) = (0, 0);
    // Every so manyth bit, so that each page and each of its parts is met; POD_FLIPS says how many.
    let flips = std::env::var("POD_FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(400);
    for flip in 0..flips {
        let bit = flip * (whole.len() * 8 / flips) + flip % 8;
        let other = World::new();
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(other.registry.path(), &bytes).unwrap();
        std::fs::set_permissions(other.registry.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        match other.registry.check() {
            Err(_) => refused += 1,
            Ok(()) => {
                assert_eq!(other.registry.pods().unwrap(), rows, "bit {bit} was flipped and is believed");
                assert_eq!(rights(&other.registry), right, "bit {bit} was flipped and is believed");
                same += 1;
            }
        }
    }
    assert!(refused > 0 && same > 0, "{refused} refused, {same} the same");
}

#[test]
fn full_disk_is_said_as_that() {
    let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    let error = open::classify(Path::new("/r"), rusqlite::Error::SqliteFailure(full, None));
    assert!(
        matches!(error, RegistryError::DiskFull { .. }) && error.to_string().contains("free some space"),
        "{error}"
    );
}

#[test]
fn adopted_child_moves_with_all_below_it_its_rights_and_its_place_in_both_accounts() {
    let world = World::new();
    let (old, new, mid, leaf) = (pod("old", 1), pod("new", 1), pod("mid", 1), pod("leaf", 1));
    let (life, _new, _mid, _leaf) = (world.life(&old), world.life(&new), world.life(&mid), world.life(&leaf));
    world.claim(&old, root(Some(world.writing("tree")))).unwrap();
    world.claim(&mid, child(&old, world.writing("tree/x"))).unwrap();
    world.claim(&leaf, child(&mid, world.writing("tree/x/y"))).unwrap();
    let place = world.claim(&new, root(None)).unwrap();
    drop(life);
    world.registry.adopt(&place, &mid).unwrap();
    let row = |pod: &PodId| world.registry.pods().unwrap().into_iter().find(|row| row.pod == *pod).unwrap();
    assert_eq!((row(&mid).parent, row(&mid).root, row(&mid).depth), (Some(new.clone()), new.incarnation, 1));
    assert_eq!((row(&leaf).parent, row(&leaf).root, row(&leaf).depth), (Some(mid.clone()), new.incarnation, 2));
    assert_eq!(world.registry.lent(&new).unwrap(), [(mid.clone(), world.writing("tree/x"))]);
    let balance = |root: &PodId| world.registry.balance(root.incarnation).unwrap();
    assert_eq!((balance(&old), balance(&new)), ((0, 0), (2, 0)));
    world.registry.adopt(&place, &mid).unwrap();
    assert_eq!(balance(&new), (2, 0), "it was counted once more");
    // What it writes is not the old parent's to write, should that come back.
    let again = world.claim(&pod("old", 2), root(Some(world.writing("tree")))).unwrap_err().to_string();
    assert!(again.contains("is being written by pod"), "{again}");
    assert!(world.registry.give_back(&leaf).unwrap() && world.registry.give_back(&mid).unwrap());
    assert_eq!(balance(&new), (2, 2));
    world.claim(&pod("old", 2), root(Some(world.writing("tree")))).unwrap();
}

#[test]
fn of_the_children_that_a_root_has_left_one_is_adopted_and_the_others_stay_where_they_are() {
    let world = World::new();
    let (old, new, a, b, below) = (pod("old", 1), pod("new", 1), pod("a", 1), pod("b", 1), pod("below", 1));
    let life = world.life(&old);
    let _lives = [&new, &a, &b, &below].map(|pod| world.life(pod));
    world.claim(&old, root(Some(world.writing("tree")))).unwrap();
    world.claim(&a, child(&old, world.writing("tree/a"))).unwrap();
    world.claim(&b, child(&old, world.writing("tree/b"))).unwrap();
    world.claim(&below, child(&b, world.writing("tree/b/x"))).unwrap();
    let place = world.claim(&new, root(None)).unwrap();
    drop(life);
    world.registry.give_back(&old).unwrap();
    let row = |pod: &PodId| world.registry.pods().unwrap().into_iter().find(|row| row.pod == *pod).unwrap();
    let before = [row(&b), row(&below)];
    let holds = world.registry.adopt(&place, &a).unwrap();
    assert_eq!(holds, Some(world.writing("tree/a")), "who lends it knows what");
    assert_eq!((row(&a).parent, row(&a).root), (Some(new.clone()), new.incarnation));
    assert_eq!([row(&b), row(&below)], before, "nobody has adopted these");
    let balance = |root: &PodId| world.registry.balance(root.incarnation).unwrap();
    assert_eq!((balance(&old), balance(&new)), ((2, 0), (1, 0)));
    // The next life of their own parent finds them, and not the one that is another's.
    let again = pod("old", 2);
    let _again = world.life(&again);
    let claimed = world.claim(&again, root(Some(world.writing("tree")))).unwrap_err().to_string();
    assert!(claimed.contains("pod `a`"), "{claimed}");
    world.registry.give_back(&a).unwrap();
    world.claim(&again, root(Some(world.writing("tree")))).unwrap();
    assert_eq!(world.registry.lent(&again).unwrap(), [(b.clone(), world.writing("tree/b"))]);
    assert_eq!((balance(&old), balance(&again), balance(&new)), ((0, 0), (2, 0), (1, 1)));
}

#[test]
fn child_is_not_adopted_by_one_that_could_not_have_started_it_and_stays_as_it_is() {
    let world = World::new();
    let (old, mid, leaf, free) = (pod("old", 1), pod("mid", 1), pod("leaf", 1), pod("free", 1));
    let _lives = [world.life(&old), world.life(&mid), world.life(&leaf), world.life(&free)];
    world.claim(&old, root(None)).unwrap();
    world.claim(&mid, child(&old, world.writing("x"))).unwrap();
    let below = world.claim(&leaf, child(&mid, world.writing("x/y"))).unwrap();
    world.claim(&free, child(&old, Rules::default())).unwrap();
    let before = world.registry.pods().unwrap();
    let adopter = |name: &str, limits: TreeLimits, scope: Option<Rules>| {
        let origin = Origin::Root { limits, scope, confinement: Confinement::BestEffort };
        world.claim(&pod(name, 1), origin).unwrap()
    };
    let _adopters = ["flat", "full", "reader"].map(|name| world.life(&pod(name, 1)));
    let read = Rules::new(&[ScopeRule::below(world.place("x"), Permission::Read)]).unwrap();
    let flat = adopter("flat", TreeLimits { depth: 1, ..limits() }, None);
    let full = adopter("full", TreeLimits { pods: 2, ..limits() }, None);
    let reader = adopter("reader", limits(), Some(read));
    for (place, whom, words) in [
        (&below, &mid, "`leaf` is below `mid`"),
        (&flat, &mid, "1 deep"),
        (&full, &mid, "2 pods of the tree"),
        (&reader, &mid, "not the parent's to give"),
        (&reader, &free, "`free` has no scope"),
    ] {
        let error = world.registry.adopt(place, whom).unwrap_err().to_string();
        assert!(error.contains(words), "`{words}` is not in: {error}");
    }
    let after = world.registry.pods().unwrap();
    assert!(before.iter().all(|row| after.contains(row)), "something has moved");
    assert_eq!(world.registry.balance(old.incarnation).unwrap(), (2, 0));
}
