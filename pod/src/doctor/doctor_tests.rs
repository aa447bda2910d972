use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::id::{Incarnation, PodId, WorkId};
use crate::life_lock::LifeLock;
use crate::protocol::LostReason;
use crate::registry::{Claim, Origin, Registry};
use crate::runtime_dir::{PodPaths, ROOT_VARIABLE};
use crate::scope::{Confinement, Permission, Rules, ScopeRule};
use crate::spawn::process::LIFE_VARIABLE;
use crate::store::fixture::{self, new_child, pod};
use crate::store::{EndOfLife, Lifetime, NewChild, Room, Store, Tx, UndeliverableReason};

struct Place {
    roots: Roots,
    // Last: removed when nothing uses it any more.
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { roots: Roots::at(&dir.path().join("r")).unwrap(), _dir: dir }
    }

    /// What is found, but for the machine that the test runs on.
    fn found(&self, mend: bool) -> Vec<Finding> {
        let report = examine(&self.roots, mend, &mut |_| {});
        let machine = |check: Check| matches!(check, Check::Kernel | Check::Limit | Check::FileSystem);
        report.findings.into_iter().filter(|finding| !machine(finding.check)).collect()
    }

    fn paths(&self, name: &str) -> PodPaths {
        self.roots.pod(&name.parse().unwrap())
    }

    /// A pod that has lived as its life 1 and has ended.
    async fn ended(&self, name: &str) -> Store {
        let paths = self.paths(name);
        paths.make_state_dir().unwrap();
        drop(LifeLock::acquire(&paths.life_lock(), &pod(name, 1)).unwrap());
        let store = Store::open(paths.store(), fixture::options(name)).unwrap();
        store.write(|tx| tx.recover()).await.unwrap();
        store
    }

    /// A child of life 1, as its parent will know it.
    fn child(&self, name: &str, lifetime: Lifetime) -> NewChild {
        let paths = self.paths(name);
        let runtime_dir = paths.runtime_dir().to_owned();
        NewChild { socket: paths.socket(), store: paths.store(), runtime_dir, lifetime, ..new_child(&pod(name, 1)) }
    }

    async fn has_child(&self, parent: &Store, name: &str, lifetime: Lifetime) {
        let child = self.child(name, lifetime);
        parent.write(move |tx| tx.reserve_child(&child)).await.unwrap();
    }

    /// Takes the life of a root into the registry, writing below `writes` if it does.
    fn registers(&self, life: &PodId, writes: Option<&Path>) {
        let rules = writes.map(|path| vec![ScopeRule::below(path.to_str().unwrap(), Permission::Write)]);
        let scope = rules.map(|rules| Rules::new(&rules).unwrap());
        let (limits, confinement) = (crate::manifest::Limits::default().tree(), Confinement::default());
        let claim = Claim {
            pod: life.clone(),
            worker: "ledger".into(),
            state_dir: self.roots.pod(&life.name).state_dir().to_owned(),
            origin: Origin::Root { limits, scope, confinement },
        };
        Registry::at(&self.roots).claim(&claim, crate::store::Clock::System.now()).unwrap();
    }

    fn lives(&self, name: &str) -> LifeLock {
        LifeLock::acquire(&self.paths(name).life_lock(), &pod(name, 1)).unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The one finding of that kind.
#[track_caller]
fn one(found: &[Finding], check: Check) -> &Finding {
    let mut all = found.iter().filter(|finding| finding.check == check);
    match (all.next(), all.next()) {
        (Some(finding), None) => {
            assert!(!finding.why.is_empty() && !finding.remedy.is_empty(), "{finding:?}");
            finding
        }
        _ => panic!("not one {check:?} in {found:#?}"),
    }
}

fn done(finding: &Finding) -> bool {
    matches!(finding.mended, Some(Mended::Done(_)))
}

#[tokio::test]
async fn healthy_root_has_no_finding_and_is_left_as_it_is() {
    let place = Place::new();
    let parent = place.ended("a").await;
    place.ended("b").await;
    place.has_child(&parent, "b", Lifetime::Tied).await;
    let end = |tx: &Tx<'_>| {
        crate::event::end_child(tx, &pod("b", 1), EndOfLife::Dead(LostReason::Unobserved), None).map(|_| ())
    };
    parent.write(end).await.unwrap();
    let lives = place.ended("c").await;
    let _c = place.lives("c");
    place.registers(&pod("c", 1), None);
    place.paths("c").claim(&pod("c", 1)).unwrap();
    std::fs::write(place.paths("c").socket(), "").unwrap();
    assert_eq!(place.found(true), []);
    let mut tables = 0;
    let report = examine(&place.roots, false, &mut |_| tables += 1);
    assert!((report.pods, report.living) == (3, 1) && tables > 10 && report.facts.len() > 5, "{report:?}");
    drop(lives);
}

