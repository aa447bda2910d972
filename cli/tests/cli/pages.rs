//! What the pages for people say is what the program takes: each command and option that they name, and each example of a
//! manifest or a script.

use std::collections::{BTreeMap, BTreeSet};

use pod::manifest::{Manifest, WorkerSpec};
use pod::worker::{Script, Workers};

use crate::world::World;

/// The pages, each with the commands that it names at least.
const PAGES: [(&str, &str, usize); 4] = [
    ("README.md", include_str!("../../../README.md"), 8),
    ("SECURITY.md", include_str!("../../../SECURITY.md"), 2),
    ("docs/OPERATIONS.md", include_str!("../../../docs/OPERATIONS.md"), 8),
    ("docs/USING.md", include_str!("../../../docs/USING.md"), 24),
];

/// The blocks of `page` that begin with a line of this kind.
fn blocks<'p>(page: &'p str, kind: &str) -> Vec<&'p str> {
    let opening = format!("```{kind}\n");
    let starts = page.match_indices(&opening).map(|(at, _)| at + opening.len());
    starts.map(|start| page[start..].split_once("\n```").map_or("", |(block, _)| block)).collect()
}

/// Each `pod COMMAND` of `page`, in code, with the options that stand behind it.
fn commands(page: &str) -> Vec<(String, Vec<String>)> {
    let quoted = page.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let typed = blocks(page, "sh").into_iter().flat_map(str::lines).flat_map(|line| line.split("&&"));
    let typed = typed.map(|line| line.split("  #").next().unwrap_or_default());
    let mut found = Vec::new();
    for words in quoted.chain(typed) {
        let mut words = words.split_whitespace().map(|word| word.trim_end_matches([',', ')']));
        if words.next() != Some("pod") {
            continue;
        }
        let words: Vec<&str> = words.collect();
        if let Some(command) = words.first().filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())) {
            let options = words.iter().filter(|word| word.starts_with("--"));
            found.push(((*command).to_owned(), options.map(|&option| option.to_owned()).collect()));
        }
    }
    found
}

#[tokio::test]
async fn commands_and_options_that_a_page_names_are_there() {
    let world = World::new();
    let mut wanted: BTreeMap<String, BTreeSet<(String, &str)>> = BTreeMap::new();
    for (name, page, least) in PAGES {
        let found = commands(page);
        assert!(found.len() >= least, "{name} names {} commands", found.len());
        for (command, options) in found {
            let wanted = wanted.entry(command).or_default();
            wanted.extend(options.into_iter().map(|option| (option, name)));
        }
    }
    for (command, options) in wanted {
        let help = world.bare(&[&command, "--help"], &[]).await;
        assert_eq!(help.code, 0, "a page names `pod {command}`: {help:?}");
        for (option, page) in options {
            let known = help.stdout.split_whitespace().any(|word| word.trim_end_matches([',', '.']) == option);
            assert!(known, "{page} names `pod {command} .. {option}`");
        }
    }
}

#[test]
fn examples_of_manifests_and_scripts_are_read_as_they_stand() {
    let using = PAGES[3].1;
    let manifests = blocks(using, "toml manifest");
    assert_eq!(manifests.len(), 2);
    for text in manifests {
        let manifest = Manifest::parse(text, "docs/USING.md").unwrap();
        Workers::builtin().make(&manifest.worker).unwrap();
    }
    let scripts = blocks(using, "toml script");
    assert_eq!(scripts.len(), 1);
    for text in scripts {
        Script::from_spec(&WorkerSpec::scripted(text, "docs/USING.md").unwrap()).unwrap();
    }
}
