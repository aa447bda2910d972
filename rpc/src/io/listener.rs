//! Listening on a Unix socket that nobody else can reach, replace or be mistaken for.
//!
//! Lock file first: whoever holds it owns the name, and only under it is a stale socket removed. The directory must be
//! ours alone; the socket has mode 0600 before it has a name; on the way out only our own inode is unlinked.
//! SPEC: PROTOCOL §7.
//!
//! Used by `accept`; the dialling side is `dial`.

use std::fmt;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::unix::pipe;

use super::mem::MemListener;
use super::socket::Socket;
use super::stream::Stream;
use crate::address::Address;
use crate::peer::Process;
use crate::transport::{Connector, DynAccept, Incoming};

/// The longest path of a Unix socket, in bytes. LIMIT: `sun_path` has 108 with its terminator (unix(7)).
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Connections that the kernel holds until we accept them. LIMIT: the kernel cuts it to `somaxconn`, 4096 by default.
const BACKLOG: i32 = 4096;

/// Why a service cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The path does not fit a socket address.
    #[error("socket path `{}` has {bytes} bytes, at most {SOCKET_PATH_BYTES_MAX} are possible; use a shorter directory or `Address::unix_in`", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The directory is not ours alone.
    #[error("directory `{}` is not safe for a socket: {reason}; {remedy}", path.display())]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another service listens there.
    #[error("{address} is taken by {holder}; stop it or use another address")]
    Taken {
        /// The address.
        address: Address,
        /// Who, as far as known.
        holder: String,
    },
    /// Something that is no socket has the name.
    #[error("`{}` exists and is no socket; remove it or use another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The address is a connector's: it can only be dialled.
    #[error("`{name}` can only be dialled; serve a source of connections with `serve_from`")]
    OnlyDials {
        /// The connector's name.
        name: String,
    },
    /// The system said no.
    #[error("failed to {doing} `{}`", path.display())]
    System {
        /// What we were doing.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// A listening socket; its name goes when it is dropped.
pub(crate) struct Listener {
    kind: Kind,
    address: Address,
}

enum Kind {
    /// Dropped in this order: the socket, its name, and last the lock that guards the name.
    Unix {
        /// Watched for connections that arrive; nothing is read. What this type registers a socket with, see `socket`.
        socket: pipe::Receiver,
        _name: OwnName,
        _lock: fs::File,
    },
    Mem(MemListener),
    /// What somebody else accepts.
    Source(Box<dyn DynAccept>),
    /// Connections are given to the server one by one.
    Nowhere,
}

/// A socket's name in the file system, with the inode that we gave it to.
#[derive(Debug)]
struct OwnName {
    path: PathBuf,
    inode: (u64, u64),
}

impl Listener {
    pub(crate) fn bind(address: &Address) -> Result<Self, ListenError> {
        let kind = match address {
            Address::Unix(path) => bind_unix(path)?,
            Address::Mem(name) => Kind::Mem(MemListener::bind(name).ok_or_else(|| ListenError::Taken {
                address: address.clone(),
                holder: "another listener of this process".into(),
            })?),
            Address::Custom(connector) => {
                return Err(ListenError::OnlyDials { name: connector.name().to_owned() });
            }
        };
        Ok(Self { kind, address: address.clone() })
    }

    /// Listens on nothing itself.
    pub(crate) fn source(name: &str, source: Box<dyn DynAccept>) -> Self {
        Self { kind: Kind::Source(source), address: Address::Custom(Connector::unreachable(name)) }
    }

    /// Listens nowhere.
    pub(crate) fn nowhere() -> Self {
        Self { kind: Kind::Nowhere, address: Address::Custom(Connector::unreachable("nowhere")) }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// CANCEL SAFETY: a connection is either returned or still in the backlog.
    pub(crate) async fn accept(&mut self) -> io::Result<Incoming> {
        match &mut self.kind {
            Kind::Unix { socket, .. } => loop {
                socket.readable().await?;
                match socket.try_io(|| Socket::accept(socket.as_fd())) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    accepted => return Ok(Incoming::stream(Stream::Unix(accepted?))),
                }
            },
            Kind::Mem(listener) => Ok(Incoming::stream(Stream::Mem(listener.accept().await))),
            Kind::Source(source) => source.accept_boxed().await,
            Kind::Nowhere => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for OwnName {
    fn drop(&mut self) {
        // Under our lock, which is dropped after this: nobody can have taken the name in between unless they ignored
        // the lock, and then it is theirs.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind_unix(path: &Path) -> Result<Kind, ListenError> {
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(ListenError::PathTooLong { path: path.to_owned(), bytes });
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    private_directory(directory)?;
    // What a service of ours never had is refused before anything is made beside it.
    if !lock_path_of(path).exists() {
        look_at(path)?;
    }
    let lock = take_lock(path)?;
    reclaim(path)?;
    let system = |doing| {
        move |errno: rustix::io::Errno| ListenError::System { doing, path: path.to_owned(), source: errno.into() }
    };
    let socket: OwnedFd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(system("open a socket for"))?;
    // Before it has a name: there is no moment at which another user could connect, whatever the umask.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600)).map_err(system("set the mode of the socket for"))?;
    let name = SocketAddrUnix::new(path).map_err(system("name a socket"))?;
    rustix::net::bind(&socket, &name).map_err(system("bind socket"))?;
    let inode = fs::symlink_metadata(path)
        .map(|found| (found.dev(), found.ino()))
        .map_err(|source| ListenError::System { doing: "read back socket", path: path.to_owned(), source })?;
    let name = OwnName { path: path.to_owned(), inode };
    rustix::net::listen(&socket, BACKLOG).map_err(system("listen on socket"))?;
    let socket = pipe::Receiver::from_owned_fd_unchecked(socket).map_err(|source| ListenError::System {
        doing: "register socket",
        path: path.to_owned(),
        source,
    })?;
    Ok(Kind::Unix { socket, _name: name, _lock: lock })
}

/// The directory exists, is no symlink, is ours, and nobody else may enter it. Made, with mode 0700, if it is missing.
fn private_directory(path: &Path) -> Result<(), ListenError> {
    let system = |doing| move |source| ListenError::System { doing, path: path.to_owned(), source };
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match fs::DirBuilder::new().mode(0o700).create(path) {
                // Somebody else may have been faster; what they made is judged like any other.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(system("create directory"))?,
            }
            fs::symlink_metadata(path)
        }
        found => found,
    }
    .map_err(system("look at directory"))?;
    let refuse = |reason: String, remedy| Err(ListenError::UnsafeDirectory { path: path.to_owned(), reason, remedy });
    let user = rustix::process::geteuid().as_raw();
    if found.file_type().is_symlink() {
        refuse("it is a symbolic link".into(), "name the directory itself")
    } else if !found.is_dir() {
        refuse("it is no directory".into(), "use another path")
    } else if found.uid() != user {
        refuse(format!("it belongs to user {}, not to {user}", found.uid()), "use a directory of your own")
    } else if found.mode() & 0o077 != 0 {
        refuse(format!("its mode is {:04o}, others may enter it", found.mode() & 0o7777), "run `chmod 700` on it")
    } else {
        Ok(())
    }
}

/// Holds the name: a lock on `PATH.lock` that the kernel releases when this process ends. The file stays; removing it
/// would let two processes hold locks on two inodes of one name.
fn take_lock(path: &Path) -> Result<fs::File, ListenError> {
    let lock_path = lock_path_of(path);
    let system = |doing| {
        let path = lock_path.clone();
        move |source: io::Error| ListenError::System { doing, path, source }
    };
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&lock_path)
        .map_err(system("open lock file"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut pid);
            // The holder writes its line after it has the lock: until then there is none, or that of a holder that has died.
            let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
            let alive = pid.filter(|pid| rustix::process::test_kill_process(*pid) != Err(rustix::io::Errno::SRCH));
            let holder = name_of(alive.map(|pid| pid.as_raw_nonzero().get()));
            return Err(ListenError::Taken { address: Address::unix(path), holder });
        }
        Err(errno) => return Err(system("lock")(errno.into())),
    }
    let write = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    write.map_err(system("write lock file"))?;
    Ok(file)
}

fn lock_path_of(path: &Path) -> PathBuf {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    lock_path.into()
}

/// What has the name now.
enum Found {
    Nothing,
    /// A socket on which nobody listens.
    Stale,
}

/// Judges what has the name: the only thing that may be removed is a socket on which nobody listens. Who listens without
/// our lock (a program that knows nothing of it) is alive all the same: it is asked by connecting.
fn look_at(path: &Path) -> Result<Found, ListenError> {
    let system = |doing, source| ListenError::System { doing, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(source) => return Err(system("look at", source)),
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(ListenError::NotASocket { path: path.to_owned() }),
    }
    let probe = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|errno| system("open a socket to probe", errno.into()))?;
    let name = SocketAddrUnix::new(path).map_err(|errno| system("name a socket", errno.into()))?;
    let holder = match rustix::net::connect(&probe, &name) {
        Err(rustix::io::Errno::CONNREFUSED) => return Ok(Found::Stale),
        Err(rustix::io::Errno::NOENT) => return Ok(Found::Nothing),
        Ok(()) => name_of(Process::at_other_end_of(probe.as_fd()).ok().and_then(|process| process.pid)),
        // A full backlog, a socket of another type, one that we may not connect to: somebody has it.
        Err(_) => name_of(None),
    };
    Err(ListenError::Taken { address: Address::unix(path), holder })
}

fn name_of(holder: Option<i32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Removes the socket that a dead service left. Called under its lock.
fn reclaim(path: &Path) -> Result<(), ListenError> {
    match look_at(path)? {
        Found::Nothing => Ok(()),
        Found::Stale => fs::remove_file(path).map_err(|source| ListenError::System {
            doing: "remove stale socket",
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
