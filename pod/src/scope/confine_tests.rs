//! Whatever is swapped, linked or renamed while files of a scope are used: nothing outside is touched.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;
use crate::scope::{Permission, Rules, ScopeRule};
use crate::store::fixture::pod;

const CANARY: &[u8] = b"nobody has been here";

struct World {
    dir: TempDir,
}

impl World {
    /// `in`, which the scope may write, with `in/d`; and `out`, with a file that nobody may touch.
    fn new() -> Self {
        let world = Self { dir: TempDir::new().unwrap() };
        for dir in ["in", "in/d", "in/secret", "out", "out/d"] {
            std::fs::create_dir(world.at(dir)).unwrap();
        }
        std::fs::write(world.at("out/f"), CANARY).unwrap();
        std::fs::write(world.at("out/d/f"), CANARY).unwrap();
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(path)
    }

    fn scope(&self) -> Scope {
        let rule = |path: &str, permission| ScopeRule::below(self.at(path).to_str().unwrap(), permission);
        Scope::of(Rules::new(&[rule("in", Permission::Write), rule("in/secret", Permission::Deny)]).unwrap())
    }

    /// Nothing outside was made, changed or removed.
    #[track_caller]
    fn outside_is_untouched(&self) {
        for dir in ["out", "out/d"] {
            let expected = if dir == "out" { vec!["d", "f"] } else { vec!["f"] };
            let entries = std::fs::read_dir(self.at(dir)).unwrap();
            let mut found: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            found.sort();
            assert_eq!(found, expected, "in {dir}");
            assert_eq!(std::fs::read(self.at(dir).join("f")).unwrap(), CANARY, "in {dir}");
        }
    }

    /// Everything that a scope can do, at `path`, in turn. Tells whether it was done.
    fn try_all(&self, scope: &Scope, path: &Path, number: usize) -> bool {
        let other = path.with_extension("other");
        let done = match number % 5 {
            0 => scope.create(path).map(|mut file| file.write_all(b"mine").unwrap()),
            1 => scope.open_write(path).map(|mut file| file.write_all(b"more").unwrap()),
            2 => scope.rename(path, &other),
            3 => scope.make_dir(path),
            _ => scope.remove(path).or_else(|_| scope.remove(&other)),
        };
        done.is_ok()
    }
}

#[test]
fn what_the_scope_does_not_have_is_refused_and_what_it_has_is_used() {
    let world = World::new();
    let scope = world.scope();
    scope.create(&world.at("in/d/new")).unwrap().write_all(b"text").unwrap();
    let mut text = String::new();
    scope.open_read(&world.at("in/d/new")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
    scope.rename(&world.at("in/d/new"), &world.at("in/newer")).unwrap();
    scope.make_dir(&world.at("in/made")).unwrap();
    scope.remove(&world.at("in/made")).unwrap();
    scope.remove(&world.at("in/newer")).unwrap();

    let denied = |path: PathBuf, words: &[&str]| {
        for error in [
            scope.create(&path).unwrap_err(),
            scope.open_write(&path).unwrap_err(),
            scope.open_read(&path).map(drop).unwrap_err(),
            scope.rename(&path, &world.at("in/x")).unwrap_err(),
            scope.remove(&path).unwrap_err(),
        ] {
            assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
        }
    };
    denied(world.at("out/f"), &["out/f", "no right"]);
    denied(world.at("in/secret/x"), &["in/secret/x", "no right"]);
    denied(world.at("in/../out/f"), &["`..`", "write the whole path"]);
    denied(PathBuf::from("in/d/x"), &["not absolute"]);
    assert!(scope.rename(&world.at("in/d"), &world.at("out/e")).is_err());
    world.outside_is_untouched();
}

#[test]
fn link_is_refused_wherever_it_stands_and_removed_without_what_it_names() {
    let world = World::new();
    let scope = world.scope();
    symlink(world.at("out"), world.at("in/to-dir")).unwrap();
    symlink(world.at("out/f"), world.at("in/to-file")).unwrap();
    symlink(world.at("in/secret"), world.at("in/to-secret")).unwrap();
    symlink(format!("/proc/{}/root", std::process::id()), world.at("in/magic")).unwrap();
    for path in ["in/to-dir/f", "in/to-dir/new", "in/to-file", "in/to-secret/x", "in/magic/etc/passwd"] {
        let path = world.at(path);
        for result in [scope.open_read(&path), scope.open_write(&path)] {
            let error = result.unwrap_err();
            assert!(matches!(error, ScopeError::Link { .. }), "{error}");
        }
        assert!(scope.create(&path).is_err());
    }
    scope.remove(&world.at("in/to-file")).unwrap();
    scope.rename(&world.at("in/to-dir"), &world.at("in/renamed")).unwrap();
    world.outside_is_untouched();
}

#[test]
fn file_with_a_second_name_is_read_and_not_written() {
    let world = World::new();
    let scope = world.scope();
    std::fs::hard_link(world.at("out/f"), world.at("in/linked")).unwrap();
    let error = scope.open_write(&world.at("in/linked")).unwrap_err();
    assert!(matches!(error, ScopeError::HardLinked { links: 2, .. }), "{error}");
    assert!(error.to_string().contains("copy it"), "{error}");
    let mut bytes = Vec::new();
    scope.open_read(&world.at("in/linked")).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, CANARY);
    // Its name here may go; the file stays.
    scope.remove(&world.at("in/linked")).unwrap();
    world.outside_is_untouched();
}

