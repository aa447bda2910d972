//! Who is at the other end of a connection, and by whose word.
//!
//! Values only. What a peer says of itself is never here: its Hello names a lane, not an identity.
//!
//! Told by `io::stream` and by [`transport`](crate::transport), judged by `io::server`, part of a lane's key in
//! `io::hub`, shown to handlers in their [`CallContext`](crate::CallContext).

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

/// Who is at the other end of a connection.
///
/// A transport says the most that it has proof of. [`Peer::Process`] and [`Peer::Certificate`] are let in by default, a
/// process only if it is of our own user; the others only by a server's policy or secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// A process of this machine, by the kernel's word (`SO_PEERCRED`): every `unix:` connection. This process itself
    /// at both ends of `mem:`.
    Process(Process),
    /// Whoever holds the key of a certificate that was verified in a TLS handshake.
    Certificate(CertificateId),
    /// Somebody who knows the server's secret, on a transport that proves nothing itself.
    Secret,
    /// Nobody has vouched for it.
    Unproven,
}

/// A process, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
    /// The process that connected, or that listens; `None` if it lies outside our pid namespace.
    pub pid: Option<i32>,
}

/// A certificate: the SHA-256 of the leaf, as DER.
///
/// Not its subject: what a name means depends on who signed it, and that has been judged by the verifier when this is
/// seen. A policy that knows people by name keeps a table of these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateId(pub [u8; 32]);

impl Peer {
    /// This process itself: what stands at both ends of a `mem:` connection.
    pub fn own() -> Self {
        Self::Process(Process::own())
    }

    /// The process, if the kernel has named it.
    pub fn process(&self) -> Option<Process> {
        match self {
            Self::Process(process) => Some(*process),
            _ => None,
        }
    }

    /// The user id, if the kernel has named it.
    pub fn uid(&self) -> Option<u32> {
        self.process().map(|process| process.uid)
    }

    /// The process id, if the kernel has named it.
    pub fn pid(&self) -> Option<i32> {
        self.process().and_then(|process| process.pid)
    }

    /// Whether it is let in where no policy says otherwise: a process of our own user, or the holder of a certificate that
    /// the TLS configuration has accepted.
    pub fn is_trusted_by_default(&self) -> bool {
        match self {
            Self::Process(process) => process.uid == rustix::process::geteuid().as_raw(),
            Self::Certificate(_) | Self::Secret => true,
            Self::Unproven => false,
        }
    }
}

impl Process {
    /// Who connected a Unix socket to its other end, or listens there.
    pub(crate) fn at_other_end_of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let credentials = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
        // The kernel says 0 for a process that has no number in our pid namespace.
        let pid = (credentials.pid() != 0).then_some(credentials.pid());
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), pid })
    }

    /// This process itself.
    pub fn own() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: Some(rustix::process::getpid().as_raw_nonzero().get()),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(Process { uid, pid: Some(pid), .. }) => write!(f, "process {pid} of user {uid}"),
            Self::Process(Process { uid, pid: None, .. }) => write!(f, "a process of user {uid}"),
            Self::Certificate(id) => write!(f, "certificate {id}"),
            Self::Secret => f.write_str("a holder of the secret"),
            Self::Unproven => f.write_str("somebody unproven"),
        }
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proof_is_trusted_by_default() {
        let own = Process::own();
        assert!(Peer::own().is_trusted_by_default());
        assert!(Peer::Certificate(CertificateId([0; 32])).is_trusted_by_default());
        assert!(!Peer::Process(Process { uid: own.uid + 1, ..own }).is_trusted_by_default());
        assert!(!Peer::Unproven.is_trusted_by_default());
    }
}
