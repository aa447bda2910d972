//! Every rule of the listener, on real paths. What depends on the umask runs in a process of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Barrier;

use super::*;

/// A directory whose child `d` does not exist yet; sockets go to `d/s`.
fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d/s");
    (directory, path)
}

fn bind(path: &Path) -> Result<Listener, ListenError> {
    Listener::bind(&Address::unix(path))
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A bound socket without its listener: what a killed server leaves behind.
fn leave_stale_socket(path: &Path) {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
}

/// The error names the directory, the reason and the remedy; nothing is made.
#[track_caller]
fn check_unsafe(path: &Path, reason: &str, remedy: &str) {
    let before = fs::symlink_metadata(path).is_ok();
    let error = bind(path).unwrap_err();
    assert!(matches!(error, ListenError::UnsafeDirectory { .. }), "{error:?}");
    let text = error.to_string();
    for part in [path.parent().unwrap().to_str().unwrap(), reason, remedy] {
        assert!(text.contains(part), "`{text}` does not say `{part}`");
    }
    assert_eq!(fs::symlink_metadata(path).is_ok(), before, "a refusal makes nothing");
    assert!(fs::symlink_metadata(path.with_extension("lock")).is_err(), "not even a lock file");
}

#[tokio::test]
async fn missing_directory_is_made_for_its_owner_alone() {
    let (_scratch, path) = scratch();
    let _listener = bind(&path).unwrap();
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(Path::new(&format!("{}.lock", path.display()))), 0o600);
}

#[tokio::test]
async fn directory_below_a_missing_one_is_not_made() {
    let (scratch, _) = scratch();
    let error = bind(&scratch.path().join("missing/d/s")).unwrap_err();
    assert!(error.to_string().contains("failed to create directory"), "{error}");
    assert_eq!(names_in(scratch.path()), [""; 0]);
}

#[tokio::test]
async fn symbolic_link_as_directory_is_refused() {
    let (scratch, path) = scratch();
    let real = scratch.path().join("real");
    fs::DirBuilder::new().mode(0o700).create(&real).unwrap();
    symlink(&real, path.parent().unwrap()).unwrap();
    check_unsafe(&path, "symbolic link", "name the directory itself");
    assert_eq!(names_in(&real), [""; 0]);
}

#[tokio::test]
async fn directory_that_others_may_enter_is_refused() {
    for open in [0o755, 0o710, 0o701, 0o770, 0o1777] {
        let (_scratch, path) = scratch();
        let directory = path.parent().unwrap();
        fs::create_dir(directory).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(open)).unwrap();
        check_unsafe(&path, &format!("its mode is {open:04o}"), "chmod 700");
        assert_eq!(mode(directory), open, "it is not repaired behind its owner's back");
    }
}

#[tokio::test]
async fn directory_of_another_user_is_refused() {
    let (_scratch, path) = scratch();
    let path = if rustix::process::geteuid().is_root() {
        let directory = path.parent().unwrap();
        fs::DirBuilder::new().mode(0o700).create(directory).unwrap();
        std::os::unix::fs::chown(directory, Some(12_345), None).unwrap();
        path
    } else {
        PathBuf::from("/s")
    };
    check_unsafe(&path, "it belongs to user", "a directory of your own");
}

#[tokio::test]
async fn file_as_directory_is_refused() {
    let (_scratch, path) = scratch();
    fs::write(path.parent().unwrap(), "a file").unwrap();
    check_unsafe(&path, "it is no directory", "use another path");
}

#[tokio::test]
async fn path_that_fits_no_socket_address_is_refused_before_anything_is_made() {
    let (scratch, _) = scratch();
    let room = SOCKET_PATH_BYTES_MAX - scratch.path().as_os_str().len() - "/d/".len();
    let longest = scratch.path().join("d").join("x".repeat(room));
    let too_long = scratch.path().join("d").join("x".repeat(room + 1));
    let error = bind(&too_long).unwrap_err();
    assert!(matches!(error, ListenError::PathTooLong { bytes: 108, .. }), "{error:?}");
    assert!(error.to_string().contains("at most 107") && error.to_string().contains("unix_in"), "{error}");
    assert_eq!(names_in(scratch.path()), [""; 0]);
    // The longest one is a full address: nothing was cut off its end.
    let _listener = bind(&longest).unwrap();
    assert!(longest.exists());
    std::os::unix::net::UnixStream::connect(&longest).unwrap();
}

