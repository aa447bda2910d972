//! Another user at the other end, in both directions.
//!
//! The other user is a process of this binary, run as `nobody`; file modes are opened up for it, so that it is the
//! credentials that keep it out and nothing else.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bytes::BytesMut;
use rpc::wire::hello::{Extras, Hello, ServiceInfo};
use rpc::{Address, CallError, Client, Incarnation, Limits, NotDelivered, PeerId, Server};

use super::{Count, Counter, Seen};

const NOBODY: u32 = 65_534;
/// What the other process is to do, and with which socket.
const ROLE: &str = "RPC_TEST_NOBODY";
const SOCKET: &str = "RPC_TEST_NOBODY_SOCKET";

/// A directory that others may enter, and this binary in it, where they may read it. `None`: we are not root.
fn open_house() -> Option<(tempfile::TempDir, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT CHECKED: only root can run a process as another user");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    open(directory.path(), 0o755);
    let binary = directory.path().join("binary");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    open(&binary, 0o755);
    Some((directory, binary))
}

fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[allow(clippy::disallowed_methods, reason = "a user belongs to a process; this one has other tests in it")]
fn as_nobody(binary: &Path, role: &str, socket: &Path) -> Child {
    let mut command = Command::new(binary);
    command
        .args(["--exact", "uid::nobody", "--nocapture"])
        .env(ROLE, role)
        .env(SOCKET, socket)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    loop {
        match command.spawn() {
            Ok(child) => return child,
            // Another test forked while we wrote the copy: its child holds it open until it has become its program.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn said(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Reads what a process says until it says `word`.
fn hears(child: &mut Child, word: &str) -> String {
    let output = child.stdout.as_mut().unwrap();
    let mut text = String::new();
    while !text.contains(word) {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{text}");
        text.push(char::from(byte[0]));
    }
    text
}

const WELCOME: u8 = 2;

/// A connection, and the kind and the code of what the server says first.
fn says_hello(socket: &Path) -> std::io::Result<(UnixStream, u8, u32)> {
    let mut stream = UnixStream::connect(socket)?;
    let service = ServiceInfo { name: "counter", version: 3, methods: &[] };
    let hello = Hello::new(PeerId::random(), Incarnation::random(), 0, 1, 1 << 20, 16, "counter", 3);
    let mut out = BytesMut::from(&[0; 4][..]);
    hello.put(&mut out, &service, Extras::default());
    let length = u32::try_from(out.len() - 4).unwrap().to_be_bytes();
    out[..4].copy_from_slice(&length);
    // It may be refused before it has spoken.
    let _ = stream.write_all(&out);
    let mut frame = [0; 12];
    stream.read_exact(&mut frame)?;
    Ok((stream, frame[4], u32::from_le_bytes([frame[8], frame[9], frame[10], frame[11]])))
}

/// Does nothing unless a test here started it as nobody.
#[tokio::test]
#[allow(clippy::print_stdout, reason = "what the process that started this one reads")]
async fn nobody() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let socket = PathBuf::from(std::env::var_os(SOCKET).unwrap());
    assert_eq!(rustix::process::geteuid().as_raw(), NOBODY);
    match role.as_str() {
        "connects" => {
            let (_stream, kind, code) = says_hello(&socket).unwrap();
            println!("kind {kind} code {code}");
        }
        "fills" => {
            let mut welcomed = Vec::new();
            while let Ok((stream, WELCOME, _)) = says_hello(&socket) {
                welcomed.push(stream);
            }
            println!("{} were welcome.", welcomed.len());
            tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await.unwrap().unwrap();
        }
        "calls" => {
            let result = Client::<Counter>::new(&Address::unix(&socket)).call(Count).await;
            println!("result {result:?}");
        }
        "serves" => {
            let _server = rpc::serve::<Counter>(&Address::unix(&socket), Seen::default()).await.unwrap();
            open(&socket, 0o666);
            println!("serving");
            // Until the test is done with it.
            tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await.unwrap().unwrap();
        }
        other => panic!("{other}"),
    }
}

/// A server of ours that every user can reach.
async fn reachable(directory: &Path, server: rpc::ServerBuilder<Counter>) -> (Server, PathBuf) {
    let socket = directory.join("d/s");
    let server = server.serve(&Address::unix(&socket)).await.unwrap();
    open(socket.parent().unwrap(), 0o755);
    open(&socket, 0o666);
    (server, socket)
}

async fn asks(binary: &Path, role: &str, socket: &Path) -> String {
    let child = as_nobody(binary, role, socket);
    tokio::task::spawn_blocking(move || said(child)).await.unwrap()
}

#[tokio::test]
async fn peer_of_another_user_is_refused_by_the_kernels_word() {
    let Some((house, binary)) = open_house() else { return };
    let seen = Seen::default();
    let (server, socket) = reachable(house.path(), Server::builder(seen)).await;
    // Goodbye, unauthorized.
    let said = asks(&binary, "connects", &socket).await;
    assert!(said.contains("kind 17 code 6"), "{said}");
    assert_eq!(server.lanes(), 0);
}

#[tokio::test]
async fn listener_of_another_user_is_told_nothing() {
    let Some((house, binary)) = open_house() else { return };
    let (_server, socket) = reachable(house.path(), Server::builder(Seen::default())).await;
    let said = asks(&binary, "calls", &socket).await;
    assert!(said.contains("NotDelivered(Unauthorized(") && said.contains("of user 0, not to us"), "{said}");

    // And the other way round: nobody listens, root calls.
    let theirs = house.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    open(&theirs, 0o700);
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    let socket = theirs.join("s");
    let mut child = as_nobody(&binary, "serves", &socket);
    hears(&mut child, "serving");
    let result = Client::<Counter>::new(&Address::unix(&socket)).call(Count).await;
    let Err(CallError::NotDelivered(NotDelivered::Unauthorized(why))) = result else { panic!("{result:?}") };
    assert!(why.contains("of user 65534"), "{why}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn user_that_a_policy_lets_in_is_welcome_and_one_that_it_denies_is_not() {
    for (allowed, answer) in [(NOBODY, "kind 2 "), (NOBODY + 1, "kind 17 code 6")] {
        let Some((house, binary)) = open_house() else { return };
        let builder = Server::builder(Seen::default()).any_user().authorize(move |who| {
            assert!(!who.is_same_user());
            if who.peer.uid() == Some(allowed) { Ok(()) } else { Err("another user".into()) }
        });
        let (_server, socket) = reachable(house.path(), builder).await;
        let said = asks(&binary, "connects", &socket).await;
        assert!(said.contains(answer), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn processes_of_another_user_share_one_share_and_leave_the_rest_to_others() {
    let Some((house, binary)) = open_house() else { return };
    let limits = Limits { connections_max: 100, ..Limits::default() };
    let builder = Server::builder(Seen::default()).any_user().limits(limits);
    let (server, socket) = reachable(house.path(), builder).await;
    let mut first = as_nobody(&binary, "fills", &socket);
    let said = hears(&mut first, "welcome.");
    assert!(said.contains("\n80 were welcome."), "four times what is left: {said}");
    // A process of ours would still get some; it is the user that has its share.
    let mut second = as_nobody(&binary, "fills", &socket);
    let said = hears(&mut second, "welcome.");
    assert!(said.contains("\n0 were welcome."), "{said}");
    let ours: Vec<_> = (0..10).map(|_| Client::<Counter>::new(server.address())).collect();
    for client in &ours {
        client.call(Count).await.unwrap();
    }
    for mut child in [first, second] {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
