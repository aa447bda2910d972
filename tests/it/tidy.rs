//! Rules of the house that no compiler checks: which layer may name what.
//!
//! Reads the sources as text. A rule that is wrong here is wrong in `ARCHITECTURE.md` too.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every Rust source below `folder`, with its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("a source is text")));
            }
        }
    }
    assert!(!found.is_empty(), "no source below `{folder}`");
    found
}

/// The lines that are shipped: no comments, no tests, which stand at the end of a file or in one of their own.
fn code<'a>(name: &str, text: &'a str) -> impl Iterator<Item = &'a str> {
    let tests = ["#[cfg(test)]\n", "#[cfg(all(test"].iter().filter_map(|start| text.find(start)).min();
    let end = if name.ends_with("_tests.rs") { 0 } else { tests.unwrap_or(text.len()) };
    let shipped = &text[..end];
    shipped.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// Lines of code below `folder` that contain `word`, outside the files that `allowed` names.
#[track_caller]
fn nowhere_but(folder: &str, word: &str, allowed: &[&str], why: &str) {
    let mut seen = 0;
    for (name, text) in sources(folder) {
        let hits = code(&name, &text).filter(|line| line.contains(word)).count();
        seen += hits;
        assert!(hits == 0 || allowed.iter().any(|allowed| name.contains(allowed)), "`{word}` in {name}: {why}");
    }
    assert!(allowed.is_empty() || seen > 0, "`{word}` is nowhere below `{folder}`: the rule checks nothing");
}

#[test]
fn codec_is_named_in_one_folder() {
    nowhere_but("rpc/src", "bincode", &["wire/body"], "the codec must stay replaceable");
    nowhere_but("pod/src", "bincode", &[], "the codec must stay replaceable");
}

#[test]
fn word_of_the_upper_crate_does_not_occur_in_rpc() {
    for (name, text) in sources("rpc/src").into_iter().chain(sources("rpc/derive/src")) {
        let words = text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
        assert!(!words.into_iter().any(|word| word == "pod" || word == "pods"), "{name} knows what it is used for");
    }
}

#[test]
fn session_and_wire_do_no_io() {
    for layer in ["rpc/src/session", "rpc/src/wire"] {
        for word in ["tokio::", "std::net", "std::fs", "Instant::now", "SystemTime", "thread::spawn"] {
            for (name, text) in sources(layer) {
                let hit = code(&name, &text).any(|line| line.contains(word));
                assert!(!hit, "`{word}` in {name}: time, bytes and randomness are arguments");
            }
        }
    }
}

#[test]
fn wire_imports_nothing_above_it() {
    for word in ["crate::session", "crate::io", "crate::client", "crate::server"] {
        nowhere_but("rpc/src/wire", word, &[], "layers import one way");
    }
    for word in ["crate::io", "crate::client::", "crate::server::"] {
        nowhere_but("rpc/src/session", word, &[], "layers import one way");
    }
}

#[test]
fn pure_state_of_the_controller_knows_no_store_and_no_runtime() {
    let (_, text) = sources("pod/src/controller")
        .into_iter()
        .find(|(name, _)| name.ends_with("controller/state.rs"))
        .expect("the state table");
    for word in ["tokio", "crate::store", "std::time", "async "] {
        assert!(!code("state.rs", &text).any(|line| line.contains(word)), "`{word}` in controller/state.rs");
    }
}

#[test]
fn sql_stays_in_the_store() {
    nowhere_but(
        "pod/src",
        "rusqlite",
        &["store/", "src/registry/"],
        "transactions are methods of the store and of the registry",
    );
}

#[test]
fn programs_are_started_in_two_places() {
    nowhere_but(
        "pod/src",
        "Command::new",
        &["spawn/supervisor.rs", "worker/command", "scope/launch.rs"],
        "a started program needs its own group",
    );
}

#[test]
fn command_line_speaks_no_wire() {
    for word in ["rpc::wire", "rpc::session", "rusqlite"] {
        nowhere_but("cli/src", word, &[], "the command line knows arguments and output");
    }
}
