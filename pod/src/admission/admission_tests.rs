//! Who may ask what: the decision as a table, and the registry's word about processes that are there.

use rpc::Protocol as _;

use super::*;
use crate::life_lock::LifeLock;
use crate::protocol::Method;
use crate::registry::{Claim, Origin, TreeLimits};
use crate::scope::{Confinement, Permission, Rules, ScopeRule};
use crate::store::{UnixMillis, fixture};

const NOW: UnixMillis = UnixMillis(1_000_000);
const NO_BOUNDS: TreeLimits =
    TreeLimits { depth: 8, pods: 0, children: 64, spawns_per_minute: 0, turns: 0, seconds: 0 };

/// A root without a scope, its children with one (`bound`) and without (`free`), and a child of the former.
struct World {
    _dir: tempfile::TempDir,
    roots: Roots,
    registry: Registry,
    locks: Vec<LifeLock>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::at(&dir.path().join("root")).unwrap();
        let registry = Registry::at(&roots);
        let mut world = Self { _dir: dir, registry, roots, locks: Vec::new() };
        let root = Origin::Root { limits: NO_BOUNDS, scope: None, confinement: Confinement::Off };
        world.lives("root", root);
        world.lives("free", child_of("root", &[]));
        let rule = ScopeRule::below("/usr", Permission::Read);
        world.lives("bound", child_of("root", &[rule]));
        world.lives("below", child_of("bound", &[]));
        world
    }

    fn lives(&mut self, name: &str, origin: Origin) {
        let (pod, paths) = (pod(name), self.roots.pod(&name.parse().unwrap()));
        paths.make_state_dir().unwrap();
        self.locks.push(LifeLock::acquire(&paths.life_lock(), &pod).unwrap());
        let claim = Claim { pod, worker: "ledger".into(), state_dir: paths.state_dir().to_owned(), origin };
        self.registry.claim(&claim, NOW).unwrap();
    }

    /// It has said so, in the registry and in its life lock.
    fn is_process(&self, name: &str, process: Process) {
        self.registry.is_process(&pod(name), process).unwrap();
        self.says(name, process.pid);
    }

    fn says(&self, name: &str, pid: i32) {
        let holder = life_lock::Holder { pid: u32::try_from(pid).ok(), pod: Some(pod(name)) };
        let lock = self.roots.pod(&name.parse().unwrap()).life_lock();
        std::fs::write(lock, serde_json::to_string(&holder).unwrap()).unwrap();
    }

    fn kin(&self, asked: &str, line: &[Process], marks: &[&str]) -> Kin {
        let lives: Vec<_> = marks.iter().map(|name| pod(name).incarnation).collect();
        self.registry.kin(&pod(asked), line, &lives).unwrap()
    }
}

fn pod(name: &str) -> PodId {
    fixture::pod(name, name.bytes().fold(0, |number, byte| number * 131 + u64::from(byte)))
}

fn child_of(parent: &str, rules: &[ScopeRule]) -> Origin {
    Origin::Child { parent: pod(parent), asked: Rules::new(rules).unwrap() }
}

fn process(pid: i32) -> Process {
    Process { pid, began: 7 }
}

#[test]
fn what_a_pod_with_a_scope_has_started_may_ask_that_pod_and_those_below_it_and_no_other() {
    let world = World::new();
    for (at, name) in ["root", "free", "bound", "below"].into_iter().enumerate() {
        world.is_process(name, process(100 + i32::try_from(at).unwrap()));
    }
    let [root, free, bound, below] = [100, 101, 102, 103].map(process);
    let (tool, shell) = (process(500), process(20));
    let outside = |by| Reach::Outside(pod(by));
    // (who asks, the process itself first; the marks that are borne in its line; whom; what it may)
    let cases: [(&[Process], &[&str], &str, Reach); 18] = [
        (&[shell], &[], "root", Reach::All),
        (&[shell], &[], "bound", Reach::All),
        (&[shell], &["free"], "bound", Reach::All),
        (&[tool, root], &[], "bound", Reach::All),
        (&[tool, free, root], &[], "root", Reach::All),
        (&[tool, free, root], &[], "bound", Reach::All),
        (&[tool, bound, root], &[], "root", outside("bound")),
        (&[tool, bound, root], &[], "free", outside("bound")),
        (&[tool, bound, root], &[], "bound", Reach::All),
        (&[tool, bound, root], &[], "below", Reach::All),
        (&[tool, below, bound, root], &[], "below", Reach::All),
        (&[tool, below, bound, root], &[], "bound", outside("below")),
        (&[tool, below, bound, root], &[], "free", outside("below")),
        // The pod's own process, too.
        (&[bound, root], &[], "root", outside("bound")),
        // What has left its line is known by its mark alone.
        (&[tool, shell], &["bound"], "root", outside("bound")),
        (&[tool, shell], &["bound"], "below", Reach::All),
        // A pod that somebody bound has started binds no less.
        (&[tool, free, tool, bound], &[], "root", outside("bound")),
        // A number that was given again.
        (&[tool, Process { began: 9, ..bound }], &[], "root", Reach::All),
    ];
    for (line, marks, asked, expected) in cases {
        assert_eq!(decide(&world.kin(asked, line, marks)), expected, "{line:?} with {marks:?} asks {asked}");
    }
}

