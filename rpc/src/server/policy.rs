//! Who is let in, and to which methods: what the user of a server decides, in the words of its hooks.
//!
//! Never trusted for more than it says: credentials are the kernel's, identities are the peer's own claims. A policy only
//! narrows what the kernel has let through, unless [`any_user`](crate::ServerBuilder::any_user) was asked for.
//!
//! Set by `builder`, asked by `io::hub` for each Hello and by `io::server` for each request.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Secret;
use crate::id::{Incarnation, PeerId};
use crate::peer::{Peer, Process};
use crate::request::MethodInfo;
use crate::wire::hello::Hello;

/// Judges who wants to connect.
pub(crate) type Admission = dyn Fn(&Newcomer<'_>) -> Result<Option<Box<Pass>>, Denial> + Send + Sync;
/// Judges the requests of one connection, as was decided when it was let in.
pub(crate) type Pass = dyn Fn(&MethodInfo) -> Result<(), Denial> + Send + Sync;
/// Judges a request before any handler sees it.
pub(crate) type Permission = dyn Fn(&Peer, &MethodInfo) -> Result<(), Denial> + Send + Sync;

/// What a server was told about whom to let in.
#[derive(Default)]
pub(crate) struct Policy {
    pub(crate) admission: Option<Arc<Admission>>,
    pub(crate) permission: Option<Arc<Permission>>,
    pub(crate) secret: Option<Secret>,
    pub(crate) any_user: bool,
    pub(crate) unproven: bool,
    pub(crate) pidfds: bool,
}

/// Who asks to be let in.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Newcomer<'a> {
    /// Who connected, by the word of the kernel or of the transport.
    pub peer: Peer,
    /// Who it says it is. Whoever may connect may say any identity; the server keeps lanes of two processes apart all
    /// the same.
    pub peer_id: PeerId,
    /// Which life, by its own word.
    pub incarnation: Incarnation,
    /// The service that it asks for; always the one that is served.
    pub service: &'a str,
    /// Its version.
    pub service_version: u16,
    /// Whether it has shown the server's secret. Without [`secret`](crate::ServerBuilder::secret) always `false`; with it
    /// always `true`, because nobody else gets this far.
    pub secret_shown: bool,
    pub(crate) pidfd: Option<&'a PeerPidfd>,
}

/// A descriptor of the process that connected.
#[derive(Debug)]
pub struct PeerPidfd {
    descriptor: OwnedFd,
    exact: bool,
}

/// Why somebody is not let in; the peer is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denial(Cow<'static, str>);

impl Policy {
    /// What a peer is known as once its Hello is accepted: where there is a secret, it has shown it by then.
    pub(crate) fn known_as(&self, peer: Peer) -> Peer {
        if peer == Peer::Unproven && self.secret.is_some() { Peer::Secret } else { peer }
    }

    /// Whether `peer` is listened to at all: of what it then says, its Hello is judged.
    pub(crate) fn may_speak(&self, peer: Peer) -> bool {
        match peer {
            Peer::Process(_) => self.any_user || peer.is_trusted_by_default(),
            Peer::Unproven => self.unproven || self.secret.is_some(),
            Peer::Certificate(_) | Peer::Secret => true,
        }
    }

    /// Whether `hello` may have its lane, and what it may call on this connection; anything, if nothing is said.
    pub(crate) fn admits(
        &self,
        hello: &Hello<'_>,
        peer: Peer,
        pidfd: Option<&PeerPidfd>,
    ) -> Result<Option<Box<Pass>>, Denial> {
        let secret_shown = match &self.secret {
            None => false,
            Some(secret) if hello.secret().is_some_and(|shown| secret.is(shown)) => true,
            // Missing and wrong look the same from outside.
            Some(_) => return Err(Denial("the secret is missing or wrong".into())),
        };
        let Some(admission) = &self.admission else { return Ok(None) };
        admission(&Newcomer {
            peer,
            peer_id: hello.peer,
            incarnation: hello.incarnation,
            service: hello.service,
            service_version: hello.service_version,
            secret_shown,
            pidfd,
        })
    }

    /// Whether `peer`, on a connection with this `pass`, may call `method`.
    pub(crate) fn permits(
        &self,
        peer: &Peer,
        pass: Option<&Pass>,
        methods: &[MethodInfo],
        method: (u16, u16),
    ) -> Result<(), Denial> {
        if pass.is_none() && self.permission.is_none() {
            return Ok(());
        }
        // What the service does not have is refused as that.
        let Some(known) = methods.iter().find(|known| (known.id, known.version) == method) else { return Ok(()) };
        pass.map_or(Ok(()), |pass| pass(known))?;
        self.permission.as_ref().map_or(Ok(()), |permission| permission(peer, known))
    }
}

impl<'a> Newcomer<'a> {
    /// Whether the peer runs as our user.
    pub fn is_same_user(&self) -> bool {
        self.peer.uid() == Some(Process::own().uid)
    }

    /// The peer's process, where [`pidfds`](crate::ServerBuilder::pidfds) was asked for and the kernel could give it. It is
    /// closed when the policy has decided: [`try_clone`](PeerPidfd::try_clone) it to keep it.
    pub fn pidfd(&self) -> Option<&'a PeerPidfd> {
        self.pidfd
    }
}

