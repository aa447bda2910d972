//! Names of sockets: who gets one, who keeps it, and who can reach it at any moment. Starters are processes.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rpc::{Address, Client, ListenError};
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

/// Answers with the process that serves.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u32)]
struct WhoServes;

#[derive(rpc::Protocol)]
#[rpc(name = "names", version = 1)]
enum Names {
    WhoServes(WhoServes),
}

struct Handler;

impl NamesHandler for Handler {
    async fn who_serves(&self, _: WhoServes) -> Result<u32, rpc::Never> {
        Ok(std::process::id())
    }
}

/// Tells [`other_process`] what to do, and where.
const ROLE: &str = "RPC_TEST_SOCKETS";
const SOCKET: &str = "RPC_TEST_SOCKETS_PATH";

#[allow(clippy::disallowed_methods, reason = "locks, umasks and deaths belong to processes")]
fn process(role: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "other_process", "--nocapture"])
        .env(ROLE, role)
        .env(SOCKET, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Does nothing unless another test started it as a process.
#[tokio::test]
async fn other_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(std::env::var_os(SOCKET).unwrap());
    match role.split_once(' ').unwrap_or((&role, "")) {
        ("starts", _) => start(&path).await,
        ("umask", mask) => under_umask(u32::from_str_radix(mask, 8).unwrap(), &path).await,
        other => panic!("{other:?}"),
    }
}

/// Waits for a line, serves, says how that went, and serves until its input ends.
#[allow(clippy::print_stdout, reason = "what the process that started this one reads")]
async fn start(path: &Path) {
    println!("ready.");
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    match rpc::serve::<Names>(&Address::unix(path), Handler).await {
        Ok(server) => {
            println!("won.");
            tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await.unwrap().unwrap();
            server.drain().await;
        }
        Err(ListenError::Taken { holder, .. }) => println!("taken by {holder}."),
        Err(error) => println!("failed: {error}."),
    }
}

fn hears(child: &mut Child) -> String {
    let mut line = String::new();
    let mut output = BufReader::with_capacity(1, child.stdout.as_mut().unwrap());
    while !line.ends_with(".\n") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ended");
    }
    // What the test harness prints may stand in front.
    ["ready.", "won.", "taken", "failed"]
        .iter()
        .find_map(|word| line.find(word).map(|at| line[at..].trim_end().to_owned()))
        .unwrap_or(line)
}

fn goes(child: &mut Child) {
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d/s");
    (directory, path)
}

async fn who_serves(path: &Path) -> u32 {
    Client::<Names>::new(&Address::unix(path)).call(WhoServes).await.unwrap()
}

#[tokio::test]
async fn one_of_a_hundred_starters_wins_and_after_its_death_another_one() {
    const STARTERS: usize = 100;
    let (_scratch, path) = scratch();
    let mut rounds = 0;
    // The first round makes the directory and the lock; the second finds what a killed server left.
    for _ in 0..2 {
        let mut starters: Vec<_> = (0..STARTERS).map(|_| process("starts", &path)).collect();
        for starter in &mut starters {
            assert_eq!(hears(starter), "ready.");
        }
        for starter in &mut starters {
            goes(starter);
        }
        let said: Vec<_> = starters.iter_mut().map(hears).collect();
        let winners: Vec<_> = said.iter().enumerate().filter(|(_, said)| *said == "won.").map(|(at, _)| at).collect();
        let [winner] = winners[..] else { panic!("{} winners: {said:?}", winners.len()) };
        let pid = starters[winner].id();
        for (at, said) in said.iter().enumerate() {
            // Between lock and first line of its file the winner has no name yet.
            let names_it = [format!("taken by process {pid}."), "taken by another process.".into()];
            assert!(at == winner || names_it.contains(said), "{said}");
        }
        assert_eq!(who_serves(&path).await, pid);
        // No farewell: its socket stays, its lock does not.
        starters[winner].kill().unwrap();
        for starter in &mut starters {
            drop(starter.stdin.take());
            starter.wait().unwrap();
        }
        assert!(path.exists());
        rounds += 1;
    }
    assert_eq!(rounds, 2);
    let mut last = process("starts", &path);
    assert_eq!(hears(&mut last), "ready.");
    goes(&mut last);
    assert_eq!(hears(&mut last), "won.");
    drop(last.stdin.take());
    assert!(last.wait().unwrap().success());
    assert!(!path.exists(), "who drains takes its name along");
}

#[tokio::test]
async fn live_server_is_never_displaced_by_starters_that_come_later() {
    let (_scratch, path) = scratch();
    let _server = rpc::serve::<Names>(&Address::unix(&path), Handler).await.unwrap();
    let inode = fs::symlink_metadata(&path).unwrap().ino();
    let mut starters: Vec<_> = (0..10).map(|_| process("starts", &path)).collect();
    for starter in &mut starters {
        hears(starter);
        goes(starter);
    }
    for starter in &mut starters {
        assert_eq!(hears(starter), format!("taken by process {}.", std::process::id()));
        drop(starter.stdin.take());
        starter.wait().unwrap();
    }
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), inode);
    assert_eq!(who_serves(&path).await, std::process::id());
}

