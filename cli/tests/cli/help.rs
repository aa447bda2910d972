//! What helps people to type and to read: completion, the manual, colour.

use crate::world::World;

/// The words that a shell is offered for the last of `words`.
async fn offered(world: &World, shell: &str, words: &[&str]) -> (i32, Vec<String>, String) {
    let index = (words.len() - 1).to_string();
    let variables = [("POD_COMPLETE", shell), ("_CLAP_COMPLETE_INDEX", &index), ("_CLAP_IFS", "\n")];
    let args: Vec<&str> = std::iter::once("--").chain(words.iter().copied()).collect();
    let done = world.bare(&args, &variables).await;
    (done.code, done.stdout.lines().map(str::to_owned).collect(), done.stderr)
}

#[tokio::test]
async fn shells_are_offered_the_names_of_pods_below_the_root_that_is_typed() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "ape=true", "--child", "bee=true"]).await.code, 0);
    let root = world.root();
    let root = root.to_str().unwrap();
    for shell in ["bash", "fish", "zsh"] {
        let (code, names, stderr) = offered(&world, shell, &["pod", "--root", root, "log", "b"]).await;
        assert_eq!((code, stderr.as_str()), (0, ""));
        let told = if shell == "bash" { "bee" } else { "ended" };
        assert!(names.len() == 1 && names[0].starts_with("bee") && names[0].contains(told), "{shell}: {names:?}");
    }
}

#[tokio::test]
async fn completion_is_silent_whatever_is_wrong() {
    let world = World::new();
    let store = world.file("no-directory", "");
    for (shell, words) in [
        ("bash", vec!["pod", "--root", store.as_str(), "log", ""]),
        ("bash", vec!["pod", "--root", "/no/such/place", "stop", "x"]),
        ("tcsh", vec!["pod", ""]),
    ] {
        let (code, names, stderr) = offered(&world, shell, &words).await;
        assert_eq!((code, stderr.as_str()), (0, ""), "{words:?}");
        assert!(names.iter().all(|name| name.starts_with('-')), "{words:?}: {names:?}");
    }
    assert!(!world.root().exists());
}

#[tokio::test]
async fn script_of_each_shell_asks_this_program() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.pod(&["completions", shell]).await;
        assert_eq!(script.code, 0);
        for words in ["POD_COMPLETE", env!("CARGO_BIN_EXE_pod")] {
            assert!(script.stdout.contains(words), "{shell}: {}", script.stdout);
        }
    }
    world.pod(&["completions", "dos"]).await.refused(2, &["dos", "bash", "zsh", "fish"]);
}

#[tokio::test]
async fn bash_completes_a_name_with_the_script() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "ape=true"]).await.code, 0);
    let line = "source <($POD completions bash); COMP_WORDS=(pod log a); COMP_CWORD=2; COMP_TYPE=9
                _clap_complete_pod pod a log; echo \"<${COMPREPLY[*]}>\"";
    let done = world.shell("bash", line).await;
    assert_eq!((done.code, done.stdout.as_str()), (0, "<ape>\n"), "{done:?}");
}

#[tokio::test]
async fn manual_has_a_page_for_every_command_that_a_formatter_takes() {
    let world = World::new();
    let dir = world.path("man1");
    let done = world.pod(&["man", "--out", dir.to_str().unwrap(), "--json"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let pages = done.records();
    let help = world.pod(&["--help"]).await.stdout;
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.trim().is_empty());
    // What goes on from the line above stands further in.
    let commands = commands.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        let text = std::fs::read_to_string(dir.join(format!("pod-{command}.1"))).unwrap();
        assert!(text.contains(".TH") && text.lines().count() > 12, "{command}: {text}");
    }
    assert!(pages.iter().all(|page| page["path"].as_str().is_some_and(|path| std::fs::exists(path).unwrap())));
    // Where there is a formatter, it has nothing to say against them.
    let format = "command -v groff >/dev/null || exit 0; groff -man -Tutf8 -ww man1/*.1 2>&1 >/dev/null";
    let formatted = world.shell("sh", &format.replace("man1", dir.to_str().unwrap())).await;
    assert_eq!((formatted.code, formatted.stdout.as_str()), (0, ""), "{formatted:?}");
    let one = world.pod(&["man"]).await;
    assert!(one.stdout.contains(".TH") && one.stdout.contains("Exit codes"), "{one:?}");
    let file = world.file("file", "");
    world.pod(&["man", "--out", &file]).await.refused(2, &["file", "cannot be written", "another directory"]);
}

#[tokio::test]
async fn colour_is_used_where_it_is_wanted_and_changes_no_word() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--child", "a=true"]).await.code, 0);
    let plain = world.pod(&["ls"]).await.stdout;
    assert!(!plain.contains('\u{1b}'), "colour in a pipe");
    let root = world.root();
    let root = root.to_str().unwrap();
    for (args, variables, coloured) in [
        (vec!["ls", "--color", "always"], vec![], true),
        (vec!["ls", "--color=always"], vec![("NO_COLOR", "1")], true),
        (vec!["ls"], vec![("CLICOLOR_FORCE", "1")], true),
        (vec!["ls"], vec![("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
        (vec!["ls", "--color", "never"], vec![("CLICOLOR_FORCE", "1")], false),
        (vec!["log", "run", "--color", "always"], vec![], true),
        (vec!["ls", "--json", "--color", "always"], vec![], false),
    ] {
        let args: Vec<&str> = args.iter().copied().chain(["--root", root]).collect();
        let done = world.bare(&args, &variables).await;
        assert_eq!(
            (done.code, done.stdout.contains('\u{1b}')),
            (0, coloured),
            "{args:?} {variables:?}: {}",
            done.stdout
        );
        if args[0] == "ls" && coloured {
            assert_eq!(without_colour(&done.stdout), plain);
        }
    }
    let done = world.bare(&["log", "nobody", "--root", root, "--color", "always"], &[]).await;
    assert!(done.stderr.starts_with("\u{1b}[31merror:\u{1b}[0m there is no pod"), "{done:?}");
    world.pod(&["ls", "--color", "sometimes"]).await.refused(2, &["sometimes", "auto", "always", "never"]);
}

fn without_colour(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or(part, |(_, rest)| rest))
}
