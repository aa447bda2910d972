//! What a shell is told when somebody presses Tab: words of the command line, and names of pods.
//!
//! The shell asks by starting this program with a variable set; the answer is read from locks and stores, makes nothing,
//! asks no process, and is empty whenever something is wrong: a completion that complains is in everybody's way.
//!
//! Registered by `pod completions SHELL`. Any argument that is a pod's name is completed, without having to say so.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::env::{CompleteEnv, EnvCompleter};
use clap_complete::{ArgValueCompleter, CompletionCandidate};
use pod::id::PodName;
use pod::life_lock::{self, Life};
use pod::runtime_dir::Roots;
use pod::store::StoreReader;

use crate::args::Cli;

/// The variable by which the shell says that it wants words; its value is the shell's name.
pub(crate) const VARIABLE: &str = "POD_COMPLETE";

/// LIMIT: names that are offered; nobody reads more, and each costs a look at a lock.
const NAMES_MAX: usize = 500;
/// LIMIT: pods of which it is said what they do: a store is opened for each, and a key was pressed.
const STATES_MAX: usize = 24;

/// Answers the shell, if it is one that asks. True if so: nothing else is then to be done.
pub(crate) fn answered(args: &[OsString]) -> bool {
    if std::env::var_os(VARIABLE).is_none_or(|shell| shell.is_empty() || shell == "0") {
        return false;
    }
    let root = root_in(args);
    let asked = CompleteEnv::with_factory(move || command(root.clone())).var(VARIABLE);
    // Silent: whatever is wrong, there is nothing to offer.
    let _ = asked.try_complete(args.iter().cloned(), std::env::current_dir().ok().as_deref());
    true
}

/// What makes `shell` ask the program at `completer`.
pub(crate) fn script(shell: &dyn EnvCompleter, completer: &str) -> std::io::Result<String> {
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "pod", "pod", completer, &mut script)?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// The command line, in which each argument that is a pod's name offers those that there are below `root`.
pub(crate) fn command(root: Option<PathBuf>) -> clap::Command {
    with_names(Cli::command(), &root)
}

fn with_names(command: clap::Command, root: &Option<PathBuf>) -> clap::Command {
    let name = TypeId::of::<PodName>();
    let completed = |arg: clap::Arg| {
        if arg.get_value_parser().type_id() != name {
            return arg;
        }
        let root = root.clone();
        arg.add(ArgValueCompleter::new(move |typed: &OsStr| names(root.as_deref(), typed)))
    };
    command.mut_args(completed).mut_subcommands(|below| with_names(below, root))
}

/// The names that begin with `typed`: first those of pods that live, with what they do.
fn names(root: Option<&std::path::Path>, typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let Ok(roots) = Roots::named(root) else { return Vec::new() };
    let Ok(names) = roots.pods() else { return Vec::new() };
    let names = names.into_iter().filter(|name| name.as_str().starts_with(&*typed)).take(NAMES_MAX);
    let mut states = STATES_MAX;
    let candidate = |name: PodName| {
        let paths = roots.pod(&name);
        let (order, help) = match life_lock::probe(&paths.life_lock()) {
            Ok(Life::Held(holder)) => {
                let state = states.checked_sub(1).and_then(|left| {
                    states = left;
                    let store = StoreReader::open(paths.store()).ok()?;
                    store.look(|reads| reads.control()).ok().map(|control| control.state.to_string())
                });
                let process = holder.pid.map(|pid| format!("process {pid}"));
                let says: Vec<String> = state.into_iter().chain(process).collect();
                (0, if says.is_empty() { "alive".to_owned() } else { says.join(", ") })
            }
            Ok(Life::Free) => (1, "ended".to_owned()),
            Err(_) => (2, "cannot be looked at".to_owned()),
        };
        CompletionCandidate::new(name.as_str()).help(Some(help.into())).display_order(Some(order))
    };
    names.map(candidate).collect()
}