#[tokio::test]
async fn socket_of_a_dead_server_is_reclaimed() {
    let (_scratch, path) = scratch();
    fs::DirBuilder::new().mode(0o700).create(path.parent().unwrap()).unwrap();
    leave_stale_socket(&path);
    let stale = fs::symlink_metadata(&path).unwrap().ino();
    let mut listener = bind(&path).unwrap();
    let _ours = std::os::unix::net::UnixStream::connect(&path).unwrap();
    listener.accept().await.unwrap();
    // The inode's number may be used again at once; that the name answers is what counts.
    assert!(path.exists(), "was inode {stale}");
}

#[tokio::test]
async fn live_server_keeps_its_name_and_is_named() {
    let (_scratch, path) = scratch();
    let mut first = bind(&path).unwrap();
    let inode = fs::symlink_metadata(&path).unwrap().ino();
    for _ in 0..3 {
        let error = bind(&path).unwrap_err();
        let ListenError::Taken { holder, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*holder, format!("process {}", std::process::id()));
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("stop it or use another address"), "{text}");
    }
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), inode);
    let _peer = std::os::unix::net::UnixStream::connect(&path).unwrap();
    first.accept().await.unwrap();
}

#[test]
fn one_of_many_that_bind_at_once_wins() {
    let (_scratch, path) = scratch();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    for _ in 0..50 {
        let start = Barrier::new(8);
        let all: Vec<_> = std::thread::scope(|scope| {
            let bind_at_once = || {
                let _inside = runtime.enter();
                start.wait();
                bind(&path)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(bind_at_once)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(all.iter().filter(|bound| bound.is_ok()).count(), 1, "{all:?}");
        assert!(all.iter().all(|bound| matches!(bound, Ok(_) | Err(ListenError::Taken { .. }))), "{all:?}");
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }
}

#[tokio::test]
async fn what_is_no_socket_is_refused_and_left_alone() {
    let (scratch, path) = scratch();
    let directory = path.parent().unwrap();
    fs::DirBuilder::new().mode(0o700).create(directory).unwrap();
    let elsewhere = scratch.path().join("elsewhere");
    leave_stale_socket(&elsewhere);
    let makers: [(&str, &dyn Fn()); 3] = [
        ("a file", &|| fs::write(&path, "precious").unwrap()),
        ("a directory", &|| fs::create_dir(&path).unwrap()),
        ("a link to a socket", &|| symlink(&elsewhere, &path).unwrap()),
    ];
    for (what, make) in makers {
        make();
        let before = fs::symlink_metadata(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket { .. }), "{what}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("remove it or use another path"), "{text}");
        let after = fs::symlink_metadata(&path).unwrap();
        assert_eq!((before.ino(), before.mode(), before.len()), (after.ino(), after.mode(), after.len()), "{what}");
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
    assert!(elsewhere.exists(), "what a link leads to is left alone");
}

#[tokio::test]
async fn lock_that_is_a_symbolic_link_is_refused_and_its_target_kept() {
    let (scratch, path) = scratch();
    fs::DirBuilder::new().mode(0o700).create(path.parent().unwrap()).unwrap();
    let precious = scratch.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, path.with_extension("lock")).unwrap();
    let error = bind(&path).unwrap_err();
    assert!(matches!(&error, ListenError::System { doing: "open lock file", .. }), "{error:?}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(!path.exists());
}

#[tokio::test]
async fn name_goes_with_its_listener_and_is_free_at_once() {
    let (_scratch, path) = scratch();
    for _ in 0..3 {
        let listener = bind(&path).unwrap();
        assert!(path.exists());
        drop(listener);
        assert_eq!(names_in(path.parent().unwrap()), ["s.lock"], "the lock file stays, the name does not");
    }
}

#[tokio::test]
async fn name_that_somebody_else_took_is_not_unlinked() {
    let (_scratch, path) = scratch();
    let listener = bind(&path).unwrap();
    // Kept under another name, so that its inode's number cannot be given to the newcomer.
    fs::rename(&path, path.with_extension("kept")).unwrap();
    leave_stale_socket(&path);
    let theirs = fs::symlink_metadata(&path).unwrap().ino();
    drop(listener);
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), theirs);
}

#[tokio::test]
async fn refused_bind_leaves_no_socket_and_no_held_lock() {
    let (_scratch, path) = scratch();
    fs::DirBuilder::new().mode(0o700).create(path.parent().unwrap()).unwrap();
    fs::write(&path, "in the way").unwrap();
    bind(&path).unwrap_err();
    fs::remove_file(&path).unwrap();
    let _listener = bind(&path).unwrap();
}

#[test]
fn bind_that_fails_late_takes_its_socket_back() {
    // Without a runtime the last step, registering the socket, panics or fails: the name must not survive it.
    let (_scratch, path) = scratch();
    let bound = std::panic::catch_unwind(|| bind(&path).map(|_| ()));
    assert!(!matches!(bound, Ok(Ok(()))));
    assert_eq!(names_in(path.parent().unwrap()), ["s.lock"]);
}

#[tokio::test]
async fn name_in_memory_has_one_listener_at_a_time() {
    let address = Address::mem("listener_tests");
    let first = Listener::bind(&address).unwrap();
    let error = Listener::bind(&address).unwrap_err();
    assert!(matches!(error, ListenError::Taken { .. }), "{error:?}");
    assert!(
        error.to_string().starts_with("mem:listener_tests is taken by another listener of this process"),
        "{error}"
    );
    let _other = Listener::bind(&Address::mem("listener_tests 2")).unwrap();
    drop(first);
    let mut second = Listener::bind(&address).unwrap();
    let _peer = crate::io::mem::connect("listener_tests").unwrap();
    second.accept().await.unwrap();
    drop(second);
    let gone = crate::io::mem::connect("listener_tests").map(|_| ()).unwrap_err();
    assert_eq!(gone, crate::io::mem::MemRefusal::NoListener);
}

/// Tells the test below that it is the process whose umask may be changed.
const UMASK_ZERO: &str = "RPC_TEST_UMASK_ZERO";

#[test]
#[allow(clippy::disallowed_methods, reason = "the umask belongs to a process; this one has other tests in it")]
fn umask_zero_opens_nothing() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "io::listener::tests::under_umask_zero", "--nocapture"])
        .env(UMASK_ZERO, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("modes 0700 0600 0600"), "{output:?}");
}

/// Does nothing unless [`umask_zero_opens_nothing`] started it.
#[tokio::test]
#[allow(clippy::print_stdout, reason = "what the process that started this one reads")]
async fn under_umask_zero() {
    if std::env::var_os(UMASK_ZERO).is_none() {
        return;
    }
    rustix::process::umask(Mode::empty());
    let (_scratch, path) = scratch();
    let watched = path.clone();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watching = std::sync::Arc::clone(&stop);
    // No moment, however short, at which the name is open to others.
    let watcher = std::thread::spawn(move || {
        while !watching.load(std::sync::atomic::Ordering::Relaxed) {
            if let Ok(found) = fs::symlink_metadata(&watched) {
                assert_eq!(found.mode() & 0o7777, 0o600);
            }
        }
    });
    for _ in 0..200 {
        drop(bind(&path).unwrap());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    watcher.join().unwrap();
    let _listener = bind(&path).unwrap();
    let lock = path.with_extension("lock");
    println!("modes {:04o} {:04o} {:04o}", mode(path.parent().unwrap()), mode(&path), mode(&lock));
}