#[test]
fn pod_that_has_not_said_which_process_it_is_is_known_by_its_life_lock_and_a_dead_one_is_none() {
    let mut world = World::new();
    let own = own().unwrap();
    // All live in this process, as pods of an embedding program do.
    assert!(world.kin("root", &[own], &[]).pods.len() == 4);
    assert_eq!(decide(&world.kin("free", &[own], &[])), Reach::All, "the process itself is each of them");
    let program = [process(500), own];
    assert!(matches!(decide(&world.kin("free", &program, &[])), Reach::Outside(_)), "it may be anybody's");
    assert_eq!(decide(&world.kin("free", &program, &["free"])), Reach::All, "its mark says whose it is");
    assert_eq!(decide(&world.kin("free", &program, &["below"])), Reach::Outside(pod("below")));
    world.is_process("bound", own);
    world.locks.retain(|lock| !lock.path().to_string_lossy().contains("/b"));
    let kin = world.kin("free", &program, &[]);
    assert_eq!((kin.pods.len(), decide(&kin)), (2, Reach::All));
}

#[test]
fn each_method_is_a_report_a_look_or_changes_something() {
    // What is reported is the tie's to judge.
    let judged = || Method::METHODS.iter().filter(|method| !REPORTS.contains(&method.id));
    let denied = |reach: &Reach| {
        let denied = judged().filter(|method| reach.denial(method.id, "it".into(), "root").is_some());
        denied.map(|method| method.name).collect::<Vec<_>>()
    };
    assert_eq!(denied(&Reach::All), [""; 0]);
    let changing = [
        "run",
        "notify",
        "cancel",
        "pause",
        "resume",
        "shutdown",
        "compact",
        "rewind_to",
        "adopt",
        "detach",
        "spawn_pod",
        "send_to_pod",
        "stop_pod",
        "attach_or_restore_pod",
    ];
    assert_eq!(denied(&Reach::Unplaced("x".into())), changing);
    assert_eq!(denied(&Reach::Outside(pod("bound"))), judged().map(|method| method.name).collect::<Vec<_>>());
    let reports = Method::METHODS.iter().filter(|method| REPORTS.contains(&method.id)).map(|method| method.name);
    assert_eq!(reports.collect::<Vec<_>>(), ["pod_event_offer", "child_ready"]);
}

#[test]
fn denial_says_who_is_bound_by_what_and_fits_whatever_the_names_are() {
    let long = "n".repeat(64);
    let by = PodId { name: long.parse().unwrap(), incarnation: Incarnation(1) };
    let said = Reach::Outside(by).denial(1, who_in_words(Some(4_194_304)), &long).unwrap();
    assert!(said.len() <= 256 && said.ends_with("none of them"), "{} bytes: {said}", said.len());
    let said = Reach::Unplaced("it has ended".into()).denial(1, who_in_words(None), "a").unwrap();
    assert!(said.contains("may only look") && said.ends_with("it has ended"), "{said}");
}

#[test]
fn row_whose_process_is_not_the_one_that_holds_its_life_lock_is_of_another_boot_or_namespace() {
    let world = World::new();
    world.is_process("bound", process(102));
    assert_eq!(world.kin("root", &[process(500), process(102)], &[]).pods.len(), 1);
    world.says("bound", 7);
    assert_eq!(world.kin("root", &[process(500), process(102)], &[]).pods.len(), 0);
}