#[test]
fn pipes_and_sockets_are_refused_at_once() {
    let world = World::new();
    let scope = world.scope();
    let fifo = world.at("in/fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for result in [scope.open_read(&fifo), scope.open_write(&fifo)] {
        assert!(matches!(result, Err(ScopeError::Special { .. })), "{result:?}");
    }
}

#[test]
fn directory_with_a_rule_inside_it_is_not_moved_away_from_its_rule() {
    let world = World::new();
    let scope = world.scope();
    std::fs::write(world.at("in/secret/x"), "hidden").unwrap();
    let error = scope.rename(&world.at("in"), &world.at("in2")).unwrap_err();
    assert!(matches!(error, ScopeError::HoldsOther { .. }), "{error}");
    std::fs::create_dir(world.at("in/d/sub")).unwrap();
    // Lent to a child: read here, and written there until its end.
    let lent = Rules::new(&[ScopeRule::below(world.at("in/d/sub").to_str().unwrap(), Permission::Write)]).unwrap();
    scope.lend(pod("child", 1), lent);
    assert!(matches!(scope.create(&world.at("in/d/sub/x")), Err(ScopeError::Denied { has: Permission::Read, .. })));
    assert!(matches!(scope.rename(&world.at("in/d"), &world.at("in/e")), Err(ScopeError::HoldsOther { .. })));
    scope.lent(Vec::new());
    scope.rename(&world.at("in/d"), &world.at("in/e")).unwrap();
}

/// Uses the scope while `swap` is called again and again by another thread. Returns how much was done and refused.
fn race(world: &World, path: &Path, swap: impl Fn() + Send) -> (usize, usize) {
    let (scope, stop) = (world.scope(), AtomicBool::new(false));
    let (mut done, mut refused) = (0, 0);
    std::thread::scope(|threads| {
        let stop = &stop;
        threads.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                swap();
            }
        });
        for number in 0..20_000 {
            if world.try_all(&scope, path, number) { done += 1 } else { refused += 1 }
        }
        stop.store(true, Ordering::Relaxed);
    });
    world.outside_is_untouched();
    writeln!(std::io::stdout(), "{done} done, {refused} refused").unwrap();
    (done, refused)
}

#[test]
fn directory_that_becomes_a_link_again_and_again_leads_nowhere_outside() {
    let world = World::new();
    let (dir, kept, out) = (world.at("in/d"), world.at("in/kept"), world.at("out/d"));
    let swap = || {
        std::fs::rename(&dir, &kept).unwrap();
        symlink(&out, &dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        std::fs::rename(&kept, &dir).unwrap();
    };
    let (done, refused) = race(&world, &world.at("in/d/f"), swap);
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused: nothing was raced for");
}

#[test]
fn file_that_becomes_a_link_again_and_again_is_never_followed() {
    let world = World::new();
    let (file, out) = (world.at("in/d/f"), world.at("out/f"));
    let swap = || {
        let _ = std::fs::remove_file(&file);
        let _ = symlink(&out, &file);
        let _ = std::fs::remove_file(&file);
        let _ = std::fs::write(&file, "here");
    };
    let (done, _) = race(&world, &file, swap);
    assert!(done > 0);
}

#[test]
fn file_that_becomes_a_hard_link_again_and_again_is_written_only_while_it_is_none() {
    let world = World::new();
    let (file, out) = (world.at("in/d/f"), world.at("out/f"));
    let swap = || {
        let _ = std::fs::remove_file(&file);
        let _ = std::fs::hard_link(&out, &file);
        let _ = std::fs::remove_file(&file);
    };
    let (done, _) = race(&world, &file, swap);
    assert!(done > 0);
}

#[test]
fn scope_that_is_renamed_while_it_is_used_leads_nowhere_outside() {
    let world = World::new();
    let (scope, away, out) = (world.at("in"), world.at("away"), world.at("out"));
    let swap = || {
        std::fs::rename(&scope, &away).unwrap();
        symlink(&out, &scope).unwrap();
        std::fs::remove_file(&scope).unwrap();
        std::fs::rename(&away, &scope).unwrap();
    };
    let (done, refused) = race(&world, &world.at("in/d/f"), swap);
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused: nothing was raced for");
}
