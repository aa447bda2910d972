//! The identities that travel on the wire.
//!
//! Plain values: comparing them is all that anyone does with them. Never derived from a name or from each other.
//!
//! Chosen by `client` and `server`, carried by `wire`, compared by `session`.

use std::fmt;

/// The number of a request within its lane: 1, 2, 3, ... in the order in which the frames were appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Who a client or a server is: 128 random bits, chosen once for its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 16]);

/// One life of a peer: another number after each restart, so that nothing is mistaken for its predecessor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl PeerId {
    /// A new identity from the kernel's random numbers.
    ///
    /// # Panics
    /// The kernel has no `getrandom` (Linux before 3.17), or a filter of system calls forbids it.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        fill_random(&mut bytes);
        Self(bytes)
    }
}

/// A new identity and its first life, by one question to the kernel.
pub(crate) fn random_peer() -> (PeerId, Incarnation) {
    let mut bytes = [0; 24];
    fill_random(&mut bytes);
    let (id, life) = bytes.split_at(16);
    let mut peer = PeerId([0; 16]);
    peer.0.copy_from_slice(id);
    (peer, Incarnation(life.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))))
}

impl Incarnation {
    /// A new life, from the kernel's random numbers.
    ///
    /// # Panics
    /// The kernel has no `getrandom` (Linux before 3.17), or a filter of system calls forbids it.
    pub fn random() -> Self {
        Self(random_u64())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A number from the kernel.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Fills `bytes` from the kernel. A request of at most 256 bytes is never cut short (getrandom(2)).
fn fill_random(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // INVARIANT: Linux 3.17 and later have getrandom; without random numbers no identity can be honest.
            Err(errno) => panic!("the kernel gives no random numbers: {errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_identities_differ() {
        assert_ne!(PeerId::random(), PeerId::random());
        assert_ne!(Incarnation::random(), Incarnation::random());
    }
}