#[test]
fn root_starts_where_nobody_is_bound_for_certain_and_else_only_if_it_is_known_by_whom_it_is_not() {
    let world = World::new();
    let nothing_shown = tempfile::tempdir().unwrap();
    let own = PodId::new("new".parse().unwrap(), Incarnation(1));
    let bound_by = |proc: &Path| bound_by_in(proc, &world.registry, &world.roots, &own);
    let Err(Unplaced::Processes(why)) = bound_by(nothing_shown.path()) else { panic!("nobody has looked") };
    assert!(why.contains("ended"), "{why}");
    let said = Unplaced::Processes(why).to_string();
    assert!(said.contains("hidepid") && said.contains("scope"), "{said}");
    for name in ["below", "bound"] {
        world.registry.give_back(&pod(name)).unwrap();
    }
    assert_eq!(bound_by(nothing_shown.path()), Ok(None), "nobody has a scope");
    let none = Registry::at(&Roots::at(&nothing_shown.path().join("root")).unwrap());
    assert_eq!(bound_by_in(nothing_shown.path(), &none, &world.roots, &own), Ok(None), "there is no registry");
    // One that is not there and one that cannot be read are two things.
    let broken = Registry::at(&Roots::at(&nothing_shown.path().join("broken")).unwrap());
    std::fs::write(broken.path(), "no registry, but long enough to be taken for one".repeat(20)).unwrap();
    let Err(Unplaced::Registry(why)) = bound_by_in(nothing_shown.path(), &broken, &world.roots, &own) else {
        panic!("what cannot be read binds nobody")
    };
    assert!(why.contains("no database"), "{why}");
}

/// A look from the outside, as at the first stranger who connects.
fn sight(world: &World) -> Arc<Sight> {
    let any_scoped = AtomicBool::new(world.registry.any_scoped().unwrap());
    let registry = world.registry.clone();
    Arc::new(Sight { own: pod("root"), registry, roots: world.roots.clone(), any_scoped, looking: AtomicUsize::new(0) })
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_kept_from_anything_by_what_cannot_be_known_unless_a_pod_has_a_scope() {
    let world = World::new();
    let outside_of_the_namespace = sight(&world).look(None);
    assert!(outside_of_the_namespace.unwrap_err().contains("namespace"));
    for name in ["below", "bound"] {
        world.registry.give_back(&pod(name)).unwrap();
    }
    let sight = sight(&world);
    assert_eq!((sight.look(None), sight.any_scoped.load(Ordering::SeqCst)), (Ok(Reach::All), false));
    // A newer program has changed the file since: this connection is not asked its version again.
    rusqlite::Connection::open(world.registry.path()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert_eq!(sight.look(None), Ok(Reach::All));
}

#[tokio::test(flavor = "multi_thread")]
async fn look_that_takes_for_ever_holds_up_nobody_else_and_takes_no_more_threads_than_its_own() {
    let world = World::new();
    let sight = sight(&world);
    sight.looking.store(LOOKS_MAX, Ordering::SeqCst);
    assert!(sight.look(Some(1)).unwrap_err().contains("still being looked at"));
    sight.looking.store(0, Ordering::SeqCst);
    // A registry that does not answer: its one connection is taken.
    let (taken, release) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel::<()>());
    let registry = sight.registry.clone();
    let (says_taken, held) = (taken.0, release.1);
    let holder = std::thread::spawn(move || {
        registry.held_while(|| {
            says_taken.send(()).unwrap();
            let _ = held.recv();
        })
    });
    taken.1.recv().unwrap();
    let (looking, others) = (Arc::clone(&sight), tokio::spawn(async { tokio::task::yield_now().await }));
    let late = tokio::spawn(async move { looking.look(Some(1)) }).await.unwrap();
    assert!(late.unwrap_err().contains("takes longer"));
    others.await.unwrap();
    assert_eq!(sight.looking.load(Ordering::SeqCst), 1);
    drop(release.0);
    holder.join().unwrap();
    let over = async {
        while sight.looking.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    crate::fixture::within("the look is over", over).await;
}