#[test]
fn root_that_is_not_there_is_no_problem_and_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots::named(Some(&dir.path().join("no/such"))).unwrap();
    let report = examine(&roots, true, &mut |_| {});
    assert!(report.findings.iter().all(|finding| finding.check != Check::Root || !finding.is_open()), "{report:?}");
    assert!(!dir.path().join("no").exists());
}

#[tokio::test]
async fn modes_that_let_others_in_are_found_and_mended() {
    let place = Place::new();
    place.ended("a").await;
    let paths = place.paths("a");
    let opened =
        [place.roots.state_root(), place.roots.runtime_root(), paths.state_dir(), &paths.store()].map(Path::to_owned);
    for path in &opened {
        chmod(path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    let found = place.found(false);
    assert_eq!(found.iter().filter(|finding| finding.what.contains("others may use it")).count(), 4, "{found:#?}");
    assert!(found.iter().all(|finding| finding.is_open() && finding.mended.is_none()));
    assert_eq!(mode(&opened[0]), 0o755, "a look has changed something");
    assert!(place.found(true).iter().all(done));
    assert_eq!(opened.each_ref().map(|path| mode(path)), [0o700, 0o700, 0o700, 0o600]);
    assert_eq!(place.found(false), []);
}

#[tokio::test]
async fn link_is_found_and_what_it_leads_to_is_not_touched() {
    let place = Place::new();
    place.ended("a").await;
    let target = place._dir.path().join("target");
    std::fs::write(&target, "x").unwrap();
    chmod(&target, 0o644);
    symlink(&target, place.paths("a").stderr()).unwrap();
    let found = place.found(true);
    let finding = one(&found, Check::Mode);
    assert!(finding.what.contains("symbolic link") && finding.is_open(), "{finding:?}");
    assert_eq!(mode(&target), 0o644);
}

#[tokio::test]
async fn what_a_dead_life_has_left_is_removed_and_what_a_living_one_uses_is_not() {
    let place = Place::new();
    for name in ["dead", "lives"] {
        place.ended(name).await;
        place.paths(name).claim(&pod(name, 1)).unwrap();
        std::fs::write(place.paths(name).socket(), "").unwrap();
    }
    let _lives = place.lives("lives");
    place.registers(&pod("lives", 1), None);
    let found = place.found(false);
    assert!(one(&found, Check::RuntimeDir).place.ends_with("/dead"), "{found:#?}");
    assert!(place.paths("dead").socket().exists());
    assert!(done(one(&place.found(true), Check::RuntimeDir)));
    assert!(!place.paths("dead").runtime_dir().exists() && place.paths("lives").socket().exists());
    assert_eq!(place.found(true), []);

    // Something in it that no pod makes: it is left to whoever has put it there.
    place.paths("dead").claim(&pod("dead", 1)).unwrap();
    std::fs::create_dir(place.paths("dead").runtime_dir().join("thesis")).unwrap();
    let found = place.found(true);
    assert!(matches!(&one(&found, Check::RuntimeDir).mended, Some(Mended::Failed(why)) if why.contains("thesis")));
    // Who held the lock last is still known: its programs are told by that.
    let last = crate::life_lock::last_holder(&place.paths("dead").life_lock());
    assert_eq!(last.pod, Some(pod("dead", 1)));
}

#[tokio::test]
async fn what_a_child_that_is_just_starting_needs_is_left_alone() {
    let place = Place::new();
    let parent = place.ended("a").await;
    place.ended("b").await;
    place.paths("b").claim(&pod("b", 1)).unwrap();
    // Its parent lives and has reserved its next life, which holds no lock yet.
    let next = NewChild { pod: random("b"), ..place.child("b", Lifetime::Tied) };
    parent.write(move |tx| tx.reserve_child(&next)).await.unwrap();
    let living = place.lives("a");
    let found = place.found(true);
    assert!(matches!(&one(&found, Check::RuntimeDir).mended, Some(Mended::Failed(why)) if why.contains("beginning")));
    assert!(place.paths("b").runtime_dir().exists());
    drop(living);
    assert!(done(one(&place.found(true), Check::RuntimeDir)));
}

#[tokio::test]
async fn what_a_parent_that_lives_expects_and_cannot_be_asked_for_is_not_mended() {
    let place = Place::new();
    let parent = place.ended("a").await;
    parent.close().await;
    place.ended("b").await;
    place.paths("b").claim(&pod("b", 1)).unwrap();
    let living = place.lives("a");
    std::fs::write(place.paths("a").store(), "no store, but long enough to be taken for one".repeat(20)).unwrap();
    let found = place.found(true);
    let said = &one(&found, Check::RuntimeDir).mended;
    assert!(
        matches!(said, Some(Mended::Failed(why)) if why.contains("cannot be known") && why.contains("`a`")),
        "{said:?}"
    );
    assert!(place.paths("b").runtime_dir().exists());
    // One that is dead expects nobody, whatever its store is.
    drop(living);
    let found = place.found(true);
    assert!(
        found
            .iter()
            .any(|finding| finding.check == Check::RuntimeDir && finding.place.ends_with("/b") && done(finding))
    );
    assert!(!place.paths("b").runtime_dir().exists());
}

#[tokio::test]
async fn store_of_a_pod_in_this_very_process_is_tightened_and_stays_locked() {
    let place = Place::new();
    let path = place.paths("a").store();
    let store = place.ended("a").await;
    chmod(&path, 0o644);
    // Asked through a descriptor that stays open: to close one is what would give the locks of this process up.
    let asks = std::fs::File::open(&path).unwrap();
    let locked = || {
        let mut found = nix::libc::flock {
            l_type: nix::libc::F_WRLCK as nix::libc::c_short,
            l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&asks, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut found)).unwrap();
        i32::from(found.l_type) != nix::libc::F_UNLCK
    };
    assert!(locked());
    assert!(done(one(&place.found(true), Check::Mode)));
    assert_eq!(mode(&path), 0o600);
    assert!(locked(), "to look at a file has given up what SQLite holds of it");
    store.close().await;
}

#[tokio::test]
async fn registry_that_is_whole_tells_which_lives_are_over_and_they_are_taken_out() {
    let place = Place::new();
    let written = place._dir.path().canonicalize().unwrap();
    let lives = random("lives");
    place.ended("dead").await;
    place.ended("lives").await;
    place.registers(&pod("dead", 1), Some(&written));
    place.registers(&lives, None);
    let _lives = LifeLock::acquire(&place.paths("lives").life_lock(), &lives).unwrap();
    let found = place.found(false);
    let finding = one(&found, Check::Registry);
    assert!(finding.what.contains("1 lives in it are over (`dead`)") && !finding.is_open(), "{finding:?}");
    let report = examine(&place.roots, false, &mut |_| {});
    let fact = report.facts.iter().find(|fact| fact.name == "registry").unwrap();
    assert_eq!(fact.value, "2 lives, 1 rights to write");
    assert!(done(one(&place.found(true), Check::Registry)));
    assert_eq!(place.found(true), []);
    let left: Vec<_> = Registry::at(&place.roots).pods().unwrap().into_iter().map(|row| row.pod).collect();
    assert_eq!(left, [lives]);
}

#[tokio::test]
async fn rights_of_nobody_are_found_and_taken_out() {
    let place = Place::new();
    place.ended("lives").await;
    let _lives = place.lives("lives");
    place.registers(&pod("lives", 1), Some(&place._dir.path().canonicalize().unwrap()));
    let conn = rusqlite::Connection::open(place.roots.registry()).unwrap();
    crate::store::install_sums(&conn).unwrap();
    conn.execute_batch("PRAGMA foreign_keys = OFF; UPDATE leases SET holder = '00000000000000ff';").unwrap();
    drop(conn);
    let found = place.found(false);
    assert!(one(&found, Check::Registry).what.contains("1 rights or bounds in it belong to no life"), "{found:#?}");
    assert!(done(one(&place.found(true), Check::Registry)));
    assert_eq!(place.found(true), []);
}

#[tokio::test]
async fn registry_that_is_gone_damaged_or_does_not_know_a_pod_is_found_and_not_touched() {
    let place = Place::new();
    place.ended("lives").await;
    let _lives = place.lives("lives");
    let path = place.roots.registry();
    let found = place.found(true);
    assert!(one(&found, Check::Registry).what.contains("it is not there, and 1 pods live"), "{found:#?}");
    assert!(!path.exists(), "a look has made it");

    place.ended("other").await;
    place.registers(&pod("other", 1), None);
    let _other = place.lives("other");
    let found = place.found(true);
    let finding = one(&found, Check::Registry);
    assert!(finding.place.contains("`lives`") && finding.what.contains("does not know it"), "{finding:?}");

    for (bytes, words) in
        [(b"no database, and long enough to be one ".repeat(40), "no database"), (vec![0xa5; 8192], "database")]
    {
        for ending in ["-wal", "-shm"] {
            std::fs::remove_file(path.with_extension(format!("db{ending}"))).ok();
        }
        std::fs::write(&path, &bytes).unwrap();
        let found = place.found(true);
        let finding = one(&found, Check::Registry);
        assert!(finding.severity == Severity::Problem && finding.what.contains(words), "{finding:?}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn what_the_kernel_can_confine_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let report = examine(&Roots::named(Some(&dir.path().join("none"))).unwrap(), false, &mut |_| {});
    let fact = |name: &str| report.facts.iter().find(|fact| fact.name == name).unwrap().value.clone();
    let levels = ["required", "best-effort", "off"];
    assert!(levels.contains(&fact("confinement").as_str()), "{}", fact("confinement"));
    // What confines is there, and whoever has none is told what that means.
    let has = fact("Landlock").contains("ABI");
    assert_eq!(has, fact("confinement") != "off", "{report:?}");
    assert_eq!(report.findings.iter().any(|found| found.what.contains("confine")), fact("confinement") != "required");
    assert!(["there", "not there"].contains(&fact("openat2").as_str()));
}

#[tokio::test]
async fn store_that_cannot_be_used_is_found_and_not_touched() {
    let place = Place::new();
    let corrupt = |name: &str, from: u64| {
        let path = place.paths(name).store();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[usize::try_from(from).unwrap()..].fill(0xa5);
        std::fs::write(&path, bytes).unwrap();
    };
    for name in ["damaged", "foreign", "other"] {
        let store = place.ended(name).await;
        store.close().await;
        drop(store);
        // All of it in one file, for what is done to that file.
        let conn = rusqlite::Connection::open(place.paths(name).store()).unwrap();
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    corrupt("damaged", 4096);
    corrupt("foreign", 0);
    std::fs::copy(place.paths("other").store(), place.paths("damaged").state_dir().join("keep")).unwrap();
    let third = place.paths("renamed");
    third.make_state_dir().unwrap();
    std::fs::copy(place.paths("other").store(), third.store()).unwrap();
    chmod(&third.store(), 0o600);
    chmod(&place.paths("damaged").state_dir().join("keep"), 0o600);
    let before = std::fs::read(place.paths("damaged").store()).unwrap();
    let found = place.found(true);
    for (name, words) in
        [("damaged", "is damaged"), ("foreign", "no pod's store"), ("renamed", "belongs to pod `other`")]
    {
        let said = found.iter().find(|finding| finding.place.contains(&format!("/{name}/")));
        let said = said.unwrap_or_else(|| panic!("nothing is said of `{name}`: {found:#?}"));
        assert!(said.severity == Severity::Problem && said.what.contains(words), "{said:?}");
    }
    assert_eq!(found.len(), 3, "{found:#?}");
    assert_eq!(std::fs::read(place.paths("damaged").store()).unwrap(), before);
}

#[tokio::test]
async fn life_lock_that_cannot_be_looked_at_is_found() {
    let place = Place::new();
    place.ended("a").await;
    let lock = place.paths("a").life_lock();
    std::fs::remove_file(&lock).unwrap();
    symlink("/dev/null", &lock).unwrap();
    let found = place.found(true);
    assert_eq!(one(&found, Check::LifeLock).severity, Severity::Problem);
    assert!(lock.is_symlink());
}

#[tokio::test]
async fn events_that_nobody_takes_are_found() {
    let place = Place::new();
    let child = place.ended("b").await;
    let raise = |tx: &Tx<'_>| {
        for work in 1..=3 {
            tx.raise(&fixture::turn_ended(&pod("b", 1), WorkId(work)), Room::Ordinary)?;
        }
        tx.mark_undeliverable(crate::id::Seq(1), UndeliverableReason::Unreadable, "too large")
    };
    child.write(raise).await.unwrap();
    let found = place.found(false);
    let events: Vec<&Finding> = found.iter().filter(|finding| finding.check == Check::Events).collect();
    assert_eq!(events.len(), 2, "{found:#?}");
    assert!(events[0].what.contains("cannot take 1") && events[0].what.contains("too large"), "{events:?}");
    assert!(events[1].what.contains("2 events await a parent that is not here"), "{events:?}");

    let parent = place.ended("a").await;
    place.has_child(&parent, "b", Lifetime::Tied).await;
    let found = place.found(false);
    assert!(found.iter().any(|finding| finding.what.contains("2 events await `a`")), "{found:#?}");
    assert!(one(&found, Check::Child).what.contains("its life is over"), "{found:#?}");
    // With its parent alive it is about to be told.
    let _lives = place.lives("a");
    assert!(!place.found(false).iter().any(|finding| finding.what.contains("await")));
}

#[tokio::test]
async fn detached_child_whose_parent_is_gone_is_found_and_goes_on() {
    let place = Place::new();
    let parent = place.ended("a").await;
    place.ended("b").await;
    place.has_child(&parent, "b", Lifetime::Detached).await;
    let _lives = place.lives("b");
    let found = place.found(true);
    assert!(one(&found, Check::Child).what.contains("goes on alone"), "{found:#?}");
    assert!(matches!(crate::life_lock::probe(&place.paths("b").life_lock()), Ok(crate::life_lock::Life::Held(_))));
}

struct Sleeper(std::process::Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Sleeper {
    #[expect(clippy::disallowed_methods, reason = "a test")]
    fn of(life: Incarnation, root: &Path) -> Self {
        let mut sleep = std::process::Command::new("sleep");
        Self(sleep.arg("60").env(LIFE_VARIABLE, life.to_string()).env(ROOT_VARIABLE, root).spawn().unwrap())
    }

    fn is_orphan(&self, found: &[Finding]) -> bool {
        let place = format!("process {}", self.0.id());
        found.iter().any(|finding| finding.check == Check::Orphan && finding.place == place)
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

#[tokio::test]
async fn program_that_outlived_its_pod_is_killed_and_no_other() {
    let place = Place::new();
    let root = place.roots.moved_to().unwrap().to_owned();
    let parent = place.ended("a").await;
    for name in ["dead", "beginning", "lives"] {
        let store = place.ended(name).await;
        store.close().await;
        let new = NewChild { pod: random(name), ..place.child(name, Lifetime::Tied) };
        parent.write(move |tx| tx.reserve_child(&new)).await.unwrap();
    }
    let rows = parent.read(|reads| reads.children()).await.unwrap();
    let life = |name: &str| rows.iter().find(|row| row.pod.name.as_str() == name).unwrap().pod.clone();
    let dead = life("dead");
    let end = move |tx: &Tx<'_>| {
        crate::event::end_child(tx, &dead, EndOfLife::Dead(LostReason::Unobserved), None).map(|_| ())
    };
    parent.write(end).await.unwrap();
    // Its parent lives, and has started `beginning`, which has no lock yet; `lives` has one.
    let _parent = place.lives("a");
    let _lives = LifeLock::acquire(&place.paths("lives").life_lock(), &life("lives")).unwrap();
    let mut orphan = Sleeper::of(life("dead").incarnation, &root);
    let mut others = [
        Sleeper::of(life("beginning").incarnation, &root),
        Sleeper::of(life("lives").incarnation, &root),
        // Of the same life, in the tree that this one is a copy of.
        Sleeper::of(life("dead").incarnation, Path::new("/elsewhere")),
    ];
    // Until its `exec` is over, a process has the variables of this test.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !orphan.is_orphan(&place.found(false)) {
        assert!(std::time::Instant::now() < until, "{:#?}", place.found(false));
    }
    let found = place.found(true);
    assert!(others.iter().all(|other| !other.is_orphan(&found)), "{found:#?}");
    assert!(done(one(&found, Check::Orphan)), "{found:#?}");
    assert!(!orphan.0.wait().unwrap().success());
    assert!(others.iter_mut().all(Sleeper::lives), "a program of a living pod was killed");

    // One of a life that nobody knows is told, and left alone.
    let mut stranger = Sleeper::of(Incarnation::random(), &root);
    while !stranger.is_orphan(&place.found(true)) {
        assert!(std::time::Instant::now() < until);
    }
    assert!(stranger.lives());
}

/// A life that no other test can have.
fn random(name: &str) -> PodId {
    PodId { incarnation: Incarnation::random(), ..pod(name, 1) }
}

#[test]
fn findings_say_in_json_what_they_are() {
    let finding = Finding::new(Check::RuntimeDir, Severity::Warning, "/r", "left").because("x").remedy("y");
    let json = serde_json::to_value(Finding { mended: Some(Mended::Done("removed".into())), ..finding }).unwrap();
    let expected = serde_json::json!({
        "check": "runtime_dir", "severity": "warning", "place": "/r", "what": "left", "why": "x", "remedy": "y",
        "mended": {"done": "removed"},
    });
    assert_eq!(json, expected);
}
