//! A secret that both sides know.
//!
//! Compared in constant time, never printed. Travels as it is: SECURITY.md says where that is enough.
//!
//! Asked for by `policy`, shown by `client`.

use std::fmt;
use std::hint::black_box;

use bytes::Bytes;

use crate::limits::{SECRET_BYTES_MAX, SECRET_BYTES_MIN};

/// A secret that both sides know, for transports on which the kernel says nothing about the peer.
///
/// It travels as it is, in the first frame: it protects only where nobody listens in, that is on a local or an encrypted
/// transport. It proves the client to the server, not the server to the client. Compared in constant time; never printed.
#[derive(Clone)]
pub struct Secret(Bytes);

/// A secret that is too short to be one, or too long to travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret of {bytes} bytes; it needs {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}, from a random source")]
pub struct SecretError {
    /// How many it had.
    pub bytes: usize,
}

impl Secret {
    /// A secret of 16 to 256 bytes.
    ///
    /// # Errors
    /// [`SecretError`]: another length.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, SecretError> {
        let bytes = bytes.as_ref();
        if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            Ok(Self(Bytes::copy_from_slice(bytes)))
        } else {
            Err(SecretError { bytes: bytes.len() })
        }
    }

    /// What travels.
    pub(crate) fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// Takes as long for a guess that is nearly right as for one that is all wrong. Its length is no secret.
    pub(super) fn is(&self, shown: &[u8]) -> bool {
        let same_length = self.0.len() == shown.len();
        let differing = self.0.iter().zip(shown).fold(0, |differing, (a, b)| black_box(differing | (a ^ b)));
        same_length & (black_box(differing) == 0)
    }
}

/// In constant time, like every comparison of a secret.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_itself_and_nothing_else() {
        let secret = Secret::new([7; 16]).unwrap();
        assert!(secret.is(&[7; 16]));
        for wrong in [&[7; 15][..], &[7; 17], &[], &[8; 16]] {
            assert!(!secret.is(wrong), "{wrong:?}");
        }
        let mut last = [7; 16];
        last[15] = 6;
        assert!(!secret.is(&last));
        assert_ne!(Secret::new(last).unwrap(), secret);
        assert_ne!(Secret::new([7; 17]).unwrap(), secret);
        assert_eq!(Secret::new([7; 16]).unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn secret_that_is_short_or_does_not_fit_a_hello_is_refused() {
        assert_eq!(Secret::new([1; 15]), Err(SecretError { bytes: 15 }));
        assert_eq!(Secret::new([1; 257]), Err(SecretError { bytes: 257 }));
        assert!(Secret::new([1; 256]).is_ok());
    }
}
