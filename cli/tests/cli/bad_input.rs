//! Input that is wrong: one error that names it, says why and what to do; nothing is made.

use std::os::unix::fs::{PermissionsExt, symlink};

use crate::world::World;

/// Refused as bad input, with these words; no root was made for it.
#[track_caller]
fn check(world: &World, done: &crate::world::Done, words: &[&str]) {
    done.refused(2, words);
    assert_eq!(done.stdout, "");
    assert!(!world.root().exists(), "something was made");
}

#[tokio::test]
async fn command_lines_that_are_wrong_are_refused_before_anything_is_made() {
    let long = "x".repeat(20 * 1024);
    let table: &[(&[&str], &[&str])] = &[
        (&["run"], &["--child"]),
        (&["run", "--child", "a"], &["'a'", "no `=`", "--child a="]),
        (&["run", "--child", "=true"], &["it is empty", "a-z"]),
        (&["run", "--child", "A=true"], &["`A`", "another character", "a-z"]),
        (&["run", "--child", "a= "], &["behind the `=`", "`a`"]),
        (&["run", "--child", "a=true", "--child", "a=false"], &["two children", "`a`"]),
        (&["run", "--child", "run=true"], &["`run`", "its parent's name", "--name"]),
        (&["run", "--name", "../x", "--child", "a=true"], &["`../x`", "a-z"]),
        (&["run", "--timeout", "soon", "--child", "a=true"], &["soon", "number", "90s"]),
        (&["run", "--manifest", "x", "--name", "y", "--child", "a=true"], &["--name", "--manifest"]),
        (&["run", "--child-script", "a=/no/such/file"], &["/no/such/file", "`a`", "No such file"]),
        (&["send", "a", " "], &["message is empty"]),
        (&["send", "a", &long, "--notify"], &["20480 bytes", "16384", "file"]),
        (&["send", "a", "x", "--key", "12"], &["12", "16 hexadecimal"]),
        (&["send", "A", "x"], &["`A`", "a-z"]),
        (&["log", ""], &["it is empty"]),
        (&["runn"], &["runn", "run"]),
    ];
    for (args, words) in table {
        let world = World::new();
        check(&world, &world.pod(args).await, words);
    }
}

#[tokio::test]
async fn command_line_that_is_wrong_is_one_line_of_json_where_json_is_asked_for() {
    let world = World::new();
    let done = world.pod(&["--json", "run", "--child", "a"]).await;
    assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
    let error: serde_json::Value = serde_json::from_str(done.stderr.trim()).expect("one line of JSON");
    assert_eq!((&error["type"], &error["exit"]), (&"error".into(), &2.into()));
    assert!(error["error"].as_str().is_some_and(|error| error.contains("no `=`")), "{error}");
}

#[tokio::test]
async fn manifest_that_is_wrong_is_named_with_its_line_and_what_was_meant() {
    let world = World::new();
    let good = "[pod]\nname = \"boss\"\n[worker]\nkind = \"ledger\"\n[limits]\nchildren = 4\n";
    for (from, to, words) in [
        ("children", "childs", &["pod.toml, line 6", "`childs`", "did you mean `children`?"][..]),
        ("boss", "The Boss", &["pod.toml, line 2", "The Boss", "a-z"]),
        ("ledger", "leger", &["pod.toml", "`leger`", "did you mean `ledger`?"]),
        ("children = 4", "children = 0", &["limits.children is 0", "1 to 10000"]),
        ("[pod]", "[pod", &["pod.toml, line 1"]),
    ] {
        let manifest = world.file("pod.toml", &good.replace(from, to));
        check(&world, &world.pod(&["run", "--manifest", &manifest, "--child", "a=true"]).await, words);
    }
    let missing = world.path("none.toml");
    let missing = missing.to_str().unwrap();
    let done = world.pod(&["run", "--manifest", missing, "--child", "a=true"]).await;
    check(&world, &done, &[missing, "because: No such file"]);
}

#[tokio::test]
async fn script_that_is_wrong_is_named() {
    let world = World::new();
    for (text, words) in [
        ("runs = [[{ spwan = 1 }]]", &["`a`", "spwan", "spawn"][..]),
        ("run = []", &["`a`", "`run`", "did you mean `runs`?"]),
        ("runs = [[", &["plan.toml, line 1"]),
    ] {
        let script = world.file("plan.toml", text);
        check(&world, &world.pod(&["run", "--child-script", &format!("a={script}")]).await, words);
    }
    let large = world.file("plan.toml", &"#".repeat(70 * 1024));
    check(&world, &world.pod(&["run", "--child-script", &format!("a={large}")]).await, &["more than 65536 bytes"]);
}

