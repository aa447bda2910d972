//! Who may ask a pod: people, and programs of pods as far as their scopes go.

use crate::world::{Done, World};

/// What the program of a pod has printed, by the word that each line begins with.
async fn printed(world: &World, pod: &str, last: &str) -> Vec<String> {
    let lines = async || -> Vec<String> {
        let done = world.pod(&["output", pod, "--json"]).await;
        let text = |record: &serde_json::Value| record.to_string().replace("\\n", "\n");
        done.records().iter().map(text).collect()
    };
    world.until(&format!("`{pod}` says {last}"), async || lines().await.concat().contains(last)).await;
    lines().await
}

fn spawn<'a>(parent: &'a str, name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["spawn", parent, name], more].concat()
}

async fn ok(world: &World, args: &[&str]) -> Done {
    let done = world.pod(args).await;
    assert_eq!(done.code, 0, "{args:?}: {done:?}");
    done
}

/// The line of what `pod` has said on standard error that has all these words.
async fn logged(world: &World, pod: &str, words: &[&str]) {
    let path = pod::runtime_dir::Roots::at(&world.root()).unwrap().pod(&pod.parse().unwrap()).stderr();
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "no line of `{pod}` has {words:?}: {log}");
}

#[tokio::test]
async fn program_of_a_pod_with_a_scope_asks_its_own_pod_and_those_below_it_and_no_other() {
    let world = World::new();
    ok(&world, &["serve", "--name", "r", "--detach"]).await;
    let stop = crate::serving::Background::of(&world, "r");
    ok(&world, &spawn("r", "sibling", &["--idle"])).await;
    let root = world.root();
    let pod = format!("'{}' --root '{}'", env!("CARGO_BIN_EXE_pod"), root.display());
    let below = format!("{pod} send sibling hello; echo below-to-sibling $?; echo below-done");
    let below = world.file("below.sh", &below);
    // In its own group, in its own session, and without the mark that it was given.
    let command = format!(
        "{pod} spawn r x1 --command true; echo to-parent $?
         setsid -w {pod} spawn r x2 --command true; echo to-parent-by-setsid $?
         env -u POD_LIFE setsid -w sh -c \"{pod} stop r\"; echo to-parent-unmarked $?
         {pod} send sibling hello; echo to-sibling $?
         {pod} output sibling; echo to-read-sibling $?
         {pod} spawn c below --command 'sh {below}'; echo to-own $?
         {pod} send below again; echo to-below $?
         echo c-done"
    );
    let (scope, command) = (["--scope", "/"], ["--command", &command]);
    ok(&world, &spawn("r", "c", &[scope, command].concat())).await;
    let said = printed(&world, "c", "c-done").await.concat();
    for line in [
        "to-parent 4",
        "to-parent-by-setsid 4",
        "to-parent-unmarked 4",
        "to-sibling 4",
        "to-own 0",
        "belongs to pod `c`, which has a scope",
    ] {
        assert!(said.contains(line), "`{line}` is not in: {said}");
    }
    let said = printed(&world, "below", "below-done").await.concat();
    assert!(said.contains("below-to-sibling 4"), "{said}");
    for method in ["spawn_pod", "shutdown"] {
        logged(&world, "r", &["WARN", "is refused", &format!("method=\"{method}\""), "pod=r", "peer=process"]).await;
    }
    logged(&world, "sibling", &["WARN", "refused", "method=\"run\"", "`below`"]).await;
    // A person may do all of that.
    ok(&world, &spawn("r", "x1", &["--command", "true"])).await;
    ok(&world, &["send", "sibling", "hello"]).await;
    ok(&world, &["stop", "below", "--now"]).await;
    drop(stop);
}