/// The root that the line so far says, wherever it stands in it.
fn root_in(args: &[OsString]) -> Option<PathBuf> {
    let typed = args.iter().skip_while(|arg| *arg != "--").skip(1);
    let mut typed = typed.map(|arg| arg.to_string_lossy());
    let mut root = None;
    while let Some(arg) = typed.next() {
        match arg.strip_prefix("--root") {
            Some("") => root = typed.next().filter(|dir| !dir.is_empty()).map(|dir| PathBuf::from(&*dir)),
            Some(value) => root = value.strip_prefix('=').filter(|dir| !dir.is_empty()).map(PathBuf::from),
            None => {}
        }
    }
    root
}

#[cfg(test)]
mod tests {
    use pod::id::{Incarnation, PodId};
    use pod::life_lock::LifeLock;

    use super::*;

    /// What the engine offers for the last of `words`, with what it says of each.
    fn offered(root: &std::path::Path, words: &[&str]) -> Vec<(String, String)> {
        let mut command = command(Some(root.to_owned()));
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        let index = args.len() - 1;
        let found = clap_complete::engine::complete(&mut command, args, index, None).unwrap();
        let text = |candidate: &CompletionCandidate| {
            let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
            (candidate.get_value().to_string_lossy().into_owned(), help)
        };
        found.iter().map(text).collect()
    }

    fn values(root: &std::path::Path, words: &[&str]) -> Vec<String> {
        offered(root, words).into_iter().map(|(value, _)| value).collect()
    }

    #[test]
    fn names_of_pods_are_offered_living_first_and_say_how_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("pods");
        let roots = Roots::at(&root).unwrap();
        for name in ["ape", "bee", "cat", "ant"] {
            roots.pod(&name.parse().unwrap()).make_state_dir().unwrap();
        }
        let cat: PodName = "cat".parse().unwrap();
        let lock = roots.pod(&cat).life_lock();
        let _lives = LifeLock::acquire(&lock, &PodId::new(cat, Incarnation(7))).unwrap();
        let all = offered(&root, &["pod", "log", ""]);
        let names: Vec<&str> =
            all.iter().map(|(name, _)| name.as_str()).filter(|name| !name.starts_with('-')).collect();
        assert_eq!(names, ["cat", "ant", "ape", "bee"]);
        assert_eq!(all[0].1, format!("process {}", std::process::id()));
        assert_eq!(all[1].1, "ended");
        assert_eq!(values(&root, &["pod", "stop", "a"]), ["ant", "ape"]);
        assert_eq!(values(&root, &["pod", "--json", "send", "be"]), ["bee"]);
        // What follows a name is none.
        assert!(!values(&root, &["pod", "log", "cat", ""]).contains(&"bee".to_owned()));
    }

    #[test]
    fn every_argument_that_is_a_name_offers_names() {
        fn walk(command: &clap::Command, seen: &mut usize) {
            for arg in command.get_arguments().filter(|arg| arg.get_value_parser().type_id() == TypeId::of::<PodName>())
            {
                assert!(arg.get::<ArgValueCompleter>().is_some(), "{} of `{}`", arg.get_id(), command.get_name());
                *seen += 1;
            }
            command.get_subcommands().for_each(|below| walk(below, seen));
        }
        let mut seen = 0;
        walk(&command(None), &mut seen);
        assert!(seen >= 8, "only {seen} arguments are names");
    }

    #[test]
    fn subcommands_and_their_options_are_offered() {
        let nowhere = std::path::Path::new("/nowhere/at/all");
        assert_eq!(values(nowhere, &["pod", "rew"]), ["rewind"]);
        assert_eq!(values(nowhere, &["pod", "stop", "x", "--no"]), ["--now"]);
        assert_eq!(values(nowhere, &["pod", "completions", "f"]), ["fish"]);
        assert!(!values(nowhere, &["pod", "log", ""]).iter().any(|name| !name.starts_with('-')), "a name from nowhere");
    }

    #[test]
    fn root_is_the_one_that_the_line_says() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (line, root) in [
            ("pod -- pod log ", None),
            ("pod -- pod --root /r log ", Some("/r")),
            ("pod -- pod log --root=/r ", Some("/r")),
            ("pod -- pod log --root ", None),
            ("pod -- pod log --rooted /r", None),
            ("pod --root /r -- pod log", None),
        ] {
            assert_eq!(root_in(&words(line)), root.map(PathBuf::from), "{line}");
        }
    }
}