#[tokio::test]
async fn roots_that_are_not_ours_alone_are_refused_and_left_as_they_are() {
    let world = World::new();
    let (open, link, file) = (world.path("open"), world.path("link"), world.path("file"));
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink(&open, &link).unwrap();
    std::fs::write(&file, "").unwrap();
    let table: &[(_, &[&str])] = &[
        (open.as_path(), &["open", "mode 755", "chmod 700"]),
        (&link, &["link", "symbolic link", "--root"]),
        (&file, &["file", "no directory", "--root"]),
        (&world.path("no/such"), &["no/such", "because: No such file"]),
    ];
    for (root, words) in table {
        world.pod_below(root, &["run", "--child", "a=true"]).await.refused(2, words);
        world.pod_below(root, &["demo"]).await.refused(2, words);
    }
    world.pod_below(&link, &["ls"]).await.refused(2, &["symbolic link"]);
    assert_eq!(std::fs::read_dir(&open).unwrap().count(), 0);
    // `/proc` belongs to root; for root itself, a directory of somebody else does.
    let foreign = world.path("foreign");
    std::fs::create_dir(&foreign).unwrap();
    if std::os::unix::fs::chown(&foreign, Some(12345), None).is_ok() {
        world.pod_below(&foreign, &["run", "--child", "a=true"]).await.refused(2, &["belongs to user 12345"]);
    } else {
        world.pod_below("/proc/1".as_ref(), &["run", "--child", "a=true"]).await.refused(2, &["belongs to user 0"]);
    }
}

#[tokio::test]
async fn child_whose_name_another_parent_uses_is_refused() {
    let world = World::new();
    assert_eq!(world.pod(&["run", "--name", "one", "--child", "a=true"]).await.code, 0);
    let two = world.pod(&["run", "--name", "two", "--child", "a=true"]).await;
    two.refused(2, &["there is a pod `a` already", "no child of `two`", "--root"]);
    assert!(!world.root().join("state/two").exists());
}

#[tokio::test]
async fn help_and_version_are_no_errors() {
    let world = World::new();
    let version = world.pod(&["--version"]).await;
    assert_eq!((version.code, version.stderr.as_str()), (0, ""));
    assert!(version.stdout.starts_with("pod "), "{version:?}");
    let help = world.pod(&["--help"]).await;
    assert_eq!(help.code, 0);
    for words in ["run", "demo", "Exit codes:", "not delivered", "PODS_ROOT"] {
        assert!(help.stdout.contains(words), "{help:?}");
    }
    for command in ["run", "demo", "log", "ls", "send", "pause", "resume", "cancel", "compact", "rewind", "stop"] {
        assert_eq!(world.pod(&[command, "--help"]).await.code, 0, "{command}");
    }
    assert!(!world.root().exists());
}

#[tokio::test]
async fn scope_that_is_not_the_parents_to_give_is_refused_and_nothing_is_made_of_its_child() {
    let world = World::new();
    let (mine, other) = (world.path("mine"), world.path("other"));
    for dir in [&mine, &other] {
        std::fs::create_dir(dir).unwrap();
    }
    let rule =
        |target: &std::path::Path| format!("[[scope]]\ntarget = \"{}\"\npermission = \"write\"\n", target.display());
    let text = |target: &std::path::Path, child: &str| {
        let pod = "[pod]\nname = \"boss\"\n[worker]\nkind = \"ledger\"\n";
        format!("{pod}{}{}child = \"{child}\"\n", rule(&mine), rule(target))
    };
    let outside = world.file("outside.toml", &text(&other, "a"));
    let refused = world.pod(&["run", "--manifest", &outside, "--child", "a=true"]).await;
    assert_ne!(refused.code, 0);
    for words in ["pod `a` cannot be given its scope", "not the parent's to give", "ask for what it has"] {
        assert!(refused.stdout.contains(words) || refused.stderr.contains(words), "no `{words}` in {refused:?}");
    }
    assert!(!world.root().join("state/a").exists(), "something was made of it");
    let nobodys = world.file("nobodys.toml", &text(&mine, "b"));
    let refused = world.pod(&["run", "--manifest", &nobodys, "--child", "a=true"]).await;
    refused.refused(2, &["child `b`", "there is none", "--child"]);
    let wrong = world.file("wrong.toml", &text(&mine, "a").replacen("write", "wirte", 1));
    world.pod(&["run", "--manifest", &wrong, "--child", "a=true"]).await.refused(2, &["wirte", "write"]);
    let given = world.file("given.toml", &text(&mine.join("sub"), "a"));
    let done = world.pod(&["run", "--manifest", &given, "--child", "a=true"]).await;
    assert_eq!(done.code, 0, "{done:?}");
}