/// What listens at a path without knowing of our lock keeps its name, and no lock file is left beside it.
async fn check_keeps_its_name(path: &Path) {
    let inode = fs::symlink_metadata(path).unwrap().ino();
    let error = rpc::serve::<Names>(&Address::unix(path), Handler).await.unwrap_err();
    assert!(matches!(error, ListenError::Taken { .. }), "{error:?}");
    assert_eq!(fs::symlink_metadata(path).unwrap().ino(), inode);
    assert!(!path.with_extension("lock").exists(), "a refusal leaves nothing behind");
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "listeners that know nothing of our lock are what this is about")]
async fn listener_without_our_lock_is_alive_all_the_same() {
    let (_scratch, path) = scratch();
    fs::DirBuilder::new().mode(0o700).create(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    check_keeps_its_name(&path).await;
    let _peer = UnixStream::connect(&path).unwrap();
    listener.accept().unwrap();
    drop(listener);
    fs::remove_file(&path).unwrap();
    // Nor is one whose backlog is full mistaken for a dead one.
    let full = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&full, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    check_keeps_its_name(&path).await;
    drop(full);
    fs::remove_file(&path).unwrap();
    let datagrams = UnixDatagram::bind(&path).unwrap();
    check_keeps_its_name(&path).await;
    // Whoever is dead is not in the way.
    drop(datagrams);
    let _server = rpc::serve::<Names>(&Address::unix(&path), Handler).await.unwrap();
    assert_eq!(who_serves(&path).await, std::process::id());
}

#[tokio::test]
async fn what_is_no_socket_is_refused_and_no_lock_is_left_beside_it() {
    let (scratch, path) = scratch();
    fs::DirBuilder::new().mode(0o700).create(path.parent().unwrap()).unwrap();
    let elsewhere = scratch.path().join("elsewhere");
    fs::write(&elsewhere, "precious").unwrap();
    for linked in [false, true] {
        if linked {
            symlink(&elsewhere, &path).unwrap();
        } else {
            fs::write(&path, "precious").unwrap();
        }
        let error = rpc::serve::<Names>(&Address::unix(&path), Handler).await.unwrap_err();
        assert!(matches!(error, ListenError::NotASocket { .. }), "{error:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(!path.with_extension("lock").exists());
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn directories_that_are_not_ours_alone_are_refused_untouched() {
    let (scratch, path) = scratch();
    let directory = path.parent().unwrap().to_owned();
    let real = scratch.path().join("real");
    fs::DirBuilder::new().mode(0o700).create(&real).unwrap();
    let mode = |mode| fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    let refused = async |reason: &str| {
        let error = rpc::serve::<Names>(&Address::unix(&path), Handler).await.unwrap_err();
        assert!(matches!(error, ListenError::UnsafeDirectory { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
    };
    symlink(&real, &directory).unwrap();
    refused("symbolic link").await;
    fs::remove_file(&directory).unwrap();
    fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
    for open in [0o770, 0o720, 0o702, 0o750, 0o705] {
        mode(open);
        refused("others may enter it").await;
    }
    mode(0o700);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&directory, Some(65_534), None).unwrap();
        refused("belongs to user 65534").await;
        std::os::unix::fs::chown(&directory, Some(0), None).unwrap();
    }
    let _server = rpc::serve::<Names>(&Address::unix(&path), Handler).await.unwrap();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "the socket and its lock");
}

#[tokio::test]
async fn service_with_a_name_of_any_length_is_found_at_a_path_that_fits() {
    let (_scratch, path) = scratch();
    for length in [1, 60, 107, 108, 200, 255] {
        let address = Address::unix_in(path.parent().unwrap(), &"n".repeat(length));
        let _server = rpc::serve::<Names>(&address, Handler).await.unwrap();
        let client = Client::<Names>::new(&Address::unix_in(path.parent().unwrap(), &"n".repeat(length)));
        assert_eq!(client.call(WhoServes).await.unwrap(), std::process::id(), "{length}");
    }
    let too_long = path.parent().unwrap().join("n".repeat(200));
    let error = rpc::serve::<Names>(&Address::unix(&too_long), Handler).await.unwrap_err();
    assert!(matches!(error, ListenError::PathTooLong { .. }), "{error:?}");
}

/// A hundred servers one after the other, and a thread that looks at every name all the time.
#[allow(clippy::print_stdout, reason = "what the process that started this one reads")]
async fn under_umask(mask: u32, path: &Path) {
    rustix::process::umask(Mode::from_raw_mode(mask));
    let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (watched, watching, looked) = (path.to_owned(), Arc::clone(&stop), Arc::clone(&looks));
    let watcher = std::thread::spawn(move || {
        let lock = watched.with_extension("lock");
        let expected = [(watched.parent().unwrap(), 0o700), (&watched, 0o600), (&lock, 0o600)];
        while !watching.load(Ordering::Relaxed) {
            for (name, mode) in &expected {
                if let Ok(found) = fs::symlink_metadata(name) {
                    assert_eq!(found.mode() & 0o7777, *mode, "{}", name.display());
                    looked.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let mut servers = 0;
    while servers < 100 || (looks.load(Ordering::Relaxed) < 10_000 && !watcher.is_finished()) {
        let server = rpc::serve::<Names>(&Address::unix(path), Handler).await.unwrap();
        server.drain().await;
        servers += 1;
        if servers % 10 == 0 {
            // The next one makes the directory again.
            fs::remove_dir_all(path.parent().unwrap()).unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    println!("won.");
}

#[test]
fn no_umask_opens_a_name_to_others_at_any_moment() {
    for mask in ["000", "022", "077"] {
        let (_scratch, path) = scratch();
        let mut child = process(&format!("umask {mask}"), &path);
        assert_eq!(hears(&mut child), "won.", "under umask {mask}");
        assert!(child.wait().unwrap().success());
    }
}
