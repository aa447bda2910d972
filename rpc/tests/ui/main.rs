//! What must not compile, and the sentence with which it does not.
//!
//! Each file in `cases` is checked as a program of its own. `//~ text` at the end of a line says that an error whose
//! message contains `text` is reported there; `//~~ text` that one is reported anywhere, also in the library. An error
//! that nobody announced fails the test too. Only the sentence and its line are compared, not how the compiler draws
//! them, so that the tests hold on every compiler.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An error's place (`case.rs`, line) and message.
type Error = ((String, usize), String);

#[test]
fn what_cannot_travel_does_not_compile_and_says_why() {
    let cases = cases();
    assert!(cases.len() >= 10, "the cases are gone: {cases:?}");
    let output = check(&project(&cases));
    let errors = errors(&output);
    let mut wrong = String::new();
    for case in &cases {
        judge(case, &errors, &mut wrong);
    }
    assert!(wrong.is_empty(), "{wrong}\nthe compiler said:\n{output}");
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui/cases");
    let mut cases: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// A package of its own, outside of the workspace, with one program for each case.
fn project(cases: &[PathBuf]) -> PathBuf {
    let rpc = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui");
    fs::create_dir_all(&project).unwrap();
    let mut manifest = format!(
        "[package]\nname = \"ui\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n\
         rpc = {{ path = {rpc:?} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n"
    );
    for case in cases {
        let name = case.file_stem().unwrap().to_str().unwrap();
        writeln!(manifest, "[[bin]]\nname = \"{name}\"\npath = {case:?}").unwrap();
    }
    fs::write(project.join("Cargo.toml"), manifest).unwrap();
    // The versions that are being tested, which are there without a network.
    let lock = rpc.ancestors().map(|folder| folder.join("Cargo.lock")).find(|lock| lock.exists()).unwrap();
    fs::copy(lock, project.join("Cargo.lock")).unwrap();
    project
}

#[allow(clippy::disallowed_methods, reason = "the compiler is no child of a pod")]
fn check(project: &Path) -> String {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()))
        .args(["check", "--offline", "--bins", "--keep-going", "--message-format=short", "--color=never"])
        .current_dir(project)
        .env("CARGO_TARGET_DIR", target)
        // Flags that make errors of warnings would add errors of their own.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Lines of the form `path/case.rs:3:7: error[E0277]: message`.
fn errors(output: &str) -> Vec<Error> {
    output.lines().filter_map(error).collect()
}

fn error(line: &str) -> Option<Error> {
    let (place, message) = line.split_once(": error")?;
    let mut place = place.rsplitn(3, ':').skip(1);
    let number = place.next()?.parse().ok()?;
    let file = Path::new(place.next()?).file_name()?.to_str()?.to_owned();
    Some(((file, number), message.to_owned()))
}

fn judge(case: &Path, errors: &[Error], wrong: &mut String) {
    let file = case.file_name().unwrap().to_str().unwrap();
    let mut expected: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    let source = fs::read_to_string(case).unwrap();
    for (line, number) in source.lines().zip(1..) {
        if let Some((_, text)) = line.split_once("//~~ ") {
            if !errors.iter().any(|(_, message)| message.contains(text)) {
                writeln!(wrong, "{file}: nowhere an error that says `{text}`").unwrap();
            }
        } else if let Some((_, texts)) = line.split_once("//~ ") {
            expected.insert(number, texts.split(" //~ ").collect());
        }
    }
    for (number, texts) in &expected {
        for text in texts {
            let said = |(place, message): &Error| *place == (file.to_owned(), *number) && message.contains(text);
            if !errors.iter().any(said) {
                writeln!(wrong, "{file}:{number}: no error that says `{text}`").unwrap();
            }
        }
    }
    for ((_, number), message) in errors.iter().filter(|((reported, _), _)| reported == file) {
        let announced = expected.get(number).is_some_and(|texts| texts.iter().any(|text| message.contains(text)));
        if !announced {
            writeln!(wrong, "{file}:{number}: unexpected error{message}").unwrap();
        }
    }
}
