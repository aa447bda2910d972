//! Who may ask a pod: people, and programs of pods as far as their scopes go.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::world::{Done, World};

const NOBODY: u32 = 65_534;
/// The socket to which this binary is to connect, when it was started as another user.
const SOCKET: &str = "POD_TEST_OTHER_USER";

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
    let path = pod::runtime_dir::Roots::named(Some(&world.root())).unwrap().pod(&pod.parse().unwrap()).stderr();
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "no line of `{pod}` has {words:?}: {log}");
}

/// Files that anybody may use, until it is dropped.
struct Doors(Vec<(std::path::PathBuf, std::fs::Permissions)>);

impl Doors {
    fn open<'p>(paths: impl Iterator<Item = &'p Path>) -> Self {
        let open = |path: &Path| {
            let before = std::fs::metadata(path).unwrap().permissions();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
            (path.to_owned(), before)
        };
        Self(paths.map(open).collect())
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        for (path, before) in self.0.drain(..) {
            let _ = std::fs::set_permissions(path, before);
        }
    }
}

/// Says that nobody is root here.
const NO_ROOT: &str = "POD_TEST_NO_ROOT";

/// Does nothing unless the test below has started it.
#[test]
fn other_user() {
    if let Some(socket) = std::env::var_os(SOCKET) {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        // Until it is shown the door.
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a user belongs to a process; this one has other tests in it")]
async fn process_of_another_user_is_refused_and_logged_also_where_every_door_is_open() {
    if !rustix::process::geteuid().is_root() {
        // A test that was left out is no test that has passed.
        let said = std::env::var_os(NO_ROOT).is_some();
        assert!(said, "only root can run a process as another user; set {NO_ROOT}=1 where nobody is root");
        return eprintln!("SKIPPED, as {NO_ROOT} says: nothing is known of other users");
    }
    let world = World::new();
    ok(&world, &["serve", "--name", "r", "--detach"]).await;
    let _stop = crate::serving::Background::of(&world, "r");
    let paths = pod::runtime_dir::Roots::at(&world.root()).unwrap().pod(&"r".parse().unwrap());
    let binary = world.path("binary");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let socket = paths.socket();
    let outermost = world.root().parent().unwrap().to_owned();
    let doors = socket.ancestors().take_while(|door| door.starts_with(&outermost));
    // Closed again before the pod is stopped: a command refuses to go through them.
    let _doors = Doors::open(doors.chain([binary.as_path()]));
    let mut command = std::process::Command::new(&binary);
    command.args(["--exact", "asking::other_user"]).env(SOCKET, &socket).uid(NOBODY).gid(NOBODY).current_dir("/");
    let other = tokio::task::spawn_blocking(move || {
        loop {
            match command.output() {
                // Another test forked while the copy was written: its child has it open until it has become its program.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                done => break done.unwrap(),
            }
        }
    });
    let other = other.await.unwrap();
    assert!(other.status.success(), "{other:?}");
    logged(&world, "r", &["WARN", "refused a connection", "user 65534"]).await;
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
         {pod} serve --name free --detach; echo to-be-free $?
         {pod} serve --name free; echo to-be-free-in-front $?
         echo c-done"
    );
    // The kernel would let it make the files of a root.
    let files = root.to_str().unwrap();
    let (scope, command) = (["--read", "/", "--write", files], ["--command", command.as_str()]);
    ok(&world, &spawn("r", "c", &[&scope[..], &command[..]].concat())).await;
    let said = printed(&world, "c", "c-done").await.concat();
    for line in [
        "to-parent 4",
        "to-parent-by-setsid 4",
        "to-parent-unmarked 4",
        "to-sibling 4",
        "to-own 0",
        "to-be-free 4",
        "to-be-free-in-front 4",
        "use `pod spawn c free`",
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
    assert!(!world.root().join("state/free").exists(), "something of a root was made");
    // A person may do all of that.
    ok(&world, &spawn("r", "x1", &["--command", "true"])).await;
    ok(&world, &["send", "sibling", "hello"]).await;
    ok(&world, &["stop", "below", "--now"]).await;
    drop(stop);
}

#[tokio::test]
async fn scope_that_a_script_gives_its_child_binds_it() {
    let world = World::new();
    let (inside, outside) = (world.path("in"), world.path("out"));
    std::fs::create_dir(&inside).unwrap();
    std::fs::create_dir(&outside).unwrap();
    let (i, o) = (inside.canonicalize().unwrap(), outside.canonicalize().unwrap());
    let (i, o) = (i.display(), o.display());
    let script = format!(
        r#"runs = [[
            {{ spawn = {{ name = "b", worker = {{ kind = "command", command = "touch {i}/f; touch {o}/f; exit 0" }},
                        scope = [{{ target = "{i}", permission = "write" }}] }} }},
            {{ run_and_wait = {{ child = "b", input = "go" }} }}, {{ say = "over" }},
        ]]"#
    );
    let script = world.file("plan.toml", &script);
    ok(&world, &["serve", "--name", "r", "--detach", "--script", &script]).await;
    let _stop = crate::serving::Background::of(&world, "r");
    ok(&world, &["send", "r", "go"]).await;
    printed(&world, "r", "over").await;
    let inspected = ok(&world, &["inspect", "b"]).await.stdout;
    assert!(inspected.contains(&format!("read and write {i}, and all below it")), "{inspected}");
    assert!(inside.join("f").exists());
    let bound = pod::scope::kernel_confinement() != pod::scope::Confinement::Off;
    assert_eq!(outside.join("f").exists(), !bound, "what is outside of the scope was written");
}