impl PeerPidfd {
    /// The process at the other end of `socket`.
    pub(crate) fn of(socket: BorrowedFd<'_>, peer: Peer) -> Option<Self> {
        match nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerPidfd) {
            Ok(descriptor) => return Some(Self { descriptor, exact: true }),
            Err(errno) if is_not_known(errno) => tracing::debug!("the kernel has no SO_PEERPIDFD"),
            Err(errno) => {
                tracing::debug!(%errno, "the kernel gives no descriptor of a peer");
                return None;
            }
        }
        let pid = rustix::process::Pid::from_raw(peer.pid()?)?;
        let descriptor = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        Some(Self { descriptor, exact: false })
    }

    /// Whether it is the very process that connected (`SO_PEERPIDFD`: Linux 6.5 and later). If not, it is
    /// the one that had that pid when the Hello came: the same, unless the peer had ended by then and its pid was reused.
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// Whether the process has ended. A connection may outlive it in a descriptor that a child inherited.
    ///
    /// # Errors
    /// The system could not say.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut polled = [rustix::event::PollFd::new(&self.descriptor, rustix::event::PollFlags::IN)];
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(rustix::event::poll(&mut polled, Some(&none))? > 0)
    }

    /// A second descriptor of the same process, to keep.
    ///
    /// # Errors
    /// The descriptor table is full.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { descriptor: self.descriptor.try_clone()?, exact: self.exact })
    }
}

/// Whether the kernel does not know the option at all. Another error is about the peer: of one that has ended and is reaped,
/// kernels before Linux 6.16 have no descriptor any more (EINVAL), and whoever has its number now is somebody else.
fn is_not_known(errno: nix::errno::Errno) -> bool {
    errno == nix::errno::Errno::ENOPROTOOPT
}

impl AsFd for PeerPidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl From<PeerPidfd> for OwnedFd {
    fn from(pidfd: PeerPidfd) -> Self {
        pidfd.descriptor
    }
}

impl Denial {
    /// With a reason for the peer, cut at 256 bytes.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(reason.into())
    }

    pub(crate) fn reason(&self) -> &[u8] {
        crate::service::clip(&self.0).as_bytes()
    }
}

impl From<&'static str> for Denial {
    fn from(reason: &'static str) -> Self {
        Self::new(reason)
    }
}

impl From<String> for Denial {
    fn from(reason: String) -> Self {
        Self::new(reason)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("admission", &self.admission.is_some())
            .field("permission", &self.permission.is_some())
            .field("secret", &self.secret)
            .field("any_user", &self.any_user)
            .field("pidfds", &self.pidfds)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;

    use super::*;

    /// What another process of this binary is to connect to, before it ends.
    const DEAD_PEER: &str = "RPC_TEST_DEAD_PEER";

    #[test]
    fn peer_is_looked_for_by_its_number_only_where_the_kernel_has_nothing_better() {
        use nix::errno::Errno;
        assert!(is_not_known(Errno::ENOPROTOOPT));
        for about_the_peer in [Errno::EINVAL, Errno::ESRCH, Errno::ENODATA, Errno::EMFILE] {
            assert!(!is_not_known(about_the_peer), "{about_the_peer}");
        }
    }

    /// Killed when it is dropped.
    struct Stranger(std::process::Child);

    impl Drop for Stranger {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process that has been given the number of one that has ended, if that can be arranged.
    #[expect(clippy::disallowed_methods, reason = "a test")]
    fn process_of_number(number: u32) -> Option<Stranger> {
        // Others take numbers, too.
        (0..100).find_map(|_| {
            std::fs::write("/proc/sys/kernel/ns_last_pid", (number - 1).to_string()).ok()?;
            let stranger = Stranger(Command::new("sleep").arg("30").spawn().unwrap());
            (stranger.0.id() == number).then_some(stranger)
        })
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        clippy::zombie_processes,
        reason = "a peer that has ended is a process, and what it has started outlives it"
    )]
    fn descriptor_of_a_peer_that_has_ended_is_nobody_elses() {
        // This test's own binary, started again, is the peer: what it leaves behind holds its connection.
        if let Some(socket) = std::env::var_os(DEAD_PEER) {
            let connection = UnixStream::connect(socket).unwrap();
            Command::new("sleep").arg("5").stdin(OwnedFd::from(connection)).spawn().unwrap();
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(scratch.path().join("s")).unwrap();
        let mut peer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server::policy::tests::descriptor_of_a_peer_that_has_ended_is_nobody_elses"])
            .env(DEAD_PEER, scratch.path().join("s"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        assert!(peer.wait().unwrap().success());
        let (connection, _) = listener.accept().unwrap();
        let known = Process::at_other_end_of(connection.as_fd()).unwrap();
        assert_eq!(known.pid, i32::try_from(peer.id()).ok());
        let Some(_stranger) = process_of_number(peer.id()) else {
            eprintln!("NOT CHECKED: only root can have a number given again");
            return;
        };
        let asked = nix::sys::socket::getsockopt(&connection, nix::sys::socket::sockopt::PeerPidfd);
        if asked.is_err_and(|errno| errno == nix::errno::Errno::ENOPROTOOPT) {
            eprintln!("NOT CHECKED: this kernel has no SO_PEERPIDFD, and a peer is known by its number");
            return;
        }
        let found = PeerPidfd::of(connection.as_fd(), Peer::Process(known));
        assert!(found.is_none_or(|pidfd| pidfd.has_ended().unwrap()), "somebody else was taken for the peer");
    }
}
